//! `Cache-Control` of a response (RFC 9111 §5.2.2).

use http::{HeaderMap, header};

/// The largest number of seconds this cache reckons with: 2^31, as RFC 9111 §1.2.2 asks for overflow.
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;

/// The directives that are obeyed. Unknown ones are ignored (§5.2.3); `no-cache` and `private` with a list of fields count as
/// without one, which §5.2.2.4 and §5.2.2.7 allow and which never shares more than was meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `max-age`, seconds. A value that is no number counts as 0: stale, as §4.2.1 encourages.
    pub max_age: Option<u64>,
    /// `s-maxage`, seconds, likewise.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861 §3), seconds.
    pub stale_while_revalidate: Option<u64>,
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
        for line in headers.get_all(header::CACHE_CONTROL) {
            let line = String::from_utf8_lossy(line.as_bytes());
            for member in members(&line) {
                let (name, value) = match member.split_once('=') {
                    Some((name, value)) => (name.trim(), Some(value.trim())),
                    None => (member, None),
                };
                match name.to_ascii_lowercase().as_str() {
                    "max-age" => first(&mut found.max_age, value),
                    "s-maxage" => first(&mut found.s_maxage, value),
                    "stale-while-revalidate" => first(&mut found.stale_while_revalidate, value),
                    "no-store" => found.no_store = true,
                    "no-cache" => found.no_cache = true,
                    "private" => found.private = true,
                    "public" => found.public = true,
                    "must-revalidate" => found.must_revalidate = true,
                    "proxy-revalidate" => found.proxy_revalidate = true,
                    _ => {}
                }
            }
        }
        found
    }

    /// Whether the response forbids being used once stale (§5.2.2.2, §5.2.2.4, §5.2.2.8, and §5.2.2.10 for `s-maxage`).
    #[must_use]
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }
}

/// Keeps the first value of a directive.
fn first(slot: &mut Option<u64>, value: Option<&str>) {
    slot.get_or_insert_with(|| value.and_then(delta_seconds).unwrap_or(0));
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
