//! Byte ranges (RFC 9110 §14): the set a client asks for, and what it comes to in a body of known length.
//!
//! A set is read whole or not at all: one malformed member makes the field invalid, and an invalid field is ignored. Members that
//! overlap or touch become one part; more than [`PARTS_MAX`] parts after that, or more than [`MEMBERS_MAX`] members, are
//! answered with the whole, which §14.2 allows for any range.

use http::{HeaderMap, HeaderValue, Method, header};
use smallvec::SmallVec;

use super::{
    facts::RequestFacts,
    validator::{EntityTag, parse_date},
};

/// Members of a set that are looked at. A field with more is no browser's, and is ignored: 256 × 24 B on the stack or heap.
pub const MEMBERS_MAX: usize = 256;

/// Parts of one answer. Players and PDF readers ask for a handful; beyond this the whole is cheaper than its heads.
pub const PARTS_MAX: usize = 16;

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

/// Parts of a body: in the order they were asked for, apart from each other, none empty.
pub type Slices = SmallVec<[Slice; 1]>;

impl ByteRange {
    /// Reads one member: `first-last`, `first-` or `-n`.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let number = |text: &str| {
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Suffix),
            (first, "") => number(first).map(|first| Self::From { first, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
                //# An int-range is invalid if the last-pos value is present and less than
                //# the first-pos.
                (first <= last).then_some(Self::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    /// The range within a body of `total` bytes; `None` where it is unsatisfiable.
    #[must_use]
    pub fn within(self, total: u64) -> Option<Slice> {
        let slice = match self {
            Self::From { first, last } => Slice {
                start: first,
                end: last.map_or(total, |last| last.saturating_add(1).min(total)),
            },
            //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
            //# If the selected representation is shorter than the specified suffix-
            //# length, the entire representation is used.
            Self::Suffix(n) => Slice {
                start: total.saturating_sub(n),
                end: total,
            },
        };
        (slice.start < slice.end).then_some(slice)
    }
}

/// The set of ranges a request asks for, as it is written: at least one, at most [`MEMBERS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(SmallVec<[ByteRange; 1]>);

/// What a set of ranges comes to in a body of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// The whole is the better answer.
    Whole,
    /// No byte of it is there (416).
    Nothing,
    /// These parts, one to [`PARTS_MAX`].
    Parts(Slices),
}

impl RangeSet {
    /// The ranges a GET asks for; `None` where it asks for the whole, or for what is no set of byte ranges.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    //# A server MUST ignore a Range header field received with a request
    //# method that is unrecognized or for which range handling is not
    //# defined.  For this specification, GET is the only method for which
    //# range handling is defined.
    #[must_use]
    pub fn of(request: &RequestFacts<'_>) -> Option<Self> {
        let mut lines = request.headers.get_all(header::RANGE).iter();
        let value = lines.next()?;
        // Not a list of fields: two lines are two opinions.
        if request.method != Method::GET || lines.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    /// Reads a `Range` field.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (unit, set) = std::str::from_utf8(value).ok()?.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut members = SmallVec::new();
        for member in set.split(',').map(str::trim) {
            if member.is_empty() {
                continue;
            }
            if members.len() == MEMBERS_MAX {
                return None;
            }
            members.push(ByteRange::parse(member)?);
        }
        (!members.is_empty()).then_some(Self(members))
    }

    /// The ranges, in the order they were written.
    #[must_use]
    pub fn members(&self) -> &[ByteRange] {
        &self.0
    }

    /// What the set comes to in a body of `total` bytes.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
    //# When multiple ranges are requested, a server MAY coalesce any of the
    //# ranges that overlap, or that are separated by a gap that is smaller
    //# than the overhead of sending multiple parts, regardless of the order
    //# in which the corresponding range-spec appeared in the received Range
    //# header field.
    ///
    /// Gaps are not filled: the parts cover exactly the bytes that were asked for.
    #[must_use]
    pub fn within(&self, total: u64) -> Selected {
        // A suffix of nothing is satisfiable, and no Content-Range can say it.
        if total == 0
            && self
                .0
                .iter()
                .any(|range| matches!(range, ByteRange::Suffix(1..)))
        {
            return Selected::Whole;
        }
        let mut found: SmallVec<[(Slice, usize); 1]> = self
            .0
            .iter()
            .enumerate()
            .filter_map(|(place, range)| Some((range.within(total)?, place)))
            .collect();
        found.sort_unstable_by_key(|(slice, place)| (slice.start, *place));
        let mut parts: SmallVec<[(Slice, usize); 1]> = SmallVec::new();
        for (slice, place) in found {
            match parts.last_mut() {
                Some((last, first_place)) if slice.start <= last.end => {
                    last.end = last.end.max(slice.end);
                    *first_place = place.min(*first_place);
                }
                _ => parts.push((slice, place)),
            }
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
        //# A server that supports range requests MAY ignore or reject a Range
        //# header field that contains an invalid ranges-specifier
        //# (Section 14.1.1), a ranges-specifier with more than two overlapping
        //# ranges, or a set of many small ranges that are not listed in
        //# ascending order
        if parts.len() > PARTS_MAX {
            return Selected::Whole;
        }
        if parts.is_empty() {
            return Selected::Nothing;
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
        //# A server that generates a multipart response SHOULD send the parts in
        //# the same order that the corresponding range-spec appeared in the
        //# received Range header field, excluding those ranges that were deemed
        //# unsatisfiable or that were coalesced into other ranges.
        parts.sort_unstable_by_key(|(_, place)| *place);
        Selected::Parts(parts.into_iter().map(|(slice, _)| slice).collect())
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
    use proptest::prelude::*;

    use super::*;

    fn selected(text: &str, total: u64) -> Option<Selected> {
        RangeSet::parse(text.as_bytes()).map(|set| set.within(total))
    }

    fn parts(of: &[(u64, u64)]) -> Option<Selected> {
        let slices = of.iter().map(|(start, end)| Slice {
            start: *start,
            end: *end,
        });
        Some(Selected::Parts(slices.collect()))
    }

    #[test]
    fn a_set_resolves_against_the_length() {
        for (text, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("bytes=0-", parts(&[(0, 10)])),
            ("Bytes = 3 - 5", parts(&[(3, 6)])),
            ("bytes=5-99999999999999999999999", parts(&[(5, 10)])),
            ("bytes=9-9", parts(&[(9, 10)])),
            ("bytes=10-", Some(Selected::Nothing)),
            ("bytes=-3", parts(&[(7, 10)])),
            ("bytes=-30", parts(&[(0, 10)])),
            ("bytes=-0", Some(Selected::Nothing)),
            ("bytes=0-1,3-4", parts(&[(0, 2), (3, 5)])),
            ("bytes=, 0-1 ,,3-4,", parts(&[(0, 2), (3, 5)])),
            ("bytes=-2,0-1", parts(&[(8, 10), (0, 2)])),
            ("bytes=0-1,2-4", parts(&[(0, 5)])),
            ("bytes=6-7,0-4,3-5", parts(&[(0, 8)])),
            ("bytes=8-8,0-0,9-9", parts(&[(8, 10), (0, 1)])),
            ("bytes=0-0,20-30", parts(&[(0, 1)])),
            ("bytes=20-,30-", Some(Selected::Nothing)),
            ("bytes=0-,-5,3-", parts(&[(0, 10)])),
        ] {
            assert_eq!(selected(text, 10), expected, "{text}");
        }
    }

    #[test]
    fn of_nothing_a_suffix_is_the_whole_and_a_position_unsatisfiable() {
        assert_eq!(selected("bytes=-5", 0), Some(Selected::Whole));
        assert_eq!(selected("bytes=-0", 0), Some(Selected::Nothing));
        assert_eq!(selected("bytes=0-", 0), Some(Selected::Nothing));
    }

    #[test]
    fn what_is_no_set_of_byte_ranges_is_ignored() {
        for text in [
            "bytes=5-3",
            "bytes=0-1,5-3",
            "bytes=a-b",
            "bytes=0-1,x",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "lines=0-1",
            "bytes 0-1",
        ] {
            assert_eq!(RangeSet::parse(text.as_bytes()), None, "{text}");
        }
        let of = |method: &Method, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::RANGE, HeaderValue::from_static(line));
            }
            RangeSet::of(&RequestFacts {
                method,
                headers: &headers,
            })
        };
        assert!(of(&Method::GET, &["bytes=0-1"]).is_some());
        assert_eq!(of(&Method::HEAD, &["bytes=0-1"]), None);
        assert_eq!(of(&Method::GET, &["bytes=0-1", "bytes=3-4"]), None);
    }

    #[test]
    fn too_many_parts_or_members_are_answered_with_the_whole() {
        let set = |count: usize, step: usize| {
            let members: Vec<_> = (0..count).map(|i| format!("{0}-{0}", i * step)).collect();
            format!("bytes={}", members.join(","))
        };
        assert!(
            matches!(selected(&set(PARTS_MAX, 2), 1000), Some(Selected::Parts(p)) if p.len() == PARTS_MAX)
        );
        assert_eq!(
            selected(&set(PARTS_MAX + 1, 2), 1000),
            Some(Selected::Whole)
        );
        assert_eq!(selected(&set(MEMBERS_MAX, 1), 1000), parts(&[(0, 256)]));
        assert_eq!(selected(&set(MEMBERS_MAX + 1, 1), 1000), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn no_bytes_make_the_parser_panic(value in proptest::collection::vec(any::<u8>(), 0..60), total: u64) {
            let _ = RangeSet::parse(&value).map(|set| set.within(total));
            let _ = RangeSet::parse(&[b"bytes=", value.as_slice()].concat()).map(|set| set.within(total));
        }

        #[test]
        fn what_looks_like_a_set_never_panics(text in "bytes=[-0-9, ]{0,60}", total: u64) {
            let _ = RangeSet::parse(text.as_bytes()).map(|set| set.within(total));
        }

        #[test]
        fn the_parts_cover_exactly_what_was_asked_for(
            members in proptest::collection::vec((any::<bool>(), 0_u64..80, 0_u64..20, any::<bool>()), 1..12),
            total in 0_u64..70,
        ) {
            let mut wanted = std::collections::BTreeSet::new();
            let mut text = Vec::new();
            for (suffix, first, more, open) in members {
                let (member, slice) = match (suffix, open) {
                    (true, _) => (format!("-{more}"), total.saturating_sub(more)..total),
                    (false, true) => (format!("{first}-"), first..total),
                    (false, false) => (format!("{first}-{}", first + more), first..total.min(first + more + 1)),
                };
                text.push(member);
                wanted.extend(slice);
            }
            match selected(&format!("bytes={}", text.join(",")), total) {
                Some(Selected::Parts(parts)) => {
                    let covered: Vec<u64> = parts.iter().flat_map(|part| part.start..part.end).collect();
                    let distinct: std::collections::BTreeSet<u64> = covered.iter().copied().collect();
                    prop_assert_eq!(covered.len(), distinct.len(), "a byte twice");
                    prop_assert_eq!(distinct, wanted);
                    for pair in parts.iter().flat_map(|a| parts.iter().map(move |b| (a, b))) {
                        prop_assert!(pair.0.end != pair.1.start, "two parts that touch");
                    }
                }
                Some(Selected::Nothing) => prop_assert!(wanted.is_empty()),
                Some(Selected::Whole) => prop_assert!(total == 0),
                None => prop_assert!(false, "a well-formed set was not read"),
            }
        }
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
