//! What is hot of a site that is protected is kept by several edges that do not fail together.
//!
//! Each edge looks every few seconds at what is hot there, and has the holders of it keep it: the first that the object's own order of edges gives, in different domains of failure as far as there are any.
//! All edges with the same view choose the same, so there are no more copies than that besides those that edges make for their clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq::pool::Pool;
use stoq_cache::key::CacheKey;
use stoq_mesh::gossip::Gossip;
use stoq_mesh::keep::Object;
use stoq_routing::{Key, Membership, NodeId, NodeState, View, rendezvous, spread};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::lanes::Tellings;
use super::tell::Teller;

/// How often it looks: every 2 s.
const LOOK: Duration = Duration::from_secs(2);

/// How long one has to fetch what it is told of at a time: 20 s.
const WITHIN: Duration = Duration::from_secs(20);

/// After so long holders are told again, in case one has lost it: 60 s. One that has it answers at once.
const AGAIN: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Protect {
    teller: Arc<Teller>,
    /// For each site how many edges are to hold what is hot of it; 0 for none.
    copies: Vec<usize>,
    /// Versions that others were told of, and when: no more than are hot within [`AGAIN`].
    told: Mutex<HashMap<(CacheKey, [u8; 32]), Instant>>,
}

impl Protect {
    pub(super) fn new(teller: Arc<Teller>, copies: Vec<usize>) -> Self {
        Self {
            teller,
            copies,
            told: Mutex::default(),
        }
    }

    /// Looks again and again. Never ends.
    pub(crate) async fn run(&self, gossip: &Gossip, pool: &Pool) {
        if self.copies.iter().all(|copies| *copies == 0) {
            return std::future::pending().await;
        }
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tellings = Tellings::new(&self.teller, gossip, pool, WITHIN);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                never = tellings.go_on() => match never {},
            }
            let now = Instant::now();
            let view = gossip.view();
            let mut lists: HashMap<NodeId, Vec<Object>> = HashMap::new();
            for hot in self.teller.hot().await {
                let copies = self.copies.get(hot.site).copied().unwrap_or(0);
                if copies == 0 || !self.is_due((hot.key, hot.object.root), now) {
                    continue;
                }
                let may_keep = |node: &NodeState| self.teller.may_keep(hot.site, node);
                for holder in holders(&view, &Key(*hot.key.as_bytes()), copies, may_keep) {
                    if holder != view.me {
                        lists.entry(holder).or_default().push(hot.object.clone());
                    }
                }
            }
            for (holder, objects) in lists {
                tellings.tell(holder, objects);
            }
        }
    }

    /// Whether nobody was told of it for a while; then somebody is now.
    fn is_due(&self, version: (CacheKey, [u8; 32]), now: Instant) -> bool {
        let mut told = self.told.lock();
        told.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        if told.contains_key(&version) {
            return false;
        }
        told.insert(version, now);
        true
    }
}

/// Which edges are to hold an object, of those that may.
fn holders(
    view: &View,
    key: &Key,
    copies: usize,
    may_keep: impl Fn(&NodeState) -> bool,
) -> Vec<NodeId> {
    let serves =
        |node: &NodeState| node.shares_work() && !node.addresses.is_empty() && may_keep(node);
    let nodes = view.nodes().iter().filter(|node| serves(node));
    let order = rendezvous(nodes.map(|node| node.id), key);
    let order = order
        .iter()
        .filter_map(|id| view.get(id).map(AsRef::as_ref));
    let order: Vec<&NodeState> = order.collect();
    spread(&order, copies, &[]).chosen
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn view(me: u8, zones: &[&str]) -> View {
        let nodes = (0_u8..).zip(zones).map(|(number, zone)| {
            let id = NodeId([number; 32]);
            let mut node = NodeState::new(id, number.to_string(), zone.parse().unwrap());
            node.addresses = vec![SocketAddr::from(([10, number, 0, 1], 1))];
            Arc::new(node)
        });
        View::new(NodeId([me; 32]), 1, true, nodes)
    }

    #[test]
    fn holders_are_apart_and_the_same_whoever_looks() {
        let zones = ["eu-fra", "eu-fra", "eu-fra", "eu-ams", "us-nyc", "us-nyc"];
        for number in 0..50 {
            let key = Key([number; 32]);
            let chosen = holders(&view(0, &zones), &key, 3, |_| true);
            assert_eq!(chosen, holders(&view(4, &zones), &key, 3, |_| true));
            let mut metros: Vec<_> = chosen
                .iter()
                .map(|id| zones[usize::from(id.0[0])])
                .collect();
            metros.sort_unstable();
            assert_eq!(metros, ["eu-ams", "eu-fra", "us-nyc"]);
        }
        let few = holders(&view(0, &zones[..2]), &Key([1; 32]), 3, |_| true);
        assert_eq!(few.len(), 2);
    }

    #[test]
    fn of_a_site_that_may_not_be_everywhere_only_edges_within_are_told() {
        let zones = ["eu-fra", "eu-ams", "us-nyc", "us-nyc"];
        for number in 0..50 {
            let in_europe = |node: &NodeState| node.zone.region == "eu";
            let mut chosen = holders(&view(2, &zones), &Key([number; 32]), 3, in_europe);
            chosen.sort_unstable();
            assert_eq!(chosen, [NodeId([0; 32]), NodeId([1; 32])]);
        }
    }
}
