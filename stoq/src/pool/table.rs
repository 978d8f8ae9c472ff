//! Which address is in which state. No task and no clock of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::backoff::BackoffRange;
use super::breaker::{Admission, BreakerRule};
use super::slot::{Outcome, Slot};
use super::{CONNECTIONS_MAX, PeerHealth, PoolCounters, PoolError};
use crate::peer::{PeerConn, PeerError};

/// How long an address is left alone where a node on a revocation list answers, or one that has us on its own: nobody is taken off in a
/// hurry, and each dial is a line in two audits.
const REVOKED: BackoffRange = BackoffRange {
    min: Duration::from_secs(30),
    max: Duration::from_secs(60),
};

/// What is to be done for one who asks for an address.
#[derive(Debug)]
pub(super) enum Step {
    Use(PeerConn),
    /// As well, so that there is one more for those to come.
    UseAndDial(PeerConn, watch::Sender<Outcome>),
    /// As well, so that there is another before the certificates of one end.
    UseAndReplace(PeerConn, watch::Sender<Outcome>),
    Wait(watch::Receiver<Outcome>),
    /// The asker is the first: dial, and give the outcome to the sender and to [`Table::dialled`].
    Dial(watch::Sender<Outcome>),
    Refuse(PoolError),
}

/// What a table goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) peers_max: usize,
    pub(super) connections: usize,
    pub(super) backoff: BackoffRange,
    pub(super) breaker: BreakerRule,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: HashMap<SocketAddr, Slot>,
    rules: Rules,
    dice: StdRng,
    closed: bool,
    counters: Arc<PoolCounters>,
}

impl Table {
    pub(super) fn new(rules: Rules, seed: u64, counters: Arc<PoolCounters>) -> Self {
        let rules = Rules {
            peers_max: rules.peers_max.max(1),
            connections: rules.connections.clamp(1, CONNECTIONS_MAX),
            ..rules
        };
        Self {
            slots: HashMap::new(),
            rules,
            dice: StdRng::seed_from_u64(seed),
            closed: false,
            counters,
        }
    }

    /// What to do, and whether the asker is to probe a peer that answered nothing. If so, and if it asks nothing after all, that is to
    /// be [said](Self::unasked).
    pub(super) fn ask(&mut self, addr: SocketAddr, now: Instant) -> (Step, bool) {
        if self.closed {
            return (Step::Refuse(PoolError::Closed), false);
        }
        let full = self.slots.len() >= self.rules.peers_max;
        if full && !self.slots.contains_key(&addr) && !self.make_room(now) {
            let refusal = PoolError::TooManyPeers(self.rules.peers_max);
            return (Step::Refuse(refusal), false);
        }
        let (rules, dice, counters) = (self.rules, &mut self.dice, &self.counters);
        let slot = self.slots.entry(addr).or_insert_with(|| {
            Slot::new(rules.connections, rules.breaker, dice.random(), counters)
        });
        let standing = slot.standing(now);
        if let Admission::Refuse { retry_in } = standing {
            return (Step::Refuse(PoolError::Unanswering { retry_in }), false);
        }
        let step = slot.step(now);
        let probes = standing == Admission::Probe && !matches!(step, Step::Refuse(_));
        if probes {
            slot.probe(now);
            counters.breaker_probes.inc();
        }
        (step, probes)
    }

    /// Who was to probe an address asked nothing.
    pub(super) fn unasked(&self, addr: SocketAddr) {
        if let Some(slot) = self.slots.get(&addr) {
            slot.unasked();
        }
    }

    pub(super) fn dialling(&mut self, addr: SocketAddr, handle: AbortHandle) {
        if let Some(slot) = self.slots.get_mut(&addr) {
            slot.dialling(handle);
        }
    }

    /// Notes what a dial came to. Returns how long the address is left alone, if it failed.
    pub(super) fn dialled(
        &mut self,
        addr: SocketAddr,
        result: &Result<PeerConn, PeerError>,
        now: Instant,
    ) -> Option<Duration> {
        let slot = self.slots.get_mut(&addr);
        match (result, slot) {
            // Forgotten meanwhile: the pool is closed.
            (Ok(conn), None) => conn.close(),
            (Err(_), None) => {}
            (Ok(conn), Some(slot)) => slot.connected(conn),
            (Err(error), Some(slot)) => {
                let range = match error.is_revocation() {
                    true => REVOKED,
                    false => self.rules.backoff,
                };
                return Some(slot.failed(error, now, range, &mut self.dice));
            }
        }
        None
    }

    /// How many connections there may be to a known address.
    pub(super) fn want(&mut self, addr: SocketAddr, connections: usize) -> bool {
        let slot = self.slots.get_mut(&addr);
        slot.map(|slot| slot.want(connections.clamp(1, CONNECTIONS_MAX)))
            .is_some()
    }

    pub(super) fn health(&self, addr: SocketAddr, now: Instant) -> Option<PeerHealth> {
        self.slots.get(&addr).map(|slot| slot.health(now))
    }

    /// Forgets an address that is of no use, else the one unused for longest. `false` if all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        let before = self.slots.len();
        self.slots.retain(|_, slot| !slot.is_spent(now));
        if self.slots.len() < before {
            return true;
        }
        let oldest = self
            .slots
            .iter()
            .filter_map(|(addr, slot)| slot.idle_since().map(|since| (since, *addr)))
            .min();
        let Some(slot) = oldest.and_then(|(_, addr)| self.slots.remove(&addr)) else {
            return false;
        };
        for conn in slot.into_conns() {
            conn.retire();
            self.counters.evicted.inc();
        }
        true
    }

    /// Gives no more, and hands over all connections there are. Dials under way are given up.
    pub(super) fn close(&mut self) -> Vec<PeerConn> {
        self.closed = true;
        let slots = std::mem::take(&mut self.slots).into_values();
        slots.flat_map(Slot::into_conns).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{NodeId, Refusal};
    use crate::wire::CloseCode;

    #[test]
    fn an_address_with_a_revoked_node_is_left_alone_for_longer() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 7443));
        let revoked = Refusal::Revoked {
            node_id: NodeId([1; 32]),
            name: "one".to_owned(),
        };
        let by_us = PeerError::Refused {
            addr,
            refusal: revoked,
        };
        let by_them = PeerError::RefusedByPeer {
            addr,
            code: CloseCode::Revoked,
            reason: String::new(),
        };
        let limit = Duration::from_secs(1);
        let rules = Rules {
            peers_max: 8,
            connections: 1,
            backoff: BackoffRange {
                min: limit,
                max: limit,
            },
            breaker: BreakerRule {
                unanswered_max: 0,
                range: REVOKED,
            },
        };
        let rest = |error: PeerError| {
            let mut table = Table::new(rules, 1, Arc::default());
            let now = Instant::now();
            assert!(matches!(table.ask(addr, now).0, Step::Dial(_)));
            let rest = table.dialled(addr, &Err(error), now).unwrap();
            assert!(matches!(table.ask(addr, now + rest / 2).0, Step::Refuse(_)));
            rest
        };
        for error in [by_us, by_them] {
            assert!(rest(error) >= REVOKED.min / 2);
        }
        assert!(rest(PeerError::Timeout { addr, limit }) <= limit);
    }
}
