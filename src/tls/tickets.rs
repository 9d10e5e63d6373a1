//! Session tickets, by keys that outlive the process: who comes back after a restart of the server needs no full handshake.
//!
//! The server keeps nothing of a session; the ticket is the session, sealed. It says who a client certificate was for, so the
//! one who resumes is who shook hands, and it is bound to the authority that vouched for client certificates: with another
//! authority every ticket is worth nothing. Keys are used for one lifetime and taken for one more; `tls/tickets` holds both.

use crate::data_folder::write_private;
use anyhow::Context;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use std::fmt;
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

const FILE: &str = "tickets";
const SECRET_BYTES: usize = 32;
/// A longer ticket was not made here: 64 KiB is what a ticket can have on the wire.
const TICKET_BYTES_MAX: usize = 65_535;

/// Seals and opens tickets.
pub(super) struct Tickets {
    path: PathBuf,
    lifetime: Duration,
    state: RwLock<State>,
}

struct State {
    current: Key,
    previous: Option<Key>,
    /// What tickets are bound to beside their key.
    authority: [u8; 32],
}

struct Key {
    made_at_s: u64,
    secret: [u8; SECRET_BYTES],
    sealing: LessSafeKey,
}

impl Tickets {
    /// The keys in the folder; new ones where there are none, or none that can be read. `lifetime` is at most seven days.
    pub(super) fn open(folder: &Path, lifetime: Duration, now_s: u64) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => match parse(&text) {
                Some(keys) => Some(keys),
                None => {
                    tracing::warn!(
                        "the keys of TLS sessions in {} cannot be read, so new ones are made; every device shakes hands in \
                         full once",
                        path.display()
                    );
                    None
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
        };
        let (current, previous) = match kept {
            Some(keys) => keys,
            None => {
                let key = Key::draw(now_s)?;
                write_private(&path, line(&key).as_bytes())?;
                (key, None)
            }
        };
        let tickets = Self {
            path,
            lifetime,
            state: RwLock::new(State {
                current,
                previous,
                authority: [0; 32],
            }),
        };
        tickets.rotate(now_s)?;
        Ok(tickets)
    }

    /// Changes the key where its lifetime is over. The new one is on disk before it is used.
    pub(super) fn rotate(&self, now_s: u64) -> anyhow::Result<()> {
        let lifetime_s = self.lifetime.as_secs();
        let (made_at_s, secret) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.current.made_at_s, state.current.secret)
        };
        // The distance, so that a clock that was set back does not keep a key for ever.
        let age_s = now_s.abs_diff(made_at_s);
        if age_s < lifetime_s {
            return Ok(());
        }
        let current = Key::draw(now_s)?;
        let previous = (age_s < 2 * lifetime_s)
            .then(|| Key::new(made_at_s, secret))
            .flatten();
        let mut text = line(&current);
        if let Some(previous) = &previous {
            text.push_str(&line(previous));
        }
        write_private(&self.path, text.as_bytes())?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.current = current;
        state.previous = previous;
        Ok(())
    }

    /// From now on a ticket counts only where it was sealed under this authority.
    pub(super) fn bind(&self, authority: [u8; 32]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.authority = authority;
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    /// Twelve bytes of nonce, what was sealed, sixteen of its tag: a ticket is 28 bytes more than the session.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut sealed = plain.to_vec();
        let tag = state
            .current
            .sealing
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(state.authority),
                &mut sealed,
            )
            .ok()?;
        let mut ticket = Vec::with_capacity(NONCE_LEN + sealed.len() + tag.as_ref().len());
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&sealed);
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        [Some(&state.current), state.previous.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|key| {
                let mut session = sealed.to_vec();
                let length = key
                    .sealing
                    .open_in_place(
                        Nonce::assume_unique_for_key(*nonce),
                        Aad::from(state.authority),
                        &mut session,
                    )
                    .ok()?
                    .len();
                session.truncate(length);
                Some(session)
            })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Key {
    fn draw(now_s: u64) -> anyhow::Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).context("the system has no random numbers")?;
        Self::new(now_s, secret).context("a key of TLS sessions cannot be made")
    }

    fn new(made_at_s: u64, secret: [u8; SECRET_BYTES]) -> Option<Self> {
        let sealing = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &secret).ok()?);
        Some(Self {
            made_at_s,
            secret,
            sealing,
        })
    }
}

/// When it was made, in seconds since 1970, and its secret in hexadecimal digits.
fn line(key: &Key) -> String {
    let mut text = format!("{} ", key.made_at_s);
    for byte in key.secret {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    text
}

/// The current key and the previous one, as [`line`] wrote them.
fn parse(text: &str) -> Option<(Key, Option<Key>)> {
    let mut keys = text.lines().map(|line| {
        let (made_at_s, secret) = line.split_once(' ')?;
        let digits: &[u8; 2 * SECRET_BYTES] = secret.as_bytes().try_into().ok()?;
        let mut bits = [0; SECRET_BYTES];
        for (bits, pair) in bits.iter_mut().zip(digits.chunks(2)) {
            *bits = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Key::new(made_at_s.parse().ok()?, bits)
    });
    let current = keys.next()??;
    let previous = match keys.next() {
        Some(previous) => Some(previous?),
        None => None,
    };
    keys.next().is_none().then_some((current, previous))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LIFETIME: Duration = Duration::from_secs(100);
    const SESSION: &[u8] = b"a session";

    fn open(folder: &Path, now_s: u64) -> Tickets {
        Tickets::open(folder, LIFETIME, now_s).unwrap()
    }

    #[test]
    fn a_ticket_outlives_the_process_and_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let ticket = open(folder.path(), 1_000).encrypt(SESSION).unwrap();
        assert_eq!(ticket.len(), SESSION.len() + 28);
        assert_eq!(open(folder.path(), 1_050).decrypt(&ticket).unwrap(), SESSION);
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_ticket_is_good_for_a_lifetime_and_at_most_two() {
        for restarted in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut tickets = open(folder.path(), 1_000);
            let ticket = tickets.encrypt(SESSION).unwrap();
            let mut good_at = |now_s| {
                if restarted {
                    tickets = open(folder.path(), now_s);
                } else {
                    tickets.rotate(now_s).unwrap();
                }
                tickets.decrypt(&ticket).is_some()
            };
            assert!(good_at(1_099));
            // Sealed with the previous key from here on.
            assert!(good_at(1_100));
            assert!(good_at(1_199));
            assert!(!good_at(1_200));
        }
        // A server that was down for that long.
        let folder = tempfile::tempdir().unwrap();
        let ticket = open(folder.path(), 1_000).encrypt(SESSION).unwrap();
        assert!(open(folder.path(), 1_200).decrypt(&ticket).is_none());
        // A clock that was far ahead when the key was made.
        let folder = tempfile::tempdir().unwrap();
        let ticket = open(folder.path(), 1_000_000).encrypt(SESSION).unwrap();
        assert!(open(folder.path(), 1_000).decrypt(&ticket).is_none());
    }

    #[test]
    fn a_ticket_counts_under_the_authority_that_it_was_sealed_under() {
        let folder = tempfile::tempdir().unwrap();
        let tickets = open(folder.path(), 1_000);
        tickets.bind([1; 32]);
        let ticket = tickets.encrypt(SESSION).unwrap();
        assert!(tickets.decrypt(&ticket).is_some());
        tickets.bind([2; 32]);
        assert!(tickets.decrypt(&ticket).is_none());
    }

    #[test]
    fn what_was_not_sealed_here_is_no_ticket() {
        let folder = tempfile::tempdir().unwrap();
        let tickets = open(folder.path(), 1_000);
        let ticket = tickets.encrypt(SESSION).unwrap();
        for length in 0..ticket.len() {
            assert!(tickets.decrypt(&ticket[..length]).is_none(), "{length}");
        }
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert!(tickets.decrypt(&changed).is_none(), "{place}");
        }
        assert!(tickets.decrypt(&vec![0; TICKET_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn keys_that_cannot_be_read_are_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let ticket = open(folder.path(), 1_000).encrypt(SESSION).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        for text in [
            "",
            "x",
            &whole[..whole.len() - 2],
            &whole.repeat(3),
            &whole.replace(' ', " é"),
        ] {
            fs::write(&path, text).unwrap();
            let tickets = open(folder.path(), 1_000);
            assert!(tickets.decrypt(&ticket).is_none(), "{text}");
            let new = tickets.encrypt(SESSION).unwrap();
            assert!(open(folder.path(), 1_000).decrypt(&new).is_some(), "{text}");
        }
    }
}
