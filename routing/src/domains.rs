//! What fails together, and how to choose nodes that do not.
//!
//! Nodes share a domain of failure when they have an address prefix in common (an IPv4 /24 or an IPv6 /48: a rack, a switch, a customer's line), stand in
//! the same metro (power, a cable, a flood), or are in the same network by its number (one operator's mistake). A prefix weighs most
//! and a network least, since that is how often the one takes the other with it.
//!
//! What is not known of a node is not held against it: of two nodes without a network number nobody knows that they share it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{NodeId, NodeState, Zone, geo::names_metro};

/// Partial choices that are looked at for a better one than the first found, each compared with at most 8 nodes.
const STEPS_MAX: u32 = 20_000;

/// Of more nodes than these no better choice is looked for.
const SEARCHED_MAX: usize = 8;

/// Pairs of the chosen that share a domain of failure, of each kind. Ordered by what weighs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Shared {
    /// Pairs with an IPv4 /24 or IPv6 /48 in common.
    pub prefix: u32,
    /// Pairs in one metro.
    pub metro: u32,
    /// Pairs in one network.
    pub network: u32,
}

impl Shared {
    /// Whether no pair shares anything.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn plus(self, other: Self) -> Self {
        Self {
            prefix: self.prefix + other.prefix,
            metro: self.metro + other.metro,
            network: self.network + other.network,
        }
    }
}

/// Nodes chosen to fail apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Which, in the order they were preferred.
    pub chosen: Vec<NodeId>,
    /// What they share all the same, among themselves and with those they were to be apart from.
    pub shared: Shared,
}

/// Chooses `count` of the candidates such that as few as possible share a domain of failure, with each other and with `apart_from` (nodes that hold
/// the same already). Among equals the earlier candidate is taken, so they come in the order of a ranking. Fewer candidates than
/// `count`: all.
///
/// One is taken after the other, each the one that shares least with those before; then, up to 8 nodes, a better choice is searched for within
/// bounds. For up to some 50 candidates and 3 nodes that is the best there is, and where one kind of domain decides it always is; else it may
/// fall short of the best, and `shared` says of what was got.
#[must_use]
pub fn spread(candidates: &[&NodeState], count: usize, apart_from: &[&NodeState]) -> Spread {
    let mut seen = HashSet::new();
    let nodes: Vec<_> = candidates
        .iter()
        .filter(|node| seen.insert(node.id))
        .map(|node| (node.id, Domains::of(node)))
        .collect();
    let fixed: Vec<_> = apart_from.iter().map(|node| Domains::of(node)).collect();
    let choice = Choice {
        alone: nodes
            .iter()
            .map(|(_, node)| node.shared_with(fixed.iter()))
            .collect(),
        nodes: nodes.iter().map(|(_, node)| node).collect(),
    };
    let count = count.min(nodes.len());
    let (mut chosen, mut shared) = choice.one_after_the_other(count);
    if !shared.is_nothing() && count <= SEARCHED_MAX {
        let mut search = Search {
            choice: &choice,
            count,
            steps: 0,
            best: &mut chosen,
            shared: &mut shared,
        };
        search.go_on(&mut Vec::with_capacity(count), 0, Shared::default());
    }
    chosen.sort_unstable();
    let ids = chosen.iter().filter_map(|at| nodes.get(*at));
    Spread {
        chosen: ids.map(|(id, _)| *id).collect(),
        shared,
    }
}

/// Nodes to choose from, by their place in the order of preference.
struct Choice<'a> {
    nodes: Vec<&'a Domains>,
    /// What each shares with those it is to be apart from.
    alone: Vec<Shared>,
}

impl Choice<'_> {
    /// What a node adds to what is shared when it joins these.
    fn cost(&self, at: usize, chosen: &[usize]) -> Shared {
        let (Some(node), Some(alone)) = (self.nodes.get(at), self.alone.get(at)) else {
            return Shared::default();
        };
        let others = chosen.iter().filter_map(|at| self.nodes.get(*at).copied());
        alone.plus(node.shared_with(others))
    }

    fn one_after_the_other(&self, count: usize) -> (Vec<usize>, Shared) {
        let mut chosen = Vec::new();
        let mut shared = Shared::default();
        while chosen.len() < count {
            let left = (0..self.nodes.len()).filter(|at| !chosen.contains(at));
            let costs = left.map(|at| (self.cost(at, &chosen), at));
            let Some((cost, at)) = costs.min() else {
                break;
            };
            chosen.push(at);
            shared = shared.plus(cost);
        }
        (chosen, shared)
    }
}

/// Looks for a choice that shares less, in the order of preference. What is shared only grows with each node, so a partial choice that already
/// shares as much as the best is left.
struct Search<'a> {
    choice: &'a Choice<'a>,
    count: usize,
    steps: u32,
    best: &'a mut Vec<usize>,
    shared: &'a mut Shared,
}

impl Search<'_> {
    fn go_on(&mut self, chosen: &mut Vec<usize>, from: usize, shared: Shared) {
        if chosen.len() == self.count {
            self.best.clone_from(chosen);
            *self.shared = shared;
            return;
        }
        let still = self.count - chosen.len();
        for at in from..=self.choice.nodes.len().saturating_sub(still) {
            self.steps += 1;
            if self.steps > STEPS_MAX || self.shared.is_nothing() {
                return;
            }
            let with = shared.plus(self.choice.cost(at, chosen));
            if with < *self.shared {
                chosen.push(at);
                self.go_on(chosen, at + 1, with);
                chosen.pop();
            }
        }
    }
}

/// What a node may fail with.
#[derive(Debug, Clone)]
struct Domains {
    prefixes: Vec<Prefix>,
    metro: Option<Zone>,
    network: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Domains {
    fn of(node: &NodeState) -> Self {
        let to_nodes = node.addresses.iter().map(std::net::SocketAddr::ip);
        let all = to_nodes.chain(node.public_addresses.iter().copied());
        let mut prefixes: Vec<Prefix> = Vec::new();
        for prefix in all.map(prefix) {
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        let zone = &node.zone;
        Self {
            prefixes,
            metro: names_metro(zone).then(|| zone.clone()),
            network: node.asn,
        }
    }

    fn shared_with<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Shared {
        others
            .map(|other| self.shared(other))
            .fold(Shared::default(), Shared::plus)
    }

    fn shared(&self, other: &Self) -> Shared {
        let prefix = self.prefixes.iter().any(|one| other.prefixes.contains(one));
        let metro = self.metro.is_some() && self.metro == other.metro;
        let network = self.network.is_some() && self.network == other.network;
        Shared {
            prefix: prefix.into(),
            metro: metro.into(),
            network: network.into(),
        }
    }
}

/// An IPv4 address in IPv6 clothes is an IPv4 address.
fn prefix(address: IpAddr) -> Prefix {
    let v4 = |address: Ipv4Addr| {
        let [a, b, c, _] = address.octets();
        Prefix::V4([a, b, c])
    };
    let v6 = |address: Ipv6Addr| {
        let [a, b, c, d, e, f, ..] = address.octets();
        Prefix::V6([a, b, c, d, e, f])
    };
    match address.to_canonical() {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::latency::world::node;

    fn in_domains(number: u32, metro: &str, address: &str, network: u32) -> NodeState {
        NodeState {
            addresses: vec![address.parse().unwrap()],
            asn: Some(network),
            ..node(number, ("eu", metro))
        }
    }

    fn pick(nodes: &[NodeState], count: usize, apart_from: &[&NodeState]) -> (Vec<usize>, Shared) {
        let all: Vec<_> = nodes.iter().collect();
        let spread = spread(&all, count, apart_from);
        let at = |id: &NodeId| nodes.iter().position(|node| node.id == *id).unwrap();
        (spread.chosen.iter().map(at).collect(), spread.shared)
    }

    #[test]
    fn the_chosen_share_nothing_where_they_need_not() {
        let nodes = [
            in_domains(0, "fra", "192.0.2.1:1", 1),
            in_domains(1, "fra", "192.0.2.2:1", 1),
            in_domains(2, "fra", "198.51.100.1:1", 2),
            in_domains(3, "ams", "203.0.113.1:1", 1),
            in_domains(4, "lon", "203.0.113.2:1", 3),
            in_domains(5, "lon", "[2001:db8:1::1]:1", 3),
        ];
        assert_eq!(pick(&nodes, 2, &[]), (vec![0, 4], Shared::default()));
        // The first is left where others share less.
        assert_eq!(pick(&nodes, 3, &[]), (vec![2, 3, 5], Shared::default()));
        // A third metro that shares a network is better than the same metro.
        let network = Shared {
            network: 1,
            ..Shared::default()
        };
        assert_eq!(pick(&nodes[3..], 2, &[&nodes[0]]).1, network);
        // What holds it already counts as chosen.
        assert_eq!(pick(&nodes, 1, &[&nodes[0]]), (vec![4], Shared::default()));
    }

    #[test]
    fn where_all_share_something_the_preferred_are_taken_and_it_is_said() {
        let nodes: Vec<_> = (0..4)
            .map(|number| in_domains(number, "fra", &format!("127.0.0.1:{}", number + 1), 9))
            .collect();
        let pairs = Shared {
            prefix: 3,
            metro: 3,
            network: 3,
        };
        assert_eq!(pick(&nodes, 3, &[]), (vec![0, 1, 2], pairs));
        assert_eq!(pick(&nodes, 9, &[]).0, [0, 1, 2, 3]);
        assert_eq!(pick(&nodes, 0, &[]), (vec![], Shared::default()));
        assert_eq!(pick(&[], 3, &[]), (vec![], Shared::default()));
    }

    #[test]
    fn a_node_named_twice_is_chosen_once() {
        let one = in_domains(0, "fra", "192.0.2.1:1", 1);
        let spread = spread(&[&one, &one, &one], 3, &[]);
        assert_eq!(spread.chosen, [one.id]);
        assert!(spread.shared.is_nothing());
    }

    #[test]
    fn prefixes_are_24_and_48_bits_and_clothes_do_not_matter() {
        let shares = |one: &str, other: &str| {
            let one = in_domains(0, "fra", one, 1);
            let other = in_domains(1, "ams", other, 2);
            Domains::of(&one).shared(&Domains::of(&other)).prefix == 1
        };
        assert!(shares("192.0.2.1:1", "192.0.2.255:2"));
        assert!(!shares("192.0.2.1:1", "192.0.3.1:1"));
        assert!(shares("[::ffff:192.0.2.9]:1", "192.0.2.1:1"));
        assert!(shares("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"));
        assert!(!shares("[2001:db8:1::1]:1", "[2001:db8:2::1]:1"));
    }

    #[test]
    fn what_nodes_do_not_say_they_do_not_share() {
        let (one, other) = (node(0, ("world", "any")), node(1, ("world", "any")));
        assert!(Domains::of(&one).shared(&Domains::of(&other)).is_nothing());
        let (one, other) = (node(0, ("eu", "any")), node(1, ("eu", "any")));
        assert!(Domains::of(&one).shared(&Domains::of(&other)).is_nothing());
    }

    /// The least that any choice of `count` shares.
    fn least(nodes: &[NodeState], count: usize) -> Shared {
        let domains: Vec<_> = nodes.iter().map(Domains::of).collect();
        (0_u32..1 << nodes.len())
            .filter(|set| set.count_ones() as usize == count)
            .map(|set| {
                let chosen: Vec<_> = (0..nodes.len()).filter(|at| set >> at & 1 == 1).collect();
                let mut shared = Shared::default();
                for (nth, one) in chosen.iter().enumerate() {
                    for other in &chosen[..nth] {
                        shared = shared.plus(domains[*one].shared(&domains[*other]));
                    }
                }
                shared
            })
            .min()
            .unwrap()
    }

    fn some_nodes() -> impl Strategy<Value = Vec<NodeState>> {
        let node = (0_u8..4, 0_u8..6, 0_u32..4);
        proptest::collection::vec(node, 1..9).prop_map(|said| {
            let nodes = said.into_iter().zip(0..);
            nodes
                .map(|((metro, prefix, network), number)| {
                    let address = format!("10.0.{prefix}.{number}:1");
                    in_domains(number, &format!("m{metro}"), &address, network)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn by_metro_alone_the_choice_is_the_best_there_is(mut nodes in some_nodes(), count in 1_usize..6) {
            for (at, node) in nodes.iter_mut().enumerate() {
                node.addresses = vec![format!("10.1.{at}.1:1").parse().unwrap()];
                node.asn = None;
            }
            let count = count.min(nodes.len());
            let (chosen, shared) = pick(&nodes, count, &[]);
            prop_assert_eq!(chosen.len(), count);
            prop_assert_eq!(shared, least(&nodes, count));
        }

        #[test]
        fn of_few_with_all_kinds_it_is_the_best_there_is(nodes in some_nodes(), count in 1_usize..5) {
            let count = count.min(nodes.len());
            let (chosen, shared) = pick(&nodes, count, &[]);
            prop_assert_eq!(chosen.len(), count);
            prop_assert_eq!(shared, least(&nodes, count));
        }
    }
}
