//! Retained messages: the last one of each topic, bounded in number and bytes.
//!
//! Ordered by topic, so that a filter with a literal beginning looks only at that part of the map, and a long replay can
//! stop and go on where it was.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::message::{Message, QoS};
use crate::filter;
use crate::limits::Limits;

/// The retained message of one topic.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
}

/// Retained messages by topic.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    by_topic: BTreeMap<Arc<str>, Kept>,
    bytes: usize,
}

/// Where a replay stands: the messages found, and the topic to go on behind where there is more to look at.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) messages: Vec<Kept>,
    pub(crate) go_on_after: Option<Arc<str>>,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Would `message` fit in place of what its topic holds now?
    pub(crate) fn has_room_for(&self, message: &Message, limits: &Limits) -> bool {
        if message.payload.is_empty() {
            return true;
        }
        let (replaced, replaced_bytes) = self
            .by_topic
            .get(&message.topic)
            .map_or((0, 0), |kept| (1, kept.message.cost()));
        self.by_topic.len() - replaced < limits.retained_max
            && self.bytes - replaced_bytes + message.cost() <= limits.retained_bytes_max
    }

    /// Replaces the message of its topic; an empty payload removes it [MQTT-3.3.1-6].
    pub(crate) fn set(&mut self, message: Arc<Message>, qos: QoS) {
        let replaced = if message.payload.is_empty() {
            self.by_topic.remove(&message.topic)
        } else {
            self.bytes += message.cost();
            self.by_topic.insert(message.topic.clone(), Kept { message, qos })
        };
        self.bytes -= replaced.map_or(0, |kept| kept.message.cost());
    }

    /// Forgets what has expired; how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.by_topic.len();
        let bytes = &mut self.bytes;
        self.by_topic.retain(|_, kept| {
            let expired = kept.message.is_expired(now);
            *bytes -= if expired { kept.message.cost() } else { 0 };
            !expired
        });
        before - self.by_topic.len()
    }

    /// The messages behind `after` that `wanted` matches, looking at no more than `budget` topics.
    pub(crate) fn find(&self, wanted: &str, after: Option<&str>, budget: usize, now: Instant) -> Found {
        let prefix = &wanted[..wanted.find(['+', '#']).unwrap_or(wanted.len())];
        // `a/#` also matches `a`, which sorts before its prefix `a/`.
        let start = if wanted.ends_with("/#") {
            prefix.strip_suffix('/').unwrap_or(prefix)
        } else {
            prefix
        };
        let from = after.map_or(Bound::Included(start), Bound::Excluded);
        let mut found = Found {
            messages: Vec::new(),
            go_on_after: None,
        };
        let mut last = None;
        for (looked_at, (topic, kept)) in self
            .by_topic
            .range::<str, _>((from, Bound::Unbounded))
            .enumerate()
        {
            if !topic.starts_with(start) {
                return found;
            }
            if looked_at == budget {
                found.go_on_after = last;
                return found;
            }
            if filter::matches(wanted, topic) && !kept.message.is_expired(now) {
                found.messages.push(kept.clone());
            }
            last = Some(topic.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn message(topic: &str, payload: &'static str, expires_at: Option<Instant>) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            from: "x".into(),
            properties: Bytes::new(),
            expires_at,
        })
    }

    #[test]
    fn a_filter_finds_the_same_whatever_the_budget() {
        let now = Instant::now();
        let mut retained = Retained::default();
        for topic in ["a", "a/b", "a/b/c", "a.x", "ab", "b/b", "$SYS/a"] {
            retained.set(message(topic, "x", None), QoS::AtMostOnce);
        }
        let table: &[(&str, &[&str])] = &[
            ("a/#", &["a", "a/b", "a/b/c"]),
            ("#", &["a", "a.x", "a/b", "a/b/c", "ab", "b/b"]),
            ("+/b", &["a/b", "b/b"]),
            ("a", &["a"]),
            ("$SYS/#", &["$SYS/a"]),
            ("z/+", &[]),
        ];
        for (filter, expected) in table {
            for budget in 1..9 {
                let (mut topics, mut after) = (Vec::new(), None::<Arc<str>>);
                loop {
                    let found = retained.find(filter, after.as_deref(), budget, now);
                    topics.extend(found.messages.iter().map(|kept| kept.message.topic.to_string()));
                    after = found.go_on_after;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(topics, *expected, "{filter} by {budget}");
            }
        }
    }

    #[test]
    fn bytes_are_counted_through_replacing_removing_and_expiring() {
        let now = Instant::now();
        let limits = Limits {
            retained_max: 2,
            retained_bytes_max: 200,
            ..Limits::default()
        };
        let mut retained = Retained::default();
        retained.set(message("a", "one", None), QoS::AtMostOnce);
        retained.set(message("a", "three", None), QoS::AtMostOnce);
        assert_eq!((retained.len(), retained.bytes()), (1, 64 + 1 + 5));
        retained.set(message("b", "x", Some(now)), QoS::AtMostOnce);
        assert!(!retained.has_room_for(&message("c", "x", None), &limits));
        assert!(retained.has_room_for(&message("a", "x", None), &limits));
        assert_eq!(retained.expire(now + Duration::from_secs(1)), 1);
        retained.set(message("a", "", None), QoS::AtMostOnce);
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
    }
}
