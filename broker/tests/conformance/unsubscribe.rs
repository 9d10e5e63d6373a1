//! UNSUBSCRIBE and UNSUBACK.

use crate::client::{Client, broker};
use crate::wire::{self, BOTH, Connect, Packet, Property, RECEIVE_MAXIMUM, Version, unsubscribe};

/// 5: 2.2.1-6, 3.10.4-4, 3.10.4-5, 3.10.4-6, 3.11.3-1, 3.11.3-2. 3.1.1: 2.3.1-7, 3.10.4-4, 3.10.4-5, 3.10.4-6.
#[tokio::test(start_paused = true)]
async fn an_unsubscribe_is_answered_in_the_order_of_its_filters_whatever_there_was() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client
            .subscribe_all(&[], &[("a", 1), ("b/+", 0), ("$share/g/c", 1)])
            .await;
        let table: [(u16, &[&str], &[u8]); 3] = [
            (7, &["x", "b/+", "a", "b/+", "$share/g/c"], &[0x11, 0, 0, 0x11, 0]),
            (0x0100, &["a"], &[0x11]),
            (u16::MAX, &["never", "#"], &[0x11, 0x11]),
        ];
        for (packet_id, filters, codes) in table {
            client.send(&unsubscribe(version, packet_id, filters)).await;
            let Some(Packet::UnsubAck(unsuback)) = client.receive().await else {
                panic!("no UNSUBACK")
            };
            let codes = if version == Version::V5 { codes } else { &[] };
            assert_eq!(
                (unsuback.packet_id, unsuback.codes.as_slice()),
                (packet_id, codes)
            );
            client.expect_nothing().await;
        }
        assert_eq!(broker.stats().subscriptions, 0);
    }
}

/// 5: 3.10.4-1. 3.1.1: 3.10.4-1.
#[tokio::test(start_paused = true)]
async fn only_the_filter_that_is_the_same_in_each_character_is_given_up() {
    let broker = broker();
    for version in BOTH {
        let mut subscriber = Client::plain(&broker, version, "subscriber").await;
        subscriber.subscribe("a/+", 1).await;
        subscriber.subscribe("A/b", 1).await;
        // Each of them matches as much, or more, or less.
        subscriber
            .unsubscribe(&["a/b", "#", "+/+", "a/+/#", "A/+", "$share/g/a/+"])
            .await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a/b", "1").await;
        client.say("A/b", "2").await;
        subscriber.expect_texts(&["1", "2"]).await;
        subscriber.unsubscribe(&["a/+"]).await;
        client.say("a/b", "3").await;
        client.say("A/b", "4").await;
        subscriber.expect_texts(&["4"]).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.10.4-2, 3.10.4-3. 3.1.1: 3.10.4-2, 3.10.4-3.
#[tokio::test(start_paused = true)]
async fn what_was_begun_is_completed_and_nothing_new_is_added() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 1));
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a", "begun").await;
        let begun = subscriber.expect_publish().await;
        subscriber.unsubscribe(&["a"]).await;
        client.say("a", "too late").await;
        subscriber.expect_nothing().await;
        // It is still in flight: its acknowledgement is taken, and frees the one place.
        subscriber.acknowledge(wire::PUBACK, begun.packet_id, 0).await;
        subscriber.subscribe("b", 1).await;
        client.say("b", "next").await;
        subscriber.expect_texts(&["next"]).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.10.3-2, 4.13.1-1. 3.1.1: 3.10.3-2, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn an_unsubscribe_without_a_filter_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&unsubscribe(version, 1, &[])).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
}
