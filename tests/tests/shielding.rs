//! Edges behind a shield: one fetch for all, only what changed travels, and what happens without it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request};
use integration::{Answer, Cluster, Gate, Origin, Payload, Running, Version, body};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::Endpoint;
use stoq_cache::content::ChunkKey;
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{FetchRequest, FetchResponse, Upstream, UpstreamError};
use stoq_mesh::ShieldClient;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

#[tokio::test]
async fn three_edges_cost_the_origin_one_fetch() {
    let whole = body::random(5, 3 << 20);
    let origin = Origin::start({
        let whole = whole.clone();
        move |_| {
            let whole = whole.clone();
            async move { Answer::ok(whole).fresh(60).header("etag", "\"v\"") }
        }
    })
    .await;
    let cluster = Cluster::new()
        .origin(&origin)
        .shield()
        .edges(3)
        .start()
        .await;
    for edge in &cluster.edges {
        for version in [Version::Http3, Version::Http2] {
            let client = edge.client(version).await;
            assert_eq!(
                client.get("/a").await.unwrap().whole().await.unwrap().hash,
                blake3::hash(&whole)
            );
        }
    }
    assert_eq!(origin.requests("/a"), 1);
}

#[tokio::test]
async fn a_new_version_moves_only_the_chunks_that_changed() {
    const SIZE: usize = 8 << 20;
    let old = body::random(body::seed(), SIZE);
    let new = Bytes::from(
        [
            &old[..SIZE / 2],
            b"some words in the middle",
            &old[SIZE / 2..],
        ]
        .concat(),
    );
    let origin = Origin::start({
        let (old, new) = (old.clone(), new.clone());
        move |seen| {
            let (old, new) = (old.clone(), new.clone());
            async move {
                let (body, tag) = if seen.nth == 0 {
                    (old, "\"1\"")
                } else {
                    (new, "\"2\"")
                };
                Answer::ok(body)
                    .header("etag", tag)
                    .header("cache-control", "max-age=0")
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let client = cluster.edge().client(Version::Http3).await;
    let sent = || cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(
        client.get("/a").await.unwrap().whole().await.unwrap().hash,
        blake3::hash(&old)
    );
    let first = sent();
    assert_eq!(
        client.get("/a").await.unwrap().whole().await.unwrap().hash,
        blake3::hash(&new)
    );
    let second = sent() - first;
    let held = cluster.shield().metric("stoq_object_held_bytes_total", &[]);
    println!("an object of {SIZE} bytes; its next version moved {second} bytes, {held} were held");
    assert!(second < SIZE as f64 * 0.05, "moved {second}");
    assert!(held > SIZE as f64 * 0.95, "held {held}");
}

#[tokio::test]
async fn without_its_shield_an_edge_asks_the_origin_only_where_it_may() {
    for fallback in [true, false] {
        let origin = Origin::start(|_| async {
            Answer::ok("x")
                .header("cache-control", "max-age=0")
                .header("etag", "\"v\"")
        })
        .await;
        let site = format!("shield_fallback = {fallback}");
        let mut cluster = Cluster::new()
            .origin(&origin)
            .site(&site)
            .shield()
            .start()
            .await;
        let client = cluster.edge().client(Version::Http3).await;
        assert_eq!(
            client.get("/known").await.unwrap().bytes(10).await.unwrap(),
            "x"
        );
        cluster.shields[0].kill().await;

        let known = client.get("/known").await.unwrap();
        println!(
            "fallback {fallback}, stored: {}",
            known.header("cache-status").unwrap()
        );
        assert_eq!(known.status, 200, "fallback {fallback}");
        assert_eq!(known.bytes(10).await.unwrap(), "x");
        if !fallback {
            assert_eq!(
                origin.requests("/known"),
                1,
                "the stored one stands in, the origin is not asked"
            );
        }
        let unknown = client.get("/unknown").await.unwrap();
        println!(
            "fallback {fallback}, unknown: {} {}",
            unknown.status,
            unknown.header("cache-status").unwrap()
        );
        if fallback {
            assert_eq!(unknown.status, 200);
            assert_eq!(origin.requests("/unknown"), 1);
        } else {
            assert_eq!(unknown.status, 504);
            assert!(unknown.header("cache-status").unwrap().contains("detail="));
            assert_eq!(origin.requests("/unknown"), 0);
        }
    }
}

#[tokio::test]
async fn an_origin_that_is_down_behind_the_shield_is_served_stale_and_else_an_error() {
    let origin = Origin::start(|_| async {
        Answer::ok("x")
            .header("cache-control", "max-age=0")
            .header("etag", "\"v\"")
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let client = cluster.edge().client(Version::Http3).await;
    assert_eq!(
        client.get("/known").await.unwrap().bytes(10).await.unwrap(),
        "x"
    );
    drop(origin);
    let known = client.get("/known").await.unwrap();
    assert!(
        known
            .header("cache-status")
            .unwrap()
            .contains("upstream-unreachable")
    );
    assert_eq!(known.status, 200);
    let unknown = client.get("/unknown").await.unwrap();
    assert_eq!(unknown.status, 504);
}

#[tokio::test]
async fn conditions_and_heads_pass_the_shield_as_they_should() {
    let origin =
        Origin::start(|_| async { Answer::ok("hello").fresh(60).header("etag", "\"v\"") }).await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let client = cluster.edge().client(Version::Http3).await;
    let head = Request::builder()
        .method(Method::HEAD)
        .uri("/a")
        .body(Payload::empty())
        .unwrap();
    let head = client.send(head).await.unwrap();
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, Some("5"))
    );
    assert_eq!(
        client.get("/a").await.unwrap().bytes(10).await.unwrap(),
        "hello"
    );
    let condition = Request::builder()
        .uri("/a")
        .header("if-none-match", "\"v\"")
        .body(Payload::empty())
        .unwrap();
    assert_eq!(client.send(condition).await.unwrap().status, 304);
    let range = Request::builder()
        .uri("/a")
        .header("range", "bytes=1-3")
        .body(Payload::empty())
        .unwrap();
    let range = client.send(range).await.unwrap();
    assert_eq!(range.status, 206);
    assert_eq!(range.bytes(10).await.unwrap(), "ell");
}

#[tokio::test]
async fn a_key_that_is_not_the_urls_is_refused_by_the_shield() {
    let origin = Origin::start(|_| async { Answer::ok("x").fresh(60) }).await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let identity = cluster.identity("edge-1");
    let chunk_key = *ChunkKey::derive(identity.cluster_secret(), "site")
        .key_id()
        .as_bytes();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::client(any, stoq_mesh::between_nodes()).unwrap();
    let pool = Pool::new(endpoint, identity, PoolConfig::default());
    let asker = |id: [u8; 16]| {
        let nodes = [cluster.shield().addr().into()].into();
        ShieldClient::new(
            pool.clone(),
            nodes,
            Arc::new(move |_| id),
            Duration::from_secs(5),
        )
    };
    let request = |path: &str, site: &str| FetchRequest {
        method: Method::GET,
        scheme: Scheme::HTTPS,
        authority: "localhost".to_owned(),
        path_and_query: "/a".parse().unwrap(),
        headers: HeaderMap::new(),
        body: None,
        site: site.into(),
        key: CacheKey::of("site", "https", "localhost", path),
        held: None,
    };
    let refused = |fetched: Result<FetchResponse, UpstreamError>| match fetched {
        Err(UpstreamError::Refused { reason }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was answered"),
    };
    let mismatch = refused(asker(chunk_key).fetch(request("/other", "site")).await);
    for said in [
        "key-mismatch: https://localhost/a has another key here",
        "compare `query` and `rule` of site \"site\" at edge and shield",
    ] {
        assert!(mismatch.contains(said), "{mismatch}");
    }
    assert!(refused(asker([0; 16]).fetch(request("/a", "site")).await).contains("another key"));
    assert!(refused(asker(chunk_key).fetch(request("/a", "elsewhere")).await).contains("no site"));
    assert!(asker(chunk_key).fetch(request("/a", "site")).await.is_ok());
    assert_eq!(origin.requests("/a"), 1);
}

/// Each of two shields has its part of the URLs. When the one that fills an object dies midway, the other goes on: nobody's body breaks, and the origin is asked once more.
#[tokio::test]
async fn shield_that_dies_midway_costs_one_more_fetch_and_no_client_anything() {
    const HALF: usize = 2 << 20;
    let whole = body::random(body::seed(), 2 * HALF);
    let hash = blake3::hash(&whole);
    let gate = Gate::default();
    let origin = {
        let (whole, gate) = (whole.clone(), gate.clone());
        Origin::start(move |_| {
            let (whole, gate) = (whole.clone(), gate.clone());
            async move {
                let (first, second) = (whole.slice(..HALF), whole.slice(HALF..));
                let rest = stream::once(async move {
                    gate.passed().await;
                    Ok(second)
                });
                let first = stream::iter([Ok(first)]);
                Answer::ok("")
                    .stream(Some(2 * HALF as u64), first.chain(rest))
                    .header("etag", "\"v\"")
                    .fresh(3600)
            }
        })
        .await
    };
    let cluster = Cluster::new().origin(&origin).shields(2).edges(3);
    let mut cluster = cluster.start().await;
    let asked = |cluster: &Running| {
        let asked = cluster.shields.iter();
        let asked = asked.map(|shield| shield.metric("stoq_cache_fetches_total", &[]));
        asked.collect::<Vec<_>>()
    };

    let mut bodies = JoinSet::new();
    let mut begun = Vec::new();
    for edge in &cluster.edges {
        for version in [Version::Http3, Version::Http2] {
            let client = edge.client(version).await;
            let (tell, told) = oneshot::channel();
            begun.push(told);
            bodies.spawn(async move {
                let mut answer = client.get("/a").await.expect("an answer");
                let mut hasher = blake3::Hasher::new();
                let mut tell = Some(tell);
                while let Some(bytes) = answer.body.chunk().await.expect("the body goes on") {
                    hasher.update(&bytes);
                    tell.take().map(|tell| tell.send(()));
                }
                hasher.finalize()
            });
        }
    }
    for told in begun {
        told.await.expect("the body's first bytes");
    }
    assert_eq!(origin.requests("/a"), 1);
    let fills = asked(&cluster);
    let filling = fills
        .iter()
        .position(|asked| *asked > 0.0)
        .expect("a shield that asked");
    cluster.shields[filling].kill().await;
    gate.open();

    while let Some(body) = bodies.join_next().await {
        assert_eq!(body.expect("a client"), hash);
    }
    assert_eq!(origin.requests("/a"), 2);
}
