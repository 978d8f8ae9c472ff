//! The tier in memory by S3-FIFO (Yang et al., SOSP 2023): two queues, a memory of what left, and pins.
//!
//! A new chunk is on trial, in a queue that is a twentieth of the tier once the tier is full; used again there it moves to the
//! main queue, else it leaves and its name is remembered for a while. A chunk that comes back within that while goes to the main queue
//! at once. There a chunk leaves when it reaches the front unused. So a scan passes through the twentieth.
//!
//! The paper has a tenth, and two uses to leave it. `benches/traces` finds a twentieth and one use better for objects of many chunks,
//! each asked for once per request; pins take care of what a twentieth is too small for.
//!
//! A use is a flag in the chunk's slot, under a shared lock; only insertions move anything. Names are keyed hashes, so shards and
//! tables take their bits as they are.

mod ghosts;
mod slots;

use std::fmt;

use bytes::Bytes;
use parking_lot::RwLock;
use smallvec::SmallVec;

use self::{
    ghosts::Ghosts,
    slots::{List, Slots},
};
use super::ram::{Inserted, RamTier};
use crate::content::ChunkId;

/// What a held chunk costs beside its bytes, at most:
///
/// | bytes | for |
/// |---|---|
/// | 82 | slot: name 32, `Bytes` 32, links and counters 16; its part of the list of pages |
/// | 18 | table: 5 bytes, 1/3 to 7/8 full, old and new while it grows |
/// | 12 | half a ghost: 8 bytes, 3/8 to all in use, old and new while they grow |
/// | 48 | the allocation that shares a buffer once it was cloned |
/// | 32 | an allocator's header and rounding for the bytes |
///
/// 1.2 % of a 16 KiB chunk.
pub(super) const ENTRY_BYTES: u64 = 192;

/// What a shard costs that holds nothing, beside the page that is not full yet: itself, the smallest tables.
const SHARD_OVERHEAD_BYTES: u64 = 1024;
/// A shard is not smaller than this. Chunks of one object lie in different shards, which forget at different times: at 8 MiB half a point more
/// of the requests lack a chunk.
const SHARD_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// More shards than this gain nothing on the machines a node runs on.
const SHARDS_MAX: u64 = 64;
/// The part of a shard that is on trial once the shard is full: 1/20.
const TRIAL_PART: u64 = 20;
/// The part of a shard that may be pinned: 1/4.
const PINNED_PART: u64 = 4;
/// Uses on trial that make a chunk worth keeping.
const USES_TO_STAY: u8 = 1;
/// Chunks held for each that left and is remembered.
const CHUNKS_PER_GHOST: usize = 2;

/// A [`RamTier`] whose eviction resists scans, and which can pin the chunks of bodies under way.
///
/// The bound: in each shard chunk bytes plus 192 for each, pinned ones included, never exceed its part of the capacity. Room is
/// made before a chunk goes in. Memory follows what is held: a tier that held a million tiny chunks and now holds
/// large ones has given the former's bookkeeping back. Chunks that readers still hold when they are evicted live until they let
/// go; that is the readers' bound, not this one.
pub struct S3FifoTier {
    shards: Box<[RwLock<Shard>]>,
    capacity: u64,
    /// Of a shard.
    shard_bytes: u64,
}

impl S3FifoTier {
    /// A tier that accounts for at most `capacity` bytes. Nothing is allocated ahead.
    ///
    /// Capacities from 8 MiB up take every chunk. A smaller one takes those up to three quarters of it.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let shards = 1 << (capacity / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX).ilog2();
        let overhead = slots::page_bytes(capacity / shards) + SHARD_OVERHEAD_BYTES;
        let shard_bytes = (capacity / shards).saturating_sub(overhead);
        Self {
            shards: (0..shards)
                .map(|_| RwLock::new(Shard::new(shard_bytes)))
                .collect(),
            capacity,
            shard_bytes,
        }
    }

    fn shard(&self, id: &ChunkId) -> &RwLock<Shard> {
        // The tables in a shard use the first eight bytes, ghosts the last four.
        let at = usize::from(id.as_bytes()[8]) & (self.shards.len() - 1);
        &self.shards[at]
    }

    fn sum(&self, of: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.read())).sum()
    }
}

impl RamTier for S3FifoTier {
    fn get(&self, id: &ChunkId) -> Option<Bytes> {
        let shard = self.shard(id).read();
        let slot = shard.slots.at(shard.slots.find(id)?);
        slot.count_use();
        Some(slot.bytes.clone())
    }

    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted {
        // Dropped after the lock.
        let mut evicted = Evicted::new();
        self.shard(&id).write().insert(id, bytes, &mut evicted)
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.shard(id).read().slots.find(id).is_some()
    }

    fn bytes_used(&self) -> u64 {
        self.sum(Shard::bytes)
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.read().slots.len())
            .sum()
    }

    fn evicted(&self) -> u64 {
        self.sum(|shard| shard.evicted)
    }

    fn pin(&self, id: &ChunkId) -> bool {
        self.shard(id).write().pin(id)
    }

    fn unpin(&self, id: &ChunkId) {
        self.shard(id).write().unpin(id);
    }

    fn bytes_pinned(&self) -> u64 {
        self.sum(|shard| shard.slots.bytes(List::Pinned))
    }
}

impl fmt::Debug for S3FifoTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3FifoTier")
            .field("capacity", &self.capacity)
            .field("shards", &self.shards.len())
            .field("shard_bytes", &self.shard_bytes)
            .field("bytes_used", &self.bytes_used())
            .finish_non_exhaustive()
    }
}

fn weight(len: usize) -> u64 {
    len as u64 + ENTRY_BYTES
}

fn fingerprint(id: &ChunkId) -> u32 {
    let [.., a, b, c, d] = *id.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// What one insertion pushed out.
type Evicted = SmallVec<[Bytes; 4]>;

struct Shard {
    slots: Slots,
    ghosts: Ghosts,
    capacity: u64,
    evicted: u64,
}

impl Shard {
    fn new(capacity: u64) -> Self {
        Self {
            slots: Slots::new(capacity),
            ghosts: Ghosts::new(),
            capacity,
            evicted: 0,
        }
    }

    fn bytes(&self) -> u64 {
        [List::Trial, List::Main, List::Pinned]
            .into_iter()
            .map(|list| self.slots.bytes(list))
            .sum()
    }

    fn insert(&mut self, id: ChunkId, bytes: Bytes, evicted: &mut Evicted) -> Inserted {
        let weight = weight(bytes.len());
        if weight > self.capacity - self.capacity / PINNED_PART {
            return Inserted::TooLarge;
        }
        if self.slots.find(&id).is_some() {
            return Inserted::Present;
        }
        // Ends: what is not pinned is at least the weight, and each step evicts, or takes a use or a trial from a chunk.
        while self.bytes() + weight > self.capacity {
            if !self.step(evicted) {
                return Inserted::TooLarge;
            }
        }
        let known = self.ghosts.take(fingerprint(&id), self.ghosts_max());
        let list = if known { List::Main } else { List::Trial };
        if !self.slots.push(id, bytes, list) {
            return Inserted::TooLarge;
        }
        self.ghosts.fit(self.ghosts_max());
        Inserted::Stored
    }

    fn ghosts_max(&self) -> usize {
        self.slots.len() / CHUNKS_PER_GHOST
    }

    /// Looks at the chunk whose turn it is: evicts it, or lets it stay. `false` where all are pinned.
    fn step(&mut self, evicted: &mut Evicted) -> bool {
        let (trial, main) = (self.slots.first(List::Trial), self.slots.first(List::Main));
        let on_trial = self.slots.bytes(List::Trial) >= self.capacity / TRIAL_PART;
        let (at, list) = match (trial, main) {
            (Some(at), _) if on_trial => (at, List::Trial),
            (_, Some(at)) => (at, List::Main),
            (Some(at), None) => (at, List::Trial),
            (None, None) => return false,
        };
        let slot = self.slots.at(at);
        let uses = slot.uses();
        match list {
            List::Main if uses > 0 => {
                slot.set_uses(uses - 1);
                self.slots.move_to(at, List::Main);
            }
            List::Trial if uses >= USES_TO_STAY => {
                slot.set_uses(0);
                self.slots.at_mut(at).home = List::Main;
                self.slots.move_to(at, List::Main);
            }
            List::Trial | List::Main | List::Pinned => {
                if let Some((id, bytes)) = self.slots.remove(at) {
                    if list == List::Trial {
                        self.ghosts.remember(fingerprint(&id));
                    }
                    self.evicted += 1;
                    evicted.push(bytes);
                }
            }
        }
        true
    }

    fn pin(&mut self, id: &ChunkId) -> bool {
        let Some(at) = self.slots.find(id) else {
            return false;
        };
        let slot = self.slots.at(at);
        let more = match slot.list() {
            List::Pinned => 0,
            List::Trial | List::Main => weight(slot.bytes.len()),
        };
        let Some(pins) = slot.pins.checked_add(1) else {
            return false;
        };
        if self.slots.bytes(List::Pinned) + more > self.capacity / PINNED_PART {
            return false;
        }
        self.slots.at_mut(at).pins = pins;
        if more > 0 {
            self.slots.move_to(at, List::Pinned);
        }
        true
    }

    /// The last pin gone, the chunk is the youngest of the queue it came from.
    fn unpin(&mut self, id: &ChunkId) {
        let Some(at) = self.slots.find(id) else {
            return;
        };
        let slot = self.slots.at_mut(at);
        let Some(pins) = slot.pins.checked_sub(1) else {
            return;
        };
        slot.pins = pins;
        let home = slot.home;
        if pins == 0 {
            self.slots.move_to(at, home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ChunkId {
        ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn held(tier: &S3FifoTier, numbers: std::ops::Range<u64>) -> Vec<u64> {
        numbers.filter(|n| tier.contains(&id(*n))).collect()
    }

    /// Slots move when others leave; the queues do not change with that.
    #[test]
    fn what_is_not_used_leaves_in_the_order_it_came() {
        for used in [false, true] {
            let tier = S3FifoTier::new(1 << 20);
            for n in 0..10_000 {
                tier.insert(id(n), Bytes::from_static(&[0; 100]));
                // Once each, right after it came: that is enough for the main queue, and not to go round in it.
                if used {
                    tier.get(&id(n));
                }
            }
            let left = held(&tier, 0..10_000);
            let oldest = left[0];
            assert!(left.len() > 3_000, "{} left", left.len());
            // On trial and in the main queue: a twentieth is younger than its turn.
            let in_turn = left.len() as u64 * 9 / 10;
            assert_eq!(held(&tier, oldest..oldest + in_turn).len() as u64, in_turn);
        }
    }
}
