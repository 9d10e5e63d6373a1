//! What devices say: operations, each applied once, and how far their cursors have come.

use super::dispute::Held;
use super::session::{Phase, Session};
use super::unhurried::Haste;
use super::{Content, Core, Effect, Ledger, Now, Output, Repeated};
use crate::entry::{Author, Entry, EntryBody, Moment, Rung};
use crate::event::EventKind;
use crate::store::{Change, MemberCursor};
use crate::stream::{Member, StreamKind};
use prost::Message;
use sha2::{Digest, Sha256};
use std::num::NonZeroU32;
use waypost_proto::wire::{self, RefusalReason, VoidReason};
use waypost_proto::{
    Body, Cumulative, DeviceId, Epoch, Fix, NumberedOperation, OpNumber, Operation, Seq, SessionTag, Stamp,
    StreamId, TrackKind, number_operations,
};

/// An operation older than this is refused: no device stays away so long with its clock running.
const AGE_S_MAX: u32 = 400 * 86_400;
/// A position may be so far ahead of the server's clock.
const FIX_AHEAD_MS_MAX: i64 = 72 * 3_600_000;
/// 2000-01-01: no receiver of today has measured anything before.
const FIX_MS_MIN: i64 = 946_684_800_000;
/// A number so far above what is taken is no number of this outbox.
const OP_AHEAD_MAX: u64 = 1_000_000;
/// How many refusals one frame can cause; the rest follows its repetition.
const REFUSALS_MAX: usize = 64;
/// How many ranges of held entries a cursor may have.
const CURSOR_RANGES_MAX: usize = 8;

/// How many entries that a frame supersedes are read for it; an operation beyond that is left for its repetition.
const RECALLED_MAX: usize = 64;

impl Core {
    /// A message on `u/<device>`.
    pub fn handle_up(&mut self, device: DeviceId, payload: &[u8], now: Now) {
        if self.devices.get(&device).is_none_or(|known| known.revoked) {
            ignore("unknown_device");
            return;
        }
        self.heard_ms.insert(device, now.wall_ms);
        self.read_clocks(now);
        let frame = match wire::UpFrame::parse(payload) {
            Ok(frame) => frame,
            Err(error) => return self.refuse_frame(device, error.refusal()),
        };
        let wanted = superseded_by(&frame);
        if wanted.is_empty() {
            return self.handle_recalled(device, &frame, &[], now);
        }
        self.outputs.push_back(Output::Recall {
            device,
            frame: Box::new(frame),
            wanted,
        });
    }

    /// The answer to [`Output::Recall`], before the next message of the device: its frame with those of the wanted entries
    /// that there are.
    pub fn handle_recalled(&mut self, device: DeviceId, frame: &wire::UpFrame, recalled: &[Entry], now: Now) {
        let stamp = Stamp::parse(frame.stamp);
        if let Some(hello) = &frame.hello {
            let opened =
                stamp.and_then(|stamp| self.handle_hello(device, stamp.tag, hello, &frame.cursors, now));
            if opened.is_none() {
                self.refuse_frame(device, RefusalReason::Unreadable);
                self.commit();
                return;
            }
        }
        let Some(session) = self.sessions.get(&device) else {
            ignore("no_session");
            return self.ask_for_hello(device, now);
        };
        let Some(stamp) = stamp.filter(|stamp| stamp.tag == session.tag) else {
            ignore("other_session");
            return;
        };
        // What comes with a hello that speaks of another store speaks of its entries, which may have other numbers here. Once
        // the device knows this store it says again what still holds.
        let of_other_store = frame
            .hello
            .as_ref()
            .is_some_and(|hello| self.other_store(hello).is_some());
        if session.phase == Phase::Forked {
            // It has not heard of it.
            self.in_session(device, stamp.tag, Session::repeat_fork);
        } else if !of_other_store {
            self.take_frame(device, stamp, frame, recalled, now);
        }
        self.commit();
    }

    /// The answer to [`Output::Compare`]: whether the repeated operation is the one that was taken.
    pub fn handle_compared(&mut self, repeated: Repeated, same: bool, now: Now) {
        let Repeated {
            device,
            tag,
            epoch,
            op,
            content,
        } = repeated;
        if same {
            metrics::counter!("waypost_bridge_operations_repeated_total").increment(1);
            let mut held = Vec::new();
            self.in_session(device, tag, |session| {
                session.ack_due = true;
                held = session.dispute.settle(op);
            });
            for held in held {
                let recalled = held.replaced.as_slice();
                self.handle_operation(device, held.stamp, held.operation, recalled, now);
            }
            self.commit();
            return;
        }
        let Some(session) = self
            .sessions
            .get_mut(&device)
            .filter(|session| session.tag == tag)
        else {
            return;
        };
        if session.phase != Phase::Forked {
            session.phase = Phase::Forked;
            session.dispute.lose();
            session.gathered.clear();
            let outbox = self.outboxes.get_mut(&(device, epoch));
            if outbox.is_some_and(|outbox| outbox.differs(op, content)) {
                self.log_event(EventKind::DeviceForked(device), now);
            }
            self.after_writes(Effect::Forked { device, tag, op });
            self.commit();
        }
    }

    /// Has operations compared that came while those before them were on their way to the disk, where these are now.
    pub(super) fn compare_durable(
        &mut self,
        device: DeviceId,
        epoch: Epoch,
        first: OpNumber,
        last: OpNumber,
    ) {
        let session = self.sessions.get_mut(&device);
        let Some(session) = session.filter(|session| session.epoch == epoch) else {
            return;
        };
        let tag = session.tag;
        for (op, content) in session.dispute.durable(first, last) {
            self.compare(device, tag, epoch, op, content);
        }
    }

    /// Has what a hello lists as under way compared with what was taken under the numbers, before anything is acknowledged.
    pub(super) fn compare_listed(
        &mut self,
        device: DeviceId,
        tag: SessionTag,
        epoch: Epoch,
        listed: Vec<(OpNumber, NonZeroU32)>,
    ) {
        for (op, brief) in listed {
            if self.is_taken(device, epoch, op) {
                self.compare(device, tag, epoch, op, Content::Listed(brief));
            }
        }
    }

    /// Has an operation compared with the one that was taken, as soon as that is on disk.
    fn compare(&mut self, device: DeviceId, tag: SessionTag, epoch: Epoch, op: OpNumber, content: Content) {
        let ledger = self.ledgers.get(&(device, epoch));
        let is_durable = ledger.is_some_and(|ledger| ledger.durable.contains(op.number()));
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        // While it is still being written, its acknowledgement is under way. Where another session has said it, it may be
        // something else.
        if !is_durable && !session.dispute.has_taken(op) {
            session.dispute.open_until_durable(op, content);
        }
        if is_durable {
            session.dispute.open(op);
            self.outputs.push_back(Output::Compare(Repeated {
                device,
                tag,
                epoch,
                op,
                content,
            }));
        }
    }

    /// Everything in a frame but its hello.
    fn take_frame(
        &mut self,
        device: DeviceId,
        stamp: Stamp,
        frame: &wire::UpFrame,
        recalled: &[Entry],
        now: Now,
    ) {
        self.hear_stamp(device, stamp, frame, now);
        if let Some(positions) = &frame.positions
            && self.handle_positions(device, positions).is_none()
        {
            return self.refuse_frame(device, RefusalReason::Unreadable);
        }
        match number_operations(frame) {
            Ok(operations) => {
                let haste = Haste::of(frame, &operations, now);
                self.in_haste(device, haste);
                let mut superseding = 0;
                for (operation, wire) in operations.into_iter().zip(&frame.ops) {
                    superseding += usize::from(wire.supersedes > 0);
                    if superseding > RECALLED_MAX {
                        // What follows keeps its place behind it.
                        metrics::counter!("waypost_bridge_operations_deferred_total").increment(1);
                        break;
                    }
                    self.handle_operation(device, stamp, operation, recalled, now);
                }
            }
            Err(error) => self.refuse_frame(device, error.refusal()),
        }
        self.in_haste(device, Haste::Now);
        for void in &frame.voids {
            self.handle_void(device, void, now);
        }
        for cursor in &frame.cursors {
            if self.handle_cursor(device, stamp, cursor, now).is_none() {
                self.refuse(device, None, RefusalReason::BadNumber);
            }
        }
        if let Some(known) = &frame.known {
            self.handle_known(device, known);
        }
        if let Some(request) = &frame.page {
            self.handle_page_request(device, request);
        }
        if let Some(live) = &frame.live {
            self.handle_live(device, live, now);
        }
    }

    /// Applies an operation unless it was applied before; refuses it where it can never be.
    fn handle_operation(
        &mut self,
        device: DeviceId,
        stamp: Stamp,
        operation: NumberedOperation,
        recalled: &[Entry],
        now: Now,
    ) {
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        let (tag, epoch) = (session.tag, session.epoch);
        if session.dispute.is_open() && !self.is_taken(device, epoch, operation.op) {
            // Above a fork it would be said again under another number.
            let replaced = operation.content.as_ref().ok().and_then(|content| {
                let is_it = |entry: &&Entry| {
                    Some(entry.stream) == content.stream && Some(entry.seq) == content.supersedes
                };
                recalled.iter().find(is_it).cloned()
            });
            let held = Held {
                stamp,
                operation,
                replaced,
            };
            let is_held = self
                .sessions
                .get_mut(&device)
                .is_some_and(|session| session.dispute.hold(held));
            if !is_held {
                metrics::counter!("waypost_bridge_operations_deferred_total").increment(1);
            }
            return;
        }
        let NumberedOperation {
            op,
            age_s,
            earlier,
            digest,
            content,
        } = operation;
        let ledger = self.ledgers.entry((device, epoch)).or_default();
        let through = ledger.staged.through();
        if self.is_taken(device, epoch, op) {
            return self.compare(device, tag, epoch, op, Content::Said(digest));
        }
        if op.number() > through.saturating_add(OP_AHEAD_MAX) {
            return self.refuse(device, Some(op), RefusalReason::BadNumber);
        }
        let moment = self.moment(device, stamp, age_s, now);
        let checked = content.and_then(|content| {
            if age_s > AGE_S_MAX {
                return Err(RefusalReason::BadTime);
            }
            self.check(device, &content, recalled, now)?;
            // Its number is not taken: an acknowledgement means accepted. The device voids it once its driver knows.
            if content.stream.is_some() && content.expires_in_s.is_some_and(|s| age_s >= s) {
                return Err(RefusalReason::Expired);
            }
            self.check_room(&content)?;
            Ok(content)
        });
        let content = match checked {
            Ok(content) => content,
            Err(reason) => return self.refuse(device, Some(op), reason),
        };
        if !self.take_number(device, epoch, op.number(), op.number()) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&device) {
            session.dispute.take(op);
        }
        self.changes.push(Change::TakeOperation {
            device,
            epoch,
            op,
            digest,
        });
        metrics::counter!("waypost_bridge_operations_total").increment(1);
        let said = match content.body {
            Body::Text(text) => EntryBody::Text(text),
            Body::Reply(reply) => EntryBody::Reply(reply),
            Body::Track { fixes, kind } => {
                for fix in &fixes {
                    self.add_to_history(device, *fix, now);
                }
                if let (TrackKind::Travelled, Some(last)) = (kind, fixes.last()) {
                    self.move_latest(device, *last, now);
                }
                return;
            }
            Body::Batch {
                batch,
                battery_pct,
                kind,
            } => return self.take_batch(device, &batch, battery_pct, kind, now),
        };
        let stream = content.stream.expect("what is said was parsed with its stream");
        let entry = Entry {
            stream,
            seq: self.next_seq(stream),
            id: device_entry_id(device, epoch, op),
            author: Author::Device(device),
            operation: Some((epoch, op)),
            accepted: moment,
            urgent: content.urgent,
            expires_ms: content
                .expires_in_s
                .map(|s| now.wall_ms - age_ms(age_s) + i64::from(s) * 1_000),
            reply_to: content.reply_to,
            reply_stream: content.reply_stream,
            supersedes: content.supersedes,
            superseded_by: None,
            earlier: earlier.filter(|&overtaken| !self.is_taken(device, epoch, overtaken)),
            body: said,
        };
        self.append_entry(entry, Member::Device(device), now);
    }

    /// Whether messages that the author wrote before an urgent one, and for the same stream, are still under way to the server.
    ///
    /// What of its number was taken counts once it is on disk, as the entry that it may have become is seen by nobody before.
    pub fn earlier_under_way(&self, entry: &Entry) -> bool {
        let (Author::Device(device), Some((epoch, _)), Some(overtaken)) =
            (entry.author, entry.operation, entry.earlier)
        else {
            return false;
        };
        let ledger = self.ledgers.get(&(device, epoch));
        !ledger.is_some_and(|ledger| ledger.durable.contains(overtaken.number()))
    }

    /// Whether an operation was applied or is being applied.
    fn is_taken(&self, device: DeviceId, epoch: Epoch, op: OpNumber) -> bool {
        #[cfg(feature = "fault-injection")]
        if crate::fault::is("bridge-dedupe") {
            return false;
        }
        self.ledgers
            .get(&(device, epoch))
            .is_some_and(|ledger| ledger.staged.contains(op.number()))
    }

    /// Takes numbers out of the outbox's ledger; false where that would leave too many gaps below them, which their
    /// repetition will find closed.
    fn take_number(&mut self, device: DeviceId, epoch: Epoch, first: u64, last: u64) -> bool {
        let ranges_max = self.options.ledger_ranges_max;
        let Ledger { staged, .. } = self.ledgers.entry((device, epoch)).or_default();
        if !staged.insert_within(first, ranges_max) {
            metrics::counter!("waypost_bridge_operations_deferred_total").increment(1);
            return false;
        }
        staged.insert_range(first, last);
        self.changes.push(Change::PutLedger {
            device,
            epoch,
            taken: staged.clone(),
        });
        let haste = self
            .sessions
            .get(&device)
            .map_or(Haste::Now, |session| session.haste);
        self.effects.push(Effect::Taken {
            device,
            epoch,
            first,
            last,
            haste,
        });
        true
    }

    /// Whether an operation can be applied at all.
    fn check(
        &self,
        device: DeviceId,
        operation: &Operation,
        recalled: &[Entry],
        now: Now,
    ) -> Result<(), RefusalReason> {
        match &operation.body {
            Body::Text(_) | Body::Reply(_) => {
                let member = Member::Device(device);
                let stream = operation.stream.and_then(|stream| self.streams.get(&stream));
                let state = stream.ok_or(RefusalReason::UnknownStream)?;
                // What is on its way to the disk counts: who is leaving at this moment writes no more.
                let is_member = match state.stream.kind {
                    StreamKind::Group(_) => self
                        .newest_stream(state.stream.id)
                        .is_ok_and(|stream| stream.has(member)),
                    StreamKind::Direct => state.stream.has(member),
                    StreamKind::Broadcast => false,
                };
                if !is_member {
                    return Err(RefusalReason::NotAMember);
                }
                if let Body::Reply(reply) = &operation.body
                    && !self.is_sound(reply)
                {
                    return Err(RefusalReason::BadTemplate);
                }
                if let Some(replaced) = operation.supersedes {
                    let found = recalled
                        .iter()
                        .find(|entry| entry.stream == state.stream.id && entry.seq == replaced);
                    self.check_replaced_by_device(found, device)?;
                }
                if let Some(broadcast) = operation.reply_stream {
                    return self.check_answer(device, state.stream.kind, broadcast, operation.reply_to);
                }
                if let Some(answered) = operation.reply_to
                    && (answered.number() > state.staged_head
                        || !state.stream.may_read(Member::Device(device), answered.number()))
                {
                    return Err(RefusalReason::UnknownEntry);
                }
                Ok(())
            }
            Body::Track { fixes, .. } => fixes.iter().try_for_each(|fix| check_fix_time(fix, now)),
            Body::Batch { batch, .. } => {
                (batch.points.iter()).try_for_each(|point| check_time(point.at_ms, now))
            }
        }
    }

    /// Whether an operation may answer a broadcast: one that its author received, from its own direct stream.
    fn check_answer(
        &self,
        device: DeviceId,
        from: StreamKind,
        broadcast: StreamId,
        answered: Option<waypost_proto::Seq>,
    ) -> Result<(), RefusalReason> {
        let known = self.streams.get(&broadcast).filter(|state| {
            state.stream.kind == StreamKind::Broadcast
                && from == StreamKind::Direct
                && answered.is_some_and(|seq| {
                    seq.number() <= state.head && state.stream.may_read(Member::Device(device), seq.number())
                })
        });
        known.map(|_| ()).ok_or(RefusalReason::UnknownEntry)
    }

    fn handle_void(&mut self, device: DeviceId, void: &wire::VoidRange, now: Now) {
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        let epoch = session.epoch;
        let through = self.ledgers.entry((device, epoch)).or_default().staged.through();
        let last = void
            .first_op
            .saturating_add(u64::from(void.count))
            .saturating_sub(1);
        if void.first_op == 0 || void.count == 0 || last > through.saturating_add(OP_AHEAD_MAX) {
            return self.refuse(device, OpNumber::new(void.first_op), RefusalReason::BadNumber);
        }
        let staged = &self.ledgers[&(device, epoch)].staged;
        if staged.first_missing_after(void.first_op - 1) > last {
            // Said before, and taken: the acknowledgement was lost.
            let tag = session.tag;
            return self.in_session(device, tag, |session| {
                session.dispute.take_void(void.first_op, last);
                session.ack_due = true;
            });
        }
        let before = staged.count();
        if self.take_number(device, epoch, void.first_op, last) {
            if let Some(session) = self.sessions.get_mut(&device) {
                session.dispute.take_void(void.first_op, last);
            }
            // What was taken with its content, or said before, is no news.
            let news = self.ledgers[&(device, epoch)].staged.count() - before;
            let reason = void.reason();
            metrics::counter!("waypost_bridge_voids_total", "reason" => reason.as_str_name()).increment(news);
            if reason == VoidReason::Thinned {
                tracing::warn!(
                    device.id = %device,
                    operations = news,
                    "a device had no room left for its history and has thinned it out"
                );
            }
            if reason == VoidReason::Expired {
                let (first_op, count) = (void.first_op, void.count);
                let kind = EventKind::OperationsExpired {
                    device,
                    first_op,
                    count,
                };
                self.log_event(kind, now);
            }
        }
    }

    /// What the device holds and has read of a stream; `None` for a cursor that cannot be.
    fn handle_cursor(
        &mut self,
        device: DeviceId,
        stamp: Stamp,
        cursor: &wire::Cursor,
        now: Now,
    ) -> Option<()> {
        let member = Member::Device(device);
        let (stream, held) = self.reported(device, cursor)?;
        let session = self.sessions.get_mut(&device)?;
        let (tag, epoch) = (session.tag, session.epoch);
        // The transfer position of this installation.
        let transfer = self
            .transfers
            .entry((device, epoch))
            .or_default()
            .entry(stream)
            .or_default();
        let mut new_transfer = transfer.clone();
        new_transfer.merge(&held);
        if new_transfer != *transfer {
            *transfer = new_transfer.clone();
            self.changes.push(Change::PutTransfer {
                device,
                epoch,
                stream,
                held: new_transfer.clone(),
            });
            session.repeat_after = self.options.repeat_min;
        }
        let own: Vec<u64> = session
            .under_way
            .iter()
            .filter_map(|(&(of, seq), entry)| (of == stream && entry.own).then_some(seq))
            .collect();
        session.measure(stream, &new_transfer, now.monotonic);

        // The receipts of its driver.
        let before = self.cursors.get(&(stream, member)).cloned().unwrap_or_default();
        let mut after = before.clone();
        after.delivered.merge(&held);
        after.read = after.read.max(cursor.read);
        if after != before {
            // The cursor moves over what is gone; that it was delivered is said of nothing but what was.
            let passed_over = self.passed_over(stream, member);
            let delivered = self.moment(device, stamp, cursor.delivered_age_s, now);
            let mut next = before.delivered.first_missing_after(0);
            while next <= held.highest() {
                let last = (next..=held.highest())
                    .take_while(|seq| held.contains(*seq) && !before.delivered.contains(*seq))
                    .last();
                match last {
                    Some(last) => {
                        for (first, last) in passed_over.missing_within(next, last) {
                            let only_own = (first..=last).all(|seq| own.contains(&seq));
                            let rung = Rung::Delivered;
                            self.reach(stream, member, rung, (first, last), delivered, only_own, now);
                        }
                        next = before.delivered.first_missing_after(last);
                    }
                    None => next = before.delivered.first_missing_after(next),
                }
            }
            if after.read > before.read {
                let read = self.moment(device, stamp, cursor.read_age_s, now);
                for (first, last) in passed_over.missing_within(before.read + 1, after.read) {
                    let only_own = (first..=last).all(|seq| own.contains(&seq));
                    self.reach(stream, member, Rung::Read, (first, last), read, only_own, now);
                }
            }
            self.put_cursor(stream, member, after);
        }
        if self.changes.is_empty() {
            // All of it is on disk already; the echo was lost.
            self.echo(device, tag, stream);
        } else {
            self.effects.push(Effect::Echo { device, tag, stream });
        }
        Some(())
    }

    /// A cursor is on disk: its echo goes with what its entries leave room for, as one frame.
    pub(super) fn echo(&mut self, device: DeviceId, tag: SessionTag, stream: StreamId) {
        let Some(session) = self
            .sessions
            .get_mut(&device)
            .filter(|session| session.tag == tag)
        else {
            return;
        };
        session.echoes.insert(stream);
        let held = self.transfers.get(&(device, session.epoch));
        if let Some(held) = held.and_then(|held| held.get(&stream)) {
            session.confirm(stream, held);
        }
        self.dirty.insert(device);
    }

    /// What a cursor says, where it can be: a stream of the device, and nothing beyond its last entry.
    pub(super) fn reported(&self, device: DeviceId, cursor: &wire::Cursor) -> Option<(StreamId, Cumulative)> {
        let stream = StreamId::new(cursor.stream)?;
        let state = self
            .streams
            .get(&stream)
            .filter(|state| state.stream.ever_had(Member::Device(device)))?;
        let held = Cumulative::from_wire(cursor.delivered, &cursor.ranges).ok()?;
        let exists = held.highest() <= state.head && cursor.read <= state.head;
        (exists && held.ranges() <= CURSOR_RANGES_MAX).then_some((stream, held))
    }

    /// Writes down that entries reached a rung for the first time; `silent` where nobody waits for it.
    #[expect(clippy::too_many_arguments, reason = "a receipt has that many parts")]
    pub(super) fn reach(
        &mut self,
        stream: StreamId,
        member: Member,
        rung: Rung,
        (first_seq, last_seq): (u64, u64),
        moment: Moment,
        silent: bool,
        now: Now,
    ) {
        // Of entries that were trimmed there are no receipts any more.
        let first_seq = first_seq.max(self.first_seq(stream));
        if first_seq > last_seq {
            return;
        }
        self.changes.push(Change::AddReceipt {
            stream,
            member,
            rung,
            first_seq,
            last_seq,
            moment,
        });
        if !silent {
            self.log_event(
                EventKind::EntriesReached {
                    rung,
                    stream,
                    first_seq,
                    last_seq,
                    member,
                    moment,
                },
                now,
            );
        }
    }

    pub(super) fn put_cursor(&mut self, stream: StreamId, member: Member, cursor: MemberCursor) {
        self.changes.push(Change::PutCursor {
            stream,
            member,
            cursor: cursor.clone(),
        });
        self.cursors.insert((stream, member), cursor);
    }

    fn handle_live(&mut self, device: DeviceId, live: &wire::LiveFix, now: Now) {
        let Some(session) = self.sessions.get(&device) else {
            return;
        };
        let fix = Fix::from_live(live, session.hello_ms).map_err(|_| RefusalReason::BadPosition);
        match fix.and_then(|fix| check_fix_time(&fix, now).map(|()| fix)) {
            Ok(fix) => self.move_latest(device, fix, now),
            Err(reason) => self.refuse(device, None, reason),
        }
    }

    /// A moment in this session, by both clocks, with their difference as it is estimated for that moment.
    pub(super) fn moment(&self, device: DeviceId, stamp: Stamp, age_s: u32, now: Now) -> Moment {
        match self.sessions.get(&device) {
            Some(session) => {
                let device_ms = session.device_ms(stamp, age_s);
                let server_ms = self.on_server(device, session.steady_ms(stamp, age_s));
                Moment {
                    device_ms: Some(device_ms),
                    server_ms: now.wall_ms,
                    offset_ms: server_ms.map(|server_ms| server_ms.saturating_sub(device_ms)),
                }
            }
            None => Moment::server(now.wall_ms),
        }
    }

    /// Says that an operation, or something without a number, will not be applied.
    fn refuse(&mut self, device: DeviceId, op: Option<OpNumber>, reason: RefusalReason) {
        metrics::counter!("waypost_bridge_refusals_total", "reason" => reason.as_str_name()).increment(1);
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        if session.refusals.len() < REFUSALS_MAX {
            session.refusals.push(wire::Refusal {
                op: op.map_or(0, OpNumber::number),
                reason: reason.into(),
            });
        }
        self.dirty.insert(device);
    }

    /// Says that a whole frame could not be used, with or without a session.
    fn refuse_frame(&mut self, device: DeviceId, reason: RefusalReason) {
        if self.sessions.contains_key(&device) {
            return self.refuse(device, None, reason);
        }
        metrics::counter!("waypost_bridge_refusals_total", "reason" => reason.as_str_name()).increment(1);
        let refusals = vec![wire::Refusal {
            op: 0,
            reason: reason.into(),
        }];
        let frame = wire::DownFrame {
            refusals,
            ..Default::default()
        };
        self.outputs
            .push_back(Output::Publish(device, frame.encode_to_vec().into()));
    }
}

/// The entries that the operations of a frame supersede, each once; not all where they are more than a frame may.
fn superseded_by(frame: &wire::UpFrame) -> Vec<(StreamId, Seq)> {
    let superseding = frame.ops.iter().filter(|operation| operation.supersedes > 0);
    let named = superseding.take(RECALLED_MAX).filter_map(|operation| {
        let replaced = Seq::new(operation.supersedes)?;
        Some((StreamId::new(operation.stream)?, replaced))
    });
    let mut wanted: Vec<_> = named.collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

pub(super) fn check_fix_time(fix: &Fix, now: Now) -> Result<(), RefusalReason> {
    check_time(fix.at_ms, now)
}

fn check_time(at_ms: i64, now: Now) -> Result<(), RefusalReason> {
    if (FIX_MS_MIN..=now.wall_ms.saturating_add(FIX_AHEAD_MS_MAX)).contains(&at_ms) {
        Ok(())
    } else {
        Err(RefusalReason::BadTime)
    }
}

fn age_ms(age_s: u32) -> i64 {
    i64::from(age_s) * 1_000
}

/// The name of an entry for ever: the same operation always gets the same one.
fn device_entry_id(device: DeviceId, epoch: Epoch, op: OpNumber) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(b"waypost entry by device\0");
    hash.update(device.number().to_be_bytes());
    hash.update(epoch.number().to_be_bytes());
    hash.update(op.number().to_be_bytes());
    let digest = hash.finalize();
    digest[..16].try_into().expect("SHA-256 has 32 bytes")
}

fn ignore(reason: &'static str) {
    metrics::counter!("waypost_bridge_ignored_total", "reason" => reason).increment(1);
}
