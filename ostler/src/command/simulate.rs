//! `ostler simulate`: replays a trace of VMs on hosts with the planner's own placement.
//!
//! Reads `--fleet` (CSV: `host,vcpus,memory_mib[,labels]`; each host has two NUMA nodes that share
//! evenly) and `--trace` (CSV: `time,id,create|delete,vcpus,memory_mib[,labels]`, in seconds; a VM that
//! is never deleted stays to the end). `--format` reads what others publish. Labels are `k=v` words
//! with `;` between them: a VM goes only to hosts that have all of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use planner::fleet::{Demand, Fit, Fleet};
use planner::simulate::{Figures, Rules, Visit, simulate};
use serde_json::json;
use transport::Clock;

use crate::cli::Global;
use crate::exit::{Code, Failure};
use crate::show;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    /// The hosts: a CSV file, or COUNTxVCPUSxGIB such as 40x80x180
    #[arg(long, value_name = "FILE")]
    pub(crate) fleet: String,
    /// What comes and goes
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,
    /// How the trace is written
    #[arg(long, value_enum, default_value = "events")]
    pub(crate) format: Format,
    /// Which of the places that fit is taken
    #[arg(long, value_enum, default_value = "best-fit")]
    pub(crate) policy: Policy,
    /// Other VMs that may be moved so that one fits
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) moves: u32,
    /// Moves an hour to empty hosts
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) consolidate: u32,
    /// VMs with more memory than this take half of each NUMA node
    #[arg(long, default_value_t = 10, value_name = "GIB")]
    pub(crate) split_above: u32,
}

/// How a trace is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// `time,id,create|delete,vcpus,memory_mib[,labels]`
    Events,
    /// vmid,cpu,mem,at,lt: cores, GB, seconds, lifetime (Huawei-East-1)
    Lifetimes,
    /// "number capacity", then "index start end size" (temporal bin packing)
    Tbpp,
}

/// Built-in policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "what the field calls them")]
pub(crate) enum Policy {
    /// The lowest host that fits
    FirstFit,
    /// The tightest node that fits
    BestFit,
    /// The emptiest node
    WorstFit,
}

/// Labels as bits: there are as many as fit.
#[derive(Default)]
struct Labels(BTreeMap<String, u32>);

impl Labels {
    fn bits(&mut self, words: &str) -> Result<u64, Failure> {
        let mut bits = 0;
        for word in words.split(';').map(str::trim).filter(|word| !word.is_empty()) {
            let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
            let bit = *self.0.entry(word.to_owned()).or_insert(next);
            bits |= 1_u64.checked_shl(bit).ok_or_else(|| {
                Failure::new(Code::Refused, "more than 64 different labels are in the files")
            })?;
        }
        Ok(bits)
    }
}

pub(crate) fn run(global: &Global, args: &SimulateArgs) -> Result<Code, Failure> {
    let mut labels = Labels::default();
    let fleet = read_fleet(&args.fleet, &mut labels)?;
    let trace = read_trace(args, &mut labels)?;
    let fit = match args.policy {
        Policy::FirstFit => Fit::First,
        Policy::BestFit => Fit::Best,
        Policy::WorstFit => Fit::Worst,
    };
    let rules = Rules { fit, moves_max: args.moves, consolidation_max: args.consolidate };
    let hosts = fleet.len();
    let clock = Clock::real();
    let start_ms = clock.now().mono_ms;
    let figures = simulate(fleet, &trace, rules);
    let took_ms = clock.now().mono_ms.saturating_sub(start_ms).max(1);
    let per_second = figures.vms * 1000 / took_ms;
    if global.json {
        show::json(
            &json!({ "hosts": hosts, "figures": figures, "decisions_per_second": per_second }),
        );
    } else {
        tell(hosts, &figures, per_second);
    }
    Ok(Code::Ok)
}

fn tell(hosts: usize, figures: &Figures, per_second: u64) {
    let Figures { vms, refused, refused_core_seconds, .. } = figures;
    show::line(&format!("hosts               {hosts}, at most {} used", figures.hosts_used_max));
    show::line(&format!("VMs                 {vms}, {refused} refused"));
    show::line(&format!("refused core-time   {:.2} %", refused_core_seconds * 100.0));
    show::line(&format!("host-hours          {:.0}", figures.host_hours));
    show::line(&format!("power cycles        {}", figures.power_cycles));
    show::line(&format!("migrations          {}", figures.migrations));
    show::line(&format!("decisions a second  {per_second}"));
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::new(Code::NotFound, format!("read {}", file.display())).because(error)
    })
}

fn wrong(file: &str, line: usize, text: &str) -> Failure {
    Failure::new(Code::Refused, format!("{file}:{}: {text:?} is not of this format", line + 1))
        .next("see docs/planner.md for the formats")
}

fn read_fleet(hosts: &str, labels: &mut Labels) -> Result<Fleet, Failure> {
    let mut fleet = Fleet::default();
    let shape: Vec<Option<u32>> = hosts.split('x').map(|part| part.parse().ok()).collect();
    if let [Some(count), Some(vcpus), Some(gib)] = shape[..] {
        for _ in 0..count {
            fleet.add(vcpus, gib * 1024 / 2, 0);
        }
        return Ok(fleet);
    }
    for (n, line) in read(Path::new(hosts))?.lines().enumerate().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, vcpus, mib, rest @ ..] = cells.as_slice() else {
            return Err(wrong(hosts, n, line));
        };
        let (Ok(vcpus), Ok(mib)) = (vcpus.trim().parse::<u32>(), mib.trim().parse::<u32>()) else {
            return Err(wrong(hosts, n, line));
        };
        let bits = labels.bits(rest.first().copied().unwrap_or_default())?;
        // Half of the CPUs a node, counted in halves.
        fleet.add(vcpus, mib / 2, bits);
    }
    Ok(fleet)
}

fn read_trace(args: &SimulateArgs, labels: &mut Labels) -> Result<Vec<Visit>, Failure> {
    let name = args.trace.display().to_string();
    let text = read(&args.trace)?;
    let mut visits = match args.format {
        Format::Events => read_events(&name, &text, args, labels)?,
        Format::Lifetimes => read_numbers(
            &name,
            &text,
            ',',
            |n| match n {
                [_, cpu, gib, at, lifetime, ..] => Some((*at, at + lifetime, *cpu, gib * 1024.0)),
                _ => None,
            },
            args,
        )?,
        Format::Tbpp => {
            // One resource, as thousandths of a host's capacity, on hosts of 1000 vcpus.
            let first = text.lines().next().unwrap_or_default();
            let capacity: f64 = first
                .split_whitespace()
                .nth(1)
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| wrong(&name, 0, first))?;
            read_numbers(
                &name,
                &text,
                ' ',
                |n| match n {
                    [_, start, end, size, ..] => Some((*start, *end, size / capacity * 500.0, 0.0)),
                    _ => None,
                },
                args,
            )?
        }
    };
    visits.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    Ok(visits)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of VMs")]
fn demand(args: &SimulateArgs, vcpus: f64, mib: f64, labels: u64) -> Demand {
    let memory_mib = mib.max(0.0).ceil() as u32;
    let is_split = memory_mib > args.split_above * 1024;
    Demand { half_cpus: (vcpus * 2.0).max(0.0).ceil() as u32, memory_mib, is_split, labels }
}

fn read_numbers(
    name: &str,
    text: &str,
    between: char,
    of: impl Fn(&[f64]) -> Option<(f64, f64, f64, f64)>,
    args: &SimulateArgs,
) -> Result<Vec<Visit>, Failure> {
    let mut visits = Vec::new();
    for (n, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let cells = line.split([between, '\t']).filter(|cell| !cell.is_empty());
        let numbers: Option<Vec<f64>> = cells.map(|cell| cell.trim().parse().ok()).collect();
        let found = numbers.as_deref().and_then(&of);
        let (at_s, until_s, vcpus, mib) = found.ok_or_else(|| wrong(name, n, line))?;
        visits.push(Visit { at_s, until_s, demand: demand(args, vcpus, mib, 0) });
    }
    Ok(visits)
}

fn read_events(
    name: &str,
    text: &str,
    args: &SimulateArgs,
    labels: &mut Labels,
) -> Result<Vec<Visit>, Failure> {
    let mut visits: Vec<Visit> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut end_s: f64 = 0.0;
    for (n, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let [at, id, what, rest @ ..] = cells.as_slice() else { return Err(wrong(name, n, line)) };
        let at_s: f64 = at.parse().map_err(|_| wrong(name, n, line))?;
        end_s = end_s.max(at_s);
        match (*what, rest) {
            ("create", [vcpus, mib, rest @ ..]) => {
                let (Ok(vcpus), Ok(mib)) = (vcpus.parse::<f64>(), mib.parse::<f64>()) else {
                    return Err(wrong(name, n, line));
                };
                let bits = labels.bits(rest.first().copied().unwrap_or_default())?;
                open.insert(id, visits.len());
                let demand = demand(args, vcpus, mib, bits);
                visits.push(Visit { at_s, until_s: f64::INFINITY, demand });
            }
            ("delete", _) => {
                let visit = open.remove(id).ok_or_else(|| wrong(name, n, line))?;
                visits[visit].until_s = at_s;
            }
            _ => return Err(wrong(name, n, line)),
        }
    }
    for visit in &mut visits {
        visit.until_s = visit.until_s.min(end_s);
    }
    Ok(visits)
}
