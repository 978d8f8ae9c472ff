//! RFC 9111 §4.1: which of several stored responses answers, by `Vary`.

use integration::{Answer, Seen};

use crate::case::{Case, Fields};
use crate::matrix::run;

/// Varies by `foo`, and says what it was.
fn by_foo(seen: &Seen) -> Answer {
    let lines = seen.headers.get_all("foo").iter();
    let told: Vec<_> = lines
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    Answer::ok(format!("foo {}", told.join(",")))
        .header("vary", "Foo")
        .fresh(60)
}

/// A second request that what was stored for the first answers.
fn alike(name: &'static str, script: crate::case::Script, one: &Fields, other: &Fields) -> Case {
    let case = Case::new(name, script).get(one).asked(1);
    case.get(other).edge("hit").asked(1)
}

/// A second request that must be asked for anew; both are stored then.
fn apart(name: &'static str, script: crate::case::Script, one: &Fields, other: &Fields) -> Case {
    let case = Case::new(name, script).get(one).asked(1);
    let case = case.get(other).edge("fwd=vary-miss").asked(2);
    let case = case.get(one).edge("hit").asked(2);
    case.get(other).edge("hit").asked(2)
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
//# the cache MUST NOT use that stored response without revalidation unless
//# all the presented request header fields nominated by that Vary field
//# value match those fields in the original request
#[tokio::test]
async fn a_response_answers_requests_whose_nominated_fields_match() {
    run(vec![
        alike("the same", by_foo, &[("foo", "1")], &[("foo", "1")]),
        alike(
            "others differ",
            by_foo,
            &[("foo", "1"), ("bar", "1")],
            &[("bar", "2"), ("foo", "1")],
        ),
        apart("another value", by_foo, &[("foo", "1")], &[("foo", "2")]),
        apart("case counts", by_foo, &[("foo", "a")], &[("foo", "A")]),
        apart(
            "order counts",
            by_foo,
            &[("foo", "1, 2")],
            &[("foo", "2, 1")],
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
        //# adding or removing whitespace, where allowed in the header field's
        //# syntax
        alike("whitespace", by_foo, &[("foo", "1,2")], &[("foo", "1 , 2")]),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
        //# combining multiple header field lines with the same field name
        alike(
            "lines",
            by_foo,
            &[("foo", "1, 2")],
            &[("foo", "1"), ("foo", "2")],
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
        //# If (after any normalization that might take place) a header field is
        //# absent from a request, it can only match another request if it is
        //# also absent there.
        alike("absent twice", by_foo, &[], &[]),
        apart("absent and there", by_foo, &[], &[("foo", "1")]),
        apart("there and absent", by_foo, &[("foo", "1")], &[]),
        apart(
            "one of two fields",
            |seen| by_foo(seen).header("vary", "bar"),
            &[("foo", "1"), ("bar", "1")],
            &[("foo", "1"), ("bar", "2")],
        ),
        apart(
            "two fields in one line, in any case",
            |seen| {
                Answer::ok(seen.header("bar").to_owned())
                    .header("vary", "fOO, BAR")
                    .fresh(60)
            },
            &[("foo", "1"), ("bar", "1")],
            &[("foo", "1"), ("bar", "2")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn star_is_never_given_to_another() {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
    //# A stored response with a Vary header field value containing a member
    //# "*" always fails to match.
    run(vec![
        Case::passed("alone", |seen| {
            crate::case::numbered(seen).fresh(60).header("vary", "*")
        }),
        Case::passed("among names", |seen| {
            let answer = crate::case::numbered(seen).fresh(60);
            answer.header("vary", "accept, *").header("vary", "foo")
        }),
    ])
    .await;
}

#[tokio::test]
async fn what_means_the_same_shares_a_response() {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
    //# normalizing both header field values in a way that is known to have
    //# identical semantics, according to the header field's specification
    run(vec![
        alike(
            "languages of equal weight, in any order and case",
            |_| Answer::ok("x").header("vary", "accept-language").fresh(60),
            &[("accept-language", "en, de")],
            &[("accept-language", "DE;q=1.0, en")],
        ),
        apart(
            "languages of other weights",
            |_| Answer::ok("x").header("vary", "accept-language").fresh(60),
            &[("accept-language", "en, de;q=0.9")],
            &[("accept-language", "de, en;q=0.9")],
        ),
        alike(
            "codings in any order",
            |_| Answer::ok("x").header("vary", "accept-encoding").fresh(60),
            &[("accept-encoding", "gzip, br")],
            &[("accept-encoding", "br,gzip;q=1")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_response_that_forgot_its_vary_is_the_last_choice() {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
    //# When a cache has multiple stored responses for a target URI and one or
    //# more omits the Vary header field, the cache SHOULD choose the most
    //# recent (see Section 4.2.3) stored response with a valid Vary field value.
    run(vec![
        Case::new("stored last, chosen last", |seen| {
            match seen.header("foo") {
                "" => Answer::ok("default").fresh(60),
                _ => by_foo(seen),
            }
        })
        .get(&[("foo", "1")])
        .body("foo 1")
        .get(&[])
        .body("default")
        .asked(2)
        .get(&[("foo", "1")])
        .edge("hit")
        .body("foo 1")
        .get(&[])
        .edge("hit")
        .body("default")
        .asked(2),
    ])
    .await;
}

#[tokio::test]
async fn each_variant_is_validated_and_refreshed_on_its_own() {
    fn stale(seen: &Seen) -> Answer {
        let tag = match seen.header("foo") {
            "1" => "\"one\"",
            _ => "\"two\"",
        };
        let answer = match seen.header("if-none-match") == tag {
            true => Answer::status(304),
            false => Answer::ok(tag),
        };
        answer
            .header("vary", "foo")
            .header("etag", tag)
            .header("cache-control", "max-age=0")
    }
    run(vec![
        Case::new("two, each with its own entity tag", stale)
            .get(&[("foo", "1")])
            .body("\"one\"")
            .get(&[("foo", "2")])
            .body("\"two\"")
            .get(&[("foo", "1")])
            .edge("fwd=stale; fwd-status=304")
            .told("if-none-match", "\"one\"")
            .body("\"one\"")
            .get(&[("foo", "2")])
            .edge("fwd=stale; fwd-status=304")
            .told("if-none-match", "\"two\"")
            .body("\"two\"")
            .asked(4),
    ])
    .await;
}
