//! What is understood and what is not.

use clap::CommandFactory as _;
use protocol::resources::Bytes;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_people_write_is_understood() {
    for line in [
        "ostler dev",
        "ostler dev --image x.qcow2 --hypervisor test --agents 2",
        "ostler dev stop",
        "ostler bootstrap --discovery http://d/clusters/abc -n 3 --json",
        "ostler bootstrap --hosts a,b,c",
        "ostler run debian-12 --name web-1 --vcpus 2 --memory 4GiB",
        "ostler run --image i --name web-1 --disk 64MiB --disk data=1GiB --nic bridge=br0",
        "ostler stop web-1 --force",
        "ostler stop web-1 --grace 500ms --no-wait",
        "ostler run i --name a --uefi --cpu Skylake-Server --vnc --cloud-init-user-data u",
        "ostler run i --name a --nic bridge=br0,mac=52:54:00:00:00:01,model=e1000e",
        "ostler run i --name a --deadline 10m --idle 1m",
        "ostler wait a --timeout 1h",
        "ostler run i --name a --restart on-crash --autostart",
        "ostler run i --name a --protected",
        "ostler protect web-1",
        "ostler unprotect web-1 --json",
        "ostler run i --name a --priority 80 --preemptible",
        "ostler rank web-1 80",
        "ostler rank web-1 --not-preemptible --json",
        "ostler quota set default --vms 10",
        "ostler policy check rules.json --at 2026-12-05T22:30+01:00 --json",
        "ostler pause web-1",
        "ostler save web-1 --no-wait",
        "ostler reboot web-1 --grace 0s",
        "ostler migrate web-1 h2",
        "ostler power",
        "ostler power h2 --json",
        "ostler power h2 off --force",
        "ostler power h2 cycle",
        "ostler power h2 sleep",
        "ostler fence",
        "ostler fence h2 --cut-power --reason burnt --turn-on",
        "ostler fence h2 --is-off --reason burnt",
        "ostler run i --name a --vcpus 2 --max-vcpus 8 --memory 2GiB --max-memory 16GiB",
        "ostler resize web-1 --vcpus 4",
        "ostler resize web-1 --vcpus 4 --memory 8GiB --max-memory 16GiB --no-wait",
        "ostler resize web-1 --disk data=8GiB --disk root=64GiB",
        "ostler attach web-1 --disk data=8GiB --disk 1GiB --nic network=lan,model=e1000e --no-wait",
        "ostler attach web-1 --disk data=8GiB --image debian-13",
        "ostler detach web-1 --nic 52:54:00:0a:0b:0c",
        "ostler detach web-1 --disk data --delete-data --nic 52:54:00:0a:0b:0c",
        "ostler snapshots",
        "ostler snapshots ls web-1 --json",
        "ostler snapshot take web-1 before --no-wait",
        "ostler snapshots revert web-1 before",
        "ostler snapshots rm web-1 before",
        "ostler snapshots rm web-1 before --on h2",
        "ostler ps --all --hosts 10.0.0.1,10.0.0.2:99",
        "ostler events --follow",
        "ostler console web-1 --lines 3 --no-input",
        "ostler images",
        "ostler images ls --json",
        "ostler images import f.qcow2 --name f",
        "ostler images import https://d/f.qcow2 --name f --on h1,h2 --limit 10MiB",
        "ostler images copy f --on h3",
        "ostler images rm f --on h1,h2",
        "ostler networks",
        "ostler networks create blue --nat 10.20.0.0/24 --on h1,h2",
        "ostler network create alone --isolated",
        "ostler networks create alone --isolated 10.20.0.0/24 --no-dhcp",
        "ostler networks create v7 --vlan 7 --uplink eth0",
        "ostler networks create red --overlay 42",
        "ostler network rm blue --on h1",
        "ostler runs",
        "ostler runs show 0123",
        "ostler runs cancel 0123 --no-wait",
        "ostler ui --listen 127.0.0.1:0",
        "ostler arbiters --json",
        "ostler arbiters replace 2 --with h4 --dry-run",
        "ostler arbiters add h2 h3 --timeout 1m",
        "ostler arbiters remove 4",
        "ostler arbiters resume",
        "ostler arbiters recover --dry-run",
        "ostler arbiters recover --off h1 h2 --with h3 h4 --timeout 1m",
        "ostler witnesses --json",
        "ostler witnesses set h4 h5 h6 --dry-run",
        "ostler witnesses none --timeout 1m",
        "ostler operators",
        "ostler operators key",
        "ostler users",
        "ostler users key",
        "ostler users remove ann",
        "ostler clone web-1 web-2 --on h2 --snapshot before --limit 10MiB",
        "ostler backup take web-1 web-2 --to /backups --keep 7",
        "ostler backup take --all --to /backups",
        "ostler backup rm /backups/web-1/20261130-012014 /backups/web-2/20261130-012014 --json",
        "ostler backup restore /backups/web-1 --name web-3 --on h1",
        "ostler images take web-1 golden --disk data --snapshot before",
        "ostler readers",
        "ostler readers key",
        "ostler readers remove prometheus",
        // One key in 64 begins so.
        "ostler readers remove -ikto-xNWbllZvBQTwqAu5lzGt1ZGZs8jCO6pan-G94 --json",
        "ostler users remove -hikto-xNWbllZvBQTwqAu5lzGt1ZGZs8jCO6pan-G9",
        "ostler prometheus /etc/prometheus/ostler --name prometheus",
        "ostler trust fetch",
        "ostler trust fetch h1:7460 mdns",
        "ostler hosts --domain rack",
        "ostler trust show --context /tmp/c",
        "ostler agent",
        "ostler agent --data-dir /d --listen 127.0.0.1:0 --hypervisor test:///default",
        "ostler arbiter --data-dir /d --listen 127.0.0.1:0 --trust-file /t --ready-file /r",
        "ostler witness --data-dir /d --listen 127.0.0.1:0 --trust-file /t --ready-file /r",
        "ostler monitor --data-dir /d --listen 127.0.0.1:0 --discovery mdns --discovery a:1",
        "ostler controller --data-dir /d --listen [::1]:0",
        "ostler doctor",
        "ostler doctor hosts",
        "ostler history --jobs 100 --age 60m --bytes 1MiB --on h1",
        "ostler doctor views --json --monitor https://10.0.0.1:7471",
        "ostler discovery serve --listen 127.0.0.1:0 --data f",
        "ostler expect web.json --name web --wait 1m",
        "ostler unexpect web",
        "ostler expectations web",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "ostler",
        "ostler run --name web-1 --memory 128",
        "ostler run --name Web",
        "ostler run i --image j --name a",
        "ostler run --name a --nic wifi",
        "ostler run --name a --nic user,speed=1",
        "ostler run --name a --cloud-init-network-config n",
        "ostler run --name a --idle 1m",
        "ostler run --name a --restart sometimes",
        "ostler resize web-1",
        "ostler attach web-1",
        "ostler attach web-1 --nic user --image debian-13",
        "ostler detach web-1 --disk data",
        "ostler detach web-1 --delete-data",
        "ostler resize web-1 --memory 8",
        "ostler snapshots take web-1",
        "ostler snapshots take web-1 Before",
        "ostler stop web-1 --force --grace 3s",
        "ostler images import f.qcow2 --name f --sha256 12",
        "ostler images rm",
        "ostler stop web-1 --grace 3",
        "ostler bootstrap --hosts ftp://x",
        "ostler dev --agents 0",
        "ostler arbiters add",
        "ostler operators add me",
        "ostler ui --listen 0.0.0.0:7461",
    ] {
        assert!(parse(line).is_err(), "{line:?} was accepted");
    }
}

#[test]
fn times_and_disks_have_units() {
    assert_eq!("5m".parse(), Ok(Ms(300_000)));
    assert!("5".parse::<Ms>().is_err() && "5 s".parse::<Ms>().is_err());
    let disk: DiskArg = "data=64MiB".parse().unwrap();
    assert_eq!((disk.name.as_deref(), disk.size), (Some("data"), Bytes(64 << 20)));
}
