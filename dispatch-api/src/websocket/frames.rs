//! What a client sends on a WebSocket, taken apart where it was read (RFC 6455 §5).
//!
//! The payload of binary messages is one stream of bytes: borders of frames and messages mean nothing in it
//! [MQTT-6.0.0-2]. So no frame is ever put together. Payload is unmasked in the buffer into which it was read and moves to
//! the front of it; what is kept between two reads is a head that is not complete, and of a ping what has to be answered.
//! No IO, no clock.

use std::ops::Range;

/// Bytes of one frame from a client; a larger one is refused with 1009. Nothing of a frame is held, so that the bound is
/// there to end what cannot be meant: packets have a bound of their own behind this, and a frame may hold many.
pub(super) const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// [RFC 6455 §5.5] the payload of a control frame.
const CONTROL_BYTES_MAX: u8 = 125;
/// Two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client closes.
    Closed,
    /// The client broke the rules.
    Violation(Violation),
}

/// Which rule a client broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// A frame that the protocol does not have.
    Malformed,
    /// A text message: [MQTT-6.0.0-1] packets are sent in binary ones.
    Text,
    /// A frame over [`FRAME_BYTES_MAX`].
    TooLarge,
}

impl Violation {
    /// The status that says so in a close frame (RFC 6455 §7.4.1).
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Malformed => 1002,
            Self::Text => 1003,
            Self::TooLarge => 1009,
        }
    }

    /// Its label in metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Text => "text_frame",
            Self::TooLarge => "frame_bytes_max",
        }
    }
}

/// The state between two reads.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    frame: Option<Frame>,
    /// A binary message has begun, and its last frame has not come.
    in_message: bool,
    /// The payload of the control frame under way.
    control: Vec<u8>,
    /// The payload of the last ping that was not answered yet; [RFC 6455 §5.5.3] the last one is enough.
    pub(super) unanswered_ping: Option<Vec<u8>>,
}

/// A frame whose head was read.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
}

impl Frames {
    /// Takes in what was read. How many bytes of payload now stand at the front of `bytes`, and whether it is the end; what
    /// stands behind an end is not looked at.
    pub(super) fn take_in(&mut self, bytes: &mut [u8]) -> (usize, Option<End>) {
        let (mut from, mut payload) = (0, 0);
        while from < bytes.len() {
            match &mut self.frame {
                None => {
                    self.head[self.head_bytes] = bytes[from];
                    self.head_bytes += 1;
                    from += 1;
                    match head(&self.head[..self.head_bytes], self.in_message) {
                        Ok(None) => continue,
                        Ok(Some(frame)) => {
                            if frame.opcode & 0x8 == 0 {
                                self.in_message = self.head[0] & 0x80 == 0;
                            }
                            self.head_bytes = 0;
                            self.frame = Some(frame);
                        }
                        Err(violation) => return (payload, Some(End::Violation(violation))),
                    }
                }
                Some(frame) => {
                    let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
                    let read = from..bytes.len().min(from.saturating_add(left));
                    from = read.end;
                    frame.unmask(bytes, read.clone());
                    if frame.opcode & 0x8 == 0 {
                        payload += read.len();
                        bytes.copy_within(read.clone(), payload - read.len());
                    } else {
                        self.control.extend_from_slice(&bytes[read]);
                    }
                }
            }
            if self.frame.as_ref().is_some_and(|frame| frame.left == 0)
                && let Some(end) = self.finish_frame()
            {
                return (payload, Some(end));
            }
        }
        (payload, None)
    }

    fn finish_frame(&mut self) -> Option<End> {
        let frame = self.frame.take()?;
        let control = std::mem::take(&mut self.control);
        match frame.opcode {
            PING => self.unanswered_ping = Some(control),
            // [RFC 6455 §5.5.1] a status has two bytes.
            CLOSE if control.len() == 1 => return Some(End::Violation(Violation::Malformed)),
            CLOSE => return Some(End::Closed),
            // Payload has been handed on, and a pong that nobody asked for means nothing.
            _ => {}
        }
        None
    }
}

impl Frame {
    /// Unmasks the next bytes of the payload.
    fn unmask(&mut self, bytes: &mut [u8], range: Range<usize>) {
        let count = range.len();
        for (byte, mask) in bytes[range].iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(count % 4);
        self.left -= count as u64;
    }
}

/// Reads a head as soon as it is complete, and refuses one as soon as that is certain.
fn head(bytes: &[u8], in_message: bool) -> Result<Option<Frame>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (is_last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
    let (masked, short_length) = (second & 0x80 != 0, second & 0x7F);
    let in_order = match opcode {
        TEXT => return Err(Violation::Text),
        BINARY => !in_message,
        CONTINUATION => in_message,
        CLOSE | PING | PONG => is_last && short_length <= CONTROL_BYTES_MAX,
        _ => false,
    };
    // [RFC 6455 §5.1] clients mask, [§5.2] reserved bits belong to extensions, and none was agreed.
    if !in_order || !masked || reserved != 0 {
        return Err(Violation::Malformed);
    }
    let length_bytes = match short_length {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(length_bytes) else {
        return Ok(None);
    };
    let length = match length_bytes {
        0 => u64::from(short_length),
        _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    // [RFC 6455 §5.2] the shortest form that holds it.
    if (length_bytes == 2 && length < 126) || (length_bytes == 8 && length < 65_536) {
        return Err(Violation::Malformed);
    }
    if length > FRAME_BYTES_MAX {
        return Err(Violation::TooLarge);
    }
    Ok(rest.first_chunk().map(|mask| Frame {
        opcode,
        left: length,
        mask: *mask,
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length @ 126..65_536 => {
                frame.push(0xFE);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(0xFF);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    /// Takes in the bytes in pieces of this size; the payload and the end.
    fn heard(frames: &mut Frames, bytes: &[u8], piece: usize) -> (Vec<u8>, Option<End>) {
        let mut payload = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let (count, end) = frames.take_in(&mut piece);
            payload.extend_from_slice(&piece[..count]);
            if end.is_some() {
                return (payload, end);
            }
        }
        (payload, None)
    }

    #[test]
    fn the_payload_is_one_stream_however_it_was_cut() {
        let long = vec![7; 70_000];
        let sent = [
            masked(0x82, b"one"),
            masked(0x89, b"ping"),
            // A message in three frames, with a pong and a ping between them.
            masked(0x02, b"tw"),
            masked(0x8A, b"nobody asked"),
            masked(0x00, b""),
            masked(0x89, b"again"),
            masked(0x80, b"o"),
            masked(0x82, &[9; 300]),
            masked(0x82, &long),
            masked(0x88, &[0x03, 0xE8, b'b', b'y', b'e']),
            b"not looked at".to_vec(),
        ]
        .concat();
        let expected = [b"onetwo".as_slice(), &[9; 300], &long].concat();
        for piece in [1, 2, 3, 7, 64, 1_000, sent.len()] {
            let mut frames = Frames::default();
            let (payload, end) = heard(&mut frames, &sent, piece);
            assert_eq!(end, Some(End::Closed), "{piece}");
            assert!(payload == expected, "{piece}: {} bytes", payload.len());
            assert_eq!(frames.unanswered_ping.as_deref(), Some(&b"again"[..]), "{piece}");
        }
    }

    #[test]
    fn what_the_protocol_does_not_have_is_refused_as_soon_as_it_is_certain() {
        use Violation::{Malformed, Text, TooLarge};
        let table: &[(&str, &[u8], Violation)] = &[
            ("a text message", &[0x81, 0x80], Text),
            ("no mask", &[0x82, 0x01], Malformed),
            ("a reserved bit", &[0xC2, 0x80], Malformed),
            ("a continuation of nothing", &[0x80, 0x80], Malformed),
            ("an unknown opcode", &[0x83, 0x80], Malformed),
            ("an unknown control opcode", &[0x8B, 0x80], Malformed),
            ("a ping in pieces", &[0x09, 0x80], Malformed),
            ("a ping of 126 bytes", &[0x89, 0xFE], Malformed),
            ("a long form of 125", &[0x82, 0xFE, 0, 125], Malformed),
            (
                "a longer form of 65,535",
                &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
                Malformed,
            ),
            (
                "a frame of 16 MiB and one",
                &[0x82, 0xFF, 0, 0, 0, 0, 1, 0, 0, 1],
                TooLarge,
            ),
            (
                "a frame of all bytes",
                &[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
                TooLarge,
            ),
            ("half a status", &[0x88, 0x81, 0, 0, 0, 0, 3], Malformed),
        ];
        for (name, bytes, violation) in table {
            let mut frames = Frames::default();
            let (last, before) = bytes.split_last().unwrap();
            assert_eq!(heard(&mut frames, before, 1), (vec![], None), "{name}");
            let end = heard(&mut frames, &[*last], 1).1;
            assert_eq!(end, Some(End::Violation(*violation)), "{name}");
        }
        // A new message within one, and the payload that came before it.
        let sent = [masked(0x02, b"a"), masked(0x82, b"b")].concat();
        let (payload, end) = heard(&mut Frames::default(), &sent, sent.len());
        assert_eq!((&payload[..], end), (&b"a"[..], Some(End::Violation(Malformed))));
    }

    #[test]
    fn no_sequence_of_bytes_panics_or_makes_more_of_them() {
        // Deterministic noise, with heads that make sense more often than chance has it.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..3_000 {
            let mut frames = Frames::default();
            let mut held = 0;
            for _ in 0..8 {
                let kinds = [0x82, 0x02, 0x00, 0x80, 0x89, 0x88, 0x8A];
                let mut bytes: Vec<u8> = next().to_be_bytes().repeat(3);
                bytes[0] = kinds[usize::try_from(next() % 7).unwrap()];
                bytes[1] = 0x80 | u8::try_from(next() % 20).unwrap();
                bytes.truncate(usize::try_from(next() % 24).unwrap());
                held += bytes.len();
                let (payload, end) = frames.take_in(&mut bytes);
                assert!(payload <= bytes.len());
                assert!(frames.control.len() <= held.min(125));
                if end.is_some() {
                    break;
                }
            }
        }
    }
}
