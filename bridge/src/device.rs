//! Devices: a driver's unit, who drives it, and whether it is heard.

use crate::stream::StreamId;
pub use waypost_proto::DeviceId;
use waypost_proto::GroupId;

/// A driver's unit as the office knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id, which is also its MQTT user name.
    pub id: DeviceId,
    /// What the office calls it; 1 to 100 characters.
    pub name: String,
    /// The person it speaks for, where that is known.
    pub driver: Option<Driver>,
    /// Free words for filtering; at most 20 of 1 to 50 characters.
    pub labels: Vec<String>,
    /// SHA-256 of its secret. The secret is 256 random bits, so that a slow hash would add nothing.
    pub secret_hash: [u8; 32],
    /// Its direct stream with the office.
    pub stream: StreamId,
    /// Name and version of its app, as its last hello said.
    pub app: Option<String>,
    /// When anything was last heard of it, server clock, UTC milliseconds; kept to the last hello on disk.
    pub last_seen_ms: Option<i64>,
    /// A revoked device may not connect any more; what it wrote stays.
    pub revoked: bool,
}

/// The person a device speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// 1 to 100 characters.
    pub name: String,
    /// BCP 47 tag of the driver's language, such as "de".
    pub locale: String,
}

/// What it takes to add a device.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// 1 to 100 characters.
    pub name: String,
    /// The person it speaks for.
    pub driver: Option<Driver>,
    /// Free words for filtering.
    pub labels: Vec<String>,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// The groups that it joins.
    pub groups: Vec<GroupId>,
}

/// What changes about a device; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct DevicePatch {
    /// 1 to 100 characters.
    pub name: Option<String>,
    /// `Some(None)` takes the driver off.
    pub driver: Option<Option<Driver>>,
    /// Replaces all labels.
    pub labels: Option<Vec<String>>,
    /// Replaces all memberships: it leaves the groups that are missing, and joins those that are new.
    pub groups: Option<Vec<GroupId>>,
}

/// Whether a device is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not heard since the server started.
    Unknown,
    /// In a session.
    Online {
        /// Server clock, UTC milliseconds.
        since_ms: i64,
    },
    /// Its session ended.
    Offline {
        /// Server clock, UTC milliseconds.
        since_ms: i64,
    },
}

/// A device with what is known of it at this moment.
#[derive(Debug, Clone)]
pub struct DeviceView {
    /// The device.
    pub device: Device,
    /// Whether it is heard.
    pub presence: Presence,
    /// Its latest position.
    pub position: Option<crate::position::Position>,
    /// Its groups, ascending.
    pub groups: Vec<GroupId>,
    /// When anything was last heard of it, server clock, UTC milliseconds.
    pub last_seen_ms: Option<i64>,
}
