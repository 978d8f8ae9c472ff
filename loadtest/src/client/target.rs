//! Whom to connect to, at which address, and whose certificates to believe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::{Authority, Scheme};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use stoq::identity::Identity;

use super::Version;
use super::error::ClientError;

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The system's store.
    System,
    /// The certificates in this PEM text, and no others.
    Pem(Vec<u8>),
    /// This certificate, and no other.
    Certificate(CertificateDer<'static>),
    /// Anybody's. For tests and benchmarks of servers whose certificate is not the question.
    Insecure,
    /// The nodes of a cluster. For `stoq://` alone.
    Cluster(Box<Member>),
}

/// This side as a node of a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Shown to the other node, which must be of the same cluster.
    pub identity: Identity,
    /// Whose objects are asked for; `None` for the exchanges of `stoq-bench stoq-server`.
    pub site: Option<Site>,
    /// The largest UDP payload to use, bytes; `None` for what nodes use.
    pub mtu: Option<u16>,
}

/// A site, as the configuration of a cluster's nodes has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name there.
    pub name: String,
    /// With whom it shares chunks; `None` for its own name, which is the default there too.
    pub dedupe_domain: Option<String>,
    /// Whether its URLs begin with `https://`.
    pub https: bool,
}

/// A server: a URL's scheme and authority, perhaps an address to use instead of a lookup, and whom to trust.
#[derive(Debug, Clone)]
pub struct Target {
    scheme: Scheme,
    authority: Authority,
    address: Option<SocketAddr>,
    trust: Trust,
}

impl Target {
    /// The server of `url`, looked up by name and trusted by the system's store.
    ///
    /// # Errors
    /// No absolute `http` or `https` URL.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::Target(format!("URL `{url}`: {reason}"));
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
            Some(_) | None => return Err(bad("begins with neither `https://` nor `http://`")),
        };
        let authority = uri.authority().cloned().ok_or_else(|| bad("has no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(bad("needs a host and no user name"));
        }
        Ok(Self {
            scheme,
            authority,
            address: None,
            trust: Trust::System,
        })
    }

    /// A node of a cluster: `stoq://host:port`, to which `identity` is shown and which must be of the same cluster.
    ///
    /// # Errors
    /// No such URL, or one without a port: STOQ has no default.
    pub fn node(url: &str, identity: Identity) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::Target(format!("URL `{url}`: {reason}"));
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let scheme = match uri.scheme() {
            Some(scheme) if scheme.as_str() == "stoq" => scheme.clone(),
            Some(_) | None => return Err(bad("does not begin with `stoq://`")),
        };
        let authority = uri.authority().cloned().ok_or_else(|| bad("has no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(bad("needs a host and no user name"));
        }
        if authority.port_u16().is_none() {
            return Err(bad("needs a port, as in `stoq://shield-1:7443`"));
        }
        Ok(Self {
            scheme,
            authority,
            address: None,
            trust: Trust::Cluster(Box::new(Member {
                identity,
                site: None,
                mtu: None,
            })),
        })
    }

    /// Objects of `site` are asked for, as an edge does it, where the target is a [`node`](Self::node).
    #[must_use]
    pub fn of_site(mut self, site: Site) -> Self {
        if let Trust::Cluster(member) = &mut self.trust {
            member.site = Some(site);
        }
        self
    }

    /// UDP payloads grow to `mtu` bytes, where the target is a [`node`](Self::node) and the path and the other side carry it.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Self {
        if let Trust::Cluster(member) = &mut self.trust {
            member.mtu = Some(mtu);
        }
        self
    }

    /// Connects to `address`, whatever the name says; the name is still sent and verified.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Believes `trust` instead of the system's store.
    #[must_use]
    pub fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.scheme != Scheme::HTTP
    }

    /// This side as a node of the target's cluster.
    pub(crate) fn member(&self) -> Option<&Member> {
        match &self.trust {
            Trust::Cluster(member) => Some(member),
            Trust::System | Trust::Pem(_) | Trust::Certificate(_) | Trust::Insecure => None,
        }
    }

    /// The host without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port, the scheme's default if the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority
            .port_u16()
            .unwrap_or_else(|| if self.is_secure() { 443 } else { 80 })
    }

    /// The address to connect to, looked up on the calling thread: before a run, where nothing is timed.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, ClientError> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let failed = |reason: String| ClientError::Lookup {
            host: self.host().to_owned(),
            reason,
        };
        let found = std::net::ToSocketAddrs::to_socket_addrs(&(self.host(), self.port()));
        found
            .map_err(|error| failed(error.to_string()))?
            .next()
            .ok_or_else(|| failed("no address".to_owned()))
    }

    pub(crate) async fn lookup(&self) -> Result<(SocketAddr, Duration), ClientError> {
        if let Some(address) = self.address {
            return Ok((address, Duration::ZERO));
        }
        let started = Instant::now();
        let failed = |reason: String| ClientError::Lookup {
            host: self.host().to_owned(),
            reason,
        };
        let mut found = tokio::net::lookup_host((self.host(), self.port()))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let address = found
            .next()
            .ok_or_else(|| failed("no address".to_owned()))?;
        Ok((address, started.elapsed()))
    }

    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, ClientError> {
        ServerName::try_from(self.host().to_owned()).map_err(|_| {
            ClientError::Target(format!("`{}` cannot be a certificate's name", self.host()))
        })
    }

    /// TLS for one version: its ALPN, the trust, and AES-128-GCM first, for clients decide and a benchmark should not
    /// measure SHA-384.
    pub(crate) fn tls(&self, version: Version) -> Result<ClientConfig, ClientError> {
        let bad = |reason: String| ClientError::Target(reason);
        let mut provider = aws_lc_rs::default_provider();
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != TLS13_AES_128_GCM_SHA256.suite());
        // aws-lc seeds itself on the first random byte of a process, which takes tens of milliseconds: here, where
        // nothing is timed, and not in the first handshake.
        provider
            .secure_random
            .fill(&mut [0])
            .map_err(|_| bad("no random bytes".to_owned()))?;
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = match version {
            // RFC 9001 §4.2: QUIC has no other.
            Version::Http3 => builder.with_protocol_versions(&[&rustls::version::TLS13]),
            Version::Http1 | Version::Http2 => builder.with_safe_default_protocol_versions(),
        };
        let builder = builder.map_err(|error| bad(error.to_string()))?;
        let mut config = match &self.trust {
            Trust::Insecure => {
                let verifier = Arc::new(Anybody(provider));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_no_client_auth()
            }
            trust => builder
                .with_root_certificates(roots(trust)?)
                .with_no_client_auth(),
        };
        let alpn: &[u8] = match version {
            Version::Http1 => b"http/1.1",
            Version::Http2 => b"h2",
            Version::Http3 => b"h3",
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }
}

fn roots(trust: &Trust) -> Result<RootCertStore, ClientError> {
    let bad = |reason: String| ClientError::Target(format!("certificate authorities: {reason}"));
    let mut store = RootCertStore::empty();
    match trust {
        Trust::Insecure => {}
        Trust::Cluster(_) => return Err(bad("a cluster's root is none of HTTP's".to_owned())),
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        Trust::Certificate(certificate) => {
            store
                .add(certificate.clone())
                .map_err(|error| bad(error.to_string()))?;
        }
        Trust::Pem(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                store
                    .add(certificate)
                    .map_err(|error| bad(error.to_string()))?;
            }
        }
    }
    if store.is_empty() {
        return Err(bad("none found".to_owned()));
    }
    Ok(store)
}

/// Takes any certificate, but still only from whoever holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_scheme_and_brackets_are_taken_off() {
        let target = Target::new("https://[::1]/a").unwrap();
        assert_eq!((target.host(), target.port()), ("::1", 443));
        assert_eq!(Target::new("http://a.example").unwrap().port(), 80);
        for url in ["a.example", "ftp://a", "https://", "https://me@a"] {
            assert!(Target::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_empty_list_of_authorities_is_an_error() {
        let target = Target::new("https://a")
            .unwrap()
            .trusting(Trust::Pem(Vec::new()));
        assert!(target.tls(Version::Http2).is_err());
    }
}
