//! Whether a stored response may answer a request now: its freshness against what the request asks (RFC 9111 §4.2.4, §5.2.1).

use super::{directives::RequestDirectives, freshness::Freshness};
use crate::time::Timestamp;

/// What may be done with a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It answers.
    Fresh,
    /// It is stale and answers, while it is refreshed.
    Stale,
    /// It is fresh, but the request asks for one that is fresher, or validated.
    Unwanted,
    /// It is stale and must be validated first.
    Expired,
}

/// Decides.
#[must_use]
pub fn reuse(freshness: &Freshness, asked: &RequestDirectives, now: Timestamp) -> Reuse {
    let age_ms = freshness.age_ms(now);
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    if freshness.is_fresh(now) {
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.1
        //# The max-age request directive indicates that the client prefers a
        //# response whose age is less than or equal to the specified number of
        //# seconds.
        //= https://www.rfc-editor.org/rfc/rfc8246#section-2
        //# Proxies SHOULD skip conditionally revalidating fresh responses
        //# containing the immutable extension unless there is a signal from the
        //# client that a validation is necessary (e.g., a no-cache Cache-Control
        //# request directive
        let young = freshness.immutable || asked.max_age.is_none_or(|max| age_ms <= ms(max));
        //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.3
        //# The min-fresh request directive indicates that the client prefers a
        //# response whose freshness lifetime is no less than its current age
        //# plus the specified time in seconds.
        let lasting = asked
            .min_fresh
            .is_none_or(|min| freshness.lifetime_ms >= age_ms.saturating_add(ms(min)));
        return if young && lasting && !asked.no_cache {
            Reuse::Fresh
        } else {
            Reuse::Unwanted
        };
    }
    if asked.no_cache || asked.min_fresh.is_some() || !freshness.stale_allowed {
        return Reuse::Expired;
    }
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.2
    //# If a value is present, then the client is willing to accept a
    //# response that has exceeded its freshness lifetime by no more than the
    //# specified number of seconds.
    let past_ms = age_ms.saturating_sub(freshness.lifetime_ms);
    let accepted = asked.max_stale.is_some_and(|max| past_ms <= ms(max))
        && asked.max_age.is_none_or(|max| age_ms <= ms(max));
    //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.1
    //# Unless the max-stale request directive is also present,
    //# the client does not wish to receive a stale response.
    let refreshing = asked.max_age.is_none() && freshness.may_serve_while_revalidating(now);
    if accepted || refreshing {
        Reuse::Stale
    } else {
        Reuse::Expired
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue, header};
    use proptest::prelude::*;

    use super::*;

    /// Fresh for 100 s, 10 s of them spent on the way.
    const STORED: Freshness = Freshness {
        lifetime_ms: 100_000,
        initial_age_ms: 10_000,
        response_time: Timestamp(1_000_000),
        while_revalidate_ms: 20_000,
        if_error_ms: None,
        stale_allowed: true,
        immutable: false,
    };

    fn asked(line: &'static str) -> RequestDirectives {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(line));
        RequestDirectives::of(&headers)
    }

    fn at(seconds: u64) -> Timestamp {
        STORED.response_time.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_request_narrows_and_widens_what_may_answer_it() {
        use Reuse::{Expired, Fresh, Stale, Unwanted};
        for (line, seconds, expected) in [
            ("", 0, Fresh),
            ("", 89, Fresh),
            ("", 90, Stale),
            ("", 109, Stale),
            ("", 110, Expired),
            ("no-cache", 0, Unwanted),
            ("no-cache", 95, Expired),
            ("no-store", 0, Fresh),
            ("max-age=0", 0, Unwanted),
            ("max-age=10", 0, Fresh),
            ("max-age=10", 1, Unwanted),
            ("max-age=500", 90, Expired),
            ("min-fresh=90", 0, Fresh),
            ("min-fresh=90", 1, Unwanted),
            ("min-fresh=1", 90, Expired),
            ("max-stale=30", 120, Stale),
            ("max-stale=30", 121, Expired),
            ("max-stale", 100_000, Stale),
            ("max-stale=30, max-age=130", 120, Stale),
            ("max-stale=30, max-age=129", 120, Expired),
        ] {
            assert_eq!(
                reuse(&STORED, &asked(line), at(seconds)),
                expected,
                "{line} at {seconds}"
            );
        }
    }

    #[test]
    fn nothing_stale_is_served_that_forbids_it() {
        let strict = Freshness {
            stale_allowed: false,
            ..STORED
        };
        assert_eq!(reuse(&strict, &asked("max-stale"), at(90)), Reuse::Expired);
        assert_eq!(reuse(&strict, &asked(""), at(90)), Reuse::Expired);
    }

    #[test]
    fn a_reload_of_what_is_immutable_is_a_hit_while_it_is_fresh() {
        let immutable = Freshness {
            immutable: true,
            ..STORED
        };
        assert_eq!(reuse(&immutable, &asked("max-age=0"), at(1)), Reuse::Fresh);
        assert_eq!(
            reuse(&immutable, &asked("no-cache"), at(1)),
            Reuse::Unwanted
        );
        assert_eq!(
            reuse(&immutable, &asked("max-age=0"), at(95)),
            Reuse::Expired
        );
    }

    proptest! {
        #[test]
        fn only_what_is_fresh_is_called_fresh(
            lifetime_ms: u64,
            initial_age_ms: u64,
            arrived: u64,
            now: u64,
            while_revalidate_ms: u64,
            stale_allowed: bool,
            immutable: bool,
            max_age in proptest::option::of(any::<u64>()),
            max_stale in proptest::option::of(any::<u64>()),
            min_fresh in proptest::option::of(any::<u64>()),
            no_cache: bool,
        ) {
            let freshness = Freshness {
                lifetime_ms,
                initial_age_ms,
                response_time: Timestamp(arrived),
                while_revalidate_ms,
                if_error_ms: None,
                stale_allowed,
                immutable,
            };
            let asked = RequestDirectives { max_age, max_stale, min_fresh, no_cache, ..RequestDirectives::default() };
            let now = Timestamp(now);
            let fresh = freshness.is_fresh(now);
            prop_assert!(fresh || freshness.ttl_ms(now) <= 0);
            match reuse(&freshness, &asked, now) {
                Reuse::Fresh => prop_assert!(fresh && !no_cache),
                Reuse::Unwanted => prop_assert!(fresh),
                Reuse::Stale => prop_assert!(!fresh && stale_allowed && !no_cache),
                Reuse::Expired => prop_assert!(!fresh),
            }
        }
    }
}
