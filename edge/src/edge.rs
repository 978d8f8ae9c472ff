//! A running edge: sockets, certificates, workers, admin listener, and their orderly end.
//!
//! [`Prepared::new`] does what can be done without a socket and is what `check` looks at; [`Edge::bind`] binds everything before any
//! worker runs, so that a start either stands whole or leaves nothing behind; [`Bound::start`] serves. Between the two the process has one
//! thread, has read nothing from outside, and needs its capabilities no more.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use parking_lot::Mutex;
use stoq::identity::Role as NodeRole;
use stoq::quic::{CidKeys, SocketOptions, Steering};
use stoq_cache::engine::{Cache, CacheConfig};
use stoq_cache::http::policy::SitePolicy;
use stoq_cache::time::Timestamp;
use stoq_ebpf::helper::{Helper, HelperError};
use stoq_mesh::gossip::GOSSIP;
use stoq_mesh::index::INDEX;
use stoq_mesh::keep::{KEEP, Told};
use stoq_mesh::{Exchanges, Links, Node, OwnWord, Storage};
use stoq_node::config::{AdminAddr, Config, XdpMode};
use stoq_node::{
    Admin, AdminHandle, Busy, Drain, Readiness, Registry, StateDir, WorkerError, Workers,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::alt_svc::AltSvc;
use crate::certificates::DevTls;
use crate::keep::{Heat, Keep, Puts};
use crate::listen::{self, Common, HttpsSockets};
use crate::mesh::{self, NodeListener};
use crate::peers::Peers;
use crate::prepared::{Prepared, StartError};
use crate::serve::{self, AccessLog, Bounds, Forwarder, ServeMetrics, SiteTable};
use crate::state;
use crate::steering::Selectors;
use crate::tls::ServerTls;
use crate::worker::{Doors, Plan};
use crate::xdp::{self, Keeper, Ports, Reload};

/// What is left to workers beyond the drain's own deadline to close their connections: 3 s.
const CLOSING: Duration = Duration::from_secs(3);

/// The edge. See [`Edge::start`].
#[derive(Debug)]
pub struct Edge;

/// An edge that serves. Dropping it leaves its threads running; end it with [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    https: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    stoq: Vec<SocketAddr>,
    dev_tls: Option<DevTls>,
    admin: Option<AdminHandle>,
    registry: Registry,
    drain: Drain,
    cache: Cache,
    storage: Storage,
    workers: Workers,
    /// Takes its program away when dropped.
    keeper: Option<Arc<Keeper>>,
    /// Written out when dropped, after the workers have ended.
    _access: Option<AccessLog>,
}

impl Edge {
    /// Binds all sockets and starts the workers.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(prepared: Prepared) -> Result<Running, StartError> {
        Self::bind(prepared)?.start()
    }

    /// Takes the state directory and binds all sockets. Starts no thread.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub fn bind(prepared: Prepared) -> Result<Bound, StartError> {
        let config = &prepared.config;
        for warning in &prepared.warnings {
            tracing::warn!("{warning}");
        }
        let state = StateDir::open(&config.node.state_dir)?;
        let registry = Registry::new();
        let links = Links::new(config, &registry);
        if let Some(membership) = &prepared.membership {
            membership.register(&registry);
        }
        let count = config.node.workers;
        let cid_keys = CidKeys::random();
        let selectors = Selectors::new(&registry);
        let https = config
            .listen
            .https
            .iter()
            .map(|addr| bind_https(*addr, count, &cid_keys, &selectors))
            .collect::<Result<Vec<_>, _>>()?;
        let plain = config
            .listen
            .http
            .iter()
            .map(|addr| bind_http(*addr, count))
            .collect::<Result<Vec<_>, _>>()?;
        let nodes = prepared
            .membership
            .as_ref()
            .map(|membership| NodeListener::bind(config, &links, membership, count, &selectors))
            .transpose()?;
        let admin = config.listen.admin.as_ref().map(bind_admin).transpose()?;
        let mut ports = Ports::default();
        https.iter().for_each(|door| ports.https(door.addr.port()));
        plain.iter().for_each(|(addr, _)| ports.http(addr.port()));
        for addr in nodes.iter().flat_map(NodeListener::local_addrs) {
            ports.stoq(addr.port(), config.stoq.tcp);
        }
        Ok(Bound {
            prepared,
            state,
            registry,
            links,
            https,
            plain,
            nodes,
            admin,
            ports,
            cid_keys,
            helper: None,
            reload: None,
        })
    }
}

/// An edge whose sockets are bound, and that reads none of them yet.
pub struct Bound {
    prepared: Prepared,
    state: StateDir,
    registry: Registry,
    links: Links,
    https: Vec<HttpsSockets>,
    plain: Vec<(SocketAddr, Vec<TcpListener>)>,
    nodes: Option<NodeListener>,
    admin: Option<Admin>,
    ports: Ports,
    cid_keys: CidKeys,
    helper: Option<Result<Helper, HelperError>>,
    reload: Option<Reload>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("node", &self.prepared.config.node.name)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// Starts the helper that `[xdp]` needs, where it asks for one: this same binary under its hidden verb. `reload` reads the table anew.
    #[must_use]
    pub(crate) fn with_helper(self, reload: Reload) -> Self {
        let helper = xdp::start_helper(&self.prepared.config.xdp, &self.ports);
        Self {
            helper,
            reload: Some(reload),
            ..self
        }
    }

    /// Whether what the process may do beyond others is to be given up now.
    pub(crate) fn gives_up_capabilities(&self) -> bool {
        let xdp = &self.prepared.config.xdp;
        xdp.mode != XdpMode::Off && !xdp.keep_capabilities
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(self) -> Result<Running, StartError> {
        let Self {
            prepared,
            state,
            registry,
            links,
            https,
            plain,
            nodes,
            admin,
            ports,
            cid_keys,
            helper,
            reload,
        } = self;
        let Prepared {
            config,
            membership,
            certificates,
            origins,
            cdn_id,
            borders,
            geo,
            holders,
            patience,
            warnings: _,
        } = prepared;
        let count = config.node.workers;
        let secret = match &membership {
            Some(membership) => {
                membership.begin()?;
                *membership.identity().cluster_secret()
            }
            None => state::secret(&config.node.state_dir)?,
        };
        // Before anything is read: what is there may take a second to load.
        let storage =
            Storage::open(&config, secret).map_err(|error| StartError::Config(vec![error]))?;
        let certificates = certificates.resolve(&config.node.state_dir)?;
        let tls = ServerTls::new(certificates.resolver())?;
        let keeper = (config.xdp.mode != XdpMode::Off).then(|| {
            let setup = xdp::Setup {
                config: config.xdp.clone(),
                state_dir: config.node.state_dir.clone(),
                ports,
                keys: cid_keys.clone(),
                helper: helper.unwrap_or_else(|| {
                    Err(HelperError::Io(io::Error::other(
                        "this process was started without one",
                    )))
                }),
                reload,
                proxies: config.limits.trusted_proxies.clone(),
                workers: count,
                memory: config.limits.memory,
            };
            Keeper::start(setup, &registry).map(Arc::new)
        });
        let keeper = keeper.transpose()?;

        let cache = storage.cache(CacheConfig {
            name: config.node.name.clone(),
            ram_bytes: usize::try_from(config.cache.ram).unwrap_or(usize::MAX),
            heads_bytes: config.cache.heads,
            variants_max: config.cache.variants,
            fill_bytes: usize::try_from(config.cache.fill_buffer).unwrap_or(usize::MAX),
            ..CacheConfig::new(secret)
        })?;
        let listen_metrics = listen::Metrics::new();
        let metrics = registry.with(|registry| {
            listen_metrics.register(registry);
            let metrics = ServeMetrics::register(registry);
            let registry = registry.sub_registry_with_prefix("stoq");
            cache.register(registry);
            storage.register(registry);
            borders.register(registry);
            for (position, servers) in origins.servers() {
                let site = config
                    .sites
                    .get(position)
                    .map_or("", |site| &site.name)
                    .to_owned();
                servers
                    .metrics()
                    .register(registry.sub_registry_with_label(("site".into(), site.into())));
            }
            metrics
        });
        let access = config.log.access.then(|| {
            let json = config.log.format == stoq_node::config::LogFormat::Json;
            AccessLog::start(json, metrics.clone(), Box::new(io::stderr()))
        });
        let access = access.transpose()?;

        let drain = Drain::new(config.node.drain);
        let readiness = Readiness::new(drain.clone());
        let shared = Arc::new(serve::Shared {
            node: config.node.name.clone(),
            hosts: SiteTable::new(config.sites.iter().map(|site| site.hosts.as_slice())),
            borders: Arc::clone(&borders),
            sites: config
                .sites
                .iter()
                .map(|site| cache_site(&cache, site))
                .collect(),
            bounds: Bounds {
                header_bytes: config.limits.header_bytes,
                body_bytes: config.limits.body_bytes,
                cdn_id: cdn_id.clone(),
            },
            forwarder: Forwarder {
                trusted_proxies: config.limits.trusted_proxies.clone(),
                pseudonym: config.node.name.clone(),
                cdn_id,
            },
            cache: cache.clone(),
            metrics,
            shaper: links.shaper().cloned(),
            heat: (membership.is_some() && !config.listen.stoq.is_empty()).then(Heat::default),
            clock: Timestamp::now,
        });
        let mut exchanges = match &nodes {
            Some(_) => mesh::exchanges(&shared, &registry),
            None => Exchanges::default(),
        };
        if let Some(member) = &membership {
            let word = OwnWord::of(member.identity().clone());
            if config.sites.iter().any(|site| word.may(&site.name)) {
                registry.with(|registry| {
                    word.register(registry.sub_registry_with_prefix("stoq"));
                });
                cache.vouched_for_by(Arc::new(word));
            }
        }
        let dev_tls = certificates.dev().cloned();
        let (https_addrs, http_addrs) = (
            https.iter().map(|sockets| sockets.addr).collect(),
            plain.iter().map(|(addr, _)| *addr).collect(),
        );
        let stoq = nodes
            .as_ref()
            .map_or_else(Vec::new, NodeListener::local_addrs);
        let peers = match &membership {
            Some(member) => Peers::new(&config, member, &stoq, geo, &borders, patience)?,
            None => None,
        };
        let found = || Some(peers.as_ref()?.holders());
        let told = holders.or_else(found).map(Told::before);
        let handed_over = CancellationToken::new();
        let keep = peers.as_ref().zip(told.as_ref()).map(|(peers, told)| {
            Keep::new(
                &shared,
                peers,
                told.clone(),
                &drain,
                Puts::of(&config),
                &handed_over,
                &registry,
            )
        });
        if keep.is_none() {
            handed_over.cancel();
        }
        let fills = told.map(|holders| {
            let mut fills = mesh::fills(Arc::new(holders), &shared, &registry).patient(patience);
            if let Some(member) = &membership {
                fills = fills.judging_as(member.identity().clone());
            }
            fills
        });
        if let (Some(peers), Some(member)) = (&peers, &membership) {
            let roles = [NodeRole::Edge, NodeRole::Shield];
            let index = peers.providers().handler(member.identity());
            exchanges = exchanges
                .answering([GOSSIP], &roles, &peers.gossip().handler())
                .answering([INDEX], &roles, &index);
            if let Some(keep) = &keep {
                exchanges = exchanges.answering([KEEP], &[NodeRole::Edge], &keep.handler());
            }
            peers.providers().announce(&cache);
            registry.with(|registry| {
                let registry = registry.sub_registry_with_prefix("stoq");
                peers.register(registry);
            });
        }
        let seen = peers.as_ref().map(|peers| peers.presence().seen());
        let shield = config
            .shield
            .as_ref()
            .map_or_else(Vec::new, |shield| shield.nodes.clone());
        let plan = Arc::new(Plan {
            common: Common::new(limits(&config, &links), listen_metrics, drain.clone())
                .telling(keeper.as_ref().map(|keeper| keeper.witness().clone())),
            alt_svc: https
                .iter()
                .map(|sockets| (sockets.addr, AltSvc::new(sockets.addr.port())))
                .collect(),
            http_scheme: match config.listen.http_scheme {
                stoq_node::config::Scheme::Http => Scheme::HTTP,
                stoq_node::config::Scheme::Https => Scheme::HTTPS,
            },
            shield: shield
                .into_iter()
                .map(|node| Node::new(node.host, node.port))
                .collect(),
            shield_fallback: config
                .sites
                .iter()
                .map(|site| site.shield_fallback)
                .collect(),
            doors: Mutex::new(Doors::split(
                count,
                https,
                plain.into_iter().map(|(_, tcp)| tcp).collect(),
                access.as_ref(),
            )),
            cid_keys,
            keeper: keeper.clone(),
            links: links.clone(),
            registry: registry.clone(),
            config,
            membership: membership.clone(),
            nodes,
            exchanges: Arc::new(exchanges),
            fills,
            peers,
            busy: Busy::new(count),
            storage: storage.clone(),
            keep,
            handed_over,
            certificates,
            tls,
            origins,
            shared,
            drain: drain.clone(),
            _state: state,
        });
        let workers = Workers::spawn(count, "worker", move |id| {
            let plan = Arc::clone(&plan);
            async move {
                match &plan.membership {
                    // One keeps up with the revocation list for all.
                    Some(membership) if id.0 == 0 => membership.beside(plan.work(id)).await,
                    _ => plan.work(id).await,
                }
            }
        })?;
        let admin = admin
            .map(|admin| {
                let calls = storage.calls(&cache);
                let calls = match &keeper {
                    Some(keeper) => keeper.calls(calls),
                    None => calls,
                };
                let calls = match seen {
                    Some(seen) => seen.calls(calls),
                    None => calls,
                };
                admin.offering(match &membership {
                    Some(membership) => membership.calls(calls),
                    None => calls,
                })
            })
            .map(|admin| admin.serve(registry.clone(), readiness.clone()))
            .transpose()?;
        readiness.ready();
        Ok(Running {
            https: https_addrs,
            http: http_addrs,
            stoq,
            dev_tls,
            admin,
            registry,
            drain,
            cache,
            storage,
            workers,
            keeper,
            _access: access,
        })
    }
}

impl Running {
    /// Where it serves HTTP/3, HTTP/2 and HTTP/1.1, ports resolved, in the configuration's order.
    #[must_use]
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Where it serves plain HTTP/1.1.
    #[must_use]
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where it listens for other nodes.
    #[must_use]
    pub fn stoq_addrs(&self) -> &[SocketAddr] {
        &self.stoq
    }

    /// Where its admin listener is, if it has one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<&AdminAddr> {
        self.admin.as_ref().map(AdminHandle::local_addr)
    }

    /// What a client needs to trust it, when it made its own certificates.
    #[must_use]
    pub const fn dev_tls(&self) -> Option<&DevTls> {
        self.dev_tls.as_ref()
    }

    /// Its metrics.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handle that ends it.
    #[must_use]
    pub const fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Serves until the drain that somebody begins is over, or a worker dies. Nothing of it runs afterwards.
    ///
    /// # Errors
    /// What a worker died of, or that some did not end in time.
    pub async fn wait(mut self) -> Result<(), WorkerError> {
        let mut first = Ok(());
        let drained = self.drain.run();
        tokio::pin!(drained);
        loop {
            tokio::select! {
                // Each may be cancelled: neither takes anything that would be lost.
                outcome = &mut drained => {
                    tracing::info!(?outcome, "drained");
                    break;
                }
                Some((worker, result)) = self.workers.ended() => match result {
                    // One whose connections are done is done; the others still have theirs.
                    Ok(()) if self.drain.is_draining() => {}
                    ended => {
                        if let Err(error) = ended {
                            tracing::error!(%worker, %error, "a worker died");
                            first = first.and(Err(error));
                        }
                        self.drain.end();
                    }
                },
            }
        }
        if tokio::time::timeout(CLOSING, self.cache.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("fills were cut off");
            self.cache.abort();
        }
        let joined = self.workers.join(Instant::now() + CLOSING).await;
        // Its program judges until the last connection is gone.
        let (storage, keeper) = (self.storage, self.keeper);
        // Nobody stores any more. An error is a panic in there, which was reported.
        let _ = tokio::task::spawn_blocking(move || {
            drop(keeper);
            storage.close()
        })
        .await;
        first.and(joined)
    }

    /// Drains, and waits for the end.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn stop(self) -> Result<(), WorkerError> {
        self.drain.begin();
        self.wait().await
    }
}

fn cache_site(cache: &Cache, site: &stoq_node::config::Site) -> Arc<stoq_cache::engine::CacheSite> {
    let policy = SitePolicy {
        default_ttl: site.default_ttl,
        heuristic: site.heuristic,
        cache_control_targets: site.cache_control_targets.clone(),
        client_cache_control: site.client_cache_control,
        stale_if_error: site.stale_if_error,
        stale_if_unreachable: site.stale_if_unreachable,
        query: stoq_mesh::query_rules(site),
        normal_accept_encoding: site.normal_accept_encoding,
        told: site.residency.is_empty(),
        ..SitePolicy::default()
    };
    cache.site(&site.name, Some(&site.dedupe_domain), policy)
}

fn limits(config: &Config, links: &Links) -> listen::Limits {
    let timeouts = &config.limits.timeouts;
    listen::Limits {
        connections: config.limits.connections,
        per_prefix: config.limits.per_prefix_connections,
        prefixes: links.prefixes().clone(),
        header_bytes: u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX),
        head_timeout: timeouts.request_head,
        idle_timeout: timeouts.idle,
        ..listen::Limits::default()
    }
}

fn bind_https(
    addr: SocketAddr,
    workers: usize,
    cid_keys: &CidKeys,
    selectors: &Selectors,
) -> Result<HttpsSockets, StartError> {
    let mut sockets =
        HttpsSockets::bind(addr, workers, &SocketOptions::default()).map_err(|source| {
            StartError::Bind {
                key: "listen.https",
                source,
            }
        })?;
    if workers > 1
        && let Steering::SingleSocket { reason } = sockets.quic.steering()
    {
        tracing::warn!(%addr, reason, "one UDP socket for all workers: steering by connection ID was refused");
    }
    selectors.steer(&mut sockets.quic, cid_keys);
    Ok(sockets)
}

fn bind_http(
    addr: SocketAddr,
    workers: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
    let sockets = listen::bind_tcp(addr, workers).map_err(|source| StartError::Bind {
        key: "listen.http",
        source,
    })?;
    let addr = sockets.first().map_or(Ok(addr), TcpListener::local_addr)?;
    Ok((addr, sockets))
}

fn bind_admin(addr: &AdminAddr) -> Result<Admin, StartError> {
    Admin::bind(addr).map_err(|source| StartError::Admin {
        addr: addr.to_string(),
        source,
    })
}
