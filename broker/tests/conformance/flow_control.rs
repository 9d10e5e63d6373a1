//! How much may be under way in each direction.

use waypost_broker::Limits;

use crate::client::{Client, broker, broker_with};
use crate::wire::{self, BOTH, Connect, Property, Publish, RECEIVE_MAXIMUM, Version};

/// 5: 3.3.4-9, 4.9.0-1, 4.9.0-2.
#[tokio::test(start_paused = true)]
async fn no_more_is_under_way_than_the_client_takes() {
    let broker = broker();
    for maximum in [1, 2, 10] {
        let connect = Connect::new(Version::V5, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, maximum));
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        for number in 0..maximum + 5 {
            client.say("a", &number.to_string()).await;
        }
        let mut held = Vec::new();
        for _ in 0..maximum {
            held.push(subscriber.expect_publish().await.packet_id);
        }
        subscriber.expect_nothing().await;
        for _ in 0..5 {
            // One out, one in; a failure of the client frees the place as well.
            let packet_id = held.remove(0);
            subscriber.acknowledge(wire::PUBACK, packet_id, 0x80).await;
            held.push(subscriber.expect_publish().await.packet_id);
            subscriber.expect_nothing().await;
        }
    }
}

/// 5: 3.3.4-10, 4.9.0-3.
#[tokio::test(start_paused = true)]
async fn everything_but_messages_goes_on_where_the_client_takes_no_more() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 1));
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    client.say("a", "1").await;
    client.say("a", "2").await;
    let first = subscriber.expect_publish().await;
    subscriber.subscribe("b", 1).await;
    subscriber.say("c", "its own").await;
    assert_eq!(subscriber.unsubscribe(&["b", "x"]).await, [0, 0x11]);
    subscriber.expect_nothing().await;
    subscriber.acknowledge(wire::PUBACK, first.packet_id, 0).await;
    subscriber.expect_texts(&["2"]).await;
}

/// 5: 3.3.4-9, 3.3.4-10, 4.9.0-2, 4.9.0-3.
#[tokio::test(start_paused = true)]
async fn a_message_of_qos_2_is_under_way_until_its_pubcomp() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 2));
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 2).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for number in 1..=4 {
        let publish = Publish::new("a", number.to_string()).qos(2, number);
        client.publish_and_expect_success(&publish).await;
    }
    let first = subscriber.expect_publish().await.packet_id;
    let second = subscriber.expect_publish().await.packet_id;
    subscriber.expect_nothing().await;
    // The PUBREL does not wait for a place, and makes none.
    subscriber.acknowledge(wire::PUBREC, first, 0).await;
    assert_eq!(subscriber.expect_pubrel().await.packet_id, first);
    subscriber.expect_nothing().await;
    subscriber.acknowledge(wire::PUBCOMP, first, 0).await;
    assert_eq!(subscriber.expect_publish().await.text(), "3");
    subscriber.expect_nothing().await;
    // A failure is the end of it.
    subscriber.acknowledge(wire::PUBREC, second, 0x80).await;
    assert_eq!(subscriber.expect_publish().await.text(), "4");
    subscriber.expect_nothing().await;
}

/// 5: 3.3.4-7, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_client_that_overruns_the_receive_maximum_of_the_server_is_disconnected() {
    let broker = broker_with(Limits {
        receive_maximum: 3,
        ..Limits::default()
    });
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for packet_id in 1..=3 {
        client.publish(&Publish::new("a", "x").qos(2, packet_id)).await;
        assert_eq!(client.expect_pubrec().await.packet_id, packet_id);
    }
    // One that is repeated is no further one, and one that is released makes room.
    client.publish(&Publish::new("a", "x").qos(2, 2).dup()).await;
    assert_eq!(client.expect_pubrec().await.packet_id, 2);
    client.publish(&Publish::new("a", "x")).await;
    client.send(&wire::ack(wire::PUBREL, 2, 0)).await;
    assert_eq!(client.expect_pubcomp().await.packet_id, 2);
    client.say("a", "x").await;
    client.publish(&Publish::new("a", "x").qos(2, 4)).await;
    assert_eq!(client.expect_pubrec().await.packet_id, 4);
    client.publish(&Publish::new("a", "x").qos(1, 5)).await;
    client.expect_disconnect(0x93).await;
}

/// 5: 3.3.4-7, 3.3.4-8. The maximum of the server is for the client to keep; one that overruns it is sent away.
#[tokio::test(start_paused = true)]
async fn the_receive_maximum_of_the_server_is_announced() {
    for maximum in [1, 7, u16::MAX] {
        let broker = broker_with(Limits {
            receive_maximum: maximum,
            ..Limits::default()
        });
        let (mut client, connack) = Client::enter(&broker, &Connect::new(Version::V5, "c")).await;
        // Absent is 65,535.
        let announced = match connack.property(RECEIVE_MAXIMUM) {
            Some(Property::Two(_, announced)) => *announced,
            None => u16::MAX,
            other => panic!("{other:?}"),
        };
        assert_eq!(announced, maximum);
        for _ in 0..10 {
            client.say("a", "x").await;
        }
    }
}

/// 5: 4.9.0-2. 3.1.1: 4.3.2-1. Messages of QoS 0 do not count, and 3.1.1 has no maximum of its own.
#[tokio::test(start_paused = true)]
async fn messages_of_qos_0_are_not_counted() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 1));
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe_all(&[], &[("a", 1), ("b", 0)]).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a", "held").await;
        let held = subscriber.expect_publish().await;
        assert_eq!(held.text(), "held");
        for number in 0..5 {
            client
                .publish_and_expect_success(&Publish::new("b", number.to_string()))
                .await;
        }
        subscriber.expect_texts(&["0", "1", "2", "3", "4"]).await;
    }
}
