//! What kind of world a seed makes: how large, how troubled, for how long.
//!
//! Small worlds find more faults a second than large ones, so most are small; each seed leaves some
//! kinds of trouble out, so that rare combinations are not always drowned by common ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::amounts::{Amounts, VMS_ANY};
use protocol::id::{ClusterId, JobId, TenantId};
use protocol::signed::SecretKey;
use protocol::trust::{
    CLOCK_PPM, Policy, RATE_WITHIN_S_MIN, Slot, StartRate, StartWindows, TenantPolicy, Trust,
    UtcOffset, Window, Witnesses,
};

use serde::{Deserialize, Deserializer, Serialize};

use super::chance::Chance;

/// The tenant with a limit.
pub const TENANT_WITH_QUOTA: &str = "small";

/// How a world is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// All chance comes from it.
    pub seed: u64,
    /// Hypervisors.
    pub hosts: usize,
    /// Arbiters.
    pub arbiters: usize,
    /// How many of them a ticket needs.
    pub k: u32,
    /// How many of them, and of the witnesses, may lie.
    pub f: u32,
    /// Who does: numbers of arbiters and witnesses.
    pub liars: Vec<usize>,
    /// Monitors.
    pub monitors: usize,
    /// Groups of engines that know nothing of each other.
    pub groups: usize,
    /// Engines in each.
    pub engines_per_group: usize,
    /// Different jobs that are ever wanted.
    pub jobs: u64,
    /// The limit of the tenant with one, in CPUs.
    pub quota_vcpus: u32,
    /// Its limit in VMs, if it has one of them.
    pub quota_vms: Option<u32>,
    /// How many of its VMs may be started within a minute, if that is limited.
    pub starts_in_a_minute: Option<u32>,
    /// Whether its VMs may be started in every minute but the second of the day.
    pub has_hours: bool,
    /// How wrong clocks run, in parts per million.
    pub clock_ppm: u32,
    /// How long things go wrong.
    pub noise_ms: u64,
    /// How often somebody wants something, on average; 0 for never.
    pub wish_every_ms: u64,
    /// How often something goes wrong, on average; 0 for never.
    pub fault_every_ms: u64,
    /// Kinds of fault that happen, by name.
    #[serde(deserialize_with = "known_faults")]
    pub faults: Vec<&'static str>,
    /// Of a million libvirt calls, so many go wrong.
    pub hv_trouble_ppm: u32,
    /// Of a million disk writes, so many stall.
    pub disk_stall_ppm: u32,
    /// Of a million batches of effects, so many are cut short by a crash.
    pub crash_in_batch_ppm: u32,
    /// Of a million messages, so many are lost, when nothing else is wrong.
    pub loss_ppm: u32,
    /// Of a million requests, so many are doubled.
    pub double_ppm: u32,
    /// Of a million messages, so many are late.
    pub late_ppm: u32,
    /// Whether all jobs but the first are killed when they are not covered.
    pub has_lapsing: bool,
    /// Arbiters that are none at first and may become some.
    pub spare_arbiters: usize,
    /// Witnesses, numbered after all arbiters.
    pub witnesses: usize,
    /// Witnesses that are none at first and may become some.
    pub spare_witnesses: usize,
    /// How often an operator changes the arbiters, on average; 0 for never.
    pub change_every_ms: u64,
    /// Whether a second operator signs what it thinks best, knowing less.
    pub has_rival: bool,
    /// Whether operators say at times that a host is off.
    pub has_fences: bool,
    /// Whether controllers say it as well, and don't ask the operators.
    pub has_fencers: bool,
    /// How often by themselves, on average; 0 for never.
    pub fence_every_ms: u64,
    /// Whether budgets are made, spent and given back.
    pub has_budgets: bool,
}

/// Every kind of fault the chooser knows.
pub const FAULTS: [&str; 17] = [
    "part",
    "part-one-way",
    "isolate",
    "storm",
    "pause",
    "kill-agent",
    "kill-arbiter",
    "kill-monitor",
    "kill-engine",
    "take-over",
    "power-loss",
    "libvirt-down",
    "libvirt-slow",
    "disk-full",
    "guest-ends",
    "clock-drift",
    "wall-jump",
];

/// Those that also happen where jobs need cover.
pub const KEEPER_FAULTS: [&str; 2] = ["kill-keeper", "pause-keeper"];

/// What makes a job lapse has to come often enough.
const LAPSING_FAULTS: [&str; 4] = ["isolate", "isolate", "part", "power-loss"];

/// Those that happen where there are witnesses.
pub const WITNESS_FAULTS: [&str; 5] =
    ["kill-arbiters", "kill-arbiters", "kill-witnesses", "part-committee", "part-committee"];

impl Profile {
    /// A calm world in which nothing happens by itself: for scenarios.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            hosts: 3,
            arbiters: 3,
            k: 2,
            f: 0,
            liars: vec![],
            monitors: 1,
            groups: 2,
            engines_per_group: 1,
            jobs: 0,
            quota_vcpus: 6,
            quota_vms: None,
            starts_in_a_minute: None,
            has_hours: false,
            clock_ppm: 0,
            noise_ms: 0,
            wish_every_ms: 0,
            fault_every_ms: 0,
            faults: vec![],
            hv_trouble_ppm: 0,
            disk_stall_ppm: 0,
            crash_in_batch_ppm: 0,
            loss_ppm: 0,
            double_ppm: 0,
            late_ppm: 0,
            has_lapsing: false,
            spare_arbiters: 0,
            witnesses: 0,
            spare_witnesses: 0,
            change_every_ms: 0,
            has_rival: false,
            has_fences: false,
            has_fencers: false,
            fence_every_ms: 0,
            has_budgets: false,
        }
    }

    /// The troubled world of this seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        // A stream of its own, so that what happens does not depend on how the world was chosen.
        let mut chance = Chance::new(seed ^ 0x70726f66_696c6573);
        let (arbiters, k) =
            *chance.pick(&[(1, 1), (3, 2), (3, 2), (3, 2), (5, 3)]).unwrap_or(&(3, 2));
        let left_out: Vec<&str> =
            (0..chance.below(6)).filter_map(|_| chance.pick(&FAULTS).copied()).collect();
        let mut faults: Vec<&str> =
            FAULTS.into_iter().filter(|fault| !left_out.contains(fault)).collect();
        let has_lapsing = seed.is_multiple_of(2);
        if has_lapsing {
            faults.extend(KEEPER_FAULTS);
            faults.extend(LAPSING_FAULTS);
        }
        let sometimes = |chance: &mut Chance, ppm| if chance.happens(500_000) { ppm } else { 0 };
        // A stream of its own: other worlds stay as they are.
        let mut changing = Chance::new(seed ^ 0x6368616e_67657321);
        let has_changes = seed % 3 == 1;
        let change_every_ms = if has_changes { changing.between(4_000, 25_000) } else { 0 };
        let spare_arbiters = if has_changes { 4 } else { 0 };
        let mut counting = Chance::new(seed ^ 0x766d735f_6c696d69);
        let quota_vms = (seed % 4 == 1).then(|| counting.between(1, 3));
        let quota_vms = quota_vms.and_then(|vms| u32::try_from(vms).ok());
        // While arbiters change, twice as many may be started.
        let mut rating = Chance::new(seed ^ 0x72617465_735f3630);
        let is_rated = seed % 5 == 2 && !has_changes;
        let starts_in_a_minute = is_rated.then(|| rating.between(1, 4));
        let starts_in_a_minute = starts_in_a_minute.and_then(|starts| u32::try_from(starts).ok());
        let mut fencing = Chance::new(seed ^ 0x66656e63_65732121);
        let has_fences = seed % 5 == 4;
        let has_fencers = seed % 10 == 4 && !has_changes;
        let fence_every_ms = if has_fences { fencing.between(2_000, 9_000) } else { 0 };
        // Of what they are for there must be enough: all arbiters are away.
        let has_budgets = seed % 7 == 3;
        if has_budgets {
            faults.extend(["kill-arbiters", "kill-arbiters", "kill-agent"]);
        }
        if has_fences {
            // Who is said to be off should be, at times.
            faults.extend(["power-loss", "power-loss", "kill-arbiter"]);
        }
        Self {
            seed,
            hosts: usize::try_from(chance.between(2, 4)).unwrap_or(3),
            arbiters,
            k,
            f: 0,
            liars: vec![],
            monitors: usize::try_from(chance.between(1, 3)).unwrap_or(1),
            groups: usize::try_from(chance.between(1, 2)).unwrap_or(1),
            engines_per_group: usize::try_from(chance.between(1, 2)).unwrap_or(1),
            jobs: chance.between(2, 5),
            quota_vcpus: u32::try_from(chance.between(3, 8)).unwrap_or(4),
            quota_vms,
            starts_in_a_minute,
            has_hours: seed % 11 == 5,
            clock_ppm: u32::try_from(CLOCK_PPM).unwrap_or(0),
            noise_ms: chance.between(30_000, 90_000),
            wish_every_ms: chance.between(850, 3_400),
            fault_every_ms: chance.between(1_500, 8_000),
            faults,
            hv_trouble_ppm: sometimes(&mut chance, 15_000),
            disk_stall_ppm: sometimes(&mut chance, 10_000),
            crash_in_batch_ppm: sometimes(&mut chance, 8_000),
            loss_ppm: sometimes(&mut chance, 10_000),
            double_ppm: sometimes(&mut chance, 40_000),
            late_ppm: sometimes(&mut chance, 10_000),
            has_lapsing,
            spare_arbiters,
            witnesses: 0,
            spare_witnesses: 0,
            change_every_ms,
            has_rival: false,
            has_fences,
            has_fencers,
            fence_every_ms,
            has_budgets,
        }
    }

    /// The same with arbiters that change, two operators of whom one knows little, and no rest in the
    /// end: what they do to each other's changes may keep both from coming to their end.
    #[must_use]
    pub fn of_rivals(seed: u64) -> Self {
        let change_every_ms = 6_000;
        let (has_fences, fence_every_ms) = (false, 0);
        let has_rival = true;
        let spare_arbiters = 4;
        Self {
            spare_arbiters,
            change_every_ms,
            has_rival,
            has_fences,
            has_fencers: false,
            fence_every_ms,
            ..Self::of_seed(seed)
        }
    }

    /// The same with witnesses, which operators change as well where they change arbiters.
    #[must_use]
    pub fn of_witnesses(seed: u64) -> Self {
        let base = Self::of_seed(seed);
        // A stream of its own: other worlds stay as they are.
        let mut chance = Chance::new(seed ^ 0x7769746e_65737321);
        let mut faults = base.faults.clone();
        if !base.has_lapsing {
            faults.extend(KEEPER_FAULTS);
            faults.extend(LAPSING_FAULTS);
        }
        faults.extend(WITNESS_FAULTS);
        let (witnesses, spare_witnesses) = match base.spare_arbiters {
            0 => (*chance.pick(&[1, 3, 3, 3, 5]).unwrap_or(&3), 0),
            _ => *chance.pick(&[(0, 4), (1, 3), (3, 2), (3, 2)]).unwrap_or(&(3, 2)),
        };
        Self { has_lapsing: true, faults, witnesses, spare_witnesses, ..base }
    }

    /// The same with arbiters that lie, as many as their document bears, and in half of the worlds with witnesses of
    /// whom as many lie. Those who are left are enough for a quorum.
    #[must_use]
    pub fn of_liars(seed: u64) -> Self {
        let base = match seed % 4 < 2 {
            true => Self::of_witnesses(seed),
            false => Self::of_seed(seed),
        };
        // A stream of its own: other worlds stay as they are.
        let mut chance = Chance::new(seed ^ 0x6c696172_73212121);
        let (arbiters, k, f) =
            *chance.pick(&[(4, 3, 1), (4, 3, 1), (5, 4, 1), (7, 5, 2)]).unwrap_or(&(4, 3, 1));
        let witnesses = match base.witnesses {
            0 => 0,
            _ => 3 * f + 1,
        };
        let mut made = Self { arbiters, k, witnesses, ..base };
        let mut liars = some(&mut chance, 0..arbiters, f);
        liars.extend(some(&mut chance, made.witnesses_ever().take(witnesses), f));
        made.f = u32::try_from(f).unwrap_or(0);
        made.liars = liars;
        made
    }

    /// The same with so many hosts, and as much more of everything that goes on and goes wrong.
    #[must_use]
    pub fn of_many(seed: u64, hosts: usize) -> Self {
        let base = Self::of_seed(seed);
        let times = u64::try_from(hosts.div_ceil(base.hosts)).unwrap_or(1);
        let quota_times = u32::try_from(times).unwrap_or(1);
        Self {
            hosts,
            arbiters: 5,
            k: 3,
            monitors: 3,
            groups: 4,
            engines_per_group: 2,
            jobs: base.jobs * times,
            quota_vcpus: base.quota_vcpus * quota_times,
            wish_every_ms: base.wish_every_ms.div_ceil(times),
            fault_every_ms: base.fault_every_ms.div_ceil(times.min(20)),
            ..base
        }
    }

    /// All who have ever been arbiters or may become some.
    #[must_use]
    pub fn arbiters_ever(&self) -> usize {
        self.arbiters + self.spare_arbiters
    }

    /// The numbers of all who have ever been witnesses or may become some.
    #[must_use]
    pub fn witnesses_ever(&self) -> std::ops::Range<usize> {
        let first = self.arbiters_ever();
        first..first + self.witnesses + self.spare_witnesses
    }

    /// Whether a job is one that is killed when it is not covered: all but the first.
    #[must_use]
    pub fn lapses(&self, job: &JobId) -> bool {
        let number = job.as_str().strip_prefix("vm-").and_then(|n| n.parse::<u64>().ok());
        self.has_lapsing && number.is_some_and(|number| number > 0)
    }

    /// The trust document of such a world.
    #[must_use]
    pub fn trust(
        &self,
        host_key: impl Fn(usize) -> SecretKey,
        arbiter_key: impl Fn(usize) -> SecretKey,
        operator: &SecretKey,
    ) -> Trust {
        let slot = |n: usize| Slot {
            slot: u32::try_from(n).unwrap_or(0),
            key: arbiter_key(n).public(),
            url: String::new(),
        };
        let tenant = TenantId::new(TENANT_WITH_QUOTA).expect("a valid name");
        let limit = Amounts {
            vcpus: self.quota_vcpus,
            memory_bytes: 1 << 50,
            disk_bytes: 1 << 50,
            vms: self.quota_vms.unwrap_or(VMS_ANY),
        };
        let within_s = RATE_WITHIN_S_MIN;
        let rules = TenantPolicy {
            start_rate: self.starts_in_a_minute.map(|starts| StartRate { starts, within_s }),
            start_windows: self.has_hours.then(hours),
            ..TenantPolicy::default()
        };
        let has_rules = rules != TenantPolicy::default();
        let tenants = has_rules.then(|| (tenant.clone(), rules)).into_iter().collect();
        let policy = Arc::new(Policy { default: None, tenants });
        Trust {
            version: 1,
            policy,
            operators: vec![operator.public()],
            arbiters: (0..self.arbiters).map(slot).collect(),
            k: self.k,
            f: self.f,
            witnesses: Witnesses::of(
                self.witnesses_ever().take(self.witnesses).map(slot).collect(),
                self.f,
            ),
            roster: (0..self.hosts).map(|n| host_key(n).public()).collect(),
            quota: BTreeMap::from([(tenant, limit)]),
            ..Trust::of_nobody(ClusterId::new("sim").expect("a valid name"))
        }
    }
}

fn known_faults<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<&'static str>, D::Error> {
    let known = || FAULTS.into_iter().chain(KEEPER_FAULTS).chain(WITNESS_FAULTS);
    let named = Vec::<String>::deserialize(from)?.into_iter().map(|name| {
        let unknown = || serde::de::Error::custom(format!("there is no fault {name:?}"));
        known().find(|fault| *fault == name).ok_or_else(unknown)
    });
    named.collect()
}

/// So many of them, whichever.
fn some(chance: &mut Chance, of: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = of.collect();
    while all.len() > count {
        let out = chance.index(all.len());
        all.remove(out);
    }
    all
}

/// All of the day but its second minute: worlds begin with the day, and most last longer.
fn hours() -> StartWindows {
    let time = |text: &str| text.parse().expect("a valid time");
    let open = vec![Window { days: None, from: time("00:02"), to: time("00:01") }];
    StartWindows { utc_offset: UtcOffset::default(), open }
}
