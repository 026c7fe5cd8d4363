//! What a monitor can do: benchmarks M1 to M5, one JSON line each. All on loopback, with real TLS
//! and WebSockets; hosts, monitors and the reader are processes of their own.
//!
//! `bench-monitor [--hosts N] [--jobs J] [--rate R]`; without `--hosts`: 100, 1 000 and 10 000. With
//! `--rate` M3 alone, with R events a second in the background.

mod agents;
mod core;
mod line;
mod process;
mod sockets;
mod world;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |i: usize| words[i].parse::<usize>().expect("a number");
    let limit = raise_limit();
    match words[..] {
        ["--agents", ..] => {
            let hole = Some(number(4)).filter(|hole| *hole > 0);
            single().block_on(agents::run(number(1), number(2), number(3), hole));
        }
        ["--monitor", folder, discovery] => runtime().block_on(sockets::monitor(folder, discovery)),
        ["--hold", kind, ..] => core::hold(kind, number(2), number(3)),
        _ => {
            let after = |name: &str| words.iter().position(|word| *word == name).map(|i| i + 1);
            let jobs = after("--jobs").map_or(10, number);
            let sizes = after("--hosts").map_or(vec![100, 1_000, 10_000], |i| vec![number(i)]);
            if let Some(rate) = after("--rate").map(number) {
                for hosts in sizes {
                    runtime().block_on(sockets::visible_only(hosts, jobs, rate, limit));
                }
                return;
            }
            for hosts in &sizes {
                println!("{}", core::merge(*hosts, jobs));
            }
            core::memory(5_000, 20).iter().for_each(|line| println!("{line}"));
            for hosts in sizes {
                runtime().block_on(sockets::run(hosts, jobs, None, limit));
            }
            runtime().block_on(sockets::run(1_000, jobs, Some(10), limit));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// One thread for some thousand agents: they would have machines of their own, and threads that wake
/// each other are no part of what is measured.
fn single() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// As many descriptors as the system lets us have.
fn raise_limit() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum;
    let more = Rlimit { current: Some(1 << 17), maximum: Some(1 << 17) };
    if setrlimit(Resource::Nofile, more).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 17);
    usize::try_from(now).unwrap_or(usize::MAX)
}
