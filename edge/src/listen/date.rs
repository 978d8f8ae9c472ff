//! The `Date` field, formatted once a second and thread.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;
use stoq_cache::time::Timestamp;

thread_local! {
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

/// `now` as an HTTP date (RFC 9110 5.6.7).
pub(crate) fn http_date(now: Timestamp) -> HeaderValue {
    let second = now.0 / 1000;
    LAST.with_borrow_mut(|(formatted, value)| {
        if *formatted != second {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            let text = httpdate::fmt_http_date(time);
            // Cannot fail: digits, letters, spaces, commas and colons.
            if let Ok(fresh) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
                *value = fresh;
                *formatted = second;
            }
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_changes_with_the_second_and_only_then() {
        assert_eq!(http_date(Timestamp(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(Timestamp(999)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(Timestamp(1000)), "Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
