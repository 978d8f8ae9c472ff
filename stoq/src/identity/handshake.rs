//! What rustls asks of both sides of a handshake between machines of a cluster, in one place: TLS 1.3 alone, Ed25519 alone,
//! the peer's certificates judged by a [`Judge`] and nothing else.
//!
//! The provider is given explicitly; whatever the process installed as its default is not looked at.

use std::fmt;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature,
};
use rustls::server::WantsServerCert;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Says who is talked to.
pub(crate) trait Judge: fmt::Debug + Send + Sync + 'static {
    /// Judges a peer by the certificates it shows, its own first. That it has the key to that one, the handshake proves.
    ///
    /// # Errors
    /// It is refused, with the alert that this error stands for.
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error>;
}

/// The beginning of a configuration for the side that connects, to peers that `judge` takes.
pub(crate) fn tls_client(
    judge: Arc<dyn Judge>,
    clock: Arc<dyn TimeProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let builder = ClientConfig::builder_with_details(Arc::new(provider()), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = Arc::new(Verifier::new(judge));
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// The beginning of a configuration for the side that accepts, from peers that `judge` takes. Without a certificate nobody
/// comes in.
pub(crate) fn tls_server(
    judge: Arc<dyn Judge>,
    clock: Arc<dyn TimeProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, Error> {
    let builder = ServerConfig::builder_with_details(Arc::new(provider()), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.with_client_cert_verifier(Arc::new(Verifier::new(judge))))
}

/// AES first: where the CPU has AES instructions it is nearly twice as fast as ChaCha20, and SHA-384 would be a
/// sixth of a handshake.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

/// A [`Judge`] as rustls wants to be told.
#[derive(Debug)]
struct Verifier {
    judge: Arc<dyn Judge>,
    algorithms: WebPkiSupportedAlgorithms,
    no_hints: Vec<DistinguishedName>,
}

impl Verifier {
    fn new(judge: Arc<dyn Judge>) -> Self {
        Self {
            judge,
            algorithms: provider().signature_verification_algorithms,
            no_hints: Vec::new(),
        }
    }

    fn judge(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + others.len());
        chain.push(own.clone());
        chain.extend(others.iter().cloned());
        self.judge.judge(&chain, now)
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }
}

/// TLS 1.2 is never offered, so whoever signs by it has not listened.
fn older() -> Error {
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(own, others, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(older())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.no_hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(own, others, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(older())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
