//! Which sources completed a handshake, and until when that counts: the bookkeeping behind the program's map.
//!
//! The program only reads its map, so whoever writes it has to take out what is over. This keeps what was put in, in the
//! order in which it ends, and tells what to write and what to take out. A full table refuses a newcomer after what is
//! over was taken out: somebody who completes handshakes from many sources displaces nobody. No IPv6 /48 has more than its share: whoever
//! was given one, as any customer may be, has as many sources as there are places.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use crate::abi::{VALIDATED_MAX, prefix};

/// Entries taken out at most at one call, so that one call is short: about a millisecond of system calls.
pub(crate) const SWEEP_MAX: usize = 1024;

/// Of one IPv6 /48. A carrier gives each of its customers a /64, so it is not few.
const OF_PREFIX_MAX: usize = 1024;

/// Sources with the time until which they count, in nanoseconds of the same clock that `now` is of.
///
/// 65,536 entries at most, some 7 MiB beside the program's own 4 MiB.
#[derive(Debug)]
pub(crate) struct Validated {
    ends: HashMap<u64, u64>,
    in_order: BTreeSet<(u64, u64)>,
    by_prefix: HashMap<u64, usize>,
    max: usize,
    of_prefix_max: usize,
}

/// What became of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It is to be written with its new end.
    Written,
    /// It counts for as long already.
    Unchanged,
    /// There is no room, in the table or for its prefix.
    Full,
}

impl Default for Validated {
    fn default() -> Self {
        Self::with_room(VALIDATED_MAX as usize, OF_PREFIX_MAX)
    }
}

impl Validated {
    fn with_room(max: usize, of_prefix_max: usize) -> Self {
        Self {
            ends: HashMap::new(),
            in_order: BTreeSet::new(),
            by_prefix: HashMap::new(),
            max,
            of_prefix_max,
        }
    }

    pub(crate) fn enter(&mut self, source: u64, until_ns: u64) -> Entered {
        let neighbours = self.by_prefix.get(&prefix(source)).copied().unwrap_or(0);
        let full = self.ends.len() >= self.max || neighbours >= self.of_prefix_max;
        match self.ends.entry(source) {
            Entry::Occupied(known) if *known.get() >= until_ns => Entered::Unchanged,
            Entry::Occupied(mut known) => {
                self.in_order.remove(&(*known.get(), source));
                known.insert(until_ns);
                self.in_order.insert((until_ns, source));
                Entered::Written
            }
            Entry::Vacant(_) if full => Entered::Full,
            Entry::Vacant(free) => {
                free.insert(until_ns);
                self.in_order.insert((until_ns, source));
                self.by_prefix.insert(prefix(source), neighbours + 1);
                Entered::Written
            }
        }
    }

    /// Takes out one source whose time is over, if there is one.
    pub(crate) fn take_over(&mut self, now_ns: u64) -> Option<u64> {
        let (until_ns, source) = *self.in_order.first()?;
        if until_ns > now_ns {
            return None;
        }
        self.forget(source);
        Some(source)
    }

    /// Who is in it, with the time until which each counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ends
            .iter()
            .map(|(source, until_ns)| (*source, *until_ns))
    }

    /// Forgets a source.
    pub(crate) fn forget(&mut self, source: u64) {
        if let Some(until_ns) = self.ends.remove(&source) {
            self.in_order.remove(&(until_ns, source));
            if let Entry::Occupied(mut neighbours) = self.by_prefix.entry(prefix(source)) {
                *neighbours.get_mut() -= 1;
                if *neighbours.get() == 0 {
                    neighbours.remove();
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_table_refuses_newcomers_and_keeps_whom_it_has() {
        let mut table = Validated::with_room(2, 2);
        assert_eq!(table.enter(1, 100), Entered::Written);
        assert_eq!(table.enter(2, 200), Entered::Written);
        assert_eq!(table.enter(3, 300), Entered::Full);
        assert_eq!(table.enter(1, 400), Entered::Written);
        assert_eq!(table.take_over(300), Some(2));
        assert_eq!(table.enter(3, 300), Entered::Written);
    }

    #[test]
    fn one_who_has_a_48_does_not_fill_the_table() {
        let mut table = Validated::default();
        let of = |prefix: u64, host: u64| 0x2001_0db8_0000_0000 | prefix << 16 | host;
        let entered = (0..65_536).filter(|host| table.enter(of(1, *host), 100) == Entered::Written);
        assert_eq!(entered.count(), OF_PREFIX_MAX);
        assert_eq!(
            table.enter(of(1, 5), 200),
            Entered::Written,
            "who is there stays"
        );
        assert_eq!(table.enter(of(2, 0), 100), Entered::Written);
        // A /24 has no more than 256 sources.
        let v4 = (0..256).map(|host| 0xffff_c000_0200 | host);
        assert!(
            v4.into_iter()
                .all(|source| table.enter(source, 100) == Entered::Written)
        );
        while table.take_over(100).is_some() {}
        assert_eq!(
            table.enter(of(1, 65_535), 300),
            Entered::Written,
            "it has room again"
        );
        assert_eq!(table.len(), 2);
        assert_eq!(table.by_prefix.len(), 1);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_would(steps in proptest::collection::vec((0_u64..20, 1_u64..100, any::<bool>()), 0..200)) {
            // In prefixes of two.
            let steps = steps.into_iter().map(|(number, time, sweep)| (number << 15, time, sweep));
            let mut table = Validated::with_room(10, 1);
            let mut model: HashMap<u64, u64> = HashMap::new();
            for (source, time, sweep) in steps {
                if sweep {
                    while let Some(gone) = table.take_over(time) {
                        let until = model.remove(&gone);
                        prop_assert!(until.is_some_and(|until| until <= time));
                    }
                    prop_assert!(model.values().all(|until| *until > time));
                } else {
                    let expected = match model.get(&source) {
                        Some(until) if *until >= time => Entered::Unchanged,
                        None if model.len() >= 10 || model.contains_key(&(source ^ 1 << 15)) => Entered::Full,
                        _ => { model.insert(source, time); Entered::Written }
                    };
                    prop_assert_eq!(table.enter(source, time), expected);
                }
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
