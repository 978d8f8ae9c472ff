//! A body filled from several nodes on real sockets, some of which lie, stall or die.

#![expect(clippy::unwrap_used, reason = "a failed arrangement is a failed test")]

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode};
use prometheus_client::registry::Registry;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{Handler, PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions};
use stoq_cache::content::{ChunkId, ChunkKey, GrowingManifest, Manifest, Profile, Validators};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{
    BodyStream, ChunkEvent, FetchBody, FetchRequest, Source, Upstream, UpstreamError,
};
use stoq_mesh::{
    AnswerBody, Candidate, ChunksRequest, Exchanges, FillMetrics, Holders, Holdings,
    HoldingsRequest, Manifests, ManifestsRequest, Neighbours, ObjectAnswer, ObjectMetrics,
    ObjectRequest, ObjectServer, ObjectSource, Patience, PeerFill, PeerFills, Provenance, Refusal,
    ShieldClient, Sought, Stored, between_nodes, wire,
};
use tokio::task::JoinHandle;

const CHUNK_LEN: u32 = 64 << 10;
const CHUNK: usize = CHUNK_LEN as usize;

/// Silence that even a machine with other work does not explain.
const SILENCE: Duration = Duration::from_secs(3);

const PATIENCE: Patience = Patience {
    found_within: Duration::from_secs(20),
    first: SILENCE,
    least: SILENCE,
    most: SILENCE,
    held_up: SILENCE,
};

fn neighbours(nodes: Vec<SocketAddr>) -> Neighbours {
    Neighbours::new(nodes).answering_within(Duration::from_secs(10))
}

/// An object of chunks of 64 KiB, all different.
#[derive(Debug)]
struct Object {
    key: ChunkKey,
    manifest: Manifest,
    /// By id: place and bytes.
    chunks: HashMap<[u8; 32], (usize, Bytes)>,
    body: Vec<u8>,
}

impl Object {
    fn new(chunks: usize) -> Arc<Self> {
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

    fn root(&self) -> [u8; 32] {
        *self.manifest.root().as_bytes()
    }
}

/// What a node does after it has given so many chunks.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Gives,
    Lies(usize),
    Stalls(usize),
    Dies(usize),
}

/// A node that holds an object, or those of its chunks that `holds` says.
struct Node {
    object: Arc<Object>,
    fate: Fate,
    holds: fn(usize) -> bool,
    given: AtomicUsize,
    endpoint: Arc<OnceLock<Endpoint>>,
    asked_for_objects: Arc<AtomicUsize>,
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

struct Served {
    addr: SocketAddr,
    task: JoinHandle<()>,
    endpoint: Endpoint,
    asked_for_objects: Arc<AtomicUsize>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Place {
    root: ClusterRoot,
    object: Arc<Object>,
}

impl Place {
    fn new(chunks: usize) -> Self {
        Self {
            root: ClusterRoot::generate("demo", validity()).unwrap(),
            object: Object::new(chunks),
        }
    }

    fn identity(&self, name: &str, role: Role) -> Identity {
        let file = self.root.issue(name, &[role], validity()).unwrap();
        Identity::new(file, self.root.certificate().clone()).unwrap()
    }

    fn node(&self, name: &str, role: &Role, fate: Fate, holds: fn(usize) -> bool) -> Served {
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
        let slot = Arc::new(OnceLock::new());
        let source = Node {
            object: Arc::clone(&self.object),
            fate,
            holds,
            given: AtomicUsize::new(0),
            endpoint: Arc::clone(&slot),
            asked_for_objects: Arc::clone(&asked_for_objects),
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
        }
    }

    fn edge(&self, shield: &Served, holders: Arc<dyn Holders>, as_role: Role) -> Edge {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::client(any, between_nodes()).unwrap();
        let identity = self.identity("asker", as_role);
        let pool = Pool::new(endpoint, identity, PoolConfig::default());
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

fn validity() -> Validity {
    Validity::starting(rustls_pki_types::UnixTime::now(), Duration::from_secs(3600))
}

/// The asking side.
struct Edge {
    fill: PeerFill,
    metrics: Arc<FillMetrics>,
    registry: Registry,
}

/// A body that came: its bytes, and how many of them from whom.
struct Came {
    body: Vec<u8>,
    peer: usize,
    shield: usize,
}

impl Edge {
    async fn fetch(&self) -> Came {
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

    fn faults(&self, fault: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let name = format!("fill_faults_total{{fault=\"{fault}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

fn request() -> FetchRequest {
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

fn all(_: usize) -> bool {
    true
}

#[tokio::test]
async fn body_comes_whole_from_two_good_peers_of_five() {
    let place = Place::new(256);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let fates = [
        Fate::Lies(9),
        Fate::Stalls(7),
        Fate::Dies(12),
        Fate::Gives,
        Fate::Gives,
    ];
    let names = ["edge-1", "edge-2", "edge-3", "edge-4", "edge-5"];
    let peers: Vec<_> = names
        .into_iter()
        .zip(fates)
        .map(|(name, fate)| place.node(name, &Role::Edge, fate, all))
        .collect();
    let addresses = peers.iter().map(|peer| peer.addr).collect();
    let edge = place.edge(&shield, Arc::new(neighbours(addresses)), Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (256 * CHUNK, 0));
    // Who stalls is found by its silence, or before that by who waits for it.
    let silent = edge.faults("stalled") + edge.faults("slow");
    let faults = [edge.faults("lied"), silent, edge.faults("broke")];
    let wasted = edge.metrics.wasted_bytes.get();
    println!("lied, silent, broke: {faults:?}; {wasted} bytes came for nothing");
    assert!(faults.iter().all(|count| *count >= 1), "{faults:?}");
    let failures: u64 = faults.iter().sum();
    assert!(wasted <= failures * CHUNK as u64, "{wasted}");
    assert_eq!(
        (edge.metrics.whole.get(), edge.metrics.broken.get()),
        (1, 0)
    );

    // The liar is not asked again.
    let lied = edge.faults("lied");
    assert!(edge.fetch().await.body == place.object.body);
    assert_eq!(edge.faults("lied"), lied);
}

#[tokio::test]
async fn peers_give_the_parts_they_have_and_the_shield_what_none_has() {
    let place = Place::new(300);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let first = place.node("edge-1", &Role::Edge, Fate::Gives, |chunk| chunk % 3 == 0);
    let second = place.node("edge-2", &Role::Edge, Fate::Gives, |chunk| chunk % 3 == 1);
    let holders = Arc::new(neighbours(vec![first.addr, second.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (200 * CHUNK, 100 * CHUNK));
    assert_eq!(edge.metrics.wasted_bytes.get(), 0);
    assert_eq!(shield.asked_for_objects.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn shield_gives_all_where_every_peer_is_gone() {
    let place = Place::new(100);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Dies(10), all);
    let holders = Arc::new(neighbours(vec![peer.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!(came.peer + came.shield, 100 * CHUNK);
    assert!(came.peer <= 10 * CHUNK && came.shield >= 90 * CHUNK);
    // Nobody answers the question what it has either, so that the shield is asked for the whole.
    peer.endpoint.close(0, b"");
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (0, 100 * CHUNK));
}

#[tokio::test]
async fn chunks_by_name_come_from_peers_in_order() {
    let place = Place::new(20);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, |chunk| chunk != 5);
    let holders = Arc::new(neighbours(vec![peer.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);
    let wanted = place.object.manifest.entries_from(3).take(10);
    let wanted: Vec<(ChunkId, u32)> = wanted.map(|entry| (entry.id, entry.len)).collect();

    let key = request().key;
    let pieces = edge.fill.chunks("site".into(), key, wanted).await.unwrap();
    let pieces: Vec<_> = pieces.try_collect().await.unwrap();

    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|(bytes, _)| bytes.to_vec())
        .collect();
    assert!(
        bytes == place.object.body[3 * CHUNK..13 * CHUNK],
        "other bytes"
    );
    let shield = pieces.iter().filter(|(_, via)| *via == Source::Shield);
    assert_eq!(shield.count(), 1);
}

/// Says that whoever is at this address holds the object whole, and who that is.
#[derive(Debug)]
struct Says(Candidate);

impl Holders for Says {
    fn find<'a>(&'a self, _: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(async { vec![self.0.clone()] })
    }
}

#[tokio::test]
async fn who_is_not_who_it_should_be_is_asked_for_nothing() {
    let place = Place::new(20);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, all);
    let said = |node| {
        Arc::new(Says(Candidate {
            node,
            addresses: vec![peer.addr],
            manifest: place.object.manifest.root(),
            whole: true,
            rtt: None,
        }))
    };
    let other = stoq::identity::NodeId([9; 32]);
    let edge = place.edge(&shield, said(Some(other)), Role::Edge);
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (0, 20 * CHUNK));

    let edge = place.edge(&shield, said(None), Role::Edge);
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (20 * CHUNK, 0));
}

#[tokio::test]
async fn edge_answers_no_objects_and_nobody_without_a_role() {
    let place = Place::new(4);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, all);
    let nobody: Arc<dyn Holders> = Arc::new(Neighbours::default());
    // Taken for a shield, an edge gives no objects.
    let edge = place.edge(&peer, Arc::clone(&nobody), Role::Edge);
    let refused = edge.fill.fetch(request()).await;
    assert!(
        matches!(refused, Err(UpstreamError::ShieldDown(_))),
        "{refused:?}"
    );
    // Nor chunks to one who is neither edge nor shield.
    let admin = place.edge(&peer, nobody, Role::Admin);
    let entry = place.object.manifest.entry(0).unwrap();
    let key = request().key;
    let asked = admin
        .fill
        .chunks("site".into(), key, vec![(entry.id, entry.len)]);
    let mut pieces = asked.await.unwrap();
    assert!(pieces.next().await.unwrap().is_err());
}
