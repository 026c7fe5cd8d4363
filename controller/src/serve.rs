//! The controller as a process: its files, whom it follows, and the order in which things start.
//!
//! Decides that it answers before it has trust or a view: runs are accepted, stored, and say what
//! they wait for. Runs an earlier life has left are taken up before the first new one.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::job::{Role, ServiceEndpoint};
use protocol::trust::Trust;
use scheduler::{Scheduler, StoreError, follow};
use tokio::sync::watch;
use transport::discovery::Source;
use transport::identity::IdentityError;
use transport::server::BindError;
use transport::{
    CancellationToken, Client, Clock, Endpoint, Identity, Listen, Server, durable, trust_file,
};

use crate::api::{self, Shared};
use crate::fencing::{Fencer, Told};
use crate::peers;
use crate::power::{Asleep, Power};
use crate::store::SqliteConductor;

/// How a controller is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its key and its runs are kept.
    pub data_dir: PathBuf,
    /// Where it answers.
    pub listen: SocketAddr,
    /// The signed trust document that the agent beside it keeps.
    pub trust_file: Option<PathBuf>,
    /// Written once it answers: a [`ServiceEndpoint`].
    pub ready_file: Option<PathBuf>,
    /// Monitors to follow while trust names none; sources that are addresses are asked, others
    /// are left to the monitors.
    pub discovery: Vec<Source>,
    /// What switches hosts off and on; need not exist.
    pub power_file: PathBuf,
}

/// Why a controller could not start. No run was touched.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Its folder can't be used.
    #[error("use data directory {path}", path = .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works on the same runs.
    #[error("another controller uses data directory {path}", path = .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It has no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its runs can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't say that it is ready.
    #[error("write ready file {path}", path = .path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves until `shutdown`.
pub async fn serve(
    options: Options,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), ControllerError> {
    let _lock = lock_data_dir(&options.data_dir)?;
    let identity = Arc::new(Identity::load_or_create(&options.data_dir.join("key"))?);
    let conductor = Arc::new(SqliteConductor::open(&options.data_dir.join("runs.db"))?);
    let server = Server::bind(Listen::Tls(options.listen), Arc::clone(&identity)).await?;
    let addr = server.local_addr().unwrap_or(options.listen);

    let trust = match options.trust_file.clone() {
        Some(path) => trust_file::follow(path, shutdown.clone()),
        None => watch::channel(None).1,
    };
    let client = Client::new(Arc::clone(&identity));
    let monitors = monitors(trust.clone(), options.discovery, shutdown.clone());
    let picture = follow(client.clone(), clock.clone(), monitors, shutdown.clone());
    let (sleeps, clock_of_sleeps) = (Arc::clone(&conductor), clock.clone());
    let clock_of_fencer = clock.clone();
    let scheduler = Scheduler::new(
        scheduler::Options {
            client: client.clone(),
            clock,
            conductor,
            picture: picture.clone(),
            trust: trust.clone(),
            seed: seed(&identity),
        },
        shutdown.clone(),
    );
    let power = Power::new(options.power_file);
    let (seen, obeyed) = (picture.clone(), trust.clone());
    let asleep =
        Asleep::open(power.clone(), sleeps, &client, clock_of_sleeps, seen, obeyed).await?;
    let asleep = Arc::new(asleep);
    scheduler.wake_by(asleep.clone());
    // First, so that no run is planned without who sleeps.
    scheduler.note_asleep(asleep.sleepers());
    let (resumed, damaged) = scheduler.recover().await?;
    for (what, why) in damaged {
        tracing::error!("{what} cannot be taken up: {why}");
    }

    let tending = scheduler.clone();
    tokio::spawn(async move { tending.tend_hosts().await });
    let (tending, sleeping, stop) = (scheduler.clone(), asleep.clone(), shutdown.clone());
    tokio::spawn(async move { stop.run_until_cancelled(sleeping.tend(&tending)).await });
    let told = Told::default();
    // Who has no document of its own obeys nobody, and fences nobody.
    if let Some(trust_file) = options.trust_file {
        let fencer = Fencer {
            identity: Arc::clone(&identity),
            client: client.clone(),
            clock: clock_of_fencer,
            power: power.clone(),
            asleep: asleep.clone(),
            picture: picture.clone(),
            trust: trust.clone(),
            trust_file,
            record: options.data_dir.join("fencing.json"),
            told: told.clone(),
        };
        let stop = shutdown.clone();
        tokio::spawn(async move { stop.run_until_cancelled(fencer.tend()).await });
    }
    let learner = peers::Learner { scheduler: scheduler.clone(), asleep: asleep.clone() };
    let learning = peers::learn(learner, client, identity.public(), trust.clone());
    let stop = shutdown.clone();
    tokio::spawn(async move { stop.run_until_cancelled(learning).await });

    if let Some(path) = options.ready_file {
        let endpoint = ServiceEndpoint { url: format!("https://{addr}"), key: identity.public() };
        let json = serde_json::to_vec(&endpoint).expect("an endpoint is always valid JSON");
        durable::replace(&path, &json)
            .map_err(|source| ControllerError::ReadyFile { path, source })?;
    }
    tracing::info!(%addr, key = %identity.public(), resumed, "controller answers");
    let key = identity.public();
    let router = api::router(Shared { scheduler, trust, picture, key, power, asleep, told });
    server.serve(router, shutdown).await;
    Ok(())
}

/// Two engines on one journal would both believe to own its runs.
fn lock_data_dir(path: &Path) -> Result<File, ControllerError> {
    let unusable = |source| ControllerError::DataDir { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(unusable)?;
    let lock = File::create(path.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ControllerError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// The monitors of the trust document in force, or, while it names none, those given by address.
fn monitors(
    mut trust: watch::Receiver<Option<Arc<Trust>>>,
    discovery: Vec<Source>,
    shutdown: CancellationToken,
) -> watch::Receiver<Vec<Endpoint>> {
    let given: Vec<Endpoint> = discovery
        .into_iter()
        .filter_map(|source| match source {
            Source::Address(url) => Some(Endpoint::anyone(url)),
            Source::Url(_) | Source::File(_) | Source::Mdns => None,
        })
        .collect();
    let named = move |trust: Option<&Trust>| {
        let peers = trust.map_or(&[][..], |trust| &trust.peers);
        let monitors = peers.iter().filter(|peer| peer.role == Role::Monitor);
        let named: Vec<Endpoint> =
            monitors.map(|peer| Endpoint::of_key(peer.url.clone(), peer.key)).collect();
        if named.is_empty() { given.clone() } else { named }
    };
    let first = named(trust.borrow_and_update().as_deref());
    let (publish, monitors) = watch::channel(first);
    tokio::spawn(async move {
        let run = async {
            while trust.changed().await.is_ok() {
                let now = named(trust.borrow_and_update().as_deref());
                publish.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            }
            // No change can come any more; the list stays as it is.
            std::future::pending::<()>().await;
        };
        shutdown.run_until_cancelled(run).await;
    });
    monitors
}

/// A number of its own for each controller, the same after a restart.
fn seed(identity: &Identity) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&identity.public().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
