//! The header of an image that somebody brought: taken as qcow2 only if it names no other file of the
//! host and is of a version that QEMU knows. The model reads the specification's fields by itself.

#![no_main]

use host_agent::image::{HEADER_BYTES, ImageHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file_bytes = bytes.len() as u64;
    match ImageHeader::read(bytes, file_bytes) {
        Ok(header) if header.format == "qcow2" => {
            assert!(bytes.len() >= HEADER_BYTES && bytes.starts_with(b"QFI\xfb"));
            let version = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes"));
            let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"));
            assert_eq!(word(8), 0, "a backing file");
            assert!(version == 2 || version == 3, "version {version}");
            // In version 2 what follows the 72 bytes of its header are extensions.
            assert!(version == 2 || word(72) & !0b1001 == 0, "features {:b}", word(72));
            assert_eq!(bytes[32..36], [0; 4], "encrypted, and nobody has the key");
            assert_eq!(header.virtual_bytes, word(24));
        }
        Ok(header) => {
            assert_eq!((header.format, header.virtual_bytes % 512), ("raw", 0));
            assert!(header.virtual_bytes >= file_bytes);
        }
        Err(error) => drop(error.to_string()),
    }
});
