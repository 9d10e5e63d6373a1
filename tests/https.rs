//! TLS as browsers, phones and devices meet it, on the real binary: what stands in credentials is what works.

use crate::server::{Server, WAYPOST, http_client, run, trusting};
use rumqttc::v5::mqttbytes::v5;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn credentials(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// The authority as a device that is added gets it.
fn authority(file: &Path) -> String {
    credentials(file)["ca"].as_str().unwrap().to_owned()
}

/// What the office has heard from a device.
async fn heard(server: &Server, token: &str, device: &str) -> Vec<String> {
    let device = server.read(token, &format!("/devices/{device}")).await;
    let stream = device["stream"].as_str().unwrap();
    let page = server.read(token, &format!("/streams/{stream}/entries")).await;
    let items = page["items"].as_array().unwrap().iter();
    items
        .filter_map(|entry| entry["body"]["text"].as_str())
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_speaks_over_tls_with_what_it_was_given() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-17");
    assert_eq!(
        credentials(&file)["mqtt"],
        json!([
            format!("mqtts://{}", server.mqtts),
            format!("wss://{}/mqtt", server.https)
        ]),
        "best first, and nothing in the clear"
    );
    let authority = authority(&file);
    let http = http_client().build().unwrap();
    for path in ["/ca.pem", "/ca"] {
        let answer = http.get(format!("http://{}{path}", server.http)).send().await;
        let text = answer.unwrap().text().await.unwrap();
        match path {
            "/ca.pem" => assert_eq!(text, authority),
            _ => assert!(text.contains("Compare the fingerprint"), "{text}"),
        }
    }
    // By each of the addresses alone.
    let mut given = credentials(&file);
    let said = ["over MQTT", "over WebSocket"];
    for (address, said) in given["mqtt"].as_array().unwrap().clone().into_iter().zip(said) {
        given["mqtt"] = json!([address]);
        fs::write(&file, given.to_string()).unwrap();
        let answer = run(&["driver", "--as", file.to_str().unwrap(), "send", said]);
        assert!(answer.contains("Accepted"), "{answer}");
    }
    assert_eq!(heard(&server, &token, &device).await, said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_knows_another_authority_keeps_what_it_has_to_say() {
    let server = Server::start();
    let token = server.sign_in().await;
    let (device, file) = server.add_device("truck-17");
    let right = fs::read(&file).unwrap();
    let mut wrong = credentials(&file);
    let key = rcgen::KeyPair::generate().unwrap();
    let stranger = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    wrong["ca"] = json!(stranger.pem());
    fs::write(&file, wrong.to_string()).unwrap();
    let driver = |arguments: &[&str]| {
        let output = Command::new(WAYPOST)
            .args(["driver", "--as", file.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        (said, String::from_utf8(output.stderr).unwrap())
    };
    let (said, why) = driver(&["send", "At the gate", "--wait", "2s"]);
    assert!(said.contains("Stored"), "{said}");
    assert!(
        why.contains(
            "not signed by the authority in truck-17.json; fetch the file again with `waypost device rotate`"
        ),
        "{why}"
    );
    assert!(heard(&server, &token, &device).await.is_empty());
    // It looks like the Wi-Fi of a hotel, and a person is told both.
    let (said, _) = driver(&["status"]);
    assert!(
        said.contains("captive portal: this network may want you to sign in")
            && said.contains("in truck-17.json"),
        "{said}"
    );

    // With the right file what was stored goes first.
    fs::write(&file, right).unwrap();
    driver(&["send", "On my way"]);
    assert_eq!(
        heard(&server, &token, &device).await,
        ["At the gate", "On my way"]
    );
}

#[tokio::test]
async fn browsers_find_the_same_over_https_and_are_delayed_by_nobody() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-17");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&server.https).await.unwrap());
    }
    let https = trusting(&[&authority(&file)]).build().unwrap();
    let url = |path: &str| format!("https://{}{path}", server.https);
    let answer = https.get(url("/healthz")).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "status": "ok" }));
    let sign_in = json!({ "email": server.email, "password": server.password });
    let answer = https
        .post(url("/api/v1/session"))
        .json(&sign_in)
        .send()
        .await
        .unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.contains("; HttpOnly") && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    // And over HTTP it is as it was.
    let answer = http_client()
        .build()
        .unwrap()
        .post(server.url("/session"))
        .json(&sign_in)
        .send()
        .await
        .unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(!cookie.contains("Secure"), "{cookie}");
    let stranger = http_client().build().unwrap();
    stranger.get(url("/healthz")).send().await.unwrap_err();
}

#[tokio::test]
async fn commands_speak_https_to_a_server_whose_authority_they_are_given() {
    let server = Server::start();
    let (device, file) = server.add_device("truck-17");
    let ca = server.folder().join("ca.pem");
    fs::write(&ca, authority(&file)).unwrap();
    let token = fs::read_to_string(server.folder().join("data/admin.token")).unwrap();
    let list = |variables: &[(&str, &str)]| {
        let output = Command::new(WAYPOST)
            .args(["device", "list", "--json", "--server"])
            .arg(format!("https://{}", server.https))
            .env("WAYPOST_TOKEN", token.trim())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (said, String::from_utf8(output.stderr).unwrap())
    };
    let (said, errors) = list(&[("WAYPOST_CA", ca.to_str().unwrap())]);
    let listed: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{errors}"));
    assert_eq!(listed["id"], device.as_str());

    let key = rcgen::KeyPair::generate().unwrap();
    let stranger = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    fs::write(&ca, stranger.pem()).unwrap();
    let (_, errors) = list(&[("WAYPOST_CA", ca.to_str().unwrap())]);
    assert!(
        errors.contains("not from an authority that is trusted here") && errors.contains("--ca"),
        "{errors}"
    );
}

/// TLS to one of the server's listeners.
async fn over_tls(address: &str, file: &Value) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = file["ca"].as_str().unwrap();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

/// A WebSocket for MQTT that has been taken up.
async fn websocket(server: &Server, file: &Value) -> TlsStream<TcpStream> {
    let mut stream = over_tls(&server.https, file).await;
    let handshake = "GET /mqtt HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: mqtt\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// The CONNECT of a device that listens.
fn connect(file: &Value) -> Vec<u8> {
    let device = file["device"].as_str().unwrap();
    let connect = v5::Connect {
        keep_alive: 60,
        client_id: format!("{device}-test"),
        clean_start: true,
        properties: None,
    };
    let login = v5::Login::new(device, file["secret"].as_str().unwrap());
    let mut packet = bytes::BytesMut::new();
    connect.write(&None, &Some(login), &mut packet).unwrap();
    packet.to_vec()
}

async fn speak_over_websocket(stream: &mut TlsStream<TcpStream>, file: &Value) {
    let packet = connect(file);
    // A frame whose mask is zero.
    let length = u8::try_from(packet.len()).unwrap();
    assert!(length < 126);
    let frame = [&[0x82, 0x80 | length, 0, 0, 0, 0], &packet[..]].concat();
    stream.write_all(&frame).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    // A binary frame with a CONNACK whose reason is success.
    assert_eq!((answer[0], answer[2], answer[5]), (0x82, 0x20, 0), "{answer:?}");
}

#[tokio::test]
async fn a_websocket_over_tls_carries_mqtt() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-17");
    let file = credentials(&file);
    let mut stream = websocket(&server, &file).await;
    speak_over_websocket(&mut stream, &file).await;
}

#[tokio::test]
async fn peers_who_fall_silent_in_any_handshake_delay_nobody() {
    let server = Server::start();
    let (_, file) = server.add_device("truck-17");
    let file = credentials(&file);
    let (mut in_tcp, mut in_tls) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        for address in [&server.https, &server.mqtts, &server.http, &server.mqtt] {
            in_tcp.push(TcpStream::connect(address).await.unwrap());
        }
        // The first bytes of a ClientHello, and of an HTTP request, and then nothing.
        for (address, begun) in [
            (&server.mqtts, &b"\x16\x03\x01\x02"[..]),
            (&server.http, b"GET /mqtt HT"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun).await.unwrap();
            in_tcp.push(stream);
        }
        in_tls.push(over_tls(&server.https, &file).await);
        in_tls.push(over_tls(&server.mqtts, &file).await);
        // Taken up, and no CONNECT.
        in_tls.push(websocket(&server, &file).await);
        let mut half = over_tls(&server.mqtts, &file).await;
        half.write_all(&connect(&file)[..5]).await.unwrap();
        in_tls.push(half);
    }
    let mut stream = websocket(&server, &file).await;
    speak_over_websocket(&mut stream, &file).await;
    let mut stream = over_tls(&server.mqtts, &file).await;
    stream.write_all(&connect(&file)).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0), "{answer:?}");
    // Everybody else was there all the time.
    assert_eq!((in_tcp.len(), in_tls.len()), (120, 80));
}

#[test]
fn what_is_off_stands_neither_in_the_ready_line_nor_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(WAYPOST)
        .args([
            "serve",
            "--http",
            "127.0.0.1:0",
            "--https=",
            "--mqtt",
            "127.0.0.1:0",
        ])
        .args(["--mqtts=", "--data"])
        .arg(folder.path().join("data"))
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(process.stdout.take().unwrap()));
    let ready = lines
        .map(|line| line.unwrap())
        .find(|line| line.starts_with("ready "))
        .unwrap();
    let written = fs::read_to_string(folder.path().join("data/server.json")).unwrap();
    let data = folder.path().join("data");
    let out = run(&["device", "add", "a", "--json", "--data", data.to_str().unwrap()]);
    process.kill().unwrap();
    process.wait().unwrap();
    let names: Vec<&str> = ready
        .split(' ')
        .skip(1)
        .map(|pair| pair.split('=').next().unwrap())
        .collect();
    assert_eq!(names, ["http", "mqtt"], "{ready}");
    assert!(
        !written.contains("https") && !written.contains("mqtts"),
        "{written}"
    );
    let given: Value = serde_json::from_str(&out).unwrap();
    let mqtt = ready.split("mqtt=").nth(1).unwrap();
    assert_eq!(
        (&given["mqtt"], &given["ca"]),
        (&json!([format!("mqtt://{mqtt}")]), &Value::Null)
    );
    assert!(!data.join("tls").exists(), "nobody needs an authority");
}
