//! How many keys move, how even the load is, and that a drain hands each key to where it is looked for.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::latency::world::{node, seed, view};

fn metro(count: u32) -> Vec<NodeState> {
    (0..count)
        .map(|number| node(number, ("eu", "fra")))
        .collect()
}

fn keys(count: usize, rng: &mut StdRng) -> Vec<Key> {
    (0..count).map(|_| Key(rng.random())).collect()
}

/// Which of `count` things is asked for, after Zipf with this exponent: the cumulated weights are searched.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=count).map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        });
        Self(cumulated.collect())
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        let at = rng.random_range(0.0..*self.0.last().unwrap());
        self.0.partition_point(|sum| *sum <= at)
    }
}

#[test]
fn the_weight_of_a_key_is_what_nodes_of_all_versions_agree_on() {
    assert_eq!(
        weight(&NodeId([1; 32]), &Key([2; 32])),
        4_513_886_966_457_657_030
    );
    assert_ne!(
        weight(&NodeId([1; 32]), &Key([2; 32])),
        weight(&NodeId([2; 32]), &Key([1; 32]))
    );
}

#[test]
fn when_one_of_ten_leaves_at_most_eleven_percent_of_the_keys_move_and_only_its_own() {
    let mut rng = StdRng::seed_from_u64(seed(41));
    let nodes = metro(10);
    let keys = keys(100_000, &mut rng);
    let before = Placement::new(&view(&nodes));
    let gone = nodes[9].id;
    let after = Placement::new(&view(&nodes[..9]));
    let mut moved = 0;
    let mut gained = HashMap::new();
    for key in &keys {
        let (was, is) = (before.home(key).unwrap(), after.home(key).unwrap());
        if was != is {
            assert_eq!(was, gone, "a key of a node that stayed moved");
            assert_eq!(
                before.order(key, 2)[1],
                is,
                "it goes to the next of its order"
            );
            moved += 1;
            *gained.entry(is).or_insert(0) += 1;
        }
    }
    let share = f64::from(moved) / 100_000.0;
    println!(
        "{:.2} % of 100,000 keys moved, to {} nodes",
        share * 100.0,
        gained.len()
    );
    assert!((0.09..=0.11).contains(&share), "{share}");
    assert_eq!(gained.len(), 9);
}

/// Several nodes of a metro ask it for keys after Zipf 0.9, at times that differ by chance.
struct Load {
    /// Requests to each node, the first tenth left out.
    requests: HashMap<NodeId, u32>,
    /// And by whichever had them of each key.
    of_key: HashMap<usize, HashMap<NodeId, u32>>,
}

impl Load {
    fn run(nodes: &[NodeState], askers: usize, keys: &[Key], bound: Bound, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let zipf = Zipf::new(u32::try_from(keys.len()).unwrap(), 0.9);
        let view = view(nodes);
        let mut placers = vec![Placer::new(&view, bound, Duration::ZERO); askers];
        let mut now = Duration::ZERO;
        let mut load = Self {
            requests: HashMap::new(),
            of_key: HashMap::new(),
        };
        let count = 120_000;
        for request in 0..count {
            // 4,000 a second over all.
            now += Duration::from_micros(250);
            let key = zipf.draw(&mut rng);
            let asker = rng.random_range(0..askers);
            let node = placers[asker].place(&keys[key], 1.0, now).unwrap();
            if request >= count / 10 {
                *load.requests.entry(node).or_insert(0) += 1;
                let of_key = load.of_key.entry(key).or_default();
                *of_key.entry(node).or_insert(0) += 1;
            }
        }
        load
    }

    fn max_to_mean(&self, nodes: usize) -> f64 {
        let sum: u32 = self.requests.values().sum();
        f64::from(*self.requests.values().max().unwrap()) * nodes as f64 / f64::from(sum)
    }

    /// Share of the requests that went to where the key's requests mostly go: what a cache there can hit.
    fn to_the_usual(&self) -> f64 {
        let all: u32 = self.requests.values().sum();
        let usual: u32 = self
            .of_key
            .values()
            .filter_map(|nodes| nodes.values().max())
            .sum();
        f64::from(usual) / f64::from(all)
    }

    /// Copies that a key has on average.
    fn copies(&self) -> f64 {
        let copies: usize = self.of_key.values().map(HashMap::len).sum();
        copies as f64 / self.of_key.len() as f64
    }

    fn usual(&self, key: usize) -> Option<NodeId> {
        let nodes = self.of_key.get(&key)?;
        nodes
            .iter()
            .max_by_key(|(id, count)| (**count, **id))
            .map(|(id, _)| *id)
    }
}

#[test]
fn under_zipf_no_node_has_more_than_1_3_times_the_mean() {
    let seed = seed(42);
    let keys = keys(10_000, &mut StdRng::seed_from_u64(seed));
    let unbounded = Bound {
        factor: f64::INFINITY,
        ..Bound::default()
    };
    println!("10,000 keys, Zipf 0.9, 4,000 requests a second");
    for (count, askers) in [(10, 1), (10, 10), (50, 5)] {
        let nodes = metro(count);
        let free = Load::run(&nodes, askers, &keys, unbounded, seed);
        let bounded = Load::run(&nodes, askers, &keys, Bound::default(), seed);
        let max_to_mean = bounded.max_to_mean(nodes.len());
        println!(
            "{count} nodes, {askers} askers: max/mean {:.2} without the bound, {max_to_mean:.2} with it; \
             copies of a key {:.2}; {:.1} % of requests to the usual node of their key",
            free.max_to_mean(nodes.len()),
            bounded.copies(),
            bounded.to_the_usual() * 100.0,
        );
        assert!((free.copies() - 1.0).abs() < 1e-9);
        assert!(
            max_to_mean <= 1.3,
            "{count} nodes, {askers} askers: {max_to_mean}"
        );
    }
}

#[test]
fn under_zipf_and_the_bound_too_few_keys_move_when_one_of_ten_leaves() {
    let seed = seed(43);
    let keys = keys(10_000, &mut StdRng::seed_from_u64(seed));
    let nodes = metro(10);
    let before = Load::run(&nodes, 1, &keys, Bound::default(), seed);
    let after = Load::run(&nodes[..9], 1, &keys, Bound::default(), seed);
    let both =
        (0..keys.len()).filter(|key| before.usual(*key).is_some() && after.usual(*key).is_some());
    let (mut moved, mut all) = (0, 0);
    for key in both {
        all += 1;
        moved += u32::from(before.usual(key) != after.usual(key));
    }
    let share = f64::from(moved) / f64::from(all);
    println!(
        "{:.2} % of {all} keys have another usual node",
        share * 100.0
    );
    assert!(share <= 0.11, "{share}");
}

#[test]
fn given_loads_a_key_goes_to_the_first_of_its_order_that_is_not_above_the_bound() {
    let mut nodes = metro(5);
    let key = Key([5; 32]);
    let placement = Placement::new(&view(&nodes));
    let order = placement.order(&key, 5);
    let place = |loads: [f64; 5]| {
        let load = |id: &NodeId| loads[order.iter().position(|it| it == id).unwrap()];
        placement.place(&key, 1.25, load).unwrap()
    };
    assert_eq!(place([0.0; 5]), order[0]);
    assert_eq!(place([0.5; 5]), order[0]);
    assert_eq!(place([1.2, 1.0, 1.0, 1.0, 0.8]), order[0]);
    assert_eq!(place([1.3, 1.0, 1.0, 1.0, 0.7]), order[1]);
    assert_eq!(place([2.0, 2.0, 0.4, 0.4, 0.2]), order[2]);
    // One that says it is nearly full is passed over, unless all are.
    for node in &mut nodes {
        node.load = if node.id == order[0] { 0.95 } else { 0.1 };
    }
    let idle = |_: &NodeId| 0.0;
    let placement = Placement::new(&view(&nodes));
    assert_eq!(placement.place(&key, 1.25, idle), Some(order[1]));
    assert_eq!(placement.home(&key), Some(order[0]));
    nodes.iter_mut().for_each(|node| node.load = 1.0);
    let placement = Placement::new(&view(&nodes));
    assert_eq!(placement.place(&key, 1.25, idle), Some(order[0]));
}

#[test]
fn only_nodes_of_the_metro_that_serve_keep_anything() {
    let mut nodes = metro(5);
    nodes.push(node(7, ("eu", "lon")));
    nodes.push(node(8, ("na", "fra")));
    nodes[1].draining = true;
    nodes[2].health = Health::Ill;
    nodes[3].health = Health::Degraded;
    let ids = |nodes: &[NodeState]| -> HashSet<_> {
        let placement = Placement::new(&view(nodes));
        placement
            .order(&Key([1; 32]), usize::MAX)
            .into_iter()
            .collect()
    };
    assert_eq!(ids(&nodes), HashSet::from([nodes[0].id, nodes[4].id]));
    // Degraded ones where no other is.
    nodes[0].health = Health::Ill;
    nodes[4].draining = true;
    assert_eq!(ids(&nodes), HashSet::from([nodes[3].id]));
    nodes[3].draining = true;
    assert!(Placement::new(&view(&nodes)).is_empty());
    // Those whose zones are not known are together, and with nobody else.
    let [one, other] = [1, 2].map(|number| node(number, ("world", "any")));
    let lost = [one, other, node(3, ("eu", "fra"))];
    assert_eq!(ids(&lost), HashSet::from([lost[0].id, lost[1].id]));
}

#[test]
fn the_order_of_any_nodes_for_a_key_is_the_same_for_all_and_outlives_a_loss() {
    let nodes = metro(6);
    let key = Key([8; 32]);
    let order = rendezvous(nodes.iter().map(|node| node.id), &key);
    let backwards = rendezvous(nodes.iter().rev().map(|node| node.id), &key);
    assert_eq!(order, backwards);
    let rest = order.iter().copied().filter(|id| *id != order[2]);
    let expected: Vec<_> = rest.clone().collect();
    assert_eq!(rendezvous(rest, &key), expected);
}

#[test]
fn a_drain_hands_each_key_to_where_it_is_looked_for_afterwards() {
    let mut rng = StdRng::seed_from_u64(seed(45));
    let mut nodes = metro(10);
    let leaving = nodes[4].id;
    let placement = Placement::new(&view(&nodes));
    let hot: Vec<_> = keys(20_000, &mut rng)
        .into_iter()
        .filter(|key| placement.home(key) == Some(leaving))
        .collect();
    let handed = handover(&view(&nodes), &leaving, hot.iter().copied());
    nodes[4].draining = true;
    let after = Placement::new(&view(&nodes));
    let mut count = 0;
    for (to, keys) in &handed {
        count += keys.len();
        assert!(keys.iter().all(|key| after.home(key) == Some(*to)));
        // The hottest first: in the order they were given.
        let places = keys.iter().map(|key| hot.iter().position(|it| it == key));
        assert!(places.collect::<Vec<_>>().is_sorted());
    }
    assert_eq!((count, handed.len()), (hot.len(), 9));
    let most = handed.iter().map(|(_, keys)| keys.len()).max().unwrap();
    println!(
        "{count} hot keys to {} nodes, at most {most} to one",
        handed.len()
    );
    // It is the same list whether the node is said to be draining already or not.
    assert_eq!(
        handed,
        handover(&view(&nodes), &leaving, hot.iter().copied())
    );
}

#[test]
fn a_handover_is_bounded_and_the_last_of_a_metro_hands_over_nothing() {
    let nodes = metro(2);
    let many = (0..HANDOVER_KEYS_MAX as u64 + 10).map(|number| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        Key(key)
    });
    let handed = handover(&view(&nodes), &nodes[0].id, many.clone());
    assert_eq!(handed.len(), 1);
    assert_eq!(handed[0].1.len(), HANDOVER_KEYS_MAX);
    assert!(handover(&view(&nodes[..1]), &nodes[0].id, many).is_empty());
}
