//! Step one: is this a request we answer at all? Pure, bounded by the size of the head, and the same for
//! both entrances.
//!
//! What is refused here never reaches a site's policy, the cache or an origin: a head over its bound, a
//! request without one clear authority, methods that ask for a tunnel, fields that HTTP/2 and HTTP/3
//! forbid, a body announced above the limit, and a request that has been here before.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Method, Version};

use super::authority::Authority;
use super::cdn_loop::{CDN_LOOP, CdnId};
use super::rescue::Refusal;
use crate::service::RequestView;

/// Bytes that each header field counts beyond its name and value, as HTTP/2 and HTTP/3 count them.
const FIELD_OVERHEAD_BYTES: usize = 32;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What `admit` measures a request against.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Sum over all header fields of name, value and 32; above it 431.
    pub(crate) header_bytes: usize,
    /// Largest announced body; above it 413. Bodies without an announced length are counted as they pass.
    pub(crate) body_bytes: u64,
    /// Our own mark in `CDN-Loop`.
    pub(crate) cdn_id: CdnId,
}

/// An admitted request: what the next steps need and the head does not say directly.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    /// Who is asked, canonical.
    pub(crate) authority: Authority,
    /// Path and query as sent; `/` where the client sent none.
    pub(crate) path_and_query: &'a str,
    /// GET or HEAD without a body of its own: the cache may answer. Everything else passes through.
    pub(crate) cacheable: bool,
}

/// Decides. The order is from cheap to dear, and from what makes the rest meaningless to what does not.
pub(crate) fn admit<'a>(head: &RequestView<'a>, bounds: &Bounds) -> Result<Admitted<'a>, Refusal> {
    let (mut header_bytes, mut plain) = (0_usize, true);
    for (name, value) in head.headers {
        header_bytes =
            header_bytes.saturating_add(name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES);
        plain &= !is_judged(name);
    }
    if header_bytes > bounds.header_bytes {
        return Err(Refusal::HeadersTooLarge {
            got: header_bytes,
            limit: bounds.header_bytes,
        });
    }
    let cacheable = method(head.method)?;
    // Most requests have nothing else to judge, which their names tell in the one pass above.
    if plain {
        return Ok(Admitted {
            authority: authority(head, head.scheme)?,
            path_and_query: head.path_and_query.as_str(),
            cacheable,
        });
    }
    if head.version >= Version::HTTP_2 {
        connection_specific(head.headers)?;
    } else {
        upgrade(head.headers)?;
    }
    let authority = authority(head, head.scheme)?;
    let body_bytes = content_length(head.headers)?;
    if body_bytes.is_some_and(|bytes| bytes > bounds.body_bytes) {
        return Err(Refusal::BodyTooLarge {
            limit: bounds.body_bytes,
        });
    }
    // A GET with a body is an odd but legal thing, and no cache may answer it by its URL alone.
    let bodiless =
        body_bytes.is_none_or(|bytes| bytes == 0) && !head.headers.contains_key(TRANSFER_ENCODING);
    if bounds.cdn_id.seen_in(head.headers) {
        return Err(Refusal::Loop);
    }
    let path_and_query = head.path_and_query.as_str();
    Ok(Admitted {
        authority,
        path_and_query,
        cacheable: cacheable && bodiless,
    })
}

/// Whether a field is one that [`admit`] looks at, besides `Host`.
fn is_judged(name: &HeaderName) -> bool {
    static JUDGED: [HeaderName; 8] = [
        CONNECTION,
        CONTENT_LENGTH,
        CDN_LOOP,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    // Most names are told apart by their first letter.
    let first = name.as_str().as_bytes().first();
    matches!(first, Some(b'c' | b'k' | b'p' | b't' | b'u')) && JUDGED.contains(name)
}

fn method(method: &Method) -> Result<bool, Refusal> {
    match *method {
        Method::GET | Method::HEAD => Ok(true),
        // A tunnel would carry what nobody here can check; TRACE would show clients the fields that
        // we add for the origin.
        Method::CONNECT | Method::TRACE => Err(Refusal::Method),
        _ => Ok(false),
    }
}

fn connection_specific(headers: &HeaderMap) -> Result<(), Refusal> {
    //= https://www.rfc-editor.org/rfc/rfc9114#section-4.2
    //# An endpoint MUST NOT generate an HTTP/3 field section containing
    //# connection-specific fields; any message containing connection-specific
    //# fields MUST be treated as malformed.
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        if headers.contains_key(name) {
            return Err(Refusal::Malformed(
                "connection-specific field in HTTP/2 or HTTP/3",
            ));
        }
    }
    //= https://www.rfc-editor.org/rfc/rfc9114#section-4.2
    //# The only exception to this is the TE header field, which MAY be present
    //# in an HTTP/3 request header; when it is, it MUST NOT contain any value
    //# other than "trailers".
    if headers
        .get_all(TE)
        .iter()
        .any(|te| !te.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers"))
    {
        return Err(Refusal::Malformed("te other than trailers"));
    }
    Ok(())
}

fn upgrade(headers: &HeaderMap) -> Result<(), Refusal> {
    for line in headers.get_all(UPGRADE) {
        for protocol in line.as_bytes().split(|byte| *byte == b',') {
            let name = protocol.trim_ascii();
            //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
            //# A server MAY ignore a received Upgrade header field if it wishes to
            //# continue using the current protocol on that connection.
            // Another HTTP or TLS on the same connection is such an offer; any other protocol is what
            // the client came for.
            let offer = name.is_empty()
                || name.eq_ignore_ascii_case(b"h2c")
                || name.len() >= 4
                    && (name[..4].eq_ignore_ascii_case(b"TLS/")
                        || name[..4].eq_ignore_ascii_case(b"HTTP"));
            if !offer {
                return Err(Refusal::Upgrade);
            }
        }
    }
    Ok(())
}

fn authority(head: &RequestView<'_>, scheme: &Scheme) -> Result<Authority, Refusal> {
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
    //# A server MUST respond with a 400 (Bad Request) status code to any
    //# HTTP/1.1 request message that lacks a Host header field and to any
    //# request message that contains more than one Host header field line or a
    //# Host header field with an invalid field value.
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Malformed("more than one host field"));
    }
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(Refusal::Malformed("no host field"));
    }
    let Some(target) = head.authority else {
        return Err(Refusal::Malformed("no valid authority"));
    };
    let target = Authority::parse(target.as_str(), scheme)
        .ok_or(Refusal::Malformed("authority is no host and port"))?;
    //= https://www.rfc-editor.org/rfc/rfc9114#section-4.3.1
    //# If these fields are present, they MUST NOT be empty. If both fields are
    //# present, they MUST contain the same value.
    // In HTTP/1.1 the absolute form simply wins over Host (RFC 9112 section 3.2.2).
    if head.version >= Version::HTTP_2
        && let Some(host) = host
        && host
            .to_str()
            .ok()
            .and_then(|host| Authority::parse(host, scheme))
            .as_ref()
            != Some(&target)
    {
        return Err(Refusal::Malformed(":authority and host differ"));
    }
    Ok(target)
}

/// The announced body length; `None` when none is announced.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        let value = line
            .to_str()
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or(Refusal::Malformed("content-length is no length"))?;
        if length.is_some_and(|earlier| earlier != value) {
            return Err(Refusal::Malformed(
                "content-length given twice, differently",
            ));
        }
        length = Some(value);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            header_bytes: 1000,
            body_bytes: 100,
            cdn_id: CdnId::new("own").unwrap(),
        }
    }

    fn decide(request: &str) -> Result<String, Refusal> {
        admit(&sample::head(request).view(), &bounds()).map(|a| {
            format!(
                "{} {} {}",
                a.authority.as_str(),
                a.path_and_query,
                a.cacheable
            )
        })
    }

    #[test]
    fn ordinary_requests_are_admitted() {
        for (request, want) in [
            ("GET /a?b 1.1\nhost: X.test", "x.test /a?b true"),
            ("HEAD / 1.1\nhost: x.test:443", "x.test / true"),
            ("GET http://a.test/p 1.1\nhost: b.test", "a.test /p true"),
            ("GET https://x.test 3", "x.test / true"),
            ("GET https://x.test/ 2\nhost: X.TEST:443", "x.test / true"),
            ("GET / 3\nhost: x.test", "x.test / true"),
            ("GET / 1.0\nhost: x.test", "x.test / true"),
            (
                "POST /f 1.1\nhost: x.test\ncontent-length: 100",
                "x.test /f false",
            ),
            (
                "GET / 1.1\nhost: x.test\ncontent-length: 0",
                "x.test / true",
            ),
            (
                "GET / 1.1\nhost: x.test\ncontent-length: 1",
                "x.test / false",
            ),
            (
                "GET / 1.1\nhost: x.test\ntransfer-encoding: chunked",
                "x.test / false",
            ),
            ("PURGE /f 1.1\nhost: x.test", "x.test /f false"),
            ("OPTIONS * 1.1\nhost: x.test", "x.test * false"),
            (
                "GET / 1.1\nhost: x.test\nconnection: upgrade\nupgrade: h2c",
                "x.test / true",
            ),
            (
                "GET / 1.1\nhost: x.test\nupgrade: TLS/1.0, HTTP/2.0",
                "x.test / true",
            ),
            ("GET https://x.test/ 3\nte: trailers", "x.test / true"),
            (
                "GET / 1.1\nhost: x.test\ncdn-loop: someone",
                "x.test / true",
            ),
        ] {
            assert_eq!(decide(request).as_deref(), Ok(want), "{request}");
        }
    }

    #[test]
    fn requests_that_mean_two_things_are_malformed() {
        for request in [
            "GET / 1.1",
            "GET / 1.0",
            "GET / 3",
            "GET / 1.1\nhost: a.test\nhost: a.test",
            "GET / 1.1\nhost: a b",
            "GET http://a.test/ 1.1",
            "GET https://a.test/ 2\nhost: b.test",
            "GET https://a.test/ 3\nhost: a.test:8443",
            "GET https://a.test/ 3\nconnection: close",
            "GET https://a.test/ 3\ntransfer-encoding: chunked",
            "GET https://a.test/ 2\nkeep-alive: 5",
            "GET https://a.test/ 3\nte: gzip",
            "POST / 1.1\nhost: a.test\ncontent-length: +5",
            "POST / 1.1\nhost: a.test\ncontent-length: 5\ncontent-length: 6",
            "POST / 1.1\nhost: a.test\ncontent-length: 99999999999999999999",
        ] {
            assert!(
                matches!(decide(request), Err(Refusal::Malformed(_))),
                "{request}"
            );
        }
    }

    #[test]
    fn each_bound_has_its_own_refusal() {
        assert!(matches!(
            decide("CONNECT a.test:443 1.1\nhost: a.test"),
            Err(Refusal::Method)
        ));
        assert!(matches!(
            decide("TRACE / 1.1\nhost: a.test"),
            Err(Refusal::Method)
        ));
        assert!(matches!(
            decide("GET / 1.1\nhost: a.test\nupgrade: websocket"),
            Err(Refusal::Upgrade)
        ));
        assert!(matches!(
            decide("POST / 1.1\nhost: a.test\ncontent-length: 101"),
            Err(Refusal::BodyTooLarge { limit: 100 })
        ));
        assert!(matches!(
            decide("GET / 1.1\nhost: a.test\ncdn-loop: x, own"),
            Err(Refusal::Loop)
        ));
        let long = format!("GET / 1.1\nhost: a.test\nx: {}", "v".repeat(1000 - 40 - 33));
        assert!(
            matches!(
                decide(&long),
                Err(Refusal::HeadersTooLarge { limit: 1000, .. })
            ),
            "{:?}",
            decide(&long)
        );
        let fits = format!("GET / 1.1\nhost: a.test\nx: {}", "v".repeat(1000 - 42 - 33));
        assert!(decide(&fits).is_ok());
    }
}
