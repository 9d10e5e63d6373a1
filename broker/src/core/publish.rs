//! PUBLISH: judged, then routed once to everybody who asked for it.
//!
//! A receiver with several matching subscriptions gets the message once, at the highest QoS that one of them was granted, with
//! the identifiers of all of them [MQTT-3.3.4-2], [MQTT-3.3.4-3]; its own no-local subscriptions do not count
//! [MQTT-3.8.3-3], and each shared subscription whose turn it is counts for itself. A link never gets what it published
//! itself. QoS 1 and 2 are acknowledged as soon as the message is routed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::Incoming;
use super::message::{Delivery, Message, QoS, Version};
use super::packet::{Output, Packet, Publish, Will};
use super::session::Offered;
use super::subscribe::Subscription;
use super::trie::Subscriber;
use super::{Core, EXPIRED_AT_ONCE, Handled, Place, is_ready, system};
use crate::auth::{Principal, Retain, Verdict};
use crate::filter;
use crate::reason::Reason;

/// The will of a session that has ended, until it is published.
#[derive(Debug)]
pub(crate) struct OwedWill {
    pub(crate) will: Will,
    pub(crate) principal: Principal,
}

/// Why a link's publish was not routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkPublishError {
    TopicInvalid,
    TooLarge,
    RetainedFull,
    /// Another link that subscribed to the topic has no room.
    PeerFull,
}

/// A link that a message is for has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkFull {
    link: usize,
}

impl Core {
    pub(super) fn handle_publish(&mut self, at: Place, mut publish: Publish, now: Instant) -> Handled {
        // [MQTT-4.3.3-10] until it is released, the same identifier is the same message, and routed already.
        if publish.qos == QoS::ExactlyOnce && self.sessions[at.session].holds(publish.packet_id) {
            self.acknowledge_publish(at, &publish, None);
            return Handled::Done;
        }
        if let Err(refused) = self.judge_publish(at, &publish, now) {
            self.refuse_publish(at, &publish, refused, now);
            return Handled::Done;
        }
        // [MQTT-3.3.2-6] the time that it waits here counts, also before it is routed.
        publish.expires_at = publish
            .expires_at
            .or(publish.lifetime.map(|lifetime| now + lifetime));
        let message = Arc::new(Message {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            from: self.connections[at.connection].principal.client_id.clone(),
            properties: publish.properties.clone(),
            expires_at: publish.expires_at,
            taken_at: now,
        });
        let from = Some(Subscriber::Session(at.session));
        if let Err(LinkFull { link }) = self.route(&message, publish.qos, publish.retain, from, now) {
            self.links[link].waiting.insert(at.connection);
            self.connections[at.connection].paused = true;
            return Handled::Paused(Packet::Publish(publish));
        }
        self.counters.received += 1;
        if publish.qos == QoS::ExactlyOnce && self.connections[at.connection].ended.is_none() {
            self.sessions
                .change(at.session, |session| session.receive(publish.packet_id));
        }
        self.acknowledge_publish(at, &publish, None);
        Handled::Done
    }

    fn judge_publish(&mut self, at: Place, publish: &Publish, now: Instant) -> Result<(), Refused> {
        let connection = &self.connections[at.connection];
        if !filter::is_topic(&publish.topic) {
            return Err(Refused::Connection(Reason::TopicInvalid));
        }
        let unacknowledged = connection.acknowledgements_unsent() + self.sessions[at.session].unreleased();
        if connection.version == Version::V5
            && publish.qos != QoS::AtMostOnce
            && unacknowledged >= usize::from(self.limits.receive_maximum)
        {
            return Err(Refused::Connection(Reason::ReceiveMaximumExceeded));
        }
        if !self.topic_is_within_bounds(&publish.topic) {
            return Err(Refused::Message(Reason::TopicInvalid));
        }
        if system::is_system(&publish.topic) {
            return Err(Refused::Message(Reason::PublishForbidden));
        }
        self.authorise
            .may_publish(&connection.principal, &publish.topic, publish.retain)
            .or(Reason::PublishForbidden)
            .map_err(Refused::Message)?;
        if publish.retain == Retain::Yes
            && !self.retained_has_room(&publish.topic, &publish.payload, &publish.properties, now)
        {
            return Err(Refused::Message(Reason::RetainedLimit));
        }
        Ok(())
    }

    /// Tells the publisher in the only way its version and QoS have: an acknowledgement with a reason, or the end of the
    /// connection.
    fn refuse_publish(&mut self, at: Place, publish: &Publish, refused: Refused, now: Instant) {
        match refused {
            Refused::Message(reason)
                if self.connections[at.connection].version == Version::V5
                    && publish.qos != QoS::AtMostOnce =>
            {
                self.counters.count(reason, 1);
                self.acknowledge_publish(at, publish, Some(reason));
            }
            Refused::Message(reason) | Refused::Connection(reason) => self.end(at.connection, reason, now),
        }
    }

    fn acknowledge_publish(&mut self, at: Place, publish: &Publish, refused: Option<Reason>) {
        let packet_id = publish.packet_id;
        self.connections[at.connection].say(match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => Output::PubAck { packet_id, refused },
            QoS::ExactlyOnce => Output::PubRec { packet_id, refused },
        });
    }

    /// Publishes for a link, to be dropped where it waits for longer than `lifetime`; how many sessions it was routed to. No
    /// session can make it wait.
    ///
    /// # Errors
    /// Nothing was routed.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the parts of one message, and named where they come from"
    )]
    pub(crate) fn publish(
        &mut self,
        link: usize,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: Retain,
        lifetime: Option<Duration>,
        now: Instant,
    ) -> Result<usize, LinkPublishError> {
        self.forget_expired(now);
        if !filter::is_topic(topic) || system::is_system(topic) || topic.len() > usize::from(u16::MAX) {
            return Err(LinkPublishError::TopicInvalid);
        }
        if payload.len() + topic.len() + 16 > self.limits.packet_bytes_max {
            return Err(LinkPublishError::TooLarge);
        }
        if retain == Retain::Yes && !self.retained_has_room(topic, &payload, &Bytes::new(), now) {
            self.counters.count(Reason::RetainedLimit, 1);
            return Err(LinkPublishError::RetainedFull);
        }
        let message = Arc::new(Message {
            topic: topic.into(),
            payload,
            from: self.links[link].name.clone(),
            properties: Bytes::new(),
            // Beyond what a clock can tell is never.
            expires_at: lifetime.and_then(|lifetime| now.checked_add(lifetime)),
            taken_at: now,
        });
        let routed = self
            .route(&message, qos, retain, Some(Subscriber::Link(link)), now)
            .map_err(|LinkFull { .. }| LinkPublishError::PeerFull)?;
        self.counters.received += 1;
        self.settle(now);
        Ok(routed)
    }

    /// Publishes the will of a session, once [MQTT-3.1.2-8]; one that finds a link full waits for it.
    pub(super) fn publish_will(&mut self, owed: OwedWill, now: Instant) {
        let OwedWill { will, principal } = &owed;
        // What was allowed at CONNECT may have been revoked since.
        if self.authorise.may_publish(principal, &will.topic, will.retain) != Verdict::Allow {
            return self.counters.count(Reason::WillForbidden, 1);
        }
        let mut retain = will.retain;
        if retain == Retain::Yes && !self.retained_has_room(&will.topic, &will.payload, &will.properties, now)
        {
            self.counters.count(Reason::RetainedLimit, 1);
            retain = Retain::No;
        }
        let message = Arc::new(Message {
            topic: will.topic.clone(),
            payload: will.payload.clone(),
            from: principal.client_id.clone(),
            properties: will.properties.clone(),
            expires_at: will.lifetime.map(|lifetime| now + lifetime),
            taken_at: now,
        });
        match self.route(&message, will.qos, retain, None, now) {
            Ok(_) => self.counters.received += 1,
            Err(LinkFull { .. }) => self.wills_owed.push_back(owed),
        }
    }

    /// Hands a message to everybody who asked for it, and keeps it where it is retained. How many live sessions it went to.
    pub(super) fn route(
        &mut self,
        message: &Arc<Message>,
        qos: QoS,
        retain: Retain,
        from: Option<Subscriber>,
        now: Instant,
    ) -> Result<usize, LinkFull> {
        let mut matched = std::mem::take(&mut self.matched);
        matched.clear();
        let (sessions, limits) = (&self.sessions, &self.limits);
        self.trie.matches(
            &message.topic,
            &|subscriber| is_ready(sessions, limits, subscriber),
            &mut |subscriber, subscription| {
                let own = from == Some(subscriber);
                if !(own && (subscription.no_local || matches!(subscriber, Subscriber::Link(_)))) {
                    matched.push((subscriber, subscription.clone()));
                }
            },
        );
        let full = matched.iter().find_map(|(subscriber, _)| match subscriber {
            Subscriber::Link(link) if self.links[*link].is_full_for(message.cost()) => {
                Some(LinkFull { link: *link })
            }
            _ => None,
        });
        if let Some(full) = full {
            self.matched = matched;
            return Err(full);
        }
        if retain == Retain::Yes {
            self.retained.set(message.clone(), qos);
        }
        matched.sort_by_key(|(subscriber, subscription)| (*subscriber, subscription.is_shared()));
        let mut routed = 0;
        // Those that are shared come one by one.
        for same in
            matched.chunk_by(|one, other| one.0 == other.0 && !one.1.is_shared() && !other.1.is_shared())
        {
            match same[0].0 {
                Subscriber::Session(key) => {
                    routed += usize::from(self.deliver(key, delivery(message, qos, retain, same), now));
                }
                Subscriber::Link(link) => {
                    // [MQTT-3.3.1-9] to an established subscription it is not a retained one.
                    self.links[link].push(Incoming {
                        message: message.clone(),
                        retain: false,
                    });
                    self.counters.delivered += 1;
                    self.wake_link(link);
                }
            }
        }
        matched.clear();
        if matched.capacity() > 4_096 {
            matched = Vec::new();
        }
        self.matched = matched;
        Ok(routed)
    }

    /// Queues one message for one session, where it is still there: whether it went to a connected one. A connection that
    /// has fallen too far behind ends, and its session goes on within its own bound or ends as well.
    pub(super) fn deliver(&mut self, key: usize, delivery: Delivery, now: Instant) -> bool {
        let (limits, counters) = (&self.limits, &mut self.counters);
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        if session.connection.is_none() && delivery.qos == QoS::AtMostOnce {
            return false;
        }
        if self
            .authorise
            .may_read(&session.principal, &delivery.message.topic)
            != Verdict::Allow
        {
            return false;
        }
        let cost = delivery.message.cost();
        let offered = self.sessions.change(key, |session| {
            if !session.has_room_for(cost, limits) {
                counters.count(Reason::Expired, session.drop_expired(now));
            }
            session.offer(delivery.clone(), limits)
        });
        let held = self.sessions.held();
        match (self.sessions[key].connection, offered) {
            (Some(_), Offered::Queued) => {
                self.wake_session(key);
                true
            }
            (Some(connection), Offered::Full) => {
                self.end(connection, Reason::SlowReceiver, now);
                if self.sessions.get(key).is_some() {
                    self.deliver(key, delivery, now);
                } else {
                    self.leave_to_others(delivery);
                }
                false
            }
            (None, Offered::Queued) if held.detached_bytes <= self.limits.detached_bytes_max => false,
            (None, Offered::Queued) => {
                self.end_session(key, Some(Reason::SessionQueueFull));
                false
            }
            (None, Offered::Full) => {
                self.end_session(key, Some(Reason::SessionQueueFull));
                self.leave_to_others(delivery);
                false
            }
        }
    }

    /// A message that found no place in a session that has just ended.
    fn leave_to_others(&mut self, delivery: Delivery) {
        if delivery.share.is_some() {
            self.left_to_others.push_back(delivery);
        }
    }

    fn retained_has_room(&mut self, topic: &str, payload: &Bytes, properties: &Bytes, now: Instant) -> bool {
        let probe = Message {
            topic: topic.into(),
            payload: payload.clone(),
            from: Arc::from(""),
            properties: properties.clone(),
            expires_at: None,
            taken_at: now,
        };
        while !self.retained.has_room_for(&probe, &self.limits) {
            let expired = self.retained.expire(EXPIRED_AT_ONCE, now);
            self.counters.count(Reason::Expired, expired as u64);
            if expired == 0 {
                return false;
            }
        }
        true
    }

    pub(super) fn topic_is_within_bounds(&self, topic: &str) -> bool {
        topic.len() <= self.limits.topic_bytes_max
            && topic.bytes().filter(|byte| *byte == b'/').count() < self.limits.topic_levels_max
    }
}

/// What a refusal of a PUBLISH ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// The message, where the client can be told so.
    Message(Reason),
    /// The connection: the packet should never have been sent.
    Connection(Reason),
}

/// One delivery for all subscriptions of one session that matched.
fn delivery(
    message: &Arc<Message>,
    qos: QoS,
    retain: Retain,
    same: &[(Subscriber, Subscription)],
) -> Delivery {
    let granted = same
        .iter()
        .map(|(_, subscription)| subscription.qos)
        .max()
        .unwrap_or(QoS::AtMostOnce);
    let ids: Box<[u32]> = same
        .iter()
        .map(|(_, subscription)| subscription.id)
        .filter(|id| *id != 0)
        .collect();
    Delivery {
        message: message.clone(),
        // [MQTT-3.8.4-8] the lower of what was published and what was granted.
        qos: qos.min(granted),
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        retain: retain == Retain::Yes
            && same
                .iter()
                .any(|(_, subscription)| subscription.retain_as_published),
        dup: false,
        packet_id: 0,
        subscription_ids: (!ids.is_empty()).then_some(ids),
        share: same[0].1.share.clone(),
    }
}
