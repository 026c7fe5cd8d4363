//! Stories of single plans, and properties of all of them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::host::{Accel, Host, HostIntent, HypervisorFacts, ImageFacts, Inventory};
use protocol::hugepages::Pages;
use protocol::id::{Cursor, Epoch, HostId, ImageName, JobId, OfferId, Revision, SnapshotName};
use protocol::job::{
    Job, JobKind, JobSpec, JobState, Reason, Resize, ResizeStage, Snapshot, SnapshotStage,
};
use protocol::network::{NetworkFacts, NetworkKind};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{Digest, SecretKey};
use protocol::view::{Freshness, View};
use protocol::vm::{DiskSpec, NicSpec, Plug, SizeChange, VmSpec};

use super::*;

mod pools;

const GIB: u64 = 1 << 30;

fn host(n: u8, free_gib: u64) -> Inventory {
    let key = SecretKey::from_seed([n; 32]).public();
    let capacity = Resources { vcpus: 16, memory_bytes: 16 * GIB, disk_bytes: 100 * GIB };
    let image =
        ImageFacts { sha256: Digest::of(b""), file_bytes: GIB, virtual_bytes: GIB, format: None };
    let host = Host {
        id: HostId::new(format!("h{n}")).unwrap(),
        name: format!("node{n}"),
        hypervisor: HypervisorFacts {
            driver: "QEMU".into(),
            accel: Accel::Kvm,
            can_receive: true,
            can_guard: true,
            ..HypervisorFacts::default()
        },
        capacity,
        allocation: Resources { memory_bytes: (16 - free_gib) * GIB, ..Resources::ZERO },
        images: BTreeMap::from([(ImageName::new("debian").unwrap(), image)]),
        ..Host::of_key(key)
    };
    Inventory { cursor: Cursor { epoch: Epoch(1), seq: 1 }, host, jobs: vec![], observed: vec![] }
}

fn vm(gib: u64) -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: gib * GIB,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

fn vm_with_disk(gib: u64, image: &str) -> JobSpec {
    let image = Some(ImageName::new(image).unwrap());
    let disks =
        vec![DiskSpec { name: "root".into(), size_bytes: 2 * GIB, image, ..DiskSpec::default() }];
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: gib * GIB,
        disks,
        nics: vec![],
        ..VmSpec::default()
    })
}

fn id(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn at(n: u8) -> HostId {
    HostId::new(format!("h{n}")).unwrap()
}

/// Puts a job on a host; its share is part of what the host has promised.
fn with(mut inventory: Inventory, name: &str, spec: JobSpec, state: JobState) -> Inventory {
    let job = Job {
        revision: Revision(3),
        hold: Some(OfferId::default()),
        ..Job::of(id(name), spec, state)
    };
    inventory.host.allocation = inventory.host.allocation.plus(job.allocation());
    inventory.jobs.push(job);
    inventory
}

fn input(hosts: impl IntoIterator<Item = Inventory>, wants: Vec<Expectation>) -> PlanInput {
    let mut view = View::default();
    for inventory in hosts {
        view.merge_inventory(inventory);
    }
    PlanInput { view, expectations: wants, ..PlanInput::default() }
}

fn run(name: &str, spec: JobSpec) -> Expectation {
    Expectation::Runs { job: id(name), spec, on: None }
}

fn steps(outcome: &Outcome) -> Vec<String> {
    outcome.plan.steps.iter().map(Step::to_string).collect()
}

fn heard(freshness: Freshness, age_ms: u64) -> Heard {
    Heard { freshness, age_ms }
}

#[test]
fn a_vm_goes_where_the_largest_share_stays_free() {
    let outcome = plan(&input([host(1, 4), host(2, 12), host(3, 8)], vec![run("web", vm(2))]));
    assert_eq!(steps(&outcome), ["start web on h2"]);
    let Step::StartVm(start) = &outcome.plan.steps[0] else { panic!() };
    assert_eq!(start.revision, Revision(1), "the first start");
}

#[test]
fn two_that_fit_singly_but_not_together_go_to_two_hosts() {
    let wants = vec![run("a", vm(8)), run("b", vm(8))];
    let outcome = plan(&input([host(1, 15), host(2, 10)], wants));
    assert_eq!(steps(&outcome), ["start a on h1", "start b on h2"]);
}

#[test]
fn one_that_fits_nowhere_does_not_hold_up_the_others() {
    let wants = vec![run("huge", vm(99)), run("small", vm(1))];
    let outcome = plan(&input([host(1, 4)], wants));
    assert_eq!(steps(&outcome), ["start small on h1"]);
    assert_eq!(outcome.report.unmet.len(), 1);
}

#[test]
fn what_lacks_is_told_per_host_with_numbers_and_the_cheapest_change() {
    let outcome = plan(&input([host(1, 5), host(3, 2)], vec![run("web", vm(8))]));
    assert_eq!(
        outcome.report.to_string(),
        "web: no host can take it; node1 (h1): needs 8GiB of memory, 5GiB free; \
         node3 (h3): needs 8GiB of memory, 2GiB free. What would help: free 3GiB of memory on node1 (h1)"
    );
}

#[test]
fn a_missing_image_is_what_would_help() {
    let wants = vec![run("web", vm_with_disk(1, "arch"))];
    let outcome = plan(&input([host(1, 5)], wants));
    let cheapest = outcome.report.unmet[0].cheapest.clone().unwrap();
    assert_eq!(cheapest, "import image arch on node1 (h1)");
}

#[test]
fn a_stale_host_is_a_last_resort_and_a_lost_one_none() {
    let mut two = input([host(1, 15), host(2, 3)], vec![run("web", vm(2))]);
    two.heard.insert(at(1), heard(Freshness::Stale, 6_000));
    assert_eq!(steps(&plan(&two)), ["start web on h2"], "a fresh one fits");
    two.expectations = vec![run("web", vm(8))];
    assert_eq!(steps(&plan(&two)), ["start web on h1"], "only the stale one fits");
    two.heard.insert(at(1), heard(Freshness::Lost, 20_000));
    let outcome = plan(&two);
    assert!(outcome.plan.steps.is_empty());
    assert!(outcome.report.to_string().contains("has not been heard for 20 s"));
}

#[test]
fn a_host_that_says_it_is_drained_is_given_nothing_and_emptied_only_by_who_tends_hosts() {
    let mut leaving = with(host(1, 15), "db", vm(2), JobState::Running);
    leaving.host.intent = Some(HostIntent::Drain);
    let two = input([leaving, host(2, 8)], vec![run("web", vm(2))]).with_host_intents();
    assert_eq!(steps(&plan(&two)), ["start web on h2"]);
    let limits = Limits { tends_hosts: true, ..two.limits };
    let tending = PlanInput { expectations: vec![], limits, ..two };
    assert_eq!(steps(&plan(&tending)), ["move db from h1 to h2"]);
}

#[test]
fn a_job_alive_on_a_lost_host_is_not_started_elsewhere() {
    let there = with(host(2, 12), "web", vm(2), JobState::Running);
    for spec in [vm(2), vm(3)] {
        let mut lost = input([host(1, 15), there.clone()], vec![run("web", spec)]);
        lost.heard.insert(at(2), heard(Freshness::Lost, 20_000));
        let outcome = plan(&lost);
        assert!(outcome.plan.steps.is_empty());
        let reason = &outcome.report.unmet[0].reason;
        assert!(matches!(reason, UnmetReason::AliveOnLostHost { .. }), "{reason}");
    }
    let wants = vec![Expectation::RunsOn { job: id("web"), on: at(1) }];
    let mut lost = input([host(1, 15), there], wants);
    lost.heard.insert(at(2), heard(Freshness::Lost, 20_000));
    assert_eq!(
        plan(&lost).report.to_string(),
        "web: running on h2, which has not been heard for 20 s; only evidence that it is off permits a start elsewhere"
    );
}

#[test]
fn a_refusals_numbers_count_until_the_view_shows_others() {
    let mut told = input([host(1, 15), host(2, 8)], vec![run("web", vm(4))]);
    let row = told.view.host(&at(1)).unwrap().host.clone();
    let free = Resources { vcpus: 16, memory_bytes: GIB, disk_bytes: 100 * GIB };
    let no = Refusal::NoCapacity { asked: vm(4).resources(), free, capacity: row.capacity };
    let reason = SetbackReason::Refused { no };
    told.setbacks.push(Setback { host: at(1), reason, allocation: row.allocation });
    assert_eq!(steps(&plan(&told)), ["start web on h2"]);
    let mut later = host(1, 14);
    later.cursor.seq = 2;
    told.view.merge_inventory(later);
    assert_eq!(steps(&plan(&told)), ["start web on h1"], "newer numbers replace the refusal");
}

fn plugged(network: &str, mac: &str) -> JobSpec {
    let plug = Plug::Libvirt { name: network.into() };
    let nic = NicSpec { mac: Some(mac.into()), ..plug.into() };
    let JobKind::Vm(vm) = vm(1).kind else { unreachable!("it is a VM") };
    JobSpec::vm(VmSpec { nics: vec![nic], ..vm })
}

fn up(revision: Option<u64>) -> NetworkFacts {
    NetworkFacts {
        kind: NetworkKind::Nat,
        revision: revision.map(Revision),
        is_up: true,
        bridge: None,
        subnet: None,
        vlan: None,
        vni: None,
        members: vec![],
        trouble: None,
    }
}

#[test]
fn a_vm_is_placed_where_its_network_is_and_the_others_say_that_they_lack_it() {
    let (mut without, mut with_it) = (host(1, 15), host(2, 8));
    without.host.networks = Some([("green".to_owned(), up(None))].into());
    with_it.host.networks = Some([("blue".to_owned(), up(Some(1)))].into());
    let wants = vec![run("web", plugged("blue", "52:54:00:00:00:01"))];
    let all = input([without.clone(), with_it], wants.clone());
    assert_eq!(steps(&plan(&all)), ["start web on h2"]);
    let planned = plan(&input([without], wants));
    let why = planned.report.unmet[0].hosts[0].why.to_string();
    assert!(why.contains("has no network blue") && why.contains("green"), "{why}");
    // One that does not say is asked.
    let silent = input([host(3, 8)], vec![run("web", plugged("blue", "52:54:00:00:00:01"))]);
    assert_eq!(steps(&plan(&silent)), ["start web on h3"]);
}

#[test]
fn an_address_that_another_guest_has_is_refused_on_every_host() {
    let mac = "52:54:00:00:00:01";
    let taken = with(host(1, 15), "db", plugged("blue", mac), JobState::Running);
    let wants = vec![run("web", plugged("red", mac))];
    let planned = plan(&input([taken, host(2, 15)], wants.clone()));
    assert_eq!(steps(&planned), Vec::<String>::new());
    for verdict in &planned.report.unmet[0].hosts {
        let why = verdict.why.to_string();
        assert!(why.contains(mac) && why.contains("job db"), "{why}");
    }
    let ended = with(host(1, 15), "db", plugged("blue", mac), JobState::Stopped);
    assert_eq!(steps(&plan(&input([ended], wants))), ["start web on h1"]);
}

#[test]
fn a_host_that_refused_for_another_reason_is_not_asked_again() {
    let mut told = input([host(1, 15), host(2, 8)], vec![run("web", vm(4))]);
    let no = Refusal::NameTaken { job: id("web") };
    let reason = SetbackReason::Refused { no };
    told.setbacks.push(Setback { host: at(1), reason, allocation: Resources::ZERO });
    assert_eq!(steps(&plan(&told)), ["start web on h2"]);
}

#[test]
fn what_other_runs_are_about_to_take_is_taken_until_the_view_shows_it() {
    let mut busy = input([host(1, 15), host(2, 8)], vec![run("web", vm(4))]);
    let resources = vm(13).resources();
    busy.reservations.push(Reservation {
        host: at(1),
        job: id("db"),
        resources,
        pages: Pages::NONE,
        dedicated_cpus: 0,
    });
    assert_eq!(steps(&plan(&busy)), ["start web on h2"]);
    let mut later = with(host(1, 15), "db", vm(1), JobState::Running);
    later.cursor.seq = 2;
    busy.view.merge_inventory(later);
    assert_eq!(steps(&plan(&busy)), ["start web on h1"], "now it is in the host's own numbers");
}

#[test]
fn a_stopped_job_starts_again_where_its_disks_are() {
    let spec = vm_with_disk(2, "debian");
    let there = with(host(2, 4), "web", spec.clone(), JobState::Stopped);
    let outcome = plan(&input([host(1, 15), there.clone()], vec![run("web", spec.clone())]));
    let Step::StartVm(start) = &outcome.plan.steps[0] else { panic!() };
    assert_eq!((&start.host, start.revision), (&at(2), Revision(4)));
    let wants = vec![Expectation::Runs { job: id("web"), spec, on: Some(at(1)) }];
    let outcome = plan(&input([host(1, 15), there], wants));
    assert_eq!(
        outcome.report.to_string(),
        "web: its disks are on h2. What would help: start it on h2, then move it"
    );
}

#[test]
fn a_job_that_moved_away_has_left_no_disks_behind() {
    let spec = vm_with_disk(2, "debian");
    let mut left = with(host(2, 4), "web", spec.clone(), JobState::Stopped);
    left.jobs[0].reason = Some(Reason::Migrated { to: at(3) });
    let outcome = plan(&input([host(1, 15), left], vec![run("web", spec)]));
    assert_eq!(steps(&outcome), ["start web on h1"]);
}

#[test]
fn stopping_deleting_and_moving_take_the_steps_they_need() {
    let there = with(host(1, 4), "web", vm(2), JobState::Running);
    let want = |expectation| steps(&plan(&input([there.clone(), host(2, 8)], vec![expectation])));
    assert_eq!(want(Expectation::IsStopped { job: id("web") }), ["stop web on h1"]);
    let gone = want(Expectation::Absent { job: id("web") });
    assert_eq!(gone, ["stop web on h1", "delete web from h1"]);
    let moved = want(Expectation::RunsOn { job: id("web"), on: at(2) });
    assert_eq!(moved, ["move web from h1 to h2"]);
    assert_eq!(want(Expectation::RunsOn { job: id("web"), on: at(1) }), [""; 0]);
    assert_eq!(want(Expectation::Absent { job: id("other") }), [""; 0]);
}

#[test]
fn no_plan_stops_a_protected_vm_and_it_moves_and_is_met_as_any_other() {
    let protected = vm(2).with_protection(true).unwrap();
    let there = with(host(1, 4), "web", protected, JobState::Running);
    let plan = |expectation| plan(&input([there.clone(), host(2, 8)], vec![expectation]));
    for ended in [Expectation::IsStopped { job: id("web") }, Expectation::Absent { job: id("web") }]
    {
        let outcome = plan(ended);
        assert_eq!(steps(&outcome), [""; 0]);
        let why = outcome.report.to_string();
        assert!(why.contains("ostler unprotect web"), "{why}");
    }
    let moved = plan(Expectation::RunsOn { job: id("web"), on: at(2) });
    assert_eq!(steps(&moved), ["move web from h1 to h2"]);
    let wanted = plan(run("web", vm(2)));
    assert!(steps(&wanted).is_empty() && wanted.report.unmet.is_empty(), "{}", wanted.report);
    let larger = plan(run("web", vm(3)));
    assert!(!larger.report.unmet.is_empty(), "another spec is another");
}

fn snapshot(name: &str) -> Snapshot {
    Snapshot {
        name: SnapshotName::new(name).unwrap(),
        stage: SnapshotStage::Ready,
        why: None,
        taken_ms: None,
        size_bytes: 0,
        promised_bytes: 0,
    }
}

#[test]
fn a_job_with_snapshots_stays_where_it_is_and_says_why() {
    let mut running = with(host(1, 4), "web", vm(2), JobState::Running);
    running.jobs[0].snapshots = vec![snapshot("before")].into();
    let moved = Expectation::RunsOn { job: id("web"), on: at(2) };
    let outcome = plan(&input([running, host(2, 4)], vec![moved]));
    assert_eq!(steps(&outcome), [""; 0]);
    let why = outcome.report.to_string();
    assert!(why.contains("ostler snapshots rm"), "{why}");
    assert_eq!(outcome.report.unmet[0].hosts[0].host, at(1), "there it runs and has them");
}

#[test]
fn a_job_with_snapshots_keeps_the_disks_that_they_are_of_and_grows_in_all_else() {
    let mut running = with(host(1, 4), "web", vm_with_disk(2, "debian"), JobState::Running);
    running.jobs[0].snapshots = vec![snapshot("before")].into();
    let more = DiskSpec { name: "data".into(), size_bytes: GIB, ..DiskSpec::default() };
    let change = |size: SizeChange| {
        let wanted = Expectation::HasSize { job: id("web"), size };
        plan(&input([running.clone()], vec![wanted]))
    };
    let outcome = change(SizeChange { add_disks: vec![more], ..SizeChange::default() });
    assert_eq!(steps(&outcome), [""; 0]);
    let why = outcome.report.to_string();
    assert!(why.contains("ostler snapshots rm"), "{why}");
    let larger = change(SizeChange { memory_bytes: Some(3 * GIB), ..SizeChange::default() });
    assert_eq!(steps(&larger), ["resize web on h1"]);
}

#[test]
fn a_lost_host_that_is_to_be_emptied_is_said_to_be_lost_and_no_other() {
    let there = with(host(1, 4), "web", vm(2), JobState::Running);
    let mut lost = input([there, host(2, 8), host(3, 8)], vec![]);
    lost.heard.insert(at(1), heard(Freshness::Lost, 20_000));
    lost.intents.insert(at(1), Intent::Drain);
    lost.limits = Limits { tends_hosts: true, ..lost.limits };
    let hosts = &plan(&lost).report.unmet[0].hosts;
    let said: Vec<_> = hosts.iter().map(|verdict| (&verdict.host, &verdict.why)).collect();
    assert_eq!(said, [(&at(1), &Blocker::Lost { age_ms: 20_000 })]);
}

#[test]
fn what_is_on_its_way_to_another_host_is_not_said_to_be_unable_to_leave() {
    let there = with(host(1, 4), "web", vm(2), JobState::Running);
    let coming = with(host(2, 8), "web", vm(2), JobState::MigratingIn);
    let mut draining = input([there, coming, host(3, 8)], vec![]);
    draining.intents.insert(at(1), Intent::Drain);
    draining.limits = Limits { tends_hosts: true, ..draining.limits };
    let reason = &plan(&draining).report.unmet[0].reason;
    assert!(matches!(reason, UnmetReason::InTransition { .. }), "{reason}");
}

fn sized(name: &str, gib: u64) -> Expectation {
    let size = SizeChange { memory_bytes: Some(gib * GIB), ..SizeChange::default() };
    Expectation::HasSize { job: id(name), size }
}

#[test]
fn a_job_is_resized_where_it_is_alive_or_was_last() {
    let running = with(host(1, 4), "web", vm(2), JobState::Running);
    let mut left = with(host(2, 8), "web", vm(2), JobState::Stopped);
    left.jobs[0].reason = Some(Reason::Migrated { to: at(1) });
    left.jobs[0].revision = Revision(9);
    let asked = input([running.clone(), left.clone()], vec![sized("web", 3)]);
    let outcome = plan(&asked);
    assert_eq!(steps(&outcome), ["resize web on h1"]);
    let Step::ResizeVm(step) = &outcome.plan.steps[0] else { panic!() };
    assert_eq!((step.revision, &step.spec), (Revision(10), &vm(3)), "nothing else changes");
    assert!(step.is_growth);
    assert_eq!(steps(&plan(&input([running, left], vec![sized("web", 2)]))), [""; 0]);
    let stopped = with(host(1, 4), "web", vm(2), JobState::Stopped);
    assert_eq!(steps(&plan(&input([stopped], vec![sized("web", 3)]))), ["resize web on h1"]);
    let starting = with(host(1, 4), "web", vm(2), JobState::Starting);
    assert!(plan(&input([starting], vec![sized("web", 3)])).report.is_passing());
}

#[test]
fn a_job_that_has_no_room_to_grow_stays_as_it_is_and_the_report_says_how_far_it_could() {
    let there = with(host(1, 4), "web", vm(2), JobState::Running);
    let full = there.host.capacity.memory_bytes / GIB;
    let free = there.host.free().memory_bytes / GIB;
    let outcome = plan(&input([there, host(2, 15)], vec![sized("web", full)]));
    assert!(outcome.plan.steps.is_empty());
    let words = outcome.report.to_string();
    assert!(words.contains(&format!("could have at most 16 vcpus, {}GiB", free + 2)), "{words}");
}

#[test]
fn what_a_guest_has_beyond_its_spec_counts_and_keeps_it_where_it_is() {
    let mut there = with(host(1, 4), "web", vm(2), JobState::Running);
    let has = Resize::of(
        Resources { vcpus: 1, memory_bytes: 5 * GIB, disk_bytes: 0 },
        ResizeStage::NextStart,
    );
    there.jobs[0].resize = Some(Box::new(has));
    there.host.allocation = there.host.allocation.plus(vm(3).resources());
    let moved = Expectation::RunsOn { job: id("web"), on: at(2) };
    let outcome = plan(&input([there.clone(), host(2, 15)], vec![moved]));
    assert!(outcome.report.to_string().contains("more than its spec"), "{}", outcome.report);
    // Asked for the same again, it is tried again; what it has still it may keep.
    let again = |gib| steps(&plan(&input([there.clone()], vec![sized("web", gib)])));
    assert_eq!(again(2), ["resize web on h1"]);
    assert_eq!(again(5), ["resize web on h1"]);
    assert_eq!(again(7), [""; 0], "it has 5 and 1 is free");
}

#[test]
fn a_job_nobody_has_cannot_be_stopped_or_moved() {
    for wanted in [
        sized("wbe", 2),
        Expectation::IsStopped { job: id("wbe") },
        Expectation::RunsOn { job: id("wbe"), on: at(1) },
    ] {
        let outcome = plan(&input([host(1, 4)], vec![wanted]));
        assert_eq!(outcome.report.unmet[0].reason, UnmetReason::NoSuchJob);
    }
}

#[test]
fn a_job_that_is_alive_twice_is_not_moved_on_top_of_that() {
    let twice = [1, 2].map(|n| with(host(n, 4), "web", vm(2), JobState::Running));
    let wants = vec![Expectation::RunsOn { job: id("web"), on: at(3) }];
    let [a, b] = twice;
    let outcome = plan(&input([a, b, host(3, 8)], wants));
    assert!(outcome.plan.steps.is_empty());
    assert!(outcome.report.to_string().contains("alive on h2 as well"), "{}", outcome.report);
}

#[test]
fn what_a_host_is_at_already_is_only_waited_for() {
    let there = with(host(1, 4), "web", vm(2), JobState::Starting);
    let outcome = plan(&input([there, host(2, 8)], vec![run("web", vm(2))]));
    assert_eq!(outcome.coming, vec![(id("web"), at(1))]);
    assert!(outcome.plan.steps.is_empty() && outcome.report.is_empty());
}

#[test]
fn what_is_between_two_states_passes() {
    let there = with(host(1, 4), "web", vm(2), JobState::Stopping);
    let outcome = plan(&input([there, host(2, 8)], vec![run("web", vm(2))]));
    assert!(outcome.report.is_passing(), "{}", outcome.report);
}

#[test]
fn a_small_vm_is_moved_so_that_a_big_one_fits_if_that_is_allowed() {
    let full = with(host(1, 14), "small", vm(2), JobState::Running);
    let mut asked = input([full, host(2, 6)], vec![run("big", vm(13))]);
    let told = plan(&asked);
    assert_eq!(
        told.report.unmet[0].cheapest.as_deref(),
        Some("move small from h1 to h2: that makes room")
    );
    asked.limits.may_make_room = true;
    assert_eq!(steps(&plan(&asked)), ["move small from h1 to h2", "start big on h1"]);
}

#[test]
fn a_step_taken_back_leaves_the_world_as_it_was() {
    let there = with(host(1, 10), "web", vm(2), JobState::Running);
    let asked = input([there, host(2, 8)], vec![]);
    let before = State::new(&asked);
    let room = |state: &State<'_>| {
        let rows = [at(1), at(2)].map(|h| state.allocation(state.host(&h).unwrap()));
        (rows, state.placements(&id("web")).keys().cloned().collect::<Vec<_>>())
    };
    let job = id("web");
    let all = [
        Step::StopVm(steps::StopVm { job: job.clone(), host: at(1) }),
        Step::MigrateVm(steps::MigrateVm {
            job: job.clone(),
            from: at(1),
            to: at(2),
            revision: Revision(4),
        }),
        Step::ResizeVm(steps::ResizeVm {
            job,
            host: at(1),
            revision: Revision(4),
            size: SizeChange::default(),
            spec: vm(5),
            is_growth: true,
        }),
    ];
    for step in all {
        step.check(&before).unwrap();
        let after = step.apply(&before);
        let back = step.inverse(&before).unwrap();
        back.check(&after).unwrap();
        assert_eq!(room(&back.apply(&after)), room(&before), "{step}");
    }
}

// Properties.

fn any_input() -> impl Strategy<Value = PlanInput> {
    let hosts = prop::collection::vec((0..17_u64, any_job(), 0..4_u8), 0..6);
    let wants = prop::collection::vec((0..5_u8, 0..4_u8, 1..16_u64, 0..6_u8), 0..4);
    let orders = prop::collection::vec((0..4_u8, 0..4_u8), 0..3);
    let all = (hosts, wants, orders, any::<u64>(), any::<bool>());
    all.prop_map(|(hosts, wants, orders, seed, may_make_room)| {
        let mut all = Vec::new();
        let mut heard_at = BTreeMap::new();
        for (n, (free, job, freshness)) in hosts.into_iter().enumerate() {
            let n = u8::try_from(n).unwrap();
            let mut inventory = host(n, free);
            if let Some((name, gib, state)) = job
                && gib <= free
            {
                inventory = with(inventory, &format!("job{name}"), vm(gib), state);
            }
            all.push(inventory);
            let freshness = match freshness {
                0 => Freshness::Stale,
                1 => Freshness::Lost,
                _ => Freshness::Fresh,
            };
            heard_at.insert(at(n), heard(freshness, 9_000));
        }
        // A job wanted twice would be two wants that contradict each other.
        let wants: BTreeMap<u8, Expectation> = wants
            .into_iter()
            .map(|(kind, name, gib, on)| {
                let job = id(&format!("job{name}"));
                let wanted = match kind {
                    0 => Expectation::Runs { job, spec: vm(gib), on: None },
                    1 => Expectation::RunsOn { job, on: at(on) },
                    2 => Expectation::IsStopped { job },
                    3 => sized(job.as_str(), gib),
                    _ => Expectation::Absent { job },
                };
                (name, wanted)
            })
            .collect();
        let mut input = input(all, wants.into_values().collect());
        // Also in circles, which only those who put expectations can refuse.
        let order = |(job, after)| StartsAfter {
            jobs: vec![id(&format!("job{job}"))],
            after: vec![id(&format!("job{after}"))],
        };
        let orders = orders.into_iter().map(order);
        input.orders = orders.map(|order| Order { level: Level::Must, order }).collect();
        input.heard = heard_at;
        input.seed = seed;
        input.limits.may_make_room = may_make_room;
        input
    })
}

fn any_job() -> impl Strategy<Value = Option<(u8, u64, JobState)>> {
    let state = prop_oneof![
        Just(JobState::Running),
        Just(JobState::Running),
        Just(JobState::Stopped),
        Just(JobState::Starting),
        Just(JobState::Stopping),
        Just(JobState::Crashed),
    ];
    prop::option::of((0..4_u8, 1..8_u64, state))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn planner_is_deterministic(input in any_input()) {
        let again: PlanInput =
            serde_json::from_str(&serde_json::to_string(&input).unwrap()).unwrap();
        prop_assert_eq!(plan(&input), plan(&again));
    }

    #[test]
    fn every_plan_passes_the_audit_and_meets_what_it_does_not_report(input in any_input()) {
        prop_assert_eq!(audit(&input, &plan(&input)), vec![]);
    }

    #[test]
    fn every_step_is_allowed_when_its_turn_comes_and_none_is_needless(input in any_input()) {
        let outcome = plan(&input);
        let mut state = State::new(&input);
        for step in &outcome.plan.steps {
            prop_assert_eq!(step.check(&state), Ok(()));
            state = step.apply(&state);
            for (_, row) in state.hosts() {
                let before = row.host.allocation;
                let after = state.allocation(row);
                prop_assert!(after.fits_in(row.host.capacity) || after.fits_in(before));
            }
        }
        let one = PlanInput { expectations: input.expectations.iter().take(1).cloned().collect(), ..input };
        let outcome = plan(&one);
        for i in 0..outcome.plan.steps.len() {
            let mut state = State::new(&one);
            for (n, step) in outcome.plan.steps.iter().enumerate() {
                if n != i && step.check(&state).is_ok() {
                    state = step.apply(&state);
                }
            }
            prop_assert_ne!(one.expectations[0].standing(&state), Standing::Met);
        }
    }
}

/// A host without any image.
fn without_images(mut inventory: Inventory) -> Inventory {
    inventory.host.images.clear();
    inventory
}

fn fetches(outcome: &Outcome) -> &[Fetch] {
    let Step::StartVm(start) = &outcome.plan.steps[0] else { panic!("a start") };
    &start.fetches
}

#[test]
fn a_host_that_has_the_image_is_preferred_to_one_that_must_fetch_it() {
    let wants = vec![run("web", vm_with_disk(2, "debian"))];
    let outcome = plan(&input([host(1, 4), without_images(host(2, 16))], wants));
    assert_eq!(steps(&outcome), ["start web on h1"]);
    assert!(fetches(&outcome).is_empty());
}

#[test]
fn where_only_others_have_room_the_image_is_copied_there_first_and_takes_its_room() {
    let wants = vec![run("web", vm_with_disk(8, "debian"))];
    let two = input([host(1, 4), without_images(host(2, 16))], wants);
    let outcome = plan(&two);
    assert_eq!(steps(&outcome), ["start web on h2, with image debian copied from h1 first"]);
    assert_eq!(fetches(&outcome)[0].from, [at(1)]);
    assert_eq!(audit(&two, &outcome), []);
    let state = State::new(&two);
    let reserved = outcome.plan.steps[0].reservation(&state).unwrap().resources;
    assert_eq!(reserved.disk_bytes, 3 * GIB, "2 GiB of disk and a copy of 1 GiB");

    let mut narrow = without_images(host(2, 16));
    narrow.host.allocation.disk_bytes = narrow.host.capacity.disk_bytes - 2 * GIB;
    let outcome = plan(&input([host(1, 4), narrow], vec![run("web", vm_with_disk(8, "debian"))]));
    let told = outcome.report.to_string();
    assert!(told.contains("needs 3GiB of disk, 2GiB free"), "{told}");
}

#[test]
fn a_second_vm_of_a_plan_uses_the_copy_that_the_first_one_brought() {
    let wants = vec![run("a", vm_with_disk(6, "debian")), run("b", vm_with_disk(6, "debian"))];
    let both = input([host(1, 4), without_images(host(2, 16))], wants);
    let outcome = plan(&both);
    assert_eq!(
        steps(&outcome),
        ["start a on h2, with image debian copied from h1 first", "start b on h2"]
    );
    assert_eq!(audit(&both, &outcome), []);
}

#[test]
fn nobody_is_asked_for_an_image_whose_holders_are_lost_or_contradict_each_other() {
    let wants = || vec![run("web", vm_with_disk(8, "debian"))];
    let mut lost = input([host(1, 4), without_images(host(2, 16))], wants());
    lost.heard.insert(at(1), heard(Freshness::Lost, 20_000));
    assert!(plan(&lost).plan.steps.is_empty());

    let mut other = host(3, 4);
    let name = ImageName::new("debian").unwrap();
    other.host.images.get_mut(&name).unwrap().sha256 = Digest::of(b"another");
    let outcome = plan(&input([host(1, 4), without_images(host(2, 16)), other], wants()));
    assert!(outcome.plan.steps.is_empty(), "{:?}", steps(&outcome));
}

#[test]
fn a_vm_that_has_its_disks_on_the_host_starts_again_without_the_image() {
    let moved =
        with(without_images(host(2, 16)), "web", vm_with_disk(2, "debian"), JobState::Stopped);
    let mut wanted = input([host(1, 16), moved], vec![run("web", vm_with_disk(2, "debian"))]);
    wanted.seed = 1;
    let outcome = plan(&wanted);
    assert_eq!(steps(&outcome), ["start web on h2"]);
    assert!(fetches(&outcome).is_empty());
    assert_eq!(audit(&wanted, &outcome), []);
}
