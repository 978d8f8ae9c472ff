//! Why an object exchange failed, as a number on the wire, and what it means to who asked.

use stoq_cache::engine::Failure;
use stoq_cache::upstream::{BodyError, UpstreamError};

/// Error codes of the object exchange. They travel in the transport's ERROR frame beside a text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request could not be decoded. The asker's fault.
    Malformed,
    /// An exchange kind that this node does not know.
    UnknownKind,
    /// The asker's key is not the key of the URL: trusting it would be poisoning.
    KeyMismatch,
    /// The two nodes name chunks under different keys: other cluster secret, or another dedupe domain.
    ChunkKeyMismatch,
    /// No site of that name here, or the host is not one of the site's.
    UnknownSite,
    /// The asker's certificate lacks the role.
    Role,
    /// A chunk that was asked for is not here (any more).
    ChunkMissing,
    /// Nothing of the object is stored here that others may believe.
    NotHeld,
    /// The asker, or the node that is asked, stands outside the zones of the site.
    Residency,
    /// The holder's own upstream could not be reached.
    Unreachable,
    /// The holder's own upstream did not answer in time.
    Timeout,
    /// The holder's own upstream answered nonsense.
    Protocol,
    /// A limit of the holder is reached.
    Overloaded,
    /// The body broke on its way into the holder.
    Body,
    /// The request's body broke on its way to the origin.
    RequestBody,
    /// The holder is going down.
    Shutdown,
    /// The holder failed.
    Internal,
}

impl Code {
    const ALL: [(Self, u32); 17] = [
        (Self::Malformed, 1),
        (Self::UnknownKind, 2),
        (Self::KeyMismatch, 3),
        (Self::ChunkKeyMismatch, 4),
        (Self::UnknownSite, 5),
        (Self::Role, 6),
        (Self::ChunkMissing, 7),
        (Self::NotHeld, 8),
        (Self::Residency, 9),
        (Self::Unreachable, 16),
        (Self::Timeout, 17),
        (Self::Protocol, 18),
        (Self::Overloaded, 19),
        (Self::Body, 20),
        (Self::RequestBody, 21),
        (Self::Shutdown, 22),
        (Self::Internal, 23),
    ];

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        // Every variant stands in the table; a missing one would travel as Internal.
        Self::ALL
            .iter()
            .find(|(code, _)| *code == self)
            .map_or(23, |(_, number)| *number)
    }

    /// The code of a number; an unknown one is [`Code::Internal`], so that newer holders can say more.
    #[must_use]
    pub fn of(number: u32) -> Self {
        Self::ALL
            .iter()
            .find(|(_, n)| *n == number)
            .map_or(Self::Internal, |(code, _)| *code)
    }

    /// What an asker makes of this code when it comes instead of a head.
    #[must_use]
    pub fn upstream_error(self, text: String) -> UpstreamError {
        match self {
            Self::Unreachable => UpstreamError::Unreachable(text),
            Self::Timeout => UpstreamError::Timeout(text),
            Self::Protocol | Self::Body | Self::Internal => UpstreamError::Protocol(text),
            // Another way may be open: another node of the shield, or the origin.
            Self::Shutdown | Self::Overloaded | Self::Residency => UpstreamError::ShieldDown(text),
            Self::RequestBody => UpstreamError::RequestBody(BodyError::Client(text)),
            Self::Malformed
            | Self::UnknownKind
            | Self::KeyMismatch
            | Self::ChunkKeyMismatch
            | Self::UnknownSite
            | Self::Role
            | Self::ChunkMissing
            | Self::NotHeld => UpstreamError::Refused { reason: text },
        }
    }
}

impl From<&Failure> for Code {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Upstream(error) => Self::from(error),
            Failure::Body(_) => Self::Body,
            Failure::Shutdown => Self::Shutdown,
            // 504 is what the client is to be told, by an edge that does not heed it itself.
            Failure::OnlyIfCached => Self::Timeout,
            Failure::Abandoned { .. } => Self::Internal,
        }
    }
}

impl From<&UpstreamError> for Code {
    fn from(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Unreachable(_) | UpstreamError::ShieldDown(_) => Self::Unreachable,
            UpstreamError::Timeout(_) => Self::Timeout,
            UpstreamError::TooMany { .. } => Self::Overloaded,
            UpstreamError::Protocol(_) => Self::Protocol,
            UpstreamError::RequestBody(_) => Self::RequestBody,
            UpstreamError::Refused { .. } | UpstreamError::Unsupported => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_number() {
        for (code, number) in Code::ALL {
            assert_eq!((code.number(), Code::of(number)), (number, code));
        }
        assert_eq!(Code::of(9999), Code::Internal);
    }
}
