//! What one load thread counts.

use std::collections::BTreeMap;
use std::time::Instant;

use super::failures::Failures;
use super::series::{Counted, Place, Slice};
use super::times::Times;
use crate::lane::Failure;

/// Times of a right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When the request was to begin; in a closed loop, when it did.
    pub intended: Instant,
    /// When it began.
    pub started: Instant,
    /// When the head of the answer came.
    pub head_at: Option<Instant>,
    /// When the last byte had come.
    pub ended: Instant,
    /// The status.
    pub status: u16,
}

/// What one load thread counts, from the begin of its warm-up on. About 850 KiB, taken at once.
///
/// Every moment is passed in, and they may go back a little: what belongs to a slice that is over counts in the present
/// one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    counted: Counted,
    /// Answers in the counted time to requests begun before it are counted into its rate.
    carry: bool,
    /// Requests due in the counted time.
    pub due: u64,
    /// Of them, answered rightly.
    pub answered: u64,
    /// Of them, neither answered nor failed.
    pub unanswered: u64,
    /// Of them, failed.
    pub failures: Failures,
    /// Of them, statuses.
    pub statuses: BTreeMap<u16, u64>,
    /// Of those answered, timed out and unanswered, from the intended start on.
    pub latency: Times,
    /// Of those answered, from the actual start on.
    pub service: Times,
    /// Of those answered, until the head.
    pub first_byte: Times,
    /// When the last answer or failure came that counts.
    pub last: Option<Instant>,
    slice: Slice,
    /// When `slice` ends.
    slice_end: Option<Instant>,
    /// The meter's reading when `slice` began.
    metered: u64,
    done: Vec<Slice>,
}

impl Tally {
    /// For a run with this counted time, whose warm-up begins `now`. With `carry`, answers that come within the counted
    /// time count into its rate though their requests began before it; so an endless stream of requests is
    /// counted without a dent at either end. A run that makes a number of requests does without.
    #[must_use]
    pub fn new(counted: Counted, carry: bool, now: Instant) -> Self {
        let (place, slice_end) = counted.place(now);
        Self {
            counted,
            carry,
            due: 0,
            answered: 0,
            unanswered: 0,
            failures: Failures::default(),
            statuses: BTreeMap::new(),
            latency: Times::default(),
            service: Times::default(),
            first_byte: Times::default(),
            last: None,
            slice: Slice::new(place),
            slice_end,
            metered: 0,
            done: Vec::with_capacity(64),
        }
    }

    /// The counted time ended early, or the run did: `until`, which is not before `now` of any call so far.
    pub fn end_at(&mut self, until: Instant) {
        self.counted.until = self.counted.until.min(until);
        self.slice_end = self.slice_end.map(|end| end.min(self.counted.until));
    }

    /// The counted time.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// A request that was intended for this moment begins.
    pub fn begin(&mut self, intended: Instant) {
        if self.counted.contains(intended) {
            self.due += 1;
        }
    }

    /// It was answered rightly. `meter` is the reading of the thread's count of body bytes.
    pub fn answer(&mut self, answer: &Answer, meter: u64) {
        self.turn(answer.ended, meter);
        let latency = answer.ended.saturating_duration_since(answer.intended);
        let due = self.counted.contains(answer.intended);
        if due {
            self.answered += 1;
            self.last = self.last.max(Some(answer.ended));
            *self.statuses.entry(answer.status).or_insert(0) += 1;
            self.latency.record(latency);
            let since_start = |moment: Instant| moment.saturating_duration_since(answer.started);
            self.service.record(since_start(answer.ended));
            if let Some(head_at) = answer.head_at {
                self.first_byte.record(since_start(head_at));
            }
        }
        if due || self.carry || matches!(self.slice.place, Place::Before(_)) {
            self.slice.requests += 1;
            self.slice.record(latency);
        }
    }

    /// It failed, at `ended`.
    pub fn failure(
        &mut self,
        intended: Instant,
        failure: &Failure,
        status: Option<u16>,
        ended: Instant,
        meter: u64,
    ) {
        self.turn(ended, meter);
        let waited = ended.saturating_duration_since(intended);
        let timed_out = matches!(failure, Failure::TimedOut);
        self.slice.errors += 1;
        if timed_out {
            self.slice.record(waited);
        }
        if !self.counted.contains(intended) {
            return;
        }
        self.last = self.last.max(Some(ended));
        self.failures.record(failure);
        if let Some(status) = status {
            *self.statuses.entry(status).or_insert(0) += 1;
        }
        // Whoever waited for it waited at least so long; a histogram without it would be of those who were lucky. Other
        // failures are quick, and would flatter.
        if timed_out {
            self.latency.record(waited);
        }
    }

    /// It was begun, and given up at the end of the run.
    pub fn cut(&mut self, intended: Instant, now: Instant) {
        if self.counted.contains(intended) {
            self.unanswered += 1;
            self.latency.record(now.saturating_duration_since(intended));
        }
    }

    /// It was due and never begun.
    pub fn never_begun(&mut self, intended: Instant, now: Instant) {
        self.begin(intended);
        self.cut(intended, now);
    }

    /// Time goes by: ends the present slice if it is over.
    pub fn turn(&mut self, now: Instant, meter: u64) {
        while let Some(end) = self.slice_end
            && now >= end
        {
            let (place, slice_end) = self.counted.place(end);
            self.slice.body_bytes = meter - self.metered;
            self.metered = meter;
            let whole = std::mem::replace(&mut self.slice, Slice::new(place));
            self.slice_end = slice_end;
            self.done.push(whole);
        }
    }

    /// When the present slice ends; `None` after the counted time.
    #[must_use]
    pub fn slice_end(&self) -> Option<Instant> {
        self.slice_end
    }

    /// Slices that are over, for whoever shows them.
    pub fn take_slices(&mut self) -> impl Iterator<Item = Slice> {
        self.done.drain(..)
    }

    /// Adds all of `other`, but for slices, which [`take_slices`](Self::take_slices) has.
    pub fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.failures.merge(&other.failures);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_insert(0) += count;
        }
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.first_byte.merge(&other.first_byte);
        self.last = self.last.max(other.last);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::series::Series;
    use super::*;

    /// What happens to one request: intended and actual start and end, milliseconds after the warm-up's begin; outcome.
    type Event = (u64, u64, u64, u8);

    fn apply(tally: &mut Tally, zero: Instant, event: Event) {
        let (intended, delay, service, outcome) = event;
        let at = |ms| zero + Duration::from_millis(ms);
        let (started, ended) = (at(intended + delay), at(intended + delay + service));
        let meter = 0;
        match outcome {
            0..=5 => {
                tally.begin(at(intended));
                let answer = Answer {
                    intended: at(intended),
                    started,
                    head_at: Some(started),
                    ended,
                    status: 200,
                };
                tally.answer(&answer, meter);
            }
            6 => {
                tally.begin(at(intended));
                tally.failure(at(intended), &Failure::TimedOut, None, ended, meter);
            }
            7 => {
                tally.begin(at(intended));
                tally.failure(at(intended), &Failure::Reset(1), Some(200), ended, meter);
            }
            8 => {
                tally.begin(at(intended));
                tally.cut(at(intended), ended);
            }
            _ => tally.never_begun(at(intended), ended),
        }
    }

    fn tally(zero: Instant) -> Tally {
        let from = zero + Duration::from_millis(700);
        let until = from + Duration::from_millis(2500);
        Tally::new(Counted { from, until }, true, zero)
    }

    fn series(tallies: &mut [&mut Tally], end: Instant) -> Series {
        let mut series = Series::default();
        for tally in tallies {
            tally.turn(end, 0);
            for slice in tally.take_slices() {
                series.add(&slice);
            }
        }
        series
    }

    proptest! {
        #[test]
        fn merged_parts_are_the_whole(
            events in proptest::collection::vec((0u64..4000, 0u64..2000, 0u64..2000, 0u8..10), 0..120),
            cut in 0usize..120,
        ) {
            let zero = Instant::now();
            let mut events = events;
            events.sort_by_key(|event| event.0 + event.1 + event.2);
            let mut whole = tally(zero);
            let (mut left, mut right) = (tally(zero), tally(zero));
            for (number, event) in events.iter().enumerate() {
                apply(&mut whole, zero, *event);
                apply(if number < cut { &mut left } else { &mut right }, zero, *event);
            }
            let end = zero + Duration::from_secs(60);
            prop_assert_eq!(
                series(&mut [&mut left, &mut right], end),
                series(&mut [&mut whole], end)
            );
            left.merge(&right);
            prop_assert_eq!(left.due, left.answered + left.failures.total() + left.unanswered);
            // After the counted time nothing more is shown, and each thread's last slice is its own.
            left.slice = whole.slice.clone();
            prop_assert_eq!(left, whole);
        }
    }

    #[test]
    fn requests_begun_in_the_warm_up_count_into_the_rate_and_nothing_else() {
        let zero = Instant::now();
        let mut tally = tally(zero);
        apply(&mut tally, zero, (600, 0, 200, 0));
        assert_eq!(
            (tally.due, tally.answered, tally.latency.count()),
            (0, 0, 0)
        );
        let end = zero + Duration::from_secs(60);
        assert_eq!(series(&mut [&mut tally], end).totals().0, 1);
    }

    #[test]
    fn what_comes_after_the_counted_time_is_answered_but_no_part_of_the_rate() {
        let zero = Instant::now();
        let mut tally = tally(zero);
        apply(&mut tally, zero, (3000, 0, 500, 0));
        assert_eq!((tally.due, tally.answered), (1, 1));
        let end = zero + Duration::from_secs(60);
        assert_eq!(series(&mut [&mut tally], end).totals().0, 0);
    }

    #[test]
    fn bytes_count_in_the_slice_in_which_they_came() {
        let zero = Instant::now();
        let mut tally = tally(zero);
        let at = |ms| zero + Duration::from_millis(ms);
        tally.turn(at(700), 1000);
        tally.turn(at(950), 1500);
        tally.turn(at(3200), 9500);
        tally.turn(at(3300), 20_000);
        let slices: Vec<_> = tally
            .take_slices()
            .filter(|slice| matches!(slice.place, Place::Within(_)))
            .map(|slice| slice.body_bytes)
            .collect();
        assert_eq!(slices[..2], [500, 8000]);
        assert_eq!(slices.iter().sum::<u64>(), 8500);
    }
}
