//! Passwords: hashed with argon2id, verified off the reactor, a bounded number at a time.

use crate::problem::{FieldProblem, Problem, ProblemType};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use std::sync::Arc;
use tokio::sync::{Semaphore, TryAcquireError};

/// The fewest characters of a password.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// The most characters of a password.
pub const PASSWORD_CHARS_MAX: usize = 200;

/// How many passwords are verified at once; each takes 19 MiB and a core for some 20 ms.
const VERIFICATIONS_MAX: usize = 4;
/// How many more may wait for their turn; a further one is asked to come back.
const WAITING_MAX: usize = 32;

/// Why a password cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Fewer than [`PASSWORD_CHARS_MIN`] characters.
    #[error("a password has at least {PASSWORD_CHARS_MIN} characters")]
    TooShort,
    /// More than [`PASSWORD_CHARS_MAX`] characters.
    #[error("a password has at most {PASSWORD_CHARS_MAX} characters")]
    TooLong,
    /// The system has no random numbers or no memory to spare.
    #[error("the password could not be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

/// The hash of a password as a PHC string, such as [`waypost_bridge::person::NewPerson`] takes. Slow by intent:
/// call it off the reactor.
///
/// # Errors
/// [`PasswordError`].
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    match password.chars().count() {
        ..PASSWORD_CHARS_MIN => Err(PasswordError::TooShort),
        PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX => {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(PasswordError::Hash)
        }
        _ => Err(PasswordError::TooLong),
    }
}

/// Verifies passwords.
pub(crate) struct Passwords {
    /// What is verified for an address that nobody has, so that the answer takes as long.
    nobodys_hash: String,
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// Too many people are signing in at this moment.
#[derive(Debug)]
pub(crate) struct Busy;

impl Passwords {
    pub(crate) fn new() -> Result<Self, PasswordError> {
        let secret = crate::secret::Secret::draw();
        Ok(Self {
            nobodys_hash: hash_password(secret.text())?,
            waiting: Arc::new(Semaphore::new(VERIFICATIONS_MAX + WAITING_MAX)),
            running: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
        })
    }

    /// Whether `password` is the one of `hash`; never for `None`, which takes as long.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Busy> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys_hash.clone());
        let right = self.in_turn(move || matches(&password, &hash)).await?;
        Ok(right && known)
    }

    /// The hash of a new password.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        let hashed = self.in_turn(move || hash_password(&password)).await?;
        hashed.map_err(|error| match error {
            PasswordError::TooShort | PasswordError::TooLong => Problem::fields(vec![FieldProblem {
                pointer: "/password".to_owned(),
                detail: error.to_string(),
            }]),
            PasswordError::Hash(error) => not_hashed(&error),
        })
    }

    /// What a password is known again by where it must not be kept: hashed as slowly, with `salt` to tell the places
    /// apart.
    pub(crate) async fn digest(&self, password: String, salt: &str) -> Result<[u8; 32], Problem> {
        let salt = crate::secret::sha256(salt.as_bytes());
        let hashed = self.in_turn(move || {
            let mut digest = [0; 32];
            Argon2::default()
                .hash_password_into(password.as_bytes(), &salt, &mut digest)
                .map(|()| digest)
        });
        hashed.await?.map_err(|error| not_hashed(&error))
    }

    async fn in_turn<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Busy> {
        let place = match self.waiting.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return Err(Busy),
        };
        let turn = self.running.clone().acquire_owned().await.map_err(|_| Busy)?;
        // The permits go along: the work goes on when the client has gone, and counts until it ends.
        let done = tokio::task::spawn_blocking(move || {
            let _counted = (place, turn);
            work()
        });
        Ok(done
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
    }
}

impl From<Busy> for Problem {
    fn from(_: Busy) -> Self {
        Self::busy(
            "Too many people are signing in at this moment. Try again in a few seconds.",
            3,
        )
    }
}

fn not_hashed(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "a password could not be hashed: {error}");
    Problem::new(
        ProblemType::Internal,
        "The password could not be hashed. The server's log says why.",
    )
}

fn matches(password: &str, hash: &str) -> bool {
    match PasswordHash::new(hash) {
        Ok(hash) => Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok(),
        Err(_) => {
            tracing::error!("a person's stored password hash cannot be read; give the person a new password");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_10_to_200_characters() {
        for (password, acceptable) in [
            ("123456789", false),
            ("1234567890", true),
            // Characters, not bytes.
            ("ääääääääää", true),
            ("äääääääää", false),
        ] {
            assert_eq!(hash_password(password).is_ok(), acceptable, "{password}");
        }
        assert!(hash_password(&"x".repeat(200)).is_ok());
        assert!(matches!(
            hash_password(&"x".repeat(201)),
            Err(PasswordError::TooLong)
        ));
    }

    #[tokio::test]
    async fn only_the_right_password_of_somebody_is_right() {
        let passwords = Passwords::new().unwrap();
        let hash = hash_password("correct horse").unwrap();
        for (password, hash, right) in [
            ("correct horse", Some(hash.clone()), true),
            ("correct horsf", Some(hash.clone()), false),
            ("", Some(hash), false),
            ("correct horse", None, false),
            ("correct horse", Some("not a hash".to_owned()), false),
        ] {
            assert_eq!(
                passwords.verify(password.to_owned(), hash.clone()).await.unwrap(),
                right,
                "{password} {hash:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_queue_of_sign_ins_is_bounded() {
        let passwords = Passwords::new().unwrap();
        let _all = passwords.waiting.clone().try_acquire_many_owned(36).unwrap();
        assert!(passwords.verify("correct horse".to_owned(), None).await.is_err());
    }
}
