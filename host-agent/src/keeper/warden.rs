//! The agent's side of the keeper: sees that one runs while something needs cover, gives it drafts, and
//! passes on what it says.
//!
//! It is also the second of two killers (A5): whatever has become of the keeper, which may hang and keep its
//! connection, a gate whose time is over is sealed from here a little later, on a timer that waits for
//! nobody. Until a keeper says more it goes by what one has left in this boot of the machine, so an agent
//! that begins knows its guests' time before libvirt has answered.
//!
//! A keeper that says nothing for a while is killed, and the next goes on where it was (decision 0054).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::{JobId, OfferId};
use protocol::vm::{OnLoss, VmSpec};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use transport::Clock;
use uuid::Uuid;

use super::core::{Gate, Kept, Table};
use super::gate::Gates;
use super::peer::Peer;
use super::process::{BEAT, LINE_BYTES_MAX, Said, folder, socket};
use super::troubles::Troubles;
use crate::core::{Draft, Input};
use crate::log_file::LogFile;
use crate::shell::Post;

/// How often a keeper that does not answer is tried, or started.
const RETRY: Duration = Duration::from_millis(100);
/// Pause between two starts of a keeper.
const START_REST: Duration = Duration::from_secs(1);
/// How long a keeper may take from its start until it answers: on a busy machine that is not at once.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);
/// How often what is lost is told to the core, until it has closed the hold.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a gate may take to open: the keeper opens it when it reads the draft.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A keeper that has said nothing at so many looks, one a [`BEAT`], hangs: 2 s. One that is renewed in time
/// has 5.3 s of cover left at its last sign of life (D − K less a renewal), so the next has more than
/// 3 s to begin and be answered. Looks are counted and not time, because an agent that was stopped
/// itself has not listened. To be wrong costs a warning: the next keeper goes on where this one was.
const SILENT_LOOKS_MAX: u32 = 8;
/// How much later than the keeper this seals a gate; and how often it looks.
const SECOND_DELAY_MS: u64 = 250;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The keeper's log is cut beyond this size.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// What a keeper is started with.
#[derive(Debug, Clone)]
pub(crate) struct Wards {
    /// The agent's folder.
    pub data_dir: PathBuf,
    /// The `ostler` program.
    pub program: PathBuf,
    /// See [`super::KeeperOptions::partition`].
    pub partition: String,
    /// See [`super::KeeperOptions::watchdog`].
    pub watchdog: Option<PathBuf>,
}

/// Why a guest may not be let run.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// Its gate is not open, and nobody sees to what may be behind it.
    Over(String),
    /// Somebody else does, or this agent ends: nothing is known of it.
    Ending(String),
}

/// The agent's side of the keeper.
#[derive(Debug)]
pub(crate) struct Warden {
    wards: Wards,
    gates: Result<Gates, String>,
    drafts: watch::Sender<Option<Draft>>,
    table: watch::Receiver<Table>,
    troubles: Arc<Troubles>,
}

impl Warden {
    /// Watches from now on, at first over what an earlier life has `left`; news goes to `posts`.
    pub(crate) fn start(
        wards: Wards,
        left: Table,
        clock: Clock,
        posts: mpsc::Sender<Post>,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let gates = Gates::open(&wards.partition);
        if let Err(why) = &gates {
            tracing::info!("no VM with on_loss = stop can run here: {why}");
        }
        Self::over(gates, wards, left, clock, posts, shutdown)
    }

    fn over(
        gates: Result<Gates, String>,
        wards: Wards,
        left: Table,
        clock: Clock,
        posts: mpsc::Sender<Post>,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let (drafts, drafted) = watch::channel(None);
        let (tell, table) = watch::channel(left);
        let troubles = Arc::new(Troubles::default());
        if let Ok(gates) = gates.clone() {
            let second = Second {
                gates,
                table: table.clone(),
                posts: posts.clone(),
                clock: clock.clone(),
                over: BTreeSet::new(),
                sealed: BTreeSet::new(),
                told: BTreeSet::new(),
            };
            let task = Task {
                watchdog: wards.watchdog.clone(),
                wards: wards.clone(),
                drafts: drafted,
                tell,
                posts,
                started: None,
                child: None,
                troubles: Arc::clone(&troubles),
                clock,
            };
            let log = LogFile::of(&folder(&wards.data_dir), LOG_BYTES_MAX);
            let [first, end, last] = [(); 3].map(|()| shutdown.clone());
            tokio::spawn(async move { first.run_until_cancelled(task.run()).await });
            tokio::spawn(async move { end.run_until_cancelled(second.run()).await });
            tokio::spawn(async move { last.run_until_cancelled(log.keep_bounded()).await });
        }
        Arc::new(Self { wards, gates, drafts, table, troubles })
    }

    /// What somebody should look after.
    pub(crate) fn ailments(&self, now_ms: u64) -> Vec<String> {
        self.troubles.ailments(now_ms)
    }

    /// How many keepers were killed because they hung, since this agent began.
    pub(crate) fn replaced(&self) -> usize {
        self.troubles.replaced()
    }

    /// Whether guests can be held here.
    pub(crate) fn can_guard(&self) -> bool {
        self.gates.is_ok()
    }

    /// What may be stated from now on. Call it after what it says is on disk.
    pub(crate) fn draft(&self, draft: Draft) {
        self.drafts.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&draft);
            *known = Some(draft);
            is_news
        });
    }

    /// The partition that a VM's definition names, if it needs cover.
    pub(crate) fn partition(&self, vm: &VmSpec, uuid: Uuid) -> Option<String> {
        (vm.on_loss == OnLoss::Stop).then(|| Gates::partition(&self.wards.partition, uuid))
    }

    /// Waits until a VM that needs cover may run.
    pub(crate) async fn await_open(&self, job: &JobId, vm: &VmSpec) -> Result<(), Unopened> {
        use Unopened::{Ending, Over};
        if vm.on_loss == OnLoss::Keep {
            return Ok(());
        }
        if let Err(why) = &self.gates {
            return Err(Over(format!("no VM with on_loss = stop can run here: {why}")));
        }
        let drafted = self.drafts.borrow().as_ref().and_then(|draft| hold_of(draft, job));
        let no_hold = || Over(format!("no hold of {job} is known that needs cover"));
        let hold = drafted.ok_or_else(no_hold)?;
        let gate = |table: &Table| table.of(hold).map(|kept| kept.gate);
        let is_decided = |table: &Table| !matches!(gate(table), None | Some(Gate::Shut));
        let mut table = self.table.clone();
        match timeout(OPEN_DEADLINE, table.wait_for(is_decided)).await {
            Ok(Ok(table)) => match gate(&table) {
                Some(Gate::Open) => Ok(()),
                Some(Gate::Sealing) => {
                    Err(Ending(format!("the right to run {job} is over, and its guest is dying")))
                }
                Some(Gate::Shut | Gate::Lost) | None => {
                    Err(Over(format!("the right to run {job} was over before it started")))
                }
            },
            Ok(Err(_)) => Err(Ending("the agent is stopping".to_owned())),
            Err(_) => {
                Err(Over(format!("no keeper has opened the gate of {job} in time; see its log")))
            }
        }
    }

    /// Whether the job has a hold here that needs cover.
    pub(crate) fn keeps(&self, job: &JobId) -> bool {
        self.drafts.borrow().as_ref().is_some_and(|draft| hold_of(draft, job).is_some())
    }

    /// Whether the guest is where the keeper can end it.
    pub(crate) fn is_guarded(&self, uuid: Uuid) -> bool {
        let is_empty = self.gates.as_ref().map(|gates| gates.is_empty(uuid));
        matches!(is_empty, Ok(Ok(false)))
    }
}

fn hold_of(draft: &Draft, job: &JobId) -> Option<OfferId> {
    let is_it = |item: &protocol::tenure::Item| {
        item.job == *job && item.is_hold() && item.on_loss == OnLoss::Stop
    };
    draft.items.iter().map(|drafted| &drafted.item).find(|item| is_it(item)).map(|item| item.id)
}

/// The conversation with the keeper.
struct Task {
    wards: Wards,
    /// What the next keeper is to feed. One that feeds another watchdog than is wanted now has begun what
    /// only a successor can go on with, so it is handed on until nothing is kept.
    watchdog: Option<PathBuf>,
    drafts: watch::Receiver<Option<Draft>>,
    tell: watch::Sender<Table>,
    posts: mpsc::Sender<Post>,
    started: Option<Instant>,
    /// The one that was started, until it is met.
    child: Option<Peer>,
    troubles: Arc<Troubles>,
    clock: Clock,
}

/// How a conversation ended.
enum Parting {
    /// The keeper has gone, or can't be understood: why.
    Gone(String),
    /// It is there and says nothing.
    Silent,
}

impl Task {
    async fn run(mut self) {
        loop {
            let needs = |draft: &Option<Draft>| draft.as_ref().is_some_and(Draft::needs_keeper);
            let is_alive = self.tell.borrow().is_alive();
            if !is_alive {
                if self.drafts.wait_for(needs).await.is_err() {
                    return;
                }
                self.watchdog.clone_from(&self.wards.watchdog);
            }
            match UnixStream::connect(socket(&self.wards.data_dir)).await {
                Ok(stream) => self.meet(stream).await,
                Err(_) => self.start_one().await,
            }
            sleep(RETRY).await;
        }
    }

    /// Talks with the keeper that is there, or sees that another takes its place.
    async fn meet(&mut self, stream: UnixStream) {
        self.child = None;
        // Before anything is read from it: who answers afterwards is who this handle means.
        let peer = Peer::of(&stream);
        let watchdog = peer.as_ref().and_then(Peer::watchdog);
        let has_none = watchdog.is_none();
        self.watchdog = watchdog.or_else(|| self.wards.watchdog.clone());
        let is_other = |peer: &&Peer| peer.is_of_another_program(&self.wards.program);
        if let Some(peer) = peer.as_ref().filter(is_other) {
            tracing::info!(
                "the keeper is of another program than this agent: another one takes its place"
            );
            return peer.end().await;
        }
        if let Some(peer) = peer.as_ref().filter(|_| has_none && self.wards.watchdog.is_some()) {
            tracing::info!("the keeper feeds no watchdog: another one takes its place");
            return peer.end().await;
        }
        match self.talk(stream).await {
            Parting::Gone(why) => tracing::info!("the keeper has gone: {why}"),
            Parting::Silent => self.replace(peer).await,
        }
        self.troubles.keeper_is_gone();
    }

    /// Kills a keeper that hangs. Nothing of it is left when another begins: it is seen dead first, and
    /// the next needs the lock that it had.
    async fn replace(&mut self, peer: Option<Peer>) {
        let now_ms = self.clock.now().mono_ms;
        let silent = BEAT * SILENT_LOOKS_MAX;
        let Some(peer) = peer else {
            self.troubles.keeper_hangs(now_ms);
            return tracing::error!(
                "the keeper has said nothing for {silent:?}, and which process it is can't be told; \
                 this agent ends what is over, and starts of VMs with on_loss = stop fail"
            );
        };
        tracing::warn!(
            pid = peer.pid(),
            "the keeper has said nothing for {silent:?}: it is killed, and another takes its place"
        );
        self.troubles.keeper_hangs(now_ms);
        peer.kill().await;
        self.troubles.keeper_is_replaced(self.clock.now().mono_ms);
    }

    /// Exchanges drafts and tables with a keeper until it goes, or says nothing any more.
    async fn talk(&mut self, stream: UnixStream) -> Parting {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let mut line = Vec::new();
        let mut drafts = self.drafts.clone();
        drafts.mark_changed();
        let mut unsent: Vec<u8> = Vec::new();
        let mut looks = interval(BEAT);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut silent, mut told) = (0, Instant::now());
        loop {
            // A line that is half read is gone on with: nothing of it is lost when others come first.
            let mut limited = (&mut lines).take(LINE_BYTES_MAX);
            let reading = limited.read_until(b'\n', &mut line);
            tokio::select! {
                // What lies there is read before it is missed.
                biased;
                read = reading => match read {
                    Ok(0) => return Parting::Gone("it closed the connection".to_owned()),
                    Ok(_) if line.last() == Some(&b'\n') => {
                        silent = 0;
                        if let Err(why) = self.hear(&line) {
                            return Parting::Gone(why);
                        }
                        line.clear();
                    }
                    Ok(_) => silent = 0,
                    Err(error) => return Parting::Gone(error.to_string()),
                },
                // One that hangs reads nothing either, and must not keep us from seeing that.
                wrote = write.write(&unsent), if !unsent.is_empty() => match wrote {
                    Ok(bytes) => drop(unsent.drain(..bytes)),
                    Err(error) => return Parting::Gone(error.to_string()),
                },
                changed = drafts.changed(), if unsent.is_empty() => {
                    if changed.is_err() {
                        return Parting::Gone("the agent is stopping".to_owned());
                    }
                    if let Some(draft) = drafts.borrow_and_update().as_ref() {
                        unsent = serde_json::to_vec(draft).expect("a draft is valid JSON");
                        unsent.push(b'\n');
                    }
                }
                _ = looks.tick() => {
                    silent += 1;
                    if silent > SILENT_LOOKS_MAX {
                        return Parting::Silent;
                    }
                    if told.elapsed() >= TELL_INTERVAL {
                        told = Instant::now();
                        self.tell_lost();
                        self.tell_joint();
                    }
                }
            }
        }
    }

    /// One line of the keeper; an empty one says that it lives.
    fn hear(&self, line: &[u8]) -> Result<(), String> {
        self.troubles.keeper_speaks();
        if line == b"\n" {
            return Ok(());
        }
        match serde_json::from_slice::<Said>(line) {
            Ok(Said::Table(table)) => {
                self.tell.send_replace(table);
                self.tell_lost();
                self.tell_joint();
                Ok(())
            }
            Ok(Said::Watchdog { ailment }) => {
                self.troubles.watchdog_ails(ailment);
                Ok(())
            }
            Err(error) => Err(format!("what it says can't be read: {error}")),
        }
    }

    /// What finds no room in the mailbox is told again; whoever waited for room would not hear the keeper.
    fn tell_lost(&self) {
        let lost: Vec<(OfferId, JobId)> = self
            .tell
            .borrow()
            .0
            .iter()
            .filter(|kept| kept.gate == Gate::Lost)
            .map(|kept| (kept.hold, kept.job.clone()))
            .collect();
        for (hold, job) in lost {
            let _ = self.posts.try_send(Post::Input(Input::Lost { job, hold }));
        }
    }

    fn tell_joint(&self) {
        let joint = self.tell.borrow().joint();
        if joint.change.is_some() {
            let _ = self.posts.try_send(Post::Input(Input::Joint(joint)));
        }
    }

    /// Starts a keeper, which outlives this agent.
    async fn start_one(&mut self) {
        let is_within = |rest| self.started.is_some_and(|at| at.elapsed() < rest);
        if is_within(START_REST) {
            return;
        }
        if let Some(child) = &self.child
            && !child.is_dead().await
        {
            if is_within(BEGIN_DEADLINE) {
                return;
            }
            // It may have the lock by now, and no other could begin.
            tracing::warn!(
                pid = child.pid(),
                "the keeper that was started does not answer: it is killed"
            );
            child.kill().await;
            self.troubles.keeper_is_replaced(self.clock.now().mono_ms);
        }
        self.started = Some(Instant::now());
        match self.spawn() {
            Ok(child) => self.child = child,
            Err(error) => tracing::error!("start a keeper: {error}"),
        }
    }

    fn spawn(&self) -> std::io::Result<Option<Peer>> {
        let folder = folder(&self.wards.data_dir);
        fs::create_dir_all(&folder)?;
        let log = LogFile::of(&folder, LOG_BYTES_MAX).open()?;
        let mut command = std::process::Command::new(&self.wards.program);
        command
            .args(["keeper", "--partition", &self.wards.partition, "--data-dir"])
            .arg(&self.wards.data_dir)
            .args(
                self.watchdog.iter().flat_map(|path| [OsStr::new("--watchdog"), path.as_os_str()]),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
        let peer = Peer::of_child(&child);
        tokio::spawn(async move { child.wait().await });
        Ok(peer)
    }
}

/// The second killer: it knows the keeper's last table, and waits for nobody.
struct Second {
    gates: Gates,
    table: watch::Receiver<Table>,
    posts: mpsc::Sender<Post>,
    clock: Clock,
    /// Holds whose time was over at the last look.
    over: BTreeSet<OfferId>,
    /// Those whose gate was sealed from here.
    sealed: BTreeSet<OfferId>,
    /// Those of which the core knows that they are lost.
    told: BTreeSet<OfferId>,
}

impl Second {
    async fn run(mut self) {
        loop {
            sleep(LOOK_INTERVAL).await;
            self.look();
        }
    }

    /// Seals what was over at the last look already: when this agent has been stopped itself, what its keeper
    /// has said meanwhile is read first.
    fn look(&mut self) {
        let now_ms = self.clock.now().mono_ms;
        let is_over =
            |kept: &&Kept| kept.gate != Gate::Lost && kept.until_ms + SECOND_DELAY_MS <= now_ms;
        let over: Vec<Kept> = self.table.borrow().0.iter().filter(is_over).cloned().collect();
        let last = std::mem::replace(&mut self.over, over.iter().map(|kept| kept.hold).collect());
        self.sealed.retain(|hold| self.over.contains(hold));
        self.told.retain(|hold| self.over.contains(hold));
        over.iter().filter(|kept| last.contains(&kept.hold)).for_each(|kept| self.seal(kept));
    }

    /// Seals a gate until the keeper says that its hold is lost; and says so itself once nobody is behind it:
    /// R12, the right does not come back with the keeper.
    fn seal(&mut self, kept: &Kept) {
        let sealed = self.gates.seal(kept.uuid);
        if self.sealed.insert(kept.hold) {
            tracing::warn!(job = %kept.job, "its right to run is over, and no keeper has ended it: its gate is sealed");
        }
        if let Err(error) = sealed {
            return tracing::error!(job = %kept.job, "seal its gate: {error}");
        }
        if self.gates.is_empty(kept.uuid).unwrap_or(false) && !self.told.contains(&kept.hold) {
            let lost = Input::Lost { job: kept.job.clone(), hold: kept.hold };
            if self.posts.try_send(Post::Input(lost)).is_ok() {
                self.told.insert(kept.hold);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;

    use protocol::id::{Epoch, TenantId};
    use protocol::resources::Resources;
    use protocol::tenure::{Item, Standing};
    use rustix::process::{Pid, Signal, kill_process};
    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::sync::oneshot;
    use transport::Now;

    use super::*;
    use crate::core::Drafted;

    fn hold(num: u64) -> OfferId {
        OfferId { epoch: Epoch(1), num }
    }

    fn row(num: u64, gate: Gate, until_ms: u64) -> Kept {
        let (job, uuid) = ("web".parse().unwrap(), Uuid::from_u128(u128::from(num)));
        Kept { hold: hold(num), job, uuid, gate, until_ms, joint: None, trust_version: 1 }
    }

    fn draft() -> Draft {
        let item = Item {
            id: hold(1),
            job: "web".parse().unwrap(),
            resources: Resources::ZERO,
            tenant: TenantId::default_tenant(),
            debits: Some(BTreeMap::new()),
            on_loss: OnLoss::Stop,
            delegated: None,
            standing: Standing::Hold,
        };
        let drafted = Drafted { item, uuid: Uuid::from_u128(1), issued_ms: None, since: None };
        let (epoch, watermark) = (Epoch(1), hold(1));
        Draft { epoch, watermark, items: vec![drafted], trust_version: 1, agreed: None }
    }

    /// A warden over a folder in place of cgroups, with a guest behind the gate of hold 1.
    struct Bench {
        folder: TempDir,
        clock: Clock,
        warden: Arc<Warden>,
        mailbox: mpsc::Receiver<Post>,
        _end: tokio_util::sync::DropGuard,
    }

    impl Bench {
        fn new(folder: TempDir, left: Table) -> Self {
            let gates = Gates::of_folder(folder.path());
            let wards = Wards {
                data_dir: folder.path().to_owned(),
                program: std::env::current_exe().unwrap(),
                partition: "ostler".to_owned(),
                watchdog: None,
            };
            let clock = Clock::manual(Now::default());
            let (posts, mailbox) = mpsc::channel(1);
            // The mailbox is full.
            posts.try_send(Post::OpenOffers(oneshot::channel().0)).ok().unwrap();
            let end = CancellationToken::new();
            let warden = Warden::over(Ok(gates), wards, left, clock.clone(), posts, &end);
            let bench = Self { folder, clock, warden, mailbox, _end: end.drop_guard() };
            fs::create_dir_all(bench.gate()).unwrap();
            fs::write(bench.gate().join("cgroup.events"), "populated 1\n").unwrap();
            bench
        }

        fn gate(&self) -> PathBuf {
            let uuid = Uuid::from_u128(1);
            self.folder.path().join(format!("ostler.partition/{uuid}.partition"))
        }

        fn is_sealed(&self) -> bool {
            self.gate().join("cgroup.kill").exists()
        }

        async fn is_soon(&self, what: impl Fn(&Self) -> bool) -> bool {
            let so = async {
                while !what(self) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), so).await.is_ok()
        }
    }

    /// A keeper that says this once, and hangs from then on with its connection open.
    fn hanging_keeper(folder: &Path, table: Table) {
        fs::create_dir_all(super::folder(folder)).unwrap();
        let listener = UnixListener::bind(socket(folder)).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = serde_json::to_vec(&Said::Table(table)).unwrap();
            line.push(b'\n');
            stream.write_all(&line).await.unwrap();
            std::future::pending::<()>().await;
        });
    }

    #[tokio::test]
    async fn a_keeper_that_hangs_is_not_waited_for_nor_is_a_full_mailbox() {
        let folder = tempfile::tempdir().unwrap();
        // Told of what is lost, so that there is something to tell that finds no room.
        let told = Table(vec![row(1, Gate::Open, 7_000), row(2, Gate::Lost, 0)]);
        hanging_keeper(folder.path(), told.clone());
        let mut bench = Bench::new(folder, Table::default());
        bench.warden.draft(draft());
        assert!(bench.is_soon(|bench| *bench.warden.table.borrow() == told).await);
        bench.clock.advance_ms(7_000 + SECOND_DELAY_MS - 1);
        sleep(3 * LOOK_INTERVAL).await;
        assert!(!bench.is_sealed(), "it is the keeper's turn");
        bench.clock.advance_ms(1);
        assert!(bench.is_soon(Bench::is_sealed).await);
        // Dead, its hold is closed, whether the keeper comes back or not.
        fs::write(bench.gate().join("cgroup.events"), "populated 0\n").unwrap();
        let lost = async {
            loop {
                match bench.mailbox.recv().await.expect("the warden lives") {
                    Post::Input(Input::Lost { hold: lost, .. }) if lost == hold(1) => return,
                    _ => {}
                }
            }
        };
        assert!(timeout(Duration::from_secs(20), lost).await.is_ok());
    }

    #[tokio::test]
    async fn the_log_of_a_keeper_that_lives_on_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        hanging_keeper(folder.path(), Table::default());
        let path = super::folder(folder.path()).join("log");
        let log = fs::File::create(&path).unwrap();
        log.set_len(LOG_BYTES_MAX + 1).unwrap();
        let bench = Bench::new(folder, Table::default());
        assert!(bench.is_soon(|_| fs::metadata(&path).unwrap().len() == 0).await);
    }

    #[tokio::test]
    async fn what_an_earlier_life_has_left_is_sealed_in_time_before_anything_is_drafted() {
        let left = Table(vec![row(1, Gate::Open, 7_000)]);
        let bench = Bench::new(tempfile::tempdir().unwrap(), left);
        bench.clock.advance_ms(7_000 + SECOND_DELAY_MS);
        assert!(bench.is_soon(Bench::is_sealed).await);
    }

    #[tokio::test]
    async fn a_keeper_that_has_covered_more_meanwhile_is_heard_before_anything_is_drafted() {
        let folder = tempfile::tempdir().unwrap();
        let told = Table(vec![row(1, Gate::Open, 20_000)]);
        hanging_keeper(folder.path(), told.clone());
        let bench = Bench::new(folder, Table(vec![row(1, Gate::Open, 7_000)]));
        assert!(bench.is_soon(|bench| *bench.warden.table.borrow() == told).await);
        bench.clock.advance_ms(10_000);
        sleep(3 * LOOK_INTERVAL).await;
        assert!(!bench.is_sealed());
    }

    /// Names the folder of a keeper that a test starts.
    const FOLDER: &str = "OSTLER_TEST_HANGING_KEEPER";

    #[tokio::test]
    #[ignore = "started by a_keeper_that_is_stopped_is_killed_and_the_second_killer_needs_no_next_one"]
    async fn hanging_keeper_of_its_own() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        hanging_keeper(Path::new(&folder), Table(vec![row(1, Gate::Open, 7_000)]));
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_keeper_that_is_stopped_is_killed_and_the_second_killer_needs_no_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "keeper::warden::tests::hanging_keeper_of_its_own";
        command.args(["--exact", name, "--ignored"]).env(FOLDER, folder.path());
        let mut keeper = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut bench = Bench::new(folder, Table::default());
        assert!(bench.is_soon(|bench| socket(bench.folder.path()).exists()).await);
        bench.warden.draft(draft());
        assert!(bench.is_soon(|bench| bench.warden.table.borrow().is_alive()).await);
        kill_process(Pid::from_child(&keeper), Signal::STOP).unwrap();

        assert!(bench.is_soon(|bench| bench.warden.replaced() == 1).await);
        let ended = keeper.wait().unwrap();
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()));
        assert_eq!(bench.warden.ailments(0).len(), 1);
        // What was started in its place is no keeper, and ends at once.
        let log = |bench: &Bench| super::folder(bench.folder.path()).join("log");
        assert!(bench.is_soon(|bench| log(bench).exists()).await);
        assert!(!bench.is_sealed(), "its right goes on");
        bench.clock.advance_ms(7_000 + SECOND_DELAY_MS);
        assert!(bench.is_soon(Bench::is_sealed).await);
        fs::write(bench.gate().join("cgroup.events"), "populated 0\n").unwrap();
        let is_lost = |post: &Post| matches!(post, Post::Input(Input::Lost { hold: lost, .. }) if *lost == hold(1));
        let lost = async { while !bench.mailbox.recv().await.as_ref().is_some_and(is_lost) {} };
        assert!(timeout(Duration::from_secs(20), lost).await.is_ok());
    }
}
