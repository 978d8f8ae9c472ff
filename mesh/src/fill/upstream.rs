//! The upstream of an edge that has a shield and knows other edges: what is whole and how it may be used the shield says, the bytes come from whoever
//! is nearest.
//!
//! A miss looks for holders first. Where there are any, the shield is asked for the object as by one who has the chunks of their manifest: if the
//! object still is of that manifest it answers with head and names, and the chunks come from the holders, and from the shield what none of them gives.
//! If it is not, the shield sends what changed, as to any asker. So a holder with an old version, or one that is wrong or away, costs time and
//! nothing else.
//!
//! While no shield answers, an object is put together from what other edges have of it ([`Upstream::kept`]), if one of them has a shield's
//! word for it.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http::{Method, header};
use stoq::identity::Identity;
use stoq::pool::Pool;
use stoq::wire::Urgency;
use stoq_cache::content::{ChunkId, ChunkKey, ManifestId};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyError, ChunkEvent, ChunkStream, FetchBody, FetchRequest, FetchResponse, PieceStream,
    Upstream, UpstreamError,
};
use tokio::time::timeout;

use super::ask::Way;
use super::before_origin::{BeforeOrigin, MayAnswer};
use super::body::{self, Has, Member};
use super::budget::{Budget, Share};
use super::feed::Line;
use super::holder::{Offer, Patience, Tier};
use super::holders::{self, Candidate, Holders, Sought};
use super::kept::Asking;
use super::metrics::FillMetrics;
use super::quarantine::Quarantine;
use super::swarm::HOLDERS_MAX;
use crate::borders::{Borders, Crossing};
use crate::gossip::node_id;
use crate::object::ShieldClient;

/// Peers of one fill: the swarm's bound, but one place for the shield.
const PEERS_MAX: usize = HOLDERS_MAX - 1;

/// Edges that are asked for an object while no shield answers, one after the other: 4.
const VOUCHED_ASKED_MAX: usize = 4;

/// The key under which the chunks of a site are named; `None` for a site that is not served here.
pub type SiteKeys = Arc<dyn Fn(&str) -> Option<ChunkKey> + Send + Sync>;

/// What the fills of all workers of an edge share.
#[derive(Clone)]
pub struct PeerFills {
    pub(super) holders: Arc<dyn Holders>,
    pub(super) keys: SiteKeys,
    pub(super) has: Has,
    pub(super) metrics: Arc<FillMetrics>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) budget: Arc<Budget>,
    pub(super) patience: Patience,
    pub(super) identity: Option<Identity>,
    pub(super) borders: Arc<Borders>,
}

impl fmt::Debug for PeerFills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerFills")
            .field("holders", &self.holders)
            .finish_non_exhaustive()
    }
}

impl PeerFills {
    /// Fills from the peers that `holders` knows. `keys` are those of the sites served here; `has` tells of a chunk whether it is stored here.
    #[must_use]
    pub fn new(
        holders: Arc<dyn Holders>,
        keys: SiteKeys,
        has: Arc<dyn Fn(&ChunkId) -> bool + Send + Sync>,
        metrics: Arc<FillMetrics>,
    ) -> Self {
        Self {
            holders,
            keys,
            has,
            metrics,
            quarantine: Arc::default(),
            budget: Arc::default(),
            patience: Patience::default(),
            identity: None,
            borders: Arc::default(),
        }
    }

    /// Judges as this node what shields have vouched for. Without it none of that is used.
    #[must_use]
    pub fn judging_as(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Of a site whose bytes may not be everywhere only those within are asked.
    #[must_use]
    pub fn within(mut self, borders: Arc<Borders>) -> Self {
        self.borders = borders;
        self
    }

    /// How long holders are waited for.
    #[must_use]
    pub fn patient(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The nodes that sent wrong bytes.
    #[must_use]
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// The upstream of one worker, over its own connections.
    #[must_use]
    pub fn over(&self, pool: Pool, shield: Arc<ShieldClient>) -> PeerFill {
        PeerFill {
            peers: self.peers(pool),
            shield,
        }
    }

    /// The upstream of one worker for a site of which this edge asks the origin itself: what another edge has, and `may_answer` says will do, comes from there.
    #[must_use]
    pub fn before(
        &self,
        pool: Pool,
        origin: Arc<dyn Upstream>,
        may_answer: MayAnswer,
    ) -> BeforeOrigin {
        BeforeOrigin::new(self.peers(pool), origin, may_answer)
    }

    fn peers(&self, pool: Pool) -> Peers {
        Peers {
            fills: self.clone(),
            pool,
        }
    }
}

/// The other edges, as one worker reaches them.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) fills: PeerFills,
    pub(super) pool: Pool,
}

impl Peers {
    /// Who holds something of this URL; none where nobody is known in time.
    pub(super) async fn find(
        &self,
        site: &str,
        key: CacheKey,
        chunk_key: &ChunkKey,
    ) -> Vec<Candidate> {
        let sought = Sought {
            site,
            key,
            chunk_key_id: *chunk_key.key_id().as_bytes(),
            pool: &self.pool,
        };
        let metrics = &self.fills.metrics;
        let within = self.fills.patience.found_within;
        let Ok(mut found) = timeout(within, self.fills.holders.find(sought)).await else {
            metrics.not_waited_for.inc();
            return Vec::new();
        };
        let now = tokio::time::Instant::now();
        found.retain(|one| {
            one.node
                .is_none_or(|node| !self.fills.quarantine.holds(&node, now))
        });
        let borders = &self.fills.borders;
        found.retain(|one| match one.node {
            Some(node) => borders.admits(site, &node_id(node), Crossing::Ask),
            None => !borders.binds(site),
        });
        if found.is_empty() {
            metrics.not_found.inc();
        } else {
            metrics.found.inc();
        }
        found
    }

    pub(super) fn share(&self) -> Option<Share> {
        let share = self.fills.budget.share();
        if share.is_none() {
            self.fills.metrics.refused.inc();
        }
        share
    }

    pub(super) fn line(&self, site: &Arc<str>, key: CacheKey, chunk_key: ChunkKey) -> Arc<Line> {
        Arc::new(Line {
            pool: self.pool.clone(),
            quarantine: Arc::clone(&self.fills.quarantine),
            metrics: Arc::clone(&self.fills.metrics),
            site: Arc::clone(site),
            key,
            chunk_key,
            patience: self.fills.patience,
            urgency: match self.fills.holders.is_for_later(&key) {
                true => Urgency::LAST,
                false => Urgency::default(),
            },
        })
    }

    /// The key under which chunks are named, of a request for what others may hold whole: the whole of an object, by one who has nothing of it, of a site that is served here.
    pub(super) fn key_of_miss(&self, request: &FetchRequest) -> Option<ChunkKey> {
        (self.fills.keys)(&request.site).filter(|_| is_miss(request))
    }
}

/// These peers, each node once. One that is said to hold all of the manifest that is wanted is believed; of others it is asked chunk by chunk.
pub(super) fn peers(candidates: &[Candidate], wanted: Option<ManifestId>) -> Vec<Member> {
    let nodes = holders::nodes(candidates).into_iter().take(PEERS_MAX);
    let members = nodes.map(|node| {
        let of_node = || candidates.iter().filter(|one| one.is_same_node(node));
        let offer = Offer {
            tier: Tier::Peer,
            whole: of_node().any(|one| one.whole && Some(one.manifest) == wanted),
            rtt: node.rtt,
        };
        let way = Way::Peer(node.clone());
        Member { way, offer }
    });
    members.collect()
}

/// An [`Upstream`] over peers and the shield: one worker's. See [`PeerFills::over`].
#[derive(Debug)]
pub struct PeerFill {
    peers: Peers,
    shield: Arc<ShieldClient>,
}

impl PeerFill {
    /// These peers, and the shield behind them.
    fn members(
        &self,
        site: &Arc<str>,
        key: CacheKey,
        candidates: &[Candidate],
        wanted: Option<ManifestId>,
    ) -> Vec<Member> {
        let shield = Member {
            way: Way::Shield(Arc::clone(&self.shield), Arc::clone(site), key),
            offer: Offer {
                tier: Tier::Shield,
                whole: true,
                rtt: None,
            },
        };
        let mut members = peers(candidates, wanted);
        members.push(shield);
        members
    }

    async fn object(&self, request: FetchRequest) -> Result<FetchResponse, UpstreamError> {
        let Some(chunk_key) = self.peers.key_of_miss(&request) else {
            return self.shield.fetch(request).await;
        };
        let (site, key) = (Arc::clone(&request.site), request.key);
        let found = self.peers.find(&site, key, &chunk_key).await;
        let Some((root, candidates)) = holders::agree(found) else {
            return self.shield.fetch(request).await;
        };
        let Some(share) = self.peers.share() else {
            return self.shield.fetch(request).await;
        };
        let mut response = self.shield.fetch_without(request, root).await?;
        if let FetchBody::Chunked(events) = response.body {
            let members = self.members(&site, key, &candidates, Some(root));
            let line = self.peers.line(&site, key, chunk_key);
            let has = Some(Arc::clone(&self.peers.fills.has));
            response.body = FetchBody::Chunked(body::body(events, members, line, has, share));
        }
        Ok(response)
    }

    async fn by_name(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> Result<PieceStream, UpstreamError> {
        let Some(chunk_key) = (self.peers.fills.keys)(&site) else {
            return self.shield.chunks(site, key, chunks).await;
        };
        let found = self.peers.find(&site, key, &chunk_key).await;
        let share = if found.is_empty() {
            None
        } else {
            self.peers.share()
        };
        let Some(share) = share else {
            return self.shield.chunks(site, key, chunks).await;
        };
        let named = chunks
            .into_iter()
            .map(|(id, len)| Ok(ChunkEvent::Held { id, len }));
        let events: ChunkStream = Box::pin(stream::iter(named));
        // Of which version they are is not known, so each is asked which of them it holds.
        let members = self.members(&site, key, &found, None);
        let line = self.peers.line(&site, key, chunk_key);
        // Whoever asks by name has looked here already.
        let events = body::body(events, members, line, None, share);
        Ok(Box::pin(events.map(|event| match event? {
            ChunkEvent::Whole { chunk, via } => Ok((chunk.bytes().clone(), via)),
            ChunkEvent::Profile(_)
            | ChunkEvent::Bytes(_)
            | ChunkEvent::Chunk { .. }
            | ChunkEvent::Held { .. }
            | ChunkEvent::Vouched(_)
            | ChunkEvent::Sealed { .. } => Err(BodyError::Upstream(
                "something else than the chunks asked for".to_owned(),
            )),
        })))
    }
}

/// Whether the whole of an object is asked for by one who has nothing of it.
pub(super) fn is_miss(request: &FetchRequest) -> bool {
    request.method == Method::GET
        && request.body.is_none()
        && request.held.is_none()
        && !request.headers.contains_key(header::RANGE)
        && !request.headers.contains_key(header::IF_NONE_MATCH)
        && !request.headers.contains_key(header::IF_MODIFIED_SINCE)
}

impl Upstream for PeerFill {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.object(request))
    }

    fn kept(&self, request: FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        Box::pin(async move {
            let chunk_key = self.peers.key_of_miss(&request)?;
            let kept = self
                .peers
                .stand_in(Asking::of(&request), chunk_key, VOUCHED_ASKED_MAX);
            Some(kept.await?.response)
        })
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        Box::pin(self.by_name(site, key, chunks))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use stoq::identity::NodeId;

    use super::*;

    #[test]
    fn each_node_joins_once_and_is_whole_where_it_holds_all_of_what_is_wanted() {
        let candidate = |node: u8, root: u8, whole| Candidate {
            node: Some(NodeId([node; 32])),
            addresses: vec![SocketAddr::from(([10, 0, 0, node], 1))],
            manifest: ManifestId::from_bytes([root; 32]),
            whole,
            rtt: None,
        };
        let candidates = vec![
            candidate(1, 7, true),
            candidate(2, 8, true),
            candidate(1, 8, true),
            candidate(1, 8, true),
            candidate(3, 8, false),
            candidate(3, 7, true),
        ];
        let wanted = Some(ManifestId::from_bytes([8; 32]));
        let joined = peers(&candidates, wanted);
        let joined = joined.into_iter().map(|member| match member.way {
            Way::Peer(candidate) => (candidate.node, member.offer.whole),
            Way::Shield(..) => panic!("a peer"),
        });
        let joined: Vec<_> = joined.collect();
        let expected = [(1, true), (2, true), (3, false)];
        assert_eq!(
            joined,
            expected.map(|(node, whole)| (Some(NodeId([node; 32])), whole))
        );
    }
}
