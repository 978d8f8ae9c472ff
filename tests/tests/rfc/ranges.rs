//! RFC 9110 §14, §15.3.7: parts of what is stored. Random sets against a reference are in `ranges.rs` beside this folder.

use integration::{Answer, Seen};

use crate::case::{Case, Fields};
use crate::matrix::run;

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn digits(_: &Seen) -> Answer {
    Answer::ok("0123456789")
        .fresh(5000)
        .header("age", "100")
        .header("etag", "\"v\"")
        .header("last-modified", MODIFIED)
        .header("content-type", "text/plain")
        .header("vary", "foo")
}

/// A part of what is stored, at the first edge and at one that has it from the shield.
fn part(name: &'static str, fields: &Fields, body: &'static str, range: &'static str) -> Case {
    Case::new(name, digits)
        .get(&[])
        .get(fields)
        .edge("hit")
        .status(206)
        .body(body)
        .has("content-range", range)
        .age(100)
        .asked(1)
}

fn whole(name: &'static str, fields: &Fields) -> Case {
    Case::new(name, digits)
        .get(&[])
        .get(fields)
        .edge("hit")
        .status(200)
        .body("0123456789")
        .lacks("content-range")
        .asked(1)
}

#[tokio::test]
async fn a_part_is_cut_from_what_is_stored() {
    run(vec![
        part(
            "from the first byte",
            &[("range", "bytes=0-0")],
            "0",
            "bytes 0-0/10",
        ),
        part(
            "from the middle",
            &[("range", "bytes=3-5")],
            "345",
            "bytes 3-5/10",
        ),
        part(
            "to the end",
            &[("range", "bytes=7-")],
            "789",
            "bytes 7-9/10",
        ),
        part("the end", &[("range", "bytes=-2")], "89", "bytes 8-9/10"),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
        //# If the selected representation is shorter than the specified suffix-
        //# length, the entire representation is used.
        part(
            "more than there is, from the end",
            &[("range", "bytes=-20")],
            "0123456789",
            "bytes 0-9/10",
        ),
        part(
            "more than there is",
            &[("range", "bytes=5-100")],
            "56789",
            "bytes 5-9/10",
        ),
        part(
            "the unit in any case",
            &[("range", "BYTES=1-2")],
            "12",
            "bytes 1-2/10",
        ),
        part(
            "ranges that touch are one",
            &[("range", "bytes=0-2, 3-5")],
            "012345",
            "bytes 0-5/10",
        ),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7
        //# A server that generates a 206 response MUST generate the following
        //# header fields, in addition to those required in the subsections
        //# below, if the field would have been sent in a 200 (OK) response to
        //# the same request: Date, Cache-Control, ETag, Expires,
        //# Content-Location, and Vary.
        Case::new("with the fields of the whole", digits)
            .get(&[("range", "bytes=0-0")])
            .status(206)
            .get(&[("range", "bytes=0-0")])
            .edge("hit")
            .has("etag", "\"v\"")
            .has("vary", "foo")
            .has("cache-control", "max-age=5000")
            .has("last-modified", MODIFIED)
            .has("content-length", "1")
            .asked(1),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_range_of_it_is_refused_or_passed_over() {
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.17
        //# A server that generates a 416 response to a byte-range request SHOULD
        //# generate a Content-Range header field specifying the current length of
        //# the selected representation
        Case::new("beyond its end", digits)
            .get(&[])
            .get(&[("range", "bytes=10-")])
            .edge("hit")
            .status(416)
            .has("content-range", "bytes */10")
            .body("")
            .asked(1),
        Case::new("no bytes from the end", digits)
            .get(&[])
            .get(&[("range", "bytes=-0")])
            .status(416),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
        //# A server MUST ignore a Range header field received with a request
        //# method that is unrecognized or for which range handling is not defined.
        Case::new("of HEAD", digits)
            .get(&[])
            .head(&[("range", "bytes=0-0")])
            .edge("hit")
            .status(200)
            .has("content-length", "10"),
        whole("of another unit", &[("range", "lines=0-1")]),
        whole("backwards", &[("range", "bytes=5-3")]),
        whole("no range", &[("range", "bytes=a-b")]),
        Case::new("of something that is no 200", |_| {
            Answer::status(404).body("0123456789").fresh(60)
        })
        .get(&[])
        .get(&[("range", "bytes=0-0")])
        .edge("hit")
        .status(404)
        .body("0123456789"),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5
//# A recipient of an If-Range header field MUST ignore the Range header
//# field if the If-Range condition evaluates to false. Otherwise, the
//# recipient SHOULD process the Range header field as requested.
#[tokio::test]
async fn if_range_gives_the_whole_unless_the_client_holds_the_same() {
    const FIRST: (&str, &str) = ("range", "bytes=0-0");
    run(vec![
        part(
            "the tag",
            &[FIRST, ("if-range", "\"v\"")],
            "0",
            "bytes 0-0/10",
        ),
        part(
            "the date",
            &[FIRST, ("if-range", MODIFIED)],
            "0",
            "bytes 0-0/10",
        ),
        whole("another tag", &[FIRST, ("if-range", "\"w\"")]),
        whole("a weak tag", &[FIRST, ("if-range", "W/\"v\"")]),
        whole(
            "another date",
            &[FIRST, ("if-range", "Mon, 07 Nov 1994 00:00:00 GMT")],
        ),
        whole("neither", &[FIRST, ("if-range", "v")]),
    ])
    .await;
}

#[tokio::test]
async fn a_part_of_something_stale_is_validated_whole() {
    run(vec![
        Case::new("once, for all parts", |seen| {
            let answer = match seen.header("if-none-match") {
                "" => Answer::ok("0123456789"),
                _ => Answer::status(304),
            };
            let answer = answer.header("etag", "\"v\"");
            match seen.nth {
                0 => answer.header("cache-control", "max-age=0"),
                _ => answer.fresh(60),
            }
        })
        .get(&[])
        .get(&[("range", "bytes=3-5")])
        .told("range", "")
        .told("if-none-match", "\"v\"")
        .status(206)
        .body("345")
        .asked(2)
        .get(&[("range", "bytes=0-1")])
        .edge("hit")
        .body("01")
        .elsewhere()
        .shield("hit")
        .body("0123456789")
        .asked(2),
        Case::new("and is a part of what is new", |seen| match seen.nth {
            0 => {
                let answer = Answer::ok("0123456789").header("etag", "\"0\"");
                answer.header("cache-control", "max-age=0")
            }
            _ => Answer::ok("abcdefghij").header("etag", "\"1\"").fresh(60),
        })
        .get(&[])
        .get(&[("range", "bytes=3-5")])
        .status(206)
        .body("def")
        .has("etag", "\"1\"")
        .get(&[("range", "bytes=3-5"), ("if-range", "\"0\"")])
        .edge("hit")
        .status(200)
        .body("abcdefghij"),
    ])
    .await;
}
