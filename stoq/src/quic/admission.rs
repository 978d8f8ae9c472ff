//! Who is let in: limits on connections and handshakes, and what happens at each.

use std::{
    collections::VecDeque,
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
use super::transport::Transport;

/// Limits of one endpoint, that is of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at once, in any state. Default 65,536, at about 40 KiB each when idle: 2.5 GiB. A newcomer
    /// beyond it is refused.
    pub max_connections: usize,
    /// Handshakes in progress above which a newcomer must first prove its address (Retry), which costs it a
    /// round trip and us no state. Default 256: about 80 ms of work at 300 µs a handshake.
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
    handshakes: usize,
    /// The client has shown that it receives at the address it sends from.
    validated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Retry,
    RefuseDraining,
    RefuseConnections,
    RefuseHandshakes,
}

impl AdmissionLimits {
    fn decide(&self, knock: Knock) -> Verdict {
        if !knock.open {
            Verdict::RefuseDraining
        } else if knock.connections >= self.max_connections {
            Verdict::RefuseConnections
        } else if knock.handshakes >= self.max_handshakes {
            Verdict::RefuseHandshakes
        } else if knock.handshakes >= self.retry_above && !knock.validated {
            Verdict::Retry
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
    /// Let in, not yet taken by `accept`. At most `max_handshakes`, since each holds a [`HalfOpen`].
    admitted: Mutex<VecDeque<Admitted>>,
    arrival: Notify,
    transport: Transport,
    shared: Shared,
    /// What newcomers are served with; `None` while they are refused.
    serving: Mutex<Option<quinn::ServerConfig>>,
}

#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) windows: Option<Windows>,
    pub(super) shared: Shared,
    pub(super) connecting: quinn::Connecting,
    pub(super) half_open: HalfOpen,
    pub(super) since: tokio::time::Instant,
}

impl Door {
    /// Closed until it is told what to [`serve`](Self::serve).
    pub(super) fn new(
        limits: AdmissionLimits,
        counters: Arc<Counters>,
        transport: Transport,
        shared: Shared,
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
            let verdict = self.limits.decide(Knock {
                open: self.open.load(Ordering::Relaxed),
                connections: endpoint.open_connections(),
                handshakes: self.handshakes.load(Ordering::Relaxed),
                validated: incoming.remote_address_validated() || !incoming.may_retry(),
            });
            match verdict {
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
                Verdict::RefuseHandshakes => {
                    self.counters.refused_handshakes.inc();
                    incoming.refuse();
                }
            }
        }
        self.close();
    }

    fn admit(&self, incoming: quinn::Incoming) {
        self.counters.attempts_accepted.inc();
        let learnt = self
            .shared
            .learnt(&self.transport, incoming.remote_address().ip());
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
                    windows,
                    shared: self.shared.clone(),
                    connecting,
                    half_open,
                    since,
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

    #[test]
    fn each_limit_has_its_own_answer_and_the_harder_one_wins() {
        let limits = AdmissionLimits {
            max_connections: 10,
            retry_above: 2,
            max_handshakes: 4,
            ..AdmissionLimits::default()
        };
        // open, connections, handshakes, validated → verdict
        let table = [
            (true, 0, 0, false, Verdict::Accept),
            (true, 9, 1, false, Verdict::Accept),
            (true, 9, 2, false, Verdict::Retry),
            (true, 9, 3, true, Verdict::Accept),
            (true, 9, 4, true, Verdict::RefuseHandshakes),
            (true, 9, 4, false, Verdict::RefuseHandshakes),
            (true, 10, 0, true, Verdict::RefuseConnections),
            (true, 10, 4, false, Verdict::RefuseConnections),
            (false, 0, 0, true, Verdict::RefuseDraining),
            (false, 10, 4, false, Verdict::RefuseDraining),
        ];
        for (open, connections, handshakes, validated, expected) in table {
            let knock = Knock {
                open,
                connections,
                handshakes,
                validated,
            };
            assert_eq!(limits.decide(knock), expected, "{knock:?}");
        }
    }
}
