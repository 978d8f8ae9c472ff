//! Where each record of a volume lies: 16 bytes an entry, in memory.
//!
//! The index keeps no names, only 86 bits of a keyed hash of each: what it answers is where a name would lie, and the record's own name settles it.
//! Two names of one hash share an entry, and the one that was put first is lost; among 10^8 names there is such a pair with a chance of 10^-10. The
//! seed is secret, so that nobody can choose names that meet.
//!
//! An entry is a slot of 128 bits: hash 74, [`Place`] 52 (segment 20, offset 19, length 13), uses 2. Slots lie in [`SHARDS`] tables under a lock each,
//! the shard chosen by another 12 bits of the hash. Tables grow by a quarter at 7/8 full and shrink below 11/16, so that an entry costs at most 24 bytes, whatever was put and
//! removed, once there are [`DENSE_ENTRIES`]. While one table is moved both its forms exist, which is 1/4096 of the whole.

mod slot;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128_with_seed;

pub(super) use self::slot::Slot;
pub use self::slot::{Place, USES_MAX};
use self::{slot::Tag, table::Table};
use super::Name;

/// Tables of an index. At ten million entries one has 2,400, 55 KB, moved in some 50 µs when it grows.
pub const SHARDS: usize = 1 << SHARD_BITS;
/// From this many entries on, one costs at most 24 bytes. An empty index costs 128 KiB.
pub const DENSE_ENTRIES: usize = 500_000;

const SHARD_BITS: u32 = 12;

/// Where each record of a volume lies. See the head of this file.
///
/// Every method holds one shard's lock for about 100 ns, but for those that say otherwise. None does I/O.
pub struct Index {
    seed: u64,
    shards: Box<[Mutex<Table>]>,
    entries: AtomicUsize,
    /// Slots of all tables.
    slots: AtomicUsize,
}

impl Index {
    /// An empty index. The seed is random and secret.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            entries: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
        }
    }

    /// Where the record of this name lies. No use of it.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Place> {
        self.with(name, |table, at| table.slots[at].place())
    }

    /// Where the record of this name lies, counted as a use of it.
    pub fn touch(&self, name: &Name) -> Option<Place> {
        self.with(name, |table, at| {
            let slot = &mut table.slots[at];
            *slot = Slot::new(slot.tag(), slot.place(), slot.uses() + 1);
            slot.place()
        })
    }

    /// Whether there is something under this name.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.with(name, |_, _| ()).is_some()
    }

    /// The uses counted, if the record of this name lies at this place: whether it is worth keeping. None if it lies elsewhere or nowhere.
    #[must_use]
    pub fn uses(&self, name: &Name, place: Place) -> Option<u8> {
        self.with(name, |table, at| {
            let slot = table.slots[at];
            (slot.place() == place).then(|| slot.uses())
        })
        .flatten()
    }

    /// Says where the record of this name lies from now on. Returns where it lay before; its uses stay, those of a new one are 0.
    pub fn insert(&self, name: &Name, place: Place) -> Option<Place> {
        let (shard, tag) = self.hash(name);
        self.counted(&mut shard.lock(), |table| {
            table.put(Slot::new(tag, place, 0)).map(Slot::place)
        })
    }

    /// Says that the record of this name has moved, if it still lies where it was taken from. Its uses begin again at 0.
    pub fn relocate(&self, name: &Name, from: Place, to: Place) -> bool {
        self.with(name, |table, at| {
            let slot = &mut table.slots[at];
            let is_there = slot.place() == from;
            if is_there {
                *slot = Slot::new(slot.tag(), to, 0);
            }
            is_there
        })
        .unwrap_or(false)
    }

    /// Forgets this name. Returns where its record lay.
    pub fn remove(&self, name: &Name) -> Option<Place> {
        self.remove_where(name, |_| true)
    }

    /// Forgets this name if its record lies at this place.
    pub fn remove_if(&self, name: &Name, place: Place) -> bool {
        self.remove_where(name, |there| there == place).is_some()
    }

    /// Forgets all whose place is not to be kept. Looks at every entry, one shard after another: milliseconds for each million. Returns how many it forgot.
    pub fn retain(&self, mut keep: impl FnMut(Place) -> bool) -> usize {
        let mut forgot = 0;
        for shard in &self.shards {
            let mut table = shard.lock();
            forgot += self.counted(&mut table, |table| table.retain(|slot| keep(slot.place())));
        }
        forgot
    }

    /// Shows every entry's place and uses, one shard after another, in no order. What changes meanwhile is seen or not. Milliseconds for each million.
    pub fn for_each(&self, mut see: impl FnMut(Place, u8)) {
        for shard in &self.shards {
            for slot in shard.lock().entries() {
                see(slot.place(), slot.uses());
            }
        }
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether there is no entry now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, in bytes: all tables and their heads, without what an allocator keeps beside them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + SHARDS * size_of::<Mutex<Table>>()
            + self.slots.load(Ordering::Relaxed) * size_of::<Slot>()
    }

    /// The seed, for a checkpoint.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Appends the entries of a shard below [`SHARDS`].
    pub(super) fn copy_shard(&self, shard: usize, out: &mut Vec<Slot>) {
        if let Some(shard) = self.shards.get(shard) {
            out.extend(shard.lock().entries());
        }
    }

    /// Puts at most about `count` entries back into a shard below [`SHARDS`] of an index of the same seed. Whatever they are, the index stays sound.
    pub(super) fn restore_shard(
        &self,
        shard: usize,
        count: usize,
        slots: impl Iterator<Item = Slot>,
    ) {
        let Some(shard) = self.shards.get(shard) else {
            return;
        };
        self.counted(&mut shard.lock(), |table| {
            table.reserve(count);
            for slot in slots {
                table.put(slot);
            }
            // The caller may have left out many.
            table.shrink();
        });
    }

    /// The shard of a name, and what it goes by there.
    fn hash(&self, name: &Name) -> (&Mutex<Table>, Tag) {
        let hash = xxh3_128_with_seed(name, self.seed);
        let shard = hash as usize % SHARDS;
        (&self.shards[shard], Tag::of_hash(hash))
    }

    fn with<T>(&self, name: &Name, see: impl FnOnce(&mut Table, usize) -> T) -> Option<T> {
        let (shard, tag) = self.hash(name);
        let mut table = shard.lock();
        let at = table.find(tag)?;
        Some(see(&mut table, at))
    }

    fn remove_where(&self, name: &Name, wanted: impl FnOnce(Place) -> bool) -> Option<Place> {
        let (shard, tag) = self.hash(name);
        let mut table = shard.lock();
        let at = table.find(tag)?;
        let place = table.slots[at].place();
        wanted(place).then(|| {
            self.counted(&mut table, |table| table.remove(at));
            place
        })
    }

    /// Changes a table, and counts what that changes of the whole.
    fn counted<T>(&self, table: &mut Table, change: impl FnOnce(&mut Table) -> T) -> T {
        let (used, slots) = (table.used, table.slots.len());
        let result = change(table);
        // Wrapping, as atomics do: what is taken away was added before.
        if table.used != used {
            let more = table.used.wrapping_sub(used);
            self.entries.fetch_add(more, Ordering::Relaxed);
        }
        if table.slots.len() != slots {
            let more = table.slots.len().wrapping_sub(slots);
            self.slots.fetch_add(more, Ordering::Relaxed);
        }
        result
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("entries", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
