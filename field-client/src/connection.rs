//! One MQTT connection on any byte stream, from CONNECT to its end.
//!
//! It writes in batches: the first flight (SUBSCRIBE, hello, presence) is one write, and so is whatever has gathered
//! while the last one was under way.
//!
//! It pings where nothing went in either direction for the interval that the path bears, or where something was sent and
//! nothing was received for the keep-alive: frames at QoS 0 are not answered, and a connection that carries nothing else may
//! be dead for long. It counts a connection as dead where nothing at all came for the answer timeout after something
//! that is answered was sent. While traffic flows both ways no ping leaves.
//!
//! PUBACKs wait up to a second for something that they can ride with: the server repeats nothing while the connection
//! lasts, and a packet of their own costs fifteen times as much as they do.
//!
//! Bounds: frames and events travel in channels of fixed length; while events find no room nothing is read, and while
//! 64 kB wait to be written nothing is read either. Packets that wait for their PUBACK: at most 32, or what the server
//! says if that is less; beyond it no frame is taken. Topics that wait for their SUBACK: those that the core names,
//! which bounds them.

use crate::captive;
use crate::core::{Grant, Outgoing, Qos, Topics};
use crate::packet::{
    ALIASES_MAX, ConnAck, ConnectFields, Limits, Packet, PublishFields, Retain, UP_ALIAS, Version,
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use waypost_proto::{DeviceId, GroupId, SessionTag, Topic, TopicPrefix, wire};

/// Frames and changes of topics that may wait for the connection: few, so that what is newer can still replace what is older.
pub(crate) const FRAMES_MAX: usize = 2;
/// Events that may wait for the engine.
pub(crate) const EVENTS_MAX: usize = 64;
const UNACKNOWLEDGED_MAX: usize = 32;
const OUT_BYTES_MAX: usize = 64 * 1024;
/// PUBACKs that wait at most: fewer than any server lets be under way without them.
const ACKS_MAX: usize = 8;
const ACKS_WAIT: Duration = Duration::from_secs(1);
const FIRST_PACKET_ID: u16 = 1;
/// What a connection that may be dead gets to show that it is not; three round trips where that is more.
const PROBE_TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// What a connection needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) device: DeviceId,
    pub(crate) secret: crate::Secret,
    pub(crate) prefix: TopicPrefix,
    pub(crate) version: Version,
    /// Of the hello that will be the first frame; stands in the will.
    pub(crate) tag: SessionTag,
    /// What was sent, and is not answered, may be followed by silence for this long.
    pub(crate) keep_alive_s: u16,
    /// What the CONNECT says: the longest that nothing is sent.
    pub(crate) ceiling_s: u16,
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
}

/// How a connection is to be looked after; changes while it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Care {
    /// The idle time after which a ping is due.
    pub(crate) interval: Duration,
    /// How often there was a reason to doubt that the connection still stands: with each, one ping leaves at once.
    pub(crate) doubts: u64,
}

/// What the engine hands to a connection; it leaves in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToServer {
    /// Subscriptions to begin and to end; those before the first frame go with the subscription of the device's own topic.
    Topics(Topics),
    Frame(Outgoing),
}

/// What happens on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The server has accepted the CONNECT; the hello is waited for.
    Connected,
    /// A frame on `d/<device>`.
    Frame(Bytes),
    /// A frame on `g/<group>`.
    GroupFrame(GroupId, Bytes),
    /// What is retained on `t/<locale>`.
    Catalogue(String, Bytes),
    /// The server's answers to one SUBSCRIBE.
    Subscribed(Vec<(Topic, Grant)>),
    /// The server did not take a packet of ours (its reason is logged); repetition deals with it.
    PublishRefused,
    /// The connection was idle for so long, and still stands.
    Survived(Duration),
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// We said good-bye.
    Closed,
    /// The server does not speak the version.
    VersionRefused,
    /// Trying again changes nothing; says what a person has to do.
    Refused(String),
    /// It never stood, or the server is not available.
    Broken(String),
    /// Who answered is not the server but the network on the way: it wants a person to sign in.
    Captive(String),
    /// It stood, and then broke.
    Lost(Lost),
}

/// How a connection was lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) why: String,
    /// How long it was idle before something was sent to which nothing came back.
    pub(crate) after_idle: Option<Duration>,
    /// There was a reason to doubt that it stands, and it did not show that it does.
    pub(crate) was_doubted: bool,
}

/// Speaks MQTT on `stream` until it ends, or until the sender of `frames` is gone, which says good-bye.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    settings: Settings,
    care: watch::Receiver<Care>,
    mut outgoing: mpsc::Receiver<ToServer>,
    events: mpsc::Sender<LinkEvent>,
) -> Ended {
    let connecting = connect(&mut stream, &settings);
    let began = Instant::now();
    let (limits, input) = match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Broken("the server did not answer the CONNECT in time".to_owned()),
    };
    if events.send(LinkEvent::Connected).await.is_err() {
        return Ended::Closed;
    }
    let mut connection = Connection::new(stream, settings, care, limits, input, events);
    connection.round_trip = began.elapsed();
    let mut topics = vec![Topic::Down(connection.settings.device)];
    let hello = loop {
        match outgoing.recv().await {
            None => return Ended::Closed,
            // Nothing is subscribed yet, so that nothing can be ended.
            Some(ToServer::Topics(more)) => topics.extend(more.subscribe),
            Some(ToServer::Frame(hello)) => break hello,
        }
    };
    connection.first_flight(topics, &hello);
    match connection.serve(&mut outgoing).await {
        Ok(()) => Ended::Closed,
        Err(Ended::Broken(why)) => Ended::Lost(Lost {
            why,
            after_idle: connection.idle,
            was_doubted: connection.doubted_until.is_some(),
        }),
        Err(ended) => ended,
    }
}

/// CONNECT and CONNACK. What came after the CONNACK is handed on.
async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    settings: &Settings,
) -> Result<(Limits, BytesMut), Ended> {
    let device = settings.device.to_string();
    let fields = ConnectFields {
        client_id: device.clone(),
        user: device,
        password: settings.secret.expose().to_owned(),
        keep_alive_s: settings.ceiling_s,
        will_topic: settings.prefix.name(&Topic::Presence(settings.device)),
        will_payload: presence(settings.tag, Presence::Offline),
    };
    let mut out = BytesMut::new();
    settings.version.connect(&fields, &mut out);
    stream
        .write_all(&out)
        .await
        .map_err(|error| broken("connecting", &error))?;
    stream
        .flush()
        .await
        .map_err(|error| broken("connecting", &error))?;
    let mut input = BytesMut::with_capacity(4_096);
    loop {
        if captive::is_http(&input) {
            return Err(Ended::Captive(captive::answered_as_a_web_page()));
        }
        let packet = settings
            .version
            .decode(&mut input)
            .map_err(|error| Ended::Broken(error.to_string()))?;
        match packet {
            Some(Packet::ConnAck(ConnAck::Accepted(limits))) => return Ok((limits, input)),
            Some(Packet::ConnAck(ConnAck::VersionRefused)) => return Err(Ended::VersionRefused),
            Some(Packet::ConnAck(ConnAck::Refused(advice))) => return Err(Ended::Refused(advice)),
            Some(Packet::ConnAck(ConnAck::Unavailable(why))) => return Err(Ended::Broken(why)),
            Some(_) => {
                return Err(Ended::Broken(
                    "the server sent something before its CONNACK".to_owned(),
                ));
            }
            None => {}
        }
        if stream
            .read_buf(&mut input)
            .await
            .map_err(|error| broken("connecting", &error))?
            == 0
        {
            return Err(Ended::Broken("the server closed before its CONNACK".to_owned()));
        }
    }
}

/// A connection that the server has accepted.
struct Connection<S> {
    stream: S,
    settings: Settings,
    care: watch::Receiver<Care>,
    events: mpsc::Sender<LinkEvent>,
    up_topic: String,
    down_topic: String,
    presence_topic: String,
    /// The longest that nothing is sent; zero where the server does not mind.
    ceiling: Duration,
    up_alias: UpAlias,
    unacknowledged_max: usize,
    unacknowledged: BTreeSet<u16>,
    next_packet_id: u16,
    /// What a SUBSCRIBE that has no answer asked for; nothing for an UNSUBSCRIBE.
    unanswered: BTreeMap<u16, Vec<Topic>>,
    ping_is_out: bool,
    aliases: BTreeMap<u16, Bytes>,
    input: BytesMut,
    out: BytesMut,
    acks: Acks,
    flush: Flush,
    last_sent: Instant,
    last_received: Instant,
    /// Whether anything was sent since.
    is_unheard: bool,
    /// How long nothing had gone in either direction before what was sent last, where that was about the interval.
    idle: Option<Duration>,
    ping_sent: Option<Instant>,
    round_trip: Duration,
    /// Those that were heeded.
    doubts: u64,
    /// Until then anything at all has to come.
    doubted_until: Option<Instant>,
    /// Since when an answer is waited for without any byte having come.
    silent_since: Option<Instant>,
}

/// PUBACKs that wait for something to ride with.
#[derive(Debug, Default)]
struct Acks {
    bytes: BytesMut,
    count: usize,
    due: Option<Instant>,
}

impl Acks {
    fn add(&mut self, version: Version, packet_id: u16) {
        version.puback(packet_id, &mut self.bytes);
        self.count += 1;
        self.due.get_or_insert_with(|| Instant::now() + ACKS_WAIT);
    }
}

/// How far the alias of `u/<device>` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpAlias {
    /// The server takes none.
    Unavailable,
    /// The next PUBLISH carries topic and alias.
    New,
    /// The alias stands for the topic.
    Established,
}

/// Whether written bytes have been flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    Done,
    Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Online,
    Offline,
}

/// What woke the connection.
enum Happened {
    Room,
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
    Flushed(std::io::Result<()>),
    Outgoing(Option<ToServer>),
    /// The connection may be dead; how often that was said.
    Doubt(u64),
    Time,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(
        stream: S,
        settings: Settings,
        care: watch::Receiver<Care>,
        limits: Limits,
        input: BytesMut,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let name = |topic| settings.prefix.name(&topic);
        let doubts = care.borrow().doubts;
        let has_alias = settings.version == Version::V5 && limits.aliases_max >= UP_ALIAS;
        Self {
            up_topic: name(Topic::Up(settings.device)),
            down_topic: name(Topic::Down(settings.device)),
            presence_topic: name(Topic::Presence(settings.device)),
            ceiling: Duration::from_secs(limits.keep_alive_s.unwrap_or(settings.ceiling_s).into()),
            up_alias: if has_alias {
                UpAlias::New
            } else {
                UpAlias::Unavailable
            },
            unacknowledged_max: UNACKNOWLEDGED_MAX.min(limits.unacknowledged_max.into()),
            unacknowledged: BTreeSet::new(),
            next_packet_id: FIRST_PACKET_ID,
            unanswered: BTreeMap::new(),
            ping_is_out: false,
            aliases: BTreeMap::new(),
            input,
            out: BytesMut::new(),
            acks: Acks::default(),
            flush: Flush::Done,
            last_sent: Instant::now(),
            last_received: Instant::now(),
            is_unheard: false,
            idle: None,
            ping_sent: None,
            round_trip: Duration::ZERO,
            doubts,
            doubted_until: None,
            silent_since: None,
            stream,
            settings,
            care,
            events,
        }
    }

    /// SUBSCRIBE, hello and presence, in one write. The hello is processed after the subscribe, as one connection
    /// keeps its order.
    ///
    /// Presence is said once a connection, under the tag of its first hello, which is that of its will.
    fn first_flight(&mut self, topics: Vec<Topic>, hello: &Outgoing) {
        self.subscribe(topics);
        self.publish_up(hello);
        self.publish_presence(Presence::Online);
        self.expect_answer();
    }

    async fn serve(&mut self, outgoing: &mut mpsc::Receiver<ToServer>) -> Result<(), Ended> {
        loop {
            let events_are_full = self.take_packets()?;
            if self.acks.count >= ACKS_MAX {
                self.release_acks();
            }
            let deadline = self.deadline();
            let may_read = !events_are_full && self.out.len() < OUT_BYTES_MAX;
            // What the stream has not let go of is not followed by more: what is newer may still replace it.
            let may_send = self.out.is_empty()
                && self.flush == Flush::Done
                && self.unacknowledged.len() < self.unacknowledged_max;
            let (events, input, out, flush) = (&self.events, &mut self.input, &mut self.out, self.flush);
            let may_write = !out.is_empty() || flush == Flush::Due;
            let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
            let write = async {
                if out.is_empty() {
                    Happened::Flushed(writer.flush().await)
                } else {
                    Happened::Wrote(writer.write_buf(out).await)
                }
            };
            let happened = tokio::select! {
                permit = events.reserve(), if events_are_full => match permit {
                    Ok(_) => Happened::Room,
                    Err(_) => return Ok(()),
                },
                read = reader.read_buf(input), if may_read => Happened::Read(read),
                happened = write, if may_write => happened,
                next = outgoing.recv(), if may_send => Happened::Outgoing(next),
                doubts = doubted(&mut self.care, self.doubts) => Happened::Doubt(doubts),
                () = tokio::time::sleep_until(deadline) => Happened::Time,
            };
            match happened {
                Happened::Room => {}
                Happened::Read(Ok(0)) => {
                    return Err(Ended::Broken("the server closed the connection".to_owned()));
                }
                Happened::Read(Ok(_)) => self.note_received(),
                Happened::Read(Err(error)) => return Err(broken("reading", &error)),
                Happened::Wrote(Ok(_)) => {
                    self.note_sent();
                    self.flush = Flush::Due;
                }
                Happened::Flushed(Ok(())) => self.flush = Flush::Done,
                Happened::Wrote(Err(error)) | Happened::Flushed(Err(error)) => {
                    return Err(broken("writing", &error));
                }
                Happened::Outgoing(Some(first)) => self.send_all(first, outgoing),
                Happened::Outgoing(None) => return self.say_good_bye().await,
                Happened::Doubt(doubts) => self.doubt(doubts),
                Happened::Time => self.handle_timeout()?,
            }
        }
    }

    /// Handles the packets that have come whole; true where events find no room.
    fn take_packets(&mut self) -> Result<bool, Ended> {
        loop {
            let Ok(permit) = self.events.try_reserve() else {
                return Ok(!self.events.is_closed());
            };
            let packet = self.settings.version.decode(&mut self.input);
            let Some(packet) = packet.map_err(|error| Ended::Broken(error.to_string()))? else {
                break;
            };
            match packet {
                Packet::Publish {
                    topic,
                    alias,
                    packet_id,
                    payload,
                } => {
                    let topic = resolve(&mut self.aliases, topic, alias)?;
                    if packet_id != 0 {
                        self.acks.add(self.settings.version, packet_id);
                    }
                    if topic == self.down_topic.as_bytes() {
                        permit.send(LinkEvent::Frame(payload));
                    } else if let Some(event) = self.read_shared(&topic, payload) {
                        permit.send(event);
                    }
                }
                Packet::PubAck { packet_id, refused } => {
                    self.unacknowledged.remove(&packet_id);
                    if let Some(reason) = refused {
                        tracing::warn!(device.id = %self.settings.device, reason, "the server did not take a packet");
                        permit.send(LinkEvent::PublishRefused);
                    }
                }
                Packet::SubAck { packet_id, refusals } => {
                    let topics = self.unanswered.remove(&packet_id).unwrap_or_default();
                    let answers = answers(self.settings.device, topics, refusals)?;
                    if !answers.is_empty() {
                        permit.send(LinkEvent::Subscribed(answers));
                    }
                }
                Packet::UnsubAck { packet_id } => {
                    self.unanswered.remove(&packet_id);
                }
                Packet::PingResp => {
                    self.ping_is_out = false;
                    self.round_trip = self.ping_sent.map_or(self.round_trip, |sent| sent.elapsed());
                }
                Packet::Disconnect { reason } => return Err(Ended::Broken(reason)),
                Packet::ConnAck(_) => {
                    return Err(Ended::Broken("the server sent a second CONNACK".to_owned()));
                }
                Packet::Other => {}
            }
        }
        if self.ping_is_out || !self.unacknowledged.is_empty() {
            self.expect_answer();
        }
        Ok(false)
    }

    /// What came on a topic that others hear too.
    fn read_shared(&self, topic: &[u8], payload: Bytes) -> Option<LinkEvent> {
        let name = std::str::from_utf8(topic).ok()?;
        match self.settings.prefix.parse(name).ok()? {
            Topic::Group(group) => Some(LinkEvent::GroupFrame(group, payload)),
            Topic::Templates(locale) => Some(LinkEvent::Catalogue(locale, payload)),
            Topic::Up(_) | Topic::Down(_) | Topic::Presence(_) | Topic::OwnTracks(..) => None,
        }
    }

    /// Everything that has gathered goes in one write.
    fn send_all(&mut self, first: ToServer, outgoing: &mut mpsc::Receiver<ToServer>) {
        self.release_acks();
        self.send(first);
        while self.unacknowledged.len() < self.unacknowledged_max
            && let Ok(next) = outgoing.try_recv()
        {
            self.send(next);
        }
    }

    fn release_acks(&mut self) {
        self.out.extend_from_slice(&self.acks.bytes);
        self.acks = Acks::default();
    }

    fn send(&mut self, next: ToServer) {
        match next {
            ToServer::Frame(frame) => self.publish_up(&frame),
            ToServer::Topics(topics) => {
                self.unsubscribe(&topics.unsubscribe);
                self.subscribe(topics.subscribe);
            }
        }
    }

    fn subscribe(&mut self, topics: Vec<Topic>) {
        if topics.is_empty() {
            return;
        }
        let filters: Vec<String> = topics
            .iter()
            .map(|topic| self.settings.prefix.name(topic))
            .collect();
        let packet_id = self.packet_id();
        self.settings
            .version
            .subscribe(&filters, packet_id, &mut self.out);
        self.unanswered.insert(packet_id, topics);
        self.expect_answer();
    }

    fn unsubscribe(&mut self, topics: &[Topic]) {
        if topics.is_empty() {
            return;
        }
        let filters = topics
            .iter()
            .map(|topic| self.settings.prefix.name(topic))
            .collect();
        let packet_id = self.packet_id();
        self.settings
            .version
            .unsubscribe(filters, packet_id, &mut self.out);
        self.unanswered.insert(packet_id, Vec::new());
        self.expect_answer();
    }

    fn publish_up(&mut self, frame: &Outgoing) {
        let packet_id = match frame.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => self.publish_id(),
        };
        let (topic, alias) = match self.up_alias {
            UpAlias::Unavailable => (self.up_topic.as_str(), None),
            UpAlias::New => (self.up_topic.as_str(), Some(UP_ALIAS)),
            UpAlias::Established => ("", Some(UP_ALIAS)),
        };
        let fields = PublishFields {
            topic,
            alias,
            qos: frame.qos,
            retain: Retain::No,
            packet_id,
            payload: &frame.payload,
        };
        self.settings.version.publish(fields, &mut self.out);
        if self.up_alias == UpAlias::New {
            self.up_alias = UpAlias::Established;
        }
        if packet_id != 0 {
            self.expect_answer();
        }
    }

    fn publish_presence(&mut self, state: Presence) {
        let packet_id = self.publish_id();
        let fields = PublishFields {
            topic: &self.presence_topic,
            alias: None,
            qos: Qos::AtLeastOnce,
            retain: Retain::Yes,
            packet_id,
            payload: &presence(self.settings.tag, state),
        };
        self.settings.version.publish(fields, &mut self.out);
    }

    /// [MQTT-2.2.1-3] a packet id that is not in use; 0 is none.
    fn packet_id(&mut self) -> u16 {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(FIRST_PACKET_ID);
            if !self.unacknowledged.contains(&id) && !self.unanswered.contains_key(&id) {
                return id;
            }
        }
    }

    /// The id of a PUBLISH; it is in use until the PUBACK.
    fn publish_id(&mut self) -> u16 {
        let id = self.packet_id();
        self.unacknowledged.insert(id);
        id
    }

    /// Presence goes offline by ourselves: a normal DISCONNECT keeps the server from publishing the will.
    async fn say_good_bye(&mut self) -> Result<(), Ended> {
        self.release_acks();
        self.publish_presence(Presence::Offline);
        self.settings.version.disconnect(&mut self.out);
        let out = std::mem::take(&mut self.out);
        let leaving = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        };
        match tokio::time::timeout(self.settings.answer_timeout, leaving).await {
            Ok(left) => left.map_err(|error| broken("closing", &error)),
            Err(_) => Err(Ended::Broken("the connection took no good-bye".to_owned())),
        }
    }

    fn expect_answer(&mut self) {
        self.silent_since.get_or_insert_with(Instant::now);
    }

    fn note_sent(&mut self) {
        let now = Instant::now();
        let idle = now - self.last_sent.max(self.last_received);
        // Sent by whoever, a little before a ping was due: it tells as much of the path.
        if idle >= self.interval().mul_f64(0.8) {
            self.idle = Some(idle);
        }
        (self.last_sent, self.is_unheard) = (now, true);
    }

    fn note_received(&mut self) {
        (self.last_received, self.is_unheard) = (Instant::now(), false);
        (self.silent_since, self.doubted_until) = (None, None);
        if let Some(idle) = self.idle.take() {
            // Where there is no room for it, the next one tells the same.
            let _ = self.events.try_send(LinkEvent::Survived(idle));
        }
    }

    /// The idle time after which a ping is due.
    fn interval(&self) -> Duration {
        let interval = self.care.borrow().interval;
        if self.ceiling.is_zero() {
            interval
        } else {
            interval.min(self.ceiling)
        }
    }

    /// When a ping is due; `None` while one is out.
    fn ping_due(&self) -> Option<Instant> {
        if self.ping_is_out {
            return None;
        }
        let interval = self.interval();
        let idle = self.last_sent.max(self.last_received) + interval;
        let keep_alive = Duration::from_secs(self.settings.keep_alive_s.into());
        let unheard = self
            .is_unheard
            .then(|| self.last_received + interval.max(keep_alive));
        // [MQTT-3.1.2-20] something is sent within the keep-alive of the CONNECT, whatever comes. A server that wants none
        // says 0. [MQTT-3.1.2.10]
        let unsent = (!self.ceiling.is_zero()).then(|| self.last_sent + self.ceiling);
        [Some(idle), unheard, unsent].into_iter().flatten().min()
    }

    fn deadline(&self) -> Instant {
        let dead = self
            .silent_since
            .map(|since| since + self.settings.answer_timeout);
        let never = self.last_sent + Duration::from_secs(24 * 3_600);
        [self.ping_due(), dead, self.acks.due, self.doubted_until]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(never)
    }

    fn handle_timeout(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let is_over = |since: Instant| since + self.settings.answer_timeout <= now;
        if self.silent_since.is_some_and(is_over) || self.doubted_until.is_some_and(|until| until <= now) {
            return Err(Ended::Broken("nothing comes from the server any more".to_owned()));
        }
        if self.acks.due.is_some_and(|due| due <= now) {
            self.release_acks();
        }
        if self.ping_due().is_some_and(|due| due <= now) {
            self.ping();
        }
        Ok(())
    }

    /// One ping, and little time for an answer.
    fn doubt(&mut self, doubts: u64) {
        self.doubts = doubts;
        if !self.ping_is_out {
            self.ping();
        }
        let timeout = (self.round_trip * 3).max(PROBE_TIMEOUT_MIN);
        self.doubted_until = Some(Instant::now() + timeout.min(self.settings.answer_timeout));
    }

    fn ping(&mut self) {
        self.settings.version.ping(&mut self.out);
        self.ping_is_out = true;
        self.ping_sent = Some(Instant::now());
        self.expect_answer();
    }
}

/// Waits until there is a further doubt.
async fn doubted(care: &mut watch::Receiver<Care>, known: u64) -> u64 {
    let doubts = care.wait_for(|care| care.doubts != known).await;
    match doubts.map(|care| care.doubts) {
        Ok(doubts) => doubts,
        // Nobody looks after it any more; it is about to be cut.
        Err(_) => std::future::pending().await,
    }
}

/// The answers of a SUBACK by topic, without the device's own: without that one there is nothing to be had here.
fn answers(
    device: DeviceId,
    topics: Vec<Topic>,
    refusals: Vec<Option<String>>,
) -> Result<Vec<(Topic, Grant)>, Ended> {
    // A filter without an answer is not granted.
    let missing = std::iter::repeat_with(|| Some("no answer".to_owned()));
    let mut answers = Vec::new();
    for (topic, refusal) in topics.into_iter().zip(refusals.into_iter().chain(missing)) {
        match (topic, refusal) {
            (Topic::Down(_), Some(reason)) => {
                let advice =
                    format!("the server does not let this device subscribe to its own topic ({reason})");
                return Err(Ended::Refused(advice));
            }
            (Topic::Down(_), None) => {}
            (topic, None) => answers.push((topic, Grant::Granted)),
            (topic, Some(reason)) => {
                tracing::warn!(device.id = %device, %topic, reason, "the server refused a subscription");
                answers.push((topic, Grant::Refused));
            }
        }
    }
    Ok(answers)
}

/// The topic of a PUBLISH of the server. [MQTT-3.3.2-7 ff.]
fn resolve(aliases: &mut BTreeMap<u16, Bytes>, topic: Bytes, alias: Option<u16>) -> Result<Bytes, Ended> {
    let Some(alias) = alias else { return Ok(topic) };
    if !(1..=ALIASES_MAX).contains(&alias) {
        return Err(Ended::Broken(
            "the server used a topic alias that was not offered".to_owned(),
        ));
    }
    if topic.is_empty() {
        let known = aliases.get(&alias).cloned();
        return known
            .ok_or_else(|| Ended::Broken("the server used a topic alias that it never set".to_owned()));
    }
    aliases.insert(alias, topic.clone());
    Ok(topic)
}

fn presence(tag: SessionTag, state: Presence) -> Vec<u8> {
    wire::Presence {
        tag: tag.number(),
        online: state == Presence::Online,
    }
    .encode_to_vec()
}

fn broken(doing: &str, error: &std::io::Error) -> Ended {
    Ended::Broken(format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests;
