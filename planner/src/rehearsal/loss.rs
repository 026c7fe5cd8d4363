//! What one loss would need, and how that is said.

use std::fmt;

use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId};
use protocol::resources::Resources;
use serde::{Deserialize, Serialize};

use super::NAMED_MAX;
use crate::input::is_zero;
use crate::load::Load;
use crate::report::{cpus_words, pages_words, room_words};

/// What is lost at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lost {
    /// A host.
    Host {
        /// Its id.
        host: HostId,
    },
    /// All hosts that have a label with this value: a rack, a site.
    Domain {
        /// The label.
        domain: String,
        /// Its value; `None`: all hosts that do not say.
        value: Option<String>,
    },
}

/// What the loss of a host, or of a domain of hosts, would need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// What is lost.
    #[serde(flatten)]
    pub lost: Lost,
    /// VMs that would need another place.
    pub vms: u32,
    /// What they need together, huge pages and dedicated CPUs aside.
    pub needs: Resources,
    /// Those that would find none, largest first.
    pub stranded: Vec<Stranded>,
}

/// A VM that would find no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// The VM.
    pub job: JobId,
    /// What it needs.
    pub needs: Resources,
    /// What is left then on the host that comes nearest.
    pub nearest_free: Resources,
    /// The huge pages that it needs.
    #[serde(default, skip_serializing_if = "Pages::is_none")]
    pub needs_pages: Pages,
    /// How many are left there.
    #[serde(default, skip_serializing_if = "Pages::is_none")]
    pub nearest_free_pages: Pages,
    /// The dedicated CPUs that it needs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub needs_dedicated_cpus: u32,
    /// How many are left there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nearest_free_dedicated_cpus: u32,
}

impl Stranded {
    pub(super) fn of(job: JobId, needs: Load, nearest_free: Load) -> Self {
        Self {
            job,
            needs: needs.resources,
            nearest_free: nearest_free.resources,
            needs_pages: needs.pages,
            nearest_free_pages: nearest_free.pages,
            needs_dedicated_cpus: needs.dedicated_cpus,
            nearest_free_dedicated_cpus: nearest_free.dedicated_cpus,
        }
    }
}

impl Loss {
    /// The host, if it is one that is lost.
    #[must_use]
    pub fn host(&self) -> Option<&HostId> {
        match &self.lost {
            Lost::Host { host } => Some(host),
            Lost::Domain { .. } => None,
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Host { host } => f.write_str(host.short()),
            Lost::Domain { domain, value: Some(value) } => write!(f, "{domain}={value}"),
            Lost::Domain { domain, value: None } => write!(f, "hosts without {domain}"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.stranded.iter().take(NAMED_MAX).map(|stranded| stranded.job.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        write!(f, "{} would strand {} VMs: {names}", self.lost, self.stranded.len())?;
        match self.stranded.len().saturating_sub(NAMED_MAX) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        let Some(first) = self.stranded.first() else { return Ok(()) };
        let of = if self.stranded.len() > 1 { format!("{} ", first.job) } else { String::new() };
        let words = [
            room_words(first.needs, first.nearest_free),
            pages_words(first.needs_pages, first.nearest_free_pages),
            cpus_words(first.needs_dedicated_cpus, first.nearest_free_dedicated_cpus),
        ];
        let words: Vec<String> = words.into_iter().filter(|words| !words.is_empty()).collect();
        write!(f, " ({of}{})", words.join("; "))
    }
}
