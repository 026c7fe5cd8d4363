//! Forgetting: what goes by count, age and bytes, and what never goes.

use hypervisor::StopReason;
use protocol::history::{AGE_MS_MIN, HistoryConfig};
use protocol::id::Cursor;
use protocol::job::{JobKind, OneOff};
use protocol::vm::DiskSpec;

use super::*;

fn limits(version: u64) -> HistoryConfig {
    HistoryConfig { version, ..HistoryConfig::default() }
}

fn one_off() -> JobSpec {
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    let kind = JobKind::OneOff(OneOff { vm, deadline_ms: 60_000, idle_ms: None });
    JobSpec { kind, ..spec(1) }
}

impl Bench {
    fn remember(&mut self, config: HistoryConfig) {
        assert_eq!(self.ask(Request::History(config)), Ok(Reply::Done));
    }

    /// A one-off job that runs and ends.
    fn live_through(&mut self, name: &str) {
        self.put(name, PutJob { spec: one_off(), ..body(1, 1, None) }).unwrap();
        self.end_work(WorkOutcome::Done);
        let seen = domain(name, DomainState::ShutOff(StopReason::Shutdown));
        let look = self.look(seen.uuid, true);
        self.tell(Input::Looked { look, domain: Some(seen) });
        self.end_work(WorkOutcome::Exited(Some(0)));
        assert_eq!(self.state(name), JobState::Stopped);
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.tell(Input::Tick);
    }

    /// Carries out every forgetting under way; which jobs are gone.
    fn forget(&mut self) -> Vec<String> {
        let mut gone = Vec::new();
        for (job, work, what) in std::mem::take(&mut self.works) {
            assert_eq!(what, Work::Delete, "nothing else is done to {job}");
            gone.push(job.to_string());
            self.tell(Input::Done { job, work, outcome: WorkOutcome::Done });
        }
        gone
    }

    fn names(&self) -> Vec<String> {
        self.agent.inventory().jobs.iter().map(|job| job.id.to_string()).collect()
    }
}

/// A lone host where these have ended, a second after each other.
fn ended(names: &[&str]) -> Bench {
    let mut bench = Bench::lone();
    for name in names {
        bench.now.mono_ms += 1_000;
        bench.live_through(name);
    }
    bench
}

#[test]
fn the_oldest_go_when_there_are_too_many_and_followers_are_told() {
    let mut bench = ended(&["z", "b", "a"]);
    bench.remember(HistoryConfig { jobs: 1, ..limits(1) });
    bench.pass(AGE_MS_MIN);
    bench.events.clear();
    assert_eq!(bench.forget(), ["z", "b"]);
    let gone = |event: &Event| match &event.fact {
        Fact::JobDeleted { job } => Some(job.to_string()),
        _ => None,
    };
    assert_eq!(bench.events.iter().filter_map(gone).collect::<Vec<_>>(), ["z", "b"]);
    assert_eq!(bench.names(), ["a"]);
    assert_eq!(bench.disk.jobs.len(), 1, "the ledger forgets it, too");
    bench.pass(AGE_MS_MIN);
    assert_eq!(bench.forget(), [""; 0]);
}

#[test]
fn what_has_just_ended_is_kept_whatever_the_limits() {
    let mut bench = ended(&["a"]);
    bench.remember(HistoryConfig { jobs: 0, bytes: 0, ..limits(1) });
    bench.pass(AGE_MS_MIN - 1);
    assert_eq!(bench.forget(), [""; 0]);
    bench.pass(1);
    assert_eq!(bench.forget(), ["a"]);
}

#[test]
fn what_is_too_old_goes_and_age_is_counted_anew_after_a_reboot() {
    let age_ms = 3_600_000;
    let mut bench = ended(&["a", "b"]);
    bench.remember(HistoryConfig { age_ms, ..limits(1) });
    bench.pass(age_ms - 1_000);
    assert_eq!(bench.forget(), ["a"]);
    bench.die(false);
    bench.now.mono_ms += 2 * age_ms;
    bench.tell(Input::Domains(vec![]));
    bench.tell(Input::Tick);
    assert_eq!(bench.forget(), ["b"], "the boot clock goes on over the agent's death");

    let mut bench = ended(&["a"]);
    bench.remember(HistoryConfig { age_ms, ..limits(1) });
    bench.disk.boot = "another".to_owned();
    bench.die(true);
    bench.now.mono_ms = age_ms - 1;
    bench.tell(Input::Domains(vec![]));
    bench.tell(Input::Tick);
    assert_eq!(bench.forget(), [""; 0]);
    bench.pass(1);
    assert_eq!(bench.forget(), ["a"]);
}

#[test]
fn the_oldest_go_when_their_rows_take_too_much() {
    let mut bench = ended(&["a", "b", "c"]);
    let row = serde_json::to_vec(&bench.disk.jobs[2]).unwrap().len() as u64;
    bench.remember(HistoryConfig { bytes: 2 * row + row / 2, ..limits(1) });
    bench.pass(AGE_MS_MIN);
    assert_eq!(bench.forget(), ["a"]);
}

#[test]
fn what_is_being_forgotten_is_gone_after_a_crash() {
    let mut bench = ended(&["a"]);
    bench.remember(HistoryConfig { jobs: 0, ..limits(1) });
    bench.pass(AGE_MS_MIN);
    assert_eq!(bench.works.len(), 1);
    bench.die(false);
    bench.tell(Input::Domains(vec![]));
    assert_eq!(bench.forget(), ["a"]);
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn at_most_so_many_are_forgotten_at_a_time_and_all_in_the_end() {
    let mut bench = Bench::lone();
    for n in 0..150 {
        bench.live_through(&format!("j{n}"));
    }
    bench.remember(HistoryConfig { jobs: 10, ..limits(1) });
    bench.pass(AGE_MS_MIN);
    bench.pass(1_000);
    assert_eq!(bench.forget().len(), 64);
    bench.pass(1_000);
    assert_eq!(bench.forget().len(), 64);
    bench.pass(1_000);
    assert_eq!(bench.forget().len(), 12);
    assert_eq!(bench.names().len(), 10);
}

#[test]
fn limits_change_with_their_version_and_outlive_the_agent() {
    let mut bench = Bench::lone();
    let config = HistoryConfig { jobs: 3, ..limits(4) };
    bench.remember(config.clone());
    bench.remember(config.clone());
    let stale = bench.ask(Request::History(HistoryConfig { jobs: 9, ..limits(4) }));
    let conflict = Refusal::ConfigConflict { what: "history".into(), current: 4 };
    assert_eq!(stale, Err(conflict));
    let wrong = bench.ask(Request::History(HistoryConfig { age_ms: 1, ..limits(5) }));
    assert!(matches!(wrong, Err(Refusal::Invalid { .. })));
    bench.die(false);
    assert_eq!(bench.ask(Request::ShowHistory), Ok(Reply::History(config)));
}

/// A row that has ended so long ago that nothing but what it is keeps it.
fn row(change: impl FnOnce(&mut JobRecord)) -> JobRecord {
    let mut record = record("job-1");
    record.job.spec = one_off().into();
    record.job.state = JobState::Stopped;
    record.intent = Intent::Stop { grace_ms: 0 };
    change(&mut record);
    record
}

fn is_forgotten(record: JobRecord) -> bool {
    let history = HistoryConfig { jobs: 0, bytes: 0, ..limits(1) };
    let is_running = record.job.state == JobState::Running;
    let domains = is_running.then(|| domain("job-1", DomainState::Running));
    let jobs = vec![record];
    let disk = LedgerState { epoch: Epoch(2), jobs, history, ..LedgerState::default() };
    let mut bench = Bench::new(HOST, disk);
    bench.tell(Input::Domains(domains.into_iter().collect()));
    bench.pass(AGE_MS_MIN);
    bench.works.retain(|(_, _, work)| *work == Work::Delete);
    !bench.forget().is_empty()
}

fn disk(ephemeral: bool) -> DiskSpec {
    DiskSpec { name: "root".into(), size_bytes: 1 << 20, ephemeral, ..DiskSpec::default() }
}

fn with_disk(record: &mut JobRecord, disk: DiskSpec) {
    let mut spec = JobSpec::clone(&record.job.spec);
    if let JobKind::OneOff(OneOff { vm, .. }) | JobKind::Vm(vm) = &mut spec.kind {
        vm.disks = vec![disk];
    }
    record.job.spec = spec.into();
}

#[test]
fn one_off_jobs_and_starts_that_failed_are_history() {
    assert!(is_forgotten(row(|_| {})));
    assert!(is_forgotten(row(|record| record.job.state = JobState::Crashed)));
    assert!(
        is_forgotten(row(|record| with_disk(record, disk(true)))),
        "its owner needs it no more"
    );
    let failed = |record: &mut JobRecord| {
        record.job.spec = spec(1).into();
        record.job.state = JobState::Failed;
        record.intent = Intent::Run;
    };
    assert!(is_forgotten(row(failed)));
    assert!(is_forgotten(row(|record| {
        failed(record);
        with_disk(record, disk(false));
    })));
}

#[test]
fn nothing_that_something_hangs_on_is_ever_forgotten() {
    let offer = OfferId { epoch: Epoch(1), num: 1 };
    let to = id_of(OTHER);
    let service = r#"{"service": {"role": "monitor"}}"#;
    let kept: Vec<(&str, JobRecord)> = vec![
        ("it runs", row(|r| r.job.state = JobState::Running)),
        ("it stops", row(|r| r.job.state = JobState::Stopping)),
        ("it may be started again", row(|r| r.job.spec = spec(1).into())),
        (
            "it ran before it failed",
            row(|r| {
                r.job.spec = spec(1).into();
                r.job.state = JobState::Failed;
                r.job.revision = Revision(2);
            }),
        ),
        (
            "its service has a store",
            row(|r| {
                r.job.spec = serde_json::from_str::<JobSpec>(service).unwrap().into();
                r.job.domain_uuid = None;
            }),
        ),
        ("it has a hold", row(|r| r.job.hold = Some(offer))),
        (
            "arbiters have booked it",
            row(|r| {
                r.debits.insert(0, Resources::ZERO.into());
            }),
        ),
        (
            "its cover is counted from an offer",
            row(|r| {
                r.issued = Some(Issued { boot: "a".into(), at_ms: 1, since: None });
            }),
        ),
        ("its right was lost", row(|r| r.job.reason = Some(Reason::TenureLost { lost: offer }))),
        ("its memory is saved", row(|r| r.job.reason = Some(Reason::Saved))),
        ("it has moved", row(|r| r.job.reason = Some(Reason::Migrated { to: to.clone() }))),
        (
            "its handoff may be asked for",
            row(|r| {
                let (moved_bytes, total_bytes, handoff) = (1, 1, None);
                let to = to.clone();
                let memory = None;
                let sent = Migration::Outgoing { to, moved_bytes, total_bytes, memory, handoff };
                r.job.migration = Some(Box::new(sent));
            }),
        ),
        ("its disk may have been written to", row(|r| with_disk(r, disk(false)))),
        (
            "its disk is in a pool",
            row(|r| {
                let taken = Cursor { epoch: Epoch(1), seq: 1 };
                r.stay = Some(Box::new(Stay { taken, made: true, coming: Coming::Makes }));
            }),
        ),
    ];
    for (why, record) in kept {
        assert!(!is_forgotten(record), "{why}");
    }
}

#[test]
fn what_an_offer_was_made_for_is_kept_while_it_is_open() {
    let history = HistoryConfig { jobs: 0, bytes: 0, ..limits(1) };
    let jobs = vec![row(|_| {})];
    let disk = LedgerState { epoch: Epoch(2), jobs, history, ..LedgerState::default() };
    let mut bench = Bench::new(HOST, disk);
    bench.tell(Input::Domains(vec![]));
    bench.now.mono_ms = 1_000;
    assert_eq!(bench.ask(Request::Trust(trust())), Ok(Reply::Done));
    bench.now.mono_ms = AGE_MS_MIN;
    let ask = OfferRequest {
        job: job_id("job-1"),
        revision: Revision(2),
        spec: one_off(),
        action: Action::Start,
        finds_disks: false,
    };
    assert!(matches!(bench.ask(Request::Offer(ask)), Ok(Reply::Offered(_))));
    bench.pass(1_000);
    assert_eq!(bench.forget(), [""; 0]);
    bench.pass(TERM_MS);
    assert_eq!(bench.forget(), ["job-1"]);
}
