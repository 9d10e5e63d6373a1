//! Broadcasts: one message to many, and who has not answered it.

use crate::device::DeviceId;
use crate::entry::{Entry, NewBody, Rung};
use crate::group::GroupId;
use crate::stream::StreamId;
use waypost_proto::PersonId;

/// The most recipients of one broadcast.
pub const RECIPIENTS_MAX: usize = 10_000;

/// A message to many. Its recipients are fixed when it is accepted: they are the members of its stream, whose one entry
/// it is. Their answers go into their own direct streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Its stream, which names it.
    pub stream: StreamId,
    /// The devices that were named.
    pub devices: Vec<DeviceId>,
    /// The groups that were named.
    pub groups: Vec<GroupId>,
}

/// What it takes to send a broadcast.
#[derive(Debug, Clone)]
pub struct NewBroadcast {
    /// Who writes.
    pub author: PersonId,
    /// To these devices.
    pub devices: Vec<DeviceId>,
    /// And to the members of these groups.
    pub groups: Vec<GroupId>,
    /// What it says.
    pub body: NewBody,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// UTC milliseconds after which it must not be shown as current.
    pub expires_ms: Option<i64>,
}

/// How many recipients have come how far; each rung counts those above it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All of them.
    pub recipients: usize,
    /// It was handed to their link.
    pub sent: usize,
    /// It is on their device's disk.
    pub delivered: usize,
    /// They have read it.
    pub read: usize,
    /// They have answered it.
    pub acted: usize,
}

impl Counts {
    /// One more recipient, who has come to this rung; `None` for accepted, and no further.
    pub(crate) fn count(&mut self, highest: Option<Rung>) {
        let reached = |rung| usize::from(highest >= Some(rung));
        self.recipients += 1;
        self.sent += reached(Rung::Sent);
        self.delivered += reached(Rung::Delivered);
        self.read += reached(Rung::Read);
        self.acted += reached(Rung::Acted);
    }
}

/// A recipient who has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    /// Who.
    pub device: DeviceId,
    /// How far it has come; `None` for accepted, and no further.
    pub rung: Option<Rung>,
    /// Since when, server clock, UTC milliseconds.
    pub since_ms: i64,
}

/// A broadcast as it stands now.
#[derive(Debug, Clone)]
pub struct BroadcastView {
    /// Which.
    pub broadcast: Broadcast,
    /// What it says.
    pub entry: Entry,
    /// How many have come how far.
    pub counts: Counts,
}
