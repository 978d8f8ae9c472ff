//! Bodies on their way: whole or visibly broken, in bounded memory, at every reader's own pace.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proptest::prelude::*;
use stoq_cache::{
    engine::Failure,
    http::{cache_status::CacheStatus, policy::SitePolicy},
    upstream::{BodyError, FetchBody, UpstreamError},
};

use crate::script::{
    Script, Watched, body, cache_status, fed, house, house_with, noise, pieces, response, settle,
    stream_of, until, whole_or_part,
};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];
const NO_VALIDATOR: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test]
async fn truncated_body_is_never_complete() {
    for (fields, error) in [
        (
            &[("cache-control", "max-age=60"), ("content-length", "100")][..],
            None,
        ),
        (
            &[("cache-control", "max-age=60"), ("content-length", "5")][..],
            None,
        ),
        (NO_VALIDATOR, Some(BodyError::Upstream("reset".to_owned()))),
    ] {
        let house = house();
        let fields: &'static [(&str, &str)] = Box::leak(fields.to_vec().into_boxed_slice());
        let upstream = Script::new(move |_, n| {
            let mut pieces = vec![Ok(Bytes::from_static(b"1234567"))];
            pieces.extend(error.clone().map(Err));
            let broken = response(
                200,
                fields,
                FetchBody::Stream(Box::pin(stream::iter(pieces))),
            );
            let whole = response(200, NO_VALIDATOR, FetchBody::Empty);
            std::future::ready(Ok(if n == 0 { broken } else { whole }))
        });
        let leader = house.serve(house.get("/", &[]), &upstream).await.unwrap();
        assert!(body(leader).await.is_err());
        assert!(
            house.try_hit(&house.get("/", &[])).is_none(),
            "nothing was committed"
        );
        assert_eq!(house.cache.metrics().fills_aborted.get(), 1);
        assert_eq!(
            house.fetch("/", &upstream).await,
            (200, Bytes::new()),
            "the next request works"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slow_reader_holds_no_memory() {
    let house = house();
    let watched = Watched::default();
    let content = noise(2, 12 << 20);
    let upstream = {
        let (watched, content) = (watched.clone(), content.clone());
        Script::new(move |_, _| {
            let (watched, content) = (watched.clone(), content.clone());
            let pieces = stream::iter((0..content.len()).step_by(50_000)).map(move |at| {
                Ok(watched.piece(content.slice(at..content.len().min(at + 50_000))))
            });
            std::future::ready(Ok(response(
                200,
                FRESH,
                FetchBody::Stream(Box::pin(pieces)),
            )))
        })
    };
    let mut slow = stream_of(house.serve(house.get("/", &[]), &upstream).await.unwrap());
    let mut got = slow.next().await.unwrap().unwrap().to_vec();
    let fast = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(body(fast).await.unwrap(), content);
    // No real time passes: the clock is a test's.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        watched.bytes_alive(),
        0,
        "received bytes kept alive for a reader that does not read"
    );
    while let Some(piece) = slow.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert!(got == content);
    assert_eq!(upstream.fetches(), 1);
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn a_reader_within_the_window_needs_no_store() {
    let house = house();
    let content = noise(12, 6 << 20);
    let upstream = Script::fixed(FRESH, content.clone());
    let mut reader = stream_of(house.serve(house.get("/", &[]), &upstream).await.unwrap());
    until("the upstream is done", || {
        house.cache.metrics().fills_sealed.get() == 1
    })
    .await;
    // A store under pressure forgets what it was given a moment ago.
    house.tier.forget(|| true);
    let mut got = Vec::new();
    while let Some(piece) = reader.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert!(got == content);
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn the_fastest_reader_paces_the_upstream() {
    // A window of 64 KiB.
    let house = house_with(64 << 20, 64 << 10, SitePolicy::default());
    let watched = Watched::default();
    let upstream = {
        let watched = watched.clone();
        Script::new(move |_, _| {
            let watched = watched.clone();
            let pieces = stream::iter(0..1_000).map(move |i| Ok(watched.piece(noise(i, 10_000))));
            std::future::ready(Ok(response(
                200,
                FRESH,
                FetchBody::Stream(Box::pin(pieces)),
            )))
        })
    };
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    settle().await;
    let received = house.cache.metrics().fetched_bytes.get();
    assert!(
        (64 << 10..(64 << 10) + 20_000).contains(&received),
        "{received}"
    );
    // With nobody left to wait for, the admitted object completes by itself.
    drop(reply);
    until("sealed", || house.cache.metrics().fills_sealed.get() == 1).await;
    assert_eq!(watched.bytes_alive(), 0);
    assert!(matches!(house.fetch("/", &upstream).await, (200, whole) if whole.len() == 10_000_000));
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn an_object_larger_than_is_admitted_streams_in_flat_memory_and_is_not_stored() {
    let house = house_with(4 << 20, 1 << 20, SitePolicy::default());
    let watched = Watched::default();
    const PIECES: u64 = 2_000;
    for declared in [true, false] {
        let upstream = {
            let watched = watched.clone();
            Script::new(move |_, _| {
                let watched = watched.clone();
                let pieces =
                    stream::iter(0..PIECES).map(move |i| Ok(watched.piece(noise(i, 16_384))));
                let mut response = response(200, FRESH, FetchBody::Stream(Box::pin(pieces)));
                if declared {
                    response
                        .headers
                        .insert("content-length", (PIECES * 16_384).into());
                }
                std::future::ready(Ok(response))
            })
        };
        let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
        assert_eq!(
            cache_status(&reply).contains("stored=?0"),
            declared,
            "{}",
            cache_status(&reply)
        );
        let mut hasher = blake3::Hasher::new();
        let mut most = 0;
        let mut stream = stream_of(reply);
        while let Some(piece) = stream.next().await {
            hasher.update(&piece.unwrap());
            most = most.max(watched.bytes_alive());
        }
        let mut expected = blake3::Hasher::new();
        (0..PIECES).for_each(|i| {
            expected.update(&noise(i, 16_384));
        });
        assert_eq!(hasher.finalize(), expected.finalize());
        assert!(most <= (1 << 20) + 65_536, "{most} bytes alive");
        assert!(house.try_hit(&house.get("/", &[])).is_none());
        let used = house.cache.store().ram().bytes_used();
        assert!(used <= (1 << 20) + 65_536, "{used} bytes stored");
    }
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn a_body_nobody_reads_and_nobody_stores_is_given_up() {
    let house = house_with(1 << 20, 1 << 20, SitePolicy::default());
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |_, _| {
        let large = &[
            ("cache-control", "max-age=60"),
            ("content-length", "9000000"),
        ];
        std::future::ready(Ok(response(
            200,
            large,
            once.lock().take().expect("one fetch"),
        )))
    });
    let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    settle().await;
    assert!(!feed.is_closed());
    drop(reply);
    feed.closed().await;
    assert_eq!(house.cache.metrics().fills_aborted.get(), 1);
}

#[tokio::test]
async fn evicted_chunk_is_refilled_under_the_strong_validator() {
    let house = house();
    let content = noise(3, 2_000_000);
    let upstream = Script::fixed(FRESH, content.clone());
    assert_eq!(house.fetch("/", &upstream).await, (200, content.clone()));
    let mut n = 0;
    house.tier.forget(|| {
        n += 1;
        n % 3 == 0
    });
    assert_eq!(house.fetch("/", &upstream).await, (200, content.clone()));
    assert!(upstream.fetches() > 1);
    for fetch in 1..upstream.fetches() {
        assert_eq!(upstream.field(fetch, "if-range").as_deref(), Some("\"v1\""));
        assert!(upstream.field(fetch, "range").is_some());
    }
    let metrics = house.cache.metrics();
    assert!(metrics.holes_refilled.get() > 0);
    let fetches = upstream.fetches();
    assert_eq!(
        house.fetch("/", &upstream).await,
        (200, content),
        "holes stay filled"
    );
    assert_eq!(upstream.fetches(), fetches);
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn many_readers_at_a_hole_make_one_refill() {
    let house = house();
    let content = noise(4, 900_000);
    let upstream = Script::fixed(FRESH, content.clone());
    house.fetch("/", &upstream).await;
    house.tier.forget(|| true);
    let replies =
        futures_util::future::join_all((0..50).map(|_| house.fetch("/", &upstream))).await;
    assert!(replies.iter().all(|(_, body)| *body == content));
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn a_hole_that_cannot_be_refilled_is_a_miss_before_the_first_byte() {
    for fields in [NO_VALIDATOR, FRESH] {
        let house = house();
        let (old, new) = (noise(5, 500_000), noise(6, 400_000));
        let upstream = {
            let (old, new) = (old.clone(), new.clone());
            Script::new(move |request, n| {
                // Under the same tag other bytes would not verify; here the tag changes where there is one.
                let changed = [("cache-control", "max-age=60"), ("etag", "\"v2\"")];
                let answer = match (n, fields.len()) {
                    (0, _) => whole_or_part(&request, fields, &old),
                    (_, 1) => whole_or_part(&request, fields, &new),
                    _ => whole_or_part(&request, &changed, &new),
                };
                std::future::ready(Ok(answer))
            })
        };
        assert_eq!(house.fetch("/", &upstream).await, (200, old));
        house.tier.forget(|| true);
        assert_eq!(house.fetch("/", &upstream).await, (200, new), "{fields:?}");
    }
}

#[tokio::test]
async fn a_hole_met_while_the_upstream_is_away_is_refilled_when_it_is_back() {
    let house = house();
    let content = noise(11, 500_000);
    let upstream = {
        let content = content.clone();
        Script::new(move |request, n| {
            let away = Err(UpstreamError::Unreachable("refused".to_owned()));
            std::future::ready(if (1..=2).contains(&n) {
                away
            } else {
                Ok(whole_or_part(&request, FRESH, &content))
            })
        })
    };
    house.fetch("/", &upstream).await;
    house.tier.forget(|| true);
    // The refill, then the whole: both in vain.
    let failed = house.serve(house.get("/", &[]), &upstream).await;
    assert!(matches!(
        failed,
        Err(Failure::Upstream(UpstreamError::Unreachable(_)))
    ));
    assert_eq!(house.fetch("/", &upstream).await, (200, content));
    assert_eq!(
        upstream.field(3, "if-range").as_deref(),
        Some("\"v1\""),
        "it was not forgotten"
    );
}

#[tokio::test]
async fn a_hole_met_midway_that_cannot_be_refilled_resets_its_reader() {
    let house = house();
    let content = noise(7, 3_000_000);
    let upstream = {
        let content = content.clone();
        Script::new(move |request, n| {
            let changed = [("cache-control", "max-age=60"), ("etag", "\"v2\"")];
            std::future::ready(Ok(whole_or_part(
                &request,
                if n == 0 { FRESH } else { &changed },
                &content,
            )))
        })
    };
    house.fetch("/", &upstream).await;
    let mut reader = stream_of(house.serve(house.get("/", &[]), &upstream).await.unwrap());
    reader.next().await.unwrap().unwrap();
    house.tier.forget(|| true);
    let rest: Vec<_> = reader.collect().await;
    assert!(matches!(rest.last(), Some(Err(BodyError::Gone { .. }))));
    assert_eq!(
        house.fetch("/", &upstream).await,
        (200, content),
        "the next request fetches it whole"
    );
}

#[tokio::test]
async fn ranges_are_served_from_a_filling_object_ahead_and_behind() {
    let house = house();
    let content = noise(8, 1_000_000);
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |_, _| {
        let mut response = response(200, FRESH, once.lock().take().expect("one fetch"));
        response.headers.insert("content-length", 1_000_000.into());
        std::future::ready(Ok(response))
    });
    let whole = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    let ahead = house
        .serve(
            house.get("/", &[("range", "bytes=700000-700009")]),
            &upstream,
        )
        .await
        .unwrap();
    assert_eq!(
        (ahead.status().as_u16(), ahead.outcome),
        (206, CacheStatus::Collapsed)
    );
    assert_eq!(
        ahead.to_headers()["content-range"],
        "bytes 700000-700009/1000000"
    );
    assert_eq!(ahead.to_headers()["content-length"], "10");
    let feeding = async {
        for piece in content.chunks(40_000) {
            feed.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        feed
    };
    let (feed, ahead, whole_head) = tokio::join!(feeding, body(ahead), async {
        let mut whole = stream_of(whole);
        let mut got = Vec::new();
        while got.len() < 900_000 {
            got.extend_from_slice(&whole.next().await.unwrap().unwrap());
        }
        (got, whole)
    });
    assert_eq!(ahead.unwrap(), content[700_000..700_010]);
    let behind = house
        .serve(house.get("/", &[("range", "bytes=5-99999")]), &upstream)
        .await
        .unwrap();
    assert_eq!(body(behind).await.unwrap(), content[5..100_000]);
    let none = house
        .serve(house.get("/", &[("range", "bytes=1000000-")]), &upstream)
        .await
        .unwrap();
    assert_eq!(none.status().as_u16(), 416);
    drop((feed, whole_head));
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn a_range_far_ahead_does_not_wait_for_what_is_before_it() {
    let house = house();
    let content = noise(9, 10 << 20);
    let upstream = Script::fixed(FRESH, content.clone());
    let request = house.get("/", &[("range", "bytes=9000000-9000099")]);
    let far = house.serve(request, &upstream).await.unwrap();
    assert_eq!(
        (far.status().as_u16(), far.outcome),
        (206, CacheStatus::Partial)
    );
    assert_eq!(body(far).await.unwrap(), content[9_000_000..9_000_100]);
    assert_eq!(house.cache.store().ram().len(), 1, "one block");
    house.assert_bytes_add_up();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However a body is split, however fast its readers read, and whatever is evicted meanwhile: each reader gets the body.
    #[test]
    fn every_reader_gets_the_body(
        seed in any::<u64>(),
        length in 0_usize..900_000,
        piece in 1_usize..60_000,
        speeds in proptest::collection::vec((0_usize..6, any::<bool>()), 1..6),
        evict_one_in in 2_usize..12,
        fill_bytes in (64_usize << 10)..(512 << 10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let house = house_with(64 << 20, fill_bytes, SitePolicy::default());
            let content = noise(seed, length);
            let upstream = {
                let content = content.clone();
                Script::new(move |request, n| {
                    let mut answer = whole_or_part(&request, FRESH, &content);
                    if n == 0 {
                        answer.body = pieces(&content, piece.max(length / 500 + 1));
                    }
                    std::future::ready(Ok(answer))
                })
            };
            let readers = speeds.iter().map(|(slowness, late)| {
                let (house, upstream, content) = (&house, &upstream, &content);
                async move {
                    if *late {
                        for _ in 0..50 {
                            tokio::task::yield_now().await;
                        }
                    }
                    let reply = house.serve(house.get("/", &[]), upstream).await.unwrap();
                    let whole = match reply.body {
                        stoq_cache::reply::ReplyBody::Stream(mut stream) => {
                            let mut whole = Vec::new();
                            let mut n = 0_usize;
                            while let Some(piece) = stream.next().await {
                                whole.extend_from_slice(&piece.unwrap());
                                n += 1;
                                if n.is_multiple_of(evict_one_in) {
                                    let mut k = 0;
                                    house.tier.forget(|| { k += 1; k % evict_one_in == 0 });
                                }
                                for _ in 0..*slowness {
                                    tokio::task::yield_now().await;
                                }
                            }
                            Bytes::from(whole)
                        }
                        _ => body(reply).await.unwrap(),
                    };
                    assert!(whole == *content, "{} of {} bytes", whole.len(), content.len());
                }
            });
            futures_util::future::join_all(readers).await;
            house.assert_bytes_add_up();
        });
    }
}

#[tokio::test]
async fn readers_on_other_threads_get_the_body_too() {
    let house = Arc::new(house());
    let content = noise(10, 3_000_000);
    let upstream = {
        let content = content.clone();
        Script::new(move |_, _| {
            let pieces: Vec<_> = content
                .chunks(9_000)
                .map(|piece| Ok(content.slice_ref(piece)))
                .collect();
            let pieces = stream::iter(pieces).then(|piece| async {
                tokio::task::yield_now().await;
                piece
            });
            std::future::ready(Ok(response(
                200,
                FRESH,
                FetchBody::Stream(Box::pin(pieces)),
            )))
        })
    };
    // The leader's runtime must live as long as the fill it runs.
    let first = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (house, upstream) = (Arc::clone(&house), Arc::clone(&upstream));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                runtime.block_on(async { house.fetch("/", &upstream).await })
            })
        })
        .collect();
    assert_eq!(body(first).await.unwrap(), content);
    for thread in threads {
        assert!(thread.join().unwrap() == (200, content.clone()));
    }
    assert_eq!(upstream.fetches(), 1);
}
