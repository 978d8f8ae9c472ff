//! Two carriers as one: the first where it gets through, else the second.
//!
//! A dial tries the first carrier, and the second as well once the first has failed of the network or has been silent for
//! [`FallbackConfig::delay`]. The first link that stands is taken, the other attempt abandoned. An address that was
//! reached only by the second is dialled by it alone for [`FallbackConfig::remember`], so that a blocked network costs the
//! delay once in a while and not at every dial.
//!
//! There is no early data: what is sent before the first carrier has shown that it gets through could be lost with it.
//!
//! A peer that refuses us, or that we refuse, is not asked again over the other carrier: the answer would be the same.

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
    /// How long the first carrier is alone. Default 1.1 s: QUIC sends a first packet that was lost again after 1 s. Must be
    /// less than the time a dialler allows for a handshake.
    pub delay: Duration,
    /// How long the first carrier is not tried for an address that only the second reached. Default 10 min.
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
        /// Dials in which the second carrier was tried while the first was still silent.
        raced,
        /// Dials in which neither carrier came through.
        both_failed,
    }
}

/// See the [module](self). Takes links of both carriers.
#[derive(Debug)]
pub struct Fallback {
    first: Arc<dyn Transport>,
    second: Arc<dyn Transport>,
    config: FallbackConfig,
    /// Until when an address is dialled over the second carrier alone.
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
        if self.is_remembered(addr, Instant::now()) {
            match self.second.connect(target.clone()).await {
                Ok(link) => {
                    self.counters.remembered.inc();
                    return Ok(link);
                }
                Err(error) => {
                    self.known.lock().remove(&addr);
                    if !is_of_network(&error) {
                        return Err(error);
                    }
                }
            }
        }
        let first = self.first.connect(target.clone());
        tokio::pin!(first);
        // Each attempt may be dropped, which abandons it.
        let why = tokio::select! {
            dialled = &mut first => match dialled {
                Ok(link) => {
                    self.counters.first_carrier.inc();
                    return Ok(link);
                }
                Err(error) if !is_of_network(&error) => return Err(error),
                Err(error) => Some(error),
            },
            () = sleep(self.config.delay) => None,
        };
        let second = self.second.connect(target);
        tokio::pin!(second);
        if let Some(why) = why {
            return self.fallen(addr, second.await, why);
        }
        self.counters.raced.inc();
        tokio::select! {
            biased;
            dialled = &mut first => match dialled {
                Ok(link) => {
                    self.counters.first_carrier.inc();
                    Ok(link)
                }
                Err(error) if !is_of_network(&error) => Err(error),
                Err(error) => self.fallen(addr, second.await, error),
            },
            dialled = &mut second => match dialled {
                Err(error) if is_of_network(&error) => match first.await {
                    Ok(link) => {
                        self.counters.first_carrier.inc();
                        Ok(link)
                    }
                    Err(error) => {
                        self.counters.both_failed.inc();
                        Err(error)
                    }
                },
                other => self.fallen(addr, other, ConnectionError::TimedOut.into()),
            },
        }
    }

    /// What the second carrier came to, the first having failed of `why`.
    fn fallen(
        &self,
        addr: SocketAddr,
        dialled: Result<Arc<dyn Link>, ConnectError>,
        why: ConnectError,
    ) -> Result<Arc<dyn Link>, ConnectError> {
        match dialled {
            Ok(link) => {
                self.counters.fell_back.inc();
                self.remember(addr, Instant::now());
                tracing::info!(%addr, %why, carrier = %link.carrier(), "reached by the second carrier only");
                Ok(link)
            }
            Err(error) if is_of_network(&error) => {
                self.counters.both_failed.inc();
                Err(why)
            }
            Err(error) => Err(error),
        }
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

/// Whether another carrier may fare better.
fn is_of_network(error: &ConnectError) -> bool {
    match error {
        ConnectError::Address(_) | ConnectError::Io { .. } | ConnectError::HandshakeTimeout => true,
        ConnectError::Connection(error) => match error {
            ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::Version => true,
            // One that is full or draining is so for both.
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
