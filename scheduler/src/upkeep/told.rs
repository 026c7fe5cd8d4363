//! What is told of an expectation: as it was put, how it stands and why, and of a group all that its VMs are
//! told of, as one.
//!
//! Decides which reason is told of several that there are, and which word stands for several VMs: a run that
//! is at one of them says most, then what lacks, then what a host is at. What a group lacks is told with how
//! many run and why the others do not.

use std::collections::BTreeSet;

use planner::{Group, Level};
use protocol::expectations::{ExpectationStatus, KeptStanding, MemberStatus};
use protocol::id::{JobId, SetName};
use serde_json::Value;

use super::index::Key;
use super::set::{Entry, Item};
use super::verdict::Verdict;
use super::{Set, Upkeep};
use crate::tally::Kept;

/// VMs that a sentence tells of: more than that nobody reads, and each is told by itself as well.
const NAMED_MAX: usize = 3;

impl Upkeep {
    /// Each expectation of a set, and how it stands.
    pub(super) fn entries_told(
        &self,
        now_ms: u64,
        name: &SetName,
        set: &Set,
    ) -> Vec<ExpectationStatus> {
        let values = set.record.expectations.iter().flatten();
        let each = values.zip(&set.entries);
        each.map(|(value, entry)| self.entry_told(now_ms, name, set, value, entry)).collect()
    }

    fn entry_told(
        &self,
        now_ms: u64,
        name: &SetName,
        set: &Set,
        value: &Value,
        entry: &Entry,
    ) -> ExpectationStatus {
        let expectation = value.clone();
        let standings =
            set.parts(name, entry).map(|(key, item)| (item, self.standing(now_ms, &key)));
        let note = set.parts(name, entry).find_map(|(key, _)| {
            self.balance_note(now_ms, &key).or_else(|| self.saving_note(now_ms, &key))
        });
        let Some(group) = &entry.group else {
            let standing = standings.map(|(_, standing)| standing).next();
            let standing = standing.unwrap_or(KeptStanding::Unknown);
            let (members, surplus) = (vec![], vec![]);
            return ExpectationStatus { expectation, standing, note, members, surplus };
        };
        let (mut members, mut rules) = (Vec::new(), Vec::new());
        for (item, standing) in standings {
            match item {
                Item::Runs { job, .. } => members.push(MemberStatus { job: job.clone(), standing }),
                _ => rules.push(standing),
            }
        }
        let (standing, surplus) = (together(&members, &rules), self.surplus(group));
        ExpectationStatus { expectation, standing, note, members, surplus }
    }

    pub(super) fn standing(&self, now_ms: u64, key: &Key) -> KeptStanding {
        let Some(item) = self.item(key) else { return KeptStanding::Unknown };
        if let Item::Unknown { why } = item {
            return KeptStanding::NotUnderstood { why: why.clone() };
        }
        let Some(judged) = self.judged.get(key) else { return KeptStanding::Unknown };
        if let Some(going) = self.shifting(key).or_else(|| self.saving_going(key)) {
            return going;
        }
        let evidence = match &judged.verdict {
            Verdict::Met => return KeptStanding::Met,
            Verdict::Coming { host } => return KeptStanding::Coming { host: host.clone() },
            Verdict::Held { why } => {
                return KeptStanding::Unmet { why: why.clone(), report: None };
            }
            Verdict::Broken { evidence } => evidence.clone(),
        };
        let jobs = item.jobs();
        if let Some(run) = self.open.iter().find(|run| jobs.contains(&&run.job)) {
            return KeptStanding::Mending { run: run.run, why: None };
        }
        let mut clearing = self.clearing.values().filter(|favour| jobs.contains(&&favour.lets));
        let moving = clearing.find_map(|favour| {
            let run = self.open.iter().find(|run| run.job == favour.job)?;
            Some(KeptStanding::Mending { run: run.run, why: Some(favour.to_string()) })
        });
        if let Some(moving) = moving {
            return moving;
        }
        let resting = jobs.iter().filter_map(|job| self.mends.rest(now_ms, job)).max();
        let (why, report) = match (resting, &judged.report) {
            (Some((until_ms, why)), report) => {
                let seconds = until_ms.saturating_sub(now_ms).div_ceil(1000);
                let why = format!("{evidence}; {why}; tried again in {seconds} s");
                (why, report.as_ref().map(|(_, report)| report.clone()))
            }
            (None, Some((why, report))) => (why.clone(), Some(report.clone())),
            (None, None) => (evidence, None),
        };
        KeptStanding::Unmet { why, report }
    }

    /// How many expectations stand how, and how many jobs are left alone.
    pub(crate) fn figures(&self, now_ms: u64) -> Kept {
        let mut kept = Kept { sets: self.count() as u64, ..Kept::default() };
        (kept.resting, kept.calm) = self.mends.resting(now_ms);
        let being_changed: BTreeSet<&JobId> = self.open.iter().map(|run| &run.job).collect();
        for (name, set) in &self.sets {
            for entry in &set.entries {
                let parts = set.parts(name, entry);
                let level = parts.clone().find_map(|(_, item)| item.level());
                let words = parts.map(|(key, item)| self.standing_word(&key, item, &being_changed));
                let word = words.max_by_key(|word| weight(word)).unwrap_or("unknown");
                *kept.standings.entry((level.map_or("none", Level::as_str), word)).or_default() +=
                    1;
            }
        }
        kept
    }

    /// As [`Upkeep::standing`], without the reasons, which cost more than the word.
    fn standing_word(
        &self,
        key: &Key,
        item: &Item,
        being_changed: &BTreeSet<&JobId>,
    ) -> &'static str {
        if matches!(item, Item::Unknown { .. }) {
            return "not_understood";
        }
        match self.judged.get(key).map(|judged| &judged.verdict) {
            None => "unknown",
            Some(Verdict::Met) => "met",
            Some(Verdict::Coming { .. }) => "coming",
            Some(Verdict::Held { .. }) => "unmet",
            Some(Verdict::Broken { .. }) => {
                let is_mending = item.jobs().into_iter().any(|job| being_changed.contains(job));
                if is_mending { "mending" } else { "unmet" }
            }
        }
    }

    /// VMs of the group's name with higher numbers. Two groups of one name never are in the same cluster.
    fn surplus(&self, group: &Group) -> Vec<JobId> {
        let numbers = self.index.numbers(group.name()).filter(|number| group.is_beyond(*number));
        let names = numbers.map(|number| format!("{}-{number}", group.name()));
        names.filter_map(|name| JobId::new(name).ok()).collect()
    }
}

/// How much a word tells of several.
pub(super) fn weight(word: &str) -> u8 {
    match word {
        "met" => 0,
        "coming" => 1,
        "unmet" => 2,
        "mending" => 3,
        "unknown" => 4,
        _ => 5,
    }
}

/// How VMs of a group stand together, with the rules that bind them.
fn together(members: &[MemberStatus], rules: &[KeptStanding]) -> KeptStanding {
    let all = || members.iter().map(|member| &member.standing).chain(rules);
    let Some(most) = all().max_by_key(|standing| weight(standing.as_str())) else {
        return KeptStanding::Unknown;
    };
    let KeptStanding::Unmet { .. } = most else { return most.clone() };
    let report = all().find_map(|standing| match standing {
        KeptStanding::Unmet { report, .. } => report.clone(),
        _ => None,
    });
    KeptStanding::Unmet { why: words(members, rules), report }
}

fn words(members: &[MemberStatus], rules: &[KeptStanding]) -> String {
    let run = members.iter().filter(|member| member.standing == KeptStanding::Met).count();
    let why = |standing: &KeptStanding| match standing {
        KeptStanding::Unmet { why, .. } => Some(why.clone()),
        _ => None,
    };
    let mut lacking = members.iter().filter_map(|member| why(&member.standing));
    let mut words = vec![format!("{run} of {} run", members.len())];
    words.extend(lacking.by_ref().take(NAMED_MAX));
    match lacking.count() {
        0 => {}
        more => words.push(format!("and {more} more do not")),
    }
    words.extend(rules.iter().filter_map(why));
    words.join("; ")
}
