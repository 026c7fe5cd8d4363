//! What of another size a running guest can be given at once, and what keeps the rest. Pure.
//!
//! Growing is QEMU's to do: CPUs up to the number it was started for, memory in pieces. Giving up is
//! the guest's: it is asked, and what it has given shows in [`crate::DomainInfo`] some time later.

use protocol::resources::Bytes;
use protocol::vm::SizeChange;

/// Memory is plugged in in whole pieces of this size: smaller ones are refused by Linux guests,
/// whose unit of plugged memory it is.
pub(crate) const PIECE_BYTES: u64 = 128 << 20;
/// Places for plugged pieces of memory of one guest. Each change of size that grows takes one until
/// the next start, and each costs the machine up to 1 GiB of addresses.
pub(crate) const SLOTS: u32 = 16;

/// What a running guest has, and how far that can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) vcpus: u32,
    /// CPUs that its machine was made for.
    pub(crate) vcpus_max: u32,
    /// Memory that its machine has, plugged pieces included.
    pub(crate) memory_bytes: u64,
    /// What of that it has not given back.
    pub(crate) memory_now_bytes: u64,
    /// Memory that its machine was made for.
    pub(crate) memory_max_bytes: Option<u64>,
    /// Whether more can be plugged in.
    pub(crate) can_plug: Result<(), &'static str>,
    /// Whether CPUs can be taken out of its machine.
    pub(crate) can_unplug: Result<(), &'static str>,
    /// Whether it can give memory back.
    pub(crate) can_balloon: Result<(), &'static str>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Set the number of CPUs.
    pub(crate) vcpus: Option<u32>,
    /// Have the guest keep this much memory.
    pub(crate) balloon_bytes: Option<u64>,
    /// Plug this much memory in.
    pub(crate) plug_bytes: Option<u64>,
    /// Why that is not all.
    pub(crate) left: Vec<String>,
}

impl Live {
    /// What is not to change is left as it is, also where it is less than the machine has.
    pub(crate) fn plan(&self, to: &SizeChange) -> Plan {
        let mut plan = Plan::default();
        if let Some(vcpus) = to.vcpus {
            self.plan_vcpus(vcpus, &mut plan);
        }
        match to.memory_bytes {
            Some(bytes) if bytes > self.memory_bytes => {
                self.plan_balloon(self.memory_bytes, &mut plan);
                self.plan_plug(bytes, &mut plan);
            }
            Some(bytes) => self.plan_balloon(bytes, &mut plan),
            None => {}
        }
        plan
    }

    fn plan_vcpus(&self, to: u32, plan: &mut Plan) {
        let reached = to.min(self.vcpus_max);
        match (reached < self.vcpus, self.can_unplug) {
            (true, Err(why)) => plan.left.push(format!("its vcpus stay {}: {why}", self.vcpus)),
            _ => plan.vcpus = Some(reached).filter(|vcpus| *vcpus != self.vcpus),
        }
        if to > self.vcpus_max {
            let max = self.vcpus_max;
            plan.left.push(format!("its machine was started for at most {max} vcpus"));
        }
    }

    fn plan_balloon(&self, to: u64, plan: &mut Plan) {
        if to == self.memory_now_bytes {
            return;
        }
        match self.can_balloon {
            Ok(()) => plan.balloon_bytes = Some(to),
            Err(why) => {
                let now = Bytes(self.memory_now_bytes);
                plan.left.push(format!("its memory stays {now}: {why}"));
            }
        }
    }

    fn plan_plug(&self, to: u64, plan: &mut Plan) {
        let max = self.memory_max_bytes.unwrap_or(self.memory_bytes);
        let reached = to.min(max);
        if to > max {
            let max = Bytes(max);
            plan.left.push(format!("its machine was started for at most {max} of memory"));
        }
        let more = reached.saturating_sub(self.memory_bytes);
        if more == 0 {
            return;
        }
        let can_plug = match self.can_plug {
            Ok(()) if !more.is_multiple_of(PIECE_BYTES) => {
                Err(format!("only whole pieces of {} are", Bytes(PIECE_BYTES)))
            }
            can_plug => can_plug.map_err(str::to_owned),
        };
        match can_plug {
            Ok(()) => plan.plug_bytes = Some(more),
            Err(why) => {
                let more = Bytes(more);
                plan.left.push(format!("{more} more of memory is not plugged in: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn live() -> Live {
        Live {
            vcpus: 2,
            vcpus_max: 4,
            memory_bytes: GIB,
            memory_now_bytes: GIB,
            memory_max_bytes: Some(2 * GIB),
            can_plug: Ok(()),
            can_unplug: Ok(()),
            can_balloon: Ok(()),
        }
    }

    fn plan(live: Live, vcpus: u32, memory_bytes: u64) -> Plan {
        let (vcpus, memory_bytes) = (Some(vcpus), Some(memory_bytes));
        live.plan(&SizeChange { vcpus, memory_bytes, ..SizeChange::default() })
    }

    #[test]
    fn what_is_so_already_needs_nothing() {
        assert_eq!(plan(live(), 2, GIB), Plan::default());
    }

    #[test]
    fn a_guest_grows_as_far_as_its_machine_goes() {
        let grown = plan(live(), 4, 2 * GIB);
        assert_eq!((grown.vcpus, grown.plug_bytes, grown.left), (Some(4), Some(GIB), vec![]));
        let beyond = plan(live(), 8, 3 * GIB);
        assert_eq!((beyond.vcpus, beyond.plug_bytes, beyond.left.len()), (Some(4), Some(GIB), 2));
        let none = Live { vcpus_max: 2, memory_max_bytes: None, ..live() };
        let stays = plan(none, 4, 2 * GIB);
        assert_eq!((stays.vcpus, stays.plug_bytes, stays.left.len()), (None, None, 2));
    }

    #[test]
    fn memory_is_plugged_in_whole_pieces_while_there_is_a_place() {
        let odd = plan(live(), 2, GIB + (64 << 20));
        assert_eq!((odd.plug_bytes, odd.left.len()), (None, 1));
        let full = plan(Live { can_plug: Err("no"), ..live() }, 2, 2 * GIB);
        assert_eq!((full.plug_bytes, full.left.len()), (None, 1));
    }

    #[test]
    fn what_is_not_to_change_stays_whatever_it_is() {
        let given = Live { memory_now_bytes: GIB / 2, ..live() };
        let vcpus = SizeChange { vcpus: Some(3), ..SizeChange::default() };
        assert_eq!(given.plan(&vcpus), Plan { vcpus: Some(3), ..Plan::default() });
    }

    #[test]
    fn what_was_given_back_comes_back_before_anything_is_plugged_in() {
        let given = Live { memory_now_bytes: GIB / 2, ..live() };
        assert_eq!(plan(given, 2, GIB).balloon_bytes, Some(GIB));
        let more = plan(given, 2, 2 * GIB);
        assert_eq!((more.balloon_bytes, more.plug_bytes), (Some(GIB), Some(GIB)));
    }

    #[test]
    fn what_can_not_be_given_up_stays_and_says_why() {
        let stiff = Live { can_unplug: Err("no"), can_balloon: Err("no"), ..live() };
        let stays = plan(stiff, 1, GIB / 2);
        assert_eq!((stays.vcpus, stays.balloon_bytes), (None, None));
        assert_eq!(stays.left, ["its vcpus stay 2: no", "its memory stays 1GiB: no"]);
        // It still grows.
        assert_eq!(plan(stiff, 3, 2 * GIB).left, Vec::<String>::new());
    }
}
