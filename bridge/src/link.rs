//! What the bridge needs from a broker, and nothing more: plain MQTT, so that any broker will do.

use bytes::Bytes;
use std::future::Future;
use waypost_proto::DeviceId;

/// A connection of the bridge to a broker, subscribed to `u/+` and `p/+` (behind the prefix, if there is one).
///
/// The broker may lose everything it holds at any moment. Nothing that the bridge promises depends on it.
pub trait BrokerLink: Send + 'static {
    /// Publishes at QoS 1, without waiting for anybody. A message that the broker cannot take is lost here and
    /// repeated by the core's timers.
    fn publish(&mut self, topic: String, payload: Bytes);

    /// Ends every connection of a device, where the broker can; its credentials no longer hold.
    fn disconnect(&mut self, device: DeviceId);

    /// The next message or hint. Must be safe to drop before it is ready (cancel safe).
    fn next(&mut self) -> impl Future<Output = LinkEvent> + Send;
}

/// What a broker tells the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A message on one of the subscribed topics.
    Message {
        /// The full topic name.
        topic: String,
        /// One frame, or a presence.
        payload: Bytes,
    },
    /// A hint that a client's connection ended. Nothing may depend on it.
    Disconnected {
        /// Its client id.
        client_id: String,
    },
    /// The link is closed for good: the server is shutting down.
    Closed,
}
