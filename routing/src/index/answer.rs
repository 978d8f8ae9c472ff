//! Which holders an owner names, of those it knows, and which nodes closer to the key.

use std::{cmp::Reverse, time::Duration};

use super::{
    owners::{Level, Owners},
    record::{Answer, CLOSER_MAX, Contact, PROVIDERS_MAX, Provider, Record, WHOLE},
    table::Table,
};
use crate::{Health, Key, NodeId, View};

/// What a node answers `from`, who asks for the providers of a key: `own` is what it holds of it itself, which it knows before it has told itself.
#[must_use]
pub fn answer(
    owners: &Owners,
    own: Option<Record>,
    table: &Table,
    from: &NodeId,
    key: &Key,
    wide: bool,
    now: Duration,
) -> Answer {
    let me = owners.view().me;
    let others = table.holders(key, now).filter(|(holder, _)| *holder != me);
    let holders = own.map(|record| (me, record)).into_iter().chain(others);
    let providers = providers(holders, owners.view(), from, wide);
    Answer {
        closer: if wide && providers.is_empty() {
            closer(owners, key, from)
        } else {
            Vec::new()
        },
        providers,
    }
}

/// The holders to name to a node that asks, of which each is given once: those that can serve before those that cannot, those of its metro before those of its region before the rest, whole
/// before partial. Of equal ones each asker is named others, so that not all go to the same.
fn providers(
    holders: impl Iterator<Item = (NodeId, Record)>,
    view: &View,
    from: &NodeId,
    wide: bool,
) -> Vec<Provider> {
    let zone = view.get(from).map(|node| &node.zone);
    let order = |holder: &NodeId, record: &Record| {
        let node = view.get(holder);
        let is_able = node.is_some_and(|node| !node.draining && node.health != Health::Ill);
        let nearness = match (zone, node.map(|node| &node.zone)) {
            (Some(here), Some(there)) if here == there => 0u8,
            (Some(here), Some(there)) if here.region == there.region => 1,
            _ => 2,
        };
        let spread = holder.distance(&Key(from.0));
        (!is_able, nearness, Reverse(record.fraction), spread)
    };
    let mut known: Vec<_> = holders
        .filter(|(holder, _)| holder != from)
        // Who is not seen where all are seen is dead.
        .filter(|(holder, _)| !view.complete || view.get(holder).is_some())
        .map(|(holder, record)| (order(&holder, &record), holder, record))
        .collect();
    known.sort_unstable_by_key(|(order, _, _)| *order);
    known.truncate(PROVIDERS_MAX);
    let provider = |(_, holder, record): (_, NodeId, Record)| Provider {
        holder,
        addresses: if wide {
            view.get(&holder)
                .map(|node| node.addresses.clone())
                .unwrap_or_default()
        } else {
            Vec::new()
        },
        manifest: record.manifest,
        fraction: record.fraction.clamp(1, WHOLE),
        generation: record.generation,
    };
    known.into_iter().map(provider).collect()
}

/// The nodes closest to a key that this node knows and that are closer than it is.
fn closer(owners: &Owners, key: &Key, from: &NodeId) -> Vec<Contact> {
    let view = owners.view();
    let own = view.me.distance(key);
    let contact = |id: &NodeId| Contact {
        id: *id,
        addresses: view
            .get(id)
            .map(|node| node.addresses.clone())
            .unwrap_or_default(),
    };
    owners
        .closest(Level::World, key, CLOSER_MAX)
        .iter()
        .filter(|id| *id != from && id.distance(key) < own)
        .map(contact)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{node, view};

    fn id(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn record(fraction: u8) -> Record {
        Record {
            key: Key([0; 32]),
            manifest: [1; 32],
            fraction,
            generation: 1,
        }
    }

    fn named(view: &View, holders: &[(u8, u8)], wide: bool) -> Vec<u8> {
        let holders = holders
            .iter()
            .map(|(holder, fraction)| (id(*holder), record(*fraction)));
        let providers = providers(holders, view, &id(1), wide);
        providers
            .iter()
            .map(|provider| provider.holder.0[0])
            .collect()
    }

    #[test]
    fn near_and_whole_holders_that_serve_are_named_first_and_dead_ones_not() {
        let mut leaving = node(id(2), "eu", "fra");
        leaving.draining = true;
        let nodes = [
            node(id(1), "eu", "fra"),
            leaving,
            node(id(3), "us", "nyc"),
            node(id(4), "eu", "ams"),
            node(id(5), "eu", "fra"),
            node(id(6), "eu", "fra"),
        ];
        let view = view(id(9), true, nodes);
        let holders = [
            (1, 255),
            (2, 255),
            (3, 255),
            (4, 255),
            (5, 9),
            (6, 255),
            (7, 255),
        ];
        assert_eq!(named(&view, &holders, false), [6, 5, 4, 3, 2]);
    }

    #[test]
    fn of_many_holders_different_askers_are_named_different_ones() {
        let nodes = (1..=200).map(|n| node(id(n), "eu", "fra"));
        let view = view(id(9), true, nodes);
        let holders = || (1..=200).map(|n| (id(n), record(WHOLE)));
        let to = |asker: u8| -> Vec<NodeId> {
            let named = providers(holders(), &view, &id(asker), false);
            named.iter().map(|provider| provider.holder).collect()
        };
        assert_eq!(to(3).len(), PROVIDERS_MAX);
        assert!(!to(3).iter().any(|holder| to(100).contains(holder)));
    }

    #[test]
    fn who_may_not_see_all_is_told_where_nodes_are_and_closer_ones() {
        let nodes = (1..=20).map(|n| node(id(n), "", ""));
        let owners = Owners::of(view(id(9), true, nodes));
        let closer = closer(&owners, &Key([0; 32]), &id(2));
        let ids: Vec<u8> = closer.iter().map(|contact| contact.id.0[0]).collect();
        assert_eq!(ids, [1, 3, 4, 5, 6, 7, 8]);
        assert!(closer.iter().all(|contact| contact.addresses.len() == 1));
        let holders = [(id(3), record(1))].into_iter();
        let named = providers(holders, owners.view(), &id(1), true);
        assert_eq!(named[0].addresses, closer[0].addresses);
    }
}
