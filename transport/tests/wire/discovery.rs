//! Discovery: Flynn's wire facts, proofs, and a finder that no outage stops.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::HostId;
use serde_json::{Value, json};
use transport::discovery::{
    Advert, Announcer, BookLimits, ClusterUrl, DiscoveryStore, Finder, Findings, Pace, Source,
    create_cluster, discovery_router,
};
use transport::{CancellationToken, Client, Clock, Endpoint, Identity, Listen, Method, Now};

use crate::{Running, anywhere, client, free_addr, within};

const QUICK: Pace = Pace {
    poll: Duration::from_millis(20),
    refresh: Duration::from_millis(50),
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(50),
};

const AGENT: &str = "https://10.0.0.1:7460";

async fn in_memory(clock: &Clock) -> Running {
    let store = DiscoveryStore::in_memory(clock.clone(), BookLimits::default());
    Running::start(Listen::Plain(anywhere()), discovery_router(store)).await
}

async fn found(finder: &Finder, is_it: impl FnMut(&Findings) -> bool) -> Findings {
    let mut watch = finder.watch();
    let findings = within(watch.wait_for(is_it)).await.expect("the finder runs");
    findings.clone()
}

fn ids(findings: &Findings) -> Vec<HostId> {
    findings.hosts.iter().filter_map(|found| found.host.clone()).collect()
}

#[tokio::test]
async fn hosts_register_refresh_expire_and_leave() {
    let clock = Clock::manual(Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 });
    let server = in_memory(&clock).await;
    let host = client();
    let cluster = create_cluster(&host, &server.http()).await.unwrap();
    assert_eq!(cluster.list(&host).await.unwrap(), []);

    let first = cluster.register(&host, "host1", AGENT).await.unwrap();
    assert!(first.proven && first.created_at.starts_with("2023-11-14T"), "{first:?}");
    assert_eq!(first.cluster_id, cluster.token());
    clock.advance_ms(80_000);
    let again = cluster.register(&host, "host1", AGENT).await.unwrap();
    assert_eq!(again, first, "a refresh is the same entry");
    clock.advance_ms(80_000);
    let hosts = cluster.find(&host).await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].host, Some(host.identity().host_id()));
    assert_eq!(hosts[0].key, Some(host.identity().public()));
    clock.advance_ms(20_000);
    assert_eq!(cluster.find(&host).await.unwrap(), []);

    let entry = cluster.register(&host, "host1", AGENT).await.unwrap();
    let stranger = cluster.withdraw(&client(), &entry.id).await.unwrap_err();
    assert_eq!(stranger.problem().map(|p| p.status), Some(403));
    cluster.withdraw(&host, &entry.id).await.unwrap();
    assert_eq!(cluster.find(&host).await.unwrap(), []);
}

#[tokio::test]
async fn an_unknown_token_is_not_an_empty_cluster() {
    let server = in_memory(&Clock::real()).await;
    let typo: ClusterUrl = format!("{}/clusters/no-such-token", server.http()).parse().unwrap();
    let listed = typo.list(&client()).await.unwrap_err();
    let registered = typo.register(&client(), "host1", AGENT).await.unwrap_err();
    for error in [listed, registered] {
        let problem = error.problem().expect("a problem document");
        assert_eq!((problem.status, problem.name()), (404, "no-such-cluster"));
    }
}

#[tokio::test]
async fn flynns_clients_are_served_and_never_used_for_contact() {
    let server = in_memory(&Clock::real()).await;
    let client = client();
    let cluster = create_cluster(&client, &server.http()).await.unwrap();
    let path = format!("/clusters/{}/instances", cluster.token());
    let to = Endpoint::anyone(server.http());
    let body = json!({"data": {"name": "old", "url": "http://10.0.0.5:1113",
        "flynn_version": "v2020", "ssh_public_keys": [{"type": "rsa", "data": "AAAA"}]}});
    let created = client.send::<_, Value>(Method::POST, &to, &path, &body).await.unwrap();
    assert_eq!(created.status, 201);
    assert_eq!(created.body["data"]["ssh_public_keys"][0]["type"], "rsa");
    assert_eq!(created.body["data"]["proven"], false);
    let again = client.send::<_, Value>(Method::POST, &to, &path, &body).await.unwrap_err();
    assert!(again.to_string().contains("answer 409"), "{again}");
    assert_eq!(cluster.list(&client).await.unwrap().len(), 1);
    assert_eq!(cluster.find(&client).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_cannot_pass_one_host_off_as_another() {
    // A dishonest server: it says "proven" of an entry whose address it has changed.
    let (host, other) = (client(), client());
    let cluster_token = "c";
    let entry =
        transport::discovery::Instance::signed_by(host.identity(), cluster_token, "host1", AGENT);
    let mut forged = serde_json::to_value(&entry).unwrap();
    forged["url"] = json!("https://10.9.9.9:1");
    forged["proven"] = json!(true);
    let list = json!({ "data": [forged, { "nonsense": 1 }, entry] });
    let router = axum::Router::new()
        .route("/clusters/c/instances", axum::routing::get(async move || transport::Json(list)));
    let server = Running::start(Listen::Plain(anywhere()), router).await;
    let cluster: ClusterUrl = format!("{}/clusters/c", server.http()).parse().unwrap();
    let hosts = cluster.find(&other).await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].url, AGENT);
}

#[tokio::test]
async fn a_restarted_server_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovery.json");
    let (host, addr) = (client(), free_addr());
    let start = async || {
        let store = DiscoveryStore::open(&file, Clock::real()).unwrap();
        Running::start(Listen::Plain(addr), discovery_router(store)).await
    };
    let server = start().await;
    let cluster = create_cluster(&host, &server.http()).await.unwrap();
    let before = cluster.register(&host, "host1", AGENT).await.unwrap();
    server.stopped().await;
    let _server = start().await;
    assert_eq!(cluster.list(&host).await.unwrap(), [before]);
    std::fs::write(&file, "not json").unwrap();
    assert!(DiscoveryStore::open(&file, Clock::real()).is_err(), "damage was read as emptiness");
}

#[tokio::test]
async fn a_finder_outlives_the_server_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovery.json");
    let (host, addr) = (client(), free_addr());
    let start = async || {
        let store = DiscoveryStore::open(&file, Clock::real()).unwrap();
        Running::start(Listen::Plain(addr), discovery_router(store)).await
    };
    let server = start().await;
    let cluster = create_cluster(&host, &server.http()).await.unwrap();
    server.stopped().await;

    let source = Source::Url(cluster);
    let finder = Finder::start(vec![source.clone()], &client(), QUICK);
    let shutdown = CancellationToken::new();
    let advert = Advert { name: "host1".into(), url: AGENT.into() };
    let announcer = Announcer::start(&[source], &advert, &host, QUICK, &shutdown);
    found(&finder, |findings| findings.sources[0].error.is_some()).await;

    let server = start().await;
    let up = found(&finder, |findings| findings.hosts.len() == 1).await;
    assert_eq!(ids(&up), [host.identity().host_id()]);
    server.stopped().await;
    let down = found(&finder, |findings| findings.sources[0].error.is_some()).await;
    assert_eq!(ids(&down), [host.identity().host_id()], "an outage took a host away");

    let _server = start().await;
    found(&finder, |findings| findings.sources[0].error.is_none()).await;
    shutdown.cancel();
    within(announcer.finished()).await;
    found(&finder, |findings| findings.hosts.is_empty()).await;
}

#[tokio::test]
async fn sources_are_merged_by_host() {
    let server = in_memory(&Clock::real()).await;
    let hosts: Vec<Client> = (1..=2).map(seeded).collect();
    let cluster = create_cluster(&hosts[0], &server.http()).await.unwrap();
    for (i, host) in hosts.iter().enumerate() {
        cluster.register(host, "h", &format!("https://10.0.0.{i}:7460")).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    let first = hosts[0].identity().host_id();
    std::fs::write(&file, format!("192.168.0.1:7460 {first}\n10.0.0.1\n")).unwrap();
    let sources =
        vec![Source::Url(cluster), Source::File(file.clone()), "10.0.0.7".parse().unwrap()];
    let finder = Finder::start(sources, &client(), QUICK);
    let all = |findings: &Findings| findings.sources.iter().all(|source| source.is_asked);
    let findings = found(&finder, all).await;
    assert_eq!(findings.hosts.len(), 3, "{:?}", findings.hosts);
    let merged = findings.hosts.iter().find(|found| found.host == Some(first.clone())).unwrap();
    assert_eq!(merged.other_urls, ["https://192.168.0.1:7460"]);

    std::fs::write(&file, "10.0.0.1 10.0.0.2 10.0.0.3\n").unwrap();
    let broken = found(&finder, |findings| findings.sources[1].error.is_some()).await;
    assert_eq!(broken.hosts, findings.hosts, "a broken list took hosts away");
}

fn seeded(seed: u8) -> Client {
    Client::new(Arc::new(Identity::from_seed([seed; 32])))
}
