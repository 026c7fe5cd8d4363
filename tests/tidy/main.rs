//! The house rules as tests: who may import whom, what stays pure, what is written down.
//!
//! Each rule is a function from the repository's text to a list of violations, and each violation
//! says what to do about it. Beside each rule stands a small bad sample that must be caught. Nothing
//! here runs a host: how the code behaves is tested where it lives.

mod repository;

mod source;

mod crates;

mod purity;

mod habits;

mod scripts;

mod interface;

mod openapi;

mod tickets;

mod documents;

mod alerts;

/// Fails with every violation at once, each on a line of its own.
fn assert_none(rule: &str, violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{rule}: {} violation(s)\n  {}\n",
        violations.len(),
        violations.join("\n  ")
    );
}
