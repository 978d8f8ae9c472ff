//! RFC 9110 §13: conditions of clients against what is stored.

use integration::{Answer, Seen};

use crate::case::{Case, Fields, Script};
use crate::matrix::run;

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

fn both(_: &Seen) -> Answer {
    let answer = Answer::ok("whole").fresh(60).header("etag", "\"v\"");
    answer.header("last-modified", MODIFIED)
}

fn weak(_: &Seen) -> Answer {
    Answer::ok("whole").fresh(60).header("etag", "W/\"v\"")
}

/// What a hit comes to under these conditions, at the first edge and, behind a hit of the shield's, at another.
fn comes_to(name: &'static str, script: Script, fields: &Fields, status: u16) -> Case {
    let case = Case::new(name, script).get(&[]).asked(1);
    let case = case.get(fields).edge("hit").status(status);
    let body = if status == 200 { "whole" } else { "" };
    case.body(body).asked(1)
}

fn not_modified(name: &'static str, script: Script, fields: &Fields) -> Case {
    comes_to(name, script, fields, 304)
}

fn whole(name: &'static str, script: Script, fields: &Fields) -> Case {
    comes_to(name, script, fields, 200)
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2
//# A recipient MUST use the weak comparison function when comparing entity
//# tags for If-None-Match
#[tokio::test]
async fn if_none_match_compares_weakly_and_any_of_a_list() {
    run(vec![
        not_modified("the tag", both, &[("if-none-match", "\"v\"")]),
        not_modified(
            "a weak one for a strong",
            both,
            &[("if-none-match", "W/\"v\"")],
        ),
        not_modified(
            "a strong one for a weak",
            weak,
            &[("if-none-match", "\"v\"")],
        ),
        not_modified(
            "one of a list",
            both,
            &[("if-none-match", "\"a\", W/\"b\" , \"v\"")],
        ),
        not_modified(
            "one of two lines",
            both,
            &[("if-none-match", "\"a\""), ("if-none-match", "\"v\"")],
        ),
        not_modified("any", both, &[("if-none-match", "*")]),
        whole("another", both, &[("if-none-match", "\"w\"")]),
        whole(
            "a comma within",
            both,
            &[("if-none-match", "\"a,\\\"v\\\"\"")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn if_modified_since_compares_dates_and_yields_to_entity_tags() {
    run(vec![
        not_modified("the date", both, &[("if-modified-since", MODIFIED)]),
        not_modified(
            "a later one",
            both,
            &[("if-modified-since", "Mon, 07 Nov 1994 00:00:00 GMT")],
        ),
        whole("an earlier one", both, &[("if-modified-since", BEFORE)]),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
        //# A recipient that parses a timestamp value in an HTTP field MUST
        //# accept all three HTTP-date formats.
        not_modified(
            "of 1985",
            both,
            &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")],
        ),
        not_modified(
            "of C",
            both,
            &[("if-modified-since", "Sun Nov  6 08:49:37 1994")],
        ),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
        //# A recipient MUST ignore the If-Modified-Since header field if the
        //# received field value is not a valid HTTP-date
        whole("no date", both, &[("if-modified-since", "yesterday")]),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
        //# A recipient MUST ignore If-Modified-Since if the request contains an
        //# If-None-Match header field
        whole(
            "a tag that differs",
            both,
            &[("if-none-match", "\"w\""), ("if-modified-since", MODIFIED)],
        ),
        not_modified(
            "a tag that does not",
            both,
            &[("if-none-match", "\"v\""), ("if-modified-since", BEFORE)],
        ),
    ])
    .await;
}

#[tokio::test]
async fn conditions_that_protect_a_change_are_the_origins_where_they_fail() {
    run(vec![
        whole("If-Match, and it does", both, &[("if-match", "\"v\"")]),
        whole(
            "If-Unmodified-Since, and it is",
            both,
            &[("if-unmodified-since", MODIFIED)],
        ),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1
        //# An origin server MUST use the strong comparison function when
        //# comparing entity tags for If-Match
        Case::new(
            "If-Match, and it does not: the origin may have newer",
            |seen| match seen.header("if-match") {
                "" => both(seen),
                _ => Answer::status(412),
            },
        )
        .get(&[])
        .get(&[("if-match", "\"w\"")])
        .status(412)
        .told("if-match", "\"w\"")
        .asked(2)
        .get(&[])
        .edge("hit")
        .asked(2),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-13.2.1
//# A server MUST ignore all received preconditions if its response to the
//# same request without those conditions, prior to processing the request
//# content, would have been a status code other than a 2xx (Successful) or
//# 412 (Precondition Failed).
#[tokio::test]
async fn conditions_are_for_successes_and_for_head_as_for_get() {
    run(vec![
        Case::new("a stored 404", |_| {
            let answer = Answer::status(404).body("gone").fresh(60);
            answer.header("etag", "\"v\"")
        })
        .get(&[])
        .get(&[("if-none-match", "\"v\"")])
        .edge("hit")
        .status(404)
        .body("gone"),
        Case::new("HEAD", both)
            .get(&[])
            .head(&[("if-none-match", "\"v\"")])
            .edge("hit")
            .status(304)
            .head(&[("if-none-match", "\"w\"")])
            .edge("hit")
            .status(200)
            .has("content-length", "5")
            .asked(1),
    ])
    .await;
}
