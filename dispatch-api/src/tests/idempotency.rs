//! `Idempotency-Key` on whatever is answered with a secret: it takes effect once, and a repetition is told what it made.

use super::*;

#[tokio::test]
async fn a_repetition_makes_nothing_and_is_told_what_was_made() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let (device, _) = world.add_device("truck").await;
    let rotate = format!("/api/v1/devices/{device}/credentials");
    let sign_in = json!({ "email": "person1@waypost.test", "password": PASSWORD });
    let cases = [
        (
            SERVER_TOKEN,
            "/api/v1/devices",
            Some(json!({ "name": "new" })),
            "device",
        ),
        (
            &admin,
            "/api/v1/devices",
            Some(json!({ "name": "new" })),
            "device",
        ),
        (SERVER_TOKEN, &rotate, None, "credentials"),
        ("", "/api/v1/session", Some(sign_in), "session"),
    ];
    for (number, (token, path, body, kind)) in cases.into_iter().enumerate() {
        let key = format!("key-{number}");
        let first = world.call_once(token, path, &key, body.clone()).await;
        assert!(first.status.is_success(), "{path}: {first:?}");
        let made = match kind {
            "device" => first.json()["device"]["id"].clone(),
            "credentials" => first.json()["device"].clone(),
            _ => first.json()["person"]["id"].clone(),
        };
        for _ in 0..2 {
            let again = world.call_once(token, path, &key, body.clone()).await;
            let problem = again.expect_problem(409, "made-before");
            assert_eq!(problem["made"], json!({ "kind": kind, "id": made }), "{path}");
            assert_eq!(again.headers.get("set-cookie"), None);
        }
    }
    let devices = world.get(SERVER_TOKEN, "/api/v1/devices").await.json();
    assert_eq!(devices["items"].as_array().unwrap().len(), 3, "{devices}");

    let other = json!({ "name": "other" });
    world
        .call_once(&admin, "/api/v1/devices", "key-1", Some(other))
        .await
        .expect_problem(422, "key-reused");
    world
        .call_once(SERVER_TOKEN, &rotate, "key-0", None)
        .await
        .expect_problem(422, "key-reused");
}

#[tokio::test]
async fn a_request_that_was_refused_may_be_sent_again_under_its_key() {
    let world = World::new();
    let wrong = json!({ "name": "" });
    for _ in 0..2 {
        world
            .call_once(SERVER_TOKEN, "/api/v1/devices", "k", Some(wrong.clone()))
            .await
            .expect_problem(422, "invalid-fields");
    }
    let right = world
        .call_once(SERVER_TOKEN, "/api/v1/devices", "k", Some(json!({ "name": "a" })))
        .await;
    assert_eq!(right.status, 201, "it had no effect, so the key is free");
}
