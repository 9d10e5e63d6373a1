//! Where the device is: fixes become batches, batches become operations.
//!
//! What is in hand and in no operation yet is kept on disk, in a row that is written anew at most each [`KEEP_EVERY`]: that
//! much a power cut may cost. The row goes in the same write that makes an operation of it.

use super::policy::Policy;
use super::sender::{Hearing, Said};
use super::write::Batch;
use super::{Core, Draft, Mutation, NotTaken, Now};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use waypost_proto::wire;
use waypost_proto::{Fix, Operation, TrackKind};

/// How often what is in hand is written down.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// What was said without hurry and has had no answer is said again after this: a little longer than the server may wait with
/// its answer.
pub(super) const UNHURRIED_AGAIN: Duration = Duration::from_secs(20 * 60);

/// What is in hand, as it stands on disk.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// When it was last written, or became an operation.
    at: Option<Instant>,
    /// A fix came since.
    is_dirty: bool,
    /// From the process before: becomes an operation with the first input.
    left: Option<wire::Operation>,
    /// Batches that the outbox has not taken.
    waiting: VecDeque<wire::Operation>,
}

/// Batches that may wait for room in the outbox; beyond it the oldest goes, and is counted.
const WAITING_MAX: usize = 64;

impl InHand {
    pub(super) fn restored(left: Option<wire::Operation>) -> Self {
        Self {
            left,
            ..Self::default()
        }
    }

    fn written(&mut self, now: Now) {
        self.at = Some(now.mono);
        self.is_dirty = false;
    }
}

impl Core {
    /// A fix. What is to be said of it is in the outbox when this returns; what is not will be on disk within
    /// [`KEEP_EVERY`].
    ///
    /// # Errors
    /// [`NotTaken`] where the outbox has no room for a batch: it waits, and is offered again with the next fix.
    pub(crate) fn fix(&mut self, fix: Fix, now: Now) -> Result<(), NotTaken> {
        let hearing = if self.is_in_step() {
            Hearing::Now
        } else {
            Hearing::Later
        };
        self.sender.handle_fix(fix, hearing);
        self.counters.fixes_late = self.sender.late();
        self.in_hand.is_dirty = true;
        self.post_said(now)?;
        self.write_in_hand_if_due(now);
        Ok(())
    }

    /// When what is in hand has to be written down.
    pub(super) fn in_hand_due(&self) -> Option<Instant> {
        let InHand { at, is_dirty, .. } = self.in_hand;
        is_dirty.then_some(at? + KEEP_EVERY)
    }

    pub(super) fn write_in_hand_if_due(&mut self, now: Now) {
        if !self.in_hand.is_dirty || self.in_hand_due().is_some_and(|due| due > now.mono) {
            return;
        }
        let Some(Said { batch, battery_pct }) = self.sender.in_hand() else {
            return;
        };
        self.in_hand.written(now);
        if let Ok(operation) = Operation::track_batch(&batch, battery_pct, TrackKind::Travelled) {
            let mut batch = Batch::default();
            batch.mutations.push(Mutation::InHand(Some(operation.to_wire())));
            self.write(batch, now);
        }
    }

    /// Makes an operation of what is in hand.
    ///
    /// # Errors
    /// As [`fix`](Self::fix).
    pub(crate) fn flush_fixes(&mut self, now: Now) -> Result<(), NotTaken> {
        self.sender.flush();
        self.post_said(now)
    }

    /// What is asked for from now on.
    pub(crate) fn set_policy(&mut self, policy: Policy, now: Now) -> Result<(), NotTaken> {
        self.sender.set_policy(policy);
        self.post_said(now)
    }

    /// Whoever waits for everything to be accepted asks for what the server is in no hurry to say.
    pub(crate) fn hurry(&mut self) {
        self.outbox.repeat_unhurried(|_| true);
    }

    fn post_said(&mut self, now: Now) -> Result<(), NotTaken> {
        let left = self.in_hand.left.take();
        self.in_hand.waiting.extend(left);
        while let Some(Said { batch, battery_pct }) = self.sender.poll_said() {
            match Operation::track_batch(&batch, battery_pct, TrackKind::Travelled) {
                Ok(operation) => self.in_hand.waiting.push_back(operation.to_wire()),
                // A fix that no receiver measures: before 1970, or beyond 2106.
                Err(_) => self.note_fixes_refused(batch.points.len(), 0.0),
            }
        }
        while let Some(operation) = self.in_hand.waiting.front().cloned() {
            if let Err(why) = self.post(Draft::settled(operation), now) {
                if self.in_hand.waiting.len() > WAITING_MAX {
                    self.in_hand.waiting.pop_front();
                    self.note_fixes_refused(1, 0.0);
                }
                return Err(why);
            }
            self.in_hand.waiting.pop_front();
            self.in_hand.written(now);
        }
        Ok(())
    }
}
