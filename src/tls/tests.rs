use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
};
use std::os::unix::fs::PermissionsExt;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn own(names: &[&str]) -> TlsSettings {
    TlsSettings {
        source: CertificateSource::OwnAuthority {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        },
        client_authority: None,
        ticket_lifetime: Duration::from_secs(86_400),
        looked_at_every: Duration::from_secs(5),
    }
}

/// An authority that is not the server's.
struct Issues {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Issues {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Certificate and key, in PEM.
    fn server(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn device(&self, common_name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

/// A client that trusts this authority, keeps its sessions, and shows a certificate where it has one.
fn client(
    authority: &str,
    version: &'static SupportedProtocolVersion,
    shows: Option<&(String, String)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shows {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// How a handshake went.
#[derive(Debug)]
struct Met {
    kind: HandshakeKind,
    version: ProtocolVersion,
    /// What the server shows.
    shown: Vec<u8>,
    /// What the server knows of the client.
    known: Option<Vec<u8>>,
    alpn: Option<Vec<u8>>,
    /// TLS records, headers included, from the client and to it.
    up_bytes: usize,
    down_bytes: usize,
}

/// Lets both sides talk until nobody has anything to say.
fn meet(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Result<Met, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut near = ClientConnection::new(client.clone(), name).unwrap();
    let mut far = ServerConnection::new(server.clone()).unwrap();
    let (mut up_bytes, mut down_bytes) = (0, 0);
    while near.wants_write() || far.wants_write() {
        let mut wire = Vec::new();
        while near.wants_write() {
            near.write_tls(&mut wire).unwrap();
        }
        up_bytes += wire.len();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            far.read_tls(&mut rest).unwrap();
            far.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while far.wants_write() {
            far.write_tls(&mut wire).unwrap();
        }
        down_bytes += wire.len();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            near.read_tls(&mut rest).unwrap();
            near.process_new_packets()?;
        }
    }
    let first = |chain: Option<&[CertificateDer<'_>]>| chain.map(|chain| chain[0].to_vec());
    Ok(Met {
        kind: near.handshake_kind().unwrap(),
        version: near.protocol_version().unwrap(),
        shown: first(near.peer_certificates()).unwrap(),
        known: first(far.peer_certificates()),
        alpn: near.alpn_protocol().map(<[u8]>::to_vec),
        up_bytes,
        down_bytes,
    })
}

fn open(settings: &TlsSettings, folder: &Path) -> ServerTls {
    ServerTls::open(settings, folder).unwrap()
}

#[test]
fn both_versions_are_spoken_with_the_own_authority_under_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let tls = open(&own(&["waypost.example", "192.0.2.7"]), folder.path());
    let authority = tls.authority_pem().unwrap();
    for version in VERSIONS {
        let client = client(&authority, version, None);
        for name in ["waypost.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"] {
            let met = meet(&tls.mqtt(), &client, name).unwrap();
            assert_eq!(met.version, version.version, "{name}");
            assert_eq!((met.alpn, met.known), (None, None), "{name}");
        }
        meet(&tls.mqtt(), &client, "other.example").unwrap_err();
    }
}

#[test]
fn https_speaks_its_protocol_and_asks_nobody_for_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let issues = Issues::new("fleet");
    let path = folder.path().join("fleet.pem");
    fs::write(&path, &issues.pem).unwrap();
    let tls = open(
        &TlsSettings {
            client_authority: Some(path),
            ..own(&[])
        },
        folder.path(),
    );
    let shows = issues.device("7c");
    let mut browser = client(&tls.authority_pem().unwrap(), VERSIONS[0], Some(&shows));
    Arc::get_mut(&mut browser).unwrap().alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let met = meet(&tls.https(), &browser, "localhost").unwrap();
    assert_eq!((met.alpn.unwrap(), met.known), (b"http/1.1".to_vec(), None));
}

#[test]
fn the_authority_stays_and_private_keys_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&own(&[]), folder.path());
    let second = open(&own(&["waypost.example"]), folder.path());
    assert_eq!(first.authority_pem(), second.authority_pem());
    // It was signed anew for the further name, and not a third time.
    let shown = |tls: &ServerTls| tls.shared.certificate.certificate().der().to_vec();
    assert_ne!(shown(&first), shown(&second));
    assert_eq!(
        shown(&second),
        shown(&open(&own(&["waypost.example"]), folder.path()))
    );
    for file in fs::read_dir(folder.path().join(FOLDER)).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
}

#[test]
fn an_authority_without_its_key_is_an_error_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(&own(&[]), folder.path()).authority_pem();
    let (path, key_path) = (
        folder.path().join("tls/authority.pem"),
        folder.path().join("tls/authority.key"),
    );
    let key = fs::read(&key_path).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    for broken in [None, Some(other.as_bytes()), Some(&key[..100])] {
        match broken {
            Some(broken) => fs::write(&key_path, broken).unwrap(),
            None => fs::remove_file(&key_path).unwrap(),
        }
        let error = ServerTls::open(&own(&[]), folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("authority.key"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).ok(), authority);
    }
    fs::write(&key_path, key).unwrap();
    assert_eq!(open(&own(&[]), folder.path()).authority_pem(), authority);
}

#[test]
fn the_own_certificate_is_renewed_before_it_ends_and_phones_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let start = OffsetDateTime::now_utc();
    let names = all_names(&BTreeSet::new());
    let authority = Authority::open(folder.path(), "host", start).unwrap();
    assert!(authority.ends_at() - start > time::Duration::days(3_649));
    let first = authority.server_certificate(&names, start).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(first.der()).unwrap();
    let valid = parsed.validity().not_after.to_datetime() - parsed.validity().not_before.to_datetime();
    assert!(valid <= time::Duration::days(398), "{valid}");
    // A device's clock may be two days behind.
    assert!(parsed.validity().not_before.to_datetime() <= start - time::Duration::days(2));
    let issued_at = |days| {
        let certificate = authority
            .server_certificate(&names, start + time::Duration::days(days))
            .unwrap();
        certificate.der().to_vec()
    };
    assert_eq!(issued_at(364), first.der());
    let second = issued_at(366);
    assert_ne!(second, first.der());
    assert_eq!(issued_at(366 + 360), second);
    // The last one ends with the authority, and is not made again and again.
    let last = issued_at(3_640);
    assert_eq!(issued_at(3_645), last);
}

#[test]
fn a_damaged_own_certificate_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(&own(&[]), folder.path()).authority_pem().unwrap();
    let path = folder.path().join("tls/server.pem");
    let whole = fs::read(&path).unwrap();
    let other = Issues::new("other").server("localhost");
    for broken in [
        &b""[..],
        &whole[..whole.len() / 2],
        format!("{}{}", other.0, other.1).as_bytes(),
    ] {
        fs::write(&path, broken).unwrap();
        let tls = open(&own(&[]), folder.path());
        meet(&tls.mqtt(), &client(&authority, VERSIONS[0], None), "localhost").unwrap();
    }
}

#[test]
fn certificates_replaced_on_disk_are_served_without_a_restart_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let issues = Issues::new("office");
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let first = issues.server("waypost.example");
    fs::write(&certificate, &first.0).unwrap();
    fs::write(&key, &first.1).unwrap();
    let settings = TlsSettings {
        source: CertificateSource::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        ..own(&[])
    };
    let tls = open(&settings, folder.path());
    assert_eq!(tls.authority_pem(), None);
    assert!(!folder.path().join("tls/authority.pem").exists());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let shown = || {
        tls.look();
        [tls.mqtt(), tls.https()].map(|config| {
            meet(
                &config,
                &client(&issues.pem, VERSIONS[0], None),
                "waypost.example",
            )
            .unwrap()
            .shown
        })
    };
    let served = |pem: &str| [der(pem), der(pem)];
    assert_eq!(shown(), served(&first.0));
    let second = issues.server("waypost.example");
    // One file after the other, each of them in two pieces.
    for (path, text) in [
        (&certificate, &second.0[..200]),
        (&certificate, second.0.as_str()),
        (&key, &second.1[..100]),
        (&key, ""),
    ] {
        fs::write(path, text).unwrap();
        assert_eq!(shown(), served(&first.0), "{text}");
    }
    fs::remove_file(&key).unwrap();
    assert_eq!(shown(), served(&first.0));
    fs::write(&key, &second.1).unwrap();
    assert_eq!(shown(), served(&second.0));
    // A chain is cut in its second certificate.
    fs::write(&certificate, format!("{}{}", first.0, &issues.pem[..100])).unwrap();
    fs::write(&key, &first.1).unwrap();
    assert_eq!(shown(), served(&second.0));
    fs::write(&certificate, format!("{}{}", first.0, issues.pem)).unwrap();
    assert_eq!(shown(), served(&first.0));
    // What is broken at the start is an error at once.
    fs::write(&key, &second.1).unwrap();
    let error = format!("{:#}", ServerTls::open(&settings, folder.path()).unwrap_err());
    assert!(
        error.contains("not the one of the certificate") && error.contains("k.pem"),
        "{error}"
    );
}

#[test]
fn a_session_resumed_after_a_restart_costs_no_full_handshake() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let tls = open(&own(&[]), folder.path());
        let device = client(&tls.authority_pem().unwrap(), version, None);
        let first = meet(&tls.mqtt(), &device, "localhost").unwrap();
        drop(tls);
        let restarted = open(&own(&[]), folder.path());
        let again = meet(&restarted.mqtt(), &device, "localhost").unwrap();
        assert_eq!(
            (first.kind, again.kind),
            (HandshakeKind::Full, HandshakeKind::Resumed),
            "{:?}",
            version.version
        );
    }
}

/// Signatures differ by a few bytes from run to run.
#[test]
fn sizes_of_handshakes_stay_within_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let tls = open(&own(&[]), folder.path());
    let authority = tls.authority_pem().unwrap();
    println!("| handshake | up | down |");
    for (version, name, limits) in [
        (&rustls::version::TLS13, "TLS 1.3", [(320, 950), (500, 420)]),
        (&rustls::version::TLS12, "TLS 1.2", [(260, 830), (360, 290)]),
    ] {
        let client = client(&authority, version, None);
        for (kind, (up_max, down_max)) in ["in full", "resumed"].into_iter().zip(limits) {
            let met = meet(&tls.mqtt(), &client, "localhost").unwrap();
            assert_eq!(met.kind == HandshakeKind::Resumed, kind == "resumed", "{name}");
            println!("| {name}, {kind} | {} | {} |", met.up_bytes, met.down_bytes);
            assert!(
                met.up_bytes <= up_max && met.down_bytes <= down_max,
                "{name}, {kind}: {met:?}"
            );
        }
    }
}

#[test]
fn who_resumes_is_who_shook_hands_and_another_authority_ends_it() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let (fleet, other) = (Issues::new("fleet"), Issues::new("other"));
        let path = folder.path().join("fleet.pem");
        fs::write(&path, &fleet.pem).unwrap();
        let settings = TlsSettings {
            client_authority: Some(path.clone()),
            ..own(&[])
        };
        let tls = open(&settings, folder.path());
        let authority = tls.authority_pem().unwrap();
        let shows = fleet.device("7c");
        let device = client(&authority, version, Some(&shows));
        let der = CertificateDer::from_pem_slice(shows.0.as_bytes())
            .unwrap()
            .to_vec();
        let first = meet(&tls.mqtt(), &device, "localhost").unwrap();
        assert_eq!(first.known.as_ref(), Some(&der));
        let restarted = open(&settings, folder.path());
        let again = meet(&restarted.mqtt(), &device, "localhost").unwrap();
        assert_eq!((again.kind, again.known), (HandshakeKind::Resumed, Some(der)));
        // Who shows none is let through, and is nobody.
        let nobody = client(&authority, version, None);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let met = meet(&restarted.mqtt(), &nobody, "localhost").unwrap();
            assert_eq!((met.kind, met.known), (kind, None));
        }
        // One of another authority is turned away, and so is one that is no client's.
        for shows in [other.device("7c"), fleet.server("7c.example")] {
            let stranger = client(&authority, version, Some(&shows));
            meet(&restarted.mqtt(), &stranger, "localhost").unwrap_err();
        }
        // The authority is replaced: what it vouched for counts no more, resumed or not.
        fs::write(&path, &other.pem[..100]).unwrap();
        restarted.look();
        let met = meet(&restarted.mqtt(), &device, "localhost").unwrap();
        assert_eq!(met.kind, HandshakeKind::Resumed);
        fs::write(&path, &other.pem).unwrap();
        restarted.look();
        meet(&restarted.mqtt(), &device, "localhost").unwrap_err();
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    for (name, is) in [
        ("waypost.example", true),
        ("*.waypost.example", true),
        ("truck_7", true),
        ("192.0.2.7", true),
        ("2001:db8::1", true),
        ("", false),
        ("a..b", false),
        ("a b", false),
        ("a.*.b", false),
        ("https://a", false),
        ("a:8883", false),
    ] {
        assert_eq!(is_host(name), is, "{name}");
    }
}
