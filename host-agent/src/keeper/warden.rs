//! The agent's side of the keeper: sees that one runs while something needs cover, gives it drafts, and
//! passes on what it says.
//!
//! It is also the second of two killers (A5): whatever has become of the keeper, which may hang and keep its
//! connection, a gate whose time is over is sealed from here a little later, on a timer that waits for
//! nobody. Until a keeper says more it goes by what one has left in this boot of the machine, so an agent
//! that begins knows its guests' time before libvirt has answered.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::{JobId, OfferId};
use protocol::vm::{OnLoss, VmSpec};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use transport::Clock;
use uuid::Uuid;

use super::core::{Gate, Kept, Table};
use super::gate::Gates;
use super::process::{LINE_BYTES_MAX, folder, socket};
use crate::core::{Draft, Input};
use crate::shell::Post;

/// How often a keeper that does not answer is tried, or started.
const RETRY: Duration = Duration::from_millis(100);
/// Pause between two starts of a keeper.
const START_REST: Duration = Duration::from_secs(1);
/// How often what is lost is told to the core, until it has closed the hold.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a gate may take to open: the keeper opens it when it reads the draft.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a keeper may take to go when another takes its place.
const GO_DEADLINE: Duration = Duration::from_secs(2);
/// How much later than the keeper this seals a gate; and how often it looks.
const SECOND_MS: u64 = 250;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A log beyond this size is begun anew at a start.
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
        if let Ok(gates) = gates.clone() {
            let second = Second {
                gates,
                table: table.clone(),
                posts: posts.clone(),
                clock,
                over: BTreeSet::new(),
                sealed: BTreeSet::new(),
                told: BTreeSet::new(),
            };
            let task = Task { wards: wards.clone(), drafts: drafted, tell, posts, started: None };
            let (first, end) = (shutdown.clone(), shutdown.clone());
            tokio::spawn(async move { first.run_until_cancelled(task.run()).await });
            tokio::spawn(async move { end.run_until_cancelled(second.run()).await });
        }
        Arc::new(Self { wards, gates, drafts, table })
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

fn pid_of(stream: &UnixStream) -> Option<Pid> {
    stream.peer_cred().ok()?.pid().and_then(Pid::from_raw)
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
    drafts: watch::Receiver<Option<Draft>>,
    tell: watch::Sender<Table>,
    posts: mpsc::Sender<Post>,
    started: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let needs = |draft: &Option<Draft>| draft.as_ref().is_some_and(Draft::needs_keeper);
            let is_alive = self.tell.borrow().is_alive();
            if !is_alive && self.drafts.wait_for(needs).await.is_err() {
                return;
            }
            match UnixStream::connect(socket(&self.wards.data_dir)).await {
                Ok(stream) if self.is_of_another_program(&stream) => self.replace(stream).await,
                Ok(stream) => {
                    let why = self.talk(stream).await;
                    tracing::info!("the keeper has gone: {why}");
                }
                Err(_) => self.start_one(),
            }
            sleep(RETRY).await;
        }
    }

    /// Whether that keeper was started from another file than ours, as before an upgrade: it may not know
    /// what we tell it.
    fn is_of_another_program(&self, stream: &UnixStream) -> bool {
        let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let Some(pid) = pid_of(stream) else { return false };
        let theirs = file(&PathBuf::from(format!("/proc/{}/exe", pid.as_raw_nonzero())));
        let ours = file(&self.wards.program);
        theirs.zip(ours).is_some_and(|(theirs, ours)| theirs != ours)
    }

    /// Ends a keeper in favour of ours, which goes on where it was.
    async fn replace(&mut self, mut stream: UnixStream) {
        tracing::info!(
            "the keeper is of another program than this agent: another one takes its place"
        );
        let Some(pid) = pid_of(&stream) else { return };
        if let Err(error) = kill_process(pid, Signal::TERM) {
            tracing::error!("end the keeper: {error}");
        }
        let gone =
            async { while stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {} };
        if timeout(GO_DEADLINE, gone).await.is_err() {
            tracing::error!("the keeper does not go; it keeps on, and is told nothing");
        }
    }

    /// Exchanges drafts and tables with a keeper until it goes; says why.
    async fn talk(&mut self, stream: UnixStream) -> String {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let mut line = Vec::new();
        let mut drafts = self.drafts.clone();
        drafts.mark_changed();
        loop {
            // A line that is half read is gone on with: nothing of it is lost when others come first.
            let mut limited = (&mut lines).take(LINE_BYTES_MAX);
            let reading = limited.read_until(b'\n', &mut line);
            tokio::select! {
                read = reading => match read {
                    Ok(0) => return "it closed the connection".to_owned(),
                    Ok(_) if line.last() == Some(&b'\n') => {
                        match serde_json::from_slice::<Table>(&line) {
                            Ok(table) => drop(self.tell.send_replace(table)),
                            Err(error) => return format!("its table can't be read: {error}"),
                        }
                        line.clear();
                        self.tell_lost();
                        self.tell_joint();
                    }
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                },
                changed = drafts.changed() => {
                    if changed.is_err() {
                        return "the agent is stopping".to_owned();
                    }
                    let draft = drafts.borrow_and_update().clone();
                    let Some(draft) = draft else { continue };
                    let mut text = serde_json::to_vec(&draft).expect("a draft is valid JSON");
                    text.push(b'\n');
                    if let Err(error) = write.write_all(&text).await {
                        return error.to_string();
                    }
                }
                () = sleep(TELL_INTERVAL) => {
                    self.tell_lost();
                    self.tell_joint();
                }
            }
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
    fn start_one(&mut self) {
        if self.started.is_some_and(|at| at.elapsed() < START_REST) {
            return;
        }
        self.started = Some(Instant::now());
        if let Err(error) = self.spawn() {
            tracing::error!("start a keeper: {error}");
        }
    }

    fn spawn(&self) -> std::io::Result<()> {
        let folder = folder(&self.wards.data_dir);
        fs::create_dir_all(&folder)?;
        let path = folder.join("log");
        let is_long = fs::metadata(&path).is_ok_and(|found| found.len() > LOG_BYTES_MAX);
        let mut log = fs::OpenOptions::new();
        log.create(true).append(!is_long).write(true).truncate(is_long);
        let log = log.open(&path)?;
        let mut command = std::process::Command::new(&self.wards.program);
        command
            .args(["keeper", "--partition", &self.wards.partition, "--data-dir"])
            .arg(&self.wards.data_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
        tokio::spawn(async move { child.wait().await });
        Ok(())
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
        let is_over = |kept: &&Kept| kept.gate != Gate::Lost && kept.until_ms + SECOND_MS <= now_ms;
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

    use protocol::id::{Epoch, TenantId};
    use protocol::resources::Resources;
    use protocol::tenure::{Item, Standing};
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
    fn hanging_keeper(folder: &TempDir, table: Table) {
        fs::create_dir_all(super::folder(folder.path())).unwrap();
        let listener = UnixListener::bind(socket(folder.path())).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = serde_json::to_vec(&table).unwrap();
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
        hanging_keeper(&folder, told.clone());
        let mut bench = Bench::new(folder, Table::default());
        bench.warden.draft(draft());
        assert!(bench.is_soon(|bench| *bench.warden.table.borrow() == told).await);
        bench.clock.advance_ms(7_000 + SECOND_MS - 1);
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
    async fn what_an_earlier_life_has_left_is_sealed_in_time_before_anything_is_drafted() {
        let left = Table(vec![row(1, Gate::Open, 7_000)]);
        let bench = Bench::new(tempfile::tempdir().unwrap(), left);
        bench.clock.advance_ms(7_000 + SECOND_MS);
        assert!(bench.is_soon(Bench::is_sealed).await);
    }

    #[tokio::test]
    async fn a_keeper_that_has_covered_more_meanwhile_is_heard_before_anything_is_drafted() {
        let folder = tempfile::tempdir().unwrap();
        let told = Table(vec![row(1, Gate::Open, 20_000)]);
        hanging_keeper(&folder, told.clone());
        let bench = Bench::new(folder, Table(vec![row(1, Gate::Open, 7_000)]));
        assert!(bench.is_soon(|bench| *bench.warden.table.borrow() == told).await);
        bench.clock.advance_ms(10_000);
        sleep(3 * LOOK_INTERVAL).await;
        assert!(!bench.is_sealed());
    }
}
