//! The object exchange between two nodes on real sockets, with a scripted source behind it.

#![expect(clippy::unwrap_used, reason = "a failed arrangement is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TransportConfig};
use stoq::transport::memory::{Conditions, Network};
use stoq_cache::content::{ChunkId, ManifestId, Profile};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyError, BodyStream, ChunkEvent, FetchBody, FetchRequest, Source, Upstream, UpstreamError,
};
use stoq_mesh::{
    AnswerBody, ChunksRequest, Code, ObjectAnswer, ObjectMetrics, ObjectRequest, ObjectServer,
    ObjectSource, Provenance, Refusal, ShieldClient,
};
use tokio::task::JoinHandle;

type Script = dyn Fn(ObjectRequest, Option<BodyStream>) -> BoxFuture<'static, Result<ObjectAnswer, Refusal>>
    + Send
    + Sync;

struct Scripted(Box<Script>);

impl ObjectSource for Scripted {
    fn object(
        &self,
        request: ObjectRequest,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>> {
        (self.0)(request, body)
    }

    fn chunk<'a>(
        &'a self,
        _: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        // Holds exactly the chunk named by ones.
        Box::pin(async move { Ok((id == [1; 32]).then(|| Bytes::from_static(b"one!"))) })
    }
}

struct Pair {
    client: ShieldClient,
    served: JoinHandle<()>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.served.abort();
    }
}

fn identity(root: &ClusterRoot, name: &str, role: Role) -> Identity {
    let file = root
        .issue(
            name,
            &[role],
            Validity::starting(rustls_pki_types::UnixTime::now(), Duration::from_secs(3600)),
        )
        .unwrap();
    Identity::new(file, root.certificate().clone()).unwrap()
}

fn pair(asker: Role, script: Box<Script>) -> Pair {
    let root = ClusterRoot::generate(
        "demo",
        Validity::starting(rustls_pki_types::UnixTime::now(), Duration::from_secs(7200)),
    )
    .unwrap();
    let shield = identity(&root, "shield-1", Role::Shield);
    let edge = identity(&root, "edge-1", asker);
    let sockets = SocketGroup::bind(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        1,
        &SocketOptions::default(),
    )
    .unwrap();
    let addr = sockets.local_addr();
    let config = EndpointConfig {
        server: Some(shield.server_tls().unwrap()),
        ..EndpointConfig::new(CidKeys::random())
    };
    let endpoint = Endpoint::new(sockets.take(0).unwrap(), config).unwrap();
    let handler = Arc::new(ObjectServer::new(
        Arc::new(Scripted(script)),
        Arc::new(ObjectMetrics::default()),
    ));
    let server = PeerServer::new(endpoint, shield, handler, ServeConfig::default());
    let served = tokio::spawn(async move { server.serve().await });
    let endpoint = Endpoint::client(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        TransportConfig::default(),
    )
    .unwrap();
    let pool = Pool::new(endpoint, edge, PoolConfig::default());
    let client = ShieldClient::new(
        pool,
        [addr.into()].into(),
        Arc::new(|_| [7; 16]),
        Duration::from_secs(10),
    );
    Pair { client, served }
}

fn request(method: Method, body: Option<BodyStream>) -> FetchRequest {
    FetchRequest {
        method,
        scheme: Scheme::HTTPS,
        authority: "example.org".to_owned(),
        path_and_query: PathAndQuery::from_static("/a?b"),
        headers: HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("*/*"))]),
        body,
        site: "site".into(),
        key: CacheKey::of("site", "https", "example.org", "/a?b"),
        held: None,
    }
}

fn answer(body: AnswerBody) -> ObjectAnswer {
    ObjectAnswer {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"v1\""))]),
        cache_status: "shield-1; fwd=uri-miss".to_owned(),
        provenance: Provenance::Origin,
        body,
    }
}

#[tokio::test]
async fn a_growing_object_arrives_event_by_event_with_its_request_intact() {
    let seen = Arc::new(Mutex::new(None));
    let events = vec![
        ChunkEvent::Profile(Profile::Fine),
        ChunkEvent::Bytes(Bytes::from_static(b"first ")),
        ChunkEvent::Bytes(Bytes::from_static(b"chunk")),
        ChunkEvent::Chunk {
            id: ChunkId::from_bytes([3; 32]),
            len: 11,
        },
        ChunkEvent::Held {
            id: ChunkId::from_bytes([4; 32]),
            len: 9,
        },
        ChunkEvent::Sealed {
            root: ManifestId::from_bytes([5; 32]),
            total: 20,
        },
    ];
    let (told, script) = (Arc::clone(&seen), events.clone());
    let pair = pair(
        Role::Edge,
        Box::new(move |request, _| {
            *told.lock() = Some(request);
            let events = stream::iter(script.clone().into_iter().map(Ok));
            Box::pin(async move { Ok(answer(AnswerBody::Chunked(Box::pin(events)))) })
        }),
    );

    let response = pair.client.fetch(request(Method::GET, None)).await.unwrap();

    let asked = seen.lock().take().unwrap();
    assert_eq!(
        (
            asked.site.as_str(),
            asked.authority.as_str(),
            asked.path_and_query.as_str()
        ),
        ("site", "example.org", "/a?b")
    );
    assert_eq!(
        (
            asked.https,
            asked.chunk_key_id,
            asked.headers["accept"].as_bytes()
        ),
        (true, [7; 16], b"*/*".as_slice())
    );
    assert_eq!(
        (
            response.status,
            response.via,
            response.headers["etag"].as_bytes()
        ),
        (StatusCode::OK, Source::Shield, b"\"v1\"".as_slice())
    );
    assert_eq!(
        response.upstream_cache_status.as_deref(),
        Some("shield-1; fwd=uri-miss")
    );
    let FetchBody::Chunked(body) = response.body else {
        panic!("a chunked body was sent")
    };
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap(), events);
}

#[tokio::test]
async fn a_body_without_its_commit_record_is_an_error_never_an_end() {
    let pair = pair(
        Role::Edge,
        Box::new(|_, _| {
            let events = [
                ChunkEvent::Profile(Profile::Single),
                ChunkEvent::Bytes(Bytes::from_static(b"half")),
            ];
            Box::pin(async move {
                Ok(answer(AnswerBody::Chunked(Box::pin(stream::iter(
                    events.map(Ok),
                )))))
            })
        }),
    );

    let response = pair.client.fetch(request(Method::GET, None)).await.unwrap();

    let FetchBody::Chunked(body) = response.body else {
        panic!("a chunked body was sent")
    };
    assert!(matches!(
        body.try_collect::<Vec<_>>().await,
        Err(BodyError::Upstream(_))
    ));
}

#[tokio::test]
async fn a_body_that_breaks_at_the_holder_breaks_at_the_asker() {
    let pair = pair(
        Role::Edge,
        Box::new(|_, _| {
            let pieces: [Result<Bytes, BodyError>; 2] = [
                Ok(Bytes::from_static(b"half")),
                Err(BodyError::Upstream("origin died".to_owned())),
            ];
            Box::pin(async move { Ok(answer(AnswerBody::Plain(Box::pin(stream::iter(pieces))))) })
        }),
    );

    let response = pair.client.fetch(request(Method::GET, None)).await.unwrap();

    let FetchBody::Stream(mut body) = response.body else {
        panic!("a plain body was sent")
    };
    assert_eq!(body.next().await.unwrap().unwrap(), "half");
    let error = body.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("origin died"), "{error}");
}

#[tokio::test]
async fn a_request_body_streams_to_the_holder_while_its_answer_streams_back() {
    let pair = pair(
        Role::Edge,
        Box::new(|_, body| Box::pin(async move { Ok(answer(AnswerBody::Plain(body.unwrap()))) })),
    );
    let piece = Bytes::from(vec![9; 1 << 16]);
    let pieces = stream::iter(std::iter::repeat_n(Ok(piece), 160));

    let response = pair
        .client
        .fetch(request(Method::POST, Some(Box::pin(pieces))))
        .await
        .unwrap();

    let FetchBody::Stream(body) = response.body else {
        panic!("a plain body was sent")
    };
    let echoed = body
        .try_fold(0, |total, bytes| async move { Ok(total + bytes.len()) })
        .await
        .unwrap();
    assert_eq!(echoed, 160 << 16);
}

#[tokio::test]
async fn refusals_keep_their_meaning_across_the_wire() {
    for (code, expected) in [
        (
            Code::Unreachable,
            UpstreamError::Unreachable("why".to_owned()),
        ),
        (Code::Timeout, UpstreamError::Timeout("why".to_owned())),
        (
            Code::KeyMismatch,
            UpstreamError::Refused {
                reason: "why".to_owned(),
            },
        ),
        (
            Code::Overloaded,
            UpstreamError::ShieldDown("why".to_owned()),
        ),
    ] {
        let pair = pair(
            Role::Edge,
            Box::new(move |_, _| Box::pin(async move { Err(Refusal::new(code, "why")) })),
        );
        assert_eq!(
            pair.client
                .fetch(request(Method::GET, None))
                .await
                .unwrap_err(),
            expected
        );
    }
}

#[tokio::test]
async fn a_node_without_the_role_is_refused() {
    let pair = pair(
        Role::Admin,
        Box::new(|_, _| Box::pin(async { Ok(answer(AnswerBody::Empty)) })),
    );
    let error = pair
        .client
        .fetch(request(Method::GET, None))
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn chunks_come_in_the_order_asked_and_a_missing_one_is_an_error() {
    let pair = pair(
        Role::Edge,
        Box::new(|_, _| Box::pin(async { Ok(answer(AnswerBody::Empty)) })),
    );
    let key = CacheKey::of("site", "https", "example.org", "/a?b");
    let one = (ChunkId::from_bytes([1; 32]), 4);

    let body = pair
        .client
        .chunks("site".into(), key, vec![one, one])
        .await
        .unwrap();
    let pieces = body.map_ok(|(bytes, _)| bytes);
    assert_eq!(
        pieces.try_collect::<Vec<_>>().await.unwrap().concat(),
        b"one!one!"
    );

    let missing = (ChunkId::from_bytes([2; 32]), 4);
    let body = pair
        .client
        .chunks("site".into(), key, vec![one, missing])
        .await
        .unwrap();
    assert!(body.try_collect::<Vec<_>>().await.is_err());
}

#[tokio::test]
async fn a_shield_that_is_not_there_is_down_and_not_an_origin_error() {
    let pair = pair(
        Role::Edge,
        Box::new(|_, _| Box::pin(async { Ok(answer(AnswerBody::Empty)) })),
    );
    pair.served.abort();
    // The connection is made on first use, so nothing was pooled before the shield went.
    let error = pair
        .client
        .fetch(request(Method::GET, None))
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::ShieldDown(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_shield_is_dead_one_miss_waits_for_a_dial_and_the_others_hardly_at_all() {
    const SOON: Duration = Duration::from_millis(310);
    let edge_addr = SocketAddr::from(([10, 0, 0, 1], 1));
    let shield_addr = SocketAddr::from(([10, 0, 0, 2], 7443));
    let network = Network::new(1);
    network.set_default(Conditions {
        latency: Duration::from_millis(10),
        ..Conditions::default()
    });
    let validity = Validity::starting(rustls_pki_types::UnixTime::now(), Duration::from_secs(7200));
    let root = ClusterRoot::generate("demo", validity).unwrap();
    let pool = Pool::new(
        network.client(edge_addr).unwrap(),
        identity(&root, "edge-1", Role::Edge),
        PoolConfig {
            seed: 1,
            ..PoolConfig::default()
        },
    );
    let client = ShieldClient::new(
        pool,
        [shield_addr.into()].into(),
        Arc::new(|_| [7; 16]),
        Duration::from_secs(10),
    );
    let miss = async || {
        let began = tokio::time::Instant::now();
        let answer = client.fetch(request(Method::GET, None)).await;
        (answer.is_ok(), began.elapsed())
    };
    let (is_answered, first) = miss().await;
    assert!(!is_answered && first >= Duration::from_secs(3), "{first:?}");
    for _ in 0..60 {
        let (is_answered, took) = miss().await;
        assert!(!is_answered && took <= SOON, "{took:?}");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    // It is back.
    let shield = identity(&root, "shield-1", Role::Shield);
    let tls = shield.server_config(stoq::identity::ALPN).unwrap();
    let place = network
        .server(shield_addr, tls, TransportConfig::default())
        .unwrap();
    let source = Scripted(Box::new(|_, _| {
        Box::pin(std::future::ready(Ok(answer(AnswerBody::Empty))))
    }));
    let handler = ObjectServer::new(Arc::new(source), Arc::new(ObjectMetrics::default()));
    let server = PeerServer::new(place, shield, Arc::new(handler), ServeConfig::default());
    let served = tokio::spawn(async move { server.serve().await });
    let back = tokio::time::Instant::now();
    loop {
        let (is_answered, took) = miss().await;
        assert!(took <= SOON, "{took:?}");
        if is_answered {
            break;
        }
        // The longest rest between two dials, and a dial that was begun too early.
        assert!(back.elapsed() <= Duration::from_secs(14));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    served.abort();
}
