//! Distributions that many write and few read: log-linear buckets of atomics, no lock, no allocation after the first.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets to each doubling: a quantile is at most 1/32 above what was recorded.
const STEPS_LOG2: u32 = 5;

/// Values are told apart below 2^40; larger ones count as that.
const BITS: u32 = 40;

const STEPS: usize = 1 << STEPS_LOG2;

const BUCKETS: usize = STEPS * (BITS - STEPS_LOG2 + 1) as usize;

/// A distribution of whole numbers: 1,152 buckets × 8 B = 9 KiB.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    largest: AtomicU64,
}

/// What a distribution looks like. Each quantile is between the recorded value and 1/32 above it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Values recorded; the rest is zero if there are none.
    pub count: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 95 %.
    pub p95: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            largest: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Adds a value.
    pub fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.largest.fetch_max(value, Ordering::Relaxed);
    }

    /// Adds all values of another, such as another worker's.
    pub fn merge(&self, other: &Self) {
        for (mine, theirs) in self.buckets.iter().zip(&other.buckets) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let largest = other.largest.load(Ordering::Relaxed);
        self.largest.fetch_max(largest, Ordering::Relaxed);
    }

    /// What was recorded until now; values that are recorded meanwhile may count or not.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let count: u64 = counts.iter().sum();
        let max = self.largest.load(Ordering::Relaxed);
        let at = |permille: u64| {
            let rank = count.saturating_mul(permille).div_ceil(1000).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|bucket| {
                seen += bucket;
                seen >= rank
            });
            found.map_or(0, |bucket| highest(bucket).min(max))
        };
        Quantiles {
            count,
            p50: at(500),
            p95: at(950),
            p99: at(990),
            p999: at(999),
            max,
        }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.quantiles().fmt(out)
    }
}

/// Which bucket a value is counted in. Below 32 each has its own; from there on each doubling has 32.
fn bucket(value: u64) -> usize {
    let value = value.min((1 << BITS) - 1);
    let doublings = (u64::BITS - value.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    let step = value >> doublings;
    // At most 2 × 32 + 34 × 32.
    usize::try_from(u64::from(doublings) * STEPS as u64 + step).unwrap_or(BUCKETS - 1)
}

/// The largest value that is counted in a bucket.
fn highest(bucket: usize) -> u64 {
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = (bucket - doublings * STEPS) as u64;
    ((step + 1) << doublings) - 1
}

/// Distributions over all connections of an endpoint, for metrics.
///
/// Round trips and their jitter are recorded by every connection with each acknowledgement that covers two packets or more;
/// those that cover one may have been held back on purpose. The rest is recorded by connections that
/// [adapt](crate::quic::TransportConfig::adapt), once a span in which they carried traffic.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PathHistograms {
    /// Round trips, µs.
    pub rtt_us: Histogram,
    /// How much each round trip differed from the one before on its connection, µs.
    pub jitter_us: Histogram,
    /// Bytes a second delivered, in the faster direction.
    pub rate: Histogram,
    /// Packets lost of a million.
    pub loss_ppm: Histogram,
    /// Congestion windows, bytes.
    pub cwnd: Histogram,
    /// Largest UDP payload found to pass, bytes.
    pub mtu: Histogram,
}

impl PathHistograms {
    /// Calls `each` with name, help and distribution, so that any metrics library can export them. Names are stable, in
    /// snake case, without prefix.
    pub fn visit(&self, each: &mut dyn FnMut(&'static str, &'static str, &Histogram)) {
        each("path_rtt_us", "Round trips, microseconds", &self.rtt_us);
        each(
            "path_jitter_us",
            "Differences between a connection's successive round trips, microseconds",
            &self.jitter_us,
        );
        each(
            "path_rate_bytes",
            "Bytes a second delivered, in the faster direction",
            &self.rate,
        );
        each("path_loss_ppm", "Packets lost of a million", &self.loss_ppm);
        each("path_cwnd_bytes", "Congestion windows, bytes", &self.cwnd);
        each(
            "path_mtu_bytes",
            "Largest UDP payload found to pass, bytes",
            &self.mtu,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value at a rank of the sorted list, by definition.
    fn exact(sorted: &[u64], permille: usize) -> u64 {
        sorted[(sorted.len() * permille).div_ceil(1000).max(1) - 1]
    }

    proptest! {
        #[test]
        fn each_value_is_counted_in_the_bucket_that_holds_it(value in 0_u64..1 << 40) {
            let bucket = bucket(value);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(highest(bucket) >= value);
            prop_assert!(bucket == 0 || highest(bucket - 1) < value);
            prop_assert!(highest(bucket) - value <= value / 32);
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_list(values in prop::collection::vec(0_u64..5_000_000, 1..400)) {
            let (left, right) = (Histogram::default(), Histogram::default());
            for (number, value) in values.iter().enumerate() {
                if number % 2 == 0 { &left } else { &right }.record(*value);
            }
            left.merge(&right);
            let got = left.quantiles();
            let mut sorted = values;
            sorted.sort_unstable();
            prop_assert_eq!(got.count, sorted.len() as u64);
            prop_assert_eq!(got.max, exact(&sorted, 1000));
            for (got, permille) in [(got.p50, 500), (got.p95, 950), (got.p99, 990), (got.p999, 999)] {
                let want = exact(&sorted, permille);
                prop_assert!((want..=want + want / 32).contains(&got), "{got} for {want}");
            }
        }
    }

    #[test]
    fn an_empty_one_says_so_and_a_huge_value_counts() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantiles(), Quantiles::default());
        histogram.record(u64::MAX);
        let got = histogram.quantiles();
        assert_eq!((got.count, got.max), (1, u64::MAX));
        assert!(got.p50 >= (1 << 40) - 1);
    }

    #[test]
    fn visit_names_every_distribution_once() {
        let histograms = PathHistograms::default();
        histograms.mtu.record(1452);
        let mut seen = Vec::new();
        histograms.visit(&mut |name, help, histogram| {
            assert!(!help.is_empty());
            seen.push((name, histogram.quantiles().count));
        });
        assert!(seen.contains(&("path_mtu_bytes", 1)));
        let mut names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
        names.dedup();
        assert_eq!(names.len(), 6);
    }
}
