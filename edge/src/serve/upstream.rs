//! Where a site's misses go: the one place that chooses between shield and origin.
//!
//! | configuration | upstream |
//! |---|---|
//! | no `[shield]` | the origin, or the directory |
//! | `[shield]`, `shield_fallback = true` | the shield; the origin while no shield can be reached |
//! | `[shield]`, `shield_fallback = false` | the shield alone: stale or 504 while it cannot be reached |
//!
//! While none of these can be reached, the cache asks for what other edges have kept of the object ([`Upstream::kept`]).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq_cache::content::ChunkId;
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyStream, FetchRequest, FetchResponse, OnInterim, PieceStream, Upstream, UpstreamError,
};

/// What a site's misses are sent to. `origin` and `shield` are this worker's own clients.
pub(crate) fn choose(
    shield: Option<&Arc<dyn Upstream>>,
    shield_fallback: bool,
    origin: &Arc<dyn Upstream>,
) -> Arc<dyn Upstream> {
    match shield {
        None => Arc::clone(origin),
        Some(shield) if shield_fallback => Arc::new(ShieldFirst {
            shield: Arc::clone(shield),
            origin: Arc::clone(origin),
        }),
        Some(shield) => Arc::clone(shield),
    }
}

/// The shield while one can be reached, else the origin.
#[derive(Debug)]
struct ShieldFirst {
    shield: Arc<dyn Upstream>,
    origin: Arc<dyn Upstream>,
}

impl ShieldFirst {
    async fn send(
        &self,
        mut request: FetchRequest,
        interim: Option<OnInterim>,
    ) -> Result<FetchResponse, UpstreamError> {
        // A body can be sent once. It is lent to the shield, and is still here if nobody there began to read it.
        let body = request
            .body
            .take()
            .map(|body| Arc::new(Mutex::new(Some(body))));
        let mut again = copy(&request);
        request.body = body.as_ref().map(lend);
        let error = match self.shield.fetch(request).await {
            // Only this says that no shield was there. All else is an answer, or may have reached the origin.
            Err(error @ UpstreamError::ShieldDown(_)) => error,
            answer => return answer,
        };
        if let Some(body) = body {
            let untouched = body.lock().take();
            let Some(untouched) = untouched else {
                return Err(error);
            };
            again.body = Some(untouched);
        }
        tracing::debug!(%error, "asking the origin in the shield's place");
        match interim {
            Some(interim) => self.origin.fetch_with_interim(again, interim).await,
            None => self.origin.fetch(again).await,
        }
    }
}

impl Upstream for ShieldFirst {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.send(request, None))
    }

    fn fetch_with_interim(
        &self,
        request: FetchRequest,
        interim: OnInterim,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.send(request, Some(interim)))
    }

    fn kept(&self, request: FetchRequest) -> BoxFuture<'_, Option<FetchResponse>> {
        // Of what went through a shield others know.
        self.shield.kept(request)
    }

    fn chunks(
        &self,
        site: Arc<str>,
        key: CacheKey,
        chunks: Vec<(ChunkId, u32)>,
    ) -> BoxFuture<'_, Result<PieceStream, UpstreamError>> {
        // An origin knows no chunks; who asked falls back to ranges, which come through `fetch`.
        self.shield.chunks(site, key, chunks)
    }
}

/// The same request without its body.
fn copy(request: &FetchRequest) -> FetchRequest {
    FetchRequest {
        method: request.method.clone(),
        scheme: request.scheme.clone(),
        authority: request.authority.clone(),
        path_and_query: request.path_and_query.clone(),
        headers: request.headers.clone(),
        body: None,
        site: Arc::clone(&request.site),
        key: request.key,
        held: request.held.clone(),
    }
}

/// A stream that takes `body` at its first poll.
fn lend(body: &Arc<Mutex<Option<BodyStream>>>) -> BodyStream {
    let body = Arc::clone(body);
    let mut taken = None;
    Box::pin(futures_util::stream::poll_fn(move |cx| {
        if taken.is_none() {
            taken = body.lock().take();
        }
        match taken.as_mut() {
            Some(stream) => stream.as_mut().poll_next(cx),
            None => std::task::Poll::Ready(None),
        }
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};
    use http::{HeaderMap, Method, StatusCode};
    use stoq_cache::upstream::{FetchBody, Source};

    use super::*;

    /// Answers 200 in its own name, or fails; reads `reads` pieces of the request's body first.
    #[derive(Debug)]
    struct Scripted {
        via: Source,
        fails: Option<UpstreamError>,
        reads: usize,
        seen: Mutex<Vec<Bytes>>,
    }

    impl Scripted {
        fn new(via: Source, fails: Option<UpstreamError>, reads: usize) -> Arc<Self> {
            Arc::new(Self {
                via,
                fails,
                reads,
                seen: Mutex::default(),
            })
        }
    }

    impl Upstream for Scripted {
        fn fetch(
            &self,
            request: FetchRequest,
        ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
            Box::pin(async move {
                if let Some(mut body) = request.body {
                    for _ in 0..self.reads {
                        if let Some(Ok(piece)) = body.next().await {
                            self.seen.lock().push(piece);
                        }
                    }
                }
                match &self.fails {
                    Some(error) => Err(error.clone()),
                    None => Ok(FetchResponse {
                        status: StatusCode::OK,
                        headers: HeaderMap::new(),
                        body: FetchBody::Empty,
                        via: self.via,
                        upstream_cache_status: None,
                    }),
                }
            })
        }
    }

    fn request(body: Option<&'static str>) -> FetchRequest {
        FetchRequest {
            method: if body.is_some() {
                Method::POST
            } else {
                Method::GET
            },
            scheme: http::uri::Scheme::HTTPS,
            authority: "a.test".to_owned(),
            path_and_query: "/".parse().unwrap(),
            headers: HeaderMap::new(),
            body: body.map(|text| -> BodyStream {
                Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(
                    text.as_bytes(),
                ))]))
            }),
            site: "a".into(),
            key: CacheKey::of("a", "https", "a.test", "/"),
            held: None,
        }
    }

    fn down() -> Option<UpstreamError> {
        Some(UpstreamError::ShieldDown(
            "10.0.0.1:7443: refused".to_owned(),
        ))
    }

    fn ask(
        shield: &Arc<Scripted>,
        origin: &Arc<Scripted>,
        request: FetchRequest,
    ) -> Result<Source, UpstreamError> {
        let first = ShieldFirst {
            shield: Arc::clone(shield) as _,
            origin: Arc::clone(origin) as _,
        };
        first
            .fetch(request)
            .now_or_never()
            .unwrap()
            .map(|response| response.via)
    }

    #[test]
    fn the_origin_is_asked_only_when_no_shield_is_there() {
        let origin = Scripted::new(Source::Origin, None, 1);
        for (fails, want) in [
            (None, Ok(Source::Shield)),
            (down(), Ok(Source::Origin)),
            (
                Some(UpstreamError::Timeout("x".to_owned())),
                Err(UpstreamError::Timeout("x".to_owned())),
            ),
        ] {
            assert_eq!(
                ask(
                    &Scripted::new(Source::Shield, fails, 0),
                    &origin,
                    request(None)
                ),
                want
            );
        }
    }

    #[test]
    fn a_body_that_no_shield_read_goes_to_the_origin_whole() {
        let origin = Scripted::new(Source::Origin, None, 1);
        assert_eq!(
            ask(
                &Scripted::new(Source::Shield, down(), 0),
                &origin,
                request(Some("abc"))
            ),
            Ok(Source::Origin)
        );
        assert_eq!(origin.seen.lock().concat(), b"abc");
    }

    #[test]
    fn a_body_that_a_shield_began_to_read_is_not_sent_twice() {
        let origin = Scripted::new(Source::Origin, None, 1);
        let shield = Scripted::new(Source::Shield, down(), 1);
        assert!(matches!(
            ask(&shield, &origin, request(Some("abc"))),
            Err(UpstreamError::ShieldDown(_))
        ));
        assert!(origin.seen.lock().is_empty());
    }

    #[test]
    fn a_body_reaches_a_shield_that_is_there() {
        let origin = Scripted::new(Source::Origin, None, 0);
        let shield = Scripted::new(Source::Shield, None, 1);
        assert_eq!(
            ask(&shield, &origin, request(Some("abc"))),
            Ok(Source::Shield)
        );
        assert_eq!(shield.seen.lock().concat(), b"abc");
    }
}
