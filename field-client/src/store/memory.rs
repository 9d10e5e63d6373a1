//! A store in memory that tells what is on disk from what is not: its disk has what was synced, and a power cut
//! leaves nothing else.

use super::{Engine, Order, StoreError, Table, Transaction, Visit, Work};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

type Tables = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// What survives a power cut; engines on the same disk see what was synced to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Tables>>);

/// An engine on a [`MemoryDisk`].
#[derive(Debug)]
pub(crate) struct MemoryEngine {
    disk: MemoryDisk,
    /// With what is not yet synced.
    tables: Tables,
}

impl MemoryDisk {
    /// Opens what the disk holds, as after a power cut.
    pub(crate) fn open(&self) -> MemoryEngine {
        let tables = self.0.lock().expect("no holder panics").clone();
        MemoryEngine {
            disk: self.clone(),
            tables,
        }
    }
}

impl Engine for MemoryEngine {
    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let mut tables = self.tables.clone();
        work(&mut tables)?;
        self.tables = tables;
        *self.disk.0.lock().expect("no holder panics") = self.tables.clone();
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: Visit<'_>,
    ) -> Result<(), StoreError> {
        let mut rows: Vec<_> = self
            .tables
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
