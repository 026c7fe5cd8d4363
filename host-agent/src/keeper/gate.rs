//! A guest's gate: a cgroup of its own, which its QEMU is started into and which can be frozen and killed
//! as a whole (rule R11: decided at the effect, not at the decision).
//!
//! libvirt puts a domain below the partition that its definition names, in every hierarchy that it uses,
//! and wants that folder to be there. The freezer and the kill file are cgroup2's; a machine without a
//! writable cgroup2 hierarchy has no gates. A start that is delayed past its deadline ends up frozen in
//! its gate, and is killed there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Gates are below this folder of each hierarchy, as libvirt names partitions.
const FOLDER_SUFFIX: &str = ".partition";

/// Where cgroups are mounted.
const MOUNTS: &str = "/proc/self/mounts";

/// The gates of one host.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    /// The partition that all gates are in, such as `ostler`.
    name: String,
    /// The cgroup2 hierarchy, whose freezer and kill file are used.
    unified: PathBuf,
    /// Every other hierarchy that libvirt may want the folder in.
    others: Vec<PathBuf>,
}

impl Gates {
    /// The gates below `/NAME`, or why there can be none.
    pub(crate) fn open(name: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string(MOUNTS).map_err(|e| format!("read {MOUNTS}: {e}"))?;
        Self::of_mounts(name, &mounts)
    }

    /// Gates that are plain folders.
    #[cfg(test)]
    pub(super) fn of_folder(unified: &Path) -> Self {
        Self { name: "ostler".to_owned(), unified: unified.to_owned(), others: Vec::new() }
    }

    fn of_mounts(name: &str, mounts: &str) -> Result<Self, String> {
        let mut others: Vec<PathBuf> = Vec::new();
        let mut unified: Option<PathBuf> = None;
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(at), Some(kind)) = (words.next(), words.next()) else { continue };
            let at = PathBuf::from(at);
            match kind {
                // Mounts may be stacked; the last one is what is seen.
                "cgroup2" => unified = Some(at),
                "cgroup" if !others.contains(&at) => others.push(at),
                _ => {}
            }
        }
        let unified = unified.ok_or("no cgroup2 hierarchy is mounted")?;
        others.retain(|at| is_writable(at));
        let gates = Self { name: name.to_owned(), unified, others };
        // Making a folder is the only question that a read-only mount answers truly.
        let folder = gates.folder(&gates.unified);
        fs::create_dir_all(&folder).map_err(|e| format!("make {}: {e}", folder.display()))?;
        let can_kill = folder.join("cgroup.kill").exists();
        // Gone again unless there are gates in it.
        let _ = fs::remove_dir(&folder);
        match can_kill {
            true => Ok(gates),
            false => Err(format!("{} has no cgroup.kill (Linux 5.14 has)", folder.display())),
        }
    }

    /// What a domain's definition names as its partition.
    pub(crate) fn partition(name: &str, uuid: Uuid) -> String {
        format!("/{name}/{uuid}")
    }

    /// Makes the gate if there is none, and lets what is behind it run.
    pub(crate) fn free(&self, uuid: Uuid) -> io::Result<()> {
        // An agent that starts meanwhile may remove the empty folder above it once.
        self.make_all(uuid).or_else(|_| self.make_all(uuid))?;
        fs::write(self.file(uuid, "cgroup.freeze"), "0")
    }

    fn make_all(&self, uuid: Uuid) -> io::Result<()> {
        let mut hierarchies = self.others.iter().chain([&self.unified]);
        hierarchies.try_for_each(|hierarchy| make(hierarchy, &self.gate(hierarchy, uuid)))
    }

    /// Freezes and kills what is behind the gate. Done at once; whether it is over is
    /// [`Gates::is_empty`]'s.
    pub(crate) fn seal(&self, uuid: Uuid) -> io::Result<()> {
        match fs::write(self.file(uuid, "cgroup.freeze"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            frozen => frozen?,
        }
        fs::write(self.file(uuid, "cgroup.kill"), "1")
    }

    /// Whether no process is behind the gate.
    pub(crate) fn is_empty(&self, uuid: Uuid) -> io::Result<bool> {
        match fs::read_to_string(self.file(uuid, "cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            events => Ok(events?.lines().any(|line| line == "populated 0")),
        }
    }

    /// Removes an empty gate. One that is not empty stays.
    pub(crate) fn remove(&self, uuid: Uuid) {
        for hierarchy in self.others.iter().chain([&self.unified]) {
            remove_tree(&self.gate(hierarchy, uuid));
            // Unless there are others in it.
            let _ = fs::remove_dir(self.folder(hierarchy));
        }
    }

    fn folder(&self, hierarchy: &Path) -> PathBuf {
        hierarchy.join(format!("{}{FOLDER_SUFFIX}", self.name))
    }

    fn gate(&self, hierarchy: &Path, uuid: Uuid) -> PathBuf {
        self.folder(hierarchy).join(format!("{uuid}{FOLDER_SUFFIX}"))
    }

    fn file(&self, uuid: Uuid, name: &str) -> PathBuf {
        self.gate(&self.unified, uuid).join(name)
    }
}

fn is_writable(hierarchy: &Path) -> bool {
    rustix::fs::access(hierarchy, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Makes a folder and those above it. A cpuset of version 1 takes no process before it has CPUs and
/// memory nodes, and its children only when told.
fn make(hierarchy: &Path, gate: &Path) -> io::Result<()> {
    let Ok(below) = gate.strip_prefix(hierarchy) else { return Ok(()) };
    let mut parent = hierarchy.to_owned();
    for part in below {
        let folder = parent.join(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if folder.join("cgroup.clone_children").exists() && folder.join("cpuset.cpus").exists() {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let text = fs::read_to_string(parent.join(file))?;
                fs::write(folder.join(file), text.trim())?;
            }
            fs::write(folder.join("cgroup.clone_children"), "1")?;
        }
        parent = folder;
    }
    Ok(())
}

/// Removes a cgroup and those below it, as far as they are empty.
fn remove_tree(folder: &Path) {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!("remove {}: {error}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cgroup2_has_no_gates_and_says_why() {
        let old = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert_eq!(
            Gates::of_mounts("ostler-test", old).err().as_deref(),
            Some("no cgroup2 hierarchy is mounted")
        );
        let missing = "cgroup2 /nonexistent/cgroup cgroup2 rw 0 0\n";
        let why = Gates::of_mounts("ostler-test", missing).expect_err("it is not there");
        assert!(why.contains("/nonexistent/cgroup/ostler-test.partition"), "{why}");
    }

    #[test]
    fn a_gate_that_is_not_there_is_empty_and_sealed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unified = folder.path().to_owned();
        let gates = Gates { name: "o".into(), unified, others: vec![] };
        let uuid = Uuid::from_u128(1);
        gates.seal(uuid).expect("nothing to do");
        assert!(gates.is_empty(uuid).expect("nobody is there"));
    }
}
