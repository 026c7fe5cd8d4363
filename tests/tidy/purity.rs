//! Cores decide and shells act: in a core there is no file, socket, clock, thread, environment,
//! randomness or log, so that the same type runs in a daemon and, by the thousand, in a test.

use crate::assert_none;
use crate::repository::{self, TextFile};
use crate::source;

/// Where nothing but deciding is done: folders, and files named without their ending (a core's
/// submodules are in the folder of the same name).
const PURE: [&str; 34] = [
    "protocol/src/",
    "planner/src/",
    "host-agent/src/core/",
    "host-agent/src/keeper/core",
    "host-agent/src/networks/plan",
    "monitor/src/core",
    "monitor/src/check",
    "arbiter/src/core",
    "arbiter/src/books",
    "arbiter/src/statement",
    "arbiter/src/leases",
    "arbiter/src/rates",
    "scheduler/src/run",
    "scheduler/src/record",
    "scheduler/src/task",
    "scheduler/src/knowledge",
    "scheduler/src/upkeep",
    "scheduler/src/gauge",
    "scheduler/src/drain",
    "scheduler/src/failover",
    "scheduler/src/fenced",
    "scheduler/src/judge",
    "scheduler/src/level",
    "scheduler/src/poll",
    "scheduler/src/spread",
    "scheduler/src/tally",
    "bootstrap/src/verdict",
    "bootstrap/src/layout",
    "bootstrap/src/charter",
    "ostler/src/ui/gate",
    "ostler/src/ui/replica",
    "ostler/src/ui/news",
    "ostler/src/ui/rows",
    "ostler/src/ui/chores",
];

/// What they must not touch, and what to do instead.
const FORBIDDEN: [(&str, &str); 30] = [
    ("std::fs", FILES),
    ("std::io", FILES),
    ("std::net", "say in an effect what is to be sent; the shell has sockets"),
    ("std::os", FILES),
    ("std::process", "say in an effect what is to be run"),
    ("std::thread", "a core is called by one thread at a time and starts none"),
    ("std::env", "take what you need to know as an argument"),
    ("std::time::Instant", CLOCK),
    ("std::time::SystemTime", CLOCK),
    ("Instant::now", CLOCK),
    ("SystemTime", CLOCK),
    ("Timestamp::now", CLOCK),
    ("Clock", CLOCK),
    ("jiff", CLOCK),
    ("tokio", ASYNC),
    ("futures_util", ASYNC),
    ("async", ASYNC),
    ("await", ASYNC),
    ("getrandom", CHANCE),
    ("rand::rng", CHANCE),
    ("OsRng", CHANCE),
    ("new_v4", CHANCE),
    ("now_v7", CHANCE),
    ("RandomState", "its order differs from run to run; use BTreeMap"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("tracing", LOG),
    ("println!", LOG),
    ("eprintln!", LOG),
    ("dbg!", LOG),
];

const FILES: &str = "say in an effect what is to be read or written";
const CLOCK: &str = "take the time as an argument";
const ASYNC: &str = "a core answers at once; waiting is the shell's";
const CHANCE: &str = "take ids and seeds as arguments";
const LOG: &str = "put the sentence in an effect or a report";

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|pure| match path.strip_prefix(pure) {
        Some(rest) => pure.ends_with('/') || rest == ".rs" || rest.starts_with('/'),
        None => false,
    })
}

fn check(file: &TextFile) -> Vec<String> {
    let code = source::code(&file.text);
    let mut violations = Vec::new();
    for (pattern, advice) in FORBIDDEN {
        for line in source::lines_with(&code, pattern) {
            violations.push(format!("{}:{line}: `{pattern}` in a core: {advice}", file.path));
        }
    }
    violations
}

#[test]
fn cores_touch_nothing() {
    let files = repository::files(".rs");
    let pure: Vec<&TextFile> = files.iter().filter(|file| is_pure(&file.path)).collect();
    for place in PURE {
        let is_there = pure.iter().any(|file| file.path.starts_with(place));
        assert!(
            is_there,
            "{place}: no such core any more; correct the list in tests/tidy/purity.rs"
        );
    }
    let violations: Vec<String> = pure.into_iter().flat_map(check).collect();
    assert_none("cores touch nothing", &violations);
}

/// Not a core: it awaits what it asks for, over a trait that a simulator has as well.
const OVER_A_TRAIT: [&str; 2] = ["scheduler/src/executor.rs", "scheduler/src/reach.rs"];

/// Files in the second column of the table of cores and shells.
fn called_cores(document: &str) -> Vec<&str> {
    let start = document.lines().skip_while(|line| *line != "## Cores and shells").skip(1);
    let rows =
        start.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.split('|').nth(2));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.filter(|word| word.contains('/')).collect()
}

#[test]
fn what_is_called_a_core_is_checked() {
    let document = repository::read("ARCHITECTURE.md").text;
    let cores = called_cores(&document);
    assert!(cores.len() > 15, "{cores:?}");
    let unchecked = cores.iter().filter(|path| !is_pure(path) && !OVER_A_TRAIT.contains(path));
    let violations: Vec<String> = unchecked
        .map(|path| format!("ARCHITECTURE.md calls {path} a core: add it to PURE"))
        .collect();
    assert_none("what is called a core is checked", &violations);
}

#[test]
fn an_impure_core_is_caught() {
    let table = "## Cores and shells\n| part | core |\n| a | `a/b.rs` and `c.rs` | `d/e.rs` |\n## X\n| a | `f/g.rs` |\n";
    assert_eq!(called_cores(table), ["a/b.rs"]);
    assert!(is_pure("monitor/src/core.rs") && is_pure("monitor/src/core/tests.rs"));
    assert!(is_pure("protocol/src/a/b.rs") && !is_pure("monitor/src/core_shell.rs"));
    let text = "//! Says tokio.\nuse std::fs;\nasync fn f() { tracing::info!(\"std::net\") }\n";
    let caught = check(&TextFile::sample("planner/src/bad.rs", text));
    assert_eq!(caught.len(), 3, "{caught:?}");
    assert!(caught[0].starts_with("planner/src/bad.rs:2: `std::fs`"), "{caught:?}");
    let good = TextFile::sample("planner/src/good.rs", "let strand = \"println!\"; // std::fs\n");
    assert!(check(&good).is_empty());
}
