//! DISCONNECT, in both directions. What becomes of the will stands in `will.rs`.

use waypost_broker::Reason;

use crate::client::{Client, broker, idle};
use crate::wire::{
    self, BOTH, Connect, Packet, Property, Publish, SESSION_EXPIRY, Version, disconnect, frame,
};

/// 5: 3.14.1-1, 3.14.4-1, 3.14.4-2. 3.1.1: 3.14.4-1, 3.14.4-2.
#[tokio::test(start_paused = true)]
async fn nothing_behind_a_disconnect_is_processed_and_the_connection_is_closed() {
    let broker = broker();
    for version in BOTH {
        let mut watcher = Client::plain(&broker, version, "watcher").await;
        watcher.subscribe("#", 1).await;
        let mut client = Client::plain(&broker, version, "c").await;
        let mut bytes = frame(0xE0, &[]);
        bytes.extend(Publish::new("a", "x").qos(1, 1).bytes(version));
        bytes.extend(wire::PINGREQ);
        client.send(&bytes).await;
        client.expect_closed().await;
        watcher.expect_nothing().await;
        // 3.1.1 has no body behind a DISCONNECT.
        if version == Version::V311 {
            let mut client = Client::plain(&broker, version, "c").await;
            client.send(&disconnect(0, &[])).await;
            client.expect_closed().await;
            assert_eq!(broker.stats().count(Reason::Malformed), 1);
        }
    }
}

/// 5: 3.14.2-1. The forms that DISCONNECT may take, and what it may not say.
#[tokio::test(start_paused = true)]
async fn a_goodbye_is_understood_in_each_of_its_forms() {
    let broker = broker();
    let forms = [
        frame(0xE0, &[]),
        frame(0xE0, &[0]),
        frame(0xE0, &[0, 0]),
        disconnect(0x04, &[]),
        disconnect(
            0,
            &[
                Property::text(wire::REASON_STRING, "enough"),
                Property::user("key", "value"),
            ],
        ),
    ];
    for (said, form) in (1..).zip(forms) {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client.send(&form).await;
        client.expect_closed().await;
        assert_eq!(
            broker.stats().count(Reason::ClientDisconnected),
            said,
            "{form:02x?}"
        );
    }
    let wrong = [
        // Reasons that only a server has, or nobody.
        disconnect(0x8E, &[]),
        disconnect(0x01, &[]),
        // Properties of others.
        disconnect(0, &[Property::text(wire::SERVER_REFERENCE, "elsewhere")]),
        disconnect(0, &[Property::Two(wire::TOPIC_ALIAS, 1)]),
        // A session that was to end with the connection cannot be given a lifetime any more.
        disconnect(0, &[Property::Four(SESSION_EXPIRY, 10)]),
    ];
    for packet in wrong {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        println!("{packet:02x?}");
        client.send(&packet).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
}

/// 5: 3.14.0-1, 3.14.2-1, 3.14.2-2, 3.14.4-1, 3.14.4-2, 4.13.2-1. 3.1.1: 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_connection_that_the_broker_ends_is_told_why_as_the_last_thing() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "c").with(Property::Four(SESSION_EXPIRY, 100));
        let mut client = Client::join(&broker, &connect).await;
        client.subscribe("a", 1).await;
        broker.disconnect(|who| &*who.client_id == "c", Reason::Administrative);
        // What comes for it now comes too late for this connection.
        let mut other = Client::plain(&broker, version, "other").await;
        other.say("a", "late").await;
        match (client.receive().await, version) {
            (
                Some(Packet::Disconnect {
                    code: 0x98,
                    properties,
                }),
                Version::V5,
            ) => {
                assert!(properties.iter().all(|property| property.id() != SESSION_EXPIRY));
                client.expect_closed().await;
            }
            (None, Version::V311) => {}
            (other, _) => panic!("{other:?}"),
        }
        idle().await;
        other.leave().await;
    }
}

/// 5: 3.12.4-1. 3.1.1: 3.12.4-1.
#[tokio::test(start_paused = true)]
async fn each_ping_is_answered_once() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&wire::PINGREQ.repeat(3)).await;
        for _ in 0..3 {
            assert_eq!(client.receive().await, Some(Packet::PingResp));
        }
        client.expect_nothing().await;
    }
}
