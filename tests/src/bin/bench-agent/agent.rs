//! A whole agent as a process: over the fake hypervisor, which does nothing and at once, or over
//! libvirt's test driver.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_agent::{FetchLimits, Options, Share, run};
use hypervisor::fake::{Fake, FakeOptions, Fault, Method as Call};
use hypervisor::{Hypervisor, Libvirt, LibvirtOptions, NodeFacts};
use protocol::api::PutJob;
use protocol::host::Inventory;
use protocol::id::Revision;
use protocol::job::{Job, JobSpec};
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use transport::{CallError, CancellationToken, Client, Clock, Endpoint, Identity, Method};

use crate::process::Process;

/// The fake hypervisor, which does not say for half a minute which domains it has.
pub(crate) const UNLISTED: &str = "fake-unlisted";

/// More than is ever asked for.
const MACHINE: NodeFacts = NodeFacts { cpus: 100_000, memory_bytes: 1 << 50 };

fn fake() -> Fake {
    Fake::new(FakeOptions { node: MACHINE, ..FakeOptions::default() })
}

/// The agent's process.
pub(crate) async fn serve(folder: &str, hypervisor: &str) {
    let folder = PathBuf::from(folder);
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let hv: Arc<dyn Hypervisor> = match hypervisor {
        "fake" => Arc::new(fake()),
        // Until domains were listed nothing is started: what is put is taken, and that is all.
        UNLISTED => {
            let fake = fake();
            fake.inject(Fault::Hang(Call::List));
            Arc::new(fake)
        }
        uri => {
            let options = LibvirtOptions { uri: uri.to_owned(), accel: None };
            Arc::new(Libvirt::open(options).expect("libvirt"))
        }
    };
    let options = Options {
        data_dir: folder.join("data"),
        listen: (localhost, 0).into(),
        advertise: None,
        name: Some("bench".into()),
        hypervisor: hypervisor.into(),
        accel: None,
        channels: folder.join("channels"),
        migrate_bandwidth: None,
        watchdog: None,
        discovery: vec![],
        // Of the test driver's machine there is 3 GiB.
        dedicated_cpus: Default::default(),
        share: Share { memory_bytes: Some(1 << 50), vcpu_overcommit: 10_000, ..Share::default() },
        fetching: FetchLimits::default(),
        program: folder.join("service"),
        labels: [].into(),
    };
    println!("begun");
    run(options, localhost, hv, Clock::real(), CancellationToken::new()).await.expect("it serves");
}

/// An agent that runs.
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) local: Endpoint,
    pub(crate) tls: Endpoint,
}

impl Agent {
    /// Starts one in this folder, and waits until it answers.
    pub(crate) async fn start(folder: &Path, hypervisor: &str) -> Self {
        let words = ["--agent", &folder.to_string_lossy(), hypervisor].map(str::to_owned);
        let (process, _) = Process::start(&words);
        let socket = folder.join("data/agent.sock");
        let local = Endpoint::anyone(format!("unix:{}", socket.display()));
        let client = client();
        let inventory: Inventory = loop {
            match client.get(&local, "/v1/inventory").await {
                Ok(inventory) => break inventory,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        let tls = Endpoint::of_host(inventory.host.urls[0].clone(), inventory.host.id);
        Self { process, local, tls }
    }
}

/// A client with connections of its own.
pub(crate) fn client() -> Client {
    Client::new(Arc::new(Identity::ephemeral())).with_deadline(Duration::from_secs(60))
}

/// A folder in memory, where a sync costs nothing.
pub(crate) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
}

/// A folder on the machine's disk.
pub(crate) fn on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a folder on disk")
}

/// A VM without disks.
pub(crate) fn spec() -> JobSpec {
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 16 << 20, ..VmSpec::default() })
}

/// What puts a new job.
pub(crate) fn body() -> PutJob {
    PutJob::of(Revision(1), spec())
}

/// Puts a new job; `None`: too many starts are under way, ask again.
pub(crate) async fn put(client: &Client, to: &Endpoint, name: &str) -> Option<Job> {
    let path = format!("/v1/jobs/{name}");
    match client.send::<_, Job>(Method::PUT, to, &path, &body()).await {
        Ok(reply) => Some(reply.body),
        Err(error) if is_busy(&error) => None,
        Err(error) => panic!("put {name}: {error:?}"),
    }
}

fn is_busy(error: &CallError) -> bool {
    matches!(error.refusal(), Some(Refusal::Busy { .. }))
}
