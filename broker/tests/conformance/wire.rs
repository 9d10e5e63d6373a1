//! Packets as bytes, written as a client writes them and read as a client must be able to read them.
//!
//! Both are done by hand from chapters 2 and 3 of the standards, so that a fault of the broker's codec is not a fault of the
//! test as well. Reading is strict: flags that are reserved, lengths with more bytes than they need, properties that are repeated or
//! do not belong there, and reason codes that the packet does not have are panics, whatever the test is about.

/// The version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// A property of MQTT 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Property {
    Byte(u8, u8),
    Two(u8, u16),
    Four(u8, u32),
    Variable(u8, u32),
    Text(u8, String),
    Binary(u8, Vec<u8>),
    Pair(String, String),
}

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE: u8 = 0x19;
pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const WILDCARD_AVAILABLE: u8 = 0x28;
pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
pub(crate) const SHARED_AVAILABLE: u8 = 0x2A;

impl Property {
    pub(crate) fn text(id: u8, text: &str) -> Property {
        Property::Text(id, text.into())
    }

    pub(crate) fn user(key: &str, value: &str) -> Property {
        Property::Pair(key.into(), value.into())
    }

    pub(crate) fn id(&self) -> u8 {
        match self {
            Property::Byte(id, _)
            | Property::Two(id, _)
            | Property::Four(id, _)
            | Property::Variable(id, _)
            | Property::Text(id, _)
            | Property::Binary(id, _) => *id,
            Property::Pair(..) => USER_PROPERTY,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.id());
        match self {
            Property::Byte(_, value) => out.push(*value),
            Property::Two(_, value) => out.extend(value.to_be_bytes()),
            Property::Four(_, value) => out.extend(value.to_be_bytes()),
            Property::Variable(_, value) => put_length(out, *value as usize),
            Property::Text(_, value) => put_binary(out, value.as_bytes()),
            Property::Binary(_, value) => put_binary(out, value),
            Property::Pair(key, value) => {
                put_binary(out, key.as_bytes());
                put_binary(out, value.as_bytes());
            }
        }
    }

    fn read(section: &mut Reader<'_>) -> Property {
        let id = section.byte();
        match id {
            PAYLOAD_FORMAT
            | REQUEST_PROBLEM
            | REQUEST_RESPONSE
            | MAXIMUM_QOS
            | RETAIN_AVAILABLE
            | WILDCARD_AVAILABLE
            | SUBSCRIPTION_IDS_AVAILABLE
            | SHARED_AVAILABLE => {
                let value = section.byte();
                assert!(value <= 1, "property {id:#x} is {value}");
                Property::Byte(id, value)
            }
            SERVER_KEEP_ALIVE | TOPIC_ALIAS_MAXIMUM => Property::Two(id, section.two()),
            RECEIVE_MAXIMUM | TOPIC_ALIAS => {
                let value = section.two();
                assert_ne!(value, 0, "property {id:#x}");
                Property::Two(id, value)
            }
            MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
                Property::Four(id, section.four())
            }
            SUBSCRIPTION_ID => {
                let value = u32::try_from(section.length()).unwrap();
                assert_ne!(value, 0, "a subscription identifier");
                Property::Variable(id, value)
            }
            CONTENT_TYPE
            | RESPONSE_TOPIC
            | ASSIGNED_CLIENT_ID
            | AUTHENTICATION_METHOD
            | RESPONSE_INFORMATION
            | SERVER_REFERENCE
            | REASON_STRING => Property::Text(id, section.text()),
            CORRELATION_DATA | AUTHENTICATION_DATA => Property::Binary(id, section.binary().into()),
            USER_PROPERTY => Property::Pair(section.text(), section.text()),
            _ => panic!("there is no property {id:#x}"),
        }
    }
}

/// A CONNECT: clean, with a keep-alive of a minute, and without anything else unless it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) properties: Vec<Property>,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
}

/// A will, as it stands in a CONNECT.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<Property>,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &str) -> Will {
        Will {
            topic: topic.into(),
            payload: payload.into(),
            qos: 1,
            retain: false,
            properties: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, property: Property) -> Will {
        self.properties.push(property);
        self
    }
}

impl Connect {
    pub(crate) fn new(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.into(),
            clean: true,
            keep_alive_s: 60,
            properties: Vec::new(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    /// With a session that outlives the connection, and that is resumed where there is one.
    pub(crate) fn lasting(version: Version, client_id: &str) -> Connect {
        Connect::new(version, client_id)
            .resume()
            .with(Property::Four(SESSION_EXPIRY, 1_000))
    }

    /// Clean start, or clean session, 0.
    pub(crate) fn resume(mut self) -> Connect {
        self.clean = false;
        self
    }

    /// Counts in MQTT 5 alone; 3.1.1 has no properties.
    pub(crate) fn with(mut self, property: Property) -> Connect {
        self.properties.push(property);
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive_s = seconds;
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }

    pub(crate) fn user(mut self, name: &str) -> Connect {
        self.user_name = Some(name.into());
        self
    }

    pub(crate) fn password(mut self, password: &str) -> Connect {
        self.password = Some(password.into());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let level = match self.version {
            Version::V311 => 4,
            Version::V5 => 5,
        };
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.password.is_some()) << 6 | u8::from(self.user_name.is_some()) << 7;
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags];
        body.extend(self.keep_alive_s.to_be_bytes());
        put_properties(&mut body, self.version, &self.properties);
        put_binary(&mut body, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            put_properties(&mut body, self.version, &will.properties);
            put_binary(&mut body, will.topic.as_bytes());
            put_binary(&mut body, &will.payload);
        }
        if let Some(name) = &self.user_name {
            put_binary(&mut body, name.as_bytes());
        }
        if let Some(password) = &self.password {
            put_binary(&mut body, password);
        }
        frame(0x10, &body)
    }
}

/// A PUBLISH, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    /// Zero where there is none.
    pub(crate) packet_id: u16,
    pub(crate) properties: Vec<Property>,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    /// QoS 0.
    pub(crate) fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Publish {
        Publish {
            dup: false,
            qos: 0,
            retain: false,
            topic: topic.into(),
            packet_id: 0,
            properties: Vec::new(),
            payload: payload.into(),
        }
    }

    pub(crate) fn qos(mut self, qos: u8, packet_id: u16) -> Publish {
        self.qos = qos;
        self.packet_id = packet_id;
        self
    }

    pub(crate) fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Publish {
        self.properties.push(property);
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The value of the only property with this id.
    pub(crate) fn property(&self, id: u8) -> Option<&Property> {
        self.properties.iter().find(|property| property.id() == id)
    }

    /// The subscription identifiers, smallest first.
    pub(crate) fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .properties
            .iter()
            .filter_map(|property| match property {
                Property::Variable(SUBSCRIPTION_ID, id) => Some(*id),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        put_binary(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend(self.packet_id.to_be_bytes());
        }
        put_properties(&mut body, version, &self.properties);
        body.extend(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        frame(0x30 | flags, &body)
    }
}

/// Something that acknowledges a packet by its identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) packet_id: u16,
    /// Zero in 3.1.1, which has none.
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
}

/// The first byte of each acknowledgement, as a client writes it.
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;

/// PUBACK, PUBREC, PUBREL or PUBCOMP; a code of zero is left out, as both versions read it.
pub(crate) fn ack(first: u8, packet_id: u16, code: u8) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    match code {
        0 => frame(first, &[high, low]),
        code => frame(first, &[high, low, code]),
    }
}

/// A SUBSCRIBE to filters with their options.
pub(crate) fn subscribe(
    version: Version,
    packet_id: u16,
    properties: &[Property],
    filters: &[(&str, u8)],
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    put_properties(&mut body, version, properties);
    for (filter, options) in filters {
        put_binary(&mut body, filter.as_bytes());
        body.push(*options);
    }
    frame(0x82, &body)
}

pub(crate) fn unsubscribe(version: Version, packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    put_properties(&mut body, version, &[]);
    for filter in filters {
        put_binary(&mut body, filter.as_bytes());
    }
    frame(0xA2, &body)
}

pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];

/// A DISCONNECT of MQTT 5.
pub(crate) fn disconnect(code: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![code];
    put_properties(&mut body, Version::V5, properties);
    frame(0xE0, &body)
}

/// A whole packet of a first byte and what stands behind its length.
pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_length(&mut out, body.len());
    out.extend(body);
    out
}

/// Bytes behind their length of two bytes.
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
}

fn put_properties(out: &mut Vec<u8>, version: Version, properties: &[Property]) {
    if version == Version::V311 {
        return;
    }
    let mut section = Vec::new();
    for property in properties {
        property.write(&mut section);
    }
    put_length(out, section.len());
    out.extend(section);
}

/// Anything that a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck(Codes),
    UnsubAck(Codes),
    PingResp,
    Disconnect { code: u8, properties: Vec<Property> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
}

impl ConnAck {
    /// The value of the only property with this id.
    pub(crate) fn property(&self, id: u8) -> Option<&Property> {
        self.properties.iter().find(|property| property.id() == id)
    }
}

/// SUBACK or UNSUBACK; the latter has no codes in 3.1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Codes {
    pub(crate) packet_id: u16,
    pub(crate) codes: Vec<u8>,
    pub(crate) properties: Vec<Property>,
}

/// The length of the first packet of `bytes`; `None` while there is no whole one.
pub(crate) fn whole_packet(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.get(1..)?;
    let length_bytes = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let mut reader = Reader { bytes: rest };
    let whole = 1 + length_bytes + reader.length();
    (bytes.len() >= whole).then_some(whole)
}

impl Packet {
    /// Reads one whole packet.
    ///
    /// # Panics
    /// It is not one that a server may send in this version.
    pub(crate) fn read(bytes: &[u8], version: Version) -> Packet {
        let mut body = Reader { bytes };
        let first = body.byte();
        assert_eq!(body.length(), body.bytes.len(), "{bytes:02x?}");
        let flags = first & 0x0F;
        // [MQTT-2.1.3-1], in 3.1.1 [MQTT-2.2.2-1]
        let reserved = match first >> 4 {
            3 => flags,
            6 => 0b0010,
            _ => 0,
        };
        assert_eq!(flags, reserved, "reserved flags of {bytes:02x?}");
        let packet = match first >> 4 {
            2 => Packet::ConnAck(connack(&mut body, version)),
            3 => Packet::Publish(publish(&mut body, version, flags)),
            4 => Packet::PubAck(acknowledgement(&mut body, version, PUBACK_CODES)),
            5 => Packet::PubRec(acknowledgement(&mut body, version, PUBACK_CODES)),
            6 => Packet::PubRel(acknowledgement(&mut body, version, PUBREL_CODES)),
            7 => Packet::PubComp(acknowledgement(&mut body, version, PUBREL_CODES)),
            9 => Packet::SubAck(codes(&mut body, version, suback_codes(version))),
            11 => Packet::UnsubAck(codes(&mut body, version, unsuback_codes(version))),
            13 => Packet::PingResp,
            14 if version == Version::V5 => server_disconnect(&mut body),
            _ => panic!("not a packet of a server: {bytes:02x?}"),
        };
        assert!(body.bytes.is_empty(), "left over from {bytes:02x?}");
        packet
    }

    /// The properties, where the packet has any.
    pub(crate) fn properties(&self) -> &[Property] {
        match self {
            Packet::ConnAck(ConnAck { properties, .. })
            | Packet::Publish(Publish { properties, .. })
            | Packet::PubAck(Ack { properties, .. })
            | Packet::PubRec(Ack { properties, .. })
            | Packet::PubRel(Ack { properties, .. })
            | Packet::PubComp(Ack { properties, .. })
            | Packet::SubAck(Codes { properties, .. })
            | Packet::UnsubAck(Codes { properties, .. })
            | Packet::Disconnect { properties, .. } => properties,
            Packet::PingResp => &[],
        }
    }
}

const PUBACK_CODES: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_CODES: &[u8] = &[0x00, 0x92];
const CONNACK_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const DISCONNECT_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

fn suback_codes(version: Version) -> &'static [u8] {
    match version {
        Version::V311 => &[0x00, 0x01, 0x02, 0x80],
        Version::V5 => &[
            0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
        ],
    }
}

fn unsuback_codes(version: Version) -> &'static [u8] {
    match version {
        Version::V311 => &[],
        Version::V5 => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
    }
}

fn connack(body: &mut Reader<'_>, version: Version) -> ConnAck {
    let flags = body.byte();
    // [MQTT-3.2.2-1] bits 7 to 1 are reserved.
    assert!(flags <= 1, "flags of a CONNACK: {flags:#x}");
    let code = body.byte();
    let allowed = match version {
        Version::V311 => &[0, 1, 2, 3, 4, 5],
        Version::V5 => CONNACK_CODES,
    };
    assert!(allowed.contains(&code), "code {code:#x} of a CONNACK");
    // [MQTT-3.2.2-6], in 3.1.1 [MQTT-3.2.2-4]
    assert!(code == 0 || flags == 0, "a refusal that claims a session");
    let properties = body.properties(
        version,
        &[
            SESSION_EXPIRY,
            RECEIVE_MAXIMUM,
            MAXIMUM_QOS,
            RETAIN_AVAILABLE,
            MAXIMUM_PACKET_SIZE,
            ASSIGNED_CLIENT_ID,
            TOPIC_ALIAS_MAXIMUM,
            REASON_STRING,
            USER_PROPERTY,
            WILDCARD_AVAILABLE,
            SUBSCRIPTION_IDS_AVAILABLE,
            SHARED_AVAILABLE,
            SERVER_KEEP_ALIVE,
            RESPONSE_INFORMATION,
            SERVER_REFERENCE,
            AUTHENTICATION_METHOD,
            AUTHENTICATION_DATA,
        ],
    );
    ConnAck {
        session_present: flags == 1,
        code,
        properties,
    }
}

fn publish(body: &mut Reader<'_>, version: Version, flags: u8) -> Publish {
    let (dup, qos) = (flags & 0x08 != 0, flags >> 1 & 0b11);
    // [MQTT-3.3.1-2], [MQTT-3.3.1-4]
    assert!(qos < 3 && !(dup && qos == 0), "flags of a PUBLISH: {flags:#x}");
    let topic = body.text();
    assert!(!topic.contains(['+', '#']), "a wildcard in {topic}");
    let packet_id = if qos > 0 { body.packet_id() } else { 0 };
    let properties = body.properties(
        version,
        &[
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            TOPIC_ALIAS,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            USER_PROPERTY,
            SUBSCRIPTION_ID,
            CONTENT_TYPE,
        ],
    );
    Publish {
        dup,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: std::mem::take(&mut body.bytes).into(),
    }
}

fn acknowledgement(body: &mut Reader<'_>, version: Version, allowed: &[u8]) -> Ack {
    let packet_id = body.packet_id();
    let (mut code, mut properties) = (0, Vec::new());
    if version == Version::V5 && !body.bytes.is_empty() {
        code = body.byte();
        assert!(allowed.contains(&code), "code {code:#x} of an acknowledgement");
        if !body.bytes.is_empty() {
            properties = body.properties(version, &[REASON_STRING, USER_PROPERTY]);
        }
    }
    Ack {
        packet_id,
        code,
        properties,
    }
}

fn codes(body: &mut Reader<'_>, version: Version, allowed: &[u8]) -> Codes {
    let packet_id = body.packet_id();
    let properties = body.properties(version, &[REASON_STRING, USER_PROPERTY]);
    let codes = std::mem::take(&mut body.bytes).to_vec();
    assert!(
        codes.iter().all(|code| allowed.contains(code)),
        "codes {codes:02x?}"
    );
    Codes {
        packet_id,
        codes,
        properties,
    }
}

fn server_disconnect(body: &mut Reader<'_>) -> Packet {
    let (mut code, mut properties) = (0, Vec::new());
    if !body.bytes.is_empty() {
        code = body.byte();
        assert!(DISCONNECT_CODES.contains(&code), "code {code:#x} of a DISCONNECT");
        if !body.bytes.is_empty() {
            // [MQTT-3.14.2-2] no session expiry from a server.
            properties = body.properties(Version::V5, &[REASON_STRING, USER_PROPERTY, SERVER_REFERENCE]);
        }
    }
    Packet::Disconnect { code, properties }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .unwrap_or_else(|| panic!("{count} bytes are wanted, there are {:02x?}", self.bytes));
        self.bytes = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn packet_id(&mut self) -> u16 {
        let packet_id = self.two();
        assert_ne!(packet_id, 0, "a packet identifier");
        packet_id
    }

    /// A variable byte integer, in as many bytes as it needs and no more [MQTT-1.5.5-1].
    fn length(&mut self) -> usize {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte();
            value |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                assert!(place == 0 || byte != 0, "a length with a byte too many");
                return value;
            }
        }
        panic!("a length of more than four bytes");
    }

    fn binary(&mut self) -> &'a [u8] {
        let length = self.two();
        self.take(usize::from(length))
    }

    fn text(&mut self) -> String {
        let text = std::str::from_utf8(self.binary()).expect("[MQTT-1.5.4-1] well-formed UTF-8");
        assert!(!text.contains('\0'), "[MQTT-1.5.4-2] no U+0000");
        text.into()
    }

    fn properties(&mut self, version: Version, allowed: &[u8]) -> Vec<Property> {
        if version == Version::V311 {
            return Vec::new();
        }
        let length = self.length();
        let mut section = Reader {
            bytes: self.take(length),
        };
        let mut properties: Vec<Property> = Vec::new();
        while !section.bytes.is_empty() {
            let property = Property::read(&mut section);
            let id = property.id();
            assert!(allowed.contains(&id), "property {id:#x} does not belong here");
            let repeats = properties.iter().any(|other| other.id() == id);
            assert!(
                !repeats || matches!(id, USER_PROPERTY | SUBSCRIPTION_ID),
                "property {id:#x} twice"
            );
            properties.push(property);
        }
        properties
    }
}
