//! Do the monitors see what the hosts say? Every difference, with what explains it.
//!
//! Pure. What each monitor and each host answered is an argument; asking is `shell::views`'s. Views
//! are always a moment old, so a difference counts only when a second look still has it; a monitor
//! that has meanwhile come to where the host was at the first look has done its work.

use std::collections::BTreeSet;

use protocol::api::{HostFreshness, ViewReply};
use protocol::host::Inventory;
use protocol::id::{Cursor, HostId, JobId};
use protocol::job::{Job, JobState};
use protocol::view::{Freshness, HostRow};
use serde::Serialize;

mod versions;

/// How a monitor's trouble with a host begins when it no longer believes it.
const QUARANTINED: &str = "quarantined:";

/// Everything that was heard at one look. Monitors are asked before hosts, so a monitor that is
/// ahead of its host is wrong, and one behind may only be a moment old.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// What each monitor answered.
    pub monitors: Vec<MonitorSight>,
    /// What each host answered.
    pub hosts: Vec<HostSight>,
    /// Entries of discovery that prove nothing, each with its reason.
    pub unproven: Vec<String>,
    /// Sources that do not answer, each with its reason.
    pub silent: Vec<String>,
}

/// One monitor.
#[derive(Debug, Clone)]
pub struct MonitorSight {
    /// Its address, for people.
    pub name: String,
    /// Its view, or why there is none.
    pub view: Result<ViewReply, String>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct HostSight {
    /// Its id.
    pub host: HostId,
    /// Its name as far as anybody knows it.
    pub name: String,
    /// False when there is a roster and the host is not on it.
    pub is_member: bool,
    /// Who answers with its key: one, unless its disk was copied.
    pub machines: Vec<Machine>,
    /// Why nobody answers, when nobody does.
    pub why: String,
}

/// A machine that answered with a host's key.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Where.
    pub url: String,
    /// What its agent drew when it started.
    pub life: Option<String>,
    /// What it says.
    pub inventory: Inventory,
}

/// What kind of difference it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A monitor does not answer.
    MonitorSilent,
    /// A monitor has not heard of everybody yet.
    MonitorIncomplete,
    /// A source of hosts does not answer.
    SourceSilent,
    /// Somebody is written down who does not prove to be one of us.
    Unproven,
    /// Several machines have one key.
    ClonedKey,
    /// A host answers and is not on the roster.
    NotAMember,
    /// A host does not answer from here.
    Unreachable,
    /// A monitor has never heard of a host.
    Unknown,
    /// A monitor shows a host that is not on the roster.
    Foreign,
    /// A monitor has not heard a host for a while.
    Stale,
    /// A monitor has not heard a host for long.
    Lost,
    /// A monitor does not believe a host any more.
    Quarantined,
    /// A monitor has a trouble with a host that it hears.
    Trouble,
    /// A monitor lacks the latest events of a host.
    Behind,
    /// A monitor knows events that the host does not: its ledger is an older copy.
    Ahead,
    /// A monitor shows a job otherwise than its host.
    Job,
    /// A host's agent is of another version than most, and works with them: a note.
    OtherVersion,
    /// A host's agent is of a version that need not understand most others.
    VersionsApart,
}

impl Kind {
    /// Whether it is only worth knowing: a cluster with nothing else is well.
    #[must_use]
    pub fn is_note(self) -> bool {
        self == Self::OtherVersion
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind.
    pub kind: Kind,
    /// Which monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<String>,
    /// Which host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Which job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What is so and why, in words.
    pub explanation: String,
    /// Where the monitor stood and where the host, when that is what differs.
    #[serde(skip)]
    at: Option<(Cursor, Cursor)>,
}

impl Difference {
    fn new(kind: Kind, explanation: String) -> Self {
        Self { kind, monitor: None, host: None, job: None, explanation, at: None }
    }

    fn of_host(self, host: &HostId) -> Self {
        Self { host: Some(host.clone()), ..self }
    }

    fn at_monitor(self, monitor: &str) -> Self {
        Self { monitor: Some(monitor.to_owned()), ..self }
    }

    fn is_still(&self, earlier: &Self) -> bool {
        let key = |d: &Self| (d.kind, d.monitor.clone(), d.host.clone(), d.job.clone());
        // What proves nothing is told apart by its words.
        let is_same = match self.kind {
            Kind::Unproven | Kind::SourceSilent => self == earlier,
            _ => key(self) == key(earlier),
        };
        let has_moved_on = match (self.at, earlier.at) {
            // Who shows something else at the same event is wrong, not late.
            (Some((monitor, host)), _) if monitor == host => false,
            (Some((monitor, _)), Some((_, host))) => monitor >= host,
            _ => false,
        };
        is_same && !has_moved_on
    }
}

/// The differences of a second look that were there at the first already.
#[must_use]
pub fn lasting(first: &[Difference], second: Vec<Difference>) -> Vec<Difference> {
    second.into_iter().filter(|now| first.iter().any(|then| now.is_still(then))).collect()
}

/// Every difference that a look shows.
#[must_use]
pub fn differences(look: &Look) -> Vec<Difference> {
    let mut all: Vec<Difference> = Vec::new();
    all.extend(look.silent.iter().map(|why| Difference::new(Kind::SourceSilent, why.clone())));
    all.extend(look.unproven.iter().map(|why| Difference::new(Kind::Unproven, why.clone())));
    for monitor in &look.monitors {
        match &monitor.view {
            Err(why) => all.push(
                Difference::new(Kind::MonitorSilent, format!("does not answer: {why}"))
                    .at_monitor(&monitor.name),
            ),
            Ok(reply) if !reply.is_complete => all.push(
                Difference::new(
                    Kind::MonitorIncomplete,
                    "has not heard of every host yet, or has just started".to_owned(),
                )
                .at_monitor(&monitor.name),
            ),
            Ok(_) => {}
        }
    }
    for host in &look.hosts {
        all.extend(of_host(host, &look.monitors));
    }
    all.extend(versions::other_versions(&look.hosts));
    all
}

/// What each monitor that answers says of a host.
fn opinions<'a>(
    host: &'a HostId,
    monitors: &'a [MonitorSight],
) -> impl Iterator<Item = (&'a str, Option<&'a HostFreshness>, Option<&'a HostRow>)> {
    monitors.iter().filter_map(move |monitor| {
        let reply = monitor.view.as_ref().ok()?;
        let freshness = reply.freshness.iter().find(|f| f.host == *host);
        Some((monitor.name.as_str(), freshness, reply.view.host(host)))
    })
}

fn of_host(sight: &HostSight, monitors: &[MonitorSight]) -> Vec<Difference> {
    let HostSight { host, name, is_member, machines, .. } = sight;
    let mut all = Vec::new();
    let lives: BTreeSet<_> = machines.iter().map(life_of).collect();
    if lives.len() > 1 {
        all.push(cloned(sight).of_host(host));
        return all;
    }
    let Some(machine) = machines.first() else {
        all.extend(unreachable(sight, monitors));
        for (monitor, freshness, _) in opinions(host, monitors) {
            let opinion = freshness.and_then(|freshness| opinion(name, freshness));
            all.extend(opinion.map(|opinion| opinion.of_host(host).at_monitor(monitor)));
        }
        return all;
    };
    if !is_member {
        let words = format!("{name} answers and is not on the roster: run `ostler bootstrap`");
        all.push(Difference::new(Kind::NotAMember, words).of_host(host));
    }
    for (monitor, freshness, row) in opinions(host, monitors) {
        let of_monitor = match (freshness.and_then(|f| opinion(name, f)), row) {
            (Some(opinion), _) => vec![opinion],
            (None, None) if *is_member => {
                let words = format!("does not know {name} ({why})", why = heard(freshness));
                vec![Difference::new(Kind::Unknown, words)]
            }
            (None, None) => vec![],
            (None, Some(_)) if !is_member => {
                let words = format!("shows {name}, which is not on the roster");
                vec![Difference::new(Kind::Foreign, words)]
            }
            (None, Some(row)) => compare(name, row, &machine.inventory),
        };
        all.extend(of_monitor.into_iter().map(|d| d.of_host(host).at_monitor(monitor)));
    }
    all
}

fn life_of(machine: &Machine) -> String {
    let Machine { life, inventory, .. } = machine;
    let words = || format!("{} {}", inventory.host.name, inventory.host.urls.join(" "));
    life.clone().unwrap_or_else(words)
}

fn cloned(sight: &HostSight) -> Difference {
    let mut machines: Vec<(&str, &str)> = sight
        .machines
        .iter()
        .map(|machine| (machine.inventory.host.name.as_str(), machine.url.as_str()))
        .collect();
    machines.sort_unstable();
    let names: Vec<&str> = machines.iter().map(|(name, _)| *name).collect();
    let at: Vec<String> = machines.iter().map(|(name, url)| format!("{name} at {url}")).collect();
    let words = format!(
        "{} have one key: {}; on the copy, stop the agent, remove agent.key and start it again",
        names.join(" and "),
        at.join(", ")
    );
    Difference::new(Kind::ClonedKey, words)
}

fn unreachable(sight: &HostSight, monitors: &[MonitorSight]) -> Option<Difference> {
    let HostSight { host, name, why, .. } = sight;
    let is = |f: &HostFreshness, freshness| f.freshness == freshness;
    let mut hears = Vec::new();
    for (monitor, freshness, _) in opinions(host, monitors) {
        let Some(freshness) = freshness else { continue };
        if is_quarantined(freshness) {
            // That it is not believed says more than that we can't reach it.
            return None;
        }
        if is(freshness, Freshness::Fresh) {
            hears.push(format!("{monitor} hears it ({} ms ago)", freshness.age_ms));
        }
    }
    let where_it_is = match hears.as_slice() {
        [] => "no monitor hears it either".to_owned(),
        some => format!("{}, so the fault is between it and this machine", some.join(", ")),
    };
    let words = format!("{name} does not answer from here: {why}; {where_it_is}");
    Some(Difference::new(Kind::Unreachable, words).of_host(host))
}

fn is_quarantined(freshness: &HostFreshness) -> bool {
    freshness.trouble.as_ref().is_some_and(|trouble| trouble.starts_with(QUARANTINED))
}

fn heard(freshness: Option<&HostFreshness>) -> String {
    match freshness.and_then(|freshness| freshness.trouble.clone()) {
        Some(trouble) => trouble,
        None if freshness.is_some() => "it was told of it and has not heard it".to_owned(),
        None => "nobody told it of it".to_owned(),
    }
}

/// What a monitor has against a host; `None` when it hears it and is content.
fn opinion(name: &str, freshness: &HostFreshness) -> Option<Difference> {
    let HostFreshness { freshness: state, age_ms, trouble, .. } = freshness;
    let why = trouble.as_deref().map_or(String::new(), |trouble| format!(": {trouble}"));
    let (kind, words) = match state {
        _ if is_quarantined(freshness) => {
            (Kind::Quarantined, format!("does not believe {name}{why}"))
        }
        Freshness::Stale => {
            (Kind::Stale, format!("shows {name} as stale, heard {age_ms} ms ago{why}"))
        }
        Freshness::Lost => {
            (Kind::Lost, format!("shows {name} as lost, heard {age_ms} ms ago{why}"))
        }
        Freshness::Fresh if trouble.is_some() => (Kind::Trouble, format!("hears {name}{why}")),
        Freshness::Fresh => return None,
    };
    Some(Difference::new(kind, words))
}

/// A monitor's row and what the host says itself.
fn compare(name: &str, row: &HostRow, says: &Inventory) -> Vec<Difference> {
    let at = (row.cursor, says.cursor);
    let (kind, words) = match row.cursor.cmp(&says.cursor) {
        std::cmp::Ordering::Less => (Some(Kind::Behind), distance(name, row.cursor, says.cursor)),
        std::cmp::Ordering::Greater => {
            let words = format!(
                "shows {name} at {}, the host is at {}: was its ledger replaced by an older copy?",
                row.cursor, says.cursor
            );
            (Some(Kind::Ahead), words)
        }
        std::cmp::Ordering::Equal => {
            let words = format!(
                "both are at event {}: was its ledger replaced by an older copy? Restart its agent",
                row.cursor
            );
            (None, words)
        }
    };
    let mut all: Vec<Difference> = jobs(row, says)
        .into_iter()
        .map(|(job, shown, is)| {
            let state = |state: Option<JobState>| {
                state.map_or_else(|| "nothing".to_owned(), |state| format!("{state}"))
            };
            let words = format!(
                "shows {job} on {name} as {}, the host says {} ({words})",
                state(shown),
                state(is)
            );
            Difference { job: Some(job), at: Some(at), ..Difference::new(Kind::Job, words) }
        })
        .collect();
    if let Some(kind) = kind {
        all.insert(0, Difference { at: Some(at), ..Difference::new(kind, words) });
    }
    all
}

fn distance(name: &str, shown: Cursor, is: Cursor) -> String {
    if shown.epoch == is.epoch {
        return format!("is {} events behind {name}", is.seq.saturating_sub(shown.seq));
    }
    format!("shows {name} at {shown}, before its agent started anew; it is at {is}")
}

/// Jobs that are otherwise, with their states in the view and on the host.
fn jobs(row: &HostRow, says: &Inventory) -> Vec<(JobId, Option<JobState>, Option<JobState>)> {
    let shown = |id: &JobId| row.jobs.get(id).map(AsRef::as_ref);
    let is = |id: &JobId| says.jobs.iter().find(|job| job.id == *id);
    let ids: BTreeSet<&JobId> =
        row.jobs.keys().chain(says.jobs.iter().map(|job| &job.id)).collect();
    let differs = |id: &&JobId| shown(id) != is(id);
    let state = |job: Option<&Job>| job.map(|job| job.state);
    ids.into_iter()
        .filter(differs)
        .map(|id| (id.clone(), state(shown(id)), state(is(id))))
        .collect()
}

#[cfg(test)]
mod tests {
    use protocol::id::Epoch;
    use protocol::job::Role;
    use protocol::view::View;

    use super::*;
    use crate::layout::tests::service;
    use crate::verdict::tests::host;

    fn inventory(seed: u8, seq: u64) -> Inventory {
        let cursor = Cursor { epoch: Epoch(1), seq };
        Inventory { cursor, host: host(seed), jobs: vec![], observed: vec![] }
    }

    fn monitor(rows: &[(u8, u64, Freshness, Option<&str>)]) -> MonitorSight {
        let mut view = View::default();
        let mut freshness = Vec::new();
        for (seed, seq, state, trouble) in rows {
            if *seq > 0 {
                view.merge_inventory(inventory(*seed, *seq));
            }
            freshness.push(HostFreshness {
                host: host(*seed).id,
                freshness: *state,
                age_ms: 10,
                path: String::new(),
                trouble: trouble.map(str::to_owned),
            });
        }
        let monitor = host(99).key;
        let reply = ViewReply { monitor, is_complete: true, freshness, view };
        MonitorSight { name: "m0".into(), view: Ok(reply) }
    }

    fn answering(seed: u8, seq: u64) -> HostSight {
        let inventory = inventory(seed, seq);
        let (url, life) = (inventory.host.urls[0].clone(), Some("a".into()));
        HostSight {
            host: inventory.host.id.clone(),
            name: inventory.host.name.clone(),
            is_member: true,
            machines: vec![Machine { url, life, inventory }],
            why: String::new(),
        }
    }

    fn silent(seed: u8) -> HostSight {
        HostSight { machines: vec![], why: "refused".into(), ..answering(seed, 1) }
    }

    fn look(monitors: Vec<MonitorSight>, hosts: Vec<HostSight>) -> Look {
        Look { monitors, hosts, ..Look::default() }
    }

    fn kinds(look: &Look) -> Vec<Kind> {
        differences(look).iter().map(|difference| difference.kind).collect()
    }

    const FRESH: Freshness = Freshness::Fresh;

    #[test]
    fn views_that_agree_have_no_differences() {
        let all = [(1, 5, FRESH, None), (2, 7, FRESH, None)];
        let look = look(vec![monitor(&all), monitor(&all)], vec![answering(1, 5), answering(2, 7)]);
        assert_eq!(differences(&look), []);
    }

    #[test]
    fn an_agent_of_another_version_than_most_is_named() {
        let all = [(1, 5, FRESH, None), (2, 7, FRESH, None), (3, 2, FRESH, None)];
        let mut hosts = vec![answering(1, 5), answering(2, 7), answering(3, 2)];
        hosts[1].machines[0].inventory.host.agent_version = "0.0.9".to_owned();
        let found = differences(&look(vec![monitor(&all)], hosts));
        let named: Vec<_> = found.iter().map(|d| (d.kind, d.host.clone())).collect();
        assert_eq!(named, [(Kind::OtherVersion, Some(host(2).id))]);
        assert!(found[0].explanation.contains("0.0.9"), "{}", found[0].explanation);
    }

    #[test]
    fn each_difference_has_a_kind_of_its_own() {
        let of = |row, host| kinds(&look(vec![monitor(&[row])], vec![host]));
        assert_eq!(of((1, 4, FRESH, None), answering(1, 5)), [Kind::Behind]);
        assert_eq!(of((1, 6, FRESH, None), answering(1, 5)), [Kind::Ahead]);
        assert_eq!(of((1, 5, Freshness::Stale, None), answering(1, 5)), [Kind::Stale]);
        assert_eq!(of((1, 5, Freshness::Lost, None), silent(1)), [Kind::Unreachable, Kind::Lost]);
        let hostile = Some("quarantined: bad frame");
        assert_eq!(of((1, 0, Freshness::Stale, hostile), silent(1)), [Kind::Quarantined]);
        assert_eq!(of((1, 5, FRESH, Some("old ledger")), answering(1, 5)), [Kind::Trouble]);
        assert_eq!(of((2, 5, FRESH, None), answering(1, 5)), [Kind::Unknown]);
        let stranger = HostSight { is_member: false, ..answering(1, 5) };
        assert_eq!(of((1, 5, FRESH, None), stranger), [Kind::NotAMember, Kind::Foreign]);
    }

    #[test]
    fn two_lives_behind_one_key_are_named_and_explain_everything_else() {
        let mut twin = answering(1, 5);
        let mut copy = Machine { life: Some("b".into()), ..twin.machines[0].clone() };
        copy.inventory.host.name = "copy".into();
        twin.machines.push(copy);
        let found = differences(&look(vec![monitor(&[(1, 2, FRESH, None)])], vec![twin.clone()]));
        assert_eq!(found.len(), 1);
        assert!(found[0].explanation.starts_with("copy and n1 have one key"), "{found:?}");
        // One machine with two addresses is no twin.
        twin.machines[1].life = Some("a".into());
        assert_eq!(kinds(&look(vec![monitor(&[(1, 5, FRESH, None)])], vec![twin])), []);
    }

    #[test]
    fn who_hears_a_host_that_we_do_not_is_told() {
        let found = differences(&look(vec![monitor(&[(1, 5, FRESH, None)])], vec![silent(1)]));
        assert_eq!(found.len(), 1);
        let words = &found[0].explanation;
        assert!(words.contains("m0 hears it") && words.contains("refused"), "{words}");
    }

    #[test]
    fn a_monitor_that_catches_up_is_no_lasting_difference() {
        let at = |shown, is| {
            differences(&look(vec![monitor(&[(1, shown, FRESH, None)])], vec![answering(1, is)]))
        };
        assert_eq!(lasting(&at(4, 5), at(8, 9)), [], "it moves on with the host");
        assert_eq!(lasting(&at(4, 5), at(4, 9)).len(), 1, "it stands still");
        assert_eq!(lasting(&at(5, 5), at(4, 5)), [], "it was not so before");
    }
    #[test]
    fn a_monitor_that_shows_something_else_at_the_same_event_is_wrong_and_not_late() {
        let at = |shown, is| {
            let mut host = answering(1, is);
            host.machines[0].inventory.jobs = vec![service(Role::Monitor, 0, JobState::Running, 7)];
            differences(&look(vec![monitor(&[(1, shown, FRESH, None)])], vec![host]))
        };
        for (first, second) in [(at(5, 5), at(5, 5)), (at(5, 5), at(9, 9)), (at(4, 5), at(9, 9))] {
            let lasting = lasting(&first, second);
            assert_eq!(lasting.iter().map(|one| one.kind).collect::<Vec<_>>(), [Kind::Job]);
        }
    }
}
