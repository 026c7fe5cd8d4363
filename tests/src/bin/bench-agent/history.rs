//! History: a hundred thousand jobs that have ended, through the agent's core and its ledger; then how
//! large both are, and how long a start takes.

use std::path::Path;
use std::time::Instant;

use host_agent::core::{
    Agent, Birth, CpuLayout, Effect, Input, Look, Reply, ReplyId, Request, WorkOutcome, Write,
};
use host_agent::store::{FileShelf, Store, Twin};
use hypervisor::{DomainInfo, DomainState, StopReason};
use protocol::cpus::DedicatedCpus;
use protocol::host::{Accel, Host, HypervisorFacts};
use protocol::id::{HostId, JobId};
use protocol::job::{JobKind, JobSpec, OneOff};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use serde_json::json;
use transport::Now;

use crate::agent::{self, body, in_memory, spec};
use crate::measure::{Figure, load};
use crate::process;

const JOBS: usize = 100_000;
/// Ended at a time; an agent takes 32 starts at a time.
const AT_ONCE: usize = 25;

struct Bench {
    agent: Agent,
    store: Store,
    now: Now,
}

/// What a batch of inputs wants done, but for what is written.
#[derive(Default)]
struct Wanted {
    works: Vec<(JobId, host_agent::core::WorkId)>,
    looks: Vec<Look>,
}

fn host(key: &SecretKey) -> Host {
    let hypervisor = HypervisorFacts {
        uri: "bench".into(),
        driver: "BENCH".into(),
        libvirt_version: "0".into(),
        accel: Accel::None,
        accel_reason: None,
        can_receive: true,
        can_guard: true,
    };
    let all = u64::MAX / 2;
    let capacity = Resources { vcpus: u32::MAX / 2, memory_bytes: all, disk_bytes: all };
    Host {
        id: HostId::of(&key.public()),
        key: key.public(),
        name: "bench".into(),
        urls: vec![],
        agent_version: "0".into(),
        hypervisor,
        capacity,
        allocation: Resources::ZERO,
        hugepages: [].into(),
        dedicated_cpus: DedicatedCpus::NONE,
        images: [].into(),
        pools: [].into(),
        networks: None,
        labels: [].into(),
        trust_version: None,
        intent: None,
    }
}

fn one_off() -> JobSpec {
    let vm = spec().as_vm().expect("a VM").clone();
    let kind = JobKind::OneOff(OneOff { vm, deadline_ms: 60_000, idle_ms: None });
    JobSpec { kind, ..spec() }
}

fn domain(id: &JobId, state: DomainState) -> DomainInfo {
    DomainInfo {
        uuid: id.domain_uuid(),
        name: id.to_string(),
        state,
        job: Some(id.clone()),
        resources: spec().resources(),
        memory_now_bytes: spec().resources().memory_bytes,
        page_size: None,
        is_persistent: true,
    }
}

impl Bench {
    fn open(folder: &Path) -> Self {
        let (store, ledger, _) = Store::open(&FileShelf::new(folder), "boot", 0).expect("a ledger");
        let key = SecretKey::from_seed([7; 32]);
        let host = host(&key);
        let agent = Agent::new(Birth { key, host, layout: CpuLayout::default(), ledger });
        let mut bench = Self { agent, store, now: Now { mono_ms: 1_000_000, wall_ms: 1 } };
        bench.tell(vec![Input::Domains(vec![])]);
        bench
    }

    /// As the agent's shell: a batch, and one transaction for it.
    fn tell(&mut self, inputs: Vec<Input>) -> Wanted {
        let mut effects = Vec::new();
        for input in inputs {
            self.agent.handle(self.now, input, &mut effects);
        }
        let (mut writes, mut wanted): (Vec<Write>, Wanted) = Default::default();
        for effect in effects {
            match effect {
                Effect::Persist(write) => writes.push(write),
                Effect::Work { job, id, .. } => wanted.works.push((job, id)),
                Effect::Look(look) => wanted.looks.push(look),
                Effect::Reply(_, answer) => assert!(matches!(answer, Ok(Reply::Accepted(_)))),
                _ => {}
            }
        }
        self.store.commit(&writes).expect("it is written");
        wanted
    }

    fn done(&mut self, wanted: Wanted, outcome: impl Fn() -> WorkOutcome) -> Wanted {
        let done = |(job, work)| Input::Done { job, work, outcome: outcome() };
        self.tell(wanted.works.into_iter().map(done).collect())
    }

    /// Some jobs from their coming to their end, and what is forgotten in their place.
    fn live_through(&mut self, from: usize) {
        let ids: Vec<JobId> = (from..from + AT_ONCE)
            .map(|n| JobId::new(format!("job-{n}")).expect("a name"))
            .collect();
        let put = |job: &JobId| {
            let put = protocol::api::PutJob { spec: one_off(), ..body() };
            let request = Box::new(Request::Put { job: job.clone(), put });
            Input::Request { reply: ReplyId(0), request }
        };
        let begun = self.tell(ids.iter().map(put).collect());
        self.done(begun, || WorkOutcome::Done);
        let off: Vec<DomainInfo> =
            ids.iter().map(|id| domain(id, DomainState::ShutOff(StopReason::Shutdown))).collect();
        let looked = self.tell(vec![Input::Domains(off.clone())]);
        let second = looked.looks.into_iter().map(|look| {
            let domain = off.iter().find(|domain| domain.uuid == look.uuid).cloned();
            Input::Looked { look, domain }
        });
        let reading = self.tell(second.collect());
        self.done(reading, || WorkOutcome::Exited(Some(0)));
        self.now.mono_ms += 2_000;
        let forgetting = self.tell(vec![Input::Tick]);
        self.done(forgetting, || WorkOutcome::Done);
    }
}

pub(crate) fn run() {
    let load_before = load();
    let folder = in_memory();
    std::fs::create_dir_all(folder.path().join("data")).expect("a folder");
    let data = folder.path().join("data");
    let mut bench = Bench::open(&data);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let size = || -> u64 {
        let size =
            |twin: Twin| std::fs::metadata(data.join(twin.name())).map_or(0, |file| file.len());
        Twin::ALL.into_iter().map(size).sum()
    };
    let mut marks = Vec::new();
    for from in (0..JOBS).step_by(AT_ONCE) {
        bench.live_through(from);
        let ended = from + AT_ONCE;
        if ended == JOBS / 10 || ended == JOBS {
            marks.push((process::memory_bytes("self"), size(), bench.agent.inventory().jobs.len()));
        }
    }
    let [(memory_10k, size_10k, _), (memory, size_all, remembered)] = marks[..] else {
        panic!("two marks")
    };
    drop(bench);
    let begin = Instant::now();
    let again = Bench::open(&data);
    let opened_ms = begin.elapsed().as_secs_f64() * 1e3;
    assert_eq!(again.agent.inventory().jobs.len(), remembered);
    drop(again);
    let begin = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let agent = runtime.block_on(agent::Agent::start(folder.path(), "fake"));
    let started_ms = begin.elapsed().as_secs_f64() * 1e3;
    drop(agent);
    let more = json!({
        "ended": JOBS, "remembered": remembered, "ledger_ms": opened_ms.round(),
        "ledger_mib": mib(size_all).round(), "ledger_mib_at_10000": mib(size_10k).round(),
    });
    Figure {
        name: "history_start",
        value: started_ms,
        unit: "ms until the agent answers",
        baseline: 2_000.0,
        target: "<= 1",
        load_before,
    }
    .print(&more);
    Figure {
        name: "history_memory",
        value: mib(memory),
        unit: "MiB after 100 000 ended jobs",
        baseline: mib(memory_10k),
        target: "<= 1.1: of what it was after 10 000",
        load_before,
    }
    .print(&more);
}
