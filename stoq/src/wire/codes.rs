//! The numbers with which connections and streams end.

use std::fmt;

/// Why a connection was closed: QUIC's application error code. Unknown numbers are to be shown, not interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u64)]
pub enum CloseCode {
    /// Nothing is wrong; the node is done with this connection.
    Done = 0x00,
    /// No exchange for a while.
    Idle = 0x01,
    /// The node is going away, its exchanges are finished or out of time.
    Drained = 0x02,
    /// The hello did not arrive in time.
    HelloTimeout = 0x10,
    /// The hello could not be read, or something else came in its place.
    HelloMalformed = 0x11,
    /// No protocol version in common.
    Version = 0x12,
    /// A critical capability that this node does not know.
    Capability = 0x13,
    /// The peer has none of the roles that may talk here.
    WrongRole = 0x14,
    /// The hello claims a name or a role that the certificate does not carry.
    Claim = 0x15,
    /// No certificate.
    NoCertificate = 0x20,
    /// Certificates of the wrong shape.
    MalformedCertificate = 0x21,
    /// Certificates that do not lead to this cluster's root.
    Foreign = 0x22,
    /// Certificates of another cluster under the same root key.
    Cluster = 0x23,
    /// An expired certificate.
    Expired = 0x24,
    /// A certificate from the future.
    NotYetValid = 0x25,
    /// A leaf certificate valid for longer than allowed.
    LeafLifetime = 0x26,
    /// A node on the revocation list.
    Revoked = 0x27,
    /// The peer broke the rules of the wire.
    Protocol = 0x30,
    /// On `stoq-join/1`: a token that was never given out, or with a wrong secret.
    TokenUnknown = 0x40,
    /// On `stoq-join/1`: a token that another node was let in with.
    TokenUsed = 0x41,
    /// On `stoq-join/1`: a token whose time is over.
    TokenExpired = 0x42,
    /// On `stoq-join/1`: a message that could not be read, or none in time.
    JoinMalformed = 0x43,
    /// On `stoq-join/1`: the identity could not be signed or logged; the token can be used again.
    JoinFailed = 0x44,
}

impl CloseCode {
    const ALL: [Self; 23] = [
        Self::Done,
        Self::Idle,
        Self::Drained,
        Self::HelloTimeout,
        Self::HelloMalformed,
        Self::Version,
        Self::Capability,
        Self::WrongRole,
        Self::Claim,
        Self::NoCertificate,
        Self::MalformedCertificate,
        Self::Foreign,
        Self::Cluster,
        Self::Expired,
        Self::NotYetValid,
        Self::LeafLifetime,
        Self::Revoked,
        Self::Protocol,
        Self::TokenUnknown,
        Self::TokenUsed,
        Self::TokenExpired,
        Self::JoinMalformed,
        Self::JoinFailed,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u64 {
        self as u64
    }

    /// The meaning of a number, if this version knows one.
    #[must_use]
    pub fn of(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// The meaning of a TLS alert: a refusal inside the handshake can be told in no other way.
    #[must_use]
    pub fn of_alert(alert: u8) -> Option<Self> {
        match alert {
            42 => Some(Self::MalformedCertificate), // bad_certificate
            43 => Some(Self::LeafLifetime),         // unsupported_certificate
            44 => Some(Self::Revoked),              // certificate_revoked
            45 => Some(Self::Expired), // certificate_expired: also one that is not valid yet
            48 => Some(Self::Foreign), // unknown_ca
            49 => Some(Self::Cluster), // access_denied
            116 => Some(Self::NoCertificate), // certificate_required
            _ => None,
        }
    }

    /// The meaning of a QUIC transport error code, where that is a TLS alert about a certificate.
    #[must_use]
    pub fn of_transport(code: u64) -> Option<Self> {
        //= https://www.rfc-editor.org/rfc/rfc9001#section-4.8
        //# A TLS alert is converted into a QUIC connection error. The AlertDescription value is added to
        //# 0x0100 to produce a QUIC error code from the range reserved for CRYPTO_ERROR.
        code.checked_sub(0x100)
            .and_then(|alert| u8::try_from(alert).ok())
            .and_then(Self::of_alert)
    }

    /// What to tell an operator.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::HelloTimeout => "hello too slow",
            Self::HelloMalformed => "hello malformed",
            Self::Version => "no version in common",
            Self::Capability => "unknown critical capability",
            Self::WrongRole => "wrong role",
            Self::Claim => "hello claims more than the certificate",
            Self::NoCertificate => "no certificate",
            Self::MalformedCertificate => "malformed certificate",
            Self::Foreign => "not signed by this cluster's root",
            Self::Cluster => "another cluster",
            Self::Expired => "certificate expired or not yet valid",
            Self::NotYetValid => "certificate not yet valid",
            Self::LeafLifetime => "leaf valid for too long",
            Self::Revoked => "revoked",
            Self::Protocol => "protocol error",
            Self::TokenUnknown => "unknown token",
            Self::TokenUsed => "token already used",
            Self::TokenExpired => "token expired",
            Self::JoinMalformed => "enrolment malformed or too slow",
            Self::JoinFailed => "enrolment failed",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Why one direction of an exchange was given up: the code of QUIC's RESET_STREAM and STOP_SENDING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u64)]
pub enum StreamCode {
    /// Whoever wanted it does not any more.
    Cancelled = 1,
    /// The deadline of the request has passed.
    Deadline = 2,
    /// The other side's handler ended, or failed, before its answer was whole.
    Unfinished = 3,
    /// The frames were not what the protocol prescribes.
    Protocol = 4,
    /// None of the peer's roles permits this kind of exchange.
    Forbidden = 5,
}

impl StreamCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u64 {
        self as u64
    }

    /// The meaning of a number, if this version knows one.
    #[must_use]
    pub fn of(code: u64) -> Option<Self> {
        [
            Self::Cancelled,
            Self::Deadline,
            Self::Unfinished,
            Self::Protocol,
            Self::Forbidden,
        ]
        .into_iter()
        .find(|known| known.code() == code)
    }
}

impl fmt::Display for StreamCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline passed",
            Self::Unfinished => "ended before it was whole",
            Self::Protocol => "protocol error",
            Self::Forbidden => "not permitted by any of its roles",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_meanings_are_inverse() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::of(code.code()), Some(code));
        }
        assert_eq!(CloseCode::of(0xdead), None);
        for code in 1..=5 {
            assert_eq!(StreamCode::of(code).map(StreamCode::code), Some(code));
        }
    }

    #[test]
    fn wire_document_lists_every_code() {
        let document = include_str!("mod.rs");
        for code in CloseCode::ALL {
            let alert = (0..=255).find(|alert| CloseCode::of_alert(*alert) == Some(code));
            let alert = alert.map_or_else(String::new, |alert| format!("{alert} "));
            let line = format!("//! | {:#04x} | {alert}| {code} |", code.code());
            assert!(document.contains(&line), "{line}");
        }
        for code in (1..=5).filter_map(StreamCode::of) {
            assert!(
                document.contains(&format!("{} = {code}", code.code())),
                "{code}"
            );
        }
    }

    #[test]
    fn alerts_about_certificates_have_a_meaning() {
        assert_eq!(
            CloseCode::of_transport(0x100 + 48),
            Some(CloseCode::Foreign)
        );
        assert_eq!(CloseCode::of_transport(0x100 + 120), None);
        assert_eq!(CloseCode::of_transport(0x0a), None);
        assert_eq!(CloseCode::of_transport(u64::MAX), None);
    }
}
