//! The file that says what switches which host. It holds passwords, so only its owner may read it.
//!
//! ```json
//! { "hosts": { "h2": [ { "agent": "fence_ipmilan",
//!                        "options": { "ip": "10.0.9.2", "lanplus": "1",
//!                                     "username": "ostler", "password": "…" } } ] } }
//! ```
//!
//! A host is named by its id, or by its name if no other has that. Several devices switch a host that
//! has several supplies: it is off when all of them are.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Larger is no such file.
const BYTES_MAX: u64 = 4 << 20;

/// Devices of one host.
const DEVICES_MAX: usize = 8;

/// Options that say who asks a device and how, not which it is.
const MANNERS: [&str; 11] = [
    "username",
    "login",
    "password",
    "passwd",
    "password_script",
    "passwd_script",
    "cipher",
    "privlvl",
    "method",
    "verbose",
    "quiet",
];

/// Older names of options, with those of now.
const SAME_OPTIONS: [(&str, &str); 2] = [("ipaddr", "ip"), ("port", "plug")];

/// Why nobody can be switched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PowerFileError {
    /// There is no such file here.
    #[error("no host can be switched from here: there is no {path}", path = .path.display())]
    None { path: PathBuf },
    /// It can't be read.
    #[error("read {path}: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Others may read the passwords in it.
    #[error("others may read {path} (mode {mode:o}): chmod 600 {path}", path = .path.display())]
    Open { path: PathBuf, mode: u32 },
    /// Two hosts have one device, and to switch one of them is to switch the other.
    #[error(
        "{path} says that {device} switches {one} and {other}: give each host its own, or keep one line where both \
         are names of one host", path = .path.display()
    )]
    Shared { path: PathBuf, device: String, one: String, other: String },
    /// It says something that is not understood.
    #[error("{path}: {why}", path = .path.display())]
    Invalid { path: PathBuf, why: String },
}

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PowerFile {
    /// By id or name of the host.
    pub(crate) hosts: BTreeMap<String, Vec<Device>>,
}

/// One device, and who speaks its language.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// A fence agent: a program of the package `fence-agents`, or any that keeps their convention.
    pub(crate) agent: String,
    /// What it takes, as in its manual.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.agent.rsplit('/').next().unwrap_or(&self.agent))?;
        let address = ["ip", "ipaddr"].iter().find_map(|key| self.options.get(*key));
        let plug = ["plug", "port"].iter().find_map(|key| self.options.get(*key));
        for word in address.into_iter().chain(plug) {
            write!(f, " {word}")?;
        }
        Ok(())
    }
}

/// Not its passwords.
impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PowerFile {
    /// Reads it and looks at every line of it: what is wrong with one host's is not found out when that host
    /// has to be switched.
    pub(crate) fn read(path: &Path) -> Result<Self, PowerFileError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => PowerFileError::None { path: path.to_owned() },
            _ => PowerFileError::Unreadable { path: path.to_owned(), source },
        };
        let invalid = |why: String| PowerFileError::Invalid { path: path.to_owned(), why };
        let about = std::fs::metadata(path).map_err(unreadable)?;
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(PowerFileError::Open { path: path.to_owned(), mode });
        }
        if about.len() > BYTES_MAX {
            return Err(invalid(format!("{} bytes are too many", about.len())));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let file: Self = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        for (host, devices) in &file.hosts {
            if devices.is_empty() || devices.len() > DEVICES_MAX {
                let count = devices.len();
                return Err(invalid(format!("{host} has {count} devices, not 1 to {DEVICES_MAX}")));
            }
            for device in devices {
                device.check().map_err(|why| invalid(format!("{host}: {why}")))?;
            }
        }
        match file.shared() {
            Some((device, one, other)) => {
                let (path, device) = (path.to_owned(), device.to_string());
                let (one, other) = (one.to_owned(), other.to_owned());
                Err(PowerFileError::Shared { path, device, one, other })
            }
            None => Ok(file),
        }
    }

    /// A device that two hosts have, and which.
    fn shared(&self) -> Option<(&Device, &str, &str)> {
        let mut known: BTreeMap<_, &str> = BTreeMap::new();
        for (host, devices) in &self.hosts {
            for device in devices {
                match known.insert(device.outlet(), host) {
                    Some(other) if other != host => return Some((device, other, host)),
                    _ => {}
                }
            }
        }
        None
    }
}

impl Device {
    /// What it switches: all of it but who asks, and how patiently. Two outlets of one strip are two of these.
    fn outlet(&self) -> (&str, BTreeMap<&str, &str>) {
        let is_manner = |key: &str| {
            MANNERS.contains(&key) || ["timeout", "delay", "wait"].iter().any(|w| key.ends_with(w))
        };
        let same =
            |key: &str| SAME_OPTIONS.iter().find(|(old, _)| *old == key).map(|(_, new)| *new);
        let outlet = self.options.iter().filter(|(key, _)| !is_manner(key));
        let outlet = outlet.map(|(key, value)| (same(key).unwrap_or(key), value.as_str()));
        (self.agent.rsplit('/').next().unwrap_or_default(), outlet.collect())
    }

    fn check(&self) -> Result<(), String> {
        let is_word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let name = self.agent.rsplit('/').next().unwrap_or_default();
        if !is_word(name) || (self.agent.contains('/') && !self.agent.starts_with('/')) {
            let agent = &self.agent;
            return Err(format!(
                "agent {agent:?} is no program's name, such as fence_ipmilan, or path"
            ));
        }
        if let Some(key) = self.options.keys().find(|key| !is_word(key)) {
            return Err(format!("{key:?} is no option's name"));
        }
        if let Some(key) = ["action", "option"].iter().find(|key| self.options.contains_key(**key))
        {
            return Err(format!(
                "option {key} is not for this file: Ostler says what is to be done"
            ));
        }
        if let Some((key, _)) = self.options.iter().find(|(_, value)| value.contains(['\n', '\0']))
        {
            return Err(format!("option {key} has more than one line"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, mode: u32) -> Result<PowerFile, PowerFileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("power.json");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        PowerFile::read(&path)
    }

    #[test]
    fn what_it_says_is_understood_and_shown_without_its_passwords() {
        let text = r#"{ "hosts": { "h2": [ { "agent": "fence_ipmilan", "options":
            { "ip": "10.0.9.2", "password": "secret" } }, { "agent": "/opt/fence_pdu", "options":
            { "ip": "10.0.9.9", "plug": "7", "password": "secret" } } ] } }"#;
        let file = read(text, 0o600).unwrap();
        let shown: Vec<String> = file.hosts["h2"].iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["fence_ipmilan 10.0.9.2", "fence_pdu 10.0.9.9 7"]);
        assert!(!format!("{file:?}").contains("secret"));
    }

    #[test]
    fn what_is_wrong_with_it_is_told_before_a_host_has_to_be_switched() {
        let one = |device: &str| format!(r#"{{ "hosts": {{ "h2": [ {device} ] }} }}"#);
        for (text, mode, word) in [
            ("{}".to_owned(), 0o600, "missing field"),
            (r#"{ "hosts": {} }"#.to_owned(), 0o640, "chmod 600"),
            (one(""), 0o600, "0 devices"),
            (one(r#"{ "agent": "sh -c" }"#), 0o600, "no program's name"),
            (one(r#"{ "agent": "../fence" }"#), 0o600, "no program's name"),
            (one(r#"{ "agent": "fence_x", "options": { "action": "off" } }"#), 0o600, "action"),
            (one(r#"{ "agent": "fence_x", "options": { "ip": "a\naction=on" } }"#), 0o600, "line"),
            (one(r#"{ "agent": "fence_x", "option": {} }"#), 0o600, "unknown field"),
        ] {
            let error = read(&text, mode).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let none = PowerFile::read(Path::new("/nonexistent/power.json")).unwrap_err();
        assert!(matches!(none, PowerFileError::None { .. }), "{none}");
    }

    #[test]
    fn a_device_of_two_hosts_is_refused_with_both_and_two_outlets_are_two_devices() {
        let two = |one: &str, other: &str| {
            let device = |options: &str| {
                format!(r#"[ {{ "agent": "fence_x", "options": {{ {options} }} }} ]"#)
            };
            read(
                &format!(r#"{{ "hosts": {{ "h2": {}, "h3": {} }} }}"#, device(one), device(other)),
                0o600,
            )
        };
        for (one, other) in [
            (r#""ip": "10.0.9.2""#, r#""ip": "10.0.9.2""#),
            (r#""ip": "10.0.9.2", "plug": "1""#, r#""ipaddr": "10.0.9.2", "port": "1""#),
            (r#""ip": "10.0.9.2", "password": "a""#, r#""ip": "10.0.9.2", "login_timeout": "9""#),
        ] {
            let error = two(one, other).unwrap_err();
            assert!(matches!(error, PowerFileError::Shared { .. }), "{error}");
            let words = error.to_string();
            assert!(words.contains("switches h2 and h3") && !words.contains("secret"), "{words}");
        }
        for (one, other) in [
            (r#""ip": "10.0.9.2""#, r#""ip": "10.0.9.3""#),
            (r#""ip": "10.0.9.2", "plug": "1""#, r#""ip": "10.0.9.2", "plug": "2""#),
            (r#""ip": "10.0.9.2", "ipport": "623""#, r#""ip": "10.0.9.2", "ipport": "624""#),
        ] {
            assert!(two(one, other).is_ok(), "{one} {other}");
        }
        let both = r#"{ "hosts": { "h2": [ { "agent": "fence_x" }, { "agent": "fence_x" } ] } }"#;
        assert!(read(both, 0o600).is_ok(), "one host may name its own twice");
    }
}
