//! What bootstrap says while it works: one event for each change of a step.
//!
//! Decides only the words and their JSON; `ostler bootstrap --json` prints one event a line.

use std::fmt;

use protocol::job::Role;
use serde::Serialize;

/// A step of bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Until enough hosts answer.
    WaitHosts,
    /// Whether these hosts can be one cluster.
    CheckHosts,
    /// Every process of one role runs and says where.
    Start(Role),
    /// The trust document names hosts and roles.
    SignTrust,
    /// Every host obeys it.
    GiveTrust,
    /// Everything says it is ready.
    CheckHealth,
    /// The end.
    Done,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::WaitHosts => f.pad("wait-hosts"),
            Step::CheckHosts => f.pad("check-hosts"),
            Step::Start(role) => f.pad(&format!("start-{role}")),
            Step::SignTrust => f.pad("sign-trust"),
            Step::GiveTrust => f.pad("give-trust"),
            Step::CheckHealth => f.pad("check-health"),
            Step::Done => f.pad("done"),
        }
    }
}

impl Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a step is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Begun, or going on with something new to say.
    Start,
    /// Done, and something was changed.
    Done,
    /// It was so already; nothing was changed.
    Already,
    /// Not possible; bootstrap ends here, and can be run again.
    Failed,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepEvent {
    /// Which step.
    pub id: Step,
    /// How it is going.
    pub state: StepState,
    /// In words, with the names and numbers that matter. Never a secret.
    pub detail: String,
    /// Milliseconds since bootstrap began.
    pub elapsed_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_json_object() {
        let event = StepEvent {
            id: Step::Start(Role::Arbiter),
            state: StepState::Already,
            detail: "ostler-arbiter-0 on h1".into(),
            elapsed_ms: 12,
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"id":"start-arbiter","state":"already","detail":"ostler-arbiter-0 on h1","elapsed_ms":12}"#
        );
    }
}
