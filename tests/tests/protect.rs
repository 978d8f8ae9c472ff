//! A site that is protected: what is hot of it is held by several edges, though clients asked one.

use bytes::Bytes;
use integration::{Answer, Cluster, EdgeNode, Origin, Running, Version, body, until};

const SIZE: usize = 512 << 10;

async fn get(edge: &EdgeNode, path: &str) -> blake3::Hash {
    let client = edge.client(Version::Http3).await;
    let answer = client.get(path).await.expect("an answer");
    assert_eq!(answer.status, 200);
    answer.whole().await.expect("a whole body").hash
}

async fn origin(whole: &Bytes) -> Origin {
    let whole = whole.clone();
    Origin::start(move |_| {
        let whole = whole.clone();
        async move { Answer::ok(whole).fresh(3600).header("etag", "\"v\"") }
    })
    .await
}

fn kept(cluster: &Running) -> f64 {
    let fetched = |edge: &EdgeNode| edge.metric("stoq_keep_fetched_total", &[]);
    cluster.edges.iter().map(fetched).sum()
}

#[tokio::test]
async fn what_is_hot_of_a_protected_site_outlives_the_edge_that_had_it() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(4);
    let mut cluster = cluster.edge_site("protect = 3").start().await;
    for _ in 0..3 {
        assert_eq!(get(&cluster.edges[0], "/hot").await, hash);
    }
    get(&cluster.edges[0], "/once").await;
    // Itself may be one of the three.
    until("others hold it", || kept(&cluster) >= 2.0).await;

    cluster.edges[0].kill().await;
    cluster.shields[0].kill().await;
    drop(origin);
    for edge in &cluster.edges[1..] {
        assert_eq!(get(edge, "/hot").await, hash);
    }
}
