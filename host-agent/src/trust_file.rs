//! The trust document as a file, which the keeper and services go by: written until it is there.
//!
//! The ledger has it in any case. A disk that is full, or a folder that can't be written, is told to
//! whoever asks how this host is, and the file is written again at every tick.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::signed::Signed;
use protocol::trust::Trust;

/// See the module.
#[derive(Debug)]
pub(crate) struct TrustFile {
    path: PathBuf,
    unwritten: Mutex<Option<Unwritten>>,
}

/// A document that is not in the file yet.
#[derive(Debug)]
struct Unwritten {
    text: Vec<u8>,
    why: String,
}

impl TrustFile {
    /// The file at `path`, whatever is in it.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, unwritten: Mutex::default() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the document, now or later.
    pub(crate) fn write(&self, signed: &Signed<Trust>) {
        let text = serde_json::to_vec(signed).expect("our messages are always valid JSON");
        let unwritten = self.replace(text);
        if let Some(Unwritten { why, .. }) = &unwritten {
            tracing::error!("write {}: {why}; tried again", self.path.display());
        }
        *self.lock() = unwritten;
    }

    /// Tries once more what could not be written.
    pub(crate) fn retry(&self) {
        let mut unwritten = self.lock();
        if let Some(Unwritten { text, .. }) = unwritten.take() {
            *unwritten = self.replace(text);
        }
    }

    /// What somebody should look after.
    pub(crate) fn ailment(&self) -> Option<String> {
        let unwritten = self.lock();
        let Unwritten { why, .. } = unwritten.as_ref()?;
        Some(format!(
            "{} can't be written: {why}; the keeper and services of this host go by an older trust document \
             until it is, which is tried every second: see to the disk",
            self.path.display()
        ))
    }

    fn replace(&self, text: Vec<u8>) -> Option<Unwritten> {
        let error = transport::durable::replace(&self.path, &text).err()?;
        Some(Unwritten { text, why: error.to_string() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unwritten>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::id::ClusterId;
    use protocol::signed::SecretKey;

    use super::*;

    fn document(version: u64) -> Signed<Trust> {
        let trust = Trust { version, ..Trust::of_nobody(ClusterId::new("c1").unwrap()) };
        Signed::seal(&trust, &SecretKey::from_seed([1; 32]))
    }

    #[test]
    fn a_document_that_could_not_be_written_is_told_and_written_as_soon_as_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let away = folder.path().join("away");
        let file = TrustFile::at(away.join("trust.json"));
        file.write(&document(1));
        file.write(&document(2));
        let ailment = file.ailment().expect("there is no such folder");
        assert!(ailment.contains("trust.json can't be written: "), "{ailment}");
        file.retry();
        assert!(file.ailment().is_some(), "as long as it lasts");
        std::fs::create_dir(&away).unwrap();
        file.retry();
        assert_eq!(file.ailment(), None);
        assert_eq!(transport::trust_file::read(file.path()), Some(document(2)), "the last one");
    }
}
