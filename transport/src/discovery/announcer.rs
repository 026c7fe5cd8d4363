//! Keeps a host written down wherever its cluster looks for hosts.
//!
//! Decides when to refresh, that a host which has moved replaces its entry, and that a stopping host
//! takes its entries off the lists. Lists of
//! addresses and files are kept by people; nothing is announced there.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::mdns::Announcement;
use super::{ASK_MAX, ClusterUrl, Pace, Source};
use crate::backoff::{Backoff, random_unit};
use crate::call_error::with_causes;
use crate::client::Client;

/// How long a stopping host tries to take its entry off a list; it expires anyway.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a host tells of itself; the identity is its client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// What it calls itself; for people.
    pub name: String,
    /// `https://ADDRESS:PORT` where its agent answers.
    pub url: String,
    /// Drawn anew at each start of the agent, so that two machines with one key can be told apart.
    pub life: String,
}

impl Advert {
    /// The advert of an agent that starts now.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self { name: name.into(), url: url.into(), life: Uuid::new_v4().simple().to_string() }
    }
}

/// The tasks that keep a host written down.
#[derive(Debug)]
pub struct Announcer {
    tasks: TaskTracker,
}

impl Announcer {
    /// Starts announcing `advert`, and whatever it becomes, at every source that takes
    /// announcements, until `shutdown`.
    #[must_use]
    pub fn start(
        sources: &[Source],
        advert: &watch::Receiver<Advert>,
        client: &Client,
        pace: Pace,
        shutdown: &CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        let client = client.with_deadline(ASK_MAX);
        // On the local network a host joins the first cluster whose secret it was told.
        let cluster = sources.iter().find_map(|source| match source {
            Source::Url(url) => url.join().map(|_| url.clone()),
            _ => None,
        });
        for source in sources {
            let (client, advert, stop) = (client.clone(), advert.clone(), shutdown.clone());
            match source.clone() {
                Source::Url(url) => {
                    drop(tasks.spawn(register(url, advert, client, pace, stop)));
                }
                Source::Mdns => {
                    let join = cluster
                        .as_ref()
                        .and_then(|cluster| cluster.join_proof(&client.identity().host_id()));
                    drop(tasks.spawn(announce(advert, client, join, pace, stop)));
                }
                Source::Address(_) | Source::File(_) => {}
            }
        }
        tasks.close();
        Self { tasks }
    }

    /// Waits until everything is taken back after `shutdown`.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }
}

async fn register(
    url: ClusterUrl,
    mut advert: watch::Receiver<Advert>,
    client: Client,
    pace: Pace,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(pace.retry_min, pace.retry_max);
    let mut entry: Option<(String, String)> = None;
    loop {
        let now = advert.borrow_and_update().clone();
        let asked = tokio::select! {
            asked = url.register(&client, &now) => Some(asked),
            () = changed(&mut advert) => continue,
            () = stop.cancelled() => None,
        };
        let wait = match asked {
            None => break,
            Some(Ok(instance)) => {
                let told = entry.replace((now.url.clone(), instance.id));
                match told {
                    Some((told, _)) if told == now.url => {}
                    Some((told, id)) => {
                        tracing::info!(%url, "registered as {} instead of {told}", now.url);
                        withdraw(&url, &client, &id).await;
                    }
                    None => tracing::info!(%url, "registered as {}", now.url),
                }
                backoff.reset();
                // Never later than `refresh`: the entry's life is counted in such periods.
                pace.refresh.mul_f64(1.0 - 0.25 * random_unit())
            }
            Some(Err(error)) => {
                if backoff.failures() == 0 {
                    tracing::warn!(%url, "register: {}", with_causes(&error));
                }
                backoff.next(random_unit())
            }
        };
        if stop.run_until_cancelled(rest(wait, &mut advert)).await.is_none() {
            break;
        }
    }
    if let Some((_, id)) = entry {
        withdraw(&url, &client, &id).await;
    }
}

/// Waits, but not once there is something new to tell.
async fn rest(wait: Duration, advert: &mut watch::Receiver<Advert>) {
    let slept = timeout(wait, advert.changed()).await;
    if let Ok(Err(_)) = slept {
        // Nobody will change it any more.
        tokio::time::sleep(wait).await;
    }
}

async fn withdraw(url: &ClusterUrl, client: &Client, entry: &str) {
    let withdrawn = timeout(FAREWELL, url.withdraw(client, entry)).await;
    if !matches!(withdrawn, Ok(Ok(()))) {
        tracing::info!(%url, "could not take our entry off the list; it will expire");
    }
}

async fn announce(
    mut advert: watch::Receiver<Advert>,
    client: Client,
    join: Option<String>,
    pace: Pace,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(pace.retry_min, pace.retry_max);
    let host = client.identity().host_id();
    loop {
        let now = advert.borrow_and_update().clone();
        let announcement = Announcement::start(&now, &host, join.as_deref());
        let is_over = match &announcement {
            Ok(_) => stop.run_until_cancelled(changed(&mut advert)).await.is_none(),
            Err(error) => {
                if backoff.failures() == 0 {
                    tracing::warn!("announce by mDNS: {error}");
                }
                let wait = backoff.next(random_unit());
                stop.run_until_cancelled(rest(wait, &mut advert)).await.is_none()
            }
        };
        if is_over {
            return;
        }
    }
}

/// Waits for a change, for ever if there can be none.
async fn changed(advert: &mut watch::Receiver<Advert>) {
    if advert.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
