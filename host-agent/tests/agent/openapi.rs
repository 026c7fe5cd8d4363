//! What the agent serves as its OpenAPI document against the router that it describes. That the committed one is
//! what the types say is a house rule (`tests/tidy/openapi.rs`).

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::Bench;

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
