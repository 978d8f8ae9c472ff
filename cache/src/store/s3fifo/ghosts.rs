//! Names of chunks that left lately: fingerprints with the time they left, in buckets, oldest overwritten.
//!
//! Eight bytes a ghost. A name can be forgotten early, where its bucket is full, or taken for another's with the same
//! fingerprint, about one of 2²⁹ / buckets; either costs a chunk a better or worse place, never its bytes.

/// Cells of a bucket: one cache line.
const WAYS: usize = 8;

/// A fingerprint in the upper half, in the lower which of the departures it was.
type Cell = u64;

#[derive(Debug)]
pub(super) struct Ghosts {
    /// A power of two of buckets, at least one.
    cells: Vec<Cell>,
    departures: u32,
}

impl Ghosts {
    pub(super) fn new() -> Self {
        Self {
            cells: vec![0; WAYS],
            departures: 0,
        }
    }

    /// Remembers a name that leaves.
    pub(super) fn remember(&mut self, fingerprint: u32) {
        // From 1, so that no cell in use is 0.
        self.departures = self.departures.wrapping_add(1).max(1);
        let departures = self.departures;
        let place = self
            .bucket(fingerprint)
            .iter_mut()
            .max_by_key(|cell| match **cell {
                0 => u32::MAX,
                cell if of(cell) == fingerprint => u32::MAX,
                cell => age(cell, departures),
            });
        if let Some(place) = place {
            *place = cell(fingerprint, departures);
        }
    }

    /// Whether the name is among the last `limit` that left. It is forgotten.
    pub(super) fn take(&mut self, fingerprint: u32, limit: usize) -> bool {
        let departures = self.departures;
        for place in self.bucket(fingerprint) {
            if *place != 0 && of(*place) == fingerprint {
                let found = (age(*place, departures) as usize) < limit;
                *place = 0;
                return found;
            }
        }
        false
    }

    /// Has room for so many: at most 8 bytes × 8/3 for each, and a bucket.
    pub(super) fn fit(&mut self, ghosts: usize) {
        let len = self.cells.len();
        if ghosts <= len && (len == WAYS || ghosts >= len / 8 * 3) {
            return;
        }
        let room = ghosts.next_power_of_two().max(WAYS);
        let old = std::mem::replace(&mut self.cells, vec![0; room]);
        let departures = self.departures;
        for kept in old.into_iter().filter(|cell| *cell != 0) {
            // The oldest makes room; one that is older than all of its new bucket is left out.
            let place = self
                .bucket(of(kept))
                .iter_mut()
                .max_by_key(|cell| match **cell {
                    0 => u32::MAX,
                    cell => age(cell, departures),
                });
            if let Some(place) = place
                && (*place == 0 || age(*place, departures) > age(kept, departures))
            {
                *place = kept;
            }
        }
    }

    fn bucket(&mut self, fingerprint: u32) -> &mut [Cell] {
        let start = (fingerprint as usize & (self.cells.len() / WAYS - 1)) * WAYS;
        &mut self.cells[start..start + WAYS]
    }
}

fn cell(fingerprint: u32, departure: u32) -> Cell {
    u64::from(fingerprint) << 32 | u64::from(departure)
}

fn of(cell: Cell) -> u32 {
    (cell >> 32) as u32
}

/// How many left after this one.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn age(cell: Cell, departures: u32) -> u32 {
    departures.wrapping_sub(cell as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform, as the bits of names are.
    fn fingerprint(n: u32) -> u32 {
        n.wrapping_mul(0x9e37_79b9)
            .rotate_left(13)
            .wrapping_mul(0x85eb_ca6b)
    }

    #[test]
    fn the_last_that_left_are_known_and_no_others() {
        let mut ghosts = Ghosts::new();
        ghosts.fit(1_000);
        for n in 0..5_000 {
            ghosts.remember(fingerprint(n));
        }
        let known = (4_500..5_000)
            .filter(|n| ghosts.take(fingerprint(*n), 500))
            .count();
        assert!(known >= 495, "{known} of 500");
        let others = (0..4_500)
            .filter(|n| ghosts.take(fingerprint(*n), 500))
            .count();
        assert_eq!(others, 0);
        assert!(!ghosts.take(fingerprint(4_999), 500), "it was taken before");
    }

    #[test]
    fn they_are_known_after_growing_and_the_youngest_after_shrinking() {
        let mut ghosts = Ghosts::new();
        ghosts.fit(100);
        for n in 0..100 {
            ghosts.remember(fingerprint(n));
        }
        let before = (0..100).filter(|n| knows(&mut ghosts, *n)).count();
        ghosts.fit(10_000);
        assert_eq!((0..100).filter(|n| knows(&mut ghosts, *n)).count(), before);
        ghosts.fit(10);
        assert_eq!(ghosts.cells.len(), 16);
        assert!(knows(&mut ghosts, 99) && !knows(&mut ghosts, 0));
    }

    fn knows(ghosts: &mut Ghosts, n: u32) -> bool {
        ghosts
            .bucket(fingerprint(n))
            .iter()
            .any(|cell| of(*cell) == fingerprint(n))
    }
}
