//! A small disk of its own for the data folder, filled by the test: what is refused, in which order, that nothing
//! accepted is lost, and that everything which waited arrives without a restart. Mounting takes root; where that is not
//! allowed the tests say so and pass.

use crate::server::Server;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use waypost_field_client::{Client, Credentials, Message, Options, Outcome};
use waypost_proto::Fix;

/// Longer than any answer takes, the longest wait of a device between two repetitions included.
const PATIENCE: Duration = Duration::from_secs(120);
const DISK_MB: u64 = 96;
const RESERVE_MB: u64 = 48;

/// A file system in memory at `data` of a test's folder.
struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// `None` where this process may not mount.
    fn mount(folder: &Path) -> Option<Self> {
        let mount = folder.join("data");
        std::fs::create_dir(&mount).unwrap();
        let options = format!("size={DISK_MB}m,mode=0700");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "waypost-test"])
            .arg(&mount)
            .output()
            .ok()?;
        if output.status.success() {
            return Some(Self { mount });
        }
        eprintln!("skipped: mounting a file system in memory is not allowed here");
        None
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.mount).unwrap();
        found.f_bavail * found.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Writes, or takes away, as much as it takes until so many bytes are free.
    fn leave_free(&self, bytes: u64) {
        let taken = std::fs::metadata(self.ballast()).map_or(0, |ballast| ballast.len());
        let (free, wanted) = (self.free(), bytes);
        let mut ballast = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .unwrap();
        if free < wanted {
            ballast.set_len(taken.saturating_sub(wanted - free)).unwrap();
            return;
        }
        let block = vec![0xaa; 65_536];
        let mut left = free - wanted;
        while left > 0 {
            let part = usize::try_from(left).unwrap().min(block.len());
            match ballast.write(&block[..part]) {
                Ok(written) => left -= written as u64,
                // The store wrote as well.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A server that is about to die may still hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// A server whose data are on a small disk, or nothing where there can be none.
fn server_on_disk(reserve_mb: u64) -> Option<(Server, Disk)> {
    let folder = TempDir::new().unwrap();
    let disk = Disk::mount(folder.path())?;
    let settings = format!("[store]\ndisk_reserve_mb = {reserve_mb}\n");
    std::fs::write(folder.path().join("waypost.toml"), settings).unwrap();
    Some((Server::start_in(folder, None), disk))
}

async fn text_of(server: &Server, path: &str) -> String {
    let answer = crate::server::http_client()
        .build()
        .unwrap()
        .get(format!("http://{}{path}", server.http))
        .send()
        .await
        .unwrap();
    answer.text().await.unwrap()
}

/// What `/readyz` says of the disk, once it says this.
async fn until_said(server: &Server, said: &str) {
    let reading = async { while !text_of(server, "/readyz").await.contains(said) {} };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("/readyz never said {said:?}"));
}

async fn refusals(server: &Server) -> f64 {
    let name = "waypost_bridge_refusals_total{reason=\"REFUSAL_REASON_NO_SPACE\"} ";
    let text = text_of(server, "/metrics").await;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.parse().ok())
        .unwrap_or(0.0)
}

async fn until_refused(server: &Server, before: f64) {
    let reading = async { while refusals(server).await <= before {} };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("nothing was refused");
}

async fn post(server: &Server, token: &str, stream: &str, text: &str) -> Result<u16, reqwest::Error> {
    let answer = crate::server::http_client()
        .build()
        .unwrap()
        .post(server.url(&format!("/streams/{stream}/entries")))
        .timeout(Duration::from_secs(20))
        .bearer_auth(token)
        .json(&json!({ "body": { "kind": "text", "text": text } }))
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

async fn texts(server: &Server, token: &str, stream: &str) -> Vec<String> {
    let page = server
        .read(token, &format!("/streams/{stream}/entries?limit=500"))
        .await;
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|entry| entry["body"]["text"].as_str().unwrap().to_owned())
        .collect()
}

async fn stream_of(server: &Server, token: &str, device: &str) -> String {
    let device: Value = server.read(token, &format!("/devices/{device}")).await;
    device["stream"].as_str().unwrap().to_owned()
}

fn fix(seconds_ago: i64) -> Fix {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    Fix::from_degrees(i64::try_from(now).unwrap() - seconds_ago * 1_000, 52.5, 13.4).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_filled_to_the_reserve_refuses_in_order_and_everything_arrives_once_there_is_room() {
    let Some((server, disk)) = server_on_disk(RESERVE_MB) else {
        return;
    };
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-1");
    let stream = stream_of(&server, &token, &device).await;
    let state = server.folder().join("device");
    let client = Client::open(Credentials::read(&file).unwrap(), &state, Options::default())
        .await
        .unwrap();
    let say = async |text: &str| client.post_text(Message::to_office(text)).await.unwrap();
    let history = async || {
        let track = server.read(&token, &format!("/devices/{device}/track")).await;
        track["features"].as_array().unwrap().len()
    };
    until_said(&server, "\"space\":\"ok\"").await;

    // Files first: there are none yet, and nothing else is touched.
    disk.leave_free(RESERVE_MB * 1_000_000 * 5 / 6);
    until_said(&server, "files are refused").await;
    client.record(fix(30)).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.wait_drained(PATIENCE).await.unwrap(), 0);
    assert_eq!(history().await, 1);

    // Then history. Where the device is goes on being shown.
    disk.leave_free(RESERVE_MB * 1_000_000 / 2);
    until_said(&server, "history of positions").await;
    let before = refusals(&server).await;
    client.record(fix(20)).await.unwrap();
    client.flush().await.unwrap();
    until_refused(&server, before).await;
    let still = say("still taken").await;
    let accepted = client.wait_accepted(&still, PATIENCE).await.unwrap();
    assert!(matches!(accepted, Outcome::Accepted { .. }), "{accepted:?}");
    assert_eq!(
        post(&server, &token, &stream, "still written").await.unwrap(),
        201
    );
    assert_eq!(history().await, 1);

    // Then messages, in both directions; the office can still sign in.
    disk.leave_free(RESERVE_MB * 1_000_000 / 6);
    until_said(&server, "everything new is refused").await;
    let before = refusals(&server).await;
    let waiting = say("waits").await;
    until_refused(&server, before).await;
    assert_eq!(post(&server, &token, &stream, "refused").await.unwrap(), 507);
    assert_eq!(
        client.wait_accepted(&waiting, Duration::ZERO).await.unwrap(),
        Outcome::StillStored
    );
    assert_eq!(
        texts(&server, &token, &stream).await,
        ["still taken", "still written"]
    );
    server.sign_in().await;

    // Room, and nobody restarts anything.
    std::fs::remove_file(disk.ballast()).unwrap();
    until_said(&server, "\"space\":\"ok\"").await;
    assert_eq!(client.wait_drained(PATIENCE).await.unwrap(), 0);
    assert_eq!(post(&server, &token, &stream, "after all").await.unwrap(), 201);
    let expected = ["still taken", "still written", "waits", "after all"];
    assert_eq!(texts(&server, &token, &stream).await, expected);
    assert_eq!(history().await, 2);
    let log = std::fs::read_to_string(server.folder().join("server.log")).unwrap();
    for said in [
        "files are refused until",
        "files and the history of positions are refused until",
        "messages are refused until",
    ] {
        assert_eq!(
            log.matches(said).count(),
            1,
            "once for each change: {said}\n{log}"
        );
    }
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_ends_the_server_with_a_word_and_loses_nothing_that_was_acknowledged() {
    let Some((mut server, disk)) = server_on_disk(0) else {
        return;
    };
    let token = server.sign_in().await;
    let (device, _) = server.add_device("truck-1");
    let stream = stream_of(&server, &token, &device).await;
    disk.leave_free(0);
    let (mut acknowledged, text) = (Vec::new(), "x".repeat(4_000));
    // The last page of the journal may have room for some more.
    for number in 0.. {
        let text = format!("{number} {text}");
        match post(&server, &token, &stream, &text).await {
            Ok(201) => acknowledged.push(text),
            refused => {
                assert!(!matches!(refused, Ok(200..=299)), "{refused:?}");
                break;
            }
        }
        disk.leave_free(0);
    }
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Check the disk, its free space"), "{log}");

    std::fs::remove_file(disk.ballast()).unwrap();
    server.restart();
    let kept = texts(&server, &token, &stream).await;
    assert!(kept.len() <= acknowledged.len() + 1, "{}", kept.len());
    assert_eq!(kept[..acknowledged.len()], acknowledged);
    assert_eq!(post(&server, &token, &stream, "goes on").await.unwrap(), 201);
}
