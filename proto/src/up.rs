//! What a device says: its frame taken apart into numbered operations.

use crate::fix::{track_from_wire, track_to_wire};
use crate::wire::{self, RefusalReason};
use crate::{BadFix, FRAME_BYTES_MAX, Fix, OpNumber, QuickReply, Seq, StreamId, TrackBatch, TrackKind};
use prost::Message;
use sha2::{Digest, Sha256};
use std::num::NonZeroU32;

/// The longest text of an entry, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 4_096;

/// Digests that a hello lists of what is under way; what stands beyond them is said again.
pub const UNDER_WAY_MAX: usize = 32;

/// A frame of which nothing can be applied. The connection stays; the sender is told the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpFrameError {
    /// More than [`FRAME_BYTES_MAX`].
    #[error("the frame is larger than 65,536 bytes")]
    TooLarge,
    /// Not a frame of this protocol.
    #[error("the bytes are not an UpFrame")]
    Unreadable,
    /// Operations without a number, or with a number beyond 64 bits.
    #[error("the operations of the frame have no valid numbers")]
    Numbers,
}

impl UpFrameError {
    /// What to answer.
    pub fn refusal(self) -> RefusalReason {
        match self {
            Self::TooLarge => RefusalReason::TooLarge,
            Self::Unreadable => RefusalReason::Unreadable,
            Self::Numbers => RefusalReason::BadNumber,
        }
    }
}

impl wire::UpFrame {
    /// Reads the payload of a PUBLISH on `u/<device>`.
    ///
    /// # Errors
    /// [`UpFrameError::TooLarge`] before anything is decoded, [`UpFrameError::Unreadable`].
    pub fn parse(payload: &[u8]) -> Result<Self, UpFrameError> {
        if payload.len() > FRAME_BYTES_MAX {
            return Err(UpFrameError::TooLarge);
        }
        Self::decode(payload).map_err(|_| UpFrameError::Unreadable)
    }
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A message, 1 to [`TEXT_BYTES_MAX`] bytes.
    Text(String),
    /// A template with its slots filled in; whether they fit is known to whoever has the template.
    Reply(QuickReply),
    /// Positions for the history.
    Track {
        /// Oldest first, 1 to [`crate::TRACK_FIXES_MAX`].
        fixes: Vec<Fix>,
        /// Travelled or put on file.
        kind: TrackKind,
    },
    /// Points of a line, or fixes, in bits.
    Batch {
        /// One that can be written: see [`Operation::track_batch`].
        batch: TrackBatch,
        /// At the last point, 0 to 100 %.
        battery_pct: Option<u32>,
        /// Travelled or put on file.
        kind: TrackKind,
    },
}

/// One thing that a device did, without its number and time.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The stream it is for; `None` exactly for a track.
    pub stream: Option<StreamId>,
    /// Goes before ordinary ones.
    pub urgent: bool,
    /// The entry that it answers.
    pub reply_to: Option<Seq>,
    /// The broadcast to which that entry belongs; `None` for one of the same stream.
    pub reply_stream: Option<StreamId>,
    /// The earlier entry of the same device whose place it takes.
    pub supersedes: Option<Seq>,
    /// Seconds after which nobody needs it; `None` for never.
    pub expires_in_s: Option<u32>,
    /// What it does.
    pub body: Body,
}

impl Operation {
    /// A message for `stream`.
    pub fn text(stream: StreamId, text: impl Into<String>) -> Self {
        Self {
            stream: Some(stream),
            urgent: false,
            reply_to: None,
            reply_stream: None,
            supersedes: None,
            expires_in_s: None,
            body: Body::Text(text.into()),
        }
    }

    /// A quick reply for `stream`.
    pub fn reply(stream: StreamId, reply: QuickReply) -> Self {
        Self {
            body: Body::Reply(reply),
            ..Self::text(stream, "")
        }
    }

    /// Positions for the history.
    pub fn track(fixes: Vec<Fix>, kind: TrackKind) -> Self {
        Self {
            stream: None,
            urgent: false,
            reply_to: None,
            reply_stream: None,
            supersedes: None,
            expires_in_s: None,
            body: Body::Track { fixes, kind },
        }
    }

    /// Points for the history, and perhaps where the device goes from the last of them. They come to lie on the grid and
    /// the ticks of the batch, as they will where they are read.
    ///
    /// # Errors
    /// [`BadFix`] where the batch cannot be written.
    pub fn track_batch(
        batch: &TrackBatch,
        battery_pct: Option<u32>,
        kind: TrackKind,
    ) -> Result<Self, BadFix> {
        check_battery(battery_pct)?;
        let body = Body::Batch {
            batch: TrackBatch::from_bytes(&batch.to_bytes()?)?,
            battery_pct,
            kind,
        };
        Ok(Self {
            body,
            ..Self::track(Vec::new(), kind)
        })
    }

    /// The operation for a frame; number and time are the frame's to give.
    pub fn to_wire(&self) -> wire::Operation {
        let mut operation = wire::Operation {
            stream: self.stream.map_or(0, StreamId::number),
            urgent: self.urgent,
            reply_to: self.reply_to.map_or(0, Seq::number),
            reply_stream: self.reply_stream.map_or(0, StreamId::number),
            supersedes: self.supersedes.map_or(0, Seq::number),
            expires_in_s: self.expires_in_s.unwrap_or(0),
            ..wire::Operation::default()
        };
        operation.body = Some(match &self.body {
            Body::Text(text) => wire::operation::Body::Text(text.clone()),
            Body::Reply(reply) => {
                operation.template_version = reply.version;
                operation.slot_numbers.clone_from(&reply.numbers);
                operation.slot_texts.clone_from(&reply.texts);
                wire::operation::Body::Template(reply.template)
            }
            Body::Track { fixes, kind } => wire::operation::Body::Track(track_to_wire(fixes, *kind)),
            Body::Batch {
                batch,
                battery_pct,
                kind,
            } => wire::operation::Body::Track(wire::Track {
                // One that cannot be written is a track without positions, which nobody takes.
                batch: batch.to_bytes().unwrap_or_default(),
                battery_pct: *battery_pct,
                recording: *kind == TrackKind::Recording,
                ..wire::Track::default()
            }),
        });
        operation
    }

    /// # Errors
    /// The reason to refuse it with.
    pub fn from_wire(operation: &wire::Operation) -> Result<Self, RefusalReason> {
        let stream = StreamId::new(operation.stream);
        let body = match operation.body.as_ref() {
            Some(wire::operation::Body::Text(text)) => {
                stream.ok_or(RefusalReason::UnknownStream)?;
                if !(1..=TEXT_BYTES_MAX).contains(&text.len()) {
                    return Err(RefusalReason::BadText);
                }
                Body::Text(text.clone())
            }
            Some(wire::operation::Body::Track(track)) => {
                if stream.is_some() {
                    return Err(RefusalReason::UnknownStream);
                }
                let body = if track.batch.is_empty() {
                    track_from_wire(track).map(|(fixes, kind)| Body::Track { fixes, kind })
                } else {
                    batch_from_wire(track)
                };
                body.map_err(|bad| match bad {
                    BadFix::Time => RefusalReason::BadTime,
                    BadFix::OffTheGlobe | BadFix::OutOfRange(_) | BadFix::Columns => {
                        RefusalReason::BadPosition
                    }
                })?
            }
            Some(wire::operation::Body::Template(template)) => {
                stream.ok_or(RefusalReason::UnknownStream)?;
                let reply = QuickReply::from_parts(
                    *template,
                    operation.template_version,
                    &operation.slot_numbers,
                    &operation.slot_texts,
                );
                Body::Reply(reply.ok_or(RefusalReason::BadTemplate)?)
            }
            None => return Err(RefusalReason::Unsupported),
        };
        Ok(Self {
            stream,
            urgent: operation.urgent,
            reply_to: Seq::new(operation.reply_to),
            reply_stream: StreamId::new(operation.reply_stream),
            supersedes: Seq::new(operation.supersedes),
            expires_in_s: (operation.expires_in_s > 0).then_some(operation.expires_in_s),
            body,
        })
    }
}

/// A track that holds a batch, and then nothing in its columns.
fn batch_from_wire(track: &wire::Track) -> Result<Body, BadFix> {
    let alone = wire::Track {
        batch: track.batch.clone(),
        battery_pct: track.battery_pct,
        recording: track.recording,
        ..wire::Track::default()
    };
    if *track != alone {
        return Err(BadFix::Columns);
    }
    let kind = if track.recording {
        TrackKind::Recording
    } else {
        TrackKind::Travelled
    };
    check_battery(track.battery_pct)?;
    Ok(Body::Batch {
        batch: TrackBatch::from_bytes(&track.batch)?,
        battery_pct: track.battery_pct,
        kind,
    })
}

fn check_battery(battery_pct: Option<u32>) -> Result<(), BadFix> {
    if battery_pct.is_some_and(|battery| battery > 100) {
        return Err(BadFix::OutOfRange("battery"));
    }
    Ok(())
}

/// First 16 bytes of the SHA-256 over an operation as it is encoded without its number, its time and what it has
/// overtaken, which differ from one repetition to the next. Two operations under one number with different digests mean
/// a forked outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 16]);

impl ContentDigest {
    /// That of an operation, whatever its number and time.
    pub fn of(operation: &wire::Operation) -> Self {
        let bare = wire::Operation {
            gap: 0,
            age_s: 0,
            earlier: 0,
            ..operation.clone()
        };
        let digest = Sha256::digest(bare.encode_to_vec());
        Self(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Its first four bytes, little-endian, for the list of a hello, in which 0 stands for nothing: 1 where they are 0.
    pub fn brief(self) -> NonZeroU32 {
        let [first, second, third, fourth, ..] = self.0;
        NonZeroU32::new(u32::from_le_bytes([first, second, third, fourth])).unwrap_or(NonZeroU32::MIN)
    }
}

/// An operation with the number under which it is applied once.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedOperation {
    /// Its number in the epoch of the session.
    pub op: OpNumber,
    /// Seconds from the doing to the frame's stamp.
    pub age_s: u32,
    /// The newest ordinary operation of the same stream that an urgent one had overtaken when it left; all of them are before
    /// it, as those of one stream and class are taken in their order.
    pub earlier: Option<OpNumber>,
    /// Tells a repetition from a fork.
    pub digest: ContentDigest,
    /// The operation, or why it can never be applied.
    pub content: Result<Operation, RefusalReason>,
}

/// Takes the operations of a frame apart, in the order of their numbers.
///
/// # Errors
/// [`UpFrameError::Numbers`]; then none of them can be applied.
pub fn number_operations(frame: &wire::UpFrame) -> Result<Vec<NumberedOperation>, UpFrameError> {
    let mut next = frame.first_op;
    let mut numbered = Vec::with_capacity(frame.ops.len());
    for (index, operation) in frame.ops.iter().enumerate() {
        if index > 0 {
            next = next.checked_add(1).ok_or(UpFrameError::Numbers)?;
        }
        next = next
            .checked_add(u64::from(operation.gap))
            .ok_or(UpFrameError::Numbers)?;
        // A number that cannot be says nothing: for a mark on the screen nobody's words are refused.
        let overtaken = (operation.urgent && operation.earlier > 0)
            .then(|| next.checked_sub(operation.earlier.into()))
            .flatten();
        numbered.push(NumberedOperation {
            op: OpNumber::new(next).ok_or(UpFrameError::Numbers)?,
            age_s: operation.age_s,
            earlier: overtaken.and_then(OpNumber::new),
            digest: ContentDigest::of(operation),
            content: Operation::from_wire(operation),
        });
    }
    Ok(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(number: u32) -> StreamId {
        StreamId::new(number).unwrap()
    }

    #[test]
    fn operations_are_numbered_from_the_first_with_gaps() {
        let op = |gap| wire::Operation {
            gap,
            ..Operation::text(stream(4), "x").to_wire()
        };
        let frame = wire::UpFrame {
            first_op: 10,
            ops: vec![op(0), op(0), op(3), op(0)],
            ..Default::default()
        };
        let numbers: Vec<u64> = number_operations(&frame)
            .unwrap()
            .iter()
            .map(|n| n.op.number())
            .collect();
        assert_eq!(numbers, [10, 11, 15, 16]);
    }

    #[test]
    fn numbers_that_are_none_refuse_the_frame() {
        for (first_op, gap) in [(0, 0), (u64::MAX, 1)] {
            let ops = vec![
                wire::Operation {
                    gap,
                    ..Operation::text(stream(4), "x").to_wire()
                };
                2
            ];
            let frame = wire::UpFrame {
                first_op,
                ops,
                ..Default::default()
            };
            assert_eq!(
                number_operations(&frame),
                Err(UpFrameError::Numbers),
                "{first_op} {gap}"
            );
        }
    }

    #[test]
    fn only_an_urgent_operation_names_one_before_it_that_it_has_overtaken() {
        for (urgent, earlier, named) in [
            (true, 0, None),
            (true, 3, Some(7)),
            (true, 9, Some(1)),
            (true, 10, None),
            (true, u32::MAX, None),
            (false, 3, None),
        ] {
            let operation = wire::Operation {
                urgent,
                earlier,
                ..Operation::text(stream(4), "x").to_wire()
            };
            let frame = wire::UpFrame {
                first_op: 10,
                ops: vec![operation],
                ..Default::default()
            };
            let numbered = number_operations(&frame).unwrap();
            assert_eq!(
                numbered[0].earlier,
                named.and_then(OpNumber::new),
                "{urgent} {earlier}"
            );
            assert!(numbered[0].content.is_ok(), "{urgent} {earlier}");
        }
    }

    #[test]
    fn a_repetition_has_the_digest_of_the_first_sending_and_a_fork_has_not() {
        let wire = Operation::text(stream(4), "At the gate").to_wire();
        let repeated = wire::Operation {
            age_s: 600,
            gap: 2,
            earlier: 1,
            ..wire.clone()
        };
        assert_eq!(ContentDigest::of(&wire), ContentDigest::of(&repeated));
        let other = Operation::text(stream(4), "At the gate.").to_wire();
        assert_ne!(ContentDigest::of(&wire), ContentDigest::of(&other));
    }

    #[test]
    fn a_brief_digest_is_never_the_one_that_stands_for_nothing() {
        let mut digest = [9; 16];
        digest[..4].copy_from_slice(&[0x78, 0x56, 0x34, 0x12]);
        assert_eq!(ContentDigest(digest).brief().get(), 0x1234_5678);
        digest[..4].fill(0);
        assert_eq!(ContentDigest(digest).brief().get(), 1);
    }

    #[test]
    fn an_operation_that_cannot_be_applied_says_why() {
        let good = Operation::text(stream(4), "x").to_wire();
        let text = |text: &str| Some(wire::operation::Body::Text(text.to_owned()));
        for (operation, reason) in [
            (
                wire::Operation {
                    stream: 0,
                    ..good.clone()
                },
                RefusalReason::UnknownStream,
            ),
            (
                wire::Operation {
                    body: text(""),
                    ..good.clone()
                },
                RefusalReason::BadText,
            ),
            (
                wire::Operation {
                    body: text(&"x".repeat(4_097)),
                    ..good.clone()
                },
                RefusalReason::BadText,
            ),
            (
                wire::Operation {
                    body: None,
                    ..good.clone()
                },
                RefusalReason::Unsupported,
            ),
            (
                wire::Operation {
                    stream: 0,
                    body: Some(wire::operation::Body::Track(wire::Track::default())),
                    ..good
                },
                RefusalReason::BadPosition,
            ),
        ] {
            assert_eq!(Operation::from_wire(&operation), Err(reason), "{operation:?}");
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let frame = wire::UpFrame {
            stamp: 5,
            first_op: 1,
            ..Default::default()
        };
        let mut bytes = frame.encode_to_vec();
        bytes.extend([0xfa, 0x3e, 3, 1, 2, 3]); // field 1007, three bytes
        assert_eq!(wire::UpFrame::parse(&bytes), Ok(frame));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = wire::UpFrame::parse(&bytes) {
                let _ = number_operations(&frame);
            }
        }

        #[test]
        fn a_text_survives(text in ".{1,200}", number in 1u32.., urgent: bool, reply_to: u64, supersedes: u64, expires_in_s: u32) {
            let operation = Operation {
                urgent,
                reply_to: Seq::new(reply_to),
                supersedes: Seq::new(supersedes),
                expires_in_s: (expires_in_s > 0).then_some(expires_in_s),
                ..Operation::text(stream(number), text)
            };
            prop_assert_eq!(Operation::from_wire(&operation.to_wire()), Ok(operation));
        }
    }
}
