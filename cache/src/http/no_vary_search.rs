//! `No-Vary-Search`: which parts of a query a response does not depend on (draft-ietf-httpbis-no-vary-search).
//!
//! What is not understood is as if it were absent: a cache that compares too much asks once more, one that compares too little
//! gives the wrong response.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;
use sfv::{Dictionary, InnerList, ListEntry, Parser};

/// The field.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Bytes of the field that are read; a longer one is ignored.
const FIELD_BYTES_MAX: usize = 2048;

/// Names in it; one with more is ignored.
const NAMES_MAX: usize = 64;

/// What of a query a response depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchVariance {
    counts: Counts,
    order_counts: bool,
}

/// The parameters that count, by their decoded names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counts {
    AllBut(Vec<Vec<u8>>),
    Only(Vec<Vec<u8>>),
}

/// Name and value of a parameter, decoded.
pub type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl SearchVariance {
    /// What a response says. `None` where it depends on its whole query, or says so in a way that is not understood.
    #[must_use]
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let mut field = Vec::new();
        for line in response.get_all(NO_VARY_SEARCH) {
            if !field.is_empty() {
                field.extend_from_slice(b", ");
            }
            field.extend_from_slice(line.as_bytes());
        }
        if field.is_empty() || field.len() > FIELD_BYTES_MAX {
            return None;
        }
        let dictionary: Dictionary = Parser::new(&field).parse().ok()?;
        let member = |name: &str| {
            dictionary
                .iter()
                .find(|(key, _)| key.as_str() == name)
                .map(|(_, entry)| entry)
        };
        let order_counts = match member("key-order") {
            None => true,
            Some(entry) => !boolean(entry)?,
        };
        let counts = match (member("params"), member("except")) {
            (None, None) => Counts::AllBut(Vec::new()),
            (Some(ListEntry::InnerList(list)), None) => Counts::AllBut(names(list)?),
            (Some(entry), None) if boolean(entry)? => Counts::Only(Vec::new()),
            (Some(_), None) => Counts::AllBut(Vec::new()),
            // Exceptions mean something only where nothing else counts.
            (Some(entry), Some(ListEntry::InnerList(list))) if boolean(entry)? => {
                Counts::Only(names(list)?)
            }
            (_, Some(_)) => return None,
        };
        let variance = Self {
            counts,
            order_counts,
        };
        let is_default = order_counts && variance.counts == Counts::AllBut(Vec::new());
        (!is_default).then_some(variance)
    }

    /// The parameters of a query that count, decoded, in the order that counts. Two queries are equivalent if and only if these are equal.
    #[must_use]
    pub fn counted<'a>(&self, query: Option<&'a str>) -> Vec<Parameter<'a>> {
        let mut parameters: Vec<_> = query
            .unwrap_or_default()
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                (decoded(name), decoded(value))
            })
            .filter(|(name, _)| match &self.counts {
                Counts::AllBut(names) => !names.iter().any(|other| **other == **name),
                Counts::Only(names) => names.iter().any(|other| **other == **name),
            })
            .collect();
        if !self.order_counts {
            // Stable: the order among parameters of one name always counts.
            parameters.sort_by(|a, b| a.0.cmp(&b.0));
        }
        parameters
    }
}

fn boolean(entry: &ListEntry) -> Option<bool> {
    match entry {
        ListEntry::Item(item) => item.bare_item.as_boolean(),
        ListEntry::InnerList(_) => None,
    }
}

fn names(list: &InnerList) -> Option<Vec<Vec<u8>>> {
    if list.items.len() > NAMES_MAX {
        return None;
    }
    let name = |item: &sfv::Item| {
        item.bare_item
            .as_string()
            .map(|name| decoded(name.as_str()).into_owned())
    };
    list.items.iter().map(name).collect()
}

/// A part of a query as forms write it: `+` is a space, the rest percent-encoded. As bytes, so that nothing that is not UTF-8 is
/// taken for something else that is not.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode(spaced.as_bytes()).collect());
    }
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(field: &'static str) -> Option<SearchVariance> {
        SearchVariance::of(&HeaderMap::from_iter([(
            NO_VARY_SEARCH,
            HeaderValue::from_static(field),
        )]))
    }

    #[test]
    fn queries_are_equivalent_as_the_field_says() {
        #[rustfmt::skip]
        let table = [
            ("params=(\"utm\")", "a=1&utm=2", "a=1", true),
            ("params=(\"utm\")", "utm=2", "", true),
            ("params=(\"utm\")", "a=1&utm=2", "a=2", false),
            ("params=(\"a b\" \"%C3%A9\")", "a+b=1&%c3%a9=2&x", "x=", true),
            ("params", "a=1&b=2", "", true),
            ("params=?1, except=(\"a\")", "a=1&b=2", "b=3&a=1", true),
            ("params=?1, except=(\"a\")", "a=1", "a=2", false),
            ("params=?1, except=(\"a\")", "a=1&a=2", "a=2&a=1", false),
            ("key-order", "a=1&b=2", "b=2&a=1", true),
            ("key-order", "a=1&a=2", "a=2&a=1", false),
            ("key-order", "a=1&b=2", "a=1", false),
            ("key-order, params=(\"c\")", "a=%31&c&b=+", "b=%20&a=1", true),
            ("params=(\"b\")", "a=1&c=2", "c=2&a=1", false),
            ("params=(\"utm\"), unknown=7", "utm=2", "", true),
        ];
        for (field, one, other, want) in table {
            let variance = of(field).unwrap_or_else(|| panic!("{field}"));
            let same = variance.counted(Some(one)) == variance.counted(Some(other));
            assert_eq!(same, want, "{field}: {one} | {other}");
        }
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for field in [
            "",
            "params=?0",
            "key-order=?0",
            "params=()",
            "except=(\"a\")",
            "params=?0, except=(\"a\")",
            "params=(\"b\"), except=(\"a\")",
            "params=(a)",
            "params=(1)",
            "params=\"a\"",
            "params=1",
            "params=?1, except=\"a\"",
            "params=?1, except=(a)",
            "key-order=1",
            "key-order=(\"a\")",
            "params=(\"a\"), key-order=yes",
            "params=(\"a\"",
            "params=(\"a\"),",
            "Params=(\"a\")",
            "other=?1",
        ] {
            assert_eq!(of(field), None, "{field}");
        }
        let flood = format!("params=({})", "\"a\" ".repeat(NAMES_MAX + 1).trim());
        let mut headers = HeaderMap::new();
        headers.insert(NO_VARY_SEARCH, HeaderValue::try_from(flood).unwrap());
        assert_eq!(SearchVariance::of(&headers), None);
    }

    proptest! {
        #[test]
        fn parameters_that_do_not_count_change_nothing(
            query in "([ab]=[0-9%+]{0,3}&?){0,6}", at in 0_usize..8,
        ) {
            let variance = of("params=(\"x\")").unwrap();
            let mut parts: Vec<&str> = query.split('&').collect();
            parts.insert(at.min(parts.len()), "x=1");
            let more = parts.join("&");
            prop_assert_eq!(variance.counted(Some(&query)), variance.counted(Some(&more)));
        }
    }
}
