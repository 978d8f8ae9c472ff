//! Holders out of a list of nodes, each of which is asked what it has: for clusters of a few nodes, where an index would say no more.

use std::net::SocketAddr;
use std::time::Duration;

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, join_all};
use stoq::identity::NodeId;
use stoq_cache::content::ManifestId;
use tokio::time::timeout;

use super::ask::{self, Way};
use super::holders::{Candidate, Holders, Sought};
use super::quarantine::Quarantine;
use crate::borders::{Borders, Crossing};
use crate::gossip::node_id;
use crate::wire::ManifestsRequest;

/// Nodes that are asked: 16. More are ignored.
const NODES_MAX: usize = 16;

/// How long each has to answer, unless it is told otherwise: 200 ms. Who takes longer is no near holder.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// Another edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Who it must prove to be, where that is known.
    pub node: Option<NodeId>,
    /// Where it takes connections from other nodes.
    pub addr: SocketAddr,
}

/// A list of other edges. It may change while it is used.
#[derive(Debug)]
pub struct Neighbours {
    nodes: ArcSwap<Vec<Neighbour>>,
    borders: Arc<Borders>,
    answer_within: Duration,
    /// Wrong bytes are no matter here: it is asked what a node has, and what that gives is verified by who asks for it.
    nobody: Quarantine,
}

impl Neighbours {
    /// These nodes, of which at most 16 are asked.
    #[must_use]
    pub fn new(nodes: Vec<SocketAddr>) -> Self {
        let nodes = nodes.into_iter().map(|addr| Neighbour { node: None, addr });
        Self {
            nodes: ArcSwap::from_pointee(nodes.collect()),
            borders: Arc::default(),
            answer_within: ANSWER_WITHIN,
            nobody: Quarantine::default(),
        }
    }

    /// Each has so long to answer. Default 200 ms; less than [`Patience::found_within`](super::Patience::found_within), or who does not answer
    /// hides those who do.
    #[must_use]
    pub const fn answering_within(mut self, limit: Duration) -> Self {
        self.answer_within = limit;
        self
    }

    /// Of a site whose bytes may not be everywhere only those within are asked.
    #[must_use]
    pub fn within(mut self, borders: Arc<Borders>) -> Self {
        self.borders = borders;
        self
    }

    /// Replaces the list.
    pub fn set(&self, nodes: Vec<Neighbour>) {
        self.nodes.store(nodes.into());
    }

    async fn ask(&self, neighbour: Neighbour, sought: Sought<'_>) -> Vec<Candidate> {
        let addr = neighbour.addr;
        let candidate = |manifest, whole, node, rtt| Candidate {
            node,
            addresses: vec![addr],
            manifest,
            whole,
            rtt,
        };
        let way = Way::Peer(candidate(
            ManifestId::from_bytes([0; 32]),
            false,
            neighbour.node,
            None,
        ));
        let answered = async {
            let conn = way.connect(sought.pool, &self.nobody).await?;
            let peer = node_id(conn.peer().identity.node_id);
            if !self.borders.admits(sought.site, &peer, Crossing::Ask) {
                return Err(ask::AskError::Outside(conn.peer().identity.node_id));
            }
            let request = ManifestsRequest {
                key: *sought.key.as_bytes(),
                chunk_key_id: sought.chunk_key_id,
                site: sought.site.to_owned(),
            };
            let answer = ask::manifests(&conn, &request).await?;
            Ok::<_, ask::AskError>((conn, answer))
        };
        match timeout(self.answer_within, answered).await {
            Ok(Ok((conn, answer))) => {
                let (node, rtt) = (conn.peer().identity.node_id, conn.path().rtt);
                let stored = answer.stored.into_iter();
                let candidates = stored.map(|stored| {
                    let root = ManifestId::from_bytes(stored.root);
                    candidate(root, stored.whole, Some(node), Some(rtt))
                });
                candidates.collect()
            }
            Ok(Err(error)) => {
                tracing::debug!(%addr, %error, "a neighbour says nothing");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

impl Default for Neighbours {
    /// Nobody.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Holders for Neighbours {
    fn find<'a>(&'a self, sought: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(async move {
            let nodes = self.nodes.load_full();
            let is_within = |neighbour: &&Neighbour| match neighbour.node {
                Some(node) => {
                    let node = node_id(node);
                    self.borders.admits(sought.site, &node, Crossing::Ask)
                }
                None => !self.borders.binds(sought.site),
            };
            let asked = nodes.iter().filter(is_within).take(NODES_MAX);
            let found = join_all(asked.map(|neighbour| self.ask(*neighbour, sought))).await;
            let mut found: Vec<_> = found.into_iter().flatten().collect();
            found.sort_by_key(|candidate| candidate.rtt);
            found
        })
    }
}
