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

/// Most snapshots that a file is believed to have: QEMU's own limit.
const SNAPSHOTS_MAX: u32 = 65_536;
/// Longest name of one, and most that is said of it beside that. QEMU writes some tens of bytes.
const SNAPSHOT_BYTES_MAX: u32 = 4096;

/// A snapshot inside a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// Its name.
    pub tag: String,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
}

/// The size of the disk in a volume, as its guest sees it; of what is no qcow2, that of the file.
pub(crate) fn disk_bytes(path: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(path)?;
    match Header::read(&mut file) {
        Some(header) => Ok(header.long(24)),
        None => Ok(file.metadata()?.len()),
    }
}

/// The snapshots inside a volume: their number is at 60 of its header, the offset of their table at 64.
/// QEMU has written both before it says that one is taken, also while a guest uses the file.
pub(crate) fn snapshots(path: &Path) -> io::Result<Vec<Tagged>> {
    let mut file = fs::File::open(path)?;
    let Some(header) = Header::read(&mut file) else { return Ok(vec![]) };
    let (count, at) = (header.word(60), header.long(64));
    if count == 0 {
        return Ok(vec![]);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut table = io::BufReader::new(file);
    (0..count.min(SNAPSHOTS_MAX)).map(|_| read_snapshot(&mut table)).collect()
}

/// An entry of the table: lengths of its id and name at 12 and 14, seconds and nanoseconds at 16 and 20,
/// length of what else is said of it at 36; then that, the id and the name, filled up to 8 bytes.
fn read_snapshot(table: &mut impl io::Read) -> io::Result<Tagged> {
    let mut entry = [0; 40];
    table.read_exact(&mut entry)?;
    let word = |at: usize| entry[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
    let short = |at: usize| word(at) >> 16;
    let (id, name, more) = (short(12), short(14), word(36));
    if more > SNAPSHOT_BYTES_MAX || name > SNAPSHOT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an impossible snapshot"));
    }
    let before = u64::from(more) + u64::from(id);
    io::copy(&mut table.by_ref().take(before), &mut io::sink())?;
    let mut tag = vec![0; name as usize];
    table.read_exact(&mut tag)?;
    let length = 40 + before + u64::from(name);
    io::copy(&mut table.by_ref().take(length.next_multiple_of(8) - length), &mut io::sink())?;
    let tag = String::from_utf8_lossy(&tag).into_owned();
    let taken_ms = u64::from(word(16)) * 1000 + u64::from(word(20)) / 1_000_000;
    Ok(Tagged { tag, taken_ms })
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
    fn a_table_of_snapshots_that_makes_no_sense_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.qcow2");
        let mut made = header(3, 63, 2);
        (made[71], made[24]) = (150, 1);
        fs::write(&path, &made).unwrap();
        assert_eq!(disk_bytes(&path).unwrap(), (1 << 56) + (1 << 16));
        assert!(snapshots(&path).is_err(), "the second is cut off");
        made[186] = 1;
        fs::write(&path, &made).unwrap();
        assert!(snapshots(&path).is_err(), "16 MiB are said of the first");
        fs::write(&path, b"raw").unwrap();
        assert_eq!(snapshots(&path).unwrap(), []);
        assert_eq!(disk_bytes(&path).unwrap(), 3);
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
