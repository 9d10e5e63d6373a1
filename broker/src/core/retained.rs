//! Retained messages: the last one of each topic, bounded in number and bytes.
//!
//! What the broker says of itself is retained as well, and counts against nothing: its topics are fixed in number, and nobody
//! else may publish on them.
//!
//! Ordered by topic, so that a filter with a literal beginning looks only at that part of the map, and a long replay can
//! stop and go on where it was. Those that expire are also ordered by when, so that looking for one that has costs nothing
//! where there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::message::{Message, QoS};
use super::system;
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
    by_expiry: BTreeSet<(Instant, Arc<str>)>,
    /// Messages and bytes that count.
    len: usize,
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
        self.len
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
        self.len - replaced < limits.retained_max
            && self.bytes - replaced_bytes + message.cost() <= limits.retained_bytes_max
    }

    /// Replaces the message of its topic; an empty payload removes it [MQTT-3.3.1-6].
    pub(crate) fn set(&mut self, message: Arc<Message>, qos: QoS) {
        self.remove(&message.topic);
        if message.payload.is_empty() {
            return;
        }
        if !system::is_system(&message.topic) {
            self.len += 1;
            self.bytes += message.cost();
        }
        if let Some(at) = message.expires_at {
            self.by_expiry.insert((at, message.topic.clone()));
        }
        self.by_topic.insert(message.topic.clone(), Kept { message, qos });
    }

    fn remove(&mut self, topic: &Arc<str>) {
        let Some(Kept { message, .. }) = self.by_topic.remove(topic) else {
            return;
        };
        if !system::is_system(topic) {
            self.len -= 1;
            self.bytes -= message.cost();
        }
        if let Some(at) = message.expires_at {
            self.by_expiry.remove(&(at, message.topic.clone()));
        }
    }

    /// Forgets what has expired, at most `count_max` of it; how many there were.
    pub(crate) fn expire(&mut self, count_max: usize, now: Instant) -> usize {
        let mut expired = 0;
        while expired < count_max
            && let Some((at, topic)) = self.by_expiry.first()
            && *at <= now
        {
            let topic = topic.clone();
            self.remove(&topic);
            expired += 1;
        }
        expired
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
            taken_at: Instant::now(),
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
        // Replaced by one that stays: its own expiry is forgotten with it.
        retained.set(message("a", "x", Some(now)), QoS::AtMostOnce);
        retained.set(message("a", "three", None), QoS::AtMostOnce);
        assert_eq!(retained.expire(9, now + Duration::from_secs(1)), 1);
        assert_eq!((retained.len(), retained.bytes()), (1, 64 + 1 + 5));
        retained.set(message("a", "", None), QoS::AtMostOnce);
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
    }

    #[test]
    fn what_expires_is_forgotten_in_its_order_and_by_a_few() {
        let now = Instant::now();
        let mut retained = Retained::default();
        for (topic, seconds) in [("a", 3), ("b", 1), ("c", 2), ("d", 9)] {
            let expires_at = Some(now + Duration::from_secs(seconds));
            retained.set(message(topic, "x", expires_at), QoS::AtMostOnce);
        }
        assert_eq!(retained.expire(9, now), 0);
        assert_eq!(retained.expire(2, now + Duration::from_secs(3)), 2);
        assert!(retained.by_topic.contains_key("a"));
        assert_eq!(retained.expire(2, now + Duration::from_secs(3)), 1);
        assert_eq!(retained.len(), 1);
        // One that has expired is not found, even before it is forgotten.
        let later = now + Duration::from_secs(9);
        assert!(retained.find("#", None, 9, later).messages.is_empty());
    }
}
