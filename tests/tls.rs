//! TLS on the real binary: certificates that change while it runs, sessions that outlive it, and devices with certificates.

use crate::raw_mqtt::RawClient;
use crate::server::{Server, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, SubscribeReasonCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority that is not the server's.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key of a server at localhost.
    fn server(&self) -> (String, String) {
        self.sign(CertificateParams::new(["localhost".to_owned()]).unwrap())
    }

    fn device(&self, id: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, id);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A client that trusts this authority, keeps its sessions, and shows a certificate where it has one.
fn connector(
    authority: &str,
    version: &'static SupportedProtocolVersion,
    shows: Option<&(String, String)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(der(authority)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    TlsConnector::from(Arc::new(match shows {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![der(certificate)], key)
                .unwrap()
        }
    }))
}

async fn shake_hands(connector: &TlsConnector, stream: TcpStream) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, stream).await.unwrap()
}

async fn meet(connector: &TlsConnector, server: &Server) -> TlsStream<TcpStream> {
    shake_hands(connector, TcpStream::connect(&server.mqtts).await.unwrap()).await
}

fn secret(credentials: &std::path::Path) -> String {
    let file: Value = serde_json::from_slice(&fs::read(credentials).unwrap()).unwrap();
    file["secret"].as_str().unwrap().to_owned()
}

/// In a folder with settings and files.
fn start(settings: &str, files: &[(&str, &str)]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("waypost.toml"), settings).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    Server::start_in(folder, None)
}

#[tokio::test]
async fn a_session_resumed_after_a_restart_of_the_server_costs_no_full_handshake() {
    let mut server = start("", &[]);
    let (device, credentials) = server.add_device("truck");
    let secret = secret(&credentials);
    let login = Some((&*device, &*secret));
    let authority = fs::read_to_string(server.folder().join("data/tls/authority.pem")).unwrap();
    let connectors = VERSIONS.map(|version| connector(&authority, version, None));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        for (connector, version) in connectors.iter().zip(VERSIONS) {
            let stream = meet(connector, &server).await;
            let (_, session) = stream.get_ref();
            assert_eq!(
                (session.protocol_version(), session.handshake_kind()),
                (Some(version.version), Some(kind))
            );
            let (_, code) = RawClient::connect_on(stream, &device, login).await;
            assert_eq!(code, ConnectReturnCode::Success);
        }
        server.kill();
        server.restart();
    }
}

#[tokio::test]
async fn certificates_replaced_on_disk_are_served_without_a_restart() {
    let authority = Authority::new();
    let (first, second) = (authority.server(), authority.server());
    let settings = "[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'\ncheck_s = 3600\n";
    let server = start(settings, &[("c.pem", &first.0), ("k.pem", &first.1)]);
    let (device, credentials) = server.add_device("truck");
    let connector = connector(&authority.pem, VERSIONS[0], None);
    let stream = meet(&connector, &server).await;
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown(&stream), der(&first.0));
    let login = secret(&credentials);
    let (mut client, _) = RawClient::connect_on(stream, &device, Some((&device, &login))).await;

    // What tells that the server has looked: a broken pair is in its log.
    let looked_after = async |what: &str| {
        assert!(
            Command::new("kill")
                .args(["-HUP", &server.process_id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        tokio::time::timeout(PATIENCE, async {
            while !fs::read_to_string(server.folder().join("server.log"))
                .unwrap()
                .contains(what)
            {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    };
    // A session that is resumed shows what it was begun with.
    let fresh = || self::connector(&authority.pem, VERSIONS[0], None);
    fs::write(server.folder().join("c.pem"), &second.0).unwrap();
    looked_after("the private key is not the one of the certificate").await;
    assert_eq!(shown(&meet(&fresh(), &server).await), der(&first.0));
    fs::write(server.folder().join("k.pem"), &second.1).unwrap();
    looked_after("serving another certificate").await;
    assert_eq!(shown(&meet(&fresh(), &server).await), der(&second.0));

    // Who was there has noticed nothing.
    let granted = client.subscribe(&format!("d/{device}")).await;
    assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtLeastOnce));
}

#[tokio::test]
async fn a_certificate_speaks_for_its_device_and_for_no_other() {
    let fleet = Authority::new();
    let server = start(
        "[tls]\nclient_authority = 'fleet.pem'\n",
        &[("fleet.pem", &fleet.pem)],
    );
    let (truck, truck_file) = server.add_device("truck");
    let (van, van_file) = server.add_device("van");
    let (truck_secret, van_secret) = (secret(&truck_file), secret(&van_file));
    let authority = fs::read_to_string(server.folder().join("data/tls/authority.pem")).unwrap();
    let as_truck = connector(&authority, VERSIONS[0], Some(&fleet.device(&truck)));
    let as_nobody = connector(&authority, VERSIONS[0], None);
    let as_stranger = connector(&authority, VERSIONS[0], Some(&fleet.device("zzzz")));

    let (truck_phone, van_phone) = (format!("{truck}-phone"), format!("{van}-phone"));
    for (connector, client_id, login, expected) in [
        (&as_truck, &truck, None, ConnectReturnCode::Success),
        (&as_truck, &truck_phone, None, ConnectReturnCode::Success),
        (&as_truck, &truck, Some((&truck, "")), ConnectReturnCode::Success),
        (
            &as_truck,
            &truck,
            Some((&truck, &*truck_secret)),
            ConnectReturnCode::Success,
        ),
        // The client id of another, by certificate alone or with whatever name.
        (&as_truck, &van, None, ConnectReturnCode::ClientIdentifierNotValid),
        (
            &as_truck,
            &van_phone,
            None,
            ConnectReturnCode::ClientIdentifierNotValid,
        ),
        (
            &as_truck,
            &van,
            Some((&truck, "")),
            ConnectReturnCode::ClientIdentifierNotValid,
        ),
        // The name of another, and even its secret.
        (
            &as_truck,
            &van,
            Some((&van, "")),
            ConnectReturnCode::BadUserNamePassword,
        ),
        (
            &as_truck,
            &van,
            Some((&van, &*van_secret)),
            ConnectReturnCode::BadUserNamePassword,
        ),
        (
            &as_truck,
            &truck,
            Some((&truck, &*van_secret)),
            ConnectReturnCode::BadUserNamePassword,
        ),
        (
            &as_truck,
            &truck,
            Some((&van, &*van_secret)),
            ConnectReturnCode::BadUserNamePassword,
        ),
        // Without a certificate it is the secret that counts, and only with it.
        (
            &as_nobody,
            &van,
            Some((&van, &*van_secret)),
            ConnectReturnCode::Success,
        ),
        (&as_nobody, &truck, None, ConnectReturnCode::BadUserNamePassword),
        // A certificate of no device is no reason to look at the secret.
        (
            &as_stranger,
            &van,
            Some((&van, &*van_secret)),
            ConnectReturnCode::BadUserNamePassword,
        ),
    ] {
        // In full, and then resumed.
        for _ in 0..2 {
            let stream = meet(connector, &server).await;
            let login = login.map(|(user, secret): (&String, &str)| (user.as_str(), secret));
            let (_, code) = RawClient::connect_on(stream, client_id, login).await;
            assert_eq!(code, expected, "{client_id} {login:?}");
        }
    }

    // What it may do is what its device may do.
    let (mut client, _) = RawClient::connect_on(meet(&as_truck, &server).await, &truck, None).await;
    assert_eq!(
        client.subscribe(&format!("d/{truck}")).await,
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    );
    assert_eq!(
        client.subscribe(&format!("d/{van}")).await,
        SubscribeReasonCode::NotAuthorized
    );
    // A revoked device is gone, and its certificate does not bring it back, resumed or not.
    let data = server.folder().join("data");
    run(&["device", "revoke", &truck, "--data", data.to_str().unwrap()]);
    while client.receive().await.is_some() {}
    let stream = meet(&as_truck, &server).await;
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let (_, code) = RawClient::connect_on(stream, &truck, None).await;
    assert_eq!(code, ConnectReturnCode::BadUserNamePassword);
}

#[tokio::test]
async fn behind_a_proxy_both_ports_want_its_header() {
    let server = start("[mqtt]\nproxy_protocol = true\n", &[]);
    let (device, credentials) = server.add_device("truck");
    let secret = secret(&credentials);
    let login = Some((&*device, &*secret));
    let authority = fs::read_to_string(server.folder().join("data/tls/authority.pem")).unwrap();
    let connector = connector(&authority, VERSIONS[0], None);
    let from_proxy = async |address: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xC0\0\x02\x07\xC6\x33\x64\x01\x9C\x40\x22\xB3";
        stream.write_all(header).await.unwrap();
        stream
    };
    let (_, code) = RawClient::connect_on(from_proxy(&server.mqtt).await, &device, login).await;
    assert_eq!(code, ConnectReturnCode::Success);
    let stream = shake_hands(&connector, from_proxy(&server.mqtts).await).await;
    let (_, code) = RawClient::connect_on(stream, &device, login).await;
    assert_eq!(code, ConnectReturnCode::Success);
    let log = fs::read_to_string(server.folder().join("server.log")).unwrap();
    let lines = log.lines();
    let connected = lines.filter(|line| line.ends_with(": connected") && line.contains("192.0.2.7:40000"));
    assert_eq!(connected.count(), 2, "{log}");
    for address in [&server.mqtt, &server.mqtts] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0")
            .await
            .unwrap();
        // Closed, with or without a reset, since what was sent is not read to its end.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    }
}
