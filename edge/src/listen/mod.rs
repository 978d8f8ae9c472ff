//! Between the sockets and the one [`Service`](crate::service::Service): three protocols, read and written alike.
//!
//! ```text
//! quic/   UDP: a task a connection; requests are answered on it, and only what must wait gets a task of its own
//! tcp/    TLS with HTTP/2 or HTTP/1.1, and plain HTTP/1.1: the same through hyper
//! ```
//!
//! Here are framing, the wire's timeouts, bounds on connections, and the drain. Not here: what is answered.
//!
//! Invariant: a response whose body fails never ends as if it were whole: its stream is reset (HTTP/3, HTTP/2) or its
//! connection broken (HTTP/1.1).

mod date;
mod exchange;
mod head;
mod limits;
mod metrics;
pub mod quic;
mod response;
mod sockets;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod wait;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stoq_node::Drain;

use self::limits::ConnectionCap;
pub use self::limits::Limits;
pub use self::metrics::Metrics;
pub use self::sockets::{BindError, HttpsSockets, bind_tcp};
use crate::alt_svc::ProbeToken;
use crate::service::{ConnectionInfo, ListenerKind};
use crate::xdp::Witness;

/// What all listeners of the process share, whatever the worker. Cloning gives another handle on the same.
#[derive(Debug, Clone)]
pub struct Common {
    limits: Limits,
    cap: ConnectionCap,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    probe: Arc<ProbeToken>,
    next_id: Arc<AtomicU64>,
    witness: Option<Witness>,
}

impl Common {
    /// Connections are tracked by `drain`, told to finish when it begins and cut when it ends.
    pub fn new(limits: Limits, metrics: Metrics, drain: Drain) -> Self {
        let cap = ConnectionCap::new(limits.connections);
        let probe = Arc::new(ProbeToken::random());
        Self {
            limits,
            cap,
            metrics,
            drain,
            probe,
            next_id: Arc::new(AtomicU64::new(1)),
            witness: None,
        }
    }

    /// The same, telling the packet limiter what it ought to know.
    pub(crate) fn telling(self, witness: Option<Witness>) -> Self {
        Self { witness, ..self }
    }

    /// The part of the connections there may be that there are, 0 to 1.
    #[must_use]
    pub fn load(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "connections are counted in thousands"
        )]
        let part = self.cap.open() as f64 / self.limits.connections.max(1) as f64;
        part.min(1.0)
    }

    /// The secret by which the edge's own probes are known; see [`crate::alt_svc`].
    pub fn probe_token(&self) -> &Arc<ProbeToken> {
        &self.probe
    }
}

/// What the listeners of one worker share: its service, and the process's common bounds and counters.
#[derive(Debug)]
pub struct Context<S> {
    pub(crate) service: Arc<S>,
    pub(crate) limits: Limits,
    pub(crate) cap: ConnectionCap,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) probe: Arc<ProbeToken>,
    next_id: Arc<AtomicU64>,
    /// Where a packet limiter is told who is who; none without one.
    pub(crate) witness: Option<Witness>,
}

impl<S> Context<S> {
    /// A context for `service` on one worker.
    pub fn new(service: Arc<S>, common: &Common) -> Arc<Self> {
        let Common {
            limits,
            cap,
            metrics,
            drain,
            probe,
            next_id,
            witness,
        } = common.clone();
        Arc::new(Self {
            service,
            limits,
            cap,
            metrics,
            drain,
            probe,
            next_id,
            witness,
        })
    }

    /// Open connections, all listeners together.
    pub fn connections(&self) -> usize {
        self.cap.open()
    }

    fn connection(
        &self,
        local: SocketAddr,
        listener: ListenerKind,
        server_name: Option<String>,
    ) -> Arc<ConnectionInfo> {
        Arc::new(ConnectionInfo {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            local,
            listener,
            server_name: server_name.map(|mut name| {
                name.make_ascii_lowercase();
                name.into_boxed_str()
            }),
            opened: Instant::now(),
        })
    }
}
