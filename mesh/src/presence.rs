//! A node among the others: what it says of itself, kept true while it runs, and its part in the gossip by which they find each other. Edges and shields alike.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use stoq::pool::Pool;
use stoq_node::Drain;
use stoq_node::config::{Config, Role};
use stoq_routing::{Health, Membership, NodeState, Zone};
use tokio::time::interval;

use crate::bearings::{Bearings, GeoWatch, Standing};
use crate::borders::Borders;
use crate::gossip::report::Seen;
use crate::gossip::{Gossip, GossipConfig, Mdns, Places, node_id, pool_config};
use crate::links::Links;
use crate::membership::Membership as Member;

/// How often the node looks at where it is and how it does, to say so where it matters.
const LOOK: Duration = Duration::from_secs(2);
/// Addresses that others are told: as many as they read.
const ADDRESSES_MAX: usize = 8;

/// How a node does at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Fares {
    /// The part of its capacity that is taken: of its connections or of its workers' time, whichever is more. 0 to 1.
    pub load: f64,
    /// A volume of its cache does not work.
    pub is_ailing: bool,
}

/// This node in the mesh.
#[derive(Debug)]
pub struct Presence {
    gossip: Gossip,
    places: Arc<Places>,
    bearings: Arc<Bearings>,
    geo: Option<Arc<GeoWatch>>,
    member: Member,
}

impl Presence {
    /// The node of this configuration, which listens for others there; `None` where they cannot reach it. `borders` learn from it who is where. `software` names what it is.
    #[must_use]
    pub fn new(
        config: &Config,
        role: Role,
        member: &Member,
        listens: &[SocketAddr],
        geo: Option<Arc<GeoWatch>>,
        borders: &Borders,
        software: &str,
    ) -> Option<Self> {
        let own = introduction(config, role, member, listens, software);
        let cluster = config.cluster.as_ref()?;
        if own.addresses.is_empty() {
            return None;
        }
        let told = own.addresses.clone();
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
        let here = bearings.whereabouts();
        gossip.publish(&mut |own| here.tell(own));
        let mdns = cluster.mdns.then(|| {
            let metrics = Arc::clone(gossip.metrics());
            Mdns::new(member.identity(), listens, &told, metrics)
        });
        Some(Self {
            places: Places::new(cluster, mdns),
            bearings: Arc::new(bearings),
            gossip,
            geo,
            member: member.clone(),
        })
    }

    /// Who is in the mesh.
    #[must_use]
    pub const fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Where this node is, and how far the others are.
    #[must_use]
    pub const fn bearings(&self) -> &Arc<Bearings> {
        &self.bearings
    }

    /// What an operator is shown of it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            gossip: self.gossip.clone(),
            bearings: Arc::clone(&self.bearings),
        }
    }

    /// Puts the figures of all of it below `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.gossip.metrics().register(registry);
        self.bearings.register(registry);
        if let Some(geo) = &self.geo {
            geo.register(registry);
        }
    }

    /// The connections for what nodes say to each other.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn pool(&self, links: &Links) -> std::io::Result<Pool> {
        links.pool_with(self.member.identity().clone(), pool_config())
    }

    /// Takes part in the mesh over these [connections](Self::pool), for as long as it is let; once the drain has begun others are told that it drains. `fares` says how the node does. For one
    /// worker of a process. Never ends.
    pub async fn run(&self, pool: Pool, drain: &Drain, fares: impl Fn() -> Fares) {
        let telling = async {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                let Fares { load, is_ailing } = fares();
                self.bearings.sound(&self.gossip);
                let here = self.bearings.whereabouts();
                self.gossip.publish(&mut |own| {
                    // In hundredths: who is seen to change is looked at anew by others.
                    own.load = (load * 100.0).round() / 100.0;
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
            self.places.leave();
            self.gossip.publish(&mut |own| own.draining = true);
        };
        let geo = async {
            if let Some(geo) = &self.geo {
                geo.follow().await;
            }
        };
        let gossip = self.gossip.run(pool, &self.places);
        tokio::join!(gossip, telling, draining, geo);
    }
}

/// What a node says of itself when it starts.
fn introduction(
    config: &Config,
    role: Role,
    member: &Member,
    listens: &[SocketAddr],
    software: &str,
) -> NodeState {
    let identity = member.identity();
    let id = node_id(identity.node_id());
    let zone = Standing::of(config).zone.unwrap_or_else(Zone::unknown);
    let mut own = NodeState::new(id, identity.name(), zone);
    own.is_shield = role == Role::Shield;
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
    software.clone_into(&mut own.software);
    own
}

/// Bytes a second that the node gives to others at most, where its operator bounds that; 0, which is that nobody knows, where not.
fn capacity(config: &Config) -> u64 {
    let shape = &config.shape;
    let bounds = [shape.rate, shape.fill.cap];
    bounds.into_iter().flatten().min().unwrap_or(0)
}
