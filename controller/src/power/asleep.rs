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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::host::{Host, HostIntent, Inventory};
use protocol::id::HostId;
use protocol::job::{Job, JobKind, Role};
use protocol::power::{PowerAction, PowerState, Sleep, SleepStage};
use protocol::trust::Trust;
use protocol::view::{Freshness, HostRow};
use scheduler::cores::freshness_of;
use scheduler::{NotWoken, Picture, Scheduler, Sleeper, Sleepers, StoreError, Waker, Waking};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{Client, Clock, Endpoint, Method, ProblemReply};

use super::{Machine, Power, PowerError};
use crate::store::SqliteConductor;

/// How long a host may take to say what is on it, and how long it is listened to whether it is silent.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether somebody has woken.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// After so long nobody still hears a host that is off.
const SILENT_MS: u64 = 30_000;

/// How long a host may take from the order until it is heard. One that takes longer does not come up, and no
/// further run waits for it.
const BOOT_MAX: Duration = Duration::from_secs(600);

/// How often it is made sure that a host is silent which its devices say is off.
const SILENCE_TRIES: u32 = 3;

/// The open offers of a host, of which only the number counts.
#[derive(serde::Deserialize)]
struct Offers {
    offers: Vec<IgnoredAny>,
}

/// How often devices are asked what has become of a host: each asking is a program that is run.
const FIND_OUT_INTERVAL: Duration = Duration::from_secs(10);

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

    /// Puts a host to sleep, or says what is in the way. It is asked itself what is on it, right before.
    pub(crate) async fn put(
        &self,
        id: &HostId,
        undrain: bool,
        trust: Option<Arc<Trust>>,
    ) -> Result<PowerState, ProblemReply> {
        let machine = self.machine(id)?;
        if self.is_asleep(id) {
            return match machine.state().await? {
                PowerState::Off => Ok(PowerState::Off),
                state => Err(cannot(&format!(
                    "it was put to sleep, and its devices say {state}: it may be waking"
                ))),
            };
        }
        let row = self.heard(id)?;
        if !self.falling().insert(id.clone()) {
            return Err(cannot("it is being put to sleep already"));
        }
        let put = self.put_alone(&row, &machine, undrain, trust).await;
        self.falling().remove(id);
        put
    }

    async fn put_alone(
        &self,
        row: &HostRow,
        machine: &Machine,
        undrain: bool,
        trust: Option<Arc<Trust>>,
    ) -> Result<PowerState, ProblemReply> {
        let id = &row.host.id;
        match machine.state().await? {
            PowerState::On => {}
            state => return Err(cannot(&format!("it is heard, and its devices say {state}"))),
        }
        let inventory = self.empty(row, trust.as_deref()).await?;
        let sleep = Sleep {
            host: id.clone(),
            epoch: inventory.cursor.epoch,
            stage: SleepStage::Falling,
            since_ms: self.clock.now().wall_ms,
            undrain,
            inventory: Some(Arc::new(inventory)),
        };
        // Before the order: whoever finds it off after a crash must know that this was meant.
        self.keep(sleep.clone()).await.map_err(broken)?;
        // Somebody may have taken back the drain while that was written.
        if let Err(why) = self.empty(row, trust.as_deref()).await {
            self.keep_stage(&sleep, SleepStage::Awake).await.map_err(broken)?;
            return Err(why);
        }
        tracing::warn!(host = %id, "is put to sleep");
        let state = self.power.change(machine, PowerAction::Off).await?;
        for _ in 0..SILENCE_TRIES {
            if self.ask::<IgnoredAny>(row, "/v1/health").await.is_some() {
                return Err(self.turn_back(row, machine, &sleep).await);
            }
        }
        self.keep_stage(&sleep, SleepStage::Asleep).await.map_err(broken)?;
        tracing::info!(host = %id, "is asleep");
        Ok(state)
    }

    /// What a host says of itself now, if there is nothing on it that could be missed.
    async fn empty(&self, row: &HostRow, trust: Option<&Trust>) -> Result<Inventory, ProblemReply> {
        let unheard =
            || cannot("it does not answer this controller, so what is on it is not known");
        let inventory: Inventory = self.ask(row, "/v1/inventory").await.ok_or_else(unheard)?;
        let offers: Offers = self.ask(row, "/v1/offers").await.ok_or_else(unheard)?;
        if let Some(why) = stays_on(&inventory, trust) {
            return Err(cannot(&why));
        }
        if let Some(why) = not_empty(&inventory, offers.offers.len()) {
            return Err(ProblemReply::new(409, "not-drained", why));
        }
        Ok(inventory)
    }

    /// Its devices say off, and it answers: some other machine is off.
    async fn turn_back(&self, row: &HostRow, machine: &Machine, sleep: &Sleep) -> ProblemReply {
        let on = match self.power.change(machine, PowerAction::On).await {
            Ok(_) => "that one is turned on again".to_owned(),
            Err(error) => format!("that one may be off now: {error}"),
        };
        if sleep.undrain {
            self.undrain(row).await;
        }
        if let Err(error) = self.keep_stage(sleep, SleepStage::Awake).await {
            tracing::error!(host = %sleep.host, "is awake, which could not be stored: {error}");
        }
        let devices = machine.names().join(" and ");
        let what = format!(
            "{devices} say that it is off, and its agent answers still: they switch another machine; {on}. \
             See to the power file"
        );
        ProblemReply::new(502, "power-device", what)
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
        tokio::join!(look, find_out);
    }

    /// Hosts at this stage that nobody here is about to switch off.
    fn left(&self, stage: SleepStage) -> Vec<HostId> {
        let (known, falling) = (self.known(), self.falling());
        let at = known.values().filter(|sleep| sleep.stage == stage);
        at.map(|sleep| &sleep.host).filter(|host| !falling.contains(*host)).cloned().collect()
    }

    async fn look(&self) -> Result<(), StoreError> {
        let mut hosts = self.left(SleepStage::Asleep);
        hosts.extend(self.left(SleepStage::Falling));
        for host in hosts {
            let Ok(row) = self.heard(&host) else { continue };
            // What was learnt meanwhile counts.
            let Some(sleep) = self.known().get(&host).cloned() else { continue };
            if row.cursor.epoch > sleep.epoch {
                self.welcome(&sleep, &row).await?;
            } else if self.is_heard_since(&sleep)
                && self.ask::<IgnoredAny>(&row, "/v1/health").await.is_some()
            {
                tracing::error!(%host, "was put to sleep, and answers: its devices switch another machine");
                self.keep_stage(&sleep, SleepStage::Awake).await?;
            }
        }
        Ok(())
    }

    /// A host that slept is heard: it takes new VMs again, unless it was drained before.
    async fn welcome(&self, sleep: &Sleep, row: &HostRow) -> Result<(), StoreError> {
        // Others may have seen it wake long ago, and somebody may have drained it since.
        if !self.has_learnt.load(Ordering::Relaxed) {
            return Ok(());
        }
        if sleep.undrain && row.host.intent == Some(HostIntent::Drain) && !self.undrain(row).await {
            return Ok(());
        }
        tracing::info!(host = %sleep.host, "is awake");
        self.woken().remove(&sleep.host);
        let awake = Sleep { epoch: row.cursor.epoch, ..sleep.clone() };
        self.keep_stage(&awake, SleepStage::Awake).await
    }

    async fn undrain(&self, row: &HostRow) -> bool {
        for url in &row.host.urls {
            let agent = Endpoint::of_host(url.clone(), row.host.id.clone());
            let path = "/v1/config/intent";
            let asked =
                self.client.send::<_, Option<IgnoredAny>>(Method::DELETE, &agent, path, &());
            match asked.await {
                Ok(_) => return true,
                Err(error) => {
                    tracing::warn!(host = %row.host.id, "is awake, and stays drained for now: {error}");
                }
            }
        }
        false
    }

    /// What has become of a host whose going to sleep nobody has seen the end of.
    async fn find_out(&self, host: &HostId) -> Result<(), StoreError> {
        let Ok(machine) = self.machine(host) else { return Ok(()) };
        let state = machine.state().await;
        let picture = self.picture.borrow().clone();
        let Some(sleep) = self.known().get(host).cloned().filter(|_| picture.is_current) else {
            return Ok(());
        };
        let heard = self.heard(host).ok();
        match (state, heard) {
            (Ok(PowerState::Off), None) => {
                // It may have been taken into use again since, and then it is lost and not asleep.
                let row = picture.view.host(host);
                let is_empty =
                    row.is_none_or(|row| row.cursor.epoch == sleep.epoch && is_left_empty(row));
                let stage = if is_empty { SleepStage::Asleep } else { SleepStage::Awake };
                tracing::info!(%host, "was to be put to sleep, and is off: {stage:?}");
                self.keep_stage(&sleep, stage).await
            }
            (Ok(PowerState::On), Some(row)) => {
                let is_drained = row.host.intent == Some(HostIntent::Drain);
                if sleep.undrain && is_drained && !self.undrain(&row).await {
                    return Ok(());
                }
                tracing::warn!(%host, "was to be put to sleep, and is on and heard");
                self.keep_stage(&sleep, SleepStage::Awake).await
            }
            // It is asked again.
            _ => Ok(()),
        }
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

    /// False of a host that has had power for too long and was not heard.
    fn comes_up(&self, host: &HostId) -> bool {
        self.woken().get(host).is_none_or(|since| since.elapsed() < BOOT_MAX)
    }
}

/// Nothing of a host that could be missed: it takes nothing new, and no VM is there that is alive or would start.
fn is_left_empty(row: &HostRow) -> bool {
    let is_drained = row.host.intent == Some(HostIntent::Drain);
    is_drained && row.jobs.values().all(|job| job.state.is_ended() && job.hold.is_none())
}

impl Waker for Asleep {
    fn wake<'a>(&'a self, host: &'a HostId) -> Waking<'a> {
        Box::pin(async move {
            // A run that goes on after hours, or after somebody has turned it off for good, wakes nobody.
            let may_wake = |sleep: &Sleep| sleep.stage == SleepStage::Asleep && sleep.undrain;
            if !self.known().get(host).is_some_and(may_wake) {
                return Err(NotWoken::No(
                    "it is not asleep, or was turned off for good".to_owned(),
                ));
            }
            let machine = self.machine(host).map_err(|no| NotWoken::No(no.0.detail))?;
            tracing::info!(%host, "is woken");
            self.woken().entry(host.clone()).or_insert_with(Instant::now);
            // Everybody who may look reads runs; what devices say is for who may switch them.
            self.power.change(&machine, PowerAction::On).await.map(drop).map_err(
                |error: PowerError| {
                    tracing::warn!(%host, "is not woken yet: {error}");
                    let what =
                        "its power devices have not turned it on; the controller's log says more";
                    NotWoken::Unclear(what.to_owned())
                },
            )
        })
    }
}

fn cannot(why: &str) -> ProblemReply {
    ProblemReply::new(409, "cannot-sleep", why.to_owned())
}

fn broken(error: StoreError) -> ProblemReply {
    ProblemReply::new(503, "storage-broken", error.to_string())
}

/// What keeps a host from ever being put to sleep, emptied or not.
fn stays_on(inventory: &Inventory, trust: Option<&Trust>) -> Option<String> {
    let mut roles: BTreeSet<String> = BTreeSet::new();
    for job in inventory.jobs.iter().filter(|job| !job.state.is_ended()) {
        if let JobKind::Service(service) = &job.spec.kind {
            roles.insert(service.role.to_string());
        }
    }
    let own: BTreeSet<&str> =
        inventory.host.urls.iter().filter_map(|url| address_of(url)).collect();
    let is_here = |url: &str| address_of(url).is_some_and(|address| own.contains(address));
    for peer in trust.iter().flat_map(|trust| &trust.peers).filter(|peer| is_here(&peer.url)) {
        roles.insert(peer.role.to_string());
    }
    let seats = trust.iter().flat_map(|trust| trust.seats());
    roles.extend(
        seats.filter(|(_, slot)| is_here(&slot.url)).map(|(seat, _)| Role::from(seat).to_string()),
    );
    if !roles.is_empty() {
        let roles = roles.into_iter().collect::<Vec<_>>().join(", ");
        return Some(format!(
            "the cluster needs what runs there ({roles}): a host with one of its services is not put to sleep"
        ));
    }
    let observed = inventory.observed.iter().filter(|domain| domain.is_active);
    let observed: Vec<&str> = observed.map(|domain| domain.name.as_str()).collect();
    if !observed.is_empty() {
        return Some(format!(
            "domains run there that nobody asked Ostler for: {}; adopt them, or end them",
            observed.join(", ")
        ));
    }
    // Nobody moves what does not run, and it would start there by itself with the host.
    let held = inventory.jobs.iter().filter(|job| job.state.is_ended() && job.hold.is_some());
    let held: Vec<&str> = held.map(|job| job.id.as_str()).collect();
    (!held.is_empty()).then(|| {
        format!(
            "it may start these again by itself, and holds their places: {}; stop or delete them",
            held.join(", ")
        )
    })
}

/// Why a host is not empty, or may be so no more in a moment.
fn not_empty(inventory: &Inventory, offers: usize) -> Option<String> {
    if inventory.host.intent != Some(HostIntent::Drain) {
        return Some("it is not drained, so VMs may come at any moment".to_owned());
    }
    let is_alive = |job: &&Job| !job.state.is_ended();
    let alive: Vec<&str> =
        inventory.jobs.iter().filter(is_alive).map(|job| job.id.as_str()).collect();
    if !alive.is_empty() {
        let (count, alive) = (alive.len(), alive.join(", "));
        return Some(format!("{count} VMs are alive there still: {alive}"));
    }
    (offers > 0).then(|| format!("{offers} offers of it are open"))
}

/// The address or name of `https://ADDRESS:PORT`, unless it is that of every machine.
fn address_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next()?;
    let address = match rest.rsplit_once(':') {
        Some((address, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => address,
        _ => rest,
    };
    let is_everywhere = address.starts_with("127.") || ["localhost", "[::1]"].contains(&address);
    (!is_everywhere).then_some(address)
}

#[cfg(test)]
mod tests {
    use protocol::id::{ClusterId, Cursor, Epoch, OfferId};
    use protocol::job::{JobSpec, JobState, ObservedDomain, ServiceSpec};
    use protocol::resources::Resources;
    use protocol::signed::SecretKey;
    use protocol::trust::Slot;
    use protocol::vm::VmSpec;

    use super::*;

    fn vm(state: JobState) -> Job {
        let spec = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        Job::of("web".parse().unwrap(), JobSpec::vm(spec), state)
    }

    /// A drained host with these jobs.
    fn inventory(jobs: Vec<Job>) -> Inventory {
        let key = SecretKey::from_seed([1; 32]).public();
        let urls = vec!["https://10.0.0.1:7460".to_owned()];
        let host = Host { intent: Some(HostIntent::Drain), urls, ..Host::of_key(key) };
        let cursor = Cursor { epoch: Epoch(3), seq: 7 };
        Inventory { cursor, host, jobs, observed: vec![] }
    }

    fn service(role: Role) -> Job {
        let service = ServiceSpec { role, port: 0, discovery: vec![] };
        let spec = JobSpec {
            kind: JobKind::Service(service),
            ..vm(JobState::Running).spec.as_ref().clone()
        };
        Job::of("service".parse().unwrap(), spec, JobState::Running)
    }

    #[test]
    fn only_a_host_that_says_itself_that_it_is_drained_and_empty_is_empty() {
        assert_eq!(not_empty(&inventory(vec![vm(JobState::Stopped)]), 0), None);
        let mut undrained = inventory(vec![]);
        undrained.host.intent = None;
        assert!(not_empty(&undrained, 0).unwrap().contains("not drained"));
        for state in
            [JobState::Running, JobState::Paused, JobState::MigratingIn, JobState::Accepted]
        {
            let why = not_empty(&inventory(vec![vm(state)]), 0).unwrap();
            assert!(why.contains("web"), "{state}: {why}");
        }
        assert!(not_empty(&inventory(vec![]), 1).unwrap().contains("offers"));
    }

    #[test]
    fn a_host_that_others_need_or_that_would_start_something_stays_on() {
        assert_eq!(stays_on(&inventory(vec![vm(JobState::Stopped)]), None), None);
        for role in [Role::Arbiter, Role::Witness, Role::Monitor, Role::Controller] {
            let why = stays_on(&inventory(vec![service(role)]), None).unwrap();
            assert!(why.contains(&role.to_string()), "{why}");
        }
        let hold = Some(OfferId { epoch: Epoch(1), num: 4 });
        let held = Job { hold, ..vm(JobState::Crashed) };
        assert!(stays_on(&inventory(vec![held]), None).unwrap().contains("web"));
        let mut strange = inventory(vec![]);
        strange.observed.push(ObservedDomain {
            uuid: uuid::Uuid::nil(),
            name: "old-db".to_owned(),
            is_active: true,
            resources: Resources::ZERO,
            is_persistent: true,
        });
        assert!(stays_on(&strange, None).unwrap().contains("old-db"));
        strange.observed[0].is_active = false;
        assert_eq!(stays_on(&strange, None), None);
    }

    #[test]
    fn an_arbiter_that_was_started_by_hand_is_known_by_its_address() {
        let trust = |url: &str| {
            let key = SecretKey::from_seed([9; 32]).public();
            let arbiters = vec![Slot { slot: 0, key, url: url.to_owned() }];
            Trust { arbiters, ..Trust::of_nobody(ClusterId::new("c1").unwrap()) }
        };
        let host = inventory(vec![]);
        assert!(
            stays_on(&host, Some(&trust("https://10.0.0.1:7461"))).unwrap().contains("arbiter")
        );
        assert_eq!(stays_on(&host, Some(&trust("https://10.0.0.11:7461"))), None);
        assert_eq!(stays_on(&host, Some(&trust("https://127.0.0.1:7461"))), None);
    }
}
