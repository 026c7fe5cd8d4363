//! The room on many hosts, in a tree in which the best place for a size is looked up instead of searched for.
//!
//! Decides which host is the best by a policy: exactly the one that a look at all of them would find. Each
//! branch knows of all hosts below it the least and the most that is promised, the most that is free, which marks
//! there are, and the lowest lot. From that follows how good the best host below can be at most, and what
//! cannot be better than what was found is not opened.
//!
//! Hosts with the same marks are kept together, and of these hosts that are about as crowded. Where full hosts and
//! empty ones are below one branch, the full ones promise a good place to who packs, the empty ones room for it, and
//! others the marks, and there is no such host.
//!
//! ```text
//!      x86_64, ssd              x86_64, hdd             a kind each, by marks that tell many hosts apart
//!           1                        1                  every branch: least 20 %, most 95 %, free up to 48 GiB,
//!      ┌────┴────┐              ┌────┴────┐                           marks, lot 3
//!      2         3              2         3
//!    ┌─┴─┐     ┌─┴─┐          ┌─┴─┐     ┌─┴─┐           a change of one host is one path to the root, or two
//!    4   5     6   7          4   5     6   7           a band each: 0 to 24 % promised, … (really many more)
//!   ┌┴┐ ┌┴┐   ┌┴┐ ┌┴┐        ┌┴┐ ┌┴┐   ┌┴┐ ┌┴┐          within a band, eight hosts at the end of a branch
//! ```
//!
//! What must hold: the bound of a branch is never worse than the rank of any host below that fits; a host
//! without marks is in no band, every other in the one it belongs to; every branch is what it would be if it were
//! made anew from what is below.

mod band;

mod branch;

mod kind;

mod telling;

use std::cmp::Ordering;

use protocol::resources::Resources;

use self::band::Slot;
use self::branch::Branch;
use self::kind::{Kind, band_of};
use self::telling::{KINDS_MAX, telling};
use crate::marks::Marks;
use crate::policy::Placement;
use crate::shards::foreign_rank;

/// Changes of rooms after which it is asked anew which marks tell hosts apart: as many as make up for the asking.
const CHANGES_MIN: usize = 1024;

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

/// Where a host's room is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    kind: usize,
    band: usize,
    slot: usize,
}

/// Every host's room, by a number.
#[derive(Debug, Clone, Default)]
pub struct Rooms {
    rooms: Vec<Room>,
    /// Where each of them is; those without marks are nowhere.
    places: Vec<Option<Place>>,
    /// By which marks kinds are told apart.
    telling: Marks,
    /// What hosts of each kind have of these. The first takes hosts of kinds that are too many.
    kinds: Vec<(Marks, Kind)>,
    /// Until it is asked anew which marks tell hosts apart.
    changes_left: usize,
}

impl PartialEq for Rooms {
    /// The same rooms: where each is kept follows from them, but for the order in a band.
    fn eq(&self, other: &Self) -> bool {
        self.rooms == other.rooms
    }
}

impl Rooms {
    /// Puts a host's room in place of what was known.
    pub fn put(&mut self, at: u32, room: Room) {
        let number = at as usize;
        if number >= self.rooms.len() {
            self.rooms.resize(number + 1, Room::default());
            self.places.resize(number + 1, None);
        }
        self.rooms[number] = room;
        if self.changes_left == 0 {
            self.changes_left = (4 * self.rooms.len()).max(CHANGES_MIN);
            let telling = telling(&self.rooms);
            if telling != self.telling {
                return self.rebuild(telling);
            }
        }
        self.changes_left -= 1;
        self.place(at);
    }

    /// Keeps a host's room where it belongs.
    fn place(&mut self, at: u32) {
        let room = self.rooms[at as usize];
        let before = self.places[at as usize];
        if room.marks.is_none() {
            self.places[at as usize] = None;
            return self.leave(before);
        }
        let (kind, band) = (self.kind_of(&room), band_of(&room));
        if let Some(place) = before.filter(|place| (place.kind, place.band) == (kind, band)) {
            return self.kinds[kind].1.set(band, place.slot, Slot::new(at, room));
        }
        self.leave(before);
        let slot = self.kinds[kind].1.push(band, Slot::new(at, room));
        self.places[at as usize] = Some(Place { kind, band, slot });
    }

    fn leave(&mut self, place: Option<Place>) {
        let Some(place) = place else { return };
        let Place { kind, band, slot } = place;
        if let Some(moved) = self.kinds[kind].1.remove(band, slot) {
            self.places[moved as usize] = Some(place);
        }
    }

    fn kind_of(&mut self, room: &Room) -> usize {
        let marks = room.marks.only(self.telling);
        let known = self.kinds.iter().position(|(of, _)| *of == marks);
        known.unwrap_or_else(|| {
            if self.kinds.len() == KINDS_MAX {
                return 0;
            }
            self.kinds.push((marks, Kind::new()));
            self.kinds.len() - 1
        })
    }

    fn rebuild(&mut self, telling: Marks) {
        self.telling = telling;
        self.kinds.clear();
        self.places.fill(None);
        for at in 0..u32::try_from(self.rooms.len()).unwrap_or(u32::MAX) {
            self.place(at);
        }
    }

    /// What is known of a host.
    #[must_use]
    pub fn get(&self, at: u32) -> Room {
        self.rooms.get(at as usize).copied().unwrap_or_default()
    }

    /// The best host that `is_fit` lets be, of those that come after `beyond`.
    pub fn best(
        &self,
        asked: &Asked,
        beyond: Option<Key>,
        is_fit: &mut dyn FnMut(u32) -> bool,
    ) -> Option<(Key, u32)> {
        let mut look = Look { asked, beyond, is_fit, best: None };
        let bounds = self.kinds.iter().enumerate();
        let bounds = bounds.filter_map(|(n, (_, kind))| Some((kind.root().bound(asked)?, n)));
        let mut bounds: Vec<(Key, usize)> = bounds.collect();
        bounds.sort_unstable();
        for (bound, n) in bounds {
            if look.may_be_better(bound) {
                self.kinds[n].1.look(&mut look);
            }
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
        for (at, room) in (0..).zip(&self.rooms) {
            look.at(at, room);
        }
        look.best
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
    /// Opens the branches of a tree, the most promising first, down to its leaves.
    fn descend(
        &mut self,
        branches: &[Branch],
        leaves: usize,
        open: &mut impl FnMut(usize, &mut Self),
    ) {
        if let Some(bound) = branches.get(1).and_then(|root| root.bound(self.asked)) {
            self.descend_from(1, bound, branches, leaves, open);
        }
    }

    fn descend_from(
        &mut self,
        i: usize,
        bound: Key,
        branches: &[Branch],
        leaves: usize,
        open: &mut impl FnMut(usize, &mut Self),
    ) {
        if !self.may_be_better(bound) {
            return;
        }
        if i >= leaves {
            return open(i - leaves, self);
        }
        let bound_of = |i: usize| branches[i].bound(self.asked).map(|bound| (bound, i));
        let (first, second) = match (bound_of(2 * i), bound_of(2 * i + 1)) {
            (Some(left), Some(right)) if right < left => (Some(right), Some(left)),
            (left, right) => (left, right),
        };
        for (bound, i) in first.into_iter().chain(second) {
            self.descend_from(i, bound, branches, leaves, open);
        }
    }

    fn at(&mut self, at: u32, room: &Room) {
        if let Some(key) = room.key(self.asked)
            && self.beyond.is_none_or(|beyond| key > beyond)
            && self.may_be_better(key)
            && (self.is_fit)(at)
        {
            self.best = Some((key, at));
        }
    }

    fn may_find_better(&self, branch: &Branch) -> bool {
        branch.bound(self.asked).is_some_and(|bound| self.may_be_better(bound))
    }

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

    /// What must hold of the tree, whatever has been put into it.
    fn is_sound(tree: &Rooms) -> bool {
        let is_placed = |(at, room): (usize, &Room)| match tree.places[at] {
            None => room.marks.is_none(),
            Some(Place { kind, band, slot }) => {
                let (marks, kind_here) = &tree.kinds[kind];
                let kept = &kind_here.bands()[band].slots()[slot];
                let is_of_kind = kind == 0 || *marks == room.marks.only(tree.telling);
                is_of_kind && band == band_of(room) && kept.at as usize == at && kept.room == *room
            }
        };
        let bands = tree.kinds.iter().flat_map(|(_, kind)| kind.bands());
        let kept: usize = bands.map(|band| band.slots().len()).sum();
        tree.rooms.iter().enumerate().all(is_placed)
            && kept == tree.places.iter().flatten().count()
            && tree.kinds.iter().all(|(_, kind)| kind.is_sound())
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
                // Otherwise it is asked only after many changes.
                tree.changes_left = tree.changes_left.min(7);
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
            prop_assert!(is_sound(&tree), "{tree:?}");
        }
    }
}
