//! The event log: one durable, ordered record of what happened, with a cursor.

use crate::device::DeviceId;
use crate::entry::Moment;
use crate::position::Position;
use crate::stream::{Member, Seq, StreamId};

/// The place of an event in the log: 1, 2, 3, …
pub type EventCursor = u64;

/// Something that happened, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log.
    pub cursor: EventCursor,
    /// Server clock, UTC milliseconds.
    pub at_ms: i64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// An entry is on disk.
    EntryAccepted {
        /// Of this stream.
        stream: StreamId,
        /// With this number.
        seq: Seq,
    },
    /// Entries reached a rung of the ladder for one member.
    EntriesReached {
        /// Which rung: sent, delivered or read.
        rung: crate::entry::Rung,
        /// Of this stream.
        stream: StreamId,
        /// The first.
        first_seq: u64,
        /// The last.
        last_seq: u64,
        /// For this member.
        member: Member,
        /// By both clocks.
        moment: Moment,
    },
    /// An entry was answered.
    EntryActed {
        /// Of this stream.
        stream: StreamId,
        /// The entry that was answered.
        seq: Seq,
        /// Who answered.
        member: Member,
        /// The stream of the answer: the same, or for a broadcast the answerer's direct one.
        answer_stream: StreamId,
        /// The answer.
        answer: Seq,
    },
    /// The time of an entry was over before all had it for whom it was.
    EntryExpired {
        /// Of this stream.
        stream: StreamId,
        /// With this number.
        seq: Seq,
        /// How many members had not received it.
        missed: u32,
    },
    /// The time of operations was over before they reached the server.
    OperationsExpired {
        /// In the outbox of this device.
        device: DeviceId,
        /// The number of the first there.
        first_op: u64,
        /// How many.
        count: u32,
    },
    /// Another entry has taken the place of one.
    EntrySuperseded {
        /// Of this stream.
        stream: StreamId,
        /// The one that counts no more.
        seq: Seq,
        /// The one that counts instead.
        by: Seq,
    },
    /// A device began a session.
    DeviceOnline(DeviceId),
    /// A device's session ended.
    DeviceOffline(DeviceId),
    /// A device was added.
    DeviceEnrolled(DeviceId),
    /// A device was revoked.
    DeviceRevoked(DeviceId),
    /// A device's outbox was cloned or put back: the same number came with other content.
    DeviceForked(DeviceId),
}

/// What whoever watches the present is told.
#[derive(Debug, Clone)]
pub enum LiveEvent {
    /// From the log.
    Logged(std::sync::Arc<Event>),
    /// A device's latest position changed. Not in the log.
    Position(DeviceId, Position),
    /// A sign-in or a key has ended: whoever serves one asks again whether it may go on. Not in the log.
    AccessEnded,
}
