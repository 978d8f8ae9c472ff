//! HTTP/2 over TLS, or over plain TCP with prior knowledge: many requests on a connection.
//!
//! One task a connection reads and writes frames (the `h2` crate); lanes share it. Windows are large, so that what is
//! measured is the server and not the pace of window updates; a slow reader gets the protocol's initial windows, which
//! it can fill.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | unread bytes of an answer | 4 MiB (64 KiB for a slow reader) | the server waits |
//! | unread bytes of a connection | 4 MiB a stream of the plan, at most 64 MiB (64 KiB a stream, 1 MiB) | the server waits |
//! | a response's fields | 64 KiB | the stream is reset |
//! | a closing connection | 1 s to say so | it is dropped |

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Uri};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::request::{self, Common};
use super::tcp::{Began, TcpDialer};
use super::{Conn, Dialer, Failure, Lane, Opened, Sink};
use crate::client::{ClientError, Version, chain};
use crate::plan::Plan;
use crate::workload::{Ask, Object, Verb};

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW_MAX: u32 = 64 << 20;
/// RFC 9113 §6.9.2: the initial window.
const SLOW_STREAM_WINDOW: u32 = 65_535;
const SLOW_CONNECTION_WINDOW_MAX: u32 = 1 << 20;
const HEAD_BYTES_MAX: u32 = 64 * 1024;
const CLOSE: Duration = Duration::from_secs(1);

/// Opens connections to the plan's target.
#[derive(Debug)]
pub struct H2Dialer {
    tcp: TcpDialer,
    common: Arc<Common>,
    fields: HeaderMap,
    builder: h2::client::Builder,
}

impl H2Dialer {
    /// For a thread of the run; each has its own, and resumes its own connections. Looks the target's name up, and
    /// blocks for it.
    ///
    /// # Errors
    /// [`ClientError`]: the plan cannot be carried out over HTTP/2, or the name has no address.
    pub fn new(plan: &Plan, _thread: u32) -> Result<Self, ClientError> {
        let (stream, most) = if plan.read_rate.is_some() {
            (SLOW_STREAM_WINDOW, SLOW_CONNECTION_WINDOW_MAX)
        } else {
            (STREAM_WINDOW, CONNECTION_WINDOW_MAX)
        };
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(stream)
            .initial_connection_window_size(stream.saturating_mul(plan.streams.max(1)).min(most))
            .max_header_list_size(HEAD_BYTES_MAX)
            .enable_push(false);
        let common = Common::multiplexed(plan)?;
        let mut fields = HeaderMap::new();
        for (name, value) in &common.fields {
            fields.append(name, value.clone());
        }
        Ok(Self {
            tcp: TcpDialer::new(plan, Version::Http2)?,
            common: Arc::new(common),
            fields,
            builder,
        })
    }
}

impl Dialer for H2Dialer {
    type Conn = H2Conn;

    async fn dial(&self, number: u32) -> Result<H2Conn, Failure> {
        let (wire, began) = self.tcp.dial(number).await?;
        // Its preface and settings need no answer.
        let started = self.builder.handshake::<_, Bytes>(wire).await;
        let (sender, connection) = started.map_err(|error| Failure::Handshake(chain(&error)))?;
        let (told, ended) = watch::channel(None);
        let driver = tokio::spawn(async move {
            let reason = match connection.await {
                Ok(()) => "without an error".to_owned(),
                Err(error) => chain(&error),
            };
            told.send_replace(Some(reason));
        });
        Ok(H2Conn {
            sender,
            began,
            ended,
            driver: Driver(driver),
            common: Arc::clone(&self.common),
            fields: self.fields.clone(),
        })
    }

    fn socket_drops(&self) -> Option<u64> {
        Some(0)
    }
}

/// A connection.
pub struct H2Conn {
    sender: SendRequest<Bytes>,
    began: Began,
    ended: watch::Receiver<Option<String>>,
    driver: Driver,
    common: Arc<Common>,
    fields: HeaderMap,
}

/// The connection's task, which ends with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for H2Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Conn")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

impl Conn for H2Conn {
    type Lane = H2Lane;

    fn lane(&self) -> H2Lane {
        H2Lane {
            sender: self.sender.clone(),
            ended: self.ended.clone(),
            common: Arc::clone(&self.common),
            fields: self.fields.clone(),
            last: None,
        }
    }

    fn opened(&self) -> Opened {
        self.began.opened()
    }

    async fn closed(&self) -> String {
        closed(self.ended.clone()).await
    }

    async fn close(self) {
        let Self {
            sender, mut driver, ..
        } = self;
        // Without senders the task says GOAWAY and ends; one that a lane still has keeps it.
        drop(sender);
        drop(tokio::time::timeout(CLOSE, &mut driver.0).await);
    }
}

/// Why the connection's task ended, once it has.
async fn closed(mut ended: watch::Receiver<Option<String>>) -> String {
    // An error means that the task was aborted.
    let reason = ended.wait_for(Option::is_some).await;
    let reason = reason.ok().and_then(|reason| reason.clone());
    reason.unwrap_or_else(|| "by this side".to_owned())
}

/// One of the requests under way on a connection.
pub struct H2Lane {
    sender: SendRequest<Bytes>,
    ended: watch::Receiver<Option<String>>,
    common: Arc<Common>,
    fields: HeaderMap,
    /// What was asked for last, and as a URI: runs ask for the same again and again.
    last: Option<(Arc<Object>, Uri)>,
}

impl std::fmt::Debug for H2Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Lane").finish_non_exhaustive()
    }
}

impl H2Lane {
    fn request(&mut self, ask: &Ask) -> Result<Request<()>, Failure> {
        let uri = match &self.last {
            Some((object, uri)) if Arc::ptr_eq(object, &ask.object) => uri.clone(),
            Some(_) | None => {
                let uri = uri(&self.common, ask)?;
                self.last = Some((Arc::clone(&ask.object), uri.clone()));
                uri
            }
        };
        let bad = |error: &dyn std::error::Error| Failure::Protocol(error.to_string());
        let method = request::method(&ask.verb);
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| bad(&error))?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.fields.clone();
        if let Some((name, value)) = request::range(&ask.verb) {
            request.headers_mut().insert(name, value);
        }
        if let Verb::Put(body) = &ask.verb {
            request
                .headers_mut()
                .insert(http::header::CONTENT_LENGTH, body.len().into());
        }
        Ok(request)
    }

    /// h2's error as ours. `declared`: what the head said, where there was one.
    fn lost(error: &h2::Error, sink: &Sink<'_>, declared: Option<u64>) -> Failure {
        if error.is_reset() && error.is_remote() {
            let code = error.reason().map_or(0, u32::from);
            return Failure::Reset(u64::from(code));
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
        //# If a receiver of the GOAWAY has sent data on streams with a higher stream identifier than what is
        //# indicated in the GOAWAY frame, those streams are not or will not be processed.
        if error.is_go_away() && error.is_remote() {
            let reason = error.reason().map_or(0, u32::from);
            return Failure::Unsent(format!("the server is going away, code {reason:#x}"));
        }
        if error.is_reset() && error.is_library() {
            // h2 holds a body to its declared length by itself: it hides the frame with which one ends too early, or
            // runs over, and calls either a protocol error. So `got` lacks that frame.
            let got = sink.received();
            return match declared {
                Some(want) if got < want => Failure::Truncated {
                    got,
                    want: Some(want),
                },
                _ => Failure::Protocol(chain(error)),
            };
        }
        if error.is_io() {
            return Failure::Closed(chain(error));
        }
        Failure::Protocol(chain(error))
    }

    /// A request that could not begin: the connection takes no more. Why, its task knows once it has ended.
    fn unsent(&self, error: &h2::Error) -> Failure {
        let ended = self.ended.borrow().clone();
        Failure::Unsent(ended.unwrap_or_else(|| chain(error)))
    }
}

impl Lane for H2Lane {
    async fn exchange(&mut self, ask: &Ask, sink: &mut Sink<'_>) -> Result<(), Failure> {
        let request = self.request(ask)?;
        // Waits while the server's limit of streams is reached.
        if let Err(error) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            return Err(self.unsent(&error));
        }
        let body = match &ask.verb {
            Verb::Put(body) => Some(body.clone()),
            Verb::Get | Verb::Range { .. } | Verb::Head | Verb::Purge => None,
        };
        let sent = self.sender.send_request(request, body.is_none());
        let (response, mut upload) = match sent {
            Ok(started) => started,
            Err(error) => return Err(self.unsent(&error)),
        };
        if let Some(body) = body
            && let Err(error) = upload.send_data(body, true)
        {
            return Err(Self::lost(&error, sink, None));
        }
        let (head, mut body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => return Err(Self::lost(&error, sink, None)),
        };
        let lengths = head.headers.get_all(http::header::CONTENT_LENGTH);
        let declared = request::declared(lengths.iter().map(http::HeaderValue::as_bytes))?;
        if let Some(value) = head.headers.get(http::header::CONTENT_RANGE) {
            sink.content_range(value.as_bytes());
        }
        sink.head(head.status.as_u16(), declared)?;
        while let Some(piece) = body.data().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Err(Self::lost(&error, sink, declared)),
            };
            sink.body(&piece)?;
            if let Some(ahead) = sink.pace() {
                tokio::time::sleep(ahead).await;
            }
            if let Err(error) = body.flow_control().release_capacity(piece.len()) {
                return Err(Self::lost(&error, sink, declared));
            }
        }
        // Behind the data trailers may stand, and only then the end; a reset with NO_ERROR is none.
        if !body.is_end_stream() {
            match body.trailers().await {
                Ok(_) if body.is_end_stream() => {}
                Ok(_) => return Err(Failure::Reset(0)),
                Err(error) => return Err(Self::lost(&error, sink, declared)),
            }
        }
        sink.end()
    }
}

fn uri(common: &Common, ask: &Ask) -> Result<Uri, Failure> {
    let bad = |error: &dyn std::error::Error| Failure::Protocol(error.to_string());
    let path = request::path(ask)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(common.scheme.clone());
    parts.authority =
        Some(Authority::try_from(common.authority(ask)).map_err(|error| bad(&error))?);
    parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|error| bad(&error))?);
    Uri::from_parts(parts).map_err(|error| bad(&error))
}
