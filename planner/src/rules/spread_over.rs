//! Jobs are spread over domains. Met when at most `per_domain_max` of them are alive in each domain;
//! each job beyond that is a violation. The domain of a host is the value of the label `domain`
//! (such as `rack`), or the host itself when no label is named. A host that does not say counts
//! with all the others that do not say: they may be one domain.

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId};
use serde::{Deserialize, Serialize};

use crate::rules::{by_host, count, label_of};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpreadOver {
    /// The jobs.
    pub jobs: Vec<JobId>,
    /// The host label that names the domain; none for the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// How many may be in one.
    #[serde(default = "one")]
    pub per_domain_max: u32,
}

fn one() -> u32 {
    1
}

impl SpreadOver {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let per_domain = self.per_domain(state);
        per_domain.values().map(|jobs| count(jobs.len()).saturating_sub(self.per_domain_max)).sum()
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let max = self.per_domain_max as usize;
        let crowded = self.per_domain(state).into_iter().filter(|(_, jobs)| jobs.len() > max);
        let words = crowded.map(|(domain, jobs)| {
            let names: Vec<&str> = jobs.iter().map(|job| job.as_str()).collect();
            format!("{} in {domain}", names.join(", "))
        });
        words.collect::<Vec<_>>().join("; ")
    }

    fn per_domain(&self, state: &State<'_>) -> BTreeMap<String, Vec<&JobId>> {
        let mut domains: BTreeMap<String, Vec<&JobId>> = BTreeMap::new();
        for (host, jobs) in by_host(state, &self.jobs) {
            domains.entry(self.domain_of(state, &host)).or_default().extend(jobs);
        }
        domains
    }

    fn domain_of(&self, state: &State<'_>, host: &HostId) -> String {
        match &self.domain {
            None => host.short().to_owned(),
            Some(label) => match label_of(state, host, label) {
                Some(value) => format!("{label}={value}"),
                None => format!("hosts that do not say their {label}"),
            },
        }
    }
}
