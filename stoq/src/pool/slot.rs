//! What a pool has for one address: connections, a dial under way, and how the peer fared lately.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::backoff::{Backoff, BackoffRange};
use super::breaker::{Admission, Breaker, BreakerRule};
use super::table::Step;
use super::{PeerHealth, PeerState, PoolCounters, PoolError};
use crate::peer::{PeerConn, PeerError, Witness};

/// What a dial came to; `None` while it is under way.
pub(super) type Outcome = Option<Result<PeerConn, PeerError>>;

#[derive(Debug)]
struct Dialing {
    outcome: watch::Receiver<Outcome>,
    task: Option<AbortHandle>,
}

impl Dialing {
    /// Whether its outcome is there or will be: its task ends without one only by a panic or with its runtime.
    fn is_sound(&self) -> bool {
        self.outcome.has_changed().is_ok() || self.outcome.borrow().is_some()
    }
}

/// Hears how the exchanges with one peer end.
#[derive(Debug)]
struct Watch {
    breaker: Mutex<Breaker>,
    counters: Arc<PoolCounters>,
}

impl Witness for Watch {
    fn answered(&self) {
        self.breaker.lock().answered();
    }

    fn unanswered(&self) {
        if self.breaker.lock().unanswered(Instant::now()) {
            self.counters.breaker_opened.inc();
        }
    }

    fn given_up(&self) {
        self.breaker.lock().given_up(Instant::now());
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    conns: Vec<PeerConn>,
    /// Those that are given to nobody any more: whose successors are there, that are more than are wanted, or that were let go. Who was
    /// given one may still use it; they close when they are idle, and until then belong to the pool.
    leaving: Vec<PeerConn>,
    /// How many there may be.
    wanted: usize,
    dialing: Option<Dialing>,
    backoff: Backoff,
    /// What the last dial failed of.
    last: Option<PeerError>,
    watch: Arc<Watch>,
}

impl Slot {
    pub(super) fn new(
        wanted: usize,
        rule: BreakerRule,
        seed: u64,
        counters: &Arc<PoolCounters>,
    ) -> Self {
        Self {
            conns: Vec::new(),
            leaving: Vec::new(),
            wanted,
            dialing: None,
            backoff: Backoff::default(),
            last: None,
            watch: Arc::new(Watch {
                breaker: Mutex::new(Breaker::new(rule, seed)),
                counters: counters.clone(),
            }),
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Admission {
        self.watch.breaker.lock().standing(now)
    }

    pub(super) fn probe(&self, now: Instant) {
        self.watch.breaker.lock().probe(now);
    }

    pub(super) fn unasked(&self) {
        self.watch.breaker.lock().unasked();
    }

    /// A connection, else what to do to have one. Of several the one with the fewest exchanges under way.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        let gone = self.conns.extract_if(.., |conn| !conn.is_usable());
        self.leaving.extend(gone);
        self.leaving.retain(|conn| !conn.is_closed());
        let least = self.conns.iter().min_by_key(|conn| conn.active());
        if let Some(conn) = least.filter(|conn| conn.refresh()).cloned() {
            let more = self.conns.len() < self.wanted && conn.active() > 0;
            let due = self.conns.iter().any(PeerConn::is_due);
            if (more || due) && !self.is_dialing() && self.backoff.wait(now).is_none() {
                let sender = self.dial();
                return match due {
                    true => Step::UseAndReplace(conn, sender),
                    false => Step::UseAndDial(conn, sender),
                };
            }
            return Step::Use(conn);
        }
        if let Some(dialing) = self.dialing.as_ref().filter(|dialing| dialing.is_sound()) {
            return Step::Wait(dialing.outcome.clone());
        }
        if let (Some(retry_in), Some(last)) = (self.backoff.wait(now), &self.last) {
            let last = last.clone();
            return Step::Refuse(PoolError::BackingOff { retry_in, last });
        }
        Step::Dial(self.dial())
    }

    fn dial(&mut self) -> watch::Sender<Outcome> {
        let (sender, outcome) = watch::channel(None);
        let task = None;
        self.dialing = Some(Dialing { outcome, task });
        sender
    }

    fn is_dialing(&self) -> bool {
        self.dialing.as_ref().is_some_and(Dialing::is_sound)
    }

    pub(super) fn dialling(&mut self, task: AbortHandle) {
        if let Some(dialing) = &mut self.dialing {
            dialing.task = Some(task);
        }
    }

    pub(super) fn connected(&mut self, conn: &PeerConn) {
        self.dialing = None;
        self.last = None;
        self.backoff.succeeded();
        conn.watched_by(self.watch.clone());
        if let Some(due) = self.conns.iter().position(PeerConn::is_due) {
            self.leaving.push(self.conns.swap_remove(due));
        }
        self.conns.push(conn.clone());
    }

    /// Notes that a dial failed; gives how long none is made.
    pub(super) fn failed(
        &mut self,
        error: &PeerError,
        now: Instant,
        range: BackoffRange,
        dice: &mut impl Rng,
    ) -> Duration {
        self.dialing = None;
        self.last = Some(error.clone());
        self.backoff.failed(now, range, dice)
    }

    /// How many connections there may be from now on. Those beyond are let go.
    pub(super) fn want(&mut self, connections: usize) {
        self.wanted = connections;
        for conn in self.conns.drain(connections.min(self.conns.len())..) {
            conn.retire();
            self.leaving.push(conn);
        }
    }

    /// Whether nothing is lost by forgetting it: it has no connection, and is not left alone.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        !self.is_dialing()
            && !self
                .conns
                .iter()
                .chain(&self.leaving)
                .any(|conn| !conn.is_closed())
            && self.backoff.wait(now).is_none()
            && !matches!(self.standing(now), Admission::Refuse { .. })
    }

    /// Since when none of its connections is used; `None` if one is, or is being made, or there is none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let mut latest = None;
        let leaving = self.leaving.iter().filter(|conn| !conn.is_closed());
        for conn in self.conns.iter().chain(leaving) {
            latest = latest.max(Some(conn.idle_since()?));
        }
        latest.filter(|_| !self.is_dialing())
    }

    pub(super) fn health(&self, now: Instant) -> PeerHealth {
        let open: Vec<_> = self.conns.iter().filter(|conn| conn.is_open()).collect();
        let breaker = self.watch.breaker.lock();
        let state = match (breaker.standing(now), self.backoff.wait(now)) {
            (Admission::Refuse { retry_in }, _) => PeerState::Unanswering { retry_in },
            (Admission::Probe, _) => PeerState::Unanswering {
                retry_in: Duration::ZERO,
            },
            (Admission::Pass, _) if !open.is_empty() => PeerState::Connected,
            (Admission::Pass, _) if self.is_dialing() => PeerState::Dialing,
            (Admission::Pass, Some(retry_in)) => PeerState::Unreachable { retry_in },
            (Admission::Pass, None) => PeerState::Idle,
        };
        PeerHealth {
            state,
            failing: self.last.is_some(),
            connections: open.len(),
            active: open.iter().map(|conn| conn.active()).sum(),
            unanswered: breaker.in_a_row(),
            carrier: open.first().map(|conn| conn.carrier()),
            path: open.first().map(|conn| conn.path()),
        }
    }

    /// Its connections; a dial under way is given up.
    pub(super) fn into_conns(self) -> Vec<PeerConn> {
        if let Some(task) = self.dialing.and_then(|dialing| dialing.task) {
            task.abort();
        }
        [self.conns, self.leaving].concat()
    }
}
