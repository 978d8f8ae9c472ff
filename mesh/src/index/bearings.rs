//! How far other nodes are, for all who choose among them: measured round trips, else what coordinates, places or zones foretell.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_routing::{Latency, Membership, NodeId, Source, View};
use tokio::time::Instant;

/// What one process knows of round trips to the members. Shared by its workers.
pub struct Bearings {
    members: Arc<dyn Membership>,
    latency: Mutex<Latency>,
    began: Instant,
}

impl fmt::Debug for Bearings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearings").finish_non_exhaustive()
    }
}

impl Bearings {
    /// To these members; nothing is measured yet.
    #[must_use]
    pub fn new(members: Arc<dyn Membership>) -> Self {
        Self {
            latency: Mutex::new(Latency::new(members.view().me)),
            members,
            began: Instant::now(),
        }
    }

    /// The members now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.members.view()
    }

    /// Takes note of round trips that were measured. To be told every few seconds: a value is good for 5 min.
    pub fn measured(&self, rtts: impl IntoIterator<Item = (NodeId, Duration)>) {
        let now = self.began.elapsed();
        let mut latency = self.latency.lock();
        for (node, rtt) in rtts {
            latency.measured(node, rtt, now);
        }
    }

    /// The round trip to a member, and how it is known.
    #[must_use]
    pub fn to(&self, node: &NodeId) -> Option<(Duration, Source)> {
        let view = self.members.view();
        self.with(|latency, now| latency.to(&view, node, now))
    }

    /// For those who ask for much at once.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&Latency, Duration) -> T) -> T {
        ask(&self.latency.lock(), self.began.elapsed())
    }
}
