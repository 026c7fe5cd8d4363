//! The room on many hosts, in a tree in which the best place for a size is looked up instead of searched for.
//!
//! Decides which host is the best by a policy: exactly the one that a look at all of them would find. Each
//! branch knows of all hosts below it the least and the most that is promised, the most that is free, which marks
//! there are, and the lowest lot. From that follows how good the best host below can be at most, and what
//! cannot be better than what was found is not opened.
//!
//! ```text
//!                        1  least 20 %, most 95 %, free up to 48 GiB, marks of all, lot 3
//!                   ┌────┴────┐
//!                   2         3          a change of one host is one path to the root
//!                 ┌─┴─┐     ┌─┴─┐
//!                 4   5     6   7        eight hosts each
//! ```
//!
//! What must hold: the bound of a branch is never worse than the rank of any host below that fits; a host
//! without marks is in no branch; the tree is what it would be if it were made anew from its rooms.

use std::cmp::Ordering;

use protocol::resources::Resources;

use crate::marks::Marks;
use crate::policy::{Placement, millionths};
use crate::shards::foreign_rank;

/// Hosts of one leaf: fewer make the tree high, more make each look at a leaf long.
const LEAF: usize = 8;

/// How good a place is: the rank by the policy, then the host's lot. The lower the better.
pub type Key = (u32, u64);

/// One host's room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// What it has.
    pub capacity: Resources,
    /// What it has promised.
    pub allocation: Resources,
    /// Decides among hosts that are equally good.
    pub lot: u64,
    /// What else it has. A host without marks is not placed on.
    pub marks: Marks,
}

/// What a place is looked up for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// How much of everything.
    pub size: Resources,
    /// Which of those that have it.
    pub placement: Placement,
    /// All of these.
    pub marks: Marks,
    /// Whether hosts that others take first come later.
    pub is_sharded: bool,
}

impl Asked {
    /// How much later a host with these marks comes because others take it first.
    fn foreign_rank(&self, marks: Marks) -> u32 {
        let is_foreign = self.is_sharded && !marks.have(Marks::OWN);
        if is_foreign { foreign_rank(self.placement) } else { 0 }
    }
}

/// Every host's room, by a number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rooms {
    rooms: Vec<Room>,
    /// The root is 1, the children of `i` are `2i` and `2i + 1`, and leaves begin at `leaves`.
    branches: Vec<Branch>,
    leaves: usize,
}

impl Rooms {
    /// Puts a host's room in place of what was known.
    pub fn put(&mut self, at: u32, room: Room) {
        let at = at as usize;
        if at >= self.rooms.len() {
            self.rooms.resize(at + 1, Room::default());
        }
        self.rooms[at] = room;
        let leaf = at / LEAF;
        if leaf >= self.leaves {
            return self.grow();
        }
        let mut i = self.leaves + leaf;
        let mut branch = self.leaf(leaf);
        // What is as it was below is so above.
        while self.branches[i] != branch {
            self.branches[i] = branch;
            i /= 2;
            if i == 0 {
                return;
            }
            branch = self.branches[2 * i].join(&self.branches[2 * i + 1]);
        }
    }

    /// What is known of a host.
    #[must_use]
    pub fn get(&self, at: u32) -> Room {
        self.rooms.get(at as usize).copied().unwrap_or_default()
    }

    fn grow(&mut self) {
        self.leaves = self.rooms.len().div_ceil(LEAF).next_power_of_two();
        self.branches = vec![Branch::EMPTY; 2 * self.leaves];
        for leaf in 0..self.leaves {
            self.branches[self.leaves + leaf] = self.leaf(leaf);
        }
        for i in (1..self.leaves).rev() {
            self.branches[i] = self.branches[2 * i].join(&self.branches[2 * i + 1]);
        }
    }

    fn leaf(&self, leaf: usize) -> Branch {
        let rooms = self.rooms.iter().skip(leaf * LEAF).take(LEAF);
        rooms.fold(Branch::EMPTY, |branch, room| branch.join(&Branch::of(room)))
    }

    /// The best host that `is_fit` lets be, of those that come after `beyond`.
    pub fn best(
        &self,
        asked: &Asked,
        beyond: Option<Key>,
        is_fit: &mut dyn FnMut(u32) -> bool,
    ) -> Option<(Key, u32)> {
        let root = self.branches.get(1)?;
        let mut look = Look { asked, beyond, is_fit, best: None };
        if let Some(bound) = root.bound(asked) {
            self.descend(1, bound, &mut look);
        }
        look.best
    }

    /// The same by a look at each host: what the tree is tested and measured against.
    pub fn best_of_all(
        &self,
        asked: &Asked,
        beyond: Option<Key>,
        is_fit: &mut dyn FnMut(u32) -> bool,
    ) -> Option<(Key, u32)> {
        let mut look = Look { asked, beyond, is_fit, best: None };
        self.look_at(0, self.rooms.len(), &mut look);
        look.best
    }

    fn descend(&self, i: usize, bound: Key, look: &mut Look<'_>) {
        if !look.may_be_better(bound) {
            return;
        }
        if i >= self.leaves {
            let first = (i - self.leaves) * LEAF;
            return self.look_at(first, (first + LEAF).min(self.rooms.len()), look);
        }
        let bound_of = |i: usize| self.branches[i].bound(look.asked).map(|bound| (bound, i));
        match (bound_of(2 * i), bound_of(2 * i + 1)) {
            (Some(left), Some(right)) => {
                let (first, second) = if left <= right { (left, right) } else { (right, left) };
                self.descend(first.1, first.0, look);
                self.descend(second.1, second.0, look);
            }
            (Some((bound, i)), None) | (None, Some((bound, i))) => self.descend(i, bound, look),
            (None, None) => {}
        }
    }

    fn look_at(&self, from: usize, to: usize, look: &mut Look<'_>) {
        for (at, room) in self.rooms[from..to].iter().enumerate() {
            if let Some(key) = room.key(look.asked)
                && look.beyond.is_none_or(|beyond| key > beyond)
                && look.may_be_better(key)
            {
                let at = u32::try_from(from + at).unwrap_or(u32::MAX);
                if (look.is_fit)(at) {
                    look.best = Some((key, at));
                }
            }
        }
    }
}

/// One look-up on its way.
struct Look<'l> {
    asked: &'l Asked,
    beyond: Option<Key>,
    is_fit: &'l mut dyn FnMut(u32) -> bool,
    best: Option<(Key, u32)>,
}

impl Look<'_> {
    fn may_be_better(&self, key: Key) -> bool {
        self.best.is_none_or(|(best, _)| key.cmp(&best) == Ordering::Less)
    }
}

impl Room {
    /// How good this host is; `None` when it has not what is asked for.
    fn key(&self, asked: &Asked) -> Option<Key> {
        let is_so = !self.marks.is_none() && self.marks.have(asked.marks);
        if !is_so || !asked.size.fits_in(self.capacity.minus(self.allocation)) {
            return None;
        }
        let rank = asked.placement.rank(self.allocation.plus(asked.size), self.capacity);
        Some((rank.saturating_add(asked.foreign_rank(self.marks)), self.lot))
    }
}

/// CPUs, memory, disk.
type Three<T> = [T; 3];

fn three(of: Resources) -> Three<u64> {
    [u64::from(of.vcpus), of.memory_bytes, of.disk_bytes]
}

/// What is known of all hosts below.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Branch {
    marks: Marks,
    lot_min: u64,
    free_max: Three<u64>,
    /// What is promised, in millionths of each host's capacity.
    share_min: Three<u32>,
    share_max: Three<u32>,
    /// Millionths that one unit is of the largest capacity, and of the smallest.
    unit_min: Three<f64>,
    unit_max: Three<f64>,
}

impl Branch {
    const EMPTY: Self = Self {
        marks: Marks::NONE,
        lot_min: u64::MAX,
        free_max: [0; 3],
        share_min: [u32::MAX; 3],
        share_max: [0; 3],
        unit_min: [f64::INFINITY; 3],
        unit_max: [0.0; 3],
    };

    fn of(room: &Room) -> Self {
        if room.marks.is_none() {
            return Self::EMPTY;
        }
        let (capacity, allocation) = (three(room.capacity), three(room.allocation));
        let shares = [0, 1, 2].map(|n: usize| share(allocation[n], capacity[n]));
        let units = capacity.map(unit);
        Self {
            marks: room.marks,
            lot_min: room.lot,
            free_max: three(room.capacity.minus(room.allocation)),
            share_min: shares,
            share_max: shares,
            unit_min: units,
            unit_max: units,
        }
    }

    fn join(&self, other: &Self) -> Self {
        let mut both = *self;
        both.marks = self.marks.and(other.marks);
        both.lot_min = self.lot_min.min(other.lot_min);
        for n in 0..3 {
            both.free_max[n] = both.free_max[n].max(other.free_max[n]);
            both.share_min[n] = both.share_min[n].min(other.share_min[n]);
            both.share_max[n] = both.share_max[n].max(other.share_max[n]);
            both.unit_min[n] = both.unit_min[n].min(other.unit_min[n]);
            both.unit_max[n] = both.unit_max[n].max(other.unit_max[n]);
        }
        both
    }

    /// The best key that a host below may have; `None` when none of them will do.
    fn bound(&self, asked: &Asked) -> Option<Key> {
        let size = three(asked.size);
        let fits = size.iter().zip(self.free_max).all(|(size, free)| *size <= free);
        if !fits || self.marks.is_none() || !self.marks.have(asked.marks) {
            return None;
        }
        let low =
            |n: usize| self.share_min[n].saturating_add(rounded_down(size[n], self.unit_min[n]));
        let high =
            |n: usize| self.share_max[n].saturating_add(rounded_up(size[n], self.unit_max[n]));
        let (cpus, memory, disk) = (low(0), low(1), low(2));
        let crowding = cpus.max(memory).max(disk);
        let rank = match asked.placement {
            Placement::Spread => crowding,
            Placement::Pack => 1_000_000_u32.saturating_sub(high(0).max(high(1)).max(high(2))),
            Placement::Balance => {
                let apart = cpus.saturating_sub(high(1)).max(memory.saturating_sub(high(0)));
                (apart / 1000).saturating_mul(1001).saturating_add(crowding / 1000)
            }
        };
        Some((rank.saturating_add(asked.foreign_rank(self.marks)), self.lot_min))
    }
}

fn share(part: u64, whole: u64) -> u32 {
    u32::try_from(millionths(part, whole)).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "bounds leave room for what is rounded")]
fn unit(capacity: u64) -> f64 {
    // Of nothing, more than nothing is all.
    if capacity == 0 { 1e6 } else { 1e6 / capacity as f64 }
}

/// Millionths, never too many. The share is rounded as well, so two less.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast that saturates, of a number that is not negative"
)]
fn rounded_down(size: u64, unit: f64) -> u32 {
    if size == 0 { 0 } else { ((size as f64 * unit) as u32).saturating_sub(2) }
}

/// Millionths, never too few.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast that saturates, of a number that is not negative"
)]
fn rounded_up(size: u64, unit: f64) -> u32 {
    if size == 0 { 0 } else { ((size as f64 * unit) as u32).saturating_add(2) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amounts() -> impl Strategy<Value = Resources> {
        let bytes = || prop_oneof![Just(0), 0..20_u64, 0..(20_u64 << 30)];
        (0..20_u32, bytes(), bytes()).prop_map(|(vcpus, memory_bytes, disk_bytes)| Resources {
            vcpus,
            memory_bytes,
            disk_bytes,
        })
    }

    fn marks() -> impl Strategy<Value = Marks> {
        (0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(heard, own, receives)| {
            let heard = [Marks::NONE, Marks::FRESH, Marks::STALE][usize::from(heard)];
            let more = [(own, Marks::OWN), (receives, Marks::RECEIVES)];
            let more = more.into_iter().filter(|(is_so, _)| *is_so && !heard.is_none());
            more.fold(heard, |marks, (_, mark)| marks.and(mark))
        })
    }

    fn room() -> impl Strategy<Value = Room> {
        // Few lots and few sizes, so that many hosts are equally good.
        (amounts(), amounts(), 0..6_u64, marks()).prop_map(|(capacity, allocation, lot, marks)| {
            Room { capacity, allocation, lot, marks }
        })
    }

    fn asked() -> impl Strategy<Value = Asked> {
        let placement = vec![Placement::Spread, Placement::Pack, Placement::Balance];
        (amounts(), prop::sample::select(placement), marks(), any::<bool>()).prop_map(
            |(size, placement, marks, is_sharded)| Asked { size, placement, marks, is_sharded },
        )
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_look_at_all_finds_and_goes_on_from_there(
            rooms in prop::collection::vec(room(), 1..60),
            changes in prop::collection::vec((any::<prop::sample::Index>(), room(), asked()), 1..40),
        ) {
            let mut tree = Rooms::default();
            for (at, room) in (0..).zip(&rooms) {
                tree.put(at, *room);
            }
            for (index, room, asked) in changes {
                tree.put(u32::try_from(index.index(rooms.len())).unwrap(), room);
                let mut beyond = None;
                loop {
                    let is_fit = |at: u32| !at.is_multiple_of(5);
                    let found = tree.best(&asked, beyond, &mut { is_fit });
                    let scanned = tree.best_of_all(&asked, beyond, &mut { is_fit });
                    prop_assert_eq!(found.map(|(key, _)| key), scanned.map(|(key, _)| key));
                    match found {
                        Some((key, _)) => beyond = Some(key),
                        None => break,
                    }
                }
            }
            let mut anew = Rooms::default();
            for (at, room) in (0..).zip(&tree.rooms) {
                anew.put(at, *room);
            }
            prop_assert_eq!(anew, tree);
        }
    }
}
