//! The protocol core: sessions, subscriptions, retained messages, wills, links. No clock, no socket, no task.
//!
//! # Contract
//!
//! The rim owns one [`Core`] behind one lock. It calls a verb (`connect`, `handle`, `handle_timeout`, `lost`, `publish`, …)
//! and then, before it lets go of the lock, takes every [`Core::poll_wake`]: each names a session that has output to take
//! with [`Core::drain`], or a link that has events to take with [`Core::take`]. A session that has ended keeps its slot, so
//! that its connection can take the last output, until [`Core::release`]. [`Core::deadline`] is asked again after it has passed.
//!
//! The rule that must hold: after any verb, what waits for a session or a link is within its bound, whoever sends.

mod connect;
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
mod subscribe;
#[cfg(test)]
mod tests;
mod trie;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use self::link::{Hint, LinkOutput, LinkQueue};
use self::packet::{Output, Packet};
use self::publish::OwedWill;
use self::retained::Retained;
use self::session::Session;
use self::subscribe::Subscription;
use self::trie::Trie;
use crate::auth::{Authorise, Principal};
use crate::limits::{Limits, LinkLimits};
use crate::reason::Reason;
use crate::stats::Stats;

pub(crate) use self::connect::ClientIdFrom;
pub(crate) use self::publish::LinkPublishError;
pub(crate) use self::trie::Subscriber;

/// How many retained topics one drain looks at, so that no replay holds the lock for long.
const REPLAY_BUDGET: usize = 512;

/// How many expired messages one verb forgets, so that many that expire at once do not hold the lock for long.
const EXPIRED_AT_ONCE: usize = 512;

/// The whole state of a broker.
pub(crate) struct Core {
    limits: Limits,
    authorise: Arc<dyn Authorise>,
    sessions: Slab<Session>,
    /// Live sessions by client id.
    clients: BTreeMap<Arc<str>, usize>,
    links: Slab<LinkQueue>,
    trie: Trie<Subscription>,
    retained: Retained,
    /// Wills of sessions that ended within the verb under way.
    wills_due: VecDeque<OwedWill>,
    /// Wills that wait for room on a link.
    wills_owed: VecDeque<OwedWill>,
    /// Reused for each message that is routed.
    matched: Vec<(Subscriber, Subscription)>,
    wakes: Vec<Subscriber>,
    shutting_down: bool,
    counters: Counters,
}

/// What has happened since the core was made.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    pub(crate) connects: u64,
    pub(crate) received: u64,
    pub(crate) delivered: u64,
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
            sessions: Slab::new(),
            clients: BTreeMap::new(),
            links: Slab::new(),
            trie: Trie::new(),
            retained: Retained::default(),
            wills_due: VecDeque::new(),
            wills_owed: VecDeque::new(),
            matched: Vec::new(),
            wakes: Vec::new(),
            shutting_down: false,
            counters: Counters {
                connects: 0,
                received: 0,
                delivered: 0,
                reasons: [0; Reason::ALL.len()],
                reasons_total: 0,
            },
        }
    }

    /// Takes one packet of a live session.
    pub(crate) fn handle(&mut self, key: usize, packet: Packet, now: Instant) -> Handled {
        self.forget_expired(now);
        let session = &mut self.sessions[key];
        if session.ended.is_some() {
            return Handled::Ended;
        }
        session.last_heard = now;
        session.paused = false;
        let handled = match packet {
            Packet::Publish(publish) => self.handle_publish(key, publish, now),
            Packet::PubAck { packet_id } => {
                session.acknowledge(packet_id);
                Handled::Done
            }
            Packet::Subscribe {
                packet_id,
                filters,
                subscription_id,
            } => {
                self.handle_subscribe(key, packet_id, filters, subscription_id);
                Handled::Done
            }
            Packet::Unsubscribe { packet_id, filters } => {
                self.handle_unsubscribe(key, packet_id, &filters);
                Handled::Done
            }
            Packet::PingReq => {
                session.say(Output::PingResp);
                Handled::Done
            }
            Packet::Disconnect { with_will } => {
                if !with_will {
                    // [MQTT-3.14.4-3] discarded, not published.
                    session.will = None;
                }
                self.end(key, Reason::ClientDisconnected);
                Handled::Done
            }
        };
        self.publish_wills_due(now);
        match self.sessions[key].ended {
            Some(_) => Handled::Ended,
            None => handled,
        }
    }

    /// Ends a session whose bytes cannot be read, or that the rim has another reason to end.
    pub(crate) fn fail(&mut self, key: usize, reason: Reason, now: Instant) {
        self.end(key, reason);
        self.publish_wills_due(now);
    }

    /// When `handle_timeout` should be called; `None` where the session may be silent for ever.
    pub(crate) fn deadline(&self, key: usize) -> Option<Instant> {
        self.sessions[key].deadline()
    }

    /// Ends the session if it has been silent for too long.
    pub(crate) fn handle_timeout(&mut self, key: usize, now: Instant) {
        if self.sessions[key]
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.end(key, Reason::KeepAliveTimeout);
            self.publish_wills_due(now);
        }
    }

    /// Moves output of a session into `out`: everything it is told, and about `bytes_max` bytes of messages.
    pub(crate) fn drain(
        &mut self,
        key: usize,
        bytes_max: usize,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Drained {
        if self.sessions[key].is_idle() {
            self.replay_retained(key, now);
        }
        let session = &mut self.sessions[key];
        let (sent, expired) = session.drain(bytes_max, now, out);
        self.counters.delivered += sent;
        self.counters.count(Reason::Expired, expired);
        // A replay goes on when the queue is empty; until then it waits for acknowledgements like everything else.
        let more = session.has_output() || (session.is_idle() && !session.replays.is_empty());
        Drained {
            more,
            ended: session.ended,
        }
    }

    /// Gives back the slot of a session whose connection is gone.
    pub(crate) fn release(&mut self, key: usize, now: Instant) {
        self.end(key, Reason::ConnectionLost);
        self.publish_wills_due(now);
        for (_, link) in &mut self.links {
            link.waiting.remove(&key);
        }
        self.sessions.remove(key);
    }

    /// The next session or link to wake.
    pub(crate) fn poll_wake(&mut self) -> Option<Subscriber> {
        self.wakes.pop()
    }

    /// Ends the live sessions of every principal for which `whose` holds; how many there were.
    pub(crate) fn disconnect(
        &mut self,
        whose: impl Fn(&Principal) -> bool,
        reason: Reason,
        now: Instant,
    ) -> usize {
        let keys: Vec<usize> = self
            .clients
            .values()
            .copied()
            .filter(|key| whose(&self.sessions[*key].principal))
            .collect();
        for key in &keys {
            self.end(*key, reason);
        }
        self.publish_wills_due(now);
        keys.len()
    }

    /// Ends every session and lets nobody in any more.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        self.disconnect(|_| true, Reason::ShuttingDown, now);
    }

    /// Slots in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Counts a refusal that was decided elsewhere.
    pub(crate) fn count(&mut self, reason: Reason) {
        self.counters.count(reason, 1);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Live sessions.
    pub(crate) fn live(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn retained_len(&self) -> usize {
        self.retained.len()
    }

    pub(crate) fn stats(&self) -> Stats {
        let reasons = Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.counters.reasons[reason as usize]));
        Stats {
            sessions: self.clients.len(),
            connections: self.sessions.len() + self.wills_owed.len(),
            subscriptions: self.trie.len(),
            retained: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            queued_bytes: self
                .sessions
                .iter()
                .map(|(_, session)| session.queued_bytes())
                .sum(),
            connects: self.counters.connects,
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
        let taken = self.links[link].take(count, now, out);
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

    /// Wills first, in the order in which they came to wait; then the sessions.
    fn resume_after(&mut self, link: usize, now: Instant) {
        self.wills_due.append(&mut self.wills_owed);
        self.publish_wills_due(now);
        for key in std::mem::take(&mut self.links[link].waiting) {
            self.wake_session(key);
        }
    }

    /// Ends a live session: unsubscribed and out of reach at once, its will due, its last word queued.
    fn end(&mut self, key: usize, reason: Reason) {
        let session = &mut self.sessions[key];
        if session.ended.is_some() {
            return;
        }
        session.end(reason);
        self.counters.count(reason, 1);
        let principal = session.principal.clone();
        let filters = std::mem::take(&mut session.filters);
        if let Some(will) = session.will.take() {
            self.wills_due.push_back(OwedWill {
                will,
                principal: principal.clone(),
            });
        }
        for filter in filters {
            self.remove_from_trie(&filter, Subscriber::Session(key));
        }
        if self.clients.get(&principal.client_id) == Some(&key) {
            self.clients.remove(&principal.client_id);
        }
        self.hint(
            &principal.client_id,
            Hint::Disconnected {
                principal: principal.name,
                reason,
            },
        );
        self.wake_session(key);
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

    fn wake_session(&mut self, key: usize) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut session.woken, true) {
            self.wakes.push(Subscriber::Session(key));
        }
    }

    fn wake_link(&mut self, key: usize) {
        if !std::mem::replace(&mut self.links[key].woken, true) {
            self.wakes.push(Subscriber::Link(key));
        }
    }
}
