//! Sessions that outlive their connection: what is kept, for how long, and what is sent when the client is back.

use waypost_broker::Limits;

use crate::client::{Client, broker, broker_with, pass};
use crate::wire::{
    self, BOTH, Connect, PUBACK, PUBCOMP, PUBREC, Packet, Property, Publish, RECEIVE_MAXIMUM, SESSION_EXPIRY,
    Version, disconnect,
};

/// Options of a subscription: new ones alone are sent what was kept.
const WHEN_NEW: u8 = 1 << 4;

/// 5: 3.1.2-5, 3.1.2-23, 3.2.2-3, 4.5.0-1. 3.1.1: 3.1.2-4, 3.1.2-5, 3.2.2-2, 4.1.0-1, 4.5.0-1.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_back_finds_its_subscriptions_and_what_came_in_between() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "subscriber");
        let (mut subscriber, connack) = Client::enter(&broker, &connect).await;
        assert!(!connack.session_present);
        if version == Version::V5 {
            subscriber.subscribe_as(77, "a/+", 2).await;
        } else {
            subscriber.subscribe("a/+", 2).await;
        }
        let mut client = Client::join(&broker, &Connect::new(version, "c").keep_alive(3_600)).await;
        for leave in [true, false] {
            if leave {
                subscriber.leave().await;
            } else {
                subscriber.cut().await;
            }
            client.say("a/1", "one").await;
            client
                .publish_and_expect_success(&Publish::new("a/2", "two").qos(2, 100))
                .await;
            client.say("b", "not asked for").await;
            pass(900).await;
            client.say("a/3", "three").await;
            let (again, connack) = Client::enter(&broker, &connect).await;
            subscriber = again;
            assert!(connack.session_present);
            for (text, qos) in [("one", 1), ("two", 2), ("three", 1)] {
                let received = subscriber.take().await;
                assert_eq!((received.text(), received.qos, received.dup), (text, qos, false));
                if version == Version::V5 {
                    assert_eq!(received.subscription_ids(), [77]);
                }
            }
            subscriber.expect_nothing().await;
            client.say("a/4", "live").await;
            subscriber.expect_texts(&["live"]).await;
        }
    }
}

/// 5: 3.1.2-4, 3.1.4-4, 3.2.2-2. 3.1.1: 3.1.2-6, 3.1.4-3, 3.2.2-1.
#[tokio::test(start_paused = true)]
async fn a_clean_start_finds_nothing_of_the_session_before() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "subscriber");
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.say("a", "unacknowledged").await;
        subscriber.expect_publish().await;
        subscriber.cut().await;
        client.say("a", "waiting").await;
        let (mut subscriber, connack) = Client::enter(&broker, &Connect::new(version, "subscriber")).await;
        assert!(!connack.session_present);
        subscriber.expect_nothing().await;
        client.say("a", "too late").await;
        subscriber.expect_nothing().await;
        subscriber.subscribe("a", 1).await;
        subscriber.cut().await;
        // Nor is there anything of a clean one in the next.
        client.say("a", "too late").await;
        let (mut subscriber, connack) = Client::enter(&broker, &connect).await;
        assert!(!connack.session_present);
        client.say("a", "too late").await;
        subscriber.expect_nothing().await;
        assert_eq!(broker.stats().subscriptions, 0);
    }
}

/// 5: 3.1.2-6, 3.2.2-3, 3.1.3-2. 3.1.1: 3.1.2-4, 3.2.2-3, 3.1.3-2.
#[tokio::test(start_paused = true)]
async fn without_a_session_there_is_a_new_one() {
    for version in BOTH {
        let broker = broker();
        let (client, connack) = Client::enter(&broker, &Connect::lasting(version, "c")).await;
        assert!(!connack.session_present);
        client.cut().await;
        // The session of one client id is none of another's.
        for other in ["C", "c ", "d"] {
            let (_client, connack) = Client::enter(&broker, &Connect::lasting(version, other)).await;
            assert!(!connack.session_present, "{other}");
        }
        let (_client, connack) = Client::enter(&broker, &Connect::lasting(version, "c")).await;
        assert!(connack.session_present);
    }
}

/// 5: 2.2.1-4, 3.3.1-1, 4.3.2-3, 4.3.3-3, 4.4.0-1, 4.6.0-5. 3.1.1: 2.3.1-3, 2.3.1-4, 3.3.1-1, 4.3.2-1, 4.3.3-1, 4.4.0-1, 4.6.0-1.
#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_as_it_was_and_in_its_order() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "subscriber");
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 2).await;
        let mut client = Client::plain(&broker, version, "c").await;
        let mut sent = Vec::new();
        for number in 0..9_u16 {
            let publish = Publish::new("a", number.to_string()).qos(1 + (number % 2) as u8, number + 1);
            client.publish_and_expect_success(&publish).await;
            let received = subscriber.expect_publish().await;
            assert!(!received.dup);
            sent.push(received);
        }
        // Two are done with, out of order, and their identifiers are used again.
        for done in [4, 2] {
            let received = sent.remove(done);
            assert_eq!(received.qos, 1);
            subscriber.acknowledge(PUBACK, received.packet_id, 0).await;
        }
        for number in [10, 11] {
            client.say("a", &number.to_string()).await;
            sent.push(subscriber.expect_publish().await);
        }
        for _ in 0..2 {
            subscriber.cut().await;
            client.say("a", "new").await;
            let (again, connack) = Client::enter(&broker, &connect).await;
            subscriber = again;
            assert!(connack.session_present);
            for before in &sent {
                let received = subscriber.expect_publish().await;
                assert!(received.dup, "{received:?}");
                assert_eq!(
                    (&received.payload, received.packet_id, received.qos),
                    (&before.payload, before.packet_id, before.qos)
                );
            }
            let new = subscriber.expect_publish().await;
            assert_eq!((new.text(), new.dup), ("new", false));
            sent.push(new);
            subscriber.expect_nothing().await;
        }
        for received in sent {
            if received.qos == 1 {
                subscriber.acknowledge(PUBACK, received.packet_id, 0).await;
            } else {
                subscriber.acknowledge(PUBREC, received.packet_id, 0).await;
                assert_eq!(subscriber.expect_pubrel().await.packet_id, received.packet_id);
                subscriber.acknowledge(PUBCOMP, received.packet_id, 0).await;
            }
        }
        subscriber.cut().await;
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.2.0-1, 4.4.0-1. 3.1.1: 3.2.0-1, 4.4.0-1.
#[tokio::test(start_paused = true)]
async fn the_connack_comes_before_what_is_sent_again() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "subscriber");
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe("a", 1).await;
        subscriber.say("a", "x").await;
        subscriber.expect_publish().await;
        let mut new = Client::dial(&broker);
        new.accept_terms(&connect);
        let mut bytes = connect.bytes();
        bytes.extend(wire::PINGREQ);
        new.send(&bytes).await;
        // The old connection is taken over, and its session with it.
        match new.receive().await {
            Some(Packet::ConnAck(connack)) => assert!(connack.session_present),
            other => panic!("{other:?}"),
        }
        subscriber.expect_disconnect(0x8E).await;
        assert!(new.expect_publish().await.dup);
        new.synchronise().await;
    }
}

/// 5: 4.4.0-2.
#[tokio::test(start_paused = true)]
async fn what_was_turned_down_is_not_sent_again() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "subscriber");
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for (text, code) in [("1", 0x80), ("2", 0x83), ("3", 0x99), ("4", 0x10)] {
        client.say("a", text).await;
        let received = subscriber.expect_publish().await;
        subscriber.acknowledge(PUBACK, received.packet_id, code).await;
    }
    subscriber.expect_nothing().await;
    subscriber.cut().await;
    let (mut subscriber, connack) = Client::enter(&broker, &connect).await;
    assert!(connack.session_present);
    subscriber.expect_nothing().await;
}

/// 5: 3.1.2-23, 4.1.0-2.
#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_expiry_has_passed_since_the_connection_ended() {
    let broker = broker();
    let expiring = |seconds| {
        Connect::new(Version::V5, "c")
            .resume()
            .keep_alive(3_600)
            .with(Property::Four(SESSION_EXPIRY, seconds))
    };
    for (expiry, away, present) in [
        (0, 0, false),
        (100, 98, true),
        (100, 101, false),
        (5_000, 4_000, true),
    ] {
        let client = Client::join(&broker, &expiring(expiry)).await;
        // The time on the connection does not count.
        pass(1_000).await;
        client.cut().await;
        pass(away).await;
        assert_eq!(
            broker.stats().sessions,
            usize::from(present),
            "{expiry} s, {away} s away"
        );
        let (client, connack) = Client::enter(&broker, &expiring(expiry)).await;
        assert_eq!(connack.session_present, present, "{expiry} s, {away} s away");
        // Back to nothing for the next.
        client.cut().await;
        Client::plain(&broker, Version::V5, "c").await.leave().await;
    }
    // Without the property it is none; a later connection sets its own.
    Client::join(&broker, &expiring(100)).await.cut().await;
    let (client, connack) = Client::enter(&broker, &Connect::new(Version::V5, "c").resume()).await;
    assert!(connack.session_present);
    client.cut().await;
    let (_client, connack) = Client::enter(&broker, &expiring(100)).await;
    assert!(!connack.session_present);
}

/// 5: 3.1.2-23, 4.1.0-2. The expiry that holds is the one that CONNACK says, where it is not the client's.
#[tokio::test(start_paused = true)]
async fn an_expiry_over_the_servers_is_told_the_servers() {
    let broker = broker_with(Limits {
        session_expiry_max: std::time::Duration::from_secs(50),
        ..Limits::default()
    });
    for (asked, told) in [(50, None), (51, Some(50)), (u32::MAX, Some(50))] {
        let connect = Connect::new(Version::V5, "c").with(Property::Four(SESSION_EXPIRY, asked));
        let (client, connack) = Client::enter(&broker, &connect).await;
        assert_eq!(
            connack.property(SESSION_EXPIRY),
            told.map(|told| Property::Four(SESSION_EXPIRY, told)).as_ref()
        );
        client.cut().await;
        pass(48).await;
        assert_eq!(broker.stats().sessions, 1);
        pass(3).await;
        assert_eq!(broker.stats().sessions, 0);
    }
}

/// 5: 3.1.2-23, 4.1.0-2, 3.14.2-2. A goodbye can shorten or lengthen it.
#[tokio::test(start_paused = true)]
async fn a_goodbye_may_set_another_expiry() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "c");
    for (expiry, away, present) in [
        (0, 0, false),
        (10, 8, true),
        (10, 11, false),
        (2_000, 1_500, true),
    ] {
        let mut client = Client::join(&broker, &connect).await;
        client
            .send(&disconnect(0, &[Property::Four(SESSION_EXPIRY, expiry)]))
            .await;
        client.expect_closed().await;
        pass(away).await;
        let (client, connack) = Client::enter(&broker, &connect).await;
        assert_eq!(connack.session_present, present, "{expiry} s, {away} s away");
        client.cut().await;
        Client::plain(&broker, Version::V5, "c").await.leave().await;
    }
}

/// 3.1.1: 3.1.2-4, 3.1.2-6, 4.1.0-1. There is no expiry in this version, only the flag.
#[tokio::test(start_paused = true)]
async fn a_session_of_3_1_1_lasts_unless_it_is_clean() {
    let broker = broker();
    let lasting = Connect::new(Version::V311, "c").resume();
    Client::join(&broker, &lasting).await.leave().await;
    pass(6 * 86_400).await;
    let (client, connack) = Client::enter(&broker, &lasting).await;
    assert!(connack.session_present);
    client.cut().await;
    let (client, connack) = Client::enter(&broker, &Connect::new(Version::V311, "c")).await;
    assert!(!connack.session_present);
    client.cut().await;
    assert_eq!(broker.stats().sessions, 0);
}

/// 5: 3.1.4-3, 3.1.2-5, 4.1.0-1. 3.1.1: 3.1.4-2, 3.1.2-4, 4.1.0-2.
#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_over_takes_the_session_with_it() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "c");
        let mut old = Client::join(&broker, &connect).await;
        old.subscribe("a", 1).await;
        let mut client = Client::plain(&broker, version, "other").await;
        client.say("a", "1").await;
        let received = old.expect_publish().await;
        let (mut new, connack) = Client::enter(&broker, &connect).await;
        assert!(connack.session_present);
        old.expect_disconnect(0x8E).await;
        let again = new.take().await;
        assert_eq!(
            (again.text(), again.packet_id, again.dup),
            ("1", received.packet_id, true)
        );
        client.say("a", "2").await;
        new.expect_texts(&["2"]).await;
        // Clean, it takes the place and not the session.
        let (mut newest, connack) = Client::enter(&broker, &Connect::new(version, "c")).await;
        assert!(!connack.session_present);
        new.expect_disconnect(0x8E).await;
        client.say("a", "3").await;
        newest.expect_nothing().await;
    }
}

/// 5: 3.3.1-10, 3.8.4-3. A subscription that is kept is not new, and none of it is sent by the connection alone.
#[tokio::test(start_paused = true)]
async fn a_subscription_of_the_session_is_not_new_on_the_next_connection() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "c");
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 1 | WHEN_NEW).await;
    let mut client = Client::plain(&broker, Version::V5, "other").await;
    client
        .publish_and_expect_success(&Publish::new("a", "kept").qos(1, 1).retain())
        .await;
    subscriber.expect_texts(&["kept"]).await;
    subscriber.cut().await;
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.expect_nothing().await;
    subscriber.subscribe("a", 1 | WHEN_NEW).await;
    subscriber.expect_nothing().await;
    subscriber.subscribe("a", 1).await;
    subscriber.expect_texts(&["kept"]).await;
}

/// 5: 3.10.4-1, 3.10.4-2. 3.1.1: 3.10.4-1, 3.10.4-2. What was given up does not come back with the session.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_was_given_up_stays_so() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::lasting(version, "c");
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe_all(&[], &[("a", 1), ("b", 1)]).await;
        subscriber.unsubscribe(&["a"]).await;
        subscriber.cut().await;
        let mut client = Client::plain(&broker, version, "other").await;
        client.say("a", "1").await;
        client.say("b", "2").await;
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.expect_texts(&["2"]).await;
        subscriber.expect_nothing().await;
    }
}

/// 5: 3.3.4-9, 4.9.0-1, 4.9.0-2, 4.4.0-1.
#[tokio::test(start_paused = true)]
async fn what_is_sent_again_keeps_to_the_receive_maximum_of_the_new_connection() {
    let broker = broker();
    let connect = Connect::lasting(Version::V5, "subscriber");
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 2).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    let texts: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    for (number, text) in (1_u16..).zip(&texts) {
        let publish = Publish::new("a", text.clone()).qos(1 + (number % 2) as u8, number);
        client.publish_and_expect_success(&publish).await;
        subscriber.expect_publish().await;
    }
    subscriber.cut().await;
    client.say("a", "new").await;
    // The client counts.
    let narrow = connect.with(Property::Two(RECEIVE_MAXIMUM, 2));
    let mut subscriber = Client::join(&broker, &narrow).await;
    let texts: Vec<&str> = texts.iter().map(String::as_str).chain(["new"]).collect();
    subscriber.expect_texts(&texts).await;
    subscriber.expect_nothing().await;
}
