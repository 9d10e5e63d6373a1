//! The sync core: the device's side of the protocol, without IO.
//!
//! It never reads a clock, awaits, touches a file or a socket, or draws randomness: all of that is given in.
//!
//! **What to do after each call that takes `&mut self`**, in this order:
//!
//! 1. [`poll_write`](Core::poll_write) until it is empty; give the writes to the store in their order, and each
//!    completion to [`handle_stored`](Core::handle_stored). Several may be one transaction.
//! 2. [`poll_load`](Core::poll_load): answer with [`handle_loaded`](Core::handle_loaded).
//! 3. [`poll_event`](Core::poll_event) until it is empty.
//! 4. While the link has room, [`poll_topics`](Core::poll_topics) and then [`poll_frame`](Core::poll_frame), which
//!    leave in this order. A frame is put together when it is asked for: what was replaced before (a live position)
//!    never leaves. It may find that contents are missing: then 2 again.
//! 5. While the screen has room, [`poll_changed`](Core::poll_changed), then [`poll_show`](Core::poll_show); what the store
//!    holds of either goes through [`offer`](Core::offer).
//! 6. Sleep until an input, or until [`poll_timeout`](Core::poll_timeout), then
//!    [`handle_timeout`](Core::handle_timeout).
//!
//! **The one rule: durable before visible.** What a write holds is acted upon in [`Core::complete`] and nowhere
//! else. Repetition is the core's; connecting again is the rim's, with [`backoff`].

pub(crate) mod backoff;
mod bounds;
mod clock;
mod compose;
mod inbox;
pub(crate) mod keep_alive;
mod known;
mod outbox;
mod pages;
mod policy;
mod positions;
mod receive;
mod repetition;
mod restored;
mod sender;
mod server_clock;
mod session;
mod standing;
mod thinning;
mod voids;
mod write;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod scripted_server;
#[cfg(test)]
mod tests;

pub use policy::{History, Policy};
pub use write::PostId;

pub(crate) use bounds::{Fill, NotTaken};
pub(crate) use clock::{Boot, Moment, Now, Reading, Steady};
pub(crate) use compose::{Outgoing, Qos};
pub(crate) use known::{Grant, Topics};
pub(crate) use pages::{Ask, Paged};
pub(crate) use sender::{Hearing, Sender};
pub(crate) use server_clock::{Contact, ServerClock};
pub(crate) use thinning::{Thinned, thin};
pub(crate) use write::{
    Effect, Home, Makes, Mutation, Named, Progress, ReadStep, Server, StoredCatalogue, StoredCursor,
    StoredOperation, StoredVoid, Ticket, ToShow, Write,
};

use crate::Group;
use crate::fault::{self, Fault};
use crate::status::{Counters, Parked};
use bounds::Thinning;
use compose::FRAME_BYTES_TARGET;
use inbox::Inbox;
use known::Known;
use outbox::{Outbox, State};
use pages::Pages;
use positions::InHand;
use repetition::Repetition;
use restored::Kept;
use session::{Session, SessionState};
use standing::Standings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use voids::Void;
use waypost_proto::wire::{self, RefusalReason, VoidReason};
use waypost_proto::{
    Cumulative, DeviceId, Epoch, Fix, OpNumber, Operation, Seq, SessionTag, StreamId, TrackKind, Window,
};
use write::{Batch, Writes};

/// Parked operations that are kept for the person to see; beyond it the oldest is forgotten.
const PARKED_MAX: usize = 1_000;
/// Accepted operations whose content is kept for an entry that has not come; beyond it the oldest is forgotten, and
/// its entry would say that it cannot be shown.
const ACCEPTED_MAX: usize = 10_000;
/// Names of persons and devices; a further one is not kept.
const NAMES_MAX: usize = 10_000;

/// What the core is set to.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) device: DeviceId,
    pub(crate) outbox_ops_max: usize,
    pub(crate) outbox_bytes_max: u64,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) locale: String,
    pub(crate) app: String,
    pub(crate) policy: Policy,
}

/// What the store held when the process began.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) epoch: Epoch,
    pub(crate) next_op: OpNumber,
    pub(crate) next_post: PostId,
    pub(crate) last_tag: Option<SessionTag>,
    pub(crate) server: Option<Server>,
    pub(crate) accepted: Cumulative,
    pub(crate) voids: Vec<StoredVoid>,
    pub(crate) cursors: Vec<(StreamId, StoredCursor)>,
    pub(crate) unshown: BTreeMap<StreamId, Vec<ToShow>>,
    pub(crate) named: BTreeSet<Named>,
    pub(crate) groups: Vec<Group>,
    pub(crate) catalogue: StoredCatalogue,
    pub(crate) server_clock: ServerClock,
    pub(crate) in_hand: Option<wire::Operation>,
}

/// An operation without its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    content: wire::Operation,
    home: Home,
}

impl Draft {
    /// For the stream that stands in the content, or for none.
    pub(crate) fn settled(content: wire::Operation) -> Self {
        Self {
            content,
            home: Home::Settled,
        }
    }

    /// For the office stream, whatever its number will be.
    pub(crate) fn to_office(content: wire::Operation) -> Self {
        let content = wire::Operation { stream: 0, ..content };
        Self {
            content,
            home: Home::Office,
        }
    }

    /// Positions for the history.
    pub(crate) fn track(fixes: Vec<Fix>, kind: TrackKind) -> Self {
        Self::settled(Operation::track(fixes, kind).to_wire())
    }
}

/// Something that the app should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The write and all before it are on disk.
    Durable(Ticket),
    /// The server has the operation, and the device knows that durably.
    Accepted { id: PostId, makes: Makes },
    /// Where the entry of the operation stands.
    Placed { id: PostId, stream: StreamId, seq: Seq },
    /// The server will never have the operation.
    Refused { id: PostId, reason: RefusalReason },
    /// The server has answered the hello.
    InStep,
    /// The store behind the server is another one: what was shown and not confirmed is for the next screen.
    AnotherStore,
    /// What became of the page that [`Core::ask_earlier`] asked for.
    Paged { stream: StreamId, paged: Paged },
    /// The epoch that was in reserve is used: [`Core::provide_epoch`] wants another.
    EpochUsed,
}

/// The device's side of the protocol.
#[derive(Debug)]
pub(crate) struct Core {
    config: Config,
    epoch: Epoch,
    spare_epoch: Option<Epoch>,
    next_op: u64,
    next_post: u64,
    server: Option<Server>,
    /// Numbers of the epoch that the server has on its disk.
    accepted: Cumulative,
    outbox: Outbox,
    inbox: Inbox,
    standings: Standings,
    kept: Kept,
    thinning: Thinning,
    voids: BTreeMap<OpNumber, Void>,
    session: Session,
    repetition: Repetition,
    /// Of what is under way to the server, for each lane with those above it.
    window: Window,
    live: Option<Fix>,
    sender: Sender,
    in_hand: InHand,
    named: BTreeSet<Named>,
    known: Known,
    server_clock: ServerClock,
    pages: Pages,
    writes: Writes,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Core {
    /// A core with what the store held, without its operations: they follow with [`restore`](Self::restore), one by
    /// one, so that their contents need not be in memory together. `spare_epoch` is random, for the case that this
    /// outbox turns out to be a copy.
    pub(crate) fn new(config: Config, loaded: Loaded, spare_epoch: Epoch) -> Self {
        let mut inbox = Inbox::default();
        let config_policy = config.policy;
        let window = Window::new(FRAME_BYTES_TARGET, config.inflight_bytes_max);
        for (stream, cursor) in loaded.cursors {
            inbox.restore(stream, cursor);
        }
        for (stream, entries) in loaded.unshown {
            inbox.restore_unshown(stream, &entries);
        }
        Self {
            config,
            epoch: loaded.epoch,
            spare_epoch: Some(spare_epoch),
            next_op: loaded.next_op.number(),
            next_post: loaded.next_post.number(),
            server: loaded.server,
            accepted: loaded.accepted,
            outbox: Outbox::default(),
            inbox,
            standings: Standings::default(),
            kept: Kept::default(),
            thinning: Thinning::default(),
            voids: (loaded.voids.iter())
                .map(|void| (void.first, Void::restored(void)))
                .collect(),
            session: Session::new(loaded.last_tag),
            repetition: Repetition::new(),
            window,
            live: None,
            sender: Sender::new(config_policy),
            in_hand: InHand::restored(loaded.in_hand),
            named: loaded.named,
            known: Known::new(loaded.groups, loaded.catalogue),
            server_clock: loaded.server_clock,
            pages: Pages::default(),
            writes: Writes::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes an operation from the store, in the order of their names, before anything else happens.
    pub(crate) fn restore(&mut self, stored: &StoredOperation, progress: Progress) {
        self.outbox.restore(stored, progress);
    }

    /// Takes an operation. It is stored when the returned ticket is durable. What is for a broadcast becomes an answer
    /// in the office stream: to the entry that it names, or else to the newest one that is held.
    ///
    /// # Errors
    /// [`NotTaken`] at `outbox_ops_max` or `outbox_bytes_max`, and for positions a little earlier; nothing was taken then.
    pub(crate) fn post(&mut self, draft: Draft, now: Now) -> Result<(PostId, OpNumber, Ticket), NotTaken> {
        let draft = self.homeward(draft);
        self.make_room(&draft, now)?;
        let Draft {
            mut content,
            mut home,
        } = draft;
        if home == Home::Office
            && let Some(office) = self.office_stream()
        {
            content.stream = office.number();
            home = Home::Settled;
        }
        let id = PostId(self.next_post);
        let op = OpNumber::new(self.next_op).expect("operations are numbered from 1");
        self.next_post += 1;
        self.next_op += 1;
        let stored = StoredOperation {
            id,
            op,
            home,
            done: now.into(),
            content,
        };
        self.outbox.add(&stored);
        let mut batch = Batch::default();
        if outbox::is_batch(&stored.content) {
            // What was in hand is in it.
            batch.mutations.push(Mutation::InHand(None));
        }
        batch.mutations.push(Mutation::PutOperation(stored));
        batch.effects.push(Effect::OperationStored(id));
        let ticket = self.write(batch, now).expect("the batch has a mutation");
        self.thin_if_due(now);
        Ok((id, op, ticket))
    }

    fn homeward(&self, draft: Draft) -> Draft {
        let broadcast = StreamId::new(draft.content.stream)
            .and_then(|stream| Some((stream, self.inbox.newest_of_broadcast(stream)?)));
        let Some((stream, newest)) = broadcast else {
            return draft;
        };
        let reply_to = match draft.content.reply_to {
            0 => newest.number(),
            named => named,
        };
        Draft::to_office(wire::Operation {
            reply_to,
            reply_stream: stream.number(),
            ..draft.content
        })
    }

    /// Says where the device is; replaces what has not left yet.
    pub(crate) fn live(&mut self, fix: Fix) {
        self.live = Some(fix);
    }

    /// The consumer has shown an entry. `None` where there is nothing to wait for.
    pub(crate) fn mark_shown(&mut self, stream: StreamId, seq: Seq, now: Now) -> Option<Ticket> {
        let mut batch = Batch::default();
        if let Some(server) = self.server
            && self.inbox.shown(stream, seq)
        {
            batch.mutations.push(Mutation::Shown {
                incarnation: server.shelf,
                stream,
                seq,
            });
        }
        self.write(batch, now).or_else(|| self.writes.last_pending())
    }

    /// The driver has read up to `seq`. `None` where there is nothing to wait for.
    pub(crate) fn mark_read(&mut self, stream: StreamId, seq: Seq, now: Now) -> Option<Ticket> {
        let mut batch = Batch::default();
        if let Some(Server {
            shelf: incarnation, ..
        }) = self.server
        {
            let (moves, shown) = self.inbox.read(stream, seq);
            let shown = shown.into_iter().map(|seq| Mutation::Shown {
                incarnation,
                stream,
                seq,
            });
            batch.mutations.extend(shown);
            if moves {
                let cursor = self.inbox.cursor(stream, now);
                batch.effects.push(Effect::Read {
                    incarnation,
                    stream,
                    read: cursor.read,
                });
                batch.mutations.push(Mutation::PutCursor {
                    incarnation,
                    stream,
                    cursor,
                });
            }
        }
        self.write(batch, now).or_else(|| self.writes.last_pending())
    }

    /// Another random epoch in reserve, after [`Event::EpochUsed`].
    pub(crate) fn provide_epoch(&mut self, epoch: Epoch) {
        self.spare_epoch = Some(epoch);
    }

    /// Everything up to `ticket` is on disk.
    pub(crate) fn handle_stored(&mut self, ticket: Ticket, now: Now) {
        while let Some((completed, effects)) = self.writes.complete(ticket) {
            self.complete(completed, effects, now);
        }
    }

    /// Contents that [`poll_load`](Self::poll_load) asked for; `None` where the store has lost one, which is then
    /// given up with a reason to show.
    pub(crate) fn handle_loaded(&mut self, id: PostId, content: Option<wire::Operation>, now: Now) {
        self.thinning_loaded(id, content.as_ref(), now);
        match content {
            Some(content) => {
                self.outbox.loaded(id, content);
            }
            None if self.outbox.item(id).is_some() => {
                let mut batch = Batch::default();
                self.park(id, RefusalReason::Unreadable, &mut batch);
                self.write(batch, now);
            }
            None => {}
        }
    }

    /// The next write for the store.
    pub(crate) fn poll_write(&mut self) -> Option<Write> {
        self.writes.poll()
    }

    /// Operations whose contents the store is asked for.
    pub(crate) fn poll_load(&mut self) -> Option<Vec<PostId>> {
        self.outbox.poll_wanted().or_else(|| self.poll_thinning_wanted())
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next entry for the screen; its content is in the store.
    pub(crate) fn poll_show(&mut self) -> Option<(StreamId, Seq)> {
        self.inbox.poll_show()
    }

    /// How many writes are not yet on disk; the rim takes no input above its bound.
    pub(crate) fn writes_pending(&self) -> usize {
        self.writes.pending()
    }

    /// The last write that is not yet on disk; `None` where everything is.
    pub(crate) fn last_pending(&self) -> Option<Ticket> {
        self.writes.last_pending()
    }

    /// There is another screen: everything that was not confirmed is for it.
    pub(crate) fn offer_again(&mut self) {
        self.inbox.offer_again();
    }

    /// Whether [`poll_show`](Self::poll_show) may have an entry.
    pub(crate) fn has_to_show(&self) -> bool {
        self.inbox.has_to_show()
    }

    /// How far an operation has come; `None` for one that is not in the outbox any more.
    pub(crate) fn progress(&self, id: PostId) -> Option<Progress> {
        Some(match self.outbox.item(id)?.state {
            State::Held | State::Ready | State::Sent { .. } => Progress::Waiting,
            State::Accepted => Progress::Accepted,
            State::Parked(reason) => Progress::Parked(reason),
        })
    }

    /// The stream that an operation in the outbox goes to; `None` while that is not known, and for positions.
    pub(crate) fn destination(&self, id: PostId) -> Option<StreamId> {
        self.outbox.item(id)?.stream
    }

    /// The name that the next operation will get: all below have been given.
    pub(crate) fn next_post(&self) -> PostId {
        PostId(self.next_post)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn server(&self) -> Option<Server> {
        self.server
    }

    /// The server's clock now, UTC milliseconds, as the device estimates it; `None` before the first welcome ever.
    pub(crate) fn server_ms(&self, now: Now) -> Option<i64> {
        self.server_clock.at(now.reading(), now.wall_ms)
    }

    pub(crate) fn office_stream(&self) -> Option<StreamId> {
        self.server.and_then(|server| server.office_stream)
    }

    pub(crate) fn waiting_ops(&self) -> usize {
        self.outbox.waiting_ops()
    }

    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.outbox.waiting_bytes()
    }

    pub(crate) fn unshown(&self) -> usize {
        self.inbox.unshown()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn parked(&self) -> Vec<Parked> {
        let reason = |state| match state {
            State::Parked(reason) => reason,
            _ => RefusalReason::Unspecified,
        };
        let row = |(_, item): (PostId, &outbox::Item)| Parked {
            op: item.op,
            stream: item.stream,
            reason: crate::Refused(reason(item.state)),
        };
        self.outbox.parked().map(row).collect()
    }

    /// Hands a batch over to the store. Whoever calls it changes only what is not visible outside; the rest is an
    /// effect of the batch.
    fn write(&mut self, batch: Batch, now: Now) -> Option<Ticket> {
        let ticket = self.writes.push(batch);
        if let Some(ticket) = ticket
            && fault::injected(Fault::Sync)
        {
            self.handle_stored(ticket, now);
        }
        ticket
    }

    /// **Durable before visible** is kept here: only what is done here makes anything sendable, reportable or
    /// showable that a write holds, and it is done when the store has said that the write is on disk.
    fn complete(&mut self, ticket: Ticket, effects: Vec<Effect>, now: Now) {
        let incarnation = self.server.map(|server| server.shelf);
        for effect in effects {
            match effect {
                Effect::TagStored(tag) => self.session.tag_stored(tag),
                Effect::OperationStored(id) => self.outbox.stored(id),
                Effect::Settled { id, stream } => self.outbox.settle(id, stream),
                Effect::Accepted { id, makes } => {
                    self.counters.ops_accepted += 1;
                    self.events.push_back(Event::Accepted { id, makes });
                }
                Effect::Placed { id, stream, seq } => {
                    self.events.push_back(Event::Placed { id, stream, seq });
                }
                Effect::Parked { id, reason } => {
                    match reason {
                        RefusalReason::Expired => self.counters.ops_expired += 1,
                        _ => self.counters.ops_refused += 1,
                    }
                    self.events.push_back(Event::Refused { id, reason });
                }
                Effect::VoidStored(void) => self.void_stored(void),
                Effect::Thinned { ops, fixes, error_m } => self.thinned(ops, fixes, error_m, now),
                Effect::Held {
                    incarnation: of,
                    stream,
                    held,
                    shown,
                    superseded,
                } if Some(of) == incarnation => {
                    self.counters.entries_stored += shown.len() as u64;
                    self.inbox.stored(stream, held, &shown, now);
                    for seq in superseded {
                        self.superseded(stream, seq);
                    }
                }
                Effect::Read {
                    incarnation: of,
                    stream,
                    read,
                } if Some(of) == incarnation => {
                    let forgotten = self.inbox.read_stored(stream, read, now);
                    self.counters.reading_times_over_bound += u64::from(forgotten);
                }
                Effect::PageStored(stream) => self.page_stored(stream),
                Effect::GroupsStored(groups) => self.groups_stored(groups),
                Effect::CatalogueStored(stored) => self.catalogue_stored(stored),
                // Of a store that is not the device's any more.
                Effect::Held { .. } | Effect::Read { .. } => {}
            }
        }
        self.events.push_back(Event::Durable(ticket));
    }

    /// Gives an operation up for good: the person sees the reason, the server gets its number as void.
    fn park(&mut self, id: PostId, reason: RefusalReason, batch: &mut Batch) {
        let Some(item) = self.outbox.item(id) else { return };
        let op = item.op;
        self.outbox.park(id, reason);
        batch.mutations.push(Mutation::Progress {
            id,
            progress: Progress::Parked(reason),
        });
        batch.effects.push(Effect::Parked { id, reason });
        let void = match reason {
            RefusalReason::Expired => VoidReason::Expired,
            _ => VoidReason::Refused,
        };
        self.put_void(op, 1, void, batch);
        if let Some(oldest) = self.outbox.parked_beyond(PARKED_MAX) {
            self.counters.parked_forgotten += 1;
            self.outbox.forget(oldest);
            batch.mutations.push(Mutation::Forget(oldest));
        }
    }

    /// Reserves the tag of the next hello; it may be used once it is on disk.
    fn reserve_tag(&mut self, batch: &mut Batch) {
        let tag = self.session.reserve();
        batch.mutations.push(Mutation::Tag(tag));
        batch.effects.push(Effect::TagStored(tag));
    }
}

/// The longest that one session lasts: long before the seconds of a stamp run out, and the clocks' difference is
/// estimated anew.
const SESSION_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
