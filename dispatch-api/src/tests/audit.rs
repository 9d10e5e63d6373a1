//! The audit record over HTTP: who, what, from where, and who was refused.

use super::*;
use crate::Transport;
use axum::extract::ConnectInfo;
use std::net::SocketAddr;

const AUDIT: &str = "/api/v1/audit";
const SESSION: &str = "/api/v1/session";

async fn from(world: &World, address: &str, mut request: Request<Body>) -> Answer {
    request
        .extensions_mut()
        .insert(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 4711)));
    world.send(request).await
}

/// Who, from where, what, to what, with which outcome, how often; the oldest first.
async fn lines(world: &World) -> Vec<Value> {
    let list = world.get(SERVER_TOKEN, AUDIT).await.json();
    let line = |entry: &Value| {
        json!([
            entry["actor"]["kind"],
            entry["actor"]["name"],
            entry["address"],
            entry["action"],
            entry["subject"],
            entry["reason"],
            entry["count"]
        ])
    };
    let mut lines: Vec<Value> = list["items"].as_array().unwrap().iter().map(line).collect();
    lines.reverse();
    lines
}

#[tokio::test]
async fn what_is_done_and_what_is_refused_is_recorded() {
    let mut world = World::new();
    let (person, _) = world.person(Role::Viewer).await;
    let sign_in = |password: &str| {
        let body = json!({ "email": person.email, "password": password });
        request("POST", SESSION, "", Some(body))
    };
    let before = lines(&world).await.len();
    for _ in 0..3 {
        from(&world, "192.0.2.7", sign_in("wrong password")).await;
    }
    let answer = from(&world, "192.0.2.7", sign_in(PASSWORD)).await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let add = |token: &str| request("POST", "/api/v1/devices", token, Some(json!({ "name": "truck" })));
    from(&world, "192.0.2.7", add(&token))
        .await
        .expect_problem(403, "not-allowed");
    from(&world, "192.0.2.8", add("no token of ours"))
        .await
        .expect_problem(401, "not-signed-in");
    from(&world, "192.0.2.8", add(""))
        .await
        .expect_problem(401, "not-signed-in");
    let bot = world.key(Role::Integration).await;
    from(&world, "2001:db8::1", add(&bot)).await;
    from(
        &world,
        "127.0.0.1",
        request("DELETE", "/api/v1/devices/1", SERVER_TOKEN, None),
    )
    .await;
    from(&world, "192.0.2.7", request("DELETE", SESSION, &token, None)).await;
    assert_eq!(
        lines(&world).await[before..],
        [
            json!([
                "nobody",
                null,
                "192.0.2.7",
                "session.created",
                "person/1",
                "wrong-sign-in",
                3
            ]),
            json!([
                "person",
                "Person 1",
                "192.0.2.7",
                "session.created",
                "person/1",
                null,
                1
            ]),
            json!([
                "person",
                "Person 1",
                "192.0.2.7",
                "POST /api/v1/devices",
                null,
                "not-allowed",
                1
            ]),
            json!([
                "nobody",
                null,
                "192.0.2.8",
                "POST /api/v1/devices",
                null,
                "not-signed-in",
                1
            ]),
            json!(["server", null, null, "key.added", "key/2", null, 1]),
            json!([
                "key",
                "Key Integration",
                "2001:db8::1",
                "device.added",
                "device/1",
                null,
                1
            ]),
            json!(["server", null, "127.0.0.1", "device.revoked", "device/1", null, 1]),
            json!([
                "person",
                "Person 1",
                "192.0.2.7",
                "session.ended",
                "person/1",
                null,
                1
            ]),
        ]
    );
}

#[tokio::test]
async fn the_record_comes_in_parts_newest_first() {
    let world = World::new();
    for number in 0..5 {
        world.add_device(&format!("truck-{number}")).await;
    }
    let mut path = format!("{AUDIT}?limit=2");
    let mut subjects = Vec::new();
    loop {
        let part = world.get(SERVER_TOKEN, &path).await.json();
        for entry in part["items"].as_array().unwrap() {
            assert_eq!(
                (&entry["outcome"], &entry["actor"]["id"]),
                (&"done".into(), &Value::Null)
            );
            subjects.push(entry["subject"].as_str().unwrap().to_owned());
        }
        let Some(next) = part["next"].as_str() else { break };
        path = format!("{AUDIT}?limit=2&cursor={next}");
    }
    assert_eq!(subjects, [5, 4, 3, 2, 1].map(|id| format!("device/{id}")));
    for wrong in ["x", "0", "-1"] {
        let answer = world.get(SERVER_TOKEN, &format!("{AUDIT}?cursor={wrong}")).await;
        answer.expect_problem(400, "invalid-parameters");
    }
}

#[tokio::test]
async fn behind_a_proxy_the_address_is_the_one_that_the_proxy_saw() {
    for (transport, address) in [
        (Transport::Plain, "127.0.0.1"),
        (Transport::Tls, "127.0.0.1"),
        (Transport::TlsOfProxy, "192.0.2.9"),
    ] {
        let world = World::with(|state| state.transport(transport));
        let mut add = request(
            "POST",
            "/api/v1/devices",
            SERVER_TOKEN,
            Some(json!({ "name": "a" })),
        );
        add.headers_mut()
            .insert("x-forwarded-for", "10.0.0.1, 192.0.2.9".parse().unwrap());
        from(&world, "127.0.0.1", add).await;
        assert_eq!(lines(&world).await[0][2], address, "{transport:?}");
    }
}

#[tokio::test]
async fn an_address_and_an_account_have_so_many_attempts() {
    let mut world = World::new();
    let (anna, _) = world.person(Role::Viewer).await;
    let attempt = |email: &str, password: &str| {
        request(
            "POST",
            SESSION,
            "",
            Some(json!({ "email": email, "password": password })),
        )
    };
    // The owner has been here before.
    let answer = from(&world, "192.0.2.1", attempt(&anna.email, PASSWORD)).await;
    assert_eq!(answer.status, 200);
    for _ in 0..10 {
        from(&world, "203.0.113.1", attempt(&anna.email, "a guess of ten"))
            .await
            .expect_problem(401, "wrong-sign-in");
    }
    for address in ["203.0.113.1", "203.0.113.2"] {
        let answer = from(&world, address, attempt(&anna.email, PASSWORD)).await;
        answer.expect_problem(429, "too-many-attempts");
        let seconds: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=61).contains(&seconds), "{seconds}");
    }
    let answer = from(&world, "192.0.2.1", attempt(&anna.email, PASSWORD)).await;
    assert_eq!(answer.status, 200, "whoever guesses locks nobody out");
    for number in 0..10 {
        from(
            &world,
            "203.0.113.1",
            attempt(&format!("{number}@x"), "a guess of ten"),
        )
        .await
        .expect_problem(401, "wrong-sign-in");
    }
    from(&world, "203.0.113.1", attempt("another@x", "a guess of ten"))
        .await
        .expect_problem(429, "too-many-attempts");
    let lines = lines(&world).await;
    let limited = lines.iter().filter(|line| line[5] == "too-many-attempts");
    let counts: Vec<_> = limited.map(|line| (&line[2], &line[3], &line[6])).collect();
    let action = Value::from("POST /api/v1/session");
    let (one, other) = (Value::from("203.0.113.1"), Value::from("203.0.113.2"));
    assert_eq!(counts, [(&one, &action, &2.into()), (&other, &action, &1.into())]);
}
