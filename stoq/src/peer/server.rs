//! The answering side: takes connections from nodes of the cluster and serves them until it drains.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::counters::PeerCounters;
use super::datagrams::Datagrams;
use super::error::PeerError;
use super::greet::{Control as HelloStream, Manners};
use super::handler::Handler;
use super::kinds::KindRules;
use super::serve::{Bounds, Control, DrainWatch, Served, serve};
use crate::hello::RoleRule;
use crate::identity::Identity;
use crate::shape::Shaper;
use crate::transport::{ConnectError, ConnectionError, HandshakeEnd, Incoming, Link, Transport};
use crate::wire::{CloseCode, Versions};

/// Who is served, and the bounds of serving.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Which peers are let in. Default: any node of the cluster.
    pub accept: RoleRule,
    /// Which of their roles permits which kind of exchange. Default: every kind for every peer that is let in.
    pub kinds: Arc<KindRules>,
    /// Exchanges handled at once on one connection; the next stream waits. Default 64. What one costs is the
    /// handler's, and at most a stream window of unread body.
    pub exchanges: usize,
    /// Messages handled at once on one connection; the next stream waits. Default 16. What one costs is the
    /// handler's, and at most a stream window of unread body.
    pub messages: usize,
    /// Time for the hello after the handshake. Default 5 s.
    pub hello_timeout: Duration,
    /// Time for the first frame of a stream, once it is this stream's turn. Default 5 s.
    pub request_timeout: Duration,
    /// The versions of the wire to speak. Default: all that this crate does.
    pub versions: Versions,
    /// What the bodies of answers wait for before they are sent, as [`Class::Fill`](crate::shape::Class::Fill) unless the handler
    /// [says otherwise](super::SendHalf::set_class). One for a whole node, whatever it sends by. Default: nothing.
    pub shaper: Option<Shaper>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            accept: RoleRule::Any,
            kinds: Arc::default(),
            exchanges: 64,
            messages: 16,
            hello_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            versions: Versions::default(),
            shaper: None,
        }
    }
}

/// Serves other nodes on one transport. Connections are bounded by the transport, over QUIC by its
/// [`AdmissionLimits`](crate::quic::AdmissionLimits).
///
/// The transport's TLS configuration must be that of the same identity ([`Identity::server_tls`]).
pub struct PeerServer {
    transport: Arc<dyn Transport>,
    identity: Identity,
    handler: Arc<dyn Handler>,
    config: ServeConfig,
    drain: watch::Sender<Option<Instant>>,
    counters: Arc<PeerCounters>,
}

impl fmt::Debug for PeerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerServer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl PeerServer {
    /// A server that does nothing until [`serve`](Self::serve).
    #[must_use]
    pub fn new(
        transport: impl Transport,
        identity: Identity,
        handler: Arc<dyn Handler>,
        config: ServeConfig,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            identity,
            handler,
            config,
            drain: watch::Sender::new(None),
            counters: Arc::new(PeerCounters::default()),
        }
    }

    /// Serves until a [`drain`](Self::drain) is over, or the transport is closed. When it returns, every
    /// connection it took is closed and no handler is running. Dropping the future cuts everything off.
    pub async fn serve(&self) {
        let mut connections = JoinSet::new();
        let mut drain = self.drain.subscribe();
        loop {
            // Each may be cancelled: what was not taken stays in its queue.
            tokio::select! {
                incoming = self.transport.accept() => match incoming {
                    Some(incoming) => {
                        connections.spawn(self.connection(incoming));
                    }
                    None => break,
                },
                Some(ended) = connections.join_next() => log_panic(&ended),
                // The sender is in `self`, so this is a drain.
                _ = drain.wait_for(Option::is_some) => {
                    self.transport.stop_accepting();
                    break;
                }
            }
        }
        while let Some(ended) = connections.join_next().await {
            log_panic(&ended);
        }
    }

    /// Takes no new connection, asks the peers to start no further exchange, lets those under way finish for as
    /// long as `grace`, then closes. Returns at once; [`serve`](Self::serve) returns when it is done. A second call
    /// changes nothing.
    pub fn drain(&self, grace: Duration) {
        let end = Instant::now() + grace;
        self.drain
            .send_if_modified(|at| at.is_none().then(|| *at = Some(end)).is_some());
    }

    /// What this server counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<PeerCounters> {
        &self.counters
    }

    /// One connection from its handshake to its end, owning what it needs so that it can be a task.
    fn connection(&self, incoming: Box<dyn Incoming>) -> impl Future<Output = ()> + Send + 'static {
        let (identity, handler) = (self.identity.clone(), self.handler.clone());
        let (config, counters, drain) = (
            self.config.clone(),
            self.counters.clone(),
            self.drain.subscribe(),
        );
        connection(incoming, identity, handler, config, counters, drain)
    }
}

async fn connection(
    incoming: Box<dyn Incoming>,
    identity: Identity,
    handler: Arc<dyn Handler>,
    config: ServeConfig,
    counters: Arc<PeerCounters>,
    drain: DrainWatch,
) {
    let addr = incoming.remote_addr();
    let (conn, mut end, control) = match begin(incoming).await {
        Ok(begun) => begun,
        Err(error) => {
            counters.handshakes_failed.inc();
            if is_stranger(&error) {
                identity.audit_stranger(addr);
            }
            tracing::debug!(%addr, %error, "handshake failed");
            return;
        }
    };
    let manners = Manners {
        identity: &identity,
        rule: &config.accept,
        versions: config.versions,
        limit: config.hello_timeout,
    };
    let greeted = match manners.greet(&*conn, control, &mut end).await {
        Ok(greeted) => greeted,
        Err(PeerError::Refused { refusal, .. }) => return counters.refused(refusal.code()),
        Err(PeerError::Hello { refusal, .. }) => return counters.refused(refusal.code()),
        Err(error) => {
            counters.ended_before_hello.inc();
            tracing::debug!(%addr, %error, "peer left before its hello");
            return;
        }
    };
    counters.peers_accepted.inc();
    let (info, control) = Control::split(greeted);
    let (kinds, request_timeout) = (config.kinds, config.request_timeout);
    let shaper = config.shaper;
    let served = Arc::new(Served {
        datagrams: Datagrams::new(conn.clone(), &info),
        shaper,
        conn,
        info,
        identity,
        handler,
        kinds,
        counters,
        request_timeout,
        proven: watch::Sender::new(false),
    });
    let bounds = Bounds {
        exchanges: config.exchanges,
        messages: config.messages,
    };
    serve(served, control, end, bounds, drain).await;
}

/// The connection after its handshake; or before, with the control stream that came as early data.
async fn begin(
    incoming: Box<dyn Incoming>,
) -> Result<(Arc<dyn Link>, HandshakeEnd, HelloStream), ConnectError> {
    let (conn, mut end) = incoming.establish_early().await?;
    // Both may be cancelled: a stream that was not taken is still there.
    let first = tokio::select! {
        biased;
        ended = end.reached() => ended.map(|()| None)?,
        stream = conn.accept_bi() => Some(stream),
    };
    let control = match first {
        None => HelloStream::None,
        Some(Ok(streams)) if streams.1.is_0rtt() => HelloStream::Accepted(streams),
        Some(Ok(streams)) => {
            end.reached().await?;
            HelloStream::Accepted(streams)
        }
        Some(Err(error)) => {
            end.reached().await?;
            return Err(error.into());
        }
    };
    Ok((conn, end, control))
}

/// Whether TLS refused somebody without a certificate, before our verifier was asked.
fn is_stranger(error: &ConnectError) -> bool {
    let ConnectError::Connection(error) = error else {
        return false;
    };
    match error {
        ConnectionError::TransportClosed { code, by_peer, .. } => {
            !by_peer && CloseCode::of_transport(*code) == Some(CloseCode::NoCertificate)
        }
        _ => false,
    }
}

fn log_panic(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "serving a connection panicked");
    }
}
