//! A world to test with: nodes in real cities, and between them round trips as the internet has them, from a seed.
//!
//! A round trip is light's way in glass times the detour of that pair (it differs from pair to pair and breaks the triangle inequality, as
//! real ones do), and a last mile at both ends. The networks of a third of the nodes meet the others at a hub only, which need not be the
//! nearest; geography knows nothing of that. A measurement adds a queue, and now and then a large one.

use std::{sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::globe::LIGHT_MS_PER_KM;
use crate::{NodeId, NodeState, Position, View, Zone};

/// Region, metro, latitude, longitude.
const CITIES: &[(&str, &str, f64, f64)] = &[
    ("eu", "fra", 50.11, 8.68),
    ("eu", "ams", 52.37, 4.90),
    ("eu", "lon", 51.51, -0.13),
    ("eu", "par", 48.86, 2.35),
    ("eu", "mad", 40.42, -3.70),
    ("eu", "mil", 45.46, 9.19),
    ("eu", "waw", 52.23, 21.01),
    ("eu", "sto", 59.33, 18.07),
    ("eu", "hel", 60.17, 24.94),
    ("eu", "ath", 37.98, 23.73),
    ("eu", "ist", 41.01, 28.98),
    ("na", "nyc", 40.71, -74.01),
    ("na", "iad", 38.95, -77.45),
    ("na", "mia", 25.76, -80.19),
    ("na", "chi", 41.88, -87.63),
    ("na", "dfw", 32.78, -96.80),
    ("na", "den", 39.74, -104.99),
    ("na", "lax", 34.05, -118.24),
    ("na", "sjc", 37.34, -121.89),
    ("na", "sea", 47.61, -122.33),
    ("na", "yyz", 43.65, -79.38),
    ("na", "mex", 19.43, -99.13),
    ("sa", "gru", -23.55, -46.63),
    ("sa", "eze", -34.60, -58.38),
    ("sa", "scl", -33.45, -70.67),
    ("sa", "bog", 4.71, -74.07),
    ("as", "nrt", 35.68, 139.69),
    ("as", "icn", 37.57, 126.98),
    ("as", "hkg", 22.32, 114.17),
    ("as", "sin", 1.35, 103.82),
    ("as", "bom", 19.08, 72.88),
    ("as", "del", 28.61, 77.21),
    ("as", "bkk", 13.76, 100.50),
    ("as", "cgk", -6.21, 106.85),
    ("as", "dxb", 25.20, 55.27),
    ("oc", "syd", -33.87, 151.21),
    ("oc", "akl", -36.85, 174.76),
    ("oc", "per", -31.95, 115.86),
    ("af", "jnb", -26.20, 28.05),
    ("af", "los", 6.52, 3.38),
    ("af", "cai", 30.04, 31.24),
    ("af", "nbo", -1.29, 36.82),
];

/// Metros where networks meet that meet nowhere nearer.
const HUBS: &[&str] = &["fra", "lon", "iad", "mia", "lax", "sin", "nrt"];

/// The seed of a test: `STOQ_SEED`, else the one given. Printed, so that a failure can be seen again.
pub(crate) fn seed(default: u64) -> u64 {
    let seed = std::env::var("STOQ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(default);
    println!("STOQ_SEED={seed}");
    seed
}

/// A node that says what a node says, at a place of the space that its number makes.
pub(crate) fn node(number: u32, zone: (&str, &str)) -> NodeState {
    let mut id = [0; 32];
    let mut rng = StdRng::seed_from_u64(u64::from(number));
    rng.fill(&mut id);
    let zone = Zone {
        region: zone.0.to_owned(),
        metro: zone.1.to_owned(),
    };
    NodeState::new(NodeId(id), format!("node-{number}"), zone)
}

/// A view by the first of these.
pub(crate) fn view(nodes: &[NodeState]) -> View {
    let nodes = nodes.iter().cloned().map(Arc::new);
    View::new(nodes.clone().next().unwrap().id, 1, true, nodes)
}

/// The nearest hub but so many.
fn hub(from: &Position, nth: usize) -> Position {
    let hubs = CITIES.iter().filter(|(_, metro, ..)| HUBS.contains(metro));
    let mut hubs: Vec<_> = hubs
        .map(|(_, _, latitude, longitude)| Position {
            latitude: *latitude,
            longitude: *longitude,
        })
        .collect();
    hubs.sort_by(|one, other| from.distance(one).total_cmp(&from.distance(other)));
    hubs[nth]
}

/// Nodes, and the round trip between each two of them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) nodes: Vec<NodeState>,
    /// Milliseconds, without queues.
    round_trips: Vec<Vec<f64>>,
}

impl World {
    pub(crate) fn new(count: u32, rng: &mut StdRng) -> Self {
        let mut nodes = Vec::new();
        let mut exits = Vec::new();
        let mut last_miles = Vec::new();
        for number in 0..count {
            let (region, metro, latitude, longitude) = CITIES[rng.random_range(0..CITIES.len())];
            let mut node = node(number, (region, metro));
            let position = Position {
                latitude: latitude + rng.random_range(-0.2..0.2),
                longitude: longitude + rng.random_range(-0.2..0.2),
            };
            node.position = Some(position);
            nodes.push(node);
            exits.push(if rng.random_bool(0.33) {
                hub(&position, rng.random_range(0..3))
            } else {
                position
            });
            // Most are in a data centre, some behind an access network.
            last_miles.push(if rng.random_bool(0.8) {
                rng.random_range(0.2..1.5)
            } else {
                rng.random_range(3.0..15.0)
            });
        }
        let to_exit = |at: usize| nodes[at].position.unwrap().distance(&exits[at]);
        let mut round_trips = vec![vec![0.0; nodes.len()]; nodes.len()];
        for one in 0..nodes.len() {
            for other in one + 1..nodes.len() {
                let between = exits[one].distance(&exits[other]);
                let km = to_exit(one) + between + to_exit(other);
                // Most ways lie a third again as long as they must, some twice.
                let detour = 1.2 + 0.15 * -f64::ln(rng.random_range(0.01..1.0));
                let ms = km * LIGHT_MS_PER_KM * detour + last_miles[one] + last_miles[other];
                round_trips[one][other] = ms;
                round_trips[other][one] = ms;
            }
        }
        Self { nodes, round_trips }
    }

    /// Milliseconds without queues.
    pub(crate) fn round_trip(&self, one: usize, other: usize) -> f64 {
        self.round_trips[one][other]
    }

    /// One measurement.
    pub(crate) fn measure(&self, one: usize, other: usize, rng: &mut StdRng) -> Duration {
        let queue = -1.5 * f64::ln(rng.random_range(1e-3..1.0));
        let spike = if rng.random_bool(0.02) {
            rng.random_range(20.0..300.0)
        } else {
            0.0
        };
        Duration::from_secs_f64((self.round_trip(one, other) + queue + spike) / 1_000.0)
    }
}
