//! The dashboard, the headers of every answer, and what looks after the server.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let world = World::new();
    for path in [
        "/",
        "/api/v1/devices",
        "/api/v1/nothing",
        "/healthz",
        "/nothing.js",
    ] {
        let headers = world.get("", path).await.headers;
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "worker-src 'self' blob:",
        ] {
            assert!(
                policy.split("; ").any(|directive| directive == part),
                "{path}: {policy}"
            );
        }
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        let kept = if path == "/" { "no-cache" } else { "no-store" };
        assert_eq!(headers["cache-control"], kept, "{path}");
    }
}

#[tokio::test]
async fn there_is_a_page_at_the_root_and_it_travels_compressed() {
    let world = World::new();
    let answer = world.get("", "/").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert!(answer.text().contains("Waypost"));
    let mut compressed = request("GET", "/", "", None);
    compressed
        .headers_mut()
        .insert("accept-encoding", "gzip".parse().unwrap());
    let answer = world.send(compressed).await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    assert!(answer.bytes.starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn readiness_names_what_is_not_well() {
    static WELL: AtomicBool = AtomicBool::new(true);
    let world = World::with(|state| {
        let check = || {
            if WELL.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("no listener".to_owned())
            }
        };
        state
            .check("broker", check)
            .metrics(|| "waypost_up 1\n".to_owned())
    });
    assert_eq!(world.get("", "/healthz").await.json(), json!({ "status": "ok" }));
    let answer = world.get("", "/readyz").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({ "status": "ok", "checks": { "bridge": "ok", "broker": "ok", "space": "ok" } })
    );
    WELL.store(false, Ordering::SeqCst);
    let answer = world.get("", "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json(),
        json!({ "status": "not ready", "checks": { "bridge": "ok", "broker": "no listener", "space": "ok" } })
    );

    let answer = world.get("", "/metrics").await;
    assert_eq!((answer.text(), answer.status.as_u16()), ("waypost_up 1\n", 200));
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
}
