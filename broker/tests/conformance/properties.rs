//! What a publisher says of its message, and what becomes of it on the way.

use crate::client::{Client, broker};
use crate::wire::{
    self, CONTENT_TYPE, CORRELATION_DATA, Connect, PAYLOAD_FORMAT, Property, Publish, RESPONSE_TOPIC,
    Version, Will,
};

/// One of each that is passed on, the user properties in an order that is not theirs by name.
fn said() -> Vec<Property> {
    vec![
        Property::Byte(PAYLOAD_FORMAT, 1),
        Property::text(CONTENT_TYPE, "text/plain; charset=utf-8"),
        Property::text(RESPONSE_TOPIC, "answers/ü/\u{FEFF}"),
        Property::Binary(CORRELATION_DATA, vec![0, 0xFF, 0x80, 0]),
        Property::user("z", "1"),
        Property::user("a", "2"),
        Property::user("z", "1"),
        Property::user("", ""),
        Property::user("a", "1"),
    ]
}

fn in_order_of_id(mut properties: Vec<Property>) -> Vec<Property> {
    // The order among user properties is kept: the sort is stable.
    properties.sort_by_key(Property::id);
    properties
}

/// 5: 3.3.2-4, 3.3.2-15, 3.3.2-16, 3.3.2-17, 3.3.2-18, 3.3.2-20.
#[tokio::test(start_paused = true)]
async fn what_a_publisher_says_of_its_message_arrives_unaltered_and_in_order() {
    let broker = broker();
    let mut subscribers = Vec::new();
    for qos in 0..2 {
        let mut subscriber = Client::plain(&broker, Version::V5, &format!("subscriber {qos}")).await;
        subscriber.subscribe("a", qos).await;
        subscribers.push(subscriber);
    }
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let mut publish = Publish::new("a", "x").qos(1, 1).retain();
    publish.properties = said();
    client.publish_and_expect_success(&publish).await;
    // One who comes later gets it as kept.
    let mut late = Client::plain(&broker, Version::V5, "late").await;
    late.subscribe("a", 1).await;
    subscribers.push(late);
    for subscriber in &mut subscribers {
        let received = subscriber.take().await;
        assert_eq!(in_order_of_id(received.properties), in_order_of_id(said()));
    }
    // To a receiver of 3.1.1 the message comes without.
    let mut older = Client::plain(&broker, Version::V311, "older").await;
    older.subscribe("a", 1).await;
    assert_eq!(older.take().await.text(), "x");
}

/// 5: 3.1.3-10.
#[tokio::test(start_paused = true)]
async fn what_a_will_says_arrives_unaltered_and_in_order() {
    let broker = broker();
    let mut subscriber = Client::plain(&broker, Version::V5, "subscriber").await;
    subscriber.subscribe("w", 1).await;
    let mut will = Will::new("w", "gone");
    will.properties = said();
    let client = Client::join(&broker, &Connect::new(Version::V5, "c").will(will)).await;
    client.cut().await;
    let received = subscriber.take().await;
    assert_eq!(received.text(), "gone");
    assert_eq!(in_order_of_id(received.properties), in_order_of_id(said()));
}

/// 5: 3.3.2-14, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_response_topic_with_a_wildcard_ends_the_connection() {
    let broker = broker();
    for topic in ["answers/#", "+/answers", "#"] {
        let property = Property::text(RESPONSE_TOPIC, topic);
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client
            .publish(&Publish::new("a", "x").with(property.clone()))
            .await;
        client.expect_refused(&[0x81, 0x82, 0x90]).await;
        let mut client = Client::dial(&broker);
        let will = Will::new("w", "gone").with(property);
        client
            .send(&Connect::new(Version::V5, "c").will(will).bytes())
            .await;
        client.expect_refused(&[0x81, 0x82, 0x90]).await;
    }
    assert_eq!(broker.stats().sessions, 0);
}

/// 5: 3.3.2-4. A payload that is not what its format says may be passed on or refused, but not altered.
#[tokio::test(start_paused = true)]
async fn a_payload_arrives_as_it_is_whatever_its_format_says() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    client.subscribe("a", 1).await;
    for format in [0, 1] {
        let bytes = vec![0xFF, 0, b'x', 0xC0];
        let publish = Publish::new("a", bytes.clone())
            .qos(1, 9)
            .with(Property::Byte(PAYLOAD_FORMAT, format));
        client.publish(&publish).await;
        let ack = client.expect_puback().await;
        if ack.code == 0x99 {
            continue;
        }
        let received = client.take().await;
        assert_eq!(received.payload, bytes);
        assert_eq!(
            received.property(wire::PAYLOAD_FORMAT),
            Some(&Property::Byte(PAYLOAD_FORMAT, format))
        );
    }
}
