//! OwnTracks' HTTP mode.

use super::*;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

const PATH: &str = "/api/v1/positions/owntracks";

impl World {
    /// A device's id and secret.
    async fn app(&self) -> (DeviceId, String) {
        let answer = self
            .call(
                SERVER_TOKEN,
                "POST",
                "/api/v1/devices",
                json!({ "name": "phone" }),
            )
            .await
            .json();
        let credentials = &answer["credentials"];
        let text = |name: &str| credentials[name].as_str().unwrap().to_owned();
        (text("device").parse().unwrap(), text("secret"))
    }

    async fn say(&self, user: &str, secret: &str, body: String) -> Answer {
        let basic = BASE64_STANDARD.encode(format!("{user}:{secret}"));
        let request = Request::post(PATH)
            .header(header::AUTHORIZATION, format!("Basic {basic}"))
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(body.into())
            .unwrap();
        self.send(request).await
    }

    async fn track(&self, device: DeviceId) -> Vec<Value> {
        let track = self
            .get(SERVER_TOKEN, &format!("/api/v1/devices/{device}/track"))
            .await
            .json();
        track["features"].as_array().unwrap().clone()
    }
}

fn location(tst: i64) -> Value {
    json!({
        "_type": "location", "acc": 65, "alt": 154, "batt": 81, "cog": 271, "lat": 48.856826, "lon": 2.292713, "t": "u",
        "tid": "JJ", "tst": tst, "vac": 10, "vel": 54, "topic": "owntracks/jane/phone", "conn": "w",
    })
}

#[tokio::test]
async fn a_location_is_where_the_device_is_and_was() {
    let world = World::new();
    let (device, secret) = world.app().await;
    let tst = now_ms() / 1_000;
    for _ in 0..2 {
        let answer = world
            .say(&device.to_string(), &secret, location(tst).to_string())
            .await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!([])));
    }
    let seen = world
        .get(SERVER_TOKEN, &format!("/api/v1/devices/{device}"))
        .await
        .json();
    let at = crate::timestamp::Timestamp(tst * 1_000).to_string();
    let position = &seen["position"];
    assert_eq!(
        position,
        &json!({
            "lat": 48.856826, "lon": 2.292713, "speed_mps": 15.0, "course_deg": 271.0, "accuracy_m": 65,
            "battery_pct": 81, "at": at, "received_at": position["received_at"],
        })
    );
    assert_eq!(world.track(device).await.len(), 1, "the same fix twice is one");
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all_and_other_types_change_nothing() {
    let world = World::new();
    let (device, secret) = world.app().await;
    let (user, tst) = (device.to_string(), now_ms() / 1_000);
    let bad = json!([location(tst), { "_type": "location", "lat": 91, "lon": 0, "tst": tst }]);
    let problem = world
        .say(&user, &secret, bad.to_string())
        .await
        .expect_problem(422, "invalid-fields");
    assert_eq!(problem["errors"][0]["pointer"], "/1/lat");
    let lwt = json!({ "_type": "lwt", "tst": tst }).to_string();
    assert_eq!(world.say(&user, &secret, lwt).await.json(), json!([]));
    assert_eq!(world.track(device).await.len(), 0);

    let batch =
        json!([location(tst - 1), { "_type": "transition", "tst": tst, "event": "enter" }, location(tst)]);
    let answer = world.say(&user, &secret, batch.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!([])));
    assert_eq!(world.track(device).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_in_words() {
    let world = World::new();
    let (device, secret) = world.app().await;
    let user = device.to_string();
    let encrypted = json!({ "_type": "encrypted", "data": "eW91IGZvdW5kIG1l" }).to_string();
    let problem = world
        .say(&user, &secret, encrypted)
        .await
        .expect_problem(422, "invalid-fields");
    assert_eq!(problem["errors"][0]["pointer"], "/_type");
    assert!(
        problem["errors"][0]["detail"]
            .as_str()
            .unwrap()
            .contains("encryption key")
    );
    world
        .say(&user, &secret, "{".to_owned())
        .await
        .expect_problem(400, "malformed");
    for tst in [1, now_ms() / 1_000 + 80 * 3_600] {
        let problem = world
            .say(&user, &secret, location(tst).to_string())
            .await
            .expect_problem(422, "invalid-fields");
        assert_eq!(problem["errors"][0]["pointer"], "/tst");
    }
    assert_eq!(world.track(device).await.len(), 0);
}

#[tokio::test]
async fn only_the_device_itself_speaks_for_it() {
    let mut world = World::new();
    let (device, secret) = world.app().await;
    let (other, _) = world.app().await;
    let (user, body) = (device.to_string(), location(now_ms() / 1_000).to_string());
    for (user, secret) in [
        (user.as_str(), "wrong"),
        (&other.to_string(), &secret),
        ("zzz", &secret),
        ("", ""),
    ] {
        let answer = world.say(user, secret, body.clone()).await;
        answer.expect_problem(401, "wrong-device");
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Basic ")
        );
    }
    let admin = world.token(Role::Admin).await;
    let answer = world.call(&admin, "POST", PATH, json!({})).await;
    answer.expect_problem(401, "wrong-device");
    // The device's secret opens nothing else.
    let basic = BASE64_STANDARD.encode(format!("{user}:{secret}"));
    let elsewhere = Request::get("/api/v1/devices").header(header::AUTHORIZATION, format!("Basic {basic}"));
    let answer = world.send(elsewhere.body(Body::empty()).unwrap()).await;
    answer.expect_problem(401, "not-signed-in");

    world.bridge.revoke_device(device).await.unwrap();
    world
        .say(&user, &secret, body)
        .await
        .expect_problem(401, "wrong-device");
}
