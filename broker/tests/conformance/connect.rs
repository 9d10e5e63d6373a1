//! CONNECT and CONNACK: who is let in, what they are told, and what becomes of the rest.

use crate::client::{Client, broker, idle};
use crate::wire::{
    self, ASSIGNED_CLIENT_ID, AUTHENTICATION_METHOD, BOTH, ConnAck, Connect, Packet, Property, Publish,
    RESPONSE_INFORMATION, Version, Will, frame, put_binary, subscribe,
};

/// 5: 3.1.0-1, 3.2.0-1, 3.14.0-1. 3.1.1: 3.1.0-1.
#[tokio::test(start_paused = true)]
async fn anything_but_a_connect_first_is_closed_unanswered() {
    let broker = broker();
    for version in BOTH {
        let packets = [
            Publish::new("a", "x").retain().bytes(version),
            subscribe(version, 1, &[], &[("a", 0)]),
            wire::PINGREQ.to_vec(),
            frame(0xE0, &[]),
            frame(0xF0, &[]),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ];
        for packet in packets {
            let mut client = Client::dial(&broker);
            client.send(&packet).await;
            client.send(&Connect::new(version, "c").bytes()).await;
            client.expect_closed().await;
        }
    }
    assert_eq!(broker.stats().retained, 0);
    assert_eq!(broker.stats().connects, 0);
}

/// 5: 3.1.0-2, 4.13.1-1. 3.1.1: 3.1.0-2, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_second_connect_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&Connect::new(version, "c").bytes()).await;
        client.expect_disconnect(0x82).await;
    }
}

/// A CONNECT with another protocol name and level, otherwise as of 3.1.1 and 5 at once: its client id is empty in the one.
fn connect_as(name: &[u8], level: u8) -> Vec<u8> {
    let mut body = Vec::new();
    put_binary(&mut body, name);
    body.extend([level, 2, 0, 60]);
    if level >= 5 {
        body.push(0);
    }
    put_binary(&mut body, b"c");
    frame(0x10, &body)
}

/// 5: 3.1.2-1. 3.1.1: 3.1.2-1.
#[tokio::test(start_paused = true)]
async fn a_protocol_that_is_not_mqtt_is_not_let_in() {
    let broker = broker();
    for level in [4, 5] {
        for name in [&b"MQTX"[..], b"mqtt", b"MQTT ", b"MQT", b""] {
            let mut client = Client::dial(&broker);
            client.send(&connect_as(name, level)).await;
            client.expect_refused(&[0x84]).await;
        }
    }
    assert_eq!(broker.stats().connects, 0);
}

/// 5: 3.1.2-2, 3.2.2-7. 3.1.1: 3.1.2-2, 3.2.2-5.
#[tokio::test(start_paused = true)]
async fn a_level_that_is_not_spoken_is_told_so_and_closed() {
    let broker = broker();
    for (level, version, code) in [
        (3, Version::V311, 1),
        (0, Version::V311, 1),
        (6, Version::V5, 0x84),
        (0x7F, Version::V5, 0x84),
    ] {
        let mut client = Client::dial(&broker);
        client.accept_terms(&Connect::new(version, "c"));
        client.send(&connect_as(b"MQTT", level)).await;
        match client.receive().await {
            Some(Packet::ConnAck(connack)) => {
                assert_eq!((connack.code, connack.session_present), (code, false));
            }
            other => panic!("{other:?}"),
        }
        client.expect_closed().await;
    }
}

/// Sends bytes in place of a CONNECT: 5 may be told that it is malformed, 3.1.1 is closed without a CONNACK.
async fn expect_malformed(broker: &waypost_broker::Broker, version: Version, bytes: &[u8]) {
    println!("{version:?} {bytes:02x?}");
    let mut client = Client::dial(broker);
    client.accept_terms(&Connect::new(version, "c"));
    client.send(bytes).await;
    client.expect_refused(&[0x81, 0x82]).await;
}

/// 5: 2.1.3-1, 3.1.2-3, 3.1.4-1. 3.1.1: 2.2.2-1, 3.1.2-3, 3.1.4-1.
#[tokio::test(start_paused = true)]
async fn the_reserved_flag_of_a_connect_must_be_zero() {
    let broker = broker();
    for version in BOTH {
        let mut bytes = Connect::new(version, "c").bytes();
        bytes[9] |= 1;
        expect_malformed(&broker, version, &bytes).await;
    }
}

/// 5: 3.1.2-11, 3.1.2-12, 3.1.2-13, 3.1.4-1. 3.1.1: 3.1.2-11, 3.1.2-13, 3.1.2-14, 3.1.2-15, 3.1.4-1.
#[tokio::test(start_paused = true)]
async fn the_flags_of_a_will_must_make_sense() {
    let broker = broker();
    for version in BOTH {
        // QoS 1, 2 and 3, and retain, of a will that is not there.
        for flags in [0x08, 0x10, 0x18, 0x20] {
            let mut bytes = Connect::new(version, "c").bytes();
            bytes[9] |= flags;
            expect_malformed(&broker, version, &bytes).await;
        }
        let mut bytes = Connect::new(version, "c").will(Will::new("w", "gone")).bytes();
        bytes[9] |= 0x18;
        expect_malformed(&broker, version, &bytes).await;
        for qos in 0..3 {
            let mut will = Will::new("w", "gone");
            will.qos = qos;
            Client::join(&broker, &Connect::new(version, "c").will(will))
                .await
                .leave()
                .await;
        }
    }
}

/// 5: 3.1.2-9, 3.1.2-16, 3.1.2-17, 3.1.2-18, 3.1.2-19, 3.1.3-1, 3.1.3-3, 3.1.4-1.
/// 3.1.1: 3.1.2-9, 3.1.2-11, 3.1.2-18, 3.1.2-19, 3.1.2-20, 3.1.2-21, 3.1.2-22, 3.1.3-1, 3.1.3-3, 3.1.4-1, 3.2.2-6.
#[tokio::test(start_paused = true)]
async fn the_fields_of_a_connect_are_those_that_its_flags_announce() {
    let broker = broker();
    for version in BOTH {
        let full = Connect::new(version, "c")
            .will(Will::new("w", "gone"))
            .user("u")
            .password("secret");
        Client::join(&broker, &full).await.leave().await;
        let whole = full.bytes();
        // Each field cut off: nothing that is announced may be missing.
        for cut in 10..whole.len() {
            expect_malformed(&broker, version, &frame(0x10, &whole[2..cut])).await;
        }
        // Each flag of a field that is there taken away: nothing that is not announced may be there.
        for flag in [0x04 | 0x08, 0x40, 0x80] {
            let mut bytes = whole.clone();
            bytes[9] &= !flag;
            expect_malformed(&broker, version, &bytes).await;
        }
        // A user name without its flag, and nothing else.
        let mut bytes = Connect::new(version, "c").user("u").bytes();
        bytes[9] &= 0x7F;
        expect_malformed(&broker, version, &bytes).await;
    }
    // A password alone is for 5 only.
    let alone = |version| Connect::new(version, "c").password("secret");
    Client::join(&broker, &alone(Version::V5)).await.leave().await;
    expect_malformed(&broker, Version::V311, &alone(Version::V311).bytes()).await;
}

/// 5: 3.1.3-5. 3.1.1: 3.1.3-5.
#[tokio::test(start_paused = true)]
async fn a_client_id_of_1_to_23_letters_and_digits_is_let_in() {
    let broker = broker();
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in BOTH {
        for length in 1..=23 {
            for from in (0..letters.len() - length).step_by(13) {
                let client_id = &letters[from..from + length];
                Client::plain(&broker, version, client_id).await.leave().await;
            }
        }
    }
}

/// 5: 3.1.3-6, 3.1.3-7, 3.2.2-16. 3.1.1: 3.1.3-6.
#[tokio::test(start_paused = true)]
async fn an_empty_client_id_is_given_one_that_nobody_has() {
    let broker = broker();
    let mut given = std::collections::BTreeSet::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (client, connack) = Client::enter(&broker, &Connect::new(Version::V5, "")).await;
        let Some(Property::Text(_, client_id)) = connack.property(ASSIGNED_CLIENT_ID) else {
            panic!("{connack:?}")
        };
        assert!(
            !client_id.is_empty() && given.insert(client_id.clone()),
            "{client_id}"
        );
        clients.push(client);
        clients.push(Client::plain(&broker, Version::V311, "").await);
    }
    for client in &mut clients {
        client.expect_nothing().await;
    }
    assert_eq!(broker.stats().sessions, clients.len());
    // It is the client's from then on: whoever names it takes its place.
    let taken = given.first().unwrap();
    let (_new, connack) = Client::enter(&broker, &Connect::new(Version::V5, taken)).await;
    assert_eq!(connack.property(ASSIGNED_CLIENT_ID), None);
    idle().await;
    assert_eq!(broker.stats().sessions, clients.len());
}

/// 3.1.1: 3.1.3-7, 3.1.3-8, 3.2.2-4, 3.2.2-5.
#[tokio::test(start_paused = true)]
async fn an_empty_client_id_cannot_have_a_session_to_keep_in_3_1_1() {
    let broker = broker();
    let mut client = Client::dial(&broker);
    let connack = client.connect(&Connect::new(Version::V311, "").resume()).await;
    assert_eq!((connack.code, connack.session_present), (2, false));
    client.expect_closed().await;
}

/// 5: 3.1.3-8, 3.1.4-2, 3.2.2-6, 3.2.2-7, 3.2.2-8, 3.14.0-1, 4.13.2-1. 3.1.1: 3.1.3-9, 3.2.2-4, 3.2.2-5.
#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_is_told_why_and_closed() {
    let broker = broker();
    let cases = [
        (Connect::new(Version::V5, "stolen"), 0x85),
        (Connect::new(Version::V311, "stolen"), 2),
        (Connect::new(Version::V5, "c").user("u").password("wrong"), 0x86),
        (Connect::new(Version::V311, "c").user("u").password("wrong"), 5),
        (
            Connect::new(Version::V5, "c").will(Will::new("forbidden", "gone")),
            0x87,
        ),
        (
            Connect::new(Version::V311, "c").will(Will::new("forbidden", "gone")),
            5,
        ),
    ];
    for (connect, code) in cases {
        let mut client = Client::dial(&broker);
        let connack = client.connect(&connect.resume()).await;
        assert_eq!(
            (connack.code, connack.session_present),
            (code, false),
            "{connack:?}"
        );
        client.expect_closed().await;
    }
    assert_eq!(broker.stats().sessions, 0);
}

/// 5: 3.1.4-6. 3.1.1: 3.1.4-5.
#[tokio::test(start_paused = true)]
async fn nothing_behind_a_refused_connect_is_processed() {
    let broker = broker();
    for version in BOTH {
        let mut watcher = Client::plain(&broker, version, "watcher").await;
        watcher.subscribe("#", 1).await;
        let mut bytes = Connect::new(version, "stolen").bytes();
        bytes.extend(Publish::new("a", "x").retain().bytes(version));
        bytes.extend(wire::PINGREQ);
        let mut client = Client::dial(&broker);
        client.accept_terms(&Connect::new(version, "stolen"));
        client.send(&bytes).await;
        assert!(matches!(
            client.receive().await,
            Some(Packet::ConnAck(ConnAck { code: 1.., .. }))
        ));
        client.expect_closed().await;
        watcher.expect_nothing().await;
        assert_eq!(broker.stats().retained, 0);
    }
}

/// 5: 3.1.3-2, 3.1.4-3, 3.14.4-2. 3.1.1: 3.1.3-2, 3.1.4-2.
#[tokio::test(start_paused = true)]
async fn whoever_connects_under_the_same_client_id_takes_the_place() {
    for old_version in BOTH {
        for new_version in BOTH {
            let broker = broker();
            let mut old = Client::plain(&broker, old_version, "c").await;
            let mut other = Client::plain(&broker, old_version, "C").await;
            let mut new = Client::plain(&broker, new_version, "c").await;
            old.expect_disconnect(0x8E).await;
            new.expect_nothing().await;
            other.expect_nothing().await;
        }
    }
}

/// 5: 3.1.4-5, 3.2.0-1, 3.2.0-2, 3.12.4-1. 3.1.1: 3.1.4-4, 3.2.0-1, 3.12.4-1.
#[tokio::test(start_paused = true)]
async fn the_connack_is_first_and_what_came_behind_the_connect_is_answered_in_turn() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "c");
        let mut bytes = connect.bytes();
        bytes.extend(wire::PINGREQ);
        bytes.extend(subscribe(version, 7, &[], &[("a", 0)]));
        bytes.extend(Publish::new("b", "x").qos(1, 8).bytes(version));
        let mut client = Client::dial(&broker);
        client.accept_terms(&connect);
        client.send(&bytes).await;
        let mut kinds = Vec::new();
        for _ in 0..4 {
            kinds.push(match client.receive().await {
                Some(Packet::ConnAck(connack)) => ("connack", u16::from(connack.code)),
                Some(Packet::PingResp) => ("pingresp", 0),
                Some(Packet::SubAck(suback)) => ("suback", suback.packet_id),
                Some(Packet::PubAck(ack)) => ("puback", ack.packet_id),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(
            kinds,
            [("connack", 0), ("pingresp", 0), ("suback", 7), ("puback", 8)]
        );
        client.expect_nothing().await;
    }
}

/// 5: 3.2.2-22, 4.12.0-6, 3.1.2-28.
#[tokio::test(start_paused = true)]
async fn the_connack_says_nothing_that_was_not_asked_for() {
    let broker = broker();
    let plain = Connect::new(Version::V5, "c");
    let declined = plain.clone().with(Property::Byte(wire::REQUEST_RESPONSE, 0));
    for connect in [plain, declined] {
        let (_client, connack) = Client::enter(&broker, &connect).await;
        for id in [
            RESPONSE_INFORMATION,
            AUTHENTICATION_METHOD,
            wire::AUTHENTICATION_DATA,
            ASSIGNED_CLIENT_ID,
            wire::SERVER_KEEP_ALIVE,
        ] {
            assert_eq!(connack.property(id), None, "{connack:?}");
        }
    }
}

/// 5: 4.12.0-1, 4.12.0-4, 4.13.2-1.
#[tokio::test(start_paused = true)]
async fn an_authentication_method_is_refused() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "c").with(Property::text(AUTHENTICATION_METHOD, "SCRAM-SHA-1"));
    let data = connect
        .clone()
        .with(Property::Binary(wire::AUTHENTICATION_DATA, vec![1, 2]));
    for connect in [connect, data] {
        let mut client = Client::dial(&broker);
        assert_eq!(client.connect(&connect).await.code, 0x8C);
        client.expect_closed().await;
    }
}

/// 5: 4.12.0-6, 4.12.0-7, 4.12.1-1, 4.12.1-2, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn an_auth_packet_ends_the_connection() {
    let broker = broker();
    let mut again = vec![0x19, 6, AUTHENTICATION_METHOD];
    put_binary(&mut again, b"abc");
    for body in [&[][..], &[0x18, 0], &again] {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client.send(&frame(0xF0, body)).await;
        client.expect_refused(&[0x82, 0x8C]).await;
    }
    // In 3.1.1 its number is reserved.
    let mut client = Client::plain(&broker, Version::V311, "c").await;
    client.send(&frame(0xF0, &[])).await;
    client.expect_closed().await;
}
