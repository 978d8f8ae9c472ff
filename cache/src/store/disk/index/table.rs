//! One of the tables of the index: robin hood hashing without tombstones.
//!
//! Each slot lies at or behind its home, and none behind one that lies nearer to its own; so a search ends early, and the slots are in the order of their
//! homes but for the wrap-around. The table grows by a quarter at 7/8 full and shrinks below 11/16.

use super::slot::{Slot, Tag};

/// The smallest table that is not empty.
pub(super) const TABLE_MIN: usize = 8;

/// A table, empty and without memory at first.
#[derive(Default)]
pub(super) struct Table {
    pub(super) slots: Box<[Slot]>,
    /// Slots that are not empty.
    pub(super) used: usize,
}

impl Table {
    /// The entries, in no order that matters.
    pub(super) fn entries(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().copied().filter(|slot| !slot.is_empty())
    }

    /// Where a hash lies. Ends at an empty slot, of which there is always one, or at one that would have given way.
    pub(super) fn find(&self, tag: Tag) -> Option<usize> {
        let mut at = tag.home(self.slots.len());
        for distance in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.is_empty() {
                return None;
            }
            if slot.tag() == tag {
                return Some(at);
            }
            if self.displacement(at) < distance {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Puts in a slot whose hash is not in the table.
    pub(super) fn add(&mut self, slot: Slot) {
        self.used += 1;
        self.resize(self.length_for(self.used).max(self.slots.len()));
        self.settle(slot);
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.resize(self.length_for(self.used + more).max(self.slots.len()));
    }

    /// Gives back the room that is too much.
    pub(super) fn shrink(&mut self) {
        self.resize(self.length_for(self.used));
    }

    /// Takes out the slot at `at`, which is not empty.
    pub(super) fn remove(&mut self, at: usize) {
        self.close(at);
        self.used -= 1;
        self.shrink();
    }

    /// Takes out all that are not to be kept. Returns how many.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Slot) -> bool) -> usize {
        let before = self.used;
        let mut kept: Vec<Slot> = self.entries().collect();
        kept.retain(|slot| keep(*slot));
        if kept.len() < before {
            self.used = kept.len();
            self.slots = vec![Slot::EMPTY; self.length_for(self.used)].into();
            kept.into_iter().for_each(|slot| self.settle(slot));
        }
        before - self.used
    }

    const fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }

    /// How far from its home the slot at `at` lies.
    fn displacement(&self, at: usize) -> usize {
        let home = self.slots[at].tag().home(self.slots.len());
        if at >= home {
            at - home
        } else {
            at + self.slots.len() - home
        }
    }

    /// Puts a slot where it belongs in a table that has room.
    fn settle(&mut self, mut slot: Slot) {
        let mut at = slot.tag().home(self.slots.len());
        let mut distance = 0;
        while !self.slots[at].is_empty() {
            let theirs = self.displacement(at);
            if theirs < distance {
                std::mem::swap(&mut self.slots[at], &mut slot);
                distance = theirs;
            }
            at = self.next(at);
            distance += 1;
        }
        self.slots[at] = slot;
    }

    /// Empties a slot; those behind it move up.
    fn close(&mut self, mut at: usize) {
        loop {
            let next = self.next(at);
            if self.slots[next].is_empty() || self.displacement(next) == 0 {
                self.slots[at] = Slot::EMPTY;
                return;
            }
            self.slots[at] = self.slots[next];
            at = next;
        }
    }

    /// The length a table of so many entries should have: this one's, while it is neither too full nor too empty.
    fn length_for(&self, used: usize) -> usize {
        let slots = self.slots.len();
        if used * 8 > slots * 7 {
            // At least what is asked for, when many come at once.
            (slots + slots / 4).max(used * 8 / 7 + 1).max(TABLE_MIN)
        } else if used == 0 {
            0
        } else if used * 16 < slots * 11 && slots > TABLE_MIN {
            // Halfway between the two bounds: 25/32 full.
            (used * 32).div_ceil(25).max(TABLE_MIN)
        } else {
            slots
        }
    }

    /// Moves all to a table of this length, if it is another.
    fn resize(&mut self, length: usize) {
        if length != self.slots.len() {
            let old = std::mem::replace(&mut self.slots, vec![Slot::EMPTY; length].into());
            for slot in old.into_iter().filter(|slot| !slot.is_empty()) {
                self.settle(slot);
            }
        }
    }
}
