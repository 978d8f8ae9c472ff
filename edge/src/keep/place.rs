//! Small objects are put where the other edges of the metro ask for them: at their homes.
//!
//! The index has no record of a small object that was asked for once; a miss asks the object's home in the metro. So what an edge has fetched for a client it has the home keep as well, a
//! few seconds later, with what else is new for that home. In a mesh so small that the neighbours themselves are asked nothing is put anywhere, nor of a site whose bytes may not be
//! everywhere, for the same reason. Without a shield only that is put for which somebody vouches: of all else the home would ask the origin, and nobody could take it from there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stoq::pool::Pool;
use stoq_mesh::gossip::Gossip;
use stoq_mesh::index::asks_homes;
use stoq_mesh::keep::Object;
use stoq_routing::index::Worth;
use stoq_routing::{Key, Membership, NodeId, Placement};
use tokio::time::{MissedTickBehavior, interval};

use super::lanes::Tellings;
use super::tell::Teller;

/// How often homes are told: every 2 s. What is new is told at the second look, when it has been stored.
const LOOK: Duration = Duration::from_secs(2);

/// How long one has to fetch what it is told of at a time: 20 s.
const WITHIN: Duration = Duration::from_secs(20);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Place {
    teller: Arc<Teller>,
    /// Whether a shield answers for all that edges take from each other.
    shielded: bool,
}

impl Place {
    /// By this teller, of an edge behind a shield or not.
    pub(super) const fn new(teller: Arc<Teller>, shielded: bool) -> Self {
        Self { teller, shielded }
    }

    /// Looks again and again. Never ends.
    pub(crate) async fn run(&self, gossip: &Gossip, pool: &Pool) {
        let large = Worth::default().bytes_min;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut new = Vec::new();
        let mut tellings = Tellings::new(&self.teller, gossip, pool, WITHIN);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                never = tellings.go_on() => match never {},
            }
            let view = gossip.view();
            let before = std::mem::replace(&mut new, self.teller.take_new());
            if before.is_empty() || !asks_homes(&view) {
                continue;
            }
            let placement = Placement::new(&view);
            let mut lists: HashMap<NodeId, Vec<Object>> = HashMap::new();
            for held in self.teller.held(before).await {
                let home = placement.home(&Key(*held.key.as_bytes()));
                if held.bytes < large
                    && !self.teller.is_bound(held.site)
                    && (self.shielded || self.teller.has_word_for(&held).await)
                    && let Some(home) = home.filter(|home| *home != view.me)
                {
                    lists.entry(home).or_default().push(held.object);
                }
            }
            for (home, objects) in lists {
                tellings.tell(home, objects);
            }
        }
    }
}
