//! What guests use: read from the hypervisor when somebody asks, and never more often than it changes
//! enough to matter.

use std::sync::Arc;
use std::time::Duration;

use hypervisor::{Hypervisor, HypervisorError, call};
use protocol::usage::{GuestUsage, MachineUsage, Usage};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};
use tokio::sync::Mutex;
use transport::Clock;

use crate::feed::Feed;

/// Whoever asks sooner gets what was read last: a hundred dashboards cost libvirt as much as one.
const READ_INTERVAL_MS: u64 = 1_000;
/// How long libvirt may take. It is asked not to wait for busy guests.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Reads what guests use.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Inner>);

struct Inner {
    hv: Arc<dyn Hypervisor>,
    feed: Arc<Feed>,
    clock: Clock,
    last: Mutex<Option<Read>>,
}

#[derive(Clone)]
struct Read {
    at_ms: u64,
    usage: Result<Arc<Usage>, HypervisorError>,
}

impl Meter {
    pub(crate) fn new(hv: Arc<dyn Hypervisor>, feed: Arc<Feed>, clock: Clock) -> Self {
        Self(Arc::new(Inner { hv, feed, clock, last: Mutex::default() }))
    }

    /// What is used now, or was a second ago. What the hypervisor answers is everybody's who asks
    /// meanwhile, also that it does not.
    pub(crate) async fn read(&self) -> Result<Arc<Usage>, HypervisorError> {
        let mut last = self.0.last.lock().await;
        let now_ms = self.0.clock.now().mono_ms;
        if let Some(read) = last.as_ref().filter(|read| now_ms < read.at_ms + READ_INTERVAL_MS) {
            return read.usage.clone();
        }
        let usage = self.0.read().await.map(Arc::new);
        *last = Some(Read { at_ms: self.0.clock.now().mono_ms, usage: usage.clone() });
        usage
    }
}

impl Inner {
    async fn read(&self) -> Result<Usage, HypervisorError> {
        let read = |hv: &dyn Hypervisor| Ok((hv.usage()?, hv.node().ok()));
        let (counted, node) = call(&self.hv, "count usage", READ_DEADLINE, read).await?;
        let at_ms = self.clock.now().mono_ms;
        let mut jobs = self.feed.jobs_by_domain();
        let mut guests: Vec<GuestUsage> = counted
            .into_iter()
            .map(|one| GuestUsage { job: jobs.remove(&one.uuid), ..one.usage })
            .collect();
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        let cpus = node.map(|node| node.cpus).filter(|cpus| *cpus > 0);
        Ok(Usage { at_ms, machine: machine(cpus), guests })
    }
}

fn machine(cpus: Option<u32>) -> MachineUsage {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let available =
        System::new_with_specifics(memory).map_or(0, |system| system.available_memory());
    let load_1m = System::load_average().map_or(0.0, |load| load.one);
    MachineUsage { cpus, memory_available_bytes: available, load_1m }
}
