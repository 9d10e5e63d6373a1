//! A real server in a process of its own, and what tests ask of it.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

/// A port that nobody else has.
pub(crate) const ANY: &str = "127.0.0.1:0";

/// A server on a data folder that goes with it.
pub(crate) struct Server {
    folder: TempDir,
    process: Child,
    pub(crate) http: String,
    pub(crate) https: String,
    pub(crate) mqtt: String,
    pub(crate) mqtts: String,
    /// The first administrator.
    pub(crate) email: String,
    pub(crate) password: String,
    fault: Option<String>,
    client: reqwest::Client,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// With a deliberate fault, where there is one.
    pub(crate) fn start_with(fault: Option<&str>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), fault)
    }

    /// In a folder that may hold settings (`waypost.toml`) and a place for the data (`data`).
    pub(crate) fn start_in(folder: TempDir, fault: Option<&str>) -> Self {
        let fault = fault.map(str::to_owned);
        let (process, ready) = launch(folder.path(), [ANY; 4], fault.as_deref());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            http: text(&ready["ready"]["http"]),
            https: text(&ready["ready"]["https"]),
            mqtt: text(&ready["ready"]["mqtt"]),
            // Not with a broker elsewhere.
            mqtts: ready["ready"]["mqtts"].as_str().unwrap_or(ANY).to_owned(),
            email: text(&ready["sign_in"]["email"]),
            password: text(&ready["sign_in"]["password"]),
            folder,
            process,
            fault,
            client: http_client().timeout(Duration::from_secs(10)).build().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM: it is asked to end.
    pub(crate) fn ask_to_end(&self) {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until the server has ended by itself; gives its status and its log.
    pub(crate) fn ended(&mut self) -> (std::process::ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
        (status, log)
    }

    /// After a kill: again, on the same data and the same addresses.
    pub(crate) fn restart(&mut self) {
        let (process, _) = launch(
            self.folder.path(),
            [&self.http, &self.https, &self.mqtt, &self.mqtts],
            self.fault.as_deref(),
        );
        self.process = process;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.http)
    }

    /// A token of the first administrator.
    pub(crate) async fn sign_in(&self) -> String {
        let body = json!({ "email": self.email, "password": self.password });
        let answer = self
            .client
            .post(self.url("/session"))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn read(&self, token: &str, path: &str) -> Value {
        let answer = self
            .client
            .get(self.url(path))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> Value {
        let answer = self
            .client
            .post(self.url(path))
            .bearer_auth(token)
            .json(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    /// Adds a device by the command line; gives its id and its credentials file.
    pub(crate) fn add_device(&self, name: &str) -> (String, PathBuf) {
        let file = self.folder.path().join(format!("{name}.json"));
        let data = self.folder.path().join("data");
        run(&[
            "device",
            "add",
            name,
            "--out",
            file.to_str().unwrap(),
            "--data",
            data.to_str().unwrap(),
        ]);
        let credentials: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        (credentials["device"].as_str().unwrap().to_owned(), file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts `waypost serve` and waits for its ready line.
pub(crate) fn launch(
    folder: &Path,
    [http, https, mqtt, mqtts]: [&str; 4],
    fault: Option<&str>,
) -> (Child, Value) {
    let mut command = Command::new(WAYPOST);
    command
        .args(["serve", "--json", "--http", http, "--https", https])
        .args(["--mqtt", mqtt, "--mqtts", mqtts, "--data"])
        .arg(folder.join("data"));
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))
        .unwrap();
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    if let Some(fault) = fault {
        command.env("WAYPOST_FAULT", fault);
    }
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    let stdout = process.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
        let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        panic!("no ready line but {line:?}; the log says:\n{log}")
    });
    (process, ready)
}

/// HTTP as tests speak it: it trusts nobody over TLS, since to read whom this machine trusts takes longer than most tests.
pub(crate) fn http_client() -> reqwest::ClientBuilder {
    trusting(&[])
}

/// HTTP that trusts these authorities, in PEM.
pub(crate) fn trusting(authorities: &[&str]) -> reqwest::ClientBuilder {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let der = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        roots.add(der).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
}

/// Runs the binary; gives what it printed.
///
/// # Panics
/// When it fails.
pub(crate) fn run(arguments: &[&str]) -> String {
    let output = Command::new(WAYPOST).args(arguments).output().unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "waypost {arguments:?}: {said}{errors}");
    said.into_owned()
}
