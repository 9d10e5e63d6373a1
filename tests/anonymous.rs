//! Clients without credentials on the real binary: what they may do, and that it is nothing to devices and the office.

use crate::raw_mqtt::RawClient;
use crate::server::{Server, WAYPOST, http_client};
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::{QoS, v5};
use serde_json::Value;
use std::process::Command;

const SETTINGS: &str = "[mqtt]\ndangerous_allow_anonymous = true\nanonymous_deny = ['test/nosubscribe']\n";

#[tokio::test]
async fn anonymous_clients_have_all_topics_but_ours_and_cannot_be_a_device() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("waypost.toml"), SETTINGS).unwrap();
    let server = Server::start_in(folder, None);
    let (device, credentials) = server.add_device("truck");
    let (gone, gone_credentials) = server.add_device("gone");
    let data = server.folder().join("data");
    crate::server::run(&["device", "revoke", &gone, "--data", data.to_str().unwrap()]);
    let mut truck = RawClient::device(&server.mqtt, &credentials, "").await;
    assert_eq!(
        truck.subscribe(&format!("d/{device}")).await,
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    );

    // Who claims to be a device has to be it, and no client id of one is to be had.
    let refused = async |client_id: &str, login: Option<(&str, &str)>| {
        RawClient::connect(&server.mqtt, client_id, login).await.1
    };
    for (client_id, login, code) in [
        (
            "myclientid",
            Some((&*device, "guess")),
            ConnectReturnCode::BadUserNamePassword,
        ),
        (&device, None, ConnectReturnCode::ClientIdentifierNotValid),
        (
            &format!("{device}-phone"),
            None,
            ConnectReturnCode::ClientIdentifierNotValid,
        ),
        (
            &device,
            Some(("nobody", "guess")),
            ConnectReturnCode::ClientIdentifierNotValid,
        ),
        (
            &gone,
            Some((&*gone, "guess")),
            ConnectReturnCode::BadUserNamePassword,
        ),
        (&gone, None, ConnectReturnCode::ClientIdentifierNotValid),
    ] {
        assert_eq!(refused(client_id, login).await, code, "{client_id} {login:?}");
    }
    let file: Value = serde_json::from_slice(&std::fs::read(gone_credentials).unwrap()).unwrap();
    let login = Some((&*gone, file["secret"].as_str().unwrap()));
    assert_eq!(
        refused(&gone, login).await,
        ConnectReturnCode::BadUserNamePassword
    );

    // All topics but ours, and but those that are denied.
    let (mut one, code) = RawClient::connect(&server.mqtt, "myclientid", None).await;
    assert_eq!(code, ConnectReturnCode::Success);
    let (mut other, code) = RawClient::connect(&server.mqtt, "", Some(("user", "any"))).await;
    assert_eq!(code, ConnectReturnCode::Success);
    for filter in [
        "test/nosubscribe",
        "u/+",
        "d/#",
        &format!("d/{device}"),
        "owntracks/#",
        "$share/x/u/+",
    ] {
        assert_eq!(
            one.subscribe(filter).await,
            SubscribeReasonCode::Unspecified,
            "{filter}"
        );
    }
    for filter in ["#", "+/+"] {
        assert_eq!(
            one.subscribe(filter).await,
            SubscribeReasonCode::Success(QoS::AtLeastOnce),
            "{filter}"
        );
    }
    for topic in [
        &*format!("u/{device}"),
        &format!("p/{device}"),
        &format!("d/{device}"),
        "g/1",
        "t/en",
        "test/nosubscribe",
    ] {
        assert_eq!(
            other.publish(topic, "x").await,
            PubAckReason::UnspecifiedError,
            "{topic}"
        );
    }
    // The bridge keeps a catalogue on t/, and answers on d/: neither reaches the filters above.
    let unreadable = v5::Publish::new(format!("u/{device}"), QoS::AtMostOnce, vec![0xFF; 3], None);
    truck.send(Packet::Publish(unreadable)).await;
    assert!(
        matches!(truck.receive().await, Some(Packet::Publish(answer)) if answer.topic.starts_with(b"d/"))
    );
    assert_eq!(other.publish("TopicA/B", "theirs").await, PubAckReason::Success);
    match one.receive().await {
        Some(Packet::Publish(message)) => assert_eq!(message.topic, "TopicA/B"),
        other => panic!("{other:?}"),
    }
    // A device takes no part in it.
    assert_eq!(
        truck.subscribe("TopicA/B").await,
        SubscribeReasonCode::NotAuthorized
    );

    // What the broker counts is for them to read, and for nobody to write.
    let (mut watcher, _) = RawClient::connect(&server.mqtt, "watcher", None).await;
    watcher.subscribe("$SYS/broker/version").await;
    match watcher.receive().await {
        Some(Packet::Publish(message)) => assert!(message.payload.starts_with(b"waypost-broker ")),
        other => panic!("{other:?}"),
    }
    let written = watcher.publish("$SYS/broker/version", "mine").await;
    assert_eq!(written, PubAckReason::NotAuthorized);
    assert_eq!(
        truck.subscribe("$SYS/broker/version").await,
        SubscribeReasonCode::NotAuthorized
    );
    let metrics = crate::server::http_client()
        .build()
        .unwrap()
        .get(format!("http://{}/metrics", server.http))
        .send()
        .await;
    let metrics = metrics.unwrap().text().await.unwrap();
    for line in [
        "waypost_broker_connections 4",
        "waypost_broker_listener_connections{listener=\"tcp\"} 4",
        "waypost_broker_delivery_seconds_bucket{to=\"link\",le=\"+Inf\"} 1",
        "waypost_broker_reasons_total{reason=\"client_id_not_allowed\"} 4",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}\n{metrics}");
    }

    // Whoever looks is told.
    let ready = http_client().build().unwrap();
    let ready = ready
        .get(format!("http://{}/readyz", server.http))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
    let ready: Value = ready.json().await.unwrap();
    let told = |text: &str| text.contains("mqtt.dangerous_allow_anonymous");
    assert!(told(ready["checks"]["anonymous"].as_str().unwrap()), "{ready}");
    let log = std::fs::read_to_string(server.folder().join("server.log")).unwrap();
    assert!(
        log.lines().any(|line| line.contains("WARN") && told(line)),
        "{log}"
    );
    let checked = Command::new(WAYPOST)
        .arg("check-config")
        .current_dir(server.folder())
        .output()
        .unwrap();
    assert!(told(&String::from_utf8(checked.stdout).unwrap()));
}
