//! Lookups of the provider index between processes on relayed delays, beside what the simulator foretells for the same round trips:
//!
//! ```sh
//! cargo build -p stoq-edge -p stoq-origin-shield
//! cargo test -p integration --features sim --test mesh -- --ignored --nocapture lookups
//! ```
//!
//! The round trips are those of a mesh that `simulate --write-matrix` writes, of `STOQ_MESH_MATRIX` where that names a file. An edge is asked for objects that others hold, one after the
//! other, so that what its time in searches grows by is what one took.

use std::time::{Duration, Instant};

use integration::{Answer, Client, Version, body, metric_in};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngCore as _, SeedableRng as _};
use stoq_loadtest::Target;
use stoq_mesh::Patience;
use stoq_routing::index::{LookupLimits, REPLICAS};
use stoq_routing::sim::{
    Deaths, Knowledge, Lookups, Matrix, Regions, Setting, Times, Yardstick, lookups,
};

use crate::network::at;
use crate::nodes::{HTTP, Mesh, Node, Plan};

const EDGES: usize = 20;
/// One edge in ten holds an object.
const HOLDERS: usize = 2;
/// Objects that are looked up from each edge that does not hold them; before that others, after which connections are open.
const OBJECTS: usize = 10;
const BEFORE: usize = 12;
const LIMIT: Duration = Duration::from_secs(120);

fn matrix(seed: u64) -> Matrix {
    match std::env::var("STOQ_MESH_MATRIX") {
        Ok(file) => {
            let text =
                std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
            Matrix::from_text(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
        }
        Err(_) => Matrix::on_earth(EDGES, Regions::Parts, seed),
    }
}

/// Seconds in searches so far, and how many there were by what they found.
fn searched(edge: &Node) -> (f64, [f64; 3]) {
    let (_, text) = edge.get("/metrics").unwrap();
    let by = |result: &str| {
        metric_in(
            &text,
            "stoq_index_searches_total",
            &[&format!("result=\"{result}\"")],
        )
    };
    (
        metric_in(&text, "stoq_index_searched_seconds_total", &[]),
        ["found", "nobody", "unknown"].map(by),
    )
}

/// Has an edge asked for an object so often.
fn ask(mesh: &Mesh, edge: usize, object: &str, times: usize) {
    let (host, path) = (mesh.edges[edge].host, format!("/{object}"));
    let asked = mesh.network.run(host, move || async move {
        let target = Target::new("http://objects.test")
            .unwrap()
            .at(at(host, HTTP));
        let client = Client::connect(&target, Version::Http1).await.unwrap();
        for _ in 0..times {
            let answer = client.get(&path).await.unwrap();
            assert_eq!(answer.status.as_u16(), 200);
            answer.bytes(1 << 20).await.unwrap();
        }
    });
    asked.join().unwrap();
}

/// A lookup from an edge: what it took, or `None` where it found nobody in time.
fn look_up(mesh: &Mesh, from: usize, object: &str) -> Option<Duration> {
    let edge = &mesh.edges[from];
    let before = searched(edge);
    ask(mesh, from, object, 1);
    let began = Instant::now();
    loop {
        let after = searched(edge);
        let ended: f64 = after.1.iter().sum::<f64>() - before.1.iter().sum::<f64>();
        if ended > 0.0 {
            assert_eq!(ended, 1.0, "somebody else asks");
            let is_found = after.1[0] > before.1[0];
            return is_found.then(|| Duration::from_secs_f64(after.0 - before.0));
        }
        // The miss may not have waited for it.
        assert!(began.elapsed() < LIMIT, "a search that does not end");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Those edges that hold an object.
fn holders(object: usize, edges: usize, seed: u64) -> Vec<usize> {
    let mut rng = StdRng::seed_from_u64(seed ^ object as u64);
    sample(&mut rng, edges, HOLDERS).into_vec()
}

fn row(what: &str, times: &Times, looked: usize) {
    println!(
        "{what:<44} {:>8.1} {:>8.1} {:>8.1} {:>9.1} % {looked:>8}",
        times.p50_ms(),
        times.quantile_ms(0.75),
        times.p95_ms(),
        (1.0 - times.failed_part()) * 100.0
    );
}

#[test]
#[ignore = "minutes: twenty edges over a globe's delays"]
fn lookups_between_processes_take_what_the_simulator_foretells() {
    const TEST: &str = "lookups_between_processes_take_what_the_simulator_foretells";
    let seed = body::seed();
    let matrix = matrix(seed);
    let edges = matrix.nodes();
    let zones = (0..edges).map(|edge| {
        let place = matrix.place(edge);
        format!("{}-{}", place.region, place.metro)
    });
    let plan = Plan::edges(edges).shield().zones(zones.collect());
    // What homes fetch they look up as well, when they like.
    let plan = plan.cluster("homes = false");
    let Some(mut mesh) = plan.prepare(TEST) else {
        return;
    };
    let hosts = mesh.hosts(0..edges);
    mesh.network.switch(|switch| {
        for (one, from) in hosts.iter().enumerate() {
            for (other, to) in hosts.iter().enumerate() {
                switch.way(*from, *to).delay = matrix.round_trip(one, other) / 2;
            }
        }
    });
    mesh.serve(|seen| async move {
        let mut bytes = vec![0; 2_000];
        let path = blake3::hash(seen.uri.path().as_bytes());
        let (first, _) = path.as_bytes().split_first_chunk().unwrap();
        StdRng::seed_from_u64(u64::from_le_bytes(*first)).fill_bytes(&mut bytes);
        Answer::ok(bytes).fresh(36_000).header("etag", "\"v\"")
    });
    mesh.start();
    // What is hit twice is announced.
    for object in 0..BEFORE + OBJECTS {
        for edge in holders(object, edges, seed) {
            ask(&mesh, edge, &object.to_string(), 3);
        }
    }
    let (began, told) = (
        Instant::now(),
        ((BEFORE + OBJECTS) * HOLDERS * REPLICAS) as f64,
    );
    while mesh.all("stoq_index_records", &[]) < told
        || mesh.all("stoq_index_waiting_changes", &[]) > 0.0
    {
        assert!(began.elapsed() < LIMIT, "owners do not learn what is held");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let mut took = Vec::new();
    let mut dials = 0.0;
    for from in 0..edges {
        let not_held = |object: &usize| !holders(*object, edges, seed).contains(&from);
        for object in (0..BEFORE).filter(not_held) {
            look_up(&mesh, from, &object.to_string());
        }
        let dialled = |mesh: &Mesh| mesh.edges[from].metric("stoq_pool_dials_started_total", &[]);
        let before = dialled(&mesh);
        for object in (BEFORE..BEFORE + OBJECTS).filter(not_held) {
            took.push(look_up(&mesh, from, &object.to_string()));
        }
        dials += dialled(&mesh) - before;
    }

    // What a process's lookups may cost.
    let time = Patience::default().found_within / 2;
    let limits = LookupLimits {
        time,
        silence: time.min(LookupLimits::default().silence),
        ..LookupLimits::default()
    };
    let setting = |knowledge, limits| Setting {
        held_by: HOLDERS as f64 / edges as f64,
        deaths: Deaths::None,
        knowledge,
        limits,
        ..Setting::default()
    };
    println!(
        "\n{edges} edges, each object held by {HOLDERS}; lookups end after {time:?}; {dials} connections were made while it was measured"
    );
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>11} {:>8}",
        "", "p50 ms", "p75 ms", "p95 ms", "found", "lookups"
    );
    let looked = took.len();
    let measured = Times::of(took);
    row("processes", &measured, looked);
    for (what, knowledge, limits) in [
        ("simulator, round trips known", Knowledge::Exact, limits),
        ("simulator, no round trip known", Knowledge::Nothing, limits),
        (
            "simulator, round trips known, time to its end",
            Knowledge::Exact,
            LookupLimits::default(),
        ),
    ] {
        let setting = setting(knowledge, limits);
        let Lookups { index, .. } = lookups(&matrix, setting, Yardstick::Left, 4_000, seed);
        row(what, &index, 4_000);
    }
    for fault in mesh.network.faults() {
        println!("INVALID: {fault}");
    }
    assert!(measured.failed_part() < 1.0, "no lookup found anything");
}
