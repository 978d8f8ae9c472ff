//! The objects of which blocks are known: in memory, and on disk where there is one.

use std::{fmt, sync::Arc};

use moka::ops::compute::Op;
use tokio::sync::OnceCell;

use super::{
    blocks::{Blocks, Body},
    marks::{Begun, Membership},
    persist::{BlocksRecord, Common, Loading, Loads, Records, blocks_name},
};
use crate::{
    http::{freshness::Freshness, invalidation, vary::Selector},
    key::CacheKey,
    metrics::Metrics,
    reply::StoredHead,
    store::Store,
    time::Timestamp,
    upstream::{BodyError, Source, UpstreamError},
};

/// Objects of which blocks are known: at about 2 KiB each 8 MiB.
const PARTIALS_MAX: u64 = 4_096;

/// URLs remembered as giving no blocks.
const REFUSED_MAX: u64 = 16_384;

/// What is known of an object whose blocks are kept.
#[derive(Debug)]
pub(super) struct Partial {
    /// As an answer with the whole would have it.
    pub(super) head: Arc<StoredHead>,
    pub(super) freshness: Freshness,
    pub(super) selector: Selector,
    pub(super) source: Source,
    pub(super) upstream_cache_status: Option<String>,
    pub(super) body: Arc<Body>,
    /// The cache groups it belongs to (RFC 9875).
    pub(super) membership: Option<Arc<Membership>>,
}

impl Partial {
    fn record(&self) -> BlocksRecord {
        BlocksRecord {
            common: Common {
                head: Arc::clone(&self.head),
                freshness: self.freshness,
                selector: self.selector.clone(),
                source: self.source,
                upstream_cache_status: self.upstream_cache_status.clone(),
                membership: self.membership.clone(),
            },
            total: self.body.total,
            strong: self.body.strong.clone(),
            serial: self.body.serial,
        }
    }

    fn of(record: BlocksRecord) -> Self {
        let BlocksRecord {
            common,
            total,
            strong,
            serial,
        } = record;
        Self {
            head: common.head,
            freshness: common.freshness,
            selector: common.selector,
            source: common.source,
            upstream_cache_status: common.upstream_cache_status,
            body: Arc::new(Body {
                serial,
                total,
                strong,
            }),
            membership: common.membership,
        }
    }
}

/// What one look at the upstream led to; shared by all who waited for it.
#[derive(Debug, Clone)]
pub(super) enum Probe {
    /// There are blocks.
    Blocks(Arc<Partial>),
    /// There are none to be had: every request by itself.
    Straight,
    Failed(UpstreamError),
    Broken(BodyError),
}

/// The objects of which blocks are known.
pub(super) struct Partials {
    pub(super) blocks: Arc<Blocks>,
    known: moka::sync::Cache<CacheKey, Arc<Partial>>,
    /// Until when a URL is not asked for blocks.
    pub(super) refused: moka::sync::Cache<CacheKey, Timestamp>,
    /// By URL, and by its generation: who asks after an invalidation waits for no look from before it.
    pub(super) probes: dashmap::DashMap<(CacheKey, u64), Arc<OnceCell<Probe>>>,
    records: Option<Arc<Records>>,
    loads: Loads<Arc<Partial>>,
}

impl fmt::Debug for Partials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partials")
            .field("known", &self.known.entry_count())
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl Partials {
    pub(super) fn new(store: Store, metrics: Arc<Metrics>, records: Option<Arc<Records>>) -> Self {
        Self {
            blocks: Arc::new(Blocks::new(store, metrics, records.clone())),
            known: moka::sync::Cache::new(PARTIALS_MAX),
            refused: moka::sync::Cache::new(REFUSED_MAX),
            probes: dashmap::DashMap::new(),
            records,
            loads: Loads::default(),
        }
    }

    /// What is known under a URL, read from disk where memory has nothing. Cancel safe.
    pub(super) async fn recall(&self, key: &CacheKey) -> Option<Arc<Partial>> {
        if let Some(known) = self.known.get(key) {
            return Some(known);
        }
        let records = self.records.as_ref()?;
        let name = blocks_name(key);
        if !records.has(&name) {
            return None;
        }
        let load = |loading: Arc<_>| async move { self.load(records, key, &loading).await };
        self.loads.find(&name, || self.known.get(key), load).await
    }

    async fn load(
        &self,
        records: &Records,
        key: &CacheKey,
        loading: &Loading<Arc<Partial>>,
    ) -> Option<Arc<Partial>> {
        let read = Partial::of(records.load_blocks(key).await?);
        loading.settle(&self.known, *key, Arc::new(read))
    }

    /// Puts an entry, in memory and on disk. Called under its lock.
    fn put(&self, key: &CacheKey, partial: Arc<Partial>) -> Op<Arc<Partial>> {
        if let Some(records) = &self.records {
            self.loads.outdate(&blocks_name(key));
            records.write_blocks(key, &partial.record());
        }
        Op::Put(partial)
    }

    /// Forgets an entry on disk. Called under its lock.
    fn forget_stored(&self, key: &CacheKey) {
        if let Some(records) = &self.records {
            let name = blocks_name(key);
            self.loads.outdate(&name);
            records.forget(&name);
        }
    }

    /// Forgets what is known under a URL.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.known.entry(*key).and_compute_with(|present| {
            self.forget_stored(key);
            match present {
                Some(_) => Op::Remove,
                None => Op::Nop,
            }
        });
    }

    /// Makes what is known under a URL invalid: its blocks are used once the upstream says that they still hold. Whether anything was, and the
    /// groups it belonged to. What is on disk alone is forgotten.
    pub(super) fn invalidate(&self, key: CacheKey) -> Option<Option<Arc<Membership>>> {
        let mut found = None;
        self.known.entry(key).and_compute_with(|present| {
            let Some(known) = present else {
                self.forget_stored(&key);
                return Op::Nop;
            };
            let known = known.into_value();
            found = Some(known.membership.clone());
            let invalid = Partial {
                head: Arc::clone(&known.head),
                freshness: invalidation::invalid(known.freshness),
                selector: known.selector.clone(),
                source: known.source,
                upstream_cache_status: known.upstream_cache_status.clone(),
                body: Arc::clone(&known.body),
                membership: None,
            };
            self.put(&key, Arc::new(invalid))
        });
        found
    }

    /// Remembers an object, unless its URL was invalidated since it was asked for.
    pub(super) fn learn(&self, key: CacheKey, partial: &Arc<Partial>, begun: &Begun) {
        self.known.entry(key).and_compute_with(|_| {
            if begun.is_current() {
                self.put(&key, Arc::clone(partial))
            } else {
                Op::Nop
            }
        });
    }
}
