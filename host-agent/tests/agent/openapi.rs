//! The committed OpenAPI document against the types it is made of and the router it describes.
//!
//! `OSTLER_BLESS=1 cargo test -p host-agent --test agent openapi` writes it anew after a change.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::Bench;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi/agent.json");

#[test]
fn committed_document_is_what_the_types_say() {
    let text = serde_json::to_string_pretty(&host_agent::openapi()).unwrap() + "\n";
    if std::env::var_os("OSTLER_BLESS").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    let committed = std::fs::read_to_string(FILE).unwrap();
    assert!(
        committed == text,
        "docs/openapi/agent.json is not what the types say; run\n  OSTLER_BLESS=1 cargo test -p host-agent --test agent openapi"
    );
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document = host_agent::openapi();
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20, "{references:?}");
    let lost = references.iter().filter(|to| document.pointer(&to[1..]).is_none());
    assert_eq!(lost.collect::<Vec<_>>(), Vec::<&String>::new());
}

fn collect_references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            out.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|inner| collect_references(inner, out));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect_references(inner, out)),
        _ => {}
    }
}

#[tokio::test]
async fn the_router_has_just_the_methods_of_the_document() {
    let bench = Bench::new().await;
    let served = ask(&bench, "GET", "/v1/openapi.json").await;
    let (_, served) = served.split_once("\r\n\r\n").expect("a head and a body");
    let document: Value = serde_json::from_str(served).expect("the agent serves JSON");
    assert!(document == host_agent::openapi(), "it serves what is committed");
    for (path, operations) in document["paths"].as_object().expect("paths by name") {
        let documented: BTreeSet<String> =
            operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        // No path takes this one, so the answer lists those it takes.
        let answer = ask(&bench, "PATCH", &path.replace(['{', '}'], "")).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
        assert_eq!(allowed(&answer), documented, "{path}");
    }
}

/// The methods in the header `allow`, without the HEAD that comes with every GET.
fn allowed(answer: &str) -> BTreeSet<String> {
    let line = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
    line.split(',').filter(|method| *method != "HEAD").map(str::to_owned).collect()
}

/// One request over the agent's socket; head and body of the answer as they come.
async fn ask(bench: &Bench, method: &str, path: &str) -> String {
    let mut socket = UnixStream::connect(bench.data().join("agent.sock")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}
