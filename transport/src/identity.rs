//! The key a process is known by, and the file it is kept in.
//!
//! Decides the file's form (32 secret bytes as base64 between two marker lines) and that it must
//! be nobody else's to read. Who may do what with a key is left to the applications.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use protocol::id::HostId;
use protocol::signed::{PublicKey, SecretKey};

use crate::durable;

const BEGIN: &str = "-----BEGIN OSTLER PRIVATE KEY-----";
const END: &str = "-----END OSTLER PRIVATE KEY-----";

/// A process's Ed25519 key: what its peers know it by, wherever it runs and whatever its address.
#[derive(Debug, Clone)]
pub struct Identity {
    secret: SecretKey,
    public: PublicKey,
}

/// Why there is no identity. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is there and can't be read.
    #[error("read key file {path}", path = .path.display())]
    Unreadable {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else than a key.
    #[error("key file {path} is not an ostler key: {why}; move it away to get a new identity", path = .path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Others than the owner may read the file, so the key may be known to them.
    #[error("key file {path} has mode {mode:04o} and may have been read by others; chmod 600 it, or move it away to get a new identity", path = .path.display())]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no file and none could be made.
    #[error("create key file {path}", path = .path.display())]
    Unwritable {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Identity {
    /// The identity kept in `path`; made, synced to disk and kept from then on when there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Self::create(path)
            }
            loaded => loaded,
        }
    }

    /// The identity kept in `path`, which must be there.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let unreadable = |source| IdentityError::Unreadable { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        seed_of(&text)
            .map(Self::from_seed)
            .map_err(|why| IdentityError::Malformed { path: path.to_owned(), why })
    }

    /// An identity that ends with the process.
    ///
    /// # Panics
    /// When the kernel has no random numbers.
    #[must_use]
    pub fn ephemeral() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the kernel always has random numbers");
        Self::from_seed(seed)
    }

    /// The identity of these 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let secret = SecretKey::from_seed(seed);
        let public = secret.public();
        Self { secret, public }
    }

    /// The host id that goes with this key.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        HostId::of(&self.public)
    }

    /// The half to sign with.
    #[must_use]
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// The half that others know.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    fn create(path: &Path) -> Result<Self, IdentityError> {
        let identity = Self::ephemeral();
        let text = format!("{BEGIN}\n{}\n{END}\n", BASE64.encode(&identity.secret.seed()));
        match durable::create(path, text.as_bytes()) {
            Ok(()) => Ok(identity),
            // Another process was faster; both must be known by the one key on disk.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(IdentityError::Unwritable { path: path.to_owned(), source }),
        }
    }
}

fn seed_of(text: &str) -> Result<[u8; 32], String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let [BEGIN, body, END] = lines[..] else {
        return Err(format!("expected {BEGIN:?}, one line of base64 and {END:?}"));
    };
    let bytes = BASE64.decode(body.as_bytes()).map_err(|e| format!("bad base64: {e}"))?;
    bytes.try_into().map_err(|b: Vec<u8>| format!("the key has {} bytes, not 32", b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn identity_outlives_the_process_in_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = Identity::load_or_create(&path).unwrap();
        let loaded = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.host_id(), loaded.host_id());
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "leftovers");
    }

    #[test]
    fn processes_started_together_agree_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let ids: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let make = || Identity::load_or_create(&path).unwrap().host_id();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Identity::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::TooOpen { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for damaged in ["", "hello", &format!("{BEGIN}\nAAAA\n{END}\n")] {
            durable::replace(&path, damaged.as_bytes()).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), *damaged);
        }
    }
}
