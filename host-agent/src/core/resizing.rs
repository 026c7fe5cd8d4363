//! Another size for a job that is here: the right to it, the row, and what comes of it.
//!
//! ```text
//!   running, paused ──resize──▶ changing ──▶ as the spec says
//!                                  └──▶ next_start ──▶ as the spec says: given up at last, or started anew
//!   stopped, failed, crashed ──resize──▶ changing (its definition) ──▶ as the spec says
//! ```
//!
//! Disks and cards come at once too, or at its next start where the machine has no place for them. Those that go
//! are [`super::leaving`]'s, once the definition is without them. If libvirt can't have that, what came goes
//! again, and nothing that was to go has gone.
//!
//! Disks only grow, at once whether the guest runs or not. What a disk has been given stays: neither a
//! change that fails for its other parts nor a run that turns back makes it smaller. Those in pools grow
//! when the pool says so in the end, which other hosts count on too: if it has no room any more, no disk
//! has grown, and the job is all that it was.
//!
//! The row is written first, so that more is promised before it is given, and less only when it is
//! seen to be given up: between the two the larger counts ([`Job::promised`]). After a crash the row
//! says what is to become of the guest, and it is asked for again.

use hypervisor::DomainInfo;
use std::collections::BTreeMap;

use protocol::admission::{Room, admit_resize};
use protocol::api::{OfferRequest, ResizeJob};
use protocol::id::{JobId, OfferId, Revision};
use protocol::job::{Job, JobSpec, JobState, Reason, Resize, ResizeStage, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::ticket::{Expected, OfferStanding, Purpose, Ticket, VerifiedTicket, verify};
use protocol::trust::Policy;
use protocol::vm::{DiskSpec, SizeChange, VmSpec};
use transport::clock::Now;

use super::agent::{Agent, Entry};
use super::input::{Effect, Look, Reply, Work, WorkOutcome};
use super::leaving::{Leaving, tell_leaving};
use super::ledger::{Devices, Intent, Issued, JobRecord, LastResize};
use super::taking::Reserved;

/// How long a change takes as a rule, for whoever asks for the next one meanwhile.
const RETRY_MS: u64 = 500;
/// A guest that has given nothing for so long has given what it will.
const GIVING_MS_MAX: u64 = 5_000;
/// How often a guest that is not what its spec says is looked at: it may give up late, and nobody says
/// so.
const LOOK_MS: u64 = 30_000;

/// What a guest was last seen to have, and since when, in milliseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Giving {
    has: Resources,
    since_ms: u64,
}

impl Agent {
    /// What an offer to resize reserves.
    pub(super) fn check_growth(&self, ask: &OfferRequest) -> Result<Reserved, Refusal> {
        let job = &self.record(&ask.job)?.job;
        self.check_resize(&ask.job, ask.revision, &ask.spec, None, self.room().policy)?;
        let resources = ask.spec.resources().max(keeps(job, &ask.spec));
        // What it has been promised is counted with the job already.
        let promised = promised(job).unwrap_or(resources);
        let in_pools = job.spec.growth_by_pool(&ask.spec);
        let more = ask.spec.of_host(resources).minus(job.spec.of_host(promised));
        let pages = ask.spec.pages_of(resources).minus(job.spec.pages_of(promised));
        let had = job.spec.dedicated_cpus_of(promised);
        let dedicated_cpus = ask.spec.dedicated_cpus_of(resources).saturating_sub(had);
        Ok(Reserved { resources, more, pages, dedicated_cpus, domain: None, in_pools })
    }

    pub(super) fn resize(
        &mut self,
        now: Now,
        id: &JobId,
        resize: ResizeJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(resize.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        let job = &self.record(id)?.job;
        let to = job.spec.changed(id, &resize.size);
        let to = to.map_err(|no| Refusal::Invalid { message: format!("job {id}: {no}") })?;
        let to = to.ok_or_else(|| no_vm(id))?;
        if job.revision == resize.revision && *job.spec == to {
            return Ok(Reply::AlreadySo(Box::new(job.clone())));
        }
        let ticket = self.verify_growth(now, id, resize.revision, &to, resize.ticket.as_ref())?;
        let redeemed = ticket.as_ref().map(|t| t.offer().id);
        self.check_resize(id, resize.revision, &to, redeemed, self.room().policy)?;
        let mut record = self.record(id)?.clone();
        if let Some(ticket) = &ticket {
            let offer = ticket.offer().id;
            record.issued = self.issued_instead(&record, offer);
            self.offers.end(offer, OfferStanding::Used);
            record.job.hold = Some(offer);
            // What had been by a budget is by its own ticket from now on.
            record.job.budget = None;
            record.debits.clone_from(ticket.debits());
            if *record.job.spec == to {
                return self.become_renewed(now, record, resize.revision, out);
            }
        }
        self.begin_resize(now, record, to, resize.revision, resize.run, out)
    }

    /// What the new hold is covered from; what has covered the guest until now goes on to do so.
    fn issued_instead(&self, record: &JobRecord, offer: OfferId) -> Option<Issued> {
        let until_ms = self.offers.until_ms(offer)?;
        let known = record.issued.as_ref().and_then(|issued| issued.since);
        let since = known.or(record.job.hold);
        Some(Issued { since, ..self.issued(self.trust.as_ref()?, until_ms) })
    }

    /// Takes back what a task has done, without a ticket: so only where that gives something up.
    pub(super) fn undo_resize(
        &mut self,
        now: Now,
        id: &JobId,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let undone = self.claims.undo(run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        undone?;
        let mut record = self.record(id)?.clone();
        let of = |key: Option<RunKey>| key.map(|key| (key.run, key.task));
        let is_its = |last: &LastResize| last.run.is_some() && of(last.run) == of(run);
        let Some(last) = record.last_resize.take().filter(|last| is_its(last)) else {
            return Ok(Reply::AlreadySo(Box::new(self.record(id)?.job.clone())));
        };
        let to = record.job.spec.with_size(|_| last.before).ok_or_else(|| no_vm(id))?;
        let revision = Revision(record.job.revision.0 + 1);
        self.verify_growth(now, id, revision, &to, None)?;
        // It had this before: a rule that came since is no reason to stay half way.
        self.check_resize(id, revision, &to, None, None)?;
        self.begin_resize(now, record, to, revision, None, out)
    }

    /// The size is what it was: only the hold is another, granted by other arbiters, or booked with
    /// them otherwise; or the word that protects it. The guest and libvirt know nothing of it.
    pub(super) fn become_renewed(
        &mut self,
        now: Now,
        mut record: JobRecord,
        revision: Revision,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let id = record.job.id.clone();
        self.offers.end_of_job(&id);
        record.job.revision = revision;
        self.insert(now, record, out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    fn begin_resize(
        &mut self,
        now: Now,
        mut record: JobRecord,
        to: JobSpec,
        revision: Revision,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let id = record.job.id.clone();
        self.offers.end_of_job(&id);
        let has = keeps(&record.job, &to);
        let before = record.job.spec.as_vm();
        record.last_resize = before.map(|vm| {
            let disks = vm.disks.iter().map(|disk| (disk.name.clone(), disk.size_bytes)).collect();
            let devices = to
                .as_vm()
                .is_some_and(|to| !has_devices_of(vm, to))
                .then(|| Box::new(Devices { disks: vm.disks.clone(), nics: vm.nics.clone() }));
            Box::new(LastResize { before: vm.size(), disks, devices, run })
        });
        record.leaving = Leaving::after(record.leaving.as_deref(), &record.job, &to);
        let has = Resources { disk_bytes: 0, ..has };
        record.job.resize = Some(Box::new(Resize::of(has, ResizeStage::Changing)));
        record.job.spec = to.into();
        record.job.revision = revision;
        record.job.run = run.or(record.job.run);
        self.jobs.change(&id, |entry| entry.giving = None);
        self.insert(now, record, out);
        self.go_on(now, &id, out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    /// Whether the job may have that size, whoever asks.
    fn check_resize(
        &self,
        id: &JobId,
        revision: Revision,
        to: &JobSpec,
        redeemed: Option<OfferId>,
        policy: Option<&Policy>,
    ) -> Result<(), Refusal> {
        let record = self.record(id)?;
        let job = &record.job;
        if job.spec.as_vm().is_none() {
            return Err(no_vm(id));
        }
        if revision <= job.revision {
            return Err(Refusal::RevisionConflict { job: id.clone(), current: job.revision });
        }
        if let Some(needed) = unfit(record) {
            return Err(Refusal::WrongState { job: id.clone(), state: job.state, needed });
        }
        if is_changing(job) {
            return Err(busy(job));
        }
        if let Some(snapshot) = job.snapshot_under_way() {
            let what = format!("{} snapshot {} of job {id}", snapshot.stage, snapshot.name);
            return Err(Refusal::Busy { what, limit: 1, retry_after_ms: RETRY_MS });
        }
        self.check_macs(id, to)?;
        check_snapshots_stay_whole(job, to)?;
        let is_same = |vm: &VmSpec| to.as_vm().is_some_and(|to| has_devices_of(vm, to));
        let keeps_devices = job.spec.as_vm().is_none_or(is_same);
        let is_leaving = record.leaving.is_some();
        if disks_of(&job.spec) != disks_of(to) || (is_leaving && !keeps_devices) {
            check_devices_are_there(job)?;
        }
        let pools = self.pools_without(redeemed);
        let room = self.room_without(Some(id), redeemed, None);
        let room = Room { pools: &pools, policy, ..room };
        admit_resize(room, (id, job.state), &job.spec, promised(job), to)
    }

    /// R9 for a job that grows, and for one that keeps its size under another ticket. What is not
    /// promised anything, or gives up, needs none; a lone host obeys whoever may talk to it.
    fn verify_growth(
        &self,
        now: Now,
        id: &JobId,
        revision: Revision,
        to: &JobSpec,
        ticket: Option<&Ticket>,
    ) -> Result<Option<VerifiedTicket>, Refusal> {
        let job = &self.record(id)?.job;
        let (Some(trust), Some(promised)) = (&self.trust, promised(job)) else { return Ok(None) };
        let is_renewal = ticket.is_some() && *job.spec == *to;
        if to.resources().fits_in(promised) && !is_renewal {
            return Ok(None);
        }
        let takes = to.resources().max(keeps(job, to));
        if let (Some(by), None) = (&job.budget, ticket) {
            self.check_growth_in_budget(job, by, takes)?;
            return Ok(None);
        }
        // The guest may have given something up since we made the offer.
        let offered = ticket.and_then(|t| t.offer.open().ok()).map(|offer| offer.resources);
        let expected = Expected {
            host: &self.host.id,
            host_key: &self.host.key,
            job: id,
            revision,
            spec: to.digest(),
            resources: offered.filter(|offered| takes.fits_in(*offered)).unwrap_or(takes),
            purpose: Purpose::Resize,
            agreed: self.agreed,
        };
        Ok(Some(verify(ticket, expected, trust, |offer| self.standing(now, offer))?))
    }

    /// What the end of such work means.
    pub(super) fn conclude_resize(
        &mut self,
        now: Now,
        mut record: JobRecord,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let is_alive = is_alive(record.job.state);
        match outcome {
            WorkOutcome::Resized { domain, devices, left, is_giving } if is_alive => {
                self.take_in(now, record, &domain, (devices, left), is_giving, out);
            }
            WorkOutcome::Done | WorkOutcome::NotThere | WorkOutcome::Resized { .. } => {
                // A guest that has ended meanwhile is looked for next.
                if matches!(record.job.reason, Some(Reason::Unclear { .. })) {
                    record.job.reason = None;
                }
                self.become_defined(&mut record);
                if record.leaving.is_some() {
                    // They are seen to next, whatever has become of the guest.
                } else if let Some(resize) = record.job.resize.as_mut().filter(|_| is_alive) {
                    resize.stage = ResizeStage::NextStart;
                    resize.disk_bytes = 0;
                } else {
                    record.job.resize = None;
                }
                self.insert(now, record, out);
            }
            WorkOutcome::Unclear(message) => {
                self.note(now, record, Reason::Unclear { message }, out);
            }
            WorkOutcome::Failed(message) => self.become_unresized(now, record, message, out),
            WorkOutcome::Ungrown(message) => {
                let before = record.last_resize.as_ref().map(|last| last.disks.clone());
                let disks = before.unwrap_or_default();
                record.job.spec = record.job.spec.with_disk_sizes(&disks).into();
                self.become_unresized(now, record, message, out);
            }
            _ => {}
        }
    }

    /// What the guest has now, and whether that is the end of it.
    fn take_in(
        &mut self,
        now: Now,
        mut record: JobRecord,
        domain: &DomainInfo,
        (devices, left): (Vec<String>, Vec<String>),
        is_giving: bool,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        let seen = seen_instead(&record.job, domain);
        self.become_defined(&mut record);
        let is_under_way = is_giving || record.leaving.is_some();
        let stage = if is_under_way { ResizeStage::Changing } else { ResizeStage::NextStart };
        let next = as_resize(&record, seen, stage, (devices, left));
        if matches!(record.job.reason, Some(Reason::Unclear { .. })) {
            record.job.reason = None;
        }
        let has = seen.filter(|_| is_giving);
        let giving = has.map(|has| Giving { has, since_ms: now.mono_ms });
        self.jobs.change(&id, |entry| entry.giving = giving);
        record.job.resize = next;
        self.insert(now, record, out);
    }

    /// The definition is what the spec says, so its guest can be asked for what it has no more.
    fn become_defined(&mut self, record: &mut JobRecord) {
        if let Some(leaving) = &mut record.leaving {
            leaving.is_defined = true;
            self.jobs.change(&record.job.id, |entry| entry.asks_leaving = true);
        }
    }

    /// libvirt can't have it: the job has the CPUs and memory that it had before. Its guest may have more:
    /// what it has not given up of an earlier change, and what this one has given it in a try that nobody
    /// heard the end of. All that counts until the guest is seen. Its disks are what its spec says: they have
    /// grown, or whoever calls this has put them back.
    fn become_unresized(
        &mut self,
        now: Now,
        mut record: JobRecord,
        message: String,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        let most = Resources { disk_bytes: 0, ..record.job.promised() };
        if let Some(last) = record.last_resize.take() {
            let sized = record.job.spec.with_size(|_| last.before);
            let spec = sized.unwrap_or_else(|| JobSpec::clone(&record.job.spec));
            record.job.spec = match last.devices.map(|devices| *devices) {
                Some(Devices { disks, nics }) => spec.with_devices(disks, nics),
                None => spec,
            }
            .into();
        }
        let (leaving, vm) = (record.leaving.take(), record.job.spec.as_vm());
        let rest = leaving.zip(vm).and_then(|(leaving, vm)| leaving.without(&record.job, vm));
        record.leaving = rest;
        let size = record.job.spec.as_vm().map(|vm| vm.size().resources());
        let is_alive = is_alive(record.job.state);
        let is_leaving = record.leaving.is_some();
        let may_have_more = is_alive && (size != Some(most) || is_leaving);
        let next = || Box::new(Resize::of(most, ResizeStage::NextStart));
        record.job.resize = may_have_more.then(next);
        record.job.reason = Some(Reason::ActionFailed { message });
        self.insert(now, record, out);
        let entry = self.jobs.get(&id).filter(|_| is_alive);
        let look = entry.and_then(|entry| {
            let uuid = entry.record.job.domain_uuid?;
            Some(Look { uuid, hint: None, is_second: false, change: entry.change })
        });
        out.extend(look.map(Effect::Look));
    }

    /// Compares what libvirt shows of a guest that runs with what it is to have.
    pub(super) fn see_size(
        &mut self,
        now: Now,
        mut record: JobRecord,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        let Some(domain) = domain.filter(|_| is_alive(record.job.state)) else { return };
        let Some(entry) = self.jobs.get(&record.job.id) else { return };
        let before = entry.giving;
        if is_changing(&record.job) && before.is_none() {
            return;
        }
        let seen = seen_instead(&record.job, domain);
        let mut why = record.job.resize.as_ref().map(|r| r.why.clone()).unwrap_or_default();
        let (giving, stage) = match (before, seen) {
            (Some(giving), Some(has)) if giving.has != has => {
                (Some(Giving { has, since_ms: now.mono_ms }), ResizeStage::Changing)
            }
            (Some(giving), Some(_)) if now.mono_ms < giving.since_ms + GIVING_MS_MAX => return,
            (Some(_), _) => {
                why.push("the guest gives nothing more up".to_owned());
                (None, ResizeStage::NextStart)
            }
            (None, _) => (None, ResizeStage::NextStart),
        };
        self.jobs.change(&record.job.id, |entry| entry.giving = giving);
        let devices = record.job.resize.as_ref().map(|r| r.devices.clone()).unwrap_or_default();
        let next = as_resize(&record, seen, stage, (devices, why));
        let before = std::mem::replace(&mut record.job.resize, next);
        tell_leaving(&mut record);
        if before != record.job.resize {
            self.insert(now, record, out);
        }
    }

    /// Has those looked at that are not what their specs say.
    pub(super) fn watch_sizes(&mut self, now: Now, out: &mut Vec<Effect>) {
        let is_due = |since_ms: u64| now.mono_ms.saturating_sub(since_ms) >= LOOK_MS;
        let asks = |(id, entry): (&JobId, &Entry)| {
            let is_free = entry.work.is_none() && entry.record.leaving.is_some();
            (is_free && is_due(entry.looked_ms)).then(|| id.clone())
        };
        let asks: Vec<JobId> = self.jobs.iter().filter_map(asks).collect();
        for id in asks {
            self.jobs.change(&id, |entry| {
                (entry.asks_leaving, entry.looked_ms) = (true, now.mono_ms);
            });
            self.go_on(now, &id, out);
        }
        let look = |(id, entry): (&JobId, &Entry)| {
            let job = &entry.record.job;
            let uuid = job.domain_uuid.filter(|_| job.resize.is_some())?;
            let is_free = entry.work.is_none() && is_alive(job.state);
            let is_looked_at = is_free && (entry.giving.is_some() || is_due(entry.looked_ms));
            let look = Look { uuid, hint: None, is_second: false, change: entry.change };
            is_looked_at.then(|| (id.clone(), look))
        };
        let looks: Vec<(JobId, Look)> = self.jobs.iter().filter_map(look).collect();
        for (id, look) in looks {
            self.jobs.change(&id, |entry| entry.looked_ms = now.mono_ms);
            out.push(Effect::Look(look));
        }
    }
}

/// True while the host is at a change of the job's size.
pub(super) fn is_changing(job: &Job) -> bool {
    job.resize.as_ref().is_some_and(|resize| resize.stage == ResizeStage::Changing)
}

/// What is to be done for a change of size that is under way.
pub(super) fn work_of_resize(record: &JobRecord, vm: &VmSpec) -> Option<Work> {
    let job = &record.job;
    let has = job.resize.as_ref().filter(|resize| resize.stage == ResizeStage::Changing)?;
    let change = SizeChange {
        vcpus: Some(vm.vcpus).filter(|vcpus| *vcpus != has.vcpus),
        memory_bytes: Some(vm.memory_bytes).filter(|bytes| *bytes != has.memory_bytes),
        max_vcpus: vm.max_vcpus,
        max_memory_bytes: vm.max_memory_bytes,
        disks: grown_disks(record, vm),
        ..changed_devices(record, vm)
    };
    Some(Work::ResizeVm { vm: vm.clone(), change: Box::new(change) })
}

/// Disks that this change makes larger, and how large. All are to have what the spec says; but in pools only
/// these are looked at.
fn grown_disks(record: &JobRecord, vm: &VmSpec) -> BTreeMap<String, u64> {
    let Some(last) = &record.last_resize else { return BTreeMap::new() };
    let is_grown = |name: &str, bytes: u64| last.disks.get(name).is_some_and(|had| *had < bytes);
    let disks = vm.disks.iter().filter(|disk| is_grown(&disk.name, disk.size_bytes));
    disks.map(|disk| (disk.name.clone(), disk.size_bytes)).collect()
}

/// Disks and cards that this change brings.
fn changed_devices(record: &JobRecord, vm: &VmSpec) -> SizeChange {
    let before = record.last_resize.as_ref().and_then(|last| last.devices.as_ref());
    let Some(before) = before else { return SizeChange::default() };
    let is_in = |disks: &[DiskSpec], name: &str| disks.iter().any(|disk| disk.name == name);
    let added = vm.disks.iter().filter(|disk| !is_in(&before.disks, &disk.name));
    SizeChange {
        add_disks: added.cloned().collect(),
        add_nics: vm.nics.iter().filter(|nic| !before.nics.contains(nic)).cloned().collect(),
        ..SizeChange::default()
    }
}

fn disks_of(spec: &JobSpec) -> &[DiskSpec] {
    spec.as_vm().map_or(&[], |vm| &vm.disks)
}

fn has_devices_of(vm: &VmSpec, other: &VmSpec) -> bool {
    let names = |vm: &VmSpec| vm.disks.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>();
    names(vm) == names(other) && vm.nics == other.nics
}

/// A snapshot is of all disks.
fn check_snapshots_stay_whole(job: &Job, to: &JobSpec) -> Result<(), Refusal> {
    let (Some(vm), Some(to)) = (job.spec.as_vm(), to.as_vm()) else { return Ok(()) };
    let is_same = vm.disks.len() == to.disks.len()
        && vm.disks.iter().zip(&to.disks).all(|(disk, to)| disk.name == to.name);
    if is_same {
        return Ok(());
    }
    job.refuse_with_snapshots("they are of the disks that it has: remove them first")
}

/// A guest that leaves, or is written to disk, must be what its spec says or less: who takes it in
/// makes room for that.
pub(super) fn check_settled(job: &Job, done: &str) -> Result<(), Refusal> {
    if is_changing(job) {
        return Err(busy(job));
    }
    check_devices_are_there(job)?;
    if !job.has_more_than_asked() {
        return Ok(());
    }
    let needed = format!(
        "its guest has more than its spec says ({}) and can't be {done} so: stop and start it, or resize it to what it has",
        job.resize_words().unwrap_or_default()
    );
    Err(Refusal::WrongState { job: job.id.clone(), state: job.state, needed })
}

/// A guest without some of its disks is not touched where all of them count.
pub(super) fn check_devices_are_there(job: &Job) -> Result<(), Refusal> {
    let Some(devices) = job.awaited_devices() else { return Ok(()) };
    let needed = format!("it is {devices} until its next start: stop and start it first");
    Err(Refusal::WrongState { job: job.id.clone(), state: job.state, needed })
}

fn is_alive(state: JobState) -> bool {
    matches!(state, JobState::Running | JobState::Paused)
}

/// What it counts for, if it counts: while it is alive, and while it may be started again under the
/// hold that it has.
fn promised(job: &Job) -> Option<Resources> {
    (!job.state.is_ended() || job.has_right()).then(|| job.promised())
}

/// What stays promised until a change to this size is through: what its guest has, and of what it is to have
/// less of also what it waits for. Should the change fail, it has that again, and nobody else.
fn keeps(job: &Job, to: &JobSpec) -> Resources {
    let (had, asked, to) = (had(job), job.spec.resources(), to.resources());
    let vcpus = if to.vcpus < asked.vcpus { asked.vcpus } else { 0 };
    let memory_bytes = if to.memory_bytes < asked.memory_bytes { asked.memory_bytes } else { 0 };
    had.max(Resources { vcpus, memory_bytes, disk_bytes: 0 })
}

/// What its guest has; of one that is off what it would have had.
fn had(job: &Job) -> Resources {
    let asked = job.spec.resources();
    match &job.resize {
        Some(resize) => Resources { disk_bytes: asked.disk_bytes, ..resize.resources() },
        None => asked,
    }
}

/// What is wrong with its state for another size, if anything.
fn unfit(record: &JobRecord) -> Option<String> {
    let job = &record.job;
    let needed = match (job.state, &record.intent, &job.reason) {
        (_, Intent::Delete | Intent::Release, _) => "it is being given up",
        (JobState::Stopped, _, Some(Reason::Saved)) => {
            "its memory is saved, and goes on in the size it was saved with: start it first"
        }
        (JobState::Stopped, _, Some(Reason::Migrated { .. })) => {
            "it has moved away: resize it where it is"
        }
        (JobState::Running | JobState::Paused, ..) => return None,
        (state, ..) if state.is_ended() => return None,
        _ => "wait until it runs, or has ended",
    };
    Some(needed.to_owned())
}

fn no_vm(id: &JobId) -> Refusal {
    let message = format!("job {id} is no VM: services have no size, and a budget is put anew");
    Refusal::Invalid { message }
}

fn busy(job: &Job) -> Refusal {
    let what = format!("the last change of size of job {} is under way", job.id);
    Refusal::Busy { what, limit: 1, retry_after_ms: RETRY_MS }
}

/// What is to be said of a guest that has something else than its spec says, if anything is.
pub(super) fn as_resize(
    record: &JobRecord,
    seen: Option<Resources>,
    stage: ResizeStage,
    (devices, why): (Vec<String>, Vec<String>),
) -> Option<Box<Resize>> {
    let size = || record.job.spec.as_vm().map(|vm| vm.size().resources());
    let has_others = !devices.is_empty() || record.leaving.is_some();
    let has = seen.or_else(|| size().filter(|_| has_others))?;
    Some(Box::new(Resize { devices, why, ..Resize::of(has, stage) }))
}

/// What a guest has, when that is not what its spec says. Memory that its machine has is the guest's to
/// use; what it has of a machine with more counts as far as it has not given it back.
fn seen_instead(job: &Job, domain: &DomainInfo) -> Option<Resources> {
    let vm = job.spec.as_vm()?;
    let whole_mib = |bytes: u64| bytes.div_ceil(1 << 20) << 20;
    let machine = whole_mib(domain.resources.memory_bytes);
    let memory_bytes = match machine {
        machine if machine == vm.memory_bytes => machine,
        _ => whole_mib(domain.memory_now_bytes),
    };
    let has = Resources { vcpus: domain.resources.vcpus, memory_bytes, disk_bytes: 0 };
    // A domain that can't be read is shown with nothing.
    let is_known = domain.resources != Resources::ZERO;
    (is_known && has != vm.size().resources()).then_some(has)
}
