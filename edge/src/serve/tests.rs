//! The serve path as a whole, over a scripted upstream and without a socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use stoq_cache::engine::{Cache, CacheConfig};
use stoq_cache::http::policy::SitePolicy;
use stoq_cache::reply::{Reply, ReplyBody};
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::{
    FetchBody, FetchRequest, FetchResponse, Source, Upstream, UpstreamError,
};
use stoq_node::config::HostPattern;

use super::*;
use crate::service::{Interim, RequestBody, Service};

const NOW: Timestamp = Timestamp(1_795_233_906_000);

/// Answers every fetch with one response and keeps what it was asked.
#[derive(Debug, Default)]
struct Origin {
    headers: Vec<(&'static str, &'static str)>,
    /// Instead of the text below: the fields it was asked with, one of them.
    echoes: Option<&'static str>,
    seen: Mutex<Vec<(http::Method, HeaderMap, Bytes)>>,
}

const TEXT: &str = "0123456789";

impl Upstream for Origin {
    fn fetch(
        &self,
        mut request: FetchRequest,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(async move {
            let mut sent = Vec::new();
            if let Some(mut body) = request.body.take() {
                while let Some(piece) = body.next().await {
                    sent.extend_from_slice(&piece.map_err(UpstreamError::RequestBody)?);
                }
            }
            let text = match self.echoes {
                Some(name) => Bytes::copy_from_slice(request.headers[name].as_bytes()),
                None => Bytes::from_static(TEXT.as_bytes()),
            };
            self.seen
                .lock()
                .push((request.method, request.headers, sent.into()));
            let mut headers = HeaderMap::new();
            for (name, value) in &self.headers {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers.insert("content-length", text.len().into());
            Ok(FetchResponse {
                status: StatusCode::OK,
                headers,
                body: FetchBody::Stream(Box::pin(futures_util::stream::iter([Ok(text)]))),
                via: Source::Origin,
                upstream_cache_status: None,
            })
        })
    }
}

fn serve(origin: &Arc<Origin>) -> Arc<Serve> {
    let cache = Cache::new(CacheConfig {
        name: "edge-1".to_owned(),
        clock: Arc::new(|| NOW),
        ..CacheConfig::new([7; 32])
    });
    let cdn_id = CdnId::new("own").unwrap();
    let hosts = [HostPattern::Exact("a.test".to_owned())];
    let shared = Shared {
        node: "edge-1".to_owned(),
        borders: Arc::default(),
        sites: vec![cache.site("a", None, SitePolicy::default())],
        cache,
        hosts: SiteTable::new([&hosts[..]]),
        bounds: Bounds {
            header_bytes: 4096,
            body_bytes: 8,
            cdn_id: cdn_id.clone(),
        },
        forwarder: Forwarder {
            trusted_proxies: Vec::new(),
            pseudonym: "edge-1".to_owned(),
            cdn_id,
        },
        metrics: ServeMetrics::register(&mut Registry::default()),
        heat: None,
        shaper: None,
        clock: || NOW,
    };
    Arc::new(Serve::new(
        Arc::new(shared),
        vec![Arc::clone(origin) as _],
        None,
    ))
}

async fn ask(serve: &Arc<Serve>, request: &str) -> Told {
    ask_with(serve, request, RequestBody::empty()).await
}

async fn ask_with(serve: &Arc<Serve>, request: &str, body: RequestBody) -> Told {
    let head = Arc::new(sample::head(request));
    let answer = Arc::clone(serve)
        .serve(head, body, Interim::unsupported())
        .await;
    Told::of(answer.reply).await
}

/// A reply, read to its end.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    fields: Vec<String>,
    body: Vec<u8>,
    word: &'static str,
}

impl Told {
    async fn of(reply: Reply) -> Self {
        let mut fields: Vec<_> = reply
            .fields()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        let (status, word) = (reply.status().as_u16(), reply.outcome.word());
        let body = match reply.body {
            ReplyBody::Empty => Vec::new(),
            ReplyBody::Bytes(bytes) => bytes.to_vec(),
            ReplyBody::Chunks(chunks) => chunks.concat(),
            ReplyBody::Stream(stream) => stream
                .map(Result::unwrap)
                .collect::<Vec<_>>()
                .await
                .concat(),
        };
        Self {
            status,
            fields,
            body,
            word,
        }
    }

    fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|has| has == field)
    }
}

/// Asks inline until there is an answer: what was fetched is stored by a task of the cache's.
async fn hit(serve: &Arc<Serve>, request: &str) -> Told {
    let head = sample::head(request);
    let stored = async {
        loop {
            if let Some(answer) = serve.try_hit(&head.view(), NOW) {
                return answer.reply;
            }
            tokio::task::yield_now().await;
        }
    };
    let reply = tokio::time::timeout(Duration::from_secs(20), stored).await;
    Told::of(reply.unwrap_or_else(|_| panic!("no hit for {request}"))).await
}

#[tokio::test]
async fn both_entrances_give_the_same_reply_for_the_same_hit() {
    let headers = vec![
        ("cache-control", "max-age=60"),
        ("etag", "\"v1\""),
        ("vary", "accept-language"),
    ];
    let origin = Arc::new(Origin {
        headers,
        ..Origin::default()
    });
    let serve = serve(&origin);
    assert_eq!(ask(&serve, "GET https://a.test/x 3").await.word, "miss");
    for request in [
        "GET https://a.test/x 3",
        "GET https://A.TEST:443/x 2",
        "GET /x 1.1\nhost: a.test\nconnection: keep-alive",
        "GET https://a.test/%78 3",
        "HEAD https://a.test/x 3",
        "GET https://a.test/x 3\nif-none-match: \"v1\"",
        "GET https://a.test/x 3\nif-none-match: \"v0\"",
        "GET https://a.test/x 3\nrange: bytes=2-4",
        "GET https://a.test/x 3\nrange: bytes=99-",
        "GET https://a.test/x 3\nx-forwarded-for: 1.1.1.1\nvia: 1.1 x",
    ] {
        let inline = hit(&serve, request).await;
        assert_eq!(inline.word, "hit", "{request}");
        assert_eq!(inline, ask(&serve, request).await, "{request}");
    }
    assert_eq!(origin.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_client_cannot_claim_its_way_into_what_varies_by_the_forwarding_fields() {
    let headers = vec![("cache-control", "max-age=60"), ("vary", "x-forwarded-for")];
    let origin = Arc::new(Origin {
        headers,
        echoes: Some("x-forwarded-for"),
        ..Origin::default()
    });
    let serve = serve(&origin);
    // `sample` clients are at 192.0.2.7; theirs is fetched and stored, and hit by asking again.
    assert_eq!(
        ask(&serve, "GET https://a.test/ 3").await.body,
        b"192.0.2.7"
    );
    let victims = "GET https://a.test/ 3\nx-forwarded-for: 1.1.1.1";
    assert_eq!(hit(&serve, victims).await.body, b"192.0.2.7");
    let mut stranger = sample::head("GET https://a.test/ 3\nx-forwarded-for: 192.0.2.7");
    stranger.peer = "198.51.100.1:9".parse().unwrap();
    assert!(serve.try_hit(&stranger.view(), NOW).is_none());
    let answer = Arc::clone(&serve)
        .serve(
            Arc::new(stranger),
            RequestBody::empty(),
            Interim::unsupported(),
        )
        .await;
    assert_eq!(Told::of(answer.reply).await.body, b"198.51.100.1");
}

#[tokio::test]
async fn other_methods_pass_with_their_body_and_are_not_stored() {
    let headers = vec![("cache-control", "max-age=60")];
    let origin = Arc::new(Origin {
        headers,
        ..Origin::default()
    });
    let serve = serve(&origin);
    for _ in 0..2 {
        let body = Box::pin(futures_util::stream::iter([
            Ok(Bytes::from_static(b"abc")),
            Ok(Bytes::from_static(b"de")),
        ]));
        let told = ask_with(
            &serve,
            "POST https://a.test/ 3",
            RequestBody::new(None, body),
        )
        .await;
        assert_eq!(
            (told.status, told.word, told.body.as_slice()),
            (200, "method", TEXT.as_bytes())
        );
    }
    let seen = origin.seen.lock();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|(method, _, body)| *method == http::Method::POST && *body == "abcde")
    );
}

#[tokio::test]
async fn an_unannounced_body_above_the_limit_is_answered_413() {
    let serve = serve(&Arc::new(Origin::default()));
    let body = Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(
        b"123456789",
    ))]));
    let told = ask_with(
        &serve,
        "POST https://a.test/ 3",
        RequestBody::new(None, body),
    )
    .await;
    assert_eq!((told.status, told.word), (413, "refused"));
    assert!(
        told.has("cache-status: edge-1; detail=body-bytes"),
        "{told:?}"
    );
}

#[tokio::test]
async fn what_is_refused_is_left_to_the_second_entrance_and_never_reaches_an_upstream() {
    let origin = Arc::new(Origin::default());
    let serve = serve(&origin);
    for (request, status) in [
        ("GET https://b.test/ 3", 421),
        ("GET https://a.test/ 3\ncdn-loop: own", 508),
        ("CONNECT a.test:443 1.1\nhost: a.test", 405),
        ("GET https://a.test/ 3\nhost: b.test", 400),
        ("GET / 1.1\nhost: a.test\nupgrade: websocket", 501),
    ] {
        assert!(
            serve.try_hit(&sample::head(request).view(), NOW).is_none(),
            "{request}"
        );
        let told = ask(&serve, request).await;
        assert_eq!((told.status, told.word), (status, "refused"), "{request}");
    }
    assert!(origin.seen.lock().is_empty());
}
