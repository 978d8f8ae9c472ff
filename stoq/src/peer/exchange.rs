//! The two halves of an exchange, the same on both sides.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::error::ExchangeError;
use super::frames::{FrameReader, FrameWriter};
use super::witness::Report;
use crate::shape::{Class, Shaper};
use crate::transport::{RecvStream, SendStream};
use crate::wire::{Frame, StreamCode, Urgency, WireError};

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The head; at most 64 KiB.
    Head(Bytes),
    /// A control message within the body; at most 64 KiB.
    Frame {
        /// The application's number for what it is.
        kind: u16,
        /// Its bytes.
        payload: Bytes,
    },
    /// Body bytes, never empty: a slice of what came off the network. How a body is cut into pieces has no meaning.
    Data(Bytes),
}

/// A started exchange. Take it apart to send and receive at the same time.
#[derive(Debug)]
pub struct Exchange {
    /// The rest of the request.
    pub send: SendHalf,
    /// The answer.
    pub recv: RecvHalf,
}

/// What the two halves of an exchange have in common. Holds a place in whatever counts exchanges.
pub(super) struct Shared {
    pub(super) deadline: Option<Instant>,
    /// The code told to the other side if a half is dropped before its end.
    give_up: AtomicU64,
    /// What this side says is whole, and with the transport.
    finished: AtomicBool,
    report: Report,
    /// Dropped with the second half.
    _place: Box<dyn Send + Sync>,
}

impl Shared {
    pub(super) fn new(
        deadline: Option<Instant>,
        give_up: StreamCode,
        report: Report,
        place: impl Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            give_up: AtomicU64::new(give_up.code()),
            finished: AtomicBool::new(false),
            report,
            _place: Box::new(place),
        })
    }

    pub(super) fn give_up_with(&self, code: StreamCode) {
        self.give_up.store(code.code(), Ordering::Relaxed);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// Runs `work` until the deadline.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ExchangeError>>,
    ) -> Result<T, ExchangeError> {
        let result = match self.deadline {
            None => work.await,
            Some(deadline) => timeout_at(deadline, work).await.unwrap_or_else(|_| {
                self.give_up_with(StreamCode::Deadline);
                Err(ExchangeError::Deadline)
            }),
        };
        result.inspect_err(|error| self.report.failed(error))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What this side says. Dropped before [`finish`](Self::finish) or [`abort`](Self::abort), the stream is reset and the
/// other side sees an error.
#[derive(Debug)]
pub struct SendHalf {
    writer: FrameWriter,
    shared: Arc<Shared>,
    /// Finished, aborted, or failed: nothing more can be written.
    ended: bool,
    shaper: Option<Shaper>,
    class: Class,
}

impl SendHalf {
    pub(super) fn new(stream: Box<dyn SendStream>, version: u8, shared: Arc<Shared>) -> Self {
        Self {
            writer: FrameWriter::new(stream, version),
            shared,
            ended: false,
            shaper: None,
            class: Class::Fill,
        }
    }

    /// Body bytes wait for this shaper's leave.
    pub(super) fn shaped(mut self, shaper: Option<&Shaper>) -> Self {
        self.shaper = shaper.cloned();
        self
    }

    /// The class that body bytes are counted to from here on, where the connection is shaped. At first [`Class::Fill`].
    pub fn set_class(&mut self, class: Class) {
        self.class = class;
    }

    pub(super) async fn request(&mut self, frame: &Frame) -> Result<(), ExchangeError> {
        self.write(frame).await
    }

    /// Gives what is sent from here on another place among the streams of the connection.
    pub fn set_urgency(&mut self, urgency: Urgency) {
        self.writer.stream().set_priority(urgency.priority());
    }

    /// Sends the head. At most 64 KiB.
    ///
    /// # Errors
    /// See [`ExchangeError`]. After any but [`ExchangeError::TooLarge`] nothing more can be sent. Not cancel-safe:
    /// dropping the future midway gives the message up. The same holds for the other methods.
    pub async fn head(&mut self, control: Bytes) -> Result<(), ExchangeError> {
        self.write(&Frame::Head(control)).await
    }

    /// Sends a control message. At most 64 KiB.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn frame(&mut self, kind: u16, payload: Bytes) -> Result<(), ExchangeError> {
        self.write(&Frame::Message { kind, payload }).await
    }

    /// Sends body bytes, any number of them, without copying. Returns when the transport has taken them, which it
    /// does only as fast as the other side reads, and as the node's [shaper](super::ServeConfig::shaper) allows.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn data(&mut self, mut bytes: Bytes) -> Result<(), ExchangeError> {
        self.begin()?;
        let (writer, class) = (&mut self.writer, self.class);
        let writing = async {
            let Some(shaper) = &self.shaper else {
                return writer.write_data(bytes).await;
            };
            while !bytes.is_empty() {
                let granted = shaper.take(class, bytes.len()).await;
                writer.write_data(bytes.split_to(granted)).await?;
            }
            Ok(())
        };
        let written = self.shared.in_time(writing).await;
        self.end_of(written)
    }

    /// Says that the message is whole.
    ///
    /// # Errors
    /// As [`head`](Self::head). `Ok` means that the transport has the end, not that the other side has it.
    pub async fn finish(mut self) -> Result<(), ExchangeError> {
        self.last(&Frame::End).await
    }

    /// Says that the message will never be whole, and why. The text is cut after 1 KiB.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn abort(mut self, code: u32, text: &str) -> Result<(), ExchangeError> {
        self.last(&Frame::Error {
            code,
            text: text.to_owned(),
        })
        .await
    }

    async fn last(&mut self, frame: &Frame) -> Result<(), ExchangeError> {
        self.begin()?;
        self.shared.in_time(self.writer.close(frame)).await?;
        self.shared.finished.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&mut self, frame: &Frame) -> Result<(), ExchangeError> {
        self.begin()?;
        let written = self.shared.in_time(self.writer.write(frame)).await;
        self.end_of(written)
    }

    /// Until a write comes to its end the message counts as broken: a dropped future leaves half a frame.
    fn begin(&mut self) -> Result<(), ExchangeError> {
        if std::mem::replace(&mut self.ended, true) {
            Err(ExchangeError::Finished)
        } else {
            Ok(())
        }
    }

    fn end_of(&mut self, written: Result<(), ExchangeError>) -> Result<(), ExchangeError> {
        self.ended = !matches!(written, Ok(()) | Err(ExchangeError::TooLarge(_)));
        written
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // No effect on a stream that was finished.
        let code = self.shared.give_up.load(Ordering::Relaxed);
        self.writer.stream().set_drop_code(code);
    }
}

/// What the other side says. Dropped before the end, the other side is asked to stop.
#[derive(Debug)]
pub struct RecvHalf {
    reader: FrameReader,
    shared: Arc<Shared>,
    /// The end of the message was read.
    ended: bool,
    /// And that of the stream after it.
    whole: bool,
}

impl RecvHalf {
    pub(super) fn new(stream: Box<dyn RecvStream>, version: u8, shared: Arc<Shared>) -> Self {
        Self::from_reader(FrameReader::new(stream, version), shared)
    }

    pub(super) fn from_reader(reader: FrameReader, shared: Arc<Shared>) -> Self {
        Self {
            reader,
            shared,
            ended: false,
            whole: false,
        }
    }

    /// The next piece; `None` once the message is whole, and only then. Cancel-safe.
    ///
    /// # Errors
    /// What was read so far is a fragment; see [`ExchangeError`] for why. A stream that merely ends is
    /// [`WireError::Truncated`].
    pub async fn next(&mut self) -> Result<Option<Part>, ExchangeError> {
        if self.ended {
            return self.end().await;
        }
        let frame = self
            .shared
            .in_time(self.reader.next())
            .await
            .inspect_err(|error| self.blame(error))?;
        self.shared.report.answered();
        match frame {
            Some(Frame::Data(bytes)) => Ok(Some(Part::Data(bytes))),
            Some(Frame::Head(control)) => Ok(Some(Part::Head(control))),
            Some(Frame::Message { kind, payload }) => Ok(Some(Part::Frame { kind, payload })),
            Some(Frame::Error { code, text }) => Err(ExchangeError::Remote { code, text }),
            Some(Frame::End) => {
                self.ended = true;
                self.end().await
            }
            None => Err(ExchangeError::Finished),
            Some(
                frame @ (Frame::Hello(_)
                | Frame::GoAway { .. }
                | Frame::Request(_)
                | Frame::Tell(_)),
            ) => {
                let error = ExchangeError::Protocol(WireError::Unexpected(frame.name()));
                self.blame(&error);
                Err(error)
            }
        }
    }

    /// The end of the stream after that of the message. Cancel-safe.
    async fn end(&mut self) -> Result<Option<Part>, ExchangeError> {
        if !self.whole {
            self.shared
                .in_time(self.reader.end())
                .await
                .inspect_err(|error| self.blame(error))?;
            self.whole = true;
        }
        Ok(None)
    }

    /// A part that has no place in the form of this exchange.
    pub(super) fn misplaced(&self, what: &'static str) -> ExchangeError {
        let error = ExchangeError::Protocol(WireError::Unexpected(what));
        self.blame(&error);
        error
    }

    fn blame(&self, error: &ExchangeError) {
        if matches!(error, ExchangeError::Protocol(_)) {
            self.shared.give_up_with(StreamCode::Protocol);
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        // No effect on a stream that was read to its end.
        let code = self.shared.give_up.load(Ordering::Relaxed);
        self.reader.stream().set_drop_code(code);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::{Context, Poll};

    use futures_util::FutureExt;

    use super::*;
    use crate::transport::ReadError;
    use crate::wire::{VERSION, encode};

    /// What arrives on a stream: nothing for now where it is empty, its end where it is `None`.
    #[derive(Debug)]
    struct Arrived(VecDeque<Option<Bytes>>);

    impl RecvStream for Arrived {
        fn poll_read_chunk(
            &mut self,
            _cx: &mut Context<'_>,
            _max: usize,
        ) -> Poll<Result<Option<Bytes>, ReadError>> {
            match self.0.pop_front() {
                Some(Some(bytes)) if bytes.is_empty() => Poll::Pending,
                Some(arrived) => Poll::Ready(Ok(arrived)),
                None => Poll::Pending,
            }
        }

        fn stop(&mut self, _code: u64) {}

        fn set_drop_code(&mut self, _code: u64) {}

        fn id(&self) -> u64 {
            0
        }

        fn is_0rtt(&self) -> bool {
            false
        }
    }

    fn heard(arrived: impl IntoIterator<Item = Option<Bytes>>) -> RecvHalf {
        let stream = Box::new(Arrived(arrived.into_iter().collect()));
        let shared = Shared::new(None, StreamCode::Cancelled, Report::default(), ());
        RecvHalf::new(stream, VERSION, shared)
    }

    fn end() -> Option<Bytes> {
        let frame = encode(VERSION, &Frame::End).unwrap();
        Some(frame.concat().into())
    }

    const PAUSE: Option<Bytes> = Some(Bytes::new());

    #[test]
    fn a_message_is_whole_also_where_the_wait_for_its_end_was_cut_short() {
        let mut recv = heard([end(), PAUSE, PAUSE, None]);
        // Dropped between the end of the message and that of the stream.
        assert_eq!(recv.next().now_or_never(), None);
        assert_eq!(recv.next().now_or_never(), None);
        assert_eq!(recv.next().now_or_never(), Some(Ok(None)));
        assert_eq!(recv.next().now_or_never(), Some(Ok(None)));
    }

    #[test]
    fn what_follows_the_end_is_an_error_also_then() {
        let mut recv = heard([end(), PAUSE, end()]);
        assert_eq!(recv.next().now_or_never(), None);
        let after = Some(Err(ExchangeError::Protocol(WireError::AfterEnd)));
        assert_eq!(recv.next().now_or_never(), after);
        assert_eq!(recv.next().now_or_never(), after);
    }
}
