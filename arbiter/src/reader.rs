//! Asks each roster host, again and again, what it holds, and tells the core. Who is found to obey an older
//! trust document is given the one in force: a host that was away may not know what was taken from it.
//!
//! Decides when and by which address; pinned to the host's key, so that the answer is the host's
//! own word. What follows from it is the core's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::host::Inventory;
use protocol::id::HostId;
use protocol::signed::{PublicKey, Signed};
use protocol::trust::Trust;
use serde::de::IgnoredAny;
use tokio::sync::{Notify, watch};
use transport::backoff::random_unit;
use transport::client::Patience;
use transport::discovery::Addresses;
use transport::{CancellationToken, Client, Clock, Endpoint, Method, with_causes};

use crate::core::Input;
use crate::serve::Shared;
use crate::statement::{OpenOffers, Statement};

/// How often a host is read: renewal of protocol §12. Bounds how long a voided offer or an ended
/// job stays in the books.
const READ_INTERVAL: Duration = Duration::from_millis(1_500);

/// How often a host is given the same trust document that it does not take.
const BRING_INTERVAL_MS: u64 = 15_000;

/// A host on the network answers in milliseconds; a longer wait only delays the next address.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(1), call: Duration::from_secs(3) };

/// How the reading of one host goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// When the last finished attempt began, on the arbiter's clock.
    pub(crate) asked_ms: Option<u64>,
    /// Why that attempt gave nothing.
    pub(crate) trouble: Option<String>,
}

/// A host being read.
pub(crate) struct Reader {
    wake: Arc<Notify>,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
}

impl Reader {
    /// Starts reading the host that owns this key, until dropped.
    pub(crate) fn start(
        key: PublicKey,
        shared: &Arc<Shared>,
        client: &Client,
        clock: &Clock,
        addresses: watch::Receiver<Addresses>,
        shutdown: &CancellationToken,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let (publish, progress) = watch::channel(Progress::default());
        let stop = shutdown.child_token();
        let task = Task {
            host: HostId::of(&key),
            key,
            shared: Arc::clone(shared),
            client: client.with_patience(PATIENCE),
            clock: clock.clone(),
            addresses,
            wake: Arc::clone(&wake),
            publish,
            brought: None,
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(task.run()).await;
        });
        Self { wake, progress, stop }
    }

    /// Reads now instead of when its time comes.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// How it goes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Task {
    host: HostId,
    key: PublicKey,
    shared: Arc<Shared>,
    client: Client,
    clock: Clock,
    addresses: watch::Receiver<Addresses>,
    wake: Arc<Notify>,
    publish: watch::Sender<Progress>,
    /// The document that the host was given last, and when.
    brought: Option<(Signed<Trust>, u64)>,
}

impl Task {
    async fn run(mut self) {
        // The address that answered last comes first.
        let mut best: Option<String> = None;
        let mut own_urls = Vec::new();
        loop {
            let asked_ms = self.clock.now().mono_ms;
            let urls = self.urls(best.take(), &own_urls);
            let trouble = match self.read(urls).await {
                Ok((url, statement, urls)) => {
                    let host = self.host.clone();
                    if self.shared.tell(Input::Statement { host, asked_ms, statement }) {
                        self.bring_trust(&url).await;
                    }
                    (best, own_urls) = (Some(url), urls);
                    None
                }
                Err(why) => Some(why),
            };
            self.shared.count().read(trouble.is_none());
            self.note(asked_ms, trouble);
            self.rest().await;
        }
    }

    async fn rest(&mut self) {
        // Spread by ±10 %, so that hosts started together are not read together for ever.
        let wait = READ_INTERVAL.mul_f64(0.9 + 0.2 * random_unit());
        let reads_when_asked = self.shared.reads_when_asked();
        tokio::select! {
            () = tokio::time::sleep(wait), if !reads_when_asked => {}
            () = self.wake.notified() => {}
            // A new address may be the first that works. When nobody looks for hosts any more the
            // process is stopping.
            changed = self.addresses.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }

    fn urls(&mut self, best: Option<String>, own_urls: &[String]) -> Vec<String> {
        let addresses = self.addresses.borrow_and_update();
        let found = addresses.hosts.get(&self.host).into_iter().flatten();
        let mut urls: Vec<String> = Vec::new();
        for url in best.iter().chain(found).chain(own_urls) {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }

    async fn read(&self, urls: Vec<String>) -> Result<(String, Statement, Vec<String>), String> {
        let mut trouble = "discovery knows no address of it".to_owned();
        for url in urls {
            match self.read_at(&url).await {
                Ok((statement, own_urls)) => return Ok((url, statement, own_urls)),
                Err(why) => trouble = why,
            }
        }
        Err(trouble)
    }

    /// The open offers first: see [`Statement::of_reads`].
    async fn read_at(&self, url: &str) -> Result<(Statement, Vec<String>), String> {
        let to = Endpoint::of_key(url, self.key);
        let offers: OpenOffers =
            self.client.get(&to, "/v1/offers").await.map_err(|e| with_causes(&e))?;
        let inventory: Inventory =
            self.client.get(&to, "/v1/inventory").await.map_err(|e| with_causes(&e))?;
        let statement = Statement::of_reads(&self.host, offers, &inventory)
            .map_err(|e| format!("{url}: {e}"))?;
        Ok((statement, inventory.host.urls))
    }

    /// The host believes it for the operator's signature, whoever brings it.
    async fn bring_trust(&mut self, url: &str) {
        let Some(signed) = self.shared.signed_trust() else { return };
        let now_ms = self.clock.now().mono_ms;
        let is_again = |(before, at_ms): &(Signed<Trust>, u64)| {
            *before == signed && now_ms < at_ms + BRING_INTERVAL_MS
        };
        if self.brought.as_ref().is_some_and(is_again) {
            return;
        }
        self.brought = Some((signed.clone(), now_ms));
        let to = Endpoint::of_key(url, self.key);
        let path = "/v1/config/trust";
        match self.client.send::<_, Option<IgnoredAny>>(Method::PUT, &to, path, &signed).await {
            Ok(_) => tracing::info!(host = %self.host, "the host was given the trust document"),
            Err(e) => {
                tracing::warn!(host = %self.host, "give the trust document: {}", with_causes(&e));
            }
        }
    }

    fn note(&self, asked_ms: u64, trouble: Option<String>) {
        let was_in_trouble = self.publish.borrow().trouble.is_some();
        match &trouble {
            Some(why) if !was_in_trouble => {
                tracing::warn!(host = %self.host, "read what the host holds: {why}");
            }
            None if was_in_trouble => tracing::info!(host = %self.host, "the host answers again"),
            Some(_) | None => {}
        }
        self.publish.send_replace(Progress { asked_ms: Some(asked_ms), trouble });
    }
}

/// Readers by host, one for each on the roster.
pub(crate) type Readers = BTreeMap<HostId, Reader>;
