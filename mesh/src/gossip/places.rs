//! Looking for other nodes: seeds and their names, SRV records, multicast DNS. What is found are addresses; who is there, certificates say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_node::config::{Cluster, NodeAddr};
use stoq_routing::discovery::{Addresses, Pace, Source};
use tokio::time::{Instant, sleep_until, timeout};

use super::mdns::Mdns;
use super::srv::Srv;

/// What one look may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Where other nodes may be. `run` keeps it up to date.
#[derive(Debug)]
pub struct Places {
    seeds: Vec<NodeAddr>,
    srv: Option<Srv>,
    mdns: Option<Mdns>,
    found: Mutex<Addresses>,
    began: Instant,
}

impl Places {
    /// As the configuration says; `mdns` is this node's part in it where `cluster.mdns` is on. Nothing is looked up yet.
    #[must_use]
    pub fn new(cluster: &Cluster, mdns: Option<Mdns>) -> Arc<Self> {
        let seeds = (0..cluster.seeds.len()).map(Source::Seed);
        let srv = cluster.srv.as_ref().map(|_| Source::Srv);
        let by_mdns = mdns.as_ref().map(|_| Source::Mdns);
        let sources = seeds.chain(srv).chain(by_mdns);
        Arc::new(Self {
            seeds: cluster.seeds.clone(),
            srv: cluster.srv.as_deref().map(Srv::of_system),
            mdns,
            found: Mutex::new(Addresses::new(Pace::default(), sources)),
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
            mdns: None,
            began: Instant::now(),
        })
    }

    /// Whether there is anything to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seeds.is_empty() && self.srv.is_none() && self.mdns.is_none()
    }

    /// What was found, without these.
    pub(super) fn current(&self, own: &[SocketAddr]) -> BTreeSet<SocketAddr> {
        self.found.lock().current(own)
    }

    /// This node is not to be found any more: others on the same links are told so, where they were told that it is there.
    pub(crate) fn leave(&self) {
        if let Some(mdns) = &self.mdns {
            mdns.leave();
        }
    }

    /// Looks, again and again. Never ends. Cancel-safe: a look that is cut off is made again.
    pub(super) async fn run(&self) {
        let listening = async {
            if let Some(mdns) = &self.mdns {
                let news = |heard| {
                    let passed_over = self.found.lock().news(Source::Mdns, heard);
                    Self::passed_over(Source::Mdns, passed_over);
                };
                mdns.listen(news).await;
            }
        };
        tokio::join!(listening, self.look_around());
    }

    async fn look_around(&self) {
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
        match looked.unwrap_or_else(|_| Err(format!("nothing within {TIME_MAX:?}"))) {
            Ok(addresses) => {
                let now = self.began.elapsed();
                let passed_over = self.found.lock().found(source, addresses, now);
                Self::passed_over(source, passed_over);
            }
            Err(error) => {
                // Without a link there will be none for long: it has been said.
                if source != Source::Mdns {
                    tracing::warn!(%source, error, "no other nodes were found there");
                }
                self.found.lock().failed(source, self.began.elapsed());
            }
        }
    }

    fn passed_over(source: Source, passed_over: usize) {
        if passed_over > 0 {
            tracing::warn!(%source, passed_over, "more addresses than are used");
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
            Source::Mdns => match &self.mdns {
                Some(mdns) => mdns.tend(),
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
