//! Commands that speak HTTP to a running server: which one, with which token, and what its refusals mean.

use crate::config::{Config, File, Flags};
use crate::data_folder::DataFolder;
use anyhow::{Context, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The environment's `--server`.
const SERVER_VARIABLE: &str = "WAYPOST_SERVER";
/// The environment's `--token`.
const TOKEN_VARIABLE: &str = "WAYPOST_TOKEN";
/// How long a server may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Which server, and as whom. Flags are stronger than WAYPOST_SERVER and WAYPOST_TOKEN; without any of them it is the
/// server of the data folder on this machine.
#[derive(clap::Args)]
pub(crate) struct ServerArguments {
    /// The server, such as http://127.0.0.1:8080 [env: WAYPOST_SERVER]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    server: Option<String>,
    /// A token of an administrator [env: WAYPOST_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
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
                ServerClient::new(&server, token, None)
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
        )
    }

    fn new(server: &str, token: String, data: Option<&Path>) -> anyhow::Result<Self> {
        let base = server.trim_end_matches('/').to_owned();
        if base.starts_with("https://") {
            bail!("{base}: this program does not speak TLS yet; name the server's http:// address");
        }
        if !base.starts_with("http://") || base.len() == "http://".len() {
            bail!("{server:?} is not the address of a server, such as http://127.0.0.1:8080");
        }
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
        if error.is_connect() {
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
        let client = ServerClient::new("http://127.0.0.1:9/", "hush".to_owned(), None).unwrap();
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
        for server in ["https://a", "127.0.0.1:8080", "http://", "ftp://a"] {
            assert!(
                ServerClient::new(server, String::new(), None).is_err(),
                "{server}"
            );
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
