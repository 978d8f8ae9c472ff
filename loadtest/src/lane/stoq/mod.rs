//! STOQ between nodes: exchanges on a connection whose certificates name both sides.
//!
//! Two kinds of load, told apart by the target. With a [`Site`](crate::Site) each ask is for an object of that site, as
//! an edge asks its shield. Without one the paths are `/bulk/BYTES` and `/rpc/REQUEST/ANSWER`, the
//! [exchanges](server) that `stoq-bench stoq-server` answers; their bytes are verified against a pattern that both
//! sides know, whatever the workload knows of them.
//!
//! The transport is the one that nodes use between them. Beyond [`EXCHANGES_MAX`] exchanges under way on a connection
//! the next waits for a stream. Nodes show certificates on each connection and keep no tickets, so there is nothing to
//! resume.

mod exchange;
mod object;
mod pattern;
pub mod server;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq::identity::Identity;
use stoq::peer::{DialConfig, Exchange, ExchangeError, Part, PeerConn, PeerError};
use stoq::quic::Endpoint;
use stoq_mesh::{EXCHANGES_MAX, between_nodes};

use self::exchange::Call;
use self::object::Objects;
use self::pattern::Pattern;
use super::{Conn, Dialer, Failure, Lane, Opened, Sink};
use crate::client::ClientError;
use crate::plan::{Handshake, Plan, Session};
use crate::workload::{Ask, Object, Verb};

/// The caller bounds times; these only have to be longer.
const LONG: Duration = Duration::from_secs(3600);

/// Opens connections to the plan's target.
#[derive(Debug)]
pub struct StoqDialer {
    address: SocketAddr,
    /// One for each source address.
    endpoints: Vec<Endpoint>,
    identity: Identity,
    asks: Arc<Asks>,
}

/// What all lanes ask.
#[derive(Debug)]
enum Asks {
    Objects(Objects),
    Bench { seed: u64, pattern: Pattern },
}

impl StoqDialer {
    /// For a thread of the run, within its runtime: opens its UDP sockets. Looks the target's name up, and blocks for
    /// it.
    ///
    /// # Errors
    /// [`ClientError`]: the plan cannot be carried out over STOQ, the name has no address, or a source address cannot
    /// be bound.
    pub fn new(plan: &Plan, _thread: u32) -> Result<Self, ClientError> {
        let bad = |text: String| Err(ClientError::Target(text));
        let Some(member) = plan.target.member() else {
            return bad("STOQ needs `stoq://host:port` and the identity of a node".to_owned());
        };
        if let Session::PerRequest(Handshake::Resumed | Handshake::EarlyData) = plan.session {
            return bad(
                "nodes show their certificates on each connection: STOQ has no resumed sessions and no early data"
                    .to_owned(),
            );
        }
        if plan.streams > EXCHANGES_MAX {
            return bad(format!(
                "{} exchanges on a connection; nodes allow each other {EXCHANGES_MAX}",
                plan.streams
            ));
        }
        let asks = match Objects::of(plan) {
            Some(objects) => Asks::Objects(objects),
            None => {
                for object in plan.workload.objects() {
                    Call::of_path(&object.path).map_err(ClientError::Target)?;
                }
                Asks::Bench {
                    seed: plan.seed,
                    pattern: Pattern::of(plan.seed),
                }
            }
        };
        let address = plan.target.resolve()?;
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let sources = if plan.sources.is_empty() {
            &[any][..]
        } else {
            &plan.sources
        };
        let mut transport = between_nodes();
        transport.mtu_max = member.mtu.unwrap_or(transport.mtu_max);
        let mut endpoints = Vec::with_capacity(sources.len());
        for source in sources {
            if source.is_ipv4() != address.is_ipv4() {
                return bad(format!(
                    "source address {source} cannot reach {address}: one is IPv4, the other IPv6"
                ));
            }
            let endpoint = Endpoint::client(SocketAddr::new(*source, 0), transport.clone());
            endpoints.push(endpoint.map_err(|error| {
                ClientError::Target(format!("source address {source}: {error}"))
            })?);
        }
        Ok(Self {
            address,
            endpoints,
            identity: member.identity.clone(),
            asks: Arc::new(asks),
        })
    }
}

impl Dialer for StoqDialer {
    type Conn = StoqConn;

    async fn dial(&self, number: u32) -> Result<StoqConn, Failure> {
        let turn = (number as usize).checked_rem(self.endpoints.len());
        let endpoint = turn
            .and_then(|turn| self.endpoints.get(turn))
            .ok_or_else(|| Failure::Connect("no socket".to_owned()))?;
        let config = DialConfig {
            connect_timeout: LONG,
            hello_timeout: LONG,
            stream_timeout: LONG,
            idle_close: LONG,
            ..DialConfig::default()
        };
        let started = Instant::now();
        let dialled = PeerConn::dial(endpoint, &self.identity, self.address, &config).await;
        let conn = dialled.map_err(|error| match error {
            PeerError::Connect { .. } | PeerError::Timeout { .. } => {
                Failure::Connect(error.to_string())
            }
            other => Failure::Handshake(other.to_string()),
        })?;
        Ok(StoqConn {
            conn,
            asks: Arc::clone(&self.asks),
            opened: Opened {
                started,
                ready: Instant::now(),
                resumed: false,
                early_data: false,
            },
        })
    }

    fn socket_drops(&self) -> Option<u64> {
        self.endpoints.iter().map(Endpoint::kernel_drops).sum()
    }
}

/// A connection.
#[derive(Debug)]
pub struct StoqConn {
    conn: PeerConn,
    asks: Arc<Asks>,
    opened: Opened,
}

impl Conn for StoqConn {
    type Lane = StoqLane;

    fn lane(&self) -> StoqLane {
        StoqLane {
            conn: self.conn.clone(),
            asks: Arc::clone(&self.asks),
            last: None,
        }
    }

    fn opened(&self) -> Opened {
        self.opened
    }

    async fn closed(&self) -> String {
        self.conn.closed().await.to_string()
    }

    async fn close(self) {
        self.conn.close();
        // What tells the peer is sent by the connection's task, at its next turn.
        tokio::task::yield_now().await;
    }
}

/// One of the exchanges under way on a connection.
#[derive(Debug)]
pub struct StoqLane {
    conn: PeerConn,
    asks: Arc<Asks>,
    /// What was asked for last, and the message for it: runs ask for the same again and again.
    last: Option<(Arc<Object>, Call, Bytes)>,
}

impl Lane for StoqLane {
    async fn exchange(&mut self, ask: &Ask, sink: &mut Sink<'_>) -> Result<(), Failure> {
        let asks = Arc::clone(&self.asks);
        match &*asks {
            Asks::Objects(objects) => objects.exchange(&self.conn, ask, sink).await,
            Asks::Bench { seed, pattern } => {
                let (call, control) = self.call(ask, *seed, pattern)?;
                bench(&self.conn, call, control, pattern, sink).await
            }
        }
    }
}

impl StoqLane {
    fn call(&mut self, ask: &Ask, seed: u64, pattern: &Pattern) -> Result<(Call, Bytes), Failure> {
        if ask.verb != Verb::Get {
            return Err(Failure::Protocol(
                "bench exchanges know no verb but GET".to_owned(),
            ));
        }
        if let Some((object, call, control)) = &self.last
            && Arc::ptr_eq(object, &ask.object)
        {
            return Ok((*call, control.clone()));
        }
        let call = Call::of_path(&ask.object.path).map_err(Failure::Protocol)?;
        let control = call.encode(seed, pattern);
        self.last = Some((Arc::clone(&ask.object), call, control.clone()));
        Ok((call, control))
    }
}

/// An exchange with `stoq-server`. What came is compared with the pattern, and goes to the sink as a 200.
async fn bench(
    conn: &PeerConn,
    call: Call,
    control: Bytes,
    pattern: &Pattern,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let exchange = conn.exchange(call.kind(), control, None).await;
    let Exchange { send, mut recv } = exchange.map_err(unsent)?;
    send.finish().await.map_err(failed)?;
    let Some(Part::Head(head)) = recv.next().await.map_err(failed)? else {
        return Err(Failure::Protocol("an answer without a head".to_owned()));
    };
    sink.head(200, Some(call.length()))?;
    let mut at = call.begins();
    match call {
        Call::Rpc { .. } => take(&head, &mut at, pattern, sink)?,
        Call::Bulk(length) => {
            if *head != length.to_be_bytes() {
                return Err(Failure::Protocol(
                    "a head that names another length".to_owned(),
                ));
            }
        }
    }
    while let Some(part) = recv.next().await.map_err(failed)? {
        let Part::Data(piece) = part else {
            return Err(Failure::Protocol("a frame that is no data".to_owned()));
        };
        take(&piece, &mut at, pattern, sink)?;
        wait(sink).await;
    }
    sink.end()
}

fn take(piece: &[u8], at: &mut u64, pattern: &Pattern, sink: &mut Sink<'_>) -> Result<(), Failure> {
    sink.body(piece)?;
    if !pattern.is_at(*at, piece) {
        return Err(Failure::Wrong(format!(
            "bytes {at} to {} are not the pattern's",
            at.saturating_add(piece.len() as u64)
        )));
    }
    *at += piece.len() as u64;
    Ok(())
}

/// A slow reader's wait.
async fn wait(sink: &Sink<'_>) {
    if let Some(ahead) = sink.pace() {
        tokio::time::sleep(ahead).await;
    }
}

/// A request that could not be sent: its frame did not leave whole, so the peer has seen no request.
fn unsent(error: ExchangeError) -> Failure {
    match error {
        ExchangeError::Connection(_)
        | ExchangeError::Draining
        | ExchangeError::NoStream(_)
        | ExchangeError::Expired => Failure::Unsent(error.to_string()),
        other => failed(other),
    }
}

fn failed(error: ExchangeError) -> Failure {
    match error {
        ExchangeError::Cancelled { code } => Failure::Reset(code),
        ExchangeError::Remote { code, text } => Failure::Refused { code, text },
        ExchangeError::Deadline => Failure::TimedOut,
        ExchangeError::Connection(error) => Failure::Closed(error.to_string()),
        other => Failure::Protocol(other.to_string()),
    }
}
