//! An application message as the broker holds it: once, shared by everybody that it waits for.
//!
//! The properties of MQTT 5 that travel unaltered are kept as the bytes that they will be on the wire; what differs for
//! each receiver (packet id, alias, remaining lifetime, subscription identifiers) is written around them.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// 0: sent once, without an answer.
    AtMostOnce,
    /// 1: acknowledged with PUBACK.
    AtLeastOnce,
    /// 2: acknowledged with PUBREC, released with PUBREL, completed with PUBCOMP.
    ExactlyOnce,
}

/// The protocol version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// One published message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    /// Client id of the publisher, or the name of its link.
    pub(crate) from: Arc<str>,
    /// The properties that are forwarded as they came, encoded, without their length.
    pub(crate) properties: Bytes,
    pub(crate) expires_at: Option<Instant>,
    /// When it was routed.
    pub(crate) taken_at: Instant,
}

impl Message {
    /// What the message counts against a bound in bytes: its parts, and 64 for what surrounds them.
    pub(crate) fn cost(&self) -> usize {
        64 + self.topic.len() + self.payload.len() + self.properties.len()
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// One message on its way to one receiver.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    /// The RETAIN flag that this receiver sees.
    pub(crate) retain: bool,
    /// The DUP flag: it was sent on an earlier connection of the session.
    pub(crate) dup: bool,
    /// Zero until it has a place in the in-flight window, and always for QoS 0.
    pub(crate) packet_id: u16,
    /// The identifiers of all of the receiver's subscriptions that matched [MQTT-3.3.4-3].
    pub(crate) subscription_ids: Option<Box<[u32]>>,
    /// The `$share/group/filter` that it came by: where the receiver goes without having taken it, it is for another member.
    pub(crate) share: Option<Arc<str>>,
}

impl Delivery {
    /// The largest that the PUBLISH packet can be, whatever its alias and lifetime.
    pub(crate) fn size_at_most(&self, version: Version) -> usize {
        let around = match version {
            Version::V311 => 9,
            Version::V5 => 9 + 4 + 5 + 3 + 5 * self.subscription_ids.as_ref().map_or(0, |ids| ids.len()),
        };
        around + self.message.topic.len() + self.message.properties.len() + self.message.payload.len()
    }

    /// Appends the PUBLISH packet. With an alias, `topic` is what stands in the topic field: empty once it is known.
    pub(crate) fn write(&self, out: &mut BytesMut, version: Version, alias: Option<Alias>, now: Instant) {
        let message = &self.message;
        let topic: &str = match alias {
            Some(Alias::Known(_)) => "",
            _ => &message.topic,
        };
        let with_id = self.qos != QoS::AtMostOnce;
        let mut remaining = 2 + topic.len() + if with_id { 2 } else { 0 } + message.payload.len();
        let mut properties = 0;
        let expiry = message.expires_at.map(|at| seconds_left(at, now));
        let ids = self.subscription_ids.as_deref().unwrap_or_default();
        if version == Version::V5 {
            properties = message.properties.len()
                + if alias.is_some() { 3 } else { 0 }
                + if expiry.is_some() { 5 } else { 0 }
                + ids.iter().map(|id| 1 + varint_len(*id as usize)).sum::<usize>();
            remaining += varint_len(properties) + properties;
        }
        let qos = match self.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => 0b010,
            QoS::ExactlyOnce => 0b100,
        };
        // [MQTT-3.3.1-1] DUP is set when it is sent again, [MQTT-3.3.1-3] whatever it was when it came in.
        let dup = if self.dup { 0b1000 } else { 0 };
        out.put_u8(0x30 | dup | qos | u8::from(self.retain));
        put_varint(out, remaining);
        put_str(out, topic.as_bytes());
        if with_id {
            out.put_u16(self.packet_id);
        }
        if version == Version::V5 {
            put_varint(out, properties);
            if let Some(Alias::Known(alias) | Alias::New(alias)) = alias {
                out.put_u8(property::TOPIC_ALIAS);
                out.put_u16(alias);
            }
            if let Some(seconds) = expiry {
                out.put_u8(property::MESSAGE_EXPIRY);
                out.put_u32(seconds);
            }
            out.put_slice(&message.properties);
            for id in ids {
                out.put_u8(property::SUBSCRIPTION_IDENTIFIER);
                put_varint(out, *id as usize);
            }
        }
        out.put_slice(&message.payload);
    }
}

/// A topic alias towards a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// Sent together with the topic, to establish it.
    New(u16),
    /// Sent instead of the topic.
    Known(u16),
}

/// [MQTT-3.3.2-6] the lifetime that is left when it is sent; rounded up, so that a live message never says 0.
fn seconds_left(at: Instant, now: Instant) -> u32 {
    let left = at.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Bytes of a variable byte integer.
pub(crate) fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends a variable byte integer.
pub(crate) fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends bytes behind their length of two bytes; what comes from a packet never exceeds it.
pub(crate) fn put_str(out: &mut BytesMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("strings of a packet have a length of two bytes");
    out.put_u16(len);
    out.put_slice(bytes);
}

/// Identifiers of properties [MQTT 5, 2.2.2.2].
pub(crate) mod property {
    pub(crate) const PAYLOAD_FORMAT: u8 = 1;
    pub(crate) const MESSAGE_EXPIRY: u8 = 2;
    pub(crate) const CONTENT_TYPE: u8 = 3;
    pub(crate) const RESPONSE_TOPIC: u8 = 8;
    pub(crate) const CORRELATION_DATA: u8 = 9;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 11;
    pub(crate) const SESSION_EXPIRY: u8 = 17;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 21;
    pub(crate) const AUTHENTICATION_DATA: u8 = 22;
    pub(crate) const REQUEST_PROBLEM: u8 = 23;
    pub(crate) const WILL_DELAY: u8 = 24;
    pub(crate) const REQUEST_RESPONSE: u8 = 25;
    pub(crate) const REASON_STRING: u8 = 31;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 33;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub(crate) const TOPIC_ALIAS: u8 = 35;
    pub(crate) const USER_PROPERTY: u8 = 38;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 39;
}
