//! What a simulation has exercised: a generator that tests nothing must be seen.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// How often each thing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Cow<'static, str>, u64>);

/// What must have happened at least once over the fixed set of seeds.
pub const REQUIRED: [&str; 112] = [
    "answer.ambiguous",
    "answer.done",
    "answer.not-yet",
    "answer.offer-over",
    "answer.refused",
    "answer.unclear",
    "answer.claim-lost",
    "denial.not-the-last",
    "denial.other-trust",
    "denial.promised",
    "denial.quota",
    "denial.quota_vms",
    "denial.rebuilding",
    "denial.silent",
    "denial.window",
    "disk.full",
    "disk.stalled",
    "fault.agent-killed-between-effects",
    "fault.clock-drift",
    "fault.disk-full",
    "fault.guest-ends",
    "fault.isolate",
    "fault.kill-agent",
    "fault.kill-arbiter",
    "fault.kill-engine",
    "fault.kill-keeper",
    "fault.kill-monitor",
    "fault.libvirt-down",
    "fault.libvirt-slow",
    "fault.part",
    "fault.part-one-way",
    "fault.pause",
    "fault.pause-keeper",
    "fault.power-loss",
    "fault.storm",
    "fault.take-over",
    "fault.wall-jump",
    "fence.brought",
    "fence.by-fencer",
    "fence.healed",
    "fence.right",
    "fence.said-again",
    "fence.taken",
    "fence.wrong",
    "hv.done-unheard",
    "hv.fails",
    "hv.lost-unheard",
    "job.accepted",
    "job.crashed",
    "job.failed",
    "job.migrating_in",
    "job.migrating_out",
    "job.running",
    "job.starting",
    "job.stopped",
    "job.stopping",
    "keeper.lost",
    "keeper.open",
    "keeper.seal",
    "migration.not-switched-over",
    "migration.switched-over",
    "migration.unknown-arrived",
    "migration.unknown-not-arrived",
    "net.late",
    "net.request-doubled",
    "net.request-lost",
    "net.statement-lost",
    "net.stream-broken",
    "operator.begun",
    "operator.completed",
    "operator.gone-on",
    "operator.old-document",
    "operator.recovered",
    "operator.taken-back",
    "rate.used-up",
    "refusal.no-capacity",
    "refusal.no-room-to-grow",
    "refusal.no-such-job",
    "refusal.offer-ended",
    "refusal.offer-unknown",
    "refusal.revision-conflict",
    "refusal.stale-claim",
    "refusal.task-undone",
    "refusal.unlawful-trust",
    "refusal.wrong-state",
    "resize.given-up",
    "resize.grown",
    "resize.next-start",
    "run.cancelled",
    "run.claim-lost",
    "run.past-return",
    "run.rolled-back",
    "run.succeeded",
    "run.taken-over",
    "run.unwinding",
    "term.covers",
    "trust.agreed",
    "trust.taken",
    "term.silent",
    "want.delete",
    "want.fail-over",
    "want.migrate",
    "want.resize",
    "want.run",
    "want.run-on",
    "want.stop",
    "work.settle-send",
    "work.resize-vm",
    "work.take-over",
    "work.cancel-send",
    "work.delete",
    "work.prepare-incoming",
];

impl Coverage {
    /// It happened.
    pub fn hit(&mut self, what: &'static str) {
        *self.0.entry(Cow::Borrowed(what)).or_default() += 1;
    }

    /// It happened.
    pub fn hit_owned(&mut self, what: String) {
        *self.0.entry(Cow::Owned(what)).or_default() += 1;
    }

    /// How often.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, count)| (what.as_ref(), *count))
    }

    /// What happened in another world as well.
    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// What should have happened and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.into_iter().filter(|what| self.count(what) == 0).collect()
    }
}
