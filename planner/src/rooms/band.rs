//! The hosts that are about as crowded, in a tree of their own.
//!
//! Decides in which order they are kept: none, whoever leaves is replaced by the last, so that the tree is
//! never larger than its hosts need.

use super::Room;
use super::branch::Branch;

/// Hosts of one leaf: fewer make the tree high, more make each look at a leaf long.
const LEAF: usize = 8;
/// How many times more leaves than are needed a tree may have before it is made anew, smaller.
const SLACK: usize = 4;

/// One host's room, with what its leaf is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) at: u32,
    pub(super) room: Room,
    branch: Branch,
}

impl Slot {
    pub(super) fn new(at: u32, room: Room) -> Self {
        Self { at, room, branch: Branch::of(&room) }
    }

    pub(super) fn branch(&self) -> &Branch {
        &self.branch
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Band {
    slots: Vec<Slot>,
    /// The root is 1, the children of `i` are `2i` and `2i + 1`, and leaves begin at `leaves`.
    branches: Vec<Branch>,
    leaves: usize,
}

impl Band {
    /// What is known of all of them.
    pub(super) fn root(&self) -> Branch {
        self.branches.get(1).copied().unwrap_or(Branch::EMPTY)
    }

    pub(super) fn branches(&self) -> &[Branch] {
        &self.branches
    }

    pub(super) fn leaves(&self) -> usize {
        self.leaves
    }

    pub(super) fn leaf(&self, leaf: usize) -> &[Slot] {
        let from = (leaf * LEAF).min(self.slots.len());
        &self.slots[from..(from + LEAF).min(self.slots.len())]
    }

    pub(super) fn set(&mut self, slot: usize, to: Slot) {
        self.slots[slot] = to;
        self.renew(slot);
    }

    /// Adds a host; answers in which slot.
    pub(super) fn push(&mut self, slot: Slot) -> usize {
        let at = self.slots.len();
        self.slots.push(slot);
        if at / LEAF >= self.leaves {
            self.rebuild();
        } else {
            self.renew(at);
        }
        at
    }

    /// Takes a host away; answers which host is in its slot now.
    pub(super) fn remove(&mut self, slot: usize) -> Option<u32> {
        self.slots.swap_remove(slot);
        let last = self.slots.len();
        if last.div_ceil(LEAF) * SLACK < self.leaves {
            self.rebuild();
        } else {
            self.renew(last);
            if slot / LEAF != last / LEAF {
                self.renew(slot);
            }
        }
        self.slots.get(slot).map(|moved| moved.at)
    }

    /// Takes what has changed in a slot's leaf to the root.
    fn renew(&mut self, slot: usize) {
        let leaf = slot / LEAF;
        let mut i = self.leaves + leaf;
        let mut branch = self.joined(leaf);
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

    fn rebuild(&mut self) {
        self.leaves = self.slots.len().div_ceil(LEAF).next_power_of_two();
        self.branches = vec![Branch::EMPTY; 2 * self.leaves];
        self.slots.shrink_to(self.leaves * LEAF);
        for leaf in 0..self.leaves {
            self.branches[self.leaves + leaf] = self.joined(leaf);
        }
        for i in (1..self.leaves).rev() {
            self.branches[i] = self.branches[2 * i].join(&self.branches[2 * i + 1]);
        }
    }

    fn joined(&self, leaf: usize) -> Branch {
        self.leaf(leaf).iter().fold(Branch::EMPTY, |branch, slot| branch.join(&slot.branch))
    }
}

#[cfg(test)]
impl Band {
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// True when the tree is what it would be if it were made anew, but for its height.
    pub(super) fn is_sound(&self) -> bool {
        let is_leaf = |leaf: usize| self.branches[self.leaves + leaf] == self.joined(leaf);
        let is_branch =
            |i: usize| self.branches[i] == self.branches[2 * i].join(&self.branches[2 * i + 1]);
        self.slots.len() <= self.leaves * LEAF
            && (0..self.leaves).all(is_leaf)
            && (1..self.leaves).all(is_branch)
            && self.slots.iter().all(|slot| slot.branch == Branch::of(&slot.room))
    }
}
