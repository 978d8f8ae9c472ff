//! Where an owner's records lie: blocks of entries that never move, so growing copies nothing and needs no second copy's memory.

use crate::Key;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

const BLOCK: usize = 4096;

/// A record of one holder: 88 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) manifest: [u8; 32],
    pub(super) generation: u64,
    /// The next entry of the same key, or of the free ones.
    pub(super) next_of_key: u32,
    /// Neighbours among those of the same lease and bucket.
    pub(super) next: u32,
    pub(super) previous: u32,
    /// The place of its lease.
    pub(super) lease: u16,
    pub(super) fraction: u8,
}

/// Entries by number. A number is valid from `insert` until `remove`, and only the table has numbers.
#[derive(Debug)]
pub(super) struct Slab {
    /// Each of `BLOCK` entries once it is full, and only the last is not.
    blocks: Vec<Vec<Entry>>,
    free: u32,
    len: usize,
}

impl Slab {
    pub(super) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of the entry, which nothing else has. None beyond 2^32 - 2 entries.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<u32> {
        if self.free != NONE {
            let at = self.free;
            self.free = self[at].next_of_key;
            self[at] = entry;
            self.len += 1;
            return Some(at);
        }
        let last = match self.blocks.last_mut() {
            Some(last) if last.len() < BLOCK => last,
            Some(_) | None => {
                self.blocks.push(Vec::with_capacity(BLOCK));
                self.blocks.last_mut()?
            }
        };
        last.push(entry);
        let within = last.len() - 1;
        let at = u32::try_from((self.blocks.len() - 1) * BLOCK + within).ok()?;
        self.len += 1;
        (at != NONE).then_some(at)
    }

    pub(super) fn remove(&mut self, at: u32) {
        self[at].next_of_key = self.free;
        self.free = at;
        self.len -= 1;
    }
}

fn place(at: u32) -> (usize, usize) {
    // Lossless where the house runs: on 64 bits.
    let at = at as usize;
    (at / BLOCK, at % BLOCK)
}

impl std::ops::Index<u32> for Slab {
    type Output = Entry;

    fn index(&self, at: u32) -> &Entry {
        let (block, within) = place(at);
        &self.blocks[block][within]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    fn index_mut(&mut self, at: u32) -> &mut Entry {
        let (block, within) = place(at);
        &mut self.blocks[block][within]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_small_as_the_bound_of_memory_reckons() {
        assert_eq!(size_of::<Entry>(), 88);
    }
}
