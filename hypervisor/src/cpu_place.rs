//! On which of its host's CPUs a guest runs, thread by thread. Pure; which they are is the agent's to choose.

use protocol::cpus::CpuSet;
use protocol::vm::VmSpec;

/// The CPUs that a guest is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuPlace {
    /// CPUs of the host that its virtual CPUs, from the first on, have to themselves.
    pub own: Vec<u32>,
    /// Where everything else of it runs: virtual CPUs that have none to themselves and are not pinned by the VM's
    /// spec, and QEMU. None: anywhere.
    pub shared: CpuSet,
    /// The NUMA node that its memory is to come from, as far as there is some.
    pub node: Option<u32>,
}

/// Where each thread of a guest runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// For each virtual CPU, those that may come while it runs included.
    pub vcpus: Vec<CpuSet>,
    /// For all other threads.
    pub others: CpuSet,
}

impl CpuPlace {
    /// True when the host says nothing of where it runs.
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    /// Where each thread of this VM runs; `None`: where the kernel puts it, and the spec.
    #[must_use]
    pub fn pins(&self, vm: &VmSpec) -> Option<Pins> {
        let vcpu = |vcpu: u32| {
            let own = usize::try_from(vcpu).ok().and_then(|at| self.own.get(at));
            let named = || vm.hardware.pins.iter().find(|pin| pin.vcpu == vcpu);
            match own {
                Some(cpu) => CpuSet::from_iter([*cpu]),
                None => named()
                    .map_or_else(|| self.shared.clone(), |pin| pin.cpus.iter().copied().collect()),
            }
        };
        (!self.is_anywhere()).then(|| Pins {
            vcpus: (0..vm.vcpus_possible()).map(vcpu).collect(),
            others: self.shared.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use protocol::vm::{Hardware, Pin};

    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn each_vcpu_is_on_its_own_and_everything_else_where_all_are() {
        let place = CpuPlace { own: vec![3, 2], shared: set("0-1"), node: None };
        let vm = VmSpec { vcpus: 2, max_vcpus: Some(3), ..VmSpec::default() };
        let pins = place.pins(&vm).unwrap();
        assert_eq!(pins.vcpus, [set("3"), set("2"), set("0-1")], "the last one is yet to come");
        assert_eq!(pins.others, set("0-1"));
        assert_eq!(CpuPlace::default().pins(&vm), None);
    }

    #[test]
    fn who_has_none_for_itself_keeps_the_pins_that_it_names() {
        let pins = vec![Pin { vcpu: 1, cpus: vec![0] }];
        let hardware = Box::new(Hardware { pins, ..Hardware::default() });
        let vm = VmSpec { vcpus: 2, hardware, ..VmSpec::default() };
        let place = CpuPlace { shared: set("0-1"), ..CpuPlace::default() };
        assert_eq!(place.pins(&vm).unwrap().vcpus, [set("0-1"), set("0")]);
    }
}
