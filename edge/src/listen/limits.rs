//! The listeners' bounds: connections, heads, waits.
//!
//! Bodies, rates and per-client budgets are the serve path's. What stands here is what a client can cost before a
//! request exists, or while it takes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stoq::quic::Prefixes;

/// What a client may cost the listeners.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of the process, QUIC and TCP together; at the bound newcomers are closed at once. Default 65,536
    /// (at 40 KiB each: 2.5 GiB).
    pub connections: usize,
    /// Those of them that come over TLS from one IPv4 address or one IPv6 /64; at the bound newcomers are closed at once. (QUIC counts by
    /// itself, in the same `prefixes`.) Default `None`: no fewer than all together.
    pub per_prefix: Option<usize>,
    /// What `per_prefix` is counted in. Default: by itself.
    pub prefixes: Prefixes,
    /// Requests under way on one connection; the client's next stream waits. Default 128.
    pub requests_per_connection: u32,
    /// Size of a request head as RFC 9114 4.2.2 counts it (names + values + 32 a field), bytes. Default 64 KiB.
    pub header_bytes: u32,
    /// From accept to the end of the TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From a stream's opening (HTTP/1.1: a head's first byte) to its complete head. Default 15 s.
    pub head_timeout: Duration,
    /// A TCP connection without a request under way is closed after this. Default 60 s. (QUIC has its own.)
    pub idle_timeout: Duration,
    /// A client that takes no byte of a response, or gives none of a body we wait for. Default 60 s.
    pub stall_timeout: Duration,
    /// How much of a request body nobody wanted is read, so that the answer arrives unharmed, bytes. Default 64 KiB.
    pub discard_bytes: u64,
    /// How long for that, and how long a connection that has ended waits for a client that is still reading. Default 5 s.
    pub discard_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            per_prefix: None,
            prefixes: Prefixes::default(),
            requests_per_connection: 128,
            header_bytes: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            discard_bytes: 64 * 1024,
            discard_timeout: Duration::from_secs(5),
        }
    }
}

/// Counts the process's connections against their bound.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionCap {
    open: Arc<AtomicUsize>,
    max: usize,
}

impl ConnectionCap {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
        }
    }

    /// A place, given back when dropped; `None` at the bound.
    pub(crate) fn take(&self) -> Option<ConnectionSlot> {
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot(self.open.clone());
        (taken < self.max).then_some(slot)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_when_its_connection_is_gone() {
        let cap = ConnectionCap::new(2);
        let first = cap.take().unwrap();
        let _second = cap.take().unwrap();
        assert!(cap.take().is_none());
        assert_eq!(cap.open(), 2);
        drop(first);
        assert!(cap.take().is_some());
    }
}
