//! When requests are to begin in an open loop: offsets from the begin, whatever the server does.
//!
//! Offsets are computed from the number of the arrival, not by adding up gaps, wherever there is a formula for it: a
//! run of any length keeps its rate exactly. The arrivals of several threads together are those of one: constant and
//! ramped ones are dealt out in turn, so that they interleave evenly, and the sum of independent Poisson processes is one
//! with the sum of their rates.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng as _};

use crate::plan::Shape;

/// The intended starts of one thread's requests, in order, each before the end. An iterator of offsets from the begin.
#[derive(Debug, Clone)]
pub struct Arrivals {
    process: Process,
    /// Seconds.
    end: f64,
}

#[derive(Debug, Clone)]
enum Process {
    /// Arrival `k` at `k / rate`.
    Constant { rate: f64, turn: Turn },
    /// Gaps of mean `1 / rate`, added up.
    Poisson {
        rate: f64,
        at: f64,
        random: Box<SmallRng>,
    },
    /// Arrival `k` when the integral of the rate is `k`.
    Ramp { from: f64, slope: f64, turn: Turn },
}

/// Every `threads`-th number, from `thread` on.
#[derive(Debug, Clone, Copy)]
struct Turn {
    next: u64,
    step: u64,
}

impl Turn {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a run has fewer than 2^53 arrivals"
    )]
    fn take(&mut self) -> f64 {
        let number = self.next;
        self.next = number.saturating_add(self.step);
        number as f64
    }
}

impl Arrivals {
    /// Those of thread `thread` of `threads` (from 0; 0 threads are 1) within `duration`. `None` for a shape that sets
    /// no times: [`Shape::Closed`], and [`Shape::Recorded`], whose times are the workload's. The first of a constant rate
    /// is at 0.
    ///
    /// The same seed gives the same arrivals. A rate that is no positive number gives none.
    #[must_use]
    pub fn new(
        shape: Shape,
        duration: Duration,
        seed: u64,
        thread: u32,
        threads: u32,
    ) -> Option<Self> {
        let threads = threads.max(1);
        let turn = Turn {
            next: thread.into(),
            step: threads.into(),
        };
        let end = duration.as_secs_f64();
        let process = match shape {
            Shape::Closed | Shape::Recorded { .. } => return None,
            Shape::Constant { rate } => Process::Constant { rate, turn },
            Shape::Poisson { rate } => Process::Poisson {
                rate: rate / f64::from(threads),
                at: 0.0,
                random: Box::new(random(seed, thread)),
            },
            Shape::Ramp { from, to } => Process::Ramp {
                from,
                slope: (to - from) / end,
                turn,
            },
        };
        Some(Self { process, end })
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = match &mut self.process {
            Process::Constant { rate, turn } => turn.take() / *rate,
            Process::Poisson { rate, at, random } => {
                // In (0, 1]: its logarithm is finite.
                let left = 1.0 - random.random::<f64>();
                *at -= left.ln() / *rate;
                *at
            }
            Process::Ramp { from, slope, turn } => ramped(*from, *slope, turn.take()),
        };
        // What is no number (a rate of 0, beyond the end of a ramp down to 0) is not before the end either.
        (at >= 0.0 && at < self.end).then(|| Duration::from_secs_f64(at))
    }
}

/// When `number` arrivals have come at a rate of `from + slope × t`: the solution of `from × t + slope × t² / 2 = number`,
/// in the form that loses no digits when the slope is next to nothing.
fn ramped(from: f64, slope: f64, number: f64) -> f64 {
    if number == 0.0 {
        return 0.0;
    }
    2.0 * number / (from + (from * from + 2.0 * slope * number).sqrt())
}

/// Independent of what else is drawn from the same seed.
fn random(seed: u64, thread: u32) -> SmallRng {
    let mut mix = blake3::Hasher::new_derive_key("stoq-bench 2026-11-21 arrivals v1");
    mix.update(&seed.to_le_bytes());
    mix.update(&thread.to_le_bytes());
    let mut bytes = [0; 8];
    mix.finalize_xof().fill(&mut bytes);
    SmallRng::seed_from_u64(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(shape: Shape, seconds: f64, seed: u64, threads: u32) -> Vec<Duration> {
        let duration = Duration::from_secs_f64(seconds);
        let of = |thread| Arrivals::new(shape, duration, seed, thread, threads).unwrap();
        let mut all: Vec<_> = (0..threads).flat_map(of).collect();
        all.sort();
        all
    }

    #[test]
    fn a_closed_loop_has_no_arrivals() {
        assert!(Arrivals::new(Shape::Closed, Duration::from_secs(1), 0, 0, 1).is_none());
    }

    #[test]
    fn a_constant_rate_is_kept_to_the_nanosecond_for_a_day() {
        let shape = Shape::Constant { rate: 3.0 };
        let last = Arrivals::new(shape, Duration::from_secs(86_400), 0, 0, 1)
            .unwrap()
            .last();
        let exact = Duration::from_nanos((86_400 * 3 - 1) * 1_000_000_000 / 3);
        let off = last.unwrap().abs_diff(exact);
        assert!(off <= Duration::from_nanos(1), "{off:?}");
    }

    #[test]
    fn threads_share_a_constant_rate_evenly_interleaved() {
        let together = all(Shape::Constant { rate: 1000.0 }, 1.0, 0, 4);
        let alone = all(Shape::Constant { rate: 1000.0 }, 1.0, 0, 1);
        assert_eq!(together, alone);
        assert_eq!(alone.len(), 1000);
    }

    #[test]
    fn rates_that_are_none_give_no_endless_arrivals() {
        for rate in [0.0, -1.0, f64::NAN] {
            // 0/0 is no number, -0.0 is the begin.
            assert!(all(Shape::Constant { rate }, 1.0, 0, 1).len() <= 1);
            assert!(all(Shape::Poisson { rate }, 1.0, 0, 1).is_empty());
        }
        assert!(all(Shape::Ramp { from: 0.0, to: 0.0 }, 1.0, 0, 1).len() <= 1);
    }

    #[test]
    fn a_ramp_down_to_nothing_ends() {
        let down = all(
            Shape::Ramp {
                from: 100.0,
                to: 0.0,
            },
            10.0,
            0,
            1,
        );
        assert_eq!(down.len(), 500);
    }

    /// Of 100,000 exponential gaps the mean lies within 1.6 % of the true one (5 standard errors of 1/√n), and the variance
    /// within 4.5 % (5 of √(8/n)).
    #[test]
    fn poisson_gaps_have_the_mean_and_the_variance_of_exponential_ones() {
        let rate = 10_000.0;
        for seed in 0..5 {
            let at = all(Shape::Poisson { rate }, 10.0, seed, 1);
            let gaps: Vec<f64> = at
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).as_secs_f64() * rate)
                .collect();
            let count = gaps.len() as f64;
            let mean = gaps.iter().sum::<f64>() / count;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
            assert!((mean - 1.0).abs() < 0.016, "seed {seed}: mean {mean}");
            assert!(
                (variance - 1.0).abs() < 0.045,
                "seed {seed}: variance {variance}"
            );
        }
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let rate = 1.0..5_000.0;
        prop_oneof![
            rate.clone().prop_map(|rate| Shape::Constant { rate }),
            rate.clone().prop_map(|rate| Shape::Poisson { rate }),
            (0.0..5_000.0, rate).prop_map(|(from, to)| Shape::Ramp { from, to }),
        ]
    }

    proptest! {
        #[test]
        fn arrivals_are_in_order_and_before_the_end(
            shape in shape(), seconds in 0.001..4.0, seed: u64, threads in 1..5_u32,
        ) {
            let duration = Duration::from_secs_f64(seconds);
            for thread in 0..threads {
                let at: Vec<_> = Arrivals::new(shape, duration, seed, thread, threads).unwrap().collect();
                prop_assert!(at.is_sorted());
                prop_assert!(at.last().is_none_or(|last| *last <= duration));
                let again = Arrivals::new(shape, duration, seed, thread, threads).unwrap();
                prop_assert!(again.eq(at.iter().copied()));
            }
        }

        /// To one for those that are not random; to 6 standard deviations for Poisson.
        #[test]
        fn all_threads_together_have_the_full_rate(
            shape in shape(), seconds in 0.1..4.0, seed: u64, threads in 1..9_u32,
        ) {
            let expected: f64 = seconds * match shape {
                Shape::Closed | Shape::Recorded { .. } => 0.0,
                Shape::Constant { rate } | Shape::Poisson { rate } => rate,
                Shape::Ramp { from, to } => f64::midpoint(from, to),
            };
            let bound = match shape {
                Shape::Poisson { .. } => 6.0 * expected.sqrt() + 6.0,
                _ => 1.001,
            };
            let got = all(shape, seconds, seed, threads).len() as f64;
            prop_assert!((got - expected).abs() <= bound, "{got}, {expected} expected");
        }

        #[test]
        fn a_ramp_has_as_many_arrivals_by_any_time_as_the_integral_of_its_rate(
            from in 0.0..2_000.0, to in 1.0..2_000.0, part in 0.0..1.0,
        ) {
            let (seconds, shape) = (3.0, Shape::Ramp { from, to });
            let by = part * seconds;
            let got = all(shape, seconds, 0, 3).iter().filter(|at| at.as_secs_f64() < by).count();
            let expected: f64 = from * by + (to - from) / seconds * by * by / 2.0;
            prop_assert!((got as f64 - expected).abs() <= 1.001, "{got}, {expected} expected");
        }
    }
}
