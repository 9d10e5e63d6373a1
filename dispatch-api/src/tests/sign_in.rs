//! Signing in and out, and what a cookie may do.

use super::*;
use crate::Transport;
use axum::http::header::SET_COOKIE;

const SESSION: &str = "/api/v1/session";

async fn sign_in(world: &World, email: &str, password: &str) -> Answer {
    world
        .call(
            "",
            "POST",
            SESSION,
            json!({ "email": email, "password": password }),
        )
        .await
}

#[tokio::test]
async fn a_person_signs_in_looks_and_signs_out() {
    let mut world = World::new();
    let (person, _) = world.person(Role::Dispatcher).await;
    let answer = sign_in(&world, " Person1@Waypost.test ", PASSWORD).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = answer.json();
    let token = session["token"].as_str().unwrap();
    assert_eq!(
        session["person"],
        json!({ "id": person.id.to_string(), "email": "person1@waypost.test", "name": "Person 1", "role": "dispatcher" })
    );
    let cookie = answer.headers[SET_COOKIE].to_str().unwrap();
    assert_eq!(
        cookie,
        format!("waypost_session={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200")
    );
    assert_eq!(answer.headers["cache-control"], "no-store");

    let shown = world.get(token, SESSION).await.json();
    assert_eq!(
        (&shown["person"], &shown["expires_at"]),
        (&session["person"], &session["expires_at"])
    );
    assert_eq!(shown.get("token"), None);

    let answer = world.send(request("DELETE", SESSION, token, None)).await;
    assert_eq!(answer.status, 204);
    assert!(
        answer.headers[SET_COOKIE]
            .to_str()
            .unwrap()
            .starts_with("waypost_session=; ")
    );
    world
        .get(token, SESSION)
        .await
        .expect_problem(401, "not-signed-in");
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_get_the_same_answer() {
    let mut world = World::new();
    world.person(Role::Admin).await;
    let wrong = sign_in(&world, "person1@waypost.test", "wrong password").await;
    let unknown = sign_in(&world, "nobody@waypost.test", PASSWORD).await;
    let problem = wrong.expect_problem(401, "wrong-sign-in");
    assert_eq!(problem, unknown.expect_problem(401, "wrong-sign-in"));
    assert_eq!(wrong.headers, unknown.headers);
    assert!(!wrong.headers.contains_key(SET_COOKIE));
}

#[tokio::test]
async fn a_listener_behind_or_with_tls_makes_secure_cookies() {
    for transport in [Transport::Tls, Transport::TlsOfProxy] {
        let mut world = World::with(|state| state.transport(transport));
        world.person(Role::Admin).await;
        let answer = sign_in(&world, "person1@waypost.test", PASSWORD).await;
        assert!(answer.headers[SET_COOKIE].to_str().unwrap().ends_with("; Secure"));
    }
}

#[tokio::test]
async fn a_change_with_a_cookie_must_come_from_a_page_of_this_server() {
    let mut world = World::new();
    let token = world.token(Role::Admin).await;
    for (method, lines, status) in [
        ("GET", &[][..], 200),
        ("GET", &[("sec-fetch-site", "cross-site")], 200),
        ("POST", &[("sec-fetch-site", "same-origin")], 201),
        (
            "POST",
            &[("origin", "http://waypost.test"), ("host", "waypost.test")],
            201,
        ),
        ("POST", &[], 403),
        ("POST", &[("sec-fetch-site", "cross-site")], 403),
        ("POST", &[("sec-fetch-site", "same-site")], 403),
        (
            "POST",
            &[("origin", "http://evil.test"), ("host", "waypost.test")],
            403,
        ),
    ] {
        let mut request = request(method, "/api/v1/devices", "", Some(json!({ "name": "truck" })));
        request
            .headers_mut()
            .insert("cookie", format!("waypost_session={token}").parse().unwrap());
        for (name, value) in lines {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let answer = world.send(request).await;
        assert_eq!(answer.status, status, "{method} {lines:?}");
        if status == 403 {
            answer.expect_problem(403, "cross-origin");
        }
    }
}
