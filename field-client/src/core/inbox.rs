//! The inbox in memory: what is held and read of each stream, what of that the server knows, what is to be shown.
//!
//! Contents stay in the store. An entry counts from the moment its write is handed over (so that a repetition is not
//! stored twice) and is reported and shown from the moment the write is on disk.
//!
//! Memory: about 300 bytes a stream and 32 for each of at most [`READ_STEPS_MAX`] moments of reading that wait, at most
//! [`STREAMS_MAX`] streams, and 48 bytes an entry that waits to be shown.

use super::clock::{Moment, Now};
use super::server_clock::ServerClock;
use super::write::{ReadStep, StoredCursor, ToShow};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use waypost_proto::wire::{self, StreamKind};
use waypost_proto::{Cumulative, Seq, StreamId, positions_digest};

/// Ranges above a gap that a stream may have; an entry that would open a ninth waits for its repetition.
pub(crate) const RANGES_MAX: usize = 8;
/// Streams that a device may hold; entries of a further one are left to the server.
pub(crate) const STREAMS_MAX: usize = 4_096;
/// A number that no stream reaches: beyond it arithmetic on numbers from the network would overflow.
const SEQ_MAX: u64 = u64::MAX / 2;
/// How long a report waits for others that can ride in the same frame.
const REPORT_DELAY: Duration = Duration::from_millis(200);
/// The same after one frame that is nearly full, as another will follow: one report for two halves what reports cost.
const REPORT_DELAY_WITHIN_FLOW: Duration = Duration::from_secs(1);
/// Moments of reading of one stream that are kept until the server knows them; beyond it the one that is nearest to what was
/// read after it is forgotten, and counts as read then.
const READ_STEPS_MAX: usize = 32;
/// What is read within this time after something else counts as read with it.
const READ_TOGETHER: Duration = Duration::from_millis(500);
/// A frame that is nearly full.
const FULL_FRAME_BYTES: usize = 900;

/// What became of an entry that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new: write it.
    New,
    /// It is here already.
    Repeated,
    /// There is no room for it now; its repetition will find some.
    OverBound,
}

#[derive(Debug, Clone)]
struct Stream {
    /// With the writes that are under way.
    expected: Cumulative,
    /// On disk.
    held: Cumulative,
    delivered: Moment,
    expected_read: u64,
    read: u64,
    read_at: Moment,
    /// What was read before that, at other moments, and is not confirmed.
    read_steps: Vec<ReadStep>,
    confirmed: Cumulative,
    confirmed_read: u64,
    /// When the present state was last reported; `None` where that is to be done.
    reported: Option<Instant>,
    /// How often the present state has been reported.
    reports: u32,
    /// When a report that is wanted is to leave at the latest.
    due: Option<Instant>,
    kind: StreamKind,
    /// Of the entries, with the writes that are under way; 0 for none.
    newest: u64,
    /// Up to here entries may be on the server alone, with the writes that are under way; 0 for none.
    horizon: u64,
}

/// All that the device holds.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    streams: BTreeMap<StreamId, Stream>,
    /// Stored, not confirmed as shown.
    unshown: BTreeSet<(StreamId, Seq)>,
    /// Of these, what waits for a gap to close.
    behind_gap: BTreeSet<(StreamId, Seq)>,
    /// Of these, what the screen may have now, in order.
    showable: VecDeque<(StreamId, Seq)>,
    /// How many full frames have come since the last report; a smaller one ends the flow.
    full_frames: usize,
}

impl Inbox {
    /// Takes the position of a stream from the store at the start of the process.
    pub(crate) fn restore(&mut self, stream: StreamId, cursor: StoredCursor) {
        let state = Stream {
            expected: cursor.held.clone(),
            held: cursor.held,
            delivered: cursor.delivered,
            expected_read: cursor.read,
            read: cursor.read,
            read_at: cursor.read_at,
            read_steps: cursor.read_steps,
            confirmed: cursor.confirmed,
            confirmed_read: cursor.confirmed_read,
            reported: None,
            reports: 0,
            due: None,
            kind: cursor.kind,
            newest: cursor.newest,
            horizon: cursor.horizon,
        };
        self.streams.insert(stream, state);
    }

    /// Another store: nothing of it is held, and nothing of the old one is shown any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A frame of so many bytes has come.
    pub(crate) fn frame_came(&mut self, bytes: usize) {
        self.full_frames = match bytes / FULL_FRAME_BYTES {
            0 => 0,
            full => self.full_frames.saturating_add(full),
        };
    }

    /// How long a report may wait now.
    fn report_delay(&self) -> Duration {
        match self.full_frames {
            0 => REPORT_DELAY,
            1 => REPORT_DELAY_WITHIN_FLOW,
            _ => Duration::ZERO,
        }
    }

    /// The store was put back: of each stream counts what stands up to the number that `through` says, and all of it is to be
    /// reported. Returns the number for each stream that was held.
    pub(crate) fn fork(&mut self, through: impl Fn(StreamId, StreamKind) -> u64) -> BTreeMap<StreamId, u64> {
        let mut cut = BTreeMap::new();
        for (&id, stream) in &mut self.streams {
            let last = through(id, stream.kind);
            cut.insert(id, last);
            stream.expected.truncate(last);
            stream.held.truncate(last);
            stream.expected_read = stream.expected_read.min(last);
            stream.read = stream.read.min(last);
            stream.read_steps.retain(|step| step.read <= last);
            stream.newest = stream.newest.min(last);
            stream.horizon = stream.horizon.min(last);
            stream.confirmed = Cumulative::default();
            stream.confirmed_read = 0;
            stream.reports = 0;
        }
        self.streams.retain(|id, _| cut[id] > 0);
        let stays =
            |&(stream, seq): &(StreamId, Seq)| cut.get(&stream).is_some_and(|&last| seq.number() <= last);
        self.unshown.retain(stays);
        self.behind_gap.retain(stays);
        self.showable.retain(stays);
        cut
    }

    /// Whether anything is known of a stream.
    pub(crate) fn holds(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Whether an entry is to be written.
    pub(crate) fn admit(&mut self, stream: StreamId, seq: Seq, now: Now) -> Admission {
        if seq.number() > SEQ_MAX {
            return Admission::OverBound;
        }
        let Some(state) = self.state(stream, now) else {
            return Admission::OverBound;
        };
        if state.expected.contains(seq.number()) {
            return Admission::Repeated;
        }
        if state.expected.insert_within(seq.number(), RANGES_MAX) {
            Admission::New
        } else {
            Admission::OverBound
        }
    }

    /// An entry that was admitted as new belongs to a stream of this kind.
    pub(crate) fn admitted(&mut self, stream: StreamId, seq: Seq, kind: StreamKind) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.newest = state.newest.max(seq.number());
            if kind == StreamKind::Broadcast {
                state.kind = kind;
            }
        }
    }

    /// The last entry of a stream that may be on the server alone.
    pub(crate) fn horizon(&self, stream: StreamId) -> Option<Seq> {
        Seq::new(self.streams.get(&stream)?.horizon)
    }

    /// The same of all streams that have one.
    pub(crate) fn horizons(&self) -> impl Iterator<Item = (StreamId, Seq)> + '_ {
        let horizon = |(&stream, state): (&StreamId, &Stream)| Some((stream, Seq::new(state.horizon)?));
        self.streams.iter().filter_map(horizon)
    }

    /// Entries up to `last` were skipped, to be had by the page.
    pub(crate) fn raise_horizon(&mut self, stream: StreamId, last: u64) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.horizon = state.horizon.max(last);
        }
    }

    /// Everything above `last` is here.
    pub(crate) fn lower_horizon(&mut self, stream: StreamId, last: u64) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.horizon = state.horizon.min(last);
        }
    }

    /// The newest entry of a broadcast; `None` for other streams.
    pub(crate) fn newest_of_broadcast(&self, stream: StreamId) -> Option<Seq> {
        let state = self.streams.get(&stream)?;
        Seq::new(state.newest).filter(|_| state.kind == StreamKind::Broadcast)
    }

    /// Whether numbers that will never come are to be counted as held.
    pub(crate) fn admit_skip(&mut self, stream: StreamId, first: Seq, last: u64, now: Now) -> Admission {
        if last > SEQ_MAX {
            return Admission::OverBound;
        }
        let Some(state) = self.state(stream, now) else {
            return Admission::OverBound;
        };
        let mut with_skip = state.expected.clone();
        with_skip.insert_range(first.number(), last);
        if with_skip == state.expected {
            return Admission::Repeated;
        }
        if with_skip.ranges() > RANGES_MAX {
            return Admission::OverBound;
        }
        state.expected = with_skip;
        Admission::New
    }

    /// What a stream holds once the writes under way are on disk.
    pub(crate) fn cursor(&self, stream: StreamId, now: Now) -> StoredCursor {
        self.streams
            .get(&stream)
            .map_or_else(StoredCursor::default, |state| StoredCursor {
                held: state.expected.clone(),
                delivered: if state.expected == state.held {
                    state.delivered
                } else {
                    now.into()
                },
                read: state.expected_read,
                read_at: if state.expected_read == state.read {
                    state.read_at
                } else {
                    now.into()
                },
                read_steps: if state.expected_read == state.read {
                    state.read_steps.clone()
                } else {
                    state.steps_before(now)
                },
                confirmed: state.confirmed.clone(),
                confirmed_read: state.confirmed_read,
                kind: state.kind,
                newest: state.newest,
                horizon: state.horizon,
            })
    }

    /// Entries of a stream are on disk: they are reported and shown from now on.
    pub(crate) fn stored(&mut self, stream: StreamId, held: Cumulative, to_show: &[ToShow], now: Now) {
        let report_by = now.mono + self.report_delay();
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if state.held != held {
            state.held = held;
            state.delivered = now.into();
            state.wants_report(report_by);
        }
        let through = state.held.through();
        for entry in to_show {
            self.unshown.insert((stream, entry.seq));
            if entry.urgent && entry.seq.number() > through {
                self.showable.push_back((stream, entry.seq));
            } else {
                self.behind_gap.insert((stream, entry.seq));
            }
        }
        self.show_through(stream, through);
    }

    /// Entries that an earlier process stored and did not show.
    pub(crate) fn restore_unshown(&mut self, stream: StreamId, entries: &[ToShow]) {
        let through = self.streams.get(&stream).map_or(0, |state| state.held.through());
        for entry in entries {
            self.unshown.insert((stream, entry.seq));
            if entry.urgent && entry.seq.number() > through {
                self.showable.push_back((stream, entry.seq));
            } else {
                self.behind_gap.insert((stream, entry.seq));
            }
        }
        self.show_through(stream, through);
    }

    /// The next entry for the screen.
    pub(crate) fn poll_show(&mut self) -> Option<(StreamId, Seq)> {
        while let Some(next) = self.showable.pop_front() {
            // It may have been read or confirmed meanwhile.
            if self.unshown.contains(&next) {
                return Some(next);
            }
        }
        None
    }

    /// Everything that is not confirmed waits for the screen again.
    pub(crate) fn offer_again(&mut self) {
        let visible = self
            .unshown
            .iter()
            .filter(|entry| !self.behind_gap.contains(entry));
        self.showable = visible.copied().collect();
    }

    /// Whether something waits for the screen.
    pub(crate) fn has_to_show(&self) -> bool {
        !self.showable.is_empty()
    }

    /// Whether an entry is held and was offered to a screen, now or in an earlier process.
    pub(crate) fn has_been_offered(&self, stream: StreamId, seq: Seq) -> bool {
        let held = self
            .streams
            .get(&stream)
            .is_some_and(|state| state.held.contains(seq.number()));
        held && !self.behind_gap.contains(&(stream, seq)) && !self.showable.contains(&(stream, seq))
    }

    /// Whether an entry, or word that it is gone, is here or on its way to the disk.
    pub(crate) fn has(&self, stream: StreamId, seq: Seq) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| state.expected.contains(seq.number()))
    }

    /// The consumer has confirmed an entry; false where that is known.
    pub(crate) fn shown(&mut self, stream: StreamId, seq: Seq) -> bool {
        self.behind_gap.remove(&(stream, seq));
        self.unshown.remove(&(stream, seq))
    }

    /// The driver has read up to `seq`. Returns whether the reading moves, and which entries count as shown by it.
    pub(crate) fn read(&mut self, stream: StreamId, seq: Seq) -> (bool, Vec<Seq>) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return (false, Vec::new());
        };
        // Beyond a gap nobody has read what is not there.
        let read = seq.number().min(state.held.through());
        let moves = read > state.expected_read;
        state.expected_read = state.expected_read.max(read);
        let mut shown: Vec<Seq> = Vec::new();
        if let Some(read) = Seq::new(read) {
            let first = Seq::new(1).expect("1 is a seq");
            shown.extend(
                self.unshown
                    .range((stream, first)..=(stream, read))
                    .map(|&(_, seq)| seq),
            );
        }
        if self.unshown.contains(&(stream, seq)) && !shown.contains(&seq) {
            shown.push(seq);
        }
        for &seq in &shown {
            self.shown(stream, seq);
        }
        (moves, shown)
    }

    /// A reading is on disk: it is reported from now on. Returns whether the moment of an earlier one was forgotten for it.
    pub(crate) fn read_stored(&mut self, stream: StreamId, read: u64, now: Now) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else {
            return false;
        };
        let mut forgotten = false;
        if read > state.read {
            let steps = state.steps_before(now);
            forgotten = state.read_steps.len() == READ_STEPS_MAX && steps != state.read_steps;
            state.read_steps = steps;
            state.read = read;
            state.read_at = now.into();
            state.wants_report(now.mono + REPORT_DELAY);
        }
        forgotten
    }

    /// The server has a cursor on its disk. Returns whether that is news, and when it was reported, where it was
    /// reported exactly once and needs no report any more.
    pub(crate) fn confirm(
        &mut self,
        stream: StreamId,
        delivered: &Cumulative,
        read: u64,
    ) -> (bool, Option<Instant>) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return (false, None);
        };
        let news = read > state.confirmed_read || !covers(&state.confirmed, delivered);
        state.confirmed.merge(delivered);
        state.confirmed_read = state.confirmed_read.max(read);
        state.read_steps.retain(|step| step.read > read);
        if state.outstanding() {
            return (news, None);
        }
        state.due = None;
        let reported_once = state.reported.take().filter(|_| state.reports == 1);
        (news, reported_once)
    }

    /// Digest of what is on disk.
    pub(crate) fn digest(&self) -> u64 {
        positions_digest(self.streams.iter().map(|(&stream, state)| (stream, &state.held)))
    }

    /// What is on disk, for a server that asks for all of it.
    pub(crate) fn positions(&self) -> wire::TransferPositions {
        let held = self.streams.iter().filter(|(_, state)| !state.held.is_empty());
        let cursor = |(stream, state): (&StreamId, &Stream)| wire::Cursor {
            stream: stream.number(),
            delivered: state.held.through(),
            ranges: state.held.to_wire_within(RANGES_MAX),
            ..wire::Cursor::default()
        };
        wire::TransferPositions {
            cursors: held.map(cursor).collect(),
        }
    }

    /// Streams with a report that has not left, in order; without `early` only once one of them is due.
    pub(crate) fn reportable(&self, now: Now, early: Early) -> Vec<StreamId> {
        let is_due = |state: &Stream| state.due.is_none_or(|due| due <= now.mono);
        let unreported = self.streams.iter().filter(|(_, state)| state.unreported());
        let streams: Vec<_> = unreported.collect();
        if early == Early::No && !streams.iter().any(|(_, state)| is_due(state)) {
            return Vec::new();
        }
        streams.into_iter().map(|(&stream, _)| stream).collect()
    }

    /// Whether a report of the stream speaks of what was done before the device was last started.
    pub(crate) fn is_of_earlier_boot(&self, stream: StreamId, now: Now) -> bool {
        self.streams.get(&stream).is_some_and(|state| {
            let delivered = !covers(&state.confirmed, &state.held) && state.delivered.is_of_earlier_boot(now);
            let read = state.read > state.confirmed_read && state.read_at.is_of_earlier_boot(now);
            delivered || read
        })
    }

    /// The report of a stream as it leaves in a frame of now: what was read at earlier moments goes before what is so now.
    pub(crate) fn report(&self, stream: StreamId, now: Now, server: &ServerClock) -> Vec<wire::Cursor> {
        let Some(state) = self.streams.get(&stream) else {
            return Vec::new();
        };
        let step = |step: &ReadStep| wire::Cursor {
            stream: stream.number(),
            read: step.read,
            read_age_s: step.at.age_s(now, server),
            ..wire::Cursor::default()
        };
        let steps = state.read_steps.iter().map(step);
        // A position that the server has needs no time; its number stays, as the field is the position.
        let delivered_age_s = if covers(&state.confirmed, &state.held) {
            0
        } else {
            state.delivered.age_s(now, server)
        };
        let read_age_s = if state.read > state.confirmed_read {
            state.read_at.age_s(now, server)
        } else {
            0
        };
        let present = wire::Cursor {
            stream: stream.number(),
            delivered: state.held.through(),
            read: state.read,
            ranges: state.held.to_wire_within(RANGES_MAX),
            delivered_age_s,
            read_age_s,
        };
        steps.chain([present]).collect()
    }

    /// The report of a stream stands in a frame that leaves now.
    pub(crate) fn reported(&mut self, stream: StreamId, at: Instant) {
        self.full_frames = 0;
        if let Some(state) = self.streams.get_mut(&stream) {
            state.reported = Some(at);
            state.reports = state.reports.saturating_add(1);
            state.due = None;
        }
    }

    /// A new session: everything that is not confirmed is reported again.
    pub(crate) fn repeat_all(&mut self) {
        for state in self.streams.values_mut() {
            state.reported = None;
            state.due = None;
        }
    }

    /// What was reported at `before` or earlier and has no answer is due again.
    pub(crate) fn repeat_reported_before(&mut self, before: Instant) {
        for state in self.streams.values_mut() {
            if state.outstanding() && state.reported.is_some_and(|at| at <= before) {
                state.reported = None;
                state.due = None;
            }
        }
    }

    /// When the longest unanswered report left.
    pub(crate) fn oldest_reported(&self) -> Option<Instant> {
        let outstanding = self.streams.values().filter(|state| state.outstanding());
        outstanding.filter_map(|state| state.reported).min()
    }

    /// When the next report is due that has not left; the past where one may leave at once.
    pub(crate) fn next_due(&self, now: Now) -> Option<Instant> {
        let unreported = self.streams.values().filter(|state| state.unreported());
        unreported.map(|state| state.due.unwrap_or(now.mono)).min()
    }

    /// Entries that are stored and not confirmed as shown.
    pub(crate) fn unshown(&self) -> usize {
        self.unshown.len()
    }

    fn state(&mut self, stream: StreamId, now: Now) -> Option<&mut Stream> {
        if !self.streams.contains_key(&stream) && self.streams.len() >= STREAMS_MAX {
            return None;
        }
        Some(self.streams.entry(stream).or_insert_with(|| Stream {
            expected: Cumulative::default(),
            held: Cumulative::default(),
            delivered: now.into(),
            expected_read: 0,
            read: 0,
            read_at: now.into(),
            read_steps: Vec::new(),
            confirmed: Cumulative::default(),
            confirmed_read: 0,
            reported: None,
            reports: 0,
            due: None,
            kind: StreamKind::Conversation,
            newest: 0,
            horizon: 0,
        }))
    }

    fn show_through(&mut self, stream: StreamId, through: u64) {
        let first = Seq::new(1).expect("1 is a seq");
        let Some(last) = Seq::new(through) else { return };
        let closed: Vec<_> = self
            .behind_gap
            .range((stream, first)..=(stream, last))
            .copied()
            .collect();
        for entry in closed {
            self.behind_gap.remove(&entry);
            self.showable.push_back(entry);
        }
    }
}

/// Whether reports leave before they are due, as a frame leaves anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Early {
    Yes,
    No,
}

impl Stream {
    fn outstanding(&self) -> bool {
        self.read > self.confirmed_read || !covers(&self.confirmed, &self.held)
    }

    /// The moments of reading to be reported before that of something that is read now.
    fn steps_before(&self, now: Now) -> Vec<ReadStep> {
        let mut steps = self.read_steps.clone();
        if self.read > self.confirmed_read && !self.read_at.is_about(now, READ_TOGETHER) {
            steps.push(ReadStep {
                read: self.read,
                at: self.read_at,
            });
        }
        if steps.len() > READ_STEPS_MAX {
            let until_next = |&at: &usize| {
                let (step, next) = (steps[at], steps[at + 1]);
                next.at.steady.ms.saturating_sub(step.at.steady.ms)
            };
            if let Some(nearest) = (0..steps.len() - 1).min_by_key(until_next) {
                steps.remove(nearest);
            }
        }
        steps
    }

    fn unreported(&self) -> bool {
        self.reported.is_none() && self.outstanding()
    }

    fn wants_report(&mut self, by: Instant) {
        self.reported = None;
        self.reports = 0;
        self.due = Some(self.due.map_or(by, |due| due.min(by)));
    }
}

fn covers(set: &Cumulative, part: &Cumulative) -> bool {
    let mut union = set.clone();
    union.merge(part);
    union == *set
}
