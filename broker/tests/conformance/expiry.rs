//! How long a message is worth sending.

use crate::client::{Client, broker, idle, pass};
use crate::wire::{self, Connect, MESSAGE_EXPIRY, Property, Publish, RECEIVE_MAXIMUM, Version, Will};

fn expiring(topic: &str, payload: &str, seconds: u32) -> Publish {
    Publish::new(topic, payload)
        .qos(1, 1)
        .with(Property::Four(MESSAGE_EXPIRY, seconds))
}

/// Seconds that a message has left.
fn left(publish: &Publish) -> Option<u32> {
    publish.property(MESSAGE_EXPIRY).map(|property| match property {
        Property::Four(_, seconds) => *seconds,
        other => panic!("{other:?}"),
    })
}

/// A subscriber with room for one message that is not acknowledged, so that others wait.
async fn narrow(broker: &waypost_broker::Broker) -> Client {
    let connect = Connect::new(Version::V5, "narrow")
        .keep_alive(3_000)
        .with(Property::Two(RECEIVE_MAXIMUM, 1));
    let mut subscriber = Client::join(broker, &connect).await;
    subscriber.subscribe("a", 1).await;
    subscriber
}

/// 5: 3.3.2-6.
#[tokio::test(start_paused = true)]
async fn the_time_that_a_message_waited_is_taken_off_its_expiry() {
    let broker = broker();
    let mut subscriber = narrow(&broker).await;
    let mut client = Client::join(&broker, &Connect::new(Version::V5, "c").keep_alive(3_000)).await;
    client.publish_and_expect_success(&expiring("a", "1", 100)).await;
    client
        .publish_and_expect_success(&expiring("a", "2", 100).retain())
        .await;
    client
        .publish_and_expect_success(&Publish::new("a", "3").qos(1, 1))
        .await;
    let first = subscriber.expect_publish().await;
    assert_eq!(left(&first), Some(100));
    pass(40).await;
    subscriber.acknowledge(wire::PUBACK, first.packet_id, 0).await;
    // Within the second that it may be rounded by.
    let second = subscriber.take().await;
    assert!(matches!(left(&second), Some(59..=60)), "{second:?}");
    assert_eq!(left(&subscriber.take().await), None);
    // A retained one goes on counting.
    pass(20).await;
    let mut late = Client::plain(&broker, Version::V5, "late").await;
    late.subscribe("a", 1).await;
    let kept = late.take().await;
    assert!(matches!(left(&kept), Some(39..=40)), "{kept:?}");
}

/// 5: 3.3.2-5.
#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_sent_any_more() {
    let broker = broker();
    let mut subscriber = narrow(&broker).await;
    let mut client = Client::join(&broker, &Connect::new(Version::V5, "c").keep_alive(3_000)).await;
    client
        .publish_and_expect_success(&expiring("a", "first", 10))
        .await;
    client
        .publish_and_expect_success(&expiring("a", "short", 10).retain())
        .await;
    client
        .publish_and_expect_success(&expiring("a", "long", 30))
        .await;
    let first = subscriber.expect_publish().await;
    assert_eq!(first.text(), "first");
    pass(11).await;
    subscriber.acknowledge(wire::PUBACK, first.packet_id, 0).await;
    subscriber.expect_texts(&["long"]).await;
    subscriber.expect_nothing().await;
    let mut late = Client::plain(&broker, Version::V5, "late").await;
    late.subscribe("a", 1).await;
    late.expect_nothing().await;
}

/// 5: 3.3.2-5, 3.3.2-6. The expiry of a will counts from when it is published.
#[tokio::test(start_paused = true)]
async fn a_will_expires_as_a_message_does() {
    let broker = broker();
    let will = Will::new("a", "gone").with(Property::Four(MESSAGE_EXPIRY, 20));
    let mut will = Connect::new(Version::V5, "c").keep_alive(3_000).will(will);
    will.will.as_mut().unwrap().retain = true;
    let client = Client::join(&broker, &will).await;
    pass(100).await;
    client.cut().await;
    idle().await;
    for (waited, expected) in [(0, Some(19..=20)), (15, Some(4..=5)), (10, None)] {
        pass(waited).await;
        let mut late = Client::plain(&broker, Version::V5, "late").await;
        late.subscribe("a", 1).await;
        match expected {
            Some(range) => {
                let kept = late.take().await;
                assert!(range.contains(&left(&kept).unwrap()), "{kept:?}");
            }
            None => late.expect_nothing().await,
        }
    }
}
