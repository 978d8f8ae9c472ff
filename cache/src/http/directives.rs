//! `Cache-Control` of a response (RFC 9111 §5.2.2) and of a request (§5.2.1).

use http::{HeaderMap, header};

use super::policy::SitePolicy;

/// The largest number of seconds this cache reckons with: 2^31, as RFC 9111 §1.2.2 asks for overflow.
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;

/// The directives of a response that are obeyed. Unknown ones are ignored (§5.2.3).
///
/// `no-cache` and `private` with a list of fields count as without one. To honour the list is allowed (MAY), and would save a validation; to
/// overlook a field of it would share what was not to be shared. Origins rarely write one, so this stays on the safe side:
//= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.7
//# Also, the qualified form of the directive is often handled by caches
//# as if an unqualified private directive was received; that is, the
//# special handling for the qualified form is not widely implemented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `max-age`, seconds. A value that is no number counts as 0: stale, as §4.2.1 encourages.
    pub max_age: Option<u64>,
    /// `s-maxage`, seconds, likewise.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861 §3), seconds, likewise.
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error` (RFC 5861 §4), seconds, likewise.
    pub stale_if_error: Option<u64>,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`.
    pub no_cache: bool,
    /// `private`.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
}

impl ResponseDirectives {
    /// Reads all `Cache-Control` lines of a response.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9111#section-4.2.1
    //# When there is more than one value present for a given directive
    //# (e.g., two Expires header field lines or multiple Cache-Control:
    //# max-age directives), either the first occurrence should be used or
    //# the response should be considered stale.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        each(headers, |name, value| {
            if let Some(slot) = found.seconds_mut(name) {
                slot.get_or_insert_with(|| value.and_then(delta_seconds).unwrap_or(0));
            } else if let Some(flag) = found.flag_mut(name) {
                *flag = true;
            }
        });
        found
    }

    /// Whether the response forbids being used once stale (§5.2.2.2, §5.2.2.4, §5.2.2.8, and §5.2.2.10 for `s-maxage`).
    #[must_use]
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// The place of a directive that has a number of seconds.
    pub(super) fn seconds_mut(&mut self, name: &str) -> Option<&mut Option<u64>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        Some(match name {
            _ if is("max-age") => &mut self.max_age,
            _ if is("s-maxage") => &mut self.s_maxage,
            _ if is("stale-while-revalidate") => &mut self.stale_while_revalidate,
            _ if is("stale-if-error") => &mut self.stale_if_error,
            _ => return None,
        })
    }

    /// The place of a directive that is there or not.
    pub(super) fn flag_mut(&mut self, name: &str) -> Option<&mut bool> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        Some(match name {
            _ if is("no-store") => &mut self.no_store,
            _ if is("no-cache") => &mut self.no_cache,
            _ if is("private") => &mut self.private,
            _ if is("public") => &mut self.public,
            _ if is("must-revalidate") => &mut self.must_revalidate,
            _ if is("proxy-revalidate") => &mut self.proxy_revalidate,
            _ if is("must-understand") => &mut self.must_understand,
            _ if is("immutable") => &mut self.immutable,
            _ => return None,
        })
    }
}

/// The directives of a request that are obeyed. One whose number cannot be read is ignored: it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `max-age`, seconds: no older response is wanted.
    pub max_age: Option<u64>,
    /// `max-stale`, seconds past its lifetime that a response may be; without a value [`DELTA_SECONDS_MAX`].
    pub max_stale: Option<u64>,
    /// `min-fresh`, seconds that a response must have left.
    pub min_fresh: Option<u64>,
    /// `stale-if-error` (RFC 5861 §4), seconds.
    pub stale_if_error: Option<u64>,
    /// `no-cache`, or `Pragma: no-cache` in a request without `Cache-Control`.
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
}

impl RequestDirectives {
    /// What a request says, where the site heeds it; else nothing. Allocates nothing.
    #[must_use]
    pub fn heeded(headers: &HeaderMap, policy: &SitePolicy) -> Self {
        if policy.client_cache_control {
            Self::of(headers)
        } else {
            Self::default()
        }
    }

    /// Reads all `Cache-Control` lines of a request. The first of several values counts.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            //= https://www.rfc-editor.org/rfc/rfc7234#section-5.4
            //# When the Cache-Control header field is not present in a request,
            //# caches MUST consider the no-cache request pragma-directive as having
            //# the same effect as if "Cache-Control: no-cache" were present
            found.no_cache = headers.get_all(header::PRAGMA).iter().any(|line| {
                String::from_utf8_lossy(line.as_bytes())
                    .split(',')
                    .any(|member| member.trim().eq_ignore_ascii_case("no-cache"))
            });
            return found;
        }
        each(headers, |name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let number = value.and_then(delta_seconds);
            match name {
                _ if is("max-age") => found.max_age = found.max_age.or(number),
                _ if is("min-fresh") => found.min_fresh = found.min_fresh.or(number),
                _ if is("stale-if-error") => found.stale_if_error = found.stale_if_error.or(number),
                _ if is("max-stale") => {
                    let bare = value.is_none().then_some(DELTA_SECONDS_MAX);
                    found.max_stale = found.max_stale.or(number).or(bare);
                }
                _ if is("no-cache") => found.no_cache = true,
                _ if is("no-store") => found.no_store = true,
                _ if is("only-if-cached") => found.only_if_cached = true,
                _ => {}
            }
        });
        found
    }
}

/// Calls `with` for each directive of all `Cache-Control` lines: its name as written, and its value where it has one.
fn each(headers: &HeaderMap, mut with: impl FnMut(&str, Option<&str>)) {
    for line in headers.get_all(header::CACHE_CONTROL) {
        let line = String::from_utf8_lossy(line.as_bytes());
        for member in members(&line) {
            match member.split_once('=') {
                Some((name, value)) => with(name.trim(), Some(value.trim())),
                None => with(member, None),
            }
        }
    }
}

/// A number of seconds, as a token or in quotes, capped at [`DELTA_SECONDS_MAX`]; `None` for anything else.
#[must_use]
pub fn delta_seconds(value: &str) -> Option<u64> {
    let digits = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(
        digits
            .parse::<u64>()
            .map_or(DELTA_SECONDS_MAX, |seconds| seconds.min(DELTA_SECONDS_MAX)),
    )
}

/// The members of a comma-separated list, trimmed, empty ones left out; commas within quoted strings do not separate.
pub(crate) fn members(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |c: char| {
        let separates = c == ',' && !quoted;
        if escaped {
            escaped = false;
        } else if c == '"' {
            quoted = !quoted;
        } else if c == '\\' && quoted {
            escaped = true;
        }
        separates
    })
    .map(str::trim)
    .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> ResponseDirectives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        ResponseDirectives::of(&headers)
    }

    #[test]
    fn numbers_are_read_as_servers_write_them() {
        for (line, seconds) in [
            ("max-age=60", 60),
            ("MAX-AGE = 60", 60),
            ("max-age=\"60\"", 60),
            ("foo, max-age=60 , bar=\"a, max-age=1\"", 60),
            ("max-age=60, max-age=5", 60),
            ("max-age=99999999999999999999999", DELTA_SECONDS_MAX),
            ("max-age=-5", 0),
            ("max-age=1.5", 0),
            ("max-age", 0),
            ("x=\"\\\"\", max-age=7", 7),
        ] {
            assert_eq!(of(&[line]).max_age, Some(seconds), "{line}");
        }
    }

    fn asked(fields: &[(&'static str, &'static str)]) -> RequestDirectives {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        RequestDirectives::of(&headers)
    }

    #[test]
    fn a_request_says_what_it_wants() {
        let found = asked(&[
            ("cache-control", "Max-Age=5, min-fresh=\"7\", foo=1"),
            (
                "cache-control",
                "NO-STORE, max-age=9, only-if-cached, stale-if-error=3",
            ),
        ]);
        let expected = RequestDirectives {
            max_age: Some(5),
            min_fresh: Some(7),
            stale_if_error: Some(3),
            no_store: true,
            only_if_cached: true,
            ..RequestDirectives::default()
        };
        assert_eq!(found, expected);
        for (line, max_stale) in [
            ("max-stale", Some(DELTA_SECONDS_MAX)),
            ("max-stale=10", Some(10)),
            ("max-stale=x", None),
            ("max-stale=", None),
            ("max-age=-1", None),
        ] {
            assert_eq!(asked(&[("cache-control", line)]).max_stale, max_stale);
            assert_eq!(asked(&[("cache-control", line)]).max_age, None);
        }
    }

    #[test]
    fn pragma_speaks_only_where_cache_control_is_silent() {
        for (fields, no_cache) in [
            (&[("pragma", "No-Cache")][..], true),
            (&[("pragma", "foo, no-cache")], true),
            (&[("pragma", "foo")], false),
            (
                &[("pragma", "no-cache"), ("cache-control", "max-age=5")],
                false,
            ),
            (&[("cache-control", "no-cache")], true),
        ] {
            assert_eq!(asked(fields).no_cache, no_cache, "{fields:?}");
        }
    }

    #[test]
    fn a_site_that_does_not_heed_requests_hears_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "cache-control",
            HeaderValue::from_static("no-cache, max-age=0"),
        );
        let deaf = SitePolicy {
            client_cache_control: false,
            ..SitePolicy::default()
        };
        let nothing = RequestDirectives::default();
        assert_eq!(RequestDirectives::heeded(&headers, &deaf), nothing);
        let heeding = SitePolicy::default();
        assert_ne!(RequestDirectives::heeded(&headers, &heeding), nothing);
    }

    #[test]
    fn lines_add_up_and_unknown_directives_are_ignored() {
        let found = of(&[
            "public, frobnicate=3",
            "s-maxage=10",
            "no-cache=\"set-cookie\"",
        ]);
        assert!(found.public && found.no_cache && !found.private && !found.no_store);
        assert_eq!((found.s_maxage, found.max_age), (Some(10), None));
    }
}
