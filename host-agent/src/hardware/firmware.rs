//! What the firmware says of memory and power supplies: the table of the System Management BIOS
//! (DMTF DSP0134), as the kernel shows it to root.
//!
//! The bytes are somebody else's: what is cut short or makes no sense ends the reading, and nothing more.

/// Which structures are looked at, by their numbers in DSP0134 §7.
const MEMORY_ARRAY: u8 = 16;
const MEMORY_MODULE: u8 = 17;
const POWER_SUPPLY: u8 = 39;
const END: u8 = 127;

/// See the module. What is not said is nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Firmware {
    /// `none`, `parity`, `single-bit`, `multi-bit` or `crc`: the least that any array of memory has.
    pub(super) memory_ecc: Option<&'static str>,
    /// Transfers a second in millions, of the slowest module that is plugged in.
    pub(super) memory_mts: Option<u16>,
    /// Power supplies that are there.
    pub(super) power_supplies: Option<u32>,
}

impl Firmware {
    pub(super) fn of(table: &[u8]) -> Self {
        let mut found = Self::default();
        let mut least: Option<u8> = None;
        for structure in Structures(table) {
            match structure.kind {
                MEMORY_ARRAY if structure.is_main_memory() => {
                    let way = structure.byte(0x06).filter(|way| ecc(*way).is_some());
                    least = way.map(|way| least.map_or(way, |least| least.min(way))).or(least);
                }
                MEMORY_MODULE => {
                    if let Some(mts) = structure.module_mts() {
                        found.memory_mts =
                            Some(found.memory_mts.map_or(mts, |least| least.min(mts)));
                    }
                }
                POWER_SUPPLY => {
                    let is_there = structure.word(0x0E).is_some_and(|about| about & 0b10 != 0);
                    *found.power_supplies.get_or_insert(0) += u32::from(is_there);
                }
                _ => {}
            }
        }
        found.memory_ecc = least.and_then(ecc);
        found
    }
}

/// DSP0134 §7.17.3, weakest first.
fn ecc(way: u8) -> Option<&'static str> {
    match way {
        3 => Some("none"),
        4 => Some("parity"),
        5 => Some("single-bit"),
        6 => Some("multi-bit"),
        7 => Some("crc"),
        _ => None,
    }
}

/// One of the table's structures, without its strings.
struct Structure<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    /// Arrays are also of video and cache memory (§7.17.2).
    fn is_main_memory(&self) -> bool {
        self.byte(0x05) == Some(3)
    }

    /// What the module is set to, else what it can; 0 and all ones are "unknown" (§7.18).
    fn module_mts(&self) -> Option<u16> {
        let is_plugged_in = self.word(0x0C).is_some_and(|size| size != 0);
        let said = |at: usize| self.word(at).filter(|mts| !matches!(*mts, 0 | u16::MAX));
        is_plugged_in.then(|| said(0x20).or_else(|| said(0x15))).flatten()
    }
}

/// Walks the table: a header with its length, and then strings up to two zeroes (§6.1).
struct Structures<'a>(&'a [u8]);

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, length) = (*self.0.first()?, usize::from(*self.0.get(1)?));
        if kind == END || length < 4 {
            return None;
        }
        let bytes = self.0.get(..length)?;
        let strings = &self.0[length..];
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        self.0 = &strings[end + 2..];
        Some(Structure { kind, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A structure of this kind and length, with these bytes in it, and two strings after it.
    fn structure(kind: u8, length: usize, set: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes[1] = u8::try_from(length).expect("a byte");
        for (at, byte) in set {
            bytes[*at] = *byte;
        }
        bytes.extend(b"DIMM A1\0Samsung\0\0");
        bytes
    }

    fn module(size: u8, speed: u16, set_to: u16) -> Vec<u8> {
        let ([speed, speed_high], [set_to, set_to_high]) =
            (speed.to_le_bytes(), set_to.to_le_bytes());
        let speeds = [(0x15, speed), (0x16, speed_high), (0x20, set_to), (0x21, set_to_high)];
        structure(MEMORY_MODULE, 0x28, &[&[(0x0C, size)][..], &speeds].concat())
    }

    #[test]
    fn memory_and_power_supplies_are_read() {
        let table = [
            structure(0, 0x18, &[]),
            structure(MEMORY_ARRAY, 0x0F, &[(0x05, 3), (0x06, 6)]),
            structure(MEMORY_ARRAY, 0x0F, &[(0x05, 4), (0x06, 3)]),
            module(16, 3200, 2933),
            module(16, 3200, 0),
            module(0, 1333, 1333),
            structure(POWER_SUPPLY, 0x16, &[(0x0E, 0b10)]),
            structure(POWER_SUPPLY, 0x16, &[(0x0E, 0b10)]),
            structure(POWER_SUPPLY, 0x16, &[]),
            structure(END, 4, &[]),
            module(16, 800, 800),
        ]
        .concat();
        let expected = Firmware {
            memory_ecc: Some("multi-bit"),
            memory_mts: Some(2933),
            power_supplies: Some(2),
        };
        assert_eq!(Firmware::of(&table), expected);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(table: Vec<u8>, cut in 0_usize..200) {
            let _ = Firmware::of(&table);
            let whole = [module(16, 3200, 2933), structure(MEMORY_ARRAY, 0x0F, &[(0x06, 6)])].concat();
            let _ = Firmware::of(&whole[..cut.min(whole.len())]);
        }
    }
}
