//! From a world in which a rule is broken to the smallest one found in which the same rule is.
//!
//! What a world is made of is left out or made less, one thing after the other, for as long as the rule is still broken
//! in one of a few worlds of that kind. It is another history each time: what is kept is the fault, not the way to it.

use super::invariants::Violation;
use super::mutant::Mutant;
use super::profile::Profile;
use super::verdict::simulate_world;

/// Time is cut to this, at least.
const NOISE_MS_MIN: u64 = 5_000;

/// A world and the rule that is broken in it.
#[derive(Debug, Clone)]
pub struct Minimal {
    /// How it is made.
    pub profile: Profile,
    /// What is broken.
    pub violation: Violation,
}

/// The smallest world found, and how many were tried. `None` if no rule is broken in this one. Each kind of world is
/// tried with so many seeds.
#[must_use]
pub fn minimise(profile: Profile, mutant: Option<Mutant>, seeds: u64) -> Option<(Minimal, u64)> {
    let violation = broken(&profile, mutant)?;
    let mut least = Minimal { profile, violation };
    let mut tried = 1;
    loop {
        let smaller = reductions(&least).into_iter().find_map(|profile| {
            (0..seeds).find_map(|n| {
                tried += 1;
                let seed = profile.seed.wrapping_add(n);
                let profile = Profile { seed, ..profile.clone() };
                let violation = broken(&profile, mutant)?;
                let is_same = violation.invariant == least.violation.invariant;
                is_same.then_some(Minimal { profile, violation })
            })
        });
        match smaller {
            Some(smaller) => least = smaller,
            None => return Some((least, tried)),
        }
    }
}

fn broken(profile: &Profile, mutant: Option<Mutant>) -> Option<Violation> {
    simulate_world(profile.clone(), mutant).violation
}

/// Worlds that have one thing less than this one, the largest things first.
fn reductions(of: &Minimal) -> Vec<Profile> {
    let mut all = Vec::new();
    let mut less = |change: &dyn Fn(&mut Profile)| {
        let mut profile = of.profile.clone();
        change(&mut profile);
        if profile != of.profile {
            all.push(profile);
        }
    };
    let until_ms = of.violation.at_us / 1_000;
    less(&|p| p.noise_ms = p.noise_ms.min(until_ms.max(NOISE_MS_MIN)));
    less(&|p| p.noise_ms = (p.noise_ms / 2).max(NOISE_MS_MIN).min(p.noise_ms));
    less(&|p| {
        (p.spare_arbiters, p.spare_witnesses, p.change_every_ms, p.has_rival) = (0, 0, 0, false);
    });
    less(&|p| (p.has_fences, p.has_fencers, p.fence_every_ms) = (false, false, 0));
    less(&|p| p.has_fencers = false);
    less(&|p| p.has_budgets = false);
    less(&|p| p.has_hours = false);
    less(&|p| p.starts_in_a_minute = None);
    less(&|p| p.quota_vms = None);
    less(&|p| {
        let first = p.arbiters_ever();
        p.liars.retain(|liar| *liar < first);
        (p.witnesses, p.spare_witnesses) = (0, 0);
    });
    less(&|p| p.has_lapsing = p.has_lapsing && p.witnesses > 0);
    less(&|p| p.engines_per_group = 1);
    less(&|p| p.groups = 1);
    less(&|p| p.monitors = 1);
    less(&|p| p.hosts = (p.hosts - 1).max(1));
    less(&|p| p.jobs = (p.jobs - 1).max(1));
    less(&|p| p.clock_ppm = 0);
    less(&|p| p.hv_trouble_ppm = 0);
    less(&|p| p.disk_stall_ppm = 0);
    less(&|p| p.crash_in_batch_ppm = 0);
    less(&|p| p.loss_ppm = 0);
    less(&|p| p.double_ppm = 0);
    less(&|p| p.late_ppm = 0);
    for fault in &of.profile.faults {
        less(&|p| p.faults.retain(|other| other != fault));
    }
    all
}
