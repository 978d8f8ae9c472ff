//! Where in a metro a small object is kept: rendezvous hashing (Thaler and Ravishankar 1998), which needs no record of who holds what.
//!
//! Each node of the metro weighs each key, and the heaviest is the key's home. All who see the same nodes agree without a word; when one leaves,
//! its keys and no others move, evenly to the rest.
//!
//! Requests are not spread as keys are: the first of a Zipf distribution can be more than a node's share by itself. So [`Placer`] bounds what goes
//! to one node (Mirrokni, Thorup and Zadimoghaddam 2018), and what is beyond goes to the next in the key's own order.
//!
//! Whoever chooses the keys could have them all weigh the most at one node. That is why the bound is on requests and not hoped from the hash.

mod handover;
mod placer;

use std::sync::Arc;

pub use handover::{HANDOVER_KEYS_MAX, handover};
pub use placer::{Bound, Placer};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Health, Key, NodeId, NodeState, View};

/// The load from which on a node is asked for nothing more.
pub const LOAD_MAX: f64 = 0.9;

/// What a node weighs a key. Part of what nodes of one metro agree on: XXH3-64 of the node's 32 bytes and the key's 32 bytes, seed 0.
pub(crate) fn weight(id: &NodeId, key: &Key) -> u64 {
    let mut both = [0; 64];
    let (first, second) = both.split_at_mut(32);
    first.copy_from_slice(&id.0);
    second.copy_from_slice(&key.0);
    xxh3_64(&both)
}

/// Any nodes in a key's own order: the same for all who ask about the same nodes, and when one leaves the others keep theirs. Also for what is no
/// object: the shields of a site by its name, say.
#[must_use]
pub fn rendezvous(nodes: impl IntoIterator<Item = NodeId>, key: &Key) -> Vec<NodeId> {
    let weighed = nodes.into_iter().map(|id| (weight(&id, key), id));
    let mut weighed: Vec<_> = weighed.collect();
    weighed.sort_unstable_by(|one, other| other.cmp(one));
    weighed.into_iter().map(|(_, id)| id).collect()
}

/// The nodes of a metro that keep its small objects, as one view has them. Made anew with each view, which costs a pass over its nodes.
#[derive(Debug, Clone)]
pub struct Placement {
    /// By id, as the view has them.
    nodes: Vec<Member>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    id: NodeId,
    /// It is nearly full, by its own word: it is passed over while others are not.
    is_full: bool,
}

impl Placement {
    /// The metro of the node that sees the view: all nodes with its zone, so those whose zones are not known are one metro together. Ill and
    /// draining nodes keep nothing, degraded ones only where no other does.
    #[must_use]
    pub fn new(view: &View) -> Self {
        Self::without(view, None)
    }

    fn without(view: &View, leaving: Option<&NodeId>) -> Self {
        let zone = view.get(&view.me).map(|me| &me.zone);
        let keeps = |node: &&Arc<NodeState>| {
            let is_near = zone.is_some_and(|zone| *zone == node.zone);
            is_near && node.shares_work() && Some(&node.id) != leaving
        };
        let serving = || view.nodes().iter().filter(keeps);
        let is_any_well = serving().any(|node| node.health == Health::Well);
        let nodes = serving()
            .filter(|node| node.health == Health::Well || !is_any_well)
            .map(|node| Member {
                id: node.id,
                is_full: node.load.is_nan() || node.load >= LOAD_MAX,
            });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// How many nodes share the keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody keeps anything: this node and all others of its metro are ill or draining.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The key's home, whatever its load. A pass over the metro's nodes, a hash of 64 bytes each.
    #[must_use]
    pub fn home(&self, key: &Key) -> Option<NodeId> {
        self.heaviest(key, |_| true)
    }

    /// The first `count` nodes in the key's own order: its home, then where it goes when that is gone or has enough.
    #[must_use]
    pub fn order(&self, key: &Key, count: usize) -> Vec<NodeId> {
        let mut nodes = rendezvous(self.nodes.iter().map(|node| node.id), key);
        nodes.truncate(count);
        nodes
    }

    /// Where a key goes when each node has this load: the first in its order whose load is no more than `factor` times the mean, and that is not
    /// nearly full. Whatever the loads, there is one as long as a node is not full; where all are, it is the home.
    #[must_use]
    pub fn place(&self, key: &Key, factor: f64, load: impl Fn(&NodeId) -> f64) -> Option<NodeId> {
        let open = || self.nodes.iter().filter(|node| !node.is_full);
        let total: f64 = open().map(|node| load(&node.id).max(0.0)).sum();
        #[expect(clippy::cast_precision_loss, reason = "some nodes")]
        let limit = factor.max(1.0) * total / open().count().max(1) as f64;
        self.heaviest(key, |node| !node.is_full && load(&node.id) <= limit)
            .or_else(|| self.heaviest(key, |node| !node.is_full))
            .or_else(|| self.home(key))
    }

    fn heaviest(&self, key: &Key, may: impl Fn(&Member) -> bool) -> Option<NodeId> {
        let nodes = self.nodes.iter().filter(|node| may(node));
        nodes
            .map(|node| (weight(&node.id, key), node.id))
            .max()
            .map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests;
