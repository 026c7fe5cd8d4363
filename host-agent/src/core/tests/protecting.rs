//! A protected VM is ended by no command, and by everything else as ever.

use super::*;

fn protect(bench: &mut Bench, is_protected: bool) -> Result<Reply, Refusal> {
    bench.ask(Request::Protect { job: job_id("web-1"), is_protected })
}

fn stop(bench: &mut Bench, run: Option<RunKey>) -> Result<Reply, Refusal> {
    let stop = StopJob { run, ..StopJob::within(0) };
    bench.ask(Request::Stop { job: job_id("web-1"), stop })
}

fn delete(bench: &mut Bench) -> Result<Reply, Refusal> {
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false })
}

fn is_refused(answer: &Result<Reply, Refusal>) -> bool {
    *answer == Err(Refusal::Protected { job: job_id("web-1") })
}

#[test]
fn a_protected_vm_is_not_stopped_saved_or_deleted_by_command() {
    let mut bench = running(Bench::lone());
    let before = bench.agent.job(&job_id("web-1")).unwrap().job.revision;
    assert!(matches!(protect(&mut bench, true), Ok(Reply::Accepted(_))));
    assert!(matches!(protect(&mut bench, true), Ok(Reply::AlreadySo(_))));
    let after = bench.agent.job(&job_id("web-1")).unwrap().job.revision;
    assert_eq!(after, Revision(before.0 + 1), "whoever planned with the old row plans anew");
    assert!(is_refused(&stop(&mut bench, None)));
    assert!(is_refused(&act(&mut bench, Act::Save)));
    assert!(is_refused(&delete(&mut bench)));
    assert!(
        matches!(act(&mut bench, Act::Pause), Ok(Reply::Accepted(_))),
        "it is not ended by that"
    );
    assert!(matches!(protect(&mut bench, false), Ok(Reply::Accepted(_))));
    assert!(matches!(stop(&mut bench, None), Ok(Reply::Accepted(_))));
}

#[test]
fn protection_is_on_disk_before_the_answer() {
    let mut bench = running(Bench::lone());
    protect(&mut bench, true).unwrap();
    bench.die(false);
    assert!(is_refused(&stop(&mut bench, None)));
}

#[test]
fn a_protected_vm_that_has_ended_by_itself_is_not_deleted_either() {
    let mut bench = running(Bench::lone());
    protect(&mut bench, true).unwrap();
    let off = domain("web-1", DomainState::ShutOff(StopReason::Shutdown));
    let look = bench.look(off.uuid, true);
    bench.tell(Input::Looked { look, domain: Some(off) });
    assert!(bench.state("web-1").is_ended());
    assert!(is_refused(&delete(&mut bench)));
    protect(&mut bench, false).unwrap();
    assert!(matches!(delete(&mut bench), Ok(Reply::Accepted(_))));
}

#[test]
fn a_run_takes_back_the_protected_vm_that_it_has_begun_and_no_other() {
    let mut bench = Bench::lone();
    let key = |run| RunKey { run: RunId(uuid::Uuid::from_u128(run)), task: 1, claim: 1 };
    let spec = spec(1).with_protection(true).unwrap();
    let put = PutJob { spec, run: Some(key(1)), ..body(1, 1, None) };
    bench.put("web-1", put).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert!(is_refused(&stop(&mut bench, Some(key(2)))));
    assert!(matches!(stop(&mut bench, Some(key(1))), Ok(Reply::Accepted(_))));
}
