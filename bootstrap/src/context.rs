//! The operator's side of a cluster, kept in one folder: key, signed trust document, sources.
//!
//! ```text
//!   CONTEXT/operator.key   the key that may do everything; mode 0600
//!   CONTEXT/trust.json     the signed document in force
//!   CONTEXT/sources.json   where hosts are found: ["https://…", "10.0.0.1:7460"]; mode 0600, for
//!                          a discovery URL carries the join secret
//! ```
//!
//! Decides the names and that files are replaced whole. What the document says is
//! [`crate::charter`]'s.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::signed::Signed;
use protocol::trust::Trust;
use serde::de::DeserializeOwned;
use transport::Identity;
use transport::identity::IdentityError;

/// Why the folder can't be used. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is no usable operator key.
    #[error("use the operator's key in {folder}", folder = .folder.display())]
    Key {
        /// The folder.
        folder: PathBuf,
        /// What went wrong.
        source: IdentityError,
    },
    /// A file can't be read or written.
    #[error("{doing} {path}", path = .path.display())]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} is damaged: {why}; move it away and run `ostler bootstrap` again", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A context folder. Reading it needs no network.
#[derive(Debug, Clone)]
pub struct Context {
    folder: PathBuf,
}

impl Context {
    /// The context in this folder, which need not exist yet.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The operator's identity; made at the first use.
    pub fn operator(&self) -> Result<Identity, ContextError> {
        let key = |source| ContextError::Key { folder: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| self.failed("write", &self.folder, source))?;
        Identity::load_or_create(&self.folder.join("operator.key")).map_err(key)
    }

    /// The operator's identity, if there is one.
    pub fn operator_if_any(&self) -> Result<Option<Identity>, ContextError> {
        if self.folder.join("operator.key").exists() { self.operator().map(Some) } else { Ok(None) }
    }

    /// The signed trust document, if the cluster has been bootstrapped from here.
    pub fn trust(&self) -> Result<Option<(Signed<Trust>, Trust)>, ContextError> {
        let Some(signed) = self.read::<Signed<Trust>>("trust.json")? else { return Ok(None) };
        let damaged =
            |why: String| ContextError::Damaged { path: self.folder.join("trust.json"), why };
        let trust = signed.open().map_err(|error| damaged(error.to_string()))?;
        Ok(Some((signed, trust)))
    }

    /// Keeps a signed trust document.
    pub fn save_trust(&self, signed: &Signed<Trust>) -> Result<(), ContextError> {
        self.write("trust.json", signed)
    }

    /// Where hosts are found, as the words of the command line.
    pub fn sources(&self) -> Result<Vec<String>, ContextError> {
        Ok(self.read("sources.json")?.unwrap_or_default())
    }

    /// Keeps where hosts are found.
    pub fn save_sources(&self, sources: &[String]) -> Result<(), ContextError> {
        self.write("sources.json", sources)
    }

    fn failed(&self, doing: &'static str, path: &Path, source: io::Error) -> ContextError {
        ContextError::File { doing, path: path.to_owned(), source }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ContextError> {
        let path = self.folder.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read", &path, source)),
        };
        let damaged = |e: serde_json::Error| ContextError::Damaged { path, why: e.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Written beside, synced, renamed: a reader or a power cut sees the old or the new file.
    fn write<T: serde::Serialize + ?Sized>(
        &self,
        name: &str,
        value: &T,
    ) -> Result<(), ContextError> {
        let path = self.folder.join(name);
        let beside = self.folder.join(format!(".{name}.{}", std::process::id()));
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            let mut text = serde_json::to_vec(value)?;
            text.push(b'\n');
            // The sources may hold a join secret.
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|source| self.failed("write", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_keeps_its_key_trust_and_sources() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::at(folder.path().join("new/one"));
        assert!(context.trust().unwrap().is_none());
        assert!(context.operator_if_any().unwrap().is_none());
        let operator = context.operator().unwrap();
        assert_eq!(context.operator().unwrap().public(), operator.public());
        let trust = crate::charter::tests::trust_of_arbiter("https://a:1");
        let signed = Signed::seal(&trust, operator.secret());
        context.save_trust(&signed).unwrap();
        assert_eq!(context.trust().unwrap().unwrap(), (signed, trust));
        context.save_sources(&["10.0.0.1:7460".into()]).unwrap();
        assert_eq!(context.sources().unwrap(), ["10.0.0.1:7460"]);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("trust.json"), "{").unwrap();
        let error = Context::at(folder.path()).trust().unwrap_err();
        assert!(error.to_string().contains("trust.json"), "{error}");
    }
}
