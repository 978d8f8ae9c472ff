//! Nodes and views for the index's own tests.

use std::{net::SocketAddr, sync::Arc};

use crate::{Health, NodeId, NodeState, View, Zone};

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
