//! The MQTT packets that a device needs, in the version that its server speaks.
//!
//! Encoding and decoding is rumqttc's; this file says which packets with which fields, once for both versions.

use crate::core::Qos;
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes as mqtt4;
use rumqttc::v5::mqttbytes as mqtt5;
use waypost_proto::FRAME_BYTES_MAX;

/// The largest packet that is taken: the largest frame, its topic and its header.
pub(crate) const PACKET_BYTES_MAX: u32 = FRAME_BYTES_MAX as u32 + 512;
/// Aliases that the server may use for its topics.
pub(crate) const ALIASES_MAX: u16 = 4;
/// The alias of `u/<device>`.
pub(crate) const UP_ALIAS: u16 = 1;

/// The version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V5,
    /// 3.1.1.
    V4,
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub(crate) struct ConnectFields {
    pub(crate) client_id: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) keep_alive_s: u16,
    pub(crate) will_topic: String,
    pub(crate) will_payload: Vec<u8>,
}

/// What a PUBLISH says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishFields<'a> {
    /// Empty where the alias stands for it.
    pub(crate) topic: &'a str,
    /// Version 5 only.
    pub(crate) alias: Option<u16>,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
    /// 0 at most once.
    pub(crate) packet_id: u16,
    pub(crate) payload: &'a [u8],
}

/// Whether a broker keeps a message for those who come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retain {
    Yes,
    No,
}

/// A packet of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck(ConnAck),
    Publish {
        topic: Bytes,
        alias: Option<u16>,
        packet_id: u16,
        payload: Bytes,
    },
    PubAck {
        packet_id: u16,
        refused: Option<String>,
    },
    /// The answer to a SUBSCRIBE, filter by filter: the reason of a refusal, `None` for a granted one.
    SubAck {
        packet_id: u16,
        refusals: Vec<Option<String>>,
    },
    UnsubAck {
        packet_id: u16,
    },
    PingResp,
    Disconnect {
        reason: String,
    },
    /// Nothing that this client asked for.
    Other,
}

/// The server's answer to a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnAck {
    Accepted(Limits),
    /// The server does not speak the version.
    VersionRefused,
    /// Trying again changes nothing; says what a person has to do.
    Refused(String),
    /// Trying again may help.
    Unavailable(String),
}

/// What the server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) aliases_max: u16,
    pub(crate) unacknowledged_max: u16,
    pub(crate) keep_alive_s: Option<u16>,
}

/// Bytes that are no packet; the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the server sent what is not MQTT: {0}")]
pub(crate) struct Malformed(String);

impl Version {
    pub(crate) fn connect(self, fields: &ConnectFields, out: &mut BytesMut) {
        let written = match self {
            Self::V5 => connect_v5(fields, out),
            Self::V4 => connect_v4(fields, out),
        };
        debug_assert!(written, "our own packets can be encoded");
    }

    /// At least one filter. [MQTT-3.8.3-2]
    pub(crate) fn subscribe(self, filters: &[String], packet_id: u16, out: &mut BytesMut) {
        let written = match self {
            Self::V5 => {
                let filter = |path| mqtt5::v5::Filter::new(path, mqtt5::QoS::AtLeastOnce);
                let mut subscribe = mqtt5::v5::Subscribe::new_many(filters.iter().map(filter), None);
                subscribe.pkid = packet_id;
                subscribe.write(out).is_ok()
            }
            Self::V4 => {
                let filter = |path: &String| mqtt4::v4::SubscribeFilter {
                    path: path.clone(),
                    qos: mqtt4::QoS::AtLeastOnce,
                };
                let mut subscribe = mqtt4::v4::Subscribe::new_many(filters.iter().map(filter));
                subscribe.pkid = packet_id;
                subscribe.write(out).is_ok()
            }
        };
        debug_assert!(written, "our own packets can be encoded");
    }

    /// At least one filter. [MQTT-3.10.3-2]
    pub(crate) fn unsubscribe(self, filters: Vec<String>, packet_id: u16, out: &mut BytesMut) {
        let written = match self {
            Self::V5 => {
                let unsubscribe = mqtt5::v5::Unsubscribe {
                    pkid: packet_id,
                    filters,
                    properties: None,
                };
                unsubscribe.write(out).is_ok()
            }
            Self::V4 => {
                let unsubscribe = mqtt4::v4::Unsubscribe {
                    pkid: packet_id,
                    topics: filters,
                };
                unsubscribe.write(out).is_ok()
            }
        };
        debug_assert!(written, "our own packets can be encoded");
    }

    pub(crate) fn publish(self, fields: PublishFields<'_>, out: &mut BytesMut) {
        let payload = Bytes::copy_from_slice(fields.payload);
        let retain = fields.retain == Retain::Yes;
        let written = match self {
            Self::V5 => {
                let qos = match fields.qos {
                    Qos::AtMostOnce => mqtt5::QoS::AtMostOnce,
                    Qos::AtLeastOnce => mqtt5::QoS::AtLeastOnce,
                };
                let properties = fields.alias.map(|alias| mqtt5::v5::PublishProperties {
                    topic_alias: Some(alias),
                    ..Default::default()
                });
                let mut publish = mqtt5::v5::Publish::new(fields.topic, qos, payload, properties);
                publish.pkid = fields.packet_id;
                publish.retain = retain;
                publish.write(out).is_ok()
            }
            Self::V4 => {
                let qos = match fields.qos {
                    Qos::AtMostOnce => mqtt4::QoS::AtMostOnce,
                    Qos::AtLeastOnce => mqtt4::QoS::AtLeastOnce,
                };
                let mut publish = mqtt4::v4::Publish::from_bytes(fields.topic, qos, payload);
                publish.pkid = fields.packet_id;
                publish.retain = retain;
                publish.write(out).is_ok()
            }
        };
        debug_assert!(written, "our own packets can be encoded");
    }

    pub(crate) fn puback(self, packet_id: u16, out: &mut BytesMut) {
        let written = match self {
            Self::V5 => mqtt5::v5::PubAck::new(packet_id, None).write(out).is_ok(),
            Self::V4 => mqtt4::v4::PubAck::new(packet_id).write(out).is_ok(),
        };
        debug_assert!(written, "our own packets can be encoded");
    }

    pub(crate) fn ping(self, out: &mut BytesMut) {
        // [MQTT-3.12.1] the same two bytes in both versions.
        out.extend_from_slice(&[0xc0, 0]);
    }

    pub(crate) fn disconnect(self, out: &mut BytesMut) {
        // [MQTT-3.14.2.1] in version 5 a missing reason code means a normal disconnection.
        out.extend_from_slice(&[0xe0, 0]);
    }

    /// Takes the next whole packet off `input`; `None` where more bytes are needed.
    pub(crate) fn decode(self, input: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
        match self {
            // A server of an older version answers in its own: two bytes after the header, no properties.
            Self::V5 if input.first() == Some(&0x20) && input.get(1) == Some(&2) => decode_v4(input),
            Self::V5 => decode_v5(input),
            Self::V4 => decode_v4(input),
        }
    }
}

fn connect_v5(fields: &ConnectFields, out: &mut BytesMut) -> bool {
    let connect = mqtt5::v5::Connect {
        keep_alive: fields.keep_alive_s,
        client_id: fields.client_id.clone(),
        clean_start: true,
        properties: Some(mqtt5::v5::ConnectProperties {
            topic_alias_max: Some(ALIASES_MAX),
            max_packet_size: Some(PACKET_BYTES_MAX),
            ..mqtt5::v5::ConnectProperties::new()
        }),
    };
    let will = mqtt5::v5::LastWill::new(
        &fields.will_topic,
        fields.will_payload.clone(),
        mqtt5::QoS::AtLeastOnce,
        true,
        None,
    );
    let login = mqtt5::v5::Login::new(&fields.user, &fields.password);
    connect.write(&Some(will), &Some(login), out).is_ok()
}

fn connect_v4(fields: &ConnectFields, out: &mut BytesMut) -> bool {
    let mut connect = mqtt4::v4::Connect::new(&fields.client_id);
    connect.keep_alive = fields.keep_alive_s;
    connect.clean_session = true;
    connect.last_will = Some(mqtt4::v4::LastWill::new(
        &fields.will_topic,
        fields.will_payload.clone(),
        mqtt4::QoS::AtLeastOnce,
        true,
    ));
    connect.set_login(&fields.user, &fields.password);
    connect.write(out).is_ok()
}

fn decode_v5(input: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
    use mqtt5::v5::Packet as Wire;
    // Asked first, as the decoder takes the bytes off before it looks inside.
    match mqtt5::v5::check(input.iter(), Some(PACKET_BYTES_MAX)) {
        Ok(_) => {}
        Err(mqtt5::Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed(error.to_string())),
    }
    if input.starts_with(&[0xe0, 0]) {
        input.clear();
        return Ok(Some(Packet::Disconnect {
            reason: "the server said good-bye".to_owned(),
        }));
    }
    let packet = Wire::read(input, Some(PACKET_BYTES_MAX)).map_err(|error| Malformed(error.to_string()))?;
    Ok(Some(match packet {
        Wire::ConnAck(ack) => Packet::ConnAck(connack_v5(&ack)),
        Wire::Publish(publish) => Packet::Publish {
            topic: publish.topic,
            alias: publish.properties.and_then(|properties| properties.topic_alias),
            packet_id: if publish.qos == mqtt5::QoS::AtLeastOnce {
                publish.pkid
            } else {
                0
            },
            payload: publish.payload,
        },
        Wire::PubAck(ack) => {
            use mqtt5::v5::PubAckReason::{NoMatchingSubscribers, Success};
            let accepted = matches!(ack.reason, Success | NoMatchingSubscribers);
            Packet::PubAck {
                packet_id: ack.pkid,
                refused: (!accepted).then(|| format!("{:?}", ack.reason)),
            }
        }
        Wire::SubAck(ack) => {
            let refusal = |code: &mqtt5::v5::SubscribeReasonCode| {
                let granted = matches!(code, mqtt5::v5::SubscribeReasonCode::Success(_));
                (!granted).then(|| format!("{code:?}"))
            };
            Packet::SubAck {
                packet_id: ack.pkid,
                refusals: ack.return_codes.iter().map(refusal).collect(),
            }
        }
        Wire::UnsubAck(ack) => Packet::UnsubAck { packet_id: ack.pkid },
        Wire::PingResp(_) => Packet::PingResp,
        Wire::Disconnect(disconnect) => Packet::Disconnect {
            reason: format!("the server closed: {:?}", disconnect.reason_code),
        },
        _ => Packet::Other,
    }))
}

fn decode_v4(input: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
    use mqtt4::v4::Packet as Wire;
    let max = PACKET_BYTES_MAX as usize;
    match mqtt4::check(input.iter(), max) {
        Ok(_) => {}
        Err(mqtt4::Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(Malformed(error.to_string())),
    }
    let packet = Wire::read(input, max).map_err(|error| Malformed(error.to_string()))?;
    Ok(Some(match packet {
        Wire::ConnAck(ack) => Packet::ConnAck(connack_v4(&ack)),
        Wire::Publish(publish) => Packet::Publish {
            topic: Bytes::from(publish.topic),
            alias: None,
            packet_id: if publish.qos == mqtt4::QoS::AtLeastOnce {
                publish.pkid
            } else {
                0
            },
            payload: publish.payload,
        },
        Wire::PubAck(ack) => Packet::PubAck {
            packet_id: ack.pkid,
            refused: None,
        },
        Wire::SubAck(ack) => {
            let refusal = |code: &mqtt4::v4::SubscribeReasonCode| {
                (*code == mqtt4::v4::SubscribeReasonCode::Failure).then(|| "Failure".to_owned())
            };
            Packet::SubAck {
                packet_id: ack.pkid,
                refusals: ack.return_codes.iter().map(refusal).collect(),
            }
        }
        Wire::UnsubAck(ack) => Packet::UnsubAck { packet_id: ack.pkid },
        Wire::PingResp => Packet::PingResp,
        Wire::Disconnect => Packet::Disconnect {
            reason: "the server said good-bye".to_owned(),
        },
        _ => Packet::Other,
    }))
}

fn connack_v5(ack: &mqtt5::v5::ConnAck) -> ConnAck {
    use mqtt5::v5::ConnectReturnCode as Code;
    match ack.code {
        Code::Success => {
            let properties = ack.properties.as_ref();
            ConnAck::Accepted(Limits {
                aliases_max: properties.and_then(|p| p.topic_alias_max).unwrap_or(0),
                unacknowledged_max: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
                keep_alive_s: properties.and_then(|p| p.server_keep_alive),
            })
        }
        Code::UnsupportedProtocolVersion => ConnAck::VersionRefused,
        Code::BadUserNamePassword | Code::NotAuthorized => ConnAck::Refused(BAD_CREDENTIALS.to_owned()),
        Code::ClientIdentifierNotValid => ConnAck::Refused(BAD_CLIENT_ID.to_owned()),
        Code::Banned => {
            ConnAck::Refused("the server has banned this device; ask its administrator".to_owned())
        }
        other => ConnAck::Unavailable(format!("the server refuses for now: {other:?}")),
    }
}

fn connack_v4(ack: &mqtt4::v4::ConnAck) -> ConnAck {
    use mqtt4::v4::ConnectReturnCode as Code;
    match ack.code {
        // [MQTT-3.2.2] 3.1.1 names no limits: no alias, any number of unacknowledged packets.
        Code::Success => ConnAck::Accepted(Limits {
            aliases_max: 0,
            unacknowledged_max: u16::MAX,
            keep_alive_s: None,
        }),
        Code::RefusedProtocolVersion => ConnAck::VersionRefused,
        Code::BadUserNamePassword | Code::NotAuthorized => ConnAck::Refused(BAD_CREDENTIALS.to_owned()),
        Code::BadClientId => ConnAck::Refused(BAD_CLIENT_ID.to_owned()),
        Code::ServiceUnavailable => ConnAck::Unavailable("the server is not available".to_owned()),
    }
}

const BAD_CREDENTIALS: &str = "the server does not accept this device's credentials: they were rotated or revoked, \
     or belong to another server; ask for a new credentials file (`waypost device rotate`)";
const BAD_CLIENT_ID: &str = "the server does not accept this device's id; ask for a new credentials file";
