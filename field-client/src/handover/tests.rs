//! Two drivers on one state folder; a process is played by a driver of its own.

use super::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::tempdir;

fn credentials() -> Credentials {
    Credentials::parse(r#"{"device":"7c","name":"","secret":"s3","mqtt":["mqtt://127.0.0.1:1"]}"#).unwrap()
}

async fn driver(folder: &Path) -> Driver {
    Driver::attach_or_open(credentials(), folder, Options::default())
        .await
        .unwrap()
}

fn fix(at_ms: i64) -> Fix {
    Fix::from_degrees(at_ms, 52.5, 13.4).unwrap()
}

#[tokio::test]
async fn the_second_process_hands_over_to_the_first() {
    let folder = tempdir().unwrap();
    let holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    assert!(holder.client().await.is_some() && other.client().await.is_none());
    let sent = other
        .send(Message::to_office("one").urgent(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((sent.op, sent.state.as_str(), sent.seq), (1, "stored", None));
    let sent = holder
        .send(Message::to_office("two"), Duration::from_millis(20))
        .await
        .unwrap();
    assert_eq!((sent.op, sent.state.as_str()), (2, "stored"));
    other.record(fix(1)).await.unwrap();
    other.live(fix(2)).await.unwrap();
    other.flush().await.unwrap();
    other.put_recording((0..1_200).map(fix).collect()).await.unwrap();
    let status = other.status().await.unwrap();
    assert_eq!(status, holder.status().await.unwrap());
    assert_eq!(status.waiting, 2 + 1 + 15);
    assert_eq!(other.wait_drained(Duration::from_millis(20)).await.unwrap(), 18);
    other.close().await.unwrap();
    holder.close().await.unwrap();
    assert!(!folder.path().join("control.sock").exists());
}

#[tokio::test]
async fn what_the_holder_refuses_is_told_with_its_reason() {
    let folder = tempdir().unwrap();
    let _holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    let refused = other
        .send(Message::to_office(""), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("1 to 4096 bytes"), "{refused}");
    let mut off = fix(1);
    off.lat_e7 = 1_000_000_000;
    let refused = other.record(off).await.unwrap_err();
    assert!(refused.to_string().contains("globe"), "{refused}");
    assert!(other.status().await.is_ok(), "the connection goes on");
}

#[tokio::test]
async fn a_quick_reply_that_cannot_be_written_says_why_here_and_there() {
    let folder = tempdir().unwrap();
    let holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    let late = || ReplyMessage::to_office("late", vec![("minutes".to_owned(), "15".to_owned())]);
    for driver in [&holder, &other] {
        for wait in [Duration::ZERO, Duration::from_millis(20)] {
            let refused = driver.reply(late(), wait).await.unwrap_err();
            assert!(refused.to_string().contains("no quick replies yet"), "{refused}");
        }
        let catalogue = driver.templates().await.unwrap();
        assert_eq!((catalogue.version, catalogue.templates), (0, vec![]));
    }
    assert_eq!(holder.status().await.unwrap().waiting, 0, "nothing was stored");
}

/// A process that holds the folder and serves nobody, as an app of its own does.
#[tokio::test(start_paused = true)]
async fn a_folder_whose_holder_serves_nobody_is_refused_in_words() {
    let folder = tempdir().unwrap();
    let _app = Client::open(credentials(), folder.path(), Options::default())
        .await
        .unwrap();
    let refused = Driver::attach_or_open(credentials(), folder.path(), Options::default()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.starts_with("another process holds the state folder and does not answer"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_socket_and_the_folder_are_the_owners_alone() {
    let folder = tempdir().unwrap();
    let state = folder.path().join("truck.json.state");
    let _holder = driver(&state).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("control.sock"))), (0o700, 0o600));
}

#[tokio::test]
async fn the_stale_socket_of_a_killed_process_is_replaced() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "nobody took it away");
    let holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    assert!(other.client().await.is_none() && other.status().await.is_ok());
    drop(holder);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_state_folder_deep_down_is_served_too() {
    let folder = tempdir().unwrap();
    let deep = folder.path().join("deep/".repeat(40));
    let _holder = driver(&deep).await;
    let other = driver(&deep).await;
    assert!(other.client().await.is_none() && other.status().await.is_ok());
}

#[tokio::test]
async fn when_the_holder_ends_another_takes_its_place() {
    let folder = tempdir().unwrap();
    let holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    other
        .send(Message::to_office("one"), Duration::ZERO)
        .await
        .unwrap();
    holder.close().await.unwrap();
    let sent = other
        .send(Message::to_office("two"), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(sent.op, 2, "in the same outbox");
    assert!(other.client().await.is_some());
    let third = driver(folder.path()).await;
    assert_eq!(third.status().await.unwrap().waiting, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_start_at_once_one_holds_and_all_are_served() {
    let folder = tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let path = folder.path().to_owned();
        tasks.spawn(async move {
            let driver = driver(&path).await;
            let sent = driver
                .send(Message::to_office(format!("{number}")), Duration::ZERO)
                .await
                .unwrap();
            (driver, sent.op)
        });
    }
    let (mut drivers, mut ops): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().unzip();
    ops.sort_unstable();
    assert_eq!(ops, [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut holders = 0;
    for driver in &drivers {
        holders += usize::from(driver.client().await.is_some());
    }
    assert_eq!(holders, 1);
    drivers.clear();
}

#[tokio::test]
async fn one_process_listens_at_a_time() {
    let folder = tempdir().unwrap();
    let holder = driver(folder.path()).await;
    let other = driver(folder.path()).await;
    let listener = other.listen().await.unwrap();
    assert!(matches!(holder.listen().await, Err(HandoverError::Refused(_))));
    drop(listener);
    let listening = async {
        loop {
            match holder.listen().await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let _listener = tokio::time::timeout(ATTACH_TIMEOUT, listening)
        .await
        .expect("the place is free again");
    assert!(other.listen().await.is_err());
}

#[tokio::test]
async fn lines_that_are_no_requests_are_answered_and_endless_ones_end() {
    let folder = tempdir().unwrap();
    let _holder = driver(folder.path()).await;
    let path = folder.path().join("control.sock");
    let mut connection = Connection::open(&path).await.unwrap();
    for line in [
        "{}\n",
        "not json\n",
        "{\"do\":\"fly\"}\n",
        "{\"do\":\"read\",\"stream\":0,\"seq\":0}\n",
    ] {
        connection.writer.write_all(line.as_bytes()).await.unwrap();
        assert!(
            matches!(connection.receive().await.unwrap(), Response::Error(_)),
            "{line}"
        );
    }
    let endless = vec![b'x'; 2 * LINE_BYTES_MAX];
    let _ = connection.writer.write_all(&endless).await;
    assert!(matches!(
        connection.receive().await,
        Err(HandoverError::HolderGone)
    ));
    assert!(
        driver(folder.path()).await.status().await.is_ok(),
        "the others are still served"
    );
}
