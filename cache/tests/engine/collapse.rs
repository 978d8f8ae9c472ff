//! Many requests, one fetch; and when not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use stoq_cache::{
    engine::Failure,
    http::{cache_status::CacheStatus, policy::SitePolicy},
    upstream::{FetchBody, UpstreamError},
};
use tokio::sync::{Notify, Semaphore};

use crate::script::{
    Script, body, cache_status, fed, house, house_with, noise, pieces, response, settle, stream_of,
    until,
};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];

#[tokio::test]
async fn thousand_cold_requests_make_one_fetch() {
    let house = house();
    let content = noise(1, 300_000);
    let gate = Arc::new(Semaphore::new(0));
    let upstream = {
        let (gate, content) = (Arc::clone(&gate), content.clone());
        Script::new(move |_, _| {
            let (gate, content) = (Arc::clone(&gate), content.clone());
            async move {
                let _turn = gate.acquire().await.unwrap();
                Ok(response(200, FRESH, pieces(&content, 7_000)))
            }
        })
    };
    let requests = join_all((0..1_000).map(|_| house.fetch("/", &upstream)));
    let opened = async {
        settle().await;
        gate.add_permits(1);
    };
    let (replies, ()) = tokio::join!(requests, opened);
    assert!(
        replies
            .iter()
            .all(|(status, bytes)| *status == 200 && *bytes == content)
    );
    assert_eq!(upstream.fetches(), 1);
    let metrics = house.cache.metrics();
    assert_eq!(metrics.requests(CacheStatus::Miss).get(), 1);
    assert_eq!(metrics.requests(CacheStatus::Collapsed).get(), 999);
    assert_eq!(metrics.fetched_bytes.get(), content.len() as u64);
    house.assert_bytes_add_up();
}

#[tokio::test]
async fn follower_streams_while_leader_fills() {
    let house = house();
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |_, _| {
        let arriving = once.lock().take().expect("one fetch");
        std::future::ready(Ok(response(200, FRESH, arriving)))
    });
    let leader = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    let mut leader = stream_of(leader);
    feed.send(Ok(Bytes::from_static(b"first "))).await.unwrap();
    assert_eq!(leader.next().await.unwrap().unwrap(), "first ");

    let follower = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    assert_eq!(follower.outcome, CacheStatus::Collapsed);
    assert!(
        cache_status(&follower).starts_with("edge; fwd=miss; collapsed; stored"),
        "{}",
        cache_status(&follower)
    );
    let mut follower = stream_of(follower);
    assert_eq!(follower.next().await.unwrap().unwrap(), "first ");
    feed.send(Ok(Bytes::from_static(b"second"))).await.unwrap();
    assert_eq!(follower.next().await.unwrap().unwrap(), "second");
    drop(feed);
    assert!(follower.next().await.is_none() && leader.next().await.unwrap().unwrap() == "second");
    assert!(leader.next().await.is_none());
}

#[tokio::test]
async fn leaders_client_leaving_does_not_stop_followers() {
    let house = house();
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let upstream = Script::new(move |_, _| {
        let arriving = once.lock().take().expect("one fetch");
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            Ok(response(200, FRESH, arriving))
        }
    });
    // Before the head: the leader's future is dropped.
    let mut leader = Box::pin(house.serve(house.get("/", &[]), &upstream));
    assert!(futures_util::poll!(&mut leader).is_pending());
    until("the fetch began", || upstream.fetches() == 1).await;
    let follower = house.serve(house.get("/", &[]), &upstream);
    let mut follower = Box::pin(follower);
    assert!(futures_util::poll!(&mut follower).is_pending());
    drop(leader);
    gate.notify_one();
    let mut first = stream_of(follower.await.unwrap());
    // After the head: a reader leaves too.
    let second = house.serve(house.get("/", &[]), &upstream).await.unwrap();
    feed.send(Ok(Bytes::from_static(b"whole"))).await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "whole");
    drop(first);
    drop(feed);
    assert_eq!(body(second).await.unwrap(), "whole");
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn uncacheable_response_releases_waiters_at_once() {
    let house = house();
    let gate = Arc::new(Semaphore::new(0));
    let at_once = Arc::new(AtomicUsize::new(0));
    let upstream = {
        let (gate, at_once) = (Arc::clone(&gate), Arc::clone(&at_once));
        Script::new(move |_, n| {
            let (gate, at_once) = (Arc::clone(&gate), Arc::clone(&at_once));
            async move {
                at_once.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                let own = Bytes::from(format!("for {n}"));
                Ok(response(
                    200,
                    &[("cache-control", "private")],
                    pieces(&own, 100),
                ))
            }
        })
    };
    let requests = join_all((0..50).map(|_| house.fetch("/", &upstream)));
    let script = async {
        settle().await;
        assert_eq!(at_once.load(Ordering::Relaxed), 1, "all wait for one");
        gate.add_permits(1);
        until("all go in parallel", || {
            at_once.load(Ordering::Relaxed) == 50
        })
        .await;
        gate.add_permits(49);
    };
    let (replies, ()) = tokio::join!(requests, script);
    let mut bodies: Vec<_> = replies.into_iter().map(|(_, body)| body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 50, "each got its own");
    assert_eq!(house.cache.metrics().hit_for_miss_marked.get(), 50);
    house.assert_bytes_add_up();

    // Remembered: the next ones do not queue behind one another.
    let next = join_all((0..10).map(|_| house.fetch("/", &upstream)));
    let script = async {
        until("none waits for another", || {
            at_once.load(Ordering::Relaxed) == 60
        })
        .await;
        gate.add_permits(10);
    };
    tokio::join!(next, script);
    // And forgotten in time.
    house.pass_seconds(61);
    let two = join_all((0..2).map(|_| house.fetch("/", &upstream)));
    let script = async {
        settle().await;
        assert_eq!(at_once.load(Ordering::Relaxed), 61);
        gate.add_permits(2);
    };
    tokio::join!(two, script);
}

/// What a client can make an origin say about its own request says nothing about the URL: neither those who wait with it nor those who come
/// after go to the origin one by one for it.
#[tokio::test]
async fn a_refusal_that_is_one_clients_own_leaves_the_crowd_together() {
    const PLAIN: &[(&str, &str)] = &[];
    for (fields, refusal) in [
        (&[("x-odd", "1")][..], (400, PLAIN)),
        (&[("x-odd", "1")], (431, &[("cache-control", "no-store")])),
        (
            &[("x-odd", "1"), ("authorization", "Basic eA==")],
            (200, FRESH),
        ),
        (&[("x-odd", "1"), ("cookie", "session=1")], (200, PLAIN)),
    ] {
        let house = house();
        let gate = Arc::new(Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let upstream = Script::new(move |request, _| {
            let gate = Arc::clone(&opened);
            async move {
                gate.acquire().await.unwrap().forget();
                let content = pieces(&noise(1, 5_000), 1_000);
                Ok(if request.headers.contains_key("x-odd") {
                    response(refusal.0, refusal.1, content)
                } else {
                    response(200, FRESH, content)
                })
            }
        });
        let odd = house.serve(house.get("/", fields), &upstream);
        let mut odd = Box::pin(odd);
        assert!(futures_util::poll!(&mut odd).is_pending());
        until("it leads", || upstream.fetches() == 1).await;
        let crowd = join_all((0..50).map(|_| house.fetch("/", &upstream)));
        let script = async {
            settle().await;
            assert_eq!(upstream.fetches(), 1, "all wait for one");
            gate.add_permits(1);
            until("another leads", || upstream.fetches() == 2).await;
            settle().await;
            assert_eq!(upstream.fetches(), 2, "and all wait for that");
            gate.add_permits(1);
        };
        let (odd, crowd, ()) = tokio::join!(odd, crowd, script);
        assert_eq!(odd.unwrap().status().as_u16(), refusal.0);
        assert!(crowd.iter().all(|(status, _)| *status == 200));
        assert_eq!(upstream.fetches(), 2, "{fields:?}");

        // After it, at another URL: the crowd finds no mark either.
        gate.add_permits(1);
        let mut odd = house.get("/later", fields);
        odd.method = http::Method::GET;
        house.serve(odd, &upstream).await.unwrap();
        let crowd = join_all((0..50).map(|_| house.fetch("/later", &upstream)));
        let script = async {
            settle().await;
            gate.add_permits(1);
        };
        tokio::join!(crowd, script);
        assert_eq!(upstream.fetches(), 4, "{fields:?}");
    }
}

/// Those who are refused for what they all carry do not queue for it.
#[tokio::test]
async fn a_refusal_for_credentials_releases_all_who_have_some() {
    let house = house();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = Script::new(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(response(200, FRESH, pieces(&noise(1, 100), 100)))
        }
    });
    let get = || house.get("/", &[("authorization", "Basic eA==")]);
    let burst = join_all((0..20).map(|_| house.serve(get(), &upstream)));
    let script = async {
        settle().await;
        assert_eq!(upstream.fetches(), 1);
        gate.add_permits(1);
        until("all go in parallel", || upstream.fetches() == 20).await;
        gate.add_permits(19);
    };
    tokio::join!(burst, script);
    let next = join_all((0..20).map(|_| house.serve(get(), &upstream)));
    let script = async {
        until("remembered", || upstream.fetches() == 40).await;
        gate.add_permits(20);
    };
    tokio::join!(next, script);
}

/// A URL at which everybody is refused makes no queue: one leader, another, and then all at once.
#[tokio::test]
async fn a_url_that_refuses_everybody_makes_no_queue() {
    let house = house();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = Script::new(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(response(400, &[], FetchBody::Empty))
        }
    });
    let burst = join_all((0..50).map(|_| house.fetch("/", &upstream)));
    let script = async {
        for fetches in [1, 2] {
            settle().await;
            assert_eq!(upstream.fetches(), fetches);
            gate.add_permits(1);
        }
        until("all go in parallel", || upstream.fetches() == 50).await;
        gate.add_permits(48);
    };
    let (replies, ()) = tokio::join!(burst, script);
    assert!(replies.iter().all(|(status, _)| *status == 400));
}

#[tokio::test]
async fn followers_share_the_leaders_failure_and_the_next_request_tries_again() {
    let house = house();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = Script::new(move |_, n| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            if n == 0 {
                return Err(UpstreamError::Unreachable("refused".to_owned()));
            }
            Ok(response(200, FRESH, pieces(&Bytes::from_static(b"ok"), 10)))
        }
    });
    let requests = join_all((0..20).map(|_| house.serve(house.get("/", &[]), &upstream)));
    let script = async {
        settle().await;
        gate.add_permits(1);
    };
    let (replies, ()) = tokio::join!(requests, script);
    for reply in replies {
        assert!(matches!(
            reply,
            Err(Failure::Upstream(UpstreamError::Unreachable(_)))
        ));
    }
    assert_eq!(upstream.fetches(), 1);
    gate.add_permits(1);
    assert_eq!(
        house.fetch("/", &upstream).await,
        (200, Bytes::from_static(b"ok"))
    );
}

#[tokio::test]
async fn follower_takes_over_when_the_leader_panics() {
    let house = house();
    let upstream = Script::new(|_, n| async move {
        tokio::task::yield_now().await;
        assert_ne!(n, 0, "the first fetch panics, as scripted");
        Ok(response(200, FRESH, pieces(&Bytes::from_static(b"ok"), 10)))
    });
    let replies = join_all((0..5).map(|_| house.fetch("/", &upstream))).await;
    assert!(
        replies
            .iter()
            .all(|(status, body)| *status == 200 && body == "ok")
    );
    assert_eq!(upstream.fetches(), 2);
    assert_eq!(house.cache.metrics().leaders_lost.get(), 1);
}

#[tokio::test]
async fn followers_of_another_variant_share_a_fetch_of_their_own() {
    let house = house();
    let upstream = Script::new(|request, _| async move {
        tokio::task::yield_now().await;
        let language = request
            .headers
            .get("accept-language")
            .map_or(Bytes::new(), |v| Bytes::copy_from_slice(v.as_bytes()));
        Ok(response(
            200,
            &[("cache-control", "max-age=60"), ("vary", "accept-language")],
            pieces(&language, 10),
        ))
    });
    let ask = |language: &'static str| {
        let request = house.get("/", &[("accept-language", language)]);
        let (house, upstream) = (&house, &upstream);
        async move {
            let reply = house.serve(request, upstream).await.unwrap();
            assert_eq!(body(reply).await.unwrap(), language);
        }
    };
    join_all((0..30).map(|i| ask(["de", "en", "fr"][i % 3]))).await;
    assert_eq!(upstream.fetches(), 3);
    join_all((0..30).map(|i| ask(["de", "en", "fr"][i % 3]))).await;
    assert_eq!(upstream.fetches(), 3);
}

#[tokio::test]
async fn beyond_the_bound_of_open_fills_bodies_stream_past() {
    // Room for one fill of 64 KiB.
    let house = house_with(64 << 20, 64 << 10, SitePolicy::default());
    let (feed, arriving) = fed(1);
    let held = parking_lot::Mutex::new(Some(arriving));
    let upstream = Script::new(move |request, _| {
        let body = match request.path_and_query.path() {
            "/slow" => held.lock().take().expect("one fetch"),
            _ => pieces(&Bytes::from_static(b"past"), 10),
        };
        std::future::ready(Ok(response(200, FRESH, body)))
    });
    let slow = house
        .serve(house.get("/slow", &[]), &upstream)
        .await
        .unwrap();
    let past = house
        .serve(house.get("/past", &[]), &upstream)
        .await
        .unwrap();
    assert_eq!(
        (past.outcome, body(past).await.unwrap()),
        (CacheStatus::Bypass, Bytes::from_static(b"past"))
    );
    assert_eq!(house.cache.metrics().fills_refused.get(), 1);
    drop(feed);
    assert_eq!(body(slow).await.unwrap(), "");
    house.fetch("/past", &upstream).await;
    assert!(
        house.try_hit(&house.get("/past", &[])).is_some(),
        "there is room again"
    );
}

#[tokio::test]
async fn shutdown_awaits_fills_and_abort_breaks_them() {
    for abort in [false, true] {
        let house = house();
        let (feed, arriving) = fed(1);
        let once = parking_lot::Mutex::new(Some(arriving));
        let upstream = Script::new(move |_, _| {
            let arriving = once.lock().take().unwrap_or(FetchBody::Empty);
            std::future::ready(Ok(response(200, FRESH, arriving)))
        });
        let reply = house.serve(house.get("/", &[]), &upstream).await.unwrap();
        let cache = house.cache.clone();
        let mut shutdown = Box::pin(async move { cache.shutdown().await });
        assert!(futures_util::poll!(&mut shutdown).is_pending());
        let refused = house.serve(house.get("/other", &[]), &upstream).await;
        assert!(matches!(refused, Err(Failure::Shutdown)));
        if abort {
            house.cache.abort();
            shutdown.await;
            assert!(body(reply).await.is_err());
            assert_eq!(house.cache.metrics().fills_aborted.get(), 1);
        } else {
            feed.send(Ok(Bytes::from_static(b"late"))).await.unwrap();
            drop(feed);
            shutdown.await;
            assert_eq!(body(reply).await.unwrap(), "late");
        }
        assert_eq!(house.cache.metrics().fills_open.get(), 0);
    }
}
