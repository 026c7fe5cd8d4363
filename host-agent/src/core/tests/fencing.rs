//! A host that hears that an operator has said it was off: what it held ends, before anything starts, and it
//! is a member as before.

use hypervisor::StopReason;
use protocol::job::JobKind;
use protocol::trust::Fence;

use super::*;

fn fenced(version: u64, since: u64) -> Signed<Trust> {
    let (host, by) = (key(HOST).public(), key(OPERATOR).public());
    let fenced = vec![Fence { host, since, by, at_ms: 0, reason: "no power".into() }];
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
    let stop = StopJob { grace_ms: 60_000, run: None };
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    let before = row(&bench).reason;
    hears(&mut bench, fenced(2, 2));
    assert_eq!((row(&bench).state, row(&bench).reason), (JobState::Stopping, before));
    bench.end_work(WorkOutcome::Failed("it takes its time".into()));
    bench.tell(Input::Tick);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(row(&bench).reason, Some(Reason::Requested), "nobody starts it again");
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
fn that_another_host_was_off_changes_nothing_here() {
    let mut bench = running();
    let held = row(&bench);
    let (host, by) = (key(OTHER).public(), key(OPERATOR).public());
    let fenced = vec![Fence { host, since: 2, by, at_ms: 0, reason: String::new() }];
    let trust = Trust { version: 2, fenced, ..trust().open().unwrap() };
    hears(&mut bench, Signed::seal(&trust, &key(OPERATOR)));
    assert_eq!(row(&bench), held);
    assert!(bench.works.is_empty());
}
