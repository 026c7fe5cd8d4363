//! What libvirt counts of a domain, in our words. Pure; what it leaves out is left out.

use std::collections::BTreeMap;

use protocol::usage::{DiskUsage, GuestUsage, NicUsage};

use super::ffi::Stat;

/// More devices than that are not counted; QEMU takes fewer.
const DEVICES_MAX: u64 = 256;

/// See [`super::ffi::Counted`].
type Stats = BTreeMap<String, Stat>;

/// The usage of the domain of this name.
pub(super) fn usage(name: String, stats: &Stats) -> GuestUsage {
    let devices =
        |kind: &str| 0..number(stats, &format!("{kind}.count")).unwrap_or(0).min(DEVICES_MAX);
    GuestUsage {
        name,
        job: None,
        cpu_ns: number(stats, "cpu.time"),
        memory_bytes: number(stats, "balloon.rss").map(|kib| kib.saturating_mul(1024)),
        disks: devices("block").filter_map(|n| disk(stats, n)).collect(),
        nics: devices("net").filter_map(|n| nic(stats, n)).collect(),
    }
}

fn disk(stats: &Stats, n: u64) -> Option<DiskUsage> {
    let count = |what: &str| number(stats, &format!("block.{n}.{what}"));
    Some(DiskUsage {
        device: text(stats, &format!("block.{n}.name"))?,
        read_bytes: count("rd.bytes")?,
        written_bytes: count("wr.bytes")?,
        reads: count("rd.reqs").unwrap_or(0),
        writes: count("wr.reqs").unwrap_or(0),
        allocated_bytes: count("physical"),
    })
}

fn nic(stats: &Stats, n: u64) -> Option<NicUsage> {
    let count = |what: &str| number(stats, &format!("net.{n}.{what}"));
    let dropped = ["rx.drop", "tx.drop"].into_iter().filter_map(count);
    Some(NicUsage {
        device: text(stats, &format!("net.{n}.name"))?,
        received_bytes: count("rx.bytes")?,
        sent_bytes: count("tx.bytes")?,
        received_packets: count("rx.pkts").unwrap_or(0),
        sent_packets: count("tx.pkts").unwrap_or(0),
        dropped_packets: dropped.fold(0, u64::saturating_add),
    })
}

fn number(stats: &Stats, name: &str) -> Option<u64> {
    match stats.get(name)? {
        Stat::Number(number) => Some(*number),
        Stat::Text(_) => None,
    }
}

fn text(stats: &Stats, name: &str) -> Option<String> {
    match stats.get(name)? {
        Stat::Text(text) => Some(text.clone()),
        Stat::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines: &str) -> Stats {
        let stat = |value: &str| match value.parse() {
            Ok(number) => Stat::Number(number),
            Err(_) => Stat::Text(value.to_owned()),
        };
        let pairs = lines.split_whitespace().map(|line| line.split_once('=').unwrap());
        pairs.map(|(name, value)| (name.to_owned(), stat(value))).collect()
    }

    #[test]
    fn what_virsh_domstats_prints_is_read_and_a_disk_of_which_half_is_unknown_is_not_shown() {
        // As `virsh domstats --cpu-total --balloon --interface --block` prints it.
        let stats = stats(
            "cpu.time=1520000000 cpu.user=1210000000 balloon.current=65536 balloon.rss=51200
             net.count=1 net.0.name=vnet3 net.0.rx.bytes=42 net.0.rx.pkts=1 net.0.rx.errs=0
             net.0.rx.drop=2 net.0.tx.bytes=84 net.0.tx.pkts=2 net.0.tx.errs=0 net.0.tx.drop=3
             block.count=2 block.0.name=vda block.0.path=/v/a.qcow2 block.0.backingIndex=1 block.0.rd.reqs=7
             block.0.rd.bytes=4096 block.0.wr.reqs=1 block.0.wr.bytes=512 block.0.allocation=0
             block.0.physical=8192 block.1.name=sda block.1.rd.bytes=1",
        );
        let expected = GuestUsage {
            name: "a".to_owned(),
            job: None,
            cpu_ns: Some(1_520_000_000),
            memory_bytes: Some(50 << 20),
            disks: vec![DiskUsage {
                device: "vda".to_owned(),
                read_bytes: 4096,
                written_bytes: 512,
                reads: 7,
                writes: 1,
                allocated_bytes: Some(8192),
            }],
            nics: vec![NicUsage {
                device: "vnet3".to_owned(),
                received_bytes: 42,
                sent_bytes: 84,
                received_packets: 1,
                sent_packets: 2,
                dropped_packets: 5,
            }],
        };
        assert_eq!(usage("a".to_owned(), &stats), expected);
    }

    #[test]
    fn what_is_not_said_is_not_zero() {
        let known = usage("a".to_owned(), &stats("block.count=3 block.0.name=vda net.count=many"));
        assert_eq!(known, GuestUsage { name: "a".to_owned(), ..GuestUsage::default() });
        let endless = usage(String::new(), &stats("block.count=18446744073709551615"));
        assert_eq!(endless, GuestUsage::default());
    }
}
