//! The keeper's process: its files, its socket, and the order in which things happen.
//!
//! One thread. What the core decides is done at once, and nothing of it waits for a disk or for an
//! arbiter. What a next life needs is kept where a reboot clears it, because a reboot voids it (R14).

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::id::HostId;
use protocol::signed::Signed;
use protocol::tenure::{Statement, Term};
use protocol::trust::{Slot, Trust};
use rustix::mm::{MlockAllFlags, mlockall};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use transport::identity::IdentityError;
use transport::{Client, Clock, Endpoint, Identity, Method, trust_file};
use uuid::Uuid;

use super::core::{Effect, Input, Keeper, Saved, Table};
use super::gate::Gates;
use super::watchdog::Watchdog;
use crate::core::Draft;

/// How long an arbiter may take for a term; one that takes longer would hardly cover anything.
const STATE_DEADLINE: Duration = Duration::from_secs(3);
/// Statements on their way to one arbiter at a time: one that does not answer gets no queue.
const STATING_MAX: usize = 3;
/// Inputs waiting.
const INPUTS_MAX: usize = 256;
/// How often a sealed gate is looked at, and killed again.
const EMPTY_INTERVAL: Duration = Duration::from_millis(5);
/// When a guest that survives being killed is spoken of.
const SURVIVES_AFTER: Duration = Duration::from_secs(1);
/// How long a keeper with nothing to keep stays.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often a keeper does something, and says so, when there is nothing to do: its agent takes one that
/// is silent for some of these for one that hangs.
pub(super) const BEAT: Duration = Duration::from_millis(250);
/// Longest line of the agent: a draft of all that a ledger can hold.
pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;

/// How a keeper is run.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The agent's folder: its key, its trust document, and a folder for the keeper.
    pub data_dir: PathBuf,
    /// The partition that all gates are in, such as `ostler`.
    pub partition: String,
    /// What resets the machine when it is not fed: a device such as `/dev/watchdog0`, or a FIFO.
    pub watchdog: Option<PathBuf>,
}

/// Why a keeper could not start. No gate was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Its folder can't be used.
    #[error("use {path}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another one keeps this host.
    #[error("another keeper uses {path}", path = .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It has no key to sign with.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There are no gates here.
    #[error("hold guests in cgroups: {0}")]
    NoGates(String),
}

/// Where agent and keeper find each other.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("keeper")
}

pub(super) fn socket(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("sock")
}

/// What a keeper says to its agent, a line each. An empty line says that it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// Every hold and its gate.
    Table(Table),
    /// Whether the watchdog is fed that should be.
    Watchdog {
        /// What is wrong with it, if anything.
        ailment: Option<String>,
    },
}

/// What can be said now, anew at every turn of the loop.
#[derive(Debug, Clone, Default)]
struct Sayable {
    /// `None`: it knows no trust document yet, so it can't say until when anything may run.
    table: Option<Table>,
    ailment: Option<String>,
}

/// What is kept for a next life, of the keeper and of the agent.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot: String,
    saved: Saved,
    /// For an agent that has not found a keeper yet.
    #[serde(default)]
    left: Left,
}

/// What an agent that begins finds of its host's guests before libvirt has answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// The partition that all gates are in.
    pub partition: String,
    /// Until when each guest may run.
    pub table: Table,
}

impl Left {
    /// What a keeper has left in this boot of the machine.
    pub(crate) fn find(data_dir: &Path, host: &HostId) -> Self {
        Memory::open(&folder(data_dir), host.as_str())
            .load()
            .map(|kept| kept.left)
            .unwrap_or_default()
    }
}

/// Keeps until `shutdown`, or until there has been nothing to keep for a while.
pub async fn keep(
    options: KeeperOptions,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), KeeperError> {
    let path = folder(&options.data_dir);
    let unusable = |source| KeeperError::Folder { path: path.clone(), source };
    fs::create_dir_all(&path).map_err(unusable)?;
    let lock = File::create(path.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(KeeperError::InUse { path: path.clone() }),
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    let identity = Arc::new(Identity::load(&options.data_dir.join("agent.key"))?);
    let gates = Gates::open(&options.partition).map_err(KeeperError::NoGates)?;
    be_the_last_to_go();
    let memory = Memory::open(&path, identity.host_id().as_str());
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    let (tell, table) = watch::channel(Sayable::default());
    let socket = socket(&options.data_dir);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(unusable)?;
    tokio::spawn(listen(listener, inputs.clone(), table, shutdown.clone()));
    let trust = trust_file::follow(options.data_dir.join("trust.json"), shutdown.clone());
    let now_ms = clock.now().mono_ms;
    let saved = memory.load().map(|kept| kept.saved).unwrap_or_default();
    let process = Process {
        keeper: Keeper::new(identity.host_id(), now_ms, saved),
        stating: BTreeMap::new(),
        client: Client::new(Arc::clone(&identity)).with_deadline(STATE_DEADLINE),
        identity,
        gates,
        partition: options.partition,
        clock,
        memory,
        inputs,
        tell,
        watchdog: options.watchdog.map(Watchdog::at),
    };
    tracing::info!(folder = %path.display(), "keeper");
    tokio::select! {
        () = process.run(received, trust) => tracing::info!("nothing to keep any more"),
        () = shutdown.cancelled() => {}
    }
    drop(lock);
    Ok(())
}

/// When memory or CPU time are short, others go first, and what it has once used of its memory is never
/// fetched from a disk again. Where that is not allowed it is not so.
fn be_the_last_to_go() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("stay out of the reach of the OOM killer: {error}");
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(all) {
        tracing::debug!("stay in memory: {error}");
    }
    if let Err(error) = rustix::process::setpriority_process(None, -20) {
        tracing::debug!("run before others: {error}");
    }
    if let Err(why) = run_in_real_time() {
        tracing::debug!("run in real time: {why}");
    }
}

/// The lowest real-time priority is still before whatever is in none. The kernel leaves the others a
/// twentieth of the time should it ever go round in circles.
fn run_in_real_time() -> Result<(), String> {
    let mut chrt = std::process::Command::new("chrt");
    chrt.args(["--fifo", "--pid", "1", &std::process::id().to_string()]);
    let done = chrt.output().map_err(|error| format!("chrt: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

struct Process {
    keeper: Keeper,
    /// Statements on their way, by slot.
    stating: BTreeMap<u32, Arc<Semaphore>>,
    client: Client,
    identity: Arc<Identity>,
    gates: Gates,
    partition: String,
    clock: Clock,
    memory: Memory,
    inputs: mpsc::Sender<Input>,
    tell: watch::Sender<Sayable>,
    watchdog: Option<Watchdog>,
}

impl Process {
    async fn run(
        mut self,
        mut received: mpsc::Receiver<Input>,
        mut trust: watch::Receiver<Option<Arc<Trust>>>,
    ) {
        let mut saved = Saved::default();
        let mut idle_since: Option<Instant> = None;
        let first = trust.borrow_and_update().clone();
        let mut next = first.map_or(Input::Tick, Input::Trust);
        loop {
            let mut effects = Vec::new();
            self.keeper.handle(self.clock.now().mono_ms, next, &mut effects);
            // Nothing is let run before it is begun.
            if self.watchdog.as_ref().is_some_and(|watchdog| watchdog.bite_ms().is_none()) {
                self.mind_watchdog();
            }
            for effect in effects {
                self.perform(effect, trust.borrow().clone());
            }
            self.mind_watchdog();
            let now = self.keeper.saved();
            let table = self.keeper.has_trust().then(|| self.keeper.table());
            if let Some(table) = table.clone().filter(|_| now != saved) {
                self.memory.store(&now, Left { partition: self.partition.clone(), table });
                saved = now;
            }
            // Also what is no news: that it is said is the sign of life.
            let ailment = self.watchdog.as_ref().and_then(Watchdog::ailment).cloned();
            self.tell.send_replace(Sayable { table, ailment });
            let due_ms = self.keeper.due_ms();
            let is_idle = due_ms == u64::MAX;
            let since = *idle_since.get_or_insert_with(Instant::now);
            if !is_idle {
                idle_since = None;
            } else if since.elapsed() >= IDLE_MAX {
                return;
            }
            let pause = Duration::from_millis(due_ms.saturating_sub(self.clock.now().mono_ms));
            next = tokio::select! {
                Some(input) = received.recv() => input,
                Ok(()) = trust.changed() => {
                    let changed = trust.borrow_and_update().clone();
                    changed.map_or(Input::Tick, Input::Trust)
                }
                () = sleep(pause.min(BEAT)) => Input::Tick,
            };
        }
    }

    /// By the clock of now, after all that was due: a keeper that hangs before this does not feed.
    fn mind_watchdog(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let Some(wanted_ms) = self.keeper.bite_ms() else {
            if self.keeper.has_trust() {
                watchdog.ail("the trust document's terms are too short for one (D less 2K, a second at least)");
            }
            return;
        };
        let bite_ms = watchdog.bite_ms().unwrap_or(wanted_ms);
        let leash = self.keeper.leash(self.clock.now().mono_ms, bite_ms);
        watchdog.obey(leash, wanted_ms);
    }

    fn perform(&mut self, effect: Effect, trust: Option<Arc<Trust>>) {
        match effect {
            Effect::State(statement) => {
                for (_, slot) in trust.iter().flat_map(|trust| trust.seats()) {
                    self.state(slot, &statement);
                }
            }
            Effect::Open(uuid) => {
                if let Err(error) = self.gates.free(uuid) {
                    tracing::error!("open the gate of {uuid}: {error}");
                }
            }
            Effect::Seal(uuid) => {
                self.seal(uuid);
                tokio::spawn(await_empty(self.gates.clone(), uuid, self.inputs.clone()));
            }
            Effect::Remove(uuid) => self.gates.remove(uuid),
        }
    }

    /// First of all: what is told goes to a disk, which may let this wait.
    fn seal(&self, uuid: Uuid) {
        let sealed = self.gates.seal(uuid);
        tracing::warn!("the right to run {uuid} is over: its gate is sealed");
        if let Err(error) = sealed {
            tracing::error!("seal the gate of {uuid}: {error}");
        }
    }

    fn state(&mut self, slot: Slot, statement: &Statement) {
        let places = self.stating.entry(slot.slot);
        let places = places.or_insert_with(|| Arc::new(Semaphore::new(STATING_MAX)));
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
        let signed = Signed::seal(statement, self.identity.secret());
        let (client, inputs) = (self.client.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let _place = place;
            let arbiter = Endpoint::of_key(slot.url.clone(), slot.key);
            let path = "/v1/statements";
            let sent = client.send::<_, Signed<Term>>(Method::POST, &arbiter, path, &signed);
            match timeout(STATE_DEADLINE, sent).await {
                Ok(Ok(reply)) => match open(&reply.body, &slot) {
                    Ok(term) => drop(inputs.send(Input::Term(term)).await),
                    Err(why) => tracing::warn!("term of arbiter {}: {why}", slot.slot),
                },
                Ok(Err(error)) => tracing::debug!("state to arbiter {}: {error}", slot.slot),
                Err(_) => tracing::debug!("arbiter {} does not answer", slot.slot),
            }
        });
    }
}

/// A term counts for the slot whose key has signed it.
fn open(signed: &Signed<Term>, slot: &Slot) -> Result<Term, String> {
    let term = signed.open().map_err(|error| error.to_string())?;
    match signed.key() == slot.key && term.slot == slot.slot {
        true => Ok(term),
        false => Err(format!("signed by {} for slot {}", signed.key(), term.slot)),
    }
}

/// Kills until nobody is left.
async fn await_empty(gates: Gates, uuid: Uuid, inputs: mpsc::Sender<Input>) {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        match gates.is_empty(uuid) {
            Ok(true) => {
                let _ = inputs.send(Input::Empty(uuid)).await;
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::error!("look behind the gate of {uuid}: {error}"),
        }
        if began.elapsed() > SURVIVES_AFTER && !is_told {
            tracing::error!("{uuid} survives being killed; it stands still, and is killed on");
            is_told = true;
        }
        sleep(EMPTY_INTERVAL).await;
        if let Err(error) = gates.seal(uuid) {
            tracing::error!("seal the gate of {uuid}: {error}");
        }
    }
}

/// Serves the agent: drafts come in, tables go out.
async fn listen(
    listener: UnixListener,
    inputs: mpsc::Sender<Input>,
    sayable: watch::Receiver<Sayable>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, inputs.clone(), sayable.clone()));
            }
            Err(error) => {
                tracing::warn!("accept: {error}");
                sleep_until(Instant::now() + Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    stream: UnixStream,
    inputs: mpsc::Sender<Input>,
    mut sayable: watch::Receiver<Sayable>,
) {
    let (read, mut write) = stream.into_split();
    let hear = async {
        let mut lines = BufReader::new(read);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
            if !read.is_ok_and(|bytes| bytes > 0) {
                return;
            }
            match serde_json::from_slice::<Draft>(&line) {
                Ok(draft) => drop(inputs.send(Input::Draft(draft)).await),
                Err(error) => return tracing::warn!("a draft can't be read: {error}"),
            }
        }
    };
    let tell = async {
        let mut said = Sayable::default();
        loop {
            let next = sayable.borrow_and_update().clone();
            let text = lines(&said, &next);
            said = next;
            if write.write_all(&text).await.is_err() || sayable.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = tell => {}
    }
}

/// What is to be said after that was.
fn lines(said: &Sayable, next: &Sayable) -> Vec<u8> {
    let table = next.table.as_ref().filter(|_| next.table != said.table);
    let ailment = (next.ailment != said.ailment).then(|| next.ailment.clone());
    let all = [table.cloned().map(Said::Table), ailment.map(|ailment| Said::Watchdog { ailment })];
    let mut text = Vec::new();
    for line in all.into_iter().flatten() {
        serde_json::to_writer(&mut text, &line).expect("our nouns are always valid JSON");
        text.push(b'\n');
    }
    if text.is_empty() {
        text.push(b'\n');
    }
    text
}

/// Where a next life finds what this one knew: in memory that a reboot clears, where there is such.
struct Memory {
    path: PathBuf,
    boot: String,
}

impl Memory {
    fn open(folder: &Path, host: &str) -> Self {
        let run = PathBuf::from("/run/ostler");
        let is_made = fs::create_dir_all(&run).is_ok();
        let path = match is_made {
            true => run.join(format!("keeper-{host}.json")),
            false => folder.join("table.json"),
        };
        Self { path, boot: crate::boot_id() }
    }

    fn load(&self) -> Option<Kept> {
        let text = fs::read(&self.path).ok()?;
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) => Some(kept).filter(|kept| kept.boot == self.boot),
            // Without it guests are killed when their grants' own cover is over: safe, and loud.
            Err(error) => {
                tracing::error!("{} can't be read: {error}", self.path.display());
                None
            }
        }
    }

    fn store(&self, saved: &Saved, left: Left) {
        let kept = Kept { boot: self.boot.clone(), saved: saved.clone(), left };
        let text = serde_json::to_vec(&kept).expect("our nouns are always valid JSON");
        let new = self.path.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path));
        if let Err(error) = written {
            tracing::error!("write {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::id::{Epoch, OfferId};

    use super::*;
    use crate::keeper::core::{Gate, Kept as Row};

    #[test]
    fn what_a_keeper_leaves_is_found_in_this_boot_of_the_machine_and_in_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let memory = |boot: &str| Memory { path: folder.path().join("k"), boot: boot.to_owned() };
        let row = Row {
            hold: OfferId { epoch: Epoch(1), num: 1 },
            job: "web".parse().unwrap(),
            uuid: Uuid::from_u128(1),
            gate: Gate::Open,
            until_ms: 7_000,
            joint: None,
            trust_version: 1,
        };
        let left = Left { partition: "ostler".to_owned(), table: Table(vec![row]) };
        assert!(memory("a").load().is_none(), "nothing was left yet");
        memory("a").store(&Saved::default(), left.clone());
        assert_eq!(memory("a").load().map(|kept| kept.left), Some(left));
        assert!(memory("b").load().is_none(), "R14");
        // A keeper from before there was such a word has said nothing of it.
        let before = serde_json::json!({ "boot": "a", "saved": Saved::default() });
        fs::write(folder.path().join("k"), before.to_string()).unwrap();
        assert_eq!(memory("a").load().map(|kept| kept.left), Some(Left::default()));
    }

    #[test]
    fn what_is_no_news_is_a_sign_of_life() {
        let text = |said: &Sayable, next: &Sayable| String::from_utf8(lines(said, next)).unwrap();
        let unknown = Sayable::default();
        assert_eq!(text(&unknown, &unknown), "\n", "it knows nothing yet, and lives");
        let known = Sayable { table: Some(Table::default()), ailment: None };
        let told: Said = serde_json::from_str(&text(&unknown, &known)).unwrap();
        assert_eq!(told, Said::Table(Table::default()));
        assert_eq!(text(&known, &known), "\n");
        let ailing = Sayable { ailment: Some("it is away".to_owned()), ..known.clone() };
        let told: Said = serde_json::from_str(&text(&known, &ailing)).unwrap();
        assert_eq!(told, Said::Watchdog { ailment: ailing.ailment.clone() });
        let told: Said = serde_json::from_str(&text(&ailing, &known)).unwrap();
        assert_eq!(told, Said::Watchdog { ailment: None });
    }
}
