//! TCP with TLS 1.3, for networks that do not let UDP through.
//!
//! The same identities and the same ALPN as over QUIC, on the TCP port of the same number. Streams are
//! multiplexed by this crate over the one TLS session, with QUIC's words: codes for the end of a link and of each half
//! of a stream, windows for streams and for the link.
//!
//! What is not as over QUIC:
//!
//! * A lost packet holds up all streams, not one.
//! * Nothing is sent before the handshake's end, which takes a round trip more (TCP's own). Sessions are not resumed.
//! * Both sides ask for a sign of life, each after a third of its idle timeout or after its `keep_alive`, if that is less.
//! * A link does not survive a change of address.
//! * Datagrams arrive in order and are not lost on the way, but late; at most 1,100 bytes each.
//! * [`SendStream::stopped`](super::SendStream::stopped) says `None` when the end was handed to the system, not when it
//!   arrived.
//! * [`Link::path`] knows the round-trip time, by a ping at the start and at each sign of life asked for, and
//!   the bytes; window, MTU and losses are the system's and stay 0.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | links and handshakes of a [`Tcp`] | [`TcpLimits::links`] | closed without an answer, counted |
//! | those of one IPv4 address or IPv6 /64 | [`TcpLimits::max_per_prefix`] | likewise |
//! | handshakes under way | [`TcpLimits::handshakes`] | wait in the system's backlog |
//! | time of a handshake | [`TcpLimits::handshake_timeout`] | closed |
//! | a peer from which nothing comes, though it is asked for a sign of life three times | `idle_timeout` of [`TransportConfig`] | the link ends as timed out |
//! | the last words of a link | 3 s | cut off |

mod drive;
mod listen;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::drive::{failed, link};
use self::listen::Listening;
use super::links::Links;
use super::{ConnectError, Incoming, Link, Target, Transport, TransportStats};
use crate::counter::counters;
use crate::quic::{Prefixes, TlsError, TransportConfig};

pub use self::listen::bind;

/// Who is let in over TCP.
#[derive(Debug, Clone)]
pub struct TcpLimits {
    /// Links and handshakes at once. Default 4,096: measured at 22 KiB each that has carried nothing yet (`tests/tcp_memory.rs`). Beside it
    /// one that has may keep a read buffer of 64 KiB.
    pub links: usize,
    /// Those of them that come from one IPv4 address or one IPv6 /64. Default `None`: no fewer than all together.
    pub max_per_prefix: Option<usize>,
    /// What `max_per_prefix` is counted in; see [`EndpointConfig::prefixes`](crate::quic::EndpointConfig::prefixes). Default: by
    /// itself.
    pub prefixes: Prefixes,
    /// Handshakes at once. Default 256.
    pub handshakes: usize,
    /// Time from the first packet to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            links: 4096,
            max_per_prefix: None,
            prefixes: Prefixes::default(),
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

counters! {
    /// What one [`Tcp`] counted since it was made. Each newcomer ends in one of the first six.
    TcpCounters {
        /// Handshakes of newcomers completed.
        handshakes_completed,
        /// Handshakes of newcomers that failed.
        handshakes_failed,
        /// Handshakes of newcomers cut off at `handshake_timeout`.
        handshakes_timed_out,
        /// Newcomers closed because there were too many links.
        refused_links,
        /// Newcomers closed because there were too many links of their prefix.
        refused_prefix,
        /// Newcomers closed because no more are taken.
        refused_draining,
        /// Links begun by this side; each ends in one of the next two, or is abandoned.
        connects_started,
        /// Links made by this side.
        connects_completed,
        /// Links that this side could not make.
        connects_failed,
    }
}

/// Links over TCP: made, and, where it listens, taken. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct Tcp(Arc<Inner>);

struct Inner {
    config: TransportConfig,
    links: Arc<Links>,
    listening: Option<Listening>,
    counters: Arc<TcpCounters>,
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("listening", &self.0.listening)
            .finish_non_exhaustive()
    }
}

impl Tcp {
    /// One that only connects. Of `config` it goes by stream limits, windows, idle timeout, keep-alive and
    /// datagrams.
    #[must_use]
    pub fn client(config: TransportConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            links: Arc::default(),
            listening: None,
            counters: Arc::default(),
        }))
    }

    /// One that also listens. Must be called inside a runtime.
    ///
    /// # Errors
    /// As binding a socket, and listening on it.
    pub fn listen(
        addr: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        config: TransportConfig,
        limits: TcpLimits,
    ) -> io::Result<Self> {
        let mut sockets = bind(addr, 1)?;
        let socket = sockets.pop().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Self::listen_on(socket, tls, config, limits)
    }

    /// As [`listen`](Self::listen), on a socket that listens, such as one of those of [`bind`].
    ///
    /// # Errors
    /// The socket cannot be used with the runtime.
    pub fn listen_on(
        socket: std::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        config: TransportConfig,
        limits: TcpLimits,
    ) -> io::Result<Self> {
        let counters = Arc::<TcpCounters>::default();
        let listening = Listening::new(socket, tls, limits, counters.clone())?;
        Ok(Self(Arc::new(Inner {
            config,
            links: Arc::default(),
            listening: Some(listening),
            counters,
        })))
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<TcpCounters> {
        &self.0.counters
    }

    async fn dial(&self, target: Target) -> Result<Arc<dyn Link>, ConnectError> {
        let Target {
            addr,
            server_name,
            tls,
        } = target;
        if tls.alpn_protocols.is_empty() {
            return Err(ConnectError::Tls(TlsError::NoAlpn));
        }
        let name = ServerName::try_from(server_name)
            .map_err(|_| ConnectError::ServerName(server_name.to_owned()))?;
        let io = TcpStream::connect(addr)
            .await
            .map_err(|error| ConnectError::Io {
                kind: error.kind(),
                message: format!("tcp {addr}: {error}"),
            })?;
        // What is sent is whole messages: nothing is gained by waiting for more.
        let _ = io.set_nodelay(true);
        let connecting = TlsConnector::from(tls).connect(name, io);
        let stream = connecting.await.map_err(|error| failed(&error))?;
        let (_, session) = stream.get_ref();
        let outcome = super::tls::outcome(session)?;
        Ok(link(
            stream.into(),
            addr,
            true,
            outcome,
            &self.0.config,
            &self.0.links,
            None,
        ))
    }
}

impl Transport for Tcp {
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            let counters = &*self.0.counters;
            counters.connects_started.inc();
            let dialled = self.dial(target).await;
            match &dialled {
                Ok(_) => counters.connects_completed.inc(),
                Err(_) => counters.connects_failed.inc(),
            }
            dialled
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>> {
        Box::pin(async move {
            let listening = self.0.listening.as_ref()?;
            let incoming = listening.accept(&self.0.config, &self.0.links).await?;
            Some(Box::new(incoming) as Box<dyn Incoming>)
        })
    }

    fn stop_accepting(&self) {
        if let Some(listening) = &self.0.listening {
            listening.shut();
        }
    }

    /// Without a listener there is none: each link has its own.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0.listening {
            Some(listening) => Ok(listening.addr()),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn stats(&self) -> TransportStats {
        let counters = &*self.0.counters;
        TransportStats {
            links: self.0.links.len() as u64,
            connects_started: counters.connects_started.get(),
            connects_completed: counters.connects_completed.get(),
            connects_failed: counters.connects_failed.get(),
        }
    }

    fn close(&self, code: u64, reason: &[u8]) {
        if let Some(listening) = &self.0.listening {
            listening.close();
        }
        self.0.links.close(code, reason);
    }

    fn wait_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.links.wait_idle())
    }
}
