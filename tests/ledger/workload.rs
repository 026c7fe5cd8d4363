//! What an agent writes, in small: jobs that come, change and go, claims, trust and intent.

use std::fmt;
use std::sync::OnceLock;

use host_agent::core::{Claim, JobRecord, LedgerState, Write};
use host_agent::store::{Damage, Store, StoreError};
use protocol::history::HistoryConfig;
use protocol::host::HostIntent;
use protocol::id::{JobId, RunId};
use protocol::signed::{Digest, SecretKey, Signed};
use protocol::trust::Trust;
use serde_json::json;
use tests::disk::Disk;
use tests::sim::Profile;
use tests::sim::host::apply;
use uuid::Uuid;

/// A machine's boot id.
pub(crate) const BOOT: &str = "a";

/// One batch after another.
pub(crate) fn batches() -> &'static [Vec<Write>] {
    static BATCHES: OnceLock<Vec<Vec<Write>>> = OnceLock::new();
    BATCHES.get_or_init(made)
}

fn made() -> Vec<Vec<Write>> {
    let run = |n| RunId(Uuid::from_u128(n));
    let claim = |claim| Claim { claim, ..Claim::default() };
    let some =
        |names: std::ops::Range<u32>, state| names.map(|n| job(n, state)).collect::<Vec<_>>();
    vec![
        vec![Write::Trust(Box::new(trust()))],
        vec![job(0, "accepted"), Write::Claim(run(1), claim(1))],
        vec![job(0, "running")],
        some(1..30, "accepted"),
        vec![Write::HostIntent(Some(HostIntent::Drain)), Write::Agreed(Digest::of(b"one"))],
        some(1..15, "running"),
        vec![Write::History(HistoryConfig { version: 1, jobs: 7, ..HistoryConfig::default() })],
        vec![Write::JobGone(name(3)), Write::JobGone(name(4)), Write::Claim(run(1), claim(2))],
        vec![Write::ClaimGone(run(1)), Write::HostIntent(None), job(30, "accepted")],
        vec![job(0, "stopped")],
    ]
}

fn name(n: u32) -> JobId {
    JobId::new(format!("job-{n}")).expect("a good name")
}

fn job(n: u32, state: &str) -> Write {
    let record = json!({
        "job": {
            "id": name(n),
            "revision": 1,
            "spec": {
                "vm": {"vcpus": 1, "memory_bytes": 134_217_728},
                "labels": {"for": "x".repeat(200)},
            },
            "state": state,
            "since_ms": 1_700_000_000_000_u64,
            "domain_uuid": name(n).domain_uuid(),
        },
        "intent": "run",
    });
    let record: JobRecord = serde_json::from_value(record).expect("as an agent writes it");
    Write::Job(Box::new(record))
}

fn trust() -> Signed<Trust> {
    let key = |role: u8, n: usize| SecretKey::from_seed([role + u8::try_from(n).unwrap_or(0); 32]);
    let operator = key(1, 0);
    let trust = Profile::of_seed(1).trust(|n| key(10, n), |n| key(100, n), &operator);
    Signed::seal(&trust, &operator)
}

/// What a ledger says, in an order of its own.
#[derive(Clone, PartialEq)]
pub(crate) struct Said {
    trust: Option<Signed<Trust>>,
    rest: String,
    jobs: Vec<JobRecord>,
    claims: Vec<(RunId, Claim)>,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust, rest, jobs, claims } = self;
        let (is_trusting, states) = (trust.is_some(), jobs.iter().map(|job| job.job.state));
        write!(f, "{is_trusting} {rest} {claims:?} {:?}", states.collect::<Vec<_>>())
    }
}

impl Said {
    pub(crate) fn by(mut state: LedgerState) -> Self {
        state.jobs.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        state.claims.sort_by_key(|(run, _)| *run);
        let rest = format!(
            "{:?} {:?} {:?} {:?}",
            state.agreed, state.host_intent, state.pools, state.history
        );
        Self { trust: state.trust, rest, jobs: state.jobs, claims: state.claims }
    }

    /// What is said after so many batches.
    pub(crate) fn after(count: usize) -> &'static Self {
        static SAID: OnceLock<Vec<Said>> = OnceLock::new();
        let said = || {
            let mut state = LedgerState::default();
            let mut all = vec![Self::by(state.clone())];
            for batch in batches() {
                apply(&mut state, batch.clone());
                all.push(Self::by(state.clone()));
            }
            all
        };
        &SAID.get_or_init(said)[count]
    }

    /// What is said after all of them.
    pub(crate) fn after_all() -> &'static Self {
        Self::after(batches().len())
    }
}

/// Opens the ledger, and says what it says and what was damaged.
pub(crate) fn open(disk: &Disk) -> Result<(Store, Said, Vec<Damage>), StoreError> {
    let (store, state, damage) = Store::open(disk, BOOT, 0)?;
    Ok((store, Said::by(state), damage))
}

/// Opens the ledger and writes batch after batch until the disk says no. How many were answered; and the
/// error of the next.
pub(crate) fn live(disk: &Disk, batches: &[Vec<Write>]) -> (usize, Option<StoreError>) {
    let (store, ..) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => {
            disk.stop();
            return (0, Some(error));
        }
    };
    let mut answered = 0;
    let failed = batches.iter().find_map(|batch| {
        let failed = store.commit(batch).err();
        answered += usize::from(failed.is_none());
        failed
    });
    // It is killed, and does nothing in an orderly way.
    disk.stop();
    drop(store);
    (answered, failed)
}
