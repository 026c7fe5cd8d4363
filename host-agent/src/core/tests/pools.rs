//! Pools: what may be declared, what a job's stay remembers, and with which rows volumes go.

use protocol::job::{JobKind, Snapshot, SnapshotStage};
use protocol::pool::{PoolFacts, PoolSpec, PoolsConfig};
use protocol::vm::{DiskSpec, OnLoss, SizeChange};

use super::*;
use crate::core::{Coming, Measured, Turn};

fn config(version: u64, pools: &[(&str, u128)]) -> PoolsConfig {
    let spec = |(name, id): &(&str, u128)| {
        let path = format!("/srv/{name}");
        let id = Some(uuid::Uuid::from_u128(*id));
        (name.parse().unwrap(), PoolSpec { path, shared: true, id, ..PoolSpec::default() })
    };
    PoolsConfig { version, pools: pools.iter().map(spec).collect() }
}

fn facts(id: u128, is_shared: bool) -> PoolFacts {
    PoolFacts {
        id: uuid::Uuid::from_u128(id),
        is_shared,
        path: "/srv/nfs".into(),
        unavailable: None,
        capacity_bytes: 8 << 30,
        promised_bytes: 0,
        free_bytes: 8 << 30,
        labels: BTreeMap::new(),
    }
}

fn pooled(on_loss: OnLoss) -> JobSpec {
    let pool = Some("nfs".parse().unwrap());
    let disk = DiskSpec { name: "root".into(), size_bytes: 1 << 30, pool, ..DiskSpec::default() };
    let disks = vec![disk];
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 1 << 30, disks, on_loss, ..VmSpec::default() })
}

fn with_pool(mut bench: Bench) -> Bench {
    assert_eq!(bench.ask(Request::Pools(config(1, &[("nfs", 1)]))), Ok(Reply::Done));
    bench.tell(Input::Pools(BTreeMap::from([("nfs".parse().unwrap(), facts(1, true))])));
    bench
}

fn turn_of(bench: &Bench) -> Turn {
    *bench.agent.turn(&job_id("web-1")).expect("it has volumes in a pool")
}

/// Gets a ticket for this action.
fn ticket(bench: &mut Bench, revision: u64, action: Action) -> Ticket {
    let (job, spec) = (job_id("web-1"), pooled(OnLoss::Stop));
    let revision = Revision(revision);
    let ask = OfferRequest { job, revision, spec, action, finds_disks: false };
    match bench.ask(Request::Offer(ask)) {
        Ok(Reply::Offered(offered)) => granted(offered.offer),
        other => panic!("no offer: {other:?}"),
    }
}

fn put(revision: u64, spec: JobSpec, ticket: Option<Ticket>) -> PutJob {
    PutJob { ticket, ..PutJob::of(Revision(revision), spec) }
}

#[test]
fn pools_are_declared_all_or_nothing_and_those_in_use_stay() {
    let mut bench = with_pool(Bench::lone());
    assert_eq!(bench.ask(Request::Pools(config(1, &[("nfs", 1)]))), Ok(Reply::Done), "repeated");
    assert_eq!(refusal(bench.ask(Request::Pools(config(1, &[])))), "config-conflict");
    assert_eq!(refusal(bench.ask(Request::Pools(config(2, &[("default", 1)])))), "invalid");
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    for other in [config(2, &[]), config(2, &[("nfs", 2)]), config(2, &[("fast", 1)])] {
        assert_eq!(refusal(bench.ask(Request::Pools(other))), "pool-in-use");
    }
    assert_eq!(bench.ask(Request::Pools(config(2, &[("nfs", 1), ("fast", 2)]))), Ok(Reply::Done));
    assert_eq!(bench.disk.pools.version, 2);
}

#[test]
fn a_pool_that_is_not_there_is_refused_by_name() {
    let mut bench = Bench::lone();
    assert_eq!(refusal(bench.put("web-1", put(1, pooled(OnLoss::Keep), None))), "no-pool");
    let gone = PoolFacts { unavailable: Some("not mounted".into()), ..facts(1, true) };
    bench.ask(Request::Pools(config(1, &[("nfs", 1)]))).unwrap();
    bench.tell(Input::Pools(BTreeMap::from([("nfs".parse().unwrap(), gone)])));
    let refused = bench.put("web-1", put(1, pooled(OnLoss::Keep), None));
    assert_eq!(refusal(refused), "pool-unavailable");
}

#[test]
fn an_offer_takes_room_in_the_pool_and_not_of_the_host() {
    let mut bench = with_pool(Bench::trusted(HOST));
    let pool = "nfs".parse().unwrap();
    ticket(&mut bench, 1, Action::Start);
    let host = bench.agent.inventory().host;
    assert_eq!(host.pools[&pool].promised_bytes, 1 << 30);
    assert_eq!((host.allocation.vcpus, host.allocation.disk_bytes), (1, 0));
}

#[test]
fn a_stay_is_one_from_its_rows_coming_until_it_is_gone() {
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    let first = turn_of(&bench);
    assert_eq!((first.stay.coming.clone(), first.stay.made), (Coming::Makes, true));
    bench.end_work(WorkOutcome::Done);
    bench.tell(Input::Tick);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.put("web-1", put(2, pooled(OnLoss::Keep), None)).unwrap();
    let second = turn_of(&bench);
    assert_eq!((second.stay.coming.clone(), second.stay.made), (Coming::Again, true));
    assert_eq!(second.stay.taken, first.stay.taken);
    // The next life knows it, and another row has another.
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(turn_of(&bench).stay, second.stay);
}

#[test]
fn volumes_go_with_the_stay_that_made_them_or_when_somebody_says_so() {
    let end = |bench: &mut Bench, shared: bool| {
        bench.end_work(WorkOutcome::Failed("no".into()));
        assert_eq!(bench.state("web-1"), JobState::Failed);
        bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared }).unwrap();
        turn_of(bench).deletes_shared
    };
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    assert!(end(&mut bench, false), "a first start that is taken back leaves nothing");
    for (shared, goes) in [(false, false), (true, true)] {
        let mut bench = with_pool(Bench::lone());
        let finds = PutJob { finds_disks: true, ..put(7, pooled(OnLoss::Keep), None) };
        bench.put("web-1", finds).unwrap();
        assert_eq!(turn_of(&bench).stay.coming, Coming::Finds { from: None });
        assert_eq!(end(&mut bench, shared), goes);
    }
}

#[test]
fn what_was_lost_is_somebody_elses_whoever_asks() {
    let mut bench = with_pool(Bench::trusted(HOST));
    let start = ticket(&mut bench, 1, Action::Start);
    bench.put("web-1", put(1, pooled(OnLoss::Stop), Some(start))).unwrap();
    bench.end_work(WorkOutcome::Done);
    let hold = bench.agent.job(&job_id("web-1")).unwrap().job.hold.unwrap();
    bench.tell(Input::Lost { job: job_id("web-1"), hold });
    bench.end_work(WorkOutcome::Done);
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: true }).unwrap();
    assert!(!turn_of(&bench).deletes_shared);
}

#[test]
fn what_fails_over_finds_its_disks_where_they_were_used_last() {
    let mut bench = with_pool(Bench::trusted(HOST));
    let from = id_of(OTHER);
    let hold = OfferId { epoch: Epoch(3), num: 4 };
    let lost = Action::FailOver { from: from.clone(), hold };
    let over = ticket(&mut bench, 5, lost);
    let pool = "nfs".parse().unwrap();
    let promised = bench.agent.inventory().host.pools[&pool].promised_bytes;
    assert_eq!(promised, 0, "they are promised already");
    bench.put("web-1", put(5, pooled(OnLoss::Stop), Some(over))).unwrap();
    let turn = turn_of(&bench);
    assert_eq!(turn.stay.coming, Coming::Finds { from: Some(from) });
    assert!(!turn.stay.made && turn.revision == Revision(5));
}

/// Asks for a disk of so many GiB.
fn grow(bench: &mut Bench, revision: u64, gib: u64) -> Result<Reply, Refusal> {
    let disks = BTreeMap::from([("root".to_owned(), gib << 30)]);
    let size = SizeChange { disks, ..SizeChange::default() };
    let revision = Revision(revision);
    let resize = protocol::api::ResizeJob { revision, size, ticket: None, run: None };
    bench.ask(Request::Resize { job: job_id("web-1"), resize })
}

#[test]
fn a_disk_grows_into_what_its_pool_has_left_and_is_what_it_was_if_the_pool_says_no_in_the_end() {
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let taken = PoolFacts { promised_bytes: 5 << 30, ..facts(1, true) };
    bench.tell(Input::Pools(BTreeMap::from([("nfs".parse().unwrap(), taken)])));
    assert_eq!(refusal(grow(&mut bench, 2, 5)), "pool-full");
    grow(&mut bench, 2, 4).unwrap();
    let host_disk = |bench: &Bench| bench.agent.inventory().host.allocation.disk_bytes;
    assert_eq!(host_disk(&bench), 0, "it takes nothing of its host");
    // Others were faster: no disk has grown.
    let no = WorkOutcome::Ungrown("pool nfs has 1GiB to promise".into());
    let Work::ResizeVm { vm, change } = bench.end_work(no) else { panic!("no resize") };
    assert_eq!((vm.disks[0].size_bytes, change.disks["root"]), (4 << 30, 4 << 30));
    let after = bench.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert_eq!((after.resize, &*after.spec), (None, &pooled(OnLoss::Keep)));
    assert!(matches!(after.reason, Some(Reason::ActionFailed { .. })));
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "it is not tried again by itself");
    // A definition that libvirt refuses leaves what a disk was given.
    grow(&mut bench, 3, 2).unwrap();
    bench.end_work(WorkOutcome::Failed("define: no".into()));
    let after = bench.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert_eq!(after.spec.resources().disk_bytes, 2 << 30);
}

#[test]
fn an_offer_to_grow_takes_room_in_the_pool_for_what_is_more() {
    let mut bench = with_pool(Bench::trusted(HOST));
    let start = ticket(&mut bench, 1, Action::Start);
    bench.put("web-1", put(1, pooled(OnLoss::Stop), Some(start))).unwrap();
    bench.end_work(WorkOutcome::Done);
    let disks = BTreeMap::from([("root".to_owned(), 3 << 30)]);
    let size = SizeChange { disks, ..SizeChange::default() };
    let (job, spec) =
        (job_id("web-1"), pooled(OnLoss::Stop).changed(&job_id("web-1"), &size).unwrap().unwrap());
    let (revision, action) = (Revision(2), Action::Resize);
    let ask = OfferRequest { job, revision, spec, action, finds_disks: false };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else { panic!("no offer") };
    assert_eq!(offered.offer.open().unwrap().resources.disk_bytes, 3 << 30, "for the books");
    let host = bench.agent.inventory().host;
    assert_eq!(host.pools[&"nfs".parse().unwrap()].promised_bytes, 2 << 30);
    assert_eq!((host.allocation.vcpus, host.allocation.disk_bytes), (1, 0));
}

fn take(bench: &mut Bench, name: &str, bytes: u64) -> Result<Reply, Refusal> {
    let (job, name) = (job_id("web-1"), name.parse().unwrap());
    let measured = Measured { held_bytes: bytes, took_bytes: bytes };
    bench.ask(Request::TakeSnapshot { job, name, measured })
}

fn snapshot(name: &str, stage: SnapshotStage) -> Snapshot {
    let name = name.parse().unwrap();
    Snapshot {
        name,
        stage,
        why: None,
        taken_ms: None,
        size_bytes: 1 << 20,
        promised_bytes: 1 << 20,
    }
}

fn tell(bench: &mut Bench, snapshots: &[(&str, SnapshotStage)]) {
    let snapshots = snapshots.iter().map(|(name, stage)| snapshot(name, *stage)).collect();
    bench.tell(Input::Snapshots { job: job_id("web-1"), snapshots });
}

fn stages(bench: &Bench) -> Vec<(String, SnapshotStage)> {
    let job = &bench.agent.job(&job_id("web-1")).unwrap().job;
    job.snapshots.iter().map(|one| (one.name.to_string(), one.stage)).collect()
}

fn named(list: &[(&str, SnapshotStage)]) -> Vec<(String, SnapshotStage)> {
    list.iter().map(|(name, stage)| ((*name).to_owned(), *stage)).collect()
}

#[test]
fn what_a_snapshot_keeps_is_the_pools_to_promise_and_none_of_the_hosts() {
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(take(&mut bench, "a", 9 << 30)), "pool-full");
    take(&mut bench, "a", 1 << 30).unwrap();
    assert_eq!(bench.agent.inventory().host.allocation.disk_bytes, 0);
    assert_eq!(turn_of(&bench).snapshots.len(), 1, "the shell writes it beside the volumes");
    // Its volumes are another's by now, and so is what they were.
    bench.end_work(WorkOutcome::NotThere);
    assert_eq!(stages(&bench), []);
    assert!(bench.works.is_empty());
    let mut mixed = pooled(OnLoss::Keep);
    if let JobKind::Vm(vm) = &mut mixed.kind {
        vm.disks.push(DiskSpec { name: "own".into(), size_bytes: 1 << 20, ..DiskSpec::default() });
    }
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, mixed, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(take(&mut bench, "a", 0)), "unsupported", "they are in two places");
}

#[test]
fn the_list_beside_the_volumes_becomes_the_rows_and_what_was_asked_here_goes_on() {
    use SnapshotStage::{Deleting, Ready, Taking};
    let mut bench = with_pool(Bench::lone());
    let finds = PutJob { finds_disks: true, ..put(7, pooled(OnLoss::Keep), None) };
    bench.put("web-1", finds).unwrap();
    tell(&mut bench, &[("a", Ready), ("b", Ready)]);
    assert_eq!(stages(&bench), named(&[("a", Ready), ("b", Ready)]));
    bench.end_work(WorkOutcome::Done);
    take(&mut bench, "c", 0).unwrap();
    // It was not begun when the guest and the agent died.
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    tell(&mut bench, &[("a", Ready), ("b", Ready)]);
    assert_eq!(stages(&bench), named(&[("a", Ready), ("b", Ready), ("c", Taking)]));
    let job = job_id("web-1");
    let mut bench = with_pool(Bench::lone());
    bench.put("web-1", put(1, pooled(OnLoss::Keep), None)).unwrap();
    tell(&mut bench, &[("a", Ready)]);
    bench.end_work(WorkOutcome::Done);
    bench.ask(Request::DeleteSnapshot { job, name: "a".parse().unwrap() }).unwrap();
    tell(&mut bench, &[("a", Ready)]);
    assert_eq!(stages(&bench), named(&[("a", Deleting)]));
}
