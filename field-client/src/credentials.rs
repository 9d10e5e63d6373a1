//! Who a device is and where its server listens: the file that an administrator hands out.

use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use waypost_proto::DeviceId;

/// The largest credentials file that is read; a real one has a few kilobytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A device's credentials, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The device's id: its MQTT user name and client id.
    pub device: DeviceId,
    /// What people call it.
    pub name: String,
    /// Its MQTT password.
    pub secret: Secret,
    /// Where to connect, in the order in which to try; at least one.
    pub servers: Vec<ServerAddress>,
    /// The authority that has signed the server's certificate; `None`: one of those that this machine trusts.
    pub authority: Option<Authority>,
    /// Where they were read from, for what is said to people.
    pub file: Option<PathBuf>,
}

/// The authority of a server that has one of its own. No other counts where there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// At least one.
    certificates: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// From one or more certificates in PEM; `None` where one is damaged, or where there is none.
    pub fn from_pem(pem: &str) -> Option<Self> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .ok()?;
        let authority = Self { certificates };
        let usable = authority.roots().len();
        (usable > 0 && usable == authority.certificates.len()).then_some(authority)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates.iter().cloned());
        roots
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// A secret that no `Debug` output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret over.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("device", &self.device)
            .field("name", &self.name)
            .field("secret", &self.secret)
            .field("servers", &self.servers)
            .field("authority", &self.authority)
            .field("file", &self.file)
            .finish()
    }
}

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `mqtt://`: in the clear, for loopback and networks that are trusted. The secret goes to whoever answers there, a
    /// network that wants a sign-in included.
    Mqtt,
    /// `mqtts://`: over TLS.
    Mqtts,
    /// `ws://`: over WebSocket in the clear.
    Ws,
    /// `wss://`: over WebSocket and TLS, for networks that let nothing but HTTPS through.
    Wss,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::Mqtt, Self::Mqtts, Self::Ws, Self::Wss];

    fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Where the address does not say.
    fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// An address that this client can speak to: `mqtts://host[:port]`, `wss://host[:port]/path`, or the same without TLS as `mqtt://`
/// and `ws://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// What is spoken there.
    pub scheme: Scheme,
    /// A name or an IP address, without the brackets of IPv6. Over TLS the server's certificate has to be for it.
    pub host: String,
    /// Where the address does not say: 1883, or 8883 over TLS; over WebSocket 80 and 443.
    pub port: u16,
    /// Of a WebSocket, such as `/mqtt`; empty otherwise.
    pub path: String,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

/// Why a credentials file cannot be used; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("the credentials file {path} cannot be read: {source}")]
    Read {
        /// As it was given.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no credentials file.
    #[error("this is not a credentials file ({0}); get a new one with `waypost device add` or `rotate`")]
    Malformed(String),
    /// None of the addresses can be used by this client.
    #[error("no address in `mqtt` can be used: {0}; this client speaks mqtts://, wss://, mqtt:// and ws://")]
    NoUsableAddress(String),
}

/// The file as it stands on disk; unknown keys are for later versions.
#[derive(Deserialize)]
struct CredentialsFile {
    device: String,
    #[serde(default)]
    name: String,
    secret: String,
    mqtt: Vec<String>,
    #[serde(default)]
    ca: Option<String>,
}

impl Credentials {
    /// Reads a credentials file.
    ///
    /// # Errors
    /// [`CredentialsError`]; also where the file is larger than 256 KiB.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, CredentialsError> {
        let path = path.as_ref();
        let failed = |source| CredentialsError::Read {
            path: path.display().to_string(),
            source,
        };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > FILE_BYTES_MAX {
            return Err(CredentialsError::Malformed(format!("{size} bytes")));
        }
        let credentials = Self::parse(&std::fs::read_to_string(path).map_err(failed)?)?;
        Ok(Self {
            file: Some(path.to_owned()),
            ..credentials
        })
    }

    /// Reads the text of a credentials file. Addresses with schemes that this client does not speak are passed over where
    /// another is left.
    ///
    /// # Errors
    /// [`CredentialsError::Malformed`], [`CredentialsError::NoUsableAddress`].
    pub fn parse(json: &str) -> Result<Self, CredentialsError> {
        let file: CredentialsFile = serde_json::from_str(json)
            .map_err(|error| CredentialsError::Malformed(without_content(&error)))?;
        let device = file
            .device
            .parse()
            .map_err(|_| CredentialsError::Malformed("`device` is not a device id".to_owned()))?;
        if file.secret.is_empty() {
            return Err(CredentialsError::Malformed("`secret` is empty".to_owned()));
        }
        let authority = match file.ca.as_deref().map(Authority::from_pem) {
            None => None,
            Some(Some(authority)) => Some(authority),
            Some(None) => {
                return Err(CredentialsError::Malformed(
                    "`ca` is not the certificate of an authority in PEM".to_owned(),
                ));
            }
        };
        let mut servers = Vec::new();
        let mut skipped = Vec::new();
        for address in &file.mqtt {
            match ServerAddress::parse(address) {
                Ok(server) => servers.push(server),
                Err(why) => skipped.push(format!("{address} ({why})")),
            }
        }
        if servers.is_empty() {
            if skipped.is_empty() {
                skipped.push("the list is empty".to_owned());
            }
            return Err(CredentialsError::NoUsableAddress(skipped.join(", ")));
        }
        if !skipped.is_empty() {
            let passed_over = skipped.join(", ");
            tracing::info!(
                device.id = %device,
                "addresses of the credentials file are passed over: {passed_over}"
            );
        }
        Ok(Self {
            device,
            name: file.name,
            secret: Secret(file.secret),
            servers,
            authority,
            file: None,
        })
    }
}

/// Where the error is, without what stands there: that may be the secret.
fn without_content(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a key is missing or has the wrong type",
        _ => "not JSON",
    };
    format!("{what}, line {}, column {}", error.line(), error.column())
}

impl ServerAddress {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let known = Scheme::ALL.into_iter().find(|known| known.name() == scheme);
        let scheme = known.ok_or("this client does not speak that")?;
        let (rest, path) = match rest.split_once('/') {
            Some((rest, path)) => (rest, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        let is_path = if scheme.is_websocket() {
            path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        } else {
            path == "/"
        };
        let is_host = |byte: u8| byte.is_ascii_graphic() && !b"@?#".contains(&byte);
        if !rest.bytes().all(is_host) || !is_path {
            return Err("only a host, a port and the path of a WebSocket may follow the scheme");
        }
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed
                .split_once(']')
                .ok_or("the bracket of the address is open")?;
            (host, after.strip_prefix(':'))
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            None => scheme.default_port(),
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or("the port is not a number from 1 to 65535")?,
        };
        if host.is_empty() {
            return Err("the host is missing");
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path: if scheme.is_websocket() {
                path
            } else {
                String::new()
            },
        })
    }

    /// Host and port, as they stand in an address.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mqtt: &str) -> Result<Credentials, CredentialsError> {
        Credentials::parse(&format!(
            r#"{{"device":"7c","name":"truck-17","secret":"s3","mqtt":{mqtt},"ca":null}}"#
        ))
    }

    #[test]
    fn addresses_are_taken_in_order_and_what_is_not_spoken_is_passed_over() {
        let credentials = with(
            r#"["mqtts://a:8884","mqtts://a","mqtt://b:1999","mqtt://c","mqtt://[::1]:7","coap://x","wss://d/mqtt","ws://e:80"]"#,
        )
        .unwrap();
        let shown: Vec<String> = credentials.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "mqtts://a:8884",
                "mqtts://a:8883",
                "mqtt://b:1999",
                "mqtt://c:1883",
                "mqtt://[::1]:7",
                "wss://d:443/mqtt",
                "ws://e:80/"
            ]
        );
    }

    #[test]
    fn an_authority_that_is_damaged_is_not_passed_over() {
        let file = |ca: &str| {
            Credentials::parse(&format!(
                r#"{{"device":"7c","secret":"s3","mqtt":["mqtts://a"],"ca":{ca}}}"#
            ))
        };
        assert_eq!(file("null").unwrap().authority, None);
        for damaged in [
            r#""""#,
            r#""-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----""#,
        ] {
            assert!(
                matches!(file(damaged), Err(CredentialsError::Malformed(_))),
                "{damaged}"
            );
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        let authority = file(&serde_json::to_string(&pem).unwrap()).unwrap().authority;
        assert_eq!(authority.unwrap().certificates.len(), 1);
    }

    #[test]
    fn a_file_without_a_usable_address_says_so() {
        for list in [
            r#"["mqtts://a/mqtt","wss://a b/mqtt","wss://a/m qtt","wss://u@a/","quic://a"]"#,
            "[]",
            r#"["mqtt://"]"#,
            r#"["mqtt://a:0"]"#,
            r#"["a:1"]"#,
        ] {
            assert!(
                matches!(with(list), Err(CredentialsError::NoUsableAddress(_))),
                "{list}"
            );
        }
    }

    #[test]
    fn neither_errors_nor_debug_output_show_the_secret() {
        let credentials = with(r#"["mqtt://a"]"#).unwrap();
        assert!(!format!("{credentials:?}").contains("s3"));
        let error = Credentials::parse(r#"{"device":"7c","secret":["hush"],"mqtt":[]}"#).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
