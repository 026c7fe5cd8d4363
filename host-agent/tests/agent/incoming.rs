//! The streams of a guest that arrives: for how long its source has them.

use std::os::unix::net::UnixListener;

use protocol::api::{OfferReply, OfferRequest};
use protocol::id::{Epoch, OfferId};
use protocol::job::Migration;
use protocol::ticket::{Action, Grant, Ticket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use transport::pipe::{Pipe, connect_pipe};

use super::*;

/// A target in a cluster of two, which awaits a guest of the other.
struct Target {
    bench: Bench,
    agent: Endpoint,
    operator: Identity,
    arbiter: Identity,
    source: Identity,
    /// What the source asks with.
    client: Client,
}

const JOB: &str = "web-1";

impl Target {
    async fn new() -> Self {
        let migration_uri = Some("tcp://here".to_owned());
        let fake = Fake::new(FakeOptions { migration_uri, ..FakeOptions::default() });
        let bench = Bench::over(fake).await;
        let agent = bench.tls().await;
        let [operator, arbiter] = [1, 2].map(|n| Identity::from_seed([n; 32]));
        let source = Identity::from_seed([3; 32]);
        let client = Client::new(Arc::new(Identity::from_seed([3; 32])));
        let target = Self { bench, agent, operator, arbiter, source, client };
        target.trust(1, true).await;
        target
    }

    async fn trust(&self, version: u64, has_source: bool) {
        let inventory: Inventory = self.get("/v1/inventory").await;
        let mut roster = vec![inventory.host.key];
        let source = self.source.public();
        let retired = if has_source { vec![] } else { vec![source] };
        roster.extend(has_source.then_some(source));
        let trust = Trust {
            version,
            operators: vec![self.operator.public()],
            arbiters: vec![Slot { slot: 0, key: self.arbiter.public(), url: String::new() }],
            roster,
            retired,
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        };
        let signed = Signed::seal(&trust, self.operator.secret());
        let local = self.bench.local();
        let sent = self.bench.client.send::<_, Option<()>>(
            Method::PUT,
            &local,
            "/v1/config/trust",
            &signed,
        );
        sent.await.unwrap();
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.bench.client.get(&self.bench.local(), path).await.unwrap()
    }

    /// A guest is awaited, and its QEMU listens for its memory.
    async fn await_guest(&self, revision: u64) -> UnixListener {
        let (local, client) = (self.bench.local(), &self.bench.client);
        let hold = OfferId { epoch: Epoch(1), num: revision };
        let from = self.source.host_id();
        let ask = OfferRequest {
            job: JobId::new(JOB).unwrap(),
            revision: Revision(revision),
            spec: vm(),
            action: Action::MigrateIn { from, hold },
            finds_disks: false,
        };
        let sent = client.send::<_, OfferReply>(Method::POST, &local, "/v1/offers", &ask).await;
        let offer = sent.unwrap().body.offer;
        let debit = offer.open().unwrap().resources;
        let grant = Grant { slot: 0, offer: offer.digest(), debit: debit.into() };
        let grants = vec![Signed::seal(&grant, self.arbiter.secret())];
        let ticket = Some(Ticket { grants, offer });
        let put = PutJob { ticket, ..PutJob::of(Revision(revision), vm()) };
        let path = format!("/v1/jobs/{JOB}");
        client.send::<_, Job>(Method::PUT, &local, &path, &put).await.unwrap();
        let begin = Instant::now();
        loop {
            let job = self.bench.await_state(JOB, JobState::MigratingIn).await;
            if matches!(job.migration.as_deref(), Some(Migration::Incoming { .. })) {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "nobody is awaited: {job:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let uuid = JobId::new(JOB).unwrap().domain_uuid();
        let channel = self.bench.folder.path().join("channels").join(uuid.to_string());
        let listener = UnixListener::bind(channel.join("memory")).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    async fn pipe(&self) -> Result<Pipe, CallError> {
        connect_pipe(&self.client, &self.agent, &format!("/v1/jobs/{JOB}/incoming/memory")).await
    }

    async fn delete(&self) {
        let (local, path) = (self.bench.local(), format!("/v1/jobs/{JOB}"));
        let client = &self.bench.client;
        client.send::<_, serde_json::Value>(Method::DELETE, &local, &path, &()).await.unwrap();
        let begin = Instant::now();
        while client.get::<Job>(&local, &path).await.is_ok() {
            assert!(begin.elapsed() < PATIENCE, "it is there for ever");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn service() -> JobSpec {
    let service = ServiceSpec { role: Role::Monitor, port: 7, discovery: vec![] };
    JobSpec { kind: JobKind::Service(service), ..vm() }
}

/// Both ends of one more pipe, through which bytes go.
async fn join(
    target: &Target,
    listener: &tokio::net::UnixListener,
) -> (Pipe, tokio::net::UnixStream) {
    let (pipe, there) = tokio::join!(target.pipe(), listener.accept());
    let (mut pipe, (mut there, _)) = (pipe.unwrap(), there.unwrap());
    pipe.write_all(b"memory").await.unwrap();
    let mut read = [0; 6];
    there.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"memory");
    (pipe, there)
}

/// Its other end is closed, although nobody at this one has done anything.
async fn assert_ended(mut pipe: Pipe) {
    let mut rest = vec![];
    let ended = tokio::time::timeout(PATIENCE, pipe.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it is carried on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_ends_when_its_guest_is_not_awaited_any_more_whatever_its_source_does() {
    let target = Target::new().await;
    let listener = tokio::net::UnixListener::from_std(target.await_guest(1).await).unwrap();
    let (pipe, _there) = join(&target, &listener).await;
    // Other news of the host change nothing.
    let other = PutJob::of(Revision(1), service());
    let (local, client) = (target.bench.local(), &target.bench.client);
    client.send::<_, Job>(Method::PUT, &local, "/v1/jobs/monitor-0", &other).await.unwrap();
    let (second, _there) = join(&target, &listener).await;
    target.delete().await;
    assert_ended(pipe).await;
    assert_ended(second).await;
    // The next arrival is another.
    let listener = tokio::net::UnixListener::from_std(target.await_guest(2).await).unwrap();
    join(&target, &listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_ends_when_its_source_is_no_host_of_the_cluster_any_more() {
    let target = Target::new().await;
    let listener = tokio::net::UnixListener::from_std(target.await_guest(1).await).unwrap();
    let (pipe, _there) = join(&target, &listener).await;
    target.trust(2, false).await;
    assert_ended(pipe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_arrives_has_so_many_pipes_and_no_more() {
    let target = Target::new().await;
    let listener = tokio::net::UnixListener::from_std(target.await_guest(1).await).unwrap();
    let mut pipes = vec![];
    for _ in 0..64 {
        pipes.push(join(&target, &listener).await);
    }
    let refused = target.pipe().await.expect_err("these are all");
    assert!(matches!(refused.refusal(), Some(Refusal::Busy { limit: 64, .. })), "{refused}");
    // One that its source has closed is free again, once we have seen that.
    drop(pipes.pop());
    let begin = Instant::now();
    while target.pipe().await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "it is counted for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
