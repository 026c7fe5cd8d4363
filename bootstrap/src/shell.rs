//! Bootstrap as it happens: the steps in their order, with deadlines and something to show for it.

use std::sync::Arc;
use std::time::Duration;

use protocol::host::Host;
use protocol::id::{ClusterId, HostId};
use protocol::job::{Role, ServiceEndpoint};
use serde::Serialize;
use transport::discovery::Source;
use transport::{Client, Clock, Endpoint, Identity};

use crate::context::Context;
use crate::error::{BootstrapError, Kind};
use crate::event::{Step, StepEvent, StepState};
use crate::layout::Layout;

pub(crate) mod agent;

mod hosts;

mod services;

mod trust;

pub(crate) mod views;

mod wellness;

/// How many hosts are asked at a time: far more than a person waits for, far fewer than sockets.
const ASKED_AT_ONCE: usize = 64;

/// How often a state that is being waited for is looked at.
const POLL: Duration = Duration::from_millis(250);

/// So many hosts can bear the loss of one of three arbiters; fewer can't have three that are lost one by one.
const HOSTS_FOR_THREE: usize = 3;

/// What to make a cluster of, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where hosts are found.
    pub sources: Vec<Source>,
    /// How many hosts must be ready.
    pub hosts_min: usize,
    /// Who will be the operator; hosts obey this key from then on.
    pub operator: Arc<Identity>,
    /// Where the signed trust document and the sources are kept.
    pub context: Context,
    /// How many processes of each role; by default what suits the number of hosts.
    pub layout: Option<Layout>,
    /// First of the services' ports (see [`crate::layout::port_of`]); `None` lets each host choose.
    pub port_base: Option<u16>,
    /// How long to wait for enough hosts.
    pub deadline: Duration,
    /// How long each later step may take.
    pub step_deadline: Duration,
}

/// What there is at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The cluster.
    pub cluster: ClusterId,
    /// The trust document in force.
    pub trust_version: u64,
    /// False when everything was so already.
    pub is_changed: bool,
    /// The hosts that answer.
    pub hosts: Vec<HostSummary>,
    /// Ostler's own processes.
    pub services: Vec<ServiceSummary>,
    /// What works, but not fully.
    pub warnings: Vec<String>,
}

/// A host of the new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSummary {
    /// Its id.
    pub id: HostId,
    /// Its name, for people.
    pub name: String,
    /// Where it answers.
    pub url: String,
}

/// One of Ostler's own processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceSummary {
    /// Its job.
    pub job: String,
    /// What it does.
    pub role: Role,
    /// Where it runs.
    pub host: HostId,
    /// Where it answers, and its key.
    #[serde(flatten)]
    pub endpoint: ServiceEndpoint,
}

/// A host that is ready, and how to reach it for certain.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: Host,
    /// What its agent drew when it started.
    pub(crate) life: Option<String>,
}

/// Makes a cluster, or continues making one, or finds that it is made. Each change of a step is
/// given to `progress`.
///
/// # Errors
/// With the step, the reasons host by host, and what to try next. Nothing is taken back: run it
/// again to go on.
pub async fn bootstrap(
    options: Options,
    progress: impl FnMut(StepEvent) + Send,
) -> Result<Summary, BootstrapError> {
    let client = Client::new(Arc::clone(&options.operator));
    let clock = Clock::real();
    let started_ms = clock.now().mono_ms;
    let mut work = Work { options, client, clock, started_ms, progress };
    let summary = work.run().await;
    if let Err(error) = &summary {
        work.say(error.step, StepState::Failed, &error.what);
    }
    summary
}

/// Bootstrap under way.
pub(crate) struct Work<P> {
    options: Options,
    client: Client,
    clock: Clock,
    started_ms: u64,
    progress: P,
}

impl<P: FnMut(StepEvent) + Send> Work<P> {
    async fn run(&mut self) -> Result<Summary, BootstrapError> {
        let hosts = self.wait_hosts().await?;
        let in_force = self.find_trust(&hosts).await?;
        let hosts = self.leave_out_retired(hosts, in_force.as_ref())?;
        let mut warnings = self.check_hosts(&hosts)?;
        let missing = self.missing_arbiters(in_force.as_ref());
        let is_told = missing.is_some();
        warnings.extend(missing);
        warnings.extend(self.unborne_liars(in_force.as_ref()));
        let services = self.start_services(&hosts, in_force.as_ref()).await?;
        let signed = self.sign_trust(&hosts, in_force, &services.members).await?;
        let is_given = self.give_trust(&hosts, &signed).await?;
        let is_changed = services.is_changed || signed.is_new || is_given;
        self.check_health(&hosts, &signed.trust, &services.running, is_changed).await?;
        let lone = lone_arbiter(hosts.len(), signed.trust.arbiters.len());
        warnings.extend(lone.filter(|_| !is_told));
        let summary = Summary {
            cluster: signed.trust.cluster.clone(),
            trust_version: signed.trust.version,
            is_changed,
            hosts: hosts.iter().map(HostSummary::of).collect(),
            services: services.running,
            warnings,
        };
        self.finish(&summary);
        Ok(summary)
    }

    /// The number of arbiters of a cluster that is there is not changed along the way.
    fn missing_arbiters(&self, in_force: Option<&trust::InForce>) -> Option<String> {
        let wanted = self.options.layout?.arbiters as usize;
        let has = in_force?.trust.arbiters.len();
        (wanted > has)
            .then(|| format!("the cluster has {has} arbiters, not {wanted}: `ostler arbiters add`"))
    }

    /// How many may lie is decided when a cluster is made.
    fn unborne_liars(&self, in_force: Option<&trust::InForce>) -> Option<String> {
        let wanted = self.options.layout?.liars;
        let has = in_force?.trust.f;
        (wanted > has).then(|| {
            format!(
                "of the cluster's arbiters {has} may lie, not {wanted}: decided when it was made"
            )
        })
    }

    /// A machine that was retired does not come back with the same key.
    fn leave_out_retired(
        &mut self,
        hosts: Vec<Ready>,
        in_force: Option<&trust::InForce>,
    ) -> Result<Vec<Ready>, BootstrapError> {
        let retired = in_force.map(|in_force| &in_force.trust.retired[..]).unwrap_or_default();
        let (out, left): (Vec<Ready>, Vec<Ready>) =
            hosts.into_iter().partition(|ready| retired.contains(&ready.host.key));
        let reasons: Vec<String> =
            out.iter().map(|ready| format!("{} was retired", ready.host.name)).collect();
        if left.len() < self.options.hosts_min {
            let what = format!("{} hosts are left, not {}", left.len(), self.options.hosts_min);
            let next = "a retired machine comes back only with a new key: empty its data directory";
            let error = failure(Step::WaitHosts, Kind::Refused, what, next);
            return Err(BootstrapError { reasons, ..error });
        }
        if !reasons.is_empty() {
            let detail = format!("left out: {}", reasons.join("; "));
            self.say(Step::WaitHosts, StepState::Already, &detail);
        }
        Ok(left)
    }

    fn finish(&mut self, summary: &Summary) {
        let Summary { cluster, hosts, is_changed, .. } = summary;
        let detail = match is_changed {
            true => format!("cluster {cluster} of {} hosts is up", hosts.len()),
            false => {
                format!("cluster {cluster} of {} hosts is up already; nothing changed", hosts.len())
            }
        };
        self.say(Step::Done, done_or_already(*is_changed), &detail);
    }

    pub(crate) fn say(&mut self, id: Step, state: StepState, detail: &str) {
        let elapsed_ms = self.clock.now().mono_ms.saturating_sub(self.started_ms);
        (self.progress)(StepEvent { id, state, detail: detail.to_owned(), elapsed_ms });
    }

    /// The moment after which a step that begins now has taken too long.
    pub(crate) fn step_deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.options.step_deadline
    }
}

impl HostSummary {
    fn of(ready: &Ready) -> Self {
        let Ready { endpoint, host, .. } = ready;
        Self { id: host.id.clone(), name: host.name.clone(), url: endpoint.url.clone() }
    }
}

/// Hosts that could bear the loss of an arbiter, and can't.
fn lone_arbiter(hosts: usize, arbiters: usize) -> Option<String> {
    (hosts >= HOSTS_FOR_THREE && arbiters == 1).then(|| {
        "the cluster has one arbiter, and while that is away nothing new starts or fails over: `ostler arbiters add \
         HOST HOST` makes it three (a new cluster has them by `ostler bootstrap --arbiters 3`)"
            .to_owned()
    })
}

pub(crate) fn done_or_already(is_changed: bool) -> StepState {
    if is_changed { StepState::Done } else { StepState::Already }
}

/// An error without reasons or log; the steps add theirs.
pub(crate) fn failure(
    step: Step,
    kind: Kind,
    what: impl Into<String>,
    next: impl Into<String>,
) -> BootstrapError {
    BootstrapError { step, kind, what: what.into(), reasons: vec![], log: None, next: next.into() }
}
