//! Asks a shield for objects: the cache's upstream when there is a `[shield]`.
//!
//! One per worker, over that worker's pool. The nodes of a shield share the URLs by rendezvous hashing, the same on every edge, so that each URL has one shield that collapses
//! its misses, and another one, the same for all, when that is gone. The next one is asked only when the one before cannot
//! be reached or certainly saw nothing of the request. A body that breaks off midway is gone on with from the next if it has a strong validator; else what fails
//! is the answer.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::uri::Scheme;
use http::{HeaderValue, StatusCode};
use stoq::peer::{Exchange, ExchangeError, Part, PeerConn, RecvHalf, SendHalf};
use stoq::pool::{Pool, PoolError};
use stoq_cache::content::{ChunkId, ManifestId};
use stoq_cache::http::validator::Validators;
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyError, BodyStream, FetchBody, FetchRequest, FetchResponse, PieceStream, Source, Upstream,
    UpstreamError,
};
use tokio::task::JoinHandle;

use super::body::{self, Companion};
use super::code::Code;
use super::nodes::Node;
use super::resume::{self, Again};
use super::wire::{self, BodyMode, ChunksRequest, Head, ObjectRequest};
use crate::borders::{Borders, Crossing};
use crate::gossip::node_id;

/// How long a miss waits for a shield whose last dial failed: 300 ms, some round trips. While a shield is dead each miss pays that, instead of the time of a
/// dial, at the most; once it is back the first that waits reaches it.
const PROBED_WITHIN: Duration = Duration::from_millis(300);

/// What is said where nothing else was found wrong.
const NOBODY: &str = "no shield is configured";

/// How the keys of a site's chunks are told apart: a fingerprint per site, the same on both sides when the secret and the dedupe domain are.
pub type ChunkKeyIds = Arc<dyn Fn(&str) -> [u8; 16] + Send + Sync>;

/// Whether the node at an address is known to leave, or to be ill.
pub type Leaving = Arc<dyn Fn(&SocketAddr) -> bool + Send + Sync>;

/// An [`Upstream`] over STOQ. Cheap to clone.
#[derive(Clone)]
pub struct ShieldClient {
    pool: Pool,
    nodes: Arc<[Node]>,
    chunk_key_id: ChunkKeyIds,
    head_timeout: Duration,
    borders: Arc<Borders>,
    leaving: Leaving,
}

impl fmt::Debug for ShieldClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShieldClient")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl ShieldClient {
    /// A client of `nodes` over this worker's `pool`.
    ///
    /// `head_timeout` bounds the wait for a response head; the shield's own waits for its origin must fit in it.
    #[must_use]
    pub fn new(
        pool: Pool,
        nodes: Arc<[Node]>,
        chunk_key_id: ChunkKeyIds,
        head_timeout: Duration,
    ) -> Self {
        Self {
            pool,
            nodes,
            chunk_key_id,
            head_timeout,
            borders: Arc::default(),
            leaving: Arc::new(|_| false),
        }
    }

    /// Asks nodes of which this says that they leave only when no other can be reached.
    #[must_use]
    pub fn sparing(mut self, leaving: Leaving) -> Self {
        self.leaving = leaving;
        self
    }

    /// Of a site whose bytes may not be everywhere only nodes within are asked.
    #[must_use]
    pub fn within(mut self, borders: Arc<Borders>) -> Self {
        self.borders = borders;
        self
    }

    /// The nodes in the order in which they are asked about a URL: the same on every edge that has the same nodes, in whatever order.
    fn ranked(&self, key: &CacheKey) -> impl Iterator<Item = &Node> {
        let mut ranked: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.weight(key), node))
            .collect();
        ranked.sort_by(|(one, _), (other, _)| other.cmp(one));
        ranked.into_iter().map(|(_, node)| node)
    }

    fn turns(&self, key: &CacheKey) -> Turns<'_> {
        Turns {
            nodes: self.ranked(key).collect(),
            leaving: VecDeque::new(),
        }
    }

    /// A connection to a node there. One that did not answer the last dial is not waited for as long as another: the dial goes on by itself, and whoever asks
    /// after it finds the connection.
    async fn reach(&self, addr: SocketAddr) -> Result<PeerConn, PoolError> {
        let health = self.pool.health(addr);
        let reached = self.pool.get(addr);
        if !health.is_some_and(|health| health.failing && health.connections == 0) {
            return reached.await;
        }
        match tokio::time::timeout(PROBED_WITHIN, reached).await {
            Ok(reached) => reached,
            Err(_) => Err(PoolError::Unanswering {
                retry_in: Duration::ZERO,
            }),
        }
    }

    /// Starts an exchange on the first node that takes it.
    async fn exchange(
        &self,
        site: &str,
        key: &CacheKey,
        kind: u16,
        control: &bytes::Bytes,
    ) -> Result<Exchange, UpstreamError> {
        let mut last = NOBODY.to_owned();
        let mut turns = self.turns(key);
        while let Some(addresses) = turns.next(&self.leaving, &mut last).await {
            for addr in addresses {
                let conn = match self.reach(addr).await {
                    Ok(conn) => conn,
                    Err(error) => {
                        last = error.to_string();
                        continue;
                    }
                };
                if let Err(outside) = self.stands_within(&conn, site) {
                    last = outside;
                    continue;
                }
                match conn.exchange(kind, control.clone(), None).await {
                    Ok(exchange) => return Ok(exchange),
                    Err(error) => last = format!("{addr}: {error}"),
                }
            }
        }
        Err(UpstreamError::ShieldDown(last))
    }

    /// A connection to the first node for this URL that can be reached.
    ///
    /// # Errors
    /// What was wrong with the last.
    pub(crate) async fn connection(&self, site: &str, key: &CacheKey) -> Result<PeerConn, String> {
        let mut last = NOBODY.to_owned();
        let mut turns = self.turns(key);
        while let Some(addresses) = turns.next(&self.leaving, &mut last).await {
            for addr in addresses {
                match self.reach(addr).await {
                    Ok(conn) => match self.stands_within(&conn, site) {
                        Ok(()) => return Ok(conn),
                        Err(outside) => last = outside,
                    },
                    Err(error) => last = error.to_string(),
                }
            }
        }
        Err(last)
    }

    /// Whether the site's bytes may come from there; if not, what to say of it.
    fn stands_within(&self, conn: &PeerConn, site: &str) -> Result<(), String> {
        let node = conn.peer().identity.node_id;
        match self.borders.admits(site, &node_id(node), Crossing::Ask) {
            true => Ok(()),
            false => Err(format!("{node} stands outside the zones of site {site:?}")),
        }
    }

    /// As [`Upstream::fetch`], for one who can get the chunks of the manifest with this root elsewhere: where the object still is of that
    /// manifest, its chunks are named instead of sent.
    ///
    /// # Errors
    /// As [`Upstream::fetch`].
    pub async fn fetch_without(
        &self,
        request: FetchRequest,
        root: ManifestId,
    ) -> Result<FetchResponse, UpstreamError> {
        self.object(request, Some(root)).await
    }

    async fn object(
        &self,
        mut request: FetchRequest,
        held: Option<ManifestId>,
    ) -> Result<FetchResponse, UpstreamError> {
        let body = request.body.take();
        let key = request.key;
        let message = ObjectRequest {
            key: *key.as_bytes(),
            chunk_key_id: (self.chunk_key_id)(&request.site),
            site: request.site.to_string(),
            https: request.scheme == Scheme::HTTPS,
            authority: request.authority,
            path_and_query: request.path_and_query.to_string(),
            held: held.map(|root| *root.as_bytes()),
            method: request.method,
            headers: request.headers,
        };
        let repeatable = body.is_none() && message.method.is_safe();
        let (head, recv, companion) = self.ask(key, &message, body).await?;
        let body = match head.body {
            BodyMode::Empty => FetchBody::Empty,
            BodyMode::Plain => FetchBody::Stream(body::plain(recv, companion)),
            BodyMode::Chunked => {
                let events = body::chunked(recv, companion);
                let strong = Validators::of(&head.headers).strong().cloned();
                FetchBody::Chunked(match strong.filter(|_| repeatable) {
                    Some(strong) => {
                        resume::resumable(events, self.again(key, message, head.status, strong))
                    }
                    None => Box::pin(events.map_err(|broken| broken.error)),
                })
            }
        };
        Ok(FetchResponse {
            status: head.status,
            headers: head.headers,
            body,
            via: Source::Shield,
            upstream_cache_status: Some(head.cache_status).filter(|text| !text.is_empty()),
        })
    }

    /// Asks for the same bytes again, be it another node.
    fn again(
        &self,
        key: CacheKey,
        message: ObjectRequest,
        status: StatusCode,
        strong: HeaderValue,
    ) -> Again {
        let client = self.clone();
        Box::new(move |may_name| {
            let (client, strong) = (client.clone(), strong.clone());
            let message = ObjectRequest {
                held: message.held.filter(|_| may_name),
                ..message.clone()
            };
            Box::pin(async move {
                let (head, recv, companion) = client.ask(key, &message, None).await.ok()?;
                let is_same = head.status == status
                    && head.body == BodyMode::Chunked
                    && Validators::of(&head.headers).strong() == Some(&strong);
                is_same.then(|| body::chunked(recv, companion))
            })
        })
    }

    /// Sends a request, and waits for the head of its answer.
    async fn ask(
        &self,
        key: CacheKey,
        message: &ObjectRequest,
        body: Option<BodyStream>,
    ) -> Result<(Head, RecvHalf, Companion), UpstreamError> {
        let control = message.encode().map_err(|error| UpstreamError::Refused {
            reason: error.to_string(),
        })?;
        let repeatable = body.is_none() && message.method.is_safe();
        let mut body = body;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Exchange { send, mut recv } = self
                .exchange(&message.site, &key, wire::OBJECT, &control)
                .await?;
            let companion = self.send_body(send, body.take()).await;
            let Ok(head) = tokio::time::timeout(self.head_timeout, recv.next()).await else {
                return Err(UpstreamError::Timeout(format!(
                    "no head from the shield within {:?}",
                    self.head_timeout
                )));
            };
            match head {
                Ok(Some(Part::Head(payload))) => {
                    let head = Head::decode(&payload)
                        .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                    return Ok((head, recv, companion));
                }
                Ok(_) => {
                    return Err(UpstreamError::Protocol(
                        "the shield's answer has no head".to_owned(),
                    ));
                }
                Err(ExchangeError::Remote { code, text }) => {
                    return Err(Code::of(code).upstream_error(text));
                }
                // A pooled connection may have died unseen: one more try, on whatever node is there, if nothing can happen twice.
                Err(ExchangeError::Connection(_) | ExchangeError::Cancelled { .. })
                    if repeatable && attempts == 1 => {}
                Err(error) => return Err(UpstreamError::ShieldDown(error.to_string())),
            }
        }
    }

    /// Sends the request's body beside the wait for the answer, or the end at once when there is none.
    async fn send_body(&self, send: SendHalf, body: Option<BodyStream>) -> Companion {
        match body {
            // A send that fails shows in the answer, which is read next.
            None => drop(send.finish().await),
            Some(body) => return Some(Box::new(Upload(tokio::spawn(upload(send, body))))),
        }
        None
    }
}

/// The task that sends a request's body; it ends with the exchange it belongs to.
struct Upload(JoinHandle<()>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn upload(mut send: SendHalf, mut body: BodyStream) {
    while let Some(piece) = body.next().await {
        match piece {
            Ok(bytes) => {
                if send.data(bytes).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // The client's body broke: the shield must not take what came for the whole.
                drop(
                    send.abort(Code::RequestBody.number(), &error.to_string())
                        .await,
                );
                return;
            }
        }
    }
    drop(send.finish().await);
}

/// Nodes in the order in which they are asked.
struct Turns<'a> {
    nodes: VecDeque<&'a Node>,
    /// The addresses of those that leave, which come last.
    leaving: VecDeque<Vec<SocketAddr>>,
}

impl Turns<'_> {
    /// Where the next one is; none, and why in `last`, where that is not known.
    async fn next(&mut self, leaves: &Leaving, last: &mut String) -> Option<Vec<SocketAddr>> {
        while let Some(node) = self.nodes.pop_front() {
            let addresses = addresses(node, last).await;
            if addresses.is_empty() || !addresses.iter().all(|addr| leaves(addr)) {
                return Some(addresses);
            }
            self.leaving.push_back(addresses);
        }
        self.leaving.pop_front()
    }
}

/// Where a node is; none, and why in `last`, where that is not known.
async fn addresses(node: &Node, last: &mut String) -> Vec<SocketAddr> {
    match node.addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            *last = error;
            Vec::new()
        }
    }
}

impl Upstream for ShieldClient {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let held = request.held.as_ref().map(|manifest| manifest.root());
        Box::pin(self.object(request, held))
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        Box::pin(async move {
            let total: u64 = chunks.iter().map(|(_, len)| u64::from(*len)).sum();
            let message = ChunksRequest {
                key: *key.as_bytes(),
                chunk_key_id: (self.chunk_key_id)(&site),
                site: site.to_string(),
                chunks: chunks
                    .into_iter()
                    .map(|(id, len)| (*id.as_bytes(), len))
                    .collect(),
            };
            let control = message.encode().map_err(|error| UpstreamError::Refused {
                reason: error.to_string(),
            })?;
            let Exchange { send, recv } =
                self.exchange(&site, &key, wire::CHUNKS, &control).await?;
            drop(send.finish().await);
            let pieces = exactly(total, body::plain(recv, None));
            let pieces = pieces.map(|piece| piece.map(|bytes| (bytes, Source::Shield)));
            let pieces: PieceStream = Box::pin(pieces);
            Ok(pieces)
        })
    }
}

/// `body`, which is an error unless it has `total` bytes.
fn exactly(total: u64, body: BodyStream) -> BodyStream {
    Box::pin(futures_util::stream::try_unfold(
        (body, 0u64),
        move |(mut body, got)| async move {
            match body.next().await.transpose()? {
                Some(bytes) => {
                    let got = got + bytes.len() as u64;
                    if got > total {
                        Err(BodyError::Length {
                            got,
                            declared: total,
                        })
                    } else {
                        Ok(Some((bytes, (body, got))))
                    }
                }
                None if got == total => Ok(None),
                None => Err(BodyError::Length {
                    got,
                    declared: total,
                }),
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_that_leave_come_last_and_in_their_order() {
        let nodes: Vec<_> = (1..5).map(|port| Node::new("127.0.0.1", port)).collect();
        let mut turns = Turns {
            nodes: nodes.iter().collect(),
            leaving: VecDeque::new(),
        };
        let leaves: Leaving = Arc::new(|addr| matches!(addr.port(), 1 | 3));
        let (mut ports, mut last) = (Vec::new(), String::new());
        while let Some(addresses) = turns.next(&leaves, &mut last).await {
            ports.extend(addresses.iter().map(SocketAddr::port));
        }
        assert_eq!(ports, [2, 4, 1, 3]);
    }
}
