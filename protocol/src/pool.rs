//! A pool: a directory in which a host keeps volumes, its own or one that several hosts mount.
//!
//! ```text
//!   declared ──the mark is there──▶ available ◀──▶ unavailable (not mounted, another pool, no answer)
//! ```
//!
//! That two hosts have the same pool is proved and not believed: a pool has an id, which is in a file
//! in it (its *mark*). Hosts that find the same mark find the same volumes; hosts that only use the
//! same name do not. A directory without the mark is not the pool, whatever its path: an empty mount
//! point has none.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{Cursor, HostId, JobId, PoolName, Revision};
use crate::job::Snapshot;
use crate::refusal::Refusal;

/// What tells a pool from every other.
pub type PoolId = Uuid;

/// The name of every host's own folder. It can't be declared.
pub const DEFAULT: &str = "default";

/// Pools of one host: each is in the host's row, which every event about the host carries.
pub const POOLS_MAX: usize = 32;

/// Labels of one pool, and the longest key or value of one: they are in the host's row too.
pub const POOL_LABELS_MAX: usize = 16;

/// See [`POOL_LABELS_MAX`].
pub const POOL_LABEL_BYTES_MAX: usize = 64;

/// Longest path of a pool. QEMU and libvirt take more.
pub const PATH_BYTES_MAX: usize = 1024;

/// `PUT /v1/config/pools` on a host: these pools, and no others. 204 once it is written down; repeating it
/// is harmless. A body that is refused changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolsConfig {
    /// Which change of it; above the present one.
    pub version: u64,
    /// The pools.
    pub pools: BTreeMap<PoolName, PoolSpec>,
}

/// A pool as it is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// The directory, by its whole path. The same on all hosts between which running VMs are to move.
    pub path: String,
    /// Whether other hosts mount it too.
    #[serde(default)]
    pub shared: bool,
    /// The id that its mark must have. Without one, the one that is found there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PoolId>,
    /// Whether a directory without a mark becomes a new pool. Say so once, on one host: elsewhere a
    /// missing mark means a missing mount.
    #[serde(default, skip_serializing_if = "is_false")]
    pub create: bool,
    /// What its operator says of it, such as `class` and `copies`. Nobody checks that it is so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// A pool as its host finds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PoolFacts {
    /// What its mark says: the same on every host that has the same pool.
    pub id: PoolId,
    /// Whether other hosts mount it too.
    pub is_shared: bool,
    /// Where.
    pub path: String,
    /// Why nothing can be done in it now, if nothing can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Bytes that may be promised: what is free, and what its volumes take already.
    pub capacity_bytes: u64,
    /// Bytes that are promised: the full virtual size of every volume in it, whichever host made it,
    /// and of what this host has offered to make.
    pub promised_bytes: u64,
    /// Bytes that are really free.
    pub free_bytes: u64,
    /// What its operator has said of it on this host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl PoolFacts {
    /// What can still be promised.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.promised_bytes)
    }
}

/// Who used a job's volumes last. It is beside them, and written before they are used: what a host that
/// comes back remembers counts for nothing against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tag {
    /// Whose volumes they are.
    pub job: JobId,
    /// The host that used them last.
    pub host: HostId,
    /// Since when the job had been on it: no two rows of a host have the same.
    pub taken: Cursor,
    /// By which change of the job; it never goes back.
    pub revision: Revision,
    /// Whether all of them were made. What was made once and is not there is not made anew.
    pub is_made: bool,
    /// The host that is about to take over a running guest with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving: Option<HostId>,
    /// Their virtual sizes, in bytes, by disk.
    pub disks: BTreeMap<String, u64>,
    /// What they were at some moments, the oldest first: it goes where the volumes go. Hosts of before this
    /// leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
}

impl Tag {
    /// Bytes that are promised, to the volumes and to what their snapshots keep.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let kept = self.snapshots.iter().map(|snapshot| snapshot.promised_bytes);
        self.disks.values().copied().chain(kept).fold(0, u64::saturating_add)
    }

    /// The same, with volumes that are at least this large. None becomes smaller: its file may have grown
    /// by the word of a host that nobody has heard of since.
    #[must_use]
    pub fn grown_to(&self, disks: &BTreeMap<String, u64>) -> Self {
        let mut grown = self.clone();
        for (disk, bytes) in disks {
            let now = grown.disks.entry(disk.clone()).or_default();
            *now = (*now).max(*bytes);
        }
        grown
    }
}

/// `GET /v1/pools/{pool}/volumes` on a host: what is in a pool, whichever host made it. Of the pool
/// [`DEFAULT`] it is what is in that host's own folder, with tags that are nowhere but in this answer:
/// `taken` says nothing in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolContent {
    /// Volumes of jobs.
    pub volumes: Vec<Tag>,
    /// Volumes that were deleted and are kept for a while.
    pub deleted: Vec<DeletedVolumes>,
    /// What the files of each job's volumes take, in bytes, by disk; hosts of before this do not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<JobId, BTreeMap<String, u64>>,
}

/// A job's volumes after they were deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedVolumes {
    /// What they are called in the pool's trash.
    pub entry: String,
    /// Who used them last.
    pub tag: Tag,
    /// What their files take, in bytes, by disk; hosts of before this do not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, u64>,
}

impl PoolsConfig {
    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        if self.pools.len() > POOLS_MAX {
            return invalid(format!("{} pools: a host has at most {POOLS_MAX}", self.pools.len()));
        }
        for (name, spec) in &self.pools {
            if name.as_str() == DEFAULT {
                return invalid(format!(
                    "{DEFAULT} is every host's own folder and can't be declared: choose another name"
                ));
            }
            // Each part has a name: no link of names leads out of it, and two pools are the same path
            // or are not.
            let parts = spec.path.strip_prefix('/').map(|rest| rest.split('/'));
            let is_plain = parts.is_some_and(|mut parts| {
                parts.all(|part| !part.is_empty() && part != "." && part != "..")
            });
            let is_text = !spec.path.chars().any(char::is_control);
            if !is_plain || !is_text || spec.path.len() > PATH_BYTES_MAX {
                return invalid(format!(
                    "pool {name} at {:?}: write the whole path of a directory, such as /srv/{name}",
                    spec.path
                ));
            }
            check_labels(name, &spec.labels).or_else(invalid)?;
        }
        let nests = |a: &str, b: &str| {
            a == b || b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'))
        };
        for (name, spec) in &self.pools {
            let other =
                self.pools.iter().find(|(other, of)| *other != name && nests(&spec.path, &of.path));
            if let Some((other, _)) = other {
                return invalid(format!(
                    "pools {name} and {other} are in one place: give each its own"
                ));
            }
        }
        Ok(())
    }
}

fn check_labels(pool: &PoolName, labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > POOL_LABELS_MAX {
        let count = labels.len();
        return Err(format!("{count} labels of pool {pool}: it has at most {POOL_LABELS_MAX}"));
    }
    let is_word = |word: &str| {
        let is_short = (1..=POOL_LABEL_BYTES_MAX).contains(&word.len());
        is_short && !word.chars().any(char::is_control)
    };
    let is_label =
        |(key, value): &(&String, &String)| is_word(key) && is_word(value) && !key.contains('=');
    match labels.iter().find(|label| !is_label(label)) {
        Some((key, value)) => Err(format!(
            "label {key:?}={value:?} of pool {pool}: write KEY=VALUE, each of 1 to {POOL_LABEL_BYTES_MAX} bytes"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pools: &[(&str, &str)]) -> PoolsConfig {
        let spec = |path: &str| PoolSpec { path: path.into(), shared: true, ..PoolSpec::default() };
        let pools = pools.iter().map(|(name, path)| (name.parse().unwrap(), spec(path)));
        PoolsConfig { version: 1, pools: pools.collect() }
    }

    #[test]
    fn a_pool_is_a_directory_of_its_own_by_its_whole_path() {
        assert_eq!(config(&[("nfs", "/srv/nfs"), ("fast", "/srv/fast")]).validate(), Ok(()));
        assert_eq!(config(&[("a", "/srv/a"), ("ab", "/srv/ab")]).validate(), Ok(()));
        for bad in
            ["srv/nfs", "/", "/srv//nfs", "/srv/../etc", "/srv/nfs/", "/srv/./nfs", "/a\nb", ""]
        {
            assert!(config(&[("nfs", bad)]).validate().is_err(), "{bad:?} was taken");
        }
        let labelled = |key: &str, value: &str| {
            let mut config = config(&[("nfs", "/srv/nfs")]);
            let spec = config.pools.values_mut().next().unwrap();
            spec.labels.insert(key.into(), value.into());
            config.validate()
        };
        assert_eq!(labelled("class", "ssd"), Ok(()));
        for (key, value) in [("", "x"), ("class", ""), ("a=b", "x"), ("class", "a\nb")] {
            assert!(labelled(key, value).is_err(), "{key:?}={value:?} was taken");
        }
        assert!(labelled(&"k".repeat(POOL_LABEL_BYTES_MAX + 1), "x").is_err());
        assert!(config(&[("default", "/srv/a")]).validate().is_err());
        assert!(config(&[("a", "/srv/a"), ("b", "/srv/a")]).validate().is_err());
        assert!(config(&[("a", "/srv/a/b"), ("b", "/srv/a")]).validate().is_err());
    }
}
