//! Telling the service manager how this process is: ready, and alive (sd_notify(3)).
//!
//! Decides how that is said. When it is true is the process's own affair, and what follows from
//! silence (systemd ends the process and starts it again) is its unit's.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager that started this process.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names; `None` when nobody waits for news.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        match Self::at(&address, watchdog.as_deref()) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!("use NOTIFY_SOCKET {}: {error}", address.display());
                None
            }
        }
    }

    fn at(address: &OsStr, watchdog_us: Option<&str>) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        let watchdog = watchdog_us.and_then(|text| text.parse().ok());
        let watchdog = watchdog.filter(|us| *us > 0).map(Duration::from_micros);
        Ok(Self { socket, watchdog })
    }

    /// Says that this process does its work from now on.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Says that it still does.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How often to say so: twice in the time after which we would be taken for dead. `None`: never.
    #[must_use]
    pub fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|longest| longest / 2)
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send(state.as_bytes()) {
            tracing::warn!("tell the service manager {state}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_that_we_are_ready_and_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let ours = Manager::at(path.as_os_str(), Some("3000000")).unwrap();
        assert_eq!(ours.alive_interval(), Some(Duration::from_millis(1500)));
        ours.ready();
        ours.alive();
        let mut heard = [0; 64];
        for expected in ["READY=1", "WATCHDOG=1"] {
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], expected.as_bytes());
        }
    }

    #[test]
    fn nobody_at_the_address_is_an_error_and_no_watchdog_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        assert!(Manager::at(path.as_os_str(), None).is_err());
        let _manager = UnixDatagram::bind(&path).unwrap();
        for nothing in [None, Some("0"), Some("soon")] {
            assert_eq!(Manager::at(path.as_os_str(), nothing).unwrap().alive_interval(), None);
        }
    }
}
