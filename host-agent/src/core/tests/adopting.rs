//! Domains of others that become jobs, and jobs that become nobody's: what is counted, what is refused,
//! and a death of the agent between any two effects.

use hypervisor::StopReason;
use protocol::job::{JobKind, ObservedDomain};
use uuid::Uuid;

use super::*;

const DOMAIN: Uuid = Uuid::from_u128(9);

/// A domain that nobody asked us for.
fn foreign(state: DomainState) -> DomainInfo {
    DomainInfo { uuid: DOMAIN, job: None, ..domain("legacy", state) }
}

fn adopted_spec(vcpus: u32) -> JobSpec {
    let JobKind::Vm(vm) = spec(vcpus).kind else { unreachable!("it is a VM") };
    JobSpec::vm(VmSpec { adopted: Some(DOMAIN), ..vm })
}

fn adopt(ticket: Option<Ticket>) -> PutJob {
    PutJob { spec: adopted_spec(1), ..body(1, 1, ticket) }
}

fn observing(mut bench: Bench) -> Bench {
    bench.tell(Input::Domains(vec![foreign(DomainState::Running)]));
    assert_eq!(bench.agent.inventory().observed.len(), 1);
    bench
}

fn adopted() -> WorkOutcome {
    WorkOutcome::Adopted(Box::new(foreign(DomainState::Running)))
}

fn released() -> WorkOutcome {
    WorkOutcome::Released(Some(Box::new(foreign(DomainState::Running))))
}

fn release(bench: &mut Bench) -> Result<Reply, Refusal> {
    bench.ask(Request::Release(job_id("legacy")))
}

fn observed(bench: &Bench) -> Vec<ObservedDomain> {
    bench.agent.inventory().observed
}

/// A host with a job that was adopted.
fn host_with_adopted() -> Bench {
    let mut bench = observing(Bench::lone());
    bench.put("legacy", adopt(None)).unwrap();
    assert_eq!(bench.end_work(adopted()), Work::AdoptVm);
    assert_eq!(bench.state("legacy"), JobState::Running);
    bench.looks.clear();
    bench
}

fn look_at(bench: &mut Bench, domain: Option<DomainInfo>) {
    for is_second in [false, true] {
        let look = bench.look(DOMAIN, is_second);
        bench.tell(Input::Looked { look, domain: domain.clone() });
    }
}

#[test]
fn a_domain_becomes_a_job_in_place_and_is_given_back() {
    let mut bench = observing(Bench::lone());
    let before = bench.agent.inventory().host.allocation;
    assert!(matches!(bench.put("legacy", adopt(None)), Ok(Reply::Accepted(_))));
    assert!(matches!(bench.put("legacy", adopt(None)), Ok(Reply::AlreadySo(_))));
    assert_eq!((observed(&bench), bench.agent.inventory().host.allocation), (vec![], before));
    let gone = |e: &Event| matches!(e.fact, Fact::DomainGone { uuid } if uuid == DOMAIN);
    assert!(bench.events.iter().any(gone), "followers show it once");
    assert_eq!(bench.end_work(adopted()), Work::AdoptVm, "and nothing is started");
    let job = bench.agent.job(&job_id("legacy")).unwrap().job.clone();
    assert_eq!((job.state, job.domain_uuid), (JobState::Running, Some(DOMAIN)));

    assert!(matches!(release(&mut bench), Ok(Reply::Accepted(_))));
    assert!(matches!(release(&mut bench), Ok(Reply::AlreadySo(_))));
    assert_eq!(bench.agent.inventory().host.allocation, before, "it still has its room");
    assert_eq!(bench.end_work(released()), Work::ReleaseVm);
    assert!(bench.agent.job(&job_id("legacy")).is_none() && bench.disk.jobs.is_empty());
    assert_eq!((observed(&bench).len(), bench.agent.inventory().host.allocation), (1, before));
    assert_eq!(refusal(release(&mut bench)), "no-such-job");
}

#[test]
fn adopting_needs_a_ticket_where_there_is_trust_and_its_offer_counts_the_domain_once() {
    let mut bench = observing(Bench::trusted(HOST));
    assert_eq!(refusal(bench.put("legacy", adopt(None))), "ticket-missing");
    let before = bench.agent.inventory().host.allocation;
    let ask = OfferRequest {
        job: job_id("legacy"),
        revision: Revision(1),
        spec: adopted_spec(1),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else { panic!("an offer") };
    assert_eq!(bench.agent.inventory().host.allocation, before);
    let plain = PutJob { spec: spec(1), ..adopt(Some(granted(offered.offer.clone()))) };
    assert_eq!(refusal(bench.put("other", plain)), "ticket-for-other-job");
    bench.put("legacy", adopt(Some(granted(offered.offer)))).unwrap();
    bench.end_work(adopted());
    assert!(bench.agent.job(&job_id("legacy")).unwrap().job.hold.is_some());
    assert_eq!(bench.agent.inventory().host.allocation, before);
    release(&mut bench).unwrap();
    bench.end_work(released());
    assert!(bench.disk.jobs.is_empty(), "and with the row the hold is gone");
}

#[test]
fn a_full_host_can_still_adopt_what_runs_there() {
    let mut bench = Bench::lone();
    let mut large = foreign(DomainState::Running);
    large.resources = Resources { vcpus: 3, memory_bytes: 3 << 30, disk_bytes: 0 };
    bench.tell(Input::Domains(vec![large.clone()]));
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.works.clear();
    let JobKind::Vm(vm) = adopted_spec(3).kind else { unreachable!("it is a VM") };
    let spec = JobSpec::vm(VmSpec { memory_bytes: 3 << 30, ..vm });
    assert_eq!(refusal(bench.put("web-2", body(1, 1, None))), "no-capacity");
    bench.put("legacy", PutJob { spec, ..adopt(None) }).unwrap();
}

#[test]
fn what_does_not_fit_the_domain_is_refused_and_says_what_would() {
    let mut bench = observing(Bench::lone());
    let put = |bench: &mut Bench, name: &str, spec| {
        bench.put(name, PutJob { spec, ..adopt(None) }).expect_err("a refusal")
    };
    let smaller = put(&mut bench, "legacy", adopted_spec(2));
    assert!(smaller.to_string().contains("1 vcpu,"), "{smaller}");
    let JobKind::Vm(vm) = adopted_spec(1).kind else { unreachable!("it is a VM") };
    let spec = JobSpec::vm(VmSpec { adopted: Some(Uuid::from_u128(77)), ..vm });
    assert_eq!(put(&mut bench, "legacy", spec.clone()).name(), "name-taken");
    assert_eq!(put(&mut bench, "elsewhere", spec).name(), "no-such-domain");
    assert_eq!(refusal(bench.put("legacy", body(1, 1, None))), "name-taken");

    look_at(&mut bench, Some(foreign(DomainState::ShutOff(StopReason::Destroyed))));
    assert!(put(&mut bench, "legacy", adopted_spec(1)).to_string().contains("virsh start"));
    let transient = DomainInfo { is_persistent: false, ..foreign(DomainState::Running) };
    look_at(&mut bench, Some(transient));
    assert!(put(&mut bench, "legacy", adopted_spec(1)).to_string().contains("virsh define"));
    look_at(&mut bench, Some(foreign(DomainState::Running)));
    bench.put("renamed", adopt(None)).expect("another name is fine");
    bench.end_work(adopted());
    let twice = put(&mut bench, "legacy", adopted_spec(1));
    assert!(twice.to_string().contains("is job renamed already"), "{twice}");
    assert_eq!(refusal(bench.ask(Request::Release(job_id("nobody")))), "no-such-job");
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.works.clear();
    assert_eq!(refusal(bench.ask(Request::Release(job_id("web-1")))), "invalid");
}

#[test]
fn an_adopted_job_is_stopped_and_started_by_its_own_domain() {
    let mut bench = host_with_adopted();
    let stop = StopJob::within(0);
    bench.ask(Request::Stop { job: job_id("legacy"), stop }).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(bench.agent.inventory().host.allocation, Resources::ZERO);
    let plain = body(2, 1, None);
    assert_eq!(refusal(bench.put("legacy", plain)), "invalid", "it would make another domain");
    bench.put("legacy", PutJob { revision: Revision(2), ..adopt(None) }).unwrap();
    let Work::StartVm(vm) = bench.end_work(WorkOutcome::Done) else { panic!("a start") };
    assert_eq!(vm.adopted, Some(DOMAIN));
    assert_eq!(bench.state("legacy"), JobState::Running);
}

#[test]
fn a_delete_of_an_adopted_job_only_gives_it_back() {
    for is_stopped in [false, true] {
        let mut bench = host_with_adopted();
        if is_stopped {
            let stop = StopJob::within(0);
            bench.ask(Request::Stop { job: job_id("legacy"), stop }).unwrap();
            bench.end_work(WorkOutcome::Done);
        }
        bench.ask(Request::Delete { job: job_id("legacy"), run: None, shared: false }).unwrap();
        assert_eq!(bench.end_work(released()), Work::ReleaseVm);
        assert_eq!(observed(&bench).len(), 1);
    }
}

#[test]
fn a_domain_that_is_gone_before_it_was_adopted_is_a_failed_job() {
    let mut bench = observing(Bench::lone());
    bench.put("legacy", adopt(None)).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::NotThere), Work::AdoptVm);
    assert_eq!(bench.state("legacy"), JobState::Failed);
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty());
}

#[test]
fn a_domain_that_can_not_be_adopted_yet_keeps_its_room_and_is_tried_again() {
    let mut bench = observing(Bench::lone());
    let before = bench.agent.inventory().host.allocation;
    bench.put("legacy", adopt(None)).unwrap();
    bench.end_work(WorkOutcome::Failed("no space left on device".into()));
    assert_eq!(bench.state("legacy"), JobState::Starting);
    assert_eq!(bench.agent.inventory().host.allocation, before);
    bench.tell(Input::Tick);
    assert_eq!(bench.end_work(adopted()), Work::AdoptVm);
    assert_eq!(bench.state("legacy"), JobState::Running);
}

#[test]
fn what_ends_or_pauses_while_it_is_adopted_is_shown_so_and_not_started() {
    for (state, shown) in [
        (DomainState::ShutOff(StopReason::Shutdown), JobState::Stopped),
        (DomainState::Paused(PauseReason::Requested), JobState::Paused),
    ] {
        let mut bench = observing(Bench::lone());
        bench.put("legacy", adopt(None)).unwrap();
        bench.end_work(WorkOutcome::Adopted(Box::new(foreign(state))));
        assert_eq!(bench.state("legacy"), shown);
        bench.tell(Input::Tick);
        assert!(bench.works.is_empty());
    }
}

#[test]
fn what_others_do_to_an_adopted_domain_is_shown_and_the_job_stays() {
    let mut bench = host_with_adopted();
    look_at(&mut bench, Some(foreign(DomainState::Paused(PauseReason::Requested))));
    assert_eq!(bench.state("legacy"), JobState::Paused);
    look_at(&mut bench, Some(foreign(DomainState::Running)));
    assert_eq!(bench.state("legacy"), JobState::Running);
    look_at(&mut bench, Some(foreign(DomainState::ShutOff(StopReason::Destroyed))));
    assert_eq!(bench.state("legacy"), JobState::Crashed);
    look_at(&mut bench, None);
    assert_eq!(bench.state("legacy"), JobState::Crashed, "undefined, and still remembered");
    look_at(&mut bench, Some(foreign(DomainState::Running)));
    assert_eq!(bench.state("legacy"), JobState::Running);
    assert!(observed(&bench).is_empty() && bench.works.is_empty());
}

#[test]
fn what_happens_to_the_guest_does_not_stop_a_release() {
    let mut bench = host_with_adopted();
    release(&mut bench).unwrap();
    bench.end_work(WorkOutcome::Failed("libvirt is away".into()));
    look_at(&mut bench, Some(foreign(DomainState::ShutOff(StopReason::Shutdown))));
    bench.tell(Input::Tick);
    assert_eq!(bench.end_work(WorkOutcome::Released(None)), Work::ReleaseVm);
    assert!(bench.disk.jobs.is_empty() && observed(&bench).is_empty());
}

/// Does what a request and its work want, up to an effect; then the agent dies. Its next life does
/// the rest.
#[test]
fn a_death_between_any_two_effects_of_adopting_and_releasing_loses_nothing() {
    for is_release in [false, true] {
        for deaths_after in 0..8 {
            let mut bench = if is_release { host_with_adopted() } else { observing(Bench::lone()) };
            let request = || match is_release {
                true => Request::Release(job_id("legacy")),
                false => Request::Put { job: job_id("legacy"), put: adopt(None) },
            };
            let mut effects = vec![];
            let asked = Input::Request { reply: ReplyId(0), request: Box::new(request()) };
            bench.agent.handle(bench.now, asked, &mut effects);
            for effect in effects.into_iter().take(deaths_after) {
                bench.perform(effect);
            }
            let was_told = !bench.replies.is_empty();
            bench.die(false);
            bench.tell(Input::Domains(vec![foreign(DomainState::Running)]));
            if was_told {
                assert_eq!(bench.works.len(), 1, "what was promised goes on by itself");
            } else {
                let again = bench.ask(request()).unwrap();
                assert!(matches!(again, Reply::Accepted(_) | Reply::AlreadySo(_)), "{again:?}");
            }
            bench.end_work(if is_release { released() } else { adopted() });
            let rows = (bench.disk.jobs.len(), observed(&bench).len());
            assert_eq!(rows, if is_release { (0, 1) } else { (1, 0) }, "after {deaths_after}");
        }
    }
}

#[test]
fn a_death_after_the_work_and_before_its_end_was_written_repeats_the_work() {
    let mut bench = observing(Bench::lone());
    bench.put("legacy", adopt(None)).unwrap();
    bench.die(false);
    // It has our label by now; the ledger alone says whose it is.
    bench.tell(Input::Domains(vec![foreign(DomainState::Running)]));
    assert_eq!(bench.end_work(adopted()), Work::AdoptVm);
    release(&mut bench).unwrap();
    bench.die(false);
    bench.tell(Input::Domains(vec![foreign(DomainState::Running)]));
    assert_eq!(bench.end_work(released()), Work::ReleaseVm);
    assert_eq!(observed(&bench).len(), 1);
}

#[test]
fn after_a_reboot_of_the_host_an_adoption_that_was_not_over_starts_nothing() {
    let mut bench = observing(Bench::lone());
    bench.put("legacy", adopt(None)).unwrap();
    bench.die(true);
    let off = foreign(DomainState::ShutOff(StopReason::Unknown));
    bench.tell(Input::Domains(vec![off.clone()]));
    assert_eq!(bench.end_work(WorkOutcome::Adopted(Box::new(off))), Work::AdoptVm);
    assert_eq!(bench.state("legacy"), JobState::Crashed);
    assert!(bench.works.is_empty());
}
