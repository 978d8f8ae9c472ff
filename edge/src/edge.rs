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
use stoq::identity::{IdentityError, Role as NodeRole};
use stoq::quic::{CidKeys, SocketOptions, Steering};
use stoq_cache::engine::{Cache, CacheConfig};
use stoq_cache::http::policy::SitePolicy;
use stoq_cache::time::Timestamp;
use stoq_ebpf::helper::{Helper, HelperError};
use stoq_mesh::gossip::GOSSIP;
use stoq_mesh::index::INDEX;
use stoq_mesh::{Exchanges, Holders, Links, Membership, Node, Origins, Patience, Storage};
use stoq_node::config::{AdminAddr, Config, ConfigError, XdpMode};
use stoq_node::{
    Admin, AdminHandle, Drain, Readiness, Registry, StateDir, StateDirError, WorkerError, Workers,
};
use stoq_routing::index::StoreError;
use tokio::time::Instant;

use crate::alt_svc::AltSvc;
use crate::certificates::{Certificates, DevTls};
use crate::listen::{self, BindError, Common, HttpsSockets};
use crate::mesh::{self, NodeListener};
use crate::peers::Peers;
use crate::serve::{self, AccessLog, Bounds, CdnId, Forwarder, ServeMetrics, SiteTable};
use crate::state::{self, StateError};
use crate::steering::Selectors;
use crate::tls::{ServerTls, TlsError};
use crate::worker::{Doors, Plan};
use crate::xdp::{self, Keeper, Ports, Reload};

/// What is left to workers beyond the drain's own deadline to close their connections: 3 s.
const CLOSING: Duration = Duration::from_secs(3);

/// Why an edge did not start. All but [`StartError::Runtime`] are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for what is not there.
    #[error("{}", list(.0))]
    Config(Vec<ConfigError>),
    /// The identity cannot be used.
    #[error("[cluster]: {0}")]
    Identity(#[from] IdentityError),
    /// The state directory cannot be used.
    #[error("node.state_dir: {0}")]
    StateDir(#[from] StateDirError),
    /// The node's secret cannot be used.
    #[error("node.state_dir: {0}")]
    Secret(#[from] StateError),
    /// What is kept of the provider index cannot be used.
    #[error("node.state_dir: {0}")]
    Index(#[from] StoreError),
    /// Certificates cannot be used or made.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// An address cannot be bound.
    #[error("{key}: {source}")]
    Bind {
        /// The configuration's key.
        key: &'static str,
        /// Where and why.
        source: BindError,
    },
    /// The admin listener cannot be bound.
    #[error("listen.admin: cannot listen on {addr}: {source}")]
    Admin {
        /// The address.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Threads, runtimes or sockets could not be made.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
}

fn list(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything of an edge that can be made without binding.
pub struct Prepared {
    config: Config,
    membership: Option<Membership>,
    certificates: Certificates,
    origins: Origins,
    cdn_id: CdnId,
    holders: Option<Arc<dyn Holders>>,
    patience: Patience,
    warnings: Vec<String>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("node", &self.config.node.name)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// Reads identity and certificates, opens directories, resolves origins. Binds, connects to and writes nothing.
    ///
    /// # Errors
    /// [`StartError`], the configuration's faults of one kind all at once.
    pub fn new(config: Config) -> Result<Self, StartError> {
        StateDir::check(&config.node.state_dir)?;
        let membership = config.cluster.as_ref().map(Membership::load).transpose()?;
        if let Some(identity) = membership.as_ref().map(Membership::identity)
            && config.shield.is_some()
            && !identity.roles().contains(&NodeRole::Edge)
        {
            let message = format!(
                "{} has no role edge: issue it with `cluster init --node NAME:edge`",
                identity.name()
            );
            return Err(StartError::Config(vec![
                config.error("cluster.identity", message),
            ]));
        }
        let cdn_id = CdnId::new(&config.node.cdn_id).ok_or_else(|| {
            StartError::Config(vec![
                config.error("node.cdn_id", "cannot stand in a header field"),
            ])
        })?;
        let exposed = state::exposed(&config);
        if !exposed.is_empty() {
            return Err(StartError::Config(exposed));
        }
        state::read_secret(&config.node.state_dir)?;
        Storage::check(&config).map_err(|error| StartError::Config(vec![error]))?;
        let mut warnings = Vec::new();
        let certificates = Certificates::load(&config, &mut warnings)?;
        let origins = Origins::new(&config).map_err(StartError::Config)?;
        Ok(Self {
            config,
            membership,
            certificates,
            origins,
            cdn_id,
            holders: None,
            patience: Patience::default(),
            warnings,
        })
    }

    /// Misses of an edge behind a shield ask those that `holders` knows for what they hold. Default: the nearest edges that it has found
    /// (`cluster.seeds`); where it looks for none, the shield alone.
    #[must_use]
    pub fn with_holders(mut self, holders: Arc<dyn Holders>) -> Self {
        self.holders = Some(holders);
        self
    }

    /// How long other edges are waited for.
    #[must_use]
    pub const fn patient(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The origins, to be probed.
    #[must_use]
    pub const fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What works but may not be meant, a line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

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
            clock: Timestamp::now,
        });
        let mut exchanges = match &nodes {
            Some(_) => mesh::exchanges(&shared, &registry),
            None => Exchanges::default(),
        };
        let dev_tls = certificates.dev().cloned();
        let (https_addrs, http_addrs) = (
            https.iter().map(|sockets| sockets.addr).collect(),
            plain.iter().map(|(addr, _)| *addr).collect(),
        );
        let stoq = nodes
            .as_ref()
            .map_or_else(Vec::new, NodeListener::local_addrs);
        let peers = match &membership {
            Some(member) => Peers::new(&config, member, &stoq, patience)?,
            None => None,
        };
        let found = || Some(peers.as_ref()?.holders());
        let fills = holders.or_else(found).map(|holders| {
            let mut fills = mesh::fills(holders, &shared, &registry).patient(patience);
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
            peers.providers().announce(&cache);
            registry.with(|registry| {
                let registry = registry.sub_registry_with_prefix("stoq");
                peers.gossip().metrics().register(registry);
                peers.providers().register(registry);
            });
        }
        let gossip = peers.as_ref().map(|peers| peers.gossip().clone());
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
                let calls = match &gossip {
                    Some(gossip) => gossip.calls(calls),
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
