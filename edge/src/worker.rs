//! One worker: its endpoints, its listeners, its connections to upstreams. What it shares with the others is in [`Plan`].

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join, join_all, join4, select};
use http::uri::Scheme;
use parking_lot::Mutex;
use stoq::pool::Pool;
use stoq::quic::{
    Alarm, CidKeys, Endpoint, EndpointConfig, TlsServer, TransportConfig, WorkerSocket,
};
use stoq_cache::engine::CacheSite;
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::Upstream;
use stoq_mesh::{
    ChunkKeyIds, Exchanges, Fares, Links, MayAnswer, Membership, Node, Origins, PeerFills,
    ShieldClient, Storage,
};
use stoq_node::config::Config;
use stoq_node::memory::keep_within;
use stoq_node::{Busy, Drain, Registry, StateDir, WorkerId, WorkerResult};
use tokio_util::sync::CancellationToken;

use crate::alt_svc::{AltSvc, Pace, probe_forever};
use crate::certificates::InUse;
use crate::keep::Keep;
use crate::listen::tcp::{self, Door};
use crate::listen::{Common, Context, HttpsSockets, quic};
use crate::mesh::NodeListener;
use crate::peers::Peers;
use crate::serve::{self, AccessLog, AccessWriter, Serve};
use crate::tls::ServerTls;
use crate::xdp::Keeper;

/// How long a worker waits for its upstream exchanges once its listeners have ended: 1 s.
const CLOSING: Duration = Duration::from_secs(1);
/// How much longer the edge waits for a head than the shield waits for its origin, so that the shield's own answer arrives: 5 s.
const SHIELD_GRACE: Duration = Duration::from_secs(5);

/// What one worker takes with it when it starts. Sockets belong to their worker alone, so that a listener that ends is closed: a newcomer
/// is refused by the kernel, and does not wait in the queue of a socket that somebody else still holds.
#[derive(Debug)]
pub(crate) struct Doors {
    /// HTTP/3, each with its port.
    pub(crate) quic: Vec<(u16, WorkerSocket)>,
    /// TLS with HTTP/2 and HTTP/1.1, each with the place of its address in `listen.https`.
    pub(crate) tls: Vec<(usize, TcpListener)>,
    /// Plain HTTP/1.1.
    pub(crate) plain: Vec<TcpListener>,
    /// The worker's end of the access log, if there is one.
    pub(crate) writer: Option<AccessWriter>,
}

impl Doors {
    /// All workers' doors.
    pub(crate) fn split(
        workers: usize,
        https: Vec<HttpsSockets>,
        plain: Vec<Vec<TcpListener>>,
        access: Option<&AccessLog>,
    ) -> Vec<Option<Self>> {
        let mut all: Vec<_> = (0..workers)
            .map(|worker| Self {
                quic: https
                    .iter()
                    .filter_map(|sockets| Some((sockets.addr.port(), sockets.quic.take(worker)?)))
                    .collect(),
                tls: Vec::new(),
                plain: Vec::new(),
                writer: access.and_then(AccessLog::writer),
            })
            .collect();
        for (place, sockets) in https.into_iter().enumerate() {
            all.iter_mut()
                .zip(sockets.tcp)
                .for_each(|(doors, tcp)| doors.tls.push((place, tcp)));
        }
        for sockets in plain {
            all.iter_mut()
                .zip(sockets)
                .for_each(|(doors, tcp)| doors.plain.push(tcp));
        }
        all.into_iter().map(Some).collect()
    }
}

/// What the workers share.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) membership: Option<Membership>,
    /// Where other nodes are listened to; `None` for a node without a cluster.
    pub(crate) nodes: Option<NodeListener>,
    /// What they are answered.
    pub(crate) exchanges: Arc<Exchanges>,
    /// Fills from other edges, where it knows any.
    pub(crate) fills: Option<PeerFills>,
    /// Its part in the mesh, where others can reach it.
    pub(crate) peers: Option<Peers>,
    /// How busy its workers are.
    pub(crate) busy: Busy,
    pub(crate) storage: Storage,
    /// What it leaves to others and keeps for them.
    pub(crate) keep: Option<Keep>,
    /// Cancelled when it has handed over what it leaves.
    pub(crate) handed_over: CancellationToken,
    pub(crate) certificates: InUse,
    pub(crate) tls: ServerTls,
    /// One a worker; taken when it starts.
    pub(crate) doors: Mutex<Vec<Option<Doors>>>,
    pub(crate) cid_keys: CidKeys,
    /// The packet limiter, where one is asked for.
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// Its limits hold for clients as well.
    pub(crate) links: Links,
    /// What each address of `listen.https` says of HTTP/3.
    pub(crate) alt_svc: Vec<(SocketAddr, Arc<AltSvc>)>,
    /// What plain HTTP/1.1 counts as.
    pub(crate) http_scheme: Scheme,
    pub(crate) origins: Origins,
    pub(crate) shield: Arc<[Node]>,
    /// For each site, whether its origin may be asked when no shield can be reached.
    pub(crate) shield_fallback: Vec<bool>,
    pub(crate) shared: Arc<serve::Shared>,
    pub(crate) common: Common,
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    /// Held, since its lock keeps a second process out.
    pub(crate) _state: StateDir,
}

impl Plan {
    /// One worker from its start to the end of its last connection.
    pub(crate) async fn work(&self, id: WorkerId) -> WorkerResult {
        let origins = self.origins.for_worker();
        let pool = self.pool()?;
        let shield = pool.clone().and_then(|pool| self.shield_client(pool));
        let upstreams = origins.upstreams.iter().zip(&self.shield_fallback);
        let upstreams: Vec<_> = upstreams
            .zip(&self.shared.sites)
            .map(|((origin, fallback), site)| {
                let origin = self.before_origin(pool.as_ref(), site, origin);
                serve::choose(shield.as_ref(), *fallback, &origin)
            })
            .collect();
        let Some(doors) = self.doors.lock().get_mut(id.0).and_then(Option::take) else {
            return Err(format!("worker {id} was started twice").into());
        };
        let serve = Serve::new(Arc::clone(&self.shared), upstreams.clone(), doors.writer);
        let keeper = self.keeper.as_ref();
        let service = Arc::new(serve.telling(keeper.map(|keeper| keeper.witness().teller())));
        let context = Context::new(service, &self.common);

        let mut listeners: Vec<BoxFuture<'_, ()>> = Vec::new();
        for (port, socket) in doors.quic {
            let endpoint = Endpoint::new(socket, self.endpoint_config(port)?)?;
            let counters = Arc::clone(endpoint.counters());
            self.registry
                .add_counters("stoq_quic", move |each| counters.visit(each));
            listeners.push(Box::pin(quic::serve(Arc::clone(&context), endpoint)));
        }
        for (place, socket) in doors.tls {
            let Some((_, alt_svc)) = self.alt_svc.get(place) else {
                continue;
            };
            let door = Door::Tls {
                config: Arc::clone(&self.tls.tcp),
                alt_svc: Arc::clone(alt_svc),
            };
            listeners.push(Box::pin(listen(Arc::clone(&context), socket, door)));
        }
        for socket in doors.plain {
            let door = Door::Plain {
                scheme: self.http_scheme.clone(),
            };
            listeners.push(Box::pin(listen(Arc::clone(&context), socket, door)));
        }
        if let Some(nodes) = &self.nodes {
            listeners.push(Box::pin(async move {
                let (links, handed_over) = (&self.links, &self.handed_over);
                let served = nodes.serve(id, links, &self.exchanges, &self.drain, handed_over);
                if let Err(error) = served.await {
                    tracing::error!(%error, "other nodes are not listened to");
                }
            }));
        }
        if id.0 == 0 {
            // One prober for the process: the kernel leads each probe to some worker.
            for (addr, alt_svc) in &self.alt_svc {
                listeners.push(Box::pin(announce(&self.common, *addr, alt_svc)));
            }
        }
        let _tracked = self.drain.track();
        let served = join_all(listeners);
        if id.0 == 0 {
            let peers = self.reached_peers();
            let over = CancellationToken::new();
            let serving = async {
                // None ends; whoever serves does.
                let beside = join4(
                    self.certificates.renew(),
                    self.take_part(peers.as_ref(), &upstreams),
                    keep_within(self.config.limits.memory, &self.registry),
                    self.busy.measure(id),
                );
                let _ = select(served, Box::pin(beside)).await;
                over.cancel();
            };
            join(serving, self.keep_index(peers.as_ref(), &over)).await;
        } else {
            // Only the first ends.
            let _ = select(served, Box::pin(self.busy.measure(id))).await;
        }
        // What is not closed by then is cut off with the runtime.
        let _ = tokio::time::timeout(CLOSING, origins.close()).await;
        Ok(())
    }

    /// The edge's part in the mesh, if it has one, with the connections for it.
    fn reached_peers(&self) -> Option<(&Peers, Pool)> {
        let peers = self.peers.as_ref()?;
        match peers.pool(&self.links) {
            Ok(pool) => Some((peers, pool)),
            Err(error) => {
                tracing::error!(%error, "other edges are not looked for");
                None
            }
        }
    }

    /// Takes part in the mesh. Never ends.
    async fn take_part(&self, peers: Option<&(&Peers, Pool)>, upstreams: &[Arc<dyn Upstream>]) {
        let Some((peers, pool)) = peers else {
            // There is nobody to leave anything to.
            self.handed_over.cancel();
            return std::future::pending().await;
        };
        let fares = || Fares {
            load: self.common.load().max(self.busy.share()),
            is_ailing: self.storage.is_ailing(),
        };
        let taking_part = peers.run(pool.clone(), &self.drain, fares);
        let keeping = async {
            if let Some(keep) = &self.keep {
                let handing = keep.hand.run(peers.gossip(), pool, &self.drain);
                let placing = async {
                    if let Some(place) = &keep.place {
                        place.run(peers.gossip(), pool).await;
                    }
                };
                let protecting = keep.protect.run(peers.gossip(), pool);
                join4(keep.puller.run(upstreams), handing, placing, protecting).await;
            }
        };
        join(taking_part, keeping).await;
        std::future::pending().await
    }

    /// Keeps up the edge's part in the provider index, if it has one, until `over`.
    async fn keep_index(&self, peers: Option<&(&Peers, Pool)>, over: &CancellationToken) {
        if let Some((peers, pool)) = peers {
            let providers = peers.providers();
            providers.run(pool.clone(), &self.shared.cache, over).await;
        }
    }

    fn endpoint_config(
        &self,
        port: u16,
    ) -> Result<EndpointConfig, Box<dyn std::error::Error + Send + Sync>> {
        let keeper = self.keeper.as_ref();
        Ok(EndpointConfig {
            screen: keeper.map(|keeper| keeper.screen(port)),
            alarm: keeper.map_or_else(Alarm::default, |keeper| keeper.alarm().clone()),
            server: Some(TlsServer::new(Arc::clone(&self.tls.quic))?),
            transport: TransportConfig {
                idle_timeout: self.config.limits.timeouts.idle,
                // A client that does not read holds at most this of ours: 2 MiB carry 400 Mbit/s over 40 ms.
                send_window: 2 << 20,
                ..TransportConfig::default()
            },
            limits: self.links.limits().clone(),
            prefixes: self.links.prefixes().clone(),
            ..EndpointConfig::new(self.cid_keys.clone())
        })
    }

    /// This worker's connections to other nodes, in a cluster.
    fn pool(&self) -> Result<Option<Pool>, Box<dyn std::error::Error + Send + Sync>> {
        let Some(membership) = &self.membership else {
            return Ok(None);
        };
        Ok(Some(self.links.pool(membership.identity().clone())?))
    }

    /// What a site's misses are sent to where there is no shield: the origin, with peers before it where they are known.
    fn before_origin(
        &self,
        pool: Option<&Pool>,
        site: &Arc<CacheSite>,
        origin: &Arc<dyn Upstream>,
    ) -> Arc<dyn Upstream> {
        let (Some(fills), Some(pool), true) = (&self.fills, pool, self.shield.is_empty()) else {
            return Arc::clone(origin);
        };
        let (cache, site) = (self.shared.cache.clone(), Arc::clone(site));
        let may_answer: MayAnswer = Arc::new(move |request, status, response, said_ms| {
            cache.would_answer(&site, request, status, response, Timestamp(said_ms))
        });
        Arc::new(fills.before(pool.clone(), Arc::clone(origin), may_answer))
    }

    /// This worker's client of the shield, if there is one, with peers before it where they are known.
    fn shield_client(&self, pool: Pool) -> Option<Arc<dyn Upstream>> {
        if self.shield.is_empty() {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let ids: ChunkKeyIds = Arc::new(move |name| {
            let site = shared.sites.iter().find(|site| &*site.name == name);
            site.map_or([0; 16], |site| *site.chunk_key.key_id().as_bytes())
        });
        let wait = self.config.limits.timeouts.origin_first_byte + SHIELD_GRACE;
        let nodes = Arc::clone(&self.shield);
        let shield = ShieldClient::new(pool.clone(), nodes, ids, wait);
        let shield = shield.within(Arc::clone(&self.shared.borders));
        let shield = Arc::new(match &self.peers {
            Some(peers) => shield.sparing(peers.leaving()),
            None => shield,
        });
        Some(match &self.fills {
            Some(fills) => Arc::new(fills.over(pool, shield)),
            None => shield,
        })
    }
}

async fn listen(context: Arc<Context<Serve>>, socket: TcpListener, door: Door) {
    if let Err(error) = tcp::serve(context, socket, door).await {
        tracing::error!(%error, "a TCP listener could not be started");
    }
}

async fn announce(common: &Common, addr: SocketAddr, alt_svc: &Arc<AltSvc>) {
    if let Err(error) = probe_forever(Arc::clone(alt_svc), addr, common, Pace::default()).await {
        tracing::warn!(%addr, %error, "HTTP/3 is not announced");
    }
}
