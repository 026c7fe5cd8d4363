//! An arbiter's process: its core, a reader for each host, and a task for each request, as in
//! `arbiter/src/serve.rs`. A restart is amnesia; only its key is left.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arbiter::books::Entry;
use arbiter::core::{Core, Effect, Input, Verdict, Waiting};
use arbiter::statement::{Debits, HoldItem, Statement, StatementError};
use protocol::amounts::Amounts;
use protocol::id::{HostId, JobId, TenantId};
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Answer, DenialReason, Offer};
use protocol::trust::{Ready, Trust};
use transport::Now;

use super::liars::Said;
use super::message::{Ask, Back, NodeId, Told};
use super::mutant::Mutant;
use super::tasks::{Command, Ctx};
use super::world::{Event, World, arbiter_key};

const READ_INTERVAL_MS: u64 = 1_500;
/// How often it looks at its host's trust document.
const LOOK_INTERVAL_MS: u64 = 500;
const READ_PATIENCE_MS: u64 = 3_000;
const NEWS_WAIT_MS: u64 = 1_000;
const NEWS_POLL_MS: u64 = 20;

/// An arbiter.
pub struct ArbiterProcess {
    /// Its machine.
    pub node: NodeId,
    /// Its key, which survives.
    pub key: SecretKey,
    /// True once a process with this key has run.
    has_run: bool,
    /// What lives in memory.
    pub life: Option<Rc<Shared>>,
}

/// What readers and requests share.
pub struct Shared {
    /// The core.
    pub core: RefCell<Core>,
    /// When the last finished reading of each host was begun.
    progress: RefCell<Vec<Option<u64>>>,
    key: SecretKey,
    hosts: Vec<(HostId, NodeId)>,
    mutant: Option<Mutant>,
}

impl ArbiterProcess {
    /// An arbiter that has never run.
    #[must_use]
    pub fn new(node: NodeId, n: usize) -> Self {
        Self { node, key: arbiter_key(n), has_run: false, life: None }
    }

    pub(super) fn die(&mut self) {
        self.life = None;
    }
}

impl World {
    pub(super) fn start_arbiter(&mut self, n: usize) {
        let node = self.arbiters[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let hosts: Vec<(HostId, NodeId)> =
            self.hosts.iter().map(|host| (host.id.clone(), host.node)).collect();
        let process = &self.arbiters[n];
        let mut is_silent = process.has_run && self.mutant != Some(Mutant::NoSilenceAfterRestart);
        if self.forgets_aloud(n) {
            is_silent = false;
        }
        let process = &mut self.arbiters[n];
        let core = Core::new(process.key.public(), now_ms, is_silent);
        let takes_books_as_empty =
            process.has_run && self.mutant == Some(Mutant::BooksTakenAsEmpty);
        process.has_run = true;
        let shared = Rc::new(Shared {
            core: RefCell::new(core),
            progress: RefCell::new(vec![None; hosts.len()]),
            key: process.key.clone(),
            hosts,
            mutant: self.mutant,
        });
        process.life = Some(Rc::clone(&shared));
        let life = self.nodes[node.0].life;
        let delay_us = self.chance.between(1_000, 400_000);
        self.after(delay_us, Event::Trust { node, life });
        if self.mutant == Some(Mutant::StartsForgotten) {
            // As if the rule were new: it had none when it was heard of first.
            let trust = self.trust_of_arbiter(n);
            let trust = Trust { policy: Arc::default(), version: 0, ..Trust::clone(&trust) };
            shared.tell(now_ms, Input::Trust(Arc::new(trust)));
        }
        if takes_books_as_empty {
            let trust = self.trust_of_arbiter(n);
            shared.tell(now_ms, Input::Trust(trust));
            for (host, _) in &shared.hosts {
                shared.tell(u64::MAX / 2, empty_statement(host));
            }
        }
        for i in 0..self.hosts.len() {
            let shared = Rc::clone(&shared);
            let offset_ms = self.chance.below(READ_INTERVAL_MS);
            let jitter = self.chance.below(300);
            self.spawn(node, move |ctx| Box::pin(read_host(ctx, shared, i, offset_ms, jitter)));
        }
    }

    /// It looks at its host's document, and will again.
    pub(super) fn learn_trust(&mut self, node: NodeId) {
        let Some(n) = self.arbiters.iter().position(|process| process.node == node) else {
            return;
        };
        let may_change = self.profile.spare_arbiters > 0 || self.profile.spare_witnesses > 0;
        if may_change || self.profile.has_fences {
            let life = self.nodes[node.0].life;
            self.after_local_ms(node, LOOK_INTERVAL_MS, Event::Trust { node, life });
        }
        self.look_at_trust(n);
    }

    fn look_at_trust(&mut self, n: usize) {
        let node = self.arbiters[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let trust = self.trust_of_arbiter(n);
        let Some(shared) = self.arbiters[n].life.clone() else { return };
        let known = shared.core.borrow().trust().map(|known| known.version);
        if known == Some(trust.version) {
            return;
        }
        self.before_trust(n, &shared, &trust);
        let first = if known.is_none() { self.fenced_hosts(&trust) } else { vec![] };
        let effects = shared.tell(now_ms, Input::Trust(trust));
        if self.mutant == Some(Mutant::FenceCompletesForgottenBooks) {
            for host in first {
                shared.tell(u64::MAX / 2, empty_statement(&self.hosts[host].id));
            }
        }
        // Nobody reads sooner for it: the readers are about to.
        drop(effects);
    }

    /// What a mutant tells it first.
    fn before_trust(&self, n: usize, shared: &Shared, trust: &Arc<Trust>) {
        let now_ms = self.now_at(self.arbiters[n].node).mono_ms;
        let is_new = shared.core.borrow().slot().is_err();
        if self.mutant == Some(Mutant::NewMemberCoversAtOnce) && is_new && trust.version > 1 {
            shared
                .tell(now_ms, Input::Trust(Arc::new(Trust { version: 1, ..Trust::clone(trust) })));
        }
        if self.mutant == Some(Mutant::NewMemberTakesBooksAsEmpty) && is_new {
            shared.tell(now_ms, Input::Trust(Arc::clone(trust)));
            for (host, _) in &shared.hosts {
                let Input::Statement { host, asked_ms, mut statement } = empty_statement(host)
                else {
                    continue;
                };
                statement.agreed = trust.change();
                shared.tell(now_ms, Input::Statement { host, asked_ms, statement });
            }
        }
    }

    /// The document on the disk of the host that it runs on.
    fn trust_of_arbiter(&self, n: usize) -> Arc<Trust> {
        let home = &self.hosts[n % self.hosts.len()];
        let signed = home.disk.ledger.trust.as_ref();
        let opened = signed.filter(|signed| **signed != self.trust_signed).map(Signed::open);
        let trust = match opened {
            Some(Ok(trust)) => Arc::new(trust),
            Some(Err(_)) | None => Arc::clone(&self.trust),
        };
        if self.mutant == Some(Mutant::PromiseTooShort) {
            let term_ms = trust.term_ms / 3;
            return Arc::new(Trust { term_ms, ..Trust::clone(&trust) });
        }
        if self.mutant == Some(Mutant::EscrowShareIsWholeQuota) {
            let mut trust = Trust::clone(&trust);
            for quota in trust.quota.values_mut() {
                quota.vcpus = quota.vcpus * u32::try_from(trust.arbiters.len()).unwrap_or(1)
                    / trust.k.max(1)
                    + 1;
            }
            return Arc::new(trust);
        }
        trust
    }

    pub(super) fn arbiter_asked(&mut self, n: usize, ask: Ask, back: Back) {
        let node = self.arbiters[n].node;
        let Some(shared) = self.arbiters[n].life.clone() else { return };
        match self.lie(n, &shared, &ask) {
            Said::Truth => {}
            Said::Nothing => return,
            Said::This(told) => return self.send_answer(node, back, told),
        }
        match ask {
            Ask::Grants(offer, wish) => {
                self.spawn(node, move |ctx| Box::pin(grant(ctx, shared, offer, wish, back)));
            }
            Ask::TenantRoom { tenant, job, is_fresh } => {
                self.spawn(node, move |ctx| {
                    Box::pin(tenant_room(ctx, shared, (tenant, job), is_fresh, back))
                });
            }
            Ask::TenantBook(tenant) => {
                let book = shared.core.borrow().tenant_book(&tenant);
                let told = book.map_or(Told::NotMember, Told::TenantBook);
                self.send_answer(node, back, told);
            }
            Ask::Health => {
                let now_ms = self.now_at(node).mono_ms;
                let core = shared.core.borrow();
                let is_ready = core.waiting_for(now_ms).is_empty();
                let trust_version = core.trust().map(|trust| trust.version);
                drop(core);
                self.send_answer(node, back, Told::Health { trust_version, is_ready });
            }
            Ask::Handover => {
                let word = self.word_of(n, &shared);
                self.send_answer(node, back, Told::Handover(word));
            }
            Ask::Agent(_) | Ask::Job(_) | Ask::OpenOffers | Ask::Inventory => {}
            Ask::Subscribe { .. } => {}
        }
    }
}

impl World {
    /// An arbiter's word that a change may be completed.
    fn word_of(&self, n: usize, shared: &Shared) -> Option<Signed<Ready>> {
        let now_ms = self.now_at(self.arbiters[n].node).mono_ms;
        let core = shared.core.borrow();
        let ready = match core.ready(now_ms) {
            Ok(ready) => ready,
            Err(waiting) if self.mutant == Some(Mutant::ReadyBeforeAllAgreed) => {
                let waits_for_hosts =
                    |w: &Waiting| matches!(w, Waiting::Agreement(_) | Waiting::Host(_));
                if !waiting.iter().all(waits_for_hosts) {
                    return None;
                }
                let trust = core.trust()?;
                Ready {
                    cluster: trust.cluster.clone(),
                    slot: core.slot().ok()?,
                    change: trust.change()?,
                }
            }
            Err(_) => return None,
        };
        Some(Signed::seal(&ready, &shared.key))
    }
}

fn empty_statement(host: &HostId) -> Input {
    use protocol::id::{Epoch, OfferId};
    let statement = Statement {
        watermark: OfferId { epoch: Epoch(0), num: 0 },
        holds: vec![],
        obeyed: Some(u64::MAX),
        ..Statement::default()
    };
    Input::Statement { host: host.clone(), asked_ms: u64::MAX / 2, statement }
}

impl Shared {
    fn tell(&self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.borrow_mut().handle(now_ms, input, &mut effects);
        effects
    }

    /// One decision, and which hosts are worth reading before it is final.
    fn decide(
        &self,
        ctx: &Ctx,
        offer: &Signed<Offer>,
        wish: Option<Amounts>,
    ) -> (Verdict, Vec<usize>) {
        let Now { mono_ms: now_ms, wall_ms } = ctx.now();
        let (mut verdict, mut hosts) = (None, Vec::new());
        let offer = offer.clone();
        for effect in self.tell(now_ms, Input::Ask { request: 0, wall_ms, offer, wish }) {
            match effect {
                Effect::Answer { verdict: decided, .. } => verdict = Some(decided),
                Effect::ReadHost { host } => {
                    hosts.extend(self.hosts.iter().position(|(id, _)| *id == host));
                }
                Effect::ReadTrust | Effect::Term { .. } | Effect::BringTrust { .. } => {}
            }
        }
        (verdict.expect("the core answers each request at once"), hosts)
    }
}

impl Shared {
    /// What a mutant does before it decides: it strikes what else it has booked for the job.
    fn mutate_before_ask(&self, ctx: &Ctx, offer: &Signed<Offer>) {
        if self.mutant != Some(Mutant::NewestDebitAloneCounts) {
            return;
        }
        let Ok(offer) = offer.open() else { return };
        let core = self.core.borrow();
        let of_host = |entry: &&Entry| entry.host == offer.host && entry.id < offer.id;
        let (same, others): (Vec<&Entry>, Vec<&Entry>) =
            core.books().entries().filter(of_host).partition(|entry| entry.job == offer.job);
        let Some(watermark) = same.iter().map(|entry| entry.id).max() else { return };
        let (held, open): (Vec<&Entry>, Vec<&Entry>) =
            others.into_iter().partition(|entry| entry.is_hold);
        let item = |entry: &Entry| HoldItem {
            id: entry.id,
            job: entry.job.clone(),
            resources: entry.takes.resources(),
            tenant: entry.tenant.clone(),
            debits: Debits::NotYet,
            on_loss: entry.on_loss,
            delegated: entry.delegated.clone(),
        };
        let statement = Statement {
            watermark,
            holds: held.into_iter().map(item).collect(),
            offers: open.into_iter().map(|entry| entry.id).collect(),
            obeyed: Some(u64::MAX),
            ..Statement::default()
        };
        drop(core);
        let host = offer.host;
        self.tell(ctx.now().mono_ms, Input::Statement { host, asked_ms: 0, statement });
    }
}

/// Answers one request for a grant.
async fn grant(
    ctx: Ctx,
    shared: Rc<Shared>,
    offer: Signed<Offer>,
    wish: Option<Amounts>,
    back: Back,
) {
    shared.mutate_before_ask(&ctx, &offer);
    let (mut verdict, hosts) = shared.decide(&ctx, &offer, wish);
    let is_behind = |verdict: &Verdict| {
        let why = match verdict {
            Verdict::Denial(denial) => &denial.why,
            Verdict::Grant(_) | Verdict::NotMember(_) => return false,
        };
        matches!(why, DenialReason::OtherTrust { offered, here } if offered > here)
    };
    if is_behind(&verdict) {
        ctx.sleep(LOOK_INTERVAL_MS).await;
        (verdict, _) = shared.decide(&ctx, &offer, wish);
    }
    if !hosts.is_empty() {
        read_hosts(&ctx, &shared, &hosts).await;
        (verdict, _) = shared.decide(&ctx, &offer, wish);
    }
    let verdict = super::mutant::mutate_verdict(shared.mutant, verdict, &offer, wish);
    let told = match verdict {
        Verdict::Grant(grant) => Told::Answer(Answer::Grant(Signed::seal(&grant, &shared.key))),
        Verdict::Denial(denial) => Told::Answer(Answer::Denial(Signed::seal(&denial, &shared.key))),
        Verdict::NotMember(_) => Told::NotMember,
    };
    ctx.say(Command::Reply(back, Box::new(told)));
}

/// Has hosts read now, and waits for that a while.
async fn read_hosts(ctx: &Ctx, shared: &Shared, hosts: &[usize]) {
    let now_ms = ctx.now().mono_ms;
    for host in hosts {
        ctx.say(Command::Wake(*host as u64));
    }
    let all_read = |shared: &Shared| {
        let progress = shared.progress.borrow();
        hosts.iter().all(|host| progress[*host].is_some_and(|at_ms| at_ms >= now_ms))
    };
    while !all_read(shared) && ctx.now().mono_ms < now_ms + NEWS_WAIT_MS {
        ctx.sleep(NEWS_POLL_MS).await;
    }
}

/// Says what it could book for a job.
async fn tenant_room(
    ctx: Ctx,
    shared: Rc<Shared>,
    (tenant, job): (TenantId, JobId),
    is_fresh: bool,
    back: Back,
) {
    if is_fresh {
        let hosts = shared.core.borrow().hosts_with_news(&tenant);
        let number = |id: HostId| shared.hosts.iter().position(|(known, _)| *known == id);
        let hosts: Vec<usize> = hosts.into_iter().filter_map(number).collect();
        read_hosts(&ctx, &shared, &hosts).await;
    }
    let room = shared.core.borrow().tenant_room(ctx.now().mono_ms, &tenant, &job);
    let told = room.map_or(Told::NotMember, Told::TenantRoom);
    ctx.say(Command::Reply(back, Box::new(told)));
}

/// Asks one host again and again what it holds.
async fn read_host(ctx: Ctx, shared: Rc<Shared>, i: usize, offset_ms: u64, jitter: u64) {
    ctx.sleep(offset_ms).await;
    let (host, node) = shared.hosts[i].clone();
    loop {
        let asked_ms = ctx.now().mono_ms;
        if let Some(mut statement) = read_once(&ctx, &host, node).await {
            if shared.mutant == Some(Mutant::NamesNotOwned) {
                statement.holds.iter_mut().for_each(|hold| hold.delegated = None);
            }
            let now_ms = ctx.now().mono_ms;
            let input = Input::Statement { host: host.clone(), asked_ms, statement };
            let is_behind = |effect: &Effect| matches!(effect, Effect::BringTrust { .. });
            let is_behind = shared.tell(now_ms, input).iter().any(is_behind);
            let version = shared.core.borrow().trust().map(|trust| trust.version);
            if let Some(version) = version.filter(|_| is_behind) {
                ctx.say(Command::Bring { host: i, version });
            }
            ctx.say(Command::Heard(host.clone()));
        } else if shared.mutant == Some(Mutant::PromiseFreedByTime) {
            // Nothing heard for a while: its promises are forgotten.
            let silent_ms =
                shared.progress.borrow()[i].map_or(0, |at_ms| asked_ms - at_ms.min(asked_ms));
            if silent_ms < 1_000_000 {
                shared.tell(ctx.now().mono_ms, far_statement(&host));
            }
        }
        shared.progress.borrow_mut()[i] = Some(asked_ms);
        ctx.sleep_or_wake(READ_INTERVAL_MS * 9 / 10 + jitter, i as u64).await;
    }
}

/// A statement as nobody made it: nothing is held, whatever was ever offered.
fn far_statement(host: &HostId) -> Input {
    use protocol::id::{Epoch, OfferId};
    let statement = Statement {
        watermark: OfferId { epoch: Epoch(1 << 40), num: 0 },
        holds: vec![],
        obeyed: Some(u64::MAX),
        ..Statement::default()
    };
    Input::Statement { host: host.clone(), asked_ms: 0, statement }
}

async fn read_once(ctx: &Ctx, host: &HostId, node: NodeId) -> Option<Statement> {
    let Ok(Told::OpenOffers(offers)) = ctx.call(node, Ask::OpenOffers, READ_PATIENCE_MS).await
    else {
        return None;
    };
    let Ok(Told::Inventory(inventory)) = ctx.call(node, Ask::Inventory, READ_PATIENCE_MS).await
    else {
        return None;
    };
    let statement: Result<Statement, StatementError> =
        Statement::of_reads(host, offers, &inventory);
    statement.ok()
}
