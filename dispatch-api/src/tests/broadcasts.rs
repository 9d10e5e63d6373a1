//! Broadcasts: to whom, how far, and who is silent.

use super::*;

const BROADCASTS: &str = "/api/v1/broadcasts";

fn to(to: Value) -> Value {
    json!({ "to": to, "body": { "kind": "text", "text": "Black ice on I-80" } })
}

/// Who has not answered, by name and how far it has come.
fn silent(broadcast: &Value) -> Vec<(String, String)> {
    let outstanding = broadcast["outstanding"].as_array().unwrap().iter();
    let mut silent: Vec<(String, String)> = outstanding
        .map(|one| {
            assert!(one["since"].is_string(), "{one}");
            assert_eq!(one["member"]["kind"], "device");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&one["member"]["name"]), text(&one["stage"]))
        })
        .collect();
    silent.sort();
    silent
}

#[tokio::test]
async fn a_broadcast_shows_how_far_it_has_come_and_who_is_silent() {
    let mut world = World::new();
    let (anna, token) = world.person(Role::Dispatcher).await;
    let viewer = world.token(Role::Viewer).await;
    let (a, own) = world.add_device("a").await;
    let (b, _) = world.add_device("b").await;
    let (c, _) = world.add_device("c").await;
    world.add_device("not meant").await;
    let (group, _) = world.add_group("North", &[a, b]).await;
    let body = json!({
        "to": { "devices": [c.to_string(), a.to_string()], "groups": [group] },
        "body": { "kind": "text", "text": "Black ice on I-80" }, "urgent": true, "expires_at": "2099-01-01T00:00:00Z",
    });
    let answer = world.call(&token, "POST", BROADCASTS, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let sent = answer.json();
    let id = sent["id"].as_str().unwrap();
    let path = &format!("{BROADCASTS}/{id}");
    assert_eq!(answer.headers["location"], path.as_str());
    let nobody_yet = json!({ "recipients": 3, "sent": 0, "delivered": 0, "read": 0, "acted": 0 });
    assert_eq!(
        sent,
        json!({
            "id": id, "stream": id, "author": { "id": anna.id.to_string(), "kind": "person", "name": "Person 1" },
            "server_at": sent["server_at"], "urgent": true, "expires_at": "2099-01-01T00:00:00.000Z",
            "body": { "kind": "text", "text": "Black ice on I-80" },
            "to": { "devices": [c.to_string(), a.to_string()], "groups": [group] }, "counts": nobody_yet,
        })
    );
    let shown = world.get(&viewer, path).await.json();
    let accepted = |name: &str| (name.to_owned(), "accepted".to_owned());
    assert_eq!(silent(&shown), ["a", "b", "c"].map(accepted));
    assert_eq!(shown["outstanding"][0]["since"], sent["server_at"]);
    let stream = world.get(&viewer, &format!("/api/v1/streams/{id}")).await.json();
    assert_eq!(
        (&stream["kind"], &stream["head"]),
        (&"broadcast".into(), &1.into())
    );
    let entries = world
        .get(&viewer, &format!("/api/v1/streams/{id}/entries"))
        .await
        .json();
    assert_eq!(entries["items"][0]["body"], sent["body"]);

    // One has it, one has read it, one has answered it.
    let holds = |read| wire::Cursor {
        stream: id.parse().unwrap(),
        delivered: 1,
        read,
        ..Default::default()
    };
    for (device, read) in [(b, 0), (c, 1)] {
        let cursors = vec![holds(read)];
        world.hello(
            device,
            wire::UpFrame {
                cursors,
                ..Default::default()
            },
        );
    }
    let answered = wire::Operation {
        reply_to: 1,
        reply_stream: id.parse().unwrap(),
        ..text_operation(&own, "North of Gretna, all good")
    };
    world.hello(
        a,
        wire::UpFrame {
            first_op: 1,
            ops: vec![answered],
            ..Default::default()
        },
    );
    let all = json!({ "recipients": 3, "sent": 3, "delivered": 3, "read": 2, "acted": 1 });
    let stage = |name: &str, stage: &str| (name.to_owned(), stage.to_owned());
    let still_silent = [stage("b", "delivered"), stage("c", "read")];
    world
        .until(&viewer, path, |broadcast| {
            broadcast["counts"] == all && silent(broadcast) == still_silent
        })
        .await;
    let answers = world
        .get(&viewer, &format!("/api/v1/streams/{own}/entries"))
        .await
        .json();
    assert_eq!(
        (
            &answers["items"][0]["reply_to"],
            &answers["items"][0]["reply_to_stream"]
        ),
        (&1.into(), &id.into())
    );
    let events = "/api/v1/events?types=waypost.entry.acted";
    let events = world
        .until(&viewer, events, |events| !events["items"][0].is_null())
        .await;
    let acted = events["items"].as_array().unwrap();
    assert!(
        acted
            .iter()
            .any(|event| event["data"]["answer_stream"] == own && event["data"]["stream"] == id),
        "{events}"
    );

    let list = world.get(&viewer, BROADCASTS).await.json();
    assert_eq!(list["items"][0]["counts"], all);
    assert_eq!(
        list["items"][0].get("outstanding"),
        None,
        "only where one is asked for"
    );
    let answer = world
        .call(
            &token,
            "POST",
            &format!("/api/v1/streams/{id}/entries"),
            json!({ "body": { "kind": "text", "text": "x" } }),
        )
        .await;
    answer.expect_problem(409, "conflict");
}

#[tokio::test]
async fn a_broadcast_may_be_a_quick_reply() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, _) = world.add_device("a").await;
    world.offer_late().await;
    let body = json!({
        "to": { "devices": [device.to_string()] },
        "body": { "kind": "reply", "template": "late", "slots": { "minutes": 20 } },
    });
    let sent = world.call(&token, "POST", BROADCASTS, body).await.json();
    assert_eq!(sent["body"]["text"], "Running late 20 min");
    let path = format!("{BROADCASTS}/{}", sent["id"].as_str().unwrap());
    for path in [BROADCASTS, &path] {
        let german = world.get_in("de", &token, path).await.json();
        let one = german["items"].get(0).unwrap_or(&german);
        assert_eq!(one["body"]["text"], "20 min Verspätung", "{path}");
    }
}

#[tokio::test]
async fn recipients_are_those_of_the_moment_when_it_was_sent() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (a, _) = world.add_device("a").await;
    let (b, _) = world.add_device("b").await;
    let (group, _) = world.add_group("North", &[a]).await;
    let sent = world
        .call(&token, "POST", BROADCASTS, to(json!({ "groups": [group] })))
        .await
        .json();
    let members = json!({ "devices": [b.to_string()] });
    world
        .call(SERVER_TOKEN, "PATCH", &format!("/api/v1/groups/{group}"), members)
        .await;
    let path = format!("{BROADCASTS}/{}", sent["id"].as_str().unwrap());
    let shown = world.get(&token, &path).await.json();
    assert_eq!(silent(&shown), [("a".to_owned(), "accepted".to_owned())]);
}

#[tokio::test]
async fn a_wrong_field_is_named_and_nothing_is_sent() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let (device, _) = world.add_device("truck").await;
    let (gone, _) = world.add_device("gone").await;
    let path = format!("/api/v1/devices/{gone}");
    world.send(request("DELETE", &path, &token, None)).await;
    let (empty, _) = world.add_group("Empty", &[]).await;
    let one = json!({ "devices": [device.to_string()] });
    let and = |name: &str, value: Value| {
        let mut body = to(one.clone());
        body[name] = value;
        body
    };
    let cases = [
        (json!({ "body": { "kind": "text", "text": "x" } }), "/to"),
        (to(json!("all")), "/to"),
        (to(json!([])), "/to"),
        (to(json!({})), "/to"),
        (to(json!({ "devices": [], "groups": [] })), "/to"),
        (to(json!({ "groups": [empty] })), "/to"),
        (to(json!({ "devices": ["?"] })), "/to/devices/0"),
        (to(json!({ "devices": ["99"] })), "/to/devices"),
        (to(json!({ "devices": [gone.to_string()] })), "/to/devices"),
        (to(json!({ "groups": [1] })), "/to/groups/0"),
        (to(json!({ "groups": ["99"] })), "/to/groups"),
        (to(json!({ "area": {} })), "/to/area"),
        (json!({ "to": one }), "/body"),
        (and("body", json!("x")), "/body"),
        (and("body", json!({ "kind": "text" })), "/body/text"),
        (and("body", json!({ "kind": "text", "text": "" })), "/body/text"),
        (
            and("body", json!({ "kind": "reply", "template": "late" })),
            "/body/template",
        ),
        (and("urgent", json!(1)), "/urgent"),
        (and("expires_at", json!("soon")), "/expires_at"),
        (and("expires_at", json!("2020-01-01T00:00:00Z")), "/expires_at"),
        (and("respond_by", Value::Null), "/respond_by"),
    ];
    let cases = cases.map(|(body, pointer)| ("POST", BROADCASTS, body, pointer));
    world.expect_wrong_fields(&token, cases.into()).await;
    assert_eq!(world.get(&token, BROADCASTS).await.json()["items"], json!([]));
    for id in ["99", "%3F", "1"] {
        let answer = world.get(&token, &format!("{BROADCASTS}/{id}")).await;
        answer.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_key_sends_one_broadcast_for_many_requests() {
    let mut world = World::new();
    let (person, token) = world.person(Role::Dispatcher).await;
    let (device, _) = world.add_device("truck").await;
    let body = to(json!({ "devices": [device.to_string()] }));
    let first = world.call_once(&token, BROADCASTS, "k", Some(body.clone())).await;
    assert_eq!(first.status, 201, "{first:?}");
    for _ in 0..2 {
        let again = world.call_once(&token, BROADCASTS, "k", Some(body.clone())).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
    }
    let mut other = body;
    other["urgent"] = true.into();
    world
        .call_once(&token, BROADCASTS, "k", Some(other))
        .await
        .expect_problem(422, "key-reused");
    let list = world.get(&token, BROADCASTS).await.json();
    assert_eq!(list["items"], json!([first.json()]));
    let audit = world.get(SERVER_TOKEN, "/api/v1/audit?limit=1").await.json();
    let line = &audit["items"][0];
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&line["action"], &line["subject"], &line["actor"]["id"]),
        (
            &"broadcast.sent".into(),
            &format!("broadcast/{id}").into(),
            &person.id.to_string().into()
        )
    );
}

#[tokio::test]
async fn broadcasts_come_in_parts_newest_first() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, _) = world.add_device("truck").await;
    for number in 1..=5 {
        let mut body = to(json!({ "devices": [device.to_string()] }));
        body["body"]["text"] = number.to_string().into();
        world.call(&token, "POST", BROADCASTS, body).await;
    }
    let mut path = format!("{BROADCASTS}?limit=2");
    let mut texts = Vec::new();
    loop {
        let part = world.get(&token, &path).await.json();
        let items = part["items"].as_array().unwrap();
        texts.extend(items.iter().map(|item| item["body"]["text"].clone()));
        let Some(next) = part["next"].as_str() else { break };
        assert_eq!(items.len(), 2);
        path = format!("{BROADCASTS}?limit=2&cursor={next}");
    }
    assert_eq!(texts, ["5", "4", "3", "2", "1"]);
    for query in ["cursor=%3F", "limit=0", "after=1"] {
        let answer = world.get(&token, &format!("{BROADCASTS}?{query}")).await;
        answer.expect_problem(400, "invalid-parameters");
    }
}
