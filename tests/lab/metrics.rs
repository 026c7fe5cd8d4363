//! What every role of a real cluster tells Prometheus, and the alerts that read it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Prometheus' own checker finds nothing in what was scraped, and every name that the shipped alerts read
/// is there.
pub(crate) fn are_what_prometheus_takes(scraped: &[PathBuf]) {
    let texts: Vec<String> = scraped
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("what was scraped is there"))
        .collect();
    let names: BTreeSet<&str> = texts.iter().flat_map(|text| words(text)).collect();
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.yml");
    let rules = std::fs::read_to_string(alerts).expect("the alerts are there");
    let read: BTreeSet<&str> = words(&rules).filter(|word| word.starts_with("ostler_")).collect();
    let missing: Vec<&&str> = read.difference(&names).collect();
    assert!(read.len() > 10 && missing.is_empty(), "alerts read what nobody tells: {missing:?}");

    if Command::new("promtool").arg("--version").output().is_err() {
        println!("promtool is not here: nobody but us has read the metrics");
        return;
    }
    for (file, text) in scraped.iter().zip(&texts) {
        promtool(&["check", "metrics"], text, &file.to_string_lossy());
    }
    promtool(&["check", "rules", alerts], "", alerts);
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn promtool(words: &[&str], input: &str, of: &str) {
    let mut command = Command::new("promtool");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let said = child.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "promtool of {of}: {words}");
}
