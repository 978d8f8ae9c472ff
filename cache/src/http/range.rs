//! Byte ranges (RFC 9110 §14): one at a time. A request for several is answered with the whole, which §14.2 allows.

use http::{HeaderMap, HeaderValue, Method, header};

use super::{
    facts::RequestFacts,
    validator::{EntityTag, parse_date},
};

/// One byte range as a client writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-last` or `first-`: both inclusive.
    From {
        /// The first byte.
        first: u64,
        /// The last byte, where it is named.
        last: Option<u64>,
    },
    /// `-n`: the last `n` bytes.
    Suffix(u64),
}

/// A range within a body of known length. `start < end <= total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// The single byte range a GET asks for; `None` where it asks for the whole, for several, or for what is no range.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    //# A server MUST ignore a Range header field received with a request
    //# method that is unrecognized or for which range handling is not
    //# defined.  For this specification, GET is the only method for which
    //# range handling is defined.
    #[must_use]
    pub fn of(request: &RequestFacts<'_>) -> Option<Self> {
        let value = request.headers.get(header::RANGE)?;
        if request.method != Method::GET {
            return None;
        }
        let (unit, set) = value.to_str().ok()?.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        let number = |text: &str| {
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Suffix),
            (first, "") => number(first).map(|first| Self::From { first, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                // §14.1.1: an int-range whose last position is below its first is invalid, and an invalid one is ignored.
                (first <= last).then_some(Self::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    /// The range within a body of `total` bytes; `None` where it is unsatisfiable (416).
    #[must_use]
    pub fn within(self, total: u64) -> Option<Slice> {
        let slice = match self {
            Self::From { first, last } => Slice {
                start: first,
                end: last.map_or(total, |last| last.saturating_add(1).min(total)),
            },
            Self::Suffix(n) => Slice {
                start: total.saturating_sub(n),
                end: total,
            },
        };
        (slice.start < slice.end).then_some(slice)
    }
}

/// Whether a range applies: there is no `If-Range`, or it names exactly the stored response.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5
//# A client MUST NOT generate an If-Range header field containing an
//# entity tag that is marked as weak.
///
/// A date counts only where it equals `Last-Modified` and that is at least a second older than `Date`
/// (RFC 9110 §8.8.2.2), for else two versions may share it.
#[must_use]
pub fn if_range_holds(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(header::IF_RANGE) else {
        return true;
    };
    if let Some(asked) = EntityTag::parse(condition.as_bytes()) {
        let held = stored
            .get(header::ETAG)
            .and_then(|value| EntityTag::parse(value.as_bytes()));
        return held.is_some_and(|held| asked.strong_eq(&held));
    }
    let field = |name| stored.get(name).and_then(parse_date);
    match (
        parse_date(condition),
        field(header::LAST_MODIFIED),
        field(header::DATE),
    ) {
        (Some(asked), Some(modified), Some(date)) => {
            asked == modified && date.0 >= modified.0.saturating_add(1000)
        }
        _ => false,
    }
}

/// `Content-Range` of a slice of a body; `total` is `None` while it is not known.
#[must_use]
pub fn content_range(slice: Slice, total: Option<u64>) -> Option<HeaderValue> {
    let last = slice.end.checked_sub(1)?;
    let text = match total {
        Some(total) => format!("bytes {}-{last}/{total}", slice.start),
        None => format!("bytes {}-{last}/*", slice.start),
    };
    HeaderValue::try_from(text).ok()
}

/// `Content-Range` of a 416.
#[must_use]
pub fn unsatisfied(total: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{total}"))
        .unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

/// Reads the `Content-Range` of a 206 with one part: the slice, and the total where it is stated.
#[must_use]
pub fn parse_content_range(value: &HeaderValue) -> Option<(Slice, Option<u64>)> {
    let rest = value.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        digits => Some(digits.parse::<u64>().ok()?),
    };
    let slice = Slice {
        start: first.trim().parse().ok()?,
        end: last.trim().parse::<u64>().ok()?.checked_add(1)?,
    };
    let fits = slice.start < slice.end && total.is_none_or(|total| slice.end <= total);
    fits.then_some((slice, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range_of(text: &'static str) -> Option<ByteRange> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(text));
        ByteRange::of(&RequestFacts {
            method: &Method::GET,
            headers: &headers,
        })
    }

    #[test]
    fn a_single_range_resolves_against_the_length() {
        for (text, slice) in [
            ("bytes=0-0", Some((0, 1))),
            ("bytes=0-", Some((0, 10))),
            ("Bytes = 3 - 5", Some((3, 6))),
            ("bytes=5-99999999999999999999999", Some((5, 10))),
            ("bytes=9-9", Some((9, 10))),
            ("bytes=10-", None),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=-0", None),
        ] {
            let resolved = range_of(text)
                .unwrap_or_else(|| panic!("{text}"))
                .within(10);
            assert_eq!(resolved.map(|s| (s.start, s.end)), slice, "{text}");
        }
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for text in [
            "bytes=0-1,3-4",
            "bytes=5-3",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "lines=0-1",
            "bytes 0-1",
        ] {
            assert_eq!(range_of(text), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(
            ByteRange::of(&RequestFacts {
                method: &Method::HEAD,
                headers: &headers
            }),
            None
        );
    }

    #[test]
    fn if_range_takes_only_what_names_the_bytes() {
        const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        let stored = |etag: &'static str, date: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, HeaderValue::from_static(etag));
            headers.insert(header::LAST_MODIFIED, HeaderValue::from_static(MODIFIED));
            headers.insert(header::DATE, HeaderValue::from_static(date));
            headers
        };
        let later = "Sun, 06 Nov 1994 08:49:38 GMT";
        for (condition, stored, holds) in [
            ("\"a\"", stored("\"a\"", later), true),
            ("\"b\"", stored("\"a\"", later), false),
            ("W/\"a\"", stored("W/\"a\"", later), false),
            (MODIFIED, stored("\"a\"", later), true),
            (MODIFIED, stored("\"a\"", MODIFIED), false),
            (later, stored("\"a\"", later), false),
            ("nonsense", stored("\"a\"", later), false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::IF_RANGE, HeaderValue::from_static(condition));
            assert_eq!(if_range_holds(&request, &stored), holds, "{condition}");
        }
    }

    #[test]
    fn content_range_is_read_as_it_is_written() {
        for (slice, total) in [
            (Slice { start: 0, end: 1 }, Some(1)),
            (Slice { start: 5, end: 9 }, None),
        ] {
            assert_eq!(
                parse_content_range(&content_range(slice, total).unwrap()),
                Some((slice, total))
            );
        }
        for text in [
            "bytes 5-3/9",
            "bytes 0-9/5",
            "bytes */5",
            "0-1/2",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(
                parse_content_range(&HeaderValue::from_static(text)),
                None,
                "{text}"
            );
        }
    }
}
