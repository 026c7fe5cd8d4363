//! Decides whom to follow, and keeps one follower for each.
//!
//! Before there is trust: whoever discovery names, pinned to the id it names. With trust: the
//! hosts on the roster, pinned to their keys, and nobody else. Other monitors as configured. A host
//! that discovery forgets is followed all the same: an expired registration is not a dead host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::id::HostId;
use protocol::trust::Trust;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use transport::discovery::Addresses;
use transport::{Client, Endpoint};

use crate::core::{Input, Source, Wanted};
use crate::follower::Follower;
use crate::packed::PackedView;
use crate::writer::{self, Connection, Connections, Order, Published};

/// Keeps followers.
pub(crate) struct Sources {
    pub(crate) client: Client,
    pub(crate) follow: Vec<Endpoint>,
    pub(crate) addresses: watch::Receiver<Addresses>,
    pub(crate) trust: watch::Receiver<Option<Arc<Trust>>>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) published: Arc<Published>,
    pub(crate) connections: Connections,
    /// Shared by all followers.
    pub(crate) turns: Arc<Semaphore>,
}

/// A follower at work; dropping it stops it.
struct Running {
    endpoints: watch::Sender<Vec<Endpoint>>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sources {
    /// Works until the monitor stops.
    pub(crate) async fn run(mut self) {
        let mut running: BTreeMap<Source, Running> = BTreeMap::new();
        let mut is_trust_open = true;
        loop {
            let trust = self.trust.borrow_and_update().clone();
            let addresses = self.addresses.borrow_and_update().clone();
            let Some(shown) = writer::ask(&self.orders).await else { return };
            let wanted = self.wanted(trust.as_deref(), &addresses, &running, &shown);
            let told = Wanted {
                sources: wanted.keys().cloned().collect(),
                retired: trust.as_ref().map(|t| t.retired_hosts()).unwrap_or_default(),
                roster: trust.map(|trust| trust.roster.iter().map(HostId::of).collect()),
                is_settled: addresses.is_settled,
            };
            // Before the followers start, so that the core knows whom they speak of.
            if self.orders.send(Order::Input(Input::Wanted(told))).await.is_err() {
                return;
            }
            self.adjust(&mut running, wanted);
            tokio::select! {
                changed = self.addresses.changed() => if changed.is_err() { return },
                changed = self.trust.changed(), if is_trust_open => is_trust_open = changed.is_ok(),
            }
        }
    }

    fn wanted(
        &self,
        trust: Option<&Trust>,
        addresses: &Addresses,
        running: &BTreeMap<Source, Running>,
        view: &PackedView,
    ) -> BTreeMap<Source, Vec<Endpoint>> {
        let monitors = self.follow.iter();
        let mut wanted: BTreeMap<Source, Vec<Endpoint>> = monitors
            .map(|endpoint| (Source::Monitor(endpoint.url.clone()), vec![endpoint.clone()]))
            .collect();
        let roster = trust.map(Trust::roster_by_host);
        let hosts: BTreeSet<HostId> = match &roster {
            Some(roster) => roster.keys().cloned().collect(),
            None => {
                let followed = running.keys().filter_map(|source| match source {
                    Source::Host(host) => Some(host.clone()),
                    Source::Monitor(_) => None,
                });
                addresses.hosts.keys().cloned().chain(followed).collect()
            }
        };
        for host in hosts {
            let key = roster.as_ref().and_then(|roster| roster.get(&host).copied());
            let source = Source::Host(host.clone());
            let mut urls = addresses.hosts.get(&host).cloned().unwrap_or_default();
            // What it was reached by before, and what it says of itself, may still work.
            let known = running.get(&source).map(|running| running.endpoints.borrow().clone());
            let before = known.into_iter().flatten().map(|endpoint| endpoint.url);
            let own = view.host(&host).map(|row| row.host.urls.clone()).unwrap_or_default();
            for url in before.chain(own) {
                if !urls.contains(&url) {
                    urls.push(url);
                }
            }
            urls.truncate(URLS_MAX);
            let pinned = |url| Endpoint { url, key, host: Some(host.clone()) };
            wanted.insert(source, urls.into_iter().map(pinned).collect());
        }
        wanted
    }

    fn adjust(
        &self,
        running: &mut BTreeMap<Source, Running>,
        wanted: BTreeMap<Source, Vec<Endpoint>>,
    ) {
        running.retain(|source, _| {
            let is_wanted = wanted.contains_key(source);
            if !is_wanted {
                self.connections.remove(source);
            }
            is_wanted
        });
        for (source, endpoints) in wanted {
            match running.get(&source) {
                Some(running) => {
                    running.endpoints.send_if_modified(|known| {
                        let is_news = *known != endpoints;
                        *known = endpoints;
                        is_news
                    });
                }
                None => {
                    let started = self.start(source.clone(), endpoints);
                    running.insert(source, started);
                }
            }
        }
    }

    fn start(&self, source: Source, endpoints: Vec<Endpoint>) -> Running {
        let (endpoints, receiver) = watch::channel(endpoints);
        let connection = Connection { endpoints: receiver.clone(), line: None };
        self.connections.insert(source.clone(), connection);
        let follower = Follower {
            source,
            client: self.client.clone(),
            endpoints: receiver,
            orders: self.orders.clone(),
            published: Arc::clone(&self.published),
            connections: Arc::clone(&self.connections),
            turns: Arc::clone(&self.turns),
            cursor: None,
            mark: None,
        };
        Running { endpoints, task: tokio::spawn(follower.run()).abort_handle() }
    }
}

/// Most addresses of one host that are tried; a host that moved more often has forgotten the first.
const URLS_MAX: usize = 8;
