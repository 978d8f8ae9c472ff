//! Which nodes own a key: the closest by XOR, in each of three levels, worked out once for a view.

use std::sync::Arc;

use crate::{
    Key, NodeId, NodeState, View,
    geo::{names_metro, names_region},
};

/// Owners of a key in each level.
pub const REPLICAS: usize = 3;

/// How far around a node owners are taken from (after Coral, Freedman and Mazières 2003). A holder announces to the owners of its own metro,
/// its own region and the world, and a seeker asks those of its own, so what is near is found near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The nodes that publish the same region and metro.
    Metro,
    /// The nodes that publish the same region.
    Region,
    /// All nodes.
    World,
}

impl Level {
    /// From the nearest to the widest.
    pub const ALL: [Self; 3] = [Self::Metro, Self::Region, Self::World];
}

/// A view with its nodes in the order that makes owners cheap to find: some 32 bytes a node and level.
///
/// A shield owns nothing. Nor does a node that drains or is ill, so that what it knows is with others before it leaves.
#[derive(Debug)]
pub struct Owners {
    view: Arc<View>,
    /// By id, for each of [`Level::ALL`].
    metro: Vec<NodeId>,
    region: Vec<NodeId>,
    world: Vec<NodeId>,
}

impl Owners {
    /// Works a view out: n log n in its nodes, once for each change of it.
    #[must_use]
    pub fn of(view: Arc<View>) -> Self {
        let zone = view.get(&view.me).map(|me| me.zone.clone());
        let able = |node: &&Arc<NodeState>| node.shares_work();
        let ids = |is_in: &dyn Fn(&NodeState) -> bool| {
            let nodes = view.nodes().iter().filter(able);
            nodes
                .filter(|node| is_in(node))
                .map(|node| node.id)
                .collect()
        };
        // Where a node does not know where it stands, neither level tells it anything: it is not near others that do not know either.
        let near = zone.as_ref().filter(|zone| names_region(zone));
        let metro = near.filter(|zone| names_metro(zone));
        Self {
            metro: metro.map_or_else(Vec::new, |zone| ids(&|node| node.zone == *zone)),
            region: near.map_or_else(Vec::new, |zone| {
                ids(&|node| node.zone.region == zone.region)
            }),
            world: ids(&|_| true),
            view,
        }
    }

    /// The view it was worked out from.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The nodes that may own keys in this level, by id.
    #[must_use]
    pub fn members(&self, level: Level) -> &[NodeId] {
        match level {
            Level::Metro => &self.metro,
            Level::Region => &self.region,
            Level::World => &self.world,
        }
    }

    /// The `k` closest nodes to a key in this level, the closest first: the key's owners where `k` is [`REPLICAS`]. Logarithmic in the nodes.
    #[must_use]
    pub fn closest(&self, level: Level, key: &Key, k: usize) -> Vec<NodeId> {
        let mut found = Vec::with_capacity(k.min(self.members(level).len()));
        collect(self.members(level), key, k, &mut found);
        found
    }

    /// The owners of a key in all levels, each once, the nearest level's first: whom a holder announces to. At most three times `k`.
    #[must_use]
    pub fn of_key(&self, key: &Key, k: usize) -> Vec<NodeId> {
        let mut found = Vec::with_capacity(3 * k);
        for level in Level::ALL {
            for id in self.closest(level, key, k) {
                if !found.contains(&id) {
                    found.push(id);
                }
            }
        }
        found
    }
}

fn bit(bytes: &[u8; 32], at: u32) -> bool {
    let byte = usize::try_from(at / 8).ok().and_then(|at| bytes.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
}

/// All of a sorted range share the bits its ends share. At the first that differs it falls into two halves, and everything in the half that has
/// the key's bit is closer to the key than anything in the other. So the closest come out in order; no more than 256 calls deep.
fn collect(sorted: &[NodeId], key: &Key, k: usize, found: &mut Vec<NodeId>) {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return;
    };
    if found.len() >= k {
        return;
    }
    if first == last {
        found.push(*first);
        return;
    }
    let at = first.distance(&Key(last.0)).shared_bits();
    let (zeros, ones) = sorted.split_at(sorted.partition_point(|id| !bit(&id.0, at)));
    let (near, far) = if bit(&key.0, at) {
        (ones, zeros)
    } else {
        (zeros, ones)
    };
    collect(near, key, k, found);
    collect(far, key, k, found);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Zone,
        index::testing::{node, view},
    };

    proptest! {
        #[test]
        fn the_closest_are_those_that_sorting_by_distance_gives(
            // Few distinct first bytes, so that ids share long and short prefixes.
            ids in proptest::collection::vec((0u8..4, any::<u8>(), any::<u8>()), 1..60),
            key in (0u8..4, any::<u8>(), any::<u8>()),
            k in 0usize..9,
        ) {
            let bytes = |(a, b, c): (u8, u8, u8)| {
                let mut bytes = [0; 32];
                (bytes[0], bytes[1], bytes[31]) = (a, b, c);
                bytes
            };
            let key = Key(bytes(key));
            let mut ids: Vec<NodeId> = ids.into_iter().map(|id| NodeId(bytes(id))).collect();
            let owners = Owners::of(view(ids[0], true, ids.iter().map(|id| node(*id, "eu", "fra"))));
            ids.sort_by_key(|id| id.distance(&key));
            ids.dedup();
            ids.truncate(k);
            prop_assert_eq!(owners.closest(Level::World, &key, k), ids);
        }
    }

    #[test]
    fn levels_hold_the_nodes_of_the_same_metro_region_and_world() {
        let id = |n| NodeId([n; 32]);
        let mut leaving = node(id(5), "eu", "fra");
        leaving.draining = true;
        let mut ill = node(id(6), "eu", "fra");
        ill.health = crate::Health::Ill;
        let mut shield = node(id(7), "eu", "fra");
        shield.is_shield = true;
        let nodes = [
            node(id(1), "eu", "fra"),
            node(id(2), "eu", "ams"),
            node(id(3), "us", "fra"),
            node(id(4), "eu", "fra"),
            leaving,
            ill,
            shield,
        ];
        let owners = Owners::of(view(id(1), true, nodes));
        assert_eq!(owners.members(Level::Metro), [id(1), id(4)]);
        assert_eq!(owners.members(Level::Region), [id(1), id(2), id(4)]);
        assert_eq!(owners.members(Level::World), [id(1), id(2), id(3), id(4)]);
        let all = owners.of_key(&Key([2; 32]), REPLICAS);
        // Of 1 and 4, 1 is closer to 2: 3 against 6.
        assert_eq!(all, [id(1), id(4), id(2), id(3)]);
    }

    #[test]
    fn a_node_that_does_not_know_where_it_stands_has_the_world_alone() {
        let id = |n| NodeId([n; 32]);
        let unknown = Zone::unknown();
        for (region, metro) in [("", ""), (&*unknown.region, &*unknown.metro)] {
            let nodes = [node(id(1), region, metro), node(id(2), region, metro)];
            let owners = Owners::of(view(id(1), true, nodes));
            assert!(owners.members(Level::Metro).is_empty());
            assert!(owners.members(Level::Region).is_empty());
            assert_eq!(owners.members(Level::World).len(), 2);
        }
    }
}
