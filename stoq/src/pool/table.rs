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

#[derive(Debug)]
enum State {
    Dialing {
        outcome: watch::Receiver<Outcome>,
        task: Option<AbortHandle>,
    },
    Connected(PeerConn),
    Resting(PeerError),
}

#[derive(Debug)]
struct Slot {
    backoff: Backoff,
    state: State,
}

/// What is to be done for one who asks for an address.
#[derive(Debug)]
pub(super) enum Step {
    Use(PeerConn),
    Wait(watch::Receiver<Outcome>),
    /// The asker is the first: dial, and give the outcome to the sender and to [`Table::dialled`].
    Dial(watch::Sender<Outcome>),
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
            match &slot.state {
                State::Connected(conn) if conn.refresh() => return Step::Use(conn.clone()),
                State::Dialing { outcome, .. } => match outcome.has_changed() {
                    Ok(_) => return Step::Wait(outcome.clone()),
                    // Its task ended without an outcome, which only a panic or a stopped runtime does.
                    Err(_) if outcome.borrow().is_some() => return Step::Wait(outcome.clone()),
                    Err(_) => {}
                },
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
            let (sender, outcome) = watch::channel(None);
            slot.state = State::Dialing {
                outcome,
                task: None,
            };
            return Step::Dial(sender);
        }
        if self.slots.len() >= self.peers_max && !self.make_room(now) {
            return Step::Refuse(PoolError::TooManyPeers(self.peers_max));
        }
        let (sender, outcome) = watch::channel(None);
        let state = State::Dialing {
            outcome,
            task: None,
        };
        self.slots.insert(
            addr,
            Slot {
                backoff: Backoff::default(),
                state,
            },
        );
        Step::Dial(sender)
    }

    pub(super) fn dialling(&mut self, addr: SocketAddr, handle: AbortHandle) {
        if let Some(Slot {
            state: State::Dialing { task, .. },
            ..
        }) = self.slots.get_mut(&addr)
        {
            *task = Some(handle);
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
        match result {
            Ok(conn) => {
                slot.backoff.succeeded();
                slot.state = State::Connected(conn.clone());
                None
            }
            Err(error) => {
                slot.state = State::Resting(error.clone());
                Some(slot.backoff.failed(now, self.range, &mut self.dice))
            }
        }
    }

    /// Forgets an address that is of no use, else the connection unused for longest. `false` if all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        let before = self.slots.len();
        self.slots.retain(|_, slot| match &slot.state {
            State::Dialing { .. } => true,
            State::Connected(conn) => conn.is_open(),
            State::Resting(_) => slot.backoff.wait(now).is_some(),
        });
        if self.slots.len() < before {
            return true;
        }
        let oldest = self
            .slots
            .iter()
            .filter_map(|(addr, slot)| match &slot.state {
                State::Connected(conn) => conn.idle_since().map(|since| (since, *addr)),
                State::Dialing { .. } | State::Resting(_) => None,
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
            match slot.state {
                State::Connected(conn) => conn.close(),
                State::Dialing {
                    task: Some(task), ..
                } => task.abort(),
                State::Dialing { task: None, .. } | State::Resting(_) => {}
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
