//! sled, for whoever chooses it: a log-structured engine of one file, which does not sync what it reports as flushed.
//!
//! On Linux its `flush` ends in `sync_file_range`, which writes pages and leaves out what the file system needs to find
//! them again. Three things make up for that:
//!
//! * [`SledKeys::commit`] syncs the file `db` itself after each flush. sled's own flusher stays on, as it tidies up.
//! * The file is synced before sled opens it: opening writes a snapshot, which is synced at once and refuses a `db` that
//!   is shorter than what it has seen.
//! * What is larger than about 128 kB sled puts into a file of its own, which it never syncs. A page holds some twenty
//!   records, so that values are cut into parts of at most [`PART_BYTES_MAX`] and no such file is ever made.
//!
//! sled shows a batch before it is flushed. Here a reader waits for the commit that is under way: what is read is on disk.

use super::StoreError;
use super::fence::Fence;
use super::kv::{KeyedStore, Order, OrderedKeys, Visit, Write};
use sled::{Batch, Db};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard};
use std::time::Duration;

/// A store in a folder.
pub type SledStore = KeyedStore<SledKeys>;

/// Ordered keys in a folder.
///
/// One tree, as a batch is atomic within one: under [`RECORDS`] and a key its value, or how many parts it has, and under
/// [`PARTS`], the key and a number each part.
pub struct SledKeys {
    /// First, as it ends before the lock.
    fence: Fence,
    database: Db,
    /// The file that `database` writes, to sync it.
    file: File,
    health: RwLock<Health>,
    /// Last, as sled still writes while it is dropped.
    _lock: File,
}

/// Whether what `database` shows is what is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Whole,
    /// A commit failed; sled may show what is not on disk.
    Failed,
}

/// What the keys of values begin with.
const RECORDS: u8 = b'r';
/// What the keys of parts begin with.
const PARTS: u8 = b'p';
/// Before a value that stands whole behind it.
const WHOLE: u8 = 0;
/// Before the number of parts of a value, 4 bytes, big-endian.
const CUT: u8 = 1;
/// A value that is longer is cut into parts of so many bytes.
const PART_BYTES_MAX: usize = 4 * 1024;
/// Memory for pages that were read.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// How long threads of an earlier store in this process may keep the file, and how often they are looked for.
const RELEASE_ATTEMPTS: u32 = 500;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

impl std::fmt::Debug for SledKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledKeys").finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in `folder`, or makes one there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it, [`StoreError::Engine`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        SledKeys::open(folder).map(Self)
    }
}

impl SledKeys {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let locked = || StoreError::Locked(folder.display().to_string());
        fs::create_dir_all(folder).map_err(engine)?;
        let lock = open_file(&folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked()),
            Err(TryLockError::Error(error)) => return Err(engine(error)),
        }
        let file = open_file(&folder.join("db"))?;
        // See the module: a snapshot must not know more than the file.
        file.sync_data().map_err(engine)?;
        if !is_released(&file)? {
            return Err(locked());
        }
        let fence = Fence::raise(folder)?;
        let database = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .open()
            .map_err(engine)?;
        sync_names(folder)?;
        Ok(Self {
            fence,
            database,
            file,
            health: RwLock::new(Health::Whole),
            _lock: lock,
        })
    }

    /// Waits for the commit that is under way; held, it keeps the next one waiting. Not to be taken twice.
    fn read_lock(&self) -> Result<RwLockReadGuard<'_, Health>, StoreError> {
        let health = self.health.read().expect("nothing panics while the lock is held");
        match *health {
            Health::Whole => Ok(health),
            Health::Failed => Err(StoreError::Engine("an earlier write failed".into())),
        }
    }

    /// The value of a key, put together from its parts.
    fn value(&self, key: &[u8], record: &[u8]) -> Result<Vec<u8>, StoreError> {
        let Some(parts) = part_count(record)? else {
            return Ok(record[1..].to_vec());
        };
        let mut value = Vec::new();
        for number in 0..parts {
            let part = self.database.get(part_key(key, number)).map_err(engine)?;
            value.extend_from_slice(&part.ok_or(StoreError::Damaged("sled"))?);
        }
        Ok(value)
    }

    /// Adds to a batch what gives one key its new value.
    fn stage(&self, batch: &mut Batch, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let record_key = record_key(key);
        let old_parts = match self.database.get(&record_key).map_err(engine)? {
            Some(record) => part_count(&record)?.unwrap_or(0),
            None => 0,
        };
        let mut parts = 0;
        match value {
            None => batch.remove(record_key),
            Some(value) if value.len() <= PART_BYTES_MAX => {
                batch.insert(record_key, [&[WHOLE], value].concat());
            }
            Some(value) => {
                for part in value.chunks(PART_BYTES_MAX) {
                    batch.insert(part_key(key, parts), part);
                    parts += 1;
                }
                batch.insert(record_key, [&[CUT][..], &parts.to_be_bytes()].concat());
            }
        }
        for number in parts..old_parts {
            batch.remove(part_key(key, number));
        }
        Ok(())
    }

    /// On disk when it returns.
    fn write_through(&self, batch: Batch) -> Result<(), StoreError> {
        self.database.apply_batch(batch).map_err(engine)?;
        self.database.flush().map_err(engine)?;
        #[cfg(feature = "fault-injection")]
        if crate::fault::is("sled-sync") {
            return Ok(());
        }
        // Also where the flusher was faster and nothing was left to flush.
        self.file.sync_data().map_err(engine)
    }
}

impl OrderedKeys for SledKeys {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let _health = self.read_lock()?;
        let record = self.database.get(record_key(key)).map_err(engine)?;
        record.map(|record| self.value(key, &record)).transpose()
    }

    fn scan(&self, first: &[u8], last: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let _health = self.read_lock()?;
        let mut range = self.database.range(record_key(first)..=record_key(last));
        loop {
            let next = match order {
                Order::Ascending => range.next(),
                Order::Descending => range.next_back(),
            };
            let Some(record) = next else { return Ok(()) };
            let (record_key, record) = record.map_err(engine)?;
            let key = &record_key[1..];
            if visit(key, &self.value(key, &record)?)?.is_break() {
                return Ok(());
            }
        }
    }

    /// No commit is under way and none begins meanwhile: sled shows each batch as soon as it is applied.
    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let _health = self.read_lock()?;
        for record in self.database.scan_prefix([RECORDS]) {
            let (record_key, record) = record.map_err(engine)?;
            let key = &record_key[1..];
            if visit(key, &self.value(key, &record)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut health = self
            .health
            .write()
            .expect("nothing panics while the lock is held");
        if *health == Health::Failed {
            return Err(StoreError::Engine("an earlier write failed".into()));
        }
        // The last write of a key is the one that counts, and decides how many parts there are.
        let writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = writes.into_iter().collect();
        let mut batch = Batch::default();
        for (key, value) in &writes {
            self.stage(&mut batch, key, value.as_deref())?;
        }
        let written = self.fence.around(|| self.write_through(batch));
        if written.is_err() {
            *health = Health::Failed;
        }
        written
    }

    fn check_owner(&self) -> Result<(), StoreError> {
        self.fence.check()
    }
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORDS], key].concat()
}

fn part_key(key: &[u8], number: u32) -> Vec<u8> {
    [&[PARTS], key, &number.to_be_bytes()].concat()
}

/// How many parts a value has; `None` where it stands in the record.
fn part_count(record: &[u8]) -> Result<Option<u32>, StoreError> {
    match record.split_first() {
        Some((&WHOLE, _)) => Ok(None),
        Some((&CUT, count)) => {
            let count = count.try_into().map_err(|_| StoreError::Damaged("sled"))?;
            Ok(Some(u32::from_be_bytes(count)))
        }
        _ => Err(StoreError::Damaged("sled")),
    }
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(engine)
}

/// Waits for threads of sled that outlive a store which was dropped in this process: until they end they keep sled's
/// lock on its file. The lock of the folder is ours already, so that nobody else is to be expected.
fn is_released(file: &File) -> Result<bool, StoreError> {
    for _ in 0..RELEASE_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true).map_err(engine),
            Err(TryLockError::WouldBlock) => std::thread::sleep(RELEASE_PAUSE),
            Err(TryLockError::Error(error)) => return Err(engine(error)),
        }
    }
    Ok(false)
}

/// Files that opening made, and their names, are on disk: sled syncs neither its settings nor any folder.
fn sync_names(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(engine)? {
        let path = entry.map_err(engine)?.path();
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(engine)?;
    }
    let parent = folder.parent().filter(|parent| *parent != Path::new(""));
    for folder in [folder, parent.unwrap_or(Path::new("."))] {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(engine)?;
    }
    Ok(())
}

fn engine(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine(Box::new(error))
}
