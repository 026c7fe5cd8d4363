//! The agent on every hypervisor: the only truth about what runs there.
//!
//! [`core`] decides, everything else performs: [`serve`] puts the parts together. The agent can die
//! at any instruction; guests and services go on, and its next life finds them by the ledger and by
//! what libvirt shows.

pub mod core;

pub mod image;

pub mod keeper;

pub mod store;

mod api;

mod channel;
mod console;
mod cpus;
mod disk_image;
mod traced;

mod trust_file;

mod feed;
mod fetch;
mod hardware;
mod hugepages;
mod images;
mod library;
mod log_file;
mod looks;
mod meter;
mod metrics;
mod networks;
mod outage;
mod part;
mod place;
mod pool;
mod pools;
mod qcow2;
mod recorder;
mod right;
mod screen;
mod seed;
mod sensors;
mod services;
mod shell;
mod snapshots;
mod storage;
mod works;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hypervisor::{Hypervisor, HypervisorError, Libvirt, LibvirtOptions, NodeFacts};
use protocol::cpus::{CpuSet, DedicatedCpus};
use protocol::host::{Accel, Host};
use protocol::hugepages::Hugepages;
use protocol::resources::Resources;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use transport::discovery::{Advert, Announcer, Pace, Source};
use transport::notify::Manager;
use transport::{Client, Clock, Identity, Listen, Server};

pub use crate::api::openapi;
use crate::api::{Api, GIVEN_AT_ONCE, router};
pub use crate::channel::CHANNELS_DIR;
use crate::channel::Channels;
use crate::core::{Agent, Birth, CpuLayout, LedgerState};
pub use crate::cpus::CpusError;
use crate::feed::Feed;
pub use crate::fetch::FetchLimits;
use crate::fetch::Room;
use crate::hardware::Machine;
use crate::hugepages::Counter;
use crate::keeper::{Left, Warden, Wards, WatchdogError};
use crate::library::{Library, Means};
use crate::meter::Meter;
use crate::networks::Networks;
use crate::outage::Outage;
use crate::place::Place;
use crate::recorder::Recorders;
pub use crate::sensors::Share;
use crate::services::{ServiceContext, Services};
use crate::shell::{MAILBOX_MAX, Post, Shell, publish_trust};
use crate::storage::{Maker, Storage, StorageError};
use crate::store::{Damage, FileShelf, Store, StoreError, Twin};
use crate::trust_file::TrustFile;
use crate::works::{STARTS_MAX, Works};

/// How long to wait for a hypervisor that does not answer before trying again.
const HYPERVISOR_DEADLINE: Duration = Duration::from_secs(30);
/// After this long, what only starting needed is let go.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// How long calls of libvirt may take to end when the agent stops.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// News of services and migrations waiting to be taken in.
const NEWS_MAX: usize = 256;

/// How an agent is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps its key, ledger, images and volumes.
    pub data_dir: PathBuf,
    /// The TCP address to listen on.
    pub listen: SocketAddr,
    /// The address at which others reach this host; `None`: the one that `listen` names, or else
    /// the one this machine uses to reach the network.
    pub advertise: Option<IpAddr>,
    /// What the host is called; `None`: its hostname.
    pub name: Option<String>,
    /// libvirt's URI.
    pub hypervisor: String,
    /// Overrides the choice between KVM and TCG.
    pub accel: Option<Accel>,
    /// Where the sockets of guests on their way are. The same on all hosts of a cluster.
    pub channels: PathBuf,
    /// At most so many bytes a second of a guest that is sent to another host, when nobody says.
    pub migrate_bandwidth: Option<u64>,
    /// Where to announce the host.
    pub discovery: Vec<Source>,
    /// How much of the machine is for guests.
    pub share: Share,
    /// CPUs that VMs can have for themselves; everything else runs on the others.
    pub dedicated_cpus: CpuSet,
    /// What is put up with when images are fetched.
    pub fetching: FetchLimits,
    /// The `ostler` program, for services.
    pub program: PathBuf,
    /// What resets the machine when neither agent nor keeper acts, fed by the keeper.
    pub watchdog: Option<PathBuf>,
    /// Free words for selectors.
    pub labels: BTreeMap<String, String>,
}

/// Why an agent could not start, or had to end. Guests are not touched.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// The ledger is gone and the key is not.
    #[error(
        "{ledger} is gone, and with it what this host has promised; if it was only moved, put that very file back, never an \
         older copy; otherwise retire this host (`ostler retire`) and remove {key} to start as a new one: docs/recovery.md",
        ledger = .ledger.display(), key = .key.display()
    )]
    LedgerLost {
        /// Where the ledger should be.
        ledger: PathBuf,
        /// The key that is still there.
        key: PathBuf,
    },
    /// Its key can't be used.
    #[error(transparent)]
    Identity(#[from] transport::identity::IdentityError),
    /// Its address can't be used.
    #[error(transparent)]
    Bind(#[from] transport::server::BindError),
    /// Its watchdog can't be used.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// Its CPUs can't be divided as they are to be.
    #[error("set dedicated CPUs aside: {0}")]
    Cpus(#[from] CpusError),
    /// The hypervisor refuses for good.
    #[error("use hypervisor {uri}: {source}")]
    Hypervisor {
        /// Which.
        uri: String,
        /// What it said.
        source: HypervisorError,
    },
    /// Nobody knows how others reach this host.
    #[error("find this host's address: {0}; name it with --advertise")]
    NoAddress(std::io::Error),
}

/// Runs an agent until `shutdown`.
pub async fn serve(
    options: Options,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let address = advertised(&options)?;
    options.watchdog.as_deref().map_or(Ok(()), keeper::check_watchdog)?;
    let libvirt = LibvirtOptions { uri: options.hypervisor.clone(), accel: options.accel };
    let before = watch_before_libvirt(&options, &clock, &shutdown);
    let Some(libvirt) = connect(libvirt, &shutdown).await? else { return Ok(()) };
    let hv = Arc::clone(&libvirt) as _;
    let ended = run_after(before, options, address, hv, clock, shutdown).await;
    let left = tokio::task::spawn_blocking(move || libvirt.leave(LEAVE_WITHIN)).await;
    if !left.unwrap_or(false) {
        tracing::warn!("libvirt has not answered all that was asked before the agent stopped");
    }
    ended
}

/// Who watches over the guests that an earlier life has left until the agent does; it ends when dropped.
type Before = Option<(Arc<Warden>, DropGuard)>;

/// libvirt may be long in coming, and a guest's right to run goes by the clock (A5, R12).
fn watch_before_libvirt(options: &Options, clock: &Clock, shutdown: &CancellationToken) -> Before {
    let identity = Identity::load(&options.data_dir.join("agent.key")).ok()?;
    let Left { partition, table } = Left::find(&options.data_dir, &identity.host_id());
    if !table.is_alive() {
        return None;
    }
    let (data_dir, program) = (options.data_dir.clone(), options.program.clone());
    let wards = Wards { data_dir, program, partition, watchdog: options.watchdog.clone() };
    // Nobody hears its news: the keeper's table says it all again to the agent.
    let (nobody, _) = mpsc::channel(1);
    let end = shutdown.child_token();
    let warden = Warden::start(wards, table, clock.clone(), nobody, &end);
    Some((warden, end.drop_guard()))
}

/// Connects to libvirt, waiting for a daemon that is not there yet. `None`: told to stop.
async fn connect(
    options: LibvirtOptions,
    shutdown: &CancellationToken,
) -> Result<Option<Arc<Libvirt>>, AgentError> {
    loop {
        let attempt = options.clone();
        let opening = tokio::task::spawn_blocking(move || Libvirt::open(attempt));
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            opened = tokio::time::timeout(HYPERVISOR_DEADLINE, opening) => opened,
        };
        match opened {
            Ok(Ok(Ok(libvirt))) => return Ok(Some(Arc::new(libvirt))),
            Ok(Ok(Err(source))) if !source.kind.is_ambiguous() => {
                return Err(AgentError::Hypervisor { uri: options.uri, source });
            }
            Ok(Ok(Err(error))) => tracing::warn!("{error}; tried again"),
            Ok(Err(error)) => tracing::warn!("connect to {}: {error}; tried again", options.uri),
            Err(_) => tracing::warn!("{} does not answer; tried again", options.uri),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Runs an agent over any hypervisor until `shutdown`.
pub async fn run(
    options: Options,
    address: IpAddr,
    hv: Arc<dyn Hypervisor>,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    run_after(None, options, address, hv, clock, shutdown).await
}

async fn run_after(
    before: Before,
    options: Options,
    address: IpAddr,
    hv: Arc<dyn Hypervisor>,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let ground = Ground::find(&options, &hv, address, &clock, &shutdown).await?;
    let machine = Counted::of(&options, &hv).await?;
    let mut host = ground.introduce(&options, &hv, &machine).await?;
    let advert = Advert::new(&host.name, &host.urls[0]);
    let life = advert.life.clone();
    let (tell_advert, adverts) = watch::channel(advert);
    tracing::info!(
        host = %host.id, name = %host.name, url = %host.urls[0], epoch = %ground.ledger.epoch, "agent"
    );

    let Ground { storage, store, ledger, damage, identity, server, local, place, is_moving } =
        ground;
    let trust_file = Arc::new(TrustFile::at(options.data_dir.join("trust.json")));
    let trust = Arc::new(watch::Sender::new(None));
    if let Some(signed) = &ledger.trust {
        publish_trust(&trust, &trust_file, signed);
    }
    let (posts, mailbox) = mpsc::channel(MAILBOX_MAX);
    let (news, services_news) = mpsc::channel(NEWS_MAX);
    let (inputs, works_inputs) = mpsc::channel(NEWS_MAX);
    let (warden, is_kept) = start_warden(&options, &host, &clock, &posts, &shutdown);
    drop(before);
    host.hypervisor.can_guard = warden.can_guard();
    let context = ServiceContext {
        program: options.program,
        // Listening everywhere, a service outlives a change of the host's address.
        listen: if is_moving { options.listen.ip() } else { address },
        place: place.clone(),
        trust_file: trust_file.path().to_owned(),
    };
    let services = Services::new(context, news);
    let client = Client::new(Arc::clone(&identity));
    let channels = Channels::new(options.channels, client.clone());
    let birth = Birth { key: identity.secret().clone(), host, layout: machine.layout, ledger };
    let agent = Agent::new(birth);
    let (networks, keeping_networks) =
        Networks::keep(Arc::clone(&hv), agent.networks(), posts.clone());
    let feed = Arc::new(Feed::new(agent.inventory()));
    let works = Arc::new(Works {
        hv: Arc::clone(&hv),
        storage: storage.clone(),
        services: Arc::clone(&services),
        starts: Semaphore::new(STARTS_MAX),
        waits: std::sync::Mutex::default(),
        late_starts: std::sync::Mutex::default(),
        inputs,
        place: place.clone(),
        channels: channels.clone(),
        bandwidth_bytes_s: options.migrate_bandwidth,
        warden: Arc::clone(&warden),
        networks: networks.clone(),
    });
    let measure = Arc::new(Notify::new());
    let library = Library::new(Means {
        storage: storage.clone(),
        feed: Arc::clone(&feed),
        posts: posts.clone(),
        client: client.clone(),
        limits: options.fetching,
        room: room(options.share, machine.node, &machine.hugepages, &storage, &feed),
        measure: Arc::clone(&measure),
        shutdown: shutdown.clone(),
    });
    let outage = Arc::new(Outage::default());
    let api = Api {
        posts: posts.clone(),
        feed: Arc::clone(&feed),
        trust: Arc::clone(&trust),
        storage: storage.clone(),
        library: library.clone(),
        networks,
        giving: Arc::new(Semaphore::new(GIVEN_AT_ONCE)),
        meter: Meter::new(Arc::clone(&hv), Arc::clone(&feed), clock.clone()),
        hv: Arc::clone(&hv),
        recorders: Recorders::default(),
        channels,
        key: identity.public(),
        life,
        damage: damage.into(),
        outage: Arc::clone(&outage),
        trust_file: Arc::clone(&trust_file),
        warden,
        clock: clock.clone(),
    };
    let watched = shell::watch_domains(hv, posts.clone(), outage, clock.clone());
    let shell = Shell {
        agent,
        store: Arc::new(store),
        feed,
        works,
        trust,
        trust_file,
        posts: posts.clone(),
        client: client.clone(),
        clock,
        is_kept,
        traced: traced::Traced::default(),
        looks: Arc::default(),
    };
    let announcer =
        Announcer::start(&options.discovery, &adverts, &client, Pace::default(), &shutdown);
    let helpers = [
        tokio::spawn(place::follow(place, tell_advert, posts.clone())),
        tokio::spawn(watched),
        tokio::spawn(shell::pass_on(services_news, works_inputs, posts.clone())),
        tokio::spawn(tell_manager(posts.clone())),
        tokio::spawn(storage.pools().clone().keep_looking(posts.clone())),
        tokio::spawn(sensors::keep_measuring(
            options.share,
            machine.node,
            machine.hugepages,
            storage,
            posts,
            measure,
        )),
        tokio::spawn(library.keep_forgetting()),
        tokio::spawn(settle()),
        tokio::spawn(keeping_networks),
    ];
    let serving = serve_both(router(api), server, local, &shutdown);
    let ended = shell.run(mailbox, shutdown.clone()).await;
    // A failed ledger ends the whole agent.
    shutdown.cancel();
    services.abandon();
    helpers.iter().for_each(tokio::task::JoinHandle::abort);
    announcer.finished().await;
    let _ = serving.await;
    ended.map_err(AgentError::from)
}

/// What an agent stands on before it knows of any job: its files, its name, and where others reach it.
struct Ground {
    storage: Storage,
    store: Store,
    ledger: LedgerState,
    damage: Vec<Damage>,
    identity: Arc<Identity>,
    /// For others.
    server: Server,
    /// For this machine.
    local: Server,
    place: watch::Receiver<Place>,
    /// True when its address is whatever the machine has.
    is_moving: bool,
}

impl Ground {
    async fn find(
        options: &Options,
        hv: &Arc<dyn Hypervisor>,
        address: IpAddr,
        clock: &Clock,
        shutdown: &CancellationToken,
    ) -> Result<Self, AgentError> {
        let maker = if hv.facts().driver == "TEST" { Maker::Sparse } else { Maker::QemuImg };
        let storage = Storage::open(&options.data_dir, maker)?;
        let key_file = options.data_dir.join("agent.key");
        let shelf = FileShelf::new(&options.data_dir);
        // Without its ledger a host has forgotten its promises and must not go on under its name
        // (protocol A3). The ledger is made first, so a first start that is cut short is no such case.
        if key_file.exists() && !shelf.has_any() {
            return Err(AgentError::LedgerLost { ledger: shelf.place(Twin::Main), key: key_file });
        }
        let (store, ledger, damage) = Store::open(&shelf, &boot_id(), clock.now().wall_ms / 1_000)?;
        damage.iter().for_each(|damage| tracing::error!("{damage}"));
        let identity = Arc::new(Identity::load_or_create(&key_file)?);
        let server = Server::bind(Listen::Tls(options.listen), Arc::clone(&identity)).await?;
        let socket = Listen::Unix(options.data_dir.join("agent.sock"));
        let local = Server::bind(socket, Arc::clone(&identity)).await?;
        let port = server.local_addr().map_or(options.listen.port(), |addr| addr.port());
        let is_moving = options.advertise.is_none() && options.listen.ip().is_unspecified();
        let name = options.name.clone().unwrap_or_else(hostname);
        let place = Place { name, address, port };
        let place = place::watch(place, options.name.is_none(), is_moving, shutdown.clone());
        storage.images().sweep()?;
        storage.pools().declare(&ledger.pools);
        Ok(Self { storage, store, ledger, damage, identity, server, local, place, is_moving })
    }

    /// What the agent says of its host when it begins; what depends on jobs is the core's to say.
    async fn introduce(
        &self,
        options: &Options,
        hv: &Arc<dyn Hypervisor>,
        machine: &Counted,
    ) -> Result<Host, AgentError> {
        let pools = self.storage.pools().look_once().await;
        let here = self.place.borrow().clone();
        let url = here.url();
        let facts = hv.facts();
        let mut labels = options.labels.clone();
        if facts.driver == "QEMU" {
            // A machine that is only pretended has none of ours.
            for (key, value) in Machine::here().labels() {
                labels.entry(key).or_insert(value);
            }
        }
        let Counted { node, hugepages, .. } = machine;
        Ok(Host {
            id: self.identity.host_id(),
            key: self.identity.public(),
            name: here.name,
            urls: vec![url],
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            hypervisor: facts,
            capacity: sensors::measure(options.share, *node, hugepages, &self.storage),
            allocation: Resources::ZERO,
            // Counted once jobs are known, whose pages are nobody else's.
            hugepages: Hugepages::new(),
            // Told by the core.
            dedicated_cpus: DedicatedCpus::NONE,
            images: self.storage.images().list()?,
            networks: None,
            labels,
            trust_version: None,
            intent: None,
            pools,
        })
    }
}

/// The machine's CPUs and memory, as the operator has divided them.
struct Counted {
    /// Without the CPUs that VMs can have for themselves.
    node: NodeFacts,
    layout: CpuLayout,
    hugepages: Counter,
}

impl Counted {
    async fn of(options: &Options, hv: &Arc<dyn Hypervisor>) -> Result<Self, AgentError> {
        let (facts, node) = (hv.facts(), sensors::node(hv).await);
        let layout = cpus::divide(&facts, node.cpus, options.dedicated_cpus.clone())?;
        let node = NodeFacts { cpus: node.cpus.saturating_sub(layout.dedicated.count()), ..node };
        Ok(Self { node, layout, hugepages: Counter::of(&facts, options.share.hugepages) })
    }
}

/// Begins to watch over guests that need cover, and says whether an earlier life has left some.
fn start_warden(
    options: &Options,
    host: &Host,
    clock: &Clock,
    posts: &mpsc::Sender<Post>,
    shutdown: &CancellationToken,
) -> (Arc<Warden>, bool) {
    let wards = Wards {
        data_dir: options.data_dir.clone(),
        program: options.program.clone(),
        partition: partition(host),
        watchdog: options.watchdog.clone(),
    };
    let Left { partition, table } = Left::find(&options.data_dir, &host.id);
    let left = if partition == wards.partition { table } else { keeper::core::Table::default() };
    let is_kept = !left.0.is_empty();
    (Warden::start(wards, left, clock.clone(), posts.clone(), shutdown), is_kept)
}

/// Answers others, and whoever is on this machine.
fn serve_both(
    router: Router,
    server: Server,
    local: Server,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::join!(server.serve(router.clone(), shutdown.clone()), local.serve(router, shutdown));
    })
}

/// The room for images: what the disk has now, less what is promised to guests.
fn room(
    share: Share,
    node: NodeFacts,
    hugepages: &Counter,
    storage: &Storage,
    feed: &Arc<Feed>,
) -> Room {
    let (hugepages, storage, feed) = (hugepages.clone(), storage.clone(), Arc::clone(feed));
    Room {
        measure: Box::new(move || sensors::measure(share, node, &hugepages, &storage)),
        promised: Box::new(move || feed.host().allocation),
        turn: Mutex::default(),
    }
}

/// Tells systemd that the agent is ready, and from then on that it is alive: whenever the core, whose
/// answers wait for the ledger's disk, has answered once more.
async fn tell_manager(posts: mpsc::Sender<Post>) {
    let Some(manager) = Manager::of_this_process() else { return };
    manager.ready();
    let Some(interval) = manager.alive_interval() else { return };
    loop {
        tokio::time::sleep(interval).await;
        let (sender, answer) = oneshot::channel();
        if posts.send(Post::OpenOffers(sender)).await.is_err() || answer.await.is_err() {
            return;
        }
        manager.alive();
    }
}

/// Makes the agent small once it has started.
async fn settle() {
    tokio::time::sleep(SETTLED_AFTER).await;
    if let Err(error) = hypervisor::footprint::let_go_of_code() {
        tracing::warn!("let go of what only starting needed: {error}");
    }
}

/// The partition that all gates are in. Hosts of their own see their own cgroups; agents with embedded
/// libvirt may share a machine. Where guests come and go, it is the same on all hosts: a definition
/// names it.
fn partition(host: &Host) -> String {
    match host.hypervisor.can_receive {
        true => "ostler".to_owned(),
        false => format!("ostler-{}", host.id.short()),
    }
}

fn advertised(options: &Options) -> Result<IpAddr, AgentError> {
    if let Some(address) = options.advertise {
        return Ok(address);
    }
    if !options.listen.ip().is_unspecified() {
        return Ok(options.listen.ip());
    }
    transport::own_address().map_err(AgentError::NoAddress)
}

fn hostname() -> String {
    place::hostname().unwrap_or_else(|| "host".to_owned())
}

/// Changes with every boot of the machine.
pub(crate) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
