//! What lies between the nodes, and where they are.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Knock, Memory};
use crate::quic::TransportConfig;

/// Newcomers that wait to be accepted at one place; the next is refused.
const KNOCKS_MAX: usize = 256;

/// Times a frame is lost at most before it gets through: with half of all lost, one in 65,536 comes that far.
const LOSSES_MAX: u32 = 16;

/// The shortest time after which something lost is sent again.
//= https://www.rfc-editor.org/rfc/rfc9002#section-6.1.2
//# The RECOMMENDED value of the timer granularity (kGranularity) is 1 ms.
const AGAIN_MIN: Duration = Duration::from_millis(1);

/// The longest.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What lies between two nodes, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// Time from one to the other. Default 0.
    pub latency: Duration,
    /// Up to this much is added, drawn for each frame. Default 0. Frames of different streams overtake each other by it.
    pub jitter: Duration,
    /// How many of all frames are lost, 0 to 1. Default 0. What is lost of a stream is sent again after 1.5 round trips, then
    /// after twice as long, and so on.
    pub loss: f64,
    /// How many of all frames are late by another latency, 0 to 1, so that those sent after them arrive before. Default
    /// 0. Within a stream the order is kept, as QUIC keeps it for its readers.
    pub reorder: f64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
        }
    }
}

/// A network in memory; see the [module](super). Cheap to clone; the clones are one network.
#[derive(Debug, Clone)]
pub struct Network(Arc<Shared>);

impl Network {
    /// An empty network that loses nothing and takes no time. Its dice start from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                dice: StdRng::seed_from_u64(seed),
                default: Conditions::default(),
                between: BTreeMap::new(),
                cut: BTreeMap::new(),
                doors: BTreeMap::new(),
            }),
            changed: watch::Sender::new(()),
        }))
    }

    /// A place that connects to others. Port 0 stands for any free one.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`].
    pub fn client(&self, addr: SocketAddr) -> io::Result<Memory> {
        Memory::join(self.0.clone(), addr, None, TransportConfig::default())
    }

    /// A place that takes links as well, under this configuration
    /// ([`Identity::server_config`](crate::identity::Identity::server_config)), with the windows, stream limits and idle
    /// timeout of `config`.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`].
    pub fn server(
        &self,
        addr: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        config: TransportConfig,
    ) -> io::Result<Memory> {
        Memory::join(self.0.clone(), addr, Some(tls), config)
    }

    /// What lies between two nodes of which nothing else was said.
    pub fn set_default(&self, conditions: Conditions) {
        self.0.state.lock().default = conditions;
    }

    /// What lies between these two from now on. What is under way arrives as it would have.
    pub fn set(&self, a: IpAddr, b: IpAddr, conditions: Conditions) {
        self.0.state.lock().between.insert(pair(a, b), conditions);
    }

    /// Nothing passes between these two until [`heal`](Self::heal). What is under way waits, but datagrams are lost. After
    /// the idle timeout the links between them end, each side by itself.
    pub fn partition(&self, a: IpAddr, b: IpAddr) {
        let since = Instant::now();
        self.0.state.lock().cut.entry(pair(a, b)).or_insert(since);
        self.0.changed.send_replace(());
    }

    /// Ends a partition.
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        self.0.state.lock().cut.remove(&pair(a, b));
        self.0.changed.send_replace(());
    }
}

/// The network, as its places and links see it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Partitions came or went.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    dice: StdRng,
    default: Conditions,
    between: BTreeMap<(IpAddr, IpAddr), Conditions>,
    /// Partitions, and since when.
    cut: BTreeMap<(IpAddr, IpAddr), Instant>,
    doors: BTreeMap<SocketAddr, Arc<Door>>,
}

fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

/// What becomes of something sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    /// How often it is lost before it gets through.
    pub(super) losses: u32,
    /// How long it is under way, those losses included.
    pub(super) delay: Duration,
}

impl Shared {
    pub(super) fn enter(&self, mut addr: SocketAddr, door: Arc<Door>) -> io::Result<SocketAddr> {
        let mut state = self.state.lock();
        if addr.port() == 0 {
            let free = (1..=u16::MAX).rev().find(|port| {
                addr.set_port(*port);
                !state.doors.contains_key(&addr)
            });
            free.ok_or(io::ErrorKind::AddrInUse)?;
        } else if state.doors.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.doors.insert(addr, door);
        Ok(addr)
    }

    pub(super) fn leave(&self, addr: SocketAddr) {
        let door = self.state.lock().doors.remove(&addr);
        drop(door);
    }

    /// Who takes newcomers at this address.
    pub(super) fn door(&self, addr: SocketAddr) -> Option<Arc<Door>> {
        let door = self.state.lock().doors.get(&addr).cloned();
        door.filter(|door| door.takes_links())
    }

    pub(super) fn fate(&self, a: IpAddr, b: IpAddr) -> Fate {
        let mut state = self.state.lock();
        let Conditions {
            latency,
            jitter,
            loss,
            reorder,
        } = *state.between.get(&pair(a, b)).unwrap_or(&state.default);
        let dice = &mut state.dice;
        // Drawn whatever they are multiplied with, so that a test that changes one condition keeps the other draws.
        let late = jitter.mul_f64(dice.random_range(0.0..1.0));
        let overtaken = dice.random_range(0.0..1.0) < reorder;
        let mut losses = 0;
        while dice.random_range(0.0..1.0) < loss && losses < LOSSES_MAX {
            losses += 1;
        }
        let mut delay = latency + late;
        if overtaken {
            delay += latency.max(AGAIN_MIN);
        }
        let mut again = (latency * 3).clamp(AGAIN_MIN, AGAIN_MAX);
        for _ in 0..losses {
            delay += again;
            again = (again * 2).min(AGAIN_MAX);
        }
        Fate { losses, delay }
    }

    /// Since when nothing passes between them.
    pub(super) fn cut_since(&self, a: IpAddr, b: IpAddr) -> Option<Instant> {
        self.state.lock().cut.get(&pair(a, b)).copied()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Where newcomers to one place wait.
#[derive(Debug)]
pub(super) struct Door {
    inside: Mutex<Inside>,
    signal: Notify,
}

#[derive(Debug)]
struct Inside {
    server: Option<Arc<rustls::ServerConfig>>,
    knocks: VecDeque<Knock>,
    /// Newcomers are refused.
    shut: bool,
    /// Nobody accepts any more.
    closed: bool,
}

impl Door {
    pub(super) fn new(server: Option<Arc<rustls::ServerConfig>>) -> Self {
        let closed = server.is_none();
        Self {
            inside: Mutex::new(Inside {
                server,
                knocks: VecDeque::new(),
                shut: closed,
                closed,
            }),
            signal: Notify::new(),
        }
    }

    fn takes_links(&self) -> bool {
        self.inside.lock().server.is_some()
    }

    /// Leaves a knock; gives it back where it is refused.
    pub(super) fn push(&self, knock: Knock) -> Result<(), Box<Knock>> {
        let mut inside = self.inside.lock();
        if inside.shut || inside.knocks.len() >= KNOCKS_MAX {
            return Err(Box::new(knock));
        }
        inside.knocks.push_back(knock);
        drop(inside);
        self.signal.notify_waiters();
        Ok(())
    }

    /// The next knock, and how to answer it. `None` once closed.
    pub(super) async fn next(&self) -> Option<(Knock, Arc<rustls::ServerConfig>)> {
        loop {
            let signal = self.signal.notified();
            tokio::pin!(signal);
            signal.as_mut().enable();
            {
                let mut inside = self.inside.lock();
                let server = inside.server.clone()?;
                if let Some(knock) = inside.knocks.pop_front() {
                    return Some((knock, server));
                }
                if inside.closed {
                    return None;
                }
            }
            signal.await;
        }
    }

    pub(super) fn shut(&self) {
        self.inside.lock().shut = true;
    }

    pub(super) fn close(&self) {
        let left = {
            let mut inside = self.inside.lock();
            (inside.shut, inside.closed) = (true, true);
            std::mem::take(&mut inside.knocks)
        };
        drop(left);
        self.signal.notify_waiters();
    }
}
