//! What a run is to do, resolved: every choice made, every value checked. Flags and TOML profiles end here; nothing
//! behind it reads either.

pub mod amount;
mod profile;
mod wishes;
mod workload;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub use self::profile::{Profile, ProfileError};
pub use self::wishes::{Amount, Refused, Wishes, resolve};
pub use self::workload::Choice;
use crate::client::Target;
use crate::workload::Workload;

/// What is spoken to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/3 over QUIC.
    Http3,
    /// HTTP/2 over TLS, or over plain TCP with prior knowledge.
    Http2,
    /// HTTP/1.1 over TLS, or over plain TCP.
    Http1,
    /// STOQ between nodes.
    Stoq,
}

/// When requests begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// As soon as a lane is free: the server sets the pace. Latency is service time, and flatters a server that stalls.
    Closed,
    /// At a steady rate, requests a second, whatever the server does. Latency counts from the intended start.
    Constant {
        /// Requests a second, above 0.
        rate: f64,
    },
    /// At random with this mean rate (exponential gaps): what independent users do.
    Poisson {
        /// Requests a second, above 0.
        rate: f64,
    },
    /// At a rate that goes from one to the other, in a straight line over the run's length.
    Ramp {
        /// Requests a second at the start, 0 or more.
        from: f64,
        /// Requests a second at the end.
        to: f64,
    },
    /// At the times of the workload's recorded trace ([`Workload::times`]).
    Recorded {
        /// 2: twice as fast as it was recorded. Above 0.
        speed: f64,
    },
}

/// When a run ends. It never goes on longer than `duration` plus [`Plan::timeout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// No request begins after this time.
    pub duration: Duration,
    /// No more than so many requests begin.
    pub requests: Option<u64>,
}

/// What a connection is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Opened before the run and kept; one that dies is opened again, and counted.
    Kept,
    /// Closed and opened again when it is so old.
    Churn(Duration),
    /// A new one for each request, as [`Handshake`] says; latency includes it.
    PerRequest(Handshake),
}

/// How a connection of [`Session::PerRequest`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With certificates, knowing nothing.
    Full,
    /// With a ticket of an earlier one.
    Resumed,
    /// With a ticket, the request in early data.
    EarlyData,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// What is spoken to it.
    pub protocol: Protocol,
    /// When requests begin.
    pub shape: Shape,
    /// Connections, over all threads. At least 1.
    pub connections: u32,
    /// Requests that may be under way on each. At least 1; for HTTP/1.1 always 1.
    pub streams: u32,
    /// Threads, each with its own runtime, sockets and share of the connections. Default 1.
    pub threads: u32,
    /// Local addresses, taken in turn by connections. Empty: the system chooses.
    pub sources: Vec<IpAddr>,
    /// When it ends.
    pub stop: Stop,
    /// At the beginning, what is done and not counted.
    pub warmup: Duration,
    /// A request that takes longer, from its actual start, has failed.
    pub timeout: Duration,
    /// What is asked.
    pub workload: Arc<Workload>,
    /// Sent with each request.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// What a connection is good for.
    pub session: Session,
    /// Body bytes a second that each lane reads at most: a slow reader. `None`: as they come.
    pub read_rate: Option<u64>,
    /// An object may be nothing but zeros. Otherwise such a body, when it is learned, ends the run: it is what a server sends
    /// that answers before it has the bytes. Default false.
    pub zeros: bool,
    /// Connections that are opened beside the run's own, do nothing, and are asked one request each at the end.
    pub idle: Option<Idle>,
    /// Whatever is random comes from it.
    pub seed: u64,
}

/// Connections that do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// How many, over all threads.
    pub connections: u32,
    /// New ones a second.
    pub rate: u32,
    /// How long all are held before each is asked.
    pub hold: Duration,
    /// How often each shows that it is alive; a server's idle timeout would close it otherwise.
    pub keep_alive: Option<Duration>,
}
