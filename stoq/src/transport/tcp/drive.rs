//! Moves a link's frames through its TLS session.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsStream;

use super::listen::Held;
use crate::quic::{ConnectError, ConnectionError, TransportConfig};
use crate::transport::links::{Links, Place};
use crate::transport::mux::{Facts, Frame, Limits, Mux, MuxLink};
use crate::transport::tls::{failure, refused};
use crate::transport::{Carrier, Link, idle_timeout};

/// Time for the last words of a link.
pub(super) const GOODBYE: Duration = Duration::from_secs(3);

/// Room made for what arrives, at a time.
const READ_BYTES: usize = 64 * 1024;

/// Bytes gathered before they are written; more only by one frame.
const BATCH_BYTES: usize = 64 * 1024;

/// Pieces of a batch: a head and a payload for each frame.
const BATCH_PIECES: usize = 64;

/// A link over an established session, and its task.
pub(super) fn link(
    stream: TlsStream<TcpStream>,
    remote: SocketAddr,
    client: bool,
    (alpn, certificates): (Vec<u8>, Option<Vec<CertificateDer<'static>>>),
    config: &TransportConfig,
    links: &Arc<Links>,
    place: Option<Held>,
) -> Arc<dyn Link> {
    let send_window = usize::try_from(config.send_window).unwrap_or(usize::MAX);
    let mux = Mux::new(client, Limits::of(config), send_window);
    let facts = Facts {
        carrier: Carrier::Tcp,
        remote,
        client,
        alpn: Some(alpn),
        certificates,
    };
    let idle = idle_timeout(config);
    // Each side by its own timeout, which the other is not told.
    let alive = config.keep_alive.unwrap_or(idle).min(idle / 3);
    let driver = Driver {
        mux: mux.clone(),
        idle,
        alive,
        _place: links.enter(&mux),
        _held: place,
    };
    tokio::spawn(driver.run(stream));
    Arc::new(MuxLink::new(mux, facts))
}

struct Driver {
    mux: Arc<Mux>,
    idle: Duration,
    alive: Duration,
    _place: Place,
    _held: Option<Held>,
}

impl Driver {
    async fn run(self, stream: TlsStream<TcpStream>) {
        let (mut input, mut output) = split(stream);
        let mut arrived = BytesMut::new();
        let said = {
            let reading = self.read(&mut input, &mut arrived);
            let writing = self.write(&mut output);
            tokio::pin!(reading, writing);
            // Reading may be cancelled, since nothing follows it. Writing may not: it goes on until the last word is out.
            tokio::select! {
                () = &mut reading => timeout(GOODBYE, writing).await.is_ok(),
                () = &mut writing => true,
            }
        };
        if said {
            let _ = timeout(GOODBYE, farewell(&mut input, &mut output)).await;
        }
    }

    /// Reads until the link has ended, and ends it with what goes wrong.
    async fn read(&self, input: &mut ReadHalf<TlsStream<TcpStream>>, arrived: &mut BytesMut) {
        let mut heard = Instant::now();
        let mut ping = Instant::now();
        // A writer that is held up by the peer is woken by nothing else.
        let ended = self.mux.ended();
        tokio::pin!(ended);
        loop {
            arrived.reserve(READ_BYTES);
            // Each may be cancelled: what has arrived is in `arrived`.
            let read = tokio::select! {
                read = input.read_buf(arrived) => read,
                () = &mut ended => return,
                () = sleep_until(heard + self.idle) => {
                    return self.mux.core.lock().fail(ConnectionError::TimedOut);
                }
                () = sleep_until(ping) => {
                    ping = Instant::now() + self.alive;
                    self.mux.core.lock().ping(Instant::now());
                    continue;
                }
            };
            let now = Instant::now();
            heard = now;
            let mut core = self.mux.core.lock();
            match read {
                Ok(0) => return core.fail(ConnectionError::Reset),
                Ok(_) => {}
                Err(error) => return core.fail(meaning(&error)),
            }
            loop {
                let handled = match Frame::decode(arrived) {
                    Ok(Some(frame)) => core.handle(frame, now),
                    Ok(None) => break,
                    Err(error) => Err(error.into()),
                };
                if let Err(violation) = handled {
                    return core.accuse(&violation);
                }
            }
        }
    }

    /// Writes until the link has ended and its last word is out, or nothing can be written.
    async fn write(&self, output: &mut WriteHalf<TlsStream<TcpStream>>) {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(BATCH_PIECES);
        loop {
            let more = poll_fn(|cx| {
                let mut core = self.mux.core.lock();
                let mut len = 0;
                while len < BATCH_BYTES && pieces.len() + 2 <= BATCH_PIECES {
                    match core.poll_transmit(cx) {
                        Poll::Ready(Some(frame)) => {
                            len += frame.wire_len();
                            let mut head = BytesMut::with_capacity(64);
                            let payload = frame.encode(&mut head);
                            pieces.push(head.freeze());
                            if !payload.is_empty() {
                                pieces.push(payload);
                            }
                        }
                        Poll::Ready(None) => return Poll::Ready(false),
                        Poll::Pending if pieces.is_empty() => return Poll::Pending,
                        Poll::Pending => break,
                    }
                }
                Poll::Ready(true)
            });
            let more = more.await;
            let written = write_all(output, &mut pieces).await;
            if let Err(error) = written {
                return self.mux.core.lock().fail(meaning(&error));
            }
            if !more {
                return;
            }
        }
    }
}

async fn write_all(
    output: &mut WriteHalf<TlsStream<TcpStream>>,
    pieces: &mut Vec<Bytes>,
) -> io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        let mut slices = [IoSlice::new(&[]); BATCH_PIECES];
        let waiting = pieces.get(first..).unwrap_or_default();
        for (slice, piece) in slices.iter_mut().zip(waiting) {
            *slice = IoSlice::new(piece);
        }
        let mut written = output.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(piece) = pieces.get_mut(first) {
            let part = written.min(piece.len());
            piece.advance(part);
            written -= part;
            if !piece.is_empty() {
                break;
            }
            first += 1;
        }
    }
    pieces.clear();
    output.flush().await
}

/// Ends the session so that its last words arrive: says that nothing follows, then reads until the other side does the
/// same. A socket closed with bytes unread would take back what was sent.
async fn farewell(
    input: &mut ReadHalf<TlsStream<TcpStream>>,
    output: &mut WriteHalf<TlsStream<TcpStream>>,
) {
    if output.shutdown().await.is_ok() {
        let mut nowhere = vec![0; 16 * 1024];
        while input.read(&mut nowhere).await.is_ok_and(|read| read > 0) {}
    }
}

fn tls_error(error: &io::Error) -> Option<ConnectionError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(failure(error))
}

/// What the end of an established session means.
fn meaning(error: &io::Error) -> ConnectionError {
    tls_error(error).unwrap_or(match error.kind() {
        io::ErrorKind::TimedOut => ConnectionError::TimedOut,
        _ => ConnectionError::Reset,
    })
}

/// What a handshake failed of.
pub(super) fn failed(error: &io::Error) -> ConnectError {
    ConnectError::Connection(tls_error(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::TimedOut => ConnectionError::TimedOut,
        // It took the connection and then would not have it.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => refused(true),
        _ => ConnectionError::Reset,
    }))
}
