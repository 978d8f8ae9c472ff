//! One HTTP/3 connection: takes its request streams and answers them where it stands.
//!
//! A plain hit is answered before the HTTP/3 library hears of its stream (`express.rs`). Of the others,
//! each request's future is polled once on this task, in a box that is used again for the next. What is ready then, as a
//! hit is, costs no task, no timer and no allocation of its own; what is not moves, box and all, to a task that this
//! connection owns.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use h3::error::Code;
use stoq::h3::Payload;
use stoq::quic::Connection;
use tokio::task::{self, JoinSet};
use tokio_util::sync::ReusableBoxFuture;

use super::express::{Aside, Beside, Express};
use super::guard::Guarded;
use super::request::{self, Fate, Shared};
use crate::listen::Context;
use crate::listen::wait::at_most;
use crate::service::{ListenerKind, Service};

/// Requests answered here without letting the runtime's other tasks run: at 2–10 µs each, below half a millisecond.
const INLINE_BURST: u32 = 32;
/// Streams of one connection that came to nothing before their head was complete. The h3 library remembers the number of
/// each for the connection's life (16 B × 4,096 = 64 KiB), and no client has that many accidents.
const BAD_HEADS_MAX: u32 = 4096;
/// What a client sent before it heard of our going may still be under way for three round trips, within these limits.
const FAREWELL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

type H3 = h3::server::Connection<Guarded, Payload>;

/// Serves a connection to its end. `peer` is the client's address, which the handshake has proven.
pub(super) async fn run<S: Service>(
    context: Arc<Context<S>>,
    connection: Connection,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let info = context.connection(local, ListenerKind::Quic, connection.server_name());
    let limits = &context.limits;
    let mut builder = h3::server::builder();
    builder
        .max_field_section_size(limits.header_bytes.into())
        .send_grease(false);
    let shared = Arc::new(Shared {
        context: context.clone(),
        connection: connection.clone(),
        peer,
        info,
        task: task::try_id(),
    });
    let beside = Arc::new(Beside::default());
    let mut express = Express::new(shared.clone());
    let guarded = Guarded::new(
        connection.clone(),
        limits.header_bytes.into(),
        Box::new(move |cx, send, recv| express.take(cx, send, recv)),
        beside.clone(),
    );
    let Ok(Ok(mut h3)) = at_most(limits.handshake_timeout, builder.build(guarded)).await else {
        connection.close(Code::H3_INTERNAL_ERROR.value(), b"no control streams");
        return;
    };
    let mut requests = Requests {
        beside,
        tasks: JoinSet::new(),
        slot: None,
        bad_heads: 0,
    };
    requests.serve(&mut h3, &shared).await;
    requests.tasks.shutdown().await;
}

struct Requests {
    beside: Arc<Beside>,
    tasks: JoinSet<Fate>,
    /// The box of the last request that was ready at once.
    slot: Option<ReusableBoxFuture<'static, Fate>>,
    bad_heads: u32,
}

impl Requests {
    async fn serve<S: Service>(&mut self, h3: &mut H3, shared: &Arc<Shared<S>>) {
        let context = &shared.context;
        let concurrent_max = context.limits.requests_per_connection as usize;
        let mut farewell: Option<Instant> = None;
        let mut burst = 0;
        // Registered once, not at each turn of the loop.
        let mut begun = pin!(context.drain.begun());
        let mut ended = pin!(context.drain.ended());
        loop {
            let leave_at = farewell.filter(|_| self.tasks.is_empty());
            // Every branch may be cancelled: `accept` hands out a stream or has not taken one.
            tokio::select! {
                biased;
                () = &mut ended => {
                    shared.connection.close(Code::H3_NO_ERROR.value(), b"going away");
                    return;
                }
                () = &mut begun, if farewell.is_none() => {
                    //= https://www.rfc-editor.org/rfc/rfc9114#section-5.2
                    //# The GOAWAY frame contains an identifier that indicates to the receiver the range of requests
                    //# or pushes that were or might be processed in this connection.
                    // Requests that are under way to us are still taken, so none is lost and none done twice.
                    let unseen = self.beside.shut();
                    if h3.shutdown(concurrent_max + unseen).await.is_err() {
                        return;
                    }
                    let wait = (shared.connection.path().rtt * 3).clamp(FAREWELL.0, FAREWELL.1);
                    farewell = Some(Instant::now() + wait);
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if !self.settle(shared, done) {
                        return;
                    }
                }
                aside = poll_fn(|_| self.beside.pop().map_or(Poll::Pending, Poll::Ready)) => {
                    let going_on = match aside {
                        Aside::Answer(rest) => self.finish(rest, shared).await,
                        Aside::Ended(fate) => self.judge(shared, fate),
                    };
                    if !going_on {
                        return;
                    }
                }
                accepted = h3.accept(), if self.tasks.len() < concurrent_max => match accepted {
                    Ok(Some(resolver)) => {
                        let request = self.boxed(request::exchange(shared.clone(), resolver));
                        if !self.start(request, shared).await {
                            return;
                        }
                        burst += 1;
                        if burst >= INLINE_BURST {
                            burst = 0;
                            task::yield_now().await;
                        }
                    }
                    Ok(None) => {
                        // The client has said goodbye and its requests are done, but for those the library does not know.
                        while let Some(done) = self.tasks.join_next().await {
                            if !self.settle(shared, done) {
                                return;
                            }
                        }
                        shared.connection.close(Code::H3_NO_ERROR.value(), b"");
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(connection = shared.info.id, %error, "HTTP/3 connection ended");
                        return;
                    }
                },
                () = sleep_until(leave_at), if leave_at.is_some() => {
                    shared.connection.close(Code::H3_NO_ERROR.value(), b"going away");
                    return;
                }
            }
        }
    }

    /// Puts a request's future into the box. Apart from the poll, so that the future is never part of this connection's own.
    fn boxed<F>(&mut self, request: F) -> ReusableBoxFuture<'static, Fate>
    where
        F: Future<Output = Fate> + Send + 'static,
    {
        match self.slot.take() {
            Some(mut slot) => {
                slot.set(request);
                slot
            }
            None => ReusableBoxFuture::new(request),
        }
    }

    /// Polls a request once; moves it to a task if it is not done then. `false` if the connection must end.
    async fn start<S: Service>(
        &mut self,
        mut slot: ReusableBoxFuture<'static, Fate>,
        shared: &Arc<Shared<S>>,
    ) -> bool {
        match poll_fn(|cx| Poll::Ready(slot.poll(cx))).await {
            Poll::Ready(fate) => {
                self.slot = Some(slot);
                self.judge(shared, fate)
            }
            Poll::Pending => {
                self.tasks.spawn(slot);
                true
            }
        }
    }

    /// As [`start`](Self::start), for an answer that the short way began.
    async fn finish<S: Service>(
        &mut self,
        mut rest: BoxFuture<'static, Fate>,
        shared: &Arc<Shared<S>>,
    ) -> bool {
        match poll_fn(|cx| Poll::Ready(rest.as_mut().poll(cx))).await {
            Poll::Ready(fate) => self.judge(shared, fate),
            Poll::Pending => {
                self.tasks.spawn(rest);
                true
            }
        }
    }

    fn settle<S: Service>(
        &mut self,
        shared: &Shared<S>,
        ended: Result<Fate, task::JoinError>,
    ) -> bool {
        match ended {
            Ok(fate) => self.judge(shared, fate),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a request's task panicked; its stream is reset");
                }
                true
            }
        }
    }

    fn judge<S: Service>(&mut self, shared: &Shared<S>, fate: Fate) -> bool {
        match fate {
            Fate::Answered => true,
            Fate::BadHead if self.bad_heads < BAD_HEADS_MAX => {
                self.bad_heads += 1;
                true
            }
            Fate::BadHead => {
                shared.connection.close(
                    Code::H3_EXCESSIVE_LOAD.value(),
                    b"too many streams without a request",
                );
                false
            }
            Fate::FrameError => {
                shared.connection.close(
                    Code::H3_FRAME_ERROR.value(),
                    b"a stream ended inside a frame",
                );
                false
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
