//! An object as another edge has it, by the word of whoever fetched it: head, names, and chunks from all that hold some.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, header};
use stoq::identity::Identity;
use stoq_cache::content::{ChunkKey, Entry, Manifest};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    ChunkEvent, ChunkStream, FetchBody, FetchRequest, FetchResponse, Source,
};

use tokio::time::{Instant, timeout_at};

use super::ask::{AskError, Way};
use super::body;
use super::holders::{self, Candidate};
use super::metrics::Fault;
use super::upstream::{Peers, peers};
use super::vouched::{self, Vouched};
use crate::object::{Voucher, VoucherError, told};
use crate::wire::ObjectRequest;

/// A GET of an object that can be said to several.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) site: Arc<str>,
    pub(super) key: CacheKey,
    scheme: Scheme,
    authority: String,
    path_and_query: PathAndQuery,
    headers: HeaderMap,
}

impl Asking {
    pub(super) fn of(request: &FetchRequest) -> Self {
        Self {
            site: Arc::clone(&request.site),
            key: request.key,
            scheme: request.scheme.clone(),
            authority: request.authority.clone(),
            path_and_query: request.path_and_query.clone(),
            headers: request.headers.clone(),
        }
    }

    /// As an upstream is asked.
    pub(super) fn request(&self) -> FetchRequest {
        FetchRequest {
            method: Method::GET,
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            path_and_query: self.path_and_query.clone(),
            headers: self.headers.clone(),
            body: None,
            site: Arc::clone(&self.site),
            key: self.key,
            held: None,
        }
    }

    /// As another node is asked, by one for whom these chunks have these names. Who that is nobody vouches for, so it is told nothing of who asks: what it chooses by the rest is
    /// held to the whole here.
    fn message(&self, chunk_key: &ChunkKey) -> ObjectRequest {
        ObjectRequest {
            key: *self.key.as_bytes(),
            chunk_key_id: *chunk_key.key_id().as_bytes(),
            site: self.site.to_string(),
            method: Method::GET,
            https: self.scheme == Scheme::HTTPS,
            authority: self.authority.clone(),
            path_and_query: self.path_and_query.to_string(),
            headers: told(&self.headers),
            held: None,
        }
    }
}

/// An object of which somebody has said what it is.
pub(super) struct Kept {
    /// The response; its body comes from the holders alone.
    pub(super) response: FetchResponse,
    pub(super) manifest: Manifest,
    pub(super) sealed: Bytes,
}

/// Whose word is looked for, and which one will do.
pub(super) struct Wanted<'a> {
    pub(super) asking: &'a Asking,
    pub(super) chunk_key: &'a ChunkKey,
    pub(super) found: &'a [Candidate],
    /// Edges that are asked, one after the other.
    pub(super) asked_max: usize,
    /// How long each has, to be reached and to say all.
    pub(super) each: Duration,
    /// Whether a word will do, with the fields as they would be now. Another is looked for.
    pub(super) will_do: &'a (dyn Fn(&Voucher, &HeaderMap) -> bool + Send + Sync),
}

impl Peers {
    /// The object as one of the edges has it; `None` where nobody has it with a voucher that will do.
    pub(super) async fn kept(&self, wanted: Wanted<'_>) -> Option<Kept> {
        let identity = self.fills.identity.as_ref()?;
        let Wanted {
            asking,
            chunk_key,
            found,
            asked_max,
            each,
            will_do,
        } = wanted;
        let message = asking.message(chunk_key);
        let mut good = None;
        for candidate in holders::nodes(found).into_iter().take(asked_max) {
            let asked = self.word_of(candidate, asking, &message, identity, each);
            match asked.await {
                Ok(answer) => {
                    let headers = headers_now(&answer.voucher, identity);
                    if will_do(&answer.voucher, &headers) {
                        good = Some((answer, headers));
                        break;
                    }
                }
                Err(AskError::Voucher(why)) => self.disbelieve(identity, candidate, &why),
                Err(error) => {
                    tracing::debug!(?candidate, %error, "an edge gives nothing of an object");
                }
            }
        }
        let (vouched, headers) = good?;
        let Vouched {
            voucher,
            sealed,
            manifest,
        } = vouched;
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
                ChunkEvent::Vouched(sealed.clone()),
                ChunkEvent::Sealed { root, total },
            ]);
        let events: ChunkStream = Box::pin(stream::iter(events.map(Ok)));
        let members = peers(found, Some(root));
        let line = self.line(&asking.site, asking.key, chunk_key.clone());
        let has = Some(Arc::clone(&self.fills.has));
        let body = body::body(events, members, line, has, share);
        Some(Kept {
            response: FetchResponse {
                status: voucher.status,
                headers,
                body: FetchBody::Chunked(body),
                via: Source::Peer,
                upstream_cache_status: None,
            },
            manifest,
            sealed,
        })
    }

    /// The word of one edge, within `each` in all, of which the beginning has a part. An edge that is there and lets that run out rests, lest it does so at each miss.
    async fn word_of(
        &self,
        candidate: &Candidate,
        asking: &Asking,
        message: &ObjectRequest,
        identity: &Identity,
        each: Duration,
    ) -> Result<Vouched, AskError> {
        let (now, quarantine) = (Instant::now(), &self.fills.quarantine);
        let begun_by = now + each.min(self.fills.patience.first);
        let way = Way::Peer(candidate.clone());
        let reached = timeout_at(begun_by, way.connect(&self.pool, quarantine)).await;
        let conn = reached.map_err(|_| AskError::Silent)??;
        let asked_at = Instant::now();
        let asked = vouched::ask(&conn, message, &asking.headers, identity, begun_by);
        let said = timeout_at(now + each, asked).await;
        let said = said.unwrap_or(Err(AskError::Silent));
        // Not one that was hardly reached in time.
        if matches!(said, Err(AskError::Silent))
            && asked_at.elapsed() >= begun_by.duration_since(now) / 2
        {
            self.fills.metrics.fault(Fault::Stalled);
            quarantine.rest(conn.peer().identity.node_id, Instant::now());
        }
        said
    }

    /// A word is not believed.
    fn disbelieve(&self, identity: &Identity, from: &Candidate, why: &VoucherError) {
        let metrics = &self.fills.metrics;
        metrics.disbelieved(why);
        let addr = from.addresses.first().copied();
        identity.audit_statement(from.node, addr, &why.to_string());
        // One who passes on the word of a node that is not believed any more is no liar.
        let lies = !matches!(why, VoucherError::Papers(_));
        if let Some(node) = from.node.filter(|_| lies) {
            metrics.fault(Fault::Lied);
            self.fills.quarantine.put(node, Instant::now());
        }
    }

    /// What an edge would be asked about, and where: as [`Upstream::kept`](stoq_cache::upstream::Upstream::kept), from any that answers, however old it is.
    pub(super) async fn stand_in(
        &self,
        asking: Asking,
        chunk_key: ChunkKey,
        asked_max: usize,
    ) -> Option<Kept> {
        let found = self.find(&asking.site, asking.key, &chunk_key).await;
        let kept = self
            .kept(Wanted {
                asking: &asking,
                chunk_key: &chunk_key,
                found: &found,
                asked_max,
                each: self.fills.patience.first + vouched::NAMED_WITHIN,
                will_do: &|_, _| true,
            })
            .await?;
        self.fills.metrics.kept.inc();
        Some(kept)
    }
}

/// The response's fields, as old as they are by this node's clock.
fn headers_now(voucher: &Voucher, identity: &Identity) -> HeaderMap {
    let mut headers = voucher.response.clone();
    let now_ms = identity
        .now()
        .map_or(0, |now| now.as_secs().saturating_mul(1_000));
    let since_ms = now_ms.saturating_sub(voucher.sent_ms);
    let age = aged(&headers, since_ms);
    headers.insert(header::AGE, age);
    headers
}

/// The age of a response that has been on its way for so long since it had the one it says.
fn aged(headers: &HeaderMap, since_ms: u64) -> HeaderValue {
    let said = headers.get(header::AGE).and_then(|age| age.to_str().ok());
    let said: u64 = said.and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    HeaderValue::from(said.saturating_add(since_ms / 1_000))
}
