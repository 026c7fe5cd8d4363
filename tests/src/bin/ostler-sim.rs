//! Simulates clusters: many seeds for a while, or one seed event by event.
//!
//! ```text
//! ostler-sim run --seeds 1000 --from 0 --seconds 60   prints JSON: seeds, events, coverage, violations
//! ostler-sim replay SEED --to EVENT --last 200        prints the events that lead there
//! ostler-sim minimise SEED > world.json               the smallest world found in which the same rule is broken
//! ostler-sim replay --world world.json                the same of that one
//! ```
//!
//! `--witnesses` adds witnesses to every world; in `--liars` as many arbiters and witnesses lie as the trust document bears; `--hosts N` makes worlds of so many. `--real-ledgers` gives every host the agents' own ledger, on a disk that fails.
//! `--mutant NAME` breaks a rule on purpose in either. What a seed means is `tests::sim`'s.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tests::sim::coverage::Coverage;
use tests::sim::minimal::{Minimal, minimise};
use tests::sim::verdict::{Verdict, run};
use tests::sim::{Mutant, Profile, World, simulate_on_real_ledgers, simulate_world};
use transport::Clock;

/// Traces are long; this many lines before the end tell what led to it.
const LAST_DEFAULT: usize = 400;

/// Seeds for each kind of world that is smaller.
const TRIES_DEFAULT: u64 = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = Options(&arguments);
    match arguments.first().map(String::as_str) {
        Some("run") => run_many(&options),
        Some("replay") => replay(&options),
        Some("minimise") => minimise_one(&options),
        _ => {
            eprintln!(
                "usage: ostler-sim run [--seeds N] [--from SEED] [--seconds S] [--threads N] [--first] [--mutant NAME | --real-ledgers] [--witnesses | --liars | --hosts N]"
            );
            eprintln!(
                "       ostler-sim replay SEED|--world FILE [--to EVENT] [--last LINES] [--mutant NAME] [--witnesses | --liars]"
            );
            eprintln!(
                "       ostler-sim minimise SEED [--tries N] [--mutant NAME] [--witnesses | --liars]"
            );
            ExitCode::from(2)
        }
    }
}

struct Options<'a>(&'a [String]);

impl Options<'_> {
    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The world of a seed, or of a file that `minimise` has written.
    fn profile(&self) -> Result<Profile, String> {
        if let Some(path) = self.text("--world") {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            return serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"));
        }
        let seed = self.0.get(1).and_then(|seed| seed.parse().ok()).ok_or("a seed is needed")?;
        Ok(self.world_of(seed))
    }

    fn world_of(&self, seed: u64) -> Profile {
        let hosts = self.number("--hosts").and_then(|hosts| usize::try_from(hosts).ok());
        match (self.has("--witnesses"), self.has("--liars"), hosts) {
            (true, ..) => Profile::of_witnesses(seed),
            (_, true, _) => Profile::of_liars(seed),
            (.., Some(hosts)) => Profile::of_many(seed, hosts),
            _ => Profile::of_seed(seed),
        }
    }

    /// As its name is written in code.
    fn mutant(&self) -> Option<Mutant> {
        let name = self.text("--mutant")?;
        Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

fn run_many(options: &Options<'_>) -> ExitCode {
    let from = options.number("--from").unwrap_or(0);
    let seconds = options.number("--seconds");
    let seeds = options.number("--seeds").unwrap_or(if seconds.is_some() { u64::MAX } else { 100 });
    let clock = Clock::real();
    let begun_ms = clock.now().mono_ms;
    let next = AtomicU64::new(0);
    let total = Mutex::new((0_u64, 0_u64, Coverage::default(), Vec::new()));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let passed_s = (clock.now().mono_ms - begun_ms) / 1000;
            let is_enough = options.has("--first")
                && !total.lock().expect("no holder of this lock panics").3.is_empty();
            if is_enough || i >= seeds || seconds.is_some_and(|seconds| passed_s >= seconds) {
                return;
            }
            let seed = from.wrapping_add(i);
            let verdict = match options.has("--real-ledgers") {
                true => simulate_on_real_ledgers(seed),
                false => simulate_world(options.world_of(seed), options.mutant()),
            };
            let mut total = total.lock().expect("no holder of this lock panics");
            total.0 += 1;
            total.1 += verdict.events;
            total.2.add(&verdict.coverage);
            if verdict.violation.is_some() {
                total.3.push(verdict);
            }
        }
    };
    let threads = options.number("--threads").unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (seeds, events, coverage, violations) =
        total.into_inner().expect("no holder of this lock panics");
    let took_ms = (clock.now().mono_ms - begun_ms).max(1);
    let shown: Vec<_> = violations.iter().map(show).collect();
    let counts: serde_json::Map<String, serde_json::Value> =
        coverage.all().map(|(what, count)| (what.to_owned(), json!(count))).collect();
    let report = json!({
        "sources": sources(),
        "seeds": seeds,
        "events": events,
        "seconds": took_ms / 1000,
        "events_per_second": events * 1000 / took_ms,
        "missing": coverage.missing(),
        "coverage": counts,
        "violations": shown,
    });
    println!("{report:#}");
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The commit of the sources that this was built from, as they lie there now: a seed is the same world for the same commit only.
fn sources() -> Option<String> {
    let asked = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"];
    let told = std::process::Command::new("git").args(asked).output().ok()?;
    Some(String::from_utf8(told.stdout).ok()?.trim().to_owned()).filter(|name| !name.is_empty())
}

fn show(verdict: &Verdict) -> serde_json::Value {
    let violation = verdict.violation.as_ref();
    json!({
        "seed": verdict.seed,
        "event": violation.map(|v| v.event),
        "simulated_seconds": verdict.seconds,
        "invariant": violation.map(|v| v.invariant),
        "what": violation.map(|v| v.what.clone()),
        "replay": format!(
            "cargo run --release -p tests --bin ostler-sim -- replay {} --to {}",
            verdict.seed,
            violation.map_or(0, |v| v.event)
        ),
    })
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("ostler-sim: {why}");
    ExitCode::from(2)
}

fn minimise_one(options: &Options<'_>) -> ExitCode {
    let profile = match options.profile() {
        Ok(profile) => profile,
        Err(why) => return refuse(&why),
    };
    let seeds = options.number("--tries").unwrap_or(TRIES_DEFAULT);
    let Some((least, tried)) = minimise(profile, options.mutant(), seeds) else {
        eprintln!("no rule is broken in this world");
        return ExitCode::SUCCESS;
    };
    let Minimal { profile, violation } = least;
    eprintln!("of {tried} worlds the smallest breaks {}: {}", violation.invariant, violation.what);
    println!("{}", json!(profile));
    ExitCode::FAILURE
}

fn replay(options: &Options<'_>) -> ExitCode {
    let profile = match options.profile() {
        Ok(profile) => profile,
        Err(why) => return refuse(&why),
    };
    let mut world = World::new(profile, options.mutant());
    if options.has("--real-ledgers") {
        world.use_real_ledgers();
    }
    world.trace = Some(Vec::new());
    world.stop_after = options.number("--to");
    println!("{:?}", world.profile);
    run(&mut world);
    let last = options.number("--last").map_or(LAST_DEFAULT, |n| usize::try_from(n).unwrap_or(0));
    let trace = world.trace.take().unwrap_or_default();
    for line in trace.iter().skip(trace.len().saturating_sub(last)) {
        println!("{line}");
    }
    match &world.violation {
        Some(violation) => {
            println!("{violation:?}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}
