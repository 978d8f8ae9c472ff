//! Connections as one load thread counts them.

use std::time::Instant;

use super::times::Times;
use crate::lane::Opened;

/// Connections, of which those opened in the warm-up do not count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Connects {
    /// Begin and end of the warm-up, once it has one.
    warmup: Option<(Instant, Instant)>,
    /// Opened.
    pub opened: u64,
    /// Of them, resumed.
    pub resumed: u64,
    /// Of them, with early data that the server took.
    pub early: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// How long opening took.
    pub times: Times,
}

impl Connects {
    /// The warm-up begins and ends then.
    pub fn warm_up(&mut self, begin: Instant, end: Instant) {
        self.warmup = Some((begin, end));
    }

    /// One was opened.
    pub fn opened(&mut self, opened: &Opened) {
        if self.counts(opened.ready) {
            self.opened += 1;
            self.times
                .record(opened.ready.saturating_duration_since(opened.started));
        }
    }

    /// One that was opened is given up: only now is it certain how it began.
    pub fn over(&mut self, opened: &Opened) {
        if self.counts(opened.ready) {
            self.resumed += u64::from(opened.resumed);
            self.early += u64::from(opened.early_data);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant) {
        if self.counts(now) {
            self.failed += 1;
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.opened += other.opened;
        self.resumed += other.resumed;
        self.early += other.early;
        self.failed += other.failed;
        self.times.merge(&other.times);
    }

    fn counts(&self, moment: Instant) -> bool {
        self.warmup
            .is_none_or(|(begin, end)| moment < begin || moment >= end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn connections_of_the_warm_up_do_not_count() {
        let zero = Instant::now();
        let mut connects = Connects::default();
        let opened = |seconds| Opened {
            started: zero,
            ready: zero + Duration::from_secs(seconds),
            resumed: true,
            early_data: false,
        };
        connects.opened(&opened(1));
        connects.warm_up(zero + Duration::from_secs(2), zero + Duration::from_secs(4));
        for seconds in [3, 5] {
            connects.opened(&opened(seconds));
        }
        for seconds in [1, 3, 5] {
            connects.over(&opened(seconds));
        }
        assert_eq!((connects.opened, connects.resumed), (2, 2));
    }
}
