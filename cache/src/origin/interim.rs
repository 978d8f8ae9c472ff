//! Interim responses of an origin on their way to the client that waits (RFC 9110 §15.2).
//!
//! hyper shows them for HTTP/1.1 only: those of an origin that speaks HTTP/2 are passed over. Nothing here is stored, and
//! nothing waits: who listens takes an interim response at once or goes without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{ALT_SVC, CONTENT_LENGTH};
use http::{HeaderMap, Request, StatusCode};

use crate::http::hop;
use crate::upstream::OnInterim;

/// Interim responses handed on for one exchange; the rest is passed over. An origin sends one or two.
const INTERIM_MAX: usize = 8;

/// Bytes of names and values of one that is handed on: 8 × 16 KiB = 128 KiB an exchange.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// Has hyper tell `listener` of the interim responses to `request`.
pub(super) fn listen<B>(request: &mut Request<B>, listener: &OnInterim) {
    let listener = Arc::clone(listener);
    let seen = AtomicUsize::new(0);
    hyper::ext::on_informational(request, move |response| {
        if let Some(headers) = forwarded(response.status(), response.headers())
            && seen.fetch_add(1, Ordering::Relaxed) < INTERIM_MAX
        {
            listener(response.status(), headers);
        }
    });
}

/// The fields of an interim response as they go on; `None` for one that ends here.
fn forwarded(status: StatusCode, headers: &HeaderMap) -> Option<HeaderMap> {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    //# A proxy MUST forward 1xx responses unless the proxy itself requested
    //# the generation of the 1xx response.
    // 100 is between neighbours, and the listeners send their own. 101 belongs to an Upgrade, and none is asked for.
    if !status.is_informational()
        || matches!(
            status,
            StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS
        )
    {
        return None;
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > INTERIM_BYTES_MAX {
        return None;
    }
    let mut headers = headers.clone();
    hop::strip(&mut headers);
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    //# A server MUST NOT send a Content-Length header field in any response
    //# with a status code of 1xx (Informational) or 204 (No Content).
    headers.remove(CONTENT_LENGTH);
    // The origin's word about the origin's ports.
    headers.remove(ALT_SVC);
    Some(headers)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn hints_and_unknown_interim_statuses_go_on_and_those_between_neighbours_end_here() {
        for (status, goes_on) in [
            (100, false),
            (101, false),
            (102, true),
            (103, true),
            (199, true),
            (200, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                forwarded(status, &HeaderMap::new()).is_some(),
                goes_on,
                "{status}"
            );
        }
    }

    #[test]
    fn an_interim_response_loses_what_is_of_the_connection() {
        let fields = map(&[
            ("link", "</a.css>; rel=preload"),
            ("connection", "x-near"),
            ("x-near", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("alt-svc", "clear"),
        ]);
        let left = forwarded(StatusCode::EARLY_HINTS, &fields).unwrap();
        assert_eq!(left, map(&[("link", "</a.css>; rel=preload")]));
    }

    #[test]
    fn an_interim_response_above_its_bound_ends_here() {
        let value = |len: usize| "v".repeat(len);
        let fits = map(&[("link", &value(INTERIM_BYTES_MAX - 4))]);
        let above = map(&[("link", &value(INTERIM_BYTES_MAX - 3))]);
        assert!(forwarded(StatusCode::EARLY_HINTS, &fits).is_some());
        assert!(forwarded(StatusCode::EARLY_HINTS, &above).is_none());
    }
}
