//! The edge among the nodes of its cluster: where it listens for them, and what it answers there.
//!
//! Each part that talks to other nodes adds its kinds of exchange in [`exchanges`].

mod source;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use stoq::early::{TicketConfig, Tickets};
use stoq::hello::RoleRule;
use stoq::identity::Role;
use stoq::peer::{PeerServer, ServeConfig};
use stoq::quic::{
    AdmissionLimits, CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, Steering,
    TlsServer,
};
use stoq_mesh::{
    EXCHANGES_MAX, Exchanges, FillMetrics, Holders, Membership, ObjectMetrics, ObjectServer,
    PeerFills, SiteKeys, between_nodes, wire,
};
use stoq_node::config::Config;
use stoq_node::{Drain, Registry, WorkerId};
use tokio::time::{Instant, timeout};

use self::source::EdgeSource;
use crate::edge::StartError;
use crate::listen::BindError;
use crate::serve::Shared;

/// How long a worker waits for its connections from nodes to say their goodbyes once they are closed: 1 s.
const CLOSING: Duration = Duration::from_secs(1);

/// What other nodes may ask this edge: edges and shields, for chunks of what it holds and for what that is.
pub(crate) fn exchanges(shared: &Arc<Shared>, registry: &Registry) -> Exchanges {
    let metrics = Arc::new(ObjectMetrics::default());
    registry.with(|registry| metrics.register(registry.sub_registry_with_prefix("stoq")));
    let source = Arc::new(EdgeSource::new(Arc::clone(shared)));
    Exchanges::default().answering(
        [wire::CHUNKS, wire::HOLDINGS, wire::MANIFESTS],
        &[Role::Edge, Role::Shield],
        &(Arc::new(ObjectServer::new(source, metrics)) as _),
    )
}

/// Fills from the peers that these holders know.
pub(crate) fn fills(
    holders: Arc<dyn Holders>,
    shared: &Arc<Shared>,
    registry: &Registry,
) -> PeerFills {
    let metrics = Arc::new(FillMetrics::default());
    registry.with(|registry| metrics.register(registry.sub_registry_with_prefix("stoq")));
    let served = Arc::clone(shared);
    let keys: SiteKeys = Arc::new(move |name| {
        let site = served.sites.iter().find(|site| &*site.name == name);
        site.map(|site| site.chunk_key.clone())
    });
    let cache = shared.cache.clone();
    let has = Arc::new(move |id: &_| cache.store().contains(id));
    PeerFills::new(holders, keys, has, metrics)
}

/// The sockets of `listen.stoq`, bound, and what is said on them. Each worker takes its own.
#[derive(Debug)]
pub(crate) struct NodeListener {
    groups: Vec<SocketGroup>,
    membership: Membership,
    tls: TlsServer,
    cid_keys: CidKeys,
    limits: AdmissionLimits,
}

impl NodeListener {
    /// Binds the sockets of `listen.stoq` for so many workers. Without any it listens nowhere.
    ///
    /// # Errors
    /// An address cannot be bound, or the identity cannot be used.
    pub(crate) fn bind(
        config: &Config,
        membership: &Membership,
        workers: usize,
    ) -> Result<Self, StartError> {
        let bound = config.listen.stoq.iter().map(|addr| bind(*addr, workers));
        let tls = Tickets::new(&TicketConfig::default()).server_tls(membership.identity())?;
        Ok(Self {
            groups: bound.collect::<Result<_, _>>()?,
            membership: membership.clone(),
            tls,
            cid_keys: CidKeys::random(),
            limits: AdmissionLimits {
                max_connections: config.limits.connections,
                ..AdmissionLimits::default()
            },
        })
    }

    /// Where it listens, ports resolved, in the configuration's order.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.groups.iter().map(SocketGroup::local_addr).collect()
    }

    /// Answers other nodes on this worker's sockets until the drain that somebody begins is over. Returns at once where there are none.
    ///
    /// # Errors
    /// An endpoint cannot be made.
    pub(crate) async fn serve(
        &self,
        worker: WorkerId,
        exchanges: &Arc<Exchanges>,
        registry: &Registry,
        drain: &Drain,
    ) -> std::io::Result<()> {
        let mut servers = Vec::new();
        for socket in self.groups.iter().filter_map(|group| group.take(worker.0)) {
            let config = EndpointConfig {
                server: Some(self.tls.clone()),
                transport: between_nodes(),
                limits: self.limits.clone(),
                ..EndpointConfig::new(self.cid_keys.clone())
            };
            let endpoint = Endpoint::new(socket, config)?;
            let counters = Arc::clone(endpoint.counters());
            registry.add_counters("stoq_quic", move |each| counters.visit(each));
            let serve = ServeConfig {
                accept: RoleRule::AnyOf(vec![Role::Edge, Role::Shield]),
                kinds: exchanges.rules(),
                exchanges: EXCHANGES_MAX as usize,
                ..ServeConfig::default()
            };
            let identity = self.membership.identity().clone();
            let handler = Arc::clone(exchanges);
            let server = PeerServer::new(endpoint.clone(), identity, handler, serve);
            let counters = Arc::clone(server.counters());
            registry.add_counters("stoq_peer", move |each| counters.visit(each));
            servers.push((endpoint, server));
        }
        let served = join_all(servers.iter().map(|(_, server)| server.serve()));
        let drained = async {
            drain.begun().await;
            let grace = drain.deadline().map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            });
            servers.iter().for_each(|(_, server)| server.drain(grace));
            drain.ended().await;
        };
        tokio::select! {
            // Cutting the servers off is what a drain's end means.
            _ = served => {}
            () = drained => {}
        }
        for (endpoint, _) in &servers {
            endpoint.close(0, b"");
        }
        let idle = join_all(servers.iter().map(|(endpoint, _)| endpoint.wait_idle()));
        // What is not closed by then is cut off with the runtime.
        drop(timeout(CLOSING, idle).await);
        Ok(())
    }
}

fn bind(addr: SocketAddr, workers: usize) -> Result<SocketGroup, StartError> {
    let group = SocketGroup::bind(addr, workers, &SocketOptions::default()).map_err(|source| {
        StartError::Bind {
            key: "listen.stoq",
            source: BindError {
                addr,
                protocol: "udp",
                source,
            },
        }
    })?;
    if workers > 1
        && let Steering::SingleSocket { reason } = group.steering()
    {
        tracing::warn!(%addr, reason, "one socket for all workers: steering by connection ID was refused");
    }
    Ok(group)
}
