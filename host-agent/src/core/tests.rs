//! The agent's core as scripts: what is told, what comes out; and crashes between any two effects.

use std::collections::BTreeMap;

use hypervisor::{
    CpuPlace, DomainEvent, DomainInfo, DomainState, Lifecycle, PauseReason, StopReason,
};
use protocol::api::{MigrateJob, OfferRequest, PutJob, StopJob};
use protocol::event::{Event, Fact};
use protocol::host::{Host, HostIntent, HypervisorFacts};
use protocol::id::{ClusterId, Epoch, HostId, JobId, OfferId, Revision, RunId, TenantId};
use protocol::job::{Job, JobSpec, JobState, Migration, Pace, Reason, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Action, Grant, Handoff, Offer, Ticket, TicketError};
use protocol::trust::{KILL_MS, Slot, TERM_MS, Trust};
use protocol::vm::VmSpec;
use transport::Now;

use super::*;

mod one_off;

mod addresses;

mod networks;

mod adopting;

mod restarts;

mod tenure;

mod images;

mod resizing;

mod snapshots;

mod agreeing;

mod budgets;
mod fencing;

mod history;

mod cpus;
mod hugepages;
mod pools;

mod table;

mod policy;
mod protecting;
mod ranking;

const OPERATOR: u8 = 1;
const ARBITER: u8 = 2;
const HOST: u8 = 10;
const OTHER: u8 = 11;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn id_of(n: u8) -> HostId {
    HostId::of(&key(n).public())
}

fn job_id(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn spec(vcpus: u32) -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus,
        memory_bytes: 1 << 30,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

pub(crate) fn record(name: &str) -> JobRecord {
    let id = job_id(name);
    let job =
        Job { domain_uuid: Some(id.domain_uuid()), ..Job::of(id, spec(1), JobState::Running) };
    let (debits, issued, tally) = (BTreeMap::new(), None, Tally::default());
    JobRecord {
        job,
        intent: Intent::Run,
        debits,
        issued,
        tally,
        last_resize: None,
        leaving: None,
        last_revert: None,
        stay: None,
        cpus: vec![],
        penned: false,
        deletes_shared: false,
        restores: false,
        ended: None,
    }
}

fn host(n: u8) -> Host {
    Host {
        name: format!("h{n}"),
        agent_version: "0".into(),
        hypervisor: HypervisorFacts {
            uri: "fake".into(),
            driver: "FAKE".into(),
            libvirt_version: "0".into(),
            can_receive: true,
            can_guard: true,
            ..HypervisorFacts::default()
        },
        capacity: Resources { vcpus: 4, memory_bytes: 8 << 30, disk_bytes: 8 << 30 },
        ..Host::of_key(key(n).public())
    }
}

fn trust() -> Signed<Trust> {
    let trust = Trust {
        version: 1,
        operators: vec![key(OPERATOR).public()],
        arbiters: vec![Slot { slot: 0, key: key(ARBITER).public(), url: String::new() }],
        roster: vec![key(HOST).public(), key(OTHER).public()],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    Signed::seal(&trust, &key(OPERATOR))
}

/// An agent, its disk and its time. Effects are kept until somebody looks.
struct Bench {
    agent: Agent,
    which: u8,
    layout: CpuLayout,
    now: Now,
    disk: LedgerState,
    replies: Vec<Result<Reply, Refusal>>,
    works: Vec<(JobId, WorkId, Work)>,
    /// Where the last work of each job puts its guest.
    places: BTreeMap<JobId, CpuPlace>,
    events: Vec<Event>,
    looks: Vec<Look>,
    card_looks: Vec<(JobId, u64)>,
    listens: Vec<JobId>,
    asked_right: usize,
    kept: BTreeMap<protocol::network::NetworkName, NetworkRecord>,
}

impl Bench {
    fn new(which: u8, disk: LedgerState) -> Self {
        Self::divided(which, CpuLayout::default(), disk)
    }

    /// One with its CPUs divided like this.
    fn divided(which: u8, layout: CpuLayout, mut disk: LedgerState) -> Self {
        if disk.boot.is_empty() {
            disk.boot = "a".to_owned();
            disk.boot_of_rows = disk.boot.clone();
        }
        let birth = Birth {
            key: key(which),
            host: host(which),
            layout: layout.clone(),
            ledger: disk.clone(),
        };
        Self {
            agent: Agent::new(birth),
            which,
            layout,
            now: Now { mono_ms: 1_000_000, wall_ms: 5 },
            disk,
            replies: vec![],
            works: vec![],
            places: BTreeMap::new(),
            events: vec![],
            looks: vec![],
            card_looks: vec![],
            listens: vec![],
            asked_right: 0,
            kept: BTreeMap::new(),
        }
    }

    /// A host without trust that has listed no domains.
    fn lone() -> Self {
        let mut bench = Self::new(HOST, LedgerState { epoch: Epoch(1), ..LedgerState::default() });
        bench.tell(Input::Domains(vec![]));
        bench
    }

    fn trusted(which: u8) -> Self {
        let mut bench = Self::new(which, LedgerState { epoch: Epoch(1), ..LedgerState::default() });
        bench.tell(Input::Domains(vec![]));
        assert_eq!(bench.ask(Request::Trust(trust())), Ok(Reply::Done));
        bench
    }

    fn tell(&mut self, input: Input) {
        self.feed(input);
        self.check_invariants();
    }

    fn feed(&mut self, input: Input) {
        let mut effects = vec![];
        self.agent.handle(self.now, input, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(write) => write_to(&mut self.disk, write),
            Effect::Reply(_, answer) => self.replies.push(answer),
            Effect::Publish(event) => self.events.push(event),
            Effect::Work { job, id, work, cpus, .. } => {
                self.places.insert(job.clone(), *cpus);
                self.works.push((job, id, work));
            }
            Effect::Look(look) => self.looks.push(look),
            Effect::LookAtCards { job, look, .. } => self.card_looks.push((job, look)),
            Effect::Listen(job) => self.listens.push(job),
            Effect::AskRight => self.asked_right += 1,
            Effect::KeepNetworks => self.kept = self.agent.networks(),
            Effect::TrustChanged(_) | Effect::PoolsChanged(_) => {}
        }
    }

    fn check_invariants(&self) {
        self.agent.jobs.audit();
        let inventory = self.agent.inventory();
        let (allocation, capacity) = (inventory.host.allocation, inventory.host.capacity);
        assert!(allocation.fits_in(capacity), "no_host_promises_more_than_it_has");
        for job in &inventory.jobs {
            let durable = self.disk.jobs.iter().find(|r| r.job.id == job.id);
            assert!(durable.is_some(), "accepted_jobs_survive_restart: {}", job.id);
        }
    }

    fn ask(&mut self, request: Request) -> Result<Reply, Refusal> {
        self.tell(Input::Request { reply: ReplyId(0), request: Box::new(request) });
        self.replies.pop().expect("every request is answered at once")
    }

    fn put(&mut self, name: &str, put: PutJob) -> Result<Reply, Refusal> {
        self.ask(Request::Put { job: job_id(name), put })
    }

    fn offer(&mut self, name: &str, vcpus: u32, action: Action) -> Signed<Offer> {
        let ask = OfferRequest {
            job: job_id(name),
            revision: Revision(1),
            spec: spec(vcpus),
            action,
            finds_disks: false,
        };
        match self.ask(Request::Offer(ask)) {
            Ok(Reply::Offered(offered)) => offered.offer,
            other => panic!("no offer: {other:?}"),
        }
    }

    /// Ends the one piece of work that is under way.
    fn end_work(&mut self, outcome: WorkOutcome) -> Work {
        let (job, work, what) = self.works.pop().expect("something is under way");
        assert!(self.works.is_empty(), "more is under way: {:?}", self.works);
        self.tell(Input::Done { job, work, outcome });
        what
    }

    /// A look begun now.
    fn look(&self, uuid: uuid::Uuid, is_second: bool) -> Look {
        Look { uuid, hint: None, is_second, change: self.agent.change_of(uuid) }
    }

    fn state(&self, name: &str) -> JobState {
        self.agent.job(&job_id(name)).expect("the job is here").job.state
    }

    /// kill -9, and the next life with what was on disk.
    fn die(&mut self, is_rebooted: bool) {
        let mut disk = self.disk.clone();
        disk.epoch = Epoch(disk.epoch.0 + 1);
        if is_rebooted {
            disk.boot.push('b');
        }
        *self = Self::divided(self.which, self.layout.clone(), disk);
    }
}

fn write_to(disk: &mut LedgerState, write: Write) {
    match write {
        Write::Job(record) => {
            disk.jobs.retain(|r| r.job.id != record.job.id);
            disk.jobs.push(*record);
        }
        Write::JobGone(id) => disk.jobs.retain(|r| r.job.id != id),
        Write::Boot(boot) => disk.boot_of_rows = boot,
        Write::Trust(trust) => disk.trust = Some(*trust),
        Write::HostIntent(intent) => disk.host_intent = intent,
        Write::Pools(pools) => disk.pools = *pools,
        Write::History(history) => disk.history = history,
        Write::Claim(run, claim) => {
            disk.claims.retain(|(r, _)| *r != run);
            disk.claims.push((run, claim));
        }
        Write::Agreed(change) => disk.agreed = Some(change),
        Write::Network(record) => {
            disk.networks.retain(|known| known.name != record.name);
            disk.networks.push(*record);
        }
        Write::NetworkGone(name) => disk.networks.retain(|known| known.name != name),
        Write::ClaimGone(run) => disk.claims.retain(|(r, _)| *r != run),
    }
}

fn body(revision: u64, vcpus: u32, ticket: Option<Ticket>) -> PutJob {
    PutJob { ticket, ..PutJob::of(Revision(revision), spec(vcpus)) }
}

fn granted(offer: Signed<Offer>) -> Ticket {
    let debit = offer.open().unwrap().resources;
    let grant = Grant { slot: 0, offer: offer.digest(), debit: debit.into() };
    Ticket { grants: vec![Signed::seal(&grant, &key(ARBITER))], offer }
}

fn domain(name: &str, state: DomainState) -> DomainInfo {
    let job = job_id(name);
    DomainInfo {
        uuid: job.domain_uuid(),
        name: name.into(),
        state,
        job: Some(job),
        resources: Resources { vcpus: 1, memory_bytes: 1 << 30, disk_bytes: 0 },
        memory_now_bytes: 1 << 30,
        page_size: None,
        is_persistent: true,
    }
}

fn refusal(answer: Result<Reply, Refusal>) -> &'static str {
    answer.expect_err("a refusal").name()
}

#[test]
fn a_lone_host_runs_a_job_from_put_to_delete() {
    let mut bench = Bench::lone();
    assert!(matches!(bench.put("web-1", body(1, 1, None)), Ok(Reply::Accepted(_))));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(5) };
    assert!(matches!(bench.ask(stop), Ok(Reply::Accepted(_))));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 5 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    let delete = Request::Delete { job: job_id("web-1"), run: None, shared: false };
    assert!(matches!(bench.ask(delete), Ok(Reply::Accepted(_))));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::Delete);
    assert!(bench.disk.jobs.is_empty());
    let last = bench.events.iter().rev().find(|e| matches!(e.fact, Fact::JobDeleted { .. }));
    assert!(last.is_some());
}

#[test]
fn a_drained_host_takes_nothing_new_and_keeps_what_it_has() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    bench.put("web-1", body(1, 1, Some(ticket))).unwrap();
    bench.end_work(WorkOutcome::Done);
    let late = granted(bench.offer("web-2", 1, Action::Start));
    let told = bench.events.len();
    let drain = || Request::Intend(Some(HostIntent::Drain));
    assert_eq!(bench.ask(drain()), Ok(Reply::Done));
    assert_eq!(bench.ask(drain()), Ok(Reply::Done), "it is so already");
    let newer = Request::Intend(Some(HostIntent::Unknown));
    assert_eq!(refusal(bench.ask(newer)), "invalid", "and stays so");
    let news: Vec<_> = bench.events[told..].iter().map(|event| &event.fact).collect();
    assert!(
        matches!(news[..], [Fact::HostChanged { host }] if host.intent == Some(HostIntent::Drain)),
        "told once: {news:?}"
    );
    assert_eq!(refusal(bench.put("web-2", body(1, 1, Some(late.clone())))), "offer-ended");
    let ask = |action| OfferRequest {
        job: job_id("web-3"),
        revision: Revision(1),
        spec: spec(1),
        action,
        finds_disks: false,
    };
    let come = Action::MigrateIn { from: id_of(OTHER), hold: OfferId::default() };
    for action in [Action::Start, come] {
        assert_eq!(refusal(bench.ask(Request::Offer(ask(action)))), "host-draining");
    }
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert_eq!(refusal(bench.ask(Request::Offer(ask(Action::Start)))), "host-draining");
    assert_eq!(bench.ask(Request::Intend(None)), Ok(Reply::Done));
    bench.offer("web-3", 1, Action::Start);
    bench.die(false);
    assert_eq!(bench.agent.inventory().host.intent, None);
}

#[test]
fn a_lone_host_that_is_drained_starts_nothing_that_is_not_alive() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.ask(Request::Intend(Some(HostIntent::Drain))).unwrap();
    assert_eq!(refusal(bench.put("web-2", body(1, 1, None))), "host-draining");
    assert!(matches!(bench.put("web-1", body(1, 1, None)), Ok(Reply::AlreadySo(_))));
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("web-1", body(2, 1, None))), "host-draining");
}

#[test]
fn events_are_numbered_without_holes() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let numbers: Vec<u64> = bench.events.iter().map(|e| e.cursor.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn the_same_put_twice_is_one_job_and_another_body_is_a_conflict() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    assert!(matches!(bench.put("web-1", body(1, 1, None)), Ok(Reply::AlreadySo(_))));
    assert_eq!(bench.works.len(), 1, "one start");
    assert_eq!(refusal(bench.put("web-1", body(1, 2, None))), "revision-conflict");
    assert_eq!(refusal(bench.put("web-1", body(2, 2, None))), "wrong-state");
}

#[test]
fn what_was_deleted_is_not_made_anew_by_who_starts_it_again() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let again = |revision| PutJob { must_exist: true, ..body(revision, 1, None) };
    bench.ask(Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.put("web-1", again(2)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("web-1"), JobState::Running);
    bench.ask(Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("web-1", again(3))), "no-such-job");
    assert!(bench.agent.job(&job_id("web-1")).is_none() && bench.works.is_empty());
}

#[test]
fn with_trust_nothing_starts_without_a_ticket() {
    let mut bench = Bench::trusted(HOST);
    assert_eq!(refusal(bench.put("web-1", body(1, 1, None))), "ticket-missing");
    let offer = bench.offer("web-1", 1, Action::Start);
    let ungranted = Ticket { offer: offer.clone(), grants: vec![] };
    assert_eq!(refusal(bench.put("web-1", body(1, 1, Some(ungranted)))), "ticket-without-quorum");
    assert!(bench.works.is_empty());
    assert!(bench.put("web-1", body(1, 1, Some(granted(offer)))).is_ok());
    assert_eq!(bench.works.len(), 1);
}

#[test]
fn expired_ticket_starts_nothing() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    // R9: now + K < issued + D.
    bench.now.mono_ms += TERM_MS - KILL_MS;
    assert_eq!(refusal(bench.put("web-1", body(1, 1, Some(ticket)))), "offer-ended");
    assert!(bench.works.is_empty());
}

#[test]
fn a_ticket_works_once_also_over_a_restart() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    bench.put("web-1", body(1, 1, Some(ticket.clone()))).unwrap();
    bench.end_work(WorkOutcome::Done);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    let again = |bench: &mut Bench| {
        let answer =
            bench.ask(Request::Put { job: job_id("web-2"), put: body(1, 1, Some(ticket.clone())) });
        let second = bench.put("web-1", body(2, 1, Some(ticket.clone())));
        (refusal(answer), refusal(second))
    };
    assert_eq!(again(&mut bench), ("ticket-for-other-job", "ticket-for-other-spec"));
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.put("web-1", body(1, 1, Some(ticket.clone())))), "offer-used");
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(refusal(bench.put("web-1", body(1, 1, Some(ticket)))), "offer-unknown");
}

#[test]
fn an_orderly_end_closes_the_hold_and_a_crash_keeps_it() {
    let mut bench = Bench::trusted(HOST);
    let hold = |bench: &Bench| bench.agent.job(&job_id("web-1")).unwrap().job.hold;
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    bench.put("web-1", body(1, 1, Some(ticket))).unwrap();
    bench.end_work(WorkOutcome::Done);
    let off = domain("web-1", DomainState::ShutOff(StopReason::Crashed));
    let look = bench.look(off.uuid, true);
    bench.tell(Input::Looked { look, domain: Some(off) });
    assert_eq!(bench.state("web-1"), JobState::Crashed);
    assert!(hold(&bench).is_some(), "R15: it may be started again under the same hold");
    let on = domain("web-1", DomainState::Running);
    let look = bench.look(on.uuid, true);
    bench.tell(Input::Looked { look, domain: Some(on) });
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!((bench.state("web-1"), hold(&bench)), (JobState::Stopped, None));
}

#[test]
fn an_offer_reserves_room_until_it_ends() {
    let mut bench = Bench::trusted(HOST);
    bench.offer("web-1", 3, Action::Start);
    let ask = |name: &str| {
        Request::Offer(OfferRequest {
            job: job_id(name),
            revision: Revision(1),
            spec: spec(2),
            action: Action::Start,
            finds_disks: false,
        })
    };
    let Err(Refusal::NoCapacity { free, .. }) = bench.ask(ask("web-2")) else {
        panic!("promised twice");
    };
    assert_eq!(free.vcpus, 1);
    bench.now.mono_ms += TERM_MS;
    assert!(matches!(bench.ask(ask("web-2")), Ok(Reply::Offered(_))));
}

#[test]
fn a_start_interrupted_by_a_crash_is_finished_in_the_next_life() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.die(false);
    assert!(bench.works.is_empty(), "nothing is begun before libvirt was asked");
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn agent_death_never_touches_guests() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.die(false);
    assert_eq!(bench.state("web-1"), JobState::Running, "shown from the first inventory on");
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert!(bench.works.is_empty());
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn a_reboot_of_the_host_is_told_as_such() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.die(true);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::ShutOff(StopReason::Unknown))]));
    let job = bench.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert_eq!((job.state, job.reason), (JobState::Crashed, Some(Reason::HostRebooted)));
    assert_eq!(bench.disk.jobs[0].job.state, JobState::Crashed, "and written down");
}

#[test]
fn an_end_behind_our_back_is_believed_at_the_second_look() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let uuid = job_id("web-1").domain_uuid();
    let off = domain("web-1", DomainState::ShutOff(StopReason::Destroyed));
    let first = bench.look(uuid, false);
    bench.tell(Input::Looked { look: first, domain: Some(off.clone()) });
    assert_eq!(bench.state("web-1"), JobState::Running);
    let second = bench.looks.pop().expect("a second look");
    assert!(second.is_second);
    bench.tell(Input::Looked { look: second, domain: Some(off) });
    assert_eq!(bench.state("web-1"), JobState::Crashed);
}

#[test]
fn absence_destroys_nothing() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.tell(Input::Domains(vec![]));
    assert!(bench.works.is_empty(), "a list without the domain is no reason to act");
    assert!(bench.agent.job(&job_id("web-1")).is_some());
}

#[test]
fn domains_of_others_are_shown_counted_and_their_names_are_taken() {
    let mut bench = Bench::lone();
    let mut foreign = domain("legacy", DomainState::Running);
    foreign.job = None;
    foreign.uuid = uuid::Uuid::from_u128(9);
    bench.tell(Input::Domains(vec![foreign.clone()]));
    assert_eq!(bench.agent.inventory().observed.len(), 1);
    assert_eq!(bench.agent.inventory().host.allocation.vcpus, 1);
    assert_eq!(refusal(bench.put("legacy", body(1, 1, None))), "name-taken");
    let look = bench.look(foreign.uuid, false);
    bench.tell(Input::Looked { look, domain: None });
    assert!(bench.agent.inventory().observed.is_empty());
    assert!(bench.works.is_empty());
}

#[test]
fn a_stop_during_the_start_is_done_after_it() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    assert_eq!(bench.state("web-1"), JobState::Stopping);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Stopping);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
}

#[test]
fn a_more_impatient_stop_overtakes_a_patient_one() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let stop = |grace_ms| Request::Stop { job: job_id("web-1"), stop: StopJob::within(grace_ms) };
    bench.ask(stop(30_000)).unwrap();
    assert!(matches!(bench.ask(stop(60_000)), Ok(Reply::AlreadySo(_))));
    bench.ask(stop(0)).unwrap();
    let (job, late, _) = bench.works.remove(0);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 0 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    bench.tell(Input::Done { job, work: late, outcome: WorkOutcome::Done });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
}

/// Source and target of one migration, the target listening.
fn migration() -> (Bench, Bench, MigrateJob) {
    let (mut source, mut target) = (Bench::trusted(HOST), Bench::trusted(OTHER));
    let ticket = granted(source.offer("web-1", 1, Action::Start));
    source.put("web-1", body(1, 1, Some(ticket))).unwrap();
    source.end_work(WorkOutcome::Done);
    let hold = source.agent.job(&job_id("web-1")).unwrap().job.hold.unwrap();
    let action = Action::MigrateIn { from: id_of(HOST), hold };
    let ticket = granted(target.offer("web-1", 1, action));
    target.put("web-1", body(1, 1, Some(ticket))).unwrap();
    let listening = WorkOutcome::Listening { url: "https://10.0.0.2:7460".into() };
    assert!(matches!(target.end_work(listening), Work::PrepareIncoming(_)));
    let job = target.agent.job(&job_id("web-1")).unwrap().job.clone();
    let Some(Migration::Incoming { url, .. }) = job.migration.as_deref().cloned() else {
        panic!("the target is not listening");
    };
    let migrate =
        MigrateJob { to: id_of(OTHER), to_hold: job.hold, url, run: None, pace: Pace::default() };
    (source, target, migrate)
}

fn handoff_of(source: &Bench) -> Signed<Handoff> {
    match source.agent.job(&job_id("web-1")).unwrap().job.migration.as_deref().cloned() {
        Some(Migration::Outgoing { handoff: Some(handoff), .. }) => handoff,
        other => panic!("no handoff: {other:?}"),
    }
}

#[test]
fn a_migration_hands_over_only_after_the_source_has_let_go() {
    let (mut source, mut target, migrate) = migration();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    assert_eq!(target.state("web-1"), JobState::MigratingIn);
    assert!(matches!(
        source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone)),
        Work::SendVm { .. }
    ));
    let job = source.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert_eq!((job.state, job.hold), (JobState::Stopped, None), "M3: the hold is closed");
    let handoff = handoff_of(&source);
    target.ask(Request::Handoff { job: job_id("web-1"), handoff: handoff.clone() }).unwrap();
    assert_eq!(target.end_work(WorkOutcome::Done), Work::TakeOver);
    assert_eq!(target.state("web-1"), JobState::Running);
    let again = target.ask(Request::Handoff { job: job_id("web-1"), handoff });
    assert!(matches!(again, Ok(Reply::AlreadySo(_))), "relaying it twice is harmless");
}

#[test]
fn a_handoff_that_the_source_did_not_sign_is_refused() {
    let (_, mut target, _) = migration();
    let job = target.agent.job(&job_id("web-1")).unwrap().job.clone();
    let forged = Handoff {
        job: job.id.clone(),
        from: id_of(HOST),
        hold: OfferId { epoch: Epoch(1), num: 1 },
        to: id_of(OTHER),
        to_hold: job.hold.unwrap(),
    };
    let forged = Signed::seal(&forged, &key(OTHER));
    assert_eq!(
        refusal(target.ask(Request::Handoff { job: job_id("web-1"), handoff: forged })),
        "invalid"
    );
    assert_eq!(target.state("web-1"), JobState::MigratingIn);
    assert!(target.works.is_empty());
}

#[test]
fn a_migration_that_failed_runs_on_at_the_source() {
    let (mut source, mut target, migrate) = migration();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    let message = "no route".to_owned();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::StillHere { message }));
    assert_eq!(source.state("web-1"), JobState::Running);
    assert!(source.agent.job(&job_id("web-1")).unwrap().job.hold.is_some());
    target.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    assert_eq!(target.end_work(WorkOutcome::Done), Work::Delete);
    assert!(target.disk.jobs.is_empty());
}

#[test]
fn a_sending_interrupted_by_a_crash_is_settled_and_never_begun_again() {
    let (mut source, _, migrate) = migration();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.die(false);
    let paused = DomainState::Paused(PauseReason::Migration);
    source.tell(Input::Domains(vec![domain("web-1", paused)]));
    let unknown = MigrationOutcome::Unknown { message: "libvirt is away".into() };
    assert_eq!(source.end_work(WorkOutcome::Sent(unknown)), Work::SettleSend);
    let why = Some(Reason::Unclear { message: "libvirt is away".into() });
    assert_eq!((source.state("web-1"), reason(&source)), (JobState::MigratingOut, why));
    assert!(source.works.is_empty(), "nothing has changed yet");
    source.tell(Input::Tick);
    assert_eq!(source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone)), Work::SettleSend);
    assert_eq!(source.state("web-1"), JobState::Stopped);
    handoff_of(&source);
}

#[test]
fn a_start_without_a_clear_answer_keeps_its_hold_and_is_asked_for_again() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    bench.put("web-1", body(1, 1, Some(ticket))).unwrap();
    bench.end_work(WorkOutcome::Unclear("no answer within 60s".into()));
    let job = bench.agent.job(&job_id("web-1")).unwrap().job.clone();
    assert_eq!(job.state, JobState::Starting, "an unclear answer is no no");
    assert!(job.hold.is_some() && bench.agent.inventory().host.allocation.vcpus == 1);
    bench.tell(Input::Tick);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn a_guest_that_was_handed_over_is_taken_over_until_that_works_or_it_is_surely_gone() {
    for (outcome, state) in [
        (WorkOutcome::Unclear("libvirt is away".into()), JobState::MigratingIn),
        (WorkOutcome::Failed("busy".into()), JobState::MigratingIn),
        (WorkOutcome::NotThere, JobState::Crashed),
    ] {
        let (mut source, mut target, migrate) = migration();
        source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
        source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
        let handoff = handoff_of(&source);
        target.ask(Request::Handoff { job: job_id("web-1"), handoff }).unwrap();
        assert_eq!(target.end_work(outcome), Work::TakeOver);
        let job = target.agent.job(&job_id("web-1")).unwrap().job.clone();
        assert_eq!(job.state, state);
        assert!(job.hold.is_some(), "nobody else may start it");
        target.tell(Input::Tick);
        assert_eq!(target.works.len(), usize::from(state == JobState::MigratingIn));
    }
}

#[test]
fn a_guest_from_before_trust_is_handed_over_too() {
    let mut source = Bench::lone();
    source.put("web-1", body(1, 1, None)).unwrap();
    source.end_work(WorkOutcome::Done);
    source.ask(Request::Trust(trust())).unwrap();
    let mut target = Bench::trusted(OTHER);
    let action = Action::MigrateIn { from: id_of(HOST), hold: OfferId::default() };
    let ticket = granted(target.offer("web-1", 1, action));
    target.put("web-1", body(1, 1, Some(ticket))).unwrap();
    let (_, _, mut migrate) = migration();
    migrate.to_hold = target.agent.job(&job_id("web-1")).unwrap().job.hold;
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
    let handoff = handoff_of(&source);
    target.works.clear();
    target.ask(Request::Handoff { job: job_id("web-1"), handoff }).unwrap();
}

#[test]
fn a_guest_is_sent_only_to_a_member_with_a_hold_by_plain_addresses() {
    let (mut source, _, good) = migration();
    let refused = |source: &mut Bench, change: fn(&mut MigrateJob)| {
        let mut migrate = good.clone();
        change(&mut migrate);
        refusal(source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }))
    };
    assert_eq!(refused(&mut source, |m| m.to_hold = None), "invalid");
    assert_eq!(refused(&mut source, |m| m.to = id_of(77)), "invalid");
    let evil = |m: &mut MigrateJob| m.url = "https://10.0.0.2:7460/v1/jobs?x".into();
    assert_eq!(refused(&mut source, evil), "invalid");
    assert_eq!(refused(&mut source, |m| m.pace.downtime_ms = Some(0)), "invalid");
    assert_eq!(source.state("web-1"), JobState::Running);
}

#[test]
fn a_look_that_was_overtaken_by_a_change_of_ours_says_nothing() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let uuid = job_id("web-1").domain_uuid();
    let late = bench.look(uuid, true);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.put("web-1", body(2, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.looks.clear();
    let off = domain("web-1", DomainState::ShutOff(StopReason::Shutdown));
    bench.tell(Input::Looked { look: late, domain: Some(off) });
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert_eq!(bench.looks, [bench.look(uuid, false)], "it looks once more");
}

fn say(bench: &mut Bench, what: Lifecycle) {
    let (uuid, name) = (job_id("web-1").domain_uuid(), "web-1".to_owned());
    bench.tell(Input::Domain(DomainEvent { uuid, name, what }));
}

#[test]
fn what_is_said_during_work_is_looked_into_once_it_has_ended() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    let stopped = Lifecycle::Stopped(StopReason::Shutdown);
    for what in [Lifecycle::Defined, stopped, Lifecycle::Undefined] {
        say(&mut bench, what);
    }
    assert_eq!(bench.looks, [], "the start is at it");
    bench.end_work(WorkOutcome::Done);
    let look = bench.look(job_id("web-1").domain_uuid(), false);
    assert_eq!(
        bench.looks,
        [Look { hint: Some(stopped), ..look }],
        "how it ended is not forgotten"
    );
    say(&mut bench, Lifecycle::Resumed);
    assert_eq!(bench.looks.len(), 2, "nothing is at it any more");
}

#[test]
fn what_is_said_during_work_is_looked_into_also_before_more_work_and_after_the_job_is_gone() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    say(&mut bench, Lifecycle::Rebooted);
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.works.len(), 1, "the stop was waiting");
    bench.looks.clear();
    bench.end_work(WorkOutcome::Done);
    let look = bench.look(job_id("web-1").domain_uuid(), false);
    assert_eq!(bench.looks, [Look { hint: Some(Lifecycle::Rebooted), ..look }]);
    bench.looks.clear();
    let delete = Request::Delete { job: job_id("web-1"), run: None, shared: false };
    bench.ask(delete).unwrap();
    say(&mut bench, Lifecycle::Defined);
    bench.end_work(WorkOutcome::Done);
    let look = bench.look(job_id("web-1").domain_uuid(), false);
    assert_eq!(look.change, 0, "it is no job's");
    assert_eq!(bench.looks, [Look { hint: Some(Lifecycle::Defined), ..look }]);
}

#[test]
fn an_end_that_nobody_looked_at_while_work_was_under_way_is_found_after_it() {
    let mut bench = Bench::lone();
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    let uuid = job_id("web-1").domain_uuid();
    assert_eq!(bench.looks, [bench.look(uuid, false)]);
}

#[test]
fn a_stop_does_not_revoke_a_delete() {
    let (_, mut target, _) = migration();
    target.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(9) };
    assert!(matches!(target.ask(stop), Ok(Reply::AlreadySo(_))));
    assert_eq!(target.end_work(WorkOutcome::Done), Work::Delete);
    assert!(target.works.is_empty() && target.disk.jobs.is_empty());
}

#[test]
fn disks_that_were_left_behind_by_a_migration_are_not_started_from() {
    let (mut source, _, migrate) = migration();
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
    let ask = OfferRequest {
        job: job_id("web-1"),
        revision: Revision(2),
        spec: spec(1),
        action: Action::Start,
        finds_disks: false,
    };
    assert_eq!(refusal(source.ask(Request::Offer(ask))), "wrong-state");
}

#[test]
fn a_claim_seen_with_a_refused_request_is_remembered() {
    let mut bench = Bench::lone();
    let run = |claim| Some(RunKey { run: RunId(uuid::Uuid::from_u128(7)), task: 1, claim });
    let refused = bench.put("web-1", PutJob { run: run(2), ..body(1, 99, None) });
    assert_eq!(refusal(refused), "no-capacity");
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    let stale = bench.put("web-1", PutJob { run: run(1), ..body(1, 1, None) });
    assert_eq!(refusal(stale), "stale-claim");
}

#[test]
fn an_engine_that_lost_its_run_changes_nothing() {
    let mut bench = Bench::lone();
    let run = |task, claim| Some(RunKey { run: RunId(uuid::Uuid::from_u128(7)), task, claim });
    bench.put("web-1", PutJob { run: run(1, 2), ..body(1, 1, None) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    let stop = StopJob { run: run(2, 1), ..StopJob::within(0) };
    let stale = bench.ask(Request::Stop { job: job_id("web-1"), stop });
    assert_eq!(refusal(stale), "stale-claim");
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn an_undo_that_arrives_first_keeps_the_task_from_being_done() {
    let mut bench = Bench::lone();
    let run = Some(RunKey { run: RunId(uuid::Uuid::from_u128(7)), task: 3, claim: 1 });
    let undone = bench.ask(Request::Delete { job: job_id("web-1"), run, shared: false });
    assert_eq!(refusal(undone), "no-such-job");
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    let late = bench.put("web-1", PutJob { run, ..body(1, 1, None) });
    assert_eq!(refusal(late), "task-undone");
}

#[test]
fn a_host_that_is_not_on_the_roster_does_not_obey() {
    let stranger = 77;
    let mut bench = Bench::new(stranger, LedgerState { epoch: Epoch(1), ..LedgerState::default() });
    assert_eq!(refusal(bench.ask(Request::Trust(trust()))), "invalid");
    assert!(bench.agent.trust().is_none());
}

#[test]
fn trust_and_holds_survive_a_restart() {
    let mut bench = Bench::trusted(HOST);
    let ticket = granted(bench.offer("web-1", 1, Action::Start));
    bench.put("web-1", body(1, 1, Some(ticket))).unwrap();
    let hold = bench.agent.job(&job_id("web-1")).unwrap().job.hold;
    bench.die(false);
    assert_eq!(bench.agent.trust().map(|t| t.version), Some(1));
    assert_eq!(bench.agent.job(&job_id("web-1")).unwrap().job.hold, hold);
    let missing = bench.put("web-2", body(1, 1, None));
    assert_eq!(missing, Err(Refusal::Ticket { error: TicketError::TicketMissing }));
    assert_eq!(spec(1).tenant, TenantId::default_tenant());
}

fn act(bench: &mut Bench, act: Act) -> Result<Reply, Refusal> {
    bench.ask(Request::Act { job: job_id("web-1"), act })
}

fn running(mut bench: Bench) -> Bench {
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.looks.clear();
    bench
}

fn reason(bench: &Bench) -> Option<Reason> {
    bench.agent.job(&job_id("web-1")).unwrap().job.reason.clone()
}

#[test]
fn a_pause_is_durable_before_it_is_done_and_repeating_it_is_harmless() {
    let mut bench = running(Bench::lone());
    assert!(matches!(act(&mut bench, Act::Pause), Ok(Reply::Accepted(_))));
    assert!(matches!(act(&mut bench, Act::Pause), Ok(Reply::AlreadySo(_))));
    bench.works.clear();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::PauseVm, "the next life does it");
    assert_eq!(bench.state("web-1"), JobState::Paused);
    assert!(matches!(act(&mut bench, Act::Pause), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(act(&mut bench, Act::Reset)), "wrong-state");
    act(&mut bench, Act::Resume).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::ResumeVm);
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert!(matches!(act(&mut bench, Act::Resume), Ok(Reply::AlreadySo(_))));
}

#[test]
fn a_resume_that_overtakes_a_pause_wins() {
    let mut bench = running(Bench::lone());
    act(&mut bench, Act::Pause).unwrap();
    act(&mut bench, Act::Resume).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::PauseVm);
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::ResumeVm);
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn what_somebody_else_has_paused_is_not_resumed_by_us() {
    let mut bench = running(Bench::lone());
    let uuid = job_id("web-1").domain_uuid();
    let look = bench.look(uuid, true);
    let paused = domain("web-1", DomainState::Paused(PauseReason::IoError));
    bench.tell(Input::Looked { look, domain: Some(paused) });
    assert_eq!(bench.state("web-1"), JobState::Paused);
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty());
    act(&mut bench, Act::Resume).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::ResumeVm);
}

#[test]
fn what_can_not_be_paused_goes_on_and_says_why() {
    let mut bench = running(Bench::lone());
    act(&mut bench, Act::Pause).unwrap();
    bench.end_work(WorkOutcome::Failed("no monitor".into()));
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert_eq!(reason(&bench), Some(Reason::ActionFailed { message: "no monitor".into() }));
    assert_eq!(bench.looks.len(), 1, "it may have ended meanwhile");
    bench.tell(Input::Tick);
    assert!(bench.works.is_empty(), "it is not tried for ever");
}

#[test]
fn a_saved_job_frees_memory_and_starts_only_with_the_spec_it_was_saved_with() {
    let mut bench = running(Bench::lone());
    assert!(matches!(act(&mut bench, Act::Save), Ok(Reply::Accepted(_))));
    assert_eq!(bench.state("web-1"), JobState::Stopping);
    assert!(matches!(act(&mut bench, Act::Save), Ok(Reply::AlreadySo(_))));
    bench.works.clear();
    bench.die(false);
    let saved = DomainState::ShutOff(StopReason::Saved);
    bench.tell(Input::Domains(vec![domain("web-1", saved)]));
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::SaveVm, "the next life looks for itself");
    assert_eq!((bench.state("web-1"), reason(&bench)), (JobState::Stopped, Some(Reason::Saved)));
    assert_eq!(bench.agent.inventory().host.allocation, Resources::ZERO);
    assert!(matches!(act(&mut bench, Act::Save), Ok(Reply::AlreadySo(_))));
    assert_eq!(refusal(bench.put("web-1", body(2, 2, None))), "wrong-state");
    bench.put("web-1", body(2, 1, None)).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Failed("busy".into())), Work::RestoreVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Failed);
    // A start that fails has not used it up.
    assert_eq!(refusal(bench.put("web-1", body(3, 2, None))), "wrong-state");
    bench.put("web-1", body(3, 1, None)).unwrap();
    bench.works.clear();
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", saved)]));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::RestoreVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
    // Once it runs, it has.
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.put("web-1", body(4, 2, None)).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
}

/// Found by the simulator: seed 7030850 of the program of commit 2e59014.
#[test]
fn who_is_stopped_while_it_is_saved_starts_anew() {
    let mut bench = running(Bench::lone());
    act(&mut bench, Act::Save).unwrap();
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.works.clear();
    bench.die(false);
    let saved = DomainState::ShutOff(StopReason::Saved);
    bench.tell(Input::Domains(vec![domain("web-1", saved)]));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StopVm { .. }));
    assert_eq!(reason(&bench), Some(Reason::Requested));
    bench.put("web-1", body(2, 2, None)).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
}

#[test]
fn a_job_that_can_not_be_saved_runs_on() {
    let mut bench = running(Bench::lone());
    act(&mut bench, Act::Save).unwrap();
    bench.end_work(WorkOutcome::Failed("no space".into()));
    assert_eq!(bench.state("web-1"), JobState::Running);
    assert!(matches!(reason(&bench), Some(Reason::ActionFailed { .. })));
    assert!(bench.works.is_empty());
}

#[test]
fn a_stop_overtakes_a_reboot_and_two_reboots_are_refused() {
    let mut bench = running(Bench::lone());
    act(&mut bench, Act::Reboot { grace_ms: 9 }).unwrap();
    assert_eq!(refusal(act(&mut bench, Act::Reset)), "busy");
    let (job, reboot, what) = bench.works.pop().unwrap();
    assert_eq!(what, Work::RebootVm { grace_ms: 9 });
    let stop = StopJob::within(5);
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    bench.tell(Input::Done { job, work: reboot, outcome: WorkOutcome::Done });
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 5 });
    assert_eq!(bench.state("web-1"), JobState::Stopped);
}

fn run_key(task: u32) -> Option<RunKey> {
    Some(RunKey { run: RunId(uuid::Uuid::from_u128(7)), task, claim: 1 })
}

#[test]
fn a_copy_of_a_stop_or_delete_that_arrives_late_does_not_touch_the_next_job_of_that_name() {
    let mut bench = Bench::lone();
    let stop = StopJob { run: run_key(0), ..StopJob::within(0) };
    let stop = Request::Stop { job: job_id("web-1"), stop };
    let delete = Request::Delete { job: job_id("web-1"), run: run_key(1), shared: false };
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert!(matches!(bench.ask(stop.clone()), Ok(Reply::Accepted(_))));
    bench.end_work(WorkOutcome::Done);
    assert!(matches!(bench.ask(delete.clone()), Ok(Reply::Accepted(_))));
    bench.end_work(WorkOutcome::Done);
    bench.put("web-1", body(1, 1, None)).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.die(false);
    bench.tell(Input::Domains(vec![domain("web-1", DomainState::Running)]));
    assert!(matches!(bench.ask(stop), Ok(Reply::AlreadySo(_))));
    assert_eq!(bench.state("web-1"), JobState::Running);
    let by_hand = StopJob::within(0);
    bench.ask(Request::Stop { job: job_id("web-1"), stop: by_hand }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.ask(delete)), "no-such-job");
    assert_eq!(bench.state("web-1"), JobState::Stopped, "its disks are another run's");
}

#[test]
fn a_send_that_was_taken_back_or_done_is_not_done_again() {
    let (mut source, _, mut migrate) = migration();
    migrate.run = run_key(4);
    let send = Request::Migrate { job: job_id("web-1"), migrate: migrate.clone(), revision: None };
    source.ask(send.clone()).unwrap();
    let message = "link lost".to_owned();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::StillHere { message }));
    assert!(matches!(source.ask(send), Ok(Reply::AlreadySo(_))), "done once, if in vain");
    assert_eq!(source.state("web-1"), JobState::Running);
    let cancel = Request::CancelMigration { job: job_id("web-1"), run: run_key(5) };
    source.ask(cancel).unwrap();
    migrate.run = run_key(5);
    let late = Request::Migrate { job: job_id("web-1"), migrate, revision: None };
    assert_eq!(refusal(source.ask(late)), "task-undone");
}

#[test]
fn a_name_stays_its_tenants_until_the_job_is_deleted() {
    let mut bench = Bench::lone();
    let of = |tenant: &str| JobSpec {
        tenant: tenant.parse().unwrap(),
        ..JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 64 << 20, ..VmSpec::default() })
    };
    let put = |bench: &mut Bench, revision: u64, tenant: &str| {
        let (revision, spec) = (Revision(revision), of(tenant));
        bench.put("web-1", PutJob::of(revision, spec))
    };
    put(&mut bench, 1, "a").unwrap();
    bench.end_work(WorkOutcome::Done);
    let stop = StopJob::within(0);
    bench.ask(Request::Stop { job: job_id("web-1"), stop }).unwrap();
    bench.end_work(WorkOutcome::Done);
    let said = put(&mut bench, 2, "b").unwrap_err().to_string();
    assert!(said.contains("is tenant a's"), "{said}");
    put(&mut bench, 2, "a").unwrap();
    bench.end_work(WorkOutcome::Done);
}
