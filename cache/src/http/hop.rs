//! Hop-by-hop fields: what belongs to one connection and must not pass through a proxy, in either direction and
//! for every version of HTTP. HTTP/2 and HTTP/3 forbid them outright, and strict clients close the connection.

use http::{HeaderMap, HeaderName, header};

/// Fields that are always of one connection, named in `Connection` or not.
///
/// `Proxy-Authenticate` and `Proxy-Authorization` are here because we are no proxy that a client chose.
static ALWAYS: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
];

/// Removes every field of the connection: the fixed list and whatever `Connection` names.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
//# Intermediaries MUST parse a received Connection header field before a
//# message is forwarded and, for each connection-option in this field,
//# remove any header or trailer field(s) from the message with the same
//# name as the connection-option, and then remove the Connection header
//# field itself.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|option| HeaderName::from_bytes(option.trim().as_bytes()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &ALWAYS {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn fields_named_in_connection_go_with_it() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-One"));
        headers.append(
            "connection",
            HeaderValue::from_static("x-two ,, not a name"),
        );
        headers.append("x-one", HeaderValue::from_static("1"));
        headers.append("x-two", HeaderValue::from_static("2"));
        headers.append("x-kept", HeaderValue::from_static("3"));
        strip(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }

    #[test]
    fn the_fixed_list_goes_without_being_named() {
        let mut headers = HeaderMap::new();
        for name in &ALWAYS {
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append("via", HeaderValue::from_static("1.1 a"));
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
