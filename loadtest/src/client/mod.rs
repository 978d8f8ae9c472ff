//! One server, one version of HTTP, many requests.

mod answer;
mod error;
mod quic;
mod target;
mod tcp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, SizeHint};

pub use self::answer::{Answer, Body, Whole};
pub use self::error::ClientError;
pub(crate) use self::error::chain;
pub use self::quic::QuicParts;
pub use self::target::{Member, Site, Target, Trust};

/// A version of HTTP and, with it, of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1 over TLS, or over plain TCP for `http://`.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/3.
    Http3,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
        })
    }
}

impl FromStr for Version {
    type Err = String;

    /// `3`, `2` or `1`, as `--http` takes it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" | "1.1" => Ok(Self::Http1),
            "2" => Ok(Self::Http2),
            "3" => Ok(Self::Http3),
            other => Err(format!("`{other}` is none of 3, 2, 1")),
        }
    }
}

/// How long the parts of a connect took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectTimes {
    /// The name lookup; zero when the address was given.
    pub dns: Duration,
    /// To the TCP connection; zero for QUIC, whose connection and TLS are one handshake.
    pub connect: Duration,
    /// The TLS or QUIC handshake; zero for `http://`.
    pub tls: Duration,
}

/// A connection to one server. Cheap to clone; clones share the connection, which closes with the last one.
///
/// HTTP/1.1 carries one request at a time, so there a second request under way opens a second connection, and each is
/// used again when its answer was read to the end.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
    address: SocketAddr,
    times: ConnectTimes,
    wire: Wire,
}

#[derive(Debug, Clone)]
enum Wire {
    Tcp(tcp::TcpClient),
    Quic(quic::QuicClient),
}

impl Client {
    /// Connects to `target`. Without a bound of its own: wrap it in a timeout.
    ///
    /// # Errors
    /// The name has no address, nobody answers there, or the handshake fails; each its own variant.
    pub async fn connect(target: &Target, version: Version) -> Result<Self, ClientError> {
        let (address, dns) = target.lookup().await?;
        let (wire, connect, tls) = match version {
            Version::Http1 | Version::Http2 => {
                let (client, connect, tls) =
                    tcp::TcpClient::connect(target, address, version).await?;
                (Wire::Tcp(client), connect, tls)
            }
            Version::Http3 => {
                let (client, handshake) = quic::QuicClient::connect(target, address).await?;
                (Wire::Quic(client), Duration::ZERO, handshake)
            }
        };
        Ok(Self {
            target: target.clone(),
            address,
            times: ConnectTimes { dns, connect, tls },
            wire,
        })
    }

    /// The address connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long the connect took.
    #[must_use]
    pub fn times(&self) -> ConnectTimes {
        self.times
    }

    /// The version spoken.
    #[must_use]
    pub fn version(&self) -> Version {
        match &self.wire {
            Wire::Tcp(client) => client.version(),
            Wire::Quic(_) => Version::Http3,
        }
    }

    /// The QUIC connection below HTTP/3, for what HTTP has no word for: rebinding to another address, how and why it
    /// was closed, what the path measured. `None` for the others.
    #[must_use]
    pub fn quic(&self) -> Option<&QuicParts> {
        match &self.wire {
            Wire::Tcp(_) => None,
            Wire::Quic(client) => Some(client.parts()),
        }
    }

    /// Sends a request and waits for the head of the final response; interim ones are passed over.
    ///
    /// The URI may be a path alone, for the target's scheme and authority; a `Host` field takes the authority's place
    /// in every version. Any number of requests may be under way, as far as the server's stream limit lets them.
    /// Dropping the future, or the answer, cancels the exchange.
    ///
    /// # Errors
    /// The stream was reset, the connection closed, or what came is no response.
    pub async fn send(&self, request: Request<Payload>) -> Result<Answer, ClientError> {
        let request = self.complete(request)?;
        match &self.wire {
            Wire::Tcp(client) => client.send(request).await,
            Wire::Quic(client) => client.send(request).await,
        }
    }

    /// A GET of `path`.
    ///
    /// # Errors
    /// As [`send`](Self::send), and a path that is none.
    pub async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Payload::empty());
        self.send(request.map_err(|error| ClientError::Request(error.to_string()))?)
            .await
    }

    /// Closes the connection and waits until the peer was told.
    pub async fn close(self) {
        if let Wire::Quic(client) = &self.wire {
            client.close().await;
        }
    }

    /// The request with an absolute URI and without a `Host` field.
    fn complete(&self, request: Request<Payload>) -> Result<Request<Payload>, ClientError> {
        let (mut head, payload) = request.into_parts();
        let bad = |error: http::Error| ClientError::Request(error.to_string());
        let host = head.headers.remove(HOST);
        let authority = match (&host, head.uri.authority()) {
            (Some(host), _) => host
                .to_str()
                .map_err(|error| ClientError::Request(error.to_string()))?
                .to_owned(),
            (None, Some(authority)) => authority.to_string(),
            (None, None) => self.target.authority().to_string(),
        };
        let path = head
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        head.uri = Uri::builder()
            .scheme(self.target.scheme().clone())
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(bad)?;
        Ok(Request::from_parts(head, payload))
    }
}

/// The body of a request.
pub struct Payload(UnsyncBoxBody<Bytes, io::Error>);

impl Payload {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self(UnsyncBoxBody::new(
            Empty::new().map_err(|never| match never {}),
        ))
    }

    /// These bytes; their number is declared.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(UnsyncBoxBody::new(
            Full::new(bytes.into()).map_err(|never| match never {}),
        ))
    }

    /// Whatever `stream` gives, its length undeclared unless the request says it. An error breaks the request off.
    #[must_use]
    pub fn stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        use futures_util::TryStreamExt as _;
        Self(UnsyncBoxBody::new(StreamBody::new(
            stream.map_ok(Frame::data),
        )))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Payload")
            .field(&hyper::body::Body::size_hint(&self.0))
            .finish()
    }
}

impl From<()> for Payload {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl hyper::body::Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.get_mut().0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
