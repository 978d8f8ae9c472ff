//! The tasks of a pool: each dials one address and tells all who wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::slot::Outcome;
use super::table::{Rules, Step, Table};
use super::{PeerHealth, PoolCounters, PoolError};
use crate::early::Sessions;
use crate::identity::Identity;
use crate::peer::{DialConfig, PeerConn, PeerError};
use crate::transport::Transport;

/// As whom peers are dialled, and whether what they gave last time is used.
#[derive(Debug)]
pub(super) enum Way {
    /// With a full handshake each time.
    Full(Identity),
    /// Resuming where the peer gave a ticket.
    Resuming(Arc<Sessions>),
}

/// One who is to probe an address. Dropped, it asked nothing.
struct Probe<'a> {
    shared: &'a Shared,
    addr: SocketAddr,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.shared.table.lock().unasked(self.addr);
    }
}

/// What the clones of a pool and its dials share.
#[derive(Debug)]
pub(super) struct Shared {
    transport: Arc<dyn Transport>,
    way: Way,
    config: DialConfig,
    table: Mutex<Table>,
    counters: Arc<PoolCounters>,
}

impl Shared {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        way: Way,
        config: DialConfig,
        rules: Rules,
        seed: u64,
    ) -> Self {
        let counters = Arc::<PoolCounters>::default();
        let table = Mutex::new(Table::new(rules, seed, counters.clone()));
        Self {
            transport,
            way,
            config,
            table,
            counters,
        }
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        addr: SocketAddr,
        now: Instant,
    ) -> Result<PeerConn, PoolError> {
        let (step, probes) = self.table.lock().ask(addr, now);
        let probe = probes.then(|| Probe { shared: self, addr });
        let conn = self.take(addr, step).await?;
        // From here on its exchange tells.
        std::mem::forget(probe);
        Ok(conn)
    }

    async fn take(self: &Arc<Self>, addr: SocketAddr, step: Step) -> Result<PeerConn, PoolError> {
        let mut outcome = match step {
            Step::Use(conn) => {
                self.counters.reused.inc();
                return Ok(conn);
            }
            Step::UseAndDial(conn, sender) => {
                self.counters.reused.inc();
                self.counters.dials_for_more.inc();
                self.start(addr, sender);
                return Ok(conn);
            }
            Step::UseAndReplace(conn, sender) => {
                self.counters.reused.inc();
                self.counters.replacements_started.inc();
                self.start(addr, sender);
                return Ok(conn);
            }
            Step::Refuse(error) => {
                match &error {
                    PoolError::BackingOff { .. } => self.counters.refused_backing_off.inc(),
                    PoolError::TooManyPeers(_) => self.counters.refused_too_many_peers.inc(),
                    PoolError::Unanswering { .. } => self.counters.refused_unanswering.inc(),
                    PoolError::Dial(_) | PoolError::Closed => {}
                }
                return Err(error);
            }
            Step::Wait(outcome) => {
                self.counters.joined_a_dial.inc();
                outcome
            }
            Step::Dial(sender) => {
                let outcome = sender.subscribe();
                self.start(addr, sender);
                outcome
            }
        };
        // The sender is dropped without an outcome only when the dial's task was aborted: the pool is closed.
        let done = outcome
            .wait_for(Option::is_some)
            .await
            .map_err(|_| PoolError::Closed)?;
        match &*done {
            Some(result) => Ok(result.clone()?),
            None => Err(PoolError::Closed),
        }
    }

    /// Dials in a task, so that it does not end with whoever happened to ask first. It is bounded by the timeouts of
    /// handshake and hello, and aborted when the pool is closed.
    fn start(self: &Arc<Self>, addr: SocketAddr, sender: watch::Sender<Outcome>) {
        self.counters.dials_started.inc();
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let result = shared.dial(addr).await;
            if let Ok(conn) = &result
                && conn.handshake().is_some_and(|handshake| handshake.resumed)
            {
                shared.counters.dials_resumed.inc();
            }
            let counter = if result.is_ok() {
                &shared.counters.dials_completed
            } else {
                &shared.counters.dials_failed
            };
            counter.inc();
            let rest = shared.table.lock().dialled(addr, &result, Instant::now());
            if let (Some(rest), Err(error)) = (rest, &result) {
                tracing::info!(%error, ?rest, "cannot reach a peer");
            }
            sender.send_replace(Some(result));
        });
        self.table.lock().dialling(addr, task.abort_handle());
    }

    async fn dial(&self, addr: SocketAddr) -> Result<PeerConn, PeerError> {
        let (transport, config) = (&*self.transport, &self.config);
        match &self.way {
            Way::Full(identity) => PeerConn::dial(transport, identity, addr, config).await,
            Way::Resuming(sessions) => {
                PeerConn::dial_resuming(transport, sessions, addr, config).await
            }
        }
    }

    pub(super) fn close(&self) {
        let conns = self.table.lock().close();
        conns.iter().for_each(PeerConn::close);
    }

    pub(super) async fn drain(&self, grace: Duration) {
        let conns = self.table.lock().close();
        conns.iter().for_each(PeerConn::retire);
        let ends = join_all(conns.iter().map(PeerConn::closed));
        if timeout(grace, ends).await.is_err() {
            let late = conns.iter().filter(|conn| !conn.is_closed());
            late.for_each(|conn| {
                self.counters.closed_at_drain_end.inc();
                conn.close();
            });
        }
    }

    pub(super) fn want(&self, addr: SocketAddr, connections: usize) -> bool {
        self.table.lock().want(addr, connections)
    }

    pub(super) fn health(&self, addr: SocketAddr, now: Instant) -> Option<PeerHealth> {
        self.table.lock().health(addr, now)
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().len()
    }

    pub(super) fn counters(&self) -> &Arc<PoolCounters> {
        &self.counters
    }
}
