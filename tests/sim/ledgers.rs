//! Worlds whose hosts keep their promises in the agents' real ledger, on disks that are cut, full and
//! damaged: every rule holds, and what was answered is there in each next life.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tests::sim::simulate_on_real_ledgers;

use crate::fixed::replay;

/// As many as a debug build does within some seconds; `ostler-sim run --real-ledgers` does more.
const SEEDS: u64 = 60;

#[test]
fn every_rule_holds_over_real_ledgers() {
    let (next, broken) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let verdict = simulate_on_real_ledgers(seed);
                    if verdict.violation.is_some() {
                        broken.lock().expect("no panic").push(replay(&verdict));
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no panic");
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
