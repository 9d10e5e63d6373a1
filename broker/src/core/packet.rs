//! What a client said and what it is told, the same for both protocol versions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Delivery, QoS, Version};
use crate::auth::Retain;
use crate::reason::Reason;

/// A CONNECT, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) will: Option<Will>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Bytes>,
    /// Publishes of QoS 1 that the client takes without acknowledging; 65,535 where it does not say.
    pub(crate) receive_maximum: u16,
    /// The largest packet that the client takes, in bytes; `None` for any.
    pub(crate) packet_bytes_max: Option<u32>,
    /// Topic aliases that the client lets the broker set.
    pub(crate) topic_alias_max: u16,
    /// Seconds that the session is to outlive its connection; zero for not at all, 0xFFFFFFFF for ever.
    pub(crate) session_expiry_s: u32,
    /// Whether reason strings may stand in packets other than CONNACK and DISCONNECT.
    pub(crate) wants_problem_information: bool,
}

/// What is published for a client that goes without a word.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: Retain,
    pub(crate) properties: Bytes,
    pub(crate) lifetime: Option<Duration>,
    /// How long it waits for the client to come back to its session.
    pub(crate) delay: Duration,
}

/// A PUBLISH, its alias resolved.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: Retain,
    /// Zero for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) properties: Bytes,
    pub(crate) lifetime: Option<Duration>,
    /// When that is over; known once the core has seen the packet, and kept where it has to wait for room on a link.
    pub(crate) expires_at: Option<Instant>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone)]
pub(crate) struct Requested {
    pub(crate) filter: String,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retained: SendRetained,
}

/// Whether a subscription asks for the retained messages that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendRetained {
    Always,
    WhenNew,
    Never,
}

/// Anything a client may send after its CONNECT.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Publish(Publish),
    PubAck {
        packet_id: u16,
    },
    PubRec {
        packet_id: u16,
        verdict: Received,
    },
    PubRel {
        packet_id: u16,
    },
    PubComp {
        packet_id: u16,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<Requested>,
        /// Zero where there is none.
        subscription_id: u32,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect {
        with_will: bool,
        /// The expiry that the session is to have from now on, in seconds; `None` leaves it as it is.
        session_expiry_s: Option<u32>,
    },
}

/// What a client says about a message of QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Taken,
    /// With a reason code of 0x80 or more: it is over with this message.
    Refused,
}

/// Anything the broker tells a client.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    ConnAck(ConnAck),
    Publish(Delivery),
    /// `None` where it was taken.
    PubAck {
        packet_id: u16,
        refused: Option<Reason>,
    },
    /// `None` where it was taken.
    PubRec {
        packet_id: u16,
        refused: Option<Reason>,
    },
    PubRel {
        packet_id: u16,
        identifier: Identifier,
    },
    PubComp {
        packet_id: u16,
        identifier: Identifier,
    },
    SubAck {
        packet_id: u16,
        granted: Vec<Result<QoS, Reason>>,
    },
    /// Whether each filter was subscribed.
    UnsubAck {
        packet_id: u16,
        existed: Vec<bool>,
    },
    PingResp,
    Disconnect(Reason),
}

/// Whether a packet identifier is one that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identifier {
    Known,
    Unknown,
}

/// Whether a client finds what it left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionPresent {
    No,
    Yes,
}

/// What an accepted client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: SessionPresent,
    /// The session expiry that holds, in seconds, where it is not the one that was asked for.
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) assigned_client_id: Option<Arc<str>>,
    /// The keep-alive that holds, where it is not the one that was asked for.
    pub(crate) server_keep_alive_s: Option<u16>,
}
