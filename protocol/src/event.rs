//! Numbered facts that a host publishes, and the frames in which followers get them.
//!
//! A stream is: one [`Frame::Inventory`] (or none, when the follower's cursor could be resumed),
//! then every later event in order, with [`Frame::Current`] where history ends and the present
//! begins. A follower that was too slow or too long away gets a fresh inventory, never a hole.

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::host::{Host, Inventory};
use crate::id::{Cursor, HostId, JobId};
use crate::job::{Job, ObservedDomain};
use crate::tagged::{self, Tagged};
use crate::view::Freshness;

/// One fact of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Who says it.
    pub host: HostId,
    /// Its number; consecutive within an epoch.
    pub cursor: Cursor,
    /// When, in milliseconds since 1970; for people only.
    pub at_ms: u64,
    /// What happened.
    pub fact: Fact,
}

/// What happened. Each carries the whole new row, so applying one twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// A job is new or changed.
    JobChanged {
        /// The job as it is now.
        job: Box<Job>,
    },
    /// A job was deleted from the ledger, as somebody asked.
    JobDeleted {
        /// Which.
        job: JobId,
    },
    /// Facts, capacity or allocation of the host changed.
    HostChanged {
        /// The host as it is now.
        host: Box<Host>,
    },
    /// A domain that is no job's appeared or changed.
    DomainObserved {
        /// The domain as it is now.
        domain: ObservedDomain,
    },
    /// Such a domain is gone.
    DomainGone {
        /// Its libvirt uuid.
        uuid: Uuid,
    },
}

/// One message on an event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Frame {
    /// Everything about one host: start here, forget what was known of it before.
    Inventory(Box<Inventory>),
    /// The next fact of one host.
    Event(Event),
    /// History ends here; what follows happens now.
    Current,
    /// A monitor's opinion of a host. Hosts never send it.
    Freshness {
        /// Which host.
        host: HostId,
        /// How fresh its row is.
        freshness: Freshness,
        /// Milliseconds since the host was last heard.
        age_ms: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FactKind {
    JobChanged,
    JobDeleted,
    HostChanged,
    DomainObserved,
    DomainGone,
}

impl<'de> Tagged<'de> for Fact {
    const TAG: &'static str = "kind";
    type Kind = FactKind;

    fn read_rest<D: Deserializer<'de>>(kind: FactKind, rest: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct OfJob<T> {
            job: T,
        }
        #[derive(Deserialize)]
        struct OfHost {
            host: Box<Host>,
        }
        #[derive(Deserialize)]
        struct OfDomain {
            domain: ObservedDomain,
        }
        #[derive(Deserialize)]
        struct OfUuid {
            uuid: Uuid,
        }
        Ok(match kind {
            FactKind::JobChanged => Fact::JobChanged { job: OfJob::deserialize(rest)?.job },
            FactKind::JobDeleted => Fact::JobDeleted { job: OfJob::deserialize(rest)?.job },
            FactKind::HostChanged => Fact::HostChanged { host: OfHost::deserialize(rest)?.host },
            FactKind::DomainObserved => {
                Fact::DomainObserved { domain: OfDomain::deserialize(rest)?.domain }
            }
            FactKind::DomainGone => Fact::DomainGone { uuid: OfUuid::deserialize(rest)?.uuid },
        })
    }
}

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        tagged::deserialize(deserializer)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FrameKind {
    Inventory,
    Event,
    Current,
    Freshness,
}

impl<'de> Tagged<'de> for Frame {
    const TAG: &'static str = "frame";
    type Kind = FrameKind;

    fn read_rest<D: Deserializer<'de>>(kind: FrameKind, rest: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct OfFreshness {
            host: HostId,
            freshness: Freshness,
            age_ms: u64,
        }
        Ok(match kind {
            FrameKind::Inventory => Frame::Inventory(Box::deserialize(rest)?),
            FrameKind::Event => Frame::Event(Event::deserialize(rest)?),
            FrameKind::Current => {
                IgnoredAny::deserialize(rest)?;
                Frame::Current
            }
            FrameKind::Freshness => {
                let OfFreshness { host, freshness, age_ms } = OfFreshness::deserialize(rest)?;
                Frame::Freshness { host, freshness, age_ms }
            }
        })
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        tagged::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_reads_in_any_order_and_with_more_in_it() {
        let gone = Uuid::from_u128(7);
        let inner = [
            json!({ "kind": "domain_gone", "uuid": gone, "why": "later versions say so" })
                .to_string(),
            format!(r#"{{"uuid": "{gone}", "why": 1, "kind": "domain_gone"}}"#),
        ];
        let host: HostId = "h1".parse().unwrap();
        let cursor = Cursor { epoch: crate::id::Epoch(1), seq: 2 };
        let event = Event { host, cursor, at_ms: 3, fact: Fact::DomainGone { uuid: gone } };
        for fact in inner {
            let rest = format!(
                r#""at_ms": 3, "fact": {fact}, "host": "h1", "cursor": {{"seq": 2, "epoch": 1}}"#
            );
            let first = format!(r#"{{"frame": "event", {rest}}}"#);
            let last = format!(r#"{{{rest}, "frame": "event"}}"#);
            for text in [first, last] {
                let read: Frame = serde_json::from_str(&text).unwrap();
                assert_eq!(read, Frame::Event(event.clone()), "{text}");
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(Frame::deserialize(&value).unwrap(), read, "{value}");
            }
        }
        let mark = r#"{"frame": "current", "stream": "a", "seq": 1, "resumed": true}"#;
        assert_eq!(serde_json::from_str::<Frame>(mark).unwrap(), Frame::Current);
    }

    #[test]
    fn what_is_no_frame_is_refused_with_a_reason() {
        for (text, why) in [
            ("{}", "missing field `frame`"),
            (r#"{"seq": 1}"#, "missing field `frame`"),
            (r#"{"frame": "rumour"}"#, "unknown variant `rumour`"),
            (r#"{"frame": "event"}"#, "missing field `host`"),
            ("[]", "an object with a \"frame\""),
        ] {
            let error = serde_json::from_str::<Frame>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
