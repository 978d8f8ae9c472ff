//! A connected client and server on the loopback.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]
#![expect(unreachable_pub, reason = "a module of test binaries")]

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use stoq::quic::{
    CidKeys, Connection, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TlsClient,
    TlsServer, TransportConfig,
};

/// Both ends of one connection, and their endpoints.
#[derive(Debug)]
pub struct Pair {
    pub client: Connection,
    pub server: Connection,
    pub client_endpoint: Endpoint,
    pub server_endpoint: Endpoint,
    pub tls_client: TlsClient,
    pub tls_server: TlsServer,
}

impl Pair {
    pub async fn connect() -> Self {
        Self::with(TransportConfig::default()).await
    }

    pub async fn with(transport: TransportConfig) -> Self {
        let (tls_server, tls_client) = tls(b"test");
        let mut config = EndpointConfig::new(CidKeys::random());
        config.server = Some(tls_server.clone());
        config.transport = transport.clone();
        let server_endpoint = server(config);
        let client_endpoint = client(transport);
        let addr = server_endpoint.local_addr().unwrap();
        let accept = async {
            server_endpoint
                .accept()
                .await
                .unwrap()
                .establish()
                .await
                .unwrap()
        };
        let connect = async {
            client_endpoint
                .connect(addr, "localhost", &tls_client)
                .await
                .unwrap()
        };
        let (server, client) = tokio::join!(accept, connect);
        Self {
            client,
            server,
            client_endpoint,
            server_endpoint,
            tls_client,
            tls_server,
        }
    }
}

/// An endpoint on a socket of its own.
pub fn server(config: EndpointConfig) -> Endpoint {
    let group =
        SocketGroup::bind("127.0.0.1:0".parse().unwrap(), 1, &SocketOptions::default()).unwrap();
    Endpoint::new(group.take(0).unwrap(), config).unwrap()
}

pub fn client(transport: TransportConfig) -> Endpoint {
    Endpoint::client("127.0.0.1:0".parse().unwrap(), transport).unwrap()
}

/// A server with a certificate for `localhost` and a client that trusts it.
pub fn tls(alpn: &[u8]) -> (TlsServer, TlsClient) {
    tls_for(alpn, vec!["localhost".to_owned()])
}

/// The same for these names, which make the certificate long if they are many.
pub fn tls_for(alpn: &[u8], names: Vec<String>) -> (TlsServer, TlsClient) {
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![alpn.to_vec()];
    (
        TlsServer::new(Arc::new(server)).unwrap(),
        tls_client(alpn, issued.cert.der().clone()),
    )
}

/// A client that trusts this certificate.
pub fn tls_client(alpn: &[u8], trusted: CertificateDer<'static>) -> TlsClient {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![alpn.to_vec()];
    TlsClient::new(Arc::new(client)).unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
