//! The largest packet, in both directions.

use waypost_broker::{Limits, Reason};

use crate::client::{Client, broker, broker_with};
use crate::wire::{
    BOTH, Connect, MAXIMUM_PACKET_SIZE, Packet, Property, Publish, REQUEST_PROBLEM, Version, subscribe,
    unsubscribe,
};

/// 5: 3.2.2-15, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_packet_over_the_servers_maximum_ends_the_connection() {
    let broker = broker_with(Limits {
        packet_bytes_max: 1_000,
        ..Limits::default()
    });
    for version in BOTH {
        let (mut client, connack) = Client::enter(&broker, &Connect::new(version, "c")).await;
        if version == Version::V5 {
            assert_eq!(
                connack.property(MAXIMUM_PACKET_SIZE),
                Some(&Property::Four(MAXIMUM_PACKET_SIZE, 1_000))
            );
        }
        let around = Publish::new("a", "").bytes(version).len() + 1;
        let fits = Publish::new("a", vec![b'x'; 1_000 - around]);
        assert_eq!(fits.bytes(version).len(), 1_000);
        client.publish_and_expect_success(&fits).await;
        client
            .publish(&Publish::new("a", vec![b'x'; 1_001 - around]))
            .await;
        client.expect_disconnect(0x95).await;
    }
}

/// 5: 3.1.2-24, 3.1.2-25.
#[tokio::test(start_paused = true)]
async fn a_message_over_the_clients_maximum_is_passed_over_as_if_it_were_sent() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "small").with(Property::Four(MAXIMUM_PACKET_SIZE, 60));
    let mut small = Client::join(&broker, &connect).await;
    let mut large = Client::plain(&broker, Version::V5, "large").await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for qos in 0..2 {
        small.subscribe("a", qos).await;
        large.subscribe("a", qos).await;
        let long = "x".repeat(100);
        client.say("a", "before").await;
        client.say("a", &long).await;
        client.say("a", "after").await;
        small.expect_texts(&["before", "after"]).await;
        small.expect_nothing().await;
        large.expect_texts(&["before", &long, "after"]).await;
    }
    assert_eq!(broker.stats().count(Reason::TooLargeForReceiver), 2);
    // One that is kept is passed over in the same way.
    let long = "x".repeat(100);
    for (topic, payload) in [("kept/1", long.as_str()), ("kept/2", "short")] {
        client
            .publish_and_expect_success(&Publish::new(topic, payload).qos(1, 1).retain())
            .await;
    }
    small.subscribe("kept/+", 1).await;
    small.expect_texts(&["short"]).await;
    small.expect_nothing().await;
}

/// 5: 3.1.2-24.
#[tokio::test(start_paused = true)]
async fn who_takes_less_than_the_answer_is_turned_away_or_disconnected() {
    let broker = broker();
    let narrow = |bytes| Connect::new(Version::V5, "c").with(Property::Four(MAXIMUM_PACKET_SIZE, bytes));
    // The client checks the size of whatever comes; a CONNACK without a word has 5 bytes.
    for bytes in [1, 4] {
        let mut client = Client::dial(&broker);
        client.send(&narrow(bytes).bytes()).await;
        client.expect_closed().await;
    }
    let mut admitted = None;
    for bytes in 5..64 {
        let mut client = Client::dial(&broker);
        let connack = client.connect(&narrow(bytes)).await;
        match connack.code {
            0x95 => client.expect_closed().await,
            0 => {
                admitted = Some((bytes, client));
                break;
            }
            other => panic!("{other:#x} for {bytes} bytes"),
        }
    }
    let (bytes, mut client) = admitted.expect("64 bytes are enough");
    assert_eq!(
        broker.stats().count(Reason::AnswerTooLarge),
        2 + u64::from(bytes) - 5
    );
    // The last one that fits has so many filters.
    let filters = vec![("a", 0); bytes as usize - 5];
    assert_eq!(client.subscribe_all(&[], &filters).await.len(), filters.len());
    assert_eq!(
        client.unsubscribe(&vec!["a"; filters.len()]).await.len(),
        filters.len()
    );
    let more = vec![("a", 0); filters.len() + 1];
    client.send(&subscribe(Version::V5, 9, &[], &more)).await;
    client.expect_disconnect(0x95).await;
    let mut client = Client::join(&broker, &narrow(bytes)).await;
    client
        .send(&unsubscribe(Version::V5, 9, &vec!["a"; more.len()]))
        .await;
    client.expect_disconnect(0x95).await;
}

/// 5: 3.2.2-19, 3.2.2-20, 3.4.2-2, 3.4.2-3, 3.5.2-2, 3.5.2-3, 3.9.2-1, 3.9.2-2, 3.11.2-1, 3.11.2-2, 3.14.2-3, 3.14.2-4.
#[tokio::test(start_paused = true)]
async fn no_reason_in_words_makes_an_answer_larger_than_the_client_takes() {
    let broker = broker();
    let narrow =
        |client_id| Connect::new(Version::V5, client_id).with(Property::Four(MAXIMUM_PACKET_SIZE, 40));
    // The client checks the size of whatever comes.
    let mut refused = Client::dial(&broker);
    let connack = refused.connect(&narrow("stolen")).await;
    assert_eq!(connack.code, 0x85);
    refused.expect_closed().await;
    let mut client = Client::join(&broker, &narrow("c")).await;
    client.publish(&Publish::new("forbidden", "x").qos(1, 1)).await;
    assert_eq!(client.expect_puback().await.code, 0x87);
    client.publish(&Publish::new("forbidden", "x").qos(2, 1)).await;
    assert_eq!(client.expect_pubrec().await.code, 0x87);
    client
        .send(&subscribe(Version::V5, 2, &[], &[("forbidden", 0), ("a/#/b", 0)]))
        .await;
    match client.receive().await {
        Some(Packet::SubAck(suback)) => assert_eq!(suback.codes, [0x87, 0x8F]),
        other => panic!("{other:?}"),
    }
    client.send(&unsubscribe(Version::V5, 3, &["never"])).await;
    match client.receive().await {
        Some(Packet::UnsubAck(unsuback)) => assert_eq!(unsuback.codes, [0x11]),
        other => panic!("{other:?}"),
    }
    client.publish(&Publish::new("forbidden", "x")).await;
    client.expect_disconnect(0x87).await;
}

/// 5: 3.1.2-29.
#[tokio::test(start_paused = true)]
async fn without_a_wish_for_problem_information_an_answer_is_a_code_alone() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "c").with(Property::Byte(REQUEST_PROBLEM, 0));
    // The client checks that none of these says more.
    let mut client = Client::join(&broker, &connect).await;
    client.publish(&Publish::new("forbidden", "x").qos(1, 1)).await;
    assert_eq!(client.expect_puback().await.code, 0x87);
    client.publish(&Publish::new("forbidden", "x").qos(2, 1)).await;
    assert_eq!(client.expect_pubrec().await.code, 0x87);
    client.send(&crate::wire::ack(crate::wire::PUBREL, 9, 0)).await;
    assert_eq!(client.expect_pubcomp().await.code, 0x92);
    let codes = client
        .subscribe_all(&[], &[("forbidden", 0), ("a/#/b", 0), ("a", 0)])
        .await;
    assert_eq!(codes, [0x87, 0x8F, 0]);
    assert_eq!(client.unsubscribe(&["never", "a"]).await, [0x11, 0]);
}
