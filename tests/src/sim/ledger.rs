//! The agents' real ledger under simulated hosts: redb on a disk that forgets, is cut and is damaged.
//!
//! What the simulated disk holds stays the measure: after each death the real one must say the same, or,
//! of a write that nobody was answered for, the same with it. Chance here is a stream of its own, so that
//! a seed is the same run whichever ledger it has.

use host_agent::core::{LedgerState, Write};
use host_agent::store::{Damage, Store, Twin};

use super::chance::Chance;
use crate::disk::{Disk, Fault, Unsynced};

/// Of a million lives, so many begin with a damaged file.
const DAMAGE_PPM: u32 = 250_000;
/// Of a million writes under way at a death, so many are cut short.
const CUT_PPM: u32 = 700_000;
/// A commit has fewer operations on a file than this.
const OPERATIONS: u64 = 24;

/// A host's real ledger.
pub struct RealLedger {
    disk: Disk,
    store: Option<Store>,
    chance: Chance,
}

impl std::fmt::Debug for RealLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RealLedger").field("disk", &"…").finish_non_exhaustive()
    }
}

impl RealLedger {
    /// A ledger in which an agent has left this trust document.
    #[must_use]
    pub fn new(seed: u64, first: &[Write]) -> Self {
        let disk = Disk::default();
        let (store, ..) = Store::open(&disk, "", 0).expect("a new disk is well");
        store.commit(first).expect("a new disk is well");
        drop(store);
        Self { disk, store: None, chance: Chance::new(seed) }
    }

    /// A new life begins, perhaps with one file that has changed by itself.
    ///
    /// # Errors
    /// When the ledger can't be opened, or damage goes unsaid.
    pub fn open(&mut self, boot: &str) -> Result<LedgerState, String> {
        let damaged = self.chance.happens(DAMAGE_PPM).then(|| self.damage());
        let (store, state, damage) =
            Store::open(&self.disk, boot, 0).map_err(|error| error.to_string())?;
        self.store = Some(store);
        for Damage { twin, why, .. } in damage {
            if damaged != Some(twin) || why.is_none() {
                return Err(format!("{twin} is well, and said to be damaged: {why:?}"));
            }
            self.disk.remove_aside(twin);
        }
        Ok(state)
    }

    fn damage(&mut self) -> Twin {
        let twin = Twin::ALL[self.chance.index(2)];
        let mut bytes = self.disk.bytes(twin);
        let at = self.chance.index(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 0xff;
        }
        self.disk.set_bytes(twin, &bytes);
        twin
    }

    /// Writes, while nothing goes wrong.
    ///
    /// # Errors
    /// When it can't.
    pub fn commit(&self, writes: &[Write]) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("no agent has it open")?;
        store.commit(writes).map_err(|error| error.to_string())
    }

    /// The agent dies, with these writes under way; and with it, perhaps, the machine.
    pub fn die(&mut self, under_way: &[Write], is_full: bool) {
        if !under_way.is_empty() && self.chance.happens(CUT_PPM) {
            for twin in Twin::ALL {
                let operation = self.disk.operations(twin) + self.chance.between(1, OPERATIONS);
                let bytes = self.chance.index(4096);
                let fault = if is_full { Fault::Full } else { Fault::Cut { bytes } };
                self.disk.plan(twin, operation, fault);
            }
        }
        if let Some(store) = self.store.take() {
            // What becomes of it, nobody was told.
            let _ = (!under_way.is_empty()).then(|| store.commit(under_way));
            self.disk.stop();
            drop(store);
        }
        match self.chance.below(4) {
            0 => self.disk.start(),
            1 => self.disk.lose_power(Unsynced::Lost),
            2 => self.disk.lose_power(Unsynced::Kept),
            _ => self.disk.lose_power(Unsynced::Torn(self.chance.below(u64::MAX))),
        }
    }
}

/// The same rows, whatever their order and the life they were read in.
#[must_use]
pub fn is_same(real: &LedgerState, simulated: &LedgerState) -> bool {
    let jobs = |state: &LedgerState| {
        let mut jobs = state.jobs.clone();
        jobs.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        jobs
    };
    let claims = |state: &LedgerState| {
        let mut claims = state.claims.clone();
        claims.sort_by_key(|(run, _)| *run);
        claims
    };
    let rest = |state: &LedgerState| {
        (
            state.boot_of_rows.clone(),
            state.trust.clone(),
            state.agreed,
            state.host_intent,
            state.pools.clone(),
            state.history.clone(),
        )
    };
    rest(real) == rest(simulated)
        && jobs(real) == jobs(simulated)
        && claims(real) == claims(simulated)
}
