//! The lifetime of a response that states none (RFC 9111 §4.2.2).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::dates;
use crate::time::Timestamp;

/// The longest heuristic lifetime.
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a status allows a response without explicit freshness to be reused.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-15.1
//# Responses with status codes that are defined as heuristically
//# cacheable (e.g., 200, 203, 204, 206, 300, 301, 308, 404, 405, 410,
//# 414, and 501 in this specification) can be reused by a cache with
//# heuristic expiration unless otherwise indicated by the method
//# definition or explicit cache controls
///
/// 206 is handled elsewhere.
#[must_use]
pub fn allows(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// A tenth of the time between its last modification and its making, at most [`LIFETIME_MAX`], milliseconds.
/// `None` without a `Last-Modified` that is a date.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.2
//# If the response has a Last-Modified header field (Section 8.8.2 of
//# [HTTP]), caches are encouraged to use a heuristic expiration value
//# that is no more than some fraction of the interval since that time.
//# A typical setting of this fraction might be 10%.
#[must_use]
pub fn lifetime_ms(headers: &HeaderMap, response_time: Timestamp) -> Option<u64> {
    let modified = dates::of(headers, &header::LAST_MODIFIED, response_time)?;
    let made = dates::of(headers, &header::DATE, response_time).unwrap_or(response_time);
    let tenth = made.since(modified) / 10;
    u64::try_from(tenth.min(LIFETIME_MAX).as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_tenth_of_its_age_when_made_and_a_day_at_most() {
        const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
        for (date, modified, lifetime) in [
            (None, "Sun, 06 Nov 1994 08:47:57 GMT", Some(10_000)),
            (None, "Sun, 06 Nov 1994 08:49:32 GMT", Some(500)),
            (
                Some("Sun, 06 Nov 1994 08:49:37 GMT"),
                "Sun, 06 Nov 1994 07:49:37 GMT",
                Some(360_000),
            ),
            (
                Some("Sun, 06 Nov 1994 08:48:57 GMT"),
                "Sun, 06 Nov 1994 08:48:47 GMT",
                Some(1_000),
            ),
            (None, "Sat, 05 Nov 1994 08:49:37 GMT", Some(8_640_000)),
            (None, "Sun, 06 Nov 1983 08:49:37 GMT", Some(86_400_000)),
            // Modified after it was made: nothing is known but the validator.
            (None, "Mon, 07 Nov 1994 08:49:37 GMT", Some(0)),
            (None, "yesterday", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LAST_MODIFIED, HeaderValue::from_static(modified));
            if let Some(date) = date {
                headers.insert(header::DATE, HeaderValue::from_static(date));
            }
            assert_eq!(lifetime_ms(&headers, NOW), lifetime, "{modified}");
        }
        assert_eq!(lifetime_ms(&HeaderMap::new(), NOW), None);
    }
}
