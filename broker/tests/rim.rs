//! The broker as an embedder sees it: over byte streams and TCP, spoken to with rumqttc's codec.

// `allow-unwrap-in-tests` knows test functions, not the client that they share.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use waypost_broker::{
    AllowList, Authenticate, Authorise, Broker, ConnectAttempt, Limits, LinkError, LinkEvent, LinkLimits,
    Principal, QoS, Reason, Refusal, Retain, Verdict,
};

/// Lets in whoever knows the password, unless the client id begins with the name of a refusal.
struct Doorman;

impl Authenticate for Doorman {
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        match attempt.client_id {
            "stolen" => Err(Refusal::ClientIdNotAllowed),
            "revoked" => Err(Refusal::NotAuthorised),
            "busy" => Err(Refusal::Busy),
            "unavailable" => Err(Refusal::ServerUnavailable),
            id if attempt.password == Some(b"secret") => {
                Ok(Principal::new(attempt.username.unwrap_or("?"), id))
            }
            _ => Err(Refusal::BadCredentials),
        }
    }
}

fn broker(limits: Limits) -> Broker {
    let allow = AllowList {
        publish: vec!["a/#".into()],
        subscribe: vec!["a/#".into()],
    };
    Broker::new(limits, Arc::new(Doorman), Arc::new(allow))
}

fn peer() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// A client over a stream in memory, or anything else that carries bytes.
struct Client<S> {
    stream: S,
    read: BytesMut,
}

impl Client<DuplexStream> {
    fn dial(broker: &Broker) -> Client<DuplexStream> {
        let (near, far) = tokio::io::duplex(4_096);
        tokio::spawn(broker.serve_connection(far, peer()));
        Client {
            stream: near,
            read: BytesMut::new(),
        }
    }

    /// Connected with MQTT 5.
    async fn join(broker: &Broker, client_id: &str) -> Client<DuplexStream> {
        let mut client = Client::dial(broker);
        client.send(&connect5(client_id, "secret", None)).await;
        let connack = client.connack5().await;
        assert_eq!(connack.code, v5::ConnectReturnCode::Success);
        client
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn send5(&mut self, packet: v5::Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.send(&bytes).await;
    }

    async fn send4(&mut self, packet: v4::Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        self.send(&bytes).await;
    }

    /// The next packet; `None` at the end of the stream.
    async fn receive5(&mut self) -> Option<v5::Packet> {
        loop {
            match v5::Packet::read(&mut self.read, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn receive4(&mut self) -> Option<v4::Packet> {
        loop {
            match v4::Packet::read(&mut self.read, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn connack5(&mut self) -> v5::ConnAck {
        match self.receive5().await {
            Some(v5::Packet::ConnAck(connack)) => connack,
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe5(&mut self, filter: &str) -> Vec<v5::SubscribeReasonCode> {
        let subscribe = v5::Subscribe {
            pkid: 1,
            ..v5::Subscribe::new(v5::Filter::new(filter, QoS5::AtLeastOnce), None)
        };
        self.send5(v5::Packet::Subscribe(subscribe)).await;
        match self.receive5().await {
            Some(v5::Packet::SubAck(suback)) => suback.return_codes,
            other => panic!("{other:?}"),
        }
    }

    async fn expect_end5(&mut self, reason: u8) {
        loop {
            match self.receive5().await {
                Some(v5::Packet::Disconnect(disconnect)) => {
                    assert_eq!(disconnect.reason_code as u8, reason);
                    assert_eq!(self.receive5().await, None);
                    return;
                }
                Some(_) => {}
                None => panic!("closed without a DISCONNECT"),
            }
        }
    }
}

fn connect5(client_id: &str, password: &str, will: Option<v5::LastWill>) -> BytesMut {
    let mut bytes = BytesMut::new();
    let connect = v5::Connect {
        keep_alive: 10,
        client_id: client_id.into(),
        clean_start: true,
        properties: None,
    };
    connect
        .write(&will, &Some(v5::Login::new("user", password)), &mut bytes)
        .unwrap();
    bytes
}

fn connect4(client_id: &str, password: &str) -> v4::Connect {
    let mut connect = v4::Connect::new(client_id);
    connect.set_login("user", password);
    connect
}

fn publish5(topic: &str, qos: QoS5, payload: &'static str) -> v5::Packet {
    let pkid = u16::from(qos != QoS5::AtMostOnce);
    v5::Packet::Publish(v5::Publish {
        pkid,
        ..v5::Publish::new(topic, qos, payload, None)
    })
}

#[tokio::test(start_paused = true)]
async fn both_versions_reach_each_other() {
    let broker = broker(Limits::default());
    let mut five = Client::join(&broker, "five").await;
    assert_eq!(
        five.subscribe5("a/#").await,
        [v5::SubscribeReasonCode::Success(QoS5::AtLeastOnce)]
    );
    let mut four = Client::dial(&broker);
    four.send4(v4::Packet::Connect(connect4("four", "secret"))).await;
    assert_eq!(
        four.receive4().await,
        Some(v4::Packet::ConnAck(v4::ConnAck::new(
            v4::ConnectReturnCode::Success,
            false
        )))
    );
    let filters = [
        ("a/4", QoS4::AtLeastOnce),
        ("#", QoS4::AtMostOnce),
        ("a/2", QoS4::ExactlyOnce),
    ]
    .map(|(filter, qos)| v4::SubscribeFilter::new(filter.into(), qos));
    four.send4(v4::Packet::Subscribe(v4::Subscribe {
        pkid: 9,
        filters: filters.into(),
    }))
    .await;
    let codes = vec![
        v4::SubscribeReasonCode::Success(QoS4::AtLeastOnce),
        v4::SubscribeReasonCode::Failure,
        v4::SubscribeReasonCode::Success(QoS4::ExactlyOnce),
    ];
    assert_eq!(
        four.receive4().await,
        Some(v4::Packet::SubAck(v4::SubAck::new(9, codes)))
    );

    five.send5(publish5("a/4", QoS5::AtLeastOnce, "from five")).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        match five.receive5().await.unwrap() {
            v5::Packet::PubAck(ack) => seen.push(format!("ack {}", ack.pkid)),
            v5::Packet::Publish(publish) => seen.push(String::from_utf8(publish.payload.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["ack 1", "from five"]);
    let Some(v4::Packet::Publish(publish)) = four.receive4().await else {
        panic!("no publish")
    };
    assert_eq!(
        (publish.topic.as_str(), &publish.payload[..], publish.qos),
        ("a/4", &b"from five"[..], QoS4::AtLeastOnce)
    );
    four.send4(v4::Packet::PubAck(v4::PubAck::new(publish.pkid)))
        .await;
    four.send4(v4::Packet::PingReq).await;
    assert_eq!(four.receive4().await, Some(v4::Packet::PingResp));
    // A forbidden PUBLISH has no other answer in 3.1.1.
    four.send4(v4::Packet::Publish(v4::Publish::new("b", QoS4::AtMostOnce, "x")))
        .await;
    assert_eq!(four.receive4().await, None);
    assert_eq!(broker.stats().count(Reason::PublishForbidden), 1);
}

/// A refusal of version 5 as it would be without its reason string, which has to be there.
fn without_reason_string(answer: &[u8]) -> Vec<u8> {
    match answer {
        [0x20, _, 0, code, properties, 0x1F, 0, text, ..] => {
            assert_eq!(usize::from(*properties), 3 + usize::from(*text));
            assert!(answer.len() == 8 + usize::from(*text) && *text > 0);
            vec![0x20, 3, 0, *code, 0]
        }
        _ => answer.to_vec(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_refused_connect_is_answered_with_its_code_and_counted() {
    let broker = broker(Limits {
        connections_max: 0,
        ..Limits::default()
    });
    let table = [
        ("anybody", "wrong", 0x86, 5, Reason::BadCredentials),
        ("stolen", "secret", 0x85, 2, Reason::ClientIdNotAllowed),
        ("revoked", "secret", 0x87, 5, Reason::ConnectForbidden),
        ("busy", "secret", 0x89, 3, Reason::ServerBusy),
        ("unavailable", "secret", 0x88, 3, Reason::ServerUnavailable),
        ("one too many", "secret", 0x97, 3, Reason::ConnectionLimit),
    ];
    for (client_id, password, five, four, reason) in table {
        let mut client = Client::dial(&broker);
        client.send(&connect5(client_id, password, None)).await;
        let mut answer = Vec::new();
        client.stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(
            without_reason_string(&answer),
            [0x20, 3, 0, five, 0],
            "{client_id}"
        );

        let mut client = Client::dial(&broker);
        client
            .send4(v4::Packet::Connect(connect4(client_id, password)))
            .await;
        let mut answer = [0; 4];
        client.stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x20, 2, 0, four], "{client_id}");
        assert_eq!(broker.stats().count(reason), 2, "{client_id}");
    }
    // What cannot be read, and what is not a CONNECT.
    let table: [(&[u8], &[u8], Reason); 5] = [
        (
            b"\x10\x0d\0\x04MQTT\x05\x01\0\0\0\0\0",
            &[0x20, 3, 0, 0x81, 0],
            Reason::Malformed,
        ),
        (
            b"\x10\x0c\0\x04MQTT\x09\x02\0\0\0\0",
            &[0x20, 3, 0, 0x84, 0],
            Reason::UnsupportedVersion,
        ),
        (
            b"\x10\x0e\0\x06MQIsdp\x03\x02\0\0\0\0",
            &[0x20, 2, 0, 1],
            Reason::UnsupportedVersion,
        ),
        (
            b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0",
            &[0x20, 2, 0, 2],
            Reason::ClientIdInvalid,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", &[], Reason::NotConnect),
    ];
    for (sent, expected, reason) in table {
        let before = broker.stats().count(reason);
        let mut client = Client::dial(&broker);
        client.send(sent).await;
        let mut answer = Vec::new();
        client.stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(without_reason_string(&answer), expected, "{reason:?}");
        assert_eq!(broker.stats().count(reason), before + 1, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_client_id_is_assigned_one_and_a_long_keep_alive_is_cut() {
    let broker = broker(Limits {
        keep_alive_max_s: 7,
        ..Limits::default()
    });
    let mut client = Client::dial(&broker);
    client.send(&connect5("", "secret", None)).await;
    let properties = client.connack5().await.properties.unwrap();
    assert!(
        properties
            .assigned_client_identifier
            .unwrap()
            .starts_with("auto-")
    );
    assert_eq!(properties.server_keep_alive, Some(7));
    assert_eq!(
        (properties.max_qos, properties.session_expiry_interval),
        (None, None)
    );
    assert_eq!(
        (properties.topic_alias_max, properties.receive_max),
        (Some(16), Some(256))
    );
    // And it is held to it.
    client.expect_end5(0x8D).await;
    assert_eq!(broker.stats().count(Reason::KeepAliveTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_request_is_refused_by_reason_code() {
    let broker = broker(Limits {
        packet_bytes_max: 1_000,
        ..Limits::default()
    });
    let mut client = Client::join(&broker, "c").await;
    for filter in ["#", "+/x", "b", "$share/g/b"] {
        assert_eq!(
            client.subscribe5(filter).await,
            [v5::SubscribeReasonCode::NotAuthorized],
            "{filter}"
        );
    }
    client.send5(publish5("b", QoS5::AtLeastOnce, "x")).await;
    let Some(v5::Packet::PubAck(ack)) = client.receive5().await else {
        panic!("no PUBACK")
    };
    assert_eq!(ack.reason, v5::PubAckReason::NotAuthorized);
    let ends: [(Vec<u8>, u8); 4] = [
        (vec![0x30, 4, 0, 1, b'b', 0], 0x87),
        (vec![0x30, 0x80, 0x80, 0x01], 0x95),
        (vec![0xFF; 8], 0x81),
        (connect5("c", "secret", None).to_vec(), 0x82),
    ];
    for (packet, reason) in ends {
        let mut client = Client::join(&broker, "d").await;
        client.send(&packet).await;
        client.expect_end5(reason).await;
    }
    // A will is judged as a publish.
    let mut client = Client::dial(&broker);
    let will = v5::LastWill::new("b", "gone", QoS5::AtMostOnce, false, None);
    client.send(&connect5("e", "secret", Some(will))).await;
    assert_eq!(client.connack5().await.code, v5::ConnectReturnCode::NotAuthorized);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_tells_the_old_connection_and_publishes_its_will() {
    let broker = broker(Limits::default());
    let mut watcher = Client::join(&broker, "watcher").await;
    watcher.subscribe5("a/will").await;
    let mut old = Client::dial(&broker);
    let will = v5::LastWill::new("a/will", "gone", QoS5::AtLeastOnce, false, None);
    old.send(&connect5("c", "secret", Some(will))).await;
    old.connack5().await;
    let _new = Client::join(&broker, "c").await;
    old.expect_end5(0x8E).await;
    let Some(v5::Packet::Publish(publish)) = watcher.receive5().await else {
        panic!("no will")
    };
    assert_eq!(&publish.payload[..], b"gone");
}

#[tokio::test(start_paused = true)]
async fn silence_in_the_handshake_is_cut_and_delays_nobody() {
    let broker = broker(Limits {
        handshakes_max: 3,
        ..Limits::default()
    });
    let mut silent = [Client::dial(&broker), Client::dial(&broker)];
    silent[1].send(&[0x10]).await;
    let _served = Client::join(&broker, "honest").await;
    for client in &mut silent {
        assert_eq!(client.receive5().await, None);
    }
    assert_eq!(broker.stats().count(Reason::HandshakeTimeout), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_disconnected_with_0x97_and_what_it_held_is_free() {
    let broker = broker(Limits {
        queued_bytes_max: 20_000,
        ..Limits::default()
    });
    let mut slow = Client::join(&broker, "slow").await;
    slow.subscribe5("a/#").await;
    let (link, _events) = broker.link("bridge", LinkLimits::default());
    let payload = Bytes::from(vec![7; 1_000]);
    let mut routed = 0;
    while broker.stats().count(Reason::SlowReceiver) == 0 {
        routed += link
            .publish("a/x", payload.clone(), QoS::AtLeastOnce, Retain::No)
            .unwrap();
        tokio::task::yield_now().await;
    }
    assert!(routed >= 18, "{routed}");
    assert_eq!(broker.stats().queued_bytes, 0);
    slow.expect_end5(0x97).await;
}

#[tokio::test(start_paused = true)]
async fn revoking_ends_sessions_and_shutdown_tells_everybody() {
    let broker = broker(Limits::default());
    let mut revoked = Client::join(&broker, "r").await;
    let mut other = Client::join(&broker, "o").await;
    assert_eq!(
        broker.disconnect(|who| &*who.client_id == "r", Reason::Administrative),
        1
    );
    revoked.expect_end5(0x98).await;
    let (_, ()) = tokio::join!(broker.shutdown(), other.expect_end5(0x8B));
    assert_eq!(broker.stats().sessions, 0);
    let mut late = Client::dial(&broker);
    late.send(&connect5("late", "secret", None)).await;
    let mut answer = [0; 5];
    late.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[3], 0x8B);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_broker_takes_nothing_more_and_delivers_what_it_has_before_the_goodbye() {
    let broker = broker(Limits::default());
    let (link, mut events) = broker.link("bridge", LinkLimits::default());
    link.subscribe("a/+", QoS::AtLeastOnce).unwrap();
    let mut client = Client::join(&broker, "c").await;
    client.subscribe5("a/down").await;
    let mut is_up = async || loop {
        match events.recv().await {
            Some(LinkEvent::Message { topic, .. }) => return topic,
            Some(_) => {}
            None => panic!("links do not end"),
        }
    };
    client.send5(publish5("a/up", QoS5::AtLeastOnce, "before")).await;
    assert_eq!(&*is_up().await, "a/up");
    assert!(matches!(client.receive5().await, Some(v5::Packet::PubAck(_))));

    broker.quiesce();
    let mut late = Client::dial(&broker);
    late.send(&connect5("late", "secret", None)).await;
    let mut answer = [0; 4];
    late.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0x8B));
    client.send5(publish5("a/up", QoS5::AtLeastOnce, "after")).await;
    client.send5(publish5("a/up", QoS5::AtMostOnce, "after")).await;
    // The clock is the test's: this ends when everybody has done what there was to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.stats().received, 1);

    // Links go on, and what they say goes out first, however late it is.
    let down = |payload: &'static str| {
        link.publish(
            "a/down",
            Bytes::from_static(payload.as_bytes()),
            QoS::AtLeastOnce,
            Retain::No,
        )
    };
    assert_eq!(down("one").unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(down("two").unwrap(), 1);
    let goodbye = async {
        for expected in ["one", "two"] {
            match client.receive5().await {
                Some(v5::Packet::Publish(received)) => assert_eq!(received.payload, expected),
                other => panic!("{other:?}"),
            }
        }
        client.expect_end5(0x8B).await;
    };
    tokio::join!(broker.shutdown(), goodbye);
    assert_eq!(broker.stats().received, 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_link_slows_its_publishers_and_loses_nothing() {
    const CLIENTS: usize = 4;
    const EACH: usize = 500;
    let broker = broker(Limits::default());
    let limits = LinkLimits {
        queued_bytes_max: 2_000,
        ..LinkLimits::default()
    };
    let (link, mut events) = broker.link("bridge", limits);
    link.subscribe("a/+", QoS::AtLeastOnce).unwrap();
    let mut publishers = Vec::new();
    for who in 0..CLIENTS {
        let mut client = Client::join(&broker, &who.to_string()).await;
        publishers.push(tokio::spawn(async move {
            let (mut sent, mut acked) = (0, 0);
            while acked < EACH {
                if sent < EACH && sent - acked < 100 {
                    let pkid = u16::try_from(sent + 1).unwrap();
                    let publish = v5::Publish {
                        pkid,
                        ..v5::Publish::new("a/x", QoS5::AtLeastOnce, sent.to_string(), None)
                    };
                    client.send5(v5::Packet::Publish(publish)).await;
                    sent += 1;
                } else if let Some(v5::Packet::PubAck(_)) = client.receive5().await {
                    acked += 1;
                }
            }
            client.send(&[0xE0, 0]).await;
        }));
    }
    // Far longer than any keep-alive: those held back are not called silent.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(
        broker.stats().received < 60,
        "held back: {}",
        broker.stats().received
    );
    assert_eq!(broker.stats().sessions, CLIENTS);
    let mut next = [0; CLIENTS];
    let mut left = CLIENTS;
    while left > 0 {
        match events.recv().await.unwrap() {
            LinkEvent::Message { from, payload, .. } => {
                let who: usize = from.parse().unwrap();
                assert_eq!(payload, next[who].to_string().as_bytes());
                next[who] += 1;
            }
            LinkEvent::Disconnected { reason, .. } => {
                assert_eq!(reason, Reason::ClientDisconnected);
                left -= 1;
            }
            _ => {}
        }
    }
    while let Some(event) = events.try_recv() {
        if let LinkEvent::Message { from, .. } = event {
            next[from.parse::<usize>().unwrap()] += 1;
        }
    }
    assert_eq!(next, [EACH; CLIENTS]);
    for publisher in publishers {
        publisher.await.unwrap();
    }
}

#[tokio::test]
async fn a_burst_over_tcp_arrives_whole_though_the_socket_closes_behind_it() {
    let broker = broker(Limits::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = tokio::spawn(broker.clone().listen_tcp(listener));
    let (link, mut events) = broker.link("bridge", LinkLimits::default());
    link.subscribe("a/x", QoS::AtMostOnce).unwrap();

    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut client = Client {
        stream,
        read: BytesMut::new(),
    };
    // Everything in one write, CONNECT included, and no wait for an answer.
    let mut bytes = connect5("c", "secret", None);
    for number in 0..2_000 {
        v5::Publish::new("a/x", QoS5::AtMostOnce, number.to_string(), None)
            .write(&mut bytes)
            .unwrap();
    }
    client.send(&bytes).await;
    client.stream.shutdown().await.unwrap();
    let mut next = 0;
    loop {
        match events.recv().await.unwrap() {
            LinkEvent::Message { payload, .. } => {
                assert_eq!(payload, next.to_string().as_bytes());
                next += 1;
            }
            LinkEvent::Disconnected { .. } => break,
            _ => {}
        }
    }
    while let Some(LinkEvent::Message { .. }) = events.try_recv() {
        next += 1;
    }
    assert_eq!(next, 2_000);
    broker.shutdown().await;
    listening.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_expiry_counts_down_while_a_message_waits_or_is_retained() {
    let broker = broker(Limits::default());
    let mut from = Client::join(&broker, "from").await;
    let expiring = |topic: &str, retain, seconds| {
        let properties = v5::PublishProperties {
            message_expiry_interval: Some(seconds),
            ..v5::PublishProperties::default()
        };
        v5::Packet::Publish(v5::Publish {
            retain,
            ..v5::Publish::new(topic, QoS5::AtMostOnce, "x", Some(properties))
        })
    };
    let left = |packet: Option<v5::Packet>| match packet {
        Some(v5::Packet::Publish(publish)) => publish.properties.unwrap().message_expiry_interval,
        other => panic!("{other:?}"),
    };
    from.send5(expiring("a/kept", true, 10)).await;
    // The broker has it when it answers what came behind it.
    from.send(&[0xC0, 0]).await;
    assert!(matches!(from.receive5().await, Some(v5::Packet::PingResp(_))));
    tokio::time::advance(Duration::from_millis(3_500)).await;
    let mut late = Client::join(&broker, "late").await;
    late.subscribe5("a/kept").await;
    // [MQTT-3.3.2-6]
    assert_eq!(left(late.receive5().await), Some(7));

    // Behind one that is not acknowledged, with a window of one.
    let mut narrow = Client::dial(&broker);
    let mut connect = BytesMut::new();
    v5::Connect {
        keep_alive: 100,
        client_id: "narrow".into(),
        clean_start: true,
        properties: Some(v5::ConnectProperties {
            receive_maximum: Some(1),
            ..v5::ConnectProperties::new()
        }),
    }
    .write(&None, &Some(v5::Login::new("user", "secret")), &mut connect)
    .unwrap();
    narrow.send(&connect).await;
    narrow.connack5().await;
    narrow.subscribe5("a/waits").await;
    let (link, _events) = broker.link("bridge", LinkLimits::default());
    for seconds in [100, 2, 60] {
        let lifetime = Duration::from_secs(seconds);
        link.publish_expiring("a/waits", Bytes::new(), QoS::AtLeastOnce, Retain::No, lifetime)
            .unwrap();
    }
    assert_eq!(left(narrow.receive5().await), Some(100));
    tokio::time::advance(Duration::from_secs(20)).await;
    narrow.send5(v5::Packet::PubAck(v5::PubAck::new(1, None))).await;
    assert_eq!(left(narrow.receive5().await), Some(40));
    // The one that waited, and the retained one, whose time was over meanwhile.
    assert_eq!(broker.stats().count(Reason::Expired), 2);
    assert_eq!(broker.stats().retained, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_publisher_says_of_its_message_reaches_receivers_unaltered() {
    let broker = broker(Limits::default());
    let mut five = Client::join(&broker, "five").await;
    five.subscribe5("a/#").await;
    let mut four = Client::dial(&broker);
    four.send4(v4::Packet::Connect(connect4("four", "secret"))).await;
    four.receive4().await;
    four.send4(v4::Packet::Subscribe(v4::Subscribe {
        pkid: 1,
        ..v4::Subscribe::new("a/#", QoS4::AtMostOnce)
    }))
    .await;
    four.receive4().await;
    // [MQTT-3.3.2-17], [-18], [-20]: names may repeat, and their order counts.
    let user_properties: Vec<(String, String)> = [("b", "1"), ("a", ""), ("", "2"), ("b", "1"), ("b", "ö")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let said = v5::PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: None,
        topic_alias: Some(3),
        response_topic: Some("answers/here".into()),
        correlation_data: Some(Bytes::from_static(&[0, 0xFF, 7])),
        user_properties: user_properties.clone(),
        subscription_identifiers: Vec::new(),
        content_type: Some("text/plain".into()),
    };
    let expected = v5::PublishProperties {
        topic_alias: None,
        ..said.clone()
    };
    let mut from = Client::join(&broker, "from").await;
    // By its topic, and then by the alias alone.
    for topic in ["a/x", ""] {
        let publish = v5::Publish::new(topic, QoS5::AtMostOnce, "said", Some(said.clone()));
        from.send5(v5::Packet::Publish(publish)).await;
        let Some(v5::Packet::Publish(received)) = five.receive5().await else {
            panic!("no publish")
        };
        assert_eq!(
            (&received.topic[..], &received.payload[..]),
            (&b"a/x"[..], &b"said"[..])
        );
        assert_eq!(received.properties, Some(expected.clone()));
        let Some(v4::Packet::Publish(received)) = four.receive4().await else {
            panic!("no publish")
        };
        assert_eq!(
            (&received.topic[..], &received.payload[..]),
            ("a/x", &b"said"[..])
        );
    }

    // A will says as much of itself.
    let mut dying = Client::dial(&broker);
    let will = v5::LastWill {
        properties: Some(v5::LastWillProperties {
            delay_interval: None,
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(30),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers/here".into()),
            correlation_data: Some(Bytes::from_static(&[0, 0xFF, 7])),
            user_properties,
        }),
        ..v5::LastWill::new("a/will", "gone", QoS5::AtMostOnce, false, None)
    };
    dying.send(&connect5("dying", "secret", Some(will))).await;
    dying.connack5().await;
    drop(dying);
    let Some(v5::Packet::Publish(received)) = five.receive5().await else {
        panic!("no will")
    };
    assert_eq!(
        (&received.topic[..], &received.payload[..]),
        (&b"a/will"[..], &b"gone"[..])
    );
    let expected = v5::PublishProperties {
        message_expiry_interval: Some(30),
        ..expected
    };
    assert_eq!(received.properties, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_connects_too_often_is_told_so_and_let_in_again_at_its_rate() {
    let broker = broker(Limits {
        connections_per_address_per_minute: 2,
        handshakes_max: 3,
        ..Limits::default()
    });
    let _first = Client::join(&broker, "first").await;
    let _second = Client::join(&broker, "second").await;
    let mut five = Client::dial(&broker);
    five.send(&connect5("third", "secret", None)).await;
    let mut answer = Vec::new();
    five.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(without_reason_string(&answer), [0x20, 3, 0, 0x9F, 0]);
    drop(five);
    // The clock is the test's: this ends when everybody has done what there was to do.
    let everybody_is_idle = || tokio::time::sleep(Duration::from_millis(1));
    everybody_is_idle().await;
    let mut four = Client::dial(&broker);
    four.send4(v4::Packet::Connect(connect4("third", "secret"))).await;
    let mut answer = [0; 4];
    four.stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 3]);
    assert_eq!(broker.stats().count(Reason::ConnectionRate), 2);
    drop(four);
    everybody_is_idle().await;

    // Two that say nothing: the first takes the place for those over their rate, the second is closed.
    let _silent = Client::dial(&broker);
    assert_eq!(Client::dial(&broker).receive5().await, None);
    assert_eq!(broker.stats().count(Reason::ConnectionRate), 4);
    assert_eq!(broker.stats().count(Reason::HandshakeLimit), 0);
    // Another address finds places of its own.
    let (near, far) = tokio::io::duplex(4_096);
    tokio::spawn(broker.serve_connection(far, SocketAddr::from(([192, 0, 2, 1], 1))));
    let mut other = Client {
        stream: near,
        read: BytesMut::new(),
    };
    other.send(&connect5("other", "secret", None)).await;
    assert_eq!(other.connack5().await.code, v5::ConnectReturnCode::Success);

    tokio::time::advance(Duration::from_secs(30)).await;
    Client::join(&broker, "third").await;
}

/// Grants every filter, and keeps what is secret from everybody but its owner.
struct ByTopic;

impl Authorise for ByTopic {
    fn may_publish(&self, _principal: &Principal, _topic: &str, _retain: Retain) -> Verdict {
        Verdict::Allow
    }

    fn may_subscribe(&self, _principal: &Principal, _filter: &str) -> Verdict {
        Verdict::Allow
    }

    fn may_read(&self, principal: &Principal, topic: &str) -> Verdict {
        Verdict::allow_if(!topic.starts_with("secret/") || &*principal.client_id == "owner")
    }
}

#[tokio::test(start_paused = true)]
async fn a_wide_filter_brings_what_its_reader_may_read_and_nothing_else() {
    let broker = Broker::new(Limits::default(), Arc::new(Doorman), Arc::new(ByTopic));
    let mut owner = Client::join(&broker, "owner").await;
    owner
        .send5(v5::Packet::Publish(v5::Publish {
            retain: true,
            ..v5::Publish::new("secret/kept", QoS5::AtMostOnce, "kept", None)
        }))
        .await;
    owner.subscribe5("#").await;
    let mut other = Client::join(&broker, "other").await;
    other.subscribe5("#").await;
    other.subscribe5("$share/group/secret/+").await;
    for topic in ["secret/live", "open"] {
        owner.send5(publish5(topic, QoS5::AtMostOnce, "live")).await;
    }
    for (client, expected) in [
        (&mut owner, &["secret/kept", "secret/live", "open"][..]),
        (&mut other, &["open"][..]),
    ] {
        for topic in expected {
            match client.receive5().await {
                Some(v5::Packet::Publish(received)) => assert_eq!(received.topic, topic.as_bytes()),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Keeps the value of each metric by its name and labels.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, f64>>>);

/// One metric of it.
struct Recording(Recorded, String);

impl Recorded {
    fn handle(&self, key: &metrics::Key) -> Arc<Recording> {
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::new(Recording(self.clone(), name))
    }

    fn value(&self, name: &str) -> f64 {
        let name = format!("waypost_broker_{name}");
        self.0.lock().unwrap().get(&name).copied().unwrap_or(0.0)
    }
}

impl Recording {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = (self.0).0.lock().unwrap();
        let value = values.entry(self.1.clone()).or_default();
        *value = change(*value);
    }
}

impl metrics::CounterFn for Recording {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }
    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl metrics::GaugeFn for Recording {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }
    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }
    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl metrics::Recorder for Recorded {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        self.handle(key).into()
    }
    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        self.handle(key).into()
    }
    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_say_what_has_happened_and_what_is_held() {
    let recorded = Recorded::default();
    let broker = metrics::with_local_recorder(&recorded, || broker(Limits::default()));
    let (link, mut events) = broker.link("bridge", LinkLimits::default());
    link.subscribe("a/up", QoS::AtLeastOnce).unwrap();

    // One who is there, one who was and is kept, one who is refused.
    let mut here = Client::join(&broker, "here").await;
    here.subscribe5("a/#").await;
    let mut kept = v5::Connect {
        keep_alive: 10,
        client_id: "away".into(),
        clean_start: true,
        properties: Some(v5::ConnectProperties {
            session_expiry_interval: Some(60),
            ..v5::ConnectProperties::new()
        }),
    };
    let login = Some(v5::Login::new("user", "secret"));
    let mut away = Client::dial(&broker);
    away.send5(v5::Packet::Connect(kept.clone(), None, login.clone()))
        .await;
    away.connack5().await;
    away.subscribe5("a/down").await;
    drop(away);
    let mut refused = Client::dial(&broker);
    refused.send(&connect5("who", "wrong", None)).await;
    assert_eq!(
        refused.connack5().await.code,
        v5::ConnectReturnCode::BadUserNamePassword
    );

    // To both of them and retained, in no time; and up, where it is taken after a while.
    let payload = || Bytes::from_static(b"12345");
    link.publish("a/down", payload(), QoS::AtLeastOnce, Retain::Yes)
        .unwrap();
    here.receive5().await.unwrap();
    here.send5(publish5("a/up", QoS5::AtMostOnce, "x")).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    while let Some(event) = events.try_recv() {
        drop(event);
    }
    here.receive5().await.unwrap();

    let stats = broker.stats();
    let cost = (64 + 6 + 5) as f64;
    for (name, value) in [
        ("connections{}", 1.0),
        ("listener_connections{listener=handed}", 1.0),
        ("listener_connects_total{listener=handed}", 2.0),
        ("listener_connects_total{listener=tcp}", 0.0),
        ("sessions{state=live}", 1.0),
        ("sessions{state=detached}", 1.0),
        ("subscriptions{}", 3.0),
        ("queued_messages{}", 2.0),
        ("queued_bytes{}", cost),
        ("detached_bytes{}", cost),
        ("inflight_messages{}", 1.0),
        ("link_queued_bytes{}", 0.0),
        ("retained_messages{}", 1.0),
        ("retained_bytes{}", cost),
        ("connects_total{}", 2.0),
        ("messages_received_total{}", 2.0),
        ("messages_delivered_total{}", 3.0),
        ("reasons_total{reason=bad_credentials}", 1.0),
        ("reasons_total{reason=connection_lost}", 1.0),
        ("reasons_total{reason=slow_receiver}", 0.0),
        ("delivery_seconds_count{to=client}", 2.0),
        ("delivery_seconds_bucket{to=client,le=0.0001}", 2.0),
        ("delivery_seconds_sum{to=client}", 0.0),
        ("delivery_seconds_count{to=link}", 1.0),
        ("delivery_seconds_bucket{to=link,le=0.025}", 0.0),
        ("delivery_seconds_bucket{to=link,le=0.05}", 1.0),
        ("delivery_seconds_bucket{to=link,le=+Inf}", 1.0),
        ("delivery_seconds_sum{to=link}", 0.04),
        ("received_bytes_total{}", stats.bytes_received as f64),
        ("sent_bytes_total{}", stats.bytes_sent as f64),
    ] {
        assert_eq!(recorded.value(name), value, "{name}");
    }
    assert!(stats.bytes_received > 0 && stats.bytes_sent > stats.bytes_received);

    // What waited for somebody to come back is no measure of the broker.
    kept.clean_start = false;
    let mut back = Client::dial(&broker);
    back.send5(v5::Packet::Connect(kept, None, login)).await;
    assert!(back.connack5().await.session_present);
    assert!(matches!(back.receive5().await, Some(v5::Packet::Publish(_))));
    drop(back);
    broker.stats();
    assert_eq!(recorded.value("messages_delivered_total{}"), 4.0);
    assert_eq!(recorded.value("delivery_seconds_count{to=client}"), 2.0);

    // What is over is not held any more.
    here.send5(v5::Packet::Disconnect(v5::Disconnect::new(
        v5::DisconnectReasonCode::NormalDisconnection,
    )))
    .await;
    assert_eq!(here.receive5().await, None);
    tokio::time::sleep(Duration::from_secs(61)).await;
    broker.stats();
    for (name, value) in [
        ("connections{}", 0.0),
        ("listener_connections{listener=handed}", 0.0),
        ("sessions{state=live}", 0.0),
        ("sessions{state=detached}", 0.0),
        ("queued_messages{}", 0.0),
        ("queued_bytes{}", 0.0),
        ("detached_bytes{}", 0.0),
        ("inflight_messages{}", 0.0),
        ("reasons_total{reason=session_expired}", 1.0),
        ("reasons_total{reason=client_disconnected}", 1.0),
    ] {
        assert_eq!(recorded.value(name), value, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_broker_tells_of_itself_where_nobody_else_can() {
    const EVERY: Duration = Duration::from_secs(4);
    let limits = Limits {
        retained_max: 1,
        ..Limits::default()
    };
    let broker = Broker::new(limits, Arc::new(Doorman), Arc::new(ByTopic));
    tokio::spawn(broker.clone().publish_sys(EVERY));
    let mut everything = Client::join(&broker, "everything").await;
    everything.subscribe5("#").await;
    everything.subscribe5("+/broker/uptime").await;
    tokio::time::sleep(EVERY / 2).await;

    // Retained for one who comes later.
    let mut reader = Client::join(&broker, "reader").await;
    reader.subscribe5("$SYS/broker/clients/#").await;
    let mut told = BTreeMap::new();
    while told.len() < 5 {
        match reader.receive5().await {
            Some(v5::Packet::Publish(said)) if said.retain => told.insert(said.topic, said.payload),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(told[&b"$SYS/broker/clients/connected"[..]], "0");

    // Nobody else can say it, whatever the embedder allows: a publish, a will, a link.
    for topic in ["$SYS/broker/clients/connected", "$SYS/mine", "$SYS"] {
        reader.send5(publish5(topic, QoS5::AtLeastOnce, "99")).await;
        match reader.receive5().await {
            Some(v5::Packet::PubAck(answer)) => {
                assert_eq!(answer.reason, v5::PubAckReason::NotAuthorized, "{topic}");
            }
            other => panic!("{other:?}"),
        }
        let will = v5::LastWill::new(topic, "99", QoS5::AtMostOnce, true, None);
        let mut dying = Client::dial(&broker);
        dying.send(&connect5("dying", "secret", Some(will))).await;
        assert_eq!(
            dying.connack5().await.code,
            v5::ConnectReturnCode::NotAuthorized,
            "{topic}"
        );
        let (link, _events) = broker.link("bridge", LinkLimits::default());
        let refused = link.publish(topic, Bytes::new(), QoS::AtMostOnce, Retain::Yes);
        assert_eq!(refused, Err(LinkError::TopicInvalid), "{topic}");
    }

    // What has changed is told to those who are there, and the rest is not.
    tokio::time::sleep(EVERY).await;
    let mut changed = BTreeMap::new();
    while changed.len() < 3 {
        match reader.receive5().await {
            Some(v5::Packet::Publish(said)) => changed.insert(said.topic, said.payload),
            other => panic!("{other:?}"),
        };
    }
    let names = [
        "$SYS/broker/clients/connected",
        "$SYS/broker/clients/maximum",
        "$SYS/broker/clients/total",
    ];
    let expected = names.map(|name| (Bytes::from(name), Bytes::from_static(b"2")));
    assert_eq!(changed, expected.into());

    // It takes no room from others, and wildcards do not reach it.
    let mut open = v5::Publish::new("open", QoS5::AtMostOnce, "open", None);
    open.retain = true;
    reader.send5(v5::Packet::Publish(open)).await;
    match everything.receive5().await {
        Some(v5::Packet::Publish(said)) => assert_eq!(said.topic, "open"),
        other => panic!("{other:?}"),
    }
    assert_eq!(broker.stats().retained, 1);
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_about_a_connection_says_whose_it_is_and_nothing_of_what_it_says() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || written.clone())
        .finish();
    let logging = tracing::subscriber::set_default(subscriber);
    let broker = broker(Limits::default());
    let mut first = Client::join(&broker, "same").await;
    first.subscribe5("a/topic").await;
    first
        .send5(publish5("a/topic", QoS5::AtLeastOnce, "payload"))
        .await;
    first.receive5().await.unwrap();
    let second = Client::join(&broker, "same").await;
    first.expect_end5(0x8E).await;
    drop(second);
    // One who would like to write a line of its own, and more than anybody reads.
    let forger = format!("\n INFO forged {}", "x".repeat(1_000));
    let mut refused = Client::dial(&broker);
    refused.send(&connect5(&forger, "wrong", None)).await;
    refused.connack5().await;
    let _silent = Client::dial(&broker);
    tokio::time::sleep(Duration::from_secs(11)).await;
    drop(logging);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let about = |message: &str| {
        log.lines()
            .filter(|line| line.contains("waypost_broker::") && line.contains(message))
            .collect::<Vec<_>>()
    };
    for (message, count) in [("connected", 4), ("disconnected", 2), ("connection refused", 2)] {
        assert_eq!(about(message).len(), count, "{message}: {log}");
    }
    for line in about("connected") {
        let whose = "connection{peer=127.0.0.1:1 listener=\"handed\" client.id=\"same\" principal=\"user\"}";
        assert!(line.contains(whose), "{line}");
    }
    let refusals = about("connection refused");
    assert!(refusals[0].contains("client.id=\"\\n INFO forged xx"), "{log}");
    assert!(
        refusals[1].contains("connection{peer=127.0.0.1:1 listener=\"handed\"}"),
        "{log}"
    );
    for line in log.lines() {
        assert!(line.contains("peer=127.0.0.1:1") && line.len() < 300, "{line}");
    }
    assert!(!log.contains("topic") && !log.contains("payload"), "{log}");
}
