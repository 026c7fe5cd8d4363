//! Many VMs that exist only in what their agents say: real TLS, real streams, no guests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use protocol::event::{Event, Fact, Frame};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, JobId};
use protocol::job::{Job, JobSpec, JobState};
use protocol::resources::Resources;
use protocol::view::{HostRow, View};
use protocol::vm::VmSpec;
use tokio::runtime::Runtime;
use transport::stream::Upgrade;
use transport::{CancellationToken, FrameSender, Identity, Listen, Server};

/// Agents, each with as many VMs. They end when this is dropped.
pub(super) struct Crowd {
    agents: Vec<Arc<Agent>>,
    _runtime: Runtime,
}

struct Agent {
    url: String,
    told: Mutex<Told>,
}

struct Told {
    view: View,
    subscribers: Vec<FrameSender>,
    last: Option<(String, &'static str)>,
}

impl Crowd {
    /// Hosts 0 …, with VMs `vm-HOST-NUMBER` that run.
    pub(super) fn of(hosts: usize, vms: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let agents = (0..hosts).map(|n| runtime.block_on(agent(n, vms))).collect();
        Self { agents, _runtime: runtime }
    }

    /// Where they answer.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.agents.iter().map(|agent| agent.url.clone()).collect()
    }

    /// So many VMs are paused or go on, one after the other, spread over this time.
    pub(super) fn change(&self, changes: usize, over: Duration) {
        let pause = over / u32::try_from(changes).expect("some thousands");
        for n in 0..changes {
            self.agents[n % self.agents.len()].change(n / self.agents.len());
            std::thread::sleep(pause);
        }
    }

    /// The VM that was changed last, and what it became.
    pub(super) fn last(&self) -> (String, &'static str) {
        let last = self.agents.last().expect("there are some");
        let told = last.told.lock().expect("no panic");
        told.last.clone().expect("something has changed")
    }
}

impl Agent {
    fn change(&self, n: usize) {
        let mut told = self.told.lock().expect("no panic");
        let (_, row) = told.view.hosts().next().expect("an agent knows its host");
        let job = row.jobs.values().nth(n % row.jobs.len()).expect("it has some");
        let mut job = Job::clone(job);
        let (state, word) = match job.state {
            JobState::Running => (JobState::Paused, "paused"),
            _ => (JobState::Running, "running"),
        };
        job.state = state;
        let name = job.id.to_string();
        let event = Event {
            host: row.host.id.clone(),
            cursor: row.cursor.next(),
            at_ms: 0,
            fact: Fact::JobChanged { job: Box::new(job) },
        };
        told.view.merge_event(&event);
        told.last = Some((name, word));
        let frame = Frame::Event(event);
        told.subscribers.retain(|subscriber| subscriber.push(&frame).is_ok());
    }
}

async fn agent(n: usize, vms: usize) -> Arc<Agent> {
    let identity = Arc::new(Identity::ephemeral());
    let listen = Listen::Tls("127.0.0.1:0".parse().expect("an address"));
    let server = Server::bind(listen, Arc::clone(&identity)).await.expect("a port");
    let url = format!("https://{}", server.local_addr().expect("it is TCP"));
    let mut view = View::default();
    view.merge_inventory(inventory(n, vms, &identity, &url));
    let told = Mutex::new(Told { view, subscribers: vec![], last: None });
    let agent = Arc::new(Agent { url, told });
    let router = Router::new().route("/v1/events", get(events)).with_state(Arc::clone(&agent));
    tokio::spawn(server.serve(router, CancellationToken::new()));
    agent
}

fn inventory(n: usize, vms: usize, identity: &Identity, url: &str) -> Inventory {
    let host = Host {
        name: format!("node-{n}"),
        urls: vec![url.to_owned()],
        agent_version: "0.1.0".into(),
        hypervisor: HypervisorFacts {
            uri: "qemu:///system".into(),
            driver: "QEMU".into(),
            libvirt_version: "9.0.0".into(),
            accel: Accel::Kvm,
            can_receive: true,
            ..HypervisorFacts::default()
        },
        capacity: Resources { vcpus: 128, memory_bytes: 512 << 30, disk_bytes: 8 << 40 },
        allocation: Resources { vcpus: 100, memory_bytes: 400 << 30, disk_bytes: 0 },
        ..Host::of_key(identity.public())
    };
    let jobs = (0..vms).map(|j| vm(&format!("vm-{n}-{j}"))).collect();
    Inventory { cursor: Cursor { epoch: Epoch(1), seq: 0 }, host, jobs, observed: vec![] }
}

fn vm(name: &str) -> Job {
    let vm = VmSpec { vcpus: 1, memory_bytes: 4 << 30, ..VmSpec::default() };
    Job {
        since_ms: 1_700_000_000_000,
        ..Job::of(JobId::new(name).expect("a name"), JobSpec::vm(vm), JobState::Running)
    }
}

async fn events(State(agent): State<Arc<Agent>>, upgrade: Upgrade) -> Response {
    upgrade.frames(move |mut frames| async move {
        {
            let mut told = agent.told.lock().expect("no panic");
            let row: HostRow = told.view.hosts().next().expect("it knows its host").1.clone();
            let _ = frames.sender().push(&Frame::Inventory(Box::new(row.into())));
            let _ = frames.sender().push(&Frame::Current);
            told.subscribers.push(frames.sender());
        }
        while let Some(Ok(_)) = frames.next_frame().await {}
    })
}
