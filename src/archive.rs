//! A folder with backups of one server: blocks of records, each named by its digest, and for each backup a manifest that lists
//! them.
//!
//! | file | is |
//! |---|---|
//! | `blocks/ab/ab…` | records one after the other, or a file of the data folder; named by the SHA-256 of its content |
//! | `backups/<time>.json` | a line of JSON ([`Manifest`]), and a line with its SHA-256 |
//! | `lock` | held while somebody writes here |
//!
//! Where a block ends depends on the keys in it and on nothing before it, so that what did not change since the last backup
//! falls into the same blocks, which are there already. A manifest is written when all its blocks are on disk: what an
//! interrupted backup leaves is blocks that the next one uses. Everything is for its owner alone, as secrets are in it.

mod check;

use crate::data_folder::write_private;
use crate::timestamp;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use waypost_bridge::store::{Named, encode_record};

/// What this version writes and reads.
const FORMAT: u32 = 1;
/// One key in so many ends a block, decided by its digest alone.
const RECORDS_A_BLOCK: u16 = 2_048;
/// A block ends where it has grown to this, but for one record that alone is more.
const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The folder of the backups.
pub(crate) struct Archive {
    path: PathBuf,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// When it was complete, RFC 3339.
    pub(crate) taken_at: String,
    /// The version that wrote it.
    waypost: String,
    /// What kept the data; `None` where a server elsewhere was asked.
    pub(crate) engine: Option<String>,
    /// The store that it is of, in hexadecimal digits.
    pub(crate) incarnation: String,
    pub(crate) generation: u64,
    pub(crate) records: u64,
    /// The records, in the order of their keys.
    blocks: Vec<BlockRef>,
    /// What else was in the data folder.
    files: Vec<FileRef>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockRef {
    sha256: String,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRef {
    /// From the data folder.
    path: String,
    #[serde(flatten)]
    block: BlockRef,
}

/// What a backup wrote, and what was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Written {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    pub(crate) blocks_there: u64,
    pub(crate) bytes_there: u64,
}

/// A file that goes along with the records.
pub(crate) struct SideFile {
    /// From the data folder.
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
}

impl Archive {
    /// A folder with backups, or one that is to hold them.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Begins a backup; the folder is made where there is none.
    ///
    /// # Errors
    /// Also where somebody else writes here.
    pub(crate) fn begin(&self) -> anyhow::Result<Draft<'_>> {
        for folder in [
            self.path.clone(),
            self.path.join("blocks"),
            self.path.join("backups"),
        ] {
            make_folder(&folder)?;
        }
        let path = self.path.join("lock");
        let mut options = File::options();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let lock = lock.with_context(|| format!("{} cannot be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another backup is being written to {}; wait until it is complete",
                self.path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
            }
        }
        Ok(Draft {
            archive: self,
            _lock: lock,
            block: Vec::new(),
            blocks: Vec::new(),
            records: 0,
            named: None,
            written: Written::default(),
        })
    }

    /// The newest backup, or the newest one of `at` (RFC 3339) or before.
    pub(crate) fn find(&self, at: Option<&str>) -> anyhow::Result<Manifest> {
        let at = at.map(timestamp::parse_rfc3339).transpose()?;
        let name = self
            .names()?
            .into_iter()
            .rfind(|name| at.is_none_or(|at| taken_ms(name).is_some_and(|taken| taken <= at)));
        let folder = self.path.display();
        let name = match (name, at) {
            (Some(name), _) => name,
            (None, None) => {
                bail!("there is no backup in {folder}; name a folder that `waypost backup --to` wrote to")
            }
            (None, Some(_)) => bail!("there is no backup of that time or before in {folder}"),
        };
        self.manifest(&name)
    }

    /// Removes all backups but the newest `keep`, and the blocks that only they had.
    pub(crate) fn prune(&self, keep: usize) -> anyhow::Result<usize> {
        let names = self.names()?;
        let old = &names[..names.len().saturating_sub(keep)];
        let mut used = std::collections::HashSet::new();
        for name in &names[old.len()..] {
            // Where one cannot be read nothing is removed: who knows what it needs.
            let manifest = self.manifest(name)?;
            let files = manifest.files.into_iter().map(|file| file.block);
            used.extend(manifest.blocks.into_iter().chain(files).map(|block| block.sha256));
        }
        let backups = self.path.join("backups");
        for name in old {
            remove(&backups.join(format!("{name}.json")))?;
        }
        sync_folder(&backups)?;
        if !old.is_empty() {
            for shelf in list(&self.path.join("blocks"))? {
                for block in list(&self.path.join("blocks").join(&shelf))? {
                    if !used.contains(&block) {
                        remove(&self.path.join("blocks").join(&shelf).join(&block))?;
                    }
                }
            }
        }
        Ok(old.len())
    }

    /// The backups by their times, oldest first.
    fn names(&self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<String> = list(&self.path.join("backups"))?
            .into_iter()
            .filter_map(|file| Some(file.strip_suffix(".json")?.to_owned()))
            .filter(|name| taken_ms(name).is_some())
            .collect();
        names.sort();
        Ok(names)
    }

    fn manifest(&self, name: &str) -> anyhow::Result<Manifest> {
        let path = self.path.join("backups").join(format!("{name}.json"));
        let damaged = || format!("the manifest {} is damaged", path.display());
        let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let (line, digest) = text
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|end| text.split_at(end))
            .with_context(damaged)?;
        ensure!(
            digest == format!("\n{}\n", hex(&Sha256::digest(line))).as_bytes(),
            damaged()
        );
        let manifest: Manifest = serde_json::from_slice(line).with_context(damaged)?;
        ensure!(
            manifest.format == FORMAT,
            "{} is of another version of waypost ({}), which this one cannot read",
            path.display(),
            manifest.waypost
        );
        ensure!(
            name == file_name(&manifest.taken_at),
            "{} is not the manifest of its name",
            path.display()
        );
        Ok(manifest)
    }

    /// Where a block is, or is to be.
    fn block(&self, sha256: &str) -> PathBuf {
        self.path
            .join("blocks")
            .join(sha256.get(..2).unwrap_or_default())
            .join(sha256)
    }
}

/// A backup that is being written; there is none before [`Draft::finish`].
pub(crate) struct Draft<'a> {
    archive: &'a Archive,
    _lock: File,
    block: Vec<u8>,
    blocks: Vec<BlockRef>,
    records: u64,
    named: Option<Named>,
    written: Written,
}

impl Draft<'_> {
    /// The next record, in the order of keys.
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.named = self.named.or(Named::of_record(key, value)?);
        self.records += 1;
        encode_record(key, value, &mut self.block);
        if self.block.len() >= BLOCK_BYTES_MAX || ends_block(key) {
            let block = std::mem::take(&mut self.block);
            let block = self.put(&block)?;
            self.blocks.push(block);
        }
        Ok(())
    }

    /// Puts the backup on disk; from now on it is one.
    pub(crate) fn finish(
        mut self,
        engine: Option<&str>,
        files: &[SideFile],
    ) -> anyhow::Result<(Manifest, Written)> {
        let named = self
            .named
            .context("the store does not say which one it is; there is nothing to back up")?;
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            let block = self.put(&block)?;
            self.blocks.push(block);
        }
        let mut refs = Vec::new();
        for file in files {
            refs.push(FileRef {
                path: file.path.clone(),
                block: self.put(&file.content)?,
            });
        }
        let backups = self.archive.path.join("backups");
        // Names are in the order of time, whatever the clock does.
        let newest = self.archive.names()?.last().and_then(|name| taken_ms(name));
        let taken_ms = timestamp::now_ms().max(newest.map_or(i64::MIN, |newest| newest + 1));
        let manifest = Manifest {
            format: FORMAT,
            taken_at: timestamp::rfc3339(taken_ms).context("the clock of this machine is wrong")?,
            waypost: env!("CARGO_PKG_VERSION").to_owned(),
            engine: engine.map(str::to_owned),
            incarnation: format!("{:016x}", named.incarnation.number()),
            generation: named.generation,
            records: self.records,
            blocks: self.blocks,
            files: refs,
        };
        let line = serde_json::to_string(&manifest)?;
        let text = format!("{line}\n{}\n", hex(&Sha256::digest(&line)));
        let name = file_name(&manifest.taken_at);
        write_private(&backups.join(format!("{name}.json")), text.as_bytes())?;
        Ok((manifest, self.written))
    }

    /// Makes sure that a block is there; on disk when this returns.
    fn put(&mut self, content: &[u8]) -> anyhow::Result<BlockRef> {
        let sha256 = hex(&Sha256::digest(content));
        let bytes = content.len() as u64;
        let path = self.archive.block(&sha256);
        // By its content: one that was damaged is written again.
        if fs::read(&path).is_ok_and(|there| there == content) {
            self.written.blocks_there += 1;
            self.written.bytes_there += bytes;
        } else {
            make_folder(path.parent().context("a block has a folder")?)?;
            let draft = path.with_extension("new");
            write_block(&draft, &path, content)
                .with_context(|| format!("the block {} cannot be written", path.display()))?;
            self.written.blocks += 1;
            self.written.bytes += bytes;
        }
        Ok(BlockRef { sha256, bytes })
    }
}

fn write_block(draft: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(draft, path)?;
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Whether a block ends behind this key: by the key alone, so that what is put in elsewhere moves no other block.
fn ends_block(key: &[u8]) -> bool {
    let digest = Sha256::digest(key);
    u16::from_be_bytes([digest[0], digest[1]]).is_multiple_of(RECORDS_A_BLOCK)
}

/// A time as a file name, as not every file system has colons.
fn file_name(taken_at: &str) -> String {
    taken_at.replace(':', "-")
}

/// The time that a file name tells.
fn taken_ms(name: &str) -> Option<i64> {
    let (date, time) = name.split_once('T')?;
    timestamp::parse_rfc3339(&format!("{date}T{}", time.replace('-', ":"))).ok()
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("the folder {} cannot be made", path.display()))?;
    path.parent()
        .filter(|parent| *parent != Path::new(""))
        .map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> anyhow::Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("the folder {} cannot be written", path.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    fs::remove_file(path).with_context(|| format!("{} cannot be removed", path.display()))
}

/// The names in a folder; none where there is no folder.
fn list(path: &Path) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("the folder {} cannot be read", path.display());
    let files = match fs::read_dir(path) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(cannot),
    };
    files
        .map(|file| {
            Ok(file
                .with_context(cannot)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests;
