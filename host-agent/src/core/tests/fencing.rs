//! A host that hears that an operator has said it was off: what it held ends, before anything starts, and it
//! is a member as before.

use hypervisor::StopReason;
use protocol::job::JobKind;
use protocol::trust::Fence;

use super::*;

fn fenced(version: u64, since: u64) -> Signed<Trust> {
    let (host, by) = (key(HOST).public(), key(OPERATOR).public());
    let fenced =
        vec![Fence { host, since, by, by_fencer: false, at_ms: 0, reason: "no power".into() }];
    let trust = Trust { version, fenced, ..trust().open().unwrap() };
    Signed::seal(&trust, &key(OPERATOR))
}

fn autostarting() -> JobSpec {
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    JobSpec::vm(VmSpec { autostart: true, ..vm })
}

fn running() -> Bench {
    let mut bench = Bench::trusted(HOST);
    let ask = OfferRequest {
        job: job_id("web-1"),
        revision: Revision(1),
        spec: autostarting(),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else { panic!("no offer") };
    let put = PutJob { spec: autostarting(), ..body(1, 1, Some(granted(offered.offer))) };
    bench.put("web-1", put).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("web-1"), JobState::Running);
    bench
}

fn row(bench: &Bench) -> protocol::job::Job {
    bench.agent.job(&job_id("web-1")).unwrap().job.clone()
}

fn hears(bench: &mut Bench, document: Signed<Trust>) {
    assert_eq!(bench.ask(Request::Trust(document)), Ok(Reply::Done));
}

#[test]
fn a_host_that_returns_starts_nothing_that_was_taken_from_it() {
    let mut bench = running();
    let lost = row(&bench).hold.unwrap();
    bench.die(true);
    let off = domain("web-1", DomainState::ShutOff(StopReason::Unknown));
    bench.tell(Input::Domains(vec![off]));
    assert_eq!(row(&bench).reason, Some(Reason::AwaitingRight));
    hears(&mut bench, fenced(2, 2));
    assert_eq!((row(&bench).state, row(&bench).hold), (JobState::Stopping, Some(lost)));
    // The document and what follows from it are one write: another life knows both.
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    let ended = row(&bench);
    assert_eq!((ended.state, ended.hold), (JobState::Stopped, None));
    assert_eq!(ended.reason, Some(Reason::Fenced { lost, ran: false }));
    let standing = Standing { version: 2, obey: [0].into(), ready: [0].into() };
    bench.tell(Input::Right(standing));
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "nothing is begun");
    // A member as before: the next documents take nothing more.
    let offer = bench.offer("db-1", 1, Action::Start);
    assert_eq!(offer.open().unwrap().trust_version, 2);
    assert!(offer.open().unwrap().id > lost);
    let again = PutJob { revision: Revision(2), ..body(2, 1, None) };
    assert!(bench.put("web-1", again).is_err(), "not without a ticket");
    hears(&mut bench, fenced(3, 2));
    assert_eq!(row(&bench).state, JobState::Stopped);
}

#[test]
fn a_guest_that_runs_though_its_host_was_said_to_be_off_is_ended_and_that_is_said() {
    let mut bench = running();
    let lost = row(&bench).hold.unwrap();
    bench.events.clear();
    hears(&mut bench, fenced(2, 2));
    assert_eq!(row(&bench).state, JobState::Stopping);
    assert_eq!(row(&bench).hold, Some(lost), "listed until it is dead");
    let why = Some(Reason::Fenced { lost, ran: true });
    let told = bench.events.iter().any(
        |event| matches!(&event.fact, protocol::event::Fact::JobChanged { job } if job.reason == why),
    );
    assert!(told, "{:?}", bench.events);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!((row(&bench).state, row(&bench).reason), (JobState::Stopped, why));
    assert_eq!(row(&bench).hold, None);
}

#[test]
fn what_is_being_stopped_ends_at_once_and_as_it_would_have() {
    let mut bench = running();
    let stop = StopJob::within(60_000);
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    let before = row(&bench).reason;
    hears(&mut bench, fenced(2, 2));
    assert_eq!((row(&bench).state, row(&bench).reason), (JobState::Stopping, before));
    let (job, late, patient) = bench.works.remove(0);
    assert_eq!(patient, Work::StopVm { grace_ms: 60_000 });
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 }, "at once");
    assert_eq!(row(&bench).reason, Some(Reason::Requested), "nobody starts it again");
    let ended = row(&bench);
    bench.tell(Input::Done { job, work: late, outcome: WorkOutcome::Done });
    assert_eq!(row(&bench), ended);
}

/// A sending may last for a day.
#[test]
fn a_guest_that_is_being_sent_away_is_ended_without_waiting_for_what_becomes_of_that() {
    for late in [
        MigrationOutcome::Gone,
        MigrationOutcome::StillHere { message: "cancelled".into() },
        MigrationOutcome::Unknown { message: "overtaken".into() },
    ] {
        let (mut source, _, migrate) = migration();
        let lost = row(&source).hold.unwrap();
        source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
        hears(&mut source, fenced(2, 2));
        let why = Some(Reason::Fenced { lost, ran: true });
        assert_eq!((row(&source).state, row(&source).reason), (JobState::Stopping, why.clone()));
        let (job, sending, work) = source.works.remove(0);
        assert!(matches!(work, Work::SendVm { .. }));
        assert_eq!(source.works.remove(0).2, Work::CancelSend);
        assert_eq!(source.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
        let outcome = WorkOutcome::Sent(late);
        source.tell(Input::Done { job, work: sending, outcome });
        assert_eq!((row(&source).state, row(&source).reason), (JobState::Stopped, why));
        assert_eq!(row(&source).hold, None);
        assert!(source.works.is_empty() && row(&source).migration.is_none(), "no handoff");
    }
}

#[test]
fn what_has_ended_loses_its_hold_and_an_old_offer_starts_nothing() {
    let mut bench = running();
    let off = domain("web-1", DomainState::ShutOff(StopReason::Crashed));
    let look = bench.look(job_id("web-1").domain_uuid(), true);
    bench.tell(Input::Looked { look, domain: Some(off) });
    assert_eq!((row(&bench).state, row(&bench).hold.is_some()), (JobState::Crashed, true));
    let open = bench.offer("db-1", 1, Action::Start);
    hears(&mut bench, fenced(2, 2));
    assert_eq!((row(&bench).state, row(&bench).hold), (JobState::Crashed, None));
    let put = body(1, 1, Some(granted(open)));
    assert!(bench.put("db-1", put).is_err());
    assert!(bench.works.is_empty());
}

#[test]
fn what_is_said_by_an_older_number_than_it_obeys_is_new_to_who_has_not_heard_it() {
    let mut bench = running();
    let lost = row(&bench).hold.unwrap();
    let without = Trust { version: 5, ..trust().open().unwrap() };
    hears(&mut bench, Signed::seal(&without, &key(OPERATOR)));
    assert_eq!(row(&bench).state, JobState::Running);
    // No quorum ever obeyed version 5; one obeyed version 3, and started the job elsewhere.
    let (host, by) = (key(HOST).public(), key(OTHER).public());
    let word = Fence { host, since: 3, by, by_fencer: true, at_ms: 0, reason: String::new() };
    let with = Trust { version: 7, fenced: vec![word], ..without };
    hears(&mut bench, Signed::seal(&with, &key(OPERATOR)));
    let ending = row(&bench);
    assert_eq!((ending.state, ending.hold), (JobState::Stopping, Some(lost)));
    assert_eq!(ending.reason, Some(Reason::Fenced { lost, ran: true }));
}

#[test]
fn that_another_host_was_off_changes_nothing_here() {
    let mut bench = running();
    let held = row(&bench);
    let (host, by) = (key(OTHER).public(), key(OPERATOR).public());
    let fenced =
        vec![Fence { host, since: 2, by, by_fencer: false, at_ms: 0, reason: String::new() }];
    let trust = Trust { version: 2, fenced, ..trust().open().unwrap() };
    hears(&mut bench, Signed::seal(&trust, &key(OPERATOR)));
    assert_eq!(row(&bench), held);
    assert!(bench.works.is_empty());
}

/// What a host that awaits a guest hears, and what it was to receive it under.
fn target_of_a_migration_that_is_fenced() -> (Bench, Bench, MigrateJob, OfferId) {
    let (source, mut target, migrate) = migration();
    let lost = row(&target).hold.unwrap();
    let (host, by) = (key(OTHER).public(), key(OPERATOR).public());
    let fenced =
        vec![Fence { host, since: 2, by, by_fencer: false, at_ms: 0, reason: String::new() }];
    let trust = Trust { version: 2, fenced, ..trust().open().unwrap() };
    hears(&mut target, Signed::seal(&trust, &key(OPERATOR)));
    assert_eq!(target.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(row(&target).reason, Some(Reason::Fenced { lost, ran: false }));
    assert_eq!(row(&target).state, JobState::Stopped);
    (source, target, migrate, lost)
}

#[test]
fn a_guest_that_comes_after_the_right_to_receive_it_was_taken_is_ended() {
    let (mut source, mut target, migrate, lost) = target_of_a_migration_that_is_fenced();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
    let handoff = handoff_of(&source);
    assert_eq!(
        refusal(target.ask(Request::Handoff { job: job_id("web-1"), handoff })),
        "wrong-state",
        "its hold is over, and the job may be somebody else's"
    );
    let uuid = job_id("web-1").domain_uuid();
    let here = domain("web-1", DomainState::Paused(PauseReason::Requested));
    target.looks.clear();
    let first = target.look(uuid, false);
    target.tell(Input::Looked { look: first, domain: Some(here.clone()) });
    assert_eq!(row(&target).state, JobState::Stopped, "one look may be of before");
    let second = target.looks.pop().expect("a second look");
    target.tell(Input::Looked { look: second, domain: Some(here) });
    assert_eq!(row(&target).state, JobState::Stopping);
    let listed = |bench: &Bench| bench.agent.draft().unwrap().items.len();
    assert_eq!(listed(&target), 0, "it never runs here");
    // As often as it takes, in this life of the agent or another.
    let unclear = WorkOutcome::Unclear("libvirt is away".into());
    assert_eq!(target.end_work(unclear), Work::StopVm { grace_ms: 0 });
    target.die(false);
    target.tell(Input::Domains(vec![]));
    assert_eq!(target.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    let ended = row(&target);
    assert_eq!((ended.state, ended.hold), (JobState::Stopped, None));
    assert_eq!(
        ended.reason,
        Some(Reason::Fenced { lost, ran: false }),
        "a controller starts it again"
    );
}

#[test]
fn a_guest_that_came_while_no_agent_was_looking_is_ended_in_its_next_life() {
    let (_, mut target, _, _) = target_of_a_migration_that_is_fenced();
    target.die(false);
    let here = domain("web-1", DomainState::Paused(PauseReason::Requested));
    target.tell(Input::Domains(vec![here]));
    assert_eq!(target.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(row(&target).state, JobState::Stopped);
}

#[test]
fn what_stands_still_where_a_job_ended_otherwise_is_left_alone() {
    let (mut source, _, migrate) = migration();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
    assert_eq!(row(&source).state, JobState::Stopped, "moved");
    let mut stopped = running();
    let stop = StopJob::within(0);
    stopped.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    stopped.end_work(WorkOutcome::Done);
    for mut bench in [source, stopped] {
        let before = row(&bench);
        let still = domain("web-1", DomainState::Paused(PauseReason::Migration));
        let look = bench.look(job_id("web-1").domain_uuid(), true);
        bench.tell(Input::Looked { look, domain: Some(still) });
        assert_eq!(row(&bench), before);
        assert!(bench.works.is_empty(), "{:?}", bench.works);
    }
}
