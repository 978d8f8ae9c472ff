//! What is said about allocations, against an allocator that counts them, each thread its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use stoq_cache::{
    content::ChunkId,
    key::CacheKey,
    store::{
        Inserted, MokaTier, QuickTier, RamTier, S3FifoTier,
        disk::index::{DENSE_ENTRIES, Index, Place},
    },
};

thread_local! {
    /// Bytes asked for and not yet given back, each allocation with the 16 bytes an allocator
    /// keeps beside it and rounded up to 16. Wraps below zero: a thread can free what another made.
    static LIVE: Cell<usize> = const { Cell::new(0) };
    /// Allocations made.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

const fn cost(len: usize) -> usize {
    (len + 16).next_multiple_of(16)
}

#[expect(unsafe_code, reason = "the trait of allocators is unsafe")]
// SAFETY: each call goes to the system's allocator unchanged; the counters are cells without a
// destructor, so counting neither allocates nor outlives its thread's storage.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(cost(layout.size())));
        MADE.set(MADE.get().wrapping_add(1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(cost(layout.size())));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn id(n: u64) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// Puts in `chunks` of `len` bytes, reading each once (which is when a buffer becomes shared), and returns the most bytes that were allocated after any
/// of them.
fn fill(tier: &dyn RamTier, before: usize, chunks: std::ops::Range<u64>, len: usize) -> u64 {
    let mut highest = 0isize;
    for n in chunks {
        assert_eq!(
            tier.insert(id(n), Bytes::from(vec![1; len])),
            Inserted::Stored
        );
        drop(tier.get(&id(n)));
        highest = highest.max(LIVE.get().wrapping_sub(before).cast_signed());
    }
    assert!(tier.bytes_used() <= tier.capacity());
    highest.unsigned_abs() as u64
}

const MIB: u64 = 1 << 20;

fn stays_within_its_bound(new: fn(u64) -> Box<dyn RamTier>) {
    for (capacity, chunks, len) in [
        // Room for all 100,000 small chunks: what is allocated against what is accounted for.
        (256 * MIB, 100_000, 100),
        // Not nearly room: what is allocated, remembered keys included, against the capacity.
        (16 * MIB, 100_000, 100),
        (16 * MIB, 100_000, 1),
        (16 * MIB, 20_000, 16 * 1024),
        (64 * MIB, 2_000, 256 * 1024),
    ] {
        let before = LIVE.get();
        let tier = new(capacity);
        let empty = LIVE.get().wrapping_sub(before) as u64;
        let allocated = fill(&*tier, before, 0..chunks, len);
        let (accounted, held) = (tier.bytes_used(), tier.len());
        println!(
            "capacity {capacity}, {chunks} chunks of {len}: held {held}, allocated at most \
             {allocated}, {empty} of them for nothing, accounted {accounted}"
        );
        let bound = if held as u64 == chunks {
            accounted + empty
        } else {
            capacity
        };
        assert!(
            allocated <= bound,
            "{allocated} bytes allocated, {bound} allowed: {tier:?}, {chunks} chunks of {len}"
        );
    }
}

#[test]
fn memory_of_s3_fifo_stays_within_the_accounted_bound() {
    stays_within_its_bound(|capacity| Box::new(S3FifoTier::new(capacity)));
}

#[test]
fn memory_of_quick_cache_stays_within_the_accounted_bound() {
    stays_within_its_bound(|capacity| Box::new(QuickTier::new(capacity)));
}

#[test]
fn memory_of_moka_stays_within_the_accounted_bound() {
    stays_within_its_bound(|capacity| Box::new(MokaTier::new(capacity)));
}

/// What tiny chunks needed beside their bytes is given back when large ones take their place, and the other way round.
#[test]
fn memory_of_s3_fifo_follows_the_size_of_what_it_holds() {
    let before = LIVE.get();
    let tier = S3FifoTier::new(32 * MIB);
    for (chunks, len) in [
        (0..200_000, 1),
        (200_000..203_000, 64 * 1024),
        (203_000..400_000, 100),
        (400_000..410_000, 16 * 1024),
    ] {
        let allocated = fill(&tier, before, chunks.clone(), len);
        println!(
            "{chunks:?} of {len}: allocated at most {allocated} of {}",
            tier.capacity()
        );
        assert!(
            allocated <= tier.capacity(),
            "{allocated} bytes allocated by {tier:?} with {chunks:?} of {len}"
        );
        assert!(tier.bytes_used() > tier.capacity() / 100 * 95, "{tier:?}");
    }
    drop(tier);
    // The lines that were printed may be kept.
    let left = LIVE.get().wrapping_sub(before);
    assert!(left < 4096, "{left} bytes left");
}

#[test]
fn the_key_of_a_normal_url_is_made_without_allocating() {
    let target = format!("/{}?{}", "path/".repeat(60), "query=1&".repeat(20));
    // The context's key is derived at the first use.
    let first = CacheKey::of("shop", "https", "www.example.com:8443", &target);
    let before = MADE.get();
    let second = CacheKey::of("shop", "https", "www.example.com:8443", &target);
    assert_eq!(MADE.get() - before, 0);
    assert_eq!(first, second);
}

/// Ten million entries where that takes seconds, one million where it would take minutes.
const INDEX_ENTRIES: u64 = if cfg!(debug_assertions) {
    1_000_000
} else {
    10_000_000
};

#[test]
fn an_entry_of_the_index_costs_at_most_24_bytes() {
    let name = |n: u64| *id(n).as_bytes();
    let before = LIVE.get();
    let index = Index::new(1);
    let mut dearest = 0.0_f64;
    let mut look = |index: &Index| {
        let allocated = LIVE.get().wrapping_sub(before);
        let bytes = index.bytes();
        assert!(
            bytes <= allocated + size_of::<Index>(),
            "{bytes} bytes said, {allocated} allocated"
        );
        if index.len() >= DENSE_ENTRIES {
            dearest = dearest.max(allocated as f64 / index.len() as f64);
        }
    };
    for n in 0..INDEX_ENTRIES {
        let place = Place::new(7, 64, 65_536).unwrap();
        assert_eq!(index.insert(&name(n), place), None);
        if n % 10_000 == 0 {
            look(&index);
        }
    }
    let made = MADE.get();
    for n in (0..INDEX_ENTRIES).step_by(100) {
        assert!(index.touch(&name(n)).is_some() && index.get(&name(n + INDEX_ENTRIES)).is_none());
    }
    assert_eq!(MADE.get(), made, "a look-up allocates nothing");
    // Half of them again, as when a disk fills with larger bodies.
    for n in 0..INDEX_ENTRIES / 2 {
        index.remove(&name(n));
        if n % 10_000 == 0 {
            look(&index);
        }
    }
    println!(
        "{INDEX_ENTRIES} entries and then half of them: at most {dearest:.2} bytes each, now {:.2}",
        (LIVE.get().wrapping_sub(before)) as f64 / index.len() as f64
    );
    assert!((16.0..=24.0).contains(&dearest), "{dearest:.2} bytes");
}
