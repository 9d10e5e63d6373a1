//! The outbox in memory: which operations wait, in which order they leave, and what is under way.
//!
//! Holds an index entry (about 100 bytes, and as much again in the maps around it) for each stored operation; contents
//! are cached up to [`CONTENT_BYTES_MAX`] and asked of the store beyond that.
//!
//! The rule that keeps an author's order whatever is lost or reordered on the way: of one stream and class, nothing
//! is sent while something earlier is under way in another frame. Within a frame the server applies all or nothing.
//! Positions carry their own times and need no such rule: they fill the window.

use super::clock::{Moment, Now};
use super::server_clock::ServerClock;
use super::write::{Home, Makes, PostId, Progress, StoredOperation};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{ContentDigest, Cumulative, OpNumber, Seq, StreamId, UNDER_WAY_MAX};

/// Contents that are kept in memory; beyond it they are read from the store when their turn comes.
pub(crate) const CONTENT_BYTES_MAX: usize = 1_000_000;
/// A larger batch is part of what was gathered offline, and is to be off the device soon: it fills the window like others.
const UNHURRIED_BYTES_MAX: usize = 300;
/// Contents that are asked of the store at once.
const LOAD_BYTES: usize = 32_000;

/// Which goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Urgent,
    Ordinary,
    Track,
}

impl Lane {
    pub(crate) fn of(content: &wire::Operation) -> Self {
        match content.body {
            Some(wire::operation::Body::Track(_)) => Self::Track,
            _ if content.urgent => Self::Urgent,
            _ => Self::Ordinary,
        }
    }
}

/// How far an operation has come, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its write is under way, or the number of its stream is not known.
    Held,
    /// May be sent.
    Ready,
    /// Was sent, in this session or one before; is sent again after `at` plus the repetition interval, or in the next
    /// session.
    Sent { at: Instant, times: u32, session: u64 },
    /// The server has it; its entry has not come yet.
    Accepted,
    /// The server will not have it.
    Parked(RefusalReason),
}

/// Whether somebody waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Prompt,
    /// A small batch of points: the server answers in its own time.
    Unhurried,
}

impl Pace {
    fn of(content: &wire::Operation) -> Self {
        if is_unhurried(content) {
            Self::Unhurried
        } else {
            Self::Prompt
        }
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) op: OpNumber,
    pub(crate) lane: Lane,
    pub(crate) stream: Option<StreamId>,
    pub(crate) home: Home,
    pub(crate) bytes: usize,
    pub(crate) done: Moment,
    pub(crate) state: State,
    pub(crate) pace: Pace,
    /// Whether the server may have seen it: sent by this process, or stored by an earlier one.
    pub(crate) may_be_known: bool,
    /// Tells its content from another one; `None` while the content has to be read again.
    digest: Option<NonZeroU32>,
    /// What is known of it where it is history that may be thinned out.
    pub(crate) trail: Option<Trail>,
    /// Seconds after which nobody needs it any more; 0 for never.
    expires_in_s: u32,
    /// The entry whose place it takes.
    pub(crate) supersedes: Option<Seq>,
    stored: bool,
    loading: bool,
    /// Boxed, as most items have none in memory.
    content: Option<Box<wire::Operation>>,
}

/// What the server may have seen and has not acknowledged, as a hello says it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UnderWay {
    /// 0 where nothing is.
    pub(crate) first: u64,
    /// For consecutive numbers from there; 0 where nothing waits.
    pub(crate) digests: Vec<u32>,
}

impl UnderWay {
    /// From here on the device has listed nothing that is under way.
    pub(crate) fn end(&self) -> u64 {
        match self.first {
            0 => u64::MAX,
            first => first.saturating_add(self.digests.len() as u64),
        }
    }
}

/// A track of where the device has been, without its fixes. A recording has none: it is on file under a name that
/// somebody was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trail {
    pub(crate) fixes: u16,
    /// How wrong it is at most, in metres, for want of fixes that went since the client was opened.
    pub(crate) error_m: f32,
    /// Nothing more of it can go.
    pub(crate) is_thinnest: bool,
    /// It is as thin as its bound allows: it stays whole, or goes whole.
    pub(crate) is_batch: bool,
}

/// What of one stream and class waits and is under way.
#[derive(Debug, Default)]
struct Queue {
    ready: BTreeSet<PostId>,
    sent: BTreeSet<PostId>,
}

type QueueKey = (Lane, Option<StreamId>);

/// All operations that the device still has to do with.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    items: BTreeMap<PostId, Item>,
    queues: BTreeMap<QueueKey, Queue>,
    /// Not accepted and not parked, by number.
    waiting: BTreeMap<OpNumber, PostId>,
    /// Accepted, entry not seen, by number.
    accepted: BTreeMap<OpNumber, PostId>,
    parked: BTreeSet<PostId>,
    waiting_bytes: u64,
    /// Bytes under way, by lane.
    inflight: BTreeMap<Lane, usize>,
    content_bytes: usize,
    wanted: Vec<PostId>,
    /// Those that expire and that the server cannot have seen.
    expiring: BTreeSet<PostId>,
    /// When the first of them is over, at the earliest; `None` where that is to be found out, or there is none.
    first_expiry: Option<Instant>,
    /// Lost, and without hurry: they leave again with the next frame that is due anyway.
    riders: BTreeSet<PostId>,
    /// Counts hellos.
    session: u64,
}

impl Outbox {
    /// Takes an operation from the store at the start of the process.
    pub(crate) fn restore(&mut self, stored: &StoredOperation, progress: Progress) {
        let id = stored.id;
        let mut item = Item::of(stored);
        item.stored = true;
        item.may_be_known = stored.home == Home::Settled;
        item.content = None;
        match progress {
            Progress::Waiting => {
                self.index_waiting(id, &item);
                self.items.insert(id, item);
                self.may_expire(id);
                self.make_ready_if_due(id);
            }
            Progress::Accepted => {
                item.state = State::Accepted;
                self.accepted.insert(item.op, id);
                self.items.insert(id, item);
            }
            Progress::Parked(reason) => {
                item.state = State::Parked(reason);
                self.parked.insert(id);
                self.items.insert(id, item);
            }
        }
    }

    /// Takes a new operation whose write is under way.
    pub(crate) fn add(&mut self, stored: &StoredOperation) {
        let item = Item::of(stored);
        self.content_bytes += item.bytes;
        self.index_waiting(stored.id, &item);
        self.items.insert(stored.id, item);
        self.may_expire(stored.id);
    }

    /// It is over before it leaves, where it has an end and the server cannot have seen it.
    fn may_expire(&mut self, id: PostId) {
        let unseen = |item: &Item| item.expires_in_s > 0 && !item.may_be_known;
        if self.items.get(&id).is_some_and(unseen) {
            self.expiring.insert(id);
            self.first_expiry = None;
        }
    }

    /// When [`take_expired`](Self::take_expired) has something to do; the past where that is to be found out.
    pub(crate) fn next_expiry(&self, now: Now) -> Option<Instant> {
        (!self.expiring.is_empty()).then(|| self.first_expiry.unwrap_or(now.mono))
    }

    /// Operations that are over and that the server cannot have seen. Looks at all that expire, once whenever the first of
    /// them may be over.
    pub(crate) fn take_expired(&mut self, now: Now, server: &ServerClock) -> Vec<PostId> {
        if self.next_expiry(now).is_none_or(|at| at > now.mono) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.first_expiry = None;
        for &id in &self.expiring {
            let Some(item) = self.items.get(&id) else { continue };
            if item.is_over(now, server) {
                expired.push(id);
                continue;
            }
            let left_s = item.expires_in_s - item.done.age_s(now, server);
            // Ages are whole seconds, to the nearest.
            let at = now.mono + Duration::from_millis(u64::from(left_s) * 1_000 - 500);
            self.first_expiry = Some(self.first_expiry.map_or(at, |first| first.min(at)));
        }
        expired
    }

    /// Its write is on disk.
    pub(crate) fn stored(&mut self, id: PostId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        item.stored = true;
        self.make_ready_if_due(id);
        self.trim_content(id);
    }

    /// Operations that wait for the number of the office stream.
    pub(crate) fn homeless(&self) -> Vec<PostId> {
        let of_office = |id: &PostId| self.items.get(id).is_some_and(|item| item.home == Home::Office);
        self.waiting.values().copied().filter(of_office).collect()
    }

    /// The number of its stream is on disk.
    pub(crate) fn settle(&mut self, id: PostId, stream: StreamId) {
        let Some(item) = self.items.get_mut(&id).filter(|item| item.home == Home::Office) else {
            return;
        };
        item.home = Home::Settled;
        item.stream = Some(stream);
        item.digest = None;
        if let Some(content) = &mut item.content {
            content.stream = stream.number();
            item.digest = Some(ContentDigest::of(content).brief());
        }
        self.make_ready_if_due(id);
    }

    /// The operation with this name.
    pub(crate) fn item(&self, id: PostId) -> Option<&Item> {
        self.items.get(&id)
    }

    /// The operation with this number that has neither been accepted nor parked.
    pub(crate) fn waiting(&self, op: OpNumber) -> Option<PostId> {
        self.waiting.get(&op).copied()
    }

    /// The accepted operation with this number whose entry has not come.
    pub(crate) fn accepted(&self, op: OpNumber) -> Option<PostId> {
        self.accepted.get(&op).copied()
    }

    /// Accepted operations whose entries have not come, by number.
    pub(crate) fn all_accepted(&self) -> impl Iterator<Item = (OpNumber, PostId)> + '_ {
        self.accepted.iter().map(|(&op, &id)| (op, id))
    }

    /// What a hello lists: the first number that the server may have seen, and for it and those after it what waits there. The
    /// list ends where a content would have to be read first.
    pub(crate) fn under_way(&self) -> UnderWay {
        let waiting = || {
            let items = self.waiting.iter();
            items.filter_map(|(&op, id)| Some((op.number(), self.items.get(id)?)))
        };
        let Some((first, _)) = waiting().find(|(_, item)| item.may_be_known) else {
            return UnderWay::default();
        };
        let mut digests = Vec::new();
        for (number, item) in waiting().skip_while(|&(number, _)| number < first) {
            let place = (number - first) as usize;
            if place >= UNDER_WAY_MAX || (item.may_be_known && item.digest.is_none()) {
                break;
            }
            // What is not on disk yet is said nowhere.
            let is_said = item.may_be_known || item.state == State::Ready;
            if let Some(digest) = item.digest.filter(|_| is_said) {
                digests.resize(place, 0);
                digests.push(digest.get());
            }
        }
        UnderWay { first, digests }
    }

    /// Those that `set` covers, in the order of their numbers.
    pub(crate) fn covered_by(&self, set: &Cumulative) -> Vec<(PostId, &Item)> {
        let mut covered: Vec<PostId> = Vec::new();
        let mut next = self.waiting.iter().next().map(|(&op, _)| op.number());
        // Jumps over what is not covered: the cost is that of what is found, not of what waits.
        while let Some(from) = next {
            if set.contains(from) {
                let end = set.first_missing_after(from);
                covered.extend(self.waiting.range(number(from)..number(end)).map(|(_, &id)| id));
                next = self
                    .waiting
                    .range(number(end)..)
                    .next()
                    .map(|(&op, _)| op.number());
            } else if from >= set.highest() {
                break;
            } else {
                next = self
                    .waiting
                    .range(number(from + 1)..)
                    .next()
                    .map(|(&op, _)| op.number());
            }
        }
        let items = covered.into_iter().map(|id| (id, self.items.get(&id)));
        items.filter_map(|(id, item)| Some((id, item?))).collect()
    }

    /// The server has it. Returns when it was sent, where it was sent exactly once.
    pub(crate) fn accept(&mut self, id: PostId) -> Option<Instant> {
        self.expiring.remove(&id);
        let item = self.items.get(&id)?;
        let sent_once = match item.state {
            // An answer that takes its time says nothing about the link.
            State::Sent { at, times: 1, .. } if !item.is_unhurried() => Some(at),
            _ => None,
        };
        self.leave_queue(id);
        let item = self.items.get_mut(&id)?;
        item.state = State::Accepted;
        self.waiting_bytes -= item.bytes as u64;
        self.waiting.remove(&item.op);
        self.accepted.insert(item.op, id);
        let freed = item.content.take().map_or(0, |_| item.bytes);
        self.content_bytes -= freed;
        sent_once
    }

    /// The server does not have it after all (another store): it waits again.
    pub(crate) fn offer_again(&mut self, id: PostId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        self.accepted.remove(&item.op);
        item.state = State::Held;
        let item = item.clone();
        self.index_waiting(id, &item);
        self.make_ready_if_due(id);
    }

    /// One that was accepted and forgotten waits again; its write is under way.
    pub(crate) fn take_back(&mut self, id: PostId, item: Item) {
        self.index_waiting(id, &item);
        let item = Item {
            state: State::Held,
            may_be_known: true,
            stored: false,
            loading: false,
            digest: None,
            content: None,
            ..item
        };
        self.items.insert(id, item);
    }

    /// What waits is read from the store again, where it was changed.
    pub(crate) fn forget_contents(&mut self) {
        for item in self.items.values_mut() {
            item.digest = None;
            if item.content.take().is_some() {
                self.content_bytes -= item.bytes;
            }
        }
    }

    /// Everything that is under way is due again.
    pub(crate) fn repeat_all(&mut self) {
        self.repeat(|_, _, _| true);
    }

    /// The server will not have it.
    pub(crate) fn park(&mut self, id: PostId, reason: RefusalReason) {
        self.leave_queue(id);
        self.expiring.remove(&id);
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        item.state = State::Parked(reason);
        self.waiting_bytes -= item.bytes as u64;
        self.waiting.remove(&item.op);
        let freed = item.content.take().map_or(0, |_| item.bytes);
        self.content_bytes -= freed;
        self.parked.insert(id);
    }

    /// It is not needed any more.
    pub(crate) fn forget(&mut self, id: PostId) {
        self.leave_queue(id);
        self.expiring.remove(&id);
        if let Some(item) = self.items.remove(&id) {
            if self.waiting.remove(&item.op).is_some() {
                self.waiting_bytes -= item.bytes as u64;
            }
            self.accepted.remove(&item.op);
            self.parked.remove(&id);
            self.content_bytes -= item.content.map_or(0, |_| item.bytes);
        }
    }

    /// Numbers everything that waits anew, from `first` on in its order; what was accepted is forgotten, as its entry
    /// will come in full. Returns the new numbers and what was forgotten.
    pub(crate) fn renumber(&mut self, first: OpNumber) -> (Vec<(PostId, OpNumber)>, Vec<PostId>) {
        let forgotten: Vec<PostId> = self.accepted.values().copied().collect();
        for &id in &forgotten {
            self.forget(id);
        }
        let waiting: Vec<PostId> = std::mem::take(&mut self.waiting).into_values().collect();
        let mut numbers = Vec::with_capacity(waiting.len());
        for (id, number) in waiting.into_iter().zip(first.number()..) {
            let op = self::number(number);
            self.leave_queue(id);
            if let Some(item) = self.items.get_mut(&id) {
                item.op = op;
                item.may_be_known = false;
                item.state = State::Held;
            }
            self.waiting.insert(op, id);
            self.may_expire(id);
            self.make_ready_if_due(id);
            numbers.push((id, op));
        }
        (numbers, forgotten)
    }

    /// A hello leaves: when what is under way was sent says nothing about the round trip any more.
    pub(crate) fn begin_session(&mut self) {
        self.session += 1;
        for id in self.queues.values().flat_map(|queue| &queue.sent) {
            if let Some(Item {
                state: State::Sent { times, .. },
                ..
            }) = self.items.get_mut(id)
            {
                *times = 2;
            }
        }
    }

    /// Whether it rode with the hello or was sent since.
    pub(crate) fn is_of_session(&self, item: &Item) -> bool {
        matches!(item.state, State::Sent { session, .. } if session == self.session)
    }

    /// The hello is answered: what was sent before it is due again; what rode with it came with it.
    pub(crate) fn repeat_earlier_sessions(&mut self) {
        let present = self.session;
        self.repeat(|_, _, session| session != present);
    }

    /// What has been under way since `before` or longer is due again.
    pub(crate) fn repeat_sent_before(&mut self, before: Instant) {
        self.repeat(|item, at, _| !item.is_unhurried() && at <= before);
    }

    /// What has been under way without hurry, since a moment for which `due` is true, is due again.
    pub(crate) fn repeat_unhurried(&mut self, due: impl Fn(Instant) -> bool) {
        self.repeat(|item, at, _| item.is_unhurried() && due(at));
    }

    /// When the longest of what is under way without hurry was sent.
    pub(crate) fn oldest_unhurried(&self) -> Option<Instant> {
        self.unanswered()
            .filter(|(item, _)| item.is_unhurried())
            .map(|(_, at)| at)
            .min()
    }

    /// The server has taken what was sent later than these, and not these: they were lost on the way.
    pub(crate) fn let_ride(&mut self, accepted: &[PostId]) {
        let sent = |id: &PostId| match self.items.get(id) {
            Some(Item {
                pace: Pace::Unhurried,
                state: State::Sent { at, session, .. },
                ..
            }) if *session == self.session => Some(*at),
            _ => None,
        };
        let Some(latest) = accepted.iter().filter_map(sent).max() else {
            return;
        };
        let waiting = self.queues.get(&(Lane::Track, None)).into_iter();
        let lost: Vec<PostId> = waiting
            .flat_map(|queue| queue.sent.iter().copied())
            .filter(|id| !accepted.contains(id) && sent(id).is_some_and(|at| at < latest))
            .collect();
        self.riders.extend(lost);
    }

    /// What leaves with the next frame that is due anyway.
    pub(crate) fn riders(&self) -> impl Iterator<Item = PostId> + '_ {
        self.riders.iter().copied()
    }

    /// When the longest of what is under way was sent.
    pub(crate) fn oldest_sent(&self) -> Option<Instant> {
        self.unanswered()
            .filter(|(item, _)| !item.is_unhurried())
            .map(|(_, at)| at)
            .min()
    }

    fn unanswered(&self) -> impl Iterator<Item = (&Item, Instant)> {
        let sent = self.queues.values().flat_map(|queue| &queue.sent);
        sent.filter_map(|id| {
            let item = self.items.get(id)?;
            match item.state {
                State::Sent { at, .. } => Some((item, at)),
                _ => None,
            }
        })
    }

    /// Which streams and classes may send now, most important lane first.
    pub(crate) fn open_queues(&self, lane: Lane) -> Vec<QueueKey> {
        let lanes = self
            .queues
            .range((lane, None)..)
            .take_while(|((of, _), _)| *of == lane);
        lanes
            .filter(|(_, queue)| !queue.ready.is_empty() && (lane == Lane::Track || queue.sent.is_empty()))
            .map(|(&key, _)| key)
            .collect()
    }

    /// The first of those in `keys` that may be sent, with its queue.
    pub(crate) fn first_ready(&self, keys: &[QueueKey]) -> Option<(QueueKey, PostId)> {
        let first = |key: &QueueKey| Some((*key, *self.queues.get(key)?.ready.first()?));
        keys.iter().filter_map(first).min_by_key(|&(_, id)| id)
    }

    /// How many numbers an urgent operation is after the newest ordinary one of its stream that it has overtaken and that the
    /// server has not accepted; 0 where there is none.
    ///
    /// Whatever was posted before something that leaves is on disk, and so in its queue.
    pub(crate) fn overtaken(&self, id: PostId) -> u32 {
        let Some(item) = self.items.get(&id).filter(|item| item.lane == Lane::Urgent) else {
            return 0;
        };
        let before = |waiting: &BTreeSet<PostId>| waiting.range(..id).next_back().copied();
        let queue = self.queues.get(&(Lane::Ordinary, item.stream));
        let newest = queue.and_then(|queue| before(&queue.ready).max(before(&queue.sent)));
        let newest = newest.and_then(|newest| self.items.get(&newest));
        // So far apart that it does not fit: the mark is not worth its failing.
        newest.map_or(0, |newest| {
            let apart = item.op.number().saturating_sub(newest.op.number());
            u32::try_from(apart).unwrap_or(0)
        })
    }

    /// Its content; `None` where it has to be loaded first, which is then asked for.
    pub(crate) fn content(&mut self, id: PostId) -> Option<&wire::Operation> {
        if self.items.get(&id)?.content.is_none() {
            self.want_from(id);
        }
        self.content_at_hand(id)
    }

    /// Its content, where it is in memory.
    pub(crate) fn content_at_hand(&self, id: PostId) -> Option<&wire::Operation> {
        self.items.get(&id)?.content.as_deref()
    }

    /// Operations whose contents are to be read from the store; each is asked for once.
    pub(crate) fn poll_wanted(&mut self) -> Option<Vec<PostId>> {
        (!self.wanted.is_empty()).then(|| std::mem::take(&mut self.wanted))
    }

    /// A content from the store; false where the outbox has no use for it.
    pub(crate) fn loaded(&mut self, id: PostId, content: wire::Operation) -> bool {
        let Some(item) = self.items.get_mut(&id) else {
            return false;
        };
        let wanted = std::mem::take(&mut item.loading);
        let waits = matches!(item.state, State::Ready | State::Held | State::Sent { .. });
        if !wanted || !waits || item.content.is_some() {
            return false;
        }
        self.content_bytes += item.bytes;
        item.digest = Some(ContentDigest::of(&content).brief());
        item.content = Some(Box::new(content));
        true
    }

    /// Tracks that may be sent and are not under way, from one name on in their order.
    pub(crate) fn ready_tracks(&self, from: PostId) -> impl Iterator<Item = (PostId, &Item)> + '_ {
        let queue = self.queues.get(&(Lane::Track, None));
        let ready = queue.into_iter().flat_map(move |queue| queue.ready.range(from..));
        ready.filter_map(|&id| Some((id, self.items.get(&id)?)))
    }

    /// Nothing more of a track can go.
    pub(crate) fn mark_thinnest(&mut self, id: PostId) {
        if let Some(trail) = self.items.get_mut(&id).and_then(|item| item.trail.as_mut()) {
            trail.is_thinnest = true;
        }
    }

    /// A track that was never sent has another content, whose write is under way: it is not sent before that is on disk.
    pub(crate) fn refill(&mut self, id: PostId, content: &wire::Operation, error_m: f64) {
        use prost::Message;
        self.leave_queue(id);
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        let freed = item.content.take().map_or(0, |_| item.bytes);
        self.content_bytes -= freed;
        self.waiting_bytes -= item.bytes as u64;
        item.bytes = content.encoded_len();
        item.digest = Some(ContentDigest::of(content).brief());
        item.pace = Pace::of(content);
        self.waiting_bytes += item.bytes as u64;
        item.trail = Trail::of(content).map(|trail| Trail {
            error_m: error_m as f32,
            ..trail
        });
        (item.state, item.stored, item.loading) = (State::Held, false, false);
    }

    /// It stands in a frame that leaves now.
    pub(crate) fn sent(&mut self, id: PostId, at: Instant) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        let times = if item.may_be_known { 2 } else { 1 };
        item.state = State::Sent {
            at,
            times,
            session: self.session,
        };
        item.may_be_known = true;
        self.expiring.remove(&id);
        *self.inflight.entry(item.lane).or_default() += item.weight();
        let queue = self.queues.entry((item.lane, item.stream)).or_default();
        queue.ready.remove(&id);
        queue.sent.insert(id);
        self.riders.remove(&id);
    }

    /// Bytes that are under way in this lane and in those above it.
    pub(crate) fn inflight_bytes(&self, lane: Lane) -> usize {
        self.inflight.range(..=lane).map(|(_, bytes)| bytes).sum()
    }

    /// Operations that the server has not accepted.
    pub(crate) fn waiting_ops(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of their contents.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Operations that were given up, oldest first.
    pub(crate) fn parked(&self) -> impl Iterator<Item = (PostId, &Item)> {
        self.parked
            .iter()
            .filter_map(|&id| Some((id, self.items.get(&id)?)))
    }

    /// The oldest beyond the newest `max` that were given up.
    pub(crate) fn parked_beyond(&self, max: usize) -> Option<PostId> {
        (self.parked.len() > max)
            .then(|| self.parked.first().copied())
            .flatten()
    }

    /// The oldest beyond the newest `max` that are accepted and whose entries have not come.
    pub(crate) fn accepted_beyond(&self, max: usize) -> Option<PostId> {
        (self.accepted.len() > max)
            .then(|| self.accepted.values().next().copied())
            .flatten()
    }

    fn index_waiting(&mut self, id: PostId, item: &Item) {
        self.waiting.insert(item.op, id);
        self.waiting_bytes += item.bytes as u64;
    }

    fn make_ready_if_due(&mut self, id: PostId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        if item.state == State::Held && item.stored && item.home == Home::Settled {
            item.state = State::Ready;
            self.queues
                .entry((item.lane, item.stream))
                .or_default()
                .ready
                .insert(id);
        }
    }

    fn leave_queue(&mut self, id: PostId) {
        let Some(item) = self.items.get(&id) else { return };
        let key = (item.lane, item.stream);
        self.riders.remove(&id);
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.ready.remove(&id);
            if queue.sent.remove(&id) {
                *self.inflight.entry(item.lane).or_default() -= item.weight();
            }
            if queue.ready.is_empty() && queue.sent.is_empty() {
                self.queues.remove(&key);
            }
        }
    }

    fn repeat(&mut self, due: impl Fn(&Item, Instant, u64) -> bool) {
        for queue in self.queues.values_mut() {
            for id in std::mem::take(&mut queue.sent) {
                let Some(item) = self.items.get_mut(&id) else {
                    continue;
                };
                match item.state {
                    State::Sent { at, session, .. } if !due(item, at, session) => {
                        queue.sent.insert(id);
                    }
                    _ => {
                        item.state = State::Ready;
                        *self.inflight.entry(item.lane).or_default() -= item.weight();
                        queue.ready.insert(id);
                    }
                }
            }
        }
    }

    /// Asks for the content of `id` and of what follows it in its queue.
    fn want_from(&mut self, id: PostId) {
        let Some(item) = self.items.get(&id) else { return };
        let Some(queue) = self.queues.get(&(item.lane, item.stream)) else {
            return;
        };
        let mut bytes = 0;
        for &next in queue.ready.range(id..) {
            let Some(item) = self.items.get_mut(&next) else {
                continue;
            };
            if bytes > 0 && bytes + item.bytes > LOAD_BYTES {
                break;
            }
            if item.content.is_none() && !item.loading {
                item.loading = true;
                self.wanted.push(next);
            }
            bytes += item.bytes;
        }
    }

    fn trim_content(&mut self, id: PostId) {
        if self.content_bytes > CONTENT_BYTES_MAX
            && let Some(item) = self.items.get_mut(&id)
            && item.content.take().is_some()
        {
            self.content_bytes -= item.bytes;
        }
    }
}

impl Item {
    fn of(stored: &StoredOperation) -> Self {
        use prost::Message;
        Self {
            op: stored.op,
            lane: Lane::of(&stored.content),
            stream: StreamId::new(stored.content.stream),
            home: stored.home,
            bytes: stored.content.encoded_len(),
            pace: Pace::of(&stored.content),
            done: stored.done,
            state: State::Held,
            may_be_known: false,
            digest: Some(ContentDigest::of(&stored.content).brief()),
            expires_in_s: stored.content.expires_in_s,
            supersedes: Seq::new(stored.content.supersedes),
            stored: false,
            loading: false,
            trail: Trail::of(&stored.content),
            content: Some(Box::new(stored.content.clone())),
        }
    }

    /// One that is not in the outbox any more.
    pub(crate) fn kept(stored: &StoredOperation) -> Self {
        Self {
            state: State::Accepted,
            content: None,
            ..Self::of(stored)
        }
    }

    /// Whether its time is over.
    pub(crate) fn is_over(&self, now: Now, server: &ServerClock) -> bool {
        self.expires_in_s > 0 && self.done.age_s(now, server) >= self.expires_in_s
    }

    pub(crate) fn is_unhurried(&self) -> bool {
        self.pace == Pace::Unhurried
    }

    /// What it takes of the window.
    fn weight(&self) -> usize {
        if self.is_unhurried() { 0 } else { self.bytes }
    }

    pub(crate) fn makes(&self) -> Makes {
        if self.lane == Lane::Track {
            Makes::Nothing
        } else {
            Makes::Entry
        }
    }
}

impl Trail {
    fn of(content: &wire::Operation) -> Option<Self> {
        match &content.body {
            Some(wire::operation::Body::Track(track)) if !track.recording => Some(Self {
                fixes: u16::try_from(track.lat_e7.len()).unwrap_or(u16::MAX),
                error_m: 0.0,
                is_thinnest: false,
                is_batch: !track.batch.is_empty(),
            }),
            _ => None,
        }
    }
}

/// Whether an operation is a batch of where the device has been.
pub(crate) fn is_batch(content: &wire::Operation) -> bool {
    match &content.body {
        Some(wire::operation::Body::Track(track)) => !track.batch.is_empty() && !track.recording,
        _ => false,
    }
}

/// Whether it is a small one of where the device has been.
pub(crate) fn is_unhurried(content: &wire::Operation) -> bool {
    use prost::Message;
    is_batch(content) && content.encoded_len() <= UNHURRIED_BYTES_MAX
}

fn number(number: u64) -> OpNumber {
    OpNumber::new(number.max(1)).expect("at least 1")
}
