//! A store in memory: for tests, and for whoever wants a server that forgets.

use super::StoreError;
use super::kv::{KeyedStore, Order, OrderedKeys, Visit, Write};
use std::collections::BTreeMap;
use std::sync::RwLock;

/// A store that keeps everything in memory; nothing survives the process.
pub type MemoryStore = KeyedStore<MemoryKeys>;

/// Ordered keys in memory.
#[derive(Debug, Default)]
pub struct MemoryKeys(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

#[cfg(test)]
impl MemoryStore {
    /// Another store that holds the same.
    pub(crate) fn copied(&self) -> Self {
        let records = self.0.0.read().expect("nothing panics while the lock is held");
        KeyedStore(MemoryKeys(RwLock::new(records.clone())))
    }

    /// How many receipts there are, of entries that are there or not.
    pub(crate) fn receipts_kept(&self) -> usize {
        let records = self.0.0.read().expect("nothing panics while the lock is held");
        let receipts = super::keys::Table::Receipts as u8;
        records
            .keys()
            .filter(|key| key.first() == Some(&receipts))
            .count()
    }
}

impl OrderedKeys for MemoryKeys {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .0
            .read()
            .expect("nothing panics while the lock is held")
            .get(key)
            .cloned())
    }

    fn scan(&self, first: &[u8], last: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let records = self.0.read().expect("nothing panics while the lock is held");
        let range = records.range(first.to_vec()..=last.to_vec());
        let mut step = |(key, value): (&Vec<u8>, &Vec<u8>)| visit(key, value);
        match order {
            Order::Ascending => {
                for record in range {
                    if step(record)?.is_break() {
                        break;
                    }
                }
            }
            Order::Descending => {
                for record in range.rev() {
                    if step(record)?.is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let records = self.0.read().expect("nothing panics while the lock is held");
        for (key, value) in records.iter() {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut records = self.0.write().expect("nothing panics while the lock is held");
        for (key, value) in writes {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(())
    }

    /// Nobody else can reach it.
    fn check_owner(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
