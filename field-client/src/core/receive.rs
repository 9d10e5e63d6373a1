//! What comes: one frame of the server, taken in as one write.

use super::inbox::Admission;
use super::outbox::{Item, Lane, Outbox};
use super::session::{Hello, InStep, Positions, SessionState};
use super::write::Batch;
use super::{
    ACCEPTED_MAX, Core, Effect, Event, Makes, Mutation, NAMES_MAX, Named, Now, PostId, Progress, Server,
    ToShow,
};
use crate::fault::{self, Fault};
use crate::{Entry, Standing};
use prost::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{
    Author, Cumulative, DeviceId, FRAME_BYTES_MAX, Generation, GroupId, Incarnation, OpNumber, PersonId,
    ReceivedEntry, Seq, Stamp, StreamId,
};

/// Frames of the sessions before are still on their way for so long after a hello.
const LATE_FRAMES: Duration = Duration::from_secs(10);
/// A longer name is cut.
const NAME_CHARS_MAX: usize = 200;

/// The topic on which entries came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// `d/<device>`.
    Own,
    /// `g/<group>` of the group with this stream.
    Group(StreamId),
}

/// What came on a topic beside words for this device alone.
struct Delivery<'a> {
    via: Via,
    runs: &'a [wire::EntryRun],
    skips: &'a [wire::SkipRange],
    /// Times of the entries count from here, UTC milliseconds.
    from_ms: i64,
}

/// What a frame brought of one stream.
#[derive(Default)]
struct Arrived {
    to_show: Vec<ToShow>,
    /// Entries whose places they take.
    superseded: Vec<Seq>,
}

/// Whether this outbox turns out to be a copy of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Ours,
    Forked,
}

/// To what numbers of operations are told to be accepted.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// To a hello: for what it lists, and what rode with it.
    ToHello(Hello),
    /// To what the session has said.
    ToSession,
}

impl Told {
    fn is_of(self, item: &Item, outbox: &Outbox) -> bool {
        match self {
            Self::ToHello(hello) => item.op.number() < hello.listed_below || outbox.is_of_session(item),
            Self::ToSession => true,
        }
    }
}

impl Core {
    /// A frame came on `d/<device>`. What it says is acted upon when the write that holds it is on disk.
    pub(crate) fn handle_frame(&mut self, payload: &[u8], now: Now) {
        self.counters.frames_received += 1;
        let frame = match wire::DownFrame::decode(payload) {
            Ok(frame) if payload.len() <= FRAME_BYTES_MAX => frame,
            _ => {
                self.counters.frames_unreadable += 1;
                return;
            }
        };
        // A frame of ours that could not be read is of no session; nothing in it is lost, as it is repeated.
        self.counters.frames_refused +=
            frame.refusals.iter().filter(|refusal| refusal.op == 0).count() as u64;
        let stamp = Stamp::parse(frame.stamp);
        let tag = stamp.map(|stamp| stamp.tag);
        match self.session.state {
            SessionState::Waiting { hello, .. } if tag == Some(hello.tag) && frame.welcome.is_some() => {
                self.inbox.frame_came(payload.len());
                self.handle_welcome(hello, &frame, now);
            }
            SessionState::InStep(session) if tag == Some(session.hello.tag) => {
                self.inbox.frame_came(payload.len());
                let mut batch = Batch::default();
                self.note_time_told(session, stamp.map_or(0, |stamp| stamp.seconds), &mut batch, now);
                self.take_in(session, &frame, batch, now);
            }
            _ if frame.hello_please || tag.is_none() => {}
            _ => {
                self.counters.frames_of_other_sessions += 1;
                self.notice_another_session(now);
            }
        }
        if frame.hello_please {
            self.handle_hello_please(now);
        }
    }

    /// A frame came on `g/<group>`. It belongs to no session: it is taken only where it is of the store and generation
    /// that the device is in step with, and then as if it had come on `d/<device>`.
    pub(crate) fn handle_group_frame(&mut self, group: GroupId, payload: &[u8], now: Now) {
        self.counters.frames_received += 1;
        let frame = match wire::GroupFrame::decode(payload) {
            Ok(frame) if payload.len() <= FRAME_BYTES_MAX => frame,
            _ => {
                self.counters.frames_unreadable += 1;
                return;
            }
        };
        let ours = self.server.is_some_and(|server| {
            // The store is named by its lower half.
            frame.store == server.incarnation.number() as u32
                && frame.generation == server.generation.number()
        });
        let (true, true, Some(stream)) = (self.is_in_step(), ours, self.known.stream_of(group)) else {
            self.counters.group_frames_ignored += 1;
            return;
        };
        let mut batch = Batch::default();
        self.take_names(&frame.names, &mut batch);
        let delivery = Delivery {
            via: Via::Group(stream),
            runs: &frame.entries,
            skips: &[],
            from_ms: i64::try_from(frame.server_ms).unwrap_or(i64::MAX),
        };
        self.take_entries(&delivery, &mut batch, now);
        self.write(batch, now);
    }

    /// A frame of another session is an old one that was late, unless the session is not young any more: then the
    /// server has taken an old hello for the latest, and without a new one would go on for ever beside the device.
    fn notice_another_session(&mut self, now: Now) {
        if let SessionState::InStep(session) = self.session.state
            && session.hello.at.mono + LATE_FRAMES <= now.mono
        {
            self.handle_hello_please(now);
        }
    }

    /// The answer to the hello that is waited for.
    fn handle_welcome(&mut self, hello: Hello, frame: &wire::DownFrame, now: Now) {
        let Some(welcome) = &frame.welcome else { return };
        let (Some(incarnation), Some(generation), Ok(accepted)) = (
            Incarnation::new(welcome.incarnation),
            Generation::new(welcome.generation),
            Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges),
        ) else {
            self.counters.frames_unreadable += 1;
            return;
        };
        let known = self.server.filter(|server| server.incarnation == incarnation);
        if known.is_some_and(|server| generation < server.generation) {
            self.counters.frames_of_older_generations += 1;
            return;
        }
        let mut batch = Batch::default();
        let shelf = match (self.server, &welcome.restored) {
            (Some(server), restored) if known.is_some() || restored.is_some() => server.shelf,
            _ => incarnation,
        };
        let server = Server {
            incarnation,
            shelf,
            generation,
            office_stream: StreamId::new(welcome.office_stream),
        };
        if self.server != Some(server) {
            batch.mutations.push(Mutation::Server(server));
        }
        if self.server.is_some() && known.is_none() {
            self.meet_another_store(server, &accepted, welcome.restored.as_ref(), &mut batch, now);
        }
        self.server = Some(server);
        if let Some(stream) = server.office_stream {
            for id in self.outbox.homeless() {
                batch.mutations.push(Mutation::Settle { id, stream });
                batch.effects.push(Effect::Settled { id, stream });
            }
        }
        let positions = if welcome.want_positions {
            Positions::Owed { times: 0 }
        } else {
            Positions::Settled
        };
        let welcome_ms = i64::try_from(welcome.server_ms).unwrap_or(i64::MAX);
        self.note_contact(hello, welcome_ms, &mut batch, now);
        self.enter_step(hello, welcome_ms, positions, now);
        self.events.push_back(Event::InStep);
        if let SessionState::InStep(session) = self.session.state {
            self.take_in(session, frame, batch, now);
        }
        // What the welcome does not acknowledge is missing there.
        self.outbox.repeat_earlier_sessions();
        for void in self.voids.values_mut() {
            void.sent = None;
        }
    }

    /// All that a frame of the present session says, in one write.
    fn take_in(&mut self, session: InStep, frame: &wire::DownFrame, mut batch: Batch, now: Now) {
        let mut origin = Origin::Ours;
        match Cumulative::from_wire(frame.accepted_through, &frame.accepted_ranges) {
            Ok(mut accepted) => {
                if frame.forked_op > 0 {
                    // What runs across a fork is another outbox's above it; what stands apart was compared.
                    if accepted.contains(frame.forked_op) {
                        accepted.truncate(frame.forked_op - 1);
                    }
                    origin = Origin::Forked;
                } else if accepted.highest() >= self.next_op {
                    // This outbox has never given such a number: its disk was put back.
                    accepted.truncate(self.next_op - 1);
                    origin = Origin::Forked;
                }
                // A restored store says all that it has. What the hello does not list is said again to be compared.
                let told = match frame.welcome {
                    Some(_) => Told::ToHello(session.hello),
                    None => Told::ToSession,
                };
                if self.accept(&accepted, told, &mut batch, now) == Origin::Forked {
                    origin = Origin::Forked;
                }
            }
            Err(_) => self.counters.frames_unreadable += 1,
        }
        for refusal in &frame.refusals {
            self.refuse(refusal, &mut batch);
        }
        self.take_names(&frame.names, &mut batch);
        if let Some(groups) = &frame.groups {
            self.take_groups(groups, &mut batch);
        }
        self.take_catalogue(frame, &mut batch, now);
        let delivery = Delivery {
            via: Via::Own,
            runs: &frame.entries,
            skips: &frame.skips,
            from_ms: session.welcome_ms,
        };
        if self.take_entries(&delivery, &mut batch, now) == Origin::Forked {
            origin = Origin::Forked;
        }
        self.take_pages(&frame.pages, session.welcome_ms, &mut batch, now);
        self.take_cursors(&frame.cursors, now);
        self.settle_positions(frame, now);
        let forked = origin == Origin::Forked && self.fork(&mut batch);
        self.write(batch, now);
        if forked {
            self.greet(now);
        }
    }

    /// Entries come only to one whose positions are known; a welcome that comes again still asks for them.
    fn settle_positions(&mut self, frame: &wire::DownFrame, now: Now) {
        let interval = self.repetition.interval();
        let SessionState::InStep(session) = &mut self.session.state else {
            return;
        };
        let asks = frame
            .welcome
            .as_ref()
            .is_some_and(|welcome| welcome.want_positions);
        match session.positions {
            Positions::Sent { .. } if !(frame.entries.is_empty() && frame.skips.is_empty()) => {
                session.positions = Positions::Settled;
            }
            Positions::Sent { at, times } if asks && at + interval / 2 <= now.mono => {
                session.positions = Positions::Owed { times };
            }
            Positions::Settled if asks => session.positions = Positions::Owed { times: 0 },
            _ => {}
        }
    }

    /// Operations on the server's disk. What the server cannot have seen is another outbox's there.
    fn accept(&mut self, accepted: &Cumulative, told: Told, batch: &mut Batch, now: Now) -> Origin {
        let (mut covered, mut origin) = (Vec::new(), Origin::Ours);
        for (id, item) in self.outbox.covered_by(accepted) {
            if !item.may_be_known {
                origin = Origin::Forked;
            } else if told.is_of(item, &self.outbox) {
                covered.push(id);
            }
        }
        let before = self.outbox.inflight_bytes(Lane::Track);
        self.outbox.let_ride(&covered);
        let sent: Vec<Instant> = covered
            .into_iter()
            .filter_map(|id| self.accept_one(id, batch, now))
            .collect();
        let freed = before - self.outbox.inflight_bytes(Lane::Track);
        if let Some(&sent) = sent.iter().max() {
            self.window.handle_acknowledged(freed, before, sent, now.mono);
        }
        let mut all = self.accepted.clone();
        all.merge(accepted);
        if all != self.accepted {
            self.repetition.progress();
            self.accepted = all;
            batch.mutations.push(Mutation::Accepted(self.accepted.clone()));
        }
        let is_covered = |(&first, void): (&OpNumber, &super::voids::Void)| {
            let last = first.number() + u64::from(void.count) - 1;
            let known =
                accepted.contains(first.number()) && accepted.first_missing_after(first.number()) > last;
            known.then_some(first)
        };
        let cleared: Vec<OpNumber> = self.voids.iter().filter_map(is_covered).collect();
        for first in cleared {
            self.voids.remove(&first);
            batch.mutations.push(Mutation::ClearVoid(first));
        }
        origin
    }

    /// Returns when it was sent, where it was sent exactly once.
    fn accept_one(&mut self, id: PostId, batch: &mut Batch, now: Now) -> Option<Instant> {
        let sent_once = self.outbox.accept(id);
        if let Some(sent_once) = sent_once {
            self.repetition
                .measured(now.mono.saturating_duration_since(sent_once));
        }
        let makes = self.outbox.item(id).map_or(Makes::Nothing, Item::makes);
        batch.effects.push(Effect::Accepted { id, makes });
        self.keep(id, batch, now);
        if makes == Makes::Entry {
            batch.mutations.push(Mutation::Progress {
                id,
                progress: Progress::Accepted,
            });
        } else {
            self.outbox.forget(id);
            batch.mutations.push(Mutation::Forget(id));
        }
        if let Some(oldest) = self.outbox.accepted_beyond(ACCEPTED_MAX) {
            self.counters.accepted_forgotten += 1;
            self.outbox.forget(oldest);
            batch.mutations.push(Mutation::Forget(oldest));
        }
        sent_once
    }

    fn refuse(&mut self, refusal: &wire::Refusal, batch: &mut Batch) {
        let waiting = OpNumber::new(refusal.op).and_then(|op| self.outbox.waiting(op));
        let Some(id) = waiting.filter(|&id| self.outbox.item(id).is_some_and(|item| item.may_be_known))
        else {
            return;
        };
        let reason = RefusalReason::try_from(refusal.reason).unwrap_or(RefusalReason::Unspecified);
        match reason {
            // These pass: it stays under way, and the repetition timer sends it again.
            RefusalReason::NoSpace | RefusalReason::BadNumber => self.counters.ops_put_off += 1,
            _ => {
                self.repetition.progress();
                self.park(id, reason, batch);
            }
        }
    }

    fn take_names(&mut self, names: &[wire::AuthorName], batch: &mut Batch) {
        for named in names {
            let of = match (PersonId::new(named.person), DeviceId::new(named.device)) {
                (Some(person), _) => Named::Person(person),
                (None, Some(device)) => Named::Device(device),
                (None, None) => continue,
            };
            if !self.named.contains(&of) && self.named.len() >= NAMES_MAX {
                self.counters.entries_over_bound += 1;
                continue;
            }
            self.named.insert(of);
            let name = named.name.chars().take(NAME_CHARS_MAX).collect();
            batch.mutations.push(Mutation::PutName { of, name });
        }
    }

    fn take_entries(&mut self, delivery: &Delivery<'_>, batch: &mut Batch, now: Now) -> Origin {
        let Some(Server {
            shelf: incarnation, ..
        }) = self.server
        else {
            return Origin::Ours;
        };
        let mut origin = Origin::Ours;
        let mut touched: BTreeMap<StreamId, Arrived> = BTreeMap::new();
        let numbered = delivery.runs.iter().flat_map(|run| {
            let entries = ReceivedEntry::of_run(run, delivery.from_ms);
            entries.map(|(stream, seq, entry)| (stream, seq, run.kind(), entry))
        });
        for (stream, seq, kind, entry) in numbered {
            if !self.is_for_all(delivery.via, stream, &entry) {
                continue;
            }
            if let ReceivedEntry::Own { op } = entry
                && self.never_sent(op)
            {
                // The server has an operation of this epoch that this outbox never sent.
                origin = Origin::Forked;
                continue;
            }
            if let ReceivedEntry::Own { op } = entry
                && self.outbox.waiting(op).is_some()
                && op.number() >= self.listed_below()
            {
                // Of what the hello did not list the server may not have compared anything yet.
                self.counters.entries_put_off += 1;
                continue;
            }
            match self.inbox.admit(stream, seq, now) {
                Admission::New => self.inbox.admitted(stream, seq, kind),
                Admission::Repeated => {
                    self.counters.entries_repeated += 1;
                    if !fault::injected(Fault::Dedupe) {
                        continue;
                    }
                }
                Admission::OverBound => {
                    self.counters.entries_over_bound += 1;
                    continue;
                }
            }
            let (urgent, supersedes) = self.put_entry(incarnation, stream, seq, entry, batch, now);
            let arrived = touched.entry(stream).or_default();
            arrived.to_show.push(ToShow { seq, urgent });
            arrived.superseded.extend(supersedes);
        }
        for skip in delivery.skips {
            let (Some(stream), Some(first)) = (StreamId::new(skip.stream), Seq::new(skip.first_seq)) else {
                continue;
            };
            let Some(last) = skip
                .count
                .checked_sub(1)
                .and_then(|more| first.number().checked_add(more))
            else {
                continue;
            };
            match self.inbox.admit_skip(stream, first, last, now) {
                Admission::New => {
                    self.note_skipped(stream, last, skip.reason());
                    touched.entry(stream).or_default();
                }
                Admission::Repeated => self.counters.entries_repeated += 1,
                Admission::OverBound => self.counters.entries_over_bound += 1,
            }
        }
        for (stream, arrived) in touched {
            let cursor = self.inbox.cursor(stream, now);
            let held = cursor.held.clone();
            batch.mutations.push(Mutation::PutCursor {
                incarnation,
                stream,
                cursor,
            });
            batch.effects.push(Effect::Held {
                incarnation,
                stream,
                held,
                shown: arrived.to_show,
                superseded: arrived.superseded,
            });
        }
        origin
    }

    /// Whether an entry may be taken from the topic on which it came. On a group's topic only entries of its stream are,
    /// and none by this device itself: that one comes on the device's own topic, which names its operation, and is a
    /// gap until then.
    fn is_for_all(&self, via: Via, stream: StreamId, entry: &ReceivedEntry) -> bool {
        match (via, entry) {
            (Via::Own, _) => true,
            (Via::Group(_), ReceivedEntry::Own { .. }) => false,
            (Via::Group(of), ReceivedEntry::Full { author, .. }) => {
                stream == of && *author != Author::Device(self.config.device)
            }
        }
    }

    /// Writes an entry; returns whether it is urgent, and the one whose place it takes.
    fn put_entry(
        &mut self,
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
        entry: ReceivedEntry,
        batch: &mut Batch,
        now: Now,
    ) -> (bool, Option<Seq>) {
        match entry {
            ReceivedEntry::Own { op } => {
                // Its entry says that it was accepted, also where the acknowledgement was lost.
                if let Some(id) = self.outbox.waiting(op) {
                    self.accepted.insert(op.number());
                    batch.mutations.push(Mutation::Accepted(self.accepted.clone()));
                    self.accept_one(id, batch, now);
                }
                let id = self.outbox.accepted(op);
                let item = id.and_then(|id| self.outbox.item(id));
                let urgent = item.is_some_and(|item| item.lane == Lane::Urgent);
                let supersedes = item.and_then(|item| item.supersedes);
                let done_server_ms = item.zip(self.server_ms(now)).map(|(item, server_ms)| {
                    let age_s = item.done.age_s(now, &self.server_clock);
                    server_ms.saturating_sub(i64::from(age_s) * 1_000)
                });
                let epoch = self.epoch;
                batch.mutations.push(Mutation::PutOwn {
                    incarnation,
                    stream,
                    seq,
                    epoch,
                    op,
                    id,
                    done_server_ms,
                });
                if let Some(id) = id {
                    self.outbox.forget(id);
                    batch.effects.push(Effect::Placed { id, stream, seq });
                }
                (urgent, supersedes)
            }
            ReceivedEntry::Full {
                urgent, supersedes, ..
            } => {
                if let Some(entry) = Self::entry_in_full(stream, seq, entry) {
                    batch.mutations.push(Mutation::PutEntry { incarnation, entry });
                }
                (urgent, supersedes)
            }
        }
    }

    /// An entry as it is stored; `None` for one that names an operation alone.
    pub(super) fn entry_in_full(stream: StreamId, seq: Seq, entry: ReceivedEntry) -> Option<Entry> {
        let ReceivedEntry::Full {
            author,
            server_ms,
            device_ms,
            author_op,
            urgent,
            reply_to,
            reply_stream,
            supersedes,
            expires_ms,
            body,
        } = entry
        else {
            return None;
        };
        Some(Entry {
            stream,
            seq,
            author,
            author_name: None,
            server_ms: Some(server_ms),
            device_ms,
            author_op,
            urgent,
            reply_to,
            reply_stream,
            expires_ms,
            supersedes,
            standing: Standing::Current,
            body,
            reply: None,
            member_name: None,
        })
    }

    /// Cursors on the server's disk. Not written by themselves: forgetting one costs one report.
    fn take_cursors(&mut self, cursors: &[wire::Cursor], now: Now) {
        for cursor in cursors {
            let Some(stream) = StreamId::new(cursor.stream) else {
                continue;
            };
            let Ok(delivered) = Cumulative::from_wire(cursor.delivered, &cursor.ranges) else {
                self.counters.frames_unreadable += 1;
                continue;
            };
            let (news, reported_once) = self.inbox.confirm(stream, &delivered, cursor.read);
            if news {
                self.repetition.progress();
            }
            if let Some(reported) = reported_once {
                self.repetition
                    .measured(now.mono.saturating_duration_since(reported));
            }
        }
    }

    /// From this number on, only what the session has said and the server acknowledges is known to be compared.
    fn listed_below(&self) -> u64 {
        match self.session.state {
            SessionState::InStep(session) => session.hello.listed_below,
            _ => u64::MAX,
        }
    }

    fn never_sent(&self, op: OpNumber) -> bool {
        let waiting = self.outbox.waiting(op).and_then(|id| self.outbox.item(id));
        op.number() >= self.next_op || waiting.is_some_and(|item| !item.may_be_known)
    }

    /// Draws a new epoch and numbers what is unaccepted anew. False where no epoch is in reserve: the server will say
    /// it again.
    fn fork(&mut self, batch: &mut Batch) -> bool {
        let Some(epoch) = self.spare_epoch.take() else {
            return false;
        };
        let first = OpNumber::new(1).expect("1 is an operation number");
        let (numbers, forgotten) = self.outbox.renumber(first);
        self.next_op = 1 + numbers.len() as u64;
        self.epoch = epoch;
        self.accepted = Cumulative::default();
        self.voids.clear();
        self.kept.clear();
        self.counters.forks += 1;
        self.events.push_back(Event::EpochUsed);
        batch
            .mutations
            .extend(forgotten.into_iter().map(Mutation::Forget));
        let next_op = OpNumber::new(self.next_op).expect("at least 1");
        batch.mutations.push(Mutation::Epoch {
            epoch,
            numbers,
            next_op,
        });
        true
    }
}
