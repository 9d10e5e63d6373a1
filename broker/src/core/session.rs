//! One client's session: what waits for it, what it has not acknowledged, what it subscribed.
//!
//! All of its messages wait in one queue, whatever their QoS, so that they leave in the order in which they came; where the
//! in-flight window is full, the queue waits. The rule that must hold: `queued_bytes` is what the queue costs, and never
//! over its bound. What happens to other sessions, or to the trie, is not decided here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::message::{Delivery, QoS, Version};
use super::packet::{Connect, Output, Will};
use super::subscribe::Subscription;
use crate::auth::Principal;
use crate::limits::Limits;
use crate::reason::Reason;

/// The session of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) principal: Principal,
    pub(crate) version: Version,
    /// Set once; from then on nothing is routed to it and nothing is read from it.
    pub(crate) ended: Option<Reason>,
    pub(crate) will: Option<Will>,
    /// As subscribed, `$share/…` included.
    pub(crate) filters: BTreeSet<Arc<str>>,
    /// Retained messages that a subscription still has to be sent.
    pub(crate) replays: VecDeque<Replay>,
    /// True from the wake-up until the connection has taken its output.
    pub(crate) woken: bool,
    /// True while a packet of it waits for room on a link.
    pub(crate) paused: bool,
    /// What it said last, and how long it may be silent.
    pub(crate) last_heard: Instant,
    silence_max: Option<Duration>,
    packet_bytes_max: usize,
    control: VecDeque<Output>,
    acknowledgements_unsent: u16,
    queue: VecDeque<Delivery>,
    queued_bytes: usize,
    /// Nothing that waits expires before; `None` where nothing does.
    soonest_expiry: Option<Instant>,
    /// Packet ids are keys of this slab plus one; a free one is found without a search.
    inflight: Slab<()>,
    window: usize,
}

/// A subscription that is being sent the retained messages.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) filter: Arc<str>,
    pub(crate) subscription: Subscription,
    pub(crate) after: Option<Arc<str>>,
}

/// What became of a message that was offered to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Queued,
    TooLarge,
    /// The bound is reached; nothing was queued.
    Full,
}

impl Session {
    pub(crate) fn new(
        connect: Connect,
        principal: Principal,
        keep_alive_s: u16,
        limits: &Limits,
        now: Instant,
    ) -> Session {
        Session {
            principal,
            version: connect.version,
            ended: None,
            will: connect.will,
            filters: BTreeSet::new(),
            replays: VecDeque::new(),
            woken: false,
            paused: false,
            last_heard: now,
            // [MQTT-3.1.2-22] one and a half times the keep-alive; zero turns it off.
            silence_max: (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1_500)),
            packet_bytes_max: connect
                .packet_bytes_max
                .map_or(usize::MAX, |bytes| bytes as usize),
            control: VecDeque::new(),
            acknowledgements_unsent: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            soonest_expiry: None,
            inflight: Slab::new(),
            window: usize::from(connect.receive_maximum.min(limits.inflight_max)),
        }
    }

    /// When the silence becomes too long; `None` where it never does, or where it is the broker that does not read.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.paused || self.ended.is_some() {
            return None;
        }
        self.silence_max.map(|silence| self.last_heard + silence)
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Says something that is not an application message. Bounded by what the client says and has answered: while output
    /// is unsent, nothing more is read from it.
    pub(crate) fn say(&mut self, output: Output) {
        if matches!(output, Output::PubAck { .. }) {
            self.acknowledgements_unsent = self.acknowledgements_unsent.saturating_add(1);
        }
        self.control.push_back(output);
    }

    /// Publishes that the client has sent and that it has no acknowledgement for.
    pub(crate) fn unacknowledged(&self) -> u16 {
        self.acknowledgements_unsent
    }

    /// Queues a message, within the bounds.
    pub(crate) fn offer(&mut self, delivery: Delivery, limits: &Limits) -> Offered {
        // [MQTT-3.1.2-24] never larger than the client takes.
        if self.packet_bytes_max != usize::MAX && delivery.size_at_most(self.version) > self.packet_bytes_max
        {
            return Offered::TooLarge;
        }
        let cost = delivery.message.cost();
        if !self.has_room_for(cost, limits) {
            return Offered::Full;
        }
        self.queued_bytes += cost;
        if let Some(at) = delivery.message.expires_at {
            self.soonest_expiry = Some(self.soonest_expiry.map_or(at, |soonest| soonest.min(at)));
        }
        self.queue.push_back(delivery);
        Offered::Queued
    }

    /// Is there room for a message of this cost?
    pub(crate) fn has_room_for(&self, cost: usize, limits: &Limits) -> bool {
        self.queued_bytes + cost <= limits.queued_bytes_max
    }

    /// Drops what has expired while it waited; how many there were. Looks at the queue only where there may be some.
    pub(crate) fn drop_expired(&mut self, now: Instant) -> u64 {
        if self.soonest_expiry.is_none_or(|soonest| soonest > now) {
            return 0;
        }
        let before = self.queue.len();
        self.retain_queued(|delivery| !delivery.message.is_expired(now));
        self.soonest_expiry = self
            .queue
            .iter()
            .filter_map(|delivery| delivery.message.expires_at)
            .min();
        (before - self.queue.len()) as u64
    }

    /// Frees the place of an acknowledged message; an id that is not in flight changes nothing.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) {
        self.inflight.try_remove(usize::from(packet_id).wrapping_sub(1));
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = Slab::new();
        }
    }

    /// Moves what may be sent now into `out`, about `bytes_max` bytes of messages at the most. Returns how many messages it
    /// moved, and how many had expired.
    pub(crate) fn drain(&mut self, bytes_max: usize, now: Instant, out: &mut Vec<Output>) -> (u64, u64) {
        self.woken = false;
        self.acknowledgements_unsent = 0;
        out.extend(self.control.drain(..));
        let (mut bytes, mut sent, mut expired) = (0, 0, 0);
        while bytes < bytes_max
            && let Some(next) = self.queue.front()
        {
            let with_id = next.qos != QoS::AtMostOnce;
            if with_id && self.inflight.len() >= self.window {
                break;
            }
            let mut next = self.queue.pop_front().expect("it was at the front");
            let cost = next.message.cost();
            self.queued_bytes -= cost;
            // [MQTT-3.3.2-5] what has expired is not sent any more.
            if next.message.is_expired(now) {
                expired += 1;
                continue;
            }
            if with_id {
                next.packet_id =
                    u16::try_from(self.inflight.insert(()) + 1).expect("the window is below 65,536");
            }
            bytes += cost;
            sent += 1;
            out.push(Output::Publish(next));
        }
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            self.queue = VecDeque::new();
            self.control = VecDeque::new();
        }
        (sent, expired)
    }

    /// Is there something that `drain` would move?
    pub(crate) fn has_output(&self) -> bool {
        !self.control.is_empty()
            || self
                .queue
                .front()
                .is_some_and(|next| next.qos == QoS::AtMostOnce || self.inflight.len() < self.window)
    }

    /// Nothing waits for it: time to replay retained messages.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps only those waiting messages for which `keep` holds.
    pub(crate) fn retain_queued(&mut self, keep: impl Fn(&Delivery) -> bool) {
        let queued_bytes = &mut self.queued_bytes;
        self.queue.retain(|delivery| {
            let keep = keep(delivery);
            *queued_bytes -= if keep { 0 } else { delivery.message.cost() };
            keep
        });
    }

    /// Forgets everything that waits; what was said last stands after it.
    pub(crate) fn end(&mut self, reason: Reason) {
        self.ended = Some(reason);
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.replays = VecDeque::new();
        self.inflight = Slab::new();
        if !matches!(reason, Reason::ClientDisconnected | Reason::ConnectionLost) {
            self.control.push_back(Output::Disconnect(reason));
        }
    }
}
