//! The bridge's link to a broker elsewhere: rumqttc's client, as the bridge wants one.
//!
//! A task keeps the connection: MQTT 5 where the broker speaks it, 3.1.1 otherwise, clean sessions, a client and an event
//! loop of its own for each connection, so that nothing of one reaches the next. It connects for ever. The one rule: neither
//! direction waits for the other, and the bridge waits for neither. What the bridge publishes is taken into a bounded
//! queue or dropped and counted; what devices say waits in another, and while that is full the connection is not read.

use super::roll_call::RollCall;
use crate::broker_choice::{ExternalBroker, Login};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as v5_packets;
use rumqttc::{NetworkOptions, v5};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use waypost_bridge::link::{BrokerLink, LinkEvent, Retain, Subscriptions};
use waypost_proto::{DeviceId, Topic, TopicPrefix};

/// `to_broker_bytes_max`: what the bridge has published and the connection has not taken, each message counted as
/// [`MESSAGE_BYTES_MIN`] at least. At the bound a message is dropped, counted as `full`.
const TO_BROKER_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// What a message counts beside its topic and payload.
const MESSAGE_BYTES_MIN: usize = 128;
/// `from_broker_max`: messages that wait for the bridge. At the bound the connection is not read until there is room; at
/// worst they take as many times `mqtt.packet_size_max`.
const FROM_BROKER_MAX: usize = 128;
/// Messages of QoS 1 that the broker has not acknowledged; fewer where it asks for fewer.
const INFLIGHT_MAX: u16 = 256;
/// What a PUBLISH without properties has beside its topic and payload.
const HEADER_BYTES_MAX: usize = 16;
/// Requests between the queue above and the event loop.
const REQUESTS_MAX: usize = 16;
/// Silence after which the broker is asked for a sign of life; without one for as long again the connection is over.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time from the first packet to the answer to the subscriptions.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// How long a broker may take to say what it has kept; who is not in it is no longer online.
const ROLL_CALL_AFTER: Duration = Duration::from_secs(5);
/// The bound of the first pause before another attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A link to a broker elsewhere.
pub(crate) struct ExternalLink {
    to_broker: ToBroker,
    from_broker: mpsc::Receiver<LinkEvent>,
    /// The devices of which the operator has been told that their passwords are his to remove; as many as were revoked.
    told: BTreeSet<DeviceId>,
    /// Ends with the link.
    _connections: JoinSet<()>,
}

/// Whether the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Connected and subscribed.
    Stands,
    /// Not; with the reason, for the operator.
    Down(String),
}

impl ExternalLink {
    /// Begins to connect; the second value tells from then on whether the link stands. A packet of more than
    /// `packet_bytes_max` ends the connection.
    pub(crate) fn open(
        broker: ExternalBroker,
        prefix: &TopicPrefix,
        packet_bytes_max: usize,
    ) -> anyhow::Result<(Self, watch::Receiver<Standing>)> {
        let (standing, watching) = watch::channel(Standing::Down("not connected yet".to_owned()));
        let (sender, from_broker) = mpsc::channel(FROM_BROKER_MAX);
        let to_broker = ToBroker::default();
        let keeper = Keeper {
            client_id: client_id()?,
            broker,
            packet_bytes_max,
            filters: vec![prefix.every('u'), prefix.every('p'), prefix.every_owntracks()],
            prefix: prefix.clone(),
            roll_call: Mutex::default(),
            to_broker: to_broker.clone(),
            to_bridge: sender,
        };
        let mut connections = JoinSet::new();
        connections.spawn(keep(Arc::new(keeper), standing));
        let link = Self {
            to_broker,
            from_broker,
            told: BTreeSet::new(),
            _connections: connections,
        };
        Ok((link, watching))
    }
}

impl BrokerLink for ExternalLink {
    fn publish(&mut self, topic: String, payload: Bytes, retain: Retain) {
        if let Err(reason) = self.to_broker.offer(topic, payload, retain) {
            // The bridge's timers repeat it, and what is retained is published again when the link stands again.
            dropped(reason, 1);
        }
    }

    fn subscriptions(&self) -> Subscriptions {
        Subscriptions::LastAsLongAsTheirClients
    }

    /// Nothing: MQTT has no way to end the subscription of another client. The bridge sends nothing on a group's topic here.
    fn end_subscription(&mut self, _device: DeviceId, _topic: &str) {}

    fn disconnect(&mut self, device: DeviceId) {
        if self.told.insert(device) {
            tracing::info!(
                device.id = %device,
                "the credentials of device {device} do not hold any more, but the broker is not this server's: remove or change \
                 the password of user {device} there, and end its connection"
            );
        }
    }

    async fn next(&mut self) -> LinkEvent {
        self.from_broker.recv().await.unwrap_or(LinkEvent::Closed)
    }
}

fn dropped(reason: &'static str, messages: u64) {
    metrics::counter!("waypost_external_link_dropped_total", "reason" => reason).increment(messages);
}

/// Unlike that of any other server on the same broker, and of the run before: 23 letters and digits, as many as every
/// broker of 3.1.1 takes.
fn client_id() -> anyhow::Result<String> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random)
        .map_err(|error| anyhow::anyhow!("the system has no random numbers: {error}"))?;
    Ok(format!("waypost{:016x}", u64::from_le_bytes(random)))
}

/// A message on its way to the broker; its room in the queue is given back when it has left.
struct Outgoing {
    topic: String,
    payload: Bytes,
    retain: Retain,
    _room: OwnedSemaphorePermit,
}

/// The way to whichever connection stands.
#[derive(Clone)]
struct ToBroker {
    room: Arc<Semaphore>,
    /// `None` while no connection stands. Bounded by `room`.
    queue: Arc<Mutex<Option<mpsc::UnboundedSender<Outgoing>>>>,
}

impl Default for ToBroker {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(TO_BROKER_BYTES_MAX as usize)),
            queue: Arc::default(),
        }
    }
}

impl ToBroker {
    /// Queues a message, or says why it is dropped.
    fn offer(&self, topic: String, payload: Bytes, retain: Retain) -> Result<(), &'static str> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_ref().ok_or("down")?;
        let bytes = u32::try_from(topic.len() + payload.len() + MESSAGE_BYTES_MIN).map_err(|_| "full")?;
        let room = Arc::clone(&self.room);
        let room = room.try_acquire_many_owned(bytes).map_err(|_| "full")?;
        let message = Outgoing {
            topic,
            payload,
            retain,
            _room: room,
        };
        queue.send(message).map_err(|_| "down")
    }

    /// Lets messages through to a connection that stands, as long as the opened queue is kept.
    fn open(&self) -> OpenQueue {
        let (sender, messages) = mpsc::unbounded_channel();
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        OpenQueue {
            owner: self.clone(),
            messages,
        }
    }
}

/// The queue of one connection.
struct OpenQueue {
    owner: ToBroker,
    messages: mpsc::UnboundedReceiver<Outgoing>,
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        *self.owner.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        dropped("lost", self.messages.len() as u64);
    }
}

/// What all connections of a link share.
struct Keeper {
    broker: ExternalBroker,
    packet_bytes_max: usize,
    client_id: String,
    filters: Vec<String>,
    prefix: TopicPrefix,
    roll_call: Mutex<RollCall>,
    to_broker: ToBroker,
    to_bridge: mpsc::Sender<LinkEvent>,
}

/// Which protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V5,
    V311,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "MQTT 5",
            Self::V311 => "MQTT 3.1.1",
        })
    }
}

/// Why a connection is over.
#[derive(Debug)]
enum Ended {
    /// The other side does not speak this version, as far as one can tell from an older broker.
    OtherVersion(String),
    /// Anything else, in words.
    Lost(String),
    /// The bridge has gone.
    NoBridge,
}

/// Connects, for ever.
async fn keep(keeper: Arc<Keeper>, standing: watch::Sender<Standing>) {
    let at = keeper.broker.to_string();
    metrics::gauge!("waypost_external_link_up").set(0.0);
    let mut pause = Pause::default();
    loop {
        let begun = Instant::now();
        let mut ended = connection(&keeper, Version::V5, &standing).await;
        if let Ended::OtherVersion(_) = ended {
            ended = connection(&keeper, Version::V311, &standing).await;
        }
        let reason = match ended {
            Ended::NoBridge => return,
            Ended::OtherVersion(reason) | Ended::Lost(reason) => reason,
        };
        let before = standing.send_replace(Standing::Down(reason.clone()));
        metrics::gauge!("waypost_external_link_up").set(0.0);
        match &before {
            Standing::Stands => {
                tracing::warn!("the link to the broker at {at} is lost and will be made again: {reason}");
            }
            // Once for each new reason, not for each attempt.
            Standing::Down(earlier) if *earlier != reason => {
                tracing::warn!("there is no link to the broker at {at} yet: {reason}");
            }
            Standing::Down(_) => {}
        }
        let stood = match before {
            Standing::Stands => begun.elapsed(),
            Standing::Down(_) => Duration::ZERO,
        };
        tokio::time::sleep(pause.after(stood)).await;
    }
}

/// One connection, in a task of its own: what a broker sends may not end the link, whatever it makes of the client.
async fn connection(keeper: &Arc<Keeper>, version: Version, standing: &watch::Sender<Standing>) -> Ended {
    let mut task = JoinSet::new();
    task.spawn(run(Arc::clone(keeper), version, standing.clone()));
    match task.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => Ended::Lost(format!("the client failed: {error}")),
        None => Ended::Lost("the client did not start".to_owned()),
    }
}

async fn run(keeper: Arc<Keeper>, version: Version, standing: watch::Sender<Standing>) -> Ended {
    let (client, mut events) = keeper.client(version);
    keeper.roll_call().begin();
    let subscribed = tokio::time::timeout(OPEN_MAX, subscribe(&keeper, &client, &mut events)).await;
    let taken_bytes_max = match subscribed {
        Ok(Ok(taken_bytes_max)) => taken_bytes_max,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Lost("it does not answer".to_owned()),
    };
    // First the queue: what the bridge publishes because the link stands must find it.
    let mut queue = keeper.to_broker.open();
    if keeper.to_bridge.send(LinkEvent::Opened).await.is_err() {
        return Ended::NoBridge;
    }
    standing.send_replace(Standing::Stands);
    metrics::gauge!("waypost_external_link_up").set(1.0);
    tracing::info!("the link to the broker at {} stands ({version})", keeper.broker);
    // Futures of one task: the client may wait for the event loop, never the event loop for the client; and no poll of it
    // is given up half way, as that would lose a packet.
    tokio::select! {
        ended = receive(&keeper, &mut events) => ended,
        ended = send(&client, &mut queue.messages, taken_bytes_max) => ended,
        ended = call_roll(&keeper) => ended,
    }
}

/// Connects and subscribes, and gives the size of the largest packet that the broker takes; messages that come with its
/// answer are passed on before.
async fn subscribe(keeper: &Keeper, client: &Client, events: &mut Events) -> Result<usize, Ended> {
    let taken_bytes_max = loop {
        if let Happened::Connected { taken_bytes_max } = events.next().await? {
            break taken_bytes_max;
        }
    };
    client.subscribe(&keeper.filters)?;
    loop {
        match events.next().await.map_err(Ended::in_known_version)? {
            Happened::Connected { .. } | Happened::Nothing | Happened::NotTaken => {}
            Happened::Subscribed(granted) => {
                let refused = keeper
                    .filters
                    .iter()
                    .zip(granted.iter().chain(std::iter::repeat(&false)));
                let refused: Vec<&str> = refused
                    .filter(|(_, granted)| !**granted)
                    .map(|(filter, _)| filter.as_str())
                    .collect();
                if refused.is_empty() {
                    return Ok(taken_bytes_max);
                }
                return Err(Ended::Lost(format!(
                    "it does not let this server subscribe {}; give its user the right to",
                    refused.join(" and ")
                )));
            }
            Happened::Message(message) => keeper.pass_on(message).await?,
        }
    }
}

async fn receive(keeper: &Keeper, events: &mut Events) -> Ended {
    let mut warned = false;
    loop {
        let passed_on = match events.next().await {
            Ok(Happened::Message(message)) => keeper.pass_on(message).await,
            Ok(Happened::NotTaken) => {
                dropped("refused", 1);
                if !std::mem::replace(&mut warned, true) {
                    tracing::error!(
                        "the broker at {} refuses what this server publishes; give its user the right to write d/+ and t/+",
                        keeper.broker
                    );
                }
                Ok(())
            }
            Ok(Happened::Connected { .. } | Happened::Subscribed(_) | Happened::Nothing) => Ok(()),
            Err(ended) => Err(ended),
        };
        if let Err(ended) = passed_on {
            return ended.in_known_version();
        }
    }
}

async fn send(
    client: &Client,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    taken_bytes_max: usize,
) -> Ended {
    let mut warned = false;
    while let Some(message) = queue.recv().await {
        if message.topic.len() + message.payload.len() + HEADER_BYTES_MAX > taken_bytes_max {
            // Sent, it would end the connection, and repeated the next one.
            dropped("too_large", 1);
            if !std::mem::replace(&mut warned, true) {
                tracing::error!(
                    "the broker takes packets of {taken_bytes_max} bytes and this server has larger ones; let it take those of a \
                     frame of 65,536 bytes"
                );
            }
            continue;
        }
        if let Err(ended) = client.publish(message).await {
            return ended;
        }
    }
    Ended::NoBridge
}

/// Tells the bridge, once, who was online in an earlier connection and is not in this one.
async fn call_roll(keeper: &Keeper) -> Ended {
    tokio::time::sleep(ROLL_CALL_AFTER).await;
    loop {
        // The room first: between the look and the word a device could come back.
        let Ok(room) = keeper.to_bridge.reserve().await else {
            return Ended::NoBridge;
        };
        // Not in the `match`, which would hold the lock over the next round.
        let missing = keeper.roll_call().take_missing();
        match missing {
            Some(device) => room.send(LinkEvent::Disconnected {
                client_id: device.to_string(),
            }),
            None => break,
        }
    }
    std::future::pending().await
}

/// A message as it came.
struct Incoming {
    topic: Bytes,
    payload: Bytes,
    retained: bool,
}

/// What a connection told.
enum Happened {
    Connected {
        /// The largest packet that the broker takes.
        taken_bytes_max: usize,
    },
    /// For each filter, whether it was granted.
    Subscribed(Vec<bool>),
    Message(Incoming),
    /// The broker did not want a message; only MQTT 5 says so.
    NotTaken,
    Nothing,
}

impl Ended {
    /// Once a broker has answered in a version, it is not for the version that a connection ends.
    fn in_known_version(self) -> Self {
        match self {
            Self::OtherVersion(reason) => Self::Lost(reason),
            other => other,
        }
    }
}

impl Keeper {
    fn client(&self, version: Version) -> (Client, Events) {
        let ExternalBroker { host, port, login } = self.broker.clone();
        let packet_bytes_max = self.packet_bytes_max;
        // The library puts a colon and the port behind it.
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        match version {
            Version::V5 => {
                let mut options = v5::MqttOptions::new(&self.client_id, host, port);
                options
                    .set_keep_alive(KEEP_ALIVE)
                    .set_clean_start(true)
                    .set_max_packet_size(u32::try_from(packet_bytes_max).ok())
                    .set_outgoing_inflight_upper_limit(INFLIGHT_MAX)
                    .set_network_options(network);
                if let Some(Login { user, password }) = login {
                    options.set_credentials(user, password);
                }
                let (client, events) = v5::AsyncClient::new(options, REQUESTS_MAX);
                (Client::V5(client), Events::V5(Box::new(events)))
            }
            Version::V311 => {
                let mut options = rumqttc::MqttOptions::new(&self.client_id, host, port);
                options
                    .set_keep_alive(KEEP_ALIVE)
                    .set_clean_session(true)
                    .set_max_packet_size(packet_bytes_max, packet_bytes_max)
                    .set_inflight(INFLIGHT_MAX);
                if let Some(Login { user, password }) = login {
                    options.set_credentials(user, password);
                }
                let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
                events.set_network_options(network);
                (Client::V311(client), Events::V311(Box::new(events)))
            }
        }
    }

    fn roll_call(&self) -> MutexGuard<'_, RollCall> {
        self.roll_call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message to the bridge; waits while its queue is full.
    async fn pass_on(&self, message: Incoming) -> Result<(), Ended> {
        let Incoming {
            topic,
            payload,
            retained,
        } = message;
        let Ok(topic) = String::from_utf8(topic.into()) else {
            dropped("topic", 1);
            return Ok(());
        };
        match self.prefix.parse(&topic) {
            Ok(Topic::Up(_)) if retained => {
                // No device may leave one there: it would be said again with each subscription.
                dropped("retained", 1);
                return Ok(());
            }
            Ok(parsed) => self.roll_call().hear(&parsed, &payload),
            // The bridge counts it.
            Err(_) => {}
        }
        let event = LinkEvent::Message {
            topic,
            payload,
            retained,
        };
        self.to_bridge.send(event).await.map_err(|_| Ended::NoBridge)
    }
}

/// The sending half of either library client.
enum Client {
    V5(v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

impl Client {
    fn subscribe(&self, filters: &[String]) -> Result<(), Ended> {
        let subscribed = match self {
            Self::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                let filters = filters.iter().map(|filter| v5_packets::Filter::new(filter, qos));
                client
                    .try_subscribe_many(filters)
                    .map_err(|error| error.to_string())
            }
            Self::V311(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                let filters = filters
                    .iter()
                    .map(|filter| rumqttc::SubscribeFilter::new(filter.clone(), qos));
                client
                    .try_subscribe_many(filters)
                    .map_err(|error| error.to_string())
            }
        };
        subscribed.map_err(|error| Ended::Lost(format!("it cannot be subscribed: {error}")))
    }

    async fn publish(&self, message: Outgoing) -> Result<(), Ended> {
        let Outgoing {
            topic,
            payload,
            retain,
            _room,
        } = message;
        let retain = retain == Retain::Yes;
        let published = match self {
            Self::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                let published = client.publish(topic, qos, retain, payload).await;
                published.map_err(|error| error.to_string())
            }
            Self::V311(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                let published = client.publish_bytes(topic, qos, retain, payload).await;
                published.map_err(|error| error.to_string())
            }
        };
        published.map_err(|error| Ended::Lost(format!("it takes nothing any more: {error}")))
    }
}

/// The event loop of either library client. It is polled by one task and never in the middle of anything dropped but with
/// its whole connection.
enum Events {
    V5(Box<v5::EventLoop>),
    V311(Box<rumqttc::EventLoop>),
}

impl Events {
    async fn next(&mut self) -> Result<Happened, Ended> {
        match self {
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => Ok(happened_v5(packet)),
                Ok(v5::Event::Outgoing(_)) => Ok(Happened::Nothing),
                Err(error) => Err(ended_v5(&error)),
            },
            Self::V311(events) => match events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => Ok(happened_v311(packet)),
                Ok(rumqttc::Event::Outgoing(_)) => Ok(Happened::Nothing),
                Err(rumqttc::ConnectionError::ConnectionRefused(code)) => {
                    Err(Ended::Lost(refused(&format!("{code:?}"))))
                }
                Err(error) => Err(Ended::Lost(error.to_string())),
            },
        }
    }
}

fn happened_v5(packet: v5_packets::Packet) -> Happened {
    use v5_packets::{Packet, PubAckReason, SubscribeReasonCode};
    match packet {
        Packet::PubAck(answer)
            if !matches!(
                answer.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            ) =>
        {
            Happened::NotTaken
        }
        Packet::ConnAck(answer) => Happened::Connected {
            taken_bytes_max: answer
                .properties
                .and_then(|properties| usize::try_from(properties.max_packet_size?).ok())
                .unwrap_or(usize::MAX),
        },
        Packet::SubAck(answer) => Happened::Subscribed(
            answer
                .return_codes
                .iter()
                .map(|code| matches!(code, SubscribeReasonCode::Success(_)))
                .collect(),
        ),
        Packet::Publish(publish) => Happened::Message(Incoming {
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
        }),
        _ => Happened::Nothing,
    }
}

fn happened_v311(packet: rumqttc::Packet) -> Happened {
    use rumqttc::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(_) => Happened::Connected {
            taken_bytes_max: usize::MAX,
        },
        Packet::SubAck(answer) => Happened::Subscribed(
            answer
                .return_codes
                .iter()
                .map(|code| matches!(code, SubscribeReasonCode::Success(_)))
                .collect(),
        ),
        Packet::Publish(publish) => Happened::Message(Incoming {
            topic: publish.topic.into_bytes().into(),
            payload: publish.payload,
            retained: publish.retain,
        }),
        _ => Happened::Nothing,
    }
}

/// Tells a broker that does not speak MQTT 5 from one that cannot be reached or does not let us in.
fn ended_v5(error: &v5::ConnectionError) -> Ended {
    use v5::StateError;
    use v5_packets::ConnectReturnCode as Code;
    match error {
        v5::ConnectionError::ConnectionRefused(
            Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion,
        ) => Ended::OtherVersion("it speaks no MQTT 5".to_owned()),
        v5::ConnectionError::ConnectionRefused(code) => Ended::Lost(refused(&format!("{code:?}"))),
        // [MQTT-3.1.2-2] of 3.1.1 is a CONNACK that has no properties, which is malformed here; some only close.
        v5::ConnectionError::MqttState(StateError::Deserialization(_) | StateError::ConnectionAborted) => {
            Ended::OtherVersion(error.to_string())
        }
        _ => Ended::Lost(error.to_string()),
    }
}

fn refused(code: &str) -> String {
    format!("it does not let this server in ({code}); check user name and password in mqtt.broker")
}

/// Pauses between attempts, with full jitter: evenly from nothing to a bound that doubles.
struct Pause {
    bound: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { bound: PAUSE_MIN }
    }
}

impl Pause {
    /// The pause after a link that stood for so long. One that stood longer than the next pause could be begins again from
    /// the shortest.
    fn after(&mut self, stood: Duration) -> Duration {
        if stood > self.bound {
            self.bound = PAUSE_MIN;
        }
        let bound = self.bound;
        self.bound = (bound * 2).min(PAUSE_MAX);
        let mut random = [0u8; 4];
        // Without random numbers all wait for the bound.
        let share = match getrandom::fill(&mut random) {
            Ok(()) => u32::from_le_bytes(random),
            Err(_) => u32::MAX,
        };
        bound.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A broker of 3.1.1 that a test writes byte by byte.
    async fn broker() -> (TcpListener, ExternalLink) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let broker = ExternalBroker {
            host: address.ip().to_string(),
            port: address.port(),
            login: None,
        };
        let (link, _) = ExternalLink::open(broker, &TopicPrefix::default(), 262_144).unwrap();
        (listener, link)
    }

    /// The next packet: its first byte, and what follows its length of one byte.
    async fn packet(socket: &mut TcpStream) -> (u8, Vec<u8>) {
        let first = socket.read_u8().await.unwrap();
        let length = socket.read_u8().await.unwrap();
        let mut rest = vec![0; length.into()];
        socket.read_exact(&mut rest).await.unwrap();
        (first, rest)
    }

    /// Answers as a broker that does not know MQTT 5, then opens the link in 3.1.1.
    async fn open(listener: &TcpListener) -> TcpStream {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (_, connect) = packet(&mut socket).await;
        assert_eq!(connect[..7], *b"\0\x04MQTT\x05");
        // [MQTT-3.1.2-2] of 3.1.1: unacceptable protocol version.
        socket.write_all(&[0x20, 2, 0, 1]).await.unwrap();
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        let (_, connect) = packet(&mut socket).await;
        assert_eq!(connect[..7], *b"\0\x04MQTT\x04");
        socket.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (first, subscribe) = packet(&mut socket).await;
        assert_eq!(first, 0x82);
        assert_eq!(
            subscribe[2..],
            *b"\0\x03u/+\x01\0\x03p/+\x01\0\x0fowntracks/+/+/#\x01"
        );
        let granted = [0x90, 5, subscribe[0], subscribe[1], 1, 1, 1];
        socket.write_all(&granted).await.unwrap();
        socket
    }

    /// A PUBLISH of QoS 0.
    fn publish(topic: &str, payload: &str, retained: bool) -> Vec<u8> {
        let mut packet = vec![0x30 | u8::from(retained)];
        packet.push(u8::try_from(2 + topic.len() + payload.len()).unwrap());
        packet.extend([0, u8::try_from(topic.len()).unwrap()]);
        packet.extend(topic.bytes().chain(payload.bytes()));
        packet
    }

    /// The next event, asked for again and again: what is dropped before it is ready takes nothing with it.
    async fn next(link: &mut ExternalLink) -> LinkEvent {
        loop {
            tokio::select! {
                biased;
                event = link.next() => return event,
                () = tokio::task::yield_now() => {}
            }
        }
    }

    #[tokio::test]
    async fn a_broker_without_mqtt_5_is_spoken_to_in_3_1_1_and_each_time_subscribed_again() {
        let (listener, mut link) = broker().await;
        for _ in 0..2 {
            let mut socket = open(&listener).await;
            assert_eq!(next(&mut link).await, LinkEvent::Opened);
            link.publish("d/7c".to_owned(), Bytes::from_static(b"down"), Retain::No);
            link.publish("t/en".to_owned(), Bytes::from_static(b"kept"), Retain::Yes);
            assert_eq!(
                packet(&mut socket).await,
                (0x32, b"\0\x04d/7c\0\x02down".to_vec())
            );
            assert_eq!(
                packet(&mut socket).await,
                (0x33, b"\0\x04t/en\0\x03kept".to_vec())
            );
        }
    }

    #[tokio::test]
    async fn a_bridge_that_is_slow_loses_nothing_that_devices_say() {
        let (listener, mut link) = broker().await;
        let mut socket = open(&listener).await;
        const MESSAGES: usize = 20 * FROM_BROKER_MAX;
        let saying = tokio::spawn(async move {
            // What a broker kept on a device's topic is not said by anybody now.
            socket.write_all(&publish("u/7c", "old", true)).await.unwrap();
            for number in 0..MESSAGES {
                let said = publish("u/7c", &number.to_string(), false);
                socket.write_all(&said).await.unwrap();
            }
            socket.write_all(&publish("p/7c", "kept", true)).await.unwrap();
            socket
        });
        assert_eq!(next(&mut link).await, LinkEvent::Opened);
        let message = |topic: &str, payload: String, retained| LinkEvent::Message {
            topic: topic.to_owned(),
            payload: payload.into(),
            retained,
        };
        for number in 0..MESSAGES {
            assert_eq!(next(&mut link).await, message("u/7c", number.to_string(), false));
        }
        assert_eq!(next(&mut link).await, message("p/7c", "kept".to_owned(), true));
        saying.await.unwrap();
    }

    #[test]
    fn what_no_connection_takes_is_dropped_and_never_waited_for() {
        let to_broker = ToBroker::default();
        let offer = || to_broker.offer("d/7c".to_owned(), Bytes::from_static(&[0; 65_536]), Retain::No);
        assert_eq!(offer(), Err("down"));
        let mut queue = to_broker.open();
        let mut taken = 0;
        while offer().is_ok() {
            taken += 1;
        }
        assert_eq!(offer(), Err("full"));
        let bytes = TO_BROKER_BYTES_MAX as usize;
        assert!((bytes - 70_000..=bytes).contains(&(taken * (65_536 + 4 + MESSAGE_BYTES_MIN))));
        // What has left makes room for one more.
        drop(queue.messages.try_recv().unwrap());
        assert_eq!(offer(), Ok(()));
        // So does the end of a connection, for the next.
        drop(queue);
        assert_eq!(offer(), Err("down"));
        let _queue = to_broker.open();
        assert_eq!((0..taken).map(|_| offer()).find(Result::is_err), None);
    }

    #[test]
    fn pauses_grow_to_their_bound_until_a_link_has_stood() {
        let mut pause = Pause::default();
        for doubled in [1, 2, 4, 8, 16, 32, 60, 60] {
            let bound = Duration::from_millis(500) * doubled;
            assert!(pause.after(Duration::ZERO) <= bound, "{doubled}");
            assert_eq!(pause.bound, (bound * 2).min(PAUSE_MAX));
        }
        assert!(pause.after(PAUSE_MAX * 2) <= PAUSE_MIN);
        assert_eq!(pause.bound, PAUSE_MIN * 2);
    }
}
