//! What people want: runs, stops, moves and deletions of a few jobs, at random and often in
//! contradiction to each other.

use host_agent::core::{Act, Request};
use protocol::api::{NewRun, OfferRequest, Want};
use protocol::id::{HostId, JobId, Revision, RunId, TenantId};
use protocol::job::{JobKind, JobSpec, JobState, Reason};
use protocol::ticket::{Action, HoldAt};
use protocol::vm::{DiskSpec, OnLoss, SizeChange, VmSpec};
use uuid::Uuid;

use super::engine::want_name;
use super::message::Ask;
use super::profile::TENANT_WITH_QUOTA;
use super::world::{Event, World};

/// A VM of this size, with a disk or without.
#[must_use]
pub fn spec(vcpus: u32, has_disk: bool, is_limited: bool) -> JobSpec {
    let disk =
        DiskSpec { name: "root".into(), size_bytes: 1 << 30, image: None, ..DiskSpec::default() };
    let disks = if has_disk { vec![disk] } else { vec![] };
    let mut spec = JobSpec::vm(VmSpec {
        vcpus,
        memory_bytes: 1 << 30,
        // Some grow at once, some at their next start.
        max_vcpus: has_disk.then_some(6),
        disks,
        nics: vec![],
        ..VmSpec::default()
    });
    if is_limited {
        spec.tenant = TenantId::new(TENANT_WITH_QUOTA).expect("a valid name");
    }
    spec
}

/// A job's name.
#[must_use]
pub fn job_id(n: u64) -> JobId {
    JobId::new(format!("vm-{n}")).expect("a valid name")
}

impl World {
    /// Somebody wants something, and the next time is chosen.
    pub(super) fn wish(&mut self) {
        if !self.is_noisy {
            return;
        }
        let every_ms = self.profile.wish_every_ms;
        let next_us = self.chance.between(every_ms * 200, every_ms * 1_800);
        self.after(next_us, Event::Wish);
        let n = self.chance.index(self.engines.len());
        if self.chance.happens(150_000) {
            return self.act_on_something(n);
        }
        let want = self.choose_want();
        let name = want_name(&want);
        let asked = NewRun::new(self.next_run_id(), want);
        if self.submit(n, asked) {
            self.coverage.hit(name);
        } else {
            self.coverage.hit_owned(format!("skipped.{name}"));
        }
    }

    /// Somebody does something to a guest by hand.
    fn act_on_something(&mut self, n: usize) {
        let job = job_id(self.chance.below(self.profile.jobs));
        let host = self.chance.index(self.hosts.len());
        if self.chance.happens(200_000) {
            return self.cancel_a_run(n);
        }
        if self.chance.happens(100_000) {
            return self.ask_for_more_than_there_is(n, host);
        }
        if self.chance.happens(200_000) {
            self.coverage.hit("act.cancel-migration");
            let (host, job) = self.something_moving().unwrap_or((host, job));
            return self.ask_by_hand(n, host, Request::CancelMigration { job, run: None });
        }
        let (act, name) = *self
            .chance
            .pick(&[
                (Act::Pause, "act.pause"),
                (Act::Pause, "act.pause"),
                (Act::Resume, "act.resume"),
                (Act::Resume, "act.resume"),
                (Act::Save, "act.save"),
                (Act::Reset, "act.reset"),
                (Act::Reboot { grace_ms: 2_000 }, "act.reboot"),
            ])
            .unwrap_or(&(Act::Resume, "act.resume"));
        self.coverage.hit(name);
        self.ask_by_hand(n, host, Request::Act { job, act });
    }

    /// An offer for what a job would take if it grew beyond what its host has.
    fn ask_for_more_than_there_is(&mut self, n: usize, host: usize) {
        let row = self.hosts[host].process.as_ref().and_then(super::host::AgentProcess::row);
        let Some(job) = row.as_ref().and_then(|row| row.jobs.values().next()) else { return };
        let more = SizeChange { vcpus: Some(8), max_vcpus: Some(8), ..SizeChange::default() };
        let Some(spec) = job.spec.with_size(|size| size.changed(&more)) else { return };
        let revision = Revision(job.revision.0 + 1);
        let (job, action) = (job.id.clone(), Action::Resize);
        let ask = OfferRequest { job, revision, spec, action, finds_disks: false };
        self.ask_by_hand(n, host, Request::Offer(ask));
    }

    /// A job that is on its way, as far as its host says.
    fn something_moving(&mut self) -> Option<(usize, JobId)> {
        let mut moving = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let row = host.process.as_ref().and_then(super::host::AgentProcess::row);
            let jobs = row.into_iter().flat_map(|row| row.jobs.iter());
            let moved = jobs.filter(|(_, job)| job.state == JobState::MigratingOut);
            moving.extend(moved.map(|(id, _)| (n, id.clone())));
        }
        self.chance.pick(&moving).cloned()
    }

    /// Somebody asks a host directly, from an engine's machine.
    pub fn ask_by_hand(&mut self, n: usize, host: usize, request: Request) {
        let (node, to) = (self.engines[n].node, self.hosts[host].node);
        if self.nodes[node.0].is_up {
            let ask = Ask::Agent(request);
            self.spawn(node, move |ctx| {
                Box::pin(async move { drop(ctx.call(to, ask, 10_000).await) })
            });
        }
    }

    /// Names the next run.
    pub fn next_run_id(&mut self) -> RunId {
        self.wishes += 1;
        RunId(Uuid::from_u128((u128::from(self.profile.seed) << 64) | u128::from(self.wishes)))
    }

    /// What a view may have shown as lost, whether it is or not.
    fn choose_fail_over(&mut self) -> Option<Want> {
        let mut lost = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            for record in &host.disk.ledger.jobs {
                let job = &record.job;
                let hold = match job.reason {
                    Some(Reason::TenureLost { lost } | Reason::Fenced { lost, .. }) => Some(lost),
                    _ => job.hold,
                };
                let is_bare = job.spec.as_vm().is_some_and(|vm| vm.disks.is_empty());
                let may_be = self.profile.lapses(&job.id) || is_bare && self.is_taken(n, record);
                if let Some(hold) = hold.filter(|_| may_be) {
                    let lost_at = HoldAt { host: host.id.clone(), hold };
                    lost.push((job.id.clone(), job.spec.as_ref().clone(), job.revision, lost_at));
                }
            }
        }
        let (job, spec, revision, lost) = self.chance.pick(&lost)?.clone();
        Some(Want::FailOver { job, spec, revision, lost })
    }

    fn choose_size(&mut self) -> SizeChange {
        let memory = self.chance.between(1, 3) << 30;
        SizeChange {
            vcpus: u32::try_from(self.chance.between(1, 4)).ok(),
            memory_bytes: self.chance.happens(500_000).then_some(memory),
            ..SizeChange::default()
        }
    }

    fn choose_want(&mut self) -> Want {
        if self.profile.has_budgets && self.chance.happens(650_000) {
            return self.choose_about_budgets();
        }
        let number = self.chance.below(self.profile.jobs);
        let job = job_id(number);
        if self.chance.happens(120_000) {
            return Want::Resize { job, size: self.choose_size() };
        }
        let hosts: Vec<HostId> = self.hosts.iter().map(|host| host.id.clone()).collect();
        let kinds = if self.profile.has_lapsing || self.profile.has_fences { 16 } else { 10 };
        match self.chance.below(kinds) {
            10.. if let Some(want) = self.choose_fail_over() => want,
            0..=3 | 10.. => {
                // Two sizes a job, so that it is at times started again with another.
                let vcpus = 1
                    + u32::try_from(number % 3).unwrap_or(0)
                    + u32::from(self.chance.happens(200_000));
                let mut spec = spec(vcpus, number.is_multiple_of(2), number % 3 < 2);
                if let JobKind::Vm(vm) = &mut spec.kind {
                    if self.profile.lapses(&job) {
                        vm.disks.clear();
                        vm.on_loss = OnLoss::Stop;
                    }
                    // What a host that was said to be off must not start when it is back.
                    vm.autostart = self.profile.has_fences && number % 4 != 3;
                }
                let on = self.chance.happens(300_000).then(|| self.chance.pick(&hosts).cloned());
                let on = on.flatten();
                let again = on.is_some() && number.is_multiple_of(2);
                Want::Run { job, spec, on, again }
            }
            4 | 5 => {
                let grace_ms = if self.chance.happens(500_000) { 0 } else { 5_000 };
                Want::stop(job, grace_ms)
            }
            6..=8 => {
                let to = self.chance.pick(&hosts).cloned();
                to.map_or(Want::Delete { job: job.clone() }, |to| Want::migrate(job, to))
            }
            _ => Want::Delete { job },
        }
    }
}
