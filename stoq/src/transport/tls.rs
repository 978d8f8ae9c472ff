//! What TLS says where QUIC does not say it, in QUIC's words.

use rustls::{AlertDescription, CommonState, Error};
use rustls_pki_types::CertificateDer;

use crate::quic::ConnectionError;

/// What a TLS error means for a link.
pub(super) fn failure(error: &Error) -> ConnectionError {
    let (alert, by_peer) = match error {
        Error::AlertReceived(alert) => (*alert, true),
        Error::InvalidCertificate(refusal) => (refusal.clone().into(), false),
        Error::NoApplicationProtocol => (AlertDescription::NoApplicationProtocol, false),
        _ => (AlertDescription::HandshakeFailure, false),
    };
    crypto(alert, error.to_string(), by_peer)
}

/// A handshake that TLS itself takes for good, without the ALPN that QUIC insists on.
pub(super) fn no_protocol() -> ConnectionError {
    let words = "no application protocol was agreed on".to_owned();
    crypto(AlertDescription::NoApplicationProtocol, words, false)
}

fn crypto(alert: AlertDescription, reason: String, by_peer: bool) -> ConnectionError {
    //= https://www.rfc-editor.org/rfc/rfc9001#section-4.8
    //# The AlertDescription value is added to 0x0100 to produce a QUIC error code from the range reserved for
    //# CRYPTO_ERROR.
    ConnectionError::TransportClosed {
        code: 0x100 + u64::from(u8::from(alert)),
        reason,
        by_peer,
    }
}

/// Turned away at the door: full, draining, or closed.
pub(super) fn refused(by_peer: bool) -> ConnectionError {
    //= https://www.rfc-editor.org/rfc/rfc9000#section-20.1
    //# CONNECTION_REFUSED (0x02):  The server refused to accept a new connection.
    ConnectionError::TransportClosed {
        code: 0x02,
        reason: "the server takes no newcomers".to_owned(),
        by_peer,
    }
}

/// The ALPN protocol and the peer's certificates of a handshake that has ended.
pub(super) fn outcome(
    session: &CommonState,
) -> Result<(Vec<u8>, Option<Vec<CertificateDer<'static>>>), ConnectionError> {
    let alpn = session.alpn_protocol().ok_or_else(no_protocol)?.to_vec();
    let certificates = session.peer_certificates();
    let certificates = certificates.map(|certs| certs.iter().map(|cert| cert.clone().into_owned()));
    Ok((alpn, certificates.map(Iterator::collect)))
}
