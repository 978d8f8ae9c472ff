//! A network of inboxes: what a node sends arrives at the inbox that listens there, packed as over STOQ, after a delay, unless it is lost or the two are apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Serializable};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls_pki_types::UnixTime;
use stoq::identity::{
    AuditEvent, AuditSink, ClusterRoot, Identity, Revocations, Role, Trust, Validity,
};
use stoq_routing::membership::Membership;
use stoq_routing::{NodeId, NodeState, Zone};
use tokio::task::JoinHandle;

use crate::gossip::gate::Sender;
use crate::gossip::transport::{Arrivals, Carrier, Inbox};
use crate::gossip::{Gossip, GossipConfig, Places, frame};

/// How the network treats what is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    /// The part that is lost, 0 to 1.
    pub(super) lost: f64,
}

struct Ports {
    at: BTreeMap<SocketAddr, Arc<Inbox>>,
    /// Which side of a split a node is on.
    side: BTreeMap<SocketAddr, u8>,
    weather: Weather,
    rng: StdRng,
}

#[derive(Clone)]
pub(super) struct Bus {
    ports: Arc<Mutex<Ports>>,
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) messages: Arc<AtomicU64>,
}

impl Bus {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        println!("seed {seed}");
        Self {
            ports: Arc::new(Mutex::new(Ports {
                at: BTreeMap::new(),
                side: BTreeMap::new(),
                weather,
                rng: StdRng::seed_from_u64(seed),
            })),
            bytes: Arc::default(),
            messages: Arc::default(),
        }
    }

    pub(super) fn put(&self, addr: SocketAddr, side: u8) {
        self.ports.lock().side.insert(addr, side);
    }

    pub(super) fn heal(&self) {
        self.ports.lock().side.clear();
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let body = frame::pack(message).unwrap();
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut ports = self.ports.lock();
        let apart = ports.side.get(&from).unwrap_or(&0) != ports.side.get(&to).unwrap_or(&0);
        let lost = ports.weather.lost;
        let lost = ports.rng.random_bool(lost);
        let Some(inbox) = ports.at.get(&to).filter(|_| !apart && !lost).cloned() else {
            return;
        };
        let delay = ports.weather.delay;
        let from = frame::listens(&frame::head(from)).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            inbox.judge(sender("sender", from), &body).unwrap();
        });
    }
}

#[derive(Clone)]
struct Port(Bus, Arc<Inbox>);

#[async_trait]
impl Transport for Port {
    async fn open(&self, listens: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let Self(bus, inbox) = self;
        bus.ports.lock().at.insert(listens, Arc::clone(inbox));
        Ok(Box::new(PortSocket {
            bus: bus.clone(),
            listens,
            arrived: inbox.arrived(),
        }))
    }
}

impl Carrier for Port {
    fn post<'a>(
        &'a self,
        listens: SocketAddr,
        to: SocketAddr,
        message: &'a [u8],
    ) -> BoxFuture<'a, ()> {
        self.0.send(listens, to, message);
        Box::pin(std::future::ready(()))
    }
}

struct PortSocket {
    bus: Bus,
    listens: SocketAddr,
    arrived: Arrivals,
}

#[async_trait]
impl Socket for PortSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.bus.send(self.listens, to, &message.serialize_to_vec());
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.arrived.next().await
    }
}

/// A cluster's root, which makes nodes.
pub(in crate::gossip) struct Founder(pub(super) ClusterRoot);

/// What was audited.
#[derive(Debug, Default)]
pub(super) struct Noted(pub(super) Mutex<Vec<String>>);

impl AuditSink for Noted {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().push(event.to_json());
    }
}

impl Founder {
    pub(in crate::gossip) fn new() -> Self {
        Self(ClusterRoot::generate("test", day()).unwrap())
    }

    pub(in crate::gossip) fn identity(&self, name: &str) -> Identity {
        self.trusting(name, Trust::default())
    }

    fn trusting(&self, name: &str, trust: Trust) -> Identity {
        let file = self.0.issue(name, &[Role::Edge], day()).unwrap();
        Identity::with_trust(file, self.0.certificate().clone(), trust).unwrap()
    }

    pub(super) fn noting(&self, name: &str) -> (Identity, Arc<Noted>, Revocations) {
        let noted = Arc::new(Noted::default());
        let mut trust = Trust::default();
        trust.audit = Arc::clone(&noted) as _;
        let revocations = trust.revocations.clone();
        (self.trusting(name, trust), noted, revocations)
    }
}

fn day() -> Validity {
    Validity::starting(UnixTime::now(), Duration::from_secs(86_400))
}

pub(super) fn addr(number: usize) -> SocketAddr {
    let number = u16::try_from(number).unwrap();
    SocketAddr::from(([10, 0, 0, 1], 1_000 + number))
}

pub(super) fn state(number: usize) -> NodeState {
    let mut state = NodeState::new(NodeId([0; 32]), "", zone("eu-fra"));
    state.addresses = vec![addr(number)];
    state.software = "test".to_owned();
    state
}

pub(super) fn zone(text: &str) -> Zone {
    text.parse().unwrap()
}

/// A node that runs.
pub(super) struct Node {
    pub(super) gossip: Gossip,
    pub(super) identity: Identity,
    pub(super) addr: SocketAddr,
    running: JoinHandle<()>,
}

impl Node {
    /// With node 0 as its seed.
    pub(super) fn start(bus: &Bus, identity: Identity, number: usize) -> Self {
        Self::with(bus, identity, number, GossipConfig::default())
    }

    pub(super) fn with(bus: &Bus, identity: Identity, number: usize, config: GossipConfig) -> Self {
        let gossip = Gossip::new(&identity, state(number), config);
        let port = Port(bus.clone(), Arc::clone(gossip.inbox()));
        let places = Places::fixed((number != 0).then(|| addr(0)));
        let running = gossip.clone();
        let running = tokio::spawn(async move { running.run_over(&port, &places).await });
        Self {
            gossip,
            identity,
            addr: addr(number),
            running,
        }
    }

    pub(super) fn sees(&self) -> usize {
        self.gossip.view().nodes().len()
    }

    pub(super) fn id(&self) -> NodeId {
        crate::gossip::node_id(self.identity.node_id())
    }

    /// Of its process now.
    pub(super) fn generation(&self) -> u64 {
        self.gossip.generation()
    }

    /// As with `kill -9`.
    pub(super) fn kill(&self, bus: &Bus) {
        self.running.abort();
        bus.ports.lock().at.remove(&self.addr);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Of a name, at an address; of no node that is there.
pub(super) fn sender(name: &str, listens: SocketAddr) -> Sender {
    Sender {
        name: name.to_owned(),
        node: "00000000".to_owned(),
        addr: listens,
        listens,
    }
}

/// Waits in virtual time until it holds, and says for how long it did not.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = tokio::time::Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
