//! RFC 9111 §4.4 and RFC 9875: what an unsafe request leaves of what is stored. What several fetches under way make of it
//! is in `invalidation.rs` beside this folder.

use http::Method;
use integration::{Answer, Seen};

use crate::case::{Case, Script, tagged};
use crate::matrix::run;

/// Fresh to a GET; the rest is done, or not.
fn changing(seen: &Seen, status: u16) -> Answer {
    match seen.method {
        Method::GET => tagged(seen).fresh(5000),
        _ => Answer::status(status),
    }
}

/// Stored, then asked to be changed with `method`; then validated before its next use.
fn falls(name: &'static str, method: &'static str, script: Script) -> Case {
    Case::new(name, script)
        .get(&[])
        .get(&[])
        .edge("hit")
        .ask(method, &[])
        .edge("fwd=method")
        .asked(2)
        .get(&[])
        .told("if-none-match", "\"v\"")
        .edge("fwd=stale; fwd-status=304")
        .body("whole")
        .asked(3)
        .get(&[])
        .edge("hit")
        .asked(3)
}

/// Stored, then asked to be changed with `method`, and kept.
fn stays(name: &'static str, method: &'static str, script: Script) -> Case {
    Case::new(name, script)
        .get(&[])
        .ask(method, &[])
        .asked(2)
        .get(&[])
        .edge("hit")
        .elsewhere()
        .shield("hit")
        .asked(2)
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
//# A cache MUST invalidate the target URI (Section 7.1 of [HTTP]) when it
//# receives a non-error status code in response to an unsafe request
//# method (including methods whose safety is unknown).
#[tokio::test]
async fn an_unsafe_request_that_succeeds_ends_what_is_stored_of_its_target() {
    run(vec![
        falls("POST, 200", "POST", |seen| changing(seen, 200)),
        falls("PUT, 201", "PUT", |seen| changing(seen, 201)),
        falls("DELETE, 204", "DELETE", |seen| changing(seen, 204)),
        falls("PATCH, 303", "PATCH", |seen| changing(seen, 303)),
        falls("an unknown method", "FROBNICATE", |seen| {
            changing(seen, 200)
        }),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
        //# A "non-error response" is one with a 2xx (Successful) or 3xx
        //# (Redirection) status code.
        stays("POST, 404", "POST", |seen| changing(seen, 404)),
        stays("DELETE, 500", "DELETE", |seen| changing(seen, 500)),
        stays("a safe method", "OPTIONS", |seen| changing(seen, 200)),
    ])
    .await;
}

//= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
//# In particular, the URI(s) in the Location and Content-Location response
//# header fields (if present) are candidates for invalidation
#[tokio::test]
async fn what_a_change_names_falls_where_it_is_of_the_same_origin() {
    /// A POST below the stored URL whose answer names that in `field`, behind `before`.
    fn naming(seen: &Seen, field: &str, before: &str) -> Answer {
        match seen.method {
            Method::GET => tagged(seen).fresh(5000),
            _ => {
                let path = seen.uri.path().trim_end_matches("/make");
                Answer::status(201).header(field, &format!("{before}{path}"))
            }
        }
    }
    let made = |name, script| {
        let case = Case::new(name, script).get(&[]).ask("POST", &[]);
        case.below("/make").status(201).get(&[])
    };
    run(vec![
        made("Location", |seen| naming(seen, "location", ""))
            .edge("fwd=stale; fwd-status=304")
            .asked(2),
        made("Content-Location", |seen| {
            naming(seen, "content-location", "")
        })
        .edge("fwd=stale; fwd-status=304")
        .asked(2),
        made("an absolute one", |seen| {
            naming(seen, "location", "https://localhost")
        })
        .edge("fwd=stale; fwd-status=304")
        .asked(2),
        //= https://www.rfc-editor.org/rfc/rfc9111#section-4.4
        //# However, a cache MUST NOT trigger an invalidation under these
        //# conditions if the origin (Section 4.3.1 of [HTTP]) of the URI to be
        //# invalidated differs from that of the target URI
        made("of another host", |seen| {
            naming(seen, "location", "https://elsewhere.example")
        })
        .edge("hit")
        .asked(1),
        made("of another scheme", |seen| {
            naming(seen, "location", "http://localhost")
        })
        .edge("hit")
        .asked(1),
    ])
    .await;
}

/// The group of a case's URLs: no other case is concerned.
fn group(seen: &Seen) -> String {
    let own: Vec<_> = seen.uri.path().split('/').skip(1).take(3).collect();
    format!("\"{}\"", own.join("-"))
}

/// A member of its case's group; a change of it says this of groups.
fn member(seen: &Seen, changed: &str) -> Answer {
    match (&seen.method, changed) {
        (&Method::GET, _) => tagged(seen)
            .fresh(5000)
            .header("cache-groups", &group(seen)),
        (_, "") => Answer::status(204),
        (_, changed) => Answer::status(204).header("cache-group-invalidation", changed),
    }
}

//= https://www.rfc-editor.org/rfc/rfc9875#section-2.2.1
//# A cache that invalidates a stored response MAY invalidate any stored
//# responses that share groups (per Section 2.1) with that response.
#[tokio::test]
async fn members_of_a_group_fall_together() {
    run(vec![
        Case::new("with a member that is changed", |seen| member(seen, ""))
            .get(&[])
            .get(&[])
            .below("/two")
            .ask("POST", &[])
            .below("/two")
            .get(&[])
            .edge("fwd=stale; fwd-status=304")
            .asked(2)
            .get(&[])
            .edge("hit"),
        Case::new("with a change elsewhere that names their group", |seen| {
            member(seen, &group(seen))
        })
        .get(&[])
        .ask("POST", &[])
        .below("/other")
        .get(&[])
        .edge("fwd=stale; fwd-status=304")
        .asked(2),
        Case::new("not with a change that names another group", |seen| {
            member(seen, "\"another\"")
        })
        .get(&[])
        .ask("POST", &[])
        .below("/other")
        .get(&[])
        .edge("hit")
        .asked(1),
        //= https://www.rfc-editor.org/rfc/rfc9875#section-3
        //# The Cache-Group-Invalidation header field MUST be ignored on responses
        //# to requests that have a safe method
        Case::new("not by an answer to a safe request", |seen| {
            member(seen, &group(seen))
        })
        .get(&[])
        .ask("OPTIONS", &[])
        .below("/other")
        .get(&[])
        .edge("hit")
        .asked(1),
    ])
    .await;
}
