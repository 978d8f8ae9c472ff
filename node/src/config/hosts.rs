//! Host names, host patterns and `host:port` as the file states them: lower case, no port, punycode, one spelling each.

use std::net::{IpAddr, Ipv6Addr};

use super::resolved::{HostPattern, NodeAddr};

/// The longest name DNS has.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// A name or an address in its one spelling, or what is wrong with it.
pub(super) fn host(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty (write a host name such as \"example.com\")".to_owned());
    }
    if text.contains("://") {
        return Err(format!("`{text}` is a URL (write the host alone)"));
    }
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = unbracketed {
        return inner
            .parse::<Ipv6Addr>()
            .map(|ip| ip.to_string())
            .map_err(|_| format!("`{text}` is no IPv6 address"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    if let Some((name, _port)) = text.rsplit_once(':') {
        return Err(format!("`{text}` has a port (write \"{name}\")"));
    }
    if !text.is_ascii() {
        return Err(format!(
            "`{text}` is not ASCII (write its punycode form, which starts with xn--)"
        ));
    }
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.is_empty() || name.len() > NAME_MAX || !name.split('.').all(label_is_good) {
        return Err(format!(
            "`{text}` is no host name (letters, digits, `-` and `.`, such as \"www.example.com\")"
        ));
    }
    if name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(format!(
            "`{text}` is neither an IPv4 address nor a host name"
        ));
    }
    Ok(name.to_owned())
}

/// `*`, `*.example.com`, or a host.
pub(super) fn pattern(text: &str) -> Result<HostPattern, String> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some(domain) = text.strip_prefix("*.") {
        return host(domain).map(HostPattern::Below);
    }
    if text.contains('*') {
        return Err(format!(
            "`{text}` has a `*` that is not its first label (write \"*\" or \"*.example.com\")"
        ));
    }
    host(text).map(HostPattern::Exact)
}

/// `host:port`, the port required.
pub(super) fn node_addr(text: &str) -> Result<NodeAddr, String> {
    let form = "write \"host:port\", such as \"shield.example.net:7443\" or \"[2001:db8::1]:7443\"";
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port ({form})"));
    };
    if name.contains(':') && !name.starts_with('[') {
        return Err(format!(
            "`{text}` is an IPv6 address without brackets ({form})"
        ));
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(NodeAddr {
            host: host(name)?,
            port,
        }),
        _ => Err(format!("`{text}` has no usable port ({form})")),
    }
}

/// A zone as nodes tell each other theirs.
pub(super) fn zone(text: &str) -> Result<String, String> {
    let plain = |byte: u8, dash: bool| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || (dash && byte == b'-')
    };
    let good = |part: &str, dash: bool| {
        (1..=32).contains(&part.len()) && part.bytes().all(|byte| plain(byte, dash))
    };
    match text.split_once('-') {
        Some((region, metro)) if good(region, false) && good(metro, true) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is no zone (write region-metro, such as \"eu-fra\": a to z, 0 to 9 and _, at most 32 each)"
        )),
    }
}

/// A network interface as the kernel names them.
pub(super) fn interface(text: &str) -> Result<String, String> {
    /// `IFNAMSIZ`, less the zero at its end.
    const NAME_BYTES_MAX: usize = 15;
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let plain = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(good);
    if plain && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no interface (write one that `ip link` lists, such as \"eth0\")"
    ))
}

/// A name with SRV records.
pub(super) fn srv(text: &str) -> Result<String, String> {
    let name = host(text)?;
    //= https://www.rfc-editor.org/rfc/rfc2782#page-3
    //# _Service._Proto.Name TTL Class SRV Priority Weight Port Target
    let mut labels = name.split('.');
    let begins = |label: Option<&str>| label.is_some_and(|label| label.starts_with('_'));
    if begins(labels.next()) && begins(labels.next()) && labels.next().is_some() {
        return Ok(name);
    }
    Err(format!(
        "`{text}` has no SRV records (write \"_stoq._udp.example.net\")"
    ))
}

/// Whether the text is an RFC 9110 token of at most 64 characters, so that it stands in header fields unquoted.
pub(super) fn token(text: &str) -> Result<String, String> {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
    //# token          = 1*tchar
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(tchar) {
        return Err(format!(
            "`{text}` is no name (1 to 64 letters, digits, `-`, `_` and `.`)"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, name) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::0:1]", "::1"),
            ("::1", "::1"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_acme.example.com", "_acme.example.com"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(name), "{text}");
        }
        for text in [
            "",
            "http://a",
            "a:80",
            "bücher.example",
            "a..b",
            "-a",
            "a b",
            "1.2.3",
            "300.1.1.1",
            "[1.2.3.4]",
            ".",
            "a/b",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_longer_pattern_is_more_specific() {
        let below = pattern("*.example.com").unwrap();
        assert!(below.matches("a.example.com") > pattern("*").unwrap().matches("a.example.com"));
        assert!(below.matches("a.b.example.com").is_some());
        assert_eq!(below.matches("example.com"), None);
        assert_eq!(below.matches("notexample.com"), None);
        assert_eq!(below.matches(".example.com"), None);
        assert!(
            pattern("a.example.com").unwrap().matches("a.example.com")
                > below.matches("a.example.com")
        );
        assert!(pattern("a.*.com").is_err());
        assert!(pattern("*a.com").is_err());
    }

    #[test]
    fn a_zone_is_a_region_and_a_metro() {
        for text in ["eu-fra", "us-east-nyc", "a_1-b"] {
            assert_eq!(zone(text).as_deref(), Ok(text));
        }
        for text in ["", "eu", "eu-", "-fra", "EU-FRA", "eu-fr\u{e4}", "e u-f"] {
            assert!(zone(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_srv_name_has_a_service_and_a_protocol() {
        assert!(srv("_stoq._udp.example.net").is_ok());
        for text in [
            "example.net",
            "_stoq.example.net",
            "_stoq._udp",
            "_stoq._udp.a:1",
        ] {
            assert!(srv(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_address_needs_its_port() {
        assert_eq!(
            node_addr("Shield.Example:7443").unwrap().to_string(),
            "shield.example:7443"
        );
        assert_eq!(node_addr("[::1]:7443").unwrap().to_string(), "[::1]:7443");
        for text in ["shield", "::1:7443", "a:0", "a:x", ":1"] {
            assert!(node_addr(text).is_err(), "{text}");
        }
    }
}
