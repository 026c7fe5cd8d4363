//! Hosts with the same marks, as far as those tell many hosts apart, kept by what is scarcest on them and how scarce
//! it is.
//!
//! Of two full hosts one has memory left and no CPU, the other CPUs and no memory: together they would promise
//! both.

use super::band::{Band, Slot};
use super::branch::{Branch, shares};
use super::{Look, Room};

/// How finely hosts are told apart by how crowded they are: with 80 CPUs a host, each number of free ones is
/// in a band of its own.
const SHARES: usize = 128;
/// CPUs, memory and disk may be what is scarcest; as a power of two, for the tree above.
const BANDS: usize = 4 * SHARES;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    /// By how crowded their hosts are.
    bands: Vec<Band>,
    /// Above the bands: the root is 1, the children of `i` are `2i` and `2i + 1`, and bands begin at [`BANDS`].
    top: Vec<Branch>,
}

impl Kind {
    pub(super) fn new() -> Self {
        Self { bands: vec![Band::default(); BANDS], top: vec![Branch::EMPTY; 2 * BANDS] }
    }

    /// What is known of all of them.
    pub(super) fn root(&self) -> &Branch {
        &self.top[1]
    }

    pub(super) fn set(&mut self, band: usize, slot: usize, to: Slot) {
        self.bands[band].set(slot, to);
        self.lift(band);
    }

    /// Adds a host; answers in which slot of its band.
    pub(super) fn push(&mut self, band: usize, slot: Slot) -> usize {
        let at = self.bands[band].push(slot);
        self.lift(band);
        at
    }

    /// Takes a host away; answers which host is in its slot now.
    pub(super) fn remove(&mut self, band: usize, slot: usize) -> Option<u32> {
        let moved = self.bands[band].remove(slot);
        self.lift(band);
        moved
    }

    /// Takes what has changed in a band to the root.
    fn lift(&mut self, band: usize) {
        let mut branch = self.bands[band].root();
        let mut i = BANDS + band;
        // What is as it was below is so above.
        while self.top[i] != branch {
            self.top[i] = branch;
            i /= 2;
            if i == 0 {
                return;
            }
            branch = self.top[2 * i].join(&self.top[2 * i + 1]);
        }
    }

    pub(super) fn look(&self, look: &mut Look<'_>) {
        look.descend(&self.top, BANDS, &mut |band, look| {
            let band = &self.bands[band];
            look.descend(band.branches(), band.leaves(), &mut |leaf, look| {
                for slot in band.leaf(leaf) {
                    // Cheaper than how good it is exactly.
                    if look.may_find_better(slot.branch()) {
                        look.at(slot.at, &slot.room);
                    }
                }
            });
        });
    }
}

/// In which band a host is: by what is scarcest on it, and the share of that.
pub(super) fn band_of(room: &Room) -> usize {
    let all = shares(room);
    let crowding = all.into_iter().max().unwrap_or(0);
    let scarcest = all.iter().position(|share| *share == crowding).unwrap_or(0);
    scarcest * SHARES + crowding.min(999_999) as usize * SHARES / 1_000_000
}

#[cfg(test)]
impl Kind {
    pub(super) fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// True when every branch is what it would be if it were made anew.
    pub(super) fn is_sound(&self) -> bool {
        let is_joined = |i: usize| self.top[i] == self.top[2 * i].join(&self.top[2 * i + 1]);
        let is_lifted = |(n, band): (usize, &Band)| self.top[BANDS + n] == band.root();
        self.bands.iter().all(Band::is_sound)
            && self.bands.iter().enumerate().all(is_lifted)
            && (1..BANDS).all(is_joined)
    }
}
