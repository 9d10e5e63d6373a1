//! Operations under numbers that were taken before, until it is known whether by them.
//!
//! A clone, or a device whose disk was put back, gives numbers that another outbox of the same epoch has given. As long as one of
//! them is not known to be the one that was taken, nothing from it on is acknowledged, and no entry of the epoch goes down by its
//! number alone, since the device would take that for its own; and nothing above it is taken, since a device that is told of the
//! fork says all of that again under other numbers.

use crate::entry::Entry;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use waypost_proto::{
    ContentDigest, Cumulative, NumberedOperation, OpNumber, SessionTag, Stamp, UNDER_WAY_MAX, wire,
};

/// What an outbox has under a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It was said again.
    Said(ContentDigest),
    /// A hello lists it as under way.
    Listed(NonZeroU32),
}

impl Content {
    /// Whether it is what was taken; `None` for a number that was taken without an operation. Where an outbox lists one there,
    /// another has given it up: one that gives up a number has nothing there any more.
    pub fn is(self, taken: Option<ContentDigest>) -> bool {
        match self {
            Self::Said(digest) => taken.is_none_or(|taken| taken == digest),
            Self::Listed(brief) => taken.is_some_and(|taken| taken.brief() == brief),
        }
    }

    fn brief(self) -> NonZeroU32 {
        match self {
            Self::Said(digest) => digest.brief(),
            Self::Listed(brief) => brief,
        }
    }
}

/// What is known of an outbox since this start of the server. Memory: 56 bytes an outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outbox {
    /// The latest tag under which it said hello.
    tag: SessionTag,
    /// Whether there are two of it, or it is one that went back: one outbox never says hello under a tag again.
    is_doubled: bool,
    /// The administrator was told so before it was known what differs.
    is_told: bool,
    /// What differed last.
    differed: Option<(OpNumber, NonZeroU32)>,
}

impl Outbox {
    /// One that says hello for the first time, or again; and whether that is news to the administrator.
    pub(super) fn greeted(before: Option<Self>, tag: SessionTag) -> (Self, bool) {
        let Some(before) = before else {
            let first = Self {
                tag,
                is_doubled: false,
                is_told: false,
                differed: None,
            };
            return (first, false);
        };
        let is_doubled = before.is_doubled || !tag.is_after(before.tag);
        let is_news = is_doubled && !before.is_doubled && before.differed.is_none();
        let again = Self {
            tag,
            is_doubled,
            is_told: before.is_told || is_news,
            ..before
        };
        (again, is_news)
    }

    pub(super) fn is_doubled(self) -> bool {
        self.is_doubled
    }

    /// A number turns out to be taken by something else; gives whether that is news to the administrator. Until the device
    /// has heard of it, it says the same again.
    pub(super) fn differs(&mut self, op: OpNumber, content: Content) -> bool {
        let differs = Some((op, content.brief()));
        let is_known = std::mem::replace(&mut self.differed, differs) == differs;
        !is_known && !std::mem::take(&mut self.is_told)
    }
}

/// Which of its numbers a session is told to be accepted, and which entries to be its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Trust {
    /// All that were taken from its outbox.
    #[default]
    Outbox,
    /// Those below a number, which it knows or has listed, and from there on those that it has said itself, now: it says again
    /// what it has not listed.
    Below(OpNumber),
    /// Those alone that it has said itself, now, as there are two of the outbox: it says everything again that it has not been
    /// told of.
    Session,
}

/// How many operations of one session wait behind a disputed one: more than frames of one window hold. Further ones are left to
/// their repetition.
const HELD_MAX: usize = 1_024;

/// What a hello lists as under way, by number, and what the device is told of its outbox by number.
pub(super) fn listed(hello: &wire::Hello) -> (Vec<(OpNumber, NonZeroU32)>, Trust) {
    if hello.first_under_way == 0 {
        return (Vec::new(), Trust::Outbox);
    }
    if hello.under_way.len() > UNDER_WAY_MAX {
        metrics::counter!("waypost_bridge_ignored_total", "reason" => "under_way_over_bound").increment(1);
    }
    let digests = hello.under_way.iter().take(UNDER_WAY_MAX);
    let below = hello.first_under_way.saturating_add(digests.len() as u64);
    let contents = (hello.first_under_way..below)
        .zip(digests)
        .filter_map(|(number, &digest)| Some((OpNumber::new(number)?, NonZeroU32::new(digest)?)));
    (
        contents.collect(),
        OpNumber::new(below).map_or(Trust::Session, Trust::Below),
    )
}

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
    /// Not known to be what was taken, or known to be something else; with its content where the other one is not on disk yet, to
    /// be compared then.
    open: BTreeMap<OpNumber, Option<Content>>,
    /// What came meanwhile and is new, in its order.
    held: Vec<Held>,
    /// What this session has said that was taken, now or, by the same content, before.
    own: Cumulative,
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
        self.own.insert(op.number());
    }

    /// The same for numbers without content.
    pub(super) fn take_void(&mut self, first: u64, last: u64) {
        self.own.insert_range(first, last);
    }

    /// Whether it was.
    pub(super) fn has_taken(&self, op: OpNumber) -> bool {
        self.own.contains(op.number())
    }

    /// Whether the device knows an entry of its epoch by the operation's number.
    pub(super) fn knows(&self, op: OpNumber) -> bool {
        self.trust != Trust::Session || self.has_taken(op)
    }

    /// Begins to doubt an operation, which is being compared.
    pub(super) fn open(&mut self, op: OpNumber) {
        self.open.insert(op, None);
    }

    /// Begins to doubt an operation that can only be compared when what was taken is on disk.
    pub(super) fn open_until_durable(&mut self, op: OpNumber, content: Content) {
        self.open.entry(op).or_insert(Some(content));
    }

    /// Numbers are on disk; those of them that are to be compared now.
    pub(super) fn durable(&mut self, first: OpNumber, last: OpNumber) -> Vec<(OpNumber, Content)> {
        let waiting = self.open.range_mut(first..=last);
        waiting
            .filter_map(|(op, content)| Some((*op, content.take()?)))
            .collect()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The first number that is doubted.
    pub(super) fn first_open(&self) -> Option<OpNumber> {
        self.open.keys().next().copied()
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
        self.own.insert(op.number());
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
        let own = durable.intersection(&self.own);
        let below = match self.trust {
            Trust::Outbox => u64::MAX,
            Trust::Below(op) => op.number(),
            Trust::Session => 1,
        };
        let open = self.first_open().map_or(u64::MAX, OpNumber::number);
        durable.truncate(below.min(open) - 1);
        durable.merge(&own);
        durable
    }

    /// The same for the welcome to a device that knows another store: which of all its numbers this one has. The device takes
    /// that for what it has listed alone.
    pub(super) fn known_to_store(&self, durable: Cumulative) -> Cumulative {
        if self.is_open() || self.trust == Trust::Session {
            return self.acknowledgeable(durable);
        }
        durable
    }
}
