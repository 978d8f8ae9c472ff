//! What the origin sees: the client's end-to-end fields, and ours about where they came from.
//!
//! Invariant: a field that names the client or its host says what this edge saw, or what a proxy named
//! in `limits.trusted_proxies` said; nothing that an untrusted client wrote about itself passes.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, EXPECT, FORWARDED, HOST, TE, VIA};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use ipnet::IpNet;
use stoq_cache::http::hop;
use stoq_cache::http::redirection::REDIRECTIONS;

use super::authority::Authority;
use super::cdn_loop::{CDN_LOOP, CdnId};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Other names under which origins believe what a client says of itself, or of the host, scheme, port or prefix it asked for. Only a
/// trusted proxy may say them: an origin that writes one into a link would have it served to everyone.
static CLAIMS: [HeaderName; 17] = [
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-originating-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("x-forwarded"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("front-end-https"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-original-host"),
];

/// The other fields that leave with another value than they came with, or not at all, besides `Host`, `TE` and `Expect`.
static REWRITTEN: [HeaderName; 7] = [
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    FORWARDED,
    VIA,
    CDN_LOOP,
    CONNECTION,
];

/// Whether the origin would see something else under a name that the client sent.
///
/// What is stored may vary by any field, as the origin saw it. So a client's own word must not select among it: who sends
/// `X-Forwarded-For: 192.0.2.7` would be given what was made for that address.
pub(crate) fn rewrites(client: &HeaderMap) -> bool {
    client.keys().any(|name| {
        // Most names of most requests are told apart by their first letter.
        let first = name.as_str().as_bytes().first();
        matches!(first, Some(b'x' | b'v' | b'f' | b'c' | b't'))
            && (REWRITTEN.contains(name) || CLAIMS.contains(name) || REDIRECTIONS.contains(name))
    })
}

/// Who forwards, and whom it believes.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder {
    /// Networks whose word about the client counts; empty by default.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Our name in `Via`: `node.name`, a token.
    pub(crate) pseudonym: String,
    /// Our mark in `CDN-Loop`.
    pub(crate) cdn_id: CdnId,
}

/// What the connection knows about the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) version: Version,
    pub(crate) scheme: &'a Scheme,
    pub(crate) authority: &'a Authority,
    /// Whether the answer may be served to others, by the URL alone.
    pub(crate) cacheable: bool,
}

impl Forwarder {
    /// The request's fields as they leave for the origin. Costs one copy of the map; only misses and
    /// passed requests pay it.
    pub(crate) fn headers(&self, client: &HeaderMap, received: Received<'_>) -> HeaderMap {
        let mut headers = client.clone();
        hop::strip(&mut headers);
        // The upstream's client writes its own Host; body trailers and 100-continue end at this hop.
        headers.remove(HOST);
        headers.remove(TE);
        headers.remove(EXPECT);

        let from = received.from.ip().to_canonical();
        if !self.trusts(from) {
            for name in [
                X_FORWARDED_FOR,
                X_FORWARDED_PROTO,
                X_FORWARDED_HOST,
                FORWARDED,
            ]
            .iter()
            .chain(&CLAIMS)
            {
                headers.remove(name);
            }
        }
        if received.cacheable {
            // A trusted proxy's neither: no key holds them.
            for name in &REDIRECTIONS {
                headers.remove(name);
            }
        }
        self.say_forwarded(&mut headers, from, received);
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3
        //# A proxy MUST send an appropriate Via header field, as described below,
        //# in each message that it forwards.
        if let Ok(value) = HeaderValue::try_from(format!(
            "{} {}",
            via_version(received.version),
            self.pseudonym
        )) {
            headers.append(VIA, value);
        }
        self.cdn_id.append_to(&mut headers);
        headers
    }

    /// True when `from` may speak for the client behind it.
    pub(crate) fn trusts(&self, from: IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&from))
    }

    fn say_forwarded(&self, headers: &mut HeaderMap, from: IpAddr, received: Received<'_>) {
        join(headers, &X_FORWARDED_FOR, &from.to_string());
        let scheme = received.scheme.as_str();
        let host = received.authority.as_str();
        // Proto and host tell what the first client used, so a trusted proxy's word stands.
        for (name, value) in [(X_FORWARDED_PROTO, scheme), (X_FORWARDED_HOST, host)] {
            if !headers.contains_key(&name)
                && let Ok(value) = HeaderValue::from_str(value)
            {
                headers.insert(name, value);
            }
        }
        //= https://www.rfc-editor.org/rfc/rfc7239#section-6
        //# Note that an IPv6 address is always enclosed in square brackets.
        let mut element = String::with_capacity(96);
        let written = match from {
            IpAddr::V4(v4) => write!(element, "for={v4}"),
            IpAddr::V6(v6) => write!(element, "for=\"[{v6}]\""),
        }
        .and_then(|()| write!(element, ";host=\"{host}\";proto={scheme}"));
        if written.is_ok() {
            join(headers, &FORWARDED, &element);
        }
    }
}

/// Adds `member` at the end of the list field `name`, as one line.
fn join(headers: &mut HeaderMap, name: &HeaderName, member: &str) {
    let mut line = Vec::with_capacity(member.len());
    for earlier in headers.get_all(name) {
        line.extend_from_slice(earlier.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(member.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        headers.insert(name.clone(), value);
    }
}

fn via_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_3 => "3.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(client: &[(&str, &str)], from: &str) -> HeaderMap {
        forward_as(client, from, true)
    }

    fn forward_as(client: &[(&str, &str)], from: &str, cacheable: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in client {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let forwarder = Forwarder {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            pseudonym: "edge-1".to_owned(),
            cdn_id: CdnId::new("own").unwrap(),
        };
        let authority = Authority::parse("a.test:8443", &Scheme::HTTPS).unwrap();
        forwarder.headers(
            &headers,
            Received {
                from: from.parse().unwrap(),
                version: Version::HTTP_3,
                scheme: &Scheme::HTTPS,
                authority: &authority,
                cacheable,
            },
        )
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_strangers_word_about_itself_is_replaced() {
        let headers = forward(
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "evil.test"),
                ("forwarded", "for=1.1.1.1"),
                ("x-real-ip", "1.1.1.1"),
                ("x-forwarded-port", "1"),
                ("accept", "*/*"),
            ],
            "192.0.2.7:4000",
        );
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["a.test:8443"]);
        assert_eq!(
            all(&headers, "forwarded"),
            ["for=192.0.2.7;host=\"a.test:8443\";proto=https"]
        );
        assert_eq!(all(&headers, "via"), ["3.0 edge-1"]);
        assert_eq!(all(&headers, "accept"), ["*/*"]);
        assert!(
            all(&headers, "x-real-ip").is_empty() && all(&headers, "x-forwarded-port").is_empty()
        );
        assert_eq!(all(&headers, "cdn-loop"), ["own"]);
    }

    #[test]
    fn a_trusted_proxys_word_stands_and_is_continued() {
        let headers = forward(
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-for", "2.2.2.2"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "www.test"),
                ("forwarded", "for=1.1.1.1"),
                ("via", "1.1 front"),
                ("cdn-loop", "other"),
            ],
            "[::ffff:10.1.2.3]:4000",
        );
        assert_eq!(
            all(&headers, "x-forwarded-for"),
            ["1.1.1.1, 2.2.2.2, 10.1.2.3"]
        );
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["www.test"]);
        assert_eq!(
            all(&headers, "forwarded"),
            ["for=1.1.1.1, for=10.1.2.3;host=\"a.test:8443\";proto=https"]
        );
        assert_eq!(all(&headers, "via"), ["1.1 front", "3.0 edge-1"]);
        assert_eq!(all(&headers, "cdn-loop"), ["other", "own"]);
    }

    #[test]
    fn hop_by_hop_fields_and_what_connection_names_stay_here() {
        let headers = forward(
            &[
                ("connection", "close, X-Private"),
                ("x-private", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("expect", "100-continue"),
                ("host", "a.test"),
                ("x-public", "1"),
            ],
            "192.0.2.7:1",
        );
        for gone in [
            "connection",
            "x-private",
            "keep-alive",
            "te",
            "transfer-encoding",
            "upgrade",
            "expect",
            "host",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert!(headers.contains_key("x-public"));
    }

    #[test]
    fn what_no_key_holds_reaches_no_origin_beside_an_answer_for_others() {
        let url: Vec<_> = REDIRECTIONS
            .iter()
            .map(|name| (name.as_str(), "/admin"))
            .collect();
        for from in ["192.0.2.7:1", "10.1.2.3:1"] {
            let shared = forward_as(&url, from, true);
            let own = forward_as(&url, from, false);
            for name in &REDIRECTIONS {
                assert!(!shared.contains_key(name), "{name} from {from}");
                assert_eq!(all(&own, name.as_str()), ["/admin"], "{name} from {from}");
            }
        }
        let claims: Vec<_> = CLAIMS.iter().map(|name| (name.as_str(), "x")).collect();
        let (stranger, trusted) = (
            forward(&claims, "192.0.2.7:1"),
            forward(&claims, "10.1.2.3:1"),
        );
        for name in &CLAIMS {
            assert!(
                !stranger.contains_key(name) && trusted.contains_key(name),
                "{name}"
            );
        }
    }

    #[test]
    fn early_data_that_a_client_in_front_declares_goes_on() {
        // The origin decides then between an answer and a 425 (RFC 8470 section 5.1).
        let headers = forward(&[("early-data", "1")], "192.0.2.7:1");
        assert_eq!(all(&headers, "early-data"), ["1"]);
    }

    #[test]
    fn what_leaves_changed_is_known_as_rewritten() {
        let odd = [
            "x-forwarded-for",
            "x-real-ip",
            "forwarded",
            "via",
            "cdn-loop",
            "connection",
            "true-client-ip",
            "front-end-https",
            "x-original-url",
        ];
        for name in odd {
            let client = HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static("x"),
            )]);
            assert!(rewrites(&client), "{name}");
        }
        let names = [
            "accept",
            "x-custom",
            "cookie",
            "cache-control",
            "user-agent",
            "te",
        ];
        let plain =
            names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")));
        assert!(!rewrites(&HeaderMap::from_iter(plain)));
    }

    #[test]
    fn an_ipv6_client_is_quoted_and_bracketed() {
        let headers = forward(&[], "[2001:db8::1]:9");
        assert_eq!(
            all(&headers, "forwarded"),
            ["for=\"[2001:db8::1]\";host=\"a.test:8443\";proto=https"]
        );
        assert_eq!(all(&headers, "x-forwarded-for"), ["2001:db8::1"]);
    }
}
