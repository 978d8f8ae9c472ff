//! A drain: what was asked for most at an edge is at its neighbours when it has gone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use integration::{Answer, Cluster, EdgeNode, Origin, Version, body};

const SIZE: usize = 256 << 10;
const HOT: usize = 12;

fn object(seed: u64, path: &str) -> Bytes {
    let number: u64 = path.trim_start_matches("/").parse().unwrap_or(99);
    body::random(seed + number, SIZE)
}

async fn origin(seed: u64) -> Origin {
    Origin::start(move |seen| {
        let body = object(seed, seen.uri.path());
        async move { Answer::ok(body).fresh(3600).header("etag", "\"v\"") }
    })
    .await
}

async fn get(edge: &EdgeNode, path: &str) -> blake3::Hash {
    let client = edge.client(Version::Http3).await;
    let answer = client.get(path).await.expect("an answer");
    assert_eq!(answer.status, 200);
    answer.whole().await.expect("a whole body").hash
}

#[tokio::test]
async fn after_a_drain_the_neighbours_have_what_was_hot_and_nobody_above_is_asked_for_its_bytes() {
    let seed = body::seed();
    let origin = origin(seed).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(3);
    let cluster = cluster.tables("[shape]\nrate = \"1GiB\"");
    let mut cluster = cluster.start().await;
    let paths: Vec<_> = (0..HOT).map(|number| format!("/{number}")).collect();
    for path in &paths {
        for _ in 0..2 {
            get(&cluster.edges[0], path).await;
        }
    }
    get(&cluster.edges[0], "/cold").await;
    let sent = || cluster.shields[0].metric("stoq_object_body_bytes_total", &[]);
    let before = sent();

    let mut leaving = cluster.edges.remove(0);
    leaving.stop().await.expect("it drains");
    let hot = HOT as f64;
    for (name, want) in [("offered", hot), ("given", hot), ("left", 0.0)] {
        let name = format!("stoq_keep_{name}_total");
        assert_eq!(leaving.metric(&name, &[]), want, "{name}");
    }
    // Copies ahead of need went as such.
    let copies = leaving.metric("stoq_shape_replicate_bytes_total", &[]);
    assert_eq!(copies, (HOT * SIZE) as f64);

    let kept = |edge: &EdgeNode| edge.metric("stoq_keep_fetched_total", &[]);
    assert_eq!(cluster.edges.iter().map(kept).sum::<f64>(), hot);
    for edge in &cluster.edges {
        for path in &paths {
            assert_eq!(get(edge, path).await, blake3::hash(&object(seed, path)));
        }
        for source in ["source=\"shield\"", "source=\"origin\""] {
            assert_eq!(edge.metric("stoq_cache_served_bytes_total", &[source]), 0.0);
        }
    }
    assert_eq!(
        cluster.shields[0].metric("stoq_object_body_bytes_total", &[]),
        before,
        "the shield sent bytes of what was handed over"
    );
    for path in &paths {
        assert_eq!(origin.requests(path), 1, "{path}");
    }
}

#[tokio::test]
async fn an_edge_that_has_nobody_to_hand_over_to_drains_at_once() {
    let origin = origin(body::seed()).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(1);
    let mut cluster = cluster.start().await;
    for _ in 0..3 {
        get(&cluster.edges[0], "/1").await;
    }
    let began = Instant::now();
    cluster.edges[0].stop().await.expect("it drains");
    // Less than two thirds of a drain, which is what a handover may take.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(cluster.edges[0].metric("stoq_keep_offered_total", &[]), 0.0);
}
