//! A discovery server to which strangers write: it never fails, and no stranger replaces, hides or
//! takes away what a host has signed.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::{Method, Request};
use libfuzzer_sys::fuzz_target;
use protocol::signed::Signed;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use transport::discovery::{
    Advert, BookLimits, Departure, DiscoveryStore, Instance, discovery_router,
};
use transport::{Clock, Identity, Now};

const HOSTS: u8 = 3;

#[derive(Debug, Arbitrary)]
enum Deed {
    /// A host writes itself down.
    Register { host: u8, url: u8 },
    /// A stranger writes what it likes.
    Write(String),
    /// A stranger has read a host's entry, and writes it down with something else in it.
    Copy { host: u8, change: Change },
    /// Somebody takes an entry off the list, with a word that another host has signed, or nobody.
    Withdraw { entry: u8, signer: Option<u8>, word: String },
}

#[derive(Debug, Arbitrary)]
enum Change {
    Url(String),
    Name(String),
    Life(String),
    Host(u8),
    Key(u8),
    Unsigned,
}

fuzz_target!(|deeds: Vec<Deed>| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(play(deeds));
});

async fn play(deeds: Vec<Deed>) {
    let clock = Clock::manual(Now { mono_ms: 1, wall_ms: 1 });
    let router = discovery_router(DiscoveryStore::in_memory(clock, BookLimits::default()));
    let (status, headers, _) = ask(&router, Method::POST, "/clusters", None, "{}".into()).await;
    assert_eq!(status, 201);
    let cluster = headers["location"].clone();
    let token = cluster.rsplit('/').next().expect("a path has a last part").to_owned();
    let instances = format!("{cluster}/instances");
    // By host and address what it has last said of itself.
    let mut signed: BTreeMap<(u8, String), Instance> = BTreeMap::new();
    for deed in deeds.into_iter().take(24) {
        match deed {
            Deed::Register { host, url } => {
                let (host, url) = (host % HOSTS, format!("https://10.0.0.{}:1", url % 4));
                let advert = Advert::new("h", &url);
                let entry = Instance::signed_by(&identity(host), &token, &advert);
                let body = json!({ "data": entry }).to_string();
                let (status, ..) = ask(&router, Method::POST, &instances, None, body).await;
                assert!(status == 201 || status == 409, "{status} for a host's own word");
                signed.insert((host, url), entry);
            }
            Deed::Write(body) => drop(ask(&router, Method::POST, &instances, None, body).await),
            Deed::Copy { host, change } => {
                let Some(entry) = signed.iter().find(|((h, _), _)| *h == host % HOSTS) else {
                    continue;
                };
                let body = json!({ "data": changed(entry.1.clone(), change) }).to_string();
                drop(ask(&router, Method::POST, &instances, None, body).await);
            }
            Deed::Withdraw { entry, signer, word } => {
                let known = list(&router, &instances).await;
                let Some(entry) = known.get(usize::from(entry) % known.len().max(1)) else {
                    continue;
                };
                let said = Departure { cluster: token.clone(), instance: entry.id.clone() };
                let proof = signer.map(|n| Signed::seal(&said, identity(n % HOSTS).secret()));
                let proof = proof.map_or(word, |proof| proof.to_string());
                let path = format!("{instances}/{}", entry.id);
                ask(&router, Method::DELETE, &path, Some(&proof), String::new()).await;
                if let Some(n) = signer.map(|n| n % HOSTS) {
                    let is_own = entry.key == Some(identity(n).public());
                    signed.retain(|(host, url), _| !(is_own && *host == n && *url == entry.url));
                }
            }
        }
        let known = list(&router, &instances).await;
        for ((host, url), entry) in &signed {
            let id = identity(*host).host_id();
            let is_proven = |known: &&Instance| known.prove(&token).is_some_and(|(h, _)| h == id);
            let mine: Vec<_> = known.iter().filter(is_proven).filter(|i| i.url == *url).collect();
            assert!(mine.iter().any(|i| i.life == entry.life), "{url} of host {host} in {known:?}");
        }
        for entry in &known {
            assert_eq!(entry.proven, entry.prove(&token).is_some(), "{entry:?}");
        }
    }
}

fn identity(n: u8) -> Identity {
    Identity::from_seed([n; 32])
}

fn changed(mut entry: Instance, change: Change) -> Instance {
    match change {
        Change::Url(url) => entry.url = url,
        Change::Name(name) => entry.name = name,
        Change::Life(life) => entry.life = life,
        Change::Host(n) => entry.host = Some(identity(n % HOSTS).host_id()),
        Change::Key(n) => entry.key = Some(identity(n % HOSTS).public()),
        Change::Unsigned => entry.proof = None,
    }
    entry
}

async fn list(router: &Router, instances: &str) -> Vec<Instance> {
    let (status, _, body) = ask(router, Method::GET, instances, None, String::new()).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).expect("the list is JSON");
    serde_json::from_value(body["data"].clone()).expect("a list of entries")
}

/// Status, headers and body of an answer; never one that admits a fault.
async fn ask(
    router: &Router,
    method: Method,
    path: &str,
    proof: Option<&str>,
    body: String,
) -> (u16, BTreeMap<String, String>, String) {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("content-type", "application/json");
    if let Some(proof) = proof {
        request = request.header("ostler-proof", proof);
    }
    let Ok(request) = request.body(Body::from(body)) else {
        // No client could send it.
        return (0, BTreeMap::new(), String::new());
    };
    let answer = router.clone().oneshot(request).await.expect("a router always answers");
    let status = answer.status().as_u16();
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers =
        answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = answer.into_body().collect().await.expect("an answer ends").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("answers are text");
    assert_ne!(status, 500, "{body}");
    (status, headers, body)
}
