//! What the host has: measured, the host's own reserve taken off, overcommit applied.

use std::sync::Arc;
use std::time::Duration;

use hypervisor::{Hypervisor, NodeFacts, call};
use protocol::hugepages::Pages;
use protocol::resources::Resources;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};
use tokio::sync::{Notify, mpsc};

use crate::core::Input;
use crate::hugepages::Counter;
use crate::shell::Post;
use crate::storage::Storage;

/// How often free disk space is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(30);
/// How long libvirt may take to count its CPUs.
const NODE_DEADLINE: Duration = Duration::from_secs(30);
/// Differences below this are not news.
const DISK_GRAIN_BYTES: u64 = 256 << 20;

/// How much of the machine is for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Virtual CPUs promised for each real one.
    pub vcpu_overcommit: u32,
    /// Memory kept for the host itself, in bytes.
    pub memory_reserve_bytes: u64,
    /// Memory for guests in all, in bytes, instead of what the machine has. That in huge pages is no part of it.
    pub memory_bytes: Option<u64>,
    /// Huge pages for guests in all, instead of those that the machine has.
    pub hugepages: Option<Pages>,
    /// Disk space kept free, in bytes.
    pub disk_reserve_bytes: u64,
}

impl Default for Share {
    /// Four virtual CPUs a core, 1 GiB of memory and 2 GiB of disk for the host.
    fn default() -> Self {
        Self {
            vcpu_overcommit: 4,
            memory_reserve_bytes: 1 << 30,
            memory_bytes: None,
            hugepages: None,
            disk_reserve_bytes: 2 << 30,
        }
    }
}

impl Share {
    /// The capacity for guests of a machine with this much memory in huge pages, this much free disk and this
    /// much of it in our volumes already.
    #[must_use]
    pub fn of(
        &self,
        node: NodeFacts,
        hugepages_bytes: u64,
        disk_free_bytes: u64,
        volumes_bytes: u64,
    ) -> Resources {
        // The kernel counts what it has set aside with all other memory, and gives it to nobody else.
        let memory = node.memory_bytes.saturating_sub(hugepages_bytes);
        let memory = memory.saturating_sub(self.memory_reserve_bytes);
        let disk = (disk_free_bytes + volumes_bytes).saturating_sub(self.disk_reserve_bytes);
        Resources {
            vcpus: node.cpus.saturating_mul(self.vcpu_overcommit),
            memory_bytes: self.memory_bytes.map_or(memory, |limit| limit.min(memory)),
            disk_bytes: disk / DISK_GRAIN_BYTES * DISK_GRAIN_BYTES,
        }
    }
}

/// What the machine has. libvirt is asked for the CPUs; its figure of memory is that of the NUMA
/// cells it sees, which in virtual machines can be a fraction of what there is, so the kernel is
/// asked for that, unless the hypervisor only pretends.
pub(crate) async fn node(hv: &Arc<dyn Hypervisor>) -> NodeFacts {
    let nothing = NodeFacts { cpus: 0, memory_bytes: 0 };
    let node = call(hv, "measure", NODE_DEADLINE, |hv| hv.node()).await.unwrap_or_else(|error| {
        tracing::warn!("{error}; nothing is promised");
        nothing
    });
    if hv.facts().driver != "QEMU" || node == nothing {
        return node;
    }
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    match System::new_with_specifics(memory) {
        Ok(system) => NodeFacts { memory_bytes: system.total_memory(), ..node },
        Err(_) => node,
    }
}

/// Measures now.
pub(crate) fn measure(
    share: Share,
    node: NodeFacts,
    hugepages: &Counter,
    storage: &Storage,
) -> Resources {
    let aside = hugepages.bytes_aside();
    match storage.disk_bytes() {
        Ok((free, used)) => share.of(node, aside, free, used),
        Err(error) => {
            tracing::warn!("{error}; no disk space is promised");
            share.of(node, aside, 0, 0)
        }
    }
}

/// Measures from time to time, and when told that files have come or gone.
pub(crate) async fn keep_measuring(
    share: Share,
    node: NodeFacts,
    hugepages: Counter,
    storage: Storage,
    posts: mpsc::Sender<Post>,
    now: Arc<Notify>,
) {
    let mut interval = tokio::time::interval(MEASURE_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = now.notified() => {}
        }
        // What is set aside comes and goes between the two: first it is nobody's.
        let capacity = Input::Capacity(measure(share, node, &hugepages, &storage));
        for input in [capacity, Input::Hugepages(hugepages.count())] {
            if posts.send(Post::Input(input)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_reserve_is_never_promised() {
        let node = NodeFacts { cpus: 2, memory_bytes: 8 << 30 };
        let capacity = Share::default().of(node, 0, 10 << 30, 1 << 30);
        let expected = Resources { vcpus: 8, memory_bytes: 7 << 30, disk_bytes: 9 << 30 };
        assert_eq!(capacity, expected);
        let tiny = NodeFacts { cpus: 1, memory_bytes: 1 << 20 };
        assert_eq!(Share::default().of(tiny, 0, 0, 0).memory_bytes, 0);
    }

    #[test]
    fn what_is_set_aside_as_huge_pages_is_no_memory_for_others() {
        let node = NodeFacts { cpus: 2, memory_bytes: 8 << 30 };
        let memory = |share: Share, aside| share.of(node, aside, 0, 0).memory_bytes;
        assert_eq!(memory(Share::default(), 3 << 30), 4 << 30);
        assert_eq!(memory(Share::default(), 8 << 30), 0);
        let limited = Share { memory_bytes: Some(5 << 30), ..Share::default() };
        assert_eq!(memory(limited, 1 << 30), 5 << 30, "it is for guests beside the huge pages");
        assert_eq!(memory(limited, 3 << 30), 4 << 30, "and no more than there is");
    }
}
