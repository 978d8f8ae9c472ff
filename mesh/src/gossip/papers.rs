//! Whose key is whose: the identity certificates of nodes that were heard of, each found to be signed by the cluster's root.
//!
//! So a node's word is believed wherever it came from, and roles and names come from certificates alone. Every look at a key asks again whether its certificate
//! has expired or is revoked, so what changes is felt at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use stoq::identity::{Identity, Papers as Node, Refusal};
use stoq_routing::{Distrust, NodeId, Signature, Signer, Verifier};

/// Certificates kept: 4,096 × some 300 B, and this node's own. Beyond them the one makes room that was not asked for for longest; those of nodes in view are asked for several times a second.
const KNOWN_MAX: usize = 4_096;

/// What is known of the keys of nodes. Cheap to clone; the clones are one.
#[derive(Debug, Clone)]
pub struct Papers {
    identity: Identity,
    known: Arc<RwLock<HashMap<NodeId, Known>>>,
    /// How often certificates were asked for or learnt.
    asked: Arc<AtomicU64>,
    max: usize,
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    /// The last of [`Papers::asked`] that was for it.
    asked: AtomicU64,
}

/// A node's id as routing has it.
#[must_use]
pub const fn node_id(id: stoq::identity::NodeId) -> NodeId {
    NodeId(id.0)
}

impl Papers {
    /// Of this node alone, so far.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        Self::of_at_most(KNOWN_MAX, identity)
    }

    fn of_at_most(max: usize, identity: &Identity) -> Self {
        Self {
            identity: identity.clone(),
            known: Arc::default(),
            asked: Arc::default(),
            max,
        }
    }

    /// This node's identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes note of an identity certificate (DER), if it is one of this cluster's.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn learn(&self, certificate: &[u8]) -> Result<Arc<Node>, Refusal> {
        let papers = Arc::new(self.identity.read_papers(&certificate.into())?);
        let own = self.id();
        let mut known = self.known.write();
        let learnt = Known {
            node: Arc::clone(&papers),
            asked: self.ask().into(),
        };
        known.insert(node_id(papers.node_id), learnt);
        if known.len() - usize::from(known.contains_key(&own)) > self.max {
            let others = known.iter().filter(|(id, _)| **id != own);
            let longest = others.min_by_key(|(_, known)| known.asked.load(Relaxed));
            if let Some(longest) = longest.map(|(id, _)| *id) {
                known.remove(&longest);
            }
        }
        Ok(papers)
    }

    /// What is known of a node, if it is still to be believed.
    ///
    /// # Errors
    /// It is not known, has expired (which is as good as unknown), or is revoked.
    pub fn get(&self, id: &NodeId) -> Result<Arc<Node>, Distrust> {
        let node = {
            let known = self.known.read();
            let known = known.get(id).ok_or(Distrust::Unknown)?;
            known.asked.store(self.ask(), Relaxed);
            Arc::clone(&known.node)
        };
        match self.identity.is_current(&node) {
            Ok(()) => Ok(node),
            Err(Refusal::Revoked { .. }) => Err(Distrust::Revoked),
            Err(_) => Err(Distrust::Unknown),
        }
    }

    fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Relaxed)
    }
}

impl Signer for Papers {
    fn id(&self) -> NodeId {
        node_id(self.identity.node_id())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.identity.sign(message).unwrap_or_else(|error| {
            // Nobody believes it then, which is what is true.
            tracing::error!(%error, "this node cannot sign");
            [0; 64]
        })
    }
}

impl Verifier for Papers {
    fn verify(&self, by: &NodeId, message: &[u8], signature: &Signature) -> Result<(), Distrust> {
        match self.get(by)?.signed(message, signature) {
            true => Ok(()),
            false => Err(Distrust::Forged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::tests::bus::Founder;

    #[test]
    fn who_is_asked_for_and_this_node_stay_known_whoever_comes() {
        let founder = Founder::new();
        let own = founder.identity("own");
        let papers = Papers::of_at_most(3, &own);
        let learn = |name: &str| {
            let identity = founder.identity(name);
            papers.learn(identity.certificate()).unwrap();
            node_id(identity.node_id())
        };
        papers.learn(own.certificate()).unwrap();
        let first = learn("first");
        let gone: Vec<_> = (0..5)
            .map(|number| {
                assert!(papers.get(&first).is_ok());
                learn(&format!("n{number}"))
            })
            .collect();
        assert!(papers.get(&node_id(own.node_id())).is_ok());
        assert!(papers.get(&first).is_ok());
        let known: Vec<_> = gone.iter().map(|id| papers.get(id).is_ok()).collect();
        assert_eq!(known, [false, false, false, true, true]);
    }
}
