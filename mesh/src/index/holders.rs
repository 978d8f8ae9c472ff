//! Who holds an object, the best first: as the index says, and as the neighbours say where it cannot.
//!
//! In a mesh of no more others than own a key, the neighbours are asked beside the index: they are the same nodes, know small objects as well, and know of what was stored a
//! moment ago. The index's word comes first where it names somebody. In a larger one the object's home is asked beside it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use stoq::identity::NodeId;
use stoq_cache::content::ManifestId;
use stoq_routing::index::{Finding, Index, Provider, REPLICAS, WHOLE};
use stoq_routing::{Candidate as Ranked, Key, Policy, Residency, Source, View, Wish, rank};

use super::homes::Homes;
use super::metrics::{By, IndexMetrics};
use super::rpc::Asker;
use crate::bearings::Bearings;
use crate::borders::Borders;
use crate::fill::{Candidate, Holders, Neighbours, Sought};

/// How long an object's home in the metro has to answer, unless it is told otherwise: 50 ms.
const HOME_WITHIN: Duration = Duration::from_millis(50);

/// Who is asked where the index cannot say.
pub type Neighbourhood = Arc<dyn Holders>;

/// Holders as the index names them.
pub struct IndexHolders {
    index: Arc<Index<Asker>>,
    bearings: Arc<Bearings>,
    neighbours: Neighbourhood,
    policy: Policy,
    residency: Residency,
    borders: Arc<Borders>,
    turn: AtomicU64,
    homes: Homes,
    home_within: Duration,
    metrics: Arc<IndexMetrics>,
}

impl fmt::Debug for IndexHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexHolders")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl IndexHolders {
    /// Out of this index, ordered by `policy`; `neighbours` are asked where it does not know.
    #[must_use]
    pub fn new(
        index: Arc<Index<Asker>>,
        bearings: Arc<Bearings>,
        neighbours: Neighbourhood,
        policy: Policy,
        metrics: Arc<IndexMetrics>,
    ) -> Self {
        Self {
            index,
            bearings,
            neighbours,
            policy,
            residency: Residency::default(),
            borders: Arc::default(),
            turn: AtomicU64::new(0),
            homes: Homes::default(),
            home_within: HOME_WITHIN,
            metrics,
        }
    }

    /// How long the home of an object has to say whether it has it. Default 50 ms: it is in the same metro.
    #[must_use]
    pub const fn asking_homes_within(mut self, limit: Duration) -> Self {
        self.home_within = limit;
        self
    }

    /// What is held of a site whose bytes may not be everywhere only the neighbours within are asked: the index, whose owners are anywhere, is told nothing of it.
    #[must_use]
    pub fn within(mut self, borders: Arc<Borders>) -> Self {
        self.borders = borders;
        self
    }

    async fn search(&self, sought: Sought<'_>) -> (By, Vec<Candidate>) {
        let view = self.bearings.view();
        if others(&view) == 0 {
            return (By::Nobody, Vec::new());
        }
        let is_small = !asks_homes(&view);
        if self.borders.binds(sought.site) {
            let said = self.neighbours.find(sought).await;
            return match said.is_empty() {
                true => (By::Nobody, said),
                false => (By::Neighbours, said),
            };
        }
        let key = Key(*sought.key.as_bytes());
        let asker = Asker::over(sought.pool.clone());
        let mut finding = pin!(self.index.find_by(&asker, key));
        let mut beside = pin!(self.neighbours.find(sought));
        let home = (!is_small).then(|| self.homes.of(&view, &key)).flatten();
        if home.is_some() {
            self.metrics.homes_asked.inc();
        }
        let home = home.map(|addr| Neighbours::new(vec![addr]).answering_within(self.home_within));
        let mut at_home = pin!(async {
            match &home {
                Some(home) => home.find(sought).await,
                None => Vec::new(),
            }
        });
        let (mut said, mut home_said) = (None, None);
        let finding = loop {
            // Either may be waited for again: both are kept outside.
            tokio::select! {
                finding = &mut finding => break finding,
                found = &mut beside, if is_small && said.is_none() => said = Some(found),
                found = &mut at_home, if home_said.is_none() => home_said = Some(found),
            }
        };
        let (named, is_settled) = match finding {
            Finding::Found(providers) => (self.ranked(&providers, key, &view), false),
            Finding::Nobody => (Vec::new(), !is_small),
            Finding::Unknown => (Vec::new(), false),
        };
        if !named.is_empty() {
            return (By::Index, named);
        }
        if is_settled {
            let said = match home_said {
                Some(said) => said,
                None => at_home.await,
            };
            return match said.is_empty() {
                true => (By::Nobody, said),
                false => (By::Home, said),
            };
        }
        let said = match said {
            Some(said) => said,
            None => beside.await,
        };
        match said.is_empty() {
            true => (By::Nobody, said),
            false => (By::Neighbours, said),
        }
    }

    /// The providers, the best first. Those that are not in view come last where the view may lack somebody, and are left out where it does not.
    pub(super) fn ranked(&self, providers: &[Provider], key: Key, view: &View) -> Vec<Candidate> {
        let seen = |provider: &Provider| view.get(&provider.holder);
        let me = view.get(&view.me);
        let order = self.bearings.with(|latency, now| {
            let known: Vec<_> = me
                .into_iter()
                .flat_map(|me| {
                    let nodes = providers.iter().filter_map(seen);
                    nodes.map(|node| Ranked::new(latency, me, node, now))
                })
                .collect();
            let wish = Wish {
                policy: self.policy,
                key: Some(&key),
                turn: self.turn.fetch_add(1, Ordering::Relaxed),
                ..Wish::nearest(&self.residency)
            };
            rank(&known, &wish).order(&mut rand::rng())
        });
        let of = |id| providers.iter().find(|provider| provider.holder == id);
        let ranked = order.into_iter().filter_map(of);
        let unseen = providers.iter().filter(|provider| {
            !view.complete && seen(provider).is_none() && provider.holder != view.me
        });
        ranked
            .chain(unseen)
            .map(|provider| self.candidate(provider, view))
            .collect()
    }

    fn candidate(&self, provider: &Provider, view: &View) -> Candidate {
        let node = view.get(&provider.holder);
        // What was foretold orders them; how long to be patient only what was measured says.
        let rtt = self.bearings.to(&provider.holder);
        let measured = rtt.filter(|(_, source)| *source == Source::Path);
        Candidate {
            node: Some(NodeId(provider.holder.0)),
            addresses: match node {
                Some(node) => node.addresses.clone(),
                None => provider.addresses.clone(),
            },
            manifest: ManifestId::from_bytes(provider.manifest),
            whole: provider.fraction == WHOLE,
            rtt: measured.map(|(rtt, _)| rtt),
        }
    }
}

/// Whether an object's home in the metro is asked for it. In smaller meshes the neighbours are.
#[must_use]
pub fn asks_homes(view: &View) -> bool {
    others(view) > REPLICAS
}

/// The other nodes that may own keys.
fn others(view: &View) -> usize {
    let nodes = view.nodes().iter();
    nodes
        .filter(|node| node.id != view.me && node.shares_work())
        .count()
}

impl Holders for IndexHolders {
    fn find<'a>(&'a self, sought: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(async move {
            let (by, found) = self.search(sought).await;
            self.metrics.named(by);
            found
        })
    }
}
