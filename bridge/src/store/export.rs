//! A whole store as a run of bytes that any engine can take in again: what a backup is made of.
//!
//! Each record is the length of its key (4 bytes, big-endian), the key, the length of its value and the value, in the order of
//! the keys. Behind the last one stands [`END`] in the place of a length, and then how many records there are (8 bytes) and
//! the SHA-256 of all bytes before the end: who reads a part of it knows that it is a part.

use super::kv::{OrderedKeys, Visit, Write};
use super::records::{MetaRecord, Record};
use super::restore::Restore;
use super::{Engine, StoreError, keys};
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use waypost_proto::{Incarnation, StreamId};

/// Stands where the length of a key would.
const END: u32 = u32::MAX;
/// Longer keys and values are none of ours: who reads them would have to find memory for whatever a damaged length says.
const PART_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many records one commit of a restore holds at most.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How many bytes of keys and values one commit holds at most, but for one record that alone is more.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Puts records one after the other into bytes.
#[derive(Debug, Default)]
pub struct Encoder {
    records: u64,
    hash: Sha256,
}

impl Encoder {
    /// Adds a record to `bytes`.
    pub fn record(&mut self, key: &[u8], value: &[u8], bytes: &mut Vec<u8>) {
        let begin = bytes.len();
        encode_record(key, value, bytes);
        self.records += 1;
        self.hash.update(&bytes[begin..]);
    }

    /// Adds the end.
    pub fn finish(self, bytes: &mut Vec<u8>) {
        bytes.extend(END.to_be_bytes());
        bytes.extend(self.records.to_be_bytes());
        bytes.extend(self.hash.finalize());
    }
}

/// One record as it stands in an export.
pub fn encode_record(key: &[u8], value: &[u8], bytes: &mut Vec<u8>) {
    for part in [key, value] {
        let length = u32::try_from(part.len()).expect("a record is far smaller than 4 GB");
        bytes.extend(length.to_be_bytes());
        bytes.extend(part);
    }
}

/// Bytes that are no export of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnExport {
    /// The bytes end before the end.
    #[error("it ends in the middle")]
    Short,
    /// Something follows the end.
    #[error("something follows its end")]
    Long,
    /// A length that no record has.
    #[error("a record in it cannot be one")]
    Record,
    /// The keys do not ascend.
    #[error("its records are out of order")]
    Order,
    /// Count or digest are not those of the records.
    #[error("its records are not those that were written")]
    Digest,
}

/// Takes records out of bytes that come in pieces of any size.
///
/// Memory: what was pushed and not taken yet.
#[derive(Debug, Default)]
pub struct Decoder {
    waiting: Vec<u8>,
    taken: usize,
    records: u64,
    hash: Sha256,
    last_key: Option<Vec<u8>>,
    ended: bool,
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Decoder {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.drain(..std::mem::take(&mut self.taken));
        self.waiting.extend(bytes);
    }

    /// The next record; `None` where more bytes are needed, or at the end.
    ///
    /// # Errors
    /// [`NotAnExport`].
    pub fn next_record(&mut self) -> Result<Option<Pair>, NotAnExport> {
        let rest = &self.waiting[self.taken..];
        if self.ended {
            return if rest.is_empty() {
                Ok(None)
            } else {
                Err(NotAnExport::Long)
            };
        }
        let Some((&length, after)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        if u32::from_be_bytes(length) == END {
            return self.take_end();
        }
        let Some((key, after)) = split_part(length, after)? else {
            return Ok(None);
        };
        let Some((&length, after)) = after.split_first_chunk() else {
            return Ok(None);
        };
        let Some((value, after)) = split_part(length, after)? else {
            return Ok(None);
        };
        if key.is_empty() {
            return Err(NotAnExport::Record);
        }
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(NotAnExport::Order);
        }
        let pair = (key.to_vec(), value.to_vec());
        let used = rest.len() - after.len();
        self.hash.update(&rest[..used]);
        self.records += 1;
        self.taken += used;
        self.last_key = Some(pair.0.clone());
        Ok(Some(pair))
    }

    /// Whether nothing is left of a record that was begun: where records stand in blocks, without an end.
    pub fn is_between_records(&self) -> bool {
        self.taken == self.waiting.len()
    }

    /// Says that there are no more bytes.
    ///
    /// # Errors
    /// [`NotAnExport::Short`] where the end has not come.
    pub fn finish(&self) -> Result<(), NotAnExport> {
        if self.ended {
            Ok(())
        } else {
            Err(NotAnExport::Short)
        }
    }

    fn take_end(&mut self) -> Result<Option<Pair>, NotAnExport> {
        let rest = &self.waiting[self.taken + 4..];
        let (Some((count, after)), 40..) = (rest.split_first_chunk(), rest.len()) else {
            return Ok(None);
        };
        let (digest, after) = after.split_at(32);
        if u64::from_be_bytes(*count) != self.records || *digest != *self.hash.clone().finalize() {
            return Err(NotAnExport::Digest);
        }
        if !after.is_empty() {
            return Err(NotAnExport::Long);
        }
        self.taken += 44;
        self.ended = true;
        Ok(None)
    }
}

/// A part and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

fn split_part(length: [u8; 4], bytes: &[u8]) -> Result<Option<Split<'_>>, NotAnExport> {
    let length = u32::from_be_bytes(length) as usize;
    if length > PART_BYTES_MAX {
        return Err(NotAnExport::Record);
    }
    Ok(bytes.split_at_checked(length))
}

/// Visits every record of the store in `folder`, of a server that does not run, in the order of their keys.
///
/// # Errors
/// [`StoreError`], of the engine or of `visit`.
pub fn export(engine: Engine, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StoreError> {
    engine.open_keys(folder)?.snapshot(visit)
}

/// What a store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Which store it is.
    pub incarnation: Incarnation,
    /// How often a server began on it.
    pub generation: u64,
}

impl Named {
    /// From the one record of an export that says it; `None` for any other.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn of_record(key: &[u8], value: &[u8]) -> Result<Option<Self>, StoreError> {
        if key != keys::meta() {
            return Ok(None);
        }
        let damaged = StoreError::Damaged("meta");
        let meta = MetaRecord::decode(value).map_err(|_| StoreError::Damaged("meta"))?;
        Ok(Some(Self {
            incarnation: Incarnation::new(meta.incarnation).ok_or(damaged)?,
            generation: meta.generation,
        }))
    }
}

/// Why a store was not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The records could not be read.
    #[error(transparent)]
    Source(E),
    /// The new store could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder was to be new.
    #[error("the folder holds records already; a backup is put back where there are none")]
    NotEmpty,
    /// There is no name of a store among the records.
    #[error("the backup is not one of a store: it does not say which")]
    Nameless,
    /// What was read back is not what was written.
    #[error("the store that was put back differs from its backup; check the disk")]
    Differs,
}

/// Random numbers of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// The name of the store that begins. Where it is 0, 1 is taken.
    pub incarnation: u64,
    /// How far its events begin above those of the backup; 38 bits of it are used.
    pub event_gap: u64,
}

/// Puts records, in the order of their keys, into a new store in `folder`; reads them again and compares; then gives the store
/// a name of its own, with a note of where it parted from the one that the backup is of. All of it is on disk when this
/// returns.
///
/// # Errors
/// [`RestoreError`]; the folder then holds something that nobody should take for a store.
pub fn restore<E>(
    engine: Engine,
    folder: &Path,
    records: impl Iterator<Item = Result<Pair, E>>,
    fresh: Fresh,
) -> Result<(), RestoreError<E>> {
    let keys = engine.open_keys(folder)?;
    if examine(keys.as_ref())?.records > 0 {
        return Err(RestoreError::NotEmpty);
    }
    let mut written = Encoder::default();
    let mut scratch = Vec::new();
    let mut batch: Vec<Write> = Vec::new();
    let mut batch_bytes = 0;
    let mut old = None;
    for record in records {
        let (key, value) = record.map_err(RestoreError::Source)?;
        written.record(&key, &value, &mut scratch);
        scratch.clear();
        old = old.or(Named::of_record(&key, &value)?);
        batch_bytes += key.len() + value.len();
        batch.push((key, Some(value)));
        if batch.len() >= BATCH_RECORDS_MAX || batch_bytes >= BATCH_BYTES_MAX {
            batch_bytes = 0;
            keys.commit(std::mem::take(&mut batch))?;
        }
    }
    keys.commit(batch)?;
    let old = old.ok_or(RestoreError::Nameless)?;
    let found = examine(keys.as_ref())?;
    if found.records != written.records || found.hash.finalize() != written.hash.finalize() {
        return Err(RestoreError::Differs);
    }
    drop(keys);
    part(engine, folder, old.incarnation, fresh)?;
    Ok(())
}

/// Gives a store that is as its backup was a name of its own.
fn part(engine: Engine, folder: &Path, old: Incarnation, fresh: Fresh) -> Result<(), StoreError> {
    // Reads as a server does what there is; the generation that this counts is one of the old store, which nobody sees.
    let state = engine.open(folder)?.load(old.number())?;
    let heads: BTreeMap<StreamId, u64> = state
        .streams
        .iter()
        .map(|(stream, (_, head))| (*stream, *head))
        .collect();
    let restore = Restore::of(old, heads, state.last_event, fresh.event_gap);
    let meta = MetaRecord {
        incarnation: fresh.incarnation.max(1),
        generation: 0,
    };
    engine.open_keys(folder)?.commit(vec![
        (keys::meta(), Some(meta.encode_to_vec())),
        (keys::restore(old), Some(restore.encode())),
    ])
}

fn examine(keys: &dyn OrderedKeys) -> Result<Encoder, StoreError> {
    let mut found = Encoder::default();
    let mut scratch = Vec::new();
    keys.snapshot(&mut |key, value| {
        found.record(key, value, &mut scratch);
        scratch.clear();
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind};
    use crate::store::Change;
    use std::convert::Infallible;
    use waypost_proto::DeviceId;

    const FRESH: Fresh = Fresh {
        incarnation: 99,
        event_gap: u64::MAX,
    };

    fn event(cursor: u64) -> Change {
        Change::AppendEvent(Event {
            cursor,
            at_ms: 1,
            kind: EventKind::DeviceOnline(DeviceId::new(264).unwrap()),
        })
    }

    fn exported(engine: Engine, folder: &Path) -> Vec<Pair> {
        let mut pairs = Vec::new();
        export(engine, folder, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        pairs
    }

    fn put_back(
        engine: Engine,
        folder: &Path,
        pairs: &[Pair],
        fresh: Fresh,
    ) -> Result<(), RestoreError<Infallible>> {
        restore(engine, folder, pairs.iter().cloned().map(Ok), fresh)
    }

    #[test]
    fn an_export_in_pieces_of_any_size_gives_the_records_and_a_part_of_it_never_ends() {
        let pairs: Vec<Pair> = (0..40_u8)
            .map(|number| {
                (
                    vec![number; 1 + usize::from(number) % 3],
                    vec![7; 30 * usize::from(number % 4)],
                )
            })
            .collect();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::default();
        for (key, value) in &pairs {
            encoder.record(key, value, &mut bytes);
        }
        encoder.finish(&mut bytes);
        let decode = |bytes: &[u8], size: usize| {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(pair) = decoder.next_record()? {
                    found.push(pair);
                }
            }
            decoder.finish().map(|()| found)
        };
        for size in [1, 2, 3, 44, 1_000, bytes.len()] {
            assert_eq!(decode(&bytes, size).as_ref(), Ok(&pairs), "{size}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], 97), Err(NotAnExport::Short), "{length}");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            assert!(decode(&changed, 97).is_err(), "{place}");
        }
        assert_eq!(
            decode(&[bytes.as_slice(), b"x"].concat(), 97),
            Err(NotAnExport::Long)
        );
    }

    #[test]
    fn a_restored_store_has_a_name_of_its_own_and_numbers_no_event_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let first = Engine::Fjall.open(&path("first")).unwrap();
        first.load(77).unwrap();
        first.commit(&[event(1), event(2)]).unwrap();
        drop(first);
        let backup = exported(Engine::Fjall, &path("first"));

        put_back(Engine::Sled, &path("second"), &backup, FRESH).unwrap();
        let second = Engine::Sled.open(&path("second")).unwrap();
        let state = second.load(5).unwrap();
        assert_eq!((state.incarnation.number(), state.generation.number()), (99, 1));
        let parted = &state.restores[&Incarnation::new(77).unwrap()];
        assert_eq!(parted.last_event, 2);
        assert!(parted.first_event > 1_000_000_000);
        assert_eq!(state.last_event + 1, parted.first_event);
        assert_eq!(
            [2, 3, parted.first_event - 1].map(|event| parted.lost(event)),
            [false, true, false]
        );
        second.commit(&[event(parted.first_event)]).unwrap();
        let told = second.events(1, 9).unwrap();
        assert_eq!(
            told.iter().map(|event| event.cursor).collect::<Vec<_>>(),
            [2, parted.first_event]
        );
        drop(second);

        // The backup of a restored store knows of both.
        let backup = exported(Engine::Sled, &path("second"));
        let fresh = Fresh {
            incarnation: 0,
            event_gap: 5,
        };
        put_back(Engine::Fjall, &path("third"), &backup, fresh).unwrap();
        let state = Engine::Fjall.open(&path("third")).unwrap().load(5).unwrap();
        assert_eq!(state.incarnation.number(), 1);
        let names: Vec<u64> = state.restores.keys().map(|of| of.number()).collect();
        assert_eq!(names, [77, 99]);
    }

    #[test]
    fn a_restore_is_of_a_store_into_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        Engine::Fjall.open(&path("first")).unwrap().load(77).unwrap();
        let backup = exported(Engine::Fjall, &path("first"));
        let into_full = put_back(Engine::Fjall, &path("first"), &backup, FRESH);
        assert!(matches!(into_full, Err(RestoreError::NotEmpty)), "{into_full:?}");
        let nameless = put_back(Engine::Fjall, &path("second"), &[(vec![b'e'], vec![])], FRESH);
        assert!(matches!(nameless, Err(RestoreError::Nameless)), "{nameless:?}");
        let broken = restore(Engine::Fjall, &path("third"), [Err("a block")].into_iter(), FRESH);
        assert!(
            matches!(broken, Err(RestoreError::Source("a block"))),
            "{broken:?}"
        );
    }

    /// Three records of different tables are written together, again and again: whoever sees one number sees it in all.
    #[test]
    fn what_is_visited_while_commits_go_on_is_of_one_moment() {
        let memory = std::sync::Arc::new(crate::store::MemoryStore::new());
        consistent("memory", &memory.0);
        for engine in Engine::ALL {
            let folder = tempfile::tempdir().unwrap();
            consistent(engine.name(), engine.open_keys(folder.path()).unwrap().as_ref());
        }
    }

    fn consistent(engine: &str, keys: &dyn OrderedKeys) {
        const TABLES: [u8; 3] = [b'S', b'T', b'e'];
        let commit = |number: u64| {
            let together = TABLES.map(|table| (vec![table, 0], Some(number.to_be_bytes().to_vec())));
            // And one that is in no other commit.
            let one = (vec![b'e', 1], Some(number.to_be_bytes().to_vec()));
            keys.commit(together.into_iter().chain([one]).collect()).unwrap();
        };
        commit(0);
        let done = std::sync::atomic::AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..150 {
                    commit(number);
                }
                done.store(true, std::sync::atomic::Ordering::Release);
            });
            let mut seen = std::collections::BTreeSet::new();
            loop {
                // Once more after the last commit, however fast they were.
                let is_last = done.load(std::sync::atomic::Ordering::Acquire);
                let mut values = std::collections::BTreeSet::new();
                let mut order = Vec::new();
                keys.snapshot(&mut |key, value| {
                    order.push(key.to_vec());
                    values.insert(value.to_vec());
                    // Time for a commit between two records.
                    std::thread::yield_now();
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
                assert!(order.len() == 4 && order.is_sorted(), "{engine}: {order:?}");
                assert_eq!(values.len(), 1, "{engine}: of several moments");
                seen.extend(values);
                if is_last {
                    break seen;
                }
            }
        });
        assert!(seen.contains(&149_u64.to_be_bytes()[..]), "{engine}");
    }
}
