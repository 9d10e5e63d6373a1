//! What the bytes of a packet must be: strings, integers, flags, identifiers.

use crate::client::{Client, broker, broker_with};
use crate::wire::{
    self, BOTH, CONTENT_TYPE, Connect, Packet, Property, Publish, RESPONSE_TOPIC, Version, Will, frame,
    put_binary, subscribe, unsubscribe,
};
use waypost_broker::Limits;

/// Stands in a packet for what is not UTF-8, and is as long as all of them.
const PLACE: &str = "@@@@";

/// What no string of MQTT may hold, each in four bytes.
const NOT_TEXT: [(&str, [u8; 4]); 6] = [
    ("a lone continuation", [b'a', 0x80, b'b', b'c']),
    ("a high surrogate", [0xED, 0xA0, 0x80, b'a']),
    ("a low surrogate", [0xED, 0xBF, 0xBF, b'a']),
    ("NUL", [b'a', 0, b'b', b'c']),
    ("NUL in two bytes", [0xC0, 0x80, b'a', b'b']),
    ("cut off", [b'a', b'b', b'c', 0xE2]),
];

fn with_place(packet: &[u8], bytes: [u8; 4]) -> Vec<u8> {
    let place = packet
        .windows(4)
        .position(|window| window == PLACE.as_bytes())
        .expect("the packet has a place");
    let mut packet = packet.to_vec();
    packet[place..place + 4].copy_from_slice(&bytes);
    packet
}

/// 5: 1.5.4-1, 1.5.4-2, 1.5.7-1, 3.1.3-4, 3.1.3-11, 3.1.3-12, 3.1.4-1. 3.1.1: 1.5.3-1, 1.5.3-2, 3.1.3-4, 3.1.3-10, 3.1.3-11, 3.1.4-1.
#[tokio::test(start_paused = true)]
async fn a_string_in_a_connect_that_is_no_text_is_turned_away() {
    let broker = broker();
    for version in BOTH {
        let plain = || Connect::new(version, "c");
        let mut connects = vec![
            Connect::new(version, PLACE),
            plain().will(Will::new(PLACE, "gone")),
            plain().user(PLACE),
        ];
        if version == Version::V5 {
            connects.push(plain().with(Property::user(PLACE, "value")));
            connects.push(plain().with(Property::user("key", PLACE)));
            let will = |property| plain().will(Will::new("w", "gone").with(property));
            connects.push(will(Property::text(CONTENT_TYPE, PLACE)));
            connects.push(will(Property::text(RESPONSE_TOPIC, PLACE)));
            connects.push(will(Property::user(PLACE, "value")));
        }
        for connect in connects {
            for (name, bytes) in NOT_TEXT {
                let mut client = Client::dial(&broker);
                client.accept_terms(&connect);
                client.send(&with_place(&connect.bytes(), bytes)).await;
                println!("{name} in {connect:?}");
                client.expect_refused(&[0x81]).await;
            }
        }
    }
    assert_eq!(broker.stats().sessions, 0);
}

/// 5: 1.5.4-1, 1.5.4-2, 1.5.7-1, 3.3.2-1, 3.3.2-13, 3.3.2-19, 3.8.3-1, 3.10.3-1, 4.7.3-2, 4.13.1-1.
/// 3.1.1: 1.5.3-1, 1.5.3-2, 3.3.2-1, 3.8.3-1, 3.10.3-1, 4.7.3-2, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_string_that_is_no_text_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let message = || Publish::new("a", "x");
        let mut packets = vec![
            Publish::new(PLACE, "x").bytes(version),
            subscribe(version, 1, &[], &[(PLACE, 0)]),
            unsubscribe(version, 1, &[PLACE]),
        ];
        if version == Version::V5 {
            let properties = [
                Property::text(CONTENT_TYPE, PLACE),
                Property::text(RESPONSE_TOPIC, PLACE),
                Property::user(PLACE, "value"),
                Property::user("key", PLACE),
            ];
            packets.extend(properties.map(|property| message().with(property).bytes(version)));
        }
        for packet in packets {
            for (name, bytes) in NOT_TEXT {
                let mut client = Client::plain(&broker, version, "c").await;
                println!("{name} in {packet:02x?}");
                client.send(&with_place(&packet, bytes)).await;
                client.expect_disconnect(0x81).await;
            }
        }
    }
}

/// 5: 1.5.4-3, 4.7.3-4. 3.1.1: 1.5.3-3, 4.7.3-4.
#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_a_character_like_any_other() {
    let broker = broker();
    for version in BOTH {
        let mut marked = Client::plain(&broker, version, "marked").await;
        let mut plain = Client::plain(&broker, version, "plain").await;
        marked.subscribe("\u{FEFF}a/+", 1).await;
        plain.subscribe("a/+", 1).await;
        plain.say("\u{FEFF}a/\u{FEFF}", "x").await;
        let publish = marked.take().await;
        assert_eq!(publish.topic, "\u{FEFF}a/\u{FEFF}");
        plain.expect_nothing().await;
    }
}

/// 5: 1.5.5-1.
#[tokio::test(start_paused = true)]
async fn an_integer_in_more_bytes_than_it_needs_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let packets: [&[u8]; 3] = [
            // A PINGREQ whose length of zero has two bytes, and four.
            &[0xC0, 0x80, 0x00],
            &[0xC0, 0x80, 0x80, 0x80, 0x00],
            // A length of five bytes.
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        ];
        for packet in packets {
            let mut client = Client::plain(&broker, version, "c").await;
            client.send(packet).await;
            client.expect_disconnect(0x81).await;
        }
    }
    let sections: [&[u8]; 2] = [
        // A length of properties, and a subscription identifier, with a byte too many.
        &[0x82, 9, 0, 1, 0x80, 0x00, 0, 1, b'a', 1, 0],
        &[0x82, 10, 0, 1, 3, 0x0B, 0x81, 0x00, 0, 1, b'a', 1],
    ];
    for packet in sections {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        client.send(packet).await;
        client.expect_disconnect(0x81).await;
    }
}

/// 5: 2.1.3-1, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1, 3.15.1-1. 3.1.1: 2.2.2-1, 2.2.2-2, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1.
#[tokio::test(start_paused = true)]
async fn reserved_flags_that_are_not_as_listed_end_the_connection() {
    let broker = broker();
    for version in BOTH {
        let mut packets = vec![
            wire::ack(wire::PUBACK, 1, 0),
            wire::ack(wire::PUBREC, 1, 0),
            wire::ack(wire::PUBREL, 1, 0),
            wire::ack(wire::PUBCOMP, 1, 0),
            subscribe(version, 1, &[], &[("a", 0)]),
            unsubscribe(version, 1, &["a"]),
            wire::PINGREQ.to_vec(),
            frame(0xE0, &[]),
        ];
        if version == Version::V5 {
            packets.push(frame(0xF0, &[]));
        }
        for packet in packets {
            for flags in 0..16 {
                if flags == packet[0] & 0x0F {
                    continue;
                }
                let mut wrong = packet.clone();
                wrong[0] = packet[0] & 0xF0 | flags;
                println!("{wrong:02x?}");
                let mut client = Client::plain(&broker, version, "c").await;
                client.send(&wrong).await;
                client.expect_disconnect(0x81).await;
            }
        }
        for flags in 1..16 {
            let mut client = Client::dial(&broker);
            let connect = Connect::new(version, "c");
            let mut bytes = connect.bytes();
            bytes[0] |= flags;
            client.accept_terms(&connect);
            client.send(&bytes).await;
            client.expect_refused(&[0x81]).await;
        }
    }
}

/// 5: 2.2.1-3, 4.13.1-1. 3.1.1: 2.3.1-1, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_packet_identifier_of_zero_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let packets = [
            Publish::new("a", "x").qos(1, 0).bytes(version),
            Publish::new("a", "x").qos(2, 0).bytes(version),
            subscribe(version, 0, &[], &[("a", 0)]),
            unsubscribe(version, 0, &["a"]),
        ];
        for packet in packets {
            let mut client = Client::plain(&broker, version, "c").await;
            client.send(&packet).await;
            match client.receive().await {
                Some(Packet::Disconnect {
                    code: 0x81 | 0x82, ..
                }) if version == Version::V5 => {
                    client.expect_closed().await;
                }
                None if version == Version::V311 => {}
                other => panic!("{other:?} for {packet:02x?}"),
            }
        }
    }
}

/// 5: 3.3.1-2, 3.3.1-4. 3.1.1: 3.3.1-2, 3.3.1-4.
#[tokio::test(start_paused = true)]
async fn a_publish_of_qos_3_or_of_qos_0_with_dup_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let qos_3 = Publish::new("a", "x").qos(3, 1);
        let dup_0 = Publish::new("a", "x").dup();
        for publish in [qos_3, dup_0] {
            let mut client = Client::plain(&broker, version, "c").await;
            client.publish(&publish).await;
            client.expect_disconnect(0x81).await;
        }
    }
}

/// 5: 2.1.3-1, 3.1.0-1, 4.13.1-1. 3.1.1: 2.2.2-1, 4.8.0-1.
#[tokio::test(start_paused = true)]
async fn a_packet_that_no_client_sends_ends_the_connection() {
    let broker = broker();
    for version in BOTH {
        let packets = [
            frame(0x00, &[]),
            frame(0x20, &[0, 0]),
            frame(0x90, &[0, 1, 0]),
            frame(0xB0, &[0, 1]),
            frame(0xD0, &[]),
        ];
        for packet in packets {
            let mut client = Client::plain(&broker, version, "c").await;
            client.send(&packet).await;
            client.expect_refused(&[0x81, 0x82]).await;
        }
        // Bytes behind the end of a packet that has none there.
        for first in [0xC0, 0xE0] {
            let mut client = Client::plain(&broker, version, "c").await;
            client.send(&frame(first, &[0, 0, 0, 0])).await;
            client.expect_disconnect(0x81).await;
        }
    }
}

/// 5: 3.1.4-1, 4.13.1-1.
#[tokio::test(start_paused = true)]
async fn a_property_that_does_not_belong_there_ends_the_connection() {
    let broker = broker();
    let wrong = [
        // Twice.
        vec![
            Property::Four(wire::MESSAGE_EXPIRY, 1),
            Property::Four(wire::MESSAGE_EXPIRY, 1),
        ],
        // Of another packet.
        vec![Property::Two(wire::RECEIVE_MAXIMUM, 1)],
        // Not there at all.
        vec![Property::Byte(0x7E, 1)],
        // Neither zero nor one.
        vec![Property::Byte(wire::PAYLOAD_FORMAT, 2)],
    ];
    for properties in wrong {
        let mut client = Client::plain(&broker, Version::V5, "c").await;
        let mut publish = Publish::new("a", "x");
        publish.properties = properties;
        client.publish(&publish).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
    let wrong = [
        vec![Property::Two(wire::RECEIVE_MAXIMUM, 0)],
        vec![Property::Four(wire::MAXIMUM_PACKET_SIZE, 0)],
        vec![Property::Byte(wire::REQUEST_PROBLEM, 2)],
        vec![Property::Byte(wire::REQUEST_RESPONSE, 2)],
        vec![
            Property::Four(wire::SESSION_EXPIRY, 1),
            Property::Four(wire::SESSION_EXPIRY, 1),
        ],
        vec![Property::Two(wire::TOPIC_ALIAS, 1)],
        vec![Property::Binary(wire::AUTHENTICATION_DATA, vec![1])],
    ];
    for properties in wrong {
        let mut connect = Connect::new(Version::V5, "c");
        connect.properties = properties;
        println!("{connect:?}");
        let mut client = Client::dial(&broker);
        client.send(&connect.bytes()).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
}

/// 5: 1.5.5-1, 2.1.3-1, 2.2.1-2, 2.2.1-5, 2.2.1-6, 2.2.2-1, 3.2.2-1, 3.2.2-8. 3.1.1: 2.2.2-1, 2.3.1-5, 2.3.1-6, 2.3.1-7, 3.9.3-2.
///
/// The reading side of `wire.rs` is what judges here, on each kind of packet.
#[tokio::test(start_paused = true)]
async fn every_packet_of_the_broker_is_well_formed() {
    for version in BOTH {
        let broker = broker();
        let connect = Connect::new(version, "c").with(Property::Two(wire::TOPIC_ALIAS_MAXIMUM, 9));
        let mut client = Client::join(&broker, &connect).await;
        let codes = client
            .subscribe_all(&[], &[("long/topic/+", 1), ("forbidden", 1), ("a", 0)])
            .await;
        assert_eq!(codes.len(), 3);
        // Sizes around each step of the length.
        for size in [0, 1, 100, 127, 128, 16_370, 16_384] {
            let payload = "x".repeat(size);
            client.say("long/topic/1", &payload).await;
            assert_eq!(client.take().await.text(), payload);
            let small = Publish::new("a", payload.clone());
            client.publish_and_expect_success(&small).await;
            let received = client.expect_publish().await;
            assert_eq!((received.packet_id, received.text()), (0, payload.as_str()));
        }
        client.unsubscribe(&["long/topic/+", "never"]).await;
        client.synchronise().await;
        client.send(&frame(0x00, &[])).await;
        client.expect_refused(&[0x81, 0x82]).await;
    }
}

/// 5: 4.7.3-3. 3.1.1: 4.7.3-3.
#[tokio::test(start_paused = true)]
async fn the_longest_topic_arrives_whole() {
    let broker = broker_with(Limits {
        topic_bytes_max: 65_535,
        ..Limits::default()
    });
    let topic = "é".repeat(32_767) + "a";
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        client.subscribe(&topic, 1).await;
        client.say(&topic, "x").await;
        assert_eq!(client.take().await.topic, topic);
    }
}

/// 5: 4.2-1. 3.1.1: 7.1.1-1.
#[tokio::test(start_paused = true)]
async fn packets_are_taken_from_the_stream_however_it_is_cut() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::dial(&broker);
        let connect = Connect::new(version, "c");
        client.accept_terms(&connect);
        let mut bytes = connect.bytes();
        bytes.extend(subscribe(version, 1, &[], &[("a", 1)]));
        let mut long = vec![0, 1, b'a', 0, 2];
        if version == Version::V5 {
            long.push(0);
        }
        long.extend([b'x'; 300]);
        bytes.extend(frame(0x32, &long));
        for byte in bytes {
            client.send(&[byte]).await;
            crate::client::idle().await;
        }
        assert!(matches!(client.receive().await, Some(Packet::ConnAck(_))));
        assert!(matches!(client.receive().await, Some(Packet::SubAck(_))));
        assert_eq!(client.take().await.payload.len(), 300);
        assert_eq!(client.expect_puback().await.packet_id, 2);
        // A string of another length than it says.
        let mut short = Vec::new();
        put_binary(&mut short, b"topic");
        client.send(&frame(0x30, &short[..5])).await;
        client.expect_disconnect(0x81).await;
    }
}
