//! The domain on ordered keys: what every embedded engine shares.

use super::keys::{self, Key, Numbers, Table};
use super::records::{MetaRecord, ReceiptRecord, Record};
use super::{Change, Found, Log, Look, MemberCursor, Restore, State, Store, StoreError, expiry};
use crate::audit::AuditEntry;
use crate::broadcast::Broadcast;
use crate::clock::ClockEstimate;
use crate::device::Device;
use crate::entry::{Author, Entry, Moment, Page, Receipt, Rung};
use crate::event::{Event, EventCursor};
use crate::group::Group;
use crate::key::ApiKey;
use crate::once::{Caller, Posted};
use crate::person::{Person, SignIn};
use crate::position::Position;
use crate::stream::{Member, Stream};
use crate::template::Template;
use prost::Message;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use waypost_proto::{
    ContentDigest, Cumulative, DeviceId, Epoch, Generation, Incarnation, OpNumber, Seq, StreamId,
};

/// An engine with ordered keys, whose batches are atomic and durable.
pub trait OrderedKeys: Send + Sync + 'static {
    /// The value of a key.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the records from `first` to `last`, both included, in the order that was asked for, until told to stop.
    fn scan(&self, first: &[u8], last: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Visits every record there is, as all of them were at one moment, in the order of their keys, until told to stop.
    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// All or nothing; durable when it returns. Only as the owner of the store: an engine with transactions makes sure of it
    /// within this one, an engine in files before and after it.
    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Makes sure that nobody else has taken the store over; [`StoreError::Fenced`] where it is so.
    fn check_owner(&self) -> Result<(), StoreError>;
}

/// Called with a key and its value; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lowest key.
    Ascending,
    /// The highest key.
    Descending,
}

/// A key and its new value; `None` deletes.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// A [`Store`] on an engine with ordered keys.
#[derive(Debug, Default)]
pub struct KeyedStore<K>(pub(super) K);

impl<K: OrderedKeys> Store for KeyedStore<K> {
    fn load(&self, fresh_incarnation: u64) -> Result<State, StoreError> {
        let meta_key = keys::meta();
        let mut meta = match self.0.read(&meta_key)? {
            Some(bytes) => MetaRecord::decode(bytes.as_slice()).map_err(|_| StoreError::Damaged("meta"))?,
            None => MetaRecord {
                incarnation: fresh_incarnation,
                generation: 0,
            },
        };
        meta.generation += 1;
        self.0.commit(vec![(meta_key, Some(meta.encode_to_vec()))])?;
        let mut state = State {
            incarnation: Incarnation::new(meta.incarnation).ok_or(StoreError::Damaged("meta"))?,
            generation: Generation::new(meta.generation).ok_or(StoreError::Damaged("meta"))?,
            devices: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_entry_ms: BTreeMap::new(),
            urgent: BTreeMap::new(),
            expiries: std::collections::BTreeSet::new(),
            people: BTreeMap::new(),
            sign_ins: BTreeMap::new(),
            keys: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            transfers: BTreeMap::new(),
            cursors: BTreeMap::new(),
            latest: BTreeMap::new(),
            last_event: 0,
            last_audit: 0,
            first_audit: 1,
            first_seqs: BTreeMap::new(),
            first_event: 1,
            first_position_day: 0,
            groups: BTreeMap::new(),
            templates: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            restores: BTreeMap::new(),
            clocks: BTreeMap::new(),
        };
        self.load_firsts(&mut state)?;
        state.last_event = self.last_number(Key::of(Table::Events), state.first_event)?;
        state.last_audit = self.last_number(Key::of(Table::Audit), state.first_audit)?;
        self.each(Table::Restores, |_, restore: Restore| {
            // Nothing may have happened since.
            state.last_event = state.last_event.max(restore.first_event - 1);
            state.restores.insert(restore.of, restore);
            Some(())
        })?;
        self.each(Table::Devices, |_, device: Device| {
            state.devices.insert(device.id, device);
            Some(())
        })?;
        self.each(Table::People, |_, person: Person| {
            state.people.insert(person.id, person);
            Some(())
        })?;
        self.each(Table::Keys, |_, key: ApiKey| {
            state.keys.insert(key.id, key);
            Some(())
        })?;
        self.each(Table::SignIns, |_, sign_in: SignIn| {
            state.sign_ins.insert(sign_in.token_hash, sign_in);
            Some(())
        })?;
        self.each(Table::Groups, |_, group: Group| {
            state.groups.insert(group.id, group);
            Some(())
        })?;
        self.each(Table::Templates, |_, template: Template| {
            // By number, then by version: the last one is what it is now.
            state.templates.entry(template.number).or_default().push(template);
            Some(())
        })?;
        self.each(Table::Broadcasts, |_, broadcast: Broadcast| {
            state.broadcasts.insert(broadcast.stream, broadcast);
            Some(())
        })?;
        let mut streams = Vec::new();
        self.each(Table::Streams, |_, stream: Stream| {
            streams.push(stream);
            Some(())
        })?;
        for stream in streams {
            let first_seq = state.first_seqs.get(&stream.id).copied().unwrap_or(1);
            let head = self.last_number(Key::of(Table::Entries).u32(stream.id.number()), first_seq)?;
            if let Some(last) = Seq::new(head)
                && let Some(entry) = self.entry(stream.id, last)?
            {
                state.last_entry_ms.insert(stream.id, entry.accepted.server_ms);
            }
            state.streams.insert(stream.id, (stream, head));
        }
        self.load_urgent(&mut state)?;
        self.load_expiries(&mut state)?;
        self.each(Table::Ledgers, |mut key, taken: Cumulative| {
            state
                .ledgers
                .insert((DeviceId::new(key.u32()?)?, Epoch::new(key.u64()?)?), taken);
            Some(())
        })?;
        self.each(Table::Transfers, |mut key, held: Cumulative| {
            let installation = (DeviceId::new(key.u32()?)?, Epoch::new(key.u64()?)?);
            state
                .transfers
                .entry(installation)
                .or_default()
                .insert(StreamId::new(key.u32()?)?, held);
            Some(())
        })?;
        self.each(Table::Cursors, |mut key, cursor: MemberCursor| {
            state
                .cursors
                .insert((StreamId::new(key.u32()?)?, key.member()?), cursor);
            Some(())
        })?;
        self.each(Table::Latest, |mut key, position: Position| {
            state.latest.insert(DeviceId::new(key.u32()?)?, position);
            Some(())
        })?;
        self.each(Table::Clocks, |mut key, clock: ClockEstimate| {
            state.clocks.insert(DeviceId::new(key.u32()?)?, clock);
            Some(())
        })?;
        Ok(state)
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut writes = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::PutPosted { caller, key, posted } => put_posted(*caller, key, posted, &mut writes),
                // Last of all, when it is known which keys are used again.
                Change::ExpirePosted { .. } => {}
                change => writes.push(write(change)),
            }
        }
        for change in changes {
            if let Change::ExpirePosted { before_ms, at_most } = change {
                self.expire_posted(*before_ms, *at_most, &mut writes)?;
            }
        }
        self.0.commit(writes)
    }

    fn entries(
        &self,
        stream: StreamId,
        page: Page,
        limit: usize,
        head: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        let first_seq = self.first_seq(stream)?;
        let (first, last, order) = match page {
            Page::Newest => (first_seq, head, Order::Descending),
            Page::Before(seq) => (first_seq, head.min(seq.saturating_sub(1)), Order::Descending),
            Page::After(seq) => (first_seq.max(seq.saturating_add(1)), head, Order::Ascending),
        };
        let mut entries: Vec<Entry> = self.read_range(
            &keys::entry(stream, first),
            &keys::entry(stream, last),
            order,
            limit,
        )?;
        if order == Order::Descending {
            entries.reverse();
        }
        self.add_superseded(&mut entries)?;
        Ok(entries)
    }

    fn entry(&self, stream: StreamId, seq: Seq) -> Result<Option<Entry>, StoreError> {
        let Some(bytes) = self.0.read(&keys::entry(stream, seq.number()))? else {
            return Ok(None);
        };
        let mut entries = [Entry::decode(&bytes)?];
        self.add_superseded(&mut entries)?;
        let [entry] = entries;
        Ok(Some(entry))
    }

    fn receipts(&self, stream: &Stream, seq: Seq) -> Result<Option<Vec<Receipt>>, StoreError> {
        let Some(entry) = self.entry(stream.id, seq)? else {
            return Ok(None);
        };
        let is_author = |member| match (member, entry.author) {
            (Member::Device(device), Author::Device(author)) => device == author,
            (Member::Office | Member::Person(_), Author::Person(_)) => true,
            _ => false,
        };
        // Until it is noticed, nobody was told.
        let ended = self.has_expired(&entry)?.then_some(entry.expires_ms).flatten();
        let mut rows: Vec<Receipt> = Vec::new();
        for membership in &stream.members {
            let member = membership.member;
            let listed = rows.iter().any(|row| row.member == member);
            if is_author(member) || listed || !stream.may_read(member, seq.number()) {
                continue;
            }
            let delivered = self.reached(stream.id, member, Rung::Delivered, seq)?;
            rows.push(Receipt {
                member,
                accepted: entry.accepted,
                sent: self.reached(stream.id, member, Rung::Sent, seq)?,
                delivered,
                expired: ended.filter(|_| delivered.is_none()).map(Moment::server),
                read: self.reached(stream.id, member, Rung::Read, seq)?,
                acted: self.reached(stream.id, member, Rung::Acted, seq)?,
            });
        }
        Ok(Some(rows))
    }

    fn track(
        &self,
        device: DeviceId,
        from_ms: i64,
        to_ms: i64,
        limit: usize,
    ) -> Result<Vec<Position>, StoreError> {
        self.read_range(
            &keys::track(device, from_ms),
            &keys::track(device, to_ms),
            Order::Ascending,
            limit,
        )
    }

    fn events(&self, after: EventCursor, limit: usize) -> Result<Vec<Event>, StoreError> {
        let first = keys::event(after.saturating_add(1).max(self.first_record(Log::Events)?));
        self.read_range(&first, &keys::event(u64::MAX), Order::Ascending, limit)
    }

    fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let last = before.map_or(u64::MAX, |before| before.saturating_sub(1));
        let first = self.first_record(Log::Audit)?;
        self.read_range(&keys::audit(first), &keys::audit(last), Order::Descending, limit)
    }

    fn find_old(&self, look: &Look) -> Result<Found, StoreError> {
        KeyedStore::find_old(self, look)
    }

    fn posted(&self, caller: Caller, key: &str) -> Result<Option<Posted>, StoreError> {
        self.0
            .read(&keys::posted(caller, key))?
            .map(|bytes| Posted::decode(&bytes))
            .transpose()
    }

    fn operation(
        &self,
        device: DeviceId,
        epoch: Epoch,
        op: OpNumber,
    ) -> Result<Option<ContentDigest>, StoreError> {
        self.0
            .read(&keys::operation(device, epoch, op))?
            .map(|bytes| {
                bytes
                    .try_into()
                    .map(ContentDigest)
                    .map_err(|_| StoreError::Damaged("operation"))
            })
            .transpose()
    }

    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.0.snapshot(visit)
    }

    fn check_owner(&self) -> Result<(), StoreError> {
        self.0.check_owner()
    }
}

impl<K: OrderedKeys> KeyedStore<K> {
    /// Hands every record of a table to `take`, which returns `None` for one that cannot be.
    fn each<R: Record>(
        &self,
        table: Table,
        mut take: impl FnMut(Numbers<'_>, R) -> Option<()>,
    ) -> Result<(), StoreError> {
        // No key is longer than a letter and 40 bytes, but for idempotency keys, which nobody walks.
        let (first, last) = (vec![table as u8], [&[table as u8][..], &[0xff; 41]].concat());
        self.0.scan(&first, &last, Order::Ascending, &mut |key, value| {
            take(Numbers(&key[1..]), R::decode(value)?).ok_or(StoreError::Damaged(R::NAME))?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The marks have no content.
    fn load_urgent(&self, state: &mut State) -> Result<(), StoreError> {
        let first = Key::of(Table::Urgent).done();
        let last = Key::of(Table::Urgent).u32(u32::MAX).u64(u64::MAX).done();
        self.0.scan(&first, &last, Order::Ascending, &mut |key, _| {
            let mut numbers = Numbers(&key[1..]);
            let mark = numbers.u32().and_then(StreamId::new).zip(numbers.u64());
            let (stream, seq) = mark.ok_or(StoreError::Damaged("key"))?;
            state.urgent.entry(stream).or_default().insert(seq);
            Ok(ControlFlow::Continue(()))
        })
    }

    fn read_range<R: Record>(
        &self,
        first: &[u8],
        last: &[u8],
        order: Order,
        limit: usize,
    ) -> Result<Vec<R>, StoreError> {
        let mut records = Vec::new();
        if limit == 0 || first > last {
            return Ok(records);
        }
        self.0.scan(first, last, order, &mut |_, value| {
            records.push(R::decode(value)?);
            Ok(if records.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(records)
    }

    fn expire_posted(&self, before_ms: i64, at_most: u32, writes: &mut Vec<Write>) -> Result<(), StoreError> {
        let (first, last) = (
            keys::posted_by_time(i64::MIN, &[]),
            keys::posted_by_time(before_ms, &[]),
        );
        let mut expired = Vec::new();
        self.0.scan(&first, &last, Order::Ascending, &mut |key, _| {
            expired.push(key.to_vec());
            Ok(if expired.len() < at_most as usize {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        for by_time in expired {
            let mut numbers = Numbers(&by_time[1..]);
            let at_ms = numbers.i64().ok_or(StoreError::Damaged("key"))?;
            let key = Key::of(Table::Posted).bytes(numbers.0).done();
            // A key that is used again after its time has a newer record, which stays.
            let used_again = writes.iter().any(|(written, _)| *written == key);
            if !used_again
                && let Some(bytes) = self.0.read(&key)?
                && Posted::decode(&bytes)?.at_ms == at_ms
            {
                writes.push((key, None));
            }
            writes.push((by_time, None));
        }
        Ok(())
    }

    /// The number at the end of the last key with this beginning and a number of at least `first_number`; the one
    /// before that where there is none.
    fn last_number(&self, prefix: Key, first_number: u64) -> Result<u64, StoreError> {
        let prefix = prefix.done();
        let (first, last) = (
            [&prefix[..], &first_number.to_be_bytes()].concat(),
            [&prefix[..], &[0xff; 8]].concat(),
        );
        let mut number = Some(first_number.saturating_sub(1));
        self.0.scan(&first, &last, Order::Descending, &mut |key, _| {
            number = Numbers(&key[prefix.len()..]).u64();
            Ok(ControlFlow::Break(()))
        })?;
        number.ok_or(StoreError::Damaged("key"))
    }

    /// Receipts of one rung never overlap: the first whose last entry is not before `seq` holds it or none does.
    fn reached(
        &self,
        stream: StreamId,
        member: Member,
        rung: Rung,
        seq: Seq,
    ) -> Result<Option<Moment>, StoreError> {
        let first = keys::receipt(stream, member, rung, seq.number());
        let last = keys::receipt(stream, member, rung, u64::MAX);
        let mut moment = None;
        self.0.scan(&first, &last, Order::Ascending, &mut |_, value| {
            let record = ReceiptRecord::decode(value).map_err(|_| StoreError::Damaged("receipt"))?;
            if record.first_seq <= seq.number() {
                moment = record.moment();
            }
            Ok(ControlFlow::Break(()))
        })?;
        Ok(moment)
    }
}

fn write(change: &Change) -> Write {
    match change {
        Change::PutDevice(device) => (keys::device(device.id), Some(device.encode())),
        Change::PutPerson(person) => (keys::person(person.id), Some(person.encode())),
        Change::PutKey(key) => (keys::api_key(key.id), Some(key.encode())),
        Change::PutSignIn(sign_in) => (keys::sign_in(&sign_in.token_hash), Some(sign_in.encode())),
        Change::DeleteSignIn(token_hash) => (keys::sign_in(token_hash), None),
        Change::PutGroup(group) => (keys::group(group.id), Some(group.encode())),
        Change::PutTemplate(template) => (
            keys::template(template.number, template.version),
            Some(template.encode()),
        ),
        Change::PutBroadcast(broadcast) => (keys::broadcast(broadcast.stream), Some(broadcast.encode())),
        Change::PutStream(stream) => (keys::stream(stream.id), Some(stream.encode())),
        Change::AppendEntry(entry) => (
            keys::entry(entry.stream, entry.seq.number()),
            Some(entry.encode()),
        ),
        Change::MarkUrgent(stream, seq) => (keys::urgent(*stream, *seq), Some(Vec::new())),
        Change::MarkExpiry(expiry) => (expiry.key(), Some(Vec::new())),
        Change::MarkSuperseded { stream, seq, by } => expiry::superseded(*stream, *seq, *by),
        Change::TakeOperation {
            device,
            epoch,
            op,
            digest,
        } => (keys::operation(*device, *epoch, *op), Some(digest.0.to_vec())),
        Change::PutLedger { device, epoch, taken } => (keys::ledger(*device, *epoch), Some(taken.encode())),
        Change::PutTransfer {
            device,
            epoch,
            stream,
            held,
        } => (keys::transfer(*device, *epoch, *stream), Some(held.encode())),
        Change::PutCursor {
            stream,
            member,
            cursor,
        } => (keys::cursor(*stream, *member), Some(cursor.encode())),
        Change::AddReceipt {
            stream,
            member,
            rung,
            first_seq,
            last_seq,
            moment,
        } => (
            keys::receipt(*stream, *member, *rung, *last_seq),
            Some(ReceiptRecord::new(*first_seq, *moment).encode_to_vec()),
        ),
        Change::AppendEvent(event) => (keys::event(event.cursor), Some(event.encode())),
        Change::PutAudit(entry) => (keys::audit(entry.number), Some(entry.encode())),
        Change::PutLatest(device, position) => (keys::latest(*device), Some(position.encode())),
        Change::PutClock(device, clock) => (keys::clock(*device), Some(clock.encode())),
        Change::AddPosition(device, position) => {
            (keys::track(*device, position.fix.at_ms), Some(position.encode()))
        }
        Change::MarkPositions(mark) => (mark.key(), Some(Vec::new())),
        Change::Trim(trim) => trim.write(),
        Change::PutPosted { .. } | Change::ExpirePosted { .. } => {
            unreachable!("these take more than one write")
        }
    }
}

/// The record, and where it stands in the order of time.
fn put_posted(caller: Caller, key: &str, posted: &Posted, writes: &mut Vec<Write>) {
    let key = keys::posted(caller, key);
    writes.push((keys::posted_by_time(posted.at_ms, &key), Some(Vec::new())));
    writes.push((key, Some(posted.encode())));
}
