//! Budgets: how a host comes by one, what it starts by it, and how it remembers.

use std::collections::BTreeSet;

use hypervisor::StopReason;
use protocol::budget::Budget;
use protocol::job::JobKind;
use protocol::trust::Fence;

use super::*;

const BUDGET: &str = "a.h1";

fn budget(vcpus: u32) -> JobSpec {
    let memory_bytes = u64::from(vcpus) << 30;
    let kind = JobKind::Budget(Budget { vcpus, memory_bytes, disk_bytes: 0, vms: vcpus });
    JobSpec { kind, ..spec(1) }
}

impl Bench {
    fn try_delegation(&mut self, revision: u64, spec: JobSpec) -> Result<Signed<Offer>, Refusal> {
        let action = Action::Delegate { vms: 0, away: BTreeSet::new() };
        let (job, revision) = (job_id(BUDGET), Revision(revision));
        let ask = OfferRequest { job, revision, spec, action, finds_disks: false };
        self.ask(Request::Offer(ask)).map(|reply| match reply {
            Reply::Offered(offered) => offered.offer,
            other => panic!("no offer: {other:?}"),
        })
    }

    fn delegate(&mut self, revision: u64, vcpus: u32) -> Result<Reply, Refusal> {
        let ticket = Some(granted(self.try_delegation(revision, budget(vcpus))?));
        self.put(BUDGET, PutJob { ticket, ..PutJob::of(Revision(revision), budget(vcpus)) })
    }

    fn spend(&mut self, name: &str, revision: u64, vcpus: u32) -> Result<Reply, Refusal> {
        let budget = Some(job_id(BUDGET));
        self.put(name, PutJob { budget, ..body(revision, vcpus, None) })
    }

    fn row(&self, name: &str) -> protocol::job::Job {
        self.agent.job(&job_id(name)).expect("it is here").job.clone()
    }

    fn stop(&mut self, name: &str) -> Result<Reply, Refusal> {
        self.ask(Request::Stop { job: job_id(name), stop: StopJob::within(0) })
    }
}

/// A budget of three CPUs, and a VM that runs by one of them.
fn spent() -> Bench {
    let mut bench = Bench::trusted(HOST);
    bench.delegate(1, 3).unwrap();
    bench.spend("a.h1.web", 1, 1).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("a.h1.web"), JobState::Running);
    bench
}

#[test]
fn a_budget_is_had_by_a_ticket_and_takes_no_room() {
    let mut bench = Bench::trusted(HOST);
    let put = PutJob::of(Revision(1), budget(3));
    assert_eq!(refusal(bench.put(BUDGET, put)), "ticket-missing");
    let offer = bench.try_delegation(1, budget(64)).unwrap().open().unwrap();
    assert_eq!(offer.takes().vms, 64, "the host says how many, whoever asks for how many");
    bench.delegate(1, 64).unwrap();
    assert_eq!(bench.agent.inventory().host.allocation, Resources::ZERO);
    assert!(bench.works.is_empty(), "nothing runs for it");
    let row = bench.row(BUDGET);
    assert!(row.state == JobState::Running && row.hold.is_some());
    let start = OfferRequest {
        job: job_id(BUDGET),
        revision: Revision(2),
        spec: budget(3),
        action: Action::Start,
        finds_disks: false,
    };
    assert_eq!(refusal(bench.ask(Request::Offer(start))), "invalid");
}

#[test]
fn a_lone_host_has_no_budgets_and_needs_none() {
    let mut bench = Bench::lone();
    assert_eq!(refusal(bench.put(BUDGET, PutJob::of(Revision(1), budget(3)))), "unsupported");
    assert_eq!(refusal(bench.spend("a.h1.web", 1, 1)), "unsupported");
}

#[test]
fn what_is_by_a_budget_has_no_hold_and_fits_in_it() {
    let mut bench = spent();
    let row = bench.row("a.h1.web");
    assert_eq!((row.hold, row.budget), (None, Some(job_id(BUDGET))));
    let stated = bench.agent.draft().unwrap().items;
    let stated: Vec<&JobId> = stated.iter().map(|drafted| &drafted.item.job).collect();
    assert_eq!(stated, [&job_id(BUDGET)], "it is stated as the budget");
    let Err(Refusal::BudgetExhausted { used, at_most, .. }) = bench.spend("a.h1.db", 1, 3) else {
        panic!("3 of 2");
    };
    assert_eq!((used.vcpus, at_most.vcpus), (1, 2));
    bench.spend("a.h1.db", 1, 2).unwrap();
    assert_eq!(refusal(bench.spend("a.h1.db2", 1, 1)), "budget-exhausted");
    assert_eq!(refusal(bench.spend("other", 1, 1)), "outside-budget");
    let nowhere = PutJob { budget: Some(job_id("b.h1")), ..body(1, 1, None) };
    let Err(Refusal::NoSuchBudget { has, .. }) = bench.put("b.h1.web", nowhere) else {
        panic!("there is none");
    };
    assert_eq!(has, [job_id(BUDGET)]);
}

#[test]
fn an_agent_that_dies_remembers_what_is_used() {
    let mut bench = spent();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("a.h1.web", DomainState::Running)]));
    assert_eq!(refusal(bench.spend("a.h1.db", 1, 3)), "budget-exhausted");
    bench.spend("a.h1.db", 1, 2).unwrap();
}

#[test]
fn after_a_reboot_it_is_used_again_when_the_arbiters_have_spoken_and_so_for_a_later_life() {
    let mut bench = spent();
    bench.die(true);
    let off = domain("a.h1.web", DomainState::ShutOff(StopReason::Unknown));
    bench.tell(Input::Domains(vec![off]));
    assert_eq!(bench.row("a.h1.web").budget, Some(job_id(BUDGET)), "it may be started again by it");
    assert_eq!(refusal(bench.spend("a.h1.db", 1, 1)), "budget-awaits-right");
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(refusal(bench.spend("a.h1.db", 1, 1)), "budget-awaits-right");
    bench.tell(Input::Tick);
    assert_eq!(bench.asked_right, 1);
    bench.tell(Input::Right(Standing { version: 1, obey: [0].into(), ready: [0].into() }));
    bench.spend("a.h1.db", 1, 1).unwrap();
    bench.works.clear();
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    bench.spend("a.h1.db2", 1, 1).unwrap();
}

#[test]
fn it_ends_when_nothing_is_by_it_and_becomes_less_as_far_as_it_is_unused() {
    let mut bench = spent();
    let Err(Refusal::BudgetInUse { used, users, .. }) = bench.stop(BUDGET) else {
        panic!("it is used");
    };
    assert_eq!((used.vcpus, users), (1, vec![job_id("a.h1.web")]));
    let put = |vcpus| PutJob::of(Revision(2), budget(vcpus));
    assert_eq!(refusal(bench.put(BUDGET, put(4))), "ticket-missing");
    let before = bench.row(BUDGET).hold;
    bench.put(BUDGET, put(1)).unwrap();
    assert_eq!(bench.row(BUDGET).hold, before, "less needs no other");
    assert_eq!(refusal(bench.delegate(3, 0)), "invalid");
    bench.stop("a.h1.web").unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.row("a.h1.web").budget, None);
    bench.stop(BUDGET).unwrap();
    let row = bench.row(BUDGET);
    assert_eq!((row.state, row.hold), (JobState::Stopped, None));
    assert_eq!(refusal(bench.spend("a.h1.web", 2, 1)), "no-such-budget");
    bench.ask(Request::Delete { job: job_id(BUDGET), run: None, shared: false }).unwrap();
    assert!(bench.agent.job(&job_id(BUDGET)).is_none());
}

#[test]
fn what_is_taken_from_a_host_stays_stated_until_the_last_guest_by_it_is_dead() {
    let mut bench = spent();
    let (host, by) = (key(HOST).public(), key(OPERATOR).public());
    let fenced =
        vec![Fence { host, since: 2, by, by_fencer: false, at_ms: 0, reason: "no power".into() }];
    let next = Trust { version: 2, fenced, ..trust().open().unwrap() };
    bench.ask(Request::Trust(Signed::seal(&next, &key(OPERATOR)))).unwrap();
    assert_eq!(bench.state(BUDGET), JobState::Stopping);
    assert!(bench.row(BUDGET).hold.is_some(), "its guest is not dead yet");
    assert_eq!(refusal(bench.spend("a.h1.db", 1, 1)), "no-such-budget");
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("a.h1.web", DomainState::Running)]));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    let row = bench.row(BUDGET);
    assert_eq!((row.state, row.hold), (JobState::Stopped, None));
    assert!(matches!(row.reason, Some(Reason::Fenced { .. })));
    assert_eq!(bench.row("a.h1.web").budget, None);
}

/// A ticket works once; a request to start something by a budget is known by its task.
#[test]
fn a_copy_of_a_request_that_comes_after_a_delete_starts_nothing() {
    let mut bench = Bench::trusted(HOST);
    bench.delegate(1, 3).unwrap();
    let run = Some(RunKey { run: protocol::id::RunId(uuid::Uuid::nil()), task: 0, claim: 1 });
    let put = || PutJob { budget: Some(job_id(BUDGET)), run, ..body(2, 1, None) };
    bench.put("a.h1.web", put()).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.stop("a.h1.web").unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.ask(Request::Delete { job: job_id("a.h1.web"), run: None, shared: false }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("a.h1.web", put())), "no-such-job");
    // Nor what was made anew since, and has a lower revision.
    bench.spend("a.h1.web", 1, 1).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.stop("a.h1.web").unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("a.h1.web", put())), "no-such-job");
    assert_eq!(bench.state("a.h1.web"), JobState::Stopped);
}

/// A row has a hold or a budget, or statements would not list what it holds.
#[test]
fn a_budget_is_by_no_budget_and_is_not_sent_away() {
    let mut bench = Bench::trusted(HOST);
    let ticket = Some(granted(bench.try_delegation(1, budget(3)).unwrap()));
    let by = Some(job_id("x"));
    let put = PutJob { ticket, budget: by, ..PutJob::of(Revision(1), budget(3)) };
    assert_eq!(refusal(bench.put(BUDGET, put.clone())), "invalid");
    bench.put(BUDGET, PutJob { budget: None, ..put }).unwrap();
    let migrate = MigrateJob {
        to: bench.agent.host.id.clone(),
        to_hold: None,
        url: "https://[::1]:1".into(),
        run: None,
        pace: Default::default(),
    };
    let send = Request::Migrate { job: job_id(BUDGET), migrate, revision: None };
    assert_eq!(refusal(bench.ask(send)), "invalid");
    assert_eq!(bench.state(BUDGET), JobState::Running);
}
