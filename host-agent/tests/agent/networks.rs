//! Networks and addresses over the real shell: HTTP, the ledger on disk, and what a fake libvirt loses.

use hypervisor::{NetworkConfig, NetworkForm, NetworkInfo};
use protocol::job::AddressSource;
use protocol::network::{
    NetworkKind, NetworkList, NetworkName, NetworkSpec, NetworkStatus, PutNetwork,
};
use protocol::vm::{NicSpec, Plug};
use uuid::Uuid;

use super::*;

fn nat(subnet: &str) -> NetworkSpec {
    NetworkSpec::Nat { subnet: subnet.parse().unwrap(), dhcp: true }
}

async fn put(
    bench: &Bench,
    name: &str,
    spec: NetworkSpec,
) -> Result<(u16, NetworkStatus), CallError> {
    let put = PutNetwork { revision: Revision(1), spec };
    let path = format!("/v1/networks/{name}");
    let sent = bench.client.send(Method::PUT, &bench.local(), &path, &put).await;
    sent.map(|reply| (reply.status, reply.body))
}

async fn delete(bench: &Bench, name: &str) -> Result<(), CallError> {
    let path = format!("/v1/networks/{name}");
    let sent = bench.client.send::<_, Option<()>>(Method::DELETE, &bench.local(), &path, &()).await;
    sent.map(drop)
}

async fn status(bench: &Bench, name: &str) -> Result<NetworkStatus, CallError> {
    bench.client.get(&bench.local(), &format!("/v1/networks/{name}")).await
}

async fn await_that(what: &str, is: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn await_up(bench: &Bench, name: &str) {
    await_that(&format!("network {name}"), async || {
        let status = status(bench, name).await.ok();
        status.and_then(|status| status.facts).is_some_and(|facts| facts.is_up)
    })
    .await;
}

fn uuid_of(name: &str) -> Uuid {
    let form = NetworkForm::Bridge { bridge: String::new() };
    NetworkConfig { name: NetworkName::new(name).unwrap(), form }.uuid()
}

fn name_of(error: &CallError) -> String {
    error.problem().expect("a problem").name().to_owned()
}

fn theirs() -> NetworkInfo {
    NetworkInfo {
        uuid: Uuid::from_u128(9),
        name: "theirs".into(),
        is_active: true,
        is_ours: false,
        kind: NetworkKind::Nat,
        bridge: Some("virbr7".into()),
        subnets: vec!["192.168.77.0/24".parse().unwrap()],
        cards: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_made_again_whoever_takes_it_away_until_it_is_deleted() {
    let mut bench = Bench::new().await;
    bench.fake.set_network(Uuid::from_u128(9), Some(theirs()));
    let (code, _) = put(&bench, "blue", nat("10.20.0.0/24")).await.unwrap();
    assert_eq!(code, 201);
    await_up(&bench, "blue").await;
    assert_eq!(put(&bench, "blue", nat("10.20.0.0/24")).await.unwrap().0, 200);
    let other = put(&bench, "blue", nat("10.21.0.0/24")).await.unwrap_err();
    assert_eq!(name_of(&other), "network-revision");
    let overlapping = put(&bench, "red", nat("192.168.0.0/16")).await.unwrap_err();
    assert_eq!(name_of(&overlapping), "subnet-taken");
    let list: NetworkList = bench.client.get(&bench.local(), "/v1/networks").await.unwrap();
    let names: Vec<&str> = list.networks.iter().map(|status| status.name.as_str()).collect();
    assert_eq!(names, ["blue", "theirs"]);

    let is_there = async || {
        let networks = bench.fake.networks().unwrap();
        networks.iter().any(|network| network.uuid == uuid_of("blue"))
    };
    bench.fake.set_network(uuid_of("blue"), None);
    await_that("the network", is_there).await;
    bench.end().await;
    bench.fake.set_network(uuid_of("blue"), None);
    bench.start().await;
    await_up(&bench, "blue").await;
    assert_eq!(name_of(&delete(&bench, "theirs").await.unwrap_err()), "network-taken");
    delete(&bench, "blue").await.unwrap();
    await_that("the end", async || {
        status(&bench, "blue").await.is_err_and(|error| name_of(&error) == "no-such-network")
    })
    .await;
    assert_eq!(bench.fake.networks().unwrap(), [theirs()], "what is not ours is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirt_that_is_away_takes_no_network_out_of_the_report() {
    let bench = Bench::new().await;
    put(&bench, "blue", nat("10.20.0.0/24")).await.unwrap();
    await_up(&bench, "blue").await;
    bench.fake.disconnect();
    // Asked, the keeper looks, and can't.
    put(&bench, "blue", nat("10.20.0.0/24")).await.unwrap();
    assert!(status(&bench, "blue").await.unwrap().facts.unwrap().is_up);
    bench.fake.reconnect();
    await_up(&bench, "blue").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_network_has_an_address_in_its_row_and_holds_the_network() {
    let bench = Bench::new().await;
    put(&bench, "blue", nat("10.20.0.0/24")).await.unwrap();
    await_up(&bench, "blue").await;
    let mut spec = vm();
    let JobKind::Vm(vm) = &mut spec.kind else { unreachable!("it is a VM") };
    let mac = "52:54:00:00:00:01";
    let plug = Plug::Libvirt { name: "blue".into() };
    vm.nics = vec![NicSpec { mac: Some(mac.into()), ..plug.into() }];
    bench.put("web-1", spec.clone()).await.unwrap();
    let job = bench.await_state("web-1", JobState::Running).await;
    let uuid = job.domain_uuid.unwrap();
    let ip = "10.20.0.7".parse().unwrap();
    bench.fake.guest_has_addresses(uuid, &[(AddressSource::Lease, mac, ip)]);
    bench.fake.agent_changes(uuid);
    await_that("the address", async || {
        let job: Job = bench.client.get(&bench.local(), "/v1/jobs/web-1").await.unwrap();
        job.cards.iter().any(|card| card.addresses.iter().any(|address| address.ip == ip))
    })
    .await;
    let held = delete(&bench, "blue").await.unwrap_err();
    assert!(held.to_string().contains("web-1"), "{held}");
    assert_eq!(name_of(&bench.put("web-2", spec).await.unwrap_err()), "mac-taken");
}
