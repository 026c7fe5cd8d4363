//! Taking over a domain that runs here already, and giving it back.
//!
//! ```text
//!   observed ── PUT of a spec with its uuid ──▶ accepted ──▶ starting ──▶ running: a job like any other
//!      ▲                                        (its definition is kept)       │
//!      └────────── the definition is as it was ◀── release, in any state ──────┘
//! ```
//!
//! The guest goes on through both. Nothing that Ostler did not make is deleted: a delete of such a job
//! is a release.

use hypervisor::DomainInfo;
use protocol::id::JobId;
use protocol::job::{JobSpec, JobState, ObservedDomain};
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use transport::clock::Now;
use uuid::Uuid;

use super::agent::Agent;
use super::input::{Effect, Reply};
use super::ledger::{Intent, JobRecord};
use super::seeing::seen_instead;

impl Agent {
    /// The domain that such a spec would make a job of; `None` when it is no adoption.
    pub(super) fn to_adopt(&self, id: &JobId, spec: &JobSpec) -> Option<Uuid> {
        spec.adopted().filter(|_| !self.jobs.contains_key(id))
    }

    /// Whether a spec that names a domain fits what is here.
    pub(super) fn check_adoption(&self, id: &JobId, spec: &JobSpec) -> Result<(), Refusal> {
        let before = self.jobs.get(id).map(|entry| entry.record.job.spec.adopted());
        let Some((uuid, vm)) = spec.adopted().zip(spec.as_vm()) else {
            return match before {
                Some(Some(uuid)) => Err(Refusal::Invalid {
                    message: format!(
                        "job {id} is the adopted domain {uuid}, and the spec does not say so: keep `adopted`, or release the job first"
                    ),
                }),
                _ => Ok(()),
            };
        };
        if before == Some(Some(uuid)) {
            return Ok(());
        }
        if before.is_some() {
            let message = format!("job {id} is another VM already: choose another name");
            return Err(Refusal::Invalid { message });
        }
        if let Some(other) = self.by_uuid.get(&uuid) {
            let message = format!("domain {uuid} is job {other} already");
            return Err(Refusal::Invalid { message });
        }
        match self.observed.get(&uuid) {
            Some(domain) => check_fit(domain, vm),
            None => Err(Refusal::NoSuchDomain { domain: uuid.to_string() }),
        }
    }

    pub(super) fn release(
        &mut self,
        now: Now,
        id: &JobId,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let record = self.record(id)?.clone();
        if record.job.spec.adopted().is_none() {
            return Err(Refusal::Invalid {
                message: format!(
                    "job {id} was not adopted, so there is nobody to give it back to: `ostler rm` deletes it"
                ),
            });
        }
        self.begin_release(now, record, out)
    }

    /// Gives an adopted job back, whatever its state.
    pub(super) fn begin_release(
        &mut self,
        now: Now,
        mut record: JobRecord,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let id = record.job.id.clone();
        if record.intent == Intent::Release {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        if matches!(record.job.state, JobState::Stopping) {
            return Err(Refusal::WrongState {
                job: id,
                state: record.job.state,
                needed: "wait until it has stopped, then release it".to_owned(),
            });
        }
        record.intent = Intent::Release;
        self.insert(now, record, out);
        self.offers.end_of_job(&id);
        self.go_on(now, &id, out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    /// It is a job like any other, in the state that it is in.
    pub(super) fn become_adopted(
        &mut self,
        now: Now,
        mut record: JobRecord,
        domain: &DomainInfo,
        out: &mut Vec<Effect>,
    ) {
        record.intent = Intent::Run;
        match seen_instead(JobState::Running, None, Some(domain)) {
            None => self.become_state(now, record, JobState::Running, None, out),
            Some((state, reason)) => self.become_seen(now, record, state, reason, out),
        }
    }

    /// It is nobody's job any more. From this very moment it counts as what it is.
    pub(super) fn become_released(
        &mut self,
        now: Now,
        record: &JobRecord,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        self.forget(now, record, out);
        if let Some(domain) = domain {
            self.observe(now, domain.uuid, Some(domain), out);
        }
    }
}

/// A job is what it says: its size is counted, and it can be started again.
fn check_fit(domain: &ObservedDomain, vm: &VmSpec) -> Result<(), Refusal> {
    let name = &domain.name;
    let invalid = |message: String| Err(Refusal::Invalid { message });
    if !domain.is_active {
        return invalid(format!(
            "domain {name} does not run: start it with `virsh start {name}`, then adopt it"
        ));
    }
    if !domain.is_persistent {
        return invalid(format!(
            "domain {name} is transient and would be gone after a stop: give it a definition with `virsh dumpxml {name} >FILE; virsh define FILE`, then adopt it"
        ));
    }
    let is = domain.resources;
    if vm.vcpus != is.vcpus || vm.memory_bytes < is.memory_bytes {
        let said = vm.resources();
        return invalid(format!(
            "domain {name} takes {is}, and the spec says {said}: ask `GET /v1/domains/{}` for a spec that fits",
            domain.uuid
        ));
    }
    Ok(())
}
