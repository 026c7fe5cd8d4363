//! The step `check-health`: asks every process until all are well, or says which are not.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use protocol::id::HostId;
use protocol::job::Role;
use protocol::trust::Trust;
use transport::{Client, Endpoint};

use super::{ASKED_AT_ONCE, POLL, Ready, ServiceSummary, Work, agent, done_or_already, failure};
use crate::error::{BootstrapError, Kind};
use crate::event::{Step, StepEvent, StepState};
use crate::health::{Report, troubles};

/// One process to be asked.
#[derive(Clone)]
struct Subject {
    name: String,
    role: Role,
    endpoint: Endpoint,
}

impl<P: FnMut(StepEvent) + Send> Work<P> {
    /// Waits until everything is well.
    pub(crate) async fn check_health(
        &mut self,
        hosts: &[Ready],
        trust: &Trust,
        services: &[ServiceSummary],
        is_changed: bool,
    ) -> Result<(), BootstrapError> {
        let subjects: Arc<[Subject]> = subjects(hosts, services).into();
        let ids: Vec<HostId> = hosts.iter().map(|ready| ready.host.id.clone()).collect();
        let detail = format!("{} hosts and {} services", hosts.len(), services.len());
        self.say(Step::CheckHealth, StepState::Start, &detail);
        let deadline = self.step_deadline();
        let mut said = Vec::new();
        loop {
            let reports = ask_all(&self.client, &subjects).await;
            let troubles = troubles(trust.version, &ids, &reports);
            if troubles.is_empty() {
                let detail = format!("all {} processes are ready", subjects.len());
                self.say(Step::CheckHealth, done_or_already(is_changed), &detail);
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(self.unwell(hosts, services, troubles).await);
            }
            // A countdown in a sentence is no news.
            let is_digit = |c: char| c.is_ascii_digit();
            let gist: Vec<String> = troubles.iter().map(|t| t.replace(is_digit, "")).collect();
            if gist != said {
                self.say(Step::CheckHealth, StepState::Start, &troubles.join("; "));
                said = gist;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn unwell(
        &self,
        hosts: &[Ready],
        services: &[ServiceSummary],
        troubles: Vec<String>,
    ) -> BootstrapError {
        let is_named = |s: &&ServiceSummary| troubles.iter().any(|t| t.starts_with(&s.job));
        let sick = services.iter().find(is_named);
        let at = sick.and_then(|s| hosts.iter().find(|ready| ready.host.id == s.host));
        let mut log = None;
        let mut next = "see why, then run bootstrap again".to_owned();
        if let (Some(sick), Some(ready)) = (sick, at)
            && let Ok(job) = sick.job.parse()
        {
            log = agent::log_tail(&self.client, &ready.endpoint, &job).await;
            next = format!("ostler log {job} --hosts {}", ready.endpoint.url);
        }
        let seconds = self.options.step_deadline.as_secs();
        let what = format!("not everything was well after {seconds} s");
        let error = failure(Step::CheckHealth, Kind::Failed, what, next);
        BootstrapError { reasons: troubles, log, ..error }
    }
}

fn subjects(hosts: &[Ready], services: &[ServiceSummary]) -> Vec<Subject> {
    let services = services.iter().map(|service| Subject {
        name: format!("{} on {}", service.job, name_of(hosts, &service.host)),
        role: service.role,
        endpoint: Endpoint::of_key(service.endpoint.url.clone(), service.endpoint.key),
    });
    let hosts = hosts.iter().map(|ready| Subject {
        name: format!("the agent on {}", ready.host.name),
        role: Role::Host,
        endpoint: ready.endpoint.clone(),
    });
    services.chain(hosts).collect()
}

fn name_of<'a>(hosts: &'a [Ready], id: &'a HostId) -> &'a str {
    let ready = hosts.iter().find(|ready| ready.host.id == *id);
    ready.map_or(id.short(), |ready| &ready.host.name)
}

/// Asks all at once; the answers come back in the order of the subjects.
async fn ask_all(client: &Client, subjects: &[Subject]) -> Vec<Report> {
    let asked = stream::iter(subjects.to_vec()).map(|subject| async move {
        let Subject { name, role, endpoint } = subject;
        let health = agent::health(client, &endpoint).await;
        let view = match role {
            Role::Monitor if health.is_ok() => Some(agent::view(client, &endpoint).await),
            _ => None,
        };
        Report { name, role, health, view }
    });
    asked.buffered(ASKED_AT_ONCE).collect().await
}
