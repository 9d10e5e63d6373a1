//! Which entries go first: the urgent ones of each stream, found without reading those around them.
//!
//! The index is in memory and, as marks, on disk; both hold the same. What is not in it travels in its order.

use super::Core;
use crate::store::{Change, Trim};
use std::collections::{BTreeMap, BTreeSet};
use waypost_proto::StreamId;

/// Urgent entries of a stream that are told apart; of more the oldest travel in their order. About 40 bytes each.
const URGENT_MAX: usize = 256;

/// In the order in which they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Urgent entries, ahead of all that comes before them in their streams.
    Urgent,
    /// All entries of a stream in their order.
    Ordinary,
}

/// The urgent entries of each stream, those included whose write is under way.
#[derive(Debug, Default)]
pub(super) struct UrgentIndex(BTreeMap<StreamId, BTreeSet<u64>>);

impl UrgentIndex {
    pub(super) fn new(marked: BTreeMap<StreamId, BTreeSet<u64>>) -> Self {
        Self(marked)
    }

    /// The urgent entries of a stream with numbers from `first` to `last`, ascending.
    pub(super) fn between(&self, stream: StreamId, first: u64, last: u64) -> impl Iterator<Item = u64> + '_ {
        let of_stream = self.0.get(&stream).filter(|_| first <= last);
        of_stream
            .into_iter()
            .flat_map(move |seqs| seqs.range(first..=last).copied())
    }
}

impl Core {
    /// Stages the mark of an urgent entry.
    pub(super) fn mark_urgent(&mut self, stream: StreamId, seq: u64) {
        let seqs = self.urgent.0.entry(stream).or_default();
        seqs.insert(seq);
        self.changes.push(Change::MarkUrgent(stream, seq));
        if seqs.len() > URGENT_MAX
            && let Some(oldest) = seqs.pop_first()
        {
            self.changes.push(Trim::Urgent(stream, oldest).into());
        }
    }

    /// Stages the end of the marks up to `last`.
    pub(super) fn trim_urgent(&mut self, stream: StreamId, last: u64) {
        let Some(seqs) = self.urgent.0.get_mut(&stream) else {
            return;
        };
        let kept = seqs.split_off(&last.saturating_add(1));
        let gone = std::mem::replace(seqs, kept);
        if seqs.is_empty() {
            self.urgent.0.remove(&stream);
        }
        let changes = gone.into_iter().map(|seq| Trim::Urgent(stream, seq).into());
        self.changes.extend(changes);
    }
}
