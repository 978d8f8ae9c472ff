//! Clients of the three protocols, alike.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::{Buf as _, Bytes};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use stoq::quic::{Connection, Endpoint, TlsClient, TransportConfig};
use stoq_edge::tls::crypto_provider;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::Rig;

pub(crate) const ALL: [Version; 3] = [Version::HTTP_3, Version::HTTP_2, Version::HTTP_11];

pub(crate) type Upload = BoxStream<'static, Result<Bytes, std::io::Error>>;
type H3Stream = h3::client::RequestStream<stoq::h3::BidiStream<Bytes>, Bytes>;
type HyperBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// A connection.
#[derive(Clone)]
pub(crate) enum Client {
    H3(
        h3::client::SendRequest<stoq::h3::OpenStreams, Bytes>,
        Connection,
    ),
    H2(hyper::client::conn::http2::SendRequest<HyperBody>),
    H1(Arc<tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<HyperBody>>>),
}

/// A response whose head has come.
pub(crate) enum Answer {
    H3(Response<()>, Box<H3Stream>),
    Hyper(Response<Incoming>),
}

pub(crate) fn tls(rig: &Rig, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rig.ca.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

impl Client {
    pub(crate) async fn connect(rig: &Rig, version: Version) -> Result<Self> {
        match version {
            Version::HTTP_3 => {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = Endpoint::client(any, TransportConfig::default())?;
                let tls = TlsClient::new(tls(rig, b"h3"))?;
                let connection = endpoint.connect(rig.https, "localhost", &tls).await?;
                let adapted = stoq::h3::Connection::new(connection.clone());
                let (mut driver, requests) = h3::client::new(adapted).await?;
                tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
                Ok(Self::H3(requests, connection))
            }
            Version::HTTP_2 => {
                let io = Self::tls_stream(rig, b"h2").await?;
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (requests, connection) = handshake.await?;
                tokio::spawn(connection);
                Ok(Self::H2(requests))
            }
            _ => {
                let io = Self::tls_stream(rig, b"http/1.1").await?;
                let (requests, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                Ok(Self::H1(Arc::new(tokio::sync::Mutex::new(requests))))
            }
        }
    }

    async fn tls_stream(
        rig: &Rig,
        alpn: &[u8],
    ) -> Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(rig.https).await?;
        let name = ServerName::try_from("localhost").unwrap();
        Ok(TokioIo::new(
            TlsConnector::from(tls(rig, alpn))
                .connect(name, stream)
                .await?,
        ))
    }

    /// Sends a request and waits for the final head.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Upload>,
    ) -> Result<Answer> {
        let absolute = !matches!(self, Self::H1(_));
        let uri = if absolute {
            format!("https://localhost{path}")
        } else {
            path.to_owned()
        };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if !absolute {
            request = request.header("host", "localhost");
        }
        match self {
            Self::H3(requests, _) => {
                let mut stream = requests.send_request(request.body(())?).await?;
                if let Some(mut body) = body {
                    while let Some(piece) = body.next().await {
                        // A server that has answered may have stopped the rest.
                        if stream.send_data(piece?).await.is_err() {
                            break;
                        }
                    }
                }
                let _ = stream.finish().await;
                loop {
                    let response = stream.recv_response().await?;
                    if !response.status().is_informational() {
                        return Ok(Answer::H3(response, Box::new(stream)));
                    }
                }
            }
            Self::H2(requests) => Ok(Answer::Hyper(
                requests
                    .send_request(request.body(hyper_body(body))?)
                    .await?,
            )),
            Self::H1(requests) => {
                let mut requests = requests.lock().await;
                requests.ready().await?;
                Ok(Answer::Hyper(
                    requests
                        .send_request(request.body(hyper_body(body))?)
                        .await?,
                ))
            }
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], None).await
    }
}

fn hyper_body(body: Option<Upload>) -> HyperBody {
    let body = body.unwrap_or_else(|| stream::empty().boxed());
    StreamBody::new(body.map(|piece| piece.map(Frame::data)).boxed())
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::H3(response, _) => response.status(),
            Self::Hyper(response) => response.status(),
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        match self {
            Self::H3(response, _) => response.headers(),
            Self::Hyper(response) => response.headers(),
        }
    }

    /// The next piece.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::H3(_, stream) => {
                let piece = stream.recv_data().await?;
                Ok(piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
            }
            Self::Hyper(response) => match response.frame().await {
                None => Ok(None),
                Some(frame) => match frame?.into_data() {
                    Ok(data) => Ok(Some(data)),
                    Err(_) => bail!("trailers"),
                },
            },
        }
    }

    /// The whole body.
    pub(crate) async fn body(mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}
