//! Groups: devices that share a channel.

pub use waypost_proto::GroupId;

use crate::stream::StreamId;
use waypost_proto::DeviceId;

/// The most devices of one group.
pub const GROUP_DEVICES_MAX: usize = 10_000;

/// Devices that share a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number, which is also the last level of its topic.
    pub id: GroupId,
    /// What people call it; 1 to 100 characters.
    pub name: String,
    /// Its channel. Who is a member, and from which entry to which, stands there.
    pub stream: StreamId,
    /// What those who join may read.
    pub history: History,
    /// A deleted group has no members and takes no more; what was said in it stays.
    pub deleted: bool,
}

/// What a member may read of the time before it joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum History {
    /// Nothing.
    #[default]
    SinceJoining,
    /// All of it.
    All,
}

/// What it takes to make a group.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// 1 to 100 characters.
    pub name: String,
    /// Its members, at most [`GROUP_DEVICES_MAX`].
    pub devices: Vec<DeviceId>,
    /// What those who join may read.
    pub history: History,
}

/// What changes about a group; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct GroupPatch {
    /// 1 to 100 characters.
    pub name: Option<String>,
    /// Replaces the members: those who are missing leave, those who are new join.
    pub devices: Option<Vec<DeviceId>>,
    /// What those who join from now on may read.
    pub history: Option<History>,
}

/// A group with its members of this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// The group.
    pub group: Group,
    /// Its members, ascending.
    pub devices: Vec<DeviceId>,
}
