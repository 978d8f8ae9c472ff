//! The bound of the memory tier is one of the process: resident memory under tiny chunks and under large ones.
//!
//! One test a process, since resident memory is the process's. The short form is part of the suite; the long one is
//!
//!     cargo test --release -p stoq-cache --test resident -- --ignored --nocapture
//!
//! `STOQ_TIER` takes `s3fifo` (the default), `quick` or `moka` there.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

use std::{env, fs};

use bytes::Bytes;
use stoq_cache::{
    content::ChunkId,
    store::{MokaTier, QuickTier, RamTier, S3FifoTier},
};

const MIB: u64 = 1 << 20;
/// What the allocator may lose, in eighths of the capacity; the tier's own account has none of it.
const LOST: u64 = 1;
/// The same where tiny chunks take the place of large ones, and what was left between those stays.
const LOST_AFTER_LARGE: u64 = 2;
/// The same where large chunks take the place of tiny ones. With the allocator of glibc the blocks of 32 bytes that share a large buffer go into the room
/// of the tiny chunks that made way for it, so that what is left of that room is too short for the next large chunk, for as long as it lives. It does
/// not add up from one such change to the next.
const LOST_AFTER_TINY: u64 = 5;

fn tier(capacity: u64) -> Box<dyn RamTier> {
    match env::var("STOQ_TIER").as_deref() {
        Ok("quick") => Box::new(QuickTier::new(capacity)),
        Ok("moka") => Box::new(MokaTier::new(capacity)),
        Ok("s3fifo") | Err(_) => Box::new(S3FifoTier::new(capacity)),
        Ok(other) => panic!("STOQ_TIER: {other:?} is none of s3fifo, quick, moka"),
    }
}

/// Bytes of memory this process has resident.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

/// `chunks` of lengths up to `len`, each read once. The most that was resident above `before`.
fn fill(tier: &dyn RamTier, before: u64, first: u64, chunks: u64, len: u64) -> u64 {
    let mut highest = 0;
    for n in first..first + chunks {
        let hash = blake3::hash(&n.to_le_bytes());
        let [a, b, ..] = *hash.as_bytes();
        // Between half of it and all.
        let len = len - len / 2 * u64::from(u16::from_le_bytes([a, b])) / 65_536;
        let id = ChunkId::from_bytes(*hash.as_bytes());
        tier.insert(id, Bytes::from(vec![1; usize::try_from(len).unwrap()]));
        drop(tier.get(&id));
        if n % 1_000 == 0 {
            highest = highest.max(resident().saturating_sub(before));
        }
    }
    highest.max(resident().saturating_sub(before))
}

fn stays_within(capacity: u64, tiny: u64, large: u64) {
    let before = resident();
    let tier = tier(capacity);
    let mut first = 0;
    let mut over = Vec::new();
    for (what, chunks, len, lost) in [
        ("large", large, 64 << 10, LOST),
        ("tiny", tiny, 200, LOST_AFTER_LARGE),
        ("large again", large, 64 << 10, LOST_AFTER_TINY),
        ("tiny again", tiny, 200, LOST_AFTER_TINY),
        ("large a third time", large, 64 << 10, LOST_AFTER_TINY),
    ] {
        let highest = fill(&*tier, before, first, chunks, len);
        first += chunks;
        println!(
            "{chunks} {what} chunks of up to {len} B: {:.1} MiB resident at most, {:.1} MiB accounted for, {} held; capacity {} MiB",
            highest as f64 / MIB as f64,
            tier.bytes_used() as f64 / MIB as f64,
            tier.len(),
            capacity / MIB,
        );
        if highest > capacity + capacity / 8 * lost {
            over.push(what);
        }
    }
    assert!(
        over.is_empty(),
        "above its bound and what an allocator may lose with {over:?}: {tier:?}"
    );
}

#[test]
fn resident_memory_stays_near_the_bound() {
    stays_within(48 * MIB, 150_000, 3_000);
}

#[test]
#[ignore = "a quarter of a minute: a million tiny chunks, 50,000 large ones"]
fn resident_memory_stays_near_the_bound_at_length() {
    stays_within(256 * MIB, 1_000_000, 50_000);
}
