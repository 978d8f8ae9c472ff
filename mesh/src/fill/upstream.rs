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
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, header};
use stoq::identity::Identity;
use stoq::pool::Pool;
use stoq_cache::content::{ChunkId, ChunkKey, Entry, ManifestId};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyError, ChunkEvent, ChunkStream, FetchBody, FetchRequest, FetchResponse, PieceStream,
    Source, Upstream, UpstreamError,
};
use tokio::time::timeout;

use super::ask::{AskError, Way};
use super::body::{self, Has, Member};
use super::budget::{Budget, Share};
use super::feed::Line;
use super::holder::{Offer, Patience, Tier};
use super::holders::{self, Candidate, Holders, Sought};
use super::metrics::{Fault, FillMetrics};
use super::quarantine::Quarantine;
use super::swarm::HOLDERS_MAX;
use super::vouched::{self, Vouched};
use crate::borders::{Borders, Crossing};
use crate::gossip::node_id;
use crate::object::{ShieldClient, VoucherError};
use crate::wire::ObjectRequest;

/// Peers of one fill: the swarm's bound, but one place for the shield.
const PEERS_MAX: usize = HOLDERS_MAX - 1;

/// Edges that are asked for an object while no shield answers, one after the other: 4.
const VOUCHED_ASKED_MAX: usize = 4;

/// The key under which the chunks of a site are named; `None` for a site that is not served here.
pub type SiteKeys = Arc<dyn Fn(&str) -> Option<ChunkKey> + Send + Sync>;

/// What the fills of all workers of an edge share.
#[derive(Clone)]
pub struct PeerFills {
    holders: Arc<dyn Holders>,
    keys: SiteKeys,
    has: Has,
    metrics: Arc<FillMetrics>,
    quarantine: Arc<Quarantine>,
    budget: Arc<Budget>,
    patience: Patience,
    identity: Option<Identity>,
    borders: Arc<Borders>,
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
            fills: self.clone(),
            pool,
            shield,
        }
    }
}

/// An [`Upstream`] over peers and the shield: one worker's. See [`PeerFills::over`].
#[derive(Debug)]
pub struct PeerFill {
    fills: PeerFills,
    pool: Pool,
    shield: Arc<ShieldClient>,
}

impl PeerFill {
    /// Who holds something of this URL; none where nobody is known in time.
    async fn find(&self, site: &str, key: CacheKey, chunk_key: &ChunkKey) -> Vec<Candidate> {
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

    fn share(&self) -> Option<Share> {
        let share = self.fills.budget.share();
        if share.is_none() {
            self.fills.metrics.refused.inc();
        }
        share
    }

    fn line(&self, site: &Arc<str>, key: CacheKey, chunk_key: ChunkKey) -> Arc<Line> {
        Arc::new(Line {
            pool: self.pool.clone(),
            quarantine: Arc::clone(&self.fills.quarantine),
            metrics: Arc::clone(&self.fills.metrics),
            site: Arc::clone(site),
            key,
            chunk_key,
            patience: self.fills.patience,
        })
    }

    /// These peers. One that is said to hold all of the manifest that is wanted is believed; of others it is asked chunk by chunk.
    fn peers(
        candidates: Vec<Candidate>,
        wanted: Option<ManifestId>,
    ) -> impl Iterator<Item = Member> {
        candidates
            .into_iter()
            .take(PEERS_MAX)
            .map(move |candidate| {
                let offer = Offer {
                    tier: Tier::Peer,
                    whole: candidate.whole && Some(candidate.manifest) == wanted,
                    rtt: candidate.rtt,
                };
                let way = Way::Peer(candidate);
                Member { way, offer }
            })
    }

    /// These peers, and the shield behind them.
    fn members(
        &self,
        site: &Arc<str>,
        key: CacheKey,
        candidates: Vec<Candidate>,
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
        Self::peers(candidates, wanted).chain([shield]).collect()
    }

    async fn object(&self, request: FetchRequest) -> Result<FetchResponse, UpstreamError> {
        let Some(chunk_key) = (self.fills.keys)(&request.site).filter(|_| is_miss(&request)) else {
            return self.shield.fetch(request).await;
        };
        let (site, key) = (Arc::clone(&request.site), request.key);
        let found = self.find(&site, key, &chunk_key).await;
        let Some((root, candidates)) = holders::agree(found) else {
            return self.shield.fetch(request).await;
        };
        let Some(share) = self.share() else {
            return self.shield.fetch(request).await;
        };
        let mut response = self.shield.fetch_without(request, root).await?;
        if let FetchBody::Chunked(events) = response.body {
            let members = self.members(&site, key, candidates, Some(root));
            let line = self.line(&site, key, chunk_key);
            let has = Some(Arc::clone(&self.fills.has));
            response.body = FetchBody::Chunked(body::body(events, members, line, has, share));
        }
        Ok(response)
    }

    /// What other edges have kept of an object, for one to whom nobody answers who could say how it is now: the head as a shield sent it, aged since
    /// then, and the body from all that hold parts of it. `None` where nobody has it with a shield's voucher, or where it was not asked for the whole of a
    /// miss. Whether it is too old to be used is for the asker to judge.
    async fn stand_in(&self, request: FetchRequest) -> Option<FetchResponse> {
        let identity = self.fills.identity.as_ref()?;
        let chunk_key = (self.fills.keys)(&request.site).filter(|_| is_miss(&request))?;
        let (site, key) = (request.site, request.key);
        let message = ObjectRequest {
            key: *key.as_bytes(),
            chunk_key_id: *chunk_key.key_id().as_bytes(),
            site: site.to_string(),
            method: Method::GET,
            https: request.scheme == Scheme::HTTPS,
            authority: request.authority,
            path_and_query: request.path_and_query.to_string(),
            headers: request.headers,
            held: None,
        };
        let metrics = &self.fills.metrics;
        let found = self.find(&site, key, &chunk_key).await;
        let mut vouched = None;
        for candidate in found.iter().take(VOUCHED_ASKED_MAX) {
            let way = Way::Peer(candidate.clone());
            let asked = async {
                let conn = way.connect(&self.pool, &self.fills.quarantine).await?;
                vouched::ask(&conn, &message, identity).await
            };
            match asked.await {
                Ok(answer) => {
                    vouched = Some(answer);
                    break;
                }
                Err(AskError::Voucher(why)) => {
                    let from = candidate.addresses.first().copied();
                    identity.audit_statement(candidate.node, from, &why.to_string());
                    // One who passes on the word of a shield that is not believed any more is no liar.
                    let lies = !matches!(why, VoucherError::Papers(_));
                    if let Some(node) = candidate.node.filter(|_| lies) {
                        metrics.fault(Fault::Lied);
                        self.fills.quarantine.put(node, tokio::time::Instant::now());
                    }
                }
                Err(error) => {
                    tracing::debug!(?candidate, %error, "an edge gives nothing of an object");
                }
            }
        }
        let Vouched {
            voucher,
            sealed,
            manifest,
        } = vouched?;
        let share = self.share()?;
        let root = manifest.root();
        let total = manifest.total_len();
        let names: Vec<_> = manifest.entries_from(0).collect();
        let named = names
            .into_iter()
            .map(|Entry { id, len }| ChunkEvent::Held { id, len });
        let events = [ChunkEvent::Profile(manifest.profile())]
            .into_iter()
            .chain(named)
            .chain([
                ChunkEvent::Vouched(sealed),
                ChunkEvent::Sealed { root, total },
            ]);
        let events: ChunkStream = Box::pin(stream::iter(events.map(Ok)));
        let members = Self::peers(found, Some(root)).collect();
        let line = self.line(&site, key, chunk_key);
        let has = Some(Arc::clone(&self.fills.has));
        metrics.kept.inc();
        let mut headers = voucher.response;
        let now_ms = identity
            .now()
            .map_or(0, |now| now.as_secs().saturating_mul(1_000));
        headers.insert(
            header::AGE,
            aged(&headers, now_ms.saturating_sub(voucher.sent_ms)),
        );
        Some(FetchResponse {
            status: voucher.status,
            headers,
            body: FetchBody::Chunked(body::body(events, members, line, has, share)),
            via: Source::Peer,
            upstream_cache_status: None,
        })
    }

    async fn by_name(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> Result<PieceStream, UpstreamError> {
        let Some(chunk_key) = (self.fills.keys)(&site) else {
            return self.shield.chunks(site, key, chunks).await;
        };
        let found = self.find(&site, key, &chunk_key).await;
        let share = if found.is_empty() { None } else { self.share() };
        let Some(share) = share else {
            return self.shield.chunks(site, key, chunks).await;
        };
        let named = chunks
            .into_iter()
            .map(|(id, len)| Ok(ChunkEvent::Held { id, len }));
        let events: ChunkStream = Box::pin(stream::iter(named));
        // Of which version they are is not known, so each is asked which of them it holds.
        let members = self.members(&site, key, found, None);
        let line = self.line(&site, key, chunk_key);
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

/// The age of a response that has been on its way for so long since it had the one it says.
fn aged(headers: &HeaderMap, since_ms: u64) -> HeaderValue {
    let said = headers.get(header::AGE).and_then(|age| age.to_str().ok());
    let said: u64 = said.and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    HeaderValue::from(said.saturating_add(since_ms / 1_000))
}

/// Whether the whole of an object is asked for by one who has nothing of it.
fn is_miss(request: &FetchRequest) -> bool {
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
        Box::pin(self.stand_in(request))
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
