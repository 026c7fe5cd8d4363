//! A host as what a run is about. Runs are told apart by a job's name, one open run a job; a host has such a name,
//! too, so one run at a time puts it to sleep or wakes it.

use serde::{Deserialize, Serialize};

use crate::id::{HostId, JobId, NAME_CHARS_MAX};

/// Before a host's id in the name of its runs.
const PREFIX: &str = "host-";

/// See the module. Written as the host's id alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "HostId", into = "HostId")]
pub struct Subject {
    host: HostId,
    job: JobId,
}

impl Subject {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The name of its runs.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }
}

impl From<HostId> for Subject {
    fn from(host: HostId) -> Self {
        let name: String = format!("{PREFIX}{host}").chars().take(NAME_CHARS_MAX).collect();
        let job = JobId::new(name).expect("a host's id is of the letters of a name");
        Self { host, job }
    }
}

impl From<Subject> for HostId {
    fn from(subject: Subject) -> Self {
        subject.host
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signed::SecretKey;

    #[test]
    fn a_subject_is_written_as_its_host_and_has_one_name_for_all_its_runs() {
        let host = HostId::of(&SecretKey::from_seed([1; 32]).public());
        let subject = Subject::from(host.clone());
        assert_eq!(json!(subject), json!(host));
        let read: Subject = serde_json::from_value(json!(host)).unwrap();
        assert_eq!(read, subject);
        assert!(subject.job().as_str().starts_with(PREFIX) && subject.host() == &host);
    }
}
