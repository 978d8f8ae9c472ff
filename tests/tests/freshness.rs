//! What is stored and when it may answer, seen from outside: over each version of HTTP, with and without a shield.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use integration::{Answer, Client, Cluster, Origin, Payload, Version};
use stoq_loadtest::Answer as Got;

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// A response's fields.
type Fields = &'static [(&'static str, &'static str)];

const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");

/// What an origin answers, and whether the second request for it is a hit.
const RESPONSES: &[(u16, Fields, bool)] = &[
    // RFC 9111 §3: any final status with explicit freshness.
    (200, &[("cache-control", "max-age=60")], true),
    (201, &[("cache-control", "max-age=60")], true),
    (299, &[("cache-control", "max-age=60")], true),
    (499, &[("cache-control", "max-age=60")], true),
    (599, &[("cache-control", "max-age=60")], true),
    (200, &[("cache-control", "no-store, max-age=60")], false),
    (
        200,
        &[("cache-control", "max-age=60"), ("age", "100")],
        false,
    ),
    (200, &[], false),
    // §5.2.2.3
    (
        200,
        &[("cache-control", "max-age=60, no-store, must-understand")],
        true,
    ),
    (
        599,
        &[("cache-control", "max-age=60, must-understand")],
        false,
    ),
    // §4.2.2
    (200, &[MODIFIED], true),
    (404, &[MODIFIED], true),
    (403, &[MODIFIED], false),
    (599, &[MODIFIED], false),
    (599, &[MODIFIED, ("cache-control", "public")], true),
    // §5.3, RFC 9110 §5.6.7
    (200, &[("expires", "Thu Aug  8 02:01:18 2090")], true),
    (200, &[("expires", "THU, 18 aug 2090 02:01:18 gmt")], true),
    (200, &[("expires", "Thu, 18 Aug 2090 02:01:18 UTC")], false),
    // RFC 9213
    (
        200,
        &[
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=60"),
        ],
        true,
    ),
    (
        200,
        &[
            ("cache-control", "max-age=60"),
            ("cdn-cache-control", "no-store"),
        ],
        false,
    ),
    (
        200,
        &[
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=\"60\""),
        ],
        false,
    ),
    (
        200,
        &[("cache-control", "max-age=60"), ("cdn-cache-control", "&")],
        true,
    ),
];

fn answer(status: u16, fields: Fields) -> Answer {
    let start = Answer::status(status).body("x");
    fields
        .iter()
        .fold(start, |answer, (name, value)| answer.header(name, value))
}

async fn get(client: &Client, path: &str, fields: &[(&str, &str)]) -> Got {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client
        .send(request.body(Payload::empty()).expect("a request"))
        .await
        .expect("an answer")
}

fn cluster(origin: &Origin, shielded: bool) -> Cluster {
    let cluster = Cluster::new().origin(origin);
    if shielded { cluster.shield() } else { cluster }
}

#[tokio::test]
async fn what_a_response_says_decides_whether_a_second_request_leaves() {
    let origin = Origin::start(|seen| async move {
        let number = seen
            .uri
            .path()
            .rsplit('/')
            .next()
            .and_then(|number| number.parse().ok());
        let (status, fields, _) = RESPONSES[number.unwrap_or(usize::MAX)];
        answer(status, fields)
    })
    .await;
    for shielded in [false, true] {
        let cluster = cluster(&origin, shielded).start().await;
        for version in ALL {
            let client = cluster.edge().client(version).await;
            for (number, (status, fields, stored)) in RESPONSES.iter().enumerate() {
                let path = format!("/{shielded}/{version:?}/{number}");
                for _ in 0..2 {
                    let got = get(&client, &path, &[]).await;
                    assert_eq!(got.status, *status, "{path} {fields:?}");
                    assert_eq!(got.bytes(10).await.unwrap(), "x", "{path} {fields:?}");
                }
                assert_eq!(
                    origin.requests(&path),
                    if *stored { 1 } else { 2 },
                    "{path} {status} {fields:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_has_what_is_stored_validated_at_the_origin_through_both_tiers() {
    for shielded in [false, true] {
        let origin = Origin::start(|seen| async move {
            let answer = if seen.header("if-none-match") == "\"v\"" {
                Answer::status(304)
            } else {
                Answer::ok("x")
            };
            answer.fresh(600).header("etag", "\"v\"")
        })
        .await;
        let cluster = cluster(&origin, shielded).start().await;
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let path = format!("/{version:?}");
            assert_eq!(get(&client, &path, &[]).await.bytes(10).await.unwrap(), "x");
            for (asks, field) in [
                ("cache-control", "no-cache"),
                ("cache-control", "min-fresh=10000"),
                ("pragma", "no-cache"),
            ]
            .into_iter()
            .enumerate()
            {
                let got = get(&client, &path, &[field]).await;
                let said = got.header("cache-status").unwrap().to_owned();
                assert!(
                    said.contains("edge-1; fwd=request; fwd-status=304"),
                    "{version:?} {field:?}: {said}"
                );
                assert_eq!(got.bytes(10).await.unwrap(), "x");
                let seen = origin.seen().pop().expect("a request");
                assert_eq!(seen.header("if-none-match"), "\"v\"");
                assert_eq!(seen.header(field.0), field.1, "passed on as it came");
                let hit = get(&client, &path, &[]).await;
                assert!(
                    hit.header("cache-status").unwrap().contains("edge-1; hit"),
                    "{version:?}"
                );
                assert_eq!(origin.requests(&path), 2 + asks, "{version:?} {field:?}");
            }
        }
    }
}

#[tokio::test]
async fn only_if_cached_is_a_504_where_nothing_is_stored_and_nobody_is_asked() {
    let origin = Origin::start(|_| async { Answer::ok("x").fresh(600) }).await;
    let cluster = cluster(&origin, true).start().await;
    const ONLY: &[(&str, &str)] = &[("cache-control", "only-if-cached")];
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let path = format!("/{version:?}");
        let got = get(&client, &path, ONLY).await;
        assert_eq!(got.status, 504, "{version:?}");
        assert_eq!(
            got.header("cache-status"),
            Some("edge-1; detail=only-if-cached")
        );
        assert_eq!(origin.requests(&path), 0, "{version:?}");
        get(&client, &path, &[]).await.whole().await.unwrap();
        assert_eq!(get(&client, &path, ONLY).await.status, 200, "{version:?}");
    }
}

#[tokio::test]
async fn a_site_can_take_clients_their_say_and_guesses_their_effect() {
    let origin = Origin::start(|seen| async move {
        match seen.uri.path() {
            "/silent" => Answer::ok("x").header(MODIFIED.0, MODIFIED.1),
            _ => Answer::ok("x").fresh(600),
        }
    })
    .await;
    let cluster = cluster(&origin, true)
        .site("client_cache_control = false\nheuristic = false")
        .start()
        .await;
    for version in ALL {
        let client = cluster.edge().client(version).await;
        for line in ["no-cache", "max-age=0", "no-store"] {
            let got = get(&client, "/a", &[("cache-control", line)]).await;
            got.whole().await.unwrap();
        }
        get(&client, "/silent", &[]).await.whole().await.unwrap();
    }
    assert_eq!(origin.requests("/a"), 1);
    assert_eq!(origin.requests("/silent"), 3);
}

#[tokio::test]
async fn an_error_of_the_origin_is_covered_where_that_is_permitted() {
    for shielded in [false, true] {
        for (line, site, covered) in [
            ("max-age=60, stale-if-error=600", "", true),
            ("max-age=60", "stale_if_error = \"10m\"", true),
            ("max-age=60", "", false),
            (
                "max-age=60, must-revalidate",
                "stale_if_error = \"10m\"",
                false,
            ),
        ] {
            let fails = Arc::new(AtomicBool::new(false));
            let origin = Origin::start({
                let fails = Arc::clone(&fails);
                move |_| {
                    let fails = fails.load(Ordering::Relaxed);
                    async move {
                        if fails {
                            return Answer::status(503).body("down");
                        }
                        let answer = Answer::ok("x").header("etag", "\"v\"");
                        // Stale when it arrives.
                        answer.header("cache-control", line).header("age", "100")
                    }
                }
            })
            .await;
            let cluster = cluster(&origin, shielded).site(site).start().await;
            for version in ALL {
                fails.store(false, Ordering::Relaxed);
                let client = cluster.edge().client(version).await;
                let path = format!("/{version:?}");
                get(&client, &path, &[]).await.whole().await.unwrap();
                fails.store(true, Ordering::Relaxed);
                let got = get(&client, &path, &[]).await;
                let said = got.header("cache-status").unwrap().to_owned();
                assert_eq!(
                    got.status,
                    if covered { 200 } else { 503 },
                    "{version:?} {line} {site}: {said}"
                );
                assert_eq!(said.contains("detail=stale-if-error"), covered, "{said}");
                let body = got.bytes(10).await.unwrap();
                assert_eq!(body, if covered { "x" } else { "down" });
            }
        }
    }
}
