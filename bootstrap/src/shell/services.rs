//! Ostler's own roles as service jobs: asked for where the layout says, waited for until they answer.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use protocol::api::PutJob;
use protocol::id::{HostId, TenantId};
use protocol::job::{Job, JobKind, JobSpec, JobState, Role, ServiceSpec};
use transport::discovery::Source;
use transport::with_causes;

use super::{ASKED_AT_ONCE, POLL, Ready, ServiceSummary, Work, agent, done_or_already, failure};
use crate::charter::Member;
use crate::error::{BootstrapError, Kind};
use crate::event::{Step, StepEvent, StepState};
use crate::layout::{Act, Layout, LayoutError, Placement, place, port_of};
use crate::shell::trust::InForce;

/// What runs, and whether anything had to be done for it.
pub(crate) struct Services {
    pub(crate) running: Vec<ServiceSummary>,
    pub(crate) members: Vec<Member>,
    pub(crate) is_changed: bool,
}

impl<P: FnMut(StepEvent) + Send> Work<P> {
    /// The steps `start-arbiter`, `start-monitor`, `start-controller`, and `start-witness` where there are any.
    pub(crate) async fn start_services(
        &mut self,
        hosts: &[Ready],
        in_force: Option<&InForce>,
    ) -> Result<Services, BootstrapError> {
        let step = Step::Start(Role::Arbiter);
        let layout = self.options.layout.unwrap_or_else(|| Layout::of_hosts(hosts.len()));
        let present = self.jobs_of(step, hosts).await?;
        let trust = in_force.map(|in_force| &in_force.trust);
        let placements = place(layout, trust, &present).map_err(|e| misplaced(step, &e))?;
        let mut services = Services { running: vec![], members: vec![], is_changed: false };
        for (role, _) in layout.roles_by(trust) {
            let of_role: Vec<_> = placements.iter().filter(|p| p.role == role).collect();
            self.start_role(role, &of_role, hosts, &mut services).await?;
        }
        Ok(services)
    }

    async fn jobs_of(
        &self,
        step: Step,
        hosts: &[Ready],
    ) -> Result<BTreeMap<HostId, Vec<Job>>, BootstrapError> {
        let client = &self.client;
        let asked = stream::iter(hosts.to_vec())
            .map(|ready| async move { (agent::jobs(client, &ready.endpoint).await, ready) });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let mut jobs = BTreeMap::new();
        for (answer, Ready { host, .. }) in answers {
            let failed = |error| {
                let what =
                    format!("cannot read the jobs of {}: {}", host.name, with_causes(&error));
                failure(step, Kind::TimedOut, what, "see that its agent runs, then bootstrap again")
            };
            jobs.insert(host.id.clone(), answer.map_err(failed)?);
        }
        Ok(jobs)
    }

    async fn start_role(
        &mut self,
        role: Role,
        placements: &[&Placement],
        hosts: &[Ready],
        services: &mut Services,
    ) -> Result<(), BootstrapError> {
        let step = Step::Start(role);
        let names: Vec<&str> = placements.iter().map(|p| p.job.as_str()).collect();
        self.say(step, StepState::Start, &names.join(", "));
        for placement in placements {
            self.ask_for(placement, ready_at(hosts, &placement.host)).await?;
        }
        let mut said = Vec::new();
        for placement in placements {
            let ready = ready_at(hosts, &placement.host);
            let summary = self.wait_for(placement, ready).await?;
            said.push(format!(
                "{} on {} at {}",
                summary.job, ready.host.name, summary.endpoint.url
            ));
            let (index, endpoint) = (placement.index, summary.endpoint.clone());
            services.members.push(Member { role, index, endpoint });
            services.running.push(summary);
        }
        let is_changed = placements.iter().any(|placement| placement.act != Act::Keep);
        services.is_changed |= is_changed;
        self.say(step, done_or_already(is_changed), &said.join("; "));
        Ok(())
    }

    async fn ask_for(&self, placement: &Placement, ready: &Ready) -> Result<(), BootstrapError> {
        let Act::Put(revision) = placement.act else { return Ok(()) };
        let Placement { job, role, index, .. } = placement;
        let service = ServiceSpec {
            role: *role,
            port: self.options.port_base.map_or(0, |base| port_of(*role, *index, base)),
            // Specs are read by many: a service gets what tells hosts from strangers, no secret.
            discovery: self.options.sources.iter().map(Source::to_verify).collect(),
        };
        let spec = JobSpec {
            kind: JobKind::Service(service),
            tenant: TenantId::default_tenant(),
            labels: BTreeMap::new(),
        };
        let put = PutJob::of(revision, spec);
        let asked = agent::put_job(&self.client, &ready.endpoint, job, &put).await;
        asked.map(|_| ()).map_err(|error| {
            let kind = if error.refusal().is_some() { Kind::Refused } else { Kind::TimedOut };
            let what = format!("{} does not take {job}: {}", ready.host.name, with_causes(&error));
            failure(Step::Start(*role), kind, what, "mend that and run bootstrap again")
        })
    }

    /// Waits until the service runs and says where. It is over when the host says it ended.
    async fn wait_for(
        &self,
        placement: &Placement,
        ready: &Ready,
    ) -> Result<ServiceSummary, BootstrapError> {
        let deadline = self.step_deadline();
        let mut last = "it was not seen".to_owned();
        while tokio::time::Instant::now() < deadline {
            match agent::job(&self.client, &ready.endpoint, &placement.job).await {
                Err(error) => last = with_causes(&error),
                Ok(job) if job.state.is_ended() => {
                    return Err(self.ended(placement, ready, &job).await);
                }
                Ok(Job { state: JobState::Running, endpoint: Some(endpoint), .. }) => {
                    let (job, host) = (placement.job.to_string(), placement.host.clone());
                    let endpoint = *endpoint;
                    return Ok(ServiceSummary { job, role: placement.role, host, endpoint });
                }
                Ok(job) if job.state == JobState::Running => {
                    last = "it runs and has not said where it answers".to_owned();
                }
                Ok(job) => last = format!("it is {}", job.state),
            }
            tokio::time::sleep(POLL).await;
        }
        let seconds = self.options.step_deadline.as_secs();
        let what = format!(
            "{} on {} did not answer within {seconds} s: {last}",
            placement.job, ready.host.name
        );
        Err(self.with_log(placement, ready, Kind::TimedOut, what).await)
    }

    async fn ended(&self, placement: &Placement, ready: &Ready, job: &Job) -> BootstrapError {
        let why = job.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let what = format!("{} on {} {}{why}", job.id, ready.host.name, job.state);
        self.with_log(placement, ready, Kind::Failed, what).await
    }

    async fn with_log(
        &self,
        placement: &Placement,
        ready: &Ready,
        kind: Kind,
        what: String,
    ) -> BootstrapError {
        let log = agent::log_tail(&self.client, &ready.endpoint, &placement.job).await;
        let next = format!("ostler log {} --hosts {}", placement.job, ready.endpoint.url);
        BootstrapError { log, ..failure(Step::Start(placement.role), kind, what, next) }
    }
}

/// The ready host that a placement names; places are only given on ready hosts.
fn ready_at<'a>(hosts: &'a [Ready], id: &HostId) -> &'a Ready {
    let ready = hosts.iter().find(|ready| ready.host.id == *id);
    ready.unwrap_or_else(|| panic!("a service was placed on host {id}, which is not ready"))
}

fn misplaced(step: Step, error: &LayoutError) -> BootstrapError {
    let next = match error {
        LayoutError::NoHosts => "name hosts with --hosts, or a discovery URL".to_owned(),
        LayoutError::ArbiterLost { slot, .. } => format!(
            "bring its host back and run bootstrap again, or put another in its place: \
             `ostler arbiters replace {slot}` (or, where every other host has one, `ostler arbiters remove \
             {slot}`, then bootstrap again); what runs goes on meanwhile"
        ),
        LayoutError::NoPlaceForWitnesses { .. } => {
            "ostler bootstrap with fewer --witnesses, or with a higher -n".to_owned()
        }
        LayoutError::WitnessesOfNoUse { .. } => {
            "ostler bootstrap with so many --witnesses".to_owned()
        }
        LayoutError::TooManyLiars { need, who, .. } => {
            format!("ostler bootstrap with --{who} {need} or more, or with fewer --liars")
        }
    };
    failure(step, Kind::Failed, error.to_string(), next)
}
