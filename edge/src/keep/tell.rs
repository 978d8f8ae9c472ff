//! Has other edges keep what is hot here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use stoq::identity::{NodeId, Role};
use stoq::peer::PeerConn;
use stoq::pool::Pool;
use stoq_cache::key::CacheKey;
use stoq_mesh::keep::{self, Object, Request};
use stoq_routing::{NodeState, View};
use tokio::time::{Instant, timeout_at};

use super::heat::{Heat, Hot};
use super::metrics::KeepMetrics;
use crate::serve::Shared;

/// URLs that others are told of at a time: 256.
const HOT_MAX: usize = 256;

/// Addresses of a neighbour that are tried: 8.
const ADDRESSES_MAX: usize = 8;

/// What was asked for here and is stored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: CacheKey,
    /// Position of its site.
    pub(super) site: usize,
    /// Of its body.
    pub(super) bytes: u64,
    pub(super) object: Object,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Teller {
    shared: Arc<Shared>,
    metrics: Arc<KeepMetrics>,
}

impl Teller {
    /// Of what this edge serves.
    pub(super) const fn new(shared: Arc<Shared>, metrics: Arc<KeepMetrics>) -> Self {
        Self { shared, metrics }
    }

    /// Whether a site's bytes may be at a node.
    pub(super) fn may_keep(&self, site: usize, node: &NodeState) -> bool {
        let site = self.shared.sites.get(site);
        site.is_some_and(|site| self.shared.borders.allows(&site.name, &node.zone))
    }

    /// Whether what is held of a site is told to some nodes only.
    pub(super) fn is_bound(&self, site: usize) -> bool {
        let site = self.shared.sites.get(site);
        site.is_some_and(|site| self.shared.borders.binds(&site.name))
    }

    /// What is asked for most of what is stored here, the hottest first.
    pub(super) async fn hot(&self) -> Vec<Held> {
        let hottest = self.shared.heat.as_ref().map(|heat| heat.hottest(HOT_MAX));
        self.held(hottest.unwrap_or_default()).await
    }

    /// What was asked for that had not been before, since this was last called.
    pub(super) fn take_new(&self) -> Vec<Hot> {
        let heat = self.shared.heat.as_ref();
        heat.map(Heat::take_new).unwrap_or_default()
    }

    /// Those that are stored here, in their order.
    pub(super) async fn held(&self, urls: Vec<Hot>) -> Vec<Held> {
        let mut held = Vec::new();
        for hot in urls {
            let manifests = self.shared.cache.manifests(&hot.key).await;
            let Some(site) = self.shared.sites.get(hot.site) else {
                continue;
            };
            if let Some(manifest) = manifests.first() {
                let Hot {
                    key,
                    https,
                    authority,
                    path_and_query,
                    headers,
                    ..
                } = hot;
                let object = Object {
                    site: site.name.to_string(),
                    https,
                    authority,
                    path_and_query,
                    root: *manifest.root().as_bytes(),
                    headers,
                };
                held.push(Held {
                    key,
                    site: hot.site,
                    bytes: manifest.total_len(),
                    object,
                });
            }
        }
        held
    }

    /// Whether somebody vouches for it, so that others may take it without asking shield or origin.
    pub(super) async fn has_word_for(&self, held: &Held) -> bool {
        let vouched = self.shared.cache.vouched(&held.key).await;
        let mut roots = vouched.iter().map(|(_, manifest)| manifest.root());
        roots.any(|root| *root.as_bytes() == held.object.root)
    }

    /// Has each of these neighbours keep what is listed for it.
    pub(super) async fn tell_all(
        &self,
        view: &View,
        lists: impl IntoIterator<Item = (stoq_routing::NodeId, Vec<Object>)>,
        pool: &Pool,
        until: Instant,
    ) {
        let lists = lists.into_iter();
        let tells = lists.map(|(home, objects)| self.tell(view, home, objects, pool, until));
        join_all(tells).await;
    }

    /// So many objects that a neighbour was to keep it is not told of, since too many wait for it.
    pub(super) fn passed_over(&self, objects: usize) {
        self.metrics.offered.inc_by(objects as u64);
        self.metrics.left.inc_by(objects as u64);
    }

    /// Has one neighbour keep these, in the time until then, reaching it included.
    pub(super) async fn tell(
        &self,
        view: &View,
        home: stoq_routing::NodeId,
        objects: Vec<Object>,
        pool: &Pool,
        until: Instant,
    ) {
        for objects in Request::batches(&objects) {
            let offered = objects.len() as u64;
            self.metrics.offered.inc_by(offered);
            let within = until.saturating_duration_since(Instant::now());
            let kept = match within.is_zero() {
                true => Err("there is no time left".to_owned()),
                false => timeout_at(until, self.ask(view, home, objects, pool, within))
                    .await
                    .unwrap_or_else(|_| Err("it has not answered".to_owned())),
            };
            let kept = kept.unwrap_or_else(|error| {
                let node = NodeId(home.0);
                tracing::warn!(%node, %error, "a neighbour does not take over");
                0
            });
            let kept = kept.min(offered);
            self.metrics.given.inc_by(kept);
            self.metrics.left.inc_by(offered - kept);
        }
    }

    async fn ask(
        &self,
        view: &View,
        home: stoq_routing::NodeId,
        objects: &[Object],
        pool: &Pool,
        within: Duration,
    ) -> Result<u64, String> {
        let conn = connect(view, home, pool).await?;
        let request = Request {
            // A little less, so that the answer arrives in time.
            within_ms: u32::try_from((within * 9 / 10).as_millis()).unwrap_or(u32::MAX),
            objects: objects.to_vec(),
        };
        let answer = keep::ask(&conn, &request, within).await?;
        Ok(answer.kept())
    }
}

/// A connection to an edge that is in view.
async fn connect(view: &View, home: stoq_routing::NodeId, pool: &Pool) -> Result<PeerConn, String> {
    let node = view.get(&home).ok_or("it has left")?;
    let mut last = "it has no address".to_owned();
    for addr in node.addresses.iter().take(ADDRESSES_MAX) {
        match pool.get(*addr).await {
            Ok(conn) => {
                let peer = &conn.peer().identity;
                if peer.node_id == NodeId(home.0) && peer.has(&Role::Edge) {
                    return Ok(conn);
                }
                last = format!("{} answers at {addr}", peer.node_id);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}
