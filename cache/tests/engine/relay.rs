//! One cache behind another: bodies as chunk events, believed only as far as they verify.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use stoq_cache::{
    content::{ChunkId, ManifestId},
    engine::{Cache, CacheSite},
    http::{cache_status::CacheStatus, policy::SitePolicy},
    key::CacheKey,
    metrics::ServedFrom,
    reply::ReplyBody,
    upstream::{
        BodyError, ChunkEvent, FetchBody, FetchRequest, FetchResponse, PieceStream, Source,
        Upstream, UpstreamError,
    },
};

use crate::script::{
    House, Script, body, cache_status, fed, house, house_with, noise, response, stream_of,
    whole_or_part,
};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"v1\"")];

/// A shield in this process: what goes over the wire is the events.
struct Shield {
    house: House,
    cache: Cache,
    site: Arc<CacheSite>,
    origin: Arc<Script>,
}

impl fmt::Debug for Shield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shield")
    }
}

impl Shield {
    /// Asked by one who has the chunks of this manifest, or gets them elsewhere.
    fn answer(
        &self,
        request: FetchRequest,
        held: Option<ManifestId>,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let request = stoq_cache::engine::CacheRequest {
            site: Arc::clone(&self.site),
            key: request.key,
            method: request.method,
            scheme: request.scheme,
            authority: request.authority,
            path_and_query: request.path_and_query,
            headers: request.headers,
        };
        async move {
            let relay = self
                .cache
                .relay(request, held, Arc::clone(&self.origin) as Arc<dyn Upstream>)
                .await
                .unwrap();
            let body = match (relay.events, relay.reply.body) {
                (Some(events), _) => FetchBody::Chunked(events),
                (None, ReplyBody::Stream(stream)) => FetchBody::Stream(stream),
                (None, ReplyBody::Empty) => FetchBody::Empty,
                (None, ReplyBody::Bytes(bytes)) => {
                    FetchBody::Stream(Box::pin(stream::iter([Ok(bytes)])))
                }
                (None, ReplyBody::Chunks(chunks)) => {
                    FetchBody::Stream(Box::pin(stream::iter(chunks.into_iter().map(Ok))))
                }
            };
            let reply = stoq_cache::reply::Reply {
                body: ReplyBody::Empty,
                ..relay.reply
            };
            let mut headers = reply.to_headers();
            let status = headers
                .remove("cache-status")
                .map(|value| value.to_str().unwrap().to_owned());
            Ok(FetchResponse {
                status: reply.status(),
                headers,
                body,
                via: Source::Shield,
                upstream_cache_status: status,
            })
        }
        .boxed()
    }
}

impl Upstream for Shield {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        let held = request.held.as_ref().map(|manifest| manifest.root());
        self.answer(request, held)
    }

    fn chunks(
        &self,
        _: Arc<str>,
        _: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        let found: Option<Vec<_>> = chunks
            .iter()
            .map(|(id, _)| Some(Ok((self.cache.store().get_ram(id)?, Source::Shield))))
            .collect();
        let found = found.ok_or(UpstreamError::Unsupported);
        async move { found.map(|chunks| Box::pin(stream::iter(chunks)) as PieceStream) }.boxed()
    }
}

fn shield(origin: &Arc<Script>) -> Arc<Shield> {
    let house = house();
    let (cache, site) = (house.cache.clone(), Arc::clone(&house.site));
    Arc::new(Shield {
        house,
        cache,
        site,
        origin: Arc::clone(origin),
    })
}

#[tokio::test]
async fn bytes_pass_two_caches_while_the_origin_still_sends() {
    let edge = house();
    let (feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let origin = Script::new(move |_, _| {
        std::future::ready(Ok(response(
            200,
            FRESH,
            once.lock().take().expect("one fetch"),
        )))
    });
    let shield = shield(&origin);
    let reply = edge
        .cache
        .serve(edge.get("/", &[]), shield.clone())
        .await
        .unwrap();
    assert!(
        cache_status(&reply)
            .starts_with("edge; fwd=uri-miss; fwd-status=200; stored; ttl=60, edge; fwd=uri-miss"),
        "{}",
        cache_status(&reply)
    );
    let mut stream = stream_of(reply);
    let content = noise(1, 300_000);
    let mut got = Vec::new();
    for piece in content.chunks(10_000) {
        feed.send(Ok(content.slice_ref(piece))).await.unwrap();
        while got.len() < piece.as_ptr() as usize - content.as_ptr() as usize + piece.len() {
            got.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
    }
    drop(feed);
    assert!(stream.next().await.is_none());
    assert!(got == content);
    for house in [&edge.cache, &shield.cache] {
        let reply = house
            .serve(edge.get("/", &[]), shield.clone())
            .await
            .unwrap();
        assert_eq!(
            (reply.outcome, body(reply).await.unwrap()),
            (CacheStatus::Hit, content.clone())
        );
    }
    assert_eq!(
        edge.cache
            .metrics()
            .served_bytes(ServedFrom::Upstream(Source::Shield))
            .get(),
        300_000
    );
    edge.assert_bytes_add_up();
}

#[tokio::test]
async fn a_stored_object_is_relayed_and_holes_are_refilled_by_name() {
    let origin = Script::fixed(&[("cache-control", "max-age=60")], noise(2, 2_000_000));
    let shield = shield(&origin);
    let edge = house();
    for _ in 0..3 {
        let reply = edge
            .cache
            .serve(edge.get("/", &[]), shield.clone())
            .await
            .unwrap();
        assert!(body(reply).await.unwrap() == noise(2, 2_000_000));
        let mut n = 0;
        edge.tier.forget(|| {
            n += 1;
            n % 2 == 0
        });
    }
    let other = house();
    let reply = other
        .cache
        .serve(other.get("/", &[]), shield.clone())
        .await
        .unwrap();
    assert!(body(reply).await.unwrap() == noise(2, 2_000_000));
    assert_eq!(origin.fetches(), 1);
    assert!(edge.cache.metrics().holes_refilled.get() > 0);
    edge.assert_bytes_add_up();
}

#[tokio::test]
async fn an_empty_body_and_a_tiny_one_pass_as_events() {
    for length in [0, 1, 511, 512, 513, 16 << 10] {
        let origin = Script::fixed(FRESH, noise(3, length));
        let (shield, edge) = (shield(&origin), house());
        for _ in 0..2 {
            let reply = edge
                .cache
                .serve(edge.get("/", &[]), shield.clone())
                .await
                .unwrap();
            assert!(body(reply).await.unwrap() == noise(3, length), "{length}");
        }
    }
}

/// A good body's events, to be spoiled.
async fn events(content: &Bytes) -> Vec<ChunkEvent> {
    let origin = Script::fixed(FRESH, content.clone());
    let shield = shield(&origin);
    let request = house().get("/", &[]);
    let relay = shield.cache.relay(request, None, origin).await.unwrap();
    relay.events.unwrap().map(Result::unwrap).collect().await
}

#[tokio::test]
async fn what_does_not_verify_resets_every_reader_and_stores_nothing() {
    let content = noise(4, 200_000);
    let good = events(&content).await;
    assert!(
        matches!(good[0], ChunkEvent::Profile(_))
            && matches!(good.last(), Some(ChunkEvent::Sealed { .. }))
    );
    let chunk = good
        .iter()
        .rposition(|event| matches!(event, ChunkEvent::Chunk { .. }))
        .unwrap();
    let bytes = good
        .iter()
        .position(|event| matches!(event, ChunkEvent::Bytes(_)))
        .unwrap();
    type Spoil = Box<dyn Fn(&mut Vec<ChunkEvent>)>;
    let spoils: Vec<(&str, Spoil)> = vec![
        (
            "other bytes",
            Box::new(move |events| {
                let ChunkEvent::Bytes(old) = &events[bytes] else {
                    panic!("bytes")
                };
                let mut new = old.to_vec();
                new[0] ^= 1;
                events[bytes] = ChunkEvent::Bytes(new.into());
            }),
        ),
        ("no commit record", Box::new(|events| drop(events.pop()))),
        (
            "a chunk left out",
            Box::new(move |events| drop(events.remove(chunk))),
        ),
        (
            "bytes left out",
            Box::new(move |events| drop(events.remove(bytes))),
        ),
        (
            "a chunk longer than its bytes",
            Box::new(move |events| {
                if let ChunkEvent::Chunk { len, .. } = &mut events[chunk] {
                    *len += 1;
                }
            }),
        ),
        ("no profile", Box::new(|events| drop(events.remove(0)))),
        (
            "another total",
            Box::new(|events| {
                if let Some(ChunkEvent::Sealed { total, .. }) = events.last_mut() {
                    *total += 1;
                }
            }),
        ),
        (
            "a held chunk nobody has",
            Box::new(|events| {
                events.insert(
                    1,
                    ChunkEvent::Held {
                        id: ChunkId::from_bytes([9; 32]),
                        len: 10,
                    },
                );
            }),
        ),
    ];
    for (what, spoil) in spoils {
        let mut spoiled = good.clone();
        spoil(&mut spoiled);
        let edge = house();
        let upstream = Script::new(move |_, _| {
            let events: Vec<Result<ChunkEvent, BodyError>> =
                spoiled.iter().cloned().map(Ok).collect();
            let body = FetchBody::Chunked(Box::pin(stream::iter(events)));
            let mut response = response(200, FRESH, body);
            response.via = Source::Shield;
            std::future::ready(Ok(response))
        });
        let (first, second) = tokio::join!(
            edge.serve(edge.get("/", &[]), &upstream),
            edge.serve(edge.get("/", &[]), &upstream)
        );
        for reply in [first, second] {
            assert!(body(reply.unwrap()).await.is_err(), "{what}");
        }
        assert!(edge.try_hit(&edge.get("/", &[])).is_none(), "{what}");
        // A follower that finds the fill broken before it read a byte of it asks once more.
        assert!(upstream.fetches() <= 2, "{what}");
    }
    // The same, unspoiled.
    let edge = house();
    let upstream = Script::new(move |_, _| {
        let events: Vec<Result<ChunkEvent, BodyError>> = good.iter().cloned().map(Ok).collect();
        std::future::ready(Ok(response(
            200,
            FRESH,
            FetchBody::Chunked(Box::pin(stream::iter(events))),
        )))
    });
    assert_eq!(edge.fetch("/", &upstream).await, (200, content));
    assert!(edge.try_hit(&edge.get("/", &[])).is_some());
}

#[tokio::test]
async fn held_chunks_are_read_from_the_store() {
    let content = noise(5, 100_000);
    let mut events = events(&content).await;
    let edge = house();
    let whole = events.clone();
    let upstream = Script::new(move |_, _| {
        let events: Vec<Result<ChunkEvent, BodyError>> = whole.iter().cloned().map(Ok).collect();
        std::future::ready(Ok(response(
            200,
            FRESH,
            FetchBody::Chunked(Box::pin(stream::iter(events))),
        )))
    });
    edge.fetch("/a", &upstream).await;
    // The same body again under another URL, with no bytes.
    events.retain(|event| !matches!(event, ChunkEvent::Bytes(_)));
    for event in &mut events {
        if let ChunkEvent::Chunk { id, len } = *event {
            *event = ChunkEvent::Held { id, len };
        }
    }
    let upstream = Script::new(move |_, _| {
        let events: Vec<Result<ChunkEvent, BodyError>> = events.iter().cloned().map(Ok).collect();
        std::future::ready(Ok(response(
            200,
            FRESH,
            FetchBody::Chunked(Box::pin(stream::iter(events))),
        )))
    });
    assert_eq!(edge.fetch("/b", &upstream).await, (200, content));
}

/// A shield that is asked by one who finds chunks elsewhere too, and is left to name all of them.
#[derive(Debug)]
struct Naming(Arc<Shield>, ManifestId);

impl Upstream for Naming {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        self.0.answer(request, Some(self.1))
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        self.0.chunks(site, key, chunks)
    }
}

/// A shield that has `/` stored, of which the edge has chunks under another URL. Some of them it lost.
async fn naming(edge: &House, content: &Bytes) -> Arc<Naming> {
    let shield = shield(&Script::fixed(FRESH, content.clone()));
    let copy = edge.cache.serve(edge.get("/copy", &[]), shield.clone());
    assert!(body(copy.await.unwrap()).await.unwrap() == *content);
    let house = &shield.house;
    assert!(house.fetch("/", &shield.origin).await.1 == *content);
    let manifests = shield.cache.manifests(&house.get("/", &[]).key).await;
    let root = manifests[0].root();
    let mut nth = 0;
    edge.tier.forget(|| {
        nth += 1;
        nth % 3 == 0
    });
    Arc::new(Naming(shield, root))
}

#[tokio::test]
async fn chunks_that_are_here_are_in_bodies_that_are_only_passed_on() {
    let content = noise(7, 1_000_000);
    let edge = house();
    let naming = naming(&edge, &content).await;
    let fetched = edge.cache.metrics().fetched_bytes.get();

    // Straight on, since it must not be stored.
    let request = edge.get("/", &[("cache-control", "no-store")]);
    let reply = edge.cache.serve(request, naming.clone()).await.unwrap();
    assert!(body(reply).await.unwrap() == content);
    let fetched = edge.cache.metrics().fetched_bytes.get() - fetched;
    assert!(
        (1..content.len() as u64).contains(&fetched),
        "{fetched} bytes came"
    );
    // None of the cache's business.
    let request = edge.get("/", &[]);
    let fetch = FetchRequest {
        method: request.method,
        scheme: request.scheme,
        authority: request.authority,
        path_and_query: request.path_and_query,
        headers: request.headers,
        body: None,
        site: Arc::clone(&edge.site.name),
        key: request.key,
        held: None,
    };
    let passed = edge
        .cache
        .pass(&edge.site, fetch, naming.clone(), CacheStatus::Bypass);
    assert!(body(passed.await.unwrap()).await.unwrap() == content);
    edge.assert_bytes_add_up();
}

#[tokio::test]
async fn chunks_that_are_here_are_in_bodies_that_a_leader_may_not_store() {
    let content = noise(8, 1_000_000);
    // The shield's answer may be stored there, and here not for one who says who he is.
    let edge = house();
    let naming = naming(&edge, &content).await;
    let request = edge.get("/", &[("authorization", "Basic eDp5")]);
    let reply = edge.cache.serve(request, naming).await.unwrap();
    assert!(body(reply).await.unwrap() == content);
    edge.assert_bytes_add_up();
}

#[tokio::test]
async fn chunks_that_are_here_are_in_bodies_for_which_no_fill_has_room() {
    let content = noise(9, 1_000_000);
    let edge = house_with(64 << 20, 64 << 10, SitePolicy::default());
    let naming = naming(&edge, &content).await;
    let (_feed, arriving) = fed(1);
    let once = parking_lot::Mutex::new(Some(arriving));
    let slow = Script::new(move |_, _| {
        let body = once.lock().take().expect("one fetch");
        std::future::ready(Ok(response(200, FRESH, body)))
    });
    let under_way = edge.serve(edge.get("/slow", &[]), &slow).await.unwrap();
    let reply = edge.cache.serve(edge.get("/", &[]), naming).await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Bypass);
    assert!(body(reply).await.unwrap() == content);
    drop(under_way);
}

#[tokio::test]
async fn chunks_of_the_version_the_asker_holds_do_not_travel_again() {
    let old = noise(6, 600_000);
    let new = Bytes::from([&old[..300_000], b"inserted", &old[300_000..]].concat());
    let origin = {
        let (old, new) = (old.clone(), new.clone());
        Script::new(move |request, n| {
            let v2 = [("cache-control", "max-age=60"), ("etag", "\"v2\"")];
            let (fields, body) = if n == 0 {
                (FRESH, &old)
            } else {
                (&v2[..], &new)
            };
            std::future::ready(Ok(whole_or_part(&request, fields, body)))
        })
    };
    let (shield, edge) = (shield(&origin), house());
    let ask = || edge.cache.serve(edge.get("/", &[]), shield.clone());
    assert!(body(ask().await.unwrap()).await.unwrap() == old);
    let before = edge.cache.metrics().fetched_bytes.get();
    // Stale in both: the shield replaces it, the edge asks for what it does not hold.
    edge.pass_seconds(61);
    shield.house.pass_seconds(61);
    let reply = ask().await.unwrap();
    assert_eq!(reply.outcome, CacheStatus::Expired);
    assert!(body(reply).await.unwrap() == new);
    let moved = edge.cache.metrics().fetched_bytes.get() - before;
    assert!(moved < 100_000, "{moved} of {} bytes", new.len());
}
