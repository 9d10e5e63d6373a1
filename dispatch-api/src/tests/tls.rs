//! HTTPS: handshakes that succeed, fail and never end, and what a device is given to trust the server.

use super::*;
use crate::websocket::masked;
use crate::{Authority, Places, Transport, Trust, serve_tls};
use rcgen::{CertificateParams, KeyPair};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

const NAME: &str = "waypost.test";

/// A server on a port of its own, and a client that trusts it.
struct Listening {
    world: World,
    address: SocketAddr,
    trusting: TlsConnector,
    serving: tokio::task::JoinHandle<()>,
}

async fn listening(connections_max: usize) -> Listening {
    let world = World::with(|state| {
        let echo = |socket, _| {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(socket);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        };
        state.transport(Transport::Tls).mqtt_socket(echo)
    });
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, stop) = (world.router.clone(), world.stop.subscribe());
    let places = Places::new(connections_max);
    Listening {
        address,
        serving: tokio::spawn(serve_tls(listener, Arc::new(config), router, places, stop)),
        world,
        trusting: client([certificate.der().clone()]),
    }
}

fn client(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> TlsConnector {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(roots);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Arc::new(config).into()
}

impl Listening {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        self.trusting.connect(name, stream).await.unwrap()
    }
}

/// What comes back before the server closes.
async fn ask<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: waypost.test\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn peers_that_are_silent_in_the_handshake_delay_nobody() {
    let server = listening(20).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // Half of them have begun a record that does not end.
        if silent.len() % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 0]).await.unwrap();
        }
        silent.push(stream);
    }
    let answer = ask(server.connect().await, HEALTH).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // They have not been turned away: they have a place each, for a while.
    let mut byte = [0];
    for stream in &mut silent {
        let waiting = tokio::time::timeout(Duration::ZERO, stream.read(&mut byte)).await;
        assert!(waiting.is_err());
    }
    server.world.stop.send(true).unwrap();
    server.serving.await.unwrap();
}

#[tokio::test]
async fn a_handshake_takes_a_place_and_gives_it_back() {
    let server = listening(1).await;
    let holder = TcpStream::connect(server.address).await.unwrap();
    // The second one is closed at once.
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
    drop(holder);
    loop {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        // Until the server has seen that the first is gone.
        if let Ok(stream) = server.trusting.connect(name, stream).await {
            assert!(ask(stream, HEALTH).await.starts_with("HTTP/1.1 200 OK"));
            break;
        }
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_not_waited_for() {
    let server = listening(20).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(&[0x16, 3, 1]).await.unwrap();
    let stranger = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    client([]).connect(name, stranger).await.unwrap_err();
    // By now the server has taken in both. From here time jumps to whatever is due next.
    tokio::time::pause();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    tokio::time::resume();
    assert!(ask(server.connect().await, HEALTH).await.contains("200 OK"));
}

#[tokio::test]
async fn who_speaks_in_the_clear_is_told_where_to_go() {
    let server = listening(20).await;
    let clear = async || TcpStream::connect(server.address).await.unwrap();
    let answer = ask(
        clear().await,
        "GET /ca HTTP/1.1\r\nhost: waypost.test:8443\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 307 ")
            && answer.contains("\r\nlocation: https://waypost.test:8443/ca\r\n"),
        "{answer}"
    );
    let answer = ask(
        clear().await,
        "POST /api/v1/session HTTP/1.1\r\nhost: waypost.test\r\ncontent-length: 2\r\n\r\n{}",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_cookie_of_this_listener_is_secure() {
    let mut server = listening(20).await;
    server.world.person(Role::Admin).await;
    let body = json!({ "email": "person1@waypost.test", "password": PASSWORD }).to_string();
    let answer = ask(
        server.connect().await,
        &format!(
            "POST /api/v1/session HTTP/1.1\r\nhost: waypost.test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
    .await;
    let cookie = answer
        .lines()
        .find(|line| line.starts_with("set-cookie: "))
        .unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
}

#[tokio::test]
async fn a_websocket_over_tls_is_handed_over_and_outlives_the_stop() {
    let server = listening(20).await;
    let mut stream = server.connect().await;
    let handshake = "GET /mqtt HTTP/1.1\r\nhost: waypost.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: mqtt\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    server.world.stop.send(true).unwrap();
    server.serving.await.unwrap();
    stream.write_all(&masked(0x82, b"said")).await.unwrap();
    let mut frame = [0; 6];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x04said");
}

#[tokio::test]
async fn an_authority_is_offered_to_everybody_and_stands_in_credentials() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let authority = Authority::from_pem(certificate.pem()).unwrap();
    let fingerprint = authority.fingerprint();
    let world = World::with(|state| {
        state
            .mqtt_authority(authority.clone())
            .trust(Trust::Own(authority))
    });
    for (path, content_type, content) in [
        (
            "/ca.pem",
            "application/x-pem-file",
            certificate.pem().into_bytes(),
        ),
        (
            "/ca.crt",
            "application/x-x509-ca-cert",
            certificate.der().to_vec(),
        ),
    ] {
        let answer = world.get("", path).await;
        assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (200, &content[..]));
        assert_eq!(answer.headers["content-type"], content_type);
    }
    let profile = world.get("", "/ca.mobileconfig").await;
    assert_eq!(
        profile.headers["content-type"],
        "application/x-apple-aspen-config"
    );
    let page = world.get("", "/ca").await.text().replace("<span>", "");
    assert!(page.replace("</span>", "").contains(&fingerprint));

    let new = request(
        "POST",
        "/api/v1/devices",
        SERVER_TOKEN,
        Some(json!({ "name": "a" })),
    );
    let added = world.send(new).await.json();
    assert_eq!(added["credentials"]["ca"], certificate.pem());
    let device = added["device"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/devices/{device}/credentials");
    let rotated = world
        .send(request("POST", &path, SERVER_TOKEN, None))
        .await
        .json();
    assert_eq!(rotated["ca"], certificate.pem());
}

#[tokio::test]
async fn without_an_authority_of_its_own_there_is_a_page_and_nothing_to_install() {
    for (trust, said) in [
        (Trust::NoTls, "does not speak TLS"),
        (Trust::FromFiles, "nothing to install"),
    ] {
        let world = World::with(|state| state.trust(trust));
        let page = world.get("", "/ca").await;
        assert_eq!(page.status, 200);
        assert!(page.text().contains(said), "{}", page.text());
        for path in ["/ca.pem", "/ca.crt", "/ca.mobileconfig"] {
            world.get("", path).await.expect_problem(404, "not-found");
        }
    }
}
