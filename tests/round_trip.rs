//! What a driver's device says comes back over HTTP, and what the office writes comes out at the device: the commands
//! of the README, on the real binary.

use crate::server::{Server, WAYPOST, run};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// A recording of a few seconds.
const TRACE: &str = "trace_id,unix_ms,lat,lon,speed_mps,heading_deg,accuracy_m
drive,1558708711000,41.2579079,-95.9960403,14.19,89.9,
drive,1558708712000,41.2579117,-95.9958801,14.13,90.1,
drive,1558708713500,41.2579120,-95.9957000,,,12
other,1558708713500,1.5,2.5,,,
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_trace_comes_back_with_the_same_times_and_places() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-1");
    let trace = server.folder().join("trace.csv");
    std::fs::write(&trace, TRACE).unwrap();
    let (file, trace) = (file.to_str().unwrap(), trace.to_str().unwrap());
    run(&[
        "driver",
        "--as",
        file,
        "replay",
        trace,
        "--trace",
        "drive",
        "--as-recorded",
    ]);
    let track = server.read(&token, &format!("/devices/{device}/track")).await;
    let expected = [
        (41.2579079, -95.9960403, "2019-05-24T14:38:31.000Z"),
        (41.2579117, -95.9958801, "2019-05-24T14:38:32.000Z"),
        (41.2579120, -95.9957000, "2019-05-24T14:38:33.500Z"),
    ];
    let features = track["features"].as_array().unwrap();
    assert_eq!(features.len(), expected.len(), "{track}");
    for (feature, (lat, lon, at)) in features.iter().zip(expected) {
        let place = &feature["geometry"]["coordinates"];
        assert!((place[0].as_f64().unwrap() - lon).abs() < 1e-5, "{feature}");
        assert!((place[1].as_f64().unwrap() - lat).abs() < 1e-5, "{feature}");
        assert_eq!(feature["properties"]["at"], at);
    }
    let positions = server.read(&token, "/positions").await;
    assert_eq!(
        positions["features"],
        json!([]),
        "a recording is never shown as the latest"
    );

    // Driven now, it is: the last fix is where the vehicle is.
    run(&[
        "driver", "--as", file, "replay", trace, "--trace", "drive", "--speed", "50",
    ]);
    let positions = server.read(&token, "/positions").await;
    let place = &positions["features"][0]["geometry"]["coordinates"];
    assert!(
        (place[0].as_f64().unwrap() - -95.9957).abs() < 1e-5,
        "{positions}"
    );
    let track = server.read(&token, &format!("/devices/{device}/track")).await;
    assert_eq!(track["features"].as_array().unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_both_ways_and_climb_the_ladder() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-1");
    let file = file.to_str().unwrap();
    let sent: Value =
        serde_json::from_str(&run(&["--json", "driver", "--as", file, "send", "At the gate"])).unwrap();
    assert_eq!(sent["state"], "accepted", "{sent}");
    let stream = server.read(&token, &format!("/devices/{device}")).await["stream"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!((&sent["stream"], &sent["seq"]), (&json!(stream), &json!(1)));
    let entries = server.read(&token, &format!("/streams/{stream}/entries")).await;
    let entry = &entries["items"][0];
    assert_eq!(
        (&entry["body"]["text"], &entry["author"]["id"]),
        (&json!("At the gate"), &json!(device))
    );
    assert!(
        entry["device_at"].is_string() && entry["server_at"].is_string(),
        "{entry}"
    );

    // The other way, with a listener that is there before.
    let mut listener = Command::new(WAYPOST)
        .args(["--json", "driver", "--as", file, "listen", "--for", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let path = format!("/streams/{stream}/entries");
    let posted = server
        .post(
            &token,
            &path,
            &json!({ "body": { "kind": "text", "text": "Dock 4" } }),
        )
        .await;
    let heard = std::io::BufReader::new(listener.stdout.take().unwrap());
    let heard: Value = std::io::BufRead::lines(heard)
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .find(|entry: &Value| entry["body"]["text"] == "Dock 4")
        .expect("the listener hears it");
    assert_eq!(heard["seq"], posted["seq"]);
    let receipts = format!("/streams/{stream}/receipts?seq={}", posted["seq"]);
    let row = loop {
        let rows = server.read(&token, &receipts).await;
        let row = rows["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["member"]["kind"] == "device")
            .cloned();
        // The listener reports what it has shown as soon as it is on its disk.
        if let Some(row) = row.filter(|row| row["read"].is_object()) {
            break row;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(row["accepted"]["server_at"].is_string(), "{row}");
    for rung in ["sent", "delivered", "read"] {
        for clock in ["device_at", "server_at"] {
            assert!(row[rung][clock].is_string(), "{rung} {clock}: {row}");
        }
        assert!(row[rung]["offset_ms"].is_i64(), "{rung}: {row}");
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
}
