//! The filter before the table of validated sources: which of its bits are set, and who has set them.
//!
//! In a flood nearly all sources that are asked about are strangers, and a look into the table is the dearest part of dropping
//! their packets. The program asks the filter first: an array that a cache holds, with a bit for the place of each source in the
//! table. Bits are shared, so one is cleared when the last of its sources is gone.

use std::collections::BTreeSet;

use crate::abi::filter_bit;

/// A word of the map: its index, and what it is to be.
pub(crate) type Word = (u32, u64);

/// Sources by the bit that each has. At most as many as the table holds, some 2 MiB.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    by_bit: BTreeSet<(u32, u64)>,
}

impl Filter {
    /// A source came into the table, or was there. The word that changes by it.
    pub(crate) fn enter(&mut self, source: u64) -> Option<Word> {
        let bit = filter_bit(source);
        let was_set = self.is_set(bit);
        self.by_bit.insert((bit, source));
        (!was_set).then(|| self.word(bit))
    }

    /// A source left the table. The word that changes by it.
    pub(crate) fn leave(&mut self, source: u64) -> Option<Word> {
        let bit = filter_bit(source);
        let was_there = self.by_bit.remove(&(bit, source));
        (was_there && !self.is_set(bit)).then(|| self.word(bit))
    }

    fn is_set(&self, bit: u32) -> bool {
        self.by_bit
            .range((bit, 0)..=(bit, u64::MAX))
            .next()
            .is_some()
    }

    fn word(&self, bit: u32) -> Word {
        let first = bit & !63;
        let of_word = self.by_bit.range((first, 0)..=(first | 63, u64::MAX));
        let value = of_word.fold(0, |word, (bit, _)| word | 1 << (bit & 63));
        (bit >> 6, value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::abi::FILTER_BITS_LOG;

    #[test]
    fn places_are_spread_and_within_the_map() {
        let places: HashSet<u32> = (0..10_000_u64)
            .map(|host| filter_bit(0x0000_ffff_c000_0000 | host))
            .collect();
        assert!(places.iter().all(|bit| bit >> FILTER_BITS_LOG == 0));
        assert!(places.len() > 9_900, "{} of 10000", places.len());
    }

    /// Sources that share a bit, among others that share its word.
    fn neighbours() -> Vec<u64> {
        let bit = filter_bit(1);
        let same = (0..40_000_000_u64).filter(|source| filter_bit(*source) == bit);
        let near = (0..10_000_000_u64)
            .filter(|source| filter_bit(*source) >> 6 == bit >> 6 && filter_bit(*source) != bit);
        same.take(3).chain(near.take(3)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_bit_is_set_while_one_of_its_sources_is_there(steps in proptest::collection::vec((0_usize..6, any::<bool>()), 0..60)) {
            use std::collections::HashMap;
            static SOURCES: std::sync::LazyLock<Vec<u64>> = std::sync::LazyLock::new(neighbours);
            let sources = &*SOURCES;
            prop_assert_eq!(sources.len(), 6);
            let (mut filter, mut map) = (Filter::default(), HashMap::new());
            let mut there = HashSet::new();
            for (which, enters) in steps {
                let source = sources[which];
                let changed = if enters {
                    there.insert(source);
                    filter.enter(source)
                } else {
                    there.remove(&source);
                    filter.leave(source)
                };
                map.extend(changed);
                for source in sources {
                    let bit = filter_bit(*source);
                    let word: u64 = map.get(&(bit >> 6)).copied().unwrap_or(0);
                    let wanted = there.iter().any(|other| filter_bit(*other) == bit);
                    prop_assert_eq!(word >> (bit & 63) & 1 == 1, wanted);
                }
            }
        }
    }
}
