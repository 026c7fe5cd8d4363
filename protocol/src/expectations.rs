//! Sets of expectations that controllers keep true: what is put, and what is told of each.
//!
//! What an expectation says is the planner's to understand; here it is JSON as
//! `docs/schema/expectations.json` describes it, so that a newer kind passes through an older program.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{HostId, JobId, Revision, RunId, SetName};

/// `PUT /v1/expectations/{name}` on a controller: these are to be true from now on. 201
/// [`SetStatus`] when it is stored, 200 when it is so already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutExpectations {
    /// Which change of the set; above the present one.
    pub revision: Revision,
    /// Each as in the list of an expectations file.
    pub expectations: Vec<Value>,
}

/// `GET /v1/expectations` on a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetList {
    /// Why nothing is judged now, and what is told is as it was seen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The sets, by name.
    pub sets: Vec<SetStatus>,
}

/// A set of expectations, and how each stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetStatus {
    /// Its name.
    pub name: SetName,
    /// Which change of it.
    pub revision: Revision,
    /// True when it was deleted; told only to those who ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_deleted: bool,
    /// When it was put, in milliseconds since 1970; for people only.
    pub put_ms: u64,
    /// Jobs that it expects to run and that have been seen since it was put: one of them that is gone
    /// was deleted, and is not made again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub begun: BTreeSet<JobId>,
    /// Jobs that it expects to run and that somebody has had stopped since, each with the change of it
    /// which that was said of: it stays ended until a later one is started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stopped: BTreeMap<JobId, Revision>,
    /// The expectations, in their order.
    pub expectations: Vec<ExpectationStatus>,
}

/// An expectation, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExpectationStatus {
    /// As it was put.
    pub expectation: Value,
    /// How it stands.
    #[serde(flatten)]
    pub standing: KeptStanding,
    /// What is told beside that: how far hosts are apart that are to be balanced and of which it is not known, or what their next move waits for; of hosts that are to
    /// sleep, which would be next, and what that waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Of a group, how it stands that each of its VMs runs, by their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// Of a group, VMs that hosts have under its name with a number above its count. Nothing is expected of
    /// them, and nobody ends them for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub surplus: Vec<JobId>,
}

/// A VM of a group, and how it stands that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberStatus {
    /// The VM.
    pub job: JobId,
    /// How it stands.
    #[serde(flatten)]
    pub standing: KeptStanding,
}

/// How a kept expectation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum KeptStanding {
    /// It is so.
    Met,
    /// A host is at it; waiting is enough.
    Coming {
        /// The host.
        host: HostId,
    },
    /// A run is at it, or changes a job that it is about.
    Mending {
        /// The run.
        run: RunId,
        /// What it does, where it changes another job than those that are meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// It is not so.
    Unmet {
        /// The evidence, and what is waited for or would help.
        why: String,
        /// Of the planner's report, what is about it (`docs/schema/report.json`): an entry of `unmet` or
        /// of `violations`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Value>,
    },
    /// Nobody here knows what it means; it blocks nothing.
    NotUnderstood {
        /// Why not.
        why: String,
    },
    /// Not looked at yet, for want of a current view.
    Unknown,
}

impl KeptStanding {
    /// The word on screens.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            KeptStanding::Met => "met",
            KeptStanding::Coming { .. } => "coming",
            KeptStanding::Mending { .. } => "mending",
            KeptStanding::Unmet { .. } => "unmet",
            KeptStanding::NotUnderstood { .. } => "not understood",
            KeptStanding::Unknown => "unknown",
        }
    }
}
