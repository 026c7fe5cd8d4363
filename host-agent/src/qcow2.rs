//! What the header of a disk's file says: its form, its size, and which file it is made from.
//!
//! Read by ourselves and not by `qemu-img`, which would follow whatever a header names. Which images
//! are taken is decided in [`crate::image`].

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use protocol::image::ImageFormat;

use crate::image::{HEADER_BYTES, ImageHeader};
use crate::storage::{StorageError, io_error};

/// What it begins with.
const MAGIC: &[u8] = b"QFI\xfb";
/// Longest name of a backing file, by the specification.
const BACKING_BYTES_MAX: u32 = 1023;

/// The header of a qcow2 file (specification: magic, version at 4, backing file's offset at 8 and
/// length at 16; big-endian). What an image's says is [`ImageHeader`]'s.
struct Header([u8; HEADER_BYTES]);

impl Header {
    /// `None` when the file is no qcow2.
    fn read(file: &mut fs::File) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let is_qcow2 = file.read_exact(&mut bytes).is_ok() && bytes.starts_with(MAGIC);
        is_qcow2.then_some(Self(bytes))
    }

    fn word(&self, at: usize) -> u32 {
        self.0[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
    }

    fn long(&self, at: usize) -> u64 {
        self.0[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }
}

/// The form of a file that somebody brought as an image, and the size of a disk made from it; or why
/// it can't be one.
pub(crate) fn inspect(path: &Path) -> Result<(ImageFormat, u64), StorageError> {
    let mut file = fs::File::open(path).map_err(io_error("open", path))?;
    let file_bytes = file.metadata().map_err(io_error("measure", path))?.len();
    let mut beginning = [0; HEADER_BYTES];
    let is_long = file.read_exact(&mut beginning).is_ok();
    let beginning = if is_long { &beginning[..] } else { &[] };
    let header = ImageHeader::read(beginning, file_bytes)
        .map_err(|error| StorageError::BadImage(error.to_string()))?;
    let format = if header.format == "qcow2" { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    Ok((format, header.virtual_bytes))
}

/// What a volume says it is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// This file.
    File(PathBuf),
    /// Nothing: all its bytes are its own.
    Nothing,
    /// It is no qcow2, and says nothing.
    Unsaid,
}

/// Reads what a volume is made from. The header is QEMU's: no guest can write it.
pub(crate) fn backing_of(path: &Path) -> io::Result<Backing> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut file = fs::File::open(path)?;
    let Some(header) = Header::read(&mut file) else { return Ok(Backing::Unsaid) };
    let (at, length) = (header.long(8), header.word(16));
    if at == 0 {
        return Ok(Backing::Nothing);
    }
    let mut name = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(u64::from(length.min(BACKING_BYTES_MAX))).read_to_end(&mut name)?;
    Ok(Backing::File(std::ffi::OsString::from_vec(name).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one byte of it set.
    fn header(version: u8, at: usize, byte: u8) -> Vec<u8> {
        let mut header = vec![0; 200];
        header[..4].copy_from_slice(MAGIC);
        header[7] = version;
        header[29] = 1;
        header[at] = byte;
        header
    }

    #[test]
    fn an_image_that_names_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let image = |version: u8, at: usize, byte: u8| {
            fs::write(&path, header(version, at, byte)).unwrap();
            inspect(&path).map(|(format, _)| format)
        };
        assert_eq!(image(2, 100, 0).unwrap(), ImageFormat::Qcow2);
        assert_eq!(image(3, 79, 1).unwrap(), ImageFormat::Qcow2);
        assert!(image(3, 79, 1 << 2).is_err(), "an external data file");
        assert!(image(2, 15, 1).is_err(), "a backing file");
        assert!(image(4, 100, 0).is_err(), "a version nobody knows");
    }

    #[test]
    fn a_volume_tells_what_it_is_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.qcow2");
        let mut made = header(3, 15, 120);
        made[19] = 9;
        made[120..129].copy_from_slice(b"/x/y.img!");
        made[128] = b'i';
        fs::write(&path, &made).unwrap();
        assert_eq!(backing_of(&path).unwrap(), Backing::File("/x/y.imgi".into()));
        fs::write(&path, header(3, 100, 0)).unwrap();
        assert_eq!(backing_of(&path).unwrap(), Backing::Nothing);
        fs::write(&path, b"raw").unwrap();
        assert_eq!(backing_of(&path).unwrap(), Backing::Unsaid);
    }
}
