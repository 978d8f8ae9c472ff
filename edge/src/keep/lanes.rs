//! Who is being told what: one telling to a neighbour at a time, so that one that is slow holds up nobody else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use stoq::pool::Pool;
use stoq_mesh::gossip::Gossip;
use stoq_mesh::keep::{KEPT_MAX, Object};
use stoq_routing::{Membership, NodeId};
use tokio::time::Instant;

use super::tell::Teller;

/// Objects that wait for one neighbour while it is being told of others: as many as one request carries.
const WAITING_MAX: usize = KEPT_MAX;

/// The neighbours that are being told, each with what it is to be told next.
#[derive(Debug, Default)]
struct Lanes(HashMap<NodeId, Vec<Object>>);

impl Lanes {
    /// What a neighbour is to be told now, of these; none where it is being told already, and they wait. And how many there is no room for.
    fn take(&mut self, to: NodeId, mut objects: Vec<Object>) -> (Option<Vec<Object>>, usize) {
        let Some(waiting) = self.0.get_mut(&to) else {
            self.0.insert(to, Vec::new());
            return (Some(objects), 0);
        };
        let room = WAITING_MAX.saturating_sub(waiting.len());
        let beyond = objects.len().saturating_sub(room);
        objects.truncate(room);
        waiting.extend(objects);
        (None, beyond)
    }

    /// A telling has ended: what the neighbour is to be told now, if anything waits.
    fn ended(&mut self, of: NodeId) -> Option<Vec<Object>> {
        let waiting = self.0.get_mut(&of).map(std::mem::take)?;
        if waiting.is_empty() {
            self.0.remove(&of);
            return None;
        }
        Some(waiting)
    }
}

/// Tellings under way. Dropped, they end.
pub(super) struct Tellings<'a> {
    teller: &'a Teller,
    gossip: &'a Gossip,
    pool: &'a Pool,
    /// How long each has.
    within: Duration,
    lanes: Lanes,
    under_way: FuturesUnordered<BoxFuture<'a, NodeId>>,
}

impl<'a> Tellings<'a> {
    /// None yet.
    pub(super) fn new(
        teller: &'a Teller,
        gossip: &'a Gossip,
        pool: &'a Pool,
        within: Duration,
    ) -> Self {
        Self {
            teller,
            gossip,
            pool,
            within,
            lanes: Lanes::default(),
            under_way: FuturesUnordered::new(),
        }
    }

    /// Has a neighbour keep these, when it has answered for those before.
    pub(super) fn tell(&mut self, to: NodeId, objects: Vec<Object>) {
        let (now, beyond) = self.lanes.take(to, objects);
        self.teller.passed_over(beyond);
        if let Some(now) = now {
            self.begin(to, now);
        }
    }

    fn begin(&mut self, to: NodeId, objects: Vec<Object>) {
        let (teller, view, pool) = (self.teller, self.gossip.view(), self.pool);
        let until = Instant::now() + self.within;
        self.under_way.push(Box::pin(async move {
            teller.tell(&view, to, objects, pool, until).await;
            to
        }));
    }

    /// Goes on with those under way. Never ends. Cancel safe.
    pub(super) async fn go_on(&mut self) -> Infallible {
        while let Some(told) = self.under_way.next().await {
            if let Some(next) = self.lanes.ended(told) {
                self.begin(told, next);
            }
        }
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn one_telling_to_a_neighbour_at_a_time_and_what_waits_is_bounded() {
        let objects = |count| {
            let object = Object {
                site: "s".to_owned(),
                https: true,
                authority: "a".to_owned(),
                path_and_query: "/".to_owned(),
                root: [0; 32],
                headers: HeaderMap::new(),
            };
            vec![object; count]
        };
        let (slow, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let count = |told: Option<Vec<Object>>| told.map(|told| told.len());
        let mut lanes = Lanes::default();
        let take = |lanes: &mut Lanes, to, objects| {
            let (told, beyond) = lanes.take(to, objects);
            (count(told), beyond)
        };
        assert_eq!(take(&mut lanes, slow, objects(200)), (Some(200), 0));
        assert_eq!(take(&mut lanes, slow, objects(60)), (None, 0));
        assert_eq!(take(&mut lanes, slow, objects(60)), (None, 56));
        assert_eq!(take(&mut lanes, other, objects(1)), (Some(1), 0));
        assert_eq!(count(lanes.ended(slow)), Some(WAITING_MAX));
        assert_eq!(take(&mut lanes, slow, objects(1)), (None, 0));
        assert_eq!(count(lanes.ended(slow)), Some(1));
        assert_eq!(count(lanes.ended(slow)), None);
        assert_eq!(count(lanes.ended(other)), None);
        assert!(lanes.0.is_empty());
        assert_eq!(take(&mut lanes, slow, objects(2)), (Some(2), 0));
    }
}
