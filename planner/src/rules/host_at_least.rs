//! The job's host has a number that is large enough. Met when the host where the job is alive has the label
//! `key`, and it is a whole number of at least `number`; a host without the label, or with other words in
//! it, does not meet it.

use protocol::host::Host;
use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::{home, label_of, said};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAtLeast {
    /// The job.
    pub job: JobId,
    /// The label's name, such as `cpu-mhz`.
    pub key: String,
    /// The least that will do, in the label's own unit.
    pub number: u64,
}

impl HostAtLeast {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let Some(host) = home(state, &self.job) else { return 0 };
        let found = label_of(state, &host, &self.key);
        u32::from(!self.is_enough(found.as_deref()))
    }

    pub(super) fn is_met_on(&self, host: &Host) -> bool {
        self.is_enough(host.labels.get(&self.key).map(String::as_str))
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let Some(host) = home(state, &self.job) else { return String::new() };
        let found = said(label_of(state, &host, &self.key), &self.key);
        format!("{} is on {}, which {found}", self.job, host.short())
    }

    fn is_enough(&self, found: Option<&str>) -> bool {
        found.and_then(|text| text.parse::<u64>().ok()).is_some_and(|found| found >= self.number)
    }
}
