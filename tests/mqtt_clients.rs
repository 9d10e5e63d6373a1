//! Anybody's MQTT client with a device's credentials: what it may do works, what it may not is refused by the code
//! that its version of the protocol has for it, and counted.

use crate::server::{Server, http_client};
use bytes::BytesMut;
use rumqttc::mqttbytes::{QoS, v4};
use serde_json::Value;
use std::process::{Command, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The device's id and secret.
fn credentials(file: &std::path::Path) -> (String, String) {
    let credentials: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |name: &str| credentials[name].as_str().unwrap().to_owned();
    (text("device"), text("secret"))
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_does_what_a_device_may_and_is_refused_the_rest() {
    let server = Server::start();
    paho_does_what_it_may("tcp", &server, &server.mqtt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_does_the_same_over_websocket() {
    let server = Server::start();
    paho_does_what_it_may("websockets", &server, &server.http).await;
}

async fn paho_does_what_it_may(transport: &str, server: &Server, address: &str) {
    let (_, file) = server.add_device("truck-1");
    let (other, _) = server.add_device("truck-2");
    let (device, secret) = credentials(&file);
    let (host, port) = address.split_once(':').unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mqtt_clients.py");
    let output = Command::new("python3")
        .args([script, transport, host, port, &device, &secret, &other])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "python3 with paho-mqtt: {}",
        said(&output)
    );

    // Each refusal of the script is counted for the operator.
    let metrics = http_client()
        .build()
        .unwrap()
        .get(format!("http://{}/metrics", server.http))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let counted: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("waypost_broker") && line.contains("reason="))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    let refusals = 2 * (8 + 7 + 3);
    assert!(
        counted >= f64::from(refusals),
        "{counted} of {refusals} counted:\n{metrics}"
    );
}

#[test]
fn mosquitto_publishes_and_subscribes_on_the_devices_own_topics() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-1");
    let (device, secret) = credentials(&file);
    let (host, port) = server.mqtt.split_once(':').unwrap();
    for version in ["mqttv5", "mqttv311"] {
        let run = |tool: &str, arguments: &[&str]| {
            let who = [
                "-h", host, "-p", port, "-V", version, "-u", &device, "-P", &secret,
            ];
            Command::new(tool)
                .args(who)
                .args(arguments)
                .output()
                .expect("mosquitto-clients are installed")
        };
        let topic = format!("u/{device}");
        let published = run(
            "mosquitto_pub",
            &["-i", &device, "-t", &topic, "-m", "no frame", "-q", "1"],
        );
        assert!(published.status.success(), "{version}: {}", said(&published));
        // Subscribing and, as it asks for nothing more, ending when the time is over: status 27 and no error.
        let topic = format!("d/{device}");
        let suffixed = format!("{device}-listens");
        let subscribed = run(
            "mosquitto_sub",
            &["-i", &suffixed, "-t", &topic, "-q", "1", "-W", "1"],
        );
        assert_eq!(
            subscribed.status.code(),
            Some(27),
            "{version}: {}",
            said(&subscribed)
        );
        let forbidden = run(
            "mosquitto_sub",
            &["-i", &suffixed, "-t", "#", "-q", "1", "-W", "5"],
        );
        assert!(
            said(&forbidden).contains("denied"),
            "{version}: {}",
            said(&forbidden)
        );
        let forbidden = run(
            "mosquitto_pub",
            &["-i", &suffixed, "-t", "d/zz", "-m", "x", "-q", "1"],
        );
        let refused = !forbidden.status.success() || said(&forbidden).to_lowercase().contains("not authori");
        assert!(refused, "{version}: {}", said(&forbidden));
    }
}

#[tokio::test]
async fn packets_and_websocket_frames_have_nothing_to_do_with_each_other() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-1");
    let (device, secret) = credentials(&file);
    let mut connect = v4::Connect::new(&device);
    connect.set_login(&device, &secret);
    let subscribe = v4::Subscribe::new(format!("d/{device}"), QoS::AtLeastOnce);
    let packets = [
        v4::Packet::Connect(connect),
        v4::Packet::Subscribe(v4::Subscribe { pkid: 7, ..subscribe }),
        v4::Packet::PingReq,
    ];
    let mut sent = BytesMut::new();
    for packet in packets {
        packet.write(&mut sent, 1_000).unwrap();
    }
    // All packets in one frame; and every byte in a frame of its own [MQTT-6.0.0-2].
    for piece in [sent.len(), 1] {
        let mut socket = web_socket(&server.http).await;
        for piece in sent.chunks(piece) {
            socket.write_all(&frame(0x82, piece)).await.unwrap();
        }
        let connack = v4::ConnAck::new(v4::ConnectReturnCode::Success, false);
        let suback = v4::SubAck::new(7, vec![v4::SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
        let answers = [
            v4::Packet::ConnAck(connack),
            v4::Packet::SubAck(suback),
            v4::Packet::PingResp,
        ];
        let mut received = BytesMut::new();
        for answer in answers {
            let packet = loop {
                match v4::Packet::read(&mut received, 1_000) {
                    Ok(packet) => break packet,
                    Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {
                        let (opcode, payload) = read_frame(&mut socket).await;
                        assert_eq!(opcode, 0x82);
                        received.extend_from_slice(&payload);
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(packet, answer);
        }
        // A text message, whatever it says, ends the connection.
        socket.write_all(&frame(0x81, b"hello")).await.unwrap();
        assert_eq!(read_frame(&mut socket).await, (0x88, vec![0x03, 0xEB]));
    }
}

/// A socket after its handshake.
async fn web_socket(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// A short frame as a client sends it, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    let mask = [1, 2, 3, 4];
    let masked = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    [first, 0x80 | length]
        .into_iter()
        .chain(mask)
        .chain(masked)
        .collect()
}

/// The first byte and the payload of a short frame of the server.
async fn read_frame(socket: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    socket.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1])];
    socket.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}
