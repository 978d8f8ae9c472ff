//! RFC 9111 §3.2, §4.3: asking whether what is stored still holds, answering those who ask, and what a 304 or an answer
//! to HEAD changes of what is stored, in both tiers.

use http::Method;
use integration::{Answer, Seen};

use crate::case::{Case, tagged};
use crate::matrix::run;

const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Stored only to be validated at first; what comes then is fresh, and says other things.
fn refreshed(seen: &Seen) -> Answer {
    let answer = tagged(seen);
    match seen.nth {
        0 => answer
            .header("cache-control", "max-age=0")
            .header("x-mark", "old")
            .header("x-kept", "yes"),
        _ => answer
            .header("cache-control", "max-age=5000")
            .header("age", "100")
            .header("x-mark", "new")
            .header("x-added", "yes"),
    }
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.1
//# MUST send the relevant entity tags (using If-Match, If-None-Match, or
//# If-Range) if the entity tags were provided in the stored response(s)
//# being validated.
#[tokio::test]
async fn the_origin_is_asked_about_what_is_stored_and_nothing_else() {
    run(vec![
        Case::new("by entity tag", |seen| {
            tagged(seen).header("cache-control", "max-age=0")
        })
        .get(&[])
        .told("if-none-match", "")
        .get(&[])
        .told("if-none-match", "\"v\"")
        .edge("fwd=stale; fwd-status=304")
        .body("whole"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.1
        //# SHOULD send the Last-Modified value (using If-Modified-Since) if the
        //# request is not for a subrange, a single stored response is being
        //# validated, and that response contains a Last-Modified value.
        Case::new("by date", |seen| {
            let answer = match seen.header("if-modified-since") {
                "" => Answer::ok("whole"),
                _ => Answer::status(304),
            };
            answer
                .header("cache-control", "max-age=0")
                .header("last-modified", LONG_AGO)
        })
        .get(&[])
        .told("if-modified-since", "")
        .get(&[])
        .told("if-modified-since", LONG_AGO)
        .edge("fwd=stale; fwd-status=304")
        .body("whole"),
        Case::new("by both", |seen| {
            let answer = tagged(seen).header("cache-control", "max-age=0");
            answer.header("last-modified", LONG_AGO)
        })
        .get(&[])
        .get(&[])
        .told("if-none-match", "\"v\"")
        .told("if-modified-since", LONG_AGO)
        .body("whole"),
        Case::new("not about what the client holds", |seen| {
            tagged(seen).header("cache-control", "max-age=0")
        })
        .get(&[])
        .get(&[("if-none-match", "\"client\"")])
        .told("if-none-match", "\"v\"")
        .status(200)
        .body("whole")
        .get(&[("if-modified-since", LONG_AGO)])
        .told("if-modified-since", "")
        .body("whole"),
        Case::new("what was never stored is asked for whole", |seen| {
            tagged(seen).fresh(60)
        })
        .get(&[("if-none-match", "\"client\"")])
        .told("if-none-match", "")
        .status(200)
        .body("whole")
        .get(&[])
        .edge("hit"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.3
//# A 304 (Not Modified) response status code indicates that the stored
//# response can be updated and reused
#[tokio::test]
async fn an_answer_to_validation_decides_what_the_client_gets() {
    run(vec![
        Case::new("304: what is stored", refreshed)
            .get(&[])
            .body("whole")
            .get(&[])
            .status(200)
            .edge("fwd=stale; fwd-status=304")
            .body("whole")
            .asked(2),
        Case::new("304, and the client holds it too: 304", refreshed)
            .get(&[])
            .get(&[("if-none-match", "\"v\"")])
            .status(304)
            .body("")
            .has("etag", "\"v\"")
            .asked(2),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.3
        //# Instead, the cache MUST use the full response to satisfy the request.
        Case::new("200: what came, then and later", |seen| {
            let answer = Answer::ok(format!("body {}", seen.nth));
            match seen.nth {
                0 => answer
                    .header("etag", "\"0\"")
                    .header("cache-control", "max-age=0"),
                _ => answer.header("etag", "\"1\"").fresh(60),
            }
        })
        .get(&[])
        .body("body 0")
        .get(&[])
        .edge("fwd=stale; fwd-status=200")
        .body("body 1")
        .has("etag", "\"1\"")
        .get(&[])
        .edge("hit")
        .body("body 1")
        .asked(2),
        Case::new("200 that may not be stored takes the other away", |seen| {
            let answer = Answer::ok(format!("body {}", seen.nth)).header("etag", "\"v\"");
            match seen.nth {
                0 => answer.header("cache-control", "max-age=0"),
                _ => answer.header("cache-control", "no-store"),
            }
        })
        .get(&[])
        .get(&[])
        .body("body 1")
        .get(&[])
        .told("if-none-match", "")
        .body("body 2"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.3
        //# if a cache receives a 5xx (Server Error) response while attempting to
        //# validate a response, it can either forward this response to the
        //# requesting client or act as if the server failed to respond.
        Case::new(
            "503: passed on, and what is stored is kept",
            |seen| match seen.nth {
                1 => Answer::status(503).body("down"),
                _ => tagged(seen).header("cache-control", "max-age=0"),
            },
        )
        .get(&[])
        .get(&[])
        .status(503)
        .body("down")
        .get(&[])
        .told("if-none-match", "\"v\"")
        .edge("fwd=stale; fwd-status=304")
        .body("whole"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.4
//# For each stored response identified, the cache MUST update its header
//# fields with the header fields provided in the 304 (Not Modified)
//# response, as per Section 3.2.
#[tokio::test]
async fn a_304_freshens_every_tier_that_holds_it() {
    run(vec![
        Case::new("fields, lifetime and age", refreshed)
            .get(&[])
            .has("x-mark", "old")
            .get(&[])
            .has("x-mark", "new")
            .has("x-kept", "yes")
            .has("x-added", "yes")
            .age(100)
            .get(&[])
            .edge("hit")
            .has("x-mark", "new")
            .has("x-kept", "yes")
            .has("x-added", "yes")
            .has("content-length", "5")
            .age(100)
            .body("whole")
            .elsewhere()
            .shield("hit")
            .has("x-mark", "new")
            .has("x-added", "yes")
            .age(100)
            .body("whole")
            .elsewhere()
            .edge("hit")
            .body("whole")
            .asked(2),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-3.2
        //# replacing field values that are already present
        Case::new("all lines of a field", |seen| {
            let answer = tagged(seen);
            match seen.nth {
                0 => answer
                    .header("cache-control", "max-age=0")
                    .header("x-lines", "one")
                    .header("x-lines", "two"),
                _ => answer.fresh(60).header("x-lines", "three"),
            }
        })
        .get(&[])
        .has("x-lines", "one, two")
        .get(&[])
        .has("x-lines", "three")
        .get(&[])
        .edge("hit")
        .has("x-lines", "three"),
        Case::new("not the coding the stored bytes are in", |seen| {
            let answer = tagged(seen);
            match seen.nth {
                0 => answer.header("cache-control", "max-age=0"),
                _ => answer.fresh(60).header("content-encoding", "br"),
            }
        })
        .get(&[])
        .get(&[])
        .lacks("content-encoding")
        .body("whole")
        .get(&[])
        .edge("hit")
        .lacks("content-encoding"),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.4
        //# If none of the initial set contains at least one of the same strong
        //# validators, then the cache MUST NOT use the new response to update any
        //# stored responses.
        Case::new("not by a 304 about something else", |seen| {
            match (seen.nth, seen.header("if-none-match")) {
                (0, _) => tagged(seen).header("cache-control", "max-age=0"),
                (_, "") => Answer::ok("other").header("etag", "\"w\"").fresh(60),
                _ => Answer::status(304).header("etag", "\"w\"").fresh(60),
            }
        })
        .get(&[])
        .body("whole")
        .get(&[])
        .status(200)
        .has("etag", "\"w\"")
        .body("other")
        .get(&[])
        .edge("hit")
        .body("other"),
        Case::new("a weak one by a weak one", |seen| {
            let answer = match seen.header("if-none-match") {
                "" => Answer::ok("whole"),
                _ => Answer::status(304),
            };
            let answer = answer.header("etag", "W/\"v\"");
            match seen.nth {
                0 => answer.header("cache-control", "max-age=0"),
                _ => answer.fresh(60),
            }
        })
        .get(&[])
        .get(&[])
        .told("if-none-match", "W/\"v\"")
        .edge("fwd=stale; fwd-status=304")
        .get(&[])
        .edge("hit")
        .body("whole"),
        Case::new(
            "by one without validators, that answers about a single one",
            |seen| match seen.header("if-none-match") {
                "" => tagged(seen).header("cache-control", "max-age=0"),
                _ => Answer::status(304).fresh(60),
            },
        )
        .get(&[])
        .get(&[])
        .has("etag", "\"v\"")
        .body("whole")
        .get(&[])
        .edge("hit")
        .has("etag", "\"v\""),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.2
//# the cache SHOULD evaluate any applicable conditional header field
//# preconditions received in that request with respect to the
//# corresponding validators contained within the stored response.
#[tokio::test]
async fn a_client_that_holds_it_is_told_so_by_whoever_is_asked() {
    run(vec![
        Case::new("from the store, and from what arrives", |seen| {
            tagged(seen)
                .fresh(5000)
                .header("age", "100")
                .header("vary", "foo")
        })
        .get(&[("if-none-match", "\"v\"")])
        .status(304)
        .get(&[("if-none-match", "\"v\"")])
        .edge("hit")
        .status(304)
        .body("")
        .age(100)
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.4.5
        //# The server generating a 304 response MUST generate any of the following
        //# header fields that would have been sent in a 200 (OK) response to the
        //# same request:
        .has("etag", "\"v\"")
        .has("vary", "foo")
        .has("cache-control", "max-age=5000")
        .lacks("content-length")
        .get(&[])
        .edge("hit")
        .status(200)
        .body("whole")
        .elsewhere()
        .shield("hit")
        .body("whole")
        .asked(1),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.3.5
//# When a cache makes an inbound HEAD request for a target URI and
//# receives a 200 (OK) response, the cache SHOULD update or invalidate
//# each of its stored GET responses that could have been chosen for that
//# request
#[tokio::test]
async fn an_answer_to_head_freshens_or_ends_what_is_stored() {
    fn headed(seen: &Seen, changed: bool) -> Answer {
        let answer = match (&seen.method, changed) {
            (&Method::HEAD, true) => Answer::ok("another length"),
            _ => Answer::ok("whole"),
        };
        let answer = answer.header("etag", "\"v\"");
        match seen.nth {
            0 => answer
                .header("cache-control", "max-age=0")
                .header("x-mark", "old"),
            _ => answer.fresh(60).header("x-mark", "new"),
        }
    }
    run(vec![
        Case::new("of the same validator and length", |seen| {
            headed(seen, false)
        })
        .get(&[])
        .has("x-mark", "old")
        .head(&[])
        .has("x-mark", "new")
        .asked(2)
        .get(&[])
        .edge("hit")
        .has("x-mark", "new")
        .body("whole")
        .elsewhere()
        .shield("hit")
        .has("x-mark", "new")
        .asked(2),
        Case::new("of another length", |seen| headed(seen, true))
            .get(&[])
            .head(&[])
            .asked(2)
            .get(&[])
            .edge("fwd=stale")
            .asked(3)
            .body("whole"),
    ])
    .await;
}
