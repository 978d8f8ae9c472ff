//! Nodes that measure some of the others, and what they then know of all.

use std::fs;
use std::path::Path;

use parking_lot::RwLock;
use stoq_node::config::{Env, Role};
use stoq_node::metrics::Registry;
use stoq_routing::membership::{Change, NextView};

use super::*;

/// A view that the test changes.
struct Members(RwLock<Arc<View>>);

impl Membership for Members {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.read())
    }

    fn changed(&self, _: u64) -> NextView<'_> {
        Box::pin(std::future::pending())
    }

    fn publish(&self, _: &mut dyn FnMut(&mut NodeState)) {}

    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }
}

fn members(me: u8, nodes: &[NodeState]) -> Arc<Members> {
    Arc::new(Members(RwLock::new(view(me, nodes))))
}

fn view(me: u8, nodes: &[NodeState]) -> Arc<View> {
    let nodes = nodes.iter().cloned().map(Arc::new);
    Arc::new(View::new(NodeId([me; 32]), 1, true, nodes))
}

fn node(number: u8) -> NodeState {
    let mut node = NodeState::new(NodeId([number; 32]), number.to_string(), Zone::unknown());
    node.public_addresses = vec![IpAddr::from([192, 0, 2, number])];
    node
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Round trips between nodes on a line, 12 ms from one to the next, and 3 ms for each one's last mile.
fn apart(one: u8, other: u8) -> Duration {
    ms(u64::from(one.abs_diff(other)) * 12 + 6)
}

#[test]
fn two_that_have_no_path_know_by_their_coordinates_how_far_they_are() {
    let mut nodes: Vec<_> = (0..8).map(node).collect();
    let seen: Vec<_> = (0..8).map(|me| members(me, &nodes)).collect();
    let all = seen.iter().map(|seen| Bearings::new(Arc::clone(seen) as _));
    let all: Vec<_> = all.collect();
    let mut said = 0;
    for _ in 0..300 {
        for (me, bearings) in (0u8..).zip(&all) {
            // The first and the last never meet.
            let met = (0..8).filter(|other| *other != me && me.abs_diff(*other) < 7);
            bearings.measured(met.map(|other| (NodeId([other; 32]), apart(me, other))));
        }
        for (node, bearings) in nodes.iter_mut().zip(&all) {
            let before = node.coordinates;
            bearings.whereabouts().tell(node);
            said += usize::from(node.coordinates != before);
        }
        for (me, seen) in (0..).zip(&seen) {
            *seen.0.write() = view(me, &nodes);
        }
    }
    let (rtt, source) = all[0].to(&NodeId([7; 32])).unwrap();
    assert_eq!(source, Source::Coordinates);
    let (rtt, true_rtt) = (rtt.as_secs_f64(), apart(0, 7).as_secs_f64());
    println!(
        "{rtt:.3} s by coordinates, {true_rtt:.3} s in truth; {said} of 2400 looks had something new to say"
    );
    assert!(
        (rtt / true_rtt - 1.0).abs() < 0.2,
        "{rtt} s, in truth {true_rtt} s"
    );
    // Who has settled is silent.
    assert!(said < 400, "{said}");
    // Those who meet go by what they measured.
    assert_eq!(
        all[0].to(&NodeId([1; 32])),
        Some((apart(0, 1), Source::Path))
    );
    // Once one of both is not sure any more, nobody goes by what it says.
    nodes[7].coordinates.as_mut().unwrap().error = 0.31;
    *seen[0].0.write() = view(0, &nodes);
    assert_eq!(all[0].to(&NodeId([7; 32])), None);
}

#[test]
fn coordinates_that_no_node_can_have_move_nobody_and_foretell_nothing() {
    let sane = Coordinates {
        vector: [1.0, 2.0, 3.0],
        height: 1.0,
        error: 0.1,
    };
    let mut insane = [sane; 5];
    insane[0].vector[1] = f64::NAN;
    insane[1].vector[0] = 1e300;
    insane[2].height = f64::INFINITY;
    insane[3].error = f64::NAN;
    insane[4].error = -1.0;
    for coordinates in insane {
        let mut nodes = [node(0), node(1)];
        nodes[0].coordinates = Some(sane);
        nodes[1].coordinates = Some(coordinates);
        let bearings = Arc::new(Bearings::new(members(0, &nodes) as _));
        assert_eq!(bearings.to(&nodes[1].id), None, "{coordinates:?}");
        let before = bearings.whereabouts();
        bearings.measured([(nodes[1].id, ms(40))]);
        assert_eq!(bearings.whereabouts(), before, "{coordinates:?}");
        let registry = Registry::new();
        registry.with(|registry| bearings.register(registry));
        let text = registry.render().unwrap();
        for line in [
            "bearings_samples_total{result=\"coordinates\"} 1",
            "bearings_samples_total{result=\"taken\"} 0",
            "bearings_members{source=\"path\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../routing/testdata");
    fs::read(root.join(name)).unwrap()
}

fn config(directory: &Path) -> Config {
    let text = "[listen]\nhttp = [\"127.0.0.1:0\"]\n[cluster]\ngeo = { city = \"city.mmdb\", asn = \"asn.mmdb\" }\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n";
    Config::parse("f.toml", text, directory, &Env::none(), Role::Edge).unwrap()
}

#[test]
fn the_database_says_where_a_node_is_and_what_its_operator_says_goes_before() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("city.mmdb"), fixture("places.mmdb")).unwrap();
    fs::write(directory.path().join("asn.mmdb"), fixture("networks.mmdb")).unwrap();
    let mut warnings = Vec::new();
    let geo = GeoWatch::open(&config(directory.path()), &mut warnings).unwrap();
    assert!(warnings.is_empty() && geo.is_some());
    let members = members(1, &[node(1)]);
    let found = Bearings::standing(Arc::clone(&members) as _, Standing::default(), geo.clone());
    let found = found.whereabouts();
    assert_eq!(found.zone.to_string(), "eu-frankfurt-am-main");
    assert_eq!(found.asn, Some(64_496));
    assert!((found.position.unwrap().latitude - 50.11).abs() < 1e-6);
    // It begins at its place, so it is not as wrong as one that knows none.
    assert!(found.coordinates.error < 1.0);

    let standing = Standing {
        zone: Some("us-nyc".parse().unwrap()),
        position: Some(Position {
            latitude: 40.7,
            longitude: -74.0,
        }),
        asn: Some(64_500),
    };
    let said = Bearings::standing(members as _, standing.clone(), geo).whereabouts();
    assert_eq!(Some(said.zone), standing.zone);
    assert_eq!((said.position, said.asn), (standing.position, standing.asn));
}

#[test]
fn a_damaged_database_is_the_operators_at_the_start_and_changes_nothing_later() {
    let directory = tempfile::tempdir().unwrap();
    let (city, asn) = (
        directory.path().join("city.mmdb"),
        directory.path().join("asn.mmdb"),
    );
    let mut damaged = fixture("places.mmdb");
    damaged.truncate(damaged.len() / 2);
    fs::write(&city, &damaged).unwrap();
    let mut warnings = Vec::new();
    let errors = GeoWatch::open(&config(directory.path()), &mut warnings).unwrap_err();
    let error = errors[0].to_string();
    assert!(
        error.starts_with("f.toml:4:") && error.contains("cluster.geo.city"),
        "{error}"
    );
    assert!(
        error.contains("city.mmdb") && error.contains("damaged"),
        "{error}"
    );
    // The other one is only missing, which may be mended while the node runs.
    assert!(
        warnings[0].contains("asn.mmdb") && errors.len() == 1,
        "{warnings:?}"
    );

    fs::write(&city, fixture("places.mmdb")).unwrap();
    let watch = GeoWatch::open(&config(directory.path()), &mut Vec::new());
    let watch = watch.unwrap().unwrap();
    fs::write(&city, &damaged).unwrap();
    fs::write(&asn, fixture("networks.mmdb")).unwrap();
    let news: Vec<_> = watch.look().iter().map(ToString::to_string).collect();
    assert!(news[0].contains("stays in use"), "{news:?}");
    let place = watch.geo().place(IpAddr::from([192, 0, 2, 1]));
    assert!(place.position.is_some() && place.network == Some(64_496));
    let registry = Registry::new();
    registry.with(|registry| watch.register(registry));
    let text = registry.render().unwrap();
    for line in [
        "geo_loads_total 2",
        "geo_refusals_total 2",
        "geo_databases 2",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}
