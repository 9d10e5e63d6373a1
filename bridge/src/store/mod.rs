//! What the bridge keeps, at the level of the domain: one trait, one conformance suite, several engines.
//!
//! A [`Store`] takes [`Change`]s in atomic batches and answers reads. The one rule: when [`Store::commit`] returns,
//! the whole batch is on disk; where it fails, nothing of it may be shown, and the server stops.

#[cfg(test)]
mod conformance;
mod copy;
mod engine;
mod expiry;
mod export;
mod fence;
mod fjall;
mod keys;
mod kv;
mod memory;
mod records;
mod restore;
mod retention;
mod sled;

pub use copy::{Copied, CopyError, copy};
pub use engine::{Engine, UnknownEngine};
pub use expiry::Expiry;
pub use export::{
    Decoder, Encoder, Fresh, Named, NotAnExport, Pair, RestoreError, encode_record, export, restore,
};
pub(crate) use fence::OWNER_EVERY;
pub use fence::{Owner, TakenOver};
pub use fjall::{FjallKeys, FjallStore};
pub use kv::{KeyedStore, Order, OrderedKeys, Visit, Write};
pub use memory::{MemoryKeys, MemoryStore};
pub use restore::Restore;
pub use retention::{DAY_MS, Found, FoundPositions, LOOK_RECORDS_MAX, Log, Look, PositionMark, Trim};
pub use sled::{SledKeys, SledStore};

use crate::audit::AuditEntry;
use crate::broadcast::Broadcast;
use crate::clock::ClockEstimate;
use crate::device::Device;
use crate::entry::{Entry, Moment, Page, Receipt, Rung};
use crate::event::{Event, EventCursor};
use crate::group::{Group, GroupId};
use crate::key::ApiKey;
use crate::once::{Caller, Posted};
use crate::person::{Person, SignIn};
use crate::position::Position;
use crate::stream::{Member, Stream};
use crate::template::Template;
use std::collections::{BTreeMap, BTreeSet};
use waypost_proto::{
    ContentDigest, Cumulative, DeviceId, Epoch, Generation, Incarnation, OpNumber, PersonId, Seq, StreamId,
};

/// A durable home for everything that the bridge knows.
pub trait Store: Send + Sync + 'static {
    /// Reads what the core keeps in memory, and begins a new generation, which is on disk when this returns.
    /// `fresh_incarnation` names the store where it is new.
    fn load(&self, fresh_incarnation: u64) -> Result<State, StoreError>;

    /// Writes all of a batch or nothing; durable when it returns.
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// At most `limit` entries up to number `head`, ascending.
    fn entries(
        &self,
        stream: StreamId,
        page: Page,
        limit: usize,
        head: u64,
    ) -> Result<Vec<Entry>, StoreError>;

    /// One entry.
    fn entry(&self, stream: StreamId, seq: Seq) -> Result<Option<Entry>, StoreError>;

    /// A row for each member of `stream` that may read the entry, but for its author; `None` where there is no such
    /// entry.
    fn receipts(&self, stream: &Stream, seq: Seq) -> Result<Option<Vec<Receipt>>, StoreError>;

    /// Positions from `from_ms` to `to_ms`, both included, oldest first, at most `limit`.
    fn track(
        &self,
        device: DeviceId,
        from_ms: i64,
        to_ms: i64,
        limit: usize,
    ) -> Result<Vec<Position>, StoreError>;

    /// Events after a cursor, oldest first, at most `limit`.
    fn events(&self, after: EventCursor, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// Lines of the audit record before a number, or the last ones; newest first, at most `limit`.
    fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    /// What retention may take: old records from where their kind begins, a bounded number of them.
    fn find_old(&self, look: &Look) -> Result<Found, StoreError>;

    /// What an idempotency key of this caller made.
    fn posted(&self, caller: Caller, key: &str) -> Result<Option<Posted>, StoreError>;

    /// The digest of an operation that was taken; `None` for a void.
    fn operation(
        &self,
        device: DeviceId,
        epoch: Epoch,
        op: OpNumber,
    ) -> Result<Option<ContentDigest>, StoreError>;

    /// Visits every record there is, as all of them were at one moment, in the order of their keys, until told to stop: what a
    /// backup holds. Commits go on meanwhile where the engine can read at a moment that is past (fjall), and wait where it
    /// cannot (sled).
    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Makes sure that nobody else has taken the store over: each commit does so itself, and a server that has nothing to
    /// commit asks.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    fn check_owner(&self) -> Result<(), StoreError>;
}

/// A store that failed. Retrying does not help: the disk, its room or its rights need a person.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine could not read or write.
    #[error(
        "the store cannot be read or written: {0}. Check the disk, its free space and the rights of the data folder"
    )]
    Engine(Box<dyn std::error::Error + Send + Sync>),
    /// A record that cannot be one: the data were changed by something else.
    #[error("the store holds a damaged {0} record; put the data folder back from a backup")]
    Damaged(&'static str),
    /// Another process has the data folder.
    #[error("another process uses the data folder {0}; stop it first, or choose another folder with --data")]
    Locked(String),
    /// Another process has taken the store over, though this one had it. Nothing that was acknowledged is lost, and the
    /// process has to end at once: nobody may be told anything by it any more.
    #[error("{0}; this process writes nothing more, and nothing that it acknowledged is lost")]
    Fenced(TakenOver),
}

/// One change to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Writes a device anew.
    PutDevice(Device),
    /// Writes a person anew.
    PutPerson(Person),
    /// Writes an API key anew.
    PutKey(ApiKey),
    /// Keeps a sign-in.
    PutSignIn(SignIn),
    /// Forgets a sign-in.
    DeleteSignIn([u8; 32]),
    /// Writes a stream and its members anew.
    PutStream(Stream),
    /// Writes a group anew.
    PutGroup(Group),
    /// Adds a version of a template.
    PutTemplate(Template),
    /// Keeps to whom a broadcast went.
    PutBroadcast(Broadcast),
    /// Adds an entry.
    AppendEntry(Entry),
    /// Marks an entry as urgent, to be found without reading those around it.
    MarkUrgent(StreamId, u64),
    /// An entry ends at a time, to be noticed without looking at it.
    MarkExpiry(Expiry),
    /// An entry has taken the place of another.
    MarkSuperseded {
        /// Of both.
        stream: StreamId,
        /// The one that counts no more.
        seq: Seq,
        /// The one that counts instead.
        by: Seq,
    },
    /// Remembers the content of an operation that was taken; voids have none.
    TakeOperation {
        /// The device.
        device: DeviceId,
        /// Its outbox.
        epoch: Epoch,
        /// The number.
        op: OpNumber,
        /// Its content.
        digest: ContentDigest,
    },
    /// Which operations of an outbox are taken.
    PutLedger {
        /// The device.
        device: DeviceId,
        /// Its outbox.
        epoch: Epoch,
        /// The numbers.
        taken: Cumulative,
    },
    /// What an installation holds of a stream.
    PutTransfer {
        /// The device.
        device: DeviceId,
        /// The installation.
        epoch: Epoch,
        /// The stream.
        stream: StreamId,
        /// The numbers of its entries.
        held: Cumulative,
    },
    /// How far a member has come in a stream.
    PutCursor {
        /// The stream.
        stream: StreamId,
        /// Who.
        member: Member,
        /// How far.
        cursor: MemberCursor,
    },
    /// Entries that reached a rung for the first time.
    AddReceipt {
        /// The stream.
        stream: StreamId,
        /// For whom.
        member: Member,
        /// Which rung.
        rung: Rung,
        /// The first entry.
        first_seq: u64,
        /// The last entry.
        last_seq: u64,
        /// When.
        moment: Moment,
    },
    /// Adds to the event log.
    AppendEvent(Event),
    /// Adds to the audit record, or counts on in a line of it.
    PutAudit(AuditEntry),
    /// Where a device is.
    PutLatest(DeviceId, Position),
    /// What is known of a device's clock.
    PutClock(DeviceId, ClockEstimate),
    /// Where a device was.
    AddPosition(DeviceId, Position),
    /// Positions arrived, to be looked at when their time is over.
    MarkPositions(PositionMark),
    /// Something goes whose time is over.
    Trim(Trim),
    /// What an idempotency key made.
    PutPosted {
        /// Whose key.
        caller: Caller,
        /// The key.
        key: String,
        /// What it made.
        posted: Posted,
    },
    /// Forgets the oldest idempotency keys.
    ExpirePosted {
        /// Only those that made something before this moment, server clock, UTC milliseconds.
        before_ms: i64,
        /// At most so many.
        at_most: u32,
    },
}

/// How far one member has come in one stream. Never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberCursor {
    /// The last entry that was handed to a connected link.
    pub sent: u64,
    /// What is on the member's device.
    pub delivered: Cumulative,
    /// The last entry that was read.
    pub read: u64,
    /// The last entry that was answered; others before it may have been, too.
    pub answered: u64,
    /// Entries in `delivered`, or soon, that the member was told to be gone instead of receiving them.
    pub passed_over: Cumulative,
}

/// What the core keeps in memory.
///
/// Memory: about 600 bytes a device with its stream, cursors and clock, 200 bytes a person or a key, 60 bytes a sign-in, 150
/// bytes a member of a group or recipient of a broadcast, and each version of a template with its texts.
#[derive(Debug, Clone)]
pub struct State {
    /// Names the store.
    pub incarnation: Incarnation,
    /// Counts its starts; this one included.
    pub generation: Generation,
    /// All devices, revoked ones too.
    pub devices: BTreeMap<DeviceId, Device>,
    /// All streams with the number of their last entry.
    pub streams: BTreeMap<StreamId, (Stream, u64)>,
    /// When the last entry of each stream was accepted, for those that have one. Server clock, UTC milliseconds.
    pub last_entry_ms: BTreeMap<StreamId, i64>,
    /// The urgent entries that are marked, of each stream that has some.
    pub urgent: BTreeMap<StreamId, BTreeSet<u64>>,
    /// Entries whose end is ahead, or was when the server stopped.
    pub expiries: BTreeSet<Expiry>,
    /// All people.
    pub people: BTreeMap<PersonId, Person>,
    /// All API keys, revoked ones too.
    pub keys: BTreeMap<PersonId, ApiKey>,
    /// All sign-ins, expired ones too.
    pub sign_ins: BTreeMap<[u8; 32], SignIn>,
    /// Which operations of each outbox are taken.
    pub ledgers: BTreeMap<(DeviceId, Epoch), Cumulative>,
    /// What each installation holds.
    pub transfers: BTreeMap<(DeviceId, Epoch), BTreeMap<StreamId, Cumulative>>,
    /// How far each member has come.
    pub cursors: BTreeMap<(StreamId, Member), MemberCursor>,
    /// Where each device is.
    pub latest: BTreeMap<DeviceId, Position>,
    /// The newest event that ever was; 0 for none.
    pub last_event: EventCursor,
    /// The last line of the audit record that ever was; 0 for none.
    pub last_audit: u64,
    /// The first entry that is kept, for each stream of which some were trimmed.
    pub first_seqs: BTreeMap<StreamId, u64>,
    /// The first event that is kept; 1 where none was trimmed.
    pub first_event: EventCursor,
    /// The first line of the audit record that is kept; 1 where none was trimmed.
    pub first_audit: u64,
    /// There is no mark of positions from before this day.
    pub first_position_day: u32,
    /// All groups, deleted ones too.
    pub groups: BTreeMap<GroupId, Group>,
    /// All templates with all their versions, oldest first, by number.
    pub templates: BTreeMap<u32, Vec<Template>>,
    /// To whom each broadcast went.
    pub broadcasts: BTreeMap<StreamId, Broadcast>,
    /// Where this store parted from those that it was put back from, by their names.
    pub restores: BTreeMap<Incarnation, Restore>,
    /// What is known of the clock of each device that was ever heard.
    pub clocks: BTreeMap<DeviceId, ClockEstimate>,
}
