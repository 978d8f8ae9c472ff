//! The bytes a day that may be written, for the life of the flash.

use std::time::Duration;

use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A token bucket of bytes: filled evenly over the day, an hour's worth deep and at least 64 MiB.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_a_day: Option<u64>,
    left: f64,
    as_of: Instant,
}

/// The least a bucket holds.
const DEPTH_BYTES_MIN: f64 = 67_108_864.0;

impl Budget {
    /// A full bucket; `None` for no limit.
    pub(super) fn new(bytes_a_day: Option<u64>, now: Instant) -> Self {
        let mut budget = Self {
            bytes_a_day,
            left: 0.0,
            as_of: now,
        };
        budget.left = budget.depth();
        budget
    }

    /// Takes bytes, if they are there. More than the bucket holds is taken from a full one, and owed.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        if self.bytes_a_day.is_none() {
            return true;
        }
        let depth = self.depth();
        let since = now.saturating_duration_since(self.as_of);
        self.as_of = now;
        let filled = self.rate() * since.as_secs_f64();
        self.left = (self.left + filled).min(depth);
        let wanted = bytes as f64;
        if self.left < wanted.min(depth) {
            return false;
        }
        self.left -= wanted;
        true
    }

    fn rate(&self) -> f64 {
        self.bytes_a_day.unwrap_or(0) as f64 / DAY.as_secs_f64()
    }

    fn depth(&self) -> f64 {
        (self.rate() * 3600.0).max(DEPTH_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_day_no_more_than_the_budget_and_one_bucket_goes_through() {
        let start = Instant::now();
        let day = 24 << 30;
        let mut budget = Budget::new(Some(day), start);
        let mut taken = 0;
        for second in 0..24 * 3600 {
            let now = start + Duration::from_secs(second);
            while budget.take(1 << 20, now) {
                taken += 1 << 20;
            }
        }
        assert!((day..=day + (1 << 30)).contains(&taken), "{taken}");
        assert!(Budget::new(None, start).take(usize::MAX, start));
    }
}
