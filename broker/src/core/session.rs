//! One client's session: what waits for it, what it has not acknowledged, what it subscribed. It lives as long as its
//! connection, or longer by its expiry; then it is called detached.
//!
//! All of its messages wait in one queue, whatever their QoS, so that they leave in the order in which they came; where the
//! in-flight window is full, the queue waits. What was sent and is not acknowledged is kept where somebody can still ask for
//! it: for the client when it comes back, or for another member of a shared subscription. The rule that must hold:
//! `queued_bytes` is what the queue and what is kept cost, and never over its bound. What happens to other sessions, or to the
//! trie, is not decided here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::message::{Delivery, QoS, Version};
use super::packet::{Connect, Identifier, Output, Received, Will};
use super::subscribe::Subscription;
use super::waits::Waits;
use crate::auth::Principal;
use crate::limits::Limits;

/// Identifiers that may be in use at the same time: 1 to 65,535.
const PACKET_IDS: usize = 65_535;

/// The session of one client identifier.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) principal: Principal,
    /// The connection that speaks for it; `None` while it is detached.
    pub(crate) connection: Option<usize>,
    /// Since when it does.
    attached_at: Option<Instant>,
    /// Seconds that it outlives its connection; zero for not at all, 0xFFFFFFFF for ever.
    pub(crate) expiry_s: u32,
    /// Published when the connection is lost, or `will_at`.
    pub(crate) will: Option<Will>,
    pub(crate) will_at: Option<Instant>,
    /// When it ends, where it is detached and ends at all.
    pub(crate) ends_at: Option<Instant>,
    /// As subscribed, `$share/…` included.
    pub(crate) filters: BTreeSet<Arc<str>>,
    /// Retained messages that a subscription still has to be sent.
    pub(crate) replays: VecDeque<Replay>,
    version: Version,
    packet_bytes_max: usize,
    queue: VecDeque<Delivery>,
    queued_bytes: usize,
    /// What had waited for it when its connection began.
    backlog_bytes: usize,
    /// Nothing that waits expires before; `None` where nothing does.
    soonest_expiry: Option<Instant>,
    /// Packet ids are keys of this slab plus one; a free one is found without a search.
    inflight: Slab<Inflight>,
    /// Counts the messages that were sent with an identifier, so that they can be sent again in that order.
    sent: u64,
    /// Identifiers to be sent again on this connection, in the order in which they were sent first.
    resend: VecDeque<u16>,
    /// Sent on this connection and not acknowledged to the end.
    outstanding: usize,
    window: usize,
    /// Messages of QoS 2 that were taken from the client and that it has not released: a repetition is not routed again.
    received: BTreeSet<u16>,
}

/// A message that was sent and is not acknowledged to the end.
#[derive(Debug)]
struct Inflight {
    awaits: Awaits,
    order: u64,
    /// On this connection.
    sent: bool,
    /// `None` where nobody can ask for it again.
    delivery: Option<Box<Delivery>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// PUBACK.
    Acknowledgement,
    /// PUBREC.
    Receipt,
    /// PUBCOMP.
    Completion,
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
    /// The bound is reached; nothing was queued.
    Full,
}

/// What became of the messages that one drain looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) sent: u64,
    pub(crate) expired: u64,
    pub(crate) too_large: u64,
}

impl Session {
    pub(crate) fn new(principal: Principal) -> Session {
        Session {
            principal,
            connection: None,
            attached_at: None,
            expiry_s: 0,
            will: None,
            will_at: None,
            ends_at: None,
            filters: BTreeSet::new(),
            replays: VecDeque::new(),
            version: Version::V311,
            packet_bytes_max: usize::MAX,
            queue: VecDeque::new(),
            queued_bytes: 0,
            backlog_bytes: 0,
            soonest_expiry: None,
            inflight: Slab::new(),
            sent: 0,
            resend: VecDeque::new(),
            outstanding: 0,
            window: 0,
            received: BTreeSet::new(),
        }
    }

    /// A connection speaks for it from now on; what was sent before and is not acknowledged is due again
    /// [MQTT-4.4.0-1], in the order in which it was sent [MQTT-4.6.0-1].
    pub(crate) fn attach(
        &mut self,
        connection: usize,
        connect: Connect,
        expiry_s: u32,
        limits: &Limits,
        now: Instant,
    ) {
        self.connection = Some(connection);
        self.attached_at = Some(now);
        self.expiry_s = expiry_s;
        // [MQTT-3.1.3-9] back before the delay is over: the will of the last connection is not sent.
        self.will = connect.will;
        self.will_at = None;
        self.ends_at = None;
        self.version = connect.version;
        self.packet_bytes_max = connect
            .packet_bytes_max
            .map_or(usize::MAX, |bytes| bytes as usize);
        self.window = usize::from(connect.receive_maximum.min(limits.inflight_max));
        self.backlog_bytes = self.queued_bytes;
        self.outstanding = 0;
        let mut again: Vec<(u64, u16)> = Vec::with_capacity(self.inflight.len());
        for (key, inflight) in &mut self.inflight {
            inflight.sent = false;
            again.push((inflight.order, packet_id(key)));
        }
        again.sort_unstable();
        self.resend = again.into_iter().map(|(_, id)| id).collect();
    }

    /// Nobody speaks for it any more. What has QoS 0 is gone with the connection.
    pub(crate) fn detach(&mut self, now: Instant) {
        self.connection = None;
        // Beyond what a clock can tell is never.
        self.ends_at = (self.expiry_s != u32::MAX)
            .then(|| now.checked_add(Duration::from_secs(self.expiry_s.into())))
            .flatten();
        self.will_at = self
            .will
            .as_ref()
            .map(|will| now.checked_add(will.delay).unwrap_or(now));
        self.retain_queued(|delivery| delivery.qos != QoS::AtMostOnce);
        self.resend = VecDeque::new();
        self.queue.shrink_to_fit();
    }

    /// Does it outlive its connection?
    pub(crate) fn is_kept(&self) -> bool {
        self.expiry_s != 0
    }

    /// When something about it is due: its will, or its end.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.will_at.into_iter().chain(self.ends_at).min()
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Messages that wait, or were sent and are not acknowledged to the end.
    pub(crate) fn queued_messages(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }

    /// Messages that were sent and are not acknowledged to the end.
    pub(crate) fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Messages of QoS 2 that were taken from the client and not released.
    pub(crate) fn unreleased(&self) -> usize {
        self.received.len()
    }

    /// Queues a message, within the bound.
    pub(crate) fn offer(&mut self, delivery: Delivery, limits: &Limits) -> Offered {
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

    /// Is there room for a message of this cost? A client that comes back to a backlog is not a slow one until it has fallen
    /// as far behind that as any other may.
    pub(crate) fn has_room_for(&self, cost: usize, limits: &Limits) -> bool {
        let bytes_max = match self.connection {
            Some(_) => limits.queued_bytes_max + self.backlog_bytes,
            None => limits.detached_queued_bytes_max,
        };
        self.queued_bytes + cost <= bytes_max
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

    /// Takes a PUBLISH of QoS 2 from the client: whether it is a new one [MQTT-4.3.3-10].
    pub(crate) fn receive(&mut self, packet_id: u16) -> bool {
        self.received.insert(packet_id)
    }

    /// Was this message taken and not released?
    pub(crate) fn holds(&self, packet_id: u16) -> bool {
        self.received.contains(&packet_id)
    }

    /// The client releases a message: from now on its identifier means a new one [MQTT-4.3.3-12].
    pub(crate) fn release(&mut self, packet_id: u16) -> Identifier {
        if self.received.remove(&packet_id) {
            Identifier::Known
        } else {
            Identifier::Unknown
        }
    }

    /// PUBACK: frees the place of a message of QoS 1; an identifier that awaits something else changes nothing.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) {
        self.complete(packet_id, Awaits::Acknowledgement);
    }

    /// PUBREC: the client has the message of QoS 2 [MQTT-4.3.3-4]; what it is to be told, if anything.
    pub(crate) fn take_receipt(&mut self, packet_id: u16, verdict: Received) -> Option<Output> {
        let key = usize::from(packet_id).wrapping_sub(1);
        let known = self
            .inflight
            .get_mut(key)
            .filter(|inflight| inflight.awaits != Awaits::Acknowledgement);
        match (known, verdict) {
            (Some(_), Received::Refused) => {
                self.complete(packet_id, Awaits::Receipt);
                None
            }
            (Some(inflight), Received::Taken) => {
                inflight.awaits = Awaits::Completion;
                if !std::mem::replace(&mut inflight.sent, true) {
                    self.outstanding += 1;
                }
                if let Some(delivery) = inflight.delivery.take() {
                    self.queued_bytes -= delivery.message.cost();
                }
                Some(Output::PubRel {
                    packet_id,
                    identifier: Identifier::Known,
                })
            }
            (None, Received::Refused) => None,
            (None, Received::Taken) => Some(Output::PubRel {
                packet_id,
                identifier: Identifier::Unknown,
            }),
        }
    }

    /// PUBCOMP: frees the place of a message of QoS 2.
    pub(crate) fn finish(&mut self, packet_id: u16) {
        self.complete(packet_id, Awaits::Completion);
    }

    fn complete(&mut self, packet_id: u16, awaited: Awaits) {
        let key = usize::from(packet_id).wrapping_sub(1);
        if self
            .inflight
            .get(key)
            .is_none_or(|inflight| inflight.awaits != awaited)
        {
            return;
        }
        self.forget_inflight(key);
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = Slab::new();
        }
    }

    /// Moves what may be sent now into `out`, about `bytes_max` bytes of messages at the most. `waits` counts how long they
    /// waited for this connection.
    pub(crate) fn drain(
        &mut self,
        bytes_max: usize,
        now: Instant,
        out: &mut Vec<Output>,
        waits: &mut Waits,
    ) -> Sent {
        let (mut bytes, mut done) = (0, Sent::default());
        self.drain_again(bytes_max, out, &mut bytes, &mut done);
        while self.resend.is_empty()
            && bytes < bytes_max
            && let Some(next) = self.queue.front()
        {
            let with_id = next.qos != QoS::AtMostOnce;
            if with_id && !self.has_window() {
                break;
            }
            let mut next = self.queue.pop_front().expect("it was at the front");
            let cost = next.message.cost();
            // [MQTT-3.3.2-5] what has expired is not sent any more, [MQTT-3.1.2-24] nor what is larger than the client takes.
            if next.message.is_expired(now) || self.is_too_large(&next) {
                self.queued_bytes -= cost;
                if next.message.is_expired(now) {
                    done.expired += 1;
                } else {
                    done.too_large += 1;
                }
                continue;
            }
            if with_id {
                self.put_in_flight(&mut next);
            } else {
                self.queued_bytes -= cost;
            }
            // What came before the connection, and what was retained, has waited for something else.
            let taken_at = next.message.taken_at;
            if !next.retain && self.attached_at.is_some_and(|at| at <= taken_at) {
                waits.count(now.saturating_duration_since(taken_at));
            }
            bytes += cost;
            done.sent += 1;
            out.push(Output::Publish(next));
        }
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            self.queue = VecDeque::new();
        }
        done
    }

    /// The part of `drain` that a connection owes from an earlier one.
    fn drain_again(&mut self, bytes_max: usize, out: &mut Vec<Output>, bytes: &mut usize, done: &mut Sent) {
        while *bytes < bytes_max
            && self.outstanding < self.window
            && let Some(packet_id) = self.resend.pop_front()
        {
            let key = usize::from(packet_id) - 1;
            let Some(inflight) = self.inflight.get_mut(key).filter(|inflight| !inflight.sent) else {
                continue;
            };
            if inflight.awaits == Awaits::Completion {
                (inflight.sent, self.outstanding) = (true, self.outstanding + 1);
                out.push(Output::PubRel {
                    packet_id,
                    identifier: Identifier::Known,
                });
                continue;
            }
            // [MQTT-4.3.3-7] what was sent once does not expire any more.
            let again = inflight
                .delivery
                .as_deref()
                .filter(|delivery| delivery.size_at_most(self.version) <= self.packet_bytes_max)
                .cloned();
            match again {
                Some(delivery) => {
                    (inflight.sent, self.outstanding) = (true, self.outstanding + 1);
                    *bytes += delivery.message.cost();
                    done.sent += 1;
                    out.push(Output::Publish(Delivery {
                        dup: true,
                        ..delivery
                    }));
                }
                // Nobody waits for the rest of it.
                None if inflight.awaits == Awaits::Acknowledgement => {
                    done.too_large += u64::from(inflight.delivery.is_some());
                    self.forget_inflight(key);
                }
                // The client may have taken it; until the session ends its identifier must not mean another message.
                None => {}
            }
        }
    }

    fn put_in_flight(&mut self, next: &mut Delivery) {
        let keep = self.is_kept() || next.share.is_some();
        let entry = self.inflight.vacant_entry();
        next.packet_id = packet_id(entry.key());
        if !keep {
            self.queued_bytes -= next.message.cost();
        }
        entry.insert(Inflight {
            awaits: match next.qos {
                QoS::ExactlyOnce => Awaits::Receipt,
                _ => Awaits::Acknowledgement,
            },
            order: self.sent,
            sent: true,
            delivery: keep.then(|| Box::new(next.clone())),
        });
        self.sent += 1;
        self.outstanding += 1;
    }

    fn forget_inflight(&mut self, key: usize) {
        let inflight = self.inflight.remove(key);
        self.outstanding -= usize::from(inflight.sent);
        self.queued_bytes -= inflight.delivery.map_or(0, |delivery| delivery.message.cost());
    }

    fn has_window(&self) -> bool {
        self.outstanding < self.window && self.inflight.len() < PACKET_IDS
    }

    /// Whether its client takes a packet of so many bytes [MQTT-3.1.2-24].
    pub(crate) fn takes(&self, packet_bytes: usize) -> bool {
        packet_bytes <= self.packet_bytes_max
    }

    fn is_too_large(&self, delivery: &Delivery) -> bool {
        self.packet_bytes_max != usize::MAX && delivery.size_at_most(self.version) > self.packet_bytes_max
    }

    /// Is there something that `drain` would move?
    pub(crate) fn has_output(&self) -> bool {
        if !self.resend.is_empty() {
            return self.outstanding < self.window;
        }
        self.queue
            .front()
            .is_some_and(|next| next.qos == QoS::AtMostOnce || self.has_window())
    }

    /// Nothing waits for it: time to replay retained messages.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.resend.is_empty()
    }

    /// Keeps only those waiting messages for which `keep` holds.
    fn retain_queued(&mut self, keep: impl Fn(&Delivery) -> bool) {
        let queued_bytes = &mut self.queued_bytes;
        self.queue.retain(|delivery| {
            let keep = keep(delivery);
            *queued_bytes -= if keep { 0 } else { delivery.message.cost() };
            keep
        });
    }

    /// Keeps only those messages for which `keep` holds, also of those that might be sent again.
    pub(crate) fn retain_messages(&mut self, keep: impl Fn(&Delivery) -> bool) {
        self.retain_queued(&keep);
        for (_, inflight) in &mut self.inflight {
            if let Some(delivery) = inflight.delivery.take_if(|delivery| !keep(delivery)) {
                self.queued_bytes -= delivery.message.cost();
            }
        }
    }

    /// What it leaves to the other members of its shared subscriptions: all that it has not been sent, and of what it has been
    /// sent and not acknowledged only QoS 1 [MQTT-4.8.2-5], in the order in which it came.
    pub(crate) fn into_shared(self) -> Vec<Delivery> {
        let mut sent: Vec<Inflight> = self
            .inflight
            .into_iter()
            .map(|(_, inflight)| inflight)
            .filter(|inflight| inflight.awaits == Awaits::Acknowledgement)
            .collect();
        sent.sort_unstable_by_key(|inflight| inflight.order);
        sent.into_iter()
            .filter_map(|inflight| inflight.delivery.map(|delivery| *delivery))
            .chain(self.queue)
            .filter(|delivery| delivery.share.is_some())
            .collect()
    }
}

fn packet_id(key: usize) -> u16 {
    u16::try_from(key + 1).expect("no more than 65,535 messages are in flight")
}
