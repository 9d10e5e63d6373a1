//! The protocol core: connections, sessions, subscriptions, retained messages, wills, links. No clock, no socket, no task.
//!
//! # Contract
//!
//! The rim owns one [`Core`] behind one lock. It calls a verb (`connect`, `handle`, `handle_timeout`, `lost`, `publish`, …)
//! and then, before it lets go of the lock, takes every [`Core::poll_wake`]: each names a connection that has output to take
//! with [`Core::drain`], or a link that has events to take with [`Core::take`]. A connection that has ended keeps its slot, so
//! that its task can take the last output, until [`Core::release`]. [`Core::deadline`] of a connection is asked again after it
//! has passed; [`Core::next_due`] is when [`Core::handle_due`] has something to do, whatever connections do.
//!
//! The rule that must hold: after any verb, what waits for a session or a link is within its bound, whoever sends.

mod acknowledge;
mod connect;
mod connection;
pub(crate) mod decode;
pub(crate) mod encode;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gate;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod packet;
mod publish;
mod retained;
mod session;
mod sessions;
mod shared;
mod subscribe;
mod system;
#[cfg(test)]
mod tests;
mod trie;
pub(crate) mod waits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use self::connection::Connection;
use self::link::{Hint, LinkOutput, LinkQueue};
use self::message::Delivery;
use self::packet::{Output, Packet};
use self::publish::OwedWill;
use self::retained::Retained;
use self::sessions::Sessions;
use self::subscribe::{Replayed, Subscription};
use self::trie::{Subscriber, Trie};
use self::waits::Waits;
use crate::auth::{Authorise, Principal};
use crate::limits::{Limits, LinkLimits};
use crate::reason::Reason;
use crate::stats::Stats;

pub(crate) use self::connect::ClientIdFrom;
pub(crate) use self::publish::LinkPublishError;

/// How many retained topics one drain looks at, so that no replay holds the lock for long.
const REPLAY_BUDGET: usize = 512;

/// How many expired messages one verb forgets, so that many that expire at once do not hold the lock for long.
const EXPIRED_AT_ONCE: usize = 512;

/// Who has something to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// A connection, by its slot.
    Connection(usize),
    /// An in-process link, by its slot.
    Link(usize),
}

/// The whole state of a broker.
pub(crate) struct Core {
    limits: Limits,
    authorise: Arc<dyn Authorise>,
    connections: Slab<Connection>,
    /// Connections that have not ended.
    live: usize,
    /// The most that `live` ever was.
    live_max: usize,
    sessions: Sessions,
    /// Sessions by client id.
    clients: BTreeMap<Arc<str>, usize>,
    /// Sessions of which something is due, by when.
    due: BTreeSet<(Instant, usize)>,
    links: Slab<LinkQueue>,
    trie: Trie<Subscription>,
    retained: Retained,
    /// Wills of sessions that ended within the verb under way.
    wills_due: VecDeque<OwedWill>,
    /// Wills that wait for room on a link.
    wills_owed: VecDeque<OwedWill>,
    /// What sessions that ended within the verb under way leave to the other members of shared subscriptions.
    left_to_others: VecDeque<Delivery>,
    /// Reused for each message that is routed.
    matched: Vec<(Subscriber, Subscription)>,
    wakes: Vec<Wake>,
    shutting_down: bool,
    counters: Counters,
}

/// What has happened since the core was made.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    pub(crate) connects: u64,
    pub(crate) packets_received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) received: u64,
    pub(crate) delivered: u64,
    /// Until messages were on their way to connected clients.
    pub(crate) to_clients: Waits,
    /// Until links took their messages.
    pub(crate) to_links: Waits,
    pub(crate) reasons: [u64; Reason::ALL.len()],
    /// Moves whenever one of `reasons` does.
    pub(crate) reasons_total: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, reason: Reason, times: u64) {
        self.reasons[reason as usize] += times;
        self.reasons_total += times;
    }
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) enum Handled {
    /// Take the next one.
    Done,
    /// A link is full: hold on to this packet, read nothing, and offer it again after the next wake-up.
    Paused(Packet),
    /// The session has ended; nothing of it is read any more.
    Ended,
}

/// What a connection is left with after a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// There is more to take at once.
    pub(crate) more: bool,
    /// Write what there is, then close.
    pub(crate) ended: Option<Reason>,
}

impl Core {
    pub(crate) fn new(limits: Limits, authorise: Arc<dyn Authorise>) -> Core {
        Core {
            limits,
            authorise,
            connections: Slab::new(),
            live: 0,
            live_max: 0,
            sessions: Sessions::default(),
            clients: BTreeMap::new(),
            due: BTreeSet::new(),
            links: Slab::new(),
            trie: Trie::new(),
            retained: Retained::default(),
            wills_due: VecDeque::new(),
            wills_owed: VecDeque::new(),
            left_to_others: VecDeque::new(),
            matched: Vec::new(),
            wakes: Vec::new(),
            shutting_down: false,
            counters: Counters {
                connects: 0,
                packets_received: 0,
                packets_sent: 0,
                received: 0,
                delivered: 0,
                to_clients: Waits::default(),
                to_links: Waits::default(),
                reasons: [0; Reason::ALL.len()],
                reasons_total: 0,
            },
        }
    }

    /// Takes one packet of a live connection.
    pub(crate) fn handle(&mut self, key: usize, packet: Packet, now: Instant) -> Handled {
        self.forget_expired(now);
        let connection = &mut self.connections[key];
        let Some(session) = connection.session else {
            return Handled::Ended;
        };
        connection.last_heard = now;
        connection.paused = false;
        let at = Place {
            connection: key,
            session,
        };
        let mut handled = Handled::Done;
        match packet {
            // It would be taken and go nowhere; who sent it keeps it until somebody does.
            Packet::Publish(_) if self.shutting_down => {
                connection.paused = true;
                handled = Handled::Paused(packet);
            }
            Packet::Publish(publish) => handled = self.handle_publish(at, publish, now),
            Packet::PubAck { packet_id } => self.handle_puback(at, packet_id),
            Packet::PubRec { packet_id, verdict } => self.handle_pubrec(at, packet_id, verdict),
            Packet::PubRel { packet_id } => self.handle_pubrel(at, packet_id),
            Packet::PubComp { packet_id } => self.handle_pubcomp(at, packet_id),
            Packet::Subscribe {
                packet_id,
                filters,
                subscription_id,
            } => self.handle_subscribe(at, packet_id, filters, subscription_id, now),
            Packet::Unsubscribe { packet_id, filters } => {
                self.handle_unsubscribe(at, packet_id, &filters, now);
            }
            Packet::PingReq => self.connections[key].say(Output::PingResp),
            Packet::Disconnect {
                with_will,
                session_expiry_s,
            } => self.handle_disconnect(at, with_will, session_expiry_s, now),
        }
        self.settle(now);
        // One that has to wait is offered again.
        if !matches!(handled, Handled::Paused(_)) {
            self.counters.packets_received += 1;
        }
        match self.connections[key].ended {
            Some(_) => Handled::Ended,
            None => handled,
        }
    }

    /// Ends a connection whose bytes cannot be read, or that the rim has another reason to end.
    pub(crate) fn fail(&mut self, key: usize, reason: Reason, now: Instant) {
        self.end(key, reason, now);
        self.settle(now);
    }

    /// When `handle_timeout` should be called; `None` where the connection may be silent for ever.
    pub(crate) fn deadline(&self, key: usize) -> Option<Instant> {
        self.connections[key].deadline()
    }

    /// Ends the connection if it has been silent for too long.
    pub(crate) fn handle_timeout(&mut self, key: usize, now: Instant) {
        if self.connections[key]
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.end(key, Reason::KeepAliveTimeout, now);
            self.settle(now);
        }
    }

    /// When `handle_due` should be called; `None` where nothing will be due by itself.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Publishes wills whose delay is over and ends sessions that have expired, a few at a time.
    pub(crate) fn handle_due(&mut self, now: Instant) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) else {
                break;
            };
            let session = &self.sessions[key];
            if session.ends_at.is_some_and(|at| at <= now) {
                self.end_session(key, Some(Reason::SessionExpired));
            } else {
                // [MQTT-3.1.3-9] the delay is over and nobody came back.
                self.will_is_due(key);
            }
        }
        self.settle(now);
    }

    /// Moves output of a connection into `out`: everything it is told, and about `bytes_max` bytes of messages.
    pub(crate) fn drain(
        &mut self,
        key: usize,
        bytes_max: usize,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Drained {
        let before = out.len();
        let drained = self.drain_into(key, bytes_max, now, out);
        self.counters.packets_sent += (out.len() - before) as u64;
        drained
    }

    fn drain_into(&mut self, key: usize, bytes_max: usize, now: Instant, out: &mut Vec<Output>) -> Drained {
        let connection = &mut self.connections[key];
        connection.drain(out);
        let Some(session) = connection.session else {
            return Drained {
                more: false,
                ended: connection.ended,
            };
        };
        let mut replayed = Replayed::Some;
        if self.sessions[session].is_idle() {
            replayed = self.replay_retained(session, now);
        }
        let waits = &mut self.counters.to_clients;
        let done = self
            .sessions
            .change(session, |session| session.drain(bytes_max, now, out, waits));
        self.counters.delivered += done.sent;
        self.counters.count(Reason::Expired, done.expired);
        self.counters.count(Reason::TooLargeForReceiver, done.too_large);
        // A replay goes on when the queue is empty; until then it waits for acknowledgements like everything else.
        let session = &self.sessions[session];
        let replay_goes_on = session.is_idle() && !session.replays.is_empty() && replayed == Replayed::Some;
        let more = session.has_output() || replay_goes_on;
        Drained { more, ended: None }
    }

    /// Gives back the slot of a connection that is gone.
    pub(crate) fn release(&mut self, key: usize, now: Instant) {
        self.end(key, Reason::ConnectionLost, now);
        self.settle(now);
        for (_, link) in &mut self.links {
            link.waiting.remove(&key);
        }
        self.connections.remove(key);
    }

    /// The next connection or link to wake.
    pub(crate) fn poll_wake(&mut self) -> Option<Wake> {
        self.wakes.pop()
    }

    /// Ends the connections and the sessions of every principal for which `whose` holds; how many sessions there were.
    pub(crate) fn disconnect(
        &mut self,
        whose: impl Fn(&Principal) -> bool,
        reason: Reason,
        now: Instant,
    ) -> usize {
        let keys = self.sessions_of(whose);
        for key in &keys {
            let connection = self.sessions[*key].connection;
            if let Some(connection) = connection {
                self.end(connection, reason, now);
            }
            // It may have ended with its connection, where the reason was counted.
            if self.sessions.get(*key).is_some() {
                self.end_session(*key, connection.is_none().then_some(reason));
            }
        }
        self.settle(now);
        keys.len()
    }

    /// Lets nobody in any more, and takes no further message from those who are.
    pub(crate) fn quiesce(&mut self) {
        self.shutting_down = true;
    }

    /// Ends every connection, and lets nobody in any more. About `bytes_max` bytes of what waits for each go out before the
    /// goodbye.
    pub(crate) fn shut_down(&mut self, bytes_max: usize, now: Instant) {
        self.quiesce();
        let live: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.ended.is_none())
            .map(|(key, _)| key)
            .collect();
        for key in live {
            let mut last = Vec::new();
            self.drain_into(key, bytes_max, now, &mut last);
            self.connections[key].put_back(last);
            self.end(key, Reason::ShuttingDown, now);
        }
        self.settle(now);
    }

    /// No connection holds a slot.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Counts a refusal that was decided elsewhere.
    pub(crate) fn count(&mut self, reason: Reason) {
        self.counters.count(reason, 1);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Live connections.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn stats(&self) -> Stats {
        let reasons = Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.counters.reasons[reason as usize]));
        let held = self.sessions.held();
        Stats {
            clients: self.live,
            clients_max: self.live_max,
            sessions: self.sessions.len(),
            detached: held.detached,
            connections: self.connections.len() + self.wills_owed.len(),
            subscriptions: self.trie.len(),
            retained: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            queued_messages: held.queued_messages,
            queued_bytes: held.queued_bytes,
            detached_bytes: held.detached_bytes,
            link_queued_bytes: self.links.iter().map(|(_, link)| link.queued_bytes()).sum(),
            inflight: held.inflight,
            connects: self.counters.connects,
            packets_received: self.counters.packets_received,
            packets_sent: self.counters.packets_sent,
            bytes_received: 0,
            bytes_sent: 0,
            received: self.counters.received,
            delivered: self.counters.delivered,
            reasons: reasons.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Opens a link.
    pub(crate) fn open_link(&mut self, name: Arc<str>, limits: LinkLimits) -> usize {
        self.links.insert(LinkQueue::new(name, limits))
    }

    /// Moves up to `count` events of a link into `out`, and lets those go on who waited for the room.
    pub(crate) fn take(&mut self, link: usize, count: usize, now: Instant, out: &mut VecDeque<LinkOutput>) {
        let taken = self.links[link].take(count, now, out, &mut self.counters.to_links);
        self.counters.count(Reason::Expired, taken.expired);
        if taken.has_room_again {
            self.resume_after(link, now);
        }
    }

    /// Nobody receives from the link any more; it can still publish.
    pub(crate) fn close_link(&mut self, link: usize, now: Instant) {
        for filter in std::mem::take(&mut self.links[link].filters) {
            self.trie.remove(&filter, None, Subscriber::Link(link));
        }
        self.links[link].close();
        self.resume_after(link, now);
    }

    /// Gives back the slot of a closed link.
    pub(crate) fn release_link(&mut self, link: usize) {
        self.links.remove(link);
    }

    pub(crate) fn link_is_closed(&self, link: usize) -> bool {
        self.links[link].closed
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn link_queued_bytes(&self, link: usize) -> usize {
        self.links[link].queued_bytes()
    }

    /// Forgets retained messages that have expired, a few at a time.
    fn forget_expired(&mut self, now: Instant) {
        let expired = self.retained.expire(EXPIRED_AT_ONCE, now);
        self.counters.count(Reason::Expired, expired as u64);
    }

    /// Wills first, in the order in which they came to wait; then the connections.
    fn resume_after(&mut self, link: usize, now: Instant) {
        self.wills_due.append(&mut self.wills_owed);
        self.settle(now);
        for key in std::mem::take(&mut self.links[link].waiting) {
            self.wake(key);
        }
    }

    /// DISCONNECT from the client.
    fn handle_disconnect(&mut self, at: Place, with_will: bool, expiry_s: Option<u32>, now: Instant) {
        if let Some(asked_s) = expiry_s {
            // [MQTT-3.14.2-2] what was to end with its connection cannot be kept at the last moment.
            if !self.sessions[at.session].is_kept() && asked_s > 0 {
                return self.end(at.connection, Reason::ProtocolError, now);
            }
            let expiry_s = asked_s.min(self.limits.session_expiry_max_s());
            self.sessions
                .change(at.session, |session| session.expiry_s = expiry_s);
        }
        if !with_will {
            // [MQTT-3.14.4-3] discarded, not published.
            self.sessions.change(at.session, |session| session.will = None);
        }
        self.end(at.connection, Reason::ClientDisconnected, now);
    }

    /// Ends a live connection: out of reach at once, its last word queued. Its session ends with it, or goes on detached.
    fn end(&mut self, key: usize, reason: Reason, now: Instant) {
        let connection = &mut self.connections[key];
        let Some(session) = connection.end(reason) else {
            return;
        };
        self.live -= 1;
        self.counters.count(reason, 1);
        let principal = connection.principal.clone();
        self.detach(session, now);
        self.hint(
            &principal.client_id,
            Hint::Disconnected {
                principal: principal.name,
                reason,
            },
        );
        self.wake(key);
    }

    /// Nobody speaks for a session any more.
    fn detach(&mut self, key: usize, now: Instant) {
        self.sessions.change(key, |session| session.detach(now));
        let session = &self.sessions[key];
        if !session.is_kept() {
            return self.end_session(key, None);
        }
        if session.will_at.is_some_and(|at| at <= now) {
            self.will_is_due(key);
        }
        if self.sessions.held().detached_bytes > self.limits.detached_bytes_max {
            return self.end_session(key, Some(Reason::SessionQueueFull));
        }
        self.due.extend(self.sessions[key].due_at().map(|at| (at, key)));
    }

    /// Ends a session that nobody speaks for: unsubscribed, its will due [MQTT-3.1.3-9], nothing of it left. Counted where a
    /// reason is given.
    fn end_session(&mut self, key: usize, reason: Option<Reason>) {
        self.not_due(key);
        let mut session = self.sessions.remove(key);
        if let Some(reason) = reason {
            self.counters.count(reason, 1);
        }
        self.clients.remove(&session.principal.client_id);
        for filter in std::mem::take(&mut session.filters) {
            self.remove_from_trie(&filter, Subscriber::Session(key));
        }
        if let Some(will) = session.will.take() {
            self.wills_due.push_back(OwedWill {
                will,
                principal: session.principal.clone(),
            });
        }
        self.left_to_others.extend(session.into_shared());
    }

    /// The will of a detached session is published, and the session goes on.
    fn will_is_due(&mut self, key: usize) {
        self.not_due(key);
        let will = self.sessions.change(key, |session| {
            session.will_at = None;
            session.will.take()
        });
        let principal = self.sessions[key].principal.clone();
        self.wills_due
            .extend(will.map(|will| OwedWill { will, principal }));
        self.due.extend(self.sessions[key].due_at().map(|at| (at, key)));
    }

    /// Takes a session out of those of which something is due.
    fn not_due(&mut self, key: usize) {
        if let Some(at) = self.sessions[key].due_at() {
            self.due.remove(&(at, key));
        }
    }

    /// What sessions that have ended leave behind: wills, and messages for other members of shared subscriptions.
    fn settle(&mut self, now: Instant) {
        // A receiver that is ended by one may leave another; each session leaves what it held, once.
        loop {
            if let Some(owed) = self.wills_due.pop_front() {
                self.publish_will(owed, now);
            } else if let Some(delivery) = self.left_to_others.pop_front() {
                self.hand_on(delivery, now);
            } else {
                return;
            }
        }
    }

    fn sessions_of(&self, whose: impl Fn(&Principal) -> bool) -> Vec<usize> {
        self.clients
            .values()
            .copied()
            .filter(|key| whose(&self.sessions[*key].principal))
            .collect()
    }

    fn hint(&mut self, client_id: &Arc<str>, hint: Hint) {
        let mut woken = Vec::new();
        for (key, link) in &mut self.links {
            if link.closed {
                continue;
            }
            if !link.hint(client_id, hint.clone()) {
                self.counters.count(Reason::HintDropped, 1);
            }
            woken.push(key);
        }
        for key in woken {
            self.wake_link(key);
        }
    }

    /// Wakes the connection of a session, where there is one and it has something to send.
    fn wake_session(&mut self, key: usize) {
        if let Some(session) = self.sessions.get(key)
            && let Some(connection) = session.connection
            && session.has_output()
        {
            self.wake(connection);
        }
    }

    fn wake(&mut self, connection: usize) {
        let Some(slot) = self.connections.get_mut(connection) else {
            return;
        };
        if !std::mem::replace(&mut slot.woken, true) {
            self.wakes.push(Wake::Connection(connection));
        }
    }

    fn wake_link(&mut self, key: usize) {
        if !std::mem::replace(&mut self.links[key].woken, true) {
            self.wakes.push(Wake::Link(key));
        }
    }
}

/// Whether a member of a group can take a message at once.
fn is_ready(sessions: &Sessions, limits: &Limits, subscriber: Subscriber) -> bool {
    match subscriber {
        Subscriber::Session(key) => {
            let session = &sessions[key];
            session.connection.is_some() && session.has_room_for(limits.packet_bytes_max, limits)
        }
        Subscriber::Link(_) => true,
    }
}

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    connection: usize,
    session: usize,
}
