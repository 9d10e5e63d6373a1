//! SUBSCRIBE and UNSUBSCRIBE, for sessions and links, and the end of subscriptions that were revoked.

use std::sync::Arc;
use std::time::Instant;

use super::encode::suback_bytes;
use super::link::Incoming;
use super::message::{Delivery, QoS};
use super::packet::{Output, Requested, SendRetained};
use super::session::{Offered, Replay};
use super::trie::Subscriber;
use super::{Core, Place, REPLAY_BUDGET};
use crate::auth::{Principal, Verdict};
use crate::filter;
use crate::reason::Reason;

/// What a subscriber was granted for one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Zero where the client gave none.
    pub(crate) id: u32,
    /// The whole `$share/group/filter`, where it is shared.
    pub(crate) share: Option<Arc<str>>,
}

impl Subscription {
    pub(crate) fn is_shared(&self) -> bool {
        self.share.is_some()
    }
}

impl Core {
    pub(super) fn handle_subscribe(
        &mut self,
        at: Place,
        packet_id: u16,
        filters: Vec<Requested>,
        subscription_id: u32,
        now: Instant,
    ) {
        if !self.sessions[at.session].takes(suback_bytes(filters.len())) {
            return self.end(at.connection, Reason::AnswerTooLarge, now);
        }
        let mut granted = Vec::with_capacity(filters.len());
        for requested in filters {
            // [MQTT-3.8.3-4] no-local and shared exclude each other.
            if requested.no_local && filter::shared(&requested.filter).is_some() {
                return self.end(at.connection, Reason::ProtocolError, now);
            }
            let answer = self.subscribe_one(at.session, &requested, subscription_id);
            if let Err(reason) = answer {
                self.counters.count(reason, 1);
            }
            granted.push(answer);
        }
        self.connections[at.connection].say(Output::SubAck { packet_id, granted });
    }

    fn subscribe_one(&mut self, key: usize, requested: &Requested, id: u32) -> Result<QoS, Reason> {
        let whole = requested.filter.as_str();
        let (group, inner) = match filter::shared(whole) {
            Some(Ok((group, inner))) => (Some(group), inner),
            Some(Err(())) => return Err(Reason::FilterInvalid),
            None => (None, whole),
        };
        if !filter::is_filter(inner)
            || !self.topic_is_within_bounds(inner)
            || whole.len() > 2 * self.limits.topic_bytes_max
        {
            return Err(Reason::FilterInvalid);
        }
        let session = &self.sessions[key];
        self.authorise
            .may_subscribe(&session.principal, inner)
            .or(Reason::SubscribeForbidden)?;
        let is_new = !session.filters.contains(whole);
        if is_new && session.filters.len() >= self.limits.subscriptions_max {
            return Err(Reason::SubscriptionLimit);
        }
        let whole: Arc<str> = whole.into();
        let subscription = Subscription {
            qos: requested.qos,
            no_local: requested.no_local,
            retain_as_published: requested.retain_as_published,
            id,
            share: group.map(|_| whole.clone()),
        };
        // [MQTT-3.8.4-3] the same filter again replaces the subscription.
        self.trie
            .insert(inner, group, Subscriber::Session(key), subscription.clone());
        // [MQTT-3.3.1-9], [-10], [-11] by retain handling; never for a shared one.
        let wants_retained = match requested.retained {
            SendRetained::Always => true,
            SendRetained::WhenNew => is_new,
            SendRetained::Never => false,
        };
        self.sessions.change(key, |session| {
            session.filters.insert(whole.clone());
            session.replays.retain(|replay| replay.filter != whole);
            if wants_retained && group.is_none() {
                session.replays.push_back(Replay {
                    filter: whole,
                    subscription,
                    after: None,
                });
            }
        });
        Ok(requested.qos)
    }

    pub(super) fn handle_unsubscribe(&mut self, at: Place, packet_id: u16, filters: &[String], now: Instant) {
        if !self.sessions[at.session].takes(suback_bytes(filters.len())) {
            return self.end(at.connection, Reason::AnswerTooLarge, now);
        }
        let existed = filters
            .iter()
            .map(|filter| {
                let existed = self.sessions.change(at.session, |session| {
                    session.replays.retain(|replay| *replay.filter != **filter);
                    session.filters.remove(filter.as_str())
                });
                if existed {
                    self.remove_from_trie(filter, Subscriber::Session(at.session));
                }
                existed
            })
            .collect();
        // [MQTT-3.10.4-4], [-5] answered whether or not there was one.
        self.connections[at.connection].say(Output::UnsubAck { packet_id, existed });
    }

    /// Ends those subscriptions of sessions for which `whose` and `which` hold; how many there were. What waits for
    /// such a session, or might be sent to it again, and is not covered by another of its subscriptions does not go out any more,
    /// nor does anything on a topic for which `which` holds.
    pub(crate) fn revoke_subscriptions(
        &mut self,
        whose: impl Fn(&Principal) -> bool,
        which: impl Fn(&str) -> bool,
    ) -> usize {
        let mut revoked = 0;
        for key in self.sessions_of(whose) {
            let gone: Vec<Arc<str>> = self.sessions[key]
                .filters
                .iter()
                .filter(|whole| which(judged_part(whole)))
                .cloned()
                .collect();
            self.end_subscriptions(key, &gone, &which);
            revoked += gone.len();
        }
        revoked
    }

    /// Ends subscriptions of one session that it may not have any more, and forgets what there is for it because of them, or on
    /// a topic for which `is_revoked` holds: a filter that the client itself gave up may have left messages behind.
    pub(super) fn end_subscriptions(
        &mut self,
        key: usize,
        gone: &[Arc<str>],
        is_revoked: impl Fn(&str) -> bool,
    ) {
        self.sessions.change(key, |session| {
            session.filters.retain(|filter| !gone.contains(filter));
            session.replays.retain(|replay| !gone.contains(&replay.filter));
            let left: Vec<Arc<str>> = session.filters.iter().cloned().collect();
            let among = |filters: &[Arc<str>], topic: &str| {
                filters
                    .iter()
                    .any(|filter| filter::matches(judged_part(filter), topic))
            };
            session.retain_messages(|delivery| {
                let topic = &delivery.message.topic;
                among(&left, topic) || !(among(gone, topic) || is_revoked(topic))
            });
        });
        for filter in gone {
            self.remove_from_trie(filter, Subscriber::Session(key));
        }
        self.counters
            .count(Reason::SubscriptionRevoked, gone.len() as u64);
    }

    /// Subscribes a link; retained messages follow at once, on top of its bound.
    ///
    /// # Errors
    /// The filter is malformed, or shared: a link gets everything it asks for.
    pub(crate) fn subscribe_link(
        &mut self,
        link: usize,
        filter: &str,
        qos: QoS,
        now: Instant,
    ) -> Result<(), Reason> {
        if !filter::is_filter(filter) || filter::shared(filter).is_some() {
            return Err(Reason::FilterInvalid);
        }
        self.forget_expired(now);
        let subscription = Subscription {
            qos,
            no_local: true,
            retain_as_published: false,
            id: 0,
            share: None,
        };
        self.trie
            .insert(filter, None, Subscriber::Link(link), subscription);
        self.links[link].filters.insert(filter.into());
        for kept in self.retained.find(filter, None, usize::MAX, now).messages {
            self.links[link].push(Incoming {
                message: kept.message,
                retain: true,
            });
        }
        self.wake_link(link);
        Ok(())
    }

    /// Ends a subscription of a link; `false` where there was none.
    pub(crate) fn unsubscribe_link(&mut self, link: usize, filter: &str) -> bool {
        self.links[link].filters.remove(filter) && self.trie.remove(filter, None, Subscriber::Link(link))
    }

    /// Moves the next retained messages that a new subscription asked for into the queue of the session. Called while
    /// nothing waits there, so that however many there are, they never fill it. `Stalled` where there is no room until the
    /// client has acknowledged what it was sent.
    pub(super) fn replay_retained(&mut self, key: usize, now: Instant) -> Replayed {
        let (retained, limits, counters) = (&self.retained, &self.limits, &mut self.counters);
        let authorise = &self.authorise;
        self.sessions.change(key, |session| {
            let Some(mut replay) = session.replays.pop_front() else {
                return Replayed::Some;
            };
            let found = retained.find(&replay.filter, replay.after.as_deref(), REPLAY_BUDGET, now);
            let (mut go_on_after, mut full) = (found.go_on_after, false);
            for kept in found.messages {
                let topic = kept.message.topic.clone();
                if authorise.may_read(&session.principal, &topic) != Verdict::Allow {
                    continue;
                }
                let id = replay.subscription.id;
                let offered = session.offer(
                    Delivery {
                        qos: kept.qos.min(replay.subscription.qos),
                        message: kept.message,
                        // [MQTT-3.3.1-8] sent because of a new subscription.
                        retain: true,
                        dup: false,
                        packet_id: 0,
                        subscription_ids: (id != 0).then(|| Box::from([id])),
                        share: None,
                    },
                    limits,
                );
                match offered {
                    Offered::Queued => replay.after = Some(topic),
                    // The rest has its turn when this has gone; one that never fits is passed over.
                    Offered::Full if session.queued_bytes() == 0 => {
                        counters.count(Reason::TooLargeForReceiver, 1);
                    }
                    Offered::Full => {
                        (full, go_on_after) = (true, replay.after.take());
                        break;
                    }
                }
            }
            let stalled = full && session.is_idle();
            if full || go_on_after.is_some() {
                replay.after = go_on_after;
                session.replays.push_front(replay);
            }
            if stalled {
                Replayed::Stalled
            } else {
                Replayed::Some
            }
        })
    }

    /// Takes a filter, as it was subscribed, out of the trie.
    pub(super) fn remove_from_trie(&mut self, whole: &str, subscriber: Subscriber) {
        match filter::shared(whole) {
            Some(Ok((group, inner))) => self.trie.remove(inner, Some(group), subscriber),
            _ => self.trie.remove(whole, None, subscriber),
        };
    }
}

/// What became of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replayed {
    /// What could be moved was; the rest has its turn when that has gone.
    Some,
    Stalled,
}

/// The filter that authorisation judges: without `$share/group/`.
pub(super) fn judged_part(whole: &str) -> &str {
    match filter::shared(whole) {
        Some(Ok((_, inner))) => inner,
        _ => whole,
    }
}
