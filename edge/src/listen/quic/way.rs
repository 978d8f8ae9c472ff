//! The way back to a request's client: a stream of the HTTP/3 library, or a bare one.

use std::future::Future;
use std::pin::pin;
use std::task::{self, Poll};

use bytes::{Bytes, BytesMut};
use h3::error::{Code, StreamError};
use h3::quic;
use h3::server::RequestStream;
use http::{HeaderMap, Response, StatusCode};
use stoq::h3::Payload;
use stoq::quic::SendStream;

use super::qpack;
use crate::service::End;

/// Takes a response. Waits as long as the client lets it; the caller bounds that. An error says how the exchange ended.
pub(super) trait Way: Send {
    /// Sends a head, interim or final.
    fn head(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
    ) -> impl Future<Output = Result<(), End>> + Send;

    /// Sends whole frames, or parts of one that follow each other.
    fn put(&mut self, frames: Bytes) -> impl Future<Output = Result<(), End>> + Send;

    /// Waits until the client stops the response or is gone, which is an error, or has acknowledged all of a finished
    /// one.
    fn settled(&mut self) -> impl Future<Output = Result<(), End>> + Send;

    /// Ends the response.
    fn finish(&mut self) -> impl Future<Output = Result<(), End>> + Send;

    /// Breaks the response off.
    fn stop(&mut self, code: Code);
}

impl<T: quic::SendStream<Payload> + Send> Way for RequestStream<T, Payload> {
    async fn head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<(), End> {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        self.send_response(response)
            .await
            .map_err(|error| why_ended(&error))
    }

    async fn put(&mut self, frames: Bytes) -> Result<(), End> {
        self.send_data(Payload::framed(frames))
            .await
            .map_err(|error| why_ended(&error))
    }

    async fn settled(&mut self) -> Result<(), End> {
        // The guard below the library takes an empty frame for the wish to wait.
        self.send_data(Payload::default())
            .await
            .map_err(|_| End::ClientLeft)
    }

    async fn finish(&mut self) -> Result<(), End> {
        Self::finish(self).await.map_err(|error| why_ended(&error))
    }

    fn stop(&mut self, code: Code) {
        self.stop_stream(code);
    }
}

fn why_ended(error: &StreamError) -> End {
    match error {
        // The client will not take a head of this size; ours to answer for.
        StreamError::HeaderTooBig { .. } => End::BodyFailed,
        _ => End::ClientLeft,
    }
}

/// A stream that the library never saw.
#[derive(Debug)]
pub(super) struct Raw {
    send: SendStream,
    finished: bool,
}

impl Raw {
    pub(super) fn new(send: SendStream) -> Self {
        Self {
            send,
            finished: false,
        }
    }

    /// Writes what the windows take at once; `true` if that was all, else the rest is left in `chunks`.
    pub(super) fn put_now(
        &mut self,
        cx: &mut task::Context<'_>,
        chunks: &mut Vec<Bytes>,
    ) -> Result<bool, End> {
        chunks.retain(|chunk| !chunk.is_empty());
        while !chunks.is_empty() {
            match self.send.poll_write_chunks(cx, chunks) {
                Poll::Ready(Ok(_)) => chunks.retain(|chunk| !chunk.is_empty()),
                Poll::Ready(Err(_)) => return Err(End::ClientLeft),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Ends the response; `false` if the client has stopped it.
    pub(super) fn finish_now(&mut self) -> bool {
        self.finished = true;
        self.send.finish().is_ok()
    }
}

impl Way for Raw {
    async fn head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<(), End> {
        let mut lines = BytesMut::with_capacity(512);
        qpack::lines(&mut lines, status, &headers);
        let mut frame = BytesMut::with_capacity(lines.len() + 16);
        qpack::put_headers_frame(&mut frame, &lines, &[]);
        self.put(frame.freeze()).await
    }

    async fn put(&mut self, frames: Bytes) -> Result<(), End> {
        self.send
            .write_all_chunks(&mut [frames])
            .await
            .map_err(|_| End::ClientLeft)
    }

    async fn settled(&mut self) -> Result<(), End> {
        match pin!(self.send.stopped()).await {
            Ok(None) if self.finished => Ok(()),
            Ok(_) | Err(_) => Err(End::ClientLeft),
        }
    }

    async fn finish(&mut self) -> Result<(), End> {
        if self.finish_now() {
            Ok(())
        } else {
            Err(End::ClientLeft)
        }
    }

    fn stop(&mut self, code: Code) {
        self.send.reset(code.value());
    }
}
