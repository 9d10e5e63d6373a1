//! Acknowledgements that take their time.
//!
//! Nobody waits for the acknowledgement of a small batch of points: until it comes the device keeps what it has sent, and an acknowledgement of
//! its own would cost more than the batch. So it rides along with whatever else goes to the device, or goes for
//! [`BATCHES_MAX`] such batches, or [`BYTES_MAX`] of them, together, or [`WAIT_MAX`] after the first. What comes again is answered at once.

use super::down::ACCEPTED_RANGES_MAX;
use super::{Core, DeviceId, Now};
use prost::Message;
use std::time::{Duration, Instant};
use waypost_proto::{Body, NumberedOperation, TrackKind, wire};

/// Batches that are acknowledged together.
const BATCHES_MAX: u32 = 10;
/// Bytes of batches that are: a device that has more under way waits for room.
const BYTES_MAX: usize = 1_200;
/// A larger frame is part of what a device gathered offline, and is answered at once.
const FRAME_BYTES_MAX: usize = 400;
/// The longest that a device waits. It says again what has had no answer for twenty minutes.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// How soon what was taken is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    Now,
    /// At this moment at the latest.
    InTime {
        bytes: usize,
        due: Instant,
    },
}

/// Batches whose acknowledgement is owed; all of them are on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owed {
    batches: u32,
    bytes: usize,
    due: Option<Instant>,
}

impl Haste {
    /// How soon the operations of a frame are acknowledged.
    pub(super) fn of(frame: &wire::UpFrame, operations: &[NumberedOperation], now: Now) -> Self {
        let bytes = frame.encoded_len();
        // Small when it is compared: a large frame is not copied for it.
        let is_alone = || {
            let alone = wire::UpFrame {
                stamp: frame.stamp,
                first_op: frame.first_op,
                ops: frame.ops.clone(),
                ..wire::UpFrame::default()
            };
            *frame == alone
        };
        let is_batch = |operation: &NumberedOperation| {
            let body = operation.content.as_ref().map(|content| &content.body);
            matches!(
                body,
                Ok(Body::Batch {
                    kind: TrackKind::Travelled,
                    ..
                })
            )
        };
        if bytes <= FRAME_BYTES_MAX && operations.iter().all(is_batch) && is_alone() {
            Self::InTime {
                bytes: bytes / operations.len().max(1),
                due: now.monotonic + WAIT_MAX,
            }
        } else {
            Self::Now
        }
    }
}

impl Core {
    /// How soon what is taken next is acknowledged.
    pub(super) fn in_haste(&mut self, device: DeviceId, haste: Haste) {
        if let Some(session) = self.sessions.get_mut(&device) {
            session.haste = haste;
        }
    }

    /// An operation is on disk.
    pub(super) fn owe_acknowledgement(&mut self, device: DeviceId, haste: Haste) {
        self.dirty.insert(device);
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        let Haste::InTime { bytes, due } = haste else {
            session.ack_due = true;
            return;
        };
        let owed = &mut session.owed;
        owed.batches += 1;
        owed.bytes += bytes;
        if owed.batches >= BATCHES_MAX || owed.bytes >= BYTES_MAX {
            session.ack_due = true;
        }
        if owed.due.is_none() {
            owed.due = Some(due);
            self.owed.insert((due, device));
        }
    }

    /// What is owed to a device rides along with a frame that goes to it anyway.
    pub(super) fn ride_along(&mut self, device: DeviceId, frame: &mut wire::DownFrame) {
        let Some(session) = self
            .sessions
            .get(&device)
            .filter(|session| session.owed.batches > 0)
        else {
            return;
        };
        if frame.accepted_through == 0
            && frame.accepted_ranges.is_empty()
            && let Some(ledger) = self.ledgers.get(&(device, session.epoch))
        {
            let accepted = session.dispute.acknowledgeable(ledger.durable.clone());
            frame.accepted_through = accepted.through();
            frame.accepted_ranges = accepted.to_wire_within(ACCEPTED_RANGES_MAX);
        }
        self.owe_nothing(device);
    }

    /// All that is owed is said, or the session is over.
    pub(super) fn owe_nothing(&mut self, device: DeviceId) {
        if let Some(session) = self.sessions.get_mut(&device) {
            let owed = std::mem::take(&mut session.owed);
            if let Some(due) = owed.due {
                self.owed.remove(&(due, device));
            }
        }
    }

    /// Acknowledges what has waited long enough.
    pub(super) fn acknowledge_what_is_owed(&mut self, now: Now) {
        while let Some(&(due, device)) = self.owed.first()
            && due <= now.monotonic
        {
            self.owed.remove(&(due, device));
            if let Some(session) = self.sessions.get_mut(&device)
                && session.owed.due == Some(due)
            {
                session.ack_due = true;
                self.dirty.insert(device);
            }
        }
    }
}
