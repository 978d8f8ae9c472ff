//! A server's connection before the end of its handshake.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::admission::{Admitted, Outcome};
use super::connection::Connection;
use super::endpoint::Connecting;
use super::error::ConnectError;

/// The end of a handshake that is under way while its connection is used already; see
/// [`Connecting::establish_early`]. The default: it has ended. Dropped before the end, the handshake counts as failed, but
/// goes on.
#[derive(Default)]
pub struct HandshakeEnd(Option<BoxFuture<'static, Result<(), ConnectError>>>);

impl HandshakeEnd {
    /// Waits for it. At once after the first `Ok`. Cancel-safe.
    ///
    /// # Errors
    /// What the handshake failed of, [`ConnectError::HandshakeTimeout`] if it was not through in time; the connection has
    /// ended then.
    pub async fn reached(&mut self) -> Result<(), ConnectError> {
        match &mut self.0 {
            Some(end) => {
                let result = end.await;
                self.0 = None;
                result
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeEnd")
            .field("awaited", &self.0.is_some())
            .finish()
    }
}

impl Connecting {
    /// The connection before its handshake has ended. What a client sends as early data can be read from it, its streams
    /// marked as [0-RTT](super::RecvStream::is_0rtt); until the end is [reached](HandshakeEnd::reached) nobody knows
    /// whether it was the client who sent them now, or somebody who recorded them. Certificates of a resumed session are known as
    /// soon as such a stream is.
    ///
    /// Whoever takes the connection this way must wait for the end as well: it is what bounds the handshake in time.
    #[must_use]
    pub fn establish_early(self) -> (Connection, HandshakeEnd) {
        let (admitted, limit) = self.into_parts();
        let Admitted {
            place,
            connecting,
            half_open,
            since,
            windows,
            shared,
            addr: _,
            proven: _,
        } = admitted;
        // Only a client can be without keys.
        let Ok((connection, ended)) = connecting.into_0rtt() else {
            unreachable!("a server's connection can always be had early")
        };
        let connection = Connection::new(connection, windows.as_ref(), &shared).in_place(place);
        let watched = connection.clone();
        let end = async move {
            let left: Duration = limit.saturating_sub(since.elapsed());
            if tokio::time::timeout(left, ended).await.is_err() {
                half_open.end(Outcome::TimedOut);
                watched.close(0, b"handshake too slow");
                return Err(ConnectError::HandshakeTimeout);
            }
            // The future tells when, not how.
            match watched.close_reason() {
                None => {
                    half_open.end(Outcome::Completed);
                    Ok(())
                }
                Some(error) => {
                    half_open.end(Outcome::Failed);
                    Err(ConnectError::Connection(error))
                }
            }
        };
        (connection, HandshakeEnd(Some(Box::pin(end))))
    }
}
