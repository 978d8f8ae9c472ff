//! Streams as `h3` sees them.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};

use super::{
    body::{Body, Taken},
    connection::on_stream,
};
use crate::quic::{ReadError, WriteError};

/// Frames up to this size, head and payload, are copied into one buffer: one allocation and one segment cost
/// less than two of each.
const GATHER_MAX: usize = 4 * 1024;

/// The longest head of a frame that is taken apart: two variable-length integers. A head that `h3` writes in another shape is sent as it comes.
const HEAD_MAX: usize = 16;

/// The sending half of a stream. Dropped unfinished, it is reset.
pub struct SendStream<B> {
    stream: crate::quic::SendStream,
    /// Head and payload of the frame being sent, as far as they can be handed down.
    chunks: [Bytes; 2],
    /// The payload of that frame, if it must be copied; follows `chunks`. Rare, and large: in a box, for the stream is moved often.
    rest: Option<Box<WriteBuf<B>>>,
}

impl<B: Body> SendStream<B> {
    pub(super) fn new(mut stream: crate::quic::SendStream, client: bool) -> Self {
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.1.1
        //# Client SHOULD use the error code H3_REQUEST_CANCELLED to cancel
        //# requests.
        let code = if client {
            Code::H3_REQUEST_CANCELLED
        } else {
            Code::H3_INTERNAL_ERROR
        };
        stream.set_drop_code(code.value());
        Self {
            stream,
            chunks: [Bytes::new(), Bytes::new()],
            rest: None,
        }
    }

    /// Waits until the peer stops this stream, or has acknowledged all of it once it is finished; see
    /// [`quic::SendStream::stopped`](crate::quic::SendStream::stopped). What wraps this type uses it to drop the work
    /// for a client that has left.
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<u64>, WriteError>> + Send + Sync + 'static {
        self.stream.stopped()
    }

    fn idle(&self) -> bool {
        self.rest.is_none() && self.chunks.iter().all(Bytes::is_empty)
    }
}

impl<B> fmt::Debug for SendStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl<B: Body> quic::SendStream<B> for SendStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while self.chunks.iter().any(|chunk| !chunk.is_empty()) {
            ready!(self.stream.poll_write_chunks(cx, &mut self.chunks)).map_err(write_error)?;
        }
        if let Some(rest) = &mut self.rest {
            while rest.has_remaining() {
                let written =
                    ready!(self.stream.poll_write(cx, rest.chunk())).map_err(write_error)?;
                rest.advance(written);
            }
            self.rest = None;
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if !self.idle() {
            return Err(misuse("send_data before poll_ready was ready"));
        }
        let mut frame = data.into();
        // The first slice of a fresh frame is its head: a type and a length.
        let mut head = [0; HEAD_MAX];
        let len = frame.chunk().len();
        let Some(space) = head.get_mut(..len) else {
            let remaining = frame.remaining();
            self.chunks[0] = gather(&[], frame, remaining);
            return Ok(());
        };
        frame.copy_to_slice(space);
        let head = &head[..len];
        match B::take_payload(&mut frame) {
            Some(Taken {
                bytes,
                framed: true,
            }) => self.chunks[0] = bytes,
            Some(Taken { bytes, .. }) if bytes.len() <= GATHER_MAX => {
                self.chunks[0] = [head, &bytes].concat().into();
            }
            Some(Taken { bytes, .. }) => self.chunks = [Bytes::copy_from_slice(head), bytes],
            None => {
                let remaining = frame.remaining();
                if remaining <= GATHER_MAX {
                    self.chunks[0] = gather(head, frame, remaining);
                } else {
                    self.chunks[0] = Bytes::copy_from_slice(head);
                    self.rest = Some(Box::new(frame));
                }
            }
        }
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(write_error))
    }

    fn reset(&mut self, reset_code: u64) {
        self.stream.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

impl<B: Body> quic::SendStreamUnframed<B> for SendStream<B> {
    fn poll_send<D: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut D,
    ) -> Poll<Result<usize, StreamErrorIncoming>> {
        if !self.idle() {
            return Poll::Ready(Err(misuse("poll_send before poll_ready was ready")));
        }
        let written = ready!(self.stream.poll_write(cx, buf.chunk())).map_err(write_error)?;
        buf.advance(written);
        Poll::Ready(Ok(written))
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct RecvStream(crate::quic::RecvStream);

impl RecvStream {
    pub(super) fn new(mut stream: crate::quic::RecvStream, client: bool) -> Self {
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.1
        //# When the server does not need to receive the remainder of the request, it
        //# MAY abort reading the request stream, send a complete response, and
        //# cleanly close the sending part of the stream.  The error code
        //# H3_NO_ERROR SHOULD be used when requesting that the client stop
        //# sending on the request stream.
        let code = if client {
            Code::H3_REQUEST_CANCELLED
        } else {
            Code::H3_NO_ERROR
        };
        stream.set_drop_code(code.value());
        Self(stream)
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.0.poll_read_chunk(cx, usize::MAX).map_err(read_error)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.0.stop(error_code);
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.0.id())
    }
}

/// A request stream: both halves.
pub struct BidiStream<B> {
    send: SendStream<B>,
    recv: RecvStream,
}

impl<B: Body> BidiStream<B> {
    /// A request stream that a server has accepted by itself, for `h3` to read from where it was left.
    pub fn accepted(send: crate::quic::SendStream, recv: crate::quic::RecvStream) -> Self {
        Self::new(send, recv, false)
    }

    pub(super) fn new(
        send: crate::quic::SendStream,
        recv: crate::quic::RecvStream,
        client: bool,
    ) -> Self {
        Self {
            send: SendStream::new(send, client),
            recv: RecvStream::new(recv, client),
        }
    }
}

impl<B> fmt::Debug for BidiStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BidiStream")
            .field("send", &self.send)
            .field("recv", &self.recv)
            .finish()
    }
}

impl<B: Body> quic::BidiStream<B> for BidiStream<B> {
    type SendStream = SendStream<B>;
    type RecvStream = RecvStream;

    fn split(self) -> (Self::SendStream, Self::RecvStream) {
        (self.send, self.recv)
    }
}

impl<B: Body> quic::SendStream<B> for BidiStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl<B: Body> quic::SendStreamUnframed<B> for BidiStream<B> {
    fn poll_send<D: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut D,
    ) -> Poll<Result<usize, StreamErrorIncoming>> {
        self.send.poll_send(cx, buf)
    }
}

impl<B: Body> quic::RecvStream for BidiStream<B> {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

/// Head and payload of a small frame in one buffer.
fn gather(head: &[u8], mut frame: impl Buf, len: usize) -> Bytes {
    let mut buffer = Vec::with_capacity(head.len() + len);
    buffer.extend_from_slice(head);
    while frame.has_remaining() {
        let chunk = frame.chunk();
        let taken = chunk.len();
        buffer.extend_from_slice(chunk);
        frame.advance(taken);
    }
    buffer.into()
}

#[expect(
    clippy::expect_used,
    reason = "stream numbers come from the QUIC layer"
)]
fn stream_id(id: u64) -> StreamId {
    StreamId::try_from(id).expect("QUIC stream numbers are below 2^62")
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(error_code) => StreamErrorIncoming::StreamTerminated { error_code },
        ReadError::Connection(error) => on_stream(error),
        error @ (ReadError::TooLong { .. } | ReadError::Stopped | ReadError::EarlyDataRejected) => {
            StreamErrorIncoming::Unknown(Box::new(error))
        }
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(error_code) => StreamErrorIncoming::StreamTerminated { error_code },
        WriteError::Connection(error) => on_stream(error),
        error @ (WriteError::Finished | WriteError::EarlyDataRejected) => {
            StreamErrorIncoming::Unknown(Box::new(error))
        }
    }
}

/// `h3` broke its own contract: the connection is closed with H3_INTERNAL_ERROR.
fn misuse(what: &str) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: ConnectionErrorIncoming::InternalError(what.into()),
    }
}
