//! Transport settings, each with what it costs in memory.
//!
//! The defaults suit an edge with very many connections, most of them idle: what is paid per connection at once
//! is small, what is paid under load is bounded.

use std::{sync::Arc, time::Duration};

use quinn::{IdleTimeout, MtuDiscoveryConfig, VarInt};

use super::congestion::Metering;
use crate::path::{Controller, PathHistograms, WindowBounds};

/// What QUIC requires every path to carry, bytes of UDP payload.
//= https://www.rfc-editor.org/rfc/rfc9000#section-14
//# QUIC MUST NOT be used if the network path cannot support a
//# maximum datagram size of at least 1200 bytes.
pub(super) const MTU_MIN: u16 = 1200;

/// The largest UDP payload this crate probes for. An IPv4 packet ends at 65,507; what one send can carry, below it.
pub(super) const MTU_MAX: u16 = 65_000;

/// How long a path whose MTU shrank is used at 1,200 bytes before a larger one is looked for again: the search costs
/// some forty packets.
const SHRUNK: Duration = Duration::from_secs(10);

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
    /// 1452, at most 65,000 (larger values count as that, smaller than 1200 as 1200). A jumbo Ethernet of 9000 carries
    /// 8,972 over IPv4 and 8,952 over IPv6. Both ends must allow it.
    ///
    /// Discovery (RFC 8899) begins at 1200 and sends up to three probes of some ten sizes, to the upper end last; it ends
    /// within 20 bytes of what passes. No ICMP is needed. When packets of the size found are lost again and again while
    /// small ones pass, the path is used at 1200 at once and searched anew after ten seconds; every ten minutes
    /// it is searched for more. The endpoint's receive buffer is about 2.1 MB up to 32,767, and 4.2 MB above; a
    /// connection's send buffer has up to ten packets.
    pub mtu_max: u16,
    /// How much may be on its way. Default `None`: cubic, or what an adapting endpoint has learnt of the path.
    pub controller: Option<Controller>,
    /// Bytes that may be on their way before the first acknowledgement. Default `None`: ten packets, at most 14,720, or
    /// what an adapting endpoint has learnt of the path. At least two packets.
    pub initial_window: Option<u32>,
    /// Whether connections are sampled while they carry traffic, and their windows raised as the path proves to carry
    /// more, up to these bounds; the windows above are where they begin. Default `None`: no.
    ///
    /// Costs a task of about 1 KiB a connection, and some µs of CPU each 100 ms in which bytes move.
    pub adapt: Option<WindowBounds>,
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
            controller: None,
            initial_window: None,
            adapt: None,
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

    /// For connections whose round trips are recorded in `histograms`.
    pub(super) fn config(&self, histograms: &Arc<PathHistograms>) -> Arc<quinn::TransportConfig> {
        let mut config = quinn::TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(self.payload_max())
            .black_hole_cooldown(SHRUNK);
        let control = Metering::new(
            self.controller.unwrap_or_default(),
            self.first_window(),
            Arc::clone(histograms),
        );
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
            .congestion_controller_factory(Arc::new(control));
        Arc::new(config)
    }

    /// The congestion window to begin with: ten packets as most paths carry them. Where larger ones are found later, the
    /// controllers see to it that two of them fit.
    fn first_window(&self) -> u64 {
        //= https://www.rfc-editor.org/rfc/rfc9002#section-7.2
        //# Endpoints SHOULD use an initial congestion
        //# window of ten times the maximum datagram size (max_datagram_size),
        //# while limiting the window to the larger of 14,720 bytes or twice the
        //# maximum datagram size.
        let window = (10 * u64::from(self.payload_max())).min(14_720);
        let chosen = self.initial_window.map(u64::from);
        chosen.unwrap_or(window).max(2 * u64::from(MTU_MIN))
    }
}

fn idle_timeout(timeout: Duration) -> Option<IdleTimeout> {
    let millis = u64::try_from(timeout.as_millis()).ok()?;
    Some(VarInt::from_u64(millis).ok()?.into())
}
