//! Which stored response answers a URL whose own query nobody asked for yet, by the `No-Vary-Search` of responses at its path.
//!
//! A path has one rule: that of the newest response there that has one. Under it each query has a normal form, and that form the
//! key of the URL last stored with it. So a lookup costs one form and two entries of a table, whatever is stored.
//! A response found so is used while fresh and while it says the same; to ask upstream about it, or to store, a URL has its own key.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderValue};
use moka::sync::Cache as Table;

use super::{Cache, CacheRequest, Hit, Lookup};
use crate::{
    http::no_vary_search::{NO_VARY_SEARCH, SearchVariance},
    key::{CacheKey, normalize},
    upstream::FetchRequest,
};

/// Paths with a rule, each of at most 2 KiB: 32 MiB where an origin does its worst. The least used are forgotten: their requests miss.
const PATHS_MAX: u64 = 16_384;

/// Queries that stand for others, about 300 bytes each: 20 MiB. The least used are forgotten.
const FORMS_MAX: u64 = 65_536;

/// The rule of a path.
#[derive(Debug)]
struct Rule {
    written: Vec<HeaderValue>,
    variance: SearchVariance,
    /// Part of each form, so that what was found under an earlier rule is not found under this one.
    generation: u64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Searches {
    rules: Table<CacheKey, Arc<Rule>>,
    forms: Table<CacheKey, CacheKey>,
    generations: AtomicU64,
    /// Whether any response ever had a rule: without, a miss costs nothing more.
    is_used: AtomicBool,
}

impl Searches {
    pub(super) fn new() -> Self {
        Self {
            rules: Table::new(PATHS_MAX),
            forms: Table::new(FORMS_MAX),
            generations: AtomicU64::new(0),
            is_used: AtomicBool::new(false),
        }
    }

    /// Takes up what a stored response to `request` says.
    pub(super) fn learn(&self, request: &CacheRequest, response: &HeaderMap) {
        let Some(variance) = SearchVariance::of(response) else {
            return;
        };
        self.is_used.store(true, Ordering::Relaxed);
        let (path, query) = place(request);
        let known = self.rules.get(&path);
        let rule = known
            .filter(|rule| says(response, &rule.written))
            .unwrap_or_else(|| {
                let rule = Arc::new(Rule {
                    written: response.get_all(NO_VARY_SEARCH).iter().cloned().collect(),
                    variance,
                    generation: self.generations.fetch_add(1, Ordering::Relaxed),
                });
                self.rules.insert(path, Arc::clone(&rule));
                rule
            });
        self.forms.insert(form(&path, &rule, query), request.key);
    }

    /// Forgets what is known at the path of a request that may have changed something: what it invalidates may be found under other
    /// queries than its own.
    pub(super) fn forget(&self, path: &CacheKey) {
        if self.is_used.load(Ordering::Relaxed) {
            self.rules.invalidate(path);
        }
    }

    fn find(&self, request: &CacheRequest) -> Option<(CacheKey, Arc<Rule>)> {
        if !self.is_used.load(Ordering::Relaxed) {
            return None;
        }
        let (path, query) = place(request);
        let rule = self.rules.get(&path)?;
        let key = self.forms.get(&form(&path, &rule, query))?;
        (key != request.key).then_some((key, rule))
    }
}

impl Cache {
    /// A fresh response under another URL that differs from this one only where the response says that it does not matter.
    pub(super) async fn equivalent(&self, request: &CacheRequest) -> Option<Hit> {
        let (key, rule) = self.inner.searches.find(request)?;
        let policy = &request.site.policy;
        let variants = self.inner.index.recall(&key).await?;
        match self.select(&key, &variants, &request.facts(), policy, self.now()) {
            Lookup::Fresh(hit) if says(&hit.object.head.headers, &rule.written) => Some(hit),
            _ => None,
        }
    }
}

/// The key of the path of a request that is passed on.
pub(super) fn path_of(request: &FetchRequest) -> CacheKey {
    let target = normalize(request.path_and_query.as_str());
    let path = target.split('?').next().unwrap_or_default();
    CacheKey::of_normal(
        &request.site,
        request.scheme.as_str(),
        &request.authority,
        path,
    )
}

/// The key of the path, and the query. The target is normal, or is not well-formed and then one of a kind.
fn place(request: &CacheRequest) -> (CacheKey, Option<&str>) {
    let (path, query) = match request.path_and_query.as_str().split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path_and_query.as_str(), None),
    };
    let site = &request.site.name;
    let key = CacheKey::of_normal(site, request.scheme.as_str(), &request.authority, path);
    (key, query)
}

/// What a query comes to under a rule, each part after its length.
fn form(path: &CacheKey, rule: &Rule, query: Option<&str>) -> CacheKey {
    let mut hasher = blake3::Hasher::new_derive_key("stoq 2026-11-21 equivalent queries v1");
    hasher.update(path.as_bytes());
    hasher.update(&rule.generation.to_le_bytes());
    for (name, value) in rule.variance.counted(query) {
        for part in [name, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(&part);
        }
    }
    CacheKey::from_bytes(*hasher.finalize().as_bytes())
}

/// Whether a response has the field as it is written here.
fn says(response: &HeaderMap, written: &[HeaderValue]) -> bool {
    response.get_all(NO_VARY_SEARCH).iter().eq(written)
}
