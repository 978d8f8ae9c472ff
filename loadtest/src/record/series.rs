//! What came, over time: quarter seconds as the threads count them, seconds as a bundle has them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::times::{LONGEST_NS, micros, nanoseconds};
use crate::bundle::Tick;

/// How much time a [`Slice`] holds.
pub const SLICE: Duration = Duration::from_millis(250);
/// Of them.
pub const SLICES_A_SECOND: u64 = 4;

/// The counted time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Its begin.
    pub from: Instant,
    /// Its end.
    pub until: Instant,
}

/// Where within a run a moment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the warm-up, so many slices after a begin that lies before it.
    Before(u64),
    /// In the counted time, so many slices after its begin.
    Within(u64),
    /// After the counted time.
    After,
}

impl Counted {
    /// Whether a request that begins at `moment` is counted.
    #[must_use]
    pub fn contains(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }

    /// Where `moment` lies, and when that slice ends (`None`: never).
    pub(super) fn place(&self, moment: Instant) -> (Place, Option<Instant>) {
        let slice = |passed: Duration| {
            u32::try_from(passed.as_nanos() / SLICE.as_nanos()).unwrap_or(u32::MAX)
        };
        if let Some(before) = self.from.checked_duration_since(moment)
            && !before.is_zero()
        {
            // The warm-up has slices of its own, counted towards its end.
            let left = slice(before - Duration::from_nanos(1));
            return (
                Place::Before(u64::from(u32::MAX - left)),
                Some(self.from - SLICE * left),
            );
        }
        if moment >= self.until {
            return (Place::After, None);
        }
        let number = slice(moment.saturating_duration_since(self.from));
        let end = self.from + SLICE * number.saturating_add(1);
        (Place::Within(u64::from(number)), Some(end.min(self.until)))
    }
}

/// What came within a quarter of a second. 14 KiB.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// When.
    pub place: Place,
    /// Right answers.
    pub requests: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Failures.
    pub errors: u64,
    /// Latency, nanoseconds, to 2 significant digits from 1 µs on.
    latency: Histogram<u32>,
}

impl Slice {
    /// Nothing yet.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            place,
            requests: 0,
            body_bytes: 0,
            errors: 0,
            latency: Histogram::new_with_bounds(1000, LONGEST_NS, 2)
                .expect("constant bounds that the histogram takes"),
        }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(nanoseconds(latency));
    }

    /// Adds all of `other`, whatever its place.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.body_bytes += other.body_bytes;
        self.errors += other.errors;
        self.latency
            .add(&other.latency)
            .expect("histograms of the same bounds add");
    }

    /// The latency below or at which this share (0 to 1) lies; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.latency.is_empty())
            .then(|| Duration::from_nanos(self.latency.value_at_quantile(share)))
    }
}

/// The counted time second by second: 14 KiB for each, 50 MiB for an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(BTreeMap<u64, Slice>);

impl Series {
    /// Adds a slice; one from outside the counted time is passed over.
    pub fn add(&mut self, slice: &Slice) {
        let Place::Within(number) = slice.place else {
            return;
        };
        let second = number / SLICES_A_SECOND;
        self.0
            .entry(second)
            .or_insert_with(|| Slice::new(Place::Within(second * SLICES_A_SECOND)))
            .merge(slice);
    }

    /// Right answers, bytes of bodies and failures that came within the counted time.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        self.0.values().fold((0, 0, 0), |sum, slice| {
            (
                sum.0 + slice.requests,
                sum.1 + slice.body_bytes,
                sum.2 + slice.errors,
            )
        })
    }

    /// As a bundle has it, for a counted time that lasted so long. A second in which nothing came is there, and empty; the
    /// last may be a part of one.
    #[must_use]
    pub fn ticks(&self, elapsed: Duration) -> Vec<Tick> {
        let seconds = u64::try_from(elapsed.as_nanos().div_ceil(1_000_000_000)).unwrap_or(0);
        (0..seconds)
            .map(|second| {
                let slice = self.0.get(&second);
                let quantile = |share: f64| {
                    let time = slice.and_then(|slice| slice.quantile(share));
                    time.map_or(0.0, |time| micros(nanoseconds(time)))
                };
                Tick {
                    at_s: Duration::from_secs(second + 1).min(elapsed).as_secs_f64(),
                    requests: slice.map_or(0, |slice| slice.requests),
                    body_bytes: slice.map_or(0, |slice| slice.body_bytes),
                    errors: slice.map_or(0, |slice| slice.errors),
                    p50_us: quantile(0.5),
                    p99_us: quantile(0.99),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> (Instant, Counted) {
        let from = Instant::now() + Duration::from_secs(10);
        let until = from + Duration::from_millis(1100);
        (from, Counted { from, until })
    }

    #[test]
    fn the_counted_time_is_cut_into_slices_from_its_begin_to_its_end() {
        let (from, counted) = counted();
        let at = |ms| from + Duration::from_millis(ms);
        assert_eq!(counted.place(at(0)), (Place::Within(0), Some(at(250))));
        assert_eq!(counted.place(at(249)), (Place::Within(0), Some(at(250))));
        assert_eq!(counted.place(at(250)), (Place::Within(1), Some(at(500))));
        assert_eq!(counted.place(at(1099)), (Place::Within(4), Some(at(1100))));
        assert_eq!(counted.place(at(1100)), (Place::After, None));
    }

    #[test]
    fn slices_of_the_warm_up_end_where_the_counted_time_begins() {
        let (from, counted) = counted();
        let before = |ms| from - Duration::from_millis(ms);
        let (last, end) = counted.place(before(1));
        assert_eq!(end, Some(from));
        let (earlier, end) = counted.place(before(251));
        assert_eq!(end, Some(before(250)));
        assert!(earlier < last && last < Place::Within(0));
    }

    #[test]
    fn seconds_in_which_nothing_came_are_there_and_empty() {
        let mut series = Series::default();
        let mut slice = Slice::new(Place::Within(9));
        slice.requests = 3;
        slice.record(Duration::from_millis(20));
        series.add(&slice);
        series.add(&Slice::new(Place::After));
        let ticks = series.ticks(Duration::from_millis(3500));
        assert_eq!(ticks.len(), 4);
        assert_eq!(ticks.iter().map(|tick| tick.requests).sum::<u64>(), 3);
        assert_eq!(ticks[2].requests, 3);
        assert!((ticks[2].p50_us / 20_000.0 - 1.0).abs() < 0.02);
        assert!((ticks[3].at_s - 3.5).abs() < 1e-9);
    }
}
