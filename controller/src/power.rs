//! Switching hosts off and on from outside: by the devices that a file on this controller's machine names.
//!
//! Decides which host is meant, that one host is switched by one request at a time, that a host with
//! living guests is not switched off by mistake, and that off means that every device says so. How a
//! device is spoken to is its fence agent's.

mod agent;

mod asleep;

mod api;

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::host::Host;
use protocol::id::HostId;
use protocol::power::{HostPower, PowerAction, PowerState};
use transport::ProblemReply;

use self::agent::AgentError;
use self::file::{Device, PowerFile, PowerFileError};

pub(crate) use api::router;
pub(crate) use asleep::Asleep;

/// How long devices may take until they say what was asked of them. Some machines need half a minute to
/// admit that they are off.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How often they are asked meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(500);

/// Why a host's power is not known, or was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PowerError {
    /// Nobody can switch anything.
    #[error(transparent)]
    File(#[from] PowerFileError),
    /// Nobody can switch this host.
    #[error("{path} names no device that switches {host}", path = .path.display())]
    NoDevice { path: PathBuf, host: HostId },
    /// Two hosts are called so.
    #[error("{path} says {name}, and {count} hosts are called that: use ids", path = .path.display())]
    Ambiguous { path: PathBuf, name: String, count: usize },
    /// One host is called both, and what is switched would be a matter of the alphabet.
    #[error("{path} says {one} and {other}, which are one host: keep one of them, with all its devices", path = .path.display())]
    Twice { path: PathBuf, one: String, other: String },
    /// A device did not do or say what was asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// They took the order, and it is not so.
    #[error("{devices} took the order, and after {seconds} s the state is {state}", seconds = SETTLE_MAX.as_secs())]
    NotSo { devices: String, state: PowerState },
}

impl From<PowerError> for ProblemReply {
    fn from(error: PowerError) -> Self {
        let text = error.to_string();
        match error {
            PowerError::File(PowerFileError::None { .. }) | PowerError::NoDevice { .. } => {
                ProblemReply::new(404, "no-power-device", text)
            }
            PowerError::File(_) | PowerError::Ambiguous { .. } | PowerError::Twice { .. } => {
                ProblemReply::new(503, "power-file", text)
            }
            PowerError::Agent(_) | PowerError::NotSo { .. } => {
                ProblemReply::new(502, "power-device", text)
            }
        }
    }
}

/// The devices of this controller's machine.
#[derive(Debug, Clone)]
pub(crate) struct Power {
    file: PathBuf,
    /// Hosts that are being switched.
    busy: Arc<Mutex<BTreeMap<HostId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Power {
    /// The file is read whenever somebody asks: who changes it need not restart anything.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, busy: Arc::default() }
    }

    /// Those of the hosts that it has devices for, and the names in it that mean none of them.
    pub(crate) fn known(&self, hosts: &[Host]) -> Result<(Vec<Machine>, Vec<String>), PowerError> {
        let file = match PowerFile::read(&self.file) {
            Err(PowerFileError::None { .. }) => return Ok((vec![], vec![])),
            file => file?,
        };
        let mut machines: Vec<Machine> = Vec::new();
        let mut unknown = Vec::new();
        for (name, devices) in file.hosts {
            let named: Vec<&Host> = hosts.iter().filter(|host| is_called(host, &name)).collect();
            match named[..] {
                [host] if machines.iter().any(|machine| machine.host == host.id) => {
                    let (path, one) = (self.file.clone(), host.id.to_string());
                    return Err(PowerError::Twice { path, one, other: host.name.clone() });
                }
                [host] => machines.push(Machine { host: host.id.clone(), devices }),
                _ => unknown.push(name),
            }
        }
        Ok((machines, unknown))
    }

    /// The machine of one of the hosts.
    pub(crate) fn machine(&self, host: &Host, hosts: &[Host]) -> Result<Machine, PowerError> {
        let file = PowerFile::read(&self.file)?;
        let (path, id) = (self.file.clone(), host.id.clone());
        let mut named = file.hosts.into_iter().filter(|(name, _)| is_called(host, name));
        let Some((name, devices)) = named.next() else {
            return Err(PowerError::NoDevice { path, host: id });
        };
        if let Some((other, _)) = named.next() {
            return Err(PowerError::Twice { path, one: name, other });
        }
        let count = hosts.iter().filter(|host| is_called(host, &name)).count();
        if count > 1 {
            return Err(PowerError::Ambiguous { path, name, count });
        }
        Ok(Machine { host: id, devices })
    }

    /// Does it, and waits until the devices say so.
    pub(crate) async fn change(
        &self,
        machine: &Machine,
        action: PowerAction,
    ) -> Result<PowerState, PowerError> {
        let turn = {
            let mut busy = self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(busy.entry(machine.host.clone()).or_default())
        };
        let _turn = turn.lock().await;
        match action {
            PowerAction::On => machine.switch(PowerState::On).await,
            PowerAction::Off | PowerAction::Sleep => machine.switch(PowerState::Off).await,
            PowerAction::Cycle => {
                machine.switch(PowerState::Off).await?;
                machine.switch(PowerState::On).await
            }
        }
    }
}

/// A host is meant by its id, or by its name.
fn is_called(host: &Host, name: &str) -> bool {
    host.id.as_str() == name || host.name == name
}

/// What switches one host.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    host: HostId,
    devices: Vec<Device>,
}

impl Machine {
    /// What its devices say now.
    pub(crate) async fn state(&self) -> Result<PowerState, PowerError> {
        let (mut on, mut off) = (0, 0);
        for device in &self.devices {
            match agent::is_on(device).await? {
                true => on += 1,
                false => off += 1,
            }
        }
        Ok(match (on, off) {
            (0, _) => PowerState::Off,
            (_, 0) => PowerState::On,
            (_, _) => PowerState::Partly,
        })
    }

    /// The same, for people.
    pub(crate) async fn status(&self) -> HostPower {
        let (state, problem) = match self.state().await {
            Ok(state) => (Some(state), None),
            Err(error) => (None, Some(error.to_string())),
        };
        HostPower { host: self.host.clone(), devices: self.names(), state, problem }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.devices.iter().map(ToString::to_string).collect()
    }

    async fn switch(&self, to: PowerState) -> Result<PowerState, PowerError> {
        for device in &self.devices {
            agent::switch(device, to == PowerState::On).await?;
        }
        let begin = tokio::time::Instant::now();
        loop {
            let state = self.state().await?;
            if state == to {
                return Ok(state);
            }
            if begin.elapsed() > SETTLE_MAX {
                return Err(PowerError::NotSo { devices: self.names().join(" and "), state });
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use protocol::signed::SecretKey;

    use super::*;

    #[test]
    fn a_host_that_is_named_twice_is_not_switched_by_either() {
        let mut host = Host::of_key(SecretKey::from_seed([2; 32]).public());
        host.name = "h2".to_owned();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("power.json");
        let (one, other) =
            (r#"[ { "agent": "fence_ipmilan" } ]"#, r#"[ { "agent": "fence_apc" } ]"#);
        let text = format!(r#"{{ "hosts": {{ "h2": {one}, "{}": {other} }} }}"#, host.id);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (power, hosts) = (Power::new(file), [host.clone()]);
        let error = power.machine(&host, &hosts).unwrap_err();
        assert!(matches!(error, PowerError::Twice { .. }), "{error}");
        assert!(error.to_string().contains("h2") && error.to_string().contains(host.id.as_str()));
        assert!(matches!(power.known(&hosts), Err(PowerError::Twice { .. })));
    }
}
