//! From what the broker tells a client to the bytes of one connection.
//!
//! Runs on the connection's own task, outside the broker's lock. It keeps what belongs to this direction of one
//! connection: the version, and the aliases that the client let the broker set.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use rumqttc::v5::mqttbytes::v5;

use super::message::{Alias, Delivery, QoS, Version, put_varint};
use super::packet::{ConnAck, Output};
use crate::limits::Limits;
use crate::reason::Reason;

/// Topics this short are not worth an alias: the property that carries it has three bytes.
const ALIAS_WORTHWHILE_BYTES: usize = 4;

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
}

impl Encoder {
    /// For a client that allows `alias_max` aliases.
    pub(crate) fn new(version: Version, alias_max: u16, limits: &Limits) -> Encoder {
        Encoder {
            version,
            alias_max: usize::from(alias_max.min(limits.topic_alias_out_max)),
            aliases: Vec::new(),
            packet_bytes_max: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
            receive_maximum: limits.receive_maximum,
            topic_alias_max: limits.topic_alias_max,
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
            Output::PubAck { packet_id, refused } => self.puback(*packet_id, *refused, out),
            Output::SubAck { packet_id, granted } => self.suback(*packet_id, granted, out),
            Output::UnsubAck { packet_id, existed } => self.unsuback(*packet_id, existed, out),
            Output::PingResp => out.put_slice(&[0xD0, 0]),
            // [MQTT-3.14.0-1] 3.1.1 has no DISCONNECT from the server.
            Output::Disconnect(reason) => {
                if self.version == Version::V5 {
                    // With the empty properties that could be left out: rumqttc does not read the shorter form.
                    out.put_slice(&[0xE0, 2, reason.codes().v5, 0]);
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
            Version::V311 => out.put_slice(&[0x20, 2, 0, 0]),
            Version::V5 => {
                let properties = v5::ConnAckProperties {
                    // [MQTT-3.2.2-21] where it is not the client's own; sessions end with their connection.
                    session_expiry_interval: Some(0),
                    receive_max: Some(self.receive_maximum),
                    // [MQTT-3.2.2-9] without QoS 2.
                    max_qos: Some(1),
                    max_packet_size: Some(self.packet_bytes_max),
                    assigned_client_identifier: connack.assigned_client_id.as_deref().map(str::to_string),
                    topic_alias_max: Some(self.topic_alias_max),
                    server_keep_alive: connack.server_keep_alive_s,
                    ..no_properties()
                };
                let connack = v5::ConnAck {
                    // [MQTT-3.2.2-3] there is never an earlier session.
                    session_present: false,
                    code: v5::ConnectReturnCode::Success,
                    properties: Some(properties),
                };
                connack
                    .write(out)
                    .expect("a CONNACK is far below the largest packet");
            }
        }
    }

    fn puback(&self, packet_id: u16, refused: Option<Reason>, out: &mut BytesMut) {
        let [high, low] = packet_id.to_be_bytes();
        match refused {
            Some(reason) if self.version == Version::V5 => {
                out.put_slice(&[0x40, 3, high, low, reason.codes().v5]);
            }
            _ => out.put_slice(&[0x40, 2, high, low]),
        }
    }

    /// [MQTT-3.8.4-5], [MQTT-3.9.3-1] one code for each filter, in their order.
    fn suback(&self, packet_id: u16, granted: &[Result<QoS, Reason>], out: &mut BytesMut) {
        out.put_u8(0x90);
        put_varint(out, 2 + self.empty_properties().len() + granted.len());
        out.put_u16(packet_id);
        out.put_slice(self.empty_properties());
        for code in granted {
            out.put_u8(match (code, self.version) {
                (Ok(QoS::AtMostOnce), _) => 0,
                (Ok(_), _) => 1,
                (Err(reason), Version::V5) => reason.codes().v5,
                (Err(_), Version::V311) => 0x80,
            });
        }
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

/// The CONNACK that turns a client down; empty where 3.1.1 has no code for it and the connection is just closed.
pub(crate) fn refusal(version: Version, reason: Reason) -> BytesMut {
    let mut out = BytesMut::new();
    match (version, reason.codes().v4_connack) {
        // [MQTT-3.2.2-6] a refusal never claims a session.
        (Version::V5, _) => out.put_slice(&[0x20, 3, 0, reason.codes().v5, 0]),
        (Version::V311, Some(code)) => out.put_slice(&[0x20, 2, 0, code]),
        (Version::V311, None) => {}
    }
    out
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

    fn delivery(topic: &str, qos: QoS, lifetime: Option<Duration>, now: Instant) -> Output {
        Output::Publish(Delivery {
            message: Arc::new(Message {
                topic: topic.into(),
                payload: Bytes::from_static(b"payload"),
                from: "someone".into(),
                properties: Bytes::new(),
                expires_at: lifetime.map(|lifetime| now + lifetime),
            }),
            qos,
            retain: false,
            packet_id: if qos == QoS::AtMostOnce { 0 } else { 9 },
            subscription_ids: Some(Box::new([200])),
        })
    }

    #[test]
    fn what_is_written_is_what_the_codec_reads() {
        let now = Instant::now();
        let limits = Limits::default();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let output = delivery("d/1234", qos, Some(Duration::from_millis(1_500)), now);
            let mut out = BytesMut::new();
            Encoder::new(Version::V311, 0, &limits).write(&output, now, &mut out);
            let Ok(v4::Packet::Publish(read)) = v4::Packet::read(&mut out, 1000) else {
                panic!("{qos:?}")
            };
            assert_eq!(
                (read.topic.as_str(), &read.payload[..]),
                ("d/1234", &b"payload"[..])
            );

            let mut encoder = Encoder::new(Version::V5, 5, &limits);
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
        let mut encoder = Encoder::new(Version::V5, 1, &Limits::default());
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
                assigned_client_id: Some("c".into()),
                server_keep_alive_s: Some(60),
            }),
        ];
        let now = Instant::now();
        for output in outputs {
            let mut out = BytesMut::new();
            Encoder::new(Version::V311, 0, &Limits::default()).write(&output, now, &mut out);
            v4::Packet::read(&mut out, 1000).unwrap_or_else(|error| panic!("{output:?}: {error}"));
            assert!(out.is_empty());
            Encoder::new(Version::V5, 0, &Limits::default()).write(&output, now, &mut out);
            v5::Packet::read(&mut out, None).unwrap_or_else(|error| panic!("{output:?}: {error}"));
            assert!(out.is_empty());
        }
    }
}
