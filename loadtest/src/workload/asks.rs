//! The requests of one thread, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};

use super::{Ask, Known, Object, Order, Slices, Verb, Workload};

/// Requests in their order.
#[derive(Debug)]
pub struct Asks {
    workload: Workload,
    random: SmallRng,
    next: usize,
    /// The object whose slices are asked for in succession, and where the next begins.
    sliced: Option<(Arc<Object>, u64)>,
}

impl Asks {
    pub(super) fn new(workload: Workload, seed: u64, thread: u32) -> Self {
        let mut mix = blake3::Hasher::new_derive_key("stoq-bench 2026-11-21 requests v1");
        mix.update(&seed.to_le_bytes());
        mix.update(&thread.to_le_bytes());
        let mut bytes = [0; 8];
        mix.finalize_xof().fill(&mut bytes);
        let mut random = SmallRng::seed_from_u64(u64::from_le_bytes(bytes));
        // Threads that all began with the first object would ask for the same at the same time.
        let next = match thread {
            0 => 0,
            _ => random.random_range(0..workload.objects.len().max(1)),
        };
        Self {
            workload,
            random,
            next,
            sliced: None,
        }
    }

    /// The next request; `None` when a recorded trace is at its end.
    pub fn next_ask(&mut self) -> Option<Ask> {
        if let Order::Trace(trace) = &self.workload.order {
            let number = self.workload.taken.fetch_add(1, Ordering::Relaxed);
            return trace.ask(number, &self.workload.objects);
        }
        let share = self.workload.purge_share;
        if share > 0.0 && self.random.random_bool(share) {
            return Some(Ask {
                verb: Verb::Purge,
                object: self.object()?,
            });
        }
        if let Some(slices) = self.workload.slices {
            return self.slice(slices);
        }
        let object = self.object()?;
        let verb = match (&self.workload.order, &object.known) {
            (Order::Versioned { put_share }, Known::Versions(versions))
                if self.random.random_bool(*put_share) =>
            {
                versions.next().map_or(Verb::Get, Verb::Put)
            }
            _ => Verb::Get,
        };
        Some(Ask { verb, object })
    }

    fn object(&mut self) -> Option<Arc<Object>> {
        let objects = &self.workload.objects;
        let place = match &self.workload.order {
            Order::InTurn | Order::Versioned { .. } | Order::Trace(_) => {
                let place = self.next.checked_rem(objects.len())?;
                self.next = place + 1;
                place
            }
            Order::Weighted(weights) => weights.draw(&mut self.random),
            Order::Zipf(popular) => {
                let number = popular.law.draw(&mut self.random) - 1;
                let place = usize::try_from(number).ok()?;
                if place >= objects.len() {
                    return Some(Arc::new(Object::new(&popular.pattern.path(number))));
                }
                place
            }
        };
        objects.get(place).cloned()
    }

    fn slice(&mut self, slices: Slices) -> Option<Ask> {
        let (object, first, length) = match self.sliced.take() {
            Some((object, first)) => {
                let length = object.length()?;
                (object, first, length)
            }
            None => {
                let object = self.object()?;
                // Nobody can ask for a range of nothing, nor of what is not known: asked for whole, and judged as that.
                let Some(length) = object.length().filter(|length| *length > 0) else {
                    let verb = Verb::Get;
                    return Some(Ask { verb, object });
                };
                let first = if slices.random {
                    let starts = length.saturating_sub(slices.length);
                    self.random.random_range(0..=starts)
                } else {
                    0
                };
                (object, first, length)
            }
        };
        let after = first.saturating_add(slices.length).min(length);
        if !slices.random && after < length {
            self.sliced = Some((Arc::clone(&object), after));
        }
        let last = after.saturating_sub(1);
        Some(Ask {
            verb: Verb::Range { first, last },
            object,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::workload::ZIPF_KEPT;

    fn paths(workload: &Workload, seed: u64, thread: u32, count: usize) -> Vec<String> {
        let mut asks = workload.asks(seed, thread);
        let path = |_| asks.next_ask().unwrap().object.path.to_string();
        (0..count).map(path).collect()
    }

    fn sized(length: u64) -> Workload {
        let known = Known::Length(length);
        Workload::of(vec![Arc::new(Object {
            known,
            ..Object::new("/x")
        })])
    }

    fn range(ask: &Ask) -> (u64, u64) {
        match ask.verb {
            Verb::Range { first, last } => (first, last),
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_without_weights_is_asked_for_in_turn() {
        let list = Workload::read_list("/a\n/b\n/c", "https", "h").unwrap();
        assert_eq!(paths(&list, 1, 0, 4), ["/a", "/b", "/c", "/a"]);
    }

    #[test]
    fn a_weight_is_the_share_of_the_requests() {
        let list = Workload::read_list("/a weight:3\n/b\n/never weight:0", "https", "h").unwrap();
        let mut counts = BTreeMap::new();
        for path in paths(&list, 1, 0, 40_000) {
            *counts.entry(path).or_insert(0_i32) += 1;
        }
        assert!(!counts.contains_key("/never"));
        // 5 standard deviations of a share of 3/4 of 40,000.
        assert!((counts["/a"] - 30_000).abs() < 434, "{counts:?}");
    }

    #[test]
    fn the_same_seed_and_thread_ask_for_the_same_and_others_for_others() {
        let zipf = Workload::zipf(1_000_000, 0.8, "/o/{}").unwrap();
        assert_eq!(paths(&zipf, 1, 0, 100), paths(&zipf, 1, 0, 100));
        assert_ne!(paths(&zipf, 1, 0, 100), paths(&zipf, 1, 1, 100));
        assert_ne!(paths(&zipf, 1, 0, 100), paths(&zipf, 2, 0, 100));
    }

    #[test]
    fn popular_objects_are_shared_and_rare_ones_made_when_asked_for() {
        let zipf = Workload::zipf(10_000_000, 0.5, "/o/{}?v").unwrap();
        assert_eq!(zipf.objects().len(), ZIPF_KEPT as usize);
        let mut asks = zipf.asks(1, 0);
        let (mut shared, mut made) = (0, 0);
        for _ in 0..2_000 {
            let object = asks.next_ask().unwrap().object;
            let number: u64 = object.path["/o/".len()..object.path.len() - 2]
                .parse()
                .unwrap();
            let kept = usize::try_from(number)
                .ok()
                .and_then(|place| zipf.objects().get(place));
            match kept {
                Some(kept) => {
                    assert!(Arc::ptr_eq(kept, &object));
                    shared += 1;
                }
                None => made += 1,
            }
        }
        assert!(shared > 0 && made > 0);
        assert!(zipf.describe().contains("framing alone"));
    }

    #[test]
    fn purges_have_their_share() {
        let mixed = Workload::one("/x").purging(0.25).unwrap();
        let mut asks = mixed.asks(1, 0);
        let purges = (0..40_000)
            .filter(|_| asks.next_ask().unwrap().verb == Verb::Purge)
            .count();
        // 5 standard deviations.
        assert!(purges.abs_diff(10_000) < 434, "{purges}");
    }

    #[test]
    fn an_object_of_no_or_unknown_length_is_asked_for_whole() {
        let slices = Slices {
            length: 10,
            random: true,
        };
        for workload in [sized(0), Workload::one("/x")] {
            let mut asks = workload.in_slices(slices).unwrap().asks(1, 0);
            assert_eq!(asks.next_ask().unwrap().verb, Verb::Get);
        }
    }

    #[test]
    fn an_object_is_updated_by_one_at_a_time_and_never_again_after_a_failure() {
        let workload = Workload::versioned(&["/x".to_owned()], 4096, 0.5, 1).unwrap();
        let (mut one, mut two) = (workload.asks(1, 0), workload.asks(1, 1));
        let mut puts = 0;
        for _ in 0..1000 {
            puts += usize::from(matches!(one.next_ask().unwrap().verb, Verb::Put(_)));
            puts += usize::from(matches!(two.next_ask().unwrap().verb, Verb::Put(_)));
        }
        assert_eq!(puts, 1, "nobody has acknowledged it");
    }

    proptest! {
        #[test]
        fn successive_slices_are_the_object_without_gap_or_overlap(
            length in 1..100_000_u64, slice in 1..5_000_u64,
        ) {
            let workload = sized(length);
            let slices = Slices { length: slice, random: false };
            let mut asks = workload.in_slices(slices).unwrap().asks(0, 0);
            for _ in 0..2 {
                let mut next = 0;
                while next < length {
                    let (first, last) = range(&asks.next_ask().unwrap());
                    prop_assert_eq!(first, next);
                    prop_assert!(last >= first && last - first < slice);
                    next = last + 1;
                }
                prop_assert_eq!(next, length);
            }
        }

        #[test]
        fn random_slices_lie_within_the_object_and_have_their_length(
            length in 1..100_000_u64, slice in 1..200_000_u64, seed: u64,
        ) {
            let slices = Slices { length: slice, random: true };
            let mut asks = sized(length).in_slices(slices).unwrap().asks(seed, 0);
            for _ in 0..20 {
                let (first, last) = range(&asks.next_ask().unwrap());
                prop_assert!(last < length);
                prop_assert_eq!(last - first + 1, slice.min(length));
            }
        }
    }
}
