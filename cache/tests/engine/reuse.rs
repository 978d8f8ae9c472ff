//! What is stored answers requests: fresh, part, confirmed, or in place of an upstream that is gone.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method};
use stoq_cache::{
    engine::Failure,
    http::{cache_status::CacheStatus, policy::SitePolicy},
    reply::ReplyBody,
    upstream::{FetchBody, Upstream, UpstreamError},
};

use crate::script::{
    Script, body, cache_status, fed, house, house_with, noise, pieces, response, until,
    whole_or_part,
};

const FRESH: &[(&str, &str)] = &[
    ("cache-control", "max-age=60"),
    ("etag", "\"v1\""),
    ("content-type", "text/plain"),
];

#[tokio::test]
async fn a_small_hit_is_one_piece_and_needs_no_wait() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 1024));
    let request = house.get("/", &[]);
    assert!(house.try_hit(&request).is_none());
    house.fetch("/", &upstream).await;
    house.pass_seconds(7);
    let hit = house.try_hit(&request).expect("fresh and in RAM");
    assert!(matches!(&hit.body, ReplyBody::Bytes(bytes) if *bytes == noise(1, 1024)));
    assert_eq!(hit.outcome, CacheStatus::Hit);
    let headers = hit.to_headers();
    assert_eq!(
        (&headers["age"], &headers["content-length"]),
        (&"7".parse().unwrap(), &"1024".parse().unwrap())
    );
    assert_eq!(cache_status(&hit), "edge; hit; ttl=53");
    assert_eq!(headers.get_all("age").iter().count(), 1);
    house.pass_seconds(53);
    assert!(house.try_hit(&request).is_none(), "stale at its lifetime");
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn larger_hits_are_chunks_then_streams() {
    let house = house();
    for (path, length) in [("/chunks", 900_000), ("/stream", 1_100_000)] {
        let upstream = Script::fixed(FRESH, noise(2, length));
        house.fetch(path, &upstream).await;
        let hit = house.try_hit(&house.get(path, &[]));
        assert_eq!(hit.is_some(), length < 1 << 20);
        let reply = house.serve(house.get(path, &[]), &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::Hit);
        assert_eq!(body(reply).await.unwrap(), noise(2, length));
        assert_eq!(upstream.fetches(), 1);
        if let Some(hit) = hit {
            assert!(matches!(&hit.body, ReplyBody::Chunks(_)));
            assert_eq!(hit.body.len_hint(), Some(length as u64));
        }
    }
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn head_conditions_and_ranges_are_answered_from_the_store() {
    let house = house();
    let content = noise(3, 200_000);
    let upstream = Script::fixed(FRESH, content.clone());
    house.fetch("/", &upstream).await;

    let mut head = house.get("/", &[]);
    head.method = Method::HEAD;
    let reply = house.try_hit(&head).unwrap();
    assert_eq!(reply.to_headers()["content-length"], "200000");
    assert_eq!(body(reply).await.unwrap(), "");

    let reply = house
        .try_hit(&house.get("/", &[("if-none-match", "W/\"v1\"")]))
        .unwrap();
    assert_eq!(reply.status().as_u16(), 304);
    assert!(
        !reply.to_headers().contains_key("content-length")
            && reply.to_headers()["etag"] == "\"v1\""
    );

    let reply = house
        .try_hit(&house.get("/", &[("range", "bytes=50000-150000")]))
        .unwrap();
    assert_eq!(reply.status().as_u16(), 206);
    assert_eq!(
        reply.to_headers()["content-range"],
        "bytes 50000-150000/200000"
    );
    assert_eq!(body(reply).await.unwrap(), content[50_000..=150_000]);

    let reply = house
        .try_hit(&house.get("/", &[("range", "bytes=0-9"), ("if-range", "\"v0\"")]))
        .unwrap();
    assert_eq!(
        (reply.status().as_u16(), reply.body.len_hint()),
        (200, Some(200_000))
    );

    let reply = house
        .try_hit(&house.get("/", &[("range", "bytes=200000-")]))
        .unwrap();
    assert_eq!(reply.status().as_u16(), 416);
    assert_eq!(reply.to_headers()["content-range"], "bytes */200000");
    assert_eq!(reply.to_headers()["content-length"], "0");
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn a_cold_head_is_not_stored_and_asks_for_no_body() {
    let house = house();
    let upstream = Script::new(|request, _| {
        assert_eq!(request.method, Method::HEAD);
        std::future::ready(Ok(response(200, FRESH, FetchBody::Empty)))
    });
    let mut head = house.get("/", &[]);
    head.method = Method::HEAD;
    let reply = house.serve(head.clone(), &upstream).await.unwrap();
    assert_eq!(
        (reply.status().as_u16(), reply.outcome),
        (200, CacheStatus::Miss)
    );
    assert!(house.try_hit(&head).is_none());
}

#[tokio::test]
async fn revalidation_keeps_the_body_and_takes_the_new_fields() {
    let house = house();
    let content = noise(4, 100_000);
    let upstream = {
        let content = content.clone();
        Script::new(move |request, n| {
            let renewed = [
                ("cache-control", "max-age=30"),
                ("etag", "\"v1\""),
                ("x-new", "yes"),
            ];
            std::future::ready(Ok(whole_or_part(
                &request,
                if n == 0 { FRESH } else { &renewed },
                &content,
            )))
        })
    };
    house.fetch("/", &upstream).await;
    house.pass_seconds(100);
    let reply = house
        .serve(house.get("/", &[("if-none-match", "\"other\"")]), &upstream)
        .await
        .unwrap();
    assert_eq!(
        upstream.field(1, "if-none-match").as_deref(),
        Some("\"v1\""),
        "the client's condition stays here"
    );
    assert_eq!(
        (reply.status().as_u16(), reply.outcome),
        (200, CacheStatus::Revalidated)
    );
    assert_eq!(
        cache_status(&reply),
        "edge; fwd=stale; fwd-status=304; ttl=30"
    );
    let headers = reply.to_headers();
    assert_eq!(
        (&headers["x-new"], &headers["content-type"]),
        (&"yes".parse().unwrap(), &"text/plain".parse().unwrap())
    );
    assert_eq!(headers["content-length"], "100000");
    assert_eq!(body(reply).await.unwrap(), content);
    house.pass_seconds(29);
    assert!(house.try_hit(&house.get("/", &[])).is_some());
    house.pass_seconds(1);
    assert!(house.try_hit(&house.get("/", &[])).is_none());
    assert_eq!(house.cache.metrics().fetched_bytes.get(), 100_000);
}

#[tokio::test]
async fn a_changed_object_replaces_the_stored_one() {
    let house = house();
    let upstream = Script::new(|request, n| {
        let v2 = [("cache-control", "max-age=60"), ("etag", "\"v2\"")];
        let (fields, seed) = if n == 0 { (FRESH, 5) } else { (&v2[..], 6) };
        std::future::ready(Ok(whole_or_part(&request, fields, &noise(seed, 50_000))))
    });
    house.fetch("/", &upstream).await;
    house.pass_seconds(61);
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Expired);
    assert_eq!(body(reply).await.unwrap(), noise(6, 50_000));
    assert_eq!(house.fetch("/", &upstream).await.1, noise(6, 50_000));
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn a_304_about_another_version_is_not_believed() {
    let house = house();
    let upstream = Script::new(|request, n| {
        std::future::ready(Ok(match n {
            0 => whole_or_part(&request, FRESH, &noise(7, 1000)),
            1 => response(304, &[("etag", "\"v9\"")], FetchBody::Empty),
            _ => {
                assert!(!request.headers.contains_key("if-none-match"));
                whole_or_part(
                    &request,
                    &[("cache-control", "max-age=60"), ("etag", "\"v9\"")],
                    &noise(8, 1000),
                )
            }
        }))
    });
    house.fetch("/", &upstream).await;
    house.pass_seconds(61);
    assert_eq!(house.fetch("/", &upstream).await.1, noise(8, 1000));
}

#[tokio::test]
async fn what_must_be_validated_always_is_and_never_queues() {
    let house = house();
    const NO_CACHE: &[(&str, &str)] = &[("cache-control", "no-cache"), ("etag", "\"v1\"")];
    let upstream = Script::fixed(NO_CACHE, noise(9, 10_000));
    house.fetch("/", &upstream).await;
    for n in 1..4 {
        assert!(house.try_hit(&house.get("/", &[])).is_none());
        assert_eq!(house.fetch("/", &upstream).await.1, noise(9, 10_000));
        assert_eq!(
            upstream.field(n, "if-none-match").as_deref(),
            Some("\"v1\"")
        );
    }
    assert_eq!(house.cache.metrics().fetched_bytes.get(), 10_000);
}

#[tokio::test]
async fn stale_stands_in_for_an_unreachable_upstream_unless_forbidden() {
    for (fields, allowed) in [
        (FRESH, true),
        (
            &[
                ("cache-control", "max-age=60, must-revalidate"),
                ("etag", "\"v1\""),
            ][..],
            false,
        ),
        (
            &[("cache-control", "no-cache"), ("etag", "\"v1\"")][..],
            false,
        ),
    ] {
        let house = house();
        let upstream = Script::new(move |request, n| {
            std::future::ready(match n {
                0 => Ok(whole_or_part(&request, fields, &noise(10, 5_000))),
                _ => Err(UpstreamError::Unreachable("refused".to_owned())),
            })
        });
        house.fetch("/", &upstream).await;
        house.pass_seconds(3_600);
        let reply = house.serve(house.get("/", &[]), &upstream).await;
        if allowed {
            let reply = reply.unwrap();
            assert_eq!(
                cache_status(&reply),
                "edge; hit; ttl=-3540; detail=upstream-unreachable"
            );
            assert_eq!(body(reply).await.unwrap(), noise(10, 5_000));
            house.pass_seconds(24 * 3_600);
            assert!(
                house.serve(house.get("/", &[]), &upstream).await.is_err(),
                "not for ever"
            );
        } else {
            assert!(
                matches!(reply, Err(Failure::Upstream(UpstreamError::Unreachable(_)))),
                "{fields:?}"
            );
        }
    }
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_refreshes_once() {
    let house = house();
    const SWR: &[(&str, &str)] = &[
        ("cache-control", "max-age=10, stale-while-revalidate=60"),
        ("etag", "\"v1\""),
    ];
    let upstream = Script::fixed(SWR, noise(11, 5_000));
    house.fetch("/", &upstream).await;
    house.pass_seconds(20);
    for _ in 0..3 {
        let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::StaleRefreshing);
    }
    until("refreshed", || {
        house.try_hit(&house.get("/", &[])).is_some()
    })
    .await;
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn variants_are_kept_apart_and_bounded() {
    let house = house();
    let upstream = Script::new(|request, _| {
        let value = request
            .headers
            .get("x-kind")
            .map_or(Bytes::new(), |v| Bytes::copy_from_slice(v.as_bytes()));
        std::future::ready(Ok(response(
            200,
            &[("cache-control", "max-age=60"), ("vary", "x-kind")],
            pieces(&value, 9),
        )))
    });
    let kinds: Vec<&'static str> = (0..20).map(|i| &*format!("kind {i}").leak()).collect();
    for kind in &kinds {
        let reply = house
            .serve(house.get("/", &[("x-kind", kind)]), &upstream)
            .await
            .unwrap();
        assert_eq!(body(reply).await.unwrap(), *kind);
    }
    let hits = kinds
        .iter()
        .filter(|kind| {
            house
                .try_hit(&house.get("/", &[("x-kind", kind)]))
                .is_some()
        })
        .count();
    assert_eq!(hits, stoq_cache::http::vary::VARIANTS_MAX);
    assert!(house.try_hit(&house.get("/", &[])).is_none());
}

#[tokio::test]
async fn pass_streams_both_ways_and_stores_nothing() {
    let house = house();
    let upstream = Script::new(|mut request, _| {
        // An echo: the request's body is the response's.
        let echo = request.body.take().expect("a body");
        std::future::ready(Ok(response(
            200,
            &[
                ("cache-control", "max-age=60"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
            ],
            FetchBody::Stream(echo),
        )))
    });
    let (feed, FetchBody::Stream(upload)) = fed(1) else {
        panic!("a stream")
    };
    let request = house.get("/", &[]);
    let mut fetch = fetch_of(&request);
    fetch.method = Method::POST;
    fetch.body = Some(upload);
    let reply = house
        .cache
        .pass(
            &house.site,
            fetch,
            Arc::clone(&upstream) as Arc<dyn Upstream>,
            CacheStatus::Method,
        )
        .await
        .unwrap();
    assert_eq!(cache_status(&reply), "edge; fwd=method; fwd-status=200");
    assert!(
        !reply.to_headers().contains_key("x-hop") && !reply.to_headers().contains_key("connection")
    );
    let ReplyBody::Stream(mut down) = reply.body else {
        panic!("a stream")
    };
    for piece in ["one", "two"] {
        feed.send(Ok(Bytes::from_static(piece.as_bytes())))
            .await
            .unwrap();
        assert_eq!(down.next().await.unwrap().unwrap(), piece);
    }
    drop(feed);
    assert!(down.next().await.is_none());
    assert!(house.try_hit(&request).is_none());
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn a_sites_default_lifetime_applies_to_silent_responses() {
    let policy = SitePolicy {
        default_ttl: Some(std::time::Duration::from_secs(5)),
        ..SitePolicy::default()
    };
    let house = house_with(64 << 20, 1 << 20, policy);
    let upstream = Script::fixed(&[], noise(12, 100));
    house.fetch("/", &upstream).await;
    assert!(house.try_hit(&house.get("/", &[])).is_some());
    house.pass_seconds(5);
    assert!(house.try_hit(&house.get("/", &[])).is_none());
}

fn fetch_of(request: &stoq_cache::engine::CacheRequest) -> stoq_cache::upstream::FetchRequest {
    stoq_cache::upstream::FetchRequest {
        method: request.method.clone(),
        scheme: request.scheme.clone(),
        authority: request.authority.clone(),
        path_and_query: request.path_and_query.clone(),
        headers: request.headers.clone(),
        body: None,
        site: Arc::clone(&request.site.name),
        key: request.key,
        held: None,
    }
}

#[tokio::test]
async fn what_is_stored_holds_no_part_of_what_was_read_from_a_connection() {
    let house = house();
    // The whole, a 304 to it, the block that a range of an unknown object begins in, and a 304 to that.
    let reads: Arc<[Bytes; 4]> = Arc::new(std::array::from_fn(|_| {
        b"max-age=60 \"v1\"".to_vec().into()
    }));
    let content = noise(1, 1 << 20);
    let (said, whole) = (Arc::clone(&reads), content.clone());
    let upstream = Script::new(move |request, n| {
        let mut answer = whole_or_part(&request, FRESH, &whole);
        for (name, range) in [("cache-control", 0..10), ("etag", 11..15)] {
            let value = HeaderValue::from_maybe_shared(said[n].slice(range)).unwrap();
            answer.headers.insert(name, value);
        }
        std::future::ready(Ok(answer))
    });
    for n in 1..=2 {
        assert_eq!(house.fetch("/", &upstream).await, (200, content.clone()));
        assert_eq!(upstream.fetches(), n);
        house.pass_seconds(60);
    }
    for n in 3..=4 {
        let part = house.get("/part", &[("range", "bytes=0-99")]);
        let reply = house.serve(part, &upstream).await.unwrap();
        assert_eq!(body(reply).await.unwrap(), content.slice(..100));
        assert_eq!(upstream.fetches(), n);
        house.pass_seconds(60);
    }
    for (n, read) in reads.iter().enumerate() {
        until(&format!("answer {n} is let go"), || read.is_unique()).await;
    }
}
