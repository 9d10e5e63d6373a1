//! The gate before the codec: is this frame, byte for byte, a packet that a client may send?
//!
//! The codec takes frames apart; it does not look at reserved flags, trailing bytes, repeated or misplaced properties,
//! property lengths that reach into the payload, or NUL in strings. All of that is refused here, with a reason, so that
//! nothing behind the gate checks it again. The gate keeps no state and never allocates.

use super::message::{Version, property};
use crate::filter;
use crate::reason::Reason;

/// What the fixed header says about the frame that the bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) first: u8,
    pub(crate) header_bytes: usize,
    pub(crate) frame_bytes: usize,
}

/// The header of the first frame of `bytes`; `None` while it is not complete.
///
/// # Errors
/// The remaining length has more than four bytes, or more of them than it needs.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    Ok(varint(rest)?.map(|(length, length_bytes)| Header {
        first,
        header_bytes: 1 + length_bytes,
        frame_bytes: 1 + length_bytes + length,
    }))
}

/// A variable byte integer and its own length; `None` where the bytes end within it.
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, Reason> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // [MQTT-1.5.5-1] the minimum number of bytes.
            return if index > 0 && *byte == 0 {
                Err(Reason::Malformed)
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() >= 4 {
        Err(Reason::Malformed)
    } else {
        Ok(None)
    }
}

/// The version that a first packet asks for.
///
/// # Errors
/// It is not a CONNECT, or of a level that is not spoken here.
pub(crate) fn version_of_connect(frame: &[u8], header: Header) -> Result<Version, Reason> {
    if header.first >> 4 != 1 {
        // [MQTT-3.1.0-1] the first packet is a CONNECT.
        return Err(Reason::NotConnect);
    }
    let mut body = Cursor {
        bytes: frame.get(header.header_bytes..).unwrap_or_default(),
    };
    let name = body.binary()?;
    let level = body.u8()?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        // [MQTT-3.1.2-2] unacceptable levels are answered.
        (b"MQTT" | b"MQIsdp", _) => Err(Reason::UnsupportedVersion),
        _ => Err(Reason::NotConnect),
    }
}

/// The largest packet that a CONNECT of version 5 says its client takes, in bytes; `None` where it says nothing that can be read.
pub(crate) fn packet_bytes_max_of_connect(frame: &[u8], header: Header) -> Option<u32> {
    let mut body = Cursor {
        bytes: frame.get(header.header_bytes..)?,
    };
    // The name, the level, the flags and the keep-alive.
    body.binary().ok()?;
    body.take(4).ok()?;
    four_bytes_of(body.bytes, property::MAXIMUM_PACKET_SIZE)
}

/// Checks one whole frame, `frame.len() == header.frame_bytes`.
///
/// # Errors
/// `Malformed` or `ProtocolError`, or the reason that names the fault better.
pub(crate) fn check(frame: &[u8], header: Header, version: Version) -> Result<(), Reason> {
    let kind = header.first >> 4;
    let flags = header.first & 0x0F;
    // [MQTT-2.2.2-2] reserved flags.
    let flags_allowed = match kind {
        3 => true,
        6 | 8 | 10 => flags == 0b0010,
        _ => flags == 0,
    };
    if !flags_allowed {
        return Err(Reason::Malformed);
    }
    let mut body = Cursor {
        bytes: frame.get(header.header_bytes..).unwrap_or_default(),
    };
    match kind {
        1 => connect(&mut body, version)?,
        3 => return publish(&mut body, flags, version),
        4..=7 => acknowledgement(&mut body, kind, version)?,
        8 => subscribe(&mut body, version)?,
        10 => unsubscribe(&mut body, version)?,
        12 => {}
        14 => disconnect(&mut body, version)?,
        // CONNACK, SUBACK, UNSUBACK and PINGRESP are the server's; AUTH belongs to a method, and none is offered.
        _ => return Err(Reason::ProtocolError),
    }
    body.end()
}

fn connect(body: &mut Cursor<'_>, version: Version) -> Result<(), Reason> {
    body.binary()?;
    body.u8()?;
    let flags = body.u8()?;
    let (will, will_qos, will_retain) = (flags & 0x04 != 0, flags >> 3 & 0b11, flags & 0x20 != 0);
    let (user_name, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    // [MQTT-3.1.2-3] reserved, [MQTT-3.1.2-11] to [-15] a will's flags only with a will, [MQTT-3.1.2-22] of 3.1.1.
    let wrong = flags & 1 != 0
        || (!will && (will_qos != 0 || will_retain))
        || will_qos == 3
        || (version == Version::V311 && password && !user_name);
    if wrong {
        return Err(Reason::Malformed);
    }
    body.u16()?;
    if version == Version::V5 {
        properties(body, Packet::Connect)?;
    }
    body.text()?;
    if will {
        if version == Version::V5 {
            properties(body, Packet::Will)?;
        }
        body.text()?;
        body.binary()?;
    }
    if user_name {
        body.text()?;
    }
    if password {
        body.binary()?;
    }
    Ok(())
}

fn publish(body: &mut Cursor<'_>, flags: u8, version: Version) -> Result<(), Reason> {
    let qos = flags >> 1 & 0b11;
    // [MQTT-3.3.1-4] QoS 3, [MQTT-3.3.1-2] DUP without an acknowledgement.
    if qos == 3 || (qos == 0 && flags & 0b1000 != 0) {
        return Err(Reason::Malformed);
    }
    body.text()?;
    if qos > 0 {
        packet_id(body)?;
    }
    match version {
        Version::V311 => Ok(()),
        Version::V5 => properties(body, Packet::Publish),
    }
}

fn acknowledgement(body: &mut Cursor<'_>, kind: u8, version: Version) -> Result<(), Reason> {
    packet_id(body)?;
    if version == Version::V5 && !body.bytes.is_empty() {
        // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1] one of the codes of its kind.
        let known = matches!(
            (kind, body.u8()?),
            (
                4 | 5,
                0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
            ) | (6 | 7, 0x00 | 0x92)
        );
        if !known {
            return Err(Reason::Malformed);
        }
        if !body.bytes.is_empty() {
            properties(body, Packet::Acknowledgement)?;
        }
    }
    Ok(())
}

fn subscribe(body: &mut Cursor<'_>, version: Version) -> Result<(), Reason> {
    packet_id(body)?;
    if version == Version::V5 {
        properties(body, Packet::Subscribe)?;
    }
    // [MQTT-3.8.3-2] at least one filter.
    if body.bytes.is_empty() {
        return Err(Reason::ProtocolError);
    }
    while !body.bytes.is_empty() {
        body.text()?;
        let options = body.u8()?;
        // [MQTT-3.8.3-4], [MQTT-3.8.3-5] of 5: reserved bits are zero.
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        if options & reserved != 0 || options & 0b11 == 3 || options >> 4 & 0b11 == 3 {
            return Err(Reason::Malformed);
        }
    }
    Ok(())
}

fn unsubscribe(body: &mut Cursor<'_>, version: Version) -> Result<(), Reason> {
    packet_id(body)?;
    if version == Version::V5 {
        properties(body, Packet::Unsubscribe)?;
    }
    // [MQTT-3.10.3-2] at least one filter.
    if body.bytes.is_empty() {
        return Err(Reason::ProtocolError);
    }
    while !body.bytes.is_empty() {
        body.text()?;
    }
    Ok(())
}

fn disconnect(body: &mut Cursor<'_>, version: Version) -> Result<(), Reason> {
    if version == Version::V5 && !body.bytes.is_empty() {
        body.u8()?;
        if !body.bytes.is_empty() {
            properties(body, Packet::Disconnect)?;
        }
    }
    Ok(())
}

/// [MQTT-2.2.1-3] packet identifiers are not zero.
fn packet_id(body: &mut Cursor<'_>) -> Result<(), Reason> {
    if body.u16()? == 0 {
        Err(Reason::ProtocolError)
    } else {
        Ok(())
    }
}

/// What a section of properties belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packet {
    Connect,
    Will,
    Publish,
    Acknowledgement,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

/// The session expiry of a DISCONNECT of version 5 that has passed the gate, in seconds; `None` where it says nothing of it.
pub(crate) fn session_expiry_of_disconnect(frame: &[u8], header: Header) -> Option<u32> {
    four_bytes_of(frame.get(header.header_bytes + 1..)?, property::SESSION_EXPIRY)
}

/// A property of four bytes out of the section that `bytes` begin with.
fn four_bytes_of(bytes: &[u8], wanted: u8) -> Option<u32> {
    let (length, length_bytes) = varint(bytes).ok()??;
    let rest = bytes.get(length_bytes..)?;
    let mut section = Cursor {
        bytes: rest.get(..length).unwrap_or(rest),
    };
    while !section.bytes.is_empty() {
        let id = section.u8().ok()?;
        if id == wanted {
            return section.take(4).ok()?.try_into().ok().map(u32::from_be_bytes);
        }
        value(&mut section, id).ok()?;
    }
    None
}

/// The identifier of an acknowledgement that has passed the gate, and its reason code: 0 where it has none.
pub(crate) fn parts_of_acknowledgement(frame: &[u8], header: Header) -> Option<(u16, u8)> {
    let mut body = Cursor {
        bytes: frame.get(header.header_bytes..)?,
    };
    Some((body.u16().ok()?, body.u8().unwrap_or(0)))
}

/// Walks one section of properties: known, allowed here, at most once, of the right form, and ending where it says.
fn properties(body: &mut Cursor<'_>, packet: Packet) -> Result<(), Reason> {
    let (length, length_bytes) = varint(body.bytes)?.ok_or(Reason::Malformed)?;
    body.take(length_bytes)?;
    let mut section = Cursor {
        bytes: body.take(length)?,
    };
    let mut seen = 0u64;
    while !section.bytes.is_empty() {
        let id = section.u8()?;
        if !is_allowed(id, packet) {
            return Err(Reason::Malformed);
        }
        // A repeated property is a protocol error, but for user properties.
        if id != property::USER_PROPERTY {
            if seen & (1 << id) != 0 {
                return Err(Reason::ProtocolError);
            }
            seen |= 1 << id;
        }
        value(&mut section, id)?;
    }
    Ok(())
}

fn is_allowed(id: u8, packet: Packet) -> bool {
    use property::*;
    match packet {
        Packet::Connect => matches!(
            id,
            SESSION_EXPIRY
                | RECEIVE_MAXIMUM
                | MAXIMUM_PACKET_SIZE
                | TOPIC_ALIAS_MAXIMUM
                | REQUEST_RESPONSE
                | REQUEST_PROBLEM
                | USER_PROPERTY
                | AUTHENTICATION_METHOD
                | AUTHENTICATION_DATA
        ),
        Packet::Will => matches!(
            id,
            WILL_DELAY
                | PAYLOAD_FORMAT
                | MESSAGE_EXPIRY
                | CONTENT_TYPE
                | RESPONSE_TOPIC
                | CORRELATION_DATA
                | USER_PROPERTY
        ),
        // [MQTT-3.3.4-6] no subscription identifier from a client.
        Packet::Publish => matches!(
            id,
            PAYLOAD_FORMAT
                | MESSAGE_EXPIRY
                | TOPIC_ALIAS
                | RESPONSE_TOPIC
                | CORRELATION_DATA
                | USER_PROPERTY
                | CONTENT_TYPE
        ),
        Packet::Acknowledgement => matches!(id, REASON_STRING | USER_PROPERTY),
        Packet::Subscribe => matches!(id, SUBSCRIPTION_IDENTIFIER | USER_PROPERTY),
        Packet::Unsubscribe => id == USER_PROPERTY,
        Packet::Disconnect => matches!(id, SESSION_EXPIRY | REASON_STRING | USER_PROPERTY),
    }
}

fn value(section: &mut Cursor<'_>, id: u8) -> Result<(), Reason> {
    use property::*;
    let fine = match id {
        PAYLOAD_FORMAT | REQUEST_RESPONSE | REQUEST_PROBLEM => section.u8()? <= 1,
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY => return section.take(4).map(|_| ()),
        MAXIMUM_PACKET_SIZE => section.take(4)? != [0; 4],
        RECEIVE_MAXIMUM => section.u16()? != 0,
        TOPIC_ALIAS_MAXIMUM => return section.u16().map(|_| ()),
        // [MQTT-3.3.2-8] an alias is not zero.
        TOPIC_ALIAS => {
            return if section.u16()? == 0 {
                Err(Reason::TopicAliasInvalid)
            } else {
                Ok(())
            };
        }
        SUBSCRIPTION_IDENTIFIER => {
            let (identifier, bytes) = varint(section.bytes)?.ok_or(Reason::Malformed)?;
            section.take(bytes)?;
            identifier != 0
        }
        // [MQTT-3.3.2-14] a response topic has no wildcards.
        RESPONSE_TOPIC => filter::is_topic(section.text()?),
        // [MQTT-1.5.4-1] what is no text is malformed, here as anywhere.
        CONTENT_TYPE | REASON_STRING | AUTHENTICATION_METHOD => return section.text().map(|_| ()),
        CORRELATION_DATA | AUTHENTICATION_DATA => return section.binary().map(|_| ()),
        USER_PROPERTY => return section.text().and(section.text()).map(|_| ()),
        _ => false,
    };
    if fine { Ok(()) } else { Err(Reason::ProtocolError) }
}

/// Reads forward through bytes, and never beyond them.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Reason::Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Reason> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn binary(&mut self) -> Result<&'a [u8], Reason> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// [MQTT-1.5.4-1] well-formed UTF-8, [MQTT-1.5.4-2] without U+0000.
    fn text(&mut self) -> Result<&'a str, Reason> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Reason::Malformed)?;
        if text.contains('\0') {
            Err(Reason::Malformed)
        } else {
            Ok(text)
        }
    }

    fn end(&self) -> Result<(), Reason> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(Reason::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(frame: &[u8], version: Version) -> Result<(), Reason> {
        let header = header(frame)?.expect("the table holds whole frames");
        assert_eq!(header.frame_bytes, frame.len(), "{frame:02x?}");
        check(frame, header, version)
    }

    #[test]
    fn frames_that_no_client_may_send_are_refused_with_a_reason() {
        use Reason::*;
        use Version::*;
        type Row = (&'static str, Version, &'static [u8], Result<(), Reason>);
        let table: &[Row] = &[
            ("ping", V5, &[0xC0, 0], Ok(())),
            (
                "publish, content type not UTF-8",
                V5,
                &[0x30, 8, 0, 1, b'a', 4, 0x03, 0, 1, 0xFF],
                Err(Malformed),
            ),
            (
                "publish, NUL in the value of a user property",
                V5,
                &[0x30, 11, 0, 1, b'a', 7, 0x26, 0, 1, b'k', 0, 1, 0],
                Err(Malformed),
            ),
            (
                "publish, expiry cut off",
                V5,
                &[0x30, 7, 0, 1, b'a', 3, 0x02, 0, 1],
                Err(Malformed),
            ),
            ("ping with flags", V5, &[0xC1, 0], Err(Malformed)),
            ("ping with a body", V5, &[0xC0, 1, 0], Err(Malformed)),
            ("disconnect, short", V5, &[0xE0, 0], Ok(())),
            ("disconnect with a reason only", V5, &[0xE0, 1, 4], Ok(())),
            (
                "disconnect with a body in 3.1.1",
                V311,
                &[0xE0, 1, 4],
                Err(Malformed),
            ),
            (
                "publish, QoS 3",
                V311,
                &[0x36, 5, 0, 1, b'a', 0, 1],
                Err(Malformed),
            ),
            (
                "publish, DUP with QoS 0",
                V311,
                &[0x38, 3, 0, 1, b'a'],
                Err(Malformed),
            ),
            (
                "publish, packet id 0",
                V311,
                &[0x32, 5, 0, 1, b'a', 0, 0],
                Err(ProtocolError),
            ),
            (
                "publish, topic beyond the end",
                V311,
                &[0x30, 3, 0, 9, b'a'],
                Err(Malformed),
            ),
            (
                "publish, topic not UTF-8",
                V311,
                &[0x30, 3, 0, 1, 0xFF],
                Err(Malformed),
            ),
            (
                "publish, NUL in the topic",
                V311,
                &[0x30, 3, 0, 1, 0],
                Err(Malformed),
            ),
            ("publish, no properties", V5, &[0x30, 4, 0, 1, b'a', 0], Ok(())),
            (
                "publish, properties missing",
                V5,
                &[0x30, 3, 0, 1, b'a'],
                Err(Malformed),
            ),
            (
                "publish, property into payload",
                V5,
                &[0x30, 7, 0, 1, b'a', 2, 0x23, 0, 1],
                Err(Malformed),
            ),
            (
                "publish, alias 0",
                V5,
                &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0],
                Err(TopicAliasInvalid),
            ),
            (
                "publish, alias twice",
                V5,
                &[0x30, 10, 0, 1, b'a', 6, 0x23, 0, 1, 0x23, 0, 1],
                Err(ProtocolError),
            ),
            (
                "publish, subscription id",
                V5,
                &[0x30, 6, 0, 1, b'a', 2, 0x0B, 1],
                Err(Malformed),
            ),
            (
                "publish, unknown property",
                V5,
                &[0x30, 6, 0, 1, b'a', 2, 0x7F, 1],
                Err(Malformed),
            ),
            (
                "publish, long-winded length",
                V5,
                &[0x30, 5, 0, 1, b'a', 0x80, 0],
                Err(Malformed),
            ),
            (
                "subscribe without its flags",
                V311,
                &[0x80, 6, 0, 1, 0, 1, b'a', 0],
                Err(Malformed),
            ),
            ("subscribe", V311, &[0x82, 6, 0, 1, 0, 1, b'a', 0], Ok(())),
            ("subscribe to nothing", V311, &[0x82, 2, 0, 1], Err(ProtocolError)),
            (
                "subscribe, QoS 3",
                V311,
                &[0x82, 6, 0, 1, 0, 1, b'a', 3],
                Err(Malformed),
            ),
            (
                "subscribe, options of 5 in 3.1.1",
                V311,
                &[0x82, 6, 0, 1, 0, 1, b'a', 4],
                Err(Malformed),
            ),
            (
                "subscribe, subscription id 0",
                V5,
                &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0],
                Err(ProtocolError),
            ),
            (
                "unsubscribe from nothing",
                V5,
                &[0xA2, 3, 0, 1, 0],
                Err(ProtocolError),
            ),
            ("acknowledgement, short", V5, &[0x40, 2, 0, 1], Ok(())),
            ("acknowledgement, reason", V5, &[0x40, 3, 0, 1, 0x87], Ok(())),
            (
                "acknowledgement, trailing byte",
                V311,
                &[0x40, 3, 0, 1, 0],
                Err(Malformed),
            ),
            ("a packet of the server", V311, &[0xD0, 0], Err(ProtocolError)),
            ("AUTH", V5, &[0xF0, 0], Err(ProtocolError)),
            ("packet type 15 in 3.1.1", V311, &[0xF0, 0], Err(ProtocolError)),
            ("packet type 0", V311, &[0x00, 0], Err(ProtocolError)),
        ];
        for (name, version, frame, expected) in table {
            assert_eq!(judge(frame, *version), *expected, "{name}");
        }
    }

    #[test]
    fn the_flags_of_a_connect_must_agree_with_each_other() {
        // Flags, and the payload behind the client id "c".
        let table: &[(u8, &[u8], Result<(), Reason>)] = &[
            (0x02, &[], Ok(())),
            (0x03, &[], Err(Reason::Malformed)),
            (0x0A, &[], Err(Reason::Malformed)),
            (0x22, &[], Err(Reason::Malformed)),
            (0x06, &[0, 1, b't', 0, 0], Ok(())),
            (0x06, &[0, 1, b't'], Err(Reason::Malformed)),
            (0x1E, &[0, 1, b't', 0, 0], Err(Reason::Malformed)),
            (0x42, &[0, 1, b'p'], Err(Reason::Malformed)),
            (0x82, &[0, 1, b'u'], Ok(())),
            (0xC2, &[0, 1, b'u', 0, 1, 0xFF], Ok(())),
            (0x02, &[0], Err(Reason::Malformed)),
        ];
        for (flags, rest, expected) in table {
            let mut frame = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, *flags, 0, 0, 0, 1, b'c'];
            frame.extend_from_slice(rest);
            frame[1] = u8::try_from(frame.len() - 2).unwrap();
            assert_eq!(judge(&frame, Version::V311), *expected, "{flags:#x} {rest:?}");
        }
    }

    #[test]
    fn a_remaining_length_has_at_most_four_bytes() {
        assert_eq!(header(&[0x30]), Ok(None));
        assert_eq!(header(&[0x30, 0x80, 0x80, 0x80]), Ok(None));
        assert_eq!(header(&[0x30, 0x80, 0x80, 0x80, 0x80]), Err(Reason::Malformed));
        let largest = header(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap().unwrap();
        assert_eq!(largest.frame_bytes, 5 + 268_435_455);
    }
}
