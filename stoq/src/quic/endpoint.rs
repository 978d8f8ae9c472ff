//! An endpoint: one socket of one worker, with every connection on it.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quinn::TokioRuntime;
use tokio::task::AbortHandle;

use super::{
    adapt::{Shared, Windows},
    admission::{AdmissionLimits, Admitted, Door, Outcome},
    cid::CidKeys,
    connection::Connection,
    counters::Counters,
    drops::KernelDrops,
    error::{ConnectError, wire_code},
    prefix::Prefixes,
    screen::{Alarm, Screen},
    socket::WorkerSocket,
    tls::{TlsClient, TlsServer},
    transport::TransportConfig,
    udp::Socket,
};
use crate::path::PathHistograms;

/// What an [`Endpoint`] on a worker's socket is made of.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// TLS for incoming connections. `None`: newcomers get no answer (to refuse takes keys as well) until
    /// [`Endpoint::set_server`].
    pub server: Option<TlsServer>,
    /// Settings of connections in both directions.
    pub transport: TransportConfig,
    /// Shared by the workers of a process.
    pub cid_keys: CidKeys,
    /// Who is let in.
    pub limits: AdmissionLimits,
    /// What [`max_per_prefix`](AdmissionLimits::max_per_prefix) is counted in. Shared by the workers of a process, and by its
    /// listeners of other kinds, it bounds them together.
    pub prefixes: Prefixes,
    /// Looks at each datagram first. Default: none, and nothing is spent on it.
    pub screen: Option<Arc<dyn Screen>>,
    /// Whether newcomers have to prove their address, whatever else holds. Shared by the workers of a process. Default: one of
    /// its own, which nobody raises.
    pub alarm: Alarm,
}

impl EndpointConfig {
    /// Defaults for everything but the keys: no server, default transport and limits.
    pub fn new(cid_keys: CidKeys) -> Self {
        Self {
            server: None,
            transport: TransportConfig::default(),
            cid_keys,
            limits: AdmissionLimits::default(),
            prefixes: Prefixes::default(),
            screen: None,
            alarm: Alarm::default(),
        }
    }
}

/// What an endpoint that takes connections has beside what all have.
#[derive(Default)]
struct Accepting {
    limits: AdmissionLimits,
    prefixes: Prefixes,
    screen: Option<Arc<dyn Screen>>,
    alarm: Alarm,
}

/// A QUIC endpoint: takes connections, makes connections. Cheap to clone; all clones are one endpoint.
///
/// When the last clone and the last connection are gone, its tasks end by themselves.
#[derive(Debug, Clone)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quinn: quinn::Endpoint,
    transport: TransportConfig,
    transport_config: Arc<quinn::TransportConfig>,
    shared: Shared,
    cid_keys: CidKeys,
    door: Arc<Door>,
    counters: Arc<Counters>,
    kernel_drops: Mutex<Option<KernelDrops>>,
    admission: Option<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task holds a handle of the endpoint below and would keep it alive.
        if let Some(task) = &self.admission {
            task.abort();
        }
    }
}

impl Endpoint {
    /// An endpoint on a worker's socket. Must be called inside that worker's runtime, on which it spawns two tasks
    /// (I/O and admission) and one for each connection.
    ///
    /// # Errors
    /// If the socket cannot be registered with the runtime or lacks an option that QUIC needs.
    pub fn new(socket: WorkerSocket, config: EndpointConfig) -> io::Result<Self> {
        let EndpointConfig {
            server,
            transport,
            cid_keys,
            limits,
            prefixes,
            screen,
            alarm,
        } = config;
        let worker = socket.worker;
        let generator_keys = cid_keys.clone();
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(cid_keys.reset_key()));
        endpoint.cid_generator(move || Box::new(generator_keys.generator(worker)));
        let accepting = Some(Accepting {
            limits,
            prefixes,
            screen,
            alarm,
        });
        Self::build(socket, endpoint, server, transport, cid_keys, accepting)
    }

    /// An endpoint for outgoing connections only, on a socket of its own. Must be called inside a runtime.
    ///
    /// Bind to `[::]:0` to reach IPv6 and IPv4 servers, to `0.0.0.0:0` for IPv4 only.
    ///
    /// # Errors
    /// As binding a socket.
    pub fn client(bind: SocketAddr, transport: TransportConfig) -> io::Result<Self> {
        let socket = WorkerSocket::client(bind)?;
        let cid_keys = CidKeys::random();
        let endpoint = quinn::EndpointConfig::new(Arc::new(cid_keys.reset_key()));
        Self::build(socket, endpoint, None, transport, cid_keys, None)
    }

    fn build(
        socket: WorkerSocket,
        mut endpoint: quinn::EndpointConfig,
        server: Option<TlsServer>,
        transport: TransportConfig,
        cid_keys: CidKeys,
        accepting: Option<Accepting>,
    ) -> io::Result<Self> {
        let accepts = accepting.is_some();
        let Accepting {
            limits,
            prefixes,
            screen,
            alarm,
        } = accepting.unwrap_or_default();
        let payload_max = transport.payload_max();
        endpoint
            .max_udp_payload_size(payload_max)
            .map_err(io::Error::other)?
            .grease_quic_bit(transport.grease);
        let counters = Arc::new(Counters::default());
        let kernel_drops = Mutex::new(KernelDrops::of(&socket.socket));
        let socket = Arc::new(Socket::new(socket, payload_max, counters.clone(), screen)?);
        let shared = Shared::default();
        let transport_config = transport.config(&shared.histograms);
        let server = server.map(|tls| server_config(&tls, &transport_config, &cid_keys, &limits));
        let door = Arc::new(Door::new(
            limits,
            counters.clone(),
            transport.clone(),
            shared.clone(),
            prefixes,
            alarm,
        ));
        door.serve(server.clone());
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            server,
            socket,
            Arc::new(TokioRuntime),
        )?;
        let admission = if accepts {
            let (door, quinn) = (door.clone(), quinn.clone());
            Some(tokio::spawn(async move { door.answer(&quinn).await }).abort_handle())
        } else {
            door.close();
            None
        };
        Ok(Self(Arc::new(Inner {
            quinn,
            shared,
            transport,
            transport_config,
            cid_keys,
            door,
            counters,
            kernel_drops,
            admission,
        })))
    }

    /// The next connection let in by the limits, its handshake under way. `None` once the endpoint is closed,
    /// and always on a client's endpoint. Cancel-safe; may be called from several tasks.
    ///
    /// A connection not taken within [`AdmissionLimits::handshake_timeout`] is dropped when taken.
    pub async fn accept(&self) -> Option<Connecting> {
        let admitted = self.0.door.next().await?;
        Some(Connecting {
            admitted,
            handshake_timeout: self.0.door.limits.handshake_timeout,
        })
    }

    /// Connects. Waits for the handshake as long as [`TransportConfig::idle_timeout`] allows; wrap it in a timeout to
    /// wait less. Dropping the future abandons the attempt.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the address, the name, the peer or the network was at fault.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
    ) -> Result<Connection, ConnectError> {
        self.connect_by(addr, server_name, tls, None).await
    }

    /// [`connect`](Self::connect), with settings for this connection alone. Its `mtu_max`, and whether it varies the
    /// QUIC bit, are the endpoint's in any case.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
        transport: &TransportConfig,
    ) -> Result<Connection, ConnectError> {
        let mtu_max = self.0.transport.mtu_max;
        let transport = TransportConfig {
            mtu_max,
            ..transport.clone()
        };
        self.connect_by(addr, server_name, tls, Some(&transport))
            .await
    }

    /// Connects, and gives the connection before the handshake's end where `tls` has a ticket that allows early data: what
    /// is sent first then travels with the first packets.
    //= https://www.rfc-editor.org/rfc/rfc9001#section-9.2
    //# Endpoints MUST implement and use the replay protections described in [TLS13], however it is recognized that these
    //# protections are imperfect.
    /// An attacker can replay it, so it must be safe to act on twice. `tls` must have early data enabled and remember
    /// sessions; without a ticket this is [`connect`](Self::connect).
    ///
    /// # Errors
    /// As [`connect`](Self::connect). With early data a handshake that fails later shows on the connection.
    pub async fn connect_early(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
    ) -> Result<(Connection, EarlyData), ConnectError> {
        self.connect_early_by(addr, server_name, tls, None).await
    }

    /// [`connect_early`](Self::connect_early), with settings for this connection alone, as
    /// [`connect_with`](Self::connect_with).
    ///
    /// # Errors
    /// As [`connect_early`](Self::connect_early).
    pub async fn connect_early_with(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
        transport: &TransportConfig,
    ) -> Result<(Connection, EarlyData), ConnectError> {
        let mtu_max = self.0.transport.mtu_max;
        let transport = TransportConfig {
            mtu_max,
            ..transport.clone()
        };
        self.connect_early_by(addr, server_name, tls, Some(&transport))
            .await
    }

    async fn connect_early_by(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
        own: Option<&TransportConfig>,
    ) -> Result<(Connection, EarlyData), ConnectError> {
        let inner = &*self.0;
        let (transport, windows) = self.settings(addr, own);
        let connecting = self.begin(addr, server_name, tls, transport)?;
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                let counters = inner.counters.clone();
                let connection = Connection::new(connection, windows.as_ref(), &inner.shared);
                let connected = connection.clone();
                let accepted: BoxFuture<'static, bool> = Box::pin(async move {
                    let accepted = accepted.await;
                    // A handshake that failed says `false` as well.
                    if accepted || connected.close_reason().is_none() {
                        counters.connects_completed.inc();
                    } else {
                        counters.connects_failed.inc();
                    }
                    accepted
                });
                Ok((connection, EarlyData(Some(accepted))))
            }
            Err(connecting) => {
                let connection = self.complete(connecting, windows.as_ref()).await?;
                Ok((connection, EarlyData(None)))
            }
        }
    }

    async fn connect_by(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
        own: Option<&TransportConfig>,
    ) -> Result<Connection, ConnectError> {
        let (transport, windows) = self.settings(addr, own);
        let connecting = self.begin(addr, server_name, tls, transport)?;
        self.complete(connecting, windows.as_ref()).await
    }

    /// The settings of a connection to `addr`: its own or the endpoint's, with what was learnt of the path to there.
    fn settings(
        &self,
        addr: SocketAddr,
        own: Option<&TransportConfig>,
    ) -> (Arc<quinn::TransportConfig>, Option<Windows>) {
        let inner = &*self.0;
        let given = own.unwrap_or(&inner.transport);
        let learnt = inner.shared.learnt(given, addr.ip());
        match learnt.as_ref().or(own) {
            Some(transport) => (
                transport.config(&inner.shared.histograms),
                Windows::of(transport),
            ),
            None => (inner.transport_config.clone(), Windows::of(given)),
        }
    }

    fn begin(
        &self,
        addr: SocketAddr,
        server_name: &str,
        tls: &TlsClient,
        transport: Arc<quinn::TransportConfig>,
    ) -> Result<quinn::Connecting, ConnectError> {
        let mut config = tls.config.clone();
        config.transport_config(transport);
        let connecting = self.0.quinn.connect_with(config, addr, server_name);
        let connecting = connecting.map_err(ConnectError::start)?;
        self.0.counters.connects_started.inc();
        Ok(connecting)
    }

    async fn complete(
        &self,
        connecting: quinn::Connecting,
        windows: Option<&Windows>,
    ) -> Result<Connection, ConnectError> {
        match connecting.await {
            Ok(connection) => {
                self.0.counters.connects_completed.inc();
                Ok(Connection::new(connection, windows, &self.0.shared))
            }
            Err(error) => {
                self.0.counters.connects_failed.inc();
                Err(ConnectError::Connection(error.into()))
            }
        }
    }

    /// Replaces the TLS configuration for new connections (certificate reload); those open go on as they are.
    /// `None` refuses newcomers at once, each with an answer, while open connections go on: a drain. Later a
    /// configuration can be set again. No effect on a client's endpoint.
    pub fn set_server(&self, server: Option<TlsServer>) {
        let inner = &*self.0;
        if inner.admission.is_none() {
            return;
        }
        let Some(tls) = server else {
            // The configuration below stays: without one, newcomers would meet silence and wait for their timeout.
            inner.door.serve(None);
            return;
        };
        let config = server_config(
            &tls,
            &inner.transport_config,
            &inner.cid_keys,
            &inner.door.limits,
        );
        inner.quinn.set_server_config(Some(config.clone()));
        inner.door.serve(Some(config));
    }

    /// Moves a client's endpoint to another local address, as a phone does that changes networks; its connections
    /// go on.
    ///
    /// # Errors
    /// As binding a socket; the old one stays in use. [`io::ErrorKind::Unsupported`] on a worker's socket, which
    /// would leave its group.
    pub fn rebind(&self, bind: SocketAddr) -> io::Result<()> {
        if self.0.admission.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let inner = &*self.0;
        let socket = WorkerSocket::client(bind)?;
        let kernel_drops = KernelDrops::of(&socket.socket);
        let socket = Socket::new(
            socket,
            inner.transport.payload_max(),
            inner.counters.clone(),
            None,
        )?;
        inner.quinn.rebind_abstract(Arc::new(socket))?;
        *inner.kernel_drops.lock() = kernel_drops;
        Ok(())
    }

    /// The address of the socket, its port resolved.
    ///
    /// # Errors
    /// As `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.quinn.local_addr()
    }

    /// Closes every connection with this application code and takes no more. Codes of 2^62 and above are sent as
    /// 2^62 − 1. Call [`wait_idle`](Self::wait_idle) afterwards, so that the peers hear of it.
    pub fn close(&self, code: u64, reason: &[u8]) {
        self.0.door.close();
        self.0.quinn.close(wire_code(code), reason);
    }

    /// Waits until no connection is left, draining ones (about three round trips) included.
    pub async fn wait_idle(&self) {
        self.0.quinn.wait_idle().await;
    }

    /// What this endpoint counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Datagrams that the kernel dropped because this socket's receive buffer was full: more than a few mean that
    /// the worker is overloaded or `net.core.rmem_max` too small. `None` where the kernel does not tell.
    ///
    /// Reads a table of the kernel: for a metrics scrape, not for a request.
    pub fn kernel_drops(&self) -> Option<u64> {
        let drops = self.0.kernel_drops.lock().clone()?;
        drops.read().ok().flatten()
    }

    /// What the paths of this endpoint's connections are like.
    pub fn path_histograms(&self) -> &Arc<PathHistograms> {
        &self.0.shared.histograms
    }

    /// Connections in any state, handshaking and draining ones included.
    pub fn connection_count(&self) -> usize {
        self.0.quinn.open_connections()
    }

    /// The settings this endpoint was made with.
    pub fn transport(&self) -> &TransportConfig {
        &self.0.transport
    }
}

/// What became of the early data of [`Endpoint::connect_early`]. The default: none was offered. Keeps its connection
/// open while it is kept.
#[derive(Default)]
pub struct EarlyData(Option<BoxFuture<'static, bool>>);

impl EarlyData {
    /// Whether any could be sent: there was a ticket for it.
    pub fn is_offered(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the handshake's end; `true` if the server took the early data, `false` also if the handshake failed, which
    /// the connection shows. `false` at once if none was offered, and after the first call.
    ///
    /// Streams opened before a refusal fail with `EarlyDataRejected`; nothing of them was seen.
    pub async fn accepted(&mut self) -> bool {
        match &mut self.0 {
            Some(accepted) => {
                let taken = accepted.await;
                self.0 = None;
                taken
            }
            None => false,
        }
    }
}

impl fmt::Debug for EarlyData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyData")
            .field("offered", &self.is_offered())
            .finish()
    }
}

fn server_config(
    tls: &TlsServer,
    transport: &Arc<quinn::TransportConfig>,
    cid_keys: &CidKeys,
    limits: &AdmissionLimits,
) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::new(tls.crypto.clone(), Arc::new(cid_keys.token_key()));
    config
        .transport_config(transport.clone())
        .migration(true)
        // Attempts that the admission task has not yet seen: 64 KiB each at most, over all 16 MiB.
        .max_incoming(limits.max_handshakes.max(1))
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(16 * 1024 * 1024);
    config
}

/// An incoming connection that was let in and whose handshake is under way.
#[derive(Debug)]
pub struct Connecting {
    admitted: Admitted,
    handshake_timeout: Duration,
}

impl Connecting {
    /// Where the client's first packet came from. Proven once the handshake has ended, whatever the client did since: until then
    /// packets from elsewhere are none of its.
    pub fn remote_addr(&self) -> SocketAddr {
        self.admitted.addr
    }

    /// Whether the client has shown that it receives at that address, by a token that it was sent there.
    pub fn is_proven(&self) -> bool {
        self.admitted.proven
    }

    /// What was let in, and how long its handshake may take.
    pub(super) fn into_parts(self) -> (Admitted, Duration) {
        (self.admitted, self.handshake_timeout)
    }

    /// Waits for the end of the handshake. Dropping the future abandons the connection.
    ///
    /// # Errors
    /// [`ConnectError::HandshakeTimeout`], or what the handshake failed of.
    pub async fn establish(self) -> Result<Connection, ConnectError> {
        let Self {
            admitted:
                Admitted {
                    place,
                    connecting,
                    half_open,
                    since,
                    windows,
                    shared,
                    addr: _,
                    proven: _,
                },
            handshake_timeout,
        } = self;
        match tokio::time::timeout_at(since + handshake_timeout, connecting).await {
            Ok(Ok(connection)) => {
                half_open.end(Outcome::Completed);
                let connection = Connection::new(connection, windows.as_ref(), &shared);
                Ok(connection.in_place(place))
            }
            Ok(Err(error)) => {
                half_open.end(Outcome::Failed);
                Err(ConnectError::Connection(error.into()))
            }
            Err(_) => {
                half_open.end(Outcome::TimedOut);
                Err(ConnectError::HandshakeTimeout)
            }
        }
    }
}
