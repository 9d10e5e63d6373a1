//! The queue of one in-process link, and how a full one slows those who publish to it.
//!
//! A publish from the network that would go over the bound is handed back to its connection, which stops reading; once
//! half of the queue is free they all go on. Nothing is dropped and nothing piles up: a will that finds the queue full waits
//! in the slot of the connection that it came from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::message::Message;
use super::waits::Waits;
use crate::limits::LinkLimits;
use crate::reason::Reason;

/// What waits for one link.
#[derive(Debug)]
pub(crate) struct LinkQueue {
    pub(crate) name: Arc<str>,
    pub(crate) filters: BTreeSet<Arc<str>>,
    /// Sessions that hold a packet back until there is room.
    pub(crate) waiting: BTreeSet<usize>,
    pub(crate) woken: bool,
    pub(crate) closed: bool,
    limits: LinkLimits,
    queue: VecDeque<Incoming>,
    queued_bytes: usize,
    hints: BTreeMap<Arc<str>, Hint>,
    /// Set when something was turned away, until half of the queue is free.
    stopped: bool,
}

/// A message for a link.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) message: Arc<Message>,
    pub(crate) retain: bool,
}

/// What changed about one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    Connected { principal: Arc<str> },
    Disconnected { principal: Arc<str>, reason: Reason },
}

/// What became of a request for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Those who wait for room may go on.
    pub(crate) has_room_again: bool,
    /// Messages that had expired and were dropped.
    pub(crate) expired: u64,
}

/// Something a link is told.
#[derive(Debug, Clone)]
pub(crate) enum LinkOutput {
    Hint(Arc<str>, Hint),
    Message(Incoming),
}

impl LinkQueue {
    pub(crate) fn new(name: Arc<str>, limits: LinkLimits) -> LinkQueue {
        LinkQueue {
            name,
            filters: BTreeSet::new(),
            waiting: BTreeSet::new(),
            woken: false,
            closed: false,
            limits,
            queue: VecDeque::new(),
            queued_bytes: 0,
            hints: BTreeMap::new(),
            stopped: false,
        }
    }

    /// Would a message of this cost have to wait? One that did keeps all others waiting, so that none overtakes it.
    pub(crate) fn is_full_for(&mut self, cost: usize) -> bool {
        if self.queued_bytes > 0 && self.queued_bytes + cost > self.limits.queued_bytes_max {
            self.stopped = true;
        }
        self.stopped
    }

    pub(crate) fn push(&mut self, incoming: Incoming) {
        self.queued_bytes += incoming.message.cost();
        self.queue.push_back(incoming);
    }

    /// Replaces what is known about a client; `false` where there is no room for a further one.
    pub(crate) fn hint(&mut self, client_id: &Arc<str>, hint: Hint) -> bool {
        if self.hints.len() >= self.limits.hints_max && !self.hints.contains_key(client_id) {
            return false;
        }
        self.hints.insert(client_id.clone(), hint);
        true
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Moves up to `count` events into `out`, hints first.
    pub(crate) fn take(
        &mut self,
        count: usize,
        now: Instant,
        out: &mut VecDeque<LinkOutput>,
        waits: &mut Waits,
    ) -> Taken {
        self.woken = false;
        let (mut left, mut expired) = (count, 0);
        while left > 0
            && let Some((client_id, hint)) = self.hints.pop_first()
        {
            out.push_back(LinkOutput::Hint(client_id, hint));
            left -= 1;
        }
        while left > 0
            && let Some(incoming) = self.queue.pop_front()
        {
            self.queued_bytes -= incoming.message.cost();
            // [MQTT-3.3.2-5] what has expired is not delivered any more.
            if incoming.message.is_expired(now) {
                expired += 1;
                continue;
            }
            // What was retained has waited for nobody.
            if !incoming.retain {
                waits.count(now.saturating_duration_since(incoming.message.taken_at));
            }
            out.push_back(LinkOutput::Message(incoming));
            left -= 1;
        }
        if self.queue.is_empty() && self.queue.capacity() > 1024 {
            self.queue = VecDeque::new();
        }
        let has_room_again = self.stopped && self.queued_bytes <= self.limits.queued_bytes_max / 2;
        if has_room_again {
            self.stopped = false;
        }
        Taken {
            has_room_again,
            expired,
        }
    }

    /// Nobody receives any more: forgets everything.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.hints = BTreeMap::new();
        self.stopped = false;
    }
}
