//! The job's host has a label with a value. Met when the host where the job is alive has the label
//! `key` with exactly `value`; a host without the label does not meet it.

use protocol::host::Host;
use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::{home, label_of, said};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLabel {
    /// The job.
    pub job: JobId,
    /// The label's name.
    pub key: String,
    /// The label's value.
    pub value: String,
}

impl HostLabel {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let Some(host) = home(state, &self.job) else { return 0 };
        u32::from(label_of(state, &host, &self.key).as_ref() != Some(&self.value))
    }

    pub(super) fn is_met_on(&self, host: &Host) -> bool {
        host.labels.get(&self.key) == Some(&self.value)
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let Some(host) = home(state, &self.job) else { return String::new() };
        let found = said(label_of(state, &host, &self.key), &self.key);
        format!("{} is on {}, which {found}", self.job, host.short())
    }
}
