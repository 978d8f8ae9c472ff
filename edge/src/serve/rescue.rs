//! Where errors become responses: the only place that chooses a status, in one exhaustive match.
//!
//! Only errors from before the head come here. After it the status is gone, and an error in the body resets
//! the stream instead, so that no client takes a short body for a whole one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use stoq_cache::engine::Failure;
use stoq_cache::http::cache_status::{self, CacheStatus, Details};
use stoq_cache::reply::{Overrides, Reply, ReplyBody, StoredHead};
use stoq_cache::upstream::{BodyError, UpstreamError};

/// Why this edge would not take a request: the client's fault, or a rule of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request says two things, or nothing.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// CONNECT or TRACE.
    #[error("method not served here")]
    Method,
    /// A protocol that this edge does not tunnel.
    #[error("upgrade to another protocol is not served")]
    Upgrade,
    /// `limits.header_bytes`.
    #[error("header fields of {got} bytes, the limit is {limit}")]
    HeadersTooLarge {
        /// Bytes of all fields, 32 for each added.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// `limits.body_bytes`, announced or counted.
    #[error("request body above the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The request has been here before.
    #[error("request loop: this server is already in cdn-loop")]
    Loop,
    /// No site has this host.
    #[error("no site here answers for this host")]
    UnknownSite,
    /// The site's bytes may not be where this node stands.
    #[error("this node stands outside the site's zones")]
    Elsewhere,
}

/// Why a request has no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was taken, and nobody could answer.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What a client is told.
struct Verdict {
    status: StatusCode,
    /// The `detail` of `Cache-Status`: a token, one for each reason.
    detail: &'static str,
    /// For people. Nothing of the upstream's own words, which may name machines of the inside.
    text: &'static str,
}

const fn verdict(status: StatusCode, detail: &'static str, text: &'static str) -> Verdict {
    Verdict {
        status,
        detail,
        text,
    }
}

/// Chooses. Each reason has its own detail, so that a client's report names what happened.
fn judge(trouble: &Trouble) -> Verdict {
    use StatusCode as S;
    match trouble {
        Trouble::Refused(refusal) => match refusal {
            Refusal::Malformed(text) => verdict(S::BAD_REQUEST, "malformed", text),
            Refusal::Method => verdict(
                S::METHOD_NOT_ALLOWED,
                "method-refused",
                "this method is not served here",
            ),
            Refusal::Upgrade => verdict(
                S::NOT_IMPLEMENTED,
                "upgrade",
                "upgrades to another protocol are not served",
            ),
            Refusal::HeadersTooLarge { .. } => verdict(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header-bytes",
                "the header fields are too large",
            ),
            Refusal::BodyTooLarge { .. } => {
                verdict(S::PAYLOAD_TOO_LARGE, "body-bytes", "the body is too large")
            }
            // RFC 8586 names no status for it.
            Refusal::Loop => verdict(
                S::LOOP_DETECTED,
                "loop",
                "this request has been here before",
            ),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20
            //# The 421 (Misdirected Request) status code indicates that the request was
            //# directed at a server that is unable or unwilling to produce an
            //# authoritative response for the target URI.
            Refusal::UnknownSite => verdict(
                S::MISDIRECTED_REQUEST,
                "unknown-site",
                "no site here answers for this host",
            ),
            Refusal::Elsewhere => verdict(
                S::MISDIRECTED_REQUEST,
                "outside-zones",
                "this host is not served from here",
            ),
        },
        Trouble::Failed(failure) => match failure {
            Failure::Upstream(error) => match error {
                //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.2
                //# The generated status code SHOULD be 504 (Gateway Timeout)
                //# unless another error status code is more applicable.
                UpstreamError::Unreachable(_) => verdict(
                    S::GATEWAY_TIMEOUT,
                    "upstream-unreachable",
                    "the origin cannot be reached",
                ),
                UpstreamError::Timeout(_) => verdict(
                    S::GATEWAY_TIMEOUT,
                    "upstream-timeout",
                    "the origin did not answer in time",
                ),
                UpstreamError::TooMany { .. } => verdict(
                    S::SERVICE_UNAVAILABLE,
                    "upstream-limit",
                    "too many requests wait for the origin",
                ),
                UpstreamError::Protocol(_) => verdict(
                    S::BAD_GATEWAY,
                    "upstream-protocol",
                    "the origin's answer is not valid HTTP",
                ),
                UpstreamError::Refused { .. } => verdict(
                    S::BAD_GATEWAY,
                    "upstream-refused",
                    "the next server refused",
                ),
                UpstreamError::ShieldDown(_) => verdict(
                    S::GATEWAY_TIMEOUT,
                    "shield-unreachable",
                    "no shield can be reached",
                ),
                UpstreamError::RequestBody(error) => match error {
                    BodyError::Timeout(_) => verdict(
                        S::REQUEST_TIMEOUT,
                        "client-stalled",
                        "the request's body stalled",
                    ),
                    BodyError::Shutdown => verdict(
                        S::SERVICE_UNAVAILABLE,
                        "shutdown",
                        "this server is going down",
                    ),
                    BodyError::Upstream(_)
                    | BodyError::Length { .. }
                    | BodyError::Corrupt(_)
                    | BodyError::Gone { .. }
                    | BodyError::Client(_) => verdict(
                        S::BAD_REQUEST,
                        "client-body",
                        "the request's body broke off",
                    ),
                },
                UpstreamError::Unsupported => verdict(
                    S::INTERNAL_SERVER_ERROR,
                    "unsupported",
                    "this server asked for what it cannot have",
                ),
            },
            Failure::Body(_) => verdict(
                S::BAD_GATEWAY,
                "stored-body",
                "the stored body could not be completed",
            ),
            //= https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.7
            //# respond with either a stored response consistent with the other
            //# constraints of the request or a 504 (Gateway Timeout) status code.
            Failure::OnlyIfCached => verdict(
                S::GATEWAY_TIMEOUT,
                "only-if-cached",
                "nothing is stored that may answer",
            ),
            Failure::Shutdown => verdict(
                S::SERVICE_UNAVAILABLE,
                "shutdown",
                "this server is going down",
            ),
            Failure::Abandoned { .. } => verdict(
                S::SERVICE_UNAVAILABLE,
                "abandoned",
                "the fetch was abandoned",
            ),
        },
    }
}

/// The reply to `trouble`, in the name of the cache `node`.
pub(crate) fn rescue(trouble: &Trouble, method: &Method, node: &str) -> Reply {
    let Verdict {
        status,
        detail,
        text,
    } = judge(trouble);
    let outcome = match trouble {
        // Nobody was asked.
        Trouble::Refused(_) | Trouble::Failed(Failure::OnlyIfCached) => CacheStatus::Refused,
        Trouble::Failed(_) => CacheStatus::Failed,
    };
    let body = format!("{} {text}\n", status.as_u16());

    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6
        //# The origin server MUST generate an Allow header field in a 405 response
        //# containing a list of the target resource's currently supported methods.
        headers.insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let mut overrides = Overrides::new();
    let details = Details {
        detail: Some(detail),
        ..Details::default()
    };
    if let Some(value) = cache_status::field(node, None, outcome, &details) {
        overrides.push((HeaderName::from_static("cache-status"), value));
    }
    Reply {
        head: Arc::new(StoredHead::new(status, headers)),
        status: None,
        overrides,
        removed: smallvec::SmallVec::new(),
        body: if *method == Method::HEAD {
            ReplyBody::Empty
        } else {
            ReplyBody::Bytes(Bytes::from(body))
        },
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Trouble, u16, &'static str)> {
        let refused = |refusal: Refusal| Trouble::Refused(refusal);
        let upstream = |error| Trouble::Failed(Failure::Upstream(error));
        let text = || "at 10.0.0.7:80".to_owned();
        vec![
            (
                refused(Refusal::Malformed("no host")),
                400,
                "edge-1; detail=malformed",
            ),
            (
                refused(Refusal::Method),
                405,
                "edge-1; detail=method-refused",
            ),
            (refused(Refusal::Upgrade), 501, "edge-1; detail=upgrade"),
            (
                refused(Refusal::HeadersTooLarge { got: 2, limit: 1 }),
                431,
                "edge-1; detail=header-bytes",
            ),
            (
                refused(Refusal::BodyTooLarge { limit: 1 }),
                413,
                "edge-1; detail=body-bytes",
            ),
            (refused(Refusal::Loop), 508, "edge-1; detail=loop"),
            (
                refused(Refusal::UnknownSite),
                421,
                "edge-1; detail=unknown-site",
            ),
            (
                refused(Refusal::Elsewhere),
                421,
                "edge-1; detail=outside-zones",
            ),
            (
                upstream(UpstreamError::Unreachable(text())),
                504,
                "edge-1; fwd=miss; detail=upstream-unreachable",
            ),
            (
                upstream(UpstreamError::Timeout(text())),
                504,
                "edge-1; fwd=miss; detail=upstream-timeout",
            ),
            (
                upstream(UpstreamError::TooMany { limit: 1 }),
                503,
                "edge-1; fwd=miss; detail=upstream-limit",
            ),
            (
                upstream(UpstreamError::Protocol(text())),
                502,
                "edge-1; fwd=miss; detail=upstream-protocol",
            ),
            (
                upstream(UpstreamError::Refused { reason: text() }),
                502,
                "edge-1; fwd=miss; detail=upstream-refused",
            ),
            (
                upstream(UpstreamError::ShieldDown(text())),
                504,
                "edge-1; fwd=miss; detail=shield-unreachable",
            ),
            (
                upstream(UpstreamError::RequestBody(BodyError::Client(text()))),
                400,
                "edge-1; fwd=miss; detail=client-body",
            ),
            (
                upstream(UpstreamError::RequestBody(BodyError::Timeout(text()))),
                408,
                "edge-1; fwd=miss; detail=client-stalled",
            ),
            (
                upstream(UpstreamError::Unsupported),
                500,
                "edge-1; fwd=miss; detail=unsupported",
            ),
            (
                Trouble::Failed(Failure::Body(BodyError::Client(text()))),
                502,
                "edge-1; fwd=miss; detail=stored-body",
            ),
            (
                Trouble::Failed(Failure::Shutdown),
                503,
                "edge-1; fwd=miss; detail=shutdown",
            ),
            (
                Trouble::Failed(Failure::OnlyIfCached),
                504,
                "edge-1; detail=only-if-cached",
            ),
            (
                Trouble::Failed(Failure::Abandoned { attempts: 3 }),
                503,
                "edge-1; fwd=miss; detail=abandoned",
            ),
        ]
    }

    #[test]
    fn each_trouble_has_its_status_and_says_why() {
        for (trouble, status, cache_status) in all() {
            let reply = rescue(&trouble, &Method::GET, "edge-1");
            assert_eq!(reply.status().as_u16(), status, "{trouble}");
            let headers = reply.to_headers();
            assert_eq!(headers["cache-status"], cache_status, "{trouble}");
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers.contains_key(ALLOW), status == 405);
            assert_eq!(headers.contains_key(RETRY_AFTER), status == 503);
        }
    }

    #[test]
    fn no_reply_repeats_what_the_inside_said() {
        for (trouble, ..) in all() {
            let ReplyBody::Bytes(body) = rescue(&trouble, &Method::GET, "edge-1").body else {
                panic!("{trouble}");
            };
            assert!(
                !String::from_utf8(body.to_vec())
                    .unwrap()
                    .contains("10.0.0.7"),
                "{trouble}"
            );
        }
    }

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let reply = rescue(&Trouble::Refused(Refusal::Loop), &Method::HEAD, "edge-1");
        assert!(matches!(reply.body, ReplyBody::Empty));
        assert_ne!(reply.to_headers()[CONTENT_LENGTH], "0");
    }
}
