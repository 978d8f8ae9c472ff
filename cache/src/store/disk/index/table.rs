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

/// A place that a hash could have in a table.
#[derive(Clone, Copy)]
struct Gap {
    at: usize,
    /// Slots from its home.
    distance: usize,
}

impl Table {
    /// The entries, in no order that matters.
    pub(super) fn entries(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().copied().filter(|slot| !slot.is_empty())
    }

    /// Where a hash lies.
    pub(super) fn find(&self, tag: Tag) -> Option<usize> {
        self.search(tag).ok()
    }

    /// Puts in a slot, in place of the one of its hash, if there is one. Returns that. The higher count of uses stays.
    pub(super) fn put(&mut self, slot: Slot) -> Option<Slot> {
        match self.search(slot.tag()) {
            Ok(at) => {
                let before = self.slots[at];
                let uses = before.uses().max(slot.uses());
                self.slots[at] = Slot::new(slot.tag(), slot.place(), uses);
                return Some(before);
            }
            Err(gap) => {
                self.used += 1;
                let length = self.length_for(self.used).max(self.slots.len());
                if length == self.slots.len() {
                    self.settle(slot, gap);
                } else {
                    self.resize(length);
                    self.settle(slot, self.home(slot.tag()));
                }
            }
        }
        None
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
            for slot in kept {
                self.settle(slot, self.home(slot.tag()));
            }
        }
        before - self.used
    }

    /// Where a hash lies, or the gap where it belongs. Ends at an empty slot, of which there is always one, or at one that would give way.
    fn search(&self, tag: Tag) -> Result<usize, Gap> {
        let mut gap = self.home(tag);
        // A table without slots has no gap either; nobody settles there before it has grown.
        while let Some(slot) = self.slots.get(gap.at) {
            if slot.is_empty() {
                break;
            }
            if slot.tag() == tag {
                return Ok(gap.at);
            }
            if self.displacement(gap.at) < gap.distance {
                break;
            }
            gap = self.behind(gap);
        }
        Err(gap)
    }

    const fn home(&self, tag: Tag) -> Gap {
        Gap {
            at: tag.home(self.slots.len()),
            distance: 0,
        }
    }

    const fn behind(&self, gap: Gap) -> Gap {
        Gap {
            at: self.next(gap.at),
            distance: gap.distance + 1,
        }
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

    /// Puts a slot into a table that has room, at a gap on its way from home or behind it. Those that give way go on from there.
    fn settle(&mut self, mut slot: Slot, mut gap: Gap) {
        while !self.slots[gap.at].is_empty() {
            let theirs = self.displacement(gap.at);
            if theirs < gap.distance {
                std::mem::swap(&mut self.slots[gap.at], &mut slot);
                gap.distance = theirs;
            }
            gap = self.behind(gap);
        }
        self.slots[gap.at] = slot;
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
                self.settle(slot, self.home(slot.tag()));
            }
        }
    }
}
