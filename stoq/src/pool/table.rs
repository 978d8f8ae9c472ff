//! Which address is in which state. No task and no clock of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::PoolError;
use super::backoff::{Backoff, BackoffRange};
use crate::peer::{PeerConn, PeerError};

/// What a dial came to; `None` while it is under way.
pub(super) type Outcome = Option<Result<PeerConn, PeerError>>;

/// A dial under way.
#[derive(Debug)]
struct Dialing {
    outcome: watch::Receiver<Outcome>,
    task: Option<AbortHandle>,
}

impl Dialing {
    fn begin() -> (watch::Sender<Outcome>, Self) {
        let (sender, outcome) = watch::channel(None);
        (
            sender,
            Self {
                outcome,
                task: None,
            },
        )
    }

    /// Its outcome, now or later. `None` if its task ended without one, which only a panic or a stopped runtime does.
    fn outcome(&self) -> Option<watch::Receiver<Outcome>> {
        let comes = self.outcome.has_changed().is_ok() || self.outcome.borrow().is_some();
        comes.then(|| self.outcome.clone())
    }
}

#[derive(Debug)]
enum State {
    Dialing(Dialing),
    Connected(PeerConn),
    Resting(PeerError),
}

#[derive(Debug)]
struct Slot {
    backoff: Backoff,
    state: State,
    /// The dial for what is to take a connected one's place, which serves until then.
    next: Option<Dialing>,
}

/// What is to be done for one who asks for an address.
#[derive(Debug)]
pub(super) enum Step {
    Use(PeerConn),
    Wait(watch::Receiver<Outcome>),
    /// The asker is the first: dial, and give the outcome to the sender and to [`Table::dialled`].
    Dial(watch::Sender<Outcome>),
    /// As both of the above: the connection there is can be used, and its successor is to be dialled.
    Replace(PeerConn, watch::Sender<Outcome>),
    Refuse(PoolError),
}

#[derive(Debug)]
pub(super) struct Table {
    slots: HashMap<SocketAddr, Slot>,
    peers_max: usize,
    range: BackoffRange,
    dice: StdRng,
    closed: bool,
    /// Connections closed to make room.
    pub(super) evicted: u64,
}

impl Table {
    pub(super) fn new(peers_max: usize, range: BackoffRange, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self {
            slots: HashMap::new(),
            peers_max: peers_max.max(1),
            range,
            dice,
            closed: false,
            evicted: 0,
        }
    }

    pub(super) fn ask(&mut self, addr: SocketAddr, now: Instant) -> Step {
        if self.closed {
            return Step::Refuse(PoolError::Closed);
        }
        if let Some(slot) = self.slots.get_mut(&addr) {
            let next = slot.next.as_ref().and_then(Dialing::outcome);
            match &slot.state {
                State::Connected(conn) if conn.refresh() => {
                    let conn = conn.clone();
                    if next.is_some() || !conn.is_due() || slot.backoff.wait(now).is_some() {
                        return Step::Use(conn);
                    }
                    let (sender, dialing) = Dialing::begin();
                    slot.next = Some(dialing);
                    return Step::Replace(conn, sender);
                }
                // It ended before its successor was there.
                State::Connected(_) if let Some(outcome) = next => return Step::Wait(outcome),
                State::Dialing(dialing) => {
                    if let Some(outcome) = dialing.outcome() {
                        return Step::Wait(outcome);
                    }
                }
                State::Resting(last) => {
                    if let Some(retry_in) = slot.backoff.wait(now) {
                        return Step::Refuse(PoolError::BackingOff {
                            retry_in,
                            last: last.clone(),
                        });
                    }
                }
                State::Connected(_) => {}
            }
            let (sender, dialing) = Dialing::begin();
            slot.state = State::Dialing(dialing);
            return Step::Dial(sender);
        }
        if self.slots.len() >= self.peers_max && !self.make_room(now) {
            return Step::Refuse(PoolError::TooManyPeers(self.peers_max));
        }
        let (sender, dialing) = Dialing::begin();
        self.slots.insert(
            addr,
            Slot {
                backoff: Backoff::default(),
                state: State::Dialing(dialing),
                next: None,
            },
        );
        Step::Dial(sender)
    }

    pub(super) fn dialling(&mut self, addr: SocketAddr, handle: AbortHandle) {
        let Some(slot) = self.slots.get_mut(&addr) else {
            return;
        };
        match (&mut slot.state, &mut slot.next) {
            (State::Dialing(dialing), _) | (State::Connected(_), Some(dialing)) => {
                dialing.task = Some(handle);
            }
            (State::Connected(_) | State::Resting(_), _) => {}
        }
    }

    /// Notes what a dial came to. Returns how long the address is left alone, if it failed.
    pub(super) fn dialled(
        &mut self,
        addr: SocketAddr,
        result: &Result<PeerConn, PeerError>,
        now: Instant,
    ) -> Option<Duration> {
        if self.closed {
            if let Ok(conn) = result {
                conn.close();
            }
            return None;
        }
        let slot = self.slots.get_mut(&addr)?;
        slot.next = None;
        match result {
            Ok(conn) => {
                slot.backoff.succeeded();
                // One that is replaced is let go, not retired: who was just given it may still start an exchange, and the
                // last clone closes it.
                slot.state = State::Connected(conn.clone());
                None
            }
            Err(error) => {
                // One that was to be replaced goes on, and its successor is dialled again after a while.
                if !matches!(&slot.state, State::Connected(conn) if conn.is_open()) {
                    slot.state = State::Resting(error.clone());
                }
                Some(slot.backoff.failed(now, self.range, &mut self.dice))
            }
        }
    }

    /// Forgets an address that is of no use, else the connection unused for longest. `false` if all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        let before = self.slots.len();
        self.slots.retain(|_, slot| match &slot.state {
            State::Dialing(_) => true,
            State::Connected(conn) => conn.is_open() || slot.next.is_some(),
            State::Resting(_) => slot.backoff.wait(now).is_some(),
        });
        if self.slots.len() < before {
            return true;
        }
        let oldest = self
            .slots
            .iter()
            .filter_map(|(addr, slot)| match &slot.state {
                State::Connected(conn) if slot.next.is_none() => {
                    conn.idle_since().map(|since| (since, *addr))
                }
                State::Dialing(_) | State::Connected(_) | State::Resting(_) => None,
            })
            .min();
        let Some((_, addr)) = oldest else {
            return false;
        };
        if let Some(Slot {
            state: State::Connected(conn),
            ..
        }) = self.slots.remove(&addr)
        {
            conn.retire();
            self.evicted += 1;
        }
        true
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, slot) in self.slots.drain() {
            let dialing = match slot.state {
                State::Dialing(dialing) => Some(dialing),
                State::Connected(conn) => {
                    conn.close();
                    slot.next
                }
                State::Resting(_) => None,
            };
            if let Some(task) = dialing.and_then(|dialing| dialing.task) {
                task.abort();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
