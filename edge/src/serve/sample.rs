//! Request heads for the steps' tests, written as a client would: `METHOD target version`, then fields.

use std::sync::Arc;
use std::time::Instant;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use crate::service::{ConnectionInfo, ListenerKind, RequestHead};

/// The head as a listener would hand it over; versions are `1.0`, `1.1`, `2` and `3`.
pub(crate) fn head(request: &str) -> RequestHead {
    let mut lines = request
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let [method, target, version] = lines.next().unwrap().split(' ').collect::<Vec<_>>()[..] else {
        panic!("{request}");
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(
            HeaderName::from_bytes(name.trim().as_bytes()).unwrap(),
            HeaderValue::from_str(value.trim()).unwrap(),
        );
    }
    let uri: Uri = target.parse().unwrap();
    let hosts: Vec<_> = headers.get_all("host").iter().collect();
    let host = match hosts[..] {
        [host] => Authority::try_from(host.as_bytes()).ok(),
        _ => None,
    };
    RequestHead {
        method: method.parse().unwrap(),
        scheme: Scheme::HTTPS,
        authority: uri.authority().cloned().or(host),
        path_and_query: uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/")),
        headers,
        version: match version {
            "1.0" => Version::HTTP_10,
            "1.1" => Version::HTTP_11,
            "2" => Version::HTTP_2,
            _ => Version::HTTP_3,
        },
        peer: "192.0.2.7:4000".parse().unwrap(),
        connection: Arc::new(ConnectionInfo {
            id: 1,
            local: "192.0.2.1:443".parse().unwrap(),
            listener: ListenerKind::Quic,
            server_name: None,
            opened: Instant::now(),
        }),
        received: Instant::now(),
    }
}
