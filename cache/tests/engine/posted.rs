//! The answer to a POST that a GET may have (RFC 9110 §9.3.3), and all that it needs for that.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use stoq_cache::{
    http::{cache_status::CacheStatus, policy::SitePolicy},
    reply::Reply,
    upstream::{FetchBody, Upstream},
};
use tokio::sync::Semaphore;

use crate::{
    invalidation::changing,
    script::{
        House, Script, body, cache_status, house, house_with, noise, pieces, response, settle,
        until,
    },
};

type Fields = &'static [(&'static str, &'static str)];

const CURRENT: Fields = &[
    ("cache-control", "max-age=60"),
    ("content-location", "/form"),
];

async fn post(house: &House, request: Fields, upstream: &Arc<Script>) -> Reply {
    let mut fetch = changing(&house.get("/form", &[]), "POST");
    for (name, value) in request {
        fetch.headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let upstream = Arc::clone(upstream) as Arc<dyn Upstream>;
    house
        .cache
        .pass(&house.site, fetch, upstream, CacheStatus::Method)
        .await
        .unwrap()
}

fn answering(status: u16, fields: Fields, length: usize) -> Arc<Script> {
    Script::new(move |_, _| {
        let body = pieces(&noise(1, length), 1_000);
        std::future::ready(Ok(response(status, fields, body)))
    })
}

fn is_stored(house: &House) -> bool {
    house.try_hit(&house.get("/form", &[])).is_some()
}

#[tokio::test]
async fn an_answer_that_says_it_is_what_a_get_gets_answers_the_next_get() {
    for location in ["/form", "form", "https://example.org/form", ""] {
        let house = house();
        let fields: Fields = Box::leak(Box::new([
            ("cache-control", "max-age=60"),
            ("content-location", location),
        ]));
        let upstream = answering(200, fields, 5_000);
        let reply = post(&house, &[("content-type", "text/plain")], &upstream).await;
        assert_eq!(
            cache_status(&reply),
            "edge; fwd=method; fwd-status=200; stored; ttl=60"
        );
        assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
        settle().await;
        let get = house.try_hit(&house.get("/form", &[])).expect("a hit");
        assert_eq!(body(get).await.unwrap(), noise(1, 5_000), "{location:?}");
        // A POST is never answered from the store.
        drop(post(&house, &[], &upstream).await);
        assert_eq!(upstream.fetches(), 2);
        house.assert_bytes_add_up();
    }
}

#[tokio::test]
async fn an_answer_that_lacks_anything_of_that_is_not_stored() {
    const PLAIN: Fields = &[("content-type", "text/plain")];
    #[rustfmt::skip]
    let table: &[(&str, Fields, u16, Fields, usize)] = &[
        ("no location", PLAIN, 200, &[("cache-control", "max-age=60")], 100),
        ("another location", PLAIN, 200, &[("cache-control", "max-age=60"), ("content-location", "/other")], 100),
        ("another origin", PLAIN, 200, &[("cache-control", "max-age=60"), ("content-location", "https://b.test/form")], 100),
        ("two locations", PLAIN, 200, &[("cache-control", "max-age=60"), ("content-location", "/form"), ("content-location", "/form")], 100),
        ("no lifetime", PLAIN, 200, &[("content-location", "/form"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], 100),
        ("stale", PLAIN, 200, &[("cache-control", "max-age=0"), ("content-location", "/form"), ("etag", "\"1\"")], 100),
        ("private", PLAIN, 200, &[("cache-control", "private, max-age=60"), ("content-location", "/form")], 100),
        ("sets a cookie", PLAIN, 200, &[("cache-control", "max-age=60"), ("content-location", "/form"), ("set-cookie", "a=b")], 100),
        ("created", PLAIN, 201, CURRENT, 100),
        ("a part", PLAIN, 206, CURRENT, 100),
        ("an error", PLAIN, 404, CURRENT, 100),
        ("long", PLAIN, 200, CURRENT, 70_000),
        ("of a user", &[("cookie", "a=b")], 200, CURRENT, 100),
        ("of a user", &[("authorization", "Basic eA==")], 200, &[("cache-control", "public, max-age=60"), ("content-location", "/form")], 100),
        ("forbidden by the request", &[("cache-control", "no-store")], 200, CURRENT, 100),
        ("another method", &[("x-http-method-override", "DELETE")], 200, CURRENT, 100),
        ("another url", &[("x-original-url", "/admin")], 200, CURRENT, 100),
    ];
    for (what, request, status, fields, length) in table {
        let house = house();
        let upstream = answering(*status, fields, *length);
        let reply = post(&house, request, &upstream).await;
        assert_eq!(body(reply).await.unwrap(), noise(1, *length), "{what}");
        settle().await;
        assert!(!is_stored(&house), "{what}");
        assert_eq!(house.cache.metrics().hit_for_miss_marked.get(), 0, "{what}");
        house.assert_bytes_add_up();
    }
}

#[tokio::test]
async fn a_guess_of_the_sites_is_no_word_of_the_origins() {
    let policy = SitePolicy {
        default_ttl: Some(std::time::Duration::from_secs(60)),
        ..SitePolicy::default()
    };
    let house = house_with(64 << 20, 64 << 20, policy);
    let upstream = answering(200, &[("content-location", "/form")], 100);
    drop(body(post(&house, &[], &upstream).await).await);
    settle().await;
    assert!(!is_stored(&house));
}

#[tokio::test]
async fn what_it_varies_by_is_what_the_post_said() {
    const VARYING: Fields = &[
        ("cache-control", "max-age=60"),
        ("content-location", "/form"),
        ("vary", "x-kind"),
    ];
    let house = house();
    let upstream = answering(200, VARYING, 100);
    drop(body(post(&house, &[("x-kind", "a")], &upstream).await).await);
    settle().await;
    assert!(
        house
            .try_hit(&house.get("/form", &[("x-kind", "a")]))
            .is_some()
    );
    assert!(
        house
            .try_hit(&house.get("/form", &[("x-kind", "b")]))
            .is_none()
    );
    assert!(!is_stored(&house));
}

#[tokio::test]
async fn it_takes_the_place_of_what_was_stored() {
    let house = house();
    let old = Script::fixed(
        &[("cache-control", "max-age=60"), ("etag", "\"v1\"")],
        noise(9, 10),
    );
    house.fetch("/form", &old).await;
    let reply = post(&house, &[], &answering(200, CURRENT, 100)).await;
    assert_eq!(
        cache_status(&reply),
        "edge; fwd=method; fwd-status=200; stored; ttl=60; detail=invalidated"
    );
    assert_eq!(body(reply).await.unwrap(), noise(1, 100));
    settle().await;
    let hit = house.try_hit(&house.get("/form", &[])).expect("a hit");
    assert_eq!(body(hit).await.unwrap(), noise(1, 100));
}

/// Which of two changes came last at the origin nobody can tell whose answers cross: what the earlier answer left is not stored.
#[tokio::test]
async fn of_two_changes_under_way_the_one_answered_last_stores_nothing() {
    let house = house();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let slow = Script::new(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(response(
                200,
                CURRENT,
                pieces(&Bytes::from_static(b"old"), 10),
            ))
        }
    });
    let first = post(&house, &[], &slow);
    let mut first = Box::pin(first);
    assert!(futures_util::poll!(&mut first).is_pending());
    until("it is under way", || slow.fetches() == 1).await;
    let quick = Script::new(|_, _| std::future::ready(Ok(response(204, &[], FetchBody::Empty))));
    drop(post(&house, &[], &quick).await);
    gate.add_permits(1);
    let reply = first.await;
    assert_eq!(body(reply).await.unwrap(), "old");
    settle().await;
    assert!(!is_stored(&house));
}
