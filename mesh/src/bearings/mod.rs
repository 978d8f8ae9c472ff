//! Where this node is and how far the others are, for all who choose among them.
//!
//! | file | what it is |
//! |---|---|
//! | here | round trips as they were measured, and this node's coordinates, position, zone and network as they follow from them and from what its operator says |
//! | `geo` | the databases that say where addresses are, followed while the node runs |
//! | `metrics` | how well all of it is known |
//!
//! How far another node is, is what was measured on a path to it within 5 min, else what the coordinates of both foretell while both are sure of them, else what their places on the globe do, else
//! their zones. What others say of theirs has been bounded when their word was read, and is judged again when it is used: coordinates that no node can have, or that jump, move nothing here.

mod geo;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_node::config::Config;
use stoq_routing::membership::have_moved;
use stoq_routing::{
    Coordinates, Latency, MeasuredZone, Membership, NodeId, NodeState, Place, Position, Source,
    View, Vivaldi, Zone, measure_zone,
};
use tokio::time::Instant;

use crate::gossip::Gossip;
pub use geo::GeoWatch;

/// How often it is learnt how round trips follow from distance.
const LEARN_EVERY: Duration = Duration::from_secs(60);

/// Kilometres by which a place must change for the coordinates to begin again from there.
const MOVED_KM: f64 = 100.0;

/// Where a node stands as its operator says. What is not said is measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// `node.zone`.
    pub zone: Option<Zone>,
    /// `node.position`.
    pub position: Option<Position>,
    /// `node.asn`.
    pub asn: Option<u32>,
}

impl Standing {
    /// As the configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let node = &config.node;
        Self {
            zone: node.zone.as_ref().and_then(|text| text.parse().ok()),
            position: node.position.map(|at| Position {
                latitude: at.latitude(),
                longitude: at.longitude(),
            }),
            asn: node.asn,
        }
    }
}

/// Where this node is, as far as it knows: what it publishes of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Whereabouts {
    /// Its zone; [`Zone::unknown`] where nothing tells.
    pub zone: Zone,
    /// On the globe.
    pub position: Option<Position>,
    /// The number of its network.
    pub asn: Option<u32>,
    /// By round trips.
    pub coordinates: Coordinates,
}

impl Whereabouts {
    /// Writes it into what the node says of itself. Coordinates stay as they were said before unless they have moved by what changes a choice, so a node at rest has nothing new to say.
    pub fn tell(&self, own: &mut NodeState) {
        own.zone.clone_from(&self.zone);
        own.position = self.position;
        own.asn = self.asn;
        if have_moved(own.coordinates, Some(self.coordinates)) {
            own.coordinates = Some(self.coordinates);
        }
    }
}

/// What one process knows of round trips to the members and of its own place. Shared by its workers.
pub struct Bearings {
    members: Arc<dyn Membership>,
    standing: Standing,
    geo: Option<Arc<GeoWatch>>,
    known: Mutex<Known>,
    began: Instant,
}

struct Known {
    latency: Latency,
    vivaldi: Vivaldi,
    /// Where the coordinates began.
    seed: Option<Position>,
    zone: MeasuredZone,
    learnt: Duration,
    /// Datagrams that had come on the path to a node when its round trip was last taken: without more of them it is the same measurement. As many as there are in view.
    heard: HashMap<NodeId, u64>,
}

impl fmt::Debug for Bearings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearings")
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Bearings {
    /// To these members, of a node whose operator says nothing; nothing is measured yet.
    #[must_use]
    pub fn new(members: Arc<dyn Membership>) -> Self {
        Self::standing(members, Standing::default(), None)
    }

    /// To these members, of a node that stands there; `geo` says where addresses are.
    #[must_use]
    pub fn standing(
        members: Arc<dyn Membership>,
        standing: Standing,
        geo: Option<Arc<GeoWatch>>,
    ) -> Self {
        let seed = standing.position;
        Self {
            known: Mutex::new(Known {
                latency: Latency::new(members.view().me),
                vivaldi: Vivaldi::new(seed.as_ref()),
                seed,
                zone: MeasuredZone::default(),
                learnt: Duration::ZERO,
                heard: HashMap::new(),
            }),
            members,
            standing,
            geo,
            began: Instant::now(),
        }
    }

    /// The members now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.members.view()
    }

    /// Takes the round trips of the paths that gossip uses, each only if something came in on its path since it was last taken. To be called every few seconds.
    pub fn sound(&self, gossip: &Gossip) {
        let view = self.view();
        let mut rtts = Vec::new();
        let mut heard = HashMap::new();
        for node in view.nodes().iter().filter(|node| node.id != view.me) {
            if let Some(path) = gossip.path(node).filter(|path| !path.rtt.is_zero()) {
                rtts.push((node.id, path.rtt));
                heard.insert(node.id, path.received_datagrams);
            }
        }
        let before = std::mem::replace(&mut self.known.lock().heard, heard.clone());
        rtts.retain(|(id, _)| before.get(id) != heard.get(id));
        self.measured(rtts);
    }

    /// Takes note of round trips that were measured, each once. To be told every few seconds: a value is good for 5 min.
    pub fn measured(&self, rtts: impl IntoIterator<Item = (NodeId, Duration)>) {
        let now = self.began.elapsed();
        let view = self.members.view();
        let mut known = self.known.lock();
        for (node, rtt) in rtts {
            known.latency.measured(node, rtt, now);
            if let Some(theirs) = view.get(&node).and_then(|node| node.coordinates) {
                // What is refused is counted there.
                let _ = known
                    .vivaldi
                    .observe(now, node, &theirs, rtt, &mut rand::rng());
            }
        }
    }

    /// Where this node is by now. To be asked every few seconds: a measured zone holds or does not from one time to the next.
    pub fn whereabouts(&self) -> Whereabouts {
        let now = self.began.elapsed();
        let view = self.members.view();
        let place = self.place(&view);
        let position = self
            .standing
            .position
            .or_else(|| place.as_ref()?.position)
            .filter(Position::is_valid);
        let mut known = self.known.lock();
        if has_moved(known.seed.as_ref(), position.as_ref()) {
            known.vivaldi = Vivaldi::new(position.as_ref());
            known.seed = position;
        }
        if now.saturating_sub(known.learnt) >= LEARN_EVERY {
            known.learnt = now;
            known.latency.learn_geography(&view, now);
        }
        let zone = match &self.standing.zone {
            Some(zone) => zone.clone(),
            None => {
                let measured = measure_zone(&view, &known.latency, place.as_ref(), now);
                if let Some(zone) = known.zone.observe(now, measured) {
                    tracing::info!(%zone, "this node's zone, by measurement");
                }
                known.zone.zone().cloned().unwrap_or_else(Zone::unknown)
            }
        };
        Whereabouts {
            zone,
            position,
            asn: self.standing.asn.or_else(|| place?.network),
            coordinates: known.vivaldi.coordinates(),
        }
    }

    /// What the databases know of the first of this node's addresses that they know.
    fn place(&self, view: &View) -> Option<Place> {
        let (geo, me) = (self.geo.as_ref()?.geo(), view.get(&view.me)?);
        let to_nodes = me.addresses.iter().map(std::net::SocketAddr::ip);
        let addresses: Vec<IpAddr> = me
            .public_addresses
            .iter()
            .copied()
            .chain(to_nodes)
            .collect();
        let mut places = addresses.into_iter().map(|addr| geo.place(addr));
        let known = |place: &Place| place.position.is_some() || place.network.is_some();
        places.find(known)
    }

    /// The round trip to a member, and how it is known.
    #[must_use]
    pub fn to(&self, node: &NodeId) -> Option<(Duration, Source)> {
        let view = self.members.view();
        self.with(|latency, now| latency.to(&view, node, now))
    }

    /// For those who ask for much at once.
    pub fn with<T>(&self, ask: impl FnOnce(&Latency, Duration) -> T) -> T {
        ask(&self.known.lock().latency, self.began.elapsed())
    }
}

/// Whether one place is so far from another that coordinates do not carry over. Who knows no place any more is where it was.
fn has_moved(from: Option<&Position>, to: Option<&Position>) -> bool {
    match (from, to) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(from), Some(to)) => from.distance(to) > MOVED_KM,
    }
}
