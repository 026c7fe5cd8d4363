//! The merged picture of many hosts, and the one rule by which it is merged.
//!
//! Per host the higher (epoch, seq) wins, a whole host at a time. That makes merging commutative,
//! associative and idempotent, so a view may be fed by hosts, by other monitors, or by both, in any
//! order. Only the *next* event is applied to a row; any other newer one is a gap, which a fresh
//! inventory closes. When a row was last heard is the monitor's to know, not part of the merge.
//!
//! How a host's jobs are kept is a view's own business: whole for whoever plans with them, and packed
//! in a monitor, which has many and seldom looks at them. The rule is the same.

mod jobs;
pub use jobs::{JobChange, JobTable, Jobs, JobsIter};

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use schemars::JsonSchema;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::event::{Event, Fact};
use crate::host::{Host, Inventory};
use crate::id::{Cursor, HostId, JobId};
use crate::job::{Job, JobState, ObservedDomain};

/// How much a row of a view is worth now.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Heard within the last few seconds.
    Fresh,
    /// Not heard for a while.
    Stale,
    /// Not heard for long, by a monitor that hears others. Says nothing about the guests there.
    Lost,
}

/// What is known of one host, with its jobs kept as `J`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Inventory", bound(deserialize = "J: JobTable"))]
pub struct Row<J> {
    /// Up to which event this is true.
    pub cursor: Cursor,
    /// The host.
    pub host: Arc<Host>,
    /// Its jobs.
    pub jobs: J,
    /// Domains that are no job's.
    pub observed: OrdMap<Uuid, ObservedDomain>,
}

/// What is known of one host.
pub type HostRow = Row<Jobs>;

impl<J: JobTable> From<Inventory> for Row<J> {
    fn from(inventory: Inventory) -> Self {
        Self {
            cursor: inventory.cursor,
            host: Arc::new(inventory.host),
            jobs: J::of(inventory.jobs),
            observed: inventory.observed.into_iter().map(|d| (d.uuid, d)).collect(),
        }
    }
}

impl<J: JobTable> From<Row<J>> for Inventory {
    fn from(row: Row<J>) -> Self {
        Self {
            cursor: row.cursor,
            host: Arc::unwrap_or_clone(row.host),
            jobs: row.jobs.whole(),
            observed: row.observed.into_iter().map(|(_, domain)| domain).collect(),
        }
    }
}

/// What became of a message given to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It was news.
    Applied,
    /// It, or something later, was known already.
    Old,
    /// Something is missing before it; the row is unchanged and an inventory is needed.
    Gap {
        /// Where the row stands; zero for an unknown host.
        at: Cursor,
    },
}

/// Hosts and jobs as far as somebody knows them, with jobs kept as `J`. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent, bound(serialize = "J: JobTable + Serialize", deserialize = "J: JobTable"))]
#[schemars(rename = "View", bound = "")]
pub struct Rows<J> {
    #[schemars(with = "BTreeMap<HostId, Inventory>")]
    hosts: OrdMap<HostId, Row<J>>,
}

/// Hosts and jobs as far as somebody knows them. Cheap to clone.
pub type View = Rows<Jobs>;

impl<J: JobTable> Rows<J> {
    /// Takes a complete report of one host, if it is newer than what is known.
    pub fn merge_inventory(&mut self, inventory: Inventory) -> Merge {
        let host = inventory.host.id.clone();
        match self.hosts.get(&host) {
            Some(row) if row.cursor >= inventory.cursor => Merge::Old,
            _ => {
                self.hosts.insert(host, inventory.into());
                Merge::Applied
            }
        }
    }

    /// Takes the next fact of one host.
    pub fn merge_event(&mut self, event: &Event) -> Merge {
        match self.look_at(&event.host, event.cursor) {
            Merge::Applied => self.take_event(event.clone()),
            not_next => not_next,
        }
    }

    /// As [`View::merge_event`], without a copy.
    pub fn take_event(&mut self, event: Event) -> Merge {
        let merge = self.look_at(&event.host, event.cursor);
        // Looked at before anything is touched: the map copies what it shares with published views
        // as soon as a row is asked for to be changed.
        if merge == Merge::Applied
            && let Some(row) = self.hosts.get_mut(&event.host)
        {
            row.apply(event);
        }
        merge
    }

    /// What would become of an event at `cursor`.
    fn look_at(&self, host: &HostId, cursor: Cursor) -> Merge {
        match self.hosts.get(host) {
            None => Merge::Gap { at: Cursor::default() },
            Some(row) if cursor <= row.cursor => Merge::Old,
            Some(row) if cursor != row.cursor.next() => Merge::Gap { at: row.cursor },
            Some(_) => Merge::Applied,
        }
    }

    /// Takes everything another view knows better.
    pub fn merge_view(&mut self, other: &Self) {
        for (host, theirs) in &other.hosts {
            if self.hosts.get(host).is_none_or(|ours| ours.cursor < theirs.cursor) {
                self.hosts.insert(host.clone(), theirs.clone());
            }
        }
    }

    /// Forgets a host. Only an operator's explicit word leads here, never silence.
    pub fn forget(&mut self, host: &HostId) -> bool {
        self.hosts.remove(host).is_some()
    }

    /// The rows, by host id.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, &Row<J>)> {
        self.hosts.iter()
    }

    /// One host's row.
    #[must_use]
    pub fn host(&self, id: &HostId) -> Option<&Row<J>> {
        self.hosts.get(id)
    }

    /// Some of the rows, as a view of its own.
    #[must_use]
    pub fn part<'a>(&self, hosts: impl IntoIterator<Item = &'a HostId>) -> Self {
        let rows = hosts.into_iter().filter_map(|host| Some((host.clone(), self.hosts.get(host)?)));
        Self { hosts: rows.map(|(host, row)| (host, row.clone())).collect() }
    }

    /// The host that a person means by an id, the beginning of an id, or a hostname; `Err` lists
    /// the candidates when there is not exactly one.
    pub fn find_host(&self, text: &str) -> Result<&Row<J>, Vec<&Row<J>>> {
        let by_id = |row: &&Row<J>| row.host.id.as_str() == text;
        if let Some(row) = self.hosts.values().find(by_id) {
            return Ok(row);
        }
        let matches = |row: &&Row<J>| {
            row.host.name == text || (text.len() >= 4 && row.host.id.as_str().starts_with(text))
        };
        let mut found: Vec<&Row<J>> = self.hosts.values().filter(matches).collect();
        if found.len() == 1 { Ok(found.remove(0)) } else { Err(found) }
    }
}

impl<J: JobTable + PartialEq> Rows<J> {
    /// Hosts of which this view and another say different things, those that only one of them has
    /// included. Where one was made from the other this costs what has changed, not what there is.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a HostId> {
        before.hosts.diff(&self.hosts).map(|item| match item {
            DiffItem::Add(host, _) | DiffItem::Remove(host, _) => host,
            DiffItem::Update { new: (host, _), .. } => host,
        })
    }

    /// How many hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// True without hosts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl View {
    /// Every row of a job. More than one while it moves, or when a host that once had it still
    /// remembers.
    pub fn job<'a>(&'a self, id: &'a JobId) -> impl Iterator<Item = (&'a HostRow, &'a Arc<Job>)> {
        self.hosts.values().filter_map(move |row| row.jobs.get(id).map(|job| (row, job)))
    }

    /// The row that matters most for a job: the one where it is alive, else the latest.
    #[must_use]
    pub fn job_best<'a>(&'a self, id: &'a JobId) -> Option<(&'a HostRow, &'a Arc<Job>)> {
        self.job(id).max_by_key(|(_, job)| (rank(job.state), job.revision, job.since_ms))
    }

    /// Every job, the best row each.
    #[must_use]
    pub fn jobs_best(&self) -> BTreeMap<&JobId, (&HostRow, &Arc<Job>)> {
        let mut best: BTreeMap<&JobId, (&HostRow, &Arc<Job>)> = BTreeMap::new();
        for row in self.hosts.values() {
            for (id, job) in &row.jobs {
                let key = |job: &Job| (rank(job.state), job.revision, job.since_ms);
                if best.get(id).is_none_or(|(_, known)| key(known) < key(job)) {
                    best.insert(id, (row, job));
                }
            }
        }
        best
    }
}

/// How strongly a state says "the job is here".
fn rank(state: JobState) -> u8 {
    match state {
        JobState::Running | JobState::Paused | JobState::MigratingOut | JobState::Stopping => 3,
        JobState::Starting | JobState::Accepted => 2,
        JobState::MigratingIn => 1,
        JobState::Stopped | JobState::Failed | JobState::Crashed => 0,
    }
}

impl<J: JobTable> Row<J> {
    fn apply(&mut self, event: Event) {
        self.cursor = event.cursor;
        match event.fact {
            Fact::JobChanged { job } => self.jobs.put(job),
            Fact::JobDeleted { job } => self.jobs.drop_job(&job),
            Fact::HostChanged { host } => self.host = Arc::from(host),
            Fact::DomainObserved { domain } => {
                self.observed.insert(domain.uuid, domain);
            }
            Fact::DomainGone { uuid } => {
                self.observed.remove(&uuid);
            }
        }
    }
}

/// As an [`Inventory`], without making one.
impl<J: Serialize> Serialize for Row<J> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut inventory = serializer.serialize_struct("Inventory", 4)?;
        inventory.serialize_field("cursor", &self.cursor)?;
        inventory.serialize_field("host", &self.host)?;
        inventory.serialize_field("jobs", &self.jobs)?;
        inventory.serialize_field("observed", &Values(&self.observed))?;
        inventory.end()
    }
}

/// The values of a map, as a list.
struct Values<'a, K, V>(&'a OrdMap<K, V>);

impl<K: Ord, V: Serialize> Serialize for Values<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

#[cfg(test)]
mod tests;
