//! What was refused, cut short or went wrong between nodes.

use crate::counter::counters;
use crate::wire::CloseCode;

counters! {
    /// What one [`PeerServer`](super::PeerServer) counted since it was made. Refusals inside the TLS handshake are
    /// counted by the [`Identity`](crate::identity::Identity), refusals before it by the endpoint.
    PeerCounters {
        /// Connections that passed handshake and hello.
        peers_accepted,
        /// Handshakes that failed or timed out; the endpoint and the identity count the causes.
        handshakes_failed,
        /// Peers refused after the handshake for their certificates.
        refused_certificate,
        /// Peers refused because their hello did not come in time.
        refused_hello_timeout,
        /// Peers refused because their hello could not be read.
        refused_hello_malformed,
        /// Peers refused because no version is in common.
        refused_version,
        /// Peers refused for a critical capability unknown here.
        refused_capability,
        /// Peers refused because none of their roles may talk here.
        refused_role,
        /// Peers refused because their hello claims more than their certificate.
        refused_claim,
        /// Connections that ended before the hello was through.
        ended_before_hello,
        /// Connections closed because the peer's certificate expired meanwhile.
        closed_expired,
        /// Connections closed because the peer was put on the revocation list meanwhile.
        closed_revoked,
        /// Connections closed because the peer broke the protocol.
        closed_protocol,
        /// Connections cut off at the end of a drain's grace, exchanges under way included.
        closed_at_drain_end,
        /// Connections closed in a drain since nothing was under way on them, answers included, and their peers did not close them.
        closed_quiet_in_drain,
        /// Requests handed to the handler; each ends in one of the next four.
        requests_started,
        /// Requests whose handler returned.
        requests_returned,
        /// Requests given up by the peer, or lost with its connection, before the handler returned.
        requests_cancelled,
        /// Requests whose deadline passed before the handler returned.
        requests_past_deadline,
        /// Requests and messages whose handler panicked.
        requests_panicked,
        /// Messages handed to the handler; each ends in one of the next three, or its handler panicked.
        messages_started,
        /// Messages whose handler returned.
        messages_returned,
        /// Messages lost with their connection before the handler returned.
        messages_cancelled,
        /// Messages whose deadline passed before the handler returned.
        messages_past_deadline,
        /// Requests and messages acted on before the end of the handshake.
        early_requests,
        /// Requests and messages that came as early data and waited for the end of the handshake.
        early_waited,
        /// Connections that began with early data and whose handshake never ended: recordings, or clients that left.
        early_unproven,
        /// Streams reset because their request or message did not come in time.
        refused_request_timeout,
        /// Streams reset because they did not begin with a request, or with a message on a stream for those.
        refused_request_malformed,
        /// Streams reset because none of the peer's roles permits the kind of request.
        refused_request_role,
    }
}

impl PeerCounters {
    pub(super) fn refused(&self, code: CloseCode) {
        let counter = match code {
            CloseCode::HelloTimeout => &self.refused_hello_timeout,
            CloseCode::HelloMalformed => &self.refused_hello_malformed,
            CloseCode::Version => &self.refused_version,
            CloseCode::Capability => &self.refused_capability,
            CloseCode::WrongRole => &self.refused_role,
            CloseCode::Claim => &self.refused_claim,
            CloseCode::NoCertificate
            | CloseCode::MalformedCertificate
            | CloseCode::Foreign
            | CloseCode::Cluster
            | CloseCode::Expired
            | CloseCode::NotYetValid
            | CloseCode::LeafLifetime
            | CloseCode::Revoked => &self.refused_certificate,
            CloseCode::Done
            | CloseCode::Idle
            | CloseCode::Drained
            | CloseCode::Protocol
            | CloseCode::TokenUnknown
            | CloseCode::TokenUsed
            | CloseCode::TokenExpired
            | CloseCode::JoinMalformed
            | CloseCode::JoinFailed => &self.closed_protocol,
        };
        counter.inc();
    }
}
