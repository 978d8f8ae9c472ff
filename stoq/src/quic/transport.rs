//! Transport settings, each with what it costs in memory.
//!
//! The defaults suit an edge with very many connections, most of them idle: what is paid per connection at once
//! is small, what is paid under load is bounded.

use std::{sync::Arc, time::Duration};

use quinn::{IdleTimeout, MtuDiscoveryConfig, VarInt, congestion};

/// What QUIC requires every path to carry, bytes of UDP payload.
//= https://www.rfc-editor.org/rfc/rfc9000#section-14
//# QUIC MUST NOT be used if the network path cannot support a
//# maximum datagram size of at least 1200 bytes.
pub(super) const MTU_MIN: u16 = 1200;

/// The largest UDP payload this crate probes for: a 9000-byte jumbo frame with room to spare.
pub(super) const MTU_MAX: u16 = 9000;

/// Settings of the transport, for both directions of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Bidirectional streams the peer may have open at once. Default 100.
    ///
    /// Paid at once: about 50 bytes each when the connection is made, so 100 streams are 5 of the 40 KiB that
    /// an idle connection costs; 1,000 in each direction were measured at 190 KiB.
    pub max_bidi_streams: u32,
    /// Unidirectional streams the peer may have open at once. Default 8; HTTP/3 needs 3. Paid as above.
    pub max_uni_streams: u32,
    /// Bytes the peer may send on one stream before we read. Default 1 MiB: at 100 ms of round trip a stream
    /// carries at most 1 MiB / 0.1 s = 84 Mbit/s. Paid only while unread bytes wait.
    pub stream_window: u32,
    /// Bytes the peer may send on all streams before we read. Default 8 MiB (670 Mbit/s at 100 ms). This is the
    /// bound of receive memory of a connection.
    pub connection_window: u32,
    /// Bytes we keep until the peer has acknowledged them, over all streams. Default 8 MiB. This is the bound of
    /// send memory of a connection; writers wait beyond it.
    pub send_window: u32,
    /// A connection with nothing received for this long is closed silently. Default 30 s. The smaller of both
    /// sides' values holds. Values above 2^62 ms mean never.
    pub idle_timeout: Duration,
    /// Sends something this often so that the connection does not idle out. Default: never. One costs 26–30 µs of
    /// CPU on each side; use less than half of the peer's idle timeout.
    pub keep_alive: Option<Duration>,
    /// The largest UDP payload that path MTU discovery may reach, bytes; also what we accept to receive. Default
    /// 1452, at most 9000 (larger values count as 9000, smaller than 1200 as 1200).
    ///
    /// Discovery begins at 1200 and needs a few round trips, so a large value costs nothing on a path that does
    /// not carry it. The endpoint's receive buffer is about 2.1 MB whatever the value.
    pub mtu_max: u16,
    /// Whether unreliable datagrams are taken. Default no. When on, up to 256 KiB wait in each direction; beyond
    /// that the oldest is dropped.
    pub datagrams: bool,
    /// Whether to vary the QUIC bit (RFC 9287). Default no: a flood filter in front of us may drop packets
    /// without it.
    pub grease: bool,
}

/// Datagrams waiting to be sent or read, bytes of each direction.
const DATAGRAM_BUFFER: usize = 256 * 1024;

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            max_bidi_streams: 100,
            max_uni_streams: 8,
            stream_window: 1 << 20,
            connection_window: 8 << 20,
            send_window: 8 << 20,
            idle_timeout: Duration::from_secs(30),
            keep_alive: None,
            mtu_max: 1452,
            datagrams: false,
            grease: false,
        }
    }
}

impl TransportConfig {
    /// The bound of payload sizes in use, from `mtu_max`.
    pub(super) fn payload_max(&self) -> u16 {
        self.mtu_max.clamp(MTU_MIN, MTU_MAX)
    }

    pub(super) fn config(&self) -> Arc<quinn::TransportConfig> {
        let payload_max = self.payload_max();
        let mut config = quinn::TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(payload_max);
        config
            .max_concurrent_bidi_streams(self.max_bidi_streams.into())
            .max_concurrent_uni_streams(self.max_uni_streams.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(u64::from(self.send_window))
            .max_idle_timeout(idle_timeout(self.idle_timeout))
            .keep_alive_interval(self.keep_alive)
            .initial_mtu(MTU_MIN)
            .mtu_discovery_config(Some(discovery))
            .datagram_receive_buffer_size(self.datagrams.then_some(DATAGRAM_BUFFER))
            .datagram_send_buffer_size(DATAGRAM_BUFFER)
            .congestion_controller_factory(Arc::new(congestion_control(payload_max)));
        Arc::new(config)
    }
}

fn idle_timeout(timeout: Duration) -> Option<IdleTimeout> {
    let millis = u64::try_from(timeout.as_millis()).ok()?;
    Some(VarInt::from_u64(millis).ok()?.into())
}

/// Cubic, with an initial window that lets a packet of the largest size out.
fn congestion_control(payload_max: u16) -> congestion::CubicConfig {
    //= https://www.rfc-editor.org/rfc/rfc9002#section-7.2
    //# Endpoints SHOULD use an initial congestion window of ten times the
    //# maximum datagram size (max_datagram_size), while limiting the window
    //# to the larger of 14,720 bytes or twice the maximum datagram size.
    let payload_max = u64::from(payload_max);
    let window = (10 * payload_max).min((2 * payload_max).max(14_720));
    let mut cubic = congestion::CubicConfig::default();
    cubic.initial_window(window);
    cubic
}
