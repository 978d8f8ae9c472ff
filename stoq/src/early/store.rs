//! Sessions by ticket: bounded in bytes and in age, each to be had once. Knows no clock and no TLS.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What a session costs beside its bytes: two places for its ticket, its age, its order.
pub(super) const SESSION_OVERHEAD: usize = 192;

/// Longest ticket and session taken together; more than any chain of two certificates needs.
pub(super) const SESSION_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Session {
    value: Vec<u8>,
    born: Duration,
    order: u64,
}

/// What came of a ticket that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// The session, which is no longer here.
    Taken(Vec<u8>),
    /// It was too old, and is no longer here.
    Expired,
    /// Used before, forgotten, or never given.
    Unknown,
}

/// Times are since some moment of the owner's.
#[derive(Debug)]
pub(super) struct Store {
    sessions: HashMap<Arc<[u8]>, Session>,
    /// The same, oldest first.
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    bytes: usize,
    bytes_max: usize,
    lifetime: Duration,
}

impl Store {
    pub(super) fn new(bytes_max: usize, lifetime: Duration) -> Self {
        Self {
            sessions: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            bytes: 0,
            bytes_max,
            lifetime,
        }
    }

    /// Keeps a session under its ticket, and forgets as many of the oldest as it takes to have room. Returns how many, or
    /// `None` if the session is not kept, for it is too large.
    pub(super) fn put(&mut self, ticket: &[u8], value: Vec<u8>, now: Duration) -> Option<u64> {
        let cost = cost(ticket, &value);
        if cost > self.bytes_max || ticket.len() + value.len() > SESSION_BYTES_MAX {
            return None;
        }
        self.remove(ticket);
        let mut forgotten = 0;
        while self.bytes + cost > self.bytes_max {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = oldest.clone();
            self.remove(&oldest);
            forgotten += 1;
        }
        let ticket: Arc<[u8]> = ticket.into();
        let order = self.next;
        self.next += 1;
        self.order.insert(order, ticket.clone());
        let born = now;
        self.sessions.insert(ticket, Session { value, born, order });
        self.bytes += cost;
        Some(forgotten)
    }

    /// Takes a session out. Whoever comes next with the same ticket gets nothing.
    pub(super) fn take(&mut self, ticket: &[u8], now: Duration) -> Shown {
        match self.remove(ticket) {
            None => Shown::Unknown,
            Some(session) if now.saturating_sub(session.born) > self.lifetime => Shown::Expired,
            Some(session) => Shown::Taken(session.value),
        }
    }

    fn remove(&mut self, ticket: &[u8]) -> Option<Session> {
        let session = self.sessions.remove(ticket)?;
        self.order.remove(&session.order);
        self.bytes = self.bytes.saturating_sub(cost(ticket, &session.value));
        Some(session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(ticket: &[u8], value: &[u8]) -> usize {
    ticket.len() + value.len() + SESSION_OVERHEAD
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Duration = Duration::ZERO;

    #[test]
    fn a_session_is_had_once() {
        let mut store = Store::new(1 << 20, HOUR);
        assert_eq!(store.put(b"a", b"session".to_vec(), START), Some(0));
        assert_eq!(store.take(b"b", START), Shown::Unknown);
        assert_eq!(store.take(b"a", START), Shown::Taken(b"session".to_vec()));
        assert_eq!(store.take(b"a", START), Shown::Unknown);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn age_counts_up_to_its_limit_and_not_beyond() {
        let mut store = Store::new(1 << 20, HOUR);
        for ticket in [b"a", b"b"] {
            store.put(ticket, vec![1], START).unwrap();
        }
        assert_eq!(store.take(b"a", HOUR), Shown::Taken(vec![1]));
        let later = HOUR + Duration::from_nanos(1);
        assert_eq!(store.take(b"b", later), Shown::Expired);
        assert_eq!(store.take(b"b", later), Shown::Unknown);
    }

    #[test]
    fn the_oldest_make_room_and_what_is_too_large_is_not_kept() {
        let room = 3 * (SESSION_OVERHEAD + 1 + 100);
        let mut store = Store::new(room, HOUR);
        for ticket in [b"a", b"b", b"c"] {
            assert_eq!(store.put(ticket, vec![0; 100], START), Some(0));
        }
        assert_eq!(store.put(b"d", vec![0; 101], START), Some(2));
        assert_eq!(store.take(b"a", START), Shown::Unknown);
        assert_eq!(store.take(b"b", START), Shown::Unknown);
        assert!(matches!(store.take(b"c", START), Shown::Taken(_)));
        assert_eq!(store.put(b"e", vec![0; room], START), None);
        let mut roomy = Store::new(1 << 20, HOUR);
        assert_eq!(roomy.put(b"e", vec![0; SESSION_BYTES_MAX], START), None);
    }

    proptest! {
        /// Against a list of what was put, in order.
        #[test]
        fn any_sequence_keeps_to_its_bytes_and_gives_each_session_once(
            steps in prop::collection::vec((any::<bool>(), 0..24u8, 0..400usize), 0..200),
        ) {
            let bytes_max = 6 * (SESSION_OVERHEAD + 200);
            let (mut store, mut model) = (Store::new(bytes_max, HOUR), Vec::<(u8, usize)>::new());
            for (put, ticket, len) in steps {
                let at = model.iter().position(|(known, _)| *known == ticket);
                if put {
                    at.map(|at| model.remove(at));
                    model.push((ticket, len));
                    let cost = |model: &[(u8, usize)]| -> usize {
                        model.iter().map(|(_, len)| SESSION_OVERHEAD + 1 + len).sum()
                    };
                    let mut forgotten = 0;
                    while cost(&model) > bytes_max {
                        model.remove(0);
                        forgotten += 1;
                    }
                    prop_assert_eq!(store.put(&[ticket], vec![ticket; len], START), Some(forgotten));
                } else {
                    let want = at.map_or(Shown::Unknown, |at| {
                        let (ticket, len) = model.remove(at);
                        Shown::Taken(vec![ticket; len])
                    });
                    prop_assert_eq!(store.take(&[ticket], START), want);
                }
                prop_assert!(store.bytes() <= bytes_max);
                prop_assert_eq!(store.len(), model.len());
                prop_assert_eq!(store.order.len(), model.len());
            }
        }
    }
}
