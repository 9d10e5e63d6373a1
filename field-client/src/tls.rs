//! TLS towards the server: whom the device trusts, what it remembers of a session, and in which words it says that
//! something is wrong.
//!
//! One [`Tls`] lives as long as its client: the tickets in it are what makes coming back cheap. TLS 1.3, or 1.2 where a
//! server has no more.

mod corked;

use crate::captive::{self, Unreached};
use crate::credentials::{Authority, ServerAddress};
use corked::Corked;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

/// Servers whose last ticket is remembered; a credentials file names a few.
const REMEMBERED_SERVERS_MAX: usize = 8;
const SECONDS_A_DAY: u64 = 86_400;

/// What the handshakes of one client share.
pub(crate) struct Tls {
    /// The only one that counts, where there is one; else those of this machine.
    authority: Option<Authority>,
    /// The credentials file, for what is said to people.
    file: Option<PathBuf>,
    /// Made when it is first needed: the authorities of a machine are some two hundred files.
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(authority: Option<Authority>, file: Option<PathBuf>) -> Self {
        Self {
            authority,
            file,
            config: OnceCell::new(),
        }
    }

    /// Shakes hands. The last of it leaves with what is written first, so that it is one packet; whoever writes nothing has to
    /// flush.
    ///
    /// # Errors
    /// What is wrong and what helps, as a sentence.
    pub(crate) async fn connect<S>(
        &self,
        stream: S,
        server: &ServerAddress,
    ) -> Result<TlsStream<Corked<S>>, Unreached>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can be for", server.host))?;
        let config = self.config.get_or_try_init(|| self.make_config()).await?;
        let shaking = TlsConnector::from(config.clone()).connect(name, Corked::new(stream));
        match shaking.into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.uncork();
                Ok(stream)
            }
            Err((error, mut stream)) => {
                stream.uncork();
                // The alert says to the server's log why; nothing depends on it.
                let _ = stream.flush().await;
                Err(match &error {
                    _ if captive::is_http(stream.heard()) => {
                        Unreached::Captive(captive::answered_as_a_web_page())
                    }
                    error if self.is_of_a_stranger(error) => {
                        Unreached::Captive(captive::advice(&self.why(error)))
                    }
                    error => Unreached::Broken(self.why(error)),
                })
            }
        }
    }

    async fn make_config(&self) -> Result<Arc<ClientConfig>, String> {
        let roots = match &self.authority {
            Some(authority) => authority.roots(),
            None => tokio::task::spawn_blocking(roots_of_this_machine)
                .await
                .map_err(|error| format!("the authorities of this machine cannot be read: {error}"))??,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be prepared: {error}"))?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_SERVERS_MAX);
        Ok(Arc::new(config))
    }

    /// Whether the certificate is one of a network that answers in the server's place. An authority of the server's own signs
    /// for nobody else, so that with it a certificate for another name is the server's; those of the machine sign for anybody.
    fn is_of_a_stranger(&self, error: &io::Error) -> bool {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => true,
            Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                self.authority.is_none()
            }
            _ => false,
        }
    }

    /// What a failed handshake means, and what helps.
    fn why(&self, error: &io::Error) -> String {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(error)) => self.why_not(error),
            Some(Error::InvalidMessage(_)) => {
                "the server does not speak TLS at this address; check its port".to_owned()
            }
            Some(Error::AlertReceived(alert)) => format!("the server ended the TLS handshake: {alert:?}"),
            Some(error) => format!("the TLS handshake failed: {error}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the server closed the connection during the TLS handshake".to_owned()
            }
            None => format!("during the TLS handshake: {error}"),
        }
    }

    fn why_not(&self, error: &CertificateError) -> String {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => self.untrusted(),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "the server's certificate ended {}; it has to be renewed on the server, unless the clock of this device is \
                 wrong",
                ago(*time, *not_after)
            ),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the server's certificate begins {}; the clock of this device, or that of the server, is wrong",
                ahead(*time, *not_before)
            ),
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "the server's certificate is for {}, not for {}; name that in the server's setting tls.names, or get another \
                 address with `waypost device rotate`",
                in_words(presented),
                expected.to_str()
            ),
            error => format!("the server's certificate cannot be used: {error}"),
        }
    }

    fn untrusted(&self) -> String {
        let file = self.file.as_ref().and_then(|file| file.file_name());
        let file = file.map_or("the credentials file".into(), |name| name.to_string_lossy());
        match &self.authority {
            Some(_) => format!(
                "the server's certificate is not signed by the authority in {file}; fetch the file again with `waypost device \
                 rotate`"
            ),
            None => format!(
                "the server's certificate is not signed by an authority that this machine trusts, and {file} names none; fetch \
                 the file again with `waypost device rotate`, or install the authority on this machine"
            ),
        }
    }
}

/// A server whose certificate comes from files may have it from an authority of its company: whoever looks after this machine
/// has installed that here, so that a list of our own would not do.
fn roots_of_this_machine() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // What cannot be read among them can sign nothing here.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or(String::new(), |error| format!(" ({error})"));
        return Err(format!(
            "this machine trusts no authority{why}, and the credentials file names none; install the package \
             ca-certificates, or fetch the file again with `waypost device rotate`"
        ));
    }
    Ok(roots)
}

fn ago(now: UnixTime, then: UnixTime) -> String {
    match now.as_secs().saturating_sub(then.as_secs()) / SECONDS_A_DAY {
        0 => "less than a day ago".to_owned(),
        1 => "a day ago".to_owned(),
        days => format!("{days} days ago"),
    }
}

fn ahead(now: UnixTime, then: UnixTime) -> String {
    match then.as_secs().saturating_sub(now.as_secs()) / SECONDS_A_DAY {
        0 => "in less than a day".to_owned(),
        1 => "in a day".to_owned(),
        days => format!("in {days} days"),
    }
}

/// The names of a certificate, which rustls spells as in `DnsName("waypost.example")`.
fn in_words(presented: &[String]) -> String {
    let names: Vec<&str> = presented
        .iter()
        .map(|name| name.split('"').nth(1).unwrap_or(name))
        .collect();
    match names[..] {
        [] => "no name at all".to_owned(),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
