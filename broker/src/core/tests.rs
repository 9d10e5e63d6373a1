//! The core driven by plain values: several connections, a clock that only moves when told, no runtime.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::link::LinkOutput;
use super::message::{QoS, Version};
use super::packet::{
    ConnAck, Connect, Output, Packet, Publish, Received, Requested, SendRetained, SessionPresent, Will,
};
use super::{ClientIdFrom, Core, Handled, LinkPublishError};
use crate::auth::{AllowList, Principal, Retain, Verdict};
use crate::filter;
use crate::limits::{Limits, LinkLimits};
use crate::reason::Reason;

struct World {
    core: Core,
    now: Instant,
}

fn world(limits: Limits) -> World {
    let allow = AllowList {
        publish: vec!["a/#".into(), "q".into(), "w".into()],
        subscribe: vec!["a/#".into(), "q".into(), "w".into()],
    };
    World {
        core: Core::new(limits, Arc::new(allow)),
        now: Instant::now(),
    }
}

fn connect(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        client_id: client_id.into(),
        clean_start: true,
        keep_alive_s: 10,
        will: None,
        username: None,
        password: None,
        receive_maximum: u16::MAX,
        packet_bytes_max: None,
        topic_alias_max: 0,
        session_expiry_s: 0,
        wants_problem_information: true,
    }
}

fn will(topic: &str) -> Will {
    Will {
        topic: topic.into(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: Retain::No,
        properties: Bytes::new(),
        lifetime: None,
        delay: Duration::ZERO,
    }
}

fn goodbye(with_will: bool) -> Packet {
    Packet::Disconnect {
        with_will,
        session_expiry_s: None,
    }
}

fn publish(topic: &str, qos: QoS, payload: &str) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: Retain::No,
        packet_id: u16::from(qos != QoS::AtMostOnce),
        properties: Bytes::new(),
        lifetime: None,
        expires_at: None,
    }
}

fn requested(filter: &str, qos: QoS) -> Requested {
    Requested {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retained: SendRetained::Always,
    }
}

impl World {
    fn join(&mut self, connect: Connect) -> usize {
        let key = self.try_join(connect).expect("the test expects it to be let in");
        assert!(matches!(self.outputs(key)[..], [Output::ConnAck(_)]));
        key
    }

    fn try_join(&mut self, connect: Connect) -> Result<usize, Reason> {
        let principal = Principal::new(connect.client_id.as_str(), connect.client_id.as_str());
        self.core
            .connect(connect, principal, ClientIdFrom::Client, self.now)
    }

    fn subscribe(&mut self, key: usize, filters: &[(&str, QoS)]) -> Vec<Result<QoS, Reason>> {
        let filters = filters
            .iter()
            .map(|(filter, qos)| requested(filter, *qos))
            .collect();
        self.send(
            key,
            Packet::Subscribe {
                packet_id: 1,
                filters,
                subscription_id: 0,
            },
        );
        self.outputs(key)
            .into_iter()
            .find_map(|output| match output {
                Output::SubAck { granted, .. } => Some(granted),
                _ => None,
            })
            .unwrap_or_default()
    }

    fn send(&mut self, key: usize, packet: Packet) -> Handled {
        self.core.handle(key, packet, self.now)
    }

    fn publish(&mut self, key: usize, topic: &str, qos: QoS, payload: &str) -> Handled {
        self.send(key, Packet::Publish(publish(topic, qos, payload)))
    }

    fn outputs(&mut self, key: usize) -> Vec<Output> {
        let mut all = Vec::new();
        while self.core.drain(key, 100, self.now, &mut all).more {}
        all
    }

    /// The payloads that a session is sent, acknowledged as they come.
    fn received(&mut self, key: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let outputs = self.outputs(key);
            if outputs.is_empty() {
                return payloads;
            }
            for output in outputs {
                match output {
                    Output::Publish(delivery) => {
                        payloads.push(String::from_utf8(delivery.message.payload.to_vec()).unwrap());
                        let packet_id = delivery.packet_id;
                        let verdict = Received::Taken;
                        self.send(
                            key,
                            match delivery.qos {
                                QoS::ExactlyOnce => Packet::PubRec { packet_id, verdict },
                                _ => Packet::PubAck { packet_id },
                            },
                        );
                    }
                    Output::PubRel { packet_id, .. } => {
                        self.send(key, Packet::PubComp { packet_id });
                    }
                    _ => {}
                }
            }
        }
    }

    fn count(&self, reason: Reason) -> u64 {
        self.core.stats().count(reason)
    }
}

fn last_word(outputs: &[Output]) -> Option<Reason> {
    match outputs.last() {
        Some(Output::Disconnect(reason)) => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_message_goes_once_to_a_receiver_with_several_matching_filters_at_the_highest_qos() {
    let mut world = world(Limits::default());
    let (from, to) = (
        world.join(connect(Version::V5, "from")),
        world.join(connect(Version::V5, "to")),
    );
    for (id, (filter, qos)) in [
        ("a/#", QoS::AtMostOnce),
        ("a/+", QoS::ExactlyOnce),
        ("a/x", QoS::AtMostOnce),
    ]
    .into_iter()
    .enumerate()
    {
        let subscription_id = u32::try_from(id).unwrap() + 7;
        let filters = vec![requested(filter, qos)];
        world.send(
            to,
            Packet::Subscribe {
                packet_id: 1,
                filters,
                subscription_id,
            },
        );
    }
    world.outputs(to);
    world.publish(from, "a/x", QoS::AtLeastOnce, "once");
    let outputs = world.outputs(to);
    let [Output::Publish(delivery)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((delivery.qos, delivery.packet_id), (QoS::AtLeastOnce, 1));
    let mut ids = delivery.subscription_ids.clone().unwrap();
    ids.sort_unstable();
    assert_eq!(*ids, [7, 8, 9]);
}

#[test]
fn what_may_not_be_subscribed_is_refused_filter_by_filter_and_counted() {
    let mut world = world(Limits {
        subscriptions_max: 3,
        ..Limits::default()
    });
    let key = world.join(connect(Version::V5, "c"));
    let table = [
        ("#", Err(Reason::SubscribeForbidden)),
        ("+/x", Err(Reason::SubscribeForbidden)),
        ("$share/g/#", Err(Reason::SubscribeForbidden)),
        ("$share/g", Err(Reason::FilterInvalid)),
        ("a/#/b", Err(Reason::FilterInvalid)),
        ("", Err(Reason::FilterInvalid)),
        (
            "a/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16",
            Err(Reason::FilterInvalid),
        ),
        ("a/+", Ok(QoS::ExactlyOnce)),
        ("$share/g/a/x", Ok(QoS::ExactlyOnce)),
        ("a", Ok(QoS::ExactlyOnce)),
        ("a", Ok(QoS::ExactlyOnce)),
        ("q", Err(Reason::SubscriptionLimit)),
    ];
    let filters: Vec<_> = table
        .iter()
        .map(|(filter, _)| (*filter, QoS::ExactlyOnce))
        .collect();
    let expected: Vec<_> = table.iter().map(|(_, answer)| *answer).collect();
    assert_eq!(world.subscribe(key, &filters), expected);
    assert_eq!(world.count(Reason::SubscribeForbidden), 3);
    assert_eq!(world.core.stats().subscriptions, 3);
    world.send(key, goodbye(false));
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn a_publish_that_is_refused_reaches_its_sender_as_its_version_and_qos_allow() {
    use QoS::*;
    use Version::*;
    // (version, topic, QoS, reason of a PUBACK or PUBREC, reason of the end)
    let table = [
        (V5, "a/x", AtLeastOnce, None, None),
        (V5, "b", AtLeastOnce, Some(Reason::PublishForbidden), None),
        (V5, "b", AtMostOnce, None, Some(Reason::PublishForbidden)),
        (V311, "b", AtLeastOnce, None, Some(Reason::PublishForbidden)),
        (V5, "a/+", AtLeastOnce, None, Some(Reason::TopicInvalid)),
        (V5, "a/x", ExactlyOnce, None, None),
        (V311, "a/x", ExactlyOnce, None, None),
        (V5, "b", ExactlyOnce, Some(Reason::PublishForbidden), None),
        (V311, "b", ExactlyOnce, None, Some(Reason::PublishForbidden)),
        (
            V5,
            "a/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16",
            AtLeastOnce,
            Some(Reason::TopicInvalid),
            None,
        ),
    ];
    for (version, topic, qos, refused, ended) in table {
        let mut world = world(Limits::default());
        let key = world.join(connect(version, "c"));
        world.publish(key, topic, qos, "x");
        let outputs = world.outputs(key);
        let name = format!("{version:?} {topic} {qos:?}");
        assert_eq!(last_word(&outputs), ended, "{name}");
        if ended.is_none() {
            let said = match (&outputs[..], qos) {
                (
                    [
                        Output::PubAck {
                            packet_id: 1,
                            refused,
                        },
                    ],
                    AtLeastOnce,
                ) => *refused,
                (
                    [
                        Output::PubRec {
                            packet_id: 1,
                            refused,
                        },
                    ],
                    ExactlyOnce,
                ) => *refused,
                _ => panic!("{name}: {outputs:?}"),
            };
            assert_eq!(said, refused, "{name}");
        }
        if let Some(reason) = refused.or(ended) {
            assert_eq!(world.count(reason), 1, "{name}");
        }
    }
}

#[test]
fn a_will_is_judged_at_connect_and_published_unless_the_client_says_goodbye() {
    let mut world = world(Limits::default());
    let watcher = world.join(connect(Version::V5, "watcher"));
    world.subscribe(watcher, &[("w", QoS::AtLeastOnce)]);
    for (topic, refused) in [("b", Reason::WillForbidden), ("+", Reason::TopicInvalid)] {
        let attempt = Connect {
            will: Some(will(topic)),
            ..connect(Version::V5, "c")
        };
        assert_eq!(world.try_join(attempt), Err(refused));
    }
    type Leave = fn(&mut World, usize);
    let table: &[(&str, Leave, bool)] = &[
        (
            "goodbye",
            |world, key| drop(world.send(key, goodbye(false))),
            false,
        ),
        (
            "goodbye with will",
            |world, key| drop(world.send(key, goodbye(true))),
            true,
        ),
        (
            "lost",
            |world, key| world.core.fail(key, Reason::ConnectionLost, world.now),
            true,
        ),
        (
            "taken over",
            |world, _| {
                world.join(connect(Version::V5, "c"));
            },
            true,
        ),
        (
            "revoked",
            |world, _| {
                world
                    .core
                    .disconnect(|who| &*who.name == "c", Reason::Administrative, world.now);
            },
            true,
        ),
        (
            "silent",
            |world, key| {
                // [MQTT-3.1.2-22] not before one and a half times the keep-alive.
                world
                    .core
                    .handle_timeout(key, world.now + Duration::from_millis(14_999));
                assert!(world.core.deadline(key).is_some());
                world
                    .core
                    .handle_timeout(key, world.now + Duration::from_millis(15_000));
            },
            true,
        ),
    ];
    for (name, leave, published) in table {
        let key = world.join(Connect {
            will: Some(will("w")),
            ..connect(Version::V5, "c")
        });
        leave(&mut world, key);
        assert_eq!(!world.received(watcher).is_empty(), *published, "{name}");
        world.core.release(key, world.now);
        assert!(world.received(watcher).is_empty(), "{name}: published twice");
        world
            .core
            .disconnect(|who| &*who.name == "c", Reason::Administrative, world.now);
    }
}

#[test]
fn the_same_client_id_takes_over_and_the_old_connection_is_told() {
    let mut world = world(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    let old = world.join(connect(Version::V5, "c"));
    world.subscribe(old, &[("a/#", QoS::AtLeastOnce)]);
    let new = world.join(connect(Version::V311, "c"));
    assert_eq!(last_word(&world.outputs(old)), Some(Reason::TakenOver));
    assert!(matches!(
        world.publish(old, "a/x", QoS::AtMostOnce, "late"),
        Handled::Ended
    ));
    world.core.release(old, world.now);
    // The end of the old connection does not touch the new session.
    assert_eq!(world.core.stats().sessions, 1);
    assert_eq!(world.core.stats().subscriptions, 0);
    assert_eq!(
        world.try_join(connect(Version::V5, "d")),
        Err(Reason::ConnectionLimit)
    );
    world.core.release(new, world.now);
    world.join(connect(Version::V5, "d"));
}

#[test]
fn the_window_of_the_client_holds_back_and_keeps_the_order() {
    let mut world = world(Limits::default());
    let from = world.join(connect(Version::V311, "from"));
    let to = world.join(Connect {
        receive_maximum: 2,
        ..connect(Version::V5, "to")
    });
    world.subscribe(to, &[("a/#", QoS::AtLeastOnce)]);
    let sent: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    for (number, payload) in sent.iter().enumerate() {
        let qos = if number % 3 == 2 {
            QoS::AtMostOnce
        } else {
            QoS::AtLeastOnce
        };
        world.publish(from, "a/x", qos, payload);
    }
    // Two of QoS 1, and the one of QoS 0 behind them.
    assert_eq!(world.outputs(to).len(), 3);
    assert!(world.outputs(to).is_empty());
    for packet_id in [1, 2, 2, 0, 999] {
        world.send(to, Packet::PubAck { packet_id });
    }
    assert_eq!(world.received(to), sent[3..]);
}

#[test]
fn a_receiver_over_its_bound_is_ended_and_the_others_are_served() {
    let mut world = world(Limits {
        queued_bytes_max: 1_000,
        ..Limits::default()
    });
    let (slow, fast) = (
        world.join(connect(Version::V5, "slow")),
        world.join(connect(Version::V5, "fast")),
    );
    for key in [slow, fast] {
        world.subscribe(key, &[("a/#", QoS::AtLeastOnce)]);
    }
    let (link, mut sent) = (world.core.open_link("bridge".into(), LinkLimits::default()), 0);
    while world.count(Reason::SlowReceiver) == 0 {
        let payload = Bytes::from(vec![0; 100]);
        world
            .core
            .publish(
                link,
                "a/x",
                payload,
                QoS::AtLeastOnce,
                Retain::No,
                None,
                world.now,
            )
            .unwrap();
        sent += 1;
        assert_eq!(world.received(fast).len(), 1);
        assert!(world.core.stats().queued_bytes <= 1_000);
    }
    assert_eq!(sent, 6);
    assert_eq!(last_word(&world.outputs(slow)), Some(Reason::SlowReceiver));
}

#[test]
fn properties_count_towards_every_bound_in_bytes() {
    let mut world = world(Limits {
        queued_bytes_max: 200,
        retained_bytes_max: 200,
        ..Limits::default()
    });
    let (from, slow) = (
        world.join(connect(Version::V5, "from")),
        world.join(connect(Version::V5, "slow")),
    );
    world.subscribe(slow, &[("q", QoS::AtLeastOnce)]);
    for (retain, reason) in [
        (Retain::No, Reason::SlowReceiver),
        (Retain::Yes, Reason::RetainedLimit),
    ] {
        let large = Publish {
            properties: Bytes::from(vec![0; 200]),
            retain,
            ..publish("q", QoS::AtLeastOnce, "x")
        };
        world.send(from, Packet::Publish(large));
        assert_eq!(world.count(reason), 1, "{reason:?}");
    }
}

#[test]
fn retained_messages_come_with_a_new_subscription_as_it_asks_for_them() {
    let mut world = world(Limits {
        retained_max: 3,
        queued_bytes_max: 200,
        ..Limits::default()
    });
    let from = world.join(connect(Version::V5, "from"));
    for (topic, payload) in [("a/1", "one"), ("a/2", "two"), ("a/3", "three"), ("a/1", "uno")] {
        world.send(
            from,
            Packet::Publish(Publish {
                retain: Retain::Yes,
                ..publish(topic, QoS::AtLeastOnce, payload)
            }),
        );
    }
    let over = Publish {
        retain: Retain::Yes,
        ..publish("a/4", QoS::AtLeastOnce, "four")
    };
    world.send(from, Packet::Publish(over));
    assert_eq!(world.count(Reason::RetainedLimit), 1);
    let to = world.join(connect(Version::V5, "to"));
    // More than fits into the queue at once.
    let table = [
        (SendRetained::WhenNew, vec!["uno", "two", "three"]),
        (SendRetained::WhenNew, vec![]),
        (SendRetained::Never, vec![]),
        (SendRetained::Always, vec!["uno", "two", "three"]),
    ];
    for (retained, expected) in table {
        let filters = vec![Requested {
            retained,
            ..requested("a/#", QoS::AtLeastOnce)
        }];
        world.send(
            to,
            Packet::Subscribe {
                packet_id: 1,
                filters,
                subscription_id: 0,
            },
        );
        assert_eq!(world.received(to), expected, "{retained:?}");
    }
    assert_eq!(world.count(Reason::SlowReceiver), 0);
    // [MQTT-3.3.1-6] an empty payload removes it.
    world.send(
        from,
        Packet::Publish(Publish {
            retain: Retain::Yes,
            ..publish("a/1", QoS::AtMostOnce, "")
        }),
    );
    assert_eq!(world.core.stats().retained, 2);
}

#[test]
fn what_expires_while_it_waits_is_not_sent_and_is_counted() {
    let mut world = world(Limits::default());
    let from = world.join(connect(Version::V5, "from"));
    let to = world.join(Connect {
        receive_maximum: 1,
        ..connect(Version::V5, "to")
    });
    world.subscribe(to, &[("q", QoS::AtLeastOnce)]);
    for (payload, seconds) in [("first", None), ("short", Some(1)), ("long", Some(10))] {
        let lifetime = seconds.map(Duration::from_secs);
        world.send(
            from,
            Packet::Publish(Publish {
                lifetime,
                ..publish("q", QoS::AtLeastOnce, payload)
            }),
        );
    }
    assert_eq!(world.outputs(to).len(), 1);
    world.now += Duration::from_secs(5);
    world.send(to, Packet::PubAck { packet_id: 1 });
    assert_eq!(world.received(to), ["long"]);
    assert_eq!(world.count(Reason::Expired), 1);
}

#[test]
fn a_retained_message_that_expires_is_forgotten_and_counted() {
    let mut world = world(Limits {
        retained_max: 1,
        ..Limits::default()
    });
    let (from, to) = (
        world.join(connect(Version::V5, "from")),
        world.join(connect(Version::V5, "to")),
    );
    let retained = |topic, seconds| {
        Packet::Publish(Publish {
            retain: Retain::Yes,
            lifetime: Some(Duration::from_secs(seconds)),
            ..publish(topic, QoS::AtLeastOnce, topic)
        })
    };
    let subscribe = || Packet::Subscribe {
        packet_id: 1,
        filters: vec![requested("a/#", QoS::AtMostOnce)],
        subscription_id: 0,
    };
    world.send(from, retained("a/1", 5));
    world.now += Duration::from_secs(4);
    world.send(to, subscribe());
    assert_eq!(world.received(to), ["a/1"]);
    world.now += Duration::from_secs(1);
    world.send(to, subscribe());
    assert!(world.received(to).is_empty());
    assert_eq!(
        (world.core.stats().retained, world.count(Reason::Expired)),
        (0, 1)
    );
    // Its place is free for another topic.
    world.send(from, retained("a/2", 5));
    assert_eq!(
        (world.core.stats().retained, world.count(Reason::RetainedLimit)),
        (1, 0)
    );
}

#[test]
fn what_has_expired_makes_room_before_a_receiver_is_called_slow() {
    let mut world = world(Limits {
        queued_bytes_max: 200,
        ..Limits::default()
    });
    let (from, to) = (
        world.join(connect(Version::V5, "from")),
        world.join(connect(Version::V5, "to")),
    );
    world.subscribe(to, &[("q", QoS::AtMostOnce)]);
    let expiring = |payload, seconds| {
        Packet::Publish(Publish {
            lifetime: Some(Duration::from_secs(seconds)),
            ..publish("q", QoS::AtMostOnce, payload)
        })
    };
    for (payload, seconds) in [("short", 1), ("long", 9)] {
        world.send(from, expiring(payload, seconds));
    }
    world.now += Duration::from_secs(1);
    world.publish(from, "q", QoS::AtMostOnce, "next");
    assert_eq!(
        (world.count(Reason::Expired), world.count(Reason::SlowReceiver)),
        (1, 0)
    );
    assert_eq!(world.received(to), ["long", "next"]);
    assert_eq!(world.core.stats().queued_bytes, 0);
}

#[test]
fn the_time_that_a_packet_waits_for_room_on_a_link_counts() {
    let mut world = world(Limits::default());
    let limits = LinkLimits {
        queued_bytes_max: 100,
        ..LinkLimits::default()
    };
    let link = world.core.open_link("bridge".into(), limits);
    world
        .core
        .subscribe_link(link, "a/#", QoS::AtMostOnce, world.now)
        .unwrap();
    let from = world.join(connect(Version::V5, "from"));
    world.publish(from, "a/x", QoS::AtMostOnce, "first");
    let waits = Publish {
        lifetime: Some(Duration::from_secs(5)),
        ..publish("a/x", QoS::AtMostOnce, "second")
    };
    let Handled::Paused(waits) = world.send(from, Packet::Publish(waits)) else {
        panic!("the link is full")
    };
    world.now += Duration::from_secs(5);
    let mut events = VecDeque::new();
    world.core.take(link, 9, world.now, &mut events);
    assert!(matches!(world.send(from, waits), Handled::Done));
    events.clear();
    world.core.take(link, 9, world.now, &mut events);
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(world.count(Reason::Expired), 1);
}

#[test]
fn a_link_publishes_what_expires_and_is_not_told_what_has() {
    let mut world = world(Limits::default());
    let (here, there) = (
        world.core.open_link("here".into(), LinkLimits::default()),
        world.core.open_link("there".into(), LinkLimits::default()),
    );
    let to = world.join(connect(Version::V5, "to"));
    world.subscribe(to, &[("q", QoS::AtLeastOnce)]);
    world
        .core
        .subscribe_link(there, "q", QoS::AtLeastOnce, world.now)
        .unwrap();
    for (payload, lifetime) in [
        ("for ever", None),
        ("for a second", Some(Duration::from_secs(1))),
        ("for longer than a clock can tell", Some(Duration::MAX)),
    ] {
        let payload = Bytes::from_static(payload.as_bytes());
        let qos = QoS::AtLeastOnce;
        world
            .core
            .publish(here, "q", payload, qos, Retain::No, lifetime, world.now)
            .unwrap();
    }
    world.now += Duration::from_secs(1);
    let expected = ["for ever", "for longer than a clock can tell"];
    assert_eq!(world.received(to), expected);
    assert_eq!(world.count(Reason::Expired), 1);
    let mut events = VecDeque::new();
    world.core.take(there, 9, world.now, &mut events);
    let taken: Vec<_> = events
        .into_iter()
        .filter_map(|event| match event {
            LinkOutput::Message(incoming) => Some(incoming.message.payload.clone()),
            LinkOutput::Hint(..) => None,
        })
        .collect();
    assert_eq!(taken, expected);
    assert_eq!(world.count(Reason::Expired), 2);
}

#[test]
fn a_revoked_subscription_sends_nothing_more_not_even_what_waits() {
    let mut world = world(Limits::default());
    let from = world.join(connect(Version::V5, "from"));
    let to = world.join(connect(Version::V5, "to"));
    world.subscribe(
        to,
        &[
            ("a/+", QoS::AtLeastOnce),
            ("a/kept", QoS::AtLeastOnce),
            ("$share/g/q", QoS::AtLeastOnce),
        ],
    );
    for topic in ["a/x", "a/kept", "q"] {
        world.publish(from, topic, QoS::AtMostOnce, topic);
    }
    let revoked = world
        .core
        .revoke_subscriptions(|who| &*who.name == "to", |filter| matches!(filter, "a/+" | "q"));
    assert_eq!(revoked, 2);
    for topic in ["a/x", "a/kept", "q"] {
        world.publish(from, topic, QoS::AtMostOnce, topic);
    }
    assert_eq!(world.received(to), ["a/kept", "a/kept"]);
}

#[test]
fn a_full_link_holds_its_publishers_back_and_loses_nothing() {
    let mut world = world(Limits::default());
    let link = world.core.open_link(
        "bridge".into(),
        LinkLimits {
            queued_bytes_max: 400,
            ..LinkLimits::default()
        },
    );
    world
        .core
        .subscribe_link(link, "a/#", QoS::AtLeastOnce, world.now)
        .unwrap();
    let keys: Vec<usize> = (0..3)
        .map(|who| world.join(connect(Version::V5, &format!("c{who}"))))
        .collect();
    let mut unsent: Vec<VecDeque<String>> = keys
        .iter()
        .map(|key| (0..50).map(|number| format!("{key} {number}")).collect())
        .collect();
    let dying = world.join(Connect {
        will: Some(will("a/will")),
        ..connect(Version::V5, "dying")
    });
    let (mut taken, mut died) = (Vec::new(), false);
    while unsent.iter().any(|of_one| !of_one.is_empty()) || taken.len() < 151 {
        for (key, of_one) in keys.iter().zip(&mut unsent) {
            while let Some(payload) = of_one.front() {
                if let Handled::Paused(_) = world.publish(*key, "a/x", QoS::AtMostOnce, payload) {
                    // A client that is held back is not called silent.
                    assert_eq!(world.core.deadline(*key), None);
                    break;
                }
                of_one.pop_front();
            }
        }
        assert!(world.core.link_queued_bytes(link) <= 400);
        if !died {
            world.core.release(dying, world.now);
            assert_eq!(
                world.core.stats().connections,
                4,
                "a will that waits keeps its slot"
            );
            died = true;
        }
        // The link's own publishing does not wait, not even to itself.
        assert_eq!(
            world.core.publish(
                link,
                "a/own",
                Bytes::new(),
                QoS::AtMostOnce,
                Retain::No,
                None,
                world.now
            ),
            Ok(0)
        );
        let mut events = VecDeque::new();
        world.core.take(link, 3, world.now, &mut events);
        taken.extend(events.into_iter().filter_map(|event| match event {
            LinkOutput::Message(incoming) => {
                Some(String::from_utf8(incoming.message.payload.to_vec()).unwrap())
            }
            LinkOutput::Hint(..) => None,
        }));
    }
    assert_eq!(taken.len(), 151);
    for key in keys {
        let of_one: Vec<&String> = taken
            .iter()
            .filter(|payload| payload.starts_with(&format!("{key} ")))
            .collect();
        let in_order: Vec<String> = (0..50).map(|number| format!("{key} {number}")).collect();
        assert!(of_one.into_iter().eq(&in_order));
    }
    assert_eq!(taken.iter().filter(|payload| *payload == "gone").count(), 1);
    assert_eq!(world.core.stats().connections, 3);
}

#[test]
fn a_link_is_told_why_its_publish_is_refused() {
    let mut world = world(Limits {
        packet_bytes_max: 100,
        retained_max: 0,
        ..Limits::default()
    });
    let link = world.core.open_link("bridge".into(), LinkLimits::default());
    let table = [
        ("a/+", 1, Retain::No, LinkPublishError::TopicInvalid),
        ("a", 100, Retain::No, LinkPublishError::TooLarge),
        ("a", 1, Retain::Yes, LinkPublishError::RetainedFull),
    ];
    for (topic, bytes, retain, expected) in table {
        let payload = Bytes::from(vec![0; bytes]);
        let refused = world
            .core
            .publish(link, topic, payload, QoS::AtMostOnce, retain, None, world.now);
        assert_eq!(refused, Err(expected));
    }
}

/// A client that comes back to its session within a minute.
fn kept(client_id: &str) -> Connect {
    Connect {
        clean_start: false,
        session_expiry_s: 60,
        ..connect(Version::V5, client_id)
    }
}

impl World {
    /// Connects, and says whether there was a session.
    fn come_back(&mut self, connect: Connect) -> (usize, bool) {
        let key = self.try_join(connect).expect("the test expects it to be let in");
        // The CONNACK only: messages follow when they are asked for.
        let mut outputs = Vec::new();
        self.core.drain(key, 0, self.now, &mut outputs);
        let [Output::ConnAck(ConnAck { session_present, .. })] = outputs[..] else {
            panic!("{outputs:?}")
        };
        (key, session_present == SessionPresent::Yes)
    }

    fn lose(&mut self, key: usize) {
        self.core.release(key, self.now);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.core.handle_due(self.now);
    }
}

/// What a client is sent, in short: `1:a!` is the payload "a" under identifier 1, sent again.
fn in_short(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Publish(delivery) => format!(
                "{}:{}{}",
                delivery.packet_id,
                String::from_utf8_lossy(&delivery.message.payload),
                if delivery.dup { "!" } else { "" }
            ),
            Output::PubRec { packet_id, .. } => format!("{packet_id} rec"),
            Output::PubRel {
                packet_id,
                identifier,
            } => format!("{packet_id} rel {identifier:?}"),
            Output::PubComp {
                packet_id,
                identifier,
            } => format!("{packet_id} comp {identifier:?}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_message_of_qos_2_is_routed_once_until_it_is_released() {
    let mut world = world(Limits::default());
    let to = world.join(connect(Version::V5, "to"));
    world.subscribe(to, &[("q", QoS::AtMostOnce)]);
    let (from, _) = world.come_back(kept("from"));
    world.publish(from, "q", QoS::ExactlyOnce, "once");
    world.publish(from, "q", QoS::ExactlyOnce, "once");
    assert_eq!(in_short(&world.outputs(from)), ["1 rec", "1 rec"]);
    // Also on the next connection of the session.
    world.lose(from);
    let (from, present) = world.come_back(kept("from"));
    assert!(present);
    world.publish(from, "q", QoS::ExactlyOnce, "once");
    assert_eq!(world.received(to), ["once"]);
    for _ in 0..2 {
        world.send(from, Packet::PubRel { packet_id: 1 });
    }
    assert_eq!(
        in_short(&world.outputs(from)),
        ["1 rec", "1 comp Known", "1 comp Unknown"]
    );
    world.publish(from, "q", QoS::ExactlyOnce, "the next");
    assert_eq!(world.received(to), ["the next"]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_in_its_order_when_the_client_is_back() {
    let mut world = world(Limits::default());
    let from = world.join(connect(Version::V311, "from"));
    let (to, present) = world.come_back(kept("to"));
    assert!(!present);
    world.subscribe(to, &[("q", QoS::ExactlyOnce)]);
    for (payload, qos) in [
        ("a", QoS::AtLeastOnce),
        ("b", QoS::ExactlyOnce),
        ("c", QoS::ExactlyOnce),
        ("d", QoS::AtMostOnce),
        ("e", QoS::AtLeastOnce),
    ] {
        world.publish(from, "q", qos, payload);
        world.send(from, Packet::PubRel { packet_id: 1 });
    }
    assert_eq!(in_short(&world.outputs(to)), ["1:a", "2:b", "3:c", "0:d", "4:e"]);
    let verdict = Received::Taken;
    world.send(to, Packet::PubAck { packet_id: 1 });
    world.send(
        to,
        Packet::PubRec {
            packet_id: 2,
            verdict,
        },
    );
    assert_eq!(in_short(&world.outputs(to)), ["2 rel Known"]);
    world.publish(from, "q", QoS::AtLeastOnce, "f");
    world.outputs(to);
    world.lose(to);
    world.publish(from, "q", QoS::AtMostOnce, "not for one who is away");
    world.publish(from, "q", QoS::AtLeastOnce, "g");
    // The window of the new connection counts what is sent again, too.
    let (to, present) = world.come_back(Connect {
        receive_maximum: 3,
        ..kept("to")
    });
    assert!(present);
    assert_eq!(in_short(&world.outputs(to)), ["2 rel Known", "3:c!", "4:e!"]);
    assert!(world.outputs(to).is_empty());
    world.send(to, Packet::PubComp { packet_id: 2 });
    world.send(
        to,
        Packet::PubRec {
            packet_id: 3,
            verdict,
        },
    );
    assert_eq!(in_short(&world.outputs(to)), ["3 rel Known", "1:f!"]);
    world.send(to, Packet::PubAck { packet_id: 4 });
    assert_eq!(in_short(&world.outputs(to)), ["4:g"]);
    // An acknowledgement of the wrong kind frees nothing.
    world.send(to, Packet::PubAck { packet_id: 3 });
    world.send(to, Packet::PubComp { packet_id: 1 });
    assert_eq!(world.core.stats().inflight, 3);
    for packet_id in [1, 4] {
        world.send(to, Packet::PubAck { packet_id });
    }
    world.send(to, Packet::PubComp { packet_id: 3 });
    let stats = world.core.stats();
    assert_eq!((stats.inflight, stats.queued_bytes), (0, 0));
}

#[test]
fn a_session_ends_with_its_expiry_or_a_clean_start() {
    let mut world = world(Limits {
        session_expiry_max: Duration::from_secs(100),
        ..Limits::default()
    });
    let from = world.join(connect(Version::V5, "from"));
    // (asked for, whether the next one starts clean, seconds away, whether it is there)
    let table = [
        (60, false, 59, true),
        (60, false, 60, false),
        (60, true, 1, false),
        (0, false, 0, false),
        (u32::MAX, false, 99, true),
        (u32::MAX, false, 100, false),
    ];
    for (expiry_s, clean_start, away_s, there) in table {
        let attempt = Connect {
            session_expiry_s: expiry_s,
            ..kept("c")
        };
        let (key, _) = world.come_back(attempt.clone());
        world.subscribe(key, &[("q", QoS::AtLeastOnce)]);
        world.lose(key);
        world.publish(from, "q", QoS::AtLeastOnce, "waits");
        world.wait(away_s);
        let (key, present) = world.come_back(Connect {
            clean_start,
            ..attempt
        });
        let name = format!("{expiry_s} {clean_start} {away_s}");
        assert_eq!(present, there, "{name}");
        assert_eq!(!world.received(key).is_empty(), there, "{name}");
        world
            .core
            .disconnect(|who| &*who.name == "c", Reason::Administrative, world.now);
        assert_eq!(world.core.stats().sessions, 1, "{name}: gone with its sessions");
        assert_eq!(world.core.next_due(), None, "{name}");
    }
    assert_eq!(world.count(Reason::SessionExpired), 2);
}

#[test]
fn a_goodbye_can_shorten_the_life_of_a_session_but_not_give_it_one() {
    let mut world = world(Limits::default());
    let goodbye = |session_expiry_s| Packet::Disconnect {
        with_will: false,
        session_expiry_s: Some(session_expiry_s),
    };
    let (key, _) = world.come_back(kept("c"));
    world.send(key, goodbye(0));
    assert_eq!(world.core.stats().sessions, 0);
    let key = world.join(connect(Version::V5, "c"));
    world.send(key, goodbye(1));
    assert_eq!(last_word(&world.outputs(key)), Some(Reason::ProtocolError));
    assert_eq!(world.core.stats().sessions, 0);
}

#[test]
fn a_delayed_will_waits_for_the_client_to_come_back_or_its_session_to_end() {
    type Then = fn(&mut World);
    let table: &[(&str, Then, bool)] = &[
        ("too early", |world| world.wait(9), false),
        ("after the delay", |world| world.wait(10), true),
        (
            "back in time",
            |world| {
                world.come_back(Connect {
                    will: None,
                    ..kept("c")
                });
                world.wait(20);
            },
            false,
        ),
        (
            "a clean start ends the session",
            |world| {
                world.come_back(Connect {
                    clean_start: true,
                    ..kept("c")
                });
            },
            true,
        ),
        (
            "revoked",
            |world| {
                world
                    .core
                    .disconnect(|who| &*who.name == "c", Reason::Administrative, world.now);
            },
            true,
        ),
    ];
    for (expiry_s, delay_s) in [(60, 10), (10, 60)] {
        for (name, then, published) in table {
            let mut world = world(Limits::default());
            let watcher = world.join(connect(Version::V5, "watcher"));
            world.subscribe(watcher, &[("w", QoS::AtMostOnce)]);
            let (key, _) = world.come_back(Connect {
                will: Some(Will {
                    delay: Duration::from_secs(delay_s),
                    ..will("w")
                }),
                session_expiry_s: expiry_s,
                ..kept("c")
            });
            world.lose(key);
            assert!(world.received(watcher).is_empty(), "{name}");
            then(&mut world);
            let name = format!("{name}, {expiry_s} {delay_s}");
            let mut wills = world.received(watcher).len();
            assert_eq!(wills, usize::from(*published), "{name}");
            world.wait(1_000);
            wills += world.received(watcher).len();
            // Once, and never where the client was back in time.
            assert_eq!(wills, usize::from(!name.starts_with("back")), "{name}");
        }
    }
}

#[test]
fn a_session_that_its_own_will_overflows_is_not_said_to_be_there() {
    let mut world = world(Limits {
        queued_bytes_max: 1_000,
        detached_queued_bytes_max: 300,
        ..Limits::default()
    });
    let from = world.join(connect(Version::V5, "from"));
    let (key, _) = world.come_back(Connect {
        will: Some(will("w")),
        ..kept("c")
    });
    world.subscribe(key, &[("w", QoS::AtLeastOnce)]);
    for _ in 0..4 {
        world.publish(from, "w", QoS::AtLeastOnce, &"x".repeat(100));
    }
    // The connection that it takes over from leaves a will, for which its session has no room.
    let (_, present) = world.come_back(kept("c"));
    assert_eq!(world.count(Reason::SessionQueueFull), 1);
    assert!(!present);
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn nobody_takes_up_the_session_of_another_principal() {
    let mut world = world(Limits::default());
    let (key, _) = world.come_back(kept("c"));
    world.subscribe(key, &[("q", QoS::AtLeastOnce)]);
    world.lose(key);
    let thief = Principal::new("thief", "c");
    world
        .core
        .connect(kept("c"), thief, ClientIdFrom::Client, world.now)
        .expect("whether it may use the identifier is the embedder's to say");
    assert_eq!(world.core.stats().subscriptions, 0);
    assert_eq!(world.core.stats().sessions, 1);
}

/// Allows what the list says at the moment.
#[derive(Default)]
struct Changing {
    forbidden: std::sync::Mutex<Vec<&'static str>>,
}

impl crate::auth::Authorise for Changing {
    fn may_publish(&self, _: &Principal, _: &str, _: Retain) -> Verdict {
        Verdict::Allow
    }

    fn may_subscribe(&self, _: &Principal, requested: &str) -> Verdict {
        Verdict::allow_if(!self.forbidden.lock().unwrap().contains(&requested))
    }
}

#[test]
fn what_may_not_be_read_any_more_is_not_sent_again_and_not_kept() {
    let changing = Arc::new(Changing::default());
    for revoke_at_once in [true, false] {
        changing.forbidden.lock().unwrap().clear();
        let mut world = World {
            core: Core::new(Limits::default(), changing.clone()),
            now: Instant::now(),
        };
        let from = world.join(connect(Version::V5, "from"));
        let (to, _) = world.come_back(kept("to"));
        world.subscribe(to, &[("a", QoS::ExactlyOnce), ("q", QoS::ExactlyOnce)]);
        for topic in ["a", "q"] {
            world.publish(from, topic, QoS::AtLeastOnce, topic);
            world.publish(from, topic, QoS::ExactlyOnce, topic);
            world.send(from, Packet::PubRel { packet_id: 1 });
        }
        assert_eq!(world.outputs(to).len(), 4);
        world.lose(to);
        world.publish(from, "a", QoS::AtLeastOnce, "late");
        changing.forbidden.lock().unwrap().push("a");
        if revoke_at_once {
            let revoked = world.core.revoke_subscriptions(|_| true, |filter| filter == "a");
            assert_eq!(revoked, 1);
        }
        let (to, present) = world.come_back(kept("to"));
        assert!(present);
        assert_eq!(world.received(to), ["q", "q"], "{revoke_at_once}");
        world.publish(from, "a", QoS::AtLeastOnce, "never");
        assert!(world.received(to).is_empty());
        // The identifier of a message of QoS 2 that the client may have taken stays taken.
        assert_eq!(world.core.stats().inflight, 1);
        assert_eq!(world.core.stats().queued_bytes, 0);
    }
}

#[test]
fn what_a_filter_left_behind_that_was_given_up_is_revoked_as_well() {
    let changing = Arc::new(Changing::default());
    // By a call while it is connected, by a call while it is away, and by what is allowed when it is back.
    for way in 0..3 {
        changing.forbidden.lock().unwrap().clear();
        let mut world = World {
            core: Core::new(Limits::default(), changing.clone()),
            now: Instant::now(),
        };
        let from = world.join(connect(Version::V5, "from"));
        let narrow = Connect {
            receive_maximum: 1,
            ..kept("to")
        };
        let (to, _) = world.come_back(narrow.clone());
        world.subscribe(to, &[("a", QoS::AtLeastOnce), ("q", QoS::AtLeastOnce)]);
        for topic in ["a", "a", "q"] {
            world.publish(from, topic, QoS::AtLeastOnce, topic);
        }
        // One is sent and two wait for it.
        assert_eq!(world.outputs(to).len(), 1);
        world.send(
            to,
            Packet::Unsubscribe {
                packet_id: 1,
                filters: vec!["a".into()],
            },
        );
        let revoke = |world: &mut World| {
            let revoked = world.core.revoke_subscriptions(|_| true, |filter| filter == "a");
            assert_eq!(revoked, 0);
        };
        changing.forbidden.lock().unwrap().push("a");
        if way == 0 {
            revoke(&mut world);
        }
        world.lose(to);
        if way == 1 {
            revoke(&mut world);
        }
        let (to, present) = world.come_back(narrow);
        assert!(present);
        assert_eq!(world.received(to), ["q"], "{way}");
    }
}

#[test]
fn a_kept_session_outlives_a_slow_connection_but_not_its_own_bound() {
    let mut world = world(Limits {
        queued_bytes_max: 1_000,
        detached_queued_bytes_max: 2_000,
        detached_bytes_max: 2_500,
        ..Limits::default()
    });
    let from = world.join(connect(Version::V5, "from"));
    let payload = "x".repeat(100);
    let (slow, _) = world.come_back(kept("slow"));
    world.subscribe(slow, &[("q", QoS::AtLeastOnce)]);
    let (mut sent, mut last) = (0, None);
    while last.is_none() {
        world.publish(from, "q", QoS::AtLeastOnce, &payload);
        last = last_word(&world.outputs(slow));
        sent += 1;
    }
    // What was sent and not acknowledged counts, and nothing is lost with the connection.
    assert_eq!(last, Some(Reason::SlowReceiver));
    world.lose(slow);
    let (slow, present) = world.come_back(kept("slow"));
    assert!(present);
    // Coming back to a backlog is not being slow.
    world.publish(from, "q", QoS::AtLeastOnce, &payload);
    assert_eq!(world.received(slow).len(), sent + 1);
    world.lose(slow);
    while world.count(Reason::SessionQueueFull) == 0 {
        world.publish(from, "q", QoS::AtLeastOnce, &payload);
        assert!(world.core.stats().detached_bytes <= 2_000);
    }
    let (slow, present) = world.come_back(kept("slow"));
    assert!(!present, "with a gap it would not be the same session");
    world.send(slow, goodbye(false));
    // All of them together have a bound as well.
    for name in ["one", "two"] {
        let (key, _) = world.come_back(kept(name));
        world.subscribe(key, &[("q", QoS::AtLeastOnce)]);
        world.lose(key);
    }
    while world.count(Reason::SessionQueueFull) == 1 {
        world.publish(from, "q", QoS::AtLeastOnce, &payload);
        assert!(world.core.stats().detached_bytes <= 2_500);
    }
}

#[test]
fn sessions_are_bounded_for_all_and_for_each_principal() {
    let mut world = world(Limits {
        sessions_max: 3,
        sessions_per_principal_max: 1,
        ..Limits::default()
    });
    let attempt = |world: &mut World, name: &str, client_id: &str, connect: Connect| {
        let principal = Principal::new(name, client_id);
        world
            .core
            .connect(connect, principal, ClientIdFrom::Client, world.now)
    };
    let first = attempt(&mut world, "p", "1", kept("1")).unwrap();
    let refused = Err(Reason::SessionLimit);
    assert_eq!(attempt(&mut world, "p", "2", kept("2")), refused);
    // One that ends with its connection does not count for the principal, and one may come back.
    let clean = attempt(&mut world, "p", "2", connect(Version::V5, "2")).unwrap();
    world.lose(first);
    attempt(&mut world, "p", "1", kept("1")).unwrap();
    attempt(&mut world, "q", "3", kept("3")).unwrap();
    assert_eq!(attempt(&mut world, "r", "4", connect(Version::V5, "4")), refused);
    world.lose(clean);
    attempt(&mut world, "r", "4", connect(Version::V5, "4")).unwrap();
}

#[test]
fn what_a_member_of_a_group_leaves_untaken_goes_to_another() {
    let mut world = world(Limits::default());
    let from = world.join(connect(Version::V5, "from"));
    let members = ["one", "two"].map(|name| world.join(connect(Version::V5, name)));
    for member in members {
        world.subscribe(member, &[("$share/g/q", QoS::ExactlyOnce)]);
    }
    for number in 0..6 {
        world.publish(from, "q", QoS::AtLeastOnce, &number.to_string());
    }
    // The first has taken one, and been sent the others.
    assert_eq!(in_short(&world.outputs(members[0])), ["1:0", "2:2", "3:4"]);
    world.send(members[0], Packet::PubAck { packet_id: 1 });
    world.send(
        from,
        Packet::Publish(Publish {
            packet_id: 9,
            ..publish("q", QoS::ExactlyOnce, "begun")
        }),
    );
    assert_eq!(in_short(&world.outputs(members[0])), ["1:begun"]);
    world.lose(members[0]);
    // [MQTT-4.8.2-5] what was begun at QoS 2 is nobody else's.
    assert_eq!(world.received(members[1]), ["1", "3", "5", "2", "4"]);
    let stats = world.core.stats();
    assert_eq!((stats.inflight, stats.queued_bytes), (0, 0));
    // The last member leaves something behind, and the broker goes on.
    world.publish(from, "q", QoS::AtLeastOnce, "nobody's");
    world.lose(members[1]);
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn a_group_prefers_a_member_that_is_there_and_has_room() {
    let mut world = world(Limits {
        packet_bytes_max: 200,
        queued_bytes_max: 500,
        ..Limits::default()
    });
    let from = world.join(connect(Version::V5, "from"));
    let (away, _) = world.come_back(kept("away"));
    let slow = world.join(connect(Version::V5, "slow"));
    let there = world.join(connect(Version::V5, "there"));
    for member in [away, slow, there] {
        world.subscribe(member, &[("$share/g/q", QoS::AtLeastOnce)]);
    }
    world.lose(away);
    let payload = "x".repeat(100);
    let mut taken = 0;
    for _ in 0..20 {
        world.publish(from, "q", QoS::AtLeastOnce, &payload);
        taken += world.received(there).len();
    }
    assert_eq!(world.count(Reason::SlowReceiver), 0);
    assert!(taken >= 15, "{taken}");
    world.lose(slow);
    world.lose(there);
    world.publish(
        from,
        "q",
        QoS::AtLeastOnce,
        "when nobody is there, for one who comes back",
    );
    let (away, _) = world.come_back(kept("away"));
    assert_eq!(
        world.received(away).last().unwrap(),
        "when nobody is there, for one who comes back"
    );
}

#[test]
fn a_publisher_over_the_receive_maximum_is_ended() {
    let mut world = world(Limits {
        receive_maximum: 3,
        ..Limits::default()
    });
    for (version, ended) in [(Version::V5, true), (Version::V311, false)] {
        let from = world.join(connect(version, "from"));
        for packet_id in [1, 2, 2, 3] {
            world.send(
                from,
                Packet::Publish(Publish {
                    packet_id,
                    ..publish("q", QoS::ExactlyOnce, "x")
                }),
            );
            world.outputs(from);
        }
        // A released one makes room.
        world.send(from, Packet::PubRel { packet_id: 2 });
        world.outputs(from);
        for packet_id in [4, 5] {
            world.send(
                from,
                Packet::Publish(Publish {
                    packet_id,
                    ..publish("q", QoS::ExactlyOnce, "x")
                }),
            );
        }
        let last = last_word(&world.outputs(from));
        assert_eq!(
            last,
            ended.then_some(Reason::ReceiveMaximumExceeded),
            "{version:?}"
        );
        world.lose(from);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Connect {
        who: usize,
        five: bool,
        will: bool,
        window: u16,
        clean: bool,
        expiry_s: u32,
    },
    Publish {
        who: usize,
        topic: usize,
        qos: QoS,
        retain: bool,
        bytes: usize,
        lifetime: Option<u64>,
    },
    Subscribe {
        who: usize,
        filter: usize,
        qos: QoS,
        no_local: bool,
    },
    Unsubscribe {
        who: usize,
        filter: usize,
    },
    Ack {
        who: usize,
        packet_id: u16,
        kind: usize,
    },
    Leave {
        who: usize,
        with_will: bool,
    },
    Drain {
        who: usize,
        bytes: usize,
    },
    Release {
        who: usize,
    },
    TakeLink {
        count: usize,
    },
    Revoke {
        filter: usize,
    },
    Wait {
        seconds: u64,
    },
}

const TOPICS: [&str; 7] = ["a/1", "a/2/3", "q", "secret", "$SYS/x", "a/+", "w"];
const FILTERS: [&str; 8] = [
    "a/#",
    "a/+",
    "q",
    "secret",
    "#",
    "$share/g/a/1",
    "$share/g/secret",
    "a/1",
];

fn steps() -> impl Strategy<Value = Step> {
    let qos = || {
        prop_oneof![
            Just(QoS::AtMostOnce),
            Just(QoS::AtLeastOnce),
            Just(QoS::ExactlyOnce)
        ]
    };
    let who = 0usize..4;
    prop_oneof![
        2 => (who.clone(), any::<bool>(), any::<bool>(), 1u16..4, any::<bool>(), 0u32..8).prop_map(
            |(who, five, will, window, clean, expiry_s)| Step::Connect { who, five, will, window, clean, expiry_s }
        ),
        8 => (who.clone(), 0..TOPICS.len(), qos(), any::<bool>(), 0usize..200, prop::option::of(0u64..3)).prop_map(
            |(who, topic, qos, retain, bytes, lifetime)| Step::Publish { who, topic, qos, retain, bytes, lifetime }
        ),
        4 => (who.clone(), 0..FILTERS.len(), qos(), any::<bool>())
            .prop_map(|(who, filter, qos, no_local)| Step::Subscribe { who, filter, qos, no_local }),
        1 => (who.clone(), 0..FILTERS.len()).prop_map(|(who, filter)| Step::Unsubscribe { who, filter }),
        6 => (who.clone(), 0u16..5, 0usize..5).prop_map(|(who, packet_id, kind)| Step::Ack { who, packet_id, kind }),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, with_will)| Step::Leave { who, with_will }),
        4 => (who.clone(), 0usize..500).prop_map(|(who, bytes)| Step::Drain { who, bytes }),
        1 => who.prop_map(|who| Step::Release { who }),
        1 => (1usize..5).prop_map(|count| Step::TakeLink { count }),
        1 => (0..FILTERS.len()).prop_map(|filter| Step::Revoke { filter }),
        1 => (0u64..8).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_packets_breaks_a_bound_or_reaches_one_who_may_not_read_it(
        steps in prop::collection::vec(steps(), 1..150)
    ) {
        let limits = Limits {
            queued_bytes_max: 600,
            detached_queued_bytes_max: 700,
            detached_bytes_max: 1_000,
            sessions_max: 4,
            retained_max: 2,
            connections_max: 3,
            subscriptions_max: 3,
            ..Limits::default()
        };
        let mut world = world(limits);
        let link = world.core.open_link("bridge".into(), LinkLimits { queued_bytes_max: 400, hints_max: 2 });
        world.core.subscribe_link(link, "a/#", QoS::AtLeastOnce, world.now).unwrap();
        let mut keys: [Vec<usize>; 4] = Default::default();
        for step in steps {
            match step {
                Step::Connect { who, five, will: with_will, window, clean, expiry_s } => {
                    let version = if five { Version::V5 } else { Version::V311 };
                    let attempt = Connect {
                        will: with_will.then(|| Will {
                            delay: Duration::from_secs(u64::from(expiry_s % 3)),
                            ..will(if five { "a/will" } else { "secret" })
                        }),
                        receive_maximum: window,
                        clean_start: clean,
                        session_expiry_s: expiry_s.saturating_sub(2),
                        ..connect(version, &format!("c{who}"))
                    };
                    if let Ok(key) = world.try_join(attempt) {
                        keys[who].push(key);
                    }
                }
                Step::Publish { who, topic, qos, retain, bytes, lifetime } => {
                    for key in keys[who].clone() {
                        let retain = if retain { Retain::Yes } else { Retain::No };
                        let lifetime = lifetime.map(Duration::from_secs);
                        let payload = "x".repeat(bytes);
                        let packet = Publish { retain, lifetime, ..publish(TOPICS[topic], qos, &payload) };
                        world.send(key, Packet::Publish(packet));
                    }
                }
                Step::Subscribe { who, filter, qos, no_local } => {
                    for key in keys[who].clone() {
                        let filters = vec![Requested { no_local, ..requested(FILTERS[filter], qos) }];
                        world.send(key, Packet::Subscribe { packet_id: 3, filters, subscription_id: 0 });
                    }
                }
                Step::Unsubscribe { who, filter } => {
                    for key in keys[who].clone() {
                        world.send(key, Packet::Unsubscribe { packet_id: 3, filters: vec![FILTERS[filter].into()] });
                    }
                }
                Step::Ack { who, packet_id, kind } => {
                    for key in keys[who].clone() {
                        world.send(key, match kind {
                            0 => Packet::PubAck { packet_id },
                            1 => Packet::PubRec { packet_id, verdict: Received::Taken },
                            2 => Packet::PubRec { packet_id, verdict: Received::Refused },
                            3 => Packet::PubRel { packet_id },
                            _ => Packet::PubComp { packet_id },
                        });
                    }
                }
                Step::Leave { who, with_will } => {
                    for key in keys[who].clone() {
                        world.send(key, goodbye(with_will));
                    }
                }
                Step::Drain { who, bytes } => {
                    for key in keys[who].clone() {
                        let mut outputs = Vec::new();
                        world.core.drain(key, bytes, world.now, &mut outputs);
                        for output in outputs {
                            if let Output::Publish(delivery) = output {
                                let topic = &delivery.message.topic;
                                let may_read = ["a/#", "q", "w"].iter().any(|allowed| filter::matches(allowed, topic));
                                prop_assert!(may_read, "{}", topic);
                                prop_assert_eq!(delivery.qos == QoS::AtMostOnce, delivery.packet_id == 0);
                            }
                        }
                    }
                }
                Step::Release { who } => {
                    for key in std::mem::take(&mut keys[who]) {
                        world.core.release(key, world.now);
                    }
                }
                Step::TakeLink { count } => world.core.take(link, count, world.now, &mut VecDeque::new()),
                Step::Revoke { filter } => {
                    world.core.revoke_subscriptions(|_| true, |one| one == FILTERS[filter]);
                }
                Step::Wait { seconds } => {
                    world.now += Duration::from_secs(seconds);
                    world.core.handle_due(world.now);
                    for key in keys.concat() {
                        world.core.handle_timeout(key, world.now);
                    }
                }
            }
            while world.core.poll_wake().is_some() {}
            let stats = world.core.stats();
            prop_assert!(stats.sessions <= 4 && stats.sessions - stats.detached <= 3 && stats.retained <= 2);
            prop_assert!(stats.queued_bytes <= (600 + 700) * stats.sessions);
            prop_assert!(stats.detached_bytes <= 1_000);
            prop_assert!(world.core.link_queued_bytes(link) <= 400);
            prop_assert!(stats.subscriptions <= 3 * stats.sessions + 1);
        }
        for key in keys.concat() {
            world.core.release(key, world.now);
        }
        // What is owed goes out as the link takes it, sessions expire, and nothing is left behind.
        world.now += Duration::from_secs(10);
        world.core.handle_due(world.now);
        for _ in 0..200 {
            world.core.take(link, 5, world.now, &mut VecDeque::new());
        }
        let stats = world.core.stats();
        prop_assert_eq!((stats.connections, stats.subscriptions, stats.queued_bytes), (0, 1, 0));
        prop_assert_eq!((stats.sessions, stats.inflight, world.core.next_due()), (0, 0, None));
    }
}

/// An honest client of QoS 2 on a link that loses what is under way, both ways, whenever the connection is lost.
struct Lossy {
    name: &'static str,
    version: Version,
    key: usize,
    to_server: VecDeque<Packet>,
    from_server: VecDeque<Output>,
    /// What it publishes: the identifier, the payload, and whether it has been received.
    publishing: VecDeque<(u16, String, bool)>,
    /// Taken and not released.
    unreleased: Vec<u16>,
    received: Vec<String>,
}

impl Lossy {
    fn join(world: &mut World, name: &'static str, version: Version) -> Lossy {
        let (key, _) = world.come_back(Connect {
            version,
            ..kept(name)
        });
        Lossy {
            name,
            version,
            key,
            to_server: VecDeque::new(),
            from_server: VecDeque::new(),
            publishing: VecDeque::new(),
            unreleased: Vec::new(),
            received: Vec::new(),
        }
    }

    fn publish(&mut self, packet_id: u16, payload: String) {
        self.to_server.push_back(begin(packet_id, &payload));
        self.publishing.push_back((packet_id, payload, false));
    }

    /// The server hears one packet, and what it says is under way.
    fn send_one(&mut self, world: &mut World) {
        if let Some(packet) = self.to_server.pop_front() {
            world.send(self.key, packet);
        }
        let outputs = world.outputs(self.key);
        self.from_server.extend(outputs);
    }

    fn receive_one(&mut self) {
        let verdict = Received::Taken;
        match self.from_server.pop_front() {
            Some(Output::Publish(delivery)) => {
                let packet_id = delivery.packet_id;
                if !self.unreleased.contains(&packet_id) {
                    self.unreleased.push(packet_id);
                    self.received
                        .push(String::from_utf8(delivery.message.payload.to_vec()).unwrap());
                }
                self.to_server.push_back(Packet::PubRec { packet_id, verdict });
            }
            Some(Output::PubRel { packet_id, .. }) => {
                self.unreleased.retain(|id| *id != packet_id);
                self.to_server.push_back(Packet::PubComp { packet_id });
            }
            Some(Output::PubRec { packet_id, .. }) => {
                for (id, _, has_receipt) in &mut self.publishing {
                    *has_receipt |= *id == packet_id;
                }
                self.to_server.push_back(Packet::PubRel { packet_id });
            }
            Some(Output::PubComp { packet_id, .. }) => self.publishing.retain(|(id, ..)| *id != packet_id),
            Some(_) | None => {}
        }
    }

    /// The connection is lost with all that is under way, and there is another.
    fn lose(&mut self, world: &mut World) {
        world.lose(self.key);
        self.to_server.clear();
        self.from_server.clear();
        let (key, present) = world.come_back(Connect {
            version: self.version,
            ..kept(self.name)
        });
        assert!(present);
        self.key = key;
        for (packet_id, payload, has_receipt) in &self.publishing {
            self.to_server.push_back(if *has_receipt {
                Packet::PubRel {
                    packet_id: *packet_id,
                }
            } else {
                begin(*packet_id, payload)
            });
        }
    }

    fn is_done(&self) -> bool {
        self.to_server.is_empty() && self.from_server.is_empty() && self.publishing.is_empty()
    }
}

fn begin(packet_id: u16, payload: &str) -> Packet {
    Packet::Publish(Publish {
        packet_id,
        ..publish("q", QoS::ExactlyOnce, payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn qos_2_arrives_exactly_once_and_in_order_whatever_is_lost(
        steps in prop::collection::vec(0u8..32, 0..300),
        five in any::<bool>(),
    ) {
        let mut world = world(Limits { inflight_max: 3, ..Limits::default() });
        let mut from = Lossy::join(&mut world, "from", if five { Version::V5 } else { Version::V311 });
        let mut to = Lossy::join(&mut world, "to", if five { Version::V311 } else { Version::V5 });
        world.subscribe(to.key, &[("q", QoS::ExactlyOnce)]);
        let mut published = 0u16;
        for step in steps {
            match step {
                0 => from.lose(&mut world),
                1 => to.lose(&mut world),
                2..=6 if from.publishing.len() < 4 => {
                    from.publish(published % 5 + 1, published.to_string());
                    published += 1;
                }
                2..=13 => from.send_one(&mut world),
                14..=19 => from.receive_one(),
                20..=25 => to.send_one(&mut world),
                _ => to.receive_one(),
            }
        }
        for _ in 0..1_000 {
            for client in [&mut from, &mut to] {
                client.send_one(&mut world);
                client.receive_one();
            }
        }
        prop_assert!(from.is_done() && to.is_done());
        let expected: Vec<String> = (0..published).map(|number| number.to_string()).collect();
        prop_assert_eq!(&to.received, &expected);
        let stats = world.core.stats();
        prop_assert_eq!((stats.inflight, stats.queued_bytes), (0, 0));
    }
}
