//! mosquitto as the broker elsewhere, with the rights that `docs/external-broker.md` gives.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// What the document tells operators to write; the tests run on nothing else.
const DOCUMENT: &str = include_str!("../docs/external-broker.md");
/// The server's user.
pub(crate) const USER: &str = "waypost";
/// One who may read everything and write nothing; the only right that the document does not give.
pub(crate) const MONITOR: &str = "monitor";
/// Of both.
pub(crate) const PASSWORD: &str = "a:server's/password";

/// A mosquitto on a port and in a folder of its own, running or not.
pub(crate) struct Mosquitto {
    folder: TempDir,
    /// Where it listens while it runs.
    pub(crate) address: String,
    process: Option<Child>,
}

impl Mosquitto {
    /// Everything but the process, so that devices can be added to it before it runs.
    pub(crate) fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free now, and for as long as nobody else takes it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let settings = block("conf")
            .replace(
                "listener 1883",
                &format!("listener {} {}", address.port(), address.ip()),
            )
            .replace("/etc/mosquitto", folder.path().to_str().unwrap());
        // Where it starts as root it would become a user who cannot read the folder.
        let settings = format!(
            "user root\nlog_dest stderr\nlog_type notice\nlog_type information\nlog_type warning\nlog_type error\n{settings}"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), settings).unwrap();
        let rights = format!("{}\nuser {MONITOR}\ntopic read #\n", block("acl"));
        std::fs::write(folder.path().join("acl"), rights).unwrap();
        std::fs::write(folder.path().join("passwords"), "").unwrap();
        let mosquitto = Self {
            folder,
            address: address.to_string(),
            process: None,
        };
        let passwords = mosquitto.folder.path().join("passwords");
        for user in [USER, MONITOR] {
            mosquitto_passwd(&["-b", passwords.to_str().unwrap(), user, PASSWORD]);
        }
        mosquitto
    }

    /// The setting `mqtt.broker` for it.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://{USER}:a%3Aserver%27s%2Fpassword@{}", self.address)
    }

    /// A folder for a server that meets its devices here.
    pub(crate) fn server_folder(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!("[mqtt]\nbroker = '{}'\n", self.url());
        std::fs::write(folder.path().join("waypost.toml"), settings).unwrap();
        folder
    }

    /// Lets a device in as the document says, from its credentials file; counts from the next start.
    pub(crate) fn add_device(&self, credentials: &Path) {
        let credentials: serde_json::Value =
            serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
        let text = |key: &str| credentials[key].as_str().unwrap().to_owned();
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{}:{}\n", text("device"), text("secret"))).unwrap();
        mosquitto_passwd(&["-U", new.to_str().unwrap()]);
        let hashed = std::fs::read_to_string(&new).unwrap();
        assert!(!hashed.contains(&text("secret")), "{hashed}");
        let mut passwords = std::fs::File::options()
            .append(true)
            .open(self.folder.path().join("passwords"))
            .unwrap();
        passwords.write_all(hashed.as_bytes()).unwrap();
    }

    /// Starts it, with nothing in its memory; returns once it listens.
    pub(crate) fn start(&mut self) {
        let mut process = Command::new(binary())
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mosquitto is there; scripts/need mosquitto");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        self.process = Some(process);
        let mut said = String::new();
        while !said.ends_with("running\n") {
            let read = log.read_line(&mut said).unwrap();
            assert!(read > 0, "mosquitto ended: {said}");
        }
        // It would stop when nobody reads its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    }

    /// SIGKILL: what it held is lost.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be dead already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn mosquitto_passwd(arguments: &[&str]) {
    let done = Command::new("mosquitto_passwd")
        .args(arguments)
        .output()
        .expect("mosquitto_passwd is there; scripts/need mosquitto");
    assert!(done.status.success(), "{done:?}");
}

/// Debian puts it where only root looks for programs.
fn binary() -> PathBuf {
    let debian = Path::new("/usr/sbin/mosquitto");
    if debian.exists() {
        debian.to_owned()
    } else {
        PathBuf::from("mosquitto")
    }
}

/// A fenced block of the document.
fn block(language: &str) -> String {
    let (_, rest) = DOCUMENT.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}
