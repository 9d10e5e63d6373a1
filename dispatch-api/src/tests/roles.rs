//! Who may call what.

use super::*;
use crate::access::Access;
use crate::routes::routes;

/// What a caller gets from a route before its handler is asked.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Through,
    NotSignedIn,
    NotAllowed,
    PersonRequired,
    DeviceRequired,
}

fn outcome(answer: &Answer) -> Outcome {
    let kind = match answer.status.as_u16() {
        401 | 403 => answer.json()["type"].as_str().unwrap().to_owned(),
        _ => return Outcome::Through,
    };
    match kind.as_str() {
        "/problems/not-signed-in" => Outcome::NotSignedIn,
        "/problems/not-allowed" => Outcome::NotAllowed,
        "/problems/person-required" => Outcome::PersonRequired,
        "/problems/wrong-device" => Outcome::DeviceRequired,
        other => panic!("{other}"),
    }
}

/// Who lets others in.
fn is_for_admins(path: &str) -> bool {
    [
        "/api/v1/people",
        "/api/v1/keys",
        "/api/v1/audit",
        "/api/v1/backup",
    ]
    .iter()
    .any(|resource| path.starts_with(resource))
}

#[tokio::test]
async fn every_route_lets_those_through_whom_it_names() {
    let mut world = World::new();
    let callers = [
        ("nobody", String::new()),
        ("viewer", world.token(Role::Viewer).await),
        ("dispatcher", world.token(Role::Dispatcher).await),
        ("admin", world.token(Role::Admin).await),
        ("integration", world.key(Role::Integration).await),
        ("bot", world.key(Role::Bot).await),
        ("server", SERVER_TOKEN.to_owned()),
    ];
    // `…` is read by everybody; one row a route that somebody may not call.
    use Outcome::{DeviceRequired, NotAllowed, NotSignedIn, PersonRequired, Through};
    let expected = |method: &str, path: &str, caller: &str| match (method, path, caller) {
        (_, "/healthz" | "/readyz" | "/metrics" | "/mqtt" | "/api/openapi.json" | "/api/docs", _)
        | (_, "/ca" | "/ca.pem" | "/ca.crt" | "/ca.mobileconfig", _)
        | ("POST", "/api/v1/session", _) => Through,
        (_, "/api/v1/positions/owntracks", _) => DeviceRequired,
        (_, _, "nobody") => NotSignedIn,
        ("GET" | "DELETE", "/api/v1/session", "server") => PersonRequired,
        ("GET" | "DELETE", "/api/v1/session", "integration" | "bot") => NotAllowed,
        ("POST", "/api/v1/streams/{id}/entries", "server") => PersonRequired,
        ("PUT", "/api/v1/streams/{id}/cursor", "server") => PersonRequired,
        ("POST" | "PUT", "/api/v1/streams/{id}/entries" | "/api/v1/streams/{id}/cursor", "viewer") => {
            NotAllowed
        }
        ("POST" | "PATCH", _, "viewer" | "dispatcher" | "bot") if path.starts_with("/api/v1/devices") => {
            NotAllowed
        }
        ("DELETE", "/api/v1/devices/{id}", "viewer" | "dispatcher" | "bot") => NotAllowed,
        ("POST" | "PATCH" | "DELETE", _, "viewer" | "dispatcher" | "bot")
            if path.starts_with("/api/v1/groups") =>
        {
            NotAllowed
        }
        ("PUT" | "DELETE", "/api/v1/templates/{key}", "viewer" | "dispatcher" | "integration" | "bot") => {
            NotAllowed
        }
        ("POST", "/api/v1/broadcasts", "server") => PersonRequired,
        ("POST", "/api/v1/broadcasts", "viewer") => NotAllowed,
        (_, _, "viewer" | "dispatcher" | "integration" | "bot") if is_for_admins(path) => NotAllowed,
        _ => Through,
    };
    for route in routes() {
        let (method, path) = (route.method.as_str(), route.path);
        for (caller, token) in &callers {
            // A stream of events would not end, a sign-out would end the next rows. Both refuse an unknown parameter.
            let asked = format!("{}?unknown=1", path.replace("{id}", "1").replace("{key}", "late"));
            let answer = world.send(request(method, &asked, token, None)).await;
            assert_eq!(
                outcome(&answer),
                expected(method, path, caller),
                "{method} {path} as {caller}: {answer:?}"
            );
        }
    }
}

#[test]
fn everything_of_the_interface_but_signing_in_asks_who_is_there() {
    for route in routes() {
        let is_open = route.access == Access::Anybody;
        let may_be_open = !route.path.starts_with("/api/v1/") || route.path == "/api/v1/session";
        assert!(!is_open || may_be_open, "{} {}", route.method, route.path);
    }
}

#[tokio::test]
async fn a_token_that_is_none_is_refused() {
    let mut world = World::new();
    let (person, token) = world.person(Role::Admin).await;
    world.sign_in(&person, "expired", now_ms() - 1).await;
    assert_eq!(world.get(&token, "/api/v1/devices").await.status, 200);
    for wrong in ["expired", "unknown", &token.to_uppercase(), &format!("{token}x")] {
        let answer = world.get(wrong, "/api/v1/devices").await;
        answer.expect_problem(401, "not-signed-in");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn without_a_hash_there_is_no_server_token() {
    let (devices, inbox) = mpsc::unbounded_channel();
    let (bridge, _running) = Bridge::start(
        Arc::new(MemoryStore::new()),
        Link(inbox),
        BridgeOptions::default(),
    )
    .unwrap();
    let router = router(ApiState::builder(bridge.clone(), "x").build().unwrap());
    let world = World {
        bridge,
        router,
        devices,
        stop: watch::channel(false).0,
        people: 0,
    };
    world
        .get(SERVER_TOKEN, "/api/v1/devices")
        .await
        .expect_problem(401, "not-signed-in");
}
