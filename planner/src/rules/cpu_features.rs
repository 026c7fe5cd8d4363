//! The CPU under the job has features. Met when every one of them is among the words of the label
//! `cpu-features` (separated by commas) of the host where the job is alive; a host that does not say
//! has none. Each missing feature is one violation.

use protocol::host::Host;
use protocol::id::{HostId, JobId};
use serde::{Deserialize, Serialize};

use crate::rules::{count, home};
use crate::state::State;

/// The host label that lists the features, as `/proc/cpuinfo` names them.
pub(super) const LABEL: &str = "cpu-features";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFeatures {
    /// The job.
    pub job: JobId,
    /// Such as `avx2`.
    pub features: Vec<String>,
}

impl CpuFeatures {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        home(state, &self.job).map_or(0, |host| count(self.missing(state, &host).len()))
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let Some(host) = home(state, &self.job) else { return String::new() };
        let missing = self.missing(state, &host).join(", ");
        format!("{} is on {}, whose CPU lacks {missing}", self.job, host.short())
    }

    fn missing(&self, state: &State<'_>, host: &HostId) -> Vec<&str> {
        let all = self.features.iter().map(String::as_str);
        let Some(row) = state.host(host) else { return all.collect() };
        let has = |wanted: &str| words(&row.host).any(|word| word == wanted);
        all.filter(|feature| !has(feature)).collect()
    }

    pub(super) fn is_met_on(&self, host: &Host) -> bool {
        self.features.iter().all(|feature| words(host).any(|word| word == feature))
    }
}

/// The features that a host says its CPUs have.
pub(crate) fn words(host: &Host) -> impl Iterator<Item = &str> {
    host.labels.get(LABEL).into_iter().flat_map(|said| said.split(',')).map(str::trim)
}
