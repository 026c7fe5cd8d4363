//! The job's host has an architecture. Met when the host where the job is alive says `arch=ARCH`
//! in its labels, letter for letter; a host that does not say does not meet it.

use protocol::host::Host;
use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::{home, label_of, said};
use crate::state::State;

/// The host label that names the architecture, as `uname -m` does.
pub(crate) const LABEL: &str = "arch";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostArch {
    /// The job.
    pub job: JobId,
    /// Such as `x86_64`.
    pub arch: String,
}

impl HostArch {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let Some(host) = home(state, &self.job) else { return 0 };
        u32::from(label_of(state, &host, LABEL).as_ref() != Some(&self.arch))
    }

    pub(super) fn is_met_on(&self, host: &Host) -> bool {
        host.labels.get(LABEL) == Some(&self.arch)
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let Some(host) = home(state, &self.job) else { return String::new() };
        let found = said(label_of(state, &host, LABEL), LABEL);
        format!("{} is on {}, which {found}", self.job, host.short())
    }
}
