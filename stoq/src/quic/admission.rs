//! Who is let in: limits on connections and handshakes, and what happens at each.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::adapt::{Shared, Windows};
use super::counters::Counters;
use super::prefix::{PrefixPlace, Prefixes};
use super::screen::Alarm;
use super::transport::TransportConfig;

/// Limits of one endpoint, that is of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at once, in any state. Default 65,536, at about 40 KiB each when idle: 2.5 GiB. A newcomer
    /// beyond it is refused.
    pub max_connections: usize,
    /// Connections at once, in any state, whose client began at one address (IPv4) or in one /64 (IPv6). Default 65,536: no
    /// more than all together. A newcomer beyond it is refused. From half of it on a newcomer must first prove its
    /// address, so that nobody fills another's share with invented ones. Of this endpoint alone, unless it counts together
    /// with others ([`EndpointConfig::prefixes`](super::EndpointConfig::prefixes)).
    ///
    /// A connection counts until its last [`Connection`](super::Connection) is dropped, and for where it began, also
    /// where its client moves. About 100 bytes a connection where it is less than `max_connections`; else nothing.
    pub max_per_prefix: usize,
    /// Handshakes in progress from which on a newcomer must first prove its address (Retry), which costs it a
    /// round trip and us no state; until they are fewer than half as many. Default 256: about 80 ms of work at 300 µs a
    /// handshake.
    pub retry_above: usize,
    /// Handshakes in progress at once. Default 1,024. A newcomer beyond it is refused, proven address or not.
    pub max_handshakes: usize,
    /// How long a handshake may take, waiting in the queue of [`accept`](super::Endpoint::accept) included.
    /// Default 10 s.
    pub handshake_timeout: Duration,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            max_connections: 65_536,
            max_per_prefix: 65_536,
            retry_above: 256,
            max_handshakes: 1_024,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// What is known when a newcomer knocks.
#[derive(Debug, Clone, Copy)]
struct Knock {
    open: bool,
    connections: usize,
    /// Connections of its prefix; 0 where they are not counted.
    neighbours: usize,
    handshakes: usize,
    /// Newcomers were asked to prove their address last.
    retrying: bool,
    /// Somebody wants newcomers to prove their address.
    alarmed: bool,
    /// The client has shown that it receives at the address it sends from.
    validated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Retry,
    RefuseDraining,
    RefuseConnections,
    RefusePrefix,
    RefuseHandshakes,
}

impl AdmissionLimits {
    /// Whether connections are counted by prefix.
    fn counts_prefixes(&self) -> bool {
        self.max_per_prefix < self.max_connections
    }

    /// Whether newcomers are to prove their address. Between the two bounds it stays as it was, so that it does not
    /// change with each handshake.
    fn retries(&self, knock: Knock) -> bool {
        let until = self.retry_above.div_ceil(2);
        knock.handshakes >= self.retry_above || (knock.retrying && knock.handshakes >= until)
    }

    fn decide(&self, knock: Knock) -> Verdict {
        let full = self.counts_prefixes() && knock.neighbours >= self.max_per_prefix;
        let crowded = self.counts_prefixes() && knock.neighbours >= self.max_per_prefix.div_ceil(2);
        if !knock.open {
            Verdict::RefuseDraining
        } else if knock.connections >= self.max_connections {
            Verdict::RefuseConnections
        } else if knock.handshakes >= self.max_handshakes {
            Verdict::RefuseHandshakes
        } else if !knock.validated && (self.retries(knock) || crowded || knock.alarmed) {
            Verdict::Retry
        } else if full {
            Verdict::RefusePrefix
        } else {
            Verdict::Accept
        }
    }
}

/// The door of an endpoint: shared by its admission task and whoever accepts.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) limits: AdmissionLimits,
    pub(super) counters: Arc<Counters>,
    open: AtomicBool,
    closed: AtomicBool,
    handshakes: Arc<AtomicUsize>,
    retrying: AtomicBool,
    prefixes: Prefixes,
    alarm: Alarm,
    /// Let in, not yet taken by `accept`. At most `max_handshakes`, since each holds a [`HalfOpen`].
    admitted: Mutex<VecDeque<Admitted>>,
    arrival: Notify,
    transport: TransportConfig,
    shared: Shared,
    /// What newcomers are served with; `None` while they are refused.
    serving: Mutex<Option<quinn::ServerConfig>>,
}

#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) place: Option<PrefixPlace>,
    pub(super) windows: Option<Windows>,
    pub(super) shared: Shared,
    pub(super) connecting: quinn::Connecting,
    pub(super) half_open: HalfOpen,
    pub(super) since: tokio::time::Instant,
    /// Where the client's first packet came from.
    pub(super) addr: SocketAddr,
    /// The client receives there.
    pub(super) proven: bool,
}

impl Door {
    /// Closed until it is told what to [`serve`](Self::serve).
    pub(super) fn new(
        limits: AdmissionLimits,
        counters: Arc<Counters>,
        transport: TransportConfig,
        shared: Shared,
        prefixes: Prefixes,
        alarm: Alarm,
    ) -> Self {
        Self {
            limits,
            counters,
            transport,
            shared,
            serving: Mutex::default(),
            open: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            handshakes: Arc::default(),
            retrying: AtomicBool::new(false),
            prefixes,
            alarm,
            admitted: Mutex::default(),
            arrival: Notify::new(),
        }
    }

    /// Lets newcomers in, on this configuration; or refuses them.
    pub(super) fn serve(&self, config: Option<quinn::ServerConfig>) {
        self.open.store(config.is_some(), Ordering::Relaxed);
        *self.serving.lock() = config;
    }

    /// Wakes everyone in [`next`](Self::next) for good.
    pub(super) fn close(&self) {
        self.serve(None);
        self.closed.store(true, Ordering::Release);
        self.admitted.lock().clear();
        self.arrival.notify_waiters();
    }

    /// Answers every knock until the endpoint closes. Runs apart from `accept`, so that newcomers are refused
    /// at once also while nobody accepts.
    pub(super) async fn answer(&self, endpoint: &quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let addr = incoming.remote_address().ip();
            let counted = self.limits.counts_prefixes();
            let knock = Knock {
                open: self.open.load(Ordering::Relaxed),
                connections: endpoint.open_connections(),
                neighbours: if counted {
                    self.prefixes.count(addr)
                } else {
                    0
                },
                handshakes: self.handshakes.load(Ordering::Relaxed),
                retrying: self.retrying.load(Ordering::Relaxed),
                alarmed: self.alarm.is_raised(),
                validated: incoming.remote_address_validated() || !incoming.may_retry(),
            };
            let retrying = self.limits.retries(knock);
            if retrying && !knock.retrying {
                self.counters.retry_phases.inc();
            }
            self.retrying.store(retrying, Ordering::Relaxed);
            match self.limits.decide(knock) {
                Verdict::Accept => self.admit(incoming),
                Verdict::Retry => {
                    // Cannot fail: `may_retry` was asked above.
                    if incoming.retry().is_ok() {
                        self.counters.retries_sent.inc();
                    }
                }
                Verdict::RefuseDraining => {
                    self.counters.refused_draining.inc();
                    incoming.refuse();
                }
                Verdict::RefuseConnections => {
                    self.counters.refused_connections.inc();
                    incoming.refuse();
                }
                Verdict::RefusePrefix => {
                    self.counters.refused_prefix.inc();
                    incoming.refuse();
                }
                Verdict::RefuseHandshakes => {
                    self.counters.refused_handshakes.inc();
                    incoming.refuse();
                }
            }
        }
        self.close();
    }

    fn admit(&self, incoming: quinn::Incoming) {
        let addr = incoming.remote_address();
        let proven = incoming.remote_address_validated();
        let place = if self.limits.counts_prefixes() {
            let Some(place) = self.prefixes.take(addr.ip(), self.limits.max_per_prefix) else {
                // Another endpoint that counts together with this one was quicker.
                self.counters.refused_prefix.inc();
                return incoming.refuse();
            };
            Some(place)
        } else {
            None
        };
        self.counters.attempts_accepted.inc();
        let learnt = self.shared.learnt(&self.transport, addr.ip());
        let windows = Windows::of(learnt.as_ref().unwrap_or(&self.transport));
        let own = learnt.and_then(|transport| {
            let mut config = self.serving.lock().clone()?;
            config.transport_config(transport.config(&self.shared.histograms));
            Some(config)
        });
        let accepted = match own {
            Some(config) => incoming.accept_with(Arc::new(config)),
            None => incoming.accept(),
        };
        match accepted {
            Ok(connecting) => {
                let half_open = HalfOpen::new(&self.handshakes, &self.counters);
                let since = tokio::time::Instant::now();
                self.admitted.lock().push_back(Admitted {
                    place,
                    windows,
                    shared: self.shared.clone(),
                    connecting,
                    half_open,
                    since,
                    addr,
                    proven,
                });
                self.arrival.notify_one();
            }
            Err(error) => {
                self.counters.handshakes_failed.inc();
                tracing::debug!(%error, "handshake failed at its first packet");
            }
        }
    }

    /// The next one let in, or `None` for good once closed. Cancel-safe.
    pub(super) async fn next(&self) -> Option<Admitted> {
        loop {
            // Made before looking, so that an arrival in between is not missed.
            let arrival = self.arrival.notified();
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            if let Some(admitted) = self.admitted.lock().pop_front() {
                return Some(admitted);
            }
            arrival.await;
        }
    }
}

/// A handshake in progress, counted until dropped. Dropped without an outcome it counts as failed, so that the
/// counters add up.
#[derive(Debug)]
pub(super) struct HalfOpen {
    in_progress: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    Failed,
    TimedOut,
}

impl HalfOpen {
    fn new(in_progress: &Arc<AtomicUsize>, counters: &Arc<Counters>) -> Self {
        in_progress.fetch_add(1, Ordering::Relaxed);
        Self {
            in_progress: in_progress.clone(),
            counters: counters.clone(),
            outcome: Outcome::Failed,
        }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.in_progress.fetch_sub(1, Ordering::Relaxed);
        let counter = match self.outcome {
            Outcome::Completed => &self.counters.handshakes_completed,
            Outcome::Failed => &self.counters.handshakes_failed,
            Outcome::TimedOut => &self.counters.handshakes_timed_out,
        };
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        max_connections: 10,
        max_per_prefix: 5,
        retry_above: 2,
        max_handshakes: 4,
        handshake_timeout: Duration::from_secs(10),
    };

    #[test]
    fn each_limit_has_its_own_answer_and_the_harder_one_wins() {
        // open, connections, of its prefix, handshakes, validated → verdict
        let table = [
            (true, 0, 0, 0, false, Verdict::Accept),
            (true, 9, 0, 1, false, Verdict::Accept),
            (true, 9, 0, 2, false, Verdict::Retry),
            (true, 9, 0, 3, true, Verdict::Accept),
            (true, 9, 0, 4, true, Verdict::RefuseHandshakes),
            (true, 9, 0, 4, false, Verdict::RefuseHandshakes),
            (true, 10, 0, 0, true, Verdict::RefuseConnections),
            (true, 10, 5, 4, false, Verdict::RefuseConnections),
            (true, 5, 2, 0, false, Verdict::Accept),
            (true, 5, 3, 0, false, Verdict::Retry),
            (true, 5, 4, 0, true, Verdict::Accept),
            (true, 5, 5, 0, true, Verdict::RefusePrefix),
            (true, 5, 5, 0, false, Verdict::Retry),
            (true, 5, 5, 4, true, Verdict::RefuseHandshakes),
            (false, 0, 0, 0, true, Verdict::RefuseDraining),
            (false, 10, 5, 4, false, Verdict::RefuseDraining),
        ];
        for (open, connections, neighbours, handshakes, validated, expected) in table {
            let alarmed = false;
            let knock = Knock {
                open,
                connections,
                neighbours,
                handshakes,
                retrying: false,
                alarmed,
                validated,
            };
            assert_eq!(LIMITS.decide(knock), expected, "{knock:?}");
            // An alarm asks those to prove themselves who were let in without, and changes nothing else.
            let alarmed = LIMITS.decide(Knock {
                alarmed: true,
                ..knock
            });
            let asked = expected == Verdict::Accept && !validated;
            assert_eq!(
                alarmed,
                if asked { Verdict::Retry } else { expected },
                "{knock:?}"
            );
        }
    }

    #[test]
    fn retries_begin_at_the_bound_and_end_below_half_of_it() {
        for (retry_above, handshakes, retrying) in [
            (
                4,
                [0, 3, 4, 3, 2, 1, 3],
                [false, false, true, true, true, false, false],
            ),
            (
                1,
                [0, 1, 0, 1, 2, 0, 0],
                [false, true, false, true, true, false, false],
            ),
            (0, [0, 1, 0, 0, 0, 0, 0], [true; 7]),
        ] {
            let limits = AdmissionLimits {
                retry_above,
                ..LIMITS
            };
            let mut now = false;
            for (handshakes, expected) in handshakes.into_iter().zip(retrying) {
                now = limits.retries(Knock {
                    open: true,
                    connections: 0,
                    neighbours: 0,
                    handshakes,
                    retrying: now,
                    alarmed: false,
                    validated: false,
                });
                assert_eq!(now, expected, "{retry_above}, {handshakes}");
            }
        }
    }
}
