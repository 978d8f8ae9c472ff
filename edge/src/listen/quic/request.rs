//! One HTTP/3 request, from its stream to its account.
//!
//! The whole is one future that suspends only where it has to wait, so that its first poll, on the connection's task, is
//! all that a hit needs.

use std::future::{pending, poll_fn};
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use stoq::h3::Payload;
use stoq::quic::Connection;
use stoq_cache::time::Timestamp;
use tokio::sync::mpsc;
use tokio::task;

use super::body::{Incoming, Leftover, Recv, is_frame_error};
use super::guard::{Guarded, GuardedBidi};
use super::qpack;
use super::ready::Ready;
use super::way::Way;
use crate::listen::Context;
use crate::listen::exchange::Exchange;
use crate::listen::head::{content_length, request_head};
use crate::listen::metrics::BadHead;
use crate::listen::response::{BodyFailure, OutBody, outgoing};
use crate::listen::wait::{TooLong, at_most};
use crate::service::{
    Answer, ConnectionInfo, End, Interim, InterimHead, RequestBody, RequestHead, Service,
};

/// Largest DATA frame sent. A client must take this much within the stall timeout: at 60 s, 1 KiB/s.
const DATA_MAX: usize = 64 * 1024;
/// Pieces below this are copied together: a write of each on its own costs more than the copy.
const SMALL_PIECE: usize = 4 * 1024;
/// A response longer than this is watched until the client has all of it; a shorter one is done when the transport has it.
pub(super) const WATCHED_FROM: u64 = 64 * 1024;

/// What the requests of a connection share.
pub(super) struct Shared<S> {
    pub(super) context: Arc<Context<S>>,
    pub(super) connection: Connection,
    /// Where the client was when it shook hands.
    //= https://www.rfc-editor.org/rfc/rfc9000#section-9.3.1
    //# It is possible that a peer is spoofing its source address to cause an
    //# endpoint to send excessive amounts of data to an unwilling host.
    // The transport believes a new address before it is proven. What is done from there would be put down to whoever has that address: to the
    // limiter, in the log, and to origins.
    pub(super) peer: SocketAddr,
    pub(super) info: Arc<ConnectionInfo>,
    /// The connection's own task: whoever runs on it is inline.
    pub(super) task: Option<task::Id>,
}

/// What a request's end means for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The service saw its head; whatever came of it is in its account.
    Answered,
    /// There was no usable head.
    BadHead,
    /// The client cut a frame short: the connection has to end.
    FrameError,
}

/// A request stream to its end.
pub(super) async fn exchange<S: Service>(
    shared: Arc<Shared<S>>,
    resolver: RequestResolver<Guarded, Payload>,
) -> Fate {
    let context = &shared.context;
    let resolved = at_most(context.limits.head_timeout, resolver.resolve_request()).await;
    let (request, mut stream) = match resolved {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => {
            context.metrics.bad_head(why_bad(&error));
            return if is_frame_error(&error) {
                Fate::FrameError
            } else {
                Fate::BadHead
            };
        }
        Err(TooLong) => {
            // Dropping the stream has reset it.
            context.metrics.bad_head(BadHead::Timeout);
            return Fate::BadHead;
        }
    };
    let received = Instant::now();
    let (parts, ()) = request.into_parts();
    let head = request_head(parts, &Scheme::HTTPS, shared.peer, &shared.info, received);

    let body = arrived(&mut stream).await;
    let declared = match (content_length(&head.headers), &body) {
        (Ok(Some(1..)), Arrived::All) | (Err(_), _) => return malformed(context, stream),
        (Ok(declared), _) => declared,
    };
    if carries_connection_fields(&head.headers) {
        return malformed(context, stream);
    }
    if context.probe.is_in(&head) {
        return answer_probe(stream, context.probe.proof()).await;
    }
    if let Arrived::Broken(error) = &body {
        context.metrics.bad_head(BadHead::Gone);
        return if is_frame_error(error) {
            Fate::FrameError
        } else {
            Fate::BadHead
        };
    }

    let mut account = Exchange::new(context.clone(), head);
    let now = Timestamp::now();
    if let Some(answer) = context.service.try_hit(&account.head().view(), now) {
        Client::new(&mut stream, &mut account, &shared)
            .respond(answer)
            .await;
        drop(account);
        if matches!(body, Arrived::All) {
            return Fate::Answered;
        }
        let (_send, recv) = stream.split();
        return Box::pin(discard(recv, context)).await;
    }

    // In a box, for the future of a hit to be short: it is moved with each request.
    Box::pin(answer(shared, account, stream, body, declared)).await
}

/// What is not a hit: asks the service, sends its answer, settles what is left of the request.
async fn answer<S: Service>(
    shared: Arc<Shared<S>>,
    mut account: Exchange<S>,
    mut stream: RequestStream<GuardedBidi, Payload>,
    body: Arrived,
    declared: Option<u64>,
) -> Fate {
    let context = &shared.context;
    let head = account.share_head();
    let first = match body {
        Arrived::All => {
            serve(
                &mut stream,
                &mut account,
                &shared,
                head,
                RequestBody::empty(),
            )
            .await;
            return Fate::Answered;
        }
        Arrived::Some(first) => Some(first),
        Arrived::Nothing | Arrived::Broken(_) => None,
    };
    let (mut send, recv) = stream.split();
    let leftover = Arc::new(Mutex::new(Leftover::default()));
    let incoming = Incoming::new(
        recv,
        first,
        declared,
        context.limits.stall_timeout,
        &leftover,
        account.request_bytes(),
    );
    let body = RequestBody::new(declared, Box::pin(incoming));
    serve(&mut send, &mut account, &shared, head, body).await;
    drop(account);
    finish_request(&leftover, context).await
}

/// What has arrived of the body when the head is complete.
enum Arrived {
    /// Everything: there is none, or the end has come.
    All,
    /// The first bytes.
    Some(Bytes),
    /// Nothing yet, not even the end.
    Nothing,
    /// The stream is broken.
    Broken(StreamError),
}

async fn arrived(stream: &mut RequestStream<GuardedBidi, Payload>) -> Arrived {
    poll_fn(|cx| {
        Poll::Ready(match stream.poll_recv_data(cx) {
            Poll::Ready(Ok(None)) => Arrived::All,
            Poll::Ready(Ok(Some(mut piece))) => {
                Arrived::Some(piece.copy_to_bytes(piece.remaining()))
            }
            Poll::Ready(Err(error)) => Arrived::Broken(error),
            Poll::Pending => Arrived::Nothing,
        })
    })
    .await
}

/// The service's answer, unless the client leaves first.
async fn serve<S: Service, W: Way>(
    way: &mut W,
    account: &mut Exchange<S>,
    shared: &Shared<S>,
    head: Arc<RequestHead>,
    body: RequestBody,
) {
    let (interim, mut heads) = Interim::channel();
    let mut answering = shared.context.service.clone().serve(head, body, interim);
    let mut client = Client::new(way, account, shared);
    let answer = loop {
        // All may be cancelled: the answer is kept outside, the queue and the watch lose nothing.
        tokio::select! {
            biased;
            answer = &mut answering => break Ok(answer),
            sent = client.interim(&mut heads) => if let Err(end) = sent { break Err(end) },
        }
    };
    drop(answering);
    match answer {
        Ok(answer) => {
            // What came just before the answer still goes before it.
            while let Ok(head) = heads.try_recv() {
                if let Err(end) = client.head(head.status, head.headers).await {
                    return client.account.end(end);
                }
            }
            client.respond(answer).await;
        }
        Err(end) => client.account.end(end),
    }
}

/// A request's client: the way to it, and the account of what was sent.
pub(super) struct Client<'a, S: Service, W> {
    way: &'a mut W,
    account: &'a mut Exchange<S>,
    shared: &'a Shared<S>,
}

impl<'a, S: Service, W: Way> Client<'a, S, W> {
    pub(super) fn new(way: &'a mut W, account: &'a mut Exchange<S>, shared: &'a Shared<S>) -> Self {
        Self {
            way,
            account,
            shared,
        }
    }

    /// Sends interim heads as they come; ends only with the client's leaving.
    async fn interim(&mut self, heads: &mut mpsc::Receiver<InterimHead>) -> Result<(), End> {
        let head = tokio::select! {
            biased;
            head = async { match heads.recv().await { Some(head) => head, None => pending().await } } => head,
            left = self.left() => return Err(left),
        };
        self.head(head.status, head.headers).await
    }

    /// Waits until the client stops the response or is gone.
    async fn left(&mut self) -> End {
        match self.way.settled().await {
            Ok(()) => pending().await,
            Err(end) => end,
        }
    }

    async fn head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<(), End> {
        let stall = self.shared.context.limits.stall_timeout;
        at_most(stall, self.way.head(status, headers))
            .await
            .unwrap_or(Err(End::TimedOut))
    }

    /// Sends the answer and closes the account.
    pub(super) async fn respond(&mut self, answer: Answer<S::Note>) {
        self.account.answered(answer.note);
        let end = match Ready::of(&answer.reply, &self.account.head().method) {
            Some(ready) => self.send_ready(ready).await,
            None => {
                let out = outgoing(
                    answer.reply,
                    &self.account.head().method,
                    Timestamp::now(),
                    None,
                );
                Box::pin(self.send(out.status, out.headers, out.body)).await
            }
        };
        if self.shared.task == task::try_id() {
            self.account.answered_inline();
        }
        self.close(end);
    }

    /// Sends what is left of a response, its head perhaps in part, that is `len` bytes of body in all; closes the account.
    pub(super) async fn send_rest(&mut self, status: StatusCode, frames: Vec<Bytes>, len: usize) {
        let end = self.send_frames(status, frames, len).await;
        self.close(end);
    }

    fn close(&mut self, end: Result<(), End>) {
        if let Err(end) = end {
            // A clean end would make what was sent look whole.
            self.way.stop(match end {
                End::TimedOut => Code::H3_REQUEST_CANCELLED,
                _ => Code::H3_INTERNAL_ERROR,
            });
        }
        self.account.end(end.err().unwrap_or(End::Complete));
    }

    /// Sends a response that is all here, most often with one write.
    async fn send_ready(&mut self, ready: Ready) -> Result<(), End> {
        let Ready {
            status,
            frames,
            body,
            len,
        } = ready;
        self.send_frames(status, iter::once(frames).chain(body), len)
            .await
    }

    async fn send_frames(
        &mut self,
        status: StatusCode,
        frames: impl IntoIterator<Item = Bytes>,
        len: usize,
    ) -> Result<(), End> {
        for (nth, frames) in frames.into_iter().enumerate() {
            self.put(frames).await?;
            if nth == 0 {
                self.account.head_sent(status);
            }
        }
        self.account.sent(len);
        self.finish(len as u64).await
    }

    async fn send(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        mut body: OutBody,
    ) -> Result<(), End> {
        self.head(status, headers).await?;
        self.account.head_sent(status);
        let mut total = 0_u64;
        while let Some(piece) = self.next_piece(&mut body).await? {
            let batch = Batch::of(piece, &mut body).await;
            self.put(batch.head).await?;
            for piece in batch.pieces {
                let len = piece.len();
                self.put(piece).await?;
                self.account.sent(len);
                total += len as u64;
            }
            if let Some(error) = batch.failed {
                return Err(self.failed(&error));
            }
        }
        self.finish(total).await
    }

    async fn put(&mut self, frames: Bytes) -> Result<(), End> {
        let stall = self.shared.context.limits.stall_timeout;
        at_most(stall, self.way.put(frames))
            .await
            .unwrap_or(Err(End::TimedOut))
    }

    async fn finish(&mut self, sent: u64) -> Result<(), End> {
        self.way.finish().await?;
        if sent < WATCHED_FROM {
            return Ok(());
        }
        // A connection closed before the client has everything would lose what is still on its way.
        let stall = self.shared.context.limits.stall_timeout;
        at_most(stall, self.way.settled())
            .await
            .unwrap_or(Err(End::TimedOut))
    }

    /// The body's next piece, while the client is there.
    async fn next_piece(&mut self, body: &mut OutBody) -> Result<Option<Bytes>, End> {
        let ready = poll_fn(|cx| Poll::Ready(body.poll_piece(cx))).await;
        let piece = match ready {
            Poll::Ready(piece) => piece,
            Poll::Pending => tokio::select! {
                biased;
                piece = poll_fn(|cx| body.poll_piece(cx)) => piece,
                left = self.left() => return Err(left),
            },
        };
        piece.transpose().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &BodyFailure) -> End {
        tracing::debug!(connection = self.shared.info.id, %error, "response body failed; stream reset");
        End::BodyFailed
    }
}

/// What is ready of a body, as one DATA frame. A body that comes over the network comes in pieces the size of a packet; a frame for each would cost client and server
/// more than the bytes in it.
struct Batch {
    /// The frame's head.
    head: Bytes,
    /// Its payload in order, in pieces of at most [`DATA_MAX`].
    pieces: Vec<Bytes>,
    /// Why nothing follows, if the body broke behind it.
    failed: Option<BodyFailure>,
}

impl Batch {
    async fn of(first: Bytes, body: &mut OutBody) -> Self {
        let (mut pieces, mut small, mut failed) = (Vec::new(), BytesMut::new(), None);
        let (mut len, mut next) = (0, Some(first));
        while let Some(mut piece) = next.take() {
            len += piece.len();
            if piece.len() < SMALL_PIECE {
                small.extend_from_slice(&piece);
            } else {
                if !small.is_empty() {
                    pieces.push(small.split().freeze());
                }
                while !piece.is_empty() {
                    pieces.push(piece.split_to(piece.len().min(DATA_MAX)));
                }
            }
            if len < DATA_MAX {
                match poll_fn(|cx| Poll::Ready(body.poll_piece(cx))).await {
                    Poll::Ready(Some(Ok(piece))) => next = Some(piece),
                    Poll::Ready(Some(Err(error))) => failed = Some(error),
                    // The end is found again by whoever asks next.
                    Poll::Ready(None) | Poll::Pending => {}
                }
            }
        }
        if !small.is_empty() {
            pieces.push(small.freeze());
        }
        let mut head = BytesMut::with_capacity(16);
        qpack::put_data_head(&mut head, len as u64);
        Self {
            head: head.freeze(),
            pieces,
            failed,
        }
    }
}

/// Reads what the service left of the request, a little, then refuses the rest.
async fn finish_request<S: Service>(leftover: &Mutex<Leftover>, context: &Context<S>) -> Fate {
    let (recv, broken) = {
        let mut leftover = leftover.lock();
        (leftover.recv.take(), leftover.broken)
    };
    match recv {
        Some(recv) => discard(recv, context).await,
        None if broken == Some(Code::H3_FRAME_ERROR) => Fate::FrameError,
        None => Fate::Answered,
    }
}

/// A client whose stream is stopped may count its request as failed, though it was answered: so the end is read if it
/// comes soon, and only a body that goes on is refused (dropping the stream says H3_NO_ERROR).
async fn discard<S: Service>(mut recv: Recv, context: &Context<S>) -> Fate {
    let limits = &context.limits;
    let reading = async {
        let mut read = 0_u64;
        loop {
            match recv.recv_data().await {
                Ok(Some(piece)) => read += piece.remaining() as u64,
                Err(error) if is_frame_error(&error) => return Fate::FrameError,
                Ok(None) | Err(_) => return Fate::Answered,
            }
            if read > limits.discard_bytes {
                return Fate::Answered;
            }
        }
    };
    at_most(limits.discard_timeout, reading)
        .await
        .unwrap_or(Fate::Answered)
}

async fn answer_probe(
    mut stream: RequestStream<GuardedBidi, Payload>,
    (name, proof): (HeaderName, HeaderValue),
) -> Fate {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(name, proof);
    if stream.send_response(response).await.is_ok() {
        let _ = stream.finish().await;
    }
    Fate::Answered
}

//= https://www.rfc-editor.org/rfc/rfc9114#section-4.1.2
//# Malformed requests or responses that are detected MUST be treated as a stream error of type H3_MESSAGE_ERROR.
fn malformed<S: Service>(
    context: &Context<S>,
    mut stream: RequestStream<GuardedBidi, Payload>,
) -> Fate {
    context.metrics.bad_head(BadHead::Malformed);
    stream.stop_stream(Code::H3_MESSAGE_ERROR);
    stream.stop_sending(Code::H3_MESSAGE_ERROR);
    Fate::BadHead
}

//= https://www.rfc-editor.org/rfc/rfc9114#section-4.2
//# any message containing connection-specific fields MUST be treated as malformed.
fn carries_connection_fields(headers: &HeaderMap) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE]
        .iter()
        .any(|name| headers.contains_key(name))
        || headers.contains_key("keep-alive")
        || headers.contains_key("proxy-connection")
        || headers
            .get_all(TE)
            .iter()
            .any(|value| value.as_bytes() != b"trailers")
}

fn why_bad(error: &StreamError) -> BadHead {
    match error {
        StreamError::HeaderTooBig { .. } => BadHead::TooLarge,
        StreamError::RemoteTerminate { code, .. } if *code == Code::H3_EXCESSIVE_LOAD => {
            BadHead::TooLarge
        }
        StreamError::RemoteTerminate { code, .. } if *code == Code::H3_MESSAGE_ERROR => {
            BadHead::Malformed
        }
        StreamError::StreamError { .. } => BadHead::Malformed,
        _ => BadHead::Gone,
    }
}
