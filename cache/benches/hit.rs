//! What a hit in RAM costs, by what is stored beside it and what the request says.
//!
//!     taskset -c 1 cargo bench -p stoq-cache --bench hit
//!
//! All contenders take turns within each round, so that what else the machine does hits all alike; the ratio printed is
//! the median over the rounds of a contender's time to that of the one it is compared with. `cargo test --benches` walks
//! through it once, and holds the flood to the cap on variants.

#![expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds become averages and ratios"
)]

use std::{env, fmt, hint::black_box, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{PathAndQuery, Scheme},
};
use stoq_cache::{
    engine::{Cache, CacheConfig, CacheRequest, CacheSite},
    http::policy::SitePolicy,
    key::CacheKey,
    reply::ReplyBody,
    time::Timestamp,
    upstream::{FetchBody, FetchRequest, FetchResponse, Source, Upstream, UpstreamError},
};

const ROUNDS: usize = 31;
const HITS: usize = 50_000;
/// Distinct values of `Accept-Language` asked for of one URL.
const FLOOD: usize = 10_000;

/// What a browser sends, as far as caches meet it.
const BROWSER: [(&str, &str); 8] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    ),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "none"),
    ("priority", "u=0, i"),
];

/// An origin whose 1 KiB says what its path asks for.
struct OneKib;

impl fmt::Debug for OneKib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneKib")
    }
}

impl Upstream for OneKib {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let mut headers = HeaderMap::new();
        let mut say = |name, value| {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        say("cache-control", "max-age=600");
        say("content-type", "text/html");
        say("etag", "\"v\"");
        match request.path_and_query.path() {
            "/one" | "/flood" => say("vary", "accept-language"),
            "/groups" => say("cache-groups", "\"a\", \"b\""),
            "/searches" => say("no-vary-search", "params=(\"utm\")"),
            _ => None,
        };
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

/// Fields of a request.
type Fields<'a> = [(&'static str, &'a str)];

/// A browser's request with other fields in place of its own.
fn request(site: &Arc<CacheSite>, path: &'static str, fields: &Fields<'_>) -> Result<CacheRequest> {
    let mut headers = HeaderMap::new();
    for (name, value) in BROWSER.iter().chain(fields) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    }
    Ok(CacheRequest {
        site: Arc::clone(site),
        key: CacheKey::of("site", "https", "example.org", path),
        method: Method::GET,
        scheme: Scheme::HTTPS,
        authority: "example.org".to_owned(),
        path_and_query: PathAndQuery::from_static(path),
        headers,
    })
}

/// Asks, and reads the answer to its end.
async fn fill(cache: &Cache, request: &CacheRequest) -> Result<()> {
    let reply = cache.serve(request.clone(), Arc::new(OneKib)).await?;
    if let ReplyBody::Stream(mut body) = reply.body {
        while let Some(piece) = body.next().await {
            piece?;
        }
    }
    Ok(())
}

fn language(n: usize) -> String {
    format!("en-x-{n}, en;q=0.5")
}

/// A request that is a hit, and the contender whose cost its own is told in.
struct Contender {
    name: &'static str,
    request: CacheRequest,
    base: usize,
}

fn contenders(site: &Arc<CacheSite>) -> Result<Vec<Contender>> {
    let newest = language(FLOOD - 1);
    let oldest = language(FLOOD - CacheConfig::new([0; 32]).variants_max);
    let list: [(_, _, &Fields<'_>, _); 8] = [
        ("nothing special", "/plain", &[], 0),
        (
            "Cache-Control: max-age=600",
            "/plain",
            &[("cache-control", "max-age=600")],
            0,
        ),
        (
            "If-None-Match, 304",
            "/plain",
            &[("if-none-match", "\"v\"")],
            0,
        ),
        ("of two cache groups", "/groups", &[], 0),
        ("with No-Vary-Search", "/searches", &[], 0),
        ("the only variant", "/one", &[], 0),
        (
            "after a flood, the newest variant",
            "/flood",
            &[("accept-language", &newest)],
            5,
        ),
        (
            "after a flood, the oldest kept",
            "/flood",
            &[("accept-language", &oldest)],
            5,
        ),
    ];
    list.into_iter()
        .map(|(name, path, fields, base)| {
            Ok(Contender {
                name,
                request: request(site, path, fields)?,
                base,
            })
        })
        .collect()
}

fn hit(cache: &Cache, request: &CacheRequest, now: Timestamp) -> bool {
    let facts = request.facts();
    let reply = cache.try_hit(&request.key, &facts, &request.site.policy, now);
    black_box(reply).is_some()
}

fn main() -> Result<()> {
    let measured = env::args().any(|argument| argument == "--bench");
    let (rounds, hits) = if measured { (ROUNDS, HITS) } else { (1, 10) };
    let start = Timestamp(1_800_000_000_000);
    let cache = Cache::new(CacheConfig {
        clock: Arc::new(move || start),
        ..CacheConfig::new([1; 32])
    });
    let site = cache.site("site", None, SitePolicy::default());
    let contenders = contenders(&site)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        for contender in contenders
            .iter()
            .filter(|one| one.request.path_and_query != "/flood")
        {
            fill(&cache, &contender.request).await?;
        }
        for n in 0..FLOOD {
            let request = request(&site, "/flood", &[("accept-language", &language(n))])?;
            fill(&cache, &request).await?;
        }
        anyhow::Ok(())
    })?;
    let kept = (0..FLOOD).filter(|n| {
        let request = request(&site, "/flood", &[("accept-language", &language(*n))]);
        request.is_ok_and(|request| hit(&cache, &request, start))
    });
    let kept = kept.count();
    let dropped = cache.metrics().variants_dropped.get();
    println!("{FLOOD} values of Accept-Language: {kept} variants kept, {dropped} dropped");
    ensure!(
        kept == CacheConfig::new([0; 32]).variants_max && kept as u64 + dropped == FLOOD as u64,
        "the cap on variants does not hold"
    );

    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..hits {
                ensure!(
                    hit(&cache, &contender.request, start),
                    "{} is no hit",
                    contender.name
                );
            }
            times.push(begun.elapsed().as_secs_f64() * 1e9 / hits as f64);
        }
    }
    if !measured {
        return Ok(());
    }
    println!("| a hit of 1 KiB | ns | to | ratio |\n|---|---|---|---|");
    for (contender, own) in contenders.iter().zip(&times) {
        let base = times.get(contender.base).context("a base is a contender")?;
        let ratios = own.iter().zip(base).map(|(own, base)| own / base).collect();
        println!(
            "| {} | {:.0} | {} | {:.3} |",
            contender.name,
            median(own.clone()),
            contenders[contender.base].name,
            median(ratios)
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
