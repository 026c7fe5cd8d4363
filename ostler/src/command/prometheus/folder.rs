//! A folder whose files belong to whom the folder belongs: it is written by root and read by another's daemon.
//!
//! Decides that each file is replaced whole, and that nobody but that owner and group reads it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::exit::{Code, Failure};

/// The owner may write, the group read.
const MODE: u32 = 0o640;

pub(super) struct Folder {
    path: PathBuf,
    owner: u32,
    group: u32,
}

impl Folder {
    /// The folder; made when there is none.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(Code::Failed, format!("use {}", path.display())).because(error)
        };
        fs::create_dir_all(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let about = fs::metadata(&path).map_err(failed)?;
        Ok(Self { owner: about.uid(), group: about.gid(), path })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is in a file, if there is one.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    /// Replaces a file.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        self.replace(name, text).map_err(|error| self.failed("write", name, error))
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.path(&format!(".{name}.{}", std::process::id()));
        // What a killed one of our number has left would keep its own mode.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
        fchown(&file, Some(self.owner), Some(self.group))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.path(name))
    }

    fn failed(&self, doing: &str, name: &str, error: io::Error) -> Failure {
        Failure::new(Code::Failed, format!("{doing} {}", self.path(name).display())).because(error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_not_the_worlds() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(&folder.path().join("made/here")).unwrap();
        assert_eq!(folder.read("key.pem").unwrap(), None);
        for text in ["one", "two"] {
            folder.write("key.pem", text).unwrap();
            assert_eq!(folder.read("key.pem").unwrap(), Some(text.as_bytes().to_vec()));
        }
        let about = fs::metadata(folder.path("key.pem")).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777 & !MODE, 0);
        assert_eq!((about.uid(), about.gid()), (folder.owner, folder.group));
        assert_eq!(fs::read_dir(folder.path).unwrap().count(), 1, "leftovers");
    }
}
