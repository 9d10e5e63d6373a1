//! Two of what there should be one of: servers on one data folder, clones of a tablet, processes on a state folder; and
//! devices whose disk is not the one that the server knows. Each is told apart, and nothing of either side is lost.

use crate::chatter::Chatter;
use crate::server::{ANY, Server, WAYPOST, http_client, launch, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use waypost_field_client::{Client, Credentials, OpenError, Options};

/// How long anything may take before the test says what is missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a server whose data another one has taken over ends with.
const TAKEN_OVER: i32 = 3;

/// A server with a device, and what the office sees.
struct Scene {
    server: Server,
    token: String,
    device: String,
    credentials: PathBuf,
    stream: String,
}

impl Scene {
    async fn set(fault: Option<&str>) -> Self {
        let server = Server::start_with(fault);
        let token = server.sign_in().await;
        let (device, credentials) = server.add_device("truck-1");
        let described = server.read(&token, &format!("/devices/{device}")).await;
        Self {
            stream: described["stream"].as_str().unwrap().to_owned(),
            server,
            token,
            device,
            credentials,
        }
    }

    fn data(&self) -> PathBuf {
        self.server.folder().join("data")
    }

    /// Where the device keeps its state.
    fn state(&self) -> PathBuf {
        self.credentials.with_extension("state")
    }

    fn path(&self) -> String {
        format!("/streams/{}/entries", self.stream)
    }

    /// The office writes; gives the entry's number.
    async fn post(&self, text: &str) -> u64 {
        let posted = self.server.post(&self.token, &self.path(), &body(text)).await;
        posted["seq"].as_u64().unwrap()
    }

    async fn entries(&self) -> Vec<Value> {
        let path = format!("{}?after=0&limit=200", self.path());
        let page = self.server.read(&self.token, &path).await;
        page["items"].as_array().unwrap().clone()
    }

    async fn texts(&self) -> Vec<String> {
        self.entries().await.iter().map(text_of).collect()
    }

    /// Waits until the office has all of these.
    async fn until_said(&self, expected: &[&str]) {
        self.until(|scene| async move {
            let texts = scene.texts().await;
            expected
                .iter()
                .find(|text| !texts.contains(&(**text).to_owned()))
                .map(|missing| format!("{missing:?} among {texts:?}"))
        })
        .await;
    }

    /// Waits until there is an event that tells the administrator of the fork.
    async fn until_forked(&self) {
        self.until(|scene| async move {
            let page = scene
                .server
                .read(&scene.token, "/events?after=&types=waypost.device.forked")
                .await;
            let subject = format!("device/{}", scene.device);
            let told = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .any(|event| event["subject"] == subject.as_str());
            (!told).then(|| "the event waypost.device.forked".to_owned())
        })
        .await;
    }

    /// The device's receipt of an entry, once it was read.
    async fn receipt(&self, seq: u64) -> Value {
        let path = format!("/streams/{}/receipts?seq={seq}", self.stream);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.server.read(&self.token, &path).await;
            let row = rows["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["member"]["kind"] == "device" && row["read"].is_object());
            if let Some(row) = row {
                return row.clone();
            }
            assert!(Instant::now() < deadline, "entry {seq} is not read: {rows}");
        }
    }

    /// Looks until nothing is missing any more.
    async fn until<'a, F: Future<Output = Option<String>> + 'a>(&'a self, missing: impl Fn(&'a Self) -> F) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(missing) = missing(self).await {
            assert!(Instant::now() < deadline, "there is not {missing}");
        }
    }
}

fn body(text: &str) -> Value {
    json!({ "body": { "kind": "text", "text": text } })
}

fn text_of(entry: &Value) -> String {
    entry["body"]["text"].as_str().unwrap_or_default().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // Not the socket of a client that has ended.
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Hears until something is so; gives it.
async fn hears(chatter: &mut Chatter, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let heard = timeout_at(deadline, chatter.hear()).await;
        let heard = heard.expect("what is waited for is not heard");
        if is_it(&heard) {
            return heard;
        }
    }
}

async fn sees(chatter: &mut Chatter, text: &str) {
    hears(chatter, |heard| heard["shown"]["text"] == text).await;
}

/// Says something and waits until the server has it.
async fn says(chatter: &mut Chatter, text: &str) {
    chatter.say(text).await;
    chatter.say("/drain").await;
    let drained = hears(chatter, |heard| heard["waiting"].is_u64()).await;
    assert_eq!(drained["waiting"], 0, "{text}");
}

/// What the device's inbox holds once it is as the office's history, which it is in the end.
async fn has_the_history(chatter: &mut Chatter, scene: &Scene) {
    let expected = scene.texts().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        chatter.say("/history").await;
        let heard = hears(chatter, |heard| heard["history"].is_array()).await;
        let inbox: Vec<&str> = heard["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["text"].as_str().unwrap())
            .collect();
        if inbox == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{inbox:?} is not {expected:?}");
    }
}

/// A second `waypost serve` on the same data.
fn serve_again(scene: &Scene) -> Output {
    let mut command = Command::new(WAYPOST);
    command.args(["serve", "--data", text(&scene.data())]);
    for flag in ["--http", "--https", "--mqtt", "--mqtts"] {
        command.args([flag, ANY]);
    }
    command.output().unwrap()
}

/// The locks of the data folder and of the store are gone, as where the file system has none.
fn take_locks_away(scene: &Scene) {
    for lock in ["lock", "store/lock"] {
        std::fs::remove_file(scene.data().join(lock)).unwrap();
    }
    // fjall opens that of a store that there is.
    std::fs::File::create(scene.data().join("store/lock")).unwrap();
}

/// A server that is started again and again would take the data from the other one.
fn ended_as_taken_over(first: &mut Server, second: &Child) {
    let (status, log) = first.ended();
    assert_eq!(status.code(), Some(TAKEN_OVER), "{log}");
    let by = format!("process id {}", second.id());
    let said = log.lines().find(|line| line.starts_with("error: "));
    let said = said.unwrap_or_else(|| panic!("it says nothing: {log}"));
    for part in [by.as_str(), "has taken over the store", " since 20"] {
        assert!(said.contains(part), "{said}");
    }
}

/// Posts to a server at an address; whether it took it.
async fn post_to(http: &str, scene: &Scene, text: &str) -> bool {
    let url = format!("http://{http}/api/v1{}", scene.path());
    let client = http_client().timeout(Duration::from_secs(10)).build().unwrap();
    let request = client.post(url).bearer_auth(&scene.token).json(&body(text));
    request.send().await.is_ok_and(|answer| answer.status() == 201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_on_one_data_folder_the_second_refuses_and_names_the_first() {
    let scene = Scene::set(None).await;
    let second = serve_again(&scene);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let (pid, server) = (scene.server.process_id(), &scene.server);
    for part in [
        format!("process id {pid}"),
        format!("http={}", server.http),
        format!("https={}", server.https),
        format!("mqtt={}", server.mqtt),
        format!("mqtts={}", server.mqtts),
    ] {
        assert!(said.contains(&part), "{said}");
    }
    // With one lock left it refuses as well, and the first goes on.
    std::fs::remove_file(scene.data().join("lock")).unwrap();
    let second = serve_again(&scene);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("process id {pid}")), "{said}");
    assert_eq!(scene.post("goes on").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_locks_are_gone_ends_when_another_one_takes_over_and_nothing_acknowledged_is_lost() {
    let mut scene = Scene::set(None).await;
    let mut acknowledged = Vec::new();
    take_locks_away(&scene);
    let folder = scene.server.folder().to_owned();
    let mut taking_over = tokio::task::spawn_blocking(move || launch(&folder, [ANY; 4], None));
    // It posts while it is taken over, and ends by the first commit after that.
    let deadline = Instant::now() + PATIENCE;
    let first = scene.server.http.clone();
    for number in 0.. {
        let text = format!("first {number}");
        if !post_to(&first, &scene, &text).await {
            break;
        }
        acknowledged.push(text);
        assert!(
            Instant::now() < deadline,
            "the first server goes on beside the second"
        );
    }
    let (mut second, ready) = (&mut taking_over).await.unwrap();
    ended_as_taken_over(&mut scene.server, &second);
    let http = ready["ready"]["http"].as_str().unwrap().to_owned();
    for number in 0..5 {
        let text = format!("second {number}");
        assert!(post_to(&http, &scene, &text).await, "{text}");
        acknowledged.push(text);
    }
    // `server.json` is the second one's, too.
    let named = run(&["--json", "device", "list", "--data", text(&scene.data())]);
    assert!(named.contains("truck-1"), "{named}");
    second.kill().unwrap();
    second.wait().unwrap();
    tokio::task::block_in_place(|| scene.server.restart());
    let texts = scene.texts().await;
    let kept: Vec<&String> = texts.iter().filter(|text| acknowledged.contains(text)).collect();
    assert_eq!(
        kept,
        acknowledged.iter().collect::<Vec<_>>(),
        "each once and in its order"
    );
    assert!(texts.len() <= acknowledged.len() + 1, "{texts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_nothing_to_do_ends_when_another_one_takes_over() {
    let mut scene = Scene::set(None).await;
    assert_eq!(scene.post("before").await, 1);
    take_locks_away(&scene);
    let folder = scene.server.folder().to_owned();
    let (mut second, ready) = tokio::task::block_in_place(|| launch(&folder, [ANY; 4], None));
    tokio::task::block_in_place(|| ended_as_taken_over(&mut scene.server, &second));
    let http = ready["ready"]["http"].as_str().unwrap();
    assert!(post_to(http, &scene, "after").await);
    second.kill().unwrap();
    second.wait().unwrap();
    tokio::task::block_in_place(|| scene.server.restart());
    assert_eq!(scene.texts().await, ["before", "after"]);
}

#[cfg(feature = "fault-injection")]
#[test]
fn fault_a_store_without_its_fence_is_noticed() {
    crate::fault::must_fail(
        "store-fence",
        "owners::a_server_whose_locks_are_gone_ends_when_another_one_takes_over_and_nothing_acknowledged_is_lost",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_two_clones_of_a_tablet_say_arrives_once_and_the_administrator_is_told() {
    let scene = Scene::set(None).await;
    let mut tablet = Chatter::start(&scene.credentials);
    says(&mut tablet, "before").await;
    tablet.close().await;
    let clone_of_credentials = scene.server.folder().join("clone.json");
    std::fs::copy(&scene.credentials, &clone_of_credentials).unwrap();
    copy_folder(&scene.state(), &clone_of_credentials.with_extension("state"));

    // Both are one client to the broker, and take the session from one another as long as both run.
    let mut tablet = Chatter::start(&scene.credentials);
    let mut clone = Chatter::start(&clone_of_credentials);
    let mut expected = vec!["before".to_owned()];
    for number in 0..3 {
        for (chatter, who) in [(&mut tablet, "tablet"), (&mut clone, "clone")] {
            let text = format!("{who} {number}");
            chatter.say(&text).await;
            hears(chatter, |heard| heard["stored"] == text.as_str()).await;
            expected.push(text);
        }
    }
    let all: Vec<&str> = expected.iter().map(String::as_str).collect();
    scene.until_said(&all).await;
    scene.until_forked().await;
    // Each alone has what both have said, and goes on.
    clone.close().await;
    says(&mut tablet, "tablet alone").await;
    tablet.close().await;
    let mut clone = Chatter::start(&clone_of_credentials);
    says(&mut clone, "clone alone").await;
    has_the_history(&mut clone, &scene).await;
    clone.close().await;
    let mut tablet = Chatter::start(&scene.credentials);
    has_the_history(&mut tablet, &scene).await;
    tablet.close().await;

    let entries = scene.entries().await;
    let texts: Vec<String> = entries.iter().map(text_of).collect();
    expected.extend(["tablet alone", "clone alone"].map(str::to_owned));
    let (once, wanted): (BTreeSet<_>, BTreeSet<_>) = (texts.iter().collect(), expected.iter().collect());
    assert_eq!((texts.len(), &once), (expected.len(), &wanted), "each once");
    for who in ["tablet", "clone"] {
        let own: Vec<&String> = texts.iter().filter(|text| text.starts_with(who)).collect();
        let in_order = [0, 1, 2].map(|number| format!("{who} {number}"));
        assert_eq!(
            own[..3],
            in_order.iter().collect::<Vec<_>>(),
            "in its author's order"
        );
    }
    // An identity is made of device, epoch and number: the epochs are two.
    let identities: BTreeSet<&str> = entries
        .iter()
        .map(|entry| entry["id"].as_str().unwrap())
        .collect();
    assert_eq!(identities.len(), entries.len());
}

/// A tablet, closed, and the credentials of a clone of it with a state folder of its own.
async fn a_tablet_and_its_clone(scene: &Scene) -> PathBuf {
    let mut tablet = Chatter::start(&scene.credentials);
    says(&mut tablet, "before").await;
    tablet.close().await;
    let clone = scene.server.folder().join("clone.json");
    std::fs::copy(&scene.credentials, &clone).unwrap();
    copy_folder(&scene.state(), &clone.with_extension("state"));
    clone
}

/// Says something while there is no server, and ends: the next process cannot know whether it was sent.
async fn says_to_nobody(credentials: &Path, text: &str) {
    let mut chatter = Chatter::start(credentials);
    chatter.say(text).await;
    hears(&mut chatter, |heard| heard["stored"] == text).await;
    chatter.close().await;
}

/// Both have said what they said, once, and one fork was told.
async fn nothing_is_lost_and_one_fork_is_told(scene: &Scene, mut clone: Chatter) {
    scene
        .until_said(&["before", "of the tablet", "of the clone"])
        .await;
    scene.until_forked().await;
    says(&mut clone, "goes on").await;
    has_the_history(&mut clone, scene).await;
    assert_eq!(
        scene.texts().await,
        ["before", "of the tablet", "of the clone", "goes on"]
    );
    let page = scene
        .server
        .read(&scene.token, "/events?after=&types=waypost.device.forked")
        .await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
    clone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_a_clone_from_before_its_restart_arrive_though_the_server_has_forgotten_the_tablets_tags() {
    let mut scene = Scene::set(None).await;
    let clone = a_tablet_and_its_clone(&scene).await;
    let mut tablet = Chatter::start(&scene.credentials);
    says(&mut tablet, "of the tablet").await;
    tablet.close().await;
    scene.server.kill();
    says_to_nobody(&clone, "of the clone").await;
    tokio::task::block_in_place(|| scene.server.restart());
    nothing_is_lost_and_one_fork_is_told(&scene, Chatter::start(&clone)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_a_clone_from_before_its_restart_arrive_though_its_tag_is_later_than_the_tablets() {
    let mut scene = Scene::set(None).await;
    let clone = a_tablet_and_its_clone(&scene).await;
    for number in 0..3 {
        let text = format!("down {number}");
        let mut idle = Chatter::start(&clone);
        scene.post(&text).await;
        sees(&mut idle, &text).await;
        idle.close().await;
    }
    scene.server.kill();
    says_to_nobody(&clone, "of the clone").await;
    tokio::task::block_in_place(|| scene.server.restart());
    let mut tablet = Chatter::start(&scene.credentials);
    says(&mut tablet, "of the tablet").await;
    tablet.close().await;
    let clone = Chatter::start(&clone);
    scene.until_said(&["of the clone"]).await;
    let texts = scene.texts().await;
    for text in ["of the tablet", "of the clone"] {
        assert_eq!(texts.iter().filter(|said| *said == text).count(), 1, "{texts:?}");
    }
    clone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_whose_disk_went_back_a_day_loses_nothing_and_says_nothing_twice() {
    let scene = Scene::set(None).await;
    let kept = scene.server.folder().join("kept");
    let mut tablet = Chatter::start(&scene.credentials);
    scene.post("first down").await;
    sees(&mut tablet, "first down").await;
    says(&mut tablet, "first up").await;
    tablet.close().await;
    copy_folder(&scene.state(), &kept);
    let mut tablet = Chatter::start(&scene.credentials);
    let seq = scene.post("second down").await;
    sees(&mut tablet, "second down").await;
    says(&mut tablet, "second up").await;
    let receipt = scene.receipt(seq).await;
    tablet.close().await;

    std::fs::remove_dir_all(scene.state()).unwrap();
    copy_folder(&kept, &scene.state());
    let mut tablet = Chatter::start(&scene.credentials);
    // Under the number that the other one had.
    says(&mut tablet, "third up").await;
    sees(&mut tablet, "second down").await;
    scene.until_forked().await;
    says(&mut tablet, "fourth up").await;
    has_the_history(&mut tablet, &scene).await;
    let expected = [
        "first down",
        "first up",
        "second down",
        "second up",
        "third up",
        "fourth up",
    ];
    assert_eq!(scene.texts().await, expected);
    assert_eq!(
        scene.receipt(seq).await,
        receipt,
        "it was delivered and read before"
    );
    tablet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_lost_its_database_gets_its_history_again_and_goes_on() {
    let scene = Scene::set(None).await;
    let mut tablet = Chatter::start(&scene.credentials);
    let seq = scene.post("down").await;
    sees(&mut tablet, "down").await;
    says(&mut tablet, "up").await;
    let receipt = scene.receipt(seq).await;
    tablet.close().await;

    std::fs::remove_dir_all(scene.state()).unwrap();
    let mut tablet = Chatter::start(&scene.credentials);
    sees(&mut tablet, "down").await;
    // Its numbers begin again, in an epoch of their own: the same words are another message.
    says(&mut tablet, "up").await;
    scene.post("goes on").await;
    sees(&mut tablet, "goes on").await;
    has_the_history(&mut tablet, &scene).await;
    assert_eq!(scene.texts().await, ["down", "up", "up", "goes on"]);
    assert_eq!(
        scene.receipt(seq).await,
        receipt,
        "it was delivered and read before"
    );
    tablet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_a_state_folder_one_holds_it_and_the_others_hand_over_or_are_told_so() {
    let scene = Scene::set(None).await;
    let state = scene.server.folder().join("driver");
    let driver = [
        "driver",
        "--as",
        text(&scene.credentials),
        "--state",
        text(&state),
    ];
    let mut listener = Command::new(WAYPOST)
        .arg("--json")
        .args(driver)
        .arg("listen")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    scene.post("are you there").await;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(listener.stdout.take().unwrap()));
    let reading = tokio::task::spawn_blocking(move || (lines.next(), lines));
    // Whoever prints into a pipe that nobody reads any more ends.
    let (heard, _lines) = reading.await.unwrap();
    let heard: Value = serde_json::from_str(&heard.unwrap().unwrap()).unwrap();
    assert_eq!(heard["body"]["text"], "are you there");

    let sent = run(&[&["--json"][..], &driver, &["send", "handed over"]].concat());
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["state"], "accepted", "{sent}");
    let open = async || {
        let credentials = Credentials::read(&scene.credentials).unwrap();
        Client::open(credentials, &state, Options::default()).await
    };
    let refused = open().await.err().expect("the folder is in use");
    assert!(matches!(refused, OpenError::InUse), "{refused}");
    assert!(
        refused.to_string().contains("end that one, or hand over to it"),
        "{refused}"
    );

    listener.kill().unwrap();
    listener.wait().unwrap();
    let client = open().await.expect("nobody holds it any more");
    client.close().await.unwrap();
    let sent = run(&[&["--json"][..], &driver, &["send", "by itself"]].concat());
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["state"], "accepted", "{sent}");
    assert_eq!(scene.texts().await, ["are you there", "handed over", "by itself"]);
}
