//! A client that says what a test tells it to, and holds the broker to the terms of its CONNECT in all that it hears.
//!
//! Whatever a test is about, each packet that is received has to be well formed, within the maximum packet size and the topic aliases
//! that the client allows, under a packet identifier that is not in use, and within the receive maximum; CONNACK comes first and
//! once, nothing comes behind a DISCONNECT, and without a wish for problem information there is none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use waypost_broker::{
    Authenticate, Authorise, Broker, ConnectAttempt, Limits, Principal, Refusal, Retain, Verdict,
};

use crate::wire::{
    self, Ack, Codes, ConnAck, Connect, MAXIMUM_PACKET_SIZE, Packet, Property, Publish, REASON_STRING,
    RECEIVE_MAXIMUM, REQUEST_PROBLEM, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, USER_PROPERTY, Version,
};

/// Lets everybody in but the client id `stolen` and whoever has a password that is not `secret`; everything is allowed but what
/// begins with `forbidden`.
struct Open;

impl Authenticate for Open {
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        if attempt.client_id == "stolen" {
            return Err(Refusal::ClientIdNotAllowed);
        }
        if attempt.password.is_some_and(|password| password != b"secret") {
            return Err(Refusal::BadCredentials);
        }
        // Each of its own name, so that none is held to account for another's sessions.
        Ok(Principal::new(attempt.client_id, attempt.client_id))
    }
}

impl Authorise for Open {
    fn may_publish(&self, _: &Principal, topic: &str, _: Retain) -> Verdict {
        Verdict::allow_if(!topic.starts_with("forbidden"))
    }

    fn may_subscribe(&self, _: &Principal, filter: &str) -> Verdict {
        Verdict::allow_if(!filter.starts_with("forbidden"))
    }
}

/// A broker with the bounds that it has by default.
pub(crate) fn broker() -> Broker {
    broker_with(Limits::default())
}

pub(crate) fn broker_with(limits: Limits) -> Broker {
    Broker::new(limits, Arc::new(Open), Arc::new(Open))
}

/// Waits until everybody else waits: the clock of a paused runtime moves only then.
pub(crate) async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Lets time pass, and everybody do what they do about it.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    idle().await;
}

/// Longer than any wait of the broker: what has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(7_200);

pub(crate) struct Client {
    stream: DuplexStream,
    version: Version,
    read: Vec<u8>,
    /// Received, and not what was asked for at that time.
    pending: VecDeque<Packet>,
    connected: bool,
    disconnected: bool,
    packet_bytes_max: usize,
    alias_max: u16,
    aliases: BTreeMap<u16, String>,
    problems_wanted: bool,
    receive_maximum: usize,
    /// Messages of QoS 1 and 2 that the broker has to take for not acknowledged.
    unacknowledged: BTreeSet<u16>,
    last_packet_id: u16,
}

impl Client {
    /// A connection, and not a word on it.
    pub(crate) fn dial(broker: &Broker) -> Client {
        let (stream, far) = tokio::io::duplex(1024 * 1024);
        tokio::spawn(broker.serve_connection(far, SocketAddr::from(([127, 0, 0, 1], 1))));
        Client {
            stream,
            version: Version::V5,
            read: Vec::new(),
            pending: VecDeque::new(),
            connected: false,
            disconnected: false,
            packet_bytes_max: usize::MAX,
            alias_max: 0,
            aliases: BTreeMap::new(),
            problems_wanted: true,
            receive_maximum: usize::from(u16::MAX),
            unacknowledged: BTreeSet::new(),
            last_packet_id: 0,
        }
    }

    /// Connected, as it asked for.
    pub(crate) async fn join(broker: &Broker, connect: &Connect) -> Client {
        Client::enter(broker, connect).await.0
    }

    /// Connected without any wishes.
    pub(crate) async fn plain(broker: &Broker, version: Version, client_id: &str) -> Client {
        Client::join(broker, &Connect::new(version, client_id)).await
    }

    /// Connected, and what it was told.
    pub(crate) async fn enter(broker: &Broker, connect: &Connect) -> (Client, ConnAck) {
        let mut client = Client::dial(broker);
        let connack = client.connect(connect).await;
        assert_eq!(connack.code, 0, "{connack:?}");
        (client, connack)
    }

    /// Sends a CONNECT, and is answered.
    pub(crate) async fn connect(&mut self, connect: &Connect) -> ConnAck {
        self.accept_terms(connect);
        self.send(&connect.bytes()).await;
        match self.receive().await {
            Some(Packet::ConnAck(connack)) => connack,
            other => panic!("{other:?} instead of a CONNACK"),
        }
    }

    /// From here on the broker is held to what this CONNECT says, whoever sends it.
    pub(crate) fn accept_terms(&mut self, connect: &Connect) {
        self.version = connect.version;
        if connect.version == Version::V311 {
            return;
        }
        for property in &connect.properties {
            match property {
                Property::Four(MAXIMUM_PACKET_SIZE, bytes) => self.packet_bytes_max = *bytes as usize,
                Property::Two(TOPIC_ALIAS_MAXIMUM, aliases) => self.alias_max = *aliases,
                Property::Two(RECEIVE_MAXIMUM, messages) => self.receive_maximum = usize::from(*messages),
                Property::Byte(REQUEST_PROBLEM, wanted) => self.problems_wanted = *wanted == 1,
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // A broker that has closed already takes nothing more, which is what such a test is about.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next packet; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<Packet> {
        if let Some(packet) = self.pending.pop_front() {
            return Some(packet);
        }
        tokio::time::timeout(PATIENCE, self.receive_next())
            .await
            .expect("something comes, or the connection ends")
    }

    async fn receive_next(&mut self) -> Option<Packet> {
        loop {
            if let Some(length) = wire::whole_packet(&self.read) {
                let bytes: Vec<u8> = self.read.drain(..length).collect();
                let mut packet = Packet::read(&bytes, self.version);
                self.check(&mut packet, length);
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                assert!(
                    self.read.is_empty(),
                    "the end within a packet: {:02x?}",
                    self.read
                );
                return None;
            }
        }
    }

    /// The terms of the CONNECT; an alias is replaced by its topic.
    fn check(&mut self, packet: &mut Packet, length: usize) {
        assert!(
            length <= self.packet_bytes_max,
            "[MQTT-3.1.2-24] {length} bytes: {packet:?}"
        );
        assert!(!self.disconnected, "behind a DISCONNECT: {packet:?}");
        match packet {
            Packet::ConnAck(connack) => {
                assert!(!self.connected, "[MQTT-3.2.0-2] a second CONNACK");
                self.connected = connack.code == 0;
            }
            ref other => assert!(self.connected, "[MQTT-3.2.0-1] before the CONNACK: {other:?}"),
        }
        if !self.problems_wanted
            && !matches!(
                packet,
                Packet::Publish(_) | Packet::ConnAck(_) | Packet::Disconnect { .. }
            )
        {
            let told = |property: &Property| matches!(property.id(), REASON_STRING | USER_PROPERTY);
            assert!(
                !packet.properties().iter().any(told),
                "[MQTT-3.1.2-29] {packet:?}"
            );
        }
        match packet {
            Packet::Publish(publish) => self.check_publish(publish),
            Packet::Disconnect { .. } => self.disconnected = true,
            _ => {}
        }
    }

    fn check_publish(&mut self, publish: &mut Publish) {
        if let Some(Property::Two(_, alias)) = publish.property(TOPIC_ALIAS) {
            assert!(*alias <= self.alias_max, "[MQTT-3.1.2-26] alias {alias}");
            if publish.topic.is_empty() {
                publish.topic = self.aliases[alias].clone();
            } else {
                self.aliases.insert(*alias, publish.topic.clone());
            }
        }
        // [MQTT-4.7.3-1]
        assert!(!publish.topic.is_empty(), "{publish:?}");
        if publish.qos > 0 {
            let new = self.unacknowledged.insert(publish.packet_id);
            assert!(new, "[MQTT-2.2.1-4] in use: {publish:?}");
            assert!(
                self.unacknowledged.len() <= self.receive_maximum,
                "[MQTT-3.3.4-9] {publish:?}"
            );
        }
    }

    /// The first packet for which `which` holds; others stay where they are.
    async fn find<T>(&mut self, which: impl Fn(&Packet) -> Option<T>) -> T {
        let mut looked_at = 0;
        loop {
            if let Some((place, found)) = self
                .pending
                .iter()
                .enumerate()
                .skip(looked_at)
                .find_map(|(place, packet)| Some((place, which(packet)?)))
            {
                self.pending.remove(place);
                return found;
            }
            looked_at = self.pending.len();
            let next = tokio::time::timeout(PATIENCE, self.receive_next()).await;
            match next {
                Ok(Some(packet)) => self.pending.push_back(packet),
                Ok(None) => panic!("the connection has ended; came before: {:?}", self.pending),
                Err(_) => panic!("it does not come; came before: {:?}", self.pending),
            }
        }
    }

    fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id += 1;
        self.last_packet_id
    }

    /// Sends a PUBLISH as it stands.
    pub(crate) async fn publish(&mut self, publish: &Publish) {
        let bytes = publish.bytes(self.version);
        self.send(&bytes).await;
    }

    /// Publishes with QoS 1, and is acknowledged.
    pub(crate) async fn say(&mut self, topic: &str, payload: &str) {
        let publish = Publish::new(topic, payload).qos(1, self.next_packet_id());
        self.publish_and_expect_success(&publish).await;
    }

    /// Publishes whatever its QoS, to the end of its flow.
    pub(crate) async fn publish_and_expect_success(&mut self, publish: &Publish) {
        self.publish(publish).await;
        match publish.qos {
            0 => self.synchronise().await,
            1 => {
                let ack = self.expect_puback().await;
                assert_eq!((ack.packet_id, ack.code), (publish.packet_id, 0), "{ack:?}");
            }
            _ => {
                let ack = self.expect_pubrec().await;
                assert_eq!((ack.packet_id, ack.code), (publish.packet_id, 0), "{ack:?}");
                self.send(&wire::ack(wire::PUBREL, publish.packet_id, 0)).await;
                let ack = self.expect_pubcomp().await;
                assert_eq!((ack.packet_id, ack.code), (publish.packet_id, 0), "{ack:?}");
            }
        }
    }

    /// Subscribes to one filter, and is granted what it asks for.
    pub(crate) async fn subscribe(&mut self, filter: &str, options: u8) {
        let codes = self.subscribe_all(&[], &[(filter, options)]).await;
        assert_eq!(codes, [options & 0b11], "{filter}");
    }

    /// Subscribes to one filter under an identifier, and is granted what it asks for.
    pub(crate) async fn subscribe_as(&mut self, id: u32, filter: &str, options: u8) {
        let properties = [Property::Variable(wire::SUBSCRIPTION_ID, id)];
        let codes = self.subscribe_all(&properties, &[(filter, options)]).await;
        assert_eq!(codes, [options & 0b11], "{filter}");
    }

    /// Subscribes, and is answered.
    pub(crate) async fn subscribe_all(&mut self, properties: &[Property], filters: &[(&str, u8)]) -> Vec<u8> {
        let packet_id = self.next_packet_id();
        self.send(&wire::subscribe(self.version, packet_id, properties, filters))
            .await;
        let Codes {
            packet_id: answered,
            codes,
            ..
        } = self
            .find(|packet| match packet {
                Packet::SubAck(suback) => Some(suback.clone()),
                _ => None,
            })
            .await;
        assert_eq!(answered, packet_id);
        codes
    }

    /// Unsubscribes, and is answered.
    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let packet_id = self.next_packet_id();
        self.send(&wire::unsubscribe(self.version, packet_id, filters))
            .await;
        let unsuback = self
            .find(|packet| match packet {
                Packet::UnsubAck(unsuback) => Some(unsuback.clone()),
                _ => None,
            })
            .await;
        assert_eq!(unsuback.packet_id, packet_id);
        unsuback.codes
    }

    /// A ping and its answer: what was sent before it has been handled.
    pub(crate) async fn synchronise(&mut self) {
        self.send(&wire::PINGREQ).await;
        self.find(|packet| (*packet == Packet::PingResp).then_some(()))
            .await;
    }

    pub(crate) async fn expect_publish(&mut self) -> Publish {
        self.find(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
        .await
    }

    /// The next messages have these payloads; each is acknowledged as its QoS asks.
    pub(crate) async fn expect_texts(&mut self, payloads: &[&str]) {
        let mut received = Vec::new();
        for _ in payloads {
            received.push(self.take().await);
        }
        let received: Vec<&str> = received.iter().map(Publish::text).collect();
        assert_eq!(received, payloads);
    }

    /// The next message, acknowledged as its QoS asks.
    pub(crate) async fn take(&mut self) -> Publish {
        let publish = self.expect_publish().await;
        match publish.qos {
            0 => {}
            1 => self.acknowledge(wire::PUBACK, publish.packet_id, 0).await,
            _ => {
                self.acknowledge(wire::PUBREC, publish.packet_id, 0).await;
                let pubrel = self.expect_pubrel().await;
                assert_eq!((pubrel.packet_id, pubrel.code), (publish.packet_id, 0));
                self.acknowledge(wire::PUBCOMP, publish.packet_id, 0).await;
            }
        }
        publish
    }

    /// All messages that there are for it, each acknowledged as its QoS asks.
    pub(crate) async fn take_all(&mut self) -> Vec<Publish> {
        let mut all = Vec::new();
        loop {
            idle().await;
            self.synchronise().await;
            let is_publish = |packet: &Packet| matches!(packet, Packet::Publish(_));
            if !self.pending.iter().any(is_publish) {
                return all;
            }
            all.push(self.take().await);
        }
    }

    /// PUBACK, PUBREC or PUBCOMP for a message of the broker.
    pub(crate) async fn acknowledge(&mut self, first: u8, packet_id: u16, code: u8) {
        // What ends a flow frees its identifier.
        if first != wire::PUBREC || code >= 0x80 {
            self.unacknowledged.remove(&packet_id);
        }
        self.send(&wire::ack(first, packet_id, code)).await;
    }

    pub(crate) async fn expect_puback(&mut self) -> Ack {
        self.find(|packet| match packet {
            Packet::PubAck(ack) => Some(ack.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn expect_pubrec(&mut self) -> Ack {
        self.find(|packet| match packet {
            Packet::PubRec(ack) => Some(ack.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn expect_pubrel(&mut self) -> Ack {
        self.find(|packet| match packet {
            Packet::PubRel(ack) => Some(ack.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn expect_pubcomp(&mut self) -> Ack {
        self.find(|packet| match packet {
            Packet::PubComp(ack) => Some(ack.clone()),
            _ => None,
        })
        .await
    }

    /// Nothing has come, nothing comes when everybody has done what they have to, and the connection lives.
    pub(crate) async fn expect_nothing(&mut self) {
        idle().await;
        self.send(&wire::PINGREQ).await;
        let next = self.receive().await;
        assert_eq!(next, Some(Packet::PingResp));
    }

    /// MQTT 5: a DISCONNECT with this reason is next, and behind it the end. 3.1.1: the end is next.
    pub(crate) async fn expect_disconnect(&mut self, reason: u8) {
        if self.version == Version::V5 {
            match self.receive().await {
                Some(Packet::Disconnect { code, .. }) => {
                    assert_eq!(code, reason, "{code:#x}, not {reason:#x}");
                }
                other => panic!("{other:?} instead of a DISCONNECT {reason:#x}"),
            }
        }
        self.expect_closed().await;
    }

    /// The end is next.
    pub(crate) async fn expect_closed(&mut self) {
        assert_eq!(self.receive().await, None);
    }

    /// MQTT 5: a CONNACK or a DISCONNECT with one of these reasons, if any, and then the end. 3.1.1: the end is next.
    pub(crate) async fn expect_refused(&mut self, reasons: &[u8]) {
        match self.receive().await {
            None => return,
            Some(Packet::ConnAck(ConnAck { code, .. }) | Packet::Disconnect { code, .. })
                if self.version == Version::V5 =>
            {
                assert!(reasons.contains(&code), "{code:#x}, not one of {reasons:02x?}");
            }
            other => panic!("{other:?}"),
        }
        self.expect_closed().await;
    }

    /// Says goodbye, and is gone.
    pub(crate) async fn leave(mut self) {
        self.send(&wire::frame(0xE0, &[])).await;
        self.expect_closed().await;
        idle().await;
    }

    /// Gone without a word, and the broker has seen it.
    pub(crate) async fn cut(self) {
        drop(self);
        idle().await;
    }
}
