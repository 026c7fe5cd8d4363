//! Discovery: Flynn's wire facts, proofs, and a finder that no outage stops.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::HostId;
use serde_json::{Value, json};
use tokio::sync::watch;
use transport::discovery::{
    Advert, Announcer, BookLimits, ClusterUrl, DiscoveryStore, Doubt, Finder, Findings, Instance,
    JoinSecret, Pace, Source, create_cluster, discovery_router,
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

fn advert(name: &str, url: &str) -> Advert {
    Advert { name: name.into(), url: url.into(), life: format!("life of {name}") }
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

    let first = cluster.register(&host, &advert("host1", AGENT)).await.unwrap();
    assert!(first.proven && first.created_at.starts_with("2023-11-14T"), "{first:?}");
    assert_eq!(first.cluster_id, cluster.token());
    clock.advance_ms(80_000);
    let again = cluster.register(&host, &advert("host1", AGENT)).await.unwrap();
    assert_eq!(again, first, "a refresh is the same entry");
    clock.advance_ms(80_000);
    let hosts = cluster.find(&host).await.unwrap().hosts;
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].host, Some(host.identity().host_id()));
    assert_eq!(hosts[0].key, Some(host.identity().public()));
    clock.advance_ms(20_000);
    assert_eq!(cluster.find(&host).await.unwrap().hosts, []);

    let entry = cluster.register(&host, &advert("host1", AGENT)).await.unwrap();
    let stranger = cluster.withdraw(&client(), &entry.id).await.unwrap_err();
    assert_eq!(stranger.problem().map(|p| p.status), Some(403));
    cluster.withdraw(&host, &entry.id).await.unwrap();
    assert_eq!(cluster.find(&host).await.unwrap().hosts, []);
}

#[tokio::test]
async fn an_unknown_token_is_not_an_empty_cluster() {
    let server = in_memory(&Clock::real()).await;
    let typo: ClusterUrl = format!("{}/clusters/no-such-token", server.http()).parse().unwrap();
    let listed = typo.list(&client()).await.unwrap_err();
    let registered = typo.register(&client(), &advert("host1", AGENT)).await.unwrap_err();
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
    let listed = cluster.find(&client).await.unwrap();
    assert_eq!(listed.hosts, []);
    assert_eq!(listed.unproven[0].why, Doubt::Unsigned);
}

#[tokio::test]
async fn a_server_cannot_pass_one_host_off_as_another() {
    // A dishonest server: it says "proven" of an entry whose address it has changed.
    let (host, other) = (client(), client());
    let cluster_token = "c";
    let entry = Instance::signed_by(host.identity(), cluster_token, &advert("host1", AGENT));
    let mut forged = serde_json::to_value(&entry).unwrap();
    forged["url"] = json!("https://10.9.9.9:1");
    forged["proven"] = json!(true);
    let list = json!({ "data": [forged, { "nonsense": 1 }, entry] });
    let router = axum::Router::new()
        .route("/clusters/c/instances", axum::routing::get(async move || transport::Json(list)));
    let server = Running::start(Listen::Plain(anywhere()), router).await;
    let cluster: ClusterUrl = format!("{}/clusters/c", server.http()).parse().unwrap();
    let hosts = cluster.find(&other).await.unwrap().hosts;
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
    let before = cluster.register(&host, &advert("host1", AGENT)).await.unwrap();
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
    let (_moves, adverts) = watch::channel(advert("host1", AGENT));
    let announcer = Announcer::start(&[source], &adverts, &host, QUICK, &shutdown);
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
        cluster.register(host, &advert("h", &format!("https://10.0.0.{i}:7460"))).await.unwrap();
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

#[tokio::test]
async fn who_does_not_know_the_join_secret_is_listed_and_never_a_host() {
    let server = in_memory(&Clock::real()).await;
    let [own, foreign, guesser, old] = [1, 2, 3, 4].map(seeded);
    let cluster = create_cluster(&own, &server.http()).await.unwrap();
    let url = cluster.to_string();
    assert!(cluster.full().starts_with(&format!("{url}#join=")), "{cluster}");
    let without: ClusterUrl = url.parse().unwrap();
    let guess = format!("{url}#join={}", JoinSecret::fresh().text());
    let guess: ClusterUrl = guess.parse().unwrap();
    cluster.register(&own, &advert("own", "https://10.0.0.1:1")).await.unwrap();
    without.register(&foreign, &advert("foreign", "https://10.0.0.2:1")).await.unwrap();
    guess.register(&guesser, &advert("guesser", "https://10.0.0.3:1")).await.unwrap();
    // A proof that was read off the public list does not help another key.
    let entries = without.list(&old).await.unwrap();
    let copied = entries.iter().find_map(|entry| entry.join.clone());
    let thief = advert("thief", "https://10.0.0.4:1");
    let thief = Instance::signed_by(old.identity(), cluster.token(), &thief);
    let thief = json!({ "data": Instance { join: copied, ..thief } });
    let path = format!("/clusters/{}/instances", cluster.token());
    let to = Endpoint::anyone(server.http());
    let stored = old.send::<_, Value>(Method::POST, &to, &path, &thief).await.unwrap();
    assert_eq!(stored.body["data"]["proven"], true, "its key is its own");

    let finder = Finder::start(vec![Source::Url(cluster.clone())], &client(), QUICK);
    let findings = found(&finder, |findings| findings.sources[0].is_asked).await;
    assert_eq!(ids(&findings), [own.identity().host_id()]);
    let mut doubts: Vec<_> =
        findings.unproven().map(|entry| (entry.name.as_str(), entry.why)).collect();
    doubts.sort_by_key(|(name, _)| *name);
    let expected = [
        ("foreign", Doubt::NotJoined),
        ("guesser", Doubt::WrongSecret),
        ("thief", Doubt::WrongSecret),
    ];
    assert_eq!(doubts, expected);
    assert_eq!(without.find(&own).await.unwrap().hosts.len(), 4, "without it all count");
    let listed = cluster.to_verify().find(&own).await.unwrap();
    assert_eq!(listed.hosts.len(), 1, "who can only verify sees as much");
}

#[tokio::test]
async fn a_host_that_moves_is_found_at_its_new_address_only() {
    let server = in_memory(&Clock::real()).await;
    let host = client();
    let cluster = create_cluster(&host, &server.http()).await.unwrap();
    let source = Source::Url(cluster.clone());
    let shutdown = CancellationToken::new();
    let (moves, adverts) = watch::channel(advert("host1", AGENT));
    let _announcer =
        Announcer::start(std::slice::from_ref(&source), &adverts, &host, QUICK, &shutdown);
    let finder = Finder::start(vec![source], &client(), QUICK);
    found(&finder, |findings| findings.hosts.first().is_some_and(|h| h.url == AGENT)).await;
    let there = "https://10.0.0.2:7460";
    moves.send(Advert { url: there.into(), ..advert("renamed", AGENT) }).unwrap();
    let is_there = |findings: &Findings| {
        findings.hosts.iter().all(|host| host.url == there && host.other_urls.is_empty())
    };
    let findings = found(&finder, is_there).await;
    assert_eq!(ids(&findings), [host.identity().host_id()]);
    assert_eq!(findings.hosts[0].name, "renamed");
}

#[tokio::test]
async fn two_machines_with_one_key_are_named() {
    let clock = Clock::manual(Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 });
    let server = in_memory(&clock).await;
    let host = client();
    let cluster = create_cluster(&host, &server.http()).await.unwrap();
    let machines = [advert("h2", "https://10.0.0.2:1"), advert("h4", "https://10.0.0.4:1")];
    for machine in machines.iter().cycle().take(4) {
        cluster.register(&host, machine).await.unwrap();
        clock.advance_ms(10_000);
    }
    let finder = Finder::start(vec![Source::Url(cluster)], &client(), QUICK);
    let findings = found(&finder, |findings| findings.twins().next().is_some()).await;
    let said = findings.twins().next().unwrap().to_string();
    assert!(said.starts_with("h2 and h4 have one key"), "{said}");
    assert!(said.contains("h4 at https://10.0.0.4:1") && said.contains("agent.key"), "{said}");
}

#[tokio::test]
async fn a_thousand_hosts_that_register_at_once_are_all_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovery.json");
    let store = DiscoveryStore::open(&file, Clock::real()).unwrap();
    let server = Running::start(Listen::Plain(anywhere()), discovery_router(store)).await;
    let asker = client();
    let cluster = create_cluster(&asker, &server.http()).await.unwrap();
    let registrations = (0..1000).map(|i| {
        let (cluster, asker) = (cluster.clone(), asker.clone());
        let advert = advert("h", &format!("https://10.0.{}.{}:7460", i / 250, i % 250));
        // As a host does: whoever finds no place in a crowd of connections asks again.
        async move {
            loop {
                match cluster.register(&asker, &advert).await {
                    Err(error) if error.is_retriable() => {}
                    answer => return answer.map(|_| ()),
                }
            }
        }
    });
    let tasks: Vec<_> = registrations.map(tokio::spawn).collect();
    for task in tasks {
        within(task).await.unwrap().unwrap();
    }
    server.stopped().await;
    let store = DiscoveryStore::open(&file, Clock::real()).unwrap();
    let server = Running::start(Listen::Plain(anywhere()), discovery_router(store)).await;
    let again: ClusterUrl =
        format!("{}/clusters/{}", server.http(), cluster.token()).parse().unwrap();
    assert_eq!(again.list(&asker).await.unwrap().len(), 1000);
}

fn seeded(seed: u8) -> Client {
    Client::new(Arc::new(Identity::from_seed([seed; 32])))
}
