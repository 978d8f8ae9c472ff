//! The members that one node sees at one moment.

use std::sync::Arc;

use crate::{NodeId, NodeState};

/// The live members that one node sees at one moment, itself among them. Shared; a change makes a new one.
#[derive(Debug, Clone)]
pub struct View {
    /// The node that sees it.
    pub me: NodeId,
    /// Counts up with each change.
    pub generation: u64,
    /// Whether all members are in it as far as the node knows. If not, an owner may be missing, and lookups go on from node to node.
    pub complete: bool,
    /// By id, each once.
    nodes: Vec<Arc<NodeState>>,
}

impl View {
    /// A view of these nodes; of two with one id the later is kept.
    #[must_use]
    pub fn new(
        me: NodeId,
        generation: u64,
        complete: bool,
        nodes: impl IntoIterator<Item = Arc<NodeState>>,
    ) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.reverse();
        nodes.sort_by_key(|node| node.id);
        nodes.dedup_by_key(|node| node.id);
        Self {
            me,
            generation,
            complete,
            nodes,
        }
    }

    /// The nodes, by id.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<NodeState>] {
        &self.nodes
    }

    /// The node with this id, if it is seen.
    #[must_use]
    pub fn get(&self, id: &NodeId) -> Option<&Arc<NodeState>> {
        let at = self.nodes.binary_search_by_key(id, |node| node.id).ok()?;
        self.nodes.get(at)
    }
}
