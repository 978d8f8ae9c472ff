//! How old a response is (RFC 9111 §4.2.3). In milliseconds, so that rounding happens once, where `Age` is written.

use http::{HeaderMap, header};

use super::{dates, directives::delta_seconds};
use crate::time::Timestamp;

/// A date of a field, read without a clock ([`dates::WITHOUT_CLOCK`]); `None` where it is absent or no date.
#[must_use]
pub fn date(headers: &HeaderMap, name: &header::HeaderName) -> Option<Timestamp> {
    dates::of(headers, name, dates::WITHOUT_CLOCK)
}

/// The `Age` field in seconds; 0 where it is absent or no number.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-5.1
//# Although it is defined as a singleton header field, a cache
//# encountering a message with a list-based Age field value SHOULD use
//# the first member of the field value, discarding subsequent ones.
#[must_use]
pub fn age_value_seconds(headers: &HeaderMap) -> u64 {
    headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(',').next())
        .and_then(|first| delta_seconds(first.trim()))
        .unwrap_or(0)
}

/// The response's age when it arrived, in milliseconds.
///
//= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.3
//# apparent_age = max(0, response_time - date_value);
//#
//# response_delay = response_time - request_time;
//# corrected_age_value = age_value + response_delay;
//#
//# corrected_initial_age = max(apparent_age, corrected_age_value);
#[must_use]
pub fn initial_age_ms(
    headers: &HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
) -> u64 {
    let date_value = dates::of(headers, &header::DATE, response_time).unwrap_or(response_time);
    let apparent_age = response_time.0.saturating_sub(date_value.0);
    let response_delay = response_time.0.saturating_sub(request_time.0);
    let corrected_age_value = (age_value_seconds(headers) * 1000).saturating_add(response_delay);
    apparent_age.max(corrected_age_value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ARRIVED: Timestamp = Timestamp(784_111_787_000); // 10 s after the date below

    #[test]
    fn the_larger_of_clock_and_age_field_counts() {
        for (age, delay_ms, expected) in [
            (None, 0, 10_000),           // by Date alone
            (Some("3"), 500, 10_000),    // Date says more
            (Some("30"), 500, 30_500),   // Age says more, and the way took time
            (Some("30, 50"), 0, 30_000), // first member
            (Some("-1"), 0, 10_000),
            (Some("abc"), 0, 10_000),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::DATE,
                HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
            );
            if let Some(age) = age {
                headers.insert(header::AGE, HeaderValue::from_static(age));
            }
            assert_eq!(
                initial_age_ms(&headers, Timestamp(ARRIVED.0 - delay_ms), ARRIVED),
                expected,
                "{age:?}"
            );
        }
    }

    #[test]
    fn a_date_in_the_future_is_no_negative_age() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::DATE,
            HeaderValue::from_static("Sun, 06 Nov 2044 08:49:37 GMT"),
        );
        assert_eq!(initial_age_ms(&headers, ARRIVED, ARRIVED), 0);
    }
}
