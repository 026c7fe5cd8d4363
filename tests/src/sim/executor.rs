//! The simulated network below the scheduler's own [`Executor`].
//!
//! A waiting task polls instead of being woken by the view.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use host_agent::core::{Reply, Request};
use protocol::amounts::Amounts;
use protocol::api::{OfferReply, OfferRequest, TenantBook, TenantRoom};
use protocol::id::{HostId, ImageName, JobId, OfferId, RunId, TenantId};
use protocol::image::{FetchImage, ImageStatus};
use protocol::job::{Job, RunKey};
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::{Answer, Offer};
use protocol::trust::{Slot, Trust};
use protocol::view::HostRow;
use scheduler::{Dispatch, Executor, JobAsk, Knowledge, NoRoom, Picture, Reach, Trouble};

use super::message::{Ask, CallTrouble, NodeId, Told};
use super::tasks::{Command, Ctx};

const HOST_PATIENCE_MS: u64 = 10_000;
const ARBITER_PATIENCE_MS: u64 = 3_000;
const ROOM_PATIENCE_MS: u64 = 1_500;

/// What a simulated scheduler's tasks reach hosts and arbiters by.
#[derive(Clone)]
pub(super) struct Wires {
    /// Asks and waits.
    pub ctx: Ctx,
    /// The engine's view.
    pub picture: Rc<RefCell<Picture>>,
    /// What hosts have said.
    pub knowledge: Rc<RefCell<Knowledge>>,
    /// The trust document.
    pub trust: Arc<Trust>,
    /// Where hosts answer.
    pub hosts: Rc<BTreeMap<HostId, NodeId>>,
    /// Where arbiters answer, by slot.
    pub arbiters: Rc<BTreeMap<u32, NodeId>>,
}

/// Carries out one dispatch and says so.
pub(super) async fn perform(wires: Wires, run: RunId, flight: u64, dispatch: Dispatch) {
    let ctx = wires.ctx.clone();
    let answer = Executor(wires).perform(dispatch).await;
    ctx.say(Command::Answered(run, flight, Box::new(answer)));
}

impl Reach for Wires {
    async fn job(&self, host: &HostId, job: &JobId, ask: JobAsk) -> Result<Job, Trouble> {
        let job = job.clone();
        let request = match ask {
            JobAsk::Read => {
                return match self.send(host, Ask::Job(job)).await? {
                    Told::Job(read) => read.map_err(Trouble::from),
                    other => unreachable!("a read was answered with {other:?}"),
                };
            }
            JobAsk::Put(put) => Request::Put { job, put },
            JobAsk::Stop(stop) => Request::Stop { job, stop },
            JobAsk::Resize(resize) => Request::Resize { job, resize },
            JobAsk::UndoResize(key) => Request::UndoResize { job, run: Some(key) },
            JobAsk::Migrate(migrate, revision) => Request::Migrate { job, migrate, revision },
            JobAsk::CancelMigration(key) => Request::CancelMigration { job, run: Some(key) },
            JobAsk::HandOver(handoff) => Request::Handoff { job, handoff },
        };
        match self.call(host, request).await? {
            Reply::Accepted(job) | Reply::AlreadySo(job) => Ok(*job),
            other => unreachable!("a request about a job was answered with {other:?}"),
        }
    }

    async fn delete(
        &self,
        host: &HostId,
        job: &JobId,
        key: RunKey,
        shared: bool,
    ) -> Result<(), Trouble> {
        self.call(host, Request::Delete { job: job.clone(), run: Some(key), shared }).await?;
        Ok(())
    }

    async fn offer(&self, host: &HostId, request: &OfferRequest) -> Result<OfferReply, Trouble> {
        match self.call(host, Request::Offer(request.clone())).await? {
            Reply::Offered(reply) => Ok(reply),
            other => unreachable!("a request for an offer was answered with {other:?}"),
        }
    }

    async fn void_offer(&self, host: &HostId, offer: OfferId) -> Result<(), Trouble> {
        self.call(host, Request::VoidOffer(offer)).await?;
        Ok(())
    }

    async fn image(
        &self,
        _: &HostId,
        _: &ImageName,
        _: Option<FetchImage>,
    ) -> Result<ImageStatus, Trouble> {
        unreachable!("no job of the simulation has an image")
    }

    async fn grant(
        &self,
        arbiter: &Slot,
        offer: &Signed<Offer>,
        debit: Option<Amounts>,
    ) -> Result<Answer, String> {
        let node = *self.arbiters.get(&arbiter.slot).ok_or("nobody answers there")?;
        match self.ctx.call(node, Ask::Grants(offer.clone(), debit), ARBITER_PATIENCE_MS).await {
            Ok(Told::Answer(answer)) => Ok(answer),
            Ok(_) | Err(_) => Err("no answer".to_owned()),
        }
    }

    /// One after the other: nothing here can wait for several.
    async fn tenant_rooms(
        &self,
        arbiters: Vec<Slot>,
        tenant: &TenantId,
        job: &JobId,
        is_fresh: bool,
    ) -> Vec<(u32, Result<TenantRoom, NoRoom>)> {
        let mut rooms = Vec::new();
        for arbiter in arbiters {
            let Some(node) = self.arbiters.get(&arbiter.slot) else { continue };
            let (tenant, job) = (tenant.clone(), job.clone());
            let ask = Ask::TenantRoom { tenant, job, is_fresh };
            let room = match self.ctx.call(*node, ask, ROOM_PATIENCE_MS).await {
                Ok(Told::TenantRoom(room)) => Ok(room),
                Ok(_) | Err(_) => Err(NoRoom::Silent("no answer".to_owned())),
            };
            rooms.push((arbiter.slot, room));
        }
        rooms
    }

    async fn tenant_book(&self, arbiter: &Slot, tenant: &TenantId) -> Result<TenantBook, String> {
        self.ctx.say(Command::Hit("quota.fragmented"));
        let node = *self.arbiters.get(&arbiter.slot).ok_or("nobody answers there")?;
        match self.ctx.call(node, Ask::TenantBook(tenant.clone()), ARBITER_PATIENCE_MS).await {
            Ok(Told::TenantBook(book)) => Ok(book),
            Ok(_) | Err(_) => Err("no answer".to_owned()),
        }
    }

    fn trust(&self) -> Option<Arc<Trust>> {
        Some(Arc::clone(&self.trust))
    }

    fn row<T>(&self, host: &HostId, read: impl FnOnce(&HostRow) -> T) -> Option<T> {
        self.picture.borrow().view.host(host).map(read)
    }

    fn hear(&self, host: &HostId, job: &JobId, row: Option<Job>) {
        self.knowledge.borrow_mut().hear(self.now_ms(), host.clone(), job.clone(), row);
    }

    fn hear_no(&self, host: &HostId, no: &Refusal) {
        self.knowledge.borrow_mut().hear_no(self.now_ms(), host, no);
    }

    fn now_ms(&self) -> u64 {
        self.ctx.now().mono_ms
    }

    async fn sleep(&self, ms: u64) {
        self.ctx.sleep(ms).await;
    }

    async fn change(&self, _: &HostId, _: &JobId, ms: u64) {
        self.ctx.sleep(ms).await;
    }
}

impl Wires {
    async fn call(&self, host: &HostId, request: Request) -> Result<Reply, Trouble> {
        match self.send(host, Ask::Agent(request)).await? {
            Told::Agent(answer) => answer.map_err(Trouble::from),
            other => unreachable!("a request was answered with {other:?}"),
        }
    }

    async fn send(&self, host: &HostId, ask: Ask) -> Result<Told, Trouble> {
        let is_in_view = self.row(host, |_| ()).is_some();
        let Some(node) = self.hosts.get(host).copied().filter(|_| is_in_view) else {
            let what = format!("{} is not in the view", host.short());
            return Err(Trouble::Unclear { what, is_ambiguous: false });
        };
        let name = ask.name();
        self.ctx.call(node, ask, HOST_PATIENCE_MS).await.map_err(|trouble| Trouble::Unclear {
            what: format!("{name} at {}: no answer", host.short()),
            is_ambiguous: trouble == CallTrouble::Ambiguous,
        })
    }
}
