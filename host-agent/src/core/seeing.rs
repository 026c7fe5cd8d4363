//! What libvirt shows, compared with the ledger; and the domains of others.
//!
//! libvirt is the reality. Its events are hints that make the core look; a look that contradicts
//! the ledger is repeated once, because it may have begun before our own last change.
//!
//! A guest that stands still where its job has ended is nobody's business here, and is left alone: it may be
//! a person's. One sort is not: what arrives after an operator's word took the right to receive it (below).

use std::collections::BTreeMap;

use hypervisor::{DomainEvent, DomainInfo, DomainState, Lifecycle, StopReason};
use protocol::event::Fact;
use protocol::id::JobId;
use protocol::job::{Job, JobState, ObservedDomain, Reason};
use transport::clock::Now;

use super::agent::Agent;
use super::input::{Effect, Look};
use super::ledger::{Intent, JobRecord};

impl Agent {
    /// libvirt says that something has happened. While work is under way most of it is that work's own
    /// doing: it is looked into once, when the work has ended.
    pub(super) fn hear(&mut self, event: &DomainEvent, out: &mut Vec<Effect>) {
        let job = self.by_uuid.get(&event.uuid);
        if let Some((id, entry)) = job.and_then(|id| Some((id, self.jobs.get(id)?)))
            && entry.work.is_some()
        {
            let unseen = Some(more_telling(entry.unseen, event.what));
            self.jobs.change(id, |entry| entry.unseen = unseen);
            return;
        }
        let change = self.change_of(event.uuid);
        out.push(Effect::Look(Look::because(event, change)));
    }

    pub(super) fn handle_looked(
        &mut self,
        now: Now,
        look: Look,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        match self.by_uuid.get(&look.uuid).cloned() {
            Some(id) => self.compare(now, &id, look, domain, out),
            None => self.observe(now, look.uuid, domain, out),
        }
    }

    /// Compares one of our jobs with what libvirt shows.
    fn compare(
        &mut self,
        now: Now,
        id: &JobId,
        look: Look,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get(id) else { return };
        if entry.work.is_some() {
            return;
        }
        if look.change != entry.change {
            // Overtaken by a change of ours: what it saw may be of before.
            let change = entry.change;
            out.push(Effect::Look(Look { is_second: false, change, ..look }));
            return;
        }
        let record = entry.record.clone();
        // It is being given back, whatever it does.
        if record.intent == Intent::Release {
            return;
        }
        let instead = seen_instead(record.job.state, look.hint, domain);
        let is_late = has_come_too_late(&record.job, domain);
        if instead.is_none() && !is_late {
            return self.see_size(now, record, domain, out);
        }
        match instead {
            _ if !look.is_second => out.push(Effect::Look(Look { is_second: true, ..look })),
            Some((state, reason)) => self.become_seen(now, record, state, reason, out),
            None => self.end_late_guest(now, record, out),
        }
    }

    /// Ends a guest that came after its right was taken, as if it had come before: the row is `stopping` until
    /// libvirt says that it is gone, which is tried for as long as it takes, and says the same of why.
    fn end_late_guest(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        let (id, why) = (record.job.id.clone(), record.job.reason.clone());
        record.intent = Intent::Stop { grace_ms: 0 };
        self.become_state(now, record, JobState::Stopping, why, out);
        self.go_on(now, &id, out);
    }

    /// Believes what libvirt shows.
    pub(super) fn become_seen(
        &mut self,
        now: Now,
        mut record: JobRecord,
        state: JobState,
        reason: Option<Reason>,
        out: &mut Vec<Effect>,
    ) {
        match state {
            JobState::Running => record.intent = Intent::Run,
            // Whoever paused it, or whatever did, it stays so until somebody resumes it.
            JobState::Paused => record.intent = Intent::Pause,
            _ => {}
        }
        let is_one_off = record.job.spec.as_one_off().is_some();
        match reason {
            Some(Reason::GuestShutdown) if is_one_off => self.conclude_one_off(now, record, out),
            Some(why) if state.is_ended() => self.become_ended(now, record, state, why, out),
            reason => self.become_state(now, record, state, reason, out),
        }
    }

    /// Shows a domain that is no job's, or that it is gone.
    pub(super) fn observe(
        &mut self,
        now: Now,
        uuid: uuid::Uuid,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        let Some(domain) = domain.map(as_observed) else {
            if self.observed.remove(&uuid).is_some() {
                self.publish(now, Fact::DomainGone { uuid }, out);
            }
            return;
        };
        if self.observed.get(&uuid) != Some(&domain) {
            self.observed.insert(uuid, domain.clone());
            self.publish(now, Fact::DomainObserved { domain }, out);
        }
    }

    /// A complete list: settles every difference at start; later only says where to look again.
    pub(super) fn handle_domains(
        &mut self,
        now: Now,
        domains: &[DomainInfo],
        out: &mut Vec<Effect>,
    ) {
        let is_first = !std::mem::replace(&mut self.has_listed, true);
        if is_first {
            self.write_restored(now, out);
        }
        let listed: BTreeMap<uuid::Uuid, &DomainInfo> =
            domains.iter().map(|domain| (domain.uuid, domain)).collect();
        let gone: Vec<uuid::Uuid> = self.observed.keys().copied().collect();
        for uuid in gone {
            if !listed.contains_key(&uuid) {
                self.observe(now, uuid, None, out);
            }
        }
        for domain in domains {
            if !self.by_uuid.contains_key(&domain.uuid) {
                self.observe(now, domain.uuid, Some(domain), out);
            }
        }
        // The first list is begun after the ledger was read, so it is the last word; a later one may
        // have been overtaken and counts as a first look.
        let ours: Vec<uuid::Uuid> = self.by_uuid.keys().copied().collect();
        for uuid in ours {
            let change = self.change_of(uuid);
            let look = Look { uuid, hint: None, is_second: is_first, change };
            self.handle_looked(now, look, listed.get(&uuid).copied(), out);
        }
        self.go_on_all(now, out);
    }
}

/// The hint that is worth more for a look: how a guest has ended may be shown nowhere else.
fn more_telling(before: Option<Lifecycle>, now: Lifecycle) -> Lifecycle {
    match (before, now) {
        (Some(before @ Lifecycle::Stopped(_)), now) if !matches!(now, Lifecycle::Stopped(_)) => {
            before
        }
        (_, now) => now,
    }
}

/// A domain that is no job's, as it is shown.
fn as_observed(domain: &DomainInfo) -> ObservedDomain {
    ObservedDomain {
        uuid: domain.uuid,
        name: domain.name.clone(),
        is_active: domain.state.is_active(),
        resources: domain.resources,
        page_size: domain.page_size,
        is_persistent: domain.is_persistent,
    }
}

/// The state that libvirt shows, when it is not the one in the ledger.
pub(super) fn seen_instead(
    state: JobState,
    hint: Option<Lifecycle>,
    domain: Option<&DomainInfo>,
) -> Option<(JobState, Option<Reason>)> {
    let seen = domain.map(|d| d.state);
    let is_running = matches!(seen, Some(DomainState::Running | DomainState::ShuttingDown));
    let is_paused = matches!(seen, Some(DomainState::Paused(_)));
    match state {
        JobState::Running if is_running => None,
        JobState::Running if is_paused => Some((JobState::Paused, None)),
        JobState::Paused if is_running => Some((JobState::Running, None)),
        JobState::Paused if is_paused => None,
        JobState::Running | JobState::Paused => Some(end_of(hint, seen)),
        // Somebody has started it behind our back: it runs, whatever we think of it.
        JobState::Stopped | JobState::Failed | JobState::Crashed if is_running => {
            Some((JobState::Running, None))
        }
        JobState::Stopped | JobState::Failed | JobState::Crashed => None,
        // Under way: the work that is done for these states looks for itself.
        JobState::Accepted
        | JobState::Starting
        | JobState::Stopping
        | JobState::MigratingIn
        | JobState::MigratingOut => None,
    }
}

/// Whether a guest stands still here that came when what the host had taken was over (see `fencing`): its
/// source was sending it to a hold of ours that an operator's word had ended, before the source knew of it.
///
/// Nobody may run it. The hold can't be handed over any more, and its job may be somebody else's by now, with
/// the disks; so its memory must not meet them again in a later start here, which would find it and take it
/// for its own. That is why it is ended, though it may be the last of this run of the guest: that is what the
/// word has cost, and the row says so. Where the source has not let go, it goes on there.
///
/// It is no source of a sending: a guest is that only under a row that is `migrating_out`, and what such a row
/// lost by the word was ended when it was heard, paused or not.
fn has_come_too_late(job: &Job, domain: Option<&DomainInfo>) -> bool {
    let was_taken = matches!(job.reason, Some(Reason::Fenced { .. }));
    let stands_still = domain.is_some_and(|d| matches!(d.state, DomainState::Paused(_)));
    job.state == JobState::Stopped && job.hold.is_none() && was_taken && stands_still
}

/// How a guest ended that nobody asked to end.
fn end_of(hint: Option<Lifecycle>, seen: Option<DomainState>) -> (JobState, Option<Reason>) {
    if matches!(seen, Some(DomainState::ShutOff(StopReason::Saved))) {
        return (JobState::Stopped, Some(Reason::Saved));
    }
    let how = match (hint, seen) {
        (Some(Lifecycle::Stopped(reason)), _) | (_, Some(DomainState::ShutOff(reason))) => reason,
        _ => StopReason::Crashed,
    };
    match how {
        StopReason::Shutdown => (JobState::Stopped, Some(Reason::GuestShutdown)),
        StopReason::Destroyed => (JobState::Crashed, Some(Reason::Destroyed)),
        // Nobody but a reboot makes libvirt forget how a guest has ended.
        StopReason::Unknown => (JobState::Crashed, Some(Reason::HostRebooted)),
        StopReason::Crashed | StopReason::Migrated | StopReason::Saved | StopReason::Failed => {
            (JobState::Crashed, Some(Reason::Killed))
        }
    }
}
