//! Networks of real hosts and the addresses of real guests, judged by `virsh net-*`, `ip` and guests
//! that answer a ping.

use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

/// How long a guest may take to boot, have an address, and be seen with it, on a busy machine.
const BOOT: Duration = Duration::from_secs(90);

fn sh(lab: &Lab, host: &str, script: &str) -> String {
    let output = lab.exec(host, &["sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn cards(operator: &Operator, vm: &str) -> Vec<Value> {
    let known = operator.json(&["inspect", vm]);
    known["jobs"][0]["job"]["cards"].as_array().cloned().unwrap_or_default()
}

/// The address of a guest's nth card, and who says so, once one is known.
fn await_address(operator: &Operator, vm: &str, n: usize) -> (String, String) {
    let (address, _) = until(&format!("an address of {vm}'s card {n}"), BOOT, || {
        let cards = cards(operator, vm);
        let address = cards.get(n).map(|card| card["addresses"][0].clone()).unwrap_or_default();
        let word = |name: &str| address[name].as_str().map(str::to_owned);
        word("ip").zip(word("from")).ok_or(cards)
    });
    address
}

fn ping(lab: &Lab, host: &str, address: &str) {
    until(&format!("{address} to answer {host}"), BOOT, || {
        let output = lab.exec(host, &["ping", "-c", "1", "-W", "2", address]);
        is(output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    });
}

/// A network that somebody else has made.
const THEIRS: &str = "<network><name>theirs</name><forward mode='nat'/>
  <bridge name='virbr7' stp='on' delay='0'/>
  <ip address='192.168.77.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.77.10' end='192.168.77.99'/></dhcp></ip></network>";

fn make_theirs(lab: &Lab, host: &str) {
    let define =
        format!("cat >/run/theirs.xml <<'END'\n{THEIRS}\nEND\nvirsh net-define /run/theirs.xml");
    sh(lab, host, &format!("{define} && virsh net-start theirs"));
}

#[test]
fn lab_addresses_come_from_leases_and_from_the_wire_and_of_the_user_network_none() {
    let Some(lab) = Lab::up("lab_addresses_come_from_leases", 1) else { return };
    make_theirs(&lab, "h1");
    // A bridge that libvirt knows nothing of, with a DHCP server of its own.
    sh(
        &lab,
        "h1",
        "ip link add br9 type bridge && ip address add 10.99.0.1/24 dev br9 && ip link set br9 up && \
         dnsmasq --interface=br9 --bind-interfaces --except-interface=lo --port=0 \
         --dhcp-range=10.99.0.50,10.99.0.60 --pid-file=/run/br9.pid --dhcp-leasefile=/run/br9.leases",
    );
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let nics = ["--nic", "network=theirs", "--nic", "bridge=br9", "--nic", "user"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &nics[..]].concat());

    let (leased, from) = await_address(&operator, "web-1", 0);
    assert_eq!(from, "lease");
    let leases = sh(&lab, "h1", "virsh net-dhcp-leases theirs");
    assert!(leases.contains(&format!("{leased}/24")), "{leased} is not in {leases}");
    ping(&lab, "h1", &leased);
    // Of the other card libvirt knows nothing; its host does as soon as it has spoken with it.
    let (at_bridge, _) = until("a lease at the bridge", BOOT, || {
        let leases = sh(&lab, "h1", "cat /run/br9.leases");
        leases.split_whitespace().nth(2).map(str::to_owned).ok_or(leases.clone())
    });
    ping(&lab, "h1", &at_bridge);
    let neighbour = (at_bridge, "neighbour".to_owned());
    assert_eq!(await_address(&operator, "web-1", 1), neighbour);
    let user = &cards(&operator, "web-1")[2];
    assert_eq!((&user["unknown"], &user["addresses"]), (&"user_network".into(), &Value::Null));
    let live = sh(&lab, "h1", "virsh domiflist web-1");
    for card in cards(&operator, "web-1") {
        assert!(
            live.contains(card["mac"].as_str().expect("a card has one")),
            "{card} not in {live}"
        );
    }
    let shown = operator.must(&["ps"]);
    assert!(shown.contains(&format!("{leased} +1")), "{shown}");

    // It is told with the row, a few times in all, and goes with the guest.
    let news = operator.must(&["events", "--json"]);
    let of_row = news.lines().filter(|line| line.contains("job_changed") && line.contains("web-1"));
    assert!(of_row.count() < 15, "{news}");
    operator.must(&["stop", "web-1", "--force"]);
    assert_eq!(cards(&operator, "web-1"), Vec::<Value>::new());
}
