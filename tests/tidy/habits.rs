//! Habits of every Rust file: it says what it is for, reads no clock of its own, has no `unsafe`,
//! leaves nothing half done, and names no place of anybody's machine.

use crate::assert_none;
use crate::repository::{self, TextFile};
use crate::source;

/// The one file that reads clocks.
const CLOCK: &str = "transport/src/clock.rs";

/// The files that call C, or tell the kernel about memory by address.
const UNSAFE: [&str; 9] = [
    "host-agent/src/keeper/ioctl.rs",
    "hypervisor/src/libvirt/ffi.rs",
    "hypervisor/src/libvirt/ffi/console.rs",
    "hypervisor/src/libvirt/ffi/domain.rs",
    "hypervisor/src/libvirt/ffi/events.rs",
    "hypervisor/src/libvirt/ffi/network.rs",
    "hypervisor/src/libvirt/ffi/screen.rs",
    "hypervisor/src/libvirt/ffi/stats.rs",
    "hypervisor/src/footprint.rs",
];

/// Files that measure a wait of their own where no timer of tokio's can: in a thread that blocks.
const BLOCKING_WAITS: [&str; 1] = ["hypervisor/src/libvirt/console.rs"];

/// Folders of somebody's machine; in two parts so that this list is not found by itself.
const MACHINE_FOLDERS: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// The superuser's home is at the same place on every Linux.
const NOT_ONE_MACHINE: [&str; 1] = [concat!("/ro", "ot/.config")];

fn check_header(file: &TextFile) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let words = first.strip_prefix("//!").unwrap_or_default().trim();
    words.is_empty().then(|| {
        format!("{}:1: begin with `//!`: what it decides and what it leaves to others", file.path)
    })
}

fn check_clocks(file: &TextFile) -> Vec<String> {
    let is_exempt = file.path == CLOCK
        || BLOCKING_WAITS.contains(&file.path.as_str())
        || file.path.contains("/examples/")
        || file.is_integration_test();
    if is_exempt {
        return Vec::new();
    }
    let code = source::code(&file.text);
    let mut violations = Vec::new();
    for pattern in ["SystemTime", "Timestamp::now", "Zoned::now", "std::time::Instant"] {
        for line in source::lines_with(&code, pattern) {
            violations.push(format!(
                "{}:{line}: `{pattern}`: only {CLOCK} reads clocks; take a `Clock` or a `Now`",
                file.path
            ));
        }
    }
    // `Instant::now` of tokio's timers is the deadline of a wait; only the standard one is a clock.
    for (at, _) in code.match_indices("std::time::{") {
        let names = code[at..].split('}').next().unwrap_or_default();
        if !source::lines_with(names, "Instant").is_empty() {
            violations.push(format!(
                "{}:{}: `std::time::Instant`: take a `Clock`, or wait with tokio's timers",
                file.path,
                source::line_of(&code, at)
            ));
        }
    }
    violations
}

fn check_unsafe(file: &TextFile) -> Vec<String> {
    if UNSAFE.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let lines = source::lines_with(&source::code(&file.text), "unsafe");
    let say = |line| format!("{}:{line}: `unsafe` is for {UNSAFE:?} alone", file.path);
    lines.into_iter().map(say).collect()
}

fn check_unfinished(file: &TextFile) -> Vec<String> {
    let mut violations = Vec::new();
    for pattern in ["todo!", "unimplemented!"] {
        for line in source::lines_with(&source::code(&file.text), pattern) {
            violations
                .push(format!("{}:{line}: `{pattern}`: finish it or leave it out", file.path));
        }
    }
    // A test that another test starts in a process of its own is not ignored, only hidden.
    let lines: Vec<&str> = file.text.lines().collect();
    for line in source::lines_with(&source::code(&file.text), "#[ignore") {
        if !lines[line - 1].contains("#[ignore = \"started by ") {
            violations.push(format!(
                "{}:{line}: an ignored test proves nothing; mend it or delete it",
                file.path
            ));
        }
    }
    for word in [concat!("FIX", "ME"), concat!("XX", "X")] {
        for line in source::lines_with(&file.text, word) {
            violations.push(format!("{}:{line}: `{word}`: mend it, or say what holds", file.path));
        }
    }
    violations
}

fn check_places(file: &TextFile) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            let hits = line.match_indices(folder).filter(|(at, _)| {
                let before = line[..*at].chars().next_back();
                let begins = !before.is_some_and(|c| c.is_alphanumeric() || "._-~/}$".contains(c));
                let is_general = NOT_ONE_MACHINE.iter().any(|all| line[*at..].starts_with(all));
                begins && !is_general
            });
            for _ in hits {
                violations.push(format!(
                    "{}:{}: `{folder}…` is on one machine only; name a place by a setting or relative to the repository",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    violations
}

fn all_of(ending: &str, check: impl Fn(&TextFile) -> Vec<String>) -> Vec<String> {
    repository::files(ending).iter().flat_map(check).collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let violations = all_of(".rs", |file| check_header(file).into_iter().collect());
    assert_none("every file says what it is for", &violations);
}

#[test]
fn one_file_reads_clocks() {
    for place in BLOCKING_WAITS.iter().chain([&CLOCK]) {
        repository::read(place);
    }
    assert_none("one file reads clocks", &all_of(".rs", check_clocks));
}

#[test]
fn few_files_are_unsafe() {
    UNSAFE.iter().for_each(|place| drop(repository::read(place)));
    assert_none("few files are unsafe", &all_of(".rs", check_unsafe));
}

#[test]
fn nothing_is_left_half_done() {
    assert_none("nothing is left half done", &all_of(".rs", check_unfinished));
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    let mut violations = Vec::new();
    for ending in [".rs", ".md", ".toml"] {
        violations.extend(all_of(ending, check_places));
    }
    assert_none("nothing names a place on one machine", &violations);
}

#[test]
fn bad_habits_are_caught() {
    let file = |text: &str| TextFile::sample("x/src/y.rs", text);
    assert!(check_header(&file("use a;\n")).is_some() && check_header(&file("//! A.\n")).is_none());

    let clocks = "use std::time::{Duration, Instant};\nlet a = SystemTime::now();\n";
    assert_eq!(check_clocks(&file(clocks)).len(), 2);
    let timers = "use std::time::Duration;\nuse tokio::time::Instant;\nlet a = Instant::now();\n";
    assert!(check_clocks(&file(timers)).is_empty());

    assert_eq!(check_unsafe(&file("unsafe { f() } // unsafe\n")).len(), 1);
    let ignored = "#[ignore]\nfn a() {}\n#[ignore = \"slow\"]\nfn b() { todo!() }\n// #[ignore]\n";
    assert_eq!(check_unfinished(&file(ignored)).len(), 3, "{:?}", check_unfinished(&file(ignored)));
    let started = "#[ignore = \"started by a_test\"]\nfn a() {}\n";
    assert!(check_unfinished(&file(started)).is_empty());
    assert_eq!(check_unfinished(&file(concat!("// FIX", "ME\n"))).len(), 1);

    let places = concat!("see `/ho", "me/me/x` and /wo", "rk/y, not ../wo", "rk/z\n");
    assert_eq!(check_places(&file(places)).len(), 2);
}
