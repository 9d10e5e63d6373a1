//! The store on redb.
//!
//! Quick repair is on: an unclean open is then quick however large the file is, for a little more work a commit.

use super::{Engine, Order, StoreError, Table, Transaction, Visit, Work};
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

/// Memory for pages; redb's own default of 1 GB is not for a phone.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

type Bytes = &'static [u8];

/// One database file, locked by redb for as long as it is open.
pub(crate) struct RedbEngine {
    database: Database,
}

impl RedbEngine {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process, or another client of this one, has it open.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let is_new = !path.exists();
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            other => StoreError::failed("opening the store", other),
        })?;
        let mut engine = Self { database };
        // Reads need the tables to be there.
        engine.transact(&mut |transaction| {
            Table::ALL
                .iter()
                .try_for_each(|&table| transaction.get(table, &[]).map(|_| ()))
        })?;
        if is_new && let Some(folder) = path.parent() {
            // The name of a new file is durable only when its folder is.
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| StoreError::failed("making the store", error))?;
        }
        Ok(engine)
    }
}

impl Engine for RedbEngine {
    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let failed = |error: redb::Error| StoreError::failed("writing", error);
        let mut transaction = self
            .database
            .begin_write()
            .map_err(|error| failed(error.into()))?;
        transaction.set_quick_repair(true);
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|error| failed(error.into()))?;
        work(&mut RedbTransaction {
            transaction: &transaction,
        })?;
        transaction.commit().map_err(|error| failed(error.into()))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |error: redb::Error| StoreError::failed("reading", error);
        let transaction = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let opened = transaction
            .open_table(definition(table))
            .map_err(|error| failed(error.into()))?;
        let value = opened.get(key).map_err(|error| failed(error.into()))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: Visit<'_>,
    ) -> Result<(), StoreError> {
        let failed = |error: redb::Error| StoreError::failed("reading", error);
        let transaction = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let opened = transaction
            .open_table(definition(table))
            .map_err(|error| failed(error.into()))?;
        let mut range = opened.range(from..to).map_err(|error| failed(error.into()))?;
        loop {
            let next = match order {
                Order::Ascending => range.next(),
                Order::Descending => range.next_back(),
            };
            let Some(row) = next else { return Ok(()) };
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            if visit(key.value(), value.value())? == ControlFlow::Break(()) {
                return Ok(());
            }
        }
    }
}

struct RedbTransaction<'t> {
    transaction: &'t redb::WriteTransaction,
}

impl RedbTransaction<'_> {
    fn table(&self, table: Table) -> Result<redb::Table<'_, Bytes, Bytes>, StoreError> {
        let opened = self.transaction.open_table(definition(table));
        opened.map_err(|error| StoreError::failed("writing", error))
    }
}

impl Transaction for RedbTransaction<'_> {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let opened = self.table(table)?;
        let value = opened
            .get(key)
            .map_err(|error| StoreError::failed("reading", error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let put = self.table(table)?.insert(key, value).map(|_| ());
        put.map_err(|error| StoreError::failed("writing", error))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let removed = self.table(table)?.remove(key).map(|_| ());
        removed.map_err(|error| StoreError::failed("writing", error))
    }

    fn keys(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let failed = |error: redb::StorageError| StoreError::failed("reading", error);
        let opened = self.table(table)?;
        let mut keys = Vec::new();
        for row in opened.range(from..to).map_err(failed)? {
            keys.push(row.map_err(failed)?.0.value().to_vec());
        }
        Ok(keys)
    }
}

fn definition(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(table.name())
}
