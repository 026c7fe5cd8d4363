//! What is told of an expectation: as it was put, and of a group all that its VMs are told of, as one.
//!
//! Decides which word stands for several: a run that is at one of them says most, then what lacks, then
//! what a host is at. What a group lacks is told with how many run and why the others do not.

use planner::Group;
use protocol::expectations::{ExpectationStatus, KeptStanding, MemberStatus};
use protocol::id::{JobId, SetName};
use serde_json::Value;

use super::set::{Entry, Item};
use super::{Set, Upkeep};

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
        let note = set.parts(name, entry).find_map(|(key, _)| self.balance_note(now_ms, &key));
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
