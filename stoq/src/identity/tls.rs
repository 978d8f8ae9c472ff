//! Mutual TLS 1.3 with nothing but the house's own certificates.
//!
//! Sessions are not resumed: all nodes answer to one server name, so a client would offer one node's ticket to another. Who
//! wants tickets takes them from [`early`](crate::early), which keeps them apart; [`check`](super::check()) after the handshake is what
//! makes them safe then.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::error::{IdentityError, Refusal};
use super::handshake::{Judge, tls_client, tls_server};
use super::node::{Identity, Inner};
use crate::quic::{TlsClient, TlsServer};

/// The name every leaf is issued for, and that a client asks for. Addresses and host names play no part in trust.
pub const SERVER_NAME: &str = "node.stoq";

/// The ALPN of connections between nodes.
pub const ALPN: &[u8] = b"stoq/1";

/// Whom is dialled, and where the verifier leaves the refusal that TLS itself can only tell as an alert.
pub(crate) type Verdict = (SocketAddr, Arc<OnceLock<Refusal>>);

impl Identity {
    /// For an endpoint that takes connections of other nodes. Covers every leaf to come: it needs no reload.
    ///
    /// # Errors
    /// No leaf can be issued now.
    pub fn server_tls(&self) -> Result<TlsServer, IdentityError> {
        Ok(TlsServer::new(self.server_config(ALPN)?)?)
    }

    /// To connect to other nodes, under the name [`SERVER_NAME`]. [`PeerConn::dial`](crate::peer::PeerConn::dial) does
    /// this by itself.
    ///
    /// # Errors
    /// No leaf can be issued now.
    pub fn client_tls(&self) -> Result<TlsClient, IdentityError> {
        Ok(TlsClient::new(self.client_config(ALPN)?)?)
    }

    /// The rustls configuration to accept nodes of this cluster with this ALPN. A peer that [`check`](super::check()) refuses fails
    /// the handshake.
    ///
    /// # Errors
    /// No leaf can be issued now, so that a server does not start only to refuse everyone.
    pub fn server_config(&self, alpn: &[u8]) -> Result<Arc<ServerConfig>, IdentityError> {
        self.leaf_now()?;
        let node = Arc::new(Papers::new(self, None));
        let mut config =
            tls_server(node.clone(), self.inner().trust.clock.clone())?.with_cert_resolver(node);
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// The rustls configuration to reach nodes of this cluster with this ALPN, under the name [`SERVER_NAME`].
    ///
    /// # Errors
    /// No leaf can be issued now.
    pub fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, IdentityError> {
        self.client_config_telling(alpn, None)
    }

    pub(crate) fn client_config_telling(
        &self,
        alpn: &[u8],
        verdict: Option<Verdict>,
    ) -> Result<Arc<ClientConfig>, IdentityError> {
        self.leaf_now()?;
        let node = Arc::new(Papers::new(self, verdict));
        let mut config = tls_client(node.clone(), self.inner().trust.clock.clone())?
            .with_client_cert_resolver(node);
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// A node's side of a handshake: shows its leaf, judges the peer's.
#[derive(Debug)]
struct Papers {
    node: Arc<Inner>,
    verdict: Option<Verdict>,
}

impl Papers {
    fn new(identity: &Identity, verdict: Option<Verdict>) -> Self {
        Self {
            node: identity.inner().clone(),
            verdict,
        }
    }

    fn show(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if !schemes.contains(&SignatureScheme::ED25519) {
            return None;
        }
        let now = self.node.trust.clock.current_time()?;
        match self.node.leaves.current(now) {
            Ok(leaf) => Some(leaf.certified),
            Err(error) => {
                tracing::error!(%error, "cannot issue a leaf certificate");
                None
            }
        }
    }
}

impl Judge for Papers {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let addr = self.verdict.as_ref().map(|(addr, _)| *addr);
        self.node
            .judge(chain, now, addr)
            .map(drop)
            .map_err(|refusal| {
                tracing::warn!(%refusal, "peer refused in the handshake");
                let alert = alert_of(&refusal);
                if let Some((_, verdict)) = &self.verdict {
                    let _ = verdict.set(refusal);
                }
                Error::InvalidCertificate(alert)
            })
    }
}

/// The error by which rustls sends the alert that [`CloseCode::of_alert`](crate::wire::CloseCode::of_alert) reads.
fn alert_of(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::Foreign(_) => CertificateError::UnknownIssuer,
        Refusal::Expired { .. } => CertificateError::Expired,
        Refusal::NotYetValid { .. } => CertificateError::NotValidYet,
        Refusal::Cluster { .. } => CertificateError::ApplicationVerificationFailure,
        Refusal::LeafLifetime { .. } => CertificateError::InvalidPurpose,
        Refusal::Revoked { .. } => CertificateError::Revoked,
        Refusal::Malformed { .. } | Refusal::NoCertificate => CertificateError::BadEncoding,
    }
}

impl ResolvesServerCert for Papers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.show(hello.signature_schemes())
    }
}

impl ResolvesClientCert for Papers {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.show(schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
