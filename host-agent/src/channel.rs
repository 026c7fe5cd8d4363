//! The channel of a guest on its way: what libvirt and QEMU of two hosts say to each other, carried
//! by their agents over TLS, so that neither listens on the network.
//!
//! ```text
//!         source                                               target
//! libvirt ──▶ DIR/libvirt ┐                                  ┌──▶ libvirt's own socket
//! libvirt ──▶ DIR/memory  ├─▶ agent ══ a pipe for each ══▶ agent ──▶ DIR/memory ◀── QEMU
//! QEMU    ──▶ DIR/disks   ┘           connection             └──▶ DIR/disks  ◀── QEMU
//! ```
//!
//! DIR is one path on both hosts, because libvirt tells both ends one URI. It belongs to whoever
//! runs guests, and to nobody else. A channel has no memory: cut anywhere, libvirt's migration fails
//! and the guest stays at the source. Who may open a pipe is the API's to decide; how many there may be, and that they
//! end with their arrival, is beside it (`arrivals`).

mod arrivals;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisor::Owner;
use protocol::id::JobId;
use protocol::refusal::Refusal;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use transport::pipe::connect_pipe;
use transport::{Client, Endpoint};
use uuid::Uuid;

use self::arrivals::{Arrivals, Landing};

/// Where channels are when nobody says otherwise. All hosts of a cluster must agree on it.
pub const CHANNELS_DIR: &str = "/run/ostler/migrate";

/// Connections of one migration at a time: libvirt's, the memory's, and one for each disk.
const PIPES_MAX: usize = 32;

/// Bytes carried at a time, each way.
const CHUNK_BYTES: usize = 256 << 10;

/// Where libvirt's daemon listens: one for QEMU alone, or one for everything.
const DAEMON_SOCKETS: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];

/// What is said over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lane {
    /// libvirt to libvirt.
    Libvirt,
    /// The guest's memory.
    Memory,
    /// The guest's disks, by NBD.
    Disks,
}

impl Lane {
    const ALL: [Lane; 3] = [Lane::Libvirt, Lane::Memory, Lane::Disks];

    /// As in paths and file names.
    fn name(self) -> &'static str {
        match self {
            Lane::Libvirt => "libvirt",
            Lane::Memory => "memory",
            Lane::Disks => "disks",
        }
    }
}

/// The channels of this host.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    folder: PathBuf,
    client: Client,
    arrivals: Arrivals,
}

/// The source's end of a channel. It is closed when this is dropped.
pub(crate) struct Departure {
    folder: PathBuf,
    _open: DropGuard,
}

impl Channels {
    /// Channels in folders below this one.
    pub(crate) fn new(folder: PathBuf, client: Client) -> Self {
        Self { folder, client, arrivals: Arrivals::none() }
    }

    fn folder(&self, uuid: Uuid) -> PathBuf {
        self.folder.join(uuid.to_string())
    }

    /// Makes the place where the target's QEMU will listen. What came by an earlier arrival ends.
    pub(crate) fn await_arrival(&self, uuid: Uuid, owner: Owner) -> io::Result<()> {
        self.arrivals.end(uuid);
        self.make_folder(uuid, owner)
    }

    fn make_folder(&self, uuid: Uuid, owner: Owner) -> io::Result<()> {
        let folder = self.folder(uuid);
        remove(&folder)?;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.folder)?;
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        chown(&folder, Some(owner.uid), Some(owner.gid))
    }

    /// Nobody arrives any more: what is still connected ends. Also fine when nobody was awaited.
    pub(crate) fn end_arrival(&self, uuid: Uuid) {
        self.arrivals.end(uuid);
        if let Err(error) = remove(&self.folder(uuid)) {
            tracing::warn!("remove the channel of domain {uuid}: {error}");
        }
    }

    /// Listens where the source's libvirt and QEMU will connect, and carries each connection to the
    /// target's agent.
    pub(crate) fn depart(
        &self,
        job: &JobId,
        uuid: Uuid,
        owner: Owner,
        to: &Endpoint,
    ) -> io::Result<Departure> {
        self.make_folder(uuid, owner)?;
        let (folder, open) = (self.folder(uuid), CancellationToken::new());
        let departure = Departure { folder, _open: open.clone().drop_guard() };
        let places = Arc::new(Semaphore::new(PIPES_MAX));
        for lane in Lane::ALL {
            let path = departure.socket(lane);
            let listener = UnixListener::bind(&path)?;
            chown(&path, Some(owner.uid), Some(owner.gid))?;
            let carrier = Carrier {
                client: self.client.clone(),
                to: to.clone(),
                path: format!("/v1/jobs/{job}/incoming/{}", lane.name()),
                places: Arc::clone(&places),
                open: open.clone(),
            };
            tokio::spawn(carrier.run(listener));
        }
        Ok(departure)
    }

    /// A place for one more connection of a guest that arrives.
    pub(crate) fn land(&self, uuid: Uuid) -> Result<Landing, Refusal> {
        self.arrivals.land(uuid)
    }

    /// Connects a lane at the target: to libvirt, or to the guest that awaits itself.
    pub(crate) async fn connect(&self, uuid: Uuid, lane: Lane) -> io::Result<UnixStream> {
        match lane {
            Lane::Libvirt => connect_daemon().await,
            Lane::Memory | Lane::Disks => {
                UnixStream::connect(self.folder(uuid).join(lane.name())).await
            }
        }
    }
}

impl Departure {
    fn socket(&self, lane: Lane) -> PathBuf {
        self.folder.join(lane.name())
    }

    /// The target's libvirt.
    pub(crate) fn libvirt_uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket(Lane::Libvirt).display())
    }

    /// Where memory and disks are sent.
    pub(crate) fn uri(&self, lane: Lane) -> String {
        format!("unix://{}", self.socket(lane).display())
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!("remove {}: {error}", self.folder.display());
        }
    }
}

/// Takes the connections of one lane.
struct Carrier {
    client: Client,
    to: Endpoint,
    path: String,
    places: Arc<Semaphore>,
    open: CancellationToken,
}

impl Carrier {
    async fn run(self, listener: UnixListener) {
        let open = self.open.clone();
        open.run_until_cancelled(self.accept(listener)).await;
    }

    async fn accept(self, listener: UnixListener) {
        // What libvirt can't connect to, it reports itself; there is nobody else to tell.
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let (client, to, path) = (self.client.clone(), self.to.clone(), self.path.clone());
            let open = self.open.clone();
            tokio::spawn(async move {
                let _place = place;
                let carrying = async {
                    match connect_pipe(&client, &to, &path).await {
                        Ok(pipe) => carry(stream, pipe).await,
                        Err(error) => tracing::warn!("{error}"),
                    }
                };
                open.run_until_cancelled(carrying).await;
            });
        }
    }
}

/// Carries bytes both ways until both ends have closed, or one is gone.
pub(crate) async fn carry(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) {
    let carried =
        copy_bidirectional_with_sizes(&mut one, &mut other, CHUNK_BYTES, CHUNK_BYTES).await;
    if let Err(error) = carried {
        tracing::debug!("a migration's connection ended: {error}");
    }
}

async fn connect_daemon() -> io::Result<UnixStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for path in DAEMON_SOCKETS {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
