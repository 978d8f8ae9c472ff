//! One fetch for all requests that want the same thing at the same time.
//!
//! The first to ask leads: its fetch runs in a task of its own, so that its client may leave. The others watch how
//! far the leader is and act on that by themselves; nothing is pushed at them and nothing holds them longer than the
//! leader's head takes. A leader that is lost without a word releases them to try again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};
use tokio::sync::watch;

use crate::key::CacheKey;

/// Fetches that may be joined: at about 300 bytes each 20 MiB. Requests beyond fetch for themselves.
pub(crate) const FLIGHTS_MAX: usize = 65_536;

/// What is fetched: a URL, and a hash of what a known `Vary` makes of the request (0 where none is known). Two requests
/// that share a flight by a collision of that hash are told apart when they compare fields with the response.
pub(crate) type FlightKey = (CacheKey, u64);

/// The table of fetches under way. `S` is how far a leader is; `None` until it has something to say.
#[derive(Debug)]
pub(crate) struct Collapse<S> {
    flights: DashMap<FlightKey, watch::Receiver<Option<S>>>,
    count: AtomicUsize,
}

/// A request's place.
pub(crate) enum Seat<S> {
    /// Nobody fetches this: you do.
    Lead(Lead<S>),
    /// Somebody does.
    Follow(Follow<S>),
    /// The table is full: fetch for yourself.
    Full,
}

/// The right to lead one fetch. Dropping it takes the fetch off the table.
#[derive(Debug)]
pub(crate) struct Lead<S> {
    table: Arc<Collapse<S>>,
    key: FlightKey,
    stage: watch::Sender<Option<S>>,
}

/// A view of another request's fetch.
#[derive(Debug, Clone)]
pub(crate) struct Follow<S>(watch::Receiver<Option<S>>);

impl<S: Clone> Collapse<S> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            flights: DashMap::new(),
            count: AtomicUsize::new(0),
        })
    }

    /// Leads or follows.
    pub(crate) fn seat(self: &Arc<Self>, key: FlightKey) -> Seat<S> {
        match self.flights.entry(key) {
            Entry::Occupied(flight) => Seat::Follow(Follow(flight.get().clone())),
            Entry::Vacant(_) if self.count.load(Ordering::Relaxed) >= FLIGHTS_MAX => Seat::Full,
            Entry::Vacant(free) => {
                let (stage, view) = watch::channel(None);
                free.insert(view);
                self.count.fetch_add(1, Ordering::Relaxed);
                Seat::Lead(Lead {
                    table: Arc::clone(self),
                    key,
                    stage,
                })
            }
        }
    }

    /// How far a fetch is that is under way and has something to say.
    pub(crate) fn peek(&self, key: &FlightKey) -> Option<S> {
        self.flights.get(key).and_then(|view| view.borrow().clone())
    }
}

impl<S> Lead<S> {
    /// Says how far the fetch is. Followers act on it at once.
    pub(crate) fn settle(&self, stage: S) {
        self.stage.send_replace(Some(stage));
    }
}

impl<S> Drop for Lead<S> {
    fn drop(&mut self) {
        // The key is this leader's alone until here.
        self.table.flights.remove(&self.key);
        self.table.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: Clone> Follow<S> {
    /// Waits until the leader has something to say; `None` where it was lost without a word. Cancel safe.
    pub(crate) async fn settled(mut self) -> Option<S> {
        self.0
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|stage| stage.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FlightKey = (CacheKey::from_bytes([1; 32]), 0);

    #[tokio::test]
    async fn exactly_one_leads_and_a_lost_leader_releases_its_followers() {
        let table = Collapse::<u8>::new();
        let Seat::Lead(lead) = table.seat(KEY) else {
            panic!("the first leads")
        };
        let Seat::Follow(early) = table.seat(KEY) else {
            panic!("the second follows")
        };
        drop(lead);
        assert_eq!(early.settled().await, None);

        let Seat::Lead(lead) = table.seat(KEY) else {
            panic!("the seat is free again")
        };
        let Seat::Follow(follow) = table.seat(KEY) else {
            panic!("follows")
        };
        lead.settle(7);
        assert_eq!(table.peek(&KEY), Some(7));
        drop(lead);
        assert_eq!((follow.settled().await, table.peek(&KEY)), (Some(7), None));
    }
}
