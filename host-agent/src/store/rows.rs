//! The layout of the ledger: four tables, a key and JSON in each row.

use std::collections::BTreeMap;

use protocol::id::{Epoch, RunId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::{LedgerState, Write};

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Meta,
    Jobs,
    Claims,
    Networks,
}

/// All tables.
pub(super) const TABLES: [Table; 4] = [Table::Meta, Table::Jobs, Table::Claims, Table::Networks];

const EPOCH: &str = "epoch";
const COMMITS: &str = "commits";
const BOOT: &str = "boot";
const TRUST: &str = "trust";
const AGREED: &str = "agreed";
const HOST_INTENT: &str = "host-intent";
const POOLS: &str = "pools";
const HISTORY: &str = "history";

impl Table {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Jobs => "jobs",
            Self::Claims => "claims",
            Self::Networks => "networks",
        }
    }
}

/// One change of one row; without a value, the row goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
}

impl Change {
    pub(super) fn of(write: &Write) -> Self {
        use Table::{Claims, Jobs, Meta, Networks};
        match write {
            Write::Job(record) => Self::set(Jobs, record.job.id.as_str(), record),
            Write::JobGone(id) => Self::unset(Jobs, id.as_str()),
            Write::Boot(boot) => Self::set(Meta, BOOT, boot),
            Write::Trust(trust) => Self::set(Meta, TRUST, trust),
            Write::Agreed(change) => Self::set(Meta, AGREED, change),
            Write::HostIntent(Some(intent)) => Self::set(Meta, HOST_INTENT, intent),
            Write::HostIntent(None) => Self::unset(Meta, HOST_INTENT),
            Write::Pools(pools) => Self::set(Meta, POOLS, pools),
            Write::History(history) => Self::set(Meta, HISTORY, history),
            Write::Claim(run, claim) => Self::set(Claims, &run.to_string(), claim),
            Write::ClaimGone(run) => Self::unset(Claims, &run.to_string()),
            Write::Network(record) => Self::set(Networks, record.name.as_str(), record),
            Write::NetworkGone(name) => Self::unset(Networks, name.as_str()),
        }
    }

    /// A new life begins. Of which boot the rows tell is another matter ([`Write::Boot`]).
    pub(super) fn of_epoch(epoch: Epoch) -> [Self; 2] {
        [Self::set(Table::Meta, EPOCH, &epoch), Self::of_commit(0)]
    }

    /// So many batches have been written in this life.
    pub(super) fn of_commit(number: u64) -> Self {
        Self::set(Table::Meta, COMMITS, &number)
    }

    fn set<T: Serialize + ?Sized>(table: Table, key: &str, value: &T) -> Self {
        let value = serde_json::to_vec(value).expect("our nouns are always valid JSON");
        Self { table, key: key.to_owned(), value: Some(value) }
    }

    fn unset(table: Table, key: &str) -> Self {
        Self { table, key: key.to_owned(), value: None }
    }
}

/// Every row, as it is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows(BTreeMap<(Table, String), Vec<u8>>);

impl Rows {
    pub(super) fn insert(&mut self, table: Table, key: &str, value: &[u8]) {
        self.0.insert((table, key.to_owned()), value.to_owned());
    }

    /// What makes a file of them.
    pub(super) fn changes(&self) -> Vec<Change> {
        let set = |((table, key), value): (&(Table, String), &Vec<u8>)| Change {
            table: *table,
            key: key.clone(),
            value: Some(value.clone()),
        };
        self.0.iter().map(set).collect()
    }

    /// What they say, and how many batches were written in the life of which they tell; or which row
    /// can't be read, and why.
    pub(super) fn read(&self) -> Result<(LedgerState, u64), String> {
        let state = LedgerState {
            epoch: self.meta(EPOCH)?.unwrap_or_default(),
            boot: String::new(),
            boot_of_rows: self.meta(BOOT)?.unwrap_or_default(),
            trust: self.meta(TRUST)?,
            agreed: self.meta(AGREED)?,
            host_intent: self.meta(HOST_INTENT)?,
            pools: self.meta(POOLS)?.unwrap_or_default(),
            history: self.meta(HISTORY)?.unwrap_or_default(),
            jobs: self.all(Table::Jobs)?.into_iter().map(|(_, job)| job).collect(),
            claims: self.claims()?,
            networks: self.all(Table::Networks)?.into_iter().map(|(_, one)| one).collect(),
        };
        Ok((state, self.meta(COMMITS)?.unwrap_or(0)))
    }

    fn claims<C: DeserializeOwned>(&self) -> Result<Vec<(RunId, C)>, String> {
        let read = |(run, claim): (&str, C)| match run.parse() {
            Ok(run) => Ok((run, claim)),
            Err(why) => Err(damaged(Table::Claims, run, &why as &uuid::Error)),
        };
        self.all(Table::Claims)?.into_iter().map(read).collect()
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, String> {
        let row = self.0.get(&(Table::Meta, key.to_owned()));
        row.map(|row| decode(Table::Meta, key, row)).transpose()
    }

    fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(&str, T)>, String> {
        let rows = self.0.range((table, String::new())..).take_while(|((of, _), _)| *of == table);
        rows.map(|((_, key), row)| Ok((key.as_str(), decode(table, key, row)?))).collect()
    }
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, row: &[u8]) -> Result<T, String> {
    serde_json::from_slice(row).map_err(|why| damaged(table, key, &why))
}

fn damaged(table: Table, key: &str, why: &dyn std::error::Error) -> String {
    let table = table.name();
    format!("has a row {key:?} of {table} that can't be read: {why}")
}
