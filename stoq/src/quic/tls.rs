//! TLS configurations as QUIC takes them.
//!
//! `rustls` is the vocabulary: whoever owns certificates builds the configuration (suites, verifiers, ALPN,
//! resumption), this file checks that QUIC can use it. Prefer `TLS_AES_128_GCM_SHA256` first: with SHA-384 the
//! hash alone is 18 % of a handshake.

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use super::{error::TlsError, handshake::Watching};

/// A server's TLS configuration. Cheap to clone; share one between the workers, so that they share its
/// resumption state as well.
#[derive(Clone)]
pub struct TlsServer {
    pub(super) crypto: Arc<QuicServerConfig>,
}

impl TlsServer {
    /// Takes a configuration that speaks TLS 1.3 and names at least one ALPN protocol.
    ///
    /// Early data (0-RTT) is as the configuration says: `max_early_data_size` is 0 (off, the default) or
    /// `u32::MAX`.
    ///
    /// # Errors
    /// [`TlsError`] says what is missing.
    pub fn new(config: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        if config.alpn_protocols.is_empty() {
            return Err(TlsError::NoAlpn);
        }
        let crypto =
            QuicServerConfig::try_from(config).map_err(|_| TlsError::NoInitialCipherSuite)?;
        Ok(Self {
            crypto: Arc::new(crypto),
        })
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

/// A client's TLS configuration, with the tokens that servers gave for the next visit. Cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    /// Kept ready-made: its token store must outlive a single connection.
    pub(super) config: quinn::ClientConfig,
}

impl TlsClient {
    /// Takes a configuration that speaks TLS 1.3 and names at least one ALPN protocol.
    ///
    /// # Errors
    /// [`TlsError`] says what is missing.
    pub fn new(config: Arc<rustls::ClientConfig>) -> Result<Self, TlsError> {
        if config.alpn_protocols.is_empty() {
            return Err(TlsError::NoAlpn);
        }
        let crypto =
            QuicClientConfig::try_from(config).map_err(|_| TlsError::NoInitialCipherSuite)?;
        Ok(Self {
            config: quinn::ClientConfig::new(Arc::new(Watching(Arc::new(crypto)))),
        })
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}
