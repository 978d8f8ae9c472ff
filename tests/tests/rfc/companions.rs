//! RFC 5861, 8246, 8470, 8586, 9211, 9213, and of RFC 9110 what a proxy says about itself.

use integration::{Answer, Seen};

use crate::case::{Case, Script, controlled, tagged};
use crate::matrix::run;

/// 40 s past its lifetime when it arrives; what comes later is fresh.
fn stale_at_first(seen: &Seen, line: &str) -> Answer {
    let answer = tagged(seen).header("cache-control", line);
    match seen.nth {
        0 => answer.header("age", "100"),
        _ => answer,
    }
}

//= https://www.rfc-editor.org/rfc/rfc5861#section-3
//# after it becomes stale, up to the indicated number of seconds.
#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_asks_behind() {
    run(vec![
        Case::new("within its window", |seen| {
            stale_at_first(seen, "max-age=60, stale-while-revalidate=5000")
        })
        .get(&[])
        .get(&[])
        .edge("hit; ttl=-4")
        .body("whole")
        .age(100)
        .get(&[])
        .edge("hit; ttl=")
        .age(0)
        .told("if-none-match", "\"v\"")
        .eventually()
        .asked(2),
        Case::new("past its window", |seen| {
            stale_at_first(seen, "max-age=60, stale-while-revalidate=20")
        })
        .get(&[])
        .get(&[])
        .edge("fwd=stale; fwd-status=304")
        .asked(2),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc5861#section-4
//# indicates that when an error is encountered, a cached stale response
//# MAY be used to satisfy the request, regardless of other freshness
//# information.
#[tokio::test]
async fn stale_if_error_covers_errors_within_its_window() {
    /// Stale when it arrives; then the origin fails in this way, once.
    fn failing(seen: &Seen, line: &str, status: u16) -> Answer {
        match seen.nth {
            1 => Answer::status(status).body("down"),
            _ => stale_at_first(seen, line),
        }
    }
    fn covered(name: &'static str, script: Script) -> Case {
        let case = Case::new(name, script).get(&[]).get(&[]);
        case.status(200)
            .nearest("fwd=stale; fwd-status=5")
            .body("whole")
            .age(100)
    }
    fn shown(name: &'static str, script: Script, status: u16) -> Case {
        let case = Case::new(name, script).get(&[]).get(&[]);
        case.status(status).body("down").asked(2)
    }
    const WINDOW: &str = "max-age=60, stale-if-error=5000";
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc5861#section-4
        //# an error is any situation which would result in a 500, 502, 503 or
        //# 504 HTTP response status code being returned.
        covered("500", |seen| failing(seen, WINDOW, 500)),
        covered("502", |seen| failing(seen, WINDOW, 502)),
        covered("503", |seen| failing(seen, WINDOW, 503)),
        covered("504", |seen| failing(seen, WINDOW, 504)),
        shown("501 is none", |seen| failing(seen, WINDOW, 501), 501),
        shown("404 is none", |seen| failing(seen, WINDOW, 404), 404),
        shown(
            "past its window",
            |seen| failing(seen, "max-age=60, stale-if-error=20", 503),
            503,
        ),
        shown(
            "nobody permits it",
            |seen| failing(seen, "max-age=60", 503),
            503,
        ),
        shown(
            "must-revalidate forbids it",
            |seen| {
                failing(
                    seen,
                    "max-age=60, stale-if-error=5000, must-revalidate",
                    503,
                )
            },
            503,
        ),
        Case::new("the request permits it", |seen| {
            failing(seen, "max-age=60", 503)
        })
        .get(&[])
        .get(&[("cache-control", "stale-if-error=5000")])
        .status(200)
        .body("whole"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc8246#section-2
//# Clients SHOULD NOT issue a conditional request during the
//# response's freshness lifetime (e.g., upon a reload) unless explicitly
//# overridden by the user (e.g., a force reload).
#[tokio::test]
async fn a_reload_of_something_immutable_stays_here() {
    run(vec![
        Case::new("a reload", |seen| {
            tagged(seen).header("cache-control", "max-age=5000, immutable")
        })
        .get(&[])
        .get(&[("cache-control", "max-age=0")])
        .edge("hit")
        .asked(1)
        .get(&[("cache-control", "no-cache")])
        .edge("fwd=request; fwd-status=304")
        .asked(2),
        Case::new("once it is stale", |seen| {
            let answer = tagged(seen).header("age", "100");
            answer.header("cache-control", "max-age=60, immutable")
        })
        .get(&[])
        .get(&[])
        .edge("fwd=stale; fwd-status=304")
        .asked(2),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9213#section-2.2
//# the cache MUST select the first (in target-list order) field with a
//# valid, non-empty value and use its value to determine the caching policy
//# for the response, and it MUST ignore the Cache-Control and Expires
//# header fields in that response
#[tokio::test]
async fn what_is_addressed_to_cdns_goes_before_all_else_in_every_tier() {
    fn targeted(seen: &Seen, line: &str, target: &str) -> Answer {
        controlled(seen, line).header("cdn-cache-control", target)
    }
    run(vec![
        Case::stored("it permits", |seen| {
            targeted(seen, "no-store", "max-age=60")
        }),
        Case::passed("it forbids", |seen| {
            targeted(seen, "max-age=60", "no-store")
        }),
        Case::passed("private", |seen| targeted(seen, "max-age=60", "private")),
        Case::passed(
            "it says nothing of a lifetime, and Expires is not heard",
            |seen| {
                let answer = targeted(seen, "max-age=60", "public");
                answer.header("expires", "Thu, 18 Aug 2090 02:01:18 GMT")
            },
        ),
        //= https://www.rfc-editor.org/rfc/rfc9213#section-2.1
        //# If a targeted field in a given response is empty, or a parsing error is
        //# encountered, that field MUST be ignored by the cache
        Case::stored("broken", |seen| targeted(seen, "max-age=60", "no-store, &")),
        Case::passed("broken, and nothing else permits", |seen| {
            targeted(seen, "no-store", "max-age=60, &")
        }),
        Case::passed("a number in quotes is none", |seen| {
            targeted(seen, "no-store", "max-age=\"60\"")
        }),
        Case::stored("parameters are passed over", |seen| {
            targeted(seen, "no-store", "max-age=60;x=1")
        }),
        Case::new("both are passed on", |seen| {
            targeted(seen, "max-age=1", "max-age=60")
        })
        .get(&[])
        .get(&[])
        .edge("hit")
        .has("cache-control", "max-age=1")
        .has("cdn-cache-control", "max-age=60"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9211#section-2
//# Each member of the List represents a cache that has handled the request.
//# The first member represents the cache closest to
//# the origin server
#[tokio::test]
async fn each_cache_says_what_it_did_nearest_the_origin_first() {
    run(vec![
        Case::new("a response that is stored", |seen| tagged(seen).fresh(5000))
            .get(&[])
            .edge("fwd=uri-miss; fwd-status=200; stored; ttl=")
            .shield("fwd=uri-miss; fwd-status=200; stored; ttl=")
            .get(&[])
            .edge("hit; ttl=")
            .get(&[("cache-control", "no-cache")])
            .edge("fwd=request; fwd-status=304")
            .shield("fwd=request; fwd-status=304")
            .elsewhere()
            .edge("fwd=uri-miss; fwd-status=200; stored; ttl=")
            .shield("hit; ttl="),
        Case::new("one that is not", |seen| controlled(seen, "no-store"))
            .get(&[])
            .edge("fwd=uri-miss; fwd-status=200")
            .shield("fwd=uri-miss; fwd-status=200")
            .get(&[])
            .edge("fwd=bypass; fwd-status=200; detail=hit-for-miss"),
        Case::new("another method", |_| Answer::status(204))
            .ask("POST", &[])
            .edge("fwd=method; fwd-status=204")
            .shield("fwd=method; fwd-status=204"),
    ])
    .await;
}

#[tokio::test]
async fn the_origin_learns_who_asks_and_a_loop_ends() {
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc8586#section-2
        //# Conforming Content Delivery Networks SHOULD add a cdn-info to this
        //# header field in all requests they generate or forward
        Case::new("another's mark is kept", |seen| {
            controlled(seen, "no-store")
        })
        .get(&[("cdn-loop", "other-cdn; x=1")])
        .status(200)
        .told("cdn-loop", "other-cdn; x=1, test-cdn"),
        Case::new("our own ends it", |seen| controlled(seen, "no-store"))
            .get(&[("cdn-loop", "other-cdn, test-cdn")])
            .status(508)
            .asked(0),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc8470#section-5.2
//# A 425 (Too Early) status code indicates that the server is unwilling to
//# risk processing a request that might be replayed.
#[tokio::test]
async fn too_early_is_for_its_own_request_alone() {
    run(vec![
        Case::new("425, however fresh it calls itself", |seen| {
            match seen.header("early-data") {
                "1" => Answer::status(425).fresh(60),
                _ => tagged(seen).fresh(60),
            }
        })
        .get(&[("early-data", "1")])
        .told("early-data", "1")
        .status(425)
        .get(&[])
        .status(200)
        .body("whole")
        .asked(2),
    ])
    .await;
}
