//! The listening side: who comes in, one after the other.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::drive::{GOODBYE, failed, link};
use super::{TcpCounters, TcpLimits};
use crate::counter::Counter;
use crate::quic::{ConnectError, PrefixPlace, TransportConfig};
use crate::transport::links::Links;
use crate::transport::{Incoming, Link, tls};

/// Newcomers that the system keeps for us, of each socket.
const BACKLOG: i32 = 1024;

/// How long accepting waits after the system refused to give a newcomer, which it does when descriptors run out.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

pub(super) struct Listening {
    listener: TcpListener,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    limits: TcpLimits,
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    state: Mutex<State>,
    changed: Notify,
    counters: Arc<TcpCounters>,
}

/// One listening socket for each of `workers` on one address, all on one port; the system spreads newcomers over them. Port 0 is
/// resolved by the first.
///
/// # Errors
/// As binding a socket, and listening on it.
pub fn bind(addr: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let mut bound = addr;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let domain = socket2::Domain::for_address(addr);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        if addr.is_ipv6() {
            // `[::]` and `0.0.0.0` are two addresses, as they are for UDP.
            socket.set_only_v6(true)?;
        }
        // After a restart the port may still be in use by links that are ending.
        socket.set_reuse_address(true)?;
        if workers > 1 {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&bound.into())?;
        socket.listen(BACKLOG)?;
        let listener = std::net::TcpListener::from(socket);
        bound = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Newcomers are refused.
    Shut,
    Closed,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("addr", &self.addr)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Listening {
    pub(super) fn new(
        listener: std::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        limits: TcpLimits,
        counters: Arc<TcpCounters>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self {
            addr: listener.local_addr()?,
            listener,
            acceptor: TlsAcceptor::from(tls),
            places: Arc::new(Semaphore::new(limits.links)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes.max(1))),
            limits,
            state: Mutex::new(State::Open),
            changed: Notify::new(),
            counters,
        })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next newcomer; `None` once closed.
    pub(super) async fn accept(
        &self,
        config: &TransportConfig,
        links: &Arc<Links>,
    ) -> Option<Newcomer> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = *self.state.lock();
            if state == State::Closed {
                return None;
            }
            // Each may be cancelled: a newcomer not taken stays in the system's backlog.
            tokio::select! {
                () = changed => {}
                newcomer = self.newcomer() => {
                    let (handshake, io, addr) = match newcomer {
                        Ok(newcomer) => newcomer,
                        Err(error) => {
                            tracing::debug!(%error, "cannot accept over TCP");
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    };
                    // Dropped, it is closed at once, which the other side takes for a refusal.
                    let place = match self.place(state, addr) {
                        Ok(place) => place,
                        Err(counter) => {
                            counter.inc();
                            continue;
                        }
                    };
                    let _ = io.set_nodelay(true);
                    return Some(Newcomer {
                        io,
                        addr,
                        acceptor: self.acceptor.clone(),
                        until: Instant::now() + self.limits.handshake_timeout,
                        config: config.clone(),
                        links: links.clone(),
                        handshake,
                        place,
                        counters: self.counters.clone(),
                    });
                }
            }
        }
    }

    async fn newcomer(&self) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
        let handshake = self.handshakes.clone().acquire_owned().await;
        let handshake = handshake.map_err(io::Error::other)?;
        let (io, addr) = self.listener.accept().await?;
        Ok((handshake, io, addr))
    }

    /// A newcomer's place among the others.
    ///
    /// # Errors
    /// There is none for it, which this counts.
    fn place(&self, state: State, addr: SocketAddr) -> Result<Held, &Counter> {
        let counters = &*self.counters;
        if state != State::Open {
            return Err(&counters.refused_draining);
        }
        let all = self.places.clone().try_acquire_owned();
        let all = all.map_err(|_| &counters.refused_links)?;
        let TcpLimits {
            max_per_prefix,
            prefixes,
            ..
        } = &self.limits;
        let of_prefix = match max_per_prefix {
            Some(max) => Some(
                prefixes
                    .take(addr.ip(), *max)
                    .ok_or(&counters.refused_prefix)?,
            ),
            None => None,
        };
        Ok(Held {
            _all: all,
            _of_prefix: of_prefix,
        })
    }

    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        if *state == State::Open {
            *state = State::Shut;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn close(&self) {
        *self.state.lock() = State::Closed;
        self.changed.notify_waiters();
    }
}

/// A link's place among all, and among those of its prefix.
#[derive(Debug)]
pub(super) struct Held {
    _all: OwnedSemaphorePermit,
    _of_prefix: Option<PrefixPlace>,
}

/// One whose handshake is to come.
pub(super) struct Newcomer {
    io: TcpStream,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    until: Instant,
    config: TransportConfig,
    links: Arc<Links>,
    handshake: OwnedSemaphorePermit,
    place: Held,
    counters: Arc<TcpCounters>,
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Incoming for Newcomer {
    fn remote_addr(&self) -> SocketAddr {
        self.addr
    }

    fn establish(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            let Self {
                io,
                addr,
                acceptor,
                until,
                config,
                links,
                handshake,
                place,
                counters,
            } = *self;
            let accepting = timeout_at(until, acceptor.accept(io).into_fallible()).await;
            drop(handshake);
            let stream = match accepting {
                Err(_) => {
                    counters.handshakes_timed_out.inc();
                    return Err(ConnectError::HandshakeTimeout);
                }
                Ok(Ok(stream)) => stream,
                Ok(Err((error, io))) => {
                    counters.handshakes_failed.inc();
                    let _ = timeout(GOODBYE, let_go(io)).await;
                    return Err(failed(&error));
                }
            };
            let (_, session) = stream.get_ref();
            let outcome =
                tls::outcome(session).inspect_err(|_| counters.handshakes_failed.inc())?;
            counters.handshakes_completed.inc();
            Ok(link(
                stream.into(),
                addr,
                false,
                outcome,
                &config,
                &links,
                Some(place),
            ))
        })
    }
}

/// Closes after a refusal so that the alert arrives: where a socket is closed with bytes unread, the system tells the
/// other side to throw away what it was sent.
async fn let_go(mut io: TcpStream) {
    if io.shutdown().await.is_ok() {
        let mut nowhere = [0; 4096];
        while io.read(&mut nowhere).await.is_ok_and(|read| read > 0) {}
    }
}
