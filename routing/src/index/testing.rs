//! Nodes, views and trust for the index's own tests.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    Distrust, Health, NodeId, NodeState, SIGNATURE_BYTES, Signature, Signer, Verifier, View, Zone,
};

/// A node that is well, in this zone.
pub(crate) fn node(id: NodeId, region: &str, metro: &str) -> NodeState {
    NodeState {
        id,
        name: format!("{id:?}"),
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4433))],
        public_names: Vec::new(),
        public_addresses: Vec::new(),
        zone: Zone {
            region: region.to_owned(),
            metro: metro.to_owned(),
        },
        position: None,
        coordinates: None,
        asn: None,
        load: 0.0,
        capacity: 0,
        health: Health::Well,
        draining: false,
        is_shield: false,
        software: String::new(),
        schema: 1,
        purge_marks: Vec::new(),
    }
}

/// What `me` sees.
pub(crate) fn view(
    me: NodeId,
    complete: bool,
    nodes: impl IntoIterator<Item = NodeState>,
) -> Arc<View> {
    Arc::new(View::new(me, 1, complete, nodes.into_iter().map(Arc::new)))
}

/// Signs with a hash that only knows who signs: enough to tell one from another.
#[derive(Debug)]
pub(crate) struct Pen(pub(crate) NodeId);

fn signature(by: &NodeId, message: &[u8]) -> Signature {
    let mut signature = [0; SIGNATURE_BYTES];
    let mut hasher = blake3::Hasher::new_keyed(&by.0);
    hasher.update(message);
    hasher.finalize_xof().fill(&mut signature);
    signature
}

impl Signer for Pen {
    fn id(&self) -> NodeId {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        signature(&self.0, message)
    }
}

/// Knows everybody but these.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    pub(crate) unknown: Vec<NodeId>,
    pub(crate) revoked: Vec<NodeId>,
}

impl Verifier for Trust {
    fn verify(&self, by: &NodeId, message: &[u8], given: &Signature) -> Result<(), Distrust> {
        if self.unknown.contains(by) {
            return Err(Distrust::Unknown);
        }
        if self.revoked.contains(by) {
            return Err(Distrust::Revoked);
        }
        if signature(by, message) != *given {
            return Err(Distrust::Forged);
        }
        Ok(())
    }
}
