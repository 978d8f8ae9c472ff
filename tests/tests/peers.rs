//! Edges that fill from each other: bytes come from whoever has them, and the shield says only what they are.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use integration::{
    Answer, Client, Cluster, EdgeNode, Origin, Payload, Running, Version, body, until,
};

const SIZE: usize = 8 << 20;

const EDGES: usize = 8;

async fn origin(whole: &Bytes) -> Origin {
    let whole = whole.clone();
    Origin::start(move |_| {
        let whole = whole.clone();
        async move { Answer::ok(whole).fresh(3600).header("etag", "\"v\"") }
    })
    .await
}

async fn get(cluster: &Running, edge: usize, path: &str) -> blake3::Hash {
    let client = cluster.edges[edge].client(Version::Http3).await;
    get_with(&client, path).await.expect("a body")
}

/// What comes; `None` for 504.
async fn get_with(client: &Client, path: &str) -> Option<blake3::Hash> {
    let answer = client.get(path).await.expect("an answer");
    let status = answer.status;
    let hash = answer.whole().await.expect("a whole body").hash;
    match status.as_u16() {
        200 => Some(hash),
        504 => None,
        other => panic!("{path}: {other}"),
    }
}

/// Body bytes that an edge served, by where it had them from.
fn served(cluster: &Running, edge: usize) -> [f64; 3] {
    ["peer", "shield", "origin"].map(|source| {
        let label = format!("source=\"{source}\"");
        cluster.edges[edge].metric("stoq_cache_served_bytes_total", &[&label])
    })
}

#[tokio::test]
async fn second_edge_fills_from_the_first_and_from_the_shield_once_that_is_dead() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(3);
    let mut cluster = cluster.start().await;
    let sent = |cluster: &Running| cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    let size = SIZE as f64;

    assert_eq!(get(&cluster, 0, "/a").await, hash);
    assert_eq!(served(&cluster, 0), [0.0, size, 0.0]);
    let (first, asked) = (sent(&cluster), origin.requests("/a"));

    assert_eq!(get(&cluster, 1, "/a").await, hash);
    assert_eq!(served(&cluster, 1), [size, 0.0, 0.0]);
    assert_eq!((sent(&cluster), origin.requests("/a")), (first, asked));
    // What one says it got, the other says it gave.
    let gave = cluster.edges[0].metric("stoq_object_body_bytes_total", &[]);
    let got = cluster.edges[1].metric("stoq_fill_chunk_bytes_total", &["source=\"peer\""]);
    assert_eq!((gave, got), (size, size));
    assert_eq!(
        cluster.edges[1].metric("stoq_fill_wasted_bytes_total", &[]),
        0.0
    );

    // Both hold it now, and the third asks both.
    assert_eq!(get(&cluster, 2, "/a").await, hash);
    assert_eq!(served(&cluster, 2), [size, 0.0, 0.0]);

    assert_eq!(get(&cluster, 0, "/b").await, hash);
    cluster.edges[0].kill().await;
    let before = sent(&cluster);
    assert_eq!(get(&cluster, 1, "/b").await, hash);
    assert_eq!(served(&cluster, 1), [size, size, 0.0]);
    assert_eq!(sent(&cluster) - before, size);
    assert_eq!(origin.requests("/b"), 1);
}

#[tokio::test]
async fn third_edge_fills_from_the_second_when_origin_shield_and_first_are_dead() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = Origin::start(move |seen| {
        let whole = whole.clone();
        async move {
            let answer = Answer::ok(whole).header("etag", "\"v\"");
            match seen.uri.path() {
                // Stale at once, and to be used then where nobody answers, or never.
                "/stale" => answer.header("cache-control", "max-age=1, stale-if-error=600"),
                "/must" => answer.header("cache-control", "max-age=1, must-revalidate"),
                _ => answer.fresh(3600),
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(3);
    let mut cluster = cluster.start().await;
    for path in ["/fresh", "/stale", "/must"] {
        for edge in 0..2 {
            assert_eq!(get(&cluster, edge, path).await, hash);
        }
    }
    cluster.edges[0].kill().await;
    cluster.shields[0].kill().await;
    drop(origin);
    // What was asked for last is too old to be used without being asked about, so all is older than its second.
    let client = cluster.edges[1].client(Version::Http3).await;
    let too_old = async { while get_with(&client, "/must").await.is_some() {} };
    let waited = tokio::time::timeout(Duration::from_secs(60), too_old).await;
    assert!(
        waited.is_ok(),
        "what must be revalidated is served for ever"
    );

    let client = cluster.edges[2].client(Version::Http3).await;
    for path in ["/fresh", "/stale"] {
        let answer = client.get(path).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
        let age = answer.header("age").map(|age| age.parse::<u64>());
        assert!(matches!(age, Some(Ok(age)) if age >= 1), "{path}: {age:?}");
        assert_eq!(answer.whole().await.expect("a whole body").hash, hash);
    }
    // The same bytes under two URLs come once.
    assert_eq!(served(&cluster, 2), [SIZE as f64, 0.0, 0.0]);
    assert_eq!(cluster.edges[2].metric("stoq_fill_kept_total", &[]), 2.0);
    // It is stored here now.
    assert_eq!(get_with(&client, "/fresh").await, Some(hash));
    assert_eq!(cluster.edges[2].metric("stoq_fill_kept_total", &[]), 2.0);
    assert_eq!(get_with(&client, "/must").await, None);
    assert_eq!(served(&cluster, 2), [SIZE as f64, 0.0, 0.0]);
}

#[tokio::test]
async fn edge_that_holds_an_old_version_gives_what_has_not_changed() {
    let old = body::random(body::seed(), SIZE);
    let new = [
        &old[..SIZE / 2],
        b"some words in the middle",
        &old[SIZE / 2..],
    ]
    .concat();
    let hashes = [blake3::hash(&old), blake3::hash(&new)];
    let origin = Origin::start(move |seen| {
        let (old, new) = (old.clone(), Bytes::from(new.clone()));
        async move {
            let (body, tag) = match seen.nth {
                0 => (old, "\"1\""),
                _ => (new, "\"2\""),
            };
            Answer::ok(body)
                .header("etag", tag)
                .header("cache-control", "max-age=0")
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(2);
    let cluster = cluster.start().await;

    assert_eq!(get(&cluster, 0, "/a").await, hashes[0]);
    assert_eq!(get(&cluster, 1, "/a").await, hashes[1]);

    let [peer, shield, _] = served(&cluster, 1);
    println!(
        "of a new version {peer} bytes came from a peer that has the old one, {shield} from the shield"
    );
    assert_eq!(peer + shield, (SIZE + 24) as f64);
    assert!(shield < SIZE as f64 * 0.05, "{shield}");
}

#[tokio::test]
async fn what_is_only_passed_on_comes_whole_where_its_chunks_are_here_and_its_manifest_elsewhere() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = Origin::stale_until_confirmed(whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(2);
    let cluster = cluster.start().await;
    // Stale when it comes to the first, and fresh at the shield and the second.
    for edge in 0..2 {
        assert_eq!(get(&cluster, edge, "/a").await, hash);
    }
    let sent = cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    let client = cluster.edges[0].client(Version::Http3).await;
    let request = Request::get("/a").header("cache-control", "no-store");
    let request = request.body(Payload::empty()).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.whole().await.expect("a whole body").hash, hash);
    // What is here did not travel.
    let after = cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(after - sent, 0.0);
}

#[tokio::test]
async fn many_edges_cost_shield_and_origin_one_object() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers();
    let cluster = cluster.edges(EDGES).workers(1).ram("40MiB").start().await;
    assert_eq!(get(&cluster, 0, "/a").await, hash);
    // Among so many the index says who has it, once three owners know.
    let told = || {
        let records = |edge: &EdgeNode| edge.metric("stoq_index_records", &[]);
        cluster.edges.iter().map(records).sum::<f64>() == 3.0
    };
    until("owners know that the first has it", told).await;
    for edge in 1..EDGES {
        assert_eq!(get(&cluster, edge, "/a").await, hash, "edge {edge}");
    }
    assert_eq!(origin.requests("/a"), 1);
    let sent = cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(sent, SIZE as f64, "the shield sent it once");
}
