//! QoS 2: once and only once, in both directions.

use crate::client::{Client, broker, pass};
use crate::wire::{
    self, BOTH, Connect, MAXIMUM_PACKET_SIZE, MAXIMUM_QOS, MESSAGE_EXPIRY, PUBCOMP, PUBREC, PUBREL, Property,
    Publish, Version, Will,
};

/// 5: 2.2.1-5, 3.3.4-1, 3.5.2-1, 3.7.2-1, 4.3.3-8, 4.3.3-10, 4.3.3-11. 3.1.1: 2.3.1-6, 3.3.4-1, 4.3.3-2.
#[tokio::test(start_paused = true)]
async fn what_a_client_repeats_before_it_releases_it_is_delivered_once() {
    for version in BOTH {
        let broker = broker();
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::plain(&broker, version, "c").await;
        let publish = Publish::new("a", "x").qos(2, 0x0102);
        for repeated in [publish.clone(), publish.clone().dup(), publish.clone().dup()] {
            client.publish(&repeated).await;
            let pubrec = client.expect_pubrec().await;
            assert_eq!((pubrec.packet_id, pubrec.code), (0x0102, 0));
        }
        // Another one in between.
        client
            .publish_and_expect_success(&Publish::new("a", "y").qos(2, 7))
            .await;
        for known in [0, 0x92] {
            client.send(&wire::ack(PUBREL, 0x0102, 0)).await;
            let pubcomp = client.expect_pubcomp().await;
            // The second time there is nothing to release, which 5 may say.
            assert_eq!(pubcomp.packet_id, 0x0102);
            assert!([0, known].contains(&pubcomp.code), "{pubcomp:?}");
        }
        subscriber.expect_texts(&["x", "y"]).await;
        subscriber.expect_nothing().await;
        client.expect_nothing().await;
    }
}

/// 5: 4.3.3-12, 3.3.1-3. 3.1.1: 4.3.3-2, 3.3.1-3.
#[tokio::test(start_paused = true)]
async fn an_identifier_that_was_completed_is_a_new_message_whatever_dup_says() {
    for version in BOTH {
        let broker = broker();
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::plain(&broker, version, "c").await;
        for text in ["1", "2", "3"] {
            let publish = Publish::new("a", text).qos(2, 5).dup();
            client.publish_and_expect_success(&publish).await;
            let received = subscriber.take().await;
            assert_eq!((received.text(), received.dup), (text, false));
        }
    }
}

/// 5: 3.5.2-1, 4.3.3-9.
#[tokio::test(start_paused = true)]
async fn an_identifier_that_was_refused_is_a_new_message() {
    let broker = broker();
    let mut subscriber = Client::plain(&broker, Version::V5, "subscriber").await;
    subscriber.subscribe("#", 2).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for _ in 0..2 {
        client.publish(&Publish::new("forbidden", "no").qos(2, 5)).await;
        let pubrec = client.expect_pubrec().await;
        assert_eq!((pubrec.packet_id, pubrec.code), (5, 0x87));
    }
    client
        .publish_and_expect_success(&Publish::new("a", "yes").qos(2, 5))
        .await;
    subscriber.expect_texts(&["yes"]).await;
    subscriber.expect_nothing().await;
}

/// 5: 2.2.1-5, 3.6.1-1, 3.6.2-1, 4.3.3-1, 4.3.3-2, 4.3.3-3, 4.3.3-4, 4.3.3-5. 3.1.1: 2.3.1-6, 3.6.1-1, 4.3.3-1.
#[tokio::test(start_paused = true)]
async fn a_message_to_a_client_takes_all_four_packets() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::new(version, "subscriber").keep_alive(3_600);
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::join(&broker, &Connect::new(version, "c").keep_alive(3_600)).await;
        let mut open = Vec::new();
        for number in 1..=3 {
            let publish = Publish::new("a", number.to_string()).qos(2, number);
            client.publish_and_expect_success(&publish).await;
            let received = subscriber.expect_publish().await;
            assert_eq!((received.qos, received.dup), (2, false));
            // The client sees to it that the identifiers differ.
            open.push(received.packet_id);
        }
        // Nothing is said twice on a connection, however long it takes.
        pass(3_000).await;
        subscriber.expect_nothing().await;
        client.synchronise().await;
        for packet_id in &open {
            subscriber.acknowledge(PUBREC, *packet_id, 0).await;
            let pubrel = subscriber.expect_pubrel().await;
            assert_eq!((pubrel.packet_id, pubrel.code), (*packet_id, 0));
        }
        pass(3_000).await;
        subscriber.expect_nothing().await;
        // PUBREC is not the end of it: a further message gets an identifier of its own.
        let mut client = Client::plain(&broker, version, "d").await;
        client.say("a", "4").await;
        subscriber.take().await;
        for packet_id in open {
            subscriber.acknowledge(PUBCOMP, packet_id, 0).await;
        }
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.6.2-1, 3.7.2-1, 3.6.2-2, 3.6.2-3, 3.7.2-2, 3.7.2-3. 3.1.1: 2.3.1-6.
#[tokio::test(start_paused = true)]
async fn what_is_said_of_an_unknown_identifier_is_answered_and_changes_nothing() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::new(version, "c").with(Property::Four(MAXIMUM_PACKET_SIZE, 30));
        let mut client = Client::join(&broker, &connect).await;
        client.send(&wire::ack(PUBREL, 9, 0)).await;
        let pubcomp = client.expect_pubcomp().await;
        let unknown = if version == Version::V5 { 0x92 } else { 0 };
        assert_eq!((pubcomp.packet_id, pubcomp.code), (9, unknown));
        client.acknowledge(PUBREC, 9, 0).await;
        let pubrel = client.expect_pubrel().await;
        assert_eq!((pubrel.packet_id, pubrel.code), (9, unknown));
        client.acknowledge(PUBCOMP, 9, 0).await;
        client.acknowledge(wire::PUBACK, 9, 0).await;
        client.expect_nothing().await;
        client.subscribe("a", 2).await;
        client.say("a", "x").await;
        assert_eq!(client.take().await.text(), "x");
    }
}

/// 5: 4.3.3-4, 4.4.0-2.
#[tokio::test(start_paused = true)]
async fn a_pubrec_that_is_an_error_is_the_end_of_it() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "subscriber");
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 2).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let publish = Publish::new("a", "x").qos(2, 1);
    client.publish_and_expect_success(&publish).await;
    let received = subscriber.expect_publish().await;
    subscriber.acknowledge(PUBREC, received.packet_id, 0x97).await;
    subscriber.expect_nothing().await;
    subscriber.cut().await;
    let (mut subscriber, connack) = Client::enter(&broker, &connect).await;
    assert!(connack.session_present);
    subscriber.expect_nothing().await;
}

/// 5: 4.3.3-6, 4.4.0-1. 3.1.1: 4.3.3-1, 4.4.0-1.
#[tokio::test(start_paused = true)]
async fn what_was_released_is_released_again_and_not_sent_again() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "subscriber");
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::plain(&broker, version, "c").await;
        let publish = Publish::new("a", "x").qos(2, 1);
        client.publish_and_expect_success(&publish).await;
        let received = subscriber.expect_publish().await;
        subscriber.acknowledge(PUBREC, received.packet_id, 0).await;
        subscriber.expect_pubrel().await;
        // It goes on until the PUBCOMP has come.
        for _ in 0..2 {
            subscriber.cut().await;
            let (again, connack) = Client::enter(&broker, &connect).await;
            subscriber = again;
            assert!(connack.session_present);
            assert_eq!(subscriber.expect_pubrel().await.packet_id, received.packet_id);
            subscriber.expect_nothing().await;
        }
        subscriber.acknowledge(PUBCOMP, received.packet_id, 0).await;
        subscriber.expect_nothing().await;
        subscriber.cut().await;
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 4.3.3-10, 4.1.0-1, 3.1.2-23. 3.1.1: 4.3.3-2, 4.1.0-1.
#[tokio::test(start_paused = true)]
async fn what_a_client_repeats_on_its_next_connection_is_delivered_once() {
    for version in BOTH {
        let broker = broker();
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 2).await;
        let connect = Connect::lasting(version, "c");
        let mut client = Client::join(&broker, &connect).await;
        let publish = Publish::new("a", "x").qos(2, 3);
        client.publish(&publish).await;
        // The PUBREC is lost with the connection.
        client.cut().await;
        subscriber.expect_texts(&["x"]).await;
        let (mut client, connack) = Client::enter(&broker, &connect).await;
        assert!(connack.session_present);
        client.publish_and_expect_success(&publish.clone().dup()).await;
        subscriber.expect_nothing().await;
        // With a new session it is a new message.
        client.publish(&publish).await;
        client.expect_pubrec().await;
        subscriber.expect_texts(&["x"]).await;
        client.cut().await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.publish_and_expect_success(&publish.dup()).await;
        subscriber.expect_texts(&["x"]).await;
    }
}

/// 5: 4.3.3-7.
#[tokio::test(start_paused = true)]
async fn a_message_that_was_sent_does_not_expire_any_more() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "subscriber");
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 2).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let publish = Publish::new("a", "x")
        .qos(2, 1)
        .with(Property::Four(MESSAGE_EXPIRY, 10));
    client.publish_and_expect_success(&publish).await;
    let first = subscriber.expect_publish().await;
    subscriber.cut().await;
    pass(20).await;
    let mut subscriber = Client::join(&broker, &connect).await;
    let again = subscriber.take().await;
    assert_eq!(
        (again.text(), again.packet_id, again.dup),
        ("x", first.packet_id, true)
    );
    subscriber.expect_nothing().await;
}

/// 5: 4.3.3-13.
#[tokio::test(start_paused = true)]
async fn the_flow_is_completed_though_the_message_has_expired() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let publish = Publish::new("a", "x")
        .qos(2, 1)
        .retain()
        .with(Property::Four(MESSAGE_EXPIRY, 1));
    client.publish(&publish).await;
    assert_eq!(client.expect_pubrec().await.code, 0);
    pass(10).await;
    client.publish(&publish.dup()).await;
    assert_eq!(client.expect_pubrec().await.code, 0);
    client.send(&wire::ack(PUBREL, 1, 0)).await;
    let pubcomp = client.expect_pubcomp().await;
    assert_eq!((pubcomp.packet_id, pubcomp.code), (1, 0));
}

/// 5: 3.2.2-9, 3.2.2-10, 3.2.2-11, 3.2.2-12, 3.1.2-12, 3.8.4-7, 3.8.4-8. 3.1.1: 3.1.2-14, 3.8.4-5, 3.8.4-6.
#[tokio::test(start_paused = true)]
async fn qos_2_is_granted_published_and_willed() {
    for version in BOTH {
        let broker = broker();
        let mut will = Will::new("a", "gone");
        (will.qos, will.retain) = (2, true);
        let (mut client, connack) = Client::enter(&broker, &Connect::new(version, "c").will(will)).await;
        assert_eq!(connack.property(MAXIMUM_QOS), None);
        client
            .publish_and_expect_success(&Publish::new("b", "kept").qos(2, 1).retain())
            .await;
        for granted in 0..3 {
            let name = format!("subscriber {granted}");
            let mut subscriber = Client::plain(&broker, version, &name).await;
            subscriber.subscribe("#", granted).await;
            assert_eq!(subscriber.take().await.qos, granted);
            for published in 0..3 {
                let publish = Publish::new("c", "x").qos(published, u16::from(published));
                client.publish_and_expect_success(&publish).await;
                assert_eq!(subscriber.take().await.qos, published.min(granted));
            }
            subscriber.leave().await;
        }
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a", 2).await;
        client.cut().await;
        let received = subscriber.take().await;
        assert_eq!(
            (received.text(), received.qos, received.retain),
            ("gone", 2, false)
        );
    }
}
