//! From what the broker tells a client to the bytes of one connection.
//!
//! Runs on the connection's own task, outside the broker's lock. It keeps what belongs to this direction of one
//! connection: the version, and the aliases that the client let the broker set.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use rumqttc::v5::mqttbytes::v5;

use super::message::{Alias, Delivery, QoS, Version, property, put_str, put_varint, varint_len};
use super::packet::{ConnAck, Connect, Identifier, Output, SessionPresent};
use crate::limits::Limits;
use crate::reason::Reason;

/// Topics this short are not worth an alias: the property that carries it has three bytes.
const ALIAS_WORTHWHILE_BYTES: usize = 4;
/// A CONNACK of version 5 without properties.
const REFUSAL_BYTES: usize = 5;

/// Writes the packets of one connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    version: Version,
    alias_max: usize,
    /// Index is the alias less one. The first topics keep their places: what a client hears most, it hears early.
    aliases: Vec<Arc<str>>,
    packet_bytes_max: u32,
    receive_maximum: u16,
    topic_alias_max: u16,
    /// The largest packet that the client takes.
    client_bytes_max: usize,
    /// Whether reason strings may stand in packets other than CONNACK and DISCONNECT [MQTT-3.1.2-29].
    wants_problem_information: bool,
}

/// What a CONNECT says of how the client wants to be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) version: Version,
    pub(crate) topic_alias_max: u16,
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) problem_information: bool,
}

impl Wanted {
    pub(crate) fn by(connect: &Connect) -> Wanted {
        Wanted {
            version: connect.version,
            topic_alias_max: connect.topic_alias_max,
            packet_bytes_max: connect.packet_bytes_max,
            problem_information: connect.wants_problem_information,
        }
    }
}

impl Encoder {
    /// Writes as the client wants it.
    pub(crate) fn new(wanted: Wanted, limits: &Limits) -> Encoder {
        Encoder {
            version: wanted.version,
            alias_max: usize::from(wanted.topic_alias_max.min(limits.topic_alias_out_max)),
            aliases: Vec::new(),
            packet_bytes_max: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
            receive_maximum: limits.receive_maximum,
            topic_alias_max: limits.topic_alias_max,
            client_bytes_max: wanted.packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
            wants_problem_information: wanted.problem_information,
        }
    }

    /// Appends one packet, or nothing where this version has none for it.
    pub(crate) fn write(&mut self, output: &Output, now: Instant, out: &mut BytesMut) {
        match output {
            Output::Publish(delivery) => {
                let alias = self.alias_for(delivery);
                delivery.write(out, self.version, alias, now);
            }
            Output::ConnAck(connack) => self.connack(connack, out),
            Output::PubAck { packet_id, refused } => self.acknowledge(0x40, *packet_id, *refused, out),
            Output::PubRec { packet_id, refused } => self.acknowledge(0x50, *packet_id, *refused, out),
            Output::PubRel {
                packet_id,
                identifier,
            } => self.release(0x62, *packet_id, *identifier, out),
            Output::PubComp {
                packet_id,
                identifier,
            } => self.release(0x70, *packet_id, *identifier, out),
            Output::SubAck { packet_id, granted } => self.suback(*packet_id, granted, out),
            Output::UnsubAck { packet_id, existed } => self.unsuback(*packet_id, existed, out),
            Output::PingResp => out.put_slice(&[0xD0, 0]),
            // [MQTT-3.14.0-1] 3.1.1 has no DISCONNECT from the server.
            Output::Disconnect(reason) => {
                if self.version == Version::V5 {
                    // With properties even where they are empty: rumqttc does not read the shorter form.
                    write_reason(0xE0, &[reason.codes().v5], *reason, self.client_bytes_max, out);
                }
            }
        }
    }

    fn alias_for(&mut self, delivery: &Delivery) -> Option<Alias> {
        let topic = &delivery.message.topic;
        if self.alias_max == 0 || topic.len() < ALIAS_WORTHWHILE_BYTES {
            return None;
        }
        let number = |index: usize| u16::try_from(index + 1).expect("no more aliases than the client allows");
        if let Some(index) = self.aliases.iter().position(|known| known == topic) {
            return Some(Alias::Known(number(index)));
        }
        if self.aliases.len() >= self.alias_max {
            return None;
        }
        self.aliases.push(topic.clone());
        Some(Alias::New(number(self.aliases.len() - 1)))
    }

    fn connack(&self, connack: &ConnAck, out: &mut BytesMut) {
        match self.version {
            Version::V311 => {
                let present = u8::from(connack.session_present == SessionPresent::Yes);
                out.put_slice(&[0x20, 2, present, 0]);
            }
            Version::V5 => {
                let properties = v5::ConnAckProperties {
                    session_expiry_interval: connack.session_expiry_s,
                    receive_max: Some(self.receive_maximum),
                    max_packet_size: Some(self.packet_bytes_max),
                    assigned_client_identifier: connack.assigned_client_id.as_deref().map(str::to_string),
                    topic_alias_max: Some(self.topic_alias_max),
                    server_keep_alive: connack.server_keep_alive_s,
                    ..no_properties()
                };
                let connack = v5::ConnAck {
                    // [MQTT-3.2.2-2], [MQTT-3.2.2-3]
                    session_present: connack.session_present == SessionPresent::Yes,
                    code: v5::ConnectReturnCode::Success,
                    properties: Some(properties),
                };
                connack
                    .write(out)
                    .expect("a CONNACK is far below the largest packet");
            }
        }
    }

    /// PUBACK or PUBREC.
    fn acknowledge(&self, first: u8, packet_id: u16, refused: Option<Reason>, out: &mut BytesMut) {
        let [high, low] = packet_id.to_be_bytes();
        match refused {
            Some(reason) if self.version == Version::V5 && self.wants_problem_information => {
                let fields = [high, low, reason.codes().v5];
                write_reason(first, &fields, reason, self.client_bytes_max, out);
            }
            Some(reason) if self.version == Version::V5 => {
                out.put_slice(&[first, 3, high, low, reason.codes().v5]);
            }
            _ => out.put_slice(&[first, 2, high, low]),
        }
    }

    /// PUBREL or PUBCOMP; 3.1.1 has no code for an identifier that is not in use.
    fn release(&self, first: u8, packet_id: u16, identifier: Identifier, out: &mut BytesMut) {
        let [high, low] = packet_id.to_be_bytes();
        match (identifier, self.version) {
            (Identifier::Unknown, Version::V5) => out.put_slice(&[first, 3, high, low, 0x92]),
            _ => out.put_slice(&[first, 2, high, low]),
        }
    }

    /// [MQTT-3.8.4-5], [MQTT-3.9.3-1] one code for each filter, in their order. The reason string says why the first one of
    /// those was refused that were.
    fn suback(&self, packet_id: u16, granted: &[Result<QoS, Reason>], out: &mut BytesMut) {
        let codes: Vec<u8> = granted
            .iter()
            .map(|code| match (code, self.version) {
                (Ok(QoS::AtMostOnce), _) => 0,
                (Ok(QoS::AtLeastOnce), _) => 1,
                (Ok(QoS::ExactlyOnce), _) => 2,
                (Err(reason), Version::V5) => reason.codes().v5,
                (Err(_), Version::V311) => 0x80,
            })
            .collect();
        let mut properties = BytesMut::from(self.empty_properties());
        let refused = granted.iter().find_map(|code| code.err());
        if let Some(reason) =
            refused.filter(|_| self.version == Version::V5 && self.wants_problem_information)
        {
            let text = reason.text();
            // [MQTT-3.9.2-1] not where it makes the packet larger than the client takes.
            if 1 + 4 + 2 + 4 + 3 + text.len() + codes.len() <= self.client_bytes_max {
                properties.clear();
                put_varint(&mut properties, 3 + text.len());
                properties.put_u8(property::REASON_STRING);
                put_str(&mut properties, text.as_bytes());
            }
        }
        out.put_u8(0x90);
        put_varint(out, 2 + properties.len() + codes.len());
        out.put_u16(packet_id);
        out.put_slice(&properties);
        out.put_slice(&codes);
    }

    fn unsuback(&self, packet_id: u16, existed: &[bool], out: &mut BytesMut) {
        let codes: &[bool] = if self.version == Version::V5 { existed } else { &[] };
        out.put_u8(0xB0);
        put_varint(out, 2 + self.empty_properties().len() + codes.len());
        out.put_u16(packet_id);
        out.put_slice(self.empty_properties());
        out.extend(codes.iter().map(|existed| if *existed { 0x00 } else { 0x11 }));
    }

    /// The section of properties that a packet of version 5 has even when it is empty.
    fn empty_properties(&self) -> &'static [u8] {
        if self.version == Version::V5 { &[0] } else { &[] }
    }
}

/// How many bytes the CONNACK has that lets a client of version 5 in. Known before it is let in: where that is more than it takes
/// there is nothing that it could be told [MQTT-3.1.2-24].
pub(crate) fn connack_bytes(connack: &ConnAck) -> usize {
    // Receive maximum, maximum packet size and topic alias maximum, which it always has.
    let always = 3 + 5 + 3;
    let properties = always
        + connack.session_expiry_s.map_or(0, |_| 5)
        + connack.assigned_client_id.as_ref().map_or(0, |id| 3 + id.len())
        + connack.server_keep_alive_s.map_or(0, |_| 3);
    let remaining = 2 + varint_len(properties) + properties;
    1 + varint_len(remaining) + remaining
}

/// How many bytes a SUBACK or UNSUBACK of version 5 has at least, for so many filters.
pub(crate) fn suback_bytes(filters: usize) -> usize {
    let remaining = 2 + 1 + filters;
    1 + varint_len(remaining) + remaining
}

/// The CONNACK that turns a client down, within the largest packet that it takes; empty where it takes none, or where 3.1.1 has no
/// code for it, and the connection is just closed.
pub(crate) fn refusal(version: Version, reason: Reason, packet_bytes_max: Option<u32>) -> BytesMut {
    let bytes_max = packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
    let mut out = BytesMut::new();
    match (version, reason.codes().v4_connack) {
        (Version::V5, _) if bytes_max < REFUSAL_BYTES => {}
        // [MQTT-3.2.2-6] a refusal never claims a session.
        (Version::V5, _) => write_reason(0x20, &[0, reason.codes().v5], reason, bytes_max, &mut out),
        (Version::V311, Some(code)) => out.put_slice(&[0x20, 2, 0, code]),
        (Version::V311, None) => {}
    }
    out
}

/// Appends a packet of version 5 with a reason string, or without where it would be larger than the client takes
/// [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.14.2-3].
fn write_reason(first: u8, fields: &[u8], reason: Reason, bytes_max: usize, out: &mut BytesMut) {
    let text = reason.text();
    let properties = 3 + text.len();
    let remaining = fields.len() + varint_len(properties) + properties;
    out.put_u8(first);
    if 1 + varint_len(remaining) + remaining > bytes_max {
        put_varint(out, fields.len() + 1);
        out.put_slice(fields);
        out.put_u8(0);
        return;
    }
    put_varint(out, remaining);
    out.put_slice(fields);
    put_varint(out, properties);
    out.put_u8(property::REASON_STRING);
    put_str(out, text.as_bytes());
}

fn no_properties() -> v5::ConnAckProperties {
    v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use rumqttc::mqttbytes::v4;

    use super::super::message::Message;
    use super::*;

    fn wanted(version: Version, topic_alias_max: u16) -> Wanted {
        Wanted {
            version,
            topic_alias_max,
            packet_bytes_max: None,
            problem_information: true,
        }
    }

    fn delivery(topic: &str, qos: QoS, lifetime: Option<Duration>, now: Instant) -> Output {
        Output::Publish(Delivery {
            message: Arc::new(Message {
                topic: topic.into(),
                payload: Bytes::from_static(b"payload"),
                from: "someone".into(),
                properties: Bytes::new(),
                expires_at: lifetime.map(|lifetime| now + lifetime),
                taken_at: now,
            }),
            qos,
            retain: false,
            dup: false,
            packet_id: if qos == QoS::AtMostOnce { 0 } else { 9 },
            subscription_ids: Some(Box::new([200])),
            share: None,
        })
    }

    #[test]
    fn what_is_written_is_what_the_codec_reads() {
        let now = Instant::now();
        let limits = Limits::default();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let output = delivery("d/1234", qos, Some(Duration::from_millis(1_500)), now);
            let mut out = BytesMut::new();
            Encoder::new(wanted(Version::V311, 0), &limits).write(&output, now, &mut out);
            let Ok(v4::Packet::Publish(read)) = v4::Packet::read(&mut out, 1000) else {
                panic!("{qos:?}")
            };
            assert_eq!(
                (read.topic.as_str(), &read.payload[..]),
                ("d/1234", &b"payload"[..])
            );

            let mut encoder = Encoder::new(wanted(Version::V5, 5), &limits);
            for expected_topic in ["d/1234", ""] {
                encoder.write(&output, now, &mut out);
                let Ok(v5::Packet::Publish(read)) = v5::Packet::read(&mut out, None) else {
                    panic!("{qos:?}")
                };
                assert_eq!(
                    (&read.topic[..], &read.payload[..]),
                    (expected_topic.as_bytes(), &b"payload"[..])
                );
                let properties = read.properties.unwrap();
                assert_eq!(properties.topic_alias, Some(1));
                assert_eq!(properties.message_expiry_interval, Some(2));
                assert_eq!(properties.subscription_identifiers, [200]);
            }
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_second_topic_over_the_aliases_goes_out_whole() {
        let now = Instant::now();
        let mut encoder = Encoder::new(wanted(Version::V5, 1), &Limits::default());
        let mut aliases = Vec::new();
        for topic in ["long/one", "long/two", "long/one", "d/7"] {
            let Output::Publish(delivery) = delivery(topic, QoS::AtMostOnce, None, now) else {
                unreachable!()
            };
            aliases.push(encoder.alias_for(&delivery));
        }
        assert_eq!(aliases, [Some(Alias::New(1)), None, Some(Alias::Known(1)), None]);
    }

    #[test]
    fn every_acknowledgement_is_read_back_by_the_codec() {
        let outputs = [
            Output::PubAck {
                packet_id: 1,
                refused: None,
            },
            Output::PubAck {
                packet_id: 1,
                refused: Some(Reason::PublishForbidden),
            },
            Output::PubRec {
                packet_id: 1,
                refused: Some(Reason::RetainedLimit),
            },
            Output::PubRel {
                packet_id: 1,
                identifier: Identifier::Unknown,
            },
            Output::PubComp {
                packet_id: 1,
                identifier: Identifier::Known,
            },
            Output::SubAck {
                packet_id: 2,
                granted: vec![Ok(QoS::AtLeastOnce), Err(Reason::SubscribeForbidden)],
            },
            Output::UnsubAck {
                packet_id: 3,
                existed: vec![true, false],
            },
            Output::PingResp,
            Output::ConnAck(ConnAck {
                session_present: SessionPresent::Yes,
                session_expiry_s: Some(60),
                assigned_client_id: Some("c".into()),
                server_keep_alive_s: Some(60),
            }),
        ];
        let now = Instant::now();
        for output in outputs {
            let mut out = BytesMut::new();
            Encoder::new(wanted(Version::V311, 0), &Limits::default()).write(&output, now, &mut out);
            v4::Packet::read(&mut out, 1000).unwrap_or_else(|error| panic!("{output:?}: {error}"));
            assert!(out.is_empty());
            Encoder::new(wanted(Version::V5, 0), &Limits::default()).write(&output, now, &mut out);
            v5::Packet::read(&mut out, None).unwrap_or_else(|error| panic!("{output:?}: {error}"));
            assert!(out.is_empty());
        }
    }
}
