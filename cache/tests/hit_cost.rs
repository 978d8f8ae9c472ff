//! What a hit costs in allocations: none of its own. Alone in its process, for it counts every allocation there is.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    uri::{PathAndQuery, Scheme},
};
use stoq_cache::{
    engine::{Cache, CacheConfig, CacheRequest},
    http::policy::SitePolicy,
    key::CacheKey,
    reply::ReplyBody,
    time::Timestamp,
    upstream::{FetchBody, FetchRequest, FetchResponse, Source, Upstream, UpstreamError},
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: both calls go to the system's allocator as they come.
#[expect(unsafe_code, reason = "counting allocations is what this test is for")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct OneKib;

impl fmt::Debug for OneKib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneKib")
    }
}

impl Upstream for OneKib {
    fn fetch(&self, _: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
        let body = FetchBody::Stream(Box::pin(stream::iter([Ok(Bytes::from(vec![7; 1024]))])));
        let response = FetchResponse {
            status: StatusCode::OK,
            headers,
            body,
            via: Source::Origin,
            upstream_cache_status: None,
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

#[tokio::test]
async fn a_hit_in_ram_allocates_nothing() {
    const HITS: usize = 10_000;
    let cache = Cache::new(CacheConfig {
        clock: Arc::new(|| Timestamp(1_800_000_000_000)),
        ..CacheConfig::new([1; 32])
    });
    let site = cache.site("site", None, SitePolicy::default());
    let request = CacheRequest {
        key: CacheKey::of("site", "https", "example.org", "/"),
        site,
        method: Method::GET,
        scheme: Scheme::HTTPS,
        authority: "example.org".to_owned(),
        path_and_query: PathAndQuery::from_static("/"),
        headers: HeaderMap::new(),
    };
    let reply = cache
        .serve(request.clone(), Arc::new(OneKib))
        .await
        .unwrap();
    let ReplyBody::Stream(body) = reply.body else {
        panic!("a miss streams")
    };
    let pieces: Vec<_> = body.collect().await;
    assert!(pieces.iter().all(Result::is_ok));

    let now = Timestamp(1_800_000_001_000);
    let hit = || {
        cache
            .try_hit(&request.key, &request.facts(), &request.site.policy, now)
            .expect("a hit")
    };
    assert!(matches!(hit().body, ReplyBody::Bytes(_)));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..HITS {
        drop(hit());
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The index keeps its policy up to date now and then; a hit itself has nothing to allocate.
    assert!(
        allocations < HITS / 20,
        "{allocations} allocations in {HITS} hits"
    );
    println!("{allocations} allocations in {HITS} hits");
}
