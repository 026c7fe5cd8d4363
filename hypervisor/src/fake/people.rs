//! What guests, other people and the machine do behind the agent's back, and what a test may see.

use std::net::IpAddr;

use protocol::job::AddressSource;
use protocol::resources::Resources;
use protocol::vm::Size;
use uuid::Uuid;

use super::{Fake, Guest, forget_if_transient, is_active, set_state};
use crate::domain::{DomainConfig, DomainInfo, DomainState, StopReason};
use crate::event::{Lifecycle, StartReason, WatchEvent};
use crate::network::NetworkInfo;

impl Fake {
    /// A running domain that nobody asked Ostler for.
    pub fn add_foreign(&self, name: &str, uuid: Uuid, resources: Resources) {
        let info = DomainInfo {
            uuid,
            name: name.to_owned(),
            state: DomainState::Running,
            job: None,
            resources,
            memory_now_bytes: resources.memory_bytes,
            page_size: None,
            is_persistent: true,
        };
        let Resources { vcpus, memory_bytes, .. } = resources;
        let size = Size { vcpus, memory_bytes, max_vcpus: None, max_memory_bytes: None };
        let guest = Guest::new(info, None, size);
        let mut state = self.state();
        state.domains.insert(uuid, guest);
        self.announce(&state, uuid, Lifecycle::Defined);
        self.announce(&state, uuid, Lifecycle::Started(StartReason::Booted));
    }

    /// The guest shuts itself down. False when it does not run.
    pub fn guest_shuts_down(&self, uuid: Uuid) -> bool {
        let mut state = self.state();
        let is_active = is_active(&state, uuid);
        if is_active {
            self.announce(&state, uuid, Lifecycle::ShutDown);
            self.become_shut_off(&mut state, uuid, StopReason::Shutdown);
        }
        is_active
    }

    /// The guest writes its exit code and shuts itself down. False when it has no port for that, or
    /// does not run.
    pub fn guest_exits(&self, uuid: Uuid, code: i32) -> bool {
        let port = self.config(uuid).and_then(|config| config.exit_file);
        let is_written = port.is_some_and(|file| std::fs::write(file, format!("{code}\n")).is_ok());
        is_written && self.guest_shuts_down(uuid)
    }

    /// The guest's process dies. False when it does not run.
    pub fn guest_crashes(&self, uuid: Uuid) -> bool {
        let mut state = self.state();
        let is_active = is_active(&state, uuid);
        if is_active {
            // In libvirt, too, event and state differ in this word.
            set_state(&mut state, uuid, DomainState::ShutOff(StopReason::Crashed));
            self.announce(&state, uuid, Lifecycle::Stopped(StopReason::Failed));
            forget_if_transient(&mut state, uuid);
        }
        is_active
    }

    /// From now on this is all that is known of the addresses of a guest's cards: who says so, of which
    /// card by its hardware address, which.
    pub fn guest_has_addresses(&self, uuid: Uuid, known: &[(AddressSource, &str, IpAddr)]) {
        if let Some(guest) = self.state().domains.get_mut(&uuid) {
            let known = known.iter().map(|(from, mac, ip)| (*from, (*mac).to_owned(), *ip));
            guest.addresses = known.collect();
        }
    }

    /// Somebody else makes a network, or takes one away behind our back.
    pub fn set_network(&self, uuid: Uuid, network: Option<NetworkInfo>) {
        match network {
            Some(network) => drop(self.state().networks.insert(uuid, network)),
            None => drop(self.state().networks.remove(&uuid)),
        }
        self.0.hub.publish(&WatchEvent::NetworksChanged);
    }

    /// The agent in a guest comes up, or goes.
    pub fn agent_changes(&self, uuid: Uuid) {
        let state = self.state();
        if is_active(&state, uuid) {
            self.announce(&state, uuid, Lifecycle::AgentChanged);
        }
    }

    /// The connection is lost: calls fail, events are lost, guests go on.
    pub fn disconnect(&self) {
        self.state().is_disconnected = true;
        let message = "the fake was disconnected".to_owned();
        self.0.hub.publish(&WatchEvent::Disconnected { message });
    }

    /// The connection is back.
    pub fn reconnect(&self) {
        self.state().is_disconnected = false;
        self.0.hub.publish(&WatchEvent::Reconnected);
    }

    /// The machine loses power and comes back: no guest runs, definitions are kept.
    pub fn reboot_host(&self) {
        self.disconnect();
        let mut state = self.state();
        state.domains.retain(|_, guest| guest.info.is_persistent);
        for guest in state.domains.values_mut() {
            guest.info.state = DomainState::ShutOff(StopReason::Unknown);
            guest.show_defined();
            guest.job = None;
        }
        drop(state);
        self.reconnect();
    }

    /// Domains as they really are, also while disconnected and without faults.
    #[must_use]
    pub fn domains(&self) -> Vec<DomainInfo> {
        self.state().domains.values().map(|guest| guest.info.clone()).collect()
    }

    /// What a domain was last defined as.
    #[must_use]
    pub fn config(&self, uuid: Uuid) -> Option<DomainConfig> {
        self.state().domains.get(&uuid).and_then(|guest| guest.config.clone())
    }

    /// Everything typed on a guest's console so far.
    #[must_use]
    pub fn console_input(&self, uuid: Uuid) -> Vec<u8> {
        let state = self.state();
        state.domains.get(&uuid).map(|guest| guest.console_input.clone()).unwrap_or_default()
    }
}
