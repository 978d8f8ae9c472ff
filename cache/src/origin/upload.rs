//! A request's body on its way to an origin: what the client sends, pulled when the origin takes it. It keeps
//! account of whose turn it is, so that a slow client is not reported as a slow origin, and of how it ended, so that
//! a client that breaks off is not reported as a broken origin.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::upstream::{BodyError, BodyStream};

/// The body hyper pulls from.
pub(super) struct Upload {
    stream: Option<BodyStream>,
    turn: Arc<Turn>,
}

/// Who is being waited for in one exchange before the response head. Shared by the body and the one who waits.
pub(super) struct Turn(Mutex<TurnState>);

struct TurnState {
    waits_for_client: bool,
    since: Instant,
    finished: bool,
    failed: Option<BodyError>,
}

impl Upload {
    /// A body and the account kept of it. `None` is the empty body.
    pub(super) fn new(stream: Option<BodyStream>) -> (Self, Arc<Turn>) {
        let turn = Arc::new(Turn(Mutex::new(TurnState {
            waits_for_client: false,
            since: Instant::now(),
            finished: stream.is_none(),
            failed: None,
        })));
        (
            Self {
                stream,
                turn: Arc::clone(&turn),
            },
            turn,
        )
    }

    /// The client's stream, of a request that was handed back before anything was read from it.
    pub(super) fn into_stream(self) -> Option<BodyStream> {
        self.stream
    }
}

impl Turn {
    /// Resolves when the origin has had its turn for `limit` without the response head arriving.
    pub(super) async fn origin_stalls(&self, limit: Duration) {
        loop {
            let wake = {
                let state = self.0.lock();
                let now = Instant::now();
                if state.waits_for_client {
                    now + limit
                } else if now >= state.since + limit {
                    return;
                } else {
                    state.since + limit
                }
            };
            tokio::time::sleep_until(wake).await;
        }
    }

    /// Whether the whole body was taken by the connection.
    pub(super) fn finished(&self) -> bool {
        self.0.lock().finished
    }

    /// How the client's stream failed, if it did.
    pub(super) fn failure(&self) -> Option<BodyError> {
        self.0.lock().failed.clone()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        let polled = stream.as_mut().poll_next(cx);
        let mut state = this.turn.0.lock();
        state.waits_for_client = polled.is_pending();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(piece) => {
                state.since = Instant::now();
                match piece {
                    Some(Ok(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Err(error)) => {
                        state.failed = Some(error.clone());
                        this.stream = None;
                        Poll::Ready(Some(Err(error)))
                    }
                    None => {
                        state.finished = true;
                        this.stream = None;
                        Poll::Ready(None)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_none() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_the_client_takes_is_not_the_origins() {
        let limit = Duration::from_secs(1);
        let (mut upload, turn) = Upload::new(Some(stream::pending().boxed()));
        assert!(
            upload.frame().now_or_never().is_none(),
            "the client has sent nothing"
        );
        tokio::time::advance(limit * 5).await;
        assert!(turn.origin_stalls(limit).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn time_after_the_last_byte_is_the_origins() {
        let limit = Duration::from_secs(1);
        let (mut upload, turn) =
            Upload::new(Some(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed()));
        while upload.frame().await.is_some() {}
        assert!(turn.finished());
        let started = Instant::now();
        turn.origin_stalls(limit).await;
        assert_eq!(started.elapsed(), limit);
    }
}
