//! Where each host answers: discovery's findings, with bare addresses asked who they are.
//!
//! Decides nothing about trust. An address that names no host is asked once in a while for the key
//! it proves; whoever uses the address later pins the connection to the host it wants to reach, so
//! a wrong entry here costs an attempt and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::api::Health;
use protocol::id::HostId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Finder, Findings, Pace, Source};
use crate::backoff::{Backoff, random_unit};
use crate::{CancellationToken, Client, Endpoint, Method};

/// How often a bare address is asked again who it is: a machine there may have been replaced.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// First wait after an address did not answer.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait after an address did not answer.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Answers of addresses that wait to be noted; each address has one at a time.
const ANSWERS_MAX: usize = 64;

/// What is known now of where hosts answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Urls by host, the best first.
    pub hosts: BTreeMap<HostId, Vec<String>>,
    /// True once every source and every bare address has answered or failed once.
    pub is_settled: bool,
}

/// Looks for hosts until `shutdown`, and keeps telling where each answers.
#[must_use]
pub fn follow_addresses(
    sources: Vec<Source>,
    client: &Client,
    shutdown: CancellationToken,
) -> watch::Receiver<Addresses> {
    let finder = Finder::start(sources, client, Pace::default());
    let (publish, addresses) = watch::channel(Addresses::default());
    let client = client.clone();
    tokio::spawn(async move {
        shutdown.run_until_cancelled(collect(finder, client, publish)).await;
    });
    addresses
}

/// What a bare address has answered last: the host, or nobody.
type Answers = BTreeMap<String, Option<HostId>>;

async fn collect(finder: Finder, client: Client, publish: watch::Sender<Addresses>) {
    let mut findings = finder.watch();
    let (tell, mut told) = mpsc::channel(ANSWERS_MAX);
    let mut answers = Answers::new();
    // Dropped with this task, and the askers with it.
    let mut askers = JoinSet::new();
    let mut asked = BTreeSet::new();
    // Addresses alone are told once, and the finder then has nothing more to say.
    let mut is_finder_open = true;
    loop {
        let now = findings.borrow_and_update().clone();
        for found in now.hosts.iter().filter(|found| found.host.is_none()) {
            if asked.insert(found.url.clone()) {
                askers.spawn(ask_who(found.url.clone(), client.clone(), tell.clone()));
            }
        }
        publish.send_if_modified(|addresses| {
            let next = addresses_of(&now, &answers);
            let is_news = *addresses != next;
            *addresses = next;
            is_news
        });
        tokio::select! {
            changed = findings.changed(), if is_finder_open => is_finder_open = changed.is_ok(),
            Some((url, host)) = told.recv() => {
                // Silence does not unsay what an address has answered before.
                let answer = answers.entry(url).or_default();
                *answer = host.or(answer.take());
            }
        }
    }
}

fn addresses_of(findings: &Findings, answers: &Answers) -> Addresses {
    let mut hosts: BTreeMap<HostId, Vec<String>> = BTreeMap::new();
    let mut is_settled = findings.sources.iter().all(|source| source.is_asked);
    for found in &findings.hosts {
        let answer = answers.get(&found.url);
        is_settled &= found.host.is_some() || answer.is_some();
        let Some(host) = found.host.as_ref().or_else(|| answer?.as_ref()) else { continue };
        let urls = hosts.entry(host.clone()).or_default();
        for url in std::iter::once(&found.url).chain(&found.other_urls) {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
    }
    Addresses { hosts, is_settled }
}

async fn ask_who(url: String, client: Client, tell: mpsc::Sender<(String, Option<HostId>)>) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let client = client.with_deadline(Duration::from_secs(3));
    loop {
        let to = Endpoint::anyone(&url);
        let reply = client.send::<(), Health>(Method::GET, &to, "/v1/health", &()).await;
        let host = reply.ok().and_then(|reply| reply.peer).map(|key| HostId::of(&key));
        let wait = if host.is_some() {
            backoff.reset();
            RESOLVE_INTERVAL
        } else {
            backoff.next(random_unit())
        };
        if tell.send((url.clone(), host)).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}
