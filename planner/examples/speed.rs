//! Prints how long one plan takes on views of growing size. Run with `--release`.
use std::time::Instant;

use planner::{Expectation, PlanInput, plan};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, HostId, JobId};
use protocol::job::JobSpec;
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::view::View;
use protocol::vm::VmSpec;

fn main() {
    let key = SecretKey::from_seed([1; 32]).public();
    for count in [10_u32, 100, 1_000, 10_000] {
        let mut view = View::default();
        for n in 0..count {
            let hypervisor = HypervisorFacts {
                driver: "QEMU".into(),
                accel: Accel::Kvm,
                ..HypervisorFacts::default()
            };
            let capacity = Resources { vcpus: 64, memory_bytes: 64 << 30, disk_bytes: 1 << 40 };
            let allocation = Resources { memory_bytes: u64::from(n % 60) << 30, ..Resources::ZERO };
            let host = Host {
                id: HostId::new(format!("h{n}")).expect("a name"),
                hypervisor,
                capacity,
                allocation,
                ..Host::of_key(key)
            };
            let cursor = Cursor { epoch: Epoch(1), seq: 1 };
            view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
        }
        for (what, gib) in [("fits", 2), ("fits nowhere", 99)] {
            let vm = VmSpec {
                vcpus: 1,
                memory_bytes: gib << 30,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            };
            let job = JobId::new("web").expect("a name");
            let wanted = Expectation::Runs { job, spec: JobSpec::vm(vm), on: None };
            let input =
                PlanInput { view: view.clone(), expectations: vec![wanted], ..Default::default() };
            let mut times: Vec<_> = (0..11)
                .map(|_| {
                    let started = Instant::now();
                    let outcome = plan(&input);
                    assert_eq!(outcome.plan.steps.is_empty(), gib == 99);
                    started.elapsed()
                })
                .collect();
            times.sort();
            println!("{count:>6} hosts, {what:<12}: median {:?}", times[5]);
        }
    }
}
