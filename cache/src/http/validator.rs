//! Entity tags and modification dates (RFC 9110 §8.8).

use http::{HeaderMap, HeaderValue, header};

use super::{age, dates};
use crate::time::Timestamp;

/// What a response can be validated by, as its fields say it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validators<'a> {
    /// `ETag`, where it is well formed.
    pub etag: Option<&'a HeaderValue>,
    /// `Last-Modified`, where it is a date.
    pub last_modified: Option<&'a HeaderValue>,
}

impl<'a> Validators<'a> {
    /// The validators of a response.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        let etag = headers
            .get(header::ETAG)
            .filter(|value| EntityTag::parse(value.as_bytes()).is_some());
        let last_modified = headers
            .get(header::LAST_MODIFIED)
            .filter(|_| age::date(headers, &header::LAST_MODIFIED).is_some());
        Self {
            etag,
            last_modified,
        }
    }

    /// Whether there is nothing to validate by.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    /// The entity tag if it is strong: the only validator that names the bytes themselves.
    #[must_use]
    pub fn strong(&self) -> Option<&'a HeaderValue> {
        self.etag
            .filter(|value| EntityTag::parse(value.as_bytes()).is_some_and(|tag| !tag.weak))
    }
}

/// One entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// Whether it carries `W/`.
    pub weak: bool,
    /// The opaque part, quotes included.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads one entity tag; `None` where it is not quoted.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (weak, opaque) = text
            .strip_prefix(b"W/")
            .map_or((false, text), |rest| (true, rest));
        match opaque {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => Some(Self { weak, opaque }),
            _ => None,
        }
    }

    /// Weak comparison: the opaque parts are equal.
    #[must_use]
    pub fn weak_eq(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// Strong comparison: equal, and neither is weak.
    #[must_use]
    pub fn strong_eq(&self, other: &EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

/// How two entity tags are compared (RFC 9110 §8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The opaque parts are equal.
    Weak,
    /// Equal, and neither is weak.
    Strong,
}

/// Whether any tag of a list (`If-Match`, `If-None-Match`) equals `tag` under a comparison; `*` matches anything.
pub(crate) fn any_matches<'a>(
    mut lines: impl Iterator<Item = &'a HeaderValue>,
    tag: Option<&HeaderValue>,
    comparison: Comparison,
) -> bool {
    let held = tag.and_then(|value| EntityTag::parse(value.as_bytes()));
    lines.any(|line| {
        let list = line.as_bytes();
        list.trim_ascii() == b"*"
            || tags(list).any(|asked| {
                held.is_some_and(|held| match comparison {
                    Comparison::Weak => asked.weak_eq(&held),
                    Comparison::Strong => asked.strong_eq(&held),
                })
            })
    })
}

/// The entity tags of a list. What is no tag is passed over up to the next comma.
///
/// Within a tag a comma does not separate and a backslash does not escape, unlike in a quoted string (RFC 9110 §8.8.3).
fn tags(list: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let start = rest.trim_ascii_start();
            let opaque = start.strip_prefix(b"W/").unwrap_or(start);
            let quoted = opaque
                .strip_prefix(b"\"")
                .and_then(|inner| inner.iter().position(|b| *b == b'"'));
            let length = match quoted {
                // Both quotes, and what stands before them.
                Some(inner) => start.len() - opaque.len() + inner + 2,
                None => start.iter().position(|b| *b == b',').unwrap_or(start.len()),
            };
            let (member, after) = start.split_at_checked(length)?;
            let next = after.iter().position(|b| *b == b',');
            rest = next.and_then(|at| after.get(at + 1..)).unwrap_or(&[]);
            let ends_here = after
                .split(|b| *b == b',')
                .next()
                .is_none_or(|trailing| trailing.trim_ascii().is_empty());
            if ends_here && let Some(tag) = EntityTag::parse(member) {
                return Some(tag);
            }
        }
        None
    })
}

/// A date of a single field line.
pub(crate) fn parse_date(value: &HeaderValue) -> Option<Timestamp> {
    dates::parse(value.as_bytes(), dates::WITHOUT_CLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_compare_by_strength() {
        let tag = |text: &'static str| EntityTag::parse(text.as_bytes());
        let (strong, weak) = (tag("\"a\"").unwrap(), tag("W/\"a\"").unwrap());
        assert!(
            strong.strong_eq(&strong)
                && strong.weak_eq(&weak)
                && !strong.strong_eq(&weak)
                && !weak.strong_eq(&weak)
        );
        for malformed in ["a", "\"a", "w/\"a\"", "\"a\"b\"", "", "\""] {
            assert_eq!(tag(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_list_is_read_tag_by_tag() {
        for (list, tag, found) in [
            (&b"\"x\", W/\"a,b\""[..], &b"\"a,b\""[..], true),
            (b"\"x\", W/\"a,b\"", b"\"x\"", true),
            (b"\"x\", W/\"a,b\"", b"\"a\"", false),
            (b"\"a\\\", \"b\"", b"\"b\"", true),
            (b"a, \"b\"", b"\"b\"", true),
            (b"\"a\"junk, \"b\"", b"\"a\"", false),
            (b"\"a\"junk, \"b\"", b"\"b\"", true),
            (b",, \"b\" ,", b"\"b\"", true),
            (b"\"caf\xe9\"", b"\"caf\xe9\"", true),
            (b"\"caf\xe8\"", b"\"caf\xe9\"", false),
            (b"\"open", b"\"open\"", false),
            (b" * ", b"\"b\"", true),
            (b"", b"\"\"", false),
        ] {
            let (list, tag) = (
                HeaderValue::from_bytes(list).unwrap(),
                HeaderValue::from_bytes(tag).unwrap(),
            );
            let matches = any_matches([&list].into_iter(), Some(&tag), Comparison::Weak);
            assert_eq!(matches, found, "{list:?} {tag:?}");
        }
        let any = HeaderValue::from_static("*");
        assert!(any_matches([&any].into_iter(), None, Comparison::Strong));
    }
}
