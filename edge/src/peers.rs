//! The edge among other edges: what it says of itself, and its part in the gossip by which they find each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use stoq::pool::Pool;
use stoq_mesh::gossip::{Gossip, GossipConfig, Places, node_id, pool_config};
use stoq_mesh::{
    Bearings, Borders, GeoWatch, Holders, Links, Membership as Member, Neighbour, Neighbours,
    Patience, Standing,
};
use stoq_node::Drain;
use stoq_node::config::{Config, PeerPolicy};
use stoq_routing::index::StoreError;
use stoq_routing::{Health, Key, LOAD_MAX, Latency, Membership, NodeState, Policy, View, Zone};
use tokio::time::interval;

use crate::index::Providers;

/// How often the edge looks at how it fares, to say so where it matters.
const LOOK: Duration = Duration::from_secs(2);
/// Addresses that others are told: as many as they read.
const ADDRESSES_MAX: usize = 8;

/// How an edge does at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fares {
    /// The part of its capacity that is taken: of its connections or of its workers' time, whichever is more. 0 to 1.
    pub(crate) load: f64,
    /// A volume of its cache does not work.
    pub(crate) is_ailing: bool,
}

/// This edge in the mesh.
#[derive(Debug)]
pub(crate) struct Peers {
    gossip: Gossip,
    places: Arc<Places>,
    neighbours: Arc<Neighbours>,
    providers: Providers,
    bearings: Arc<Bearings>,
    borders: Arc<Borders>,
    geo: Option<Arc<GeoWatch>>,
    policy: Policy,
    member: Member,
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
        let own = said(config, member, listens);
        let Some(cluster) = config
            .cluster
            .as_ref()
            .filter(|_| !own.addresses.is_empty())
        else {
            return Ok(None);
        };
        let gossip = Gossip::new(
            member.identity(),
            own,
            GossipConfig {
                state_dir: Some(config.node.state_dir.clone()),
                ..GossipConfig::default()
            },
        );
        let members: Arc<dyn Membership> = Arc::new(gossip.clone());
        borders.among(Arc::clone(&members));
        let bearings = Bearings::standing(members, Standing::of(config), geo.clone());
        let bearings = Arc::new(bearings);
        let here = bearings.whereabouts();
        gossip.publish(&mut |own| here.tell(own));
        let state_dir = &config.node.state_dir;
        Ok(Some(Self {
            providers: Providers::open(state_dir, &gossip, &bearings, patience)?,
            gossip,
            bearings,
            borders: Arc::clone(borders),
            geo,
            places: Places::new(cluster),
            // Half of the time is the index's, where that is asked first; what is left is for them to be reached.
            neighbours: Arc::new(
                Neighbours::default()
                    .answering_within(patience.found_within * 2 / 5)
                    .within(Arc::clone(borders)),
            ),
            policy: ranking(cluster.policy),
            member: member.clone(),
        }))
    }

    /// Who is in the mesh.
    pub(crate) const fn gossip(&self) -> &Gossip {
        &self.gossip
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

    /// Puts how well it knows where it and the others are below `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.bearings.register(registry);
        if let Some(geo) = &self.geo {
            geo.register(registry);
        }
        self.providers.register(registry);
    }

    /// The connections for what nodes say to each other.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn pool(&self, links: &Links) -> std::io::Result<Pool> {
        links.pool_with(self.member.identity().clone(), pool_config())
    }

    fn nearest(&self, view: &View) -> Vec<Neighbour> {
        self.bearings
            .with(|latency, now| nearest(view, latency, now))
    }

    /// Takes part in the mesh over these [connections](Self::pool), for as long as it is let; once the drain has begun others are told that it drains. `fares` says how the edge
    /// does. For one worker of a process.
    pub(crate) async fn run(&self, pool: Pool, drain: &Drain, fares: impl Fn() -> Fares) {
        let telling = async {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                // In hundredths: who is seen to change is looked at anew by others.
                let Fares { load, is_ailing } = fares();
                let load = (load * 100.0).round() / 100.0;
                self.bearings.sound(&self.gossip);
                let here = self.bearings.whereabouts();
                // What is near changes with what was measured, and not only with who there is.
                self.neighbours.set(self.nearest(&self.gossip.view()));
                self.gossip.publish(&mut |own| {
                    own.load = load;
                    own.health = match is_ailing {
                        true => Health::Degraded,
                        false => Health::Well,
                    };
                    here.tell(own);
                });
            }
        };
        let draining = async {
            drain.begun().await;
            self.gossip.publish(&mut |own| own.draining = true);
        };
        let following = async {
            let mut view = self.gossip.view();
            self.providers.follow(None, &view);
            loop {
                self.neighbours.set(self.nearest(&view));
                let next = self.gossip.changed(view.generation).await;
                self.providers.follow(Some(&view), &next);
                view = next;
            }
        };
        let gossip = self.gossip.run(pool, &self.places);
        let geo = async {
            if let Some(geo) = &self.geo {
                geo.follow().await;
            }
        };
        tokio::join!(gossip, telling, draining, following, geo);
    }
}

/// Milliseconds of round trip that are not told apart among those who may be asked: what separates two machines of one metro.
const ALIKE_MS: u128 = 2;

/// The others that may be asked for what they hold, the nearest first, as far as that is known. Of those about as near each node begins with others, so that a large metro
/// does not ask the same few.
fn nearest(view: &View, latency: &Latency, now: Duration) -> Vec<Neighbour> {
    let may_be_asked = |node: &&Arc<NodeState>| {
        node.id != view.me && !node.draining && node.health != Health::Ill && node.load < LOAD_MAX
    };
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

/// Bytes a second that the node gives to others at most, where its operator bounds that; 0, which is that nobody knows, where not.
fn capacity(config: &Config) -> u64 {
    let shape = &config.shape;
    let bounds = [shape.rate, shape.fill.cap];
    bounds.into_iter().flatten().min().unwrap_or(0)
}

/// What the edge says of itself when it starts.
fn said(config: &Config, member: &Member, listens: &[SocketAddr]) -> NodeState {
    let identity = member.identity();
    let id = node_id(identity.node_id());
    let zone = Standing::of(config).zone.unwrap_or_else(Zone::unknown);
    let mut own = NodeState::new(id, identity.name(), zone);
    own.capacity = capacity(config);
    let advertised = config.cluster.iter().flat_map(|cluster| &cluster.advertise);
    own.addresses = advertised.copied().collect();
    if own.addresses.is_empty() {
        let reachable = listens.iter().filter(|addr| !addr.ip().is_unspecified());
        own.addresses = reachable.copied().take(ADDRESSES_MAX).collect();
    }
    for text in &config.node.public {
        match text.parse::<IpAddr>() {
            Ok(ip) => own.public_addresses.push(ip),
            Err(_) => own.public_names.push(text.clone()),
        }
    }
    own.software = concat!("stoq-edge ", env!("CARGO_PKG_VERSION")).to_owned();
    own
}

#[cfg(test)]
mod tests {
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
