//! What has expired, and what has taken the place of what.

use super::*;

async fn post(world: &World, token: &str, stream: &str, more: Value) -> Answer {
    let mut body = json!({ "body": { "kind": "text", "text": "Gate 4" } });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let path = format!("/api/v1/streams/{stream}/entries");
    world.call(token, "POST", &path, body).await
}

#[tokio::test]
async fn an_entry_that_expires_says_so_to_everybody_who_asks() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, stream) = world.add_device("truck-17").await;
    let expires_at = crate::timestamp::Timestamp(now_ms() + 400).to_string();
    let answer = post(&world, &token, &stream, json!({ "expires_at": expires_at })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["expired"], json!(false));

    let events = "/api/v1/events?types=waypost.entry.expired";
    let list = world
        .until(&token, events, |list| {
            !list["items"].as_array().unwrap().is_empty()
        })
        .await;
    let event = &list["items"][0];
    assert_eq!(event["subject"], json!(format!("stream/{stream}/1")));
    assert_eq!(
        event["data"],
        json!({ "hop": "server", "stream": stream, "seq": 1, "missed": 1 })
    );
    let entries = world
        .get(&token, &format!("/api/v1/streams/{stream}/entries"))
        .await;
    assert_eq!(entries.json()["items"][0]["expired"], json!(true));
    let receipts = world
        .get(&token, &format!("/api/v1/streams/{stream}/receipts?seq=1"))
        .await
        .json();
    let row = &receipts["items"][0];
    assert_eq!(row["member"]["id"], json!(device.to_string()));
    assert_eq!((&row["delivered"], &row["read"]), (&Value::Null, &Value::Null));
    assert_eq!(
        row["expired"],
        json!({ "device_at": null, "server_at": expires_at, "offset_ms": null, "hop": "server" })
    );
}

#[tokio::test]
async fn an_operation_that_expired_in_an_outbox_is_told_with_its_number_and_without_its_words() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, _) = world.add_device("truck-17").await;
    let voids = vec![wire::VoidRange {
        first_op: 1,
        count: 2,
        reason: wire::VoidReason::Expired.into(),
    }];
    world.hello(
        device,
        wire::UpFrame {
            voids,
            ..Default::default()
        },
    );
    let events = "/api/v1/events?types=waypost.entry.expired";
    let list = world
        .until(&token, events, |list| {
            !list["items"].as_array().unwrap().is_empty()
        })
        .await;
    let event = &list["items"][0];
    assert_eq!(event["subject"], json!(format!("device/{device}")));
    let device = device.to_string();
    assert_eq!(
        event["data"],
        json!({ "hop": "outbox", "device": device, "op": 1, "count": 2 })
    );
}

#[tokio::test]
async fn an_entry_takes_the_place_of_another_once() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, stream) = world.add_device("truck-17").await;
    post(&world, &token, &stream, json!({})).await;
    let answer = post(&world, &token, &stream, json!({ "supersedes": 1 })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["supersedes"], json!(1));
    assert_eq!(answer.json()["superseded_by"], Value::Null);
    let path = format!("/api/v1/streams/{stream}/entries");
    let old = world.get(&token, &path).await.json()["items"][0].clone();
    assert_eq!((&old["seq"], &old["superseded_by"]), (&json!(1), &json!(2)));
    let list = world
        .get(&token, "/api/v1/events?types=waypost.entry.superseded")
        .await;
    let event = list.json()["items"][0].clone();
    assert_eq!(event["subject"], json!(format!("stream/{stream}/1")));
    assert_eq!(
        event["data"],
        json!({ "stream": stream, "seq": 1, "superseded_by": 2 })
    );

    let problem = post(&world, &token, &stream, json!({ "supersedes": 1 })).await;
    let problem = problem.expect_problem(409, "conflict");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("Entry 2 has taken the place"), "{detail}");
    world.hello(
        device,
        wire::UpFrame {
            first_op: 1,
            ops: vec![text_operation(&stream, "At the gate")],
            ..Default::default()
        },
    );
    world
        .until(&token, &path, |list| list["items"].as_array().unwrap().len() == 3)
        .await;
    let body = |supersedes: u64| json!({ "body": { "kind": "text", "text": "x" }, "supersedes": supersedes });
    world
        .expect_wrong_fields(
            &token,
            vec![
                ("POST", &path, body(3), "/supersedes"),
                ("POST", &path, body(9), "/supersedes"),
                ("POST", &path, body(0), "/supersedes"),
            ],
        )
        .await;
}
