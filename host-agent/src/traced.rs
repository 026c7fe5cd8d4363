//! Which jobs somebody follows, so that work which is done for them later belongs to that trace.
//!
//! Work begins when the core says so, often after the request was answered. What was asked of a job
//! last is what its work is for, for a while.

use std::collections::BTreeMap;

use protocol::id::JobId;
use tracing::Span;
use transport::traces::Place;

use crate::core::{Request, Work};

/// Work that begins later than this is for nobody who asks: a restart, an end by itself.
const KEPT_MS: u64 = 600_000;

/// Jobs that are followed at a time; more than anybody looks at.
const JOBS_MAX: usize = 256;

/// The jobs, and where their work belongs, until when.
#[derive(Debug, Default)]
pub(crate) struct Traced(BTreeMap<JobId, (Place, u64)>);

impl Traced {
    /// What is done next for this job is done for this request.
    pub(crate) fn note(&mut self, now_ms: u64, request: &Request, place: Place) {
        let Some(job) = request.job() else { return };
        self.0.retain(|_, (_, until_ms)| now_ms < *until_ms);
        if self.0.len() < JOBS_MAX || self.0.contains_key(job) {
            self.0.insert(job.clone(), (place, now_ms + KEPT_MS));
        }
    }

    /// The span of a piece of work; none where nobody follows the job.
    pub(crate) fn work(&self, now_ms: u64, job: &JobId, work: &Work) -> Span {
        match self.0.get(job) {
            Some((place, until_ms)) if now_ms < *until_ms => {
                let work = work.as_str();
                let name = format_args!("work: {work}");
                let span =
                    tracing::debug_span!(parent: None, "work", otel.name = %name, %job, work);
                place.takes(&span);
                span
            }
            _ => Span::none(),
        }
    }
}
