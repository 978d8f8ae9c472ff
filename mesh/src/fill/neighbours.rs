//! Holders out of a list of nodes, each of which is asked what it has: for clusters of a few nodes, where an index would say no more.

use std::net::SocketAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, join_all};
use stoq_cache::content::ManifestId;
use tokio::time::timeout;

use super::ask::{self, Way};
use super::holders::{Candidate, Holders, Sought};
use super::quarantine::Quarantine;
use crate::wire::ManifestsRequest;

/// Nodes that are asked: 16. More are ignored.
const NODES_MAX: usize = 16;

/// How long all of them have to answer: 200 ms. Who takes longer is no near holder.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// A list of other edges. It may change while it is used.
#[derive(Debug, Default)]
pub struct Neighbours {
    nodes: ArcSwap<Vec<SocketAddr>>,
    /// Wrong bytes are no matter here: it is asked what a node has, and what that gives is verified by who asks for it.
    nobody: Quarantine,
}

impl Neighbours {
    /// These nodes, of which at most 16 are asked.
    #[must_use]
    pub fn new(nodes: Vec<SocketAddr>) -> Self {
        Self {
            nodes: ArcSwap::from_pointee(nodes),
            nobody: Quarantine::default(),
        }
    }

    /// Replaces the list.
    pub fn set(&self, nodes: Vec<SocketAddr>) {
        self.nodes.store(nodes.into());
    }

    async fn ask(&self, addr: SocketAddr, sought: Sought<'_>) -> Vec<Candidate> {
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
            None,
            None,
        ));
        let answered = async {
            let conn = way.connect(sought.pool, &self.nobody).await?;
            let request = ManifestsRequest {
                key: *sought.key.as_bytes(),
                chunk_key_id: sought.chunk_key_id,
                site: sought.site.to_owned(),
            };
            let answer = ask::manifests(&conn, &request).await?;
            Ok::<_, ask::AskError>((conn, answer))
        };
        match timeout(ANSWER_WITHIN, answered).await {
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

impl Holders for Neighbours {
    fn find<'a>(&'a self, sought: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(async move {
            let nodes = self.nodes.load_full();
            let asked = nodes.iter().take(NODES_MAX);
            let found = join_all(asked.map(|addr| self.ask(*addr, sought))).await;
            let mut found: Vec<_> = found.into_iter().flatten().collect();
            found.sort_by_key(|candidate| candidate.rtt);
            found
        })
    }
}
