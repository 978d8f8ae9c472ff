//! Counters of one endpoint. Each refusal, limit and loss has its own.

use crate::counter::counters;

counters! {
    /// What one endpoint counted since it was made.
    Counters {
        /// Connection attempts let in; each ends in one of the three `handshakes_` counters.
        attempts_accepted,
        /// Handshakes of incoming connections completed.
        handshakes_completed,
        /// Handshakes of incoming connections that failed or were abandoned.
        handshakes_failed,
        /// Handshakes of incoming connections cut off at `handshake_timeout`.
        handshakes_timed_out,
        /// Retry packets sent: from `retry_above` handshakes in progress on, from half of `max_per_prefix` on, and while an alarm is raised.
        retries_sent,
        /// Times that `retry_above` handshakes in progress were reached, and newcomers were asked to prove their address.
        retry_phases,
        /// Attempts refused because the endpoint is draining.
        refused_draining,
        /// Attempts refused at `max_connections`.
        refused_connections,
        /// Attempts refused at `max_per_prefix`.
        refused_prefix,
        /// Attempts refused at `max_handshakes`.
        refused_handshakes,
        /// Outgoing handshakes begun; each ends in one of the next two, or is cancelled.
        connects_started,
        /// Outgoing handshakes completed.
        connects_completed,
        /// Outgoing handshakes that failed.
        connects_failed,
        /// UDP datagrams handed to the kernel.
        datagrams_sent,
        /// Bytes in them.
        bytes_sent,
        /// UDP datagrams received.
        datagrams_received,
        /// Bytes in them.
        bytes_received,
        /// Of them, datagrams forgotten before they were looked at, since a screen did not admit them.
        datagrams_screened,
        /// Sends the kernel had no room for; they were tried again.
        sends_blocked,
        /// Batches of packets sent in several parts, because they had grown beyond what the kernel takes at once.
        batches_split,
        /// Sends larger than the interface takes: expected while the path's MTU is being found.
        sends_too_large,
        /// Sends that failed otherwise; their datagrams are lost and retransmitted by QUIC.
        sends_failed,
        /// Receive calls that failed.
        receives_failed,
        /// Sockets whose kernel buffers are smaller than configured (`net.core.rmem_max`, `wmem_max`).
        socket_buffers_short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visit_names_every_counter_once_with_its_help_and_value() {
        let counters = Counters::default();
        counters.retries_sent.add(3);
        let mut seen = Vec::new();
        counters.visit(&mut |name, help, value| {
            assert!(!help.is_empty(), "{name}");
            seen.push((name, value));
        });
        assert!(seen.contains(&("retries_sent", 3)));
        let mut names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), seen.len());
    }
}
