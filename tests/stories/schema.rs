//! The schemas and examples under `docs/schema/` against the code: every kind is in them, none that
//! is gone is left, and each example gives the plan that the documents promise.

use std::collections::BTreeSet;
use std::path::PathBuf;

use planner::case::{GOALS, OTHERS, RULES, Record, Verdict, case, view_of};
use serde_json::Value;

fn read(name: &str) -> Value {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let text = std::fs::read_to_string(folder.join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

#[test]
fn the_schema_has_every_kind_of_expectation_and_no_other() {
    let schema = read("expectations.json");
    let kinds = schema["properties"]["expectations"]["items"]["anyOf"].as_array().expect("a list");
    let named: BTreeSet<&str> =
        kinds.iter().filter_map(|kind| kind["properties"]["expect"]["const"].as_str()).collect();
    let known: BTreeSet<&str> = GOALS.into_iter().chain(RULES).chain(OTHERS).collect();
    assert_eq!(named, known);
}

fn record(expectations: &str) -> Record {
    record_of("examples/room.view.json", expectations)
}

fn record_of(view: &str, expectations: &str) -> Record {
    let (view, heard) = view_of(read(view)).expect("a view");
    let wanted = serde_json::from_value(read(expectations)).expect("expectations");
    let (input, not_understood) = case(view, heard, wanted);
    assert_eq!(not_understood, []);
    Record::make(input, not_understood)
}

fn steps(record: &Record) -> Vec<String> {
    record.outcome.plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn the_examples_give_the_plans_that_the_documents_promise() {
    let room = record("examples/room.expectations.json");
    assert_eq!(steps(&room), ["move small from h1 to h2", "start big on h1"]);
    assert_eq!(room.verdict, Verdict::Changes);
    let drain = record("examples/drain.expectations.json");
    assert_eq!(steps(&drain), ["move small from h1 to h2"]);
    // The only one that is awake could not be lost.
    assert_eq!(steps(&record("examples/saving.expectations.json")), ["wake h2"]);
    let used = record("examples/use.expectations.json");
    assert_eq!(steps(&used), ["move small from h1 to h2"]);
    assert_eq!(used.outcome.plan.shifts[0].reason(), "as h1 is 68.8% busy and h2 0%");
    let disks = record_of("examples/disks.view.json", "examples/disks.expectations.json");
    assert_eq!(steps(&disks), ["move db from h1 to h2"]);
    let late = &disks.outcome.report.violations[..];
    assert!(matches!(late, [late] if late.evidence.contains("db may not run again within 20 s")));
    let group = record("examples/group.expectations.json");
    assert_eq!(steps(&group), ["start db-1 on h1", "start web-1 on h2", "start web-2 on h1"]);
}

#[test]
fn a_record_survives_being_written_and_made_again() {
    survives(&record("examples/room.expectations.json"));
    // What guests used then is part of it.
    let used = record("examples/use.expectations.json");
    assert!(!used.input.used.is_empty() && !used.outcome.plan.shifts.is_empty());
    survives(&used);
}

fn survives(kept: &Record) {
    let text = serde_json::to_string(kept).expect("JSON");
    let read: Record = serde_json::from_str(&text).expect("a record");
    let again = Record::make(read.input.clone(), read.not_understood.clone());
    assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
}
