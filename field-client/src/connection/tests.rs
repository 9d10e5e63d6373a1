//! A connection against a broker that is written down packet by packet.

use super::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{DuplexStream, duplex};

struct Broker {
    stream: DuplexStream,
    input: BytesMut,
}

impl Broker {
    /// What has come in one write.
    async fn read(&mut self) -> usize {
        self.stream.read_buf(&mut self.input).await.unwrap()
    }

    async fn packet(&mut self) -> v5::Packet {
        loop {
            match rumqttc::v5::mqttbytes::v5::Packet::read(&mut self.input, None) {
                Ok(packet) => return packet,
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {
                    assert_ne!(self.read().await, 0, "the client closed");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn publish(&mut self) -> v5::Publish {
        match self.packet().await {
            v5::Packet::Publish(publish) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    async fn send(&mut self, packet: v5::Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    async fn accept(&mut self, aliases_max: u16) {
        let mut properties = connack_properties();
        properties.topic_alias_max = Some(aliases_max);
        self.connack(v5::ConnectReturnCode::Success, Some(properties))
            .await;
    }

    async fn connack(&mut self, code: v5::ConnectReturnCode, properties: Option<v5::ConnAckProperties>) {
        self.send(v5::Packet::ConnAck(v5::ConnAck {
            session_present: false,
            code,
            properties,
        }))
        .await;
    }
}

fn connack_properties() -> v5::ConnAckProperties {
    v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

struct World {
    broker: Broker,
    frames: mpsc::Sender<ToServer>,
    care: watch::Sender<Care>,
    events: mpsc::Receiver<LinkEvent>,
    task: tokio::task::JoinHandle<Ended>,
}

fn settings(version: Version) -> Settings {
    Settings {
        device: "7c".parse().unwrap(),
        secret: crate::Secret::new("hush"),
        prefix: TopicPrefix::default(),
        version,
        tag: SessionTag::new(9).unwrap(),
        keep_alive_s: 60,
        ceiling_s: 450,
        connect_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(20),
    }
}

fn start(version: Version) -> World {
    let (client, server) = duplex(1 << 16);
    let (frames, frames_receiver) = mpsc::channel(FRAMES_MAX);
    let (events_sender, events) = mpsc::channel(EVENTS_MAX);
    let (care, care_receiver) = watch::channel(Care {
        interval: Duration::from_secs(60),
        doubts: 0,
    });
    let running = run(
        client,
        settings(version),
        care_receiver,
        frames_receiver,
        events_sender,
    );
    let task = tokio::spawn(running);
    World {
        broker: Broker {
            stream: server,
            input: BytesMut::with_capacity(1 << 16),
        },
        frames,
        care,
        events,
        task,
    }
}

/// Why a connection that stood was lost.
async fn lost(world: World) -> Lost {
    match world.task.await.unwrap() {
        Ended::Lost(lost) => lost,
        ended => panic!("{ended:?}"),
    }
}

fn frame(payload: &[u8]) -> ToServer {
    ToServer::Frame(Outgoing {
        payload: payload.to_vec(),
        qos: Qos::AtLeastOnce,
    })
}

fn group(id: &str) -> Topic {
    Topic::Group(id.parse().unwrap())
}

fn topics(subscribe: Vec<Topic>, unsubscribe: Vec<Topic>) -> ToServer {
    ToServer::Topics(Topics {
        subscribe,
        unsubscribe,
    })
}

/// Accepted, with the first flight read.
async fn connected(aliases_max: u16) -> World {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    world.broker.accept(aliases_max).await;
    assert_eq!(world.events.recv().await, Some(LinkEvent::Connected));
    world.frames.send(frame(b"hello")).await.unwrap();
    world.broker.packet().await;
    world.broker.publish().await;
    world.broker.publish().await;
    world
}

#[tokio::test]
async fn a_connect_names_the_device_and_leaves_a_will_of_its_session() {
    let mut world = start(Version::V5);
    let v5::Packet::Connect(connect, will, login) = world.broker.packet().await else {
        panic!()
    };
    assert_eq!(
        (
            connect.client_id.as_str(),
            connect.clean_start,
            connect.keep_alive
        ),
        ("7c", true, 450)
    );
    assert_eq!(connect.properties.unwrap().topic_alias_max, Some(4));
    let login = login.unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("7c", "hush"));
    let will = will.unwrap();
    assert_eq!((&will.topic[..], will.retain), (&b"p/7c"[..], true));
    let presence = wire::Presence::decode(will.message).unwrap();
    assert_eq!(
        presence,
        wire::Presence {
            tag: 9,
            online: false
        }
    );
}

#[tokio::test]
async fn subscribe_hello_and_presence_leave_in_one_write() {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    world.broker.accept(10).await;
    assert_eq!(world.events.recv().await, Some(LinkEvent::Connected));
    world.frames.send(frame(b"hello")).await.unwrap();
    world.broker.read().await;
    // No further byte is waited for: the whole flight came at once.
    let mut packet = || v5::Packet::read(&mut world.broker.input, None).unwrap();
    let v5::Packet::Subscribe(subscribe) = packet() else {
        panic!("first the subscribe")
    };
    assert_eq!(subscribe.filters[0].path, "d/7c");
    let v5::Packet::Publish(hello) = packet() else {
        panic!("then the hello")
    };
    assert_eq!(
        (&hello.topic[..], &hello.payload[..], hello.retain),
        (&b"u/7c"[..], &b"hello"[..], false)
    );
    assert_eq!(hello.properties.unwrap().topic_alias, Some(UP_ALIAS));
    let v5::Packet::Publish(presence) = packet() else {
        panic!("then the presence")
    };
    assert_eq!((&presence.topic[..], presence.retain), (&b"p/7c"[..], true));
    let said = wire::Presence::decode(presence.payload).unwrap();
    assert_eq!(said, wire::Presence { tag: 9, online: true });
    assert!(world.broker.input.is_empty());
}

#[tokio::test]
async fn the_topics_of_groups_go_with_the_first_subscribe_and_are_answered_one_by_one() {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    world.broker.accept(10).await;
    assert_eq!(world.events.recv().await, Some(LinkEvent::Connected));
    world
        .frames
        .send(topics(vec![group("1"), group("2")], vec![]))
        .await
        .unwrap();
    world.frames.send(frame(b"hello")).await.unwrap();
    let v5::Packet::Subscribe(subscribe) = world.broker.packet().await else {
        panic!("first the subscribe")
    };
    let filters: Vec<&str> = subscribe
        .filters
        .iter()
        .map(|filter| filter.path.as_str())
        .collect();
    assert_eq!(filters, ["d/7c", "g/1", "g/2"]);
    let granted = v5::SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::AtLeastOnce);
    let suback = v5::SubAck {
        pkid: subscribe.pkid,
        return_codes: vec![granted, granted, v5::SubscribeReasonCode::QuotaExceeded],
        properties: None,
    };
    world.broker.send(v5::Packet::SubAck(suback)).await;
    let answers = vec![(group("1"), Grant::Granted), (group("2"), Grant::Refused)];
    assert_eq!(world.events.recv().await, Some(LinkEvent::Subscribed(answers)));
}

#[tokio::test]
async fn topics_change_on_a_standing_connection_and_what_comes_on_them_is_told_apart() {
    let mut world = connected(1).await;
    let templates = Topic::Templates("de".to_owned());
    world
        .frames
        .send(topics(vec![templates.clone()], vec![group("1"), group("2")]))
        .await
        .unwrap();
    let v5::Packet::Unsubscribe(unsubscribe) = world.broker.packet().await else {
        panic!("what is left ends first")
    };
    assert_eq!(unsubscribe.filters, ["g/1", "g/2"]);
    let v5::Packet::Subscribe(subscribe) = world.broker.packet().await else {
        panic!("then the new one")
    };
    assert_eq!(subscribe.filters[0].path, "t/de");
    let suback = v5::SubAck {
        pkid: subscribe.pkid,
        return_codes: vec![v5::SubscribeReasonCode::NotAuthorized],
        properties: None,
    };
    world.broker.send(v5::Packet::SubAck(suback)).await;
    for (topic, payload) in [
        ("g/3", "to all"),
        ("t/de", "templates"),
        ("p/7c", "no business of ours"),
        ("d/7c", "own"),
    ] {
        let publish = v5::Publish::new(topic, rumqttc::v5::mqttbytes::QoS::AtMostOnce, payload, None);
        world.broker.send(v5::Packet::Publish(publish)).await;
    }
    for expected in [
        LinkEvent::Subscribed(vec![(templates, Grant::Refused)]),
        LinkEvent::GroupFrame("3".parse().unwrap(), Bytes::from("to all")),
        LinkEvent::Catalogue("de".to_owned(), Bytes::from("templates")),
        LinkEvent::Frame(Bytes::from("own")),
    ] {
        assert_eq!(world.events.recv().await, Some(expected));
    }
}

#[tokio::test]
async fn the_alias_stands_for_the_topic_from_the_second_frame_on() {
    let mut world = connected(1).await;
    world.frames.send(frame(b"second")).await.unwrap();
    let publish = world.broker.publish().await;
    assert!(publish.topic.is_empty());
    assert_eq!(publish.properties.unwrap().topic_alias, Some(UP_ALIAS));
    assert_eq!(publish.payload, "second");
}

#[tokio::test]
async fn a_server_without_aliases_gets_the_topic_each_time() {
    let mut world = connected(0).await;
    world.frames.send(frame(b"second")).await.unwrap();
    let publish = world.broker.publish().await;
    assert_eq!((&publish.topic[..], publish.properties), (&b"u/7c"[..], None));
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_ride_with_what_leaves_or_follow_within_a_second() {
    let mut world = connected(1).await;
    let down = |pkid| {
        let mut publish = v5::Publish::new("d/7c", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, "x", None);
        publish.pkid = pkid;
        v5::Packet::Publish(publish)
    };
    let ack = |pkid| v5::Packet::PubAck(v5::PubAck::new(pkid, None));
    world.broker.send(down(7)).await;
    world.events.recv().await.unwrap();
    world.frames.send(frame(b"next")).await.unwrap();
    assert_eq!(world.broker.packet().await, ack(7), "before what it rides with");
    assert!(matches!(world.broker.packet().await, v5::Packet::Publish(_)));
    let began = tokio::time::Instant::now();
    world.broker.send(down(8)).await;
    assert_eq!(world.broker.packet().await, ack(8));
    assert_eq!(began.elapsed().as_millis(), 1_000, "by a clock that stands still");
    for pkid in 10..18 {
        world.broker.send(down(pkid)).await;
    }
    let began = tokio::time::Instant::now();
    for pkid in 10..18 {
        assert_eq!(world.broker.packet().await, ack(pkid));
    }
    assert_eq!(began.elapsed().as_millis(), 0, "many do not wait");
}

#[tokio::test(start_paused = true)]
async fn aliases_of_the_server_are_resolved_and_its_publishes_acknowledged() {
    let mut world = connected(1).await;
    let down = |topic: &str, alias, pkid, payload: &'static str| {
        let properties = v5::PublishProperties {
            topic_alias: Some(alias),
            ..Default::default()
        };
        let mut publish = v5::Publish::new(
            topic,
            rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
            payload,
            Some(properties),
        );
        publish.pkid = pkid;
        v5::Packet::Publish(publish)
    };
    world.broker.send(down("d/7c", 2, 7, "one")).await;
    world.broker.send(down("", 2, 8, "two")).await;
    world.broker.send(down("t/de", 3, 9, "not a frame")).await;
    assert_eq!(
        world.events.recv().await,
        Some(LinkEvent::Frame(Bytes::from("one")))
    );
    assert_eq!(
        world.events.recv().await,
        Some(LinkEvent::Frame(Bytes::from("two")))
    );
    for pkid in 7..=9 {
        assert_eq!(
            world.broker.packet().await,
            v5::Packet::PubAck(v5::PubAck::new(pkid, None))
        );
    }
    world.broker.send(down("", 4, 10, "never set")).await;
    assert!(lost(world).await.why.contains("alias"));
}

#[tokio::test]
async fn a_server_of_the_older_version_is_spoken_to_in_it() {
    // It answers a version 5 CONNECT in its own words.
    let mut world = start(Version::V5);
    world.broker.packet().await;
    world.broker.stream.write_all(&[0x20, 2, 0, 1]).await.unwrap();
    assert_eq!(world.task.await.unwrap(), Ended::VersionRefused);

    let mut world = start(Version::V4);
    let mut packets = Vec::new();
    while packets.is_empty() {
        world.broker.read().await;
        packets.extend(v4::Packet::read(&mut world.broker.input, 9_999).ok());
    }
    let v4::Packet::Connect(connect) = packets.remove(0) else {
        panic!()
    };
    assert_eq!(
        (
            connect.client_id.as_str(),
            connect.last_will.unwrap().topic.as_str()
        ),
        ("7c", "p/7c")
    );
    world.broker.stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    assert_eq!(world.events.recv().await, Some(LinkEvent::Connected));
    world.frames.send(frame(b"hello")).await.unwrap();
    world.broker.read().await;
    let mut packet = || v4::Packet::read(&mut world.broker.input, 9_999).unwrap();
    assert!(matches!(packet(), v4::Packet::Subscribe(_)));
    let v4::Packet::Publish(hello) = packet() else {
        panic!()
    };
    assert_eq!(
        (hello.topic.as_str(), &hello.payload[..]),
        ("u/7c", &b"hello"[..])
    );
}

#[tokio::test]
async fn refusals_say_whether_trying_again_helps() {
    use v5::ConnectReturnCode as Code;
    for (code, refused) in [
        (Code::BadUserNamePassword, true),
        (Code::NotAuthorized, true),
        (Code::ClientIdentifierNotValid, true),
        (Code::Banned, true),
        (Code::ServerBusy, false),
        (Code::ServerUnavailable, false),
        (Code::QuotaExceeded, false),
    ] {
        let mut world = start(Version::V5);
        world.broker.packet().await;
        world.broker.connack(code, None).await;
        let ended = world.task.await.unwrap();
        assert_eq!(matches!(ended, Ended::Refused(_)), refused, "{code:?}: {ended:?}");
    }
    for (code, expected) in [(4, true), (5, true), (2, true), (3, false)] {
        let mut world = start(Version::V4);
        world.broker.read().await;
        world.broker.stream.write_all(&[0x20, 2, 0, code]).await.unwrap();
        let ended = world.task.await.unwrap();
        assert_eq!(matches!(ended, Ended::Refused(_)), expected, "{code}: {ended:?}");
    }
}

#[tokio::test]
async fn a_refused_subscription_ends_the_connection_for_good() {
    let mut world = connected(1).await;
    let refused = v5::SubAck {
        pkid: 1,
        return_codes: vec![v5::SubscribeReasonCode::NotAuthorized],
        properties: None,
    };
    world.broker.send(v5::Packet::SubAck(refused)).await;
    assert!(matches!(world.task.await.unwrap(), Ended::Refused(_)));
}

#[tokio::test(start_paused = true)]
async fn a_ping_leaves_only_where_nothing_else_did() {
    let mut world = connected(1).await;
    for pkid in [2, 3] {
        world
            .broker
            .send(v5::Packet::PubAck(v5::PubAck::new(pkid, None)))
            .await;
    }
    for pkid in 4..8 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        world.frames.send(frame(b"x")).await.unwrap();
        assert!(
            matches!(world.broker.packet().await, v5::Packet::Publish(_)),
            "no ping within 60 s of a frame"
        );
        world
            .broker
            .send(v5::Packet::PubAck(v5::PubAck::new(pkid, None)))
            .await;
    }
    let quiet = tokio::time::Instant::now();
    assert!(matches!(world.broker.packet().await, v5::Packet::PingReq(_)));
    assert_eq!(quiet.elapsed().as_secs(), 60);
    world.broker.send(v5::Packet::PingResp(v5::PingResp)).await;
    assert!(matches!(world.broker.packet().await, v5::Packet::PingReq(_)));
    assert!(quiet.elapsed().as_secs() >= 120 && !world.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_any_more_counts_as_dead() {
    let mut world = connected(1).await;
    for pkid in [2, 3] {
        world
            .broker
            .send(v5::Packet::PubAck(v5::PubAck::new(pkid, None)))
            .await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!world.task.is_finished(), "nothing is waited for");
    world.frames.send(frame(b"x")).await.unwrap();
    let sent = tokio::time::Instant::now();
    let lost = lost(world).await;
    assert_eq!((lost.after_idle, lost.was_doubted), (None, false), "{lost:?}");
    assert_eq!(sent.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_the_connect_is_left() {
    let world = start(Version::V5);
    assert!(matches!(world.task.await.unwrap(), Ended::Broken(_)));
    drop(world.broker);
}

#[tokio::test]
async fn a_good_bye_takes_the_presence_back_by_itself() {
    let mut world = connected(1).await;
    drop(world.frames);
    let presence = world.broker.publish().await;
    let said = wire::Presence::decode(presence.payload).unwrap();
    assert_eq!((said.online, presence.retain), (false, true));
    loop {
        if world.broker.input.ends_with(&[0xe0, 0]) {
            break;
        }
        assert_ne!(world.broker.read().await, 0);
    }
    assert_eq!(world.task.await.unwrap(), Ended::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_mqtt_ends_the_connection_and_nothing_more() {
    for bytes in [
        &b"SSH-2.0-x\r\n"[..],
        &[0xff; 64],
        &[0x20, 0x80, 0x80, 0x80, 0x80, 1],
        &[0, 0],
    ] {
        let mut world = start(Version::V5);
        world.broker.packet().await;
        world.broker.stream.write_all(bytes).await.unwrap();
        assert!(matches!(world.task.await.unwrap(), Ended::Broken(_)), "{bytes:?}");

        let mut world = connected(1).await;
        world.broker.stream.write_all(bytes).await.unwrap();
        assert!(matches!(world.task.await.unwrap(), Ended::Lost(_)), "{bytes:?}");
    }
}

#[tokio::test]
async fn frames_wait_while_too_many_are_unacknowledged() {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    let mut properties = connack_properties();
    properties.receive_max = Some(3);
    world
        .broker
        .connack(v5::ConnectReturnCode::Success, Some(properties))
        .await;
    assert_eq!(world.events.recv().await, Some(LinkEvent::Connected));
    for _ in 0..3 {
        world.frames.send(frame(b"x")).await.unwrap();
    }
    world.broker.packet().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.broker.publish().await.pkid);
    }
    assert_eq!(ids, [2, 3, 4], "hello, presence, one frame");
    tokio::task::yield_now().await;
    assert!(world.broker.input.is_empty());
    world
        .broker
        .send(v5::Packet::PubAck(v5::PubAck::new(3, None)))
        .await;
    assert_eq!(world.broker.publish().await.pkid, 5);
}

fn live(payload: &[u8]) -> ToServer {
    ToServer::Frame(Outgoing {
        payload: payload.to_vec(),
        qos: Qos::AtMostOnce,
    })
}

/// Since then, by the clock of the test.
fn whole_seconds(since: tokio::time::Instant) -> u64 {
    (since.elapsed() + Duration::from_millis(500)).as_secs()
}

/// Connected, in step, with nothing that waits for an answer.
async fn settled() -> World {
    let mut world = connected(1).await;
    for pkid in [2, 3] {
        world
            .broker
            .send(v5::Packet::PubAck(v5::PubAck::new(pkid, None)))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_dead_link_that_carries_only_what_is_not_answered_is_found_too() {
    let mut world = settled().await;
    let began = tokio::time::Instant::now();
    let sending = async {
        loop {
            tokio::time::sleep(Duration::from_secs(7)).await;
            if world.frames.send(live(b"here")).await.is_err() {
                return;
            }
        }
    };
    // Everything arrives, and nothing is said to it: from here that looks the same as a link that swallows.
    let mut pings = 0;
    let listening = async {
        loop {
            match world.broker.packet().await {
                v5::Packet::PingReq(_) => pings += 1,
                v5::Packet::Publish(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let ended = tokio::select! {
        biased;
        ended = &mut world.task => ended.unwrap(),
        () = sending => panic!("the connection takes no more and has not ended"),
        () = listening => unreachable!(),
        () = tokio::time::sleep(Duration::from_secs(3_600)) => panic!("nobody finds it"),
    };
    let Ended::Lost(lost) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(lost.after_idle, None, "it was not idle");
    assert_eq!((pings, whole_seconds(began)), (1, 80));
}

#[tokio::test(start_paused = true)]
async fn no_ping_leaves_while_traffic_flows_both_ways() {
    let mut world = settled().await;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        world.frames.send(live(b"here")).await.unwrap();
        assert!(matches!(world.broker.packet().await, v5::Packet::Publish(_)));
        tokio::time::sleep(Duration::from_secs(29)).await;
        let down = v5::Publish::new("d/7c", rumqttc::v5::mqttbytes::QoS::AtMostOnce, "x", None);
        world.broker.send(v5::Packet::Publish(down)).await;
        assert!(matches!(world.events.recv().await, Some(LinkEvent::Frame(_))));
    }
    assert!(world.broker.input.is_empty() && !world.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_says_what_it_survived_and_after_what_it_was_lost() {
    let mut world = settled().await;
    for interval_s in [60, 90, 450] {
        let interval = Duration::from_secs(interval_s);
        world.care.send_modify(|care| care.interval = interval);
        let quiet = tokio::time::Instant::now();
        assert!(matches!(world.broker.packet().await, v5::Packet::PingReq(_)));
        // One look later than the change at most, which comes within the interval before.
        assert_eq!(whole_seconds(quiet), interval_s);
        world.broker.send(v5::Packet::PingResp(v5::PingResp)).await;
        let Some(LinkEvent::Survived(idle)) = world.events.recv().await else {
            panic!()
        };
        assert_eq!(idle.as_secs(), interval_s);
    }
    // Never longer than the CONNECT has said.
    world
        .care
        .send_modify(|care| care.interval = Duration::from_secs(900));
    let quiet = tokio::time::Instant::now();
    assert!(matches!(world.broker.packet().await, v5::Packet::PingReq(_)));
    assert_eq!(whole_seconds(quiet), 450);
    let lost = lost(world).await;
    assert_eq!(lost.after_idle.map(|idle| idle.as_secs()), Some(450));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_names_a_shorter_keep_alive_gets_it() {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    let mut properties = connack_properties();
    properties.server_keep_alive = Some(25);
    world
        .broker
        .connack(v5::ConnectReturnCode::Success, Some(properties))
        .await;
    world.frames.send(frame(b"hello")).await.unwrap();
    for _ in ["subscribe", "hello", "presence"] {
        world.broker.packet().await;
    }
    for pkid in [2, 3] {
        world
            .broker
            .send(v5::Packet::PubAck(v5::PubAck::new(pkid, None)))
            .await;
    }
    // It sends all the time; the client has to as well. [MQTT-3.1.2-20]
    let quiet = tokio::time::Instant::now();
    let pinged = async {
        loop {
            tokio::select! {
                packet = world.broker.packet() => return packet,
                () = tokio::time::sleep(Duration::from_secs(4)) => {
                    let down = v5::Publish::new("d/7c", rumqttc::v5::mqttbytes::QoS::AtMostOnce, "x", None);
                    world.broker.send(v5::Packet::Publish(down)).await;
                }
            }
        }
    };
    assert!(matches!(pinged.await, v5::Packet::PingReq(_)));
    assert_eq!(whole_seconds(quiet), 25);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_doubted_shows_quickly_whether_it_stands() {
    let mut world = settled().await;
    world.care.send_modify(|care| care.doubts += 1);
    let doubted = tokio::time::Instant::now();
    assert!(matches!(world.broker.packet().await, v5::Packet::PingReq(_)));
    world.broker.send(v5::Packet::PingResp(v5::PingResp)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!world.task.is_finished(), "it stands");
    assert_eq!(whole_seconds(doubted), 30);
    world.care.send_modify(|care| care.doubts += 1);
    let doubted = tokio::time::Instant::now();
    assert!(lost(world).await.was_doubted);
    assert_eq!(whole_seconds(doubted), 3);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_gets_three_round_trips_to_show_that_it_stands() {
    let mut world = start(Version::V5);
    world.broker.packet().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.broker.accept(1).await;
    world.frames.send(frame(b"hello")).await.unwrap();
    for _ in ["subscribe", "hello", "presence"] {
        world.broker.packet().await;
    }
    let doubted = tokio::time::Instant::now();
    world.care.send_modify(|care| care.doubts += 1);
    assert!(lost(world).await.was_doubted);
    assert_eq!(whole_seconds(doubted), 12);
}

#[tokio::test]
async fn a_web_page_instead_of_a_connack_is_a_network_that_wants_a_sign_in() {
    for version in [Version::V5, Version::V4] {
        let mut world = start(version);
        world.broker.read().await;
        let page = b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n";
        world.broker.stream.write_all(page).await.unwrap();
        let ended = world.task.await.unwrap();
        assert!(
            matches!(&ended, Ended::Captive(advice) if advice.contains("sign in")),
            "{ended:?}"
        );
    }
}

/// A stream that takes whatever is written and lets nothing go, as TLS does above a socket that is full.
struct Stuffed(DuplexStream, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl AsyncRead for Stuffed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stuffed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return std::task::Poll::Pending;
        }
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_has_not_let_go_of_is_not_followed_by_more() {
    let (client, server) = duplex(1 << 16);
    let (frames, frames_receiver) = mpsc::channel(FRAMES_MAX);
    let (events_sender, _events) = mpsc::channel(EVENTS_MAX);
    let (_care, care) = watch::channel(Care {
        interval: Duration::from_secs(60),
        doubts: 0,
    });
    let is_stuck = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stream = Stuffed(client, is_stuck.clone());
    let task = tokio::spawn(run(
        stream,
        settings(Version::V5),
        care,
        frames_receiver,
        events_sender,
    ));
    let mut broker = Broker {
        stream: server,
        input: BytesMut::new(),
    };
    broker.packet().await;
    broker.accept(1).await;
    frames.send(frame(b"hello")).await.unwrap();
    for _ in ["subscribe", "hello", "presence"] {
        broker.packet().await;
    }
    is_stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_millis(10), frames.send(live(b"here")))
        .await
        .is_ok()
    {
        taken += 1;
        assert!(taken < 100, "without an end");
    }
    assert!(taken <= 2 * FRAMES_MAX, "{taken}");
    task.abort();
}
