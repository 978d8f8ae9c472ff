//! Rates in cells: GCRA in one `u64` a cell, in a sketch of two rows, and the greylist of Initials that came before.
//!
//! The memory does not grow with the number of sources: those that share both cells share a budget.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::abi::{
    Budget, GREYLIST_CELLS, GREYLIST_SHIFT, GREYLIST_TIME_BITS, GREYLIST_UNITS_MAX,
    GREYLIST_UNITS_MIN, GREYLIST_WAYS, SKETCH_ROWS,
};

/// Places in sketches: SipHash-1-3, keyed so that nobody outside can aim at a cell.
fn hash(key: [u64; 2], id: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    hasher.write(&id.to_le_bytes());
    hasher.finish()
}

/// Of a source and a destination connection ID, zeroes after it: `mix` of `bpf/xdp.c`.
pub(super) fn hash_of_id(key: [u64; 2], source: u64, id: [u64; 3]) -> u64 {
    let mut x = (source ^ key[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x ^= key[1] ^ id[0] ^ id[1].rotate_left(21) ^ id[2].rotate_left(42);
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

/// The arrival time that a packet would bring a cell to, unless that is over budget.
fn arrival(cell: u64, budget: Budget, now_ns: u64) -> Option<u64> {
    let arrival = cell.max(now_ns).wrapping_add(budget.interval_ns);
    (arrival <= now_ns.wrapping_add(budget.burst_ns)).then_some(arrival)
}

/// Whether a budget that has a cell to itself has room.
pub(super) fn has_room(cell: u64, budget: Budget, now_ns: u64) -> bool {
    budget.interval_ns == 0 || arrival(cell, budget, now_ns).is_some()
}

/// Charges a budget that has a cell to itself. A refusal writes nothing.
pub(super) fn charge_one(cell: &mut u64, budget: Budget, now_ns: u64) -> bool {
    if budget.interval_ns == 0 {
        return true;
    }
    match arrival(*cell, budget, now_ns) {
        None => false,
        Some(arrival) => {
            *cell = arrival.max(*cell);
            true
        }
    }
}

/// A sketch: for each class two rows of cells. A packet is charged to one cell of each row, of which the lower counts.
pub(super) struct Cells {
    cells: Vec<u64>,
    row: u32,
}

impl Cells {
    /// `row` cells a row, a power of two.
    pub(super) fn new(classes: u32, row: u32) -> Self {
        Self {
            cells: vec![0; (classes * SKETCH_ROWS * row) as usize],
            row,
        }
    }

    fn places(&self, key: [u64; 2], class: u32, id: u64) -> [usize; SKETCH_ROWS as usize] {
        let hash = hash(key, id);
        let mask = u64::from(self.row - 1);
        let first = u64::from(class * SKETCH_ROWS * self.row);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "below the length of `cells`"
        )]
        [
            (first + (hash & mask)) as usize,
            (first + u64::from(self.row) + (hash >> 32 & mask)) as usize,
        ]
    }

    /// Whether `id` is within the budget; if so it is charged.
    pub(super) fn charge(
        &mut self,
        key: [u64; 2],
        class: u32,
        id: u64,
        budget: Budget,
        now_ns: u64,
    ) -> bool {
        if budget.interval_ns == 0 {
            return true;
        }
        let places = self.places(key, class, id);
        let Ok([first, second]) = self.cells.get_disjoint_mut(places) else {
            return true;
        };
        match arrival((*first).min(*second), budget, now_ns) {
            None => false,
            Some(arrival) => {
                *first = arrival.max(*first);
                *second = arrival.max(*second);
                true
            }
        }
    }
}

/// Newcomers' Initials that were refused: what is left of their hash, and when. In rows, of which the oldest cell is written next.
pub(super) struct Greylist {
    rows: Vec<[u32; GREYLIST_WAYS as usize]>,
}

/// Of a cell.
const TIME_MASK: u32 = (1 << GREYLIST_TIME_BITS) - 1;

impl Greylist {
    pub(super) fn new() -> Self {
        Self {
            rows: vec![[0; GREYLIST_WAYS as usize]; (GREYLIST_CELLS / GREYLIST_WAYS) as usize],
        }
    }

    /// Whether what has this hash came [`GREYLIST_UNITS_MIN`] to [`GREYLIST_UNITS_MAX`] ago. Remembers it unless it came
    /// within that time.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "of hash and time the bits that a cell holds"
    )]
    pub(super) fn came_before(&mut self, hash: u64, now_ns: u64) -> bool {
        let now = (now_ns >> GREYLIST_SHIFT) as u32 & TIME_MASK;
        let mark = ((hash >> 28) as u32) << GREYLIST_TIME_BITS;
        let place = hash & u64::from(GREYLIST_CELLS - 1);
        let row = (place / u64::from(GREYLIST_WAYS)) as usize;
        let Some(row) = self.rows.get_mut(row) else {
            return false;
        };
        let age_of = |cell: u32| now.wrapping_sub(cell) & TIME_MASK;
        let known = |cell: &&u32| **cell != 0 && **cell & !TIME_MASK == mark;
        let found = row.iter().filter(known).map(|cell| age_of(*cell));
        if let Some(age) = found.into_iter().find(|age| *age <= GREYLIST_UNITS_MAX) {
            return age >= GREYLIST_UNITS_MIN;
        }
        // Of several the first; an empty one is older than any.
        let age = |cell: &u32| match *cell {
            0 => TIME_MASK + 1,
            cell => age_of(cell),
        };
        let oldest = row.iter_mut().rev().max_by_key(|cell| age(cell));
        if let Some(oldest) = oldest {
            *oldest = mark | now;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_at_once_and_the_rate_after_it() {
        let budget = Budget::per_second(10, 5);
        let mut cells = Cells::new(1, 64);
        let mut passed = |from_ns, packets: u64, apart_ns| {
            (0..packets)
                .filter(|i| cells.charge([1, 2], 0, 7, budget, from_ns + i * apart_ns))
                .count()
        };
        assert_eq!(passed(SECOND_NS, 100, 0), 5);
        assert_eq!(
            passed(SECOND_NS, 1000, SECOND_NS / 100),
            99,
            "ten seconds of ten"
        );
        assert_eq!(
            passed(100 * SECOND_NS, 100, 0),
            5,
            "and the burst comes back"
        );
    }

    #[test]
    fn a_burst_of_nothing_refuses_all() {
        let mut cell = 0;
        for budget in [Budget::per_second(0, 9), Budget::per_second(9, 0)] {
            assert!(!charge_one(&mut cell, budget, SECOND_NS));
        }
        assert!(charge_one(&mut cell, Budget::NONE, SECOND_NS));
        assert_eq!(cell, 0);
    }

    /// Ten million sources at an even rate, and a client that keeps to a sixth of its budget.
    #[test]
    fn ten_million_sources_cost_a_modest_client_less_than_one_packet_in_a_hundred() {
        let budget = Budget::per_second(30, 60);
        let mut cells = Cells::new(crate::abi::CLASSES, crate::abi::SOURCE_CELLS);
        let (mut lost, mut sent) = (0, 0);
        for i in 0..10_000_000u64 {
            // 200,000 a second.
            let now_ns = SECOND_NS + i * 5_000;
            cells.charge(
                [3, 4],
                0,
                0xffff_0000_0000 | i.wrapping_mul(0x9e37_79b9) & 0xffff_ffff,
                budget,
                now_ns,
            );
            if i % 40_000 == 0 {
                sent += 1;
                lost += u32::from(!cells.charge([3, 4], 0, 1 << 60, budget, now_ns));
            }
        }
        assert_eq!(cells.cells.len(), 1_310_720);
        assert!(lost * 100 < sent, "{lost} of {sent}");
    }

    #[test]
    fn an_initial_counts_as_repeated_between_a_fifth_of_a_second_and_four() {
        let mut greylist = Greylist::new();
        let hash = 0xdead_beef_0123_4567;
        let mut at_ms = |ms: u64| greylist.came_before(hash, SECOND_NS + ms * 1_000_000);
        // To the unit of 34 ms.
        assert!(!at_ms(0));
        assert!(!at_ms(166));
        assert!(at_ms(234));
        assert!(at_ms(3959));
        assert!(!at_ms(4034), "forgotten, and remembered anew");
        assert!(at_ms(4034 + 234));
    }

    #[test]
    fn a_row_remembers_the_last_four() {
        let mut greylist = Greylist::new();
        // Of one row, each with a mark of its own.
        let hash = |which: u64| which << 28 | 0x1234;
        let mut at_ms =
            |which, ms: u64| greylist.came_before(hash(which), SECOND_NS + ms * 1_000_000);
        for which in 1..=5 {
            assert!(!at_ms(which, which * 100));
        }
        for which in 2..=5 {
            assert!(at_ms(which, 800), "{which}");
        }
        assert!(!at_ms(1, 800), "the oldest went for the fifth");
        assert!(!at_ms(2, 800), "and then the next");
    }
}
