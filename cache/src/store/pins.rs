//! Pins on the chunks of one body under way, so that a large new object is whole when it is complete.
//!
//! A policy that resists scans gives new chunks a small part of the tier. The first chunks of an object larger than that part leave it while the
//! last ones arrive, and an upstream would be asked for them again at the next request. Pinned ones stay; together they take at
//! most a quarter of the tier, and beyond that chunks go in like any other, counted.

use std::{collections::HashSet, fmt};

use bytes::Bytes;

use super::Store;
use crate::content::ChunkId;

/// Puts chunks and pins them, until it is dropped. 56 bytes a chunk.
pub struct Pins {
    store: Store,
    held: HashSet<ChunkId>,
}

impl Pins {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            held: HashSet::new(),
        }
    }

    /// [`Store::put`], and a pin where there is room for one.
    pub fn put(&mut self, id: ChunkId, bytes: Bytes) {
        self.store.put(id, bytes);
        // What is on disk is not asked of an upstream again.
        if self.held.contains(&id) || self.store.disk_contains(&id) {
            return;
        }
        if self.store.ram.pin(&id) {
            self.held.insert(id);
        } else {
            self.store.metrics.unpinned_chunks.inc();
        }
    }

    /// Gives all pins back: the chunks are as young as any from here on.
    pub fn release(&mut self) {
        for id in self.held.drain() {
            self.store.ram.unpin(&id);
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins")
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}
