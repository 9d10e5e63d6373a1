//! A server that is asked to end: what it has taken is on disk and answered, everybody is told, and nothing is lost.

use crate::raw_mqtt::RawClient;
use crate::server::Server;
use prost::Message as _;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::mqttbytes::{QoS, v5};
use serde_json::Value;
use std::time::Duration;
use waypost_field_client::{Client, Credentials, Message, Options, Outcome};
use waypost_proto::{Operation, SessionTag, Stamp, StreamId, wire};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than a disk writes while a broker acknowledges them.
const OPERATIONS: u16 = 200;

/// DISCONNECT of MQTT 5 with "server shutting down".
fn is_goodbye(packet: &Packet) -> bool {
    matches!(packet, Packet::Disconnect(said) if said.reason_code as u8 == 0x8B)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_before_the_end_is_answered_before_the_goodbye() {
    let mut server = Server::start();
    let token = server.sign_in().await;
    let (device, credentials) = server.add_device("truck");
    let stream = server.read(&token, &format!("/devices/{device}")).await["stream"].clone();
    let stream: StreamId = stream.as_str().unwrap().parse().unwrap();
    let mut client = RawClient::device(&server.mqtt, &credentials, "").await;
    client.subscribe(&format!("d/{device}")).await;
    let stamp = Stamp::of(SessionTag::FIRST).to_wire();
    let hello = wire::UpFrame {
        stamp,
        hello: Some(wire::Hello {
            epoch: 5,
            device_ms: 1_764_000_000_000,
            ..Default::default()
        }),
        ..Default::default()
    };
    let up = |frame: &wire::UpFrame, pkid| {
        Packet::Publish(v5::Publish {
            pkid,
            ..v5::Publish::new(
                format!("u/{device}"),
                QoS::AtLeastOnce,
                frame.encode_to_vec(),
                None,
            )
        })
    };
    client.send(up(&hello, 1)).await;
    loop {
        if let Some(frame) = client.receive().await.as_ref().and_then(down)
            && frame.welcome.is_some()
        {
            break;
        }
    }

    for op in 1..=OPERATIONS {
        let frame = wire::UpFrame {
            stamp,
            first_op: op.into(),
            ops: vec![Operation::text(stream, format!("{op}")).to_wire()],
            ..Default::default()
        };
        client.send(up(&frame, op + 1)).await;
    }
    let (mut taken, mut accepted) = (0, 0);
    let mut hear = |packet: &Packet| {
        match packet {
            Packet::PubAck(_) => taken += 1,
            packet => accepted = accepted.max(down(packet).map_or(0, |frame| frame.accepted_through)),
        }
        (taken, accepted)
    };
    while hear(&client.receive().await.unwrap()).0 < OPERATIONS {}
    server.ask_to_end();
    let goodbye = loop {
        let packet = client.receive().await.expect("it says goodbye");
        if is_goodbye(&packet) {
            break hear(&packet);
        }
        hear(&packet);
    };
    assert_eq!(goodbye, (OPERATIONS, OPERATIONS.into()));
    assert_eq!(client.receive().await, None);
    drop(client);
    let (status, log) = server.ended();
    assert!(status.success(), "{status}: {log}");
}

/// What the bridge says in a packet, where it is of the bridge.
fn down(packet: &Packet) -> Option<wire::DownFrame> {
    match packet {
        Packet::Publish(message) => Some(wire::DownFrame::decode(message.payload.clone()).unwrap()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_just_before_the_end_is_there_once_after_a_restart() {
    const ROUNDS: u64 = 5;
    let mut server = Server::start();
    let (device, credentials) = server.add_device("truck");
    let state = credentials.with_extension("state");
    let client = Client::open(
        Credentials::read(&credentials).unwrap(),
        state,
        Options::default(),
    )
    .await
    .unwrap();
    for round in 1..=ROUNDS {
        client.wait_in_step(PATIENCE).await;
        let text = format!("round {round}");
        let posted = client.post_text(Message::to_office(text)).await.unwrap();
        server.ask_to_end();
        let (status, log) = server.ended();
        assert!(status.success(), "{status}: {log}");
        server.restart();
        client.resume_link().await.unwrap();
        let outcome = client.wait_accepted(&posted, PATIENCE).await.unwrap();
        assert!(
            matches!(outcome, Outcome::Accepted { .. }),
            "round {round}: {outcome:?}"
        );
    }
    client.close().await.unwrap();
    let token = server.sign_in().await;
    let stream = server.read(&token, &format!("/devices/{device}")).await["stream"].clone();
    let entries = format!("/streams/{}/entries", stream.as_str().unwrap());
    let entries = server.read(&token, &entries).await;
    let mut texts: Vec<&str> = entries["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry: &Value| entry["body"]["text"].as_str().unwrap())
        .collect();
    texts.sort_unstable();
    let expected: Vec<String> = (1..=ROUNDS).map(|round| format!("round {round}")).collect();
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn who_asks_twice_does_not_wait_for_those_who_do_not_go() {
    let folder = tempfile::tempdir().unwrap();
    // Without the second signal the test would take this long.
    std::fs::write(
        folder.path().join("waypost.toml"),
        "broker.close_timeout_s = 86400",
    )
    .unwrap();
    let mut server = Server::start_in(folder, None);
    let (_, credentials) = server.add_device("truck");
    let mut stays = RawClient::device(&server.mqtt, &credentials, "").await;
    server.ask_to_end();
    assert!(is_goodbye(&stays.receive().await.unwrap()));
    server.ask_to_end();
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("asked twice"), "{log}");
    drop(stays);
}
