//! An IPv4 subnet, as people write it: `10.20.0.0/24`.

use core::net::Ipv4Addr;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A subnet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(Range);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Range {
    first: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subnet {text:?}: {why}")]
pub struct InvalidSubnet {
    /// The text.
    pub text: String,
    /// What it would have to be.
    pub why: String,
}

impl Subnet {
    /// The subnet of that many leading bits in which an address is.
    ///
    /// # Panics
    /// With more than 32 bits.
    #[must_use]
    pub fn around(ip: Ipv4Addr, prefix: u8) -> Self {
        assert!(prefix <= 32, "a prefix of {prefix} bits");
        let first = Ipv4Addr::from_bits(ip.to_bits() & mask(prefix));
        Self(Range { first, prefix })
    }

    /// How many leading bits its addresses share.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.0.prefix
    }

    /// The nth address of it, from 0.
    #[must_use]
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.first.to_bits().wrapping_add(n))
    }

    /// The host's address: the first that one can have.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The last address that a guest can have.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.0.first.to_bits() | !mask(self.0.prefix)).wrapping_sub(1))
    }

    /// The mask as libvirt writes it.
    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.0.prefix))
    }

    /// True when an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let shared = mask(self.0.prefix.min(other.0.prefix));
        self.0.first.to_bits() & shared == other.0.first.to_bits() & shared
    }

    /// The next subnet of its size.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let size = 1_u64 << (32 - u32::from(self.0.prefix));
        let first = u32::try_from(u64::from(self.0.first.to_bits()) + size).ok()?;
        Some(Self(Range { first: Ipv4Addr::from_bits(first), prefix: self.0.prefix }))
    }

    /// True for a private one with room for a host and guests.
    #[must_use]
    pub fn is_for_guests(self) -> bool {
        let (first, last) = (self.0.first, self.last());
        (8..=29).contains(&self.0.prefix) && first.is_private() && last.is_private()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid = |why: String| InvalidSubnet { text: text.chars().take(64).collect(), why };
        let form = || invalid("write one such as 10.20.0.0/24".to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(form)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| form())?;
        // As it is written again: not `+8` nor `08`.
        let is_plain = prefix.chars().all(|c| c.is_ascii_digit()) && !prefix.starts_with('0');
        let prefix: u8 =
            prefix.parse().ok().filter(|_| is_plain || prefix == "0").ok_or_else(form)?;
        if prefix > 32 {
            return Err(form());
        }
        let subnet = Self::around(ip, prefix);
        if subnet.0.first == ip {
            Ok(subnet)
        } else {
            Err(invalid(format!("it would begin at {subnet}")))
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.0.first, self.0.prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;
    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_as_it_was_read_or_refused_with_what_it_would_be() {
        for text in ["10.20.0.0/24", "0.0.0.0/0", "192.168.1.128/25", "10.0.0.1/32"] {
            assert_eq!(of(text).to_string(), text);
        }
        for text in ["", "10.20.0.0", "10.20.0.0/33", "10.20.0.0/+8", "10.0.0.0/08", "::/8", "a/8"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text:?}");
        }
        let error = "10.20.0.1/24".parse::<Subnet>().unwrap_err();
        assert!(error.to_string().contains("10.20.0.0/24"), "{error}");
    }

    #[test]
    fn its_addresses_follow_from_it() {
        let subnet = of("10.20.0.0/22");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 20, 0, 1));
        assert_eq!(subnet.last(), Ipv4Addr::new(10, 20, 3, 254));
        assert_eq!(subnet.netmask(), Ipv4Addr::new(255, 255, 252, 0));
        assert_eq!(subnet.next(), Some(of("10.20.4.0/22")));
        assert_eq!(of("255.255.255.0/24").next(), None);
        assert_eq!(Subnet::around(Ipv4Addr::new(10, 20, 2, 7), 22), subnet);
    }

    #[test]
    fn overlap_is_mutual_and_of_any_size() {
        let all = ["10.0.0.0/8", "10.20.0.0/24", "10.20.0.128/25"].map(of);
        for a in all {
            for b in all {
                assert!(a.overlaps(b));
            }
            assert!(!a.overlaps(of("192.168.0.0/16")));
        }
        assert!(!of("10.20.0.0/25").overlaps(of("10.20.0.128/25")));
        assert!(of("0.0.0.0/0").overlaps(of("1.2.3.4/32")));
    }

    #[test]
    fn only_private_ones_with_room_are_for_guests() {
        assert!(of("172.16.0.0/12").is_for_guests() && of("10.1.1.8/29").is_for_guests());
        for odd in ["10.0.0.0/7", "10.1.1.8/30", "8.8.8.0/24", "172.0.0.0/8", "0.0.0.0/0"] {
            assert!(odd.parse::<Subnet>().is_err() || !of(odd).is_for_guests(), "{odd}");
        }
    }
}
