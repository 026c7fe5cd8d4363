//! Names of things: validated once, compared cheaply, the same on the wire and in a log line.
//!
//! Ids are text so that an operator can copy them. Order between facts is decided by [`Epoch`],
//! sequence and [`Revision`], never by wall time.

mod host_text;

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::signed::PublicKey;
use host_text::HostText;

/// Longest accepted name. libvirt and DNS labels both live with 63 characters.
pub const NAME_CHARS_MAX: usize = 63;

/// The rule of [`check_name`] for machines that read our schemas; a test holds it to the function.
const NAME_PATTERN: &str = "^[a-z0-9][a-z0-9.-]{0,62}$";

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not valid: use 1 to {NAME_CHARS_MAX} of a-z, 0-9, '-' and '.', starting with a letter or digit"
)]
pub struct InvalidName {
    /// Which noun was being named.
    pub what: &'static str,
    /// What was given.
    pub value: String,
}

fn check_name(what: &'static str, value: &str) -> Result<(), InvalidName> {
    let starts_well = value.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    if starts_well && value.len() <= NAME_CHARS_MAX && value.bytes().all(is_name) {
        Ok(())
    } else {
        Err(InvalidName { what, value: value.chars().take(2 * NAME_CHARS_MAX).collect() })
    }
}

/// Reads a text without keeping it.
struct FromText<T>(fn(&str) -> Result<T, InvalidName>);

impl<T> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

macro_rules! name_type {
    // Up to 24 bytes of a name are kept in place: views hold names by the hundred thousand.
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        name_type!($(#[$doc])* $name, $what, CompactString);
    };
    ($(#[$doc:meta])* $name:ident, $what:literal, $text:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
        #[schemars(transparent)]
        pub struct $name(
            #[schemars(with = "String", regex(pattern = NAME_PATTERN))] $text,
        );

        impl $name {
            /// Takes a text as a name, or says which characters are allowed.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidName> {
                let value = value.as_ref();
                check_name($what, value)?;
                Ok(Self(value.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText(|text| Self::new(text)))
            }
        }
    };
}

name_type!(
    /// A job, named by whoever asks for it; repeating a request with the same id is harmless.
    JobId,
    "job id"
);
name_type!(
    /// A disk image that hosts keep under this name.
    ImageName,
    "image name"
);
name_type!(
    /// A set of expectations that controllers keep true.
    SetName,
    "name of a set of expectations"
);
name_type!(
    /// A place for volumes on a host; hosts that share one call it alike.
    PoolName,
    "pool name"
);
name_type!(
    /// A snapshot of a VM's disks, among those of the VM.
    SnapshotName,
    "snapshot name"
);
name_type!(
    /// Whose quota a job counts against.
    TenantId,
    "tenant"
);
name_type!(
    /// One cluster: hosts and arbiters of different clusters refuse each other.
    ClusterId,
    "cluster id"
);
name_type!(
    /// A host, by the fingerprint of the key it keeps on disk; never an address or a hostname.
    HostId,
    "host id",
    HostText
);

impl TenantId {
    /// The tenant of jobs that name none.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self(CompactString::const_new("default"))
    }
}

impl HostId {
    /// The id of the host that owns `key`: `h` and the first 15 bytes of the key's SHA-256 in
    /// base 32, 25 characters in all.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut text = data_encoding::BASE32_NOPAD.encode(&digest[..15]);
        text.make_ascii_lowercase();
        Self(format!("h{text}").as_str().into())
    }

    /// The first characters, enough to tell hosts apart on a screen.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(9)]
    }
}

impl JobId {
    /// The libvirt uuid of this job's domain: the same on every host and after every crash, so
    /// that reality can be compared with the ledger without guessing (uuid version 5).
    #[must_use]
    pub fn domain_uuid(&self) -> Uuid {
        const NAMESPACE: Uuid = Uuid::from_u128(0x6f73_746c_6572_4a6f_8b21_0000_0000_0001);
        Uuid::new_v5(&NAMESPACE, self.0.as_bytes())
    }
}

/// One life of an agent process; durable, and larger at each start.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Grows with each change that somebody asked of a job.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// Where a follower stands in one host's events. Ordered by epoch, then sequence.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub struct Cursor {
    /// The agent's life that numbered the event.
    pub epoch: Epoch,
    /// Number of the last event seen in that life; 0 before the first.
    pub seq: u64,
}

impl Cursor {
    /// The position right after this one in the same epoch. Numbers end, if only where somebody has
    /// invented one: nothing comes after the last, so no event is ever the next there.
    #[must_use]
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq.saturating_add(1) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// Number of an offer, and of the hold it becomes: never repeated by a host (rule R16).
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub struct OfferId {
    /// The epoch in which the host issued the offer.
    pub epoch: Epoch,
    /// Counts offers within the epoch, from 1.
    pub num: u64,
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.num)
    }
}

/// A run of the controller: one plan being executed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;
    fn from_str(value: &str) -> Result<Self, uuid::Error> {
        value.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_libvirt_or_a_shell_would_trip_over_are_refused() {
        for bad in ["", "-web", "Web", "a b", "a/b", "..", &"a".repeat(64)] {
            assert!(JobId::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["web-1", "0", "a.b-c", &"a".repeat(63)] {
            assert!(JobId::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn domain_uuid_depends_on_the_job_alone() {
        let web: JobId = "web-1".parse().unwrap();
        assert_eq!(web.domain_uuid(), web.clone().domain_uuid());
        assert_ne!(web.domain_uuid(), "web-2".parse::<JobId>().unwrap().domain_uuid());
    }

    #[test]
    fn nothing_comes_after_the_last_number() {
        let last = Cursor { epoch: Epoch(1), seq: u64::MAX };
        assert_eq!(last.next(), last);
    }

    #[test]
    fn a_later_epoch_beats_any_sequence() {
        let old = Cursor { epoch: Epoch(1), seq: 900 };
        let new = Cursor { epoch: Epoch(2), seq: 0 };
        assert!(new > old);
    }
}
