//! Shared subscriptions: what a member leaves untaken when its session ends goes to another.

use std::time::Instant;

use super::message::Delivery;
use super::trie::Subscriber;
use super::{Core, is_ready};
use crate::filter;

impl Core {
    /// Gives a message to another member of the group that it was for; without one there is nobody left to give it to.
    pub(super) fn hand_on(&mut self, delivery: Delivery, now: Instant) {
        let share = delivery
            .share
            .clone()
            .expect("only what came by a group is left to it");
        let Some(Ok((group, inner))) = filter::shared(&share) else {
            return;
        };
        let (sessions, limits) = (&self.sessions, &self.limits);
        let next = self
            .trie
            .next_of_group(inner, group, &|subscriber| is_ready(sessions, limits, subscriber));
        if let Some((Subscriber::Session(key), subscription)) = next {
            let handed_on = Delivery {
                qos: delivery.qos.min(subscription.qos),
                retain: delivery.retain && subscription.retain_as_published,
                dup: false,
                packet_id: 0,
                subscription_ids: (subscription.id != 0).then(|| Box::from([subscription.id])),
                ..delivery
            };
            self.deliver(key, handed_on, now);
        }
    }
}
