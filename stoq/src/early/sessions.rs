//! The client's side of resumption.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::UnixTime;

use crate::counter::counters;
use crate::hello::Agreement;
use crate::identity::{ALPN, Identity, IdentityError, Refusal, Term};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) agreement: Agreement,
    /// How long a connection may last, for the certificates that the session stands for.
    pub(crate) term: Term,
    /// From here on a full handshake is due.
    resume_until: UnixTime,
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
        /// Peers forgotten because their certificates, or ours, are halfway to their end.
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
        let now = self.identity.now().ok_or(IdentityError::NoClock)?;
        let mut places = self.places.lock();
        if let Some(place) = places.of.get(&addr)
            && place
                .known
                .is_some_and(|known| now >= known.resume_until || known.term.is_due(&self.identity))
        {
            places.of.remove(&addr);
            self.counters.sessions_aged.inc();
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

    /// Keeps what a dial by `way` came to, for as long as its certificates hold. What was known before stays: a resumed
    /// session stands for the certificates that were shown first.
    pub(crate) fn remember(&self, addr: SocketAddr, way: &Way, agreement: Agreement, term: Term) {
        let Some(now) = self.identity.now() else {
            return;
        };
        let half = term.end.as_secs().saturating_sub(now.as_secs()) / 2;
        let half = Duration::from_secs(now.as_secs() + half);
        if let Some(place) = self.places.lock().of.get_mut(&addr)
            && Arc::ptr_eq(&place.tls, &way.tls)
        {
            let (term, resume_until) = match place.known {
                Some(known) => (known.term, known.resume_until),
                None => (term, UnixTime::since_unix_epoch(half)),
            };
            place.known = Some(Known {
                agreement,
                term,
                resume_until,
            });
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
