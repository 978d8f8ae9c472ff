//! Edges without a shield: what one has fetched from the origin the others take from it, by its word.

use bytes::Bytes;
use http::{Method, Request};
use integration::{Answer, Cluster, Origin, Payload, Running, Version, body, until};
use stoq::identity::Role;

const SIZE: usize = 4 << 20;

/// Sends a body of its own for each request, fresh for an hour.
async fn origin(bodies: Vec<Bytes>) -> Origin {
    Origin::start(move |seen| {
        let nth = usize::try_from(seen.nth).unwrap_or(usize::MAX);
        let last = bodies.len() - 1;
        let whole = bodies[nth.min(last)].clone();
        async move {
            match seen.method {
                Method::GET => Answer::ok(whole)
                    .fresh(3600)
                    .header("etag", &format!("\"{nth}\"")),
                _ => Answer::ok("done"),
            }
        }
    })
    .await
}

fn role(site: &str) -> Role {
    Role::Fetch(site.to_owned())
}

async fn get(cluster: &Running, edge: usize, path: &str) -> blake3::Hash {
    let client = cluster.edges[edge].client(Version::Http3).await;
    let answer = client.get(path).await.expect("an answer");
    assert_eq!(answer.status, 200);
    answer.whole().await.expect("a whole body").hash
}

fn served(cluster: &Running, edge: usize, source: &str) -> f64 {
    let label = format!("source=\"{source}\"");
    cluster.edges[edge].metric("stoq_cache_served_bytes_total", &[&label])
}

#[tokio::test]
async fn without_a_shield_the_second_edge_fills_from_the_first_and_the_origin_sees_one_fetch() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(vec![whole]).await;
    let cluster = Cluster::new()
        .origin(&origin)
        .peers()
        .edges(3)
        .edge_role(role("site"));
    let mut cluster = cluster.start().await;

    assert_eq!(get(&cluster, 0, "/a").await, hash);
    assert_eq!(
        cluster.edges[0].metric("stoq_vouched_objects_total", &[]),
        1.0
    );
    assert_eq!(get(&cluster, 1, "/a").await, hash);
    assert_eq!(origin.requests("/a"), 1);
    assert_eq!(served(&cluster, 1, "peer"), SIZE as f64);
    assert_eq!(cluster.edges[1].metric("stoq_fill_spared_total", &[]), 1.0);

    // The second passes the word of the first on.
    cluster.edges[0].kill().await;
    assert_eq!(get(&cluster, 2, "/a").await, hash);
    assert_eq!(origin.requests("/a"), 1);
    assert_eq!(served(&cluster, 2, "peer"), SIZE as f64);
}

#[tokio::test]
async fn an_edge_that_may_not_vouch_for_the_site_spares_nobody_a_fetch() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    for role in [None, Some(role("another"))] {
        let origin = origin(vec![whole.clone()]).await;
        let mut cluster = Cluster::new().origin(&origin).peers().edges(2);
        if let Some(role) = role {
            cluster = cluster.edge_role(role);
        }
        let cluster = cluster.start().await;
        for edge in 0..2 {
            assert_eq!(get(&cluster, edge, "/a").await, hash);
        }
        assert_eq!(origin.requests("/a"), 2);
        assert_eq!(served(&cluster, 1, "peer"), 0.0);
    }
}

#[tokio::test]
async fn what_an_unsafe_request_invalidated_here_is_not_taken_from_another_edge() {
    let bodies: Vec<_> = (0..3)
        .map(|it| body::random(body::seed() + it, SIZE))
        .collect();
    let hashes: Vec<_> = bodies.iter().map(|body| blake3::hash(body)).collect();
    let origin = origin(bodies).await;
    let cluster = Cluster::new()
        .origin(&origin)
        .peers()
        .edges(2)
        .edge_role(role("site"));
    let cluster = cluster.start().await;

    assert_eq!(get(&cluster, 0, "/a").await, hashes[0]);
    let client = cluster.edges[1].client(Version::Http3).await;
    let post = Request::builder().method(Method::POST).uri("/a");
    let post = post.body(Payload::bytes("x")).expect("a request");
    let answer = client.send(post).await.expect("an answer");
    answer.whole().await.expect("a whole body");
    // The first still has the old one.
    assert_eq!(get(&cluster, 0, "/a").await, hashes[0]);
    assert_eq!(get(&cluster, 1, "/a").await, hashes[2]);
    assert_eq!(served(&cluster, 1, "peer"), 0.0);
}

#[tokio::test]
async fn what_the_origin_confirmed_is_vouched_for_anew() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = Origin::stale_until_confirmed(whole).await;
    let cluster = Cluster::new()
        .origin(&origin)
        .peers()
        .edges(2)
        .edge_role(role("site"));
    let cluster = cluster.start().await;
    assert_eq!(get(&cluster, 0, "/a").await, hash);
    // It was stale when it came.
    assert_eq!(get(&cluster, 0, "/a").await, hash);
    assert_eq!(origin.requests("/a"), 2);
    until("the first vouches for what was confirmed", || {
        cluster.edges[0].metric("stoq_vouched_objects_total", &[]) == 2.0
    })
    .await;
    assert_eq!(get(&cluster, 1, "/a").await, hash);
    assert_eq!(origin.requests("/a"), 2);
    assert_eq!(served(&cluster, 1, "peer"), SIZE as f64);
}
