//! What a tenant's quota counts: what hosts can run out of, and VMs.
//!
//! A host has room for [`Resources`] and for no number of VMs, so its capacity and what it has promised stay
//! those. What is limited, booked and promised of a quota is this. Every VM counts one while there is a hold
//! for it, as its CPUs count.
//!
//! **A number of VMs may be left unsaid** ([`VMS_ANY`]), and is then not written. Of a limit that means there
//! is none. Of what was booked for a job it means the whole, which is its one VM. So whatever was signed
//! before VMs were counted, and whatever is signed for a tenant whose VMs are not limited, is the same to
//! the byte, and counts in full once they are.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resources::Resources;

/// Nothing is said of VMs: no limit of them, or all of a job.
pub const VMS_ANY: u32 = u32::MAX;

/// Amounts of what a quota counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Disk space in bytes, counted at a volume's full virtual size.
    #[serde(default)]
    pub disk_bytes: u64,
    /// VMs; left out: any number, and of what is booked for one VM that VM.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub vms: u32,
}

fn any() -> u32 {
    VMS_ANY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_any(vms: &u32) -> bool {
    *vms == VMS_ANY
}

impl From<Resources> for Amounts {
    /// With nothing said of VMs.
    fn from(Resources { vcpus, memory_bytes, disk_bytes }: Resources) -> Self {
        Self { vcpus, memory_bytes, disk_bytes, vms: VMS_ANY }
    }
}

impl Amounts {
    /// Nothing at all.
    pub const ZERO: Self = Self { vcpus: 0, memory_bytes: 0, disk_bytes: 0, vms: 0 };

    /// A limit that nothing exceeds.
    pub const UNLIMITED: Self =
        Self { vcpus: u32::MAX, memory_bytes: u64::MAX, disk_bytes: u64::MAX, vms: VMS_ANY };

    /// Each amount, for whoever does the same with every one of them; [`Amounts::of_each`] is the way back.
    pub const EACH: [fn(Self) -> u64; 4] =
        [|a| u64::from(a.vcpus), |a| a.memory_bytes, |a| a.disk_bytes, |a| u64::from(a.vms)];

    /// What [`Amounts::EACH`] has taken apart.
    #[must_use]
    pub fn of_each([vcpus, memory_bytes, disk_bytes, vms]: [u64; 4]) -> Self {
        let small = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
        Self { vcpus: small(vcpus), memory_bytes, disk_bytes, vms: small(vms) }
    }

    /// What a VM of this size takes of a quota.
    #[must_use]
    pub fn of_vm(resources: Resources) -> Self {
        Self { vms: 1, ..resources.into() }
    }

    /// Without VMs.
    #[must_use]
    pub fn resources(self) -> Resources {
        let Self { vcpus, memory_bytes, disk_bytes, .. } = self;
        Resources { vcpus, memory_bytes, disk_bytes }
    }

    /// Whether a number of VMs is said.
    #[must_use]
    pub fn tells_vms(self) -> bool {
        self.vms != VMS_ANY
    }

    /// The same with nothing said of VMs where this limit says nothing of them, so that they are told of
    /// tenants whose VMs are limited, and of no others.
    #[must_use]
    pub fn told_by(self, limit: Self) -> Self {
        Self { vms: if limit.tells_vms() { self.vms } else { VMS_ANY }, ..self }
    }

    /// The same, or no VMs if nothing is said of them.
    #[must_use]
    pub fn or_no_vms(self) -> Self {
        Self { vms: if self.tells_vms() { self.vms } else { 0 }, ..self }
    }

    /// The sum, stopping at the largest number instead of wrapping.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::of_each(Self::EACH.map(|of| of(self).saturating_add(of(other))))
    }

    /// What is left after taking `other` away; no amount goes below zero, and of what has no limit there
    /// is as much as before.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let left = Self::of_each(Self::EACH.map(|of| of(self).saturating_sub(of(other))));
        left.told_by(self)
    }

    /// The larger of each amount.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self::of_each(Self::EACH.map(|of| of(self).max(of(other))))
    }

    /// The smaller of each amount.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self::of_each(Self::EACH.map(|of| of(self).min(of(other))))
    }

    /// True when every amount is at most that of `room`.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        Self::EACH.iter().all(|of| of(self) <= of(room))
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tells_vms() {
            write!(f, "{} vm{}, ", self.vms, if self.vms == 1 { "" } else { "s" })?;
        }
        self.resources().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Resources = Resources { vcpus: 2, memory_bytes: 1 << 30, disk_bytes: 0 };

    #[test]
    fn where_vms_are_not_told_the_bytes_are_those_of_resources() {
        let (plain, told) = (Amounts::from(SIZE), Amounts::of_vm(SIZE));
        let text = serde_json::to_string(&plain).unwrap();
        assert_eq!(text, serde_json::to_string(&SIZE).unwrap());
        assert_eq!(serde_json::from_str::<Amounts>(&text).unwrap(), plain);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(text, r#"{"vcpus":2,"memory_bytes":1073741824,"disk_bytes":0,"vms":1}"#);
        assert_eq!(serde_json::from_str::<Amounts>(&text).unwrap(), told);
        assert!(serde_json::from_str::<Resources>(&text).is_err(), "who counts no VMs takes none");
    }

    #[test]
    fn a_debit_that_says_nothing_of_vms_is_of_the_whole_job() {
        let job = Amounts::of_vm(SIZE);
        assert_eq!(Amounts::from(SIZE).min(job), job);
    }

    #[test]
    fn of_vms_without_limit_there_is_always_the_rest() {
        let limit = Amounts::from(SIZE);
        let left = limit.minus(Amounts { vcpus: 1, vms: 7, ..Amounts::ZERO });
        assert_eq!((left.vcpus, left.vms), (1, VMS_ANY));
        assert!(Amounts { vms: 1_000, ..Amounts::ZERO }.fits_in(left));
        let four = Amounts { vms: 4, ..limit };
        assert_eq!(four.minus(Amounts::of_vm(SIZE)).vms, 3);
        assert_eq!(Amounts::of_vm(SIZE).told_by(limit), limit);
    }

    #[test]
    fn vms_are_told_in_words_where_they_are_limited() {
        assert_eq!(Amounts::of_vm(SIZE).to_string(), "1 vm, 2 vcpus, 1GiB memory, 0B disk");
        assert_eq!(Amounts::from(SIZE).to_string(), SIZE.to_string());
    }
}
