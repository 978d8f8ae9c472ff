//! Looking for other nodes: seeds and their names, SRV records. What is found are addresses; who is there, certificates say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_node::config::{Cluster, NodeAddr};
use stoq_routing::discovery::{Addresses, Pace, Source};
use tokio::time::{Instant, sleep_until, timeout};

use super::srv::Srv;

/// What one look may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Where other nodes may be. `run` keeps it up to date.
#[derive(Debug)]
pub struct Places {
    seeds: Vec<NodeAddr>,
    srv: Option<Srv>,
    found: Mutex<Addresses>,
    began: Instant,
}

impl Places {
    /// As the configuration says. Nothing is looked up yet.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Arc<Self> {
        let seeds = (0..cluster.seeds.len()).map(Source::Seed);
        let srv = cluster.srv.as_ref().map(|_| Source::Srv);
        Arc::new(Self {
            seeds: cluster.seeds.clone(),
            srv: cluster.srv.as_deref().map(Srv::of_system),
            found: Mutex::new(Addresses::new(Pace::default(), seeds.chain(srv))),
            began: Instant::now(),
        })
    }

    /// These addresses and no others.
    #[must_use]
    pub fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let seeds: Vec<_> = addresses
            .into_iter()
            .map(|addr| NodeAddr {
                host: addr.ip().to_string(),
                port: addr.port(),
            })
            .collect();
        let sources = (0..seeds.len()).map(Source::Seed);
        Arc::new(Self {
            found: Mutex::new(Addresses::new(Pace::default(), sources)),
            seeds,
            srv: None,
            began: Instant::now(),
        })
    }

    /// Whether there is anything to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seeds.is_empty() && self.srv.is_none()
    }

    /// What was found, without these.
    pub(super) fn current(&self, own: &[SocketAddr]) -> BTreeSet<SocketAddr> {
        self.found.lock().current(own)
    }

    /// Looks, again and again. Never ends. Cancel-safe: a look that is cut off is made again.
    pub(super) async fn run(&self) {
        loop {
            let next = self.found.lock().next();
            let Some(next) = next else {
                return std::future::pending().await;
            };
            sleep_until(self.began + next).await;
            let due: Vec<_> = self.found.lock().to_ask(self.began.elapsed()).collect();
            futures_util::future::join_all(due.into_iter().map(|source| self.look(source))).await;
        }
    }

    async fn look(&self, source: Source) {
        let looked = timeout(TIME_MAX, self.addresses(source)).await;
        let now = self.began.elapsed();
        match looked.unwrap_or_else(|_| Err(format!("nothing within {TIME_MAX:?}"))) {
            Ok(addresses) => {
                let passed_over = self.found.lock().found(source, addresses, now);
                if passed_over > 0 {
                    tracing::warn!(%source, passed_over, "more addresses than are used");
                }
            }
            Err(error) => {
                tracing::warn!(%source, error, "no other nodes were found there");
                self.found.lock().failed(source, now);
            }
        }
    }

    async fn addresses(&self, source: Source) -> Result<Vec<SocketAddr>, String> {
        match source {
            Source::Seed(at) => match self.seeds.get(at) {
                Some(seed) => resolve(seed).await,
                None => Ok(Vec::new()),
            },
            Source::Srv => match &self.srv {
                Some(srv) => srv.addresses().await,
                None => Ok(Vec::new()),
            },
        }
    }
}

async fn resolve(seed: &NodeAddr) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = seed.host.parse() {
        return Ok(vec![SocketAddr::new(ip, seed.port)]);
    }
    let found = tokio::net::lookup_host((seed.host.as_str(), seed.port)).await;
    found
        .map(Iterator::collect)
        .map_err(|error| format!("{}: {error}", seed.host))
}
