//! Amounts with units, and the arithmetic that never goes below zero.
//!
//! *Capacity* is what a host has, *allocation* what it has promised, *usage* what is measured; all
//! three are [`Resources`], and a name says which one is meant.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of the things a host can run out of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Disk space in bytes, counted at a volume's full virtual size.
    #[serde(default)]
    pub disk_bytes: u64,
}

impl Resources {
    /// Nothing at all.
    pub const ZERO: Self = Self { vcpus: 0, memory_bytes: 0, disk_bytes: 0 };

    /// The sum, stopping at the largest number instead of wrapping.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// What is left after taking `other` away; no amount goes below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
        }
    }

    /// The larger of each amount.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.max(other.vcpus),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            disk_bytes: self.disk_bytes.max(other.disk_bytes),
        }
    }

    /// The smaller of each amount.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.min(other.vcpus),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            disk_bytes: self.disk_bytes.min(other.disk_bytes),
        }
    }

    /// True when every amount is at most that of `room`.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        self.vcpus <= room.vcpus
            && self.memory_bytes <= room.memory_bytes
            && self.disk_bytes <= room.disk_bytes
    }
}

/// A number of virtual CPUs, for people: `1 vcpu`, `2 vcpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus(pub u32);

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vcpu{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// More than any cluster has: where a limit says so, none was set.
const VCPUS_ENDLESS: u32 = 1 << 30;
/// As [`VCPUS_ENDLESS`].
const BYTES_ENDLESS: u64 = 1 << 60;

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpus {
            VCPUS_ENDLESS.. => f.write_str("any vcpus")?,
            vcpus => Vcpus(vcpus).fmt(f)?,
        }
        for (what, bytes) in [("memory", self.memory_bytes), ("disk", self.disk_bytes)] {
            match bytes {
                BYTES_ENDLESS.. => write!(f, ", any {what}")?,
                bytes => write!(f, ", {} {what}", Bytes(bytes))?,
            }
        }
        Ok(())
    }
}

/// A number of bytes that prints as people write it: `128MiB`, `1.5GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "two digits are printed")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS.iter().find(|(_, size)| self.0 >= *size).unwrap_or(&("B", 1));
        if self.0.is_multiple_of(*size) {
            f.pad(&format!("{}{unit}", self.0 / size))
        } else {
            f.pad(&format!("{:.1}{unit}", self.0 as f64 / *size as f64))
        }
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a whole number with B, KiB, MiB, GiB or TiB, for example 512MiB"
)]
pub struct InvalidSize(pub String);

impl std::str::FromStr for Bytes {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        let (number, unit) =
            text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?);
        let (_, size) =
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(invalid)?;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(*size).map(Bytes).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_print() {
        for text in ["0B", "128MiB", "4GiB", "1TiB", "3KiB"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert_eq!("64mib".parse(), Ok(Bytes(64 << 20)));
    }

    #[test]
    fn what_is_not_limited_is_not_told_in_numbers() {
        let all = Resources { vcpus: 8, memory_bytes: u64::MAX, disk_bytes: u64::MAX / 3 * 2 };
        assert_eq!(all.to_string(), "8 vcpus, any memory, any disk");
        let some = Resources { vcpus: u32::MAX, memory_bytes: 1 << 30, disk_bytes: 0 };
        assert_eq!(some.to_string(), "any vcpus, 1GiB memory, 0B disk");
    }

    #[test]
    fn a_size_without_unit_or_too_large_is_refused() {
        for bad in ["128", "MiB", "1.5GiB", "-1GiB", "99999999999999TiB", "12 MiB", "4GB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was accepted");
        }
    }
}
