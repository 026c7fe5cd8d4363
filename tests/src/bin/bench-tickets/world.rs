//! A large cluster as an arbiter knows it: its hosts' keys, and what each has said that it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbiter::core::{Core, Input};
use arbiter::statement::{Debits, HoldItem, Statement};
use protocol::amounts::Amounts;
use protocol::id::{ClusterId, Epoch, HostId, JobId, OfferId, Revision, TenantId};
use protocol::resources::Resources;
use protocol::signed::{Digest, SecretKey, Signed};
use protocol::ticket::{Action, Offer};
use protocol::trust::{Slot, Trust};
use protocol::vm::OnLoss;

/// Offers of a host with a number up to this one have become its jobs.
pub(crate) const WATERMARK: u64 = 100;

pub(crate) struct Cluster {
    pub(crate) hosts: Vec<SecretKey>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) jobs: usize,
}

pub(crate) fn key(kind: u8, n: usize) -> SecretKey {
    let mut seed = [kind; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

pub(crate) fn arbiter_key(slot: usize) -> SecretKey {
    key(1, slot)
}

pub(crate) fn size() -> Resources {
    Resources { vcpus: 2, memory_bytes: 4 << 30, disk_bytes: 20 << 30 }
}

pub(crate) fn trust(arbiters: usize, k: u32, hosts: &[SecretKey]) -> Trust {
    let slot = |n: usize| Slot {
        slot: u32::try_from(n).expect("few"),
        key: arbiter_key(n).public(),
        url: String::new(),
    };
    // Far more than there is, and counted all the same.
    let limit = Resources { vcpus: 1 << 30, memory_bytes: 1 << 60, disk_bytes: 1 << 60 }.into();
    Trust {
        version: 1,
        operators: vec![key(9, 0).public()],
        arbiters: (0..arbiters).map(slot).collect(),
        k,
        roster: hosts.iter().map(SecretKey::public).collect(),
        quota: BTreeMap::from([(TenantId::default_tenant(), limit)]),
        ..Trust::of_nobody(ClusterId::new("bench").expect("a name"))
    }
}

pub(crate) fn id(num: u64) -> OfferId {
    OfferId { epoch: Epoch(1), num }
}

pub(crate) fn job(host: usize, n: usize) -> JobId {
    JobId::new(format!("vm-{host}-{n}")).expect("a name")
}

/// An offer for a job that is nowhere yet.
pub(crate) fn offer(host: &SecretKey, num: u64, job: JobId, slots: u32) -> Offer {
    Offer {
        host: HostId::of(&host.public()),
        id: id(num),
        job,
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        action: Action::Start,
        resources: size(),
        tenant: TenantId::default_tenant(),
        on_loss: OnLoss::Keep,
        plan: (0..slots).map(|slot| (slot, size())).collect(),
        trust_version: 1,
        agreed: None,
    }
}

/// What two of three thirds of a job are, as whole numbers.
pub(crate) fn debits() -> BTreeMap<u32, Amounts> {
    let of = |vcpus| Resources { vcpus, memory_bytes: 3 << 30, disk_bytes: 14 << 30 }.into();
    BTreeMap::from([(0, of(1)), (1, of(1)), (2, of(2))])
}

impl Cluster {
    pub(crate) fn new(hosts: usize, jobs: usize) -> Self {
        let hosts: Vec<SecretKey> = (0..hosts).map(|n| key(2, n)).collect();
        let trust = Arc::new(trust(3, 2, &hosts));
        Self { hosts, trust, jobs }
    }

    /// Arbiter 0, which has read every host.
    pub(crate) fn arbiter(&self, on_loss: OnLoss) -> Core {
        let mut core = Core::new(arbiter_key(0).public(), 0, false);
        let mut out = Vec::new();
        core.handle(0, Input::Trust(Arc::clone(&self.trust)), &mut out);
        for (n, host) in self.hosts.iter().enumerate() {
            let hold = |i: usize| HoldItem {
                id: id(i as u64 + 1),
                job: job(n, i),
                resources: size(),
                tenant: TenantId::default_tenant(),
                debits: Debits::Known(debits()),
                on_loss,
                delegated: None,
            };
            let holds = (0..self.jobs).map(hold).collect();
            let statement = Statement { watermark: id(WATERMARK), holds, ..Statement::default() };
            let host = HostId::of(&host.public());
            core.handle(1, Input::Statement { host, asked_ms: 1, statement }, &mut out);
            out.clear();
        }
        assert!(core.waiting_for(1).is_empty(), "every host was read");
        core
    }

    /// So many signed offers for new jobs, of all hosts in turn.
    pub(crate) fn offers(&self, count: usize) -> Vec<Signed<Offer>> {
        (0..count)
            .map(|i| {
                let host = &self.hosts[i % self.hosts.len()];
                let num = WATERMARK + 1 + (i / self.hosts.len()) as u64;
                let job = JobId::new(format!("new-{i}")).expect("a name");
                Signed::seal(&offer(host, num, job, 3), host)
            })
            .collect()
    }
}
