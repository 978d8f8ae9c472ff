//! Nodes that hold an object, and an edge that asks them.

use std::collections::HashMap;
use std::future::pending;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{TryStreamExt, stream};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{Handler, PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions};
use stoq_cache::content::{ChunkKey, GrowingManifest, Manifest, Profile, Validators};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{BodyStream, ChunkEvent, FetchBody, FetchRequest, Source, Upstream};
use stoq_mesh::{
    AnswerBody, ChunksRequest, Exchanges, FillMetrics, Holders, Holdings, HoldingsRequest,
    Manifests, ManifestsRequest, Neighbours, ObjectAnswer, ObjectMetrics, ObjectRequest,
    ObjectServer, ObjectSource, Patience, PeerFill, PeerFills, Provenance, Refusal, ShieldClient,
    Stored, WithVoucher, between_nodes, wire,
};
use tokio::task::JoinHandle;

pub(crate) const CHUNK_LEN: u32 = 64 << 10;
pub(crate) const CHUNK: usize = CHUNK_LEN as usize;

/// Silence that even a machine with other work does not explain.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

pub(crate) const PATIENCE: Patience = Patience {
    found_within: Duration::from_secs(20),
    first: SILENCE,
    least: SILENCE,
    most: SILENCE,
    held_up: SILENCE,
    floor: Duration::from_secs(60),
};

/// Dials for longer than [`soon`] lasts, so that only who asks can give it up.
pub(crate) fn patient() -> PoolConfig {
    let mut config = PoolConfig::default();
    config.dial.connect_timeout = Duration::from_secs(3600);
    config
}

/// An address where nobody answers. Kept open for as long as the socket is.
pub(crate) fn nobody() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// What comes within 20 s. A handshake that nobody answers is given up after 30 s at the earliest.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(Duration::from_secs(20), what).await;
    came.expect("it is waited for too long")
}

pub(crate) fn neighbours(nodes: Vec<SocketAddr>) -> Neighbours {
    Neighbours::new(nodes).answering_within(Duration::from_secs(10))
}

/// An object of chunks of 64 KiB, all different.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: ChunkKey,
    pub(crate) manifest: Manifest,
    /// By id: place and bytes.
    pub(crate) chunks: HashMap<[u8; 32], (usize, Bytes)>,
    pub(crate) body: Vec<u8>,
}

impl Object {
    pub(crate) fn new(chunks: usize) -> Arc<Self> {
        let key = ChunkKey::derive(&[1; 32], "site");
        let mut growing = GrowingManifest::new(Profile::Coarse);
        let (mut by_id, mut body) = (HashMap::new(), Vec::new());
        for number in 0..chunks {
            let mut bytes = vec![0; CHUNK];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let id = key.id(&bytes);
            growing.push(id, CHUNK_LEN).unwrap();
            body.extend_from_slice(&bytes);
            by_id.insert(*id.as_bytes(), (number, Bytes::from(bytes)));
        }
        Arc::new(Self {
            key,
            manifest: growing.seal(Validators::default()),
            chunks: by_id,
            body,
        })
    }

    /// Its manifest anew.
    fn sealed(&self) -> Manifest {
        let mut growing = GrowingManifest::new(Profile::Coarse);
        for entry in self.manifest.entries_from(0) {
            growing.push(entry.id, entry.len).unwrap();
        }
        growing.seal(Validators::default())
    }

    pub(crate) fn root(&self) -> [u8; 32] {
        *self.manifest.root().as_bytes()
    }
}

/// What a node does after it has given so many chunks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    Gives,
    Lies(usize),
    Stalls(usize),
    Dies(usize),
    /// Never says what anybody vouches for.
    Mute,
    /// Blocks its thread, once, for longer than any silence is borne. In a test of one thread that is everybody's.
    Blocks(usize),
}

/// A node that holds an object, or those of its chunks that `holds` says.
pub(crate) struct Node {
    pub(crate) object: Arc<Object>,
    pub(crate) fate: Fate,
    pub(crate) holds: fn(usize) -> bool,
    pub(crate) given: AtomicUsize,
    pub(crate) endpoint: Arc<OnceLock<Endpoint>>,
    pub(crate) asked_for_objects: Arc<AtomicUsize>,
    /// What it has of the word of who fetched the object.
    pub(crate) word: Option<Bytes>,
    /// The fields with which it was asked for that.
    pub(crate) asked_with: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Node {
    fn has(&self, id: &[u8; 32]) -> bool {
        let known = self.object.chunks.get(id);
        known.is_some_and(|(place, _)| (self.holds)(*place))
    }
}

impl ObjectSource for Node {
    /// As a shield: names for who has them, else bytes.
    fn object(
        &self,
        request: ObjectRequest,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>> {
        self.asked_for_objects.fetch_add(1, Ordering::Relaxed);
        let held = request.held == Some(self.object.root());
        let chunks = self.object.manifest.entries_from(0).flat_map(|entry| {
            let (_, bytes) = self.object.chunks[entry.id.as_bytes()].clone();
            let (id, len) = (entry.id, entry.len);
            match held {
                true => vec![ChunkEvent::Held { id, len }],
                false => vec![ChunkEvent::Bytes(bytes), ChunkEvent::Chunk { id, len }],
            }
        });
        let sealed = ChunkEvent::Sealed {
            root: self.object.manifest.root(),
            total: self.object.manifest.total_len(),
        };
        let events: Vec<_> = [ChunkEvent::Profile(Profile::Coarse)]
            .into_iter()
            .chain(chunks)
            .chain([sealed])
            .map(Ok)
            .collect();
        let answer = ObjectAnswer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            cache_status: String::new(),
            provenance: Provenance::Store,
            body: AnswerBody::Chunked(Box::pin(stream::iter(events))),
        };
        Box::pin(async move { Ok(answer) })
    }

    fn chunk<'a>(
        &'a self,
        _: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            if !self.has(&id) {
                return Ok(None);
            }
            let (_, bytes) = self.object.chunks[&id].clone();
            let nth = self.given.fetch_add(1, Ordering::Relaxed);
            match self.fate {
                Fate::Lies(after) if nth == after => {
                    let mut wrong = bytes.to_vec();
                    wrong[CHUNK / 2] ^= 1;
                    Ok(Some(wrong.into()))
                }
                Fate::Blocks(after) if nth == after => {
                    block();
                    Ok(Some(bytes))
                }
                Fate::Stalls(after) if nth >= after => pending().await,
                Fate::Dies(after) if nth >= after => {
                    self.endpoint.get().unwrap().close(0, b"");
                    pending().await
                }
                _ => Ok(Some(bytes)),
            }
        })
    }

    fn holdings(&self, request: &HoldingsRequest) -> Result<Holdings, Refusal> {
        let held = request.chunks.iter().map(|id| self.has(id)).collect();
        Ok(Holdings { held })
    }

    fn vouched<'a>(
        &'a self,
        request: &'a ObjectRequest,
    ) -> BoxFuture<'a, Result<Option<WithVoucher>, Refusal>> {
        self.asked_with.lock().push(request.headers.clone());
        if matches!(self.fate, Fate::Mute) {
            return Box::pin(pending());
        }
        let word = self.word.clone();
        let with = word.map(|word| (word, Arc::new(self.object.sealed())));
        Box::pin(std::future::ready(Ok(with)))
    }

    fn manifests<'a>(
        &'a self,
        _: &'a ManifestsRequest,
    ) -> BoxFuture<'a, Result<Manifests, Refusal>> {
        let stored = vec![Stored {
            root: self.object.root(),
            total: self.object.manifest.total_len(),
            whole: (0..self.object.manifest.len()).all(self.holds),
        }];
        Box::pin(async { Ok(Manifests { stored }) })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a worker that is blocked is what is tested"
)]
fn block() {
    std::thread::sleep(SILENCE + Duration::from_secs(1));
}

pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    pub(crate) task: JoinHandle<()>,
    pub(crate) endpoint: Endpoint,
    pub(crate) asked_for_objects: Arc<AtomicUsize>,
    pub(crate) asked_with: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Place {
    pub(crate) root: ClusterRoot,
    pub(crate) object: Arc<Object>,
}

impl Place {
    pub(crate) fn new(chunks: usize) -> Self {
        Self {
            root: ClusterRoot::generate("demo", at(Duration::from_secs(DAY), 2 * DAY)).unwrap(),
            object: Object::new(chunks),
        }
    }

    pub(crate) fn identity(&self, name: &str, role: Role) -> Identity {
        let file = self.root.issue(name, &[role], validity()).unwrap();
        Identity::new(file, self.root.certificate().clone()).unwrap()
    }

    pub(crate) fn node(
        &self,
        name: &str,
        role: &Role,
        fate: Fate,
        holds: fn(usize) -> bool,
    ) -> Served {
        self.node_with(name, role, fate, holds, None)
    }

    /// As [`node`](Self::node), of one that has this word for the object.
    pub(crate) fn node_with(
        &self,
        name: &str,
        role: &Role,
        fate: Fate,
        holds: fn(usize) -> bool,
        word: Option<Bytes>,
    ) -> Served {
        let identity = self.identity(name, role.clone());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = SocketGroup::bind(any, 1, &SocketOptions::default()).unwrap();
        let addr = sockets.local_addr();
        let config = EndpointConfig {
            server: Some(identity.server_tls().unwrap()),
            transport: between_nodes(),
            ..EndpointConfig::new(CidKeys::random())
        };
        let endpoint = Endpoint::new(sockets.take(0).unwrap(), config).unwrap();
        let asked_for_objects = Arc::new(AtomicUsize::new(0));
        let asked_with = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let slot = Arc::new(OnceLock::new());
        let source = Node {
            object: Arc::clone(&self.object),
            fate,
            holds,
            given: AtomicUsize::new(0),
            endpoint: Arc::clone(&slot),
            asked_for_objects: Arc::clone(&asked_for_objects),
            word,
            asked_with: Arc::clone(&asked_with),
        };
        assert!(slot.set(endpoint.clone()).is_ok());
        let server = ObjectServer::new(Arc::new(source), Arc::new(ObjectMetrics::default()));
        let mut kinds = vec![wire::CHUNKS, wire::HOLDINGS, wire::MANIFESTS, wire::VOUCHED];
        if *role == Role::Shield {
            kinds.push(wire::OBJECT);
        }
        let server: Arc<dyn Handler> = Arc::new(server);
        let exchanges = Exchanges::default().answering(kinds, &[Role::Edge, Role::Shield], &server);
        let config = ServeConfig {
            kinds: exchanges.rules(),
            ..ServeConfig::default()
        };
        let server = PeerServer::new(endpoint.clone(), identity, Arc::new(exchanges), config);
        Served {
            addr,
            endpoint,
            task: tokio::spawn(async move { server.serve().await }),
            asked_for_objects,
            asked_with,
        }
    }

    pub(crate) fn edge(&self, shield: &Served, holders: Arc<dyn Holders>, as_role: Role) -> Edge {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::client(any, between_nodes()).unwrap();
        let identity = self.identity("asker", as_role);
        let pool = Pool::new(endpoint, identity, patient());
        let key = self.object.key.clone();
        let id = *key.key_id().as_bytes();
        let shield = ShieldClient::new(
            pool.clone(),
            [shield.addr.into()].into(),
            Arc::new(move |_| id),
            Duration::from_secs(10),
        );
        let metrics = Arc::new(FillMetrics::default());
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let keys = Arc::new(move |site: &str| (site == "site").then(|| key.clone()));
        let fills = PeerFills::new(holders, keys, Arc::new(|_| false), Arc::clone(&metrics))
            .patient(PATIENCE);
        Edge {
            fill: fills.over(pool, Arc::new(shield)),
            metrics,
            registry,
        }
    }
}

pub(crate) fn validity() -> Validity {
    at(Duration::ZERO, 3600)
}

const DAY: u64 = 24 * 3600;

/// Of so many seconds, begun so long ago.
pub(crate) fn at(ago: Duration, secs: u64) -> Validity {
    let now = Duration::from_secs(rustls_pki_types::UnixTime::now().as_secs());
    let begin = rustls_pki_types::UnixTime::since_unix_epoch(now - ago);
    Validity::starting(begin, Duration::from_secs(secs))
}

/// The asking side.
pub(crate) struct Edge {
    pub(crate) fill: PeerFill,
    pub(crate) metrics: Arc<FillMetrics>,
    pub(crate) registry: Registry,
}

/// A body that came: its bytes, and how many of them from whom.
pub(crate) struct Came {
    pub(crate) body: Vec<u8>,
    pub(crate) peer: usize,
    pub(crate) shield: usize,
}

impl Edge {
    pub(crate) async fn fetch(&self) -> Came {
        let response = self.fill.fetch(request()).await.unwrap();
        let FetchBody::Chunked(events) = response.body else {
            panic!("a chunked body was sent")
        };
        let events: Vec<_> = events.try_collect().await.unwrap();
        let mut came = Came {
            body: Vec::new(),
            peer: 0,
            shield: 0,
        };
        for event in events {
            match event {
                ChunkEvent::Bytes(bytes) => {
                    came.shield += bytes.len();
                    came.body.extend_from_slice(&bytes);
                }
                ChunkEvent::Whole { chunk, via } => {
                    let bytes = chunk.bytes();
                    came.body.extend_from_slice(bytes);
                    match via {
                        Source::Peer => came.peer += bytes.len(),
                        Source::Shield => came.shield += bytes.len(),
                        Source::Origin => panic!("no origin was asked"),
                    }
                }
                _ => {}
            }
        }
        came
    }

    pub(crate) fn faults(&self, fault: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let name = format!("fill_faults_total{{fault=\"{fault}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

pub(crate) fn request() -> FetchRequest {
    FetchRequest {
        method: Method::GET,
        scheme: Scheme::HTTPS,
        authority: "example.org".to_owned(),
        path_and_query: PathAndQuery::from_static("/a"),
        headers: HeaderMap::new(),
        body: None,
        site: "site".into(),
        key: CacheKey::of("site", "https", "example.org", "/a"),
        held: None,
    }
}

pub(crate) fn all(_: usize) -> bool {
    true
}
