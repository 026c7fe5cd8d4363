//! Images: how one comes to a host, how far it is, and who needs it.
//!
//! An image is known by name and told from others by the SHA-256 of its file. Decides which sources
//! make sense; fetching and keeping are the host's.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::ImageFacts;
use crate::id::{HostId, ImageName, JobId, SnapshotName};
use crate::resources::{Bytes, Resources};
use crate::signed::Digest;

/// How an image's file is laid out. Told once, when it arrives, and never guessed again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's own, which may be sparse and compressed.
    Qcow2,
}

impl ImageFormat {
    /// QEMU's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `POST /v1/images/{name}/fetch` on a host: get this image yourself. 202 with the [`ImageStatus`],
/// 200 when it is here already; repeating it is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchImage {
    /// From where.
    pub from: ImageSource,
    /// What the file must be; needed from hosts and over plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// At most so many bytes a second; the host's own limit counts as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// Where an image is fetched from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// A web server: `https://…`, or `http://…` if the digest is given.
    Url(String),
    /// Other hosts that have it, tried in this order.
    Hosts(Vec<SourceHost>),
    /// A disk of a VM on this very host, as a snapshot keeps it. What is made is whole: it needs
    /// neither the disk nor the image that the disk was made from.
    Disk(DiskSource),
}

/// A disk as it was at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskSource {
    /// Whose disk; its guest may run.
    pub job: JobId,
    /// Which disk, by its name within the VM.
    pub disk: String,
    /// Of which moment. It is not deleted while it is read.
    pub snapshot: SnapshotName,
}

impl fmt::Display for DiskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {} of {}, snapshot {}", self.disk, self.job, self.snapshot)
    }
}

/// A host that has an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceHost {
    /// Who it must prove to be.
    pub host: HostId,
    /// Where its agent answers, best first.
    pub urls: Vec<String>,
}

/// `GET /v1/images/{name}` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageStatus {
    /// The image.
    pub name: ImageName,
    /// What it is, once it is here and can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ImageFacts>,
    /// Jobs of this host that need it: a disk of theirs is made from it, or will be.
    #[serde(default)]
    pub users: Vec<JobId>,
    /// How its fetch is going, or has ended short of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchState>,
}

/// `GET /v1/images` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageList {
    /// Those that are here, and those on their way.
    pub images: Vec<ImageStatus>,
}

/// How a fetch is going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "fetch", rename_all = "snake_case")]
pub enum FetchState {
    /// Others are fetched first.
    Waiting,
    /// Bytes are coming.
    Fetching {
        /// From where, in words.
        from: String,
        /// What is on disk.
        got_bytes: u64,
        /// The whole, once the source has said it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_bytes: Option<u64>,
        /// What went wrong last, while it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
    /// It has all come, and is compared with its digest and put in place.
    Checking,
    /// It will not come by itself; asking again tries again.
    Failed {
        /// Why.
        why: FetchTrouble,
    },
}

/// Why an image did not come. Nothing that could be used is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "trouble", rename_all = "snake_case")]
pub enum FetchTrouble {
    /// The host has not enough room. Nothing was fetched.
    #[error(
        "it has {}, and the host has {} of disk free to promise",
        Bytes(*.needed_bytes),
        Bytes(.free.disk_bytes)
    )]
    NoSpace {
        /// What would still have to be written.
        needed_bytes: u64,
        /// What the host could still promise.
        free: Resources,
        /// Its capacity.
        capacity: Resources,
    },
    /// It is larger than images may be. Nothing was fetched.
    #[error("it has {}, and an image may have {}", Bytes(*.bytes), Bytes(*.limit_bytes))]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// What came is not what was announced. It was removed.
    #[error("what came has sha256 {found}, announced was {announced}; it was not kept")]
    WrongDigest {
        /// Of what came.
        found: Digest,
        /// Of what was to come.
        announced: Digest,
    },
    /// What came can't be used as an image. It was removed.
    #[error("{message}")]
    BadImage {
        /// Why not, and what would help.
        message: String,
    },
    /// The source says no.
    #[error("{message}")]
    Refused {
        /// In these words.
        message: String,
    },
    /// Nobody answered, or the line was cut too often. What came is kept for a while, to go on from.
    #[error("{message}")]
    Unreachable {
        /// What happened last.
        message: String,
    },
    /// The host's disk failed.
    #[error("{message}")]
    Disk {
        /// What it said.
        message: String,
    },
    /// Somebody has deleted the image meanwhile.
    #[error("it was called off: the image was deleted while it came")]
    CalledOff,
}

impl FetchTrouble {
    /// True when another host would fare no better with the same source.
    #[must_use]
    pub fn is_of_source(&self) -> bool {
        match self {
            FetchTrouble::TooLarge { .. }
            | FetchTrouble::WrongDigest { .. }
            | FetchTrouble::BadImage { .. }
            | FetchTrouble::Refused { .. } => true,
            FetchTrouble::NoSpace { .. }
            | FetchTrouble::Unreachable { .. }
            | FetchTrouble::Disk { .. }
            | FetchTrouble::CalledOff => false,
        }
    }
}

impl fmt::Display for FetchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchState::Waiting => f.write_str("other images are fetched first"),
            FetchState::Fetching { from, got_bytes, total_bytes, trouble } => {
                f.write_str(&mib(*got_bytes))?;
                if let Some(total_bytes) = total_bytes {
                    write!(f, " of {}", mib(*total_bytes))?;
                }
                write!(f, " MiB fetched from {from}")?;
                match trouble {
                    Some(trouble) => write!(f, "; trying again: {trouble}"),
                    None => Ok(()),
                }
            }
            FetchState::Checking => f.write_str("all has come; its digest is compared"),
            FetchState::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

/// With a tenth, so that a person sees it grow.
fn mib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_mebibytes_and_trouble_with_it() {
        let fetching = FetchState::Fetching {
            from: "h1".into(),
            got_bytes: 3 << 19,
            total_bytes: Some(30 << 20),
            trouble: Some("cut".into()),
        };
        assert_eq!(fetching.to_string(), "1.5 of 30.0 MiB fetched from h1; trying again: cut");
        let text = serde_json::to_string(&fetching).unwrap();
        assert_eq!(serde_json::from_str::<FetchState>(&text).unwrap(), fetching);
    }

    #[test]
    fn a_source_is_one_word_and_what_it_says() {
        let url: ImageSource = serde_json::from_str(r#"{"url": "https://x/y"}"#).unwrap();
        assert_eq!(url, ImageSource::Url("https://x/y".into()));
        let disk = r#"{"disk": {"job": "web-1", "disk": "root", "snapshot": "before"}}"#;
        let ImageSource::Disk(disk) = serde_json::from_str(disk).unwrap() else { panic!("a disk") };
        assert_eq!(disk.to_string(), "disk root of web-1, snapshot before");
    }
}
