//! Whom to ask for small objects, so that no node of the metro is asked for much more than its share.
//!
//! Each node bounds what it sends itself, by its own counts, which are exact and of this moment; what others say of their load is old when it
//! arrives, and all who act on it at once make it wrong. It adds up: when nobody sends a node more than 1.25 times its mean, all of them
//! together do not either.
//!
//! A home that has enough turns its hot keys away first. A hot object on two nodes costs one more copy; a cold one that goes now here, now there is
//! missed each time.

mod hot;

use std::time::Duration;

use hot::HotKeys;

use super::{Placement, weight};
use crate::{Key, NodeId, View};

/// What counts is of the last while: after so long it counts half.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// How often the counts are let fade: a pass over the nodes and the counts of keys.
const FADE_EVERY: Duration = Duration::from_secs(1);

/// The share of a node's mean from which a key is hot: of ten nodes, a two-hundredth of all that is sent.
const HOT_SHARE: f64 = 0.05;

/// How much of the room above the mean is for cold keys alone.
const COLD_ROOM: f64 = 0.4;

/// The bound on what goes to one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Times the mean of all. Default 1.25; below 1 is read as 1.
    pub factor: f64,
    /// What may go to a node in any case, in the caller's units (a request each, or bytes) over the last 10 s or so: of little, an uneven
    /// share harms nobody and a copy elsewhere does. Default 64.
    pub floor: f64,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            factor: 1.25,
            floor: 64.0,
        }
    }
}

/// Places keys on the nodes of a metro and keeps count. 32 KiB and 8 bytes a node.
#[derive(Debug, Clone)]
pub struct Placer {
    bound: Bound,
    placement: Placement,
    /// What was sent to each node of the placement, in its order.
    sent: Vec<f64>,
    hot: HotKeys,
    faded: Duration,
}

impl Placer {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(view: &View, bound: Bound, now: Duration) -> Self {
        let placement = Placement::new(view);
        Self {
            bound,
            sent: vec![0.0; placement.len()],
            placement,
            hot: HotKeys::new(),
            faded: now,
        }
    }

    /// The members changed. What was sent to those that stay still counts.
    pub fn update(&mut self, view: &View) {
        let before = std::mem::replace(&mut self.placement, Placement::new(view));
        let sent = std::mem::take(&mut self.sent);
        let was = |id: &NodeId| {
            // By id, as the view has them.
            let at = before.nodes.binary_search_by_key(id, |node| node.id).ok()?;
            sent.get(at).copied()
        };
        let nodes = self.placement.nodes.iter();
        self.sent = nodes.map(|node| was(&node.id).unwrap_or(0.0)).collect();
    }

    /// Whom it places keys on.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Where to ask for a key, which is counted as `cost` sent there (no number, or less than nothing, counts as nothing). None where the metro
    /// has nobody that serves. Two passes over the metro's nodes, a hash of 64 bytes each.
    pub fn place(&mut self, key: &Key, cost: f64, now: Duration) -> Option<NodeId> {
        self.fade(now);
        let cost = if cost.is_finite() { cost.max(0.0) } else { 0.0 };
        let of_key = self.hot.add(key, cost);
        let open = || {
            let nodes = self.placement.nodes.iter().zip(&self.sent).enumerate();
            nodes.filter(|(_, (node, _))| !node.is_full)
        };
        let (mut total, mut nodes) = (0.0, 0.0);
        for (_, (_, sent)) in open() {
            total += sent;
            nodes += 1.0;
        }
        let mean = (total + cost) / f64::max(nodes, 1.0);
        let above = self.bound.factor.max(1.0) - 1.0;
        let room = if of_key > HOT_SHARE * mean {
            above * (1.0 - COLD_ROOM)
        } else {
            above
        };
        let limit = (mean * (1.0 + room)).max(self.bound.floor);
        let weighed =
            |(at, (node, _)): (usize, (&super::Member, &f64))| (weight(&node.id, key), node.id, at);
        let fits = open().filter(|(_, (_, sent))| **sent + cost <= limit);
        let all = || self.placement.nodes.iter().zip(&self.sent).enumerate();
        let (_, id, at) = fits
            .map(weighed)
            .max()
            // One request above all that is sent: it fits nowhere, so it may as well go home.
            .or_else(|| open().map(weighed).max())
            .or_else(|| all().map(weighed).max())?;
        if let Some(sent) = self.sent.get_mut(at) {
            *sent += cost;
        }
        Some(id)
    }

    fn fade(&mut self, now: Duration) {
        let since = now.saturating_sub(self.faded);
        if since < FADE_EVERY {
            return;
        }
        self.faded = now;
        let keeps = 0.5_f64.powf(since.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.sent.iter_mut().for_each(|sent| *sent *= keeps);
        self.hot.fade(keeps);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        NodeState,
        latency::world::{node, seed, view},
    };

    fn metro(count: u32) -> Vec<NodeState> {
        (0..count)
            .map(|number| node(number, ("eu", "fra")))
            .collect()
    }

    #[test]
    fn what_is_little_goes_home_and_what_is_more_is_turned_away() {
        let nodes = metro(4);
        let mut placer = Placer::new(&view(&nodes), Bound::default(), Duration::ZERO);
        let key = Key([9; 32]);
        let order = placer.placement().order(&key, 4);
        for _ in 0..64 {
            assert_eq!(placer.place(&key, 1.0, Duration::ZERO), Some(order[0]));
        }
        assert_eq!(placer.place(&key, 1.0, Duration::ZERO), Some(order[1]));
        // After a while it is forgotten.
        let later = Duration::from_secs(120);
        assert_eq!(placer.place(&key, 1.0, later), Some(order[0]));
        // What fits nowhere goes home, and numbers that are none count nothing.
        assert_eq!(placer.place(&key, 1e12, later), Some(order[0]));
        assert!(placer.place(&key, f64::NAN, later).is_some());
        assert!(placer.place(&key, -1e15, later).is_some());
        assert!(
            placer
                .sent
                .iter()
                .all(|sent| sent.is_finite() && *sent >= 0.0)
        );
    }

    #[test]
    fn what_was_sent_to_those_that_stay_counts_on() {
        let mut rng = StdRng::seed_from_u64(seed(44));
        let nodes = metro(6);
        let mut placer = Placer::new(&view(&nodes), Bound::default(), Duration::ZERO);
        for _ in 0..5_000 {
            placer.place(&Key(rng.random()), 1.0, Duration::ZERO);
        }
        assert_eq!(placer.sent.len(), 6);
        placer.update(&view(&nodes[..3]));
        assert_eq!(placer.sent.len(), 3);
        assert_eq!(placer.placement().len(), 3);
    }
}
