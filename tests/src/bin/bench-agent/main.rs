//! What an agent can do: benchmarks A1 to A4, accepts, history, V2, V4, and on a lab host V1 and V3; one
//! JSON line each. Agents, bare servers and subscribers are processes of their own.
//!
//! `bench-agent [NAME…]`, of: `api accepts stream memory starts history lab`; without any, all of them.

mod agent;
mod api;
mod bare;
mod history;
mod lab;
mod measure;
mod starts;
mod stream;

#[path = "../bench-monitor/process.rs"]
mod process;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const ALL: [&str; 7] = ["api", "accepts", "stream", "memory", "starts", "history", "lab"];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    raise_limit();
    match words[..] {
        ["--agent", folder, hypervisor] => runtime().block_on(agent::serve(folder, hypervisor)),
        ["--bare", socket] => runtime().block_on(bare::answer(socket)),
        ["--bare-stream", socket, file] => single().block_on(bare::send(socket, file)),
        ["--subscribe", socket, count] => {
            single().block_on(stream::subscribe(socket, count.parse().expect("a number")));
        }
        [] => ALL.iter().for_each(|name| run(name)),
        _ => words.iter().for_each(|name| run(name)),
    }
}

fn run(name: &str) {
    match name {
        "api" => runtime().block_on(api::run()),
        "accepts" => runtime().block_on(api::accepts()),
        "stream" => runtime().block_on(stream::run()),
        "memory" => runtime().block_on(stream::memory()),
        "starts" => runtime().block_on(starts::run()),
        "history" => history::run(),
        "lab" => lab::run(),
        _ => panic!("{name}: use any of {ALL:?}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// One thread for those who only stand for many: they would have machines of their own.
fn single() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// As many descriptors as the system lets us have.
fn raise_limit() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
}
