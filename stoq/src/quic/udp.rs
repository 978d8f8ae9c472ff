//! The socket as the QUIC driver uses it: batched, counted, and with segment batches that the kernel can take.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;

use super::{
    counters::Counters,
    screen::{Screen, sift},
    socket::WorkerSocket,
    transport::MTU_MIN,
};

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
    /// Looks at what was received before the driver does.
    screen: Option<Arc<dyn Screen>>,
    /// The size of the last full packet sent. A guess at the size of the next, since the driver asks how many it may batch
    /// before it says for which connection.
    packet: AtomicUsize,
}

impl Socket {
    /// Must be called inside the worker's runtime.
    pub(super) fn new(
        socket: WorkerSocket,
        payload_max: u16,
        counters: Arc<Counters>,
        screen: Option<Arc<dyn Screen>>,
    ) -> io::Result<Self> {
        if socket.buffers_short {
            counters.socket_buffers_short.inc();
        }
        Ok(Self {
            state: UdpSocketState::new((&socket.socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket.socket)?,
            counters,
            payload_max: usize::from(payload_max),
            screen,
            packet: AtomicUsize::new(usize::from(MTU_MIN)),
        })
    }

    fn send_batch(&self, transmit: &Transmit<'_>) -> io::Result<()> {
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

    fn count_sent(&self, transmit: &Transmit<'_>) {
        let bytes = transmit.contents.len();
        let datagrams = transmit
            .segment_size
            .map_or(1, |size| bytes.div_ceil(size.max(1)));
        self.counters.datagrams_sent.add(datagrams as u64);
        self.counters.bytes_sent.add(bytes as u64);
    }

    /// Takes out what the screen does not admit. A buffer that nothing is left of holds 0 bytes, which the driver passes over.
    fn screen(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let Some(screen) = self.screen.as_ref().filter(|screen| screen.is_watching()) else {
            return;
        };
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let from = meta.addr;
            let (kept, gone) = sift(buf, meta.len, meta.stride, |datagram| {
                screen.admits(from, datagram)
            });
            meta.len = kept;
            self.counters.datagrams_screened.add(gone);
        }
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

    /// Sends a batch, in several where it is more than the kernel takes at once: where the guess at the packets' size was too
    /// small. Without this such batches vanish whole, and the connection with them.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let packet = transmit.segment_size.unwrap_or(transmit.contents.len());
        // Smaller ones are the ends of messages, and acknowledgements.
        if packet >= usize::from(MTU_MIN) {
            self.packet.store(packet, Ordering::Relaxed);
        }
        if transmit.segment_size.is_none() || transmit.contents.len() <= BATCH_BYTES_MAX {
            return self.send_batch(transmit);
        }
        self.counters.batches_split.inc();
        for contents in transmit.contents.chunks(whole_packets(packet)) {
            // Where the kernel has no room after the first, the driver will send all again; the other end drops what
            // it has.
            self.send_batch(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: (contents.len() > packet).then_some(packet),
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
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
                    let received = metas.get_mut(..count).unwrap_or_default();
                    self.count_received(received);
                    self.screen(bufs, received);
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
            .min(BATCH_BYTES_MAX / self.packet.load(Ordering::Relaxed).max(1))
            .max(1)
    }

    /// Segments of a coalesced receive, as far as they matter for the size of the receive buffer: a batch of
    /// more, smaller ones still fits. So the buffer is 32 × 64 KiB, or twice that where a packet has more than half of it.
    fn max_receive_segments(&self) -> usize {
        self.state
            .gro_segments()
            .min(COALESCED_BYTES_MAX.div_ceil(self.payload_max))
            .max(1)
    }
}

/// Bytes of as many packets as one send can carry.
fn whole_packets(packet: usize) -> usize {
    let packet = packet.max(1);
    (BATCH_BYTES_MAX / packet).max(1) * packet
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_batch_is_whole_packets_that_one_send_can_carry() {
        for packet in (1..=BATCH_BYTES_MAX).step_by(7) {
            let part = whole_packets(packet);
            assert_eq!(part % packet, 0);
            assert!((1..=BATCH_BYTES_MAX).contains(&part));
            assert!(part + packet > BATCH_BYTES_MAX, "as many as fit");
        }
        assert!(whole_packets(0) > 0);
    }
}
