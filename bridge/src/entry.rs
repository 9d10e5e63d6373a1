//! Entries: what people and devices say, and how far each has come.

use crate::once::Once;
use crate::stream::{Member, Seq, StreamId};
pub use waypost_proto::{Author, MembershipChange, QuickReply};
use waypost_proto::{DeviceId, Epoch, OpNumber, PersonId};

/// One entry of a stream, as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub seq: Seq,
    /// 128 bits that name it for ever: a hash of who wrote it under which number.
    pub id: [u8; 16],
    /// Who wrote it.
    pub author: Author,
    /// The outbox and number it came from; devices only.
    pub operation: Option<(Epoch, OpNumber)>,
    /// When it was accepted.
    pub accepted: Moment,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// UTC milliseconds, server clock, after which it must not be shown as current.
    pub expires_ms: Option<i64>,
    /// The entry that it answers.
    pub reply_to: Option<Seq>,
    /// The broadcast to which that entry belongs; `None` for one of the same stream.
    pub reply_stream: Option<StreamId>,
    /// The earlier entry of the same stream whose place it takes.
    pub supersedes: Option<Seq>,
    /// The later one that has taken its place, as far as that is on disk; a store adds it when it reads the entry.
    pub superseded_by: Option<Seq>,
    /// Of an urgent one of a device: the number of the newest ordinary operation for the same stream, of the same outbox, that
    /// it overtook and that had not come when it did.
    pub earlier: Option<OpNumber>,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// A message, 1 to 4,096 bytes of UTF-8.
    Text(String),
    /// A template with its slots filled in.
    Reply(QuickReply),
    /// A device has joined the group, or has left it.
    Membership(DeviceId, MembershipChange),
}

/// What a person writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewBody {
    /// A message, 1 to 4,096 bytes of UTF-8.
    Text(String),
    /// A template of the catalogue by its key, with the values of its slots by name.
    Reply {
        /// The template.
        key: String,
        /// Its slots, as a person fills them in.
        slots: Vec<(String, String)>,
    },
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the device's clock, UTC milliseconds; `None` where no device took part.
    pub device_ms: Option<i64>,
    /// By the server's clock, UTC milliseconds.
    pub server_ms: i64,
    /// What to add to the device's clock to get the server's, as it was estimated then, in milliseconds.
    pub offset_ms: Option<i64>,
}

impl Moment {
    /// A moment that only the server saw.
    pub fn server(server_ms: i64) -> Self {
        Self {
            device_ms: None,
            server_ms,
            offset_ms: None,
        }
    }
}

/// What it takes for a person to write an entry.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Who writes.
    pub author: PersonId,
    /// Where.
    pub stream: StreamId,
    /// What.
    pub body: NewBody,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// UTC milliseconds after which it must not be shown as current.
    pub expires_ms: Option<i64>,
    /// The entry of the same stream that it answers.
    pub reply_to: Option<Seq>,
    /// The entry of the office in the same stream whose place it takes.
    pub supersedes: Option<Seq>,
    /// Makes the same request, however often it is sent, one entry.
    pub once: Option<Once>,
}

/// Which entries of a stream to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest ones.
    Newest,
    /// The newest ones before this number.
    Before(u64),
    /// The oldest ones after this number.
    After(u64),
}

/// How far an entry has come towards one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Handed to a connected link.
    Sent,
    /// On the device's disk.
    Delivered,
    /// Read by the driver, or by the first of the office.
    Read,
    /// Answered.
    Acted,
}

/// The receipt ladder of one entry for one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Whose.
    pub member: Member,
    /// On the server's disk.
    pub accepted: Moment,
    /// Handed to a connected link.
    pub sent: Option<Moment>,
    /// On the device's disk.
    pub delivered: Option<Moment>,
    /// Read by the driver, or by the first of the office.
    pub read: Option<Moment>,
    /// Answered.
    pub acted: Option<Moment>,
    /// Its time was over before the member had it.
    pub expired: Option<Moment>,
}

impl Receipt {
    /// The highest rung that was reached, and when; `None` for accepted, and no further. Whoever has come to a rung has
    /// come to those below it.
    pub fn highest(&self) -> (Option<Rung>, Moment) {
        let rungs = [
            (self.acted, Rung::Acted),
            (self.read, Rung::Read),
            (self.delivered, Rung::Delivered),
            (self.sent, Rung::Sent),
        ];
        let reached = rungs
            .into_iter()
            .find_map(|(moment, rung)| Some((Some(rung), moment?)));
        reached.unwrap_or((None, self.accepted))
    }
}
