//! Groups, their channels, and who is in them.

use super::*;

const GROUPS: &str = "/api/v1/groups";

/// What the system says in a stream, by `event` and `device`.
async fn memberships(world: &World, token: &str, stream: &str) -> Vec<(Value, Value)> {
    let path = format!("/api/v1/streams/{stream}/entries");
    let list = world.get(token, &path).await.json();
    let entries = list["items"].as_array().unwrap().iter();
    let said = entries.filter(|entry| entry["body"]["kind"] == "system");
    said.map(|entry| {
        assert_eq!(
            entry["author"],
            json!({ "id": "system", "kind": "system", "name": "Waypost" })
        );
        let body = &entry["body"];
        (body["event"].clone(), body["device"]["name"].clone())
    })
    .collect()
}

#[tokio::test]
async fn a_group_is_made_changed_and_deleted() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let (a, _) = world.add_device("a").await;
    let (b, _) = world.add_device("b").await;
    let (c, _) = world.add_device("c").await;
    let body = json!({ "name": "North", "devices": [b.to_string(), a.to_string(), b.to_string()], "history": "all" });
    let answer = world.call(&admin, "POST", GROUPS, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    let (id, stream) = (made["id"].as_str().unwrap(), made["stream"].as_str().unwrap());
    let path = &format!("{GROUPS}/{id}");
    assert_eq!(answer.headers["location"], path.as_str());
    assert_eq!(
        made,
        json!({
            "id": id, "name": "North", "stream": stream, "devices": [a.to_string(), b.to_string()], "history": "all",
        })
    );
    assert_eq!(world.get(&admin, path).await.json(), made);
    let channel = world
        .get(&admin, &format!("/api/v1/streams/{stream}"))
        .await
        .json();
    assert_eq!(
        (&channel["kind"], &channel["title"]),
        (&"group".into(), &"North".into())
    );
    let entries = world
        .get(&admin, &format!("/api/v1/streams/{stream}/entries"))
        .await
        .json();
    assert_eq!(
        entries["items"][0]["body"],
        json!({
            "kind": "system", "event": "joined", "device": { "id": a.to_string(), "kind": "device", "name": "a" },
            "text": "a joined",
        })
    );

    let patch = json!({ "name": "South", "devices": [c.to_string(), a.to_string()], "history": "none" });
    let changed = world.call(&admin, "PATCH", path, patch).await.json();
    assert_eq!(
        changed,
        json!({
            "id": id, "name": "South", "stream": stream, "devices": [a.to_string(), c.to_string()], "history": "none",
        })
    );
    let same = world.call(&admin, "PATCH", path, json!({})).await.json();
    assert_eq!(same, changed);
    let happened = [("joined", "a"), ("joined", "b"), ("left", "b"), ("joined", "c")];
    let happened = happened.map(|(event, device)| (Value::from(event), Value::from(device)));
    assert_eq!(memberships(&world, &admin, stream).await, happened);
    let entries = world
        .get(&admin, &format!("/api/v1/streams/{stream}/entries"))
        .await
        .json();
    assert_eq!(entries["items"][2]["body"]["text"], "b left");
    for (device, groups) in [(a, json!([id])), (b, json!([])), (c, json!([id]))] {
        let device = world
            .get(&admin, &format!("/api/v1/devices/{device}"))
            .await
            .json();
        assert_eq!(device["groups"], groups, "{device}");
    }

    let answer = world.send(request("DELETE", path, &admin, None)).await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
    for (method, body) in [
        ("GET", None),
        ("PATCH", Some(json!({ "name": "x" }))),
        ("DELETE", None),
    ] {
        let answer = world.send(request(method, path, &admin, body)).await;
        answer.expect_problem(404, "not-found");
    }
    assert_eq!(world.get(&admin, GROUPS).await.json()["items"], json!([]));
    let device = world.get(&admin, &format!("/api/v1/devices/{a}")).await.json();
    assert_eq!(device["groups"], json!([]));
    let said = memberships(&world, &admin, stream).await;
    assert_eq!(said[..4], happened, "what was said in it stays");
}

#[tokio::test]
async fn a_device_is_put_into_groups_and_taken_out() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let (north, stream) = world.add_group("North", &[]).await;
    let (tankers, _) = world.add_group("Tankers", &[]).await;
    let new = json!({ "name": "truck-17", "groups": [tankers, north] });
    let answer = world.call(&admin, "POST", "/api/v1/devices", new).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let device = answer.json()["device"].clone();
    let id = device["id"].as_str().unwrap();
    let sorted = json!([north, tankers]);
    assert_eq!(device["groups"], sorted);
    let path = &format!("/api/v1/devices/{id}");
    for (patch, name, groups) in [
        (json!({ "name": "truck-18" }), "truck-18", sorted.clone()),
        (json!({ "groups": [north] }), "truck-18", json!([north])),
        (json!({ "groups": [], "name": "truck-19" }), "truck-19", json!([])),
        (json!({ "groups": [north] }), "truck-19", json!([north])),
    ] {
        let changed = world.call(&admin, "PATCH", path, patch).await.json();
        assert_eq!((&changed["name"], &changed["groups"]), (&name.into(), &groups));
        assert_eq!(world.get(&admin, path).await.json(), changed);
    }
    let shown = world.get(&admin, &format!("{GROUPS}/{north}")).await.json();
    assert_eq!(shown["devices"], json!([id]));
    let events: Vec<Value> = memberships(&world, &admin, &stream)
        .await
        .into_iter()
        .map(|(event, _)| event)
        .collect();
    assert_eq!(events, ["joined", "left", "joined"]);

    world.send(request("DELETE", path, &admin, None)).await;
    let shown = world.get(&admin, &format!("{GROUPS}/{north}")).await.json();
    assert_eq!(shown["devices"], json!([]), "a revoked device is in no group");
}

#[tokio::test]
async fn a_wrong_field_is_named_and_nothing_is_done() {
    let world = World::new();
    let (device, _) = world.add_device("truck").await;
    let (gone, _) = world.add_device("gone").await;
    let path = format!("/api/v1/devices/{gone}");
    world.send(request("DELETE", &path, SERVER_TOKEN, None)).await;
    let (group, _) = world.add_group("North", &[device]).await;
    let group = &format!("{GROUPS}/{group}");
    let device = &format!("/api/v1/devices/{device}");
    let devices = "/api/v1/devices";
    let before = world.get(SERVER_TOKEN, group).await.json();
    let cases = vec![
        ("POST", GROUPS, json!({}), "/name"),
        ("POST", GROUPS, json!({ "name": 1 }), "/name"),
        ("POST", GROUPS, json!({ "name": " " }), "/name"),
        ("POST", GROUPS, json!({ "name": "x".repeat(101) }), "/name"),
        ("POST", GROUPS, json!({ "name": "x", "devices": "1" }), "/devices"),
        (
            "POST",
            GROUPS,
            json!({ "name": "x", "devices": ["1", 2] }),
            "/devices/1",
        ),
        (
            "POST",
            GROUPS,
            json!({ "name": "x", "devices": ["?"] }),
            "/devices/0",
        ),
        (
            "POST",
            GROUPS,
            json!({ "name": "x", "devices": ["99"] }),
            "/devices",
        ),
        (
            "POST",
            GROUPS,
            json!({ "name": "x", "devices": [gone.to_string()] }),
            "/devices",
        ),
        (
            "POST",
            GROUPS,
            json!({ "name": "x", "history": "some" }),
            "/history",
        ),
        ("POST", GROUPS, json!({ "name": "x", "history": 1 }), "/history"),
        ("POST", GROUPS, json!({ "name": "x", "stream": "1" }), "/stream"),
        ("POST", GROUPS, json!(["x"]), ""),
        ("PATCH", group, json!({ "name": null }), "/name"),
        ("PATCH", group, json!({ "name": "" }), "/name"),
        ("PATCH", group, json!({ "devices": null }), "/devices"),
        (
            "PATCH",
            group,
            json!({ "devices": ["99"], "name": "y" }),
            "/devices",
        ),
        ("PATCH", group, json!({ "history": null }), "/history"),
        ("PATCH", group, json!({ "id": "2" }), "/id"),
        ("POST", devices, json!({ "name": "x", "groups": "1" }), "/groups"),
        (
            "POST",
            devices,
            json!({ "name": "x", "groups": [1] }),
            "/groups/0",
        ),
        (
            "POST",
            devices,
            json!({ "name": "x", "groups": ["1", "99"] }),
            "/groups/1",
        ),
        ("PATCH", device, json!({ "groups": null }), "/groups"),
        (
            "PATCH",
            device,
            json!({ "groups": ["?"], "name": "y" }),
            "/groups/0",
        ),
        (
            "PATCH",
            device,
            json!({ "groups": ["99"], "name": "y" }),
            "/groups/0",
        ),
        ("PATCH", device, json!({ "groups": [], "name": "" }), "/name"),
    ];
    world.expect_wrong_fields(SERVER_TOKEN, cases).await;
    let list = world.get(SERVER_TOKEN, GROUPS).await.json();
    assert_eq!(list["items"], json!([before]));
    let list = world.get(SERVER_TOKEN, devices).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list["items"][0]["name"], "truck");
    assert_eq!(list["items"][0]["groups"], json!([before["id"]]));
}

#[tokio::test]
async fn a_body_may_name_ten_thousand_devices() {
    let world = World::new();
    let longest = DeviceId::new(u32::MAX).unwrap().to_string();
    let body = |count| json!({ "name": "all", "devices": vec![&longest; count] });
    let answer = world.call(SERVER_TOKEN, "POST", GROUPS, body(10_000)).await;
    answer.expect_problem(422, "invalid-fields");
    let answer = world.call(SERVER_TOKEN, "POST", GROUPS, body(100_000)).await;
    answer.expect_problem(413, "too-large");
}

#[tokio::test]
async fn a_key_makes_one_group_of_many_requests() {
    let world = World::new();
    let body = json!({ "name": "North" });
    let first = world
        .call_once(SERVER_TOKEN, GROUPS, "k", Some(body.clone()))
        .await;
    for _ in 0..2 {
        let again = world
            .call_once(SERVER_TOKEN, GROUPS, "k", Some(body.clone()))
            .await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
    }
    let other = json!({ "name": "South" });
    world
        .call_once(SERVER_TOKEN, GROUPS, "k", Some(other))
        .await
        .expect_problem(422, "key-reused");
    let list = world.get(SERVER_TOKEN, GROUPS).await.json();
    assert_eq!(list["items"], json!([first.json()]));
}

#[tokio::test]
async fn groups_come_in_parts() {
    let world = World::new();
    for name in ["a", "b", "c", "d", "e"] {
        world.add_group(name, &[]).await;
    }
    let mut path = format!("{GROUPS}?limit=2");
    let mut names = Vec::new();
    loop {
        let part = world.get(SERVER_TOKEN, &path).await.json();
        let items = part["items"].as_array().unwrap();
        names.extend(items.iter().map(|group| group["name"].clone()));
        let Some(next) = part["next"].as_str() else { break };
        assert_eq!(items.len(), 2);
        path = format!("{GROUPS}?limit=2&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    for query in ["cursor=%3F", "limit=0", "before=1"] {
        let answer = world.get(SERVER_TOKEN, &format!("{GROUPS}?{query}")).await;
        answer.expect_problem(400, "invalid-parameters");
    }
}

#[tokio::test]
async fn what_is_done_to_groups_stands_in_the_audit_record() {
    let mut world = World::new();
    let (person, admin) = world.person(Role::Admin).await;
    let made = world
        .call(&admin, "POST", GROUPS, json!({ "name": "North" }))
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    let path = format!("{GROUPS}/{id}");
    world
        .call(&admin, "PATCH", &path, json!({ "name": "South" }))
        .await;
    world.send(request("DELETE", &path, &admin, None)).await;
    let list = world.get(SERVER_TOKEN, "/api/v1/audit?limit=3").await.json();
    let lines: Vec<Value> = list["items"].as_array().unwrap().iter().rev().cloned().collect();
    for (line, action) in lines
        .iter()
        .zip(["group.added", "group.changed", "group.deleted"])
    {
        assert_eq!(
            (&line["action"], &line["subject"], &line["actor"]["id"]),
            (
                &action.into(),
                &format!("group/{id}").into(),
                &person.id.to_string().into()
            )
        );
    }
}
