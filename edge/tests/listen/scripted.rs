//! A service whose paths are its script.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, StatusCode};
use parking_lot::Mutex;
use stoq_cache::http::cache_status::CacheStatus;
use stoq_cache::reply::{Reply, ReplyBody, StoredHead};
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::BodyError;
use stoq_edge::service::{
    Answer, Interim, InterimHead, RequestBody, RequestHead, RequestView, Sent, Service,
};
use tokio::sync::Semaphore;

pub(crate) const HIT: &[u8] = &[b'h'; 1024];
/// Pieces of a gated download, after the gate and before it.
pub(crate) const PIECE: usize = 16 * 1024;
pub(crate) const PIECES: usize = 8;

/// Bytes of a hit that no buffer on the way holds.
pub(crate) const HUGE: usize = 16 << 20;

/// What became of a request.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) path: String,
    pub(crate) answered: bool,
    pub(crate) sent: Sent,
}

pub(crate) struct Scripted {
    pub(crate) done: Mutex<Vec<Done>>,
    /// Opened, gated downloads go on and gated uploads are read.
    pub(crate) gate: Semaphore,
    pub(crate) serving: AtomicUsize,
    pub(crate) dropped: AtomicBool,
    pub(crate) read: AtomicU64,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            done: Mutex::default(),
            gate: Semaphore::new(0),
            serving: AtomicUsize::new(0),
            dropped: AtomicBool::new(false),
            read: AtomicU64::new(0),
        })
    }

    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(100_000);
    }

    pub(crate) fn done_with(&self, path: &str) -> Vec<Done> {
        self.done
            .lock()
            .iter()
            .filter(|done| done.path == path)
            .cloned()
            .collect()
    }
}

pub(crate) fn reply(status: u16, fields: &[(&'static str, &str)], body: ReplyBody) -> Reply {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    Reply {
        head: Arc::new(StoredHead::new(
            StatusCode::from_u16(status).unwrap(),
            headers,
        )),
        status: None,
        overrides: Default::default(),
        removed: Default::default(),
        body,
        outcome: CacheStatus::Hit,
    }
}

fn pieces(items: Vec<Result<Bytes, BodyError>>) -> ReplyBody {
    // A pause before each piece, as from an origin: so it is waited for.
    ReplyBody::Stream(Box::pin(stream::iter(items).then(|item| async {
        tokio::task::yield_now().await;
        item
    })))
}

fn failure() -> Result<Bytes, BodyError> {
    Err(BodyError::Upstream("the origin died".into()))
}

impl Service for Scripted {
    type Note = ();

    fn try_hit(&self, request: &RequestView<'_>, _now: Timestamp) -> Option<Answer<()>> {
        let hop = [
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("etag", "\"1\""),
        ];
        let reply = match request.path_and_query.path() {
            "/hit" => reply(200, &hop, ReplyBody::Bytes(Bytes::from_static(HIT))),
            "/stored-hit" => reply(
                200,
                &[("date", "now"), ("content-length", "1024")],
                ReplyBody::Bytes(Bytes::from_static(HIT)),
            ),
            "/large-hit" => reply(
                200,
                &[],
                ReplyBody::Chunks(vec![Bytes::from(vec![7; 64 * 1024]); 16]),
            ),
            "/huge-hit" => reply(
                200,
                &[],
                ReplyBody::Chunks(vec![Bytes::from(vec![7; 64 * 1024]); HUGE / (64 * 1024)]),
            ),
            "/head" => reply(200, &[("content-length", "1024")], ReplyBody::Empty),
            "/204" => reply(204, &[], ReplyBody::Empty),
            "/304" => reply(304, &[("content-length", "1024")], ReplyBody::Empty),
            _ => return None,
        };
        Some(Answer { reply, note: () })
    }

    fn serve(
        self: Arc<Self>,
        head: Arc<RequestHead>,
        mut body: RequestBody,
        interim: Interim,
    ) -> BoxFuture<'static, Answer<()>> {
        self.serving.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let whole = || Ok(Bytes::from(vec![b'p'; PIECE]));
            let sized = |bytes: usize| bytes.to_string();
            let reply = match head.path_and_query.path() {
                "/broken" => {
                    let items = vec![whole(), whole(), failure()];
                    reply(200, &[("content-length", &sized(4 * PIECE))], pieces(items))
                }
                "/broken-unsized" => reply(200, &[], pieces(vec![whole(), whole(), failure()])),
                "/short" => reply(
                    200,
                    &[("content-length", &sized(4 * PIECE))],
                    pieces(vec![whole(), whole()]),
                ),
                "/never" => {
                    let _guard = OnDrop(self.clone());
                    std::future::pending().await
                }
                "/gated" => {
                    let gate = self.clone();
                    let items = stream::iter(0..PIECES).then(move |index| {
                        let gate = gate.clone();
                        async move {
                            if index == PIECES / 2 {
                                gate.gate.acquire().await.unwrap().forget();
                            }
                            Ok(Bytes::from(vec![b'g'; PIECE]))
                        }
                    });
                    let length = sized(PIECES * PIECE);
                    reply(
                        200,
                        &[("content-length", &length)],
                        ReplyBody::Stream(Box::pin(items)),
                    )
                }
                "/upload" => {
                    self.gate.acquire().await.unwrap().forget();
                    let mut failed = None;
                    while let Some(piece) = body.next().await {
                        match piece {
                            Ok(piece) => {
                                self.read.fetch_add(piece.len() as u64, Ordering::SeqCst);
                            }
                            Err(error) => failed = Some(error),
                        }
                    }
                    let read = self.read.load(Ordering::SeqCst).to_string();
                    reply(
                        if failed.is_some() { 400 } else { 200 },
                        &[],
                        ReplyBody::Bytes(read.into()),
                    )
                }
                "/ignore" => reply(200, &[], ReplyBody::Bytes("ignored".into())),
                "/early" => {
                    let mut headers = HeaderMap::new();
                    headers.insert("link", "</a.css>; rel=preload".parse().unwrap());
                    let status = StatusCode::EARLY_HINTS;
                    interim.send(InterimHead { status, headers }).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    reply(200, &[], ReplyBody::Bytes("late".into()))
                }
                "/early-at-once" => {
                    for _ in 0..2 {
                        let mut headers = HeaderMap::new();
                        headers.insert("link", "</a.css>; rel=preload".parse().unwrap());
                        let status = StatusCode::EARLY_HINTS;
                        interim.send(InterimHead { status, headers }).await;
                    }
                    reply(200, &[], ReplyBody::Bytes("late".into()))
                }
                path => reply(404, &[], ReplyBody::Bytes(path.to_owned().into())),
            };
            Answer { reply, note: () }
        })
    }

    fn done(&self, request: &RequestView<'_>, note: Option<()>, sent: &Sent) {
        let path = request.path_and_query.path().to_owned();
        self.done.lock().push(Done {
            path,
            answered: note.is_some(),
            sent: sent.clone(),
        });
    }
}

struct OnDrop(Arc<Scripted>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}
