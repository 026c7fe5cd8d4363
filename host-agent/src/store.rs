//! The ledger on disk: one redb file, one transaction a batch.
//!
//! Decides the layout, and that a row that can't be read stops the agent: to leave it out would be to
//! deny a promise (its hold would vanish from what arbiters read, and the job could start elsewhere
//! while its guest runs here). Guests go on meanwhile. What is written when is the core's; that
//! nothing is answered before it is written is the shell's.

use std::path::Path;

use protocol::host::HostIntent;
use protocol::id::{Epoch, RunId};
use protocol::pool::PoolsConfig;
use protocol::signed::{Digest, Signed};
use protocol::trust::Trust;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::core::{Claim, JobRecord, LedgerState, NetworkRecord, Write};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jobs");
const CLAIMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("claims");
const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");

const EPOCH: &str = "epoch";
const BOOT: &str = "boot";
const TRUST: &str = "trust";
const AGREED: &str = "agreed";
const HOST_INTENT: &str = "host-intent";
const POOLS: &str = "pools";

/// The open ledger. It belongs to one process at a time.
pub(crate) struct Store {
    database: Database,
}

/// Why the ledger can't be used. Guests go on; this agent does not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the file says no.
    #[error("{what} the ledger: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: Box<redb::Error>,
    },
    /// A row is not what this version of the agent writes.
    #[error(
        "the ledger's row of {row} can't be read ({why}); guests run on, but the host must not forget what it has promised: put a backup of the file back, or the version of ostler that wrote it"
    )]
    Damaged {
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}

fn because<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Failed { what, source: Box::new(error.into()) }
}

impl Store {
    /// Opens or creates the ledger and begins a new epoch, durably, before anything is offered in
    /// it (rule R16). `boot` is the machine's boot id.
    pub(crate) fn open(path: &Path, boot: &str) -> Result<(Self, LedgerState), StoreError> {
        let database = Database::create(path).map_err(because("open"))?;
        let store = Self { database };
        let state = store.begin_epoch(boot)?;
        Ok((store, state))
    }

    fn begin_epoch(&self, boot: &str) -> Result<LedgerState, StoreError> {
        let transaction = self.database.begin_write().map_err(because("begin an epoch in"))?;
        let state = {
            let mut meta = transaction.open_table(META).map_err(because("read"))?;
            transaction.open_table(JOBS).map_err(because("read"))?;
            transaction.open_table(CLAIMS).map_err(because("read"))?;
            transaction.open_table(NETWORKS).map_err(because("read"))?;
            let read = |key: &str| -> Result<Option<Vec<u8>>, StoreError> {
                let row = meta.get(key).map_err(because("read"))?;
                Ok(row.map(|value| value.value().to_vec()))
            };
            let last: Option<u64> = read(EPOCH)?.map(|v| decode("epoch", &v)).transpose()?;
            let trust: Option<Signed<Trust>> =
                read(TRUST)?.map(|v| decode("trust", &v)).transpose()?;
            let agreed: Option<Digest> =
                read(AGREED)?.map(|v| decode("agreed change", &v)).transpose()?;
            let host_intent: Option<HostIntent> =
                read(HOST_INTENT)?.map(|v| decode("host intent", &v)).transpose()?;
            let pools: Option<PoolsConfig> =
                read(POOLS)?.map(|v| decode("pools", &v)).transpose()?;
            let last_boot: Option<String> =
                read(BOOT)?.map(|v| decode("boot id", &v)).transpose()?;
            let epoch = Epoch(last.unwrap_or(0) + 1);
            meta.insert(EPOCH, encode(&epoch).as_slice()).map_err(because("write"))?;
            meta.insert(BOOT, encode(&boot).as_slice()).map_err(because("write"))?;
            let is_rebooted = last_boot.is_some_and(|last_boot| last_boot != boot);
            LedgerState {
                epoch,
                is_rebooted,
                boot: boot.to_owned(),
                trust,
                agreed,
                host_intent,
                pools: pools.unwrap_or_default(),
                ..LedgerState::default()
            }
        };
        transaction.commit().map_err(because("begin an epoch in"))?;
        let (jobs, claims, networks) = (self.jobs()?, self.claims()?, self.networks()?);
        Ok(LedgerState { jobs, claims, networks, ..state })
    }

    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        let rows = self.rows(NETWORKS)?;
        rows.into_iter().map(|(name, row)| decode(&format!("network {name}"), &row)).collect()
    }

    fn jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        let rows = self.rows(JOBS)?;
        rows.into_iter().map(|(id, row)| decode(&format!("job {id}"), &row)).collect()
    }

    fn claims(&self) -> Result<Vec<(RunId, Claim)>, StoreError> {
        let rows = self.rows(CLAIMS)?;
        let read = |(id, row): (String, Vec<u8>)| {
            let what = format!("claim on run {id}");
            let run = id.parse().map_err(|e: uuid::Error| damaged(&what, &e))?;
            Ok((run, decode(&what, &row)?))
        };
        rows.into_iter().map(read).collect()
    }

    fn rows(
        &self,
        table: TableDefinition<'_, &'static str, &'static [u8]>,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let transaction = self.database.begin_read().map_err(because("read"))?;
        let table = transaction.open_table(table).map_err(because("read"))?;
        let mut rows = Vec::new();
        for row in table.iter().map_err(because("read"))? {
            let (key, value) = row.map_err(because("read"))?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(rows)
    }

    /// Makes all of these durable, or none. Blocks for one disk sync.
    pub(crate) fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(because("write"))?;
        {
            let mut meta = transaction.open_table(META).map_err(because("write"))?;
            let mut jobs = transaction.open_table(JOBS).map_err(because("write"))?;
            let mut claims = transaction.open_table(CLAIMS).map_err(because("write"))?;
            let mut networks = transaction.open_table(NETWORKS).map_err(because("write"))?;
            for write in writes {
                match write {
                    Write::Job(record) => {
                        jobs.insert(record.job.id.as_str(), encode(record).as_slice()).map(drop)
                    }
                    Write::JobGone(id) => jobs.remove(id.as_str()).map(drop),
                    Write::Trust(trust) => meta.insert(TRUST, encode(trust).as_slice()).map(drop),
                    Write::Agreed(change) => {
                        meta.insert(AGREED, encode(change).as_slice()).map(drop)
                    }
                    Write::HostIntent(Some(intent)) => {
                        meta.insert(HOST_INTENT, encode(intent).as_slice()).map(drop)
                    }
                    Write::HostIntent(None) => meta.remove(HOST_INTENT).map(drop),
                    Write::Pools(pools) => meta.insert(POOLS, encode(pools).as_slice()).map(drop),
                    Write::Claim(run, claim) => {
                        let key = run.to_string();
                        claims.insert(key.as_str(), encode(claim).as_slice()).map(drop)
                    }
                    Write::Network(record) => {
                        networks.insert(record.name.as_str(), encode(record).as_slice()).map(drop)
                    }
                    Write::NetworkGone(name) => networks.remove(name.as_str()).map(drop),
                    Write::ClaimGone(run) => claims.remove(run.to_string().as_str()).map(drop),
                }
                .map_err(because("write"))?;
            }
        }
        transaction.commit().map_err(because("write"))
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our nouns are always valid JSON")
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(what, &error))
}

fn damaged(row: &str, why: &dyn std::error::Error) -> StoreError {
    StoreError::Damaged { row: row.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::JobId;

    #[test]
    fn every_opening_is_a_new_epoch_and_a_reboot_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        let open = |boot: &str| Store::open(&path, boot).unwrap().1;
        let first = open("a");
        assert!(!first.is_rebooted, "the first start is no reboot");
        let second = open("a");
        assert!(second.epoch > first.epoch && !second.is_rebooted);
        assert!(open("b").is_rebooted);
    }

    #[test]
    fn what_was_committed_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        let good = crate::core::tests::record("good");
        {
            let (store, _) = Store::open(&path, "a").unwrap();
            let drain = Some(HostIntent::Drain);
            let agreed = Write::Agreed(Digest::of(b"a change"));
            let writes = [Write::Job(Box::new(good.clone())), Write::HostIntent(drain), agreed];
            store.commit(&writes).unwrap();
        }
        let (store, state) = Store::open(&path, "a").unwrap();
        assert_eq!(state.agreed, Some(Digest::of(b"a change")));
        assert_eq!((state.jobs, state.host_intent), (vec![good], Some(HostIntent::Drain)));
        store.commit(&[Write::HostIntent(None)]).unwrap();
        store.commit(&[Write::JobGone(JobId::new("good").unwrap())]).unwrap();
        drop(store);
        let state = Store::open(&path, "a").unwrap().1;
        assert_eq!((state.jobs, state.host_intent), (vec![], None));
    }

    #[test]
    fn a_row_that_cannot_be_read_stops_the_agent_and_is_named() {
        let rows = [
            (META, EPOCH),
            (META, TRUST),
            (META, AGREED),
            (META, HOST_INTENT),
            (META, POOLS),
            (JOBS, "web-1"),
            (CLAIMS, "no-run"),
            (NETWORKS, "blue"),
        ];
        for (table, key) in rows {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger.redb");
            let (store, _) = Store::open(&path, "a").unwrap();
            let transaction = store.database.begin_write().unwrap();
            transaction.open_table(table).unwrap().insert(key, &b"{torn"[..]).unwrap();
            transaction.commit().unwrap();
            drop(store);
            let refused = Store::open(&path, "a").err().expect("it must not be opened");
            assert!(matches!(refused, StoreError::Damaged { .. }), "{key}: {refused}");
        }
    }
}
