//! What is refused, and whether the refusal says why.

use super::*;

#[tokio::test]
async fn a_wrong_field_is_named() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let (device, stream) = world.add_device("truck").await;
    let devices = "/api/v1/devices";
    let device = &format!("/api/v1/devices/{device}");
    let entries = &format!("/api/v1/streams/{stream}/entries");
    let cursor = &format!("/api/v1/streams/{stream}/cursor");
    let session = "/api/v1/session";
    let text = |text: Value| json!({ "body": { "kind": "text", "text": text } });
    let and = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    for (method, path, body, pointer) in [
        ("POST", session, json!({}), "/email"),
        ("POST", session, json!({ "email": 1, "password": "x" }), "/email"),
        (
            "POST",
            session,
            json!({ "email": "a@b", "password": ["x"] }),
            "/password",
        ),
        (
            "POST",
            session,
            json!({ "email": "a@b", "password": "x", "otp": "1" }),
            "/otp",
        ),
        ("POST", devices, json!({}), "/name"),
        ("POST", devices, json!({ "name": 17 }), "/name"),
        ("POST", devices, json!({ "name": "" }), "/name"),
        ("POST", devices, json!({ "name": "x".repeat(101) }), "/name"),
        ("POST", devices, json!({ "name": "x", "nmae": "y" }), "/nmae"),
        (
            "POST",
            devices,
            json!({ "name": "x", "driver": "Jan" }),
            "/driver",
        ),
        (
            "POST",
            devices,
            json!({ "name": "x", "driver": { "name": null } }),
            "/driver/name",
        ),
        (
            "POST",
            devices,
            json!({ "name": "x", "driver": { "name": "Jan", "locale": 1 } }),
            "/driver/locale",
        ),
        (
            "POST",
            devices,
            json!({ "name": "x", "driver": { "name": "Jan", "locale": "?" } }),
            "/driver/locale",
        ),
        ("POST", devices, json!({ "name": "x", "labels": "a" }), "/labels"),
        (
            "POST",
            devices,
            json!({ "name": "x", "labels": ["a", 2] }),
            "/labels/1",
        ),
        (
            "POST",
            devices,
            json!({ "name": "x", "labels": vec!["a"; 21] }),
            "/labels",
        ),
        ("PATCH", device, json!({ "name": null }), "/name"),
        ("PATCH", device, json!({ "name": "" }), "/name"),
        ("PATCH", device, json!({ "labels": null }), "/labels"),
        ("PATCH", device, json!({ "driver": {} }), "/driver/name"),
        ("PATCH", device, json!({ "revoked": true }), "/revoked"),
        ("POST", entries, json!({}), "/body"),
        ("POST", entries, json!({ "body": "hello" }), "/body"),
        (
            "POST",
            entries,
            json!({ "body": { "kind": "text" } }),
            "/body/text",
        ),
        ("POST", entries, json!({ "body": { "text": "x" } }), "/body/kind"),
        (
            "POST",
            entries,
            json!({ "body": { "kind": "poem", "text": "x" } }),
            "/body/kind",
        ),
        (
            "POST",
            entries,
            json!({ "body": { "kind": 3, "text": "x" } }),
            "/body/kind",
        ),
        ("POST", entries, text(json!(3)), "/body/text"),
        ("POST", entries, text(json!("")), "/body/text"),
        ("POST", entries, text(json!("x".repeat(4_097))), "/body/text"),
        (
            "POST",
            entries,
            and(text(json!("x")), "urgent", json!("yes")),
            "/urgent",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "expires_at", json!("tomorrow")),
            "/expires_at",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "expires_at", json!(1)),
            "/expires_at",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "expires_at", json!("2020-01-01T00:00:00Z")),
            "/expires_at",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "reply_to", json!(0)),
            "/reply_to",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "reply_to", json!(99)),
            "/reply_to",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "reply_to", json!("1")),
            "/reply_to",
        ),
        (
            "POST",
            entries,
            and(text(json!("x")), "respond_by", json!(null)),
            "/respond_by",
        ),
        ("PUT", cursor, json!({}), "/read"),
        ("PUT", cursor, json!({ "read": "1" }), "/read"),
        ("PUT", cursor, json!({ "read": -1 }), "/read"),
        ("PUT", cursor, json!({ "read": 99 }), "/read"),
        ("PUT", cursor, json!([1]), ""),
        (
            "POST",
            devices,
            json!({ "name": "x", "driver": ["Jan", "de"] }),
            "/driver",
        ),
        ("POST", entries, json!({ "body": ["text", "x"] }), "/body"),
    ] {
        let problem = world
            .call(&token, method, path, body.clone())
            .await
            .expect_problem(422, "invalid-fields");
        let errors = problem["errors"].as_array().unwrap();
        assert_eq!(
            (errors.len(), &errors[0]["pointer"]),
            (1, &pointer.into()),
            "{method} {path} {body}: {problem}"
        );
        assert!(!errors[0]["detail"].as_str().unwrap().is_empty());
    }
    let list = world.get(&token, entries).await.json();
    assert_eq!(list["items"], json!([]), "nothing of that was done");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(64 * 1024));
    for (content_type, body, status, kind) in [
        (Some("application/json"), "{", 400, "malformed"),
        (Some("application/json"), "", 400, "malformed"),
        (Some("application/json"), "{\"name\":\"x\"}}", 400, "malformed"),
        (Some("application/json"), &large, 413, "too-large"),
        (
            Some("text/plain"),
            "{\"name\":\"x\"}",
            415,
            "unsupported-media-type",
        ),
        (
            Some("application/x-www-form-urlencoded"),
            "name=x",
            415,
            "unsupported-media-type",
        ),
        (None, "{\"name\":\"x\"}", 415, "unsupported-media-type"),
    ] {
        let mut request = request("POST", "/api/v1/devices", &token, None);
        if let Some(content_type) = content_type {
            request
                .headers_mut()
                .insert("content-type", content_type.parse().unwrap());
        }
        *request.body_mut() = Body::from(body.to_owned());
        world.send(request).await.expect_problem(status, kind);
    }
    for accepted in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.waypost+json",
    ] {
        let mut request = request("POST", "/api/v1/devices", &token, Some(json!({ "name": "x" })));
        request
            .headers_mut()
            .insert("content-type", accepted.parse().unwrap());
        assert_eq!(world.send(request).await.status, 201, "{accepted}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new();
    let mut request = request("POST", "/api/v1/devices", SERVER_TOKEN, Some(json!({})));
    *request.body_mut() = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    world.send(request).await.expect_problem(408, "too-slow");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    world.add_device("truck").await;
    let text = json!({ "body": { "kind": "text", "text": "x" } });
    for (method, path, body) in [
        ("GET", "/api/v1/nothing", None),
        ("POST", "/api/v1/nothing", Some(json!({}))),
        ("GET", "/api/v1", None),
        ("GET", "/api/v1/devices/", None),
        ("GET", "/api/v1/devices/zz", None),
        ("GET", "/api/v1/devices/07", None),
        ("GET", "/api/v1/devices/%FF", None),
        ("GET", "/api/v1/devices/..%2F..", None),
        ("PATCH", "/api/v1/devices/zz", Some(json!({ "name": "x" }))),
        ("DELETE", "/api/v1/devices/zz", None),
        ("POST", "/api/v1/devices/zz/credentials", None),
        ("GET", "/api/v1/devices/zz/track", None),
        ("GET", "/api/v1/streams/99", None),
        ("GET", "/api/v1/streams/-1", None),
        ("GET", "/api/v1/streams/99/entries", None),
        ("POST", "/api/v1/streams/99/entries", Some(text)),
        ("PUT", "/api/v1/streams/99/cursor", Some(json!({ "read": 1 }))),
        ("GET", "/api/v1/streams/99/receipts?seq=1", None),
        ("GET", "/api/v1/streams/1/receipts?seq=1", None),
        ("GET", "/metrics", None),
        ("GET", "/nothing.js", None),
    ] {
        world
            .send(request(method, path, &token, body))
            .await
            .expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_named_with_those_it_has() {
    let world = World::new();
    for (method, path, allowed) in [
        ("PUT", "/api/v1/devices", &["GET", "HEAD", "POST"][..]),
        ("POST", "/api/v1/devices/1", &["DELETE", "GET", "HEAD", "PATCH"]),
        ("GET", "/api/v1/streams/1/cursor", &["PUT"]),
        ("BREW", "/healthz", &["GET", "HEAD"]),
        ("POST", "/", &["GET", "HEAD"]),
    ] {
        let answer = world.send(request(method, path, "", None)).await;
        answer.expect_problem(405, "method-not-allowed");
        let mut allow: Vec<_> = answer.headers["allow"]
            .to_str()
            .unwrap()
            .split(',')
            .map(str::trim)
            .collect();
        allow.sort_unstable();
        assert_eq!(allow, allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let world = World::new();
    let (device, stream) = world.add_device("truck").await;
    for (path, pointers) in [
        ("devices?limit=x".to_owned(), &["?limit"][..]),
        ("devices?limit=501".to_owned(), &["?limit"]),
        ("devices?cursor=%3F".to_owned(), &["?cursor"]),
        ("devices?page=2&limit=0".to_owned(), &["?limit", "?page"]),
        ("devices?limit=1&limit=2".to_owned(), &["?limit"]),
        (format!("devices/{device}?full=1"), &["?full"]),
        ("streams?cursor=7c".to_owned(), &["?cursor"]),
        (format!("streams/{stream}/receipts"), &["?seq"]),
        (format!("streams/{stream}/receipts?seq=0"), &["?seq"]),
        (format!("streams/{stream}/receipts?seq=x&y=1"), &["?seq", "?y"]),
        ("positions?bbox=1,2,3".to_owned(), &["?bbox"]),
        (format!("devices/{device}/track?from=yesterday"), &["?from"]),
        (
            format!("devices/{device}/track?from=2026-01-01T00:00:00Z&to=2025-01-01T00:00:00Z"),
            &["?from"],
        ),
        (format!("devices/{device}/track?format=kml"), &["?format"]),
        (
            "events/stream?types=waypost.entry.accepted,nonsense".to_owned(),
            &["?types"],
        ),
        ("events/stream?types=".to_owned(), &["?types"]),
        ("events/stream?after=x".to_owned(), &["?after"]),
        ("events/stream?since=1".to_owned(), &["?since"]),
    ] {
        let answer = world.get(SERVER_TOKEN, &format!("/api/v1/{path}")).await;
        let problem = answer.expect_problem(400, "invalid-parameters");
        let named: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["pointer"].clone())
            .collect();
        assert_eq!(named, pointers, "{path}");
    }
}

#[tokio::test]
async fn a_revoked_device_is_not_written_to() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    let (device, stream) = world.add_device("truck").await;
    world
        .send(request(
            "DELETE",
            &format!("/api/v1/devices/{device}"),
            &token,
            None,
        ))
        .await;
    let text = json!({ "body": { "kind": "text", "text": "x" } });
    let answer = world
        .call(&token, "POST", &format!("/api/v1/streams/{stream}/entries"), text)
        .await;
    answer.expect_problem(409, "conflict");
}

#[tokio::test]
async fn a_bridge_that_has_stopped_asks_to_come_back() {
    let world = World::new();
    world.bridge.stop().await;
    for _ in 0..100 {
        if world.bridge.last_event().await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let answer = world.get(SERVER_TOKEN, "/api/v1/devices").await;
    answer.expect_problem(503, "busy");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(world.get("", "/readyz").await.status, 503);
    assert_eq!(world.get("", "/healthz").await.status, 200);
}
