//! A set of expectations as it is stored, and what of it can be kept true over time.
//!
//! Decides what is refused when it is put (what is badly written, what contradicts itself, and what would
//! end or delete something again and again), and which of two records of one set is the later. A kind that
//! nobody here knows is kept, told of, and blocks nothing. A group is kept as what it is short for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use planner::case::{Understood, understand};
use planner::{Clause, Expectation, Group, Level, Order, StartsAfter, circle, circle_words};
use protocol::expectations::SetStatus;
use protocol::id::{HostId, JobId, Revision, SetName};
use protocol::job::{JobKind, JobSpec};
use protocol::vm::SizeChange;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The form of [`SetRecord`]; a record of a later form is left alone, loudly.
pub const SET_VERSION: u32 = 1;

/// Sets that a scheduler keeps. Each is judged in memory, and listed in one answer.
pub const SETS_MAX: usize = 1024;

/// Expectations of one set, where each VM of a group counts: a file that a person can still read.
pub const ITEMS_MAX: usize = 1024;

/// A set of expectations as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRecord {
    /// See [`SET_VERSION`].
    pub version: u32,
    /// Its name.
    pub name: SetName,
    /// Grows with each change.
    pub revision: Revision,
    /// As they were put; `None` when it was deleted, which is remembered so that nobody who missed it
    /// brings the set back.
    pub expectations: Option<Vec<Value>>,
    /// Jobs that are expected to run and that were seen since.
    #[serde(default)]
    pub begun: BTreeSet<JobId>,
    /// Jobs that are expected to run and that somebody has had stopped since, each with its change then.
    #[serde(default)]
    pub stopped: BTreeMap<JobId, Revision>,
    /// When it was put, in milliseconds since 1970; for people only.
    pub put_ms: u64,
}

impl From<SetStatus> for SetRecord {
    /// As another scheduler tells of it.
    fn from(status: SetStatus) -> Self {
        let values = status.expectations.into_iter().map(|one| one.expectation).collect();
        let expectations = (!status.is_deleted).then_some(values);
        let put = Self::new(status.name, status.revision, expectations, status.put_ms);
        Self { begun: status.begun, stopped: status.stopped, ..put }
    }
}

impl SetRecord {
    /// A set nobody has seen anything of.
    #[must_use]
    pub fn new(
        name: SetName,
        revision: Revision,
        expectations: Option<Vec<Value>>,
        put_ms: u64,
    ) -> Self {
        let (begun, stopped) = (BTreeSet::new(), BTreeMap::new());
        Self { version: SET_VERSION, name, revision, expectations, begun, stopped, put_ms }
    }

    /// Somebody has had this change of the job stopped.
    pub(crate) fn note_stop(&mut self, job: JobId, revision: Revision) {
        let known = self.stopped.entry(job).or_default();
        *known = revision.max(*known);
    }

    /// What is known of jobs that another record of the set expects to run, and this one still does: who
    /// was seen, and whom somebody has had stopped. To change a set is not to say that they run again.
    #[must_use]
    pub(crate) fn remembering(mut self, other: SetRecord) -> SetRecord {
        let list = self.expectations.as_deref().map(read).and_then(Result::ok).unwrap_or_default();
        let expected: BTreeSet<&JobId> = list.running().map(|(job, ..)| job).collect();
        self.begun.extend(other.begun.into_iter().filter(|job| expected.contains(job)));
        for (job, revision) in other.stopped {
            if expected.contains(&job) {
                self.note_stop(job, revision);
            }
        }
        self
    }

    /// What both say together, as the one that counts: the higher revision. Two of the same revision
    /// that differ come of people who asked two schedulers that did not know of each other; one of the
    /// two counts, and everywhere the same.
    #[must_use]
    pub fn merged(self, other: SetRecord) -> SetRecord {
        let text = |record: &SetRecord| json!(record.expectations).to_string();
        let order = self.revision.cmp(&other.revision);
        match order.then_with(|| text(&self).cmp(&text(&other))) {
            std::cmp::Ordering::Greater => self.remembering(other),
            std::cmp::Ordering::Less => other.remembering(self),
            std::cmp::Ordering::Equal => {
                let put_ms = self.put_ms.min(other.put_ms);
                let mut merged = SetRecord { put_ms, ..other };
                merged.begun.extend(self.begun);
                for (job, revision) in self.stopped {
                    merged.note_stop(job, revision);
                }
                merged
            }
        }
    }
}

/// One expectation that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    /// The job runs.
    Runs {
        job: JobId,
        /// What it is when no host knows it; a host's own row counts more.
        spec: Option<JobSpec>,
        on: Option<HostId>,
        level: Level,
    },
    /// The job, while it runs, runs there.
    RunsOn { job: JobId, on: HostId, level: Level },
    /// The job, if there is one, has this size.
    HasSize { job: JobId, size: SizeChange, level: Level },
    /// Where jobs are.
    Rule(Clause),
    /// Who is started first.
    Order(Order),
    /// Not understood.
    Unknown { why: String },
}

impl Item {
    /// Jobs it is about.
    pub(crate) fn jobs(&self) -> Vec<&JobId> {
        match self {
            Item::Runs { job, .. } | Item::RunsOn { job, .. } | Item::HasSize { job, .. } => {
                vec![job]
            }
            Item::Rule(clause) => clause.rule.jobs(),
            Item::Order(Order { order, .. }) => order.jobs.iter().chain(&order.after).collect(),
            Item::Unknown { .. } => vec![],
        }
    }

    /// How much it is wanted; `None` of what nobody understands.
    pub(crate) fn level(&self) -> Option<Level> {
        match self {
            Item::Runs { level, .. } | Item::RunsOn { level, .. } | Item::HasSize { level, .. } => {
                Some(*level)
            }
            Item::Rule(clause) => Some(clause.level),
            Item::Order(order) => Some(order.level),
            Item::Unknown { .. } => None,
        }
    }

    /// True when it reads the whole cluster, whatever jobs it names.
    pub(crate) fn reads_all(&self) -> bool {
        matches!(self, Item::Rule(clause) if clause.rule.jobs().is_empty())
    }
}

/// What was read of a list of expectations.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct List {
    /// All that is kept.
    pub(crate) items: Vec<Item>,
    /// What of it each expectation is, in their order.
    pub(crate) entries: Vec<Entry>,
}

/// One expectation of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Its places among what is kept: one, but for a group, which has one for each VM first.
    pub(crate) places: Range<usize>,
    /// The group that it is.
    pub(crate) group: Option<Group>,
}

/// Why a list cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// It is too long.
    #[error(
        "{count} expectations, each VM of a group counted, are more than {ITEMS_MAX}; make several sets of them"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One of them is badly written, or must not be kept.
    #[error("expectation {number}: {why}")]
    Entry {
        /// Which one, from 1.
        number: usize,
        /// Why.
        why: String,
    },
    /// A VM of a group is expected to run by another one as well.
    #[error(
        "expectations {first} and {second} both say that {job} runs, one of them as a group: a VM is of one group, \
         or of none; name the group otherwise"
    )]
    SameVm {
        /// The VM.
        job: JobId,
        /// Which one, from 1.
        first: usize,
        /// Which other one.
        second: usize,
    },
    /// VMs wait for each other.
    #[error("{}", circle_words(.jobs))]
    Circle {
        /// Each waits for the next, and the last for the first.
        jobs: Vec<JobId>,
    },
}

impl List {
    /// A list of which nobody knows what it means.
    pub(crate) fn unknown(count: usize, why: &str) -> Self {
        let items = vec![Item::Unknown { why: why.to_owned() }; count];
        let entries = (0..count).map(|n| Entry { places: n..n + 1, group: None }).collect();
        Self { items, entries }
    }

    /// Jobs that are to run, with the number of the expectation that says so, from 1, and whether it is a group.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&JobId, usize, bool)> {
        self.entries.iter().zip(1..).flat_map(|(entry, number)| {
            let items = self.items.get(entry.places.clone()).unwrap_or_default();
            items.iter().filter_map(move |item| match item {
                Item::Runs { job, .. } => Some((job, number, entry.group.is_some())),
                _ => None,
            })
        })
    }

    /// Who is started after whom.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &StartsAfter> {
        self.items.iter().filter_map(|item| match item {
            Item::Order(order) => Some(&order.order),
            _ => None,
        })
    }

    fn check(self) -> Result<Self, SetError> {
        if self.items.len() > ITEMS_MAX {
            return Err(SetError::TooMany { count: self.items.len() });
        }
        let mut known: BTreeMap<&JobId, (usize, bool)> = BTreeMap::new();
        for (job, second, is_group) in self.running() {
            match known.insert(job, (second, is_group)) {
                Some((first, was_group)) if is_group || was_group => {
                    return Err(SetError::SameVm { job: job.clone(), first, second });
                }
                _ => {}
            }
        }
        match circle(self.orders()) {
            Some(jobs) => Err(SetError::Circle { jobs }),
            None => Ok(self),
        }
    }
}

/// Reads what is put. The error says which is wrong, and what would be right.
pub(crate) fn read(expectations: &[Value]) -> Result<List, SetError> {
    if expectations.len() > ITEMS_MAX {
        return Err(SetError::TooMany { count: expectations.len() });
    }
    let mut kept = List::default();
    for (index, value) in expectations.iter().enumerate() {
        let (items, group) = entry(index, value.clone())
            .map_err(|why| SetError::Entry { number: index + 1, why })?;
        let places = kept.items.len()..kept.items.len() + items.len();
        kept.items.extend(items);
        kept.entries.push(Entry { places, group });
    }
    kept.check()
}

/// What an expectation is short for.
fn entry(index: usize, mut value: Value) -> Result<(Vec<Item>, Option<Group>), String> {
    let has_spec = value.get("spec").is_some_and(|spec| !spec.is_null());
    if value["expect"] == "runs" && !has_spec {
        value["spec"] = json!(JobSpec::vm(protocol::vm::VmSpec::default()));
    }
    let understood = match understand(index, value) {
        Ok(understood) => understood,
        Err(no) if no.is_malformed => return Err(no.why),
        Err(no) => return Ok((vec![Item::Unknown { why: no.why }], None)),
    };
    let item = match understood {
        Understood::Group(level, group) => return Ok((items_of(level, &group), Some(group))),

        Understood::Goal(level, Expectation::Runs { job, spec, on }) => {
            let spec = has_spec.then_some(spec);
            if let Some(spec) = &spec {
                spec.validate().map_err(|error| error.to_string())?;
                if !matches!(spec.kind, JobKind::Vm(_)) {
                    return Err(
                        "only a VM is kept running: a one-off job is over when it is done, and \
                                services are bootstrap's"
                            .to_owned(),
                    );
                }
            }
            Item::Runs { job, spec, on, level }
        }
        Understood::Goal(level, Expectation::RunsOn { job, on }) => Item::RunsOn { job, on, level },
        Understood::Goal(level, Expectation::HasSize { job, size }) => {
            if size.is_empty() {
                return Err("a size needs vcpus, memory_bytes or disks".to_owned());
            }
            Item::HasSize { job, size, level }
        }
        Understood::Goal(_, Expectation::IsStopped { .. } | Expectation::Absent { .. }) => {
            return Err(
                "is_stopped and absent are done once, by `ostler stop` and `ostler rm`: kept, \
                        they would end whatever gets that name later"
                    .to_owned(),
            );
        }
        Understood::Rule(clause) => Item::Rule(clause),
        Understood::Order(order) => Item::Order(order),
    };
    Ok((vec![item], None))
}

fn items_of(level: Level, group: &Group) -> Vec<Item> {
    let runs = group.members().iter().map(|job| {
        let spec = Some(group.spec().clone());
        Item::Runs { job: job.clone(), spec, on: None, level }
    });
    runs.chain(group.clause(level).map(Item::Rule)).collect()
}
