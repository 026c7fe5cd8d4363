//! Snapshots: what is promised for them, what is refused with them, and a death of the agent between any
//! two effects.

use protocol::api::RevertJob;
use protocol::id::SnapshotName;
use protocol::job::{Snapshot, SnapshotStage};
use protocol::vm::DiskSpec;
use uuid::Uuid;

use super::*;
use crate::core::{Measured, SnapshotAct};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn name(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

fn with_disk() -> JobSpec {
    let root = DiskSpec { name: "root".into(), size_bytes: GIB, ..DiskSpec::default() };
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: GIB, disks: vec![root], ..VmSpec::default() })
}

fn put(bench: &mut Bench, revision: u64, spec: JobSpec) -> Result<Reply, Refusal> {
    let revision = Revision(revision);
    bench.put("web-1", PutJob::of(revision, spec))
}

fn take(bench: &mut Bench, snapshot: &str, bytes: u64) -> Result<Reply, Refusal> {
    take_of(bench, snapshot, Measured { held_bytes: bytes, took_bytes: bytes })
}

fn take_of(bench: &mut Bench, snapshot: &str, measured: Measured) -> Result<Reply, Refusal> {
    bench.ask(Request::TakeSnapshot { job: job_id("web-1"), name: name(snapshot), measured })
}

fn revert(bench: &mut Bench, snapshot: &str, revision: u64) -> Result<Reply, Refusal> {
    let revert = RevertJob { revision: Revision(revision) };
    bench.ask(Request::Revert { job: job_id("web-1"), name: name(snapshot), revert })
}

fn delete(bench: &mut Bench, snapshot: &str) -> Result<Reply, Refusal> {
    bench.ask(Request::DeleteSnapshot { job: job_id("web-1"), name: name(snapshot) })
}

fn stop(bench: &mut Bench) {
    let stop = StopJob::within(0);
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    bench.end_work(WorkOutcome::Done);
}

fn taken(bytes: u64) -> WorkOutcome {
    let measured = Measured { held_bytes: bytes, took_bytes: bytes };
    WorkOutcome::Snapshotted { taken_ms: 7, measured }
}

fn snapshots(bench: &Bench) -> Vec<Snapshot> {
    bench.agent.job(&job_id("web-1")).expect("the job is here").job.snapshots.to_vec()
}

fn stage(bench: &Bench) -> Vec<(String, SnapshotStage)> {
    snapshots(bench).into_iter().map(|s| (s.name.to_string(), s.stage)).collect()
}

fn promised(bench: &Bench) -> u64 {
    bench.agent.inventory().host.allocation.disk_bytes
}

fn what(work: Work) -> (SnapshotAct, String, bool) {
    match work {
        Work::SnapshotVm { name, act, is_again, .. } => (act, name.to_string(), is_again),
        other => panic!("no snapshot: {other:?}"),
    }
}

/// A lone host with a running job that has a disk of 1 GiB; it has room for 8.
fn running() -> Bench {
    let mut bench = Bench::lone();
    put(&mut bench, 1, with_disk()).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench
}

fn with_snapshot() -> Bench {
    let mut bench = running();
    take(&mut bench, "a", 100 * MIB).unwrap();
    bench.end_work(taken(100 * MIB));
    bench
}

#[test]
fn a_snapshot_is_promised_before_it_is_taken_and_counted_by_what_it_holds() {
    let mut bench = running();
    let Reply::Accepted(job) = take(&mut bench, "a", 100 * MIB).unwrap() else { panic!("refused") };
    assert_eq!(job.snapshot_words().as_deref(), Some("taking snapshot a"));
    assert_eq!(promised(&bench), GIB + 100 * MIB);
    assert!(matches!(take(&mut bench, "a", 0), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(take(&mut bench, "b", 0)), "busy");
    let work = bench.end_work(taken(120 * MIB));
    assert_eq!(what(work), (SnapshotAct::Take, "a".to_owned(), false));
    assert_eq!(stage(&bench), [("a".to_owned(), SnapshotStage::Ready)]);
    assert_eq!((snapshots(&bench)[0].taken_ms, promised(&bench)), (Some(7), GIB + 120 * MIB));
    // It is kept with the disks when the job has ended, and when it starts again.
    stop(&mut bench);
    assert_eq!(promised(&bench), GIB + 120 * MIB);
    put(&mut bench, 2, with_disk()).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(stage(&bench), [("a".to_owned(), SnapshotStage::Ready)]);
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_what_failed_takes_no_room() {
    let mut bench = running();
    let Err(Refusal::NoCapacity { asked, free, .. }) = take(&mut bench, "a", 8 * GIB) else {
        panic!("8 of 7 GiB were promised");
    };
    assert_eq!((asked.disk_bytes, free.disk_bytes), (8 * GIB, 7 * GIB));
    take(&mut bench, "a", 7 * GIB).unwrap();
    bench.end_work(WorkOutcome::Failed("the disk is full".to_owned()));
    assert_eq!(stage(&bench), [("a".to_owned(), SnapshotStage::Failed)]);
    assert_eq!(snapshots(&bench)[0].why.as_deref(), Some("the disk is full"));
    assert_eq!(promised(&bench), GIB);
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "nothing is tried again by itself");
    // The name is free, and what failed is forgotten at once.
    take(&mut bench, "a", MIB).unwrap();
    bench.end_work(WorkOutcome::Failed("again".to_owned()));
    delete(&mut bench, "a").unwrap();
    assert!(snapshots(&bench).is_empty() && bench.works.is_empty());
}

#[test]
fn several_that_share_what_they_keep_are_promised_it_once() {
    let mut bench = with_snapshot();
    // Little was written between the two.
    let measured = Measured { held_bytes: 110 * MIB, took_bytes: 115 * MIB };
    take_of(&mut bench, "b", measured).unwrap();
    assert_eq!(promised(&bench), GIB + 115 * MIB);
    bench.end_work(WorkOutcome::Snapshotted { taken_ms: 8, measured });
    assert_eq!(promised(&bench), GIB + 115 * MIB);
    assert_eq!(snapshots(&bench)[1].size_bytes, 110 * MIB);
    // Whichever goes, the other can keep all that it has.
    delete(&mut bench, "a").unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(promised(&bench), GIB + 110 * MIB);
}

#[test]
fn a_death_at_any_moment_leaves_the_taking_to_the_next_life() {
    let mut bench = running();
    take(&mut bench, "a", MIB).unwrap();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    let work = bench.end_work(WorkOutcome::Unclear("libvirt is away".to_owned()));
    assert_eq!(what(work), (SnapshotAct::Take, "a".to_owned(), true), "it may have been done");
    assert_eq!(stage(&bench), [("a".to_owned(), SnapshotStage::Taking)]);
    let said = bench.agent.job(&job_id("web-1")).unwrap().job.snapshot_words();
    assert_eq!(said.as_deref(), Some("taking snapshot a: libvirt is away"));
    bench.tell(Input::Tick);
    let work = bench.end_work(taken(MIB));
    assert!(what(work).2);
    assert_eq!((stage(&bench)[0].1, &snapshots(&bench)[0].why), (SnapshotStage::Ready, &None));
}

#[test]
fn disks_go_back_only_when_nobody_uses_them_and_nothing_starts_before_they_are_back() {
    let mut bench = with_snapshot();
    assert_eq!(refusal(revert(&mut bench, "a", 2)), "wrong-state");
    stop(&mut bench);
    assert_eq!(refusal(revert(&mut bench, "b", 2)), "no-such-snapshot");
    assert_eq!(refusal(revert(&mut bench, "a", 1)), "revision-conflict");
    revert(&mut bench, "a", 2).unwrap();
    assert!(matches!(revert(&mut bench, "a", 2), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(put(&mut bench, 3, with_disk())), "wrong-state");
    assert_eq!(refusal(delete(&mut bench, "a")), "busy");
    let work = bench.end_work(WorkOutcome::Unclear("one disk is locked".to_owned()));
    assert_eq!(what(work), (SnapshotAct::Revert, "a".to_owned(), false));
    let Err(no) = put(&mut bench, 3, with_disk()) else { panic!("it was started half-way") };
    assert!(no.to_string().contains("one disk is locked"), "{no}");
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert!(what(bench.end_work(WorkOutcome::Done)).2);
    assert_eq!(stage(&bench), [("a".to_owned(), SnapshotStage::Ready)]);
    // A copy of the request that arrives late finds what was done, or a job that has changed since.
    assert!(matches!(revert(&mut bench, "a", 2), Ok(Reply::AlreadySo(_))));
    put(&mut bench, 3, with_disk()).unwrap();
    bench.end_work(WorkOutcome::Done);
    stop(&mut bench);
    assert_eq!(refusal(revert(&mut bench, "a", 2)), "revision-conflict");
    assert!(bench.works.is_empty());
}

#[test]
fn a_revert_that_can_not_begin_changes_nothing_and_another_may_be_chosen_while_one_fails() {
    let mut bench = with_snapshot();
    take(&mut bench, "b", MIB).unwrap();
    bench.end_work(taken(MIB));
    stop(&mut bench);
    revert(&mut bench, "a", 2).unwrap();
    bench.end_work(WorkOutcome::Failed("no disk has it".to_owned()));
    assert_eq!(stage(&bench)[0].1, SnapshotStage::Ready);
    assert_eq!(snapshots(&bench)[0].why.as_deref(), Some("no disk has it"));
    revert(&mut bench, "a", 3).unwrap();
    bench.end_work(WorkOutcome::Unclear("broken".to_owned()));
    revert(&mut bench, "b", 4).unwrap();
    let work = bench.end_work(WorkOutcome::Done);
    assert_eq!(what(work), (SnapshotAct::Revert, "b".to_owned(), false));
    assert!(stage(&bench).iter().all(|(_, stage)| *stage == SnapshotStage::Ready));
}

#[test]
fn what_is_deleted_is_counted_until_it_is_gone() {
    let mut bench = with_snapshot();
    delete(&mut bench, "a").unwrap();
    assert!(matches!(delete(&mut bench, "a"), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(take(&mut bench, "a", MIB)), "busy");
    bench.end_work(WorkOutcome::Failed("QEMU says no".to_owned()));
    assert_eq!((stage(&bench)[0].1, promised(&bench)), (SnapshotStage::Deleting, GIB + 100 * MIB));
    bench.tell(Input::Tick);
    assert_eq!(what(bench.end_work(WorkOutcome::Done)).0, SnapshotAct::Delete);
    assert_eq!((stage(&bench), promised(&bench)), (vec![], GIB));
    assert_eq!(refusal(delete(&mut bench, "a")), "no-such-snapshot");
}

#[test]
fn a_stop_waits_for_the_snapshot_and_a_snapshot_of_a_job_that_ends_is_taken_of_its_disks() {
    let mut bench = running();
    take(&mut bench, "a", MIB).unwrap();
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Unclear("its guest has just ended".to_owned()));
    bench.tell(Input::Tick);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    assert!(what(bench.end_work(taken(MIB))).2);
    assert_eq!(stage(&bench)[0].1, SnapshotStage::Ready);
}

#[test]
fn a_saved_guest_does_not_find_other_disks_than_it_left() {
    let mut bench = with_snapshot();
    bench.ask(Request::Act { job: job_id("web-1"), act: Act::Save }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(revert(&mut bench, "a", 2)), "wrong-state");
    // What it left may be kept and let go.
    take(&mut bench, "b", MIB).unwrap();
    bench.end_work(taken(MIB));
    delete(&mut bench, "a").unwrap();
    bench.end_work(WorkOutcome::Done);
    let saved = bench.agent.job(&job_id("web-1")).unwrap().job.reason.clone();
    assert_eq!(saved, Some(Reason::Saved));
}

#[test]
fn a_guest_with_snapshots_is_not_sent_away() {
    let (mut source, _, migrate) = migration();
    let ask = |source: &mut Bench| {
        let (job, migrate) = (job_id("web-1"), migrate.clone());
        source.ask(Request::Migrate { job, migrate, revision: None })
    };
    // It has disks of its own by now, and a snapshot of them.
    let mut record = source.agent.job(&job_id("web-1")).unwrap().clone();
    record.job.snapshots = vec![Snapshot {
        name: name("a"),
        stage: SnapshotStage::Ready,
        why: None,
        taken_ms: None,
        size_bytes: 0,
        promised_bytes: 0,
    }]
    .into();
    write_to(&mut source.disk, Write::Job(Box::new(record)));
    source.die(false);
    source.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    source.works.clear();
    let Err(Refusal::HasSnapshots { snapshots, needed, .. }) = ask(&mut source) else {
        panic!("it was sent away");
    };
    assert_eq!((snapshots, needed.contains("ostler snapshots rm")), (vec![name("a")], true));
    assert!(source.works.is_empty());
}

#[test]
fn a_guest_does_not_come_over_older_disks_that_have_snapshots() {
    let mut bench = Bench::trusted(OTHER);
    let mut record = super::record("web-1");
    (record.job.state, record.job.spec) = (JobState::Stopped, with_disk().into());
    record.intent = Intent::Stop { grace_ms: 0 };
    let (stage, name) = (SnapshotStage::Ready, name("a"));
    record.job.snapshots =
        vec![Snapshot { name, stage, why: None, taken_ms: None, size_bytes: 0, promised_bytes: 0 }]
            .into();
    write_to(&mut bench.disk, Write::Job(Box::new(record)));
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    let hold = OfferId { epoch: Epoch(1), num: 1 };
    let ask = OfferRequest {
        job: job_id("web-1"),
        revision: Revision(2),
        spec: with_disk(),
        action: Action::MigrateIn { from: id_of(HOST), hold },
        finds_disks: false,
    };
    assert_eq!(refusal(bench.ask(Request::Offer(ask))), "has-snapshots");
}

#[test]
fn what_has_no_disks_of_ours_has_no_snapshots() {
    let mut bench = Bench::lone();
    put(&mut bench, 1, spec(1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(take(&mut bench, "a", 0)), "invalid", "it has no disks");
    let (job, measured) = (job_id("no"), Measured::default());
    let missing = Request::TakeSnapshot { job, name: name("a"), measured };
    assert_eq!(refusal(bench.ask(missing)), "no-such-job");
    let mut bench = Bench::lone();
    put(&mut bench, 1, with_disk()).unwrap();
    assert_eq!(refusal(take(&mut bench, "a", 0)), "wrong-state", "it is starting");
    bench.end_work(WorkOutcome::Failed("no".to_owned()));
    assert_eq!(refusal(take(&mut bench, "a", 0)), "wrong-state", "it has never run");
}

#[test]
fn there_are_never_more_snapshots_than_a_row_can_carry() {
    let mut bench = running();
    for number in 0..protocol::job::SNAPSHOTS_MAX {
        take(&mut bench, &format!("s{number}"), MIB).unwrap();
        bench.end_work(taken(MIB));
    }
    assert_eq!(refusal(take(&mut bench, "more", MIB)), "wrong-state");
}

fn read(bench: &mut Bench, snapshot: &str, reader: u128) -> Result<Reply, Refusal> {
    let (job, reader) = (job_id("web-1"), Uuid::from_u128(reader));
    bench.ask(Request::ReadSnapshot { job, name: name(snapshot), reader })
}

fn end(bench: &mut Bench, reader: u128) -> Result<Reply, Refusal> {
    bench.ask(Request::EndReading { job: job_id("web-1"), reader: Uuid::from_u128(reader) })
}

#[test]
fn a_snapshot_that_is_read_is_not_deleted_and_its_guest_goes_on() {
    let mut bench = with_snapshot();
    assert_eq!(refusal(read(&mut bench, "b", 1)), "no-such-snapshot");
    let Ok(Reply::Reading { vm, taken_ms: Some(7), turn: None }) = read(&mut bench, "a", 1) else {
        panic!("it is there")
    };
    assert_eq!(vm.disks[0].name, "root");
    read(&mut bench, "a", 2).unwrap();
    assert_eq!(refusal(delete(&mut bench, "a")), "busy");
    // Others come and go meanwhile.
    take(&mut bench, "b", 10 * MIB).unwrap();
    assert_eq!(refusal(read(&mut bench, "b", 3)), "busy");
    bench.end_work(taken(10 * MIB));
    delete(&mut bench, "b").unwrap();
    bench.end_work(WorkOutcome::Done);
    stop(&mut bench);
    assert_eq!(end(&mut bench, 1), Ok(Reply::Done));
    assert_eq!(refusal(delete(&mut bench, "a")), "busy", "another reads it");
    assert_eq!(end(&mut bench, 2), Ok(Reply::Done));
    assert!(end(&mut bench, 2).is_err() && end(&mut bench, 3).is_err(), "they do not read");
    delete(&mut bench, "a").unwrap();
    bench.end_work(WorkOutcome::Done);
    assert!(snapshots(&bench).is_empty());
}

#[test]
fn disks_are_not_made_what_they_were_while_one_is_read_nor_read_meanwhile() {
    let mut bench = with_snapshot();
    take(&mut bench, "b", 10 * MIB).unwrap();
    bench.end_work(taken(10 * MIB));
    stop(&mut bench);
    read(&mut bench, "b", 1).unwrap();
    assert_eq!(refusal(revert(&mut bench, "a", 2)), "busy");
    end(&mut bench, 1).unwrap();
    revert(&mut bench, "a", 2).unwrap();
    assert_eq!(refusal(read(&mut bench, "b", 1)), "busy");
    bench.end_work(WorkOutcome::Done);
    read(&mut bench, "b", 1).unwrap();
}

#[test]
fn what_was_read_of_another_job_of_that_name_is_not_believed() {
    let mut bench = with_snapshot();
    read(&mut bench, "a", 1).unwrap();
    stop(&mut bench);
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    bench.end_work(WorkOutcome::Done);
    put(&mut bench, 1, with_disk()).unwrap();
    bench.end_work(WorkOutcome::Done);
    take(&mut bench, "a", MIB).unwrap();
    bench.end_work(taken(MIB));
    read(&mut bench, "a", 2).unwrap();
    assert!(end(&mut bench, 1).is_err(), "that was another's");
    assert_eq!(end(&mut bench, 2), Ok(Reply::Done));
}
