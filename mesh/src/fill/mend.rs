//! A body from other edges, gone on with from the origin where they break off.
//!
//! What is still missing is asked for as a range, under the strong validator that the object had; each chunk is verified before its first byte is passed on. So the body is
//! the one that was begun, or it ends with an error.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use stoq_cache::content::{CHUNK_BYTES_MAX, ChunkKey, Entry, Manifest};
use stoq_cache::http::validator::Validators;
use stoq_cache::upstream::{
    BodyError, BodyStream, ChunkEvent, ChunkStream, FetchBody, Source, Upstream,
};

use super::kept::Asking;
use super::metrics::FillMetrics;

/// How the origin is asked for what is missing.
pub(super) struct Rest {
    origin: Arc<dyn Upstream>,
    asking: Asking,
    strong: Option<HeaderValue>,
}

/// What the body is.
pub(super) struct Known {
    rest: Rest,
    manifest: Manifest,
    chunk_key: ChunkKey,
    sealed: Bytes,
}

impl Rest {
    /// As this request asks, for the response with these fields.
    pub(super) fn new(origin: Arc<dyn Upstream>, asking: Asking, response: &HeaderMap) -> Self {
        Self {
            origin,
            asking,
            strong: Validators::of(response).strong().cloned(),
        }
    }

    /// The body of this manifest, for which somebody vouches.
    pub(super) const fn of(self, manifest: Manifest, chunk_key: ChunkKey, sealed: Bytes) -> Known {
        Known {
            rest: self,
            manifest,
            chunk_key,
            sealed,
        }
    }

    /// The bytes from this place on; `None` where those of this version are not to be had.
    async fn from(&self, start: u64) -> Option<BodyStream> {
        let strong = self.strong.clone()?;
        let mut request = self.asking.request();
        let range = HeaderValue::try_from(format!("bytes={start}-")).ok()?;
        request.headers.insert(header::RANGE, range);
        request.headers.insert(header::IF_RANGE, strong);
        let response = self.origin.fetch(request).await.ok()?;
        let place = response.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let is_there = place.strip_prefix("bytes ")?.split_once('-')?.0 == start.to_string();
        match response.body {
            FetchBody::Stream(body)
                if response.status == StatusCode::PARTIAL_CONTENT && is_there =>
            {
                Some(body)
            }
            FetchBody::Stream(_) | FetchBody::Empty | FetchBody::Chunked(_) => None,
        }
    }
}

/// Where the body comes from.
enum From {
    Peers(ChunkStream),
    Origin(BodyStream),
    /// All chunks are there.
    End(Vec<ChunkEvent>),
}

struct Body {
    from: From,
    known: Known,
    /// Chunks that were passed on.
    passed: usize,
    /// What came of the next.
    part: BytesMut,
    metrics: Arc<FillMetrics>,
}

/// `events`, which are those of the body that `known` is, gone on with where they break off.
pub(super) fn mended(events: ChunkStream, known: Known, metrics: Arc<FillMetrics>) -> ChunkStream {
    let body = Body {
        from: From::Peers(events),
        known,
        passed: 0,
        part: BytesMut::new(),
        metrics,
    };
    Box::pin(stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(event) => Some((Ok(event), Some(body))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Body {
    async fn next(&mut self) -> Option<Result<ChunkEvent, BodyError>> {
        loop {
            match &mut self.from {
                From::Peers(events) => match events.next().await? {
                    Ok(event) => {
                        let is_chunk =
                            matches!(event, ChunkEvent::Whole { .. } | ChunkEvent::Held { .. });
                        self.passed += usize::from(is_chunk);
                        return Some(Ok(event));
                    }
                    Err(error) => {
                        let start = self.known.manifest.start_of(self.passed);
                        let rest = match start {
                            Some(start) => self.known.rest.from(start).await,
                            None => None,
                        };
                        let Some(body) = rest else {
                            return Some(Err(error));
                        };
                        tracing::debug!(%error, "the origin goes on with a body that other edges broke off");
                        self.metrics.mended.inc();
                        self.from = From::Origin(body);
                    }
                },
                From::Origin(body) => {
                    let Some(entry) = self.known.manifest.entry(self.passed) else {
                        self.from = From::End(vec![
                            ChunkEvent::Sealed {
                                root: self.known.manifest.root(),
                                total: self.known.manifest.total_len(),
                            },
                            ChunkEvent::Vouched(self.known.sealed.clone()),
                        ]);
                        continue;
                    };
                    if let Err(error) = fill(&mut self.part, body, entry).await {
                        return Some(Err(error));
                    }
                    // In a buffer of its size, since it may be kept.
                    let bytes = Bytes::copy_from_slice(&self.part.split_to(entry.len as usize));
                    self.passed += 1;
                    return Some(match self.known.chunk_key.verify(entry.id, bytes) {
                        Some(chunk) => Ok(ChunkEvent::Whole {
                            chunk,
                            via: Source::Origin,
                        }),
                        None => Err(BodyError::Corrupt(format!(
                            "the origin's bytes are not those of chunk {}",
                            entry.id
                        ))),
                    });
                }
                From::End(events) => return events.pop().map(Ok),
            }
        }
    }
}

/// Reads until all of a chunk is there.
async fn fill(part: &mut BytesMut, body: &mut BodyStream, entry: Entry) -> Result<(), BodyError> {
    if entry.len as usize > CHUNK_BYTES_MAX {
        let error = format!("chunk {} is said to be of {} bytes", entry.id, entry.len);
        return Err(BodyError::Corrupt(error));
    }
    while part.len() < entry.len as usize {
        match body.next().await {
            Some(piece) => part.extend_from_slice(&piece?),
            None => {
                return Err(BodyError::Upstream(
                    "the origin's answer ends early".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use futures_util::future::BoxFuture;
    use http::Method;
    use http::uri::{PathAndQuery, Scheme};
    use stoq_cache::content::{GrowingManifest, Profile};
    use stoq_cache::key::CacheKey;
    use stoq_cache::upstream::{FetchRequest, FetchResponse, UpstreamError};

    use super::*;

    const CHUNKS: [&[u8]; 3] = [b"first", b"second", b"third"];

    /// Gives `body` from where it is asked for, in pieces of 4.
    #[derive(Debug)]
    struct Origin {
        body: &'static [u8],
        status: StatusCode,
    }

    impl Upstream for Origin {
        fn fetch(
            &self,
            request: FetchRequest,
        ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
            assert_eq!(request.headers[header::IF_RANGE], "\"1\"");
            let range = request.headers[header::RANGE].to_str().unwrap();
            let start = range
                .strip_prefix("bytes=")
                .and_then(|it| it.strip_suffix('-'));
            let start: usize = start.unwrap().parse().unwrap();
            let mut headers = HeaderMap::new();
            let place = format!("bytes {start}-{}/{}", self.body.len() - 1, self.body.len());
            headers.insert(header::CONTENT_RANGE, place.try_into().unwrap());
            let pieces: Vec<_> = self.body[start..].chunks(4).collect();
            let pieces = pieces
                .into_iter()
                .map(|piece| Ok(Bytes::from_static(piece)));
            let response = FetchResponse {
                status: self.status,
                headers,
                body: FetchBody::Stream(Box::pin(stream::iter(pieces))),
                via: Source::Origin,
                upstream_cache_status: None,
            };
            Box::pin(async move { Ok(response) })
        }
    }

    /// The body from edges that break off after so many chunks, and from this origin: its chunks with who gave each.
    async fn mend(
        after: usize,
        body: &'static [u8],
        status: StatusCode,
        tag: &'static str,
    ) -> Result<Vec<ChunkEvent>, BodyError> {
        let chunk_key = ChunkKey::derive(&[1; 32], "s");
        let mut growing = GrowingManifest::new(Profile::Coarse);
        for chunk in CHUNKS {
            growing
                .push(chunk_key.id(chunk), u32::try_from(chunk.len()).unwrap())
                .unwrap();
        }
        let manifest = growing.seal(stoq_cache::content::Validators::default());
        let whole = |chunk: &'static [u8]| ChunkEvent::Whole {
            chunk: chunk_key
                .verify(chunk_key.id(chunk), Bytes::from_static(chunk))
                .unwrap(),
            via: Source::Peer,
        };
        let given = CHUNKS.into_iter().take(after).map(whole).map(Ok);
        let broken = Err(BodyError::Upstream("edges are gone".to_owned()));
        let events: Vec<_> = [Ok(ChunkEvent::Profile(Profile::Coarse))]
            .into_iter()
            .chain(given)
            .chain([broken])
            .collect();
        let mut response = HeaderMap::new();
        response.insert(header::ETAG, HeaderValue::from_static(tag));
        let asking = Asking::of(&FetchRequest {
            method: Method::GET,
            scheme: Scheme::HTTPS,
            authority: "a.test".to_owned(),
            path_and_query: PathAndQuery::from_static("/a"),
            headers: HeaderMap::new(),
            body: None,
            site: "s".into(),
            key: CacheKey::of("s", "https", "a.test", "/a"),
            held: None,
        });
        let rest = Rest::new(Arc::new(Origin { body, status }), asking, &response);
        let known = rest.of(manifest, chunk_key.clone(), Bytes::from_static(b"word"));
        let metrics = Arc::<FillMetrics>::default();
        let mended = mended(Box::pin(stream::iter(events)), known, Arc::clone(&metrics));
        let came = mended.try_collect().await;
        assert_eq!(
            metrics.mended.get() == 1,
            status == StatusCode::PARTIAL_CONTENT && tag == "\"1\""
        );
        came
    }

    #[tokio::test]
    async fn what_edges_break_off_comes_from_the_origin_and_whole() {
        for after in 0..CHUNKS.len() {
            let came = mend(
                after,
                b"firstsecondthird",
                StatusCode::PARTIAL_CONTENT,
                "\"1\"",
            )
            .await;
            let events = came.unwrap();
            let chunks = events.iter().filter_map(|event| match event {
                ChunkEvent::Whole { chunk, via } => Some((chunk.bytes().to_vec(), *via)),
                _ => None,
            });
            let (bodies, sources): (Vec<_>, Vec<_>) = chunks.unzip();
            assert_eq!(bodies, CHUNKS);
            let from_peers = sources.iter().filter(|via| **via == Source::Peer).count();
            assert_eq!(from_peers, after);
            assert!(
                matches!(
                    &events[4..],
                    [ChunkEvent::Vouched(_), ChunkEvent::Sealed { total: 16, .. }]
                ),
                "{events:?}"
            );
        }
    }

    #[tokio::test]
    async fn another_version_is_not_mixed_in_and_a_body_that_cannot_be_mended_ends_in_an_error() {
        let part = StatusCode::PARTIAL_CONTENT;
        let cases = [
            (&b"firstSECONDthird"[..], part, "\"1\"", "chunk"),
            (b"firstsecondth", part, "\"1\"", "ends early"),
            (
                b"firstsecondthird",
                StatusCode::OK,
                "\"1\"",
                "edges are gone",
            ),
            (
                b"firstsecondthird",
                StatusCode::OK,
                "W/\"1\"",
                "edges are gone",
            ),
        ];
        for (body, status, tag, why) in cases {
            let error = mend(1, body, status, tag).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
