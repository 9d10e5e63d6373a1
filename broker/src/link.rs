//! The in-process link: a privileged client without a network.
//!
//! Publishing returns at once, whatever the receivers do. What the link receives is bounded: when its queue is full, the
//! network clients that publish to it are read no further until there is room, and nothing is lost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::Retain;
use crate::broker::Shared;
use crate::core::LinkPublishError;
use crate::core::link::{Hint, LinkOutput};
use crate::core::message::QoS;
use crate::limits::LinkLimits;
use crate::reason::Reason;
use crate::signal::Signal;

/// How many events are taken out of the queue under one lock; so many are at most held beyond its bound.
const EVENTS_AT_ONCE: usize = 64;

/// Something that a link receives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A message on a topic that the link subscribed.
    Message {
        /// Its topic.
        topic: Arc<str>,
        /// Its payload.
        payload: Bytes,
        /// True for a retained message that was there before the subscription.
        retain: bool,
        /// The client id of its publisher, or the name of its link; a will comes from the client that left it.
        from: Arc<str>,
    },
    /// A hint: the client is connected. Only the newest hint of a client is kept.
    Connected {
        /// The client id.
        client_id: Arc<str>,
        /// The name of its principal.
        principal: Arc<str>,
    },
    /// A hint: the client is gone. It may come before the client's last messages.
    Disconnected {
        /// The client id.
        client_id: Arc<str>,
        /// The name of its principal.
        principal: Arc<str>,
        /// Why its session ended.
        reason: Reason,
    },
}

/// Why a link's request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The topic has wildcards, is empty, or is one of the broker's own below `$SYS`.
    #[error("not a topic that can be published")]
    TopicInvalid,
    /// The filter is malformed, or shared.
    #[error("not a filter that a link can subscribe")]
    FilterInvalid,
    /// The message is over [`crate::Limits::packet_bytes_max`].
    #[error("the message is larger than a packet may be")]
    TooLarge,
    /// [`crate::Limits::retained_max`] or [`crate::Limits::retained_bytes_max`] is reached.
    #[error("no room for another retained message")]
    RetainedFull,
    /// Another link that subscribed to the topic has no room; try again when it has taken some.
    #[error("another link has no room for the message")]
    PeerFull,
    /// The receiver of this link has been dropped.
    #[error("the link is closed")]
    Closed,
}

impl From<LinkPublishError> for LinkError {
    fn from(error: LinkPublishError) -> LinkError {
        match error {
            LinkPublishError::TopicInvalid => LinkError::TopicInvalid,
            LinkPublishError::TooLarge => LinkError::TooLarge,
            LinkPublishError::RetainedFull => LinkError::RetainedFull,
            LinkPublishError::PeerFull => LinkError::PeerFull,
        }
    }
}

/// The publishing half of a link; clones share it.
#[derive(Clone)]
pub struct LinkSender {
    link: Arc<Link>,
}

/// The receiving half of a link.
pub struct LinkReceiver {
    link: Arc<Link>,
    taken: VecDeque<LinkOutput>,
}

/// One link; its slot is given back when both halves are gone.
struct Link {
    shared: Arc<Shared>,
    key: usize,
    signal: Arc<Signal>,
}

/// Opens a link.
pub(crate) fn open(shared: &Arc<Shared>, name: Arc<str>, limits: LinkLimits) -> (LinkSender, LinkReceiver) {
    let key = shared.with(|core, _| core.open_link(name, limits));
    let signal = Arc::new(Signal::default());
    shared.attach_link(key, signal.clone());
    let link = Arc::new(Link {
        shared: shared.clone(),
        key,
        signal,
    });
    (
        LinkSender { link: link.clone() },
        LinkReceiver {
            link,
            taken: VecDeque::new(),
        },
    )
}

impl LinkSender {
    /// Subscribes; retained messages that match come first. Subscribing again sends them again. A link is memory, so that
    /// every message arrives once, whatever the QoS.
    ///
    /// # Errors
    /// [`LinkError::FilterInvalid`], [`LinkError::Closed`].
    pub fn subscribe(&self, filter: &str, qos: QoS) -> Result<(), LinkError> {
        let key = self.link.key;
        self.link.shared.with(|core, now| {
            if core.link_is_closed(key) {
                return Err(LinkError::Closed);
            }
            core.subscribe_link(key, filter, qos, now)
                .map_err(|_| LinkError::FilterInvalid)
        })
    }

    /// Ends a subscription; `false` where there was none.
    pub fn unsubscribe(&self, filter: &str) -> bool {
        self.link
            .shared
            .with(|core, _| core.unsubscribe_link(self.link.key, filter))
    }

    /// Publishes, never to itself; how many sessions the message was routed to. Returns at once: a session without room for
    /// it is disconnected, and QoS 2 is carried as 1.
    ///
    /// # Errors
    /// Nothing was routed, and the variant says why.
    pub fn publish(&self, topic: &str, payload: Bytes, qos: QoS, retain: Retain) -> Result<usize, LinkError> {
        self.publish_for(topic, payload, qos, retain, None)
    }

    /// Publishes like [`LinkSender::publish`] what is worth nothing any more after `lifetime`: where it still waits for a
    /// receiver then, or is retained, it is dropped and counted as [`Reason::Expired`]. Receivers that speak MQTT 5 are told
    /// how much of the lifetime is left, in seconds, rounded up.
    ///
    /// # Errors
    /// Nothing was routed, and the variant says why.
    pub fn publish_expiring(
        &self,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: Retain,
        lifetime: Duration,
    ) -> Result<usize, LinkError> {
        self.publish_for(topic, payload, qos, retain, Some(lifetime))
    }

    fn publish_for(
        &self,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: Retain,
        lifetime: Option<Duration>,
    ) -> Result<usize, LinkError> {
        let routed = self
            .link
            .shared
            .with(|core, now| core.publish(self.link.key, topic, payload, qos, retain, lifetime, now));
        Ok(routed?)
    }
}

impl LinkReceiver {
    /// The next event. Never ends by itself; safe to drop and call again.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            poll_fn(|context| self.link.signal.poll(context)).await;
        }
    }

    /// The next event, where one is there already; for taking all that has come at once.
    pub fn try_recv(&mut self) -> Option<LinkEvent> {
        if self.taken.is_empty() {
            let taken = &mut self.taken;
            self.link
                .shared
                .with(|core, now| core.take(self.link.key, EVENTS_AT_ONCE, now, taken));
        }
        self.taken.pop_front().map(event)
    }
}

fn event(output: LinkOutput) -> LinkEvent {
    match output {
        LinkOutput::Message(incoming) => LinkEvent::Message {
            topic: incoming.message.topic.clone(),
            payload: incoming.message.payload.clone(),
            retain: incoming.retain,
            from: incoming.message.from.clone(),
        },
        LinkOutput::Hint(client_id, Hint::Connected { principal }) => {
            LinkEvent::Connected { client_id, principal }
        }
        LinkOutput::Hint(client_id, Hint::Disconnected { principal, reason }) => LinkEvent::Disconnected {
            client_id,
            principal,
            reason,
        },
    }
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        self.link
            .shared
            .with(|core, now| core.close_link(self.link.key, now));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.release_link(self.key);
    }
}
