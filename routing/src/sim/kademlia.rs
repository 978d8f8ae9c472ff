//! The yardstick: plain Kademlia (Maymounkov and Mazières 2002) with the constants that are in use, k = 20 and alpha = 3.
//!
//! It is given every advantage that costs its comparison nothing: routing tables are full and fresh, all twenty closest nodes hold
//! each record, connections are open, and a node that does not answer is given up after a second where libp2p waits ten.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};

use super::{Queue, Wire, draw};
use crate::{Distance, Key, NodeId};

/// The constants of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Nodes in a bucket, in an answer, and that hold a record.
    pub k: usize,
    /// Nodes asked at once.
    pub alpha: usize,
    /// What a node has to answer in.
    pub patience: Duration,
    /// Whether the lookup ends with the first answer that has a provider; else it ends when the `k` closest nodes have answered.
    pub early: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            k: 20,
            alpha: 3,
            patience: Duration::from_secs(1),
            early: true,
        }
    }
}

/// What every node knows of the others: of each bucket at most k, drawn at random.
#[derive(Debug)]
pub struct Tables {
    ids: Vec<NodeId>,
    known: Vec<Vec<usize>>,
}

impl Tables {
    /// Tables of these nodes.
    #[must_use]
    pub fn new(ids: &[NodeId], k: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut known = Vec::with_capacity(ids.len());
        for (me, id) in ids.iter().enumerate() {
            let mut buckets: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (other, node) in ids.iter().enumerate() {
                if other != me {
                    let shared = node.distance(&Key(id.0)).shared_bits();
                    buckets.entry(shared).or_default().push(other);
                }
            }
            let drawn = |bucket: &Vec<usize>| draw::some(&mut rng, bucket, k);
            known.push(buckets.values().flat_map(drawn).collect());
        }
        Self {
            ids: ids.to_vec(),
            known,
        }
    }

    /// The `k` of these nodes that are closest to a key, the closest first.
    fn closest(&self, of: &[usize], key: &Key, k: usize) -> Vec<usize> {
        let mut nodes: Vec<_> = of
            .iter()
            .map(|node| (self.ids[*node].distance(key), *node))
            .collect();
        nodes.sort_unstable();
        nodes.truncate(k);
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    /// The nodes that hold the records of a key.
    #[must_use]
    pub fn holders_of_records(&self, key: &Key, k: usize) -> BTreeSet<usize> {
        let all: Vec<usize> = (0..self.ids.len()).collect();
        self.closest(&all, key, k).into_iter().collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contact {
    Heard,
    Asked { until: Duration },
    Answered,
    Silent,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ask(usize),
    Wait(Option<Duration>),
    Done,
}

/// One lookup, as a machine that is told the time.
#[derive(Debug)]
struct Query {
    rules: Rules,
    contacts: BTreeMap<Distance, (usize, Contact)>,
    provider: bool,
}

impl Query {
    fn hears_of(&mut self, tables: &Tables, key: &Key, nodes: &[usize]) {
        for node in nodes {
            self.contacts
                .entry(tables.ids[*node].distance(key))
                .or_insert((*node, Contact::Heard));
        }
    }

    fn step(&mut self, now: Duration) -> Step {
        if self.rules.early && self.provider {
            return Step::Done;
        }
        for (_, contact) in self.contacts.values_mut() {
            if matches!(contact, Contact::Asked { until } if *until <= now) {
                *contact = Contact::Silent;
            }
        }
        let waiting = |contact: &Contact| match contact {
            Contact::Asked { until } => Some(*until),
            _ => None,
        };
        let under_way = || self.contacts.values().filter_map(|(_, c)| waiting(c));
        let (asked, wake) = (under_way().count(), under_way().min());
        let mut answered = 0;
        let mut open = false;
        for (node, contact) in self.contacts.values_mut() {
            match contact {
                Contact::Silent => {}
                Contact::Asked { .. } => open = true,
                Contact::Answered => answered += 1,
                Contact::Heard if asked < self.rules.alpha => {
                    *contact = Contact::Asked {
                        until: now + self.rules.patience,
                    };
                    return Step::Ask(*node);
                }
                Contact::Heard => return Step::Wait(wake),
            }
            if answered == self.rules.k && !open {
                return Step::Done;
            }
        }
        match asked {
            0 => Step::Done,
            _ => Step::Wait(wake),
        }
    }
}

/// How a lookup went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// When the first answer with a provider was there.
    pub first: Option<Duration>,
    /// When it ended.
    pub end: Duration,
    /// Nodes that were asked.
    pub asked: usize,
}

#[derive(Debug)]
enum Event {
    Answer { from: usize },
    Wake,
}

/// Looks a key up from a node whose records are held by `records`.
#[must_use]
pub fn find(
    wire: &mut Wire<'_>,
    tables: &Tables,
    records: &BTreeSet<usize>,
    from: usize,
    key: &Key,
    rules: Rules,
) -> Outcome {
    let mut queue = Queue::default();
    let mut outcome = Outcome {
        first: records.contains(&from).then_some(Duration::ZERO),
        end: Duration::ZERO,
        asked: 0,
    };
    let mut query = Query {
        rules,
        contacts: BTreeMap::new(),
        provider: outcome.first.is_some(),
    };
    let nearest = tables.closest(&tables.known[from], key, rules.k);
    query.hears_of(tables, key, &nearest);
    loop {
        match query.step(queue.now()) {
            Step::Ask(node) => {
                outcome.asked += 1;
                if let Some(takes) = wire.asked(from, node) {
                    queue.after(takes, Event::Answer { from: node });
                }
                continue;
            }
            Step::Wait(until) => {
                if let Some(until) = until {
                    queue.at(until, Event::Wake);
                }
            }
            Step::Done => break,
        }
        match queue.pop() {
            Some(Event::Answer { from: node }) => {
                let distance = tables.ids[node].distance(key);
                let now = queue.now();
                let asked = query.contacts.get_mut(&distance).filter(
                    |(_, contact)| matches!(contact, Contact::Asked { until } if *until > now),
                );
                // An answer after the patience is over comes too late.
                let Some((_, contact)) = asked else { continue };
                *contact = Contact::Answered;
                if records.contains(&node) {
                    query.provider = true;
                    outcome.first = outcome.first.or(Some(now));
                }
                let closer: Vec<_> = tables
                    .closest(&tables.known[node], key, rules.k)
                    .into_iter()
                    .filter(|other| *other != from)
                    .collect();
                query.hears_of(tables, key, &closer);
            }
            Some(Event::Wake) => {}
            None => break,
        }
    }
    outcome.end = queue.now();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Matrix, Regions};

    fn ids(nodes: usize) -> Vec<NodeId> {
        let mut rng = StdRng::seed_from_u64(5);
        (0..nodes).map(|_| NodeId(draw::point(&mut rng))).collect()
    }

    #[test]
    fn it_finds_every_record_and_run_to_the_end_asks_the_k_closest() {
        let matrix = Matrix::on_earth(150, Regions::Parts, 5);
        let ids = ids(150);
        let tables = Tables::new(&ids, 20, 5);
        let mut wire = Wire::new(&matrix, 5);
        let mut rng = StdRng::seed_from_u64(6);
        for from in 0..30 {
            let key = Key(draw::point(&mut rng));
            let records = tables.holders_of_records(&key, 20);
            let early = find(&mut wire, &tables, &records, from, &key, Rules::default());
            assert!(early.first.is_some());
            let rules = Rules {
                early: false,
                ..Rules::default()
            };
            let whole = find(&mut wire, &tables, &records, from, &key, rules);
            assert!(whole.asked >= 19 && whole.asked < 60, "{}", whole.asked);
            assert!(whole.first.is_some() && whole.end > early.end);
        }
    }

    #[test]
    fn nodes_that_are_down_cost_patience_but_not_the_record() {
        let matrix = Matrix::on_earth(150, Regions::Parts, 5);
        let ids = ids(150);
        let tables = Tables::new(&ids, 20, 5);
        let key = Key([0x5a; 32]);
        let records = tables.holders_of_records(&key, 20);
        let mut wire = Wire::new(&matrix, 5);
        let down: Vec<usize> = records.iter().copied().take(10).collect();
        wire.set_down(&down, true);
        let from = (0..150).find(|node| !records.contains(node)).unwrap();
        let rules = Rules {
            early: false,
            ..Rules::default()
        };
        let outcome = find(&mut wire, &tables, &records, from, &key, rules);
        assert!(outcome.first.is_some());
        assert!(outcome.end > rules.patience);
    }
}
