//! PUBLISH of QoS 0 and 1: how it is answered, and to whom and how it goes out. QoS 2 stands in `qos2.rs`.

use std::collections::BTreeSet;

use crate::client::{Client, broker};
use crate::wire::{self, BOTH, Connect, Packet, Publish, Version};

/// 5: 2.2.1-2, 2.2.1-5, 3.3.4-1, 4.3.2-4. 3.1.1: 2.3.1-5, 2.3.1-6, 3.3.4-1, 4.3.2-2.
#[tokio::test(start_paused = true)]
async fn a_publish_is_answered_as_its_qos_asks() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.publish(&Publish::new("a", "x")).await;
        client.expect_nothing().await;
        for packet_id in [1, 0x0102, u16::MAX, 7] {
            client.publish(&Publish::new("a", "x").qos(1, packet_id)).await;
            let ack = client.expect_puback().await;
            assert_eq!(ack.packet_id, packet_id);
            // 5 may say that nobody subscribes.
            assert!(matches!(ack.code, 0 | 0x10), "{ack:?}");
            client.expect_nothing().await;
        }
    }
}

/// 5: 4.3.2-5, 3.3.1-3. 3.1.1: 4.3.2-2, 3.3.1-3.
#[tokio::test(start_paused = true)]
async fn an_identifier_that_was_acknowledged_is_a_new_message_whatever_dup_says() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        for text in ["1", "2", "3"] {
            let publish = Publish::new("a", text).qos(1, 5).dup();
            client.publish_and_expect_success(&publish).await;
        }
        subscriber.expect_texts(&["1", "2", "3"]).await;
    }
}

/// 5: 3.3.1-1, 3.3.1-2, 3.3.1-3, 4.3.1-1, 4.3.2-2. 3.1.1: 3.3.1-2, 3.3.1-3, 4.3.1-1, 4.3.2-1.
#[tokio::test(start_paused = true)]
async fn what_goes_out_for_the_first_time_has_no_dup() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe_all(&[], &[("a", 1), ("b", 0)]).await;
        let mut client = Client::plain(&broker, version, "c").await;
        for (topic, qos) in [("a", 1), ("b", 0)] {
            let publish = Publish::new(topic, "x").qos(1, 1).dup();
            client.publish_and_expect_success(&publish).await;
            let received = subscriber.take().await;
            assert_eq!((received.dup, received.qos), (false, qos), "{received:?}");
        }
    }
}

/// 5: 2.2.1-4, 3.3.4-9, 4.3.2-1, 4.9.0-2. 3.1.1: 2.3.1-4, 4.3.2-1.
#[tokio::test(start_paused = true)]
async fn each_message_goes_out_under_an_identifier_that_is_not_in_use() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        let mut held = BTreeSet::new();
        for round in 0..40 {
            client.say("a", "x").await;
            let received = subscriber.expect_publish().await;
            assert!(held.insert(received.packet_id), "{received:?}");
            // Acknowledged in another order than sent.
            if round % 3 == 2 {
                let packet_id = *held.iter().nth(held.len() / 2).unwrap();
                held.remove(&packet_id);
                subscriber.acknowledge(wire::PUBACK, packet_id, 0).await;
            }
        }
        assert_eq!(held.len(), 27);
    }
}

/// 5: 4.3.2-3, 4.4.0-1. 3.1.1: 4.3.2-1, 4.4.0-1.
#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_is_not_sent_again_on_the_same_connection() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber =
            Client::join(&broker, &Connect::new(version, "subscriber").keep_alive(3_600)).await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a", "x").await;
        let received = subscriber.expect_publish().await;
        crate::client::pass(3_000).await;
        subscriber.expect_nothing().await;
        // An answer to what was never sent changes nothing.
        subscriber
            .acknowledge(wire::PUBACK, received.packet_id + 1, 0)
            .await;
        subscriber.expect_nothing().await;
        subscriber.acknowledge(wire::PUBACK, received.packet_id, 0).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.4.2-1, 3.5.2-1. 3.1.1: 3.3.5-2.
#[tokio::test(start_paused = true)]
async fn a_publish_that_is_not_allowed_is_refused_in_the_way_that_its_version_has() {
    let broker = broker();
    let mut watcher = Client::plain(&broker, Version::V5, "watcher").await;
    watcher.subscribe("#", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let publish = Publish::new("forbidden/a", "x").retain();
    client.publish(&publish.clone().qos(1, 3)).await;
    let ack = client.expect_puback().await;
    assert_eq!((ack.packet_id, ack.code), (3, 0x87));
    client.expect_nothing().await;
    client.publish(&publish).await;
    client.expect_disconnect(0x87).await;
    for qos in 0..3 {
        let mut client = Client::plain(&broker, Version::V311, "c").await;
        let packet_id = u16::from(qos > 0);
        client.publish(&publish.clone().qos(qos, packet_id)).await;
        client.expect_closed().await;
    }
    watcher.expect_nothing().await;
    assert_eq!(broker.stats().retained, 0);
}

/// 5: 3.3.4-2, 3.3.4-3, 3.3.4-4, 3.3.4-5, 3.8.4-8. 3.1.1: 3.3.5-1, 3.8.4-6.
#[tokio::test(start_paused = true)]
async fn overlapping_subscriptions_deliver_at_the_highest_qos_that_one_was_granted() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        if version == Version::V5 {
            subscriber.subscribe_as(200, "a/+", 0).await;
            subscriber.subscribe_as(3, "a/#", 1).await;
            subscriber.subscribe_as(200, "+/b", 0).await;
            subscriber.subscribe_as(268_435_455, "c/#", 1).await;
        } else {
            for (filter, qos) in [("a/+", 0), ("a/#", 1), ("+/b", 0), ("c/#", 1)] {
                subscriber.subscribe(filter, qos).await;
            }
        }
        subscriber.subscribe("a/b", 0).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a/b", "x").await;
        // One copy or several: each under the identifiers of what it stands for, and the highest QoS is among them.
        let received = subscriber.take().await;
        assert_eq!(received.qos, 1);
        if version == Version::V5 {
            assert_eq!(received.subscription_ids(), [3, 200, 200]);
        }
        subscriber.expect_nothing().await;
        client.say("c", "y").await;
        let received = subscriber.take().await;
        if version == Version::V5 {
            assert_eq!(received.subscription_ids(), [268_435_455]);
        }
    }
}

/// 5: 3.3.4-6, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_publish_with_a_subscription_identifier_ends_the_connection() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let publish = Publish::new("a", "x").with(wire::Property::Variable(wire::SUBSCRIPTION_ID, 1));
    client.publish(&publish).await;
    client.expect_refused(&[0x81, 0x82]).await;
}

/// 5: 3.8.4-8, 4.5.0-1. 3.1.1: 3.8.4-6, 4.5.0-1.
#[tokio::test(start_paused = true)]
async fn a_message_goes_to_everybody_who_subscribes_at_the_lower_of_both_qos() {
    let broker = broker();
    for version in BOTH {
        let mut subscribers = Vec::new();
        for granted in 0..2 {
            let name = format!("subscriber {granted}");
            let mut subscriber = Client::plain(&broker, version, &name).await;
            subscriber.subscribe("a/#", granted).await;
            subscribers.push((granted, subscriber));
        }
        let mut bystander = Client::plain(&broker, version, "bystander").await;
        bystander.subscribe("b", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        for published in 0..2 {
            let publish = Publish::new("a/x", "x").qos(published, u16::from(published));
            client.publish_and_expect_success(&publish).await;
            for (granted, subscriber) in &mut subscribers {
                let received = subscriber.take().await;
                assert_eq!(received.qos, published.min(*granted));
                subscriber.expect_nothing().await;
            }
        }
        bystander.expect_nothing().await;
    }
}

/// 5: 3.3.2-2, 4.7.0-1, 4.7.3-1, 4.13.1-1. 3.1.1: 3.3.2-2, 4.7.1-1, 4.7.3-1, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_topic_with_a_wildcard_or_without_a_character_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        for topic in ["#", "+", "a/#", "a/+/b", "a+", "a#b", ""] {
            for qos in 0..2 {
                let mut client = Client::plain(&broker, version, "c").await;
                let publish = Publish::new(topic, "x").qos(qos, u16::from(qos));
                client.publish(&publish).await;
                match client.receive().await {
                    Some(Packet::Disconnect {
                        code: 0x81 | 0x82 | 0x90,
                        ..
                    }) if version == Version::V5 => {
                        client.expect_closed().await;
                    }
                    None if version == Version::V311 => {}
                    other => panic!("{other:?} for {topic}"),
                }
            }
        }
    }
}
