//! chitchat's messages over STOQ: each a stream one way on a connection of mutual TLS, to the address its receiver is known under.
//!
//! Sending never waits: a message goes to a task, of which there are bounded numbers, for each node and in all; what does not fit is not sent, and gossip repeats
//! itself anyway. What comes in passes the [`Gate`] on the worker that received it, and waits for the engine in one bounded queue.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq::peer::{Ask, Handler, IncomingMessage, IncomingRequest, Part, PeerInfo};
use stoq::pool::Pool;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::frame::{self, BODY_BYTES_MAX, GOSSIP};
use super::gate::{Gate, Sender, short};
use super::metrics::GossipMetrics;
use super::papers::node_id;
use super::wire::Message;

/// Messages that wait for the engine: 256 × at most 96 KiB; at 50 nodes there are some 20 a second, and it takes one in less than a millisecond.
const WAITING_MAX: usize = 256;
/// Messages under way at once, and to one node: three are picked each half second, and each is answered.
const UNDER_WAY_MAX: usize = 128;
const UNDER_WAY_TO_ONE_MAX: usize = 4;
/// What a message may take, connecting included. Later it says nothing new.
const TIME_MAX: Duration = Duration::from_secs(3);

/// A message that was judged, and who is answered.
type Arrived = (Sender, Message);

/// Where messages come in. It is the handler of [`GOSSIP`] on all workers.
#[derive(Debug)]
pub(super) struct Inbox {
    gate: Arc<Gate>,
    metrics: Arc<GossipMetrics>,
    queue: mpsc::Sender<Arrived>,
    /// For the engine of the time; the next takes it over.
    arrived: Arc<AsyncMutex<mpsc::Receiver<Arrived>>>,
    heard: AtomicBool,
}

impl Inbox {
    pub(super) fn new(gate: Arc<Gate>, metrics: Arc<GossipMetrics>) -> Self {
        let (queue, arrived) = mpsc::channel(WAITING_MAX);
        Self {
            gate,
            metrics,
            queue,
            arrived: Arc::new(AsyncMutex::new(arrived)),
            heard: AtomicBool::new(false),
        }
    }

    /// Whether any node has ever said anything that could be read.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    async fn take(&self, peer: &PeerInfo, mut message: IncomingMessage) {
        let Ok(listens) = frame::listens(&message.control) else {
            return self.unreadable(peer, "its head is not one");
        };
        let mut body = BytesMut::new();
        loop {
            match message.body.next().await {
                Ok(Some(Part::Data(bytes))) if body.len() + bytes.len() <= BODY_BYTES_MAX => {
                    body.extend_from_slice(&bytes);
                }
                Ok(None) => break,
                Ok(Some(_)) => return self.unreadable(peer, "too long, or not only a body"),
                // The sender gave it up.
                Err(_) => return,
            }
        }
        let by = Sender {
            name: peer.identity.name.clone(),
            node: short(&node_id(peer.identity.node_id)),
            addr: peer.addr,
            listens,
        };
        if let Err(error) = self.judge(by, &body) {
            self.unreadable(peer, &error);
        }
    }

    /// For the engine of the time.
    pub(super) fn arrived(&self) -> Arrivals {
        Arrivals {
            queue: Arc::clone(&self.arrived),
            gate: Arc::clone(&self.gate),
        }
    }

    /// Takes a body whole.
    pub(super) fn judge(&self, by: Sender, body: &[u8]) -> Result<(), String> {
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(body.len() as u64);
        let admitted = frame::unpack(body)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                let admitted = self.gate.admit(&bytes, &by, Instant::now());
                admitted.map_err(|error| error.to_string())
            })?;
        self.heard.store(true, Ordering::Relaxed);
        if self.queue.try_send((by, admitted)).is_err() {
            self.metrics.unread.inc();
        }
        Ok(())
    }

    fn unreadable(&self, peer: &PeerInfo, why: &str) {
        self.metrics.refused(super::metrics::Reason::Malformed);
        tracing::debug!(peer = %peer.identity.name, why, "a gossip message cannot be read");
    }
}

impl Handler for Inbox {
    fn handle<'a>(&'a self, _: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        // Gossip asks nothing; dropped, it is reset.
        drop(request);
        Box::pin(std::future::ready(()))
    }

    fn told<'a>(&'a self, peer: &'a PeerInfo, message: IncomingMessage) -> BoxFuture<'a, ()> {
        Box::pin(self.take(peer, message))
    }
}

/// chitchat's transport, and a way past chitchat for a message that is not its own: chitchat writes anew only what it made.
pub(super) trait Carrier: Transport {
    /// Sends a message from the node that listens there. It may be lost. Cancel-safe.
    fn post<'a>(
        &'a self,
        listens: SocketAddr,
        to: SocketAddr,
        message: &'a [u8],
    ) -> BoxFuture<'a, ()>;
}

impl Carrier for Stoq {
    fn post<'a>(
        &'a self,
        listens: SocketAddr,
        to: SocketAddr,
        message: &'a [u8],
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Ok(body) = frame::pack(message) else {
                return;
            };
            if let Err(error) = tell(&self.pool, to, frame::head(listens), body).await {
                tracing::debug!(%to, %error, "a gossip message was not sent");
            }
        })
    }
}

/// chitchat's transport.
#[derive(Debug, Clone)]
pub(super) struct Stoq {
    pub(super) pool: Pool,
    pub(super) inbox: Arc<Inbox>,
}

#[async_trait]
impl Transport for Stoq {
    async fn open(&self, listens: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(StoqSocket {
            outbox: Outbox {
                pool: self.pool.clone(),
                head: frame::head(listens),
                metrics: Arc::clone(&self.inbox.metrics),
                tasks: JoinSet::new(),
                under_way: Arc::default(),
            },
            arrived: self.inbox.arrived(),
        }))
    }
}

struct StoqSocket {
    outbox: Outbox,
    arrived: Arrivals,
}

#[async_trait]
impl Socket for StoqSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // To chitchat an error means that the transport is broken for good.
        match frame::pack(&message.serialize_to_vec()) {
            Ok(body) => self.outbox.send(to, body),
            Err(error) => {
                self.outbox.metrics.unsent.inc();
                tracing::warn!(%to, %error, "a gossip message was not sent");
            }
        }
        Ok(())
    }

    /// Cancel-safe, as chitchat needs it: both waits are.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.arrived.next().await
    }
}

/// What came in, taken by the engine of the time; the one before has let go of it.
pub(super) struct Arrivals {
    queue: Arc<AsyncMutex<mpsc::Receiver<Arrived>>>,
    gate: Arc<Gate>,
}

impl Arrivals {
    /// The next, which chitchat takes before it asks for another. Cancel-safe.
    pub(super) async fn next(&self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let arrived = self.queue.lock().await.recv().await;
            let Some((by, mut message)) = arrived else {
                anyhow::bail!("gossip has ended");
            };
            self.gate.make_room(&mut message, &by, Instant::now());
            match ChitchatMessage::deserialize(&mut &message.write()[..]) {
                Ok(message) => return Ok((by.listens, message)),
                Err(error) => {
                    tracing::debug!(from = %by.listens, %error, "chitchat reads what was admitted otherwise");
                }
            }
        }
    }
}

/// Sends, each message by a task. Dropped, it ends them.
struct Outbox {
    pool: Pool,
    head: Bytes,
    metrics: Arc<GossipMetrics>,
    tasks: JoinSet<()>,
    under_way: Arc<Mutex<HashMap<SocketAddr, usize>>>,
}

impl Outbox {
    fn send(&mut self, to: SocketAddr, body: Bytes) {
        // A panic in one was reported.
        while self.tasks.try_join_next().is_some() {}
        self.metrics.sent.inc();
        let place = Place::take(&self.under_way, to);
        let (Some(place), true) = (place, self.tasks.len() < UNDER_WAY_MAX) else {
            self.metrics.unsent.inc();
            return;
        };
        let (pool, head) = (self.pool.clone(), self.head.clone());
        let metrics = Arc::clone(&self.metrics);
        self.tasks.spawn(async move {
            let _place = place;
            let bytes = body.len() as u64;
            match timeout(TIME_MAX, tell(&pool, to, head, body)).await {
                Ok(Ok(())) => {
                    metrics.sent_bytes.inc_by(bytes);
                }
                Ok(Err(error)) => {
                    metrics.unsent.inc();
                    tracing::debug!(%to, %error, "a gossip message was not sent");
                }
                Err(_) => {
                    metrics.unsent.inc();
                }
            }
        });
    }
}

async fn tell(pool: &Pool, to: SocketAddr, head: Bytes, body: Bytes) -> anyhow::Result<()> {
    let conn = pool.get(to).await?;
    let mut send = conn.tell(Ask::new(GOSSIP, head).within(TIME_MAX)).await?;
    send.data(body).await?;
    send.finish().await?;
    Ok(())
}

/// A message's place among those under way to one node.
struct Place(Arc<Mutex<HashMap<SocketAddr, usize>>>, SocketAddr);

impl Place {
    fn take(under_way: &Arc<Mutex<HashMap<SocketAddr, usize>>>, to: SocketAddr) -> Option<Self> {
        let mut counts = under_way.lock();
        let count = counts.entry(to).or_default();
        if *count >= UNDER_WAY_TO_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(under_way), to))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
