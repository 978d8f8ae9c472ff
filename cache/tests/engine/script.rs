//! An upstream that does as it is told, a tier that forgets on command, and a clock that is set.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{PathAndQuery, Scheme},
};
use parking_lot::Mutex;
use stoq_cache::{
    content::ChunkId,
    engine::{Cache, CacheConfig, CacheRequest, CacheSite, Failure},
    http::policy::SitePolicy,
    key::CacheKey,
    reply::{Reply, ReplyBody},
    store::{Inserted, RamTier, Store},
    time::Timestamp,
    upstream::{
        BodyError, BodyStream, FetchBody, FetchRequest, FetchResponse, Source, Upstream,
        UpstreamError,
    },
};
use tokio::sync::mpsc;

pub(crate) type Answer = Result<FetchResponse, UpstreamError>;

type Handler = dyn Fn(FetchRequest, usize) -> BoxFuture<'static, Answer> + Send + Sync;

/// Answers each fetch by a function of the request and its number, from 0.
pub(crate) struct Script {
    handler: Box<Handler>,
    seen: Mutex<Vec<HeaderMap>>,
}

impl Script {
    pub(crate) fn new<F>(
        answer: impl Fn(FetchRequest, usize) -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Arc::new(Self {
            handler: Box::new(move |request, n| Box::pin(answer(request, n))),
            seen: Mutex::default(),
        })
    }

    /// Always the same response at once; ranges are honoured under the entity tag.
    pub(crate) fn fixed(fields: &'static [(&'static str, &'static str)], body: Bytes) -> Arc<Self> {
        Self::new(move |request, _| std::future::ready(Ok(whole_or_part(&request, fields, &body))))
    }

    pub(crate) fn fetches(&self) -> usize {
        self.seen.lock().len()
    }

    /// A field of fetch `n`.
    pub(crate) fn field(&self, n: usize, name: &str) -> Option<String> {
        self.seen.lock()[n]
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl Upstream for Script {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Answer> {
        let n = {
            let mut seen = self.seen.lock();
            seen.push(request.headers.clone());
            seen.len() - 1
        };
        (self.handler)(request, n)
    }
}

pub(crate) fn response(
    status: u16,
    fields: &[(&'static str, &'static str)],
    body: FetchBody,
) -> FetchResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    FetchResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body,
        via: Source::Origin,
        upstream_cache_status: None,
    }
}

/// A server that knows ranges under a strong entity tag.
pub(crate) fn whole_or_part(
    request: &FetchRequest,
    fields: &[(&'static str, &'static str)],
    body: &Bytes,
) -> FetchResponse {
    let field = |name: &str| {
        request
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let etag = fields
        .iter()
        .find(|(name, _)| *name == "etag")
        .map(|(_, value)| (*value).to_owned());
    if let Some(range) = field("range") {
        let conditioned = field("if-range");
        if conditioned.is_none() || conditioned == etag {
            let (first, last) = range
                .strip_prefix("bytes=")
                .unwrap()
                .split_once('-')
                .unwrap();
            let first: usize = first.parse().unwrap();
            let last = if last.is_empty() {
                body.len() - 1
            } else {
                last.parse().unwrap()
            };
            let mut part = response(206, fields, pieces(&body.slice(first..=last), 10_000));
            let value = format!("bytes {first}-{last}/{}", body.len());
            part.headers
                .insert("content-range", HeaderValue::try_from(value).unwrap());
            return part;
        }
    }
    if etag.is_some() && field("if-none-match") == etag {
        return response(304, fields, FetchBody::Empty);
    }
    let mut whole = response(200, fields, pieces(body, 10_000));
    whole
        .headers
        .insert("content-length", HeaderValue::from(body.len()));
    whole
}

/// A body in pieces of this size, all ready.
pub(crate) fn pieces(body: &Bytes, size: usize) -> FetchBody {
    let pieces: Vec<_> = body
        .chunks(size)
        .map(|piece| Ok(body.slice_ref(piece)))
        .collect();
    FetchBody::Stream(Box::pin(stream::iter(pieces)))
}

/// A body that is fed by hand. Dropping the feed ends it.
pub(crate) fn fed(depth: usize) -> (mpsc::Sender<Result<Bytes, BodyError>>, FetchBody) {
    let (feed, fed) = mpsc::channel(depth);
    let body: BodyStream = Box::pin(stream::unfold(fed, |mut fed| async move {
        fed.recv().await.map(|piece| (piece, fed))
    }));
    (feed, FetchBody::Stream(body))
}

/// A cache on a clock that is set by hand, with one site.
pub(crate) struct House {
    pub(crate) cache: Cache,
    pub(crate) site: Arc<CacheSite>,
    pub(crate) tier: Arc<Forgetful>,
    pub(crate) now: Arc<AtomicU64>,
}

pub(crate) fn house() -> House {
    house_with(64 << 20, 64 << 20, SitePolicy::default())
}

pub(crate) fn house_with(ram_bytes: usize, fill_bytes: usize, policy: SitePolicy) -> House {
    let tier = Arc::new(Forgetful::default());
    let store = Store::new(Arc::clone(&tier) as Arc<dyn RamTier>);
    let house = house_over(store, ram_bytes, fill_bytes, policy);
    House { tier, ..house }
}

/// A house whose chunks lie in another store; its `tier` is empty.
pub(crate) fn house_over(
    store: Store,
    ram_bytes: usize,
    fill_bytes: usize,
    policy: SitePolicy,
) -> House {
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let clock = Arc::clone(&now);
    let mut config = CacheConfig::new([7; 32]);
    config.name = "edge".to_owned();
    config.ram_bytes = ram_bytes;
    config.fill_bytes = fill_bytes;
    config.clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
    let cache = Cache::with_store(config, store);
    let site = cache.site("site", None, policy);
    House {
        cache,
        site,
        tier: Arc::default(),
        now,
    }
}

impl House {
    pub(crate) fn pass_seconds(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    pub(crate) fn get(
        &self,
        path: &'static str,
        fields: &[(&'static str, &'static str)],
    ) -> CacheRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        CacheRequest {
            site: Arc::clone(&self.site),
            key: CacheKey::of("site", "https", "example.org", path),
            method: Method::GET,
            scheme: Scheme::HTTPS,
            authority: "example.org".to_owned(),
            path_and_query: PathAndQuery::from_static(path),
            headers,
        }
    }

    pub(crate) async fn serve(
        &self,
        request: CacheRequest,
        upstream: &Arc<Script>,
    ) -> Result<Reply, Failure> {
        self.cache
            .serve(request, Arc::clone(upstream) as Arc<dyn Upstream>)
            .await
    }

    /// Status and whole body of a GET.
    pub(crate) async fn fetch(&self, path: &'static str, upstream: &Arc<Script>) -> (u16, Bytes) {
        let reply = self.serve(self.get(path, &[]), upstream).await.unwrap();
        (reply.status().as_u16(), body(reply).await.unwrap())
    }

    pub(crate) fn try_hit(&self, request: &CacheRequest) -> Option<Reply> {
        self.cache.try_hit(
            &request.key,
            &request.facts(),
            &request.site.policy,
            self.now(),
        )
    }

    /// `served = delivered` over all sources, once every body was read or dropped.
    pub(crate) fn assert_bytes_add_up(&self) {
        use stoq_cache::metrics::ServedFrom;
        let metrics = self.cache.metrics();
        let served: u64 = [
            ServedFrom::Ram,
            ServedFrom::Disk,
            ServedFrom::Upstream(Source::Origin),
            ServedFrom::Upstream(Source::Shield),
            ServedFrom::Upstream(Source::Peer),
        ]
        .into_iter()
        .map(|from| metrics.served_bytes(from).get())
        .sum();
        assert_eq!(
            served,
            metrics.delivered_bytes.get(),
            "served by source against delivered"
        );
    }
}

/// The whole body of a reply, or how it broke.
pub(crate) async fn body(reply: Reply) -> Result<Bytes, BodyError> {
    let mut whole = Vec::new();
    match reply.body {
        ReplyBody::Empty => {}
        ReplyBody::Bytes(bytes) => whole.extend_from_slice(&bytes),
        ReplyBody::Chunks(chunks) => chunks
            .iter()
            .for_each(|chunk| whole.extend_from_slice(chunk)),
        ReplyBody::Stream(mut stream) => {
            while let Some(piece) = stream.next().await {
                whole.extend_from_slice(&piece?);
            }
        }
    }
    Ok(whole.into())
}

pub(crate) fn stream_of(reply: Reply) -> BodyStream {
    match reply.body {
        ReplyBody::Stream(stream) => stream,
        other => panic!("no stream: {other:?}"),
    }
}

pub(crate) fn cache_status(reply: &Reply) -> String {
    reply.to_headers()["cache-status"]
        .to_str()
        .unwrap()
        .to_owned()
}

/// Bytes that look random and are not.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

/// Lets every other task run until a condition holds. Bounded, so that a claim that fails ends the test.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never happened: {what}");
}

/// Lets every other task run until nothing more can happen.
pub(crate) async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

/// Pieces whose memory is watched.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<AtomicUsize>);

struct Owned(Bytes, Arc<AtomicUsize>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

impl Watched {
    pub(crate) fn piece(&self, bytes: Bytes) -> Bytes {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Owned(bytes, Arc::clone(&self.0)))
    }

    pub(crate) fn bytes_alive(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A tier that holds everything until it is told to forget.
#[derive(Debug, Default)]
pub(crate) struct Forgetful(pub(crate) Mutex<HashMap<ChunkId, Bytes>>);

impl Forgetful {
    /// Forgets what `which` says yes to, in no particular order.
    pub(crate) fn forget(&self, mut which: impl FnMut() -> bool) {
        self.0.lock().retain(|_, _| !which());
    }
}

impl RamTier for Forgetful {
    fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.0.lock().get(id).cloned()
    }

    fn insert(&self, id: ChunkId, bytes: Bytes) -> Inserted {
        match self.0.lock().insert(id, bytes) {
            None => Inserted::Stored,
            Some(_) => Inserted::Present,
        }
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.0.lock().contains_key(id)
    }

    fn bytes_used(&self) -> u64 {
        self.0.lock().values().map(|bytes| bytes.len() as u64).sum()
    }

    fn capacity(&self) -> u64 {
        u64::MAX
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn evicted(&self) -> u64 {
        0
    }
}
