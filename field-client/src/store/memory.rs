//! An engine in memory. Its disk outlives it: what was committed is there when it is opened again, as after a power
//! cut, and nothing else is. Writes that a test holds back from it are what a power cut loses.

use super::{Engine, Order, StoreError, Table, Transaction, Visit, Work};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

type Tables = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// What survives a power cut; all engines that are opened on it share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Tables>>);

/// An engine on a [`MemoryDisk`].
#[derive(Debug)]
pub(crate) struct MemoryEngine(MemoryDisk);

impl MemoryDisk {
    /// Opens what the disk holds.
    pub(crate) fn open(&self) -> MemoryEngine {
        MemoryEngine(self.clone())
    }
}

impl MemoryEngine {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.0.lock().expect("no holder panics")
    }
}

impl Engine for MemoryEngine {
    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let mut tables = self.tables().clone();
        work(&mut tables)?;
        *self.tables() = tables;
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: Visit<'_>,
    ) -> Result<(), StoreError> {
        let tables = self.tables();
        let mut rows: Vec<_> = tables
            .range((table, from.to_vec())..(table, to.to_vec()))
            .collect();
        if order == Order::Descending {
            rows.reverse();
        }
        for ((_, key), value) in rows {
            if visit(key, value)? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

impl Transaction for Tables {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(BTreeMap::get(self, &(table, key.to_vec())).cloned())
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.remove(&(table, key.to_vec()));
        Ok(())
    }

    fn keys(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let range = self.range((table, from.to_vec())..(table, to.to_vec()));
        Ok(range.map(|((_, key), _)| key.clone()).collect())
    }
}
