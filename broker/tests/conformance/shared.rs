//! Shared subscriptions: one message, one of the group.

use std::collections::BTreeSet;

use crate::client::{Client, broker, pass};
use crate::wire::{Connect, PUBREC, Property, Publish, RECEIVE_MAXIMUM, Version, subscribe};

/// 5: 4.8.2-1, 4.8.2-2.
#[tokio::test(start_paused = true)]
async fn a_shared_filter_names_a_group_and_a_filter() {
    let broker = broker();
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for filter in ["$share/g/a", "$share/g/#", "$share/g//", "$share/ü n/+/a"] {
        client.subscribe(filter, 1).await;
    }
    for filter in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/#/a",
        "$share/a+b/a",
        "$share/g/a#",
        "$share/g/a/#/b",
    ] {
        let mut client = Client::plain(&broker, Version::V5, "c2").await;
        client.send(&subscribe(Version::V5, 1, &[], &[(filter, 1)])).await;
        match client.receive().await {
            Some(crate::wire::Packet::SubAck(suback)) => assert_eq!(suback.codes, [0x8F], "{filter}"),
            other => panic!("{other:?} for {filter}"),
        }
    }
}

/// 5: 4.8.2-3, 3.8.4-8.
#[tokio::test(start_paused = true)]
async fn each_message_goes_to_one_of_the_group_at_the_qos_that_it_was_granted() {
    let broker = broker();
    let mut members = Vec::new();
    for granted in 0..2 {
        let mut member = Client::plain(&broker, Version::V5, &format!("member {granted}")).await;
        member.subscribe("$share/g/a/+", granted).await;
        members.push((granted, member));
    }
    let mut other_group = Client::plain(&broker, Version::V5, "other group").await;
    other_group.subscribe("$share/h/a/+", 1).await;
    let mut alone = Client::plain(&broker, Version::V5, "alone").await;
    alone.subscribe("a/+", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for number in &all {
        client.say("a/x", number).await;
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    other_group.expect_texts(&all).await;
    alone.expect_texts(&all).await;
    // Between them the members have each message once.
    let mut seen = BTreeSet::new();
    for (granted, member) in &mut members {
        for received in member.take_all().await {
            assert_eq!(received.qos, *granted);
            assert!(seen.insert(received.text().to_string()), "{received:?}");
        }
    }
    assert_eq!(seen.len(), 20);
}

/// 5: 4.8.2-6.
#[tokio::test(start_paused = true)]
async fn a_message_that_a_member_turns_down_goes_to_nobody_else() {
    let broker = broker();
    let mut members = Vec::new();
    for name in ["one", "two"] {
        let mut member = Client::plain(&broker, Version::V5, name).await;
        member.subscribe("$share/g/a", 1).await;
        members.push(member);
    }
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    client.say("a", "1").await;
    client.say("a", "2").await;
    for member in &mut members {
        let received = member.expect_publish().await;
        member
            .acknowledge(crate::wire::PUBACK, received.packet_id, 0x87)
            .await;
    }
    for member in &mut members {
        member.expect_nothing().await;
    }
}

/// 5: 4.8.2-4, 4.8.2-5.
#[tokio::test(start_paused = true)]
async fn a_message_of_qos_2_that_was_begun_stays_with_its_member() {
    // Before and behind the PUBREC.
    for received in [false, true] {
        let broker = broker();
        let connect = Connect::lasting(Version::V5, "first");
        let mut first = Client::join(&broker, &connect).await;
        first.subscribe("$share/g/a", 2).await;
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client
            .publish_and_expect_success(&Publish::new("a", "x").qos(2, 1))
            .await;
        let begun = first.expect_publish().await;
        if received {
            first.acknowledge(PUBREC, begun.packet_id, 0).await;
            first.expect_pubrel().await;
        }
        let patient = Connect::new(Version::V5, "second").keep_alive(3_600);
        let mut second = Client::join(&broker, &patient).await;
        second.subscribe("$share/g/a", 2).await;
        first.cut().await;
        second.expect_nothing().await;
        let mut first = Client::join(&broker, &connect).await;
        if received {
            assert_eq!(first.expect_pubrel().await.packet_id, begun.packet_id);
        } else {
            let again = first.expect_publish().await;
            assert_eq!((again.packet_id, again.dup), (begun.packet_id, true));
        }
        // Not even when its session ends.
        first.cut().await;
        pass(2_000).await;
        assert_eq!(broker.stats().sessions, 1);
        second.expect_nothing().await;
    }
}

/// 5: 4.5.0-1, 4.8.2-6. What a member leaves at QoS 1 when its session ends goes to another: nothing that was acknowledged to its
/// author is lost while there is somebody to take it.
#[tokio::test(start_paused = true)]
async fn a_message_of_qos_1_that_a_member_leaves_goes_to_another() {
    let broker = broker();
    let mut first = Client::join(
        &broker,
        &Connect::new(Version::V5, "first").with(Property::Two(RECEIVE_MAXIMUM, 1)),
    )
    .await;
    first.subscribe("$share/g/a", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for text in ["1", "2", "3"] {
        client.say("a", text).await;
    }
    first.expect_publish().await;
    let mut second = Client::plain(&broker, Version::V5, "second").await;
    second.subscribe("$share/g/a", 1).await;
    second.expect_nothing().await;
    first.cut().await;
    second.expect_texts(&["1", "2", "3"]).await;
    second.expect_nothing().await;
}
