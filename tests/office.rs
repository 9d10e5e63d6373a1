//! People and keys by the command line, as an administrator has them: what it prints lets them in, across a restart.

use crate::server::{Server, WAYPOST, http_client};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

#[tokio::test]
async fn people_and_keys_come_in_until_they_are_removed_and_the_record_says_who_let_them() {
    let mut server = Server::start();
    // A connection that is kept would end with the server.
    let http = http_client().pool_max_idle_per_host(0).build().unwrap();
    let data = server.folder().join("data");
    let waypost = |arguments: &[&str], input: &str| -> Vec<Value> {
        let mut process = Command::new(WAYPOST)
            .args(arguments)
            .args(["--json", "--data", data.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Those that ask for nothing may have ended.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "waypost {arguments:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let person = &waypost(
        &["person", "add", "anna@x.org", "--role", "viewer"],
        "0123456789\n",
    )[0];
    assert_eq!(
        (&person["name"], &person["role"]),
        (&"anna".into(), &"viewer".into())
    );
    let key = &waypost(&["key", "add", "ERP", "--role", "integration"], "")[0];
    let token = key["token"].as_str().unwrap();
    let status = async |server: &Server, token: &str| {
        let request = http.get(server.url("/devices")).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    let body = json!({ "email": "anna@x.org", "password": "0123456789" });
    let session = http
        .post(server.url("/session"))
        .json(&body)
        .send()
        .await
        .unwrap();
    let session: Value = session.json().await.unwrap();
    let annas = session["token"].as_str().unwrap();

    server.kill();
    server.restart();
    assert_eq!(
        [status(&server, token).await, status(&server, annas).await],
        [200, 200]
    );
    assert_eq!(waypost(&["person", "list"], "").len(), 2);
    assert_eq!(waypost(&["key", "list"], "")[0]["name"], "ERP");
    waypost(&["key", "revoke", key["id"].as_str().unwrap()], "");
    waypost(&["person", "remove", person["id"].as_str().unwrap()], "");
    assert_eq!(
        [status(&server, token).await, status(&server, annas).await],
        [401, 401]
    );

    let administrator = server.sign_in().await;
    let record = server.read(&administrator, "/audit").await;
    let done: Vec<&str> = record["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["actor"]["kind"] == "server" && entry["address"] == "127.0.0.1")
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        done,
        ["person.removed", "key.revoked", "key.added", "person.added"]
    );
}
