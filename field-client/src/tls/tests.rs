use super::*;
use crate::Scheme;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, DuplexStream, ReadBuf, duplex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

/// An authority, and the certificates that it signs.
struct Office {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Office {
    fn open() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// TLS of a server for a name, within years.
    fn server(&self, name: &str, from: i32, to: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            );
        Arc::new(config.unwrap())
    }

    /// TLS of a device whose credentials name this authority.
    fn device(&self) -> Tls {
        let authority = Authority::from_pem(&self.pem).unwrap();
        Tls::new(Some(authority), Some("fleet/truck-17.json".into()))
    }
}

fn address() -> ServerAddress {
    ServerAddress {
        scheme: Scheme::Mqtts,
        host: "waypost.example".to_owned(),
        port: 8883,
        path: String::new(),
    }
}

/// A server that answers one message with `pong`.
fn serve(config: Arc<ServerConfig>, stream: DuplexStream) -> tokio::task::JoinHandle<io::Result<()>> {
    tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        stream.read_exact(&mut [0; 4]).await?;
        stream.write_all(b"pong").await?;
        stream.flush().await
    })
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut TlsStream<Corked<S>>) {
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"pong");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said_so_that_it_can_be_helped() {
    let office = Office::open();
    let right = || office.server("waypost.example", 2020, 4000);
    for (server, said) in [
        (
            Office::open().server("waypost.example", 2020, 4000),
            "not signed by the authority in truck-17.json; fetch the file again with `waypost device rotate`",
        ),
        (
            office.server("waypost.example", 2020, 2021),
            "days ago; it has to be renewed on the server, unless the clock",
        ),
        (
            office.server("waypost.example", 3000, 4000),
            "days; the clock of this device, or that of the server, is wrong",
        ),
        (
            office.server("other.example", 2020, 4000),
            "is for other.example, not for waypost.example; name that in the server's setting tls.names",
        ),
    ] {
        let (near, far) = duplex(64 * 1024);
        let serving = serve(server, far);
        let why = office
            .device()
            .connect(near, &address())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(why.contains(said), "{why}");
        // And the server hears of it.
        let error = serving.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("alert"), "{error}");
    }

    let (near, mut far) = duplex(64 * 1024);
    far.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    let why = office
        .device()
        .connect(near, &address())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(why.contains("does not speak TLS"), "{why}");

    let (near, far) = duplex(64 * 1024);
    drop(far);
    let why = office
        .device()
        .connect(near, &address())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(!why.contains("certificate"), "{why}");

    let (near, far) = duplex(64 * 1024);
    let serving = serve(right(), far);
    let mut stream = office.device().connect(near, &address()).await.unwrap();
    exchange(&mut stream).await;
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_authority_in_the_file_only_those_of_the_machine_count() {
    let (near, far) = duplex(64 * 1024);
    let _serving = serve(Office::open().server("waypost.example", 2020, 4000), far);
    let why = Tls::new(None, None)
        .connect(near, &address())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        why.contains("this machine trusts") && why.contains("the credentials file names none"),
        "{why}"
    );
}

#[tokio::test]
async fn a_device_comes_back_with_the_ticket_of_the_last_connection() {
    let office = Office::open();
    let (server, device) = (office.server("waypost.example", 2020, 4000), office.device());
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let (near, far) = duplex(64 * 1024);
        let serving = serve(server.clone(), far);
        let mut stream = device.connect(near, &address()).await.unwrap();
        exchange(&mut stream).await;
        kinds.push(stream.get_ref().1.handshake_kind());
        serving.await.unwrap().unwrap();
    }
    let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
    assert_eq!(kinds, [full, resumed, resumed]);
}

/// Counts writes: each is a packet.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn the_end_of_the_handshake_and_what_is_said_first_are_one_packet() {
    let office = Office::open();
    let server = office.server("waypost.example", 2020, 4000);
    let device = office.device();
    for _ in ["full", "resumed"] {
        let (near, far) = duplex(64 * 1024);
        let serving = serve(server.clone(), far);
        let writes = Arc::new(AtomicUsize::new(0));
        let stream = Counted(near, writes.clone());
        let mut stream = device.connect(stream, &address()).await.unwrap();
        exchange(&mut stream).await;
        assert_eq!(
            writes.load(Ordering::Relaxed),
            2,
            "the hello, and the end with the message"
        );
        serving.await.unwrap().unwrap();
    }
}
