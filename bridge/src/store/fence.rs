//! Who owns a store in a folder: a file beside the engine's, looked at before and after each commit.
//!
//! The engines' locks keep a second process away as long as locks work. On some network file systems they do not, a lock
//! file can be deleted, and a folder can be replaced under a server that runs. So whoever opens a store puts the next
//! [number](Owner::number) into the file `owner`, and a commit belongs to its store only where the file still says the same:
//!
//! * *before* it, so that nothing is written into files that somebody else has;
//! * *after* it, so that nothing is acknowledged which the successor may not have found: he puts his number there before he
//!   opens the engine, so that a commit which still finds its own number was complete when he began to read.
//!
//! Where the one before him may still run, the successor waits [`TAKE_OVER_PAUSE`] between his number and the engine: an
//! owner without work looks every [`OWNER_EVERY`], and ends.
//!
//! What is not excluded, as files know no transactions: an owner who was stopped exactly between the first look and his
//! write, for longer than the pause, puts one batch, which nobody was promised, into the files of his successor. And two
//! copies of a disk are two stores, each with an owner.

use super::StoreError;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, process, thread};

/// How often an owner without work looks whether he still is one.
pub(crate) const OWNER_EVERY: Duration = Duration::from_millis(500);
/// How long a successor waits for one who may still run: ten looks.
const TAKE_OVER_PAUSE: Duration = Duration::from_secs(5);
const OWNER_FILE: &str = "owner";

/// Who owns, or owned, a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// One more than that of the owner before.
    pub number: u64,
    /// Tells two owners apart that took the same number at one moment.
    nonce: u64,
    /// The process.
    pub pid: u32,
    /// The machine's name; empty where it does not tell.
    pub host: String,
    /// The start of the machine, whose processes have numbers of their own; empty where it does not tell.
    boot: String,
    /// When it took the store. Its clock, UTC milliseconds.
    pub since_ms: i64,
    /// Whether it has let go of it.
    ended: bool,
}

/// The store is not this process's any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOver {
    /// Where the store is.
    pub folder: PathBuf,
    /// Who has it; `None` where nobody says so, as when the folder was moved away.
    pub by: Option<Owner>,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        match &self.by {
            Some(owner) if owner.host.is_empty() => {
                write!(f, "process id {} has taken over the store in {folder}", owner.pid)
            }
            Some(owner) => write!(
                f,
                "process id {} on {} has taken over the store in {folder}",
                owner.pid, owner.host
            ),
            None => write!(
                f,
                "the store in {folder} was moved away or removed under this process"
            ),
        }
    }
}

impl Owner {
    fn next_after(before: Option<&Self>) -> Self {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).expect("the system's random numbers are at hand");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            number: before.map_or(0, |before| before.number) + 1,
            nonce: u64::from_le_bytes(nonce),
            pid: process::id(),
            host: told_by_system("/proc/sys/kernel/hostname"),
            boot: told_by_system("/proc/sys/kernel/random/boot_id"),
            since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            ended: false,
        }
    }

    /// Whether it may still write. It does not where it said so, where it was this very process, and where this machine
    /// has no such process any more.
    fn may_run(&self, successor: &Self) -> bool {
        let is_here = !self.boot.is_empty() && self.boot == successor.boot && self.host == successor.host;
        let is_gone =
            is_here && (self.pid == successor.pid || !Path::new("/proc").join(self.pid.to_string()).exists());
        !self.ended && !is_gone
    }

    fn to_line(&self) -> Vec<u8> {
        let line = json!({
            "number": self.number,
            "nonce": self.nonce,
            "pid": self.pid,
            "host": self.host,
            "boot": self.boot,
            "since_ms": self.since_ms,
            "ended": self.ended,
        });
        format!("{line}\n").into_bytes()
    }

    /// `None` where nobody wrote this.
    fn from_line(line: &[u8]) -> Option<Self> {
        let line: Value = serde_json::from_slice(line).ok()?;
        Some(Self {
            number: line["number"].as_u64()?,
            nonce: line["nonce"].as_u64()?,
            pid: line["pid"].as_u64()?.try_into().ok()?,
            host: line["host"].as_str()?.to_owned(),
            boot: line["boot"].as_str()?.to_owned(),
            since_ms: line["since_ms"].as_i64()?,
            ended: line["ended"].as_bool()?,
        })
    }
}

/// The ownership of a store in a folder; ends when it is dropped, which has to come before the engine lets go of its lock.
#[derive(Debug)]
pub(super) struct Fence {
    folder: PathBuf,
    owner: Owner,
    /// What the file says as long as this owns the store.
    line: Vec<u8>,
}

impl Fence {
    /// Takes the store, on disk when this returns. The engine's lock has been found free, and the engine is not open yet.
    ///
    /// # Errors
    /// [`StoreError::Engine`]; [`StoreError::Fenced`] where somebody else took it meanwhile.
    pub(super) fn raise(folder: &Path) -> Result<Self, StoreError> {
        let before = read(folder)?.and_then(|line| Owner::from_line(&line));
        let owner = Owner::next_after(before.as_ref());
        let fence = Self {
            folder: folder.to_owned(),
            line: owner.to_line(),
            owner,
        };
        fence.put(&fence.line).map_err(engine)?;
        if let Some(Owner { pid, host, .. }) = before.filter(|before| before.may_run(&fence.owner)) {
            tracing::warn!(
                owner.pid = pid,
                "the store in {} was left without a word by process id {pid} on {host:?}, which may still run; it is taken over in \
                 {} s",
                folder.display(),
                TAKE_OVER_PAUSE.as_secs()
            );
            thread::sleep(TAKE_OVER_PAUSE);
        }
        fence.check()?;
        Ok(fence)
    }

    /// Does a commit as the owner.
    ///
    /// # Errors
    /// Those of the commit. [`StoreError::Fenced`]: then it was not done, or nobody may be told that it was.
    pub(super) fn around(&self, commit: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.check()?;
        commit()?;
        self.check()
    }

    /// Makes sure that this still owns the store.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], and [`StoreError::Engine`] where that cannot be found out.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        #[cfg(feature = "fault-injection")]
        if crate::fault::is("store-fence") {
            return Ok(());
        }
        // Opened anew each time: that is when a network file system asks its server.
        let line = read(&self.folder)?;
        if line.as_ref() == Some(&self.line) {
            return Ok(());
        }
        Err(StoreError::Fenced(TakenOver {
            folder: self.folder.clone(),
            by: line.and_then(|line| Owner::from_line(&line)),
        }))
    }

    /// Whole or not at all, and on disk with its name.
    fn put(&self, line: &[u8]) -> std::io::Result<()> {
        let draft = self
            .folder
            .join(format!("{OWNER_FILE}.{:x}.new", self.owner.nonce));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(line)?;
            file.sync_all()?;
            fs::rename(&draft, self.folder.join(OWNER_FILE))?;
            File::open(&self.folder)?.sync_all()
        });
        written.inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if self.check().is_ok() {
            let ended = Owner {
                ended: true,
                ..self.owner.clone()
            };
            // Otherwise the next one waits a little longer than it has to.
            let _ = self.put(&ended.to_line());
        }
    }
}

/// What the file says; `None` where there is none.
fn read(folder: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(folder.join(OWNER_FILE)) {
        Ok(line) => Ok(Some(line)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(engine(error)),
    }
}

fn told_by_system(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn engine(error: std::io::Error) -> StoreError {
    StoreError::Engine(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Engine, OrderedKeys};

    fn fenced_by(result: Result<(), StoreError>) -> Option<Owner> {
        match result {
            Err(StoreError::Fenced(TakenOver { by, .. })) => by,
            other => panic!("not fenced: {other:?}"),
        }
    }

    fn value(keys: &dyn OrderedKeys, key: &[u8]) -> Option<Vec<u8>> {
        keys.read(key).unwrap()
    }

    fn put(keys: &dyn OrderedKeys, key: &[u8]) -> Result<(), StoreError> {
        keys.commit(vec![(key.to_vec(), Some(b"value".to_vec()))])
    }

    /// Takes away what keeps a second process out, as where locks do not work; the first one keeps files that are not there.
    fn break_locks(folder: &Path) {
        fs::remove_file(folder.join("lock")).unwrap();
        if folder.join("db").exists() {
            fs::copy(folder.join("db"), folder.join("db.copy")).unwrap();
            fs::rename(folder.join("db.copy"), folder.join("db")).unwrap();
        } else {
            File::create(folder.join("lock")).unwrap();
        }
    }

    #[test]
    fn who_opens_a_store_ends_the_commits_of_whoever_had_it() {
        for engine in Engine::ALL {
            let folder = tempfile::tempdir().unwrap();
            let first = engine.open_keys(folder.path()).unwrap();
            put(first.as_ref(), b"a").unwrap();
            first.check_owner().unwrap();
            break_locks(folder.path());
            let second = engine.open_keys(folder.path()).unwrap();
            let by = fenced_by(put(first.as_ref(), b"b")).expect("the second one says who it is");
            assert_eq!((by.number, by.pid), (2, process::id()), "{engine}");
            fenced_by(first.check_owner());
            put(second.as_ref(), b"c").unwrap();
            // The end of the first does not touch what the second has.
            drop(first);
            put(second.as_ref(), b"d").unwrap();
            drop(second);
            let third = engine.open_keys(folder.path()).unwrap();
            for (key, is_there) in [(b"a", true), (b"b", false), (b"c", true), (b"d", true)] {
                assert_eq!(
                    value(third.as_ref(), key).is_some(),
                    is_there,
                    "{engine}: {key:?}"
                );
            }
        }
    }

    #[test]
    fn one_who_finds_the_lock_held_takes_nothing_over() {
        for engine in Engine::ALL {
            let folder = tempfile::tempdir().unwrap();
            let first = engine.open_keys(folder.path()).unwrap();
            let second = engine.open_keys(folder.path()).err();
            assert!(
                matches!(second, Some(StoreError::Locked(_))),
                "{engine}: {second:?}"
            );
            put(first.as_ref(), b"a").unwrap();
        }
    }

    #[test]
    fn a_store_that_was_moved_away_is_written_no_more() {
        let parent = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| parent.path().join(name));
        let first = Engine::Fjall.open_keys(&old).unwrap();
        put(first.as_ref(), b"a").unwrap();
        fs::rename(&old, &new).unwrap();
        assert_eq!(fenced_by(put(first.as_ref(), b"b")), None);
        // And where another one stands in its place.
        let _other = Engine::Fjall.open_keys(&old).unwrap();
        assert!(fenced_by(put(first.as_ref(), b"b")).is_some());
    }

    #[test]
    fn a_commit_during_which_the_store_is_taken_over_is_acknowledged_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let first = Fence::raise(folder.path()).unwrap();
        let mut second = None;
        let done = first.around(|| {
            second = Some(Fence::raise(folder.path())?);
            Ok(())
        });
        assert_eq!(fenced_by(done), second.map(|second| second.owner.clone()));
    }

    #[test]
    fn only_one_who_may_still_write_is_waited_for() {
        let this = Owner::next_after(None);
        let gone = (1..)
            .map(|n| 4_000_000 + n)
            .find(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        let parent = std::os::unix::process::parent_id();
        type Change = fn(&mut Owner);
        let with = |pid: u32, change: Change| {
            let mut owner = Owner { pid, ..this.clone() };
            change(&mut owner);
            owner.may_run(&this)
        };
        assert!(with(parent, |_| {}), "a process of this machine that is there");
        assert!(!with(parent, |owner| owner.ended = true));
        assert!(!with(gone.unwrap(), |_| {}), "a process that is gone");
        assert!(
            !with(this.pid, |_| {}),
            "a predecessor with the same number, as in a container"
        );
        assert!(with(this.pid, |owner| owner.host.push('x')), "another machine");
        assert!(
            with(this.pid, |owner| owner.boot.clear()),
            "a machine that does not tell"
        );
    }

    #[test]
    fn an_owner_file_that_says_nothing_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let first = Fence::raise(folder.path()).unwrap();
        for line in ["", "{", "{}", "{\"number\":1}"] {
            fs::write(folder.path().join(OWNER_FILE), line).unwrap();
            assert_eq!(fenced_by(first.check()), None, "{line}");
        }
        assert_eq!(Fence::raise(folder.path()).unwrap().owner.number, 1);
        assert_eq!(
            Fence::raise(folder.path()).unwrap().owner.number,
            2,
            "numbers go on after an end"
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }
}
