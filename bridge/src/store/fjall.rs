//! The embedded default: fjall, a log-structured engine whose batches are atomic across keyspaces.

use super::StoreError;
use super::fence::Fence;
use super::keys::Table;
use super::kv::{KeyedStore, Order, OrderedKeys, Visit, Write};
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// A store in a folder.
pub type FjallStore = KeyedStore<FjallKeys>;

/// Ordered keys in a folder.
///
/// Three keyspaces, so that what is small and rewritten (`state`), what only grows (`log`) and positions (`track`)
/// are compacted apart. The journal is bounded: an idle keyspace pins journal files until it is flushed.
pub struct FjallKeys {
    /// First, as it ends before fjall lets go of its lock.
    fence: Fence,
    database: Database,
    state: Keyspace,
    log: Keyspace,
    track: Keyspace,
}

/// Disk for the journal, at most: what an idle keyspace may pin.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Files of data that are kept open at the same time; another one is opened when it is read.
const OPEN_FILES_MAX: usize = 128;
/// Memory for blocks that were read.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Memory for what is not yet flushed, for each keyspace.
const MEMTABLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How often fjall's lock is looked at, which threads of an earlier store in this process may keep for a moment.
const RELEASE_ATTEMPTS: u32 = 10;
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

impl std::fmt::Debug for FjallKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallKeys").finish_non_exhaustive()
    }
}

impl FjallStore {
    /// Opens the store in `folder`, or makes one there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it, [`StoreError::Engine`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        FjallKeys::open(folder).map(Self)
    }
}

impl FjallKeys {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(|error| engine(error.into()))?;
        // fjall takes its lock and reads in one step, and the owner changes between the two.
        if !is_released(folder).map_err(|error| engine(error.into()))? {
            return Err(StoreError::Locked(folder.display().to_string()));
        }
        let fence = Fence::raise(folder)?;
        let database = Database::builder(folder)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .worker_threads(2)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => StoreError::Locked(folder.display().to_string()),
                error => engine(error),
            })?;
        let keyspace = |name| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
            database.keyspace(name, options).map_err(engine)
        };
        let (state, log, track) = (keyspace("state")?, keyspace("log")?, keyspace("track")?);
        Ok(Self {
            fence,
            database,
            state,
            log,
            track,
        })
    }

    fn keyspace(&self, key: &[u8]) -> &Keyspace {
        const LOG: [u8; 7] = [
            Table::Entries as u8,
            Table::Receipts as u8,
            Table::Operations as u8,
            Table::Events as u8,
            Table::Audit as u8,
            Table::Posted as u8,
            Table::PostedByTime as u8,
        ];
        match key.first() {
            Some(table) if [Table::Track as u8, Table::PositionMarks as u8].contains(table) => &self.track,
            Some(table) if LOG.contains(table) => &self.log,
            _ => &self.state,
        }
    }
}

impl OrderedKeys for FjallKeys {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .keyspace(key)
            .get(key)
            .map_err(engine)?
            .map(|value| value.to_vec()))
    }

    fn scan(&self, first: &[u8], last: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut range = self.keyspace(first).range(first.to_vec()..=last.to_vec());
        let next = |range: &mut fjall::Iter| -> Option<Guard> {
            match order {
                Order::Ascending => range.next(),
                Order::Descending => range.next_back(),
            }
        };
        while let Some(record) = next(&mut range) {
            let (key, value) = record.into_inner().map_err(engine)?;
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let snapshot = self.database.snapshot();
        // The keyspaces hold different tables, so that the order of their tables is the order of all keys.
        for table in u8::MIN..=u8::MAX {
            for record in snapshot.prefix(self.keyspace(&[table]), [table]) {
                let (key, value) = record.into_inner().map_err(engine)?;
                if visit(&key, &value)? == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in writes {
            let keyspace = self.keyspace(&key);
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        self.fence.around(|| batch.commit().map_err(engine))
    }

    fn check_owner(&self) -> Result<(), StoreError> {
        self.fence.check()
    }
}

/// Whether nobody holds fjall's lock.
fn is_released(folder: &Path) -> std::io::Result<bool> {
    let file = match File::options().write(true).open(folder.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for _ in 0..RELEASE_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(RELEASE_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

fn engine(error: fjall::Error) -> StoreError {
    StoreError::Engine(Box::new(error))
}
