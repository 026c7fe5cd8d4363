//! libvirt's numbers in our words. Pure; a number of a newer libvirt becomes the vaguest word.

use virt_sys as sys;

use super::ffi::{RawError, RawEvent, RawWhat};
use crate::domain::{DomainState, PauseReason, StopReason};
use crate::error::ErrorKind;
use crate::event::{DomainEvent, Lifecycle, StartReason};

/// The kind of an error whose connection is alive. `Failed` may still stand for "not in this state",
/// which the caller finds out by looking.
pub(super) fn kind(raw: &RawError) -> ErrorKind {
    match raw.code {
        sys::VIR_ERR_NO_DOMAIN => ErrorKind::NoSuchDomain,
        sys::VIR_ERR_DOM_EXIST => ErrorKind::AlreadyExists,
        sys::VIR_ERR_XML_ERROR
        | sys::VIR_ERR_XML_DETAIL
        | sys::VIR_ERR_XML_INVALID_SCHEMA
        | sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_INVALID_ARG
        | sys::VIR_ERR_NO_NETWORK => ErrorKind::Refused,
        sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_OPERATION_UNSUPPORTED
        | sys::VIR_ERR_ARGUMENT_UNSUPPORTED => ErrorKind::Unsupported,
        sys::VIR_ERR_NO_CONNECT | sys::VIR_ERR_INVALID_CONN | sys::VIR_ERR_NO_SERVER => {
            ErrorKind::Disconnected
        }
        sys::VIR_ERR_OPERATION_TIMEOUT => ErrorKind::TimedOut,
        _ => ErrorKind::Failed,
    }
}

/// True when the error comes from the wire to a daemon, not from the daemon's work.
pub(super) fn is_from_wire(raw: &RawError) -> bool {
    matches!(raw.domain, sys::VIR_FROM_RPC | sys::VIR_FROM_REMOTE)
}

/// `virDomainGetState`'s two numbers.
pub(super) fn state((state, reason): (u32, u32)) -> DomainState {
    match state {
        sys::VIR_DOMAIN_PAUSED => DomainState::Paused(paused(reason)),
        sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused(PauseReason::Other),
        sys::VIR_DOMAIN_SHUTDOWN => DomainState::ShuttingDown,
        sys::VIR_DOMAIN_SHUTOFF => DomainState::ShutOff(shut_off(reason)),
        sys::VIR_DOMAIN_CRASHED => DomainState::Crashed,
        // Also "no state" and numbers yet unknown: whatever may run must not be taken for ended.
        _ => DomainState::Running,
    }
}

fn paused(reason: u32) -> PauseReason {
    match reason {
        sys::VIR_DOMAIN_PAUSED_USER => PauseReason::Requested,
        sys::VIR_DOMAIN_PAUSED_MIGRATION => PauseReason::Migration,
        sys::VIR_DOMAIN_PAUSED_IOERROR => PauseReason::IoError,
        sys::VIR_DOMAIN_PAUSED_STARTING_UP => PauseReason::StartingUp,
        _ => PauseReason::Other,
    }
}

fn shut_off(reason: u32) -> StopReason {
    match reason {
        sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => StopReason::Shutdown,
        sys::VIR_DOMAIN_SHUTOFF_DESTROYED => StopReason::Destroyed,
        sys::VIR_DOMAIN_SHUTOFF_CRASHED => StopReason::Crashed,
        sys::VIR_DOMAIN_SHUTOFF_MIGRATED => StopReason::Migrated,
        sys::VIR_DOMAIN_SHUTOFF_SAVED => StopReason::Saved,
        sys::VIR_DOMAIN_SHUTOFF_FAILED => StopReason::Failed,
        _ => StopReason::Unknown,
    }
}

/// A callback's arguments; `None` for events that say nothing to us.
pub(super) fn event(raw: RawEvent) -> Option<DomainEvent> {
    let RawEvent { uuid, name, what } = raw;
    let what = match what {
        RawWhat::Reboot => Lifecycle::Rebooted,
        RawWhat::Agent => Lifecycle::AgentChanged,
        RawWhat::Lifecycle(event, detail) => lifecycle(event, detail)?,
    };
    Some(DomainEvent { uuid, name, what })
}

fn lifecycle(event: u32, detail: u32) -> Option<Lifecycle> {
    Some(match event {
        sys::VIR_DOMAIN_EVENT_DEFINED => Lifecycle::Defined,
        sys::VIR_DOMAIN_EVENT_UNDEFINED => Lifecycle::Undefined,
        sys::VIR_DOMAIN_EVENT_STARTED => Lifecycle::Started(match detail {
            sys::VIR_DOMAIN_EVENT_STARTED_BOOTED => StartReason::Booted,
            sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED => StartReason::Migrated,
            _ => StartReason::Restored,
        }),
        sys::VIR_DOMAIN_EVENT_SUSPENDED => Lifecycle::Suspended(match detail {
            sys::VIR_DOMAIN_EVENT_SUSPENDED_PAUSED => PauseReason::Requested,
            sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED => PauseReason::Migration,
            sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR => PauseReason::IoError,
            _ => PauseReason::Other,
        }),
        sys::VIR_DOMAIN_EVENT_RESUMED => Lifecycle::Resumed,
        // QEMU also says so when it is being killed; then it was not the guest.
        sys::VIR_DOMAIN_EVENT_SHUTDOWN if detail == sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST => {
            return None;
        }
        sys::VIR_DOMAIN_EVENT_SHUTDOWN => Lifecycle::ShutDown,
        sys::VIR_DOMAIN_EVENT_STOPPED => Lifecycle::Stopped(match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => StopReason::Shutdown,
            sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => StopReason::Destroyed,
            sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => StopReason::Crashed,
            sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => StopReason::Migrated,
            sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => StopReason::Saved,
            sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => StopReason::Failed,
            _ => StopReason::Unknown,
        }),
        sys::VIR_DOMAIN_EVENT_PMSUSPENDED => Lifecycle::Asleep,
        sys::VIR_DOMAIN_EVENT_CRASHED => Lifecycle::Panicked,
        _ => return None,
    })
}

/// `9.0.0` from libvirt's 9 000 000.
pub(super) fn version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_may_run_is_never_taken_for_ended() {
        for unknown in [sys::VIR_DOMAIN_NOSTATE, sys::VIR_DOMAIN_BLOCKED, 99] {
            assert!(state((unknown, 0)).is_active());
        }
        assert!(!state((sys::VIR_DOMAIN_SHUTOFF, 99)).is_active());
    }

    #[test]
    fn events_of_a_newer_libvirt_are_passed_over() {
        let raw = |what| RawEvent { uuid: Uuid::nil(), name: "a".into(), what };
        assert_eq!(event(raw(RawWhat::Lifecycle(99, 0))), None);
        assert_eq!(event(raw(RawWhat::Reboot)).unwrap().what, Lifecycle::Rebooted);
        assert_eq!(event(raw(RawWhat::Agent)).unwrap().what, Lifecycle::AgentChanged);
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(10_003_012), "10.3.12");
    }
}
