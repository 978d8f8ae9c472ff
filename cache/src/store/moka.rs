//! The tier in memory over `moka`: W-TinyLFU admission, with a bound that holds at any time.
//!
//! `moka` by itself takes an entry first and makes room later. Here room is reserved before a chunk goes in and given back by the
//! listener when it is out, so its weights and the bound are two accounts: `moka`'s own target is a little below. And what `moka` evicts it keeps for
//! a while, until no thread can be looking at it (64 entries of 256 KiB are 16 MiB), so the listener takes the bytes out.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use moka::{notification::RemovalCause, sync::Cache};
use parking_lot::Mutex;

use super::ram::{Inserted, RamTier};
use crate::content::{CHUNK_BYTES_MAX, ChunkId};

/// What a held chunk costs beside its bytes, at most: what `moka` 0.12 allocates for an entry (the shared key, the entry, its information and
/// its node in a queue, four allocations), its bucket in the table, its counters in the sketch, the shared place of the bytes, and the
/// allocation that shares a buffer once it was cloned. Found by an allocator that counts.
pub(super) const ENTRY_BYTES: u64 = 560;

/// A chunk's bytes, until it is evicted.
type Held = Arc<Mutex<Option<Bytes>>>;

/// What an empty one costs: its channels and the table's segments.
const OVERHEAD_BYTES: u64 = 256 * 1024;

/// `moka`'s target is below the capacity by this part of it, 1/32, so that room is found without waiting where threads insert at once.
const SLACK_PART: u64 = 32;

/// How often an insertion asks `moka` to make room before its chunk is let go.
const ROOM_TRIES: usize = 4;

/// A [`RamTier`] that admits a chunk over others only if it was asked for more often.
///
/// The bound: chunk bytes plus 560 for each never exceed the capacity less 256 KiB. Room is reserved before a chunk goes in. It pins nothing.
pub struct MokaTier {
    cache: Cache<ChunkId, Held>,
    capacity: u64,
    /// The most that `used` may be.
    room: u64,
    largest: u64,
    account: Arc<Account>,
}

#[derive(Default)]
struct Account {
    used: AtomicU64,
    held: AtomicU64,
    evicted: AtomicU64,
}

impl MokaTier {
    /// A tier that accounts for at most `capacity` bytes.
    ///
    /// Capacities from 2 MiB up take every chunk. A smaller one takes those that fit a quarter of it, and one below 256 KiB none.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let room = capacity.saturating_sub(OVERHEAD_BYTES);
        let account = Arc::new(Account::default());
        let leaving = Arc::clone(&account);
        let cache = Cache::builder()
            .max_capacity(room - room / SLACK_PART)
            .weigher(|_, held: &Held| {
                let weight = held.lock().as_ref().map_or(0, weight);
                u32::try_from(weight).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, held, cause| {
                let bytes = held.lock().take();
                let weight = bytes.as_ref().map_or(0, weight);
                drop(bytes);
                leaving.used.fetch_sub(weight, Ordering::AcqRel);
                leaving.held.fetch_sub(1, Ordering::Relaxed);
                // Another thread's copy of the same chunk is no eviction.
                if cause != RemovalCause::Replaced {
                    leaving.evicted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self {
            cache,
            capacity,
            room,
            largest: (room / 4).min(CHUNK_BYTES_MAX as u64 + ENTRY_BYTES),
            account,
        }
    }

    /// Whether `weight` more is accounted for now.
    fn reserve(&self, weight: u64) -> bool {
        let more = |used: u64| Some(used + weight).filter(|used| *used <= self.room);
        (0..ROOM_TRIES).any(|tried| {
            if tried > 0 {
                self.cache.run_pending_tasks();
            }
            self.account
                .used
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
                .is_ok()
        })
    }
}

impl RamTier for MokaTier {
    fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.cache.get(id)?.lock().clone()
    }

    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted {
        let weight = weight(&bytes);
        if weight > self.largest {
            return Inserted::TooLarge;
        }
        if self.cache.contains_key(&id) {
            return Inserted::Present;
        }
        if self.reserve(weight) {
            self.account.held.fetch_add(1, Ordering::Relaxed);
            self.cache.insert(id, Arc::new(Mutex::new(Some(bytes))));
        } else {
            self.account.evicted.fetch_add(1, Ordering::Relaxed);
        }
        Inserted::Stored
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.cache.contains_key(id)
    }

    fn bytes_used(&self) -> u64 {
        self.account.used.load(Ordering::Acquire)
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn len(&self) -> usize {
        usize::try_from(self.account.held.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    fn evicted(&self) -> u64 {
        self.account.evicted.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MokaTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaTier")
            .field("capacity", &self.capacity)
            .field("bytes_used", &self.bytes_used())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn weight(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_BYTES
}
