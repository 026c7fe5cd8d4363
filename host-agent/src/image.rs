//! Whether a file may be an image that disks are started from, by its header alone. Pure.
//!
//! An image comes from somebody else and is opened by QEMU: one that names another file of the host
//! (as its backing or as its data) would show that file to the guest. What is no qcow2 is raw, and
//! always opened as such.

/// What a header is read from: qcow2's, version 3, without its optional end.
pub const HEADER_BYTES: usize = 104;

/// Incompatible feature: the image was not closed well; its reference counts are rebuilt.
const QCOW2_DIRTY: u64 = 1;
/// Incompatible feature: another compression than zlib.
const QCOW2_COMPRESSION: u64 = 1 << 3;

/// What an image is, as QEMU is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// QEMU's name of the format.
    pub format: &'static str,
    /// Bytes that a disk made from it has at least.
    pub virtual_bytes: u64,
}

/// Why a file can't be started from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// It is only a difference to another file.
    #[error("the image needs another file as its backing; flatten it with `qemu-img convert`")]
    Backed,
    /// Nobody here has its key.
    #[error("the image is encrypted; convert it with `qemu-img convert` where its key is")]
    Encrypted,
    /// It has features that we do not know, one of which has QEMU read any file of the host.
    #[error(
        "the image uses qcow2 features that are not taken (version {version}); convert it with `qemu-img convert -O qcow2`"
    )]
    Features {
        /// Which version of the format it says it has.
        version: u32,
    },
}

impl ImageHeader {
    /// Reads the beginning of a file of this size (qcow2 specification: magic, version at 4, backing
    /// file offset at 8, size at 24, encryption at 32, incompatible features at 72; big-endian).
    pub fn read(beginning: &[u8], file_bytes: u64) -> Result<Self, BadImage> {
        let Some(header) = beginning.first_chunk::<HEADER_BYTES>() else {
            return Ok(Self::raw(file_bytes));
        };
        if !header.starts_with(b"QFI\xfb") {
            return Ok(Self::raw(file_bytes));
        }
        let version = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let word = |at: usize| header[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        if word(8) != 0 {
            return Err(BadImage::Backed);
        }
        if header[32..36] != [0; 4] {
            return Err(BadImage::Encrypted);
        }
        // Bit 2 of the incompatible features would have QEMU read any file of the host as the disk.
        let harmless = QCOW2_DIRTY | QCOW2_COMPRESSION;
        let is_known = match version {
            // What follows its 72 bytes are extensions.
            2 => true,
            3 => word(72) & !harmless == 0,
            _ => false,
        };
        if !is_known {
            return Err(BadImage::Features { version });
        }
        Ok(Self { format: "qcow2", virtual_bytes: word(24) })
    }

    fn raw(file_bytes: u64) -> Self {
        Self {
            format: "raw",
            virtual_bytes: file_bytes.checked_next_multiple_of(512).unwrap_or(file_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: u8, at: usize, byte: u8) -> Result<ImageHeader, BadImage> {
        let mut header = [0; 200];
        header[..4].copy_from_slice(b"QFI\xfb");
        header[7] = version;
        header[29] = 1;
        header[at] = byte;
        ImageHeader::read(&header, 1 << 20)
    }

    #[test]
    fn an_image_that_names_another_file_is_refused() {
        assert_eq!(image(2, 100, 0), Ok(ImageHeader { format: "qcow2", virtual_bytes: 1 << 16 }));
        assert_eq!(image(3, 79, 1).map(|header| header.format), Ok("qcow2"));
        assert!(image(3, 79, 1 << 2).is_err(), "an external data file");
        assert_eq!(image(2, 15, 1), Err(BadImage::Backed));
        assert!(image(4, 100, 0).is_err(), "a version nobody knows");
    }

    #[test]
    fn an_image_that_no_guest_could_start_from_is_refused() {
        assert_eq!(image(3, 35, 2), Err(BadImage::Encrypted));
        for version in [0, 1] {
            let features = BadImage::Features { version: version.into() };
            assert_eq!(image(version, 100, 0), Err(features), "another format of the same magic");
        }
    }

    #[test]
    fn what_is_no_qcow2_is_raw_in_whole_sectors() {
        for beginning in [&b""[..], b"QFI\xfb", &[7; 4096]] {
            let header = ImageHeader::read(beginning, 513);
            assert_eq!(header, Ok(ImageHeader { format: "raw", virtual_bytes: 1024 }));
        }
    }
}
