//! `waypost store copy` on the real binary: what the interface can show is the same, byte for byte, whichever engine keeps
//! it, and devices go on as if nothing had been.

use crate::server::{Server, WAYPOST, http_client, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use waypost_field_client::{Client, Credentials, Message, Options, Outcome, ReplyMessage};
use waypost_proto::Fix;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every GET of the interface, in every form that the lists give; a stream of events never ends and tells what the list
/// of events does. A route that is new is asked as well, or the test says that it does not know how.
async fn everything_shown(server: &Server, token: &str) -> BTreeMap<String, String> {
    let client = http_client().build().unwrap();
    let get = async |path: &str| {
        let url = format!("http://{}{path}", server.http);
        let answer = client.get(url).bearer_auth(token).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        text
    };
    let document: Value = serde_json::from_str(&get("/api/openapi.json").await).unwrap();
    let routes = document["paths"].as_object().unwrap().iter();
    let mut routes: Vec<&String> = routes
        .filter(|(path, operations)| path.starts_with("/api/v1/") && operations.get("get").is_some())
        .map(|(path, _)| path)
        // Neither is JSON: one has no end, the other is the store itself.
        .filter(|path| !["/api/v1/events/stream", "/api/v1/backup"].contains(&path.as_str()))
        .collect();
    // A list comes before what hangs on its items.
    routes.sort();
    let mut shown = BTreeMap::new();
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for route in routes {
        let paths: Vec<String> = match route.split_once("/{") {
            None => vec![route.clone()],
            Some((list, rest)) => {
                let end = rest.split_once('}').unwrap().1;
                let names = names.get(list).into_iter().flatten();
                names.map(|name| format!("{list}/{name}{end}")).collect()
            }
        };
        assert!(!paths.is_empty(), "nothing is there that {route} could show");
        for path in paths {
            let asked = if route.ends_with("/receipts") {
                let entries = &names[&path.replace("/receipts", "/entries")];
                entries.iter().map(|seq| format!("{path}?seq={seq}")).collect()
            } else {
                vec![path.clone()]
            };
            for mut page in asked {
                loop {
                    let text = get(&page).await;
                    let value: Value = serde_json::from_str(&text).unwrap();
                    shown.insert(page.clone(), text);
                    let items = value["items"].as_array().map_or(&[][..], Vec::as_slice);
                    let name = |item: &Value| {
                        let names = ["seq", "id", "key"].map(|name| item.get(name).cloned());
                        let name = names.into_iter().flatten().next().unwrap_or_default();
                        name.as_str().map_or(name.to_string(), str::to_owned)
                    };
                    names
                        .entry(path.clone())
                        .or_default()
                        .extend(items.iter().map(name));
                    let next = value["next"].as_str();
                    page = match next {
                        Some(next) if path.ends_with("/events") && !items.is_empty() => {
                            format!("{path}?after={next}")
                        }
                        Some(next) if !path.ends_with("/events") => format!("{path}?cursor={next}"),
                        _ => break,
                    };
                }
            }
        }
    }
    shown
}

fn settings(folder: &Path, engine: &str) {
    std::fs::write(
        folder.join("waypost.toml"),
        format!("[store]\nengine = \"{engine}\"\n"),
    )
    .unwrap();
}

async fn open(credentials: &Path) -> Client {
    let state = credentials.with_extension("state");
    Client::open(Credentials::read(credentials).unwrap(), state, Options::default())
        .await
        .unwrap()
}

/// Reads what is shown until this text; gives all of it.
async fn shown_until(client: &Client, last: &str) -> Vec<String> {
    shown_until_all(client, last, 1).await
}

/// Reads what is shown until there is this text, and at least so many entries: streams come in no order.
async fn shown_until_all(client: &Client, text: &str, count: usize) -> Vec<String> {
    let mut entries = client.entries().unwrap();
    let reading = async {
        let mut shown: Vec<String> = Vec::new();
        while shown.len() < count || !shown.iter().any(|shown| shown == text) {
            let incoming = entries.next().await.unwrap();
            shown.push(incoming.entry.text().unwrap_or_default().to_owned());
            incoming.mark_read().await.unwrap();
            incoming.mark_shown().await.unwrap();
        }
        shown
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("{text} never came"))
}

async fn accepted(client: &Client, message: Message) {
    let posted = client.post_text(message).await.unwrap();
    let outcome = client.wait_accepted(&posted, PATIENCE).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
}

/// Devices that said and heard something of each kind, people, keys, a group, a template, a broadcast, positions.
async fn live_a_little(server: &Server, token: &str, files: [&Path; 2], ids: [&str; 2]) -> String {
    let put = |path: &str, body: Value| {
        let request = http_client().build().unwrap().put(server.url(path));
        let request = request.bearer_auth(token).json(&body);
        async move { assert!(request.send().await.unwrap().status().is_success()) }
    };
    put(
        "/templates/late",
        json!({ "text": { "en": "Late {minutes} min" }, "slots": [{ "name": "minutes", "kind": "number" }] }),
    )
    .await;
    let group = json!({ "name": "North", "devices": ids });
    let group = server.post(token, "/groups", &group).await;
    let key = json!({ "name": "erp", "role": "integration" });
    server.post(token, "/keys", &key).await;
    let text = |text: &str| json!({ "body": { "kind": "text", "text": text } });
    let device = server.read(token, &format!("/devices/{}", ids[0])).await;
    let stream = device["stream"].as_str().unwrap().to_owned();
    let entries = format!("/streams/{stream}/entries");
    // The longest text there is: with what stands around it, it is more than sled is given in one piece.
    let long = "By the harbour, as the bridge is closed. ".repeat(100);
    server.post(token, &entries, &text(&long[..4_096])).await;
    let broadcast = json!({ "to": { "groups": [group["id"]] }, "body": { "kind": "text", "text": "Ice" } });
    server.post(token, "/broadcasts", &broadcast).await;

    let [first, second] = [open(files[0]).await, open(files[1]).await];
    // The broadcast; to the first also who is in the group, and the long text.
    for (client, count) in [(&first, 4), (&second, 1)] {
        shown_until_all(client, "Ice", count).await;
        accepted(client, Message::to_office("At the gate")).await;
    }
    let to_group = Message::to(
        group["stream"].as_str().unwrap().parse().unwrap(),
        "Who is there?",
    );
    accepted(&first, to_group).await;
    first.wait_catalogue(PATIENCE).await.unwrap();
    let minutes = vec![("minutes".to_owned(), "15".to_owned())];
    let reply = first
        .post_reply(ReplyMessage::to_office("late", minutes))
        .await
        .unwrap();
    first.wait_accepted(&reply, PATIENCE).await.unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for number in 0..5 {
        let lat = 54.0 + f64::from(number) / 1_000.0;
        let fix = Fix::from_degrees(now_ms - 5_000 + i64::from(number) * 1_000, lat, 10.0).unwrap();
        first.record(fix).await.unwrap();
    }
    first.flush().await.unwrap();
    let seq = json!({ "read": 2 });
    put(&format!("/streams/{stream}/cursor"), seq).await;
    for client in [first, second] {
        assert_eq!(client.wait_drained(PATIENCE).await.unwrap(), 0);
        client.close().await.unwrap();
    }
    server.post(token, &entries, &text("While you were away")).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_copied_there_and_back_shows_the_same_bytes_and_devices_go_on() {
    let folder = tempfile::tempdir().unwrap();
    settings(folder.path(), "fjall");
    let mut server = Server::start_in(folder, None);
    let data = server.folder().join("data");
    let data = data.to_str().unwrap().to_owned();
    let token = server.sign_in().await;
    let (first, first_file) = server.add_device("truck-1");
    let (second, second_file) = server.add_device("truck-2");
    let stream = live_a_little(&server, &token, [&first_file, &second_file], [&first, &second]).await;

    let refused = Command::new(WAYPOST)
        .args(["store", "copy", "--from", &data, "--to-engine", "sled"])
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && why.contains("stop it first"),
        "{why}"
    );

    let stop = |server: &mut Server| {
        server.ask_to_end();
        assert!(server.ended().0.success());
    };
    // After a start, as before each of the later ones: who is connected is not in the store.
    stop(&mut server);
    server.restart();
    let before = everything_shown(&server, &token).await;
    for engine in ["sled", "fjall"] {
        stop(&mut server);
        let said = run(&["--json", "store", "copy", "--from", &data, "--to-engine", engine]);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(said["records"].as_u64() > Some(50), "{said}");
        settings(server.folder(), engine);
        if engine == "fjall" {
            let client = open(&first_file).await;
            client
                .post_text(Message::to_office("Said in between"))
                .await
                .unwrap();
            client.close().await.unwrap();
        }
        server.restart();
        let after = everything_shown(&server, &token).await;
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>()
        );
        for (path, text) in &before {
            assert_eq!(&after[path], text, "{path} in {engine}");
        }
    }

    // The same store to the devices: nothing comes again, and nothing is missing.
    let client = open(&first_file).await;
    let shown = shown_until(&client, "While you were away").await;
    let own = ["At the gate", "Late 15 min", "Who is there?", "Said in between"];
    let others: Vec<&str> = shown
        .iter()
        .map(String::as_str)
        .filter(|text| !own.contains(text))
        .collect();
    assert_eq!(
        others,
        ["While you were away"],
        "what was shown before is not shown again"
    );
    assert_eq!(client.wait_drained(PATIENCE).await.unwrap(), 0);
    let entries = server.read(&token, &format!("/streams/{stream}/entries")).await;
    let texts = entries["items"].as_array().unwrap().iter();
    let texts: Vec<&str> = texts.filter_map(|entry| entry["body"]["text"].as_str()).collect();
    assert_eq!(
        texts[1..],
        [
            "At the gate",
            "Late 15 min",
            "While you were away",
            "Said in between"
        ]
    );
    client.close().await.unwrap();
}
