//! `GET /mqtt`: the handshake, and the socket that comes out of it.

use super::*;
use crate::websocket::masked;
use crate::{Places, serve};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A handshake without the line that names the subprotocol.
const HANDSHAKE: &str = "GET /mqtt HTTP/1.1\r\nhost: waypost.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A world that sends back whatever is said on its sockets, and where it listens.
async fn listening() -> (World, SocketAddr, mpsc::UnboundedReceiver<SocketAddr>) {
    let (tell, peers) = mpsc::unbounded_channel();
    let world = World::with(|state| {
        state.mqtt_socket(move |socket, peer| {
            tell.send(peer).unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(socket);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        })
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        world.router.clone(),
        Places::new(100),
        world.stop.subscribe(),
    ));
    (world, address, peers)
}

/// The head of the answer to a request.
async fn ask(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_socket_is_handed_over_with_the_address_that_it_came_from() {
    let (world, address, mut peers) = listening().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = ask(
        &mut client,
        &format!("{HANDSHAKE}sec-websocket-protocol: mqtt\r\n\r\n"),
    )
    .await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: mqtt",
    ] {
        assert!(head.lines().any(|one| one == line), "{line}: {head}");
    }
    assert_eq!(peers.recv().await, Some(client.local_addr().unwrap()));

    client.write_all(&masked(0x82, b"said")).await.unwrap();
    let mut frame = [0; 6];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x04said");

    // It is no connection of HTTP any more: whoever stops the server does not wait for it.
    world.stop.send(true).unwrap();
    client.write_all(&masked(0x82, b"more")).await.unwrap();
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x04more");
    client.write_all(&masked(0x88, b"")).await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 2, 0x03, 0xE8]);
}

#[tokio::test]
async fn bytes_that_come_with_the_handshake_are_not_lost() {
    let (_world, address, _peers) = listening().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut request = format!("{HANDSHAKE}sec-websocket-protocol: mqtt\r\n\r\n").into_bytes();
    request.extend(masked(0x82, b"early"));
    client.write_all(&request).await.unwrap();
    let head = ask(&mut client, "").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let mut frame = [0; 7];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x05early");
}

#[tokio::test]
async fn what_is_no_mqtt_over_websocket_is_told_what_would_be() {
    let (world, address, _peers) = listening().await;
    let answer = world.get("", "/mqtt").await;
    let problem = answer.expect_problem(426, "upgrade-required");
    assert!(problem["detail"].as_str().unwrap().contains("ws://"), "{problem}");
    assert_eq!(answer.headers["upgrade"], "websocket");
    assert_eq!(answer.headers["sec-websocket-version"], "13");
    world
        .send(request("POST", "/mqtt", "", None))
        .await
        .expect_problem(405, "method-not-allowed");

    for protocol in ["", "sec-websocket-protocol: mqttv3.1\r\n"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = ask(
            &mut client,
            &format!("{HANDSHAKE}connection: close\r\n{protocol}\r\n"),
        )
        .await;
        assert!(head.starts_with("http/1.1 400 "), "{head}");
        let mut body = String::new();
        client.read_to_string(&mut body).await.unwrap();
        assert!(body.contains("Sec-WebSocket-Protocol: mqtt"), "{body}");
    }

    // And where nobody takes the sockets there is nothing.
    World::new()
        .get("", "/mqtt")
        .await
        .expect_problem(404, "not-found");
}

#[tokio::test]
async fn handshakes_that_do_not_end_hold_up_nobody() {
    let (_world, address, _peers) = listening().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        silent.push(client);
    }
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = ask(
        &mut client,
        &format!("{HANDSHAKE}sec-websocket-protocol: mqtt\r\n\r\n"),
    )
    .await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
}
