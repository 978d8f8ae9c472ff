//! A histogram of durations.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

use crate::bundle::Distribution;

/// One hour, nanoseconds: longer ones are counted as this.
pub(super) const LONGEST_NS: u64 = 3_600_000_000_000;

/// Durations from 1 ns to 1 h, to 3 significant digits: 270 KiB, taken at once, so that recording allocates nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST_NS, 3)
                .expect("constant bounds that the histogram takes"),
        )
    }
}

impl Times {
    /// Counts one. Shorter than 1 ns counts as that, longer than 1 h as that.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(nanoseconds(time));
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("histograms of the same bounds add");
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value below or at which this share (0 to 1) of all lies; zero when there is none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// As a bundle has it. 3 significant digits throughout.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        let times = &self.0;
        if times.is_empty() {
            return Distribution::default();
        }
        let mut hdr = Vec::new();
        V2DeflateSerializer::new()
            .serialize(times, &mut hdr)
            .expect("a Vec takes every histogram");
        Distribution {
            count: times.len(),
            min_us: micros(times.min()),
            mean_us: times.mean() / 1e3,
            p50_us: micros(times.value_at_quantile(0.5)),
            p90_us: micros(times.value_at_quantile(0.9)),
            p99_us: micros(times.value_at_quantile(0.99)),
            p999_us: micros(times.value_at_quantile(0.999)),
            max_us: micros(times.max()),
            hdr: STANDARD.encode(hdr),
        }
    }
}

/// Nanoseconds between 1 and an hour.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos())
        .unwrap_or(LONGEST_NS)
        .clamp(1, LONGEST_NS)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an hour in nanoseconds has 42 bits"
)]
pub(super) fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;

    use super::*;

    #[test]
    fn what_is_too_short_or_too_long_is_counted_at_the_bound() {
        let mut times = Times::default();
        times.record(Duration::ZERO);
        times.record(Duration::from_secs(100_000));
        let read = times.distribution();
        assert_eq!(read.count, 2);
        assert!(read.min_us <= 0.001);
        assert!((read.max_us / 3.6e9 - 1.0).abs() < 1e-3, "{}", read.max_us);
    }

    #[test]
    fn a_distribution_carries_the_whole_histogram() {
        let mut times = Times::default();
        for micros in 1..=1000 {
            times.record(Duration::from_micros(micros));
        }
        let read = times.distribution();
        assert!((read.p50_us / 500.0 - 1.0).abs() < 2e-3, "{}", read.p50_us);
        assert!((read.p99_us / 990.0 - 1.0).abs() < 2e-3, "{}", read.p99_us);
        let bytes = STANDARD.decode(&read.hdr).unwrap();
        let back: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(Times(back), times);
    }
}
