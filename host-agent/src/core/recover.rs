//! The first moment of an agent's new life: what the ledger says, before libvirt was asked.
//!
//! Nothing is begun here. The first complete list of domains settles what differs, and only then
//! do jobs go on: a start that was interrupted is repeated (it finds what is there), a sending that
//! was under way is settled and never begun again. What a reboot makes of them is in `restarts`.

use protocol::job::JobState;

use transport::clock::Now;

use super::agent::Agent;
use super::input::Effect;
use super::leaving::tell_leaving;
use super::ledger::{JobRecord, Tally, Write};

impl Agent {
    pub(super) fn restore(&mut self, jobs: Vec<JobRecord>, is_rebooted: bool) {
        for mut record in jobs {
            let needed_right = record.tally.needs_right;
            let (had, was_penned) = (record.cpus.len(), record.penned);
            if is_rebooted {
                record.tally = Tally::default();
                // Its guest is gone, and CPUs may be. What memory of it is saved is where it was.
                record.cpus.clear();
                record.penned &= record.has_saved_memory() || record.restores;
            }
            // What it has lost it gets anew; what was just divided says so before its guest is put anywhere.
            let is_moved = record.cpus.len() != had || self.has_lost_cpus(&record);
            record.penned |= !record.job.state.is_ended() && self.pens(&record);
            let is_changed =
                self.lose_at_reboot(&mut record) || is_rebooted && self.rebooted(&mut record);
            // That a right has to be shown is remembered also of what is as it was otherwise: the next
            // life in this boot would start it without.
            let is_placed = is_moved || record.penned != was_penned;
            if is_changed || is_placed || record.tally.needs_right != needed_right {
                self.unwritten.push(record.job.id.clone());
            }
            tell_leaving(&mut record);
            // Seen in an earlier life.
            record.job.cards = Box::default();
            let id = record.job.id.clone();
            let is_begun = record.job.state == JobState::MigratingOut;
            let is_snapshot_tried = record.job.snapshot_under_way().is_some();
            self.remember(record);
            self.jobs.change(&id, |entry| {
                entry.is_begun = is_begun;
                entry.is_snapshot_tried = is_snapshot_tried;
            });
        }
        // Once it is known what all others have.
        for id in self.unwritten.clone() {
            let Some(cpus) = self.jobs.get(&id).map(|entry| self.cpus_for(&entry.record)) else {
                continue;
            };
            self.jobs.change(&id, |entry| entry.record.cpus = cpus);
        }
    }

    /// Writes and tells what the reboot alone has changed, and with it that nothing tells of an earlier
    /// boot any more: whoever dies before must find out about the reboot again, or would start by a
    /// right that it has not shown.
    pub(super) fn write_restored(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.is_boot_written, true) {
            out.push(Effect::Persist(Write::Boot(self.boot.clone())));
        }
        for id in std::mem::take(&mut self.unwritten) {
            if let Ok(record) = self.record(&id).cloned() {
                self.insert(now, record, out);
            }
        }
    }
}
