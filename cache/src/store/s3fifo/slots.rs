//! The chunks of a shard: dense slots in pages, each on one list, found by name.
//!
//! Dense: the last slot moves into the place of one that leaves, so that memory follows the number of chunks down
//! as well as up. What pages, table and growth cost a chunk at most is in [`super::ENTRY_BYTES`].

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use hashbrown::HashTable;

use crate::content::ChunkId;

/// Pages are this part of their shard, 1/128, and between 64 and 4,096 slots of 80 bytes. Larger is better for what lies around them: the allocator puts
/// them among the chunks, and free room joins only up to the next page.
const PAGE_PART: u64 = 128;
const PAGE_SLOTS_MIN: u64 = 64;
const PAGE_SLOTS_MAX: u64 = 4096;
/// Counted uses of a chunk end here: the policy asks for no more.
const USES_MAX: u8 = 3;
/// What grows by doubling is made smaller when less than this part of it is in use, 1/3. Growing leaves 7/16 or more.
const SHRINK_PART: usize = 3;
/// A table of so few buckets is left as it is.
const BUCKETS_MIN: usize = 64;
/// No slot.
const NONE: u32 = u32::MAX;

/// Which list a chunk is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Chunks on trial, oldest first.
    Trial,
    /// Chunks that proved themselves, oldest first.
    Main,
    /// Chunks that may not leave.
    Pinned,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ChunkId,
    pub(super) bytes: Bytes,
    before: u32,
    after: u32,
    /// Pins on the chunk. On [`List::Pinned`] while there are any.
    pub(super) pins: u16,
    list: List,
    /// The list to return to from [`List::Pinned`].
    pub(super) home: List,
    uses: AtomicU8,
}

impl Slot {
    pub(super) fn list(&self) -> List {
        self.list
    }

    pub(super) fn uses(&self) -> u8 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(super) fn set_uses(&self, uses: u8) {
        self.uses.store(uses, Ordering::Relaxed);
    }

    /// Counts a use. Of two at once one may be lost, which a policy can bear; a line of memory written at each use of a hot chunk it cannot.
    pub(super) fn count_use(&self) {
        let uses = self.uses();
        if uses < USES_MAX {
            self.set_uses(uses + 1);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Slots {
    pages: Pages,
    table: HashTable<u32>,
    lists: [Ends; 3],
}

/// Names are keyed hashes, uniform in every bit.
fn hash(id: &ChunkId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A vector that grows and shrinks by whole pages and never moves.
#[derive(Debug)]
struct Pages {
    pages: Vec<Vec<Slot>>,
    /// Slots of a page, as a power of two.
    shift: u32,
}

impl Pages {
    fn get(&self, at: u32) -> &Slot {
        &self.pages[at as usize >> self.shift][at as usize & ((1 << self.shift) - 1)]
    }

    fn get_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.pages[at as usize >> self.shift][at as usize & ((1 << self.shift) - 1)]
    }

    fn push(&mut self, slot: Slot) {
        let full = 1 << self.shift;
        match self.pages.last_mut().filter(|page| page.len() < full) {
            Some(page) => page.push(slot),
            None => {
                let mut page = Vec::with_capacity(full);
                page.push(slot);
                self.pages.push(page);
            }
        }
    }

    fn pop(&mut self) -> Option<Slot> {
        let last = self.pages.last_mut()?;
        let slot = last.pop();
        if last.is_empty() {
            self.pages.pop();
            if self.pages.len() < self.pages.capacity() / SHRINK_PART {
                self.pages.shrink_to_fit();
            }
        }
        slot
    }
}

/// Slots of a page in a shard of so many bytes.
fn page_slots(shard_bytes: u64) -> u64 {
    let slots = shard_bytes / PAGE_PART / size_of::<Slot>() as u64;
    1 << slots.clamp(PAGE_SLOTS_MIN, PAGE_SLOTS_MAX).ilog2()
}

/// What the page costs that is not full yet.
pub(super) fn page_bytes(shard_bytes: u64) -> u64 {
    page_slots(shard_bytes) * size_of::<Slot>() as u64
}

impl Slots {
    /// For a shard of so many bytes. Nothing is allocated ahead.
    pub(super) fn new(shard_bytes: u64) -> Self {
        let ends = Ends {
            first: NONE,
            last: NONE,
            bytes: 0,
        };
        Self {
            pages: Pages {
                pages: Vec::new(),
                shift: page_slots(shard_bytes).ilog2(),
            },
            table: HashTable::new(),
            lists: [ends; 3],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes on a list, as weighed by [`super::weight`].
    pub(super) fn bytes(&self, list: List) -> u64 {
        self.lists[list as usize].bytes
    }

    pub(super) fn find(&self, id: &ChunkId) -> Option<u32> {
        self.table
            .find(hash(id), |at| self.pages.get(*at).id == *id)
            .copied()
    }

    /// The slot at a place that [`find`](Self::find), [`first`](Self::first) or [`push`](Self::push) gave since the last removal.
    pub(super) fn at(&self, at: u32) -> &Slot {
        self.pages.get(at)
    }

    pub(super) fn at_mut(&mut self, at: u32) -> &mut Slot {
        self.pages.get_mut(at)
    }

    /// The oldest of a list.
    pub(super) fn first(&self, list: List) -> Option<u32> {
        Some(self.lists[list as usize].first).filter(|at| *at != NONE)
    }

    /// Adds a chunk that is not here, as the youngest of a list. `false` where there are 2³² already.
    pub(super) fn push(&mut self, id: ChunkId, bytes: Bytes, list: List) -> bool {
        let Some(at) = u32::try_from(self.len()).ok().filter(|at| *at != NONE) else {
            return false;
        };
        self.pages.push(Slot {
            id,
            bytes,
            before: NONE,
            after: NONE,
            pins: 0,
            list,
            home: list,
            uses: AtomicU8::new(0),
        });
        let pages = &self.pages;
        self.table
            .insert_unique(hash(&id), at, |at| hash(&pages.get(*at).id));
        self.link(at, list);
        true
    }

    /// Makes a chunk the youngest of a list.
    pub(super) fn move_to(&mut self, at: u32, list: List) {
        self.unlink(at);
        self.link(at, list);
    }

    /// Takes a chunk out. Places given before no longer hold.
    pub(super) fn remove(&mut self, at: u32) -> Option<(ChunkId, Bytes)> {
        self.unlink(at);
        let id = self.at(at).id;
        if let Ok(entry) = self.table.find_entry(hash(&id), |known| *known == at) {
            entry.remove();
        }
        let moved = self.pages.pop()?;
        let from = u32::try_from(self.len()).unwrap_or(NONE);
        let removed = if from == at {
            moved
        } else {
            self.rehouse(&moved, from, at);
            std::mem::replace(self.at_mut(at), moved)
        };
        self.shrink();
        Some((removed.id, removed.bytes))
    }

    /// Lets the neighbours and the table know that a slot has moved.
    fn rehouse(&mut self, moved: &Slot, from: u32, to: u32) {
        if let Some(known) = self.table.find_mut(hash(&moved.id), |known| *known == from) {
            *known = to;
        }
        match moved.before {
            NONE => self.lists[moved.list as usize].first = to,
            before => self.at_mut(before).after = to,
        }
        match moved.after {
            NONE => self.lists[moved.list as usize].last = to,
            after => self.at_mut(after).before = to,
        }
    }

    fn link(&mut self, at: u32, list: List) {
        let last = self.lists[list as usize].last;
        let slot = self.at_mut(at);
        (slot.before, slot.after, slot.list) = (last, NONE, list);
        let weight = super::weight(slot.bytes.len());
        match last {
            NONE => self.lists[list as usize].first = at,
            last => self.at_mut(last).after = at,
        }
        let ends = &mut self.lists[list as usize];
        ends.last = at;
        ends.bytes += weight;
    }

    fn unlink(&mut self, at: u32) {
        let slot = self.at(at);
        let (before, after, list) = (slot.before, slot.after, slot.list);
        let weight = super::weight(slot.bytes.len());
        match before {
            NONE => self.lists[list as usize].first = after,
            before => self.at_mut(before).after = after,
        }
        match after {
            NONE => self.lists[list as usize].last = before,
            after => self.at_mut(after).before = before,
        }
        self.lists[list as usize].bytes -= weight;
    }

    fn shrink(&mut self) {
        let buckets = self.table.num_buckets();
        if buckets > BUCKETS_MIN && self.len() < buckets / SHRINK_PART {
            let pages = &self.pages;
            self.table.shrink_to_fit(|at| hash(&pages.get(*at).id));
        }
    }
}
