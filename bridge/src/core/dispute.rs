//! Operations under numbers that were taken before, until it is known whether by them.
//!
//! A clone, or a device whose disk was put back, gives numbers that another outbox of the same epoch has given. As long as one of
//! them is not known to be the one that was taken, nothing from it on is acknowledged, and no entry of the epoch goes down by its
//! number alone, since the device would take that for its own; and nothing above it is taken, since a device that is told of the
//! fork says all of that again under other numbers.

use crate::entry::Entry;
use std::collections::{BTreeMap, BTreeSet};
use waypost_proto::{ContentDigest, Cumulative, NumberedOperation, OpNumber, SessionTag, Stamp};

/// What is known of an outbox since this start of the server. Memory: 40 bytes an outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outbox {
    /// The latest tag under which it said hello.
    tag: SessionTag,
    /// Whether there are two of it, or it is one that went back: one outbox never says hello under a tag again.
    is_doubled: bool,
}

impl Outbox {
    /// One that says hello for the first time, or again.
    pub(super) fn greeted(before: Option<Self>, tag: SessionTag) -> Self {
        Self {
            tag,
            is_doubled: before.is_some_and(|before| before.is_doubled || !tag.is_after(before.tag)),
        }
    }

    pub(super) fn is_doubled(self) -> bool {
        self.is_doubled
    }
}

/// Which of its numbers a session is told to be accepted, and which entries to be its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Trust {
    /// All that were taken from its outbox.
    #[default]
    Outbox,
    /// Those alone that it has said itself, now, as there are two of the outbox: it says everything again that it has not been
    /// told of.
    Session,
}

/// How many operations of one session wait behind a disputed one: more than frames of one window hold. Further ones are left to
/// their repetition.
const HELD_MAX: usize = 1_024;

/// A new operation that waits behind a disputed one.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stamp: Stamp,
    pub(super) operation: NumberedOperation,
    /// The entry that it supersedes, where there is one.
    pub(super) replaced: Option<Entry>,
}

/// What one session says under numbers that were taken before.
#[derive(Debug, Default)]
pub(super) struct Dispute {
    /// Not known to be what was taken, or known to be something else; with the digest where the other one is not on disk yet, to
    /// be compared then.
    open: BTreeMap<OpNumber, Option<ContentDigest>>,
    /// What came meanwhile and is new, in its order.
    held: Vec<Held>,
    /// What this session has said that was taken, now or, by the same content, before.
    own: BTreeSet<OpNumber>,
    trust: Trust,
}

impl Dispute {
    pub(super) fn new(trust: Trust) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }

    /// Notes that this session's own operation was taken.
    pub(super) fn take(&mut self, op: OpNumber) {
        self.own.insert(op);
    }

    /// The same for numbers without content.
    pub(super) fn take_void(&mut self, first: u64, last: u64) {
        let numbers = (first..=last).take(HELD_MAX);
        self.own.extend(numbers.filter_map(OpNumber::new));
    }

    /// Whether it was.
    pub(super) fn has_taken(&self, op: OpNumber) -> bool {
        self.own.contains(&op)
    }

    /// Whether the device knows an entry of its epoch by the operation's number.
    pub(super) fn knows(&self, op: OpNumber) -> bool {
        self.trust == Trust::Outbox || self.has_taken(op)
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
    pub(super) fn hold(&mut self, held: Held) -> bool {
        let has_room = self.held.len() < HELD_MAX;
        if has_room {
            self.held.push(held);
        }
        has_room
    }

    /// It is what was taken; gives what waited, once nothing is disputed any more.
    pub(super) fn settle(&mut self, op: OpNumber) -> Vec<Held> {
        self.open.remove(&op);
        self.own.insert(op);
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
        if self.trust == Trust::Outbox {
            return durable;
        }
        let mut own = Cumulative::default();
        for op in self.own.iter().filter(|op| durable.contains(op.number())) {
            own.insert(op.number());
        }
        own
    }
}
