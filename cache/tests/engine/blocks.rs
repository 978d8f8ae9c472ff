//! Ranges far into objects that are not stored whole.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use http::HeaderValue;
use stoq_cache::{
    engine::CacheRequest,
    http::cache_status::CacheStatus,
    metrics::ServedFrom,
    upstream::{BodyError, FetchBody, FetchRequest, FetchResponse, UpstreamError},
};

use super::invalidation::change;
use super::kept::Kept;
use super::script::{House, Script, body, house, pieces, response, stream_of, until};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 256 << 10;

/// The bytes of version `version` of a body, from `start` to `end`, made of where they stand.
fn content(version: u64, start: u64, end: u64) -> Bytes {
    (start..end)
        .map(|at| {
            let mixed = (at ^ (version << 56)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed.to_be_bytes()[0]
        })
        .collect()
}

/// A server of one large object, of which each byte can be had by itself.
struct Large {
    total: u64,
    version: AtomicU64,
    strong: bool,
    sent: AtomicU64,
    confirmed: AtomicUsize,
}

impl Large {
    fn new(total: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            version: AtomicU64::new(1),
            strong: true,
            sent: AtomicU64::new(0),
            confirmed: AtomicUsize::new(0),
        })
    }

    fn answer(&self, request: &FetchRequest) -> FetchResponse {
        let version = self.version.load(Ordering::Relaxed);
        let tag = format!("{}\"v{version}\"", if self.strong { "" } else { "W/" });
        let field = |name: &str| {
            let value = request.headers.get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let mut answer = response(200, &[("cache-control", "max-age=60")], FetchBody::Empty);
        let etag = HeaderValue::try_from(tag.clone()).unwrap();
        answer.headers.insert("etag", etag);
        if field("if-none-match").is_some_and(|asked| asked == tag) {
            self.confirmed.fetch_add(1, Ordering::Relaxed);
            answer.status = http::StatusCode::NOT_MODIFIED;
            return answer;
        }
        let range = field("range").filter(|_| field("if-range").is_none_or(|asked| asked == tag));
        let Some(range) = range else {
            // 50 GiB are sent by nobody in a test.
            let broke = BodyError::Upstream("too large".to_owned());
            let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"x")), Err(broke)]);
            answer.body = FetchBody::Stream(Box::pin(broken));
            return answer;
        };
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let first: u64 = first.parse().unwrap();
        let end = last.parse().map_or(self.total, |last: u64| last + 1);
        let end = end.min(self.total);
        self.sent.fetch_add(end - first, Ordering::Relaxed);
        answer.status = http::StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {first}-{}/{}", end - 1, self.total);
        let value = HeaderValue::try_from(value).unwrap();
        answer.headers.insert("content-range", value);
        answer.body = pieces(&content(version, first, end), 60_000);
        answer
    }

    fn script(self: &Arc<Self>) -> Arc<Script> {
        let large = Arc::clone(self);
        Script::new(move |request, _| std::future::ready(Ok(large.answer(&request))))
    }

    fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }
}

fn range(house: &House, start: u64, end: u64) -> CacheRequest {
    let mut request = house.get("/", &[]);
    let value = format!("bytes={start}-{}", end - 1);
    request
        .headers
        .insert("range", HeaderValue::try_from(value).unwrap());
    request
}

/// What a range is answered with: the outcome, and whether its bytes are those of `version`.
async fn ask(
    house: &House,
    upstream: &Arc<Script>,
    version: u64,
    (start, end): (u64, u64),
) -> CacheStatus {
    let reply = house
        .serve(range(house, start, end), upstream)
        .await
        .unwrap();
    assert_eq!(reply.status().as_u16(), 206);
    let said = reply.to_headers()["content-range"].clone();
    assert!(
        said.to_str()
            .unwrap()
            .starts_with(&format!("bytes {start}-{}/", end - 1))
    );
    let outcome = reply.outcome;
    assert!(body(reply).await.unwrap() == content(version, start, end));
    outcome
}

#[tokio::test]
async fn a_mebibyte_out_of_fifty_gibibytes_moves_no_more_than_two_blocks_more() {
    let (house, large) = (house(), Large::new(50 * GIB));
    let upstream = large.script();
    let start = 40 * GIB + 12_345;
    let wanted = (start, start + MIB);
    assert_eq!(
        ask(&house, &upstream, 1, wanted).await,
        CacheStatus::Partial
    );
    let sent = large.sent();
    assert!((MIB..=MIB + 2 * BLOCK).contains(&sent), "{sent}");
    // Again, and within, and across what is here and what is not.
    assert_eq!(ask(&house, &upstream, 1, wanted).await, CacheStatus::Hit);
    assert_eq!(
        ask(&house, &upstream, 1, (start + 77, start + 300_000)).await,
        CacheStatus::Hit
    );
    assert_eq!(large.sent(), 0);
    let outcome = ask(&house, &upstream, 1, (start + MIB / 2, start + 2 * MIB)).await;
    assert_eq!(outcome, CacheStatus::Partial);
    assert!(large.sent() <= MIB, "only what was missing");
    // The end of it, now that its length is known, and past it.
    let mut suffix = house.get("/", &[("range", "bytes=-1000")]);
    let reply = house.serve(suffix.clone(), &upstream).await.unwrap();
    assert!(body(reply).await.unwrap() == content(1, 50 * GIB - 1000, 50 * GIB));
    suffix.headers.insert(
        "range",
        HeaderValue::from_static("bytes=99999999999-99999999999"),
    );
    let reply = house.serve(suffix, &upstream).await.unwrap();
    assert_eq!(reply.status().as_u16(), 416);
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_move_each_block_once() {
    let (house, large) = (house(), Large::new(50 * GIB));
    let upstream = large.script();
    let start = 10 * GIB;
    let asking =
        (0..100).map(|n| ask(&house, &upstream, 1, (start + n * 10, start + MIB - n * 10)));
    let _ = join_all(asking).await;
    assert_eq!(large.sent(), MIB);
}

#[tokio::test]
async fn a_stale_object_is_confirmed_once_for_all_its_blocks() {
    let (house, large) = (house(), Large::new(GIB));
    let upstream = large.script();
    let start = GIB / 2;
    for n in 0..4 {
        let at = start + n * 10 * MIB;
        let _ = ask(&house, &upstream, 1, (at, at + MIB)).await;
    }
    house.pass_seconds(61);
    large.sent();
    for n in 0..4 {
        let at = start + n * 10 * MIB;
        let _ = ask(&house, &upstream, 1, (at, at + MIB)).await;
    }
    assert_eq!(large.sent(), 0);
    assert_eq!(large.confirmed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn versions_are_never_mixed() {
    let (house, large) = (house(), Large::new(GIB));
    let upstream = large.script();
    let start = GIB / 2;
    let _ = ask(&house, &upstream, 1, (start, start + MIB)).await;
    // A new version while a reader is under way: it is broken off.
    let wanted = range(&house, start, start + 16 * MIB);
    let mut stream = stream_of(house.serve(wanted, &upstream).await.unwrap());
    let first = stream.next().await.unwrap().unwrap();
    assert!(content(1, start, start + MIB).starts_with(&first));
    large.version.store(2, Ordering::Relaxed);
    let mut at = start + first.len() as u64;
    let mut broken = false;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => {
                let end = at + piece.len() as u64;
                assert!(piece == content(1, at, end));
                at = end;
            }
            Err(error) => {
                assert!(matches!(error, BodyError::Gone { .. }), "{error}");
                broken = true;
            }
        }
    }
    assert!(broken && at < start + 16 * MIB);
    // Fresh still, so a range over what is here is the old one's; one that needs more finds the new one.
    let _ = ask(&house, &upstream, 1, (start, start + MIB)).await;
    let far = start + 100 * MIB;
    let _ = ask(&house, &upstream, 2, (far, far + MIB)).await;
    let _ = ask(&house, &upstream, 2, (start, start + MIB)).await;
}

#[tokio::test]
async fn a_stale_object_that_changed_is_learnt_anew() {
    let (house, large) = (house(), Large::new(GIB));
    let upstream = large.script();
    let start = GIB / 2;
    let _ = ask(&house, &upstream, 1, (start, start + MIB)).await;
    large.version.store(2, Ordering::Relaxed);
    house.pass_seconds(61);
    let _ = ask(&house, &upstream, 2, (start, start + MIB)).await;
}

#[tokio::test]
async fn blocks_that_were_evicted_are_fetched_again() {
    let (house, large) = (house(), Large::new(GIB));
    let upstream = large.script();
    let wanted = (GIB / 2, GIB / 2 + 4 * MIB);
    let _ = ask(&house, &upstream, 1, wanted).await;
    let mut nth = 0;
    house.tier.forget(|| {
        nth += 1;
        nth % 3 == 0
    });
    large.sent();
    assert_eq!(
        ask(&house, &upstream, 1, wanted).await,
        CacheStatus::Partial
    );
    assert_eq!(large.sent(), 5 * BLOCK);
}

#[tokio::test]
async fn without_a_strong_validator_ranges_go_straight_on_and_that_is_remembered() {
    let house = house();
    let large = Arc::new(Large {
        strong: false,
        ..Arc::into_inner(Large::new(GIB)).unwrap()
    });
    let upstream = large.script();
    let wanted = (GIB / 2 + 5, GIB / 2 + 105);
    assert_eq!(
        ask(&house, &upstream, 1, wanted).await,
        CacheStatus::Partial
    );
    assert_eq!(upstream.fetches(), 2, "a look, and the range itself");
    assert_eq!(
        ask(&house, &upstream, 1, wanted).await,
        CacheStatus::Partial
    );
    assert_eq!(upstream.fetches(), 3);
    assert_eq!(house.cache.store().ram().len(), 0);
}

#[tokio::test]
async fn an_origin_that_is_gone_leaves_what_is_here() {
    let (house, large) = (house(), Large::new(GIB));
    let answers = Arc::clone(&large);
    let gone = Arc::new(AtomicUsize::new(0));
    let is_gone = Arc::clone(&gone);
    let upstream = Script::new(move |request, _| {
        std::future::ready(if is_gone.load(Ordering::Relaxed) == 0 {
            Ok(answers.answer(&request))
        } else {
            Err(UpstreamError::Unreachable("refused".to_owned()))
        })
    });
    let wanted = (GIB / 2, GIB / 2 + MIB);
    let _ = ask(&house, &upstream, 1, wanted).await;
    gone.store(1, Ordering::Relaxed);
    house.pass_seconds(61);
    assert_eq!(
        ask(&house, &upstream, 1, wanted).await,
        CacheStatus::StaleUnreachable
    );
    let far = range(&house, GIB / 4, GIB / 4 + MIB);
    assert!(house.serve(far, &upstream).await.is_err());
}

#[tokio::test]
async fn an_unsafe_request_leaves_blocks_to_be_confirmed_or_replaced() {
    let (house, large) = (house(), Large::new(GIB));
    let upstream = large.script();
    let wanted = (GIB / 2, GIB / 2 + MIB);
    let _ = ask(&house, &upstream, 1, wanted).await;
    assert_eq!(ask(&house, &upstream, 1, wanted).await, CacheStatus::Hit);
    let reply = change(&house, "PATCH", "/", 204, &[]).await;
    assert_eq!(reply.outcome, CacheStatus::Invalidated);
    large.sent();
    let outcome = ask(&house, &upstream, 1, wanted).await;
    assert_eq!(outcome, CacheStatus::Partial, "asked before it is used");
    assert_eq!(
        (large.confirmed.load(Ordering::Relaxed), large.sent()),
        (1, 0),
        "and it had not changed"
    );
    change(&house, "PATCH", "/", 204, &[]).await;
    large.version.store(2, Ordering::Relaxed);
    let _ = ask(&house, &upstream, 2, wanted).await;
}

#[tokio::test]
async fn blocks_fall_with_their_group() {
    let (house, large) = (house(), Large::new(GIB));
    let grouped = Arc::clone(&large);
    let upstream = Script::new(move |request, _| {
        let mut answer = grouped.answer(&request);
        answer
            .headers
            .insert("cache-groups", HeaderValue::from_static("\"g\""));
        std::future::ready(Ok(answer))
    });
    let wanted = (GIB / 2, GIB / 2 + MIB);
    let _ = ask(&house, &upstream, 1, wanted).await;
    let names = &[("cache-group-invalidation", "\"g\"")];
    change(&house, "POST", "/x", 200, names).await;
    large.version.store(2, Ordering::Relaxed);
    assert_eq!(
        ask(&house, &upstream, 2, wanted).await,
        CacheStatus::Partial
    );
    assert_eq!(ask(&house, &upstream, 2, wanted).await, CacheStatus::Hit);
}

#[tokio::test]
async fn a_look_that_began_before_an_unsafe_request_is_not_what_blocks_are_served_by_after_it() {
    let (house, large) = (house(), Large::new(GIB));
    let (open, gate) = tokio::sync::watch::channel(false);
    let held = Arc::clone(&large);
    let upstream = Script::new(move |request, n| {
        let (answer, mut gate) = (held.answer(&request), gate.clone());
        async move {
            if n == 0 {
                drop(gate.wait_for(|open| *open).await);
            }
            Ok(answer)
        }
    });
    let wanted = (GIB / 2, GIB / 2 + BLOCK);
    let early = ask(&house, &upstream, 1, wanted);
    let late = async {
        until("the look is on its way", || upstream.fetches() == 1).await;
        change(&house, "PUT", "/", 200, &[]).await;
        large.version.store(2, Ordering::Relaxed);
        let outcome = ask(&house, &upstream, 2, wanted).await;
        open.send_replace(true);
        outcome
    };
    let outcomes = futures_util::future::join(early, late).await;
    assert_eq!(outcomes, (CacheStatus::Partial, CacheStatus::Partial));
    assert_eq!(ask(&house, &upstream, 2, wanted).await, CacheStatus::Hit);
}

#[tokio::test]
async fn blocks_come_back_after_the_process_without_asking() {
    let (kept, large) = (Kept::new(), Large::new(50 * GIB));
    let upstream = large.script();
    // In one record of names, at its edge, and in others.
    let wanted = [
        (40 * GIB + 12_345, 40 * GIB + MIB),
        (40 * GIB + 16 * MIB - 100, 40 * GIB + 16 * MIB + 100),
        (20 * GIB, 20 * GIB + 3 * MIB),
    ];
    let house = kept.start();
    for range in wanted {
        let _ = ask(&house, &upstream, 1, range).await;
    }
    let house = kept.restart(house);
    large.sent();
    let fetches = upstream.fetches();
    for range in wanted {
        assert_eq!(ask(&house, &upstream, 1, range).await, CacheStatus::Hit);
    }
    assert_eq!((large.sent(), upstream.fetches()), (0, fetches));
    let disk = house.cache.metrics().served_bytes(ServedFrom::Disk).get();
    assert!(disk > 3 * MIB, "{disk}");
    // What is fetched now joins what was there before.
    let more = (20 * GIB + 3 * MIB, 20 * GIB + 4 * MIB);
    assert_eq!(ask(&house, &upstream, 1, more).await, CacheStatus::Partial);
    let house = kept.restart(house);
    let all = (20 * GIB, 20 * GIB + 4 * MIB);
    assert_eq!(ask(&house, &upstream, 1, all).await, CacheStatus::Hit);
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn blocks_that_were_invalidated_are_confirmed_after_the_process_or_of_the_new_version() {
    for in_memory in [true, false] {
        for loses in [true, false] {
            for changes in [true, false] {
                let (kept, large) = (Kept::new(), Large::new(GIB));
                let upstream = large.script();
                let wanted = (GIB / 2, GIB / 2 + MIB);
                let mut house = kept.start();
                let _ = ask(&house, &upstream, 1, wanted).await;
                let disk = house.cache.store().disk().unwrap();
                disk.flush().await.unwrap();
                if !in_memory {
                    house = kept.restart(house);
                }
                large
                    .version
                    .fetch_add(u64::from(changes), Ordering::Relaxed);
                let reply = change(&house, "POST", "/", 204, &[]).await;
                assert_eq!(reply.outcome, CacheStatus::Invalidated);
                if loses {
                    kept.tier.lose_all_but(|_| 0);
                }
                let house = kept.restart(house);
                let version = 1 + u64::from(changes);
                let found = ask(&house, &upstream, version, wanted).await;
                assert_eq!(found, CacheStatus::Partial, "{in_memory} {loses} {changes}");
            }
        }
    }
}
