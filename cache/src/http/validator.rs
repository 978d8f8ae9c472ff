//! Entity tags and modification dates (RFC 9110 §8.8).

use http::{HeaderMap, HeaderValue, header};

use super::{age, dates, directives::members};
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

/// Whether any tag of a list (`If-None-Match`) matches weakly; `*` matches anything.
pub(crate) fn any_matches<'a>(
    lines: impl Iterator<Item = &'a HeaderValue>,
    tag: Option<&HeaderValue>,
) -> bool {
    let tag = tag.and_then(|value| EntityTag::parse(value.as_bytes()));
    lines.filter_map(|line| line.to_str().ok()).any(|line| {
        members(line).any(|member| {
            member == "*"
                || matches!((EntityTag::parse(member.as_bytes()), tag), (Some(asked), Some(held)) if asked.weak_eq(&held))
        })
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
    fn a_comma_within_a_tag_does_not_separate() {
        let line = HeaderValue::from_static("\"x\", W/\"a,b\"");
        let matches = |tag: &'static str| {
            any_matches([&line].into_iter(), Some(&HeaderValue::from_static(tag)))
        };
        assert!(matches("\"a,b\"") && matches("\"x\"") && !matches("\"a\""));
        assert!(any_matches(
            [&HeaderValue::from_static("*")].into_iter(),
            None
        ));
    }
}
