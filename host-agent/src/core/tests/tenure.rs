//! VMs that need cover: what is drafted for the keeper, and what becomes of a right that is over.

use protocol::api::ResizeJob;
use protocol::tenure::Standing;
use protocol::vm::{OnLoss, SizeChange};

use super::*;

fn stop_spec() -> JobSpec {
    let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, on_loss: OnLoss::Stop, ..VmSpec::default() };
    JobSpec::vm(vm)
}

/// An agent with the job running in boot `a` of its machine.
fn running() -> Bench {
    let disk = LedgerState { epoch: Epoch(1), boot: "a".into(), ..LedgerState::default() };
    let mut bench = Bench::new(HOST, disk);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(bench.ask(Request::Trust(trust())), Ok(Reply::Done));
    let (job, spec) = (job_id("web-1"), stop_spec());
    let ask = OfferRequest {
        job,
        revision: Revision(1),
        spec: spec.clone(),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else { panic!("no offer") };
    assert_eq!(offered.offer.open().unwrap().on_loss, OnLoss::Stop);
    assert!(bench.agent.needs_keeper(), "an offer may become a hold at any moment");
    bench.now.mono_ms += 1_000;
    let ticket = Some(granted(offered.offer));
    bench.put("web-1", PutJob { ticket, ..PutJob::of(Revision(1), spec) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench
}

fn hold(bench: &Bench) -> OfferId {
    bench.agent.job(&job_id("web-1")).unwrap().job.hold.expect("a hold")
}

fn reason(bench: &Bench) -> Option<Reason> {
    bench.agent.job(&job_id("web-1")).unwrap().job.reason.clone()
}

#[test]
fn a_hold_is_drafted_with_the_moment_of_its_offer() {
    let bench = running();
    let draft = bench.agent.draft().expect("domains are listed");
    let [drafted] = &draft.items[..] else { panic!("{draft:?}") };
    assert_eq!((drafted.item.id, &drafted.item.standing), (hold(&bench), &Standing::Hold));
    assert_eq!(drafted.issued_ms, Some(bench.now.mono_ms - 1_000));
    assert!(draft.needs_keeper() && draft.watermark == hold(&bench));
}

#[test]
fn a_growth_is_drafted_with_the_hold_that_the_guest_began_under() {
    let mut bench = running();
    let began = hold(&bench);
    let grow = |bench: &mut Bench, revision: u64, vcpus: u32| {
        let size = SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
        let (job, spec) = (job_id("web-1"), stop_spec().with_size(|was| was.changed(&size)));
        let (revision, spec) = (Revision(revision), spec.unwrap());
        let ask = OfferRequest {
            job: job.clone(),
            revision,
            spec,
            action: Action::Resize,
            finds_disks: false,
        };
        let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else {
            panic!("no offer")
        };
        assert_eq!(offered.offer.open().unwrap().on_loss, OnLoss::Stop);
        bench.now.mono_ms += 1_000;
        let resize = ResizeJob { revision, size, ticket: Some(granted(offered.offer)), run: None };
        bench.ask(Request::Resize { job, resize }).unwrap();
        let resources = Resources { vcpus, memory_bytes: 1 << 30, disk_bytes: 0 };
        let guest = DomainInfo { resources, ..domain("web-1", DomainState::Running) };
        let domain = Box::new(guest);
        bench.end_work(WorkOutcome::Resized {
            domain,
            devices: vec![],
            left: vec![],
            is_giving: false,
        });
    };
    for (revision, vcpus) in [(2, 2), (3, 3)] {
        grow(&mut bench, revision, vcpus);
        let draft = bench.agent.draft().unwrap();
        let [drafted] = &draft.items[..] else { panic!("{draft:?}") };
        assert_eq!((drafted.item.id, drafted.since), (hold(&bench), Some(began)));
        assert!(began < hold(&bench) && drafted.item.resources.vcpus == vcpus);
        assert_eq!(drafted.issued_ms, Some(bench.now.mono_ms - 1_000));
    }
    bench.tell(Input::Lost { job: job_id("web-1"), hold: began });
    assert_eq!(bench.state("web-1"), JobState::Running, "the word of a hold that was replaced");
    bench.disk.boot = "b".into();
    bench.die(true);
    bench.tell(Input::Domains(vec![]));
    assert!(matches!(reason(&bench), Some(Reason::TenureLost { .. })));
    let job = &bench.agent.job(&job_id("web-1")).unwrap().job;
    assert_eq!((job.spec.resources().vcpus, &job.resize), (3, &None));
}

#[test]
fn a_lost_right_ends_the_guest_and_only_then_the_hold() {
    let mut bench = running();
    let lost = hold(&bench);
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert_eq!((bench.state("web-1"), hold(&bench)), (JobState::Stopping, lost), "listed still");
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    assert_eq!(reason(&bench), Some(Reason::TenureLost { lost }));
    assert!(!bench.agent.needs_keeper() && bench.agent.draft().unwrap().items.is_empty());
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert!(bench.works.is_empty(), "told once more, it is so already");
}

#[test]
fn what_has_crashed_before_takes_no_room_again_when_its_right_is_over() {
    let mut bench = running();
    let lost = hold(&bench);
    let look = bench.look(job_id("web-1").domain_uuid(), true);
    let off = domain("web-1", DomainState::ShutOff(StopReason::Crashed));
    bench.tell(Input::Looked { look, domain: Some(off) });
    assert_eq!((bench.state("web-1"), hold(&bench)), (JobState::Crashed, lost));
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    assert_eq!(reason(&bench), Some(Reason::TenureLost { lost }));
    assert!(bench.works.is_empty());
}

/// What controllers start elsewhere is what says that its right was lost.
#[test]
fn a_stop_is_not_undone_by_a_right_that_is_over_before_it_is_done() {
    let mut bench = running();
    let lost = hold(&bench);
    let stop = StopJob::within(60_000);
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert_eq!((bench.state("web-1"), hold(&bench)), (JobState::Stopping, lost), "listed still");
    let told = bench.events.len();
    bench.tell(Input::Lost { job: job_id("web-1"), hold: lost });
    assert_eq!(bench.events.len(), told, "told once more, it is so already");
    assert_eq!(
        bench.end_work(WorkOutcome::Failed("it stands still".into())),
        Work::StopVm { grace_ms: 60_000 }
    );
    bench.tell(Input::Tick);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(
        (bench.state("web-1"), reason(&bench)),
        (JobState::Stopped, Some(Reason::Requested))
    );
    assert!(bench.agent.draft().unwrap().items.is_empty());
}

#[test]
fn a_stop_or_save_is_not_undone_by_a_reboot_before_it_is_done() {
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(60_000) };
    let save = Request::Act { job: job_id("web-1"), act: Act::Save };
    for request in [stop, save] {
        let mut bench = running();
        bench.ask(request).unwrap();
        bench.die(true);
        bench.tell(Input::Domains(vec![]));
        assert_eq!(bench.state("web-1"), JobState::Stopped);
        assert_eq!(reason(&bench), Some(Reason::Requested), "nobody starts it again");
        assert!(bench.agent.draft().unwrap().items.is_empty() && bench.works.is_empty());
    }
}

#[test]
fn the_word_of_another_hold_changes_nothing() {
    let mut bench = running();
    let other = OfferId { epoch: Epoch(9), num: 9 };
    bench.tell(Input::Lost { job: job_id("web-1"), hold: other });
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn an_agents_death_keeps_the_hold_and_a_reboot_loses_it() {
    let mut bench = running();
    let held = hold(&bench);
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert_eq!((bench.state("web-1"), hold(&bench)), (JobState::Running, held));
    bench.disk.boot = "b".into();
    bench.die(true);
    // Killed before that was written, the next life knows by the boot id alone.
    bench.die(false);
    assert_eq!(bench.agent.draft(), None, "nothing is stated before it is on disk");
    bench.tell(Input::Domains(vec![]));
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    assert_eq!(reason(&bench), Some(Reason::TenureLost { lost: held }));
    assert!(bench.agent.draft().unwrap().items.is_empty() && bench.works.is_empty());
}

#[test]
fn a_host_without_trust_or_gates_takes_no_such_vm() {
    let put = || PutJob::of(Revision(1), stop_spec());
    assert_eq!(refusal(Bench::lone().put("web-1", put())), "unsupported");
    let mut bench = Bench::trusted(HOST);
    bench.agent.host.hypervisor.can_guard = false;
    let (job, spec) = (job_id("web-1"), stop_spec());
    let ask = OfferRequest {
        job,
        revision: Revision(1),
        spec,
        action: Action::Start,
        finds_disks: false,
    };
    assert_eq!(refusal(bench.ask(Request::Offer(ask))), "unsupported");
}
