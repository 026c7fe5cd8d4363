//! The jobs of one host in a view: small, shared, and found by id.
//!
//! A list in the order of ids. Copies of a view share it; a change copies the pointers of one host,
//! some hundred at most, and no job. A balanced tree would need ten times the memory of the pointers.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::id::JobId;
use crate::job::Job;

/// How a view keeps the jobs of one host.
pub trait JobTable: Clone {
    /// These jobs; of two with one id the later counts.
    fn of(jobs: Vec<Job>) -> Self;

    /// All of them, in the order of their ids.
    fn whole(&self) -> Vec<Job>;

    /// Puts a job in the place of the one with its id, if there is one.
    fn put(&mut self, job: Box<Job>);

    /// Takes the job of this id away, if there is one.
    fn drop_job(&mut self, id: &JobId);
}

/// A job as it was, and as it is; none where it was not, or is no more.
pub type JobChange<'a> = (Option<&'a Arc<Job>>, Option<&'a Arc<Job>>);

/// Jobs by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jobs(Arc<Vec<Arc<Job>>>);

impl Jobs {
    /// The job of this id.
    #[must_use]
    pub fn get(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.place(id).ok().map(|at| &self.0[at])
    }

    /// True when there is one of this id.
    #[must_use]
    pub fn contains_key(&self, id: &JobId) -> bool {
        self.place(id).is_ok()
    }

    /// Puts a job in the place of the one with its id, if there is one.
    pub fn insert(&mut self, job: Arc<Job>) {
        let place = self.place(&job.id);
        let jobs = Arc::make_mut(&mut self.0);
        match place {
            Ok(at) => jobs[at] = job,
            Err(at) => jobs.insert(at, job),
        }
    }

    /// Takes the job of this id away.
    pub fn remove(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let at = self.place(id).ok()?;
        Some(Arc::make_mut(&mut self.0).remove(at))
    }

    /// Jobs that are here otherwise than before, come or gone, each as it was and as it is. Jobs that both share
    /// are not looked into: in a large view that is most of what a comparison costs.
    #[must_use]
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> Vec<JobChange<'a>> {
        let (mut was, mut is) = (before.0.iter().peekable(), self.0.iter().peekable());
        let mut changed = Vec::new();
        if Arc::ptr_eq(&before.0, &self.0) {
            return changed;
        }
        loop {
            let (old, new) = match (was.peek(), is.peek()) {
                (None, None) => return changed,
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {
                    was.next();
                    is.next();
                    continue;
                }
                (Some(old), Some(new)) => match old.id.cmp(&new.id) {
                    Ordering::Less => (was.next(), None),
                    Ordering::Equal => (was.next(), is.next()),
                    Ordering::Greater => (None, is.next()),
                },
                (Some(_), None) => (was.next(), None),
                (None, Some(_)) => (None, is.next()),
            };
            if old != new {
                changed.push((old, new));
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The jobs, in the order of their ids.
    pub fn values(&self) -> std::slice::Iter<'_, Arc<Job>> {
        self.0.iter()
    }

    /// Their ids, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &JobId> {
        self.0.iter().map(|job| &job.id)
    }

    /// Ids and jobs, in order.
    pub fn iter(&self) -> JobsIter<'_> {
        self.into_iter()
    }

    fn place(&self, id: &JobId) -> Result<usize, usize> {
        self.0.binary_search_by(|job| job.id.cmp(id))
    }
}

impl JobTable for Jobs {
    fn of(jobs: Vec<Job>) -> Self {
        jobs.into_iter().map(Arc::new).collect()
    }

    fn whole(&self) -> Vec<Job> {
        self.values().map(|job| Job::clone(job)).collect()
    }

    fn put(&mut self, mut job: Box<Job>) {
        // Most changes are of the state: the spec is there already.
        if let Some(known) = self.get(&job.id).filter(|known| known.spec == job.spec) {
            job.spec = Arc::clone(&known.spec);
        }
        self.insert(Arc::from(job));
    }

    fn drop_job(&mut self, id: &JobId) {
        self.remove(id);
    }
}

impl FromIterator<Arc<Job>> for Jobs {
    /// Of two jobs with one id the later counts.
    fn from_iter<I: IntoIterator<Item = Arc<Job>>>(jobs: I) -> Self {
        let mut jobs: Vec<Arc<Job>> = jobs.into_iter().collect();
        // Stable, and then the first of its kind is dropped for the last.
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        jobs.dedup_by(|later, earlier| {
            let is_same = later.id == earlier.id;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        jobs.shrink_to_fit();
        Self(Arc::new(jobs))
    }
}

/// As a list, like an inventory's.
impl Serialize for Jobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values())
    }
}

/// Ids and jobs, in order.
pub type JobsIter<'a> =
    std::iter::Map<std::slice::Iter<'a, Arc<Job>>, fn(&'a Arc<Job>) -> (&'a JobId, &'a Arc<Job>)>;

impl<'a> IntoIterator for &'a Jobs {
    type Item = (&'a JobId, &'a Arc<Job>);
    type IntoIter = JobsIter<'a>;

    fn into_iter(self) -> JobsIter<'a> {
        self.0.iter().map(|job| (&job.id, job))
    }
}
