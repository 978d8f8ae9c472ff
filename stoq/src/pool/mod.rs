//! One connection to each peer, made when first asked for and kept while it is used.
//!
//! A pool belongs to a worker and its transport. Invariants: at most one dial to an address is under way, however
//! many ask for it, and all of them get its outcome; an address that just failed is left alone for a while, longer
//! each time; the number of addresses is bounded.

mod backoff;
mod dial;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::counter::counters;
use crate::identity::Identity;
use crate::peer::{DialConfig, PeerConn, PeerError};
use crate::transport::Transport;

use self::backoff::BackoffRange;
use self::dial::Shared;

/// Settings of a [`Pool`].
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// How each peer is dialled, and after how long without an exchange its connection is closed.
    pub dial: DialConfig,
    /// Addresses known at once: connected, being dialled, or left alone after a failure. Default 256. At the bound
    /// a connection without exchanges makes room; if there is none, [`PoolError::TooManyPeers`].
    pub peers_max: usize,
    /// How long an address is left alone after its first failure. Default 100 ms; doubled with each further one.
    pub backoff_min: Duration,
    /// The longest time it is left alone. Default 10 s.
    pub backoff_max: Duration,
    /// Seed of the jitter: the time is drawn from the upper half of its bound. Default: random.
    pub seed: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            dial: DialConfig::default(),
            peers_max: 256,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            seed: rand::random(),
        }
    }
}

/// Why a pool gives no connection.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This dial failed.
    #[error(transparent)]
    Dial(#[from] PeerError),
    /// An earlier one did, and it is too early to try again.
    #[error("not dialled again before {retry_in:?} have passed; last: {last}")]
    BackingOff {
        /// Time until the next dial is allowed.
        retry_in: Duration,
        /// What failed.
        last: PeerError,
    },
    /// Too many addresses, all of them in use.
    #[error("{0} peers are in use, which is the pool's bound")]
    TooManyPeers(usize),
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
}

counters! {
    /// What one [`Pool`] counted since it was made.
    PoolCounters {
        /// Dials begun; each ends in one of the next two, unless the pool is closed meanwhile.
        dials_started,
        /// Dials that ended in a usable connection.
        dials_completed,
        /// Dials that failed.
        dials_failed,
        /// Requests for a connection that were answered with one already there.
        reused,
        /// Requests for a connection that waited for a dial another had begun.
        joined_a_dial,
        /// Dials begun, of those above, because a connection's certificates on one of the sides come to their end.
        replacements_started,
        /// Requests refused because the address is left alone after a failure.
        refused_backing_off,
        /// Requests refused at `peers_max`.
        refused_too_many_peers,
        /// Idle connections closed early to make room for another peer.
        evicted,
    }
}

/// Connections to peers, by address. Cheap to clone; the clones are one pool.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

impl Pool {
    /// An empty pool. Dials run on the runtime on which [`get`](Self::get) is called; it must be that of `transport`.
    #[must_use]
    pub fn new(transport: impl Transport, identity: Identity, config: PoolConfig) -> Self {
        let PoolConfig {
            dial,
            peers_max,
            backoff_min,
            backoff_max,
            seed,
        } = config;
        let range = BackoffRange {
            min: backoff_min,
            max: backoff_max,
        };
        Self(Arc::new(Shared::new(
            Arc::new(transport),
            identity,
            dial,
            peers_max,
            range,
            seed,
        )))
    }

    /// A connection to the peer at `addr`: the one there is, or a new one. Ask again for every exchange; a connection
    /// kept aside may be closed for idleness meanwhile.
    ///
    /// # Errors
    /// See [`PoolError`]. Cancel-safe: a dial that was begun goes on for whoever asks next.
    pub async fn get(&self, addr: SocketAddr) -> Result<PeerConn, PoolError> {
        Shared::get(&self.0, addr, Instant::now()).await
    }

    /// Closes all connections at once, exchanges under way included, and gives no more.
    pub fn close(&self) {
        self.0.close();
    }

    /// Addresses known: connected, being dialled, or left alone.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.0.len()
    }

    /// What this pool counted.
    #[must_use]
    pub fn counters(&self) -> &PoolCounters {
        self.0.counters()
    }
}
