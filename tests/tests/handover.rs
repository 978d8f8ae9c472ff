//! A drain: what was asked for most at an edge is at its neighbours when it has gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use integration::{Answer, Cluster, EdgeNode, Gate, Origin, Running, Version, body, until};
use stoq::peer::PeerConn;
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::Endpoint;
use stoq_mesh::keep::{self, Object, Request};

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

/// How long an edge is given to keep something.
const LONG: Duration = Duration::from_secs(50);

/// A connection to the second edge, as the first.
async fn as_the_first(cluster: &Running) -> (Pool, PeerConn) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::client(any, stoq_mesh::between_nodes()).expect("an endpoint");
    let identity = cluster.identity("edge-1");
    let pool = Pool::new(endpoint, identity, PoolConfig::default());
    let addr = cluster.edges[1].stoq().expect("it listens for others");
    let conn = pool.get(addr).await.expect("a connection");
    (pool, conn)
}

fn keep_these(paths: &[&str]) -> Request {
    let objects = paths.iter().map(|path| Object {
        site: "site".to_owned(),
        https: true,
        authority: "localhost".to_owned(),
        path_and_query: (*path).to_owned(),
        root: [0; 32],
        headers: HeaderMap::new(),
    });
    Request {
        within_ms: u32::try_from(LONG.as_millis()).expect("less than 60 s"),
        objects: objects.collect(),
    }
}

/// What an edge was asked to keep, and what came of it.
fn ends(edge: &EdgeNode) -> (f64, [f64; 4]) {
    let count = |name: &str| edge.metric(&format!("stoq_keep_{name}_total"), &[]);
    let ends = ["held", "fetched", "failed", "refused"].map(count);
    (count("asked"), ends)
}

#[tokio::test]
async fn an_error_that_a_stale_copy_covers_is_not_said_to_be_kept() {
    let origin = Origin::start(|seen| async move {
        match (seen.uri.path(), seen.nth) {
            ("/b", _) | (_, 0) => Answer::ok("old")
                .header("cache-control", "max-age=0, stale-if-error=600")
                .header("etag", "\"v\""),
            _ => Answer::status(503),
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).peers().edges(2);
    let cluster = cluster.start().await;
    get(&cluster.edges[1], "/a").await;
    let (_pool, conn) = as_the_first(&cluster).await;
    let answer = keep::ask(&conn, &keep_these(&["/a", "/b"]), LONG).await;
    let answer = answer.expect("an answer");
    // The other one is stored though it is never fresh.
    assert_eq!((answer.fetched, answer.failed), (1, 1), "{answer:?}");
    assert_eq!(ends(&cluster.edges[1]), (2.0, [0.0, 1.0, 1.0, 0.0]));
    assert_eq!(origin.requests("/a"), 2);
}

#[tokio::test]
async fn what_an_asker_that_left_wanted_kept_is_not_fetched_and_each_has_its_end() {
    const PATHS: [&str; 8] = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"];
    let gate = Gate::default();
    let origin = Origin::start({
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Answer::ok("x").fresh(3600)
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).peers().edges(2);
    let cluster = cluster.start().await;
    let asked = || {
        PATHS
            .iter()
            .map(|path| origin.requests(path))
            .sum::<usize>()
    };
    let (_pool, conn) = as_the_first(&cluster).await;
    let request = keep_these(&PATHS);
    tokio::select! {
        answer = keep::ask(&conn, &request, LONG) => panic!("{answer:?}"),
        () = until("some are fetched", || asked() == 4) => {}
    }
    // It knows that the asker has left when it answers what was asked after that.
    for _ in 0..2 {
        let nothing = keep::ask(&conn, &keep_these(&[]), LONG).await;
        nothing.expect("an answer");
    }
    gate.open();
    let edge = &cluster.edges[1];
    until("each has its end", || {
        ends(edge).1.iter().sum::<f64>() == 8.0
    })
    .await;
    assert_eq!(ends(edge), (8.0, [0.0, 4.0, 4.0, 0.0]));
    assert_eq!(asked(), 4);
}
