//! Topic aliases, in both directions.

use waypost_broker::Limits;

use crate::client::{Client, broker, broker_with};
use crate::wire::{BOTH, Connect, Property, Publish, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, Version};

fn aliased(topic: &str, alias: u16, payload: &str) -> Publish {
    Publish::new(topic, payload)
        .qos(1, 1)
        .with(Property::Two(TOPIC_ALIAS, alias))
}

/// 5: 3.3.2-12.
#[tokio::test(start_paused = true)]
async fn every_alias_up_to_the_maximum_stands_for_the_topic_that_set_it_last() {
    let broker = broker_with(Limits {
        topic_alias_max: 300,
        ..Limits::default()
    });
    let mut subscriber = Client::plain(&broker, Version::V5, "subscriber").await;
    subscriber.subscribe("#", 1).await;
    let (mut client, connack) = Client::enter(&broker, &Connect::new(Version::V5, "c")).await;
    assert_eq!(
        connack.property(TOPIC_ALIAS_MAXIMUM),
        Some(&Property::Two(TOPIC_ALIAS_MAXIMUM, 300))
    );
    for alias in (1..=300).rev() {
        let topic = format!("t/{alias}");
        client
            .publish_and_expect_success(&aliased(&topic, alias, "set"))
            .await;
        assert_eq!(subscriber.take().await.topic, topic);
    }
    for alias in 1..=300 {
        client
            .publish_and_expect_success(&aliased("", alias, "used"))
            .await;
        let received = subscriber.take().await;
        assert_eq!(
            (received.topic, received.payload),
            (format!("t/{alias}"), b"used".to_vec())
        );
    }
    client
        .publish_and_expect_success(&aliased("other", 7, "set"))
        .await;
    client.publish_and_expect_success(&aliased("", 7, "used")).await;
    assert_eq!(subscriber.take().await.topic, "other");
    assert_eq!(subscriber.take().await.topic, "other");
}

/// 5: 3.2.2-17, 3.2.2-18, 3.3.2-7, 3.3.2-8, 3.3.2-9, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn an_alias_that_stands_for_nothing_ends_the_connection() {
    let broker = broker_with(Limits {
        topic_alias_max: 4,
        ..Limits::default()
    });
    // Zero, over the maximum, and never set.
    for publish in [aliased("a", 0, "x"), aliased("a", 5, "x"), aliased("", 4, "x")] {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client.publish(&publish).await;
        client.expect_refused(&[0x82, 0x94]).await;
    }
    // Set on another connection: of the same client before, and of another at the same time.
    let lasting = Connect::lasting(Version::V5, "c");
    let mut before = Client::join(&broker, &lasting).await;
    before.publish_and_expect_success(&aliased("a", 1, "x")).await;
    before.cut().await;
    let mut other = Client::plain(&broker, Version::V5, "other").await;
    other.publish_and_expect_success(&aliased("a", 1, "x")).await;
    let mut client = Client::join(&broker, &lasting).await;
    client.publish(&aliased("", 1, "x")).await;
    client.expect_refused(&[0x82, 0x94]).await;
    // None are offered at all.
    let broker = broker_with(Limits {
        topic_alias_max: 0,
        ..Limits::default()
    });
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    client.publish(&aliased("a", 1, "x")).await;
    client.expect_disconnect(0x94).await;
}

/// 5: 3.1.2-26, 3.3.2-7, 3.3.2-11.
#[tokio::test(start_paused = true)]
async fn no_alias_is_sent_over_the_maximum_of_the_client() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for maximum in [1, 2, 16, u16::MAX] {
        let connect =
            Connect::lasting(Version::V5, "subscriber").with(Property::Two(TOPIC_ALIAS_MAXIMUM, maximum));
        // Each connection sets its own: an alias of the one before would be unknown here.
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("long/topics/+", 1).await;
        for round in 0..2 {
            for number in 0..20 {
                let topic = format!("long/topics/{number}");
                client.say(&topic, &round.to_string()).await;
                assert_eq!(subscriber.take().await.topic, topic);
            }
        }
        subscriber.cut().await;
    }
}

/// 5: 3.1.2-27.
#[tokio::test(start_paused = true)]
async fn no_alias_is_sent_to_a_client_that_allows_none() {
    let broker = broker();
    let none = Connect::new(Version::V5, "none");
    let zero = Connect::new(Version::V5, "zero").with(Property::Two(TOPIC_ALIAS_MAXIMUM, 0));
    let mut publisher = Client::plain(&broker, Version::V5, "c").await;
    for connect in [none, zero] {
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("long/topic", 1).await;
        for _ in 0..3 {
            publisher.say("long/topic", "x").await;
            assert_eq!(subscriber.take().await.property(TOPIC_ALIAS), None);
        }
    }
}

/// 5: 3.3.2-7. The alias of a publisher is between it and the broker.
#[tokio::test(start_paused = true)]
async fn the_alias_of_a_publisher_does_not_reach_receivers() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        for topic in ["a", ""] {
            client.publish_and_expect_success(&aliased(topic, 1, "x")).await;
            let received = subscriber.take().await;
            assert_eq!((received.topic.as_str(), received.properties.len()), ("a", 0));
        }
    }
}
