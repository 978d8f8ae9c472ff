//! How nodes of a cluster talk QUIC to each other: one setting for both sides.

use std::time::Duration;

use stoq::quic::TransportConfig;

/// Exchanges on one connection, which is one worker's to one node. 1,024 × about 60 B of stream limits = 60 KiB a connection; a miss
/// beyond that waits for a stream. As many as an origin is sent at once by default, so that what nobody may share does not queue
/// between nodes.
pub const EXCHANGES_MAX: u32 = 1024;

/// The transport between nodes.
///
/// Windows: 2 MiB a stream and 16 MiB a connection carry 1.3 Gbit/s over 100 ms; a connection holds at most 16 MiB unread and 16 MiB unsent. Idle
/// connections are kept alive, since a handshake would stand before the next miss.
#[must_use]
pub fn between_nodes() -> TransportConfig {
    TransportConfig {
        max_bidi_streams: EXCHANGES_MAX + 1,
        stream_window: 2 << 20,
        connection_window: 16 << 20,
        send_window: 16 << 20,
        keep_alive: Some(Duration::from_secs(10)),
        ..TransportConfig::default()
    }
}
