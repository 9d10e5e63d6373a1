//! The stream of events.

use super::*;
use axum::body::BodyDataStream;
use futures_util::StreamExt;
use std::time::Duration;
use waypost_bridge::event::{Event, EventKind};
use waypost_bridge::store::{Change, Log, Store, Trim};

/// A client of the stream.
struct Client {
    pieces: BodyDataStream,
    text: String,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    id: Option<u64>,
    event: Value,
}

impl World {
    async fn follow(&self, token: &str, query: &str, last_event_id: Option<&str>) -> Client {
        let mut request = request("GET", &format!("/api/v1/events/stream{query}"), token, None);
        // Events are not compressed: a compressor would hold them back.
        request
            .headers_mut()
            .insert("accept-encoding", "gzip".parse().unwrap());
        if let Some(id) = last_event_id {
            request.headers_mut().insert("last-event-id", id.parse().unwrap());
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(!response.headers().contains_key("content-encoding"));
        let mut client = Client {
            pieces: response.into_body().into_data_stream(),
            text: String::new(),
        };
        assert_eq!(client.block().await.as_deref(), Some("retry: 2000"));
        client
    }
}

impl Client {
    /// What stands before the next empty line; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let piece = self.pieces.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn told(&mut self) -> Told {
        let block = async {
            loop {
                let block = self.block().await.expect("the stream has ended");
                // A comment says that the stream lives; how many there are depends on how fast this machine is.
                if !block.starts_with(':') {
                    return block;
                }
            }
        };
        let block = tokio::time::timeout(Duration::from_secs(10), block).await;
        let block = block.expect("nothing comes");
        let mut id = None;
        for line in block.lines() {
            match line.split_once(": ").unwrap() {
                ("id", cursor) => id = Some(cursor.parse().unwrap()),
                ("data", event) => {
                    return Told {
                        id,
                        event: serde_json::from_str(event).unwrap(),
                    };
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("{block}")
    }

    async fn many(&mut self, count: usize) -> Vec<Told> {
        let mut many = Vec::new();
        for _ in 0..count {
            many.push(self.told().await);
        }
        many
    }
}

async fn post(world: &World, token: &str, stream: &str, text: &str) {
    let body = json!({ "body": { "kind": "text", "text": text } });
    let answer = world
        .call(token, "POST", &format!("/api/v1/streams/{stream}/entries"), body)
        .await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn an_event_is_a_cloud_event() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let mut client = world.follow(&token, "", None).await;
    let (device, stream) = world.add_device("truck-17").await;
    let enrolled = client.told().await;
    assert_eq!(
        enrolled.event,
        json!({
            "specversion": "1.0", "id": "1", "source": "waypost.test", "type": "waypost.device.enrolled",
            "subject": format!("device/{device}"), "time": enrolled.event["time"], "datacontenttype": "application/json",
            "data": { "device": device.to_string(), "name": "truck-17", "since": enrolled.event["time"] },
        })
    );
    assert_eq!(enrolled.id, Some(1));

    post(&world, &token, &stream, "hello").await;
    let accepted = client.told().await.event;
    let entry = &world
        .get(&token, &format!("/api/v1/streams/{stream}/entries"))
        .await
        .json()["items"][0];
    assert_eq!(
        (&accepted["type"], &accepted["data"]["entry"]),
        (&"waypost.entry.accepted".into(), entry)
    );
    assert_eq!(accepted["subject"], format!("stream/{stream}/1"));

    world.hello(device, wire::UpFrame::default());
    let online = client.told().await.event;
    assert_eq!(
        (&online["type"], &online["data"]["name"]),
        (&"waypost.device.online".into(), &"truck-17".into())
    );
    let cursors = vec![wire::Cursor {
        stream: stream.parse().unwrap(),
        delivered: 1,
        read: 1,
        ..Default::default()
    }];
    let stamp = Stamp::of(SessionTag::FIRST).to_wire();
    for rung in ["sent", "delivered", "read"] {
        let event = client.told().await.event;
        assert_eq!(event["type"], format!("waypost.entry.{rung}"));
        assert_eq!(event["subject"], format!("stream/{stream}/1"));
        let data = &event["data"];
        assert_eq!(
            (&data["stream"], &data["from_seq"], &data["seq"]),
            (&stream.as_str().into(), &1.into(), &1.into())
        );
        assert_eq!(
            data["member"],
            json!({ "id": device.to_string(), "kind": "device", "name": "truck-17" })
        );
        assert!(
            data["device_at"].is_string() && data["server_at"].is_string() && data["offset_ms"].is_i64(),
            "{data}"
        );
        if rung == "sent" {
            world.frame(
                device,
                &wire::UpFrame {
                    stamp,
                    cursors: cursors.clone(),
                    ..Default::default()
                },
            );
        }
    }

    let cut = LinkEvent::Disconnected {
        client_id: device.to_string(),
    };
    world.devices.send(cut).unwrap();
    assert_eq!(client.told().await.event["type"], "waypost.device.offline");
}

#[tokio::test]
async fn an_answer_is_told() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (device, stream) = world.add_device("truck").await;
    let mut client = world.follow(&token, "?types=waypost.entry.acted", None).await;
    post(&world, &token, &stream, "Where are you?").await;
    let mut answer = text_operation(&stream, "At the gate");
    answer.reply_to = 1;
    world.hello(
        device,
        wire::UpFrame {
            first_op: 1,
            ops: vec![answer],
            ..Default::default()
        },
    );
    let event = client.told().await.event;
    assert_eq!(event["subject"], format!("stream/{stream}/1"));
    let member = json!({ "id": device.to_string(), "kind": "device", "name": "truck" });
    assert_eq!(
        event["data"],
        json!({ "stream": stream, "seq": 1, "member": member, "answer_stream": stream, "answer_seq": 2 })
    );
}

#[tokio::test]
async fn the_log_and_the_present_join_without_a_gap_or_a_repetition() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    for number in 0..300 {
        post(&world, &token, &stream, &number.to_string()).await;
    }
    // Some write while others connect: at each moment between the two phases.
    let total: u64 = 1 + 300 + 200;
    let writer = async {
        for number in 300..500 {
            post(&world, &token, &stream, &number.to_string()).await;
            tokio::task::yield_now().await;
        }
    };
    let reader = |after: u64| {
        let (world, token) = (&world, &token);
        async move {
            let mut client = world.follow(token, &format!("?after={after}"), None).await;
            let told = client.many(usize::try_from(total - after).unwrap()).await;
            let ids: Vec<_> = told.iter().map(|told| told.id.unwrap()).collect();
            assert_eq!(ids, (after + 1..=total).collect::<Vec<_>>(), "after {after}");
            let texts = told
                .iter()
                .filter_map(|told| told.event["data"]["entry"]["body"]["text"].as_str());
            let numbers: Vec<u64> = texts.map(|text| text.parse().unwrap()).collect();
            assert_eq!(
                numbers,
                (after.max(1) - 1..500).collect::<Vec<_>>(),
                "after {after}"
            );
        }
    };
    let readers = futures_util::future::join_all([0, 1, 45, 46, 256, 299, 300, 301].map(reader));
    futures_util::future::join(writer, readers).await;
}

#[tokio::test]
async fn a_client_that_sleeps_through_more_than_is_kept_gets_it_from_the_log() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    let mut client = world.follow(&token, "", None).await;
    // More than the watch and the client's own queue hold.
    let count = 4_600;
    for first in (0..count).step_by(100) {
        let posts = (first..first + 100).map(|n| {
            let (world, token, stream) = (&world, &token, &stream);
            async move { post(world, token, stream, &n.to_string()).await }
        });
        futures_util::future::join_all(posts).await;
    }
    let ids: Vec<_> = client
        .many(count)
        .await
        .into_iter()
        .map(|told| told.id.unwrap())
        .collect();
    assert_eq!(ids, (2..2 + count as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_goes_on_after_what_it_had() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    for number in 1..=5 {
        world.add_device(&format!("truck-{number}")).await;
    }
    for (query, last_event_id, ids) in [
        ("?after=", None, &[1, 2, 3, 4, 5][..]),
        ("?after=0", None, &[1, 2, 3, 4, 5]),
        ("?after=3", None, &[4, 5]),
        ("", Some("3"), &[4, 5]),
        ("?after=1", Some("3"), &[4, 5]),
        ("?after=3", Some(""), &[4, 5]),
    ] {
        let mut client = world.follow(&token, query, last_event_id).await;
        let told: Vec<_> = client
            .many(ids.len())
            .await
            .into_iter()
            .map(|told| told.id.unwrap())
            .collect();
        assert_eq!(told, ids, "{query} {last_event_id:?}");
    }
    let mut request = request("GET", "/api/v1/events/stream", &token, None);
    request
        .headers_mut()
        .insert("last-event-id", "nonsense".parse().unwrap());
    world.send(request).await.expect_problem(400, "malformed");
    let gone = world
        .get(&token, "/api/v1/events/stream?after=6")
        .await
        .expect_problem(410, "cursor-lost");
    assert_eq!(gone["resume_after"], "5");
}

#[tokio::test]
async fn without_a_cursor_the_stream_begins_at_the_present() {
    let mut world = World::new();
    let token = world.token(Role::Viewer).await;
    world.add_device("before").await;
    let mut client = world.follow(&token, "", None).await;
    world.add_device("after").await;
    assert_eq!(client.told().await.event["data"]["name"], "after");
}

#[tokio::test]
async fn only_what_was_asked_for_is_told() {
    let mut world = World::new();
    let token = world.token(Role::Dispatcher).await;
    let (_, stream) = world.add_device("truck").await;
    let mut client = world
        .follow(&token, "?after=&types=waypost.device.enrolled", None)
        .await;
    post(&world, &token, &stream, "not told").await;
    world.add_device("told").await;
    let told: Vec<_> = client
        .many(2)
        .await
        .into_iter()
        .map(|told| told.event["data"]["name"].clone())
        .collect();
    assert_eq!(told, ["truck", "told"]);
}

#[tokio::test]
async fn of_positions_the_latest_is_told_to_those_who_ask() {
    let mut world = World::new();
    let token = world.token(Role::Viewer).await;
    let (device, _) = world.add_device("truck").await;
    let mut asks = world
        .follow(
            &token,
            "?types=waypost.position.updated,waypost.device.enrolled",
            None,
        )
        .await;
    let mut does_not = world.follow(&token, "", None).await;
    let start = now_ms();
    let live = |n: i32| Some(fix(start + i64::from(n) * 100, 525_200_000 + n, 134_050_000).to_live(start));
    world.hello(device, wire::UpFrame::default());
    let stamp = Stamp::of(SessionTag::FIRST).to_wire();
    for n in 1..=50 {
        world.frame(
            device,
            &wire::UpFrame {
                stamp,
                live: live(n),
                ..Default::default()
            },
        );
    }
    world
        .until(&token, "/api/v1/positions", |all| {
            all["features"][0]["geometry"]["coordinates"][1] == 52.520005
        })
        .await;
    world.add_device("marker").await;

    // Nobody read while the fifty came. What is in the log goes first, then the latest position alone.
    assert_eq!(asks.told().await.event["data"]["name"], "marker");
    let told = asks.told().await;
    assert_eq!(
        (told.id, &told.event["type"]),
        (None, &"waypost.position.updated".into())
    );
    assert_eq!(told.event["subject"], format!("device/{device}"));
    assert_eq!(told.event["data"]["device"], device.to_string());
    assert_eq!(told.event["data"]["position"]["lat"], 52.520005);
    let rest = tokio::time::timeout(Duration::from_millis(50), asks.block()).await;
    assert!(rest.is_err(), "{rest:?}");

    let types = does_not
        .many(2)
        .await
        .into_iter()
        .map(|told| told.event["type"].clone());
    assert_eq!(
        types.collect::<Vec<_>>(),
        ["waypost.device.online", "waypost.device.enrolled"]
    );
}

#[tokio::test]
async fn a_quiet_stream_says_that_it_is_there_until_the_sign_in_ends() {
    let mut world = World::new();
    let (person, _) = world.person(Role::Viewer).await;
    world.sign_in(&person, "short", now_ms() + 3_600_000).await;
    let mut client = world.follow("short", "", None).await;
    let mut servers = world.follow(SERVER_TOKEN, "", None).await;
    tokio::time::pause();
    for _ in 0..3 {
        let begun = tokio::time::Instant::now();
        assert_eq!(client.block().await.as_deref(), Some(": keep-alive"));
        assert!(
            begun.elapsed() <= Duration::from_secs(16),
            "{:?}",
            begun.elapsed()
        );
    }
    tokio::time::resume();
    world
        .send(request("DELETE", "/api/v1/session", "short", None))
        .await;
    tokio::time::pause();
    assert_eq!(client.block().await, None);
    assert_eq!(servers.block().await.as_deref(), Some(": keep-alive"));
}

#[tokio::test]
async fn a_stream_ends_when_the_server_stops() {
    let world = World::new();
    let mut client = world.follow(SERVER_TOKEN, "", None).await;
    world.stop.send(true).unwrap();
    assert_eq!(client.block().await, None);
}

#[tokio::test]
async fn a_key_that_is_revoked_gets_no_further_event() {
    let world = World::new();
    let bot = world.key(Role::Bot).await;
    let mut client = world.follow(&bot, "", None).await;
    world.add_device("before").await;
    assert_eq!(client.told().await.event["data"]["name"], "before");
    world
        .send(request("DELETE", "/api/v1/keys/1", SERVER_TOKEN, None))
        .await;
    world.add_device("after").await;
    assert_eq!(client.block().await, None);
}

const EVENTS: &str = "/api/v1/events";

fn names(answer: &Value) -> Vec<&str> {
    let items = answer["items"].as_array().unwrap().iter();
    items
        .map(|event| event["data"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_system_that_asks_gets_every_event_once() {
    let world = World::new();
    for number in 0..5 {
        world.add_device(&format!("truck-{number}")).await;
    }
    let mut path = format!("{EVENTS}?limit=2&after=");
    let mut told = Vec::new();
    for _ in 0..4 {
        let answer = world.get(SERVER_TOKEN, &path).await.json();
        told.extend(names(&answer).into_iter().map(ToOwned::to_owned));
        path = format!("{EVENTS}?limit=2&after={}", answer["next"].as_str().unwrap());
    }
    assert_eq!(told, [0, 1, 2, 3, 4].map(|number| format!("truck-{number}")));
    let idle = world.get(SERVER_TOKEN, &path).await.json();
    assert_eq!(idle, json!({ "items": [], "next": "5" }), "a cursor even so");

    let all = world.get(SERVER_TOKEN, EVENTS).await.json();
    assert_eq!(names(&all).len(), 5, "without a cursor from the beginning");
    let mut stream = world.follow(SERVER_TOKEN, "?after=", None).await;
    assert_eq!(all["items"][0], stream.told().await.event, "as the stream has it");
    let other = format!("{EVENTS}?types=waypost.device.revoked");
    let none = world.get(SERVER_TOKEN, &other).await.json();
    assert_eq!(
        none,
        json!({ "items": [], "next": "5" }),
        "what is not wanted is passed"
    );
}

#[tokio::test]
async fn a_system_that_waits_gets_what_happens_next() {
    let world = World::new();
    world.add_device("before").await;
    let path = format!("{EVENTS}?after=1&wait=30");
    let (answer, ()) = tokio::join!(world.get(SERVER_TOKEN, &path), async {
        // Asked before it happens, as the first to be polled.
        tokio::task::yield_now().await;
        world.add_device("after").await;
    });
    let answer = answer.json();
    assert_eq!((names(&answer), &answer["next"]), (vec!["after"], &"2".into()));
    let at_once = world.get(SERVER_TOKEN, &format!("{EVENTS}?wait=30")).await.json();
    assert_eq!(
        names(&at_once),
        ["before", "after"],
        "what there is needs no waiting"
    );

    tokio::time::pause();
    let waiting = format!("{EVENTS}?after=2&wait=30&types=waypost.device.revoked");
    let answer = world.get(SERVER_TOKEN, &waiting).await.json();
    assert_eq!(
        answer,
        json!({ "items": [], "next": "2" }),
        "and no longer than asked"
    );
    tokio::time::resume();
    world.stop.send(true).unwrap();
    let stopped = world.get(SERVER_TOKEN, &waiting).await.json();
    assert_eq!(stopped["next"], "2", "nor than the server runs");
}

#[tokio::test]
async fn a_cursor_of_the_future_is_told_where_to_go_on() {
    let world = World::new();
    world.add_device("truck").await;
    let answer = world.get(SERVER_TOKEN, &format!("{EVENTS}?after=7")).await;
    assert_eq!(answer.expect_problem(410, "cursor-lost")["resume_after"], "1");
    for wrong in ["after=x", "wait=31", "wait=-1", "limit=0", "types=x", "cursor=1"] {
        let answer = world.get(SERVER_TOKEN, &format!("{EVENTS}?{wrong}")).await;
        answer.expect_problem(400, "invalid-parameters");
    }
}

#[tokio::test]
async fn a_cursor_from_before_the_beginning_of_the_log_is_told_where_to_go_on() {
    // A store of which the first two events were trimmed.
    let store = Arc::new(MemoryStore::new());
    let event = |cursor| Event {
        cursor,
        at_ms: now_ms(),
        kind: EventKind::DeviceOnline(DeviceId::new(1).unwrap()),
    };
    let mut changes: Vec<Change> = (3..=4).map(|cursor| Change::AppendEvent(event(cursor))).collect();
    changes.push(Trim::FirstRecord(Log::Events, 3).into());
    store.commit(&changes).unwrap();
    let world = World::on(store, BridgeOptions::default(), |state| state);
    for after in ["1", "1&types=waypost.device.online"] {
        for asked in ["/api/v1/events/stream", EVENTS] {
            let path = format!("{asked}?after={after}");
            let problem = world
                .get(SERVER_TOKEN, &path)
                .await
                .expect_problem(410, "cursor-lost");
            assert_eq!(problem["resume_after"], "2");
        }
    }
    for after in ["2", ""] {
        let mut client = world.follow(SERVER_TOKEN, &format!("?after={after}"), None).await;
        let ids: Vec<_> = client.many(2).await.iter().map(|told| told.id).collect();
        assert_eq!(ids, [Some(3), Some(4)], "after {after:?}");
    }
}
