//! Bodies between hyper and the service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use stoq_cache::upstream::BodyError;
use tokio::time::Sleep;

use super::connection::Underway;
use super::wire::Signals;
use crate::listen::exchange::Exchange;
use crate::listen::response::{BodyFailure, OutBody};
use crate::service::{End, Service};

/// A response's body on its way out, and its request's account.
pub(super) struct Sending<S: Service> {
    account: Exchange<S>,
    body: OutBody,
    /// HTTP/1.1: a failure must break the connection. HTTP/2 resets the stream.
    breaks: Option<Signals>,
    underway: Underway,
}

impl<S: Service> Sending<S> {
    pub(super) fn new(
        account: Exchange<S>,
        body: OutBody,
        breaks: Option<Signals>,
        mut underway: Underway,
    ) -> Self {
        underway.waits_for_us(false);
        Self {
            account,
            body,
            breaks,
            underway,
        }
    }
}

/// Nothing in it is pinned in place: the account is plain data, a stream within the body has a box of its own.
impl<S: Service> Unpin for Sending<S> {}

impl<S: Service> Body for Sending<S> {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = &mut *self;
        let polled = this.body.poll_piece(cx);
        this.underway.waits_for_us(polled.is_pending());
        Poll::Ready(match ready!(polled) {
            Some(Ok(bytes)) => {
                this.account.sent(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "response body failed; connection or stream broken");
                if let Some(signals) = &this.breaks {
                    signals.broken();
                }
                this.account.end(End::BodyFailed);
                Some(Err(error))
            }
            None => {
                this.account.end(End::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<S: Service> Drop for Sending<S> {
    fn drop(&mut self) {
        // hyper does not ask for an end it knows of.
        if self.body.is_done() || self.body.left() == Some(0) {
            self.account.end(End::Complete);
        } else if let Some(signals) = &self.breaks {
            signals.broken();
        }
    }
}

/// A request's body on its way in.
pub(super) struct Receiving {
    body: Option<Incoming>,
    stall: Option<Pin<Box<Sleep>>>,
    stall_timeout: Duration,
    signals: Signals,
    counted: Arc<AtomicU64>,
}

impl Receiving {
    pub(super) fn new(
        body: Incoming,
        stall_timeout: Duration,
        signals: Signals,
        counted: Arc<AtomicU64>,
    ) -> Self {
        Self {
            body: Some(body),
            stall: None,
            stall_timeout,
            signals,
            counted,
        }
    }
}

impl Stream for Receiving {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                let limit = this.stall_timeout;
                let stall = this
                    .stall
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                ready!(stall.as_mut().poll(cx));
                this.body = None;
                this.signals.unread();
                return Poll::Ready(Some(Err(BodyError::Client(format!(
                    "no byte for {limit:?}"
                )))));
            };
            this.stall = None;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => {
                        this.counted
                            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    // Trailers end a request as well as nothing does; they are not passed on.
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    this.body = None;
                    return Poll::Ready(Some(Err(BodyError::Client(error.to_string()))));
                }
                None => {
                    this.body = None;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if self.body.as_ref().is_some_and(|body| !body.is_end_stream()) {
            self.signals.unread();
        }
    }
}
