//! How a fake's guest moves to another fake of its fleet.

use uuid::Uuid;

use super::fault::{Fault, Method};
use super::{Fake, Guest, Outgoing, State, find_active, is_active};
use crate::domain::{DomainState, MigrateOutcome, MigrateTo, PauseReason, StopReason};
use crate::error::{ErrorKind, HypervisorError};
use crate::event::{Lifecycle, StartReason};

impl Fake {
    /// Sends a guest as `migrate` promises, and blocks until that has ended.
    pub(super) fn send(
        &self,
        uuid: Uuid,
        to: &MigrateTo,
    ) -> Result<MigrateOutcome, HypervisorError> {
        let what = format!("migrate domain {uuid} to {}", to.libvirt_uri);
        let (guest, before) = self.perform(Method::Migrate, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            if guest.job.is_some() {
                let message = "it is being migrated already";
                return Err(HypervisorError::new(&what, ErrorKind::Failed, message));
            }
            guest.job = Some(Outgoing { is_aborted: false });
            Ok((guest.clone(), guest.info.state))
        })?;
        let unknown = self.take_fault(|fault| matches!(fault, Fault::MigrateUnknown { .. }));
        let sent = if self.transfer(uuid) {
            let target = self.0.options.fleet.at(&to.libvirt_uri);
            let is_paused = to.start_paused || before != DomainState::Running;
            match (&unknown, target) {
                (Some(Fault::MigrateUnknown { has_arrived: false }), _) => Ok(()),
                (_, Some(target)) => target.receive(guest, is_paused),
                (_, None) => Err("nobody answers there".to_owned()),
            }
        } else {
            Err("aborted, or the guest has ended".to_owned())
        };
        let error = |message: &str| HypervisorError::new(&what, ErrorKind::Failed, message);
        if unknown.is_some() {
            let mut state = self.state();
            if let Some(guest) = state.domains.get_mut(&uuid) {
                guest.job = None;
                self.become_paused(&mut state, uuid, PauseReason::Migration);
            }
            let seen = state.domains.get(&uuid).map(|guest| guest.info.state);
            return Ok(MigrateOutcome::Unknown { seen, error: error("as the test wants it") });
        }
        match sent {
            Ok(()) => {
                self.leave(uuid);
                Ok(MigrateOutcome::Moved)
            }
            Err(message) => {
                let mut state = self.state();
                let seen = state.domains.get_mut(&uuid).map(|guest| {
                    guest.job = None;
                    guest.info.state
                });
                Ok(match seen {
                    Some(state) if state == before => {
                        MigrateOutcome::StillHere { state, error: error(&message) }
                    }
                    seen => MigrateOutcome::Unknown { seen, error: error(&message) },
                })
            }
        }
    }

    /// Takes in a guest from another fake, as libvirt's daemon would.
    fn receive(&self, mut guest: Guest, is_paused: bool) -> Result<(), String> {
        let uuid = guest.info.uuid;
        let mut state = self.state();
        if state.is_disconnected {
            return Err("the target does not answer".to_owned());
        }
        if is_active(&state, uuid) {
            return Err("the target runs this domain already".to_owned());
        }
        guest.info.state = DomainState::Paused(PauseReason::Migration);
        guest.info.is_persistent = true;
        guest.job = None;
        state.domains.insert(uuid, guest);
        self.announce(&state, uuid, Lifecycle::Started(StartReason::Migrated));
        self.announce(&state, uuid, Lifecycle::Defined);
        if is_paused {
            self.become_paused(&mut state, uuid, PauseReason::Requested);
        } else {
            self.become_running(&mut state, uuid);
        }
        Ok(())
    }

    /// Blocks while a stalled migration is neither aborted nor released. Says whether to go on.
    fn transfer(&self, uuid: Uuid) -> bool {
        let goes_on = |state: &State| {
            let guest = state.domains.get(&uuid);
            guest.is_some_and(|guest| guest.job.is_some_and(|job| !job.is_aborted))
        };
        if self.take_fault(|fault| *fault == Fault::MigrateStalls).is_some() {
            let state = self.wait_while(goes_on);
            return goes_on(&state);
        }
        true
    }

    /// Forgets a guest that has moved away. libvirt announces no `Undefined` then.
    fn leave(&self, uuid: Uuid) {
        let mut state = self.state();
        if let Some(guest) = state.domains.get_mut(&uuid) {
            guest.info.is_persistent = false;
            self.become_paused(&mut state, uuid, PauseReason::Migration);
            self.become_shut_off(&mut state, uuid, StopReason::Migrated);
        }
    }
}
