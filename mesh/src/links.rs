//! A node's links to others, made as its configuration says: [`Links`] is what all workers of a process share, [`NodeDoors`] what it
//! listens on for other nodes, [`NodeServers`] what a worker serves there.
//!
//! Everything that is made here is counted in the process's registry: `stoq_quic`, `stoq_tcp`, `stoq_fallback`, `stoq_pool`, `stoq_peer`,
//! `stoq_shape`, and what paths are like as `stoq_path_…` (see [`PathMetrics`]).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use stoq::early::Tickets;
use stoq::hello::RoleRule;
use stoq::identity::{ALPN, Identity, IdentityError};
use stoq::peer::{Handler, KindRules, PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{
    AdmissionLimits, CidKeys, Endpoint, EndpointConfig, Prefixes, SocketGroup, SocketOptions,
    Steering, TlsServer, TransportConfig, WorkerSocket,
};
use stoq::shape::Shaper;
use stoq::transport::Transport;
use stoq::transport::fallback::{Fallback, FallbackConfig};
use stoq::transport::tcp::{self, Tcp, TcpLimits};
use stoq_node::config::Config;
use stoq_node::{Drain, Registry};
use tokio::time::Instant;

use crate::paths::PathMetrics;
use crate::transport::{EXCHANGES_MAX, between_nodes_of, limits_of};

/// With port 0 the UDP port may be taken on TCP; so often another one is tried.
const PORT_ATTEMPTS: usize = 16;

/// What a node's links have in common. Cheap to clone; the clones are one.
#[derive(Debug, Clone)]
pub struct Links {
    transport: TransportConfig,
    tcp: bool,
    limits: AdmissionLimits,
    prefixes: Prefixes,
    shaper: Option<Shaper>,
    registry: Registry,
    paths: PathMetrics,
}

impl Links {
    /// As the configuration says. What is made of it is counted in `registry`.
    #[must_use]
    pub fn new(config: &Config, registry: &Registry) -> Self {
        let shape = &config.shape;
        let shaper = shape.is_limited().then(|| Shaper::new(&limits_of(shape)));
        if let Some(shaper) = shaper.clone() {
            registry.add_counters("stoq_shape", move |each| shaper.counters().visit(each));
        }
        let max_connections = config.limits.connections;
        let paths = PathMetrics::default();
        registry.with(|registry| registry.register_collector(Box::new(paths.clone())));
        Self {
            transport: between_nodes_of(&config.stoq),
            tcp: config.stoq.tcp,
            limits: AdmissionLimits {
                max_connections,
                max_per_prefix: config
                    .limits
                    .per_prefix_connections
                    .unwrap_or(max_connections),
                ..AdmissionLimits::default()
            },
            prefixes: Prefixes::default(),
            shaper,
            registry: registry.clone(),
            paths,
        }
    }

    /// Who is let in at each worker's endpoint, clients and nodes alike.
    #[must_use]
    pub fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }

    /// What connections are counted in by where they come from: one for the process.
    #[must_use]
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// What bodies wait for before they are sent; `None` where nothing is limited.
    #[must_use]
    pub fn shaper(&self) -> Option<&Shaper> {
        self.shaper.as_ref()
    }

    /// A worker's pool of connections to other nodes. Must be called inside its runtime.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn pool(&self, identity: Identity) -> io::Result<Pool> {
        self.pool_with(identity, PoolConfig::default())
    }

    /// The same with other patience. What bodies wait for is that of these links.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn pool_with(&self, identity: Identity, mut config: PoolConfig) -> io::Result<Pool> {
        let client = |any| Endpoint::client(any, self.transport.clone());
        // A system without IPv6 has no `::`.
        let endpoint = client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
            .or_else(|_| client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
        self.export_endpoint(&endpoint);
        config.dial.shaper.clone_from(&self.shaper);
        let pool = if self.tcp {
            let tcp = Tcp::client(self.transport.clone());
            self.export_tcp(&tcp);
            let both = Fallback::new(endpoint, tcp, FallbackConfig::default());
            let counters = Arc::clone(both.counters());
            self.registry
                .add_counters("stoq_fallback", move |each| counters.visit(each));
            Pool::new(both, identity, config)
        } else {
            Pool::new(endpoint, identity, config)
        };
        let counters = Arc::clone(pool.counters());
        self.registry
            .add_counters("stoq_pool", move |each| counters.visit(each));
        Ok(pool)
    }

    /// Binds what a node listens on for others, for so many workers: UDP and, where it is to be, TCP on the same port.
    ///
    /// # Errors
    /// As binding sockets.
    pub fn bind(&self, addr: SocketAddr, workers: usize) -> io::Result<NodeDoors> {
        let mut attempts = if addr.port() == 0 && self.tcp {
            PORT_ATTEMPTS
        } else {
            1
        };
        loop {
            attempts -= 1;
            let udp = SocketGroup::bind(addr, workers, &SocketOptions::default())?;
            let bound = match self.tcp {
                true => tcp::bind(udp.local_addr(), workers),
                false => Ok(Vec::new()),
            };
            match bound {
                Ok(tcp) => {
                    if workers > 1
                        && let Steering::SingleSocket { reason } = udp.steering()
                    {
                        tracing::warn!(%addr, reason, "one socket for all workers: steering by connection ID was refused");
                    }
                    let tcp = Mutex::new(tcp.into_iter().map(Some).collect());
                    return Ok(NodeDoors { udp, tcp });
                }
                Err(error) if attempts > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves other nodes on one worker's doors. Must be called inside its runtime.
    ///
    /// # Errors
    /// Sockets cannot be used with the runtime.
    pub fn serve(
        &self,
        doors: Vec<WorkerDoor>,
        who: &NodeTls,
        accept: &RoleRule,
        kinds: &Arc<KindRules>,
        handler: &Arc<dyn Handler>,
    ) -> io::Result<NodeServers> {
        let config = ServeConfig {
            accept: accept.clone(),
            kinds: Arc::clone(kinds),
            exchanges: EXCHANGES_MAX as usize,
            shaper: self.shaper.clone(),
            ..ServeConfig::default()
        };
        let mut servers = NodeServers::default();
        for door in doors {
            let endpoint = EndpointConfig {
                server: Some(who.quic.clone()),
                transport: self.transport.clone(),
                limits: self.limits.clone(),
                prefixes: self.prefixes.clone(),
                ..EndpointConfig::new(who.cid_keys.clone())
            };
            let endpoint = Endpoint::new(door.udp, endpoint)?;
            self.export_endpoint(&endpoint);
            servers.push(self, endpoint, who, handler, &config);
            if let Some(socket) = door.tcp {
                let limits = TcpLimits {
                    links: self.limits.max_connections,
                    max_per_prefix: Some(self.limits.max_per_prefix),
                    prefixes: self.prefixes.clone(),
                    ..TcpLimits::default()
                };
                let transport = self.transport.clone();
                let tcp = Tcp::listen_on(socket, Arc::clone(&who.tcp), transport, limits)?;
                self.export_tcp(&tcp);
                servers.push(self, tcp, who, handler, &config);
            }
        }
        Ok(servers)
    }

    fn export_endpoint(&self, endpoint: &Endpoint) {
        let counters = Arc::clone(endpoint.counters());
        self.registry
            .add_counters("stoq_quic", move |each| counters.visit(each));
        self.paths.add(endpoint.path_histograms());
    }

    fn export_tcp(&self, tcp: &Tcp) {
        let counters = Arc::clone(tcp.counters());
        self.registry
            .add_counters("stoq_tcp", move |each| counters.visit(each));
    }
}

/// What a node shows to others that come to it, over either carrier. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeTls {
    identity: Identity,
    /// The same in each process of this node. One that was killed leaves connections behind of which the others hear nothing any more: the next process knows their
    /// IDs for its own and resets them (RFC 9000 §10.3), so others dial it anew at once instead of when those have idled out.
    cid_keys: CidKeys,
    quic: TlsServer,
    tcp: Arc<rustls::ServerConfig>,
}

impl NodeTls {
    /// Of this identity, with tickets of this store over QUIC. Over TCP no session is resumed.
    ///
    /// # Errors
    /// No leaf can be issued now.
    pub fn new(identity: &Identity, tickets: &Arc<Tickets>) -> Result<Self, IdentityError> {
        Ok(Self {
            quic: tickets.server_tls(identity)?,
            tcp: identity.server_config(ALPN)?,
            cid_keys: cid_keys(identity),
            identity: identity.clone(),
        })
    }

    /// The keys of connection IDs at this node's doors.
    #[must_use]
    pub const fn cid_keys(&self) -> &CidKeys {
        &self.cid_keys
    }
}

/// Under which a node signs the IDs of the connections that other nodes make to it. Two processes of a node must not listen at one address at once: each would reset the other's.
fn cid_keys(identity: &Identity) -> CidKeys {
    let secret = identity.own_secret("stoq 2026-11 connection ids between nodes");
    let mut key = [0; 16];
    key.copy_from_slice(&secret[..16]);
    CidKeys::new(0, key, None)
}

/// What a node listens on for others at one address: a socket of each kind for every worker.
#[derive(Debug)]
pub struct NodeDoors {
    udp: SocketGroup,
    tcp: Mutex<Vec<Option<TcpListener>>>,
}

/// One worker's part of [`NodeDoors`]. Belongs to it alone, so that it is closed when the worker ends.
#[derive(Debug)]
pub struct WorkerDoor {
    udp: WorkerSocket,
    tcp: Option<TcpListener>,
}

impl NodeDoors {
    /// The address, its port resolved.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.udp.local_addr()
    }

    /// The sockets of UDP, for who can steer datagrams to workers better than without privileges.
    pub fn udp_mut(&mut self) -> &mut SocketGroup {
        &mut self.udp
    }

    /// A worker's part, once.
    #[must_use]
    pub fn take(&self, worker: usize) -> Option<WorkerDoor> {
        let udp = self.udp.take(worker)?;
        let tcp = self.tcp.lock().get_mut(worker).and_then(Option::take);
        Some(WorkerDoor { udp, tcp })
    }
}

/// What one worker serves other nodes by. Dropped, it cuts off everything.
#[derive(Debug, Default)]
pub struct NodeServers(Vec<(Box<dyn Transport>, PeerServer)>);

impl NodeServers {
    fn push(
        &mut self,
        links: &Links,
        transport: impl Transport + Clone,
        who: &NodeTls,
        handler: &Arc<dyn Handler>,
        config: &ServeConfig,
    ) {
        let (identity, handler) = (who.identity.clone(), Arc::clone(handler));
        let server = PeerServer::new(transport.clone(), identity, handler, config.clone());
        let counters = Arc::clone(server.counters());
        links
            .registry
            .add_counters("stoq_peer", move |each| counters.visit(each));
        self.0.push((Box::new(transport), server));
    }

    /// Serves until a [`drain`](Self::drain) is over, or all is closed.
    pub async fn serve(&self) {
        join_all(self.0.iter().map(|(_, server)| server.serve())).await;
    }

    /// Serves until the drain that somebody begins is over: what it leaves is for [`close`](Self::close) to cut off.
    pub async fn serve_until_drained(&self, drain: &Drain) {
        self.serve_until_drained_after(drain, std::future::ready(()))
            .await;
    }

    /// As [`serve_until_drained`](Self::serve_until_drained), but goes on as before until `first` is done, or the drain over.
    pub async fn serve_until_drained_after(&self, drain: &Drain, first: impl Future<Output = ()>) {
        let drained = async {
            drain.begun().await;
            tokio::select! {
                () = first => {}
                () = drain.ended() => {}
            }
            let grace = drain.deadline().map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            });
            self.drain(grace);
            drain.ended().await;
        };
        tokio::select! {
            // Cutting the servers off is what a drain's end means.
            () = self.serve() => {}
            () = drained => {}
        }
    }

    /// Takes no newcomers, and lets exchanges under way finish for as long as `grace`.
    pub fn drain(&self, grace: Duration) {
        self.0.iter().for_each(|(_, server)| server.drain(grace));
    }

    /// Closes what is left, and waits until the peers have heard of it.
    pub async fn close(&self) {
        for (transport, _) in &self.0 {
            transport.close(0, b"");
        }
        join_all(self.0.iter().map(|(transport, _)| transport.wait_idle())).await;
    }
}
