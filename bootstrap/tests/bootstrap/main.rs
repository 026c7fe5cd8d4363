//! Bootstrap against fake agents that speak the real protocol over real TLS: what it says when hosts
//! are missing, that a second run changes nothing, that a foreign host stays untouched.
//!
//! The fakes keep jobs and trust in memory; a service they are asked for is a small server that says
//! it is healthy once it has been told of a trust document.

mod fake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bootstrap::{
    BootstrapError, Context, Kind, Layout, Options, Step, StepEvent, StepState, Summary,
};
use fake::FakeAgent;
use protocol::signed::{SecretKey, Signed};
use transport::discovery::{
    BookLimits, ClusterUrl, DiscoveryStore, Source, create_cluster, discovery_router,
};
use transport::{CancellationToken, Client, Clock, Identity, Listen, Server};

struct Operator {
    folder: tempfile::TempDir,
}

impl Operator {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn options(&self, agents: &[&FakeAgent], hosts_min: usize) -> Options {
        let context = Context::at(self.folder.path());
        Options {
            sources: agents.iter().map(|agent| agent.url.parse().unwrap()).collect(),
            hosts_min,
            operator: Arc::new(context.operator().unwrap()),
            context,
            layout: None,
            port_base: None,
            deadline: Duration::from_millis(1500),
            step_deadline: Duration::from_secs(10),
        }
    }

    async fn run(&self, agents: &[&FakeAgent], hosts_min: usize) -> Outcome {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let progress = move |event| sink.lock().unwrap().push(event);
        let result = bootstrap::bootstrap(self.options(agents, hosts_min), progress).await;
        let events = events.lock().unwrap().clone();
        Outcome { result, events }
    }
}

struct Outcome {
    result: Result<Summary, BootstrapError>,
    events: Vec<StepEvent>,
}

impl Outcome {
    fn ends(&self) -> Vec<(String, StepState)> {
        let is_end = |event: &&StepEvent| event.state != StepState::Start;
        self.events.iter().filter(is_end).map(|e| (e.id.to_string(), e.state)).collect()
    }
}

#[tokio::test]
async fn three_hosts_become_a_cluster_and_a_second_run_changes_nothing() {
    let (a, b, c) =
        (FakeAgent::start(1).await, FakeAgent::start(2).await, FakeAgent::start(3).await);
    let operator = Operator::new();
    let first = operator.run(&[&a, &b, &c], 3).await;
    let summary = first.result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.is_changed && summary.trust_version == 1);
    let jobs: Vec<&str> = summary.services.iter().map(|s| s.job.as_str()).collect();
    let expected =
        ["ostler-arbiter-0", "ostler-monitor-0", "ostler-monitor-1", "ostler-controller-0"];
    assert_eq!(jobs, expected);
    let hosts: std::collections::BTreeSet<_> = summary.services.iter().map(|s| &s.host).collect();
    assert_eq!(hosts.len(), 3, "services are spread");
    assert!(first.ends().iter().all(|(_, state)| *state == StepState::Done), "{:?}", first.ends());
    assert!(is_told_of_its_one_arbiter(summary), "{:?}", summary.warnings);

    let puts = a.puts() + b.puts() + c.puts();
    let second = operator.run(&[&a, &b, &c], 3).await;
    let summary = second.result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    assert!(!summary.is_changed && summary.trust_version == 1);
    assert!(second.ends().iter().all(|(_, s)| *s == StepState::Already), "{:?}", second.ends());
    assert_eq!(a.puts() + b.puts() + c.puts(), puts, "no job was asked for again");
    assert!(is_told_of_its_one_arbiter(summary), "{:?}", summary.warnings);
}

fn is_told_of_its_one_arbiter(summary: &Summary) -> bool {
    summary.warnings.iter().any(|warning| warning.contains("one arbiter"))
}

#[tokio::test]
async fn three_arbiters_or_two_hosts_are_no_reason_for_a_warning() {
    let (a, b, c) =
        (FakeAgent::start(1).await, FakeAgent::start(2).await, FakeAgent::start(3).await);
    let three = Layout { arbiters: 3, ..Layout::of_hosts(3) };
    let operator = Operator::new();
    let options = Options { layout: Some(three), ..operator.options(&[&a, &b, &c], 3) };
    let summary = bootstrap::bootstrap(options, |_| {}).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(!is_told_of_its_one_arbiter(&summary), "{:?}", summary.warnings);

    let (d, e) = (FakeAgent::start(4).await, FakeAgent::start(5).await);
    let two = Operator::new().run(&[&d, &e], 2).await.result.unwrap_or_else(|e| panic!("{e}"));
    assert!(!is_told_of_its_one_arbiter(&two), "{:?}", two.warnings);
}

#[tokio::test]
async fn too_few_hosts_are_told_one_by_one_with_reasons() {
    let well = FakeAgent::start(1).await;
    let ill = FakeAgent::start(2).await;
    ill.set_ready(false);
    let gone = FakeAgent::start(3).await;
    gone.stop().await;
    let outcome = Operator::new().run(&[&well, &ill, &gone], 3).await;
    let error = outcome.result.unwrap_err();
    assert_eq!((error.step, error.kind), (Step::WaitHosts, Kind::TimedOut));
    assert!(error.what.starts_with("1 of 3 hosts were ready within 1 s; 3 were found"), "{error}");
    let reason_of = |agent: &FakeAgent| {
        error.reasons.iter().find(|reason| reason.contains(&agent.url)).cloned().unwrap_or_default()
    };
    assert!(reason_of(&ill).contains("waits for libvirt"), "{error}");
    assert!(reason_of(&gone).contains("connection refused"), "{error}");
    assert!(error.next.contains("-n 1"), "{error}");
    assert_eq!(well.puts(), 0, "nothing was changed");
}

#[tokio::test]
async fn a_host_of_another_cluster_is_named_and_left_alone() {
    let (ours, theirs) = (FakeAgent::start(1).await, FakeAgent::start(2).await);
    Operator::new().run(&[&theirs], 1).await.result.unwrap_or_else(|e| panic!("{e}"));
    let puts = theirs.puts();
    let error = Operator::new().run(&[&ours, &theirs], 1).await.result.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    assert!(error.reasons.iter().any(|reason| reason.contains(&theirs.url)), "{error}");
    assert_eq!((ours.puts(), theirs.puts()), (0, puts));
}

/// A host that has fallen into others' hands shows a document that names our operator, and one more.
#[tokio::test]
async fn what_one_host_shows_is_not_signed_anew_unless_an_operator_signed_it() {
    let (well, taken) = (FakeAgent::start(1).await, FakeAgent::start(2).await);
    let operator = Operator::new();
    operator.run(&[&well, &taken], 2).await.result.unwrap_or_else(|e| panic!("{e}"));
    let (_, mut trust) = Context::at(operator.folder.path()).trust().unwrap().unwrap();
    let usurper = SecretKey::from_seed([99; 32]);
    trust.version += 7;
    trust.operators.push(usurper.public());
    taken.shows(&trust, &usurper);
    let puts = well.puts();
    let error = operator.run(&[&well, &taken], 2).await.result.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    let is_named = |reason: &String| reason.contains("not an operator's key here");
    assert!(error.reasons.iter().any(is_named), "{error}");
    let (_, kept) = Context::at(operator.folder.path()).trust().unwrap().unwrap();
    assert_eq!((kept.version, kept.operators.len(), well.puts()), (1, 1, puts));
}

#[tokio::test]
async fn a_run_after_a_failure_goes_on_and_a_later_host_joins() {
    let (a, b) = (FakeAgent::start(1).await, FakeAgent::start(2).await);
    let operator = Operator::new();
    a.fail_services(true);
    b.fail_services(true);
    let error = operator.run(&[&a, &b], 2).await.result.unwrap_err();
    assert_eq!((error.step.to_string().as_str(), error.kind), ("start-arbiter", Kind::Failed));
    assert!(error.log.as_deref().is_some_and(|log| log.contains("no such port")), "{error}");
    a.fail_services(false);
    b.fail_services(false);
    let summary = operator.run(&[&a, &b], 2).await.result.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((summary.hosts.len(), summary.trust_version), (2, 1));
    let c = FakeAgent::start(3).await;
    let summary = operator.run(&[&a, &b, &c], 2).await.result.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((summary.hosts.len(), summary.trust_version), (3, 2));
}

#[tokio::test]
async fn a_retired_host_is_left_out_and_does_not_count() {
    let (staying, retired) = (FakeAgent::start(1).await, FakeAgent::start(2).await);
    let operator = Operator::new();
    operator.run(&[&staying, &retired], 2).await.result.unwrap_or_else(|e| panic!("{e}"));
    let context = Context::at(operator.folder.path());
    let (_, mut trust) = context.trust().unwrap().unwrap();
    let key = *trust.roster.iter().find(|key| **key != staying.key()).unwrap();
    trust.version += 1;
    trust.roster.retain(|member| *member != key);
    trust.retired.push(key);
    let signed = Signed::seal(&trust, context.operator().unwrap().secret());
    context.save_trust(&signed).unwrap();

    let error = operator.run(&[&staying, &retired], 2).await.result.unwrap_err();
    assert!(error.kind == Kind::Refused && error.to_string().contains("was retired"), "{error}");
    let one = operator.run(&[&staying, &retired], 1).await;
    let summary = one.result.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(summary.hosts.len(), 1);
    let (_, trust) = context.trust().unwrap().unwrap();
    assert_eq!((trust.roster, trust.retired), (vec![staying.key()], vec![key]));
}

#[tokio::test]
async fn a_lost_context_is_found_again_on_the_hosts() {
    let a = FakeAgent::start(1).await;
    let operator = Operator::new();
    operator.run(&[&a], 1).await.result.unwrap_or_else(|e| panic!("{e}"));
    std::fs::remove_file(operator.folder.path().join("trust.json")).unwrap();
    let summary = operator.run(&[&a], 1).await.result.unwrap_or_else(|e| panic!("{e}"));
    assert!(!summary.is_changed && summary.trust_version == 1);
    assert!(Context::at(operator.folder.path()).trust().unwrap().is_some());
}

#[tokio::test]
async fn a_copied_disk_is_told() {
    let (original, copy) = (FakeAgent::start(1).await, FakeAgent::start_named(1, "copy").await);
    let error = Operator::new().run(&[&original, &copy], 2).await.result.unwrap_err();
    assert_eq!(error.step, Step::CheckHosts);
    assert!(error.reasons[0].contains("copy of the other's disk"), "{error}");
}

/// A discovery server, and a cluster opened there.
async fn discovery() -> ClusterUrl {
    let store = DiscoveryStore::in_memory(Clock::real(), BookLimits::default());
    let listen = Listen::Plain("127.0.0.1:0".parse().unwrap());
    let server = Server::bind(listen, Arc::new(Identity::ephemeral())).await.unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    tokio::spawn(server.serve(discovery_router(store), CancellationToken::new()));
    create_cluster(&Client::new(Arc::new(Identity::ephemeral())), &url).await.unwrap()
}

impl Operator {
    async fn run_at(&self, source: &ClusterUrl, hosts_min: usize) -> Outcome {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let progress = move |event| sink.lock().unwrap().push(event);
        let sources = vec![Source::Url(source.clone())];
        let options = Options { sources, ..self.options(&[], hosts_min) };
        let result = bootstrap::bootstrap(options, progress).await;
        let events = events.lock().unwrap().clone();
        Outcome { result, events }
    }
}

#[tokio::test]
async fn who_has_the_token_but_not_the_secret_is_named_and_never_asked() {
    let (ours, foreign) = (FakeAgent::start(1).await, FakeAgent::start_named(2, "foreign").await);
    let cluster = discovery().await;
    ours.register(&cluster).await;
    foreign.register(&cluster.without_join()).await;
    let error = Operator::new().run_at(&cluster, 2).await.result.unwrap_err();
    let named = error.reasons.iter().find(|reason| reason.contains("foreign"));
    assert!(named.is_some_and(|reason| reason.contains("join secret")), "{error}");
    let outcome = Operator::new().run_at(&cluster, 1).await;
    let summary = outcome.result.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(summary.hosts.len(), 1);
    assert_eq!(foreign.asks(), 0, "credentials were shown to a stranger");
    assert!(!summary.warnings.iter().any(|w| w.contains("JOIN")), "{:?}", summary.warnings);
    assert!(outcome.events.iter().any(|event| event.detail.contains("foreign")));
}

#[tokio::test]
async fn a_url_without_a_secret_works_and_warns() {
    let ours = FakeAgent::start(1).await;
    let cluster = discovery().await.without_join();
    ours.register(&cluster).await;
    let outcome = Operator::new().run_at(&cluster, 1).await;
    let summary = outcome.result.unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.warnings.iter().any(|w| w.contains("WHOEVER")), "{:?}", summary.warnings);
}

#[tokio::test]
async fn a_copied_disk_is_told_when_discovery_shows_one_host_at_two_addresses() {
    let (original, copy) = (FakeAgent::start(1).await, FakeAgent::start_named(1, "copy").await);
    let cluster = discovery().await;
    original.register(&cluster).await;
    copy.register(&cluster).await;
    let error = Operator::new().run_at(&cluster, 1).await.result.unwrap_err();
    assert_eq!(error.step, Step::CheckHosts);
    assert!(
        error.reasons[0].starts_with("copy (") && error.reasons[0].contains("fake1"),
        "{error}"
    );
    assert!(error.next.contains("agent.key"), "{error}");
}

#[test]
fn operators_of_different_contexts_have_different_keys() {
    let key = |operator: &Operator| Context::at(operator.folder.path()).operator().unwrap();
    let (one, two): (Identity, Identity) = (key(&Operator::new()), key(&Operator::new()));
    assert_ne!(one.public(), two.public());
}
