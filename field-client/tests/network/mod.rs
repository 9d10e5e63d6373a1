//! The whole client on networks that change, swallow, stall or answer in the server's place.

mod portal;
mod proxy;

use super::{LONG, fix};
use crate::server::{Server, options};
use portal::{Portal, Speaks};
use proxy::Proxy;
use std::time::Duration;
use tempfile::tempdir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use waypost_field_client::{Client, Credentials, LinkState, Message, NetworkName, Options, Outcome};

/// Longer than any test takes: what happens within it happens for another reason.
const NEVER: Duration = Duration::from_secs(3_600);
const SECRET: &str = "hush-hush";

fn at(addresses: &[String], secret: &str) -> Credentials {
    let list = addresses
        .iter()
        .map(|address| format!("{address:?}"))
        .collect::<Vec<_>>();
    let list = list.join(",");
    Credentials::parse(&format!(
        r#"{{"device":"7c","name":"truck","secret":"{secret}","mqtt":[{list}]}}"#
    ))
    .unwrap()
}

fn through(port: u16) -> Credentials {
    at(&[format!("mqtt://127.0.0.1:{port}")], "s3")
}

fn network(name: &str) -> NetworkName {
    NetworkName::new(name).unwrap()
}

async fn until(client: &Client, what: &str, holds: impl FnMut(&LinkState) -> bool) -> LinkState {
    let mut link = client.link();
    let reached = tokio::time::timeout(LONG, link.wait_for(holds)).await;
    let state = reached.unwrap_or_else(|_| panic!("{what}: {:?}", client.link().borrow()));
    state.unwrap().clone()
}

#[tokio::test]
async fn a_connection_that_another_network_has_cut_off_is_replaced_at_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port);
    let folder = tempdir().unwrap();
    let patient = Options {
        answer_timeout: NEVER,
        backoff_base: NEVER,
        backoff_cap: NEVER,
        ..options()
    };
    let client = Client::open(through(proxy.port), folder.path(), patient)
        .await
        .unwrap();
    assert!(client.wait_in_step(LONG).await.is_in_step());
    client.network_changed(network("depot")).await.unwrap();
    let posted = client.post_text(Message::to_office("At the gate")).await.unwrap();
    let outcome = client.wait_accepted(&posted, LONG).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted { .. }));
    assert_eq!(proxy.begun(), 1, "what stands is kept");
    proxy.roam();
    let posted = client.post_text(Message::to_office("On my way")).await.unwrap();
    client.network_changed(network("carrier")).await.unwrap();
    let outcome = client.wait_accepted(&posted, LONG).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
    assert_eq!(proxy.begun(), 2);
}

#[tokio::test]
async fn a_network_that_is_back_ends_the_pause_and_an_attempt_that_hangs() {
    let server = Server::start().await;
    // The first attempt is refused, the second hangs, the third comes through.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let folder = tempdir().unwrap();
    let patient = Options {
        connect_timeout: NEVER,
        backoff_base: NEVER,
        backoff_cap: NEVER,
        ..options()
    };
    let client = Client::open(through(port), folder.path(), patient).await.unwrap();
    until(&client, "refused", |state| {
        matches!(state, LinkState::Offline(Some(_)))
    })
    .await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    client.network_changed(NetworkName::default()).await.unwrap();
    let (_hangs, _) = tokio::time::timeout(LONG, listener.accept())
        .await
        .unwrap()
        .unwrap();
    client.network_changed(NetworkName::default()).await.unwrap();
    let (mut near, _) = tokio::time::timeout(LONG, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut far = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    until(&client, "in step", LinkState::is_in_step).await;
}

#[tokio::test]
async fn a_network_that_wants_a_sign_in_is_told_from_a_server_and_left_at_once() {
    const FOUND: &str = "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n";
    const PAGE: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Welcome";
    const REQUIRED: &str = "HTTP/1.1 511 Network Authentication Required\r\n\r\n";
    let server = Server::start().await;
    let is_captive = |state: &LinkState| matches!(state, LinkState::CaptivePortal { .. });
    for (scheme, speaks) in [
        ("mqtts", Speaks::Tls(FOUND)),
        ("wss", Speaks::Tls(PAGE)),
        ("mqtts", Speaks::Page(PAGE)),
    ] {
        let (portal, proxy) = (Portal::open(speaks).await, Proxy::start(server.port));
        // The second address would get through, and would tell the network the secret as readily.
        let addresses = [(scheme, portal.port), ("mqtt", proxy.port)];
        let addresses = addresses.map(|(scheme, port)| format!("{scheme}://127.0.0.1:{port}"));
        let folder = tempdir().unwrap();
        let client = Client::open(at(&addresses, SECRET), folder.path(), options())
            .await
            .unwrap();
        let state = until(&client, scheme, is_captive).await;
        assert!(
            matches!(&state, LinkState::CaptivePortal { advice } if advice.contains("sign in")),
            "{state:?}"
        );
        assert_eq!(proxy.begun(), 0, "nothing is said in the clear there");
        assert!(!portal.has_heard(SECRET.as_bytes()));
        client.close().await.unwrap();
    }
    for (scheme, page) in [("ws", FOUND), ("ws", PAGE), ("ws", REQUIRED), ("mqtt", FOUND)] {
        let portal = Portal::open(Speaks::Page(page)).await;
        let address = format!("{scheme}://127.0.0.1:{}", portal.port);
        let folder = tempdir().unwrap();
        let client = Client::open(at(&[address], SECRET), folder.path(), options())
            .await
            .unwrap();
        until(&client, scheme, is_captive).await;
        // In the clear the WebSocket is asked for first; MQTT begins with the secret, to whoever listens.
        assert_eq!(portal.has_heard(SECRET.as_bytes()), scheme == "mqtt");
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn after_the_sign_in_a_change_of_network_connects_at_once() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempdir().unwrap();
    let client = Client::open(through(port), folder.path(), options())
        .await
        .unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 302 Found\r\n\r\n")
        .await
        .unwrap();
    until(&client, "a portal", |state| {
        matches!(state, LinkState::CaptivePortal { .. })
    })
    .await;
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    // Its pause is 15 s at least.
    client.network_changed(network("hotel")).await.unwrap();
    let connecting = until(&client, "in step", LinkState::is_in_step);
    let connected = tokio::time::timeout(Duration::from_secs(14), connecting).await;
    assert!(connected.is_ok(), "it waits for the pause to end");
}

/// Takes no connection any more: what is asked of it is swallowed.
struct BlackHole {
    port: u16,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut queued = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(Ok(stream)) =
            tokio::time::timeout(patience, TcpStream::connect(("127.0.0.1", port))).await
        {
            queued.push(stream);
            assert!(queued.len() < 64, "it takes connections without an end");
        }
        Self {
            port,
            _listener: listener,
            _queued: queued,
        }
    }
}

#[tokio::test]
async fn an_address_that_swallows_does_not_hold_up_the_next_which_is_then_remembered() {
    let (server, hole) = (Server::start().await, BlackHole::open().await);
    let addresses = [hole.port, server.port].map(|port| format!("mqtt://127.0.0.1:{port}"));
    let folder = tempdir().unwrap();
    let patient = Options {
        connect_timeout: NEVER,
        ..options()
    };
    let client = Client::open(at(&addresses, "s3"), folder.path(), patient)
        .await
        .unwrap();
    until(&client, "in step", LinkState::is_in_step).await;
    // The next connection is not even tried at the first address, though it would work there now.
    let port = hole.port;
    drop(hole);
    let first = Proxy::start_at(port, server.port);
    client.pause_link().await.unwrap();
    until(&client, "paused", |state| *state == LinkState::Paused).await;
    client.resume_link().await.unwrap();
    until(&client, "in step again", LinkState::is_in_step).await;
    assert_eq!(first.begun(), 0);
}

#[tokio::test]
async fn where_the_first_address_answers_no_other_hears_of_it() {
    let server = Server::start().await;
    let (first, second) = (Proxy::start(server.port), Proxy::start(server.port));
    let addresses = [first.port, second.port].map(|port| format!("mqtt://127.0.0.1:{port}"));
    let folder = tempdir().unwrap();
    let client = Client::open(at(&addresses, "s3"), folder.path(), options())
        .await
        .unwrap();
    until(&client, "in step", LinkState::is_in_step).await;
    assert_eq!((first.begun(), second.begun()), (1, 0));
}

/// The rest of what a stalled link was given comes out of the system's buffers: what is old by then.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn on_a_link_that_stalls_a_newer_position_still_replaces_an_older_one() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port);
    let folder = tempdir().unwrap();
    let client = Client::open(through(proxy.port), folder.path(), options())
        .await
        .unwrap();
    until(&client, "in step", LinkState::is_in_step).await;
    proxy.stall(true);
    let before = server.state.lock().unwrap().live;
    let fixes = 5_000;
    for second in 0..fixes {
        client
            .live(fix(1_700_000_000_000 + second * 1_000))
            .await
            .unwrap();
        // The engine has looked whether there is room.
        client.status().await.unwrap();
    }
    proxy.stall(false);
    let posted = client.post_text(Message::to_office("At the gate")).await.unwrap();
    client.wait_accepted(&posted, LONG).await.unwrap();
    let stale = server.state.lock().unwrap().live - before;
    // Nearly all of them wait at the other end.
    println!("{stale} of {fixes} positions left");
    assert!((1..=500).contains(&stale), "{stale}");
}
