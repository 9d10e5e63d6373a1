//! A device that has lost its database gets what its driver needs, and the rest when somebody looks for it.

use crate::server::{Server, WAYPOST, run};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

const READ: u64 = 160;
const UNREAD: u64 = 5;

/// The objects that a command prints, one a line.
fn printed(arguments: &[&str]) -> Vec<Value> {
    let lines = run(arguments);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_lost_its_database_is_brought_up_to_date_and_pages_back() {
    let mut server = Server::start();
    let token = server.sign_in().await;
    let (device, path) = server.add_device("truck-1");
    let file = path.to_str().unwrap();
    let stream = server.read(&token, &format!("/devices/{device}")).await["stream"]
        .as_str()
        .unwrap()
        .to_owned();
    let entries = format!("/streams/{stream}/entries");
    let text = |number: u64| format!("Delivery {number}, gate {}", number % 7);
    run(&["driver", "--as", file, "send", &text(1)]);
    for number in 2..=READ {
        let body = json!({ "body": { "kind": "text", "text": text(number) } });
        server.post(&token, &entries, &body).await;
    }
    let mut listener = Command::new(WAYPOST)
        .args(["--json", "driver", "--as", file, "listen", "--for", "120s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let receipts = format!("/streams/{stream}/receipts?seq={READ}");
    loop {
        let rows = server.read(&token, &receipts).await;
        let rows = rows["items"].as_array().unwrap();
        if rows
            .iter()
            .any(|row| row["member"]["kind"] == "device" && row["read"].is_object())
        {
            break;
        }
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
    for number in READ + 1..=READ + UNREAD {
        let body = json!({ "body": { "kind": "text", "text": text(number) } });
        server.post(&token, &entries, &body).await;
    }

    std::fs::remove_dir_all(format!("{file}.state")).unwrap();
    let history = |arguments: &[&str]| {
        let all = [
            ["--json", "driver", "--as", file, "history"].as_slice(),
            arguments,
        ]
        .concat();
        printed(&all)
            .iter()
            .map(|entry| {
                let text = entry["body"]["text"].as_str().unwrap().to_owned();
                (entry["seq"].as_u64().unwrap(), text)
            })
            .collect::<Vec<_>>()
    };
    let expected = |from: u64, to: u64| (from..=to).map(|seq| (seq, text(seq))).collect::<Vec<_>>();
    let last = READ + UNREAD;
    // Each run is an installation that goes on where the one before it was.
    while history(&["--limit", "1"]) != expected(last, last) {}
    let status = printed(&["--json", "driver", "--as", file, "status"]).remove(0);
    assert_eq!(
        status["earlier"],
        json!([{ "stream": stream, "until": READ - 100 }])
    );
    // What is here comes first, then what is on the server.
    assert_eq!(history(&["--limit", "10", "--before", "66"]), expected(56, 65));
    let all = history(&["--stream", &stream, "--limit", "1000"]);
    assert_eq!(all, expected(1, last));
    let status = printed(&["--json", "driver", "--as", file, "status"]).remove(0);
    assert_eq!(status["earlier"], json!([]));
    // Once here they need no server.
    server.kill();
    assert_eq!(history(&["--limit", "10", "--before", "31"]), expected(21, 30));
}
