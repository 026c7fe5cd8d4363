//! Properties of shifts over whole fleets, against arithmetic of the tests' own; and how much a large one costs.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch};
use protocol::job::{Job, JobSpec, JobState};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::used::{HostUse, Used, VmUse};
use protocol::view::View;
use protocol::vm::{DiskSpec, VmSpec};

use super::*;
use crate::rules::{HostLabel, LoseAnyHost, NoMigration, NotSameHost, SpreadOver, Violation};
use crate::{Heard, Intent, Limits, PlanInput, plan};

const GIB: u64 = 1 << 30;

/// A VM: memory, vCPUs, whether it has a disk, whether it runs.
type Vm = (u64, u32, bool, bool);

/// A host: memory, vCPUs, its zone, its VMs.
#[derive(Debug, Clone)]
struct Drawn {
    gib: u64,
    vcpus: u32,
    zone: u8,
    vms: Vec<Vm>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let runs = prop::bool::weighted(0.9);
    let vm = (1..6_u64, 1..4_u32, prop::bool::weighted(0.3), runs);
    let vms = prop::collection::vec(vm, 0..7);
    (2..7_u64, 2..7_u32, 0..3_u8, vms).prop_map(|(gib, vcpus, zone, vms)| {
        let (gib, vcpus) = (gib * 8, vcpus * 4);
        Drawn { gib, vcpus, zone, vms }
    })
}

fn host_id(n: usize) -> HostId {
    HostId::new(format!("h{n:04}")).unwrap()
}

fn job_id(host: usize, n: usize) -> JobId {
    JobId::new(format!("vm-{host}-{n}")).unwrap()
}

fn job(id: JobId, (gib, vcpus, has_disk, runs): Vm) -> Job {
    let disk = DiskSpec { name: "root".into(), size_bytes: GIB, ..DiskSpec::default() };
    let disks = has_disk.then_some(disk).into_iter().collect();
    let vm = VmSpec { vcpus, memory_bytes: gib * GIB, disks, ..VmSpec::default() };
    let state = if runs { JobState::Running } else { JobState::Stopped };
    Job::of(id, JobSpec::vm(vm), state)
}

fn inventory(n: usize, drawn: &Drawn) -> Inventory {
    let vms = drawn.vms.iter().enumerate();
    let jobs: Vec<Job> = vms.map(|(at, vm)| job(job_id(n, at), *vm)).collect();
    with_jobs(n, drawn, jobs)
}

fn with_jobs(n: usize, drawn: &Drawn, jobs: Vec<Job>) -> Inventory {
    let memory_bytes = drawn.gib * GIB;
    let capacity = Resources { vcpus: drawn.vcpus, memory_bytes, disk_bytes: 4 * GIB };
    let allocation = jobs.iter().fold(Resources::ZERO, |sum, job| sum.plus(job.allocation()));
    let hypervisor = HypervisorFacts {
        driver: "QEMU".into(),
        accel: Accel::Kvm,
        can_receive: true,
        can_guard: true,
        ..HypervisorFacts::default()
    };
    let host = Host {
        id: host_id(n),
        capacity,
        allocation,
        hypervisor,
        labels: BTreeMap::from([("zone".to_owned(), drawn.zone.to_string())]),
        ..Host::of_key(SecretKey::from_seed([u8::try_from(n % 256).unwrap(); 32]).public())
    };
    Inventory { cursor: Cursor { epoch: Epoch(1), seq: 1 }, host, jobs, observed: vec![] }
}

fn balanced(within: u32) -> Clause {
    let rule = Balanced::new(within, BTreeMap::new(), 0).unwrap();
    Clause { level: Level::Wish, rule: Rule::Balanced(rule) }
}

fn input(hosts: &[Drawn], clauses: Vec<Clause>) -> PlanInput {
    let mut view = View::default();
    for (n, drawn) in hosts.iter().enumerate() {
        view.merge_inventory(inventory(n, drawn));
    }
    let limits = Limits { shifts_max: u32::MAX, ..Limits::default() };
    PlanInput { view, clauses, limits, ..PlanInput::default() }
}

/// What hosts say once the steps of a plan are done.
fn carried_out(input: &PlanInput, hosts: &[Drawn], shifts: &[Shift]) -> PlanInput {
    let mut jobs: BTreeMap<HostId, Vec<Job>> = BTreeMap::new();
    for (host, row) in input.view.hosts() {
        jobs.insert(host.clone(), row.jobs.values().map(|job| Job::clone(job)).collect());
    }
    for shift in shifts {
        let here = jobs.get_mut(&shift.from).unwrap();
        let at = here.iter().position(|job| job.id == shift.job).expect("it is where it leaves");
        let job = here.remove(at);
        jobs.get_mut(&shift.to).unwrap().push(job);
    }
    let mut view = View::default();
    for (n, drawn) in hosts.iter().enumerate() {
        let jobs = jobs.remove(&host_id(n)).unwrap();
        view.merge_inventory(with_jobs(n, drawn, jobs));
    }
    PlanInput { view, ..input.clone() }
}

/// Shares of the hosts that count, fullest first, by the tests' own arithmetic.
fn shares(input: &PlanInput) -> Vec<u128> {
    let counts = |host: &HostId| {
        let is_lost = input.heard.get(host).is_some_and(|heard| heard.freshness == Freshness::Lost);
        !is_lost && !input.intents.contains_key(host)
    };
    let rows = input.view.hosts().filter(|(host, _)| counts(host));
    let of = |part: u64, whole: u64| u128::from(part) * 1_000_000 / u128::from(whole);
    let mut shares: Vec<u128> = rows
        .map(|(_, row)| {
            let (has, gave) = (row.host.capacity, row.host.allocation);
            let vcpus = of(gave.vcpus.into(), has.vcpus.into());
            vcpus.max(of(gave.memory_bytes, has.memory_bytes))
        })
        .collect();
    shares.sort_by_key(|share| Reverse(*share));
    shares
}

fn gap(shares: &[u128]) -> u128 {
    shares.first().copied().unwrap_or(0) - shares.last().copied().unwrap_or(0)
}

fn counts(violations: &[Violation]) -> BTreeMap<String, u32> {
    let others = violations.iter().filter(|v| !matches!(v.rule, Rule::Balanced(_)));
    others.map(|v| (v.rule.to_string(), v.count)).collect()
}

/// Rules of all sorts, over VMs that may or may not be there.
fn rules() -> impl Strategy<Value = Vec<Clause>> {
    let id = || (0..6_usize, 0..6_usize).prop_map(|(host, n)| job_id(host, n));
    let ids = || prop::collection::vec(id(), 2..5);
    let rule = prop_oneof![
        id().prop_map(|job| Rule::NoMigration(NoMigration { job })),
        ids().prop_map(|jobs| Rule::NotSameHost(NotSameHost { jobs })),
        (id(), 0..3_u8).prop_map(|(job, zone)| {
            Rule::HostLabel(HostLabel { job, key: "zone".into(), value: zone.to_string() })
        }),
        ids().prop_map(|jobs| {
            let domain = Some("zone".to_owned());
            Rule::SpreadOver(SpreadOver { jobs, domain, per_domain_max: 1 })
        }),
        Just(Rule::LoseAnyHost(LoseAnyHost {})),
    ];
    let level = prop_oneof![Just(Level::Must), Just(Level::Should), Just(Level::Wish)];
    let clause = (level, rule).prop_map(|(level, rule)| Clause { level, rule });
    prop::collection::vec(clause, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_plan_that_was_carried_out_is_followed_by_none_and_has_harmed_nothing(
        hosts in prop::collection::vec(drawn(), 1..7),
        within in 1..60_u32,
        heeded in rules(),
        odd in prop::collection::vec((0..7_usize, 0..5_u8), 0..3),
    ) {
        let mut input = input(&hosts, vec![balanced(within)]);
        input.heeded = heeded.clone();
        for (n, what) in odd {
            let (host, stale) = (host_id(n), Freshness::Stale);
            match what {
                0 => drop(input.intents.insert(host, Intent::Drain)),
                1 => drop(input.intents.insert(host, Intent::Off)),
                2 => drop(input.heard.insert(host, Heard { freshness: Freshness::Lost, age_ms: 9 })),
                3 => drop(input.heard.insert(host, Heard { freshness: stale, age_ms: 9 })),
                _ => {}
            }
        }
        let outcome = plan(&input);
        prop_assert_eq!(crate::audit(&input, &outcome), vec![]);
        let shifts = &outcome.plan.shifts;
        prop_assert_eq!(outcome.plan.steps.len(), shifts.len(), "nothing else is wanted");

        // Each move is better than none, whatever comes after it.
        let mut before = shares(&input);
        let judged = |input: &PlanInput| {
            let clauses = input.heeded.clone();
            crate::report::violations(&State::new(&PlanInput { clauses, ..input.clone() }))
        };
        let rules_before = counts(&judged(&input));
        for n in 1..=shifts.len() {
            let now = carried_out(&input, &hosts, &shifts[..n]);
            let after = shares(&now);
            prop_assert!(after < before, "{:?} and then {:?}", before, after);
            prop_assert!(gap(&after) <= gap(&before));
            let rules_after = counts(&judged(&now));
            for (rule, count) in &rules_after {
                prop_assert!(count <= rules_before.get(rule).unwrap_or(&0), "{} is broken", rule);
            }
            before = after;
        }
        for shift in shifts {
            for host in [&shift.from, &shift.to] {
                prop_assert!(!input.intents.contains_key(host) && !input.heard.contains_key(host));
            }
            let stays = Rule::NoMigration(NoMigration { job: shift.job.clone() });
            prop_assert!(heeded.iter().all(|clause| clause.rule != stays));
        }
        let begun = carried_out(&input, &hosts, shifts);
        prop_assert_eq!(plan(&begun).plan.shifts, vec![], "once more");
        prop_assert_eq!(&plan(&input), &outcome, "another plan of the same");

        // The number that is told is the number of hosts that are too far above the emptiest.
        let end = shares(&begun);
        let least = end.last().copied().unwrap_or(0);
        let far = end.iter().filter(|share| *share - least > u128::from(within) * 10_000).count();
        let told = outcome.report.violations.first().map_or(0, |violation| violation.count);
        prop_assert_eq!(told as usize, far);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn small_vms_that_may_go_anywhere_are_spread_to_half_of_what_is_tolerated(
        counts in prop::collection::vec(0..30_usize, 2..8),
        within in 10..60_u32,
    ) {
        // Each is a point of a hundred, so that there is always one that fits.
        let host = |count: &usize| Drawn {
            gib: 100,
            vcpus: 100,
            zone: 0,
            vms: vec![(1, 1, false, true); *count * 3],
        };
        let hosts: Vec<Drawn> = counts.iter().map(host).collect();
        let input = input(&hosts, vec![balanced(within)]);
        let before = gap(&shares(&input));
        let outcome = plan(&input);
        let after = gap(&shares(&carried_out(&input, &hosts, &outcome.plan.shifts)));
        if before > u128::from(within) * 10_000 {
            prop_assert!(after <= u128::from(within) * 5_000, "{} and then {}", before, after);
            // Few moves: none is of a host that is emptier than the mean, or to one that is fuller.
            let mean = counts.iter().map(|count| count * 3).sum::<usize>().div_ceil(counts.len());
            let surplus: usize = counts.iter().map(|count| (count * 3).saturating_sub(mean)).sum();
            prop_assert!(outcome.plan.shifts.len() <= surplus + counts.len());
        } else {
            prop_assert_eq!(outcome.plan.shifts, vec![]);
        }
    }
}

#[test]
fn the_first_shift_among_a_thousand_hosts_looks_at_few() {
    let host = |n: usize| {
        let count = if n.is_multiple_of(10) { 30 } else { 20 };
        Drawn { gib: 64, vcpus: 64, zone: 0, vms: vec![(2, 1, false, true); count] }
    };
    let hosts: Vec<Drawn> = (0..1_000).map(host).collect();
    let mut input = input(&hosts, vec![balanced(10)]);
    input.limits.shifts_max = 1;
    let outcome = plan(&input);
    assert_eq!(outcome.plan.shifts.len(), 1);
    assert_eq!(outcome.plan.shifts[0].to_string(), "move vm-990-0 from h0990 to h0001");
}

#[test]
fn what_moves_memory_only_goes_before_what_has_disks_to_be_copied() {
    let vms = vec![(6, 1, true, true), (5, 1, false, true), (1, 1, false, true)];
    let full = Drawn { gib: 16, vcpus: 16, zone: 0, vms };
    let empty = Drawn { vms: vec![], ..full.clone() };
    let mut input = input(&[full, empty], vec![balanced(20)]);
    let words = |input: &PlanInput| {
        let shifts = plan(input).plan.shifts;
        shifts.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let expected = ["move vm-0-1 from h0000 to h0001", "move vm-0-2 from h0000 to h0001"];
    assert_eq!(words(&input), expected, "though vm-0-0 alone would do");
    let stays = Rule::NoMigration(NoMigration { job: job_id(0, 1) });
    input.heeded = vec![Clause { level: Level::Wish, rule: stays }];
    let expected = ["move vm-0-0 from h0000 to h0001"];
    assert_eq!(words(&input), expected, "and not vm-0-2, which is of little use");
}

/// CPUs that a VM keeps busy, in thousandths, and for how many seconds it was watched; `None` where it is not known.
type Use = Option<(u64, u64)>;

fn uses() -> impl Strategy<Value = Vec<Vec<Use>>> {
    let one = (0..3_000_u64, prop_oneof![4 => Just(3_600_u64), 1 => Just(60_u64)]);
    let one = prop_oneof![12 => one.prop_map(Some), 1 => Just(None)];
    prop::collection::vec(prop::collection::vec(one, 7), 7)
}

fn by_use(within: u32) -> Clause {
    let rule = Balanced::new(within, BTreeMap::new(), 0).unwrap();
    let rule = rule.measured(Measure::Cpu, Some(300)).unwrap();
    Clause { level: Level::Wish, rule: Rule::Balanced(rule) }
}

fn used(hosts: &[Drawn], uses: &[Vec<Use>], unmeasured: usize) -> Used {
    let mut used = Used::default();
    for (n, drawn) in hosts.iter().enumerate() {
        if n != unmeasured {
            let known = HostUse { cpus: drawn.vcpus, others_cpu_millis: 250 * (n as u64 % 3) };
            used.hosts.insert(host_id(n), known);
        }
        for (at, known) in uses[n].iter().take(drawn.vms.len()).enumerate() {
            let Some((cpu_millis, watched_s)) = known else { continue };
            let known = VmUse { cpu_millis: *cpu_millis, watched_ms: watched_s * 1_000 };
            used.vms.insert(job_id(n, at), known);
        }
    }
    used
}

/// How busy the hosts are of which it is known, busiest first, in millionths, by the tests' own arithmetic.
fn busy(input: &PlanInput) -> Vec<u128> {
    let mut all = Vec::new();
    for (host, row) in input.view.hosts() {
        let Some(known) = input.used.hosts.get(host) else { continue };
        let alive = row.jobs.values().filter(|job| job.state == JobState::Running);
        let uses: Option<Vec<u64>> =
            alive.map(|job| Some(input.used.vms.get(&job.id)?.cpu_millis)).collect();
        let Some(uses) = uses else { continue };
        let sum = uses.iter().sum::<u64>() + known.others_cpu_millis;
        all.push(u128::from(sum) * 1_000 / u128::from(known.cpus));
    }
    all.sort_by_key(|share| Reverse(*share));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn moves_for_what_guests_use_lead_nowhere_back_and_are_of_what_is_known(
        hosts in prop::collection::vec(drawn(), 1..7),
        uses in uses(),
        unmeasured in 0..12_usize,
        within in 4..60_u32,
        heeded in rules(),
    ) {
        let mut input = input(&hosts, vec![by_use(within)]);
        input.heeded = heeded;
        input.used = used(&hosts, &uses, unmeasured).into();
        let outcome = plan(&input);
        prop_assert_eq!(crate::audit(&input, &outcome), vec![]);
        let shifts = &outcome.plan.shifts;
        let mut before = busy(&input);
        for n in 1..=shifts.len() {
            let after = busy(&carried_out(&input, &hosts, &shifts[..n]));
            prop_assert_eq!(after.len(), before.len(), "nothing becomes unknown");
            prop_assert!(after < before, "{:?} and then {:?}", before, after);
            prop_assert!(gap(&after) <= gap(&before));
            before = after;
        }
        for shift in shifts {
            prop_assert!(input.used.vms[&shift.job].watched_ms >= 300_000);
            for host in [&shift.from, &shift.to] {
                prop_assert!(*host != host_id(unmeasured));
                let row = input.view.host(host).unwrap();
                let mut alive = row.jobs.values().filter(|job| job.state == JobState::Running);
                let is_known = alive.all(|job| input.used.vms.contains_key(&job.id));
                prop_assert!(is_known, "{} for what is not known", shift);
            }
        }
        let begun = carried_out(&input, &hosts, shifts);
        prop_assert_eq!(plan(&begun).plan.shifts, vec![], "once more");
        let end = busy(&begun);
        let least = end.last().copied().unwrap_or(0);
        let far = end.iter().filter(|share| *share - least > u128::from(within) * 10_000).count();
        let told = outcome.report.violations.first().map_or(0, |violation| violation.count);
        prop_assert_eq!(told as usize, far);
    }

    #[test]
    fn what_guests_use_may_change_a_little_and_nobody_goes_back(
        hosts in prop::collection::vec(drawn(), 2..7),
        uses in uses(),
        within in 10..60_u32,
        noise in prop::collection::vec(0..101_u64, 49),
    ) {
        let mut input = input(&hosts, vec![by_use(within)]);
        input.used = used(&hosts, &uses, usize::MAX).into();
        input.limits.shifts_max = 1;
        let Some(shift) = plan(&input).plan.shifts.first().cloned() else { return Ok(()) };
        // Each host by less than an eighth of what is tolerated, in either direction.
        let mut later = carried_out(&input, &hosts, std::slice::from_ref(&shift));
        let mut noisy = Used::clone(&later.used);
        for (n, (host, known)) in noisy.hosts.iter_mut().enumerate() {
            let cpus = u64::from(known.cpus);
            let eighth = cpus * 10 * u64::from(within) / 8;
            let is_of_shift = *host == shift.from || *host == shift.to;
            known.others_cpu_millis += if is_of_shift { eighth * noise[n] / 101 } else { 0 };
        }
        later.used = noisy.into();
        later.limits.shifts_begun = true;
        let next = plan(&later).plan.shifts.first().cloned();
        let is_back = next.is_some_and(|next| next.job == shift.job && next.to == shift.from);
        prop_assert!(!is_back, "{} is undone", shift);
    }

    #[test]
    fn hosts_that_are_balanced_by_both_come_to_rest(
        hosts in prop::collection::vec(drawn(), 2..7),
        uses in uses(),
        withins in (4..60_u32, 4..60_u32),
    ) {
        let mut input = input(&hosts, vec![balanced(withins.0), by_use(withins.1)]);
        input.used = used(&hosts, &uses, usize::MAX).into();
        input.limits.shifts_max = 1;
        let mut moves = Vec::new();
        for n in 0..200_usize {
            // One is mended at a time, as schedulers do, in either order.
            input.clauses.swap(0, 1);
            input.limits.shifts_begun = n % 3 != 0;
            let shift = plan(&input).plan.shifts.first().cloned();
            match shift {
                Some(shift) => {
                    input = carried_out(&input, &hosts, std::slice::from_ref(&shift));
                    moves.push(shift.to_string());
                }
                None if n % 3 == 2 => return Ok(()),
                None => {}
            }
        }
        prop_assert!(false, "it never ends: {:?}", moves);
    }
}
