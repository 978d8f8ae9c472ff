//! Connections to peers, made when first asked for and kept while they are used: one to each, or several where told to.
//!
//! A pool belongs to a worker and its transport. Invariants: at most one dial to an address is under way, however
//! many ask for it, and all of them get its outcome; an address that just failed is left alone for a while, longer
//! each time; a peer that leaves exchanges unanswered one after the other is left alone too, until one exchange that may try is
//! answered; the number of addresses is bounded.

mod backoff;
mod breaker;
mod dial;
mod slot;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::counter::counters;
use crate::early::Sessions;
use crate::identity::Identity;
use crate::peer::{DialConfig, PeerConn, PeerError};
use crate::transport::{Carrier, PathStats, Transport};

use self::backoff::BackoffRange;
use self::breaker::BreakerRule;
use self::dial::{Shared, Way};
use self::table::Rules;

/// Most connections to one peer.
pub const CONNECTIONS_MAX: usize = 16;

/// Settings of a [`Pool`].
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// How each peer is dialled, and after how long without an exchange its connection is closed.
    pub dial: DialConfig,
    /// Addresses known at once: connected, being dialled, or left alone after a failure. Default 256. At the bound
    /// a connection without exchanges makes room; if there is none, [`PoolError::TooManyPeers`].
    pub peers_max: usize,
    /// Connections there may be to one peer, 1 to [`CONNECTIONS_MAX`]. Default 1. Another is made while those there have
    /// exchanges under way; an exchange goes to the one with the fewest. See [`Pool::want`] for a single peer.
    pub connections: usize,
    /// Exchanges in a row that a peer leaves unanswered, until the deadline or the loss of the connection, before it is left
    /// alone for as long as the backoff below says. Default 5; 0 means never.
    pub unanswered_max: u32,
    /// Peers whose tickets are remembered, so that the next dial costs one round trip less and no certificates: at most 40 KiB each.
    /// Default 256; 0 means that every dial is a full handshake. A peer that gives no tickets costs nothing.
    pub resume_max: usize,
    /// How long an address is left alone after its first failure. Default 100 ms; doubled with each further one.
    pub backoff_min: Duration,
    /// The longest time it is left alone. Default 10 s. Where one of the two is revoked it is 15 to 60 s, whatever stands here.
    pub backoff_max: Duration,
    /// Seed of the jitter: the time is drawn from the upper half of its bound. Default: random.
    pub seed: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            dial: DialConfig::default(),
            peers_max: 256,
            connections: 1,
            unanswered_max: 5,
            resume_max: 256,
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
    /// The peer left exchanges unanswered, and it is too early to ask it again.
    #[error("the peer answers nothing; not asked again before {retry_in:?} have passed")]
    Unanswering {
        /// Time until one exchange may try.
        retry_in: Duration,
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
        /// Dials, of those completed, that resumed a session.
        dials_resumed,
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
        /// Dials begun for another connection to a peer that has one; counted among the dials as well.
        dials_for_more,
        /// Times a peer was left alone because it left exchanges unanswered.
        breaker_opened,
        /// Exchanges let through to find out whether such a peer answers again.
        breaker_probes,
        /// Requests refused because the peer leaves exchanges unanswered.
        refused_unanswering,
        /// Connections cut off at the end of a drain's grace, exchanges under way included.
        closed_at_drain_end,
    }
}

/// How a peer stands with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// At least one connection.
    Connected,
    /// No connection yet; one is being made.
    Dialing,
    /// No connection, and none needed.
    Idle,
    /// The last dial failed.
    Unreachable {
        /// Time until the next is allowed.
        retry_in: Duration,
    },
    /// It left exchanges unanswered.
    Unanswering {
        /// Time until one exchange may try; 0 if one may now.
        retry_in: Duration,
    },
}

/// What a pool knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerHealth {
    /// How it stands.
    pub state: PeerState,
    /// Whether the last dial failed, be it some time ago, and none has ended since.
    pub failing: bool,
    /// Connections that take exchanges.
    pub connections: usize,
    /// Exchanges under way on them.
    pub active: usize,
    /// Exchanges in a row that it left unanswered.
    pub unanswered: u32,
    /// What carries the first connection.
    pub carrier: Option<Carrier>,
    /// The path of the first connection.
    pub path: Option<PathStats>,
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
            connections,
            unanswered_max,
            resume_max,
            backoff_min,
            backoff_max,
            seed,
        } = config;
        let backoff = BackoffRange {
            min: backoff_min,
            max: backoff_max,
        };
        let rules = Rules {
            peers_max,
            connections,
            backoff,
            breaker: BreakerRule {
                unanswered_max,
                range: backoff,
            },
        };
        let way = match resume_max {
            0 => Way::Full(identity),
            peers_max => Way::Resuming(Sessions::new(&identity, peers_max)),
        };
        Self(Arc::new(Shared::new(
            Arc::new(transport),
            way,
            dial,
            rules,
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

    /// How many connections there may be to a peer that is known, 1 to [`CONNECTIONS_MAX`], for as long as it stays known.
    /// Those beyond are let go once their exchanges are done. `false` if it is not known.
    pub fn want(&self, addr: SocketAddr, connections: usize) -> bool {
        self.0.want(addr, connections)
    }

    /// How a peer fares; `None` if it is not known.
    #[must_use]
    pub fn health(&self, addr: SocketAddr) -> Option<PeerHealth> {
        self.0.health(addr, Instant::now())
    }

    /// Gives no more connections, lets the exchanges under way finish for as long as `grace`, and returns when all
    /// connections are closed.
    pub async fn drain(&self, grace: Duration) {
        self.0.drain(grace).await;
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
    pub fn counters(&self) -> &Arc<PoolCounters> {
        self.0.counters()
    }
}
