//! QEMU driven from inside this process, below one folder.
//!
//! libvirt allows one process per root and one root per process, for the life of the process. Both
//! are checked here beforehand, by a lock of our own, because libvirt's answers have no code.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::probes;
use crate::error::{ErrorKind, HypervisorError};

/// Longest root. Below it libvirt makes `/lib/qemu/domain-NUMBER-NAME/monitor.sock` with 20
/// characters of the name, and a socket's path has at most 107 bytes.
const ROOT_BYTES_MAX: usize = 45;

/// Without it libvirt would run QEMU as a user who may not open `/dev/kvm`, and probe QEMU anew at
/// every step; there is no `virtlogd` to write consoles; nor are there namespaces in a container.
const QEMU_CONF: &str = r#"user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
"#;

/// The root this process drives, and the lock that says so to others.
static ROOT: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

/// The folder of `qemu:///embed?root=DIR`.
pub(super) fn root(uri: &str) -> Option<PathBuf> {
    let query = uri.strip_prefix("qemu:///embed?")?;
    query.split('&').find_map(|pair| pair.strip_prefix("root=")).map(PathBuf::from)
}

/// Makes the folder ready to be opened by this process.
pub(super) fn prepare(root: &Path) -> Result<(), HypervisorError> {
    let error = |kind, message: String| {
        let what = format!("prepare embedded hypervisor in {}", root.display());
        Err(HypervisorError::new(what, kind, message))
    };
    if !root.is_absolute() || root.as_os_str().len() > ROOT_BYTES_MAX {
        let message = format!("the root must be absolute, with at most {ROOT_BYTES_MAX} bytes");
        return error(ErrorKind::Refused, message);
    }
    let mut current = ROOT.lock().unwrap_or_else(PoisonError::into_inner);
    match &*current {
        Some((ours, _)) if ours == root => return Ok(()),
        Some((ours, _)) => {
            let message = format!("this process drives {} already", ours.display());
            return error(ErrorKind::InUse, message);
        }
        None => {}
    }
    match write_and_lock(root) {
        Ok(Some(lock)) => {
            probes::end_left_over(root);
            *current = Some((root.to_owned(), lock));
        }
        Ok(None) => return error(ErrorKind::InUse, "another process drives it".to_owned()),
        Err(cause) => return error(ErrorKind::Failed, cause.to_string()),
    }
    Ok(())
}

/// `None` when another process has the lock.
fn write_and_lock(root: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(root.join("etc"))?;
    let path = root.join("ostler.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let conf = root.join("etc/qemu.conf");
    if !conf.exists() {
        let is_root = rustix::process::geteuid().is_root();
        let lines = QEMU_CONF.lines().filter(|line| is_root || !line.contains("root"));
        fs::write(conf, lines.fold(String::new(), |text, line| text + line + "\n"))?;
    }
    Ok(Some(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_read_from_the_uri() {
        assert_eq!(root("qemu:///embed?root=/srv/vm"), Some("/srv/vm".into()));
        assert_eq!(root("qemu:///embed"), None);
        assert_eq!(root("qemu:///system"), None);
    }

    #[test]
    fn a_root_too_long_for_qemus_sockets_is_refused() {
        let error = prepare(Path::new(&format!("/{}", "a".repeat(60)))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
    }
}
