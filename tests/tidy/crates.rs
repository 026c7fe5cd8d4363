//! Who may import whom, and how dependencies are declared.
//!
//! The table of crates in ARCHITECTURE.md is the rule; the manifests must agree with it, so neither
//! can change alone.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use crate::assert_none;
use crate::repository::{self, Member, Section};

/// What the pure crates may use of others' work: data structures, encodings and arithmetic.
const PURE_MAY_USE: [(&str, &[&str]); 2] = [
    (
        "protocol",
        &[
            "data-encoding",
            "ed25519-dalek",
            "compact_str",
            "imbl",
            "schemars",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "uuid",
        ],
    ),
    (
        "planner",
        &["compact_str", "imbl", "rand", "rand_chacha", "serde", "serde_json", "thiserror"],
    ),
];

/// What their tests may use in addition.
const PURE_TESTS_MAY_USE: [&str; 4] = ["insta", "proptest", "serde_json", "tempfile"];

/// The rows of the table of crates: name and what it may import of ours, in their order.
type Edges = Vec<(String, BTreeSet<String>)>;

/// Reads the table under `## Crates` of ARCHITECTURE.md.
fn table_of_crates(architecture: &str) -> Edges {
    let mut rows: Edges = Vec::new();
    for line in architecture.lines().skip_while(|line| !line.starts_with("## Crates")).skip(1) {
        if line.starts_with("## ") {
            break;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, _, imports, ..] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else { continue };
        let imports = match imports {
            "all" => rows.iter().map(|(earlier, _)| earlier.clone()).collect(),
            _ => imports.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        };
        rows.push((name.to_owned(), imports));
    }
    rows
}

fn check_order(rows: &Edges) -> Vec<String> {
    let mut violations = Vec::new();
    let mut earlier = BTreeSet::new();
    for (name, imports) in rows {
        for import in imports.difference(&earlier) {
            violations.push(format!(
                "ARCHITECTURE.md: {name} may import {import}, which is not above it in the table; imports only go one way"
            ));
        }
        earlier.insert(name.clone());
    }
    violations
}

fn check_edges(rows: &Edges, members: &[Member]) -> Vec<String> {
    let own: BTreeSet<String> = members.iter().map(|member| member.name.clone()).collect();
    let rows: BTreeMap<&String, &BTreeSet<String>> = rows.iter().map(|(n, i)| (n, i)).collect();
    let mut violations = Vec::new();
    for member in members {
        let name = &member.name;
        let Some(may) = rows.get(name) else {
            violations.push(format!("{name}: give it a row in ARCHITECTURE.md's table of crates"));
            continue;
        };
        let imports = &member.dependencies(Section::Normal) & &own;
        for import in imports.difference(may) {
            violations.push(format!(
                "{name}/Cargo.toml: {name} may not import {import}; move the code, or change the table in ARCHITECTURE.md and say why in docs/decisions"
            ));
        }
        for import in may.difference(&imports) {
            // The two at the top may import all; that they need not is no drift.
            if !["ostler", "tests"].contains(&name.as_str()) {
                violations.push(format!(
                    "ARCHITECTURE.md: {name} does not import {import}; take it out of the table"
                ));
            }
        }
    }
    violations
}

fn check_pure(members: &[Member]) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, allowed) in PURE_MAY_USE {
        let Some(member) = members.iter().find(|member| member.name == name) else {
            violations.push(format!("{name}: the pure crate is gone; change this rule with it"));
            continue;
        };
        for section in Section::ALL {
            for dependency in member.dependencies(section) {
                let is_allowed = dependency == "protocol"
                    || allowed.contains(&dependency.as_str())
                    || (section == Section::Dev
                        && PURE_TESTS_MAY_USE.contains(&dependency.as_str()));
                if !is_allowed {
                    violations.push(format!(
                        "{name}/Cargo.toml: {name} is pure and may not use {dependency}; do this in a shell, or extend the list in tests/tidy/crates.rs if it is pure too"
                    ));
                }
            }
        }
    }
    violations
}

fn check_declarations(member: &Member) -> Vec<String> {
    let name = &member.name;
    let mut violations = Vec::new();
    let lints = member.manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(Value::as_bool) != Some(true) {
        violations.push(format!("{name}/Cargo.toml: add `[lints]` with `workspace = true`"));
    }
    let declared = Section::ALL.into_iter().flat_map(|section| member.declared(section));
    for (dependency, value) in declared {
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            violations.push(format!(
                "{name}/Cargo.toml: write `{dependency}.workspace = true` and give the version in the top Cargo.toml"
            ));
        }
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        let value = member.manifest.get("package").and_then(|package| package.get(key));
        if value.and_then(|value| value.get("workspace")).is_none() {
            violations.push(format!("{name}/Cargo.toml: write `{key}.workspace = true`"));
        }
    }
    violations
}

/// Dependencies that no source file of the member names.
fn check_used(member: &Member, sources: &str) -> Vec<String> {
    let all: BTreeSet<String> =
        Section::ALL.into_iter().flat_map(|section| member.dependencies(section)).collect();
    let is_used = |dependency: &String| {
        !crate::source::lines_with(sources, &dependency.replace('-', "_")).is_empty()
    };
    let unused = all.into_iter().filter(|dependency| !is_used(dependency));
    let name = &member.name;
    unused
        .map(|dep| format!("{name}/Cargo.toml: nothing in {name} uses {dep}; remove it"))
        .collect()
}

#[test]
fn imports_follow_the_table_of_crates() {
    let rows = table_of_crates(&repository::read("ARCHITECTURE.md").text);
    assert!(!rows.is_empty(), "ARCHITECTURE.md needs its table under `## Crates`");
    let mut violations = check_order(&rows);
    violations.extend(check_edges(&rows, &repository::members()));
    let own = repository::own_crates();
    let strangers = rows.iter().filter(|(name, _)| !own.contains(name));
    violations.extend(strangers.map(|(n, _)| format!("ARCHITECTURE.md: there is no crate {n}")));
    assert_none("imports follow ARCHITECTURE.md's table of crates", &violations);
}

#[test]
fn pure_crates_use_only_pure_crates() {
    assert_none("pure crates use only pure crates", &check_pure(&repository::members()));
}

#[test]
fn manifests_inherit_from_the_workspace() {
    let violations: Vec<String> =
        repository::members().iter().flat_map(check_declarations).collect();
    assert_none("manifests inherit from the workspace", &violations);
}

#[test]
fn every_declared_dependency_is_used() {
    let files = repository::files(".rs");
    let mut violations = Vec::new();
    for member in repository::members() {
        let folder = format!("{}/", member.name);
        let own = files.iter().filter(|file| file.path.starts_with(&folder));
        let sources: String = own.map(|file| crate::source::code(&file.text)).collect();
        violations.extend(check_used(&member, &sources));
    }
    assert_none("every declared dependency is used", &violations);
}

#[test]
fn a_bad_manifest_is_caught() {
    let table = "## Crates\n| crate | what | imports |\n|---|---|---|\n| `low` | x | – |\n| `high` | x | `low` |\n";
    let rows = table_of_crates(table);
    assert_eq!(rows.len(), 2);
    assert!(check_order(&rows).is_empty());
    let upside_down = "## Crates\n| `low` | x | `high` |\n| `high` | x | – |\n";
    assert_eq!(check_order(&table_of_crates(upside_down)).len(), 1);

    let low = Member::of("low", "[dependencies]\nhigh.workspace = true\nserde = \"1\"\n");
    let high = Member::of("high", "[dependencies]\nlow.workspace = true\n");
    let edges = check_edges(&rows, &[low.clone(), high.clone()]);
    assert!(edges.len() == 1 && edges[0].contains("low may not import high"), "{edges:?}");
    let lazy = check_edges(&rows, &[Member::of("high", ""), Member::of("other", "")]);
    assert_eq!(lazy.len(), 2, "an edge that is not there, and a crate without a row: {lazy:?}");
    // Five package keys, the lints, and one version of its own.
    assert_eq!(check_declarations(&low).len(), 7);
    assert_eq!(check_used(&low, "use serde::Serialize;").len(), 1);

    let planner = Member::of("planner", "[dependencies]\ntokio.workspace = true\n");
    let protocol = Member::of("protocol", "[dev-dependencies]\ninsta.workspace = true\n");
    let impure = check_pure(&[planner, protocol]);
    assert!(impure.len() == 1 && impure[0].contains("tokio"), "{impure:?}");
}
