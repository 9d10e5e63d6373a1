//! How long things are kept: the sweep that looks for what is too old, one bounded step after the other.
//!
//! A step is a read ([`Output::Look`]) and the write of what follows from what it found; the next one begins a moment
//! after both are done, so that nobody waits behind the sweep. Where a kind begins moves in the same write, and nobody
//! is told of it before that is on disk. What is trimmed of a stream travels as a skip range, and costs a device that
//! was away one item, however long the range is.
//!
//! Never trimmed: which operations were taken (ledgers and digests) and what idempotency keys made, since they are what
//! keeps a late repetition from being a second entry.

use super::{Core, Effect, Now, Output};
use crate::event::EventCursor;
use crate::store::{Change, DAY_MS, Found, FoundPositions, Log, Look, PositionMark, Trim};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};
use waypost_proto::{DeviceId, Fix, StreamId};

/// How long each kind is kept, in days by the server's clock; 0 keeps it for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Entries and their receipts, from when they were accepted, read or not; 365.
    pub entries_days: u32,
    /// The history of positions, from the day on which they arrived; 90. Where a device is stays known.
    pub positions_days: u32,
    /// The event log; 90.
    pub events_days: u32,
    /// The audit record; 365.
    pub audit_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            entries_days: 365,
            positions_days: 90,
            events_days: 90,
            audit_days: 365,
        }
    }
}

/// From the start to the first sweep: those who reconnect come first.
const FIRST_SWEEP_AFTER: Duration = Duration::from_secs(60);
/// From the end of a sweep to the next one.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// From the begin of a step to the next one, at least: 25,000 records a second.
const STEP_EVERY: Duration = Duration::from_millis(20);
/// How many days of measurement are remembered as marked for a device; beyond it a mark is written again.
const MARKED_DAYS_MAX: usize = 16;

/// Where the sweep is, and where each kind begins.
///
/// Memory: about 100 bytes a stream and a device.
#[derive(Debug)]
pub(super) struct Sweep {
    /// On disk: the first entry of each stream of which some were trimmed.
    first_seqs: BTreeMap<StreamId, u64>,
    /// Where each log begins.
    logs: BTreeMap<Log, LogBegin>,
    /// On disk: there is no mark from before this day.
    first_day: u32,
    /// When the first entry of a stream was accepted, as far as it was looked at.
    oldest_ms: BTreeMap<StreamId, i64>,
    /// The marks of the day that were written since the start.
    marked: BTreeMap<DeviceId, (u32, BTreeSet<i64>)>,
    phase: Phase,
    /// When the next step is due; `None` before the first flush.
    at: Option<Instant>,
    /// Whether a look, or the write that follows from it, is under way.
    is_open: bool,
}

/// Where a log begins.
#[derive(Debug, Clone, Copy)]
struct LogBegin {
    /// On disk: the first record.
    first: u64,
    /// When it was written, where that is known.
    oldest_ms: Option<i64>,
}

/// What comes next in a sweep.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The streams after this one.
    Entries {
        after: Option<StreamId>,
    },
    Log(Log),
    /// The marks, from where the last look ended.
    Positions {
        resume: Option<(PositionMark, i64)>,
    },
}

/// What is gone, once that is on disk.
#[derive(Debug)]
pub(super) enum Trimmed {
    Entries {
        stream: StreamId,
        first_seq: u64,
        next_ms: Option<i64>,
    },
    Log {
        log: Log,
        first: u64,
        next_ms: Option<i64>,
    },
    Positions {
        first_day: u32,
    },
}

impl Sweep {
    pub(super) fn new(
        first_seqs: BTreeMap<StreamId, u64>,
        first_event: EventCursor,
        first_audit: u64,
        first_day: u32,
    ) -> Self {
        let begin = |first| LogBegin {
            first,
            oldest_ms: None,
        };
        Self {
            first_seqs,
            logs: [
                (Log::Events, begin(first_event)),
                (Log::Audit, begin(first_audit)),
            ]
            .into(),
            first_day,
            oldest_ms: BTreeMap::new(),
            marked: BTreeMap::new(),
            phase: Phase::Entries { after: None },
            at: None,
            is_open: false,
        }
    }

    /// Sets the first step, as soon as the time is known.
    pub(super) fn arm(&mut self, now: Now) {
        self.at.get_or_insert(now.monotonic + FIRST_SWEEP_AFTER);
    }

    /// The first entry of a stream that is kept.
    pub(super) fn first_seq_of(&self, stream: StreamId) -> u64 {
        self.first_seqs.get(&stream).copied().unwrap_or(1)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at.filter(|_| !self.is_open)
    }

    /// The mark that a position needs, unless it was written already.
    fn mark(&mut self, device: DeviceId, fix: &Fix, now: Now) -> Option<PositionMark> {
        // A clock that went back must not leave a mark where nobody looks any more.
        let received_day = day(now.wall_ms).max(self.first_day);
        let measured_day = fix.at_ms.div_euclid(DAY_MS);
        let (of, marked) = self.marked.entry(device).or_default();
        if *of != received_day || marked.len() >= MARKED_DAYS_MAX {
            (*of, *marked) = (received_day, BTreeSet::new());
        }
        marked.insert(measured_day).then_some(PositionMark {
            received_day,
            device,
            measured_day,
        })
    }
}

impl Core {
    /// The first entry of a stream that is kept.
    pub(super) fn first_seq(&self, stream: StreamId) -> u64 {
        self.sweep.first_seq_of(stream)
    }

    /// The first event that is kept; one that is not there yet where all were trimmed.
    pub(crate) fn first_event(&self) -> EventCursor {
        self.sweep.logs[&Log::Events].first
    }

    /// Stages the mark by which a position is found when its time is over.
    pub(super) fn mark_position(&mut self, device: DeviceId, fix: &Fix, now: Now) {
        if let Some(mark) = self.sweep.mark(device, fix, now) {
            self.changes.push(Change::MarkPositions(mark));
        }
    }

    /// Goes one step, where one is due.
    pub(super) fn sweep(&mut self, now: Now) {
        if self.stopping || self.sweep.poll_timeout().is_none_or(|at| at > now.monotonic) {
            return;
        }
        match self.next_look(now) {
            Some(look) => {
                self.sweep.is_open = true;
                self.sweep.at = Some(now.monotonic + STEP_EVERY);
                self.outputs.push_back(Output::Look(look));
            }
            None => self.sweep.at = Some(now.monotonic + SWEEP_EVERY),
        }
    }

    /// What is to be looked for; `None` at the end of a sweep.
    fn next_look(&mut self, now: Now) -> Option<Look> {
        let Retention {
            entries_days,
            positions_days,
            events_days,
            audit_days,
        } = self.options.retention;
        if let Phase::Entries { after } = self.sweep.phase {
            let look =
                horizon_ms(entries_days, now).and_then(|before_ms| self.look_at_entries(after, before_ms));
            if look.is_some() {
                return look;
            }
            self.sweep.phase = Phase::Log(Log::Events);
        }
        while let Phase::Log(log) = self.sweep.phase {
            let (days, last) = match log {
                Log::Events => (events_days, self.last_event),
                Log::Audit => (audit_days, self.staged_audit),
            };
            let LogBegin { first, oldest_ms } = self.sweep.logs[&log];
            let (first, last) = match log {
                Log::Events => self.without_gap(first, last),
                Log::Audit => (first, last),
            };
            if let Some(before_ms) = horizon_ms(days, now)
                && first <= last
                && oldest_ms.is_none_or(|oldest_ms| oldest_ms < before_ms)
            {
                return Some(Look::Log {
                    log,
                    first,
                    last,
                    before_ms,
                });
            }
            self.sweep.phase = after(log);
        }
        if let Phase::Positions { resume } = self.sweep.phase
            && let Some(before_ms) = horizon_ms(positions_days, now)
        {
            return Some(Look::Positions {
                first_day: self.sweep.first_day,
                before_day: day(before_ms),
                resume,
            });
        }
        self.sweep.phase = Phase::Entries { after: None };
        None
    }

    /// The part of a stretch of event numbers that has no gap: a restore leaves one.
    fn without_gap(&self, mut first: u64, last: u64) -> (u64, u64) {
        let mut gaps: Vec<_> = self.restores.values().collect();
        gaps.sort_by_key(|restore| restore.first_event);
        for gap in gaps {
            if first <= gap.last_event {
                return (first, last.min(gap.last_event));
            }
            first = first.max(gap.first_event);
        }
        (first, last)
    }

    /// The next stream with an entry that may be too old.
    fn look_at_entries(&self, after: Option<StreamId>, before_ms: i64) -> Option<Look> {
        let rest = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        self.streams.range(rest).find_map(|(id, state)| {
            let oldest_ms = self.sweep.oldest_ms.get(id);
            let first_seq = self.first_seq(*id);
            let is_due = first_seq <= state.head && oldest_ms.is_none_or(|oldest_ms| *oldest_ms < before_ms);
            is_due.then(|| Look::Entries {
                stream: state.stream.clone(),
                first_seq,
                head: state.head,
                before_ms,
            })
        })
    }

    /// The answer to [`Output::Look`].
    pub fn handle_found(&mut self, look: &Look, found: Found) {
        match (look, found) {
            (
                Look::Entries {
                    stream,
                    first_seq,
                    head,
                    ..
                },
                Found::Entries {
                    last_seq,
                    receipts,
                    superseded,
                    next_ms,
                },
            ) => {
                let stream = stream.id;
                let is_done = next_ms.is_some() || last_seq.is_none_or(|last_seq| last_seq >= *head);
                if is_done {
                    self.sweep.phase = Phase::Entries { after: Some(stream) };
                }
                let Some(last_seq) = last_seq else {
                    self.sweep
                        .oldest_ms
                        .extend(next_ms.map(|next_ms| (stream, next_ms)));
                    self.sweep.is_open = false;
                    return;
                };
                self.trim_all(
                    (*first_seq..=last_seq).map(|seq| Trim::Entry(stream, seq)),
                    "entries",
                );
                self.trim_all(
                    receipts
                        .into_iter()
                        .map(|(member, rung, last_seq)| Trim::Receipt {
                            stream,
                            member,
                            rung,
                            last_seq,
                        }),
                    "receipts",
                );
                self.trim_urgent(stream, last_seq);
                let marks = superseded
                    .into_iter()
                    .map(|seq| Trim::Superseded(stream, seq).into());
                self.changes.extend(marks);
                self.changes.push(Trim::FirstSeq(stream, last_seq + 1).into());
                self.effects.push(Effect::Trimmed(Trimmed::Entries {
                    stream,
                    first_seq: last_seq + 1,
                    next_ms,
                }));
            }
            (
                Look::Log {
                    log,
                    first,
                    last: newest,
                    ..
                },
                Found::Log { last, next_ms },
            ) => {
                let log = *log;
                if next_ms.is_some() || last.is_none_or(|last| last >= *newest) {
                    self.sweep.phase = after(log);
                }
                let Some(last) = last else {
                    let begin = LogBegin {
                        first: *first,
                        oldest_ms: next_ms,
                    };
                    self.sweep.logs.insert(log, begin);
                    self.sweep.is_open = false;
                    return;
                };
                let kind = match log {
                    Log::Events => "events",
                    Log::Audit => "audit",
                };
                self.trim_all((*first..=last).map(|number| Trim::Record(log, number)), kind);
                self.changes.push(Trim::FirstRecord(log, last + 1).into());
                self.effects.push(Effect::Trimmed(Trimmed::Log {
                    log,
                    first: last + 1,
                    next_ms,
                }));
            }
            (Look::Positions { .. }, Found::Positions(Some(found))) => self.trim_positions(found),
            _ => {
                // No mark is left: the sweep is over, and what follows is the pause.
                self.sweep.phase = Phase::Entries { after: None };
                self.sweep.at = self.sweep.at.map(|at| at + SWEEP_EVERY);
                self.sweep.is_open = false;
            }
        }
        self.commit();
    }

    fn trim_positions(&mut self, found: FoundPositions) {
        let FoundPositions {
            mark,
            old,
            resume_after,
        } = found;
        self.sweep.phase = Phase::Positions {
            resume: resume_after.map(|after| (mark, after)),
        };
        self.trim_all(
            old.into_iter().map(|at_ms| Trim::Position(mark.device, at_ms)),
            "positions",
        );
        if resume_after.is_none() {
            self.changes.push(Trim::Mark(mark).into());
            self.changes.push(Trim::FirstDay(mark.received_day).into());
        }
        if self.changes.is_empty() {
            self.sweep.is_open = false;
            return;
        }
        self.effects.push(Effect::Trimmed(Trimmed::Positions {
            first_day: mark.received_day,
        }));
    }

    fn trim_all(&mut self, trims: impl Iterator<Item = Trim>, kind: &'static str) {
        let before = self.changes.len();
        self.changes.extend(trims.map(Change::from));
        let trimmed = self.changes.len() - before;
        metrics::counter!("waypost_bridge_trimmed_total", "kind" => kind).increment(trimmed as u64);
    }

    /// What was found is gone: the next step may begin.
    pub(super) fn take_trimmed(&mut self, trimmed: Trimmed) {
        self.sweep.is_open = false;
        match trimmed {
            Trimmed::Entries {
                stream,
                first_seq,
                next_ms,
            } => {
                self.sweep.first_seqs.insert(stream, first_seq);
                match next_ms {
                    Some(next_ms) => self.sweep.oldest_ms.insert(stream, next_ms),
                    None => self.sweep.oldest_ms.remove(&stream),
                };
            }
            Trimmed::Log { log, first, next_ms } => {
                let begin = LogBegin {
                    first,
                    oldest_ms: next_ms,
                };
                self.sweep.logs.insert(log, begin);
            }
            Trimmed::Positions { first_day } => self.sweep.first_day = first_day,
        }
    }
}

/// What follows a log in a sweep.
fn after(log: Log) -> Phase {
    match log {
        Log::Events => Phase::Log(Log::Audit),
        Log::Audit => Phase::Positions { resume: None },
    }
}

/// Before when something is too old; `None` where it is kept for ever.
fn horizon_ms(days: u32, now: Now) -> Option<i64> {
    (days > 0).then(|| now.wall_ms.saturating_sub(i64::from(days) * DAY_MS))
}

/// Days of UTC since 1970.
fn day(wall_ms: i64) -> u32 {
    u32::try_from(wall_ms.div_euclid(DAY_MS)).unwrap_or(0)
}
