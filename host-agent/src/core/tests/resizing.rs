//! A job that gets another size: what needs a ticket, what counts meanwhile, what is refused with which
//! numbers, what is seen, and a death of the agent between any two effects.

use protocol::api::ResizeJob;
use protocol::job::{Pace, ResizeStage};
use protocol::vm::{DiskSpec, SizeChange};

use super::*;

const GIB: u64 = 1 << 30;

fn change(vcpus: u32, memory_bytes: u64) -> SizeChange {
    let (vcpus, memory_bytes) = (Some(vcpus), Some(memory_bytes));
    SizeChange { vcpus, memory_bytes, ..SizeChange::default() }
}

fn sized(vcpus: u32, memory_bytes: u64) -> JobSpec {
    spec(1).with_size(|size| size.changed(&change(vcpus, memory_bytes))).unwrap()
}

fn body(revision: u64, size: SizeChange, ticket: Option<Ticket>) -> ResizeJob {
    ResizeJob { revision: Revision(revision), size, ticket, run: None }
}

fn resize(bench: &mut Bench, resize: ResizeJob) -> Result<Reply, Refusal> {
    bench.ask(Request::Resize { job: job_id("web-1"), resize })
}

fn offer(bench: &mut Bench, revision: u64, spec: JobSpec) -> Result<Signed<Offer>, Refusal> {
    let (job, revision) = (job_id("web-1"), Revision(revision));
    let ask = OfferRequest { job, revision, spec, action: Action::Resize, finds_disks: false };
    match bench.ask(Request::Offer(ask))? {
        Reply::Offered(offered) => Ok(offered.offer),
        other => panic!("no offer: {other:?}"),
    }
}

/// The guest as libvirt shows it: CPUs, memory of its machine, memory that it has not given back.
fn guest(vcpus: u32, machine: u64, now: u64) -> DomainInfo {
    DomainInfo {
        resources: Resources { vcpus, memory_bytes: machine, disk_bytes: 0 },
        memory_now_bytes: now,
        ..domain("web-1", DomainState::Running)
    }
}

fn got(vcpus: u32, machine: u64, now: u64) -> WorkOutcome {
    let domain = Box::new(guest(vcpus, machine, now));
    WorkOutcome::Resized { domain, devices: vec![], left: vec![], is_giving: false }
}

fn look_at(bench: &mut Bench, domain: DomainInfo) {
    let look = bench.look(domain.uuid, false);
    bench.tell(Input::Looked { look, domain: Some(domain) });
}

fn job(bench: &Bench) -> Job {
    bench.agent.job(&job_id("web-1")).expect("the job is here").job.clone()
}

/// CPUs and memory that the host has promised, and what is said of the difference.
fn told(bench: &Bench) -> (u32, u64, Option<String>) {
    let allocation = bench.agent.inventory().host.allocation;
    (allocation.vcpus, allocation.memory_bytes / GIB, job(bench).resize_words())
}

/// A host with a running job of one CPU and 1 GiB; it has room for 4 and 8.
fn running(mut bench: Bench) -> Bench {
    let ticket = bench.agent.trust().is_some();
    let ticket = ticket.then(|| granted(bench.offer("web-1", 1, Action::Start)));
    bench.put("web-1", super::body(1, 1, ticket)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.looks.clear();
    bench
}

/// A trusted host whose job has crashed.
fn crashed() -> Bench {
    let mut bench = running(Bench::trusted(HOST));
    let uuid = job_id("web-1").domain_uuid();
    for is_second in [false, true] {
        let look = bench.look(uuid, is_second);
        let off = domain("web-1", DomainState::ShutOff(StopReason::Crashed));
        bench.tell(Input::Looked { look, domain: Some(off) });
    }
    bench
}

#[test]
fn a_lone_host_grows_a_guest_that_runs_and_tells_both_sizes_meanwhile() {
    let mut bench = running(Bench::lone());
    let reply = resize(&mut bench, body(2, change(3, 2 * GIB), None)).unwrap();
    let Reply::Accepted(taken) = reply else { panic!("{reply:?}") };
    assert_eq!(taken.resize.as_ref().map(|r| (r.vcpus, r.stage)), Some((1, ResizeStage::Changing)));
    assert_eq!(told(&bench).0, 3, "promised from the answer on");
    let again = resize(&mut bench, body(2, change(3, 2 * GIB), None)).unwrap();
    assert!(matches!(again, Reply::AlreadySo(_)));
    assert_eq!(refusal(resize(&mut bench, body(3, change(1, GIB), None))), "busy");
    let work = bench.end_work(got(3, 2 * GIB, 2 * GIB));
    let Work::ResizeVm { vm, change: asked } = work else { panic!("no resize") };
    assert_eq!((vm.vcpus, vm.memory_bytes), (3, 2 * GIB));
    assert_eq!(*asked, change(3, 2 * GIB));
    assert_eq!(told(&bench), (3, 2, None));
    assert_eq!(job(&bench).revision, Revision(2));
    assert!(bench.works.is_empty());
}

#[test]
fn what_waits_for_the_next_start_is_said_counted_and_over_with_it() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(4, GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Resized {
        domain: Box::new(guest(2, GIB, GIB)),
        devices: vec![],
        left: vec!["its machine was started for at most 2 vcpus".into()],
        is_giving: false,
    });
    let words = "vcpus 4, now 2 until its next start";
    assert_eq!(told(&bench), (4, 1, Some(words.to_owned())));
    assert_eq!(job(&bench).resize.unwrap().why.len(), 1);
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "nothing more is tried by itself");
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!((told(&bench), bench.state("web-1")), ((0, 0, None), JobState::Stopped));
}

#[test]
fn growing_takes_a_ticket_that_replaces_the_hold_and_works_once() {
    let mut bench = running(Bench::trusted(HOST));
    let before = job(&bench).hold;
    let grown = || change(3, 2 * GIB);
    assert_eq!(refusal(resize(&mut bench, body(2, grown(), None))), "ticket-missing");
    let offered = offer(&mut bench, 2, sized(3, 2 * GIB)).unwrap();
    assert_eq!(offered.open().unwrap().resources.vcpus, 3, "the whole size, for the books");
    assert_eq!(told(&bench).0, 3, "the growth is reserved, not the whole again");
    let ticket = granted(offered);
    let smaller = body(2, change(2, 2 * GIB), Some(ticket.clone()));
    assert_eq!(refusal(resize(&mut bench, smaller)), "ticket-for-other-spec");
    resize(&mut bench, body(2, grown(), Some(ticket.clone()))).unwrap();
    assert_ne!(job(&bench).hold, before);
    assert_eq!(job(&bench).hold, Some(ticket.offer.open().unwrap().id));
    bench.end_work(got(3, 2 * GIB, 2 * GIB));
    assert_eq!(told(&bench), (3, 2, None));
    assert_eq!(
        refusal(resize(&mut bench, body(3, change(4, GIB), Some(ticket)))),
        "ticket-for-other-spec"
    );
}

#[test]
fn a_ticket_to_resize_starts_nothing_and_one_to_start_resizes_nothing() {
    let mut bench = running(Bench::trusted(HOST));
    let to_resize = granted(offer(&mut bench, 2, sized(2, GIB)).unwrap());
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    let put = PutJob { ticket: Some(to_resize), ..PutJob::of(Revision(2), sized(2, GIB)) };
    assert_eq!(refusal(bench.put("web-1", put)), "ticket-for-other-action");

    let mut bench = running(Bench::trusted(HOST));
    let mut to_start = offer(&mut bench, 2, sized(2, GIB)).unwrap().open().unwrap();
    to_start.action = Action::Start;
    let to_start = granted(Signed::seal(&to_start, &key(HOST)));
    let answer = resize(&mut bench, body(2, change(2, GIB), Some(to_start)));
    assert_eq!(refusal(answer), "ticket-for-other-action");
}

#[test]
fn a_growth_without_room_changes_nothing_and_says_what_would_fit() {
    let mut bench = running(Bench::lone());
    bench.put("other", super::body(1, 2, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let before = bench.agent.inventory();
    let no = resize(&mut bench, body(2, change(3, GIB), None)).unwrap_err();
    let Refusal::NoRoomToGrow { at_most, .. } = &no else { panic!("{no:?}") };
    assert_eq!((at_most.vcpus, at_most.memory_bytes), (2, 7 * GIB));
    assert_eq!(bench.agent.inventory(), before);
    resize(&mut bench, body(2, change(at_most.vcpus, at_most.memory_bytes), None)).unwrap();
}

#[test]
fn offers_to_grow_do_not_promise_the_same_room_twice() {
    let mut bench = running(Bench::trusted(HOST));
    offer(&mut bench, 2, sized(3, GIB)).unwrap();
    assert_eq!(
        refusal(offer(&mut bench, 2, sized(4, GIB)).map(|_| Reply::Done)),
        "no-room-to-grow"
    );
    let ask = OfferRequest {
        job: job_id("other"),
        revision: Revision(1),
        spec: spec(2),
        action: Action::Start,
        finds_disks: false,
    };
    assert_eq!(refusal(bench.ask(Request::Offer(ask))), "no-capacity");
}

#[test]
fn giving_up_needs_no_ticket_and_frees_what_the_guest_has_really_given() {
    let mut bench = running(Bench::trusted(HOST));
    let ticket = granted(offer(&mut bench, 2, sized(4, 4 * GIB)).unwrap());
    resize(&mut bench, body(2, change(4, 4 * GIB), Some(ticket))).unwrap();
    bench.end_work(got(4, 4 * GIB, 4 * GIB));
    let hold = job(&bench).hold;
    resize(&mut bench, body(3, change(1, GIB), None)).unwrap();
    assert_eq!(told(&bench).0, 4, "the larger counts");
    bench.end_work(WorkOutcome::Resized {
        domain: Box::new(guest(2, 4 * GIB, 3 * GIB)),
        devices: vec![],
        left: vec!["its vcpus stay".into()],
        is_giving: true,
    });
    assert_eq!((told(&bench).0, told(&bench).1), (2, 3), "as far as it has given");
    assert_eq!(job(&bench).hold, hold);
    // It goes on giving, and at some time it does not.
    bench.now.mono_ms += 1_000;
    bench.tell(Input::Tick);
    look_at(&mut bench, guest(2, 4 * GIB, 2 * GIB));
    assert_eq!(told(&bench).1, 2);
    assert!(job(&bench).resize.is_some_and(|r| r.stage == ResizeStage::Changing));
    bench.now.mono_ms += 4_000;
    look_at(&mut bench, guest(2, 4 * GIB, 2 * GIB));
    assert!(job(&bench).resize.is_some_and(|r| r.stage == ResizeStage::Changing), "it has time");
    bench.now.mono_ms += 1_000;
    look_at(&mut bench, guest(2, 4 * GIB, 2 * GIB));
    let words = "vcpus 1, now 2; memory 1GiB, now 2GiB until its next start";
    assert_eq!(told(&bench), (2, 2, Some(words.to_owned())));
    // Late, but it has.
    bench.looks.clear();
    bench.tell(Input::Tick);
    assert!(bench.looks.is_empty(), "it was looked at just now");
    bench.now.mono_ms += 30_000;
    bench.tell(Input::Tick);
    assert_eq!(bench.looks.len(), 1);
    look_at(&mut bench, guest(1, 4 * GIB, GIB));
    assert_eq!(told(&bench), (1, 1, None));
    // To have again what was given up takes a ticket again.
    assert_eq!(refusal(resize(&mut bench, body(4, change(2, GIB), None))), "ticket-missing");
}

#[test]
fn a_guest_that_is_stopped_while_it_gives_something_up_is_through_with_its_change() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(1, GIB / 2), None)).unwrap();
    bench.end_work(WorkOutcome::Resized {
        domain: Box::new(guest(1, GIB, GIB)),
        devices: vec![],
        left: vec![],
        is_giving: true,
    });
    assert!(job(&bench).resize.is_some_and(|r| r.stage == ResizeStage::Changing));
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    let off = domain("web-1", DomainState::ShutOff(StopReason::Destroyed));
    let (devices, left) = (vec![], vec![]);
    bench.end_work(WorkOutcome::Resized { domain: Box::new(off), devices, left, is_giving: false });
    assert!(job(&bench).resize.is_none(), "nothing is under way any more");
    // And takes another size, which was refused as busy for ever.
    assert!(resize(&mut bench, body(3, change(2, GIB), None)).is_ok());
}

#[test]
fn what_was_not_given_up_yet_can_be_had_back_without_a_ticket() {
    let mut bench = running(Bench::trusted(HOST));
    let ticket = granted(offer(&mut bench, 2, sized(4, GIB)).unwrap());
    resize(&mut bench, body(2, change(4, GIB), Some(ticket))).unwrap();
    bench.end_work(got(4, GIB, GIB));
    resize(&mut bench, body(3, change(1, GIB), None)).unwrap();
    bench.end_work(got(4, GIB, GIB));
    resize(&mut bench, body(4, change(3, GIB), None)).unwrap();
    bench.end_work(got(3, GIB, GIB));
    assert_eq!(told(&bench), (3, 1, None));
}

#[test]
fn a_job_that_has_ended_changes_at_its_next_start_and_its_definition_before() {
    let mut bench = running(Bench::trusted(HOST));
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    resize(&mut bench, body(2, change(64, 64 * GIB), None)).unwrap();
    assert_eq!((bench.state("web-1"), told(&bench).0), (JobState::Stopped, 0));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::ResizeVm { .. }));
    assert_eq!((job(&bench).spec.resources().vcpus, job(&bench).resize), (64, None));
    assert_eq!(job(&bench).hold, None);
}

#[test]
fn a_crashed_job_that_may_be_started_under_its_hold_grows_with_a_ticket_only() {
    let mut bench = crashed();
    assert_eq!(bench.state("web-1"), JobState::Crashed);
    assert_eq!(refusal(resize(&mut bench, body(2, change(2, GIB), None))), "ticket-missing");
    let ticket = granted(offer(&mut bench, 2, sized(2, GIB)).unwrap());
    resize(&mut bench, body(2, change(2, GIB), Some(ticket.clone()))).unwrap();
    assert_eq!(job(&bench).hold, Some(ticket.offer.open().unwrap().id));
}

#[test]
fn a_definition_that_libvirt_refuses_leaves_the_job_what_it_was() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(2, GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Failed("define: no".into()));
    look_at(&mut bench, guest(1, GIB, GIB));
    assert_eq!(told(&bench), (1, 1, None));
    let after = job(&bench);
    assert!(matches!(after.reason, Some(Reason::ActionFailed { .. })));
    assert_eq!((after.revision, after.spec), (Revision(2), spec(1).into()));
    assert_eq!(refusal(resize(&mut bench, body(2, change(2, GIB), None))), "revision-conflict");
}

#[test]
fn what_a_guest_has_not_given_up_counts_on_when_the_next_change_is_refused() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(3, GIB), None)).unwrap();
    bench.end_work(got(3, GIB, GIB));
    resize(&mut bench, body(3, change(1, GIB), None)).unwrap();
    bench.end_work(got(3, GIB, GIB));
    let words = || Some("vcpus 1, now 3 until its next start".to_owned());
    assert_eq!(told(&bench), (3, 1, words()));
    resize(&mut bench, body(4, change(2, 2 * GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Failed("define: no".into()));
    look_at(&mut bench, guest(3, GIB, GIB));
    assert_eq!(told(&bench), (3, 1, words()));
    assert!(matches!(job(&bench).reason, Some(Reason::ActionFailed { .. })));
}

/// Found by the simulator: seed 7013945 of the program of commit 2e59014.
#[test]
fn what_waits_for_the_next_start_is_promised_until_it_is_given_up_for_good() {
    let mut bench = running(Bench::trusted(HOST));
    let ticket = granted(offer(&mut bench, 2, sized(4, GIB)).unwrap());
    resize(&mut bench, body(2, change(4, GIB), Some(ticket))).unwrap();
    // The guest takes none of it.
    bench.end_work(got(1, GIB, GIB));
    assert_eq!((told(&bench).0, job(&bench).spec.resources().vcpus), (4, 4));
    resize(&mut bench, body(3, change(1, GIB), None)).unwrap();
    assert_eq!(told(&bench).0, 4, "it may fail");
    bench.end_work(WorkOutcome::Failed("define: no".into()));
    assert_eq!((told(&bench).0, job(&bench).spec.resources().vcpus), (4, 4));
    // What it has now is looked at.
    look_at(&mut bench, guest(1, GIB, GIB));
    assert_eq!(told(&bench), (4, 1, Some("vcpus 4, now 1 until its next start".to_owned())));
    // With more of one and less of the other, its ticket is for all that stays promised.
    let grown = offer(&mut bench, 4, sized(1, 2 * GIB)).unwrap();
    assert_eq!(grown.open().unwrap().resources.vcpus, 4);
    resize(&mut bench, body(4, change(1, 2 * GIB), Some(granted(grown)))).unwrap();
    assert_eq!((told(&bench).0, told(&bench).1), (4, 2));
    bench.end_work(got(1, 2 * GIB, 2 * GIB));
    assert_eq!((told(&bench).0, told(&bench).1), (1, 2));
}

#[test]
fn what_a_try_without_an_answer_may_have_given_counts_until_the_guest_is_seen() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(3, GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Unclear("disconnected".into()));
    bench.tell(Input::Tick);
    bench.looks.clear();
    bench.end_work(WorkOutcome::Failed("define: no".into()));
    let words = || Some("vcpus 1, now 3 until its next start".to_owned());
    assert_eq!(told(&bench), (3, 1, words()), "nobody has seen that it has not got them");
    assert!(!bench.looks.is_empty(), "it is looked at");
    look_at(&mut bench, guest(3, GIB, GIB));
    assert_eq!(told(&bench), (3, 1, words()));
    look_at(&mut bench, guest(1, GIB, GIB));
    assert_eq!(told(&bench), (1, 1, None));
}

#[test]
fn one_that_is_off_gives_up_what_it_had_when_its_definition_has_changed_and_not_before() {
    let mut bench = crashed();
    let ticket = granted(offer(&mut bench, 2, sized(2, GIB)).unwrap());
    resize(&mut bench, body(2, change(2, GIB), Some(ticket))).unwrap();
    bench.end_work(WorkOutcome::Done);
    for (outcome, left) in [(WorkOutcome::Failed("define: no".into()), 2), (WorkOutcome::Done, 1)] {
        let next = job(&bench).revision.0 + 1;
        resize(&mut bench, body(next, change(1, GIB), None)).unwrap();
        assert_eq!(job(&bench).promised().vcpus, 2, "it may still fail");
        bench.end_work(outcome);
        assert_eq!(job(&bench).promised().vcpus, left);
    }
}

#[test]
fn no_answer_of_libvirt_is_asked_again() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(2, GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Unclear("disconnected".into()));
    assert_eq!(told(&bench).0, 2);
    bench.tell(Input::Tick);
    bench.end_work(got(2, GIB, GIB));
    assert_eq!((told(&bench), job(&bench).reason), ((2, 1, None), None));
}

#[test]
fn a_guest_that_ends_while_it_is_resized_starts_anew_in_its_new_size() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(2, GIB), None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert!(bench.works.is_empty(), "it is looked at before anything else");
    let uuid = job_id("web-1").domain_uuid();
    for is_second in [false, true] {
        let look = bench.look(uuid, is_second);
        let off = domain("web-1", DomainState::ShutOff(StopReason::Shutdown));
        bench.tell(Input::Looked { look, domain: Some(off) });
    }
    assert_eq!((bench.state("web-1"), told(&bench)), (JobState::Stopped, (0, 0, None)));
    assert_eq!(job(&bench).spec.resources().vcpus, 2);
}

#[test]
fn what_somebody_changes_behind_our_back_is_seen_and_counted() {
    let mut bench = running(Bench::lone());
    look_at(&mut bench, guest(3, GIB, GIB));
    assert_eq!(told(&bench), (3, 1, Some("vcpus 1, now 3 until its next start".into())));
    look_at(&mut bench, guest(1, GIB, GIB / 2));
    assert_eq!(told(&bench), (1, 1, None), "its machine has what the spec says");
    look_at(&mut bench, DomainInfo { resources: Resources::ZERO, ..guest(0, 0, 0) });
    assert_eq!(told(&bench), (1, 1, None), "what can't be read is not nothing");
}

#[test]
fn a_guest_that_has_more_than_its_spec_is_neither_sent_nor_saved() {
    let mut source = running(Bench::trusted(HOST));
    look_at(&mut source, guest(2, GIB, GIB));
    let save = Request::Act { job: job_id("web-1"), act: Act::Save };
    assert_eq!(refusal(source.ask(save)), "wrong-state");
    let migrate = MigrateJob {
        to: id_of(OTHER),
        to_hold: Some(OfferId { epoch: Epoch(1), num: 1 }),
        url: "https://192.0.2.1:1".into(),
        run: None,
        pace: Pace::default(),
    };
    let send =
        |revision| Request::Migrate { job: job_id("web-1"), migrate: migrate.clone(), revision };
    assert_eq!(refusal(source.ask(send(None))), "wrong-state");
    look_at(&mut source, guest(1, GIB, GIB));
    // The target has made room for another change of it.
    assert_eq!(refusal(source.ask(send(Some(Revision(2))))), "revision-conflict");
    source.ask(send(Some(Revision(1)))).unwrap();
    assert_eq!(refusal(resize(&mut source, body(2, change(1, GIB / 2), None))), "wrong-state");
}

#[test]
fn a_task_that_is_undone_gives_the_growth_back_and_is_never_done_afterwards() {
    let mut bench = running(Bench::trusted(HOST));
    let key = RunKey { run: RunId(uuid::Uuid::from_u128(1)), task: 2, claim: 1 };
    let undo = || Request::UndoResize { job: job_id("web-1"), run: Some(key) };
    let ticket = granted(offer(&mut bench, 2, sized(3, GIB)).unwrap());
    let grow = ResizeJob { run: Some(key), ..body(2, change(3, GIB), Some(ticket)) };
    resize(&mut bench, grow.clone()).unwrap();
    bench.end_work(got(3, GIB, GIB));
    assert!(matches!(bench.ask(undo()), Ok(Reply::Accepted(_))));
    bench.end_work(got(1, GIB, GIB));
    assert_eq!((told(&bench), job(&bench).revision), ((1, 1, None), Revision(3)));
    assert!(matches!(bench.ask(undo()), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(resize(&mut bench, grow)), "task-undone");

    // What was given up can't be taken back without a ticket: that is no way back.
    let shrink = RunKey { task: 3, ..key };
    let less = change(1, GIB / 2);
    resize(&mut bench, ResizeJob { run: Some(shrink), ..body(4, less, None) }).unwrap();
    bench.end_work(got(1, GIB, GIB / 2));
    let undo = Request::UndoResize { job: job_id("web-1"), run: Some(shrink) };
    assert_eq!(refusal(bench.ask(undo)), "ticket-missing");
}

#[test]
fn one_offs_and_services_have_no_other_size() {
    let mut bench = Bench::lone();
    let one_off =
        r#"{"one-off": {"vm": {"vcpus": 1, "memory_bytes": 1073741824}, "deadline_ms": 60000}}"#;
    let spec: JobSpec = serde_json::from_str(one_off).unwrap();
    bench.put("web-1", PutJob { spec, ..super::body(1, 1, None) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(resize(&mut bench, body(2, change(2, GIB), None))), "invalid");
}

/// kill -9 anywhere between the request and the end of the work: the row decides, and there is no half
/// of it.
#[test]
fn a_death_between_any_two_effects_of_a_resize_leaves_the_old_size_or_leads_to_the_new() {
    for deaths_after in 0..6 {
        for has_guest_grown in [false, true] {
            let mut bench = running(Bench::lone());
            let mut effects = vec![];
            let resize = body(2, change(3, GIB), None);
            let request = Request::Resize { job: job_id("web-1"), resize: resize.clone() };
            let asked = Input::Request { reply: ReplyId(0), request: Box::new(request.clone()) };
            bench.agent.handle(bench.now, asked, &mut effects);
            let is_over = effects.len() <= deaths_after;
            for effect in effects.into_iter().take(deaths_after) {
                bench.perform(effect);
            }
            let (was_told, was_begun) = (!bench.replies.is_empty(), !bench.works.is_empty());
            bench.die(false);
            let has = if has_guest_grown && was_begun { 3 } else { 1 };
            bench.tell(Input::Domains(vec![guest(has, GIB, GIB)]));
            let is_written = job(&bench).revision == Revision(2);
            assert!(is_written || !was_told, "2xx means durable");
            assert_eq!(bench.works.len(), usize::from(is_written), "after {deaths_after}");
            assert_eq!(told(&bench).0, if is_written { 3 } else { 1 });
            let again = bench.ask(request).unwrap();
            assert_eq!(matches!(again, Reply::AlreadySo(_)), is_written, "{again:?}");
            assert!(matches!(bench.end_work(got(3, GIB, GIB)), Work::ResizeVm { .. }));
            assert_eq!(told(&bench), (3, 1, None));
            if is_over {
                break;
            }
        }
    }
}

/// After a reboot of the machine everything starts in the size that it is to have.
#[test]
fn a_reboot_of_the_host_ends_what_waited_for_a_start() {
    let mut bench = running(Bench::lone());
    resize(&mut bench, body(2, change(4, GIB), None)).unwrap();
    bench.end_work(got(1, GIB, GIB));
    assert!(job(&bench).resize.is_some());
    bench.die(true);
    let off = DomainState::ShutOff(StopReason::Unknown);
    bench.tell(Input::Domains(vec![DomainInfo { state: off, ..guest(4, GIB, GIB) }]));
    assert_eq!((bench.state("web-1"), job(&bench).resize), (JobState::Crashed, None));
}

/// The job of [`running`] with a disk of 1 GiB; the host has room for 8.
fn with_disk() -> JobSpec {
    let root = DiskSpec { name: "root".into(), size_bytes: GIB, ..DiskSpec::default() };
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: GIB, disks: vec![root], ..VmSpec::default() })
}

fn disk(gib: u64) -> SizeChange {
    let disks = BTreeMap::from([("root".to_owned(), gib * GIB)]);
    SizeChange { disks, ..SizeChange::default() }
}

fn put_with_disk(bench: &mut Bench) {
    let spec = with_disk();
    let ticket = bench.agent.trust().is_some().then(|| {
        let ask = OfferRequest {
            job: job_id("web-1"),
            revision: Revision(1),
            spec: spec.clone(),
            action: Action::Start,
            finds_disks: false,
        };
        let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else {
            panic!("no offer")
        };
        granted(offered.offer)
    });
    let put = PutJob { ticket, ..PutJob::of(Revision(1), spec) };
    bench.put("web-1", put).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.looks.clear();
}

fn disk_promised(bench: &Bench) -> u64 {
    bench.agent.inventory().host.allocation.disk_bytes / GIB
}

#[test]
fn a_disk_is_promised_before_it_grows_and_is_never_made_smaller() {
    let mut bench = Bench::lone();
    put_with_disk(&mut bench);
    assert_eq!(refusal(resize(&mut bench, body(2, disk(9), None))), "no-room-to-grow");
    let missing = SizeChange { disks: BTreeMap::from([("no".to_owned(), GIB)]), ..disk(1) };
    assert_eq!(refusal(resize(&mut bench, body(2, missing, None))), "invalid");
    resize(&mut bench, body(2, disk(3), None)).unwrap();
    assert_eq!(disk_promised(&bench), 3, "promised from the answer on");
    // The agent dies: the next life sees to it that the disk is as large as it is said to be.
    bench.die(false);
    bench.tell(Input::Domains(vec![guest(1, GIB, GIB)]));
    let Work::ResizeVm { vm, .. } = bench.end_work(got(1, GIB, GIB)) else { panic!("no resize") };
    assert_eq!(vm.disks[0].size_bytes, 3 * GIB);
    assert_eq!((told(&bench), disk_promised(&bench)), ((1, 1, None), 3));
    assert!(matches!(resize(&mut bench, body(2, disk(3), None)), Ok(Reply::AlreadySo(_))));
    let Err(no) = resize(&mut bench, body(3, disk(2), None)) else { panic!("it shrank") };
    assert_eq!((no.name(), no.status()), ("disk-shrinks", 409));
    // One that has ended grows as well, and is counted.
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.looks.clear();
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(resize(&mut bench, body(3, disk(9), None))), "no-room-to-grow");
    resize(&mut bench, body(3, disk(8), None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!((job(&bench).resize, disk_promised(&bench)), (None, 8));
}

#[test]
fn a_disk_that_grows_takes_a_ticket_and_stays_when_its_run_turns_back() {
    let mut bench = Bench::trusted(HOST);
    put_with_disk(&mut bench);
    assert_eq!(refusal(resize(&mut bench, body(2, disk(3), None))), "ticket-missing");
    let larger = with_disk()
        .changed(&job_id("web-1"), &SizeChange { vcpus: Some(2), ..disk(3) })
        .unwrap()
        .unwrap();
    let offered = offer(&mut bench, 2, larger).unwrap();
    assert_eq!(offered.open().unwrap().resources.disk_bytes, 3 * GIB);
    assert_eq!(disk_promised(&bench), 3, "the growth is reserved, not the whole again");
    let run = Some(RunKey { run: RunId(uuid::Uuid::from_u128(7)), task: 2, claim: 1 });
    let size = SizeChange { vcpus: Some(2), ..disk(3) };
    let asked = ResizeJob { run, ..body(2, size, Some(granted(offered))) };
    resize(&mut bench, asked).unwrap();
    bench.end_work(got(2, GIB, GIB));
    bench.ask(Request::UndoResize { job: job_id("web-1"), run }).unwrap();
    let Work::ResizeVm { vm, .. } = bench.end_work(got(1, GIB, GIB)) else { panic!("no resize") };
    assert_eq!((vm.vcpus, vm.disks[0].size_bytes), (1, 3 * GIB));
    assert_eq!(disk_promised(&bench), 3);
}

#[test]
fn what_snapshots_keep_is_not_given_to_the_disk() {
    let mut bench = Bench::lone();
    put_with_disk(&mut bench);
    let snapshot = protocol::id::SnapshotName::new("a").unwrap();
    let measured = crate::core::Measured { held_bytes: GIB, took_bytes: GIB };
    let take = Request::TakeSnapshot { job: job_id("web-1"), name: snapshot, measured };
    bench.ask(take).unwrap();
    assert_eq!(refusal(resize(&mut bench, body(2, disk(2), None))), "busy");
    bench.end_work(WorkOutcome::Snapshotted { taken_ms: 1, measured });
    let Err(Refusal::NoRoomToGrow { at_most, .. }) = resize(&mut bench, body(2, disk(8), None))
    else {
        panic!("8 of 7 GiB were given");
    };
    assert_eq!(at_most.disk_bytes, 7 * GIB);
    resize(&mut bench, body(2, disk(7), None)).unwrap();
}

fn data(gib: u64) -> DiskSpec {
    DiskSpec { name: "data".into(), size_bytes: gib * GIB, ..DiskSpec::default() }
}

fn adds(gib: u64) -> SizeChange {
    SizeChange { add_disks: vec![data(gib)], ..SizeChange::default() }
}

fn names(bench: &Bench) -> Vec<String> {
    let spec = job(bench).spec;
    spec.as_vm().unwrap().disks.iter().map(|disk| disk.name.clone()).collect()
}

#[test]
fn a_disk_that_comes_is_promised_at_once_and_waits_for_a_place_in_the_machine() {
    let mut bench = Bench::trusted(HOST);
    put_with_disk(&mut bench);
    let before = disk_promised(&bench);
    assert_eq!(refusal(resize(&mut bench, body(2, adds(2), None))), "ticket-missing");
    let larger = job(&bench).spec.changed(&job_id("web-1"), &adds(2)).unwrap().unwrap();
    let offered = offer(&mut bench, 2, larger).unwrap();
    assert_eq!(disk_promised(&bench), before + 2, "reserved");
    resize(&mut bench, body(2, adds(2), Some(granted(offered)))).unwrap();
    assert_eq!(
        (disk_promised(&bench), names(&bench)),
        (before + 2, vec!["root".into(), "data".into()])
    );
    let no_port = WorkOutcome::Resized {
        domain: Box::new(guest(1, GIB, GIB)),
        devices: vec!["disk \"data\"".into()],
        left: vec![],
        is_giving: false,
    };
    let Work::ResizeVm { change, .. } = bench.end_work(no_port) else { panic!("no resize") };
    assert_eq!(change.add_disks, [data(2)]);
    let words = "without disk \"data\" until its next start";
    assert_eq!(told(&bench).2.as_deref(), Some(words));
    // Looked at, it is said still: libvirt's numbers are what the spec says.
    look_at(&mut bench, guest(1, GIB, GIB));
    assert_eq!(told(&bench).2.as_deref(), Some(words));
    bench.die(false);
    bench.tell(Input::Domains(vec![guest(1, GIB, GIB)]));
    assert_eq!(told(&bench).2.as_deref(), Some(words), "and by the next life");
    // Until then nothing is done that all disks count in.
    let larger = job(&bench).spec.changed(&job_id("web-1"), &disk(3)).unwrap().unwrap();
    assert!(matches!(offer(&mut bench, 3, larger), Err(Refusal::WrongState { .. })));
    let save = Request::Act { job: job_id("web-1"), act: Act::Save };
    assert_eq!(refusal(bench.ask(save)), "wrong-state");
}

#[test]
fn what_libvirt_can_not_have_has_neither_come_nor_gone() {
    let mut bench = Bench::lone();
    put_with_disk(&mut bench);
    let before = (disk_promised(&bench), job(&bench).spec);
    resize(&mut bench, body(2, adds(1), None)).unwrap();
    bench.end_work(WorkOutcome::Failed("no".into()));
    assert_eq!((disk_promised(&bench), job(&bench).spec), before);
    assert!(matches!(job(&bench).reason, Some(Reason::ActionFailed { .. })));
}

fn loses(disk: &str) -> SizeChange {
    SizeChange { remove_disks: vec![disk.to_owned()], ..SizeChange::default() }
}

/// A running VM with disks `root` and `data`, and how much of the host its disks are promised.
fn with_data(bench: &mut Bench) -> u64 {
    put_with_disk(bench);
    resize(bench, body(2, adds(2), None)).unwrap();
    bench.end_work(got(1, GIB, GIB));
    disk_promised(bench)
}

fn stop(bench: &mut Bench) {
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.looks.clear();
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
}

fn asked(work: &Work) -> &[Leaver] {
    let Work::TakeOut { leaving, .. } = work else { panic!("nothing is taken out: {work:?}") };
    leaving
}

#[test]
fn a_disk_that_nobody_uses_is_promised_until_its_file_is_gone() {
    let mut bench = Bench::lone();
    let with = with_data(&mut bench);
    stop(&mut bench);
    resize(&mut bench, body(3, loses("data"), None)).unwrap();
    assert_eq!((disk_promised(&bench), names(&bench)), (with, vec!["root".into()]));
    // The agent dies, and the next one goes on: first the definition, then the file.
    bench.works.clear();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::ShutOff(StopReason::Destroyed))]));
    assert_eq!(disk_promised(&bench), with);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::ResizeVm { .. }));
    assert_eq!(disk_promised(&bench), with);
    let taken = bench.end_work(WorkOutcome::TakenOut(vec![]));
    assert_eq!(asked(&taken), [Leaver::Disk("data".into())]);
    assert_eq!((disk_promised(&bench), job(&bench).resize), (with - 2, None));
    assert!(matches!(resize(&mut bench, body(3, loses("data"), None)), Ok(Reply::AlreadySo(_))));
}

#[test]
fn a_guest_that_lets_go_of_a_disk_has_it_no_more_and_nobody_is_promised_it() {
    let mut bench = Bench::lone();
    let with = with_data(&mut bench);
    assert_eq!(refusal(resize(&mut bench, body(3, loses("root"), None))), "wrong-state");
    resize(&mut bench, body(3, loses("data"), None)).unwrap();
    bench.end_work(got(1, GIB, GIB));
    let stage = |bench: &Bench| job(bench).resize.map(|resize| resize.stage);
    assert_eq!(stage(&bench), Some(ResizeStage::Changing), "the guest is asked first");
    // The agent dies meanwhile: the guest is asked again.
    bench.works.clear();
    bench.die(false);
    bench.tell(Input::Domains(vec![guest(1, GIB, GIB)]));
    assert_eq!(stage(&bench), Some(ResizeStage::Changing));
    let taken = bench.end_work(WorkOutcome::TakenOut(vec![]));
    assert_eq!(asked(&taken), [Leaver::Disk("data".into())]);
    assert_eq!((disk_promised(&bench), job(&bench).resize), (with - 2, None));
    assert!(bench.works.is_empty());
    resize(&mut bench, body(4, adds(2), None)).unwrap();
}

#[test]
fn what_a_guest_keeps_is_promised_and_asked_for_until_it_lets_go_or_ends() {
    let mut bench = Bench::lone();
    let with = with_data(&mut bench);
    resize(&mut bench, body(3, loses("data"), None)).unwrap();
    bench.end_work(got(1, GIB, GIB));
    let kept = || WorkOutcome::TakenOut(vec![(Leaver::Disk("data".into()), "busy".into())]);
    bench.end_work(kept());
    let words = "still with disk \"data\" until its next start";
    assert_eq!(told(&bench).2.as_deref(), Some(words));
    assert_eq!(job(&bench).resize.unwrap().why, ["disk \"data\": busy"]);
    assert_eq!(disk_promised(&bench), with);
    assert!(bench.works.is_empty(), "not at once again");
    // Nothing is done meanwhile that its disks count in.
    assert_eq!(refusal(resize(&mut bench, body(4, adds(1), None))), "wrong-state");
    let save = Request::Act { job: job_id("web-1"), act: Act::Save };
    assert_eq!(refusal(bench.ask(save)), "wrong-state");
    // Other CPUs are: they change nothing of it.
    resize(&mut bench, body(4, change(2, GIB), None)).unwrap();
    bench.end_work(got(2, GIB, GIB));
    bench.end_work(kept());
    assert_eq!(told(&bench).2.as_deref(), Some(words));
    // Asked again later, nothing else is written as long as it is kept; and a change that begins meanwhile is done.
    for vcpus in [2, 3] {
        bench.looks.clear();
        bench.now.mono_ms += 30_000;
        bench.tell(Input::Tick);
        let revision = job(&bench).revision.0 + 1;
        if vcpus == 3 {
            resize(&mut bench, body(revision, change(3, GIB), None)).unwrap();
        }
        bench.end_work(kept());
    }
    assert!(job(&bench).resize.unwrap().stage == ResizeStage::Changing);
    let tick = |bench: &mut Bench| {
        bench.now.mono_ms += 1_000;
        bench.tell(Input::Tick);
    };
    tick(&mut bench);
    assert!(matches!(bench.end_work(got(3, GIB, GIB)), Work::ResizeVm { .. }));
    bench.end_work(kept());
    assert_eq!(job(&bench).resize.unwrap().why, ["disk \"data\": busy"]);
    look_at(&mut bench, guest(3, GIB, GIB));
    assert_eq!((told(&bench).2.as_deref(), disk_promised(&bench)), (Some(words), with));

    stop(&mut bench);
    assert_eq!(disk_promised(&bench), with, "its file is there");
    bench.end_work(WorkOutcome::TakenOut(vec![]));
    assert_eq!((disk_promised(&bench), job(&bench).resize), (with - 2, None));
}

#[test]
fn a_guest_that_ends_by_itself_or_with_its_host_loses_what_it_kept() {
    for is_reboot in [false, true] {
        let mut bench = Bench::lone();
        let with = with_data(&mut bench);
        resize(&mut bench, body(3, loses("data"), None)).unwrap();
        bench.end_work(got(1, GIB, GIB));
        bench.end_work(WorkOutcome::TakenOut(vec![(Leaver::Disk("data".into()), String::new())]));
        bench.works.clear();
        bench.looks.clear();
        bench.die(is_reboot);
        let off = domain("web-1", DomainState::ShutOff(StopReason::Shutdown));
        bench.tell(Input::Domains(vec![off]));
        assert_eq!(disk_promised(&bench), with);
        while !matches!(bench.works.last(), Some((_, _, Work::TakeOut { .. }))) {
            assert!(!bench.works.is_empty(), "nobody takes it out");
            bench.end_work(WorkOutcome::Done);
        }
        bench.end_work(WorkOutcome::TakenOut(vec![]));
        assert_eq!((disk_promised(&bench), job(&bench).resize), (with - 2, None));
    }
}

#[test]
fn a_definition_that_can_not_be_without_it_takes_nothing_out() {
    let mut bench = Bench::lone();
    let with = with_data(&mut bench);
    resize(&mut bench, body(3, loses("data"), None)).unwrap();
    bench.end_work(WorkOutcome::Failed("no".into()));
    assert_eq!((disk_promised(&bench), names(&bench)), (with, vec!["root".into(), "data".into()]));
    assert_eq!((job(&bench).resize, bench.works.len()), (None, 0));
}

#[test]
fn a_vm_with_snapshots_keeps_the_disks_that_they_are_of() {
    let mut bench = Bench::lone();
    put_with_disk(&mut bench);
    let snapshot = protocol::id::SnapshotName::new("a").unwrap();
    let measured = crate::core::Measured { held_bytes: 0, took_bytes: 0 };
    bench.ask(Request::TakeSnapshot { job: job_id("web-1"), name: snapshot, measured }).unwrap();
    bench.end_work(WorkOutcome::Snapshotted { taken_ms: 1, measured });
    assert_eq!(refusal(resize(&mut bench, body(2, adds(1), None))), "has-snapshots");
}
