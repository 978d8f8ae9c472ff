//! The edge among the nodes of its cluster: where it listens for them, and what it answers there.
//!
//! Each part that talks to other nodes adds its kinds of exchange in [`exchanges`].

mod source;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stoq::early::{TicketConfig, Tickets};
use stoq::hello::RoleRule;
use stoq::identity::Role;
use stoq::peer::Handler;
use stoq_mesh::{
    Exchanges, FillMetrics, Holders, Links, Membership, NodeDoors, NodeTls, ObjectMetrics,
    ObjectServer, PeerFills, SiteKeys, wire,
};
use stoq_node::config::Config;
use stoq_node::{Drain, Registry, WorkerId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::source::EdgeSource;
use crate::listen::BindError;
use crate::prepared::StartError;
use crate::serve::Shared;
use crate::steering::Selectors;

/// How long a worker waits for its connections from nodes to say their goodbyes once they are closed: 1 s.
const CLOSING: Duration = Duration::from_secs(1);

/// What other nodes may ask this edge: edges and shields, for chunks of what it holds and for what that is.
pub(crate) fn exchanges(shared: &Arc<Shared>, registry: &Registry) -> Exchanges {
    let metrics = Arc::new(ObjectMetrics::default());
    registry.with(|registry| metrics.register(registry.sub_registry_with_prefix("stoq")));
    let source = Arc::new(EdgeSource::new(Arc::clone(shared)));
    let server = ObjectServer::new(source, metrics).within(Arc::clone(&shared.borders));
    let server: Arc<dyn Handler> = Arc::new(server);
    Exchanges::default().answering(
        [wire::CHUNKS, wire::HOLDINGS, wire::MANIFESTS, wire::VOUCHED],
        &[Role::Edge, Role::Shield],
        &server,
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
    PeerFills::new(holders, keys, has, metrics).within(Arc::clone(&shared.borders))
}

/// The sockets of `listen.stoq`, bound, and what is shown on them. Each worker takes its own.
#[derive(Debug)]
pub(crate) struct NodeListener {
    doors: Vec<NodeDoors>,
    tls: NodeTls,
}

impl NodeListener {
    /// Binds the sockets of `listen.stoq` for so many workers. Without any it listens nowhere.
    ///
    /// # Errors
    /// An address cannot be bound, or the identity cannot be used.
    pub(crate) fn bind(
        config: &Config,
        links: &Links,
        membership: &Membership,
        workers: usize,
        selectors: &Selectors,
    ) -> Result<Self, StartError> {
        let tickets = Tickets::new(&TicketConfig::default());
        let tls = NodeTls::new(membership.identity(), &tickets)?;
        let bound = config.listen.stoq.iter().map(|addr| {
            links
                .bind(*addr, workers)
                .map_err(|source| StartError::Bind {
                    key: "listen.stoq",
                    source: BindError {
                        addr: *addr,
                        protocol: "udp or tcp",
                        source,
                    },
                })
        });
        let mut doors = bound.collect::<Result<Vec<_>, _>>()?;
        for door in &mut doors {
            selectors.steer(door.udp_mut(), tls.cid_keys());
        }
        Ok(Self { doors, tls })
    }

    /// Where it listens, ports resolved, in the configuration's order.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.doors.iter().map(NodeDoors::local_addr).collect()
    }

    /// Answers other nodes on this worker's sockets until the drain that somebody begins is over; as before until what is hot is handed over. Returns at once where there
    /// are none.
    ///
    /// # Errors
    /// A socket cannot be used with the runtime.
    pub(crate) async fn serve(
        &self,
        worker: WorkerId,
        links: &Links,
        exchanges: &Arc<Exchanges>,
        drain: &Drain,
        handed_over: &CancellationToken,
    ) -> io::Result<()> {
        let doors = self.doors.iter().filter_map(|doors| doors.take(worker.0));
        let accept = RoleRule::AnyOf(vec![Role::Edge, Role::Shield]);
        let handler: Arc<dyn Handler> = Arc::clone(exchanges) as _;
        let servers = links.serve(
            doors.collect(),
            &self.tls,
            &accept,
            &exchanges.rules(),
            &handler,
        )?;
        let first = handed_over.cancelled();
        servers.serve_until_drained_after(drain, first).await;
        // What is not closed by then is cut off with the runtime.
        drop(timeout(CLOSING, servers.close()).await);
        Ok(())
    }
}
