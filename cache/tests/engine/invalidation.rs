//! What unsafe requests leave of what is stored and of what is under way (RFC 9111 §4.4, RFC 9875).

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use stoq_cache::{
    engine::CacheRequest,
    http::{cache_status::CacheStatus, policy::SitePolicy},
    query::{Pattern, QueryPolicy, QueryRules, Take},
    reply::Reply,
    upstream::{FetchBody, FetchRequest, Upstream, UpstreamError},
};

use crate::script::{
    House, Script, body, cache_status, fed, house, house_with, noise, pieces, response, settle,
    stream_of, until,
};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];

/// A request with another method, answered with this.
pub(crate) async fn change(
    house: &House,
    method: &str,
    path: &'static str,
    status: u16,
    fields: Fields,
) -> Reply {
    let upstream =
        Script::new(move |_, _| std::future::ready(Ok(response(status, fields, FetchBody::Empty))));
    let request = changing(&house.get(path, &[]), method);
    let upstream = upstream as Arc<dyn Upstream>;
    let passed = house
        .cache
        .pass(&house.site, request, upstream, CacheStatus::Method);
    passed.await.unwrap()
}

pub(crate) fn changing(request: &CacheRequest, method: &str) -> FetchRequest {
    FetchRequest {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
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

fn is_hit(house: &House, path: &'static str) -> bool {
    house.try_hit(&house.get(path, &[])).is_some()
}

async fn stored(house: &House, path: &'static str, fields: Fields) {
    house
        .fetch(path, &Script::fixed(fields, noise(1, 100)))
        .await;
    assert!(is_hit(house, path), "{path} is stored");
}

#[tokio::test]
async fn an_unsafe_request_that_succeeds_invalidates_its_target_and_nothing_else() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        for status in [200, 201, 204, 302] {
            let house = house();
            stored(&house, "/a", FRESH).await;
            stored(&house, "/a?q", FRESH).await;
            let reply = change(&house, method, "/a", status, &[]).await;
            assert_eq!(
                cache_status(&reply),
                format!("edge; fwd=method; fwd-status={status}; detail=invalidated")
            );
            assert!(!is_hit(&house, "/a"), "{method} {status}");
            assert!(is_hit(&house, "/a?q"), "{method} {status}");
            assert_eq!(house.cache.metrics().invalidated_responses.get(), 1);
        }
    }
}

#[tokio::test]
async fn what_fails_or_is_safe_invalidates_nothing() {
    let house = house();
    stored(&house, "/a", FRESH).await;
    for (method, status) in [
        ("POST", 400),
        ("POST", 404),
        ("DELETE", 500),
        ("POST", 999),
        ("OPTIONS", 200),
        ("GET", 200),
        ("PROPFIND", 207),
    ] {
        let reply = change(&house, method, "/a", status, &[("location", "/a")]).await;
        assert_eq!(
            cache_status(&reply),
            format!("edge; fwd=method; fwd-status={status}")
        );
        assert!(is_hit(&house, "/a"), "{method} {status}");
    }
    let gone = Script::new(|_, _| {
        std::future::ready(Err(UpstreamError::Unreachable("scripted".to_owned())))
    });
    let request = changing(&house.get("/a", &[]), "POST");
    let passed = house
        .cache
        .pass(
            &house.site,
            request,
            gone as Arc<dyn Upstream>,
            CacheStatus::Method,
        )
        .await;
    assert!(passed.is_err() && is_hit(&house, "/a"));
    assert_eq!(house.cache.metrics().invalidated_targets.get(), 0);
}

/// The keys of `/a?x=1` and of `/a?x=1&utm=2` are one where a site's rules say so, whoever writes them.
#[tokio::test]
async fn what_an_answer_names_is_looked_up_by_the_rules_of_the_site() {
    let query = QueryRules {
        otherwise: QueryPolicy {
            take: Take::Except(vec![Pattern::parameter("utm*")]),
            sort: true,
        },
        rules: Vec::new(),
    };
    let policy = SitePolicy {
        query,
        ..SitePolicy::default()
    };
    let house = house_with(64 << 20, 64 << 20, policy);
    for (field, reference) in [
        ("location", "/a?y=2&utm=3&x=1"),
        ("content-location", "https://example.org/a?x=1&y=2&utm_b"),
    ] {
        stored(&house, "/a?x=1&y=2", FRESH).await;
        let fields: &'static [_] = Box::leak(Box::new([(field, reference)]));
        change(&house, "POST", "/elsewhere", 201, fields).await;
        assert!(!is_hit(&house, "/a?x=1&y=2"), "{field}: {reference}");
    }
    assert_eq!(house.cache.metrics().invalidated_locations.get(), 2);
}

#[tokio::test]
async fn all_variants_of_a_url_fall_at_once() {
    let house = house();
    let fields: Fields = &[
        ("cache-control", "max-age=60"),
        ("vary", "x-kind"),
        ("etag", "\"v\""),
    ];
    let upstream = Script::fixed(fields, noise(2, 50));
    let kinds = ["a", "b", "c"].map(|kind| house.get("/v", &[("x-kind", kind)]));
    for request in &kinds {
        body(house.serve(request.clone(), &upstream).await.unwrap())
            .await
            .unwrap();
        assert!(house.try_hit(request).is_some());
    }
    change(&house, "POST", "/v", 200, &[]).await;
    assert!(kinds.iter().all(|kind| house.try_hit(kind).is_none()));
    assert_eq!(house.cache.metrics().invalidated_responses.get(), 3);
}

#[tokio::test]
async fn what_is_invalid_is_validated_before_its_next_use_and_stands_in_for_nobody() {
    let house = house();
    let fields: Fields = &[
        ("cache-control", "max-age=60, stale-while-revalidate=600"),
        ("etag", "\"v1\""),
    ];
    stored(&house, "/a", fields).await;
    change(&house, "POST", "/a", 204, &[]).await;
    let gone = Script::new(|_, _| {
        std::future::ready(Err(UpstreamError::Unreachable("scripted".to_owned())))
    });
    assert!(
        house.serve(house.get("/a", &[]), &gone).await.is_err(),
        "not even an upstream that is gone makes it usable"
    );
    let upstream = Script::fixed(fields, noise(1, 100));
    let reply = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Revalidated);
    assert_eq!(
        upstream.field(0, "if-none-match").as_deref(),
        Some("\"v1\"")
    );
    assert!(is_hit(&house, "/a"), "the origin says that it still holds");
}

#[tokio::test]
async fn location_and_content_location_fall_with_the_target_in_its_origin_alone() {
    for (fields, falls) in [
        (&[("location", "/other")] as Fields, true),
        (&[("content-location", "other")], true),
        (
            &[("location", "https://EXAMPLE.org:443/x/../other#f")],
            true,
        ),
        (&[("location", "//example.org/other")], true),
        (&[("location", "http://example.org/other")], false),
        (&[("location", "https://example.org:8443/other")], false),
        (&[("content-location", "https://example.net/other")], false),
        (&[("location", "https://u@example.org/other")], false),
        (&[("x-location", "/other")], false),
    ] {
        let house = house();
        for path in ["/", "/other", "/third"] {
            stored(&house, path, FRESH).await;
        }
        change(&house, "POST", "/", 201, fields).await;
        assert!(
            !is_hit(&house, "/") && is_hit(&house, "/third"),
            "{fields:?}"
        );
        assert_eq!(is_hit(&house, "/other"), !falls, "{fields:?}");
        assert_eq!(
            house.cache.metrics().invalidated_locations.get(),
            u64::from(falls)
        );
    }
}

/// Answers each GET with a body of its own that is fed by hand.
fn by_hand(
    fields: Fields,
) -> (
    Arc<Script>,
    tokio::sync::mpsc::Receiver<tokio::sync::mpsc::Sender<Feed>>,
) {
    let (feeds, fed_by) = tokio::sync::mpsc::channel(4);
    let script = Script::new(move |_, _| {
        let (feed, body) = fed(4);
        feeds.try_send(feed).unwrap();
        std::future::ready(Ok(response(200, fields, body)))
    });
    (script, fed_by)
}

type Feed = Result<Bytes, stoq_cache::upstream::BodyError>;

#[tokio::test]
async fn a_fill_that_began_before_an_invalidation_is_neither_stored_nor_joined_after_it() {
    let house = house();
    let (upstream, mut feeds) = by_hand(FRESH);
    let early = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    let old = feeds.recv().await.unwrap();
    old.send(Ok(Bytes::from_static(b"old"))).await.unwrap();
    let reply = change(&house, "POST", "/a", 200, &[]).await;
    assert_eq!(reply.outcome, CacheStatus::Invalidated);

    let late = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    assert_eq!(upstream.fetches(), 2, "who comes after it asks anew");
    let joined = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    assert_eq!(
        (joined.outcome, upstream.fetches()),
        (CacheStatus::Collapsed, 2)
    );
    let new = feeds.recv().await.unwrap();
    new.send(Ok(Bytes::from_static(b"new"))).await.unwrap();
    drop(new);
    assert_eq!(body(late).await.unwrap(), "new");
    assert_eq!(body(joined).await.unwrap(), "new");
    until("the new one is stored", || is_hit(&house, "/a")).await;

    drop(old);
    assert_eq!(body(early).await.unwrap(), "old", "asked before, answered");
    settle().await;
    let hit = house.try_hit(&house.get("/a", &[])).expect("still stored");
    assert_eq!(
        body(hit).await.unwrap(),
        "new",
        "the old one took its place"
    );
    let metrics = house.cache.metrics();
    assert_eq!(metrics.fetches_outdated.get(), 1);
    assert_eq!(metrics.fills_open.get(), 0);
}

#[tokio::test]
async fn a_validation_that_began_before_an_invalidation_makes_nothing_fresh() {
    let house = house();
    stored(&house, "/a", FRESH).await;
    house.pass_seconds(60);
    let (open, gate) = tokio::sync::watch::channel(false);
    let upstream = Script::new(move |_, _| {
        let mut gate = gate.clone();
        async move {
            drop(gate.wait_for(|open| *open).await);
            Ok(response(304, FRESH, FetchBody::Empty))
        }
    });
    let (cache, request) = (house.cache.clone(), house.get("/a", &[]));
    let asked = tokio::spawn({
        let upstream = Arc::clone(&upstream) as Arc<dyn Upstream>;
        async move { cache.serve(request, upstream).await }
    });
    until("the validation is on its way", || upstream.fetches() == 1).await;
    change(&house, "DELETE", "/a", 204, &[]).await;
    open.send_replace(true);
    let reply = asked.await.unwrap().unwrap();
    assert_eq!(reply.outcome, CacheStatus::Revalidated);
    assert!(!is_hit(&house, "/a"));
}

const GROUPED: Fields = &[
    ("cache-control", "max-age=60"),
    ("etag", "\"v1\""),
    ("cache-groups", "\"g\", \"h\";x=1"),
];

#[tokio::test]
async fn a_group_falls_whole_and_only_by_an_unsafe_request_that_succeeds() {
    let house = house();
    let other: Fields = &[("cache-control", "max-age=60"), ("cache-groups", "\"G\"")];
    stored(&house, "/1", GROUPED).await;
    stored(&house, "/2", GROUPED).await;
    stored(&house, "/3", other).await;
    stored(&house, "/4", FRESH).await;
    let names: Fields = &[("cache-group-invalidation", "\"h\", \"nobody\"")];
    for (method, status) in [("GET", 200), ("OPTIONS", 204), ("POST", 403)] {
        change(&house, method, "/x", status, names).await;
    }
    change(
        &house,
        "POST",
        "/x",
        200,
        &[("cache-group-invalidation", "h")],
    )
    .await;
    assert!(
        ["/1", "/2", "/3", "/4"]
            .iter()
            .all(|path| is_hit(&house, path))
    );
    let reply = change(&house, "POST", "/x", 200, names).await;
    assert_eq!(reply.outcome, CacheStatus::Invalidated);
    assert!(!is_hit(&house, "/1") && !is_hit(&house, "/2"));
    assert!(is_hit(&house, "/3") && is_hit(&house, "/4"));
    let metrics = house.cache.metrics();
    assert_eq!(
        (
            metrics.invalidated_groups.get(),
            metrics.invalidated_responses.get()
        ),
        (2, 2)
    );
    let upstream = Script::fixed(GROUPED, noise(1, 100));
    let reply = house.serve(house.get("/1", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Revalidated);
    assert!(is_hit(&house, "/1"), "validated since: a member again");
}

#[tokio::test]
async fn what_falls_takes_its_groups_with_it_and_they_take_no_others() {
    let house = house();
    let bridge: Fields = &[
        ("cache-control", "max-age=60"),
        ("cache-groups", "\"h\", \"far\""),
    ];
    let far: Fields = &[("cache-control", "max-age=60"), ("cache-groups", "\"far\"")];
    stored(&house, "/1", GROUPED).await;
    stored(&house, "/2", bridge).await;
    stored(&house, "/3", far).await;
    change(&house, "PUT", "/1", 200, &[]).await;
    assert!(!is_hit(&house, "/1") && !is_hit(&house, "/2"));
    assert!(is_hit(&house, "/3"), "no cascade");
}

#[tokio::test]
async fn a_fill_that_began_before_its_group_fell_is_neither_fresh_nor_joined_after_it() {
    let house = house();
    let (upstream, mut feeds) = by_hand(GROUPED);
    let early = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    let old = feeds.recv().await.unwrap();
    old.send(Ok(Bytes::from_static(b"old"))).await.unwrap();
    change(
        &house,
        "POST",
        "/x",
        200,
        &[("cache-group-invalidation", "\"g\"")],
    )
    .await;
    let late = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    let joined = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    assert_eq!(
        (joined.outcome, upstream.fetches()),
        (CacheStatus::Collapsed, 2)
    );
    let new = feeds.recv().await.unwrap();
    new.send(Ok(Bytes::from_static(b"new"))).await.unwrap();
    drop((old, new));
    assert_eq!(body(early).await.unwrap(), "old");
    assert_eq!(body(late).await.unwrap(), "new");
    assert_eq!(body(joined).await.unwrap(), "new");
    settle().await;
    let hit = house.try_hit(&house.get("/a", &[])).expect("the new one");
    assert_eq!(body(hit).await.unwrap(), "new");
}

#[tokio::test]
async fn a_group_that_fell_before_a_large_body_ended_leaves_it_to_be_validated() {
    let house = house();
    let upstream = Script::new(|_, _| {
        std::future::ready(Ok(response(
            200,
            GROUPED,
            pieces(&noise(3, 300_000), 9_000),
        )))
    });
    let reply = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
    let stream = stream_of(reply);
    let names: Fields = &[("cache-group-invalidation", "\"g\"")];
    change(&house, "POST", "/x", 200, names).await;
    drop(stream);
    settle().await;
    assert!(!is_hit(&house, "/a"));
}
