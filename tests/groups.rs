//! Groups and templates on the real binary: what one who has left still hears, and what a restarted server has ready.

use crate::server::{Server, http_client};
use prost::Message as _;
use rumqttc::{Event, Packet, QoS, SubscribeReasonCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use waypost_field_client::{Client, Credentials, Entries, Options};
use waypost_proto::wire;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} never came"))
}

/// A second client of a device, which listens to bytes.
struct Listener {
    client: rumqttc::AsyncClient,
    events: rumqttc::EventLoop,
    /// What has come on any topic.
    heard: Vec<(String, Vec<u8>)>,
}

impl Listener {
    async fn start(server: &Server, credentials: &Path) -> Self {
        let file: Value = serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
        let (device, secret) = (file["device"].as_str().unwrap(), file["secret"].as_str().unwrap());
        let (host, port) = server.mqtt.split_once(':').unwrap();
        let mut options = rumqttc::MqttOptions::new(format!("{device}-watch"), host, port.parse().unwrap());
        options.set_credentials(device, secret);
        let (client, events) = rumqttc::AsyncClient::new(options, 10);
        Self {
            client,
            events,
            heard: Vec::new(),
        }
    }

    /// Whether the broker lets it.
    async fn subscribe(&mut self, filter: &str) -> bool {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        let Packet::SubAck(answer) = self
            .until("the SUBACK", |packet| matches!(packet, Packet::SubAck(_)))
            .await
        else {
            panic!("it was one")
        };
        answer.return_codes[0] != SubscribeReasonCode::Failure
    }

    /// Collects what comes until something does.
    async fn until(&mut self, what: &str, is: impl Fn(&Packet) -> bool) -> Packet {
        let (events, heard) = (&mut self.events, &mut self.heard);
        within(what, async {
            loop {
                let Event::Incoming(packet) = events.poll().await.unwrap() else {
                    continue;
                };
                if let Packet::Publish(message) = &packet {
                    heard.push((message.topic.clone(), message.payload.to_vec()));
                }
                if is(&packet) {
                    return packet;
                }
            }
        })
        .await
    }

    async fn until_said(&mut self, text: &str) {
        self.until(
            text,
            |packet| matches!(packet, Packet::Publish(message) if contains(&message.payload, text)),
        )
        .await;
    }
}

fn contains(payload: &[u8], text: &str) -> bool {
    payload
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

struct Driver {
    client: Client,
    entries: Entries,
}

impl Driver {
    async fn start(credentials: &Path) -> Self {
        let state = credentials.with_extension("state");
        let client = Client::open(Credentials::read(credentials).unwrap(), state, Options::default())
            .await
            .unwrap();
        let entries = client.entries().unwrap();
        Self { client, entries }
    }

    /// Everything that is shown, up to and with `text`.
    async fn until_shown(&mut self, text: &str) -> Vec<String> {
        within(text, async {
            let mut shown = Vec::new();
            loop {
                let incoming = self.entries.next().await.unwrap();
                incoming.mark_shown().await.unwrap();
                shown.push(incoming.entry.text().unwrap_or_default().to_owned());
                if shown.last().is_some_and(|last| last == text) {
                    return shown;
                }
            }
        })
        .await
    }
}

async fn say(server: &Server, token: &str, stream: &str, text: &str) {
    let body = json!({ "body": { "kind": "text", "text": text } });
    server
        .post(token, &format!("/streams/{stream}/entries"), &body)
        .await;
}

async fn ask(server: &Server, token: &str, method: reqwest::Method, path: &str, body: &Value) -> Value {
    let answer = http_client()
        .build()
        .unwrap()
        .request(method, server.url(path))
        .bearer_auth(token)
        .json(body)
        .send()
        .await
        .unwrap();
    assert!(
        answer.status().is_success(),
        "{path}: {}",
        answer.text().await.unwrap()
    );
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_is_removed_gets_no_later_byte_connected_or_away() {
    let server = Server::start();
    let token = server.sign_in().await;
    let mut files = Vec::new();
    let mut ids = Vec::new();
    for name in ["stays", "goes", "away", "other"] {
        let (id, file) = server.add_device(name);
        ids.push(id);
        files.push(file);
    }
    let direct = server.read(&token, &format!("/devices/{}", ids[1])).await["stream"].clone();
    let direct_away = server.read(&token, &format!("/devices/{}", ids[2])).await["stream"].clone();
    let body = json!({ "name": "North", "devices": ids[..3] });
    let group = server.post(&token, "/groups", &body).await;
    let (group_id, stream) = (group["id"].as_str().unwrap(), group["stream"].as_str().unwrap());

    let mut stays = Driver::start(&files[0]).await;
    let mut goes = Driver::start(&files[1]).await;
    let mut watch = Listener::start(&server, &files[1]).await;
    assert!(watch.subscribe(&format!("d/{}", ids[1])).await);
    assert!(
        watch.subscribe(&format!("g/{group_id}")).await,
        "a member may listen"
    );
    let mut outside = Listener::start(&server, &files[3]).await;
    for filter in [
        format!("g/{group_id}"),
        "g/+".to_owned(),
        format!("$share/x/g/{group_id}"),
    ] {
        assert!(
            !outside.subscribe(&filter).await,
            "{filter} is not for one who is none"
        );
    }

    say(&server, &token, stream, "for all of you").await;
    stays.until_shown("for all of you").await;
    goes.until_shown("for all of you").await;

    let members = json!({ "devices": [ids[0]] });
    ask(
        &server,
        &token,
        reqwest::Method::PATCH,
        &format!("/groups/{group_id}"),
        &members,
    )
    .await;
    say(&server, &token, stream, "behind their backs").await;
    stays.until_shown("behind their backs").await;
    // What comes after it on every path, so that it would have come by now.
    say(&server, &token, direct.as_str().unwrap(), "to one alone").await;
    let shown = goes.until_shown("to one alone").await;
    assert!(!shown.iter().any(|text| text == "behind their backs"));
    watch.until_said("to one alone").await;
    assert!(
        !watch
            .heard
            .iter()
            .any(|(_, payload)| contains(payload, "behind their backs")),
        "not a byte of it, on any topic"
    );
    assert!(!watch.subscribe(&format!("g/{group_id}")).await, "nor again");

    // One who was away: what was said until it was taken out, and nothing later.
    say(&server, &token, direct_away.as_str().unwrap(), "welcome back").await;
    let mut away = Driver::start(&files[2]).await;
    let mut shown = away.until_shown("welcome back").await;
    if !shown.iter().any(|text| text == "for all of you") {
        shown.extend(away.until_shown("for all of you").await);
    }
    assert!(
        !shown.iter().any(|text| text == "behind their backs"),
        "{shown:?}"
    );

    // And what it says there is refused with the reason.
    let message = waypost_field_client::Message::to(stream.parse().unwrap(), "am I still in?");
    let posted = goes.client.post_text(message).await;
    if let Ok(posted) = posted {
        let outcome = goes.client.wait_accepted(&posted, PATIENCE).await.unwrap();
        assert!(
            matches!(outcome, waypost_field_client::Outcome::Refused(why)
                if why.0 == wire::RefusalReason::NotAMember),
            "{outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_reaches_who_is_connected_and_who_was_away_and_is_retained_again_after_a_restart() {
    let mut server = Server::start();
    let token = server.sign_in().await;
    let (_, near_file) = server.add_device("near");
    let (_, away_file) = server.add_device("away");
    let template =
        |text: &str| json!({ "text": { "en": text }, "slots": [{ "name": "minutes", "kind": "number" }] });
    let put = |text: &str| {
        let body = template(text);
        let (server, token) = (&server, &token);
        async move { ask(server, token, reqwest::Method::PUT, "/templates/late", &body).await }
    };
    put("Late {minutes} min").await;
    let near = Driver::start(&near_file).await;
    let away = Driver::start(&away_file).await;
    let version = |driver: &Driver| {
        let client = driver.client.clone();
        async move {
            let catalogue = client.templates().await.unwrap();
            (
                catalogue.version,
                catalogue.templates.first().map(|template| template.text.clone()),
            )
        }
    };
    let knows = |driver: &Driver, expected: u32| {
        let read = version(driver);
        let client = driver.client.clone();
        async move {
            let mut now = read.await;
            while now.0 < expected {
                client.wait_catalogue(Duration::from_millis(200)).await.unwrap();
                let catalogue = client.templates().await.unwrap();
                now = (
                    catalogue.version,
                    catalogue.templates.first().map(|template| template.text.clone()),
                );
                tokio::task::yield_now().await;
            }
            now
        }
    };
    within("the first catalogue", knows(&near, 1)).await;
    within("the first catalogue", knows(&away, 1)).await;
    away.client.pause_link().await.unwrap();
    put("Delayed by {minutes} min").await;
    let (_, text) = within("the change", knows(&near, 2)).await;
    assert_eq!(text.as_deref(), Some("Delayed by {minutes} min"));
    assert_eq!(version(&away).await.0, 1, "it was away");
    away.client.resume_link().await.unwrap();
    let (_, text) = within("the change", knows(&away, 2)).await;
    assert_eq!(text.as_deref(), Some("Delayed by {minutes} min"));

    near.client.close().await.unwrap();
    away.client.close().await.unwrap();
    server.kill();
    server.restart();
    let mut first = Listener::start(&server, &near_file).await;
    assert!(first.subscribe("t/en").await);
    if first.heard.is_empty() {
        first
            .until("the catalogue", |packet| matches!(packet, Packet::Publish(_)))
            .await;
    }
    let (topic, payload) = &first.heard[0];
    let catalogue = wire::Catalogue::decode(payload.as_slice()).unwrap();
    assert_eq!((topic.as_str(), catalogue.version), ("t/en", 2));
    assert_eq!(catalogue.templates[0].text, "Delayed by {minutes} min");
}
