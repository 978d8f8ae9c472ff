//! The edge among other edges: whom it asks for what they hold, and its part in what they know together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use prometheus_client::registry::Registry;
use stoq::pool::Pool;
use stoq_mesh::gossip::Gossip;
use stoq_mesh::{
    Borders, Fares, GeoWatch, Holders, Leaving, Links, Membership as Member, Neighbour, Neighbours,
    Patience, Presence,
};
use stoq_node::Drain;
use stoq_node::config::{Config, PeerPolicy, Role};
use stoq_routing::index::StoreError;
use stoq_routing::{Health, Key, LOAD_MAX, Latency, Membership, NodeState, Policy, View};
use tokio::time::timeout;

use crate::index::Providers;

/// How often it is looked at who is nearest: it changes with what was measured, and not only with who there is.
const LOOK: Duration = Duration::from_secs(2);

/// What it is, for people.
const SOFTWARE: &str = concat!("stoq-edge ", env!("CARGO_PKG_VERSION"));

/// This edge in the mesh.
#[derive(Debug)]
pub(crate) struct Peers {
    presence: Presence,
    neighbours: Arc<Neighbours>,
    providers: Providers,
    borders: Arc<Borders>,
    policy: Policy,
}

impl Peers {
    /// The node of this configuration, which listens for others there; `None` where it does not. Reads what the state directory has of the provider index.
    ///
    /// # Errors
    /// That cannot be read.
    pub(crate) fn new(
        config: &Config,
        member: &Member,
        listens: &[SocketAddr],
        geo: Option<Arc<GeoWatch>>,
        borders: &Arc<Borders>,
        patience: Patience,
    ) -> Result<Option<Self>, StoreError> {
        let presence = Presence::new(config, Role::Edge, member, listens, geo, borders, SOFTWARE);
        let (Some(presence), Some(cluster)) = (presence, &config.cluster) else {
            return Ok(None);
        };
        let state_dir = &config.node.state_dir;
        let (gossip, bearings) = (presence.gossip(), presence.bearings());
        Ok(Some(Self {
            providers: Providers::open(state_dir, gossip, bearings, patience)?,
            presence,
            // Half of the time is the index's, where that is asked first; what is left is for them to be reached.
            neighbours: Arc::new(
                Neighbours::default()
                    .answering_within(patience.found_within * 2 / 5)
                    .within(Arc::clone(borders)),
            ),
            borders: Arc::clone(borders),
            policy: ranking(cluster.policy),
        }))
    }

    /// Who is in the mesh.
    pub(crate) const fn gossip(&self) -> &Gossip {
        self.presence.gossip()
    }

    /// The node in the mesh.
    pub(crate) const fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Its part in the provider index, kept up to date while the edge [takes part](Self::run).
    pub(crate) const fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Whom a miss asks for what they hold.
    pub(crate) fn holders(&self) -> Arc<dyn Holders> {
        let neighbours = Arc::clone(&self.neighbours);
        let borders = Arc::clone(&self.borders);
        self.providers.holders(neighbours, self.policy, borders)
    }

    /// Whether what listens there for other nodes is a shield that leaves or is ill, as it says itself.
    pub(crate) fn leaving(&self) -> Leaving {
        let gossip = self.presence.gossip().clone();
        Arc::new(move |addr| {
            let view = gossip.view();
            let mut nodes = view.nodes().iter();
            nodes.any(|node| {
                node.is_shield
                    && (node.draining || node.health == Health::Ill)
                    && node.addresses.contains(addr)
            })
        })
    }

    /// Puts the figures of all of it below `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.presence.register(registry);
        self.providers.register(registry);
    }

    /// The connections for what nodes say to each other.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn pool(&self, links: &Links) -> std::io::Result<Pool> {
        self.presence.pool(links)
    }

    /// Takes part in the mesh over these [connections](Self::pool), for as long as it is let; once the drain has begun others are told that it drains. `fares` says how the edge
    /// does. For one worker of a process.
    pub(crate) async fn run(&self, pool: Pool, drain: &Drain, fares: impl Fn() -> Fares) {
        let following = async {
            let gossip = self.presence.gossip();
            let mut view = gossip.view();
            self.providers.follow(None, &view);
            loop {
                let bearings = self.presence.bearings();
                let near = bearings.with(|latency, now| nearest(&view, latency, now));
                self.neighbours.set(near);
                let changed = timeout(LOOK, gossip.changed(view.generation)).await;
                if let Ok(next) = changed {
                    self.providers.follow(Some(&view), &next);
                    view = next;
                }
            }
        };
        join(self.presence.run(pool, drain, fares), following).await;
    }
}

/// Milliseconds of round trip that are not told apart among those who may be asked: what separates two machines of one metro.
const ALIKE_MS: u128 = 2;

/// The others that may be asked for what they hold, the nearest first, as far as that is known. Of those about as near each node begins with others, so that a large metro
/// does not ask the same few.
fn nearest(view: &View, latency: &Latency, now: Duration) -> Vec<Neighbour> {
    let may_be_asked =
        |node: &&Arc<NodeState>| node.id != view.me && node.shares_work() && node.load < LOAD_MAX;
    let others = view.nodes().iter().filter(may_be_asked);
    let mut others: Vec<_> = others
        .filter_map(|node| {
            let rtt = latency.to(view, &node.id, now);
            let rtt = rtt.map_or(u128::MAX, |(rtt, _)| rtt.as_millis() / ALIKE_MS);
            let spread = node.id.distance(&Key(view.me.0));
            let neighbour = Neighbour {
                node: Some(stoq::identity::NodeId(node.id.0)),
                addr: *node.addresses.first()?,
            };
            Some(((node.health == Health::Degraded, rtt, spread), neighbour))
        })
        .collect();
    others.sort_unstable_by_key(|(order, _)| *order);
    others.into_iter().map(|(_, neighbour)| neighbour).collect()
}

/// A policy of the configuration as ranking has it. Both are lists of their own: what is read from a file knows no ranking.
const fn ranking(policy: PeerPolicy) -> Policy {
    match policy {
        PeerPolicy::Latency => Policy::Latency,
        PeerPolicy::LeastLoaded => Policy::LeastLoaded,
        PeerPolicy::Affinity => Policy::Affinity,
        PeerPolicy::Geo => Policy::Geo,
        PeerPolicy::RoundRobin => Policy::RoundRobin,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use stoq_routing::NodeId;

    use super::*;

    #[test]
    fn the_nearest_that_serve_are_asked_first() {
        let node = |number: u8, zone: &str| {
            let mut node = NodeState::new(
                NodeId([number; 32]),
                number.to_string(),
                zone.parse().unwrap(),
            );
            node.addresses = vec![SocketAddr::from(([127, 0, 0, number], 1))];
            node
        };
        let mut leaving = node(7, "eu-fra");
        leaving.draining = true;
        let mut ill = node(8, "eu-fra");
        ill.health = Health::Ill;
        let mut busy = node(10, "eu-fra");
        busy.load = LOAD_MAX;
        let mut shield = node(11, "eu-fra");
        shield.is_shield = true;
        let mut nowhere = node(9, "eu-fra");
        nowhere.addresses.clear();
        let nodes = [
            node(1, "eu-fra"),
            node(2, "us-nyc"),
            node(3, "eu-ams"),
            node(4, "eu-fra"),
            // Nearer to 1 than 4 is: 1 ^ 5 = 4, 1 ^ 4 = 5.
            node(5, "eu-fra"),
            leaving,
            ill,
            busy,
            shield,
            nowhere,
        ];
        let view = View::new(NodeId([1; 32]), 1, true, nodes.map(Arc::new));
        let mut latency = Latency::new(NodeId([1; 32]));
        let now = Duration::from_secs(1);
        let order = |latency: &Latency| -> Vec<u8> {
            nearest(&view, latency, now)
                .iter()
                .map(|neighbour| match neighbour.addr.ip() {
                    IpAddr::V4(ip) => ip.octets()[3],
                    IpAddr::V6(_) => 0,
                })
                .collect()
        };
        assert_eq!(order(&latency), [5, 4, 3, 2]);
        // What was measured counts before what zones say.
        latency.measured(NodeId([2; 32]), Duration::from_micros(300), now);
        latency.measured(NodeId([4; 32]), Duration::from_millis(80), now);
        assert_eq!(order(&latency), [2, 5, 3, 4]);
    }

    #[test]
    fn each_policy_of_the_configuration_is_the_one_of_its_name() {
        for policy in PeerPolicy::ALL {
            assert_eq!(policy.as_str(), ranking(policy).name());
        }
        assert_eq!(PeerPolicy::ALL.len(), Policy::ALL.len());
    }
}
