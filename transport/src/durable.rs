//! Writing a whole small file so that a crash leaves the old one or the new one.
//!
//! Decides the order: write a neighbour, fsync it, rename it, fsync the directory. What is in the
//! file is left to the caller.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces `path` with these bytes, readable by the owner alone.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = write_neighbour(path, bytes)?;
    fs::rename(&new, path).inspect_err(|_| discard(&new))?;
    sync_folder(path)
}

/// Creates `path` with these bytes; fails with `AlreadyExists` when somebody else was first.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = write_neighbour(path, bytes)?;
    // A link, unlike a rename, never replaces: two processes started at once agree on one key.
    let linked = fs::hard_link(&new, path);
    discard(&new);
    linked?;
    sync_folder(path)
}

fn write_neighbour(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let salt = getrandom::u64().map_err(io::Error::other)?;
    let new = path.with_file_name(format!(".{name}.{salt:016x}.new"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| discard(&new))?;
    Ok(new)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Removes a leftover; when even that fails it is a hidden file that nobody reads.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}
