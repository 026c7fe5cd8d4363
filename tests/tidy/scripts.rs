//! Shell scripts say what they are for, stop at the first error, and are checked by `./check`.

use crate::assert_none;
use crate::repository::{self, TextFile};

fn check(script: &TextFile) -> Vec<String> {
    let mut lines = script.text.lines();
    let first = lines.next().unwrap_or_default();
    let mut violations = Vec::new();
    if !lines.next().unwrap_or_default().starts_with("# ") {
        violations.push(format!("{}:2: say in a comment what it does", script.path));
    }
    // The guest's PID 1 runs under busybox and must go on whatever fails.
    // What dpkg runs names its interpreter by path, as Debian's policy asks.
    let wanted =
        if script.path.starts_with("packaging/") { "#!/bin/bash" } else { "#!/usr/bin/env bash" };
    let is_bash = first == wanted;
    let is_init = script.path == "scripts/guest-init";
    if is_bash && !script.text.lines().any(|line| line == "set -euo pipefail") {
        violations.push(format!("{}: add `set -euo pipefail`", script.path));
    }
    if !is_bash && !is_init {
        violations.push(format!("{}:1: begin with `{wanted}`", script.path));
    }
    violations
}

fn scripts() -> Vec<TextFile> {
    let without_ending = repository::paths().into_iter().filter(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        !name.contains('.') || name.ends_with(".sh")
    });
    let files = without_ending.filter_map(|path| {
        let bytes = std::fs::read(repository::root().join(&path)).ok()?;
        bytes.starts_with(b"#!").then(|| repository::read(&path))
    });
    files.collect()
}

#[test]
fn scripts_say_what_they_do_and_stop_at_errors() {
    let scripts = scripts();
    assert!(
        scripts.len() >= 5,
        "found only {:?}",
        scripts.iter().map(|s| &s.path).collect::<Vec<_>>()
    );
    let violations: Vec<String> = scripts.iter().flat_map(check).collect();
    assert_none("scripts say what they do and stop at errors", &violations);
}

#[test]
fn every_script_is_checked() {
    let check = repository::read("check").text;
    let list = check.split("\nreadonly SCRIPTS=(").nth(1).unwrap_or_default();
    let list = list.split(')').next().unwrap_or_default();
    let listed: Vec<&str> = list.split_whitespace().collect();
    let missing = scripts().into_iter().filter(|script| !listed.contains(&script.path.as_str()));
    let violations: Vec<String> =
        missing.map(|script| format!("check: add {} to SCRIPTS", script.path)).collect();
    assert_none("every script is checked", &violations);
}

#[test]
fn a_careless_script_is_caught() {
    let script = |text: &str| check(&TextFile::sample("scripts/x", text)).len();
    assert_eq!(script("#!/bin/sh\necho\n"), 2);
    assert_eq!(script("#!/usr/bin/env bash\n# Says nothing.\necho\n"), 1);
    assert_eq!(script("#!/usr/bin/env bash\n# Says nothing.\nset -euo pipefail\n"), 0);
}
