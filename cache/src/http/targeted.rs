//! Targeted cache control (RFC 9213): fields such as `CDN-Cache-Control` that go before `Cache-Control`.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

use super::directives::{DELTA_SECONDS_MAX, ResponseDirectives};

/// The directives of the first field of the target list that is present, valid and not empty.
///
//= https://www.rfc-editor.org/rfc/rfc9213#section-2.2
//# the cache MUST select the first (in target-list order) field with a
//# valid, non-empty value and use its value to determine the caching
//# policy for the response, and it MUST ignore the Cache-Control and
//# Expires header fields in that response
#[must_use]
pub fn select(headers: &HeaderMap, targets: &[HeaderName]) -> Option<ResponseDirectives> {
    targets.iter().find_map(|name| directives(headers, name))
}

/// The directives of one targeted field; `None` where it counts as absent.
///
//= https://www.rfc-editor.org/rfc/rfc9213#section-2.1
//# If a targeted field in a given response is empty, or a parsing error
//# is encountered, that field MUST be ignored by the cache
fn directives(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    let mut lines = headers.get_all(name).iter();
    let mut value = lines.next()?.as_bytes().to_vec();
    for line in lines {
        value.extend_from_slice(b", ");
        value.extend_from_slice(line.as_bytes());
    }
    let members: Dictionary = Parser::new(&value).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut found = ResponseDirectives::default();
    for (name, member) in &members {
        let name = name.as_str();
        if let Some(slot) = found.seconds_mut(name) {
            *slot = seconds(member);
        } else if let Some(flag) = found.flag_mut(name) {
            *flag = match bare(member) {
                Some(BareItem::Boolean(set)) => *set,
                // With a list of fields; obeyed as without one.
                Some(BareItem::String(_)) => matches!(name, "no-cache" | "private"),
                _ => false,
            };
        }
    }
    Some(found)
}

/// A number of seconds, of the type that is meant for one.
///
//= https://www.rfc-editor.org/rfc/rfc9213#section-2.1
//# Implementations SHOULD NOT consume values that violate these inferred
//# constraints.
fn seconds(member: &ListEntry) -> Option<u64> {
    let Some(BareItem::Integer(number)) = bare(member) else {
        return None;
    };
    let seconds = u64::try_from(i64::from(*number)).ok()?;
    Some(seconds.min(DELTA_SECONDS_MAX))
}

/// A member's value without its parameters.
///
//= https://www.rfc-editor.org/rfc/rfc9213#section-2.1
//# Parameters received on cache directives are to be ignored, unless
//# other handling is explicitly specified.
fn bare(member: &ListEntry) -> Option<&BareItem> {
    match member {
        ListEntry::Item(Item { bare_item, .. }) => Some(bare_item),
        ListEntry::InnerList(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    const OURS: HeaderName = HeaderName::from_static("ours-cache-control");

    fn of(fields: &[(&'static str, &'static str)]) -> Option<ResponseDirectives> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        select(&headers, &[OURS, CDN])
    }

    #[test]
    fn a_field_that_does_not_parse_or_is_empty_counts_as_absent() {
        for value in [
            "",
            "  ",
            "max-age=10000, &&&&&",
            "max-age=1,",
            "Max-Age=5",
            "max-age = 5",
            "max-age=\"5",
            "max-age=9999999999999999",
        ] {
            assert_eq!(of(&[("cdn-cache-control", value)]), None, "{value}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_no_value() {
        for value in [
            "max-age=\"10000\"",
            "max-age=1.5",
            "max-age",
            "max-age=-1",
            "max-age=(1 2)",
            "no-store=1",
            "no-store=?0",
            "public=\"x\"",
            "frobnicate",
        ] {
            assert_eq!(
                of(&[("cdn-cache-control", value)]),
                Some(ResponseDirectives::default()),
                "{value}"
            );
        }
    }

    #[test]
    fn the_first_usable_field_of_the_list_speaks_alone() {
        let age =
            |fields: &[(&'static str, &'static str)]| of(fields).and_then(|found| found.max_age);
        assert_eq!(age(&[("cdn-cache-control", "max-age=5;x=1, foo")]), Some(5));
        assert_eq!(
            age(&[("cdn-cache-control", "max-age=5, max-age=6")]),
            Some(6)
        );
        assert_eq!(
            age(&[
                ("cdn-cache-control", "private"),
                ("cdn-cache-control", "max-age=7")
            ]),
            Some(7)
        );
        assert_eq!(
            age(&[("cdn-cache-control", "max-age=99999999999")]),
            Some(DELTA_SECONDS_MAX)
        );
        assert_eq!(
            age(&[
                ("cdn-cache-control", "max-age=5"),
                ("ours-cache-control", "max-age=1")
            ]),
            Some(1)
        );
        assert_eq!(
            age(&[
                ("cdn-cache-control", "max-age=5"),
                ("ours-cache-control", "&")
            ]),
            Some(5)
        );
        assert!(
            of(&[("cdn-cache-control", "no-cache=\"set-cookie\"")])
                .is_some_and(|found| found.no_cache)
        );
        assert_eq!(of(&[("surrogate-control", "max-age=5")]), None);
    }
}
