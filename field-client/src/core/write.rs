//! Store writes as values: what is to be written, and what it makes true once it is on disk.

use super::clock::Moment;
use super::server_clock::ServerClock;
use crate::catalogue::Catalogue;
use crate::core::keep_alive::StoredPath;
use crate::{Entry, Group};
use std::collections::{BTreeMap, VecDeque};
use waypost_proto::wire::{self, RefusalReason, StreamKind, VoidReason};
use waypost_proto::{
    Cumulative, DeviceId, Epoch, Generation, Incarnation, OpNumber, PersonId, Seq, SessionTag, StreamId,
};

/// Names an operation in the outbox of one device: never used twice, and kept when operations are numbered anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostId(pub(crate) u64);

impl PostId {
    /// The name as a number, to be handed to another process.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The name that [`number`](Self::number) gave.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Names a write; writes complete in the order of their tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// One write: all of it reaches the disk or none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) ticket: Ticket,
    pub(crate) mutations: Vec<Mutation>,
}

/// The server as this device last met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) incarnation: Incarnation,
    /// The first of the stores that were put back one from the other: what is held of all of them is kept under its name.
    pub(crate) shelf: Incarnation,
    pub(crate) generation: Generation,
    pub(crate) office_stream: Option<StreamId>,
}

/// An operation as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredOperation {
    pub(crate) id: PostId,
    pub(crate) op: OpNumber,
    pub(crate) home: Home,
    pub(crate) done: Moment,
    pub(crate) content: wire::Operation,
}

/// Whether the stream of an operation is settled. What was once sent never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// It stands in the content.
    Settled,
    /// It is the office stream, whose number the device has not yet been told.
    Office,
}

/// How far a stored operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The server has not accepted it.
    Waiting,
    /// The server has it; the content is kept until its entry comes.
    Accepted,
    /// The server will not have it.
    Parked(RefusalReason),
}

/// What the device holds of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredCursor {
    pub(crate) held: Cumulative,
    pub(crate) delivered: Moment,
    pub(crate) read: u64,
    pub(crate) read_at: Moment,
    /// What was read before that and the server does not know, ascending.
    pub(crate) read_steps: Vec<ReadStep>,
    /// What the server is known to have on its disk; may lag behind, which costs one more report.
    pub(crate) confirmed: Cumulative,
    pub(crate) confirmed_read: u64,
    /// What the stream is for.
    pub(crate) kind: StreamKind,
    /// The highest seq of an entry that is held: what a reply answers that does not say; 0 while there is none.
    pub(crate) newest: u64,
    /// Up to this number entries may be on the server alone, to be had by the page; 0 where all are here.
    pub(crate) horizon: u64,
}

/// How far a stream was read at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadStep {
    pub(crate) read: u64,
    pub(crate) at: Moment,
}

/// Whose name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    Person(PersonId),
    Device(DeviceId),
}

/// A template catalogue, and what it is one of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoredCatalogue {
    /// The store whose catalogue it is; `None` while there is none.
    pub(crate) incarnation: Option<Incarnation>,
    /// The language that the device was set to when it took it.
    pub(crate) locale: String,
    pub(crate) catalogue: Catalogue,
}

/// Where a restored store parted from the one that the device knew.
#[derive(Debug)]
pub(super) struct Fork {
    pub(super) last_stream: u32,
    pub(super) heads: BTreeMap<StreamId, u64>,
}

/// Numbers that will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredVoid {
    pub(crate) first: OpNumber,
    pub(crate) count: u32,
    pub(crate) reason: VoidReason,
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mutation {
    /// The tag of the hello that follows.
    Tag(SessionTag),
    /// The server, as its welcome says. Where the incarnation is another, nothing of the old one is to be shown any more.
    Server(Server),
    /// A new operation.
    PutOperation(StoredOperation),
    /// An operation that was never sent says something else: a track that was thinned.
    Refill { id: PostId, content: wire::Operation },
    /// The office stream is known now.
    Settle { id: PostId, stream: StreamId },
    /// How far operations have come.
    Progress { id: PostId, progress: Progress },
    /// The operation is not needed any more.
    Forget(PostId),
    /// The server has the operation, which is in the outbox: it is kept for the case that the server loses it.
    Keep { id: PostId, accepted_ms: i64 },
    /// A kept operation is in the outbox again, and waits.
    OfferAgain(OpNumber),
    /// A kept operation is not needed any more.
    DropKept(OpNumber),
    /// The server's store was put back: of each stream that is held, what stands above a number goes. Entries that were shown
    /// and come again are not to be shown again; answers to what goes are no answers any more.
    Fork {
        shelf: Incarnation,
        through: BTreeMap<StreamId, u64>,
    },
    /// Which numbers of the epoch are on the server's disk.
    Accepted(Cumulative),
    /// Numbers that will never come.
    PutVoid(StoredVoid),
    /// The server knows that they will not.
    ClearVoid(OpNumber),
    /// A new epoch: its operations under new numbers, voids and acceptance of the old one gone.
    Epoch {
        epoch: Epoch,
        numbers: Vec<(PostId, OpNumber)>,
        next_op: OpNumber,
    },
    /// An entry of somebody.
    PutEntry { incarnation: Incarnation, entry: Entry },
    /// An entry of a page. One that is here already stays as it is; nothing of a page is new to the screen.
    PutEarlier { incarnation: Incarnation, entry: Entry },
    /// An entry that is the device's own operation: its content is in the outbox under `id`, or, where it came
    /// before, in the inbox.
    PutOwn {
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
        epoch: Epoch,
        op: OpNumber,
        id: Option<PostId>,
        /// When it was done, UTC milliseconds by the server's clock as the device estimates it.
        done_server_ms: Option<i64>,
    },
    /// What is held and read of a stream.
    PutCursor {
        incarnation: Incarnation,
        stream: StreamId,
        cursor: StoredCursor,
    },
    /// The consumer has confirmed that the entry was shown.
    Shown {
        incarnation: Incarnation,
        stream: StreamId,
        seq: Seq,
    },
    /// The name of an author.
    PutName { of: Named, name: String },
    /// The groups that the device is in, whole.
    PutGroups(Vec<Group>),
    /// The templates, whole.
    PutCatalogue(StoredCatalogue),
    /// What is known of the server's clock, whole.
    PutServerClock(ServerClock),
    /// What was learnt of networks, whole.
    PutPaths(Vec<StoredPath>),
    /// Positions that are in no operation yet; `None` where all are.
    InHand(Option<wire::Operation>),
}

/// What becomes true when a write is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The tag may be used.
    TagStored(SessionTag),
    /// The operation may be sent.
    OperationStored(PostId),
    /// The operation has its stream and may be sent.
    Settled { id: PostId, stream: StreamId },
    /// The acceptance may be shown.
    Accepted { id: PostId, makes: Makes },
    /// The place of the operation's entry may be shown.
    Placed { id: PostId, stream: StreamId, seq: Seq },
    /// The refusal may be shown, and the number sent as void.
    Parked { id: PostId, reason: RefusalReason },
    /// The numbers may be sent as void.
    VoidStored(StoredVoid),
    /// A step of thinning is done: so many operations went, with so many fixes; history may be wrong by so much.
    Thinned { ops: usize, fixes: usize, error_m: u32 },
    /// Entries may be reported and shown; `held` is what the stream now holds.
    Held {
        incarnation: Incarnation,
        stream: StreamId,
        held: Cumulative,
        shown: Vec<ToShow>,
        /// Entries whose places they take.
        superseded: Vec<Seq>,
    },
    /// The reading may be reported.
    Read {
        incarnation: Incarnation,
        stream: StreamId,
        read: u64,
    },
    /// A page of the stream may be shown, and the next one asked for.
    PageStored(StreamId),
    /// Their topics may be subscribed, and then reported.
    GroupsStored(Vec<Group>),
    /// It may be reported and used.
    CatalogueStored(StoredCatalogue),
}

/// What the server makes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makes {
    /// An entry, which comes back as the device's own and tells its place.
    Entry,
    /// Nothing that comes back.
    Nothing,
}

/// A stored entry that is not yet shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToShow {
    pub(crate) seq: Seq,
    pub(crate) urgent: bool,
}

/// The writes on their way, in order.
///
/// Bound: each input adds at most one write, and the rim takes no more inputs while too many wait.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    last: u64,
    queue: VecDeque<Write>,
    pending: VecDeque<(Ticket, Vec<Effect>)>,
}

/// Mutations and effects of one write while it is put together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) effects: Vec<Effect>,
}

impl Writes {
    /// Hands a batch over to be written; `None` where there is nothing to write.
    pub(crate) fn push(&mut self, batch: Batch) -> Option<Ticket> {
        if batch.mutations.is_empty() {
            return None;
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        self.queue.push_back(Write {
            ticket,
            mutations: batch.mutations,
        });
        self.pending.push_back((ticket, batch.effects));
        Some(ticket)
    }

    /// What is on its way to the disk about entries counts up to these numbers.
    pub(crate) fn fork(&mut self, through: &BTreeMap<StreamId, u64>) {
        let last = |stream: &StreamId| through.get(stream).copied().unwrap_or(0);
        for effect in self.pending.iter_mut().flat_map(|(_, effects)| effects) {
            match effect {
                Effect::Held {
                    stream, held, shown, ..
                } => {
                    held.truncate(last(stream));
                    shown.retain(|entry| entry.seq.number() <= last(stream));
                }
                Effect::Read { stream, read, .. } => *read = (*read).min(last(stream)),
                _ => {}
            }
        }
    }

    /// The next write for the store.
    pub(crate) fn poll(&mut self) -> Option<Write> {
        self.queue.pop_front()
    }

    /// The next completed write up to `ticket`.
    pub(crate) fn complete(&mut self, ticket: Ticket) -> Option<(Ticket, Vec<Effect>)> {
        if self.pending.front()?.0 > ticket {
            return None;
        }
        self.pending.pop_front()
    }

    /// The last write that is not yet on disk; `None` where everything is.
    pub(crate) fn last_pending(&self) -> Option<Ticket> {
        self.pending.back().map(|&(ticket, _)| ticket)
    }

    /// How many writes are not yet on disk.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }
}
