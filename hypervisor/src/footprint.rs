//! Giving back the memory of code that has run once.
//!
//! libvirt's client library brings some forty others, and their initialisation, like ours, touches
//! code that never runs again. Those pages count as resident for the process's whole life although
//! nothing needs them. Letting go of all code costs a page fault, without a read from disk, for each
//! piece that does run again; what stays away is what only starting needed.

#![expect(unsafe_code, reason = "the kernel is told about memory by address")]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::ptr;

use rustix::mm::{Advice, madvise};

/// Lets go of the pages of all code of this process; what is used again comes back by itself.
///
/// Returns how many bytes of address space that was. On an error some of it may have been let go.
pub fn let_go_of_code() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for range in maps.lines().filter_map(code_of_file) {
        let start = ptr::without_provenance_mut::<c_void>(range.start);
        // SAFETY: the range is a private mapping of a file that can't be written through, so its
        // pages are the file's: dropped from this process, they are found again at the next access.
        // Should it be unmapped meanwhile (nothing here unloads libraries), this is an error.
        unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) }?;
        bytes += range.len();
    }
    Ok(bytes)
}

/// The addresses of a line of `/proc/self/maps`, if it is code from a file:
/// `7f00-7f10 r-xp 00000000 fe:00 1234   /usr/lib/x.so`.
fn code_of_file(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, mode, path) = (words.next()?, words.next()?, words.nth(3)?);
    if mode != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritable_code_of_files_is_let_go() {
        let code = "7f00-7f10 r-xp 00000000 fe:00 1234                 /usr/lib/x.so";
        assert_eq!(code_of_file(code), Some(0x7f00..0x7f10));
        for kept in [
            "7f00-7f10 r--p 00000000 fe:00 1234                 /usr/lib/x.so",
            "7f00-7f10 rwxp 00000000 fe:00 1234                 /usr/lib/x.so",
            "7f00-7f10 r-xp 00000000 00:00 0                    [vdso]",
            "7f00-7f10 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_of_file(kept), None, "{kept}");
        }
    }

    #[test]
    fn the_process_goes_on_without_its_code_in_memory() {
        take_all_code_in();
        let before = code_resident_kib();
        assert!(let_go_of_code().unwrap() > 0);
        let after = code_resident_kib();
        assert!(after < before, "{before} KiB resident before, {after} KiB after");
    }

    /// A process that has only begun has little of its code in memory, and a fault brings some around it.
    fn take_all_code_in() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        for range in maps.lines().filter_map(code_of_file) {
            let start = ptr::without_provenance_mut::<c_void>(range.start);
            // SAFETY: pages of a mapping are read in; nothing is changed.
            unsafe { madvise(start, range.len(), Advice::LinuxPopulateRead) }.unwrap();
        }
    }

    fn code_resident_kib() -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut is_code, mut kib) = (false, 0);
        for line in maps.lines() {
            if line.starts_with(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
                is_code = code_of_file(line).is_some();
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| is_code) {
                kib += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        kib
    }
}
