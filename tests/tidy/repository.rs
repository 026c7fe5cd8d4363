//! The repository as text: its files, and its manifests as data.
//!
//! Decides which files are the project's own: everything outside `target` folders and hidden ones,
//! but for CI's. What must be true of them is the rules'.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The top folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests crate lies in the repository").to_owned()
}

/// A text file by its path from the top folder.
#[derive(Debug, Clone)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    /// A file that exists only in a test of a rule.
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// True in the folders of integration tests and measurements, whose code never runs in
    /// production.
    pub(crate) fn is_integration_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.starts_with("fuzz/")
            || ["/tests/", "/examples/", "/benches/"].iter().any(|part| self.path.contains(part))
    }
}

/// The file at this path from the top folder.
pub(crate) fn read(path: &str) -> TextFile {
    let text = std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|e| panic!("{path} must exist and be UTF-8: {e}"));
    TextFile { path: path.to_owned(), text }
}

/// Every file of the project whose name ends so, in the order of their paths.
pub(crate) fn files(ending: &str) -> Vec<TextFile> {
    let mut paths = Vec::new();
    collect(&root(), "", &mut paths);
    paths.sort();
    paths.iter().filter(|path| path.ends_with(ending)).map(|path| read(path)).collect()
}

/// Paths of every file of the project.
pub(crate) fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    collect(&root(), "", &mut paths);
    paths.sort();
    paths
}

fn collect(folder: &Path, prefix: &str, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the repository is readable") {
        let entry = entry.expect("the repository is readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("the repository is readable");
        if kind.is_dir() {
            let is_ours = !name.starts_with('.') || [".cargo", ".ci", ".config"].contains(&&*name);
            if is_ours && name != "target" {
                collect(&entry.path(), &format!("{path}/"), out);
            }
        } else if kind.is_file() {
            out.push(path);
        }
    }
}

/// One crate of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) manifest: Table,
}

/// Where a dependency is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Normal,
    Dev,
    Build,
}

impl Section {
    pub(crate) const ALL: [Section; 3] = [Section::Normal, Section::Dev, Section::Build];

    fn key(self) -> &'static str {
        match self {
            Section::Normal => "dependencies",
            Section::Dev => "dev-dependencies",
            Section::Build => "build-dependencies",
        }
    }
}

impl Member {
    pub(crate) fn of(name: &str, manifest: &str) -> Self {
        let manifest = manifest.parse().unwrap_or_else(|e| panic!("{name}/Cargo.toml: {e}"));
        Self { name: name.to_owned(), manifest }
    }

    /// The dependencies of a section, as declared.
    pub(crate) fn declared(&self, section: Section) -> impl Iterator<Item = (&str, &Value)> {
        let table = self.manifest.get(section.key()).and_then(Value::as_table);
        table.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }

    /// Their names.
    pub(crate) fn dependencies(&self, section: Section) -> BTreeSet<String> {
        self.declared(section).map(|(name, _)| name.to_owned()).collect()
    }
}

/// The top manifest.
pub(crate) fn workspace() -> Table {
    read("Cargo.toml").text.parse().expect("Cargo.toml is TOML: cargo has read it")
}

/// The workspace's crates in the order of the top manifest.
pub(crate) fn members() -> Vec<Member> {
    let workspace = workspace();
    let names = workspace["workspace"]["members"].as_array().expect("members is a list");
    let names = names.iter().map(|name| name.as_str().expect("a member is a folder"));
    names.map(|name| Member::of(name, &read(&format!("{name}/Cargo.toml")).text)).collect()
}

/// Names of our own crates.
pub(crate) fn own_crates() -> BTreeSet<String> {
    members().into_iter().map(|member| member.name).collect()
}
