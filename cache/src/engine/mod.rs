//! What edge and shield both do with a request: look it up, collapse it with others, fill, deliver.
//!
//! A file a step: [`lookup`](Cache::lookup) and [`try_hit`](Cache::try_hit) answer fresh hits from RAM without a wait,
//! [`serve`](Cache::serve) takes everything else that may be stored, [`pass`](Cache::pass) what may not.
//! A fetch that others may wait for runs in a task of its own, owned by the [`Cache`] and awaited by
//! [`Cache::shutdown`], so that a client that leaves takes nothing with it.

mod answer;
mod blocks;
mod census;
mod deliver;
mod digests;
mod freshen;
mod index;
mod invalidate;
mod lead;
mod lookup;
mod marks;
mod partial;
mod partials;
mod parts;
mod pass;
mod persist;
mod posted;
mod recall;
mod relay;
mod searches;
mod serve;
mod vouch;
mod watch;

use std::{fmt, io, sync::Arc, time::Duration};

use http::{
    HeaderMap, Method,
    uri::{PathAndQuery, Scheme},
};
use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::marks::Membership;
pub use self::{
    census::{Census, CensusError, Checked, Swept},
    persist::{Journal, JournalError, PersistMetrics},
    relay::Relay,
    vouch::{CLOCKS_APART, Fetched, Vouches},
    watch::{HITS_TOLD, Seen, Watcher},
};
use self::{
    index::Index,
    marks::Marks,
    persist::{Keeper, Ledger, Records},
    searches::Searches,
};
use crate::{
    collapse::Collapse,
    content::{ChunkId, ChunkKey},
    fill::{budget::Budget, hole::Depot},
    http::{
        directives::RequestDirectives, facts::RequestFacts, freshness::Freshness, negotiation,
        policy::SitePolicy, vary::VARIANTS_MAX,
    },
    key::CacheKey,
    metrics::Metrics,
    object::Object,
    store::{S3FifoTier, Store, disk::Retained},
    time::Timestamp,
    upstream::{BodyError, FetchRequest, UpstreamError},
};

/// Where the time comes from: [`Timestamp::now`] at the rim, a variable in tests.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The longest the end waits for the disk, for each of tier and marks: 2 s.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// What a [`Cache`] is made of.
#[derive(Clone)]
pub struct CacheConfig {
    /// This cache's name in `Cache-Status`. Default: `stoq`.
    pub name: String,
    /// Bytes of the RAM tier for chunks, its own overhead included. Default: 256 MiB.
    pub ram_bytes: usize,
    /// Bytes of the tier on disk, which bound the size of an object with those of the RAM tier. Default: 0, as there is none.
    pub disk_bytes: u64,
    /// Bytes for heads and manifests of stored objects, an estimate of their overhead included. Default: 32 MiB.
    pub heads_bytes: u64,
    /// Variants kept of one URL (`Vary`); the oldest makes room. A lookup compares each once. Default: 16.
    pub variants_max: usize,
    /// Bytes for windows of bodies under way, over all fills: each gets an equal part, at least 64 KiB and at most 8 MiB.
    /// At 64 KiB each no more fills are opened, and responses stream past the cache. Default: 64 MiB, for 1,024 fills.
    /// Pieces are held as they arrive: an upstream whose pieces are slices of larger buffers pins those.
    pub fill_bytes: usize,
    /// The cluster's secret, under which chunks are named.
    pub secret: [u8; 32],
    /// The clock.
    pub clock: Clock,
}

impl CacheConfig {
    /// The defaults under this secret, on the system's clock.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            name: "stoq".to_owned(),
            ram_bytes: 256 << 20,
            disk_bytes: 0,
            heads_bytes: 32 << 20,
            variants_max: VARIANTS_MAX,
            fill_bytes: 64 << 20,
            secret,
            clock: Arc::new(Timestamp::now),
        }
    }
}

impl fmt::Debug for CacheConfig {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheConfig")
            .field("name", &self.name)
            .field("ram_bytes", &self.ram_bytes)
            .field("disk_bytes", &self.disk_bytes)
            .field("heads_bytes", &self.heads_bytes)
            .field("variants_max", &self.variants_max)
            .field("fill_bytes", &self.fill_bytes)
            .finish_non_exhaustive()
    }
}

/// A site as the cache knows it. Made once by [`Cache::site`], shared by its requests.
pub struct CacheSite {
    /// The site's identity on the wire.
    pub name: Arc<str>,
    /// Its policy.
    pub policy: SitePolicy,
    /// The key under which its chunks are named.
    pub chunk_key: ChunkKey,
}

impl fmt::Debug for CacheSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheSite")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// One GET or HEAD to be answered from the cache, or through it.
#[derive(Debug, Clone)]
pub struct CacheRequest {
    /// The site.
    pub site: Arc<CacheSite>,
    /// The URL's key.
    pub key: CacheKey,
    /// GET or HEAD. Anything else belongs to [`Cache::pass`].
    pub method: Method,
    /// Scheme of the target URI.
    pub scheme: Scheme,
    /// Authority of the target URI.
    pub authority: String,
    /// Path and query of the target URI.
    pub path_and_query: PathAndQuery,
    /// End-to-end fields: the client's, conditions and `Range` included, with Via, CDN-Loop and X-Forwarded-For set.
    /// The engine takes conditions and ranges out where it fetches the whole.
    pub headers: HeaderMap,
}

impl CacheRequest {
    /// The parts that decide about a stored response.
    #[must_use]
    pub fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            method: &self.method,
            headers: &self.headers,
        }
    }

    /// What the request itself says about caching, where the site heeds that.
    pub(crate) fn asked(&self) -> RequestDirectives {
        RequestDirectives::heeded(&self.headers, &self.site.policy)
    }

    /// Whether a stored response may stand in for an error of the upstream.
    pub(crate) fn may_cover(&self, stored: &Freshness, now: Timestamp) -> bool {
        let site = self.site.policy.stale_if_error;
        stored.may_serve_on_error(now, site, self.asked().stale_if_error)
    }

    /// A GET of the same target with these fields.
    pub(crate) fn get(&self, headers: HeaderMap) -> FetchRequest {
        self.fetch(Method::GET, headers)
    }

    /// The request as the client wrote it.
    fn as_sent(&self) -> FetchRequest {
        self.fetch(self.method.clone(), self.headers.clone())
    }

    fn fetch(&self, method: Method, mut headers: HeaderMap) -> FetchRequest {
        if self.site.policy.normal_accept_encoding {
            negotiation::write_accept_encoding(&mut headers);
        }
        FetchRequest {
            method,
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            path_and_query: self.path_and_query.clone(),
            headers,
            body: None,
            site: Arc::clone(&self.site.name),
            key: self.key,
            held: None,
        }
    }
}

/// What the store says about a request.
#[derive(Debug)]
pub enum Lookup {
    /// Stored and fresh.
    Fresh(Hit),
    /// Stored, past its lifetime, and allowed to be served while it is refreshed (`stale-while-revalidate`, or the request's `max-stale`).
    Stale(Hit),
    /// Stored and fresh, but the request asks for one that is fresher, or validated.
    Unwanted(Hit),
    /// Stored, past its lifetime: to be revalidated first.
    Expired(Hit),
    /// Nothing stored under this URL.
    Miss,
    /// Something is stored under this URL, but not for a request with these fields.
    VaryMiss,
    /// Known to be uncacheable a moment ago: send it on without waiting for anyone.
    HitForMiss,
}

/// A stored response that was selected for a request.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The response.
    pub object: Arc<Object>,
    /// Its age now, in seconds (RFC 9111 §4.2.3).
    pub age_seconds: u64,
    /// Freshness left, in seconds; negative once stale.
    pub ttl_seconds: i64,
}

/// Why a request got no answer. Errors after the head are [`BodyError`]s in the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The upstream gave no answer, and nothing stored may stand in.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The first bytes of a stored body could not be had again. Upstream's fault, as the object was complete once.
    #[error("stored body: {0}")]
    Body(BodyError),
    /// The request wanted nothing but what is stored (`only-if-cached`), and nothing stored may answer it. Client's wish.
    #[error("nothing stored may answer, and the request wants nothing else")]
    OnlyIfCached,
    /// The process is going down and starts no more fetches. Ours.
    #[error("shutting down")]
    Shutdown,
    /// The task that fetched for this request and others ended without a result, more often than is retried. Ours.
    #[error("the fetch was abandoned {attempts} times")]
    Abandoned {
        /// How many leaders were lost.
        attempts: u32,
    },
}

/// The cache. Cloning gives another handle on the same one; share it among workers.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    config: CacheConfig,
    /// Objects larger than this stream through without being stored: a fourth of the larger tier, so that one download does not empty it.
    object_bytes_max: u64,
    index: Index,
    searches: Searches,
    digests: digests::Digests,
    depot: Arc<Depot>,
    marks: Arc<Marks>,
    collapse: Arc<Collapse<lead::Stage>>,
    budget: Arc<Budget>,
    fills: census::OpenFills,
    partials: partials::Partials,
    vouching: vouch::Vouching,
    /// Writes the marks; `None` where they end with the process.
    keeper: Option<Keeper>,
    metrics: Arc<Metrics>,
    /// Fetches under way.
    tasks: TaskTracker,
    /// Ends them at once.
    abort: CancellationToken,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: CacheConfig) -> Self {
        // The policy that misses least of those measured, and the one that can pin: docs/store.md.
        let store = Store::new(Arc::new(S3FifoTier::new(config.ram_bytes as u64)));
        Self::with_store(config, store)
    }

    /// A cache over a store of the caller's making; `config.ram_bytes` then only bounds the size of an object.
    ///
    /// What a tier on disk holds from before is validated before it is used, since nothing says what was invalidated meanwhile:
    /// [`Cache::open`] knows.
    #[must_use]
    pub fn with_store(config: CacheConfig, store: Store) -> Self {
        let marks = Marks::new(&config.secret);
        let metrics = Arc::new(Metrics::default());
        let records = records(&config, &store, &marks, &metrics);
        Self::assembled(config, store, marks, metrics, records, None)
    }

    /// A cache over a store with a tier on disk, and the marks of what was invalidated. What is stored there is used as if the process that
    /// stored it had never ended. A thread of its own writes the marks.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn open(config: CacheConfig, store: Store, mut journal: Journal) -> io::Result<Self> {
        let recovered = journal.recovered();
        let ledger = Arc::new(Ledger::new(&recovered));
        let marks = Marks::recovered(&config.secret, &recovered, Some(Arc::clone(&ledger)));
        let metrics = Arc::new(Metrics::default());
        let records = records(&config, &store, &marks, &metrics);
        let keeper = Keeper::start(
            journal,
            Arc::clone(&marks),
            ledger,
            records.clone().zip(store.disk().cloned()),
            metrics.persist.clone(),
        )?;
        let keeper = Some(keeper);
        Ok(Self::assembled(
            config, store, marks, metrics, records, keeper,
        ))
    }

    fn assembled(
        config: CacheConfig,
        store: Store,
        marks: Arc<Marks>,
        metrics: Arc<Metrics>,
        records: Option<Arc<Records>>,
        keeper: Option<Keeper>,
    ) -> Self {
        let ram_object_bytes_max = config.ram_bytes as u64 / 4;
        let inner = Inner {
            object_bytes_max: ram_object_bytes_max.max(config.disk_bytes / 4),
            index: Index::new(
                config.heads_bytes,
                config.variants_max,
                metrics.variants_dropped.clone(),
                records.clone(),
            ),
            partials: partials::Partials::new(store.clone(), Arc::clone(&metrics), records),
            searches: Searches::new(),
            digests: digests::Digests::new(),
            depot: Arc::new(Depot::new(
                store,
                Arc::clone(&metrics),
                ram_object_bytes_max,
            )),
            marks,
            collapse: Collapse::new(),
            budget: Budget::new(config.fill_bytes),
            fills: census::OpenFills::default(),
            vouching: vouch::Vouching::default(),
            keeper,
            metrics,
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
            config,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether memory holds what has this name on disk, for the disk to keep it when it makes room. Does not keep the cache alive.
    #[must_use]
    pub fn retained(&self) -> Retained {
        let inner = Arc::downgrade(&self.inner);
        Arc::new(move |name| {
            inner.upgrade().is_some_and(|inner| {
                inner
                    .depot
                    .store
                    .ram()
                    .contains(&ChunkId::from_bytes(*name))
                    || inner.index.holds(&CacheKey::from_bytes(*name))
            })
        })
    }

    /// A site of this cache. `dedupe_domain` is the site's name unless the operator joined sites.
    #[must_use]
    pub fn site(
        &self,
        name: &str,
        dedupe_domain: Option<&str>,
        policy: SitePolicy,
    ) -> Arc<CacheSite> {
        let chunk_key = ChunkKey::derive(&self.inner.config.secret, dedupe_domain.unwrap_or(name));
        Arc::new(CacheSite {
            name: name.into(),
            policy,
            chunk_key,
        })
    }

    /// The engine's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The store of chunks.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.depot.store
    }

    /// Adds the counters of engine and store to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        self.inner.depot.store.register(registry);
    }

    /// Starts no more fetches, lets those that run finish, and returns when the last has and what is stored is on disk for good. Cancel safe.
    ///
    /// Unbounded by itself: an upstream may drip for ever. Bound it with a timeout, then [`Cache::abort`].
    pub async fn shutdown(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        if let Some(disk) = self.inner.depot.store.disk() {
            match tokio::time::timeout(FLUSH_WAIT, disk.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "what was stored last is lost"),
                Err(_) => tracing::warn!("the disk is too slow for what was stored last"),
            }
        }
        if let Some(keeper) = &self.inner.keeper {
            let _ = tokio::time::timeout(FLUSH_WAIT, keeper.stop()).await;
        }
    }

    /// Ends all fetches now: their readers get an error, nothing of them is committed. [`Cache::shutdown`] then returns soon.
    pub fn abort(&self) {
        self.inner.tasks.close();
        self.inner.abort.cancel();
    }

    fn now(&self) -> Timestamp {
        (self.inner.config.clock)()
    }
}

/// The records on the disk of a store, if it has one.
fn records(
    config: &CacheConfig,
    store: &Store,
    marks: &Arc<Marks>,
    metrics: &Metrics,
) -> Option<Arc<Records>> {
    let disk = Arc::clone(store.disk()?);
    let metrics = metrics.persist.clone();
    Some(Arc::new(Records::new(
        disk,
        &config.secret,
        Arc::clone(marks),
        metrics,
    )))
}
