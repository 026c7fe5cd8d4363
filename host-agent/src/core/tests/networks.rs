//! Networks: what is taken, what is refused with what would have worked, and what outlives a crash.

use core::net::Ipv4Addr;

use hypervisor::NetworkInfo;
use protocol::job::JobKind;
use protocol::network::{NetworkKind, NetworkName, NetworkSpec, NetworkStatus, PutNetwork, Subnet};
use protocol::vm::{NicSpec, Plug};

use super::*;

fn name(text: &str) -> NetworkName {
    NetworkName::new(text).unwrap()
}

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn nat(text: &str) -> NetworkSpec {
    NetworkSpec::Nat { subnet: subnet(text), dhcp: true }
}

fn vlan(uplink: &str, tag: u16) -> NetworkSpec {
    NetworkSpec::Vlan { uplink: uplink.into(), tag }
}

fn overlay(vni: u32, members: &[&str]) -> NetworkSpec {
    NetworkSpec::Overlay { vni, members: members.iter().map(|ip| ip.parse().unwrap()).collect() }
}

fn network(name: &str, is_ours: bool, subnets: &[&str]) -> NetworkInfo {
    NetworkInfo {
        uuid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()),
        name: name.into(),
        is_active: true,
        is_ours,
        kind: NetworkKind::Nat,
        bridge: Some(format!("ob-{name}")),
        subnets: subnets.iter().map(|text| subnet(text)).collect(),
        cards: 0,
    }
}

fn link(name: &str, kind: Option<&str>, address: Option<&str>) -> Link {
    let address = address.map(|ip| ip.parse::<Ipv4Addr>().unwrap());
    Link {
        name: name.into(),
        kind: kind.map(str::to_owned),
        addresses: address.map(|ip| (ip, Subnet::around(ip, 24))).into_iter().collect(),
        ..Link::default()
    }
}

/// A host with a card, a bridge, and a network of somebody else's.
fn seen() -> SeenNetworks {
    SeenNetworks {
        networks: vec![network("default", false, &["192.168.122.0/24"])],
        links: vec![
            link("lo", None, Some("127.0.0.1")),
            link("eth0", None, Some("10.0.0.5")),
            link("br0", Some("bridge"), None),
        ],
        ..SeenNetworks::default()
    }
}

fn looked() -> Bench {
    let mut bench = Bench::lone();
    bench.tell(Input::Networks(Box::new(seen())));
    bench
}

fn put(
    bench: &mut Bench,
    network: &str,
    revision: u64,
    spec: NetworkSpec,
) -> Result<Reply, Refusal> {
    let put = PutNetwork { revision: Revision(revision), spec };
    bench.ask(Request::PutNetwork { name: name(network), put })
}

fn status(answer: Result<Reply, Refusal>) -> (NetworkStatus, bool) {
    match answer {
        Ok(Reply::Network { status, is_new }) => (*status, is_new),
        other => panic!("no network: {other:?}"),
    }
}

/// The network is made, as the next look shows.
fn made(bench: &mut Bench, networks: &[(&str, &str)]) {
    let mut now = seen();
    now.networks.extend(networks.iter().map(|(name, subnet)| network(name, true, &[subnet])));
    bench.tell(Input::Networks(Box::new(now)));
}

fn on(network: &str) -> JobSpec {
    let mut spec = spec(1);
    let JobKind::Vm(vm) = &mut spec.kind else { unreachable!("it is a VM") };
    vm.nics = vec![Plug::Libvirt { name: network.into() }.into()];
    spec
}

fn run(bench: &mut Bench, job: &str, spec: JobSpec) -> Result<Reply, Refusal> {
    bench.put(job, PutJob { spec, ..body(1, 1, None) })
}

#[test]
fn a_network_is_written_down_kept_and_told() {
    let mut bench = looked();
    let (before, is_new) = status(put(&mut bench, "blue", 1, nat("10.20.0.0/24")));
    assert!(is_new && !before.facts.unwrap().is_up, "nobody has made it yet");
    assert_eq!(bench.kept.keys().collect::<Vec<_>>(), [&name("blue")]);
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    let shown = bench.agent.inventory().host.networks.unwrap();
    assert!(shown["blue"].is_up && shown["default"].is_up);
    assert_eq!((shown["blue"].revision, shown["default"].revision), (Some(Revision(1)), None));
    assert!(!status(put(&mut bench, "blue", 1, nat("10.20.0.0/24"))).1, "it is so already");
    bench.die(true);
    assert_eq!(bench.agent.networks().keys().collect::<Vec<_>>(), [&name("blue")]);
    assert_eq!(bench.agent.inventory().host.networks, None, "nothing is said before a look");
}

#[test]
fn a_change_needs_a_newer_revision() {
    let mut bench = looked();
    status(put(&mut bench, "blue", 3, nat("10.20.0.0/24")));
    assert_eq!(refusal(put(&mut bench, "blue", 3, nat("10.21.0.0/24"))), "network-revision");
    assert_eq!(refusal(put(&mut bench, "blue", 2, nat("10.20.0.0/24"))), "network-revision");
    assert!(status(put(&mut bench, "blue", 4, nat("10.21.0.0/24"))).1);
}

#[test]
fn a_subnet_that_somebody_has_is_refused_with_one_that_nobody_has() {
    let mut bench = looked();
    status(put(&mut bench, "blue", 1, nat("10.20.0.0/24")));
    let taken = [
        ("10.20.0.128/25", "network blue"),
        ("192.168.0.0/16", "network default (192.168.122.0/24)"),
        ("10.0.0.0/24", "the host's address 10.0.0.5 on eth0"),
    ];
    for (asked, whose) in taken {
        match put(&mut bench, "red", 1, nat(asked)) {
            Err(Refusal::SubnetTaken { by, free: Some(free), .. }) => {
                assert_eq!(by, whose);
                status(put(&mut bench, "red", 1, NetworkSpec::Nat { subnet: free, dhcp: true }));
                bench.ask(Request::DeleteNetwork("red".into())).unwrap();
                let gone = SeenNetworks { gone: vec![name("red")], ..seen() };
                bench.tell(Input::Networks(Box::new(gone)));
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    assert!(status(put(&mut bench, "blue", 2, nat("10.20.0.0/23"))).1, "its own are its own");
}

#[test]
fn what_the_host_lacks_or_has_already_is_said() {
    let mut bench = looked();
    let bridge = |name: &str| NetworkSpec::Bridge { bridge: name.into() };
    let no = put(&mut bench, "lan", 1, bridge("br7")).unwrap_err();
    assert_eq!(no, Refusal::NoDevice { device: "br7".into(), has: vec!["br0".into()] });
    assert_eq!(refusal(put(&mut bench, "lan", 1, bridge("eth0"))), "no-device");
    assert!(status(put(&mut bench, "lan", 1, bridge("br0"))).1);
    assert_eq!(refusal(put(&mut bench, "v7", 1, vlan("eth9", 7))), "no-device");
    assert!(status(put(&mut bench, "v7", 1, vlan("eth0", 7))).1);
    assert_eq!(refusal(put(&mut bench, "v7b", 1, vlan("eth0", 7))), "network-clash");
    assert!(status(put(&mut bench, "v8", 1, vlan("br0", 7))).1, "of another uplink");
    let no = put(&mut bench, "red", 1, overlay(9, &["10.0.0.6"])).unwrap_err();
    assert!(no.to_string().contains("10.0.0.5"), "{no}");
    assert!(status(put(&mut bench, "red", 1, overlay(9, &["10.0.0.5", "10.0.0.6"]))).1);
    assert_eq!(refusal(put(&mut bench, "red2", 1, overlay(9, &["10.0.0.5"]))), "network-clash");
    assert_eq!(refusal(put(&mut bench, "odd", 1, overlay(0, &["10.0.0.5"]))), "invalid");
    assert_eq!(refusal(put(&mut bench, "default", 1, nat("10.77.0.0/24"))), "network-taken");
}

#[test]
fn where_there_are_no_networks_that_is_said() {
    let mut bench = Bench::lone();
    assert_eq!(refusal(put(&mut bench, "blue", 1, nat("10.20.0.0/24"))), "busy", "not looked yet");
    let unsupported = Some("inside this process".to_owned());
    bench.tell(Input::Networks(Box::new(SeenNetworks { unsupported, ..SeenNetworks::default() })));
    assert_eq!(refusal(put(&mut bench, "blue", 1, nat("10.20.0.0/24"))), "unsupported");
    assert_eq!(refusal(run(&mut bench, "web-1", on("blue"))), "no-network");
}

#[test]
fn a_vm_comes_only_where_its_network_is_up() {
    let mut bench = looked();
    let no = run(&mut bench, "web-1", on("blue")).unwrap_err();
    assert!(no.to_string().contains("has no network blue"), "{no}");
    assert!(no.to_string().contains("default"), "it says what there is: {no}");
    status(put(&mut bench, "blue", 1, nat("10.20.0.0/24")));
    assert_eq!(refusal(run(&mut bench, "web-1", on("blue"))), "no-network", "not up yet");
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    run(&mut bench, "web-1", on("blue")).unwrap();
}

#[test]
fn a_network_with_guests_stays_and_they_are_named() {
    let mut bench = looked();
    status(put(&mut bench, "blue", 1, nat("10.20.0.0/24")));
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    run(&mut bench, "web-1", on("blue")).unwrap();
    bench.end_work(WorkOutcome::Done);
    let delete = || Request::DeleteNetwork("blue".into());
    let in_use =
        Refusal::NetworkInUse { network: name("blue"), users: vec![job_id("web-1")], others: 0 };
    assert_eq!(bench.ask(delete()), Err(in_use.clone()));
    assert_eq!(put(&mut bench, "blue", 2, nat("10.21.0.0/24")), Err(in_use));
    assert!(status(put(&mut bench, "blue", 2, nat("10.20.0.0/24"))).1, "the same may be newer");
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(refusal(bench.ask(delete())), "network-in-use", "it would start there again");
    bench.ask(Request::Delete { job: job_id("web-1"), run: None, shared: false }).unwrap();
    bench.end_work(WorkOutcome::Done);
    // Somebody else's guest is on it, whom we do not know by name.
    let mut now = seen();
    now.networks.push(NetworkInfo { cards: 2, ..network("blue", true, &["10.20.0.0/24"]) });
    bench.tell(Input::Networks(Box::new(now)));
    let no = bench.ask(delete()).unwrap_err();
    assert!(no.to_string().contains("2 cards of guests that are no job's"), "{no}");
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    assert_eq!(bench.ask(delete()), Ok(Reply::Done));
    assert_eq!(bench.ask(delete()), Ok(Reply::Done), "it is going already");
    assert_eq!(refusal(run(&mut bench, "web-2", on("blue"))), "no-network");
    assert_eq!(refusal(put(&mut bench, "blue", 3, nat("10.20.0.0/24"))), "busy");
    bench.die(false);
    assert!(bench.agent.networks()[&name("blue")].is_going, "a crash does not bring it back");
    bench.tell(Input::Networks(Box::new(SeenNetworks { gone: vec![name("blue")], ..seen() })));
    assert_eq!(bench.agent.networks(), BTreeMap::new());
    assert_eq!(bench.disk.networks, []);
    assert_eq!(refusal(bench.ask(delete())), "no-such-network");
    assert_eq!(refusal(bench.ask(Request::DeleteNetwork("default".into()))), "network-taken");
}

#[test]
fn members_of_an_overlay_change_under_its_guests() {
    let mut bench = looked();
    status(put(&mut bench, "red", 1, overlay(9, &["10.0.0.5", "10.0.0.6"])));
    let bridge = NetworkInfo { kind: NetworkKind::Bridge, ..network("red", true, &[]) };
    let mut now = seen();
    now.networks.push(bridge);
    bench.tell(Input::Networks(Box::new(now)));
    run(&mut bench, "web-1", on("red")).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert!(status(put(&mut bench, "red", 2, overlay(9, &["10.0.0.5"]))).1);
    assert_eq!(refusal(put(&mut bench, "red", 3, overlay(10, &["10.0.0.5"]))), "network-in-use");
}

#[test]
fn two_guests_with_one_address_do_not_meet() {
    let mut bench = looked();
    made(&mut bench, &[("blue", "10.20.0.0/24")]);
    let with = |mac: &str, plug: Plug| {
        let mut spec = spec(1);
        let JobKind::Vm(vm) = &mut spec.kind else { unreachable!("it is a VM") };
        vm.nics = vec![NicSpec { mac: Some(mac.into()), ..plug.into() }];
        spec
    };
    let lan = || Plug::Bridge { bridge: "br0".into() };
    let mac = "52:54:00:00:00:01";
    run(&mut bench, "web-1", with(mac, lan())).unwrap();
    bench.end_work(WorkOutcome::Done);
    let no = run(&mut bench, "web-2", with(mac, lan())).unwrap_err();
    assert_eq!(no, Refusal::MacTaken { mac: mac.into(), job: job_id("web-1") });
    // On the user network each is alone; and an address that follows from a name is one like others.
    run(&mut bench, "web-3", with(mac, Plug::User)).unwrap();
    bench.works.clear();
    let of_name = protocol::vm::mac_of(job_id("web-4").domain_uuid(), 0);
    run(&mut bench, "web-5", with(&of_name, lan())).unwrap();
    assert_eq!(refusal(run(&mut bench, "web-4", on("default"))), "mac-taken");
}
