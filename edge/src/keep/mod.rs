//! What an edge leaves to others, and keeps for them: the objects that are asked for most, and small ones at their homes.
//!
//! | file | what it is |
//! |---|---|
//! | `heat` | which URLs those are |
//! | `pull` | keeps what other edges ask this one to: fetched as for a miss |
//! | `tell` | has another edge keep some of them |
//! | `lanes` | while it serves: one telling to a neighbour at a time |
//! | `hand` | at a drain: the neighbours, before this edge takes its leave of them |
//! | `place` | while it serves: the homes of small objects, where other edges of the metro ask for them |
//! | `protect` | while it serves: edges that do not fail together, for sites that are protected |

mod hand;
mod heat;
mod lanes;
mod metrics;
mod place;
mod protect;
mod pull;
mod tell;

use std::sync::Arc;

use stoq_mesh::keep::{KeepServer, Told};
use stoq_node::config::Config;
use stoq_node::{Drain, Registry};
use stoq_routing::Membership;
use tokio_util::sync::CancellationToken;

use crate::peers::Peers;
use crate::serve::Shared;

pub(crate) use heat::{Asked, Heat};

use hand::Hand;
use metrics::KeepMetrics;
use place::Place;
use protect::Protect;
use pull::Puller;
use tell::Teller;

/// What an edge puts at others while it serves.
#[derive(Debug)]
pub(crate) struct Puts {
    /// For each site how many edges are to hold what is hot of it; 0 for none.
    copies: Vec<usize>,
    /// Small objects at their homes.
    at_homes: bool,
    /// Whether a shield stands behind it.
    shielded: bool,
}

impl Puts {
    /// As the configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            copies: config.sites.iter().map(|site| site.protect).collect(),
            at_homes: config.cluster.as_ref().is_some_and(|cluster| cluster.homes),
            shielded: config.shield.is_some(),
        }
    }
}

/// Both sides of an edge.
#[derive(Debug)]
pub(crate) struct Keep {
    /// What others ask of it.
    pub(crate) puller: Arc<Puller>,
    /// What it asks of others at its end.
    pub(crate) hand: Hand,
    /// What it asks of others before that, of small objects; `None` where it is told not to.
    pub(crate) place: Option<Place>,
    /// What it asks of others before that, of sites that are protected.
    pub(crate) protect: Protect,
}

impl Keep {
    /// Of an edge among these peers. `told` is asked first by its fills; `handed_over` is cancelled when it has handed
    /// over what it had.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        peers: &Peers,
        told: Told,
        drain: &Drain,
        puts: Puts,
        handed_over: &CancellationToken,
        registry: &Registry,
    ) -> Self {
        let metrics = Arc::<KeepMetrics>::default();
        registry.with(|registry| metrics.register(registry.sub_registry_with_prefix("stoq")));
        let gossip = peers.gossip().clone();
        let addresses = Box::new(move |node: stoq::identity::NodeId| {
            let view = gossip.view();
            let node = view.get(&stoq_mesh::gossip::node_id(node));
            node.map_or_else(Vec::new, |node| node.addresses.clone())
        });
        let (shared, drain) = (Arc::clone(shared), drain.clone());
        let puller = Puller::new(
            Arc::clone(&shared),
            told,
            addresses,
            drain,
            Arc::clone(&metrics),
        );
        let teller = Arc::new(Teller::new(shared, metrics));
        Self {
            puller: Arc::new(puller),
            place: puts
                .at_homes
                .then(|| Place::new(Arc::clone(&teller), puts.shielded)),
            protect: Protect::new(Arc::clone(&teller), puts.copies),
            hand: Hand::new(teller, handed_over.clone()),
        }
    }

    /// What answers other edges.
    pub(crate) fn handler(&self) -> Arc<dyn stoq::peer::Handler> {
        Arc::new(KeepServer::new(Arc::clone(&self.puller) as _))
    }
}
