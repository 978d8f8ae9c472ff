//! Origins that die, change, stall or go away; clients that leave or dawdle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use integration::{Answer, Cluster, Gate, Origin, Payload, Version, body, until};

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];
const SIZE: usize = 1 << 20;

#[tokio::test]
async fn an_origin_that_dies_at_60_percent_never_looks_whole_and_the_next_request_works() {
    for shielded in [false, true] {
        for version in ALL {
            let whole = body::random(7, SIZE);
            let origin = Origin::start({
                let whole = whole.clone();
                move |seen| {
                    let whole = whole.clone();
                    async move {
                        let answer = Answer::status(200).fresh(60).header("etag", "\"v\"");
                        if seen.nth == 0 {
                            answer.truncated(whole, SIZE * 6 / 10)
                        } else {
                            answer.body(whole)
                        }
                    }
                }
            })
            .await;
            let cluster = Cluster::new().origin(&origin);
            let cluster = if shielded { cluster.shield() } else { cluster }
                .start()
                .await;
            let client = cluster.edge().client(version).await;
            let broken = client
                .get("/a")
                .await
                .expect("the head was sent before the end was known")
                .whole()
                .await;
            let error = broken.expect_err("a body cut off at the origin is no body");
            println!("{version:?}, shield {shielded}: {error}");
            let client = cluster.edge().client(version).await;
            let next = client.get("/a").await.unwrap().whole().await.unwrap();
            assert_eq!(
                (next.length, next.hash),
                (SIZE as u64, blake3::hash(&whole)),
                "{version:?}"
            );
            assert_eq!(
                origin.requests("/a"),
                2,
                "nothing of the broken one was stored"
            );
        }
    }
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_off_is_broken_too() {
    for version in ALL {
        let gate = Gate::default();
        let origin = Origin::start({
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move {
                    let pieces = stream::unfold(0, move |step| {
                        let gate = gate.clone();
                        async move {
                            if step == 1 {
                                gate.passed().await;
                                return Some((Err(std::io::Error::other("scripted")), 2));
                            }
                            (step == 0).then(|| (Ok(body::random(1, 10_000)), 1))
                        }
                    });
                    Answer::status(200).fresh(60).stream(None, pieces)
                }
            }
        })
        .await;
        let cluster = Cluster::new().origin(&origin).start().await;
        let client = cluster.edge().client(version).await;
        let mut answer = client.get("/a").await.unwrap();
        assert!(answer.body.chunk().await.unwrap().is_some(), "{version:?}");
        gate.open();
        assert!(answer.whole().await.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn an_object_that_changes_between_requests_is_never_mixed() {
    let (old, new) = (body::random(1, 4 << 20), body::random(2, 4 << 20));
    let origin = Origin::start({
        let (old, new) = (old.clone(), new.clone());
        move |seen| {
            let (old, new) = (old.clone(), new.clone());
            async move {
                let (body, tag) = if seen.nth == 0 {
                    (old, "\"old\"")
                } else {
                    (new, "\"new\"")
                };
                Answer::status(200)
                    .header("etag", tag)
                    .header("cache-control", "max-age=0, must-revalidate")
                    .body(body)
            }
        }
    })
    .await;
    let cluster = Cluster::new()
        .origin(&origin)
        .shield()
        .edges(2)
        .start()
        .await;
    let hashes = [blake3::hash(&old), blake3::hash(&new)];
    for _ in 0..2 {
        for edge in &cluster.edges {
            let client = edge.client(Version::Http3).await;
            let got = client.get("/a").await.unwrap();
            let tag = got.header("etag").unwrap().to_owned();
            let got = got.whole().await.unwrap();
            assert_eq!(
                got.hash,
                hashes[usize::from(tag == "\"new\"")],
                "the body is that of its entity tag"
            );
        }
    }
}

/// Objects that are stored and fresh, but with chunks evicted, so that readers come upon holes in the middle; and an
/// origin that has another version by then. A hole can only be filled from the version it belongs to.
#[tokio::test]
async fn a_validator_that_flips_midway_breaks_a_body_off_and_never_mixes_versions() {
    const OBJECTS: u64 = 24;
    const SIZE: usize = 900 * 1024;
    let seed = body::seed();
    let second = Arc::new(AtomicBool::new(false));
    let origin = Origin::start({
        let second = Arc::clone(&second);
        move |seen| {
            let version = u64::from(second.load(Ordering::SeqCst));
            let nth: u64 = seen.uri.path().trim_start_matches('/').parse().unwrap_or(0);
            async move {
                Answer::ok(body::random(seed + nth + version * OBJECTS, SIZE))
                    .fresh(3600)
                    .header("etag", &format!("\"{version}\""))
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).ram("4MiB").start().await;
    let hash = |nth: u64| blake3::hash(&body::random(seed + nth, SIZE));
    let client = cluster.edge().client(Version::Http3).await;
    for nth in 0..OBJECTS {
        let got = client.get(&format!("/{nth}")).await.unwrap();
        assert_eq!(got.whole().await.unwrap().hash, hash(nth));
        // Its first bytes are asked for more often than the rest, and stay when that leaves.
        for _ in 0..3 {
            let start = Request::get(format!("/{nth}"))
                .header("range", "bytes=0-99")
                .body(Payload::empty())
                .unwrap();
            let got = client.send(start).await.unwrap();
            assert_eq!(got.status, 206);
            assert_eq!(got.bytes(100).await.unwrap().len(), 100);
        }
    }
    second.store(true, Ordering::SeqCst);

    let (mut first, mut new, mut broken) = (0, 0, 0);
    for nth in 0..OBJECTS {
        let client = cluster.edge().client(Version::Http3).await;
        // A reset may overtake the head.
        let got = match client.get(&format!("/{nth}")).await {
            Ok(answer) => answer.whole().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(got) if got.hash == hash(nth) => first += 1,
            Ok(got) if got.hash == hash(nth + OBJECTS) => new += 1,
            Ok(got) => panic!("/{nth}: {} bytes of no version", got.length),
            Err(_) => broken += 1,
        }
        let again = client.get(&format!("/{nth}")).await.unwrap();
        assert_eq!(again.status, 200, "the next request is answered");
    }
    println!(
        "{first} of the first version, {new} of the second, {broken} broken off (seed {seed})"
    );
    assert!(
        cluster.edge().metric("stoq_cache_holes_lost_total", &[]) > 0.0,
        "no reader came upon a hole: the scenario did not happen"
    );
    assert!(broken > 0, "every hole was met before the head was sent");
}

#[tokio::test]
async fn a_stored_object_outlives_its_origin_and_an_unknown_one_is_an_error_that_says_why() {
    let origin = Origin::start(|_| async {
        Answer::ok("kept")
            .header("cache-control", "max-age=0")
            .header("etag", "\"v\"")
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    assert_eq!(
        client.get("/a").await.unwrap().bytes(10).await.unwrap(),
        "kept"
    );
    drop(origin);
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let stale = client.get("/a").await.unwrap();
        println!("stale: {}", stale.header("cache-status").unwrap());
        assert_eq!(stale.status, 200, "{version:?}");
        assert_eq!(stale.bytes(10).await.unwrap(), "kept");
        let unknown = client.get("/b").await.unwrap();
        println!(
            "unknown: {} {}",
            unknown.status,
            unknown.header("cache-status").unwrap()
        );
        assert_eq!(unknown.status, 504, "{version:?}");
        assert!(
            unknown.header("cache-status").unwrap().contains("detail="),
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn an_origin_that_does_not_answer_is_a_504() {
    let origin = Origin::start(|_| std::future::pending::<Answer>()).await;
    let cluster = Cluster::new()
        .origin(&origin)
        .tables("[limits.timeouts]\norigin_first_byte = \"300ms\"")
        .start()
        .await;
    let client = cluster.edge().client(Version::Http2).await;
    assert_eq!(client.get("/a").await.unwrap().status, 504);
}

#[tokio::test]
async fn followers_stream_while_the_leader_fills_and_stay_when_it_leaves() {
    let gate = Gate::default();
    let whole = body::random(3, 2 * SIZE);
    let origin = Origin::start({
        let (gate, whole) = (gate.clone(), whole.clone());
        move |_| {
            let (gate, whole) = (gate.clone(), whole.clone());
            async move {
                let halves = stream::unfold(0, move |half| {
                    let (gate, whole) = (gate.clone(), whole.clone());
                    async move {
                        if half == 1 {
                            gate.passed().await;
                        }
                        (half < 2)
                            .then(|| (Ok(whole.slice(half * SIZE..(half + 1) * SIZE)), half + 1))
                    }
                });
                Answer::status(200)
                    .stream(Some(2 * SIZE as u64), halves)
                    .fresh(60)
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let leader = cluster.edge().client(Version::Http3).await;
    let mut leading = leader.get("/a").await.unwrap();
    assert!(leading.body.chunk().await.unwrap().is_some());
    let mut followers = Vec::new();
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let mut answer = client.get("/a").await.unwrap();
        let first = answer
            .body
            .chunk()
            .await
            .unwrap()
            .expect("first bytes while the origin holds the rest");
        followers.push((client, answer, first));
    }
    drop(leading);
    leader.close().await;
    gate.open();
    for (_client, mut answer, first) in followers {
        let mut hash = blake3::Hasher::new();
        hash.update(&first);
        while let Some(bytes) = answer.body.chunk().await.unwrap() {
            hash.update(&bytes);
        }
        assert_eq!(hash.finalize(), blake3::hash(&whole));
    }
    assert_eq!(origin.requests("/a"), 1);
}

#[tokio::test]
async fn a_client_that_leaves_an_uncacheable_download_ends_it_at_the_origin() {
    let origin = Origin::start(|_| async {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![0; 65_536])));
        Answer::status(200)
            .header("cache-control", "no-store")
            .stream(None, endless)
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let mut answer = client.get("/endless").await.unwrap();
        assert!(answer.body.chunk().await.unwrap().is_some());
        drop(answer);
        client.close().await;
        let mut last = origin.body_bytes();
        let mut quiet = 0;
        until("the origin sends no more", || {
            let now = origin.body_bytes();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            quiet > 40
        })
        .await;
    }
}
