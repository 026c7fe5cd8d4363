//! The register against a new one of the same view, and plans with one against plans without.

use std::borrow::Cow;

use proptest::prelude::*;
use protocol::cpus::DedicatedCpus;
use protocol::host::{Accel, Host, HypervisorFacts, ImageFacts, Inventory};
use protocol::hugepages::{HugepageFacts, PageSize, Pages};
use protocol::id::{Cursor, Epoch, PoolName, Revision};
use protocol::job::{JobSpec, JobState};
use protocol::pool::{PoolFacts, PoolId};
use protocol::resources::Resources;
use protocol::signed::{Digest, SecretKey};
use protocol::trust::{Policy, TenantPolicy, VmMax};
use protocol::vm::{DiskSpec, NicModel, NicSpec, OnLoss, Plug, VmSpec};

use super::*;
use crate::arrival::{Wish, best_arrival};
use crate::rules::{
    HostArch, HostAtLeast, HostLabel, NoMigration, NotSameHost, NotSameStorage, SameHost,
    SpreadOver, StorageClass,
};
use crate::{
    Clause, Expectation, Heard, Level, Limits, Placement, PlanInput, Reservation, Rule, Setback,
    SetbackReason, State, Step, plan,
};

const GIB: u64 = 1 << 30;
const JOBS: u8 = 12;

/// Where jobs are in their lives; most run.
const STATES: [JobState; 5] =
    [JobState::Running, JobState::Running, JobState::Stopped, JobState::Starting, JobState::Failed];

/// What of a host is drawn by lot.
#[derive(Debug, Clone)]
struct Drawn {
    vcpus: u32,
    memory_gib: u64,
    disk_gib: u64,
    zone: u8,
    words: u8,
    jobs: Vec<(u8, u8, u8)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let jobs = prop::collection::vec((0..JOBS, 0..6_u8, 0..8_u8), 0..4);
    (0..17_u32, 0..17_u64, 0..101_u64, 0..4_u8, any::<u8>(), jobs).prop_map(
        |(vcpus, memory_gib, disk_gib, zone, words, jobs)| {
            // Often alike, so that many are equally good.
            let vcpus = vcpus / 4 * 4;
            Drawn { vcpus, memory_gib: memory_gib / 4 * 4, disk_gib, zone, words, jobs }
        },
    )
}

fn id(n: u8) -> HostId {
    HostId::new(format!("h{n}")).unwrap()
}

pub(crate) fn job_id(n: u8) -> JobId {
    JobId::new(format!("job{n}")).unwrap()
}

fn image(n: u8) -> (ImageName, ImageFacts) {
    let name = ImageName::new(format!("image{}", n % 2)).unwrap();
    let size = u64::from(n) + 1;
    let sha256 = Digest::of(&[n]);
    (name, ImageFacts { sha256, file_bytes: size * GIB, virtual_bytes: GIB, format: None })
}

/// One of a few kinds of VMs: plain, with a card, with a disk, made from an image, in a pool, failing over, with
/// huge pages, with dedicated CPUs.
pub(crate) fn spec(kind: u8) -> JobSpec {
    let disk = |image: Option<u8>, pool: Option<&str>| DiskSpec {
        name: "root".into(),
        size_bytes: 2 * GIB,
        image: image.map(|n| self::image(n).0),
        pool: pool.map(|pool| pool.parse().unwrap()),
        ..DiskSpec::default()
    };
    let mut vm = VmSpec { vcpus: 2, memory_bytes: GIB, ..VmSpec::default() };
    match kind % 10 {
        0 => {}
        1 => vm.memory_bytes = 6 * GIB,
        2 => {
            let plug = Plug::Libvirt { name: "blue".into() };
            let mac = Some("52:54:00:00:00:01".into());
            vm.nics = vec![NicSpec { plug, model: NicModel::default(), mac, limit_kib_s: None }];
        }
        3 => vm.disks = vec![disk(None, None)],
        4 => vm.disks = vec![disk(Some(0), None)],
        5 => vm.disks = vec![disk(Some(1), None)],
        6 => vm.disks = vec![disk(None, Some("nfs"))],
        7 => vm.on_loss = OnLoss::Stop,
        8 => vm.hardware.hugepages_kib = Some(2048),
        _ => vm.hardware.dedicated_cpus = true,
    }
    JobSpec::vm(vm)
}

fn inventory(n: u8, seq: u64, drawn: &Drawn) -> Inventory {
    let has = |bit: u8| drawn.words >> bit & 1 == 1;
    let capacity = Resources { vcpus: 16, memory_bytes: 16 * GIB, disk_bytes: 100 * GIB };
    let allocation = Resources {
        vcpus: drawn.vcpus,
        memory_bytes: drawn.memory_gib * GIB,
        disk_bytes: drawn.disk_gib * GIB,
    };
    let mut labels = BTreeMap::from([
        ("zone".to_owned(), drawn.zone.to_string()),
        ("arch".to_owned(), if has(0) { "x86_64" } else { "aarch64" }.to_owned()),
    ]);
    if has(1) {
        labels.insert("cpu-features".to_owned(), "sse4, avx2".to_owned());
    }
    let images =
        [has(2).then(|| image(0)), has(3).then(|| image(1)), (drawn.words > 250).then(|| image(2))];
    let pool = PoolFacts {
        id: PoolId::from_u128(drawn.words.into()),
        is_shared: true,
        path: "/srv/nfs".into(),
        unavailable: None,
        capacity_bytes: 10 * GIB,
        promised_bytes: u64::from(drawn.zone) * 3 * GIB,
        free_bytes: 10 * GIB,
        labels: has(5).then(|| ("class".to_owned(), "ssd".to_owned())).into_iter().collect(),
    };
    let pools: BTreeMap<PoolName, PoolFacts> =
        has(4).then(|| ("nfs".parse().unwrap(), pool)).into_iter().collect();
    let promised = u64::from(drawn.zone) * 256;
    let facts = HugepageFacts { total: 1024, promised, others: drawn.vcpus.into() };
    let hugepages = has(7).then_some((PageSize::MIB2, facts)).into_iter().collect();
    let total = if has(6) { 4 } else { 0 };
    let dedicated_cpus = DedicatedCpus { total, promised: total.min(u32::from(drawn.zone)) };
    let host = Host {
        id: id(n),
        key: SecretKey::from_seed([n; 32]).public(),
        name: format!("node{n}"),
        urls: vec![],
        agent_version: String::new(),
        hypervisor: HypervisorFacts {
            uri: String::new(),
            driver: "QEMU".into(),
            libvirt_version: String::new(),
            accel: Accel::Kvm,
            accel_reason: None,
            can_receive: !has(5) || has(0),
            can_guard: has(6),
        },
        capacity,
        allocation,
        hugepages,
        dedicated_cpus,
        images: images.into_iter().flatten().collect(),
        pools,
        networks: None,
        labels,
        trust_version: None,
        intent: (drawn.words % 16 == 7).then_some(HostIntent::Drain),
    };
    let job = |(job, kind, state): &(u8, u8, u8)| Job {
        revision: Revision(u64::from(*state) % 3 + 1),
        ..Job::of(job_id(*job), spec(*kind), STATES[usize::from(*state) % STATES.len()])
    };
    let jobs: BTreeMap<u8, Job> = drawn.jobs.iter().map(|drawn| (drawn.0, job(drawn))).collect();
    let cursor = Cursor { epoch: Epoch(1), seq };
    Inventory { cursor, host, jobs: jobs.into_values().collect(), observed: vec![] }
}

fn view(hosts: &[(u8, u64, Drawn)]) -> View {
    let mut view = View::default();
    for (n, seq, drawn) in hosts {
        view.merge_inventory(inventory(*n, *seq, drawn));
    }
    view
}

/// Hosts as they were, and as they are now: some have changed, some are gone, some have come.
pub(crate) fn views() -> impl Strategy<Value = (View, View)> {
    let counts = prop_oneof![1..8_usize, 20..40_usize];
    let hosts =
        counts.prop_flat_map(|count| prop::collection::vec((drawn(), 0..12_u8, drawn()), count));
    hosts.prop_map(|hosts| {
        let (mut before, mut now) = (Vec::new(), Vec::new());
        for (n, (was, change, is)) in (0..).zip(hosts) {
            match change {
                0 => before.push((n, 1, was)),
                1 => now.push((n, 1, is)),
                2 => {
                    before.push((n, 1, was));
                    now.push((n, 2, is));
                }
                _ => {
                    before.push((n, 1, was.clone()));
                    now.push((n, 1, was));
                }
            }
        }
        (view(&before), view(&now))
    })
}

fn rule() -> impl Strategy<Value = Clause> {
    let level = prop::sample::select(vec![Level::Must, Level::Should, Level::Wish]);
    let jobs = prop::collection::btree_set(0..JOBS, 1..4);
    (level, 0..10_u8, jobs, 0..4_u8).prop_map(|(level, kind, jobs, number)| {
        let jobs: Vec<JobId> = jobs.into_iter().map(job_id).collect();
        let job = jobs[0].clone();
        let rule = match kind {
            0 => Rule::HostLabel(HostLabel { job, key: "zone".into(), value: number.to_string() }),
            1 => Rule::HostArch(HostArch { job, arch: "x86_64".into() }),
            2 => {
                Rule::CpuFeatures(crate::rules::CpuFeatures { job, features: vec!["avx2".into()] })
            }
            3 => Rule::SameHost(SameHost { jobs }),
            4 => Rule::NotSameHost(NotSameHost { jobs }),
            5 => Rule::NoMigration(NoMigration { job }),
            7 => Rule::NotSameStorage(NotSameStorage { jobs }),
            8 => {
                let value = ["ssd", "disk"][usize::from(number % 2)].to_owned();
                Rule::StorageClass(StorageClass { job, key: "class".into(), value })
            }
            6 => Rule::HostAtLeast(HostAtLeast { job, key: "zone".into(), number: number.into() }),
            _ => {
                let domain = (number % 2 == 0).then(|| "zone".to_owned());
                Rule::SpreadOver(SpreadOver { jobs, domain, per_domain_max: 1 })
            }
        };
        Clause { level, rule }
    })
}

fn expectation() -> impl Strategy<Value = Expectation> {
    (0..8_u8, 0..JOBS, any::<u8>(), 0..26_u8).prop_map(|(kind, job, what, on)| {
        let job = job_id(job);
        match kind {
            0 => Expectation::RunsOn { job, on: id(on) },
            1 => Expectation::IsStopped { job },
            2 => Expectation::Runs { job, spec: spec(what), on: Some(id(on)) },
            _ => Expectation::Runs { job, spec: spec(what), on: None },
        }
    })
}

fn setback() -> impl Strategy<Value = Setback> {
    (0..26_u8, any::<bool>()).prop_map(|(host, is_full)| {
        let reason = if is_full {
            let (free, capacity) = (Resources::ZERO, Resources::ZERO);
            let no = protocol::refusal::Refusal::NoCapacity { asked: free, free, capacity };
            SetbackReason::Refused { no }
        } else {
            SetbackReason::Failed { message: "no".into() }
        };
        Setback { host: id(host), reason, allocation: Resources::ZERO }
    })
}

/// All that a plan depends on but the view, and the schedulers among which it is made.
pub(crate) fn inputs() -> impl Strategy<Value = PlanInput> {
    let heard = prop::collection::btree_map(0..26_u8, 0..3_u8, 0..6);
    let reservation = (0..26_u8, 0..JOBS).prop_map(|(host, job)| {
        let resources = Resources { vcpus: 6, memory_bytes: 3 * GIB, disk_bytes: 0 };
        Reservation {
            host: id(host),
            job: job_id(job),
            resources,
            pages: Pages::NONE,
            dedicated_cpus: 0,
        }
    });
    let placements = vec![Placement::Spread, Placement::Pack, Placement::Balance];
    let others = (
        prop::sample::select(placements),
        0..3_u64,
        0..4_u64,
        any::<(bool, bool, bool)>(),
        prop::option::of((0..JOBS, 0..26_u8)),
        policy(),
        (prop::collection::btree_set(0..26_u8, 0..4), any::<bool>()),
    );
    (
        heard,
        prop::collection::vec(expectation(), 0..4),
        prop::collection::vec(rule(), 0..4),
        prop::collection::vec(setback(), 0..2),
        prop::collection::vec(reservation, 0..2),
        others,
    )
        .prop_map(|(kinds, expectations, clauses, setbacks, reservations, others)| {
            let (placement, seed, me, (rooms, tends, mends), lost, policy, (asleep, wakes)) =
                others;
            let freshness = [Freshness::Fresh, Freshness::Stale, Freshness::Lost];
            let heard = |(host, kind): (u8, u8)| {
                let freshness = freshness[usize::from(kind)];
                (id(host), Heard { freshness, age_ms: 9_000 })
            };
            let limits = Limits {
                may_make_room: rooms,
                tends_hosts: tends,
                mends_rules: mends,
                wakes_for: wakes.then_some(Level::Must),
                ..Limits::default()
            };
            PlanInput {
                heard: kinds.into_iter().map(heard).collect(),
                intents: asleep.into_iter().map(|n| (id(n), Intent::Asleep)).collect(),
                expectations,
                clauses,
                setbacks,
                reservations,
                placement,
                seed,
                shards: Shards::new(me, (0..me).chain([me])),
                lost: lost.map(|(job, host)| (job_id(job), id(host))).into_iter().collect(),
                limits,
                policy: policy.into(),
                ..PlanInput::default()
            }
        })
}

/// Rules about hosts or about the job itself, for everybody, now and then.
fn policy() -> impl Strategy<Value = Policy> {
    let zone = prop::option::weighted(0.2, 0..4_u8);
    let vm_max = prop::option::weighted(0.1, prop::sample::select(vec![GIB, 4 * GIB]));
    (zone, vm_max).prop_map(|(zone, bytes)| {
        let label = |zone: u8| ("zone".to_owned(), zone.to_string());
        let vm_max = |bytes| VmMax { memory_bytes: Some(bytes), ..VmMax::default() };
        let rules = TenantPolicy {
            vm_max: bytes.map(vm_max),
            host_labels: zone.map(label).into_iter().collect(),
            ..TenantPolicy::default()
        };
        Policy { default: Some(rules), ..Policy::default() }
    })
}

fn registered(input: &PlanInput, views: &[&View]) -> Register {
    let mut register = Register::new(input.seed, input.shards.clone());
    for view in views {
        register.follow(view);
    }
    for (host, heard) in &input.heard {
        register.hear(host, heard.freshness);
    }
    register
}

/// What a register answers, as far as it does not hang on the order in which hosts came.
fn answers(register: &Register) -> impl PartialEq + std::fmt::Debug + use<> {
    let hosts: Vec<HostId> = register.view().hosts().map(|(host, _)| host.clone()).collect();
    let room = |host: &HostId| register.rooms().get(register.numbers[host]);
    let rooms: Vec<(HostId, Room)> = hosts.iter().map(|host| (host.clone(), room(host))).collect();
    let homes = (0..JOBS).map(|n| {
        let mut homes: Vec<HostId> = register.homes(&job_id(n)).cloned().collect();
        homes.sort();
        homes
    });
    let owners: BTreeSet<(JobId, HostId)> = register
        .owners("52:54:00:00:00:01")
        .map(|(job, host)| (job.clone(), host.clone()))
        .collect();
    let images: Vec<_> = [0, 1].map(|n| register.images.get(&image(n).0).cloned()).into();
    let said = (register.intended.clone(), register.unfresh.clone());
    (rooms, homes.collect::<Vec<_>>(), owners, images, said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_register_that_followed_is_as_one_made_anew((before, now) in views(), input in inputs()) {
        let followed = registered(&input, &[&before, &now, &before, &now]);
        prop_assert_eq!(answers(&followed), answers(&registered(&input, &[&now])));
    }

    #[test]
    fn plans_are_the_same_with_a_register_and_without(
        (before, now) in views(),
        input in inputs(),
        is_old in any::<bool>(),
        says_intents in any::<bool>(),
    ) {
        let views = [&before, &now];
        let register = registered(&input, if is_old { &views[..1] } else { &views });
        let input = PlanInput { view: now, ..input };
        let with = PlanInput { prepared: Arc::new(register).into(), ..input.clone() };
        let (input, with) = match says_intents {
            true => (input.with_host_intents(), with.with_host_intents()),
            false => (input, with),
        };
        prop_assert_eq!(&input.intents, &with.intents);
        prop_assert_eq!(plan(&input), plan(&with));
    }

    #[test]
    fn plans_for_whatever_is_heard_are_the_same_with_a_register_that_heard_nothing(
        (before, now) in views(),
        input in inputs(),
    ) {
        let mut register = Register::new(input.seed, input.shards.clone());
        register.follow(&before);
        let input = PlanInput { view: now, ..input };
        let with = PlanInput { prepared: Arc::new(register).into(), ..input.clone() };
        prop_assert_eq!(plan(&input), plan(&with));
    }
}

/// A plain cluster: three hosts, of which the second has most room and no image.
fn plain() -> View {
    let drawn =
        |vcpus, words| Drawn { vcpus, memory_gib: 4, disk_gib: 0, zone: 1, words, jobs: vec![] };
    let (all, imageless) = (0b0101_1111, 0b0101_0011);
    view(&[(0, 1, drawn(8, all)), (1, 1, drawn(0, imageless)), (2, 1, drawn(4, all))])
}

#[test]
fn what_is_plain_is_looked_up_and_nothing_else_is_walked() {
    let place = |kind: u8, change: &dyn Fn(&mut PlanInput)| {
        let wanted = Expectation::Runs { job: job_id(0), spec: spec(kind), on: None };
        let mut input =
            PlanInput { view: plain(), expectations: vec![wanted], ..PlanInput::default() };
        change(&mut input);
        input.prepared = Arc::new(registered(&input, &[&input.view])).into();
        let state = State::new(&input);
        let (job, spec) = (job_id(0), spec(kind));
        let wish = Wish { job: &job, spec: Cow::Borrowed(&spec), from: None };
        best_arrival(&state, &wish).map(|found| match found.step {
            Step::StartVm(start) => (start.host.as_str().to_owned(), start.fetches.len()),
            other => panic!("a start, not {other}"),
        })
    };
    let on = |host: &str, fetches| Some((host.to_owned(), fetches));
    assert_eq!(place(0, &|_| {}), on("h1", 0));
    assert_eq!(place(4, &|_| {}), on("h2", 0), "where the image is");
    let full = Resources { vcpus: 14, ..Resources::ZERO };
    let reserve = |host: u8| Reservation {
        host: id(host),
        job: job_id(9),
        resources: full,
        pages: Pages::NONE,
        dedicated_cpus: 0,
    };
    let crowd = |input: &mut PlanInput| input.reservations = vec![reserve(0), reserve(2)];
    assert_eq!(place(4, &crowd), on("h1", 1), "copied");
    let apart = NotSameHost { jobs: vec![job_id(0), job_id(1)] };
    let clause = Clause { level: Level::Must, rule: Rule::NotSameHost(apart) };
    assert_eq!(place(0, &|input| input.clauses = vec![clause.clone()]), on("h1", 0));
    let stale = |input: &mut PlanInput| {
        input.heard.insert(id(1), Heard { freshness: Freshness::Stale, age_ms: 9_000 });
    };
    assert_eq!(place(0, &stale), on("h2", 0));
}
