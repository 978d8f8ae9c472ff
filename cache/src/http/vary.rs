//! `Vary`: which stored response fits which request (RFC 9111 §4.1).

use http::{HeaderMap, HeaderName, header};

/// The most variants kept for one URL; the one used least recently by time of storing makes room.
pub const VARIANTS_MAX: usize = 16;

/// The most fields a `Vary` may nominate; a response with more is not stored.
pub const NOMINATED_MAX: usize = 16;

/// The fields a response nominates, sorted, none twice; `None` where nothing can match (`*`, a broken name, too many).
#[must_use]
pub fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in response.get_all(header::VARY) {
        for member in line
            .to_str()
            .ok()?
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
        {
            //= https://www.rfc-editor.org/rfc/rfc9111#section-4.1
            //# A stored response with a Vary header field value containing a member
            //# "*" always fails to match.
            if member == "*" {
                return None;
            }
            names.push(HeaderName::from_bytes(member.as_bytes()).ok()?);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NOMINATED_MAX).then_some(names)
}

/// A field's lines as one normalised value.
type Value = Box<[u8]>;

/// What a request must say to be answered by one variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    fields: Box<[(HeaderName, Option<Value>)]>,
}

impl Selector {
    /// The selector of a response, given the request that brought it; `None` where nothing can match.
    #[must_use]
    pub fn of(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let fields = nominated(response)?
            .into_iter()
            .map(|name| {
                let value = normalised(request, &name);
                (name, value)
            })
            .collect();
        Some(Self { fields })
    }

    /// Whether a request may be answered by this variant: each nominated field has the same value, or is absent from both.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|(name, wanted)| match wanted {
            None => !request.contains_key(name),
            Some(wanted) => {
                // One line that is written exactly alike is the common case and allocates nothing.
                let mut lines = request.get_all(name).iter();
                match (lines.next(), lines.next()) {
                    (None, _) => false,
                    (Some(only), None) if only.as_bytes() == &**wanted => true,
                    _ => normalised(request, name).as_ref() == Some(wanted),
                }
            }
        })
    }

    /// Whether this variant is the only one there can be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The values a request has for the fields of this selector, as one hashable key among requests for the same URL.
    #[must_use]
    pub fn key_of(&self, request: &HeaderMap) -> Vec<u8> {
        let mut key = Vec::new();
        for (name, _) in &self.fields {
            key.extend_from_slice(name.as_str().as_bytes());
            match normalised(request, name) {
                None => key.push(0),
                Some(value) => {
                    key.push(1);
                    key.extend_from_slice(&value);
                }
            }
            key.push(b'\n');
        }
        key
    }

    /// Bytes it weighs.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.fields
            .iter()
            .map(|(_, value)| 64 + value.as_ref().map_or(0, |value| value.len()))
            .sum()
    }
}

/// A field's lines combined into one, without the whitespace around commas (RFC 9111 §4.1); `None` where it is absent.
fn normalised(request: &HeaderMap, name: &HeaderName) -> Option<Value> {
    let mut lines = request.get_all(name).iter().peekable();
    lines.peek()?;
    let mut joined: Vec<u8> = Vec::new();
    for member in lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(member);
    }
    Some(joined.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn requests_match_by_the_nominated_fields_alone() {
        let stored = map(&[("accept-language", "de,  en"), ("x-other", "1")]);
        let selector = Selector::of(
            &map(&[("vary", "Accept-Language, accept-encoding")]),
            &stored,
        )
        .unwrap();
        for (request, fits) in [
            (map(&[("accept-language", "de, en")]), true),
            (
                map(&[("accept-language", "de , en,"), ("x-other", "2")]),
                true,
            ),
            (
                map(&[("accept-language", "de"), ("accept-language", "en")]),
                true,
            ),
            (map(&[("accept-language", "en, de")]), false),
            (
                map(&[("accept-language", "de, en"), ("accept-encoding", "")]),
                false,
            ),
            (map(&[]), false),
        ] {
            assert_eq!(selector.matches(&request), fits, "{request:?}");
            assert_eq!(
                selector.key_of(&request) == selector.key_of(&stored),
                fits,
                "{request:?}"
            );
        }
    }

    #[test]
    fn star_and_floods_of_names_match_nothing() {
        assert_eq!(nominated(&map(&[("vary", "accept"), ("vary", "*")])), None);
        let mut flood = HeaderMap::new();
        for i in 0..=NOMINATED_MAX {
            flood.append(
                header::VARY,
                HeaderValue::try_from(format!("x-{i}")).unwrap(),
            );
        }
        assert_eq!(nominated(&flood), None);
        assert!(Selector::of(&map(&[]), &map(&[])).unwrap().is_empty());
    }
}
