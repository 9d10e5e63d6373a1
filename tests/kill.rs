//! The promise of the whole: with servers and clients killed at random moments, every message that was reported as
//! stored is in the history once, in its author's order, and shown once to its reader.

use crate::chatter::Chatter;
use crate::mosquitto::Mosquitto;
use crate::proxy::Proxy;
use crate::server::{Server, http_client};
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

/// What the office says to everybody while it also writes to each driver.
impl Plan {
    /// Messages in the group of all clients.
    fn to_group(self) -> usize {
        self.messages / 5
    }

    /// Broadcasts to the group, each after a change of the template catalogue.
    fn broadcasts(self) -> usize {
        self.messages / 25
    }
}

/// What a driver says under a number: every fifth time in the group, every fifth time as a quick reply, else in words to
/// the office.
fn line(message: usize, text: &str, truck: &Truck) -> String {
    match message % 5 {
        3 => format!("/to {} {text}", truck.group),
        4 => format!("/reply {} said what={text}", truck.stream),
        _ => text.to_owned(),
    }
}

fn is_for_group(text: &&String) -> bool {
    let number = text
        .rsplit('-')
        .next()
        .and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| number % 5 == 3)
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
    group: String,
}

/// A device, and its stream with the office.
#[derive(Clone)]
struct Truck {
    number: usize,
    stream: String,
    /// The stream of the group that all are members of.
    group: String,
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
        put_template(&server, &token, 0).await;
        let mut trucks = Vec::new();
        let mut devices = Vec::new();
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
            devices.push(id);
            trucks.push(Truck {
                number,
                stream,
                group: String::new(),
                credentials,
            });
        }
        let group = json!({ "name": "Everybody", "devices": devices, "history": "all" });
        let group = server.post(&token, "/groups", &group).await;
        for truck in &mut trucks {
            truck.group = group["stream"].as_str().unwrap().to_owned();
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
            group: group["id"].as_str().unwrap().to_owned(),
        }
    }

    /// Kills and starts again, spread over the exchange: each time after another share of what is to be said was said.
    async fn kill_through(&mut self, plan: Plan, done: &AtomicUsize, counts: &mut Counts) {
        let all = 2 * plan.clients * plan.messages + plan.to_group() + plan.broadcasts();
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
        let texts = (0..plan.messages).map(|message| format!("down-{:02}-{message:04}", truck.number));
        let requests = texts.map(|text| Request::say(&url, &text)).collect();
        drivers.push(tokio::spawn(drive(truck, plan, done.clone())));
        offices.push(tokio::spawn(dispatch(
            requests,
            scene.token.clone(),
            done.clone(),
        )));
    }
    let everybody = tokio::spawn(dispatch(
        scene.to_everybody(plan),
        scene.token.clone(),
        done.clone(),
    ));
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
    let everybody = everybody.await.unwrap();

    // What became of it.
    let mut broken = Vec::new();
    let group = entries(&scene.server, &scene.token, &scene.trucks[0].group).await;
    let in_group: Vec<&str> = group.iter().map(String::as_str).collect();
    counts.asked += plan.to_group() + plan.broadcasts();
    counts.stored += everybody.len();
    counts.posted += everybody.len();
    counts.in_history += in_group.iter().filter(|text| !text.is_empty()).count();
    let (all, casts): (Vec<String>, Vec<String>) =
        everybody.into_iter().partition(|text| text.starts_with("all"));
    check(
        &mut broken,
        "history of the group",
        &in_group,
        "all",
        &all,
        &BTreeSet::new(),
    );
    let broadcasts = scene.broadcasts().await;
    let sent: Vec<&str> = broadcasts.iter().map(|(_, text)| text.as_str()).collect();
    counts.in_history += sent.len();
    check(
        &mut broken,
        "the broadcasts",
        &sent,
        "cast",
        &casts,
        &BTreeSet::new(),
    );
    for truck in &scene.trucks {
        let Truck {
            number,
            stream,
            credentials,
            ..
        } = truck;
        let history = entries(&scene.server, &scene.token, stream).await;
        let driver = &said[number];
        let texts: Vec<&str> = history.iter().map(String::as_str).collect();
        counts.asked += 2 * plan.messages;
        counts.stored += driver.stored.len() + posted[number].len();
        counts.posted += posted[number].len();
        counts.in_history += texts.len();
        let (to_group, to_office): (Vec<String>, Vec<String>) = driver
            .stored
            .iter()
            .cloned()
            .partition(|text| is_for_group(&text));
        let (doubt_group, doubt_office) = driver
            .in_doubt
            .iter()
            .cloned()
            .partition(|text| is_for_group(&text));
        check(
            &mut broken,
            &format!("history of truck {number}"),
            &texts,
            "up",
            &to_office,
            &doubt_office,
        );
        check(
            &mut broken,
            &format!("truck {number} in the group"),
            &in_group,
            &format!("up-{number:02}"),
            &to_group,
            &doubt_group,
        );
        check(
            &mut broken,
            &format!("history of truck {number}"),
            &texts,
            "down",
            &posted[number],
            &BTreeSet::new(),
        );

        let mut histories = BTreeMap::from([
            (stream.as_str(), texts.clone()),
            (truck.group.as_str(), in_group.clone()),
        ]);
        histories.extend(
            broadcasts
                .iter()
                .map(|(stream, text)| (stream.as_str(), vec![text.as_str()])),
        );
        for (stream, inbox) in final_inboxes(credentials, &histories).await {
            counts.in_inboxes += inbox.iter().filter(|text| !text.is_empty()).count();
            let expected = &histories[stream.as_str()];
            if inbox != *expected {
                broken.push(format!(
                    "truck {number}: its inbox of stream {stream} differs from the history: {} of {}",
                    inbox.len(),
                    expected.len()
                ));
            }
        }
        // Shown once: one line of the screen for each entry. A client that is killed between showing an entry and
        // noting that may show that one again.
        let mut seen: BTreeMap<(&str, u64), usize> = BTreeMap::new();
        for (stream, seq, text) in &driver.shown {
            *seen.entry((stream, *seq)).or_default() += 1;
            let entry = usize::try_from(*seq).unwrap() - 1;
            let said = histories
                .get(stream.as_str())
                .and_then(|history| history.get(entry));
            if said != Some(&text.as_str()) {
                broken.push(format!("truck {number}: showed {text:?} as {stream}/{seq}"));
            }
        }
        let again: usize = seen.values().map(|times| times - 1).sum();
        if again > plan.client_kills {
            broken.push(format!(
                "truck {number}: {again} entries were shown again after {} kills",
                plan.client_kills
            ));
        }
        let shown: BTreeSet<&str> = driver.shown.iter().map(|(_, _, text)| text.as_str()).collect();
        let for_it = posted[number].iter().chain(&all).chain(&casts);
        for text in for_it.filter(|text| !shown.contains(text.as_str())) {
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

/// What was said in a stream, entry for entry; nothing where somebody joined.
async fn entries(server: &Server, token: &str, stream: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
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
        let text = |entry: &Value| match entry["body"]["kind"].as_str().unwrap() {
            "system" => String::new(),
            _ => entry["body"]["text"].as_str().unwrap().to_owned(),
        };
        all.extend(items.iter().map(text));
    }
}

/// The template of the drivers' quick replies; its German words change with each version.
async fn put_template(server: &Server, token: &str, version: usize) {
    let body = template(version);
    let answer = http_client()
        .build()
        .unwrap()
        .put(server.url("/templates/said"))
        .bearer_auth(token)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

fn template(version: usize) -> Value {
    json!({
        "text": { "en": "{what}", "de": format!("{version}: {{what}}") },
        "slots": [{ "name": "what", "kind": "text" }],
    })
}

/// Something that the office asks of the server until it is done.
struct Request {
    method: reqwest::Method,
    url: String,
    body: Value,
    /// What it says, and its key; nothing for what may be done twice.
    text: Option<String>,
}

impl Request {
    fn say(url: &str, text: &str) -> Self {
        Self {
            method: reqwest::Method::POST,
            url: url.to_owned(),
            body: json!({ "body": { "kind": "text", "text": text } }),
            text: Some(text.to_owned()),
        }
    }
}

impl Scene {
    /// Messages in the group, and now and then a change of the templates and a broadcast.
    fn to_everybody(&self, plan: Plan) -> Vec<Request> {
        let group = self
            .server
            .url(&format!("/streams/{}/entries", self.trucks[0].group));
        let every = plan.to_group() / plan.broadcasts();
        let mut requests = Vec::new();
        for message in 0..plan.to_group() {
            requests.push(Request::say(&group, &format!("all-{message:04}")));
            let broadcast = message / every;
            if message % every == every - 1 && broadcast < plan.broadcasts() {
                requests.push(Request {
                    method: reqwest::Method::PUT,
                    url: self.server.url("/templates/said"),
                    body: template(broadcast + 1),
                    text: None,
                });
                let text = format!("cast-{broadcast:04}");
                let mut request = Request::say(&self.server.url("/broadcasts"), &text);
                request.body["to"] = json!({ "groups": [self.group] });
                requests.push(request);
            }
        }
        requests
    }

    /// The streams of all broadcasts and what they say, oldest first.
    async fn broadcasts(&self) -> Vec<(String, String)> {
        let list = self.server.read(&self.token, "/broadcasts?limit=500").await;
        let broadcasts = list["items"].as_array().unwrap().iter().rev();
        broadcasts
            .map(|broadcast| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (text(&broadcast["stream"]), text(&broadcast["body"]["text"]))
            })
            .collect()
    }
}

/// A dispatcher who asks for one thing after the other, each until it is accepted.
async fn dispatch(requests: Vec<Request>, token: String, done: Arc<AtomicUsize>) -> Vec<String> {
    let client = http_client().timeout(Duration::from_secs(5)).build().unwrap();
    let mut posted = Vec::new();
    for Request {
        method,
        url,
        body,
        text,
    } in requests
    {
        loop {
            let mut request = client
                .request(method.clone(), &url)
                .bearer_auth(&token)
                .json(&body);
            if let Some(text) = &text {
                request = request.header("Idempotency-Key", text);
            }
            match request.send().await {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) if answer.status().is_client_error() => panic!("{}", answer.text().await.unwrap()),
                // The server is gone or going: the same request again, under the same key.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        if let Some(text) = text {
            posted.push(text);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    posted
}

/// What a driver's client reported.
#[derive(Default)]
struct Driver {
    stored: Vec<String>,
    /// Said just before a kill, without an answer: it may or may not be stored.
    in_doubt: BTreeSet<String>,
    /// Stream, number, and what was said.
    shown: Vec<(String, u64, String)>,
}

/// A client process, killed and started again at random places of what it has to say.
async fn drive(truck: Truck, plan: Plan, done: Arc<AtomicUsize>) -> Driver {
    let (number, credentials) = (truck.number, &truck.credentials);
    let mut random = Random(number as u64 + 1);
    let mut kills: BTreeSet<usize> = BTreeSet::new();
    while kills.len() < plan.client_kills {
        kills.insert(1 + usize::try_from(random.below(plan.messages as u64 - 1)).unwrap());
    }
    let mut driver = Driver::default();
    let mut process = Chatter::start(credentials);
    for message in 0..plan.messages {
        let text = format!("up-{number:02}-{message:04}");
        process.say(&line(message, &text, &truck)).await;
        if kills.contains(&message) {
            tokio::time::sleep(Duration::from_micros(random.below(4_000))).await;
            driver.in_doubt.insert(text.clone());
            let heard = process.kill().await;
            heard.into_iter().for_each(|line| driver.hear(&line));
            if driver.stored.last() == Some(&text) {
                driver.in_doubt.remove(&text);
            }
            process = Chatter::start(credentials);
        } else {
            loop {
                let heard = process.hear().await;
                driver.hear(&heard);
                if driver.stored.last() == Some(&text) {
                    break;
                }
                if !heard["refused"].is_null() {
                    // The catalogue has not come yet; the driver sees that and tries again.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    process.say(&line(message, &text, &truck)).await;
                }
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        // A person with a thumb, not a flood: the dispatcher's messages get a chance to come in between.
        tokio::time::sleep(Duration::from_millis(random.below(20))).await;
    }
    // Until everything has arrived and has been shown.
    process.say("/drain").await;
    let expected = plan.messages + plan.to_group() + plan.broadcasts();
    let mut drained = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(240);
    while !drained || driver.shown_of_office() < expected {
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
            let said = text.strip_prefix("said what=").unwrap_or(text);
            self.stored.push(said.to_owned());
        }
        if let Some(seq) = line["shown"]["seq"].as_u64() {
            let text = line["shown"]["text"].as_str().unwrap().to_owned();
            self.shown.push((line["shown"]["stream"].to_string(), seq, text));
        }
    }

    /// How many different messages of the office were shown.
    fn shown_of_office(&self) -> usize {
        self.shown
            .iter()
            .filter(|(_, _, text)| {
                ["down", "all", "cast"]
                    .iter()
                    .any(|author| text.starts_with(author))
            })
            .map(|(stream, seq, _)| (stream, seq))
            .collect::<BTreeSet<_>>()
            .len()
    }
}

/// What a client has in its inbox of each stream at the end, once it holds as many entries as there are.
async fn final_inboxes(
    credentials: &Path,
    histories: &BTreeMap<&str, Vec<&str>>,
) -> BTreeMap<String, Vec<String>> {
    let mut process = Chatter::start(credentials);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut inboxes = BTreeMap::new();
    for (stream, expected) in histories {
        loop {
            process.say(&format!("/history {stream}")).await;
            let history = loop {
                let line = process.hear().await;
                if let Some(history) = line["history"].as_array() {
                    break history.clone();
                }
            };
            if history.len() >= expected.len() || tokio::time::Instant::now() > deadline {
                let texts = history
                    .iter()
                    .map(|entry| entry["text"].as_str().unwrap().to_owned());
                inboxes.insert((*stream).to_owned(), texts.collect());
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    process.close().await;
    inboxes
}
