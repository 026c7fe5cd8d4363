//! The Debian package of the program that the other tests' build has put in place.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{ostler, repository, say_skipped};

/// The package, unpacked once to look at; its control files are in `DEBIAN`.
#[derive(Debug)]
pub struct Package {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Package {
    /// Makes it. `None`: this machine makes no packages, which is written down.
    #[must_use]
    pub fn make(test: &str) -> Option<Self> {
        for tool in ["dpkg-deb", "dpkg-shlibdeps"] {
            if Command::new(tool).arg("--version").output().is_err() {
                say_skipped(test, &format!("needs {tool}: scripts/deps installs it"));
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut script = Command::new(repository().join("scripts/package"));
        script.arg("--binary").arg(ostler()).arg("--to").arg(folder.path());
        let file = PathBuf::from(must(&mut script).trim());
        let package = Self { folder, file };
        must(Command::new("dpkg-deb").arg("-R").args([&package.file, &package.root()]));
        Some(package)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where it was unpacked.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Unpacks its files over what is in a folder, as an upgrade does: what runs keeps what it had.
    pub fn unpack_to(&self, folder: &Path) {
        must(Command::new("dpkg-deb").arg("-x").args([&self.file, folder]));
    }

    /// What a file of it says.
    ///
    /// # Panics
    /// When there is no such text.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        let path = self.root().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// A field of its control file.
    #[must_use]
    pub fn field(&self, name: &str) -> String {
        must(Command::new("dpkg-deb").arg("-f").arg(&self.file).arg(name)).trim().to_owned()
    }
}

/// What a unit says for a key, line by line.
pub fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

/// Runs a command that must succeed; what it prints.
///
/// # Panics
/// When it fails.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
