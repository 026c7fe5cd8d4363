//! Networks of real hosts and the addresses of real guests, judged by `virsh net-*`, `ip` and guests
//! that answer a ping.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::{Following, Operator};
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

/// The address of a guest's nth card that this source knows. A guest may have been seen on the wire before its lease is written.
fn await_address(operator: &Operator, vm: &str, n: usize, from: &str) -> String {
    let (address, _) = until(&format!("an address of {vm}'s card {n} from {from}"), BOOT, || {
        let cards = cards(operator, vm);
        let address = cards.get(n).map(|card| card["addresses"][0].clone()).unwrap_or_default();
        let ip = address["ip"].as_str().filter(|_| address["from"] == from);
        ip.map(str::to_owned).ok_or(cards)
    });
    address
}

fn ping(lab: &Lab, host: &str, address: &str) {
    until(&format!("{address} to answer {host}"), BOOT, || {
        let output = lab.exec(host, &["ping", "-c", "1", "-W", "2", address]);
        is(output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    });
}

/// Has the guest of a console ask for an answer until it has one: it asks once, and a frame may be lost.
fn guest_pings(console: &mut Following, address: &str) {
    let answered = format!("ping {address} answered");
    drop(console.lines());
    until(&format!("{answered} on the console"), BOOT, || {
        console.type_line(&format!("ping {address}"));
        let (begin, mut seen) = (Instant::now(), Vec::new());
        while begin.elapsed() < Duration::from_secs(5) {
            seen.extend(console.lines());
            if seen.iter().any(|line| line.contains(&answered)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(seen)
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

    let leased = await_address(&operator, "web-1", 0, "lease");
    let leases = sh(&lab, "h1", "virsh net-dhcp-leases theirs");
    assert!(leases.contains(&format!("{leased}/24")), "{leased} is not in {leases}");
    ping(&lab, "h1", &leased);
    // Of the other card libvirt knows nothing; its host does as soon as it has spoken with it.
    let (at_bridge, _) = until("a lease at the bridge", BOOT, || {
        let leases = sh(&lab, "h1", "cat /run/br9.leases");
        leases.split_whitespace().nth(2).map(str::to_owned).ok_or(leases.clone())
    });
    ping(&lab, "h1", &at_bridge);
    assert_eq!(await_address(&operator, "web-1", 1, "neighbour"), at_bridge);
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

/// A network's definition as libvirt keeps it.
fn definition(lab: &Lab, host: &str, network: &str) -> String {
    sh(lab, host, &format!("virsh net-dumpxml --inactive {network}"))
}

fn networks_of(lab: &Lab, host: &str) -> Vec<String> {
    let list = sh(lab, host, "virsh net-list --all --name");
    list.split_whitespace().map(str::to_owned).collect()
}

fn await_up(lab: &Lab, host: &str, network: &str) {
    until(&format!("{network} to be up on {host}"), Duration::from_secs(60), || {
        let output = lab.exec(host, &["virsh", "net-info", network]);
        let info = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_up = ["Active:yes", "Persistent:yes", "Autostart:yes"];
        let squeezed = info.replace(' ', "");
        is(is_up.iter().all(|word| squeezed.contains(word)), info)
    });
}

fn refused(operator: &Operator, words: &[&str]) -> String {
    let output = operator.run(words);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(3), "{words:?}: {said}");
    said
}

/// A VLAN, or, where the kernel has none, the word that says so. False when it has none.
fn vlan_of_h1(lab: &Lab, operator: &Operator) -> bool {
    let try_it = "ip link add link eth0 name vlan9 type vlan id 9 && ip link delete vlan9";
    let has_vlans = lab.exec("h1", &["sh", "-c", try_it]).status.success();
    let create = ["networks", "create", "v7", "--vlan", "7", "--uplink", "eth0", "--on", "h1"];
    if has_vlans {
        assert!(operator.must(&create).contains("v7 is up on h1"));
        let vlan = sh(lab, "h1", "ip -d link show dev ov-v7");
        assert!(vlan.contains("802.1Q id 7") && vlan.contains("master ob-v7"), "{vlan}");
    } else {
        let output = operator.run(&create);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("h1: not up"), "{said}");
        let listed = operator.must(&["networks"]);
        assert!(listed.contains("type vlan id 7"), "{listed}");
    }
    has_vlans
}

#[test]
fn lab_a_network_is_made_where_it_is_asked_for_kept_and_others_are_left_alone() {
    let Some(lab) = Lab::up("lab_a_network_is_made", 2) else { return };
    make_theirs(&lab, "h1");
    let theirs = definition(&lab, "h1", "theirs");
    let mut operator = Operator::new();
    let discovery = operator.make_cluster(&lab);
    let create = ["networks", "create", "blue", "--nat", "10.20.0.0/24"];
    let said = operator.must(&create);
    assert!(said.contains("blue is up on h1") && said.contains("blue is up on h2"), "{said}");
    for host in ["h1", "h2"] {
        await_up(&lab, host, "blue");
        let bridge = sh(&lab, host, "ip -4 -o address show dev ob-blue");
        assert!(bridge.contains("10.20.0.1/24"), "{bridge}");
    }
    let made = definition(&lab, "h1", "blue");
    assert!(operator.must(&create).contains("blue is up already on h1"));
    assert_eq!(definition(&lab, "h1", "blue"), made, "nothing was changed the second time");
    let listed = operator.must(&["networks"]);
    assert!(listed.contains("nat 10.20.0.0/24") && listed.contains("theirs"), "{listed}");

    // What can't be says what could.
    let no = refused(
        &operator,
        &["networks", "create", "red", "--nat", "192.168.77.0/24", "--on", "h1"],
    );
    assert!(no.contains("network theirs") && no.contains("192.168.78.0/24 is free"), "{no}");
    let no = refused(&operator, &["networks", "create", "lan", "--bridge", "br7", "--on", "h1"]);
    assert!(no.contains("br7 is not on this host"), "{no}");
    let no = refused(
        &operator,
        &["networks", "create", "theirs", "--nat", "10.21.0.0/24", "--on", "h1"],
    );
    assert!(no.contains("was not made by Ostler"), "{no}");
    let no = refused(&operator, &["networks", "rm", "theirs", "--on", "h1"]);
    assert!(no.contains("left alone"), "{no}");
    let has_vlans = vlan_of_h1(&lab, &operator);
    sh(&lab, "h1", "ip link add br9 type bridge && ip link set br9 up");
    let said = operator.must(&["networks", "create", "lan", "--bridge", "br9", "--on", "h1"]);
    assert!(said.contains("lan is up on h1") && !said.contains("h2"), "{said}");

    // A VM comes where its network is, whatever else is free.
    let output =
        operator.run(&["run", "guest", "--name", "lost", "--nic", "network=lan", "--on", "h2"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("has no network lan"), "{said}");
    let nic = "network=blue,mac=52:54:00:00:00:01";
    operator.must(&["run", "guest", "--name", "web-1", "--nic", nic, "--on", "h1"]);
    let address = await_address(&operator, "web-1", 0, "lease");
    assert!(sh(&lab, "h1", "virsh net-dhcp-leases blue").contains(&format!("{address}/24")));
    ping(&lab, "h1", &address);

    // Nobody else has its address, on any host.
    for host in ["h1", "h2"] {
        let output = operator.run(&["run", "guest", "--name", "twin", "--nic", nic, "--on", host]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("52:54:00:00:00:01") && said.contains("web-1"), "{said}");
    }

    // It stays as long as it has guests, over a restart of libvirt's daemon, and they with it.
    let no = refused(&operator, &["networks", "rm", "blue"]);
    assert!(no.contains("web-1"), "{no}");
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    await_up(&lab, "h1", "blue");
    ping(&lab, "h1", &address);
    assert_eq!(definition(&lab, "h1", "theirs"), theirs);

    // What somebody takes away is made again; after a power cut too.
    sh(&lab, "h2", "virsh net-destroy blue && virsh net-undefine blue");
    await_up(&lab, "h2", "blue");
    if has_vlans {
        sh(&lab, "h1", "ip link delete dev ov-v7");
        until("the VLAN to be made again", Duration::from_secs(60), || {
            let output = lab.exec("h1", &["ip", "link", "show", "dev", "ov-v7"]);
            is(output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        });
    }
    lab.must(&["kill", "h2"]);
    lab.must(&["boot", "h2"]);
    sh(&lab, "h2", "virsh net-undefine blue; virsh net-destroy blue");
    lab.start_agent("h2", &discovery);
    await_up(&lab, "h2", "blue");

    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["rm", "web-1"]);
    operator.must(&["networks", "rm", "blue"]);
    operator.must(&["networks", "rm", "lan"]);
    operator.must(&["networks", "rm", "v7"]);
    assert_eq!(networks_of(&lab, "h1"), ["theirs"]);
    assert_eq!(networks_of(&lab, "h2"), Vec::<String>::new());
    for host in ["h1", "h2"] {
        let left = sh(&lab, host, "ip -o link");
        assert!(!left.contains("ob-") && !left.contains("ov-"), "{left}");
    }
    assert!(sh(&lab, "h1", "ip -o link").contains("br9"), "what was there before stays");
    assert_eq!(definition(&lab, "h1", "theirs"), theirs);
}

#[test]
fn lab_an_overlay_is_one_ethernet_over_hosts_and_outlives_who_is_silent() {
    let Some(lab) = Lab::up("lab_an_overlay_is_one_ethernet", 3) else { return };
    let mut operator = Operator::new();
    // A host dies in this story, and what is asked for afterwards is done all the same.
    operator.make_cluster_with(&lab, &["--arbiters", "3", "--controllers", "3"]);
    let said = operator.must(&["networks", "create", "red", "--overlay", "42", "--on", "h1,h2"]);
    assert!(said.contains("red is up on h1") && said.contains("red is up on h2"), "{said}");
    // A DHCP server on one of the hosts gives addresses to guests of both.
    sh(
        &lab,
        "h1",
        "ip address add 10.50.0.1/24 dev ob-red && \
         dnsmasq --interface=ob-red --bind-interfaces --except-interface=lo --port=0 \
         --dhcp-range=10.50.0.10,10.50.0.99 --dhcp-option=3 --dhcp-option=26,1450 \
         --pid-file=/run/red.pid --dhcp-leasefile=/run/red.leases",
    );
    for (vm, host) in [("web-1", "h1"), ("web-2", "h2")] {
        operator.must(&["run", "guest", "--name", vm, "--nic", "network=red", "--on", host]);
    }
    let address = |vm: &str| {
        let (mac, _) = until(&format!("a card of {vm}"), BOOT, || {
            let cards = cards(&operator, vm);
            cards.first().and_then(|card| card["mac"].as_str().map(str::to_owned)).ok_or(cards)
        });
        let (address, _) = until(&format!("a lease of {vm}"), BOOT, || {
            let leases = sh(&lab, "h1", "cat /run/red.leases");
            let of_vm = leases.lines().find(|line| line.contains(&mac));
            let ip = of_vm.and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned);
            ip.ok_or(leases.clone())
        });
        address
    };
    address("web-1");
    let second = address("web-2");
    ping(&lab, "h1", &second);
    let mut console = operator.follow_at_terminal(&["console", "web-1"]);
    guest_pings(&mut console, &second);

    // Another host joins, and those that are there hear of it.
    operator.must(&["networks", "create", "red", "--overlay", "42", "--on", "h3"]);
    let floods = |host: &str| sh(&lab, host, "bridge fdb show dev ox-red");
    let third = lab.address("h3");
    for host in ["h1", "h2"] {
        until(&format!("{host} to send to h3"), Duration::from_secs(30), || {
            is(floods(host).contains(&format!("00:00:00:00:00:00 dst {third}")), floods(host))
        });
    }
    // One that is dead is still a member: nobody has said otherwise.
    lab.must(&["kill", "h3"]);
    guest_pings(&mut console, &second);
    assert!(floods("h1").contains(&third));

    let output = operator.run(&["networks", "create", "red", "--overlay", "42"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("h3: "), "it was not told: {said}");
    assert!(said.contains("red is up already on h1"), "the others are as they were: {said}");

    // A guest that moves keeps its address and is reached where it is.
    operator.must(&["migrate", "web-2", "h1"]);
    guest_pings(&mut console, &second);
}
