//! What can go wrong between a request and the last byte of its answer.

/// Why there is no answer, or not the whole of it. None of these is ever a short body that looks whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The URL, the certificate authorities or the version do not make a target. The caller's fault.
    #[error("{0}")]
    Target(String),
    /// The request cannot be written. The caller's fault.
    #[error("request: {0}")]
    Request(String),
    /// The name has no address.
    #[error("name lookup of {host}: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody answers at the address.
    #[error("connect: {0}")]
    Connect(String),
    /// Somebody answers, but not as the target should: certificate, name, version, protocol.
    #[error("handshake: {0}")]
    Handshake(String),
    /// The server reset the stream of this exchange. The code is HTTP/3's or HTTP/2's.
    #[error("the server reset the stream with code {code:#x}")]
    Reset {
        /// The error code as sent.
        code: u64,
    },
    /// The server will take no more requests on this connection (GOAWAY).
    #[error("the server is closing the connection")]
    Closing,
    /// The connection ended before the answer did.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// What came is not HTTP as the version has it.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The body ended short of what the head declared, or ran over it.
    #[error("the body has {got} bytes, its head says {declared}")]
    Length {
        /// Bytes that came.
        got: u64,
        /// Bytes that were declared.
        declared: u64,
    },
    /// The body is longer than the caller will hold.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The caller's limit.
        limit: usize,
    },
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let reason = inner.to_string();
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        source = inner.source();
    }
    text
}
