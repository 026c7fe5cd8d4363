//! Automatic fencing: a host that nobody hears is switched off, is said to be off, and is turned on again, so
//! that what it ran and must not run twice starts elsewhere without an operator.
//!
//! Decides nothing of VMs: what follows from the word is arbiters', schedulers' and the host's own
//! ([`protocol::trust::Fence`]). Whom it is about is [`watch`]'s; here are the steps, one host at a time:
//!
//! ```text
//!   silent ──▶ asked itself, arbiters asked ──▶ power cut, devices say off ──▶ said, a quorum obeys ──▶ on again
//!                 │ it answers, or no quorum       │ they don't                  │ not in time
//!                 └──────────── nothing was done; rests, and is tried again ─────┘
//! ```
//!
//! The word comes after the devices': a document never says of a host that is on that it is off, unless
//! somebody turns it on in between, which is looked for once a quorum obeys, and told. Every step can be taken
//! again, so a crash between any two is a silence that goes on. What must outlive one is in [`record`]: the last
//! version, and a host that is not turned on again yet.

mod record;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::api::Health;
use protocol::fencing::{FencingAt, FencingList, FencingStage, SilentHost, Standing};
use protocol::id::HostId;
use protocol::power::{PowerAction, PowerState};
use protocol::signed::{PublicKey, Signed};
use protocol::trust::{Fence, Trust};
use protocol::view::{Freshness, HostRow};
use protocol::vm::OnLoss;
use scheduler::Picture;
use scheduler::cores::freshness_of;
use serde::de::IgnoredAny;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use transport::{Client, Clock, Endpoint, Identity, Method, trust_file};

use self::record::{Record, RecordError};
use self::watch::{Rule, Seen, Watch};
use crate::power::{Asleep, Machine, Power};

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a host, an arbiter or an agent may take to answer.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Agents that are asked or told at a time.
const ASKED_AT_ONCE: usize = 64;

/// How long a quorum of arbiters may take to obey what was said. They read their hosts' documents twice a second.
const OBEDIENCE_MAX: Duration = Duration::from_secs(20);

/// How often they are asked meanwhile.
const OBEDIENCE_POLL: Duration = Duration::from_millis(200);

/// How often it is tried to say it, where documents are on their way, before it rests.
const TRIES: u32 = 5;

/// The fencer of one controller.
pub(crate) struct Fencer {
    pub(crate) identity: Arc<Identity>,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) power: Power,
    pub(crate) asleep: Arc<Asleep>,
    pub(crate) picture: Receiver<Arc<Picture>>,
    pub(crate) trust: Receiver<Option<Arc<Trust>>>,
    /// The document as it was signed.
    pub(crate) trust_file: PathBuf,
    /// Where its [`Record`] is.
    pub(crate) record: PathBuf,
    pub(crate) told: Told,
}

/// What it says of itself to whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    list: Arc<Mutex<FencingList>>,
    counts: Arc<Mutex<Counts>>,
}

/// What it has done since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Hosts switched off and said to be.
    pub(crate) fenced: u64,
    /// Attempts that did not come to their end.
    pub(crate) failed: u64,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, FencingList> {
        self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    pub(crate) fn list(&self) -> FencingList {
        self.lock().clone()
    }

    fn is_at(&self, host: &HostId, stage: FencingStage) {
        self.lock().at = Some(FencingAt { host: host.clone(), stage });
    }
}

/// Why a host was not fenced, for people. It is tried again.
type Trouble = String;

/// A document, and as it was signed.
struct Document {
    signed: Signed<Trust>,
    trust: Trust,
}

impl Fencer {
    /// Looks for ever.
    pub(crate) async fn tend(self) {
        let mut watch = Watch::default();
        loop {
            let due = self.look(&mut watch);
            if let Some(host) = due {
                if let Err(trouble) = self.fence(&host).await {
                    tracing::error!(%host, "is not fenced: {trouble}");
                    watch.note_failed(self.clock.now().mono_ms, &host, trouble);
                    self.told.count(|counts| counts.failed += 1);
                }
                self.told.lock().at = None;
            }
            self.finish().await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What is seen now, for whoever asks; and the host that is to be fenced.
    fn look(&self, watch: &mut Watch) -> Option<HostId> {
        let (trust, picture) = (self.trust.borrow().clone(), self.picture.borrow().clone());
        let me = self.identity.public();
        let place = trust.as_ref().and_then(|trust| trust.fencing.place_of(&me));
        let (Some(trust), Some(place)) = (trust, place) else {
            watch.saw_nothing();
            *self.told.lock() = FencingList::default();
            return None;
        };
        let (hosts, waits) = if picture.is_current {
            let earlier = trust.fencing.fencers.iter().filter(|fencer| fencer.place < place);
            let before = u64::try_from(earlier.count()).unwrap_or(u64::MAX);
            let rule = Rule { after_ms: trust.fencing.after_ms, before };
            let seen = self.seen(&trust, &picture);
            (watch.look(self.clock.now().mono_ms, rule, &seen), None)
        } else {
            watch.saw_nothing();
            (vec![], Some(format!("this controller has no current view ({})", picture.source)))
        };
        let due = hosts.iter().find(|silent| silent.standing == Standing::Due);
        let due = due.map(|SilentHost { host, .. }| host.clone());
        *self.told.lock() = FencingList { is_fencer: true, waits, at: None, hosts };
        due
    }

    fn seen(&self, trust: &Trust, picture: &Picture) -> Vec<Seen> {
        let known = self.asleep.hosts();
        let roster = trust.roster_by_host();
        let seen = roster.iter().map(|(id, key)| {
            let row = picture.view.host(id);
            // Of whom no monitor has ever spoken, nothing is known that could be started elsewhere.
            let is_heard = row.is_some() && freshness_of(picture.heard.get(id)) == Freshness::Fresh;
            let hindrance = || match row {
                _ if self.asleep.is_asleep(id) => Some(Standing::Asleep),
                None => Some(Standing::NothingAtStake),
                Some(row) if trust.is_over(key, row.host.trust_version) => Some(Standing::Said),
                Some(row) if !has_stake(row) => Some(Standing::NothingAtStake),
                Some(row) => match self.power.machine(&row.host, &known) {
                    Ok(_) => None,
                    Err(error) => Some(Standing::NoDevice { why: error.to_string() }),
                },
            };
            Seen {
                host: id.clone(),
                is_heard,
                hindrance: if is_heard { None } else { hindrance() },
            }
        });
        seen.collect()
    }

    /// The steps.
    async fn fence(&self, host: &HostId) -> Result<(), Trouble> {
        self.told.is_at(host, FencingStage::Asking);
        let row = self.picture.borrow().view.host(host).cloned();
        let row = row.ok_or("nothing is known of it any more")?;
        let name = row.host.name.clone();
        if self.answers(&row).await {
            return Err(
                "it answers this controller, though no monitor hears it: see to the monitors"
                    .to_owned(),
            );
        }
        // Without a quorum nothing could start elsewhere, and the host would be off in vain. One that is off for it
        // already has to be said to be off: that may be what a quorum is divided by.
        let record = Record::read(&self.record).map_err(|error| error.to_string())?;
        match self.obeyed().await {
            Ok(obeyed) if obeyed.trust.is_over(&row.host.key, row.host.trust_version) => {
                return Ok(());
            }
            Err(why) if record.cut.as_ref() != Some(host) => return Err(why),
            Ok(_) | Err(_) => {}
        }
        let machine = self.asleep.machine(host).map_err(|no| no.0.detail)?;

        self.told.is_at(host, FencingStage::Cutting);
        // Whatever becomes of this controller, the host does not stay off for it.
        self.change_record(|record| record.cut = Some(host.clone()))
            .map_err(|error| error.to_string())?;
        tracing::warn!(%host, name, "nobody hears it: its power is cut");
        match self.power.change(&machine, PowerAction::Off).await {
            Ok(PowerState::Off) => {}
            Ok(state) => return Err(format!("its power was cut, and its devices say {state}")),
            Err(error) => return Err(error.to_string()),
        }

        self.told.is_at(host, FencingStage::Saying);
        let version = self.say(&row, &machine).await?;
        self.check_off(&machine, &name).await?;
        self.told.count(|counts| counts.fenced += 1);
        tracing::warn!(%host, name, version, "is off, and said to be off: what it ran starts elsewhere");
        Ok(())
    }

    fn change_record(&self, change: impl FnOnce(&mut Record)) -> Result<(), RecordError> {
        let mut record = Record::read(&self.record)?;
        change(&mut record);
        record.write(&self.record)
    }

    /// Whether a host answers at any of its addresses.
    async fn answers(&self, row: &HostRow) -> bool {
        let client = self.client.with_deadline(ASK_MAX);
        for url in &row.host.urls {
            let agent = Endpoint::of_host(url.clone(), row.host.id.clone());
            if client.get::<IgnoredAny>(&agent, "/v1/health").await.is_ok() {
                return true;
            }
        }
        false
    }

    /// The agents that can be asked or told.
    fn agents(&self) -> Vec<Endpoint> {
        let picture = self.picture.borrow().clone();
        let is_fresh = |id: &HostId| freshness_of(picture.heard.get(id)) == Freshness::Fresh;
        let rows = picture.view.hosts().filter(|(id, _)| is_fresh(id));
        let agents = rows.filter_map(|(id, row)| {
            Some(Endpoint::of_host(row.host.urls.first()?.clone(), id.clone()))
        });
        agents.collect()
    }

    /// The document that a quorum of arbiters obeys. One that is newer and that no quorum obeys yet is waited for:
    /// what was said upon another could be heard by nobody.
    async fn obeyed(&self) -> Result<Document, Trouble> {
        let signed = trust_file::read(&self.trust_file).ok_or("there is no trust document here")?;
        let trust = signed.open().map_err(|error| error.to_string())?;
        let versions = self.quorum(&trust).await?;
        let k = trust.k as usize;
        let is_obeyed =
            |version: &u64| versions.iter().filter(|other| *other == version).count() >= k;
        let Some(version) = versions.iter().find(|version| is_obeyed(version)).copied() else {
            return Err(format!("no quorum of arbiters obeys one trust document: {versions:?}"));
        };
        if trust.version == version {
            return Ok(Document { signed, trust });
        }
        let mut shown = self.shown(&trust).await.into_iter();
        shown.find(|document| document.trust.version == version).ok_or_else(|| {
            format!("arbiters obey trust version {version}, which no host here shows")
        })
    }

    /// The newest document that an operator has signed, as far as any host shows it, itself or what it is upon. Where
    /// arbiters obey different documents, one upon that is what those can follow who have heard this fencer, and those
    /// who have heard an operator instead.
    async fn newest_by_operators(&self) -> Result<Document, Trouble> {
        let signed = trust_file::read(&self.trust_file).ok_or("there is no trust document here")?;
        let trust: Trust = signed.open().map_err(|error| error.to_string())?;
        self.quorum(&trust).await?;
        let shown = self.shown(&trust).await;
        let all = shown.into_iter().chain([Document { signed, trust }]);
        let by_operators = all.filter_map(|document| match document.trust.upon.clone() {
            None => Some(document),
            Some(upon) => {
                let trust = upon.open().ok()?;
                Some(Document { signed: Arc::unwrap_or_clone(upon), trust })
            }
        });
        let newest = by_operators.max_by_key(|document| document.trust.version);
        newest.ok_or_else(|| "no document of an operator is shown".to_owned())
    }

    /// The documents that hosts obey which are heard, as far as they are known for an operator's or a fencer's.
    async fn shown(&self, trust: &Trust) -> Vec<Document> {
        let client = self.client.with_deadline(ASK_MAX);
        let asked = stream::iter(self.agents()).map(|agent| {
            let client = client.clone();
            async move { client.get::<Option<Signed<Trust>>>(&agent, "/v1/config/trust").await }
        });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let signed = answers.into_iter().filter_map(|answer| answer.ok().flatten());
        let known = signed.filter_map(|signed| {
            let trust = Trust::recognise(trust, &signed).ok()?;
            Some(Document { signed, trust })
        });
        known.collect()
    }

    /// Which versions the arbiters obey that answer, if they are enough for anything to be started.
    async fn quorum(&self, trust: &Trust) -> Result<Vec<u64>, Trouble> {
        let versions = self.versions(trust).await;
        let (have, k) = (versions.len(), trust.k as usize);
        if have < k {
            return Err(format!(
                "{have} arbiters answer and {k} are needed to start anything elsewhere"
            ));
        }
        Ok(versions)
    }

    /// Which versions the arbiters obey that answer.
    async fn versions(&self, trust: &Trust) -> Vec<u64> {
        let client = self.client.with_deadline(ASK_MAX);
        let arbiters = trust.arbiters.clone();
        let asked = stream::iter(arbiters).map(|slot| {
            let client = client.clone();
            async move {
                let arbiter = Endpoint::of_key(slot.url, slot.key);
                client.get::<Health>(&arbiter, "/v1/health").await
            }
        });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        answers.into_iter().filter_map(|answer| answer.ok()?.trust_version).collect()
    }

    /// Says that it is off, until a quorum of arbiters obeys a document that says so; its version.
    async fn say(&self, row: &HostRow, machine: &Machine) -> Result<u64, Trouble> {
        let mut trouble = "another document came between".to_owned();
        let mut said: Option<(u64, Document)> = None;
        for _ in 0..TRIES {
            let base = match self.obeyed().await {
                Ok(obeyed) if obeyed.trust.is_over(&row.host.key, row.host.trust_version) => {
                    return Ok(obeyed.trust.version);
                }
                Ok(obeyed) => Ok(obeyed),
                Err(_) => self.newest_by_operators().await,
            };
            match base {
                Ok(base) => {
                    let version = base.trust.version;
                    // Its numbers are few: upon the same document it is given again as it was.
                    let document = match said.take() {
                        Some((upon, said)) if upon == version => said,
                        _ => self.sign(&base, row, machine)?,
                    };
                    self.give(&document.signed).await;
                    match self.await_obedience(row, &document).await {
                        Ok(()) => return Ok(document.trust.version),
                        Err(why) => trouble = why,
                    }
                    said = Some((version, document));
                }
                Err(why) => {
                    trouble = why;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
            match machine.state().await {
                Ok(PowerState::Off) => {}
                state => {
                    return Err(format!("{trouble}; meanwhile its devices say {state:?}"));
                }
            }
        }
        Err(trouble)
    }

    /// Signs that it is off. The version is kept before anybody sees it.
    fn sign(
        &self,
        obeyed: &Document,
        row: &HostRow,
        machine: &Machine,
    ) -> Result<Document, Trouble> {
        let me = self.identity.public();
        let last = Record::read(&self.record).map_err(|error| error.to_string())?.last;
        let next = obeyed.trust.next_by_fencer(&obeyed.signed, &me, last);
        let mut next = next.ok_or_else(|| no_version(&obeyed.trust, &me))?;
        next.fenced.retain(|fence| fence.host != row.host.key);
        next.fenced.push(Fence {
            host: row.host.key,
            since: next.version,
            by: me,
            by_fencer: true,
            at_ms: self.clock.now().wall_ms,
            reason: format!("nobody heard it; off, say {}", machine.names().join(" and ")),
        });
        let signed = Signed::seal(&next, self.identity.secret());
        // As everybody else will see it; what would be refused is not given.
        let next = Trust::accept(Some(&obeyed.trust), &signed)
            .map_err(|error| error.to_string())?
            .ok_or("what it would say is said already")?;
        self.change_record(|record| record.last = next.version)
            .map_err(|error| error.to_string())?;
        Ok(Document { signed, trust: next })
    }

    /// Gives it to every host that is heard. Who does not take it is brought it by arbiters.
    async fn give(&self, signed: &Signed<Trust>) {
        let client = self.client.with_deadline(ASK_MAX);
        let given = stream::iter(self.agents()).map(|agent| {
            let client = client.clone();
            async move {
                let path = "/v1/config/trust";
                let put = client.send::<_, Option<IgnoredAny>>(Method::PUT, &agent, path, signed);
                if let Err(error) = put.await {
                    tracing::warn!("give {agent} the trust document: {error}");
                }
            }
        });
        given.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Until a quorum obeys this document, or one that is known to say the same.
    async fn await_obedience(&self, row: &HostRow, said: &Document) -> Result<(), Trouble> {
        let until = Instant::now() + OBEDIENCE_MAX;
        let mut saying = BTreeSet::from([said.trust.version]);
        loop {
            // What an operator signs upon it says the same.
            let is_its = |fence: &Fence| said.trust.fence_of(&row.host.key) == Some(fence);
            if let Some(trust) = self.trust.borrow().as_ref()
                && trust.fence_of(&row.host.key).is_some_and(is_its)
            {
                saying.insert(trust.version);
            }
            let versions = self.versions(&said.trust).await;
            let obeying = versions.iter().filter(|version| saying.contains(version)).count();
            if obeying >= said.trust.k as usize {
                return Ok(());
            }
            if Instant::now() >= until {
                let (version, k) = (said.trust.version, said.trust.k);
                return Err(format!(
                    "{obeying} arbiters obey trust version {version} after {} s, and {k} are needed",
                    OBEDIENCE_MAX.as_secs()
                ));
            }
            tokio::time::sleep(OBEDIENCE_POLL).await;
        }
    }

    /// It must not have been turned on before the arbiters had heard.
    async fn check_off(&self, machine: &Machine, name: &str) -> Result<(), Trouble> {
        match machine.state().await {
            Ok(PowerState::Off) => Ok(()),
            Ok(PowerState::On | PowerState::Partly) => Err(format!(
                "somebody has turned {name} on before the arbiters had heard that it was off: a VM of it may run \
                 twice until it hears of the trust document, which arbiters bring it as soon as they reach it"
            )),
            Err(error) => {
                tracing::warn!("whether {name} is still off, its devices do not say: {error}");
                Ok(())
            }
        }
    }

    /// Turns a host on again whose power was cut, also by an earlier life of this controller: once a quorum obeys that
    /// it was off, or nothing hangs on it any more. Until then it is silent, and due again.
    async fn finish(&self) {
        let host = match Record::read(&self.record) {
            Ok(Record { cut: Some(host), .. }) => host,
            // What is wrong with the file is told when a host is to be fenced.
            Ok(_) | Err(_) => return,
        };
        let picture = self.picture.borrow().clone();
        if !picture.is_current {
            return;
        }
        let row = picture.view.host(&host);
        let is_heard = freshness_of(picture.heard.get(&host)) == Freshness::Fresh;
        if !is_heard && let Some(row) = row.filter(|row| has_stake(row)) {
            let Ok(obeyed) = self.obeyed().await else { return };
            if !obeyed.trust.is_over(&row.host.key, row.host.trust_version) {
                return;
            }
        }
        let stays_off = self.trust.borrow().as_ref().is_some_and(|trust| trust.fencing.stays_off);
        if !is_heard && !stays_off && row.is_some() {
            self.told.is_at(&host, FencingStage::TurningOn);
            self.turn_on(&host).await;
            self.told.lock().at = None;
        }
        if let Err(error) = self.change_record(|record| record.cut = None) {
            tracing::error!("{error}");
        }
    }

    async fn turn_on(&self, host: &HostId) {
        let turned = match self.asleep.machine(host) {
            Ok(machine) => {
                let turned = self.power.change(&machine, PowerAction::On).await;
                turned.map(drop).map_err(|error| error.to_string())
            }
            Err(no) => Err(no.0.detail),
        };
        match turned {
            Ok(()) => tracing::info!(%host, "is turned on again"),
            // Nothing hangs on it but its room. An operator sees it lost.
            Err(why) => tracing::error!(%host, "is not turned on again: {why}"),
        }
    }
}

/// Whether a VM was alive there that is kept and could run elsewhere: all else goes on without its host being off.
fn has_stake(row: &HostRow) -> bool {
    row.jobs.values().filter(|job| !job.state.is_ended()).any(|job| {
        let Some(vm) = job.spec.as_vm() else { return false };
        let is_one_off = job.spec.as_one_off().is_some();
        vm.on_loss == OnLoss::Keep && !is_one_off && !vm.is_bound_to(&row.host)
    })
}

fn no_version(trust: &Trust, me: &PublicKey) -> Trouble {
    match trust.fencing.place_of(me) {
        None => format!("this controller is no fencer by trust version {}", trust.version),
        Some(_) => format!(
            "it has said all that a fencer can say upon version {}: an operator has to sign another, as by \
             `ostler fencing set`",
            trust.operators_version()
        ),
    }
}
