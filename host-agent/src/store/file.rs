//! One file of the ledger: a redb database, one transaction a batch.
//!
//! redb sums every page, and is asked to check all of them whenever the file is opened: a page that
//! has changed by itself is found before anything is believed of it.

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableError,
};

use super::rows::{Change, Rows, TABLES, Table};

/// Pages kept in memory. All rows of a host are a few MiB, and are read once.
const CACHE_BYTES: usize = 8 << 20;

/// An open file.
#[derive(Debug)]
pub(super) struct LedgerFile {
    database: Database,
}

impl LedgerFile {
    /// Opens a file, and reads all of it.
    pub(super) fn open(file: impl StorageBackend) -> Result<(Self, Rows), redb::Error> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(file)?;
        let mut rows = Rows::default();
        let transaction = database.begin_read()?;
        for table in TABLES {
            let table_rows = match transaction.open_table(table.definition()) {
                Ok(table_rows) => table_rows,
                Err(TableError::TableDoesNotExist(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            for row in table_rows.iter()? {
                let (key, value) = row?;
                rows.insert(table, key.value(), value.value());
            }
        }
        drop(transaction);
        Ok((Self { database }, rows))
    }

    /// Makes a file of these rows, durably.
    pub(super) fn made_of(file: impl StorageBackend, rows: &Rows) -> Result<Self, redb::Error> {
        let mut builder = Builder::new();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(file)?;
        let made = Self { database };
        made.commit(&rows.changes())?;
        Ok(made)
    }

    /// Makes these changes durable, or none of them.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        for table in TABLES {
            let mut rows = transaction.open_table(table.definition())?;
            for change in changes.iter().filter(|change| change.table == table) {
                match &change.value {
                    Some(value) => rows.insert(change.key.as_str(), value.as_slice()).map(drop)?,
                    None => rows.remove(change.key.as_str()).map(drop)?,
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Table {
    fn definition(self) -> redb::TableDefinition<'static, &'static str, &'static [u8]> {
        redb::TableDefinition::new(self.name())
    }
}
