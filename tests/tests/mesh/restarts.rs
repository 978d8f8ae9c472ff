//! All edges killed and started again at once: what the provider index knew it knows, and nobody announces it again.

use std::time::{Duration, Instant};

use integration::{Answer, Client, Version};
use stoq_loadtest::Target;

use crate::network::at;
use crate::nodes::{HTTP, Mesh, Plan};

const EDGES: usize = 8;
const OBJECTS: usize = 1_000;
/// Owners of a key.
const OWNERS: usize = 3;
/// What a kill may take of what was stored before it: a second. This is that, and time for what is written behind.
const WRITTEN: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    began.elapsed()
}

/// Asks an edge for these objects, each so often.
fn ask(mesh: &Mesh, edge: usize, objects: std::ops::Range<usize>, times: usize) {
    let host = mesh.edges[edge].host;
    let asked = mesh.network.run(host, move || async move {
        let target = Target::new("http://objects.test")
            .unwrap()
            .at(at(host, HTTP));
        let client = Client::connect(&target, Version::Http1).await.unwrap();
        for object in objects {
            for _ in 0..times {
                let answer = client.get(&format!("/{object}")).await.unwrap();
                assert_eq!(answer.status.as_u16(), 200);
                let bytes = answer.bytes(1 << 20).await.unwrap();
                assert_eq!(bytes.len(), 2_000);
            }
        }
    });
    asked.join().unwrap();
}

#[test]
fn all_edges_killed_at_once_know_what_is_held_without_an_announcement() {
    const TEST: &str = "all_edges_killed_at_once_know_what_is_held_without_an_announcement";
    let plan = Plan::edges(EDGES)
        // So that nobody has what another fetched but by the index.
        .cluster("homes = false")
        .shield()
        .cache("ram = \"32MiB\"\ndisk = [{ path = \"disk-NAME\", size = \"64MiB\" }]");
    let Some(mut mesh) = plan.prepare(TEST) else {
        return;
    };
    mesh.serve(|seen| async move {
        let mut body = seen.uri.path().as_bytes().to_vec();
        body.resize(2_000, b'.');
        Answer::ok(body).fresh(36_000).header("etag", "\"v\"")
    });
    mesh.start();
    let each = OBJECTS / EDGES;
    for edge in 0..EDGES {
        // Fetched once, and hit twice, so that it is announced. In two rounds: who asks while an object is still being stored joins its fetch, and hits nothing.
        for times in [1, 2] {
            ask(&mesh, edge, edge * each..(edge + 1) * each, times);
        }
    }
    let records = |mesh: &Mesh| mesh.all("stoq_index_records", &[]);
    let all = (EDGES * each * OWNERS) as f64;
    until("owners know what is held", || records(&mesh) == all);
    std::thread::park_timeout(WRITTEN);

    let began = Instant::now();
    for edge in &mesh.edges {
        edge.signal("KILL");
    }
    for edge in &mut mesh.edges {
        edge.kill();
    }
    for edge in &mut mesh.edges {
        edge.start(&mesh.network);
    }
    for edge in &mut mesh.edges {
        edge.ready();
    }
    let ready = began.elapsed();
    let at_once = records(&mesh);
    let seen = mesh.all_see_all(LIMIT);
    println!(
        "killed and all ready again after {ready:?}, {at_once} of {all} records were there then; all saw all {seen:?} later"
    );
    assert!(at_once >= all * 0.999, "{at_once}");
    // Each has looked at who owns what in the mesh that it sees.
    until("each has followed who is there", || {
        let edges = mesh.edges.iter();
        edges
            .map(|edge| edge.metric("stoq_index_owners_followed_total", &[]))
            .all(|followed| followed >= 1.0)
    });
    until("leases are renewed", || {
        mesh.all("stoq_index_waiting_changes", &[]) == 0.0
    });
    let after = records(&mesh);
    let again = mesh.all("stoq_index_announced_changes_total", &[]);
    println!("{after} of {all} records a moment later, {again} changes announced since the start");
    assert!(after >= all * 0.999, "{after}");
    assert_eq!(again, 0.0);

    // And they are of use: what one holds another finds.
    let named = |mesh: &Mesh| mesh.edges[0].metric("stoq_index_holders_total", &["by=\"index\""]);
    let before = named(&mesh);
    ask(&mesh, 0, each..2 * each, 1);
    let found = named(&mesh) - before;
    println!("{found} of {each} objects of another edge were found through the index");
    assert!(found >= each as f64 * 0.999, "{found}");
}
