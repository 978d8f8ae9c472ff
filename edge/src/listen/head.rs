//! From a protocol library's request to a [`RequestHead`]: the target in its parts, the host settled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri, request};

use crate::service::{ConnectionInfo, RequestHead};

/// Assembles a head. `scheme` is the listener's; the one in the request is what a client likes to say.
pub(crate) fn request_head(
    parts: request::Parts,
    scheme: &Scheme,
    peer: SocketAddr,
    connection: &Arc<ConnectionInfo>,
    received: Instant,
) -> RequestHead {
    let request::Parts {
        method,
        uri,
        version,
        headers,
        ..
    } = parts;
    let (target, path_and_query) = split(uri);
    let authority = authority(target, &headers);
    RequestHead {
        method,
        scheme: scheme.clone(),
        authority,
        path_and_query,
        headers,
        version,
        peer,
        connection: connection.clone(),
        received,
    }
}

fn split(uri: Uri) -> (Option<Authority>, PathAndQuery) {
    let parts = uri.into_parts();
    (
        parts.authority,
        parts
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    )
}

/// The host the request is for: the target's own, else the one `Host`.
fn authority(target: Option<Authority>, headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
    //# A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a Host
    //# header field and to any request message that contains more than one Host header field line or a Host header
    //# field with an invalid field value.
    if second.is_some() {
        return None;
    }
    let host = match first {
        Some(value) => Some(value.to_str().ok()?.parse::<Authority>().ok()?),
        None => None,
    };
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    //# When an origin server receives a request with an absolute-form of request-target, the origin server MUST
    //# ignore the received Host header field (if any) and instead use the host information of the request-target.
    let authority = target.or(host)?;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.4
    //# Before making use of an "http" or "https" URI reference received from an untrusted source, a recipient SHOULD
    //# parse for userinfo and treat its presence as an error
    (!authority.host().is_empty() && !authority.as_str().contains('@')).then_some(authority)
}

/// The declared length of a body, or why it is none.
///
/// # Errors
/// If the field is repeated with another value, or not a number.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, InvalidLength> {
    let mut declared = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| InvalidLength)?;
        // One number repeated, in a list or in lines, may be taken as that number; anything else is invalid
        // (RFC 9110 8.6).
        for part in text.split(',') {
            let digits = part.trim_matches([' ', '\t']);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(InvalidLength);
            }
            let length = digits.parse().map_err(|_| InvalidLength)?;
            if declared.is_some_and(|earlier| earlier != length) {
                return Err(InvalidLength);
            }
            declared = Some(length);
        }
    }
    Ok(declared)
}

/// A `Content-Length` that says nothing usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("content-length is not one number")]
pub(crate) struct InvalidLength;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ListenerKind;
    use http::Request;

    fn head(uri: &str, hosts: &[&str]) -> RequestHead {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let local = SocketAddr::from(([127, 0, 0, 1], 443));
        let connection = ConnectionInfo {
            id: 1,
            local,
            listener: ListenerKind::Tls,
            server_name: None,
            opened: Instant::now(),
        };
        let (parts, ()) = request.body(()).unwrap().into_parts();
        request_head(
            parts,
            &Scheme::HTTPS,
            local,
            &Arc::new(connection),
            Instant::now(),
        )
    }

    #[test]
    fn the_target_wins_over_host_and_only_one_valid_host_counts() {
        for (uri, hosts, expected) in [
            (
                "/a?b",
                &["Example.test:8443"][..],
                Some("Example.test:8443"),
            ),
            (
                "https://target.test/a?b",
                &["other.test"],
                Some("target.test"),
            ),
            ("http://target.test/a?b", &[], Some("target.test")),
            ("/", &[], None),
            ("/", &["one.test", "two.test"], None),
            ("/", &["one.test", "one.test"], None),
            ("/", &["not valid"], None),
            ("/", &[""], None),
            ("/", &["user@host.test"], None),
            ("/", &["[::1]:8443"], Some("[::1]:8443")),
        ] {
            let head = head(uri, hosts);
            assert_eq!(
                head.authority.as_ref().map(Authority::as_str),
                expected,
                "{uri} {hosts:?}"
            );
            assert_eq!(head.scheme, Scheme::HTTPS);
        }
    }

    #[test]
    fn forms_without_a_path_get_one() {
        assert_eq!(head("*", &["a.test"]).path_and_query.as_str(), "*");
        assert_eq!(head("a.test:443", &[]).path_and_query.as_str(), "/");
        assert_eq!(
            head("/x?y=z", &["a.test"]).path_and_query.as_str(),
            "/x?y=z"
        );
    }

    #[test]
    fn content_length_is_one_number_or_an_error() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["42", "42"], Ok(Some(42))),
            (&["42, 42"], Ok(Some(42))),
            (&["42, 43"], Err(InvalidLength)),
            (&["+42"], Err(InvalidLength)),
            (&["-1"], Err(InvalidLength)),
            (&[""], Err(InvalidLength)),
            (&["4 2"], Err(InvalidLength)),
            (&["18446744073709551616"], Err(InvalidLength)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_LENGTH, value.parse().unwrap());
            }
            assert_eq!(content_length(&headers), expected, "{values:?}");
        }
    }
}
