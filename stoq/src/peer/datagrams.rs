//! Datagrams of one connection: numbered when sent, judged when received.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use thiserror::Error;

use super::greet::PeerInfo;
use crate::counter::counters;
use crate::datagram::{DATAGRAM_HEADER_BYTES, Datagram, NotNew, ReplayWindow, Sequence};
use crate::transport::{ConnectionError, DatagramError, Link};
use crate::wire::Hello;

/// Sends and receives datagrams over a connection whose both sides take them: the transport's setting of that name must be on
/// at both, and both must speak version 2. None is acknowledged, and none comes twice.
///
/// What waits to be sent or read is bounded by the transport; beyond it the oldest are dropped.
pub struct Datagrams {
    link: Arc<dyn Link>,
    version: u8,
    agreed: bool,
    sequence: Sequence,
    window: Mutex<ReplayWindow>,
    counters: DatagramCounters,
}

counters! {
    /// What became of the datagrams of one connection. Each that was received and not handed on is in one of the
    /// last three.
    DatagramCounters {
        /// Datagrams given to the transport.
        datagrams_sent,
        /// Datagrams handed on.
        datagrams_taken,
        /// Datagrams dropped because their number had come before.
        datagrams_replayed,
        /// Datagrams dropped because their number was older than the window.
        datagrams_too_old,
        /// Datagrams dropped because they could not be read, or have a number that nobody sends.
        datagrams_malformed,
    }
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendDatagramError {
    /// One of the sides does not take them.
    #[error("datagrams are not in use on this connection")]
    NotAgreed,
    /// Longer than [`Datagrams::payload_max`].
    #[error("a payload of {len} bytes; the path carries {max} now")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The most that can be sent now.
        max: usize,
    },
    /// All numbers have been used.
    #[error("no sequence number is left on this connection")]
    Exhausted,
    /// The transport does not take it.
    #[error(transparent)]
    Transport(#[from] DatagramError),
}

impl Datagrams {
    pub(super) fn new(link: Arc<dyn Link>, info: &PeerInfo) -> Self {
        Self {
            link,
            version: info.version,
            agreed: info.capabilities & Hello::DATAGRAMS != 0,
            sequence: Sequence::default(),
            window: Mutex::default(),
            counters: DatagramCounters::default(),
        }
    }

    /// The longest payload that can be sent now, bytes; `None` where datagrams are not in use.
    #[must_use]
    pub fn payload_max(&self) -> Option<usize> {
        let whole = self.link.max_datagram_size().filter(|_| self.agreed)?;
        whole.checked_sub(DATAGRAM_HEADER_BYTES)
    }

    /// Sends a datagram of this `kind`, if there is room, and returns its number. Never waits. The payload is copied.
    ///
    /// # Errors
    /// It was not sent. A number may have been used for it.
    pub fn send(&self, kind: u16, payload: Bytes) -> Result<u64, SendDatagramError> {
        let max = self.payload_max().ok_or(SendDatagramError::NotAgreed)?;
        let len = payload.len();
        if len > max {
            return Err(SendDatagramError::TooLong { len, max });
        }
        let sequence = self.sequence.next().ok_or(SendDatagramError::Exhausted)?;
        let datagram = Datagram {
            kind,
            sequence,
            payload,
        };
        self.link.send_datagram(datagram.encode(self.version))?;
        self.counters.datagrams_sent.inc();
        Ok(sequence)
    }

    /// The next datagram that comes for the first time. Each goes to one caller. Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended. Where datagrams are not in use, it waits for that.
    pub async fn next(&self) -> Result<Datagram, ConnectionError> {
        if !self.agreed {
            return Err(self.link.closed().await);
        }
        loop {
            let bytes = self.link.read_datagram().await?;
            if let Some(datagram) = self.judge(bytes) {
                return Ok(datagram);
            }
        }
    }

    fn judge(&self, bytes: Bytes) -> Option<Datagram> {
        let counters = &self.counters;
        let Ok(datagram) = Datagram::decode(self.version, bytes) else {
            counters.datagrams_malformed.inc();
            return None;
        };
        match self.window.lock().admit(datagram.sequence) {
            Ok(()) => {
                counters.datagrams_taken.inc();
                return Some(datagram);
            }
            Err(NotNew::Zero) => counters.datagrams_malformed.inc(),
            Err(NotNew::Replayed(_)) => counters.datagrams_replayed.inc(),
            Err(NotNew::TooOld { .. }) => counters.datagrams_too_old.inc(),
        }
        None
    }

    /// What was counted on this connection.
    #[must_use]
    pub fn counters(&self) -> &DatagramCounters {
        &self.counters
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams")
            .field("agreed", &self.agreed)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
