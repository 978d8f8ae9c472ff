//! Replies by the line, and both ends of HTTP/3's TLS, for tests.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use stoq::quic::{TlsClient, TlsServer};
use stoq_cache::http::cache_status::CacheStatus;
use stoq_cache::reply::{Reply, ReplyBody, StoredHead};

use crate::tls::{CertificateStore, DevCa, Resolver, ServerTls, crypto_provider};

/// A server for `localhost`, and a client that trusts it.
pub(crate) fn tls() -> (TlsServer, TlsClient) {
    let state = tempfile::tempdir().unwrap();
    let ca = DevCa::open(state.path(), SystemTime::now()).unwrap();
    let leaf = ca.leaf(&[], SystemTime::now()).unwrap();
    let mut store = CertificateStore::default();
    store.add(&leaf.names, &leaf.key);
    let server = ServerTls::new(&Resolver::new(store)).unwrap().quic;
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h3".to_vec()];
    (
        TlsServer::new(server).unwrap(),
        TlsClient::new(Arc::new(client)).unwrap(),
    )
}

/// A reply of this status, these fields and this body.
pub(crate) fn reply(status: u16, fields: &[(&'static str, &str)], body: ReplyBody) -> Reply {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    let head = Arc::new(StoredHead::new(
        StatusCode::from_u16(status).unwrap(),
        headers,
    ));
    Reply {
        head,
        status: None,
        overrides: Default::default(),
        removed: Default::default(),
        body,
        outcome: CacheStatus::Hit,
    }
}

/// A body that arrives in these pieces.
pub(crate) fn stream_of<const N: usize>(pieces: [&'static str; N]) -> ReplyBody {
    ReplyBody::Stream(Box::pin(stream::iter(
        pieces.map(|piece| Ok(Bytes::from_static(piece.as_bytes()))),
    )))
}
