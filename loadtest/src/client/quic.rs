//! HTTP/3: the h3 crate over `stoq::quic`.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, ConnectionError, StreamError};
use h3::quic::ConnectionErrorIncoming;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use stoq::h3::{OpenStreams, RecvStream, SendStream};
use stoq::quic::{Connection, Endpoint, TlsClient, TransportConfig};
use tokio::task::AbortHandle;

use super::answer::{Answer, Source};
use super::error::{ClientError, chain};
use super::{Payload, Target, Version};

/// The QUIC side of an HTTP/3 client.
#[derive(Debug, Clone)]
pub struct QuicParts {
    /// The connection: how it was closed, its path, its streams.
    pub connection: Connection,
    /// The endpoint it lives on, which it has for itself.
    pub endpoint: Endpoint,
}

impl QuicParts {
    /// Moves the client to a new local port: to the server, a migration (RFC 9000 §9).
    ///
    /// # Errors
    /// What the system says to a new socket.
    pub fn rebind(&self) -> io::Result<()> {
        self.endpoint
            .rebind(any_address(self.connection.remote_addr()))
    }
}

#[derive(Clone)]
pub(super) struct QuicClient {
    requests: SendRequest<OpenStreams, Bytes>,
    parts: QuicParts,
    driver: Arc<Driver>,
}

impl fmt::Debug for QuicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuicClient")
            .field(&self.parts.connection)
            .finish()
    }
}

/// The task that reads control and QPACK streams; ends with the last client.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl QuicClient {
    pub(super) async fn connect(
        target: &Target,
        address: SocketAddr,
    ) -> Result<(Self, Duration), ClientError> {
        if !target.is_secure() {
            return Err(ClientError::Target(
                "HTTP/3 is spoken over https:// only".to_owned(),
            ));
        }
        let tls = TlsClient::new(Arc::new(target.tls(Version::Http3)?))
            .map_err(|error| ClientError::Target(error.to_string()))?;
        let endpoint = Endpoint::client(any_address(address), TransportConfig::default())
            .map_err(|error| ClientError::Connect(format!("{address}: {error}")))?;
        let started = Instant::now();
        let connection = endpoint
            .connect(address, target.host(), &tls)
            .await
            .map_err(|error| ClientError::Handshake(format!("{address}: {error}")))?;
        let handshake = started.elapsed();
        let (mut driver, requests) = h3::client::builder()
            .send_grease(false)
            .build::<_, _, Bytes>(stoq::h3::Connection::new(connection.clone()))
            .await
            .map_err(|error| closed(&error))?;
        let task = tokio::spawn(async move {
            driver.wait_idle().await;
        });
        let parts = QuicParts {
            connection,
            endpoint,
        };
        Ok((
            Self {
                requests,
                parts,
                driver: Arc::new(Driver(task.abort_handle())),
            },
            handshake,
        ))
    }

    pub(super) fn parts(&self) -> &QuicParts {
        &self.parts
    }

    /// Sends a request whose URI is absolute.
    pub(super) async fn send(&self, request: Request<Payload>) -> Result<Answer, ClientError> {
        let (mut head, mut payload) = request.into_parts();
        let method = head.method.clone();
        if let Some(length) = payload.size_hint().exact()
            && !payload.is_end_stream()
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let request = Request::from_parts(head, ());
        let stream = self
            .requests
            .clone()
            .send_request(request)
            .await
            .map_err(|error| lost(&error))?;
        let (mut send, mut receive) = stream.split();
        let upload = if payload.is_end_stream() {
            send.finish().await.map_err(|error| lost(&error))?;
            None
        } else {
            // The answer may come before the request is whole, so both are under way at once.
            Some(Driver(
                tokio::spawn(async move { upload(&mut send, &mut payload).await }).abort_handle(),
            ))
        };
        loop {
            let response = receive
                .recv_response()
                .await
                .map_err(|error| lost(&error))?;
            if response.status().is_informational() {
                continue;
            }
            let body = QuicBody {
                receive,
                _upload: upload,
                _driver: Arc::clone(&self.driver),
            };
            return Answer::new(response.into_parts().0, &method, Source::Quic(body));
        }
    }

    pub(super) async fn close(&self) {
        self.parts.connection.close(Code::H3_NO_ERROR.value(), b"");
        self.parts.endpoint.wait_idle().await;
    }
}

/// Sends the body on. An error of the server's side shows on the answer; one of the caller's resets the stream.
async fn upload(send: &mut RequestStream<SendStream<Bytes>, Bytes>, payload: &mut Payload) {
    while let Some(frame) = payload.frame().await {
        let Ok(frame) = frame else {
            send.stop_stream(Code::H3_REQUEST_CANCELLED);
            return;
        };
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        if send.send_data(bytes).await.is_err() {
            return;
        }
    }
    drop(send.finish().await);
}

pub(super) struct QuicBody {
    receive: RequestStream<RecvStream, Bytes>,
    _upload: Option<Driver>,
    _driver: Arc<Driver>,
}

impl fmt::Debug for QuicBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuicBody").finish()
    }
}

impl QuicBody {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self
                .receive
                .recv_data()
                .await
                .map_err(|error| lost(&error))?
            {
                Some(mut data) => {
                    let bytes = data.copy_to_bytes(data.remaining());
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                None => {
                    // Trailers, or the end itself: only past them is the stream known to have ended well.
                    self.receive
                        .recv_trailers()
                        .await
                        .map_err(|error| lost(&error))?;
                    return Ok(None);
                }
            }
        }
    }
}

/// The unspecified address of the same family.
fn any_address(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn lost(error: &StreamError) -> ClientError {
    match error {
        StreamError::RemoteTerminate { code, .. } => ClientError::Reset { code: code.value() },
        StreamError::RemoteClosing { .. } => ClientError::Closing,
        StreamError::ConnectionError { 0: error, .. } => closed(error),
        other => ClientError::Protocol(chain(other)),
    }
}

fn closed(error: &ConnectionError) -> ClientError {
    match error {
        ConnectionError::Local { error, .. } => ClientError::Protocol(format!("{error:?}")),
        ConnectionError::Remote {
            0: ConnectionErrorIncoming::ApplicationClose { error_code },
            ..
        } if *error_code == Code::H3_NO_ERROR.value() => ClientError::Closing,
        other => ClientError::Closed(format!("{other}")),
    }
}
