//! Idempotency: the same request, however often it is sent, takes effect once.
//!
//! What a key made is written in the same batch as the effect, and is found for [`REMEMBERED_MS`]. A refusal is not
//! remembered: it had no effect.

use crate::device::DeviceId;
use crate::group::GroupId;
use crate::person::PersonId;
use crate::stream::{Seq, StreamId};

/// How long a key is remembered: 30 days, in milliseconds. Then it may be used for another request.
pub const REMEMBERED_MS: i64 = 30 * 24 * 3_600_000;

/// Whose keys these are: each caller has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// Whoever holds the server's own token.
    Server,
    /// A person, or an API key, which shares their numbers.
    Named(PersonId),
}

/// The key under which a request takes effect once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Whose key it is.
    pub caller: Caller,
    /// 1 to 255 bytes; unique for each caller.
    pub key: String,
    /// SHA-256 of the request, to tell a repetition from another request under the same key. Where the request holds
    /// a password it is hashed slowly before it goes in here.
    pub digest: [u8; 32],
}

/// What a request made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// An entry.
    Entry {
        /// Its stream.
        stream: StreamId,
        /// Its number.
        seq: Seq,
    },
    /// A device.
    Device(DeviceId),
    /// New credentials of a device.
    Credentials(DeviceId),
    /// A person.
    Person(PersonId),
    /// An API key.
    Key(PersonId),
    /// A sign-in of this person.
    Session(PersonId),
    /// A group.
    Group(GroupId),
    /// A broadcast.
    Broadcast(StreamId),
}

/// Whether a request took effect now or had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// Now.
    New,
    /// Before, under the same key.
    Again,
}

/// What an idempotency key made, as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// What it made.
    pub made: Made,
    /// When, server clock, UTC milliseconds.
    pub at_ms: i64,
}

impl Posted {
    /// What the request made before, if this record still counts and is of the same request.
    ///
    /// # Errors
    /// [`AnotherRequest`].
    pub(crate) fn answers(&self, once: &Once, now_ms: i64) -> Result<Option<Made>, AnotherRequest> {
        if now_ms.saturating_sub(self.at_ms) >= REMEMBERED_MS {
            return Ok(None);
        }
        if self.digest == once.digest {
            Ok(Some(self.made))
        } else {
            Err(AnotherRequest)
        }
    }
}

/// The key was used for another request.
#[derive(Debug)]
pub(crate) struct AnotherRequest;

impl From<AnotherRequest> for crate::BridgeError {
    fn from(_: AnotherRequest) -> Self {
        Self::KeyReused
    }
}
