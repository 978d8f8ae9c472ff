//! RFC 9111 §3: which responses are stored, and which of their fields.

use integration::Answer;

use crate::case::{Case, controlled, numbered, tagged};
use crate::matrix::run;

const LATER: &str = "Thu, 18 Aug 2090 02:01:18 GMT";
const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

//= https://www.rfc-editor.org/rfc/rfc9111#section-3
//# A cache MUST NOT store a response to a request unless:
#[tokio::test]
async fn what_says_that_it_may_be_stored_answers_again_and_nothing_else_does() {
    run(vec![
        Case::stored("max-age", |seen| controlled(seen, "max-age=60")),
        Case::stored("s-maxage", |seen| controlled(seen, "s-maxage=60")),
        Case::stored("Expires", |seen| numbered(seen).header("expires", LATER)),
        Case::stored(
            "a status that allows heuristics, and Last-Modified",
            |seen| numbered(seen).header("last-modified", LONG_AGO),
        ),
        Case::stored("public, for a status that allows none", |seen| {
            let answer = Answer::status(599).body(seen.nth.to_string());
            answer
                .header("cache-control", "public")
                .header("last-modified", LONG_AGO)
        }),
        Case::stored("a redirect", |_| {
            Answer::status(302).header("location", "/").fresh(60)
        }),
        Case::stored("an error of the URL", |_| Answer::status(404).fresh(60)),
        Case::stored("an error of the origin that calls itself fresh", |_| {
            Answer::status(500).fresh(60)
        }),
        Case::stored("must-understand, and a status that is understood", |seen| {
            controlled(seen, "no-store, must-understand, max-age=60")
        }),
        Case::passed("no-store", |seen| controlled(seen, "no-store, max-age=60")),
        Case::passed("private", |seen| controlled(seen, "private, max-age=60")),
        Case::passed("private, of one field", |seen| {
            controlled(seen, "private=\"x-one\", max-age=60")
        }),
        Case::passed("nothing about freshness", numbered),
        Case::passed("a status that allows no heuristics", |seen| {
            let answer = Answer::status(403).body(seen.nth.to_string());
            answer.header("last-modified", LONG_AGO)
        }),
        Case::passed("must-understand, and a status that is not", |seen| {
            let answer = Answer::status(299).body(seen.nth.to_string());
            answer.header("cache-control", "must-understand, max-age=60")
        }),
        Case::passed("a 206 that nobody asked for", |_| {
            Answer::status(206)
                .body("x")
                .header("content-range", "bytes 0-0/2")
                .fresh(60)
        }),
        // More than §3 asks: a cookie is one user's.
        Case::passed("a cookie", |seen| {
            numbered(seen).fresh(60).header("set-cookie", "a=b")
        }),
    ])
    .await;
}

#[tokio::test]
async fn what_answers_a_request_with_another_method_answers_no_get() {
    run(vec![
        Case::new("HEAD", |seen| numbered(seen).fresh(60))
            .head(&[])
            .status(200)
            .body("")
            .asked(1)
            .get(&[])
            .body("1")
            .asked(2),
        Case::new("OPTIONS", |seen| numbered(seen).fresh(60))
            .ask("OPTIONS", &[])
            .body("0")
            .get(&[])
            .body("1")
            .asked(2),
        Case::new("an unknown method", |seen| numbered(seen).fresh(60))
            .ask("FROBNICATE", &[])
            .body("0")
            .get(&[])
            .body("1")
            .asked(2),
        Case::new("a GET with no-store of its own", |seen| {
            numbered(seen).fresh(60)
        })
        .get(&[("cache-control", "no-store")])
        .body("0")
        .get(&[])
        .body("1")
        .asked(2),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-3.1
//# this assures that new HTTP header fields can be successfully deployed.
#[tokio::test]
async fn all_fields_are_stored_but_those_of_the_connection() {
    run(vec![
        Case::new("fields nobody knows, line by line", |seen| {
            numbered(seen)
                .fresh(60)
                .header("x-unknown", "one, two")
                .header("x-unknown", "three")
                .header("content-language", "de")
        })
        .get(&[])
        .has("x-unknown", "one, two, three")
        .get(&[])
        .edge("hit")
        .has("x-unknown", "one, two, three")
        .has("content-language", "de")
        .elsewhere()
        .shield("hit")
        .has("x-unknown", "one, two, three"),
        Case::new("fields of the connection", |seen| {
            numbered(seen)
                .fresh(60)
                .header("connection", "x-hop")
                .header("x-hop", "1")
                .header("keep-alive", "timeout=5")
                .header("proxy-authentication-info", "x")
        })
        .get(&[])
        .lacks("x-hop")
        .lacks("keep-alive")
        .get(&[])
        .edge("hit")
        .lacks("x-hop")
        .lacks("keep-alive")
        .lacks("proxy-authentication-info"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-3.5
//# In this specification, the following response directives have such an
//# effect: must-revalidate (Section 5.2.2.2), public (Section 5.2.2.9),
//# and s-maxage (Section 5.2.2.10).
#[tokio::test]
async fn what_was_made_for_one_who_is_authorized_is_shared_only_where_it_says_so() {
    const WHO: &[(&str, &str)] = &[("authorization", "Basic eDp5")];
    let shared = |name, script| {
        Case::new(name, script)
            .get(WHO)
            .body("0")
            .get(&[])
            .edge("hit")
            .body("0")
            .asked(1)
    };
    run(vec![
        Case::new("max-age alone", |seen| numbered(seen).fresh(60))
            .get(WHO)
            .body("0")
            .told("authorization", "Basic eDp5")
            .get(&[])
            .body("1")
            .asked(2),
        Case::new("to one who is, what is stored is given", |seen| {
            numbered(seen).fresh(60)
        })
        .get(&[])
        .body("0")
        .get(WHO)
        .edge("hit")
        .body("0")
        .asked(1),
        shared("public", |seen| controlled(seen, "public, max-age=60")),
        shared("s-maxage", |seen| controlled(seen, "s-maxage=60")),
        shared("must-revalidate", |seen| {
            controlled(seen, "max-age=60, must-revalidate")
        }),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-3.3
//# A cache MUST NOT use an incomplete response to answer requests unless
//# the response has been made complete, or the request is partial and
//# specifies a range wholly within the incomplete response.
#[tokio::test]
async fn a_part_that_was_asked_for_is_not_taken_for_the_whole() {
    run(vec![
        Case::new("a range of something unknown", |seen| {
            if seen.header("range").is_empty() {
                return tagged(seen).fresh(60);
            }
            Answer::status(206)
                .body("w")
                .header("content-range", "bytes 0-0/5")
                .header("etag", "\"v\"")
                .fresh(60)
        })
        .get(&[("range", "bytes=0-0")])
        .status(206)
        .body("w")
        .get(&[])
        .status(200)
        .body("whole"),
    ])
    .await;
}
