//! The client's side of resumption.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;

use crate::counter::counters;
use crate::hello::Agreement;
use crate::identity::{ALPN, Identity, IdentityError, NodeId, Refusal, Term};

/// What a node remembers of the peers it dialled: their tickets, and what was agreed on. Shared by all dials of one
/// identity; each peer has a place of its own by its address, for all nodes answer to one name, and a ticket is of use to the
/// node that gave it only.
pub struct Sessions {
    identity: Identity,
    places: Mutex<Places>,
    counters: SessionCounters,
}

struct Places {
    of: HashMap<SocketAddr, Place>,
    peers_max: usize,
    /// Grows with each use; tells who was used least recently.
    uses: u64,
}

struct Place {
    /// TLS resumes only under the very configuration that a ticket was taken with.
    tls: Arc<ClientConfig>,
    verdict: Arc<OnceLock<Refusal>>,
    known: Option<Known>,
    used: u64,
}

/// What is known of a peer after a full handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Who it is.
    pub(crate) node_id: NodeId,
    pub(crate) agreement: Agreement,
    /// How long the certificates last that the session stands for.
    pub(crate) term: Term,
}

/// How a peer is to be dialled.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) verdict: Arc<OnceLock<Refusal>>,
    /// There may be a ticket; it resumes a session that stands for this.
    pub(crate) known: Option<Known>,
}

counters! {
    /// What a client's memory of its peers came to.
    SessionCounters {
        /// Dials of a peer that was remembered.
        sessions_offered,
        /// Dials of a peer that was not, or no longer.
        sessions_none,
        /// Peers forgotten because their certificates, or ours, are to be renewed.
        sessions_aged,
        /// Peers forgotten to make room.
        sessions_evicted,
        /// Peers forgotten because they, or we, refused to talk.
        sessions_refused,
    }
}

impl Sessions {
    /// Remembers at most `peers_max` peers, at least one, at up to some 40 KiB each.
    #[must_use]
    pub fn new(identity: &Identity, peers_max: usize) -> Arc<Self> {
        Arc::new(Self {
            identity: identity.clone(),
            places: Mutex::new(Places {
                of: HashMap::new(),
                peers_max: peers_max.max(1),
                uses: 0,
            }),
            counters: SessionCounters::default(),
        })
    }

    /// What this memory counted.
    #[must_use]
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// Peers remembered now.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.places.lock().of.len()
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How to dial `addr` now.
    pub(crate) fn way(&self, addr: SocketAddr) -> Result<Way, IdentityError> {
        let mut places = self.places.lock();
        if let Some(known) = places.of.get(&addr).and_then(|place| place.known) {
            // A full handshake tells a revoked node nothing; the first flight of a session would have the hello in it, and what is asked.
            let forgotten = match self.identity.revocations().contains(&known.node_id) {
                true => Some(&self.counters.sessions_refused),
                false => {
                    let is_due = known.term.is_due(&self.identity);
                    is_due.then_some(&self.counters.sessions_aged)
                }
            };
            if let Some(counter) = forgotten {
                places.of.remove(&addr);
                counter.inc();
            }
        }
        places.uses += 1;
        let used = places.uses;
        if !places.of.contains_key(&addr) && places.evict() {
            self.counters.sessions_evicted.inc();
        }
        let place = match places.of.entry(addr) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Place::new(&self.identity, addr)?),
        };
        place.used = used;
        let known = place.known;
        if known.is_some() {
            self.counters.sessions_offered.inc();
        } else {
            self.counters.sessions_none.inc();
        }
        Ok(Way {
            tls: place.tls.clone(),
            verdict: place.verdict.clone(),
            known,
        })
    }

    /// Keeps what a dial by `way` came to.
    pub(crate) fn remember(&self, addr: SocketAddr, way: &Way, known: Known) {
        if let Some(place) = self.places.lock().of.get_mut(&addr)
            && Arc::ptr_eq(&place.tls, &way.tls)
        {
            // Sessions of the first handshake may still be among the tickets.
            let term = place.known.map_or(known.term, |before| before.term);
            place.known = Some(Known { term, ..known });
        }
    }

    /// Forgets a peer that was dialled by `way`: the next dial is a full handshake.
    pub(crate) fn forget(&self, addr: SocketAddr, way: &Way) {
        let mut places = self.places.lock();
        if places
            .of
            .get(&addr)
            .is_some_and(|place| Arc::ptr_eq(&place.tls, &way.tls))
        {
            places.of.remove(&addr);
            self.counters.sessions_refused.inc();
        }
    }
}

impl Places {
    /// Makes room for one more. Looks at every place, of which there are few.
    fn evict(&mut self) -> bool {
        if self.of.len() < self.peers_max {
            return false;
        }
        let least = self.of.iter().min_by_key(|(_, place)| place.used);
        let least = least.map(|(addr, _)| *addr);
        least.is_some_and(|addr| self.of.remove(&addr).is_some())
    }
}

impl Place {
    fn new(identity: &Identity, addr: SocketAddr) -> Result<Self, IdentityError> {
        let verdict = Arc::new(OnceLock::new());
        let config = identity.client_config_telling(ALPN, Some((addr, verdict.clone())))?;
        let mut config = ClientConfig::clone(&config);
        // One name is all there is; TLS keeps 8 tickets of it.
        config.resumption = Resumption::in_memory_sessions(1);
        config.enable_early_data = true;
        Ok(Self {
            tls: Arc::new(config),
            verdict,
            known: None,
            used: 0,
        })
    }
}

/// Says of whom, never what: tickets are secret.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("peers", &self.peers())
            .finish_non_exhaustive()
    }
}
