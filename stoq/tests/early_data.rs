//! Resumption and early data: what the client is told is what happened.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod pair;

use std::sync::Arc;

use pair::{client, server};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stoq::quic::{
    CidKeys, Endpoint, EndpointConfig, ReadError, TlsClient, TlsServer, TransportConfig,
};

/// A server that answers each stream with what it read, and a client of it. `early`: the server takes early data.
/// Last the same TLS without memory of the tickets it gave.
fn echo(early: bool) -> (Endpoint, Endpoint, TlsClient, TlsServer) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let certificate = issued.cert.der().clone();
    let tls = |early: bool| {
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![b"test".to_vec()];
        tls.max_early_data_size = if early { u32::MAX } else { 0 };
        TlsServer::new(Arc::new(tls)).unwrap()
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut trusting = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    trusting.alpn_protocols = vec![b"test".to_vec()];
    trusting.enable_early_data = true;
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls(early));
    let server = server(config);
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(connecting) = accepting.accept().await {
            tokio::spawn(async move {
                let connection = connecting.establish().await.unwrap();
                assert_eq!(connection.handshake(), None, "a server is not told");
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let text = recv.read_to_end(100).await.unwrap();
                    send.write_all(&text).await.unwrap();
                    send.finish().unwrap();
                }
            });
        }
    });
    let forgetful = tls(early);
    let tls = TlsClient::new(Arc::new(trusting)).unwrap();
    (server, client(TransportConfig::default()), tls, forgetful)
}

/// A connection, what it read on a stream opened at once, and whether early data was tried and taken.
async fn ask(
    client: &Endpoint,
    server: &Endpoint,
    tls: &TlsClient,
) -> (
    stoq::quic::Connection,
    Result<Vec<u8>, ReadError>,
    Option<bool>,
) {
    let addr = server.local_addr().unwrap();
    let (connection, mut early) = client.connect_early(addr, "localhost", tls).await.unwrap();
    assert_eq!(connection.handshake().is_none(), early.is_offered());
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(100).await;
    let offered = early.is_offered();
    let taken = early.accepted().await;
    let taken = offered.then_some(taken);
    (connection, answer, taken)
}

#[tokio::test]
async fn a_second_connection_resumes_and_its_early_data_is_taken() {
    let (server, client, tls, _) = echo(true);
    let (first, answer, taken) = ask(&client, &server, &tls).await;
    assert_eq!((answer.unwrap(), taken), (b"hello".to_vec(), None));
    let handshake = first.handshake().unwrap();
    assert!(!handshake.resumed && !handshake.early_data);
    let (second, answer, taken) = ask(&client, &server, &tls).await;
    assert_eq!((answer.unwrap(), taken), (b"hello".to_vec(), Some(true)));
    let handshake = second.handshake().unwrap();
    assert!(handshake.resumed && handshake.early_data);
    let counters = client.counters();
    assert_eq!(counters.connects_started.get(), 2);
    assert_eq!(counters.connects_completed.get(), 2);
}

#[tokio::test]
async fn a_server_without_early_data_still_resumes() {
    let (server, client, tls, _) = echo(false);
    let (first, answer, _) = ask(&client, &server, &tls).await;
    assert!(answer.is_ok() && !first.handshake().unwrap().resumed);
    let (second, answer, taken) = ask(&client, &server, &tls).await;
    assert_eq!((answer.unwrap(), taken), (b"hello".to_vec(), None));
    let handshake = second.handshake().unwrap();
    assert!(handshake.resumed && !handshake.early_data);
}

#[tokio::test]
async fn streams_of_rejected_early_data_end_so_and_the_connection_goes_on() {
    let (server, client, tls, forgetful) = echo(true);
    let (_, answer, _) = ask(&client, &server, &tls).await;
    assert!(answer.is_ok());
    server.set_server(Some(forgetful));
    let (connection, answer, taken) = ask(&client, &server, &tls).await;
    assert_eq!(answer, Err(ReadError::EarlyDataRejected));
    assert_eq!(taken, Some(false));
    let handshake = connection.handshake().unwrap();
    assert!(!handshake.resumed && !handshake.early_data);
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"again").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"again");
    assert_eq!(client.counters().connects_completed.get(), 2);
}

#[tokio::test]
async fn early_data_to_nobody_ends_with_the_connection() {
    let (server, client, tls, _) = echo(true);
    let (_, answer, _) = ask(&client, &server, &tls).await;
    assert!(answer.is_ok());
    let addr = server.local_addr().unwrap();
    let (connection, mut early) = client.connect_early(addr, "localhost", &tls).await.unwrap();
    connection.close(0, b"");
    assert!(!early.accepted().await);
    assert_eq!(client.counters().connects_failed.get(), 1);
}
