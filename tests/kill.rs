//! The promise of the whole: with servers and clients killed at random moments, every message that was reported as
//! stored is in the history once, in its author's order, and shown once to its reader.

use crate::chatter::Chatter;
use crate::mosquitto::Mosquitto;
use crate::proxy::Proxy;
use crate::server::Server;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How much a run asks of the system.
#[derive(Clone, Copy)]
struct Plan {
    clients: usize,
    /// Messages of each client, and as many to it.
    messages: usize,
    client_kills: usize,
    server_kills: usize,
    broker: Broker,
    fault: Option<&'static str>,
}

/// Where devices and the server meet.
#[derive(Clone, Copy)]
enum Broker {
    Embedded,
    /// At a mosquitto, which is killed as well, and forgets everything.
    Mosquitto {
        kills: usize,
    },
}

impl Plan {
    /// Everything that dies beside the clients, in a random order.
    fn kills(self, random: &mut Random) -> Vec<Kill> {
        let mosquitto_kills = match self.broker {
            Broker::Embedded => 0,
            Broker::Mosquitto { kills } => kills,
        };
        let mut kills = vec![Kill::Server; self.server_kills];
        for _ in 0..mosquitto_kills {
            let place = random.below(kills.len() as u64 + 1);
            kills.insert(usize::try_from(place).unwrap(), Kill::Mosquitto);
        }
        kills
    }
}

#[derive(Debug, Clone, Copy)]
enum Kill {
    Server,
    Mosquitto,
}

/// What was compared.
#[derive(Debug, Default)]
struct Counts {
    asked: usize,
    stored: usize,
    posted: usize,
    in_history: usize,
    in_inboxes: usize,
    server_kills: usize,
    mosquitto_kills: usize,
    client_kills: usize,
}

/// Deterministic enough to repeat a run's plan; what the kills hit is up to the machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_servers_and_clients_loses_nothing_and_repeats_nothing() {
    let plan = Plan {
        clients: 12,
        messages: 500,
        client_kills: 5,
        server_kills: 30,
        broker: Broker::Embedded,
        fault: None,
    };
    holds(plan).await;
}

/// The same through a broker elsewhere: that one may forget everything, too, and it keeps the connections of devices while
/// the server dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_mosquitto_too_loses_nothing_and_repeats_nothing() {
    let plan = Plan {
        clients: 6,
        messages: 150,
        client_kills: 3,
        server_kills: 6,
        broker: Broker::Mosquitto { kills: 6 },
        fault: None,
    };
    holds(plan).await;
}

/// Nothing is lost, repeated or out of order, and everything that was planned was done.
async fn holds(plan: Plan) {
    let (counts, broken) = exchange(plan).await;
    println!("{counts:#?}");
    assert!(
        broken.is_empty(),
        "{} promises broken, such as: {:#?}",
        broken.len(),
        &broken[..broken.len().min(9)]
    );
    assert_eq!(counts.server_kills, plan.server_kills);
    if let Broker::Mosquitto { kills } = plan.broker {
        assert_eq!(counts.mosquitto_kills, kills);
    }
    assert_eq!(counts.client_kills, plan.clients * plan.client_kills);
    assert!(counts.stored * 100 >= counts.asked * 99, "{counts:?}");
}

/// The same with the server's memory of what it has taken switched off.
#[cfg(feature = "fault-injection")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_applying_repeated_operations_again_is_noticed() {
    let fault = Some("bridge-dedupe");
    let plan = Plan {
        clients: 6,
        messages: 150,
        client_kills: 2,
        server_kills: 8,
        broker: Broker::Embedded,
        fault,
    };
    let (counts, broken) = exchange(plan).await;
    println!("{counts:#?}");
    assert!(
        broken.iter().any(|what| what.contains("times in the history")),
        "not noticed: {broken:?}"
    );
}

/// What clients talk through, and what dies.
struct Scene {
    server: Server,
    mosquitto: Option<Mosquitto>,
    proxy: Proxy,
    token: String,
    trucks: Vec<Truck>,
}

/// A device, and its stream with the office.
#[derive(Clone)]
struct Truck {
    number: usize,
    stream: String,
    credentials: PathBuf,
}

impl Scene {
    async fn set(plan: Plan) -> Self {
        let mut mosquitto = match plan.broker {
            Broker::Embedded => None,
            Broker::Mosquitto { .. } => Some(Mosquitto::prepare()),
        };
        let folder = match &mosquitto {
            None => tempfile::tempdir().unwrap(),
            Some(mosquitto) => mosquitto.server_folder(),
        };
        let server = Server::start_in(folder, plan.fault);
        let token = server.sign_in().await;
        let proxy = Proxy::start(server.mqtt.clone()).await;
        let mut trucks = Vec::new();
        for number in 0..plan.clients {
            let (id, credentials) = server.add_device(&format!("truck-{number:02}"));
            if let Some(mosquitto) = &mosquitto {
                mosquitto.add_device(&credentials);
            }
            let mut file: Value = serde_json::from_slice(&std::fs::read(&credentials).unwrap()).unwrap();
            file["mqtt"] = json!([format!("mqtt://{}", proxy.address)]);
            std::fs::write(&credentials, file.to_string()).unwrap();
            let stream = server.read(&token, &format!("/devices/{id}")).await["stream"]
                .as_str()
                .unwrap()
                .to_owned();
            trucks.push(Truck {
                number,
                stream,
                credentials,
            });
        }
        // Now that it can be told of them.
        if let Some(mosquitto) = &mut mosquitto {
            mosquitto.start();
        }
        Self {
            server,
            mosquitto,
            proxy,
            token,
            trucks,
        }
    }

    /// Kills and starts again, spread over the exchange: each time after another share of what is to be said was said.
    async fn kill_through(&mut self, plan: Plan, done: &AtomicUsize, counts: &mut Counts) {
        let all = 2 * plan.clients * plan.messages;
        let mut random = Random(0xdead);
        let kills = plan.kills(&mut random);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
        for (kill, what) in (1..).zip(&kills) {
            let share = all * kill / (kills.len() + 1);
            while done.load(Ordering::Relaxed) < share {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "the exchange is stuck at {done:?} of {all}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(random.below(80))).await;
            // Every other time it dies with acknowledgements that were given and nobody has heard.
            self.proxy.hold(kill.is_multiple_of(2));
            tokio::time::sleep(Duration::from_millis(random.below(80))).await;
            match what {
                Kill::Server => {
                    tokio::task::block_in_place(|| self.server.kill());
                    self.proxy.hold(false);
                    tokio::task::block_in_place(|| self.server.restart());
                    counts.server_kills += 1;
                }
                Kill::Mosquitto => {
                    let mosquitto = self.mosquitto.as_mut().expect("the plan has one");
                    mosquitto.kill();
                    self.proxy.hold(false);
                    tokio::time::sleep(Duration::from_millis(random.below(400))).await;
                    tokio::task::block_in_place(|| mosquitto.start());
                    counts.mosquitto_kills += 1;
                }
            }
        }
    }
}

async fn exchange(plan: Plan) -> (Counts, Vec<String>) {
    let mut scene = Scene::set(plan).await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut drivers = Vec::new();
    let mut offices = Vec::new();
    for truck in scene.trucks.clone() {
        let url = scene.server.url(&format!("/streams/{}/entries", truck.stream));
        drivers.push(tokio::spawn(drive(
            truck.number,
            truck.credentials,
            plan,
            done.clone(),
        )));
        offices.push(tokio::spawn(dispatch(
            truck.number,
            url,
            scene.token.clone(),
            plan,
            done.clone(),
        )));
    }
    let mut counts = Counts::default();
    scene.kill_through(plan, &done, &mut counts).await;
    let mut posted = BTreeMap::new();
    for (office, truck) in offices.into_iter().zip(&scene.trucks) {
        posted.insert(truck.number, office.await.unwrap());
    }
    let mut said = BTreeMap::new();
    for (driver, truck) in drivers.into_iter().zip(&scene.trucks) {
        let driver = driver.await.unwrap();
        counts.client_kills += plan.client_kills;
        said.insert(truck.number, driver);
    }

    // What became of it.
    let mut broken = Vec::new();
    for Truck {
        number,
        stream,
        credentials,
    } in &scene.trucks
    {
        let history = entries(&scene.server, &scene.token, stream).await;
        let driver = &said[number];
        let texts: Vec<&str> = history
            .iter()
            .map(|entry| entry["body"]["text"].as_str().unwrap())
            .collect();
        counts.asked += 2 * plan.messages;
        counts.stored += driver.stored.len() + posted[number].len();
        counts.posted += posted[number].len();
        counts.in_history += texts.len();
        check(
            &mut broken,
            &format!("history of truck {number}"),
            &texts,
            "up",
            &driver.stored,
            &driver.in_doubt,
        );
        check(
            &mut broken,
            &format!("history of truck {number}"),
            &texts,
            "down",
            &posted[number],
            &BTreeSet::new(),
        );

        let inbox = final_inbox(credentials, texts.len()).await;
        counts.in_inboxes += inbox.len();
        if inbox != texts {
            broken.push(format!(
                "truck {number}: its inbox differs from the history: {} of {}",
                inbox.len(),
                texts.len()
            ));
        }
        // Shown once: one line of the screen for each entry. A client that is killed between showing an entry and
        // noting that may show that one again.
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for (seq, text) in &driver.shown {
            *seen.entry(*seq).or_default() += 1;
            if texts.get(usize::try_from(*seq).unwrap() - 1) != Some(&text.as_str()) {
                broken.push(format!("truck {number}: showed {text:?} as {seq}"));
            }
        }
        let again: usize = seen.values().map(|times| times - 1).sum();
        if again > plan.client_kills {
            broken.push(format!(
                "truck {number}: {again} entries were shown again after {} kills",
                plan.client_kills
            ));
        }
        for text in posted[number]
            .iter()
            .filter(|text| !driver.shown.iter().any(|(_, shown)| shown == *text))
        {
            broken.push(format!("truck {number}: {text:?} was never shown"));
        }
    }
    (counts, broken)
}

/// Every text that was reported as stored stands once, in its author's order; nothing else stands there.
fn check(
    broken: &mut Vec<String>,
    place: &str,
    texts: &[&str],
    author: &str,
    stored: &[String],
    in_doubt: &BTreeSet<String>,
) {
    let theirs: Vec<&str> = texts
        .iter()
        .copied()
        .filter(|text| text.starts_with(author))
        .collect();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for text in &theirs {
        *times.entry(text).or_default() += 1;
    }
    for text in stored {
        match times.get(text.as_str()) {
            Some(1) => {}
            Some(more) => broken.push(format!("{place}: {text:?} stands {more} times in the history")),
            None => broken.push(format!("{place}: {text:?} was stored and is lost")),
        }
    }
    for (text, times) in times {
        let known = stored.iter().any(|stored| stored == text) || in_doubt.contains(text);
        if !known || (in_doubt.contains(text) && times > 1) {
            broken.push(format!(
                "{place}: {text:?} stands {times} times in the history, and nobody asked for that"
            ));
        }
    }
    let order: Vec<&str> = theirs
        .iter()
        .copied()
        .filter(|text| stored.iter().any(|stored| stored == text))
        .collect();
    if order.is_sorted() != stored.is_sorted() {
        broken.push(format!("{place}: the entries of {author} are not in their order"));
    }
}

async fn entries(server: &Server, token: &str, stream: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let page = server
            .read(
                token,
                &format!("/streams/{stream}/entries?after={}&limit=200", all.len()),
            )
            .await;
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            return all;
        }
        all.extend(items);
    }
}

/// A dispatcher who writes one message after the other, each until it is accepted.
async fn dispatch(
    number: usize,
    url: String,
    token: String,
    plan: Plan,
    done: Arc<AtomicUsize>,
) -> Vec<String> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .no_proxy()
        .build()
        .unwrap();
    let mut posted = Vec::new();
    for message in 0..plan.messages {
        let text = format!("down {number:02}-{message:04}");
        let body = json!({ "body": { "kind": "text", "text": text } });
        loop {
            let request = client
                .post(&url)
                .bearer_auth(&token)
                .header("Idempotency-Key", text.replace(' ', "-"))
                .json(&body);
            match request.send().await {
                Ok(answer) if answer.status() == 201 => break,
                Ok(answer) if answer.status().is_client_error() => panic!("{}", answer.text().await.unwrap()),
                // The server is gone or going: the same request again, under the same key.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        posted.push(text);
        done.fetch_add(1, Ordering::Relaxed);
    }
    posted
}

/// What a driver's client reported.
#[derive(Default)]
struct Driver {
    stored: Vec<String>,
    /// Said just before a kill, without an answer: it may or may not be stored.
    in_doubt: BTreeSet<String>,
    shown: Vec<(u64, String)>,
}

/// A client process, killed and started again at random places of what it has to say.
async fn drive(number: usize, credentials: PathBuf, plan: Plan, done: Arc<AtomicUsize>) -> Driver {
    let mut random = Random(number as u64 + 1);
    let mut kills: BTreeSet<usize> = BTreeSet::new();
    while kills.len() < plan.client_kills {
        kills.insert(1 + usize::try_from(random.below(plan.messages as u64 - 1)).unwrap());
    }
    let mut driver = Driver::default();
    let mut process = Chatter::start(&credentials);
    for message in 0..plan.messages {
        let text = format!("up {number:02}-{message:04}");
        process.say(&text).await;
        if kills.contains(&message) {
            tokio::time::sleep(Duration::from_micros(random.below(4_000))).await;
            driver.in_doubt.insert(text.clone());
            let heard = process.kill().await;
            heard.into_iter().for_each(|line| driver.hear(&line));
            if driver.stored.last() == Some(&text) {
                driver.in_doubt.remove(&text);
            }
            process = Chatter::start(&credentials);
        } else {
            loop {
                let line = process.hear().await;
                driver.hear(&line);
                if line["stored"] == json!(text) {
                    break;
                }
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        // A person with a thumb, not a flood: the dispatcher's messages get a chance to come in between.
        tokio::time::sleep(Duration::from_millis(random.below(20))).await;
    }
    // Until everything has arrived and has been shown.
    process.say("/drain").await;
    let expected = plan.messages;
    let mut drained = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(240);
    while !drained || driver.shown_down() < expected {
        let line = tokio::time::timeout_at(deadline, process.hear()).await;
        let Ok(line) = line else { break };
        drained |= !line["waiting"].is_null();
        driver.hear(&line);
    }
    process.close().await;
    driver
}

impl Driver {
    fn hear(&mut self, line: &Value) {
        if let Some(text) = line["stored"].as_str() {
            self.stored.push(text.to_owned());
        }
        if let Some(seq) = line["shown"]["seq"].as_u64() {
            self.shown
                .push((seq, line["shown"]["text"].as_str().unwrap().to_owned()));
        }
    }

    /// How many different messages of the office were shown.
    fn shown_down(&self) -> usize {
        self.shown
            .iter()
            .filter(|(_, text)| text.starts_with("down"))
            .map(|(seq, _)| seq)
            .collect::<BTreeSet<_>>()
            .len()
    }
}

/// What a client has in its inbox at the end, once it holds `expected` entries.
async fn final_inbox(credentials: &Path, expected: usize) -> Vec<String> {
    let mut process = Chatter::start(credentials);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        process.say("/history").await;
        let history = loop {
            let line = process.hear().await;
            if let Some(history) = line["history"].as_array() {
                break history.clone();
            }
        };
        if history.len() >= expected || tokio::time::Instant::now() > deadline {
            process.close().await;
            return history
                .iter()
                .map(|entry| entry["text"].as_str().unwrap().to_owned())
                .collect();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
