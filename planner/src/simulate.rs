//! A trace of VMs that come and go, replayed on a fleet: what a placement policy, moves to make room
//! and consolidation are worth.
//!
//! Decides which VMs are moved so that one fits, which host is emptied next, and that a host is switched on
//! only when no other has room. One with more VMs than may be moved now is emptied over several rounds, and
//! takes none meanwhile. Moves take no time here: the figures are upper marks for what moves can bring.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::fleet::{Demand, Fit, Fleet, Place};

/// Hosts tried for making room, nearest to fitting first.
const ROOM_HOSTS_MAX: usize = 24;
/// Seconds between two rounds of consolidation: what has become possible is done soon.
const ROUND_S: f64 = 360.0;
/// Seconds in which no more VMs are moved to empty hosts than there may be.
const BUDGET_S: f64 = 3600.0;

/// One VM of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visit {
    /// When it comes, in seconds.
    pub at_s: f64,
    /// When it goes.
    pub until_s: f64,
    /// What it takes.
    pub demand: Demand,
}

/// How to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The fit.
    pub fit: Fit,
    /// Other VMs that may be moved so that one fits.
    pub moves_max: u32,
    /// Moves to empty hosts, in any hour. With none, hosts are never off.
    pub consolidation_max: u32,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// VMs in the trace.
    pub vms: u64,
    /// VMs that found no place.
    pub refused: u64,
    /// Their share of all core-seconds.
    pub refused_core_seconds: f64,
    /// The most hosts with VMs at a time.
    pub hosts_used_max: u64,
    /// Hours that hosts had VMs, summed over hosts.
    pub host_hours: f64,
    /// How often an empty host got a VM.
    pub power_cycles: u64,
    /// VMs moved to make room or to consolidate.
    pub migrations: u64,
}

/// Replays a trace, which is in the order of arrival.
#[must_use]
pub fn simulate(fleet: Fleet, trace: &[Visit], rules: Rules) -> Figures {
    let hosts = fleet.len();
    let mut run = Replay {
        fleet,
        trace,
        rules,
        places: BTreeMap::new(),
        on: vec![Vec::new(); hosts],
        busy: 0,
        now_s: trace.first().map_or(0.0, |visit| visit.at_s),
        spent: VecDeque::new(),
        emptying: None,
        figures: Figures::default(),
    };
    if rules.consolidation_max > 0 {
        run.hosts().for_each(|host| run.fleet.set_open(host, false));
    }
    // Departures by time; whole microseconds, as floats have no order.
    let mut departures: BTreeMap<(u64, usize), ()> = BTreeMap::new();
    let mut next_s = run.now_s + ROUND_S;
    let (mut asked, mut refused) = (0.0, 0.0);
    for (i, visit) in trace.iter().enumerate() {
        let due = micros(visit.at_s);
        while let Some(((at, _), ())) = departures.first_key_value() {
            if *at > due && next_s > visit.at_s {
                break;
            }
            let at = *at;
            // A round comes in between when its time does.
            if next_s <= seconds(at) && next_s <= visit.at_s {
                run.pass(next_s);
                run.consolidate();
                next_s += ROUND_S;
                continue;
            }
            if at > due {
                break;
            }
            if let Some(((at, gone), ())) = departures.pop_first() {
                run.pass(seconds(at));
                run.leave(gone);
            }
        }
        run.pass(visit.at_s);
        run.figures.vms += 1;
        let core_seconds = f64::from(visit.demand.half_cpus) / 2.0 * (visit.until_s - visit.at_s);
        asked += core_seconds;
        if run.arrive(i) {
            departures.insert((micros(visit.until_s), i), ());
        } else {
            run.figures.refused += 1;
            refused += core_seconds;
        }
    }
    while let Some(((at, gone), ())) = departures.pop_first() {
        while run.rules.consolidation_max > 0 && next_s <= seconds(at) {
            run.pass(next_s);
            run.consolidate();
            next_s += ROUND_S;
        }
        run.pass(seconds(at));
        run.leave(gone);
    }
    run.figures.refused_core_seconds = if asked > 0.0 { refused / asked } else { 0.0 };
    run.figures
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are small")]
fn micros(at_s: f64) -> u64 {
    (at_s * 1e6) as u64
}

#[expect(clippy::cast_precision_loss, reason = "times are small")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

struct Replay<'a> {
    fleet: Fleet,
    trace: &'a [Visit],
    rules: Rules,
    places: BTreeMap<usize, Place>,
    on: Vec<Vec<usize>>,
    busy: u64,
    now_s: f64,
    /// When VMs were moved to empty hosts in the last hour, and how many.
    spent: VecDeque<(f64, usize)>,
    /// The host that is being emptied over several rounds. It is closed, as those are that are off.
    emptying: Option<u32>,
    figures: Figures,
}

/// A VM that has been moved.
#[derive(Debug, Clone, Copy)]
struct Move {
    vm: usize,
    from: Place,
    to: Place,
}

impl Replay<'_> {
    fn hosts(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.on.len()).unwrap_or(u32::MAX)
    }

    fn is_consolidated(&self) -> bool {
        self.rules.consolidation_max > 0
    }

    #[expect(clippy::cast_precision_loss, reason = "few hosts")]
    fn pass(&mut self, at_s: f64) {
        self.figures.host_hours += self.busy as f64 * (at_s - self.now_s).max(0.0) / 3600.0;
        self.now_s = self.now_s.max(at_s);
    }

    fn arrive(&mut self, vm: usize) -> bool {
        let demand = self.trace[vm].demand;
        let found = self.fleet.find(demand, self.rules.fit).or_else(|| self.open_for(demand));
        let place = found.or_else(|| (self.rules.moves_max > 0).then(|| self.make_room(demand))?);
        if let Some(place) = place {
            self.put(vm, place);
        }
        place.is_some()
    }

    /// Opens a host where nothing that is open has room: the one that is being emptied, else one that is off.
    fn open_for(&mut self, demand: Demand) -> Option<Place> {
        let is_off = |host: &u32| self.fleet.vms(*host) == 0;
        let off = self.hosts().filter(|host| self.is_consolidated() && is_off(host));
        let closed: Vec<u32> = self.emptying.into_iter().chain(off).collect();
        closed.into_iter().find_map(|host| {
            self.fleet.set_open(host, true);
            let found = self.fleet.find(demand, self.rules.fit);
            match found {
                Some(_) => self.emptying = self.emptying.filter(|emptying| *emptying != host),
                None => self.fleet.set_open(host, false),
            }
            found
        })
    }

    fn put(&mut self, vm: usize, place: Place) {
        if self.fleet.vms(place.host) == 0 {
            self.busy += 1;
            self.figures.power_cycles += 1;
            self.figures.hosts_used_max = self.figures.hosts_used_max.max(self.busy);
        }
        self.fleet.take(place, self.trace[vm].demand);
        self.on[place.host as usize].push(vm);
        self.places.insert(vm, place);
    }

    fn leave(&mut self, vm: usize) -> Option<Place> {
        let place = self.places.remove(&vm)?;
        self.fleet.release(place, self.trace[vm].demand);
        self.on[place.host as usize].retain(|other| *other != vm);
        if self.fleet.vms(place.host) == 0 {
            self.busy -= 1;
            if self.is_consolidated() {
                self.fleet.set_open(place.host, false);
                self.emptying = self.emptying.filter(|host| *host != place.host);
            }
        }
        Some(place)
    }

    /// Moves few VMs away from a host so that a demand fits there.
    fn make_room(&mut self, demand: Demand) -> Option<Place> {
        let nodes: &[Option<u8>] = if demand.is_split { &[None] } else { &[Some(0), Some(1)] };
        let mut near: Vec<(u32, Place)> = Vec::new();
        for host in self.hosts().filter(|host| self.fleet.admits_labels(*host, demand)) {
            for node in nodes {
                let lacking = self.fleet.lacking(host, demand, *node);
                let sum = lacking.iter().map(|(cpus, mib)| cpus * 1024 + mib).sum();
                near.push((sum, Place { host, node: *node }));
            }
        }
        near.sort();
        near.truncate(ROOM_HOSTS_MAX);
        near.into_iter().find_map(|(_, place)| self.clear(place, demand).then_some(place))
    }

    fn clear(&mut self, target: Place, demand: Demand) -> bool {
        let mut moved: Vec<(usize, Place)> = Vec::new();
        self.fleet.set_open(target.host, false);
        for _ in 0..self.rules.moves_max {
            let lacking = self.fleet.lacking(target.host, demand, target.node);
            if lacking == [(0, 0); 2] {
                break;
            }
            let Some((vm, place)) = self.next_to_move(target, lacking) else { break };
            let from = self.places[&vm];
            self.leave(vm);
            self.put(vm, place);
            moved.push((vm, from));
        }
        let is_clear = self.fleet.lacking(target.host, demand, target.node) == [(0, 0); 2];
        if is_clear {
            self.figures.migrations += moved.len() as u64;
        } else {
            for (vm, from) in moved.into_iter().rev() {
                self.leave(vm);
                self.put(vm, from);
            }
        }
        self.fleet.set_open(target.host, true);
        is_clear
    }

    /// The smallest VM that frees enough by itself, else the one that frees most.
    fn next_to_move(&self, target: Place, lacking: [(u32, u32); 2]) -> Option<(usize, Place)> {
        let useful = |vm: usize| {
            let demand = self.trace[vm].demand;
            let (place, share) = (self.places[&vm], if demand.is_split { 2 } else { 1 });
            let mut freed = 0;
            let mut is_enough = true;
            for (n, (cpus, mib)) in lacking.iter().enumerate() {
                let is_here = place.node.is_none_or(|node| usize::from(node) == n);
                let (c, m) = if is_here {
                    (demand.half_cpus / share, demand.memory_mib / share)
                } else {
                    (0, 0)
                };
                freed += c.min(*cpus) * 1024 + m.min(*mib);
                is_enough &= c >= *cpus && m >= *mib;
            }
            (is_enough, freed, demand.half_cpus * 1024 + demand.memory_mib)
        };
        let mut vms: Vec<_> = self.on[target.host as usize]
            .iter()
            .map(|vm| (useful(*vm), *vm))
            .filter(|((_, freed, _), _)| *freed > 0)
            .collect();
        vms.sort_by_key(|((is_enough, freed, size), vm)| {
            let order = if *is_enough { *size } else { u32::MAX - *freed };
            (!*is_enough, order, *vm)
        });
        vms.into_iter()
            .find_map(|(_, vm)| Some((vm, self.fleet.find(self.trace[vm].demand, Fit::Best)?)))
    }

    /// Empties the hosts with the least on them into the other busy ones as far as the budget goes, and the next
    /// one in part: it takes no VMs until the next round, so that it is emptied in the end.
    fn consolidate(&mut self) {
        if !self.is_consolidated() {
            return;
        }
        while self.spent.front().is_some_and(|(at_s, _)| self.now_s - at_s >= BUDGET_S) {
            self.spent.pop_front();
        }
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        let budget = (self.rules.consolidation_max as usize).saturating_sub(spent);
        let mut left = budget;
        if let Some(host) = self.emptying.take() {
            self.fleet.set_open(host, true);
        }
        let busy = self.hosts().filter(|host| self.fleet.vms(*host) > 0);
        let mut busy: Vec<_> = busy.map(|host| (self.on[host as usize].len(), host)).collect();
        busy.sort_unstable();
        for (count, host) in busy {
            // A host that took VMs of another in this round is not emptied in it.
            if self.on[host as usize].len() != count {
                continue;
            }
            self.fleet.set_open(host, false);
            let before = self.figures.clone();
            let Some(moves) = self.empty(host) else {
                self.fleet.set_open(host, true);
                continue;
            };
            if count > left {
                self.undo(&moves);
                // It never was empty.
                self.figures = before;
                self.empty_in_part(moves, left);
                self.emptying = Some(host);
                left = 0;
                break;
            }
            left -= count;
        }
        let moved = budget - left;
        self.figures.migrations += moved as u64;
        self.spent.push_back((self.now_s, moved));
    }

    /// Moves everything away from a host; `None` when it has not all found a place, and all is as it was.
    fn empty(&mut self, host: u32) -> Option<Vec<Move>> {
        let mut vms = self.on[host as usize].clone();
        vms.sort_by_key(|vm| Reverse((self.trace[*vm].demand.half_cpus, *vm)));
        let mut moves: Vec<Move> = Vec::new();
        for vm in vms {
            let Some(to) = self.fleet.find(self.trace[vm].demand, Fit::Best) else {
                self.undo(&moves);
                return None;
            };
            let from = self.places[&vm];
            self.carry(vm, to);
            moves.push(Move { vm, from, to });
        }
        Some(moves)
    }

    /// Moves some of those that all had a place: the oldest, as the young ones may soon go by themselves.
    fn empty_in_part(&mut self, mut moves: Vec<Move>, count: usize) {
        // They are numbered as they came.
        moves.sort_by_key(|step| step.vm);
        moves.truncate(count);
        moves.into_iter().for_each(|step| self.carry(step.vm, step.to));
    }

    fn undo(&mut self, moves: &[Move]) {
        moves.iter().rev().for_each(|step| self.carry(step.vm, step.from));
    }

    fn carry(&mut self, vm: usize, to: Place) {
        self.leave(vm);
        self.put(vm, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(at_s: f64, until_s: f64, half_cpus: u32) -> Visit {
        let demand = Demand { half_cpus, memory_mib: half_cpus, is_split: false, labels: 0 };
        Visit { at_s, until_s, demand }
    }

    fn fleet(count: u32) -> Fleet {
        let mut fleet = Fleet::default();
        for _ in 0..count {
            fleet.add(8, 8, 0);
        }
        fleet
    }

    #[test]
    fn what_does_not_fit_is_refused_and_weighed_by_its_core_seconds() {
        let trace = [visit(0.0, 10.0, 8), visit(0.0, 10.0, 8), visit(1.0, 31.0, 8)];
        let rules = Rules { fit: Fit::First, moves_max: 0, consolidation_max: 0 };
        let figures = simulate(fleet(1), &trace, rules);
        assert_eq!((figures.vms, figures.refused), (3, 1));
        assert!((figures.refused_core_seconds - 0.6).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn a_move_makes_room() {
        let none = Rules { fit: Fit::Worst, moves_max: 0, consolidation_max: 0 };
        // Worst fit puts one on each of the four nodes; the large one then fits nowhere.
        let mut trace: Vec<Visit> = (0..4).map(|_| visit(0.0, 36_000.0, 2)).collect();
        trace.push(visit(1.0, 36_000.0, 8));
        assert_eq!(simulate(fleet(2), &trace, none).refused, 1);
        let one = Rules { moves_max: 1, ..none };
        let figures = simulate(fleet(2), &trace, one);
        assert_eq!((figures.refused, figures.migrations), (0, 1));
    }

    #[test]
    fn hosts_are_emptied_in_rounds_with_a_budget_for_any_hour() {
        // Two hosts: three VMs stay on the first and three on the second, which were full until 10 s.
        let short = || [2, 8].map(|half_cpus| visit(0.0, 10.0, half_cpus));
        let long = || (0..3).map(|_| visit(0.0, 36_000.0, 2));
        let trace: Vec<Visit> = long().chain(short()).chain(long()).collect();
        let of = |consolidation_max| {
            let rules = Rules { fit: Fit::First, moves_max: 0, consolidation_max };
            let figures = simulate(fleet(2), &trace, rules);
            assert_eq!((figures.refused, figures.hosts_used_max), (0, 2), "{figures:?}");
            assert_eq!(figures.power_cycles, 2, "{figures:?}");
            (figures.migrations, (figures.host_hours * 10.0).round() / 10.0)
        };
        assert_eq!(of(0), (0, 20.0));
        assert_eq!(of(10), (3, 10.1), "in the first round");
        assert_eq!(of(2), (3, 11.1), "two at once, and one an hour later");
        assert_eq!(of(1), (3, 12.1));
    }

    #[test]
    fn a_host_is_switched_on_only_when_no_other_has_room() {
        let rules = Rules { fit: Fit::Worst, moves_max: 0, consolidation_max: 10 };
        let trace: Vec<Visit> = (0..4).map(|_| visit(0.0, 3_600.0, 4)).collect();
        assert_eq!(simulate(fleet(3), &trace, rules).hosts_used_max, 1);
        let trace: Vec<Visit> = (0..5).map(|_| visit(0.0, 3_600.0, 4)).collect();
        assert_eq!(simulate(fleet(3), &trace, rules).hosts_used_max, 2);
    }
}
