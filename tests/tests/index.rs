//! Edges that tell each other what they hold: who has an object is found without asking everybody, and without asking the shield.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails ends the scenario, also in its functions"
)]

use integration::{Answer, Client, Cluster, Origin, Payload, Running, Version, body, until};
use stoq::peer::{Ask, DialConfig, PeerConn};
use stoq::quic::Endpoint;
use stoq_mesh::gossip::{Papers, node_id};
use stoq_mesh::index::INDEX;
use stoq_routing::Key;
use stoq_routing::index::{
    Announcement, Change, Record, Refusal, Reply, Request, Signed, Terms, WHOLE,
};

/// More than what is announced at once.
const LARGE: usize = 3 << 19;

/// Edges, so that a node has more others than own a key, and the index's word is final.
const EDGES: usize = 5;

/// Owners of a key.
const OWNERS: f64 = 3.0;

/// An origin that has `bytes` for each path, others for each.
async fn origin(bytes: usize) -> Origin {
    let seed = body::seed();
    Origin::start(move |seen| async move {
        let path = blake3::hash(seen.uri.path().as_bytes());
        let (first, _) = path.as_bytes().split_first_chunk().unwrap();
        let whole = body::random(seed ^ u64::from_le_bytes(*first), bytes);
        Answer::ok(whole).fresh(3600).header("etag", "\"v\"")
    })
    .await
}

async fn client(cluster: &Running, edge: usize) -> Client {
    cluster.edges[edge].client(Version::Http3).await
}

async fn get(client: &Client, path: &str) -> blake3::Hash {
    let answer = client.get(path).await.unwrap();
    answer.whole().await.unwrap().hash
}

fn all(cluster: &Running, name: &str) -> f64 {
    let edges = cluster.edges.iter();
    edges.map(|edge| edge.metric(name, &[])).sum()
}

/// Searches of an edge's fills by who named holders: index, neighbours, nobody.
fn named(cluster: &Running, edge: usize) -> [f64; 3] {
    ["index", "neighbours", "nobody"].map(|by| {
        let label = format!("by=\"{by}\"");
        cluster.edges[edge].metric("stoq_index_holders_total", &[&label])
    })
}

async fn known(cluster: &Running, objects: f64) {
    let told = || all(cluster, "stoq_index_records") == OWNERS * objects;
    until("owners know what is held", told).await;
}

#[tokio::test]
async fn object_fetched_at_one_edge_is_found_by_another_through_the_index() {
    let origin = origin(LARGE).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(EDGES).workers(1).start().await;
    let hash = get(&client(&cluster, 0).await, "/a").await;
    assert_eq!(named(&cluster, 0), [0.0, 0.0, 1.0]);
    known(&cluster, 1.0).await;
    let sent = || cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    let before = sent();

    assert_eq!(get(&client(&cluster, 1).await, "/a").await, hash);
    assert_eq!(named(&cluster, 1), [1.0, 0.0, 0.0]);
    let from_peers = ["source=\"peer\""];
    let got = cluster.edges[1].metric("stoq_cache_served_bytes_total", &from_peers);
    assert_eq!((got, sent() - before), (LARGE as f64, 0.0));
}

#[tokio::test]
async fn small_object_is_announced_once_it_was_hit_twice() {
    let origin = origin(10_000).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(EDGES).workers(1).start().await;
    let client = client(&cluster, 0).await;
    let announced = || cluster.edge().metric("stoq_index_objects", &[]);
    for (path, hits) in [("/a", 2), ("/b", 1)] {
        for _ in 0..=hits {
            get(&client, path).await;
        }
    }
    assert_eq!(announced(), 1.0);
    known(&cluster, 1.0).await;
}

#[tokio::test]
async fn what_is_evicted_or_invalidated_is_taken_back() {
    let origin = origin(LARGE).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(EDGES).workers(1).ram("8MiB").start().await;
    let first = client(&cluster, 0).await;
    let metric = |name| cluster.edge().metric(name, &[]);

    get(&first, "/changed").await;
    known(&cluster, 1.0).await;
    let request = http::Request::post("/changed");
    let answer = first.send(request.body(Payload::empty()).unwrap()).await;
    answer.unwrap().whole().await.unwrap();
    known(&cluster, 0.0).await;
    assert_eq!(metric("stoq_index_withdrawn_objects_total"), 1.0);

    // 18 MiB into 8.
    for number in 0..12 {
        get(&first, &format!("/{number}")).await;
    }
    let gone = || metric("stoq_index_withdrawn_objects_total") >= 1.0 + 6.0;
    until("what was evicted is taken back", gone).await;
    known(&cluster, metric("stoq_index_objects")).await;
    println!(
        "of 12 objects {} are announced, some of them as held in part",
        metric("stoq_index_objects")
    );
}

#[tokio::test]
async fn record_announced_for_another_node_is_refused_and_counted() {
    let origin = origin(10).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(3).workers(1).start().await;
    let ids = ["edge-1", "edge-2", "edge-3"].map(|name| cluster.identity(name));
    let [owner, honest, other] = &ids;
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::client(any, stoq_mesh::between_nodes()).unwrap();
    let addr = cluster.edge().stoq().unwrap();
    let config = DialConfig::default();
    let conn = PeerConn::dial(&endpoint, honest, addr, &config);
    let conn = conn.await.unwrap();
    let ask = async |holder: &stoq::identity::Identity, sequence| {
        let key = Key([7; 32]);
        let announcement = Announcement {
            terms: Terms {
                holder: node_id(holder.node_id()),
                owner: node_id(owner.node_id()),
                generation: u64::MAX,
                sequence,
            },
            changes: vec![Change::Add(Record {
                key,
                manifest: [8; 32],
                fraction: WHOLE,
                generation: 1,
            })],
        };
        // Signed by the holder that is named, and brought by another.
        let signed = Signed::by(&Papers::new(holder), announcement);
        let ask = Ask::new(INDEX, Request::Announce(signed).encode());
        Reply::decode(&conn.call(ask).await.unwrap()).unwrap()
    };
    let refused = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        cluster.edge().metric("stoq_index_refused_total", &[&label])
    };
    assert_eq!(ask(other, 1).await, Reply::Refused(Refusal::ForAnother));
    assert_eq!((refused("for_another"), refused("forged")), (1.0, 0.0));
    let kept = |records: f64| cluster.edge().metric("stoq_index_records", &[]) == records;
    assert!(kept(0.0));
    let taken = Reply::Accepted {
        refused: Vec::new(),
    };
    assert_eq!(ask(honest, 1).await, taken);
    assert!(kept(1.0));
}

#[tokio::test]
async fn all_edges_restarted_find_what_they_hold_without_announcing_it_again() {
    const OBJECTS: usize = 1_000;
    let origin = origin(2_000).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(EDGES).workers(1).disk("64MiB");
    // So that nobody has what the first edge fetched but by the index.
    let mut cluster = cluster.edge_cluster("homes = false").start().await;
    let hashes = {
        let client = client(&cluster, 0).await;
        let mut hashes = Vec::with_capacity(OBJECTS);
        for number in 0..OBJECTS {
            let path = format!("/{number}");
            // Fetched once, and hit twice.
            for _ in 0..2 {
                get(&client, &path).await;
            }
            hashes.push(get(&client, &path).await);
        }
        hashes
    };
    known(&cluster, OBJECTS as f64).await;

    cluster.restart_edges().await;
    let settled = || {
        let followed = |edge: &integration::EdgeNode| {
            edge.metric("stoq_index_owners_followed_total", &[]) >= 1.0
        };
        cluster.edges.iter().all(followed)
    };
    until("each edge has followed who is there", settled).await;
    {
        let client = client(&cluster, 1).await;
        for (number, hash) in hashes.iter().enumerate() {
            assert_eq!(get(&client, &format!("/{number}")).await, *hash);
        }
    }
    let [by_index, _, _] = named(&cluster, 1);
    let again = all(&cluster, "stoq_index_announced_changes_total");
    println!("{by_index} of {OBJECTS} found through the index; {again} changes announced again");
    assert!(by_index >= OBJECTS as f64 * 0.999, "{by_index}");
    assert_eq!(again, 0.0);
}

#[tokio::test]
async fn small_object_that_nobody_announced_is_found_at_its_home_by_those_who_miss_after_it() {
    const OBJECTS: usize = 24;
    const SIZE: usize = 10_000;
    let origin = origin(SIZE).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    // What homes are given is told elsewhere: here they have what clients asked them for.
    let cluster = cluster.edge_cluster("homes = false").edges(EDGES);
    let cluster = cluster.workers(1).start().await;
    for edge in 0..EDGES {
        let client = client(&cluster, edge).await;
        for number in 0..OBJECTS {
            get(&client, &format!("/{number}")).await;
        }
    }
    // Nobody has hit anything twice.
    assert_eq!(all(&cluster, "stoq_index_objects"), 0.0);
    let at_home =
        |edge: &integration::EdgeNode| edge.metric("stoq_index_holders_total", &["by=\"home\""]);
    let found: f64 = cluster.edges.iter().map(at_home).sum();
    let asked = all(&cluster, "stoq_index_homes_asked_total");
    let sent = cluster.shield().metric("stoq_object_body_bytes_total", &[]) / SIZE as f64;
    let misses = (OBJECTS * EDGES) as f64;
    println!(
        "{misses} misses: {asked} asked a home, {found} found it there, {sent} came from the shield"
    );
    // Each edge is home of some, and asks of all others.
    assert_eq!(asked, misses - OBJECTS as f64);
    assert!(found > 0.0);
    assert_eq!(sent, misses - found);
}
