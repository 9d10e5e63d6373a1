//! The whole path of a packet, from bytes to bytes, driven by bytes: what the fuzz target and its property test run.
//!
//! Four clients without a network: each has what the task of a connection has, a decoder and an encoder around the core, and at
//! the other end the codec of a client. What is read from the input are the steps of a history: bytes that arrive, well-formed
//! packets so that a history gets somewhere, connections that are lost and sessions that are taken up again, time that passes,
//! permissions that come and go. After each step everything that must hold is looked at; what does not is a panic.
//!
//! A client `n` may read `d/n/#`, and `g/#` while it is in the group; anybody may publish on `d/` and `g/`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use super::decode::{Decoder, read_connect};
use super::encode::{Encoder, Wanted};
use super::message::{QoS, Version};
use super::packet::{Output, Packet};
use super::{ClientIdFrom, Core, Handled, Wake, gate};
use crate::auth::{Authorise, Principal, Retain, Verdict};
use crate::filter;
use crate::limits::{Limits, LinkLimits};
use crate::reason::Reason;

const CLIENTS: usize = 4;
/// Bytes for one client over which nothing is read from it.
const UNSENT_BYTES_MAX: usize = 4_096;
/// What comes on top of them: the answers to the packets of one turn, and one message.
const ANSWERS_BYTES_MAX: usize = 16 * 1_024;
const PACKETS_AT_ONCE: usize = 8;
/// Bytes of a history that make one packet.
const CHOICES: usize = 8;

fn limits() -> Limits {
    Limits {
        connections_max: 3,
        handshakes_max: 2,
        connect_bytes_max: 512,
        packet_bytes_max: 1_024,
        topic_levels_max: 5,
        topic_bytes_max: 40,
        subscriptions_max: 3,
        inflight_max: 3,
        queued_bytes_max: 800,
        detached_queued_bytes_max: 900,
        detached_bytes_max: 1_500,
        session_expiry_max: Duration::from_secs(50),
        sessions_max: 5,
        sessions_per_principal_max: 2,
        retained_max: 3,
        retained_bytes_max: 700,
        receive_maximum: 5,
        keep_alive_max_s: 60,
        topic_alias_max: 3,
        topic_alias_out_max: 2,
        ..Limits::default()
    }
}

const LINK_FILTERS: [&str; 2] = ["d/1/#", "g/longer/+"];
const LINK_LIMITS: LinkLimits = LinkLimits {
    queued_bytes_max: 600,
    hints_max: 3,
};

/// Topics of well-formed packets; the last ones may not be published.
const TOPICS: [&str; 16] = [
    "d/0/x",
    "d/1/x",
    "d/2/x",
    "d/3/x",
    "d/0/x/y",
    "d/1/x/y",
    "d/2/x/y",
    "d/3/x/y",
    "g/1",
    "g/1",
    "g/1/2",
    "g/2",
    "g",
    "g/longer/topic",
    "secret",
    "$SYS/x",
];
/// Filters of well-formed packets, `*` being the client's own number; the last ones may not be subscribed.
const FILTERS: [&str; 16] = [
    "d/*/#",
    "d/*/x",
    "d/*/+",
    "d/*/x/y",
    "g/#",
    "g/1",
    "g/+",
    "g/+/2",
    "$share/a/g/#",
    "$share/a/g/1",
    "$share/a/d/*/x",
    "d/+/x",
    "+/1/x",
    "$share/b/#",
    "#",
    "secret",
];

/// Runs one history.
///
/// # Panics
/// When something that must hold does not.
pub(crate) fn drive(input: &[u8], begin: Instant) {
    let mut world = World::new(begin);
    let mut dice = Dice { bytes: input };
    while let Some(first) = dice.next() {
        let who = usize::from(first >> 4) % CLIENTS;
        world.step(first & 0x0F, who, &mut dice);
        world.settle();
        world.check();
    }
    world.end();
}

/// The rest of the input; zeroes where it is used up.
struct Dice<'a> {
    bytes: &'a [u8],
}

impl<'a> Dice<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn roll(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.roll()) % all.len()]
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
}

/// Who is in the group, a bit a client.
struct Permissions {
    in_group: AtomicU8,
}

impl Permissions {
    fn may_read(&self, name: &str, requested: &str) -> bool {
        let in_group = name
            .parse::<u32>()
            .is_ok_and(|client| self.in_group.load(Ordering::Relaxed) >> client & 1 == 1);
        filter::contains(&format!("d/{name}/#"), requested)
            || (in_group && filter::contains("g/#", requested))
    }
}

impl Authorise for Permissions {
    fn may_publish(&self, _: &Principal, topic: &str, _: Retain) -> Verdict {
        Verdict::allow_if(topic.starts_with("d/") || topic.starts_with("g/"))
    }

    fn may_subscribe(&self, principal: &Principal, requested: &str) -> Verdict {
        Verdict::allow_if(self.may_read(&principal.name, requested))
    }
}

struct World {
    core: Core,
    permissions: Arc<Permissions>,
    limits: Limits,
    now: Instant,
    /// Slow, so that it holds back who publishes what it asked for.
    link: usize,
    clients: [Client; CLIENTS],
    assigned: u32,
}

/// One client, and the task of its connection.
enum Client {
    Away,
    /// Without a whole CONNECT.
    Handshake(BytesMut),
    Connected(Box<Connected>),
}

struct Connected {
    key: usize,
    version: Version,
    decoder: Decoder,
    encoder: Encoder,
    input: BytesMut,
    inbox: VecDeque<Packet>,
    unreadable: Option<Reason>,
    paused: bool,
    ended: bool,
    unsent: BytesMut,
    /// What the client makes of what it was sent.
    reader: Reader,
}

/// The client's side of what it receives.
struct Reader {
    bytes: BytesMut,
    aliases: Vec<Option<Bytes>>,
    packet_bytes_max: usize,
    /// The acknowledgements of what it has read.
    owed: BytesMut,
    /// What the core gave out, in its order.
    expected: VecDeque<(Arc<str>, Bytes)>,
}

impl World {
    fn new(begin: Instant) -> World {
        let permissions = Arc::new(Permissions {
            in_group: AtomicU8::new(0b0111),
        });
        let mut core = Core::new(limits(), permissions.clone());
        let link = core.open_link("link".into(), LINK_LIMITS);
        for filter in LINK_FILTERS {
            core.subscribe_link(link, filter, QoS::AtLeastOnce, begin)
                .expect("the filters are well formed");
        }
        World {
            core,
            permissions,
            limits: limits(),
            now: begin,
            link,
            clients: [const { Client::Away }; CLIENTS],
            assigned: 0,
        }
    }

    fn step(&mut self, step: u8, who: usize, dice: &mut Dice<'_>) {
        match step {
            0..=1 => {
                let count = usize::from(dice.roll());
                let bytes = dice.take(count);
                self.receive(who, bytes);
            }
            2 => self.leave(who),
            3..=9 => {
                // As many for each, so that the steps behind one stay what they are when it changes.
                let mut choices = Dice {
                    bytes: dice.take(CHOICES),
                };
                // Whoever was turned out comes back.
                if matches!(&self.clients[who], Client::Connected(connected) if connected.ended) {
                    self.leave(who);
                }
                let bytes = match &self.clients[who] {
                    Client::Connected(connected) => packet(who, connected.version, &mut choices),
                    _ => connect(who, &mut choices),
                };
                self.receive(who, &bytes);
            }
            10 => {
                let choices = dice.roll();
                self.read(who, usize::from(choices & 0x7F) * 32);
                if choices & 0x80 != 0 {
                    self.acknowledge(who);
                }
            }
            11 => {
                self.now += Duration::from_secs(u64::from(dice.roll() % 32));
                self.core.handle_due(self.now);
                for client in &self.clients {
                    if let Client::Connected(connected) = client {
                        self.core.handle_timeout(connected.key, self.now);
                    }
                }
            }
            12 => {
                let count = usize::from(dice.roll()) % 16;
                self.core.take(self.link, count, self.now, &mut VecDeque::new());
            }
            13 => {
                let (topic, choices) = (dice.one_of(&TOPICS), dice.roll());
                let payload = Bytes::from(vec![choices; usize::from(dice.roll())]);
                let retain = if choices & 1 == 0 { Retain::No } else { Retain::Yes };
                let qos = if choices & 2 == 0 {
                    QoS::AtMostOnce
                } else {
                    QoS::AtLeastOnce
                };
                let lifetime = (choices & 4 == 0).then(|| Duration::from_secs(u64::from(choices >> 4)));
                // Refused or not, there is nothing to undo.
                let _ = self
                    .core
                    .publish(self.link, topic, payload, qos, retain, lifetime, self.now);
            }
            14 => {
                // Into the group, or out of it: from then on nothing of it reaches the client.
                let before = self.permissions.in_group.fetch_xor(1 << who, Ordering::Relaxed);
                if before >> who & 1 == 1 {
                    let name = who.to_string();
                    self.core.revoke_subscriptions(
                        |principal| *principal.name == *name,
                        |wanted| filter::contains("g/#", wanted),
                    );
                }
            }
            _ => {
                let name = who.to_string();
                self.core.disconnect(
                    |principal| *principal.name == *name,
                    Reason::Administrative,
                    self.now,
                );
            }
        }
    }

    /// The connection is gone.
    fn leave(&mut self, who: usize) {
        if let Client::Connected(connected) = std::mem::replace(&mut self.clients[who], Client::Away) {
            self.core.release(connected.key, self.now);
        }
    }

    /// Bytes arrive from a client; its first make a connection.
    fn receive(&mut self, who: usize, bytes: &[u8]) {
        match std::mem::replace(&mut self.clients[who], Client::Away) {
            Client::Away => self.shake_hands(who, BytesMut::from(bytes)),
            Client::Handshake(mut input) => {
                input.extend_from_slice(bytes);
                self.shake_hands(who, input);
            }
            Client::Connected(mut connected) => {
                connected.input.extend_from_slice(bytes);
                self.clients[who] = Client::Connected(connected);
                self.turn(who);
            }
        }
    }

    fn shake_hands(&mut self, who: usize, mut input: BytesMut) {
        let mut connect = match read_connect(&mut input, &self.limits) {
            Ok(Some(connect)) => connect,
            Ok(None) => {
                assert!(
                    input.len() < self.limits.connect_bytes_max,
                    "a CONNECT is held beyond its bound"
                );
                self.clients[who] = Client::Handshake(input);
                return;
            }
            Err(_) => return,
        };
        let mut client_id_from = ClientIdFrom::Client;
        if connect.client_id.is_empty() {
            client_id_from = ClientIdFrom::Server;
            self.assigned += 1;
            connect.client_id = format!("auto-{}", self.assigned);
        }
        let principal = Principal::new(who.to_string(), connect.client_id.as_str());
        let wanted = Wanted::by(&connect);
        let (version, alias_max) = (wanted.version, wanted.topic_alias_max);
        let packet_bytes_max = connect
            .packet_bytes_max
            .map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let Ok(key) = self.core.connect(connect, principal, client_id_from, self.now) else {
            return;
        };
        self.clients[who] = Client::Connected(Box::new(Connected {
            key,
            version,
            decoder: Decoder::new(version, &self.limits),
            encoder: Encoder::new(wanted, &self.limits),
            input,
            inbox: VecDeque::new(),
            unreadable: None,
            paused: false,
            ended: false,
            unsent: BytesMut::new(),
            reader: Reader {
                bytes: BytesMut::new(),
                aliases: vec![None; usize::from(alias_max)],
                packet_bytes_max,
                owed: BytesMut::new(),
                expected: VecDeque::new(),
            },
        }));
        self.turn(who);
    }

    /// What a connection's task does until it has to wait.
    fn turn(&mut self, who: usize) {
        let Client::Connected(connected) = &mut self.clients[who] else {
            return;
        };
        let name = who.to_string();
        loop {
            let handled = connected.handle_input(&mut self.core, self.now);
            let room = UNSENT_BYTES_MAX.saturating_sub(connected.unsent.len());
            let mut outputs = Vec::new();
            let drained = self.core.drain(connected.key, room, self.now, &mut outputs);
            for output in &outputs {
                if let Output::Publish(delivery) = output {
                    let message = &delivery.message;
                    assert!(
                        self.permissions.may_read(&name, &message.topic),
                        "{who} may not read {}",
                        message.topic
                    );
                    assert!(
                        delivery.dup || !message.is_expired(self.now),
                        "sent first after it expired"
                    );
                    connected
                        .reader
                        .expected
                        .push_back((message.topic.clone(), message.payload.clone()));
                }
                let before = connected.unsent.len();
                connected.encoder.write(output, self.now, &mut connected.unsent);
                let packet_bytes = connected.unsent.len() - before;
                assert!(
                    packet_bytes <= connected.reader.packet_bytes_max,
                    "{packet_bytes} bytes for a client that takes {}",
                    connected.reader.packet_bytes_max
                );
            }
            connected.ended |= drained.ended.is_some();
            assert!(connected.unsent.len() <= UNSENT_BYTES_MAX + ANSWERS_BYTES_MAX);
            let goes_on = handled > 0 || (drained.more && room > 0);
            if connected.ended || !goes_on {
                return;
            }
        }
    }

    /// The client takes some of what it was sent.
    fn read(&mut self, who: usize, count: usize) {
        if let Client::Connected(connected) = &mut self.clients[who] {
            let count = count.min(connected.unsent.len());
            let bytes = connected.unsent.split_to(count);
            connected.reader.take_in(&bytes, connected.version);
        }
        self.turn(who);
    }

    /// The client answers what it has read, as it should.
    fn acknowledge(&mut self, who: usize) {
        let Client::Connected(connected) = &mut self.clients[who] else {
            return;
        };
        let owed = std::mem::take(&mut connected.reader.owed);
        self.receive(who, &owed);
    }

    /// Lets those go on whom the core woke.
    fn settle(&mut self) {
        while let Some(wake) = self.core.poll_wake() {
            let Wake::Connection(key) = wake else {
                continue;
            };
            let woken = self
                .clients
                .iter()
                .position(|client| matches!(client, Client::Connected(connected) if connected.key == key));
            if let Some(who) = woken {
                self.turn(who);
            }
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        let (core, limits) = (&self.core, &self.limits);
        assert!(core.live() <= limits.connections_max);
        assert!(core.connections.len() <= limits.connections_max + limits.handshakes_max);
        assert!(core.sessions.len() <= limits.sessions_max);
        assert!(core.retained.len() <= limits.retained_max);
        assert!(core.retained.bytes() <= limits.retained_bytes_max);
        // Retained messages that the link asked for come on top, and it asked when there were none.
        assert!(core.link_queued_bytes(self.link) <= LINK_LIMITS.queued_bytes_max);
        let stats = core.stats();
        assert!(stats.detached_bytes <= limits.detached_bytes_max);
        let mut subscriptions = core.links[self.link].filters.len();
        let (mut queued_bytes, mut detached_bytes, mut inflight, mut detached, mut due) = (0, 0, 0, 0, 0);
        for (key, session) in core.sessions.iter() {
            assert!(session.queued_bytes() <= limits.queued_bytes_max + limits.detached_queued_bytes_max);
            assert!(session.filters.len() <= limits.subscriptions_max);
            assert!(session.replays.len() <= session.filters.len());
            assert_eq!(core.clients.get(&session.principal.client_id), Some(&key));
            queued_bytes += session.queued_bytes();
            inflight += session.inflight();
            match session.connection {
                Some(connection) => {
                    assert_eq!(core.connections[connection].session, Some(key));
                    assert_eq!(session.due_at(), None);
                }
                None => {
                    assert!(session.is_kept() && core.sessions.kept_of(&session.principal.name) > 0);
                    assert!(session.due_at().is_some_and(|at| core.due.contains(&(at, key))));
                    (detached, due) = (detached + 1, due + 1);
                    detached_bytes += session.queued_bytes();
                }
            }
            subscriptions += session.filters.len();
        }
        assert_eq!(
            core.trie.len(),
            subscriptions,
            "the trie holds what nobody subscribed"
        );
        assert_eq!(
            (
                stats.queued_bytes,
                stats.detached_bytes,
                stats.inflight,
                stats.detached,
                core.due.len()
            ),
            (queued_bytes, detached_bytes, inflight, detached, due),
            "a sum is not what the sessions hold"
        );
    }

    /// Everybody leaves for good, the link takes what is owed, and nothing is left.
    fn end(mut self) {
        for who in 0..CLIENTS {
            self.read(who, usize::MAX);
            self.leave(who);
        }
        self.now += Duration::from_secs(3_600);
        self.core.handle_due(self.now);
        while !self.core.is_empty()
            || self.core.link_queued_bytes(self.link) > 0
            || self.core.stats().connections > 0
        {
            self.core.take(self.link, 100, self.now, &mut VecDeque::new());
        }
        let stats = self.core.stats();
        assert_eq!(
            (
                stats.sessions,
                stats.subscriptions,
                stats.queued_bytes,
                stats.inflight
            ),
            (0, LINK_FILTERS.len(), 0, 0)
        );
        assert_eq!(self.core.next_due(), None);
    }
}

impl Connected {
    /// Has packets handled, as many as one turn may; how many there were.
    fn handle_input(&mut self, core: &mut Core, now: Instant) -> usize {
        let may_read = !self.paused && self.unreadable.is_none() && self.unsent.len() < UNSENT_BYTES_MAX;
        while may_read && self.inbox.len() < PACKETS_AT_ONCE {
            let before = self.input.len();
            match self.decoder.read(&mut self.input) {
                Ok(Some(packet)) => {
                    assert!(self.input.len() < before, "a packet of no bytes");
                    self.inbox.push_back(packet);
                }
                Ok(None) => break,
                Err(reason) => self.unreadable = Some(reason),
            }
            if self.unreadable.is_some() {
                break;
            }
        }
        self.paused = false;
        let mut handled = 0;
        while let Some(packet) = self.inbox.pop_front() {
            match core.handle(self.key, packet, now) {
                Handled::Done => handled += 1,
                Handled::Paused(packet) => {
                    self.inbox.push_front(packet);
                    self.paused = true;
                    break;
                }
                Handled::Ended => self.inbox.clear(),
            }
        }
        if let (Some(reason), false) = (self.unreadable, self.paused) {
            core.fail(self.key, reason, now);
        }
        handled
    }
}

impl Reader {
    /// Reads packets as a client does: each is one that a server may send, and messages are what the core gave out.
    fn take_in(&mut self, bytes: &[u8], version: Version) {
        self.bytes.extend_from_slice(bytes);
        while let Ok(Some(header)) = gate::header(&self.bytes)
            && self.bytes.len() >= header.frame_bytes
        {
            let mut packet = self.bytes.split_to(header.frame_bytes);
            let message = match version {
                Version::V311 => match v4::Packet::read(&mut packet, usize::MAX) {
                    Ok(v4::Packet::Publish(publish)) => {
                        self.owe(publish.qos as u8, publish.pkid);
                        Some((Bytes::from(publish.topic), publish.payload))
                    }
                    Ok(v4::Packet::PubRel(release)) => {
                        self.owe(3, release.pkid);
                        None
                    }
                    Ok(_) => None,
                    Err(error) => panic!("a client cannot read what it is sent: {error}"),
                },
                Version::V5 => match v5::Packet::read(&mut packet, None) {
                    Ok(v5::Packet::Publish(publish)) => {
                        self.owe(publish.qos as u8, publish.pkid);
                        Some(self.resolve(publish))
                    }
                    Ok(v5::Packet::PubRel(release)) => {
                        self.owe(3, release.pkid);
                        None
                    }
                    Ok(_) => None,
                    Err(error) => panic!("a client cannot read what it is sent: {error}"),
                },
            };
            assert!(packet.is_empty(), "a packet with a rest");
            if let Some((topic, payload)) = message {
                let (expected, sent) = self
                    .expected
                    .pop_front()
                    .expect("no more messages than were given out");
                assert_eq!((&topic[..], payload), (expected.as_bytes(), sent));
            }
        }
    }

    /// The answer to a message of QoS 1 or 2, or to what follows: PUBACK, PUBREC, PUBCOMP.
    fn owe(&mut self, stage: u8, packet_id: u16) {
        let kind = match stage {
            0 => return,
            1 => 0x40,
            2 => 0x50,
            _ => 0x70,
        };
        let [high, low] = packet_id.to_be_bytes();
        self.owed.extend_from_slice(&[kind, 2, high, low]);
    }

    fn resolve(&mut self, publish: v5::Publish) -> (Bytes, Bytes) {
        let alias = publish.properties.and_then(|properties| properties.topic_alias);
        let Some(alias) = alias else {
            return (publish.topic, publish.payload);
        };
        let known = self
            .aliases
            .get_mut(usize::from(alias).wrapping_sub(1))
            .expect("an alias within what the client allows");
        if !publish.topic.is_empty() {
            *known = Some(publish.topic);
        }
        let topic = known.clone().expect("an alias that was established");
        (topic, publish.payload)
    }
}

/// A CONNECT that can be read; whether it is let in is another question.
fn connect(who: usize, dice: &mut Dice<'_>) -> BytesMut {
    let (choices, will_topic) = (dice.roll(), dice.one_of(&TOPICS));
    let (size, life) = (dice.roll(), dice.roll());
    // Half of the sessions outlive their connection.
    let expiry_s = if life & 1 == 0 {
        0
    } else {
        u32::from(life >> 4) * 4
    };
    let clean_start = life & 0b110 == 0b110;
    // Now and then somebody else's, which takes over.
    let client_id = match choices & 0x03 {
        0 => String::new(),
        1 => "shared".to_owned(),
        _ => format!("client-{who}"),
    };
    let (with_will, retain) = (choices & 0x10 != 0, choices & 0x20 != 0);
    let mut bytes = BytesMut::new();
    if choices & 0x04 == 0 {
        let connect = v5::Connect {
            keep_alive: 20,
            client_id,
            clean_start,
            properties: Some(v5::ConnectProperties {
                session_expiry_interval: Some(expiry_s),
                request_problem_info: (life & 0x08 != 0).then_some(0),
                receive_maximum: Some(u16::from(choices >> 6) + 1),
                max_packet_size: (choices & 0x08 != 0).then(|| u32::from(size) + 1),
                topic_alias_max: Some(u16::from(choices >> 6)),
                ..v5::ConnectProperties::new()
            }),
        };
        let will = with_will.then(|| {
            let properties = v5::LastWillProperties {
                delay_interval: Some(u32::from(life >> 5) * 4),
                payload_format_indicator: None,
                message_expiry_interval: None,
                content_type: None,
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            };
            v5::LastWill::new(will_topic, "gone", qos_of_5(size), retain, Some(properties))
        });
        connect
            .write(&will, &None, &mut bytes)
            .expect("a CONNECT of few bytes");
    } else {
        let mut connect = v4::Connect::new(client_id);
        connect.keep_alive = 20;
        connect.clean_session = expiry_s == 0 || connect.client_id.is_empty();
        connect.last_will = with_will.then(|| v4::LastWill::new(will_topic, "gone", qos_of_4(size), retain));
        v4::Packet::Connect(connect)
            .write(&mut bytes, usize::MAX)
            .expect("a CONNECT of few bytes");
    }
    bytes
}

/// A packet that can be read; whether it is allowed is another question.
fn packet(who: usize, version: Version, dice: &mut Dice<'_>) -> BytesMut {
    let (kind, choices) = (dice.roll() % 10, dice.roll());
    let topic = dice.one_of(&TOPICS);
    let filter = dice.one_of(&FILTERS).replace('*', &who.to_string());
    let packet_id = u16::from(choices >> 4) % 5 + 1;
    let mut bytes = BytesMut::new();
    match (kind, version) {
        (0..=3, Version::V311) => {
            let mut publish =
                v4::Publish::new(topic, qos_of_4(choices), vec![choices; usize::from(dice.roll())]);
            (publish.retain, publish.pkid) = (choices & 0x0C == 0x0C, packet_id);
            v4::Packet::Publish(publish).write(&mut bytes, usize::MAX)
        }
        .map(drop)
        .expect("a PUBLISH of few bytes"),
        (0..=3, Version::V5) => {
            let properties = v5::PublishProperties {
                message_expiry_interval: (choices & 0x24 == 0x24).then(|| u32::from(dice.roll() % 8)),
                // Seldom one that is none, or over the maximum.
                topic_alias: (choices & 0x10 != 0).then(|| match dice.roll() {
                    0 => 0,
                    1 => 4,
                    other => u16::from(other % 3) + 1,
                }),
                correlation_data: (choices & 0x20 != 0).then(|| Bytes::copy_from_slice(dice.take(3))),
                user_properties: vec![("name".into(), "value".into()); usize::from(choices >> 6)],
                ..v5::PublishProperties::default()
            };
            let named = if choices & 0xD0 == 0xD0 { "" } else { topic };
            let payload = vec![choices; usize::from(dice.roll())];
            let publish = v5::Publish {
                retain: choices & 0x0C == 0x0C,
                pkid: packet_id,
                ..v5::Publish::new(named, qos_of_5(choices), payload, Some(properties))
            };
            publish
                .write(&mut bytes)
                .map(drop)
                .expect("a PUBLISH of few bytes");
        }
        (4..=6, Version::V311) => {
            let subscribe = v4::Subscribe::new(filter, qos_of_4(choices));
            let subscribe = v4::Subscribe {
                pkid: packet_id,
                ..subscribe
            };
            v4::Packet::Subscribe(subscribe)
                .write(&mut bytes, usize::MAX)
                .map(drop)
                .expect("a SUBSCRIBE of few bytes");
        }
        (4..=6, Version::V5) => {
            let mut wanted = v5::Filter::new(filter, qos_of_5(choices));
            wanted.nolocal = choices & 0x04 != 0;
            wanted.preserve_retain = choices & 0x08 != 0;
            let properties = v5::SubscribeProperties {
                id: (choices & 0x10 != 0).then(|| usize::from(choices) * 100 + 1),
                user_properties: Vec::new(),
            };
            let subscribe = v5::Subscribe {
                pkid: packet_id,
                ..v5::Subscribe::new(wanted, Some(properties))
            };
            subscribe
                .write(&mut bytes)
                .map(drop)
                .expect("a SUBSCRIBE of few bytes");
        }
        (7, Version::V311) => v4::Packet::Unsubscribe(v4::Unsubscribe {
            pkid: packet_id,
            topics: vec![filter],
        })
        .write(&mut bytes, usize::MAX)
        .map(drop)
        .expect("an UNSUBSCRIBE of few bytes"),
        (7, Version::V5) => {
            let unsubscribe = v5::Unsubscribe {
                pkid: packet_id,
                ..v5::Unsubscribe::new(filter, None)
            };
            unsubscribe
                .write(&mut bytes)
                .map(drop)
                .expect("an UNSUBSCRIBE of few bytes");
        }
        // The same in both versions.
        (8, _) => {
            let kind = [0x40, 0x50, 0x62, 0x70][usize::from(choices & 0b11)];
            let [_, low] = packet_id.to_be_bytes();
            match version {
                Version::V5 if choices & 0x0C == 0x0C => bytes.extend_from_slice(&[kind, 3, 0, low, 0x92]),
                _ => bytes.extend_from_slice(&[kind, 2, 0, low]),
            }
        }
        _ if choices < 0xC0 => bytes.extend_from_slice(&[0xC0, 0]),
        _ => bytes.extend_from_slice(&[0xE0, 0]),
    }
    bytes
}

fn qos_of_4(choices: u8) -> QoS4 {
    match choices & 0x03 {
        0 => QoS4::AtMostOnce,
        1 => QoS4::AtLeastOnce,
        _ => QoS4::ExactlyOnce,
    }
}

fn qos_of_5(choices: u8) -> QoS5 {
    match choices & 0x03 {
        0 => QoS5::AtMostOnce,
        1 => QoS5::AtLeastOnce,
        _ => QoS5::ExactlyOnce,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// What the fuzz target has found worth keeping.
    fn corpus() -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/broker_packets");
        let mut kept: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        kept.sort();
        kept.into_iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    #[test]
    fn every_history_that_was_kept_holds() {
        let kept = corpus();
        assert!(kept.len() > 10, "{}", kept.len());
        for history in kept {
            drive(&history, Instant::now());
        }
    }

    /// A step that gets somewhere, as bytes.
    fn step() -> impl Strategy<Value = Vec<u8>> {
        let step = prop_oneof![
            1 => Just(0), 1 => Just(2), 60 => Just(3), 12 => Just(10), 2 => Just(11), 9 => Just(12), 20 => Just(13),
            5 => Just(14), 1 => Just(15),
        ];
        (0u8..4, step, prop::collection::vec(any::<u8>(), CHOICES)).prop_map(|(who, step, choices)| {
            let used = match step {
                2 | 14 | 15 => 0,
                10..=12 => 1,
                13 => 3,
                _ => CHOICES,
            };
            let mut bytes = vec![who << 4 | step];
            bytes.extend_from_slice(&choices[..used]);
            if step == 0 {
                bytes[1] = 5;
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]
        #[test]
        fn no_history_breaks_what_must_hold(steps in prop::collection::vec(step(), 0..300)) {
            drive(&steps.concat(), Instant::now());
        }

        #[test]
        fn no_change_of_a_kept_history_breaks_what_must_hold(
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
        ) {
            let kept = corpus();
            let mut history: Vec<u8> = order.iter().flat_map(|index| kept[index.index(kept.len())].clone()).collect();
            for (place, value) in changes {
                if !history.is_empty() {
                    let place = place.index(history.len());
                    history[place] = value;
                }
            }
            drive(&history, Instant::now());
        }
    }
}
