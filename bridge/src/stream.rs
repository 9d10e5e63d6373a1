//! Streams: durable, ordered logs, and who may read and write which part of them.

use crate::device::DeviceId;
use waypost_proto::{GroupId, PersonId};
pub use waypost_proto::{Seq, StreamId};

/// A durable, ordered log of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its number.
    pub id: StreamId,
    /// What it is for.
    pub kind: StreamKind,
    /// What people call it.
    pub title: String,
    /// Who takes part, and from which entry to which.
    pub members: Vec<Membership>,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Between one device and the office.
    Direct,
    /// Between the members of a group and the office.
    Group(GroupId),
    /// One message of the office to many; their answers go into their direct streams.
    Broadcast,
}

/// Somebody who takes part in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A driver's unit.
    Device(DeviceId),
    /// One person.
    Person(PersonId),
    /// Every dispatcher; counts as having read when the first of them has.
    Office,
}

/// The interval of entries that a member may read.
///
/// A member who leaves and comes back has two. Whoever has no open interval may not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// Who.
    pub member: Member,
    /// The first entry that it may read.
    pub first_seq: u64,
    /// The last one; `None` while it is a member.
    pub last_seq: Option<u64>,
}

impl Stream {
    /// Whether `member` takes part now.
    pub fn has(&self, member: Member) -> bool {
        self.members
            .iter()
            .any(|m| m.member == member && m.last_seq.is_none())
    }

    /// Whether `member` may read the entry with this number.
    pub fn may_read(&self, member: Member, seq: u64) -> bool {
        self.members
            .iter()
            .any(|m| m.member == member && m.first_seq <= seq && m.last_seq.is_none_or(|last| seq <= last))
    }

    /// The last entry that `member` may read, while the last one of all is `head`; 0 for none. Where a member has left,
    /// what comes later does not even count as skipped: not its number either is the member's to know.
    pub fn readable_head(&self, member: Member, head: u64) -> u64 {
        let intervals = self.members.iter().filter(|m| m.member == member);
        intervals
            .map(|m| m.last_seq.unwrap_or(head))
            .max()
            .unwrap_or(0)
            .min(head)
    }

    /// The first entry from `seq` on that `member` may read; `None` where there is none.
    pub fn first_readable_from(&self, member: Member, seq: u64) -> Option<u64> {
        let intervals = self.members.iter().filter(|m| m.member == member);
        intervals
            .filter(|m| m.last_seq.is_none_or(|last| seq <= last))
            .map(|m| m.first_seq.max(seq))
            .min()
    }

    /// The last stretch of entries up to `seq` that `member` may read: its first and its last one; `None` where there is
    /// none.
    pub fn last_readable_to(&self, member: Member, seq: u64) -> Option<(u64, u64)> {
        let intervals = self.members.iter().filter(|m| m.member == member);
        intervals
            .map(|m| (m.first_seq.max(1), m.last_seq.unwrap_or(seq).min(seq)))
            .filter(|(first, last)| first <= last)
            .max_by_key(|&(_, last)| last)
    }

    /// The devices that take part now.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.members.iter().filter_map(|m| match m.member {
            Member::Device(device) if m.last_seq.is_none() => Some(device),
            _ => None,
        })
    }

    /// Whether `member` may read any entry, past or present.
    pub fn ever_had(&self, member: Member) -> bool {
        self.members.iter().any(|m| m.member == member)
    }
}

/// A stream as one person sees it.
#[derive(Debug, Clone)]
pub struct StreamView {
    /// The stream.
    pub stream: Stream,
    /// The number of its last entry; 0 while there is none.
    pub head: u64,
    /// How many entries of others the person has not read.
    pub unread: u64,
}
