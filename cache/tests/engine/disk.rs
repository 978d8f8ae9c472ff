//! What a tier on disk adds: what was stored comes back after the process, what was invalidated does not, and nothing waits for it that
//! need not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use rand::{Rng, SeedableRng, rngs::StdRng};
use stoq_cache::{
    http::cache_status::CacheStatus,
    metrics::ServedFrom,
    store::disk::{Kind, Refused},
    upstream::{FetchBody, Upstream},
};

use crate::{
    invalidation::{change, changing},
    kept::Kept,
    script::{House, Script, body, cache_status, noise, pieces, response},
};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=600"), ("etag", "\"v1\"")];

async fn outcome(
    house: &House,
    path: &'static str,
    upstream: &Arc<Script>,
) -> (CacheStatus, Bytes) {
    let reply = house.serve(house.get(path, &[]), upstream).await.unwrap();
    let outcome = reply.outcome;
    (outcome, body(reply).await.unwrap())
}

#[tokio::test]
async fn what_is_stored_comes_back_after_the_process_without_asking() {
    for length in [0, 100, 200_000, 5_000_000] {
        let (kept, bytes) = (Kept::new(), noise(1, length));
        let upstream = Script::fixed(FRESH, bytes.clone());
        let house = kept.start();
        house.fetch("/a", &upstream).await;
        let house = kept.restart(house);
        house.pass_seconds(7);
        let reply = house.serve(house.get("/a", &[]), &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::Hit, "{length}");
        assert_eq!(reply.to_headers()["age"], "7");
        assert_eq!(reply.to_headers()["etag"], "\"v1\"");
        if length > 0 {
            assert_eq!(cache_status(&reply), "edge; hit; ttl=593; detail=disk");
        }
        assert_eq!(body(reply).await.unwrap(), bytes);
        assert_eq!(upstream.fetches(), 1);
        let from_disk = house.cache.metrics().served_bytes(ServedFrom::Disk).get();
        assert_eq!(from_disk, bytes.len() as u64);
        house.assert_bytes_add_up();
        // Now it is in memory too, for the path that may not wait.
        let again = house.try_hit(&house.get("/a", &[]));
        assert_eq!(again.is_some(), length <= 1 << 20, "{length}");
    }
}

#[tokio::test]
async fn variants_come_back_each_for_its_requests() {
    let kept = Kept::new();
    let upstream = Script::new(|request, _| {
        let language = request.headers.get("accept-language").cloned();
        let language = language.unwrap_or(HeaderValue::from_static("none"));
        let body = Bytes::copy_from_slice(language.as_bytes());
        let mut answer = response(200, FRESH, pieces(&body, 10));
        let vary = HeaderValue::from_static("accept-language");
        answer.headers.insert("vary", vary);
        answer.headers.insert(
            "etag",
            HeaderValue::try_from(format!("\"{}\"", body.len())).unwrap(),
        );
        std::future::ready(Ok(answer))
    });
    let house = kept.start();
    let languages = ["de", "en-GB, fr"];
    for language in languages {
        let request = house.get("/a", &[("accept-language", language)]);
        body(house.serve(request, &upstream).await.unwrap())
            .await
            .unwrap();
    }
    let house = kept.restart(house);
    for language in languages {
        let request = house.get("/a", &[("accept-language", language)]);
        let reply = house.serve(request, &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::Hit);
        assert_eq!(body(reply).await.unwrap(), language);
    }
    let request = house.get("/a", &[("accept-language", "it")]);
    let reply = house.serve(request, &upstream).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::VaryMiss);
    assert_eq!(upstream.fetches(), 3);
}

#[tokio::test]
async fn memory_that_is_too_small_for_heads_costs_reads_and_no_fetches() {
    let mut kept = Kept::new();
    kept.heads_bytes = 1;
    let house = kept.start();
    let upstream = Script::fixed(FRESH, noise(1, 50_000));
    for _ in 0..5 {
        let (_, got) = outcome(&house, "/a", &upstream).await;
        assert_eq!(got, noise(1, 50_000));
    }
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn what_is_invalidated_is_validated_after_the_process() {
    for in_memory in [true, false] {
        for loses in [true, false] {
            let kept = Kept::new();
            let upstream = Script::fixed(FRESH, noise(1, 100_000));
            let mut house = kept.start();
            house.fetch("/a", &upstream).await;
            house.fetch("/b", &upstream).await;
            kept.tier.lose_all_but(|all| all);
            let flushed = house.cache.store().disk().unwrap().flush();
            flushed.await.unwrap();
            if !in_memory {
                house = kept.restart(house);
            }
            // Where the disk has no capacity to be looked at, what is there is invalid all the same.
            let is_throttled = !in_memory && loses;
            kept.tier
                .is_throttled
                .store(is_throttled, Ordering::Relaxed);
            let reply = change(&house, "POST", "/a", 204, &[]).await;
            assert_eq!(reply.outcome == CacheStatus::Invalidated, !is_throttled);
            kept.tier.is_throttled.store(false, Ordering::Relaxed);
            if loses {
                // Nothing of it reached the disk: the mark alone did.
                kept.tier.lose_all_but(|_| 0);
            }
            let house = kept.restart(house);
            let (found, got) = outcome(&house, "/a", &upstream).await;
            assert_ne!(found, CacheStatus::Hit, "{in_memory} {loses}");
            assert_eq!(got, noise(1, 100_000));
            let (other, _) = outcome(&house, "/b", &upstream).await;
            assert_eq!(other, CacheStatus::Hit, "{in_memory} {loses}");
        }
    }
}

#[tokio::test]
async fn a_group_that_is_invalidated_stays_so_after_the_process() {
    const GROUPED: Fields = &[
        ("cache-control", "max-age=600"),
        ("etag", "\"v1\""),
        ("cache-groups", "\"news\""),
    ];
    const INVALIDATES: Fields = &[("cache-group-invalidation", "\"news\"")];
    let kept = Kept::new();
    let (grouped, alone) = (
        Script::fixed(GROUPED, noise(1, 100)),
        Script::fixed(FRESH, noise(2, 100)),
    );
    let house = kept.start();
    house.fetch("/a", &grouped).await;
    house.fetch("/b", &alone).await;
    // Memory has nothing of them.
    let house = kept.restart(house);
    change(&house, "POST", "/c", 204, INVALIDATES).await;
    house.fetch("/d", &grouped).await;
    let house = kept.restart(house);
    let (found, _) = outcome(&house, "/a", &grouped).await;
    assert_eq!(found, CacheStatus::Revalidated);
    for (path, upstream) in [("/b", &alone), ("/d", &grouped)] {
        let (found, _) = outcome(&house, path, upstream).await;
        assert_eq!(found, CacheStatus::Hit, "{path}");
    }
}

#[tokio::test]
async fn without_the_marks_of_before_everything_is_validated_once() {
    let kept = Kept::new();
    let upstream = Script::fixed(FRESH, noise(1, 100));
    let house = kept.start();
    house.fetch("/a", &upstream).await;
    kept.kill(house);
    std::fs::remove_file(kept.directory.path().join("marks")).unwrap();
    let house = kept.start();
    let (found, _) = outcome(&house, "/a", &upstream).await;
    assert_eq!(found, CacheStatus::Revalidated);
    let house = kept.restart(house);
    let (found, _) = outcome(&house, "/a", &upstream).await;
    assert_eq!(found, CacheStatus::Hit);
}

#[tokio::test]
async fn a_version_the_disk_refuses_is_not_replaced_by_the_one_before() {
    for why in [Refused::Busy, Refused::Budget, Refused::Off] {
        let kept = Kept::new();
        let house = kept.start();
        house
            .fetch(
                "/a",
                &Script::fixed(&[("cache-control", "max-age=10")], noise(1, 100)),
            )
            .await;
        house.pass_seconds(11);
        kept.tier.refuse(Some(why));
        house
            .fetch("/a", &Script::fixed(FRESH, noise(2, 100)))
            .await;
        assert_eq!(kept.tier.count(Kind::Head), 0, "{why:?}");
        kept.tier.refuse(None);
        let house = kept.restart(house);
        let upstream = Script::fixed(FRESH, noise(3, 100));
        assert_eq!(
            outcome(&house, "/a", &upstream).await,
            (CacheStatus::Miss, noise(3, 100))
        );
    }
}

#[tokio::test]
async fn what_the_disk_damages_is_fetched_again_and_never_served() {
    for kind in [Kind::Head, Kind::Chunk, Kind::Page] {
        for is_lost in [true, false] {
            let (kept, bytes) = (Kept::new(), noise(1, 6_000_000));
            let upstream = Script::fixed(FRESH, bytes.clone());
            let house = kept.start();
            house.fetch("/a", &upstream).await;
            assert!(kept.tier.count(kind) > 0, "{kind:?}");
            let house = kept.restart(house);
            if is_lost {
                kept.tier.lose(kind);
            } else {
                kept.tier.damage(kind);
            }
            let (_, got) = outcome(&house, "/a", &upstream).await;
            assert_eq!(got, bytes, "{kind:?}");
            assert!(upstream.fetches() > 1);
            house.assert_bytes_add_up();
        }
    }
}

#[tokio::test]
async fn a_disk_without_capacity_costs_a_fetch_and_no_wait() {
    let (kept, bytes) = (Kept::new(), noise(1, 300_000));
    let upstream = Script::fixed(FRESH, bytes.clone());
    let house = kept.start();
    house.fetch("/a", &upstream).await;
    let house = kept.restart(house);
    kept.tier.is_throttled.store(true, Ordering::Relaxed);
    assert_eq!(
        outcome(&house, "/a", &upstream).await,
        (CacheStatus::Miss, bytes.clone())
    );
    kept.tier.is_throttled.store(false, Ordering::Relaxed);
    let house = kept.restart(house);
    assert_eq!(
        outcome(&house, "/a", &upstream).await,
        (CacheStatus::Hit, bytes)
    );
}

#[tokio::test]
async fn a_body_is_read_from_disk_a_mebibyte_at_a_time() {
    let (kept, bytes) = (Kept::new(), noise(1, 8 << 20));
    let upstream = Script::fixed(FRESH, bytes.clone());
    let house = kept.start();
    house.fetch("/a", &upstream).await;
    let house = kept.restart(house);
    assert_eq!(outcome(&house, "/a", &upstream).await.1, bytes);
    let runs = kept.tier.runs.load(Ordering::Relaxed);
    // As a chunk more than fits begins the next run, each is somewhat shorter.
    assert!((8..=11).contains(&runs), "{runs} reads");
}

#[tokio::test]
async fn an_object_too_large_for_memory_is_stored_on_disk_alone() {
    let mut kept = Kept::new();
    kept.ram_bytes = 1 << 20;
    let bytes = noise(1, 5 << 20);
    for is_declared in [true, false] {
        let body = bytes.clone();
        let upstream = Script::new(move |_, _| {
            let mut answer = response(200, FRESH, pieces(&body, 30_000));
            if is_declared {
                let length = HeaderValue::from(body.len());
                answer.headers.insert("content-length", length);
            }
            std::future::ready(Ok(answer))
        });
        let house = kept.start();
        let path = if is_declared { "/declared" } else { "/grows" };
        house.fetch(path, &upstream).await;
        if is_declared {
            assert_eq!(house.tier.0.lock().len(), 0);
        }
        let house = kept.restart(house);
        let before = kept.tier.count(Kind::Chunk);
        assert_eq!(
            outcome(&house, path, &upstream).await,
            (CacheStatus::Hit, bytes.clone())
        );
        assert_eq!(
            house.tier.0.lock().len(),
            0,
            "reading it takes no memory either"
        );
        assert_eq!(kept.tier.count(Kind::Chunk), before);
        assert_eq!(upstream.fetches(), 1);
    }
}

#[tokio::test]
async fn a_disk_that_is_off_leaves_every_request_answered() {
    let mut kept = Kept::new();
    kept.ram_bytes = 1 << 20;
    kept.tier.refuse(Some(Refused::Off));
    let (small, large) = (noise(1, 50_000), noise(2, 3 << 20));
    let (of_small, of_large) = (
        Script::fixed(FRESH, small.clone()),
        Script::fixed(FRESH, large.clone()),
    );
    let house = kept.start();
    for _ in 0..2 {
        assert_eq!(outcome(&house, "/small", &of_small).await.1, small);
        assert_eq!(outcome(&house, "/large", &of_large).await.1, large);
    }
    assert_eq!((of_small.fetches(), of_large.fetches()), (1, 2));
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn many_who_ask_for_what_is_on_disk_cost_one_read() {
    let kept = Kept::new();
    let upstream = Script::fixed(FRESH, noise(1, 100));
    let house = kept.start();
    house.fetch("/a", &upstream).await;
    let house = kept.restart(house);
    let asked = (0..50).map(|_| outcome(&house, "/a", &upstream));
    for (found, got) in futures_util::future::join_all(asked).await {
        assert_eq!((found, got), (CacheStatus::Hit, noise(1, 100)));
    }
    assert_eq!(kept.tier.reads.load(Ordering::Relaxed), 1, "of the head");
    assert_eq!(kept.tier.runs.load(Ordering::Relaxed), 1, "of the chunk");
}

/// Objects whose every change is announced by an unsafe request, processes that end at any moment, and disks that lose what was not
/// flushed: no answer is from before a change that was announced. The seed is printed, and set by `STOQ_SEED`.
#[tokio::test]
async fn no_answer_is_from_before_an_invalidation_that_was_answered() {
    const PATHS: [&str; 3] = ["/a", "/b", "/c"];
    let seeds = match std::env::var("STOQ_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..60).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut kept = Kept::new();
        if random.random() {
            kept.heads_bytes = 2_000;
        }
        let versions: Arc<[AtomicU64; 3]> = Arc::default();
        let truth = Arc::clone(&versions);
        let upstream = Script::new(move |request, _| {
            let path = request.path_and_query.as_str();
            let place = PATHS.iter().position(|known| *known == path).unwrap();
            let version = truth[place].load(Ordering::Relaxed);
            let tag = HeaderValue::try_from(format!("\"{version}\"")).unwrap();
            let asked = request.headers.get("if-none-match");
            let mut answer = if asked == Some(&tag) {
                response(304, FRESH, FetchBody::Empty)
            } else {
                response(200, FRESH, pieces(&noise(version, 30_000), 9_000))
            };
            answer.headers.insert("etag", tag);
            if place < 2 {
                let groups = HeaderValue::from_static("\"both\"");
                answer.headers.insert("cache-groups", groups);
            }
            std::future::ready(Ok(answer))
        });
        let mut house = kept.start();
        let mut hits = 0;
        for step in 0..60 {
            let place = random.random_range(0..PATHS.len());
            match random.random_range(0..10) {
                0..6 => {
                    let (found, got) = outcome(&house, PATHS[place], &upstream).await;
                    let version = versions[place].load(Ordering::Relaxed);
                    assert!(
                        got == noise(version, 30_000),
                        "seed {seed}, step {step}: {found:?}"
                    );
                    hits += usize::from(found == CacheStatus::Hit);
                }
                6 | 7 => {
                    versions[place].fetch_add(1, Ordering::Relaxed);
                    change(&house, "PUT", PATHS[place], 204, &[]).await;
                }
                8 => {
                    for version in &versions[..2] {
                        version.fetch_add(1, Ordering::Relaxed);
                    }
                    let named = &[("cache-group-invalidation", "\"both\"")];
                    change(&house, "POST", "/other", 200, named).await;
                }
                _ => {
                    if random.random() {
                        house.cache.store().disk().unwrap().flush().await.unwrap();
                    }
                    kept.tier.lose_all_but(|all| random.random_range(0..=all));
                    house = kept.restart(house);
                }
            }
        }
        assert!(hits > 0, "seed {seed}: it is a cache");
        kept.kill(house);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fill_waits_for_a_busy_disk_but_not_for_one_that_stays_busy() {
    let (kept, bytes) = (Kept::new(), noise(1, 2_000_000));
    let upstream = Script::fixed(FRESH, bytes.clone());
    let house = kept.start();
    kept.tier.make_room(Some(3));
    let asked = tokio::time::Instant::now();
    let filling = outcome(&house, "/a", &upstream);
    let slow = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        kept.tier.make_room(None);
    };
    let ((_, got), ()) = tokio::join!(filling, slow);
    assert_eq!(got, bytes);
    let all = house.tier.0.lock().len();
    assert!(all > 10);
    assert_eq!(
        kept.tier.count(Kind::Chunk),
        all,
        "it waited, and lost none"
    );
    assert!(asked.elapsed() >= Duration::from_millis(900));

    kept.tier.make_room(Some(3));
    let asked = tokio::time::Instant::now();
    let other = noise(2, 2_000_000);
    let upstream = Script::fixed(FRESH, other.clone());
    assert_eq!(outcome(&house, "/b", &upstream).await.1, other);
    assert!(
        asked.elapsed() <= Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(kept.tier.count(Kind::Chunk), all + 3);
    assert!(
        house
            .try_hit(&house.get("/b", &[("range", "bytes=0-9")]))
            .is_some(),
        "memory has it"
    );
}

#[tokio::test]
async fn a_variant_joins_those_that_are_on_disk_alone() {
    const VARIES: Fields = &[("cache-control", "max-age=600"), ("vary", "accept")];
    let kept = Kept::new();
    let upstream = Script::fixed(VARIES, noise(1, 100));
    let house = kept.start();
    let of = |house: &House, accept| house.get("/a", &[("accept", accept)]);
    house.serve(of(&house, "a"), &upstream).await.unwrap();
    let house = kept.restart(house);
    house.serve(of(&house, "b"), &upstream).await.unwrap();
    let house = kept.restart(house);
    for accept in ["a", "b"] {
        let reply = house.serve(of(&house, accept), &upstream).await.unwrap();
        assert_eq!(reply.outcome, CacheStatus::Hit, "{accept}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_invalidation_with_it() {
    let kept = Kept::new();
    let upstream = Script::fixed(FRESH, noise(1, 100));
    let house = kept.start();
    house.fetch("/a", &upstream).await;
    let house = kept.restart(house);
    let answers = Script::new(|_, _| std::future::ready(Ok(response(204, &[], FetchBody::Empty))));
    let request = changing(&house.get("/a", &[]), "POST");
    let asked = Arc::clone(&answers) as Arc<dyn Upstream>;
    let passed = house
        .cache
        .pass(&house.site, request, asked, CacheStatus::Method);
    let mut passed = Box::pin(passed);
    // Polled until its answer is here, and no more.
    while answers.fetches() == 0 {
        let _ = futures_util::poll!(passed.as_mut());
        tokio::task::yield_now().await;
    }
    drop(passed);
    let (found, _) = outcome(&house, "/a", &upstream).await;
    assert_eq!(found, CacheStatus::Revalidated);
}
