//! Tables of what is stored and for how long, and what no bytes can do.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

fn decide(
    status: u16,
    request: &[(&'static str, &'static str)],
    response: &[(&'static str, &'static str)],
) -> Storable {
    decide_with(&SitePolicy::default(), status, request, response)
}

fn decide_with(
    policy: &SitePolicy,
    status: u16,
    request: &[(&'static str, &'static str)],
    response: &[(&'static str, &'static str)],
) -> Storable {
    let map = |fields: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    };
    let facts_headers = map(request);
    let facts = RequestFacts {
        method: &Method::GET,
        headers: &facts_headers,
    };
    storable(
        &facts,
        StatusCode::from_u16(status).unwrap(),
        &map(response),
        policy,
        NOW,
        NOW,
    )
}

fn lifetime_seconds(decision: Storable) -> Option<u64> {
    match decision {
        Storable::Store(freshness) => Some(freshness.lifetime_ms / 1000),
        Storable::Pass(_) => None,
    }
}

#[test]
fn the_lifetime_is_the_most_specific_statement() {
    const EXPIRES: (&str, &str) = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
    const ETAG: (&str, &str) = ("etag", "\"a\"");
    for (fields, seconds) in [
        (
            vec![("cache-control", "max-age=5, s-maxage=9"), EXPIRES],
            Some(9),
        ),
        (vec![("cache-control", "max-age=5"), EXPIRES], Some(5)),
        (vec![EXPIRES], Some(60)),
        (
            vec![("date", "Sun, 06 Nov 1994 08:49:57 GMT"), EXPIRES],
            Some(40),
        ),
        (vec![("expires", "0"), ETAG], Some(0)),
        (vec![("expires", "0")], None),
        (
            vec![("cache-control", "no-cache, max-age=5"), ETAG],
            Some(0),
        ),
        (vec![ETAG], None),
        (vec![], None),
    ] {
        assert_eq!(
            lifetime_seconds(decide(200, &[], &fields)),
            seconds,
            "{fields:?}"
        );
    }
}

#[test]
fn what_is_one_users_is_never_stored() {
    let pass = |request: &[(&'static str, &'static str)],
                response: &[(&'static str, &'static str)]| {
        decide(200, request, response)
    };
    const FRESH: (&str, &str) = ("cache-control", "max-age=60");
    const AUTH: (&str, &str) = ("authorization", "Basic eA==");
    assert_eq!(
        pass(&[], &[("cache-control", "max-age=60, private")]),
        Storable::Pass(Reason::Private)
    );
    assert_eq!(
        pass(&[], &[("cache-control", "max-age=60, No-Store")]),
        Storable::Pass(Reason::NoStore)
    );
    assert_eq!(
        pass(&[], &[FRESH, ("set-cookie", "a=b")]),
        Storable::Pass(Reason::SetCookie)
    );
    assert_eq!(
        pass(&[AUTH], &[FRESH]),
        Storable::Pass(Reason::Authorization)
    );
    assert_eq!(
        pass(&[], &[FRESH, ("vary", "accept, *")]),
        Storable::Pass(Reason::Vary)
    );
    for allowed in [
        "public, max-age=60",
        "s-maxage=60",
        "must-revalidate, max-age=60",
    ] {
        assert_eq!(
            lifetime_seconds(decide(200, &[AUTH], &[("cache-control", allowed)])),
            Some(60),
            "{allowed}"
        );
    }
}

#[test]
fn any_final_status_with_a_lifetime_is_stored_and_206_and_304_are_not() {
    const FRESH: (&str, &str) = ("cache-control", "max-age=60");
    for status in [200, 201, 299, 404, 418, 499, 503, 599, 999] {
        assert_eq!(
            lifetime_seconds(decide(status, &[], &[FRESH])),
            Some(60),
            "{status}"
        );
        assert_eq!(
            decide(status, &[], &[]),
            Storable::Pass(Reason::NoLifetime),
            "{status}"
        );
    }
    for status in [100, 103, 206, 304] {
        assert_eq!(
            decide(status, &[], &[FRESH]),
            Storable::Pass(Reason::Status),
            "{status}"
        );
    }
}

#[test]
fn must_understand_overrides_no_store_where_the_status_is_understood_and_forbids_storing_elsewhere()
{
    const BOTH: (&str, &str) = ("cache-control", "max-age=60, no-store, must-understand");
    const ALONE: (&str, &str) = ("cache-control", "max-age=60, must-understand");
    for field in [BOTH, ALONE] {
        assert_eq!(lifetime_seconds(decide(200, &[], &[field])), Some(60));
        for status in [201, 299, 599] {
            assert_eq!(
                decide(status, &[], &[field]),
                Storable::Pass(Reason::Status),
                "{status}"
            );
        }
    }
}

#[test]
fn a_response_without_a_lifetime_gets_a_heuristic_one_where_that_is_allowed() {
    const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT");
    const PUBLIC: (&str, &str) = ("cache-control", "public");
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(
            lifetime_seconds(decide(status, &[], &[MODIFIED])),
            Some(360),
            "{status}"
        );
    }
    for status in [201, 202, 302, 403, 502, 503, 504, 599] {
        assert_eq!(
            decide(status, &[], &[MODIFIED]),
            Storable::Pass(Reason::NoLifetime),
            "{status}"
        );
        assert_eq!(
            lifetime_seconds(decide(status, &[], &[MODIFIED, PUBLIC])),
            Some(360)
        );
    }
    assert_eq!(
        decide(200, &[], &[PUBLIC]),
        Storable::Pass(Reason::NoLifetime)
    );
    for explicit in [
        ("cache-control", "max-age=5"),
        ("expires", "Sun, 06 Nov 1994 08:49:42 GMT"),
    ] {
        assert_eq!(
            lifetime_seconds(decide(200, &[], &[MODIFIED, explicit])),
            Some(5)
        );
    }
    let off = SitePolicy {
        heuristic: false,
        ..SitePolicy::default()
    };
    assert_eq!(
        decide_with(&off, 200, &[], &[MODIFIED]),
        Storable::Pass(Reason::NoLifetime)
    );
}

#[test]
fn a_targeted_field_speaks_in_place_of_cache_control_and_expires() {
    const CDN: &str = "cdn-cache-control";
    const EXPIRES: (&str, &str) = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
    const NO_STORE: (&str, &str) = ("cache-control", "no-store");
    const LONG: (&str, &str) = ("cache-control", "max-age=3600");
    for (fields, expected) in [
        (vec![(CDN, "max-age=7")], Some(7)),
        (vec![(CDN, "max-age=7"), NO_STORE], Some(7)),
        (vec![(CDN, "max-age=7"), LONG, EXPIRES], Some(7)),
        (vec![(CDN, "foo"), LONG, EXPIRES], None),
        (vec![(CDN, "max-age=\"7\""), LONG, EXPIRES], None),
        (vec![(CDN, "no-store"), LONG], None),
        (vec![(CDN, "private"), LONG], None),
        (vec![(CDN, ""), LONG], Some(3600)),
        (vec![(CDN, "max-age=7, &"), LONG], Some(3600)),
        (vec![(CDN, "max-age=7, &"), NO_STORE], None),
    ] {
        assert_eq!(
            lifetime_seconds(decide(200, &[], &fields)),
            expected,
            "{fields:?}"
        );
    }
    let untargeted = SitePolicy {
        cache_control_targets: Vec::new(),
        ..SitePolicy::default()
    };
    assert_eq!(
        lifetime_seconds(decide_with(
            &untargeted,
            200,
            &[],
            &[(CDN, "max-age=7"), LONG]
        )),
        Some(3600)
    );
}

#[test]
fn an_error_is_covered_by_what_response_site_or_request_permits() {
    let stored = |line: &'static str| match decide(200, &[], &[("cache-control", line)]) {
        Storable::Store(freshness) => freshness,
        Storable::Pass(reason) => panic!("{reason:?}"),
    };
    let site = Some(Duration::from_secs(30));
    for (line, site, asked, last) in [
        ("max-age=10, stale-if-error=20", None, None, Some(29)),
        // What the response says goes before the site's rule.
        ("max-age=10, stale-if-error=20", site, None, Some(29)),
        ("max-age=10, stale-if-error=20", None, Some(60), Some(69)),
        ("max-age=10", site, None, Some(39)),
        ("max-age=10", None, Some(5), Some(14)),
        ("max-age=10", None, None, None),
        (
            "max-age=10, stale-if-error=20, must-revalidate",
            site,
            Some(60),
            None,
        ),
        ("s-maxage=10, stale-if-error=20", site, None, None),
    ] {
        let freshness = stored(line);
        let may = |seconds: u64| {
            freshness.may_serve_on_error(NOW.plus(Duration::from_secs(seconds)), site, asked)
        };
        match last {
            Some(last) => assert!(may(last) && !may(last + 1), "{line} {site:?} {asked:?}"),
            None => assert!(!may(10), "{line} {site:?} {asked:?}"),
        }
    }
    assert!(
        stored("max-age=10, stale-if-error=99")
            .may_serve_unreachable(NOW.plus(Duration::from_secs(100)), Duration::from_secs(1))
    );
}

#[test]
fn the_sites_default_applies_where_the_response_is_silent() {
    let policy = SitePolicy {
        default_ttl: Some(Duration::from_secs(7)),
        ..SitePolicy::default()
    };
    assert_eq!(
        lifetime_seconds(decide_with(&policy, 200, &[], &[])),
        Some(7)
    );
    assert_eq!(
        lifetime_seconds(decide_with(
            &policy,
            200,
            &[],
            &[("cache-control", "max-age=1")]
        )),
        Some(1)
    );
    assert_eq!(lifetime_seconds(decide_with(&policy, 503, &[], &[])), None);
    assert_eq!(
        lifetime_seconds(decide_with(
            &policy,
            200,
            &[],
            &[("last-modified", "Sat, 05 Nov 1994 08:49:37 GMT")]
        )),
        Some(7),
        "the operator's rule goes before a guess"
    );
}

#[test]
fn a_response_ages_and_its_stale_windows_end() {
    let Storable::Store(freshness) = decide(
        200,
        &[],
        &[
            ("cache-control", "max-age=10, stale-while-revalidate=5"),
            ("age", "4"),
        ],
    ) else {
        panic!("storable")
    };
    let at = |seconds: u64| NOW.plus(Duration::from_secs(seconds));
    assert!(freshness.is_fresh(at(5)) && !freshness.is_fresh(at(6)));
    assert!(
        freshness.may_serve_while_revalidating(at(10))
            && !freshness.may_serve_while_revalidating(at(11))
    );
    assert!(freshness.may_serve_unreachable(at(65), Duration::from_secs(60)));
    assert!(!freshness.may_serve_unreachable(at(66), Duration::from_secs(60)));
    for forbidding in [
        "max-age=1, must-revalidate",
        "max-age=1, proxy-revalidate",
        "s-maxage=1",
    ] {
        let Storable::Store(freshness) = decide(200, &[], &[("cache-control", forbidding)]) else {
            panic!("storable")
        };
        assert!(
            !freshness.may_serve_unreachable(at(2), Duration::from_secs(60)),
            "{forbidding}"
        );
    }
}

proptest! {
    #[test]
    fn no_header_bytes_and_no_times_panic_or_make_an_age_negative(
        fields in proptest::collection::vec(
            (
                prop_oneof![
                    Just("cache-control"), Just("cdn-cache-control"), Just("expires"), Just("date"),
                    Just("age"), Just("last-modified"), Just("vary"), Just("etag"),
                ],
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..40),
                    "(max-age|s-maxage|stale-if-error|stale-while-revalidate)=\"?[0-9]{0,25}\"?".prop_map(String::into_bytes),
                    "[0-9]{0,25}".prop_map(String::into_bytes),
                    "Sun, [0-9]{2} (Nov|Feb) [0-9]{4} [0-2][0-9]:[0-9]{2}:[0-9]{2} GMT".prop_map(String::into_bytes),
                ],
            ),
            0..8,
        ),
        status in 100_u16..1000,
        request_time: u64,
        response_time: u64,
        now: u64,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        let request = HeaderMap::new();
        let facts = RequestFacts { method: &Method::GET, headers: &request };
        let (request_time, response_time, now) = (Timestamp(request_time), Timestamp(response_time), Timestamp(now));
        let status = StatusCode::from_u16(status).unwrap();
        let decision = storable(&facts, status, &headers, &SitePolicy::default(), request_time, response_time);
        if let Storable::Store(freshness) = decision {
            let _ = freshness.ttl_ms(now);
            prop_assert!(freshness.age_ms(now) >= freshness.initial_age_ms);
            prop_assert!(freshness.age_ms(now.plus(Duration::from_secs(1))) >= freshness.age_ms(now));
            if freshness.is_fresh(now) {
                prop_assert!(freshness.may_serve_unreachable(now, Duration::ZERO));
            }
        }
    }
}
