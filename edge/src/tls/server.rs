//! The two rustls server configurations of the edge: TLS 1.3 for QUIC, 1.2 and 1.3 for TCP.
//!
//! Both show the same certificates, prefer AES-128-GCM, resume statefully from a bounded store that all workers
//! share, and accept no early data.

use std::sync::{Arc, OnceLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ServerSessionMemoryCache;

use super::TlsError;
use super::store::Resolver;

/// Sessions that can be resumed, for QUIC and for TCP each; older ones make room.
/// 20,000 × about 0.5 KiB = 10 MiB a store; two tickets are issued a handshake, so the last 10,000 clients.
pub const SESSIONS_MAX: usize = 20_000;

/// Tickets a full handshake issues: browsers use each once and open a second connection soon.
const TICKETS: usize = 2;

/// The house's crypto: aws-lc-rs, AES-128-GCM first.
pub fn crypto_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        // SHA-384 of the 256-bit suites is 18 % of a handshake's cost, and the record layer is dearer as well.
        // The sort is stable: what is not AES-128 keeps the library's order.
        provider
            .cipher_suites
            .sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128_GCM"));
        Arc::new(provider)
    })
}

/// The server configurations over one resolver; made once a process, cloned to the workers.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// For QUIC: TLS 1.3 only, ALPN `h3`.
    pub quic: Arc<ServerConfig>,
    /// For TCP: TLS 1.2 and 1.3, ALPN `h2`, `http/1.1`.
    pub tcp: Arc<ServerConfig>,
}

impl ServerTls {
    /// Builds both.
    ///
    /// # Errors
    /// Only if the TLS library refuses its own suites.
    pub fn new(resolver: &Arc<Resolver>) -> Result<Self, TlsError> {
        let quic = config(resolver, &[&rustls::version::TLS13], &[b"h3"])?;
        let tcp = config(
            resolver,
            &[&rustls::version::TLS13, &rustls::version::TLS12],
            &[b"h2", b"http/1.1"],
        )?;
        Ok(Self {
            quic: Arc::new(quic),
            tcp: Arc::new(tcp),
        })
    }
}

fn config(
    resolver: &Arc<Resolver>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver.clone());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Clients of one library differ in their order for no reason of their own; ours has one.
    config.ignore_client_order = true;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = TICKETS;
    //= https://www.rfc-editor.org/rfc/rfc8446#section-8
    //# TLS does not provide inherent replay protections for 0-RTT data.
    config.max_early_data_size = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CipherSuite;

    #[test]
    fn aes_128_gcm_comes_first_in_both_versions() {
        let suites: Vec<_> = crypto_provider()
            .cipher_suites
            .iter()
            .map(|suite| suite.suite())
            .collect();
        assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        let first_tls12 = suites
            .iter()
            .find(|suite| format!("{suite:?}").starts_with("TLS_ECDHE"))
            .unwrap();
        assert!(
            format!("{first_tls12:?}").contains("AES_128_GCM"),
            "{suites:?}"
        );
        assert_eq!(
            suites.len(),
            aws_lc_rs::default_provider().cipher_suites.len()
        );
    }

    #[test]
    fn no_early_data_and_the_right_protocols() {
        let tls = ServerTls::new(&Resolver::new(crate::tls::CertificateStore::default())).unwrap();
        assert_eq!(tls.quic.alpn_protocols, [b"h3".to_vec()]);
        assert_eq!(
            tls.tcp.alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
        assert_eq!(
            (tls.quic.max_early_data_size, tls.tcp.max_early_data_size),
            (0, 0)
        );
    }
}
