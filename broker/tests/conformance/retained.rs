//! The message that a topic keeps for those who come later.

use crate::client::{Client, broker};
use crate::wire::{BOTH, Connect, Property, Publish, SESSION_EXPIRY, Version};

/// Retain handling, as it stands in the options of a subscription.
const WHEN_NEW: u8 = 1 << 4;
const NEVER: u8 = 2 << 4;
const AS_PUBLISHED: u8 = 1 << 3;

async fn retain(client: &mut Client, topic: &str, payload: &str, qos: u8) {
    let publish = Publish::new(topic, payload).qos(qos, u16::from(qos)).retain();
    client.publish_and_expect_success(&publish).await;
}

/// What a new subscriber to `filter` is sent at once, by topic.
async fn kept(broker: &waypost_broker::Broker, version: Version, filter: &str) -> Vec<(String, String, u8)> {
    let mut subscriber = Client::plain(broker, version, "reader").await;
    subscriber.subscribe(filter, 1).await;
    let mut found = Vec::new();
    for publish in subscriber.take_all().await {
        // [MQTT-3.3.1-8] of 3.1.1
        assert!(publish.retain, "{publish:?}");
        found.push((publish.topic.clone(), publish.text().to_string(), publish.qos));
    }
    subscriber.leave().await;
    found.sort();
    found
}

/// 5: 3.3.1-5, 3.3.1-9. 3.1.1: 3.3.1-5, 3.3.1-6, 3.3.1-7, 3.3.1-8.
#[tokio::test(start_paused = true)]
async fn the_last_retained_message_of_each_topic_is_sent_to_whoever_subscribes() {
    for version in BOTH {
        let broker = broker();
        let mut client = Client::plain(&broker, version, "c").await;
        retain(&mut client, "a/1", "old", 1).await;
        retain(&mut client, "a/1", "new", 1).await;
        retain(&mut client, "a/2", "two", 0).await;
        retain(&mut client, "b", "three", 1).await;
        let message = |topic: &str, text: &str, qos| (topic.to_string(), text.to_string(), qos);
        assert_eq!(
            kept(&broker, version, "a/+").await,
            [message("a/1", "new", 1), message("a/2", "two", 0)]
        );
        // A message of QoS 0 takes the place of one of QoS 1.
        retain(&mut client, "a/1", "newest", 0).await;
        assert_eq!(kept(&broker, version, "a/1").await, [message("a/1", "newest", 0)]);
        assert_eq!(kept(&broker, version, "c").await, []);
    }
}

/// 5: 3.3.1-6, 3.3.1-7, 3.3.1-8. 3.1.1: 3.3.1-10, 3.3.1-11, 3.3.1-12.
#[tokio::test(start_paused = true)]
async fn only_a_retained_message_changes_what_is_kept_and_an_empty_one_takes_it_away() {
    for version in BOTH {
        let broker = broker();
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        retain(&mut client, "a", "kept", 1).await;
        client.say("a", "passing").await;
        client.say("a", "").await;
        assert_eq!(
            kept(&broker, version, "a").await,
            [("a".into(), "kept".into(), 1)]
        );
        // It reaches those who are there like any other.
        retain(&mut client, "a", "", 1).await;
        subscriber.expect_texts(&["kept", "passing", "", ""]).await;
        assert_eq!(kept(&broker, version, "a").await, []);
        assert_eq!(broker.stats().retained, 0);
        // Of a topic that keeps nothing as well.
        retain(&mut client, "b", "", 0).await;
        assert_eq!(broker.stats().retained, 0);
    }
}

/// 5: 3.3.1-12. 3.1.1: 3.3.1-9.
#[tokio::test(start_paused = true)]
async fn to_those_who_were_there_it_is_a_message_like_any_other() {
    for version in BOTH {
        let broker = broker();
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        retain(&mut client, "a", "x", 1).await;
        client.say("a", "y").await;
        for _ in 0..2 {
            let publish = subscriber.take().await;
            assert!(!publish.retain, "{publish:?}");
        }
    }
}

/// 5: 3.3.1-13.
#[tokio::test(start_paused = true)]
async fn retain_as_published_passes_the_flag_on() {
    let broker = broker();
    let mut subscriber = Client::plain(&broker, Version::V5, "subscriber").await;
    subscriber.subscribe("a", 1 | AS_PUBLISHED).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    retain(&mut client, "a", "x", 1).await;
    client.say("a", "y").await;
    assert!(subscriber.take().await.retain);
    assert!(!subscriber.take().await.retain);
}

/// 5: 3.3.1-9, 3.3.1-10, 3.3.1-11, 3.8.4-4.
#[tokio::test(start_paused = true)]
async fn retain_handling_says_when_kept_messages_are_sent() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    retain(&mut client, "a", "x", 1).await;
    // Options, and whether it is sent by a first and by a second SUBSCRIBE.
    for (handling, first, again) in [(0, 1, 1), (WHEN_NEW, 1, 0), (NEVER, 0, 0)] {
        let mut subscriber = Client::plain(&broker, Version::V5, "subscriber").await;
        for count in [first, again] {
            subscriber.subscribe("a", 1 | handling).await;
            for _ in 0..count {
                assert_eq!(subscriber.take().await.text(), "x");
            }
            subscriber.expect_nothing().await;
        }
        // New again once it was given up.
        subscriber.unsubscribe(&["a"]).await;
        subscriber.subscribe("a", 1 | handling).await;
        for _ in 0..first {
            assert_eq!(subscriber.take().await.text(), "x");
        }
        subscriber.expect_nothing().await;
    }
}

/// 5: 4.1.0-2. 3.1.1: 3.1.2-7.
#[tokio::test(start_paused = true)]
async fn what_is_kept_outlives_the_session_of_its_author() {
    for version in BOTH {
        let broker = broker();
        let mut client = Client::plain(&broker, version, "c").await;
        retain(&mut client, "a", "x", 1).await;
        client.leave().await;
        Client::join(
            &broker,
            &Connect::new(version, "c").with(Property::Four(SESSION_EXPIRY, 0)),
        )
        .await
        .cut()
        .await;
        assert_eq!(kept(&broker, version, "#").await.len(), 1);
    }
}
