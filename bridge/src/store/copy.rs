//! Moves a store to another engine: every key and value as it stands, whatever it means, so that the copy is the same
//! store, with its incarnation and generation.

use super::kv::{Order, OrderedKeys, Write};
use super::{Engine, StoreError};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::path::Path;

/// How many records one commit of the copy holds at most.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How many bytes of keys and values one commit holds at most, but for one record that alone is more.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What was copied, and found again in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// How many records there are.
    pub records: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 over all keys and values in their order, each behind its length.
    pub digest: [u8; 32],
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store that was to be copied.
    #[error("reading the store failed: {0}")]
    From(#[source] StoreError),
    /// The copy.
    #[error("writing the copy failed: {0}")]
    To(#[source] StoreError),
    /// There is nothing to copy; a server has at least a record of its starts.
    #[error("the store holds nothing, so there is nothing to copy")]
    Nothing,
    /// The copy was to be new.
    #[error("the folder of the copy holds records already; a copy is made into an empty one")]
    NotEmpty,
    /// What was read back is not what was written.
    #[error("the copy differs from the store; check the disks of both")]
    Differs,
}

/// Copies the store in the first folder into the second, which is empty or not there; reads the copy again from its
/// beginning and compares. The copy is on disk when this returns. Both stores are locked until then.
///
/// Memory: one batch.
///
/// # Errors
/// [`CopyError`]; the second folder then holds a part of the store, which nobody should mistake for it.
pub fn copy(from: (Engine, &Path), to: (Engine, &Path)) -> Result<Copied, CopyError> {
    let from = from.0.open_keys(from.1).map_err(CopyError::From)?;
    let to = to.0.open_keys(to.1).map_err(CopyError::To)?;
    if examine(to.as_ref()).map_err(CopyError::To)?.records > 0 {
        return Err(CopyError::NotEmpty);
    }
    let copied = write_all(from.as_ref(), to.as_ref())?;
    if copied.records == 0 {
        return Err(CopyError::Nothing);
    }
    let found = examine(to.as_ref()).map_err(CopyError::To)?;
    if found == copied {
        Ok(copied)
    } else {
        Err(CopyError::Differs)
    }
}

fn write_all(from: &dyn OrderedKeys, to: &dyn OrderedKeys) -> Result<Copied, CopyError> {
    let mut tally = Tally::default();
    let mut batch: Vec<Write> = Vec::new();
    let mut batch_bytes = 0;
    let mut failed = None;
    walk(from, &mut |key, value| {
        tally.add(key, value);
        batch.push((key.to_vec(), Some(value.to_vec())));
        batch_bytes += key.len() + value.len();
        if batch.len() < BATCH_RECORDS_MAX && batch_bytes < BATCH_BYTES_MAX {
            return ControlFlow::Continue(());
        }
        batch_bytes = 0;
        match to.commit(std::mem::take(&mut batch)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })
    .map_err(CopyError::From)?;
    match failed {
        Some(error) => return Err(CopyError::To(error)),
        None => to.commit(batch).map_err(CopyError::To)?,
    }
    Ok(tally.done())
}

/// What a store holds.
fn examine(keys: &dyn OrderedKeys) -> Result<Copied, StoreError> {
    let mut tally = Tally::default();
    walk(keys, &mut |key, value| {
        tally.add(key, value);
        ControlFlow::Continue(())
    })?;
    Ok(tally.done())
}

/// Takes a key and its value; says whether to go on.
type Take<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Visits every record in the order of the keys, until told to stop.
///
/// One range for each byte that a key can begin with, as engines keep tables apart by it; not only for the tables that
/// there are, so that none can be forgotten.
fn walk(keys: &dyn OrderedKeys, take: &mut Take<'_>) -> Result<(), StoreError> {
    for table in u8::MIN..u8::MAX {
        let mut stopped = false;
        keys.scan(&[table], &[table + 1], Order::Ascending, &mut |key, value| {
            // The end of a range belongs to it.
            if key[0] != table {
                return Ok(ControlFlow::Break(()));
            }
            let next = take(key, value);
            stopped = next.is_break();
            Ok(next)
        })?;
        if stopped {
            break;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    records: u64,
    bytes: u64,
    hash: Sha256,
}

impl Tally {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        for part in [key, value] {
            let length = part.len() as u64;
            self.bytes += length;
            self.hash.update(length.to_be_bytes());
            self.hash.update(part);
        }
    }

    fn done(self) -> Copied {
        Copied {
            records: self.records,
            bytes: self.bytes,
            digest: self.hash.finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// Small and large values under many letters, one of a single letter, one empty.
    fn writes() -> Vec<Write> {
        let mut writes: Vec<Write> = (0..3_000_u32)
            .map(|number| {
                let table = b"edmTzA"[number as usize % 6];
                let key = [&[table][..], &number.to_be_bytes()].concat();
                (
                    key,
                    Some(vec![
                        number as u8;
                        number as usize * 7 % 9_000 % (1 + number as usize)
                    ]),
                )
            })
            .collect();
        writes.push((b"m".to_vec(), Some(b"alone".to_vec())));
        writes.push((b"e".to_vec(), Some(Vec::new())));
        writes.push((b"L\xff\xff\xff".to_vec(), Some(vec![7; 300_000])));
        writes
    }

    fn held(keys: &dyn OrderedKeys) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut held = Vec::new();
        walk(keys, &mut |key, value| {
            held.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        held
    }

    #[test]
    fn a_copy_there_and_back_holds_every_record_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let [first, second, third] = ["first", "second", "third"].map(|name| parent.path().join(name));
        let memory = MemoryStore::new();
        memory.0.commit(writes()).unwrap();
        let expected = held(&memory.0);
        assert_eq!(expected.len(), 3_003);
        Engine::Fjall.open_keys(&first).unwrap().commit(writes()).unwrap();

        let copied = copy((Engine::Fjall, &first), (Engine::Sled, &second)).unwrap();
        assert_eq!(copied.records, 3_003);
        assert_eq!(copied, examine(&memory.0).unwrap());
        assert_eq!(
            copy((Engine::Sled, &second), (Engine::Fjall, &third)).unwrap(),
            copied
        );
        for (engine, folder) in [
            (Engine::Fjall, &first),
            (Engine::Sled, &second),
            (Engine::Fjall, &third),
        ] {
            assert!(
                held(engine.open_keys(folder).unwrap().as_ref()) == expected,
                "{engine}"
            );
        }
    }

    #[test]
    fn a_copy_is_of_something_into_nothing_and_has_both_for_itself() {
        let parent = tempfile::tempdir().unwrap();
        let [full, other, empty] = ["full", "other", "empty"].map(|name| parent.path().join(name));
        for folder in [&full, &other] {
            let keys = Engine::Sled.open_keys(folder).unwrap();
            keys.commit(vec![(b"m".to_vec(), Some(vec![1]))]).unwrap();
        }
        let into_full = copy((Engine::Sled, &full), (Engine::Sled, &other));
        assert!(matches!(into_full, Err(CopyError::NotEmpty)), "{into_full:?}");
        let of_nothing = copy(
            (Engine::Fjall, &empty),
            (Engine::Sled, &parent.path().join("new")),
        );
        assert!(matches!(of_nothing, Err(CopyError::Nothing)), "{of_nothing:?}");
        let _used = Engine::Sled.open_keys(&full).unwrap();
        let of_used = copy(
            (Engine::Sled, &full),
            (Engine::Fjall, &parent.path().join("third")),
        );
        assert!(
            matches!(of_used, Err(CopyError::From(StoreError::Locked(_)))),
            "{of_used:?}"
        );
    }

    #[test]
    fn a_copy_that_lost_a_record_or_changed_one_differs() {
        let keys = |writes: Vec<Write>| {
            let memory = MemoryStore::new();
            memory.0.commit(writes).unwrap();
            examine(&memory.0).unwrap()
        };
        let record = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
        let whole = keys(vec![record(b"ab", b"c"), record(b"d", b"")]);
        for other in [
            vec![record(b"ab", b"c")],
            vec![record(b"ab", b"d"), record(b"d", b"")],
            vec![record(b"a", b"bc"), record(b"d", b"")],
        ] {
            assert_ne!(keys(other), whole);
        }
    }
}
