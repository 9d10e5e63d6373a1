//! Where entries end: marks in the order of time, and which entries have taken the place of others.

use super::keys::{Key, Numbers, Table};
use super::kv::{KeyedStore, Order, OrderedKeys, Write};
use super::{State, StoreError};
use crate::entry::{Author, Entry};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use waypost_proto::{DeviceId, Seq, StreamId};

/// An entry that ends at a time; in the order of the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// Server clock, UTC milliseconds.
    pub at_ms: i64,
    /// Of this stream.
    pub stream: StreamId,
    /// With this number.
    pub seq: Seq,
    /// The device that wrote it; `None` for the office.
    pub author: Option<DeviceId>,
}

impl Expiry {
    /// That of an entry; `None` for one that does not end.
    pub fn of(entry: &Entry) -> Option<Self> {
        Some(Self {
            at_ms: entry.expires_ms?,
            stream: entry.stream,
            seq: entry.seq,
            author: match entry.author {
                Author::Device(device) => Some(device),
                Author::Person(_) | Author::System => None,
            },
        })
    }

    /// The author stands at the end: where there is none, 0.
    pub(super) fn key(&self) -> Vec<u8> {
        Key::of(Table::Expiries)
            .i64(self.at_ms)
            .u32(self.stream.number())
            .u64(self.seq.number())
            .u32(self.author.map_or(0, DeviceId::number))
            .done()
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let mut numbers = Numbers(key.get(1..)?);
        Some(Self {
            at_ms: numbers.i64()?,
            stream: StreamId::new(numbers.u32()?)?,
            seq: Seq::new(numbers.u64()?)?,
            author: DeviceId::new(numbers.u32()?),
        })
    }
}

pub(super) fn superseded_key(stream: StreamId, seq: u64) -> Vec<u8> {
    Key::of(Table::Superseded).u32(stream.number()).u64(seq).done()
}

/// The mark of an entry whose place `by` has taken.
pub(super) fn superseded(stream: StreamId, seq: Seq, by: Seq) -> Write {
    let by = by.number().to_be_bytes().to_vec();
    (superseded_key(stream, seq.number()), Some(by))
}

impl<K: OrderedKeys> KeyedStore<K> {
    /// The marks have no content.
    pub(super) fn load_expiries(&self, state: &mut State) -> Result<(), StoreError> {
        let first = Key::of(Table::Expiries).done();
        let last = [&first[..], &[0xff; 25]].concat();
        self.0.scan(&first, &last, Order::Ascending, &mut |key, _| {
            let expiry = Expiry::from_key(key).ok_or(StoreError::Damaged("expiry"))?;
            state.expiries.insert(expiry);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Whether the time of an entry is over, and that was noticed.
    pub(super) fn has_expired(&self, entry: &Entry) -> Result<bool, StoreError> {
        match Expiry::of(entry) {
            Some(expiry) => Ok(self.0.read(&expiry.key())?.is_none()),
            None => Ok(false),
        }
    }

    /// Adds to some entries of a stream, ascending, which others have taken their places.
    pub(super) fn add_superseded(&self, entries: &mut [Entry]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let marks = self.superseded_within(first.stream, first.seq.number(), last.seq.number())?;
        for entry in entries {
            entry.superseded_by = marks.get(&entry.seq.number()).copied();
        }
        Ok(())
    }

    /// Entries of a stretch that were superseded, and by which.
    pub(super) fn superseded_within(
        &self,
        stream: StreamId,
        first_seq: u64,
        last_seq: u64,
    ) -> Result<BTreeMap<u64, Seq>, StoreError> {
        let mut marks = BTreeMap::new();
        let (first, last) = (
            superseded_key(stream, first_seq),
            superseded_key(stream, last_seq),
        );
        self.0.scan(&first, &last, Order::Ascending, &mut |key, value| {
            let seq = key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let by = Numbers(value).u64().and_then(Seq::new);
            let (seq, by) = seq.zip(by).ok_or(StoreError::Damaged("superseding"))?;
            marks.insert(seq, by);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(marks)
    }
}
