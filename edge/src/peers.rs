//! The edge among other edges: what it says of itself, and its part in the gossip by which they find each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stoq_mesh::gossip::{Gossip, GossipConfig, Places, node_id, pool_config};
use stoq_mesh::{Links, Membership as Member};
use stoq_node::Drain;
use stoq_node::config::Config;
use stoq_routing::{Membership, NodeState, Zone};
use tokio::time::interval;

/// How often the edge looks at how it fares, to say so where it matters.
const LOOK: Duration = Duration::from_secs(2);
/// Addresses that others are told: as many as they read.
const ADDRESSES_MAX: usize = 8;

/// This edge in the mesh.
#[derive(Debug)]
pub(crate) struct Peers {
    gossip: Gossip,
    places: Arc<Places>,
    member: Member,
}

impl Peers {
    /// The node of this configuration, which listens for others there; `None` where it does not.
    pub(crate) fn new(config: &Config, member: &Member, listens: &[SocketAddr]) -> Option<Self> {
        let cluster = config.cluster.as_ref()?;
        let own = said(config, member, listens);
        if own.addresses.is_empty() {
            return None;
        }
        let gossip = Gossip::new(
            member.identity(),
            own,
            GossipConfig {
                state_dir: Some(config.node.state_dir.clone()),
                ..GossipConfig::default()
            },
        );
        Some(Self {
            gossip,
            places: Places::new(cluster),
            member: member.clone(),
        })
    }

    /// Who is in the mesh.
    pub(crate) const fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Takes part in the mesh, for as long as it is let; once the drain has begun others are told that it drains. `load` is the part of the edge's capacity that is taken.
    /// For one worker of a process.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) async fn run(
        &self,
        links: &Links,
        drain: &Drain,
        load: impl Fn() -> f64,
    ) -> std::io::Result<()> {
        let pool = links.pool_with(self.member.identity().clone(), pool_config())?;
        let telling = async {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                // In hundredths: who is seen to change is looked at anew by others.
                let load = (load() * 100.0).round() / 100.0;
                self.gossip.publish(&mut |own| own.load = load);
            }
        };
        let draining = async {
            drain.begun().await;
            self.gossip.publish(&mut |own| own.draining = true);
        };
        let gossip = self.gossip.run(pool, &self.places);
        tokio::join!(gossip, telling, draining);
        Ok(())
    }
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
