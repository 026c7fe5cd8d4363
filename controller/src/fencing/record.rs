//! What a fencer must not forget: which version it has signed last, and whose power it has cut.
//!
//! A file of its own beside the key. With another key it is another fencer with another place, so who loses both
//! has lost nothing; who loses this one alone may sign a version twice, so a file that can't be read ends fencing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use protocol::id::HostId;
use protocol::trust::Fence;
use serde::{Deserialize, Serialize};
use transport::durable;

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The highest version of a trust document that this controller has signed.
    pub(super) last: u64,
    /// Hosts whose power it is about to cut, or has cut, and which are not turned on again yet; each with the version
    /// by which it has said so last, or 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) off: BTreeMap<HostId, u64>,
    /// What fencers have said of hosts last that a quorum of arbiters was seen to obey: for documents of operators who
    /// did not see that. At most one of each host of the roster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) heard: Vec<Fence>,
    /// A host whose power it has cut, as controllers of before have written it.
    #[serde(default, skip_serializing)]
    cut: Option<HostId>,
}

/// The file is of no use. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// It can't be read or written.
    #[error("{tried} {path}: {source}", path = .path.display())]
    Io { tried: &'static str, path: PathBuf, source: io::Error },
    /// It says something else.
    #[error(
        "{path} is damaged ({source}): this controller may have signed versions that it says nothing of. `ostler \
         fencing none` takes its place from it; then remove the file, and name it again",
        path = .path.display()
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl Record {
    pub(super) fn read(path: &Path) -> Result<Self, RecordError> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|source| RecordError::Io {
                tried: "read",
                path: path.to_owned(),
                source,
            })?,
        };
        let mut record: Self = serde_json::from_slice(&text)
            .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
        if let Some(host) = record.cut.take() {
            record.off.entry(host).or_insert(0);
        }
        Ok(record)
    }

    /// On disk when it returns.
    pub(super) fn write(&self, path: &Path) -> Result<(), RecordError> {
        let json = serde_json::to_vec(self).expect("a record is always valid JSON");
        durable::replace(path, &json).map_err(|source| RecordError::Io {
            tried: "write",
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use protocol::signed::SecretKey;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not_taken_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fencing.json");
        assert_eq!(Record::read(&path).unwrap(), Record::default());
        let (one, other) = (HostId::new("h1").unwrap(), HostId::new("h2").unwrap());
        let off = BTreeMap::from([(one.clone(), 3_011), (other, 0)]);
        let word = Fence {
            host: SecretKey::from_seed([7; 32]).public(),
            since: 3_001,
            by: SecretKey::from_seed([8; 32]).public(),
            by_fencer: true,
            at_ms: 5,
            reason: "nobody heard it".into(),
        };
        let record = Record { last: 3_011, off, heard: vec![word], cut: None };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        std::fs::write(&path, "{\"last\":7,\"cut\":\"h1\"}").unwrap();
        let older = Record { last: 7, off: BTreeMap::from([(one, 0)]), ..Record::default() };
        assert_eq!(Record::read(&path).unwrap(), older);
        std::fs::write(&path, "{\"last\":").unwrap();
        assert!(matches!(Record::read(&path), Err(RecordError::Damaged { .. })));
    }
}
