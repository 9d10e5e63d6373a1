//! Who may sign in, and what other systems come in with.

use super::*;

const PEOPLE: &str = "/api/v1/people";
const KEYS: &str = "/api/v1/keys";
const SESSION: &str = "/api/v1/session";

async fn sign_in(world: &World, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    world.call("", "POST", SESSION, body).await
}

#[tokio::test]
async fn a_person_is_added_signs_in_is_changed_and_removed() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let new =
        json!({ "email": "Anna@Waypost.test", "name": "Anna", "role": "viewer", "password": "0123456789" });
    let answer = world.call(&admin, "POST", PEOPLE, new.clone()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let person = answer.json();
    let id = person["id"].as_str().unwrap();
    assert_eq!(
        person,
        json!({ "id": id, "email": "anna@waypost.test", "name": "Anna", "role": "viewer" })
    );
    let path = format!("{PEOPLE}/{id}");
    assert_eq!(answer.headers["location"], path);
    assert_eq!(world.get(&admin, &path).await.json(), person);
    let list = world.get(&admin, PEOPLE).await.json();
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][1]),
        (2, &person)
    );
    world
        .call(&admin, "POST", PEOPLE, new)
        .await
        .expect_problem(409, "conflict");

    let token = sign_in(&world, "anna@waypost.test", "0123456789").await.json()["token"].clone();
    let token = token.as_str().unwrap();
    world.get(token, PEOPLE).await.expect_problem(403, "not-allowed");
    let patch = json!({ "role": "admin", "name": "Anna A." });
    let changed = world.call(&admin, "PATCH", &path, patch).await.json();
    assert_eq!(
        (&changed["role"], &changed["name"]),
        (&"admin".into(), &"Anna A.".into())
    );
    assert_eq!(
        world.get(token, PEOPLE).await.status,
        200,
        "a role counts at once"
    );

    let patch = json!({ "password": "another one" });
    assert_eq!(world.call(&admin, "PATCH", &path, patch).await.status, 200);
    world
        .get(token, SESSION)
        .await
        .expect_problem(401, "not-signed-in");
    let old = sign_in(&world, "anna@waypost.test", "0123456789").await;
    old.expect_problem(401, "wrong-sign-in");
    let token = sign_in(&world, "anna@waypost.test", "another one").await.json()["token"].clone();
    let token = token.as_str().unwrap();

    assert_eq!(
        world.send(request("DELETE", &path, &admin, None)).await.status,
        204
    );
    world
        .get(token, SESSION)
        .await
        .expect_problem(401, "not-signed-in");
    for method in ["GET", "DELETE"] {
        let answer = world.send(request(method, &path, &admin, None)).await;
        answer.expect_problem(404, "not-found");
    }
    let last = format!("{PEOPLE}/1");
    for (method, body) in [("DELETE", None), ("PATCH", Some(json!({ "role": "viewer" })))] {
        let answer = world.send(request(method, &last, &admin, body)).await;
        answer.expect_problem(409, "conflict");
    }
}

#[tokio::test]
async fn a_wrong_field_of_a_person_or_a_key_is_named() {
    let world = World::new();
    let person = |field: &str, value: Value| {
        let mut body = json!({ "email": "a@b", "name": "A", "role": "admin", "password": "0123456789" });
        body[field] = value;
        body
    };
    for (path, body, pointer) in [
        (PEOPLE, person("email", "nobody".into()), "/email"),
        (PEOPLE, person("name", "".into()), "/name"),
        (PEOPLE, person("role", "bot".into()), "/role"),
        (PEOPLE, person("role", "king".into()), "/role"),
        (PEOPLE, person("password", "short".into()), "/password"),
        (PEOPLE, person("id", "1".into()), "/id"),
        (KEYS, json!({ "name": "A", "role": "admin" }), "/role"),
        (KEYS, json!({ "name": "\u{7}", "role": "bot" }), "/name"),
        (KEYS, json!({ "name": "A" }), "/role"),
    ] {
        let answer = world.call(SERVER_TOKEN, "POST", path, body.clone()).await;
        let problem = answer.expect_problem(422, "invalid-fields");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test]
async fn a_key_reads_and_writes_under_its_name_until_it_is_revoked() {
    let mut world = World::new();
    let admin = world.token(Role::Admin).await;
    let (_, stream) = world.add_device("truck").await;
    let body = json!({ "name": "ERP", "role": "bot" });
    let answer = world.call(&admin, "POST", KEYS, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut key = answer.json();
    let token = key["token"].as_str().unwrap().to_owned();
    let path = format!("{KEYS}/{}", key["id"].as_str().unwrap());
    key.as_object_mut().unwrap().remove("token");
    assert_eq!(
        world.get(&admin, &path).await.json(),
        key,
        "the token is shown once"
    );
    assert_eq!(
        (&key["name"], &key["role"], &key["last_used_at"], &key["revoked"]),
        (&"ERP".into(), &"bot".into(), &Value::Null, &false.into())
    );

    let entries = format!("/api/v1/streams/{stream}/entries");
    let text = json!({ "body": { "kind": "text", "text": "from a bot" } });
    let entry = world.call(&token, "POST", &entries, text).await.json();
    assert_eq!(
        entry["author"],
        json!({ "id": key["id"], "kind": "person", "name": "ERP" })
    );
    let cursor = format!("/api/v1/streams/{stream}/cursor");
    assert_eq!(
        world
            .call(&token, "PUT", &cursor, json!({ "read": 1 }))
            .await
            .status,
        204
    );
    for (method, path) in [("POST", "/api/v1/devices"), ("GET", SESSION), ("GET", KEYS)] {
        let answer = world.send(request(method, path, &token, None)).await;
        answer.expect_problem(403, "not-allowed");
    }
    assert!(world.get(&admin, &path).await.json()["last_used_at"].is_string());

    let patch = json!({ "role": "integration", "name": "SAP" });
    let changed = world.call(&admin, "PATCH", &path, patch).await.json();
    assert_eq!(
        (&changed["role"], &changed["name"]),
        (&"integration".into(), &"SAP".into())
    );
    let device = world
        .call(
            &token,
            "POST",
            "/api/v1/devices",
            json!({ "name": "from the ERP" }),
        )
        .await;
    assert_eq!(device.status, 201);

    assert_eq!(
        world.send(request("DELETE", &path, &admin, None)).await.status,
        204
    );
    world
        .get(&token, &entries)
        .await
        .expect_problem(401, "not-signed-in");
    assert_eq!(world.get(&admin, &path).await.json()["revoked"], true);
    let entry = world.get(&admin, &entries).await.json();
    assert_eq!(entry["items"][0]["author"]["name"], "SAP", "what it wrote stays");
}

#[tokio::test]
async fn a_person_is_added_once_whatever_the_password() {
    let world = World::new();
    let new =
        |password: &str| Some(json!({ "email": "a@b", "name": "A", "role": "admin", "password": password }));
    let first = world
        .call_once(SERVER_TOKEN, PEOPLE, "k", new("0123456789"))
        .await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = world
        .call_once(SERVER_TOKEN, PEOPLE, "k", new("0123456789"))
        .await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));
    world
        .call_once(SERVER_TOKEN, PEOPLE, "k", new("9876543210"))
        .await
        .expect_problem(422, "key-reused");
    let key = Some(json!({ "name": "ERP", "role": "bot" }));
    let first = world
        .call_once(SERVER_TOKEN, KEYS, "k2", key.clone())
        .await
        .json();
    let again = world.call_once(SERVER_TOKEN, KEYS, "k2", key).await;
    let problem = again.expect_problem(409, "made-before");
    assert_eq!(problem["made"], json!({ "kind": "key", "id": first["id"] }));
}
