//! L5: planned steps that are no longer possible when it is their turn. Engines plan runs and carry them out as
//! controllers do ([`Run`], [`Knowledge`], [`Drain`]) on pictures that are late, while VMs come and go ten times as fast as
//! in a public cloud and one host after the other is emptied. Hosts say yes and no by their own admission.
//!
//! ```text
//!   somebody wants a VM ───────────────────▶ a run: plan ─▶ offer ─▶ grants ─▶ put ─▶ it runs
//!   a host is drained ─▶ plan of all moves ─▶ two runs at a time; planned anew when one has ended
//! ```

use std::collections::BTreeMap;

use planner::steps::MigrateVm;
use planner::{Shards, State, Step, plan};
use protocol::admission::{Arrival, Room, admit};
use protocol::api::{NewRun, OfferRequest, RunState, Want};
use protocol::event::Event;
use protocol::host::{Host, HostIntent};
use protocol::id::{Epoch, HostId, JobId, OfferId, Revision, RunId, TenantId};
use protocol::job::{Job, JobState};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{Digest, SecretKey, Signed};
use protocol::ticket::{Action, Offer};
use protocol::view::View;
use protocol::vm::OnLoss;
use scheduler::cores::{Drain, DrainEffect, DrainInput, DrainOpen};
use scheduler::judge::met_at;
use scheduler::{
    Answer, Ask, Circumstances, Dispatch, Effect, Input, Knowledge, No, Picture, Run, RunRecord,
    TaskResult,
};
use serde_json::{Value, json};

use crate::world::{self, Lots, World, round};

const HOSTS: usize = 300;
const ENGINES: usize = 3;
/// How late a picture is.
const LATE_MS: u64 = 1_000;
/// How long VMs come and go.
const LASTS_MS: u64 = 3_600_000;
/// A public cloud's VMs come in bursts of 1.8, and so many hosts see 390 an hour; this is ten times that.
const BURST_EVERY_MS: usize = 1_660;
/// An engine looks so often whether more can be moved.
const LOOK_MS: u64 = 500;
/// As many leave a host at a time.
const LEAVING_MAX: usize = 2;
/// Between one host that was emptied and the next.
const REST_MS: u64 = 10_000;
/// What of a guest's memory goes over the wire in a millisecond: 10 Gbit/s.
const BYTES_PER_MS: u64 = 1_250_000;

pub(crate) fn run() -> Vec<Value> {
    [80, 95].into_iter().flat_map(lines).collect()
}

fn lines(percent: u32) -> [Value; 2] {
    let mut replay = Replay::new(percent);
    replay.go();
    let Figures { starts, moves, whole, drained, gone } = replay.figures;
    let line = |what: &str, count: Count, baseline: Value| {
        let mut line = json!({ "name": "L5", "steps": what, "used_percent": percent, "hosts": HOSTS,
            "engines": ENGINES, "late_ms": LATE_MS, "value": round(count.share()),
            "unit": "% of planned steps that were impossible in their turn",
            "n": count.planned, "invalid": count.invalid, "target": 5 });
        line.as_object_mut()
            .expect("an object")
            .extend(baseline.as_object().cloned().into_iter().flatten());
        line
    };
    let against = json!({ "baseline": "the first plan of each drained host, carried out as it is",
        "baseline_percent": round(whole.share()), "ratio": round(moves.share() / whole.share()),
        "hosts_emptied": drained, "gone_meanwhile": gone });
    [line("starts", starts, json!({ "baseline": 0 })), line("moves", moves, against)]
}

/// Planned steps, and those of them that could not be taken.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    planned: u64,
    invalid: u64,
}

impl Count {
    fn share(&self) -> f64 {
        self.invalid as f64 * 100.0 / self.planned as f64
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    starts: Count,
    moves: Count,
    /// Moves of the first plan of each drain.
    whole: Count,
    drained: u64,
    /// VMs that have ended.
    gone: u64,
}

/// What is still to come.
enum Due {
    /// Somebody wants some VMs, and others go.
    Burst,
    /// The engine that empties hosts looks.
    Look,
    /// Something that was asked for is done, or is not.
    Done(RunId, Box<Dispatch>),
    /// A run is to look again.
    Tick(RunId),
}

struct Engine {
    view: View,
    /// Events that it has seen.
    seen: usize,
    knowledge: Knowledge,
}

struct Going {
    engine: usize,
    run: Run,
}

/// The host that is being emptied.
struct Emptying {
    host: HostId,
    /// What was planned first, of which nothing is carried out: each is judged when its turn would be.
    first: Option<std::vec::IntoIter<MigrateVm>>,
}

struct Replay {
    lots: Lots,
    world: World,
    now_ms: u64,
    events: Vec<(u64, Event)>,
    due: BTreeMap<(u64, u64), Due>,
    count: u64,
    engines: Vec<Engine>,
    runs: BTreeMap<RunId, Going>,
    drain: Drain,
    emptying: Option<Emptying>,
    rests_until_ms: u64,
    /// Where each VM is alive, in the order in which they came.
    homes: BTreeMap<JobId, HostId>,
    latest: Vec<JobId>,
    /// What hosts have offered room for.
    offered: BTreeMap<(HostId, JobId), (Resources, JobState)>,
    offer: Signed<Offer>,
    vcpus: u64,
    vcpus_full: u64,
    figures: Figures,
}

impl Replay {
    fn new(percent: u32) -> Self {
        let world = World::filled(HOSTS, percent, 200, OnLoss::Keep);
        let mut homes = BTreeMap::new();
        for (host, row) in world.view.hosts() {
            homes.extend(row.jobs.keys().map(|job| (job.clone(), host.clone())));
        }
        let engines = (0..ENGINES as u64).map(|n| {
            let mut knowledge = Knowledge::default();
            knowledge.share_with(Shards::new(n + 1, 1..=ENGINES as u64));
            Engine { view: world.view.clone(), seen: 0, knowledge }
        });
        let vcpus = world.view.hosts().map(|(_, row)| u64::from(row.host.allocation.vcpus)).sum();
        Self {
            lots: Lots(0x4444_5678_9abc_def1),
            engines: engines.collect(),
            latest: homes.keys().cloned().collect(),
            world,
            now_ms: 0,
            events: Vec::new(),
            due: BTreeMap::new(),
            count: 0,
            runs: BTreeMap::new(),
            drain: Drain::default(),
            emptying: None,
            rests_until_ms: 0,
            homes,
            offered: BTreeMap::new(),
            offer: offer(),
            vcpus,
            vcpus_full: vcpus,
            figures: Figures::default(),
        }
    }

    fn go(&mut self) {
        self.after(0, Due::Burst);
        self.after(0, Due::Look);
        while let Some(((at_ms, _), due)) = self.due.pop_first() {
            self.now_ms = at_ms;
            match due {
                Due::Burst if at_ms < LASTS_MS => self.burst(),
                Due::Look if at_ms < LASTS_MS => self.look(),
                Due::Burst | Due::Look => {}
                Due::Done(run, dispatch) => self.done(run, *dispatch),
                Due::Tick(run) => self.feed(run, Input::Tick),
            }
        }
        for (_, row) in self.world.view.hosts() {
            assert!(row.host.allocation.fits_in(row.host.capacity), "{} has too much", row.host.id);
        }
    }

    fn after(&mut self, ms: u64, due: Due) {
        self.count += 1;
        self.due.insert((self.now_ms + ms, self.count), due);
    }

    // VMs that come and go.

    fn burst(&mut self) {
        // One in ten is of several, and one in fifty of dozens.
        let count = match self.lots.next(100) {
            0..90 => 1,
            90..98 => 2 + self.lots.next(7),
            _ => 10 + self.lots.next(31),
        };
        while self.vcpus > self.vcpus_full {
            self.leave();
        }
        for _ in 0..count {
            let spec = world::spec(self.lots.size(), OnLoss::Keep);
            let job = JobId::new(format!("new-{}", self.count)).expect("a name");
            let engine = self.lots.next(ENGINES);
            self.begin(engine, Want::Run { job, spec, on: None, again: false });
        }
        let pause = self.lots.next(2 * BURST_EVERY_MS) as u64;
        self.after(pause, Due::Burst);
    }

    /// Somebody has a VM deleted that runs: every second time one of those that came last, as most live for minutes.
    fn leave(&mut self) {
        let among = if self.lots.next(2) == 0 { 100 } else { self.latest.len() };
        let at = self.latest.len() - 1 - self.lots.next(among.min(self.latest.len()));
        let job = self.latest[at].clone();
        let host = self.homes[&job].clone();
        let row = self.row(&host, &job).expect("it is there");
        // Whoever wants it gone while it moves is told to wait.
        if row.state == JobState::Running {
            self.latest.remove(at);
            self.homes.remove(&job);
            self.vcpus -= u64::from(row.spec.takes().vcpus);
            self.figures.gone += 1;
            self.tell(&host, Some(&row), None);
        }
    }

    // The emptying of hosts.

    fn look(&mut self) {
        self.after(LOOK_MS, Due::Look);
        let Some(emptying) = &self.emptying else {
            if self.now_ms >= self.rests_until_ms {
                self.begin_emptying();
            }
            return;
        };
        let host = emptying.host.clone();
        let row = self.world.view.host(&host).expect("known");
        if row.jobs.is_empty() {
            let facts = Host { intent: None, ..Host::clone(&row.host) };
            self.say(facts);
            self.figures.drained += 1;
            // What is left of the first plan is of VMs that have gone by themselves.
            self.judge_first(usize::MAX);
            (self.emptying, self.rests_until_ms) = (None, self.now_ms + REST_MS);
            return;
        }
        let leaving = self.runs.values().filter_map(|going| match &going.run.record().want {
            Want::Migrate { job, to, .. } => Some((job.clone(), to.clone())),
            _ => None,
        });
        let open: Vec<DrainOpen> = leaving
            .map(|(job, to)| DrainOpen { job, from: Some(host.clone()), to: Some(to) })
            .collect();
        // No third one would be begun, whatever is planned.
        if open.len() >= LEAVING_MAX {
            return;
        }
        let moves = self.moves(&host);
        let emptying = self.emptying.as_mut().expect("just seen");
        if emptying.first.is_none() && !moves.is_empty() {
            emptying.first = Some(moves.clone().into_iter());
        }
        let mut out = Vec::new();
        self.drain.handle(self.now_ms, DrainInput::Looked { moves, open }, &mut out);
        for DrainEffect::Move { job, to } in out {
            self.judge_first(1);
            self.begin(0, Want::migrate(job, to));
        }
    }

    fn begin_emptying(&mut self) {
        let host = self.world.hosts[self.lots.next(HOSTS)].clone();
        let row = self.world.view.host(&host).expect("known");
        let facts = Host { intent: Some(HostIntent::Drain), ..Host::clone(&row.host) };
        self.say(facts);
        self.emptying = Some(Emptying { host, first: None });
    }

    /// The moves that would empty a host, as its engine plans them now.
    fn moves(&mut self, host: &HostId) -> Vec<MigrateVm> {
        let picture = self.picture(0);
        let input = self.engines[0].knowledge.tend_input(self.now_ms, &picture, vec![], 1);
        let steps = plan(&input).plan.steps.into_iter();
        let moves = steps.filter_map(|step| match step {
            Step::MigrateVm(step) if step.from == *host => Some(step),
            _ => None,
        });
        moves.collect()
    }

    /// Whether the next moves of the first plan would still be possible.
    fn judge_first(&mut self, count: usize) {
        let Some(emptying) = &mut self.emptying else { return };
        let steps: Vec<MigrateVm> = emptying.first.iter_mut().flatten().take(count).collect();
        for MigrateVm { job, from, to, .. } in steps {
            let target = Room::of(&self.world.view.host(&to).expect("known").host);
            let is_possible = match self.homes.get(&job) {
                Some(home) if *home == from => {
                    let row = self.row(&from, &job).expect("it is there");
                    admit(target, &row.spec, Arrival::Migrate).is_ok()
                }
                Some(home) => *home == to,
                None => false,
            };
            self.figures.whole.planned += 1;
            self.figures.whole.invalid += u64::from(!is_possible);
        }
    }

    // Runs.

    fn begin(&mut self, engine: usize, want: Want) {
        self.count += 1;
        let id = RunId(uuid::Uuid::from_u128(self.count.into()));
        let run = Run::new(RunRecord::new(NewRun::new(id, want), self.now_ms));
        self.runs.insert(id, Going { engine, run });
        self.feed(id, Input::Begin);
    }

    fn feed(&mut self, id: RunId, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let Some(going) = self.runs.get_mut(&id) else { return };
            let before = going.run.record().state;
            let mut out = Vec::new();
            going.run.handle(self.now_ms, input, &mut out);
            let after = going.run.record().state;
            // It turns back as its step could not be taken.
            if (before, after) == (RunState::Running, RunState::Unwinding) {
                self.counted(id).invalid += 1;
            }
            for effect in out {
                match effect {
                    Effect::Plan => next = Some(self.planned(id)),
                    Effect::Dispatch(dispatch) => {
                        let pause_ms = self.takes_ms(&dispatch);
                        self.after(pause_ms, Due::Done(id, dispatch));
                    }
                    Effect::WakeAt(at_ms) => {
                        self.after(at_ms.saturating_sub(self.now_ms), Due::Tick(id));
                    }
                    Effect::End => self.ended(id),
                    Effect::Persist(_) | Effect::Publish | Effect::AnswerCancel(_) => {}
                }
            }
        }
    }

    /// What the steps of a run are counted as.
    fn counted(&mut self, id: RunId) -> &mut Count {
        match &self.runs[&id].run.record().want {
            Want::Migrate { .. } => &mut self.figures.moves,
            _ => &mut self.figures.starts,
        }
    }

    fn planned(&mut self, id: RunId) -> Input {
        let Going { engine, run } = &self.runs[&id];
        let (engine, record) = (*engine, run.record().clone());
        let (now_ms, picture) = (self.now_ms, self.picture(engine));
        let knowledge = &mut self.engines[engine].knowledge;
        let seed = engine as u64 + 1;
        let (want, setbacks) = (&record.want, record.setbacks.clone());
        let input = knowledge.plan_input(now_ms, &picture, id, want, setbacks, seed);
        let outcome = plan(&input);
        let state = State::new(&input);
        let steps = &outcome.plan.steps;
        let reservations = steps.iter().filter_map(|step| step.reservation(&state)).collect();
        knowledge.reserve(id, reservations);
        let at = Circumstances::of(&state, record.job(), true);
        let met_at = met_at(&input, &outcome, &state);
        // The move that was planned for the whole host is none that this run could take.
        let is_impossible = matches!(want, Want::Migrate { .. }) && steps.is_empty();
        let planned = (steps.len() as u64).max(is_impossible.into());
        let counted = self.counted(id);
        counted.planned += planned;
        counted.invalid += u64::from(is_impossible);
        Input::Planned { outcome: Box::new(outcome), at, met_at }
    }

    /// What an engine sees: all but what was said last.
    fn picture(&mut self, engine: usize) -> Picture {
        let engine = &mut self.engines[engine];
        while let Some((at_ms, event)) = self.events.get(engine.seen)
            && at_ms + LATE_MS <= self.now_ms
        {
            engine.view.merge_event(event);
            engine.seen += 1;
        }
        Picture { view: engine.view.clone(), is_current: true, ..Picture::default() }
    }

    fn ended(&mut self, id: RunId) {
        let Some(Going { engine, run }) = self.runs.remove(&id) else { return };
        self.engines[engine].knowledge.release(id);
        let record = run.record();
        if let Want::Migrate { job, to, .. } = record.want.clone() {
            let failure = record.cause.as_ref().map(ToString::to_string);
            let failure = failure.filter(|_| record.state != RunState::Succeeded);
            self.drain.handle(self.now_ms, DrainInput::Ended { job, to, failure }, &mut vec![]);
        }
    }

    // Hosts.

    /// How long something takes that a host is asked for.
    fn takes_ms(&self, dispatch: &Dispatch) -> u64 {
        match &dispatch.ask {
            Ask::Grants(_) => 10,
            Ask::AwaitRunning(host, _) => match self.row(host, &dispatch.job) {
                Some(row) if row.state == JobState::Starting => 2_000,
                _ => 5,
            },
            Ask::AwaitIncoming(_) => 200,
            Ask::AwaitSent { from, .. } => match self.row(from, &dispatch.job) {
                Some(row) => 1_000 + row.spec.takes().memory_bytes / BYTES_PER_MS,
                None => 5,
            },
            _ => 5,
        }
    }

    fn done(&mut self, id: RunId, dispatch: Dispatch) {
        let Dispatch { key, direction, job, ask } = dispatch;
        let Some(engine) = self.runs.get(&id).map(|going| going.engine) else { return };
        let answer = self.answer(engine, &job, ask);
        self.feed(id, Input::Answered { task: key.task, direction, answer });
    }

    /// What comes of a request; what a host says of a job on the way is kept by who has asked.
    fn answer(&mut self, engine: usize, job: &JobId, ask: Ask) -> Answer {
        let nothing = Answer::Done(TaskResult::Done);
        let (host, answer) = match ask {
            Ask::Offer(host, request) => return self.offer(engine, host, job, &request),
            Ask::VoidOffer(host, _) => {
                if let Some((size, _)) = self.offered.remove(&(host.clone(), job.clone())) {
                    self.promise(&host, |allocation| allocation.minus(size));
                }
                return nothing;
            }
            Ask::Grants(_) => return Answer::Done(TaskResult::Grants { grants: vec![] }),
            Ask::Put(host, put) => {
                let (_, state) =
                    self.offered.remove(&(host.clone(), job.clone())).expect("it was offered");
                let row =
                    Job { revision: put.revision, ..world::job(job.clone(), put.spec, state) };
                let row = Job { since_ms: self.now_ms, ..row };
                // The room is promised since the offer.
                self.tell(&host, Some(&row.clone()), Some(row));
                (host, nothing)
            }
            Ask::AwaitRunning(host, _) => {
                if self.row(&host, job).is_some_and(|row| row.state == JobState::Starting) {
                    let row = self.become_state(&host, job, JobState::Running);
                    self.vcpus += u64::from(row.spec.takes().vcpus);
                    self.homes.insert(job.clone(), host.clone());
                    self.latest.push(job.clone());
                }
                (host, nothing)
            }
            Ask::AwaitIncoming(host) => {
                let hold = self.row(&host, job).and_then(|row| row.hold);
                (host, Answer::Done(TaskResult::Incoming { hold, url: "tls://there".to_owned() }))
            }
            Ask::Send(host, ..) => {
                if self.row(&host, job).is_none() {
                    let no = Refusal::NoSuchJob { job: job.clone() };
                    self.engines[engine].knowledge.hear(self.now_ms, host, job.clone(), None);
                    return Answer::Refused(No::Host(no, Resources::ZERO));
                }
                self.become_state(&host, job, JobState::MigratingOut);
                (host, nothing)
            }
            Ask::AwaitSent { from, to } => {
                let row = self.row(&from, job).expect("who moves is not deleted");
                self.tell(&from, Some(&row), None);
                self.homes.insert(job.clone(), to);
                (from, Answer::Done(TaskResult::Sent { handoff: None }))
            }
            Ask::HandOver(host, _) => {
                self.become_state(&host, job, JobState::Running);
                (host, nothing)
            }
            Ask::Discard { host, .. } => {
                if let Some(row) = self.row(&host, job) {
                    self.tell(&host, Some(&row), None);
                }
                (host, nothing)
            }
            Ask::CancelSend { from, .. } => (from, nothing),
            Ask::Delete(host, _) => (host, nothing),
            other => panic!("no start and no move needs {other:?}"),
        };
        let row = self.row(&host, job);
        self.engines[engine].knowledge.hear(self.now_ms, host, job.clone(), row);
        answer
    }

    fn offer(
        &mut self,
        engine: usize,
        host: HostId,
        job: &JobId,
        request: &OfferRequest,
    ) -> Answer {
        let (arrival, state) = match request.action {
            Action::MigrateIn { .. } => (Arrival::Migrate, JobState::MigratingIn),
            _ => (Arrival::Start, JobState::Starting),
        };
        let facts = &self.world.view.host(&host).expect("known").host;
        let admitted = match facts.intent {
            Some(_) => Err(Refusal::HostDraining { host: host.clone() }),
            None => admit(Room::of(facts), &request.spec, arrival),
        };
        if let Err(no) = admitted {
            let Engine { knowledge, view, .. } = &mut self.engines[engine];
            knowledge.hear_no(self.now_ms, &host, &no);
            let seen = view.host(&host).map(|row| row.host.allocation).unwrap_or_default();
            return Answer::Refused(No::Host(no, seen));
        }
        let size = request.spec.takes();
        self.promise(&host, |allocation| allocation.plus(size));
        self.offered.insert((host, job.clone()), (size, state));
        Answer::Done(TaskResult::Offer { offer: self.offer.clone() })
    }

    fn row(&self, host: &HostId, job: &JobId) -> Option<Job> {
        self.world.view.host(host)?.jobs.get(job).map(|row| row.as_ref().clone())
    }

    fn become_state(&mut self, host: &HostId, job: &JobId, state: JobState) -> Job {
        let before = self.row(host, job).expect("it is there");
        let after = Job { state, since_ms: self.now_ms, ..before.clone() };
        self.tell(host, Some(&before), Some(after.clone()));
        after
    }

    /// A host says that a job has changed, come or gone.
    fn tell(&mut self, host: &HostId, gone: Option<&Job>, come: Option<Job>) {
        for event in self.world.change(host, gone, come) {
            self.log(event);
        }
    }

    fn promise(&mut self, host: &HostId, change: impl FnOnce(Resources) -> Resources) {
        let facts = &self.world.view.host(host).expect("known").host;
        let allocation = change(facts.allocation);
        let facts = Host { allocation, ..Host::clone(facts) };
        self.say(facts);
    }

    /// A host says how it is.
    fn say(&mut self, facts: Host) {
        let event = self.world.say(facts);
        self.log(event);
    }

    fn log(&mut self, event: Event) {
        self.world.merge(std::slice::from_ref(&event));
        self.events.push((self.now_ms, event));
    }
}

/// An offer as runs carry it: who grants is not what is measured here.
fn offer() -> Signed<Offer> {
    let host = world::host(0);
    let offer = Offer {
        host: host.id,
        id: OfferId { epoch: Epoch(1), num: 1 },
        job: JobId::new("any").expect("a name"),
        revision: Revision(1),
        spec: Digest::of(b"any"),
        action: Action::Start,
        resources: Resources::ZERO,
        tenant: TenantId::default_tenant(),
        on_loss: OnLoss::Keep,
        plan: BTreeMap::new(),
        trust_version: 1,
        agreed: None,
    };
    Signed::seal(&offer, &SecretKey::from_seed([2; 32]))
}
