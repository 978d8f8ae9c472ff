//! Indexes of several nodes over a network in memory, with certificates as they are and time that is not waited for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use stoq::identity::{
    ALPN, AuditEvent, AuditSink, ClusterRoot, Identity, Revocations, Role, Trust, Validity,
};
use stoq::peer::{Handler, PeerServer, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::TransportConfig;
use stoq::transport::memory::{Conditions, Network};
use stoq_cache::content::ManifestId;
use stoq_cache::engine::{Cache, CacheConfig, HITS_TOLD, Seen, Watcher};
use stoq_cache::key::CacheKey;
use stoq_routing::index::{
    Announcement, Change, Contact, Finding, Holder, HolderLimits, Index, LookupLimits, Parts,
    Provider, ProviderIndex, Record, Refusal, Reply, Request, Rpc, RpcError, Signed, Table,
    TableLimits, Terms, WHOLE, Worth,
};
use stoq_routing::membership::{Change as Changed, Membership, NextView};
use stoq_routing::{Key, NodeId, NodeState, Policy, View};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::metrics::IndexMetrics;
use super::{Announcer, Asker, INDEX, IndexHolders, IndexServer};
use crate::fill::{Candidate, Holders, Sought};
use crate::gossip::{Papers, node_id};
use crate::{Bearings, Exchanges};

/// What was audited.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<String>>);

impl AuditSink for Noted {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().push(event.to_json());
    }
}

fn day() -> Validity {
    Validity::starting(UnixTime::now(), Duration::from_secs(86_400))
}

fn root() -> ClusterRoot {
    ClusterRoot::generate("test", day()).unwrap()
}

fn trusting(root: &ClusterRoot, name: &str, trust: Trust) -> Identity {
    let file = root.issue(name, &[Role::Edge], day()).unwrap();
    Identity::with_trust(file, root.certificate().clone(), trust).unwrap()
}

fn identity(root: &ClusterRoot, name: &str) -> Identity {
    trusting(root, name, Trust::default())
}

fn addr(number: usize) -> SocketAddr {
    let number = u8::try_from(number).unwrap();
    SocketAddr::from(([10, 0, 0, number + 1], 7443))
}

fn state(identity: &Identity, addr: SocketAddr) -> NodeState {
    let id = node_id(identity.node_id());
    let mut state = NodeState::new(id, identity.name(), "eu-fra".parse().unwrap());
    state.addresses = vec![addr];
    state
}

fn view(me: NodeId, nodes: &[NodeState]) -> Arc<View> {
    let nodes = nodes.iter().cloned().map(Arc::new);
    Arc::new(View::new(me, 1, true, nodes))
}

fn key(number: u8) -> Key {
    Key([number; 32])
}

fn index(papers: &Papers, asker: &Asker, view: Arc<View>) -> Arc<Index<Asker>> {
    Arc::new(Index::new(Parts {
        rpc: asker.clone(),
        signer: Arc::new(papers.clone()),
        verifier: Arc::new(papers.clone()),
        rtt: Box::new(|_| None),
        lookups: LookupLimits::default(),
        table: Table::new(TableLimits::default(), false),
        holder: Holder::new(view.me, 1, HolderLimits::default(), false),
        view,
        store: None,
    }))
}

/// An index that nobody answers.
fn lonely(identity: &Identity, others: &[NodeState]) -> (Papers, Arc<Index<Asker>>) {
    let papers = Papers::new(identity);
    let me = state(identity, addr(0));
    let nodes: Vec<_> = others.iter().cloned().chain([me.clone()]).collect();
    let index = index(&papers, &Asker::default(), view(me.id, &nodes));
    (papers, index)
}

struct Node {
    index: Arc<Index<Asker>>,
    view: Arc<View>,
    pool: Pool,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn pool(network: &Network, identity: &Identity, number: usize) -> Pool {
    let mut from = addr(number);
    from.set_port(1_000);
    let client = network.client(from).unwrap();
    Pool::new(client, identity.clone(), PoolConfig::default())
}

/// So many nodes that see each other, 10 ms apart.
fn mesh(network: &Network, root: &ClusterRoot, count: usize) -> Vec<Node> {
    network.set_default(Conditions {
        latency: Duration::from_millis(10),
        ..Conditions::default()
    });
    let names = (0..count).map(|number| format!("edge-{number}"));
    let identities: Vec<_> = names.map(|name| identity(root, &name)).collect();
    let places = identities.iter().enumerate();
    let states: Vec<_> = places.map(|(at, one)| state(one, addr(at))).collect();
    let node = |(number, one): (usize, &Identity)| {
        let papers = Papers::new(one);
        for other in &identities {
            papers.learn(other.certificate()).unwrap();
        }
        let asker = Asker::default();
        let pool = pool(network, one, number);
        asker.begin(pool.clone());
        let view = view(node_id(one.node_id()), &states);
        let index = index(&papers, &asker, Arc::clone(&view));
        let handler: Arc<dyn Handler> = Arc::new(IndexServer::new(Arc::clone(&index), one));
        let exchanges = Exchanges::default().answering([INDEX], &[Role::Edge], &handler);
        let config = ServeConfig {
            kinds: exchanges.rules(),
            ..ServeConfig::default()
        };
        let tls = one.server_config(ALPN).unwrap();
        let place = network
            .server(addr(number), tls, TransportConfig::default())
            .unwrap();
        let server = PeerServer::new(place, one.clone(), Arc::new(exchanges), config);
        let running = Arc::clone(&index);
        Node {
            index,
            view,
            pool,
            tasks: [
                tokio::spawn(async move { server.serve().await }),
                tokio::spawn(async move { running.run(std::future::pending()).await }),
            ],
        }
    };
    identities.iter().enumerate().map(node).collect()
}

#[tokio::test(start_paused = true)]
async fn what_one_node_announces_others_find_and_not_what_it_takes_back() {
    let network = Network::new(7);
    let nodes = mesh(&network, &root(), 6);
    nodes[0].index.provide(key(1), [9; 32], WHOLE);
    sleep(Duration::from_secs(5)).await;
    for node in &nodes[1..] {
        let asker = Asker::over(node.pool.clone());
        let Finding::Found(providers) = node.index.find_by(&asker, key(1)).await else {
            panic!("found");
        };
        assert_eq!(providers.len(), 1);
        assert_eq!(providers[0].manifest, [9; 32]);
        assert_eq!(node.index.find(key(2)).await, Finding::Nobody);
    }
    assert!(nodes[0].index.withdraw(&key(1)));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(nodes[5].index.find(key(1)).await, Finding::Nobody);
}

#[tokio::test(start_paused = true)]
async fn node_in_the_place_of_another_is_not_asked() {
    let (network, root) = (Network::new(7), root());
    let nodes = mesh(&network, &root, 2);
    let ask = async |id: NodeId, addresses: &[SocketAddr]| {
        let contact = Contact {
            id,
            addresses: addresses.to_vec(),
        };
        let request = Request::Find {
            key: key(1),
            wide: false,
        };
        let asker = Asker::over(nodes[0].pool.clone());
        asker.ask(&contact, request).await
    };
    let stranger = node_id(identity(&root, "edge-9").node_id());
    let refused = ask(stranger, &[addr(1)]).await;
    assert!(
        matches!(&refused, Err(RpcError::Unreachable(why)) if why.contains("in the place of")),
        "{refused:?}"
    );
    let none = ask(stranger, &[]).await;
    assert!(matches!(none, Err(RpcError::Unreachable(_))), "{none:?}");
}

/// An announcement of one record by this node to that one.
fn announcement(holder: NodeId, owner: NodeId, sequence: u64) -> Announcement {
    Announcement {
        terms: Terms {
            holder,
            owner,
            generation: 1,
            sequence,
        },
        changes: vec![Change::Add(Record {
            key: key(1),
            manifest: [1; 32],
            fraction: WHOLE,
            generation: 1,
        })],
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_honest_node_says_is_refused_counted_and_audited_once_a_minute() {
    let root = root();
    let noted = Arc::new(Noted::default());
    let mut trust = Trust::default();
    trust.audit = Arc::clone(&noted) as _;
    let revocations: Revocations = trust.revocations.clone();
    let own = trusting(&root, "edge-0", trust);
    let (papers, index) = lonely(&own, &[]);
    let me = node_id(own.node_id());
    let names = ["honest", "forger", "unknown", "revoked"];
    let [honest, forger, unknown, revoked] = names.map(|name| identity(&root, name));
    for known in [&honest, &forger, &revoked] {
        papers.learn(known.certificate()).unwrap();
    }
    revocations.replace([revoked.node_id()]).unwrap();
    let server = IndexServer::new(Arc::clone(&index), &own);
    let say = |from: &Identity, signer: &Identity, owner: NodeId, holder: &Identity| {
        let announcement = announcement(node_id(holder.node_id()), owner, 1);
        let request = Request::Announce(Signed::by(&Papers::new(signer), announcement));
        let reply = server.reply(from.node_id(), addr(9), from.name(), &request.encode());
        Reply::decode(&reply).unwrap()
    };
    let elsewhere = NodeId([3; 32]);
    let cases = [
        (say(&forger, &forger, me, &honest), Refusal::ForAnother),
        (say(&forger, &honest, me, &honest), Refusal::ForAnother),
        (say(&honest, &forger, me, &honest), Refusal::Forged),
        (say(&honest, &honest, elsewhere, &honest), Refusal::NotForMe),
        (say(&unknown, &unknown, me, &unknown), Refusal::Unknown),
        (say(&revoked, &revoked, me, &revoked), Refusal::Revoked),
    ];
    let mut counted = BTreeMap::new();
    for (reply, refusal) in &cases {
        assert_eq!(*reply, Reply::Refused(*refusal));
        *counted.entry(refusal.at()).or_insert(0) += 1;
    }
    for (at, count) in counted {
        assert_eq!(index.tally().refused[at], count);
    }
    assert_eq!(index.tally().table.records, 0);
    // The forger's second try is counted alone.
    assert_eq!(noted.0.lock().len(), cases.len() - 1);
    let text = noted.0.lock().join("\n");
    let about = |one: &Identity| text.contains(&one.node_id().to_string());
    assert!(
        about(&forger) && about(&unknown) && about(&revoked),
        "{text}"
    );

    tokio::time::advance(Duration::from_secs(61)).await;
    say(&forger, &forger, me, &honest);
    assert_eq!(noted.0.lock().len(), cases.len());

    let taken = Reply::Accepted {
        refused: Vec::new(),
    };
    assert_eq!(say(&honest, &honest, me, &honest), taken);
    // Again it is out of date, which happens to anybody.
    let stale = say(&honest, &honest, me, &honest);
    assert!(matches!(stale, Reply::Refused(Refusal::Stale { .. })));
    assert_eq!(noted.0.lock().len(), cases.len());
}

/// Members that stay as they are.
struct Members(Arc<View>);

impl Membership for Members {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0)
    }

    fn changed(&self, _: u64) -> NextView<'_> {
        Box::pin(std::future::pending())
    }

    fn publish(&self, _: &mut dyn FnMut(&mut NodeState)) {}

    fn changes(&self) -> Vec<Changed> {
        Vec::new()
    }
}

/// Neighbours that hold what they are asked for.
#[derive(Debug)]
struct Generous(Candidate);

impl Holders for Generous {
    fn find<'a>(&'a self, _: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(std::future::ready(vec![self.0.clone()]))
    }
}

fn neighbour() -> Candidate {
    Candidate {
        node: None,
        addresses: vec![addr(200)],
        manifest: ManifestId::from_bytes([7; 32]),
        whole: true,
        rtt: None,
    }
}

fn sought(pool: &Pool) -> Sought<'_> {
    Sought {
        site: "site",
        key: CacheKey::from_bytes([1; 32]),
        chunk_key_id: [0; 16],
        pool,
    }
}

fn holders(index: &Arc<Index<Asker>>, view: &Arc<View>) -> (IndexHolders, Arc<Bearings>) {
    let bearings = Arc::new(Bearings::new(Arc::new(Members(Arc::clone(view)))));
    let holders = IndexHolders::new(
        Arc::clone(index),
        Arc::clone(&bearings),
        Arc::new(Generous(neighbour())),
        Policy::Latency,
        Arc::default(),
    );
    (holders, bearings)
}

fn provider(holder: NodeId, fraction: u8) -> Provider {
    Provider {
        holder,
        addresses: vec![addr(100)],
        manifest: [5; 32],
        fraction,
        generation: 1,
    }
}

#[tokio::test]
async fn holders_are_ranked_and_those_that_are_gone_or_leave_are_left_out() {
    let root = root();
    let names = ["me", "near", "far", "leaving", "dead"];
    let ids = names.map(|name| identity(&root, name));
    let places = ids.iter().enumerate();
    let mut states: Vec<_> = places.map(|(at, one)| state(one, addr(at))).collect();
    let dead = states.pop().unwrap();
    states[3].draining = true;
    let (_, index) = lonely(&ids[0], &states[1..]);
    let seen = view(states[0].id, &states);
    let (ranking, bearings) = holders(&index, &seen);
    bearings.measured([
        (states[1].id, Duration::from_millis(5)),
        (states[2].id, Duration::from_millis(90)),
    ]);
    let said = [&dead, &states[3], &states[2], &states[1]];
    let said =
        said.map(|state| provider(state.id, if state.id == states[2].id { 9 } else { WHOLE }));
    let found = ranking.ranked(&said, key(1), &seen);
    let order: Vec<_> = found.iter().map(|one| one.addresses[0]).collect();
    assert_eq!(order, [addr(1), addr(2)]);
    assert_eq!(found[0].rtt, Some(Duration::from_millis(5)));
    assert_eq!((found[0].whole, found[1].whole), (true, false));
    assert_eq!(found[0].node.map(node_id), Some(states[1].id));

    // Where somebody may be missing from the view, who is not in it is asked last.
    let mut wide = (*seen).clone();
    wide.complete = false;
    let found = ranking.ranked(&said, key(1), &wide);
    let order: Vec<_> = found.iter().map(|one| one.addresses[0]).collect();
    assert_eq!(order, [addr(1), addr(2), addr(100)]);
}

#[tokio::test(start_paused = true)]
async fn neighbours_are_asked_where_the_index_cannot_say_and_in_a_small_mesh() {
    let network = Network::new(7);
    let root = root();
    for (count, is_told) in [(1, false), (3, true), (6, false)] {
        let network = Network::new(7);
        let nodes = mesh(&network, &root, count);
        let node = &nodes[0];
        assert_eq!(node.index.find(key(9)).await, Finding::Nobody);
        let (holders, _) = holders(&node.index, &node.view);
        let found = holders.find(sought(&node.pool)).await;
        assert_eq!(!found.is_empty(), is_told, "{count} nodes");
    }
    // Nobody of whom the index would know can be reached.
    let nodes: Vec<_> = (1..6)
        .map(|at| state(&identity(&root, "gone"), addr(at)))
        .collect();
    let own = identity(&root, "edge-0");
    let (_, index) = lonely(&own, &nodes);
    let states: Vec<_> = nodes.into_iter().chain([state(&own, addr(0))]).collect();
    let (holders, _) = holders(&index, &view(node_id(own.node_id()), &states));
    let pool = pool(&network, &own, 0);
    assert_eq!(holders.find(sought(&pool)).await, [neighbour()]);
}

fn seen(number: u8, bytes: u64, hits: u8) -> Seen {
    Seen {
        key: CacheKey::from_bytes([number; 32]),
        root: ManifestId::from_bytes([number; 32]),
        bytes,
        hits,
    }
}

#[tokio::test]
async fn large_objects_are_announced_at_once_and_small_ones_when_they_are_hit_twice() {
    let (_, index) = lonely(&identity(&root(), "edge-0"), &[]);
    let metrics = Arc::<IndexMetrics>::default();
    let announcer = Announcer::new(Arc::clone(&index), Worth::default(), Arc::clone(&metrics));
    let is_announced = |number| index.held(&key(number)).is_some();

    announcer.stored(&seen(1, 1 << 20, 0));
    announcer.stored(&seen(2, 100, 0));
    announcer.hit(&seen(2, 100, 1));
    assert!(is_announced(1) && !is_announced(2));
    for hits in 2..=HITS_TOLD {
        announcer.hit(&seen(2, 100, hits));
    }
    assert!(is_announced(2));
    // Found to hold still, with its hits; then replaced by another.
    announcer.stored(&seen(2, 100, 2));
    assert!(is_announced(2));
    announcer.stored(&seen(2, 100, 0));
    assert!(!is_announced(2));
    announcer.gone(&CacheKey::from_bytes([1; 32]));
    assert!(!is_announced(1));
    assert_eq!(metrics.withdrawn.get(), 2);
}

#[tokio::test]
async fn what_the_cache_does_not_hold_is_taken_back_when_it_is_compared() {
    let (_, index) = lonely(&identity(&root(), "edge-0"), &[]);
    let metrics = Arc::<IndexMetrics>::default();
    let announcer = Announcer::new(Arc::clone(&index), Worth::default(), Arc::clone(&metrics));
    for number in 0..=255 {
        announcer.stored(&seen(number, 1 << 20, 0));
    }
    let cache = Cache::new(CacheConfig::new([0; 32]));
    let over = AtomicBool::new(true);
    announcer.compare(&cache, &over);
    assert_eq!(index.tally().lag.held, 256, "it was over before it began");
    over.store(false, std::sync::atomic::Ordering::Relaxed);
    announcer.compare(&cache, &over);
    assert_eq!(index.tally().lag.held, 0);
    assert_eq!(metrics.withdrawn.get(), 256);
}
