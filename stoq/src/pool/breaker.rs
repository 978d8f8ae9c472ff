//! Whether a peer that can be reached is also worth asking.
//!
//! A peer may keep its connection and answer nothing. After so many exchanges in a row that it left without an answer, it is
//! left alone for a while; then one exchange at a time may try, until one is answered. Takes the time and the dice as
//! arguments.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::backoff::{Backoff, BackoffRange};

/// What a breaker goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct BreakerRule {
    /// Unanswered exchanges in a row that open it; 0 means never.
    pub(super) unanswered_max: u32,
    /// How long it is open.
    pub(super) range: BackoffRange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// For as long as the backoff says.
    Open,
    /// One is trying; the next may when this time has come, should nothing be heard of it.
    Probing(Instant),
}

/// What a breaker says to one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    /// The only one: whether it is answered decides.
    Probe,
    Refuse {
        retry_in: Duration,
    },
}

#[derive(Debug)]
pub(super) struct Breaker {
    rule: BreakerRule,
    state: State,
    unanswered: u32,
    backoff: Backoff,
    dice: StdRng,
}

impl Breaker {
    pub(super) fn new(rule: BreakerRule, seed: u64) -> Self {
        Self {
            rule,
            state: State::Closed,
            unanswered: 0,
            backoff: Backoff::default(),
            dice: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.standing(now) {
            Admission::Probe => {
                self.state = State::Probing(now + self.rule.range.max);
                Admission::Probe
            }
            other => other,
        }
    }

    /// What would be said now.
    pub(super) fn standing(&self, now: Instant) -> Admission {
        let retry_in = match self.state {
            State::Closed => return Admission::Pass,
            State::Open => self.backoff.wait(now),
            State::Probing(until) => Some(until.saturating_duration_since(now)),
        };
        match retry_in.filter(|wait| !wait.is_zero()) {
            Some(retry_in) => Admission::Refuse { retry_in },
            None => Admission::Probe,
        }
    }

    /// An exchange was answered, by whatever.
    pub(super) fn answered(&mut self) {
        self.state = State::Closed;
        self.unanswered = 0;
        self.backoff.succeeded();
    }

    /// An exchange was not. `true` if that opens the breaker.
    pub(super) fn unanswered(&mut self, now: Instant) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let opens = match self.state {
            State::Closed => {
                self.rule.unanswered_max > 0 && self.unanswered >= self.rule.unanswered_max
            }
            State::Probing(_) => true,
            // One that was under way when it opened.
            State::Open => false,
        };
        if opens {
            self.state = State::Open;
            self.backoff.failed(now, self.rule.range, &mut self.dice);
        }
        opens
    }

    /// Unanswered exchanges in a row.
    pub(super) fn in_a_row(&self) -> u32 {
        self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: BreakerRule = BreakerRule {
        unanswered_max: 3,
        range: BackoffRange {
            min: Duration::from_secs(1),
            max: Duration::from_secs(8),
        },
    };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(RULE, 7);
        assert!(!breaker.unanswered(now));
        assert!(!breaker.unanswered(now));
        assert!(breaker.unanswered(now));
        breaker
    }

    fn wait(breaker: &Breaker, now: Instant) -> Duration {
        match breaker.standing(now) {
            Admission::Refuse { retry_in } => retry_in,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn opens_after_so_many_in_a_row_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new(RULE, 7);
        for _ in 0..10 {
            assert!(!breaker.unanswered(now));
            assert!(!breaker.unanswered(now));
            breaker.answered();
            assert_eq!(breaker.admit(now), Admission::Pass);
        }
        let breaker = opened(now);
        assert!(wait(&breaker, now) <= RULE.range.min);
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + RULE.range.min;
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!(wait(&breaker, later), RULE.range.max);
        breaker.answered();
        assert_eq!(breaker.admit(later), Admission::Pass);

        let mut breaker = opened(now);
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert!(breaker.unanswered(later));
        let second = wait(&breaker, later);
        assert!(second >= RULE.range.min, "twice as long: {second:?}");
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_gives_way_to_the_next() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + RULE.range.min;
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!(breaker.admit(later + RULE.range.max), Admission::Probe);
    }

    #[test]
    fn a_rule_of_none_never_opens() {
        let rule = BreakerRule {
            unanswered_max: 0,
            ..RULE
        };
        let mut breaker = Breaker::new(rule, 7);
        for _ in 0..1000 {
            assert!(!breaker.unanswered(Instant::now()));
        }
        assert_eq!(breaker.admit(Instant::now()), Admission::Pass);
    }
}
