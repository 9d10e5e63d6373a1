//! What the bridge needs from a broker, and nothing more: plain MQTT, so that any broker will do.

use bytes::Bytes;
use std::future::Future;
use waypost_proto::DeviceId;

/// Whether a broker keeps a message for whoever subscribes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// For whoever is subscribed now.
    No,
    /// It replaces what was kept on the topic.
    Yes,
}

/// What a broker can do about the subscriptions of a device that has left a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriptions {
    /// [`BrokerLink::end_subscription`] ends them before anything else is sent on them: a group's topic may be used.
    CanBeEnded,
    /// They last as long as their clients like. What goes to a group then goes to each member's own topic, since a
    /// member who has left would still listen on the group's.
    LastAsLongAsTheirClients,
}

/// A connection of the bridge to a broker, subscribed to `u/+`, `p/+` and `owntracks/+/+/#` (behind the prefix, if
/// there is one).
///
/// The broker may lose everything it holds at any moment. Nothing that the bridge promises depends on it.
pub trait BrokerLink: Send + 'static {
    /// Publishes at QoS 1, without waiting for anybody. A message that the broker cannot take is lost here and
    /// repeated by the core's timers; a retained one is published again with each [`LinkEvent::Opened`].
    fn publish(&mut self, topic: String, payload: Bytes, retain: Retain);

    /// What [`BrokerLink::end_subscription`] does on this broker.
    fn subscriptions(&self) -> Subscriptions;

    /// Ends the subscriptions of a device's clients to a topic, however they phrased them, where the broker can.
    fn end_subscription(&mut self, device: DeviceId, topic: &str);

    /// Ends every connection of a device, where the broker can; its credentials no longer hold.
    fn disconnect(&mut self, device: DeviceId);

    /// The next message or hint. Must be safe to drop before it is ready (cancel safe).
    fn next(&mut self) -> impl Future<Output = LinkEvent> + Send;
}

/// What a broker tells the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link to the broker stands, for the first time or again: the broker may have lost everything it held.
    Opened,
    /// A message on one of the subscribed topics.
    Message {
        /// The full topic name.
        topic: String,
        /// One frame, a presence, or what an OwnTracks app says.
        payload: Bytes,
        /// Whether the broker kept it from before the bridge subscribed.
        retained: bool,
    },
    /// A hint that a client's connection ended. Nothing may depend on it.
    Disconnected {
        /// Its client id.
        client_id: String,
    },
    /// The link is closed for good: the server is shutting down.
    Closed,
}
