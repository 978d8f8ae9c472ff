//! How long to leave an address alone. Takes the time and the dice as arguments.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// The shortest and the longest time.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackoffRange {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// The failures of one address since its last success.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Another failure: the bound is `min · 2^(failures−1)`, at most `max`, and the time is drawn from its upper half,
    /// so that nodes which failed together do not come back together.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        range: BackoffRange,
        dice: &mut impl Rng,
    ) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.again(now, range, dice)
    }

    /// No further failure, and no success: another time under the same bound.
    pub(super) fn again(
        &mut self,
        now: Instant,
        range: BackoffRange,
        dice: &mut impl Rng,
    ) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(31);
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let bound = range.min.saturating_mul(factor).min(range.max);
        let delay = bound.mul_f64(dice.random_range(0.5..=1.0));
        self.until = Some(now + delay);
        delay
    }

    /// A success forgets all failures.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// What is left until the next attempt; `None` if it may be made now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.until
            .map(|until| until.saturating_duration_since(now))
            .filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const RANGE: BackoffRange = BackoffRange {
        min: Duration::from_millis(100),
        max: Duration::from_secs(10),
    };

    #[test]
    fn grows_twofold_within_its_jitter_and_stops_at_the_maximum() {
        let seed = 7;
        println!("seed {seed}");
        let (mut dice, mut backoff, now) = (
            StdRng::seed_from_u64(seed),
            Backoff::default(),
            Instant::now(),
        );
        let mut bound = RANGE.min;
        for _ in 0..40 {
            let delay = backoff.failed(now, RANGE, &mut dice);
            assert!(
                delay >= bound / 2 && delay <= bound,
                "{delay:?} for {bound:?}"
            );
            assert_eq!(backoff.wait(now), Some(delay));
            assert_eq!(backoff.wait(now + delay), None);
            bound = (bound * 2).min(RANGE.max);
        }
    }

    #[test]
    fn success_starts_over() {
        let (mut dice, mut backoff, now) =
            (StdRng::seed_from_u64(1), Backoff::default(), Instant::now());
        for _ in 0..5 {
            backoff.failed(now, RANGE, &mut dice);
        }
        backoff.succeeded();
        assert_eq!(backoff.wait(now), None);
        assert!(backoff.failed(now, RANGE, &mut dice) <= RANGE.min);
    }

    #[test]
    fn same_seed_gives_the_same_times() {
        let run = |seed| {
            let (mut dice, mut backoff, now) = (
                StdRng::seed_from_u64(seed),
                Backoff::default(),
                Instant::now(),
            );
            (0..10)
                .map(|_| backoff.failed(now, RANGE, &mut dice))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
