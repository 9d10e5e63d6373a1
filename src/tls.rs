//! TLS of the server: one certificate for MQTT and HTTPS, replaced while it is served, and tickets that outlive a restart.
//!
//! The certificate comes from files, which are looked at every few seconds, or from an authority of the server's own, made at
//! the first start in the folder `tls/` of the data folder. Whatever fails once the server runs, what was served before is
//! served on, and the log and a metric say why.

mod authority;
mod certificate;
mod client_authority;
mod tickets;

use anyhow::Context;
use authority::Authority;
use certificate::{Certificate, Present};
use client_authority::ClientAuthority;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tickets::Tickets;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

/// Of the data folder.
const FOLDER: &str = "tls";
/// The protocol that HTTPS speaks; WebSocket needs it.
const HTTP_1_1: &[u8] = b"http/1.1";
/// How long before its end a certificate from files, or an authority, is warned about.
const WARNED_BEFORE: time::Duration = time::Duration::days(14);

/// What TLS is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) source: CertificateSource,
    /// PEM with the authorities of client certificates; `None`: nobody is asked for one.
    pub(crate) client_authority: Option<PathBuf>,
    /// How long a session can be resumed at least, and half of how long at most; at most seven days [RFC 8446 §4.6.1].
    pub(crate) ticket_lifetime: Duration,
    /// How often files are looked at.
    pub(crate) looked_at_every: Duration,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateSource {
    /// PEM files that somebody else keeps.
    Files { certificate: PathBuf, key: PathBuf },
    /// The server's own authority; for this machine, and for these host names and addresses.
    OwnAuthority { names: BTreeSet<String> },
}

/// TLS of a running server. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    looked_at_every: Duration,
    certificate: Arc<Present>,
    clients: Option<(PathBuf, Arc<ClientAuthority>)>,
    tickets: Arc<Tickets>,
    mqtt: Arc<ServerConfig>,
    https: Arc<ServerConfig>,
    seen: Mutex<Seen>,
}

enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Own(Box<Authority>, BTreeSet<String>),
}

/// What was looked at last, so that everything is taken or complained about once.
struct Seen {
    certificate: [u8; 32],
    client_authority: [u8; 32],
    complaints: BTreeSet<String>,
}

impl ServerTls {
    /// Reads what there is, and makes what there is not; no file is written where all comes from files but that of the tickets.
    pub(crate) fn open(settings: &TlsSettings, data_folder: &Path) -> anyhow::Result<Self> {
        let now = OffsetDateTime::now_utc();
        let folder = data_folder.join(FOLDER);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let (source, certificate, certificate_seen) = match &settings.source {
            CertificateSource::Files { certificate, key } => {
                let pair = Pair::read(certificate, key)?;
                let source = Source::Files {
                    certificate: certificate.clone(),
                    key: key.clone(),
                };
                (source, pair.certificate()?, pair.digest())
            }
            CertificateSource::OwnAuthority { names } => {
                let authority = Authority::open(&folder, &host_name(), now)?;
                let certificate = authority
                    .server_certificate(&all_names(names), now)
                    .context("a certificate for TLS cannot be made; check tls.names and mqtt.public")?;
                (
                    Source::Own(Box::new(authority), names.clone()),
                    certificate,
                    [0; 32],
                )
            }
        };
        let tickets = Tickets::open(&folder, settings.ticket_lifetime, unix_seconds(now))?;
        let (clients, client_authority_seen) = match &settings.client_authority {
            Some(path) => {
                let pem = fs::read(path).with_context(|| cannot_read(path))?;
                let authority = ClientAuthority::new(&pem)
                    .with_context(|| format!("tls.client_authority {}", path.display()))?;
                (Some((path.clone(), Arc::new(authority))), digest(&[&pem]))
            }
            None => (None, [0; 32]),
        };
        tickets.bind(client_authority_seen);
        let (certificate, tickets) = (Arc::new(Present::new(certificate)), Arc::new(tickets));
        let config = |clients: Option<&Arc<ClientAuthority>>| server_config(&certificate, &tickets, clients);
        let mqtt = config(clients.as_ref().map(|(_, clients)| clients))?;
        // A browser would ask its user for a certificate.
        let mut https = config(None)?;
        https.alpn_protocols = vec![HTTP_1_1.to_vec()];
        let tls = Self {
            shared: Arc::new(Shared {
                source,
                looked_at_every: settings.looked_at_every,
                certificate,
                clients,
                tickets,
                mqtt: Arc::new(mqtt),
                https: Arc::new(https),
                seen: Mutex::new(Seen {
                    certificate: certificate_seen,
                    client_authority: client_authority_seen,
                    complaints: BTreeSet::new(),
                }),
            }),
        };
        tls.look();
        Ok(tls)
    }

    /// For MQTT: client certificates are taken where an authority for them is set.
    pub(crate) fn mqtt(&self) -> Arc<ServerConfig> {
        self.shared.mqtt.clone()
    }

    /// For HTTP/1.1 and WebSocket.
    pub(crate) fn https(&self) -> Arc<ServerConfig> {
        self.shared.https.clone()
    }

    /// What a device installs to trust this server, in PEM; `None` where the certificate comes from files.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        match &self.shared.source {
            Source::Files { .. } => None,
            Source::Own(authority, _) => Some(authority.pem().to_owned()),
        }
    }

    /// Looks at files, ends and keys from time to time and at each SIGHUP; never ends by itself.
    ///
    /// # Errors
    /// At once, where SIGHUP cannot be listened to.
    pub(crate) fn keep_current(&self) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
        let mut asked = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
        let tls = self.clone();
        Ok(async move {
            let mut due = tokio::time::interval(tls.shared.looked_at_every);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = due.tick() => {}
                    _ = asked.recv() => tracing::info!("SIGHUP: looking at the files of TLS"),
                }
                let tls = tls.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || tls.look()).await {
                    tracing::error!(%error, "looking at the files of TLS broke off: {error}");
                }
            }
        })
    }

    /// Takes what is new on disk, and makes what is due.
    pub(crate) fn look(&self) {
        let now = OffsetDateTime::now_utc();
        let shared = &self.shared;
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complaints = BTreeSet::new();
        let mut complain = |what: &'static str, result: anyhow::Result<()>| {
            if let Err(error) = result {
                complaints.insert((what, format!("{error:#}")));
            }
        };
        complain("certificate", shared.look_at_certificate(&mut seen, now));
        complain("client_authority", shared.look_at_client_authority(&mut seen));
        complain("tickets", shared.tickets.rotate(unix_seconds(now)));
        let ends_at = shared.certificate.certificate().ends_at;
        if now >= ends_at - WARNED_BEFORE {
            let ended = format!(
                "the certificate of TLS ends on {}; replace its files",
                ends_at.date()
            );
            complain("certificate_end", Err(anyhow::anyhow!(ended)));
        }
        if let Source::Own(authority, _) = &shared.source
            && now >= authority.ends_at() - WARNED_BEFORE
        {
            let ended = "the authority of TLS ends soon; remove tls/authority.pem in the data folder and start again for a \
                         new one, which every device then has to be given";
            complain("authority_end", Err(anyhow::anyhow!(ended)));
        }
        for (what, complaint) in &complaints {
            // Each once, however often the same is found.
            if !seen.complaints.contains(complaint) {
                metrics::counter!("waypost_tls_refused_total", "what" => *what).increment(1);
                tracing::warn!(what, "{complaint}");
            }
        }
        seen.complaints = complaints.into_iter().map(|(_, complaint)| complaint).collect();
        metrics::gauge!("waypost_tls_certificate_end_timestamp_seconds").set(gauge_value(ends_at));
    }
}

impl Shared {
    fn look_at_certificate(&self, seen: &mut Seen, now: OffsetDateTime) -> anyhow::Result<()> {
        let present = self.certificate.certificate();
        let new = match &self.source {
            Source::Files { certificate, key } => {
                let pair = Pair::read(certificate, key).context(SERVED_ON)?;
                if pair.digest() == seen.certificate {
                    return Ok(());
                }
                let new = pair.certificate().context(SERVED_ON)?;
                seen.certificate = pair.digest();
                new
            }
            Source::Own(authority, names) => {
                let names = all_names(names);
                if !authority.is_due(&present, &names, now) {
                    return Ok(());
                }
                authority
                    .server_certificate(&names, now)
                    .context("the certificate of TLS cannot be renewed; the present one is served on")?
            }
        };
        tracing::info!(
            "serving another certificate from now on; it ends on {}",
            new.ends_at.date()
        );
        metrics::counter!("waypost_tls_reloads_total").increment(1);
        self.certificate.replace(new);
        Ok(())
    }

    fn look_at_client_authority(&self, seen: &mut Seen) -> anyhow::Result<()> {
        let Some((path, authority)) = &self.clients else {
            return Ok(());
        };
        let refused = || {
            format!(
                "the authority of client certificates in {} is not taken; the one before it counts on",
                path.display()
            )
        };
        let pem = fs::read(path).with_context(refused)?;
        let digest = digest(&[&pem]);
        if digest == seen.client_authority {
            return Ok(());
        }
        authority.replace(&pem).with_context(refused)?;
        self.tickets.bind(digest);
        seen.client_authority = digest;
        tracing::info!("another authority vouches for client certificates from now on");
        metrics::counter!("waypost_tls_reloads_total").increment(1);
        Ok(())
    }
}

const SERVED_ON: &str =
    "the files of tls.certificate and tls.key are not taken; the certificate before them is served on";

/// Two files, read at one time.
struct Pair {
    paths: (PathBuf, PathBuf),
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn read(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            paths: (certificate.to_owned(), key.to_owned()),
            chain: fs::read(certificate).with_context(|| cannot_read(certificate))?,
            key: fs::read(key).with_context(|| cannot_read(key))?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        digest(&[&self.chain, &self.key])
    }

    fn certificate(&self) -> anyhow::Result<Certificate> {
        Certificate::from_pem(&self.chain, &self.key)
            .with_context(|| format!("{} and {}", self.paths.0.display(), self.paths.1.display()))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

fn server_config(
    certificate: &Arc<Present>,
    tickets: &Arc<Tickets>,
    clients: Option<&Arc<ClientAuthority>>,
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be prepared")?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate.clone());
    config.ticketer = tickets.clone();
    // One is enough to come back with, and each costs its bytes on the air.
    config.send_tls13_tickets = 1;
    // A client without tickets shakes hands in full; sessions kept here would be gone with a restart anyway.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Those that were set, and those of this machine.
fn all_names(set: &BTreeSet<String>) -> BTreeSet<String> {
    let machine = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let host = Some(host_name()).filter(|host| is_host(host));
    set.iter().cloned().chain(machine).chain(host).collect()
}

/// The name of this machine, in small letters.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().to_ascii_lowercase()
}

/// A host name, also with `*.` before it, or an address.
pub(crate) fn is_host(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_letter);
    let name_behind_star = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name_behind_star.split('.').all(is_label))
}

fn cannot_read(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        // Where one part ends is part of what is seen.
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn unix_seconds(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp()).unwrap_or_default()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "seconds since 1970 are exact in a double for longer than anybody counts"
)]
fn gauge_value(at: OffsetDateTime) -> f64 {
    at.unix_timestamp() as f64
}

#[cfg(test)]
mod tests;
