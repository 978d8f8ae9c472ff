//! The tier in memory over `quick_cache`: S3-FIFO-like eviction, sharded, bounded in bytes.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};
use smallvec::SmallVec;

use super::ram::{Inserted, RamTier};
use crate::content::ChunkId;

/// What a held chunk costs beside its bytes, at most:
///
/// | bytes | for |
/// |---|---|
/// | 160 | slot: key 32, `Bytes` 32, state and links 16; twice that, as the slots' vector doubles |
/// | 12 | hash table: 5 bytes, at worst 7/16 full |
/// | 32 | the allocation that shares a buffer once it was cloned |
/// | 32 | allocator headers and rounding of the two |
///
/// and 20 in hand. 1.6 % of a 16 KiB chunk.
pub const ENTRY_OVERHEAD_BYTES: u64 = 256;

/// What a key costs that is remembered after its chunk was evicted: its slot and table entry.
const GHOST_BYTES: u64 = 172;
/// The tier plans for chunks of this size; smaller ones only mean that fewer evicted keys, in
/// proportion, are remembered.
const PLANNED_CHUNK_BYTES: u64 = 16 * 1024;
/// Evicted keys remembered, for each chunk planned for.
const GHOSTS_PER_CHUNK: f64 = 0.5;
/// A shard is not smaller than this, so that the largest chunk is a small part of one.
const SHARD_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// More shards than this gain nothing on the machines a node runs on.
const SHARDS_MAX: u64 = 64;

/// A [`RamTier`] whose eviction resists scans: a chunk read once does not push out one read often.
///
/// The bound: chunk bytes plus [`ENTRY_OVERHEAD_BYTES`] for each never exceed the capacity less
/// the room for remembered keys (1/192 of it), in any shard at any time. Room is made before a
/// chunk goes in. Chunks that readers still hold when they are evicted live until they let go;
/// that is the readers' bound, not this one.
pub struct QuickTier {
    cache: Cache<ChunkId, Bytes, ByBytes, DefaultHashBuilder, Evictions>,
    capacity: u64,
    largest: u64,
    evicted: AtomicU64,
}

impl QuickTier {
    /// A tier that accounts for at most `capacity` bytes. Nothing is allocated ahead.
    ///
    /// Capacities from 8 MiB up take every chunk. A smaller one takes those up to about 31/32 of it.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let planned = capacity / PLANNED_CHUNK_BYTES;
        let for_chunks = capacity - planned.div_ceil(2) * GHOST_BYTES;
        // `quick_cache` rounds the number of shards up to a power of two and each shard's part up
        // to a byte; both are rounded down here so that the sum stays within the capacity.
        let wanted = (for_chunks / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shards = 1 << wanted.ilog2();
        let shard_bytes = for_chunks / shards;
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).expect("at most SHARDS_MAX"))
            .weight_capacity(shard_bytes * shards)
            // At least 32 a shard, or `quick_cache` merges shards.
            .estimated_items_capacity(
                usize::try_from(planned.max(32 * shards)).unwrap_or(usize::MAX),
            )
            .ghost_allocation(GHOSTS_PER_CHUNK)
            .build()
            .expect("both capacities are set");
        Self {
            cache: Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), Evictions),
            capacity,
            // `quick_cache` takes what fits the hot part of a shard, 97 %.
            largest: shard_bytes / 32 * 31,
            evicted: AtomicU64::new(0),
        }
    }
}

impl RamTier for QuickTier {
    fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.cache.get(id)
    }

    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted {
        if weight(&bytes) > self.largest {
            return Inserted::TooLarge;
        }
        if self.cache.contains_key(&id) {
            return Inserted::Present;
        }
        let mut evicted = Evicted::new();
        self.cache.insert_with_lifecycle(id, bytes, &mut evicted);
        // Another thread may have put the same chunk in since: its copy comes back here, and is
        // no eviction.
        let others = evicted.iter().filter(|(other, _)| *other != id).count();
        self.evicted.fetch_add(others as u64, Ordering::Relaxed);
        Inserted::Stored
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.cache.contains_key(id)
    }

    fn bytes_used(&self) -> u64 {
        self.cache.weight()
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for QuickTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuickTier")
            .field("capacity", &self.capacity)
            .field("bytes_used", &self.bytes_used())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn weight(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<ChunkId, Bytes> for ByBytes {
    fn weight(&self, _: &ChunkId, bytes: &Bytes) -> u64 {
        weight(bytes)
    }
}

/// What one insertion pushed out; dropped by the caller, after the shard's lock.
type Evicted = SmallVec<[(ChunkId, Bytes); 4]>;

#[derive(Clone, Debug)]
struct Evictions;

impl Lifecycle<ChunkId, Bytes> for Evictions {
    type RequestState = Evicted;

    fn on_evict(&self, evicted: &mut Evicted, id: ChunkId, bytes: Bytes) {
        evicted.push((id, bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::content::CHUNK_BYTES_MAX;

    const MIB: u64 = 1024 * 1024;

    fn id(n: u64) -> ChunkId {
        ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    /// The bytes a chunk of this number has, as content addressing makes it: always the same.
    fn bytes(n: u64) -> Bytes {
        let len = 1 + blake3::hash(&n.to_be_bytes()).as_bytes()[0] as usize * 200;
        vec![n.to_le_bytes()[0]; len].into()
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Get(u64),
        Insert(u64),
        Contains(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let n = 0..400u64;
        let step = prop_oneof![
            n.clone().prop_map(Step::Get),
            n.clone().prop_map(Step::Insert),
            n.prop_map(Step::Contains),
        ];
        prop::collection::vec(step, 1..1_500)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the set of all that was ever put in: a tier may forget, and nothing else.
        #[test]
        fn holds_only_what_was_put_and_never_more_than_its_capacity(
            steps in steps(), capacity in 64 * 1024..4 * MIB
        ) {
            let tier = QuickTier::new(capacity);
            let mut put = HashMap::new();
            let mut stored = 0;
            for step in steps {
                match step {
                    Step::Get(n) => {
                        if let Some(got) = tier.get(&id(n)) {
                            prop_assert_eq!(Some(&got), put.get(&n));
                        }
                    }
                    Step::Contains(n) => {
                        prop_assert!(!tier.contains(&id(n)) || put.contains_key(&n));
                    }
                    Step::Insert(n) => {
                        let held = tier.contains(&id(n));
                        match tier.insert(id(n), bytes(n)) {
                            Inserted::Present => prop_assert!(held),
                            Inserted::TooLarge => prop_assert!(!tier.contains(&id(n))),
                            Inserted::Stored => {
                                prop_assert!(!held && tier.contains(&id(n)));
                                stored += 1;
                                put.insert(n, bytes(n));
                            }
                        }
                    }
                }
                prop_assert!(tier.bytes_used() <= tier.capacity());
                prop_assert_eq!(tier.len() as u64 + tier.evicted(), stored);
            }
            // The figure is the sum over what is held, to the byte.
            let held: u64 = put
                .iter()
                .filter(|(n, _)| tier.contains(&id(**n)))
                .map(|(_, bytes)| bytes.len() as u64 + ENTRY_OVERHEAD_BYTES)
                .sum();
            prop_assert_eq!(tier.bytes_used(), held);
        }

        /// Where nothing needs to be evicted, the tier is a map.
        #[test]
        fn with_room_for_all_it_is_a_map(steps in steps()) {
            let tier = QuickTier::new(256 * MIB);
            let mut model = HashMap::new();
            for step in steps {
                match step {
                    Step::Get(n) => prop_assert_eq!(tier.get(&id(n)), model.get(&n).cloned()),
                    Step::Contains(n) => {
                        prop_assert_eq!(tier.contains(&id(n)), model.contains_key(&n));
                    }
                    Step::Insert(n) => {
                        let new = model.insert(n, bytes(n)).is_none();
                        let got = tier.insert(id(n), bytes(n));
                        prop_assert_eq!(got, if new { Inserted::Stored } else { Inserted::Present });
                    }
                }
            }
            prop_assert_eq!(tier.len(), model.len());
            prop_assert_eq!(tier.evicted(), 0);
        }
    }

    #[test]
    fn threads_never_see_it_above_its_capacity() {
        let tier = Arc::new(QuickTier::new(16 * MIB));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let tier = &tier;
                scope.spawn(move || {
                    for n in 0..4_000 {
                        // Half of the numbers are common to all threads.
                        let n = if n % 2 == 0 { n } else { n * 4 + thread };
                        tier.insert(id(n), bytes(n));
                        assert!(tier.bytes_used() <= tier.capacity());
                    }
                });
            }
        });
        assert!(tier.evicted() > 0);
        assert!(tier.bytes_used() > tier.capacity() / 2);
    }

    #[test]
    fn a_chunk_larger_than_the_tier_is_refused_and_evicts_nothing() {
        let tier = QuickTier::new(MIB / 4);
        assert_eq!(tier.insert(id(1), bytes(1)), Inserted::Stored);
        let large = Bytes::from(vec![0; CHUNK_BYTES_MAX]);
        assert_eq!(tier.insert(id(2), large), Inserted::TooLarge);
        assert_eq!((tier.len(), tier.evicted()), (1, 0));
        assert_eq!(
            QuickTier::new(0).insert(id(1), bytes(1)),
            Inserted::TooLarge
        );
    }

    #[test]
    fn every_chunk_fits_from_the_documented_capacity_on() {
        for capacity in [8 * MIB, 9 * MIB, 100 * MIB, 256 * MIB, 1 << 40] {
            let tier = QuickTier::new(capacity);
            let largest = Bytes::from(vec![0; CHUNK_BYTES_MAX]);
            assert_eq!(tier.insert(id(1), largest), Inserted::Stored, "{capacity}");
            assert!(tier.cache.capacity() <= capacity);
            assert!(tier.cache.capacity() >= capacity / 100 * 98);
        }
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_read_often() {
        let tier = QuickTier::new(8 * MIB);
        let chunk = || Bytes::from(vec![0; 16 * 1024]);
        for n in 0..100 {
            tier.insert(id(n), chunk());
        }
        for n in 0..10_000 {
            tier.insert(id(1_000_000 + n), chunk());
            for hot in 0..100 {
                if n % 50 == 0 {
                    tier.get(&id(hot));
                }
            }
        }
        let kept = (0..100).filter(|&n| tier.contains(&id(n))).count();
        assert!(kept >= 95, "{kept} of 100");
    }
}
