//! How far the readers of a fill are.

use std::collections::BTreeMap;

/// The next byte each reader wants. A move costs the logarithm of their number, for a thousand may read one fill.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    /// `None` marks a free seat.
    seats: Vec<Option<u64>>,
    free: Vec<usize>,
    /// How many readers are at each offset.
    at: BTreeMap<u64, usize>,
}

impl Readers {
    /// Seats a reader.
    pub(crate) fn sit(&mut self, offset: u64) -> usize {
        let seat = self.free.pop().unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.place(seat, Some(offset));
        seat
    }

    /// Moves a reader, or frees its seat.
    pub(crate) fn place(&mut self, seat: usize, offset: Option<u64>) {
        let Some(slot) = self.seats.get_mut(seat) else {
            return;
        };
        let left = std::mem::replace(slot, offset);
        if let Some(left) = left
            && let Some(count) = self.at.get_mut(&left)
        {
            *count -= 1;
            if *count == 0 {
                self.at.remove(&left);
            }
        }
        if left.is_some() && offset.is_none() {
            self.free.push(seat);
        }
        if let Some(offset) = offset {
            *self.at.entry(offset).or_default() += 1;
        }
    }

    /// Where the reader furthest ahead is; `None` without readers.
    pub(crate) fn fastest(&self) -> Option<u64> {
        self.at.last_key_value().map(|(offset, _)| *offset)
    }

    /// Where the reader furthest behind is.
    pub(crate) fn slowest(&self) -> Option<u64> {
        self.at.first_key_value().map(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fastest_and_slowest_are_those_of_a_plain_list(
            moves in proptest::collection::vec((0_usize..8, proptest::option::of(0_u64..20)), 0..60),
        ) {
            let (mut readers, mut model) = (Readers::default(), vec![None; 8]);
            for (seat, place) in model.iter_mut().enumerate() {
                assert_eq!(readers.sit(0), seat);
                *place = Some(0);
            }
            for (seat, offset) in moves {
                // A reader that left does not move again.
                if model[seat].is_none() {
                    continue;
                }
                readers.place(seat, offset);
                model[seat] = offset;
                prop_assert_eq!(readers.fastest(), model.iter().flatten().max().copied());
                prop_assert_eq!(readers.slowest(), model.iter().flatten().min().copied());
            }
            let seat = readers.sit(5);
            prop_assert!(seat == 8 || model[seat].is_none(), "a seat is taken twice");
        }
    }
}
