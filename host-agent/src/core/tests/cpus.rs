//! Dedicated CPUs: who has how many, which they are, and that it stays so.

use protocol::api::ResizeJob;
use protocol::cpus::{CpuSet, DedicatedCpus};
use protocol::job::JobKind;
use protocol::vm::{Hardware, Pin, Restart, SizeChange};

use super::*;

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

/// Eight CPUs, of which these are dedicated.
fn layout(dedicated: &str) -> CpuLayout {
    let nodes = [(0, set("0-3")), (1, set("4-7"))].into();
    CpuLayout { dedicated: set(dedicated), shared: set("0-7").minus(&set(dedicated)), nodes }
}

fn with_cpus(mut bench: Bench, dedicated: &str) -> Bench {
    bench.layout = layout(dedicated);
    bench.agent.layout = bench.layout.clone();
    bench.tell(Input::Tick);
    bench
}

fn own(vcpus: u32) -> JobSpec {
    let hardware = Box::new(Hardware { dedicated_cpus: true, ..Hardware::default() });
    JobSpec::vm(VmSpec {
        vcpus,
        max_vcpus: Some(8),
        memory_bytes: 1 << 30,
        hardware,
        ..VmSpec::default()
    })
}

fn put(revision: u64, vcpus: u32) -> PutJob {
    PutJob::of(Revision(revision), own(vcpus))
}

fn facts(bench: &Bench) -> DedicatedCpus {
    bench.agent.inventory().host.dedicated_cpus
}

fn cpus(bench: &Bench, name: &str) -> Vec<u32> {
    bench.agent.job(&job_id(name)).expect("the job is here").cpus.clone()
}

fn none(asked: u32, free: u32, total: u32) -> Refusal {
    Refusal::NoDedicatedCpus { asked, free, total }
}

fn stop(bench: &mut Bench, name: &str) {
    bench.ask(Request::Stop { job: job_id(name), stop: StopJob::within(0) }).unwrap();
    bench.end_work(WorkOutcome::Done);
}

fn seen(name: &str, vcpus: u32) -> DomainInfo {
    let running = domain(name, DomainState::Running);
    let resources = Resources { vcpus, ..running.resources };
    DomainInfo { resources, ..running }
}

#[test]
fn cpus_are_a_jobs_from_its_row_until_its_end_and_none_that_others_share() {
    let mut bench = with_cpus(Bench::lone(), "2-3,6-7");
    assert_eq!(facts(&bench), DedicatedCpus { total: 4, promised: 0 });
    bench.put("a", put(1, 2)).unwrap();
    assert_eq!(facts(&bench), DedicatedCpus { total: 4, promised: 2 });
    assert_eq!(bench.agent.inventory().host.allocation.vcpus, 0);
    let place = CpuPlace { own: vec![2, 3], shared: set("0-1,4-5"), node: Some(0) };
    assert_eq!(bench.places[&job_id("a")], place);
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.put("b", put(1, 3)), Err(none(3, 2, 4)));
    assert!(bench.agent.job(&job_id("b")).is_none(), "nothing was changed");
    bench.put("b", put(1, 2)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "b"), [6, 7]);
    stop(&mut bench, "a");
    assert_eq!((facts(&bench).promised, cpus(&bench, "a")), (2, vec![]));
    // Another start may find others.
    bench.put("c", put(1, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "c"), [2]);
    assert_eq!(bench.put("a", put(2, 2)), Err(none(2, 1, 4)));
    bench.put("a", put(2, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "a"), [3]);
}

#[test]
fn a_host_that_gives_none_has_none_and_says_nothing_of_where_guests_run() {
    let mut bench = Bench::lone();
    assert_eq!(bench.put("a", put(1, 1)), Err(none(1, 0, 0)));
    bench.put("b", body(1, 1, None)).unwrap();
    assert!(bench.places[&job_id("b")].is_anywhere());
    assert!(facts(&bench).is_none());
}

#[test]
fn who_has_none_for_itself_is_beside_them_and_cannot_name_one() {
    let mut bench = with_cpus(Bench::lone(), "2-3");
    bench.put("a", body(1, 1, None)).unwrap();
    let place = CpuPlace { shared: set("0-1,4-7"), ..CpuPlace::default() };
    assert_eq!(bench.places[&job_id("a")], place);
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("b", pinned(1, 3))), "unsupported");
    bench.put("b", pinned(1, 4)).unwrap();
}

#[test]
fn a_cpu_that_a_vm_names_is_given_to_no_other_as_long_as_it_is_alive() {
    let mut bench = Bench::lone();
    bench.put("old", pinned(1, 3)).unwrap();
    bench.end_work(WorkOutcome::Done);
    // The operator gives it away under the VM.
    bench.layout = layout("2-3");
    bench.die(false);
    let running = || domain("old", DomainState::Running);
    bench.tell(Input::Domains(vec![running()]));
    bench.end_work(WorkOutcome::Done);
    assert_eq!(facts(&bench), DedicatedCpus { total: 2, promised: 1 });
    assert_eq!(bench.put("a", put(1, 2)), Err(none(2, 1, 2)));
    bench.put("a", put(1, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "a"), [2]);
    assert_eq!(bench.put("b", put(1, 1)), Err(none(1, 0, 2)));
    // It dies, and comes to run again as it was.
    let mut look = bench.look(job_id("old").domain_uuid(), true);
    look.hint = Some(Lifecycle::Stopped(StopReason::Crashed));
    let crashed = domain("old", DomainState::ShutOff(StopReason::Crashed));
    bench.tell(Input::Looked { look, domain: Some(crashed) });
    assert_eq!(bench.state("old"), JobState::Starting);
    stop(&mut bench, "a");
    bench.put("a", put(2, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!((cpus(&bench, "a"), facts(&bench).promised), (vec![2], 2));
    // Its end frees the CPU, and it does not come back to it.
    stop(&mut bench, "old");
    assert_eq!(facts(&bench), DedicatedCpus { total: 2, promised: 1 });
    bench.put("b", put(1, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "b"), [3]);
    assert_eq!(refusal(bench.put("old", pinned(2, 3))), "unsupported");
}

#[test]
fn what_was_taken_out_of_the_set_is_named_by_nobody_as_long_as_a_job_has_it() {
    let mut bench = with_cpus(Bench::lone(), "6-7");
    bench.put("a", put(1, 1)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.layout = layout("7");
    bench.die(false);
    bench.tell(Input::Domains(vec![seen("a", 1)]));
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "a"), [6]);
    assert_eq!(refusal(bench.put("b", pinned(1, 6))), "unsupported");
    stop(&mut bench, "a");
    bench.put("b", pinned(1, 6)).unwrap();
}

#[test]
fn guests_are_let_out_once_when_no_cpus_are_given_away_any_more() {
    let everywhere = CpuPlace { shared: set("0-7"), ..CpuPlace::default() };
    let mut bench = with_cpus(Bench::lone(), "2-3");
    for name in ["a", "b"] {
        bench.put(name, body(1, 1, None)).unwrap();
        bench.end_work(WorkOutcome::Done);
    }
    bench.ask(Request::Act { job: job_id("b"), act: Act::Save }).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.layout = layout_of_none();
    bench.die(false);
    let running = || domain("a", DomainState::Running);
    bench.tell(Input::Domains(vec![running()]));
    // Whoever dies before it was done does it again.
    assert_eq!(bench.places[&job_id("a")], everywhere);
    bench.die(false);
    bench.tell(Input::Domains(vec![running()]));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::PinVm(_)));
    assert_eq!(bench.places[&job_id("a")], everywhere);
    bench.die(false);
    bench.tell(Input::Domains(vec![running()]));
    assert!(bench.works.is_empty(), "once");
    // What was saved then goes on everywhere as well.
    bench.put("b", body(2, 1, None)).unwrap();
    assert_eq!(bench.places[&job_id("b")], everywhere);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::RestoreVm(_)));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::PinVm(_)));
    assert!(bench.works.is_empty());
    // And a start of its own is nobody's business any more.
    stop(&mut bench, "b");
    bench.put("b", body(3, 1, None)).unwrap();
    assert!(bench.places[&job_id("b")].is_anywhere());
    bench.end_work(WorkOutcome::Done);
    assert!(bench.works.is_empty());
}

#[test]
fn a_start_that_found_its_guest_penned_in_lets_it_out() {
    let mut bench = with_cpus(Bench::lone(), "2-3");
    bench.put("a", body(1, 1, None)).unwrap();
    bench.layout = layout_of_none();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("a", DomainState::Running)]));
    assert_eq!(bench.places[&job_id("a")].shared, set("0-7"));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert!(!bench.agent.job(&job_id("a")).unwrap().penned);
    assert!(bench.works.is_empty());
}

#[test]
fn cpus_that_are_not_there_any_more_are_nobodys() {
    let mut bench = with_cpus(Bench::lone(), "4-7");
    bench.put("a", restarted_at_boot(put(1, 2))).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.put("b", restarted_at_boot(put(1, 1))).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!((cpus(&bench, "a"), cpus(&bench, "b")), (vec![4, 5], vec![6]));
    // One has gone under a guest that runs.
    let fewer = |dedicated: &str, shared: &str| CpuLayout {
        dedicated: set(dedicated),
        shared: set(shared),
        nodes: BTreeMap::new(),
    };
    bench.layout = fewer("4,6-7", "0-3");
    bench.die(false);
    assert_eq!(cpus(&bench, "a"), [4, 7]);
    bench.tell(Input::Domains(vec![seen("a", 2), domain("b", DomainState::Running)]));
    assert_eq!(bench.places[&job_id("a")].own, [4, 7]);
    // The machine comes back with others.
    bench.works.clear();
    bench.layout = fewer("1-3", "0");
    bench.die(true);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(cpus(&bench, "a").len(), 2);
    let mut all: Vec<u32> = ["a", "b"].iter().flat_map(|name| cpus(&bench, name)).collect();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
    for name in ["a", "b"] {
        assert_eq!(bench.places[&job_id(name)].own, cpus(&bench, name));
    }
    assert_eq!(facts(&bench), DedicatedCpus { total: 3, promised: 3 });
}

/// A host whose CPUs are all shared again.
fn layout_of_none() -> CpuLayout {
    CpuLayout { dedicated: CpuSet::NONE, shared: set("0-7"), nodes: BTreeMap::new() }
}

/// A VM that names a CPU, and is started again when it dies.
fn pinned(revision: u64, cpu: u32) -> PutJob {
    let pins = vec![Pin { vcpu: 0, cpus: vec![cpu] }];
    let hardware = Box::new(Hardware { pins, ..Hardware::default() });
    let restart = Restart::OnCrash;
    let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, hardware, restart, ..VmSpec::default() };
    PutJob::of(Revision(revision), JobSpec::vm(vm))
}

fn restarted_at_boot(mut put: PutJob) -> PutJob {
    if let JobKind::Vm(vm) = &mut put.spec.kind {
        vm.autostart = true;
    }
    put
}

#[test]
fn an_offer_holds_its_cpus_until_it_ends() {
    let mut bench = with_cpus(Bench::trusted(HOST), "4-7");
    let ask = |name: &str| OfferRequest {
        job: job_id(name),
        revision: Revision(1),
        spec: own(3),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask("a"))) else {
        panic!("there are CPUs enough");
    };
    assert_eq!(facts(&bench).promised, 3);
    assert_eq!(bench.ask(Request::Offer(ask("b"))), Err(none(3, 1, 4)));
    // Its own ticket finds them free.
    let ticket = Some(granted(offered.offer));
    bench.put("a", PutJob { ticket, ..put(1, 3) }).unwrap();
    assert_eq!((facts(&bench).promised, cpus(&bench, "a")), (3, vec![4, 5, 6]));
    bench.end_work(WorkOutcome::Done);
    stop(&mut bench, "a");
    // Another one that nobody redeems.
    assert!(bench.ask(Request::Offer(ask("b"))).is_ok());
    assert_eq!(facts(&bench).promised, 3);
    bench.now.mono_ms += 60_000;
    bench.tell(Input::Tick);
    assert_eq!(facts(&bench).promised, 0);
}

#[test]
fn the_next_life_has_the_same_and_puts_guests_there_again() {
    let mut bench = with_cpus(Bench::lone(), "4-7");
    for (name, vcpus) in [("a", 1), ("b", 2)] {
        bench.put(name, put(1, vcpus)).unwrap();
        bench.end_work(WorkOutcome::Done);
    }
    stop(&mut bench, "a");
    bench.die(false);
    assert_eq!((cpus(&bench, "b"), facts(&bench).promised), (vec![5, 6], 2));
    bench.tell(Input::Domains(vec![seen("b", 2)]));
    assert_eq!(bench.state("b"), JobState::Running);
    // It may have missed something, or the operator has divided the CPUs anew.
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::PinVm(_)));
    assert_eq!(bench.places[&job_id("b")].own, [5, 6]);
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "once");
    // What is taken out of the set stays whose it is until that ends, and is no other's.
    bench.layout = layout("6-7");
    bench.die(false);
    bench.tell(Input::Domains(vec![seen("b", 2)]));
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "b"), [5, 6]);
    assert_eq!(facts(&bench), DedicatedCpus { total: 2, promised: 2 });
    assert_eq!(bench.put("c", put(1, 1)), Err(none(1, 0, 2)));
    stop(&mut bench, "b");
    bench.put("b", put(2, 2)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(cpus(&bench, "b"), [6, 7]);
}

#[test]
fn guests_leave_cpus_that_the_operator_has_just_given_away() {
    let mut bench = Bench::lone();
    bench.put("a", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.layout = layout("4-7");
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("a", DomainState::Running)]));
    // No answer is tried again, a no is told.
    assert!(matches!(bench.end_work(WorkOutcome::Unclear("?".into())), Work::PinVm(_)));
    bench.tell(Input::Tick);
    assert!(matches!(bench.end_work(WorkOutcome::Failed("no".into())), Work::PinVm(_)));
    assert_eq!(bench.places[&job_id("a")].shared, set("0-3"));
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty());
    let reason = bench.agent.job(&job_id("a")).unwrap().job.reason.clone();
    assert_eq!(reason, Some(Reason::ActionFailed { message: "no".into() }));
}

#[test]
fn who_grows_is_given_more_before_they_are_plugged_in_and_gives_up_the_last() {
    let mut bench = with_cpus(Bench::lone(), "4-7");
    bench.put("a", put(1, 2)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let resize = |revision, vcpus| {
        let size = SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
        let resize = ResizeJob { revision: Revision(revision), size, ticket: None, run: None };
        Request::Resize { job: job_id("a"), resize }
    };
    let resized = |vcpus| WorkOutcome::Resized {
        domain: Box::new(seen("a", vcpus)),
        devices: vec![],
        left: vec![],
        is_giving: false,
    };
    assert_eq!(bench.ask(resize(2, 5)), Err(none(5, 4, 4)));
    bench.ask(resize(2, 3)).unwrap();
    assert_eq!(bench.places[&job_id("a")].own, [4, 5, 6]);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::PinVm(_)));
    assert!(matches!(bench.end_work(resized(3)), Work::ResizeVm { .. }));
    assert_eq!((cpus(&bench, "a"), facts(&bench).promised), (vec![4, 5, 6], 3));
    // As long as its guest has not given it up, it is its.
    bench.ask(resize(3, 1)).unwrap();
    assert_eq!(facts(&bench).promised, 3);
    assert!(matches!(bench.end_work(resized(1)), Work::ResizeVm { .. }));
    assert_eq!((cpus(&bench, "a"), facts(&bench).promised), (vec![4], 1));
}

#[test]
fn what_comes_from_another_host_is_put_on_its_cpus_before_it_runs() {
    let mut target = with_cpus(Bench::trusted(OTHER), "4-7");
    let hold = OfferId { epoch: Epoch(1), num: 7 };
    let ask = OfferRequest {
        job: job_id("a"),
        revision: Revision(1),
        spec: own(2),
        action: Action::MigrateIn { from: id_of(HOST), hold },
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = target.ask(Request::Offer(ask)) else {
        panic!("there are CPUs enough");
    };
    let ticket = Some(granted(offered.offer));
    target.put("a", PutJob { ticket, ..put(1, 2) }).unwrap();
    assert_eq!(cpus(&target, "a"), [4, 5]);
    let url = "https://10.0.0.2:1".to_owned();
    let prepared = target.end_work(WorkOutcome::Listening { url });
    assert!(matches!(prepared, Work::PrepareIncoming(_)));
    let to_hold = target.agent.job(&job_id("a")).unwrap().job.hold.unwrap();
    let handoff = Handoff { job: job_id("a"), from: id_of(HOST), hold, to: id_of(OTHER), to_hold };
    let handoff = Signed::seal(&handoff, &key(HOST));
    target.ask(Request::Handoff { job: job_id("a"), handoff }).unwrap();
    assert!(matches!(target.end_work(WorkOutcome::Done), Work::PinVm(_)));
    assert!(matches!(target.end_work(WorkOutcome::Done), Work::TakeOver));
    assert_eq!(target.state("a"), JobState::Running);
    assert!(target.works.is_empty());
}
