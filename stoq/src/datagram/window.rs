//! Which sequence numbers were seen: the sliding window of RFC 4303.

use thiserror::Error;

/// How many numbers a window tells apart: the highest and the 63 before it.
///
/// QUIC hands each packet up once, and in the order of arrival; what remains is reordering within a path, rarely more than a
/// few packets. A datagram that comes later than 63 others is dropped, as one that was lost.
//= https://www.rfc-editor.org/rfc/rfc4303#section-3.4.3
//# A minimum window size of 32 packets MUST be supported when 32-bit sequence numbers are employed; a window size of 64 is
//# preferred and SHOULD be employed as the default.
pub const WINDOW: u64 = 64;

/// The sliding window of one direction of one connection; 16 bytes.
//= https://www.rfc-editor.org/rfc/rfc4303#section-3.4.3
//# The "right" edge of the window represents the highest, validated Sequence Number value received on this SA.  Packets
//# that contain sequence numbers lower than the "left" edge of the window are rejected.  Packets falling within the
//# window are checked against a list of received packets within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayWindow {
    /// The highest number admitted; 0 before the first.
    highest: u64,
    /// Bit n: `highest` − n was admitted.
    seen: u64,
}

/// Why a number is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotNew {
    /// Nobody sends it.
    #[error("sequence number 0 is never sent")]
    Zero,
    /// It was admitted before.
    #[error("sequence number {0} was seen before")]
    Replayed(u64),
    /// Whether it was seen is no longer known.
    #[error("sequence number {sequence} is too old after {highest}")]
    TooOld {
        /// The number.
        sequence: u64,
        /// The highest so far.
        highest: u64,
    },
}

impl ReplayWindow {
    /// Admits `sequence` if it certainly comes for the first time, and remembers it.
    ///
    /// # Errors
    /// It was seen, or may have been. The window is as before.
    pub fn admit(&mut self, sequence: u64) -> Result<(), NotNew> {
        if sequence == 0 {
            return Err(NotNew::Zero);
        }
        if let Some(ahead) = sequence.checked_sub(self.highest).filter(|&by| by > 0) {
            // All that was known moves out at once where the new number is a window or more ahead.
            self.seen = if ahead < WINDOW {
                self.seen << ahead | 1
            } else {
                1
            };
            self.highest = sequence;
            return Ok(());
        }
        let behind = self.highest - sequence;
        if behind >= WINDOW {
            return Err(NotNew::TooOld {
                sequence,
                highest: self.highest,
            });
        }
        let bit = 1 << behind;
        if self.seen & bit != 0 {
            return Err(NotNew::Replayed(sequence));
        }
        self.seen |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Want {
        New,
        Zero,
        Replayed,
        TooOld,
    }

    fn judge(window: &mut ReplayWindow, sequence: u64) -> Want {
        match window.admit(sequence) {
            Ok(()) => Want::New,
            Err(NotNew::Zero) => Want::Zero,
            Err(NotNew::Replayed(_)) => Want::Replayed,
            Err(NotNew::TooOld { .. }) => Want::TooOld,
        }
    }

    #[test]
    fn replay_reorder_within_and_beyond_and_the_end_of_numbers() {
        use Want::{New, Replayed, TooOld, Zero};
        const MAX: u64 = u64::MAX;
        let cases: &[(&str, &[(u64, Want)])] = &[
            ("in order", &[(1, New), (2, New), (3, New)]),
            (
                "replayed at once and later",
                &[
                    (1, New),
                    (1, Replayed),
                    (2, New),
                    (1, Replayed),
                    (2, Replayed),
                ],
            ),
            ("zero", &[(0, Zero), (1, New), (0, Zero)]),
            (
                "reordered within",
                &[
                    (5, New),
                    (3, New),
                    (4, New),
                    (3, Replayed),
                    (1, New),
                    (2, New),
                    (5, Replayed),
                ],
            ),
            (
                "first number far on",
                &[
                    (1000, New),
                    (1000, Replayed),
                    (937, New),
                    (936, TooOld),
                    (1, TooOld),
                ],
            ),
            (
                "the last place within",
                &[(64, New), (1, New), (1, Replayed)],
            ),
            (
                "one place beyond",
                &[(65, New), (1, TooOld), (2, New), (2, Replayed)],
            ),
            (
                "seen stays seen until it leaves",
                &[
                    (1, New),
                    (64, New),
                    (1, Replayed),
                    (65, New),
                    (1, TooOld),
                    (2, New),
                ],
            ),
            (
                "a jump of exactly the window forgets all but itself",
                &[
                    (1, New),
                    (2, New),
                    (66, New),
                    (2, TooOld),
                    (3, New),
                    (65, New),
                    (66, Replayed),
                ],
            ),
            (
                "a jump of one less keeps one",
                &[(1, New), (2, New), (65, New), (2, Replayed), (1, TooOld)],
            ),
            (
                "a jump over everything",
                &[
                    (1, New),
                    (MAX, New),
                    (MAX, Replayed),
                    (1, TooOld),
                    (MAX - 63, New),
                    (MAX - 64, TooOld),
                ],
            ),
            (
                "numbers do not begin anew after the last",
                &[
                    (MAX - 1, New),
                    (MAX, New),
                    (0, Zero),
                    (1, TooOld),
                    (2, TooOld),
                    (MAX, Replayed),
                    (MAX - 1, Replayed),
                    (MAX - 2, New),
                ],
            ),
        ];
        for (name, steps) in cases {
            let mut window = ReplayWindow::default();
            for (at, (sequence, want)) in steps.iter().enumerate() {
                assert_eq!(
                    judge(&mut window, *sequence),
                    *want,
                    "{name}, step {at}: {sequence}"
                );
            }
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let mut window = ReplayWindow::default();
        for sequence in [100, 90, 70] {
            window.admit(sequence).unwrap();
        }
        let before = window;
        for sequence in [0, 100, 90, 70, 36, 1] {
            assert!(window.admit(sequence).is_err(), "{sequence}");
            assert_eq!(window, before);
        }
    }

    proptest! {
        /// Against a set of all numbers ever admitted.
        #[test]
        fn the_window_is_a_set_that_forgets_what_is_old(
            base in prop_oneof![Just(0), 0..=u64::MAX - 400],
            offsets in prop::collection::vec(1..300u64, 0..400),
        ) {
            let (mut window, mut all) = (ReplayWindow::default(), BTreeSet::new());
            for offset in offsets {
                let sequence = base + offset;
                let highest = all.last().copied().unwrap_or(0);
                let want = if all.contains(&sequence) && highest - sequence < WINDOW {
                    Want::Replayed
                } else if sequence + WINDOW <= highest {
                    Want::TooOld
                } else {
                    Want::New
                };
                prop_assert_eq!(judge(&mut window, sequence), want);
                if want == Want::New {
                    prop_assert!(all.insert(sequence), "admitted twice");
                }
            }
        }
    }
}
