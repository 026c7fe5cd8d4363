//! What is new since a page was last told: the difference of two pictures, row by row.
//!
//! Decides what has to be said. Nothing is queued for a slow page: it is told the difference when it
//! is ready for it, and that is never more than everything. A row that has changed five times
//! meanwhile is said once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::api::RunStatus;
use protocol::id::{HostId, JobId, RunId};
use protocol::view::{Freshness, HostRow, View};
use serde::Serialize;

use super::chores::{ChoreCells, ChoreId, Chores};
use super::replica::{Replica, Source};
use super::rows::{HostCells, JobCells, RunCells};
use super::runs::Runs;
use crate::command::QuotaRow;

/// Something that the page does not know yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub(crate) enum News {
    /// The cluster, as the operator's context has it.
    Cluster {
        /// Its name.
        name: Option<String>,
        /// True when changes go to agents themselves, so that nothing can move.
        is_without_controller: bool,
        /// The folder for backups, if the page was given one.
        backups: Option<String>,
    },
    /// Whom the knowledge comes from.
    Source {
        /// `monitor`, `agents` or `nobody`.
        kind: &'static str,
        /// Which monitor, or why not one.
        words: String,
    },
    /// A host is new or changed.
    Host(Box<HostCells>),
    /// An operator has retired a host.
    HostGone { id: HostId },
    /// A job is new or changed.
    Job(Box<JobCells>),
    /// A job was deleted.
    JobGone { id: JobId },
    /// A run is new or changed.
    Run(Box<RunCells>),
    /// A chore is new or changed.
    Chore(Arc<ChoreCells>),
    /// A chore that has ended long ago is forgotten.
    ChoreGone { id: ChoreId },
    /// Every tenant's share.
    Quota {
        /// Tenant by tenant.
        rows: Vec<QuotaRow>,
        /// How much of a limit can be used with how many arbiters, where that is not always all.
        usable: Option<String>,
    },
    /// How old all of this is; a sign of life as well.
    Beat(Beat),
    /// Everything was said that somebody who is followed has told.
    Complete,
}

/// How old the knowledge is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Beat {
    /// Age of the oldest fresh row, in milliseconds.
    fresh_age_ms: u64,
    /// Hosts that are not fresh, with how that is called and their age in milliseconds.
    silent: Vec<(HostId, Silence, u64)>,
    /// Age of what is said of runs, in milliseconds; none before anything was.
    runs_age_ms: Option<u64>,
    /// Why there is nothing newer of runs.
    runs_trouble: Option<String>,
}

/// How it is called that a host is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Silence {
    /// For a moment.
    Stale,
    /// For long.
    Lost,
    /// For long, as it was switched off while nobody needed it.
    Asleep,
}

impl Beat {
    pub(crate) fn of(now_ms: u64, replica: &Replica, runs: &Runs) -> Self {
        let mut beat = Self {
            runs_age_ms: runs.heard_ms.map(|heard_ms| now_ms.saturating_sub(heard_ms)),
            runs_trouble: runs.trouble.clone(),
            ..Self::default()
        };
        for (id, row) in replica.view.hosts() {
            let age = replica.age(now_ms, id);
            // A later life than the one that was put to sleep is lost like any other.
            let is_asleep = runs.asleep.get(id).is_some_and(|epoch| row.cursor.epoch <= *epoch);
            let silence = match age.freshness {
                Freshness::Fresh => {
                    beat.fresh_age_ms = beat.fresh_age_ms.max(age.age_ms);
                    continue;
                }
                Freshness::Stale => Silence::Stale,
                Freshness::Lost if is_asleep => Silence::Asleep,
                Freshness::Lost => Silence::Lost,
            };
            beat.silent.push((id.clone(), silence, age.age_ms));
        }
        beat
    }
}

/// What a page was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    view: View,
    source: Option<Source>,
    runs: BTreeMap<RunId, Arc<RunStatus>>,
    chores: BTreeMap<ChoreId, Arc<ChoreCells>>,
    silent: BTreeMap<HostId, Silence>,
}

impl Told {
    /// What of the replica the page does not know yet; from now on it does.
    pub(crate) fn news_of(&mut self, replica: &Replica) -> Vec<News> {
        let mut news = Vec::new();
        if self.source.as_ref() != Some(&replica.source) {
            self.source = Some(replica.source.clone());
            news.push(source(&replica.source));
        }
        let (before, now) = (std::mem::take(&mut self.view), replica.view.clone());
        let changed = changed_hosts(&before, &now);
        let mut jobs = BTreeSet::new();
        for (id, old, new) in changed {
            match new {
                Some(row) => news.push(News::Host(Box::new(HostCells::of(row)))),
                None => news.push(News::HostGone { id: id.clone() }),
            }
            jobs.extend(changed_jobs(old, new));
        }
        for job in jobs {
            news.push(match now.job_best(job) {
                Some((row, known)) => News::Job(Box::new(JobCells::of(&row.host.id, known))),
                None => News::JobGone { id: job.clone() },
            });
        }
        self.view = now;
        news
    }

    /// What of the runs the page does not know yet; from now on it does.
    pub(crate) fn news_of_runs(&mut self, runs: &Runs) -> Vec<News> {
        let mut news = Vec::new();
        for (id, run) in &runs.runs {
            if self.runs.get(id).is_none_or(|known| known != run) {
                let named = |text: &str| named(&self.view, text);
                news.push(News::Run(Box::new(RunCells::of(run, named))));
            }
        }
        self.runs.clone_from(&runs.runs);
        news
    }

    /// What of the chores the page does not know yet; from now on it does.
    pub(super) fn news_of_chores(&mut self, chores: &Chores) -> Vec<News> {
        let (before, now) = (std::mem::take(&mut self.chores), chores.rows().clone());
        let changed =
            now.iter().filter(|(id, row)| before.get(*id).is_none_or(|old| !Arc::ptr_eq(old, row)));
        let changed = changed.map(|(_, row)| News::Chore(Arc::clone(row)));
        let gone = before.keys().filter(|id| !now.contains_key(*id));
        let gone = gone.map(|id| News::ChoreGone { id: *id });
        let news = changed.chain(gone).collect();
        self.chores = now;
        news
    }

    /// Whether a host has become fresh, stale, lost or asleep since the last time this was asked.
    pub(crate) fn is_freshness_news(&mut self, beat: &Beat) -> bool {
        let silent = beat.silent.iter().map(|(id, silence, _)| (id.clone(), *silence)).collect();
        std::mem::replace(&mut self.silent, silent) != self.silent
    }
}

fn source(source: &Source) -> News {
    let (kind, words) = match source {
        Source::Nobody => ("nobody", String::new()),
        Source::Seeking(why) => ("nobody", why.clone()),
        Source::Beginning(url) => ("nobody", format!("{url} has not told everything yet")),
        Source::Monitor(url) => ("monitor", url.clone()),
        Source::Agents(why) => ("agents", why.clone()),
    };
    News::Source { kind, words }
}

type Changed<'a> = (&'a HostId, Option<&'a HostRow>, Option<&'a HostRow>);

/// Hosts that are not as they were, before and now.
fn changed_hosts<'a>(before: &'a View, now: &'a View) -> Vec<Changed<'a>> {
    let mut changed = Vec::new();
    for (id, row) in now.hosts() {
        let old = before.host(id);
        if old.is_none_or(|old| old.cursor != row.cursor) {
            changed.push((id, old, Some(row)));
        }
    }
    let gone = before.hosts().filter(|(id, _)| now.host(id).is_none());
    changed.extend(gone.map(|(id, old)| (id, Some(old), None)));
    changed
}

/// Jobs of a host that are not as they were.
fn changed_jobs<'a>(old: Option<&'a HostRow>, new: Option<&'a HostRow>) -> BTreeSet<&'a JobId> {
    let jobs = |row: Option<&'a HostRow>| row.into_iter().flat_map(|row| row.jobs.iter());
    let other = |row: Option<&'a HostRow>, id: &JobId| row.and_then(|row| row.jobs.get(id));
    let differs = |(id, job): &(&JobId, &Arc<protocol::job::Job>), there: Option<&'a HostRow>| {
        other(there, id).is_none_or(|other| !Arc::ptr_eq(other, job) && other != *job)
    };
    let appeared = jobs(new).filter(|row| differs(row, old)).map(|(id, _)| id);
    let vanished = jobs(old).filter(|row| differs(row, new)).map(|(id, _)| id);
    appeared.chain(vanished).collect()
}

/// A controller's sentence with hosts' names in place of their ids.
pub(crate) fn named(view: &View, text: &str) -> String {
    view.hosts().fold(text.to_owned(), |text, (id, row)| {
        let (name, short) = (&row.host.name, id.short());
        if !text.contains(short) {
            return text;
        }
        text.replace(&format!("{name} ({short})"), name).replace(short, name)
    })
}

#[cfg(test)]
mod tests {
    use protocol::event::{Event, Fact, Frame};
    use protocol::job::JobState;
    use serde_json::{Value, json};

    use super::super::replica::Input;
    use super::super::rows::tests::{host, inventory, job};
    use super::*;

    fn tell(replica: &mut Replica, frame: Frame) {
        replica.handle(0, Input::Told(frame)).unwrap();
    }

    fn said(news: &[News]) -> Vec<Value> {
        news.iter().map(|news| json!(news)).collect()
    }

    #[test]
    fn only_what_has_changed_is_said_and_said_once() {
        let (mut replica, mut told) = (Replica::default(), Told::default());
        let h1 = host(1);
        let jobs = [job("web-1", JobState::Running), job("web-2", JobState::Running)];
        let first = inventory(&h1, &jobs);
        let cursor = first.cursor;
        tell(&mut replica, Frame::Inventory(Box::new(first)));
        let news = said(&told.news_of(&replica));
        let kinds: Vec<&str> = news.iter().filter_map(|news| news["news"].as_str()).collect();
        assert_eq!(kinds, ["source", "host", "job", "job"]);
        assert_eq!(told.news_of(&replica), vec![]);

        // Two changes between two looks are one piece of news.
        let mut at = cursor;
        for state in [JobState::Stopping, JobState::Stopped] {
            at = at.next();
            let fact = Fact::JobChanged { job: Box::new(job("web-1", state)) };
            tell(
                &mut replica,
                Frame::Event(Event { host: h1.id.clone(), cursor: at, at_ms: 0, fact }),
            );
        }
        let news = said(&told.news_of(&replica));
        assert_eq!(news.len(), 2, "{news:?}");
        assert_eq!((&news[1]["id"], &news[1]["state"]), (&json!("web-1"), &json!("stopped")));

        let fact = Fact::JobDeleted { job: jobs[0].id.clone() };
        let cursor = at.next();
        tell(&mut replica, Frame::Event(Event { host: h1.id.clone(), cursor, at_ms: 0, fact }));
        let news = said(&told.news_of(&replica));
        assert_eq!(news[1], json!({ "news": "job_gone", "id": "web-1" }));
    }

    #[test]
    fn a_job_that_moves_is_one_row_at_the_place_where_it_is_alive() {
        let (mut replica, mut told) = (Replica::default(), Told::default());
        let (h1, h2) = (host(1), host(2));
        let row = |host, state| Frame::Inventory(Box::new(inventory(host, &[job("web-1", state)])));
        tell(&mut replica, row(&h1, JobState::Stopped));
        told.news_of(&replica);
        tell(&mut replica, row(&h2, JobState::Running));
        let news = said(&told.news_of(&replica));
        assert_eq!(news[1]["host"], json!(h2.id));
        replica.handle(0, Input::Retired([h2.id.clone()].into())).unwrap();
        let news = said(&told.news_of(&replica));
        assert_eq!(news[0], json!({ "news": "host_gone", "id": h2.id }));
        assert_eq!(news[1]["host"], json!(h1.id), "what is left of it");
    }

    #[test]
    fn a_chore_is_told_when_it_says_something_and_when_it_is_forgotten() {
        let (mut chores, mut told) = (Chores::default(), Told::default());
        let id = chores.begin(1, "images prune".into(), None).unwrap();
        let news = said(&told.news_of_chores(&chores));
        assert_eq!((&news[0]["news"], &news[0]["state"]), (&json!("chore"), &json!("running")));
        assert_eq!(told.news_of_chores(&chores), vec![]);
        chores.hear(id, "there is nothing to delete");
        let news = said(&told.news_of_chores(&chores));
        assert_eq!(news[0]["said"], json!(["there is nothing to delete"]));
        let news = said(&told.news_of_chores(&Chores::default()));
        assert_eq!(news, [json!({ "news": "chore_gone", "id": id })]);
    }

    #[test]
    fn silence_is_told_with_its_age_and_is_news_once() {
        let (mut replica, mut told) = (Replica::default(), Told::default());
        let (h1, h2) = (host(1), host(2));
        for host in [&h1, &h2] {
            tell(&mut replica, Frame::Inventory(Box::new(inventory(host, &[]))));
        }
        let fresh = |replica: &mut Replica, host: &HostId, age_ms| {
            let freshness = Freshness::Fresh;
            tell(replica, Frame::Freshness { host: host.clone(), freshness, age_ms });
        };
        replica.handle(0, Input::Source(Source::Monitor("m".into()))).unwrap();
        fresh(&mut replica, &h1.id, 0);
        let lost = Frame::Freshness { host: h2.id.clone(), freshness: Freshness::Lost, age_ms: 0 };
        tell(&mut replica, lost);
        let beat = Beat::of(700, &replica, &Runs::default());
        assert_eq!((beat.fresh_age_ms, beat.runs_age_ms), (700, None));
        assert_eq!(beat.silent, [(h2.id.clone(), Silence::Lost, 700)]);
        assert!(told.is_freshness_news(&beat));
        assert!(!told.is_freshness_news(&Beat::of(900, &replica, &Runs::default())));
        // Controllers remember that it was put to sleep, and in which life.
        let epoch = replica.view.host(&h2.id).unwrap().cursor.epoch;
        let of = |epoch| {
            let asleep = BTreeMap::from([(h1.id.clone(), epoch), (h2.id.clone(), epoch)]);
            Beat::of(900, &replica, &Runs { asleep, ..Runs::default() })
        };
        assert_eq!(of(epoch).silent, [(h2.id.clone(), Silence::Asleep, 900)]);
        assert!(told.is_freshness_news(&of(epoch)));
        let before = protocol::id::Epoch(epoch.0 - 1);
        assert_eq!(of(before).silent, [(h2.id.clone(), Silence::Lost, 900)], "it has woken since");
    }
}
