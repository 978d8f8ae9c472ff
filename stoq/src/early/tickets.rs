//! The server's side of resumption.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::StoresServerSessions;

use super::store::{Shown, Store};
use crate::counter::counters;
use crate::identity::{ALPN, Identity, IdentityError};
use crate::quic::TlsServer;

/// The bounds of a [`Tickets`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketConfig {
    /// Most bytes of all sessions. Default 16 MiB; a session between nodes takes 1 to 2 KiB, for it holds the client's
    /// certificates, so some 10,000 sessions. The oldest are forgotten for new ones.
    pub bytes_max: usize,
    /// How long a session is kept. Default 6 h; TLS promises the client 24, and a ticket that is not known costs it a full
    /// handshake. Certificates are judged at each use in any case.
    pub lifetime: Duration,
}

impl Default for TicketConfig {
    fn default() -> Self {
        Self {
            bytes_max: 16 << 20,
            lifetime: Duration::from_secs(6 * 3600),
        }
    }
}

/// The sessions that a server remembers, each to be resumed once. One for all workers of a process: a first flight that
/// is sent again may arrive at any of them.
///
/// Lives in memory only: what was given out before a restart resumes nothing after it.
pub struct Tickets {
    store: Mutex<Store>,
    begun: Instant,
    counters: TicketCounters,
}

counters! {
    /// What became of tickets. Each one that is shown ends in one of the last three.
    TicketCounters {
        /// Tickets given out, each with a session that is kept.
        tickets_given,
        /// Sessions too large to be kept; no ticket was given for them.
        tickets_too_large,
        /// Sessions forgotten to make room before they were used.
        tickets_forgotten,
        /// Tickets that resumed their session.
        tickets_used,
        /// Tickets that came too late.
        tickets_expired,
        /// Tickets without a session: used before, forgotten, or of another process.
        tickets_unknown,
    }
}

impl Tickets {
    /// An empty store.
    #[must_use]
    pub fn new(config: &TicketConfig) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::new(Store::new(config.bytes_max, config.lifetime)),
            begun: Instant::now(),
            counters: TicketCounters::default(),
        })
    }

    /// As [`Identity::server_tls`], giving tickets of this store and taking early data. Share the result, or at least
    /// the store, between workers.
    ///
    /// Early data is only let through here; what may be done with it is for whoever reads it to decide, as
    /// [`PeerServer`](crate::peer::PeerServer) does.
    ///
    /// # Errors
    /// No leaf can be issued now.
    pub fn server_tls(self: &Arc<Self>, identity: &Identity) -> Result<TlsServer, IdentityError> {
        let mut config = ServerConfig::clone(&*identity.server_config(ALPN)?);
        config.session_storage = self.clone();
        config.send_tls13_tickets = TICKETS_A_HANDSHAKE;
        // QUIC knows only all or nothing; the stream and connection windows bound it.
        config.max_early_data_size = u32::MAX;
        Ok(TlsServer::new(Arc::new(config))?)
    }

    /// What this store counted.
    #[must_use]
    pub fn counters(&self) -> &TicketCounters {
        &self.counters
    }

    /// Sessions kept now, and the bytes they take.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let store = self.store.lock();
        (store.len(), store.bytes())
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// One to resume with, and one for a second connection at the same time.
const TICKETS_A_HANDSHAKE: usize = 2;

impl StoresServerSessions for Tickets {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        let now = self.now();
        match self.store.lock().put(&ticket, session, now) {
            Some(forgotten) => {
                self.counters.tickets_given.inc();
                self.counters.tickets_forgotten.add(forgotten);
                true
            }
            None => {
                self.counters.tickets_too_large.inc();
                false
            }
        }
    }

    /// Only TLS 1.2 would look without taking.
    fn get(&self, _ticket: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = self.now();
        let shown = self.store.lock().take(ticket, now);
        match shown {
            Shown::Taken(session) => {
                self.counters.tickets_used.inc();
                Some(session)
            }
            Shown::Expired => {
                self.counters.tickets_expired.inc();
                None
            }
            Shown::Unknown => {
                self.counters.tickets_unknown.inc();
                None
            }
        }
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Says how many, never what: sessions are secret.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sessions, bytes) = self.held();
        f.debug_struct("Tickets")
            .field("sessions", &sessions)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn of_workers_that_see_the_same_ticket_at_once_one_resumes() {
        let tickets = Tickets::new(&TicketConfig::default());
        for round in 0..200u32 {
            let ticket = round.to_be_bytes();
            assert!(tickets.put(ticket.to_vec(), vec![1]));
            let resumed: usize = thread::scope(|scope| {
                let workers: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| usize::from(tickets.take(&ticket).is_some())))
                    .collect();
                workers.into_iter().map(|each| each.join().unwrap()).sum()
            });
            assert_eq!(resumed, 1);
        }
        let counters = tickets.counters();
        assert_eq!(counters.tickets_used.get(), 200);
        assert_eq!(counters.tickets_unknown.get(), 600);
        assert_eq!(tickets.held(), (0, 0));
    }

    #[test]
    fn to_look_is_not_to_have() {
        let tickets = Tickets::new(&TicketConfig::default());
        assert!(tickets.put(vec![1], vec![2]));
        assert_eq!(tickets.get(&[1]), None);
        assert_eq!(tickets.take(&[1]), Some(vec![2]));
    }
}
