//! One connection, served: its requests handed to the handler, each on a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::counters::PeerCounters;
use super::error::ExchangeError;
use super::exchange::{RecvHalf, SendHalf, Shared};
use super::frames::{FrameReader, FrameWriter};
use super::greet::{Greeted, PeerInfo, close};
use super::handler::{Handler, IncomingRequest};
use super::witness::Report;
use crate::identity::Identity;
use crate::transport::{BiStream, ConnectionError, Link, RecvStream, SendStream, WriteError};
use crate::wire::{CloseCode, Frame, StreamCode};

/// What the requests of one connection have in common.
pub(super) struct Served {
    pub(super) conn: Arc<dyn Link>,
    pub(super) info: PeerInfo,
    pub(super) identity: Identity,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) counters: Arc<PeerCounters>,
    pub(super) request_timeout: Duration,
}

/// What a drain needs to know: when its grace is over.
pub(super) type DrainWatch = watch::Receiver<Option<Instant>>;

/// Serves a connection until it ends, or until a drain's grace does. When it returns no handler of it is running.
pub(super) async fn serve(
    served: Arc<Served>,
    control: Control,
    exchanges: usize,
    mut drain: DrainWatch,
) {
    let Control {
        mut input,
        mut output,
    } = control;
    let places = Arc::new(Semaphore::new(exchanges.max(1)));
    let mut requests = JoinSet::new();
    let mut grace: Option<Instant> = *drain.borrow_and_update();
    if grace.is_some() {
        say_goodbye(&mut output, grace).await;
    }
    loop {
        // Every branch may be cancelled: what has arrived stays in the connection, the reader or the set.
        tokio::select! {
            next = next_stream(&*served.conn, &places) => match next {
                Ok((place, (send, recv))) => {
                    let served = served.clone();
                    requests.spawn(async move { served.request(send, recv, place).await });
                }
                Err(_) => break,
            },
            heard = input.next() => match heard {
                Ok(Some(Frame::GoAway { .. })) => {} // It will close when its exchanges are done.
                Err(ExchangeError::Connection(_)) => break,
                Ok(_) | Err(_) => {
                    served.counters.closed_protocol.inc();
                    close(&*served.conn, CloseCode::Protocol, "control stream");
                    break;
                }
            },
            Some(ended) = requests.join_next() => count_panic(&served.counters, &ended),
            // A dropped sender means the server is gone without a drain; its owner drops this future too.
            Ok(()) = drain.changed(), if grace.is_none() => {
                grace = *drain.borrow_and_update();
                say_goodbye(&mut output, grace).await;
            }
            () = sleep_until(grace.unwrap_or_else(Instant::now)), if grace.is_some() => {
                served.counters.closed_at_drain_end.inc();
                close(&*served.conn, CloseCode::Drained, "");
                break;
            }
        }
    }
    requests.abort_all();
    while let Some(ended) = requests.join_next().await {
        count_panic(&served.counters, &ended);
    }
}

/// The control stream of a connection.
pub(super) struct Control {
    input: FrameReader,
    output: FrameWriter,
}

impl Control {
    pub(super) fn split(greeted: Greeted) -> (PeerInfo, Self) {
        (
            greeted.info,
            Self {
                input: greeted.control_in,
                output: greeted.control_out,
            },
        )
    }
}

/// The peer closes when it has heard this and its exchanges are done; one that does not is cut off at the end.
async fn say_goodbye(output: &mut FrameWriter, grace: Option<Instant>) {
    let grace = grace.map_or(Duration::ZERO, |end| {
        end.saturating_duration_since(Instant::now())
    });
    // A dozen bytes fit the window of a stream that carried one hello. Should the peer's window be shut all the
    // same, the end of the grace closes the connection.
    let _ = timeout(grace, output.write(&Frame::GoAway { grace })).await;
}

async fn next_stream(
    conn: &dyn Link,
    places: &Arc<Semaphore>,
) -> Result<(Option<OwnedSemaphorePermit>, BiStream), ConnectionError> {
    // The place comes first: a peer with all places taken waits, its streams unread.
    let place = places.clone().acquire_owned().await.ok();
    Ok((place, conn.accept_bi().await?))
}

fn count_panic(counters: &PeerCounters, ended: &Result<(), JoinError>) {
    if ended.as_ref().is_err_and(JoinError::is_panic) {
        counters.requests_panicked.inc();
        tracing::error!("a request handler panicked");
    }
}

impl Served {
    async fn request(
        &self,
        send: Box<dyn SendStream>,
        recv: Box<dyn RecvStream>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let mut reader = FrameReader::new(recv, self.info.version);
        let first = timeout(self.request_timeout, reader.next()).await;
        let (kind, time_left, control) = match first {
            Ok(Ok(Some(Frame::Request {
                kind,
                time_left,
                control,
            }))) => (kind, time_left, control),
            Ok(Err(ExchangeError::Connection(_) | ExchangeError::Cancelled { .. })) => return,
            Ok(_) => {
                self.counters.refused_request_malformed.inc();
                return refuse(send, reader, StreamCode::Protocol);
            }
            Err(_) => {
                self.counters.refused_request_timeout.inc();
                return refuse(send, reader, StreamCode::Deadline);
            }
        };
        if !self
            .identity
            .now()
            .is_some_and(|now| self.info.identity.valid_at(now))
        {
            self.counters.closed_expired.inc();
            return close(&*self.conn, CloseCode::Expired, "");
        }
        let deadline = time_left.map(|left| Instant::now() + left);
        let given_up = send.stopped();
        let shared = Shared::new(deadline, StreamCode::Unfinished, Report::default(), place);
        let request = IncomingRequest {
            kind,
            control,
            deadline,
            body: RecvHalf::from_reader(reader, shared.clone()),
            reply: SendHalf::new(send, self.info.version, shared.clone()),
        };
        self.counters.requests_started.inc();
        let mut running = Running {
            counters: &self.counters,
            ended: false,
        };
        let end = tokio::select! {
            () = self.handler.handle(&self.info, request) => &self.counters.requests_returned,
            () = stopped(given_up) => &self.counters.requests_cancelled,
            () = past(deadline, &shared) => &self.counters.requests_past_deadline,
        };
        running.ended = true;
        end.inc();
    }
}

/// Ready when the peer does not want the answer any more, or is gone.
async fn stopped(given_up: impl Future<Output = Result<Option<u64>, WriteError>>) {
    // `None`: the answer was finished and has arrived. What the handler still does then is its own business.
    if let Ok(None) = given_up.await {
        std::future::pending::<()>().await;
    }
}

/// Ready at the deadline. The code is set here, since the handler is dropped before anything that follows.
async fn past(deadline: Option<Instant>, shared: &Shared) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
    shared.give_up_with(StreamCode::Deadline);
}

fn refuse(mut send: Box<dyn SendStream>, mut reader: FrameReader, code: StreamCode) {
    send.reset(code.code());
    reader.stream().stop(code.code());
}

/// Counts a request whose task is dropped with its connection. A panic is counted by who joins the task.
struct Running<'a> {
    counters: &'a PeerCounters,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            self.counters.requests_cancelled.inc();
        }
    }
}
