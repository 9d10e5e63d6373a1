//! Operations under numbers that were taken before, until it is known whether by them.
//!
//! A clone, or a device whose disk was put back, gives numbers that another outbox of the same epoch has given. As long as one of
//! them is not known to be the one that was taken, nothing from it on is acknowledged, and no entry of the epoch goes down by its
//! number alone, since the device would take that for its own; and nothing above it is taken, since a device that is told of the
//! fork says all of that again under other numbers.

use std::collections::BTreeMap;
use waypost_proto::{ContentDigest, Cumulative, NumberedOperation, OpNumber, Stamp};

/// How many operations of one session wait behind a disputed one: more than frames of one window hold. Further ones are left to
/// their repetition.
const HELD_MAX: usize = 1_024;

/// What one session says under numbers that were taken before.
#[derive(Debug, Default)]
pub(super) struct Dispute {
    /// Not known to be what was taken, or known to be something else; with the digest where the other one is not on disk yet, to
    /// be compared then.
    open: BTreeMap<OpNumber, Option<ContentDigest>>,
    /// What came meanwhile and is new, in its order.
    held: Vec<(Stamp, NumberedOperation)>,
    /// What was taken in this session: its own repetition, without a doubt.
    own: Cumulative,
}

impl Dispute {
    /// Notes that this session's own operation was taken.
    pub(super) fn take(&mut self, op: OpNumber) {
        self.own.insert(op.number());
    }

    /// Whether it was.
    pub(super) fn has_taken(&self, op: OpNumber) -> bool {
        self.own.contains(op.number())
    }

    /// Begins to doubt an operation, which is being compared.
    pub(super) fn open(&mut self, op: OpNumber) {
        self.open.insert(op, None);
    }

    /// Begins to doubt an operation that can only be compared when what was taken is on disk.
    pub(super) fn open_until_durable(&mut self, op: OpNumber, digest: ContentDigest) {
        self.open.entry(op).or_insert(Some(digest));
    }

    /// Numbers are on disk; those of them that are to be compared now.
    pub(super) fn durable(&mut self, first: OpNumber, last: OpNumber) -> Vec<(OpNumber, ContentDigest)> {
        let waiting = self.open.range_mut(first..=last);
        waiting
            .filter_map(|(op, digest)| Some((*op, digest.take()?)))
            .collect()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Keeps a new operation until nothing is disputed; false where there is no room.
    pub(super) fn hold(&mut self, stamp: Stamp, operation: NumberedOperation) -> bool {
        let has_room = self.held.len() < HELD_MAX;
        if has_room {
            self.held.push((stamp, operation));
        }
        has_room
    }

    /// It is what was taken; gives what waited, once nothing is disputed any more.
    pub(super) fn settle(&mut self, op: OpNumber) -> Vec<(Stamp, NumberedOperation)> {
        self.open.remove(&op);
        if self.is_open() {
            return Vec::new();
        }
        std::mem::take(&mut self.held)
    }

    /// It is something else; what waited will be said again.
    pub(super) fn lose(&mut self) {
        self.held.clear();
    }

    /// Leaves of what is on disk what may be acknowledged.
    pub(super) fn acknowledgeable(&self, mut durable: Cumulative) -> Cumulative {
        if let Some(first) = self.open.keys().next() {
            durable.truncate(first.number() - 1);
        }
        durable
    }
}
