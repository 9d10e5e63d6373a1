//! An OwnTracks app with a device's credentials, as mosquitto_pub would be one: by both versions of MQTT, and by HTTP.

use crate::server::Server;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// As the iOS app sends one.
fn location(tst: u64) -> String {
    json!({
        "_type": "location", "acc": 65, "alt": 154, "batt": 81, "bs": 1, "cog": 271, "conn": "m", "inregions": ["Home"],
        "lat": 48.856826, "lon": 2.292713, "t": "t", "tid": "JJ", "tst": tst, "vac": 10, "vel": 54,
    })
    .to_string()
}

/// Reads until it is as it should be.
async fn until(server: &Server, token: &str, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    let reading = async {
        loop {
            let value = server.read(token, path).await;
            if is(&value) {
                return value;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("{path} never was as it should be"))
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = crate::server::http_client()
        .build()
        .unwrap()
        .get(format!("http://{}/metrics", server.http))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owntracks_app_is_seen_on_the_map_by_mqtt_and_by_http() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("phone");
    let credentials: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let secret = credentials["secret"].as_str().unwrap();
    let (host, port) = server.mqtt.split_once(':').unwrap();
    let publish = |version: &str, topic: &str, payload: &str| {
        let output = Command::new("mosquitto_pub")
            .args(["-h", host, "-p", port, "-V", version, "-u", &device, "-P", secret])
            .args(["-i", &format!("{device}-owntracks"), "-q", "1", "-r"])
            .args(["-t", topic, "-m", payload])
            .output()
            .expect("mosquitto-clients are installed");
        let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy);
        assert!(
            output.status.success() && said.concat().is_empty(),
            "{version} {topic}: {said:?}"
        );
    };
    let (path, track) = (format!("/devices/{device}"), format!("/devices/{device}/track"));
    let (own, start) = (format!("owntracks/{device}/phone"), now_s() - 100);
    for (version, tst) in [("mqttv311", start), ("mqttv5", start + 10)] {
        // What is not a position first: it changes nothing, and keeps nobody from what comes after it.
        for (topic, payload) in [
            (
                format!("{own}/event"),
                r#"{"_type":"transition","event":"enter","tst":1,"wtst":1}"#,
            ),
            (own.clone(), r#"{"_type":"lwt","tst":1}"#),
            (own.clone(), r#"{"_type":"encrypted","data":"x"}"#),
            (own.clone(), "no JSON"),
        ] {
            publish(version, &topic, payload);
        }
        publish(version, &own, &location(tst));
        publish(version, &own, &location(tst));
        let at = |seen: &Value| {
            seen["position"]["at"]
                .as_str()
                .map(|at| at.starts_with(&iso(tst)))
        };
        let seen = until(&server, &token, &path, |seen| at(seen) == Some(true)).await;
        let position = &seen["position"];
        assert_eq!(
            (
                &position["lat"],
                &position["lon"],
                &position["speed_mps"],
                &position["course_deg"]
            ),
            (&json!(48.856826), &json!(2.292713), &json!(15.0), &json!(271.0)),
            "{position}"
        );
        assert_eq!(
            (&position["accuracy_m"], &position["battery_pct"]),
            (&json!(65), &json!(81))
        );
    }

    let answer = crate::server::http_client()
        .build()
        .unwrap()
        .post(server.url("/positions/owntracks"))
        .basic_auth(&device, Some(secret))
        .header("content-type", "application/json")
        .body(format!("[{},{}]", location(start + 20), location(start + 30)))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap()),
        (200, "[]".to_owned())
    );
    let whole = until(&server, &token, &track, |track| {
        track["features"].as_array().is_some_and(|all| all.len() >= 4)
    })
    .await;
    assert_eq!(whole["features"].as_array().unwrap().len(), 4, "{whole}");
    assert_eq!(
        metric(&server, "waypost_bridge_owntracks_refused_total").await,
        4.0
    );
    assert_eq!(
        metric(&server, "waypost_bridge_owntracks_ignored_total").await,
        4.0
    );
}

/// The second, as RFC 3339 writes it.
fn iso(seconds: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    let text = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    text.trim_end_matches('Z').to_owned()
}
