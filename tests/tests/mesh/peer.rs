//! A member of the mesh that is not the shipped program: a peer on a host of its own, of the same parts, which holds an object and gives chunks of it as badly as it is told to.
//!
//! To the others it is an edge like any: it gossips, keeps its part of the provider index, announces what it holds, and answers who asks.

use std::collections::HashMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use stoq::identity::{Identity, Role};
use stoq::peer::{Handler, PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions};
use stoq_cache::content::{
    ChunkId, ChunkKey, Chunker, GrowingManifest, Manifest, Profile, Validators,
};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::BodyStream;
use stoq_mesh::gossip::{GOSSIP, Gossip, GossipConfig, Places, node_id, pool_config};
use stoq_mesh::index::{Asker, INDEX, IndexServer};
use stoq_mesh::{
    ChunksRequest, Code, Exchanges, Holdings, HoldingsRequest, Manifests, ManifestsRequest,
    ObjectAnswer, ObjectMetrics, ObjectRequest, ObjectServer, ObjectSource, Refusal, Stored,
    between_nodes, wire,
};
use stoq_routing::index::{
    Holder, HolderLimits, Index, LookupLimits, Parts, ProviderIndex as _, REPLICAS, Table,
    TableLimits, WHOLE,
};
use stoq_routing::{Key, Membership as _, NodeState};
use tokio::sync::oneshot;

use crate::network::{Network, at};
use crate::nodes::{SITE, STOQ};

/// An object as every node cuts it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: CacheKey,
    chunk_key: ChunkKey,
    manifest: Manifest,
    body: Bytes,
    /// Where each chunk begins, and its length.
    chunks: HashMap<ChunkId, (usize, usize)>,
    /// Of its longest chunk.
    pub(crate) chunk_bytes_max: usize,
}

impl Object {
    /// That of a body of this type at this URL of a cluster's site.
    pub(crate) fn new(
        identity: &Identity,
        (scheme, host, path): (&str, &str, &str),
        content_type: &str,
        body: &Bytes,
    ) -> Self {
        let chunk_key = ChunkKey::derive(identity.cluster_secret(), SITE);
        let first = &body[..body.len().min(512)];
        let length = body.len() as u64;
        let profile = Profile::choose(Some(content_type.as_bytes()), None, Some(length), first);
        let mut chunker = Chunker::new(profile);
        let mut growing = GrowingManifest::new(profile);
        let (mut chunks, mut at, mut longest) = (HashMap::new(), 0, 0);
        chunker.push(body.clone());
        chunker.finish();
        while let Some(chunk) = chunker.next_chunk() {
            let id = chunk_key.id(&chunk);
            growing
                .push(id, u32::try_from(chunk.len()).unwrap())
                .unwrap();
            chunks.insert(id, (at, chunk.len()));
            at += chunk.len();
            longest = longest.max(chunk.len());
        }
        Self {
            key: CacheKey::of(SITE, scheme, host, path),
            chunk_key,
            manifest: growing.seal(Validators::default()),
            body: body.clone(),
            chunks,
            chunk_bytes_max: longest,
        }
    }

    /// How many chunks it is cut into.
    pub(crate) fn chunks(&self) -> usize {
        self.manifest.len()
    }

    fn chunk(&self, id: &[u8; 32]) -> Option<Bytes> {
        let (at, length) = *self.chunks.get(&ChunkId::from_bytes(*id))?;
        Some(self.body.slice(at..at + length))
    }
}

/// What a peer does with what it is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// One chunk of so many is given with a wrong bit.
    LiesEach(usize),
    /// It gives so many chunks, and then nothing more on connections that stay.
    StallsAfter(usize),
}

#[derive(Debug)]
struct Source {
    object: Arc<Object>,
    fate: Fate,
    asked: AtomicUsize,
    given: Arc<AtomicU64>,
}

impl Source {
    /// Refuses what an edge refuses.
    fn know(&self, site: &str, chunk_key_id: [u8; 16]) -> Result<(), Refusal> {
        match site == SITE && chunk_key_id == *self.object.chunk_key.key_id().as_bytes() {
            true => Ok(()),
            false => Err(Refusal::new(Code::UnknownSite, "another site")),
        }
    }
}

impl ObjectSource for Source {
    fn object(
        &self,
        _: ObjectRequest,
        _: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<ObjectAnswer, Refusal>> {
        let refusal = Refusal::new(Code::UnknownKind, "chunks, and no objects");
        Box::pin(std::future::ready(Err(refusal)))
    }

    fn chunk<'a>(
        &'a self,
        request: &'a ChunksRequest,
        id: [u8; 32],
    ) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            self.know(&request.site, request.chunk_key_id)?;
            let Some(chunk) = self.object.chunk(&id) else {
                return Ok(None);
            };
            let nth = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            let chunk = match self.fate {
                Fate::StallsAfter(most) if nth > most => pending().await,
                Fate::LiesEach(of) if nth.is_multiple_of(of) => {
                    let mut wrong = chunk.to_vec();
                    wrong[chunk.len() / 2] ^= 1;
                    wrong.into()
                }
                Fate::StallsAfter(_) | Fate::LiesEach(_) => chunk,
            };
            self.given.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(Some(chunk))
        })
    }

    fn holdings(&self, request: &HoldingsRequest) -> Result<Holdings, Refusal> {
        self.know(&request.site, request.chunk_key_id)?;
        let held = request.chunks.iter();
        let held = held.map(|id| self.object.chunks.contains_key(&ChunkId::from_bytes(*id)));
        Ok(Holdings {
            held: held.collect(),
        })
    }

    fn manifests<'a>(
        &'a self,
        request: &'a ManifestsRequest,
    ) -> BoxFuture<'a, Result<Manifests, Refusal>> {
        Box::pin(async move {
            self.know(&request.site, request.chunk_key_id)?;
            let stored = Stored {
                root: *self.object.manifest.root().as_bytes(),
                total: self.object.manifest.total_len(),
                whole: true,
            };
            let is_it = request.key == *self.object.key.as_bytes();
            Ok(Manifests {
                stored: is_it.then_some(stored).into_iter().collect(),
            })
        })
    }
}

/// A peer that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    given: Arc<AtomicU64>,
    announced: Arc<AtomicBool>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Has a member of the mesh run on `host`, which finds the others through `seed`.
    pub(crate) fn start(
        network: &Network,
        host: usize,
        identity: Identity,
        seed: SocketAddr,
        object: &Arc<Object>,
        fate: Fate,
    ) -> Self {
        let given = Arc::<AtomicU64>::default();
        let source = Source {
            object: Arc::clone(object),
            fate,
            asked: AtomicUsize::new(0),
            given: Arc::clone(&given),
        };
        let announced = Arc::<AtomicBool>::default();
        let said = Arc::clone(&announced);
        let (end, ended) = oneshot::channel();
        let thread = network.run(host, move || async move {
            tokio::select! {
                () = live(at(host, STOQ), identity, seed, source, &said) => {}
                // Said, or dropped.
                _ = ended => {}
            }
        });
        Self {
            given,
            announced,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Bytes of chunks that it has given, right or wrong.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Whether all owners know what it holds.
    pub(crate) fn announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Never ends.
async fn live(
    listens: SocketAddr,
    identity: Identity,
    seed: SocketAddr,
    source: Source,
    announced: &AtomicBool,
) {
    let sockets = SocketGroup::bind(listens, 1, &SocketOptions::default()).unwrap();
    let config = EndpointConfig {
        server: Some(identity.server_tls().unwrap()),
        transport: between_nodes(),
        ..EndpointConfig::new(CidKeys::random())
    };
    let endpoint = Endpoint::new(sockets.take(0).unwrap(), config).unwrap();
    let pool = |config: PoolConfig| {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let client = Endpoint::client(any, between_nodes()).unwrap();
        Pool::new(client, identity.clone(), config)
    };

    let zone = "eu-fra".parse().unwrap();
    let mut own = NodeState::new(node_id(identity.node_id()), identity.name(), zone);
    own.addresses = vec![listens];
    let gossip = Gossip::new(&identity, own, GossipConfig::default());
    let asker = Asker::default();
    asker.begin(pool(PoolConfig::default()));
    let index = Arc::new(Index::new(Parts {
        rpc: asker,
        signer: Arc::new(gossip.papers().clone()),
        verifier: Arc::new(gossip.papers().clone()),
        rtt: Box::new(|_| None),
        lookups: LookupLimits::default(),
        table: Table::new(TableLimits::default(), false),
        holder: Holder::new(gossip.view().me, 1, HolderLimits::default(), false),
        view: gossip.view(),
        store: None,
    }));
    let object = &source.object;
    let root = *object.manifest.root().as_bytes();
    index.provide(Key(*object.key.as_bytes()), root, WHOLE);

    let members = [Role::Edge, Role::Shield];
    let objects: Arc<dyn Handler> = Arc::new(ObjectServer::new(
        Arc::new(source),
        Arc::new(ObjectMetrics::default()),
    ));
    let answers: Arc<dyn Handler> = Arc::new(IndexServer::new(Arc::clone(&index), &identity));
    let exchanges = Exchanges::default()
        .answering(
            [wire::CHUNKS, wire::HOLDINGS, wire::MANIFESTS],
            &members,
            &objects,
        )
        .answering([GOSSIP], &members, &gossip.handler())
        .answering([INDEX], &members, &answers);
    let config = ServeConfig {
        kinds: exchanges.rules(),
        ..ServeConfig::default()
    };
    let server = PeerServer::new(endpoint, identity.clone(), Arc::new(exchanges), config);
    let places = Places::fixed([seed]);
    let following = async {
        let mut view = gossip.view();
        loop {
            index.follow(Arc::clone(&view));
            view = gossip.changed(view.generation).await;
        }
    };
    let watching = async {
        loop {
            let lag = index.tally().lag;
            announced.store(
                lag.owners >= REPLICAS && lag.waiting == 0,
                Ordering::Relaxed,
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(
        watching,
        server.serve(),
        gossip.run(pool(pool_config()), &places),
        index.run(pending()),
        following
    );
}
