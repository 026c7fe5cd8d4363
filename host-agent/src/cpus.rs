//! Dividing the machine's CPUs: those that VMs have for themselves, as the operator says, and the rest.
//!
//! Which of them a job gets is the core's to choose; here is read what there is. A hypervisor that only pretends has as
//! many CPUs as it says, and no nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use protocol::cpus::CpuSet;
use protocol::host::HypervisorFacts;

use crate::core::CpuLayout;

/// Where Linux tells of CPUs and of the memory beside them.
const SYSTEM: &str = "/sys/devices/system";

/// Why the CPUs can't be divided like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpusError {
    /// Some are not there.
    #[error("this machine has no CPU {missing} that is online: choose of {online}")]
    Missing {
        /// Those that are not there.
        missing: CpuSet,
        /// Those that are.
        online: CpuSet,
    },
    /// None would be left.
    #[error(
        "{online} are all CPUs of this machine: leave at least one to the host and to other VMs"
    )]
    All {
        /// All that there are.
        online: CpuSet,
    },
}

/// The machine's CPUs with these given to VMs for themselves.
pub(crate) fn divide(
    facts: &HypervisorFacts,
    count: u32,
    dedicated: CpuSet,
) -> Result<CpuLayout, CpusError> {
    match facts.driver.as_str() {
        "QEMU" => layout(online(Path::new(SYSTEM), count), nodes(Path::new(SYSTEM)), dedicated),
        _ => layout((0..count).collect(), BTreeMap::new(), dedicated),
    }
}

fn layout(
    online: CpuSet,
    nodes: BTreeMap<u32, CpuSet>,
    dedicated: CpuSet,
) -> Result<CpuLayout, CpusError> {
    let missing = dedicated.minus(&online);
    if !missing.is_empty() {
        return Err(CpusError::Missing { missing, online });
    }
    let shared = online.minus(&dedicated);
    if shared.is_empty() && !dedicated.is_empty() {
        return Err(CpusError::All { online });
    }
    // Where there is but one node there is nothing to choose.
    let nodes = if nodes.len() > 1 { nodes } else { BTreeMap::new() };
    Ok(CpuLayout { dedicated, shared, nodes })
}

/// The CPUs that are online; a kernel that does not say has so many.
fn online(system: &Path, count: u32) -> CpuSet {
    let told = fs::read_to_string(system.join("cpu/online")).ok();
    told.and_then(|text| text.parse().ok()).unwrap_or_else(|| (0..count).collect())
}

/// The CPUs of each NUMA node that has some.
fn nodes(system: &Path) -> BTreeMap<u32, CpuSet> {
    let entries = fs::read_dir(system.join("node")).into_iter().flatten().flatten();
    let of_node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let cpus = fs::read_to_string(entry.path().join("cpulist")).ok()?.parse().ok()?;
        Some((number, cpus))
    };
    entries.filter_map(of_node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn cpus_and_nodes_are_those_that_the_kernel_tells() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu/online", "0-3,8-11\n"),
            ("node/node0/cpulist", "0-3\n"),
            ("node/node1/cpulist", "8-11\n"),
            // Memory without CPUs.
            ("node/node2/cpulist", "\n"),
            ("node/possible", "0-2\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(online(dir.path(), 2), set("0-3,8-11"));
        assert_eq!(nodes(dir.path()), BTreeMap::from([(0, set("0-3")), (1, set("8-11"))]));
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(online(nothing.path(), 2), set("0-1"));
        assert_eq!(nodes(nothing.path()), BTreeMap::new());
    }

    #[test]
    fn only_cpus_that_are_there_are_given_away_and_never_all_of_them() {
        let divided = |text: &str| layout(set("0-3"), BTreeMap::from([(0, set("0-3"))]), set(text));
        let two = divided("2-3").unwrap();
        assert_eq!((two.shared, two.nodes), (set("0-1"), BTreeMap::new()));
        let said = |text: &str| divided(text).unwrap_err().to_string();
        assert_eq!(said("3-5"), "this machine has no CPU 4-5 that is online: choose of 0-3");
        assert_eq!(
            said("0-3"),
            "0-3 are all CPUs of this machine: leave at least one to the host and to other VMs"
        );
        let none = layout(set("0-3"), BTreeMap::new(), CpuSet::NONE).unwrap();
        assert_eq!(none.shared, set("0-3"));
    }
}
