//! Keeps a host written down wherever its cluster looks for hosts.
//!
//! Decides when to refresh and that a stopping host takes its entries off the lists. Lists of
//! addresses and files are kept by people; nothing is announced there.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mdns::Announcement;
use super::{ClusterUrl, Pace, Source};
use crate::backoff::{Backoff, random_unit};
use crate::client::{Client, with_causes};

/// How long a stopping host tries to take its entry off a list; it expires anyway.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a host tells of itself; the identity is its client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// What it calls itself; for people.
    pub name: String,
    /// `https://ADDRESS:PORT` where its agent answers.
    pub url: String,
}

/// The tasks that keep a host written down.
#[derive(Debug)]
pub struct Announcer {
    tasks: TaskTracker,
}

impl Announcer {
    /// Starts announcing `advert` at every source that takes announcements, until `shutdown`.
    #[must_use]
    pub fn start(
        sources: &[Source],
        advert: &Advert,
        client: &Client,
        pace: Pace,
        shutdown: &CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        for source in sources {
            let (client, advert, stop) = (client.clone(), advert.clone(), shutdown.clone());
            match source.clone() {
                Source::Url(url) => {
                    drop(
                        tasks.spawn(
                            async move { register(&url, &advert, &client, pace, &stop).await },
                        ),
                    );
                }
                Source::Mdns => {
                    drop(tasks.spawn(async move { announce(&advert, &client, pace, &stop).await }));
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
    url: &ClusterUrl,
    advert: &Advert,
    client: &Client,
    pace: Pace,
    stop: &CancellationToken,
) {
    let mut backoff = Backoff::new(pace.retry_min, pace.retry_max);
    let mut entry = None;
    loop {
        let asked = stop.run_until_cancelled(url.register(client, &advert.name, &advert.url)).await;
        let wait = match asked {
            None => break,
            Some(Ok(instance)) => {
                if entry.is_none() {
                    tracing::info!(%url, "registered as {}", advert.url);
                }
                entry = Some(instance.id);
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
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            break;
        }
    }
    if let Some(id) = entry {
        let withdrawn = timeout(FAREWELL, url.withdraw(client, &id)).await;
        if !matches!(withdrawn, Ok(Ok(()))) {
            tracing::info!(%url, "could not take our entry off the list; it will expire");
        }
    }
}

async fn announce(advert: &Advert, client: &Client, pace: Pace, stop: &CancellationToken) {
    let mut backoff = Backoff::new(pace.retry_min, pace.retry_max);
    let host = client.identity().host_id();
    loop {
        let announcement = Announcement::start(advert, &host);
        let Err(error) = &announcement else {
            stop.cancelled().await;
            return;
        };
        if backoff.failures() == 0 {
            tracing::warn!("announce by mDNS: {error}");
        }
        let wait = backoff.next(random_unit());
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}
