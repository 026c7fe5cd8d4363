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

use std::collections::{BTreeMap, BTreeSet};
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

/// So often it is looked whether arbiters are still divided, before something is said to those.
const DIVIDED_LOOKS: u32 = 5;

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

/// Why no document is known that a quorum of arbiters obeys.
enum Unobeyed {
    /// Enough of them answer, and they obey different ones.
    Divided(Trouble),
    /// Too few answer, or nobody shows what they obey.
    Unknown(Trouble),
}

/// A document, and as it was signed.
#[derive(Clone)]
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
        // What is wrong with the file is told when a host is to be fenced.
        let off = Record::read(&self.record).map(|record| record.off).unwrap_or_default();
        let seen = roster.keys().map(|id| {
            let row = picture.view.host(id);
            // Of whom no monitor has ever spoken, nothing is known that could be started elsewhere.
            let is_heard = row.is_some() && freshness_of(picture.heard.get(id)) == Freshness::Fresh;
            let hindrance = || match row {
                _ if self.asleep.is_asleep(id) => Some(Standing::Asleep),
                None => Some(Standing::NothingAtStake),
                Some(row) if says_all(trust, row, &off) => Some(Standing::Said),
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
        // Without a quorum nothing could start elsewhere, and the host would be off in vain. What divides one may be
        // what was said of this very host, which is off for it.
        let machine = self.asleep.machine(host).map_err(|no| no.0.detail)?;
        match self.obeyed().await {
            Ok(obeyed) if self.says_all(&obeyed.trust, &row)? => return Ok(()),
            Ok(_) => {}
            Err(Unobeyed::Divided(why)) if !self.is_off_already(host, &machine).await? => {
                return Err(why);
            }
            Err(Unobeyed::Divided(_)) => {}
            Err(Unobeyed::Unknown(why)) => return Err(why),
        }

        self.told.is_at(host, FencingStage::Cutting);
        // Whatever becomes of this controller, the host does not stay off for it.
        self.change_record(|record| _ = record.off.entry(host.clone()).or_insert(0))
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

    /// Whether this controller has cut its power, and its devices say that it is off now.
    async fn is_off_already(&self, host: &HostId, machine: &Machine) -> Result<bool, Trouble> {
        let record = Record::read(&self.record).map_err(|error| error.to_string())?;
        Ok(record.off.contains_key(host) && matches!(machine.state().await, Ok(PowerState::Off)))
    }

    /// Whether a document says all that is to be said of a host.
    fn says_all(&self, trust: &Trust, row: &HostRow) -> Result<bool, Trouble> {
        let record = Record::read(&self.record).map_err(|error| error.to_string())?;
        Ok(says_all(trust, row, &record.off))
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
    async fn obeyed(&self) -> Result<Document, Unobeyed> {
        let known = self.known().map_err(Unobeyed::Unknown)?;
        let (k, versions) = (known.trust.k as usize, self.versions(&known.trust).await);
        let have = versions.len();
        if have < k {
            return Err(Unobeyed::Unknown(format!(
                "{have} arbiters answer and {k} are needed to start anything elsewhere"
            )));
        }
        let is_obeyed =
            |version: &u64| versions.iter().filter(|other| *other == version).count() >= k;
        let Some(version) = versions.iter().find(|version| is_obeyed(version)).copied() else {
            return Err(Unobeyed::Divided(format!(
                "no quorum of arbiters obeys one trust document: {versions:?}"
            )));
        };
        if known.trust.version == version {
            return Ok(known);
        }
        let mut shown = self.shown(&known.trust).await.into_iter();
        shown.find(|document| document.trust.version == version).ok_or_else(|| {
            Unobeyed::Unknown(format!(
                "arbiters obey trust version {version}, which no host here shows"
            ))
        })
    }

    /// The document that this controller obeys.
    fn known(&self) -> Result<Document, Trouble> {
        let signed = trust_file::read(&self.trust_file).ok_or("there is no trust document here")?;
        let trust = signed.open().map_err(|error| error.to_string())?;
        Ok(Document { signed, trust })
    }

    /// Where arbiters stay divided by what this controller has said and an operator has not heard: the newest document
    /// that an operator has signed since, as far as any host shows it, itself or what it is upon. What is said upon that
    /// one, those can follow who have heard either: all whose documents are shown with it. The quorum's, where there is
    /// one after all.
    async fn for_the_divided(&self, host: &HostId) -> Result<(Document, Vec<Document>), Trouble> {
        let mut why = Trouble::new();
        for _ in 0..DIVIDED_LOOKS {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.obeyed().await {
                Ok(obeyed) => return Ok((obeyed, vec![])),
                Err(Unobeyed::Divided(trouble)) => why = trouble,
                Err(Unobeyed::Unknown(trouble)) => return Err(trouble),
            }
        }
        let known = self.known()?;
        let shown = self.shown(&known.trust).await;
        let by_operators =
            shown.iter().cloned().chain([known]).filter_map(|document| {
                match document.trust.upon.clone() {
                    None => Some(document),
                    Some(upon) => {
                        let trust = upon.open().ok()?;
                        Some(Document { signed: Arc::unwrap_or_clone(upon), trust })
                    }
                }
            });
        let record = Record::read(&self.record).map_err(|error| error.to_string())?;
        let said = record.off.get(host).copied().unwrap_or(0);
        let newest = by_operators.max_by_key(|document| document.trust.version);
        let newest = newest.filter(|newest| newest.trust.version > said);
        let newest = newest.ok_or_else(|| {
            let host = host.short();
            format!("{why}, and no operator has signed another since; `ostler fence {host}` is one")
        })?;
        Ok((newest, shown))
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
                Ok(obeyed) if self.says_all(&obeyed.trust, row)? => {
                    return Ok(obeyed.trust.version);
                }
                Ok(obeyed) => {
                    self.note_heard(&obeyed.trust).map_err(|error| error.to_string())?;
                    Ok((obeyed, vec![]))
                }
                Err(Unobeyed::Divided(_)) => self.for_the_divided(&row.host.id).await,
                Err(Unobeyed::Unknown(why)) => Err(why),
            };
            match base {
                Ok((base, shown)) => {
                    let version = base.trust.version;
                    // Its numbers are few: upon the same document it is given again as it was.
                    let document = match said.take() {
                        Some((upon, said)) if upon == version => said,
                        _ => self.sign(&base, &shown, row, machine)?,
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

    /// Keeps what fencers have said in a document that a quorum of arbiters obeys.
    fn note_heard(&self, obeyed: &Trust) -> Result<(), RecordError> {
        self.change_record(|record| obeyed.note_heard(&mut record.heard))
    }

    /// Signs that it is off. The version is kept before anybody sees it. What one of those could not follow who obey
    /// what is `shown`, because it has less of what was said of others, is not signed.
    fn sign(
        &self,
        obeyed: &Document,
        shown: &[Document],
        row: &HostRow,
        machine: &Machine,
    ) -> Result<Document, Trouble> {
        let me = self.identity.public();
        let record = Record::read(&self.record).map_err(|error| error.to_string())?;
        let next = obeyed.trust.next_by_fencer(&obeyed.signed, &me, record.last);
        let mut next = next.ok_or_else(|| no_version(&obeyed.trust, &me))?;
        next.repeat(&record.heard);
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
        for Document { trust, .. } in shown {
            if let Err(error) = Trust::accept(Some(trust), &signed) {
                let obeyed = trust.version;
                return Err(format!(
                    "who obeys trust version {obeyed} could not follow: {error}; an operator brings it together, as \
                     by `ostler fence` of the hosts that are off"
                ));
            }
        }
        self.change_record(|record| {
            record.last = next.version;
            record.off.insert(row.host.id.clone(), next.version);
        })
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

    /// Turns hosts on again whose power was cut, also by an earlier life of this controller: each once a quorum obeys
    /// what was said of it last, or nothing hangs on it any more. Until then it is silent, and due again.
    async fn finish(&self) {
        // What is wrong with the file is told when a host is to be fenced.
        let Ok(record) = Record::read(&self.record) else { return };
        for host in record.off.keys() {
            self.finish_one(host).await;
        }
    }

    async fn finish_one(&self, host: &HostId) {
        let picture = self.picture.borrow().clone();
        if !picture.is_current {
            return;
        }
        let row = picture.view.host(host);
        let is_heard = freshness_of(picture.heard.get(host)) == Freshness::Fresh;
        if !is_heard && let Some(row) = row.filter(|row| has_stake(row)) {
            let Ok(obeyed) = self.obeyed().await else { return };
            if !self.says_all(&obeyed.trust, row).unwrap_or(false) {
                return;
            }
            if let Err(error) = self.note_heard(&obeyed.trust) {
                tracing::error!("{error}");
                return;
            }
        }
        let stays_off = self.trust.borrow().as_ref().is_some_and(|trust| trust.fencing.stays_off);
        if !is_heard && !stays_off && row.is_some() {
            self.told.is_at(host, FencingStage::TurningOn);
            self.turn_on(host).await;
            self.told.lock().at = None;
        }
        if let Err(error) = self.change_record(|record| _ = record.off.remove(host)) {
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

/// Whether a document says of a host that it was off, and no less than this controller has said of those that it has
/// switched `off`. A later word of its own that is still to be heard would end what the host takes once it is on again.
fn says_all(trust: &Trust, row: &HostRow, off: &BTreeMap<HostId, u64>) -> bool {
    let said = off.get(&row.host.id).copied().unwrap_or(0);
    let since = trust.fence_of(&row.host.key).map_or(0, |fence| fence.since);
    trust.is_over(&row.host.key, row.host.trust_version) && since >= said
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
