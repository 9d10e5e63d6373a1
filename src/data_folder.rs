//! The data folder of a server: the store, `tls/`, `admin.token`, `lock`, and `server.json` while a server runs on it.
//!
//! The lock is what keeps a second server away; `server.json` says who the first one is.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

mod put_back;
mod stores;

pub(crate) use stores::engine_name;

const TOKEN_FILE: &str = "admin.token";
const SERVER_FILE: &str = "server.json";
/// The fewest characters of a token that is taken: 128 bits in hexadecimal digits.
const TOKEN_CHARS_MIN: usize = 32;

/// A data folder that exists.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

/// Where a server is met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    /// Where the same is served over TLS; `None` where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) https: Option<SocketAddr>,
    /// Where it listens itself, or the host and port of the broker elsewhere; for people to read.
    pub(crate) mqtt: String,
    /// Where the embedded broker speaks TLS; `None` where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mqtts: Option<SocketAddr>,
}

impl fmt::Display for Addresses {
    /// As in the ready line; what is off is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            http,
            https,
            mqtt,
            mqtts,
        } = self;
        write!(f, "http={http}")?;
        if let Some(https) = https {
            write!(f, " https={https}")?;
        }
        write!(f, " mqtt={mqtt}")?;
        match mqtts {
            Some(mqtts) => write!(f, " mqtts={mqtts}"),
            None => Ok(()),
        }
    }
}

/// What `server.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunningServer {
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) addresses: Addresses,
}

/// The token of the server's own administrator; no `Debug` shows it.
pub(crate) struct AdminToken(String);

impl AdminToken {
    /// For the header of a request.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// What the server compares by.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl DataFolder {
    /// The folder at `path`; made for its owner alone where there is none.
    pub(crate) fn make(path: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("the data folder {} cannot be made", path.display()))?;
        Ok(Self::at(path))
    }

    /// The folder of a server that may run on this machine.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The token in `admin.token`; drawn where there is none.
    pub(crate) fn make_token(&self) -> anyhow::Result<AdminToken> {
        let path = self.path.join(TOKEN_FILE);
        if !path.exists() {
            write_private(&path, format!("{}\n", crate::secret::token()?).as_bytes())?;
        }
        self.token()
    }

    /// The token in `admin.token`.
    pub(crate) fn token(&self) -> anyhow::Result<AdminToken> {
        let path = self.path.join(TOKEN_FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "the administrator's token {} cannot be read; run as the user who runs the server",
                path.display()
            )
        })?;
        let token = text.trim();
        anyhow::ensure!(
            token.len() >= TOKEN_CHARS_MIN && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "{} holds no token of at least {TOKEN_CHARS_MIN} characters; remove it and start the server again",
            path.display()
        );
        Ok(AdminToken(token.to_owned()))
    }

    /// Says in `server.json` who runs here; for the one who holds the store.
    pub(crate) fn announce(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let server = RunningServer {
            pid: std::process::id(),
            addresses: addresses.clone(),
        };
        write_private(&self.path.join(SERVER_FILE), &serde_json::to_vec(&server)?)
    }

    /// Removes `server.json` again.
    pub(crate) fn withdraw(&self) {
        if let Err(error) = fs::remove_file(self.path.join(SERVER_FILE)) {
            tracing::warn!(%error, "server.json cannot be removed: {error}");
        }
    }

    /// Who runs here, or ran here when it was killed.
    pub(crate) fn running_server(&self) -> anyhow::Result<RunningServer> {
        let path = self.path.join(SERVER_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => anyhow::bail!(
                "no server runs on the data folder {0}; start one with `waypost serve --data {0}`, or name one with \
                 --server and --token",
                self.path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; start the server again", path.display()))
    }
}

/// Writes a file that its owner alone may read; whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    PrivateFile::begin(path)?.finish(content)
}

/// A file that its owner alone may read, begun under another name: whoever gets a secret only once begins it before,
/// so that it can be kept. Dropped without [`PrivateFile::finish`] it leaves nothing behind.
pub(crate) struct PrivateFile {
    path: PathBuf,
    draft: PathBuf,
    file: fs::File,
}

impl PrivateFile {
    /// Makes sure that a file can be written at `path`.
    pub(crate) fn begin(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("{} cannot be written", path.display());
        let mut name = path.file_name().with_context(cannot)?.to_owned();
        anyhow::ensure!(!path.is_dir(), "{} is a folder; name a file", path.display());
        name.push(format!(".{}.new", std::process::id()));
        let draft = path.with_file_name(name);
        // One may be left of a process that was killed and had the same id, as in a container every one has.
        let _ = fs::remove_file(&draft);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft);
        Ok(Self {
            path: path.to_owned(),
            file: file.with_context(cannot)?,
            draft,
        })
    }

    /// Puts the content on disk and the file in its place.
    pub(crate) fn finish(mut self, content: &[u8]) -> anyhow::Result<()> {
        let mut write = || {
            self.file.write_all(content)?;
            self.file.sync_all()?;
            fs::rename(&self.draft, &self.path)?;
            // The name as well: what was given to somebody must be found after a power cut.
            let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
            fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // After `finish` it has another name already.
        let _ = fs::remove_file(&self.draft);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use waypost_bridge::store::Engine;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_and_its_token_are_for_their_owner_alone_and_stay() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = DataFolder::make(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let token = folder.make_token().unwrap().0;
        assert_eq!(mode(&path.join(TOKEN_FILE)), 0o600);
        assert_eq!(token.len(), 64);
        assert_eq!(DataFolder::make(&path).unwrap().make_token().unwrap().0, token);
        fs::write(path.join(TOKEN_FILE), "short").unwrap();
        assert!(folder.token().is_err());
    }

    #[test]
    fn a_second_server_is_told_who_the_first_is() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::make(parent.path()).unwrap();
        let _store = folder.open_store(Engine::Fjall).unwrap();
        let error = folder.open_store(Engine::Sled).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        folder
            .announce(&Addresses {
                http: "127.0.0.1:1".parse().unwrap(),
                https: None,
                mqtt: "127.0.0.1:2".to_owned(),
                mqtts: Some("127.0.0.1:4".parse().unwrap()),
            })
            .unwrap();
        let error = folder.open_store(Engine::Sled).err().unwrap().to_string();
        let expected = format!(
            "process id {} (http=127.0.0.1:1 mqtt=127.0.0.1:2 mqtts=127.0.0.1:4)",
            std::process::id()
        );
        assert!(error.contains(&expected), "{error}");
        folder.withdraw();
        let error = folder.running_server().unwrap_err().to_string();
        assert!(error.contains("waypost serve"), "{error}");
    }

    #[test]
    fn a_private_file_is_replaced_as_a_whole() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
            ("new", 0o600)
        );
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        drop(PrivateFile::begin(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        for no_file in [
            parent.path().join("none/file"),
            parent.path().to_owned(),
            PathBuf::from("/"),
        ] {
            assert!(PrivateFile::begin(&no_file).is_err(), "{}", no_file.display());
        }
    }
}
