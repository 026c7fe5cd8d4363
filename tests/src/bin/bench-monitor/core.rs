//! Benchmarks without sockets: the merge core against bare decode-and-insert, and the memory of a
//! view against compact records.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

use monitor::check::check;
use monitor::core::{Core, Effect, Input, Source, Wanted};
use monitor::packed::PackedView;
use protocol::event::{Fact, Frame};
use protocol::host::Inventory;
use protocol::id::{Cursor, HostId, JobId};
use protocol::job::Job;
use serde_json::json;
use transport::stream::Encoded;

use crate::process::{self, Process};
use crate::world;

/// Events of one round; rounds alternate and the best of each kind counts.
const EVENTS: usize = 100_000;
const ROUNDS: usize = 3;

/// Events between two publications: the writer publishes the view once a second, and for who asks.
const PUBLISH_EVERY: usize = 10_000;

/// Merge against decode-and-insert, in CPU time of one thread.
pub(crate) fn merge(hosts: usize, jobs: usize) -> serde_json::Value {
    let mut core = Core::new(0);
    let mut out = Vec::new();
    let inventories: Vec<_> = (0..hosts).map(|n| world::inventory(n, jobs)).collect();
    let ids: Vec<HostId> = inventories.iter().map(|i| i.host.id.clone()).collect();
    let sources = ids.iter().cloned().map(Source::Host).collect();
    let wanted = Wanted { sources, roster: None, retired: Default::default(), is_settled: true };
    core.handle(0, Input::Wanted(wanted), &mut out);
    let mut table: HashMap<(HostId, JobId), (Cursor, Job)> = HashMap::new();
    let mut hosts_known = Vec::new();
    for inventory in inventories {
        hosts_known.push(inventory.host.clone());
        let source = Source::Host(inventory.host.id.clone());
        for job in &inventory.jobs {
            let key = (inventory.host.id.clone(), job.id.clone());
            table.insert(key, (inventory.cursor, job.clone()));
        }
        core.handle(0, Input::Opened { source: source.clone(), url: "https://a".into() }, &mut out);
        let frame = Frame::Inventory(Box::new(inventory));
        core.handle(0, Input::Frame { source, frame }, &mut out);
    }
    out.clear();
    let (mut ours, mut bare, mut decode) = (f64::MAX, f64::MAX, f64::MAX);
    let mut cursor: Vec<Cursor> =
        hosts_known.iter().map(|host| core.cursor(&host.id).expect("known")).collect();
    for round in 0..ROUNDS {
        let texts: Vec<(usize, Encoded)> = (0..EVENTS)
            .map(|i| {
                // A stride that visits all hosts in no helpful order.
                let n = (i * 7_919) % hosts;
                let (event, _) = world::event(n, &hosts_known[n], cursor[n], i % jobs);
                cursor[n] = event.cursor;
                (n, Encoded::of(&Frame::Event(event)))
            })
            .collect();
        let sources: Vec<Source> = ids.iter().cloned().map(Source::Host).collect();
        let begin = cpu_us();
        for (_, text) in &texts {
            black_box(text.parse::<Frame>().expect("a frame"));
        }
        decode = decode.min(per_event(begin));
        let begin = cpu_us();
        for (_, text) in &texts {
            let Frame::Event(event) = text.parse::<Frame>().expect("a frame") else { continue };
            if let Fact::JobChanged { job } = event.fact {
                table.insert((event.host, job.id.clone()), (event.cursor, *job));
            }
        }
        bare = bare.min(per_event(begin));
        let begin = cpu_us();
        let mut merged = 0;
        for (batch, texts) in texts.chunks(PUBLISH_EVERY).enumerate() {
            for (n, text) in texts {
                let frame: Frame = text.parse().expect("a frame");
                let source = sources[*n].clone();
                check(&source, &frame).expect("honest");
                core.handle(1 + batch as u64, Input::Frame { source, frame }, &mut out);
                merged += out.iter().filter(|e| matches!(e, Effect::PassOn)).count();
                out.clear();
            }
            // As the writer does: what is published is shared, so the next change copies.
            black_box(core.view().clone());
        }
        ours = ours.min(per_event(begin));
        assert_eq!(merged, EVENTS, "round {round}: every event was news");
    }
    pauses(&mut core, &ids);
    json!({
        "name": "M1_merge_core", "hosts": hosts, "jobs": hosts * jobs,
        "value": (1e6 / ours).round(), "unit": "events/s per core",
        "us_per_event": round2(ours), "baseline_us": round2(bare),
        "decode_only_us": round2(decode),
        "baseline": "decode and insert into a HashMap, same texts",
        "ratio": round2(bare / ours), "n": EVENTS * ROUNDS, "target": 0.25,
    })
}

/// What keeps the writer from everything else at a stretch, at the worst of some tries.
fn pauses(core: &mut Core, ids: &[HostId]) {
    let mut out = Vec::new();
    let mut longest = |name: &str, work: &mut dyn FnMut(&mut Core)| {
        let times = (0..9).map(|_| {
            let begin = cpu_us();
            work(core);
            cpu_us() - begin
        });
        (name.to_owned(), times.max().unwrap_or_default())
    };
    let mut now_ms = 100_000;
    let tick = longest("tick_us", &mut |core| {
        now_ms += 250;
        core.handle(now_ms, Input::Tick, &mut out);
        out.clear();
    });
    let alive = longest("alive_64_us", &mut |core| {
        for host in &ids[..64.min(ids.len())] {
            core.handle(now_ms, Input::Alive { source: Source::Host(host.clone()) }, &mut out);
        }
    });
    let statuses = longest("statuses_us", &mut |core| drop(black_box(core.statuses())));
    let ages = longest("ages_us", &mut |core| drop(black_box(core.ages(now_ms))));
    let value = [&tick, &alive, &statuses].map(|(_, us)| *us).into_iter().max();
    let mut line = json!({ "name": "writer_pause", "hosts": ids.len(), "value": value,
        "unit": "us at a stretch" });
    for (name, us) in [tick, alive, statuses, ages] {
        line[name] = us.into();
    }
    println!("{line}");
}

fn per_event(begin_us: u64) -> f64 {
    (cpu_us() - begin_us) as f64 / EVENTS as f64
}

/// CPU time of this thread alone.
fn cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000).expect("never negative")
}

/// What a record of a job is at least: 32 bytes under a number.
#[derive(Clone, Copy)]
struct Compact(#[expect(dead_code, reason = "only its size counts")] [u64; 4]);

/// In a process of its own: builds a view or compact records, and says how much memory it took.
pub(crate) fn hold(kind: &str, hosts: usize, jobs: usize) {
    let before = process::memory_bytes("self");
    let mut view = PackedView::default();
    let mut compact: BTreeMap<u64, HashMap<u64, Compact>> = BTreeMap::new();
    for n in 0..hosts {
        if kind.starts_with("view") {
            // Through the wire, as a monitor has it.
            let text = Encoded::of(&world::inventory(n, jobs));
            let mut inventory: Inventory = text.parse().expect("an inventory");
            if kind == "view-of-distinct" {
                for (j, job) in inventory.jobs.iter_mut().enumerate() {
                    job.spec = world::spec_of_its_own(n * jobs + j).into();
                }
            }
            view.merge_inventory(inventory);
        } else {
            let records = (0..jobs as u64).map(|j| (j, Compact([j; 4]))).collect();
            compact.insert(n as u64, records);
        }
    }
    println!("{}", process::memory_bytes("self") - before);
    black_box((&view, &compact));
}

/// Memory of a monitor's view per host, against compact records: with one spec for all jobs, and with
/// a spec of its own for each.
pub(crate) fn memory(hosts: usize, jobs: usize) -> [serde_json::Value; 2] {
    let bytes = |kind: &str| {
        let words = ["--hold", kind, &hosts.to_string(), &jobs.to_string()];
        let (_process, line) = Process::start(&words.map(str::to_owned));
        line.parse::<u64>().expect("a number") as f64 / hosts as f64
    };
    let compact = bytes("compact");
    let line = |name: &str, view: f64| {
        json!({
            "name": name, "hosts": hosts, "jobs": hosts * jobs,
            "value": view.round(), "unit": "bytes/host",
            "bytes_per_job": (view / jobs as f64).round(),
            "size_of_job": size_of::<Job>(), "size_of_host": size_of::<protocol::host::Host>(),
            "baseline": "HashMap<u64, 32 bytes> per host", "baseline_bytes": compact.round(),
            "ratio": round2(view / compact), "n": hosts, "target": 6.0,
        })
    };
    [
        line("M2_view_memory", bytes("view")),
        line("M2_view_memory_distinct", bytes("view-of-distinct")),
    ]
}

pub(crate) fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
