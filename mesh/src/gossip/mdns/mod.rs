//! Nodes of a cluster that share an Ethernet find each other by multicast DNS (RFC 6762, RFC 6763), without seeds or a name server: each announces where it takes connections of nodes,
//! and listens for the others. What is heard are addresses; who is there, certificates say.
//!
//! | file | what it is |
//! |---|---|
//! | `wire` | announcements and questions as DNS messages, and whose are believed |
//! | `talk` | what is said when, and who was heard |
//! | `links` | the sockets |
//!
//! What is on the link is read by everybody there, and told by anybody:
//!
//! * An announcement reveals that a STOQ node is there, the first half of its id, its addresses and ports for nodes, and a tag that all nodes of its cluster have, which is made from the
//!   cluster's secret and says nothing else. It has neither names nor zones.
//! * It is taken note of only with a code that is made with the cluster's secret. So no stranger can make up a node, have one dial where none of the cluster has been, or say that another left. One who repeats what
//!   members said can make nodes that are gone stay known, in a table of 64 so many that newcomers find no room, or one that is there unknown or sought elsewhere until it has answered that; and a flood can drown
//!   what others say. None of it touches who is in the mesh.
//! * Questions are answered to the group alone, once a second whoever asks: a node makes no traffic to where somebody points it.
//!
//! Names of instances are from the nodes' keys, so no two nodes have one, and they are not probed for as RFC 6762 §8.1 has it for names that people choose; nor are questions answered
//! by unicast. Tasks of the worker that gossips do all this; there is no thread for it.

mod links;
mod talk;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use parking_lot::Mutex;
use stoq::identity::Identity;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::metrics::{GossipMetrics, PassedOver};
use links::{Links, Tended};
use talk::{Refusal, Talk};
#[doc(hidden)]
pub use wire::heard;
use wire::{Fault, MESSAGE_BYTES_MAX, Seal};

/// This node's part in multicast DNS. Gossip keeps it going; dropped, it says goodbye.
#[derive(Debug)]
pub struct Mdns {
    links: Mutex<Links>,
    talk: Mutex<Talk>,
    /// Why there is no link, as it was last said.
    complaint: Mutex<Option<String>>,
    /// Something is to be done that [`listen`](Self::listen) does not wait for.
    wake: Notify,
    metrics: Arc<GossipMetrics>,
    began: Instant,
}

impl Mdns {
    /// The node of this identity, which listens at `listens` and tells others that it is at `told`. No socket is opened yet.
    #[must_use]
    pub fn new(
        identity: &Identity,
        listens: &[SocketAddr],
        told: &[SocketAddr],
        metrics: Arc<GossipMetrics>,
    ) -> Self {
        // The interfaces with these addresses. Where a listener is on all of them, and what is told is the address of a router, the one that leads to the group.
        let local = |addr: &SocketAddr| match addr.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ip => ip,
        };
        let instance = wire::instance_of(&super::node_id(identity.node_id()).0);
        let seal = Seal::of(identity.cluster_secret());
        Self {
            links: Mutex::new(Links::new(told.iter().chain(listens).map(local))),
            talk: Mutex::new(Talk::new(
                instance,
                told.iter().copied(),
                seal,
                rand::random(),
            )),
            complaint: Mutex::new(None),
            wake: Notify::new(),
            metrics,
            began: Instant::now(),
        }
    }

    /// Takes part on the interfaces that are there now. Where others are, as far as was heard.
    ///
    /// # Errors
    /// There is none, and why. The log has it, once.
    pub(super) fn tend(&self) -> Result<Vec<SocketAddr>, String> {
        let tended = self.links.lock().tend();
        let mut complaint = self.complaint.lock();
        match tended {
            Ok(tended) => {
                if complaint.take().is_some() {
                    tracing::info!("multicast DNS is there now");
                }
                let mut talk = self.talk.lock();
                if tended == Tended::More {
                    talk.begin(self.began.elapsed());
                    self.wake.notify_one();
                }
                Ok(talk.addresses())
            }
            Err(why) => {
                if complaint.as_ref() != Some(&why) {
                    tracing::warn!(
                        why,
                        "cluster.mdns finds nobody: no interface takes part in multicast DNS. It is tried again, and others are found by cluster.seeds and cluster.srv meanwhile \
                         (give listen.stoq or cluster.advertise an address of an interface that is up and has multicast, let programs share UDP port 5353, or write mdns = false)"
                    );
                    *complaint = Some(why.clone());
                }
                Err(why)
            }
        }
    }

    /// Talks on the links that [`tend`](Self::tend) has found, and hands on where others are whenever that changes. Never ends. Cancel-safe.
    pub(super) async fn listen(&self, found: impl Fn(Vec<SocketAddr>)) {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
        loop {
            let now = self.began.elapsed();
            self.say(now);
            let (due, pause, news) = {
                let mut talk = self.talk.lock();
                (talk.due(), talk.pause(now), talk.news())
            };
            if let Some(addresses) = news {
                found(addresses);
            }
            let sockets = match pause {
                None => self.links.lock().sockets(),
                Some(_) => Vec::new(),
            };
            let until = due.into_iter().chain(pause).min();
            tokio::select! {
                // Each may be cancelled: what it waited for is still there at the next turn.
                socket = readable(&sockets) => self.hear(socket, &mut buffer),
                () = at(self.began, until) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn say(&self, now: Duration) {
        loop {
            let Some(message) = self.talk.lock().next(now) else {
                return;
            };
            let sent = self.links.lock().send(&message);
            self.metrics.mdns_sent.inc_by(sent);
        }
    }

    /// Reads what is there, as far as there is time for it.
    fn hear(&self, socket: &UdpSocket, buffer: &mut [u8]) {
        loop {
            let now = self.began.elapsed();
            let mut talk = self.talk.lock();
            if talk.pause(now).is_some() {
                self.metrics.passed_over(PassedOver::Flood);
                return;
            }
            let heard = match socket.try_recv_from(buffer) {
                Ok((length, _)) => {
                    self.metrics.mdns_received.inc();
                    talk.hear(now, buffer.get(..length).unwrap_or_default())
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // Of an interface that went away, say. It takes its share of the second as well.
                Err(_) => talk.hear(now, &[]),
            };
            if let Err(refusal) = heard {
                self.metrics.passed_over(reason(refusal));
            }
        }
    }

    /// Says goodbye, and nothing more.
    pub(super) fn leave(&self) {
        let Some(goodbye) = self.talk.lock().leave() else {
            return;
        };
        let sent = self.links.lock().send(&goodbye);
        self.metrics.mdns_sent.inc_by(sent);
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        self.leave();
    }
}

fn reason(refusal: Refusal) -> PassedOver {
    match refusal {
        Refusal::Fault(Fault::Malformed) => PassedOver::Malformed,
        Refusal::Fault(Fault::OtherCluster) => PassedOver::OtherCluster,
        Refusal::Fault(Fault::Forged) => PassedOver::Forged,
        Refusal::NoRoom => PassedOver::NoRoom,
    }
}

/// The first of these that something can be read from.
async fn readable(sockets: &[Arc<UdpSocket>]) -> &UdpSocket {
    let waits = sockets.iter().map(|socket| {
        Box::pin(async move {
            match socket.readable().await {
                Ok(()) => &**socket,
                // The runtime ends.
                Err(_) => std::future::pending().await,
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    select_all(waits).await.0
}

async fn at(began: Instant, until: Option<Duration>) {
    match until {
        Some(until) => sleep_until(began + until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::UnixTime;
    use stoq::identity::{ClusterRoot, Role, Validity};

    use super::*;

    #[tokio::test]
    async fn without_an_interface_that_is_said_once_and_tried_again() {
        let day = Duration::from_secs(24 * 3600);
        let validity = || Validity::starting(UnixTime::now(), day);
        let root = ClusterRoot::generate("demo", validity()).unwrap();
        let file = root.issue("edge-1", &[Role::Edge], validity()).unwrap();
        let identity = Identity::new(file, root.certificate().clone()).unwrap();
        let metrics = Arc::new(GossipMetrics::default());
        let elsewhere = ["192.0.2.7:7443".parse().unwrap()];
        let mdns = Mdns::new(&identity, &elsewhere, &elsewhere, Arc::clone(&metrics));
        let why = mdns.tend().unwrap_err();
        assert_eq!(mdns.complaint.lock().as_ref(), Some(&why));
        assert_eq!(mdns.tend(), Err(why));
        // Nobody was told of it, so nobody is told that it leaves.
        mdns.leave();
        drop(mdns);
        assert_eq!(metrics.mdns_sent.get(), 0);
    }
}
