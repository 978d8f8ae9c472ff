//! One request and its response head on one connection, and what a failure before the head means: whether the
//! request was ever sent, whether the connection died without a byte of an answer, or whether the answer is bad.

use std::error::Error;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;

use super::lane::{Lease, Sender};
use super::upload::{Turn, Upload};
use crate::upstream::{BodyError, BodyStream};

/// Why there is no response head.
pub(super) enum Lost {
    /// The connection was closed before it took the request, whose body comes back unread.
    Unsent(Option<BodyStream>),
    /// The connection died, or the origin refused the stream, before a byte of this answer.
    Died(String),
    /// The origin had its turn and did not answer.
    Timeout,
    /// Bytes came that are not an answer.
    Protocol(String),
    /// The client's body broke.
    RequestBody(BodyError),
}

/// Sends `request` and waits for the head. Dropping the future cancels the exchange: the HTTP/1.1 connection is
/// closed, the HTTP/2 stream reset.
pub(super) async fn exchange(
    lease: &mut Lease,
    request: Request<Upload>,
    turn: &Turn,
    limit: Duration,
) -> Result<Response<Incoming>, Lost> {
    let read_before = lease.read_bytes();
    let sent = match &mut lease.sender {
        Sender::Http1(sender) => {
            let answer = sender.try_send_request(request);
            tokio::select! {
                sent = answer => sent,
                () = turn.origin_stalls(limit) => return Err(Lost::Timeout),
            }
        }
        Sender::Http2(sender, _) => {
            let answer = sender.try_send_request(request);
            tokio::select! {
                sent = answer => sent,
                () = turn.origin_stalls(limit) => return Err(Lost::Timeout),
            }
        }
    };
    let mut failed = match sent {
        Ok(response) => return Ok(response),
        Err(failed) => failed,
    };
    if let Some(request) = failed.take_message() {
        return Err(Lost::Unsent(request.into_body().into_stream()));
    }
    if let Some(error) = turn.failure() {
        return Err(Lost::RequestBody(error));
    }
    let error = failed.into_error();
    let text = describe(&error);
    let died = match h2_error(&error) {
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.7
        //# The REFUSED_STREAM error code can be included in a RST_STREAM
        //# frame to indicate that the stream is being closed prior to any
        //# processing having occurred.
        Some(h2) => {
            h2.is_go_away() || h2.is_io() || h2.reason() == Some(h2::Reason::REFUSED_STREAM)
        }
        None if lease.is_http2() => error.is_closed() || error.is_canceled(),
        None => lease.read_bytes() == read_before,
    };
    Err(if died {
        Lost::Died(text)
    } else {
        Lost::Protocol(text)
    })
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        source = inner.source();
    }
    None
}

/// An error with its causes in one line; hyper says the general thing first and the reason only in the cause.
pub(super) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
