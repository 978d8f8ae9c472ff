//! Cache groups: the names by which an origin ties stored responses together (RFC 9875).
//!
//! Here are the two fields, read. What a name means to the store, and the marks that make a group invalid at once, are
//! the engine's.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry, Parser};

/// `Cache-Groups`: what a response belongs to.
pub static CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// `Cache-Group-Invalidation`: what an answer to an unsafe request makes invalid.
pub static CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");

/// Groups a stored response is remembered in; what it says beyond counts as belonging to every group of its origin.
///
//= https://www.rfc-editor.org/rfc/rfc9875#section-2
//# Implementations MUST support at least 32 groups in a field value, with
//# up to at least 32 characters in each member.
///
/// 128 × 4 B = 512 B a response. Names are hashed, so their length has no bound but the head's.
pub const GROUPS_MAX: usize = 128;

/// The names a field lists, each once, sorted. Empty where it is absent, or is no List of Strings: such a field says nothing.
///
/// Parameters are ignored, as RFC 9875 §2 asks.
#[must_use]
pub fn names(headers: &HeaderMap, field: &HeaderName) -> Vec<String> {
    let mut lines = headers.get_all(field).iter().peekable();
    if lines.peek().is_none() {
        return Vec::new();
    }
    let mut text: Vec<u8> = Vec::new();
    for line in lines {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(line.as_bytes());
    }
    let Ok(list) = Parser::new(&text).parse::<List>() else {
        return Vec::new();
    };
    let members = list.into_iter().map(|member| match member {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::String(name) => Some(String::from(name)),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    });
    let mut names = members.collect::<Option<Vec<String>>>().unwrap_or_default();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_GROUPS.clone(), HeaderValue::try_from(*line).unwrap());
        }
        names(&headers, &CACHE_GROUPS)
    }

    #[test]
    fn groups_are_a_list_of_strings_and_nothing_else() {
        assert_eq!(of(&["\"b\";x=1, \"a\"", "\"b\""]), ["a", "b"]);
        assert_eq!(of(&["\"A\", \"a\", \"a, b\""]), ["A", "a", "a, b"]);
        for broken in ["a", "\"a\", b", "\"a\", (\"b\")", "\"a", "1", ""] {
            assert!(of(&[broken]).is_empty(), "{broken}");
        }
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn at_least_32_groups_of_32_characters_are_read() {
        let names: Vec<String> = (0..GROUPS_MAX).map(|i| format!("{i:032}")).collect();
        let line: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        assert_eq!(of(&[&line.join(", ")]), names);
        const { assert!(GROUPS_MAX >= 32) };
    }
}
