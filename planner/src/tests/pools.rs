//! Jobs with disks in pools: where they may be, by what hosts have found there.

use protocol::job::{Snapshot, SnapshotStage};
use protocol::pool::{PoolFacts, PoolId};
use protocol::vm::OnLoss;

use super::*;

/// A host with a pool `nfs` of this id.
fn has_pool(mut inventory: Inventory, id: u128, is_shared: bool) -> Inventory {
    let facts = PoolFacts {
        id: PoolId::from_u128(id),
        is_shared,
        path: "/srv/nfs".into(),
        unavailable: None,
        capacity_bytes: 4 * GIB,
        promised_bytes: 0,
        free_bytes: 4 * GIB,
        labels: std::collections::BTreeMap::new(),
    };
    inventory.host.pools.insert("nfs".parse().unwrap(), facts);
    inventory
}

fn change(mut inventory: Inventory, f: impl FnOnce(&mut PoolFacts)) -> Inventory {
    f(inventory.host.pools.get_mut(&"nfs".parse().unwrap()).unwrap());
    inventory
}

fn pooled(gib: u64) -> JobSpec {
    let JobSpec { kind: protocol::job::JobKind::Vm(mut vm), tenant, labels } =
        vm_with_disk(gib, "debian")
    else {
        panic!("a VM");
    };
    vm.disks[0].pool = Some("nfs".parse().unwrap());
    JobSpec { kind: protocol::job::JobKind::Vm(vm), tenant, labels }
}

fn start_of(outcome: &Outcome) -> &steps::StartVm {
    match &outcome.plan.steps[..] {
        [Step::StartVm(start)] => start,
        other => panic!("{other:?}; {}", outcome.report),
    }
}

#[test]
fn a_job_goes_where_its_pool_is_and_the_report_names_who_lacks_it() {
    let small = has_pool(host(1, 4), 1, true);
    let outcome = plan(&input([small, host(2, 12)], vec![run("web", pooled(1))]));
    assert_eq!(steps(&outcome), ["start web on h1"], "the larger one has no such pool");
    let outcome = plan(&input([host(2, 12)], vec![run("web", pooled(1))]));
    assert_eq!(
        outcome.report.to_string(),
        "web: no host can take it; node2 (h2): has no pool nfs; it has none but its own folder"
    );
    let gone = has_pool(host(1, 4), 1, true);
    let gone = change(gone, |pool| pool.unavailable = Some("it is not mounted".into()));
    let said = plan(&input([gone], vec![run("web", pooled(1))])).report.to_string();
    assert!(said.contains("pool nfs is not available on this host: it is not mounted"), "{said}");
}

#[test]
fn what_ended_on_one_host_starts_on_another_that_has_the_very_same_pool() {
    let stopped = |n| with(has_pool(host(n, 4), 1, true), "web", pooled(1), JobState::Stopped);
    let wants = || vec![run("web", pooled(1))];
    let outcome = plan(&input([stopped(1), has_pool(host(2, 12), 1, true)], wants()));
    let start = start_of(&outcome);
    assert_eq!((&start.host, start.finds_disks, start.revision), (&at(2), true, Revision(4)));
    assert!(
        audit(&input([stopped(1), has_pool(host(2, 12), 1, true)], wants()), &outcome).is_empty()
    );
    // Where it was it finds its own; another pool of that name is none of its.
    let outcome = plan(&input([stopped(1), has_pool(host(2, 12), 2, true)], wants()));
    let start = start_of(&outcome);
    assert_eq!((&start.host, start.finds_disks), (&at(1), false));
    let elsewhere = vec![Expectation::Runs { job: id("web"), spec: pooled(1), on: Some(at(2)) }];
    let outcome = plan(&input([stopped(1), has_pool(host(2, 12), 2, true)], elsewhere));
    let said = outcome.report.to_string();
    assert!(said.contains("its pool nfs is not the pool nfs of h1"), "{said}");
    // A pool of the host's own is not reached from elsewhere.
    let own = with(has_pool(host(1, 4), 1, false), "web", pooled(1), JobState::Stopped);
    let outcome = plan(&input([own, has_pool(host(2, 12), 1, true)], wants()));
    assert_eq!(steps(&outcome), ["start web on h1"]);
}

#[test]
fn a_saved_vm_goes_on_only_where_its_memory_is() {
    let mut saved = with(has_pool(host(1, 4), 1, true), "web", pooled(1), JobState::Stopped);
    saved.jobs[0].reason = Some(Reason::Saved);
    let outcome =
        plan(&input([saved, has_pool(host(2, 12), 1, true)], vec![run("web", pooled(1))]));
    assert_eq!(steps(&outcome), ["start web on h1"]);
}

#[test]
fn what_is_lost_is_found_in_the_pool_that_its_host_had() {
    let spec = |on_loss| {
        let mut spec = pooled(1);
        if let protocol::job::JobKind::Vm(vm) = &mut spec.kind {
            vm.on_loss = on_loss;
        }
        spec
    };
    let wants = vec![run("web", spec(OnLoss::Stop))];
    let hosts = [
        has_pool(host(1, 4), 1, true),
        has_pool(host(2, 12), 2, true),
        has_pool(host(3, 2), 1, true),
    ];
    let mut hosts = hosts.into_iter();
    let mut input = input(hosts.by_ref(), wants);
    // It needs no image, and no room that is not promised already.
    input.lost.insert(id("web"), at(1));
    input.heard.insert(at(1), heard(Freshness::Lost, 20_000));
    let outcome = plan(&input);
    let start = start_of(&outcome);
    assert_eq!((&start.host, start.finds_disks, start.fetches.len()), (&at(3), true, 0));
}

#[test]
fn a_plan_promises_the_room_of_a_shared_pool_once() {
    let hosts = || [has_pool(host(1, 8), 1, true), has_pool(host(2, 8), 1, true)];
    let wants = |n: usize| (0..n).map(|i| run(&format!("web-{i}"), pooled(1))).collect::<Vec<_>>();
    let outcome = plan(&input(hosts(), wants(3)));
    assert_eq!(outcome.plan.steps.len(), 2, "two of 2 GiB fit into 4 GiB: {}", outcome.report);
    assert!(outcome.report.to_string().contains("needs 2GiB in pool nfs, which has 0B to promise"));
    let two = [has_pool(host(1, 8), 1, true), has_pool(host(2, 8), 2, true)];
    assert_eq!(plan(&input(two, wants(4))).plan.steps.len(), 4, "two pools of one name");
}

#[test]
fn a_move_leaves_shared_disks_where_they_are_and_costs_memory_alone() {
    let running = || with(has_pool(host(1, 4), 1, true), "web", pooled(1), JobState::Running);
    let to = |n| vec![Expectation::RunsOn { job: id("web"), on: at(n) }];
    let full = |n, id| change(has_pool(host(n, 8), id, true), |pool| pool.promised_bytes = 4 * GIB);
    let outcome = plan(&input([running(), full(2, 1)], to(2)));
    assert_eq!(steps(&outcome), ["move web from h1 to h2"]);
    assert_eq!(outcome.plan.cost.io_bytes, GIB);
    let said = plan(&input([running(), full(2, 2)], to(2))).report.to_string();
    assert!(said.contains("its pool nfs is not the pool nfs of h1"), "{said}");
    let elsewhere = change(full(2, 1), |pool| pool.path = "/mnt/nfs".into());
    let said = plan(&input([running(), elsewhere], to(2))).report.to_string();
    assert!(said.contains("a running VM keeps its paths"), "{said}");
    // Disks of its own pool are copied.
    let own = with(has_pool(host(1, 4), 1, false), "web", pooled(1), JobState::Running);
    let outcome = plan(&input([own, has_pool(host(2, 8), 2, false)], to(2)));
    assert_eq!(outcome.plan.cost.io_bytes, 3 * GIB);
}

#[test]
fn a_job_that_runs_is_deleted_with_every_row_that_is_left_of_it() {
    let of = |n, state| with(has_pool(host(n, 4), 1, true), "web", pooled(1), state);
    let hosts = [of(1, JobState::Stopped), of(2, JobState::Running), of(3, JobState::Stopped)];
    let outcome = plan(&input(hosts, vec![Expectation::Absent { job: id("web") }]));
    assert_eq!(outcome.plan.steps.len(), 4, "a stop and three deletes: {}", outcome.report);
}

#[test]
fn a_disk_grows_in_a_pool_into_what_the_pool_has_left_for_everybody() {
    let runs = |n, name: &str| {
        let pooled = with(has_pool(host(n, 4), 1, true), name, pooled(1), JobState::Running);
        change(pooled, |pool| (pool.capacity_bytes, pool.promised_bytes) = (8 * GIB, 4 * GIB))
    };
    let disk = |gib: u64| {
        let disks = std::collections::BTreeMap::from([("root".to_owned(), gib * GIB)]);
        SizeChange { disks, ..SizeChange::default() }
    };
    let grown = |name: &str, gib| Expectation::HasSize { job: id(name), size: disk(gib) };
    let both = || [runs(1, "web"), runs(2, "db")];
    let outcome = plan(&input(both(), vec![grown("web", 5)]));
    assert_eq!(steps(&outcome), ["resize web on h1"]);
    assert!(audit(&input(both(), vec![grown("web", 5)]), &outcome).is_empty());
    let said = plan(&input(both(), vec![grown("web", 7)])).report.to_string();
    assert!(said.contains("pool nfs"), "{said}");
    // The room is one room, whichever host asks for it.
    let outcome = plan(&input(both(), vec![grown("web", 4), grown("db", 4)]));
    assert_eq!(steps(&outcome).len(), 2, "{}", outcome.report);
    let outcome = plan(&input(both(), vec![grown("web", 5), grown("db", 4)]));
    assert_eq!(steps(&outcome).len(), 1, "{}", outcome.report);
}

#[test]
fn what_disks_were_goes_with_them_where_they_stay_in_place() {
    let runs = |is_shared| {
        let mut running =
            with(has_pool(host(1, 4), 1, is_shared), "web", pooled(1), JobState::Running);
        running.jobs[0].snapshots = vec![Snapshot {
            name: "a".parse().unwrap(),
            stage: SnapshotStage::Ready,
            why: None,
            taken_ms: None,
            size_bytes: GIB,
            promised_bytes: GIB,
        }]
        .into();
        running
    };
    let there = || vec![Expectation::Runs { job: id("web"), spec: pooled(1), on: Some(at(2)) }];
    let moved = plan(&input([runs(true), has_pool(host(2, 4), 1, true)], there()));
    assert_eq!(steps(&moved), ["move web from h1 to h2"], "{}", moved.report);
    let kept = plan(&input([runs(false), has_pool(host(2, 4), 1, false)], there()));
    assert_eq!(steps(&kept), [""; 0], "they would be left behind by the copy");
    let mut bare = runs(false);
    bare.jobs[0].snapshots = Box::default();
    let copied = plan(&input([bare, has_pool(host(2, 4), 1, false)], there()));
    assert_eq!(steps(&copied), ["move web from h1 to h2"], "{}", copied.report);
}
