//! A token bucket in whole numbers: no byte is made or lost by rounding.

use std::time::{Duration, Instant};

use super::limits::Rate;

/// Credit of one byte: a byte a second earns one unit each nanosecond.
const BYTE: i128 = 1_000_000_000;

/// The longest wait that is told; who still waits then asks again.
const WAIT_MAX: u64 = 3_600 * 1_000_000_000;

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    /// At most the burst; below zero after a piece larger than the burst.
    credit: i128,
    /// Until when credit was earned.
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            credit: most(rate),
            at: now,
        }
    }

    /// Earns what `now` allows. A `now` before an earlier one earns nothing.
    pub(super) fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed.is_zero() {
            return;
        }
        self.at = now;
        let nanos = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let earned = nanos.saturating_mul(i128::from(self.rate.bytes_per_second()));
        self.credit = self.credit.saturating_add(earned).min(most(self.rate));
    }

    /// How long after the last [`advance`](Self::advance) a piece of `bytes` may pass. One larger than the burst passes
    /// when the bucket is full, and leaves a debt.
    pub(super) fn wait_for(&self, bytes: u64) -> Duration {
        let wanted = i128::from(bytes.min(self.rate.burst_bytes())) * BYTE;
        let missing = wanted.saturating_sub(self.credit);
        if missing <= 0 {
            return Duration::ZERO;
        }
        let rate = i128::from(self.rate.bytes_per_second());
        // Rounded up: a nanosecond early would be one too early. `rate` is at least 1.
        let nanos = missing.saturating_add(rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(WAIT_MAX))
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(i128::from(bytes) * BYTE);
    }

    /// Takes back what was granted and not sent.
    pub(super) fn refund(&mut self, bytes: u64) {
        let credit = self.credit.saturating_add(i128::from(bytes) * BYTE);
        self.credit = credit.min(most(self.rate));
    }

    /// From `now` on at another rate.
    pub(super) fn change(&mut self, rate: Rate, now: Instant) {
        self.advance(now);
        self.rate = rate;
        self.credit = self.credit.min(most(rate));
    }

    pub(super) fn burst(&self) -> u64 {
        self.rate.burst_bytes()
    }
}

fn most(rate: Rate) -> i128 {
    i128::from(rate.burst_bytes()) * BYTE
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn rate(bytes_per_second: u64, burst: u64) -> Rate {
        let some = |number| NonZeroU64::new(number).unwrap();
        Rate::new(some(bytes_per_second)).with_burst(some(burst))
    }

    #[test]
    fn a_piece_waits_for_what_is_missing_and_not_a_nanosecond_less() {
        let begun = Instant::now();
        let mut bucket = Bucket::full(rate(3, 10), begun);
        assert_eq!(bucket.wait_for(10), Duration::ZERO);
        bucket.spend(10);
        // 1 byte at 3 bytes a second: a third of a second, rounded up.
        let third = Duration::from_nanos(333_333_334);
        assert_eq!(bucket.wait_for(1), third);
        bucket.advance(begun + third - Duration::from_nanos(1));
        assert_eq!(bucket.wait_for(1), Duration::from_nanos(1));
        bucket.advance(begun + third);
        assert_eq!(bucket.wait_for(1), Duration::ZERO);
    }

    #[test]
    fn credit_ends_at_the_burst_and_time_does_not_run_backwards() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(1_000_000);
        let mut bucket = Bucket::full(rate(1_000, 10), begun);
        bucket.advance(later);
        bucket.spend(10);
        assert_eq!(bucket.wait_for(10), Duration::from_millis(10));
        bucket.advance(begun);
        assert_eq!(bucket.wait_for(10), Duration::from_millis(10));
        bucket.refund(1_000);
        bucket.spend(10);
        assert_eq!(bucket.wait_for(10), Duration::from_millis(10));
    }

    #[test]
    fn a_piece_larger_than_the_burst_passes_and_is_paid_for_afterwards() {
        let mut bucket = Bucket::full(rate(10, 10), Instant::now());
        assert_eq!(bucket.wait_for(30), Duration::ZERO);
        bucket.spend(30);
        assert_eq!(bucket.wait_for(30), Duration::from_secs(3));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let begun = Instant::now();
        let mut bucket = Bucket::full(rate(u64::MAX, u64::MAX), begun);
        bucket.spend(u64::MAX);
        bucket.spend(u64::MAX);
        bucket.advance(begun + Duration::from_secs(1 << 32));
        assert_eq!(bucket.wait_for(u64::MAX), Duration::ZERO);
        let mut slow = Bucket::full(rate(1, u64::MAX), begun);
        slow.spend(u64::MAX);
        assert_eq!(slow.wait_for(u64::MAX), Duration::from_nanos(WAIT_MAX));
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let begun = Instant::now();
        let mut bucket = Bucket::full(rate(10, 10), begun);
        bucket.spend(10);
        bucket.change(rate(100, 5), begun + Duration::from_millis(100));
        // One byte was earned at the old rate.
        assert_eq!(bucket.wait_for(5), Duration::from_millis(40));
    }
}
