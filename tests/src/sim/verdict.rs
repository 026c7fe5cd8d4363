//! One whole simulation: trouble for a while, then healing, then the question whether everything
//! came to rest as it should.
//!
//! At rest every run has ended, every view shows what every host says, every host says what its
//! guests really do, every arbiter's books are the hosts' holds, and nobody has anything open.

use std::collections::BTreeSet;

use protocol::id::{HostId, JobId, OfferId};
use protocol::job::JobState;

use super::coverage::Coverage;
use super::invariants::Violation;
use super::mutant::Mutant;
use super::profile::Profile;
use super::world::World;

/// How long a healed world may take to come to rest: longer than the longest patience of a run.
const REST_MS_MAX: u64 = 1_500_000;
/// How often it is asked whether it has.
const REST_LOOK_MS: u64 = 2_500;

/// How a simulation ended.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its seed.
    pub seed: u64,
    /// Events in all.
    pub events: u64,
    /// Simulated time in seconds.
    pub seconds: f64,
    /// What was exercised.
    pub coverage: Coverage,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

/// Runs one seed to its end.
#[must_use]
pub fn simulate(seed: u64, mutant: Option<Mutant>) -> Verdict {
    simulate_world(Profile::of_seed(seed), mutant)
}

/// Runs such a world to its end.
#[must_use]
pub fn simulate_world(profile: Profile, mutant: Option<Mutant>) -> Verdict {
    let mut world = World::new(profile, mutant);
    run(&mut world);
    conclude(world)
}

/// Runs one seed to its end, every host with the agents' real ledger on a disk that fails.
#[must_use]
pub fn simulate_on_real_ledgers(seed: u64) -> Verdict {
    let mut world = World::new(Profile::of_seed(seed), None);
    world.use_real_ledgers();
    run(&mut world);
    conclude(world)
}

/// Runs a world of rivals: its trouble, and some peace after it.
#[must_use]
pub fn simulate_rivals(seed: u64, mutant: Option<Mutant>) -> Verdict {
    let mut world = World::new(Profile::of_rivals(seed), mutant);
    world.begin_noise();
    world.run_ms(world.profile.noise_ms);
    world.heal();
    world.run_ms(60_000);
    conclude(world)
}

/// Runs a world with witnesses to its end.
#[must_use]
pub fn simulate_witnesses(seed: u64, mutant: Option<Mutant>) -> Verdict {
    simulate_world(Profile::of_witnesses(seed), mutant)
}

/// Runs a world in which as many arbiters and witnesses lie as its document bears, to its end.
#[must_use]
pub fn simulate_liars(seed: u64, mutant: Option<Mutant>) -> Verdict {
    simulate_world(Profile::of_liars(seed), mutant)
}

/// Lets a world have its trouble, heals it, and waits until it rests.
pub fn run(world: &mut World) {
    world.begin_noise();
    world.run_ms(world.profile.noise_ms);
    world.heal();
    rest(world);
}

/// Waits until a healed world rests; that it does not is a broken rule, too.
pub fn rest(world: &mut World) {
    let mut waited_ms = 0;
    while !world.is_over() {
        world.run_ms(REST_LOOK_MS);
        waited_ms += REST_LOOK_MS;
        let unrest = unrest(world);
        if unrest.is_empty() {
            return;
        }
        if waited_ms >= REST_MS_MAX {
            let what = unrest.into_iter().take(6).collect::<Vec<_>>().join("; ");
            world.violate("everything_comes_to_rest", what);
        }
    }
}

/// What became of it.
#[must_use]
pub fn conclude(world: World) -> Verdict {
    Verdict {
        seed: world.profile.seed,
        events: world.events,
        seconds: world.seconds(),
        coverage: world.coverage,
        violation: world.violation,
    }
}

/// What keeps a world from being at rest, in words.
#[must_use]
pub fn unrest(world: &World) -> Vec<String> {
    let mut unrest = Vec::new();
    for (n, node) in world.nodes.iter().enumerate() {
        if !node.is_up || node.paused_until_us > world.now_us {
            unrest.push(format!("machine {n} ({:?}) is not up", node.role));
        }
    }
    unrest.extend(runs_under_way(world));
    for n in 0..world.hosts.len() {
        unrest.extend(host_unrest(world, n));
        unrest.extend(view_unrest(world, n));
    }
    unrest.extend(books_unrest(world));
    if world.profile.has_fences {
        let theirs = (0..world.hosts.len()).map(|n| (n, world.trust_of_host(n).version));
        let behind = theirs.filter(|(_, version)| *version < world.trust.version);
        unrest.extend(behind.map(|(n, version)| format!("h{n} obeys version {version} still")));
    }
    unrest
}

fn runs_under_way(world: &World) -> Vec<String> {
    let runs = world.conductors.iter().flat_map(|conductor| conductor.runs.values());
    let open = runs.filter(|record| !record.state.is_ended());
    open.map(|record| {
        let owners = world.engines.iter().filter(|engine| {
            engine.life.as_ref().is_some_and(|life| life.drivers.contains_key(&record.id))
        });
        let status = record.status();
        let tasks: Vec<String> = status
            .tasks
            .iter()
            .skip(record.round_start)
            .map(|t| format!("{} is {:?} {}", t.title, t.state, t.note.clone().unwrap_or_default()))
            .collect();
        format!(
            "run {} of {} ({}) is {:?}, driven by {}: {}",
            record.id,
            record.job(),
            super::engine::want_name(&record.want),
            record.state,
            owners.count(),
            tasks.join(" / ")
        )
    })
    .collect()
}

/// Jobs that a stuck run has left for a person to look at.
fn jobs_of_stuck_runs(world: &World) -> BTreeSet<JobId> {
    let runs = world.conductors.iter().flat_map(|conductor| conductor.runs.values());
    let stuck = runs.filter(|record| record.state == protocol::api::RunState::Stuck);
    stuck.map(|record| record.job().clone()).collect()
}

/// Where a host's row differs from what its guests really do.
fn host_unrest(world: &World, n: usize) -> Vec<String> {
    let host = &world.hosts[n];
    let Some(process) = host.process.as_ref() else { return vec![format!("h{n} has no agent")] };
    let mut unrest = Vec::new();
    if !process.is_idle() {
        unrest.push(format!("the agent of h{n} is at work"));
    }
    let (_, offers) = process.agent.open_offers();
    if !offers.is_empty() {
        unrest.push(format!("h{n} has open offers {offers:?}"));
    }
    let stuck = jobs_of_stuck_runs(world);
    let inventory = process.agent.inventory();
    for job in &inventory.jobs {
        let domain = host.hv.domains.get(&job.domain_uuid.unwrap_or_default());
        let is_running = domain.is_some_and(super::hypervisor::Domain::is_running);
        let is_active = domain.is_some_and(|domain| domain.state.is_active());
        let is_fine = match job.state {
            // Nothing of it runs.
            JobState::Running if job.spec.as_budget().is_some() => true,
            JobState::Running => is_running,
            JobState::Paused => is_active && !is_running,
            JobState::Stopped | JobState::Failed | JobState::Crashed => !is_active,
            JobState::MigratingIn => stuck.contains(&job.id) && !is_running,
            JobState::Accepted
            | JobState::Starting
            | JobState::MigratingOut
            | JobState::Stopping => false,
        };
        if !is_fine {
            let seen = domain.map(|domain| domain.state);
            unrest.push(format!("{} on h{n} is {}, its domain is {seen:?}", job.id, job.state));
        }
    }
    for domain in host.hv.domains.values().filter(|domain| domain.state.is_active()) {
        let is_known = inventory.jobs.iter().any(|job| job.domain_uuid == Some(domain.uuid))
            || inventory.observed.iter().any(|shown| shown.uuid == domain.uuid);
        if !is_known && !stuck.contains(&domain.job) {
            unrest.push(format!(
                "{} is {:?} on h{n}, which has no row of it",
                domain.job, domain.state
            ));
        }
    }
    unrest
}

/// Who does not show a host as it is.
fn view_unrest(world: &World, n: usize) -> Vec<String> {
    let host = &world.hosts[n];
    let Some(own) = host.process.as_ref().and_then(super::host::AgentProcess::row) else {
        return vec![];
    };
    let mut unrest = Vec::new();
    for (m, monitor) in world.monitors.iter().enumerate() {
        let row = monitor.row(&host.id);
        if row.as_ref() != Some(own) {
            let at = row.map(|row| row.cursor);
            unrest.push(format!("monitor {m} shows h{n} at {at:?}, it is at {}", own.cursor));
        }
    }
    for (e, engine) in world.engines.iter().enumerate() {
        let Some(life) = engine.life.as_ref() else { continue };
        let picture = life.picture.borrow();
        if picture.view.host(&host.id) != Some(own) {
            unrest.push(format!("engine {e} does not show h{n} as it is"));
        }
    }
    unrest
}

/// Who keeps a change of arbiters from its end.
fn change_unrest(world: &World) -> String {
    let hosts = world.hosts.iter().enumerate().filter_map(|(n, host)| {
        let agent = &host.process.as_ref()?.agent;
        let version = agent.trust().map(|trust| trust.version);
        let has = if agent.agreed().is_some() { "has" } else { "has not" };
        Some(format!("h{n} obeys version {version:?} and {has} agreed"))
    });
    let arbiters = world.arbiters.iter().enumerate().filter_map(|(n, arbiter)| {
        let core = arbiter.life.as_ref()?.core.borrow();
        let version = core.trust().map(|trust| trust.version);
        let waiting = core.ready(world.now_at(arbiter.node).mono_ms).err();
        Some(format!("arbiter {n} obeys version {version:?} and waits for {waiting:?}"))
    });
    let (version, next) = (world.trust.version, &world.trust.succession.next);
    let all: Vec<String> = hosts.chain(arbiters).collect();
    format!("version {version}, next {next:?}; {}", all.join("; "))
}

/// Which arbiter's books differ from the hosts' holds.
fn books_unrest(world: &World) -> Vec<String> {
    let mut held: BTreeSet<(HostId, JobId, OfferId)> = BTreeSet::new();
    for host in &world.hosts {
        for record in &host.disk.ledger.jobs {
            if let Some(hold) = record.job.hold {
                held.insert((host.id.clone(), record.job.id.clone(), hold));
            }
        }
    }
    let mut unrest = Vec::new();
    if world.trust.succession.next.is_some() {
        unrest.push(format!("a change of arbiters is under way: {}", change_unrest(world)));
    }
    let is_member = |(n, _): &(usize, _)| {
        let is_one = u32::try_from(*n).is_ok_and(|slot| world.trust.committee().has(slot));
        is_one && !world.is_liar(*n)
    };
    for (n, arbiter) in world.arbiters.iter().enumerate().filter(is_member) {
        let Some(life) = arbiter.life.as_ref() else { continue };
        let core = life.core.borrow();
        let now_ms = world.now_at(arbiter.node).mono_ms;
        let waiting = core.waiting_for(now_ms);
        if !waiting.is_empty() {
            unrest.push(format!("arbiter {n} waits for {waiting:?}"));
        }
        let booked: BTreeSet<(HostId, JobId, OfferId)> = core
            .books()
            .entries()
            .map(|entry| (entry.host.clone(), entry.job.clone(), entry.id))
            .collect();
        if booked != held {
            let differ: Vec<String> = booked
                .symmetric_difference(&held)
                .map(|(host, job, id)| format!("{job} on {} as {id}", host.short()))
                .collect();
            unrest.push(format!("books of arbiter {n} differ from holds in {}", differ.join(", ")));
        }
    }
    unrest
}
