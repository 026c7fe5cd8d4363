//! Hosts that are put to sleep: switched off while nobody needs them, and known for that.
//!
//! Decides when a host may be switched off (it was asked itself a moment ago, and nothing is there that could be
//! missed), when it counts as asleep (its devices say off, and it is silent), and when as awake again: as soon as a
//! later life of its agent is heard, whatever is remembered. Whatever is not certain leaves it on, or is found out
//! later by asking its devices.
//!
//! ```text
//!   awake ──asked for, and may be──▶ falling ──devices say off, and it is silent──▶ asleep
//!     ▲                                │ they do not                                  │
//!     └────────────────────────────────┘◀──────── a later life of its agent is heard ─┘
//! ```
//!
//! Controllers tell each other: later lives are later, so nobody brings back what is over.

mod falling;

mod waking;

mod empty;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::host::Host;
use protocol::id::HostId;
use protocol::power::{Sleep, SleepStage};
use protocol::trust::Trust;
use protocol::view::{Freshness, HostRow};
use scheduler::cores::freshness_of;
use scheduler::{Picture, Scheduler, Sleeper, Sleepers, StoreError};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{Client, Clock, Endpoint, ProblemReply};

use self::empty::{is_left_empty, said_by, stays_on};
use self::falling::FIND_OUT_INTERVAL;
use super::{Machine, Power};
use crate::store::SqliteConductor;

/// How long a host may take to say what is on it, and how long it is listened to whether it is silent.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether somebody has woken.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// After so long nobody still hears a host that is off.
const SILENT_MS: u64 = 30_000;

/// How often it is looked who may be put to sleep: the power file is read for it.
const MAY_SLEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What this controller knows of hosts' sleep.
pub(crate) struct Asleep {
    power: Power,
    store: Arc<SqliteConductor>,
    client: Client,
    clock: Clock,
    picture: watch::Receiver<Arc<Picture>>,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    known: Mutex<BTreeMap<HostId, Sleep>>,
    /// Since when hosts have power again that are not heard yet.
    woken: Mutex<BTreeMap<HostId, Instant>>,
    /// Hosts that are being switched off at this moment.
    falling: Mutex<BTreeSet<HostId>>,
    /// Whether the other controllers were asked since this one began.
    has_learnt: AtomicBool,
}

impl Asleep {
    /// With what an earlier life of this controller has left.
    pub(crate) async fn open(
        power: Power,
        store: Arc<SqliteConductor>,
        client: &Client,
        clock: Clock,
        picture: watch::Receiver<Arc<Picture>>,
        trust: watch::Receiver<Option<Arc<Trust>>>,
    ) -> Result<Self, StoreError> {
        let (sleeps, damaged) = store.sleeps().await?;
        for what in damaged {
            tracing::error!("{what} cannot be read");
        }
        let known = sleeps.into_iter().map(|sleep| (sleep.host.clone(), sleep)).collect();
        let client = client.with_deadline(ASK_MAX);
        Ok(Self {
            power,
            store,
            client,
            clock,
            picture,
            trust,
            known: Mutex::new(known),
            woken: Mutex::default(),
            falling: Mutex::default(),
            has_learnt: false.into(),
        })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<HostId, Sleep>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn woken(&self) -> MutexGuard<'_, BTreeMap<HostId, Instant>> {
        self.woken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn falling(&self) -> MutexGuard<'_, BTreeSet<HostId>> {
        self.falling.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is told to others. That a host is about to be off is nobody else's matter.
    pub(crate) fn told(&self) -> Vec<Sleep> {
        let known = self.known();
        let told = known.values().filter(|sleep| sleep.stage != SleepStage::Falling);
        told.cloned().collect()
    }

    /// Takes what another controller knows and this one does not.
    pub(crate) async fn learn(&self, told: Vec<Sleep>) -> Result<(), StoreError> {
        for sleep in told {
            let is_news = self.known().get(&sleep.host).is_none_or(|known| sleep.is_after(known));
            if is_news && sleep.stage != SleepStage::Falling && !self.is_heard_since(&sleep) {
                self.keep(sleep).await?;
            }
        }
        Ok(())
    }

    /// True of a host that is said to sleep, and is heard in that very life long after: its devices switch
    /// something else.
    fn is_heard_since(&self, sleep: &Sleep) -> bool {
        let is_old = self.clock.now().wall_ms > sleep.since_ms.saturating_add(SILENT_MS);
        let row = self.heard(&sleep.host);
        is_old
            && sleep.stage == SleepStage::Asleep
            && row.is_ok_and(|row| row.cursor.epoch == sleep.epoch)
    }

    /// Every other controller has told what it knows, or had the time for it.
    pub(crate) fn has_learnt(&self) {
        self.has_learnt.store(true, Ordering::Relaxed);
    }

    /// Stores it, and knows it from then on.
    async fn keep(&self, sleep: Sleep) -> Result<(), StoreError> {
        self.store.save_sleep(sleep.clone()).await?;
        self.known().insert(sleep.host.clone(), sleep);
        Ok(())
    }

    async fn keep_stage(&self, sleep: &Sleep, stage: SleepStage) -> Result<(), StoreError> {
        let inventory = sleep.inventory.clone().filter(|_| stage != SleepStage::Awake);
        let since_ms = self.clock.now().wall_ms;
        self.keep(Sleep { stage, inventory, since_ms, ..sleep.clone() }).await
    }

    /// Every host that is known: those of the view, and those that sleep.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let picture = self.picture.borrow().clone();
        let shown = picture.view.hosts().map(|(_, row)| Host::clone(&row.host));
        let known = self.known();
        let sleeping = known.values().filter_map(|sleep| sleep.inventory.as_ref());
        let unseen = sleeping.filter(|said| picture.view.host(&said.host.id).is_none());
        // One that was retired in its sleep is no host any more.
        let unseen = unseen.filter(|said| self.is_ours(&said.host.id));
        shown.chain(unseen.map(|said| said.host.clone())).collect()
    }

    fn is_ours(&self, host: &HostId) -> bool {
        let trust = self.trust.borrow();
        trust.as_ref().is_none_or(|trust| trust.host_key(host).is_some())
    }

    /// What switches a host.
    pub(crate) fn machine(&self, id: &HostId) -> Result<Machine, ProblemReply> {
        let hosts = self.hosts();
        let host = hosts.iter().find(|host| host.id == *id);
        let no_host = || ProblemReply::new(404, "no-such-host", format!("there is no host {id}"));
        Ok(self.power.machine(host.ok_or_else(no_host)?, &hosts)?)
    }

    /// Whether a host sleeps, as far as anybody remembers.
    pub(crate) fn is_asleep(&self, host: &HostId) -> bool {
        self.known().get(host).is_some_and(|sleep| sleep.stage == SleepStage::Asleep)
    }

    /// Somebody turned a sleeping host off: it stays so whoever needs it, and drained when it is turned on again.
    pub(crate) async fn hold(&self, host: &HostId) -> Result<(), ProblemReply> {
        let known = self.known().get(host).cloned();
        let Some(sleep) = known.filter(|known| known.stage == SleepStage::Asleep) else {
            return Ok(());
        };
        self.keep(Sleep { undrain: false, ..sleep }).await.map_err(broken)
    }

    /// The row of a host that is heard now.
    fn heard(&self, id: &HostId) -> Result<HostRow, ProblemReply> {
        let picture = self.picture.borrow().clone();
        if !picture.is_current {
            return Err(cannot(&format!(
                "this controller has no current view ({})",
                picture.source
            )));
        }
        let is_heard = freshness_of(picture.heard.get(id)) == Freshness::Fresh;
        let row = picture.view.host(id).filter(|_| is_heard).cloned();
        row.ok_or_else(|| cannot("it is not heard now, so what is on it is not known"))
    }

    /// Asks a host itself, by its addresses in turn.
    async fn ask<T: DeserializeOwned>(&self, row: &HostRow, path: &str) -> Option<T> {
        for url in &row.host.urls {
            let agent = Endpoint::of_host(url.clone(), row.host.id.clone());
            if let Ok(answer) = self.client.get(&agent, path).await {
                return Some(answer);
            }
        }
        None
    }

    /// Looks for ever whether somebody has woken, and tells the scheduler who sleeps. Devices, which may take long,
    /// are asked beside that.
    pub(crate) async fn tend(&self, scheduler: &Scheduler) {
        let look = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::error!("keep who sleeps: {error}");
                }
                scheduler.note_asleep(self.sleepers());
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let find_out = async {
            loop {
                for host in self.left(SleepStage::Falling) {
                    if let Err(error) = self.find_out(&host).await {
                        tracing::error!("keep who sleeps: {error}");
                    }
                }
                tokio::time::sleep(FIND_OUT_INTERVAL).await;
            }
        };
        let tell = async {
            loop {
                scheduler.note_may_sleep(self.may_sleep());
                tokio::time::sleep(MAY_SLEEP_INTERVAL).await;
            }
        };
        tokio::join!(look, find_out, tell);
    }

    /// Hosts at this stage that nobody here is about to switch off.
    fn left(&self, stage: SleepStage) -> Vec<HostId> {
        let (known, falling) = (self.known(), self.falling());
        let at = known.values().filter(|sleep| sleep.stage == stage);
        at.map(|sleep| &sleep.host).filter(|host| !falling.contains(*host)).cloned().collect()
    }

    /// Hosts that could be put to sleep from here once they are empty: by what is seen of them, as each is asked itself
    /// before it is switched off.
    pub(crate) fn may_sleep(&self) -> BTreeSet<HostId> {
        let picture = self.picture.borrow().clone();
        let trust = self.trust.borrow().clone();
        // A file that is not right is told to whoever asks for it.
        let Ok((machines, _)) = self.power.known(&self.hosts()) else { return BTreeSet::new() };
        let hosts = machines.into_iter().map(|machine| machine.host);
        let could = |host: &HostId| {
            let row = picture.view.host(host).filter(|_| picture.is_current);
            // One that is late for a moment is as little needed as before.
            let is_lost = freshness_of(picture.heard.get(host)) == Freshness::Lost;
            row.is_some_and(|row| !is_lost && stays_on(&said_by(row), trust.as_deref()).is_none())
        };
        hosts.filter(could).collect()
    }

    /// Who sleeps, and whom a run may wake from here.
    pub(crate) fn sleepers(&self) -> Sleepers {
        let asleep: Vec<Sleep> = {
            let known = self.known();
            known.values().filter(|sleep| sleep.stage == SleepStage::Asleep).cloned().collect()
        };
        if asleep.is_empty() {
            return Sleepers::new();
        }
        let (hosts, picture) = (self.hosts(), self.picture.borrow().clone());
        // Whatever is remembered: one that said more in that life than that it is empty is lost.
        let is_empty = |sleep: &&Sleep| {
            let row = picture.view.host(&sleep.host);
            row.is_none_or(|row| row.cursor.epoch != sleep.epoch || is_left_empty(row))
        };
        let asleep = asleep.iter().filter(|sleep| self.is_ours(&sleep.host)).filter(is_empty);
        let sleeper = |sleep: &Sleep| {
            let inventory = sleep.inventory.clone()?;
            let machine = self.power.machine(&inventory.host, &hosts);
            let may_wake = sleep.undrain && machine.is_ok() && self.comes_up(&sleep.host);
            Some((sleep.host.clone(), Sleeper { inventory, may_wake }))
        };
        asleep.filter_map(sleeper).collect()
    }
}

fn cannot(why: &str) -> ProblemReply {
    ProblemReply::new(409, "cannot-sleep", why.to_owned())
}

fn broken(error: StoreError) -> ProblemReply {
    ProblemReply::new(503, "storage-broken", error.to_string())
}

#[cfg(test)]
mod tests;
