//! The committed OpenAPI documents against the types they are made of. That they agree with the tables for people
//! is [`crate::interface`]'s.
//!
//! `OSTLER_BLESS=1 cargo test -p tests --test tidy openapi` writes them anew after a change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::repository;

/// Each role's document: where it is, the heading of its table in docs/api.md, and how it is made.
pub(crate) fn documents() -> [(&'static str, &'static str, Value); 4] {
    [
        ("docs/openapi/agent.json", "Agent", host_agent::openapi()),
        ("docs/openapi/monitor.json", "Monitor", monitor::openapi()),
        ("docs/openapi/arbiter.json", "Arbiter", arbiter::openapi()),
        ("docs/openapi/controller.json", "Controller", controller::openapi()),
    ]
}

fn references(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn committed_openapi_documents_are_what_the_types_say() {
    for (path, _, made) in documents() {
        let text = serde_json::to_string_pretty(&made).expect("a value is JSON") + "\n";
        if std::env::var_os("OSTLER_BLESS").is_some() {
            std::fs::write(repository::root().join(path), &text).expect("it can be written");
        }
        assert!(
            repository::read(path).text == text,
            "{path} is not what the types say; run\n  OSTLER_BLESS=1 cargo test -p tests --test tidy openapi"
        );
    }
}

#[test]
fn every_reference_of_an_openapi_document_leads_somewhere() {
    for (path, _, made) in documents() {
        let references = references(&made);
        assert!(references.len() > 5, "{path}: {references:?}");
        let lost = references.iter().filter(|to| made.pointer(&to[1..]).is_none());
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<&String>::new(), "{path}");
    }
}
