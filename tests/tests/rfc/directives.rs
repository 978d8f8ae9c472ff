//! RFC 9111 §5.2, §5.4: what requests and responses say with `Cache-Control`, and with `Pragma`.

use crate::case::{Case, Script, controlled, numbered, tagged};
use crate::matrix::run;

/// Fresh for 5,000 s, 100 of them over.
fn fresh(seen: &integration::Seen) -> integration::Answer {
    tagged(seen).fresh(5000).header("age", "100")
}

/// Stale for 40 s.
fn stale(seen: &integration::Seen) -> integration::Answer {
    tagged(seen).fresh(60).header("age", "100")
}

/// Stored, then asked for with this `Cache-Control`: answered from the store.
fn answers(script: Script, line: &'static str) -> Case {
    let case = Case::new(line, script).get(&[]).asked(1);
    case.get(&[("cache-control", line)]).edge("hit").asked(1)
}

/// Stored, then asked for with this `Cache-Control`: answered from the store, while the origin is asked behind.
fn answers_stale(line: &'static str) -> Case {
    let case = Case::new(line, stale).get(&[]).asked(1);
    let case = case.get(&[("cache-control", line)]);
    case.edge("hit; ttl=-4").body("whole").age(100)
}

/// Stored, then asked for with this `Cache-Control`: validated at the origin, by all tiers.
fn validates(script: Script, line: &'static str) -> Case {
    Case::new(line, script)
        .get(&[])
        .get(&[("cache-control", line)])
        .edge("fwd=")
        .status(200)
        .told("if-none-match", "\"v\"")
        .told("cache-control", line)
        .body("whole")
        .asked(2)
}

#[tokio::test]
async fn a_request_says_how_old_a_response_may_be() {
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.1
        //# The max-age request directive indicates that the client prefers a
        //# response whose age is less than or equal to the specified number of
        //# seconds.
        answers(fresh, "max-age=1000"),
        validates(fresh, "max-age=50"),
        validates(fresh, "max-age=0"),
        answers(fresh, "max-age=soon"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.1
        //# Unless the max-stale request directive is also present, the client
        //# does not wish to receive a stale response.
        validates(stale, "max-age=1000"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.2
        //# If a value is present, then the client is willing to accept a
        //# response that has exceeded its freshness lifetime by no more than the
        //# specified number of seconds.
        answers_stale("max-stale=1000"),
        answers_stale("max-age=1000, max-stale=1000"),
        validates(stale, "max-stale=20"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.2
        //# If no value is assigned to max-stale, then the client will accept a
        //# stale response of any age.
        answers_stale("max-stale"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.3
        //# the client wants a response that will still be fresh for at least the
        //# specified number of seconds.
        answers(fresh, "min-fresh=1000"),
        validates(fresh, "min-fresh=4950"),
        validates(stale, "min-fresh=1"),
        answers(fresh, "frobnicate, x=\"no-cache\""),
    ])
    .await;
}

#[tokio::test]
async fn a_request_says_who_is_to_be_asked() {
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.4
        //# The no-cache request directive indicates that the client prefers a
        //# stored response not be used to satisfy the request without successful
        //# validation on the origin server.
        validates(fresh, "no-cache"),
        validates(fresh, "NO-CACHE"),
        Case::new("Pragma, where there is no Cache-Control", fresh)
            .get(&[])
            .get(&[("pragma", "no-cache")])
            .edge("fwd=request; fwd-status=304")
            .asked(2)
            .get(&[("pragma", "no-cache"), ("cache-control", "max-age=1000")])
            .edge("hit")
            .asked(2),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.5
        //# Note that if a request containing this directive is satisfied from a
        //# cache, the no-store request directive does not apply to the already
        //# stored response.
        answers(fresh, "no-store"),
        Case::new("no-store, where nothing is", |seen| {
            numbered(seen).fresh(60)
        })
        .get(&[("cache-control", "no-store")])
        .body("0")
        .get(&[])
        .edge("fwd=uri-miss")
        .body("1")
        .asked(2),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.7
        //# respond with either a stored response consistent with the other
        //# constraints of the request or a 504 (Gateway Timeout) status code.
        answers(fresh, "only-if-cached"),
        Case::new("only-if-cached, and nothing is", fresh)
            .get(&[("cache-control", "only-if-cached")])
            .status(504)
            .asked(0),
        Case::new("only-if-cached, and what is is stale", stale)
            .get(&[])
            .get(&[("cache-control", "only-if-cached")])
            .status(504)
            .asked(1)
            .get(&[("cache-control", "only-if-cached, max-stale")])
            .status(200)
            .edge("hit")
            .asked(1),
        Case::new("only-if-cached with other constraints", fresh)
            .get(&[])
            .get(&[("cache-control", "only-if-cached, max-age=50")])
            .status(504)
            .asked(1),
    ])
    .await;
}

#[tokio::test]
async fn a_response_says_who_may_have_it_and_until_when() {
    /// Validated on each use, by every tier.
    fn each_time(name: &'static str, script: Script) -> Case {
        Case::new(name, script)
            .get(&[])
            .get(&[])
            .told("if-none-match", "\"v\"")
            .edge("fwd=stale; fwd-status=304")
            .body("whole")
            .asked(2)
            .get(&[])
            .edge("fwd=stale; fwd-status=304")
            .body("whole")
            .asked(3)
    }
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.4
        //# The no-cache response directive, in its unqualified form (without an
        //# argument), indicates that the response MUST NOT be used to satisfy
        //# any other request without forwarding it for validation and receiving a
        //# successful response
        each_time("no-cache", |seen| {
            tagged(seen).header("cache-control", "no-cache, max-age=60")
        }),
        each_time("no-cache without a lifetime", |seen| {
            tagged(seen).header("cache-control", "no-cache")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.4
        //# The qualified form of the directive is often handled by caches as if
        //# an unqualified no-cache directive was received
        each_time("no-cache of a field", |seen| {
            tagged(seen).header("cache-control", "no-cache=\"x-one\", max-age=60")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.2
        //# The must-revalidate response directive indicates that once the
        //# response has become stale, a cache MUST NOT reuse that response to
        //# satisfy another request until it has been successfully validated by
        //# the origin
        each_time("must-revalidate, once stale", |seen| {
            let answer = tagged(seen).header("age", "100");
            answer.header(
                "cache-control",
                "max-age=60, must-revalidate, stale-while-revalidate=5000",
            )
        }),
        Case::stored("must-revalidate, while fresh", |seen| {
            controlled(seen, "max-age=60, must-revalidate")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.1
        //# The max-age response directive indicates that the response is to be
        //# considered stale after its age is greater than the specified number of
        //# seconds.
        each_time("max-age", |seen| {
            tagged(seen).fresh(60).header("age", "100")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2
        //# A proxy, whether or not it implements a cache, MUST pass cache
        //# directives through in forwarded messages, regardless of their
        //# significance to that application
        Case::new("directives are passed on", |seen| {
            controlled(seen, "max-age=60, frobnicate=\"a, b\"")
        })
        .get(&[("cache-control", "x-mine=1")])
        .told("cache-control", "x-mine=1")
        .has("cache-control", "max-age=60, frobnicate=\"a, b\"")
        .get(&[])
        .edge("hit")
        .has("cache-control", "max-age=60, frobnicate=\"a, b\""),
    ])
    .await;
}
