//! Devices and the server meet at a broker that is not the server's own.

use crate::chatter::Chatter;
use crate::mosquitto::{MONITOR, Mosquitto, PASSWORD, USER};
use crate::server::{Server, http_client};
use rumqttc::{Event, Packet, QoS};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than anything takes to heal: a lost frame is repeated after ten seconds and more.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server, a broker, and a device that both know.
struct World {
    server: Server,
    mosquitto: Mosquitto,
    token: String,
    device: String,
    stream: String,
    credentials: PathBuf,
}

impl World {
    /// The server is there before the broker.
    async fn start() -> Self {
        let mut mosquitto = Mosquitto::prepare();
        let server = Server::start_in(mosquitto.server_folder(), None);
        let token = server.sign_in().await;
        let (device, credentials) = server.add_device("truck-1");
        mosquitto.add_device(&credentials);
        mosquitto.start();
        let stream = server.read(&token, &format!("/devices/{device}")).await["stream"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            server,
            mosquitto,
            token,
            device,
            stream,
            credentials,
        }
    }

    async fn post(&self, text: &str) {
        let body = json!({ "body": { "kind": "text", "text": text } });
        let path = format!("/streams/{}/entries", self.stream);
        self.server.post(&self.token, &path, &body).await;
    }

    /// Reads until it is as it should be.
    async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) {
        let reading = async { while !is(&self.server.read(&self.token, path).await) {} };
        within(path, reading).await;
    }

    async fn until_said(&self, text: &str) {
        let path = format!("/streams/{}/entries", self.stream);
        self.until(&path, |page| {
            let items = page["items"].as_array().unwrap();
            items.iter().any(|entry| entry["body"]["text"] == text)
        })
        .await;
    }

    async fn until_ready(&self, status: u16) -> Value {
        let url = format!("http://{}/readyz", self.server.http);
        let http = http_client().build().unwrap();
        within("/readyz", async {
            loop {
                let answer = http.get(&url).send().await.unwrap();
                if answer.status() == status {
                    return answer.json().await.unwrap();
                }
            }
        })
        .await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.server.folder().join("server.log")).unwrap()
    }

    /// A second device that the broker lets in; it has to be started again to know it.
    fn second_device(&mut self) -> (String, PathBuf) {
        let (device, credentials) = self.server.add_device("truck-2");
        self.mosquitto.add_device(&credentials);
        self.mosquitto.kill();
        self.mosquitto.start();
        (device, credentials)
    }
}

async fn within<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing)
        .await
        .unwrap_or_else(|_| panic!("{what} never was as it should be"))
}

async fn until_shown(chatter: &mut Chatter, text: &str) {
    within(text, async {
        while chatter.hear().await["shown"]["text"] != text {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_a_broker_elsewhere_both_ways_and_nothing_of_ours_listens() {
    let world = World::start().await;
    assert_eq!(world.server.mqtt, world.mosquitto.address);
    let file: Value = serde_json::from_slice(&std::fs::read(&world.credentials).unwrap()).unwrap();
    assert_eq!(
        file["mqtt"],
        json!([format!("mqtt://{}", world.mosquitto.address)])
    );
    let ready = world.until_ready(200).await;
    assert_eq!(ready["checks"]["broker"], "ok");
    let mut chatter = Chatter::start(&world.credentials);
    chatter.say("At the gate").await;
    world.until_said("At the gate").await;
    world.post("Dock 4").await;
    until_shown(&mut chatter, "Dock 4").await;
    let device = format!("/devices/{}", world.device);
    world
        .until(&device, |device| device["presence"]["state"] == "online")
        .await;
    // It ends without a word: the will tells.
    chatter.kill().await;
    world
        .until(&device, |device| device["presence"]["state"] == "offline")
        .await;
    chatter = Chatter::start(&world.credentials);
    world
        .until(&device, |device| device["presence"]["state"] == "online")
        .await;
    chatter.close().await;
    let http = http_client().build().unwrap();
    let websocket = http
        .get(format!("http://{}/mqtt", world.server.http))
        .send()
        .await;
    assert_eq!(websocket.unwrap().status(), 404);
    let log = world.log();
    assert!(!log.contains(PASSWORD) && log.contains("(MQTT 5)"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_its_memory_is_found_again() {
    let mut world = World::start().await;
    world.until_ready(200).await;
    let mut chatter = Chatter::start(&world.credentials);
    chatter.say("before").await;
    world.until_said("before").await;
    world.mosquitto.kill();
    let reason = world.until_ready(503).await["checks"]["broker"].to_string();
    assert!(reason.contains(&world.mosquitto.address), "{reason}");
    chatter.say("while it was away").await;
    world.post("meanwhile").await;
    world.mosquitto.start();
    world.until_ready(200).await;
    world.until_said("while it was away").await;
    until_shown(&mut chatter, "meanwhile").await;
    chatter.close().await;
    let log = world.log();
    let times = |text: &str| log.matches(text).count();
    assert_eq!(
        (times("is lost and will be made again"), times("stands (MQTT 5)")),
        (1, 2),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_gone_with_the_memory_of_the_broker_is_offline() {
    let mut world = World::start().await;
    let chatter = Chatter::start(&world.credentials);
    let device = format!("/devices/{}", world.device);
    world
        .until(&device, |device| device["presence"]["state"] == "online")
        .await;
    // Its will dies with the broker, and it does not come back.
    world.mosquitto.kill();
    chatter.kill().await;
    world.mosquitto.start();
    world
        .until(&device, |device| device["presence"]["state"] == "offline")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_device_is_told_what_waits_after_the_server_was_killed() {
    let mut world = World::start().await;
    let mut chatter = Chatter::start(&world.credentials);
    let device = format!("/devices/{}", world.device);
    world
        .until(&device, |device| device["presence"]["state"] == "online")
        .await;
    // The broker keeps its connection and its presence, and it has nothing to repeat.
    world.server.kill();
    world.server.restart();
    world.post("Dock 4").await;
    until_shown(&mut chatter, "Dock 4").await;
    chatter.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_those_of_the_embedded_broker() {
    let mut world = World::start().await;
    let (other, other_credentials) = world.second_device();
    let me = world.device.clone();
    let address = &world.mosquitto.address;
    let mut device = Peer::start(address, login(&world.credentials)).await;
    let mut monitor = Peer::start(address, (MONITOR, PASSWORD)).await;
    monitor.subscribe("#").await;
    // A forbidden message first, then one that must pass: what the monitor gets tells.
    for (forbidden, allowed) in [
        (format!("u/{other}"), format!("u/{me}")),
        (format!("p/{other}"), format!("p/{me}")),
        (format!("d/{other}"), format!("u/{me}")),
        (format!("d/{me}"), format!("u/{me}")),
        ("t/en".to_owned(), format!("u/{me}")),
        ("g/1".to_owned(), format!("u/{me}")),
        (
            format!("owntracks/{other}/phone"),
            format!("owntracks/{me}/phone"),
        ),
        (format!("u/{me}/x"), format!("u/{me}")),
    ] {
        device.publish(&forbidden, "forged").await;
        device.publish(&allowed, "own").await;
        assert_eq!(monitor.hear().await, (allowed, "own"), "after {forbidden}");
    }
    // The same for reading: whatever it asks for, it gets what is its own.
    device.subscribe("#").await;
    let mut server = Peer::start(address, (USER, PASSWORD)).await;
    let mut another = Peer::start(address, login(&other_credentials)).await;
    another.publish(&format!("u/{other}"), "own").await;
    for topic in [
        format!("d/{other}"),
        format!("owntracks/{other}/phone/cmd"),
        format!("d/{me}"),
        "t/en".to_owned(),
        format!("owntracks/{me}/phone/cmd"),
    ] {
        server.publish(&topic, "down").await;
    }
    for topic in [
        format!("d/{me}"),
        "t/en".to_owned(),
        format!("owntracks/{me}/phone/cmd"),
    ] {
        assert_eq!(device.hear().await, (topic, "down"));
    }
}

/// A user of the broker who is none of ours, in MQTT 3.1.1.
struct Peer {
    client: rumqttc::AsyncClient,
    events: rumqttc::EventLoop,
}

impl Peer {
    async fn start(address: &str, (user, password): (impl Into<String>, impl Into<String>)) -> Self {
        let (host, port) = address.split_once(':').unwrap();
        let user = user.into();
        let mut options = rumqttc::MqttOptions::new(format!("{user}-peer"), host, port.parse().unwrap());
        options.set_credentials(user, password);
        let (client, events) = rumqttc::AsyncClient::new(options, 10);
        let mut peer = Self { client, events };
        peer.next(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()))
            .await;
        peer
    }

    async fn subscribe(&mut self, filter: &str) {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.next(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            .await;
    }

    /// Returns once the broker has it, or has thrown it away: it says the same of both.
    async fn publish(&mut self, topic: &str, payload: &str) {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
        self.next(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
            .await;
    }

    /// The next message of these tests; the server's own are passed over.
    async fn hear(&mut self) -> (String, &'static str) {
        self.next(|packet| match packet {
            Packet::Publish(message) => ["own", "forged", "down"]
                .into_iter()
                .find(|payload| payload.as_bytes() == message.payload)
                .map(|payload| (message.topic, payload)),
            _ => None,
        })
        .await
    }

    async fn next<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        within("what the broker says", async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.unwrap()
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        })
        .await
    }
}

fn login(credentials: &Path) -> (String, String) {
    let credentials: Value = serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
    let text = |key: &str| credentials[key].as_str().unwrap().to_owned();
    (text("device"), text("secret"))
}
