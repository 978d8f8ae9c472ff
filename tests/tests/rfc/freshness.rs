//! RFC 9111 §4, §4.2: how long what is stored is fresh, and how old it says it is.

use integration::Answer;

use crate::case::{Case, ago, controlled, numbered, tagged};
use crate::matrix::run;

const LATER: &str = "Thu, 18 Aug 2090 02:01:18 GMT";
const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Stored, but too old to answer without being validated.
fn stale(name: &'static str, script: crate::case::Script) -> Case {
    Case::new(name, script)
        .get(&[])
        .body("whole")
        .get(&[])
        .edge("fwd=stale; fwd-status=304")
        .told("if-none-match", "\"v\"")
        .body("whole")
        .asked(2)
}

#[tokio::test]
async fn the_lifetime_is_the_first_that_is_stated() {
    run(vec![
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
        //# If the cache is shared and the s-maxage response directive
        //# (Section 5.2.2.10) is present, use its value, or
        Case::stored("s-maxage goes before max-age", |seen| {
            controlled(seen, "max-age=0, s-maxage=60")
        }),
        stale(
            "s-maxage goes before max-age, where it is shorter",
            |seen| {
                tagged(seen)
                    .header("cache-control", "max-age=1000, s-maxage=50")
                    .header("age", "100")
            },
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
        //# If the max-age response directive (Section 5.2.2.1) is present, use
        //# its value, or
        Case::stored("max-age goes before Expires", |seen| {
            controlled(seen, "max-age=60").header("expires", LONG_AGO)
        }),
        stale("max-age goes before Expires, where it is shorter", |seen| {
            tagged(seen)
                .header("cache-control", "max-age=0")
                .header("expires", LATER)
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
        //# If the Expires response header field (Section 5.3) is present, use its
        //# value minus the value of the Date response header field
        Case::stored(
            "Expires counts from the origin's Date, which may be ahead",
            |seen| {
                numbered(seen)
                    .header("date", "Thu, 18 Aug 2090 02:01:18 GMT")
                    .header("expires", "Thu, 18 Aug 2090 03:01:18 GMT")
            },
        ),
        stale("Expires at the origin's Date", |seen| {
            tagged(seen)
                .header("date", "Thu, 18 Aug 2090 02:01:18 GMT")
                .header("expires", "Thu, 18 Aug 2090 02:01:18 GMT")
        }),
    ])
    .await;
}

#[tokio::test]
async fn numbers_and_dates_are_read_as_they_are_meant() {
    run(vec![
        Case::stored("names in any case", |seen| controlled(seen, "MaX-AgE=60")),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2
        //# For the directives defined below that define arguments, recipients
        //# ought to accept both forms, even if a specific form is required for
        //# generation.
        Case::stored("a quoted number", |seen| controlled(seen, "max-age=\"60\"")),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-1.2.2
        //# or if any of its subsequent calculations overflows, the cache MUST
        //# consider the value to be 2147483648
        Case::stored("a number without end", |seen| {
            controlled(seen, "max-age=99999999999999999999")
        }),
        Case::stored("an Age without end is no more than a long one", |seen| {
            controlled(seen, "max-age=4000000000").header("age", "10")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.3
        //# A cache MUST ignore unrecognized cache directives.
        Case::stored("directives nobody knows", |seen| {
            controlled(seen, "frobnicate, x=\"no-store, private\", max-age=60")
        }),
        Case::stored("lines add up", |seen| {
            controlled(seen, "public").header("cache-control", "max-age=60")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
        //# either the first occurrence should be used or the response should
        //# be considered stale.
        Case::stored("the first of two", |seen| {
            controlled(seen, "max-age=60, max-age=0")
        }),
        stale("the first of two, where it is stale", |seen| {
            let answer = tagged(seen).header("age", "50");
            answer.header("cache-control", "max-age=0, max-age=100")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
        //# Caches are encouraged to consider responses that have invalid
        //# freshness information (e.g., a max-age directive with non-integer
        //# content) to be stale.
        stale("no number", |seen| {
            tagged(seen).header("cache-control", "max-age=1h")
        }),
        stale("below nothing", |seen| {
            tagged(seen).header("cache-control", "max-age=-1")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.3
        //# A cache recipient MUST interpret invalid date formats, especially the
        //# value "0", as representing a time in the past (i.e., "already
        //# expired").
        stale("Expires: 0", |seen| tagged(seen).header("expires", "0")),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2
        //# A cache recipient SHOULD consider a date with a zone abbreviation
        //# other than "GMT" to be invalid for calculating expiration.
        stale("Expires in a zone", |seen| {
            tagged(seen).header("expires", "Thu, 18 Aug 2090 02:01:18 CET")
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2
        //# Although all date formats are specified to be case-sensitive, a cache
        //# recipient SHOULD match the field value case-insensitively.
        Case::stored("Expires in any case", |seen| {
            numbered(seen).header("expires", "THU, 18 aug 2090 02:01:18 gmt")
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_lifetime_is_guessed_only_where_none_is_stated() {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.2
    //# A cache MUST NOT use heuristics to determine freshness when an
    //# explicit expiration time is present in the stored response.
    run(vec![
        Case::stored("a tenth of the time since it was modified", |seen| {
            numbered(seen).header("last-modified", LONG_AGO)
        }),
        stale("but for the Age it has already", |seen| {
            tagged(seen)
                .header("last-modified", &ago(1000))
                .header("age", "200")
        }),
        stale("beside a stated one that is over", |seen| {
            tagged(seen)
                .header("last-modified", LONG_AGO)
                .header("expires", LONG_AGO)
        }),
        Case::passed("modified in the future, which is no time", |seen| {
            numbered(seen).header("last-modified", LATER)
        }),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4
//# When a stored response is used to satisfy a request without validation,
//# a cache MUST generate an Age header field (Section 5.1), replacing any
//# present in the response with a value equal to the stored response's
//# current_age
#[tokio::test]
async fn age_counts_once_from_the_origin_through_all_tiers() {
    /// The same age whoever is asked.
    fn aged(name: &'static str, script: crate::case::Script, seconds: u64) -> Case {
        Case::new(name, script)
            .get(&[])
            .age(seconds)
            .asked(1)
            .get(&[])
            .edge("hit")
            .age(seconds)
            .head(&[])
            .edge("hit")
            .age(seconds)
            .elsewhere()
            .shield("hit")
            .age(seconds)
            .elsewhere()
            .edge("hit")
            .age(seconds)
            .asked(1)
    }
    run(vec![
        aged("made now", |seen| numbered(seen).fresh(5000), 0),
        aged(
            "an Age of its own",
            |seen| numbered(seen).fresh(5000).header("age", "100"),
            100,
        ),
        aged(
            "a Date that has passed",
            |seen| numbered(seen).fresh(5000).header("date", &ago(50)),
            50,
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.3
        //# corrected_initial_age = max(apparent_age, corrected_age_value);
        aged(
            "the larger of both",
            |seen| {
                let answer = numbered(seen).fresh(5000).header("age", "20");
                answer.header("date", &ago(300))
            },
            300,
        ),
        aged(
            "a Date ahead of ours is now",
            |seen| numbered(seen).fresh(5000).header("date", LATER),
            0,
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.1
        //# a cache encountering a message with a list-based Age field value
        //# SHOULD use the first member of the field value, discarding
        //# subsequent ones.
        aged(
            "the first of a list",
            |seen| numbered(seen).fresh(5000).header("age", "100, 7000"),
            100,
        ),
        aged(
            "the first of two lines",
            |seen| {
                let answer = numbered(seen).fresh(5000).header("age", "100");
                answer.header("age", "7000")
            },
            100,
        ),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.1
        //# If the field value (after discarding additional members, as per
        //# above) is invalid (e.g., it contains something other than a
        //# non-negative integer), a cache SHOULD ignore the field.
        aged(
            "no number",
            |seen| numbered(seen).fresh(5000).header("age", "old"),
            0,
        ),
        aged(
            "below nothing",
            |seen| numbered(seen).fresh(5000).header("age", "-7000"),
            0,
        ),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.4
//# A cache MUST NOT generate a stale response if it is prohibited by an
//# explicit in-protocol directive
#[tokio::test]
async fn nothing_stale_is_given_unless_somebody_permits_it() {
    const ANY: &[(&str, &str)] = &[("cache-control", "max-stale")];
    /// Whatever the client accepts, it is validated.
    fn strict(name: &'static str, script: crate::case::Script) -> Case {
        let case = Case::new(name, script).get(&[]).body("whole");
        case.get(ANY).edge("fwd=stale; fwd-status=304").asked(2)
    }
    run(vec![
        stale("nobody does", |seen| {
            tagged(seen).fresh(60).header("age", "100")
        }),
        Case::new("the client does", |seen| {
            tagged(seen).fresh(60).header("age", "100")
        })
        .get(&[])
        .get(ANY)
        .edge("hit; ttl=-4")
        .age(100),
        strict("must-revalidate", |seen| {
            let answer = tagged(seen).header("age", "100");
            answer.header("cache-control", "max-age=60, must-revalidate")
        }),
        strict("proxy-revalidate", |seen| {
            let answer = tagged(seen).header("age", "100");
            answer.header("cache-control", "max-age=60, proxy-revalidate")
        }),
        strict("s-maxage", |seen| {
            let answer = tagged(seen).header("age", "100");
            answer.header("cache-control", "s-maxage=60")
        }),
        strict("no-cache", |seen| {
            tagged(seen).header("cache-control", "max-age=60, no-cache")
        }),
    ])
    .await;
}

#[tokio::test]
async fn what_is_stored_for_get_answers_head_and_nothing_unsafe() {
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4
    //# A cache MUST write through requests with methods that are unsafe
    //# (Section 9.2.1 of [HTTP]) to the origin server
    run(vec![
        Case::new("HEAD, with the length and no content", |_| {
            Answer::ok("hello").fresh(60).header("etag", "\"v\"")
        })
        .get(&[])
        .head(&[])
        .edge("hit")
        .status(200)
        .body("")
        .has("content-length", "5")
        .has("etag", "\"v\"")
        .asked(1),
        Case::new("POST", |seen| numbered(seen).fresh(60))
            .get(&[])
            .ask("POST", &[])
            .body("1")
            .asked(2),
        Case::new("DELETE", |seen| numbered(seen).fresh(60))
            .get(&[])
            .ask("DELETE", &[])
            .body("1")
            .asked(2),
    ])
    .await;
}
