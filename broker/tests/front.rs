//! What comes before MQTT on a connection: TLS, client certificates, the PROXY protocol, and peers who fall silent in it.

// `allow-unwrap-in-tests` knows test functions, not what they share.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::ring, version,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use waypost_broker::{
    AllowList, Authenticate, Broker, ConnectAttempt, Limits, ListenerOptions, Principal, ProxyProtocol,
    Reason, Refusal,
};

/// Lets everybody in but `stolen`, and remembers who came.
#[derive(Default)]
struct Doorman {
    came: Mutex<Vec<(SocketAddr, Option<Vec<u8>>)>>,
}

impl Authenticate for Doorman {
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        let certificate = attempt.certificate.map(<[u8]>::to_vec);
        self.came.lock().unwrap().push((attempt.peer, certificate));
        match attempt.client_id {
            "stolen" => Err(Refusal::BadCredentials),
            id => Ok(Principal::new(id, id)),
        }
    }
}

impl Doorman {
    fn last(&self) -> (SocketAddr, Option<Vec<u8>>) {
        self.came.lock().unwrap().last().unwrap().clone()
    }
}

fn broker(limits: Limits) -> (Broker, Arc<Doorman>) {
    let doorman = Arc::new(Doorman::default());
    let broker = Broker::new(limits, doorman.clone(), Arc::new(AllowList::default()));
    (broker, doorman)
}

fn counted(broker: &Broker, reason: Reason) -> u64 {
    broker.stats().count(reason)
}

fn proxy() -> SocketAddr {
    ([10, 0, 0, 1], 4_711).into()
}

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, a server of it, and a device of it.
struct World {
    roots: Arc<RootCertStore>,
    device: (CertificateDer<'static>, PrivateKeyDer<'static>),
    server: Arc<ServerConfig>,
}

impl World {
    fn new() -> World {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots
            .add(params.self_signed(&key).unwrap().der().clone())
            .unwrap();
        let roots = Arc::new(roots);
        let issuer = Issuer::new(params, key);
        let signed = |params: CertificateParams| {
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            (certificate, key)
        };
        let (certificate, key) = signed(CertificateParams::new(["localhost".to_owned()]).unwrap());
        let mut device = CertificateParams::default();
        device.distinguished_name.push(DnType::CommonName, "7c");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        World {
            roots,
            device: signed(device),
            server: Arc::new(server),
        }
    }

    fn options(&self, proxy_protocol: ProxyProtocol) -> Arc<ListenerOptions> {
        Arc::new(ListenerOptions {
            tls: Some(self.server.clone()),
            proxy_protocol,
        })
    }

    fn connector(&self, version: &'static SupportedProtocolVersion, shows: Shows) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone());
        TlsConnector::from(Arc::new(match shows {
            Shows::Nothing => builder.with_no_client_auth(),
            Shows::ItsCertificate => {
                let (certificate, key) = &self.device;
                builder
                    .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                    .unwrap()
            }
        }))
    }

    async fn shake_hands<S>(&self, stream: S) -> TlsStream<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = self.connector(&version::TLS13, Shows::Nothing);
        connector.connect(name(), stream).await.unwrap()
    }
}

#[derive(Clone, Copy)]
enum Shows {
    Nothing,
    ItsCertificate,
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn plain(proxy_protocol: ProxyProtocol) -> Arc<ListenerOptions> {
    Arc::new(ListenerOptions {
        tls: None,
        proxy_protocol,
    })
}

fn dial(broker: &Broker, options: &Arc<ListenerOptions>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(4_096);
    tokio::spawn(broker.serve_accepted(far, proxy(), options.clone()));
    near
}

/// A header for a client at 192.0.2.`last`, port 40,000.
fn header(last: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, last, 198, 51, 100, 1, 0x9C, 0x40, 0x22, 0xB3]);
    header
}

fn connect(client_id: &str) -> BytesMut {
    let mut bytes = BytesMut::new();
    let connect = v5::Connect {
        keep_alive: 10,
        client_id: client_id.into(),
        clean_start: true,
        properties: None,
    };
    connect.write(&None, &None, &mut bytes).unwrap();
    bytes
}

/// Sends a CONNECT and waits for the code of the answer.
async fn join<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, client_id: &str) -> v5::ConnectReturnCode {
    stream.write_all(&connect(client_id)).await.unwrap();
    stream.flush().await.unwrap();
    let mut read = BytesMut::new();
    loop {
        match v5::Packet::read(&mut read, None) {
            Ok(v5::Packet::ConnAck(connack)) => return connack.code,
            Ok(other) => panic!("{other:?}"),
            Err(_) => assert_ne!(
                stream.read_buf(&mut read).await.unwrap(),
                0,
                "closed without a CONNACK"
            ),
        }
    }
}

/// Reads what is left; over TLS an error where the broker did not say that it was all.
async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(|_| rest)
}

/// The reason code of the one packet in these bytes, a DISCONNECT.
fn disconnect_code(said: &[u8]) -> u8 {
    assert_eq!((said[0], usize::from(said[1])), (0xE0, said.len() - 2));
    said[2]
}

#[tokio::test(start_paused = true)]
async fn both_versions_of_tls_are_spoken_and_end_with_a_goodbye() {
    let world = World::new();
    let (broker, _) = broker(Limits::default());
    let options = world.options(ProxyProtocol::Off);
    for version in [&version::TLS13, &version::TLS12] {
        let connector = world.connector(version, Shows::Nothing);
        let met = async || connector.connect(name(), dial(&broker, &options)).await.unwrap();
        let mut client = met().await;
        assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(join(&mut client, "one").await, v5::ConnectReturnCode::Success);
        client.write_all(&[0xE0, 0]).await.unwrap();
        assert_eq!(rest(&mut client).await.unwrap(), []);
        // Ended by the broker, with its reason.
        let mut client = met().await;
        join(&mut client, "one").await;
        broker.disconnect(|_| true, Reason::Administrative);
        assert_eq!(disconnect_code(&rest(&mut client).await.unwrap()), 0x98);
        // Refused.
        let mut client = met().await;
        assert_eq!(
            join(&mut client, "stolen").await,
            v5::ConnectReturnCode::BadUserNamePassword
        );
        assert_eq!(rest(&mut client).await.unwrap(), []);
        // Gone without a goodbye of its own.
        let mut client = met().await;
        join(&mut client, "one").await;
        let lost = counted(&broker, Reason::ConnectionLost);
        drop(client);
        while counted(&broker, Reason::ConnectionLost) == lost {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_a_client_goes_to_who_decides() {
    let world = World::new();
    let (broker, doorman) = broker(Limits::default());
    for (shows, certificate) in [
        (Shows::ItsCertificate, Some(world.device.0.to_vec())),
        (Shows::Nothing, None),
    ] {
        let connector = world.connector(&version::TLS13, shows);
        // The second connection resumes the session of the first.
        for _ in 0..2 {
            let stream = dial(&broker, &world.options(ProxyProtocol::Off));
            let mut client = connector.connect(name(), stream).await.unwrap();
            join(&mut client, "one").await;
            assert_eq!(doorman.last(), (proxy(), certificate.clone()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn peers_who_fall_silent_before_mqtt_delay_nobody_and_are_closed_in_time() {
    let world = World::new();
    let (broker, _) = broker(Limits::default());
    let (tls, behind_proxy) = (
        world.options(ProxyProtocol::Off),
        world.options(ProxyProtocol::Required),
    );
    let hello = {
        let (near, mut far) = tokio::io::duplex(4_096);
        let connector = world.connector(&version::TLS13, Shows::Nothing);
        let connecting = tokio::spawn(async move { connector.connect(name(), near).await.map(drop) });
        let mut hello = vec![0; 4_096];
        let length = far.read(&mut hello).await.unwrap();
        connecting.abort();
        hello.truncate(length);
        hello
    };
    let mut silent = Vec::new();
    for _ in 0..50 {
        // Nothing; a part of the header; a part of a hello; a hello, and not what answers the answer.
        for (options, said) in [
            (&tls, &b""[..]),
            (&tls, &hello[..20]),
            (&tls, &hello),
            (&behind_proxy, b""),
            (&behind_proxy, &header(7)[..10]),
            (&behind_proxy, &header(7)[..20]),
            (&behind_proxy, &header(7)),
            (&plain(ProxyProtocol::Required), &header(7)),
        ] {
            let mut stream = dial(&broker, options);
            stream.write_all(said).await.unwrap();
            silent.push(stream);
        }
    }
    let mut silent_after = Vec::new();
    for _ in 0..50 {
        silent_after.push(world.shake_hands(dial(&broker, &tls)).await);
    }
    let late = (silent.len() + silent_after.len()) as u64;
    // Another is served while all of them are there.
    let mut client = world.shake_hands(dial(&broker, &tls)).await;
    assert_eq!(join(&mut client, "one").await, v5::ConnectReturnCode::Success);
    let mut stream = dial(&broker, &behind_proxy);
    stream.write_all(&header(8)).await.unwrap();
    let mut client = world.shake_hands(stream).await;
    assert_eq!(join(&mut client, "two").await, v5::ConnectReturnCode::Success);
    assert_eq!(counted(&broker, Reason::HandshakeTimeout), 0);
    for mut stream in silent {
        rest(&mut stream).await.unwrap();
    }
    for mut stream in silent_after {
        assert_eq!(rest(&mut stream).await.unwrap(), []);
    }
    assert_eq!(counted(&broker, Reason::HandshakeTimeout), late);
    // Who is slow in several steps has no more time than who is slow in one.
    let begun = tokio::time::Instant::now();
    let time = Limits::default().handshake_timeout;
    let mut stream = dial(&broker, &behind_proxy);
    tokio::time::advance(time * 2 / 5).await;
    stream.write_all(&header(7)).await.unwrap();
    tokio::time::advance(time * 2 / 5).await;
    let mut client = world.shake_hands(stream).await;
    assert_eq!(rest(&mut client).await.unwrap(), []);
    assert!(begun.elapsed() < time * 6 / 5);
    // Silent in TLS, after a header that took its time.
    let begun = tokio::time::Instant::now();
    let mut stream = dial(&broker, &behind_proxy);
    tokio::time::advance(time * 2 / 5).await;
    stream.write_all(&header(7)).await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), []);
    assert!(begun.elapsed() < time * 6 / 5);
    assert_eq!(counted(&broker, Reason::HandshakeTimeout), late + 2);
}

#[tokio::test(start_paused = true)]
async fn the_silent_take_places_among_the_handshakes_and_no_more() {
    let world = World::new();
    let (broker, _) = broker(Limits {
        handshakes_max: 3,
        ..Limits::default()
    });
    let options = world.options(ProxyProtocol::Required);
    let silent: Vec<_> = (0..3).map(|_| dial(&broker, &options)).collect();
    let mut over = dial(&broker, &options);
    assert_eq!(rest(&mut over).await.unwrap(), []);
    assert_eq!(counted(&broker, Reason::HandshakeLimit), 1);
    // At once: those who were there before are there still.
    assert_eq!(counted(&broker, Reason::HandshakeTimeout), 0);
    for mut stream in silent {
        rest(&mut stream).await.unwrap();
    }
    let mut stream = dial(&broker, &options);
    stream.write_all(&header(7)).await.unwrap();
    let mut client = world.shake_hands(stream).await;
    assert_eq!(join(&mut client, "one").await, v5::ConnectReturnCode::Success);
}

#[tokio::test(start_paused = true)]
async fn a_failed_tls_handshake_is_counted_and_a_look_whether_somebody_listens_is_not() {
    let world = World::new();
    let (broker, _) = broker(Limits::default());
    let options = world.options(ProxyProtocol::Off);
    let mut failed = 0;
    for said in [&connect("one")[..], b"GET / HTTP/1.1\r\n\r\n", &header(7)] {
        let mut stream = dial(&broker, &options);
        stream.write_all(said).await.unwrap();
        // An alert, and the end.
        let answer = rest(&mut stream).await.unwrap();
        assert!(!answer.windows(2).any(|bytes| bytes == [0x20, 2]), "{answer:?}");
        failed += 1;
        assert_eq!(counted(&broker, Reason::TlsHandshakeFailed), failed);
    }
    // Who does not trust the certificate says so.
    let connector = World::new().connector(&version::TLS13, Shows::Nothing);
    connector
        .connect(name(), dial(&broker, &options))
        .await
        .unwrap_err();
    while counted(&broker, Reason::TlsHandshakeFailed) == failed {
        tokio::task::yield_now().await;
    }
    let mut stream = dial(&broker, &options);
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), []);
    assert_eq!(counted(&broker, Reason::TlsHandshakeFailed), failed + 1);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_tells_the_address_that_counts() {
    let world = World::new();
    let (broker, doorman) = broker(Limits {
        connections_per_address_per_minute: 2,
        ..Limits::default()
    });
    let told = |last| SocketAddr::from(([192, 0, 2, last], 40_000));
    for options in [
        world.options(ProxyProtocol::Required),
        plain(ProxyProtocol::Required),
    ] {
        let with_tls = options.tls.is_some();
        let first = if with_tls { 0 } else { 100 };
        // Many clients of one proxy, each of them within its rate.
        for last in first..first + 10 {
            let mut stream = dial(&broker, &options);
            // The header and what follows come at once.
            stream.write_all(&header(last)).await.unwrap();
            if with_tls {
                let mut client = world.shake_hands(stream).await;
                assert_eq!(join(&mut client, "one").await, v5::ConnectReturnCode::Success);
            } else {
                assert_eq!(join(&mut stream, "one").await, v5::ConnectReturnCode::Success);
            }
            assert_eq!(doorman.last().0, told(last));
        }
        // The rate is that of the client.
        let mut stream = dial(&broker, &options);
        stream.write_all(&header(first)).await.unwrap();
        drop(stream);
        let mut stream = dial(&broker, &options);
        let before = counted(&broker, Reason::ConnectionRate);
        stream.write_all(&header(first)).await.unwrap();
        if with_tls {
            // A handshake in full is what the rate is there to spare.
            assert_eq!(rest(&mut stream).await.unwrap(), []);
        } else {
            let code = join(&mut stream, "one").await;
            assert_eq!(code, v5::ConnectReturnCode::ConnectionRateExceeded);
        }
        assert_eq!(counted(&broker, Reason::ConnectionRate), before + 1);
    }
    // A proxy that speaks for itself.
    let mut stream = dial(&broker, &plain(ProxyProtocol::Required));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    stream.write_all(local).await.unwrap();
    assert_eq!(join(&mut stream, "one").await, v5::ConnectReturnCode::Success);
    assert_eq!(doorman.last().0, proxy());
}

#[tokio::test(start_paused = true)]
async fn without_its_header_a_stream_is_closed_and_counted() {
    let world = World::new();
    let (broker, doorman) = broker(Limits::default());
    let mut refused = 0;
    for options in [
        world.options(ProxyProtocol::Required),
        plain(ProxyProtocol::Required),
    ] {
        let udp = [&header(7)[..13], &[0x12], &header(7)[14..]].concat();
        for said in [
            &connect("a_client_that_comes_by_itself")[..],
            // In fewer bytes than the first part of a header has.
            &connect(""),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8883\r\n",
            &udp,
        ] {
            let mut stream = dial(&broker, &options);
            stream.write_all(said).await.unwrap();
            assert_eq!(rest(&mut stream).await.unwrap(), []);
            refused += 1;
            assert_eq!(counted(&broker, Reason::ProxyHeaderInvalid), refused);
        }
        let mut stream = dial(&broker, &options);
        stream.write_all(&header(7)[..20]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await.unwrap(), []);
        refused += 1;
        assert_eq!(counted(&broker, Reason::ProxyHeaderInvalid), refused);
    }
    // Where it is not asked for it is no way to choose an address.
    let mut stream = dial(&broker, &plain(ProxyProtocol::Off));
    stream.write_all(&header(7)).await.unwrap();
    stream.write_all(&connect("one")).await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), []);
    assert!(doorman.came.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_listener_speaks_tls_behind_a_proxy() {
    let world = World::new();
    let (broker, doorman) = broker(Limits {
        handshake_timeout: PATIENCE * 2,
        ..Limits::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ListenerOptions {
        tls: Some(world.server.clone()),
        proxy_protocol: ProxyProtocol::Required,
    };
    let listening = tokio::spawn(broker.clone().listen(listener, options));
    // Each of them is silent at another place.
    let mut silent = Vec::new();
    for said in [&b""[..], &header(6)[..10], &header(6)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&header(7)).await.unwrap();
    let mut client = tokio::time::timeout(PATIENCE, world.shake_hands(stream))
        .await
        .expect("nobody waits for the silent");
    assert_eq!(join(&mut client, "one").await, v5::ConnectReturnCode::Success);
    assert_eq!(doorman.last().0, SocketAddr::from(([192, 0, 2, 7], 40_000)));
    drop(silent);
    let goodbye = async {
        let said = rest(&mut client).await.unwrap();
        drop(client);
        said
    };
    let ((), said) = tokio::join!(broker.shutdown(), goodbye);
    assert_eq!(disconnect_code(&said), 0x8B);
    listening.await.unwrap();
}
