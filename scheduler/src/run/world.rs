//! A small world of hosts for tests of the run machine: idempotent as agents are, and unreliable
//! as networks are. It keeps a ledger of its own, so that a test can count what really happened.

use std::collections::{BTreeMap, BTreeSet};

use planner::{Expectation, Level, Limits, PlanInput, Setback};
use protocol::admission::{Arrival, Room, admit};
use protocol::api::{ResizeJob, Want};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, HostId, JobId, OfferId, Revision, RunId};
use protocol::job::{Job, JobSpec, JobState, Migration, Reason, Resize, ResizeStage, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Action, Handoff, Offer};
use protocol::view::View;
use protocol::vm::{OnLoss, VmSpec};

use crate::judge::{ended, incoming, is_ours, is_up, resized, running, sent};
use crate::run::{Answer, No};
use crate::task::{Ask, Dispatch, TaskResult};

/// What is wrong with one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) refuses: bool,
    pub(super) fails_starts: bool,
    /// What is accepted does not come up.
    pub(super) dawdles: bool,
    /// Somebody there has what comes up stopped at once.
    pub(super) is_stopped_by: Option<Reason>,
    pub(super) fails_sends: bool,
    pub(super) fails_fetches: bool,
    pub(super) fails_resizes: bool,
    /// What is alive there is used by somebody, and stays.
    pub(super) is_in_use: bool,
}

#[derive(Debug)]
pub(super) struct FakeHost {
    key: SecretKey,
    pub(super) host: Host,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) faults: Faults,
    offers: u64,
    used: BTreeSet<OfferId>,
    claims: BTreeMap<RunId, u64>,
    undone: BTreeSet<(RunId, u32)>,
    froms: BTreeMap<JobId, (HostId, OfferId)>,
    befores: BTreeMap<JobId, (RunKey, JobSpec)>,
    seq: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) hosts: BTreeMap<HostId, FakeHost>,
    /// Every start of a guest that ever happened: host and revision.
    pub(super) starts: Vec<(HostId, Revision)>,
    /// True when a job was ever alive in two places at once.
    pub(super) ran_twice: bool,
    /// Moves of others, by task and whether it is the way back, and how they ended.
    errands: BTreeSet<(u32, bool)>,
    ends: BTreeMap<u32, Answer>,
    /// Others that were moved are not taken back.
    pub(super) gives_nobody_back: bool,
    /// So many offers more end before enough arbiters have said yes.
    pub(super) offers_to_end: u32,
}

pub(super) fn job_id() -> JobId {
    JobId::new("web-1").unwrap()
}

pub(super) fn spec() -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: 1 << 30,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

impl World {
    pub(super) fn new(count: u8) -> Self {
        let hosts = (0..count).map(|n| {
            let key = SecretKey::from_seed([n + 1; 32]);
            let id = HostId::of(&key.public());
            let hypervisor = HypervisorFacts {
                driver: "QEMU".into(),
                accel: Accel::Tcg,
                can_receive: true,
                can_guard: true,
                ..HypervisorFacts::default()
            };
            let host = Host {
                id: id.clone(),
                name: format!("host{n}"),
                hypervisor,
                // Each host has a little less room, so that plans prefer the earlier one.
                capacity: Resources {
                    vcpus: 64 - 8 * u32::from(n),
                    memory_bytes: 64 << 30,
                    disk_bytes: 0,
                },
                trust_version: Some(1),
                ..Host::of_key(key.public())
            };
            let fake = FakeHost {
                key,
                host,
                jobs: BTreeMap::new(),
                faults: Faults::default(),
                offers: 0,
                used: BTreeSet::new(),
                claims: BTreeMap::new(),
                undone: BTreeSet::new(),
                froms: BTreeMap::new(),
                befores: BTreeMap::new(),
                seq: 0,
            };
            (id, fake)
        });
        Self {
            hosts: hosts.collect(),
            starts: vec![],
            ran_twice: false,
            gives_nobody_back: false,
            offers_to_end: 0,
            errands: BTreeSet::new(),
            ends: BTreeMap::new(),
        }
    }

    /// The host that a plan chooses first, then the next.
    pub(super) fn by_preference(&self) -> Vec<HostId> {
        let mut hosts: Vec<&FakeHost> = self.hosts.values().collect();
        hosts.sort_by_key(|fake| std::cmp::Reverse(fake.host.capacity.vcpus));
        hosts.iter().map(|fake| fake.host.id.clone()).collect()
    }

    /// A job that runs already, put there by somebody else.
    pub(super) fn place(&mut self, host: &HostId, state: JobState) {
        let fake = self.hosts.get_mut(host).unwrap();
        let hold = Some(OfferId { epoch: Epoch(1), num: 999 });
        let job = Job { hold, ..Job::of(job_id(), spec(), state) };
        fake.jobs.insert(job_id(), job);
    }

    /// Another job that runs there and has so much memory.
    pub(super) fn occupy(&mut self, host: &HostId, n: usize, memory_bytes: u64) {
        let fake = self.hosts.get_mut(host).unwrap();
        let vm = VmSpec { vcpus: 1, memory_bytes, ..VmSpec::default() };
        let id = JobId::new(format!("other-{n}")).unwrap();
        let job = Job::of(id, JobSpec::vm(vm), JobState::Running);
        fake.host.allocation = fake.host.allocation.plus(job.allocation());
        fake.jobs.insert(job.id.clone(), job);
    }

    /// A run of its own moves another job, if it is there and the target has room.
    fn move_other(&mut self, id: &JobId, from: &HostId, to: &HostId) -> Answer {
        let Some(job) = self.hosts[from].jobs.get(id).cloned() else {
            return Answer::Done(TaskResult::Done);
        };
        let (takes, target) = (job.allocation(), &self.hosts[to].host);
        let has_room = takes.fits_in(target.capacity.minus(target.allocation));
        if !has_room || self.hosts[from].faults.fails_sends {
            return Answer::Refused(No::Failed("it stays".into()));
        }
        let source = self.fake(from);
        source.jobs.remove(id);
        source.host.allocation = source.host.allocation.minus(takes);
        let target = self.fake(to);
        target.host.allocation = target.host.allocation.plus(takes);
        target.jobs.insert(id.clone(), job);
        Answer::Done(TaskResult::Done)
    }

    /// A run of its own stops another job, or starts it again where it was.
    fn set_other(&mut self, id: &JobId, host: &HostId, state: JobState) -> Answer {
        let fake = self.fake(host);
        let job = fake.jobs.get_mut(id).expect("who is stopped is there");
        let before = job.allocation();
        job.state = state;
        let after = job.allocation();
        fake.host.allocation = fake.host.allocation.minus(before).plus(after);
        Answer::Done(TaskResult::Done)
    }

    pub(super) fn plan_input(&self, want: &Want, setbacks: Vec<Setback>) -> PlanInput {
        let mut view = View::default();
        for fake in self.hosts.values() {
            view.merge_inventory(Inventory {
                cursor: Cursor { epoch: Epoch(1), seq: fake.seq + 1 },
                host: fake.host.clone(),
                jobs: fake.jobs.values().cloned().collect(),
                observed: vec![],
            });
        }
        let expectations = Expectation::of(want).into_iter().collect();
        let limits = Limits { preempts_for: Some(Level::Must), ..Limits::default() };
        PlanInput { view, expectations, setbacks, limits, ..Default::default() }
    }

    /// Time passes on the hosts: what was accepted starts, what was sent arrives.
    pub(super) fn settle(&mut self) {
        let mut arrived = Vec::new();
        for fake in self.hosts.values_mut() {
            for job in fake.jobs.values_mut() {
                if job.resize.take().is_some() && fake.faults.fails_resizes {
                    job.reason = Some(Reason::ActionFailed { message: "no".into() });
                    job.spec = fake.befores.remove(&job.id).unwrap().1.into();
                }
                match job.state {
                    JobState::Accepted if fake.faults.fails_starts => {
                        job.state = JobState::Failed;
                        job.reason = Some(Reason::StartFailed { message: "no".into() });
                    }
                    JobState::Accepted if fake.faults.dawdles => {}
                    JobState::Accepted if fake.faults.is_stopped_by.is_some() => {
                        job.state = JobState::Stopped;
                        job.reason.clone_from(&fake.faults.is_stopped_by);
                        self.starts.push((fake.host.id.clone(), job.revision));
                    }
                    JobState::Accepted => {
                        job.state = JobState::Running;
                        self.starts.push((fake.host.id.clone(), job.revision));
                    }
                    JobState::Stopping => job.state = JobState::Stopped,
                    JobState::MigratingIn => {
                        let (from, _) = fake.froms[&job.id].clone();
                        let url = "https://10.0.0.2:7460".into();
                        job.migration = Some(Migration::Incoming { from, url }.into());
                    }
                    JobState::MigratingOut if fake.faults.fails_sends => {
                        job.state = JobState::Running;
                        job.migration = None;
                        job.reason = Some(Reason::MigrationFailed { message: "no".into() });
                    }
                    JobState::MigratingOut => arrived.push((fake.host.id.clone(), job.id.clone())),
                    _ => {}
                }
            }
        }
        for (from, id) in arrived {
            self.let_go(&from, &id);
        }
        let is_alive = |job: &&Job| {
            matches!(
                job.state,
                JobState::Running | JobState::Paused | JobState::MigratingOut | JobState::Starting
            )
        };
        let ours = self.hosts.values().filter_map(|fake| fake.jobs.get(&job_id()));
        let alive = ours.filter(is_alive);
        self.ran_twice |= alive.count() > 1;
    }

    fn let_go(&mut self, from: &HostId, id: &JobId) {
        let Some(Migration::Outgoing { to, .. }) =
            self.hosts[from].jobs[id].migration.as_deref().cloned()
        else {
            return;
        };
        let Some(target) = self.hosts[&to].jobs.get(id) else { return };
        let to_hold = target.hold.unwrap();
        let fake = self.hosts.get_mut(from).unwrap();
        let job = fake.jobs.get_mut(id).unwrap();
        let handoff = Handoff {
            job: id.clone(),
            from: from.clone(),
            hold: job.hold.unwrap(),
            to: to.clone(),
            to_hold,
        };
        job.state = JobState::Stopped;
        job.reason = Some(Reason::Migrated { to: to.clone() });
        let handoff = Some(Signed::seal(&handoff, &fake.key));
        let outgoing =
            Migration::Outgoing { to, moved_bytes: 1, total_bytes: 1, memory: None, handoff };
        job.migration = Some(outgoing.into());
    }

    /// What the executor and the agents would make of it.
    pub(super) fn perform(&mut self, dispatch: &Dispatch) -> Answer {
        let Dispatch { key, job: id, ask, .. } = dispatch;
        let done = Answer::Done(TaskResult::Done);
        let wait = |answer: Option<Answer>| {
            answer.unwrap_or_else(|| Answer::NotYet { note: "on its way".into() })
        };
        match ask {
            Ask::MakeRoom { job, to, .. } => {
                // A run that has ended is not begun again under the same id.
                let is_new = self.errands.insert((key.task, false));
                let from = self.hosts.iter().find(|(_, fake)| fake.jobs.contains_key(job));
                let from = from.map(|(host, _)| host.clone());
                match from {
                    Some(from) if is_new => {
                        let answer = self.move_other(job, &from, to);
                        self.ends.insert(key.task, answer.clone());
                        answer
                    }
                    _ => self.ends.get(&key.task).cloned().unwrap_or(done),
                }
            }
            Ask::GiveBack { job, from, to, .. } => {
                let has_moved = self.ends.get(&key.task) == Some(&done);
                if self.gives_nobody_back && has_moved {
                    return Answer::Refused(No::Failed("it stays".into()));
                }
                match has_moved && self.errands.insert((key.task, true)) {
                    true => self.move_other(job, to, from),
                    false => done,
                }
            }
            Ask::Preempt { job, host, .. } => {
                let is_new = self.errands.insert((key.task, false));
                match is_new {
                    true => self.set_other(job, host, JobState::Stopped),
                    false => done,
                }
            }
            Ask::StartAgain { job, host, .. } => {
                let was_stopped = self.errands.contains(&(key.task, false));
                match was_stopped && self.errands.insert((key.task, true)) {
                    true => self.set_other(job, host, JobState::Running),
                    false => done,
                }
            }
            Ask::Wake(_) | Ask::AwaitAwake(_) => done,
            Ask::Drain(_)
            | Ask::Undrain(_)
            | Ask::AwaitEmpty(_)
            | Ask::Sleep(_)
            | Ask::WakeAgain(_) => done,
            Ask::Fetch(host, fetch) => {
                for from in &fetch.from {
                    let there = self.hosts[from].host.images.get(&fetch.image);
                    assert_eq!(there, Some(&fetch.facts), "who is asked has it");
                }
                let fake = self.fake(host);
                if fake.faults.fails_fetches {
                    return Answer::Refused(No::Failed("the line was cut".into()));
                }
                fake.host.images.insert(fetch.image.clone(), fetch.facts.clone());
                fake.host.capacity.disk_bytes -= fetch.facts.file_bytes;
                done
            }
            Ask::Offer(host, request) => {
                let fake = self.fake(host);
                let checked = match request.action {
                    Action::Resize => fake.check_resize(id, request.revision, &request.spec),
                    _ => fake.check(id, request.revision, &request.spec),
                };
                if let Err(no) = checked {
                    return refused(no);
                }
                fake.offers += 1;
                let offer = Offer {
                    host: host.clone(),
                    id: OfferId { epoch: Epoch(1), num: fake.offers },
                    job: id.clone(),
                    revision: request.revision,
                    spec: request.spec.digest(),
                    action: request.action.clone(),
                    resources: request.spec.resources(),
                    tenant: request.spec.tenant.clone(),
                    plan: BTreeMap::new(),
                    on_loss: OnLoss::Keep,
                    trust_version: 1,
                    agreed: None,
                };
                let offer = Signed::seal(&offer, &fake.key);
                Answer::Done(TaskResult::Offer { offer })
            }
            Ask::VoidOffer(..) => done,
            Ask::Grants(_) if self.offers_to_end > 0 => {
                self.offers_to_end -= 1;
                Answer::OfferOver { why: "ended".into() }
            }
            Ask::Grants(_) => Answer::Done(TaskResult::Grants { grants: vec![] }),
            Ask::Put(host, body) => {
                let fake = self.fake(host);
                if let Err(no) = fake.claim(*key) {
                    return refused(no);
                }
                let known = fake.jobs.get(id);
                if known.is_some_and(|j| j.revision == body.revision && *j.spec == body.spec) {
                    return done;
                }
                if body.must_exist && known.is_none() {
                    return refused(Refusal::NoSuchJob { job: id.clone() });
                }
                if let Err(no) = fake.check(id, body.revision, &body.spec) {
                    return refused(no);
                }
                let offer = body.ticket.as_ref().unwrap().offer.open().unwrap();
                if !fake.used.insert(offer.id) {
                    return Answer::OfferOver { why: "used".into() };
                }
                let state = match offer.action {
                    Action::Resize | Action::Delegate { .. } => {
                        panic!("a ticket to resize or for a budget, shown to start")
                    }
                    Action::Start | Action::FailOver { .. } => JobState::Accepted,
                    Action::MigrateIn { from, hold } => {
                        fake.froms.insert(id.clone(), (from, hold));
                        JobState::MigratingIn
                    }
                };
                let job = Job {
                    revision: body.revision,
                    hold: Some(offer.id),
                    run: body.run,
                    ..Job::of(id.clone(), body.spec.clone(), state)
                };
                fake.jobs.insert(id.clone(), job);
                done
            }
            Ask::Discard { host, revision, is_new, keeps_running } => {
                let fake = self.fake(host);
                let ours = fake.jobs.get(id).map(|j| is_ours(j, *key) && j.revision == *revision);
                match ours {
                    Some(false) => return done,
                    None if !is_new => return done,
                    Some(true) | None => {}
                }
                if *keeps_running && fake.jobs.get(id).is_some_and(|job| is_up(job, *revision)) {
                    return Answer::TooLate;
                }
                let is_in_use = fake.faults.is_in_use;
                if let Some(job) = fake.jobs.get_mut(id)
                    && !job.state.is_ended()
                    && job.state != JobState::MigratingIn
                {
                    if is_in_use {
                        return Answer::TooLate;
                    }
                    job.state = JobState::Stopping;
                    return Answer::NotYet { note: "stopping".into() };
                }
                if *is_new { fake.delete(id, *key) } else { done }
            }
            Ask::AwaitRunning(host, revision) => {
                wait(running(self.fake(host).jobs.get(id), *revision))
            }
            Ask::Resize(host, body) => self.fake(host).resize(id, body, *key),
            Ask::UndoResize(host) => self.fake(host).undo_resize(id, *key),
            Ask::AwaitResized(host, revision, size) => {
                wait(resized(self.fake(host).jobs.get(id), *revision, size))
            }
            Ask::AwaitIncoming(host) => wait(incoming(self.fake(host).jobs.get(id))),
            Ask::Send(from, body, _) => {
                let fake = self.fake(from);
                if let Err(no) = fake.claim(*key) {
                    return refused(no);
                }
                let Some(job) = fake.jobs.get_mut(id) else {
                    return Answer::Refused(No::Failed("gone".into()));
                };
                if job.state == JobState::Running {
                    job.state = JobState::MigratingOut;
                    job.run = Some(*key);
                    job.migration = Some(Box::new(Migration::Outgoing {
                        to: body.to.clone(),
                        memory: None,
                        moved_bytes: 0,
                        total_bytes: 0,
                        handoff: None,
                    }));
                }
                done
            }
            Ask::CancelSend { from, .. } => {
                let job = self.fake(from).jobs.get_mut(id).unwrap();
                match job.state {
                    JobState::MigratingOut => {
                        job.state = JobState::Running;
                        job.reason = Some(Reason::MigrationCancelled);
                        job.migration = None;
                        done
                    }
                    JobState::Stopped => Answer::TooLate,
                    _ => done,
                }
            }
            Ask::AwaitSent { from, to } => wait(sent(self.fake(from).jobs.get(id), to)),
            Ask::HandOver(to, handoff) => {
                assert!(handoff.is_some(), "a source that let go has said so");
                let fake = self.fake(to);
                let id_of = fake.host.id.clone();
                if let Some(job) = fake.jobs.get_mut(id)
                    && job.state == JobState::MigratingIn
                {
                    job.state = JobState::Running;
                    job.migration = None;
                    let revision = job.revision;
                    self.starts.push((id_of, revision));
                }
                done
            }
            Ask::Stop { host, .. } => {
                let fake = self.fake(host);
                if let Err(no) = fake.claim(*key) {
                    return refused(no);
                }
                match fake.jobs.get_mut(id) {
                    Some(job) if !job.state.is_ended() => {
                        job.state = JobState::Stopping;
                        done
                    }
                    _ => done,
                }
            }
            Ask::AwaitEnded(host) => wait(ended(self.fake(host).jobs.get(id))),
            Ask::Delete(host, _) => self.fake(host).delete(id, *key),
        }
    }

    fn fake(&mut self, host: &HostId) -> &mut FakeHost {
        let fake = self.hosts.get_mut(host).unwrap();
        fake.seq += 1;
        fake
    }
}

impl FakeHost {
    fn claim(&mut self, key: RunKey) -> Result<(), Refusal> {
        let seen = self.claims.entry(key.run).or_insert(0);
        if key.claim < *seen {
            return Err(Refusal::StaleClaim { seen: *seen, given: key.claim });
        }
        *seen = key.claim;
        if self.undone.contains(&(key.run, key.task)) {
            return Err(Refusal::TaskUndone { task: key.task });
        }
        Ok(())
    }

    fn check(&self, id: &JobId, revision: Revision, spec: &JobSpec) -> Result<(), Refusal> {
        if self.faults.refuses {
            let image = protocol::id::ImageName::new("x").unwrap();
            return Err(Refusal::NoImage { image });
        }
        if let Some(job) = self.jobs.get(id) {
            if revision <= job.revision {
                let (job, current) = (id.clone(), job.revision);
                return Err(Refusal::RevisionConflict { job, current });
            }
            if !job.state.is_ended() {
                let (job, state) = (id.clone(), job.state);
                return Err(Refusal::WrongState { job, state, needed: String::new() });
            }
        }
        admit(Room::of(&self.host), spec, Arrival::Start)
    }

    fn check_resize(&self, id: &JobId, revision: Revision, to: &JobSpec) -> Result<(), Refusal> {
        let Some(job) = self.jobs.get(id) else {
            return Err(Refusal::NoSuchJob { job: id.clone() });
        };
        if revision <= job.revision {
            let (job, current) = (id.clone(), job.revision);
            return Err(Refusal::RevisionConflict { job, current });
        }
        let capacity = self.host.capacity;
        if self.faults.refuses || !to.resources().fits_in(capacity) {
            let (job, asked, at_most) = (id.clone(), to.resources(), job.spec.resources());
            return Err(Refusal::NoRoomToGrow { job, asked, at_most, capacity });
        }
        Ok(())
    }

    fn resize(&mut self, id: &JobId, body: &ResizeJob, key: RunKey) -> Answer {
        if let Err(no) = self.claim(key) {
            return refused(no);
        }
        let Some(job) = self.jobs.get(id) else {
            return refused(Refusal::NoSuchJob { job: id.clone() });
        };
        let before = JobSpec::clone(&job.spec);
        let to = before.with_size(|size| size.changed(&body.size)).unwrap();
        if job.revision == body.revision && before == to {
            return Answer::Done(TaskResult::Done);
        }
        if let Err(no) = self.check_resize(id, body.revision, &to) {
            return refused(no);
        }
        let grows = !to.resources().fits_in(before.resources());
        let offer = body.ticket.as_ref().map(|ticket| ticket.offer.open().unwrap());
        assert_eq!(grows, offer.is_some(), "a ticket is for growing");
        if offer.as_ref().is_some_and(|offer| !self.used.insert(offer.id)) {
            return Answer::OfferOver { why: "used".into() };
        }
        let job = self.jobs.get_mut(id).unwrap();
        job.hold = offer.map(|offer| offer.id).or(job.hold);
        let has = Resources { disk_bytes: 0, ..before.resources() };
        job.resize = Some(Box::new(Resize::of(has, ResizeStage::Changing)));
        (job.spec, job.revision, job.run) = (to.into(), body.revision, Some(key));
        self.befores.insert(id.clone(), (key, before));
        Answer::Done(TaskResult::Done)
    }

    fn undo_resize(&mut self, id: &JobId, key: RunKey) -> Answer {
        self.undone.insert((key.run, key.task));
        let of = |key: RunKey| (key.run, key.task);
        let Some((_, before)) = self.befores.get(id).filter(|(by, _)| of(*by) == of(key)).cloned()
        else {
            return Answer::Done(TaskResult::Done);
        };
        let job = self.jobs.get_mut(id).unwrap();
        if !before.resources().fits_in(job.promised()) {
            return Answer::TooLate;
        }
        job.spec = before.into();
        job.revision = Revision(job.revision.0 + 1);
        job.resize = None;
        self.befores.remove(id);
        Answer::Done(TaskResult::Done)
    }

    fn delete(&mut self, id: &JobId, key: RunKey) -> Answer {
        self.undone.insert((key.run, key.task));
        match self.jobs.get(id) {
            Some(job) if !job.state.is_ended() && job.state != JobState::MigratingIn => {
                let (job, state) = (id.clone(), job.state);
                refused(Refusal::WrongState { job, state, needed: String::new() })
            }
            _ => {
                self.jobs.remove(id);
                Answer::Done(TaskResult::Done)
            }
        }
    }
}

fn refused(no: Refusal) -> Answer {
    if let Refusal::StaleClaim { seen, .. } = no {
        return Answer::ClaimLost { seen };
    }
    Answer::Refused(No::Host(no, Resources::ZERO))
}
