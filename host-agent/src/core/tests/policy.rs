//! Who is asked by the policy of the document that a host obeys, and who is not: starts, moves, other sizes, restarts.

use std::sync::Arc;

use hypervisor::{Lifecycle, StopReason};
use protocol::api::ResizeJob;
use protocol::job::{JobKind, ResizeStage};
use protocol::trust::{Breach, Pattern, Policy, TenantPolicy, VmMax};
use protocol::vm::{DiskSpec, Restart, SizeChange};

use super::*;

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn document(version: u64, rules: TenantPolicy) -> Signed<Trust> {
    let policy = Arc::new(Policy { default: Some(rules), ..Policy::default() });
    let before = trust().open().unwrap();
    Signed::seal(&Trust { version, policy, ..before }, &key(OPERATOR))
}

fn obeys(bench: &mut Bench, version: u64, rules: TenantPolicy) {
    assert_eq!(bench.ask(Request::Trust(document(version, rules))), Ok(Reply::Done));
}

fn at_most(vcpus: u32) -> TenantPolicy {
    let vm_max = Some(VmMax { vcpus: Some(vcpus), ..VmMax::default() });
    TenantPolicy { vm_max, ..TenantPolicy::default() }
}

fn only_on(owner: &str) -> TenantPolicy {
    let host_labels = BTreeMap::from([("owner".to_owned(), owner.to_owned())]);
    TenantPolicy { host_labels, ..TenantPolicy::default() }
}

/// A host with trust and this label.
fn labelled(which: u8, owner: &str) -> Bench {
    let ledger = LedgerState { epoch: Epoch(1), ..LedgerState::default() };
    let mut bench = Bench::new(which, ledger.clone());
    let mut host = host(which);
    host.labels.insert("owner".to_owned(), owner.to_owned());
    bench.agent = Agent::new(Birth { key: key(which), host, layout: CpuLayout::default(), ledger });
    bench.tell(Input::Domains(vec![]));
    assert_eq!(bench.ask(Request::Trust(trust())), Ok(Reply::Done));
    bench
}

fn ask(name: &str, revision: u64, spec: JobSpec, action: Action) -> Request {
    let (job, revision) = (job_id(name), Revision(revision));
    Request::Offer(OfferRequest { job, revision, spec, action, finds_disks: false })
}

fn rule(answer: Result<Reply, Refusal>) -> &'static str {
    match answer {
        Err(Refusal::AgainstPolicy { breach, .. }) => breach.rule(),
        other => panic!("no word of a policy: {other:?}"),
    }
}

fn running(mut bench: Bench, spec: JobSpec) -> Bench {
    let Ok(Reply::Offered(offered)) = bench.ask(ask("web-1", 1, spec.clone(), Action::Start))
    else {
        panic!("there is room");
    };
    let put = PutJob { spec, ..body(1, 1, Some(granted(offered.offer))) };
    bench.put("web-1", put).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.looks.clear();
    bench
}

#[test]
fn a_start_against_the_policy_gets_no_offer_and_the_no_has_the_rule_and_its_numbers() {
    let mut bench = Bench::trusted(HOST);
    obeys(&mut bench, 2, at_most(1));
    let no = bench.ask(ask("web-1", 1, spec(2), Action::Start)).expect_err("it is too large");
    let Refusal::AgainstPolicy { tenant: whose, is_default, breach } = no else { panic!("{no}") };
    assert_eq!((whose, is_default), (tenant(), true));
    let vm_max = VmMax { vcpus: Some(1), ..VmMax::default() };
    assert_eq!(breach, Breach::VmMax { asked: spec(2).resources(), at_most: vm_max });
    let disk = DiskSpec {
        name: "root".into(),
        size_bytes: 1 << 30,
        image: Some("debian-12".parse().unwrap()),
        ..DiskSpec::default()
    };
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    let of_image = JobSpec::vm(VmSpec { disks: vec![disk], ..vm });
    let images = Some(vec![Pattern("alpine-*".into())]);
    obeys(&mut bench, 3, TenantPolicy { images, ..TenantPolicy::default() });
    assert_eq!(rule(bench.ask(ask("web-1", 1, of_image, Action::Start))), "images");
    assert!(bench.ask(ask("web-1", 1, spec(2), Action::Start)).is_ok());
}

#[test]
fn a_start_that_takes_over_what_was_lost_elsewhere_is_a_start() {
    let mut bench = Bench::trusted(HOST);
    obeys(&mut bench, 2, at_most(1));
    let lost = OfferId { epoch: Epoch(1), num: 1 };
    let fail_over = Action::FailOver { from: id_of(OTHER), hold: lost };
    assert_eq!(rule(bench.ask(ask("web-1", 2, spec(2), fail_over.clone()))), "vm_max");
    assert!(bench.ask(ask("web-1", 2, spec(1), fail_over)).is_ok());
}

/// Offers of before are void, so no put can slip through with one: the next offer is asked.
#[test]
fn a_policy_that_comes_between_offer_and_put_holds_for_the_put() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 2, Action::Start));
    obeys(&mut bench, 2, at_most(1));
    assert_eq!(refusal(bench.put("web-1", body(1, 2, Some(ticket)))), "offer-ended");
    assert_eq!(rule(bench.ask(ask("web-1", 1, spec(2), Action::Start))), "vm_max");
    assert!(bench.works.is_empty());
}

/// The put is asked by itself, and not only because offers are.
#[test]
fn a_put_that_needs_no_offer_of_its_own_is_asked_too() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 2, Action::Start));
    let before = bench.agent.trust.clone().unwrap();
    let policy = Arc::new(Policy { default: Some(at_most(1)), ..Policy::default() });
    // As if the offer had outlived the change.
    bench.agent.trust = Some(Trust { policy, ..before });
    assert_eq!(rule(bench.put("web-1", body(1, 2, Some(ticket)))), "vm_max");
    assert!(bench.works.is_empty() && bench.disk.jobs.is_empty(), "nothing was changed");
}

#[test]
fn what_runs_is_untouched_and_asked_when_it_is_started_again() {
    let mut bench = running(Bench::trusted(HOST), spec(2));
    obeys(&mut bench, 2, at_most(1));
    bench.tell(Input::Tick);
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert!(bench.works.is_empty(), "nothing is done to it");
    bench.die(false);
    let on = DomainInfo {
        resources: Resources { vcpus: 2, memory_bytes: 1 << 30, disk_bytes: 0 },
        ..domain("web-1", DomainState::Running)
    };
    bench.tell(Input::Domains(vec![on]));
    assert_eq!(bench.state("web-1"), JobState::Running);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(rule(bench.ask(ask("web-1", 2, spec(2), Action::Start))), "vm_max");
}

#[test]
fn a_restart_under_the_hold_that_it_has_asks_nothing() {
    let JobKind::Vm(vm) = spec(2).kind else { unreachable!("it is a VM") };
    let always = JobSpec::vm(VmSpec { restart: Restart::Always, ..vm });
    let mut bench = running(Bench::trusted(HOST), always);
    obeys(&mut bench, 2, at_most(1));
    let how = StopReason::Crashed;
    let seen = domain("web-1", DomainState::ShutOff(how));
    let look = Look { hint: Some(Lifecycle::Stopped(how)), ..bench.look(seen.uuid, true) };
    bench.tell(Input::Looked { look, domain: Some(seen) });
    assert_eq!(bench.state("web-1"), JobState::Starting);
    bench.now.mono_ms += 1_000;
    bench.tell(Input::Tick);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn a_move_is_asked_for_the_hosts_labels_and_for_nothing_else() {
    let come = || Action::MigrateIn { from: id_of(HOST), hold: OfferId::default() };
    let rules = TenantPolicy { vm_max: at_most(1).vm_max, ..only_on("acme") };
    let mut theirs = labelled(OTHER, "acme");
    obeys(&mut theirs, 2, rules.clone());
    let Ok(Reply::Offered(offered)) = theirs.ask(ask("web-1", 1, spec(2), come())) else {
        panic!("a rule that came later keeps it from being moved");
    };
    theirs.put("web-1", body(1, 2, Some(granted(offered.offer)))).unwrap();
    assert_eq!(theirs.state("web-1"), JobState::MigratingIn);
    let mut another = labelled(OTHER, "other");
    obeys(&mut another, 2, rules);
    let no = another.ask(ask("web-1", 1, spec(2), come())).expect_err("not theirs");
    assert!(no.is_about_this_host(), "another one may do");
    assert!(no.to_string().ends_with("the host must have owner=acme, and has owner=other"), "{no}");
}

#[test]
fn another_size_is_asked_as_far_as_it_grows() {
    let mut bench = running(Bench::trusted(HOST), spec(2));
    let memory =
        |bytes| spec(2).with_size(|size| protocol::vm::Size { memory_bytes: bytes, ..size });
    let resize = |revision: u64, vcpus, ticket| {
        let size = SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
        let resize = ResizeJob { revision: Revision(revision), size, ticket, run: None };
        Request::Resize { job: job_id("web-1"), resize }
    };
    obeys(&mut bench, 2, at_most(1));
    assert_eq!(rule(bench.ask(ask("web-1", 2, spec(3), Action::Resize))), "vm_max");
    let grown = memory(2 << 30).unwrap();
    assert!(bench.ask(ask("web-1", 2, grown, Action::Resize)).is_ok(), "its CPUs stay");
    // The same size under another ticket is no growth either.
    assert!(bench.ask(ask("web-1", 2, spec(2), Action::Resize)).is_ok());
    bench.ask(resize(2, 1, None)).unwrap();
    let given_up = DomainInfo {
        resources: Resources { vcpus: 1, memory_bytes: 1 << 30, disk_bytes: 0 },
        ..domain("web-1", DomainState::Running)
    };
    let domain = Box::new(given_up);
    bench.end_work(WorkOutcome::Resized {
        domain,
        devices: vec![],
        left: vec![],
        is_giving: false,
    });
    let job = bench.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert!(job.resize.is_none_or(|resize| resize.stage != ResizeStage::Changing));
    assert_eq!(rule(bench.ask(ask("web-1", 3, spec(2), Action::Resize))), "vm_max");
}

/// Without trust there is no document, and nobody's rules.
#[test]
fn a_lone_host_knows_no_policy() {
    let mut bench = Bench::lone();
    assert!(bench.put("web-1", body(1, 4, None)).is_ok());
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("web-1"), JobState::Running);
}
