//! Anybody's MQTT client with a device's credentials: what it may do works, what it may not is refused by the code
//! that its version of the protocol has for it, and counted.

use crate::server::Server;
use serde_json::Value;
use std::process::{Command, Output};

/// The device's id and secret.
fn credentials(file: &std::path::Path) -> (String, String) {
    let credentials: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |name: &str| credentials[name].as_str().unwrap().to_owned();
    (text("device"), text("secret"))
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_does_what_a_device_may_and_is_refused_the_rest() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-1");
    let (other, _) = server.add_device("truck-2");
    let (device, secret) = credentials(&file);
    let (host, port) = server.mqtt.split_once(':').unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mqtt_clients.py");
    let output = Command::new("python3")
        .args([script, host, port, &device, &secret, &other])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "python3 with paho-mqtt: {}",
        said(&output)
    );

    // Each refusal of the script is counted for the operator.
    let metrics = reqwest::get(format!("http://{}/metrics", server.http))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let counted: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("waypost_broker") && line.contains("reason="))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    let refusals = 2 * (8 + 7 + 3);
    assert!(
        counted >= f64::from(refusals),
        "{counted} of {refusals} counted:\n{metrics}"
    );
}

#[test]
fn mosquitto_publishes_and_subscribes_on_the_devices_own_topics() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-1");
    let (device, secret) = credentials(&file);
    let (host, port) = server.mqtt.split_once(':').unwrap();
    for version in ["mqttv5", "mqttv311"] {
        let run = |tool: &str, arguments: &[&str]| {
            let who = [
                "-h", host, "-p", port, "-V", version, "-u", &device, "-P", &secret,
            ];
            Command::new(tool)
                .args(who)
                .args(arguments)
                .output()
                .expect("mosquitto-clients are installed")
        };
        let topic = format!("u/{device}");
        let published = run(
            "mosquitto_pub",
            &["-i", &device, "-t", &topic, "-m", "no frame", "-q", "1"],
        );
        assert!(published.status.success(), "{version}: {}", said(&published));
        // Subscribing and, as it asks for nothing more, ending when the time is over: status 27 and no error.
        let topic = format!("d/{device}");
        let suffixed = format!("{device}-listens");
        let subscribed = run(
            "mosquitto_sub",
            &["-i", &suffixed, "-t", &topic, "-q", "1", "-W", "1"],
        );
        assert_eq!(
            subscribed.status.code(),
            Some(27),
            "{version}: {}",
            said(&subscribed)
        );
        let forbidden = run(
            "mosquitto_sub",
            &["-i", &suffixed, "-t", "#", "-q", "1", "-W", "5"],
        );
        assert!(
            said(&forbidden).contains("denied"),
            "{version}: {}",
            said(&forbidden)
        );
        let forbidden = run(
            "mosquitto_pub",
            &["-i", &suffixed, "-t", "d/zz", "-m", "x", "-q", "1"],
        );
        let refused = !forbidden.status.success() || said(&forbidden).to_lowercase().contains("not authori");
        assert!(refused, "{version}: {}", said(&forbidden));
    }
}
