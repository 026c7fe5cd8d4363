//! What the planner and the scheduler library can do: benchmarks P1, P2, P7, P8 and L1 to L5, one JSON line
//! each. Everything is in one process and of one thread, with the code that controllers run; only hosts are
//! simulated, and say yes and no by the admission that real ones use.
//!
//! `bench-planner [NAME…]`, such as `bench-planner P1 L3`; without names all of them, from some 10 to 100 000 hosts.

mod conflicts;
mod consolidation;
mod events;
mod loss;
mod plans;
mod puzzles;
mod replay;
mod speed;
mod twice;
mod world;

/// Measures something: a line for each figure.
type Part = fn() -> Vec<serde_json::Value>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_asked = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let load = world::load();
    let parts: [(&[&str], Part); 10] = [
        (&["P1", "P2", "P1_index"], speed::indexed),
        (&["P1", "P2", "P1_numa"], speed::numa),
        (&["P1", "P2", "P1_plan"], plans::run),
        (&["P7"], conflicts::run),
        (&["P8"], twice::run),
        (&["L1"], events::run),
        (&["L2"], loss::run),
        (&["L3"], puzzles::run),
        (&["L4"], consolidation::run),
        (&["L5"], replay::run),
    ];
    for (_, run) in parts.iter().filter(|(names, _)| names.iter().any(|name| is_asked(name))) {
        for mut line in run() {
            line["load_before"] = load.into();
            println!("{line}");
        }
    }
}
