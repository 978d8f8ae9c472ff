//! Lookups against owners that answer, deny, fail, are silent and lie.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::index::{
    record::{Contact, WHOLE},
    testing::{node, view},
};

const MS: Duration = Duration::from_millis(1);

fn id(n: u8) -> NodeId {
    let mut bytes = [0; 32];
    bytes[0] = n;
    NodeId(bytes)
}

fn provider(holder: NodeId) -> Provider {
    Provider {
        holder,
        addresses: Vec::new(),
        manifest: [9; 32],
        fraction: WHOLE,
        generation: 1,
    }
}

fn holds(holder: NodeId) -> Answer {
    Answer {
        providers: vec![provider(holder)],
        closer: Vec::new(),
    }
}

/// Nodes 1 to 12 as 4 sees them: 1 to 4 in Frankfurt, 5 to 8 elsewhere in Europe, 9 to 12 in America. The round trip to each is its number in
/// milliseconds.
fn twelve(complete: bool) -> Arc<Owners> {
    let zone = |n| match n {
        1..=4 => ("eu", "fra"),
        5..=8 => ("eu", "ams"),
        _ => ("us", "nyc"),
    };
    let nodes = (1..=12).map(|n| node(id(n), zone(n).0, zone(n).1));
    Arc::new(Owners::of(view(id(4), complete, nodes)))
}

fn by_number(id: &NodeId) -> Option<Duration> {
    Some(MS * u32::from(id.0[0]))
}

fn begin(owners: &Arc<Owners>, key: Key) -> Lookup {
    Lookup::new(
        owners,
        &by_number,
        key,
        LookupLimits::default(),
        Duration::ZERO,
    )
}

/// All that is asked at once, and what comes then.
fn asks(lookup: &mut Lookup, now: Duration) -> (Vec<NodeId>, Step) {
    let mut asked = Vec::new();
    loop {
        match lookup.step(now) {
            Step::Ask(id) => asked.push(id),
            step => return (asked, step),
        }
    }
}

#[test]
fn the_nearest_owner_of_each_level_is_asked_at_once_and_each_node_once() {
    let owners = twelve(true);
    let key = Key(id(6).0);
    let mut lookup = begin(&owners, key);
    let (asked, step) = asks(&mut lookup, Duration::ZERO);
    assert_eq!(
        owners.closest(Level::Region, &key, 3),
        [id(6), id(7), id(4)]
    );
    // 4 owns it in all levels and is the node itself: nobody else is asked before it has denied.
    assert_eq!(asked, [id(4)]);
    assert_eq!(step, Step::Wait(10 * MS));
    lookup.answered(id(4), Answer::default(), Duration::ZERO);
    assert_eq!(
        asks(&mut lookup, Duration::ZERO),
        (vec![id(6)], Step::Wait(12 * MS))
    );
    lookup.answered(id(6), holds(id(9)), 6 * MS);
    assert_eq!(lookup.step(6 * MS), Step::Found(vec![provider(id(9))]));
}

#[test]
fn levels_with_different_owners_are_asked_together() {
    let owners = twelve(true);
    let key = Key(id(9).0);
    assert_eq!(
        owners.closest(Level::World, &key, 3),
        [id(9), id(8), id(11)]
    );
    assert_eq!(
        owners.closest(Level::Region, &key, 3),
        [id(8), id(1), id(3)]
    );
    assert_eq!(owners.closest(Level::Metro, &key, 3), [id(1), id(3), id(2)]);
    let mut lookup = begin(&owners, key);
    // 1 is the nearest of metro and region; of the world's 8 is.
    let (asked, _) = asks(&mut lookup, Duration::ZERO);
    assert_eq!(asked, [id(1), id(8)]);
}

#[test]
fn silence_of_twice_the_round_trip_asks_the_next_owner_and_the_late_answer_still_counts() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    let (asked, step) = asks(&mut lookup, Duration::ZERO);
    assert_eq!((asked, step), (vec![id(1), id(8)], Step::Wait(10 * MS)));
    // 1 is late: 2 is the next of the metro. The region is still waited for with 8.
    let (asked, step) = asks(&mut lookup, 10 * MS);
    assert_eq!((asked, step), (vec![id(2)], Step::Wait(16 * MS)));
    let (asked, _) = asks(&mut lookup, 16 * MS);
    assert_eq!(asked, [id(3), id(9)]);
    assert_eq!(lookup.tally().hedges, 3);
    lookup.answered(id(8), holds(id(12)), 17 * MS);
    assert_eq!(lookup.step(17 * MS), Step::Found(vec![provider(id(12))]));
}

#[test]
fn nobody_holds_it_once_each_level_and_two_owners_of_the_world_have_denied() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    asks(&mut lookup, Duration::ZERO);
    lookup.answered(id(1), Answer::default(), MS);
    assert_eq!(asks(&mut lookup, MS).0, []);
    lookup.answered(id(8), Answer::default(), 8 * MS);
    assert_eq!(asks(&mut lookup, 8 * MS).0, [id(9)]);
    lookup.answered(id(9), Answer::default(), 17 * MS);
    assert_eq!(lookup.step(17 * MS), Step::NotFound);
    assert_eq!(
        lookup.tally(),
        Tally {
            asked: 3,
            denied: 3,
            ..Tally::default()
        }
    );
}

#[test]
fn with_every_owner_dead_it_ends_when_the_last_counts_as_failed() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    let mut now = Duration::ZERO;
    let mut asked = Vec::new();
    loop {
        match lookup.step(now) {
            Step::Ask(id) => asked.push(id),
            Step::Wait(until) => {
                assert!(until > now, "{until:?} {now:?}");
                now = until;
            }
            Step::Found(_) => panic!("nobody answered"),
            Step::NotFound => break,
        }
    }
    asked.sort();
    assert_eq!(asked, [1, 2, 3, 8, 9, 11].map(id));
    assert_eq!(lookup.tally().lost, 6);
    assert!(lookup.tally().cut, "nobody has denied");
    assert!(now < 1100 * MS, "{now:?}");
}

#[test]
fn a_failure_asks_the_next_owner_at_once() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    asks(&mut lookup, Duration::ZERO);
    lookup.failed(id(8), MS);
    assert_eq!(asks(&mut lookup, MS).0, [id(9)]);
    lookup.failed(id(9), MS);
    assert_eq!(asks(&mut lookup, MS).0, [id(11)]);
    lookup.failed(id(1), MS);
    assert_eq!(asks(&mut lookup, MS).0, [id(2), id(3)]);
    assert_eq!(lookup.tally().hedges, 0);
}

#[test]
fn providers_that_are_dead_or_the_node_itself_are_none() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    asks(&mut lookup, Duration::ZERO);
    let mut empty = provider(id(2));
    empty.fraction = 0;
    let answer = Answer {
        providers: vec![provider(id(99)), provider(id(4)), empty],
        closer: Vec::new(),
    };
    lookup.answered(id(1), answer, MS);
    assert!(matches!(lookup.step(MS), Step::Wait(_)));
    assert_eq!(lookup.tally().denied, 1);
}

#[test]
fn answers_nobody_asked_for_are_passed_over() {
    let owners = twelve(true);
    let mut lookup = begin(&owners, Key(id(9).0));
    asks(&mut lookup, Duration::ZERO);
    lookup.answered(id(12), holds(id(12)), MS);
    lookup.answered(id(200), holds(id(12)), MS);
    lookup.answered(id(1), Answer::default(), MS);
    lookup.answered(id(1), holds(id(12)), MS);
    assert!(matches!(lookup.step(MS), Step::Wait(_)));
    assert_eq!(lookup.tally().unasked, 3);
}

/// Every node sees only some of the others. The lookup still gets to the closest, whoever begins.
#[test]
fn a_view_with_holes_leads_from_node_to_node_to_the_owner() {
    // 200 nodes; each sees at most three at each number of bits it shares with them, as in a Kademlia table.
    let all: Vec<NodeId> = (0..200u32)
        .map(|n| NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes()))
        .collect();
    let sees = |me: NodeId| {
        let mut seen: BTreeMap<u32, Vec<NodeId>> = BTreeMap::new();
        for other in &all {
            let at_bits = seen
                .entry(other.distance(&Key(me.0)).shared_bits())
                .or_default();
            if at_bits.len() < 3 {
                at_bits.push(*other);
            }
        }
        let nodes = seen.into_values().flatten().map(|id| node(id, "", ""));
        Arc::new(Owners::of(view(me, false, nodes)))
    };
    let views: BTreeMap<NodeId, Arc<Owners>> = all.iter().map(|id| (*id, sees(*id))).collect();
    for n in 0..100u8 {
        let key = Key(*blake3::hash(&[7, n]).as_bytes());
        let mut closest = all.clone();
        closest.sort_by_key(|id| id.distance(&key));
        let owners: BTreeSet<NodeId> = closest.iter().take(REPLICAS).copied().collect();
        let seeker = all[usize::from(n)];
        let mut lookup = begin(&views[&seeker], key);
        let mut now = Duration::ZERO;
        let found = loop {
            match lookup.step(now) {
                Step::Ask(to) => {
                    assert!(!lookup.addresses(&to).is_empty(), "nowhere to ask");
                    let answer = if owners.contains(&to) {
                        holds(all[150])
                    } else {
                        let closer = views[&to].closest(Level::World, &key, CLOSER_MAX);
                        let contact = |id| Contact {
                            id,
                            addresses: vec![([127, 0, 0, 1], 1).into()],
                        };
                        Answer {
                            providers: Vec::new(),
                            closer: closer.into_iter().map(contact).collect(),
                        }
                    };
                    lookup.answered(to, answer, now);
                }
                Step::Wait(until) => now = until,
                Step::Found(_) => break true,
                Step::NotFound => break false,
            }
        };
        assert!(found || seeker == all[150], "{n}: {:?}", lookup.tally());
    }
}

/// What an owner does in the property below.
#[derive(Debug, Clone)]
enum Play {
    Holds,
    Denies,
    Fails,
    Silent,
    /// Names nodes that nobody knows, the given distance from the key.
    Lies(Vec<u8>),
}

fn play() -> impl Strategy<Value = (Play, u16)> {
    let play = prop_oneof![
        1 => Just(Play::Holds),
        4 => Just(Play::Denies),
        1 => Just(Play::Fails),
        1 => Just(Play::Silent),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Play::Lies),
    ];
    (play, 0u16..1500)
}

proptest! {
    #[test]
    fn whatever_nodes_do_a_lookup_asks_each_once_and_ends_in_time(
        complete: bool,
        key: [u8; 32],
        plays in proptest::collection::vec(play(), 256),
        metros in proptest::collection::vec(0u8..4, 40),
    ) {
        let nodes = metros.iter().zip(1u8..).map(|(metro, n)| {
            node(id(n), ["eu", "us"][usize::from(metro / 2)], ["a", "b"][usize::from(metro % 2)])
        });
        let owners = Arc::new(Owners::of(view(id(1), complete, nodes)));
        let limits = LookupLimits::default();
        let mut lookup = Lookup::new(&owners, &|id| Some(MS * u32::from(id.0[0]) * 5), Key(key), limits, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut asked = BTreeSet::new();
        let mut coming: BTreeMap<(Duration, NodeId), Play> = BTreeMap::new();
        let mut told = false;
        let end = loop {
            match lookup.step(now) {
                Step::Ask(to) => {
                    prop_assert!(asked.insert(to), "asked twice");
                    prop_assert!(!lookup.addresses(&to).is_empty());
                    let (play, after) = &plays[usize::from(to.0[0])];
                    coming.insert((now + MS * u32::from(*after), to), play.clone());
                }
                Step::Wait(until) => {
                    prop_assert!(until > now && until <= limits.time);
                    let first = coming.first_key_value().map(|((at, _), _)| *at);
                    let Some(at) = first.filter(|at| *at <= until) else {
                        now = until;
                        continue;
                    };
                    now = now.max(at);
                    let Some(((_, from), play)) = coming.pop_first() else { continue };
                    match play {
                        Play::Holds => {
                            told |= true;
                            lookup.answered(from, holds(id(2)), now);
                        }
                        Play::Denies => lookup.answered(from, Answer::default(), now),
                        Play::Fails => lookup.failed(from, now),
                        Play::Silent => {}
                        Play::Lies(ids) => {
                            let closer = ids.iter().map(|n| {
                                let mut bytes = key;
                                bytes[31] ^= n;
                                Contact { id: NodeId(bytes), addresses: vec![([10, 0, 0, 1], 1).into(); 9] }
                            });
                            let answer = Answer { providers: Vec::new(), closer: closer.collect() };
                            lookup.answered(from, answer, now);
                        }
                    }
                }
                step => break step,
            }
        };
        prop_assert!(now <= limits.time);
        prop_assert!(asked.len() <= limits.asked);
        prop_assert_eq!(lookup.tally().asked, asked.len());
        prop_assert_eq!(matches!(end, Step::Found(_)), told);
        prop_assert_eq!(lookup.step(now), end);
    }
}
