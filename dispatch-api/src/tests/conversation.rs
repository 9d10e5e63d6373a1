//! Streams, entries, cursors and receipts.

use super::*;

async fn post(world: &World, token: &str, stream: &str, key: Option<&str>, body: Value) -> Answer {
    let mut request = request(
        "POST",
        &format!("/api/v1/streams/{stream}/entries"),
        token,
        Some(body),
    );
    if let Some(key) = key {
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().unwrap());
    }
    world.send(request).await
}

fn text(text: &str) -> Value {
    json!({ "body": { "kind": "text", "text": text } })
}

fn seqs(list: &Value) -> Vec<u64> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["seq"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn the_office_and_a_device_talk() {
    let mut world = World::new();
    let (anna, anna_token) = world.person(Role::Dispatcher).await;
    let bert_token = world.token(Role::Dispatcher).await;
    let (device, stream) = world.add_device("truck-17").await;
    let path = format!("/api/v1/streams/{stream}");

    let answer = post(&world, &anna_token, &stream, None, text("Where are you?")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let entry = answer.json();
    assert_eq!(
        entry,
        json!({
            "stream": stream, "seq": 1, "id": entry["id"], "author": { "id": anna.id.to_string(), "kind": "person", "name": "Person 1" },
            "device_at": null, "server_at": entry["server_at"], "urgent": false, "author_op": null, "earlier_op": null,
            "earlier_under_way": false, "expires_at": null, "expired": false, "supersedes": null, "superseded_by": null, "reply_to": null,
            "reply_to_stream": null, "body": { "kind": "text", "text": "Where are you?" },
        })
    );
    assert_eq!(entry["id"].as_str().unwrap().len(), 32);

    let ops = vec![text_operation(&stream, "At the gate")];
    world.hello(
        device,
        wire::UpFrame {
            first_op: 1,
            ops,
            ..Default::default()
        },
    );
    let list = world
        .until(&anna_token, &format!("{path}/entries"), |list| {
            seqs(list).len() == 2
        })
        .await;
    let said = &list["items"][1];
    assert_eq!(list["items"][0], entry);
    assert_eq!(
        said["author"],
        json!({ "id": device.to_string(), "kind": "device", "name": "truck-17" })
    );
    assert!(said["device_at"].is_string(), "{said}");

    let shown = world.get(&anna_token, &path).await.json();
    assert_eq!(
        shown,
        json!({
            "id": stream, "kind": "direct", "title": "truck-17", "head": 2, "unread": 1,
            "members": [{ "id": device.to_string(), "kind": "device" }, { "id": "office", "kind": "office" }],
        })
    );
    assert_eq!(world.get(&bert_token, &path).await.json()["unread"], 2);
    assert_eq!(world.get(SERVER_TOKEN, &path).await.json()["unread"], 0);

    let receipts = world
        .get(&anna_token, &format!("{path}/receipts?seq=2"))
        .await
        .json();
    let office = &receipts["items"][0];
    assert_eq!(
        office["member"],
        json!({ "id": "office", "kind": "office", "name": "Office" })
    );
    assert!(
        office["accepted"]["device_at"].is_string() && office["accepted"]["offset_ms"].is_i64(),
        "{office}"
    );
    assert_eq!(office["read"], Value::Null);

    let answer = world
        .call(
            &anna_token,
            "PUT",
            &format!("{path}/cursor"),
            json!({ "read": 2 }),
        )
        .await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
    assert_eq!(world.get(&anna_token, &path).await.json()["unread"], 0);
    let receipts = world
        .get(&bert_token, &format!("{path}/receipts?seq=2"))
        .await
        .json();
    let read = &receipts["items"][0]["read"];
    assert!(
        read["server_at"].is_string() && read["device_at"].is_null(),
        "{receipts}"
    );

    // What the device holds and has read, by both clocks.
    let cursors = vec![wire::Cursor {
        stream: stream.parse().unwrap(),
        delivered: 2,
        read: 1,
        ..Default::default()
    }];
    let stamp = Stamp::of(SessionTag::FIRST).to_wire();
    world.frame(
        device,
        &wire::UpFrame {
            stamp,
            cursors,
            ..Default::default()
        },
    );
    let receipts = world
        .until(&anna_token, &format!("{path}/receipts?seq=1"), |list| {
            !list["items"][0]["read"].is_null()
        })
        .await;
    let receipt = &receipts["items"][0];
    assert_eq!(
        receipt["member"],
        json!({ "id": device.to_string(), "kind": "device", "name": "truck-17" })
    );
    assert_eq!(receipt["accepted"]["device_at"], Value::Null);
    for rung in ["delivered", "read"] {
        assert!(
            receipt[rung]["device_at"].is_string() && receipt[rung]["server_at"].is_string(),
            "{receipt}"
        );
    }
}

#[tokio::test]
async fn what_can_be_said_of_an_entry_is_kept() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    post(&world, &token, &stream, None, text("first")).await;
    let body = json!({
        "body": { "kind": "text", "text": "second" }, "urgent": true, "expires_at": "2099-01-01T01:00:00+01:00", "reply_to": 1,
    });
    let entry = post(&world, &token, &stream, None, body).await.json();
    assert_eq!(
        (&entry["urgent"], &entry["expires_at"], &entry["reply_to"]),
        (&true.into(), &"2099-01-01T00:00:00.000Z".into(), &1.into())
    );
}

#[tokio::test]
async fn entries_are_read_in_both_directions_always_ascending() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    for number in 1..=7 {
        post(&world, &token, &stream, None, text(&number.to_string())).await;
    }
    let path = format!("/api/v1/streams/{stream}/entries");
    for (query, expected, next) in [
        ("", &[1, 2, 3, 4, 5, 6, 7][..], None),
        ("?limit=3", &[5, 6, 7], Some("before-5")),
        ("?limit=3&before=5", &[2, 3, 4], Some("before-2")),
        ("?limit=3&cursor=before-2", &[1], None),
        ("?limit=3&before=4", &[1, 2, 3], None),
        ("?limit=3&after=0", &[1, 2, 3], Some("after-3")),
        ("?limit=3&cursor=after-3", &[4, 5, 6], Some("after-6")),
        ("?limit=3&after=6", &[7], None),
        ("?after=7", &[], None),
        ("?before=1", &[], None),
        ("?before=18446744073709551615&limit=1", &[7], Some("before-7")),
        ("?after=18446744073709551615", &[], None),
    ] {
        let list = world.get(&token, &format!("{path}{query}")).await.json();
        assert_eq!(
            (seqs(&list), list["next"].as_str()),
            (expected.to_vec(), next),
            "{query}"
        );
    }
    for (query, pointer) in [
        ("?before=1&after=2", "?after"),
        ("?after=1&cursor=after-2", "?cursor"),
        ("?cursor=12", "?cursor"),
        ("?before=-1", "?before"),
        ("?limit=0", "?limit"),
    ] {
        let problem = world
            .get(&token, &format!("{path}{query}"))
            .await
            .expect_problem(400, "invalid-parameters");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
}

#[tokio::test]
async fn a_key_makes_one_entry_of_many_requests() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let other_token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    let (_, other_stream) = world.add_device("other").await;
    let first = post(&world, &token, &stream, Some("k1"), text("once")).await;
    for _ in 0..3 {
        let again = post(&world, &token, &stream, Some("k1"), text("once")).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
    }
    let together = futures_util::future::join_all(
        (0..10).map(|_| post(&world, &token, &stream, Some("k2"), text("together"))),
    );
    for answer in together.await {
        assert_eq!(answer.json()["seq"], 2, "{answer:?}");
    }
    // Another body, and another path, under the same key.
    post(&world, &token, &stream, Some("k1"), text("twice"))
        .await
        .expect_problem(422, "key-reused");
    post(&world, &token, &other_stream, Some("k1"), text("once"))
        .await
        .expect_problem(422, "key-reused");
    // Another caller's key is another key, and without a key every request counts.
    assert_eq!(
        post(&world, &other_token, &stream, Some("k1"), text("once"))
            .await
            .json()["seq"],
        3
    );
    assert_eq!(
        post(&world, &token, &stream, None, text("once")).await.json()["seq"],
        4
    );
    assert_eq!(
        post(&world, &token, &stream, Some(&"k".repeat(255)), text("long"))
            .await
            .status,
        201
    );
    for wrong in ["", "a b", "\u{e9}", &"k".repeat(256)] {
        post(&world, &token, &stream, Some(wrong), text("x"))
            .await
            .expect_problem(400, "malformed");
    }
}
