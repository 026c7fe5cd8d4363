//! Saying aloud which tests could not be run on this machine.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Prints what was skipped and why, and appends it to the file that `OSTLER_SKIPPED` names.
pub(crate) fn note(what: &str, why: &str) {
    let line = format!("hypervisor: skipped {what}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("OSTLER_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.expect("append to the file named by OSTLER_SKIPPED");
    }
}
