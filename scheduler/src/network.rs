//! Reaches hosts and arbiters by their HTTP interfaces.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::amounts::Amounts;
use protocol::api::{OfferReply, OfferRequest, PutHandoff, TenantBook, TenantRoom};
use protocol::id::{HostId, ImageName, JobId, OfferId, TenantId};
use protocol::image::{FetchImage, ImageStatus};
use protocol::job::{Job, RunKey};
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::{Answer, Offer};
use protocol::trust::{Slot, Trust};
use protocol::view::HostRow;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument as _;
use transport::client::Patience;
use transport::{CallError, Client, Clock, Endpoint, Method, Reply};

use crate::follow::Picture;
use crate::knowledge::Knowledge;
use crate::poll::NoRoom;
use crate::reach::{JobAsk, Reach, Trouble};

/// A host answers within this, or is asked again: an accepted PUT costs it one fsync.
const HOST_PATIENCE: Patience =
    Patience { connect: Duration::from_secs(2), call: Duration::from_secs(10) };
/// An offer lasts 9 s, so arbiters that do not answer at once are passed by.
const ARBITER_PATIENCE: Patience =
    Patience { connect: Duration::from_secs(1), call: Duration::from_secs(3) };

/// An arbiter says at once what it could book, or after the second for which it asks hosts; who is
/// slower is away for now.
const ROOM_PATIENCE: Patience =
    Patience { connect: Duration::from_millis(700), call: Duration::from_millis(1_500) };

/// The network, the view, and what hosts have said.
#[derive(Debug, Clone)]
pub struct Network {
    /// Asks.
    pub client: Client,
    /// For the age of what hosts say.
    pub clock: Clock,
    /// Where hosts are, and what they publish.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Who the arbiters are.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// What hosts say is kept here for the next plan.
    pub knowledge: Arc<Mutex<Knowledge>>,
}

impl Reach for Network {
    async fn job(&self, host: &HostId, job: &JobId, ask: JobAsk) -> Result<Job, Trouble> {
        let path = format!("/v1/jobs/{job}");
        match ask {
            JobAsk::Read => self.call(Method::GET, host, &path, &()).await,
            JobAsk::Put(body) => self.call(Method::PUT, host, &path, &body).await,
            JobAsk::Stop(body) => {
                self.call(Method::POST, host, &format!("{path}/stop"), &body).await
            }
            JobAsk::Resize(body) => {
                self.call(Method::POST, host, &format!("{path}/resize"), &body).await
            }
            JobAsk::UndoResize(key) => {
                let path = format!("{path}/resize/undo?{}", query(key));
                self.call(Method::POST, host, &path, &()).await
            }
            JobAsk::Migrate(body, revision) => {
                let planned = revision.map(|revision| format!("?revision={revision}"));
                let path = format!("{path}/migrate{}", planned.unwrap_or_default());
                self.call(Method::POST, host, &path, &body).await
            }
            JobAsk::CancelMigration(key) => {
                let path = format!("{path}/migrate/cancel?{}", query(key));
                self.call(Method::POST, host, &path, &()).await
            }
            JobAsk::HandOver(handoff) => {
                let body = PutHandoff { handoff };
                self.call(Method::POST, host, &format!("{path}/handoff"), &body).await
            }
        }
    }

    async fn delete(
        &self,
        host: &HostId,
        job: &JobId,
        key: RunKey,
        shared: bool,
    ) -> Result<(), Trouble> {
        // Agents that know no pools are not told of them.
        let also = if shared { "&shared=true" } else { "" };
        let path = format!("/v1/jobs/{job}?{}{also}", query(key));
        let IgnoredAny = self.call(Method::DELETE, host, &path, &()).await?;
        Ok(())
    }

    async fn offer(&self, host: &HostId, request: &OfferRequest) -> Result<OfferReply, Trouble> {
        self.call(Method::POST, host, "/v1/offers", request).await
    }

    async fn void_offer(&self, host: &HostId, offer: OfferId) -> Result<(), Trouble> {
        let path = format!("/v1/offers/{}/{}", offer.epoch, offer.num);
        let IgnoredAny = self.call(Method::DELETE, host, &path, &()).await?;
        Ok(())
    }

    async fn image(
        &self,
        host: &HostId,
        image: &ImageName,
        fetch: Option<FetchImage>,
    ) -> Result<ImageStatus, Trouble> {
        let path = format!("/v1/images/{image}");
        match fetch {
            Some(body) => self.call(Method::POST, host, &format!("{path}/fetch"), &body).await,
            None => self.call(Method::GET, host, &path, &()).await,
        }
    }

    async fn grant(
        &self,
        arbiter: &Slot,
        offer: &Signed<Offer>,
        debit: Option<Amounts>,
    ) -> Result<Answer, String> {
        let client = self.client.with_patience(ARBITER_PATIENCE);
        let endpoint = Endpoint::of_key(arbiter.url.clone(), arbiter.key);
        match client.send(Method::POST, &endpoint, &grants_path(debit), offer).await {
            Ok(reply) => Ok(reply.body),
            Err(error) => Err(full(&error)),
        }
    }

    async fn tenant_rooms(
        &self,
        arbiters: Vec<Slot>,
        tenant: &TenantId,
        job: &JobId,
        is_fresh: bool,
    ) -> Vec<(u32, Result<TenantRoom, NoRoom>)> {
        let mut asked = JoinSet::new();
        for Slot { slot, key, url } in arbiters {
            let client = self.client.with_patience(ROOM_PATIENCE);
            let query = if is_fresh { "?fresh=true" } else { "" };
            let path = format!("/v1/tenants/{tenant}/jobs/{job}{query}");
            let ask = async move {
                let room = client.get::<TenantRoom>(&Endpoint::of_key(url, key), &path).await;
                (slot, room.map_err(|error| no_room(&error)))
            };
            asked.spawn(ask.in_current_span());
        }
        asked.join_all().await
    }

    async fn tenant_book(&self, arbiter: &Slot, tenant: &TenantId) -> Result<TenantBook, String> {
        let client = self.client.with_patience(ARBITER_PATIENCE);
        let endpoint = Endpoint::of_key(arbiter.url.clone(), arbiter.key);
        let asked = client.get(&endpoint, &format!("/v1/tenants/{tenant}")).await;
        asked.map_err(|error| full(&error))
    }

    fn trust(&self) -> Option<Arc<Trust>> {
        self.trust.borrow().clone()
    }

    fn row<T>(&self, host: &HostId, read: impl FnOnce(&HostRow) -> T) -> Option<T> {
        self.picture.borrow().view.host(host).map(read)
    }

    fn hear(&self, host: &HostId, job: &JobId, row: Option<Job>) {
        let mut knowledge = self.knowledge.lock().expect("no holder of this lock panics");
        knowledge.hear(self.now_ms(), host.clone(), job.clone(), row);
    }

    fn hear_no(&self, host: &HostId, no: &Refusal) {
        let mut knowledge = self.knowledge.lock().expect("no holder of this lock panics");
        knowledge.hear_no(self.now_ms(), host, no);
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }

    async fn sleep(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn change(&self, host: &HostId, job: &JobId, ms: u64) {
        let mut picture = self.picture.clone();
        let shown =
            |picture: &Picture| picture.view.host(host).and_then(|row| row.jobs.get(job)).cloned();
        let before = shown(&picture.borrow_and_update());
        let changed = picture.wait_for(|picture| shown(picture) != before);
        let _ = timeout(Duration::from_millis(ms), changed).await;
    }
}

impl Network {
    /// One request to a host, by its addresses in turn.
    async fn call<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        host: &HostId,
        path: &str,
        body: &B,
    ) -> Result<T, Trouble> {
        let urls = self.row(host, |row| row.host.urls.clone()).unwrap_or_default();
        let client = self.client.with_patience(HOST_PATIENCE);
        let mut what = format!("{} is not in the view", host.short());
        for url in urls {
            let endpoint = Endpoint::of_host(url, host.clone());
            let error = match client.send(method.clone(), &endpoint, path, body).await {
                Ok(Reply { body, .. }) => return Ok(body),
                Err(error) => error,
            };
            match &error {
                // Nothing left this machine: another address may do.
                CallError::NotSent { .. } => what = full(&error),
                CallError::Problem { problem, .. } => {
                    return Err(match &problem.refusal {
                        Some(refusal) => refusal.clone().into(),
                        None if problem.status >= 500 => {
                            Trouble::Unclear { what: full(&error), is_ambiguous: true }
                        }
                        None => Trouble::Refused(Refusal::Invalid { message: full(&error) }),
                    });
                }
                CallError::Ambiguous { .. } | CallError::BadAnswer { .. } => {
                    return Err(Trouble::Unclear { what: full(&error), is_ambiguous: true });
                }
            }
        }
        Err(Trouble::Unclear { what, is_ambiguous: false })
    }
}

/// A task, as hosts are told of one that is being undone.
fn query(RunKey { run, task, claim }: RunKey) -> String {
    format!("run={run}&task={task}&claim={claim}")
}

/// Where an arbiter is asked to book so much.
fn grants_path(debit: Option<Amounts>) -> String {
    match debit {
        None => "/v1/grants".to_owned(),
        Some(debit) => {
            let Amounts { vcpus, memory_bytes, disk_bytes, vms } = debit;
            let of_vms = if debit.tells_vms() { format!("&vms={vms}") } else { String::new() };
            format!(
                "/v1/grants?vcpus={vcpus}&memory_bytes={memory_bytes}&disk_bytes={disk_bytes}{of_vms}"
            )
        }
    }
}

/// Why an arbiter has not said what it could book.
fn no_room(error: &CallError) -> NoRoom {
    match error {
        CallError::Problem { problem, .. } if problem.status == 404 => NoRoom::Unknown,
        error => NoRoom::Silent(full(error)),
    }
}

/// An error with its causes.
fn full(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
