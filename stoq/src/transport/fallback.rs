//! Two carriers as one: the first where it gets through, else the second.
//!
//! A dial tries the first carrier, and the second as well once the first has failed of the network or has been silent for
//! [`FallbackConfig::delay`]. The first link that stands is taken, the other attempt abandoned. For an address that was
//! reached only by the second the two change places for [`FallbackConfig::remember`], so that a blocked network costs the
//! delay once in a while and not at every dial; it ends when the first gets through.
//!
//! There is no early data: what is sent before the first carrier has shown that it gets through could be lost with it.
//!
//! A peer that refuses us, or that we refuse, is not asked again over the other carrier: the answer would be the same. One
//! that is full may be so for one carrier only: where the other attempt is under way already, it goes on, and one that is remembered is asked
//! for by the first.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{ConnectError, ConnectionError, Incoming, Link, Target, Transport, TransportStats};
use crate::counter::counters;

/// Settings of a [`Fallback`].
#[derive(Debug, Clone)]
pub struct FallbackConfig {
    /// How long the carrier that is tried first is alone. Default 1.1 s: QUIC sends a first packet that was lost again after 1 s. Must be
    /// less than the time a dialler allows for a handshake.
    pub delay: Duration,
    /// For how long the second carrier is tried before the first where only it reached an address. Default 10 min.
    pub remember: Duration,
    /// Addresses remembered. Default 1,024; beyond it the one to be forgotten next is forgotten now.
    pub addresses_max: usize,
}

impl Default for FallbackConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1100),
            remember: Duration::from_secs(600),
            addresses_max: 1024,
        }
    }
}

counters! {
    /// What one [`Fallback`] counted since it was made.
    FallbackCounters {
        /// Links made over the first carrier.
        first_carrier,
        /// Links made over the second carrier after the first was tried.
        fell_back,
        /// Links made over the second carrier because the address was remembered.
        remembered,
        /// Dials in which the other carrier was tried while the one before it was still silent.
        raced,
        /// Dials in which neither carrier came through, those included that were given up while both were silent.
        both_failed,
    }
}

/// See the [module](self). Takes links of both carriers.
#[derive(Debug)]
pub struct Fallback {
    first: Arc<dyn Transport>,
    second: Arc<dyn Transport>,
    config: FallbackConfig,
    /// Until when an address is dialled over the second carrier before the first.
    known: Mutex<HashMap<SocketAddr, Instant>>,
    counters: Arc<FallbackCounters>,
}

impl Fallback {
    /// Both carriers, the preferred one first.
    #[must_use]
    pub fn new(first: impl Transport, second: impl Transport, config: FallbackConfig) -> Self {
        Self {
            first: Arc::new(first),
            second: Arc::new(second),
            config,
            known: Mutex::default(),
            counters: Arc::default(),
        }
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<FallbackCounters> {
        &self.counters
    }

    async fn dial(&self, target: Target) -> Result<Arc<dyn Link>, ConnectError> {
        let addr = target.addr;
        let remembered = self.is_remembered(addr, Instant::now());
        let (ahead, behind) = match remembered {
            true => (&self.second, &self.first),
            false => (&self.first, &self.second),
        };
        let ahead = ahead.connect(target.clone());
        tokio::pin!(ahead);
        // Each attempt may be dropped, which abandons it.
        let alone = tokio::select! {
            dialled = &mut ahead => Some(dialled),
            () = sleep(self.config.delay) => None,
        };
        let mut failed = [None, None];
        match alone {
            Some(Ok(link)) => return Ok(self.reached(addr, link, remembered, remembered)),
            Some(Err(error)) if is_of_network(&error) || remembered && is_of_carrier(&error) => {
                failed[0] = Some(error);
            }
            Some(Err(error)) => return Err(error),
            None => self.counters.raced.inc(),
        }
        let mut both = Both::tried(&self.counters);
        let behind = behind.connect(target);
        tokio::pin!(behind);
        loop {
            let (dialled, at) = tokio::select! {
                biased;
                dialled = &mut ahead, if failed[0].is_none() => (dialled, 0),
                dialled = &mut behind, if failed[1].is_none() => (dialled, 1),
                else => break,
            };
            match dialled {
                Ok(link) => {
                    both.failed = false;
                    return Ok(self.reached(addr, link, remembered == (at == 0), remembered));
                }
                Err(error) if is_of_network(&error) || is_of_carrier(&error) => {
                    failed[at] = Some(error);
                }
                Err(error) => {
                    both.failed = false;
                    return Err(error);
                }
            }
        }
        // A refusal says more than silence, and else the first carrier's failure is what is to be mended.
        if remembered {
            failed.reverse();
        }
        both.failed = failed.iter().flatten().all(is_of_network);
        let told = failed.into_iter().flatten().min_by_key(is_of_network);
        Err(told.unwrap_or(ConnectError::HandshakeTimeout))
    }

    /// Counts a link, and remembers by which carrier the address was reached.
    fn reached(
        &self,
        addr: SocketAddr,
        link: Arc<dyn Link>,
        by_second: bool,
        remembered: bool,
    ) -> Arc<dyn Link> {
        match (by_second, remembered) {
            (false, _) => {
                self.counters.first_carrier.inc();
                self.known.lock().remove(&addr);
            }
            (true, true) => self.counters.remembered.inc(),
            (true, false) => {
                self.counters.fell_back.inc();
                self.remember(addr, Instant::now());
                tracing::info!(%addr, carrier = %link.carrier(), "reached by the second carrier only");
            }
        }
        link
    }

    fn is_remembered(&self, addr: SocketAddr, now: Instant) -> bool {
        self.known
            .lock()
            .get(&addr)
            .is_some_and(|until| *until > now)
    }

    fn remember(&self, addr: SocketAddr, now: Instant) {
        let mut known = self.known.lock();
        known.retain(|_, until| *until > now);
        if known.len() >= self.config.addresses_max {
            let next = known.iter().min_by_key(|(_, until)| **until);
            if let Some(next) = next.map(|(addr, _)| *addr) {
                known.remove(&next);
            }
        }
        known.insert(addr, now + self.config.remember);
    }
}

/// A dial in which both carriers were tried: neither came through, unless it is said otherwise before this is dropped.
struct Both<'a> {
    counters: &'a FallbackCounters,
    failed: bool,
}

impl<'a> Both<'a> {
    fn tried(counters: &'a FallbackCounters) -> Self {
        Self {
            counters,
            failed: true,
        }
    }
}

impl Drop for Both<'_> {
    fn drop(&mut self) {
        if self.failed {
            self.counters.both_failed.inc();
        }
    }
}

/// Whether the peer has no room for this carrier; for the other it may.
fn is_of_carrier(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Connection(error) if error.is_refused())
}

/// Whether another carrier may fare better.
fn is_of_network(error: &ConnectError) -> bool {
    match error {
        ConnectError::Address(_) | ConnectError::Io { .. } | ConnectError::HandshakeTimeout => true,
        ConnectError::Connection(error) => match error {
            ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::Version => true,
            // One that is draining is so for both.
            ConnectionError::Closed { .. }
            | ConnectionError::TransportClosed { .. }
            | ConnectionError::LocallyClosed
            | ConnectionError::Exhausted => false,
        },
        ConnectError::EndpointClosed | ConnectError::ServerName(_) | ConnectError::Tls(_) => false,
    }
}

impl Transport for Fallback {
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(self.dial(target))
    }

    /// Of whichever carrier the next newcomer comes. `None` once neither takes any.
    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>> {
        Box::pin(async move {
            // Both may be cancelled.
            tokio::select! {
                Some(incoming) = self.first.accept() => Some(incoming),
                Some(incoming) = self.second.accept() => Some(incoming),
                else => None,
            }
        })
    }

    fn stop_accepting(&self) {
        self.first.stop_accepting();
        self.second.stop_accepting();
    }

    /// That of the first carrier.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.first.local_addr()
    }

    /// The sums of both.
    fn stats(&self) -> TransportStats {
        let (first, second) = (self.first.stats(), self.second.stats());
        TransportStats {
            links: first.links + second.links,
            connects_started: first.connects_started + second.connects_started,
            connects_completed: first.connects_completed + second.connects_completed,
            connects_failed: first.connects_failed + second.connects_failed,
        }
    }

    fn close(&self, code: u64, reason: &[u8]) {
        self.first.close(code, reason);
        self.second.close(code, reason);
    }

    fn wait_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            tokio::join!(self.first.wait_idle(), self.second.wait_idle());
        })
    }
}
