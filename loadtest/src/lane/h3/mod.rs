//! HTTP/3 with framing of our own over [`stoq::quic`]: a request is one write of bytes that were encoded once, an answer
//! is cut out of its stream as it comes (`response.rs`). The library for it costs more than many servers do.
//!
//! A connection has no task of its own beside QUIC's. The server's unidirectional streams are not read: its settings
//! would only widen what is sent here (no dynamic table, small heads), it pushes nothing without leave, and of a GOAWAY
//! it makes itself heard: the requests it does not take are reset with H3_REQUEST_REJECTED, or the connection ends; both
//! are [`Failure::Unsent`], and another connection is opened.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | unread bytes of an answer | 2 MiB (16 KiB for a slow reader) | the server waits |
//! | unread bytes of a connection | 32 MiB (64 KiB) | the server waits |
//! | a response's field section | 64 KiB | an error |
//! | what the server sends on its own streams | the connection's window | it waits |

mod request;
mod response;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes};
use stoq::h3::frame::{self, CONTROL_STREAM, SETTINGS};
use stoq::quic::{
    Connection, ConnectionError, EarlyData, Endpoint, ReadError, RecvStream, SendStream, TlsClient,
    TransportConfig, WriteError,
};

use tokio::task::AbortHandle;

use self::request::Encoder;
use self::response::{HEAD_BYTES_MAX, Response};
use super::request::Common;
use super::tls;
use super::{Conn, Dialer, Failure, Lane, Opened, Sink};
use crate::client::{ClientError, Version, chain};
use crate::plan::{Handshake, Plan, Session};
use crate::workload::Ask;

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u64 = 0x100;
const H3_REQUEST_REJECTED: u64 = 0x10b;
const H3_REQUEST_CANCELLED: u64 = 0x10c;
/// RFC 9114 section 7.2.4.1.
const SETTINGS_MAX_FIELD_SECTION_SIZE: u64 = 0x6;
/// Who ends a connection that says nothing is to be the server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Opens connections to the plan's target, on one socket for each source address.
#[derive(Debug)]
pub struct H3Dialer {
    address: SocketAddr,
    name: String,
    endpoints: Vec<Endpoint>,
    tls: TlsClient,
    early: bool,
    common: Arc<Common>,
}

impl H3Dialer {
    /// For a thread of the run, within its runtime; each has its own, and resumes its own connections. Looks the
    /// target's name up, and blocks for it.
    ///
    /// # Errors
    /// [`ClientError`]: the plan cannot be carried out over HTTP/3, the name has no address, or a source address is
    /// not this machine's.
    pub fn new(plan: &Plan, _thread: u32) -> Result<Self, ClientError> {
        let target = &plan.target;
        if !target.is_secure() {
            return Err(ClientError::Target(
                "HTTP/3 is spoken over https:// only".to_owned(),
            ));
        }
        let address = target.resolve()?;
        let config = tls::config(target, Version::Http3, plan.session)?;
        let tls = TlsClient::new(Arc::new(config))
            .map_err(|error| ClientError::Target(error.to_string()))?;
        let transport = transport(plan);
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let sources = if plan.sources.is_empty() {
            vec![any]
        } else {
            plan.sources.clone()
        };
        let mut endpoints = Vec::with_capacity(sources.len());
        for source in sources {
            if source.is_ipv4() != address.is_ipv4() {
                return Err(ClientError::Target(format!(
                    "source address {source} cannot reach {address}: one is IPv4, the other IPv6"
                )));
            }
            let endpoint = Endpoint::client(SocketAddr::new(source, 0), transport.clone());
            endpoints.push(
                endpoint.map_err(|error| ClientError::Connect(format!("{source}: {error}")))?,
            );
        }
        Ok(Self {
            address,
            name: target.host().to_owned(),
            endpoints,
            tls,
            early: plan.session == Session::PerRequest(Handshake::EarlyData),
            common: Arc::new(Common::multiplexed(plan)?),
        })
    }
}

fn transport(plan: &Plan) -> TransportConfig {
    let (stream, connection) = if plan.read_rate.is_some() {
        (16 << 10, 64 << 10)
    } else {
        (2 << 20, 32 << 20)
    };
    TransportConfig {
        // A server opens none to a client; its control and QPACK streams are three, and some grease.
        max_bidi_streams: 0,
        max_uni_streams: 8,
        stream_window: stream,
        connection_window: connection,
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: plan.idle.and_then(|idle| idle.keep_alive),
        ..TransportConfig::default()
    }
}

impl Dialer for H3Dialer {
    type Conn = H3Conn;

    async fn dial(&self, number: u32) -> Result<H3Conn, Failure> {
        let place = number as usize % self.endpoints.len().max(1);
        let Some(endpoint) = self.endpoints.get(place) else {
            return Err(Failure::Connect("no source address".to_owned()));
        };
        let failed = |error: stoq::quic::ConnectError| {
            Failure::Handshake(format!("{}: {}", self.address, chain(&error)))
        };
        let started = Instant::now();
        let (connection, early) = if self.early {
            let begun = endpoint.connect_early(self.address, &self.name, &self.tls);
            begun.await.map_err(failed)?
        } else {
            let connected = endpoint.connect(self.address, &self.name, &self.tls);
            (connected.await.map_err(failed)?, EarlyData::default())
        };
        let control = control(&connection)
            .await
            .map_err(|error| Failure::Handshake(error.to_string()))?;
        let control = if early.is_offered() {
            let kept = control_again(control, early, connection.clone());
            Control::Early(tokio::spawn(kept).abort_handle())
        } else {
            Control::Open { _stream: control }
        };
        Ok(H3Conn {
            started,
            ready: Instant::now(),
            shared: Arc::new(Shared {
                connection,
                _control: control,
                common: Arc::clone(&self.common),
            }),
        })
    }

    fn socket_drops(&self) -> Option<u64> {
        self.endpoints.iter().map(Endpoint::kernel_drops).sum()
    }
}

/// Opens the control stream. It stays open as long as the connection.
//= https://www.rfc-editor.org/rfc/rfc9114#section-6.2.1
//# Each side MUST initiate a single control stream at the beginning of the connection and send its SETTINGS frame as the
//# first frame on this stream.
async fn control(connection: &Connection) -> Result<SendStream, WriteError> {
    let mut setting = Vec::with_capacity(8);
    frame::put_varint(&mut setting, SETTINGS_MAX_FIELD_SECTION_SIZE);
    frame::put_varint(&mut setting, HEAD_BYTES_MAX);
    let mut bytes = Vec::with_capacity(16);
    frame::put_varint(&mut bytes, CONTROL_STREAM);
    frame::put_head(&mut bytes, SETTINGS, setting.len() as u64);
    bytes.put_slice(&setting);
    let mut stream = connection.open_uni().await?;
    stream.write_all_chunks(&mut [bytes.into()]).await?;
    Ok(stream)
}

/// Keeps a control stream that was opened in early data; where the server did not take it, it has not seen one, and
/// gets another. Ends with the connection.
async fn control_again(stream: SendStream, mut early: EarlyData, connection: Connection) {
    let again = if early.accepted().await {
        None
    } else {
        control(&connection).await.ok()
    };
    connection.closed().await;
    drop((stream, again));
}

/// A connection.
pub struct H3Conn {
    started: Instant,
    ready: Instant,
    shared: Arc<Shared>,
}

/// What the lanes of a connection share.
struct Shared {
    connection: Connection,
    _control: Control,
    common: Arc<Common>,
}

/// The control stream, which is open as long as this is here.
enum Control {
    Open {
        _stream: SendStream,
    },
    /// In the hands of [`control_again`].
    Early(AbortHandle),
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Self::Early(task) = self {
            task.abort();
        }
    }
}

impl fmt::Debug for H3Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("H3Conn")
            .field(&self.shared.connection)
            .finish()
    }
}

impl Conn for H3Conn {
    type Lane = H3Lane;

    fn lane(&self) -> H3Lane {
        H3Lane {
            encoder: Encoder::new(Arc::clone(&self.shared.common)),
            response: Response::new(),
            shared: Arc::clone(&self.shared),
        }
    }

    fn opened(&self) -> Opened {
        // With early data it is there as soon as an answer has come, since that needs the handshake's end.
        let (resumed, early_data) = match self.shared.connection.handshake() {
            Some(handshake) => (handshake.resumed, handshake.early_data),
            None => (false, false),
        };
        Opened {
            started: self.started,
            ready: self.ready,
            resumed,
            early_data,
        }
    }

    async fn closed(&self) -> String {
        self.shared.connection.closed().await.to_string()
    }

    async fn close(self) {
        self.shared.connection.close(H3_NO_ERROR, b"");
    }
}

/// One of the requests under way on a connection.
pub struct H3Lane {
    encoder: Encoder,
    response: Response,
    shared: Arc<Shared>,
}

impl fmt::Debug for H3Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("H3Lane")
            .field(&self.shared.connection)
            .finish()
    }
}

/// Why one attempt gave no answer.
enum Lost {
    /// The server did not take early data: the same again, now that the handshake has ended.
    Early,
    Failed(Failure),
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ReadError> for Lost {
    fn from(error: ReadError) -> Self {
        Self::Failed(match error {
            ReadError::EarlyDataRejected => return Self::Early,
            //= https://www.rfc-editor.org/rfc/rfc9114#section-4.1.1
            //# Requests that are rejected with H3_REQUEST_REJECTED can be treated by the client as though they had never
            //# been sent at all.
            ReadError::Reset(H3_REQUEST_REJECTED) => {
                Failure::Unsent("the server takes no more requests".to_owned())
            }
            ReadError::Reset(code) => Failure::Reset(code),
            ReadError::Connection(error) => closed(&error),
            // Stopped by this side, or a kind that did not exist when this was written.
            error => Failure::Protocol(error.to_string()),
        })
    }
}

fn closed(error: &ConnectionError) -> Failure {
    Failure::Closed(error.to_string())
}

impl H3Lane {
    async fn attempt(&mut self, ask: &Ask, sink: &mut Sink<'_>) -> Result<(), Lost> {
        let frames = self.encoder.frames(ask)?;
        let opened = self.shared.connection.open_bi().await;
        let (mut send, mut recv) = opened.map_err(|error| Failure::Unsent(error.to_string()))?;
        send.set_drop_code(H3_REQUEST_CANCELLED);
        recv.set_drop_code(H3_REQUEST_CANCELLED);
        let read = read(&mut self.response, &mut recv, sink);
        match request::body(ask) {
            None => {
                write(&mut send, &mut [frames]).await?;
                read.await
            }
            Some(body) => {
                let mut chunks = [frames, body];
                let mut write = pin!(write(&mut send, &mut chunks));
                let mut read = pin!(read);
                tokio::select! {
                    biased;
                    written = &mut write => {
                        written?;
                        read.await
                    }
                    // The answer may come before the request is whole. Then it counts, and the rest is not sent: the
                    // dropped stream is reset.
                    read = &mut read => read,
                }
            }
        }
    }
}

async fn write(send: &mut SendStream, chunks: &mut [Bytes]) -> Result<(), Lost> {
    match send.write_all_chunks(chunks).await {
        Ok(()) => {
            // Fails only when the server has stopped the stream, and then its answer says why.
            let _ = send.finish();
            Ok(())
        }
        //= https://www.rfc-editor.org/rfc/rfc9114#section-4.1.1
        //# Clients MUST NOT discard complete responses as a result of having their request terminated abruptly
        Err(WriteError::Stopped(_) | WriteError::Finished) => Ok(()),
        Err(WriteError::EarlyDataRejected) => Err(Lost::Early),
        Err(WriteError::Connection(error)) => Err(closed(&error).into()),
        Err(error) => Err(Failure::Protocol(error.to_string()).into()),
    }
}

async fn read(
    response: &mut Response,
    recv: &mut RecvStream,
    sink: &mut Sink<'_>,
) -> Result<(), Lost> {
    response.reset();
    while let Some(piece) = recv.read_chunk(usize::MAX).await? {
        response.push(piece, sink)?;
        if let Some(ahead) = sink.pace() {
            tokio::time::sleep(ahead).await;
        }
    }
    Ok(response.end(sink)?)
}

impl Lane for H3Lane {
    async fn exchange(&mut self, ask: &Ask, sink: &mut Sink<'_>) -> Result<(), Failure> {
        match self.attempt(ask, sink).await {
            Ok(()) => return Ok(()),
            Err(Lost::Failed(failure)) => return Err(failure),
            Err(Lost::Early) => {}
        }
        match self.attempt(ask, sink).await {
            Ok(()) => Ok(()),
            Err(Lost::Failed(failure)) => Err(failure),
            Err(Lost::Early) => Err(Failure::Protocol("early data refused twice".to_owned())),
        }
    }
}
