//! The documents against the repository: what they name exists, and what exists is named.

use std::collections::{BTreeMap, BTreeSet};

use crate::assert_none;
use crate::repository::{self, Section, TextFile};

const DEPENDENCIES: &str = "docs/dependencies.md";

/// Words in backticks outside blocks of code, each with its line.
fn words_in_backticks(document: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut is_block = false;
    for (number, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            let inside = line.split('`').skip(1).step_by(2);
            words.extend(inside.map(|word| (number + 1, word.to_owned())));
        }
    }
    words
}

/// The word as a path of the repository, when it looks like one: it begins with a folder or file
/// of the top, or ends like a source file.
fn as_path<'a>(word: &'a str, tops: &BTreeSet<String>) -> Option<&'a str> {
    let path = word.strip_prefix("./").unwrap_or(word);
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let (top, rest) = path.split_once('/').unwrap_or((path, ""));
    let is_inside = !rest.is_empty() && tops.contains(top);
    let is_file = [".rs", ".md", ".toml"].iter().any(|ending| path.ends_with(ending));
    let is_script = word.starts_with("./");
    // Files that programs write have no folder here, and begin with a slash or a setting's name.
    (is_plain
        && !word.starts_with('/')
        && (is_inside || is_script || is_file && path.contains('/')))
    .then_some(path)
}

fn check_paths(document: &TextFile, paths: &BTreeSet<String>) -> Vec<String> {
    let tops: BTreeSet<String> =
        paths.iter().map(|path| path.split('/').next().unwrap_or(path).to_owned()).collect();
    let is_there = |path: &str| {
        let path = path.trim_end_matches('/');
        paths.contains(path) || paths.iter().any(|p| p.starts_with(&format!("{path}/")))
    };
    let words = words_in_backticks(&document.text);
    let named = words.iter().filter_map(|(line, word)| Some((line, as_path(word, &tops)?)));
    let gone = named.filter(|(_, path)| !is_there(path) && !path.starts_with("target/"));
    gone.map(|(line, path)| {
        format!("{}:{line}: there is no {path}; correct the name", document.path)
    })
    .collect()
}

/// Targets of `[text](target)`, as paths from the top; other sites left out.
fn links(document: &TextFile) -> Vec<String> {
    let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let targets = document.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    let targets = targets.map(|target| target.split('#').next().unwrap_or(target));
    targets.map(|target| joined(folder, target)).collect()
}

fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn check_links(document: &TextFile, paths: &BTreeSet<String>) -> Vec<String> {
    let is_there = |target: &String| {
        paths.contains(target) || paths.iter().any(|p| p.starts_with(&format!("{target}/")))
    };
    let gone = links(document).into_iter().filter(|target| !is_there(target));
    gone.map(|target| format!("{}: it links to {target}, which is not there", document.path))
        .collect()
}

/// Direct dependencies of others' making, each with the members that use it.
fn used_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let own = repository::own_crates();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for member in repository::members() {
        for section in Section::ALL {
            for dependency in member.dependencies(section).difference(&own) {
                used.entry(dependency.clone()).or_default().insert(member.name.clone());
            }
        }
    }
    used
}

/// Dependencies that have a row: the word in backticks that begins it.
fn documented_dependencies(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`').map(|(name, _)| name.to_owned())).collect()
}

fn check_dependencies(document: &str, used: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let documented = documented_dependencies(document);
    let missing = used.iter().filter(|(name, _)| !documented.contains(*name));
    let mut violations: Vec<String> = missing
        .map(|(name, by)| {
            format!("{DEPENDENCIES}: say what {name} is for and why this one ({by:?})")
        })
        .collect();
    let gone = documented.iter().filter(|name| !used.contains_key(*name));
    violations
        .extend(gone.map(|name| format!("{DEPENDENCIES}: nothing depends on {name} any more")));
    violations
}

fn documents() -> Vec<TextFile> {
    repository::files(".md")
}

fn all_paths() -> BTreeSet<String> {
    repository::paths().into_iter().collect()
}

#[test]
fn every_dependency_is_explained() {
    let document = repository::read(DEPENDENCIES).text;
    let violations = check_dependencies(&document, &used_dependencies());
    assert_none("every dependency is explained", &violations);
}

#[test]
fn the_workspace_lists_only_what_members_use() {
    let workspace = repository::workspace();
    let listed = workspace["workspace"]["dependencies"].as_table().expect("a table").keys();
    let own = repository::own_crates();
    let used = used_dependencies();
    let unused = listed.filter(|name| !own.contains(*name) && !used.contains_key(*name));
    let violations: Vec<String> =
        unused.map(|name| format!("Cargo.toml: no member uses {name}; remove it")).collect();
    assert_none("the workspace lists only what members use", &violations);
}

#[test]
fn documents_name_what_is_there() {
    let paths = all_paths();
    let documents = documents();
    let mut violations: Vec<String> =
        documents.iter().flat_map(|document| check_paths(document, &paths)).collect();
    violations.extend(documents.iter().flat_map(|document| check_links(document, &paths)));
    assert_none("documents name what is there", &violations);
}

#[test]
fn architecture_mentions_every_crate() {
    let words = words_in_backticks(&repository::read("ARCHITECTURE.md").text);
    let words: BTreeSet<String> = words.into_iter().map(|(_, word)| word).collect();
    let missing = repository::own_crates().into_iter().filter(|name| !words.contains(name));
    let violations: Vec<String> =
        missing.map(|name| format!("ARCHITECTURE.md: say what `{name}` is for")).collect();
    assert_none("architecture mentions every crate", &violations);
}

#[test]
fn every_decision_is_linked() {
    let documents = documents();
    let is_index =
        |d: &&TextFile| d.path == "ARCHITECTURE.md" || d.path == "docs/decisions/README.md";
    let linked: BTreeSet<String> = documents.iter().filter(is_index).flat_map(links).collect();
    let pages = documents.iter().filter(|d| d.path.starts_with("docs/decisions/"));
    let lonely = pages.filter(|d| !d.path.ends_with("/README.md") && !linked.contains(&d.path));
    let violations: Vec<String> =
        lonely.map(|d| format!("docs/decisions/README.md: link {}", d.path)).collect();
    assert_none("every decision is linked", &violations);
}

#[test]
fn decisions_have_four_parts() {
    let documents = documents();
    let pages = documents.iter().filter(|document| {
        document.path.starts_with("docs/decisions/") && !document.path.ends_with("/README.md")
    });
    let violations: Vec<String> = pages.flat_map(check_decision).collect();
    assert_none("decisions have four parts", &violations);
}

fn check_decision(page: &TextFile) -> Vec<String> {
    let parts = ["Context", "Decision", "Consequences", "Alternatives"];
    let missing = parts.iter().filter(|part| !page.text.contains(&format!("\n## {part}\n")));
    missing.map(|part| format!("{}: add `## {part}`", page.path)).collect()
}

#[test]
fn a_careless_document_is_caught() {
    let paths: BTreeSet<String> =
        ["a/src/b.rs", "docs/x.md", "up"].iter().map(|path| (*path).to_owned()).collect();
    let text = "`a/src/b.rs` `a/src/` `./up` `a/src/gone.rs` `./gone` `/v1/a/b` `std::fs`\n```\n`a/no`\n```\n";
    let named = check_paths(&TextFile::sample("docs/x.md", text), &paths);
    assert_eq!(named.len(), 2, "{named:?}");
    let text = "[b](../a/src/b.rs) [x](x.md#part) [no](y.md) [out](https://x/y)";
    let linked = check_links(&TextFile::sample("docs/x.md", text), &paths);
    assert!(linked.len() == 1 && linked[0].contains("docs/y.md"), "{linked:?}");

    let used = BTreeMap::from([("serde".to_owned(), BTreeSet::new())]);
    let violations = check_dependencies("| `tokio` | x | y |\n", &used);
    assert_eq!(violations.len(), 2, "one missing, one gone: {violations:?}");
    assert_eq!(check_decision(&TextFile::sample("d", "# D\n\n## Context\n")).len(), 3);
}
