//! A server whose store was put back from a backup: what of it is the same, what is offered again.
//!
//! The device keeps what the server has accepted for [`KEPT_FOR_MS`], at most [`KEPT_OPS_MAX`] operations: an index entry of
//! about 120 bytes in memory for each, the content in the store.

use super::outbox::Item;
use super::write::{Batch, Fork};
use super::{Core, Effect, Event, Mutation, Now, PostId, Progress, Server, StoredOperation};
use std::collections::BTreeMap;
use waypost_proto::wire::{self, StreamKind, VoidReason};
use waypost_proto::{Cumulative, OpNumber, StreamId};

/// How long an operation is kept after it was accepted, by the device's clock: as old may a backup be that is put back.
const KEPT_FOR_MS: i64 = 7 * 86_400_000;
/// Operations that are kept at most; beyond it the oldest is forgotten, and would be lost with the server's store.
const KEPT_OPS_MAX: usize = 20_000;

/// Operations that the server has accepted, by their numbers in the present epoch.
#[derive(Debug, Default)]
pub(super) struct Kept(BTreeMap<OpNumber, KeptOperation>);

#[derive(Debug)]
struct KeptOperation {
    id: PostId,
    item: Item,
    accepted_ms: i64,
}

impl Kept {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The oldest one that is not to be kept any longer.
    fn overdue(&self, now: Now) -> Option<OpNumber> {
        let (&op, oldest) = self.0.first_key_value()?;
        let is_old = now.wall_ms.saturating_sub(oldest.accepted_ms) > KEPT_FOR_MS;
        (is_old || self.0.len() > KEPT_OPS_MAX).then_some(op)
    }
}

impl Core {
    /// Takes a kept operation from the store, before anything else happens.
    pub(crate) fn restore_kept(&mut self, stored: &StoredOperation, accepted_ms: i64) {
        let kept = KeptOperation {
            id: stored.id,
            item: Item::kept(stored),
            accepted_ms,
        };
        self.kept.0.insert(stored.op, kept);
    }

    /// The server has accepted an operation, which is in the outbox still.
    pub(super) fn keep(&mut self, id: PostId, batch: &mut Batch, now: Now) {
        let Some(item) = self.outbox.item(id).cloned() else {
            return;
        };
        let (op, accepted_ms) = (item.op, now.wall_ms);
        batch.mutations.push(Mutation::Keep { id, accepted_ms });
        let kept = KeptOperation {
            id,
            item,
            accepted_ms,
        };
        self.kept.0.insert(op, kept);
        while let Some(op) = self.kept.overdue(now) {
            self.counters.kept_forgotten += u64::from(self.kept.0.len() > KEPT_OPS_MAX);
            self.kept.0.remove(&op);
            batch.mutations.push(Mutation::DropKept(op));
        }
    }

    /// The store behind the server is another one: of this device's operations it has only those in `theirs`, and of its
    /// entries those up to where it was put back, if it was. What is still here is offered again; what is not can never come.
    pub(super) fn meet_another_store(
        &mut self,
        server: Server,
        theirs: &Cumulative,
        restored: Option<&wire::Restored>,
        batch: &mut Batch,
        now: Now,
    ) {
        self.events.push_back(Event::AnotherStore);
        let waiting: BTreeMap<OpNumber, PostId> = self.outbox.all_accepted().collect();
        let mut void: Option<(OpNumber, u32)> = None;
        let mut next = theirs.first_missing_after(0);
        while next <= self.accepted.highest() {
            let op = OpNumber::new(next).expect("numbers above 0 are operation numbers");
            let kept = self.kept.0.remove(&op);
            let offered = self.offer_operation(op, waiting.get(&op).copied(), kept, batch);
            let gone = !offered && self.accepted.contains(next);
            let following = theirs.first_missing_after(next);
            void = match (void, gone) {
                (Some((first, count)), true) => Some((first, count.saturating_add(1))),
                (None, true) => Some((op, 1)),
                (run, false) => {
                    self.void_run(run, batch);
                    None
                }
            };
            if following != next + 1 {
                self.void_run(void.take(), batch);
            }
            next = following;
        }
        self.void_run(void, batch);
        self.accepted = Cumulative::default();
        self.end_pages();
        match restored {
            Some(restored) => self.fork_inbox(server, restored, batch, now),
            None => self.inbox.clear(),
        }
        let inbox = &self.inbox;
        self.standings.retain(|stream, seq| inbox.has(stream, seq));
        // Also what came with the hello: the server has not looked at it.
        self.outbox.repeat_all();
        self.inbox.repeat_all();
    }

    /// Whether the operation is here to be offered: it waits for its entry, or is kept.
    fn offer_operation(
        &mut self,
        op: OpNumber,
        waiting: Option<PostId>,
        kept: Option<KeptOperation>,
        batch: &mut Batch,
    ) -> bool {
        if self.outbox.waiting(op).is_some() {
            return true;
        }
        if let Some(id) = waiting {
            self.outbox.offer_again(id);
            batch.mutations.push(Mutation::DropKept(op));
            batch.mutations.push(Mutation::Progress {
                id,
                progress: Progress::Waiting,
            });
            return true;
        }
        let Some(KeptOperation { id, item, .. }) = kept else {
            return false;
        };
        self.outbox.take_back(id, item);
        batch.mutations.push(Mutation::OfferAgain(op));
        batch.effects.push(Effect::OperationStored(id));
        true
    }

    fn void_run(&mut self, run: Option<(OpNumber, u32)>, batch: &mut Batch) {
        if let Some((first, count)) = run {
            self.put_void(first, count, VoidReason::Unspecified, batch);
        }
    }

    /// What is held up to the fork is the same; what stands above it is not in the other store, and goes.
    fn fork_inbox(&mut self, server: Server, restored: &wire::Restored, batch: &mut Batch, now: Now) {
        let fork = Fork::of(restored);
        let through = |stream, kind| fork.through(stream, kind);
        let cut = self.inbox.fork(through);
        self.writes.fork(&cut);
        // Their answers may name entries that go.
        self.outbox.forget_contents();
        let shelf = server.shelf;
        batch.mutations.push(Mutation::Fork {
            shelf,
            through: cut.clone(),
        });
        for stream in cut.into_keys() {
            if self.inbox.holds(stream) {
                let cursor = self.inbox.cursor(stream, now);
                batch.mutations.push(Mutation::PutCursor {
                    incarnation: shelf,
                    stream,
                    cursor,
                });
            }
        }
    }
}

impl Fork {
    fn of(restored: &wire::Restored) -> Self {
        let head = |head: &wire::StreamHead| Some((StreamId::new(head.stream)?, head.seq));
        Self {
            last_stream: restored.last_stream,
            heads: restored.heads.iter().filter_map(head).collect(),
        }
    }

    /// The last entry of a stream that both stores have.
    fn through(&self, stream: StreamId, kind: StreamKind) -> u64 {
        match (self.heads.get(&stream), kind) {
            _ if stream.number() > self.last_stream => 0,
            (Some(&head), _) => head,
            // Its one entry was there when the stream was.
            (None, StreamKind::Broadcast) => u64::MAX,
            (None, StreamKind::Conversation) => 0,
        }
    }
}
