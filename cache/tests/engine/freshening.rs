//! What a 304 and an answer to HEAD make of what is stored (RFC 9111 §3.2, §4.3.4, §4.3.5).

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use proptest::prelude::*;
use stoq_cache::{
    engine::CacheRequest,
    http::cache_status::CacheStatus,
    upstream::{FetchBody, UpstreamError},
};

use crate::script::{House, Script, body, house, noise, response};

type Fields = &'static [(&'static str, &'static str)];

const STORED: Fields = &[
    ("cache-control", "max-age=60"),
    ("etag", "\"v1\""),
    ("x-a", "1"),
    ("content-type", "text/plain"),
];

fn head_of(house: &House, path: &'static str) -> CacheRequest {
    CacheRequest {
        method: Method::HEAD,
        ..house.get(path, &[])
    }
}

/// Asks with HEAD when what is stored has expired, and is answered with this.
async fn head(house: &House, status: u16, fields: Fields) -> (u16, CacheStatus) {
    let upstream = Script::new(move |request, _| {
        assert_eq!(request.method, Method::HEAD);
        assert!(!request.headers.contains_key("if-none-match"));
        std::future::ready(Ok(response(status, fields, FetchBody::Empty)))
    });
    let reply = house.serve(head_of(house, "/"), &upstream).await.unwrap();
    assert_eq!(upstream.fetches(), 1);
    (reply.status().as_u16(), reply.outcome)
}

async fn expired() -> House {
    let house = house();
    house
        .fetch("/", &Script::fixed(STORED, noise(1, 100)))
        .await;
    house.pass_seconds(60);
    house
}

#[tokio::test]
async fn a_head_is_answered_from_a_stored_get_and_a_miss_goes_on_as_head() {
    let house = house();
    house
        .fetch("/", &Script::fixed(STORED, noise(1, 100)))
        .await;
    let reply = house.try_hit(&head_of(&house, "/")).expect("a hit");
    assert_eq!(reply.to_headers()["content-length"], "100");
    assert!(body(reply).await.unwrap().is_empty());

    let upstream = Script::new(|request, _| {
        assert_eq!(request.method, Method::HEAD);
        std::future::ready(Ok(response(200, STORED, FetchBody::Empty)))
    });
    for n in 1..=2 {
        let request = head_of(&house, "/unknown");
        house.serve(request, &upstream).await.unwrap();
        assert_eq!(upstream.fetches(), n, "a HEAD stores nothing");
    }
    assert!(house.try_hit(&house.get("/unknown", &[])).is_none());
}

#[tokio::test]
async fn an_answer_to_head_with_the_same_validators_and_length_freshens_what_is_stored() {
    let house = expired().await;
    let fields: Fields = &[
        ("cache-control", "max-age=100"),
        ("etag", "\"v1\""),
        ("content-length", "100"),
        ("x-a", "2"),
        ("age", "10"),
    ];
    assert_eq!(head(&house, 200, fields).await, (200, CacheStatus::Expired));
    let hit = house.try_hit(&house.get("/", &[])).expect("fresh again");
    let headers = hit.to_headers();
    assert_eq!(
        (&headers["x-a"], &headers["age"]),
        (&"2".parse().unwrap(), &"10".parse().unwrap())
    );
    assert_eq!(
        headers["content-type"], "text/plain",
        "what it did not name stays"
    );
    assert_eq!(body(hit).await.unwrap(), noise(1, 100));
    house.pass_seconds(90);
    assert!(house.try_hit(&house.get("/", &[])).is_none());
    assert_eq!(house.cache.metrics().head_updated.get(), 1);
}

#[tokio::test]
async fn an_answer_to_head_about_something_else_leaves_what_is_stored_stale() {
    for fields in [
        &[("cache-control", "max-age=100"), ("etag", "\"v2\"")] as Fields,
        &[("cache-control", "max-age=100"), ("content-length", "99")],
        &[
            ("cache-control", "max-age=100"),
            ("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT"),
        ],
    ] {
        let house = expired().await;
        head(&house, 200, fields).await;
        assert!(house.try_hit(&house.get("/", &[])).is_none(), "{fields:?}");
        assert_eq!(house.cache.metrics().head_outdated.get(), 1, "{fields:?}");
    }
}

#[tokio::test]
async fn only_a_storable_200_to_head_changes_what_is_stored() {
    for (status, fields) in [
        (404, &[("cache-control", "max-age=100")] as Fields),
        (304, &[("cache-control", "max-age=100"), ("etag", "\"v1\"")]),
        (200, &[("cache-control", "private, max-age=100")]),
        (200, &[("cache-control", "no-store"), ("etag", "\"v1\"")]),
        (
            200,
            &[("cache-control", "max-age=100"), ("set-cookie", "a=b")],
        ),
    ] {
        let house = expired().await;
        assert_eq!(head(&house, status, fields).await.0, status);
        assert!(house.try_hit(&house.get("/", &[])).is_none(), "{fields:?}");
        let gone = Script::new(|_, _| {
            std::future::ready(Err(UpstreamError::Unreachable("scripted".to_owned())))
        });
        let reply = house.serve(house.get("/", &[]), &gone).await.unwrap();
        assert_eq!(reply.to_headers()["x-a"], "1", "{status} {fields:?}");
        assert!(!reply.to_headers().contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn a_304_about_something_else_is_asked_again_without_a_condition() {
    for validator in ["\"v2\"", "W/\"v2\""] {
        let house = expired().await;
        let upstream = Script::new(move |request, n| {
            std::future::ready(Ok(if n == 0 {
                let mut response = response(304, &[], FetchBody::Empty);
                response
                    .headers
                    .insert("etag", HeaderValue::from_static(validator));
                response
            } else {
                assert!(!request.headers.contains_key("if-none-match"));
                crate::script::whole_or_part(&request, STORED, &noise(2, 10))
            }))
        });
        assert_eq!(house.fetch("/", &upstream).await.1, noise(2, 10));
        assert_eq!(upstream.fetches(), 2, "{validator}");
    }
}

#[tokio::test]
async fn a_304_freshens_all_that_could_have_been_chosen_and_has_its_strong_validator() {
    let house = house();
    let ask: Fields = &[("accept-language", "de"), ("x-kind", "b")];
    let asks: [(&'static str, Fields); 2] = [
        (
            "accept-language",
            &[("accept-language", "de"), ("x-kind", "a")],
        ),
        ("x-kind", &[("accept-language", "fr"), ("x-kind", "b")]),
    ];
    // One stored under `Vary: accept-language` for German, then one under `Vary: x-kind` for b, of the same bytes: both answer who asks for
    // German and b.
    for (vary, fields) in asks {
        let upstream = Script::new(move |_, _| {
            let mut response = response(200, STORED, crate::script::pieces(&noise(1, 100), 100));
            response
                .headers
                .insert("vary", HeaderValue::from_static(vary));
            if vary == "accept-language" {
                response
                    .headers
                    .insert("cache-control", HeaderValue::from_static("max-age=50"));
            }
            std::future::ready(Ok(response))
        });
        let reply = house.serve(house.get("/", fields), &upstream).await;
        body(reply.unwrap()).await.unwrap();
    }
    house.pass_seconds(110);
    let upstream = Script::new(|_, _| {
        let fields: Fields = &[
            ("cache-control", "max-age=60"),
            ("etag", "\"v1\""),
            ("x-a", "9"),
        ];
        std::future::ready(Ok(response(304, fields, FetchBody::Empty)))
    });
    house.serve(house.get("/", ask), &upstream).await.unwrap();
    // Only the older one answers a request without the newer one's field.
    let older = house.get("/", &[("accept-language", "de")]);
    let hit = house.try_hit(&older).expect("freshened with the other");
    assert_eq!(hit.to_headers()["x-a"], "9");
}

/// One answer of an origin to a validation, in terms of §3.2: values by name.
type Said = BTreeMap<&'static str, Vec<u8>>;

fn said() -> impl Strategy<Value = Said> {
    let names = prop::sample::select(vec![
        "x-a",
        "x-b",
        "content-type",
        "content-language",
        "content-length",
        "content-encoding",
        "content-range",
        "connection",
        "keep-alive",
        "via",
    ]);
    prop::collection::btree_map(names, prop::collection::vec(b'1'..=b'9', 1..3), 0..8)
}

fn headers_of(said: &Said) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in said {
        for value in values {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(&[*value]).unwrap(),
            );
        }
    }
    headers.insert("etag", HeaderValue::from_static("\"v\""));
    headers.insert("cache-control", HeaderValue::from_static("max-age=5"));
    headers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The whole engine against a map: what clients see of a stored response after 304s, in whatever order fields came and went.
    #[test]
    fn a_stored_response_after_any_sequence_of_304s_is_the_models(
        first in said(),
        sequence in prop::collection::vec(said(), 1..6),
    ) {
        /// Of the connection, or of the content that did not travel again.
        const NEVER: [&str; 5] = [
            "content-length", "content-encoding", "content-range", "connection", "keep-alive",
        ];
        let mut stored = first;
        stored.remove("content-length");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let house = house();
        let answers = Arc::new(Mutex::new(headers_of(&stored)));
        let upstream = Script::new({
            let answers = Arc::clone(&answers);
            move |_, n| {
                let (status, body) = match n {
                    0 => (200, crate::script::pieces(&noise(1, 100), 100)),
                    _ => (304, FetchBody::Empty),
                };
                let mut response = response(status, &[], body);
                response.headers = answers.lock().clone();
                std::future::ready(Ok(response))
            }
        });
        runtime.block_on(async {
            assert_eq!(house.fetch("/", &upstream).await.1, noise(1, 100));
            let mut model = stored.clone();
            model.retain(|name, _| !["connection", "keep-alive"].contains(name));
            for said in &sequence {
                house.pass_seconds(5);
                *answers.lock() = headers_of(said);
                assert_eq!(house.fetch("/", &upstream).await.1, noise(1, 100));
                for (name, values) in said {
                    if !NEVER.contains(name) {
                        model.insert(name, values.clone());
                    }
                }
                let hit = house.try_hit(&house.get("/", &[])).expect("freshened");
                let mut seen = hit.to_headers();
                for name in ["age", "cache-status", "date", "etag", "cache-control"] {
                    assert!(seen.remove(name).is_some(), "{name}");
                }
                assert_eq!(seen.remove("content-length").unwrap(), "100");
                assert_eq!(seen.remove("accept-ranges").unwrap(), "bytes");
                let mut wanted = headers_of(&model);
                wanted.remove("etag");
                wanted.remove("cache-control");
                assert_eq!(seen, wanted);
            }
        });
    }
}
