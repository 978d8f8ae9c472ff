//! Frames over the two halves of a stream.

use bytes::Bytes;

use super::error::ExchangeError;
use crate::transport::{RecvStream, SendStream};
use crate::wire::{DATA_BYTES_MAX, Decoder, Frame, WireError, encode};

/// Most bytes taken from a stream at once: 256 KiB. What is not taken stays within the stream's window.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Reads frames. Holds one chunk and, of a control payload that straddles chunks, at most 64 KiB.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: Box<dyn RecvStream>,
    decoder: Decoder,
    chunk: Bytes,
}

impl FrameReader {
    pub(super) fn new(stream: Box<dyn RecvStream>, version: u8) -> Self {
        Self {
            stream,
            decoder: Decoder::new(version),
            chunk: Bytes::new(),
        }
    }

    /// The next frame; `None` after the end of a whole message. Cancel-safe: all state is in `self`.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, ExchangeError> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.chunk)? {
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(CHUNK_BYTES_MAX).await? {
                Some(chunk) => self.chunk = chunk,
                None => return self.decoder.finish().map(|()| None).map_err(Into::into),
            }
        }
    }

    /// The end of the stream itself, after the end of its message.
    pub(super) async fn end(&mut self) -> Result<(), ExchangeError> {
        match self.next().await? {
            None => Ok(()),
            Some(_) => Err(WireError::AfterEnd.into()),
        }
    }

    pub(super) fn stream(&mut self) -> &mut dyn RecvStream {
        &mut *self.stream
    }

    /// The same stream from its next byte on, under the version agreed on meanwhile.
    pub(super) fn under(self, version: u8) -> Self {
        Self {
            decoder: Decoder::new(version),
            ..self
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct FrameWriter {
    stream: Box<dyn SendStream>,
    version: u8,
}

impl FrameWriter {
    pub(super) fn new(stream: Box<dyn SendStream>, version: u8) -> Self {
        Self { stream, version }
    }

    /// Writes a frame, waiting as long as the peer's windows say. Not cancel-safe: a frame may be half written,
    /// after which the stream can only be reset.
    pub(super) async fn write(&mut self, frame: &Frame) -> Result<(), ExchangeError> {
        let mut chunks = encode(self.version, frame)?;
        Ok(self.stream.write_all_chunks(&mut chunks).await?)
    }

    /// Writes body bytes of any length as `DATA` frames of at most 1 MiB; none for none.
    pub(super) async fn write_data(&mut self, mut bytes: Bytes) -> Result<(), ExchangeError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(DATA_BYTES_MAX));
            self.write(&Frame::Data(piece)).await?;
        }
        Ok(())
    }

    /// Writes the message's last frame and the end of the stream.
    pub(super) async fn close(&mut self, last: &Frame) -> Result<(), ExchangeError> {
        self.write(last).await?;
        Ok(self.stream.finish()?)
    }

    pub(super) fn stream(&mut self) -> &mut dyn SendStream {
        &mut *self.stream
    }

    pub(super) fn with_version(self, version: u8) -> Self {
        Self { version, ..self }
    }
}
