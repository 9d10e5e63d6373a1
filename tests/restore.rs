//! A server that is put back to its backup while devices talk: what is on a device comes back, nobody sees anything twice, and
//! who follows the events is told where to go on.

use crate::chatter::Chatter;
use crate::server::{Server, WAYPOST, http_client, run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DEVICES: usize = 20;
/// How long anything may take before the test says what is missing.
const PATIENCE: Duration = Duration::from_secs(100);

/// A device, and what its driver has seen.
struct Driver {
    name: String,
    stream: String,
    credentials: PathBuf,
    chatter: Option<Chatter>,
    shown: Vec<String>,
}

impl Driver {
    fn start(&mut self) {
        self.chatter = Some(Chatter::start(&self.credentials));
    }

    async fn stop(&mut self) {
        for heard in self.chatter.take().unwrap().kill().await {
            self.note(&heard);
        }
    }

    fn chatter(&mut self) -> &mut Chatter {
        self.chatter.as_mut().expect("the client runs")
    }

    async fn say(&mut self, line: &str) {
        self.chatter().say(line).await;
    }

    fn note(&mut self, heard: &Value) {
        if let Some(text) = heard["shown"]["text"].as_str().filter(|text| !text.is_empty()) {
            self.shown.push(text.to_owned());
        }
    }

    /// Listens until it has seen all of these.
    async fn sees(&mut self, expected: &BTreeSet<String>) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let missing: Vec<_> = expected
                .iter()
                .filter(|text| !self.shown.contains(text))
                .collect();
            if missing.is_empty() {
                return;
            }
            let heard = tokio::time::timeout_at(deadline, self.chatter.as_mut().unwrap().hear()).await;
            let heard = heard.unwrap_or_else(|_| panic!("{} does not see {missing:?}", self.name));
            self.note(&heard);
        }
    }

    /// What the inbox of a stream holds, in order.
    async fn history(&mut self, stream: &str) -> Vec<String> {
        self.say(&format!("/history {stream}")).await;
        loop {
            let heard = self.chatter().hear().await;
            if let Some(entries) = heard["history"].as_array() {
                let text = |entry: &Value| entry["text"].as_str().unwrap().to_owned();
                return entries.iter().map(text).collect();
            }
            self.note(&heard);
        }
    }
}

struct Scene {
    server: Server,
    token: String,
    drivers: Vec<Driver>,
    /// The stream of the group that all are in.
    group: String,
    backups: PathBuf,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::start();
        let token = server.sign_in().await;
        let mut drivers = Vec::new();
        let mut devices = Vec::new();
        for number in 0..DEVICES {
            let name = format!("truck-{number:02}");
            let (id, credentials) = server.add_device(&name);
            let device = server.read(&token, &format!("/devices/{id}")).await;
            devices.push(id);
            drivers.push(Driver {
                name,
                stream: device["stream"].as_str().unwrap().to_owned(),
                credentials,
                chatter: None,
                shown: Vec::new(),
            });
        }
        let group = json!({ "name": "Everybody", "devices": devices, "history": "all" });
        let group = server.post(&token, "/groups", &group).await;
        drivers.iter_mut().for_each(Driver::start);
        Self {
            token,
            drivers,
            group: group["stream"].as_str().unwrap().to_owned(),
            backups: server.folder().join("backups"),
            server,
        }
    }

    /// Everybody says something to the office and in the group, and the office to everybody.
    async fn talk(&mut self, when: &str) {
        for driver in &mut self.drivers {
            let (name, group) = (driver.name.clone(), self.group.clone());
            driver.say(&format!("{when} office {name}")).await;
            driver.say(&format!("/to {group} {when} group {name}")).await;
            let body = json!({ "body": { "kind": "text", "text": format!("{when} down {name}") } });
            let path = format!("/streams/{}/entries", driver.stream);
            self.server.post(&self.token, &path, &body).await;
        }
    }

    /// What a driver sees of that.
    fn seen(&self, driver: &Driver, when: &str) -> BTreeSet<String> {
        let in_group = self
            .drivers
            .iter()
            .map(|other| format!("{when} group {}", other.name));
        let own = ["office", "down"].map(|what| format!("{when} {what} {}", driver.name));
        in_group.chain(own).collect()
    }

    async fn all_see(&mut self, when: &str) {
        for number in 0..self.drivers.len() {
            let expected = self.seen(&self.drivers[number], when);
            self.drivers[number].sees(&expected).await;
        }
    }

    fn back_up(&self) -> Value {
        let answer = run(&[
            "--json",
            "backup",
            "--to",
            text(&self.backups),
            "--data",
            text(&self.data()),
        ]);
        serde_json::from_str(&answer).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.server.folder().join("data")
    }

    /// The entries of a stream that say something, by their words.
    async fn entries(&self, stream: &str) -> Vec<Value> {
        let path = format!("/streams/{stream}/entries?after=0&limit=200");
        let page = self.server.read(&self.token, &path).await;
        let items = page["items"].as_array().unwrap().iter();
        items
            .filter(|entry| entry["body"]["kind"] == "text")
            .cloned()
            .collect()
    }

    /// Waits until the history of a stream holds all of these; gives it.
    async fn history(&self, stream: &str, expected: &BTreeSet<String>) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let entries = self.entries(stream).await;
            let words: BTreeSet<String> = entries.iter().map(words).collect();
            let missing: Vec<_> = expected.difference(&words).collect();
            if missing.is_empty() {
                return entries;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "stream {stream} lacks {missing:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    async fn events(&self, after: &str) -> reqwest::Response {
        let path = format!("/events?after={after}&limit=200&types=waypost.entry.accepted");
        let request = http_client().build().unwrap().get(self.server.url(&path));
        request.bearer_auth(&self.token).send().await.unwrap()
    }
}

fn words(entry: &Value) -> String {
    entry["body"]["text"].as_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Of each text how often it is there.
fn twice<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.retain(|_, count| *count > 1);
    counts.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_server_gets_back_what_devices_have_and_nobody_sees_anything_twice() {
    let mut scene = Scene::set().await;
    scene.talk("before").await;
    // While they talk.
    let first = tokio::task::block_in_place(|| scene.back_up());
    scene.all_see("before").await;
    let second = tokio::task::block_in_place(|| scene.back_up());
    let bytes = |backup: &Value, which: &str| backup["written"][which].as_u64().unwrap();
    assert!(
        bytes(&first, "bytes") > 0 && bytes(&second, "bytes_there") > 0,
        "{first} {second}"
    );
    let newest = scene.server.read(&scene.token, "/events?after=&limit=200").await;
    assert_ne!(newest["items"].as_array().unwrap().len(), 0);

    scene.talk("lost").await;
    scene.all_see("lost").await;
    let mut lost_cursor = String::new();
    loop {
        let page: Value = scene.events(&lost_cursor).await.json().await.unwrap();
        lost_cursor = page["next"].as_str().unwrap().to_owned();
        if page["items"].as_array().unwrap().is_empty() {
            break;
        }
    }
    let before_the_loss = scene.entries(&scene.group).await;
    // Some are not there when it happens, and have something to say.
    for driver in &mut scene.drivers[..5] {
        let name = driver.name.clone();
        driver.say(&format!("lost last {name}")).await;
        loop {
            let heard = driver.chatter().hear().await;
            driver.note(&heard);
            if heard["stored"] == format!("lost last {name}") {
                break;
            }
        }
        driver.stop().await;
    }
    scene.server.kill();
    let data = scene.data();
    let from = text(&scene.backups).to_owned();
    run(&["restore", "--check", "--from", &from]);
    std::fs::rename(&data, data.with_extension("lost")).unwrap();
    run(&["restore", "--from", &from, "--data", text(&data)]);
    tokio::task::block_in_place(|| scene.server.restart());
    scene.drivers[..5].iter_mut().for_each(Driver::start);
    scene.talk("after").await;
    // Everything that was on a device is there again, once, by whom and when it was said.
    let said = |what: &str| -> BTreeSet<String> {
        let drivers = scene.drivers.iter();
        drivers.map(|driver| format!("{what} {}", driver.name)).collect()
    };
    let in_group = ["before", "lost", "after"].map(|when| said(&format!("{when} group")));
    let entries = scene
        .history(&scene.group, &in_group.iter().flatten().cloned().collect())
        .await;
    let texts: Vec<String> = entries.iter().map(words).collect();
    assert_eq!(twice(&texts), [""; 0]);
    for old in &before_the_loss {
        let new = entries.iter().find(|new| words(new) == words(old)).unwrap();
        for what in ["id", "author"] {
            assert_eq!(new[what], old[what], "{new}");
        }
        // To the second, as the device tells it.
        assert!(
            seconds(&new["device_at"]).abs_diff(seconds(&old["device_at"])) <= 2,
            "{new} {old}"
        );
    }
    for number in 0..DEVICES {
        let (name, stream) = (&scene.drivers[number].name, &scene.drivers[number].stream);
        let mut own: BTreeSet<String> = ["before", "lost", "after"]
            .map(|when| format!("{when} office {name}"))
            .into();
        own.extend(["before", "after"].map(|when| format!("{when} down {name}")));
        own.extend((number < 5).then(|| format!("lost last {name}")));
        let texts: Vec<String> = scene.history(stream, &own).await.iter().map(words).collect();
        assert_eq!(twice(&texts), [""; 0], "{name}");
        assert_eq!(
            texts.len(),
            own.len(),
            "what the office said last is lost: {texts:?}"
        );
    }
    // Nobody sees anything twice, and every inbox is as the history is.
    scene.all_see("after").await;
    for number in 0..DEVICES {
        for stream in [scene.drivers[number].stream.clone(), scene.group.clone()] {
            let expected: Vec<String> = scene.entries(&stream).await.iter().map(words).collect();
            let driver = &mut scene.drivers[number];
            let mut inbox = driver.history(&stream).await;
            inbox.retain(|text| !text.is_empty());
            assert_eq!(inbox, expected, "the inbox of {}", driver.name);
        }
        let driver = &scene.drivers[number];
        assert_eq!(twice(&driver.shown), [""; 0], "{}", driver.name);
    }

    // And who followed the events is told where to go on, and misses nothing from there.
    let gone = scene.events(&lost_cursor).await;
    assert_eq!(gone.status(), 410);
    let mut after = gone.json::<Value>().await.unwrap()["resume_after"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut told = BTreeSet::new();
    loop {
        let page: Value = scene.events(&after).await.json().await.unwrap();
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        for event in items {
            let text = event["data"]["entry"]["body"]["text"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(told.insert(text), "{event} is told twice");
        }
        after = page["next"].as_str().unwrap().to_owned();
    }
    // Two of each that were lost, five that waited, and three of each that came after.
    assert_eq!(told.len(), 2 * DEVICES + 5 + 3 * DEVICES);
}

fn seconds(time: &Value) -> i64 {
    let time = time.as_str().unwrap();
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(time, format)
        .unwrap()
        .unix_timestamp()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_damaged_is_named_and_nothing_is_restored() {
    let mut server = Server::start();
    let folder = server.folder().to_owned();
    let [data, to, new] = ["data", "backups", "new"].map(|name| folder.join(name));
    let fails = |arguments: &[&str], expected: &str| {
        let output = Command::new(WAYPOST).args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && errors.contains(expected),
            "{arguments:?}: {errors}"
        );
    };
    fails(
        &["restore", "--check", "--from", text(&to)],
        "there is no backup in",
    );
    run(&["backup", "--to", text(&to), "--data", text(&data)]);
    fails(
        &["restore", "--from", text(&to), "--data", text(&data)],
        "uses the data folder",
    );
    server.kill();
    fails(
        &["restore", "--from", text(&to), "--data", text(&data)],
        "holds a store already",
    );
    // Of a server that does not run it is the same.
    let again = run(&[
        "--json",
        "backup",
        "--to",
        text(&to),
        "--data",
        text(&data),
        "--keep",
        "1",
    ]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["removed"], 1, "{again}");
    run(&["restore", "--check", "--from", text(&to)]);
    run(&["restore", "--from", text(&to), "--data", text(&new)]);
    for file in ["admin.token", "tls/authority.pem"] {
        let [old, new] = [&data, &new].map(|folder| std::fs::read(folder.join(file)).ok());
        assert_eq!(old, new, "{file}");
    }

    let shelf = std::fs::read_dir(to.join("blocks"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let block = std::fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path();
    let mut content = std::fs::read(&block).unwrap();
    content[0] ^= 1;
    std::fs::write(&block, content).unwrap();
    let third = folder.join("third");
    let name = block.file_name().unwrap().to_str().unwrap().to_owned();
    fails(&["restore", "--check", "--from", text(&to)], &name);
    fails(&["restore", "--from", text(&to), "--data", text(&third)], &name);
    assert!(!third.exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_over_http_gives_back_what_the_server_had_and_is_for_administrators_alone() {
    let mut server = Server::start();
    let token = server.sign_in().await;
    let (device, credentials) = server.add_device("truck-1");
    let device = server.read(&token, &format!("/devices/{device}")).await;
    let path = format!("/streams/{}/entries", device["stream"].as_str().unwrap());
    let body = json!({ "body": { "kind": "text", "text": "Dock 4" } });
    server.post(&token, &path, &body).await;
    let key = json!({ "name": "erp", "role": "integration" });
    let key = server.post(&token, "/keys", &key).await;
    let to = server.folder().join("backups");
    let url = format!("http://{}", server.http);
    let back_up = |token: &str| {
        let arguments = [
            "--json",
            "backup",
            "--to",
            text(&to),
            "--server",
            &url,
            "--token",
            token,
        ];
        Command::new(WAYPOST).args(arguments).output().unwrap()
    };
    let refused = back_up(key["token"].as_str().unwrap());
    assert_eq!(refused.status.code(), Some(1));
    let nothing = Command::new(WAYPOST)
        .args(["restore", "--check", "--from", text(&to)])
        .output()
        .unwrap();
    assert!(!nothing.status.success(), "what was refused is no backup");

    let answer = back_up(&token);
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert!(answer["records"].as_u64().unwrap() > 0, "{answer}");
    server.kill();
    let data = server.folder().join("data");
    std::fs::rename(&data, data.with_extension("lost")).unwrap();
    // By another engine, as the server elsewhere did not say which one it has.
    std::fs::write(
        server.folder().join("waypost.toml"),
        "[store]\nengine = \"sled\"\n",
    )
    .unwrap();
    run(&[
        "restore",
        "--from",
        text(&to),
        "--data",
        text(&data),
        "--engine",
        "sled",
    ]);
    // What it is told to keep beside the backup, so that devices know the server.
    std::fs::rename(data.with_extension("lost").join("tls"), data.join("tls")).unwrap();
    tokio::task::block_in_place(|| server.restart());
    let entries = server.read(&token, &path).await;
    assert_eq!(words(&entries["items"][0]), "Dock 4", "{entries}");
    // Its secret is among what was backed up.
    let credentials = text(&credentials);
    let sent = run(&["--json", "driver", "--as", credentials, "send", "Under way"]);
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!((&sent["state"], &sent["seq"]), (&json!("accepted"), &json!(2)));
}
