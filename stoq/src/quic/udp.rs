//! The socket as the QUIC driver uses it: batched, counted, and with segment batches that the kernel can take.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;

use super::{counters::Counters, socket::WorkerSocket};

/// What one segmented send may carry in total. The kernel's limit is a UDP payload of 65,507 bytes; above it the
/// whole batch is lost without an error.
const BATCH_BYTES_MAX: usize = 65_000;

/// The most that one coalesced receive can hold: the length field of IP has 16 bits.
const COALESCED_BYTES_MAX: usize = 65_535;

/// Receive errors in a row after which the socket counts as broken.
const RECEIVE_ERRORS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    counters: Arc<Counters>,
    payload_max: usize,
}

impl Socket {
    /// Must be called inside the worker's runtime.
    pub(super) fn new(
        socket: WorkerSocket,
        payload_max: u16,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        if socket.buffers_short {
            counters.socket_buffers_short.inc();
        }
        Ok(Self {
            state: UdpSocketState::new((&socket.socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket.socket)?,
            counters,
            payload_max: usize::from(payload_max),
        })
    }

    fn count_sent(&self, transmit: &Transmit<'_>) {
        let bytes = transmit.contents.len();
        let datagrams = transmit
            .segment_size
            .map_or(1, |size| bytes.div_ceil(size.max(1)));
        self.counters.datagrams_sent.add(datagrams as u64);
        self.counters.bytes_sent.add(bytes as u64);
    }

    fn count_received(&self, metas: &[RecvMeta]) {
        let (mut datagrams, mut bytes) = (0, 0);
        for meta in metas {
            datagrams += meta.len.div_ceil(meta.stride.max(1));
            bytes += meta.len;
        }
        self.counters.datagrams_received.add(datagrams as u64);
        self.counters.bytes_received.add(bytes as u64);
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.io).into(), transmit)
        }) {
            Ok(()) => {
                self.count_sent(transmit);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.counters.sends_blocked.inc();
                Err(error)
            }
            // A lost datagram is QUIC's everyday business, and an error here would end every connection of the
            // endpoint: so it is counted and the packet counts as sent.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.counters.sends_too_large.inc();
                Ok(())
            }
            Err(error) => {
                self.counters.sends_failed.inc();
                tracing::debug!(%error, destination = %transmit.destination, "send failed");
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut failed = 0;
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            match self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), bufs, metas)
            }) {
                Ok(count) => {
                    self.count_received(metas.get(..count).unwrap_or_default());
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.counters.receives_failed.inc();
                    failed += 1;
                    if failed == RECEIVE_ERRORS_MAX {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state
            .max_gso_segments()
            .min(BATCH_BYTES_MAX / self.payload_max)
            .max(1)
    }

    /// Segments of a coalesced receive, as far as they matter for the size of the receive buffer: a batch of
    /// more, smaller ones still fits. So the buffer is 32 × 64 KiB whatever the MTU.
    fn max_receive_segments(&self) -> usize {
        self.state
            .gro_segments()
            .min(COALESCED_BYTES_MAX.div_ceil(self.payload_max))
            .max(1)
    }
}

/// Waits for room in the socket. Allocates only when there is none, so an idle connection pays a pointer.
struct WritePoller {
    socket: Arc<Socket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller")
            .field("waiting", &self.waiting.is_some())
            .finish_non_exhaustive()
    }
}
