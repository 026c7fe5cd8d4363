//! What is done for one command, followed over processes and hosts down to libvirt.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tests::collector::{Collector, Trace};
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

/// Spans are gathered for a second before they are sent.
const LIMIT: Duration = Duration::from_secs(20);

/// The way of `ostler run`, as far as names do not depend on who runs what; tasks name their host.
const WAY: [&str; 9] = [
    "ostler run",
    "POST /v1/runs",
    "POST /v1/runs",
    "run: run",
    "put web-1 on",
    "PUT /v1/jobs/web-1",
    "PUT /v1/jobs/{id}",
    "work: start_vm",
    "libvirt: start",
];

#[test]
fn lab_a_run_is_one_trace_from_the_command_to_libvirt() {
    let Some(lab) = Lab::up("lab_a_run_is_one_trace_from_the_command_to_libvirt", 3) else {
        return;
    };
    let mut operator = Operator::new();
    let url = operator.discover(&lab.operator_address());
    let collector = Collector::listen(&lab.operator_address());
    let otlp = collector.url();
    for host in lab.hosts() {
        lab.start_agent_with(&host, &url, &["--otlp", &otlp]);
    }
    operator.must(&["bootstrap", "--discovery", &url, "-n", "3", "--arbiters", "3"]);
    operator.import_guest();
    operator.must(&["run", "guest", "--name", "idle", "--memory", "128MiB"]);

    // The run was nobody's who collects, and is a trace that its controller has begun.
    let idle = whole(&collector, "run: run", |trace| named(trace, "libvirt: start"));
    assert!(idle.spans().all(|span| span.service != "ostler"), "{idle:#?}");
    assert_eq!(collector.count(), 1, "following, reading and upkeep are in no trace");

    operator.must(&["run", "guest", "--name", "web-1", "--memory", "128MiB", "--otlp", &otlp]);
    let host = operator.await_state("web-1", "running");
    let trace = whole(&collector, "ostler run", |trace| {
        named(trace, "libvirt: start") && trace.hosts("ostler-arbiter", "POST /v1/grants").len() > 1
    });
    let start = trace.spans().find(|span| span.name == "libvirt: start").expect("it has come");
    let way = trace.way_to(start);
    assert_eq!(way.len(), WAY.len(), "{way:#?}");
    assert!(way.iter().zip(WAY).all(|(name, begins)| name.starts_with(begins)), "{way:#?}");
    let agents = trace.hosts("ostler-agent", "POST /v1/offers");
    assert_eq!((agents, &start.host), ([host.as_str()].into(), &host));
    assert_eq!(trace.hosts("ostler-controller", "plan").len(), 1);
    assert_eq!(collector.count(), 2, "all that was done for it is in its trace");

    let target = lab.hosts().into_iter().find(|other| *other != host).expect("another host");
    operator.must(&["migrate", "web-1", &target, "--otlp", &otlp]);
    let works = [
        ("libvirt: migrate", host.as_str()),
        ("work: prepare_incoming", &target),
        ("work: take_over", &target),
        ("work: delete", &host),
    ];
    let trace = whole(&collector, "ostler migrate", |trace| {
        works.iter().all(|(name, _)| named(trace, name))
    });
    for (name, host) in works {
        assert_eq!(trace.hosts("ostler-agent", name), [host].into(), "{name}");
    }

    drop(collector);
    without_a_collector_all_goes_on(&operator, &otlp);
}

/// It costs spans, which every role counts.
fn without_a_collector_all_goes_on(operator: &Operator, otlp: &str) {
    operator.must(&["run", "guest", "--name", "web-2", "--memory", "128MiB", "--otlp", otlp]);
    operator.await_state("web-2", "running");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut round = 0;
    until("every role to tell of spans that were lost", LIMIT, || {
        round += 1;
        let tell = lost(operator, &folder.path().join(round.to_string()));
        is(tell.iter().eq(["agent", "arbiter", "controller", "monitor"]), tell)
    });
}

/// The roles that tell of spans which no collector has taken.
fn lost(operator: &Operator, bundle: &Path) -> BTreeSet<String> {
    let about = operator.json(&["bundle", &bundle.to_string_lossy()]);
    let answers = about["answers"].as_array().cloned().unwrap_or_default();
    let metrics = answers.iter().filter(|answer| answer["path"] == "/metrics");
    let files = metrics.map(|answer| bundle.join(answer["file"].as_str().expect("a file")));
    let texts = files.map(|file| std::fs::read_to_string(file).expect("it is there"));
    let role_of = |text: String| {
        text.lines().find_map(|line| {
            let (role, rest) = line.strip_prefix("ostler_")?.split_once('_')?;
            let number = rest.strip_prefix("trace_spans_total{fate=\"undelivered\"} ")?;
            (number != "0.0").then(|| role.to_owned())
        })
    };
    texts.filter_map(role_of).collect()
}

fn named(trace: &Trace, name: &str) -> bool {
    trace.spans().any(|span| span.name == name)
}

/// The trace that begins like this, once it is so and nothing is missing between its spans.
fn whole(collector: &Collector, root: &str, is_so: impl Fn(&Trace) -> bool) -> Trace {
    let (trace, _) = until(&format!("the whole trace of {root}"), LIMIT, || {
        let trace = collector.trace(root).ok_or("nothing of it".to_owned())?;
        match is_so(&trace) && trace.orphans().is_empty() {
            true => Ok(trace),
            false => Err(format!("{trace:#?}")),
        }
    });
    trace
}
