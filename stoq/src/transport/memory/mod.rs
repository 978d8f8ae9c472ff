//! A network in memory, for tests of whatever stands on a [`Transport`]: seeded, and in virtual time.
//!
//! Nodes are places in a [`Network`], which holds what lies between any two of them: latency, jitter, loss, reordering,
//! partitions. The handshake is a real one: the same certificates are checked by the same code as over QUIC. After it
//! frames travel as values, unencrypted.
//!
//! All waiting is done by tokio's clock. In a test with `start_paused` time passes only when nobody has anything else to
//! do, so an hour of silence takes no time, and what happens depends on the seed alone: the network draws everything
//! from it, in the order in which frames are sent.
//!
//! It is a model of QUIC over such a network, not of the network alone. What is lost of a stream is sent again, an
//! exponential back-off apart, and holds up that stream and no other. Datagrams that are lost stay lost. There is no
//! congestion and no limit of bandwidth: what the windows let out is under way at once.
//!
//! ```
//! # use std::time::Duration;
//! use stoq::transport::memory::{Conditions, Network};
//!
//! let network = Network::new(7);
//! network.set_default(Conditions {
//!     latency: Duration::from_millis(40),
//!     loss: 0.01,
//!     ..Conditions::default()
//! });
//! let (edge, shield) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:7443".parse().unwrap());
//! let client = network.client(edge)?;
//! // network.server(shield, identity.server_config(ALPN)?, TransportConfig::default())?
//! network.partition(edge.ip(), shield.ip());
//! # Ok::<_, std::io::Error>(())
//! ```

mod carry;
mod handshake;
mod network;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

pub use self::network::{Conditions, Network};

use self::carry::Way;
use self::handshake::shake;
use self::network::{Door, Shared};
use super::links::Links;
use super::mux::{Facts, Limits, Mux, MuxLink};
use super::tls::{failure, refused};
use super::{Carrier, Incoming, Link, Target, Transport, TransportStats};
use crate::quic::{ConnectError, ConnectionError, TlsError, TransportConfig};

/// A place in a [`Network`]. Left when dropped.
#[derive(Debug)]
pub struct Memory {
    network: Arc<Shared>,
    addr: SocketAddr,
    door: Arc<Door>,
    config: TransportConfig,
    links: Arc<Links>,
}

impl Memory {
    fn join(
        network: Arc<Shared>,
        addr: SocketAddr,
        server: Option<Arc<rustls::ServerConfig>>,
        config: TransportConfig,
    ) -> io::Result<Self> {
        let door = Arc::new(Door::new(server));
        let addr = network.enter(addr, door.clone())?;
        Ok(Self {
            network,
            addr,
            door,
            config,
            links: Arc::default(),
        })
    }

    async fn dial(&self, target: Target) -> Result<Arc<dyn Link>, ConnectError> {
        let Target {
            addr,
            server_name,
            tls,
        } = target;
        if tls.alpn_protocols.is_empty() {
            return Err(ConnectError::Tls(TlsError::NoAlpn));
        }
        let name = ServerName::try_from(server_name)
            .map_err(|_| ConnectError::ServerName(server_name.to_owned()))?;
        let session = ClientConnection::new(tls, name).map_err(|error| failure(&error))?;
        let dialled = timeout(self.config.idle_timeout, self.knock(addr, session)).await;
        dialled.unwrap_or(Err(ConnectionError::TimedOut.into()))
    }

    async fn knock(
        &self,
        addr: SocketAddr,
        session: ClientConnection,
    ) -> Result<Arc<dyn Link>, ConnectError> {
        let way = Way::new(self.network.clone(), self.addr.ip(), addr.ip());
        way.flight().await;
        let Some(door) = self.network.door(addr) else {
            // Nobody is there, and nobody says so.
            return std::future::pending().await;
        };
        let (answer, answered) = oneshot::channel();
        let knock = Knock {
            from: self.addr,
            session: Box::new(session),
            config: self.config.clone(),
            links: self.links.clone(),
            answer,
        };
        if door.push(knock).is_err() {
            way.flight().await;
            return Err(refused(true).into());
        }
        match answered.await {
            Ok(link) => link.map_err(ConnectError::Connection),
            Err(_) => Err(refused(true).into()),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.network.leave(self.addr);
        Transport::close(self, 0, b"");
    }
}

impl Transport for Memory {
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            self.links.started.inc();
            let dialled = self.dial(target).await;
            let counter = match &dialled {
                Ok(_) => &self.links.completed,
                Err(_) => &self.links.failed,
            };
            counter.inc();
            dialled
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>> {
        Box::pin(async move {
            let (knock, tls) = self.door.next().await?;
            Some(Box::new(Newcomer {
                way: Way::new(self.network.clone(), self.addr.ip(), knock.from.ip()),
                here: self.addr,
                knock,
                tls,
                config: self.config.clone(),
                links: self.links.clone(),
            }) as Box<dyn Incoming>)
        })
    }

    fn stop_accepting(&self) {
        self.door.shut();
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn stats(&self) -> TransportStats {
        self.links.stats()
    }

    fn close(&self, code: u64, reason: &[u8]) {
        self.door.close();
        self.links.close(code, reason);
    }

    fn wait_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.links.wait_idle())
    }
}

/// What a client leaves at a server's door.
#[derive(Debug)]
struct Knock {
    from: SocketAddr,
    session: Box<ClientConnection>,
    config: TransportConfig,
    links: Arc<Links>,
    answer: oneshot::Sender<Result<Arc<dyn Link>, ConnectionError>>,
}

#[derive(Debug)]
struct Newcomer {
    way: Way,
    here: SocketAddr,
    knock: Knock,
    tls: Arc<rustls::ServerConfig>,
    config: TransportConfig,
    links: Arc<Links>,
}

impl Incoming for Newcomer {
    fn remote_addr(&self) -> SocketAddr {
        self.knock.from
    }

    fn establish(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            let Self {
                way,
                here,
                knock,
                tls,
                config,
                links,
            } = *self;
            let server = ServerConnection::new(tls).map_err(|error| failure(&error))?;
            let (theirs, ours) = shake(*knock.session, server);
            // The server's answer has arrived: the client's side of the link is there, or knows why not.
            way.flight().await;
            let (theirs, ours) = match (theirs, ours) {
                (Ok(theirs), Ok(ours)) => (theirs, ours),
                (theirs, ours) => {
                    let ours = ours.err().unwrap_or(ConnectionError::Reset);
                    let theirs = theirs.err().unwrap_or(ConnectionError::Reset);
                    let _ = knock.answer.send(Err(theirs));
                    return Err(ours.into());
                }
            };
            let client = mux(true, &knock.config);
            let server = mux(false, &config);
            let facts = |remote, client, (alpn, certificates)| Facts {
                carrier: Carrier::Memory,
                remote,
                client,
                alpn: Some(alpn),
                certificates,
            };
            let idle = config.idle_timeout.min(knock.config.idle_timeout);
            carry::start(&way, [&client, &server], [&knock.links, &links], idle);
            let there: Arc<dyn Link> = Arc::new(MuxLink::new(client, facts(here, true, theirs)));
            let link = MuxLink::new(server, facts(knock.from, false, ours));
            // One who has given up meanwhile drops it, which closes both ends.
            let _ = knock.answer.send(Ok(there));
            way.flight().await;
            Ok(Arc::new(link) as Arc<dyn Link>)
        })
    }
}

fn mux(client: bool, config: &TransportConfig) -> Arc<Mux> {
    Mux::new(client, Limits::of(config), send_window(config))
}

fn send_window(config: &TransportConfig) -> usize {
    usize::try_from(config.send_window).unwrap_or(usize::MAX)
}

/// Waits that long, or not at all: a wait of nothing gives up the processor, and so the order of what happens.
async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
