//! `Idempotency-Key`: the same request, however often it is sent, takes effect once.
//!
//! Every POST takes one. What tells a repetition from another request is a digest that is kept on disk, so a password
//! in the body goes into it hashed slowly, or, where it was verified, not at all.

use crate::access::Caller;
use crate::password::Passwords;
use crate::problem::{Problem, ProblemType};
use axum::extract::FromRequestParts;
use axum::http::Method;
use axum::http::request::Parts;
use sha2::{Digest, Sha256};
use waypost_bridge::once::{self, Once};

/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 255;

/// The key of a request, if it has one, and what else tells one request from another.
#[derive(Debug)]
pub(crate) struct IdempotencyKey {
    /// Whose key it is; `None` on a route for anybody.
    caller: Option<once::Caller>,
    key: Option<String>,
    method: Method,
    path: String,
}

impl IdempotencyKey {
    /// What the bridge needs to know the request again; `None` for one without a key.
    pub(crate) fn once(self, body: &[u8]) -> Option<Once> {
        let caller = self.caller?;
        self.of(caller, &[body])
    }

    /// The same for a body of which these are the fields, and one more that is a password. Takes as long as a sign-in.
    pub(crate) async fn once_with_password(
        self,
        fields: &[&str],
        password: &str,
        passwords: &Passwords,
    ) -> Result<Option<Once>, Problem> {
        let (Some(key), Some(caller)) = (&self.key, self.caller) else {
            return Ok(None);
        };
        let digest = passwords.digest(password.to_owned(), key).await?;
        let mut parts: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
        parts.push(&digest);
        Ok(self.of(caller, &parts))
    }

    /// The same for a request whose caller is known by another way than a token.
    pub(crate) fn of(self, caller: once::Caller, parts: &[&[u8]]) -> Option<Once> {
        // Neither a method nor a path has a NUL in it.
        let digest = Sha256::new()
            .chain_update(self.method.as_str())
            .chain_update([0])
            .chain_update(&self.path)
            .chain_update([0]);
        let digest = match parts {
            [body] => digest.chain_update(body),
            parts => parts.iter().fold(digest, |digest, part| {
                digest.chain_update(part.len().to_be_bytes()).chain_update(part)
            }),
        };
        self.key.map(|key| Once {
            caller,
            key,
            digest: digest.finalize().into(),
        })
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong = || {
            let detail =
                format!("Idempotency-Key must be 1 to {KEY_CHARS_MAX} visible ASCII characters, given once.");
            Problem::new(ProblemType::Malformed, detail)
        };
        let mut given = parts.headers.get_all("idempotency-key").iter();
        let key = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(key), None) => {
                let visible = key.as_bytes().iter().all(u8::is_ascii_graphic);
                let fits = (1..=KEY_CHARS_MAX).contains(&key.len());
                let text = key.to_str().ok().filter(|_| visible && fits);
                Some(text.ok_or_else(wrong)?.to_owned())
            }
            (Some(_), Some(_)) => return Err(wrong()),
        };
        Ok(Self {
            caller: parts.extensions.get::<Caller>().map(Into::into),
            key,
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
        })
    }
}
