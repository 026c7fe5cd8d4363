//! What tickets cost: benchmarks T1 to T3, and what covering many hosts costs; one JSON line each.
//!
//! `bench-tickets [--hosts N]`: N hosts (10 000 unless said otherwise) with 20 jobs each are in the
//! books of the arbiters measured. T1, T2 and renewals are CPU time of one thread, against the bare
//! signatures of the same library over as many bytes, in turns; T3 is over loopback with real TLS.

mod grants;
mod raw;
mod renew;
mod tickets;
mod world;

use serde_json::{Value, json};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| words.iter().position(|word| word == name).map(|i| i + 1);
    let hosts = after("--hosts").map_or(10_000, |i| words[i].parse().expect("a number"));
    let cluster = world::Cluster::new(hosts, 20);
    print(tickets::issue(&cluster));
    (1..=3).for_each(|k| print(tickets::verified(k)));
    (1..=3).for_each(|k| print(tickets::bytes(k)));
    print(renew::renew(&cluster));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(grants::latency()).into_iter().for_each(print);
}

/// One figure, with what the machine was doing besides.
fn print(mut line: Value) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    line["load_before"] = json!(load);
    println!("{line}");
}

/// Two digits are more than the machine knows.
fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
