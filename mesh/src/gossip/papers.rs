//! Whose key is whose: the identity certificates of nodes that were heard of, each found to be signed by the cluster's root.
//!
//! So a node's word is believed wherever it came from, and roles and names come from certificates alone. Every look at a key asks again whether its certificate
//! has expired or is revoked, so what changes is felt at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use stoq::identity::{Identity, Papers as Node, Refusal};
use stoq_routing::{Distrust, NodeId, Signature, Signer, Verifier};

/// Certificates kept: 4,096 × some 300 B. Beyond them one makes room that is of no living node as far as can be told here: the one learnt first.
const KNOWN_MAX: usize = 4_096;

/// What is known of the keys of nodes. Cheap to clone; the clones are one.
#[derive(Debug, Clone)]
pub struct Papers {
    identity: Identity,
    known: Arc<RwLock<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<NodeId, (u64, Arc<Node>)>,
    learnt: u64,
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
        Self {
            identity: identity.clone(),
            known: Arc::default(),
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
        let mut known = self.known.write();
        known.learnt += 1;
        let learnt = known.learnt;
        known
            .by_id
            .insert(node_id(papers.node_id), (learnt, Arc::clone(&papers)));
        if known.by_id.len() > KNOWN_MAX {
            let first = known.by_id.iter().min_by_key(|(_, (learnt, _))| *learnt);
            if let Some(first) = first.map(|(id, _)| *id) {
                known.by_id.remove(&first);
            }
        }
        Ok(papers)
    }

    /// What is known of a node, if it is still to be believed.
    ///
    /// # Errors
    /// It is not known, has expired (which is as good as unknown), or is revoked.
    pub fn get(&self, id: &NodeId) -> Result<Arc<Node>, Distrust> {
        let known = self
            .known
            .read()
            .by_id
            .get(id)
            .map(|(_, node)| Arc::clone(node));
        let node = known.ok_or(Distrust::Unknown)?;
        match self.identity.is_current(&node) {
            Ok(()) => Ok(node),
            Err(Refusal::Revoked { .. }) => Err(Distrust::Revoked),
            Err(_) => Err(Distrust::Unknown),
        }
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
