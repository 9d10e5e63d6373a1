//! Outbox and inbox on disk.
//!
//! [`Store`] knows what the tables mean; the [`Engine`] below it knows ordered keys and durable transactions. One
//! transaction holds all writes that wait (group commit) and is on disk when [`Store::commit`] returns.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | a name | device, epoch, tag, server, acceptance, next numbers, groups, catalogue, the server's clock, what networks bear, positions in no operation |
//! | outbox | name of the operation | number, content, how far it has come |
//! | voids | first number | count, reason |
//! | inbox | incarnation, stream, seq | the entry |
//! | own | epoch, operation number | key in the inbox of the entry that it became |
//! | cursors | incarnation, stream | what is held, read and confirmed, what is on the server alone, and what the stream is for |
//! | unshown | incarnation, stream, seq | whether it is urgent |
//! | kept | operation number | an operation that the server has accepted, in case that it loses it |
//! | superseded | incarnation, stream, seq | seq of the entry that has taken its place |
//! | seen | stream, author, operation number | digest of what was shown and may come again |
//! | names | person, or `d` and device | name |
//!
//! Bounds: the outbox is bounded by the core; the inbox by nothing but the disk, as trimming it is not done here.

mod fork;
mod paths;
mod records;
mod redb;

pub(crate) mod memory;
#[cfg(test)]
mod suite;

pub(crate) use self::memory::MemoryEngine;
pub(crate) use self::redb::RedbEngine;

use crate::catalogue::Catalogue;
use crate::core::{
    Home, Loaded, Mutation, Named, PostId, Progress, Server, ServerClock, StoredCatalogue, StoredOperation,
    StoredVoid, ToShow, Write,
};
use crate::{Entry, Group, Standing};
use prost::Message;
use records::{
    CatalogueRecord, CursorRecord, EntryRecord, KeptRecord, OperationRecord, ServerClockRecord, ServerRecord,
    VoidRecord,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use waypost_proto::wire;
use waypost_proto::{
    Author, DeviceId, EntryBody, Epoch, Incarnation, OpNumber, PersonId, Seq, SessionTag, StreamId,
};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another client of this one, has it open.
    #[error("it is in use")]
    InUse,
    /// The disk is full, or broken, or access is denied: what was reported as stored is there when it is opened again.
    #[error("{doing}: {why}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        why: String,
    },
    /// A record cannot be read: the file was damaged, or written by a later version.
    #[error("a record of the table {0} cannot be read")]
    Unreadable(&'static str),
}

impl StoreError {
    fn failed(doing: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Failed {
            doing,
            why: why.to_string(),
        }
    }
}

/// The tables of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Meta,
    Outbox,
    Voids,
    Inbox,
    Own,
    Cursors,
    Unshown,
    Names,
    Kept,
    Seen,
    Superseded,
}

impl Table {
    pub(crate) const ALL: [Self; 11] = [
        Self::Meta,
        Self::Outbox,
        Self::Voids,
        Self::Inbox,
        Self::Own,
        Self::Cursors,
        Self::Unshown,
        Self::Names,
        Self::Kept,
        Self::Seen,
        Self::Superseded,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Outbox => "outbox",
            Self::Voids => "voids",
            Self::Inbox => "inbox",
            Self::Own => "own",
            Self::Cursors => "cursors",
            Self::Unshown => "unshown",
            Self::Names => "names",
            Self::Kept => "kept",
            Self::Seen => "seen",
            Self::Superseded => "superseded",
        }
    }
}

/// The direction in which keys are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// What a scan gives each key and value to.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError>;
/// What is done in a transaction.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&mut dyn Transaction) -> Result<(), StoreError>;

/// Ordered keys and durable transactions.
pub(crate) trait Engine: Send {
    /// Does `work` as one transaction: when this returns, all of it is on disk; after an error, none of it is.
    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError>;
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits the keys from `from` up to, not including, `to`.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: Visit<'_>,
    ) -> Result<(), StoreError>;
}

/// A transaction sees its own changes.
pub(crate) trait Transaction {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;
    /// All keys from `from` up to, not including, `to`.
    fn keys(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Vec<u8>>, StoreError>;
}

const DEVICE: &[u8] = b"device";
const EPOCH: &[u8] = b"epoch";
const TAG: &[u8] = b"tag";
const SERVER: &[u8] = b"server";
const ACCEPTED: &[u8] = b"accepted";
const NEXT_OP: &[u8] = b"next_op";
const NEXT_POST: &[u8] = b"next_post";
const GROUPS: &[u8] = b"groups";
const CATALOGUE: &[u8] = b"catalogue";
const SERVER_CLOCK: &[u8] = b"server_clock";
const IN_HAND: &[u8] = b"in_hand";

/// Above every key.
const END: &[u8] = &[0xff; 32];

/// Outbox and inbox of one device.
pub(crate) struct Store<E> {
    engine: E,
    device: DeviceId,
    /// As it is on disk: replies are put into words when they are read.
    catalogue: Catalogue,
}

/// The folder holds the state of another device.
#[derive(Debug)]
pub(crate) struct OtherDevice(pub(crate) DeviceId);

impl<E: Engine> Store<E> {
    /// Takes an engine over. A new store gets `fresh_epoch`, which is random and then stays.
    ///
    /// # Errors
    /// Outer: the engine failed. Inner: it holds the state of another device.
    pub(crate) fn open(
        mut engine: E,
        device: DeviceId,
        fresh_epoch: Epoch,
    ) -> Result<Result<Self, OtherDevice>, StoreError> {
        match number(engine.get(Table::Meta, DEVICE)?, "meta")? {
            None => engine.transact(&mut |transaction| {
                put_number(transaction, DEVICE, device.number().into())?;
                put_number(transaction, EPOCH, fresh_epoch.number())
            })?,
            Some(stored) if stored == u64::from(device.number()) => {}
            Some(stored) => {
                let other = u32::try_from(stored).ok().and_then(DeviceId::new);
                return Ok(Err(OtherDevice(other.ok_or(StoreError::Unreadable("meta"))?)));
            }
        }
        let catalogue = read_catalogue(&engine)?.catalogue;
        Ok(Ok(Self {
            engine,
            device,
            catalogue,
        }))
    }

    /// What a process starts with, without the operations.
    pub(crate) fn load(&self) -> Result<Loaded, StoreError> {
        let meta = |key| number(self.engine.get(Table::Meta, key)?, "meta");
        let bad = StoreError::Unreadable("meta");
        let server = match self.engine.get(Table::Meta, SERVER)? {
            Some(record) => Some(ServerRecord::read(&record)?),
            None => None,
        };
        let accepted = match self.engine.get(Table::Meta, ACCEPTED)? {
            Some(record) => CursorRecord::read(&record)?.held,
            None => waypost_proto::Cumulative::default(),
        };
        let mut loaded = Loaded {
            epoch: meta(EPOCH)?.and_then(Epoch::new).ok_or(bad)?,
            next_op: OpNumber::new(meta(NEXT_OP)?.unwrap_or(1)).ok_or(StoreError::Unreadable("meta"))?,
            next_post: PostId::from_number(meta(NEXT_POST)?.unwrap_or(1)),
            last_tag: meta(TAG)?.and_then(|tag| SessionTag::new(u32::try_from(tag).ok()?)),
            server,
            accepted,
            voids: Vec::new(),
            cursors: Vec::new(),
            unshown: BTreeMap::new(),
            named: std::collections::BTreeSet::new(),
            groups: self.groups()?,
            catalogue: read_catalogue(&self.engine)?,
            server_clock: match self.engine.get(Table::Meta, SERVER_CLOCK)? {
                Some(record) => ServerClockRecord::read(&record)?,
                None => ServerClock::default(),
            },
            in_hand: match self.engine.get(Table::Meta, IN_HAND)? {
                Some(record) => Some(
                    wire::Operation::decode(record.as_slice()).map_err(|_| StoreError::Unreadable("meta"))?,
                ),
                None => None,
            },
        };
        self.all(Table::Voids, |key, value| {
            loaded.voids.push(VoidRecord::read(key, value)?);
            Ok(())
        })?;
        self.all(Table::Names, |key, _| {
            loaded.named.extend(named_by(key));
            Ok(())
        })?;
        if let Some(Server { shelf, .. }) = server {
            let (from, to) = of_incarnation(shelf);
            self.engine
                .scan(Table::Cursors, &from, &to, Order::Ascending, &mut |key, value| {
                    let stream = stream_of(key).ok_or(StoreError::Unreadable("cursors"))?;
                    loaded.cursors.push((stream, CursorRecord::read(value)?));
                    Ok(ControlFlow::Continue(()))
                })?;
            self.engine
                .scan(Table::Unshown, &from, &to, Order::Ascending, &mut |key, value| {
                    let bad = || StoreError::Unreadable("unshown");
                    let (stream, seq) = (stream_of(key).ok_or_else(bad)?, seq_of(key).ok_or_else(bad)?);
                    let urgent = value == [1];
                    loaded
                        .unshown
                        .entry(stream)
                        .or_default()
                        .push(ToShow { seq, urgent });
                    Ok(ControlFlow::Continue(()))
                })?;
        }
        Ok(loaded)
    }

    /// Visits all operations in the order of their names.
    pub(crate) fn operations(
        &self,
        mut visit: impl FnMut(StoredOperation, Progress),
    ) -> Result<(), StoreError> {
        self.all(Table::Outbox, |key, value| {
            let (stored, progress) = OperationRecord::read(key, value)?;
            visit(stored, progress);
            Ok(())
        })
    }

    /// Visits all operations that are kept in case that the server loses them, with the moments in which it accepted them.
    pub(crate) fn kept(&self, mut visit: impl FnMut(StoredOperation, i64)) -> Result<(), StoreError> {
        self.all(Table::Kept, |_, value| {
            let (stored, accepted_ms) = KeptRecord::read(value)?;
            visit(stored, accepted_ms);
            Ok(())
        })
    }

    /// The content of an operation; `None` where there is none.
    pub(crate) fn content(&self, id: PostId) -> Result<Option<wire::Operation>, StoreError> {
        let key = id.number().to_be_bytes();
        let Some(record) = self.engine.get(Table::Outbox, &key)? else {
            return Ok(None);
        };
        Ok(Some(OperationRecord::read(&key, &record)?.0.content))
    }

    fn groups(&self) -> Result<Vec<Group>, StoreError> {
        let bad = || StoreError::Unreadable("meta");
        let Some(record) = self.engine.get(Table::Meta, GROUPS)? else {
            return Ok(Vec::new());
        };
        let groups = wire::Groups::decode(record.as_slice()).map_err(|_| bad())?;
        Group::all_from_wire(&groups).ok_or_else(bad)
    }

    /// An entry of the inbox, with its author's name and in words.
    pub(crate) fn entry(
        &self,
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(record) = self
            .engine
            .get(Table::Inbox, &entry_key(incarnation, stream, seq))?
        else {
            return Ok(None);
        };
        self.complete(incarnation, EntryRecord::read(stream, seq, &record)?)
            .map(Some)
    }

    /// An entry for the screen; `None` where it was shown, here or before the server's store was put back.
    pub(crate) fn entry_to_show(
        &self,
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
    ) -> Result<Option<Entry>, StoreError> {
        let key = entry_key(incarnation, stream, seq);
        match self.engine.get(Table::Unshown, &key)? {
            Some(_) => self.entry(incarnation, stream, seq),
            None => Ok(None),
        }
    }

    /// The newest `limit` entries of a stream before `before`, in the order of their seqs.
    pub(crate) fn history(
        &self,
        incarnation: Incarnation,
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let first = Seq::new(1).expect("1 is a seq");
        let from = entry_key(incarnation, stream, first);
        let to = before.map_or_else(
            || {
                stream_key(incarnation, stream)
                    .into_iter()
                    .chain([0xff; 9])
                    .collect()
            },
            |before| entry_key(incarnation, stream, before),
        );
        let mut entries = Vec::new();
        if limit > 0 {
            self.engine
                .scan(Table::Inbox, &from, &to, Order::Descending, &mut |key, value| {
                    let seq = seq_of(key).ok_or(StoreError::Unreadable("inbox"))?;
                    entries.push(EntryRecord::read(stream, seq, value)?);
                    Ok(if entries.len() < limit {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    })
                })?;
        }
        entries.reverse();
        entries
            .into_iter()
            .map(|entry| self.complete(incarnation, entry))
            .collect()
    }

    /// Puts writes on the disk, all of them in one transaction.
    pub(crate) fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let device = self.device;
        self.engine.transact(&mut |transaction| {
            for mutation in writes.iter().flat_map(|write| &write.mutations) {
                apply(transaction, device, mutation)?;
            }
            Ok(())
        })?;
        for mutation in writes.iter().flat_map(|write| &write.mutations) {
            if let Mutation::PutCatalogue(stored) = mutation {
                self.catalogue = stored.catalogue.clone();
            }
        }
        Ok(())
    }

    /// Names, the words of a quick reply, and whether another entry has taken its place: none of it is stored with the
    /// entry, as it may change.
    fn complete(&self, incarnation: Incarnation, entry: Entry) -> Result<Entry, StoreError> {
        let key = entry_key(incarnation, entry.stream, entry.seq);
        let by = number(self.engine.get(Table::Superseded, &key)?, "superseded")?.and_then(Seq::new);
        let author_name = match entry.author {
            Author::Person(person) => self.name(Named::Person(person))?,
            Author::Device(device) => self.name(Named::Device(device))?,
            Author::System => None,
        };
        let (mut reply, mut member_name) = (None, None);
        match &entry.body {
            EntryBody::Reply { reply: of, text } => reply = Some(self.catalogue.words(of, text.as_deref())),
            EntryBody::Membership { device, .. } => member_name = self.name(Named::Device(*device))?,
            EntryBody::Text(_) | EntryBody::Unsupported => {}
        }
        Ok(Entry {
            standing: by.map_or(Standing::Current, |by| Standing::Superseded { by }),
            author_name,
            reply,
            member_name,
            ..entry
        })
    }

    fn name(&self, of: Named) -> Result<Option<String>, StoreError> {
        let name = self.engine.get(Table::Names, &name_key(of))?;
        Ok(name.and_then(|name| String::from_utf8(name).ok()))
    }

    fn all(
        &self,
        table: Table,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.engine
            .scan(table, &[], END, Order::Ascending, &mut |key, value| {
                visit(key, value)?;
                Ok(ControlFlow::Continue(()))
            })
    }
}

/// What each mutation means for the tables.
fn apply(transaction: &mut dyn Transaction, device: DeviceId, mutation: &Mutation) -> Result<(), StoreError> {
    match mutation {
        Mutation::Tag(tag) => put_number(transaction, TAG, tag.number().into()),
        Mutation::Server(server) => put_server(transaction, *server),
        Mutation::PutOperation(stored) => {
            put_number(transaction, NEXT_OP, stored.op.number() + 1)?;
            put_number(transaction, NEXT_POST, stored.id.number() + 1)?;
            put_operation(transaction, stored, Progress::Waiting)
        }
        Mutation::Refill { id, content } => {
            change_operation(transaction, *id, |stored, _| stored.content = content.clone())
        }
        Mutation::Settle { id, stream } => change_operation(transaction, *id, |stored, _| {
            if stored.home == Home::Office {
                stored.home = Home::Settled;
                stored.content.stream = stream.number();
            }
        }),
        Mutation::Progress { id, progress } => {
            change_operation(transaction, *id, |_, stored| *stored = *progress)
        }
        Mutation::Forget(id) => transaction.delete(Table::Outbox, &id.number().to_be_bytes()),
        Mutation::Keep { id, accepted_ms } => fork::keep(transaction, *id, *accepted_ms),
        Mutation::OfferAgain(op) => fork::offer_again(transaction, *op),
        Mutation::DropKept(op) => transaction.delete(Table::Kept, &op.number().to_be_bytes()),
        Mutation::Fork { shelf, through } => fork::cut(transaction, *shelf, through),
        Mutation::Accepted(accepted) => transaction.put(
            Table::Meta,
            ACCEPTED,
            &CursorRecord::of_set(accepted).encode_to_vec(),
        ),
        Mutation::PutVoid(void) => put_void(transaction, void),
        Mutation::ClearVoid(first) => transaction.delete(Table::Voids, &first.number().to_be_bytes()),
        Mutation::Epoch {
            epoch,
            numbers,
            next_op,
        } => {
            put_number(transaction, EPOCH, epoch.number())?;
            put_number(transaction, NEXT_OP, next_op.number())?;
            transaction.delete(Table::Meta, ACCEPTED)?;
            for table in [Table::Voids, Table::Kept] {
                for key in transaction.keys(table, &[], END)? {
                    transaction.delete(table, &key)?;
                }
            }
            for &(id, op) in numbers {
                change_operation(transaction, id, |stored, _| stored.op = op)?;
            }
            Ok(())
        }
        Mutation::PutEntry { incarnation, entry } => put_entry(transaction, *incarnation, entry),
        Mutation::PutEarlier { incarnation, entry } => {
            let key = entry_key(*incarnation, entry.stream, entry.seq);
            match transaction.get(Table::Inbox, &key)? {
                Some(_) => Ok(()),
                None => transaction.put(Table::Inbox, &key, &EntryRecord::of(entry).encode_to_vec()),
            }
        }
        Mutation::PutOwn {
            incarnation,
            stream,
            seq,
            epoch,
            op,
            id,
            done_server_ms,
        } => {
            let key = entry_key(*incarnation, *stream, *seq);
            let own_key = [epoch.number().to_be_bytes(), op.number().to_be_bytes()].concat();
            let own = Own {
                place: (*stream, *seq),
                op: *op,
                id: *id,
                done_server_ms: *done_server_ms,
            };
            let entry = own_entry(transaction, device, own, &own_key)?;
            transaction.put(Table::Own, &own_key, &key)?;
            if let Some(id) = id {
                transaction.delete(Table::Outbox, &id.number().to_be_bytes())?;
            }
            put_entry(transaction, *incarnation, &entry)
        }
        Mutation::PutCursor {
            incarnation,
            stream,
            cursor,
        } => {
            let record = CursorRecord::of(cursor).encode_to_vec();
            transaction.put(Table::Cursors, &stream_key(*incarnation, *stream), &record)
        }
        Mutation::Shown {
            incarnation,
            stream,
            seq,
        } => transaction.delete(Table::Unshown, &entry_key(*incarnation, *stream, *seq)),
        Mutation::PutName { of, name } => transaction.put(Table::Names, &name_key(*of), name.as_bytes()),
        Mutation::PutGroups(groups) => {
            let record = Group::all_to_wire(groups).encode_to_vec();
            transaction.put(Table::Meta, GROUPS, &record)
        }
        Mutation::PutPaths(paths) => paths::put(transaction, paths),
        Mutation::PutCatalogue(stored) => {
            let record = CatalogueRecord::of(stored).encode_to_vec();
            transaction.put(Table::Meta, CATALOGUE, &record)
        }
        Mutation::PutServerClock(clock) => {
            let record = ServerClockRecord::of(clock).encode_to_vec();
            transaction.put(Table::Meta, SERVER_CLOCK, &record)
        }
        Mutation::InHand(Some(content)) => transaction.put(Table::Meta, IN_HAND, &content.encode_to_vec()),
        Mutation::InHand(None) => transaction.delete(Table::Meta, IN_HAND),
    }
}

fn read_catalogue(engine: &impl Engine) -> Result<StoredCatalogue, StoreError> {
    match engine.get(Table::Meta, CATALOGUE)? {
        Some(record) => CatalogueRecord::read(&record),
        None => Ok(StoredCatalogue::default()),
    }
}

/// Four bytes for a person; a device has a letter before them.
fn name_key(of: Named) -> Vec<u8> {
    match of {
        Named::Person(person) => person.number().to_be_bytes().to_vec(),
        Named::Device(device) => [b"d".as_slice(), &device.number().to_be_bytes()].concat(),
    }
}

fn named_by(key: &[u8]) -> Option<Named> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    match key {
        [b'd', device @ ..] if device.len() == 4 => DeviceId::new(number(device)?).map(Named::Device),
        person => PersonId::new(number(person)?).map(Named::Person),
    }
}

fn put_server(transaction: &mut dyn Transaction, server: Server) -> Result<(), StoreError> {
    let (from, to) = of_incarnation(server.shelf);
    for key in transaction.keys(Table::Unshown, &[], END)? {
        if key < from || key >= to {
            transaction.delete(Table::Unshown, &key)?;
        }
    }
    transaction.put(Table::Meta, SERVER, &ServerRecord::of(server).encode_to_vec())
}

fn put_entry(
    transaction: &mut dyn Transaction,
    incarnation: Incarnation,
    entry: &Entry,
) -> Result<(), StoreError> {
    let key = entry_key(incarnation, entry.stream, entry.seq);
    transaction.put(Table::Inbox, &key, &EntryRecord::of(entry).encode_to_vec())?;
    if let Some(replaced) = entry.supersedes {
        let key = entry_key(incarnation, entry.stream, replaced);
        transaction.put(Table::Superseded, &key, &entry.seq.number().to_be_bytes())?;
    }
    if fork::was_seen(transaction, entry)? {
        return Ok(());
    }
    transaction.put(Table::Unshown, &key, &[u8::from(entry.urgent)])
}

/// An operation that has become an entry.
#[derive(Clone, Copy)]
struct Own {
    place: (StreamId, Seq),
    op: OpNumber,
    id: Option<PostId>,
    done_server_ms: Option<i64>,
}

/// The device's own entry: from the outbox, or from where it became an entry before (in another incarnation).
fn own_entry(
    transaction: &mut dyn Transaction,
    device: DeviceId,
    own: Own,
    own_key: &[u8],
) -> Result<Entry, StoreError> {
    let Own {
        place: (stream, seq),
        op,
        ..
    } = own;
    if let Some(id) = own.id {
        let key = id.number().to_be_bytes();
        if let Some(record) = transaction.get(Table::Outbox, &key)? {
            let (stored, _) = OperationRecord::read(&key, &record)?;
            return Ok(EntryRecord::own(device, stream, seq, &stored, own.done_server_ms));
        }
    }
    // Accepted so long ago that the outbox has let go of it.
    if let Some(record) = transaction.get(Table::Kept, &op.number().to_be_bytes())? {
        let (stored, _) = KeptRecord::read(&record)?;
        return Ok(EntryRecord::own(device, stream, seq, &stored, own.done_server_ms));
    }
    if let Some(earlier) = transaction.get(Table::Own, own_key)?
        && let Some(record) = transaction.get(Table::Inbox, &earlier)?
    {
        return EntryRecord::read(stream, seq, &record);
    }
    Ok(EntryRecord::own_unknown(device, stream, seq, op))
}

fn put_operation(
    transaction: &mut dyn Transaction,
    stored: &StoredOperation,
    progress: Progress,
) -> Result<(), StoreError> {
    let record = OperationRecord::of(stored, progress).encode_to_vec();
    transaction.put(Table::Outbox, &stored.id.number().to_be_bytes(), &record)
}

fn change_operation(
    transaction: &mut dyn Transaction,
    id: PostId,
    change: impl FnOnce(&mut StoredOperation, &mut Progress),
) -> Result<(), StoreError> {
    let key = id.number().to_be_bytes();
    let Some(record) = transaction.get(Table::Outbox, &key)? else {
        return Ok(());
    };
    let (mut stored, mut progress) = OperationRecord::read(&key, &record)?;
    change(&mut stored, &mut progress);
    put_operation(transaction, &stored, progress)
}

fn put_void(transaction: &mut dyn Transaction, void: &StoredVoid) -> Result<(), StoreError> {
    transaction.put(
        Table::Voids,
        &void.first.number().to_be_bytes(),
        &VoidRecord::of(void).encode_to_vec(),
    )
}

fn put_number(transaction: &mut dyn Transaction, key: &[u8], number: u64) -> Result<(), StoreError> {
    transaction.put(Table::Meta, key, &number.to_be_bytes())
}

fn number(value: Option<Vec<u8>>, table: &'static str) -> Result<Option<u64>, StoreError> {
    let parse = |value: Vec<u8>| {
        let bytes = value.try_into().map_err(|_| StoreError::Unreadable(table))?;
        Ok(u64::from_be_bytes(bytes))
    };
    value.map(parse).transpose()
}

fn stream_key(incarnation: Incarnation, stream: StreamId) -> Vec<u8> {
    let mut key = incarnation.number().to_be_bytes().to_vec();
    key.extend(stream.number().to_be_bytes());
    key
}

fn entry_key(incarnation: Incarnation, stream: StreamId, seq: Seq) -> Vec<u8> {
    let mut key = stream_key(incarnation, stream);
    key.extend(seq.number().to_be_bytes());
    key
}

/// From the first key of an incarnation to the first that is beyond it.
fn of_incarnation(incarnation: Incarnation) -> (Vec<u8>, Vec<u8>) {
    let from = incarnation.number().to_be_bytes().to_vec();
    let to = from.iter().copied().chain([0xff; 16]).collect();
    (from, to)
}

fn stream_of(key: &[u8]) -> Option<StreamId> {
    StreamId::new(u32::from_be_bytes(key.get(8..12)?.try_into().ok()?))
}

fn seq_of(key: &[u8]) -> Option<Seq> {
    Seq::new(u64::from_be_bytes(key.get(12..20)?.try_into().ok()?))
}
