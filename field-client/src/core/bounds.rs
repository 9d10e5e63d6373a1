//! What the outbox does at its bound: history thins out first, then positions are refused, messages last.
//!
//! | of `outbox_ops_max` and `outbox_bytes_max` | is |
//! |---|---|
//! | above 7/8 | history thins, in the background, until 13/16 or until nothing more can go |
//! | 15/16 | positions are refused; the sixteenth above is for messages alone |
//! | all | messages are refused |
//!
//! While history still thins nobody is refused: [`NotTaken::Soon`] asks to wait for the next write.
//!
//! **What goes.** The tracks are gone through oldest first, each once before any goes a second time, in steps of at most
//! [`STEP_OPS`] so that neither memory nor the work of one input grows with the outbox. Of two tracks that were never
//! sent one is made, under a number of the two: all fixes of both while they make a packet ([`PACKET_FIXES`]) and it is
//! numbers that are short, or else half of them, those that matter most. What the server may have seen
//! never goes again with another content, which would look like a fork: it stays, or every second such track is given up whole.
//! A batch, which is a line with a bounded error already, is not thinned further: it is never put together with another, and
//! goes as what the server may have seen does.
//! No fix goes that would leave a hole longer than [`HOLE_MAX`]. Numbers that become free are void, as `THINNED`. If the
//! server has one of them after all, its acknowledgement covers the void and nothing is lost.
//!
//! Each step is one write: a crash leaves the tracks before it or after it.

use super::outbox::{Item, Lane, Outbox, State};
use super::thinning::{error_without, thin};
use super::write::Batch;
use super::{Core, Draft, Effect, Mutation, Now, PostId};
use crate::status::OutboxBounds;
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;
use waypost_proto::wire::{self, VoidReason};
use waypost_proto::{Fix, Motion, OpNumber, Point, TrackBatch, TrackKind, track_from_wire, track_to_wire};

/// Tracks that one step looks at: at most 64 numbers become free with one write.
const STEP_OPS: usize = 128;
/// Bytes of their contents in memory, unless one alone is larger.
const STEP_BYTES: usize = 256_000;
/// Fixes that make about a packet.
const PACKET_FIXES: usize = 80;
/// Thinning leaves no longer hole in a way.
pub(super) const HOLE_MAX: Duration = Duration::from_secs(300);

/// Before every name.
const SWEEP_BEGINS: PostId = PostId(0);

/// Why an operation is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// History is being thinned: ask again after the next write or load.
    Soon,
    /// Positions are not taken; messages are.
    HistoryFull(Fill),
    /// Nothing is taken.
    OutboxFull(Fill),
}

/// How full the outbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) ops: usize,
    pub(crate) bytes: u64,
    pub(crate) bounds: OutboxBounds,
}

/// How far thinning has come.
#[derive(Debug)]
pub(super) struct Thinning {
    phase: Phase,
    /// Where the next step begins.
    from: PostId,
    /// Whether something became free since the oldest was looked at; `None` where that has to be done first.
    freed: Option<bool>,
    /// Whether it goes on, having begun above 7/8, until 13/16.
    is_on: bool,
    /// Nothing more could go: looks again when the next operation has this name.
    rests_until: PostId,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// A step waits for contents from the store.
    Loading {
        ids: Vec<PostId>,
        contents: BTreeMap<PostId, wire::Operation>,
        /// Not yet asked for.
        wanted: Vec<PostId>,
    },
    /// A step waits for its write.
    Writing,
}

impl Default for Thinning {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            from: SWEEP_BEGINS,
            freed: None,
            is_on: false,
            rests_until: PostId(0),
        }
    }
}

/// What one step comes to.
#[derive(Debug, Default)]
struct Step {
    /// Numbers never sent whose tracks are in `merged` now.
    slots: Vec<PostId>,
    /// What they become, oldest first, and how wrong each is in metres.
    merged: Vec<(wire::Operation, f64)>,
    /// Given up whole.
    gone: Vec<PostId>,
    fixes_gone: usize,
    error_m: f64,
}

impl OutboxBounds {
    pub(super) fn of(ops_max: usize, bytes_max: u64) -> Self {
        let (ops_max, reserve) = (ops_max as u64, |max: u64| max.div_ceil(16));
        Self {
            ops_max,
            bytes_max,
            history_ops_max: ops_max - reserve(ops_max),
            history_bytes_max: bytes_max - reserve(bytes_max),
        }
    }
}

impl Core {
    /// Whether the outbox takes an operation.
    ///
    /// # Errors
    /// [`NotTaken`]; counted where it is for good.
    pub(super) fn make_room(&mut self, draft: &Draft, now: Now) -> Result<(), NotTaken> {
        let bounds = self.bounds();
        let fill = Fill {
            ops: self.outbox.waiting_ops(),
            bytes: self.outbox.waiting_bytes(),
            bounds,
        };
        let is_history = Lane::of(&draft.content) == Lane::Track;
        let (ops_max, bytes_max) = if is_history {
            (bounds.history_ops_max, bounds.history_bytes_max)
        } else {
            (bounds.ops_max, bounds.bytes_max)
        };
        let bytes = fill.bytes.saturating_add(draft.content.encoded_len() as u64);
        if (fill.ops as u64) < ops_max && bytes <= bytes_max {
            return Ok(());
        }
        self.thin_if_due(now);
        if self.is_thinning() {
            return Err(NotTaken::Soon);
        }
        self.counters.ops_over_bound += 1;
        Err(if is_history {
            NotTaken::HistoryFull(fill)
        } else {
            NotTaken::OutboxFull(fill)
        })
    }

    pub(crate) fn bounds(&self) -> OutboxBounds {
        OutboxBounds::of(self.config.outbox_ops_max, self.config.outbox_bytes_max)
    }

    /// Whether a step of thinning is under way: then a write or a load is.
    pub(crate) fn is_thinning(&self) -> bool {
        !matches!(self.thinning.phase, Phase::Idle)
    }

    /// Fixes that were not taken and for which there was no room to wait.
    pub(crate) fn note_fixes_refused(&mut self, fixes: usize, error_m: f64) {
        self.counters.fixes_refused += fixes as u64;
        self.note_error(error_m);
    }

    /// Begins the next step where the outbox is fuller than it should be.
    pub(super) fn thin_if_due(&mut self, now: Now) {
        while !self.is_thinning() && self.is_pressed() {
            if self.thinning.from == SWEEP_BEGINS {
                if self.thinning.freed == Some(false) {
                    return self.rest();
                }
                self.thinning.freed = Some(false);
            }
            let (ids, next) = choose(&self.outbox, self.thinning.from, self.step_ops());
            self.thinning.from = next.unwrap_or(SWEEP_BEGINS);
            if ids.len() < 2 {
                continue;
            }
            let at_hand = |&id: &PostId| Some((id, self.outbox.content_at_hand(id)?.clone()));
            let contents: BTreeMap<_, _> = ids.iter().filter_map(at_hand).collect();
            let wanted = ids
                .iter()
                .copied()
                .filter(|id| !contents.contains_key(id))
                .collect();
            self.thinning.phase = Phase::Loading {
                ids,
                contents,
                wanted,
            };
            self.thin_if_loaded(now);
        }
    }

    /// Contents that a step waits for.
    pub(super) fn poll_thinning_wanted(&mut self) -> Option<Vec<PostId>> {
        match &mut self.thinning.phase {
            Phase::Loading { wanted, .. } if !wanted.is_empty() => Some(std::mem::take(wanted)),
            _ => None,
        }
    }

    /// A content from the store, which a step may be waiting for.
    pub(super) fn thinning_loaded(&mut self, id: PostId, content: Option<&wire::Operation>, now: Now) {
        let Phase::Loading { ids, contents, .. } = &mut self.thinning.phase else {
            return;
        };
        match content {
            Some(content) if ids.contains(&id) => drop(contents.insert(id, content.clone())),
            Some(_) => return,
            None => ids.retain(|wanted| *wanted != id),
        }
        self.thin_if_loaded(now);
        self.thin_if_due(now);
    }

    /// A step is on disk.
    pub(super) fn thinned(&mut self, ops: usize, fixes: usize, error_m: u32, now: Now) {
        self.counters.ops_thinned += ops as u64;
        self.counters.fixes_thinned += fixes as u64;
        self.note_error(f64::from(error_m));
        self.thinning.phase = Phase::Idle;
        self.thin_if_due(now);
    }

    fn note_error(&mut self, error_m: f64) {
        let counted = &mut self.counters.thinning_error_m;
        *counted = (*counted).max(whole_metres(error_m));
    }

    fn is_pressed(&mut self) -> bool {
        let bounds = self.bounds();
        let (ops, bytes) = (self.outbox.waiting_ops() as u64, self.outbox.waiting_bytes());
        let above = |sixteenths: u64| {
            ops > of_sixteenths(bounds.ops_max, sixteenths)
                || bytes > of_sixteenths(bounds.bytes_max, sixteenths)
        };
        self.thinning.is_on = above(14) || (self.thinning.is_on && above(13));
        self.thinning.is_on && PostId(self.next_post) >= self.thinning.rests_until
    }

    /// Tracks for the next step: no more than it takes, or as many as it may be.
    fn step_ops(&self) -> usize {
        let bounds = self.bounds();
        if self.outbox.waiting_bytes() > of_sixteenths(bounds.bytes_max, 13) {
            return STEP_OPS;
        }
        let waiting = self.outbox.waiting_ops() as u64;
        let excess = waiting.saturating_sub(of_sixteenths(bounds.ops_max, 13));
        usize::try_from(2 * excess).map_or(STEP_OPS, |ops| ops.clamp(2, STEP_OPS))
    }

    /// Nothing more can go before there is something new.
    fn rest(&mut self) {
        self.thinning.freed = None;
        let pause = (self.config.outbox_ops_max as u64 / 64).max(1);
        self.thinning.rests_until = PostId(self.next_post + pause);
    }

    /// Carries a step out once all contents are there.
    fn thin_if_loaded(&mut self, now: Now) {
        let Phase::Loading { ids, contents, .. } = &mut self.thinning.phase else {
            return;
        };
        if contents.len() < ids.len() {
            return;
        }
        let (ids, contents) = (std::mem::take(ids), std::mem::take(contents));
        self.thinning.phase = Phase::Idle;
        let step = self.plan(&ids, &contents);
        let mut batch = Batch::default();
        let kept = step.merged.len();
        for (&id, (content, error_m)) in step.slots.iter().zip(step.merged) {
            self.outbox.refill(id, &content, error_m);
            batch.mutations.push(Mutation::Refill { id, content });
            batch.effects.push(Effect::OperationStored(id));
        }
        let mut gone = step.slots;
        gone.drain(..kept);
        gone.extend(step.gone);
        if gone.is_empty() {
            return;
        }
        let mut numbers: Vec<OpNumber> = (gone.iter())
            .filter_map(|&id| self.outbox.item(id).map(|item| item.op))
            .collect();
        numbers.sort_unstable();
        for &id in &gone {
            self.outbox.forget(id);
            batch.mutations.push(Mutation::Forget(id));
        }
        for run in numbers.chunk_by(|one, next| one.number() + 1 == next.number()) {
            self.put_void(run[0], run.len() as u32, VoidReason::Thinned, &mut batch);
        }
        batch.effects.push(Effect::Thinned {
            ops: gone.len(),
            fixes: step.fixes_gone,
            error_m: whole_metres(step.error_m),
        });
        self.thinning.freed = Some(true);
        self.thinning.phase = Phase::Writing;
        self.write(batch, now);
    }

    /// What becomes of the tracks of a step, which are in the order of their names.
    fn plan(&mut self, ids: &[PostId], contents: &BTreeMap<PostId, wire::Operation>) -> Step {
        let bounds = self.bounds();
        // Where it is bytes that are short, putting tracks together frees nothing.
        let keep = if self.outbox.waiting_bytes() > of_sixteenths(bounds.bytes_max, 13) {
            |fixes: usize| fixes.div_ceil(2)
        } else {
            |fixes: usize| fixes.min(PACKET_FIXES)
        };
        let mut step = Step::default();
        // The last fix before what is looked at, and one that may be put together with the next.
        let mut before: Option<Fix> = None;
        let mut open: Option<(PostId, Vec<Fix>, f64)> = None;
        let tracks: Vec<(PostId, Vec<Fix>)> = (ids.iter())
            .filter_map(|&id| Some((id, fixes_of(contents.get(&id)?)?)))
            .collect();
        let mut tracks = tracks.into_iter().peekable();
        while let Some((id, fixes)) = tracks.next() {
            let Some(item) = self.outbox.item(id).filter(|item| can_go(item)) else {
                continue;
            };
            let (last, error_m) = (fixes.last().copied(), error_of(item));
            if item.may_be_known || item.trail.is_some_and(|trail| trail.is_batch) {
                // Its neighbours are what stays beside it: they keep their ends.
                open = None;
                let next = tracks.peek().and_then(|(_, fixes)| fixes.first());
                let alone = before.zip(next).and_then(|(before, next)| {
                    let hole_ms = next.at_ms.checked_sub(before.at_ms)?;
                    let is_small = (0..=HOLE_MAX.as_millis() as i64).contains(&hole_ms);
                    is_small.then(|| error_without(&before, &fixes, next))
                });
                match alone {
                    Some(added_m) => {
                        step.gone.push(id);
                        step.fixes_gone += fixes.len();
                        step.error_m = step.error_m.max(error_m + added_m);
                        // The next one stays.
                        before = None;
                    }
                    None => {
                        let has_neighbours = before.is_some() && next.is_some();
                        if has_neighbours {
                            self.outbox.mark_thinnest(id);
                        }
                        before = last;
                    }
                }
                continue;
            }
            before = last;
            let Some((first, mut both, first_error_m)) = open.take() else {
                open = Some((id, fixes, error_m));
                continue;
            };
            let most = keep(both.len() + fixes.len());
            both.extend(fixes);
            both.sort_by_key(|fix| fix.at_ms);
            let thinned = thin(&both, most, HOLE_MAX);
            if thinned.fixes.len() > most {
                self.outbox.mark_thinnest(first);
                self.outbox.mark_thinnest(id);
                continue;
            }
            let error_m = error_m.max(first_error_m) + thinned.error_m;
            step.fixes_gone += both.len() - thinned.fixes.len();
            step.error_m = step
                .error_m
                .max(if thinned.error_m > 0.0 { error_m } else { 0.0 });
            let content = wire::Operation {
                body: Some(wire::operation::Body::Track(track_to_wire(
                    &thinned.fixes,
                    TrackKind::Travelled,
                ))),
                ..wire::Operation::default()
            };
            step.merged.push((content, error_m));
            step.slots.extend([first, id]);
        }
        step.slots.sort_unstable();
        step
    }
}

/// Rounded down, without overflow.
fn of_sixteenths(max: u64, sixteenths: u64) -> u64 {
    max / 16 * sixteenths + max % 16 * sixteenths / 16
}

/// Tracks that can go from `from` on, at most `most`, and where the next step begins; `None` after the newest.
fn choose(outbox: &Outbox, from: PostId, most: usize) -> (Vec<PostId>, Option<PostId>) {
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for (id, item) in outbox.ready_tracks(from).filter(|(_, item)| can_go(item)) {
        if ids.len() >= most || (ids.len() >= 2 && bytes + item.bytes > STEP_BYTES) {
            return (ids, Some(id));
        }
        ids.push(id);
        bytes += item.bytes;
    }
    (ids, None)
}

fn can_go(item: &Item) -> bool {
    item.state == State::Ready && item.trail.is_some_and(|trail| !trail.is_thinnest)
}

fn error_of(item: &Item) -> f64 {
    item.trail.map_or(0.0, |trail| f64::from(trail.error_m))
}

fn fixes_of(content: &wire::Operation) -> Option<Vec<Fix>> {
    match &content.body {
        Some(wire::operation::Body::Track(track)) if !track.batch.is_empty() => {
            let batch = TrackBatch::from_bytes(&track.batch).ok()?;
            Some(batch.points.iter().map(fix_at).collect())
        }
        Some(wire::operation::Body::Track(track)) => track_from_wire(track).ok().map(|(fixes, _)| fixes),
        _ => None,
    }
}

fn fix_at(point: &Point) -> Fix {
    Fix {
        at_ms: point.at_ms,
        lat_e7: point.lat_e7,
        lon_e7: point.lon_e7,
        motion: Motion::default(),
        accuracy_m: None,
        battery_pct: None,
    }
}

/// Rounded up, so that what is told is never too little.
fn whole_metres(error_m: f64) -> u32 {
    u32::try_from(error_m.ceil() as i64).unwrap_or(u32::MAX)
}
