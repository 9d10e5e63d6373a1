//! The bridge's decisions, without IO: exactly-once, numbering, membership and repetition.
//!
//! Inputs are frames and presences of devices, commands of people, and the completion of earlier outputs. After any
//! of them call [`Core::flush`] and take outputs from [`Core::poll_output`] until it has none; then sleep until
//! [`Core::poll_timeout`] at the latest and call [`Core::handle_timeout`].
//!
//! The one rule: a store write is an output, its completion an input ([`Core::handle_stored`]), and whatever follows
//! from a write (an acknowledgement, an entry for another device, an event, the answer to a call) is held back as an
//! `Effect` until that completion. Numbers are given when a change is staged; nobody sees them before.
//!
//! The rim owns sockets, clocks and the store, and ends the process when a write fails.

mod audit;
mod broadcasts;
mod catalogue;
mod clocks;
mod directory;
mod dispute;
mod down;
mod expiry;
mod groups;
mod history;
mod horizon;
mod lanes;
mod once;
mod pages;
mod people;
mod retention;
mod session;
mod space;
#[cfg(test)]
mod tests;
mod unhurried;
mod up;

use crate::audit::Acting;
use crate::broadcast::Broadcast;
use crate::clock::ClockEstimate;
use crate::device::{Device, Presence};
use crate::entry::Entry;
use crate::event::{Event, EventCursor, EventKind, LiveEvent};
use crate::group::{Group, GroupId};
use crate::key::ApiKey;
use crate::link::Subscriptions;
use crate::person::{Person, SignIn};
use crate::position::Position;
use crate::store::{Change, Look, MemberCursor, Restore, State};
use crate::stream::{Member, Stream, StreamKind};
use crate::template::Template;
use audit::Refusals;
pub(crate) use broadcasts::only_entry;
use bytes::Bytes;
use catalogue::Catalogue;
pub use dispute::Content;
use dispute::Outbox;
use expiry::Expiries;
pub(crate) use history::Told;
pub use lanes::Lane;
use lanes::UrgentIndex;
use once::RecentPosts;
pub use retention::Retention;
use retention::{Sweep, Trimmed};
use session::Session;
pub use space::Space;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use unhurried::Haste;
use waypost_proto::wire::UpFrame;
use waypost_proto::{
    Cumulative, DeviceId, Epoch, Generation, Incarnation, OpNumber, PersonId, Seq, SessionTag, StreamId, wire,
};

/// How many writes may be open before the rim stops taking input.
pub const WRITES_MAX: usize = 1_024;

/// The present, as the rim read it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub monotonic: Instant,
    /// For records: UTC milliseconds.
    pub wall_ms: i64,
}

/// Names a store write; later writes have higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What the rim has to do.
#[derive(Debug)]
pub enum Output {
    /// Make these changes durable, in the order of the tickets, then [`Core::handle_stored`].
    Write(Ticket, Vec<Change>),
    /// Read entries after a number, then [`Core::handle_fetched`].
    Fetch(Fetch),
    /// Read the newest entries before a number, then [`Core::handle_fetched_back`].
    FetchBack(FetchBack),
    /// Look for what is too old, then [`Core::handle_found`].
    Look(Look),
    /// Read the entries that a frame says it supersedes, then [`Core::handle_recalled`] with those that there are.
    Recall {
        /// The frame is of this device.
        device: DeviceId,
        /// The frame.
        frame: Box<UpFrame>,
        /// The entries.
        wanted: Vec<(StreamId, Seq)>,
    },
    /// Compare a repeated operation with the one that was taken, then [`Core::handle_compared`].
    Compare(Repeated),
    /// Publish a frame on `d/<device>`.
    Publish(DeviceId, Bytes),
    /// Read entries of a group's stream, then [`Core::handle_group_fetched`].
    FetchGroup(GroupFetch),
    /// Publish a frame on `g/<group>`.
    PublishGroup(GroupId, Bytes),
    /// Publish on `t/<locale>`, retained; empty takes away what is retained there.
    Retain(String, Bytes),
    /// A device's groups have changed.
    Groups {
        /// The device.
        device: DeviceId,
        /// All groups whose topics it may read now.
        groups: Vec<GroupId>,
        /// The group that it has left: its subscriptions to the topic end before anything else is published there.
        left: Option<GroupId>,
    },
    /// Tell whoever watches.
    Live(LiveEvent),
    /// This device's right to connect has changed.
    Access(Device),
    /// End the device's connections.
    Disconnect(DeviceId),
    /// There is room for more or for less than before; with it, how many bytes are free.
    Space(Space, u64),
}

/// Entries that a session wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// For this device.
    pub device: DeviceId,
    /// In this session.
    pub tag: SessionTag,
    /// Of this stream.
    pub stream: StreamId,
    /// As what they travel.
    pub lane: Lane,
    /// How far the stream was sent when they were asked for.
    pub reached: u64,
    /// After this number; what lies between is skipped without reading it.
    pub after: u64,
    /// At most up to this number, which is on disk and the reader's to know.
    pub head: u64,
    /// At most so many.
    pub limit: usize,
}

/// Entries from before a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FetchBack {
    /// For this device.
    pub device: DeviceId,
    /// In this session.
    pub tag: SessionTag,
    /// Of this stream.
    pub stream: StreamId,
    /// Before this number; what lies below is on disk.
    pub before: u64,
    /// At most so many, the newest.
    pub limit: usize,
    /// What for.
    pub purpose: Purpose,
}

/// What entries from before a number are wanted for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Purpose {
    /// To find out how far back a new installation is brought up to date.
    Horizon,
    /// A device has asked for them.
    Page(wire::PageRequest),
}

/// Entries that go out on the topic of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFetch {
    /// The group.
    pub group: GroupId,
    /// Its stream.
    pub stream: StreamId,
    /// After this number.
    pub after: u64,
    /// At most up to this number, which is on disk.
    pub head: u64,
    /// At most so many.
    pub limit: usize,
}

/// An operation that came again under a number that was taken, or is listed as under way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// From this device.
    pub device: DeviceId,
    /// In this session.
    pub tag: SessionTag,
    /// Of this outbox.
    pub epoch: Epoch,
    /// Its number.
    pub op: OpNumber,
    /// What it says now, or has there.
    pub content: Content,
}

/// Settings of the core.
#[derive(Debug, Clone)]
pub struct CoreOptions {
    /// Bytes of entries that may be under way to one device without its acknowledgement, at most; 16,384. Within that
    /// the window follows the link, from two frames on. At the bound the next ones wait for a cursor; urgent ones may
    /// exceed it by one frame.
    pub window_bytes: usize,
    /// Bytes of one frame; 1,200. A single entry that is larger travels alone.
    pub frame_bytes: usize,
    /// First wait before unacknowledged entries are sent again; 10 s. Doubles up to `repeat_max`.
    pub repeat_min: Duration,
    /// Longest such wait; 5 min.
    pub repeat_max: Duration,
    /// How many ranges of operations may stand above a gap for each outbox; 64. An operation that would open another
    /// is left for its repetition.
    pub ledger_ranges_max: usize,
    /// Entries of a stream that a device gets again which has lost its database, of those that its driver had read; 100.
    /// The older ones are there on demand.
    pub history_entries: usize,
    /// Bytes of such entries in all streams together; 65,536. The streams with the newest entries come first.
    pub history_bytes: usize,
    /// How long each kind is kept.
    pub retention: Retention,
    /// Bytes of disk to keep free; 512 MB, 0 for none. Below it files are refused, below two thirds of it also history,
    /// below one third also entries.
    pub disk_reserve_bytes: u64,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            window_bytes: 16_384,
            frame_bytes: 1_200,
            repeat_min: Duration::from_secs(10),
            repeat_max: Duration::from_secs(300),
            ledger_ranges_max: 64,
            history_entries: 100,
            history_bytes: 65_536,
            retention: Retention::default(),
            disk_reserve_bytes: 512_000_000,
        }
    }
}

/// The state of the bridge and its rules. See the module for the contract.
///
/// Memory: what [`State`] says, and for each session about 500 bytes and 40 for each entry under way.
#[derive(Debug)]
pub struct Core {
    options: CoreOptions,
    incarnation: Incarnation,
    /// Where this store parted from those that it was put back from.
    restores: BTreeMap<Incarnation, Restore>,
    generation: Generation,

    // The directory, as it is on disk.
    devices: BTreeMap<DeviceId, Device>,
    streams: BTreeMap<StreamId, StreamState>,
    streams_of: BTreeMap<DeviceId, BTreeSet<StreamId>>,
    urgent: UrgentIndex,
    expiries: Expiries,
    people: BTreeMap<PersonId, Person>,
    sign_ins: BTreeMap<[u8; 32], SignIn>,
    keys: BTreeMap<PersonId, ApiKey>,
    /// By the SHA-256 of its token; those that are not revoked.
    key_of: BTreeMap<[u8; 32], PersonId>,
    groups: BTreeMap<GroupId, Group>,
    broadcasts: BTreeMap<StreamId, Broadcast>,
    catalogue: Catalogue,
    latest: BTreeMap<DeviceId, Position>,
    presence: BTreeMap<DeviceId, Presence>,
    heard_ms: BTreeMap<DeviceId, i64>,
    clocks: BTreeMap<DeviceId, ClockEstimate>,
    /// The server's own clocks as they were last read: where they part, the wall clock was set.
    clocks_read: Option<Now>,
    last_event: EventCursor,

    // What is staged ahead of the disk.
    next_device: u32,
    next_stream: u32,
    next_person: u32,
    next_group: u32,
    next_template: u32,
    emails: BTreeSet<String>,
    ledgers: BTreeMap<(DeviceId, Epoch), Ledger>,
    transfers: BTreeMap<(DeviceId, Epoch), BTreeMap<StreamId, Cumulative>>,
    cursors: BTreeMap<(StreamId, Member), MemberCursor>,
    staged_latest: BTreeMap<DeviceId, Position>,
    staged_event: EventCursor,
    staged_audit: u64,
    recent_posts: RecentPosts,
    refusals: Refusals,
    /// Who does what is staged next, and when.
    acting: (Acting, i64),
    changes: Vec<Change>,
    effects: Vec<Effect>,
    pending: VecDeque<(Ticket, Vec<Effect>)>,
    next_ticket: u64,

    sessions: BTreeMap<DeviceId, Session>,
    /// The outboxes that were heard since the start.
    outboxes: BTreeMap<(DeviceId, Epoch), Outbox>,
    /// The tag with which each device last announced itself: its will carries the same.
    announced: BTreeMap<DeviceId, u32>,
    asked_for_hello: BTreeMap<DeviceId, Instant>,
    timers: BTreeSet<(Instant, DeviceId)>,
    /// When acknowledgements that may wait are said at the latest.
    owed: BTreeSet<(Instant, DeviceId)>,
    /// When pages may go out that were put off.
    page_waits: BTreeSet<(Instant, DeviceId)>,
    dirty: BTreeSet<DeviceId>,
    /// Whether groups may be served on their topics.
    group_topics: Subscriptions,
    /// The last entry of each group's stream that went out on its topic, or was left to the topics of its members.
    group_sent: BTreeMap<StreamId, u64>,
    dirty_groups: BTreeSet<StreamId>,
    sweep: Sweep,
    space: Space,
    outputs: VecDeque<Output>,
    stopping: bool,
}

#[derive(Debug)]
struct StreamState {
    stream: Stream,
    /// The last entry on disk.
    head: u64,
    /// The last entry that has a number.
    staged_head: u64,
    /// When the last one was accepted, server clock; 0 where there is none.
    last_ms: i64,
}

/// Which operations of one outbox are taken.
#[derive(Debug, Clone, Default)]
struct Ledger {
    /// On disk: may be acknowledged.
    durable: Cumulative,
    /// Given to the writer as well: must not be applied again.
    staged: Cumulative,
}

/// What follows once a write is durable.
#[derive(Debug)]
enum Effect {
    Device(Device),
    Stream(Stream),
    Person(Person),
    SignIn(SignIn),
    SignOut([u8; 32]),
    Key(ApiKey),
    Group(Group),
    Template(Template),
    Broadcast(Broadcast),
    Head {
        stream: StreamId,
        seq: u64,
        accepted_ms: i64,
    },
    Taken {
        device: DeviceId,
        epoch: Epoch,
        first: u64,
        last: u64,
        haste: Haste,
    },
    Echo {
        device: DeviceId,
        tag: SessionTag,
        stream: StreamId,
    },
    Welcome {
        device: DeviceId,
        tag: SessionTag,
    },
    PositionsKnown {
        device: DeviceId,
        tag: SessionTag,
    },
    Latest(DeviceId, Position),
    Presence(DeviceId, Presence),
    Event(Event),
    Forked {
        device: DeviceId,
        tag: SessionTag,
        op: OpNumber,
    },
    EndSessions(DeviceId),
    Trimmed(Trimmed),
}

impl Core {
    /// A core that goes on from what the store holds.
    pub fn new(state: State, options: CoreOptions) -> Self {
        let mut streams_of: BTreeMap<DeviceId, BTreeSet<StreamId>> = BTreeMap::new();
        for (stream, _) in state.streams.values() {
            for membership in &stream.members {
                if let Member::Device(device) = membership.member {
                    streams_of.entry(device).or_default().insert(stream.id);
                }
            }
        }
        let ledger = |taken: Cumulative| Ledger {
            durable: taken.clone(),
            staged: taken,
        };
        let next = |last: Option<u32>| last.unwrap_or(0) + 1;
        let catalogue = Catalogue::new(state.templates);
        // What was accepted before this start goes to each member's own topic.
        let group_sent = state
            .streams
            .values()
            .filter(|(stream, _)| matches!(stream.kind, StreamKind::Group(_)))
            .map(|(stream, head)| (stream.id, *head))
            .collect();
        Self {
            options,
            incarnation: state.incarnation,
            generation: state.generation,
            next_device: next(state.devices.keys().next_back().map(|id| id.number())),
            next_stream: next(state.streams.keys().next_back().map(|id| id.number())),
            // Keys share the numbers of people.
            next_person: next(
                [state.people.keys().next_back(), state.keys.keys().next_back()]
                    .into_iter()
                    .flatten()
                    .map(|id| id.number())
                    .max(),
            ),
            emails: state
                .people
                .values()
                .filter(|person| !person.removed)
                .map(|person| person.email.clone())
                .collect(),
            key_of: state
                .keys
                .values()
                .filter(|key| !key.revoked)
                .map(|key| (key.token_hash, key.id))
                .collect(),
            keys: state.keys,
            next_group: next(state.groups.keys().next_back().map(|id| id.number())),
            groups: state.groups,
            broadcasts: state.broadcasts,
            restores: state.restores,
            next_template: catalogue.next_number(),
            catalogue,
            presence: BTreeMap::new(),
            heard_ms: BTreeMap::new(),
            clocks: state.clocks,
            clocks_read: None,
            devices: state.devices,
            streams: state
                .streams
                .into_iter()
                .map(|(id, (stream, head))| {
                    (
                        id,
                        StreamState {
                            stream,
                            head,
                            staged_head: head,
                            last_ms: state.last_entry_ms.get(&id).copied().unwrap_or(0),
                        },
                    )
                })
                .collect(),
            streams_of,
            urgent: UrgentIndex::new(state.urgent),
            expiries: Expiries::new(state.expiries),
            people: state.people,
            sign_ins: state.sign_ins,
            staged_latest: state.latest.clone(),
            latest: state.latest,
            last_event: state.last_event,
            ledgers: state
                .ledgers
                .into_iter()
                .map(|(key, taken)| (key, ledger(taken)))
                .collect(),
            transfers: state.transfers,
            cursors: state.cursors,
            staged_event: state.last_event,
            staged_audit: state.last_audit,
            recent_posts: RecentPosts::default(),
            refusals: Refusals::default(),
            acting: (Acting::SERVER, 0),
            changes: Vec::new(),
            effects: Vec::new(),
            pending: VecDeque::new(),
            next_ticket: 1,
            sessions: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            announced: BTreeMap::new(),
            asked_for_hello: BTreeMap::new(),
            timers: BTreeSet::new(),
            owed: BTreeSet::new(),
            page_waits: BTreeSet::new(),
            dirty: BTreeSet::new(),
            group_topics: Subscriptions::LastAsLongAsTheirClients,
            group_sent,
            dirty_groups: BTreeSet::new(),
            sweep: Sweep::new(
                state.first_seqs,
                state.first_event,
                state.first_audit,
                state.first_position_day,
            ),
            space: Space::default(),
            outputs: VecDeque::new(),
            stopping: false,
        }
    }

    /// What the broker can do about subscriptions: a group's topic is used only where one who has left can be kept from
    /// listening on.
    #[must_use]
    pub fn with_subscriptions(self, group_topics: Subscriptions) -> Self {
        Self { group_topics, ..self }
    }

    /// Everything up to and including `through` is on disk: what follows from it may be seen now.
    pub fn handle_stored(&mut self, through: Ticket) {
        while self.pending.front().is_some_and(|(ticket, _)| *ticket <= through) {
            let (_, effects) = self.pending.pop_front().expect("the front was just looked at");
            for effect in effects {
                self.take_effect(effect);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Core::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = |timers: &BTreeSet<(Instant, DeviceId)>| timers.first().map(|(at, _)| *at);
        let sessions = [first(&self.timers), first(&self.page_waits), first(&self.owed)];
        sessions
            .into_iter()
            .flatten()
            .chain(self.sweep.poll_timeout())
            .chain(self.expiries.poll_timeout())
            .min()
    }

    /// The last write that is not yet reported as stored; `None` where everything is on disk.
    pub(crate) fn last_open(&self) -> Option<Ticket> {
        self.pending.back().map(|(last, _)| *last)
    }

    /// How many writes are not yet reported as stored.
    pub fn open_writes(&self) -> usize {
        self.pending.len()
    }

    /// Takes no more input; finished when no write is open.
    pub fn stop(&mut self) {
        self.stage_refusals();
        self.commit();
        self.stopping = true;
    }

    /// Whether [`Core::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether everything that was begun is on disk and nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.stopping && self.pending.is_empty()
    }

    /// Hands what was staged since the last call to the writer, as one batch.
    fn commit(&mut self) -> Option<Ticket> {
        if self.changes.is_empty() {
            debug_assert!(self.effects.is_empty(), "an effect hangs on a change");
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending
            .push_back((ticket, std::mem::take(&mut self.effects)));
        self.outputs
            .push_back(Output::Write(ticket, std::mem::take(&mut self.changes)));
        Some(ticket)
    }

    /// What follows from all that was begun, and changes nothing itself.
    fn after_writes(&mut self, effect: Effect) {
        if !self.changes.is_empty() {
            self.effects.push(effect);
        } else if let Some((_, effects)) = self.pending.back_mut() {
            effects.push(effect);
        } else {
            self.take_effect(effect);
        }
    }

    fn log_event(&mut self, kind: EventKind, now: Now) {
        self.staged_event += 1;
        let event = Event {
            cursor: self.staged_event,
            at_ms: now.wall_ms,
            kind,
        };
        self.changes.push(Change::AppendEvent(event.clone()));
        self.effects.push(Effect::Event(event));
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Device(device) => {
                self.outputs.push_back(Output::Access(device.clone()));
                self.devices.insert(device.id, device);
            }
            Effect::Stream(stream) => {
                for membership in &stream.members {
                    if let Member::Device(device) = membership.member {
                        self.streams_of.entry(device).or_default().insert(stream.id);
                        self.dirty.insert(device);
                    }
                }
                let before = match self.streams.get_mut(&stream.id) {
                    Some(state) => Some(std::mem::replace(&mut state.stream, stream.clone())),
                    None => {
                        let state = StreamState {
                            stream: stream.clone(),
                            head: 0,
                            staged_head: 0,
                            last_ms: 0,
                        };
                        self.streams.insert(stream.id, state);
                        None
                    }
                };
                if let StreamKind::Group(group) = stream.kind {
                    self.take_membership(group, before.as_ref(), &stream);
                }
            }
            Effect::Group(group) => {
                self.groups.insert(group.id, group);
            }
            Effect::Template(template) => self.take_template(template),
            Effect::Broadcast(broadcast) => {
                self.broadcasts.insert(broadcast.stream, broadcast);
            }
            Effect::Person(person) => {
                self.people.insert(person.id, person);
            }
            Effect::SignIn(sign_in) => {
                self.sign_ins.insert(sign_in.token_hash, sign_in);
            }
            Effect::SignOut(token_hash) => {
                self.sign_ins.remove(&token_hash);
                self.outputs.push_back(Output::Live(LiveEvent::AccessEnded));
            }
            Effect::Key(key) => {
                let revoked = key.revoked;
                self.take_key(key);
                if revoked {
                    self.outputs.push_back(Output::Live(LiveEvent::AccessEnded));
                }
            }
            Effect::Head {
                stream,
                seq,
                accepted_ms,
            } => {
                let Some(state) = self.streams.get_mut(&stream) else {
                    return;
                };
                state.head = state.head.max(seq);
                state.last_ms = state.last_ms.max(accepted_ms);
                state.staged_head = state.staged_head.max(seq);
                if matches!(state.stream.kind, StreamKind::Group(_)) {
                    // Its members follow once it is clear who hears of it on the group's topic.
                    self.dirty_groups.insert(stream);
                    return;
                }
                for membership in &state.stream.members {
                    if let Member::Device(device) = membership.member {
                        self.dirty.insert(device);
                    }
                }
            }
            Effect::Taken {
                device,
                epoch,
                first,
                last,
                haste,
            } => {
                self.ledgers
                    .entry((device, epoch))
                    .or_default()
                    .durable
                    .insert_range(first, last);
                if let (Some(first), Some(last)) = (OpNumber::new(first), OpNumber::new(last)) {
                    self.compare_durable(device, epoch, first, last);
                }
                if self
                    .sessions
                    .get(&device)
                    .is_some_and(|session| session.epoch == epoch)
                {
                    self.owe_acknowledgement(device, haste);
                }
            }
            Effect::Echo { device, tag, stream } => {
                self.echo(device, tag, stream);
            }
            Effect::Welcome { device, tag } => {
                self.in_session(device, tag, Session::welcome);
                self.compare_small_state(device);
            }
            Effect::PositionsKnown { device, tag } => self.in_session(device, tag, Session::open),
            Effect::Latest(device, position) => {
                self.latest.insert(device, position);
                self.outputs
                    .push_back(Output::Live(LiveEvent::Position(device, position)));
            }
            Effect::Presence(device, presence) => {
                self.presence.insert(device, presence);
            }
            Effect::Event(event) => {
                self.last_event = event.cursor;
                self.outputs
                    .push_back(Output::Live(LiveEvent::Logged(event.into())));
            }
            Effect::Forked { device, tag, op } => {
                self.in_session(device, tag, |session| session.forked_op = Some(op));
            }
            Effect::EndSessions(device) => {
                self.end_session(device);
                self.outputs.push_back(Output::Disconnect(device));
            }
            Effect::Trimmed(trimmed) => self.take_trimmed(trimmed),
        }
    }

    /// What is staged and not yet on disk, the newest first.
    fn staged_effects(&self) -> impl Iterator<Item = &Effect> {
        let open = self
            .pending
            .iter()
            .rev()
            .flat_map(|(_, effects)| effects.iter().rev());
        self.effects.iter().rev().chain(open)
    }

    /// Changes a session that still is the same.
    fn in_session(&mut self, device: DeviceId, tag: SessionTag, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self
            .sessions
            .get_mut(&device)
            .filter(|session| session.tag == tag)
        {
            change(session);
            self.dirty.insert(device);
        }
    }
}

/// The entry that makes the change, with everything that hangs on a new entry.
impl Core {
    fn append_entry(&mut self, entry: Entry, author: Member, now: Now) {
        let (stream, seq) = (entry.stream, entry.seq);
        if let Some(answered) = entry.reply_to {
            let of = entry.reply_stream.unwrap_or(stream);
            let mut cursor = self.cursors.get(&(of, author)).cloned().unwrap_or_default();
            if answered.number() > cursor.answered {
                cursor.answered = answered.number();
                self.put_cursor(of, author, cursor);
            }
            // Of an entry that was trimmed there are no receipts any more.
            if answered.number() >= self.first_seq(of) {
                self.changes.push(Change::AddReceipt {
                    stream: of,
                    member: author,
                    rung: crate::entry::Rung::Acted,
                    first_seq: answered.number(),
                    last_seq: answered.number(),
                    moment: entry.accepted,
                });
            }
            let kind = EventKind::EntryActed {
                stream: of,
                seq: answered,
                member: author,
                answer_stream: stream,
                answer: seq,
            };
            self.log_event(kind, now);
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            state.staged_head = seq.number();
        }
        self.mark_end(&entry, now);
        let (accepted_ms, urgent) = (entry.accepted.server_ms, entry.urgent);
        self.changes.push(Change::AppendEntry(entry));
        if urgent {
            self.mark_urgent(stream, seq.number());
        }
        self.effects.push(Effect::Head {
            stream,
            seq: seq.number(),
            accepted_ms,
        });
        self.log_event(EventKind::EntryAccepted { stream, seq }, now);
    }

    /// The number of the next entry of a stream.
    fn next_seq(&self, stream: StreamId) -> Seq {
        let head = self.streams.get(&stream).map_or(0, |state| state.staged_head);
        Seq::new(head + 1).expect("one more than a number is not 0")
    }
}
