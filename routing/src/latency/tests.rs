//! Which source counts when, and what a node learns of geography.

use rand::{SeedableRng, rngs::StdRng};

use super::{
    world::{World, node, seed, view},
    *,
};
use crate::Coordinates;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn place(latitude: f64, longitude: f64) -> Option<Position> {
    Some(Position {
        latitude,
        longitude,
    })
}

fn coordinates(x: f64, error: f64) -> Option<Coordinates> {
    Some(Coordinates {
        vector: [x, 0.0, 0.0],
        height: 0.5,
        error,
    })
}

#[test]
fn the_surest_source_that_is_there_counts() {
    let (mut me, mut peer) = (node(1, ("eu", "fra")), node(2, ("eu", "lon")));
    let mut latency = Latency::new(me.id);
    let source = |latency: &Latency, me: &NodeState, peer: &NodeState, now: Duration| {
        let there = latency.estimate(me, peer, now);
        assert_eq!(there, latency.estimate(peer, me, now));
        there.map(|(_, source)| source)
    };
    assert_eq!(source(&latency, &me, &peer, SECOND), Some(Source::Zones));
    me.position = place(50.1, 8.7);
    assert_eq!(source(&latency, &me, &peer, SECOND), Some(Source::Zones));
    peer.position = place(51.5, -0.1);
    assert_eq!(
        source(&latency, &me, &peer, SECOND),
        Some(Source::Geography)
    );
    me.coordinates = coordinates(0.0, 0.1);
    peer.coordinates = coordinates(14.0, 0.9);
    assert_eq!(
        source(&latency, &me, &peer, SECOND),
        Some(Source::Geography)
    );
    peer.coordinates = coordinates(14.0, 0.1);
    assert_eq!(
        latency.estimate(&me, &peer, SECOND),
        Some((MS * 15, Source::Coordinates))
    );
    latency.measured(peer.id, MS * 11, SECOND);
    assert_eq!(
        latency.estimate(&me, &peer, SECOND),
        Some((MS * 11, Source::Path))
    );
    // Stale by now.
    assert_eq!(
        source(&latency, &me, &peer, SECOND * 2 + FRESH),
        Some(Source::Coordinates)
    );
    assert_eq!(source(&latency, &me, &me, SECOND), Some(Source::Itself));
}

#[test]
fn what_is_no_position_and_no_coordinate_is_passed_over() {
    let (mut me, mut peer) = (node(1, ("eu", "fra")), node(2, ("na", "nyc")));
    me.position = place(f64::NAN, 8.7);
    peer.position = place(40.7, 740.0);
    me.coordinates = coordinates(f64::NAN, 0.0);
    peer.coordinates = coordinates(1.0, 0.0);
    let latency = Latency::new(me.id);
    assert_eq!(
        latency.estimate(&me, &peer, SECOND),
        Some((MS * 160, Source::Zones))
    );
}

#[test]
fn coordinates_foretell_nothing_faster_than_light() {
    let (mut me, mut peer) = (node(1, ("eu", "fra")), node(2, ("oc", "syd")));
    me.position = place(50.11, 8.68);
    peer.position = place(-33.87, 151.21);
    me.coordinates = coordinates(0.0, 0.1);
    peer.coordinates = coordinates(0.0, 0.0);
    let (rtt, source) = Latency::new(me.id).estimate(&me, &peer, SECOND).unwrap();
    assert_eq!(source, Source::Coordinates);
    assert!(rtt > MS * 160, "{rtt:?} over 16,480 km");
}

#[test]
fn zones_tell_metro_region_and_the_rest_apart_and_an_unknown_one_nothing() {
    let latency = Latency::new(node(0, ("", "")).id);
    let rtt = |one, other| latency.estimate(&node(1, one), &node(2, other), SECOND);
    assert_eq!(rtt(("eu", "fra"), ("eu", "fra")).unwrap().0, MS * 2);
    assert_eq!(rtt(("eu", "fra"), ("eu", "lon")).unwrap().0, MS * 35);
    assert_eq!(rtt(("eu", "any"), ("eu", "any")).unwrap().0, MS * 35);
    assert_eq!(rtt(("eu", "fra"), ("na", "fra")).unwrap().0, MS * 160);
    assert_eq!(rtt(("", ""), ("na", "nyc")), None);
    assert_eq!(rtt(("world", "any"), ("world", "any")), None);
}

#[test]
fn a_path_is_its_shortest_round_trip_of_late() {
    let peer = NodeId([2; 32]);
    let mut latency = Latency::new(NodeId([1; 32]));
    latency.measured(peer, Duration::ZERO, SECOND);
    assert_eq!(latency.path(&peer, SECOND), None);
    // A queue of 30 ms comes and goes, and is not taken for distance.
    for second in 1..=10 {
        latency.measured(peer, MS * 20, SECOND * second);
    }
    for second in 11..=25 {
        latency.measured(peer, MS * 50, SECOND * second);
        assert_eq!(latency.path(&peer, SECOND * second), Some(MS * 20));
    }
    // A way that is longer for good is believed within two windows.
    for second in 26..=91 {
        latency.measured(peer, MS * 50, SECOND * second);
    }
    assert_eq!(latency.path(&peer, SECOND * 91), Some(MS * 50));
    // One that got shorter is believed at once.
    latency.measured(peer, MS * 12, SECOND * 92);
    assert_eq!(latency.path(&peer, SECOND * 92), Some(MS * 12));
    // After a silence only what was measured since counts.
    latency.measured(peer, MS * 40, SECOND * 250);
    assert_eq!(latency.path(&peer, SECOND * 250), Some(MS * 40));
    latency.forget(&peer);
    assert_eq!(latency.path(&peer, SECOND * 250), None);
}

#[test]
fn paths_beyond_the_bound_push_out_the_one_measured_longest_ago() {
    let mut latency = Latency::new(NodeId([0xff; 32]));
    let id = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        NodeId(id)
    };
    for number in 0..=PATHS_MAX {
        let now = SECOND + MS * u32::try_from(number).unwrap();
        latency.measured(id(number), MS, now);
    }
    assert_eq!(latency.paths.len(), PATHS_MAX);
    assert_eq!(size_of::<(NodeId, Path)>(), 96);
    assert_eq!(latency.path(&id(0), SECOND), None);
    assert!(latency.path(&id(1), SECOND).is_some());
}

#[test]
fn a_node_learns_how_round_trips_follow_from_distance() {
    let mut rng = StdRng::seed_from_u64(seed(3));
    let world = World::new(100, &mut rng);
    let mut latency = Latency::new(world.nodes[0].id);
    let view = view(&world.nodes);
    latency.learn_geography(&view, SECOND);
    assert_eq!(latency.geography(), Geography::default());
    let off = |latency: &Latency| {
        let off = (1..world.nodes.len()).map(|at| {
            let estimate = latency.by_geography(&world.nodes[0], &world.nodes[at]);
            let ms = estimate.unwrap().0.as_secs_f64() * 1_000.0;
            (ms - world.round_trip(0, at)).abs()
        });
        off.sum::<f64>() / 99.0
    };
    let before = off(&latency);
    for at in 1..world.nodes.len() {
        let rtt = world.measure(0, at, &mut rng);
        latency.measured(world.nodes[at].id, rtt, SECOND);
    }
    latency.learn_geography(&view, SECOND);
    let (after, fit) = (off(&latency), latency.geography());
    println!("off by {before:.1} ms as assumed, {after:.1} ms as learnt ({fit:?})");
    assert_eq!(fit.samples, 99);
    assert!(after < before, "{before} ms before, {after} ms after");
}
