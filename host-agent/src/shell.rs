//! The loop around the core: inputs in, effects performed in the one order that loses nothing.
//!
//! Inputs that wait are handled together. All that they want written goes to disk in one
//! transaction (group commit), and only then is anybody answered, told, or anything done. If the
//! disk says no, the agent ends with that error: guests run on, and a ledger that can't remember
//! must not promise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::{CpuPlace, Hypervisor, WatchEvent, call};
use protocol::api::HoldDebits;
use protocol::id::{JobId, OfferId};
use protocol::refusal::Refusal;
use protocol::signed::{Digest, Signed};
use protocol::trust::Trust;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use transport::traces::Place;
use transport::{Client, Clock};
use uuid::Uuid;

use crate::core::{
    Agent, Effect, Input, Look, Reply, ReplyId, Request, ServiceNews, Standing, Turn, Work, WorkId,
    WorkOutcome, Write,
};
use crate::feed::Feed;
use crate::looks::Looks;
use crate::outage::Outage;
use crate::store::{Store, StoreError};
use crate::traced::Traced;
use crate::trust_file::TrustFile;
use crate::works::Works;

/// Inputs waiting for the core. Each is handled in microseconds; a queue this long means that the
/// disk is stalled, and callers are better told so by a time-out of their own.
pub(crate) const MAILBOX_MAX: usize = 1024;
/// Inputs handled for one disk sync.
const BATCH_MAX: usize = 128;
/// How often failed work is tried again and offers expire.
const TICK: Duration = Duration::from_secs(1);
/// How often all domains are listed even so: an event or a look may have been lost.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// How long listing all domains may take.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How long finding a guest's addresses may take: longer than its agent is given to answer, and
/// libvirt's own wait for its turn.
const CARDS_DEADLINE: Duration = Duration::from_secs(40);

/// Something for the loop.
pub(crate) enum Post {
    /// An input without an answer.
    Input(Input),
    /// An input, and who waits until what comes of it can be read.
    Awaited(Input, oneshot::Sender<()>),
    /// A request, where its answer goes, and the place in a trace where it belongs.
    Request(Box<Request>, oneshot::Sender<Result<Reply, Refusal>>, Option<Place>),
    /// What arbiters rebuild their books from, beside the inventory.
    OpenOffers(oneshot::Sender<Curious>),
}

/// What arbiters read before the inventory.
#[derive(Debug)]
pub(crate) struct Curious {
    /// The highest offer ever made.
    pub(crate) watermark: OfferId,
    /// The open ones.
    pub(crate) offers: Vec<OfferId>,
    /// The change of arbiters that the host has agreed to.
    pub(crate) agreed: Option<Digest>,
    /// What arbiters have booked for what it holds.
    pub(crate) debits: Vec<HoldDebits>,
    /// Offers that ended without having been redeemed.
    pub(crate) unused: Vec<OfferId>,
}

/// The trust document in force, for those who check permissions.
pub(crate) type TrustInForce = Arc<watch::Sender<Option<InForce>>>;

/// A trust document as it came and as it reads.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// As an operator signed it.
    pub(crate) signed: Signed<Trust>,
    /// What it says.
    pub(crate) trust: Arc<Trust>,
}

/// The parts of a running agent.
pub(crate) struct Shell {
    /// The core.
    pub agent: Agent,
    /// The ledger.
    pub store: Arc<Store>,
    /// What is published.
    pub feed: Arc<Feed>,
    /// Those who do slow things.
    pub works: Arc<Works>,
    /// For permissions.
    pub trust: TrustInForce,
    /// Where the keeper and services read the trust document.
    pub trust_file: Arc<TrustFile>,
    /// Where inputs of our own go.
    pub posts: mpsc::Sender<Post>,
    /// For questions to arbiters.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// True while the last draft, or what a keeper has left of an earlier life's, had something that needs cover.
    pub is_kept: bool,
    /// Jobs that somebody follows.
    pub traced: Traced,
    /// Looks at domains that have no answer yet.
    pub looks: Arc<Looks>,
}

impl Shell {
    /// Runs until `shutdown` or until the ledger fails.
    pub(crate) async fn run(
        mut self,
        mut mailbox: mpsc::Receiver<Post>,
        shutdown: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut ticks = tokio::time::interval(TICK);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {
                    self.trust_file.retry();
                    batch.push(Post::Input(Input::Tick));
                }
                received = mailbox.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return Ok(());
                    }
                }
            }
            self.handle(&mut batch).await?;
        }
    }

    async fn handle(&mut self, batch: &mut Vec<Post>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut effects = Vec::new();
        let mut callers = BTreeMap::new();
        let (mut curious, mut waiting) = (Vec::new(), Vec::new());
        for post in batch.drain(..) {
            match post {
                Post::Input(input) => self.agent.handle(now, input, &mut effects),
                Post::Awaited(input, tell) => {
                    self.agent.handle(now, input, &mut effects);
                    waiting.push(tell);
                }
                Post::Request(request, answer, place) => {
                    if let Some(place) = place {
                        self.traced.note(now.mono_ms, &request, place);
                    }
                    let reply = ReplyId(callers.len() as u64);
                    callers.insert(reply, answer);
                    let input = Input::Request { reply, request };
                    self.agent.handle(now, input, &mut effects);
                }
                Post::OpenOffers(answer) => curious.push(answer),
            }
        }
        self.persist(&mut effects).await?;
        self.take_trust(&mut effects);
        self.draft();
        let effects = self.publish(effects);
        for effect in effects {
            self.perform(effect, &mut callers);
        }
        // Only now does the inventory show every hold that these offers may have become: whoever
        // reads the offers first and the inventory second misses nothing (protocol R3, R13).
        for answer in curious {
            let (watermark, offers) = self.agent.open_offers();
            let (agreed, debits) = (self.agent.agreed(), self.agent.hold_debits());
            let unused = self.agent.unused_offers();
            let _ = answer.send(Curious { watermark, offers, agreed, debits, unused });
        }
        for tell in waiting {
            let _ = tell.send(());
        }
        Ok(())
    }

    /// Writes all that is to be written, in one transaction.
    async fn persist(&self, effects: &mut Vec<Effect>) -> Result<(), StoreError> {
        let mut writes: Vec<Write> = Vec::new();
        effects.retain_mut(|effect| match effect {
            Effect::Persist(write) => {
                writes.push(write.clone());
                false
            }
            _ => true,
        });
        if writes.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let committed = tokio::task::spawn_blocking(move || store.commit(&writes)).await;
        committed.expect("a commit does not panic")
    }

    /// What is on disk now may be stated; before anything is started by it. A last draft says that there
    /// is nothing to cover any more.
    fn draft(&mut self) {
        let needs_keeper = self.agent.needs_keeper();
        if (needs_keeper || self.is_kept)
            && let Some(draft) = self.agent.draft()
        {
            self.works.warden.draft(draft);
            self.is_kept = needs_keeper;
        }
    }

    /// A new trust document is in force before anybody hears that it was taken.
    fn take_trust(&self, effects: &mut Vec<Effect>) {
        effects.retain(|effect| match effect {
            Effect::TrustChanged(signed) => {
                publish_trust(&self.trust, &self.trust_file, signed);
                false
            }
            _ => true,
        });
    }

    /// Whoever is answered can read what was answered: all of the batch is shown before anybody hears
    /// that it was taken. The rest comes back.
    fn publish(&self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Publish(event) => self.feed.publish(event),
                effect => rest.push(effect),
            }
        }
        rest
    }

    fn perform(
        &self,
        effect: Effect,
        callers: &mut BTreeMap<ReplyId, oneshot::Sender<Result<Reply, Refusal>>>,
    ) {
        match effect {
            Effect::Reply(reply, answer) => {
                if let Some(caller) = callers.remove(&reply) {
                    // A caller that has gone asks again; what was accepted stays accepted.
                    let _ = caller.send(answer);
                }
            }
            Effect::Work { job, id, uuid, work, turn, cpus } => {
                self.begin(job, (id, uuid), work, turn, cpus);
            }
            Effect::Look(look) => self.look(look),
            Effect::LookAtCards { job, uuid, look } => self.look_at_cards(job, uuid, look),
            Effect::Listen(job) => self.listen(job),
            Effect::AskRight => self.ask_right(),
            Effect::PoolsChanged(config) => self.works.storage.pools().declare(&config),
            Effect::KeepNetworks => self.works.networks.want(self.agent.networks()),
            Effect::Persist(_) | Effect::TrustChanged(_) | Effect::Publish(_) => {
                unreachable!("performed before everything else")
            }
        }
    }

    fn begin(
        &self,
        job: JobId,
        (id, uuid): (WorkId, Uuid),
        work: Work,
        turn: Option<Box<Turn>>,
        cpus: Box<CpuPlace>,
    ) {
        let (works, posts) = (Arc::clone(&self.works), self.posts.clone());
        let span = self.traced.work(self.clock.now().mono_ms, &job, &work);
        tokio::spawn(async move {
            let performed = {
                let job = job.clone();
                let perform = async move {
                    let takes = work.takes_volumes();
                    let outcome = works.perform(&job, uuid, work, turn.as_deref(), &cpus).await;
                    let turn = turn.as_deref().filter(|_| takes);
                    works.with_list(&job, turn, outcome).await
                };
                tokio::spawn(perform.instrument(span))
            };
            let (snapshots, outcome) = performed.await.unwrap_or_else(|error| {
                (None, WorkOutcome::Unclear(format!("a fault of the agent: {error}")))
            });
            // First, so that no end of such work is written down without it.
            if let Some(snapshots) = snapshots {
                let told = Input::Snapshots { job: job.clone(), snapshots };
                let _ = posts.send(Post::Input(told)).await;
            }
            let _ = posts.send(Post::Input(Input::Done { job, work: id, outcome })).await;
        });
    }

    fn ask_right(&self) {
        let in_force = self.trust.borrow().clone();
        let (client, posts) = (self.client.clone(), self.posts.clone());
        tokio::spawn(async move {
            let standing = match in_force {
                Some(InForce { trust, .. }) => crate::right::ask(&client, &trust).await,
                None => Standing::default(),
            };
            let _ = posts.send(Post::Input(Input::Right(standing))).await;
        });
    }

    /// Says how much a job has said; nothing when that can't be measured.
    fn listen(&self, job: JobId) {
        let (works, posts) = (Arc::clone(&self.works), self.posts.clone());
        tokio::spawn(async move {
            let log = works.storage.console_log(&job);
            if let Ok(found) = tokio::fs::metadata(&log).await {
                let _ = posts.send(Post::Input(Input::Heard { job, bytes: found.len() })).await;
            }
        });
    }

    fn look_at_cards(&self, job: JobId, uuid: Uuid, look: u64) {
        let (hv, posts) = (Arc::clone(&self.works.hv), self.posts.clone());
        tokio::spawn(async move {
            let read = call(&hv, "addresses", CARDS_DEADLINE, move |hv| hv.cards(uuid)).await;
            let cards = read.inspect_err(|error| tracing::debug!(%job, "{error}")).ok();
            let _ = posts.send(Post::Input(Input::Cards { job, look, cards })).await;
        });
    }

    fn look(&self, look: Look) {
        let (hv, posts) = (Arc::clone(&self.works.hv), self.posts.clone());
        tokio::spawn(Arc::clone(&self.looks).look(hv, posts, look));
    }
}

/// Puts a trust document where permissions are checked and where the keeper and services read it.
pub(crate) fn publish_trust(trust: &TrustInForce, file: &TrustFile, signed: &Signed<Trust>) {
    match signed.open() {
        Ok(new) => {
            trust.send_replace(Some(InForce { signed: signed.clone(), trust: Arc::new(new) }));
        }
        Err(error) => tracing::error!("the ledger's trust is not genuine: {error}"),
    }
    file.write(signed);
}

/// Passes on what libvirt says, and lists everything at first and after every gap.
pub(crate) async fn watch_domains(
    hv: Arc<dyn Hypervisor>,
    posts: mpsc::Sender<Post>,
    outage: Arc<Outage>,
    clock: Clock,
) {
    let list = || list(&hv, &posts, &outage, &clock);
    let mut events = hv.watch();
    list().await;
    let mut lists = tokio::time::interval(LIST_INTERVAL);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = lists.tick() => {
                list().await;
                continue;
            }
        };
        let Some(event) = event else { return };
        match event {
            WatchEvent::Domain(event) => {
                let _ = posts.send(Post::Input(Input::Domain(event))).await;
            }
            // The keeper of networks listens for itself.
            WatchEvent::NetworksChanged => {}
            WatchEvent::Reconnected | WatchEvent::Overflowed => list().await,
            WatchEvent::Disconnected { message } => {
                tracing::warn!("the hypervisor can't be reached: {message}; guests run on");
                outage.goes_on(clock.now().mono_ms, message);
            }
        }
    }
}

/// Lists until it works: without a list, nothing may be started.
async fn list(
    hv: &Arc<dyn Hypervisor>,
    posts: &mpsc::Sender<Post>,
    outage: &Outage,
    clock: &Clock,
) {
    loop {
        match call(hv, "list", LIST_DEADLINE, |hv| hv.list()).await {
            Ok(domains) => {
                outage.is_over();
                let _ = posts.send(Post::Input(Input::Domains(domains))).await;
                return;
            }
            Err(error) => {
                tracing::warn!("{error}; tried again");
                outage.goes_on(clock.now().mono_ms, error.to_string());
                tokio::time::sleep(TICK).await;
            }
        }
    }
}

/// Passes on what becomes of services and of migrations under way.
pub(crate) async fn pass_on(
    mut services: mpsc::Receiver<(JobId, ServiceNews)>,
    mut inputs: mpsc::Receiver<Input>,
    posts: mpsc::Sender<Post>,
) {
    loop {
        let input = tokio::select! {
            Some((job, news)) = services.recv() => Input::Service { job, news },
            Some(input) = inputs.recv() => input,
            else => return,
        };
        if posts.send(Post::Input(input)).await.is_err() {
            return;
        }
    }
}
