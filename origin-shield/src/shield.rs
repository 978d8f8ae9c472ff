//! A running shield: sockets, workers, admin listener, and their orderly end.
//!
//! [`Shield::start`] binds everything before any worker runs, so that a start either stands whole or leaves nothing behind.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join3, select};
use stoq::early::{TicketConfig, Tickets};
use stoq::hello::RoleRule;
use stoq::identity::{IdentityError, Role as NodeRole};
use stoq::peer::Handler;
use stoq_cache::engine::{Cache, CacheConfig, CacheSite};
use stoq_cache::http::policy::SitePolicy;
use stoq_mesh::gossip::GOSSIP;
use stoq_mesh::{
    Borders, Exchanges, Fares, GeoWatch, Links, Membership, NodeDoors, NodeTls, ObjectMetrics,
    ObjectServer, Origins, Presence, Storage, wire,
};
use stoq_node::config::{AdminAddr, Config, ConfigError, Role};
use stoq_node::memory::keep_within;
use stoq_node::metrics::Registry;
use stoq_node::{
    Admin, AdminHandle, Busy, Drain, Readiness, StateDir, StateDirError, WorkerId, WorkerResult,
    Workers,
};
use tokio::time::Instant;

use crate::source::{ShieldSite, ShieldSource};

/// What is left to workers beyond the drain's own deadline to close their connections: 2 s.
const CLOSING: Duration = Duration::from_secs(2);

/// What it is, for people.
const SOFTWARE: &str = concat!("stoq-shield ", env!("CARGO_PKG_VERSION"));

/// Why a shield did not start. All but [`StartError::Runtime`] are the operator's to mend.
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
    State(#[from] StateDirError),
    /// An address cannot be bound.
    #[error("{key}: cannot listen on {addr}: {source}")]
    Bind {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Threads or runtimes could not be made.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

fn list(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything of a shield that can be made without binding: what `check` looks at and `run` goes on from.
pub struct Prepared {
    config: Config,
    membership: Membership,
    tickets: Arc<Tickets>,
    tls: NodeTls,
    origins: Origins,
    borders: Arc<Borders>,
    geo: Option<Arc<GeoWatch>>,
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
    /// Reads identities, opens directories, resolves origins. Binds and connects to nothing.
    ///
    /// # Errors
    /// [`StartError`], the configuration's faults all at once.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let Some(cluster) = &config.cluster else {
            let error = config.error(
                "cluster",
                "a shield needs [cluster] with name, identity and root",
            );
            return Err(StartError::Config(vec![error]));
        };
        let membership = Membership::load(cluster)?;
        let identity = membership.identity();
        if !identity.roles().contains(&NodeRole::Shield) {
            let message = format!(
                "{} has no role shield: issue it with `cluster init --node NAME:shield`",
                identity.name()
            );
            return Err(StartError::Config(vec![
                config.error("cluster.identity", message),
            ]));
        }
        let tickets = Tickets::new(&TicketConfig::default());
        let tls = NodeTls::new(identity, &tickets)?;
        Storage::check(&config).map_err(|error| StartError::Config(vec![error]))?;
        let origins = Origins::new(&config).map_err(StartError::Config)?;
        let borders = Borders::of(&config).map_err(StartError::Config)?;
        let mut warnings = Vec::new();
        let geo = GeoWatch::open(&config, &mut warnings).map_err(StartError::Config)?;
        Ok(Self {
            config,
            membership,
            tickets,
            tls,
            origins,
            borders: Arc::new(borders),
            geo,
            warnings,
        })
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
}

/// The shield. See [`Shield::start`].
#[derive(Debug)]
pub struct Shield;

/// A shield that serves. Dropping it leaves its threads running; end it with [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    stoq: Vec<SocketAddr>,
    admin: Option<AdminHandle>,
    registry: Registry,
    drain: Drain,
    cache: Cache,
    storage: Storage,
    workers: Workers,
}

impl Shield {
    /// Binds all sockets and starts the workers.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(prepared: Prepared) -> Result<Running, StartError> {
        let Prepared {
            config,
            membership,
            tickets,
            tls,
            origins,
            borders,
            geo,
            warnings,
        } = prepared;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let state = StateDir::open(&config.node.state_dir)?;
        membership.begin()?;
        let secret = *membership.identity().cluster_secret();
        // Before anything listens: what is there may take a second to load.
        let storage =
            Storage::open(&config, secret).map_err(|error| StartError::Config(vec![error]))?;
        let count = config.node.workers;
        let registry = Registry::new();
        let links = Links::new(&config, &registry);
        membership.register(&registry);
        registry.add_counters("stoq", move |each| tickets.counters().visit(each));
        let doors = config
            .listen
            .stoq
            .iter()
            .map(|addr| bind(&links, *addr, count))
            .collect::<Result<Vec<_>, _>>()?;
        let admin = config.listen.admin.as_ref().map(bind_admin).transpose()?;

        let cache = storage
            .cache(CacheConfig {
                name: config.node.name.clone(),
                ram_bytes: usize::try_from(config.cache.ram).unwrap_or(usize::MAX),
                heads_bytes: config.cache.heads,
                variants_max: config.cache.variants,
                fill_bytes: usize::try_from(config.cache.fill_buffer).unwrap_or(usize::MAX),
                ..CacheConfig::new(secret)
            })
            .map_err(StartError::Runtime)?;
        let metrics = Arc::new(ObjectMetrics::default());
        registry.with(|registry| {
            let registry = registry.sub_registry_with_prefix("stoq");
            cache.register(registry);
            storage.register(registry);
            metrics.register(registry);
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
        });

        let drain = Drain::new(config.node.drain);
        let readiness = Readiness::new(drain.clone());
        let stoq: Vec<_> = doors.iter().map(NodeDoors::local_addr).collect();
        let presence = Presence::new(
            &config,
            Role::Shield,
            &membership,
            &stoq,
            geo,
            &borders,
            SOFTWARE,
        );
        registry.with(|registry| {
            let registry = registry.sub_registry_with_prefix("stoq");
            borders.register(registry);
            if let Some(presence) = &presence {
                presence.register(registry);
            }
        });
        let seen = presence.as_ref().map(Presence::seen);
        let shared = Arc::new(Shared {
            sites: sites(&config, &cache),
            links,
            presence,
            busy: Busy::new(count),
            borders,
            storage: storage.clone(),
            _state: state,
            doors,
            membership: membership.clone(),
            tls,
            origins,
            cache: cache.clone(),
            metrics,
            drain: drain.clone(),
            memory_bytes: config.limits.memory,
            registry: registry.clone(),
        });
        let workers = Workers::spawn(count, "worker", move |id| {
            let shared = Arc::clone(&shared);
            async move {
                match id.0 {
                    // One keeps up with the revocation list for all.
                    0 => shared.membership.beside(shared.work(id)).await,
                    _ => shared.work(id).await,
                }
            }
        })
        .map_err(StartError::Runtime)?;
        let admin = admin
            .map(|admin| {
                let calls = storage.calls(&cache);
                let calls = match seen {
                    Some(seen) => seen.calls(calls),
                    None => calls,
                };
                admin.offering(membership.calls(calls))
            })
            .map(|admin| admin.serve(registry.clone(), readiness.clone()))
            .transpose()
            .map_err(StartError::Runtime)?;
        readiness.ready();
        Ok(Running {
            stoq,
            admin,
            registry,
            drain,
            cache,
            storage,
            workers,
        })
    }
}

impl Running {
    /// Where it listens for nodes, ports resolved, in the configuration's order.
    #[must_use]
    pub fn stoq_addrs(&self) -> &[SocketAddr] {
        &self.stoq
    }

    /// Where its admin listener is, if it has one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<&AdminAddr> {
        self.admin.as_ref().map(AdminHandle::local_addr)
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
    pub async fn wait(mut self) -> Result<(), stoq_node::WorkerError> {
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
        let closed = tokio::time::timeout(CLOSING, self.cache.shutdown()).await;
        if closed.is_err() {
            tracing::warn!("fills were cut off");
            self.cache.abort();
        }
        let joined = self.workers.join(Instant::now() + CLOSING).await;
        let storage = self.storage;
        // Nobody stores any more. An error is a panic in there, which was reported.
        let _ = tokio::task::spawn_blocking(move || storage.close()).await;
        first.and(joined)
    }

    /// Drains, and waits for the end.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn stop(self) -> Result<(), stoq_node::WorkerError> {
        self.drain.begin();
        self.wait().await
    }
}

/// What the workers share.
struct Shared {
    links: Links,
    doors: Vec<NodeDoors>,
    membership: Membership,
    tls: NodeTls,
    /// Its part in the mesh, where others can reach it.
    presence: Option<Presence>,
    /// How busy its workers are.
    busy: Busy,
    borders: Arc<Borders>,
    storage: Storage,
    origins: Origins,
    sites: Vec<(Arc<stoq_node::config::Site>, Arc<CacheSite>)>,
    cache: Cache,
    metrics: Arc<ObjectMetrics>,
    drain: Drain,
    /// `limits.memory`.
    memory_bytes: u64,
    registry: Registry,
    /// Held, since its lock keeps a second process out.
    _state: StateDir,
}

impl Shared {
    /// One worker from its start to the end of its last connection.
    async fn work(&self, id: WorkerId) -> WorkerResult {
        let origins = self.origins.for_worker();
        let sites = self
            .sites
            .iter()
            .zip(&origins.upstreams)
            .map(|((config, cache), upstream)| ShieldSite {
                config: Arc::clone(config),
                cache: Arc::clone(cache),
                upstream: Arc::clone(upstream),
            });
        let source = Arc::new(ShieldSource::new(self.cache.clone(), sites.collect()));
        let server = ObjectServer::new(source, Arc::clone(&self.metrics))
            .vouching(self.membership.identity().clone())
            .within(Arc::clone(&self.borders));
        let server: Arc<dyn Handler> = Arc::new(server);
        let roles = [NodeRole::Edge, NodeRole::Shield];
        let mut exchanges =
            Exchanges::default().answering([wire::OBJECT, wire::CHUNKS], &roles, &server);
        if let Some(presence) = &self.presence {
            exchanges = exchanges.answering([GOSSIP], &roles, &presence.gossip().handler());
        }
        let kinds = exchanges.rules();
        let handler: Arc<dyn Handler> = Arc::new(exchanges);
        let accept = RoleRule::AnyOf(roles.to_vec());
        let doors = self.doors.iter().filter_map(|doors| doors.take(id.0));
        let servers = self
            .links
            .serve(doors.collect(), &self.tls, &accept, &kinds, &handler)?;
        let _tracked = self.drain.track();
        let served = servers.serve_until_drained(&self.drain);
        if id.0 == 0 {
            let beside = join3(
                keep_within(self.memory_bytes, &self.registry),
                self.take_part(),
                self.busy.measure(id),
            );
            // The second never ends.
            let _ = select(pin!(served), pin!(beside)).await;
        } else {
            let _ = select(pin!(served), pin!(self.busy.measure(id))).await;
        }
        // Nodes first: what breaks off since this one ends they ask of another, but not what an origin broke off.
        let closing = async {
            servers.close().await;
            origins.close().await;
        };
        // What is not closed by then is cut off with the runtime.
        drop(tokio::time::timeout(CLOSING / 2, closing).await);
        Ok(())
    }
}

impl Shared {
    /// Takes part in the mesh. Never ends.
    async fn take_part(&self) {
        if let Some(presence) = &self.presence {
            let fares = || Fares {
                load: self.busy.share(),
                is_ailing: self.storage.is_ailing(),
            };
            match presence.pool(&self.links) {
                Ok(pool) => presence.run(pool, &self.drain, fares).await,
                Err(error) => tracing::error!(%error, "other nodes are not looked for"),
            }
        }
        std::future::pending().await
    }
}

fn sites(config: &Config, cache: &Cache) -> Vec<(Arc<stoq_node::config::Site>, Arc<CacheSite>)> {
    let made = config.sites.iter().map(|site| {
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
        (
            Arc::clone(site),
            cache.site(&site.name, Some(&site.dedupe_domain), policy),
        )
    });
    made.collect()
}

fn bind(links: &Links, addr: SocketAddr, workers: usize) -> Result<NodeDoors, StartError> {
    links
        .bind(addr, workers)
        .map_err(|source| StartError::Bind {
            key: "listen.stoq",
            addr: addr.to_string(),
            source,
        })
}

fn bind_admin(addr: &AdminAddr) -> Result<Admin, StartError> {
    Admin::bind(addr).map_err(|source| StartError::Bind {
        key: "listen.admin",
        addr: addr.to_string(),
        source,
    })
}
