//! What the broker says of itself, below `$SYS`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Core;
use super::message::{Message, QoS};
use crate::auth::Retain;

/// Whether a topic is the broker's own, so that nobody else publishes on it.
pub(crate) fn is_system(topic: &str) -> bool {
    topic
        .strip_prefix("$SYS")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Core {
    /// Publishes on a topic of the broker's own, retained, to whoever may read it: whether it went out. It does not where a
    /// link that is subscribed to it has no room.
    pub(crate) fn publish_system(&mut self, topic: &str, payload: String, now: Instant) -> bool {
        debug_assert!(is_system(topic), "{topic}");
        let message = Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::from(payload),
            from: Arc::from(""),
            properties: Bytes::new(),
            expires_at: None,
            taken_at: now,
        });
        let routed = self.route(&message, QoS::AtMostOnce, Retain::Yes, None, now);
        self.settle(now);
        routed.is_ok()
    }
}
