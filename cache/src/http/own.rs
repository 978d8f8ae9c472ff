//! Fields that are kept without what they came in.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// The same fields in memory of their own, all values in one piece.
///
/// A value as it comes from a connection is a slice of what was read there, and holds all of that: 8 to 256 KiB for the sake of a date. What
/// outlives its exchange is therefore copied. Costs two allocations and the values' bytes, beside the map.
#[must_use]
pub fn own(headers: &HeaderMap) -> HeaderMap {
    let mut joint = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    for value in headers.values() {
        joint.extend_from_slice(value.as_bytes());
    }
    let joint = Bytes::from(joint);
    let mut own = headers.clone();
    let mut start = 0;
    // In the order in which they were copied: the clone has the same.
    for value in own.values_mut() {
        let end = start + value.len();
        let sensitive = value.is_sensitive();
        // What was a value is one, so the other branch is never taken; it would keep what is true.
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(joint.slice(start..end)) {
            copy.set_sensitive(sensitive);
            *value = copy;
        }
        start = end;
    }
    own
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn the_fields_are_the_same_and_what_they_came_in_is_let_go() {
        let read = Bytes::from(b"etag: \"v\" vary: accept vary: cookie".to_vec());
        let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut came = HeaderMap::new();
        came.append(header::VARY, value(16..22));
        came.append(header::ETAG, value(6..9));
        came.append(header::VARY, value(29..35));
        came.append(header::SET_COOKIE, HeaderValue::from_static(""));
        let mut secret = value(6..9);
        secret.set_sensitive(true);
        came.append(header::AUTHORIZATION, secret);
        let kept = own(&came);
        assert_eq!(kept, came);
        assert!(kept[header::AUTHORIZATION].is_sensitive());
        assert!(!kept[header::ETAG].is_sensitive());
        drop(came);
        assert!(read.is_unique());
    }
}
