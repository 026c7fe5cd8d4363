//! What the targets share: keys, hosts and jobs to speak of, and the one check of anything that is
//! written as JSON.
use std::fmt::Debug;
use std::sync::LazyLock;

use protocol::host::Host;
use protocol::id::{JobId, Revision};
use protocol::job::{Job, JobSpec, JobState};
use protocol::signed::SecretKey;
use protocol::vm::VmSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many keys there are: making one takes longer than most of what is tried with it.
pub const KEYS: u8 = 8;

static SECRETS: LazyLock<Vec<SecretKey>> =
    LazyLock::new(|| (0..KEYS).map(|n| SecretKey::from_seed([n; 32])).collect());

/// One of a few keys.
#[must_use]
pub fn key(n: u8) -> &'static SecretKey {
    &SECRETS[usize::from(n % KEYS)]
}

/// The host with that key.
#[must_use]
pub fn host(n: u8) -> Host {
    let key = key(n).public();
    Host { name: format!("h{n}"), ..Host::of_key(key) }
}

/// A job that differs by its name and by one number.
#[must_use]
pub fn job(n: u8, revision: u64) -> Job {
    Job {
        revision: Revision(revision),
        since_ms: revision,
        ..Job::of(
            job_id(n),
            JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() }),
            JobState::Running,
        )
    }
}

/// Its name.
#[must_use]
pub fn job_id(n: u8) -> JobId {
    JobId::new(format!("j{n}")).expect("a letter and a number are a name")
}

/// Reads a `T`; what is one can be written, and reading that again gives the same.
///
/// # Panics
/// When it does not.
pub fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = serde_json::from_str(text).ok()?;
    let written = serde_json::to_string(&value).expect("our nouns are always valid JSON");
    let again: T = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{e}: {written}"));
    assert_eq!(again, value, "read again from {written}");
    let rewritten = serde_json::to_string(&again).expect("our nouns are always valid JSON");
    assert_eq!(rewritten, written, "written again");
    Some(value)
}
