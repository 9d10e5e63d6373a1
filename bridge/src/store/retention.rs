//! What retention looks for in a store, and what it takes out: in steps that are bounded, and that walk nothing twice.
//!
//! An engine that only appends keeps what was deleted as tombstones for a while, and whoever asks for the first record
//! of a range walks over them. So where each kind begins is written down ([`Trim::FirstSeq`], [`Trim::FirstRecord`],
//! [`Trim::FirstDay`]), in the same batch as the deletion, and every read begins there.
//!
//! Positions are kept by device and time, but they age from the moment they arrive: a recording of years ago that is
//! put on file today stays as long as what was driven today. A [`PositionMark`] says which stretch of a device's
//! history to look at once the day is over on which it arrived.

use super::expiry::{Expiry, superseded_key};
use super::keys::{self, Key, Numbers, Table};
use super::kv::{KeyedStore, Order, OrderedKeys, Write};
use super::records::Record;
use super::{Change, State, StoreError};
use crate::audit::AuditEntry;
use crate::entry::{Entry, Rung};
use crate::event::Event;
use crate::position::Position;
use crate::stream::{Member, Stream};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use waypost_proto::{DeviceId, StreamId};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// The most entries, events or positions that one look finds.
pub const LOOK_RECORDS_MAX: usize = 512;
/// About how many receipts one look finds: with many members it is content with fewer entries, at least one.
const LOOK_RECEIPTS_MAX: usize = 2_048;

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// The oldest entries of a stream, accepted before a time.
    Entries {
        /// The stream; receipts are those of its members.
        stream: Stream,
        /// The first entry that is there.
        first_seq: u64,
        /// The last one that may be looked at.
        head: u64,
        /// Server clock.
        before_ms: i64,
    },
    /// The oldest records of a log, from before a time.
    Log {
        /// Which log.
        log: Log,
        /// The number of the first record that is there.
        first: u64,
        /// That of the last one that may be looked at.
        last: u64,
        /// Server clock.
        before_ms: i64,
    },
    /// The positions of a mark of before a day.
    Positions {
        /// There is no mark from before this day.
        first_day: u32,
        /// The first day that is kept; a day is that of UTC, counted from 1970.
        before_day: u32,
        /// Where in a mark the last look ended.
        resume: Option<(PositionMark, i64)>,
    },
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Of entries.
    Entries {
        /// The last one that is old enough; `None` where the first is not.
        last_seq: Option<u64>,
        /// Their receipts: member, rung, and the last entry of the receipt.
        receipts: Vec<(Member, Rung, u64)>,
        /// Those of them that were superseded.
        superseded: Vec<u64>,
        /// When the first one was accepted that is not old enough; `None` where the look ended before one.
        next_ms: Option<i64>,
    },
    /// Of a log.
    Log {
        /// The last record that is old enough; `None` where the first is not.
        last: Option<u64>,
        /// When the first one was written that is not old enough; `None` where the look ended before one.
        next_ms: Option<i64>,
    },
    /// Of positions; `None` where no mark is left.
    Positions(Option<FoundPositions>),
}

/// A part of the positions of one mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPositions {
    /// The mark.
    pub mark: PositionMark,
    /// Times of the positions that are old enough.
    pub old: Vec<i64>,
    /// Where the next look goes on; `None` at the end of the mark.
    pub resume_after: Option<i64>,
}

/// On one day positions of a device arrived that were measured on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PositionMark {
    /// The day on which they arrived, by the server's clock: days of UTC since 1970.
    pub received_day: u32,
    /// The device.
    pub device: DeviceId,
    /// The day on which they were measured, by the device's clock.
    pub measured_day: i64,
}

/// A log whose records have numbers: 1, 2, 3, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// The event log.
    Events,
    /// The audit record.
    Audit,
}

impl Log {
    fn key(self, number: u64) -> Vec<u8> {
        match self {
            Self::Events => keys::event(number),
            Self::Audit => keys::audit(number),
        }
    }

    fn first_key(self) -> Vec<u8> {
        first(match self {
            Self::Events => b'E',
            Self::Audit => b'a',
        })
    }
}

/// One record that goes, or where a kind begins from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trim {
    /// An entry.
    Entry(StreamId, u64),
    /// The mark of an urgent entry.
    Urgent(StreamId, u64),
    /// The mark of an entry whose time is over.
    Expiry(Expiry),
    /// The mark of an entry that was superseded.
    Superseded(StreamId, u64),
    /// A receipt, by the last of its entries.
    Receipt {
        /// The stream.
        stream: StreamId,
        /// For whom.
        member: Member,
        /// Which rung.
        rung: Rung,
        /// The last of its entries.
        last_seq: u64,
    },
    /// A record of a log.
    Record(Log, u64),
    /// A position, by its time.
    Position(DeviceId, i64),
    /// A mark whose positions were looked at.
    Mark(PositionMark),
    /// A stream begins with this entry, which may be one that is not yet written.
    FirstSeq(StreamId, u64),
    /// A log begins with this record, which may be one that is not yet written.
    FirstRecord(Log, u64),
    /// There is no mark from before this day.
    FirstDay(u32),
}

impl Trim {
    pub(super) fn write(&self) -> Write {
        let number = |number: u64| Some(number.to_be_bytes().to_vec());
        match self {
            Self::Entry(stream, seq) => (keys::entry(*stream, *seq), None),
            Self::Urgent(stream, seq) => (keys::urgent(*stream, *seq), None),
            Self::Expiry(expiry) => (expiry.key(), None),
            Self::Superseded(stream, seq) => (superseded_key(*stream, *seq), None),
            Self::Receipt {
                stream,
                member,
                rung,
                last_seq,
            } => (keys::receipt(*stream, *member, *rung, *last_seq), None),
            Self::Record(log, of) => (log.key(*of), None),
            Self::Position(device, at_ms) => (keys::track(*device, *at_ms), None),
            Self::Mark(mark) => (mark.key(), None),
            Self::FirstSeq(stream, seq) => (first_seq(*stream), number(*seq)),
            Self::FirstRecord(log, of) => (log.first_key(), number(*of)),
            Self::FirstDay(day) => (first(FIRST_DAY), number((*day).into())),
        }
    }
}

impl PositionMark {
    pub(super) fn key(&self) -> Vec<u8> {
        Key::of(Table::PositionMarks)
            .u32(self.received_day)
            .u32(self.device.number())
            .i64(self.measured_day)
            .done()
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let mut numbers = Numbers(key.get(1..)?);
        Some(Self {
            received_day: numbers.u32()?,
            device: DeviceId::new(numbers.u32()?)?,
            measured_day: (numbers.u64()? ^ (1 << 63)).cast_signed(),
        })
    }
}

/// The letter of where the marks of positions begin; each log has its own.
const FIRST_DAY: u8 = b'T';

fn first(of: u8) -> Vec<u8> {
    Key::of(Table::Firsts).u8(of).done()
}

fn first_seq(stream: StreamId) -> Vec<u8> {
    Key::of(Table::FirstSeqs).u32(stream.number()).done()
}

impl<K: OrderedKeys> KeyedStore<K> {
    /// The number of the first entry of a stream that is kept; 1 while nothing was trimmed.
    pub(super) fn first_seq(&self, stream: StreamId) -> Result<u64, StoreError> {
        Ok(self.number(&first_seq(stream))?.unwrap_or(1))
    }

    /// The first record of a log that is kept; 1 while nothing was trimmed.
    pub(super) fn first_record(&self, log: Log) -> Result<u64, StoreError> {
        Ok(self.number(&log.first_key())?.unwrap_or(1))
    }

    /// Where each kind begins.
    pub(super) fn load_firsts(&self, state: &mut State) -> Result<(), StoreError> {
        let last = [Table::FirstSeqs as u8, 0xff, 0xff, 0xff, 0xff];
        self.0.scan(
            &[Table::FirstSeqs as u8],
            &last,
            Order::Ascending,
            &mut |key, value| {
                let stream = Numbers(&key[1..]).u32().and_then(StreamId::new);
                let first = Numbers(value).u64();
                let (stream, first) = stream.zip(first).ok_or(StoreError::Damaged("first entry"))?;
                state.first_seqs.insert(stream, first);
                Ok(ControlFlow::Continue(()))
            },
        )?;
        state.first_event = self.first_record(Log::Events)?;
        state.first_audit = self.first_record(Log::Audit)?;
        let day = self.number(&first(FIRST_DAY))?.unwrap_or(0);
        state.first_position_day = u32::try_from(day).map_err(|_| StoreError::Damaged("first day"))?;
        Ok(())
    }

    pub(super) fn find_old(&self, look: &Look) -> Result<Found, StoreError> {
        match look {
            Look::Entries {
                stream,
                first_seq,
                head,
                before_ms,
            } => {
                let records = LOOK_RECEIPTS_MAX / (RUNGS.len() * stream.members.len()).max(1);
                let (last_seq, next_ms) = self.old_run(
                    &keys::entry(stream.id, *first_seq),
                    &keys::entry(stream.id, *head),
                    records.clamp(1, LOOK_RECORDS_MAX),
                    *before_ms,
                    |entry: &Entry| (entry.seq.number(), entry.accepted.server_ms),
                )?;
                let superseded = match last_seq {
                    Some(last_seq) => self.superseded_within(stream.id, *first_seq, last_seq)?,
                    None => BTreeMap::new(),
                };
                let receipts = match last_seq {
                    // From a little before: some were under way to the disk when the look before this one read.
                    Some(last_seq) => {
                        let from_seq = first_seq.saturating_sub(LOOK_RECORDS_MAX as u64).max(1);
                        self.receipts_within(stream, from_seq, last_seq)?
                    }
                    None => Vec::new(),
                };
                Ok(Found::Entries {
                    last_seq,
                    receipts,
                    superseded: superseded.into_keys().collect(),
                    next_ms,
                })
            }
            Look::Log {
                log,
                first,
                last,
                before_ms,
            } => {
                let (first, last) = (log.key(*first), log.key(*last));
                let (limit, before_ms) = (LOOK_RECORDS_MAX, *before_ms);
                let (last, next_ms) = match log {
                    Log::Events => self.old_run(&first, &last, limit, before_ms, |event: &Event| {
                        (event.cursor, event.at_ms)
                    }),
                    Log::Audit => self.old_run(&first, &last, limit, before_ms, |line: &AuditEntry| {
                        (line.number, line.at_ms)
                    }),
                }?;
                Ok(Found::Log { last, next_ms })
            }
            Look::Positions {
                first_day,
                before_day,
                resume,
            } => {
                let (mark, after) = match resume {
                    Some((mark, after)) => (*mark, after.saturating_add(1)),
                    None => match self.first_mark(*first_day, *before_day)? {
                        Some(mark) => (mark, i64::MIN),
                        None => return Ok(Found::Positions(None)),
                    },
                };
                self.positions_of(mark, after, *before_day)
                    .map(|found| Found::Positions(Some(found)))
            }
        }
    }

    /// Records from the first key on that are older than a time, at most so many: the number of the last, and the time
    /// of the first that is not.
    fn old_run<R: Record>(
        &self,
        first: &[u8],
        last: &[u8],
        limit: usize,
        before_ms: i64,
        at: impl Fn(&R) -> (u64, i64),
    ) -> Result<(Option<u64>, Option<i64>), StoreError> {
        let (mut old, mut next_ms, mut count) = (None, None, 0);
        if first > last {
            return Ok((old, next_ms));
        }
        self.0.scan(first, last, Order::Ascending, &mut |_, value| {
            let (number, at_ms) = at(&R::decode(value)?);
            if at_ms >= before_ms {
                next_ms = Some(at_ms);
                return Ok(ControlFlow::Break(()));
            }
            old = Some(number);
            count += 1;
            Ok(if count < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok((old, next_ms))
    }

    /// The receipts that end within a run of entries.
    fn receipts_within(
        &self,
        stream: &Stream,
        first_seq: u64,
        last_seq: u64,
    ) -> Result<Vec<(Member, Rung, u64)>, StoreError> {
        let mut receipts = Vec::new();
        let mut members: Vec<Member> = stream
            .members
            .iter()
            .map(|membership| membership.member)
            .collect();
        members.sort();
        members.dedup();
        for member in members {
            for rung in RUNGS {
                let key = |seq| keys::receipt(stream.id, member, rung, seq);
                self.0.scan(
                    &key(first_seq),
                    &key(last_seq),
                    Order::Ascending,
                    &mut |key, _| {
                        let seq = key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                        receipts.push((member, rung, seq.ok_or(StoreError::Damaged("receipt"))?));
                        Ok(ControlFlow::Continue(()))
                    },
                )?;
            }
        }
        Ok(receipts)
    }

    fn first_mark(&self, first_day: u32, before_day: u32) -> Result<Option<PositionMark>, StoreError> {
        let key = |day: u32| Key::of(Table::PositionMarks).u32(day).done();
        let mut found = None;
        if first_day >= before_day {
            return Ok(found);
        }
        // The key of the day alone comes before all of that day.
        self.0.scan(
            &key(first_day),
            &key(before_day),
            Order::Ascending,
            &mut |key, _| {
                found = Some(PositionMark::from_key(key).ok_or(StoreError::Damaged("position mark"))?);
                Ok(ControlFlow::Break(()))
            },
        )?;
        Ok(found)
    }

    fn positions_of(
        &self,
        mark: PositionMark,
        from_ms: i64,
        before_day: u32,
    ) -> Result<FoundPositions, StoreError> {
        let start_ms = mark.measured_day.saturating_mul(DAY_MS);
        let end_ms = start_ms.saturating_add(DAY_MS - 1);
        let before_ms = i64::from(before_day) * DAY_MS;
        let (mut old, mut last_ms, mut count) = (Vec::new(), from_ms, 0);
        let from_ms = from_ms.max(start_ms);
        if from_ms <= end_ms {
            let (first, last) = (
                keys::track(mark.device, from_ms),
                keys::track(mark.device, end_ms),
            );
            self.0.scan(&first, &last, Order::Ascending, &mut |_, value| {
                let position = Position::decode(value)?;
                last_ms = position.fix.at_ms;
                if position.received_ms < before_ms {
                    old.push(last_ms);
                }
                count += 1;
                Ok(if count < LOOK_RECORDS_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            })?;
        }
        Ok(FoundPositions {
            mark,
            old,
            resume_after: (count == LOOK_RECORDS_MAX).then_some(last_ms),
        })
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.0
            .read(key)?
            .map(|value| Numbers(&value).u64().ok_or(StoreError::Damaged("beginning")))
            .transpose()
    }
}

const RUNGS: [Rung; 4] = [Rung::Sent, Rung::Delivered, Rung::Read, Rung::Acted];

impl From<Trim> for Change {
    fn from(trim: Trim) -> Self {
        Self::Trim(trim)
    }
}
