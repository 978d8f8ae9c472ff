//! One connection, served: its requests handed to the handler, each on a task of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::counters::PeerCounters;
use super::datagrams::Datagrams;
use super::error::ExchangeError;
use super::exchange::{RecvHalf, SendHalf, Shared};
use super::frames::{FrameReader, FrameWriter};
use super::greet::{Greeted, PeerInfo, close, distrust};
use super::handler::{Handler, IncomingRequest};
use super::kinds::KindRules;
use super::witness::Report;
use crate::counter::Counter;
use crate::identity::{AuditWhat, Identity, Refusal};
use crate::shape::Shaper;
use crate::transport::{
    BiStream, ConnectionError, HandshakeEnd, Link, RecvStream, SendStream, WriteError,
};
use crate::wire::{CloseCode, Frame, MESSAGES_SINCE, Opening, StreamCode};

/// What the requests of one connection have in common.
pub(super) struct Served {
    pub(super) conn: Arc<dyn Link>,
    pub(super) info: PeerInfo,
    pub(super) identity: Identity,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) kinds: Arc<KindRules>,
    pub(super) counters: Arc<PeerCounters>,
    pub(super) request_timeout: Duration,
    pub(super) datagrams: Datagrams,
    pub(super) shaper: Option<Shaper>,
    /// Whether the handshake has ended: that the peer is who it was when its session began, here and now.
    pub(super) proven: watch::Sender<bool>,
}

/// How much of one connection is handled at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) exchanges: usize,
    pub(super) messages: usize,
}

/// What a peer has to close an idle connection in a drain: 1 s. One that died unseen would be waited for until the connection's own time is over.
const QUIET: Duration = Duration::from_secs(1);

/// How often the clock is looked at for the end of a peer's certificates. Not a timer to that end: clocks are set.
const CLOCK: Duration = Duration::from_secs(60);

/// What a drain needs to know: when its grace is over.
pub(super) type DrainWatch = watch::Receiver<Option<Instant>>;

/// Serves a connection until it ends, or until a drain's grace does. When it returns no handler of it is running.
pub(super) async fn serve(
    served: Arc<Served>,
    control: Control,
    mut end: HandshakeEnd,
    bounds: Bounds,
    mut drain: DrainWatch,
) {
    let Control {
        mut input,
        mut output,
    } = control;
    let places = Arc::new(Semaphore::new(bounds.exchanges.max(1)));
    let message_places = Arc::new(Semaphore::new(bounds.messages.max(1)));
    let mut requests = JoinSet::new();
    let mut grace: Option<Instant> = *drain.borrow_and_update();
    // Both are branches of the loop, so that a peer which reads slowly keeps nothing else waiting.
    let goodbye = say_goodbye(&mut output, drain.clone());
    let expired = served.expired();
    tokio::pin!(goodbye, expired);
    let (mut said, mut is_expired) = (false, false);
    let mut revoked = served.identity.revocations().replaced();
    // The list may have been replaced since the peer was checked.
    revoked.mark_changed();
    let mut proven = false;
    // Since when nothing is under way, as far as it matters in a drain.
    let mut quiet = Instant::now();
    loop {
        // All of them, each time: a branch is one of many, and new requests would come in faster.
        while let Some(ended) = requests.try_join_next() {
            count_panic(&served.counters, &ended);
            quiet = Instant::now();
        }
        // What was under way when they ended may be done.
        if is_expired
            && requests.is_empty()
            && !served.trusts(served.identity.recheck(&served.info.identity))
        {
            break;
        }
        // Every branch may be cancelled: what has arrived stays in the connection, the reader or the set.
        tokio::select! {
            ended = end.reached(), if !proven => match ended {
                Ok(()) => {
                    proven = true;
                    served.proven.send_replace(true);
                }
                Err(error) => {
                    served.counters.early_unproven.inc();
                    tracing::debug!(peer = %served.info.identity.name, %error, "early data without its handshake");
                    break;
                }
            },
            // The sender lives as long as the identity.
            _ = revoked.changed() => {
                if !served.trusts(served.identity.recheck_revoked(&served.info.identity)) {
                    break;
                }
            }
            next = next_stream(&*served.conn, &places) => match next {
                Ok((place, (send, recv))) => {
                    let served = served.clone();
                    requests.spawn(async move { served.request(send, recv, place).await });
                }
                Err(_) => break,
            },
            next = next_message(&*served.conn, &message_places) => match next {
                Ok((place, recv)) if served.info.version >= MESSAGES_SINCE => {
                    let served = served.clone();
                    requests.spawn(async move { served.message(recv, place).await });
                }
                Ok(_) => {
                    served.counters.closed_protocol.inc();
                    close(&*served.conn, CloseCode::Protocol, "a stream that its version has not");
                    break;
                }
                Err(_) => break,
            },
            // None is sent early, so what comes before is nobody's to act on, and waits.
            next = served.datagrams.next(), if proven => match next {
                Ok(_) if !served.trusts(served.identity.recheck(&served.info.identity)) => break,
                Ok(datagram) if served.kinds.permits(datagram.kind, &served.info.identity) => {
                    served.handler.datagram(&served.info, datagram, &served.datagrams);
                }
                // Counted alone: a line for each would let a peer fill the audit.
                Ok(_) => served.counters.refused_request_role.inc(),
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
            Some(ended) = requests.join_next() => {
                count_panic(&served.counters, &ended);
                quiet = Instant::now();
            }
            // A dropped sender means the server is gone without a drain; its owner drops this future too.
            Ok(()) = drain.changed(), if grace.is_none() => grace = *drain.borrow_and_update(),
            () = &mut goodbye, if !said => {
                said = true;
                quiet = Instant::now();
            }
            () = &mut expired, if !is_expired => is_expired = true,
            // Who hears it closes when it has done. Who has not by now is dead, or has nothing to say.
            () = impatience(&*served.conn, quiet), if said && requests.is_empty() => {
                served.counters.closed_quiet_in_drain.inc();
                close(&*served.conn, CloseCode::Drained, "");
                break;
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

/// Ready when a connection whose peer was told to go has had nothing under way for too long: [`QUIET`], or some round trips where those are
/// longer.
async fn impatience(conn: &dyn Link, quiet: Instant) {
    let patience = (conn.path().rtt * 4).clamp(QUIET, 4 * QUIET);
    sleep_until(quiet + patience).await;
}

/// Waits for a drain and tells the peer. It closes when it has heard this and its exchanges are done; one that does not is cut
/// off at the end.
async fn say_goodbye(output: &mut FrameWriter, mut drain: DrainWatch) {
    let Ok(Some(end)) = drain.wait_for(Option::is_some).await.map(|end| *end) else {
        return std::future::pending().await;
    };
    let grace = end.saturating_duration_since(Instant::now());
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

async fn next_message(
    conn: &dyn Link,
    places: &Arc<Semaphore>,
) -> Result<(Option<OwnedSemaphorePermit>, Box<dyn RecvStream>), ConnectionError> {
    let place = places.clone().acquire_owned().await.ok();
    Ok((place, conn.accept_uni().await?))
}

fn count_panic(counters: &PeerCounters, ended: &Result<(), JoinError>) {
    if ended.as_ref().is_err_and(JoinError::is_panic) {
        counters.requests_panicked.inc();
        tracing::error!("a request handler panicked");
    }
}

impl Served {
    /// Whether the peer may go on. If not, the connection is closed: once, however many notice.
    fn trusts(&self, judged: Result<(), Refusal>) -> bool {
        let Err(refusal) = judged else {
            return true;
        };
        if self.conn.close_reason().is_none() {
            match refusal.code() {
                CloseCode::Revoked => self.counters.closed_revoked.inc(),
                _ => self.counters.closed_expired.inc(),
            }
            distrust(&*self.conn, &self.identity, &self.info, &refusal);
        }
        false
    }

    /// Ready once the peer's certificates are at their end. Exchanges under way may outlive that.
    async fn expired(&self) {
        let peer = &self.info.identity;
        while self.identity.now().is_some_and(|now| peer.valid_at(now)) {
            sleep(CLOCK).await;
        }
    }

    /// One exchange, until its answer has arrived.
    async fn request(
        &self,
        send: Box<dyn SendStream>,
        recv: Box<dyn RecvStream>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let mut reader = FrameReader::new(recv, self.info.version);
        let request = |frame| match frame {
            Frame::Request(opening) => Some(opening),
            _ => None,
        };
        let Begun {
            opening,
            early,
            deadline,
        } = match self.begin(&mut reader, request).await {
            Ok(begun) => begun,
            Err(Some(code)) => return refuse(send, reader, code),
            Err(None) => return,
        };
        let Opening {
            kind,
            marks,
            control,
            ..
        } = opening;
        send.set_priority(marks.urgency.priority());
        let mut given_up = send.stopped().fuse();
        let shared = Shared::new(deadline, StreamCode::Unfinished, Report::default(), place);
        let request = IncomingRequest {
            kind,
            control,
            marks,
            early,
            deadline,
            body: RecvHalf::from_reader(reader, shared.clone()),
            reply: SendHalf::new(send, self.info.version, shared.clone())
                .shaped(self.shaper.as_ref()),
        };
        let counters = &*self.counters;
        let running = Running::begin(&counters.requests_started, &counters.requests_cancelled);
        running.end(tokio::select! {
            () = self.handler.handle(&self.info, request) => &counters.requests_returned,
            () = stopped(&mut given_up) => &counters.requests_cancelled,
            () = past(deadline, &shared) => &counters.requests_past_deadline,
        });
        let finished = shared.is_finished();
        // The place is for the next; how many answers are on their way is bounded by the streams that the peer may open.
        drop(shared);
        if finished && !given_up.is_terminated() {
            let _ = given_up.await;
        }
    }

    /// What a stream begins with, if `wanted` takes it and the peer may say it. Waits for it, and for the end of the handshake
    /// where it may be acted on only then.
    ///
    /// # Errors
    /// The code with which the stream is to be refused; none where it, or the connection, has ended already.
    pub(super) async fn begin(
        &self,
        reader: &mut FrameReader,
        wanted: impl FnOnce(Frame) -> Option<Opening>,
    ) -> Result<Begun, Option<StreamCode>> {
        let came_early = reader.stream().is_0rtt();
        let opening = self.opening(reader, wanted).await?;
        // The time it was given runs while it waits.
        let deadline = opening.time_left.map(|left| Instant::now() + left);
        let early = self.admit(came_early, &opening).await?;
        Ok(Begun {
            opening,
            early,
            deadline,
        })
    }

    /// The first frame of a stream, which must be such as `wanted` takes.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    async fn opening(
        &self,
        reader: &mut FrameReader,
        wanted: impl FnOnce(Frame) -> Option<Opening>,
    ) -> Result<Opening, Option<StreamCode>> {
        match timeout(self.request_timeout, reader.next()).await {
            Ok(Err(ExchangeError::Connection(_) | ExchangeError::Cancelled { .. })) => Err(None),
            Ok(first) => first.ok().flatten().and_then(wanted).ok_or_else(|| {
                self.counters.refused_request_malformed.inc();
                Some(StreamCode::Protocol)
            }),
            Err(_) => {
                self.counters.refused_request_timeout.inc();
                Err(Some(StreamCode::Deadline))
            }
        }
    }

    /// Whether what begins so may go to the handler now, and whether that is before the end of the handshake. Waits for it
    /// where it has to be after.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    async fn admit(&self, came_early: bool, opening: &Opening) -> Result<bool, Option<StreamCode>> {
        if !self.trusts(self.identity.recheck(&self.info.identity)) {
            return Err(None);
        }
        let (kind, peer) = (opening.kind, &self.info.identity);
        if !self.kinds.permits(kind, peer) {
            self.counters.refused_request_role.inc();
            let what = AuditWhat::Exchange(StreamCode::Forbidden);
            let detail = format!("kind {kind} asked for");
            self.identity.audit(what, peer, self.info.addr, &detail);
            return Err(Some(StreamCode::Forbidden));
        }
        if !came_early || *self.proven.borrow() {
            return Ok(false);
        }
        if opening.marks.replay_safe && self.handler.replay_safe(kind) {
            self.counters.early_requests.inc();
            return Ok(true);
        }
        self.counters.early_waited.inc();
        let mut proven = self.proven.subscribe();
        // The sender is in `self`. A handshake that fails ends the connection, and this task with it.
        let ended = proven.wait_for(|proven| *proven).await;
        ended.map(|_| false).map_err(|_| None)
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
pub(super) async fn past(deadline: Option<Instant>, shared: &Shared) {
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

/// What a stream of the peer began with, and may go on with.
pub(super) struct Begun {
    pub(super) opening: Opening,
    /// Whether that is before the end of the handshake.
    pub(super) early: bool,
    pub(super) deadline: Option<Instant>,
}

/// Counts what a handler was given, once when it begins and once when it ends: also where its task is dropped with its
/// connection. A panic is counted by who joins the task.
pub(super) struct Running<'a> {
    cancelled: &'a Counter,
    ended: bool,
}

impl<'a> Running<'a> {
    pub(super) fn begin(started: &Counter, cancelled: &'a Counter) -> Self {
        started.inc();
        Self {
            cancelled,
            ended: false,
        }
    }

    /// It ended in what this counts.
    pub(super) fn end(mut self, counter: &Counter) {
        self.ended = true;
        counter.inc();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            self.cancelled.inc();
        }
    }
}
