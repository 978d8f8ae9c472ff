//! The edge's part in the provider index: what it keeps for others, what it announces of its cache, and whom it asks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join;
use prometheus_client::registry::Registry;
use stoq::identity::Identity;
use stoq::peer::Handler;
use stoq::pool::Pool;
use stoq_cache::engine::Cache;
use stoq_mesh::gossip::{Gossip, Papers};
use stoq_mesh::index::{Announcer, Asker, IndexHolders, IndexMetrics, IndexServer, Neighbourhood};
use stoq_mesh::{Bearings, Borders, Holders, Patience};
use stoq_routing::index::{
    HolderLimits, Index, LookupLimits, Parts, Store, StoreError, StoreTerms, TableLimits, Worth,
    report,
};
use stoq_routing::{Distrust, Membership, NodeState, Policy, View};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The file in the state directory.
const FILE: &str = "index.redb";

/// The least time between two comparisons of what is announced with what is held: 1 s. It is at least 50 times what one takes, so that they take no more than
/// a fiftieth of a core.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
const COMPARE_SHARE: u32 = 50;

/// How long the end waits for what is written last: 1 s.
const CLOSING: Duration = Duration::from_secs(1);

/// The index of an edge, shared by its workers.
#[derive(Debug)]
pub(crate) struct Providers {
    index: Arc<Index<Asker>>,
    asker: Asker,
    announcer: Arc<Announcer<Asker>>,
    papers: Papers,
    bearings: Arc<Bearings>,
    metrics: Arc<IndexMetrics>,
    patience: Patience,
}

impl Providers {
    /// With what the state directory has of it. Blocks.
    ///
    /// # Errors
    /// The file is in use, or the disk does not work.
    pub(crate) fn open(
        state_dir: &Path,
        gossip: &Gossip,
        bearings: &Arc<Bearings>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        let view = gossip.view();
        let terms = StoreTerms {
            me: view.me,
            table: TableLimits::default(),
            holder: HolderLimits::default(),
            now: Duration::ZERO,
            wall,
        };
        let opened = Store::open(&state_dir.join(FILE), &terms)?;
        report(&opened);
        let rtt = {
            let bearings = Arc::clone(bearings);
            Box::new(move |node: &_| bearings.to(node).map(|(rtt, _)| rtt))
        };
        let asker = Asker::default();
        // The other half is for the neighbours, who are asked where the index does not know.
        let time = patience.found_within / 2;
        let index = Arc::new(Index::new(Parts {
            rpc: asker.clone(),
            signer: Arc::new(gossip.papers().clone()),
            verifier: Arc::new(gossip.papers().clone()),
            rtt,
            lookups: LookupLimits {
                time,
                silence: time.min(LookupLimits::default().silence),
                ..LookupLimits::default()
            },
            view,
            table: opened.table,
            holder: opened.holder,
            store: Some(opened.store),
        }));
        let metrics = Arc::<IndexMetrics>::default();
        Ok(Self {
            announcer: Arc::new(Announcer::new(
                Arc::clone(&index),
                Worth::default(),
                Arc::clone(&metrics),
            )),
            index,
            asker,
            papers: gossip.papers().clone(),
            bearings: Arc::clone(bearings),
            metrics,
            patience,
        })
    }

    /// What answers other nodes.
    pub(crate) fn handler(&self, identity: &Identity) -> Arc<dyn Handler> {
        Arc::new(IndexServer::new(Arc::clone(&self.index), identity))
    }

    /// Puts its figures below `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.metrics.register(&self.index, registry);
    }

    /// Who holds what, ordered by `policy`; the neighbours where the index does not know.
    pub(crate) fn holders(
        &self,
        neighbours: Neighbourhood,
        policy: Policy,
        borders: Arc<Borders>,
    ) -> Arc<dyn Holders> {
        let holders = IndexHolders::new(
            Arc::clone(&self.index),
            Arc::clone(&self.bearings),
            neighbours,
            policy,
            Arc::clone(&self.metrics),
        );
        // A home answers beside the index, and may be waited for a little longer.
        let holders = holders.asking_homes_within(self.patience.found_within / 6);
        Arc::new(holders.within(borders))
    }

    /// Announces from now on what this cache stores.
    pub(crate) fn announce(&self, cache: &Cache) {
        cache.watched_by(Arc::clone(&self.announcer) as _);
    }

    /// The view is another one than `before`, or the first.
    pub(crate) fn follow(&self, before: Option<&View>, view: &Arc<View>) {
        if before.is_some_and(|before| !concerns(before, view)) {
            return;
        }
        self.index.follow(Arc::clone(view));
        let Some(before) = before else {
            return;
        };
        for node in before.nodes() {
            let revoked = Err(Distrust::Revoked);
            if view.get(&node.id).is_none() && self.papers.get(&node.id).map(drop) == revoked {
                self.index.revoked(&node.id);
            }
        }
        for node in view.nodes() {
            // It may have begun with an empty disk.
            if before
                .get(&node.id)
                .is_none_or(|it| it.addresses != node.addresses)
            {
                self.index.doubt(&node.id);
            }
        }
    }

    /// Keeps it up until `over`, over these connections, and writes what is left to write. Once, on their runtime.
    pub(crate) async fn run(&self, pool: Pool, cache: &Cache, over: &CancellationToken) {
        self.asker.begin(pool);
        let running = join(self.index.run(over.cancelled()), self.compare(cache, over));
        let late = async {
            over.cancelled().await;
            sleep(CLOSING).await;
        };
        tokio::select! {
            _ = running => {}
            // What was not written by then is found by the digests of renewals.
            () = late => tracing::warn!("the disk is too slow for the last changes of the provider index"),
        }
        self.index.close();
    }

    /// Compares what is announced with what is held, again and again until `over`.
    async fn compare(&self, cache: &Cache, over: &CancellationToken) {
        let mut pause = COMPARE_EVERY;
        while timeout(pause, over.cancelled()).await.is_err() {
            let began = Instant::now();
            let end = Arc::new(AtomicBool::new(false));
            let compared = tokio::task::spawn_blocking({
                let (announcer, cache) = (Arc::clone(&self.announcer), cache.clone());
                let end = Arc::clone(&end);
                move || announcer.compare(&cache, &end)
            });
            tokio::select! {
                // A panic in there was reported.
                _ = compared => {}
                () = over.cancelled() => end.store(true, Ordering::Relaxed),
            }
            pause = COMPARE_EVERY.max(began.elapsed() * COMPARE_SHARE);
        }
    }
}

/// Whether the change of a view concerns the index: who there is, where, and who owns keys. Load and coordinates do not.
fn concerns(before: &View, view: &View) -> bool {
    let same = |one: &NodeState, other: &NodeState| {
        one.id == other.id
            && one.zone == other.zone
            && one.addresses == other.addresses
            && one.draining == other.draining
            && one.health == other.health
            && one.is_shield == other.is_shield
    };
    let (old, new) = (before.nodes(), view.nodes());
    before.complete != view.complete
        || old.len() != new.len()
        || !old.iter().zip(new).all(|(one, other)| same(one, other))
}

#[cfg(test)]
mod tests {
    use stoq_routing::NodeId;

    use super::*;

    fn node(number: u8, zone: &str) -> NodeState {
        let zone = zone.parse().unwrap();
        NodeState::new(NodeId([number; 32]), number.to_string(), zone)
    }

    fn view(nodes: impl IntoIterator<Item = NodeState>) -> View {
        let nodes = nodes.into_iter().map(Arc::new);
        View::new(NodeId([1; 32]), 1, true, nodes)
    }

    #[test]
    fn owners_follow_who_is_there_and_where_and_not_how_busy_they_are() {
        let before = view([node(1, "eu-fra"), node(2, "eu-fra")]);
        let mut busy = node(2, "eu-fra");
        busy.load = 0.7;
        assert!(!concerns(&before, &view([node(1, "eu-fra"), busy])));
        let mut leaving = node(2, "eu-fra");
        leaving.draining = true;
        let others = [
            view([node(1, "eu-fra")]),
            view([node(1, "eu-fra"), node(3, "eu-fra")]),
            view([node(1, "eu-fra"), node(2, "eu-ams")]),
            view([node(1, "eu-fra"), leaving]),
        ];
        for other in &others {
            assert!(concerns(&before, other), "{other:?}");
        }
    }
}
