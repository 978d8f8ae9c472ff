//! A response's body on its way from an origin: pieces as they come, and an end that is only believed when the
//! framing said so. It holds what the exchange holds (the connection, the place among the origin's requests) until
//! the last byte, and times the origin only while somebody waits for a byte.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::lane::Lease;
use super::metrics::OriginMetrics;
use super::upload::Turn;
use crate::upstream::BodyError;

/// The body of one response.
pub(super) struct Download {
    incoming: Incoming,
    /// What the framing declared; `None` for chunked bodies and those that end with their connection or stream.
    declared: Option<u64>,
    got: u64,
    between_bytes: Duration,
    silence: Pin<Box<Sleep>>,
    /// Somebody is waiting, and `silence` is set for them.
    waiting: bool,
    held: Option<Held>,
    name: Arc<str>,
    metrics: OriginMetrics,
}

/// What an exchange holds until its body ends or is dropped.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) turn: Arc<Turn>,
    pub(super) place: OwnedSemaphorePermit,
}

impl Held {
    /// The exchange is complete: the connection may serve the next one, if the request was sent whole as well.
    pub(super) fn release(self) {
        if self.turn.finished() {
            self.lease.give_back();
        }
        drop(self.place);
    }
}

impl Download {
    pub(super) fn new(
        incoming: Incoming,
        held: Held,
        between_bytes: Duration,
        name: Arc<str>,
        metrics: OriginMetrics,
    ) -> Self {
        let declared = incoming.size_hint().exact();
        let silence = Box::pin(tokio::time::sleep(between_bytes));
        Self {
            incoming,
            declared,
            got: 0,
            between_bytes,
            silence,
            waiting: false,
            held: Some(held),
            name,
            metrics,
        }
    }

    /// Ends the body, well or not; nothing is read after this.
    fn end(&mut self, error: Option<BodyError>) -> Option<Result<Bytes, BodyError>> {
        let held = self.held.take();
        match error {
            None => {
                if let Some(held) = held {
                    held.release();
                }
                None
            }
            Some(error) => {
                self.metrics.broken_bodies.inc();
                Some(Err(error))
            }
        }
    }

    /// Whether hyper's end is the response's end.
    fn check_end(&self, http2: bool) -> Option<BodyError> {
        if let Some(declared) = self.declared
            && declared != self.got
        {
            return Some(BodyError::Length {
                got: self.got,
                declared,
            });
        }
        // hyper ends a body quietly when the stream is reset with NO_ERROR, which is how a server says "I have
        // answered, stop sending". Before END_STREAM it is a body cut short all the same.
        if http2 && !self.incoming.is_end_stream() {
            return Some(BodyError::Upstream(format!(
                "{}: the stream was reset before its end",
                self.name
            )));
        }
        None
    }
}

impl Stream for Download {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(held) = &this.held else {
            return Poll::Ready(None);
        };
        let http2 = held.lease.is_http2();
        loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.waiting = false;
                    // Trailers are not passed on: nothing here or behind relies on them.
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    if bytes.is_empty() {
                        continue;
                    }
                    this.got += bytes.len() as u64;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(Some(Err(error))) => {
                    let text = format!("{}: {}", this.name, super::exchange::describe(&error));
                    return Poll::Ready(this.end(Some(BodyError::Upstream(text))));
                }
                Poll::Ready(None) => {
                    let error = this.check_end(http2);
                    return Poll::Ready(this.end(error));
                }
                Poll::Pending => {}
            }
            if !this.waiting {
                this.waiting = true;
                this.silence
                    .as_mut()
                    .reset(Instant::now() + this.between_bytes);
            }
            if this.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let text = format!("{}: no byte for {:?}", this.name, this.between_bytes);
            return Poll::Ready(this.end(Some(BodyError::Timeout(text))));
        }
    }
}
