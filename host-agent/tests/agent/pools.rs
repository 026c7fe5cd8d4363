//! Pools over HTTP: declared with care, and what is in them.

use protocol::host::Host;
use protocol::pool::{PoolContent, PoolSpec, PoolsConfig, Tag};
use protocol::vm::DiskSpec;

use super::*;

const PATH: &str = "/v1/config/pools";

/// A pool named `nfs` in this folder.
pub(crate) fn config(version: u64, folder: &Path, create: bool) -> PoolsConfig {
    let path = folder.to_str().unwrap().to_owned();
    let spec = PoolSpec { path, shared: true, id: None, create, ..PoolSpec::default() };
    PoolsConfig { version, pools: [("nfs".parse().unwrap(), spec)].into() }
}

pub(crate) fn pooled(size_bytes: u64) -> JobSpec {
    let pool = Some("nfs".parse().unwrap());
    let disk = DiskSpec { name: "root".into(), size_bytes, pool, ..DiskSpec::default() };
    let disks = vec![disk];
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 16 << 20, disks, ..VmSpec::default() })
}

impl Bench {
    pub(crate) async fn declare(&self, config: &PoolsConfig) -> Result<PoolsConfig, Refusal> {
        let put = self.client.send(Method::PUT, &self.local(), PATH, config).await;
        put.map(|reply| reply.body).map_err(|error| error.refusal().expect("a refusal").clone())
    }

    async fn content(&self) -> PoolContent {
        self.client.get(&self.local(), "/v1/pools/nfs/volumes").await.unwrap()
    }

    async fn stop_and_delete(&self, name: &str) {
        let path = format!("/v1/jobs/{name}/stop");
        let stop = StopJob::within(0);
        self.client.send::<_, Job>(Method::POST, &self.local(), &path, &stop).await.unwrap();
        self.await_state(name, JobState::Stopped).await;
        let path = format!("/v1/jobs/{name}");
        self.client.send::<_, Job>(Method::DELETE, &self.local(), &path, &()).await.unwrap();
        let begin = Instant::now();
        while self.client.get::<Job>(&self.local(), &path).await.is_ok() {
            assert!(begin.elapsed() < PATIENCE, "{name} is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// O_DIRECT is tried, which a file system in memory may not have.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_declared_all_or_nothing_and_is_known_in_the_next_life() {
    let mut bench = Bench::new().await;
    let (good, bad) = (folder(), folder());
    let name = bench.declare(&config(1, bad.path(), false)).await.unwrap_err().name();
    assert_eq!(name, "pool-unavailable");
    let mut both = config(1, good.path(), true);
    both.pools.insert(
        "other".parse().unwrap(),
        config(1, bad.path(), false).pools.remove(&"nfs".parse().unwrap()).unwrap(),
    );
    assert_eq!(bench.declare(&both).await.unwrap_err().name(), "pool-unavailable");
    for folder in [&good, &bad] {
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0, "a body that was refused has changed nothing");
    }
    let declared = bench.declare(&config(1, good.path(), true)).await.unwrap();
    let host: Host = bench.client.get(&bench.local(), "/v1/host").await.unwrap();
    let facts = &host.pools[&"nfs".parse().unwrap()];
    assert_eq!(
        (Some(facts.id), &facts.unavailable),
        (declared.pools.values().next().unwrap().id, &None)
    );
    assert_eq!(bench.declare(&declared).await, Ok(declared.clone()), "repeated");
    let stale = bench.declare(&config(1, good.path(), false)).await;
    assert!(stale.is_ok(), "the same pool: {stale:?}");
    bench.end().await;
    bench.start().await;
    let known: PoolsConfig = bench.client.get(&bench.local(), PATH).await.unwrap();
    assert_eq!(known, declared);
    let host: Host = bench.client.get(&bench.local(), "/v1/host").await.unwrap();
    assert_eq!(host.pools.len(), 1, "from its first moment on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_pool_may_change_while_it_is_in_use_and_is_told() {
    let bench = Bench::new().await;
    let pool = folder();
    bench.declare(&config(1, pool.path(), true)).await.unwrap();
    bench.put("web-1", pooled(1 << 20)).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let mut labelled = config(2, pool.path(), false);
    let class = BTreeMap::from([("class".to_owned(), "ssd".to_owned())]);
    labelled.pools.values_mut().for_each(|spec| spec.labels = class.clone());
    bench.declare(&labelled).await.unwrap();
    let begin = Instant::now();
    loop {
        let host: Host = bench.client.get(&bench.local(), "/v1/host").await.unwrap();
        if host.pools.values().all(|facts| facts.labels == class) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{:?}", host.pools);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut bad = config(3, pool.path(), false);
    bad.pools.values_mut().for_each(|spec| drop(spec.labels.insert("class".into(), "".into())));
    assert_eq!(bench.declare(&bad).await.unwrap_err().name(), "invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_in_their_pool_and_go_into_its_trash() {
    let bench = Bench::new().await;
    let pool = folder();
    bench.declare(&config(1, pool.path(), true)).await.unwrap();
    bench.put("web-1", pooled(1 << 20)).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    assert!(pool.path().join("volumes/web-1").read_dir().unwrap().count() >= 2);
    let content = bench.content().await;
    assert_eq!(content.volumes.len(), 1);
    assert_eq!(content.used.len(), 1, "what its file takes: {content:?}");
    let own = |content: &PoolContent| {
        let tag = content.volumes.first().map(|tag| (tag.job.to_string(), tag.disks.clone()));
        (tag, content.used.values().map(BTreeMap::len).sum::<usize>())
    };
    let default = || async { bench.client.get(&bench.local(), "/v1/pools/default/volumes").await };
    assert_eq!(own(&default().await.unwrap()), (None, 0), "it is in no folder of the host's");
    let mut in_own_folder = pooled(1 << 20);
    if let JobKind::Vm(vm) = &mut in_own_folder.kind {
        vm.disks[0].pool = None;
    }
    bench.put("web-2", in_own_folder).await.unwrap();
    bench.await_state("web-2", JobState::Running).await;
    let root = BTreeMap::from([("root".to_owned(), 1 << 20)]);
    let expected = (Some(("web-2".to_owned(), root)), 1);
    assert_eq!(own(&default().await.unwrap()), expected);
    let in_use = PoolsConfig { version: 2, pools: BTreeMap::new() };
    assert_eq!(bench.declare(&in_use).await.unwrap_err().name(), "pool-in-use");
    bench.stop_and_delete("web-1").await;
    let content = bench.content().await;
    assert_eq!((content.volumes.len(), content.deleted.len()), (0, 1));
    let path = format!("/v1/pools/nfs/deleted/{}/restore", content.deleted[0].entry);
    let restored = bench.client.send::<_, Tag>(Method::POST, &bench.local(), &path, &()).await;
    let tag = restored.unwrap().body;
    // What is in the pool already is not what a new VM of that name gets.
    bench.put("web-1", pooled(1 << 20)).await.unwrap();
    let failed = bench.await_state("web-1", JobState::Failed).await;
    let Some(Reason::StartFailed { message }) = failed.reason else { panic!("{failed:?}") };
    assert!(message.contains("another web-1"), "{message}");
    let path = "/v1/jobs/web-1";
    bench.client.send::<_, Job>(Method::DELETE, &bench.local(), path, &()).await.unwrap();
    let path = format!("/v1/pools/nfs/volumes/web-1?host={}", tag.host);
    let begin = Instant::now();
    while bench
        .client
        .send::<_, Option<()>>(Method::DELETE, &bench.local(), &path, &())
        .await
        .is_err()
    {
        assert!(begin.elapsed() < PATIENCE, "its row is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.content().await.volumes, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_gone_takes_no_writes_and_comes_back() {
    let bench = Bench::new().await;
    let pool = folder();
    bench.declare(&config(1, pool.path(), true)).await.unwrap();
    let away = pool.path().with_extension("away");
    std::fs::rename(pool.path(), &away).unwrap();
    std::fs::create_dir(pool.path()).unwrap();
    // Whoever is quicker, the look or the start: neither believes the path.
    match bench.put("web-1", pooled(1 << 20)).await {
        Err(error) => assert_eq!(error.refusal().unwrap().name(), "pool-unavailable"),
        Ok(_) => drop(bench.await_state("web-1", JobState::Failed).await),
    }
    let begin = Instant::now();
    loop {
        let host: Host = bench.client.get(&bench.local(), "/v1/host").await.unwrap();
        let why = host.pools[&"nfs".parse().unwrap()].unavailable.clone();
        if why.is_some_and(|why| why.contains("not mounted")) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "nobody notices");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(pool.path().read_dir().unwrap().count(), 0);
    std::fs::remove_dir(pool.path()).unwrap();
    std::fs::rename(&away, pool.path()).unwrap();
    let begin = Instant::now();
    while bench.put("web-2", pooled(1 << 20)).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "it does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.await_state("web-2", JobState::Running).await;
}
