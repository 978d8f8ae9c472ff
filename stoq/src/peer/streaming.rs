//! The forms an exchange can take: one for one, one for many, many for one; and what is told without an answer.
//!
//! All are the one form of the wire, with rules that a reader can hold its peer to. Who needs another mixture takes
//! [`PeerConn::ask`] and its two halves.

use bytes::Bytes;

use super::ask::Ask;
use super::conn::PeerConn;
use super::error::ExchangeError;
use super::exchange::{Exchange, Part, RecvHalf, SendHalf};

/// The messages of one direction of an exchange, one after the other, and nothing else.
#[derive(Debug)]
pub struct Messages(RecvHalf);

impl From<RecvHalf> for Messages {
    fn from(half: RecvHalf) -> Self {
        Self(half)
    }
}

impl Messages {
    /// The next message, its kind first; `None` when there are no more, and only then. Nothing is read ahead, so a reader
    /// that is slow slows its writer. Cancel-safe.
    ///
    /// # Errors
    /// See [`ExchangeError`]; what came so far is a fragment. A head or body bytes are a protocol error.
    pub async fn next(&mut self) -> Result<Option<(u16, Bytes)>, ExchangeError> {
        match self.0.next().await? {
            Some(Part::Frame { kind, payload }) => Ok(Some((kind, payload))),
            Some(Part::Head(_)) => Err(self.0.misplaced("HEAD")),
            Some(Part::Data(_)) => Err(self.0.misplaced("DATA")),
            None => Ok(None),
        }
    }
}

/// A request of many messages, which gets one answer.
#[derive(Debug)]
pub struct Feed {
    send: SendHalf,
    recv: RecvHalf,
}

impl Feed {
    /// Sends a message; at most 64 KiB. Waits while the peer does not read. Not cancel-safe.
    ///
    /// # Errors
    /// See [`ExchangeError`]. After [`ExchangeError::Cancelled`] the peer has heard enough: [`finish`](Self::finish)
    /// tells its answer.
    pub async fn send(&mut self, kind: u16, payload: Bytes) -> Result<(), ExchangeError> {
        self.send.frame(kind, payload).await
    }

    /// Says that there are no more, and waits for the answer.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn finish(self) -> Result<Bytes, ExchangeError> {
        match self.send.finish().await {
            // A peer that has heard enough to answer needs no end.
            Ok(()) | Err(ExchangeError::Cancelled { .. } | ExchangeError::Finished) => {}
            Err(error) => return Err(error),
        }
        self.recv.answer().await
    }
}

impl PeerConn {
    /// One for one: asks without a body and waits for an answer of at most 64 KiB, as
    /// [`SendHalf::answer`] gives it.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn call(&self, ask: Ask) -> Result<Bytes, ExchangeError> {
        self.ask_whole(ask).await?.answer().await
    }

    /// One for many: asks without a body; the answer is any number of messages. Dropped before their end, the peer is
    /// told to stop.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn server_stream(&self, ask: Ask) -> Result<Messages, ExchangeError> {
        Ok(self.ask_whole(ask).await?.into())
    }

    /// Many for one: any number of messages follow the request, then there is an answer.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn client_stream(&self, ask: Ask) -> Result<Feed, ExchangeError> {
        let Exchange { send, recv } = self.ask(ask).await?;
        Ok(Feed { send, recv })
    }
}

impl SendHalf {
    /// The whole answer to a request that is answered by one message: a head of at most 64 KiB and the end.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn answer(mut self, answer: Bytes) -> Result<(), ExchangeError> {
        self.head(answer).await?;
        self.finish().await
    }
}

impl RecvHalf {
    /// Reads an [`answer`](SendHalf::answer) to its end.
    ///
    /// # Errors
    /// See [`ExchangeError`]. Anything but one head is a protocol error.
    pub async fn answer(mut self) -> Result<Bytes, ExchangeError> {
        let answer = match self.next().await? {
            Some(Part::Head(answer)) => answer,
            Some(Part::Frame { .. }) => return Err(self.misplaced("MESSAGE")),
            Some(Part::Data(_)) => return Err(self.misplaced("DATA")),
            None => return Err(self.misplaced("END")),
        };
        match self.next().await? {
            None => Ok(answer),
            Some(_) => Err(self.misplaced("frame after the answer's")),
        }
    }
}
