//! Servers for the clients to be tested on, one for each version, on loopback with port 0. What they answer is in
//! the path: `/N` N bytes, `/cut` a body that breaks off, when the request has ended, after half of what was
//! declared, `/echo` the request's body,
//! `/host` the authority asked for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Declared and never sent whole by `/cut`.
pub(crate) const CUT: u64 = 100_000;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
}

pub(crate) fn tls(alpn: &[u8]) -> (rustls::ServerConfig, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (config, certificate)
}

/// HTTP/1.1 or HTTP/2 over TLS, by `alpn`.
pub(crate) async fn over_tcp(alpn: &'static [u8]) -> Server {
    let (config, certificate) = tls(alpn);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let io = TokioIo::new(stream);
                if alpn == b"h2" {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(io, service_fn(answer)).await);
                } else {
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service_fn(answer))
                            .await,
                    );
                }
            });
        }
    });
    Server {
        address,
        certificate,
    }
}

type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

async fn answer(request: Request<Incoming>) -> Result<Reply, Infallible> {
    let full = |bytes: Bytes| UnsyncBoxBody::new(Full::new(bytes).map_err(|never| match never {}));
    let path = request.uri().path().to_owned();
    let reply = match path.as_str() {
        "/cut" => {
            let half = Bytes::from(vec![7; 50_000]);
            // The request's end says that the client has the first piece: only then is there something to cut.
            let rest = request
                .into_body()
                .collect()
                .map(|_| Err(std::io::Error::other("cut")));
            let pieces = stream::iter([Ok(Frame::data(half))]).chain(rest.into_stream());
            Response::builder()
                .header("content-length", CUT)
                .body(UnsyncBoxBody::new(StreamBody::new(pieces)))
        }
        "/echo" => {
            let body = request.into_body().map_err(std::io::Error::other);
            Response::builder().body(UnsyncBoxBody::new(body))
        }
        "/host" => {
            let header = request
                .headers()
                .get("host")
                .and_then(|host| host.to_str().ok());
            let host = header
                .or_else(|| request.uri().authority().map(|a| a.as_str()))
                .unwrap_or("none");
            Response::builder().body(full(Bytes::copy_from_slice(host.as_bytes())))
        }
        other => {
            let size = other.trim_start_matches('/').parse().unwrap_or(0);
            Response::builder().body(full(Bytes::from(vec![7; size])))
        }
    };
    Ok(reply.unwrap())
}

/// HTTP/3 over plain quinn.
pub(crate) fn over_quic() -> Server {
    let (config, certificate) = tls(b"h3");
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                let connection = h3_quinn::Connection::new(connection);
                let Ok(mut connection) = h3::server::Connection::<_, Bytes>::new(connection).await
                else {
                    return;
                };
                while let Ok(Some(request)) = connection.accept().await {
                    tokio::spawn(async move {
                        let Ok((request, stream)) = request.resolve_request().await else {
                            return;
                        };
                        drop(answer_h3(&request, stream).await);
                    });
                }
            });
        }
    });
    Server {
        address,
        certificate,
    }
}

type H3Stream = h3::server::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

async fn answer_h3(
    request: &Request<()>,
    mut stream: H3Stream,
) -> Result<(), h3::error::StreamError> {
    // An interim response first: clients must pass over it.
    stream
        .send_response(Response::builder().status(103).body(()).unwrap())
        .await?;
    let head = Response::builder().status(200);
    match request.uri().path() {
        "/cut" => {
            stream
                .send_response(head.header("content-length", CUT).body(()).unwrap())
                .await?;
            stream.send_data(Bytes::from(vec![7; 50_000])).await?;
            while stream.recv_data().await?.is_some() {}
            stream.stop_stream(h3::error::Code::H3_INTERNAL_ERROR);
            return Ok(());
        }
        "/short" => {
            stream
                .send_response(head.header("content-length", CUT).body(()).unwrap())
                .await?;
            stream.send_data(Bytes::from(vec![7; 50_000])).await?;
        }
        "/echo" => {
            stream.send_response(head.body(()).unwrap()).await?;
            while let Some(mut data) = stream.recv_data().await? {
                let bytes = data.copy_to_bytes(data.remaining());
                stream.send_data(bytes).await?;
            }
        }
        "/host" => {
            let host = request
                .uri()
                .authority()
                .map_or_else(String::new, ToString::to_string);
            stream.send_response(head.body(()).unwrap()).await?;
            stream.send_data(Bytes::from(host)).await?;
        }
        other => {
            let size = other.trim_start_matches('/').parse().unwrap_or(0);
            stream.send_response(head.body(()).unwrap()).await?;
            stream.send_data(Bytes::from(vec![7; size])).await?;
        }
    }
    stream.finish().await
}
