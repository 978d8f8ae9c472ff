//! Which edge of the metro a small object is asked of that the index says nothing about.
//!
//! Small objects that are asked for once carry no record. Each has a home in the metro, the same for all who ask there (rendezvous hashing with bounded load), and a miss asks it beside the index: so it costs a message and no
//! time, since a search that names nobody has asked other nodes as well. The home says what it has stored, and asks nobody: an ask never travels further. Of an object that all edges of a metro are asked for
//! in some order, those after its home find it there.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_routing::{Bound, Key, Placer, View};
use tokio::time::Instant;

/// Edges of a metro, this one included, from which on homes are asked. In smaller ones the neighbours are.
const EDGES_MIN: usize = 2;

/// Places the misses of one process.
#[derive(Debug, Default)]
pub(super) struct Homes(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    placer: Placer,
    /// Of the view that it is of.
    generation: u64,
    began: Instant,
}

impl Homes {
    /// Where the key's home is; `None` where that is this node, or nobody.
    pub(super) fn of(&self, view: &View, key: &Key) -> Option<SocketAddr> {
        let mut state = self.0.lock();
        let state = state.get_or_insert_with(|| State {
            placer: Placer::new(view, Bound::default(), Duration::ZERO),
            generation: view.generation,
            began: Instant::now(),
        });
        if state.generation != view.generation {
            state.placer.update(view);
            state.generation = view.generation;
        }
        if state.placer.placement().len() < EDGES_MIN {
            return None;
        }
        let home = state.placer.place(key, 1.0, state.began.elapsed())?;
        let node = view.get(&home).filter(|node| node.id != view.me)?;
        node.addresses.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stoq_routing::{NodeId, NodeState};

    use super::*;

    fn view(generation: u64, me: u8, zones: &[&str]) -> View {
        let nodes = (0_u8..).zip(zones).map(|(number, zone)| {
            let id = NodeId([number; 32]);
            let mut node = NodeState::new(id, number.to_string(), zone.parse().unwrap());
            node.addresses = vec![SocketAddr::from(([10, number, 0, 1], 1))];
            Arc::new(node)
        });
        View::new(NodeId([me; 32]), generation, true, nodes)
    }

    #[test]
    fn all_who_ask_in_a_metro_ask_the_same_and_nobody_himself_or_elsewhere() {
        let zones = ["eu-fra", "eu-fra", "eu-fra", "us-nyc"];
        let ask = |me: u8, key: &Key| Homes::default().of(&view(1, me, &zones), key);
        for number in 0..40 {
            let key = Key([number; 32]);
            let mut asked: Vec<_> = (0..3).filter_map(|me| ask(me, &key)).collect();
            assert_eq!(asked.len(), 2, "two ask the third");
            asked.dedup();
            assert_eq!(asked.len(), 1);
            assert_ne!(asked[0].ip().to_string(), "10.3.0.1");
            assert_eq!(ask(3, &key), None, "it is alone in its metro");
        }
    }

    #[test]
    fn an_edge_that_has_left_is_asked_for_nothing() {
        let homes = Homes::default();
        let three = ["eu-fra", "eu-fra", "eu-fra"];
        for number in 0..40 {
            homes.of(&view(1, 0, &three), &Key([number; 32]));
        }
        for number in 0..40 {
            let home = homes.of(&view(2, 0, &three[..2]), &Key([number; 32]));
            let home = home.map(|addr| addr.ip().to_string());
            assert!(
                matches!(home.as_deref(), None | Some("10.1.0.1")),
                "{home:?}"
            );
        }
    }
}
