//! The whole client over TCP, against a server in memory.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it unwraps; its helpers are not marked as tests"
)]

mod network;
mod server;

use server::{FOREIGN, GROUP_STREAM, OFFICE, Server, options};
use std::time::Duration;
use tempfile::tempdir;
use waypost_field_client::{
    BadReply, Client, ClientError, Credentials, LinkAtStart, LinkState, Message, OpenError, Options, Outcome,
    PostError, ReplyMessage, Standing,
};
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{EntryBody, Fix, Seq, StreamId, groups_digest};

const LONG: Duration = Duration::from_secs(20);

fn text_of(body: &EntryBody) -> &str {
    match body {
        EntryBody::Text(text) => text,
        EntryBody::Reply { .. } | EntryBody::Membership { .. } | EntryBody::Unsupported => "(not supported)",
    }
}

fn fix(at_ms: i64) -> Fix {
    Fix::from_degrees(at_ms, 52.5, 13.4).unwrap()
}

/// Nobody listens there.
fn nowhere() -> Credentials {
    Credentials::parse(r#"{"device":"7c","name":"","secret":"s3","mqtt":["mqtt://127.0.0.1:1"]}"#).unwrap()
}

#[tokio::test]
async fn a_message_is_stored_accepted_and_comes_back_as_an_entry() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let mut entries = client.entries().unwrap();
    assert!(client.entries().is_none(), "one consumer at a time");
    let posted = client.post_text(Message::to_office("At the gate")).await.unwrap();
    assert_eq!(posted.op.number(), 1);
    let outcome = client.wait_accepted(&posted, LONG).await.unwrap();
    let (stream, seq) = (StreamId::new(OFFICE), Seq::new(1));
    assert_eq!(outcome, Outcome::Accepted { stream, seq });
    server.write("Come to gate 3");
    let own = entries.next().await.unwrap();
    assert_eq!(text_of(&own.entry.body), "At the gate");
    own.mark_shown().await.unwrap();
    let answer = entries.next().await.unwrap();
    assert_eq!(
        (text_of(&answer.entry.body), answer.entry.seq.number()),
        ("Come to gate 3", 2)
    );
    answer.mark_read().await.unwrap();
    server
        .until("the reading is reported", |state| state.read == 2)
        .await;
    let history = client
        .history(StreamId::new(OFFICE).unwrap(), None, 10)
        .await
        .unwrap();
    assert_eq!(history.len(), 2);
    let status = client.status().await.unwrap();
    assert_eq!(
        (status.waiting_ops, status.unshown_entries, status.office_stream),
        (0, 0, stream)
    );
    assert!(status.link.is_in_step());
    client.close().await.unwrap();
    assert!(matches!(client.status().await, Err(ClientError::Closed)));
    client.close().await.unwrap();
}

/// The server has one quick reply.
fn offer_late(server: &Server) {
    let slots = vec![wire::Slot {
        name: "minutes".to_owned(),
        kind: wire::SlotKind::Number.into(),
    }];
    let template = wire::Template {
        number: 120,
        key: "late".to_owned(),
        text: "Running late {minutes} min".to_owned(),
        slots,
    };
    server.state.lock().unwrap().catalogue = Some(wire::Catalogue {
        version: 14,
        templates: vec![template],
        ..Default::default()
    });
}

fn late(minutes: &str) -> ReplyMessage {
    ReplyMessage::to_office("late", vec![("minutes".to_owned(), minutes.to_owned())])
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_process_writes_a_quick_reply_that_the_first_has_yet_to_fetch() {
    use waypost_field_client::handover::Driver;
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let open = || Driver::attach_or_open(server.credentials(), folder.path(), options());
    let (holder, other) = (open().await.unwrap(), open().await.unwrap());
    let client = holder.client().await.unwrap();
    assert!(client.wait_in_step(LONG).await.is_in_step() && other.client().await.is_none());
    client.pause_link().await.unwrap();
    offer_late(&server);
    let writing = other.reply(late("15"), LONG);
    let resuming = async {
        client.resume_link().await.unwrap();
    };
    let (sent, ()) = tokio::join!(writing, resuming);
    let sent = sent.unwrap();
    assert_eq!(
        (sent.state.as_str(), sent.stream.as_deref(), sent.seq),
        ("accepted", Some("4"), Some(1))
    );
    let refused = other
        .reply(ReplyMessage::to_office("gone", vec![]), LONG)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("there are late"), "{refused}");
    let templates = other.templates().await.unwrap().templates;
    assert_eq!(
        (templates[0].key.as_str(), templates[0].slots[0].kind.as_str()),
        ("late", "number")
    );
    let shown = other.listen().await.unwrap().next().await.unwrap();
    assert_eq!(shown.text.as_deref(), Some("Running late 15 min"));
    let reply = shown.reply.unwrap();
    assert_eq!((reply.template.as_str(), reply.version), ("late", 14));
    assert_eq!(reply.slots["minutes"], "15");
}

#[tokio::test]
async fn a_fresh_device_fetches_the_catalogue_and_then_writes_quick_replies_without_a_link_too() {
    let server = Server::start().await;
    offer_late(&server);
    let folder = tempdir().unwrap();
    {
        let paused = Options {
            link: LinkAtStart::Paused,
            ..options()
        };
        let client = Client::open(server.credentials(), folder.path(), paused)
            .await
            .unwrap();
        let refused = client.post_reply(late("15")).await;
        assert!(matches!(refused, Err(PostError::BadReply(BadReply::NoCatalogue))));
        client.resume_link().await.unwrap();
        let catalogue = client.wait_catalogue(LONG).await.unwrap();
        assert_eq!((catalogue.version, catalogue.templates.len()), (14, 1));
        assert!(client.status().await.unwrap().catalogue_is_current);
        server
            .until("the topic is left and the version reported", |state| {
                state.known.1 == 14 && !state.filters.contains("t/en")
            })
            .await;
        client.close().await.unwrap();
    }
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    assert!(
        !client.status().await.unwrap().catalogue_is_current,
        "there is no link"
    );
    let refused = client.post_reply(late("soon")).await.unwrap_err();
    assert!(refused.to_string().contains("\"minutes\" takes"), "{refused}");
    assert_eq!(client.status().await.unwrap().waiting_ops, 0);
    client.post_reply(late("15")).await.unwrap();
    client.close().await.unwrap();
    drop(client);
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    assert_eq!(client.wait_drained(LONG).await.unwrap(), 0);
    let state = server.state.lock().unwrap();
    let (operation, reply) = &state.replies[0];
    assert_eq!(
        (reply.template, reply.version, reply.numbers.as_slice()),
        (120, 14, &[15][..])
    );
    assert_eq!(operation.stream, StreamId::new(OFFICE));
}

#[tokio::test]
async fn a_server_that_offers_no_quick_replies_says_so_at_once() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let waiting = client.wait_catalogue(Duration::from_secs(3_600));
    let catalogue = tokio::time::timeout(LONG, waiting)
        .await
        .expect("the welcome has said it");
    assert_eq!(catalogue.unwrap().version, 0);
}

#[tokio::test]
async fn a_member_of_a_group_hears_it_on_its_topic_and_on_every_connection() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let groups = vec![wire::Group {
        group: 1,
        stream: GROUP_STREAM,
        title: "North".to_owned(),
    }];
    let digest = groups_digest(&groups);
    server.state.lock().unwrap().groups = groups;
    server.state.lock().unwrap().group_log = vec!["one".to_owned()];
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let mut entries = client.entries().unwrap();
    let first = entries.next().await.unwrap();
    assert_eq!(
        (text_of(&first.entry.body), first.entry.stream.number()),
        ("one", GROUP_STREAM)
    );
    first.mark_shown().await.unwrap();
    server
        .until("the groups are reported", |state| state.known.0 == digest)
        .await;
    assert_eq!(client.groups().await.unwrap()[0].title, "North");
    server.restart();
    server.state.lock().unwrap().group_log.push("two".to_owned());
    let second = entries.next().await.unwrap();
    assert_eq!(
        (text_of(&second.entry.body), second.entry.seq.number()),
        ("two", 2)
    );
    server
        .until("the hello of the new connection claims them", |state| {
            state.hellos >= 2 && state.known.0 == digest
        })
        .await;
}

#[tokio::test]
async fn what_is_written_without_a_link_is_sent_when_there_is_one_in_its_order() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    {
        let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
        for number in 0..50 {
            client
                .post_text(Message::to_office(format!("message {number}")))
                .await
                .unwrap();
        }
        let posted = client.post_text(Message::to_office("last")).await.unwrap();
        assert_eq!(
            client
                .wait_accepted(&posted, Duration::from_millis(50))
                .await
                .unwrap(),
            Outcome::StillStored
        );
        client.close().await.unwrap();
    }
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    assert_eq!(client.wait_drained(LONG).await.unwrap(), 0);
    let mut expected: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
    expected.push("last".to_owned());
    assert_eq!(server.texts(), expected);
}

#[tokio::test]
async fn cuts_and_restarts_lose_nothing_and_double_nothing() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let mut posted = Vec::new();
    let mut shown = Vec::new();
    for round in 0..6 {
        let client = Client::open(server.credentials(), folder.path(), options())
            .await
            .unwrap();
        let mut entries = client.entries().unwrap();
        for number in 0..40 {
            let words = format!("{round}.{number}");
            client.post_text(Message::to_office(&words)).await.unwrap();
            posted.push(words);
            if number % 10 == 3 {
                server.write(&format!("office {round}.{number}"));
            }
            match number {
                15 => client.pause_link().await.unwrap(),
                22 => client.resume_link().await.unwrap(),
                30 => server.restart(),
                _ => {}
            }
        }
        if round == 5 {
            client.wait_drained(LONG).await.unwrap();
        }
        // Some are shown, and confirmed, in this round; the rest in a later one.
        let total = server.texts().len();
        let wanted = if round == 5 { total } else { shown.len() + 20 };
        while shown.len() < wanted {
            let incoming = tokio::time::timeout(LONG, entries.next()).await.unwrap().unwrap();
            incoming.mark_shown().await.unwrap();
            shown.push(incoming.entry.seq.number());
        }
        client.close().await.unwrap();
    }
    let texts = server.texts();
    let own: Vec<&String> = texts.iter().filter(|text| !text.starts_with("office")).collect();
    assert_eq!(own, posted.iter().collect::<Vec<_>>());
    assert_eq!(
        shown,
        (1..=texts.len() as u64).collect::<Vec<_>>(),
        "each once, in order"
    );
}

#[tokio::test]
async fn an_entry_that_was_not_confirmed_is_offered_again() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    for text in ["a", "b", "c"] {
        server.write(text);
    }
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let mut entries = client.entries().unwrap();
    entries.next().await.unwrap().mark_shown().await.unwrap();
    let unconfirmed = entries.next().await.unwrap();
    assert_eq!(text_of(&unconfirmed.entry.body), "b");
    drop((entries, unconfirmed));
    let mut entries = client.entries().unwrap();
    assert_eq!(
        text_of(&entries.next().await.unwrap().entry.body),
        "b",
        "to the next consumer"
    );
    client.close().await.unwrap();
    while entries.next().await.is_some() {}
    drop((client, entries));
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    let mut entries = client.entries().unwrap();
    for text in ["b", "c"] {
        let incoming = entries.next().await.unwrap();
        assert_eq!(
            text_of(&incoming.entry.body),
            text,
            "after a restart, without a link"
        );
        incoming.mark_shown().await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_message_is_parked_with_its_reason() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let posted = client
        .post_text(Message::to(StreamId::new(FOREIGN).unwrap(), "hello?"))
        .await
        .unwrap();
    let Outcome::Refused(reason) = client.wait_accepted(&posted, LONG).await.unwrap() else {
        panic!()
    };
    assert_eq!(reason.0, RefusalReason::NotAMember);
    let status = client.status().await.unwrap();
    assert_eq!((status.parked.len(), status.waiting_ops), (1, 0));
    assert!(status.parked[0].reason.to_string().contains("not a member"));
}

#[tokio::test]
async fn a_message_that_expires_without_a_link_is_never_sent_and_its_author_is_told() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let paused = Options {
        link: LinkAtStart::Paused,
        ..options()
    };
    let client = Client::open(server.credentials(), folder.path(), paused)
        .await
        .unwrap();
    let for_a_second = Message {
        expires_in_s: Some(1),
        ..Message::to_office("At the gate")
    };
    let posted = client.post_text(for_a_second).await.unwrap();
    let Outcome::Refused(why) = client.wait_accepted(&posted, LONG).await.unwrap() else {
        panic!("it expired")
    };
    assert_eq!(why.to_string(), "it expired before the server had it");
    client.resume_link().await.unwrap();
    let next = client.post_text(Message::to_office("Still here")).await.unwrap();
    let outcome = client.wait_accepted(&next, LONG).await.unwrap();
    assert!(
        matches!(outcome, Outcome::Accepted { .. }),
        "its number is no gap: {outcome:?}"
    );
    assert_eq!(server.texts(), ["Still here"]);
    let status = client.status().await.unwrap();
    assert_eq!((status.parked.len(), status.counters.ops_expired), (1, 1));
}

#[tokio::test]
async fn an_entry_comes_again_when_it_is_current_no_more() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let mut entries = client.entries().unwrap();
    let message = |supersedes, expires_in_s| Message {
        supersedes,
        expires_in_s,
        ..Message::to_office("At the gate")
    };
    client.post_text(message(None, None)).await.unwrap();
    let mut next = async || {
        let incoming = entries.next().await.unwrap();
        incoming.mark_shown().await.unwrap();
        (incoming.entry.seq.number(), incoming.entry.standing)
    };
    assert_eq!(next().await, (1, Standing::Current));
    client.post_text(message(Seq::new(1), Some(1))).await.unwrap();
    let by = Seq::new(2).unwrap();
    assert_eq!(next().await, (1, Standing::Superseded { by }));
    assert_eq!(next().await, (2, Standing::Current));
    assert_eq!(next().await, (2, Standing::Expired), "without anybody asking");
    let stream = StreamId::new(OFFICE).unwrap();
    let history = client.history(stream, None, 10).await.unwrap();
    let standings: Vec<Standing> = history.iter().map(|entry| entry.standing).collect();
    assert_eq!(standings, [Standing::Superseded { by }, Standing::Expired]);
}

#[tokio::test]
async fn fixes_arrive_as_history_and_as_the_present_place() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let options = Options {
        track_fixes: 25,
        ..options()
    };
    let client = Client::open(server.credentials(), folder.path(), options)
        .await
        .unwrap();
    assert!(client.wait_in_step(LONG).await.is_in_step());
    let fixes: Vec<Fix> = (0..60)
        .map(|second| fix(1_700_000_000_000 + second * 1_000))
        .collect();
    for fix in &fixes {
        client.record(*fix).await.unwrap();
    }
    client.live(fixes[59]).await.unwrap();
    server
        .until("two tracks are full", |state| {
            state.fixes.len() == 50 && state.live == 1
        })
        .await;
    client.flush().await.unwrap();
    assert_eq!(client.wait_drained(LONG).await.unwrap(), 0);
    assert_eq!(server.state.lock().unwrap().fixes, fixes);
    let recording: Vec<Fix> = (0..200)
        .rev()
        .map(|second| fix(1_600_000_000_000 + second * 1_000))
        .collect();
    let posted = client.put_recording(recording).await.unwrap();
    let last = client.wait_accepted(posted.last().unwrap(), LONG).await.unwrap();
    assert_eq!(
        last,
        Outcome::Accepted {
            stream: None,
            seq: None
        }
    );
    let mut off = fixes[0];
    off.lat_e7 = 1_000_000_000;
    assert!(matches!(client.record(off).await, Err(PostError::BadFix(_))));
    assert!(matches!(client.live(off).await, Err(PostError::BadFix(_))));
}

#[tokio::test]
async fn fixes_that_wait_for_their_track_are_stored_by_closing() {
    let folder = tempdir().unwrap();
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    client.record(fix(1)).await.unwrap();
    client.close().await.unwrap();
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    assert_eq!(client.status().await.unwrap().waiting_ops, 1);
}

#[tokio::test]
async fn bad_credentials_stop_the_link_with_advice_and_messages_are_still_stored() {
    let server = Server::start().await;
    server.state.lock().unwrap().secret = "another".to_owned();
    let folder = tempdir().unwrap();
    let client = Client::open(server.credentials(), folder.path(), options())
        .await
        .unwrap();
    let LinkState::Refused(advice) = client.wait_in_step(LONG).await else {
        panic!()
    };
    assert!(advice.contains("credentials file"), "{advice}");
    let posted = client.post_text(Message::to_office("kept")).await.unwrap();
    // The administrator puts it right, the person tries again.
    server.state.lock().unwrap().secret = "s3".to_owned();
    client.resume_link().await.unwrap();
    assert!(matches!(
        client.wait_accepted(&posted, LONG).await.unwrap(),
        Outcome::Accepted { .. }
    ));
}

#[tokio::test]
async fn a_paused_link_stays_down_until_it_is_resumed() {
    let server = Server::start().await;
    let folder = tempdir().unwrap();
    let paused = Options {
        link: LinkAtStart::Paused,
        ..options()
    };
    let client = Client::open(server.credentials(), folder.path(), paused)
        .await
        .unwrap();
    let posted = client.post_text(Message::to_office("later")).await.unwrap();
    assert_eq!(
        client
            .wait_accepted(&posted, Duration::from_millis(100))
            .await
            .unwrap(),
        Outcome::StillStored
    );
    assert_eq!(server.state.lock().unwrap().hellos, 0);
    assert_eq!(*client.link().borrow(), LinkState::Paused);
    client.resume_link().await.unwrap();
    assert!(matches!(
        client.wait_accepted(&posted, LONG).await.unwrap(),
        Outcome::Accepted { .. }
    ));
}

#[tokio::test]
async fn one_state_folder_one_client_one_device() {
    let folder = tempdir().unwrap();
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    let second = Client::open(nowhere(), folder.path(), options()).await;
    assert!(matches!(second.err(), Some(OpenError::InUse)));
    client.close().await.unwrap();
    let other =
        Credentials::parse(r#"{"device":"8","name":"","secret":"s","mqtt":["mqtt://127.0.0.1:1"]}"#).unwrap();
    let other = Client::open(other, folder.path(), options()).await;
    assert!(matches!(other.err(), Some(OpenError::OtherDevice(device)) if device == "7c"));
}

#[tokio::test]
async fn bounds_and_bad_texts_are_refused_with_their_reason() {
    let folder = tempdir().unwrap();
    let small = Options {
        outbox_ops_max: 3,
        ..options()
    };
    let client = Client::open(nowhere(), folder.path(), small).await.unwrap();
    for text in ["", &"x".repeat(4_097)] {
        let refused = client.post_text(Message::to_office(text)).await;
        assert!(matches!(refused, Err(PostError::BadText(length)) if length == text.len()));
    }
    for _ in 0..3 {
        client.post_text(Message::to_office("x")).await.unwrap();
    }
    let refused = client.post_text(Message::to_office("x")).await;
    assert!(matches!(refused, Err(PostError::OutboxFull { ops: 3, .. })));
    let bad = Options {
        keep_alive_s: 1,
        ..options()
    };
    let refused = Client::open(nowhere(), tempdir().unwrap().path(), bad).await;
    assert!(matches!(refused.err(), Some(OpenError::Option(_))));
}

#[tokio::test]
async fn history_gives_way_to_messages_and_the_status_says_how_wrong_it_is() {
    let folder = tempdir().unwrap();
    let small = || Options {
        outbox_ops_max: 64,
        track_fixes: 10,
        ..options()
    };
    let client = Client::open(nowhere(), folder.path(), small()).await.unwrap();
    for second in 0..1_000i64 {
        let turns = (second as f64 / 90.0).sin() / 100.0;
        let fix = Fix::from_degrees(1_700_000_000_000 + second * 1_000, 52.0 + turns, 13.0).unwrap();
        client.record(fix).await.unwrap();
    }
    let status = client.status().await.unwrap();
    assert!(status.waiting_ops < status.bounds.history_ops_max, "{status:?}");
    assert!(status.counters.ops_thinned > 20, "{status:?}");
    // At once: those that find no room wait for history to thin.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let client = client.clone();
        tasks.spawn(async move { client.post_text(Message::to_office(format!("{number}"))).await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let mut written = 60;
    let full = loop {
        match client.post_text(Message::to_office("one more")).await {
            Ok(_) => written += 1,
            Err(full) => break full,
        }
    };
    let words = full.to_string();
    assert!(words.contains("64 of 64 operations"), "{words}");
    let fix = Fix::from_degrees(1_700_100_000_000, 52.0, 13.0).unwrap();
    client.record(fix).await.unwrap();
    let full = client.flush().await;
    assert!(matches!(full, Err(PostError::HistoryFull { .. })), "{full:?}");
    let status = client.status().await.unwrap();
    assert_eq!(status.counters.ops_over_bound, 2);
    client.close().await.unwrap();
    let client = Client::open(nowhere(), folder.path(), small()).await.unwrap();
    let after = client.status().await.unwrap();
    assert_eq!(
        (after.waiting_ops, after.waiting_bytes),
        (status.waiting_ops, status.waiting_bytes)
    );
    assert!((61..=64).contains(&written), "{written}");
}

#[tokio::test]
async fn many_callers_share_one_sync_of_the_disk() {
    let folder = tempdir().unwrap();
    let client = Client::open(nowhere(), folder.path(), options()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..2_000 {
        let client = client.clone();
        tasks.spawn(async move {
            client
                .post_text(Message::to_office(format!("{number}")))
                .await
                .unwrap()
                .op
        });
    }
    let mut ops: Vec<u64> = tasks
        .join_all()
        .await
        .into_iter()
        .map(waypost_proto::OpNumber::number)
        .collect();
    ops.sort_unstable();
    assert_eq!(ops, (1..=2_000).collect::<Vec<_>>());
    drop(client);
}
