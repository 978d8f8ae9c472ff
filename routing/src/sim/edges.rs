//! The edges of a scenario: what each says of itself, and what each sees of the others.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rand::{SeedableRng, rngs::StdRng};

use super::{Matrix, draw};
use crate::{Health, NodeId, NodeState, Position, View, Zone};

/// Edges on a matrix, their ids drawn at random. They are named by their places in it.
#[derive(Debug)]
pub struct Edges {
    states: Vec<Arc<NodeState>>,
    places: HashMap<NodeId, usize>,
}

impl Edges {
    /// An edge for each node of a matrix.
    #[must_use]
    pub fn new(matrix: &Matrix, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let states: Vec<_> = (0..matrix.nodes())
            .map(|at| Arc::new(state(at, NodeId(draw::point(&mut rng)), matrix)))
            .collect();
        Self {
            places: states
                .iter()
                .enumerate()
                .map(|(at, state)| (state.id, at))
                .collect(),
            states,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The ids, by place.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.states.iter().map(|state| state.id).collect()
    }

    /// What an edge says of itself.
    ///
    /// # Panics
    /// Where there is no such edge.
    #[must_use]
    pub fn state(&self, edge: usize) -> &Arc<NodeState> {
        &self.states[edge]
    }

    /// Lets an edge say something else of itself from now on.
    ///
    /// # Panics
    /// Where there is no such edge.
    pub fn change(&mut self, edge: usize, change: impl FnOnce(&mut NodeState)) {
        change(Arc::make_mut(&mut self.states[edge]));
    }

    /// The place of a node, where it is one of these.
    #[must_use]
    pub fn place(&self, id: &NodeId) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// What `me` sees when it sees those that `seen` is true of, and itself.
    ///
    /// # Panics
    /// Where there is no such edge.
    #[must_use]
    pub fn view(&self, me: usize, generation: u64, seen: impl Fn(usize) -> bool) -> View {
        let nodes = self.states.iter().enumerate();
        let nodes = nodes.filter(|(at, _)| *at == me || seen(*at));
        View::new(
            self.states[me].id,
            generation,
            true,
            nodes.map(|(_, state)| Arc::clone(state)),
        )
    }
}

fn state(at: usize, id: NodeId, matrix: &Matrix) -> NodeState {
    let place = matrix.place(at);
    // 10.0.0.0/8 has room for all, each in a prefix of its own.
    let [.., high, low] = at.to_be_bytes();
    let address = Ipv4Addr::new(10, high, low, 1);
    NodeState {
        id,
        name: format!("{}-{}-{at}", place.region, place.metro),
        addresses: vec![SocketAddr::from((address, 4433))],
        public_names: Vec::new(),
        public_addresses: Vec::new(),
        zone: Zone {
            region: place.region.clone(),
            metro: place.metro.clone(),
        },
        position: place.position.map(|(latitude, longitude)| Position {
            latitude,
            longitude,
        }),
        coordinates: None,
        asn: None,
        load: 0.0,
        capacity: 1 << 30,
        health: Health::Well,
        draining: false,
        is_shield: false,
        software: String::new(),
        schema: 1,
        purge_marks: Vec::new(),
    }
}
