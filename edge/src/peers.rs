//! The edge among other edges: what it says of itself, and its part in the gossip by which they find each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stoq::pool::Pool;
use stoq_mesh::gossip::{Gossip, GossipConfig, Places, node_id, pool_config};
use stoq_mesh::{Holders, Links, Membership as Member, Neighbours, Patience};
use stoq_node::Drain;
use stoq_node::config::Config;
use stoq_routing::index::StoreError;
use stoq_routing::{Health, Key, Membership, NodeState, Policy, View, Zone};
use tokio::time::interval;

use crate::index::Providers;

/// How often the edge looks at how it fares, to say so where it matters.
const LOOK: Duration = Duration::from_secs(2);
/// Addresses that others are told: as many as they read.
const ADDRESSES_MAX: usize = 8;

/// This edge in the mesh.
#[derive(Debug)]
pub(crate) struct Peers {
    gossip: Gossip,
    places: Arc<Places>,
    neighbours: Arc<Neighbours>,
    providers: Providers,
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
        Ok(Some(Self {
            providers: Providers::open(&config.node.state_dir, &gossip, patience)?,
            gossip,
            places: Places::new(cluster),
            // Half of the time is the index's, where that is asked first; what is left is for them to be reached.
            neighbours: Arc::new(
                Neighbours::default().answering_within(patience.found_within * 2 / 5),
            ),
            policy: cluster.policy.as_str().parse().unwrap_or_default(),
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
        self.providers.holders(neighbours, self.policy)
    }

    /// The connections for what nodes say to each other.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn pool(&self, links: &Links) -> std::io::Result<Pool> {
        links.pool_with(self.member.identity().clone(), pool_config())
    }

    /// Takes part in the mesh over these [connections](Self::pool), for as long as it is let; once the drain has begun others are told that it drains. `load` is the part of the edge's
    /// capacity that is taken. For one worker of a process.
    pub(crate) async fn run(&self, pool: Pool, drain: &Drain, load: impl Fn() -> f64) {
        let telling = async {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                // In hundredths: who is seen to change is looked at anew by others.
                let load = (load() * 100.0).round() / 100.0;
                self.gossip.publish(&mut |own| own.load = load);
                let view = self.gossip.view();
                let rtt = |node: &Arc<NodeState>| Some((node.id, self.gossip.rtt(node)?));
                let rtts = view.nodes().iter().filter_map(rtt);
                self.providers.bearings().measured(rtts);
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
                self.neighbours.set(nearest(&view));
                let next = self.gossip.changed(view.generation).await;
                self.providers.follow(Some(&view), &next);
                view = next;
            }
        };
        let gossip = self.gossip.run(pool, &self.places);
        tokio::join!(gossip, telling, draining, following);
    }
}

/// Where the others are that may be asked for what they hold: those of the same metro first, then those of the same region. Of equals each
/// node begins with others, so that a large metro does not ask the same few.
fn nearest(view: &View) -> Vec<SocketAddr> {
    let zone = view.get(&view.me).map(|me| &me.zone);
    let others = view
        .nodes()
        .iter()
        .filter(|node| node.id != view.me && !node.draining && node.health != Health::Ill);
    let mut others: Vec<_> = others
        .filter_map(|node| {
            let is_metro = Some(&node.zone) == zone;
            let is_region = Some(&node.zone.region) == zone.map(|zone| &zone.region);
            let spread = node.id.distance(&Key(view.me.0));
            Some(((!is_metro, !is_region, spread), *node.addresses.first()?))
        })
        .collect();
    others.sort_unstable();
    others.into_iter().map(|(_, addr)| addr).collect()
}

/// What the edge says of itself when it starts.
fn said(config: &Config, member: &Member, listens: &[SocketAddr]) -> NodeState {
    let identity = member.identity();
    let zone = config
        .node
        .zone
        .as_ref()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(Zone::unknown);
    let mut own = NodeState::new(node_id(identity.node_id()), identity.name(), zone);
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
            nowhere,
        ];
        let view = View::new(NodeId([1; 32]), 1, true, nodes.map(Arc::new));
        let order: Vec<u8> = nearest(&view)
            .iter()
            .map(|addr| match addr.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect();
        assert_eq!(order, [5, 4, 3, 2]);
    }
}
