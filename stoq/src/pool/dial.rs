//! The tasks of a pool: each dials one address and tells all who wait.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::BackoffRange;
use super::table::{Outcome, Step, Table};
use super::{PoolCounters, PoolError};
use crate::identity::Identity;
use crate::peer::{DialConfig, PeerConn};
use crate::transport::Transport;

/// What the clones of a pool and its dials share.
#[derive(Debug)]
pub(super) struct Shared {
    transport: Arc<dyn Transport>,
    identity: Identity,
    config: DialConfig,
    table: Mutex<Table>,
    counters: PoolCounters,
}

impl Shared {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        identity: Identity,
        config: DialConfig,
        peers_max: usize,
        range: BackoffRange,
        seed: u64,
    ) -> Self {
        let table = Mutex::new(Table::new(peers_max, range, seed));
        Self {
            transport,
            identity,
            config,
            table,
            counters: PoolCounters::default(),
        }
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        addr: SocketAddr,
        now: Instant,
    ) -> Result<PeerConn, PoolError> {
        let step = self.ask(addr, now);
        let mut outcome = match step {
            Step::Use(conn) => {
                self.counters.reused.inc();
                return Ok(conn);
            }
            Step::Replace(conn, sender) => {
                self.counters.reused.inc();
                self.counters.replacements_started.inc();
                self.start(addr, sender);
                return Ok(conn);
            }
            Step::Refuse(error) => {
                match &error {
                    PoolError::BackingOff { .. } => self.counters.refused_backing_off.inc(),
                    PoolError::TooManyPeers(_) => self.counters.refused_too_many_peers.inc(),
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

    fn ask(&self, addr: SocketAddr, now: Instant) -> Step {
        let mut table = self.table.lock();
        let before = table.evicted;
        let step = table.ask(addr, now);
        self.counters.evicted.add(table.evicted - before);
        step
    }

    /// Dials in a task, so that it does not end with whoever happened to ask first. It is bounded by the timeouts of
    /// handshake and hello, and aborted when the pool is closed.
    fn start(self: &Arc<Self>, addr: SocketAddr, sender: watch::Sender<Outcome>) {
        self.counters.dials_started.inc();
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let result =
                PeerConn::dial(&*shared.transport, &shared.identity, addr, &shared.config).await;
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

    pub(super) fn close(&self) {
        self.table.lock().close();
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().len()
    }

    pub(super) fn counters(&self) -> &PoolCounters {
        &self.counters
    }
}
