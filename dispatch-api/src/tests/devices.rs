//! Devices, their credentials, and where they are and were.

use super::*;

#[tokio::test]
async fn a_device_is_added_changed_and_revoked() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let body =
        json!({ "name": "truck-17", "driver": { "name": "Jan", "locale": "de" }, "labels": ["north"] });
    let answer = world.call(&admin, "POST", "/api/v1/devices", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    let id = made["device"]["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/v1/devices/{id}"));
    assert_eq!(
        made["device"],
        json!({
            "id": id, "name": "truck-17", "driver": { "name": "Jan", "locale": "de" }, "groups": [], "labels": ["north"],
            "presence": { "state": "unknown", "since": null }, "position": null, "app": null, "last_seen": null,
            "stream": made["device"]["stream"], "revoked": false,
        })
    );
    let credentials = &made["credentials"];
    let secret = credentials["secret"].as_str().unwrap();
    assert_eq!(
        credentials,
        &json!({ "device": id, "name": "truck-17", "secret": secret, "mqtt": ["mqtt://waypost.test:1883"], "ca": null })
    );
    let device: DeviceId = id.parse().unwrap();
    assert!(world.bridge.access().verify(device, secret.as_bytes()));

    let path = format!("/api/v1/devices/{id}");
    let changed = world
        .call(
            &admin,
            "PATCH",
            &path,
            json!({ "name": "truck-18", "driver": null }),
        )
        .await
        .json();
    assert_eq!(
        (&changed["name"], &changed["driver"], &changed["labels"][0]),
        (&"truck-18".into(), &Value::Null, &"north".into())
    );
    assert_eq!(
        world.call(&admin, "PATCH", &path, json!({})).await.json(),
        changed
    );
    assert_eq!(world.get(&admin, &path).await.json(), changed);

    let answer = world
        .send(request("POST", &format!("{path}/credentials"), &admin, None))
        .await;
    let rotated = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &rotated["name"]),
        (200, &"truck-18".into())
    );
    assert!(!world.bridge.access().verify(device, secret.as_bytes()));
    let secret = rotated["secret"].as_str().unwrap();
    assert!(world.bridge.access().verify(device, secret.as_bytes()));

    assert_eq!(
        world.send(request("DELETE", &path, &admin, None)).await.status,
        204
    );
    assert!(!world.bridge.access().verify(device, secret.as_bytes()));
    assert_eq!(world.get(&admin, &path).await.json()["revoked"], true);
    let refused = world
        .send(request("POST", &format!("{path}/credentials"), &admin, None))
        .await;
    refused.expect_problem(409, "conflict");
}

#[tokio::test]
async fn lists_come_in_parts() {
    let world = World::new();
    for number in 0..5 {
        world.add_device(&format!("truck-{number}")).await;
    }
    for list in ["/api/v1/devices", "/api/v1/streams"] {
        let whole = world.get(SERVER_TOKEN, list).await.json();
        assert_eq!(
            (whole["items"].as_array().unwrap().len(), &whole["next"]),
            (5, &Value::Null)
        );
        let mut parts = Vec::new();
        let mut path = format!("{list}?limit=2");
        loop {
            let part = world.get(SERVER_TOKEN, &path).await.json();
            parts.extend(part["items"].as_array().unwrap().clone());
            let Some(next) = part["next"].as_str() else { break };
            assert_eq!(part["items"].as_array().unwrap().len(), 2);
            path = format!("{list}?limit=2&cursor={next}");
        }
        assert_eq!(Value::from(parts), whole["items"]);
    }
}

#[tokio::test]
async fn a_device_is_seen_where_it_is_and_was() {
    let mut world = World::new();
    let viewer = world.token(Role::Viewer).await;
    let (device, _) = world.add_device("A & B").await;
    let (silent, _) = world.add_device("silent").await;
    let start = now_ms() / 1_000 * 1_000 - 60_000;
    let fixes: Vec<_> = (0..3)
        .map(|n: i32| fix(start + i64::from(n) * 1_000, 525_200_066 + n, 134_050_001 - n))
        .collect();
    let ops = vec![track_operation(&fixes)];
    world.hello(
        device,
        wire::UpFrame {
            first_op: 1,
            ops,
            ..Default::default()
        },
    );

    let path = format!("/api/v1/devices/{device}");
    let seen = world
        .until(&viewer, &path, |device| !device["position"].is_null())
        .await;
    assert_eq!(seen["presence"]["state"], "online");
    assert_eq!(seen["app"]["version"], "tester 1.0");
    let at = |ms: i64| crate::timestamp::Timestamp(ms).to_string();
    let latest = json!({
        "lat": 52.5200068, "lon": 13.4049999, "speed_mps": 13.5, "course_deg": 90.5, "accuracy_m": 5, "battery_pct": 80,
        "at": at(start + 2_000), "received_at": seen["position"]["received_at"],
    });
    assert_eq!(seen["position"], latest);

    let answer = world.get(&viewer, "/api/v1/positions").await;
    assert_eq!(answer.headers["content-type"], "application/geo+json");
    let positions = answer.json();
    assert_eq!(positions["type"], "FeatureCollection");
    let features = positions["features"].as_array().unwrap();
    assert_eq!(features.len(), 1, "{positions}");
    assert_eq!(features[0]["id"], device.to_string());
    assert_eq!(
        features[0]["geometry"],
        json!({ "type": "Point", "coordinates": [13.4049999, 52.5200068] })
    );
    assert_eq!(features[0]["properties"]["name"], "A & B");

    for (bounds, count) in [("13,52,14,53", 1), ("14,52,15,53", 0)] {
        let boxed = format!("/api/v1/positions?bbox={bounds}");
        let boxed = world.get(&viewer, &boxed).await.json();
        assert_eq!(boxed["features"].as_array().unwrap().len(), count, "{bounds}");
    }
    let forwarded = world
        .get(&viewer, "/api/v1/positions?format=traccar")
        .await
        .json();
    let number = device.number();
    assert_eq!(
        forwarded,
        json!([{
            "position": {
                "id": start + 2_000, "attributes": { "batteryLevel": 80 }, "deviceId": number, "protocol": "waypost",
                "serverTime": seen["position"]["received_at"], "deviceTime": at(start + 2_000), "fixTime": at(start + 2_000),
                "outdated": false, "valid": true, "latitude": 52.5200068, "longitude": 13.4049999, "altitude": 0.0,
                "speed": 13.5 * 3_600.0 / 1_852.0, "course": 90.5, "address": null, "accuracy": 5.0, "network": null,
                "geofenceIds": null,
            },
            "device": {
                "id": number, "attributes": {}, "groupId": 0, "calendarId": 0, "name": "A & B",
                "uniqueId": device.to_string(), "status": "online", "lastUpdate": forwarded[0]["device"]["lastUpdate"],
                "positionId": start + 2_000, "phone": null, "model": null, "contact": null, "category": null,
                "disabled": false, "expirationTime": null,
            },
        }])
    );
    let wrong = world.get(&viewer, "/api/v1/positions?format=kml&bbox=1").await;
    let problem = wrong.expect_problem(400, "invalid-parameters");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");

    let track = world.get(&viewer, &format!("{path}/track")).await.json();
    assert_eq!(
        (&track["truncated"], track["features"].as_array().unwrap().len()),
        (&false.into(), 3)
    );
    for (feature, fix) in track["features"].as_array().unwrap().iter().zip(&fixes) {
        assert_eq!(feature["geometry"]["coordinates"], json!([fix.lon(), fix.lat()]));
        assert_eq!(feature["properties"]["at"], at(fix.at_ms));
    }
    for (from, to, count) in [
        (0, 2_000, 3),
        (1_000, 1_000, 1),
        (1_001, 60_000, 1),
        (3_000, 60_000, 0),
    ] {
        let range = format!("{path}/track?from={}&to={}", at(start + from), at(start + to));
        let track = world.get(&viewer, &range).await.json();
        assert_eq!(track["features"].as_array().unwrap().len(), count, "{range}");
    }
    let csv = world.get(&viewer, &format!("{path}/track?format=csv")).await;
    assert_eq!(csv.text().lines().count(), 4);
    let gpx = world.get(&viewer, &format!("{path}/track?format=gpx")).await;
    assert_eq!(gpx.text().matches("<trkpt ").count(), 3);
    assert_eq!(gpx.headers["content-type"], "application/gpx+xml");
    let none = world
        .get(&viewer, &format!("/api/v1/devices/{silent}/track"))
        .await
        .json();
    assert_eq!(none["features"], json!([]));

    world.send(request("DELETE", &path, SERVER_TOKEN, None)).await;
    assert_eq!(
        world.get(&viewer, "/api/v1/positions").await.json()["features"],
        json!([])
    );
    let kept = world.get(&viewer, &format!("{path}/track")).await.json();
    assert_eq!(kept["features"].as_array().unwrap().len(), 3);
}
