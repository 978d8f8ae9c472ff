//! The connection below HTTP/1.1 and HTTP/2: TCP, and TLS where the target wants it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Failure, Opened, tls};
use crate::client::{ClientError, Version, chain};
use crate::plan::{Handshake, Plan, Session};

/// Receive buffer of a slow reader: 16 KiB (the kernel doubles it). The kernel's own would take megabytes from the
/// server before it noticed that nobody reads.
const SLOW_RECEIVE_BYTES: u32 = 16 * 1024;

/// Opens connections to one server.
#[derive(Debug)]
pub(super) struct TcpDialer {
    address: SocketAddr,
    sources: Vec<IpAddr>,
    secured: Option<Secured>,
    slow: bool,
}

struct Secured {
    connector: TlsConnector,
    name: ServerName<'static>,
    alpn: &'static [u8],
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secured")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TcpDialer {
    /// Looks the target up on the calling thread, unless it has an address.
    pub(super) fn new(plan: &Plan, version: Version) -> Result<Self, ClientError> {
        let target = &plan.target;
        let address = target.resolve()?;
        if let Some(other) = plan
            .sources
            .iter()
            .find(|source| source.is_ipv4() != address.is_ipv4())
        {
            return Err(ClientError::Target(format!(
                "source address {other} cannot reach {address}: one is IPv4, the other IPv6"
            )));
        }
        let secured = if target.is_secure() {
            let early = plan.session == Session::PerRequest(Handshake::EarlyData);
            let config = tls::config(target, version, plan.session)?;
            Some(Secured {
                connector: TlsConnector::from(Arc::new(config)).early_data(early),
                name: target.server_name()?,
                alpn: if version == Version::Http2 {
                    b"h2"
                } else {
                    b"http/1.1"
                },
            })
        } else if matches!(
            plan.session,
            Session::PerRequest(Handshake::Resumed | Handshake::EarlyData)
        ) {
            return Err(ClientError::Target(
                "a plain `http://` connection has no handshake to resume".to_owned(),
            ));
        } else {
            None
        };
        Ok(Self {
            address,
            sources: plan.sources.clone(),
            secured,
            slow: plan.read_rate.is_some(),
        })
    }

    /// With early data this returns before the handshake has begun: what is written first travels with it.
    pub(super) async fn dial(&self, number: u32) -> Result<(Wire, Began), Failure> {
        let refused = |error: io::Error| Failure::Connect(format!("{}: {error}", self.address));
        let started = Instant::now();
        let socket = self.socket(number).map_err(refused)?;
        let tcp = socket.connect(self.address).await.map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        let handshake = Arc::new(AtomicU8::new(0));
        let wire = match &self.secured {
            None => Wire::Plain(tcp),
            Some(secured) => {
                let stream = secured.connector.connect(secured.name.clone(), tcp).await;
                let stream = stream.map_err(|error| Failure::Handshake(chain(&error)))?;
                let mut layer = Box::new(Layer {
                    stream,
                    alpn: secured.alpn,
                    handshake: Some(Arc::clone(&handshake)),
                });
                layer
                    .look()
                    .map_err(|error| Failure::Handshake(error.to_string()))?;
                Wire::Tls(layer)
            }
        };
        let began = Began {
            started,
            ready: Instant::now(),
            handshake,
        };
        Ok((wire, began))
    }

    fn socket(&self, number: u32) -> io::Result<TcpSocket> {
        let socket = if self.address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if self.slow {
            socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
        }
        let turn = (number as usize).checked_rem(self.sources.len());
        if let Some(source) = turn.and_then(|turn| self.sources.get(turn)) {
            // So that the ports of connections closed a moment ago can be taken again.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(*source, 0))?;
        }
        Ok(socket)
    }
}

/// How a connection began, as far as it is known by now.
#[derive(Debug, Clone)]
pub(super) struct Began {
    started: Instant,
    ready: Instant,
    handshake: Arc<AtomicU8>,
}

const RESUMED: u8 = 1;
const EARLY: u8 = 2;

impl Began {
    pub(super) fn opened(&self) -> Opened {
        let handshake = self.handshake.load(Ordering::Relaxed);
        Opened {
            started: self.started,
            ready: self.ready,
            resumed: handshake & RESUMED != 0,
            early_data: handshake & EARLY != 0,
        }
    }
}

/// The bytes of a connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<Layer>),
}

/// TLS over it, which tells how its handshake went as soon as that has ended.
pub(super) struct Layer {
    stream: TlsStream<TcpStream>,
    alpn: &'static [u8],
    /// Taken when told.
    handshake: Option<Arc<AtomicU8>>,
}

impl Layer {
    /// Looks whether the handshake has ended, once it has: what it was, and that the peer speaks the protocol.
    fn look(&mut self) -> io::Result<()> {
        let session = self.stream.get_ref().1;
        if session.is_handshaking() {
            return Ok(());
        }
        let Some(told) = self.handshake.take() else {
            return Ok(());
        };
        let mut facts = 0;
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            facts |= RESUMED;
        }
        if session.is_early_data_accepted() {
            facts |= EARLY;
        }
        told.store(facts, Ordering::Relaxed);
        match session.alpn_protocol() {
            Some(chosen) if chosen == self.alpn => Ok(()),
            // A server that knows no ALPN speaks HTTP/1.1.
            None if self.alpn == b"http/1.1" => Ok(()),
            Some(_) | None => Err(io::Error::other(format!(
                "the server does not speak {}",
                self.alpn.escape_ascii()
            ))),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(layer) => Pin::new(&mut layer.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(layer) => Pin::new(&mut layer.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(layer) => Pin::new(&mut layer.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(layer) => {
                // Ends the handshake, if what was written so far was early data.
                ready!(Pin::new(&mut layer.stream).poll_flush(cx))?;
                if layer.handshake.is_some() {
                    layer.look()?;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(layer) => Pin::new(&mut layer.stream).poll_shutdown(cx),
        }
    }
}
