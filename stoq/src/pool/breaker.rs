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

    /// The one who was admitted as [`Admission::Probe`] tries.
    pub(super) fn probe(&mut self, now: Instant) {
        self.state = State::Probing(now + self.rule.range.max);
    }

    /// Nothing was asked of the peer after all: another may try at once.
    pub(super) fn unasked(&mut self) {
        if let State::Probing(_) = self.state {
            self.state = State::Open;
        }
    }

    /// An exchange ended without a word about the peer, for the asker gave it up. If one was trying, the next may after as long a
    /// wait as before it: a peer that is dead to askers of little patience is asked no more often than that.
    pub(super) fn given_up(&mut self, now: Instant) {
        if let State::Probing(_) = self.state {
            self.state = State::Open;
            self.backoff.again(now, self.rule.range, &mut self.dice);
        }
    }

    /// Whether one who asks now is admitted. Who is to probe says so by [`probe`](Self::probe).
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

    fn probe(breaker: &mut Breaker, now: Instant) {
        assert_eq!(breaker.standing(now), Admission::Probe);
        breaker.probe(now);
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
            assert_eq!(breaker.standing(now), Admission::Pass);
        }
        let breaker = opened(now);
        assert!(wait(&breaker, now) <= RULE.range.min);
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + RULE.range.min;
        probe(&mut breaker, later);
        assert_eq!(wait(&breaker, later), RULE.range.max);
        breaker.answered();
        assert_eq!(breaker.standing(later), Admission::Pass);

        let mut breaker = opened(now);
        probe(&mut breaker, later);
        assert!(breaker.unanswered(later));
        let second = wait(&breaker, later);
        assert!(second >= RULE.range.min, "twice as long: {second:?}");
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_gives_way_to_the_next() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + RULE.range.min;
        probe(&mut breaker, later);
        probe(&mut breaker, later + RULE.range.max);
    }

    #[test]
    fn a_probe_that_asked_nothing_or_was_given_up_does_not_lengthen_the_wait() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let mut later = now + RULE.range.min;
        probe(&mut breaker, later);
        breaker.unasked();
        for _ in 0..10 {
            probe(&mut breaker, later);
            breaker.given_up(later);
            let again = wait(&breaker, later);
            assert!(again <= RULE.range.min, "{again:?}");
            later += again;
        }
        // Nobody was trying: the wait is what it was.
        probe(&mut breaker, later);
        assert!(breaker.unanswered(later));
        let second = wait(&breaker, later);
        breaker.unasked();
        breaker.given_up(later);
        assert_eq!(wait(&breaker, later), second);
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
        assert_eq!(breaker.standing(Instant::now()), Admission::Pass);
    }
}
