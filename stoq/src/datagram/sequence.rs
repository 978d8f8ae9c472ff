//! Numbers for what is sent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Gives every datagram of one direction of one connection its number. Shared by all who send.
//= https://www.rfc-editor.org/rfc/rfc4303#section-2.2
//# The sender's counter and the receiver's counter are initialized to 0 when an SA is established.  (The first packet
//# sent using a given SA will have a sequence number of 1
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// The next number: 1 at first. `None` after 2⁶⁴−1, and from then on.
    //= https://www.rfc-editor.org/rfc/rfc4303#section-2.2
    //# If anti-replay is enabled (the default), the transmitted sequence number must never be allowed to cycle.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        // Nothing else is ordered by it: each number is taken once, which is all that is asked.
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                last.checked_add(1)
            });
        before.ok().map(|last| last + 1)
    }

    #[cfg(test)]
    pub(super) fn after(last: u64) -> Self {
        Self(AtomicU64::new(last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    #[test]
    fn numbers_begin_with_one_and_never_begin_anew() {
        let sequence = Sequence::default();
        assert_eq!((sequence.next(), sequence.next()), (Some(1), Some(2)));
        let nearly = Sequence::after(u64::MAX - 2);
        assert_eq!(nearly.next(), Some(u64::MAX - 1));
        assert_eq!(nearly.next(), Some(u64::MAX));
        assert_eq!((nearly.next(), nearly.next()), (None, None));
    }

    #[test]
    fn senders_at_the_same_time_get_different_numbers() {
        let sequence = Sequence::default();
        let take = || {
            (0..1000)
                .filter_map(|_| sequence.next())
                .collect::<Vec<_>>()
        };
        let taken: BTreeSet<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .flat_map(|each| each.join().unwrap())
                .collect()
        });
        assert!(taken.into_iter().eq(1..=4000));
    }
}
