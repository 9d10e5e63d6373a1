//! Templates, and quick replies in the language of whoever reads.

use super::*;

const TEMPLATES: &str = "/api/v1/templates";
const LATE: &str = "/api/v1/templates/late";

fn reply(template: &str, slots: Value) -> Value {
    json!({ "body": { "kind": "reply", "template": template, "slots": slots } })
}

#[tokio::test]
async fn a_template_is_offered_changed_and_withdrawn() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let viewer = world.token(Role::Viewer).await;
    let none = world.get(&viewer, TEMPLATES).await.json();
    assert_eq!((&none["items"], &none["next"]), (&json!([]), &Value::Null));

    let body = json!({
        "text": { "en": "Dock {dock} from {time}", "PT-br": "Doca {dock} a partir das {time}" },
        "slots": [{ "name": "dock", "kind": "text" }, { "name": "time", "kind": "time" }],
    });
    let dock = "/api/v1/templates/dock.a-1";
    let answer = world.call(&admin, "PUT", dock, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    let version = made["version"].as_u64().unwrap();
    assert_eq!(
        made,
        json!({
            "key": "dock.a-1", "version": version,
            "text": { "en": "Dock {dock} from {time}", "pt-BR": "Doca {dock} a partir das {time}" },
            "slots": [{ "name": "dock", "kind": "text" }, { "name": "time", "kind": "time" }],
        })
    );
    assert_eq!(world.get(&viewer, dock).await.json(), made);

    let arrived = json!({ "text": { "en": "Arrived" } });
    let answer = world
        .call(&admin, "PUT", "/api/v1/templates/arrived", arrived)
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["slots"], json!([]));
    let changed = json!({ "text": { "en": "Go to a dock" } });
    let answer = world.call(&admin, "PUT", dock, changed).await;
    assert_eq!(answer.status, 200, "it existed: {answer:?}");
    let changed = answer.json();
    assert!(changed["version"].as_u64().unwrap() > version + 1, "{changed}");
    assert_eq!(changed["slots"], json!([]));

    let list = world.get(&viewer, &format!("{TEMPLATES}?limit=1")).await.json();
    let keys: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|template| &template["key"])
        .collect();
    assert_eq!(keys, ["arrived", "dock.a-1"]);
    assert_eq!(
        (&list["next"], &list["version"]),
        (&Value::Null, &changed["version"])
    );

    let answer = world.send(request("DELETE", dock, &admin, None)).await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
    for method in ["GET", "DELETE"] {
        let answer = world.send(request(method, dock, &admin, None)).await;
        answer.expect_problem(404, "not-found");
    }
    let list = world.get(&viewer, TEMPLATES).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    assert!(list["version"].as_u64() > changed["version"].as_u64());
    let again = json!({ "text": { "en": "Go to a dock" } });
    let answer = world.call(&admin, "PUT", dock, again).await;
    assert_eq!(answer.status, 201, "it is on offer anew");
}

#[tokio::test]
async fn each_reader_reads_a_quick_reply_in_a_language_of_their_own() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, stream) = world.add_device("truck-17").await;
    let version = world.offer_late().await;
    let path = format!("/api/v1/streams/{stream}/entries");
    let answer = world
        .call(&token, "POST", &path, reply("late", json!({ "minutes": 20 })))
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let english = json!({
        "kind": "reply", "template": "late", "version": version, "slots": { "minutes": "20" },
        "text": "Running late 20 min",
    });
    assert_eq!(answer.json()["body"], english);

    let number = 1;
    let operation = wire::Operation {
        stream: stream.parse().unwrap(),
        body: Some(wire::operation::Body::Template(number)),
        template_version: version,
        slot_numbers: vec![5],
        ..Default::default()
    };
    let frame = wire::UpFrame {
        first_op: 1,
        ops: vec![operation],
        ..Default::default()
    };
    world.hello(device, frame);
    let both = |list: &Value| list["items"].as_array().unwrap().len() == 2;
    let list = world.until(&token, &path, both).await;
    assert_eq!(list["items"][0]["body"], english);
    assert_eq!(list["items"][1]["body"]["text"], "Running late 5 min");
    assert_eq!(list["items"][1]["author"]["kind"], "device");

    for (language, said) in [
        ("de", "20 min Verspätung"),
        ("fr;q=0.3, de-AT;q=0.8", "20 min Verspätung"),
        ("fr", "Running late 20 min"),
        ("*", "Running late 20 min"),
    ] {
        let list = world.get_in(language, &token, &path).await.json();
        assert_eq!(list["items"][0]["body"]["text"], said, "{language}");
        let events = "/api/v1/events?types=waypost.entry.accepted";
        let events = world.get_in(language, &token, events).await.json();
        let entry = &events["items"][0]["data"]["entry"];
        assert_eq!(entry["body"]["text"], said, "{language}");
    }
    let mut german = request(
        "POST",
        &path,
        &token,
        Some(reply("late", json!({ "minutes": "7" }))),
    );
    german
        .headers_mut()
        .insert(header::ACCEPT_LANGUAGE, "de".parse().unwrap());
    let answer = world.send(german).await;
    assert_eq!(answer.json()["body"]["text"], "7 min Verspätung");
}

#[tokio::test]
async fn what_was_written_says_what_it_said_then() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let (_, stream) = world.add_device("truck-17").await;
    world.offer_late().await;
    let path = format!("/api/v1/streams/{stream}/entries");
    let late = || reply("late", json!({ "minutes": 20 }));
    let before = world.call(&token, "POST", &path, late()).await.json();
    let changed = json!({
        "text": { "en": "Delayed by {minutes}" }, "slots": [{ "name": "minutes", "kind": "number" }],
    });
    world.call(&token, "PUT", LATE, changed).await;
    let after = world.call(&token, "POST", &path, late()).await.json();
    assert_eq!(after["body"]["text"], "Delayed by 20");
    world.send(request("DELETE", LATE, &token, None)).await;
    let list = world.get(&token, &path).await.json();
    assert_eq!(list["items"], json!([before, after]));
    let answer = world.call(&token, "POST", &path, late()).await;
    let problem = answer.expect_problem(422, "invalid-fields");
    assert_eq!(problem["errors"][0]["pointer"], "/body/template");
}

#[tokio::test]
async fn a_wrong_field_is_named_and_nothing_is_done() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let (_, stream) = world.add_device("truck").await;
    world.offer_late().await;
    let before = world.get(&token, TEMPLATES).await.json();
    let entries = &format!("/api/v1/streams/{stream}/entries");
    let slots = |slots: Value| json!({ "text": { "en": "x" }, "slots": slots });
    let body = |body: Value| json!({ "body": body });
    let cases = vec![
        ("PUT", LATE, json!({}), "/text"),
        ("PUT", LATE, json!({ "text": "x" }), "/text"),
        ("PUT", LATE, json!({ "text": {} }), "/text"),
        ("PUT", LATE, json!({ "text": { "en": 1 } }), "/text/en"),
        (
            "PUT",
            LATE,
            json!({ "text": { "en": "x", "de": " " } }),
            "/text/de",
        ),
        (
            "PUT",
            LATE,
            json!({ "text": { "en": "x".repeat(501) } }),
            "/text/en",
        ),
        (
            "PUT",
            LATE,
            json!({ "text": { "en": "x", "de": "{dock}" } }),
            "/text/de",
        ),
        ("PUT", LATE, json!({ "text": { "a b": "x" } }), "/text"),
        (
            "PUT",
            LATE,
            json!({ "text": { "DE": "x", "de": "y" } }),
            "/text/de",
        ),
        ("PUT", LATE, slots(json!({})), "/slots"),
        ("PUT", LATE, slots(json!(["minutes"])), "/slots/0"),
        ("PUT", LATE, slots(json!([["minutes", "number"]])), "/slots/0"),
        ("PUT", LATE, slots(json!([{ "name": "a" }])), "/slots/0/kind"),
        (
            "PUT",
            LATE,
            slots(json!([{ "name": "a", "kind": "date" }])),
            "/slots/0/kind",
        ),
        (
            "PUT",
            LATE,
            slots(json!([{ "name": "A", "kind": "text" }])),
            "/slots",
        ),
        (
            "PUT",
            LATE,
            slots(json!([{ "name": "a", "kind": "text" }, { "name": "a", "kind": "text" }])),
            "/slots",
        ),
        (
            "PUT",
            LATE,
            json!({ "text": { "en": "x" }, "version": 1 }),
            "/version",
        ),
        (
            "PUT",
            "/api/v1/templates/Late",
            json!({ "text": { "en": "x" } }),
            "/key",
        ),
        (
            "POST",
            entries,
            body(json!({ "kind": "reply" })),
            "/body/template",
        ),
        (
            "POST",
            entries,
            body(json!({ "kind": "reply", "template": 1 })),
            "/body/template",
        ),
        ("POST", entries, reply("nothing", json!({})), "/body/template"),
        ("POST", entries, reply("late", json!([])), "/body/slots"),
        ("POST", entries, reply("late", json!({})), "/body/slots/minutes"),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": true })),
            "/body/slots/minutes",
        ),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": "soon" })),
            "/body/slots/minutes",
        ),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": 1.5 })),
            "/body/slots/minutes",
        ),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": 1_000_000_000 })),
            "/body/slots/minutes",
        ),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": 1, "hours": 1 })),
            "/body/slots/hours",
        ),
        (
            "POST",
            entries,
            reply("late", json!({ "minutes": 1, "a/b": 1 })),
            "/body/slots/a~1b",
        ),
        (
            "POST",
            entries,
            body(json!({ "kind": "reply", "template": "late", "slots": { "minutes": 1 }, "text": "x" })),
            "/body/text",
        ),
        (
            "POST",
            entries,
            body(json!({ "kind": "text", "text": "x", "template": "late" })),
            "/body/template",
        ),
        (
            "POST",
            entries,
            body(json!({ "kind": "text", "text": "x", "slots": {} })),
            "/body/slots",
        ),
        ("POST", entries, body(json!({ "kind": "system" })), "/body/kind"),
    ];
    world.expect_wrong_fields(&token, cases).await;
    assert_eq!(world.get(&token, TEMPLATES).await.json(), before);
    assert_eq!(world.get(&token, entries).await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_is_done_to_templates_stands_in_the_audit_record() {
    let mut world = World::new();
    let (person, admin) = world.person(Role::Admin).await;
    world
        .call(&admin, "PUT", LATE, json!({ "text": { "en": "Late" } }))
        .await;
    world.send(request("DELETE", LATE, &admin, None)).await;
    let list = world.get(SERVER_TOKEN, "/api/v1/audit?limit=2").await.json();
    for (line, action) in [(1, "template.changed"), (0, "template.deleted")] {
        let line = &list["items"][line];
        assert_eq!(
            (&line["action"], &line["subject"], &line["actor"]["id"]),
            (
                &action.into(),
                &"template/late".into(),
                &person.id.to_string().into()
            )
        );
    }
}
