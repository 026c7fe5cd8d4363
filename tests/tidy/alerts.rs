//! The alerts for Prometheus: that they say what they should of a cluster in this state or that.
//!
//! The states are in `alerts_test.yml` beside this file, and Prometheus' own `promtool` judges. That every name that
//! they read is told by somebody is tested where real roles are scraped (`tests/lab/metrics.rs`).

use std::path::Path;
use std::process::Command;

use crate::assert_none;
use crate::repository;

const ALERTS: &str = "docs/alerts.yml";
const STATES: &str = "tests/tidy/alerts_test.yml";

/// Says so when this machine has none. It is nobody's duty to install one: most of it is a server.
fn has_promtool() -> bool {
    let is_here = Command::new("promtool").arg("--version").output().is_ok();
    if !is_here {
        println!("promtool is not here: nobody has tried the alerts");
    }
    is_here
}

fn judged(states: &Path) -> (bool, String) {
    let said = Command::new("promtool").args(["test", "rules"]).arg(states).output();
    let said = said.expect("promtool starts");
    let words = [said.stdout, said.stderr].concat();
    (said.status.success(), String::from_utf8_lossy(&words).into_owned())
}

#[test]
fn alerts_say_what_is_so() {
    if has_promtool() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (is_fine, said) = judged(&top.join(STATES));
        assert!(is_fine, "{said}");
    }
}

#[test]
fn an_alert_that_counts_only_the_living_is_caught() {
    if !has_promtool() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let careless = repository::read(ALERTS)
        .text
        .replace("count(up{job=\"ostler\", ", "count(ostler_arbiter_ready{");
    let states = repository::read(STATES).text.replace("../../docs/alerts.yml", "alerts.yml");
    std::fs::write(folder.path().join("alerts.yml"), careless).expect("it can be written");
    let file = folder.path().join("states.yml");
    std::fs::write(&file, states).expect("it can be written");
    let (is_fine, said) = judged(&file);
    assert!(!is_fine && said.contains("OstlerMajorityOfArbitersGone"), "{said}");
}

#[test]
fn every_alert_has_a_summary_and_a_severity() {
    let text = repository::read(ALERTS).text;
    let blocks = text.split("- alert: ").skip(1);
    let bare = blocks.filter(|block| !block.contains("summary: ") || !block.contains("severity: "));
    let names = bare.filter_map(|block| block.lines().next());
    let violations: Vec<String> =
        names.map(|name| format!("{ALERTS}: {name} needs a summary and a severity")).collect();
    assert_none("alerts have a summary and a severity", &violations);
}
