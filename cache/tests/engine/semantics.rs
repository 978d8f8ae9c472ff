//! What a request asks of a cache, what a response says beyond its lifetime, and what stands in for an error.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};
use stoq_cache::{
    engine::{CacheRequest, Failure},
    http::{cache_status::CacheStatus, policy::SitePolicy},
    upstream::{FetchBody, UpstreamError},
};

use crate::script::{
    House, Script, body, cache_status, fed, house, house_with, noise, pieces, response, settle,
    until, whole_or_part,
};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];

fn site(policy: SitePolicy) -> House {
    house_with(64 << 20, 64 << 20, policy)
}

fn asking(house: &House, line: &'static str) -> CacheRequest {
    house.get("/", &[("cache-control", line)])
}

/// Answers the first fetch with these fields and every later one with this status and these.
fn then(
    first: &'static [(&'static str, &'static str)],
    status: u16,
    later: &'static [(&'static str, &'static str)],
) -> Arc<Script> {
    Script::new(move |request, n| {
        std::future::ready(Ok(match n {
            0 => whole_or_part(&request, first, &noise(1, 5_000)),
            _ => response(status, later, pieces(&noise(2, 100), 100)),
        }))
    })
}

#[tokio::test]
async fn a_request_that_asks_for_validation_gets_it_and_others_keep_their_hit() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    house.fetch("/", &upstream).await;
    for (n, line) in ["no-cache", "max-age=3", "min-fresh=58"]
        .into_iter()
        .enumerate()
    {
        house.pass_seconds(5);
        assert!(house.try_hit(&asking(&house, line)).is_none(), "{line}");
        let reply = house.serve(asking(&house, line), &upstream).await.unwrap();
        assert_eq!(
            cache_status(&reply),
            "edge; fwd=request; fwd-status=304; ttl=60",
            "{line}"
        );
        assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
        assert_eq!(
            upstream.field(n + 1, "if-none-match").as_deref(),
            Some("\"v1\"")
        );
        assert!(house.try_hit(&house.get("/", &[])).is_some(), "{line}");
        assert!(
            house
                .try_hit(&asking(&house, "max-age=5, min-fresh=50"))
                .is_some()
        );
    }
    let pragma = house.get("/", &[("pragma", "no-cache")]);
    assert!(house.try_hit(&pragma).is_none());
    assert_eq!(upstream.fetches(), 4);
}

#[tokio::test]
async fn a_site_may_leave_clients_no_say() {
    let house = site(SitePolicy {
        client_cache_control: false,
        ..SitePolicy::default()
    });
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    house.fetch("/", &upstream).await;
    house.pass_seconds(30);
    for line in [
        "no-cache",
        "no-store",
        "max-age=0",
        "min-fresh=100",
        "only-if-cached",
    ] {
        assert!(house.try_hit(&asking(&house, line)).is_some(), "{line}");
    }
    let cold = house.get("/cold", &[("cache-control", "only-if-cached, no-store")]);
    let reply = house.serve(cold.clone(), &upstream).await.unwrap();
    assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
    assert!(house.try_hit(&cold).is_some(), "stored all the same");
}

#[tokio::test]
async fn only_if_cached_asks_nobody() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    let request = asking(&house, "only-if-cached");
    assert!(matches!(
        house.serve(request.clone(), &upstream).await,
        Err(Failure::OnlyIfCached)
    ));
    assert_eq!(upstream.fetches(), 0);
    house.fetch("/", &upstream).await;
    assert!(house.try_hit(&request).is_some());
    house.pass_seconds(61);
    assert!(matches!(
        house.serve(request, &upstream).await,
        Err(Failure::OnlyIfCached)
    ));
    let reply = house
        .serve(asking(&house, "only-if-cached, max-stale=10"), &upstream)
        .await
        .unwrap();
    assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
    settle().await;
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn no_store_stores_nothing_and_costs_others_nothing() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    let request = asking(&house, "no-store");
    for fetches in 1..3 {
        let reply = house.serve(request.clone(), &upstream).await.unwrap();
        assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
        assert_eq!(upstream.fetches(), fetches);
        assert!(house.try_hit(&house.get("/", &[])).is_none());
    }
    // The URL is not remembered as uncacheable: the next is an ordinary miss.
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Miss);
    body(reply).await.unwrap();
    // What others had stored may answer.
    assert!(house.try_hit(&request).is_some());
    // And is not lost to one who may not replace it.
    house.pass_seconds(61);
    body(house.serve(request, &upstream).await.unwrap())
        .await
        .unwrap();
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Revalidated);
}

#[tokio::test]
async fn a_request_may_take_what_is_stale_and_it_is_refreshed_behind() {
    let house = house();
    let upstream = Script::fixed(FRESH, noise(1, 5_000));
    house.fetch("/", &upstream).await;
    house.pass_seconds(70);
    let reply = house
        .serve(asking(&house, "max-stale=10"), &upstream)
        .await
        .unwrap();
    assert_eq!(reply.outcome, CacheStatus::StaleRefreshing);
    until("refreshed", || {
        house.try_hit(&house.get("/", &[])).is_some()
    })
    .await;
    house.pass_seconds(71);
    let reply = house
        .serve(asking(&house, "max-stale=10"), &upstream)
        .await
        .unwrap();
    assert_eq!(
        reply.outcome,
        CacheStatus::Revalidated,
        "too stale by a second"
    );
}

#[tokio::test]
async fn a_reload_of_an_immutable_response_does_not_leave_the_house() {
    let house = house();
    let upstream = Script::fixed(
        &[
            ("cache-control", "max-age=60, immutable"),
            ("etag", "\"v1\""),
        ],
        noise(1, 5_000),
    );
    house.fetch("/", &upstream).await;
    house.pass_seconds(30);
    let reload = house.get(
        "/",
        &[("cache-control", "max-age=0"), ("if-none-match", "\"v1\"")],
    );
    assert_eq!(house.try_hit(&reload).unwrap().status().as_u16(), 304);
    assert!(house.try_hit(&asking(&house, "no-cache")).is_none());
}

#[tokio::test]
async fn an_error_is_covered_while_stale_if_error_lasts() {
    const COVERED: &[(&str, &str)] = &[
        ("cache-control", "max-age=60, stale-if-error=30"),
        ("etag", "\"v1\""),
    ];
    for status in [500, 502, 503, 504] {
        let house = house();
        // That the error says it is fresh does not let it take the place of what it is covered by.
        let upstream = then(COVERED, status, &[("cache-control", "max-age=60")]);
        house.fetch("/", &upstream).await;
        house.pass_seconds(70);
        for past in [10, 11] {
            let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
            assert_eq!(
                cache_status(&reply),
                format!("edge; fwd=stale; fwd-status={status}; ttl=-{past}; detail=stale-if-error")
            );
            assert_eq!(reply.status().as_u16(), 200);
            assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
            house.pass_seconds(1);
        }
        let mut head = house.get("/", &[]);
        head.method = Method::HEAD;
        let reply = house.serve(head, &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::StaleError);
        house.pass_seconds(20);
        assert_eq!(
            house.fetch("/", &upstream).await.0,
            status,
            "the window is over"
        );
    }
}

#[tokio::test]
async fn an_origin_that_fails_is_asked_once_a_second() {
    const COVERED: &[(&str, &str)] = &[
        ("cache-control", "max-age=60, stale-if-error=30"),
        ("etag", "\"v1\""),
    ];
    let house = house();
    let upstream = then(COVERED, 503, &[]);
    house.fetch("/", &upstream).await;
    house.pass_seconds(70);
    for second in 0..5 {
        for n in 0..50 {
            let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
            let how = if n == 0 {
                "fwd=stale; fwd-status=503"
            } else {
                "hit"
            };
            assert_eq!(
                cache_status(&reply),
                format!("edge; {how}; ttl=-{}; detail=stale-if-error", 10 + second)
            );
            assert_eq!(body(reply).await.unwrap(), noise(1, 5_000));
        }
        assert_eq!(upstream.fetches(), 2 + second);
        house.pass_seconds(1);
    }
    drop(house.fetch("/", &upstream).await);
    let pressing = house.serve(asking(&house, "no-cache"), &upstream).await;
    assert_eq!(
        pressing.unwrap().outcome,
        CacheStatus::StaleError,
        "who wants it validated has the origin asked"
    );
    house.pass_seconds(15);
    for _ in 0..2 {
        let (status, _) = house.fetch("/", &upstream).await;
        assert_eq!(status, 503, "the window is over, and nothing rests");
    }
}

#[tokio::test]
async fn an_error_that_nothing_covers_is_passed_on() {
    for (first, status) in [
        (
            &[("cache-control", "max-age=60"), ("etag", "\"v1\"")][..],
            503,
        ),
        (
            &[
                (
                    "cache-control",
                    "max-age=60, stale-if-error=30, must-revalidate",
                ),
                ("etag", "\"v1\""),
            ],
            503,
        ),
        (
            &[
                ("cache-control", "max-age=60, stale-if-error=30"),
                ("etag", "\"v1\""),
            ],
            501,
        ),
        (
            &[
                ("cache-control", "max-age=60, stale-if-error=30"),
                ("etag", "\"v1\""),
            ],
            404,
        ),
    ] {
        let house = house();
        let upstream = then(first, status, &[]);
        house.fetch("/", &upstream).await;
        house.pass_seconds(70);
        assert_eq!(house.fetch("/", &upstream).await.0, status, "{first:?}");
    }
}

#[tokio::test]
async fn a_site_and_a_request_can_permit_what_the_response_leaves_open() {
    let policy = SitePolicy {
        stale_if_error: Some(Duration::from_secs(20)),
        ..SitePolicy::default()
    };
    let house = site(policy);
    let upstream = then(FRESH, 503, &[]);
    house.fetch("/", &upstream).await;
    house.pass_seconds(70);
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::StaleError);
    house.pass_seconds(20);
    let reply = house
        .serve(asking(&house, "stale-if-error=60"), &upstream)
        .await
        .unwrap();
    assert_eq!(reply.outcome, CacheStatus::StaleError);
    assert_eq!(house.fetch("/", &upstream).await.0, 503);
}

#[tokio::test]
async fn one_error_covers_all_who_waited_for_it() {
    let house = Arc::new(house());
    let (gate, gated) = fed(1);
    let gated = parking_lot::Mutex::new(Some(gated));
    let upstream = Script::new(move |request, n| {
        let gate = (n > 0).then(|| gated.lock().take()).flatten();
        async move {
            if n == 0 {
                let fields = [
                    ("cache-control", "max-age=60, stale-if-error=30"),
                    ("etag", "\"v1\""),
                ];
                return Ok(whole_or_part(&request, &fields, &noise(1, 5_000)));
            }
            if let Some(FetchBody::Stream(mut gate)) = gate {
                futures_util::StreamExt::next(&mut gate).await;
            }
            Ok(response(503, &[], FetchBody::Empty))
        }
    });
    house.fetch("/", &upstream).await;
    house.pass_seconds(70);
    let asks: Vec<_> = (0..100)
        .map(|_| {
            let (house, upstream) = (Arc::clone(&house), Arc::clone(&upstream));
            tokio::spawn(async move {
                let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
                (reply.outcome, body(reply).await.unwrap())
            })
        })
        .collect();
    settle().await;
    drop(gate);
    for ask in asks {
        assert_eq!(
            ask.await.unwrap(),
            (CacheStatus::StaleError, noise(1, 5_000))
        );
    }
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn a_fresh_response_answers_a_reload_when_the_upstream_is_gone() {
    let house = house();
    let upstream = Script::new(|request, n| {
        std::future::ready(match n {
            0 => Ok(whole_or_part(
                &request,
                &[
                    ("cache-control", "max-age=60, must-revalidate"),
                    ("etag", "\"v1\""),
                ],
                &noise(1, 5_000),
            )),
            _ => Err(UpstreamError::Unreachable("refused".to_owned())),
        })
    });
    house.fetch("/", &upstream).await;
    house.pass_seconds(30);
    let reply = house
        .serve(asking(&house, "no-cache"), &upstream)
        .await
        .unwrap();
    assert_eq!(reply.outcome, CacheStatus::StaleUnreachable);
    house.pass_seconds(31);
    assert!(house.serve(house.get("/", &[]), &upstream).await.is_err());
}

#[tokio::test]
async fn a_targeted_field_is_obeyed_and_passed_on() {
    let house = site(SitePolicy {
        cache_control_targets: vec![
            HeaderName::from_static("ours-cache-control"),
            HeaderName::from_static("cdn-cache-control"),
        ],
        ..SitePolicy::default()
    });
    let upstream = Script::fixed(
        &[
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=10"),
            ("ours-cache-control", "max-age=20, unknown;x=1"),
        ],
        noise(1, 5_000),
    );
    house.fetch("/", &upstream).await;
    house.pass_seconds(19);
    let hit = house.try_hit(&house.get("/", &[])).unwrap();
    assert_eq!(
        hit.to_headers()["ours-cache-control"],
        "max-age=20, unknown;x=1"
    );
    assert_eq!(hit.to_headers()["cdn-cache-control"], "max-age=10");
    house.pass_seconds(1);
    assert!(house.try_hit(&house.get("/", &[])).is_none());
}

#[tokio::test]
async fn what_was_modified_long_ago_is_fresh_for_a_while_unless_the_site_says_no() {
    // 1,000 s before the first moment of the tests' clock.
    const OLD: &[(&str, &str)] = &[
        ("last-modified", "Fri, 15 Jan 2027 07:43:20 GMT"),
        ("date", "Fri, 15 Jan 2027 08:00:00 GMT"),
    ];
    let on = house();
    let upstream = Script::fixed(OLD, noise(1, 5_000));
    on.fetch("/", &upstream).await;
    on.pass_seconds(99);
    assert!(on.try_hit(&on.get("/", &[])).is_some());
    on.pass_seconds(1);
    assert!(on.try_hit(&on.get("/", &[])).is_none());

    let off = site(SitePolicy {
        heuristic: false,
        ..SitePolicy::default()
    });
    off.fetch("/", &upstream).await;
    assert!(off.try_hit(&off.get("/", &[])).is_none());
}
