//! Several schedulers that keep the same sets of one world.

use super::property::{SETS, any_set};
use super::*;

/// Several schedulers that keep the same sets of one world, each with its own picture of it.
pub(super) struct Several {
    pub(super) worlds: Vec<World>,
    /// Moves and starts under way: who has begun it, the job as it will be, where to, when it is done.
    pub(super) going: Vec<(usize, Job, Option<HostId>, HostId, u64)>,
    pub(super) begun: Vec<(u64, usize, JobId)>,
}

impl Several {
    pub(super) fn new(count: u8, sets: &[(usize, usize)]) -> Self {
        let all: Vec<_> = (101..101 + count).map(key).collect();
        let worlds = all.iter().map(|me| {
            let mut world = World::new(4);
            world.turns = Turns { me: Some(*me), all: all.clone() };
            for (set, what) in sets {
                world.put(&format!("set-{set}"), 1, Some(any_set(*what)));
            }
            world
        });
        Self { worlds: worlds.collect(), going: vec![], begun: vec![] }
    }

    /// One is killed and begins anew with what it has stored; what it has begun goes on.
    pub(super) fn kill(&mut self, who: usize, now_ms: u64) {
        let world = &mut self.worlds[who];
        let stored: Vec<SetRecord> =
            world.upkeep.sets.values().map(|set| set.record.clone()).collect();
        world.upkeep = Upkeep::default();
        for record in stored {
            world.handle(now_ms, Input::Recovered(record));
        }
    }

    pub(super) fn each(&mut self, change: impl Fn(&mut World)) {
        self.worlds.iter_mut().for_each(change);
    }

    pub(super) fn number(id: &HostId) -> u8 {
        (1..=4).find(|n| host(*n) == *id).expect("one of the four")
    }

    pub(super) fn home(&self, job: &JobId) -> Option<(HostId, JobState)> {
        let (row, job) = self.worlds[0].view.job_best(job)?;
        Some((row.host.id.clone(), job.state))
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        let done: Vec<_> = self.going.extract_if(.., |(.., at_ms)| *at_ms <= now_ms).collect();
        for (who, job, from, to, _) in done {
            self.each(|world| {
                if let Some(from) = &from {
                    world.host(Self::number(from), |_, jobs| drop(jobs.remove(&job.id)));
                }
                world.put_job(Self::number(&to), job.clone());
                world.open.retain(|run| run.job != job.id);
            });
            let ended = Input::Ended { job: job.id, to, failure: None };
            self.worlds[who].handle(now_ms, ended);
        }
        for who in 0..self.worlds.len() {
            for (want, to, _) in self.worlds[who].begun(now_ms) {
                self.begin(now_ms, who, &want, to);
            }
        }
    }

    /// Hosts let one begin what several want; the others are told no.
    pub(super) fn begin(&mut self, now_ms: u64, who: usize, want: &Want, to: HostId) {
        let job = want.job().clone();
        let home = self.home(&job);
        let known = self.worlds[0].view.job_best(&job).map(|(_, job)| Job::clone(job));
        let (from, will_be) = match (want, &home) {
            (Want::Migrate { .. }, Some((from, JobState::Running))) => {
                (Some(from.clone()), known.unwrap())
            }
            (Want::Run { spec, .. }, home) if home.as_ref().is_none_or(|(_, s)| s.is_ended()) => {
                let spec = spec.clone();
                (None, Job::of(job.clone(), spec, JobState::Running))
            }
            // It has another size already, or somebody is at it.
            (_, _) => {
                self.worlds[who].handle(now_ms, Input::Busy { job });
                return;
            }
        };
        let row = &self.worlds[0].view.host(&to).unwrap().host;
        let free = row.capacity.minus(row.allocation);
        if !will_be.allocation().fits_in(free) {
            let failure = Some("somebody was faster".to_owned());
            self.worlds[who].handle(now_ms, Input::Ended { job, to, failure });
            return;
        }
        let run = RunId(Uuid::from_u128(self.begun.len() as u128));
        let open = Open { run, job: job.clone(), from: from.clone(), to: Some(to.clone()) };
        self.worlds[who].open.push(open);
        let shown = |state| Job { state, ..will_be.clone() };
        self.each(|world| match &from {
            Some(from) => {
                world.put_job(Self::number(from), shown(JobState::MigratingOut));
                world.put_job(Self::number(&to), shown(JobState::MigratingIn));
            }
            None => world.put_job(Self::number(&to), shown(JobState::Starting)),
        });
        self.going.push((who, will_be, from, to, now_ms + 2_000));
        self.begun.push((now_ms, who, job));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// However many keep the same, and whatever the world is like: it comes to rest, and then each
    /// expectation is met or the planner knows no way.
    #[test]
    fn a_world_that_is_left_alone_comes_to_rest(
        count in 1..4_u8,
        sets in prop::collection::btree_map(0..3_usize, 0..SETS, 1..4),
        homes in prop::collection::vec(1..5_u8, 3),
        labels in prop::collection::vec(0..3_usize, 4),
        later in prop::collection::vec(0..3_usize, 4),
    ) {
        let mut several = Several::new(count, &sets.into_iter().collect::<Vec<_>>());
        let values = [None, Some("ssd"), Some("tape")];
        several.each(|world| {
            for (n, home) in homes.iter().enumerate() {
                world.put_job(*home, row(n + 1, JobState::Running));
            }
            for (n, label) in (1..).zip(&labels) {
                world.label(n, values[*label]);
            }
        });
        for now_ms in (0..200_000).step_by(500) {
            if now_ms == 100_000 {
                several.each(|world| {
                    for (n, label) in (1..).zip(&later) {
                        world.label(n, values[*label]);
                    }
                });
            }
            several.tick(now_ms);
        }
        let late = several.begun.iter().filter(|(at_ms, ..)| *at_ms > 150_000);
        prop_assert_eq!(late.count(), 0, "it is still at it: {:?}", several.begun);
        prop_assert!(several.begun.len() <= 12, "{:?}", several.begun);
        for world in &mut several.worlds {
            world.look(200_000);
            for (key, judged) in &world.upkeep.judged {
                let is_at_rest = !matches!(judged.verdict, Verdict::Coming { .. });
                prop_assert!(is_at_rest, "{key:?}: {judged:?}");
            }
            // Nothing is left that a plan for all of it would do.
            let due = world.upkeep.items().map(|(key, _)| key).collect();
            let aims = world.upkeep.aims(200_000, &due);
            let input = planner::PlanInput {
                view: world.view.clone(),
                levels: aims.goals.iter().map(|(l, goal)| (goal.job().clone(), *l)).collect(),
                expectations: aims.goals.into_iter().map(|(_, goal)| goal).collect(),
                clauses: aims.clauses,
                ..planner::PlanInput::default()
            };
            let left = planner::plan(&input).plan.steps;
            prop_assert_eq!(left, vec![], "begun {:?}", several.begun);
        }
    }
}
