//! The cache key: the name of a URL at a site.
//!
//! Every node computes it from the URL itself; nobody takes another's word for it. URLs that
//! RFC 3986 calls equivalent have one key. That makes the normalised form part of what a key
//! means, so upstream must be asked for [`normalize`]'s target: were it asked for the client's own
//! spelling, an origin that treats two spellings differently would have one answer served for both.

use std::{borrow::Cow, fmt, sync::LazyLock};

use bytes::BufMut as _;

/// Domain separation of [`CacheKey`]. Changing it empties every cache.
const CONTEXT: &str = "stoq 2026-11-21 cache key v1";

/// Bytes of a URL's parts, each after its length, that a key is made of without allocating.
const MATERIAL_INLINE: usize = 640;

/// The key of the context, computed once: a keyed hash then costs one pass, a derivation two.
static CONTEXT_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(CONTEXT, b""));

/// The name of a URL at a site: BLAKE3 over site, scheme, host, path and query.
///
/// `Vary` is not part of it; the variants of a URL lie under one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of a URL at the site named `site`.
    ///
    /// `authority` is `host` or `host:port`, without user information; `path_and_query` is as in
    /// the request line. Both are normalised after RFC 3986 section 6.2.2 and 6.2.3; what is not
    /// well-formed is taken as it is, and so has a key of its own. No allocation up to 512 bytes
    /// of URL that is normal already.
    #[must_use]
    pub fn of(site: &str, scheme: &str, authority: &str, path_and_query: &str) -> Self {
        Self::of_normal(site, scheme, authority, &normalize(path_and_query))
    }

    /// The key of a URL whose target is normal already.
    pub(crate) fn of_normal(site: &str, scheme: &str, authority: &str, target: &str) -> Self {
        let (path, query) = split_query(target);
        let (host, port) = split_port(authority);
        let (scheme, host) = (lower_case(scheme), normal_host(host));
        let parts = [
            Some(site),
            Some(&*scheme),
            Some(&*host),
            normal_port(&scheme, port),
            Some(path),
            query,
        ];

        // Each part goes after its length, so that no two tuples give the same bytes. Absent parts
        // have a length no present part can have.
        let len = |part: &Option<&str>| size_of::<u64>() + part.map_or(0, str::len);
        let total: usize = parts.iter().map(len).sum();
        let (mut short, mut long) = ([0; MATERIAL_INLINE], Vec::new());
        let material = match short.get_mut(..total) {
            Some(short) => short,
            None => {
                long.resize(total, 0);
                &mut long[..]
            }
        };
        let mut rest = &mut *material;
        for part in parts {
            rest.put_u64_le(part.map_or(u64::MAX, |part| part.len() as u64));
            rest.put_slice(part.unwrap_or_default().as_bytes());
        }
        Self(*blake3::keyed_hash(&CONTEXT_KEY, material).as_bytes())
    }

    /// The key with these bytes, from an index or the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 64 lower-case hexadecimal digits.
impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first eight digits, which is what a log line needs.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(")?;
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// The normal form of a request target of path and query, as RFC 3986 section 6.2.2 makes it.
///
/// Percent-encodings of unreserved characters are decoded, the others get upper-case digits, dot
/// segments are removed, an empty path becomes `/`. Idempotent. Borrows when nothing changes.
///
/// A target that is not a path (`*`), or that has a `%` without two hexadecimal digits after it,
/// comes back as it is: making sense of it would make two different requests one.
#[must_use]
pub fn normalize(path_and_query: &str) -> Cow<'_, str> {
    if is_plain(path_and_query) {
        return Cow::Borrowed(path_and_query);
    }
    let (path, query) = split_query(path_and_query);
    if !(path.is_empty() || path.starts_with('/')) || !is_well_formed(path_and_query) {
        return Cow::Borrowed(path_and_query);
    }
    // Decoding comes first: it is what makes `%2e%2e` a dot segment.
    let decoded = normal_percent(path);
    let clean = remove_dot_segments(&decoded);
    let normal_query = query.map(normal_percent);
    if clean == path && normal_query.as_deref() == query {
        return Cow::Borrowed(path_and_query);
    }
    let mut target = clean.into_owned();
    if let Some(query) = normal_query {
        target.push('?');
        target.push_str(&query);
    }
    Cow::Owned(target)
}

/// Whether a target is normal at first sight, as most are: a path in which nothing is encoded and no segment begins with a dot.
fn is_plain(target: &str) -> bool {
    let mut before = 0;
    target.starts_with('/')
        && target.bytes().all(|byte| {
            let plain = byte != b'%' && !(byte == b'.' && before == b'/');
            before = byte;
            plain
        })
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    // Bytes, since a search for a char costs more than the short texts it looks through.
    let end = target.bytes().position(|byte| byte == b'?');
    match end.and_then(|end| target.split_at_checked(end)) {
        Some((path, query)) => (path, query.get(1..)),
        None => (target, None),
    }
}

/// Whether each `%` has two hexadecimal digits after it.
fn is_well_formed(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match rest[at + 1..] {
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = &rest[at + 3..];
            }
            _ => return false,
        }
    }
    true
}

/// Decodes what need not be encoded and writes the rest in one way. Takes well-formed text.
fn normal_percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let Some((digits, tail)) = after.split_at_checked(2) else {
            rest = after;
            break;
        };
        match u8::from_str_radix(digits, 16) {
            //= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2.2
            //# These URIs should be normalized by decoding any percent-encoded octet that
            //# corresponds to an unreserved character, as described in Section 2.3.
            Ok(byte) if is_unreserved(byte) => out.push(char::from(byte)),
            //= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2.1
            //# For all URIs, the hexadecimal digits within a percent-encoding triplet (e.g., "%3a"
            //# versus "%3A") are case-insensitive and therefore should be normalized to use
            //# uppercase letters for the digits A-F.
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Removes `.` and `..` segments from an absolute or empty path, as RFC 3986 section 5.2.4 does.
fn remove_dot_segments(path: &str) -> Cow<'_, str> {
    if path.is_empty() {
        //= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.3
        //# In general, a URI that uses the generic syntax for authority with an empty path should be
        //# normalized to a path of "/".
        return Cow::Borrowed("/");
    }
    if !path.split('/').any(is_dots) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment == ".." {
            // Above the root is the root.
            out.truncate(out.rfind('/').unwrap_or(0));
        }
        if !is_dots(segment) {
            out.push('/');
            out.push_str(segment);
        } else if is_last {
            out.push('/');
        }
    }
    Cow::Owned(out)
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Splits `host:port`; the colons within an IPv6 literal's brackets are the host's.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

//= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2.1
//# the scheme and host are case-insensitive and therefore should be normalized to lowercase
fn normal_host(host: &str) -> Cow<'_, str> {
    if !host.contains('%') || !is_well_formed(host) {
        return lower_case(host);
    }
    // What is decoded can be an upper-case letter, so lowering comes after it; the digits of what
    // stays encoded keep their upper case.
    let decoded = normal_percent(host);
    let mut out = String::with_capacity(decoded.len());
    let mut rest = &*decoded;
    while let Some((before, after)) = rest.split_once('%') {
        let (digits, tail) = after.split_at_checked(2).unwrap_or((after, ""));
        out.push_str(&lower_case(before));
        out.push('%');
        out.push_str(digits);
        rest = tail;
    }
    out.push_str(&lower_case(rest));
    Cow::Owned(out)
}

//= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.3
//# Likewise, an explicit ":port", for which the port is empty or the default for the scheme, is
//# equivalent to one where the port and its ":" delimiter are elided
fn normal_port<'a>(scheme: &str, port: Option<&'a str>) -> Option<&'a str> {
    let port = port.filter(|port| !port.is_empty())?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(port);
    }
    // Zeros in front say nothing; port 0 keeps one.
    let number = match port.trim_start_matches('0') {
        "" => "0",
        number => number,
    };
    let default = match &*lower_case(scheme) {
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        _ => return Some(number),
    };
    (number != default).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_normalise_as_the_table_says() {
        #[rustfmt::skip]
        let table = [
            // given, normal
            ("", "/"), ("?", "/?"), ("?x=1", "/?x=1"), ("/", "/"),
            ("/a", "/a"), ("/a/", "/a/"), ("//", "//"), ("/a//b", "/a//b"),
            // 6.2.2.1: upper-case digits; letters elsewhere keep their case.
            ("/%2f", "/%2F"), ("/A%c3%A9", "/A%C3%A9"),
            // 6.2.2.2: unreserved characters are decoded, reserved ones never.
            ("/%61%5A%30%2D%2e%5f%7E", "/aZ0-._~"),
            ("/%2F%3f%23%25%20", "/%2F%3F%23%25%20"),
            // 6.2.2.3: dot segments go, also those that were encoded, never above the root.
            ("/a/./b", "/a/b"), ("/a/../b", "/b"), ("/./", "/"), ("/.", "/"), ("/..", "/"),
            ("/a/b/..", "/a/"), ("/a/b/../..", "/"), ("/../../a", "/a"), ("/a/%2E%2e/b", "/b"),
            ("/a/...", "/a/..."), ("/a/.b", "/a/.b"), ("/a//../b", "/a/b"), ("/a/..//b", "//b"),
            // The query: percent-encoding only; its dots and slashes mean what they say.
            ("/?a/../b", "/?a/../b"), ("/?%61=%2f", "/?a=%2F"), ("/a/..?%7e?", "/?~?"),
            // Not well-formed, or not a path: untouched.
            ("/%", "/%"), ("/%4", "/%4"), ("/%zz/../%61", "/%zz/../%61"), ("/%61?%", "/%61?%"),
            ("/%4%31", "/%4%31"), ("*", "*"), ("a/../b", "a/../b"), ("/%é1", "/%é1"),
            ("/é", "/é"),
        ];
        for (given, want) in table {
            assert_eq!(normalize(given), want, "of {given:?}");
        }
    }

    #[test]
    fn what_is_normal_is_borrowed() {
        for target in ["/", "/a/b.css?v=1&x=%2F", "/%C3%A9", "*", "/%zz"] {
            assert!(matches!(normalize(target), Cow::Borrowed(_)), "{target}");
        }
    }

    #[test]
    fn equivalent_urls_have_one_key() {
        let key = |scheme, authority, target| CacheKey::of("shop", scheme, authority, target);
        let base = key("https", "example.com", "/a/b?x=1");
        for (scheme, authority, target) in [
            ("HTTPS", "EXAMPLE.com", "/a/b?x=1"),
            ("https", "example.com:443", "/a/b?x=1"),
            ("https", "example.com:", "/a/b?x=1"),
            ("https", "example.com:0443", "/a/b?x=1"),
            ("https", "ex%61mpl%45.com", "/a/b?x=1"),
            ("https", "example.com", "/%61/./c/../b?%78=1"),
        ] {
            assert_eq!(key(scheme, authority, target), base, "{authority} {target}");
        }
        assert_eq!(
            key("http", "[::1]:80", ""),
            key("http", "[::1]", "/"),
            "port after an IPv6 literal"
        );
        assert_eq!(
            key("http", "[FE80::A]:81", "/"),
            key("http", "[fe80::a]:81", "/")
        );
        assert_eq!(key("http", "a%c3%A9b", "/"), key("http", "A%C3%a9B", "/"));
    }

    #[test]
    fn different_urls_have_different_keys() {
        let keys = [
            CacheKey::of("shop", "https", "example.com", "/a/b?x=1"),
            CacheKey::of("blog", "https", "example.com", "/a/b?x=1"),
            CacheKey::of("shop", "http", "example.com", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.org", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com:80", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com:8443", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com:https", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com:+443", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com:99999", "/a/b?x=1"),
            CacheKey::of("shop", "https", "example.com", "/A/b?x=1"),
            CacheKey::of("shop", "https", "example.com", "/a%2Fb?x=1"),
            CacheKey::of("shop", "https", "example.com", "/a/b?X=1"),
            CacheKey::of("shop", "https", "example.com", "/a/b?x=1&"),
            CacheKey::of("shop", "https", "example.com", "/a/b%3Fx=1"),
            CacheKey::of("shop", "https", "example.com", "/a/b/?x=1"),
            CacheKey::of("shop", "https", "example.com", "/a/b?"),
            CacheKey::of("shop", "https", "example.com", "/a/b"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "key {i}");
        }
    }

    // Nodes of different builds must agree. Computed with another implementation of BLAKE3.
    #[test]
    fn keys_match_the_golden_vectors() {
        assert_eq!(
            CacheKey::of("shop", "https", "example.com", "/a/b?x=1").to_string(),
            "e0c4eb2f75299d6ae62c8c9c9ceb3b550cfd9a2eaca66e181f1b17e2fd8a8846"
        );
        assert_eq!(
            CacheKey::of("shop", "http", "[::1]:8080", "").to_string(),
            "b944432daef4baa71b64dd2574953af1b485c155999b155ed30f85a597bcb064"
        );
    }

    /// Targets dense in what normalisation looks at.
    fn target() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[/.?]",
            "%[0-9a-fA-F]{2}",
            "%2[eEfF]",
            "%",
            "[0-9a-zA-Z_~-]",
            "[ -~é]",
            Just("..".into()),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn normalising_twice_changes_nothing(target in target()) {
            let once = normalize(&target).into_owned();
            prop_assert_eq!(&normalize(&once), &once);
        }

        #[test]
        fn the_normal_target_has_the_key_of_the_given_one(target in target()) {
            prop_assert_eq!(
                CacheKey::of("s", "http", "h", &target),
                CacheKey::of("s", "http", "h", &normalize(&target))
            );
        }

        #[test]
        fn a_normal_path_has_no_dot_segment_and_no_needless_encoding(target in target()) {
            let normal = normalize(&target);
            if is_well_formed(&target) {
                let path = normal.split('?').next().unwrap_or_default();
                prop_assert!(!path.split('/').any(is_dots));
                prop_assert!(path.starts_with('/'));
                prop_assert_eq!(normal_percent(&normal), &*normal);
            }
        }

        #[test]
        fn hosts_normalise_once(host in "([a-zA-Z0-9.-]|%[0-9a-fA-F]{2}|%){0,16}") {
            let once = normal_host(&host).into_owned();
            prop_assert_eq!(normal_host(&once), &*once);
        }

        #[test]
        fn distinct_normal_tuples_have_distinct_keys(
            a in tuple(), b in tuple()
        ) {
            let key = |t: &(String, String, String)| CacheKey::of(&t.0, "http", &t.1, &t.2);
            let normal = |t: &(String, String, String)| {
                (t.0.clone(), t.1.clone(), normalize(&t.2).into_owned())
            };
            prop_assert_eq!(key(&a) == key(&b), normal(&a) == normal(&b));
        }
    }

    /// Short parts over few letters, so that equal and shifted tuples come up.
    fn tuple() -> impl Strategy<Value = (String, String, String)> {
        ("[ab]{1,2}", "[ab]{1,2}", "/[ab?]{0,3}")
    }
}
