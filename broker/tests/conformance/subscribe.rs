//! SUBSCRIBE and SUBACK. What the filters match stands in `topics.rs`, what is kept for them in `retained.rs`.

use crate::client::{Client, broker};
use crate::wire::{
    BOTH, Connect, Packet, Property, Publish, RECEIVE_MAXIMUM, SUBSCRIPTION_ID, Version, frame, subscribe,
};

const NO_LOCAL: u8 = 1 << 2;

/// 5: 2.2.1-6, 3.8.4-1, 3.8.4-2, 3.8.4-6, 3.8.4-7, 3.9.3-1, 3.9.3-2. 3.1.1: 2.3.1-7, 3.8.4-1, 3.8.4-2, 3.8.4-5, 3.9.3-1, 3.9.3-2.
#[tokio::test(start_paused = true)]
async fn a_subscribe_is_answered_with_one_code_for_each_filter_in_their_order() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        let filters = [("a", 1), ("forbidden", 0), ("b", 0), ("c/#/d", 1), ("a", 0)];
        for packet_id in [1, 0x0201, u16::MAX] {
            client.send(&subscribe(version, packet_id, &[], &filters)).await;
            let Some(Packet::SubAck(suback)) = client.receive().await else {
                panic!("no SUBACK")
            };
            let expected = match version {
                Version::V5 => [1, 0x87, 0, 0x8F, 0],
                Version::V311 => [1, 0x80, 0, 0x80, 0],
            };
            assert_eq!(
                (suback.packet_id, suback.codes.as_slice()),
                (packet_id, &expected[..])
            );
            client.expect_nothing().await;
        }
    }
}

/// 5: 3.8.3-2, 4.13.1-1. 3.1.1: 3.8.3-3, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_subscribe_without_a_filter_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&subscribe(version, 1, &[], &[])).await;
        client.expect_refused(&[0x81, 0x82]).await;
        // A filter without its options.
        let whole = subscribe(version, 1, &[], &[("a", 0)]);
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&frame(0x82, &whole[2..whole.len() - 1])).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
}

/// 5: 3.8.3-5, 4.13.1-1. 3.1.1: 3.8.3-4, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn reserved_bits_of_the_options_end_the_connection() {
    let broker = broker();
    for version in BOTH {
        let wrong: &[u8] = match version {
            // The two highest bits, QoS 3, and retain handling 3.
            Version::V5 => &[0x40, 0x80, 0xC0, 0x03, 0x30],
            // All but the QoS.
            Version::V311 => &[0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x03],
        };
        for options in wrong {
            let mut client = Client::plain(&broker, version, "c").await;
            client
                .send(&subscribe(version, 1, &[], &[("a", 0), ("b", *options)]))
                .await;
            client.expect_refused(&[0x81, 0x82]).await;
        }
    }
}

/// 5: 3.8.3-3.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_not_local_gets_nothing_of_its_own() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let mut other = Client::plain(&broker, Version::V5, "other").await;
    client.subscribe("a/+", 1 | NO_LOCAL).await;
    other.subscribe("a/+", 1 | NO_LOCAL).await;
    client.say("a/1", "mine").await;
    other.expect_texts(&["mine"]).await;
    client.expect_nothing().await;
    // Another subscription of the same client does.
    client.subscribe_as(5, "a/2", 1).await;
    client.say("a/2", "mine too").await;
    let received = client.take().await;
    assert_eq!(
        (received.text(), received.subscription_ids()),
        ("mine too", vec![5])
    );
    client.expect_nothing().await;
}

/// 5: 3.8.3-4, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_shared_subscription_that_is_not_local_ends_the_connection() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    client
        .send(&subscribe(Version::V5, 1, &[], &[("$share/g/a", NO_LOCAL)]))
        .await;
    client.expect_disconnect(0x82).await;
}

/// 5: 3.8.4-5. 3.1.1: 3.8.4-4.
#[tokio::test(start_paused = true)]
async fn several_filters_at_once_are_as_one_after_the_other() {
    let broker = broker();
    for version in BOTH {
        let mut together = Client::plain(&broker, version, "together").await;
        let filters = [("a", 0), ("b", 1), ("a", 1)];
        let codes = together.subscribe_all(&[], &filters).await;
        let mut apart = Client::plain(&broker, version, "apart").await;
        let mut one_by_one = Vec::new();
        for filter in filters {
            one_by_one.extend(apart.subscribe_all(&[], &[filter]).await);
        }
        assert_eq!(codes, one_by_one);
        let mut client = Client::plain(&broker, version, "c").await;
        for topic in ["a", "b"] {
            client.say(topic, topic).await;
        }
        for subscriber in [&mut together, &mut apart] {
            for topic in ["a", "b"] {
                let received = subscriber.take().await;
                // The last of both counts.
                assert_eq!((received.text(), received.qos), (topic, 1));
            }
            subscriber.expect_nothing().await;
        }
    }
}

/// 5: 3.8.4-3, 3.8.4-4. 3.1.1: 3.8.4-3.
#[tokio::test(start_paused = true)]
async fn the_same_filter_again_replaces_the_subscription_and_loses_nothing() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 1));
        let mut subscriber = Client::join(&broker, &connect).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client
            .publish_and_expect_success(&Publish::new("a", "kept").retain())
            .await;
        subscriber.subscribe("a", 1).await;
        subscriber.expect_texts(&["kept"]).await;
        for text in ["1", "2", "3"] {
            client.say("a", text).await;
        }
        // Two of them wait for the first.
        let properties = [Property::Variable(SUBSCRIPTION_ID, 9)];
        assert_eq!(subscriber.subscribe_all(&properties, &[("a", 0)]).await, [0]);
        client.say("a", "4").await;
        let mut texts = Vec::new();
        for _ in 0..5 {
            let received = subscriber.take().await;
            texts.push(received.text().to_string());
            if received.text() == "4" {
                assert_eq!(received.qos, 0);
                if version == Version::V5 {
                    assert_eq!(received.subscription_ids(), [9]);
                }
            }
        }
        // What was kept is sent again, at whatever time.
        texts.sort();
        assert_eq!(texts, ["1", "2", "3", "4", "kept"]);
        subscriber.expect_nothing().await;
        client.say("a", "5").await;
        subscriber.expect_texts(&["5"]).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.1.2-23, 4.1.0-1, 4.5.0-1. 3.1.1: 4.1.0-1, 4.1.0-2, 4.5.0-1.
#[tokio::test(start_paused = true)]
async fn a_subscription_lasts_as_long_as_its_connection() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "subscriber")
            .keep_alive(3_600)
            .with(Property::Four(crate::wire::SESSION_EXPIRY, 1));
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 1).await;
        // Longer than the session would outlive the connection.
        for number in 0..3 {
            crate::client::pass(3_000).await;
            subscriber.synchronise().await;
            let mut client = Client::plain(&broker, version, "c").await;
            client.say("a", &number.to_string()).await;
            subscriber.expect_texts(&[&number.to_string()]).await;
        }
    }
}

/// 5: 3.2.2-10. 3.1.1: 3.8.3-2. Wildcards, identifiers and shared subscriptions are offered, and CONNACK does not say otherwise.
#[tokio::test(start_paused = true)]
async fn every_kind_of_subscription_is_offered() {
    let broker = broker();
    for version in BOTH {
        let (mut client, connack) = Client::enter(&broker, &Connect::new(version, "c")).await;
        for id in [
            crate::wire::WILDCARD_AVAILABLE,
            crate::wire::SUBSCRIPTION_IDS_AVAILABLE,
            crate::wire::SHARED_AVAILABLE,
            crate::wire::RETAIN_AVAILABLE,
        ] {
            assert_ne!(connack.property(id), Some(&Property::Byte(id, 0)));
        }
        for qos in 0..3 {
            let codes = client
                .subscribe_all(&[], &[("a/#", qos), ("+/b", qos), ("$share/g/c", qos)])
                .await;
            assert!(codes.iter().all(|code| *code <= qos), "{codes:?}");
        }
    }
}
