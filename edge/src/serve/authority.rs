//! The host a request is for, in the one spelling that site table, cache key and origin request share:
//! lower case, no trailing dot, no port where the scheme's own is meant.
//!
//! Invariant: two requests whose `Authority` differ in a byte never share a cached object, and the
//! origin is asked with exactly these bytes. (A port that the key ignored and the origin echoed into
//! a redirect is the classic way to poison a cache.)

use std::io::Write;
use std::net::Ipv6Addr;

use http::uri::Scheme;
use smallvec::SmallVec;

/// Longest host name that DNS allows, in bytes; a longer one is malformed.
const HOST_BYTES_MAX: usize = 255;

/// A canonical `host[:port]`, held inline up to 64 bytes so that a hit allocates nothing for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    bytes: SmallVec<[u8; 64]>,
    host_len: usize,
}

impl Authority {
    /// Reads `raw` (`:authority`, or `Host`) as RFC 3986 `host [ ":" port ]`.
    ///
    /// `None` for what is malformed: user information, an empty or over-long host, a character that no
    /// host name has, a port that is no number below 65536.
    pub(crate) fn parse(raw: &str, scheme: &Scheme) -> Option<Self> {
        let (host, port) = split(raw)?;
        //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.3
        //# The scheme and host are case-insensitive and normally provided in
        //# lowercase; all other components are compared in a case-sensitive manner.
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        let mut bytes: SmallVec<[u8; 64]> = SmallVec::new();
        if let Some(literal) = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            // One address has many spellings; `Display` is the one of RFC 5952.
            let address: Ipv6Addr = literal.parse().ok()?;
            write!(bytes, "[{address}]").ok()?;
        } else {
            bytes.extend(host.bytes().map(|b| b.to_ascii_lowercase()));
        }
        let host_len = bytes.len();
        //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.3
        //# If the port is equal to the default port for a scheme, the normal form
        //# is to omit the port subcomponent.
        if let Some(port) = port.filter(|port| *port != default_port(scheme)) {
            write!(bytes, ":{port}").ok()?;
        }
        Some(Self { bytes, host_len })
    }

    /// The host alone; an IPv6 literal without its brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.as_str().get(..self.host_len).unwrap_or_default();
        host.strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// Host and, unless it is the scheme's own, port.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

fn default_port(scheme: &Scheme) -> u16 {
    if *scheme == Scheme::HTTP { 80 } else { 443 }
}

fn split(raw: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = raw.strip_prefix('[') {
        let (inner, after) = rest.split_once(']')?;
        let host = &raw[..inner.len() + 2];
        match after.strip_prefix(':') {
            Some(port) => (host, port),
            None if after.is_empty() => (host, ""),
            None => return None,
        }
    } else {
        let (host, port) = raw.split_once(':').unwrap_or((raw, ""));
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        {
            return None;
        }
        (host, port)
    };
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return None;
    }
    // `u16::from_str` takes a leading plus sign, which the grammar does not.
    match port {
        "" => Some((host, None)),
        port if port.bytes().all(|b| b.is_ascii_digit()) => Some((host, Some(port.parse().ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_authority_become_one() {
        for (raw, scheme, want) in [
            ("example.com", Scheme::HTTPS, "example.com"),
            ("EXAMPLE.Com", Scheme::HTTPS, "example.com"),
            ("example.com.", Scheme::HTTPS, "example.com"),
            ("example.com:443", Scheme::HTTPS, "example.com"),
            ("example.com:80", Scheme::HTTP, "example.com"),
            ("example.com:80", Scheme::HTTPS, "example.com:80"),
            ("example.com:", Scheme::HTTPS, "example.com"),
            ("example.com.:8443", Scheme::HTTPS, "example.com:8443"),
            ("127.0.0.1:65535", Scheme::HTTPS, "127.0.0.1:65535"),
            ("[::1]", Scheme::HTTPS, "[::1]"),
            ("[::1]:0", Scheme::HTTPS, "[::1]:0"),
            ("[2001:DB8:0:0::0001]:00443", Scheme::HTTPS, "[2001:db8::1]"),
        ] {
            let got = Authority::parse(raw, &scheme).map(|a| a.as_str().to_owned());
            assert_eq!(got.as_deref(), Some(want), "{raw}");
        }
    }

    #[test]
    fn malformed_authorities_are_refused() {
        let long = "a".repeat(HOST_BYTES_MAX + 1);
        for raw in [
            "",
            ".",
            ":80",
            "user@example.com",
            "a b",
            "a/b",
            "a:b",
            "a:1:2",
            "a:+80",
            "a:65536",
            "[::1",
            "[::1]x",
            "[nonsense]",
            "[]",
            "exämple.com",
            "a,b",
            "a\\b",
            &long,
        ] {
            assert_eq!(Authority::parse(raw, &Scheme::HTTPS), None, "{raw:?}");
        }
    }

    #[test]
    fn host_leaves_the_port_out() {
        let authority = Authority::parse("[::1]:8443", &Scheme::HTTPS).unwrap();
        assert_eq!(
            (authority.host(), authority.as_str()),
            ("::1", "[::1]:8443")
        );
    }
}
