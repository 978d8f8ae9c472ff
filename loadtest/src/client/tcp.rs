//! HTTP/1.1 and HTTP/2 over hyper, plain or over TLS.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer::{Answer, Source};
use super::error::{ClientError, chain};
use super::{Payload, Target, Version};

/// HTTP/2 windows: what a response may have in flight unread, and a connection in all.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

#[derive(Clone)]
pub(super) enum TcpClient {
    Http1(Arc<Http1>),
    Http2(http2::SendRequest<Payload>),
}

/// Connections of one HTTP/1.1 client that no request is using. As many as were ever needed at a time.
pub(super) struct Http1 {
    target: Target,
    address: SocketAddr,
    idle: Mutex<Vec<http1::SendRequest<Payload>>>,
}

impl fmt::Debug for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpClient").field(&self.version()).finish()
    }
}

impl TcpClient {
    pub(super) async fn connect(
        target: &Target,
        address: SocketAddr,
        version: Version,
    ) -> Result<(Self, Duration, Duration), ClientError> {
        if version == Version::Http2 && !target.is_secure() {
            return Err(ClientError::Target(
                "HTTP/2 is spoken over https:// only".to_owned(),
            ));
        }
        let (stream, connect, tls) = dial(target, address, version).await?;
        let client = match version {
            Version::Http2 => Self::Http2(start_http2(stream).await?),
            Version::Http1 | Version::Http3 => {
                let idle = Mutex::new(vec![start_http1(stream).await?]);
                Self::Http1(Arc::new(Http1 {
                    target: target.clone(),
                    address,
                    idle,
                }))
            }
        };
        Ok((client, connect, tls))
    }

    pub(super) fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::Http1,
            Self::Http2(_) => Version::Http2,
        }
    }

    /// Sends a request whose URI is absolute.
    pub(super) async fn send(&self, mut request: Request<Payload>) -> Result<Answer, ClientError> {
        let method = request.method().clone();
        match self {
            Self::Http2(sender) => {
                let response = sender
                    .clone()
                    .send_request(request)
                    .await
                    .map_err(|error| lost(&error))?;
                let (head, incoming) = response.into_parts();
                Answer::new(
                    head,
                    &method,
                    Source::Tcp(TcpBody {
                        incoming,
                        after: After::Http2,
                    }),
                )
            }
            Self::Http1(client) => {
                to_origin_form(&mut request)?;
                let mut sender = client.take().await?;
                let response = sender
                    .send_request(request)
                    .await
                    .map_err(|error| lost(&error))?;
                let (head, incoming) = response.into_parts();
                let after = After::Http1(Some((sender, Arc::clone(client))));
                Answer::new(head, &method, Source::Tcp(TcpBody { incoming, after }))
            }
        }
    }
}

impl Http1 {
    async fn take(&self) -> Result<http1::SendRequest<Payload>, ClientError> {
        loop {
            let Some(mut sender) = self.idle.lock().pop() else {
                break;
            };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let (stream, ..) = dial(&self.target, self.address, Version::Http1).await?;
        start_http1(stream).await
    }
}

/// What the body's end means for its connection.
enum After {
    Http1(Option<(http1::SendRequest<Payload>, Arc<Http1>)>),
    Http2,
}

pub(super) struct TcpBody {
    incoming: Incoming,
    after: After,
}

impl fmt::Debug for TcpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpBody").finish()
    }
}

impl TcpBody {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| lost(&error))?;
            match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(Some(bytes)),
                // Trailers: nothing here looks at them.
                Err(_) => {}
            }
        }
        match &mut self.after {
            // hyper ends a body quietly on a reset with NO_ERROR; before END_STREAM that is no end.
            After::Http2 if !self.incoming.is_end_stream() => Err(ClientError::Reset { code: 0 }),
            After::Http2 => Ok(None),
            After::Http1(held) => {
                if let Some((sender, client)) = held.take() {
                    client.idle.lock().push(sender);
                }
                Ok(None)
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(
    target: &Target,
    address: SocketAddr,
    version: Version,
) -> Result<(Box<dyn Stream>, Duration, Duration), ClientError> {
    let started = Instant::now();
    let failed = |error: std::io::Error| ClientError::Connect(format!("{address}: {error}"));
    let tcp = TcpStream::connect(address).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let connect = started.elapsed();
    if !target.is_secure() {
        return Ok((Box::new(tcp), connect, Duration::ZERO));
    }
    let connector = TlsConnector::from(Arc::new(target.tls(version)?));
    let started = Instant::now();
    let stream = connector
        .connect(target.server_name()?, tcp)
        .await
        .map_err(|error| ClientError::Handshake(chain(&error)))?;
    let alpn = stream.get_ref().1.alpn_protocol();
    if version == Version::Http2 && alpn != Some(b"h2") {
        return Err(ClientError::Handshake(
            "the server does not speak HTTP/2".to_owned(),
        ));
    }
    Ok((Box::new(stream), connect, started.elapsed()))
}

async fn start_http1(stream: Box<dyn Stream>) -> Result<http1::SendRequest<Payload>, ClientError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::Handshake(chain(&error)))?;
    // Ends with the last sender, or with the connection; its error reaches the exchange it broke.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn start_http2(stream: Box<dyn Stream>) -> Result<http2::SendRequest<Payload>, ClientError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::Handshake(chain(&error)))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// HTTP/1.1 asks a server for a path and names the host in a field.
fn to_origin_form(request: &mut Request<Payload>) -> Result<(), ClientError> {
    let bad = |error: &dyn Error| ClientError::Request(error.to_string());
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| bad(&error))?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// hyper's error as ours.
fn lost(error: &hyper::Error) -> ClientError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>()
            && h2.is_remote()
            && let Some(reason) = h2.reason()
        {
            return if h2.is_go_away() {
                ClientError::Closing
            } else {
                ClientError::Reset {
                    code: u64::from(u32::from(reason)),
                }
            };
        }
        source = inner.source();
    }
    if error.is_parse() || error.is_user() {
        ClientError::Protocol(chain(error))
    } else {
        ClientError::Closed(chain(error))
    }
}
