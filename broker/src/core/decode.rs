//! From the bytes of one connection to packets: the gate, the codec, and what the codec leaves open.
//!
//! Runs on the connection's own task, outside the broker's lock. It keeps what belongs to this direction of one
//! connection: the version, and the topics behind the client's aliases. After an error the connection can only be closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::{QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use super::gate;
use super::message::{QoS, Version, property, put_str};
use super::packet::{Connect, Packet, Publish, Received, Requested, SendRetained, Will};
use crate::auth::Retain;
use crate::filter;
use crate::limits::Limits;
use crate::reason::Reason;

/// Why a first packet was turned down, and in which version that can be said; `None` closes without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadConnect {
    pub(crate) reason: Reason,
    pub(crate) answer: Option<Version>,
    /// The largest packet that the client takes, where it could be read.
    pub(crate) packet_bytes_max: Option<u32>,
}

/// Takes a CONNECT off the front of `bytes`; `None` while it is not complete.
///
/// # Errors
/// What is there can never become an acceptable CONNECT.
pub(crate) fn read_connect(bytes: &mut BytesMut, limits: &Limits) -> Result<Option<Connect>, BadConnect> {
    let silent = |reason| BadConnect {
        reason,
        answer: None,
        packet_bytes_max: None,
    };
    let Some(header) = gate::header(bytes).map_err(silent)? else {
        return Ok(None);
    };
    if header.first >> 4 != 1 {
        return Err(silent(Reason::NotConnect));
    }
    // The name and the level stand in the first bytes; a packet that ends before them has neither.
    let prefix_bytes = (header.header_bytes + 9).min(header.frame_bytes);
    if bytes.len() < prefix_bytes {
        return Ok(None);
    }
    let version = gate::version_of_connect(bytes, header).map_err(|reason| BadConnect {
        reason,
        // [MQTT-3.1.2-2] the answer to an unknown level takes the form of the nearest version that has one.
        answer: (reason == Reason::UnsupportedVersion).then(|| nearest_version(bytes, header)),
        packet_bytes_max: None,
    })?;
    let packet_bytes_max = match version {
        Version::V5 => gate::packet_bytes_max_of_connect(bytes, header),
        Version::V311 => None,
    };
    let spoken = |reason| BadConnect {
        reason,
        answer: Some(version),
        packet_bytes_max,
    };
    if header.frame_bytes > limits.connect_bytes_max {
        return Err(spoken(Reason::PacketTooLarge));
    }
    if bytes.len() < header.frame_bytes {
        return Ok(None);
    }
    gate::check(&bytes[..header.frame_bytes], header, version).map_err(spoken)?;
    let connect = match version {
        Version::V311 => connect_of_4(bytes, header.frame_bytes),
        Version::V5 => connect_of_5(bytes, header.frame_bytes),
    };
    connect.map(Some).map_err(spoken)
}

/// Levels above 5 are answered as 5, all others as 3.1.1.
fn nearest_version(bytes: &[u8], header: gate::Header) -> Version {
    match bytes.get(header.header_bytes..).unwrap_or_default() {
        [0, 4, b'M', b'Q', b'T', b'T', 6..0x80, ..] => Version::V5,
        _ => Version::V311,
    }
}

/// The gate has read the whole packet, so that all that is left for the codec to stumble over is a password that is
/// not UTF-8. No credentials can hold one, since the codec cannot read it.
fn codec_connect_error<E>(_: E) -> Reason {
    Reason::BadCredentials
}

fn connect_of_4(bytes: &mut BytesMut, frame_bytes: usize) -> Result<Connect, Reason> {
    let v4::Packet::Connect(connect) = v4::Packet::read(bytes, frame_bytes).map_err(codec_connect_error)?
    else {
        return Err(Reason::NotConnect);
    };
    let (username, password) = connect
        .login
        .map(|login| (login.username, login.password))
        .unzip();
    Ok(Connect {
        version: Version::V311,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        will: connect.last_will.map(|will| Will {
            topic: will.topic.into(),
            payload: Bytes::copy_from_slice(&will.message),
            qos: qos_of_4(will.qos),
            retain: retain(will.retain),
            properties: Bytes::new(),
            lifetime: None,
            delay: Duration::ZERO,
        }),
        username: username.filter(|name| !name.is_empty()),
        password: password.filter(|word| !word.is_empty()).map(Bytes::from),
        receive_maximum: u16::MAX,
        packet_bytes_max: None,
        topic_alias_max: 0,
        // A session that is not clean has no end of its own.
        session_expiry_s: if connect.clean_session { 0 } else { u32::MAX },
        wants_problem_information: false,
    })
}

fn connect_of_5(bytes: &mut BytesMut, frame_bytes: usize) -> Result<Connect, Reason> {
    let max = u32::try_from(frame_bytes).map_err(|_| Reason::PacketTooLarge)?;
    let packet = v5::Packet::read(bytes, Some(max)).map_err(codec_connect_error)?;
    let v5::Packet::Connect(connect, will, login) = packet else {
        return Err(Reason::NotConnect);
    };
    let asked = connect.properties.as_ref();
    if asked.is_some_and(|asked| asked.authentication_method.is_some()) {
        // [MQTT-4.12.0-1] a method that is not offered.
        return Err(Reason::BadAuthenticationMethod);
    }
    if asked.is_some_and(|asked| asked.authentication_data.is_some()) {
        // Data of no method [MQTT 5, 3.1.2.11.10].
        return Err(Reason::ProtocolError);
    }
    let (username, password) = login.map(|login| (login.username, login.password)).unzip();
    Ok(Connect {
        version: Version::V5,
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        will: will.map(will_of_5).transpose()?,
        username: username.filter(|name| !name.is_empty()),
        password: password.filter(|word| !word.is_empty()).map(Bytes::from),
        receive_maximum: asked.and_then(|asked| asked.receive_maximum).unwrap_or(u16::MAX),
        packet_bytes_max: asked.and_then(|asked| asked.max_packet_size),
        topic_alias_max: asked.and_then(|asked| asked.topic_alias_max).unwrap_or(0),
        session_expiry_s: asked.and_then(|asked| asked.session_expiry_interval).unwrap_or(0),
        wants_problem_information: asked.and_then(|asked| asked.request_problem_info) != Some(0),
        client_id: connect.client_id,
    })
}

fn will_of_5(will: v5::LastWill) -> Result<Will, Reason> {
    let (mut lifetime, mut delay) = (None, Duration::ZERO);
    let mut encoded = BytesMut::new();
    if let Some(properties) = will.properties {
        lifetime = properties.message_expiry_interval;
        delay = Duration::from_secs(properties.delay_interval.unwrap_or(0).into());
        Forwarded {
            payload_format: properties.payload_format_indicator,
            content_type: properties.content_type.as_deref(),
            response_topic: properties.response_topic.as_deref(),
            correlation_data: properties.correlation_data.as_deref(),
            user: &properties.user_properties,
        }
        .write(&mut encoded);
    }
    Ok(Will {
        topic: std::str::from_utf8(&will.topic)
            .map_err(|_| Reason::Malformed)?
            .into(),
        payload: Bytes::copy_from_slice(&will.message),
        qos: qos_of_5(will.qos),
        retain: retain(will.retain),
        properties: encoded.freeze(),
        lifetime: lifetime.map(|seconds| Duration::from_secs(seconds.into())),
        delay,
    })
}

/// Reads the packets of one connection after its CONNECT.
#[derive(Debug)]
pub(crate) struct Decoder {
    version: Version,
    packet_bytes_max: usize,
    alias_max: u16,
    /// Index is the alias less one; grows only as far as the client goes.
    aliases: Vec<Option<Arc<str>>>,
}

impl Decoder {
    pub(crate) fn new(version: Version, limits: &Limits) -> Decoder {
        Decoder {
            version,
            packet_bytes_max: limits.packet_bytes_max,
            alias_max: limits.topic_alias_max,
            aliases: Vec::new(),
        }
    }

    /// Takes the next packet off the front of `bytes`; `None` while it is not complete.
    ///
    /// # Errors
    /// The connection has to end with this reason.
    pub(crate) fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Packet>, Reason> {
        let Some(header) = gate::header(bytes)? else {
            return Ok(None);
        };
        if header.frame_bytes > self.packet_bytes_max {
            return Err(Reason::PacketTooLarge);
        }
        if bytes.len() < header.frame_bytes {
            return Ok(None);
        }
        gate::check(&bytes[..header.frame_bytes], header, self.version)?;
        match (header.first >> 4, self.version) {
            // The codec of version 5 does not read the short forms of DISCONNECT; the gate has checked them.
            (14, _) => {
                let frame = bytes.split_to(header.frame_bytes);
                let with_will = match frame.get(header.header_bytes) {
                    None | Some(0x00) => false,
                    Some(0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x97 | 0x99) => true,
                    Some(_) => return Err(Reason::ProtocolError),
                };
                let session_expiry_s = match self.version {
                    Version::V5 => gate::session_expiry_of_disconnect(&frame, header),
                    Version::V311 => None,
                };
                Ok(Some(Packet::Disconnect {
                    with_will,
                    session_expiry_s,
                }))
            }
            // The same in both versions, but for the code.
            (kind @ 4..=7, _) => {
                let frame = bytes.split_to(header.frame_bytes);
                let (packet_id, code) =
                    gate::parts_of_acknowledgement(&frame, header).ok_or(Reason::Malformed)?;
                let verdict = if code < 0x80 {
                    Received::Taken
                } else {
                    Received::Refused
                };
                Ok(Some(match kind {
                    4 => Packet::PubAck { packet_id },
                    5 => Packet::PubRec { packet_id, verdict },
                    6 => Packet::PubRel { packet_id },
                    _ => Packet::PubComp { packet_id },
                }))
            }
            (_, Version::V311) => {
                let packet = v4::Packet::read(bytes, self.packet_bytes_max).map_err(|_| Reason::Malformed)?;
                packet_of_4(packet).map(Some)
            }
            (_, Version::V5) => {
                let packet = v5::Packet::read(bytes, None).map_err(|_| Reason::Malformed)?;
                self.packet_of_5(packet).map(Some)
            }
        }
    }

    fn packet_of_5(&mut self, packet: v5::Packet) -> Result<Packet, Reason> {
        match packet {
            v5::Packet::Publish(publish) => self.publish_of_5(publish).map(Packet::Publish),
            v5::Packet::Subscribe(subscribe) => Ok(Packet::Subscribe {
                packet_id: subscribe.pkid,
                subscription_id: subscribe
                    .properties
                    .and_then(|properties| properties.id)
                    .map_or(0, |id| u32::try_from(id).unwrap_or(u32::MAX)),
                filters: subscribe
                    .filters
                    .into_iter()
                    .map(|filter| Requested {
                        filter: filter.path,
                        qos: qos_of_5(filter.qos),
                        no_local: filter.nolocal,
                        retain_as_published: filter.preserve_retain,
                        retained: match filter.retain_forward_rule {
                            v5::RetainForwardRule::OnEverySubscribe => SendRetained::Always,
                            v5::RetainForwardRule::OnNewSubscribe => SendRetained::WhenNew,
                            v5::RetainForwardRule::Never => SendRetained::Never,
                        },
                    })
                    .collect(),
            }),
            v5::Packet::Unsubscribe(unsubscribe) => Ok(Packet::Unsubscribe {
                packet_id: unsubscribe.pkid,
                filters: unsubscribe.filters,
            }),
            v5::Packet::PingReq(_) => Ok(Packet::PingReq),
            // A second CONNECT [MQTT-3.1.0-2].
            _ => Err(Reason::ProtocolError),
        }
    }

    fn publish_of_5(&mut self, publish: v5::Publish) -> Result<Publish, Reason> {
        let named = std::str::from_utf8(&publish.topic).map_err(|_| Reason::Malformed)?;
        let properties = publish.properties.as_ref();
        let topic = match properties.and_then(|properties| properties.topic_alias) {
            // [MQTT-3.3.2-1] a topic, or an alias that stands for one.
            None if named.is_empty() => return Err(Reason::ProtocolError),
            None => Arc::from(named),
            Some(alias) => self.resolve_alias(alias, named)?,
        };
        let mut encoded = BytesMut::new();
        if let Some(properties) = properties {
            Forwarded {
                payload_format: properties.payload_format_indicator,
                content_type: properties.content_type.as_deref(),
                response_topic: properties.response_topic.as_deref(),
                correlation_data: properties.correlation_data.as_deref(),
                user: &properties.user_properties,
            }
            .write(&mut encoded);
        }
        Ok(Publish {
            topic,
            payload: own(&publish.payload),
            qos: qos_of_5(publish.qos),
            retain: retain(publish.retain),
            packet_id: publish.pkid,
            properties: encoded.freeze(),
            lifetime: properties
                .and_then(|properties| properties.message_expiry_interval)
                .map(|seconds| Duration::from_secs(seconds.into())),
            expires_at: None,
        })
    }

    fn resolve_alias(&mut self, alias: u16, named: &str) -> Result<Arc<str>, Reason> {
        // [MQTT-3.3.2-9] within the maximum that CONNACK announced.
        if alias == 0 || alias > self.alias_max {
            return Err(Reason::TopicAliasInvalid);
        }
        let index = usize::from(alias) - 1;
        if named.is_empty() {
            return self
                .aliases
                .get(index)
                .cloned()
                .flatten()
                .ok_or(Reason::TopicAliasInvalid);
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        // A topic that can never be published is not worth a place.
        if !filter::is_topic(named) {
            return Err(Reason::TopicInvalid);
        }
        let topic: Arc<str> = named.into();
        self.aliases[index] = Some(topic.clone());
        Ok(topic)
    }
}

fn packet_of_4(packet: v4::Packet) -> Result<Packet, Reason> {
    match packet {
        v4::Packet::Publish(publish) => Ok(Packet::Publish(Publish {
            topic: publish.topic.into(),
            payload: own(&publish.payload),
            qos: qos_of_4(publish.qos),
            retain: retain(publish.retain),
            packet_id: publish.pkid,
            properties: Bytes::new(),
            lifetime: None,
            expires_at: None,
        })),
        v4::Packet::Subscribe(subscribe) => Ok(Packet::Subscribe {
            packet_id: subscribe.pkid,
            subscription_id: 0,
            filters: subscribe
                .filters
                .into_iter()
                .map(|filter| Requested {
                    filter: filter.path,
                    qos: qos_of_4(filter.qos),
                    no_local: false,
                    retain_as_published: false,
                    retained: SendRetained::Always,
                })
                .collect(),
        }),
        v4::Packet::Unsubscribe(unsubscribe) => Ok(Packet::Unsubscribe {
            packet_id: unsubscribe.pkid,
            filters: unsubscribe.topics,
        }),
        v4::Packet::PingReq => Ok(Packet::PingReq),
        _ => Err(Reason::ProtocolError),
    }
}

/// A payload that does not keep the whole read buffer alive while it waits somewhere.
fn own(payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(payload)
}

fn qos_of_4(qos: QoS4) -> QoS {
    match qos {
        QoS4::AtMostOnce => QoS::AtMostOnce,
        QoS4::AtLeastOnce => QoS::AtLeastOnce,
        QoS4::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn qos_of_5(qos: QoS5) -> QoS {
    match qos {
        QoS5::AtMostOnce => QoS::AtMostOnce,
        QoS5::AtLeastOnce => QoS::AtLeastOnce,
        QoS5::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn retain(flag: bool) -> Retain {
    if flag { Retain::Yes } else { Retain::No }
}

/// The properties that reach receivers unaltered [MQTT-3.3.2-4], [-15], [-16], [-17], [-20].
struct Forwarded<'a> {
    payload_format: Option<u8>,
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation_data: Option<&'a [u8]>,
    user: &'a [(String, String)],
}

impl Forwarded<'_> {
    fn write(&self, out: &mut BytesMut) {
        if let Some(format) = self.payload_format {
            out.put_slice(&[property::PAYLOAD_FORMAT, format]);
        }
        let binaries = [
            (property::CONTENT_TYPE, self.content_type.map(str::as_bytes)),
            (property::RESPONSE_TOPIC, self.response_topic.map(str::as_bytes)),
            (property::CORRELATION_DATA, self.correlation_data),
        ];
        for (id, value) in binaries {
            if let Some(value) = value {
                out.put_u8(id);
                put_str(out, value);
            }
        }
        // [MQTT-3.3.2-18] in their order.
        for (key, value) in self.user {
            out.put_u8(property::USER_PROPERTY);
            put_str(out, key.as_bytes());
            put_str(out, value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish(topic: &str, alias: Option<u16>) -> BytesMut {
        let properties = alias.map(|alias| v5::PublishProperties {
            topic_alias: Some(alias),
            ..v5::PublishProperties::default()
        });
        let mut bytes = BytesMut::new();
        v5::Publish::new(topic, QoS5::AtMostOnce, "x", properties)
            .write(&mut bytes)
            .unwrap();
        bytes
    }

    #[test]
    fn an_alias_stands_for_the_topic_that_established_it() {
        let limits = Limits {
            topic_alias_max: 2,
            ..Limits::default()
        };
        let mut decoder = Decoder::new(Version::V5, &limits);
        let table = [
            ("", Some(1), Err(Reason::TopicAliasInvalid)),
            ("a", Some(1), Ok("a")),
            ("", Some(1), Ok("a")),
            ("b", Some(1), Ok("b")),
            ("", Some(1), Ok("b")),
            ("", Some(2), Err(Reason::TopicAliasInvalid)),
            ("c", Some(3), Err(Reason::TopicAliasInvalid)),
            ("", None, Err(Reason::ProtocolError)),
        ];
        for (topic, alias, expected) in table {
            let read = decoder
                .read(&mut publish(topic, alias))
                .map(|packet| match packet {
                    Some(Packet::Publish(publish)) => publish.topic.to_string(),
                    other => panic!("{other:?}"),
                });
            assert_eq!(read, expected.map(str::to_string), "{topic:?} {alias:?}");
        }
    }

    #[test]
    fn an_unknown_level_is_answered_in_the_nearest_version() {
        let table: &[(&[u8], u8, Option<Version>)] = &[
            (b"MQTT", 3, Some(Version::V311)),
            (b"MQTT", 6, Some(Version::V5)),
            (b"MQTT", 0x84, Some(Version::V311)),
            (b"MQIsdp", 3, Some(Version::V311)),
            (b"HTTP", 4, None),
        ];
        for (name, level, answer) in table {
            let mut bytes = BytesMut::from(&[0x10, 0][..]);
            put_str(&mut bytes, name);
            bytes.put_slice(&[*level, 2, 0, 0, 0, 1, b'c']);
            bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
            let refused = read_connect(&mut bytes, &Limits::default()).unwrap_err();
            assert_eq!(refused.answer, *answer, "{name:?} {level}");
        }
    }

    #[test]
    fn a_connect_over_its_bound_is_refused_before_it_has_arrived() {
        let mut bytes = BytesMut::from(&[0x10, 0xFF, 0xFF, 0x7F][..]);
        put_str(&mut bytes, b"MQTT");
        bytes.put_slice(&[5, 2, 0, 0, 0]);
        let refused = read_connect(&mut bytes, &Limits::default()).unwrap_err();
        assert_eq!(
            refused,
            BadConnect {
                reason: Reason::PacketTooLarge,
                answer: Some(Version::V5),
                packet_bytes_max: None,
            }
        );
    }

    fn samples() -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut push = |write: &dyn Fn(&mut BytesMut)| {
            let mut bytes = BytesMut::new();
            write(&mut bytes);
            all.push(bytes.to_vec());
        };
        push(&|out| out.extend_from_slice(&publish("a/b", Some(3))));
        push(&|out| {
            v5::Subscribe::new(
                v5::Filter::new("a/+", QoS5::AtLeastOnce),
                Some(v5::SubscribeProperties {
                    id: Some(300),
                    user_properties: vec![("k".into(), "v".into())],
                }),
            )
            .write(out)
            .unwrap();
        });
        push(&|out| {
            v4::Packet::Unsubscribe(v4::Unsubscribe {
                pkid: 7,
                topics: vec!["a".into(), "b/#".into()],
            })
            .write(out, 1000)
            .unwrap();
        });
        push(&|out| {
            let connect = v5::Connect {
                keep_alive: 10,
                client_id: "c".into(),
                clean_start: true,
                properties: Some(v5::ConnectProperties {
                    receive_maximum: Some(9),
                    ..v5::ConnectProperties::new()
                }),
            };
            let will = v5::LastWill::new("w", "gone", QoS5::AtLeastOnce, true, None);
            connect
                .write(&Some(will), &Some(v5::Login::new("u", "p")), out)
                .unwrap();
        });
        push(&|out| out.extend_from_slice(&[0xE0, 2, 4, 0]));
        push(&|out| out.extend_from_slice(&[0x40, 3, 0, 9, 0x10]));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn no_mutation_of_a_packet_panics_or_stalls(
            order in prop::collection::vec(0usize..6, 1..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            truncate in any::<bool>(),
            five in any::<bool>(),
        ) {
            let samples = samples();
            let mut stream: Vec<u8> = order.iter().flat_map(|index| samples[*index].clone()).collect();
            for (place, value) in changes {
                let place = place.index(stream.len());
                stream[place] = value;
            }
            if truncate {
                stream.truncate(cut.index(stream.len()));
            }
            let limits = Limits::default();
            let _ = read_connect(&mut BytesMut::from(&stream[..]), &limits);
            let mut decoder = Decoder::new(if five { Version::V5 } else { Version::V311 }, &limits);
            let mut bytes = BytesMut::from(&stream[..]);
            loop {
                let before = bytes.len();
                match decoder.read(&mut bytes) {
                    Ok(Some(_)) => prop_assert!(bytes.len() < before),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
