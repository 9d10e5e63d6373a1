//! On the real binary: an instruction that is over, or that another has replaced, is never current for a driver.

use crate::server::{Server, WAYPOST};
use serde_json::{Value, json};
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn in_ms(ms: u64) -> String {
    let at = OffsetDateTime::from(SystemTime::now() + Duration::from_millis(ms));
    at.format(&Rfc3339).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instruction_that_is_over_or_replaced_is_never_current_for_a_driver() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-1");
    let stream = server.read(&token, &format!("/devices/{device}")).await["stream"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/streams/{stream}/entries");
    let post = async |text: &str, more: Value| {
        let mut body = json!({ "body": { "kind": "text", "text": text } });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        server.post(&token, &path, &body).await["seq"].as_u64().unwrap()
    };
    // While nobody is there, one ends and one is replaced.
    post("gate 1", json!({ "expires_at": in_ms(300) })).await;
    post("gate 2", json!({})).await;
    post("gate 3", json!({ "supersedes": 2 })).await;
    while server.read(&token, "/events?types=waypost.entry.expired").await["items"] == json!([]) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut listener = Command::new(WAYPOST)
        .args(["--json", "driver", "--as", file.to_str().unwrap()])
        .args(["listen", "--for", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(listener.stdout.take().unwrap()).lines();
    let mut next = || -> (u64, String) {
        let entry: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let standing = match entry["superseded_by"].as_u64() {
            Some(by) => format!("{} by {by}", entry["standing"].as_str().unwrap()),
            None => entry["standing"].as_str().unwrap().to_owned(),
        };
        (entry["seq"].as_u64().unwrap(), standing)
    };
    assert_eq!(next(), (3, "current".to_owned()), "the others never come");
    // On the screen, one is replaced and one ends.
    assert_eq!(post("gate 4", json!({ "supersedes": 3 })).await, 4);
    assert_eq!(next(), (3, "superseded by 4".to_owned()));
    assert_eq!(next(), (4, "current".to_owned()));
    assert_eq!(post("gate 5", json!({ "expires_at": in_ms(4_000) })).await, 5);
    assert_eq!(next(), (5, "current".to_owned()));
    assert_eq!(next(), (5, "expired".to_owned()), "without anybody asking");
    listener.kill().unwrap();
    listener.wait().unwrap();

    // Whole seconds travel to a device, so that it never takes an entry for current any longer than the server does.
    let entries = loop {
        let entries = server.read(&token, &path).await["items"].clone();
        if entries[4]["expired"] == json!(true) {
            break entries;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ends: Vec<(bool, Option<u64>)> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["expired"].as_bool().unwrap(),
                entry["superseded_by"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        ends,
        [
            (true, None),
            (false, Some(3)),
            (false, Some(4)),
            (false, None),
            (true, None)
        ]
    );
    let receipts = server
        .read(&token, &format!("/streams/{stream}/receipts?seq=1"))
        .await;
    let row = &receipts["items"][0];
    assert_eq!(
        (&row["delivered"], &row["expired"]["hop"]),
        (&Value::Null, &json!("server")),
        "{row}"
    );
}
