//! What a job takes of a host, all of it: what hosts promise as [`Resources`], huge pages, and dedicated CPUs.
//!
//! Decides what lacks where a host says no for want of room, and so what others would have to give up there.

use protocol::hugepages::Pages;
use protocol::job::Job;
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::view::HostRow;

use crate::policy::millionths;
use crate::search::shortfall;
use crate::state::{Placed, State};

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// CPUs that others share, memory that is not in huge pages, disk.
    pub(crate) resources: Resources,
    /// Huge pages.
    pub(crate) pages: Pages,
    /// CPUs that it has for itself.
    pub(crate) dedicated_cpus: u32,
}

impl Load {
    /// Nothing.
    pub(crate) const ZERO: Self =
        Self { resources: Resources::ZERO, pages: Pages::NONE, dedicated_cpus: 0 };

    /// What a job holds of its host by its row.
    pub(crate) fn of(job: &Job) -> Self {
        let dedicated_cpus = job.dedicated_cpus();
        Self { resources: job.allocation(), pages: job.pages(), dedicated_cpus }
    }

    /// What a job holds of its host in a plan.
    pub(crate) fn placed(placed: &Placed) -> Self {
        let dedicated_cpus = placed.dedicated_cpus();
        Self { resources: placed.allocation(), pages: placed.pages(), dedicated_cpus }
    }

    /// What is free on a host by its row.
    pub(crate) fn free_on(row: &HostRow) -> Self {
        let host = &row.host;
        let pages = Pages::for_jobs(&host.hugepages).minus(Pages::promised(&host.hugepages));
        Self { resources: host.free(), pages, dedicated_cpus: host.dedicated_cpus.free() }
    }

    /// What is free on a host in a plan.
    pub(crate) fn free_in(state: &State<'_>, row: &HostRow) -> Self {
        let host = &row.host;
        Self {
            resources: host.capacity.minus(state.allocation(row)),
            pages: Pages::for_jobs(&host.hugepages).minus(state.pages(row)),
            dedicated_cpus: host.dedicated_cpus.total.saturating_sub(state.dedicated_cpus(row)),
        }
    }

    /// Memory of either kind, in bytes.
    pub(crate) fn memory_bytes(self) -> u64 {
        self.resources.memory_bytes.saturating_add(self.pages.bytes())
    }

    /// CPUs of either kind.
    pub(crate) fn vcpus(self) -> u32 {
        self.resources.vcpus.saturating_add(self.dedicated_cpus)
    }

    /// The same without disks.
    pub(crate) fn without_disks(self) -> Self {
        Self { resources: Resources { disk_bytes: 0, ..self.resources }, ..self }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            resources: self.resources.plus(other.resources),
            pages: self.pages.plus(other.pages),
            dedicated_cpus: self.dedicated_cpus.saturating_add(other.dedicated_cpus),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            resources: self.resources.minus(other.resources),
            pages: self.pages.minus(other.pages),
            dedicated_cpus: self.dedicated_cpus.saturating_sub(other.dedicated_cpus),
        }
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            resources: self.resources.max(other.resources),
            pages: self.pages.max(other.pages),
            dedicated_cpus: self.dedicated_cpus.max(other.dedicated_cpus),
        }
    }

    pub(crate) fn fits_in(self, room: Self) -> bool {
        self.resources.fits_in(room.resources)
            && self.pages.fits_in(room.pages)
            && self.dedicated_cpus <= room.dedicated_cpus
    }
}

impl From<Resources> for Load {
    fn from(resources: Resources) -> Self {
        Self { resources, ..Self::ZERO }
    }
}

/// What lacks on a host that says no to a job's coming, or to its growth, for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lack {
    /// How much more would have to be free.
    pub(crate) load: Load,
    /// In millionths of what the host has, all amounts together.
    pub(crate) shortfall: u64,
    /// False when it is more than the host has in all: nobody there can make that room.
    pub(crate) may_be: bool,
}

impl Lack {
    /// `None` for a no that is about something else.
    pub(crate) fn of(no: &Refusal) -> Option<Self> {
        match no {
            Refusal::NoCapacity { asked, free, capacity }
            | Refusal::NoRoomToGrow { asked, at_most: free, capacity, .. } => Some(Self {
                load: asked.minus(*free).into(),
                shortfall: shortfall(*asked, *free, *capacity),
                may_be: asked.fits_in(*capacity),
            }),
            Refusal::NoHugepages { page_size, asked, free, total } => {
                let lacking = asked.saturating_sub(*free);
                let pages = Pages::of(*page_size, lacking);
                Some(Self {
                    load: Load { pages, ..Load::ZERO },
                    shortfall: millionths(lacking, *total),
                    may_be: asked <= total,
                })
            }
            Refusal::NoDedicatedCpus { asked, free, total } => {
                let lacking = asked.saturating_sub(*free);
                Some(Self {
                    load: Load { dedicated_cpus: lacking, ..Load::ZERO },
                    shortfall: millionths(lacking.into(), (*total).into()),
                    may_be: asked <= total,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::hugepages::PageSize;

    use super::*;

    #[test]
    fn what_lacks_is_told_of_every_no_for_want_of_room_and_of_no_other() {
        let pages = |asked, free, total| {
            Lack::of(&Refusal::NoHugepages { page_size: PageSize::MIB2, asked, free, total })
        };
        let lack = pages(32, 24, 64).unwrap();
        assert_eq!(lack.load, Load { pages: Pages { mib2: 8, gib1: 0 }, ..Load::ZERO });
        assert_eq!((lack.shortfall, lack.may_be), (125_000, true));
        assert!(!pages(65, 24, 64).unwrap().may_be);
        assert!(!pages(1, 0, 0).unwrap().may_be);
        let cpus = |asked, free, total| Lack::of(&Refusal::NoDedicatedCpus { asked, free, total });
        let lack = cpus(2, 1, 4).unwrap();
        assert_eq!(lack.load, Load { dedicated_cpus: 1, ..Load::ZERO });
        assert_eq!((lack.shortfall, lack.may_be), (250_000, true));
        assert!(!cpus(5, 4, 4).unwrap().may_be);
        assert!(!cpus(1, 0, 0).unwrap().may_be);
        let of = |vcpus| Resources { vcpus, ..Resources::ZERO };
        let no = Refusal::NoCapacity { asked: of(4), free: of(1), capacity: of(8) };
        assert_eq!(Lack::of(&no).map(|lack| lack.load), Some(of(3).into()));
        assert_eq!(Lack::of(&Refusal::Invalid { message: String::new() }), None);
    }
}
