//! Commands that speak HTTP to a running server: which one, with which token, and what its refusals mean.

use crate::config::{Config, File, Flags};
use crate::data_folder::DataFolder;
use anyhow::{Context, anyhow, bail};
use reqwest::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The environment's `--server`.
const SERVER_VARIABLE: &str = "WAYPOST_SERVER";
/// The environment's `--token`.
const TOKEN_VARIABLE: &str = "WAYPOST_TOKEN";
/// The environment's `--ca`.
const CA_VARIABLE: &str = "WAYPOST_CA";
/// How long a server may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long bytes may come, as long as they come.
const DOWNLOAD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Which server, and as whom. Flags are stronger than WAYPOST_SERVER, WAYPOST_TOKEN and WAYPOST_CA; without any of them it is
/// the server of the data folder on this machine.
#[derive(clap::Args)]
pub(crate) struct ServerArguments {
    /// The server, such as https://waypost.example:8443 or http://127.0.0.1:8080 [env: WAYPOST_SERVER]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    server: Option<String>,
    /// A token of an administrator [env: WAYPOST_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The authority in PEM that the server's certificate is from, as its page /ca offers it [default: those of this machine]
    /// [env: WAYPOST_CA]
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    ca: Option<PathBuf>,
    /// The data folder of a server on this machine, which holds its address and a token [default: ./waypost-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A server that is asked for things.
pub(crate) struct ServerClient {
    base: String,
    token: String,
    /// What to say where nobody answers.
    silence: String,
    http: reqwest::Client,
}

/// A part of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next: Option<String>,
}

/// What a server says about a request that it refuses.
#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldProblem>,
}

#[derive(Deserialize)]
struct FieldProblem {
    pointer: String,
    detail: String,
}

impl ServerArguments {
    /// The data folder that is meant; `None` for a server elsewhere.
    pub(crate) fn folder(&self) -> anyhow::Result<Option<PathBuf>> {
        let elsewhere = self.server.is_some()
            || (self.data.is_none() && std::env::var(SERVER_VARIABLE).is_ok_and(|server| !server.is_empty()));
        Ok(match &self.data {
            _ if elsewhere => None,
            Some(data) => Some(data.clone()),
            None => Some(Config::load(File::Usual, &Flags::default())?.server.data),
        })
    }

    /// The server that is meant.
    pub(crate) fn connect(self) -> anyhow::Result<ServerClient> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let server = match self.server {
            Some(server) => Some(server),
            None if self.data.is_some() => None,
            None => variable(SERVER_VARIABLE),
        };
        match server {
            Some(server) => {
                // Never the token of a data folder: who knows whose server this is.
                let token = self.token.or_else(|| variable(TOKEN_VARIABLE)).with_context(|| {
                    format!("which token? Give one with --token or {TOKEN_VARIABLE}; the server keeps one in `admin.token` in its data folder")
                })?;
                let authority = self.ca.or_else(|| variable(CA_VARIABLE).map(PathBuf::from));
                ServerClient::new(&server, token, None, authority.as_deref())
            }
            None => {
                let data = match self.data {
                    Some(data) => data,
                    // Where `serve` would keep it, started here.
                    None => Config::load(File::Usual, &Flags::default())?.server.data,
                };
                ServerClient::of_folder(&data, self.token)
            }
        }
    }
}

impl ServerClient {
    /// The server that runs on a data folder; with its own token where no other is given.
    pub(crate) fn of_folder(data: &Path, token: Option<String>) -> anyhow::Result<Self> {
        let folder = DataFolder::at(data);
        let server = folder.running_server()?;
        let token = match token {
            Some(token) => token,
            None => folder.token()?.expose().to_owned(),
        };
        Self::new(
            &format!("http://{}", reachable(server.addresses.http)),
            token,
            Some(data),
            None,
        )
    }

    fn new(
        server: &str,
        token: String,
        data: Option<&Path>,
        authority: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let base = server.trim_end_matches('/').to_owned();
        let is_address = |scheme| base.strip_prefix(scheme).is_some_and(|host| !host.is_empty());
        let roots = if is_address("https://") {
            roots(authority)?
        } else if is_address("http://") {
            RootCertStore::empty()
        } else {
            bail!(
                "{server:?} is not the address of a server, such as https://waypost.example:8443 or http://127.0.0.1:8080"
            );
        };
        let silence = match data {
            Some(data) => format!(
                "no server answers at {base}, which stands in {0}/server.json; it may have been killed. Start it with \
                 `waypost serve --data {0}`",
                data.display()
            ),
            None => format!("no server answers at {base}; is `waypost serve` running there?"),
        };
        let http = reqwest::Client::builder()
            .timeout(ANSWER_MAX)
            // The server stands on the premises; a proxy would see its token.
            .no_proxy()
            // Nor is anybody to send it elsewhere, least of all in the clear.
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(trusting(roots)?)
            .user_agent(concat!("waypost/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("HTTP cannot be prepared")?;
        Ok(Self {
            base,
            token,
            silence,
            http,
        })
    }

    /// A GET of `/api/v1` and `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, None)
            .await?
            .context("the server sent no content")
    }

    /// A GET whose answer is bytes, which `take` gets as they come, however long that takes in all.
    pub(crate) async fn download(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = self
            .http
            .get(format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.token)
            .timeout(DOWNLOAD_MAX);
        let late = || anyhow!("the server at {} fell silent", self.base);
        let sent = tokio::time::timeout(ANSWER_MAX, request.send()).await;
        let mut response = sent
            .map_err(|_| late())?
            .map_err(|error| self.unanswered(error))?;
        let status = response.status();
        if !status.is_success() {
            let content = response.bytes().await.map_err(|error| self.unanswered(error))?;
            return Err(self.refused(status, serde_json::from_slice(&content).unwrap_or_default()));
        }
        loop {
            let piece = tokio::time::timeout(ANSWER_MAX, response.chunk()).await;
            match piece
                .map_err(|_| late())?
                .map_err(|error| self.unanswered(error))?
            {
                Some(piece) => take(&piece)?,
                None => return Ok(()),
            }
        }
    }

    /// A POST; `None` for a body without content.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, path, body)
            .await?
            .context("the server sent no content")
    }

    /// Every item of a list, part by part.
    pub(crate) async fn each(
        &self,
        path: &str,
        mut take: impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut part = format!("{path}?limit=100");
        loop {
            let page: Page = self.get(&part).await?;
            page.items.into_iter().try_for_each(&mut take)?;
            let Some(next) = page.next else { return Ok(()) };
            part = format!("{path}?limit=100&cursor={next}");
        }
    }

    /// A DELETE.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.ask::<Value>(Method::DELETE, path, None).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Option<T>> {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let content = response.bytes().await.map_err(|error| self.unanswered(error))?;
        if status.is_success() {
            let value = serde_json::from_slice(&content)
                .with_context(|| format!("{} does not answer as a Waypost server does", self.base))?;
            return Ok(Some(value));
        }
        Err(self.refused(status, serde_json::from_slice(&content).unwrap_or_default()))
    }

    fn unanswered(&self, error: reqwest::Error) -> anyhow::Error {
        if let Some(error) = tls_error(&error) {
            anyhow!("{}: {}", self.base, in_words(error))
        } else if error.is_connect() {
            anyhow!("{}", self.silence)
        } else if error.is_timeout() {
            anyhow!(
                "the server at {} did not answer within {} seconds",
                self.base,
                ANSWER_MAX.as_secs()
            )
        } else {
            // Its text may hold the address, never the token.
            anyhow::Error::new(error).context(format!("the server at {} cannot be asked", self.base))
        }
    }

    fn refused(&self, status: StatusCode, problem: Problem) -> anyhow::Error {
        let said = if problem.detail.is_empty() {
            problem.title
        } else {
            problem.detail
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                anyhow!(
                    "the server at {} does not take this token; the right one stands in `admin.token` in its data folder",
                    self.base
                )
            }
            _ if !problem.errors.is_empty() => {
                let fields: Vec<String> = problem
                    .errors
                    .iter()
                    .map(|field| format!("{} {}", field.pointer, field.detail))
                    .collect();
                anyhow!("the server refuses it: {}", fields.join("; "))
            }
            _ if said.is_empty() => anyhow!("the server at {} answers {status}", self.base),
            _ => anyhow!("{said}"),
        }
    }
}

/// TLS that trusts these and nobody else.
fn trusting(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.context("TLS cannot be prepared")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The authorities in a file; those that this machine trusts where none is named.
fn roots(authority: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = authority else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        anyhow::ensure!(
            !roots.is_empty(),
            "this machine trusts no authority; give the one of the server with --ca, or install the package ca-certificates"
        );
        return Ok(roots);
    };
    let pem =
        std::fs::read(path).with_context(|| format!("the authority {} cannot be read", path.display()))?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("{} is no whole PEM: {error}", path.display()))?;
    roots.add_parsable_certificates(certificates);
    anyhow::ensure!(
        !roots.is_empty(),
        "there is no authority in {}; get it from the server's page /ca",
        path.display()
    );
    Ok(roots)
}

/// What TLS has against the server, where that is why a request failed.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // What is inside of an IO error is not its source.
        let inside = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        cause = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

fn in_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            format!(
                "the server's certificate is not from an authority that is trusted here; give the right one with --ca or \
                 {CA_VARIABLE}: the server offers it at /ca.pem, to be compared by its fingerprint"
            )
        }
        rustls::Error::InvalidCertificate(error) => {
            format!("the server's certificate cannot be used: {error}")
        }
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS at this address; check its port".to_owned()
        }
        error => format!("TLS with the server failed: {error}"),
    }
}

/// An address to connect to: one that listens everywhere is reached on this machine.
pub(crate) fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, problem: &str) -> String {
        let client = ServerClient::new("http://127.0.0.1:9/", "hush".to_owned(), None, None).unwrap();
        client
            .refused(status, serde_json::from_str(problem).unwrap_or_default())
            .to_string()
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (status, problem, part) in [
            (StatusCode::UNAUTHORIZED, "{}", "admin.token"),
            (
                StatusCode::NOT_FOUND,
                r#"{"title":"Not found","detail":"There is no such device."}"#,
                "There is no such",
            ),
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                r#"{"title":"t","errors":[{"pointer":"/name","detail":"1 to 100 characters"}]}"#,
                "/name 1 to 100",
            ),
            (StatusCode::BAD_GATEWAY, "<html>", "502"),
        ] {
            let said = refusal(status, problem);
            assert!(said.contains(part) && !said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_used_are_named() {
        let new = |server, authority| ServerClient::new(server, String::new(), None, authority);
        for server in ["127.0.0.1:8080", "http://", "https://", "ftp://a"] {
            assert!(new(server, None).is_err(), "{server}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        for (content, said) in [
            (None, "cannot be read"),
            (Some(""), "no authority in"),
            (Some("-----BEGIN CERTIFICATE-----\n"), "no whole PEM"),
        ] {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let error = new("https://a", Some(&file)).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_this_machine() {
        for (listens, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
