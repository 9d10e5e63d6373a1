//! The audit record: who did what, when, from where, and who was refused.
//!
//! What was done is written in the same batch as its effect. Refusals are counted together by the minute, so that
//! nobody can fill the disk with them.

use crate::device::DeviceId;
use crate::person::PersonId;
use std::net::IpAddr;

/// Who does something, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acting {
    /// Who.
    pub actor: Actor,
    /// From this address; `None` where there is none, as for the server itself.
    pub address: Option<IpAddr>,
}

impl Acting {
    /// The server of its own accord, as when it makes its first administrator.
    pub const SERVER: Self = Self {
        actor: Actor::Server,
        address: None,
    };

    /// The same with all of the network in place of the address.
    pub(crate) fn of_network(self) -> Self {
        Self {
            address: self.address.map(network),
            ..self
        }
    }
}

/// What bounds by address count as one: an IPv4 address, or an IPv6 network of 64 bits, all of which whoever has an
/// address in it has.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// Somebody of whom nothing is known.
    Nobody,
    /// The server itself, or whoever holds its own token.
    Server,
    /// A person.
    Person(PersonId),
    /// An API key.
    Key(PersonId),
    /// A driver's unit.
    Device(DeviceId),
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the record: 1, 2, 3, …
    pub number: u64,
    /// When, server clock, UTC milliseconds; the first time where there were several.
    pub at_ms: i64,
    /// The last time, server clock, UTC milliseconds.
    pub last_ms: i64,
    /// Who.
    pub actor: Actor,
    /// From where. Refusals of an IPv6 network of 64 bits count as one address.
    pub address: Option<IpAddr>,
    /// What, such as `device.added`; of a refusal what was asked for, such as `POST /api/v1/devices`.
    pub action: String,
    /// To what, such as `device/7c`.
    pub subject: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// How often, for refusals that were counted together.
    pub count: u32,
}

/// What became of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, for this reason, such as `not-allowed`.
    Refused(String),
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// What was asked for. From a bounded set: it is not for what somebody sent.
    pub action: String,
    /// Why it was refused, from a bounded set as well.
    pub reason: String,
    /// To what, where that exists.
    pub subject: Option<String>,
}
